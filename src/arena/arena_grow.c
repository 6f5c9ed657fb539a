/* SPDX-License-Identifier: MIT */
/*
 * Growth: fallocate first, then touch, then publish. Pages come in steps of 2 MiB and more so that they
 * can be collapsed into huge pages at once (MADV_COLLAPSE does that whatever the system's settings say,
 * Linux 6.1): touching 4 KiB pages one by one costs fifty times the copy that follows.
 */
#include "arena/arena_private.h"
#include "base/clock.h"
#include "base/fail.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define REGION_STEP_BYTES   (UINT64_C(256) << 10)
#define PREFAULT_STEP_BYTES (UINT64_C(16) << 20)
#define SHORT_RETRY_MS      1000u

int csc_arena_allocate_range(csc_arena *arena, uint64_t offset, uint64_t bytes)
{
    int result;

    do
        result = fallocate(arena->fd, 0, (off_t)offset, (off_t)bytes);
    while (result != 0 && errno == EINTR);
    if (result != 0) /* a memory limit says ENOMEM; to the store that is a full shared memory */
        return csc_fail_errno(errno == ENOMEM ? ENOSPC : errno,
                              "shared memory has no room for %llu more bytes of %s",
                              (unsigned long long)bytes, arena->path);
    return 0;
}

int csc_arena_grow(csc_arena *arena, unsigned region_number, uint32_t count)
{
    const csc_arena_region *region = &arena->header->geometry.regions[region_number];
    uint32_t used = csc_region_used(arena, region_number);
    bool buckets = region_number <= CSC_REGION_CONTENT_BUCKETS;
    uint64_t wanted;
    int code;

    if (count <= used)
        return 0;
    if (count > region->max)
        return csc_fail(CASCADE_ENOSPC, "the index is full: %u entries", region->max);
    wanted = count;
    if (!buckets) {
        /* A step at a time, and an eighth more than there is, so that growth is rare. */
        uint64_t step = REGION_STEP_BYTES / region->element_bytes;

        wanted = used + step > count ? used + step : count;
        if (wanted < used + (uint64_t)used / 8)
            wanted = used + (uint64_t)used / 8;
        if (wanted > region->max)
            wanted = region->max;
    }
    code = csc_arena_allocate_range(arena, region->offset + (uint64_t)used * region->element_bytes,
                                    (wanted - used) * region->element_bytes);
    if (code == 0 && !buckets)
        atomic_store(&arena->header->used[region_number], (uint32_t)wanted);
    return code;
}

/* Touches fresh pages, as huge pages where whole ones fit. */
static void touch(csc_arena *arena, char *start, uint64_t bytes)
{
    uint64_t head = (CSC_HUGE_BYTES - (uintptr_t)start % CSC_HUGE_BYTES) % CSC_HUGE_BYTES;
    uint64_t huge = bytes > head ? (bytes - head) / CSC_HUGE_BYTES * CSC_HUGE_BYTES : 0;

    if (huge && madvise(start + head, huge, MADV_COLLAPSE) == 0)
        atomic_fetch_add(&arena->huge_bytes, huge);
    /* Also over the collapsed part: what is mapped already costs next to nothing. */
    (void)madvise(start, bytes, MADV_POPULATE_WRITE);
}

/* Shared memory is full. The first pages are the largest half that fits, for a tier without any would be
 * of no use; else what is left is left to the index, which has to grow too. */
static int extend_short(csc_arena *arena, uint64_t offset, uint64_t page_bytes, uint32_t used,
                        uint32_t *count)
{
    int code = CASCADE_ENOSPC;

    if (!atomic_exchange(&arena->is_short, true))
        csc_log(CSC_LOG_WARNING, "%s; the dram tier makes do with less", csc_fail_text());
    arena->short_until_ms = csc_clock_coarse_ms() + SHORT_RETRY_MS;
    while (used == 0 && code && *count > 1) {
        *count /= 2;
        code = csc_arena_allocate_range(arena, offset, *count * page_bytes);
    }
    return code;
}

int csc_arena_extend_pages(csc_arena *arena, uint32_t count)
{
    const csc_arena_region *region = &arena->header->geometry.regions[CSC_REGION_PAGES];
    uint32_t used, page_bytes = region->element_bytes;
    uint64_t offset;
    int code;

    pthread_mutex_lock(&arena->grow_lock);
    used = csc_region_used(arena, CSC_REGION_PAGES);
    if (count > region->max - used)
        count = region->max - used;
    /* An attempt that fails costs the kernel the work of one that succeeds: not at every put. */
    if (count == 0 || (atomic_load(&arena->is_short) && csc_clock_coarse_ms() < arena->short_until_ms)) {
        pthread_mutex_unlock(&arena->grow_lock);
        return CASCADE_ENOSPC;
    }
    offset = region->offset + (uint64_t)used * page_bytes;
    code = csc_arena_allocate_range(arena, offset, (uint64_t)count * page_bytes);
    if (code)
        code = extend_short(arena, offset, page_bytes, used, &count);
    else
        atomic_store(&arena->is_short, false);
    if (code == 0) {
        uint64_t bytes = (uint64_t)count * page_bytes;

        touch(arena, arena->base + offset, bytes);
        atomic_fetch_add(&arena->ready_bytes, bytes);
        atomic_store(&arena->header->used[CSC_REGION_PAGES], used + count);
        csc_pages_add(&arena->pages, used, count);
    }
    pthread_mutex_unlock(&arena->grow_lock);
    return code;
}

static void *prefault(void *context)
{
    csc_arena *arena = context;
    uint32_t step = (uint32_t)(PREFAULT_STEP_BYTES / csc_arena_page_bytes(arena));

    while (!atomic_load(&arena->prefault_stop) && csc_arena_extend_pages(arena, step) == 0)
        ;
    return NULL;
}

int csc_arena_start_prefault(csc_arena *arena)
{
    int err = pthread_create(&arena->prefault_thread, NULL, prefault, arena);

    if (err)
        return csc_fail_errno(err, "cannot start the pre-fault thread");
    arena->prefault_started = true;
    return 0;
}

void csc_arena_stop_prefault(csc_arena *arena)
{
    if (!arena->prefault_started)
        return;
    atomic_store(&arena->prefault_stop, true);
    pthread_join(arena->prefault_thread, NULL);
    arena->prefault_started = false;
}
