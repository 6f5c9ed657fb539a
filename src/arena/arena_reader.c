/* SPDX-License-Identifier: MIT */
/* A process that reads an arena it does not own. */
#include "arena/arena_private.h"
#include "base/fail.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct csc_arena_reader {
    int fd; /* holds the area's lock */
    void *base;
    uint64_t bytes;
    uint32_t area;
};

static int claim_area(csc_arena_reader *reader, uint64_t slots_offset, const char *path)
{
    for (uint32_t area = 1; area < CSC_SLOT_AREAS; area++) {
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 1 + area, .l_len = 1};
        const uint64_t bytes = CSC_AREA_SLOTS * sizeof(uint64_t);
        uint64_t offset = slots_offset + CSC_SLOT_CLAIMS_BYTES + area * bytes;
        _Atomic uint32_t *claims = (void *)((char *)reader->base + slots_offset);
        _Atomic uint64_t *words = (void *)((char *)reader->base + offset);

        if (fcntl(reader->fd, F_OFD_SETLK, &lock) != 0)
            continue;
        if (fallocate(reader->fd, 0, (off_t)offset, (off_t)bytes) != 0)
            return csc_fail_errno(errno, "shared memory has no room for the slots of a reader of %s",
                                  path);
        /* A dead holder's pins are nobody's. */
        for (uint32_t i = 0; i < CSC_AREA_SLOTS; i++)
            atomic_store(&words[i], 0);
        atomic_store(&claims[area], (uint32_t)getpid());
        reader->area = area;
        return 0;
    }
    return csc_fail(CASCADE_EAGAIN, "all %u slot areas of %s are taken", CSC_SLOT_AREAS - 1, path);
}

/* Maps all but the slots read-only: a stray store of a reader cannot harm the store. */
static int map_arena(csc_arena_reader *reader, const csc_arena_geometry *geometry, const char *path)
{
    uint64_t slots_bytes =
        CSC_SLOT_CLAIMS_BYTES + (uint64_t)CSC_SLOT_AREAS * CSC_AREA_SLOTS * sizeof(uint64_t);
    char *base = mmap(NULL, geometry->file_bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, reader->fd, 0);

    if (base == MAP_FAILED)
        return csc_fail_errno(errno, "cannot map the arena %s", path);
    reader->base = base;
    reader->bytes = geometry->file_bytes;
    if (mprotect(base + geometry->slots_offset, slots_bytes, PROT_READ | PROT_WRITE) != 0)
        return csc_fail_errno(errno, "cannot map the slots of %s for writing", path);
    return 0;
}

int csc_arena_reader_open(const char *path, csc_arena_reader **result)
{
    csc_arena_reader *reader = calloc(1, sizeof *reader);
    csc_arena_header *header = malloc(sizeof *header);
    struct stat info;
    int code;

    if (!reader || !header) {
        code = csc_fail(CASCADE_ENOMEM, "no memory to open %s", path);
        goto fail;
    }
    reader->fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (reader->fd < 0) {
        code = errno == ENOENT ? csc_fail(CASCADE_ENOSTORE, "there is no arena %s", path)
                               : csc_fail_errno(errno, "cannot open the arena %s", path);
        goto fail;
    }
    if (fstat(reader->fd, &info) != 0 ||
        pread(reader->fd, header, sizeof *header, 0) != (ssize_t)sizeof *header ||
        header->geometry.magic == 0) {
        code = csc_fail(CASCADE_EAGAIN, "the arena %s is being made", path);
        goto fail;
    }
    code = csc_arena_check_header(header, (uint64_t)info.st_size, path);
    if (code)
        goto fail;
    if (atomic_load(&header->state) != CSC_ARENA_LIVE) {
        code = csc_fail(CASCADE_EAGAIN, "the arena %s is being made or closed", path);
        goto fail;
    }
    code = map_arena(reader, &header->geometry, path);
    if (code == 0)
        code = claim_area(reader, header->geometry.slots_offset, path);
    if (code)
        goto fail;
    free(header);
    *result = reader;
    return 0;
fail:
    free(header);
    csc_arena_reader_close(&reader);
    return code;
}

void csc_arena_reader_close(csc_arena_reader **slot)
{
    csc_arena_reader *reader = *slot;

    if (!reader)
        return;
    *slot = NULL;
    if (reader->base && reader->area) {
        const csc_arena_header *header = reader->base;
        _Atomic uint32_t *claims = (void *)((char *)reader->base + header->geometry.slots_offset);

        atomic_store(&claims[reader->area], 0);
    }
    if (reader->base)
        munmap(reader->base, reader->bytes);
    if (reader->fd > 0)
        close(reader->fd);
    free(reader);
}

void *csc_arena_reader_base(csc_arena_reader *reader)
{
    return reader->base;
}

uint32_t csc_arena_reader_area(const csc_arena_reader *reader)
{
    return reader->area;
}
