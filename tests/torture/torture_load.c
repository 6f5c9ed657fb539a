/* SPDX-License-Identifier: MIT */
/*
 * The load: a few threads that put, read, view, delete and flush until the process is killed. Each owns
 * some keys, whose state it knows for certain and checks at every read; of the others it checks that
 * what it reads is one of theirs.
 */
#include "base/mark.h"
#include "torture_child.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_MAX 4u
#define HOT       12u

typedef struct torture_worker {
    torture_child *child;
    unsigned number;
    random_state random;
    uint8_t *room;             /* for reading */
    uint8_t *bytes[BATCH_MAX]; /* for writing */
    pthread_t thread;
} torture_worker;

/* Each written by the owner of the key alone; of a shared key it only goes from 0 to its seed. */
static _Atomic uint64_t now[KEY_COUNT];
static uint32_t versions[KEY_COUNT];

static uint64_t below(torture_worker *worker, uint64_t limit)
{
    return random_below(&worker->random, limit);
}

/* A few keys change all the time, so that their records of different age meet. */
static uint32_t own_key(torture_worker *worker)
{
    return worker->number * OWNED + (uint32_t)below(worker, below(worker, 3) ? OWNED : HOT);
}

static uint32_t shared_key(torture_worker *worker)
{
    return WORKERS * OWNED + (uint32_t)below(worker, SHARED);
}

static uint32_t own_content(torture_worker *worker)
{
    return WORKERS * OWNED + SHARED + worker->number * CONTENTS + (uint32_t)below(worker, CONTENTS);
}

static void tell(const torture_worker *worker, record_kind kind, uint32_t key, uint64_t seed)
{
    child_tell(worker->child, kind, worker->number, key, seed);
}

static const char *why(int code)
{
    static _Thread_local char text[400];

    snprintf(text, sizeof text, "%s (%.300s)", cascade_error_name(code), cascade_last_error());
    return text;
}

/* ---- putting -------------------------------------------------------------------------------------- */

/* A put of a content; `pieces` has room for three. */
static void prepare(torture_worker *worker, uint32_t key, uint64_t seed, uint8_t *bytes,
                    cascade_piece *pieces, cascade_put *put)
{
    uint64_t k_bytes, v_bytes, cut;

    content_sizes(seed, &k_bytes, &v_bytes);
    content_fill(seed, bytes);
    cut = below(worker, k_bytes + 1);
    pieces[0] = (cascade_piece){bytes, cut};
    pieces[1] = (cascade_piece){bytes + cut, k_bytes - cut};
    pieces[2] = (cascade_piece){bytes + k_bytes, v_bytes};
    *put = (cascade_put){.key = name_of_key(key),
                         .tenant = tenant_of_key(key),
                         .block = {pieces, 2, pieces + 2, v_bytes ? 1 : 0}};
    put->has_parent = parent_of_key(key, &put->parent);
}

static uint64_t new_seed(torture_worker *worker, uint32_t key)
{
    return below(worker, 4) == 0 ? seed_of_pool((uint32_t)below(worker, POOL))
                                 : seed_of_version(key, ++versions[key]);
}

static uint32_t put_flags(torture_worker *worker)
{
    uint64_t kind = below(worker, 100);

    return kind < 5 ? CASCADE_PUT_DURABLE : kind < 15 ? CASCADE_PUT_SYNC : 0;
}

static void check_id(const torture_worker *worker, uint32_t key, const cascade_put *put)
{
    cascade_id id;

    if (cascade_block_id(&put->block, &id) != 0 || !put->has_id || memcmp(&id, &put->id, sizeof id) != 0)
        child_violation(worker->child, key, "a synchronous put gave a wrong block id");
}

/* Puts keys of one's own that are absent, as one request. */
static void put_absent(torture_worker *worker, uint32_t first_key, uint32_t wanted)
{
    cascade_put puts[BATCH_MAX];
    cascade_piece pieces[BATCH_MAX][3];
    uint32_t keys[BATCH_MAX], count = 0, flags = put_flags(worker);
    uint64_t seeds[BATCH_MAX];

    for (uint32_t key = first_key; count < wanted && key < (worker->number + 1) * OWNED; key++) {
        if (atomic_load(&now[key]) || worker->child->doubtful[key])
            continue;
        keys[count] = key;
        seeds[count] = new_seed(worker, key);
        prepare(worker, key, seeds[count], worker->bytes[count], pieces[count], &puts[count]);
        tell(worker, RECORD_BEGIN, key, seeds[count++]);
    }
    (void)cascade_block_put_many(worker->child->store, puts, count, flags);
    for (uint32_t i = 0; i < count; i++) {
        if (puts[i].status)
            child_violation(worker->child, keys[i], "putting it gives %s", why(puts[i].status));
        if (puts[i].existed)
            child_violation(worker->child, keys[i], "put %llx, but it was there",
                            (unsigned long long)seeds[i]);
        tell(worker, flags & CASCADE_PUT_DURABLE ? RECORD_ACK_DURABLE : RECORD_ACK, keys[i], seeds[i]);
        csc_mark(flags & CASCADE_PUT_DURABLE ? "ack: durable put" : "ack: put");
        atomic_store(&now[keys[i]], seeds[i]);
        if (flags)
            check_id(worker, keys[i], &puts[i]);
    }
}

