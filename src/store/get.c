/* SPDX-License-Identifier: MIT */
/* Reading: by key and by id, whole, in part and in place. What is in dram is read without lock or system
 * call. */
#include "base/clock.h"
#include "base/fail.h"
#include "store/client.h"

#include <stdlib.h>
#include <string.h>

#define ATTEMPTS 64 /* lookups that meet a change before a reader gives up */

int csc_pieces_sum(const cascade_piece *pieces, size_t count, uint64_t *bytes)
{
    uint64_t total = 0;

    if (count && !pieces)
        return csc_fail(CASCADE_EINVAL, "%zu pieces, but no array of them", count);
    for (size_t i = 0; i < count; i++) {
        if (pieces[i].bytes && !pieces[i].data)
            return csc_fail(CASCADE_EINVAL, "piece %zu has %zu bytes but no data", i, pieces[i].bytes);
        if (pieces[i].bytes > CASCADE_BLOCK_BYTES_MAX - total)
            return csc_fail(CASCADE_EINVAL, "the block is larger than %llu bytes",
                            (unsigned long long)CASCADE_BLOCK_BYTES_MAX);
        total += pieces[i].bytes;
    }
    *bytes = total;
    return 0;
}

uint32_t csc_look_up(cascade_store *store, const csc_name *name, uint64_t *state, bool *lost)
{
    uint32_t key;

    if (!name->key)
        return csc_index_find_id(&store->index, name->tenant, name->id->bytes, state, lost);
    key = csc_index_find(&store->index, name->key, csc_index_key_hash(&store->index, name->key), lost);
    return key == CSC_NUMBER_NONE ? CSC_NUMBER_NONE : csc_index_content_of(&store->index, key, state);
}

int csc_hold(cascade_store *store, const csc_name *name, csc_held *held)
{
    bool lost = false;

    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        csc_slot *slot = csc_slot_guard(&store->slots);

        if (!slot)
            return csc_fail(CASCADE_ENOSLOT, "all %u pin slots are taken: release views",
                            CSC_AREA_SLOTS);
        held->content = csc_look_up(store, name, &held->state, &lost);
        if (held->content == CSC_NUMBER_NONE) {
            csc_slot_release(slot);
            return lost ? csc_fail(CASCADE_EAGAIN, "the index kept changing") : CASCADE_MISS;
        }
        if (!(held->state & CSC_CONTENT_RESIDENT)) {
            csc_slot_release(slot);
            held->slot = NULL;
            return 0;
        }
        csc_slot_pin(slot, held->content);
        if (csc_content_still(held->state, atomic_load(&csc_content_at(store, held->content)->state))) {
            held->slot = slot;
            return 0;
        }
        csc_slot_release(slot);
    }
    return csc_fail(CASCADE_EAGAIN, "the block kept moving");
}

/* Finds a block; what others wrote is looked for. A client has its daemon do that, and bring what is not
 * in dram. */
static int find_block(cascade_store *store, const csc_name *name, csc_held *held)
{
    int code = csc_hold(store, name, held);

    if (store->daemon)
        return code == CASCADE_MISS || (code == 0 && !held->slot)
                   ? store->daemon->ops->bring(store, name, held)
                   : code;
    if (code == CASCADE_MISS && csc_discover(store))
        code = csc_hold(store, name, held);
    return code;
}

void csc_lease_give_up(cascade_store *store, uint32_t content)
{
    if (store->daemon)
        csc_touch_note(&store->touch, csc_touch_reserve(&store->touch, 1),
                       CSC_TOUCH_LEASE_END | content);
    else
        csc_lease_end(csc_content_at(store, content));
}

static void touch(cascade_store *store, uint32_t content)
{
    csc_touch_note(&store->touch, csc_touch_reserve(&store->touch, 1), CSC_TOUCH_ITEM | content);
}

/* A read of a block that a match holds belongs to that request; any other is a request of its own. */
static void begin_request(cascade_store *store, uint32_t content, uint64_t now_ns)
{
    /* The lease of a client's match may not be written yet. */
    if (store->daemon && now_ns < atomic_load_explicit(&store->matched_until_ns, memory_order_relaxed))
        return;
    if (!csc_lease_holds(csc_content_at(store, content), now_ns / 1000000))
        csc_touch_note(&store->touch, csc_touch_reserve(&store->touch, 1), CSC_TOUCH_TICK);
}

