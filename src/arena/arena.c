/* SPDX-License-Identifier: MIT */
/*
 * Opening and closing the arena file: its name, its lock, making it, taking it over.
 *
 * The lock (an open-file-description lock on byte 0) is the whole of the exclusion between processes of
 * a node: the kernel drops it when the last descriptor goes, so that a killed owner holds nothing.
 */
#include "arena/arena_private.h"
#include "base/checksum.h"
#include "base/fail.h"
#include "base/log.h"
#include "base/mark.h"
#include "format/settings.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEY_MAX     (UINT32_C(1) << 26)
#define CONTENT_MAX (UINT32_C(1) << 26)
#define BUCKET_MAX  (UINT32_C(1) << 26)
#define SPILL_MAX   (UINT32_C(1) << 22)
#define PAGE_MAX    (UINT32_MAX / 2)

static char *slots_of(csc_arena *arena)
{
    return arena->base + arena->header->geometry.slots_offset;
}

void csc_arena_clear_area(csc_arena *arena, uint32_t area)
{
    _Atomic uint64_t *words = (void *)(slots_of(arena) + CSC_AREA_SLOTS_OFFSET(area));
    _Atomic uint64_t *ring = (void *)(slots_of(arena) + CSC_AREA_RING_OFFSET(area));

    for (uint32_t i = 0; i < CSC_AREA_SLOTS; i++)
        atomic_store(&words[i], 0);
    for (uint32_t i = 0; area && i < CSC_AREA_RING_BYTES / sizeof *ring; i++)
        atomic_store_explicit(&ring[i], 0, memory_order_relaxed);
}

bool csc_arena_is_claimed(const csc_arena *arena, uint32_t area)
{
    const _Atomic uint32_t *claims = (const void *)(arena->base + arena->header->geometry.slots_offset);

    return area > 0 && area < CSC_SLOT_AREAS && atomic_load(&claims[area]);
}

_Atomic uint64_t *csc_arena_ring(csc_arena *arena, uint32_t area, _Atomic uint64_t **taken)
{
    char *ring = slots_of(arena) + CSC_AREA_RING_OFFSET(area);

    if (!csc_arena_is_claimed(arena, area))
        return NULL;
    *taken = (void *)ring;
    return (void *)(ring + 4096);
}

static uint64_t round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

void csc_arena_name(const csc_arena_options *options, char *path, size_t room)
{
    uint64_t hash = csc_checksum(options->store_uuid, sizeof options->store_uuid, options->rank);

    hash = csc_checksum(options->directory, strlen(options->directory), hash);
    snprintf(path, room, "%s/cascade-%u-%016llx.arena", options->shm_directory, (unsigned)geteuid(),
             (unsigned long long)hash);
}

static int try_lock(int fd, off_t byte)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    return fcntl(fd, F_OFD_SETLK, &lock);
}

static int fail_busy(int fd, const char *directory)
{
    static const size_t offset = offsetof(csc_arena_header, owner_pid);
    uint32_t pid = 0;

    if (pread(fd, &pid, sizeof pid, (off_t)offset) != (ssize_t)sizeof pid)
        pid = 0;
    return csc_fail(CASCADE_EBUSY,
                    "store %s is in use by process %u; close it there or use another rank", directory,
                    pid);
}

