/* SPDX-License-Identifier: MIT */
/* Putting by key. */
#include "store/put.h"
#include "base/clock.h"
#include "base/fail.h"
#include "base/mark.h"
#include "store/client.h"

#include <stdlib.h>
#include <string.h>

#define PUT_ATTEMPTS 16

/* ---- a key that is bound --------------------------------------------------------------------- */

/* Compares with what is stored. Returns 0, CASCADE_ECONFLICT or what reading it says. */
static int compare(cascade_store *store, const cascade_put *put, uint64_t k_bytes, uint64_t v_bytes)
{
    cascade_view *view = NULL;
    size_t piece = 0, used = 0;
    bool timed_out;
    int code = csc_view(store, &put->key, &view, &timed_out);

    if (timed_out)
        return csc_fail(CASCADE_ETIMEDOUT, "what the key is bound to could not be read in time");
    if (code)
        return code;
    /* The key may have been deleted and put again since its lengths were looked at. */
    if (view->k_bytes != k_bytes || view->v_bytes != v_bytes)
        code = CASCADE_ECONFLICT;
    for (int half = 0; code == 0 && half < 2; half++) {
        const cascade_piece *mine = half ? put->block.v : put->block.k,
                            *theirs = half ? view->v : view->k;
        size_t mine_count = half ? put->block.v_count : put->block.k_count;

        piece = used = 0;
        for (size_t i = 0; code == 0 && i < mine_count; i++)
            for (size_t at = 0; at < mine[i].bytes;) {
                size_t part = mine[i].bytes - at;

                if (part > theirs[piece].bytes - used)
                    part = theirs[piece].bytes - used;
                if (memcmp((const char *)mine[i].data + at, (const char *)theirs[piece].data + used,
                           part) != 0) {
                    code = CASCADE_ECONFLICT;
                    break;
                }
                at += part;
                used += part;
                if (used == theirs[piece].bytes) {
                    piece++;
                    used = 0;
                }
            }
    }
    cascade_view_release(store, &view);
    return code;
}

static int note_conflict(cascade_store *store, bool verify)
{
    csc_count(&store->counters.conflicts, 1);
    return verify ? csc_fail(CASCADE_ECONFLICT, "the key is bound to other bytes; they stay") : 0;
}

/* The content of those lengths that a key is bound to; NULL: there is none. Lock held. */
static const csc_content_entry *like(cascade_store *store, uint32_t number, uint64_t k_bytes,
                                     uint64_t v_bytes)
{
    const csc_content_entry *entry;

    if (number == CSC_NUMBER_NONE)
        return NULL;
    entry = csc_content_at(store, atomic_load(&csc_key_at(store, number)->content));
    return entry->content.k_bytes == k_bytes && entry->content.v_bytes == v_bytes ? entry : NULL;
}

/* Whether what a key is bound to is only what another handle is writing, or what a dead owner wrote and
 * nobody has read since. Lock held. */
static bool is_unsure(const cascade_store *store, const csc_content_entry *entry)
{
    return csc_place_is_set(&entry->file) &&
           (csc_place_is_weak(store, &entry->file) ||
            (csc_place_is_unsure(store, &entry->file) && !csc_content_has(entry, CSC_CONTENT_RESIDENT)));
}

/* A dead owner's record is read before a put relies on it: whole, it stays, as the first; damaged, it is
 * a miss from here on. `*held` until the put is done; NULL: there is none. An error: nobody knows which.
 */
