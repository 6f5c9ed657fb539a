/* SPDX-License-Identifier: MIT */
/*
 * Digests behind the puts: a worker takes as many contents as the multi-buffer kernels like, and more as
 * they come, digests them outside the lock, and merges equals. What was deleted meanwhile is discarded,
 * never resurrected.
 */
#include "base/clock.h"
#include "base/grow.h"
#include "base/sha256.h"
#include "store/store_private.h"

#include <stdlib.h>

#define RETRY_NS UINT64_C(10000000)

/* A content that is being digested. */
typedef struct hash_job {
    csc_sha256_message message; /* first, so that it is found from it */
    uint32_t number;
    uint32_t generation;
    cascade_piece *pieces;
    size_t room;
    struct hash_job *next_idle;
} hash_job;

typedef struct hash_worker {
    csc_sha256_source source;
    cascade_store *store;
    hash_job jobs[CSC_SHA256_BATCH];
    hash_job *idle;
    bool starved; /* a content had to go back for want of memory */
} hash_worker;

/* Lock held. */
static void settle(cascade_store *store, uint32_t number, uint32_t generation, const uint8_t digest[32])
{
    csc_content_entry *entry = csc_content_at(store, number);
    csc_content_state *state = &store->content_states[number];
    csc_place place;
    uint32_t equal;
    bool unsure;

    state->busy--;
    state->flags &= (uint16_t)~CSC_CS_HASHING;
    if (!csc_content_has(entry, CSC_CONTENT_LIVE) || csc_content_generation(entry) != generation)
        return;
    csc_count(&store->counters.digests, 1);
    csc_content_set_digest(store, number, digest);
    equal = csc_content_equal(store, number);
    if (equal == CSC_NUMBER_NONE) {
        csc_content_send_down(store, number);
        return;
    }
    place = csc_content_at(store, equal)->file;
    unsure = csc_place_is_set(&place) && csc_place_is_unsure(store, &place);
    if (csc_content_has_right_bytes(store, equal) && !unsure) {
        csc_content_merge(store, number, equal);
        if (csc_content_is_shed(store, equal)) /* it was put again */
            csc_content_send_down(store, equal);
    } else {
        /* The other lives in the file tier only, or is damaged in dram, or what is in the file tier is
         * not to be relied on: this one takes its place there, and its keys. */
        if (unsure) {
            csc_content_send_down(store, number);
            csc_content_replaces(store, number);
        } else {
            csc_content_take_file(store, equal, number);
            csc_dirty_remove(store, number);
        }
        csc_content_merge(store, equal, number);
        for (uint32_t link = entry->first_key; link; link = csc_key_at(store, link - 1)->sibling)
            if (csc_key_at(store, link - 1)->segment == 0)
                csc_log_push(store, link - 1);
    }
}

/* Lock held. False when memory is out. */
static bool begin(cascade_store *store, hash_job *job, uint32_t number)
{
    const csc_content_entry *entry = csc_content_at(store, number);

    if (!csc_grow(&job->pieces, &job->room, entry->dram.count, sizeof *job->pieces))
        return false;
    job->message.pieces = job->pieces;
    job->message.piece_count = csc_arena_pieces(store->arena, &entry->dram, 0, csc_content_bytes(entry),
                                                job->pieces, job->room);
    job->number = number;
    job->generation = csc_content_generation(entry);
    return true;
}

/* Contents stay HASHING and busy until they are done. */
static csc_sha256_message *next(csc_sha256_source *source)
{
    hash_worker *worker = (hash_worker *)(void *)source;
    cascade_store *store = worker->store;
    hash_job *job = worker->idle; /* one for each of the kernels' lanes */
    csc_sha256_message *message = NULL;
    uint32_t number;

    pthread_mutex_lock(&store->lock);
    while (!message && (number = csc_work_pop(store, &store->hash_queue)) != CSC_NUMBER_NONE) {
        if (!csc_content_has(csc_content_at(store, number), CSC_CONTENT_LIVE)) {
            store->content_states[number].flags &= (uint16_t)~CSC_CS_HASHING;
            store->hash_taken++;
            continue;
        }
        if (!begin(store, job, number)) {
            /* Later. A flush waits for it. */
            csc_work_push(store, &store->hash_queue, number);
            worker->starved = true;
            break;
        }
        store->content_states[number].busy++;
        store->hashing++;
        worker->idle = job->next_idle;
        message = &job->message;
    }
    pthread_mutex_unlock(&store->lock);
    return message;
}

static void done(csc_sha256_source *source, csc_sha256_message *message)
{
    hash_worker *worker = (hash_worker *)(void *)source;
    hash_job *job = (hash_job *)(void *)message;
    cascade_store *store = worker->store;

    pthread_mutex_lock(&store->lock);
    settle(store, job->number, job->generation, message->digest);
    store->hashing--;
    store->hash_taken++;
    pthread_cond_broadcast(&store->progress);
    pthread_mutex_unlock(&store->lock);
    job->next_idle = worker->idle;
    worker->idle = job;
}

void *csc_hasher_main(void *context)
{
    cascade_store *store = context;
    hash_worker worker = {.source = {next, done}, .store = store};

    for (size_t i = 0; i < CSC_SHA256_BATCH; i++) {
        worker.jobs[i].next_idle = worker.idle;
        worker.idle = &worker.jobs[i];
    }
    pthread_mutex_lock(&store->lock);
    for (;;) {
        if (store->hash_queue.head && !worker.starved) {
            pthread_mutex_unlock(&store->lock);
            csc_sha256_stream(&worker.source);
            pthread_mutex_lock(&store->lock);
            continue;
        }
        if (store->stopping)
            break;
        if (worker.starved)
            csc_store_wait(store, csc_clock_ns() + RETRY_NS);
        else
            pthread_cond_wait(&store->hash_work, &store->lock);
        worker.starved = false;
    }
    pthread_mutex_unlock(&store->lock);
    for (size_t i = 0; i < CSC_SHA256_BATCH; i++)
        free(worker.jobs[i].pieces);
    return NULL;
}
