/* SPDX-License-Identifier: MIT */
/*
 * Writing behind: one thread moves digested contents, binds and deletes to the file tier in rounds. A
 * round is: take what waits (lock), write it, sync, publish the places (lock). Nothing is published
 * before the sync, so a place that is set is durable.
 *
 * A round that fails leaves everything dirty and is tried again; until one succeeds the store says so
 * (file_error) and lives from dram.
 */
#include "base/clock.h"
#include "base/fail.h"
#include "base/grow.h"
#include "base/log.h"
#include "base/mark.h"
#include "format/segment_format.h"
#include "store/store_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROUND_BLOCKS      1024u
#define ROUND_BYTES       (UINT64_C(256) << 20)
#define ROUND_LOG_ENTRIES 4096u
#define FULL_PARTS        2u /* more than this part of the open segment dead: on a full disk it is emptied */
#define RETRY_NS          UINT64_C(500000000)
#define AGE_STEP_NS       UINT64_C(3000000000)

struct csc_write_round {
    csc_tier_write writes[ROUND_BLOCKS];
    uint32_t contents[ROUND_BLOCKS];
    uint32_t generations[ROUND_BLOCKS];
    uint32_t first_binding[ROUND_BLOCKS + 1]; /* into bindings and keys */
    uint32_t write_count;
    uint64_t record_bytes; /* of the blocks, as they will lie in a segment */
    size_t entry_count;    /* of them in its index */
    csc_binding *bindings;
    uint32_t *keys; /* the key of each binding */
    size_t binding_room, key_room;
    cascade_piece *pieces;
    size_t piece_room;
    csc_log_entry *log;
    uint32_t *log_keys;
    uint32_t log_count;
};
typedef struct csc_write_round write_round;

csc_binding csc_binding_of(const csc_key_entry *entry)
{
    return (csc_binding){.key = entry->key,
                         .parent = entry->parent,
                         .has_parent = atomic_load(&entry->state) & CSC_KEY_HAS_PARENT,
                         .sequence = entry->sequence};
}

/* Adds a content with the keys whose binding is nowhere yet; what does not fit a record goes to the log.
 */
static bool add_content(cascade_store *store, write_round *round, uint32_t number, size_t *piece_count)
{
    csc_content_entry *entry = csc_content_at(store, number);
    uint32_t i = round->write_count, at = round->first_binding[i], count = 0;
    size_t runs = entry->dram.count;

    if (!csc_grow(&round->pieces, &round->piece_room, *piece_count + runs, sizeof *round->pieces) ||
        !csc_grow(&round->keys, &round->key_room, at + CSC_BINDINGS_MAX, sizeof *round->keys) ||
        !csc_grow(&round->bindings, &round->binding_room, at + CSC_BINDINGS_MAX,
                  sizeof *round->bindings))
        return false;
    for (uint32_t link = entry->first_key; link; link = csc_key_at(store, link - 1)->sibling) {
        csc_key_entry *key = csc_key_at(store, link - 1);

        if (key->segment || (store->key_states[link - 1].flags & CSC_KS_INFLIGHT))
            continue;
        if (count == CSC_BINDINGS_MAX) {
            csc_log_push(store, link - 1);
            continue;
        }
        store->key_states[link - 1].flags |= CSC_KS_INFLIGHT;
        round->keys[at + count] = link - 1;
        round->bindings[at + count++] = csc_binding_of(key);
    }
    runs = csc_arena_pieces(store->arena, &entry->dram, 0, csc_content_bytes(entry),
                            round->pieces + *piece_count, round->piece_room - *piece_count);
    round->writes[i] =
        (csc_tier_write){.content = entry->content, .binding_count = count, .piece_count = runs};
    round->contents[i] = number;
    round->generations[i] = csc_content_generation(entry);
    round->first_binding[i + 1] = at + count;
    round->record_bytes += csc_segfmt_block_header_bytes(count, csc_content_bytes(entry),
                                                         csc_keyring_first(store->keyring)) +
                           csc_segfmt_round(csc_content_bytes(entry));
    round->entry_count += count ? count : 1;
    round->write_count++;
    *piece_count += runs;
    store->content_states[number].busy++;
    return true;
}

/* A round leaves nearly all of a file budget in place: room is made for it before anything is written.
 */