/* Puts other bytes to a key of one's own that is bound: nothing changes. */
static void put_bound(torture_worker *worker, uint32_t key)
{
    uint32_t flags = put_flags(worker);
    cascade_piece pieces[3];
    cascade_put put;
    int code;

    prepare(worker, key, seed_of_pool((uint32_t)below(worker, POOL)), worker->bytes[0], pieces, &put);
    code = cascade_block_put(worker->child->store, &put, flags);
    if (code || !put.existed)
        child_violation(worker->child, key, "putting a bound key gives %s, existed %d", why(code),
                        put.existed);
    tell(worker, flags & CASCADE_PUT_DURABLE ? RECORD_ACK_DURABLE : RECORD_ACK, key,
         atomic_load(&now[key]));
}

static void put_shared(torture_worker *worker, uint32_t key)
{
    uint64_t seed = seed_of_version(key, 0);
    cascade_piece pieces[3];
    cascade_put put;
    int code;

    prepare(worker, key, seed, worker->bytes[0], pieces, &put);
    tell(worker, RECORD_BEGIN, key, seed);
    do
        code = cascade_block_put(worker->child->store, &put, 0);
    while (code == CASCADE_EAGAIN);
    if (code)
        child_violation(worker->child, key, "putting it gives %s", why(code));
    tell(worker, RECORD_ACK, key, seed);
    atomic_store(&now[key], seed);
}

/* ---- deleting, contents ---------------------------------------------------------------------- */

static void delete_bound(torture_worker *worker, uint32_t key)
{
    cascade_key name = name_of_key(key);
    int code;

    tell(worker, RECORD_BEGIN, key, 0);
    code =
        kind_of_key(key) == KEY_CONTENT
            ? cascade_content_delete(worker->child->store, tenant_of_key(key), &worker->child->ids[key])
            : cascade_block_delete(worker->child->store, &name);
    if (code)
        child_violation(worker->child, key, "deleting it gives %s", why(code));
    tell(worker, RECORD_ACK, key, 0);
    csc_mark("ack: delete");
    atomic_store(&now[key], 0);
}

static void put_content(torture_worker *worker, uint32_t key)
{
    uint64_t seed = seed_of_version(key, 0);
    uint32_t flags = put_flags(worker) & CASCADE_PUT_DURABLE;
    cascade_piece pieces[3];
    cascade_put put;
    cascade_id id;
    int code;

    prepare(worker, key, seed, worker->bytes[0], pieces, &put);
    tell(worker, RECORD_BEGIN, key, seed);
    code = cascade_content_put(worker->child->store, tenant_of_key(key), &put.block, flags, &id, NULL);
    if (code)
        child_violation(worker->child, key, "putting a content gives %s", why(code));
    tell(worker, flags ? RECORD_ACK_DURABLE : RECORD_ACK, key, seed);
    atomic_store(&now[key], seed);
    if (memcmp(&id, &worker->child->ids[key], sizeof id) != 0)
        child_violation(worker->child, key, "a content put gave a wrong block id");
}

/* ---- reading -------------------------------------------------------------------------------------- */

static void read_own(torture_worker *worker, uint32_t key)
{
    uint64_t seed, wanted = atomic_load(&now[key]);
    int code = child_observe(worker->child, key, &worker->random, worker->room, &seed);

    if (code)
        child_violation(worker->child, key, "reading one's own gives %s", why(code));
    if (seed != wanted)
        child_violation(worker->child, key, "it is %llx, but %llx was acknowledged to its only writer",
                        (unsigned long long)seed, (unsigned long long)wanted);
}

static void read_any(torture_worker *worker)
{
    uint32_t key = (uint32_t)below(worker, KEY_COUNT);
    uint64_t seed, wanted = kind_of_key(key) == KEY_SHARED ? atomic_load(&now[key]) : 0;
    int code = child_observe(worker->child, key, &worker->random, worker->room, &seed);

    /* Its owner may delete it meanwhile, and put another of another size. */
    if (code && code != CASCADE_MISS && code != CASCADE_ESIZE && code != CASCADE_EAGAIN)
        child_violation(worker->child, key, "reading another's gives %s", why(code));
    if (wanted && (code == CASCADE_MISS || (code == 0 && seed != wanted)))
        child_violation(worker->child, key, "a shared key is gone");
}

