/* SPDX-License-Identifier: MIT */
/* Prefixes: how much of a prompt is at hand. Lock-free; the slowest part is the processor's cache
 * misses. */
#include "base/clock.h"
#include "base/fail.h"
#include "store/client.h"

#define CHUNK 256u

typedef struct lease_times {
    uint64_t now_ms, until_ms;
} lease_times;

/* Holds what the numbers name; returns how many of them are still bound. `*before`: the content before
 * them, CSC_NUMBER_NONE at the start. */
static size_t hold_chunk(cascade_store *store, const uint32_t *numbers, size_t count,
                         const lease_times *leases, uint32_t *before, bool ends)
{
    bool first = *before == CSC_NUMBER_NONE;
    uint32_t contents[CHUNK];
    size_t held = 0;
    uint64_t place;

    for (; held < count; held++) {
        uint64_t state;

        contents[held] = csc_index_content_of(&store->index, numbers[held], &state);
        if (contents[held] == CSC_NUMBER_NONE)
            break;
        if (!store->daemon) /* else the owner does, when it hears of the match */
            csc_lease_add(csc_content_at(store, contents[held]), leases->now_ms, leases->until_ms);
    }
    place = csc_touch_reserve(&store->touch, held + 1);
    csc_touch_note(&store->touch, place++, first ? CSC_TOUCH_TICK : CSC_TOUCH_FROM | *before);
    for (size_t i = 0; i < held; i++)
        csc_touch_note(&store->touch, place + i,
                       CSC_TOUCH_ITEM | CSC_TOUCH_MATCH | contents[i] |
                           (first && i == 0 ? 0 : CSC_TOUCH_CHAIN) |
                           (ends && i + 1 == count ? CSC_TOUCH_TAIL : 0));
    if (held)
        *before = contents[held - 1];
    return held;
}

/* A client's match. */
static void note_match(cascade_store *store, uint64_t begin_ns, bool ended_early)
{
    atomic_store_explicit(&store->matched_until_ns,
                          begin_ns + store->config.lease_ms * UINT64_C(1000000), memory_order_relaxed);
    if (ended_early)
        csc_touch_note(&store->touch, csc_touch_reserve(&store->touch, 1), CSC_TOUCH_LOOK);
}

int cascade_prefix_match(cascade_store *store, const cascade_key *keys, size_t count, size_t *matched)
{
    uint64_t begin_ns = csc_clock_ns();
    lease_times leases = {.now_ms = begin_ns / 1000000};
    uint32_t before = CSC_NUMBER_NONE;
    size_t total = 0;
    bool lost = false;
    csc_slot *guard;

    CSC_ENTER(store);
    if (!matched || (count && !keys))
        return csc_fail(CASCADE_EINVAL, "no keys or no place for the result");
    leases.until_ms = leases.now_ms + store->config.lease_ms;
    guard = csc_slot_guard(&store->slots);
    if (!guard)
        return csc_fail(CASCADE_ENOSLOT, "all %u pin slots are taken: release views", CSC_AREA_SLOTS);
    do {
        uint32_t numbers[CHUNK];
        size_t wanted = count - total < CHUNK ? count - total : CHUNK;
        size_t found = csc_index_find_run(&store->index, keys + total, wanted, numbers, &lost);
        size_t held = hold_chunk(store, numbers, found, &leases, &before,
                                 total + wanted == count && found == wanted);

        total += held;
        if (held < wanted)
            break;
    } while (total < count);
    csc_slot_release(guard);
    atomic_store_explicit(&store->touch.matched, true, memory_order_relaxed);
    if (store->daemon)
        note_match(store, begin_ns, total < count);
    else if (total < count)
        csc_discover_later(store, begin_ns);
    if (lost)
        return csc_fail(CASCADE_EAGAIN, "the index kept changing");
    *matched = total;
    csc_latency(store, CASCADE_OP_MATCH, begin_ns);
    return 0;
}

int cascade_prefix_match_many(cascade_store *store, cascade_match *matches, size_t count)
{
    int first = 0;

    CSC_ENTER(store);
    if (count && !matches)
        return csc_fail(CASCADE_EINVAL, "%zu matches, but no array of them", count);
    for (size_t i = 0; i < count; i++) {
        int code = cascade_prefix_match(store, matches[i].keys, matches[i].count, &matches[i].matched);

        first = first ? first : code;
    }
    return first;
}

int cascade_prefix_release(cascade_store *store, const cascade_key *keys, size_t count)
{
    csc_slot *guard;

    CSC_ENTER(store);
    if (count && !keys)
        return csc_fail(CASCADE_EINVAL, "%zu keys, but no array of them", count);
    guard = csc_slot_guard(&store->slots);
    if (!guard)
        return csc_fail(CASCADE_ENOSLOT, "all %u pin slots are taken: release views", CSC_AREA_SLOTS);
    for (size_t i = 0; i < count; i++) {
        bool lost = false;
        uint64_t state;
        uint32_t number =
            csc_index_find(&store->index, &keys[i], csc_index_key_hash(&store->index, &keys[i]), &lost);
        uint32_t content =
            number == CSC_NUMBER_NONE ? number : csc_index_content_of(&store->index, number, &state);

        if (content != CSC_NUMBER_NONE)
            csc_lease_give_up(store, content);
    }
    csc_slot_release(guard);
    return 0;
}