/* One read of a range (whole: all of K and V, given as one list of pieces). */
typedef struct reading {
    csc_name name;
    bool whole;
    uint64_t offset;
    const cascade_piece *pieces;
    size_t count;
    uint64_t k_bytes, bytes;
    uint64_t begin_ns;
    bool begun;
} reading;

/* Reads the block if it is in dram. Else `*load` is what brings it, with its content set, and 0 is
 * returned as well. */
static int try_dram(cascade_store *store, reading *r, csc_load *load, bool *done)
{
    csc_content_entry *entry;
    csc_held held;
    int code = find_block(store, &r->name, &held);

    *done = false;
    if (code == CASCADE_MISS) {
        csc_count(&store->counters.misses[CASCADE_TIER_DRAM], 1);
        csc_count(&store->counters.misses[CASCADE_TIER_FILE], 1);
    }
    if (code)
        return code;
    entry = csc_content_at(store, held.content);
    if (!r->begun)
        begin_request(store, held.content, r->begin_ns);
    r->begun = true;
    /* Of a content that is not pinned these may change under our eyes; csc_load_many looks again. */
    if (held.slot &&
        (r->whole ? entry->content.k_bytes != r->k_bytes || csc_content_bytes(entry) != r->bytes
                  : r->offset > csc_content_bytes(entry) ||
                        r->bytes > csc_content_bytes(entry) - r->offset)) {
        code = csc_fail(CASCADE_ESIZE, "the block has %llu + %llu bytes",
                        (unsigned long long)entry->content.k_bytes,
                        (unsigned long long)entry->content.v_bytes);
        csc_slot_release(held.slot);
        return code;
    }
    if (!held.slot) {
        *load = (csc_load){.content = held.content,
                           .state = held.state,
                           .whole = r->whole,
                           .offset = r->offset,
                           .k_bytes = r->k_bytes,
                           .pieces = r->pieces,
                           .piece_count = r->count};
        return 0;
    }
    csc_arena_copy_out(store->arena, &entry->dram, r->offset, r->pieces, r->count);
    if (r->whole)
        csc_lease_give_up(store, held.content);
    csc_slot_release(held.slot);
    touch(store, held.content);
    csc_count(&store->counters.hits[CASCADE_TIER_DRAM], 1);
    csc_latency(store, CASCADE_OP_GET_DRAM, r->begin_ns);
    *done = true;
    return 0;
}

/* Counts a read that a load ended. */
static int end_load(cascade_store *store, const reading *r, int code)
{
    csc_count(&store->counters.misses[CASCADE_TIER_DRAM], 1);
    if (code == 0) {
        csc_count(&store->counters.hits[CASCADE_TIER_FILE], 1);
        csc_latency(store, CASCADE_OP_GET_FILE, r->begin_ns);
    } else if (code == CASCADE_MISS) {
        csc_count(&store->counters.misses[CASCADE_TIER_FILE], 1);
    }
    return code;
}

static int read_pieces(cascade_store *store, reading *r)
{
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        csc_load load;
        bool done;
        int code = try_dram(store, r, &load, &done);

        if (code || done)
            return code;
        code = csc_load_from_file(store, &load);
        if (code != CASCADE_EAGAIN)
            return end_load(store, r, code);
    }
    return csc_fail(CASCADE_EAGAIN, "the block kept moving between tiers");
}

#define FEW_PIECES 64u

/* A read of a whole block: its pieces as one list, in `few` if they fit. */
static int whole_of(const csc_name *name, const cascade_block *into, cascade_piece *few, reading *r)
{
    cascade_piece *all = few;
    uint64_t v_bytes;
    int code;

    *r = (reading){.name = *name, .whole = true, .begin_ns = csc_clock_ns()};
    if (!into)
        return csc_fail(CASCADE_EINVAL, "no pieces to copy into");
    code = csc_pieces_sum(into->k, into->k_count, &r->k_bytes);
    if (code == 0)
        code = csc_pieces_sum(into->v, into->v_count, &v_bytes);
    if (code)
        return code;
    r->bytes = r->k_bytes + v_bytes;
    r->count = into->k_count + into->v_count;
    if (r->count > FEW_PIECES) {
        all = malloc(r->count * sizeof *all);
        if (!all)
            return csc_fail(CASCADE_ENOMEM, "no memory for a list of %zu pieces", r->count);
    }
    if (into->k_count)
        memcpy(all, into->k, into->k_count * sizeof *all);
    if (into->v_count)
        memcpy(all + into->k_count, into->v, into->v_count * sizeof *all);
    r->pieces = all;
    return 0;
}

