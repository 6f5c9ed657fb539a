/* SPDX-License-Identifier: MIT */
/*
 * All file work of the file tier, in one place: so that it is counted, and so that a test can put
 * another table underneath (faults, recording). Calls return 0 or a negative code with a text
 * (csc_fail_errno); short transfers and EINTR are handled here, never seen above.
 */
#ifndef CSC_BASE_IO_H
#define CSC_BASE_IO_H

#include <cascade/cascade.h>
#include <dirent.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/vfs.h>

/** The system calls underneath; each returns as its namesake does, with errno. NULL: the real one, so
 * that a test names what it changes. */
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
    int (*statfs)(const char *path, struct statfs *info);
    int (*stat)(const char *path, struct stat *info);
    DIR *(*opendir)(const char *path);
    struct dirent *(*readdir)(DIR *directory);
    /* Optional. Set: transfers of lanes go through io_uring all the same, and this sees, and may change,
     * the result of each: bytes or a negative errno. Not set: they go through preadv and pwritev above.
     */
    int (*completed)(bool is_write, int fd, off_t offset, size_t bytes, int result);
} csc_io_calls;

typedef struct csc_io csc_io;

/** `calls` NULL: the real ones. Errors: CASCADE_ENOMEM. */
int csc_io_create(const csc_io_calls *calls, csc_io **io);
/** Waits for abandoned lanes. NULL inside is accepted. In a forked child: frees nothing and waits for
 * nothing. */
void csc_io_destroy(csc_io **io);
/** In a forked child: lets go of the rings, so that they and what they pin end with the parent. */
void csc_io_after_fork(csc_io *io);
/** A snapshot of the counters. */
void csc_io_counts(const csc_io *io, cascade_metadata_ops *counts);

/** O_CLOEXEC is added; O_NONBLOCK is for the open alone. O_CREAT counts as create, else as open. Beside
 * csc_fail_errno's codes: CASCADE_MISS (no such file), CASCADE_EEXIST, CASCADE_ENOTSUP (refused with
 * these flags: O_DIRECT). */
int csc_io_open(csc_io *io, const char *path, int flags, mode_t mode, int *fd);
void csc_io_close(csc_io *io, int fd);
/** Reads or writes exactly the vectors' bytes. End of file before that: CASCADE_EIO. The file system
 * refuses (EINVAL: direct I/O that is not aligned enough): CASCADE_ENOTSUP. */
int csc_io_read(csc_io *io, int fd, const struct iovec *vectors, int count, uint64_t offset);
int csc_io_write(csc_io *io, int fd, const struct iovec *vectors, int count, uint64_t offset);
int csc_io_datasync(csc_io *io, int fd);
/** The same for the file's size too where that became smaller, which the other need not do. */
int csc_io_sync(csc_io *io, int fd);
/** Reserves space without changing the file's size. CASCADE_ENOTSUP: the file system cannot. */
int csc_io_allocate(csc_io *io, int fd, uint64_t offset, uint64_t bytes);
int csc_io_truncate(csc_io *io, int fd, uint64_t bytes);
/** Anything but a regular file: CASCADE_EFORMAT. */
int csc_io_size(csc_io *io, int fd, uint64_t *bytes);
/** Facts about a path. CASCADE_MISS: there is nothing. */
int csc_io_stat(csc_io *io, const char *path, struct stat *info);
/** A second name for a file; counts as create. CASCADE_EEXIST: `to` exists, and is another file. */
int csc_io_link(csc_io *io, const char *from, const char *to);
/** One that fails may have been done all the same: a file server lost the answer and was asked again. */
int csc_io_rename(csc_io *io, const char *from, const char *to);
int csc_io_unlink(csc_io *io, const char *path);             /* CASCADE_MISS: no such file */
int csc_io_mkdir(csc_io *io, const char *path, mode_t mode); /* an existing directory is fine */
/** Makes renames, creates and unlinks in a directory durable. */
int csc_io_sync_directory(csc_io *io, const char *path);
/** The file system's magic number, as statfs gives it; not counted, it asks for no file. */
int csc_io_file_system(csc_io *io, const char *path, uint32_t *magic);
/** Calls `visit` for each name in a directory (not . and ..); its nonzero return stops and is returned.
 * CASCADE_MISS: no such directory. */