static bool is_full(const cascade_store *store, const write_round *round)
{
    uint64_t budget = store->config.settings.file_budget_bytes, limit = ROUND_BYTES, next = 0;

    if (budget && budget / 32 < limit)
        limit = budget / 32;
    if (store->write_queue.head)
        next = csc_content_bytes(&store->index.contents[store->write_queue.head - 1]);
    return round->write_count == ROUND_BLOCKS ||
           (round->write_count &&
            round->record_bytes + csc_segfmt_footer_bytes(round->entry_count) + next > limit);
}

static void take_contents(cascade_store *store, write_round *round)
{
    size_t piece_count = 0;

    round->write_count = 0;
    round->record_bytes = 0;
    round->entry_count = 0;
    round->first_binding[0] = 0;
    while (!is_full(store, round)) {
        uint32_t number = csc_work_pop(store, &store->write_queue);
        csc_content_entry *entry;

        if (number == CSC_NUMBER_NONE)
            break;
        entry = csc_content_at(store, number);
        if (!csc_content_has(entry, CSC_CONTENT_LIVE | CSC_CONTENT_RESIDENT) ||
            csc_place_is_set(&entry->file)) {
            store->content_states[number].flags &= (uint16_t)~CSC_CS_WRITING;
            continue;
        }
        if (!add_content(store, round, number, &piece_count)) {
            /* Out of memory: later. */
            csc_work_push(store, &store->write_queue, number);
            break;
        }
    }
    /* The arrays have stopped moving. */
    piece_count = 0;
    for (uint32_t i = 0; i < round->write_count; i++) {
        round->writes[i].bindings = round->bindings + round->first_binding[i];
        round->writes[i].pieces = round->pieces + piece_count;
        piece_count += round->writes[i].piece_count;
    }
}

static void take_log(cascade_store *store, write_round *round)
{
    uint32_t held_back = 0; /* number + 1, linked through queue_next */

    round->log_count = 0;
    store->log_inflight = 0;
    if (!round->log) {
        round->log = malloc(ROUND_LOG_ENTRIES * sizeof *round->log);
        round->log_keys = malloc(ROUND_LOG_ENTRIES * sizeof *round->log_keys);
    }
    while (round->log && round->log_keys && round->log_count < ROUND_LOG_ENTRIES) {
        uint32_t key = csc_log_pop(store);
        csc_key_entry *entry;
        uint32_t state, content;

        if (key == CSC_NUMBER_NONE)
            break;
        entry = csc_key_at(store, key);
        state = atomic_load(&entry->state) & 0xff;
        content = atomic_load(&entry->content);
        if (state == CSC_KEY_DELETED && (store->key_states[key].flags & CSC_KS_INFLIGHT)) {
            /* Its bind is being written in this very round: the tombstone waits for the next. */
            store->key_states[key].queue_next = held_back;
            held_back = key + 1;
            continue;
        }
        if (state == CSC_KEY_FREE || entry->segment || (store->key_states[key].flags & CSC_KS_INFLIGHT))
            continue;
        /* A bind to a content that is not written yet goes with the content's record, or after it. One
         * whose file copy the budget took in between was put again, and is written again. */
        if (state == CSC_KEY_BOUND && !csc_place_is_set(&csc_content_at(store, content)->file)) {
            if (csc_content_is_shed(store, content))
                csc_content_send_down(store, content);
            continue;
        }
        round->log[round->log_count] =
            (csc_log_entry){.is_delete = state == CSC_KEY_DELETED, .binding = csc_binding_of(entry)};
        if (state == CSC_KEY_BOUND)
            round->log[round->log_count].content = csc_content_at(store, content)->content;
        round->log_keys[round->log_count++] = key;
        store->key_states[key].flags |= CSC_KS_INFLIGHT;
        if (!store->log_inflight)
            store->log_inflight = store->key_states[key].ticket;
    }
    while (held_back) {
        uint32_t key = held_back - 1;

        held_back = store->key_states[key].queue_next;
        csc_log_unpop(store, key);
    }
}

/* ---- publishing ------------------------------------------------------------------------------ */