static void whole_free(const reading *r, const cascade_piece *few)
{
    if (r->pieces != few)
        free((void *)(uintptr_t)r->pieces);
}

int csc_get(cascade_store *store, const csc_name *name, const cascade_block *into)
{
    cascade_piece few[FEW_PIECES];
    reading r;
    int code = whole_of(name, into, few, &r);

    if (code)
        return code;
    code = read_pieces(store, &r);
    whole_free(&r, few);
    return code;
}

int cascade_block_get(cascade_store *store, const cascade_key *key, const cascade_block *into)
{
    CSC_ENTER(store);
    if (!key)
        return csc_fail(CASCADE_EINVAL, "no key");
    return csc_get(store, &(csc_name){.key = key}, into);
}

int cascade_block_get_range(cascade_store *store, const cascade_key *key, uint64_t offset, size_t bytes,
                            void *into)
{
    cascade_piece piece = {into, bytes};

    CSC_ENTER(store);
    if (!key || (bytes && !into))
        return csc_fail(CASCADE_EINVAL, "no key or no memory to copy into");
    return read_pieces(store, &(reading){.name.key = key,
                                         .offset = offset,
                                         .pieces = &piece,
                                         .count = 1,
                                         .bytes = bytes,
                                         .begin_ns = csc_clock_ns()});
}

int cascade_content_get(cascade_store *store, uint64_t tenant, const cascade_id *id,
                        const cascade_block *into)
{
    CSC_ENTER(store);
    if (!id)
        return csc_fail(CASCADE_EINVAL, "no id");
    return csc_get(store, &(csc_name){.tenant = tenant, .id = id}, into);
}

/* ---- many at once ------------------------------------------------------------------------------- */

/* So much of the file tier at a time that a slow disk has it done before the deadline. */
#define MANY_BYTES (UINT64_C(256) << 20)

typedef struct one_of_many {
    cascade_get *get;
    reading reading;
    cascade_piece few[FEW_PIECES];
} one_of_many;

/* What was collected goes out together. */
static void load_them(cascade_store *store, one_of_many *many, csc_load *loads, size_t count)
{
    csc_load_many(store, loads, count);
    for (size_t i = 0; i < count; i++) {
        int code = loads[i].status;

        many[i].get->status = code == CASCADE_EAGAIN ? read_pieces(store, &many[i].reading)
                                                     : end_load(store, &many[i].reading, code);
        whole_free(&many[i].reading, many[i].few);
    }
}

static void get_all(cascade_store *store, one_of_many *many, cascade_get *gets, size_t count)
{
    csc_load loads[CSC_LOAD_BATCH];
    uint64_t bytes = 0;
    size_t waiting = 0;

    for (size_t i = 0; i < count; i++) {
        one_of_many *one = &many[waiting];
        bool done = false;

        one->get = &gets[i];
        gets[i].status =
            whole_of(&(csc_name){.key = &gets[i].key}, &gets[i].into, one->few, &one->reading);
        if (gets[i].status)
            continue;
        gets[i].status = try_dram(store, &one->reading, &loads[waiting], &done);
        if (gets[i].status || done) {
            whole_free(&one->reading, one->few);
            continue;
        }
        loads[waiting++].in_batch = true;
        bytes += one->reading.bytes;
        if (waiting == CSC_LOAD_BATCH || bytes >= MANY_BYTES) {
            load_them(store, many, loads, waiting);
            bytes = waiting = 0;
        }
    }
    if (waiting)
        load_them(store, many, loads, waiting);
}

