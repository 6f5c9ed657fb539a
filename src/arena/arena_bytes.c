/* SPDX-License-Identifier: MIT */
/* Bytes in and out of pages, and the table through which the arena is a tier. */
#include "arena/arena_private.h"
#include "base/copy.h"
#include "base/fail.h"

#include <stdlib.h>
#include <string.h>

#define DISK_UNIT 4096u

/* A walk over the runs of a content. */
typedef struct byte_walk {
    csc_arena *arena;
    const csc_extents *extents;
    const csc_spill_entry *spill; /* of the current run, NULL among the inline ones */
    uint32_t run;                 /* within its group */
    uint32_t left;                /* runs after this one */
    char *pages;                  /* of the mapping to go by */
    char *at;
    uint64_t room; /* bytes from `at` to the run's end */
} byte_walk;

static void load_run(byte_walk *cursor)
{
    const csc_extent *runs = cursor->spill ? cursor->spill->extents : cursor->extents->first;
    uint64_t page_bytes = csc_arena_page_bytes(cursor->arena);

    cursor->at = cursor->pages + runs[cursor->run].page * page_bytes;
    cursor->room = runs[cursor->run].count * page_bytes;
}

static void start(byte_walk *cursor, csc_arena *arena, const csc_extents *extents, char *pages)
{
    *cursor = (byte_walk){.arena = arena, .extents = extents, .pages = pages};
    if (extents->count == 0)
        return;
    cursor->left = extents->count - 1;
    load_run(cursor);
}

/* Moves on by at most the current run's room; loads the next run at its end. */
static void advance(byte_walk *cursor, uint64_t bytes)
{
    cursor->at += bytes;
    cursor->room -= bytes;
    if (cursor->room || cursor->left == 0)
        return;
    cursor->left--;
    cursor->run++;
    if (cursor->run == (cursor->spill ? cursor->spill->count : CSC_EXTENTS_INLINE)) {
        const csc_spill_entry *entries =
            (const csc_spill_entry *)(const void *)csc_region_start(cursor->arena, CSC_REGION_SPILLS);

        cursor->spill = &entries[(cursor->spill ? cursor->spill->next : cursor->extents->spill) - 1];
        cursor->run = 0;
    }
    load_run(cursor);
}

static void skip(byte_walk *cursor, uint64_t bytes)
{
    while (bytes) {
        uint64_t part = bytes < cursor->room ? bytes : cursor->room;

        advance(cursor, part);
        bytes -= part;
    }
}

size_t csc_arena_pieces(csc_arena *arena, const csc_extents *extents, uint64_t offset, uint64_t bytes,
                        cascade_piece *pieces, size_t room)
{
    byte_walk cursor;
    size_t count = 0;

    if (bytes == 0)
        return 0;
    start(&cursor, arena, extents, csc_region_start(arena, CSC_REGION_PAGES));
    skip(&cursor, offset);
    while (bytes) {
        uint64_t part = bytes < cursor.room ? bytes : cursor.room;

        if (count < room)
            pieces[count] = (cascade_piece){cursor.at, part};
        count++;
        bytes -= part;
        advance(&cursor, part);
    }
    return count;
}

void csc_arena_copy_in(csc_arena *arena, const csc_extents *extents, const cascade_piece *pieces,
                       size_t piece_count)
{
    byte_walk cursor;
    uint64_t total = 0;

    start(&cursor, arena, extents,
          arena->fill ? arena->fill : csc_region_start(arena, CSC_REGION_PAGES));
    for (size_t i = 0; i < piece_count; i++) {
        const char *from = pieces[i].data;
        uint64_t left = pieces[i].bytes;

        total += left;
        while (left) {
            uint64_t part = left < cursor.room ? left : cursor.room;

            csc_copy(CSC_COPY_IN, cursor.at, from, part);
            from += part;
            left -= part;
            advance(&cursor, part);
        }
    }
    if (total % DISK_UNIT)
        memset(cursor.at, 0, DISK_UNIT - total % DISK_UNIT);
    atomic_fetch_add_explicit(&arena->written_bytes, total, memory_order_relaxed);
}

void csc_arena_copy_out(csc_arena *arena, const csc_extents *extents, uint64_t offset,
                        const cascade_piece *pieces, size_t piece_count)
{
    byte_walk cursor;
    uint64_t total = 0;

    start(&cursor, arena, extents, csc_region_start(arena, CSC_REGION_PAGES));
    skip(&cursor, offset);
    for (size_t i = 0; i < piece_count; i++) {
        char *to = pieces[i].data;
        uint64_t left = pieces[i].bytes;

        total += left;
        while (left) {
            uint64_t part = left < cursor.room ? left : cursor.room;

            csc_copy(CSC_COPY_OUT, to, cursor.at, part);
            to += part;
            left -= part;
            advance(&cursor, part);
        }
    }
    atomic_fetch_add_explicit(&arena->read_bytes, total, memory_order_relaxed);
}

