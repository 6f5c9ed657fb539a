/* SPDX-License-Identifier: MIT */
#include "faults.h"

#include "base/clock.h"
#include "format/segment_format.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define PAGE         CSC_SEGFMT_PAGE_BYTES
#define INTERRUPTED  3u
#define LATE_MAX     3u
#define LATE_NS      (3 * FAULT_DEADLINE_MS * UINT64_C(1000000))
#define VECTORS_MAX  1024
#define ALL_OF_WRITE ((1u << FAULT_EIO) | (1u << FAULT_ENOSPC) | (1u << FAULT_EDQUOT))
#define ALWAYS       ((1u << FAULT_EIO) | (1u << FAULT_EINTR) | (1u << FAULT_LATE))

const char *const fault_operation_names[FAULT_OPERATIONS] = {"open",
                                                             "close",
                                                             "preadv",
                                                             "pwritev",
                                                             "read by io_uring",
                                                             "write by io_uring",
                                                             "fdatasync",
                                                             "fsync",
                                                             "fallocate",
                                                             "ftruncate",
                                                             "fstat",
                                                             "link",
                                                             "rename",
                                                             "unlink",
                                                             "mkdir",
                                                             "statfs",
                                                             "stat",
                                                             "opendir",
                                                             "readdir"};

const char *const fault_kind_names[FAULT_KINDS] = {
    "EIO", "ENOSPC", "EDQUOT", "EINTR", "short", "late", "wrong bytes", "done, but says no"};

/* Kinds that the system call has at all. */
static const unsigned applicable[FAULT_OPERATIONS] = {
    [FAULT_OPEN] = ALWAYS | ALL_OF_WRITE | 1u << FAULT_LIES,
    [FAULT_CLOSE] = 1u << FAULT_EIO | 1u << FAULT_EDQUOT | 1u << FAULT_EINTR | 1u << FAULT_LATE,
    [FAULT_PREADV] = ALWAYS | 1u << FAULT_SHORT | 1u << FAULT_WRONG,
    [FAULT_PWRITEV] = ALWAYS | ALL_OF_WRITE | 1u << FAULT_SHORT | 1u << FAULT_WRONG,
    [FAULT_RING_READ] = ALWAYS | 1u << FAULT_SHORT,
    [FAULT_RING_WRITE] = ALWAYS | ALL_OF_WRITE | 1u << FAULT_SHORT | 1u << FAULT_WRONG,
    [FAULT_FDATASYNC] = ALWAYS | ALL_OF_WRITE,
    [FAULT_FSYNC] = ALWAYS | ALL_OF_WRITE,
    [FAULT_FALLOCATE] = ALWAYS | ALL_OF_WRITE,
    [FAULT_FTRUNCATE] = ALWAYS | ALL_OF_WRITE,
    [FAULT_FSTAT] = ALWAYS,
    [FAULT_LINK] = ALWAYS | ALL_OF_WRITE | 1u << FAULT_LIES,
    [FAULT_RENAME] = ALWAYS | ALL_OF_WRITE | 1u << FAULT_LIES,
    [FAULT_UNLINK] = ALWAYS | ALL_OF_WRITE | 1u << FAULT_LIES,
    [FAULT_MKDIR] = ALWAYS | ALL_OF_WRITE | 1u << FAULT_LIES,
    [FAULT_STATFS] = ALWAYS,
    [FAULT_STAT] = ALWAYS,
    [FAULT_OPENDIR] = ALWAYS,
    [FAULT_READDIR] = 1u << FAULT_EIO | 1u << FAULT_LATE,
};

static struct {
    fault_operation operation;
    fault_kind kind;
    unsigned first;
    bool lasting;
} fault;
static atomic_bool armed, refuse_direct;
static atomic_uint counts[FAULT_OPERATIONS], hits;
static _Atomic uint64_t late_until_ns;
static atomic_bool to_spoil; /* the next write of a block */

