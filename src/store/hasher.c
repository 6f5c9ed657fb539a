/* SPDX-License-Identifier: MIT */
/*
 * Digests behind the puts: a worker takes as many contents as the multi-buffer kernels like, digests
 * them outside the lock, then merges equals. What was deleted meanwhile is discarded, never resurrected.
 */
#include "base/clock.h"
#include "base/sha256.h"
#include "store/store_private.h"

#include <stdlib.h>

#define RETRY_NS UINT64_C(10000000)

typedef struct hash_batch {
    csc_sha256_message messages[CSC_SHA256_BATCH];
    uint32_t numbers[CSC_SHA256_BATCH];
    uint32_t generations[CSC_SHA256_BATCH];
    uint32_t count;
    cascade_piece *pieces; /* of all messages */
    size_t room;
} hash_batch;

/* Pieces of a content's bytes, behind those there are. False when memory is out. */
static bool add_pieces(cascade_store *store, hash_batch *batch, size_t *used, uint32_t number)
{
    const csc_content_entry *entry = csc_content_at(store, number);
    size_t count = entry->dram.count;

    if (*used + count > batch->room) {
        size_t room = 2 * (*used + count);
        cascade_piece *grown = realloc(batch->pieces, room * sizeof *grown);

        if (!grown)
            return false;
        batch->pieces = grown;
        batch->room = room;
    }
    count = csc_arena_pieces(store->arena, &entry->dram, 0, csc_content_bytes(entry),
                             batch->pieces + *used, batch->room - *used);
    batch->messages[batch->count].piece_count = count;
    *used += count;
    return true;
}

/* Lock held. Contents stay HASHING and busy until settle. */
static void take_batch(cascade_store *store, hash_batch *batch)
{
    size_t used = 0, at = 0;

    batch->count = 0;
    while (batch->count < CSC_SHA256_BATCH) {
        uint32_t number = csc_work_pop(store, &store->hash_queue);

        if (number == CSC_NUMBER_NONE)
            break;
        if (!csc_content_has(csc_content_at(store, number), CSC_CONTENT_LIVE)) {
            store->content_states[number].flags &= (uint16_t)~CSC_CS_HASHING;
            store->hash_taken++;
            continue;
        }
        if (!add_pieces(store, batch, &used, number)) {
            /* Out of memory: later. A flush waits for it. */
            csc_work_push(store, &store->hash_queue, number);
            break;
        }
        store->content_states[number].busy++;
        batch->numbers[batch->count] = number;
        batch->generations[batch->count++] = csc_content_generation(csc_content_at(store, number));
    }
    /* The array may have moved while it grew. */
    for (uint32_t i = 0; i < batch->count; i++) {
        batch->messages[i].pieces = batch->pieces + at;
        at += batch->messages[i].piece_count;
    }
    store->hashing += batch->count;
}

/* Lock held. */
static void settle(cascade_store *store, uint32_t number, uint32_t generation, const uint8_t digest[32])
{
    csc_content_entry *entry = csc_content_at(store, number);
    csc_content_state *state = &store->content_states[number];
    csc_place place;
    uint32_t equal;
    bool weak;

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
    weak = csc_place_is_set(&place) && csc_place_is_weak(store, &place);
    if (csc_content_has(csc_content_at(store, equal), CSC_CONTENT_RESIDENT) && !weak) {
        csc_content_merge(store, number, equal);
    } else {
        /* The other lives in the file tier only, or what is there is not to be relied on: this one takes
         * its place there, and its keys. */
        if (weak) {
            csc_content_send_down(store, number);
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

void *csc_hasher_main(void *context)
{
    cascade_store *store = context;
    hash_batch batch = {0};

    pthread_mutex_lock(&store->lock);
    for (;;) {
        take_batch(store, &batch);
        if (batch.count == 0) {
            if (store->stopping)
                break;
            if (store->hash_queue.head)
                csc_store_wait(store, csc_clock_ns() + RETRY_NS);
            else
                pthread_cond_wait(&store->hash_work, &store->lock);
            continue;
        }
        pthread_mutex_unlock(&store->lock);
        csc_sha256_many(batch.messages, batch.count);
        pthread_mutex_lock(&store->lock);
        for (uint32_t i = 0; i < batch.count; i++)
            settle(store, batch.numbers[i], batch.generations[i], batch.messages[i].digest);
        store->hashing -= batch.count;
        store->hash_taken += batch.count;
        pthread_cond_broadcast(&store->progress);
    }
    pthread_mutex_unlock(&store->lock);
    free(batch.pieces);
    return NULL;
}
