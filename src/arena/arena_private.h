/* SPDX-License-Identifier: MIT */
/* What the files of src/arena share. */
#ifndef CSC_ARENA_ARENA_PRIVATE_H
#define CSC_ARENA_ARENA_PRIVATE_H

#include "arena/arena.h"
#include <pthread.h>
#include <stdatomic.h>

#define CSC_HUGE_BYTES (UINT64_C(2) << 20)

/* Free runs of pages: boundary tags in per-page arrays, lists by size class (pages.c). */
#define CSC_RUN_CLASSES 32
typedef struct csc_pages {
    pthread_mutex_t lock;
    uint32_t *tag;  /* at both ends of a free run: RUN_FREE | length; else 0 */
    uint32_t *next; /* of the run that starts here, number + 1 */
    uint32_t *previous;
    uint32_t heads[CSC_RUN_CLASSES]; /* number + 1 */
    uint32_t page_count;             /* of the arrays */
    _Atomic uint64_t free_pages;
    uint32_t *spill_free; /* stack */
    uint32_t spill_free_count, spill_free_room, spill_made;
    uint8_t *claimed; /* during take-over: one bit a page */
    uint8_t *spill_claimed;
} csc_pages;

struct csc_arena {
    csc_tier tier;
    int fd; /* holds the lock */
    char path[4096 + 64];
    char *base;
    char *fill; /* of an arena that another process owns: its pages, mapped for writing */
    uint64_t mapped_bytes;
    uint32_t area; /* of an arena that another process owns; 0: this one does */
    csc_arena_header *header;
    pthread_mutex_t grow_lock; /* of the pages' frontier */
    pthread_t prefault_thread;
    bool prefault_started;
    _Atomic bool prefault_stop;
    _Atomic bool is_short;
    uint64_t short_until_ms; /* grow_lock: no attempt to grow before */
    _Atomic uint64_t ready_bytes;
    _Atomic uint64_t huge_bytes;
    _Atomic uint64_t read_bytes;
    _Atomic uint64_t written_bytes;
    csc_pages pages;
};

static inline char *csc_region_start(csc_arena *arena, unsigned region)
{
    return arena->base + arena->header->geometry.regions[region].offset;
}

static inline uint32_t csc_region_used(const csc_arena *arena, unsigned region)
{
    return atomic_load_explicit(&arena->header->used[region], memory_order_acquire);
}

/* arena.c */
/** Whether a header can be that of an arena whose file has `file_bytes`. Errors: CASCADE_EFORMAT,
 * CASCADE_ECORRUPT. */
int csc_arena_check_header(const csc_arena_header *header, uint64_t file_bytes, const char *path);

/** Clears an area's slots and ring. */
void csc_arena_clear_area(csc_arena *arena, uint32_t area);

/* arena_pages.c */
int csc_pages_init(csc_pages *pages, uint32_t page_count);
void csc_pages_destroy(csc_pages *pages);
/** Adds a run to the free ones (also at growth). Takes the lock. */
void csc_pages_add(csc_pages *pages, uint32_t page, uint32_t count);

/* arena_grow.c */
/** Makes `count` more pages usable; CASCADE_ENOSPC at the budget or when shared memory is full. */
int csc_arena_extend_pages(csc_arena *arena, uint32_t count);
void csc_arena_stop_prefault(csc_arena *arena);
/** fallocate of a byte range of the file. */
int csc_arena_allocate_range(csc_arena *arena, uint64_t offset, uint64_t bytes);

extern const csc_tier_ops csc_arena_tier_ops;

#endif
