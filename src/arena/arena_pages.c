/* SPDX-License-Identifier: MIT */
/*
 * Which pages are free. Free runs carry their length at both ends (boundary tags), so that neighbours
 * coalesce in constant time, and lie in lists by size class, newest first. Private to the owner: at
 * take-over it is rebuilt from the entries that are in use.
 */
#include "arena/arena_private.h"
#include "base/fail.h"

#include <stdlib.h>
#include <string.h>

#define RUN_FREE         0x80000000u
#define SEARCH_MAX       64 /* runs looked at for the best fit of a class */
#define RUNS_AT_ONCE_MAX 65536u

static unsigned class_of(uint32_t count)
{
    return 31u - (unsigned)__builtin_clz(count);
}

int csc_pages_init(csc_pages *pages, uint32_t page_count)
{
    /* Untouched zero pages of these arrays cost nothing until the run lists reach them. */
    pages->page_count = page_count;
    pages->tag = calloc((size_t)page_count + 1, sizeof *pages->tag);
    pages->next = calloc((size_t)page_count + 1, sizeof *pages->next);
    pages->previous = calloc((size_t)page_count + 1, sizeof *pages->previous);
    pthread_mutex_init(&pages->lock, NULL);
    if (!pages->tag || !pages->next || !pages->previous)
        return csc_fail(CASCADE_ENOMEM, "no memory for the lists of %u pages", page_count);
    return 0;
}

void csc_pages_destroy(csc_pages *pages)
{
    free(pages->tag);
    free(pages->next);
    free(pages->previous);
    free(pages->spill_free);
    free(pages->claimed);
    free(pages->spill_claimed);
    if (pages->page_count)
        pthread_mutex_destroy(&pages->lock);
}

static void unlink_run(csc_pages *pages, uint32_t page)
{
    uint32_t count = pages->tag[page] & ~RUN_FREE;
    uint32_t next = pages->next[page], previous = pages->previous[page];

    if (previous)
        pages->next[previous - 1] = next;
    else
        pages->heads[class_of(count)] = next;
    if (next)
        pages->previous[next - 1] = previous;
    pages->tag[page] = 0;
    pages->tag[page + count - 1] = 0;
}

static void link_run(csc_pages *pages, uint32_t page, uint32_t count)
{
    uint32_t *head = &pages->heads[class_of(count)];

    pages->tag[page] = RUN_FREE | count;
    pages->tag[page + count - 1] = RUN_FREE | count;
    pages->previous[page] = 0;
    pages->next[page] = *head;
    if (*head)
        pages->previous[*head - 1] = page + 1;
    *head = page + 1;
}

static void add_locked(csc_pages *pages, uint32_t page, uint32_t count)
{
    atomic_fetch_add(&pages->free_pages, count);
    if (page > 0 && (pages->tag[page - 1] & RUN_FREE)) {
        uint32_t before = pages->tag[page - 1] & ~RUN_FREE;

        unlink_run(pages, page - before);
        page -= before;
        count += before;
    }
    if (page + count < pages->page_count && (pages->tag[page + count] & RUN_FREE)) {
        uint32_t after = pages->tag[page + count] & ~RUN_FREE;

        unlink_run(pages, page + count);
        count += after;
    }
    link_run(pages, page, count);
}

void csc_pages_add(csc_pages *pages, uint32_t page, uint32_t count)
{
    pthread_mutex_lock(&pages->lock);
    add_locked(pages, page, count);
    pthread_mutex_unlock(&pages->lock);
}

/* The smallest run found that holds `count`; else UINT32_MAX. */
static uint32_t best_fit(const csc_pages *pages, uint32_t count)
{
    for (unsigned class = class_of(count); class < CSC_RUN_CLASSES; class ++) {
        uint32_t best = UINT32_MAX, best_count = UINT32_MAX;
        int looked = 0;

        for (uint32_t link = pages->heads[class]; link && looked < SEARCH_MAX;
             link = pages->next[link - 1]) {
            uint32_t have = pages->tag[link - 1] & ~RUN_FREE;

            looked++;
            if (have >= count && have < best_count) {
                best = link - 1;
                best_count = have;
                if (have == count)
                    break;
            }
        }
        if (best != UINT32_MAX)
            return best;
    }
    return UINT32_MAX;
}

