/* SPDX-License-Identifier: MIT */
/*
 * Reading from the file tier: into dram and from there to the caller where the policy wants the block in
 * dram, else straight to the caller. Every byte is checked by the tier before anyone sees it.
 */
#include "base/clock.h"
#include "base/fail.h"
#include "base/log.h"
#include "store/store_private.h"

#include <stdlib.h>

typedef struct load_job {
    csc_content content;
    csc_place place;
    csc_extents extents; /* pages, when it goes to dram */
    bool promote;
} load_job;

static bool is_same(const csc_content_entry *entry, uint64_t state)
{
    return csc_content_has(entry, CSC_CONTENT_LIVE) &&
           csc_content_generation(entry) == (uint32_t)(state >> CSC_CONTENT_GENERATION_SHIFT);
}

static int check_size(const csc_load *load, const csc_content *content)
{
    uint64_t total = content->k_bytes + content->v_bytes, wanted = 0;

    if (!load->pieces)
        return 0;
    for (size_t i = 0; i < load->piece_count; i++)
        wanted += load->pieces[i].bytes;
    if (load->whole ? load->k_bytes != content->k_bytes || wanted != total
                    : load->offset > total || wanted > total - load->offset)
        return csc_fail(CASCADE_ESIZE, "the block has %llu + %llu bytes",
                        (unsigned long long)content->k_bytes, (unsigned long long)content->v_bytes);
    return 0;
}

/* Lock held. Fills the job, or says why there is nothing to do. */
static int begin(cascade_store *store, const csc_load *load, load_job *job)
{
    csc_content_entry *entry = csc_content_at(store, load->content);
    csc_content_state *state = &store->content_states[load->content];
    int code;

    if (!is_same(entry, load->state) || csc_content_has(entry, CSC_CONTENT_RESIDENT))
        return CASCADE_EAGAIN;
    code = check_size(load, &entry->content);
    if (code)
        return code;
    if (state->flags & CSC_CS_LOADING) {
        /* Another thread is bringing it: wait for that one, then look again. */
        uint64_t deadline_ns = csc_clock_ns() + UINT64_C(1000000000);

        while (is_same(entry, load->state) &&
               (store->content_states[load->content].flags & CSC_CS_LOADING) &&
               csc_store_wait(store, deadline_ns))
            ; /* woken for something else */
        return CASCADE_EAGAIN;
    }
    job->content = entry->content;
    job->place = entry->file;
    job->promote = load->whole;
    state->busy++;
    if (job->promote)
        state->flags |= CSC_CS_LOADING;
    return 0;
}

static int read_into_pages(cascade_store *store, load_job *job)
{
    uint64_t bytes = job->content.k_bytes + job->content.v_bytes;
    size_t count = job->extents.count;
    cascade_piece few[64], *pieces = count <= 64 ? few : malloc(count * sizeof *pieces);
    int code;

    if (!pieces)
        return csc_fail(CASCADE_ENOMEM, "no memory for a list of %zu pieces", count);
    csc_arena_pieces(store->arena, &job->extents, 0, bytes, pieces, count);
    code = store->file->ops->read(store->file, &job->place, &job->content, 0, pieces, count);
    if (pieces != few)
        free(pieces);
    return code;
}

/* The bytes cannot be had from where they should be: the block is a miss from here on. Lock held. */
static int quarantine(cascade_store *store, const csc_load *load, const load_job *job, int code)
{
    static const csc_place nowhere;
    csc_content_entry *entry = csc_content_at(store, load->content);

    if (!is_same(entry, load->state) ||
        __builtin_memcmp(&entry->file, &job->place, sizeof job->place) != 0)
        return CASCADE_EAGAIN; /* it moved while it was read */
    if (csc_content_has(entry, CSC_CONTENT_RESIDENT)) {
        /* It came to dram, checked, while this read was under way: that copy is written again. */
        csc_content_set_file(store, load->content, &nowhere);
        csc_content_write_again(store, load->content);
        return CASCADE_EAGAIN;
    }
    csc_log(CSC_LOG_WARNING, "a block was lost to the file tier: %s", csc_fail_text());
    if (code == CASCADE_MISS) /* damage was counted by the tier that found it */
        csc_count(&store->counters.lost, 1);
    csc_content_set_file(store, load->content, &nowhere);
    csc_content_lose(store, load->content, true);
    return CASCADE_MISS;
}