static int read_unsure(cascade_store *store, const cascade_put *put, cascade_view **held)
{
    const csc_content_entry *entry;
    bool wanted = false, timed_out = false;
    uint32_t number;
    int code = 0;

    pthread_mutex_lock(&store->lock);
    number = csc_key_find(store, &put->key);
    if (number != CSC_NUMBER_NONE) {
        entry = csc_content_at(store, atomic_load(&csc_key_at(store, number)->content));
        wanted = is_unsure(store, entry) && !csc_place_is_weak(store, &entry->file);
    }
    pthread_mutex_unlock(&store->lock);
    if (wanted)
        code = csc_view(store, &put->key, held, &timed_out);
    if (timed_out)
        return csc_fail(CASCADE_ETIMEDOUT, "what the key is bound to could not be read in time");
    if (code == CASCADE_EIO)
        return csc_fail(CASCADE_EAGAIN, "what the key is bound to cannot be read now");
    return code == CASCADE_MISS ? 0 : code;
}

/* That does not make this put a stored one: then the put is a new one, and its commit lets the key go:
 * true. A bind of another's is logged here too, for he may drop it, and what the budget took is written
 * again: a flush is a promise of this put as well. Different lengths are a conflict, as ever. */
static bool yields(cascade_store *store, const cascade_key *key, uint64_t k_bytes, uint64_t v_bytes)
{
    const csc_content_entry *entry;
    uint32_t number;
    bool unsure;

    pthread_mutex_lock(&store->lock);
    number = csc_key_find(store, key);
    entry = like(store, number, k_bytes, v_bytes);
    unsure = entry && is_unsure(store, entry);
    if (entry && !unsure && csc_key_is_foreign(store, number)) {
        csc_key_at(store, number)->segment = 0; /* goes with its content, or by itself */
        store->key_states[number].flags |= CSC_KS_RECORDED;
        csc_log_push(store, number);
    }
    if (entry && csc_content_is_shed(store, (uint32_t)(entry - store->index.contents)))
        csc_content_send_down(store, (uint32_t)(entry - store->index.contents));
    pthread_mutex_unlock(&store->lock);
    return unsure;
}

/* The key is bound to `info`: conflicts that show are counted, the first content stays. `raced`: two
 * puts met, the bytes are at hand and are compared. CASCADE_MISS: it is bound no more, or `*yielded`. */
static int put_existing(cascade_store *store, cascade_put *put, const cascade_info *info,
                        uint64_t k_bytes, uint64_t v_bytes, uint32_t flags, bool raced, bool *yielded)
{
    bool verify = flags & CASCADE_PUT_VERIFY;
    int code = 0;

    if (info->k_bytes != k_bytes || info->v_bytes != v_bytes)
        code = CASCADE_ECONFLICT;
    else if (verify || raced)
        code = compare(store, put, k_bytes, v_bytes);
    /* Not before they are known to be the same. */
    *yielded = code == 0 && verify && yields(store, &put->key, k_bytes, v_bytes);
    if (code == CASCADE_MISS || *yielded)
        return CASCADE_MISS;
    csc_count(&store->counters.puts_existed, 1);
    put->existed = true;
    put->has_id = info->has_id;
    put->id = info->id;
    if (code == CASCADE_ECONFLICT)
        return note_conflict(store, verify);
    return verify ? code : 0;
}

/* ---- a key that is not ------------------------------------------------------------------------ */

int csc_put_copy_in(cascade_store *store, const csc_extents *extents, const cascade_block *block)
{
    cascade_piece few[256];
    size_t count = block->k_count + block->v_count;
    cascade_piece *all = count <= 256 ? few : malloc(count * sizeof *all);

    if (!all)
        return csc_fail(CASCADE_ENOMEM, "no memory for a list of %zu pieces", count);
    memcpy(all, block->k, block->k_count * sizeof *all);
    if (block->v_count)
        memcpy(all + block->k_count, block->v, block->v_count * sizeof *all);
    csc_arena_copy_in(store->arena, extents, all, count);
    if (all != few)
        free(all);
    return 0;
}

/* The bytes are in the pages: binds the key. Lock held. 0, or CASCADE_EEXIST when another put came
 * first. */
