/* SPDX-License-Identifier: MIT */
/*
 * Room in the file tier: a budget, and an age limit. The file tier has a policy of its own, fed with the
 * same reads as dram's; what it values least is dropped, leaves of the forest of file copies first. A
 * dropped block leaves its record dead in a segment; emptying segments (compact.c) gives the space back.
 *
 * So that segments can be emptied cheaply, dropping goes on until what lives fills thirteen sixteenths
 * of the budget: used over live is then 1.23 at most. Room to copy what lives in the emptiest segment is
 * always kept.
 */
#include "base/clock.h"
#include "base/fail.h"
#include "base/log.h"
#include "store/store_private.h"

#include <stdlib.h>

#define DROP_STEP    256u /* blocks dropped in one go under the lock */
#define BUDGET_PARTS 16u
#define LIVE_PARTS   13u
#define HURRY_PARTS  12u
#define STEPS_A_PART 4u
#define FAILURES_MAX 3u  /* segments that cannot be emptied, before no more are tried */
#define SPARE_PARTS  32u /* a segment of at most this part of the budget leaves room for a spare */
#define RECORD_BYTES UINT64_C(8192) /* the least that a record takes */

uint32_t csc_spares_max(const cascade_store *store)
{
    const csc_settings *settings = &store->config.settings;

    return settings->file_budget_bytes == 0 ||
           settings->segment_bytes <= settings->file_budget_bytes / SPARE_PARTS;
}

uint64_t csc_file_room_for_live(const cascade_store *store)
{
    return store->config.settings.file_budget_bytes / BUDGET_PARTS * LIVE_PARTS;
}

/* ---- dropping ------------------------------------------------------------------------------- */

/* Takes the file copy away; the block goes with it if dram does not hold it, and no other rank, or if it
 * is too old. In dram it stays until it leaves that, or is put again, or the store is closed. Lock held.
 */
static void drop(cascade_store *store, uint32_t number, bool is_old)
{
    static const csc_place nowhere;

    csc_content_set_file(store, number, &nowhere);
    if (csc_content_has_right_bytes(store, number) && !store->closing)
        return;
    if (!is_old && csc_copies_use_foreign(store, number))
        return;
    csc_count(&store->counters.drops[CASCADE_TIER_FILE], 1);
    csc_content_lose(store, number, true);
}

typedef struct drop_test {
    cascade_store *store;
    uint64_t now_ms;
    bool all; /* leased ones too, and those in use */
} drop_test;

static bool may_drop(void *context, uint32_t number)
{
    const drop_test *test = context;
    const csc_content_entry *entry = csc_content_at(test->store, number);

    return csc_content_has(entry, CSC_CONTENT_LIVE) && csc_place_is_set(&entry->file) &&
           csc_segment_is_ours(test->store->file, csc_segment_of(&entry->file)) &&
           (test->all ||
            (test->store->content_states[number].busy == 0 && !csc_lease_holds(entry, test->now_ms)));
}

/* The block to go next, CSC_POLICY_NONE: there is none. Lock held. */
static uint32_t victim(drop_test *test)
{
    uint32_t found = csc_policy_victim(test->store->file_policy, may_drop, test);

    if (found == CSC_POLICY_NONE && !test->all) {
        test->all = true;
        found = csc_policy_victim(test->store->file_policy, may_drop, test);
    }
    if (found == CSC_POLICY_NONE) {
        csc_policy_tick(test->store->file_policy); /* what is left is of the request at hand */
        found = csc_policy_victim(test->store->file_policy, may_drop, test);
    }
    return found;
}

/* Drops until `live` is `target` bytes at most. False: nothing was dropped. */
static bool drop_down_to(cascade_store *store, uint64_t live, uint64_t target)
{
    drop_test test = {.store = store, .now_ms = csc_clock_coarse_ms()};
    uint32_t dropped = 0;

    (void)csc_discover(store); /* what others have too is read there, and not deleted */
    pthread_mutex_lock(&store->lock);
    csc_touches_pass_on(store);
    while (live > target) {
        uint32_t number = victim(&test);
        const csc_content_entry *entry;
        uint64_t bytes;

        if (number == CSC_POLICY_NONE)
            break;
        entry = csc_content_at(store, number);
        bytes = csc_segment_record_bytes(&entry->file, &entry->content);
        live -= bytes < live ? bytes : live;
        drop(store, number, false);
        if (++dropped % DROP_STEP == 0) {
            pthread_mutex_unlock(&store->lock);
            pthread_mutex_lock(&store->lock);
        }
    }
    pthread_cond_broadcast(&store->progress);
    pthread_mutex_unlock(&store->lock);
    return dropped > 0;
}

