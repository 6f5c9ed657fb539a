/* SPDX-License-Identifier: MIT */
/*
 * Taking over an arena whose bytes are damaged. The input is a list of changes, five bytes each, to a
 * small arena that a dead owner left: where: 0 header, 1 contents, 2 spills, 3 claims of slots, 4 cut
 * the file, 5 mend the header's checksum offset: 3 bytes, little-endian, taken modulo the size of that
 * part value: XORed onto the byte there Then it is opened, its contents are claimed as
 * src/store/recover.c does it, and pages are handed out. No page may belong to two; what cannot be taken
 * over must be a named error and stay where it is.
 */
#include "arena/arena.h"
#include "base/checksum.h"

#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 64, CONTENTS = 20 };

static char folder[256], path[512];

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void clean_up(void)
{
    unlink(path);
    rmdir(folder);
}

static void demand(bool condition)
{
    if (!condition)
        abort();
}

static csc_arena_options options_of(void)
{
    if (!*folder) {
        const char *base = getenv("CASCADE_SHM_DIR");

        snprintf(folder, sizeof folder, "%s/arena_fuzz.XXXXXX", base && *base ? base : "/dev/shm");
        demand(mkdtemp(folder));
        atexit(clean_up);
    }
    return (csc_arena_options){.shm_directory = folder,
                               .directory = "/nowhere",
                               .page_bytes = PAGE,
                               .dram_bytes = PAGES * PAGE};
}

static csc_content_entry *contents_of(csc_arena *arena)
{
    csc_arena_header *header = csc_arena_base(arena);

    return (void *)((char *)header + header->geometry.regions[CSC_REGION_CONTENTS].offset);
}

/* Blocks of one page to many, some in so many runs that they need spills. */
static csc_arena_header leave_arena(void)
{
    csc_arena_options options = options_of();
    csc_extents singles[PAGES];
    csc_arena_header header;
    csc_arena *arena;
    bool taken_over;

    unlink(path);
    demand(csc_arena_open(&options, &arena, &taken_over) == 0 && !taken_over);
    snprintf(path, sizeof path, "%s", csc_arena_path(arena));
    for (int i = 0; i < PAGES; i++)
        demand(csc_arena_allocate(arena, PAGE, 0, &singles[i]) == 0);
    for (int i = 0; i < PAGES; i += 2)
        csc_arena_free(arena, &singles[i]);
    for (int i = 0; i < CONTENTS; i++) {
        csc_content_entry *entry = &contents_of(arena)[i];
        uint64_t bytes = i == 0 ? 12 * PAGE : i == 1 ? 5 * PAGE - 1 : PAGE / 2;

        if (csc_arena_allocate(arena, bytes, 0, &entry->dram) != 0)
            break;
        entry->content.k_bytes = bytes;
        atomic_store(&entry->state,
                     CSC_CONTENT_LIVE | (i % 5 == 4 ? CSC_CONTENT_DIGEST : CSC_CONTENT_RESIDENT));
    }
    memcpy(&header, csc_arena_base(arena), sizeof header);
    atomic_store(&((csc_arena_header *)csc_arena_base(arena))->state, CSC_ARENA_LIVE);
    csc_arena_close(&arena, true);
    return header;
}

static void damage(int fd, const csc_arena_header *header, const uint8_t *change)
{
    const struct {
        uint64_t offset, bytes;
    } parts[] = {
        {0, sizeof *header},
        {header->geometry.regions[CSC_REGION_CONTENTS].offset, CONTENTS * sizeof(csc_content_entry)},
        {header->geometry.regions[CSC_REGION_SPILLS].offset, 8 * sizeof(csc_spill_entry)},
        {header->geometry.slots_offset, CSC_SLOT_AREAS * sizeof(uint32_t)},
    };
    uint64_t offset = change[1] | (uint64_t)change[2] << 8 | (uint64_t)change[3] << 16;
    unsigned where = change[0] % 6;
    csc_arena_header now;
    uint8_t byte = 0;

    if (where == 4) {
        demand(ftruncate(fd, (off_t)offset) == 0);
    } else if (where == 5) {
        if (pread(fd, &now, sizeof now, 0) != sizeof now)
            return;
        now.geometry_checksum = csc_checksum(&now.geometry, sizeof now.geometry, 0);
        demand(pwrite(fd, &now, sizeof now, 0) == sizeof now);
    } else {
        offset = parts[where].offset + offset % parts[where].bytes;
        if (pread(fd, &byte, 1, (off_t)offset) != 1)
            return;
        byte ^= change[4];
        demand(pwrite(fd, &byte, 1, (off_t)offset) == 1);
    }
}

/* Claims what looks like a block; then all that is not claimed can be had, and no more. */
static void rebuild(csc_arena *arena)
{
    csc_arena_header *header = csc_arena_base(arena);
    uint32_t count = atomic_load(&header->used[CSC_REGION_CONTENTS]);
    uint64_t claimed = 0, usable = (uint64_t)atomic_load(&header->used[CSC_REGION_PAGES]) * PAGE;
    csc_extents extents;

    for (uint32_t i = 0; i < count && i < 4 * CONTENTS; i++) {
        csc_content_entry *entry = &contents_of(arena)[i];
        uint64_t state = atomic_load(&entry->state), bytes = entry->content.k_bytes;

        if (!(state & CSC_CONTENT_LIVE) || !(state & CSC_CONTENT_RESIDENT))
            continue;
        if (bytes <= CASCADE_BLOCK_BYTES_MAX && csc_arena_claim(arena, &entry->dram, bytes) == 0)
            claimed += (bytes + PAGE - 1) / PAGE * PAGE;
        else
            entry->dram = (csc_extents){0};
    }
    demand(csc_arena_claims_done(arena) == 0);
    demand(claimed <= usable && csc_arena_used(arena) >= claimed);
    while (csc_arena_allocate(arena, PAGE, 0, &extents) == 0) {
        uint8_t bytes[PAGE] = {1};
        cascade_piece piece = {bytes, sizeof bytes};

        csc_arena_copy_in(arena, &extents, &piece, 1);
    }
    demand(csc_arena_used(arena) == csc_arena_capacity(arena) || csc_arena_is_short(arena));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    csc_arena_header header = leave_arena();
    csc_arena_options options = options_of();
    int fd = open(path, O_RDWR | O_CLOEXEC), code;
    csc_arena *arena = NULL;
    bool taken_over = false;

    demand(fd >= 0);
    for (size_t i = 0; i + 5 <= size && i < 5 * 64; i += 5)
        damage(fd, &header, data + i);
    close(fd);
    code = csc_arena_open(&options, &arena, &taken_over);
    if (code) {
        demand(code == CASCADE_EFORMAT || code == CASCADE_ECORRUPT);
        demand(access(path, F_OK) == 0);
        return 0;
    }
    if (taken_over)
        rebuild(arena);
    csc_arena_close(&arena, false);
    return 0;
}