static int commit(cascade_store *store, cascade_put *put, uint32_t content, const csc_room_request *room)
{
    csc_content_entry *entry = csc_content_at(store, content);
    csc_binding binding = {.key = put->key, .has_parent = put->has_parent};
    uint32_t key, then = csc_key_find(store, &put->key);
    const csc_content_entry *old = like(store, then, entry->content.k_bytes, entry->content.v_bytes);
    int code;

    if (then != CSC_NUMBER_NONE && !(old && is_unsure(store, old)))
        return CASCADE_EEXIST;
    if (then != CSC_NUMBER_NONE)
        csc_want_parent(store, &put->key); /* its children are there */
    code = csc_circle_check(store, put);
    if (code)
        return code;
    csc_touches_pass_on(store);
    if (put->has_parent)
        binding.parent = put->parent;
    binding.sequence = csc_next_sequence(store);
    csc_mark("put: bytes in pages");
    entry->file = (csc_place){0}; /* where a client's area stood */
    /* Whole from here on; without a key it is nobody's yet. */
    atomic_store(&entry->state, (atomic_load(&entry->state) & ~(uint64_t)CSC_CONTENT_FILLING) |
                                    CSC_CONTENT_LIVE | CSC_CONTENT_RESIDENT);
    csc_mark("put: content live");
    if (then != CSC_NUMBER_NONE) {
        csc_key_rebind(store, then, &binding, content);
        /* A delete has to hide the other's record too, a loss does not. */
        store->key_states[then].flags |= CSC_KS_RECORDED | CSC_KS_ELSEWHERE;
    } else {
        code = csc_key_bind(store, &binding, content, 0, &key);
        if (code) {
            atomic_fetch_and(&entry->state, ~(uint64_t)(CSC_CONTENT_LIVE | CSC_CONTENT_RESIDENT));
            return code;
        }
    }
    store->content_count++;
    store->content_bytes += csc_content_bytes(entry);
    csc_content_now_resident(store, content, room->refused, room->tail);
    csc_content_send_down(store, content);
    csc_mark("put: queued");
    return 0;
}

static csc_reservation reservation_of(const cascade_put *put, uint64_t k_bytes, uint64_t v_bytes,
                                      bool tail)
{
    return (csc_reservation){
        .put = *put,
        .k_bytes = k_bytes,
        .v_bytes = v_bytes,
        .room = {.bytes = k_bytes + v_bytes, .item = CSC_NUMBER_NONE, .tail = tail, .may_wait = true}};
}

/* Takes pages for a put, in a content that is nobody's yet. `room`: its bytes, and how it may be had. */
static int take_pages(cascade_store *store, csc_reservation *made)
{
    csc_content content = {
        .tenant = made->put.tenant, .k_bytes = made->k_bytes, .v_bytes = made->v_bytes};
    csc_extents extents;
    int code = csc_room_take(store, &made->room, &extents);

    if (code)
        return code;
    pthread_mutex_lock(&store->lock);
    code = csc_content_make(store, &content, &made->content);
    if (code == 0) {
        csc_content_at(store, made->content)->dram = extents;
        csc_content_at(store, made->content)->file.words[0] = made->area;
    }
    pthread_mutex_unlock(&store->lock);
    if (code)
        csc_arena_free(store->arena, &extents);
    else
        csc_mark("put: pages taken");
    return code;
}

/* The pages are filled: `code` 0, else they are given back. */
static int end_put(cascade_store *store, csc_reservation *made, cascade_put *put, int code)
{
    pthread_mutex_lock(&store->lock);
    if (code == 0)
        code = commit(store, put, made->content, &made->room);
    if (code && code != CASCADE_EEXIST)
        csc_content_abandon(store, made->content);
    pthread_mutex_unlock(&store->lock);
    if (code == 0)
        csc_count(&store->counters.puts, 1);
    return code;
}

void csc_put_abandon(cascade_store *store, csc_reservation *made)
{
    pthread_mutex_lock(&store->lock);
    csc_content_abandon(store, made->content);
    pthread_mutex_unlock(&store->lock);
}

