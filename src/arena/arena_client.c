/* SPDX-License-Identifier: MIT */
/* A process that uses an arena it does not own. */
#include "arena/arena_private.h"
#include "base/fail.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static char *slots_of(csc_arena *arena)
{
    return arena->base + arena->header->geometry.slots_offset;
}

static int claim_area(csc_arena *arena)
{
    _Atomic uint32_t *claims = (void *)slots_of(arena);

    for (uint32_t area = 1; area < CSC_SLOT_AREAS; area++) {
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 1 + area, .l_len = 1};

        if (fcntl(arena->fd, F_OFD_SETLK, &lock) != 0)
            continue;
        csc_arena_clear_area(arena, area); /* a dead holder's pins are nobody's */
        atomic_store(&claims[area], (uint32_t)getpid());
        arena->area = area;
        return 0;
    }
    return csc_fail(CASCADE_EAGAIN, "all %u slot areas of %s are taken", CSC_SLOT_AREAS - 1,
                    arena->path);
}

/* Maps all but the slots read-only, so that a stray store of a client cannot harm the store; and the
 * pages once more, for writing: only csc_arena_copy_in goes by that mapping. */
static int map_arena(csc_arena *arena, uint64_t bytes)
{
    const csc_arena_geometry *geometry;
    const csc_arena_region *pages;
    char *base = mmap(NULL, bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, arena->fd, 0), *fill;

    if (base == MAP_FAILED)
        return csc_fail_errno(errno, "cannot map the arena %s", arena->path);
    arena->base = base;
    arena->mapped_bytes = bytes;
    arena->header = (csc_arena_header *)(void *)base;
    geometry = &arena->header->geometry;
    pages = &geometry->regions[CSC_REGION_PAGES];
    if (mprotect(base + geometry->slots_offset, CSC_SLOTS_BYTES, PROT_READ | PROT_WRITE) != 0)
        return csc_fail_errno(errno, "cannot map the slots of %s for writing", arena->path);
    fill = mmap(NULL, bytes - pages->offset, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                arena->fd, (off_t)pages->offset);
    if (fill == MAP_FAILED)
        return csc_fail_errno(errno, "cannot map the pages of %s for writing", arena->path);
    arena->fill = fill;
    madvise(base, bytes, MADV_DONTDUMP);
    madvise(fill, bytes - pages->offset, MADV_DONTDUMP);
    return 0;
}

/* A descriptor of one's own: locks belong to it, not to the process. */
static int open_file(csc_arena *arena, const char *path, int fd)
{
    if (fd < 0)
        snprintf(arena->path, sizeof arena->path, "%s", path);
    else
        snprintf(arena->path, sizeof arena->path, "/proc/self/fd/%d", fd);
    arena->fd = open(arena->path, O_RDWR | O_CLOEXEC | (fd < 0 ? O_NOFOLLOW : 0));
    if (arena->fd < 0)
        return errno == ENOENT ? csc_fail(CASCADE_ENOSTORE, "there is no arena %s", arena->path)
                               : csc_fail_errno(errno, "cannot open the arena %s", arena->path);
    return 0;
}

/* Reads and checks the header without mapping anything. */
static int check_file(const csc_arena *arena, csc_arena_header *header)
{
    struct stat info;
    int code;

    if (fstat(arena->fd, &info) != 0 ||
        pread(arena->fd, header, sizeof *header, 0) != (ssize_t)sizeof *header ||
        header->geometry.magic == 0)
        return csc_fail(CASCADE_EAGAIN, "the arena %s is being made", arena->path);
    code = csc_arena_check_header(header, (uint64_t)info.st_size, arena->path);
    if (code)
        return code;
    if (atomic_load(&header->state) != CSC_ARENA_LIVE)
        return csc_fail(CASCADE_EAGAIN, "the arena %s is being made or closed", arena->path);
    return 0;
}

int csc_arena_attach(const char *path, int fd, csc_arena **result)
{
    csc_arena *arena = calloc(1, sizeof *arena);
    csc_arena_header *header = malloc(sizeof *header);
    int code = 0;

    if (!arena || !header)
        code = csc_fail(CASCADE_ENOMEM, "no memory to open an arena");
    if (arena)
        arena->fd = -1;
    if (code == 0)
        code = open_file(arena, path, fd);
    if (code == 0)
        code = check_file(arena, header);
    if (code == 0)
        code = map_arena(arena, header->geometry.file_bytes);
    if (code == 0)
        code = claim_area(arena);
    free(header);
    if (code)
        csc_arena_detach(&arena);
    else
        *result = arena;
    return code;
}

void csc_arena_detach(csc_arena **slot)
{
    csc_arena *arena = *slot;

    if (!arena)
        return;
    *slot = NULL;
    if (arena->area && arena->fd >= 0) /* not in a forked child: it is the parent's */
        atomic_store(&((_Atomic uint32_t *)(void *)slots_of(arena))[arena->area], 0);
    if (arena->fill)
        munmap(arena->fill,
               arena->mapped_bytes - arena->header->geometry.regions[CSC_REGION_PAGES].offset);
    if (arena->base)
        munmap(arena->base, arena->mapped_bytes);
    if (arena->fd >= 0)
        close(arena->fd);
    free(arena);
}

uint32_t csc_arena_area(const csc_arena *arena)
{
    return arena->area;
}

bool csc_arena_is_file(const csc_arena *arena, int fd)
{
    struct stat mine, other;

    return fstat(arena->fd, &mine) == 0 && fstat(fd, &other) == 0 && mine.st_dev == other.st_dev &&
           mine.st_ino == other.st_ino;
}