/* ---- the budget ----------------------------------------------------------------------------- */

/* Drops what lives in a segment for which there is no room to copy it. */
static void drop_segment(cascade_store *store, uint32_t segment)
{
    pthread_mutex_lock(&store->lock);
    for (uint32_t number = 0; number < store->contents_made; number++) {
        const csc_content_entry *entry = csc_content_at(store, number);

        if (number % CSC_SCAN_STEP == CSC_SCAN_STEP - 1) {
            pthread_mutex_unlock(&store->lock);
            pthread_mutex_lock(&store->lock);
        }
        if (csc_content_has(entry, CSC_CONTENT_LIVE) && csc_place_is_set(&entry->file) &&
            csc_segment_of(&entry->file) == segment)
            drop(store, number, false);
    }
    pthread_mutex_unlock(&store->lock);
}

/* Whether what lives in a segment can be copied within the budget. */
static bool can_be_moved(cascade_store *store, const csc_segment_info *info)
{
    uint64_t bytes = info->live_bytes;

    return bytes == 0 || csc_segment_bytes_after(store->file, bytes, 1, bytes / RECORD_BYTES + 1) <=
                             store->config.settings.file_budget_bytes;
}

/* Empties a segment; `*gained` tells how many bytes that gave back. */
static int empty(cascade_store *store, const csc_segment_info *info, uint64_t *gained)
{
    uint64_t before = csc_segment_used_bytes(store->file), after;
    int code;

    if (!can_be_moved(store, info))
        drop_segment(store, info->segment);
    code = csc_compact_segment(store, info->segment);
    after = csc_segment_used_bytes(store->file);
    *gained = before > after ? before - after : 0;
    return code;
}

/* Empties a segment that is worthy of it before the budget is reached. False: there is none, or it
 * cannot be emptied, which matters only when there is no room without it. */
static bool hurry(cascade_store *store)
{
    csc_segment_info info = {0};

    return csc_compact_is_due(store) && csc_compact_choose(store, CSC_COMPACT_WORTHY, &info) &&
           can_be_moved(store, &info) && csc_compact_segment(store, info.segment) == 0;
}

/* A writer that has no rest gives the background none either. */
static bool is_wasteful(cascade_store *store)
{
    return csc_segment_used_bytes(store->file) * 4 > csc_segment_live_bytes(store->file) * 5;
}

/* Ends the open segment, so that it can be emptied. Without its index if there is no room for that: what
 * is dead in it is the room. */
static int end_open(cascade_store *store)
{
    int code = csc_segment_seal(store->file);

    return code == CASCADE_ENOSPC ? csc_segment_give_up(store->file) : code;
}

int csc_file_room_end_open(cascade_store *store, unsigned part)
{
    size_t count;
    csc_segment_info *infos = csc_segments(store, &count);
    bool is_wanted = false;

    if (!infos)
        return CASCADE_ENOMEM;
    for (size_t i = 0; i < count; i++)
        is_wanted |= infos[i].open && csc_segment_dead(&infos[i]) * part > infos[i].bytes;
    free(infos);
    return is_wanted ? end_open(store) : 0;
}