/* Once one block of a request is refused, those after it are useless in dram. */
static void pass_refusal_on(csc_reservation *made, bool *request_refused)
{
    made->room.refused = *request_refused = made->room.refused || *request_refused;
}

static int put_new(cascade_store *store, cascade_put *put, uint64_t k_bytes, uint64_t v_bytes, bool tail,
                   bool *request_refused)
{
    csc_reservation made = reservation_of(put, k_bytes, v_bytes, tail);
    int code = take_pages(store, &made);

    if (code)
        return code;
    pass_refusal_on(&made, request_refused);
    code = end_put(store, &made, put,
                   csc_put_copy_in(store, &csc_content_at(store, made.content)->dram, &put->block));
    if (code == CASCADE_EEXIST)
        csc_put_abandon(store, &made);
    return code;
}

/* ---- waiting ----------------------------------------------------------------------------------- */

int csc_put_wait(cascade_store *store, cascade_put *put, uint32_t flags)
{
    int code = 0;
    uint64_t attempt;

    pthread_mutex_lock(&store->lock);
    attempt = store->attempts;
    if (flags & CASCADE_PUT_DURABLE)
        store->waiting_flushes++;
    for (;;) {
        uint32_t key = csc_key_find(store, &put->key), content;
        const csc_place *place;

        if (key == CSC_NUMBER_NONE) {
            /* Deleted while we waited: acknowledged, then gone. */
            code = csc_fail(CASCADE_MISS, "the key was deleted while its put waited");
            break;
        }
        content = atomic_load(&csc_key_at(store, key)->content);
        if (csc_content_has(csc_content_at(store, content), CSC_CONTENT_DIGEST)) {
            memcpy(put->id.bytes, csc_content_at(store, content)->content.digest, sizeof put->id.bytes);
            put->has_id = true;
            if (!(flags & CASCADE_PUT_DURABLE))
                break;
            place = &csc_content_at(store, content)->file;
            if (csc_key_at(store, key)->segment && csc_place_is_set(place)) {
                if (csc_place_is_weak(store, place)) /* a conflict: only then was it left so */
                    code = csc_fail(CASCADE_EAGAIN, "the key is bound to what another node is writing");
                break;
            }
            if (csc_content_is_shed(store, content))
                csc_content_send_down(store, content);
        }
        if ((flags & CASCADE_PUT_DURABLE) && store->file_error && store->attempts_failed > attempt) {
            code = csc_fail(store->file_error, "the block is in memory, but not on disk: %s",
                            store->file_error_text);
            break;
        }
        pthread_cond_signal(&store->write_work);
        csc_store_wait(store, csc_clock_ns() + UINT64_C(1000000000));
    }
    if (flags & CASCADE_PUT_DURABLE)
        store->waiting_flushes--;
    pthread_mutex_unlock(&store->lock);
    return code;
}

/* ---- one put ----------------------------------------------------------------------------------- */

static int check_fits(cascade_store *store, uint64_t bytes)
{
    uint64_t budget = store->config.settings.file_budget_bytes,
             capacity = csc_arena_capacity(store->arena);

    if (bytes <= capacity && (!budget || bytes + CSC_RECORD_EXTRA_BYTES <= budget))
        return 0;
    if (bytes > capacity)
        return csc_fail(CASCADE_ETOOBIG, "the block has %llu bytes, all of dram %llu",
                        (unsigned long long)bytes, (unsigned long long)capacity);
    return csc_fail(CASCADE_ETOOBIG, "the block has %llu bytes, the whole file budget %llu",
                    (unsigned long long)bytes, (unsigned long long)budget);
}

static int check_put(const cascade_put *put, uint64_t k_bytes, uint64_t v_bytes)
{
    if (k_bytes == 0 || k_bytes + v_bytes > CASCADE_BLOCK_BYTES_MAX)
        return csc_fail(CASCADE_EINVAL,
                        "K has %llu bytes and V %llu; K must not be empty, both together at most %llu",
                        (unsigned long long)k_bytes, (unsigned long long)v_bytes,
                        (unsigned long long)CASCADE_BLOCK_BYTES_MAX);
    if (put->has_parent && memcmp(put->key.bytes, put->parent.bytes, sizeof put->key.bytes) == 0)
        return csc_fail(CASCADE_EINVAL, "the key is its own parent");
    return 0;
}

