/* SPDX-License-Identifier: MIT */
/*
 * Ahead of use: what is asked for first tells what comes next. A match notes the blocks of a prompt in
 * order, and each content remembers which one followed it in the latest match; when one of them has to
 * come from the file tier, those after it are brought to dram as well, several in one batch.
 *
 * All of it is hints. A successor may be another block by now, a queued block may be gone or resident:
 * the loader looks again. Nothing here makes a match or a read from dram take a lock or a system call.
 */
#include "base/clock.h"
#include "base/fail.h"
#include "store/client.h"

#define AHEAD_BYTES      (UINT64_C(64) << 20)
#define AHEAD_BLOCKS_MIN 2u
#define AHEAD_STEPS_MAX  512u
/* While reads follow a chain, the loader looks this often how far they have come. */
#define FOLLOW_STEP_NS UINT64_C(5000000)
#define FOLLOW_NS      UINT64_C(500000000)

/* How far to go: blocks that the policy refuses must not push out those before them. */
static uint64_t ahead_bytes(cascade_store *store)
{
    uint64_t share = csc_arena_capacity(store->arena) / CSC_TRANSIT_SHARE;

    return share < AHEAD_BYTES ? share : AHEAD_BYTES;
}

static bool is_wanted(cascade_store *store, uint32_t number)
{
    const csc_content_entry *entry = csc_content_at(store, number);

    return csc_content_has(entry, CSC_CONTENT_LIVE) && csc_place_is_set(&entry->file) &&
           !(atomic_load_explicit(&entry->state, memory_order_relaxed) &
             (CSC_CONTENT_RESIDENT | CSC_CONTENT_FILLING)) &&
           !(store->content_states[number].flags & CSC_CS_LOADING);
}

/* Puts a content into the loader's queue. Lock held. */
static void want(cascade_store *store, uint32_t number)
{
    csc_content_state *state = &store->content_states[number];

    if ((state->flags & CSC_CS_WANTED) || store->load_head - store->load_tail == CSC_LOAD_RING ||
        !is_wanted(store, number))
        return;
    state->flags |= CSC_CS_WANTED;
    store->load_ring[store->load_head++ % CSC_LOAD_RING] = number;
    pthread_cond_signal(&store->load_work);
}

/* The blocks after `number` in its chain. Lock held. */
static void want_following(cascade_store *store, uint32_t number)
{
    uint64_t bytes = 0, most = ahead_bytes(store);
    uint32_t link = store->content_states[number].chain_next, middle = 0;

    for (uint32_t steps = 0; link && link <= store->contents_made && steps < AHEAD_STEPS_MAX; steps++) {
        const csc_content_entry *entry = csc_content_at(store, link - 1);

        if (!csc_content_has(entry, CSC_CONTENT_LIVE))
            break;
        bytes += csc_content_bytes(entry);
        if (bytes > most && steps >= AHEAD_BLOCKS_MIN)
            break;
        if (!middle && (2 * bytes >= most || 2 * steps >= AHEAD_STEPS_MAX))
            middle = link;
        want(store, link - 1);
        link = store->content_states[link - 1].chain_next;
    }
    /* When that one is read it is time for more. */
    if (middle && link)
        store->content_states[middle - 1].flags |= CSC_CS_GO_ON;
}

/* ---- what the readers noted ------------------------------------------------------------------ */

/* For the policies of both tiers. */
static void pass_on(csc_policy *policy, uint64_t note)
{
    if (note & CSC_TOUCH_TICK)
        csc_policy_tick(policy);
    if (note & CSC_TOUCH_ITEM)
        csc_policy_touch(policy, (uint32_t)note, note & CSC_TOUCH_TAIL);
}

/* Lock held, as is csc_touch_drain's. */
static void see_note(void *context, uint64_t note, uint32_t before)
{
    cascade_store *store = context;
    uint32_t number = (uint32_t)note;
    csc_content_state *state;

    pass_on(store->policy, note);
    if (store->file_policy)
        pass_on(store->file_policy, note);
    if (!(note & CSC_TOUCH_ITEM) || number >= store->contents_made)
        return;
    state = &store->content_states[number];
    if (before < store->contents_made && before != number)
        store->content_states[before].chain_next = number + 1;
    if (note & CSC_TOUCH_MATCH) {
        /* What a match found in the file tier will be asked for: as much of it as a chain gets. */
        if (before == CSC_NUMBER_NONE)
            store->ahead_left = ahead_bytes(store);
        if (store->ahead_left && is_wanted(store, number)) {
            uint64_t bytes = csc_content_bytes(csc_content_at(store, number));

            store->ahead_left -= bytes < store->ahead_left ? bytes : store->ahead_left;
            want(store, number);
        }
    } else if (state->flags & CSC_CS_GO_ON) {
        state->flags &= (uint16_t)~CSC_CS_GO_ON;
        want_following(store, number);
    }
}