int cascade_block_get_many(cascade_store *store, cascade_get *gets, size_t count)
{
    size_t batch = count < CSC_LOAD_BATCH ? count : CSC_LOAD_BATCH;
    one_of_many *many;

    CSC_ENTER(store);
    if (count && !gets)
        return csc_fail(CASCADE_EINVAL, "%zu gets, but no array of them", count);
    if (count == 0)
        return 0;
    many = malloc(batch * sizeof *many);
    if (!many)
        return csc_fail(CASCADE_ENOMEM, "no memory for %zu gets", batch);
    if (store->daemon) { /* what is not in dram comes at the same time, and is then waited for in turn */
        for (size_t i = 0; i < count; i++)
            (void)cascade_prefetch(store, &gets[i].key, 1);
    }
    get_all(store, many, gets, count);
    free(many);
    for (size_t i = 0; i < count; i++)
        if (gets[i].status)
            return gets[i].status;
    return 0;
}

/* ---- in place ---------------------------------------------------------------------------------- */

typedef struct held_view {
    cascade_view public;
    csc_slot *slot;
    cascade_piece pieces[];
} held_view;

static int make_view(cascade_store *store, const csc_held *held, cascade_view **result)
{
    const csc_content_entry *entry = csc_content_at(store, held->content);
    size_t room =
        entry->dram.count + 1; /* the run that holds the end of K and the start of V counts twice */
    held_view *made = malloc(sizeof *made + room * sizeof made->pieces[0]);
    size_t k_count, v_count;

    if (!made)
        return csc_fail(CASCADE_ENOMEM, "no memory for a view");
    k_count =
        csc_arena_pieces(store->arena, &entry->dram, 0, entry->content.k_bytes, made->pieces, room);
    v_count = csc_arena_pieces(store->arena, &entry->dram, entry->content.k_bytes,
                               entry->content.v_bytes, made->pieces + k_count, room - k_count);
    made->public = (cascade_view){.k = made->pieces,
                                  .k_count = k_count,
                                  .v = made->pieces + k_count,
                                  .v_count = v_count,
                                  .k_bytes = entry->content.k_bytes,
                                  .v_bytes = entry->content.v_bytes};
    made->slot = held->slot;
    *result = &made->public;
    return 0;
}

int csc_view(cascade_store *store, const cascade_key *key, cascade_view **result, bool *timed_out)
{
    uint64_t begin_ns = csc_clock_ns();
    bool loaded = false;

    *timed_out = false;
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        csc_held held;
        int code = find_block(store, &(csc_name){.key = key}, &held);

        if (code == CASCADE_MISS)
            csc_count(&store->counters.misses[CASCADE_TIER_DRAM], 1);
        if (code)
            return code;
        if (attempt == 0)
            begin_request(store, held.content, begin_ns);
        if (!held.slot) {
            csc_load load = {.content = held.content,
                             .state = held.state,
                             .forced = true,
                             .whole = true,
                             .pin = &held.slot};

            code = csc_load_from_file(store, &load);
            *timed_out = load.timed_out;
            if (code && code != CASCADE_EAGAIN)
                return code;
            loaded = loaded || code == 0;
            if (!held.slot)
                continue;
        }
        code = make_view(store, &held, result);
        if (code) {
            csc_slot_release(held.slot);
            return code;
        }
        csc_lease_give_up(store, held.content);
        touch(store, held.content);
        csc_count(&store->counters.hits[loaded ? CASCADE_TIER_FILE : CASCADE_TIER_DRAM], 1);
        csc_latency(store, CASCADE_OP_VIEW, begin_ns);
        return 0;
    }
    return csc_fail(CASCADE_EAGAIN, "the block kept leaving dram before it could be pinned");
}

int cascade_block_view(cascade_store *store, const cascade_key *key, cascade_view **result)
{
    bool timed_out;

    CSC_ENTER(store);
    if (!key || !result)
        return csc_fail(CASCADE_EINVAL, "no key or no place for the view");
    return csc_view(store, key, result, &timed_out);
}

void cascade_view_release(cascade_store *store, cascade_view **slot)
{
    held_view *made;
    int code;

    if (!slot || !*slot)
        return;
    code = csc_store_enter(store);
    if (code == CASCADE_EINVAL)
        return;
    made = (held_view *)*slot;
    *slot = NULL;
    if (code != CASCADE_EFORKED) /* the slot lies in shared memory and is the parent's */
        csc_slot_release(made->slot);
    free(made);
}