/* Lock held. */
static int settle(cascade_store *store, const csc_load *load, load_job *job, bool refused, int code)
{
    csc_content_entry *entry = csc_content_at(store, load->content);
    csc_content_state *state = &store->content_states[load->content];
    bool same = is_same(entry, load->state);

    state->busy--;
    if (load->whole)
        state->flags &= (uint16_t)~CSC_CS_LOADING;
    if (code == 0 && job->promote && same && !csc_content_has(entry, CSC_CONTENT_RESIDENT)) {
        entry->dram = job->extents;
        job->extents = (csc_extents){0};
        csc_content_now_resident(store, load->content, false, false);
        csc_count(&store->counters.promotions[CASCADE_TIER_DRAM], 1);
        /* Under the lock: whoever waits for room would take it away before its reader could pin it. */
        if (load->pin && (*load->pin = csc_slot_guard(&store->slots)))
            csc_slot_pin(*load->pin, load->content);
    } else if (code == 0 && same && refused) {
        csc_policy_touch(store->policy, load->content, false); /* a ghost that was of use */
    }
    if (code == 0 && same && load->piece_count && load->whole)
        csc_lease_end(entry);
    if (job->extents.count)
        csc_arena_free(store->arena, &job->extents);
    if (code == CASCADE_ECORRUPT || code == CASCADE_MISS)
        code = quarantine(store, load, job, code);
    pthread_cond_broadcast(&store->progress);
    return code;
}

int csc_load_from_file(cascade_store *store, const csc_load *load)
{
    csc_room_request room = {.item = load->content, .forced = load->forced, .may_wait = load->forced};
    load_job job = {0};
    int code;

    pthread_mutex_lock(&store->lock);
    code = begin(store, load, &job);
    pthread_mutex_unlock(&store->lock);
    if (code)
        return code;
    room.bytes = job.content.k_bytes + job.content.v_bytes;
    if (job.promote)
        code = csc_room_take(store, &room, &job.extents);
    if (code && !load->forced) {
        job.promote = false;
        code = 0;
    }
    if (code == 0 && job.promote) {
        code = read_into_pages(store, &job);
        if (code == 0 && load->piece_count)
            csc_arena_copy_out(store->arena, &job.extents, load->offset, load->pieces,
                               load->piece_count);
    } else if (code == 0 && load->piece_count) {
        code = store->file->ops->read(store->file, &job.place, &job.content, load->offset, load->pieces,
                                      load->piece_count);
    }
    pthread_mutex_lock(&store->lock);
    code = settle(store, load, &job, room.refused, code);
    pthread_mutex_unlock(&store->lock);
    return code;
}

/* ---- ahead of use ---------------------------------------------------------------------------- */

void *csc_loader_main(void *context)
{
    cascade_store *store = context;

    pthread_mutex_lock(&store->lock);
    while (!store->stopping) {
        uint32_t content;
        csc_load load = {.whole = true};

        if (store->load_head == store->load_tail) {
            pthread_cond_wait(&store->load_work, &store->lock);
            continue;
        }
        content = store->load_ring[store->load_tail++ % CSC_LOAD_RING];
        load.content = content;
        load.state = atomic_load(&csc_content_at(store, content)->state);
        pthread_mutex_unlock(&store->lock);
        (void)csc_load_from_file(store, &load); /* a hint: the get that follows says what is wrong */
        pthread_mutex_lock(&store->lock);
    }
    pthread_mutex_unlock(&store->lock);
    return NULL;
}

int cascade_prefetch(cascade_store *store, const cascade_key *keys, size_t count)
{
    CSC_ENTER(store);
    if (count && !keys)
        return csc_fail(CASCADE_EINVAL, "%zu keys, but no array of them", count);
    for (size_t i = 0; i < count; i++) {
        csc_held held;

        if (csc_hold(store, &(csc_name){.key = &keys[i]}, &held) != 0)
            continue;
        if (held.slot) {
            csc_slot_release(held.slot);
            continue;
        }
        pthread_mutex_lock(&store->lock);
        if (store->load_head - store->load_tail < CSC_LOAD_RING)
            store->load_ring[store->load_head++ % CSC_LOAD_RING] = held.content;
        pthread_cond_signal(&store->load_work);
        pthread_mutex_unlock(&store->lock);
    }
    return 0;
}