/* The largest run of those looked at in the highest class; UINT32_MAX when nothing is free. */
static uint32_t largest(const csc_pages *pages)
{
    for (unsigned class = CSC_RUN_CLASSES; class -- > 0;) {
        uint32_t best = UINT32_MAX, best_count = 0;
        int looked = 0;

        for (uint32_t link = pages->heads[class]; link && looked < SEARCH_MAX;
             link = pages->next[link - 1]) {
            uint32_t have = pages->tag[link - 1] & ~RUN_FREE;

            looked++;
            if (have > best_count) {
                best = link - 1;
                best_count = have;
            }
        }
        if (best != UINT32_MAX)
            return best;
    }
    return UINT32_MAX;
}

static csc_extent take_run(csc_pages *pages, uint32_t page, uint32_t count)
{
    uint32_t have = pages->tag[page] & ~RUN_FREE;

    if (count > have)
        count = have;
    unlink_run(pages, page);
    if (have > count)
        link_run(pages, page + count, have - count);
    atomic_fetch_sub(&pages->free_pages, count);
    return (csc_extent){page, count};
}

/* Fills `runs` (room `runs_max`) with runs that add up to `count`; returns how many, 0 if it cannot. */
static uint32_t take_locked(csc_pages *pages, uint32_t count, csc_extent *runs, uint32_t runs_max)
{
    uint32_t run_count = 0;

    if (atomic_load(&pages->free_pages) < count)
        return 0;
    while (count) {
        uint32_t page = best_fit(pages, count);

        if (page == UINT32_MAX && run_count + 1 < runs_max)
            page = largest(pages);
        if (page == UINT32_MAX) {
            while (run_count)
                run_count--, add_locked(pages, runs[run_count].page, runs[run_count].count);
            return 0;
        }
        runs[run_count] = take_run(pages, page, count);
        count -= runs[run_count++].count;
    }
    return run_count;
}

/* ---- spills: extents beyond the inline ones ---------------------------------------------- */

static csc_spill_entry *spill_entries(csc_arena *arena)
{
    return (csc_spill_entry *)(void *)csc_region_start(arena, CSC_REGION_SPILLS);
}

static int spill_put_back(csc_pages *pages, uint32_t spill)
{
    if (pages->spill_free_count == pages->spill_free_room) {
        uint32_t room = pages->spill_free_room ? 2 * pages->spill_free_room : 64;
        uint32_t *grown = realloc(pages->spill_free, room * sizeof *grown);

        if (!grown)
            return CASCADE_ENOMEM; /* the entry is lost until the next open; harmless */
        pages->spill_free = grown;
        pages->spill_free_room = room;
    }
    pages->spill_free[pages->spill_free_count++] = spill;
    return 0;
}

static uint32_t spill_take(csc_arena *arena)
{
    csc_pages *pages = &arena->pages;

    if (pages->spill_free_count)
        return pages->spill_free[--pages->spill_free_count];
    if (csc_arena_grow(arena, CSC_REGION_SPILLS, pages->spill_made + 1) != 0)
        return UINT32_MAX;
    return pages->spill_made++;
}

static void free_spills(csc_arena *arena, uint32_t link)
{
    csc_spill_entry *entries = spill_entries(arena);

    while (link) {
        uint32_t spill = link - 1;

        link = entries[spill].next;
        spill_put_back(&arena->pages, spill);
    }
}

