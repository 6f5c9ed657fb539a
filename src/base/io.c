/* SPDX-License-Identifier: MIT */
#include "base/io_internal.h"

#include "base/fail.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define VECTORS_MAX 1024

static int real_open(const char *path, int flags, mode_t mode)
{
    return open(path, flags, mode);
}

static const csc_io_calls real_calls = {
    .open = real_open,
    .close = close,
    .preadv = preadv,
    .pwritev = pwritev,
    .fdatasync = fdatasync,
    .fsync = fsync,
    .fallocate = fallocate,
    .ftruncate = ftruncate,
    .fstat = fstat,
    .link = link,
    .rename = rename,
    .unlink = unlink,
    .mkdir = mkdir,
    .statfs = statfs,
    .stat = stat,
    .opendir = opendir,
    .readdir = readdir,
};

static uint64_t counted(const csc_io *io, enum csc_io_counter counter)
{
    return atomic_load_explicit(&io->counters[counter], memory_order_relaxed);
}

/* Asks again as long as a call is interrupted. Not for close: the descriptor is gone. */
#define WHILE_INTERRUPTED(rc, call)                                                                     \
    do                                                                                                  \
        (rc) = (call);                                                                                  \
    while ((rc) < 0 && errno == EINTR)

static bool is_refusal(int err)
{
    return err == EINVAL || err == EOPNOTSUPP || err == ENOSYS;
}

static void fill_in(csc_io_calls *calls)
{
#define FILL_IN(call) calls->call = calls->call ? calls->call : real_calls.call
    FILL_IN(open);
    FILL_IN(close);
    FILL_IN(preadv);
    FILL_IN(pwritev);
    FILL_IN(fdatasync);
    FILL_IN(fsync);
    FILL_IN(fallocate);
    FILL_IN(ftruncate);
    FILL_IN(fstat);
    FILL_IN(link);
    FILL_IN(rename);
    FILL_IN(unlink);
    FILL_IN(mkdir);
    FILL_IN(statfs);
    FILL_IN(stat);
    FILL_IN(opendir);
    FILL_IN(readdir);
#undef FILL_IN
}

int csc_io_create(const csc_io_calls *calls, csc_io **io)
{
    csc_io *made = calloc(1, sizeof *made);

    if (!made)
        return csc_fail(CASCADE_ENOMEM, "no memory for the file layer");
    if (calls)
        made->calls = *calls;
    fill_in(&made->calls);
    made->has_table = calls != NULL;
    csc_io_lanes_init(made);
    *io = made;
    return 0;
}

void csc_io_destroy(csc_io **io)
{
    csc_io *leaving = *io;

    *io = NULL;
    if (!leaving)
        return;
    if (leaving->pid != getpid())
        return; /* a forked child: threads and rings are the parent's, and locks may be held for ever */
    csc_io_lanes_destroy(leaving);
    free(leaving);
}

void csc_io_counts(const csc_io *io, cascade_metadata_ops *counts)
{
    *counts = (cascade_metadata_ops){
        .open = counted(io, CSC_IO_COUNT_OPEN),
        .create = counted(io, CSC_IO_COUNT_CREATE),
        .rename = counted(io, CSC_IO_COUNT_RENAME),
        .unlink = counted(io, CSC_IO_COUNT_UNLINK),
        .stat = counted(io, CSC_IO_COUNT_STAT),
        .mkdir = counted(io, CSC_IO_COUNT_MKDIR),
        .readdir = counted(io, CSC_IO_COUNT_READDIR),
        .truncate = counted(io, CSC_IO_COUNT_TRUNCATE),
        .fsync = counted(io, CSC_IO_COUNT_FSYNC),
    };
}

static void note_open(csc_io *io, int fd, bool is_open)
{
    _Atomic uint64_t *bits = &io->open_files[(unsigned)fd / 64 % (CSC_IO_FILES_NOTED / 64)];

    if ((unsigned)fd >= CSC_IO_FILES_NOTED)
        return;
    if (is_open)
        atomic_fetch_or(bits, UINT64_C(1) << fd % 64);
    else
        atomic_fetch_and(bits, ~(UINT64_C(1) << fd % 64));
}

int csc_io_open(csc_io *io, const char *path, int flags, mode_t mode, int *fd)
{
    int got;

    csc_io_count(io, flags & O_CREAT ? CSC_IO_COUNT_CREATE : CSC_IO_COUNT_OPEN);
    WHILE_INTERRUPTED(got, io->calls.open(path, flags | O_CLOEXEC, mode));
    if (got < 0) {
        int err = errno;

        if (err == ENOENT)
            return csc_fail(CASCADE_MISS, "%s: no such file", path);
        if (err == EEXIST)
            return csc_fail(CASCADE_EEXIST, "%s exists already", path);
        if (is_refusal(err))
            return csc_fail(CASCADE_ENOTSUP, "opening %s: refused with flags %#x", path, flags);
        return csc_fail_errno(err, "opening %s", path);
    }
    /* The flag is for the open alone. Left on, io_uring would carry out transfers at once, in the thread
     * that submits, on file systems that cannot say "not now". */
    if (flags & O_NONBLOCK) {
        int now = fcntl(got, F_GETFL);

        if (now >= 0)
            fcntl(got, F_SETFL, now & ~O_NONBLOCK);
    }
    note_open(io, got, true);
    *fd = got;
    return 0;
}