int csc_io_list(csc_io *io, const char *path, int (*visit)(void *context, const char *name),
                void *context);

/* ---- many transfers at once ---------------------------------------------------------------------- */

/**
 * A lane carries the transfers of one operation, several at the same time. One thread at a time uses it.
 * Underneath is io_uring, or threads that call pread and pwrite where that is missing or forbidden;
 * csc_io_facts says which.
 */
typedef struct csc_io_lane csc_io_lane;

#define CSC_IO_DEPTH 16u /* transfers of a lane at most */

typedef struct csc_io_request {
    int fd;
    bool is_write;
    const struct iovec *vectors; /* at most CSC_IO_VECTORS_MAX; array and memory stay until it is done */
    int count;
    uint64_t offset;
    void *owner; /* the submitter's */
    int status; /* result, as of csc_io_read and csc_io_write; csc_io_lane_next sets the thread's text */
} csc_io_request;

#define CSC_IO_VECTORS_MAX 1024

/** Errors: CASCADE_ENOMEM; CASCADE_ETIMEDOUT: too many lanes wait for transfers past their deadline. */
int csc_io_lane_take(csc_io *io, csc_io_lane **lane);
/** Gives a lane back that has no transfer left; sets `*lane` to NULL; NULL inside is accepted. */
void csc_io_lane_give(csc_io_lane **lane);
/** Starts a transfer; the request is the lane's until csc_io_lane_next returns it. CASCADE_EAGAIN: there
 * are CSC_IO_DEPTH already. Failures of the transfer itself are its status. */
int csc_io_submit(csc_io_lane *lane, csc_io_request *request);
/** The next transfer that is done, in any order; waits for it until `deadline_ns` (csc_clock_ns).
 * CASCADE_MISS: none is under way; CASCADE_ETIMEDOUT. */
int csc_io_lane_next(csc_io_lane *lane, uint64_t deadline_ns, csc_io_request **request);
/** Leaves a lane, whose transfers are past their deadline, to the layer; sets `*lane` to NULL. Requests,
 * vectors and memory stay untouched until `released(context)` is called, once, from a thread of the
 * layer, after the last of them is done (at csc_io_destroy at the latest, which waits). A transfer that
 * comes back short is not continued then. `released` is not NULL. */
void csc_io_lane_abandon(csc_io_lane **lane, void (*released)(void *context), void *context);
/** Opens a file as csc_io_open does, but waits no longer than `deadline_ns`: then CASCADE_ETIMEDOUT, and
 * the descriptor is closed when it comes. With too many such opens under way, CASCADE_ETIMEDOUT at once.
 */
int csc_io_open_by(csc_io *io, const char *path, int flags, mode_t mode, uint64_t deadline_ns, int *fd);

/** What transfers will mostly use: registered with io_uring as far as the memory-lock limit allows.
 * `ready(context)` says how many bytes of it, from the start, are allocated by now; called when a lane
 * is taken. Before the first lane is taken; the memory must stay until csc_io_destroy. */
void csc_io_set_memory(csc_io *io, void *memory, uint64_t (*ready)(void *context), void *context);

typedef struct csc_io_facts {
    bool uring;                /* else threads */
    uint64_t registered_bytes; /* of one lane, at most */
    uint32_t late;             /* abandoned lanes whose transfers are not done, and late opens */
    uint64_t timeouts;         /* deadlines passed since open */
} csc_io_facts;
void csc_io_get_facts(const csc_io *io, csc_io_facts *facts);

#endif