bool fault_applies(fault_operation operation, fault_kind kind)
{
    return applicable[operation] >> kind & 1;
}

void fault_arm(fault_operation operation, fault_kind kind, unsigned first, bool lasting)
{
    atomic_store(&armed, false);
    for (int i = 0; i < FAULT_OPERATIONS; i++)
        atomic_store(&counts[i], 0);
    fault.operation = operation;
    fault.kind = kind;
    fault.first = first;
    fault.lasting = lasting;
    atomic_store(&armed, true);
}

void fault_heal(void)
{
    atomic_store(&armed, false);
}

unsigned fault_hits(void)
{
    return atomic_load(&hits);
}

unsigned fault_count(fault_operation operation)
{
    return atomic_load(&counts[operation]);
}

/* Counts the call. */
static bool is_struck(fault_operation operation)
{
    unsigned count = atomic_fetch_add(&counts[operation], 1) + 1, since;

    if (!atomic_load(&armed) || operation != fault.operation || count < fault.first)
        return false;
    since = count - fault.first;
    if (fault.kind == FAULT_EINTR ? (fault.lasting ? since % 2 : since >= INTERRUPTED)
                                  : !fault.lasting && since > 0)
        return false;
    if (fault.kind == FAULT_LATE && since >= LATE_MAX)
        return false;
    atomic_fetch_add(&hits, 1);
    return true;
}

static void sleep_late(void)
{
    const struct timespec time = {.tv_nsec = (long)LATE_NS};

    nanosleep(&time, NULL);
}

/* The errno of a fault that keeps the call from being made; 0: it is made. */
static int refusal(void)
{
    static const int codes[FAULT_KINDS] = {
        [FAULT_EIO] = EIO, [FAULT_ENOSPC] = ENOSPC, [FAULT_EDQUOT] = EDQUOT, [FAULT_EINTR] = EINTR};

    return codes[fault.kind];
}

/* A call that returns 0, with its fault: `lie` is what it says when it was done. */
#define WITH_FAULT(operation, call, lie)                                                                \
    do {                                                                                                \
        int rc;                                                                                         \
        if (!is_struck(operation))                                                                      \
            return call;                                                                                \
        if (refusal()) {                                                                                \
            errno = refusal();                                                                          \
            return -1;                                                                                  \
        }                                                                                               \
        if (fault.kind == FAULT_LATE)                                                                   \
            sleep_late();                                                                               \
        rc = call;                                                                                      \
        if (rc == 0 && fault.kind == FAULT_LIES) {                                                      \
            errno = lie;                                                                                \
            return -1;                                                                                  \
        }                                                                                               \
        return rc;                                                                                      \
    } while (0)

static int faulty_open(const char *path, int flags, mode_t mode)
{
    int fd;

    if (atomic_load(&refuse_direct) && (flags & O_DIRECT)) {
        errno = EINVAL;
        return -1;
    }
    /* Only an exclusive create can be repeated with another answer. */
    if (atomic_load(&armed) && fault.kind == FAULT_LIES && !(flags & O_EXCL))
        return open(path, flags, mode);
    if (!is_struck(FAULT_OPEN))
        return open(path, flags, mode);
    if (refusal()) {
        errno = refusal();
        return -1;
    }
    if (fault.kind == FAULT_LATE)
        sleep_late();
    fd = open(path, flags, mode);
    if (fd >= 0 && fault.kind == FAULT_LIES) {
        close(fd);
        errno = EEXIST;
        return -1;
    }
    return fd;
}

/* The descriptor is closed whatever is said of it. */
static int faulty_close(int fd)
{
    bool struck = is_struck(FAULT_CLOSE);
    int rc = close(fd);

    if (!struck)
        return rc;
    if (fault.kind == FAULT_LATE)
        sleep_late();
    if (!refusal())
        return rc;
    errno = refusal();
    return -1;
}

/* ---- transfers ------------------------------------------------------------------------------------ */