/* Lock held. */
static void settle_log(cascade_store *store, write_round *round, bool durable, uint32_t segment)
{
    for (uint32_t i = round->log_count; i-- > 0;) {
        uint32_t key = round->log_keys[i];
        csc_key_entry *entry = csc_key_at(store, key);
        uint32_t state = atomic_load(&entry->state) & 0xff;

        store->key_states[key].flags &= ~(uint32_t)CSC_KS_INFLIGHT;
        if (state == CSC_KEY_FREE || entry->sequence != round->log[i].binding.sequence)
            continue;
        if (!durable) {
            store->key_states[key].flags |= CSC_KS_RECORDED;
            csc_log_unpop(store, key);
        } else if (round->log[i].is_delete) {
            csc_key_retire(store, key);
        } else {
            entry->segment = segment + 1;
        }
    }
    store->log_inflight = 0;
    round->log_count = 0;
}

/* Lock held. */
static void settle_content(cascade_store *store, write_round *round, uint32_t i, bool durable)
{
    uint32_t number = round->contents[i];
    csc_content_entry *entry = csc_content_at(store, number);
    csc_content_state *state = &store->content_states[number];
    bool still = csc_content_has(entry, CSC_CONTENT_LIVE) &&
                 csc_content_generation(entry) == round->generations[i];
    uint32_t segment = durable ? csc_segment_of(&round->writes[i].place) : 0;

    state->busy--;
    state->flags &= (uint16_t)~CSC_CS_WRITING;
    for (uint32_t b = round->first_binding[i]; b < round->first_binding[i + 1]; b++) {
        csc_key_entry *key = csc_key_at(store, round->keys[b]);

        store->key_states[round->keys[b]].flags &= ~(uint32_t)CSC_KS_INFLIGHT;
        if (!durable)
            store->key_states[round->keys[b]].flags |= CSC_KS_RECORDED;
        if (durable && (atomic_load(&key->state) & 0xff) == CSC_KEY_BOUND &&
            key->sequence == round->bindings[b].sequence)
            key->segment = segment + 1;
    }
    if (!still)
        return; /* nothing refers to what was written: it is dead */
    if (!durable) {
        csc_content_send_down(store, number);
        return;
    }
    csc_content_set_file(store, number, &round->writes[i].place);
    csc_content_used(store, number);
    csc_mark("write: published");
    csc_dirty_remove(store, number);
    csc_count(&store->counters.demotions[CASCADE_TIER_FILE], 1);
    /* Keys that joined while it was being written. */
    for (uint32_t link = entry->first_key; link; link = csc_key_at(store, link - 1)->sibling)
        if (csc_key_at(store, link - 1)->segment == 0)
            csc_log_push(store, link - 1);
}

/* For what the round writes, to the byte; a segment that begins with it may take a page or two less. */
static int make_room(cascade_store *store, const write_round *round)
{
    uint64_t log_bytes = round->log_count ? csc_segfmt_log_header_bytes(round->log_count) : 0;

    return csc_file_room_make(store, round->record_bytes + log_bytes,
                              round->write_count + (round->log_count > 0),
                              round->entry_count + round->log_count);
}

static int run_round(cascade_store *store, write_round *round)
{
    uint32_t log_segment = 0;
    bool log_written = false, synced;
    int code = 0, sync_code;

    code = make_room(store, round);
    if (round->write_count == 0)
        code = 0; /* deletes are how room comes back, so they are written without it too */
    else if (code == 0)
        code = store->file->ops->write(store->file, round->writes, round->write_count);
    else
        for (uint32_t i = 0; i < round->write_count; i++)
            round->writes[i].status = code;
    if (round->log_count) {
        int log_code = csc_segment_log(store->file, round->log, round->log_count, &log_segment);

        log_written = log_code == 0;
        code = code ? code : log_code;
    }
    csc_mark("write: written");
    sync_code = store->file->ops->sync(store->file);
    synced = sync_code == 0;
    code = synced ? code : sync_code;
    csc_mark("write: synced");
    pthread_mutex_lock(&store->lock);
    for (uint32_t i = 0; i < round->write_count; i++)
        settle_content(store, round, i, synced && round->writes[i].status == 0);
    settle_log(store, round, synced && (log_written || round->log_count == 0), log_segment);
    pthread_mutex_unlock(&store->lock);
    return code;
}

