/* SPDX-License-Identifier: MIT */
/*
 * All file work of the file tier, in one place: so that it is counted, and so that a test can put
 * another table underneath (faults, recording). Calls return 0 or a negative code with a text
 * (csc_fail_errno); short transfers and EINTR are handled here, never seen above.
 */
#ifndef CSC_BASE_IO_H
#define CSC_BASE_IO_H

#include <cascade/cascade.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>

/** The system calls underneath; each returns as its namesake does, with errno. */
typedef struct csc_io_calls {
    int (*open)(const char *path, int flags, mode_t mode);
    int (*close)(int fd);
    ssize_t (*preadv)(int fd, const struct iovec *vectors, int count, off_t offset);
    ssize_t (*pwritev)(int fd, const struct iovec *vectors, int count, off_t offset);
    int (*fdatasync)(int fd);
    int (*fsync)(int fd);
    int (*fallocate)(int fd, int mode, off_t offset, off_t bytes);
    int (*ftruncate)(int fd, off_t bytes);
    int (*fstat)(int fd, struct stat *info);
    int (*link)(const char *from, const char *to);
    int (*rename)(const char *from, const char *to);
    int (*unlink)(const char *path);
    int (*mkdir)(const char *path, mode_t mode);
} csc_io_calls;

typedef struct csc_io csc_io;

/** `calls` NULL: the real ones. Errors: CASCADE_ENOMEM. */
int csc_io_create(const csc_io_calls *calls, csc_io **io);
void csc_io_destroy(csc_io **io);
/** A snapshot of the counters. */
void csc_io_counts(const csc_io *io, cascade_metadata_ops *counts);

/** O_CLOEXEC is added. O_CREAT counts as create, else as open. Beside csc_fail_errno's codes:
 * CASCADE_MISS (no such file), CASCADE_EEXIST, CASCADE_ENOTSUP (refused with these flags: O_DIRECT). */
int csc_io_open(csc_io *io, const char *path, int flags, mode_t mode, int *fd);
void csc_io_close(csc_io *io, int fd);
/** Reads or writes exactly the vectors' bytes. End of file before that: CASCADE_EIO. The file system
 * refuses (EINVAL: direct I/O that is not aligned enough): CASCADE_ENOTSUP. */
int csc_io_read(csc_io *io, int fd, const struct iovec *vectors, int count, uint64_t offset);
int csc_io_write(csc_io *io, int fd, const struct iovec *vectors, int count, uint64_t offset);
int csc_io_datasync(csc_io *io, int fd);
/** Reserves space without changing the file's size. CASCADE_ENOTSUP: the file system cannot. */
int csc_io_allocate(csc_io *io, int fd, uint64_t offset, uint64_t bytes);
int csc_io_truncate(csc_io *io, int fd, uint64_t bytes);
/** Anything but a regular file: CASCADE_EFORMAT. */
int csc_io_size(csc_io *io, int fd, uint64_t *bytes);
/** A second name for a file; counts as create. CASCADE_EEXIST: `to` exists. */
int csc_io_link(csc_io *io, const char *from, const char *to);
int csc_io_rename(csc_io *io, const char *from, const char *to);
int csc_io_unlink(csc_io *io, const char *path);             /* CASCADE_MISS: no such file */
int csc_io_mkdir(csc_io *io, const char *path, mode_t mode); /* an existing directory is fine */
/** Makes renames, creates and unlinks in a directory durable. */
int csc_io_sync_directory(csc_io *io, const char *path);
/** Calls `visit` for each name in a directory (not . and ..); its nonzero return stops and is returned.
 * CASCADE_MISS: no such directory. */
int csc_io_list(csc_io *io, const char *path, int (*visit)(void *context, const char *name),
                void *context);

#endif
