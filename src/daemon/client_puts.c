/* SPDX-License-Identifier: MIT */
#include "daemon/client_puts.h"
#include "base/clock.h"
#include "base/fail.h"
#include "daemon/client_calls.h"
#include "store/put.h"

#include <string.h>
#include <unistd.h>

#define TRIES    3
#define STEP_US  1000u
#define WAITING  1000 /* a put's status until it is known; no code of ours */
#define PUTS_MAX 64u  /* of a batch */

/* One batch under way. */
typedef struct batch {
    cascade_store *store;
    csc_link *link;
    uint32_t flags;
    uint64_t daemon;     /* that reserved the pages */
    uint64_t give_up_ns; /* when the first is not waited for any more */
    cascade_put *puts[PUTS_MAX];
    csc_wire_content reserved[PUTS_MAX];
    size_t count;
    bool stalled; /* the first of them waits too */
    csc_packet packet;
} batch;

static uint64_t patience_ms(const batch *b)
{
    /* What is to be durable waits for the disk as long as the daemon lives. */
    return b->flags & (CASCADE_PUT_SYNC | CASCADE_PUT_DURABLE)
               ? 0
               : (uint64_t)b->store->config.io_deadline_ms + b->store->config.put_wait_ms;
}

static void take_result(cascade_put *put, const csc_wire_put_result *result)
{
    put->status = result->status;
    put->existed = result->flags & CSC_WIRE_EXISTED;
    put->has_id = result->flags & CSC_WIRE_HAS_ID;
    put->id = result->id;
}

static csc_wire_put wire_put(const cascade_put *put, bool tail)
{
    csc_wire_put made = {.key = put->key,
                         .tenant = put->tenant,
                         .flags =
                             (put->has_parent ? CSC_WIRE_HAS_PARENT : 0u) | (tail ? CSC_WIRE_TAIL : 0u)};

    if (put->has_parent)
        made.parent = put->parent;
    /* They were added up before. */
    (void)csc_pieces_sum(put->block.k, put->block.k_count, &made.k_bytes);
    (void)csc_pieces_sum(put->block.v, put->block.v_count, &made.v_bytes);
    return made;
}

/* Asks for pages; what is settled without any is done. */
static int reserve(batch *b, const cascade_put *last)
{
    csc_wire_put *items = (csc_wire_put *)(&b->packet.header + 1);
    const csc_wire_put_result *results = csc_wire_items(&b->packet.header);
    size_t kept = 0;
    int code;

    b->stalled = false;
    csc_wire_begin(&b->packet.header, CSC_WIRE_RESERVE, 0, b->count);
    b->packet.header.value = b->flags;
    for (size_t i = 0; i < b->count; i++)
        items[i] = wire_put(b->puts[i], b->puts[i] == last);
    code = csc_link_ask(b->link, &b->packet, patience_ms(b), NULL, NULL, &b->daemon);
    if (code == 0 && b->packet.header.count == 0)
        code = csc_link_status(&b->packet);
    for (size_t i = 0; code == 0 && i < b->count; i++) {
        if (results[i].flags & CSC_WIRE_RESERVED) {
            b->puts[kept] = b->puts[i];
            b->reserved[kept++] = results[i].content;
        } else if (results[i].status != CASCADE_EAGAIN || (i == 0 && csc_clock_ns() >= b->give_up_ns)) {
            take_result(b->puts[i], &results[i]);
        } else { /* it waits for its turn */
            b->stalled |= i == 0;
        }
    }
    b->count = kept;
    return code;
}

/* Not the pages of a daemon that has a successor. */
static int fill(batch *b)
{
    int code = 0;

    pthread_rwlock_rdlock(&b->link->filling);
    if (atomic_load(&b->link->daemons) != b->daemon)
        code = CASCADE_EAGAIN;
    for (size_t i = 0; code == 0 && i < b->count; i++)
        code = csc_put_copy_in(b->store, &b->store->index.contents[b->reserved[i].number].dram,
                               &b->puts[i]->block);
    pthread_rwlock_unlock(&b->link->filling);
    return code;
}

static int commit(batch *b, unsigned type)
{
    const csc_wire_put_result *results = csc_wire_items(&b->packet.header);
    uint64_t daemon;
    int code;

    csc_wire_begin(&b->packet.header, type, 0, b->count);
    b->packet.header.value = type == CSC_WIRE_COMMIT ? b->flags : 0;
    memcpy(&b->packet.header + 1, b->reserved, b->count * sizeof b->reserved[0]);
    code = csc_link_ask(b->link, &b->packet, patience_ms(b), NULL, NULL, &daemon);
    if (code == 0 && daemon != b->daemon) /* which knows nothing of them */
        code = CASCADE_EAGAIN;
    if (code == 0 && b->packet.header.count == 0)
        code = csc_link_status(&b->packet);
    for (size_t i = 0; type == CSC_WIRE_COMMIT && code == 0 && i < b->count; i++)
        take_result(b->puts[i], &results[i]);
    return code;
}

/* The first that wait. CASCADE_EAGAIN: the daemon went under it. */
static int put_batch(batch *b, cascade_put *puts, size_t count)
{
    int code;

    b->count = 0;
    for (size_t i = 0; i < count && b->count < PUTS_MAX; i++)
        if (puts[i].status == WAITING)
            b->puts[b->count++] = &puts[i];
    code = reserve(b, &puts[count - 1]);
    if (code == 0 && b->count) {
        code = fill(b);
        if (code == CASCADE_ENOMEM)
            (void)commit(b, CSC_WIRE_ABANDON);
        else if (code == 0)
            code = commit(b, CSC_WIRE_COMMIT);
    }
    return code;
}

static int check(cascade_put *put)
{
    uint64_t bytes;
    int code = csc_pieces_sum(put->block.k, put->block.k_count, &bytes);

    put->existed = put->has_id = false;
    return code ? code : csc_pieces_sum(put->block.v, put->block.v_count, &bytes);
}

static bool is_one_waiting(const cascade_put *puts, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (puts[i].status == WAITING)
            return true;
    return false;
}

int csc_client_put_many(cascade_store *store, cascade_put *puts, size_t count, uint32_t flags)
{
    batch b = {.store = store, .link = csc_client_link(store), .flags = flags};
    int code = 0, first = 0;

    for (size_t i = 0; i < count; i++) {
        puts[i].status = check(&puts[i]);
        if (puts[i].status == 0)
            puts[i].status = WAITING;
    }
    b.give_up_ns = csc_clock_ns() + store->config.put_wait_ms * UINT64_C(1000000);
    for (int tries = 0; is_one_waiting(puts, count) && tries < TRIES;) {
        code = put_batch(&b, puts, count);
        if (code && code != CASCADE_EAGAIN)
            break;
        tries = code ? tries + 1 : 0;
        if (b.stalled) /* other threads have reserved all that this client may */
            usleep(STEP_US);
    }
    for (size_t i = 0; i < count; i++) {
        if (puts[i].status == WAITING)
            puts[i].status = code;
        first = first ? first : puts[i].status;
    }
    return first;
}