/* Whether what the key is bound to settles the put: 0 or an error. CASCADE_MISS: it is a new one. */
static int settle(cascade_store *store, cascade_put *put, uint64_t k_bytes, uint64_t v_bytes,
                  uint32_t flags, bool raced)
{
    for (int attempt = 0; attempt < PUT_ATTEMPTS; attempt++) {
        cascade_view *held = NULL;
        bool exists, yielded = false;
        cascade_info info;
        int code = read_unsure(store, put, &held);

        if (code)
            return code;
        code = csc_block_facts(store, &put->key, &info);
        if (code == 0 && !(flags & CASCADE_PUT_VERIFY) && yields(store, &put->key, k_bytes, v_bytes))
            code = CASCADE_MISS;
        exists = code == 0;
        if (exists)
            code = put_existing(store, put, &info, k_bytes, v_bytes, flags, raced, &yielded);
        if (held)
            cascade_view_release(store, &held);
        /* Else it went while it was compared: deleted, or found damaged. */
        if (!exists || yielded || code != CASCADE_MISS)
            return code;
    }
    return csc_fail(CASCADE_EAGAIN, "the key kept being put and deleted");
}

static int put_one(cascade_store *store, cascade_put *put, uint32_t flags, bool tail, bool *refused)
{
    uint64_t k_bytes, v_bytes;
    bool raced = false;
    int code;

    put->existed = put->has_id = false;
    code = csc_pieces_sum(put->block.k, put->block.k_count, &k_bytes);
    if (code == 0)
        code = csc_pieces_sum(put->block.v, put->block.v_count, &v_bytes);
    if (code == 0)
        code = check_put(put, k_bytes, v_bytes);
    if (code)
        return code;
    for (int attempt = 0; attempt < PUT_ATTEMPTS; attempt++) {
        code = settle(store, put, k_bytes, v_bytes, flags, raced);
        if (code == CASCADE_MISS)
            code = check_fits(store, k_bytes + v_bytes);
        else
            return code;
        if (code == 0)
            code = put_new(store, put, k_bytes, v_bytes, tail, refused);
        if (code != CASCADE_EEXIST)
            return code;
        raced = true; /* another put of this key came first */
    }
    return csc_fail(CASCADE_EAGAIN, "the key kept being put and deleted");
}

/* ---- in steps, for a client that fills the pages itself ------------------------------------------ */

int csc_put_reserve(cascade_store *store, cascade_put *put, const csc_put_terms *terms,
                    bool *request_refused, csc_reservation *made)
{
    int code = check_put(put, terms->k_bytes, terms->v_bytes);

    put->existed = put->has_id = false;
    made->content = CSC_NUMBER_NONE;
    if (code == 0 && !terms->verify)
        code = settle(store, put, terms->k_bytes, terms->v_bytes, 0, false);
    else if (code == 0)
        code = CASCADE_MISS; /* there are no bytes yet to compare with */
    if (code == CASCADE_MISS)
        code = check_fits(store, terms->k_bytes + terms->v_bytes);
    else
        return code;
    if (code)
        return code;
    *made = reservation_of(put, terms->k_bytes, terms->v_bytes, terms->tail);
    made->content = CSC_NUMBER_NONE;
    made->area = terms->area;
    made->room.may_wait = terms->may_wait;
    code = take_pages(store, made);
    if (code == 0)
        pass_refusal_on(made, request_refused);
    return code;
}