/* Half, in whole pages, as direct transfers end. */
static size_t half_of(size_t bytes)
{
    size_t half = bytes / 2 - bytes / 2 % PAGE;

    return half ? half : bytes;
}

static int window(const struct iovec *vectors, int count, size_t bytes, struct iovec *to)
{
    int used = 0;

    for (; used < count && bytes; used++) {
        to[used] = vectors[used];
        if (to[used].iov_len > bytes)
            to[used].iov_len = bytes;
        bytes -= to[used].iov_len;
    }
    return used;
}

static size_t total(const struct iovec *vectors, int count)
{
    size_t bytes = 0;

    for (int i = 0; i < count; i++)
        bytes += vectors[i].iov_len;
    return bytes;
}

static void flip(const struct iovec *vectors, size_t at)
{
    while (at >= vectors->iov_len)
        at -= vectors++->iov_len;
    ((uint8_t *)vectors->iov_base)[at] ^= 0x20;
}

/* What was just written begins with a block's header: other bytes for some of its payload. False: it is
 * something else, which nothing checks when it is used. */
static bool spoil(int fd, off_t offset)
{
    _Alignas(8) uint8_t page[PAGE];
    const csc_segfmt_record *record = (const void *)page;
    char path[64];
    uint64_t bytes;
    bool done = false;
    int again;

    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    again = open(path, O_RDWR | O_CLOEXEC);
    if (again < 0)
        return false;
    if (pread(again, page, PAGE, offset) == (ssize_t)PAGE && record->type == CSC_SEGFMT_RECORD_BLOCK &&
        csc_segfmt_record_measure(record, record->generation, (uint64_t)offset, INT64_MAX, &bytes) == 0)
        done = pwrite(again, "no such bytes", 13, offset + (off_t)record->header_bytes + 100) == 13;
    close(again);
    return done;
}

static void spoil_if_due(int fd, off_t offset)
{
    if (atomic_load(&to_spoil) && spoil(fd, offset))
        atomic_store(&to_spoil, false);
}

static ssize_t faulty_transfer(fault_operation operation, int fd, const struct iovec *vectors, int count,
                               off_t offset)
{
    ssize_t (*call)(int, const struct iovec *, int, off_t) =
        operation == FAULT_PREADV ? preadv : pwritev;
    struct iovec part[VECTORS_MAX];
    ssize_t moved;

    if (!is_struck(operation)) {
        moved = call(fd, vectors, count, offset);
        if (operation == FAULT_PWRITEV)
            spoil_if_due(fd, offset);
        return moved;
    }
    if (refusal()) {
        errno = refusal();
        return -1;
    }
    if (fault.kind == FAULT_LATE)
        sleep_late();
    if (fault.kind == FAULT_SHORT) {
        count = window(vectors, count, half_of(total(vectors, count)), part);
        vectors = part;
    }
    moved = call(fd, vectors, count, offset);
    if (fault.kind == FAULT_WRONG && moved > 0) {
        if (operation == FAULT_PREADV)
            flip(vectors, (size_t)moved - (size_t)moved / 4 - 1);
        else
            atomic_store(&to_spoil, true);
    }
    if (operation == FAULT_PWRITEV)
        spoil_if_due(fd, offset);
    return moved;
}

static ssize_t faulty_preadv(int fd, const struct iovec *vectors, int count, off_t offset)
{
    return faulty_transfer(FAULT_PREADV, fd, vectors, count, offset);
}

static ssize_t faulty_pwritev(int fd, const struct iovec *vectors, int count, off_t offset)
{
    return faulty_transfer(FAULT_PWRITEV, fd, vectors, count, offset);
}