uint64_t csc_arena_capacity(const csc_arena *arena)
{
    const csc_arena_region *region = &arena->header->geometry.regions[CSC_REGION_PAGES];
    uint32_t pages =
        atomic_load(&arena->is_short) ? csc_region_used(arena, CSC_REGION_PAGES) : region->max;

    return (uint64_t)pages * region->element_bytes;
}

uint64_t csc_arena_used(const csc_arena *arena)
{
    uint64_t usable = csc_region_used(arena, CSC_REGION_PAGES);
    uint64_t unused = atomic_load(&arena->pages.free_pages);

    return (usable > unused ? usable - unused : 0) * csc_arena_page_bytes(arena);
}

uint64_t csc_arena_ready(const csc_arena *arena)
{
    return atomic_load(&arena->ready_bytes);
}

uint64_t csc_arena_huge(const csc_arena *arena)
{
    return atomic_load(&arena->huge_bytes);
}

uint32_t csc_arena_page_bytes(const csc_arena *arena)
{
    return arena->header->geometry.regions[CSC_REGION_PAGES].element_bytes;
}

bool csc_arena_is_short(const csc_arena *arena)
{
    return atomic_load(&arena->is_short);
}

/* ---- the table ------------------------------------------------------------------------------ */

static csc_arena *arena_of(csc_tier *tier)
{
    return (csc_arena *)(void *)tier;
}

static uint64_t content_bytes(const csc_content *content)
{
    return content->k_bytes + content->v_bytes;
}

static csc_extents extents_of(const csc_place *place)
{
    csc_extents extents;

    memcpy(&extents, place, sizeof extents);
    return extents;
}

static int tier_write(csc_tier *tier, csc_tier_write *writes, size_t count)
{
    int first = 0;

    for (size_t i = 0; i < count; i++) {
        csc_extents extents;

        writes[i].status =
            csc_arena_allocate(arena_of(tier), content_bytes(&writes[i].content), 0, &extents);
        if (writes[i].status == 0) {
            csc_arena_copy_in(arena_of(tier), &extents, writes[i].pieces, writes[i].piece_count);
            memcpy(&writes[i].place, &extents, sizeof extents);
        } else if (first == 0) {
            first = writes[i].status;
        }
    }
    return first;
}

static int tier_sync(csc_tier *tier)
{
    (void)tier; /* stored is as safe as shared memory is: it survives the process */
    return 0;
}

static int read_one(csc_arena *arena, const csc_tier_read *read)
{
    csc_extents extents = extents_of(&read->place);
    uint64_t total = 0;

    for (size_t i = 0; i < read->piece_count; i++)
        total += read->pieces[i].bytes;
    if (read->offset > content_bytes(&read->content) ||
        total > content_bytes(&read->content) - read->offset)
        return csc_fail(CASCADE_ESIZE, "bytes %llu to %llu are outside the block",
                        (unsigned long long)read->offset, (unsigned long long)(read->offset + total));
    csc_arena_copy_out(arena, &extents, read->offset, read->pieces, read->piece_count);
    if (read->arrived)
        read->arrived(read->context, total);
    return 0;
}

static int tier_read(csc_tier *tier, csc_tier_read *reads, size_t count)
{
    int first_failure = 0;

    for (size_t i = 0; i < count; i++) {
        reads[i].late = false;
        reads[i].status = read_one(arena_of(tier), &reads[i]);
        if (first_failure == 0)
            first_failure = reads[i].status;
    }
    return first_failure;
}

static void tier_drop(csc_tier *tier, const csc_place *place, const csc_content *content)
{
    csc_extents extents = extents_of(place);

    (void)content;
    csc_arena_free(arena_of(tier), &extents);
}

static void tier_stats(csc_tier *tier, cascade_tier_stats *stats)
{
    csc_arena *arena = arena_of(tier);

    stats->capacity_bytes = csc_arena_capacity(arena);
    stats->used_bytes = csc_arena_used(arena);
    stats->read_bytes = atomic_load(&arena->read_bytes);
    stats->written_bytes = atomic_load(&arena->written_bytes);
}

static void tier_close(csc_tier **tier)
{
    csc_arena *arena = *tier ? arena_of(*tier) : NULL;

    *tier = NULL;
    csc_arena_close(&arena, false);
}

static int tier_view(csc_tier *tier, const csc_place *place, const csc_content *content,
                     cascade_piece *pieces, size_t *count)
{
    csc_extents extents = extents_of(place);
    size_t room = *count;

    *count = csc_arena_pieces(arena_of(tier), &extents, 0, content_bytes(content), pieces, room);
    return *count <= room ? 0 : csc_fail(CASCADE_ESIZE, "the block lies in %zu pieces", *count);
}

const csc_tier_ops csc_arena_tier_ops = {
    .name = "dram",
    .write = tier_write,
    .sync = tier_sync,
    .read = tier_read,
    .drop = tier_drop,
    .stats = tier_stats,
    .close = tier_close,
    .view = tier_view,
};

csc_tier *csc_arena_tier(csc_arena *arena)
{
    return &arena->tier;
}