/* A client's match could not write the leases; its owner does, before he chooses who leaves. Any number
 * may stand in the note. */
static void see_client_note(void *context, uint64_t note, uint32_t before)
{
    cascade_store *store = context;
    uint32_t number = (uint32_t)note;
    uint64_t now_ms = csc_clock_coarse_ms();

    if (note & CSC_TOUCH_LOOK)
        csc_discover_later(store, csc_clock_ns());
    if (number < store->contents_made) {
        if (note & CSC_TOUCH_LEASE_END)
            csc_lease_end(csc_content_at(store, number));
        else if ((note & CSC_TOUCH_ITEM) && (note & CSC_TOUCH_MATCH))
            csc_lease_add(csc_content_at(store, number), now_ms, now_ms + store->config.lease_ms);
    }
    see_note(store, note, before);
}

void csc_touches_pass_on(cascade_store *store)
{
    csc_touch_drain(&store->touch, see_note, store);
    for (uint32_t area = 1; area < CSC_SLOT_AREAS; area++) {
        _Atomic uint64_t *head, *ring = csc_arena_ring(store->arena, area, &head);

        if (!ring)
            continue;
        csc_touch_attach(&store->client_touches[area], ring, head);
        csc_touch_drain(&store->client_touches[area], see_client_note, store);
    }
}

void csc_ahead_from(cascade_store *store, uint32_t content)
{
    csc_touches_pass_on(store);
    store->content_states[content].flags &= (uint16_t)~CSC_CS_GO_ON;
    want_following(store, content);
}

/* ---- the loader ------------------------------------------------------------------------------ */

/* Takes what is read as one batch from the queue. Lock held. */
static size_t take_batch(cascade_store *store, csc_load *loads)
{
    uint64_t bytes = 0;
    size_t count = 0;

    while (store->load_tail != store->load_head && count < CSC_LOAD_BATCH && bytes < AHEAD_BYTES) {
        uint32_t number = store->load_ring[store->load_tail++ % CSC_LOAD_RING];

        store->content_states[number].flags &= (uint16_t)~CSC_CS_WANTED;
        if (!is_wanted(store, number))
            continue;
        bytes += csc_content_bytes(csc_content_at(store, number));
        loads[count++] = (csc_load){.content = number,
                                    .state = atomic_load(&csc_content_at(store, number)->state),
                                    .whole = true,
                                    .in_batch = true,
                                    .ahead = true};
    }
    return count;
}

void *csc_loader_main(void *context)
{
    cascade_store *store = context;
    uint64_t follow_until_ns = 0;

    pthread_mutex_lock(&store->lock);
    while (!store->stopping) {
        csc_load loads[CSC_LOAD_BATCH];
        size_t count = take_batch(store, loads);

        if (count) {
            pthread_mutex_unlock(&store->lock);
            csc_load_many(store, loads, count); /* a hint: the get that follows says what is wrong */
            pthread_mutex_lock(&store->lock);
            follow_until_ns = csc_clock_ns() + FOLLOW_NS;
        } else if (csc_clock_ns() < follow_until_ns) {
            uint64_t wake_ns = csc_clock_ns() + FOLLOW_STEP_NS;
            struct timespec wake = {.tv_sec = (time_t)(wake_ns / 1000000000),
                                    .tv_nsec = (long)(wake_ns % 1000000000)};

            pthread_cond_timedwait(&store->load_work, &store->lock, &wake);
            csc_touches_pass_on(store);
        } else {
            pthread_cond_wait(&store->load_work, &store->lock);
        }
    }
    pthread_mutex_unlock(&store->lock);
    return NULL;
}

int cascade_prefetch(cascade_store *store, const cascade_key *keys, size_t count)
{
    CSC_ENTER(store);
    if (count && !keys)
        return csc_fail(CASCADE_EINVAL, "%zu keys, but no array of them", count);
    if (store->daemon)
        return store->daemon->ops->prefetch(store, keys, count);
    for (size_t i = 0; i < count; i++) {
        csc_held held;

        if (csc_hold(store, &(csc_name){.key = &keys[i]}, &held) != 0)
            continue;
        if (held.slot) {
            csc_slot_release(held.slot);
            continue;
        }
        pthread_mutex_lock(&store->lock);
        want(store, held.content);
        pthread_mutex_unlock(&store->lock);
    }
    return 0;
}