/* A transfer that the kernel has done: late is one that has to be asked for again and again. */
static int faulty_completion(bool is_write, int fd, off_t offset, size_t bytes, int result)
{
    if (csc_clock_ns() < atomic_load(&late_until_ns))
        return -EAGAIN;
    if (!is_struck(is_write ? FAULT_RING_WRITE : FAULT_RING_READ)) {
        if (is_write)
            spoil_if_due(fd, offset);
        return result;
    }
    if (refusal())
        return -refusal();
    if (fault.kind == FAULT_LATE) {
        atomic_store(&late_until_ns, csc_clock_ns() + LATE_NS);
        return -EAGAIN;
    }
    if (fault.kind == FAULT_SHORT)
        return result > 0 ? (int)half_of((size_t)result) : result;
    if (fault.kind == FAULT_WRONG && is_write) {
        atomic_store(&to_spoil, true);
        spoil_if_due(fd, offset);
    }
    (void)bytes;
    return result;
}

/* ---- the rest ------------------------------------------------------------------------------------- */

static int faulty_fdatasync(int fd)
{
    WITH_FAULT(FAULT_FDATASYNC, fdatasync(fd), EIO);
}

static int faulty_fsync(int fd)
{
    WITH_FAULT(FAULT_FSYNC, fsync(fd), EIO);
}

static int faulty_fallocate(int fd, int mode, off_t offset, off_t bytes)
{
    WITH_FAULT(FAULT_FALLOCATE, fallocate(fd, mode, offset, bytes), EIO);
}

static int faulty_ftruncate(int fd, off_t bytes)
{
    WITH_FAULT(FAULT_FTRUNCATE, ftruncate(fd, bytes), EIO);
}

static int faulty_fstat(int fd, struct stat *info)
{
    WITH_FAULT(FAULT_FSTAT, fstat(fd, info), EIO);
}

static int faulty_link(const char *from, const char *to)
{
    WITH_FAULT(FAULT_LINK, link(from, to), EEXIST);
}

static int faulty_rename(const char *from, const char *to)
{
    WITH_FAULT(FAULT_RENAME, rename(from, to), ENOENT);
}

static int faulty_unlink(const char *path)
{
    WITH_FAULT(FAULT_UNLINK, unlink(path), ENOENT);
}

static int faulty_mkdir(const char *path, mode_t mode)
{
    WITH_FAULT(FAULT_MKDIR, mkdir(path, mode), EEXIST);
}

static int faulty_statfs(const char *path, struct statfs *info)
{
    WITH_FAULT(FAULT_STATFS, statfs(path, info), EIO);
}

static int faulty_stat(const char *path, struct stat *info)
{
    WITH_FAULT(FAULT_STAT, stat(path, info), EIO);
}

static DIR *faulty_opendir(const char *path)
{
    if (!is_struck(FAULT_OPENDIR))
        return opendir(path);
    if (fault.kind == FAULT_LATE)
        sleep_late();
    errno = refusal();
    return errno ? NULL : opendir(path);
}

static struct dirent *faulty_readdir(DIR *directory)
{
    if (!is_struck(FAULT_READDIR))
        return readdir(directory);
    if (fault.kind == FAULT_LATE)
        sleep_late();
    errno = refusal();
    return errno ? NULL : readdir(directory);
}

const csc_io_calls *fault_table(bool ring, bool direct)
{
    static csc_io_calls tables[2];

    atomic_store(&refuse_direct, !direct);
    tables[ring] = (csc_io_calls){.open = faulty_open,
                                  .close = faulty_close,
                                  .preadv = faulty_preadv,
                                  .pwritev = faulty_pwritev,
                                  .fdatasync = faulty_fdatasync,
                                  .fsync = faulty_fsync,
                                  .fallocate = faulty_fallocate,
                                  .ftruncate = faulty_ftruncate,
                                  .fstat = faulty_fstat,
                                  .link = faulty_link,
                                  .rename = faulty_rename,
                                  .unlink = faulty_unlink,
                                  .mkdir = faulty_mkdir,
                                  .statfs = faulty_statfs,
                                  .stat = faulty_stat,
                                  .opendir = faulty_opendir,
                                  .readdir = faulty_readdir,
                                  .completed = ring ? faulty_completion : NULL};
    return &tables[ring];
}