void csc_io_close(csc_io *io, int fd)
{
    note_open(io, fd, false); /* first: the number is another's as soon as it is closed */
    io->calls.close(fd);
}

void csc_io_close_in_child(csc_io *io)
{
    for (unsigned i = 0; i < CSC_IO_FILES_NOTED / 64; i++)
        for (uint64_t left = atomic_load(&io->open_files[i]); left; left &= left - 1)
            io->calls.close((int)(64 * i + (unsigned)__builtin_ctzll(left)));
}

/* A place in a list of vectors: how many are done, and how much of the next. */
typedef struct vector_cursor {
    const struct iovec *vectors;
    int count;
    int index;
    size_t done;
} vector_cursor;

/* Copies what is still to do into `window`, as far as one call goes. */
static int cursor_window(const vector_cursor *cursor, struct iovec *window)
{
    size_t total = 0;
    size_t done = cursor->done;
    int used = 0;

    for (int i = cursor->index; i < cursor->count && used < VECTORS_MAX; i++, done = 0) {
        size_t bytes = cursor->vectors[i].iov_len - done;

        if (bytes == 0)
            continue;
        if (bytes > CSC_IO_TRANSFER_BYTES_MAX - total)
            bytes = CSC_IO_TRANSFER_BYTES_MAX - total;
        if (bytes == 0)
            break;
        window[used].iov_base = (char *)cursor->vectors[i].iov_base + done;
        window[used++].iov_len = bytes;
        total += bytes;
    }
    return used;
}

static void cursor_advance(vector_cursor *cursor, size_t bytes)
{
    while (bytes > 0) {
        size_t left = cursor->vectors[cursor->index].iov_len - cursor->done;

        if (bytes < left) {
            cursor->done += bytes;
            return;
        }
        bytes -= left;
        cursor->index++;
        cursor->done = 0;
    }
}

static int transfer(ssize_t (*call)(int, const struct iovec *, int, off_t), const char *verb, int fd,
                    const struct iovec *vectors, int count, uint64_t offset)
{
    struct iovec window[VECTORS_MAX];
    vector_cursor cursor = {vectors, count, 0, 0};
    int used;

    while ((used = cursor_window(&cursor, window)) > 0) {
        ssize_t moved;

        if (offset > CSC_IO_OFFSET_MAX)
            return csc_fail(CASCADE_EINVAL, "%s at offset %llu: past the largest file", verb,
                            (unsigned long long)offset);
        moved = call(fd, window, used, (off_t)offset);
        if (moved < 0 && errno == EINTR)
            continue;
        if (moved < 0) {
            int err = errno;

            if (is_refusal(err))
                return csc_fail(CASCADE_ENOTSUP, "%s at offset %llu: refused", verb,
                                (unsigned long long)offset);
            return csc_fail_errno(err, "%s at offset %llu", verb, (unsigned long long)offset);
        }
        if (moved == 0)
            return csc_fail(CASCADE_EIO, "%s at offset %llu: end of file", verb,
                            (unsigned long long)offset);
        cursor_advance(&cursor, (size_t)moved);
        offset += (uint64_t)moved;
    }
    return 0;
}

int csc_io_read(csc_io *io, int fd, const struct iovec *vectors, int count, uint64_t offset)
{
    return transfer(io->calls.preadv, "reading", fd, vectors, count, offset);
}

int csc_io_write(csc_io *io, int fd, const struct iovec *vectors, int count, uint64_t offset)
{
    return transfer(io->calls.pwritev, "writing", fd, vectors, count, offset);
}

/* EINTR says that the wait was cut short, not that writing back failed: asking again is honest. Any
 * other failure is final. */
static int sync_with(int (*call)(int), int fd)
{
    int rc;

    WHILE_INTERRUPTED(rc, call(fd));
    return rc < 0 ? csc_fail_errno(errno, "syncing a file") : 0;
}

int csc_io_datasync(csc_io *io, int fd)
{
    csc_io_count(io, CSC_IO_COUNT_FSYNC);
    return sync_with(io->calls.fdatasync, fd);
}

int csc_io_sync(csc_io *io, int fd)
{
    csc_io_count(io, CSC_IO_COUNT_FSYNC);
    return sync_with(io->calls.fsync, fd);
}

int csc_io_allocate(csc_io *io, int fd, uint64_t offset, uint64_t bytes)
{
    int rc;

    if (bytes > INT64_MAX || offset > INT64_MAX - bytes)
        return csc_fail(CASCADE_EINVAL, "reserving file space past the largest file");
    WHILE_INTERRUPTED(rc, io->calls.fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)bytes));
    if (rc == 0)
        return 0;
    if (is_refusal(errno))
        return csc_fail(CASCADE_ENOTSUP, "the file system cannot reserve space");
    return csc_fail_errno(errno, "reserving %llu bytes of file space", (unsigned long long)bytes);
}