/* Writes runs as extents. The chain is written whole before `extents` names it. */
static int write_extents(csc_arena *arena, const csc_extent *runs, uint32_t run_count,
                         csc_extents *extents)
{
    csc_spill_entry *entries = spill_entries(arena);
    csc_extents made = {.count = run_count};
    uint32_t left = run_count > CSC_EXTENTS_INLINE ? run_count - CSC_EXTENTS_INLINE : 0;

    for (uint32_t i = 0; i < run_count && i < CSC_EXTENTS_INLINE; i++)
        made.first[i] = runs[i];
    /* From the last entry to the first, so that each is linked to what is written already. */
    while (left) {
        uint32_t count = left % CSC_SPILL_EXTENTS ? left % CSC_SPILL_EXTENTS : CSC_SPILL_EXTENTS;
        uint32_t spill = spill_take(arena);

        if (spill == UINT32_MAX) {
            free_spills(arena, made.spill);
            return CASCADE_ENOSPC;
        }
        entries[spill].next = made.spill;
        entries[spill].count = count;
        memcpy(entries[spill].extents, runs + CSC_EXTENTS_INLINE + left - count, count * sizeof *runs);
        made.spill = spill + 1;
        left -= count;
    }
    *extents = made;
    return 0;
}

/* ---- the operations ----------------------------------------------------------------------- */

static int allocate_free(csc_arena *arena, uint32_t count, uint32_t runs_max, csc_extents *extents)
{
    csc_pages *pages = &arena->pages;
    csc_extent few[64], *runs = few;
    uint32_t limit = runs_max ? runs_max : 64, run_count;
    int code = CASCADE_ENOSPC;

    pthread_mutex_lock(&pages->lock);
    run_count = take_locked(pages, count, runs, limit < 64 ? limit : 64);
    if (run_count == 0 && (runs_max == 0 || runs_max > 64) && atomic_load(&pages->free_pages) >= count) {
        limit = runs_max ? runs_max : RUNS_AT_ONCE_MAX;
        runs = malloc(limit * sizeof *runs);
        if (runs)
            run_count = take_locked(pages, count, runs, limit);
    }
    if (run_count) {
        code = write_extents(arena, runs, run_count, extents);
        while (code && run_count)
            run_count--, add_locked(pages, runs[run_count].page, runs[run_count].count);
    }
    pthread_mutex_unlock(&pages->lock);
    if (runs != few)
        free(runs);
    return code;
}

int csc_arena_allocate(csc_arena *arena, uint64_t bytes, uint32_t runs_max, csc_extents *extents)
{
    uint32_t page_bytes = csc_arena_page_bytes(arena);
    uint64_t count = (bytes + page_bytes - 1) / page_bytes;
    uint64_t step = (UINT64_C(8) << 20) / page_bytes;

    if (count == 0) {
        *extents = (csc_extents){0};
        return 0;
    }
    if (count > arena->pages.page_count)
        return csc_fail(CASCADE_ENOSPC, "a block of %llu bytes is larger than the dram tier",
                        (unsigned long long)bytes);
    for (;;) {
        uint64_t missing;

        if (allocate_free(arena, (uint32_t)count, runs_max, extents) == 0)
            return 0;
        /* Not that much free: go on into memory that was never used, if there is any. */
        missing = count > step ? count : step;
        if (csc_arena_extend_pages(arena, (uint32_t)missing) == 0)
            continue;
        /* Another thread may have come first and taken the last of it: then that is there by now. */
        return allocate_free(arena, (uint32_t)count, runs_max, extents) == 0
                   ? 0
                   : csc_fail(CASCADE_ENOSPC, "the dram tier has no %llu bytes free",
                              (unsigned long long)bytes);
    }
}

void csc_arena_free(csc_arena *arena, csc_extents *extents)
{
    csc_pages *pages = &arena->pages;
    csc_spill_entry *entries = spill_entries(arena);
    uint32_t spill = extents->spill;

    pthread_mutex_lock(&pages->lock);
    for (uint32_t i = 0; i < extents->count && i < CSC_EXTENTS_INLINE; i++)
        add_locked(pages, extents->first[i].page, extents->first[i].count);
    for (; spill; spill = entries[spill - 1].next)
        for (uint32_t i = 0; i < entries[spill - 1].count; i++)
            add_locked(pages, entries[spill - 1].extents[i].page, entries[spill - 1].extents[i].count);
    free_spills(arena, extents->spill);
    *extents = (csc_extents){0};
    pthread_mutex_unlock(&pages->lock);
}