/* Opens (makes) the file and locks it; again if it was unlinked between the two. */
static int open_locked(csc_arena *arena, const csc_arena_options *options)
{
    for (int attempt = 0; attempt < 100; attempt++) {
        struct stat by_fd, by_path;
        int fd = open(arena->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

        if (fd < 0)
            return csc_fail_errno(errno, "cannot open the arena %s", arena->path);
        if (try_lock(fd, 0) != 0) {
            int code = errno == EAGAIN || errno == EACCES
                           ? fail_busy(fd, options->directory)
                           : csc_fail_errno(errno, "cannot lock the arena %s", arena->path);

            close(fd);
            return code;
        }
        if (fstat(fd, &by_fd) == 0 && stat(arena->path, &by_path) == 0 &&
            by_fd.st_ino == by_path.st_ino) {
            if (by_fd.st_uid != geteuid()) {
                close(fd);
                return csc_fail(CASCADE_EACCES, "the arena %s belongs to another user", arena->path);
            }
            arena->fd = fd;
            return 0;
        }
        close(fd);
    }
    return csc_fail(CASCADE_EAGAIN, "the arena %s keeps being replaced", arena->path);
}

/* Where everything lies, for so many pages of that size. */
static void place_regions(csc_arena_geometry *geometry, uint32_t page_bytes, uint32_t pages)
{
    const struct {
        uint32_t max, bytes;
    } shapes[CSC_REGION_COUNT] = {
        [CSC_REGION_KEY_BUCKETS] = {BUCKET_MAX, sizeof(uint32_t)},
        [CSC_REGION_CONTENT_BUCKETS] = {BUCKET_MAX, sizeof(uint32_t)},
        [CSC_REGION_KEYS] = {KEY_MAX, sizeof(csc_key_entry)},
        [CSC_REGION_CONTENTS] = {CONTENT_MAX, sizeof(csc_content_entry)},
        [CSC_REGION_SPILLS] = {SPILL_MAX, sizeof(csc_spill_entry)},
        [CSC_REGION_PAGES] = {pages, page_bytes},
    };
    uint64_t offset = CSC_ARENA_HEADER_BYTES;

    geometry->slots_offset = offset;
    offset += CSC_SLOTS_BYTES;
    for (unsigned i = 0; i < CSC_REGION_COUNT; i++) {
        offset = round_up(offset, CSC_HUGE_BYTES);
        geometry->regions[i] =
            (csc_arena_region){.offset = offset, .max = shapes[i].max, .element_bytes = shapes[i].bytes};
        offset += (uint64_t)shapes[i].max * shapes[i].bytes;
    }
    geometry->file_bytes = round_up(offset, CSC_HUGE_BYTES);
}

/* The device a store's directory is on; of one that is gone, the device of the folder it was in. 0:
 * neither is there. */
static uint64_t device_of(const char *directory)
{
    char parent[CSC_ARENA_DIRECTORY_BYTES];
    char *slash;
    struct stat info;

    if (stat(directory, &info) == 0)
        return (uint64_t)info.st_dev;
    snprintf(parent, sizeof parent, "%s", directory);
    slash = strrchr(parent, '/');
    if (!slash)
        return 0;
    slash[1] = 0;
    return stat(parent, &info) == 0 ? (uint64_t)info.st_dev : 0;
}

static void lay_out(const csc_arena_options *options, csc_arena_geometry *geometry)
{
    memset(geometry, 0, sizeof *geometry);
    geometry->magic = CSC_ARENA_MAGIC;
    geometry->version = CSC_ARENA_VERSION;
    geometry->rank = options->rank;
    memcpy(geometry->store_uuid, options->store_uuid, sizeof geometry->store_uuid);
    snprintf(geometry->directory, sizeof geometry->directory, "%s", options->directory);
    geometry->device = options->device ? options->device : device_of(options->directory);
    if (getrandom(&geometry->hash_seed, sizeof geometry->hash_seed, 0) != sizeof geometry->hash_seed)
        geometry->hash_seed = UINT64_C(0x9e3779b97f4a7c15);
    place_regions(geometry, options->page_bytes, (uint32_t)(options->dram_bytes / options->page_bytes));
}

/* A second open of the file, to map it by: a mapping keeps its open file alive, and with it the lock,
 * also in a forked child that has closed the lock's descriptor. */
static int open_unlocked(const csc_arena *arena)
{
    struct stat mine, locked;
    int fd = open(arena->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);

    if (fd >= 0 && (fstat(fd, &mine) != 0 || fstat(arena->fd, &locked) != 0 ||
                    mine.st_ino != locked.st_ino || mine.st_dev != locked.st_dev)) {
        close(fd);
        errno = ESTALE;
        fd = -1;
    }
    return fd;
}

static int map_file(csc_arena *arena, uint64_t bytes)
{
    /* Aligned to huge pages: reserve more, then map over the aligned part. */
    uint64_t reserve = bytes + CSC_HUGE_BYTES;
    char *space = mmap(NULL, reserve, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    char *base;
    int fd;

    if (space == MAP_FAILED)
        return csc_fail_errno(errno, "cannot reserve %llu bytes of address space",
                              (unsigned long long)reserve);
    base = (char *)round_up((uintptr_t)space, CSC_HUGE_BYTES);
    fd = open_unlocked(arena);
    if (fd < 0 || mmap(base, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd,
                       0) == MAP_FAILED) {
        int err = errno;

        if (fd >= 0)
            close(fd);
        munmap(space, reserve);
        return csc_fail_errno(err, "cannot map the arena %s", arena->path);
    }
    close(fd);
    if (base > space)
        munmap(space, (size_t)(base - space));
    if (base + bytes < space + reserve)
        munmap(base + bytes, (size_t)(space + reserve - (base + bytes)));
    madvise(base, bytes, MADV_DONTDUMP);
    arena->base = base;
    arena->mapped_bytes = bytes;
    arena->header = (csc_arena_header *)(void *)base;
    return 0;
}

static int make_file(csc_arena *arena, const csc_arena_options *options)
{
    csc_arena_geometry *geometry = malloc(sizeof *geometry);
    int code;

    if (!geometry)
        return csc_fail(CASCADE_ENOMEM, "no memory for the arena's header");
    lay_out(options, geometry);
    if (ftruncate(arena->fd, 0) != 0 || ftruncate(arena->fd, (off_t)geometry->file_bytes) != 0) {
        code = csc_fail_errno(errno, "cannot size the arena %s to %llu bytes", arena->path,
                              (unsigned long long)geometry->file_bytes);
        goto out;
    }
    code = csc_arena_allocate_range(arena, 0, geometry->slots_offset + CSC_SLOTS_BYTES);
    if (code == 0)
        code = map_file(arena, geometry->file_bytes);
    if (code == 0) {
        arena->header->geometry = *geometry;
        arena->header->geometry_checksum = csc_checksum(geometry, sizeof *geometry, 0);
    }
out:
    free(geometry);
    return code;
}

/* Whether the regions are where this version puts them. */
static bool is_laid_out(const csc_arena_geometry *geometry)
{
    const csc_arena_region *pages = &geometry->regions[CSC_REGION_PAGES];
    csc_arena_geometry expected;

    if (pages->element_bytes < CSC_PAGE_BYTES_MIN || pages->element_bytes > CSC_PAGE_BYTES_MAX ||
        (pages->element_bytes & (pages->element_bytes - 1)) || pages->max == 0 || pages->max > PAGE_MAX)
        return false;
    place_regions(&expected, pages->element_bytes, pages->max);
    return geometry->slots_offset == expected.slots_offset &&
           geometry->file_bytes == expected.file_bytes &&
           memcmp(geometry->regions, expected.regions, sizeof expected.regions) == 0;
}

int csc_arena_check_header(const csc_arena_header *header, uint64_t file_bytes, const char *path)
{
    const csc_arena_geometry *geometry = &header->geometry;

    if (geometry->magic != CSC_ARENA_MAGIC || geometry->version != CSC_ARENA_VERSION)
        return csc_fail(
            CASCADE_EFORMAT,
            "%s is not an arena of this version of Cascade; open it with the version that made it, "
            "or remove it and lose what was not flushed",
            path);
    if (csc_checksum(geometry, sizeof *geometry, 0) != header->geometry_checksum ||
        geometry->file_bytes > file_bytes || !is_laid_out(geometry) ||
        memchr(geometry->directory, 0, sizeof geometry->directory) == NULL)
        return csc_fail(
            CASCADE_ECORRUPT,
            "the header of the arena %s is damaged; remove the file to go on without what was not "
            "flushed",
            path);
    return 0;
}

/* Whether a dead owner's arena is this store's and holds what it says it holds. */
static int check_dead(const csc_arena *arena, const csc_arena_header *header, const struct stat *info,
                      const csc_arena_options *options)
{
    const csc_arena_geometry *geometry = &header->geometry;
    uint64_t published = 0;
    int code = csc_arena_check_header(header, (uint64_t)info->st_size, arena->path);

    if (code)
        return code;
    if (memcmp(geometry->store_uuid, options->store_uuid, sizeof geometry->store_uuid) != 0 ||
        geometry->rank != options->rank)
        return csc_fail(CASCADE_EFORMAT, "the arena %s belongs to another store (%s)", arena->path,
                        geometry->directory);
    for (unsigned i = 0; i < CSC_REGION_COUNT; i++) {
        uint32_t used = atomic_load(&header->used[i]);

        if (used > geometry->regions[i].max)
            return csc_fail(CASCADE_ECORRUPT, "the header of the arena %s contradicts itself",
                            arena->path);
        published += (uint64_t)used * geometry->regions[i].element_bytes;
    }
    /* Space was allocated before it was published: a count beyond that is damage, and would make
     * gigabytes of nothing. */
    return published > (uint64_t)info->st_blocks * 512
               ? csc_fail(CASCADE_ECORRUPT, "the arena %s is smaller than its header says", arena->path)
               : 0;
}

/* What the file at hand is: 0 to make the arena anew (`*dead` false) or to take it over. */
static int look_at(const csc_arena *arena, const csc_arena_options *options, csc_arena_header *header,
                   bool *dead)
{
    struct stat info;
    uint32_t state;

    *dead = false;
    if (fstat(arena->fd, &info) != 0)
        return csc_fail_errno(errno, "cannot stat the arena %s", arena->path);
    if (info.st_size == 0)
        return 0;
    if (pread(arena->fd, header, sizeof *header, 0) != (ssize_t)sizeof *header)
        return csc_fail(CASCADE_EFORMAT, "%s is too short for an arena of Cascade; remove it",
                        arena->path);
    state = atomic_load(&header->state);
    if (header->geometry.magic == 0 && state == CSC_ARENA_UNFORMATTED)
        return 0; /* killed before the first byte */
    if (state == CSC_ARENA_LIVE || header->geometry.magic != CSC_ARENA_MAGIC ||
        header->geometry.version != CSC_ARENA_VERSION) {
        *dead = true;
        return check_dead(arena, header, &info, options);
    }
    return state == CSC_ARENA_UNFORMATTED || state == CSC_ARENA_CLOSED
               ? 0
               : csc_fail(CASCADE_ECORRUPT,
                          "the state in the header of the arena %s is damaged; remove the file to go on "
                          "without what was not flushed",
                          arena->path);
}

/* Holes are filled before anything can touch them: a file that was copied may have some. */
static int fill_holes(csc_arena *arena)
{
    const csc_arena_geometry *geometry = &arena->header->geometry;
    int code = csc_arena_allocate_range(arena, 0, geometry->slots_offset + CSC_SLOTS_BYTES);

    for (unsigned i = 0; code == 0 && i < CSC_REGION_COUNT; i++) {
        const csc_arena_region *region = &geometry->regions[i];
        uint64_t bytes = (uint64_t)csc_region_used(arena, i) * region->element_bytes;

        if (bytes)
            code = csc_arena_allocate_range(arena, region->offset, bytes);
    }
    return code;
}

static int take_over(csc_arena *arena, uint64_t file_bytes)
{
    int code = map_file(arena, file_bytes);

    if (code == 0)
        code = fill_holes(arena);
    if (code)
        return code;
    /* A dead owner's own slots held nothing that outlives it, and would look like guards for ever. */
    csc_arena_clear_area(arena, 0);
    csc_arena_clear_dead_clients(arena);
    atomic_store(&arena->ready_bytes,
                 (uint64_t)csc_region_used(arena, CSC_REGION_PAGES) * csc_arena_page_bytes(arena));
    return 0;
}

/* What was never whole, or was closed, gives its name to a new file: a late reader may still have it
 * mapped, and must not see it shrink. */
static int replace_file(csc_arena *arena, const csc_arena_options *options)
{
    struct stat info;

    if (fstat(arena->fd, &info) == 0 && info.st_size == 0)
        return 0;
    unlink(arena->path);
    close(arena->fd);
    arena->fd = -1;
    return open_locked(arena, options);
}

int csc_arena_open(const csc_arena_options *options, csc_arena **result, bool *taken_over)
{
    csc_arena *arena = calloc(1, sizeof *arena);
    csc_arena_header *header = malloc(sizeof *header);
    bool dead = false, making = false;
    int code;

    if (!arena || !header) {
        free(arena);
        free(header);
        return csc_fail(CASCADE_ENOMEM, "no memory for the arena");
    }
    arena->tier.ops = &csc_arena_tier_ops;
    arena->fd = -1;
    pthread_mutex_init(&arena->grow_lock, NULL);
    csc_arena_name(options, arena->path, sizeof arena->path);
    code = open_locked(arena, options);
    if (code == 0)
        code = look_at(arena, options, header, &dead);
    if (code == 0 && dead)
        code = take_over(arena, header->geometry.file_bytes);
    if (code == 0 && !dead) {
        making = true;
        code = replace_file(arena, options);
        if (code == 0)
            code = make_file(arena, options);
    }
    if (code == 0)
        code = csc_pages_init(&arena->pages, arena->header->geometry.regions[CSC_REGION_PAGES].max);
    if (code == 0) {
        atomic_store(&arena->header->owner_pid, (uint32_t)getpid());
        csc_mark("arena: made");
    }
    for (unsigned region = CSC_REGION_KEYS; making && code == 0 && region <= CSC_REGION_CONTENTS;
         region++)
        code = csc_arena_grow(arena, region, 1);
    free(header);
    if (code == 0) {
        *taken_over = dead;
        *result = arena;
        return 0;
    }
    if (making && arena->fd >= 0)
        unlink(arena->path); /* nothing was acknowledged from it */
    csc_arena_close(&arena, true);
    return code;
}

void csc_arena_close(csc_arena **arena_slot, bool keep)
{
    csc_arena *arena = *arena_slot;

    if (!arena)
        return;
    *arena_slot = NULL;
    csc_arena_stop_prefault(arena);
    if (!keep && arena->base) {
        /* In this order: an arena marked closed is never found by its name, so never cut under a reader
         * that still maps it. */
        unlink(arena->path);
        atomic_store(&arena->header->state, CSC_ARENA_CLOSED);
    }
    csc_pages_destroy(&arena->pages);
    if (arena->base)
        munmap(arena->base, arena->mapped_bytes);
    if (arena->fd >= 0)
        close(arena->fd);
    pthread_mutex_destroy(&arena->grow_lock);
    free(arena);
}

void csc_arena_after_fork(csc_arena *arena)
{
    if (arena->fd >= 0)
        close(arena->fd);
    arena->fd = -1;
    arena->prefault_started = false; /* the thread is the parent's */
}

void csc_arena_leave(csc_arena *arena)
{
    if (arena->fill)
        munmap(arena->fill,
               arena->mapped_bytes - arena->header->geometry.regions[CSC_REGION_PAGES].offset);
    munmap(arena->base, arena->mapped_bytes);
}

void *csc_arena_base(csc_arena *arena)
{
    return arena->base;
}

const char *csc_arena_path(const csc_arena *arena)
{
    return arena->path;
}

void csc_arena_clear_dead_clients(csc_arena *arena)
{
    _Atomic uint32_t *claims = (void *)slots_of(arena);

    for (uint32_t area = 1; area < CSC_SLOT_AREAS; area++) {
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 1 + area, .l_len = 1};

        if (atomic_load(&claims[area]) == 0)
            continue;
        /* Held by this process meanwhile, so that a new client cannot claim it half cleared. */
        if (fcntl(arena->fd, F_OFD_SETLK, &lock) != 0)
            continue;
        csc_arena_clear_area(arena, area);
        atomic_store(&claims[area], 0);
        lock.l_type = F_UNLCK;
        fcntl(arena->fd, F_OFD_SETLK, &lock);
    }
}

/* Whether the store that an arena belongs to is gone for good: its directory has no settings file. */
static bool is_orphan(int fd, csc_arena_header *header)
{
    char settings[CSC_ARENA_DIRECTORY_BYTES + 32];

    if (pread(fd, header, sizeof *header, 0) != (ssize_t)sizeof *header ||
        header->geometry.magic != CSC_ARENA_MAGIC || header->geometry.version != CSC_ARENA_VERSION ||
        csc_checksum(&header->geometry, sizeof header->geometry, 0) != header->geometry_checksum ||
        memchr(header->geometry.directory, 0, sizeof header->geometry.directory) == NULL)
        return false;
    snprintf(settings, sizeof settings, "%s/cascade.conf", header->geometry.directory);
    /* A file system that is not mounted now is no reason to think that its stores are gone. */
    return header->geometry.device != 0 &&
           device_of(header->geometry.directory) == header->geometry.device &&
           access(settings, F_OK) != 0 && errno == ENOENT;
}

void csc_arena_collect_orphans(const char *shm_directory)
{
    csc_arena_header *header = malloc(sizeof *header);
    DIR *folder = opendir(shm_directory);
    char prefix[64], path[4096 + 300];
    struct dirent *entry;

    snprintf(prefix, sizeof prefix, "cascade-%u-", (unsigned)geteuid());
    while (header && folder && (entry = readdir(folder))) {
        size_t length = strlen(entry->d_name);
        int fd;

        if (strncmp(entry->d_name, prefix, strlen(prefix)) != 0 || length < 6 ||
            strcmp(entry->d_name + length - 6, ".arena") != 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", shm_directory, entry->d_name);
        fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
            continue;
        /* Looked at before it is locked: an arena whose store is there is left alone, so that its opener
         * is never told "busy" because of this. */
        if (is_orphan(fd, header) && try_lock(fd, 0) == 0 && unlink(path) == 0)
            csc_log(CSC_LOG_INFO, "removed %s: its store %s is gone", path, header->geometry.directory);
        close(fd);
    }
    if (folder)
        closedir(folder);
    free(header);
}