int csc_file_room_make(cascade_store *store, uint64_t bytes, size_t records, size_t entries)
{
    uint64_t budget = store->config.settings.file_budget_bytes, part = budget / BUDGET_PARTS;
    uint64_t step = part / STEPS_A_PART;
    uint64_t target = csc_file_room_for_live(store);   /* for what lives, with what is to be written */
    uint64_t hurries = csc_segment_count(store->file); /* each once is enough */
    unsigned failures = 0;
    uint64_t sealed_at = UINT64_MAX; /* bytes in use then */
    uint64_t slack = 0;
    bool exhausted = false;

    if (budget == 0)
        return 0;
    /* Every turn drops a block, or hurries, or empties a segment and gains by it, or lowers the target,
     * or seals because there was a gain. A segment that cannot be emptied is not chosen again for a
     * while. */
    for (;;) {
        uint64_t after = csc_segment_bytes_after(store->file, bytes, records, entries), used, gained;
        uint64_t live = csc_segment_live_bytes(store->file);
        csc_segment_info info = {0};
        bool any;
        int code;

        /* A little with every round, not much when the budget is reached: then the files that are given
         * up come one at a time, and each becomes the next segment's. */
        if (live + bytes > target && drop_down_to(store, live, target > bytes ? target - bytes : 0))
            continue;
        /* Deletes leave dead bytes that the background, at its rate, may not have given back yet. */
        if ((after > part * HURRY_PARTS || is_wasteful(store)) && hurries > 0) {
            hurries = hurry(store) ? hurries - 1 : 0;
            continue;
        }
        any = csc_compact_choose(store, CSC_COMPACT_WHOLE, &info);
        if (after + slack <= budget && (!any || budget - after >= info.live_bytes))
            return 0;
        slack = step; /* so that small rounds do not empty a segment each */
        /* What is left is in the open segment; again only if it has become less. */
        used = csc_segment_used_bytes(store->file);
        if (!any && sealed_at > used && sealed_at - used >= part) {
            sealed_at = used;
            code = end_open(store);
            if (code)
                return code;
            continue;
        }
        /* One that a dead owner left without an index goes only when there is no other. */
        if (!any && after > budget)
            any = csc_compact_choose(store, CSC_COMPACT_ANY, &info);
        if (!any || exhausted)
            return after <= budget ? 0
                                   : csc_fail(CASCADE_ENOSPC,
                                              "the file budget of %llu bytes has no room for %llu more",
                                              (unsigned long long)budget, (unsigned long long)bytes);
        /* Rather more of what is worth least than all of one segment. */
        gained = 0;
        code = target > part && !can_be_moved(store, &info) ? 0 : empty(store, &info, &gained);
        if (code && ++failures == FAILURES_MAX)
            return code;
        if (code)
            continue; /* with another: one that cannot be read must not keep all else from the disk */
        /* All is dropped, and the segment with the most dead bytes gives none back. */
        exhausted = target == 0 && gained == 0;
        if (gained < info.bytes / BUDGET_PARTS) {
            target = target < live ? target : live; /* more has to be dropped */
            target -= target < step ? target : step;
            hurries = csc_segment_count(store->file);
        }
    }
}

/* ---- the age limit -------------------------------------------------------------------------- */

/* Whether a key that names one of its keys as a parent has a file copy. Lock held. */
static bool is_inner(cascade_store *store, uint32_t number)
{
    for (uint32_t link = csc_content_at(store, number)->first_key; link;
         link = csc_key_at(store, link - 1)->sibling)
        if (store->key_states[link - 1].children[CASCADE_TIER_FILE])
            return true;
    return false;
}

/* Whether a block is in files only and was not used for as long as the limit says. Lock held. */
static bool is_too_old(cascade_store *store, uint32_t number, uint64_t now_s, uint64_t now_ms)
{
    const csc_content_entry *entry = csc_content_at(store, number);
    const csc_content_state *state = &store->content_states[number];

    return csc_content_has(entry, CSC_CONTENT_LIVE) && csc_place_is_set(&entry->file) &&
           !csc_content_has(entry, CSC_CONTENT_RESIDENT) && state->busy == 0 &&
           !csc_lease_holds(entry, now_ms) && state->used_s + store->config.file_age_s < now_s;
}

/* One look at all blocks; with its children gone a parent is a leaf at the next. Lock held, and let go
 * in between. */
static void age(cascade_store *store, bool dry_run, uint64_t *blocks, uint64_t *bytes)
{
    uint64_t now_s = csc_wall_ns() / 1000000000, now_ms = csc_clock_coarse_ms();

    for (uint32_t number = store->contents_made; number-- > 0;) {
        if (number % CSC_SCAN_STEP == 0) {
            pthread_mutex_unlock(&store->lock);
            pthread_mutex_lock(&store->lock);
        }
        if (!is_too_old(store, number, now_s, now_ms) || (!dry_run && is_inner(store, number)))
            continue;
        ++*blocks;
        *bytes += csc_content_bytes(csc_content_at(store, number));
        if (dry_run)
            continue;
        csc_count(&store->counters.aged, 1);
        drop(store, number, true);
    }
}

void csc_file_age(cascade_store *store, bool dry_run, uint64_t *blocks, uint64_t *bytes)
{
    uint64_t before;

    *blocks = 0;
    *bytes = 0;
    if (store->config.file_age_s == 0)
        return;
    if (!dry_run)
        (void)csc_discover_now(store); /* what others have too is not deleted */
    pthread_mutex_lock(&store->lock);
    csc_touches_pass_on(store);
    do {
        before = *blocks;
        age(store, dry_run, blocks, bytes);
    } while (!dry_run && *blocks != before);
    pthread_mutex_unlock(&store->lock);
}