/* Lock held. */
static void note_outcome(cascade_store *store, int code)
{
    if (code == 0) {
        if (store->file_error)
            csc_log(CSC_LOG_WARNING, "the file tier takes writes again");
        store->file_error = 0;
        return;
    }
    store->attempts_failed = store->attempts;
    snprintf(store->file_error_text, sizeof store->file_error_text, "%s", csc_fail_text());
    if (!store->file_error)
        csc_log(CSC_LOG_ERROR, "the file tier refuses writes, the store goes on from dram: %s",
                store->file_error_text);
    /* What a flush may say: there is no room, or the disk does not do as it is told. */
    store->file_error = code == CASCADE_ENOSPC ? code : CASCADE_EIO;
}

/* Lock held. Sleeps before a retry, unless a flush asks at once. */
static void back_off(cascade_store *store)
{
    uint64_t wake_ns = csc_clock_ns() + RETRY_NS;
    struct timespec wake = {.tv_sec = (time_t)(wake_ns / 1000000000),
                            .tv_nsec = (long)(wake_ns % 1000000000)};

    while (store->file_error && !store->stopping && !store->waiting_flushes &&
           pthread_cond_timedwait(&store->write_work, &store->lock, &wake) != ETIMEDOUT)
        ;
}

int csc_writer_make(cascade_store *store)
{
    store->round = calloc(1, sizeof *store->round);
    return store->round ? csc_compactor_make(store)
                        : csc_fail(CASCADE_ENOMEM, "no memory for the writer");
}

void csc_writer_destroy(cascade_store *store)
{
    write_round *round = store->round;

    csc_compactor_destroy(store);
    if (!round)
        return;
    free(round->bindings);
    free(round->keys);
    free(round->pieces);
    free(round->log);
    free(round->log_keys);
    free(round);
}

/* What there is to do between two rounds. Lock held, but not while it is done. Returns when there is
 * more to do. */
static uint64_t tend(cascade_store *store, uint64_t *aged_ns)
{
    uint64_t wake_ns = UINT64_MAX, blocks, bytes;
    bool is_full = store->file_error == CASCADE_ENOSPC;

    if (store->stopping)
        return wake_ns;
    pthread_mutex_unlock(&store->lock);
    /* What is dead in the open segment would never come back: without room it gets no further. */
    if (is_full)
        (void)csc_file_room_end_open(store, FULL_PARTS);
    csc_errand_serve(store);
    csc_compact_step(store, &wake_ns);
    if (store->config.file_age_s) {
        if (csc_clock_ns() - *aged_ns >= AGE_STEP_NS) {
            csc_file_age(store, false, &blocks, &bytes);
            *aged_ns = csc_clock_ns();
        }
        if (wake_ns > *aged_ns + AGE_STEP_NS)
            wake_ns = *aged_ns + AGE_STEP_NS;
    }
    pthread_mutex_lock(&store->lock);
    return wake_ns;
}

/* Lock held. */
static void wait_for_work(cascade_store *store, uint64_t until_ns)
{
    struct timespec wake = {.tv_sec = (time_t)(until_ns / 1000000000),
                            .tv_nsec = (long)(until_ns % 1000000000)};

    if (until_ns == UINT64_MAX)
        pthread_cond_wait(&store->write_work, &store->lock);
    else
        pthread_cond_timedwait(&store->write_work, &store->lock, &wake);
}

void *csc_writer_main(void *context)
{
    cascade_store *store = context;
    write_round *round = store->round;
    uint64_t aged_ns = 0, wake_ns;
    int code;

    pthread_mutex_lock(&store->lock);
    for (;;) {
        back_off(store);
        wake_ns = tend(store, &aged_ns);
        take_contents(store, round);
        take_log(store, round);
        if (round->write_count == 0 && round->log_count == 0) {
            if (store->stopping)
                break;
            pthread_cond_broadcast(&store->progress);
            if (!store->errand)
                wait_for_work(store, wake_ns);
            continue;
        }
        store->attempts++;
        pthread_mutex_unlock(&store->lock);
        code = run_round(store, round);
        pthread_mutex_lock(&store->lock);
        note_outcome(store, code);
        pthread_cond_broadcast(&store->progress);
        if (code && store->stopping)
            break;
        /* The flushes that asked for this round hear of it before the next one. */
        if (code && store->waiting_flushes)
            wait_for_work(store, csc_clock_ns() + 10000000);
    }
    pthread_mutex_unlock(&store->lock);
    return NULL;
}
