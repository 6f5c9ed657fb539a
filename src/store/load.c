/* SPDX-License-Identifier: MIT */
/*
 * Reading from the file tier: into dram and from there to the caller where the policy wants the block in
 * dram, else straight to the caller. Every byte is checked by the tier before anyone sees it.
 *
 * Pages being filled are marked in the arena's entry (FILLING beside LIVE, with the runs) before the
 * transfer starts, so that a new owner can keep them from other use. Past the deadline the read is a
 * miss, while the disk may still write to the pages: they and the entry stay as they are, and reads of
 * the block miss at once, until the tier says that it has let go.
 */
#include "base/clock.h"
#include "base/fail.h"
#include "base/log.h"
#include "base/mark.h"
#include "store/store_private.h"

#include <stdlib.h>

/* One load under way. On the heap: the tier may hold it longer than the call. */
typedef struct load_job {
    cascade_store *store;
    csc_load *load; /* the caller's: not touched once `over` */
    uint32_t number;
    csc_content content;
    csc_place place;
    bool promote;    /* into pages */
    bool refused;    /* by the policy */
    bool no_room;    /* nothing was read */
    bool marked;     /* the entry has pages that are being filled */
    bool settled;    /* it is resident, or its entry went meanwhile */
    bool over;       /* late, and the call has returned */
    bool released;   /* late, and the tier has let go */
    size_t piece;    /* where copying to the caller goes on */
    size_t used;     /* of that piece */
    uint64_t copied; /* bytes of the block */
    cascade_piece *pages;
    size_t page_count;
    cascade_piece few[8];
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

/* A miss for want of time: nothing is wrong with the block, as far as anyone knows. */
static int timed_out(cascade_store *store, csc_load *load)
{
    csc_count(&store->counters.file_timeouts, 1);
    load->timed_out = true;
    return CASCADE_MISS;
}

/* ---- before the read -------------------------------------------------------------------------------
 */

/* Another thread is bringing it: waits for that one, then whoever asks looks again. Lock held. */
static int wait_for_other(cascade_store *store, csc_load *load)
{
    uint64_t deadline_ns = csc_clock_ns() + UINT64_C(1000000000);
    const csc_content_entry *entry = csc_content_at(store, load->content);

    while (!load->in_batch && is_same(entry, load->state) &&
           (store->content_states[load->content].flags & CSC_CS_LOADING) &&
           csc_store_wait(store, deadline_ns))
        ; /* woken for something else */
    return CASCADE_EAGAIN;
}

/* Lock held. Fills the job, or says why there is nothing to do. */
static int begin(cascade_store *store, csc_load *load, load_job *job)
{
    csc_content_entry *entry = csc_content_at(store, load->content);
    csc_content_state *state = &store->content_states[load->content];
    int code;

    if (!is_same(entry, load->state) || csc_content_has(entry, CSC_CONTENT_RESIDENT))
        return CASCADE_EAGAIN;
    code = check_size(load, &entry->content);
    if (code)
        return code;
    if (state->flags & CSC_CS_LOADING)
        return wait_for_other(store, load);
    if (csc_content_has(entry, CSC_CONTENT_FILLING))
        return timed_out(store, load); /* the last read of it is late still */
    job->store = store;
    job->load = load;
    job->number = load->content;
    job->content = entry->content;
    job->place = entry->file;
    job->promote = load->whole;
    state->busy++;
    if (load->whole)
        state->flags |= CSC_CS_LOADING;
    return 0;
}

/* Gives the job's entry its pages, marked as being filled. The mark comes first: runs that are half
 * written when the owner is killed are found out by adding them up. */
static int mark_pages(load_job *job, csc_extents *extents)
{
    cascade_store *store = job->store;
    csc_content_entry *entry = csc_content_at(store, job->number);
    size_t count = extents->count;
    bool same;

    job->pages = job->few;
    if (count > sizeof job->few / sizeof job->few[0])
        job->pages = malloc(count * sizeof *job->pages);
    if (!job->pages) {
        job->pages = job->few;
        csc_arena_free(store->arena, extents);
        return csc_fail(CASCADE_ENOMEM, "no memory for a list of %zu pieces", count);
    }
    job->page_count = csc_arena_pieces(store->arena, extents, 0,
                                       job->content.k_bytes + job->content.v_bytes, job->pages, count);
    pthread_mutex_lock(&store->lock);
    same = is_same(entry, job->load->state);
    if (same) {
        atomic_fetch_or(&entry->state, CSC_CONTENT_FILLING);
        entry->dram = *extents;
        job->marked = true;
    }
    pthread_mutex_unlock(&store->lock);
    if (!same) {
        csc_arena_free(store->arena, extents);
        return CASCADE_EAGAIN;
    }
    csc_mark("load: pages marked");
    return 0;
}

/* Takes pages if the block is to come to dram. */
static int take_pages(load_job *job)
{
    const csc_load *load = job->load;
    csc_room_request room = {.bytes = job->content.k_bytes + job->content.v_bytes,
                             .item = job->number,
                             .forced = load->forced,
                             .may_wait = load->forced && !load->no_wait,
                             .ahead = load->ahead};
    csc_extents extents;
    int code;

    if (!job->promote)
        return 0;
    code = csc_room_take(job->store, &room, &extents);
    job->refused = room.refused;
    if (code == 0)
        return mark_pages(job, &extents);
    if (load->forced || load->ahead)
        return code;
    job->promote = false; /* straight to the caller */
    return 0;
}

/* ---- after the read ---------------------------------------------------------------------------------
 */

/* The bytes cannot be had from where they should be: they are read from another copy, or the block is a
 * miss from here on. If it is not `known` where else it may lie by now, only this read misses. Lock
 * held.
 */
static int quarantine(cascade_store *store, load_job *job, int code, bool known)
{
    csc_content_entry *entry = csc_content_at(store, job->number);
    bool ours = csc_segment_standing(store->file, csc_segment_of(&job->place)) & CSC_SEGMENT_IS_OURS;

    if (!is_same(entry, job->load->state) ||
        __builtin_memcmp(&entry->file, &job->place, sizeof job->place) != 0)
        return CASCADE_EAGAIN;                    /* it moved while it was read */
    csc_segment_reread(store->file, &job->place); /* perhaps it only was not all there yet */
    if (code == CASCADE_MISS && !ours && !known && !csc_content_has(entry, CSC_CONTENT_RESIDENT))
        return csc_copies_use(store, job->number) ? CASCADE_EAGAIN : timed_out(store, job->load);
    /* Where it is in dram, it came there, checked, while this read was under way. */
    return csc_copies_quarantine(store, job->number, code, true) ? CASCADE_EAGAIN : CASCADE_MISS;
}

/* Takes the pages back from the entry, which may be of no block any more. Lock held. */
static void unmark(load_job *job)
{
    csc_content_entry *entry = csc_content_at(job->store, job->number);
    csc_extents extents = entry->dram;

    if (!job->marked)
        return;
    job->marked = false;
    entry->dram = (csc_extents){0}; /* before the mark goes: they are not the block's bytes */
    atomic_fetch_and(&entry->state, ~(uint64_t)CSC_CONTENT_FILLING);
    csc_arena_free(job->store->arena, &extents);
}

/* Nobody works on the content for this job any more. Lock held. */
static void let_go(load_job *job)
{
    csc_content_state *state = &job->store->content_states[job->number];

    state->busy--;
    if (job->load->whole)
        state->flags &= (uint16_t)~CSC_CS_LOADING;
    pthread_cond_broadcast(&job->store->progress);
}

/* The whole block is in its pages. Lock held. */
static void now_resident(load_job *job)
{
    cascade_store *store = job->store;
    csc_content_entry *entry = csc_content_at(store, job->number);
    csc_load *load = job->load;

    job->settled = true;
    job->marked = false;
    atomic_fetch_and(&entry->state, ~(uint64_t)CSC_CONTENT_FILLING);
    let_go(job);
    if (!is_same(entry, load->state))
        return; /* dropped meanwhile: the pages go with the entry */
    csc_content_used(store, job->number);
    csc_content_now_resident(store, job->number, job->refused, false);
    csc_count(&store->counters.promotions[CASCADE_TIER_DRAM], 1);
    if (load->ahead)
        csc_count(&store->counters.read_ahead, 1);
    /* Under the lock: whoever waits for room would take it away before its reader could pin it. */
    if (load->pin && (*load->pin = csc_slot_guard(&store->slots)))
        csc_slot_pin(*load->pin, job->number);
    if (load->piece_count)
        csc_lease_end(entry);
}

static void job_free(load_job *job)
{
    if (job->pages != job->few)
        free(job->pages);
    free(job);
}

/* A late one ends. Lock held. */
static void end_late(load_job *job)
{
    unmark(job);
    job->store->content_states[job->number].busy--;
    pthread_cond_broadcast(&job->store->progress);
    job_free(job);
}

/* From the tier, in a thread of its own: a late transfer no longer touches the pages. */
static void was_released(void *context)
{
    load_job *job = context;
    cascade_store *store = job->store;

    pthread_mutex_lock(&store->lock);
    job->released = true;
    if (job->over)
        end_late(job);
    pthread_mutex_unlock(&store->lock);
}

/* Checked bytes of a block are in its pages, more are coming: the caller gets his part of them. */
static void has_arrived(void *context, uint64_t bytes)
{
    load_job *job = context;
    const csc_load *load = job->load;
    cascade_store *store = job->store;

    while (job->copied < bytes && job->piece < load->piece_count) {
        const cascade_piece *to = &load->pieces[job->piece];
        uint64_t part = bytes - job->copied;

        if (part > to->bytes - job->used)
            part = to->bytes - job->used;
        if (part) {
            cascade_piece piece = {(char *)to->data + job->used, part};

            csc_arena_copy_out(store->arena, &csc_content_at(store, job->number)->dram, job->copied,
                               &piece, 1);
        }
        job->copied += part;
        job->used += part;
        if (job->used == to->bytes) {
            job->piece++;
            job->used = 0;
        }
    }
    if (bytes < job->content.k_bytes + job->content.v_bytes)
        return;
    /* At once: others of the batch may take longer. */
    pthread_mutex_lock(&store->lock);
    now_resident(job);
    pthread_mutex_unlock(&store->lock);
}

/* Ends a job whose read, if there was one, is over. Lock held. */
static int settle(load_job *job, int code, bool late, bool known)
{
    cascade_store *store = job->store;
    csc_content_entry *entry = csc_content_at(store, job->number);
    csc_load *load = job->load;

    if (job->settled)
        return code;
    let_go(job);
    if (late) {
        store->content_states[job->number].busy++;
        return timed_out(store, load);
    }
    unmark(job);
    if (code == 0 && is_same(entry, load->state)) {
        csc_content_used(store, job->number);
        if (job->refused)
            csc_policy_touch(store->policy, job->number, false); /* a ghost that was of use */
        if (load->piece_count && load->whole)
            csc_lease_end(entry);
    }
    if (code == CASCADE_ETIMEDOUT && !job->no_room)
        return timed_out(store, load);
    if (code == CASCADE_ECORRUPT || code == CASCADE_MISS)
        return quarantine(store, job, code, known);
    return code;
}

/* ---- the loads ---------------------------------------------------------------------------------------
 */

static int prepare(cascade_store *store, csc_load *load, load_job **result)
{
    load_job *job = calloc(1, sizeof *job);
    int code;

    load->timed_out = false;
    if (!job)
        return csc_fail(CASCADE_ENOMEM, "no memory to read a block with");
    job->pages = job->few;
    pthread_mutex_lock(&store->lock);
    code = begin(store, load, job);
    pthread_mutex_unlock(&store->lock);
    if (code) {
        job_free(job);
        return code;
    }
    code = take_pages(job);
    if (code) {
        job->no_room = true;
        pthread_mutex_lock(&store->lock);
        code = settle(job, code, false, true);
        pthread_mutex_unlock(&store->lock);
        job_free(job);
        return code;
    }
    *result = job;
    return 0;
}

static csc_tier_read read_of(load_job *job)
{
    csc_tier_read read = {.place = job->place,
                          .content = job->content,
                          .offset = job->load->offset,
                          .pieces = job->load->pieces,
                          .piece_count = job->load->piece_count,
                          .context = job};

    if (job->promote) {
        read.offset = 0;
        read.pieces = job->pages;
        read.piece_count = job->page_count;
        read.arrived = has_arrived;
        read.released = was_released;
    }
    return read;
}

void csc_load_many(cascade_store *store, csc_load *loads, size_t count)
{
    csc_tier_read reads[CSC_LOAD_BATCH];
    load_job *jobs[CSC_LOAD_BATCH];
    size_t read_count = 0;
    size_t at[CSC_LOAD_BATCH];
    bool known;

    for (size_t i = 0; i < count; i++) {
        loads[i].status = prepare(store, &loads[i], &jobs[read_count]);
        if (loads[i].status)
            continue;
        reads[read_count] = read_of(jobs[read_count]);
        at[read_count++] = i;
    }
    if (count && !loads[count - 1].ahead) {
        pthread_mutex_lock(&store->lock);
        csc_ahead_from(store, loads[count - 1].content);
        pthread_mutex_unlock(&store->lock);
    }
    if (read_count == 0)
        return;
    store->file->ops->read(store->file, reads, read_count);
    known = csc_discover_if_bad(store, reads, read_count);
    pthread_mutex_lock(&store->lock);
    for (size_t i = 0; i < read_count; i++) {
        load_job *job = jobs[i];

        loads[at[i]].status = settle(job, reads[i].status, reads[i].late, known);
        if (!reads[i].late)
            job_free(job);
        else if (job->released)
            end_late(job);
        else
            job->over = true;
    }
    pthread_mutex_unlock(&store->lock);
}

int csc_load_from_file(cascade_store *store, csc_load *load)
{
    csc_load_many(store, load, 1);
    return load->status;
}