/* ---- take-over ----------------------------------------------------------------------------- */

static bool bit_test_set(uint8_t *bits, uint32_t i, bool set)
{
    bool was = bits[i / 8] >> i % 8 & 1;

    if (set)
        bits[i / 8] |= (uint8_t)(1u << i % 8);
    return was;
}

/* Visits the extents of an entry that nobody vouches for; returns their pages, or -1 if they are not
 * possible. With `set`, marks them. */
static int64_t walk_claim(csc_arena *arena, const csc_extents *extents, bool set)
{
    csc_pages *pages = &arena->pages;
    uint32_t frontier = csc_region_used(arena, CSC_REGION_PAGES);
    uint32_t spills = csc_region_used(arena, CSC_REGION_SPILLS);
    const csc_spill_entry *entries = spill_entries(arena);
    uint32_t link = extents->spill, seen = 0;
    const csc_extent *run = extents->first;
    uint32_t in_group = extents->count < CSC_EXTENTS_INLINE ? extents->count : CSC_EXTENTS_INLINE;
    int64_t total = 0;

    for (;;) {
        for (uint32_t i = 0; i < in_group; i++, seen++) {
            if (run[i].count == 0 || run[i].page >= frontier || run[i].count > frontier - run[i].page)
                return -1;
            for (uint32_t page = run[i].page; page < run[i].page + run[i].count; page++)
                if (bit_test_set(pages->claimed, page, set))
                    return -1;
            total += run[i].count;
            if (total > pages->page_count)
                return -1; /* a chain that runs in a circle */
        }
        if (seen == extents->count)
            return link ? -1 : total;
        if (link == 0 || link > spills || bit_test_set(pages->spill_claimed, link - 1, set))
            return -1;
        run = entries[link - 1].extents;
        in_group = entries[link - 1].count;
        if (in_group == 0 || in_group > CSC_SPILL_EXTENTS || in_group > extents->count - seen)
            return -1;
        link = entries[link - 1].next;
    }
}

int csc_arena_claim(csc_arena *arena, const csc_extents *extents, uint64_t bytes)
{
    csc_pages *pages = &arena->pages;
    uint64_t page_bytes = csc_arena_page_bytes(arena);
    int64_t total;

    if (!pages->claimed) {
        pages->claimed = calloc(pages->page_count / 8 + 1, 1);
        pages->spill_claimed = calloc(csc_region_used(arena, CSC_REGION_SPILLS) / 8 + 1, 1);
        if (!pages->claimed || !pages->spill_claimed)
            return csc_fail(CASCADE_ENOMEM, "no memory to take the arena over");
    }
    total = walk_claim(arena, extents, false);
    if (total < 0 || (uint64_t)total * page_bytes < bytes ||
        (uint64_t)total * page_bytes >= bytes + page_bytes + (bytes == 0))
        return csc_fail(CASCADE_ECORRUPT, "an entry of the arena names pages that cannot be its own");
    if (walk_claim(arena, extents, true) < 0)
        return csc_fail(CASCADE_ECORRUPT, "an entry of the arena names pages twice");
    return 0;
}

int csc_arena_claims_done(csc_arena *arena)
{
    csc_pages *pages = &arena->pages;
    uint32_t frontier = csc_region_used(arena, CSC_REGION_PAGES), start = 0;

    pthread_mutex_lock(&pages->lock);
    pages->spill_made = csc_region_used(arena, CSC_REGION_SPILLS);
    for (uint32_t i = 0; i < pages->spill_made; i++)
        if (!pages->spill_claimed || !bit_test_set(pages->spill_claimed, i, false))
            spill_put_back(pages, i);
    for (uint32_t page = 0; page <= frontier; page++) {
        if (page < frontier && !(pages->claimed && bit_test_set(pages->claimed, page, false)))
            continue;
        if (page > start)
            add_locked(pages, start, page - start);
        start = page + 1;
    }
    free(pages->claimed);
    free(pages->spill_claimed);
    pages->claimed = pages->spill_claimed = NULL;
    pthread_mutex_unlock(&pages->lock);
    return 0;
}