static void match_chain(torture_worker *worker)
{
    uint32_t first = own_key(worker) & ~7u;
    cascade_key keys[8];
    size_t matched, wanted = 0;
    int code;

    for (uint32_t i = 0; i < 8; i++)
        keys[i] = name_of_key(first + i);
    while (wanted < 8 && atomic_load(&now[first + wanted]))
        wanted++;
    for (uint32_t i = 0; i < 8; i++)
        if (worker->child->doubtful[first + i])
            return;
    code = cascade_prefix_match(worker->child->store, keys, 8, &matched);
    if (code == 0 && matched != wanted)
        child_violation(worker->child, first, "%zu of a chain match, not %zu", matched, wanted);
    if (below(worker, 2))
        (void)cascade_prefetch(worker->child->store, keys, 8);
    if (below(worker, 2))
        (void)cascade_prefix_release(worker->child->store, keys, 8);
}

static void flush(torture_worker *worker)
{
    int code;

    /* Half of them while the digest of an equal content is on its way. */
    if (below(worker, 2)) {
        uint32_t key = own_key(worker);

        if (!atomic_load(&now[key]))
            put_absent(worker, key, 1);
    }
    tell(worker, RECORD_FLUSH_BEGIN, 0, 0);
    code = cascade_store_flush(worker->child->store);
    if (code)
        child_violation(worker->child, KEY_COUNT, "a flush gives %s", why(code));
    tell(worker, RECORD_FLUSH_ACK, 0, 0);
    csc_mark("ack: flush");
    if (below(worker, 3) == 0) {
        cascade_gc_report report;

        code = cascade_store_gc(worker->child->store, false, &report, NULL, NULL);
        if (code)
            child_violation(worker->child, KEY_COUNT, "a gc gives %s", why(code));
    }
}

/* ---- all of it ------------------------------------------------------------------------------------ */

static void work_on_own(torture_worker *worker)
{
    uint32_t key = own_key(worker);
    uint64_t what = below(worker, 100);

    if (worker->child->doubtful[key])
        return;
    if (atomic_load(&now[key]) == 0) {
        put_absent(worker, key, below(worker, 4) == 0 ? BATCH_MAX : 1);
        if (below(worker, 4) == 0)
            read_own(worker, key);
    } else if (what < 50) {
        read_own(worker, key);
    } else if (what < 90) {
        delete_bound(worker, key);
        for (int again = 0; again < 3 && below(worker, 2); again++) {
            put_absent(worker, key, 1);
            if (below(worker, 2))
                break;
            delete_bound(worker, key);
        }
    } else {
        put_bound(worker, key);
    }
}

static void *work(void *context)
{
    torture_worker *worker = context;

    /* At once, while what was taken over is not written yet. */
    for (uint32_t i = 0; i < HOT; i++) {
        uint32_t key = worker->number * OWNED + i;

        if (atomic_load(&now[key]) && !worker->child->doubtful[key] && below(worker, 2))
            delete_bound(worker, key);
    }
    for (;;) {
        uint64_t what = below(worker, 1000);

        if (what < 720) {
            work_on_own(worker);
        } else if (what < 850) {
            read_any(worker);
        } else if (what < 910) {
            put_shared(worker, shared_key(worker));
        } else if (what < 955) {
            uint32_t key = own_content(worker);

            if (worker->child->doubtful[key])
                continue;
            if (atomic_load(&now[key]))
                delete_bound(worker, key);
            else
                put_content(worker, key);
        } else if (what < 985) {
            match_chain(worker);
        } else {
            flush(worker);
        }
    }
    return NULL;
}

void child_load(torture_child *child)
{
    static torture_worker workers[WORKERS];

    for (uint32_t key = 0; key < KEY_COUNT; key++) {
        versions[key] = child->oracle->keys[key].version + 1;
        atomic_store(&now[key], child->found[key]);
    }
    for (unsigned i = 0; i < WORKERS; i++) {
        torture_worker *worker = &workers[i];

        worker->child = child;
        worker->number = i;
        worker->random.state = random_mix(child->plan->seed + i + 2);
        worker->room = malloc(TORTURE_BLOCK_MAX);
        for (unsigned b = 0; b < BATCH_MAX; b++)
            worker->bytes[b] = malloc(TORTURE_BLOCK_MAX);
        if (!worker->room || !worker->bytes[BATCH_MAX - 1] ||
            pthread_create(&worker->thread, NULL, work, worker) != 0)
            child_violation(child, KEY_COUNT, "cannot start a thread");
    }
    for (unsigned i = 0; i < WORKERS; i++)
        pthread_join(workers[i].thread, NULL);
}