/* The block as it lies in the pages. The caller frees `k`. */
static int block_of(cascade_store *store, const csc_reservation *made, cascade_block *block)
{
    const csc_extents *extents = &csc_content_at(store, made->content)->dram;
    size_t room = extents->count + 1; /* the run with the end of K and the start of V counts twice */
    cascade_piece *pieces = malloc(room * sizeof *pieces);

    if (!pieces)
        return csc_fail(CASCADE_ENOMEM, "no memory for a list of %zu pieces", room);
    block->k = pieces;
    block->k_count = csc_arena_pieces(store->arena, extents, 0, made->k_bytes, pieces, room);
    block->v = pieces + block->k_count;
    block->v_count = csc_arena_pieces(store->arena, extents, made->k_bytes, made->v_bytes,
                                      pieces + block->k_count, room - block->k_count);
    return 0;
}

int csc_put_commit(cascade_store *store, csc_reservation *made, uint32_t flags)
{
    cascade_put *put = &made->put;
    bool must_compare = flags & CASCADE_PUT_VERIFY, raced = false;
    uint64_t begin_ns = csc_clock_ns();
    int code = block_of(store, made, &put->block);

    if (code) {
        csc_put_abandon(store, made);
        return code;
    }
    code = CASCADE_EEXIST;
    for (int attempt = 0; code == CASCADE_EEXIST && attempt < PUT_ATTEMPTS; attempt++) {
        code = must_compare || raced ? settle(store, put, made->k_bytes, made->v_bytes, flags, raced)
                                     : CASCADE_MISS;
        if (code != CASCADE_MISS) {
            csc_put_abandon(store, made);
            break;
        }
        code = end_put(store, made, put, 0);
        raced = true;
    }
    if (code == CASCADE_EEXIST) {
        csc_put_abandon(store, made);
        code = csc_fail(CASCADE_EAGAIN, "the key kept being put and deleted");
    }
    free((void *)(uintptr_t)put->block.k);
    if (code == 0)
        csc_latency(store, CASCADE_OP_PUT, begin_ns);
    return code;
}

/* ---- the calls ------------------------------------------------------------------------------------ */

/* A request is a match and the puts that follow it; puts on their own are a request themselves. */
void csc_put_begin_request(cascade_store *store)
{
    if (!atomic_exchange_explicit(&store->touch.matched, false, memory_order_relaxed))
        csc_touch_note(&store->touch, csc_touch_reserve(&store->touch, 1), CSC_TOUCH_TICK);
}

int cascade_block_put_many(cascade_store *store, cascade_put *puts, size_t count, uint32_t flags)
{
    bool refused = false;
    int first = 0;

    CSC_ENTER(store);
    if (count && !puts)
        return csc_fail(CASCADE_EINVAL, "%zu puts, but no array of them", count);
    if (flags & ~(uint32_t)(CASCADE_PUT_SYNC | CASCADE_PUT_DURABLE | CASCADE_PUT_VERIFY))
        return csc_fail(CASCADE_EINVAL, "unknown put flags 0x%x", flags);
    if (store->daemon)
        return store->daemon->ops->put_many(store, puts, count, flags);
    csc_put_begin_request(store);
    for (size_t i = 0; i < count; i++) {
        uint64_t begin_ns = csc_clock_ns();

        puts[i].status = put_one(store, &puts[i], flags, i + 1 == count, &refused);
        if (puts[i].status == 0)
            csc_latency(store, CASCADE_OP_PUT, begin_ns);
        else if (first == 0)
            first = puts[i].status;
    }
    for (size_t i = 0; (flags & (CASCADE_PUT_SYNC | CASCADE_PUT_DURABLE)) && i < count; i++) {
        if (puts[i].status == 0)
            puts[i].status = csc_put_wait(store, &puts[i], flags);
        if (puts[i].status && first == 0)
            first = puts[i].status;
    }
    return first;
}

int cascade_block_put(cascade_store *store, cascade_put *put, uint32_t flags)
{
    CSC_ENTER(store);
    if (!put)
        return csc_fail(CASCADE_EINVAL, "no put");
    return cascade_block_put_many(store, put, 1, flags);
}