int csc_io_truncate(csc_io *io, int fd, uint64_t bytes)
{
    int rc;

    if (bytes > INT64_MAX)
        return csc_fail(CASCADE_EINVAL, "truncating past the largest file");
    csc_io_count(io, CSC_IO_COUNT_TRUNCATE);
    WHILE_INTERRUPTED(rc, io->calls.ftruncate(fd, (off_t)bytes));
    return rc < 0 ? csc_fail_errno(errno, "truncating a file") : 0;
}

int csc_io_size(csc_io *io, int fd, uint64_t *bytes)
{
    struct stat info;
    int rc;

    csc_io_count(io, CSC_IO_COUNT_STAT);
    WHILE_INTERRUPTED(rc, io->calls.fstat(fd, &info));
    if (rc < 0)
        return csc_fail_errno(errno, "asking for a file's size");
    if (!S_ISREG(info.st_mode))
        return csc_fail(CASCADE_EFORMAT, "not a regular file");
    *bytes = (uint64_t)info.st_size;
    return 0;
}

int csc_io_stat(csc_io *io, const char *path, struct stat *info)
{
    int rc;

    csc_io_count(io, CSC_IO_COUNT_STAT);
    WHILE_INTERRUPTED(rc, io->calls.stat(path, info));
    if (rc == 0)
        return 0;
    return errno == ENOENT ? csc_fail(CASCADE_MISS, "%s: there is nothing", path)
                           : csc_fail_errno(errno, "looking at %s", path);
}

/* A file server may do it, lose the answer and say to the repeated request that the name is taken. */
int csc_io_link(csc_io *io, const char *from, const char *to)
{
    struct stat source, target;
    int rc, err;

    csc_io_count(io, CSC_IO_COUNT_CREATE);
    WHILE_INTERRUPTED(rc, io->calls.link(from, to));
    if (rc == 0)
        return 0;
    err = errno;
    if (csc_io_stat(io, from, &source) == 0 && csc_io_stat(io, to, &target) == 0 &&
        source.st_dev == target.st_dev && source.st_ino == target.st_ino)
        return 0;
    return err == EEXIST ? csc_fail(CASCADE_EEXIST, "%s exists already", to)
                         : csc_fail_errno(err, "linking %s to %s", from, to);
}

int csc_io_rename(csc_io *io, const char *from, const char *to)
{
    int rc;

    csc_io_count(io, CSC_IO_COUNT_RENAME);
    WHILE_INTERRUPTED(rc, io->calls.rename(from, to));
    return rc < 0 ? csc_fail_errno(errno, "renaming %s to %s", from, to) : 0;
}

int csc_io_unlink(csc_io *io, const char *path)
{
    int rc;

    csc_io_count(io, CSC_IO_COUNT_UNLINK);
    WHILE_INTERRUPTED(rc, io->calls.unlink(path));
    if (rc == 0)
        return 0;
    if (errno == ENOENT)
        return csc_fail(CASCADE_MISS, "%s: no such file", path);
    return csc_fail_errno(errno, "unlinking %s", path);
}

int csc_io_mkdir(csc_io *io, const char *path, mode_t mode)
{
    int rc;

    csc_io_count(io, CSC_IO_COUNT_MKDIR);
    WHILE_INTERRUPTED(rc, io->calls.mkdir(path, mode));
    if (rc == 0 || errno == EEXIST)
        return 0;
    return csc_fail_errno(errno, "making directory %s", path);
}

int csc_io_sync_directory(csc_io *io, const char *path)
{
    int fd;
    int rc = csc_io_open(io, path, O_RDONLY | O_DIRECTORY, 0, &fd);

    if (rc)
        return rc;
    csc_io_count(io, CSC_IO_COUNT_FSYNC);
    rc = sync_with(io->calls.fsync, fd);
    csc_io_close(io, fd);
    return rc;
}

int csc_io_file_system(csc_io *io, const char *path, uint32_t *magic)
{
    struct statfs info;
    int rc;

    WHILE_INTERRUPTED(rc, io->calls.statfs(path, &info));
    if (rc < 0)
        return csc_fail_errno(errno, "asking for the file system of %s", path);
    *magic = (uint32_t)info.f_type;
    return 0;
}

int csc_io_list(csc_io *io, const char *path, int (*visit)(void *context, const char *name),
                void *context)
{
    struct dirent *entry;
    DIR *directory;
    int rc = 0;

    csc_io_count(io, CSC_IO_COUNT_READDIR);
    do
        directory = io->calls.opendir(path);
    while (!directory && errno == EINTR);
    if (!directory) {
        int err = errno;

        if (err == ENOENT)
            return csc_fail(CASCADE_MISS, "%s: no such directory", path);
        return csc_fail_errno(err, "listing %s", path);
    }
    for (errno = 0; rc == 0 && (entry = io->calls.readdir(directory)); errno = 0) {
        const char *name = entry->d_name;

        if (name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0')))
            continue;
        rc = visit(context, name);
    }
    if (rc == 0 && errno != 0)
        rc = csc_fail_errno(errno, "listing %s", path);
    closedir(directory);
    return rc;
}
