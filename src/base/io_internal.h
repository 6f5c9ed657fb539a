/* SPDX-License-Identifier: MIT */
/*
 * What the files of the file layer share: io.c (one call at a time, counters), io_lane.c (lanes,
 * whatever carries them), and the two engines: io_uring_lane.c and io_threads.c.
 *
 * A lane belongs to one thread, or to the pool of free lanes, or, abandoned, to the reaper; only the
 * last two are guarded by `lock`. The engine below a lane moves *slots*: a slot is one request on its
 * way, with what is left to transfer.
 */
#ifndef CSC_BASE_IO_INTERNAL_H
#define CSC_BASE_IO_INTERNAL_H

#include "base/io.h"

#include <pthread.h>
#include <stdatomic.h>

#define CSC_IO_LATE_MAX 16u /* abandoned lanes or opens; more, and the disk is taken to have stopped */

/* One transfer carries at most this much: far under the kernel's 2 GiB, and a multiple of every block
 * size, so that a direct transfer goes on at an aligned place. */
#define CSC_IO_TRANSFER_BYTES_MAX ((size_t)1 << 30)
#define CSC_IO_OFFSET_MAX         ((uint64_t)INT64_MAX - CSC_IO_TRANSFER_BYTES_MAX)

enum csc_io_counter {
    CSC_IO_COUNT_OPEN,
    CSC_IO_COUNT_CREATE,
    CSC_IO_COUNT_RENAME,
    CSC_IO_COUNT_UNLINK,
    CSC_IO_COUNT_STAT,
    CSC_IO_COUNT_MKDIR,
    CSC_IO_COUNT_READDIR,
    CSC_IO_COUNT_TRUNCATE,
    CSC_IO_COUNT_FSYNC,
    CSC_IO_COUNT_KINDS
};

/* One request on its way. */
typedef struct csc_io_slot {
    csc_io_lane *lane;
    csc_io_request *request; /* NULL: the slot is free */
    struct iovec *vectors;   /* what is left: the request's own, or `rest` */
    int count;
    uint64_t offset;
    struct iovec *rest;       /* allocated once a transfer came back short */
    int64_t result;           /* bytes or -errno, of a completion */
    bool is_refused;          /* never went to the engine */
    struct csc_io_slot *next; /* the engine's, or in the list of refused ones */
} csc_io_slot;

/* What carries lanes. */
typedef struct csc_io_engine {
    /* Makes what a lane needs. CASCADE_ENOTSUP: this machine has it not. */
    int (*open)(csc_io_lane *lane);
    void (*close)(csc_io_lane *lane);
    /* Lane taken again: registers memory that became ready. May be NULL. */
    void (*refresh)(csc_io_lane *lane);
    /* Starts what is left of the slot. Cannot fail: an error is a completion. */
    void (*start)(csc_io_slot *slot);
    /* A completed slot, with its result; waits until the deadline. NULL: none came. */
    csc_io_slot *(*wait)(csc_io_lane *lane, uint64_t deadline_ns);
    /* In a forked child: lets go of what the child shares with its parent. May be NULL. */
    void (*after_fork)(csc_io_lane *lane);
} csc_io_engine;

struct csc_io_lane {
    csc_io *io;
    const csc_io_engine *engine;
    void *state; /* the engine's */
    csc_io_slot slots[CSC_IO_DEPTH];
    csc_io_slot *refused;
    unsigned busy;     /* slots under way */
    csc_io_lane *next; /* in the pool or the reaper's list */
    csc_io_lane *all_next;
    void (*released)(void *context); /* set: abandoned */
    void *context;
};

/* Work for the pool of threads: a slot's transfer, or an open. */
typedef struct csc_io_job {
    void (*run)(struct csc_io_job *job);
    struct csc_io_job *next;
} csc_io_job;

#define CSC_IO_FILES_NOTED 65536u /* descriptors with higher numbers stay open in a forked child */

struct csc_io {
    csc_io_calls calls;
    _Atomic uint64_t open_files[CSC_IO_FILES_NOTED / 64]; /* a bit a descriptor */
    _Atomic uint64_t counters[CSC_IO_COUNT_KINDS];
    bool has_table; /* of calls that are not the real ones */
    pid_t pid;      /* that made it: a forked child has none of its threads */

    void *memory;
    uint64_t (*ready)(void *context);
    void *ready_context;
    _Atomic uint64_t registered_bytes, timeouts;
    _Atomic uint32_t late, late_opens;
    atomic_bool uring; /* lanes are made with it */

    pthread_mutex_t lock;
    csc_io_lane *free_lanes, *all_lanes;
    csc_io_lane *abandoned; /* the reaper's */
    pthread_cond_t reaper_work;
    pthread_t reaper;
    bool has_reaper, stopping;

    pthread_cond_t job_work;
    csc_io_job *jobs, **jobs_end;
    pthread_t threads[64];
    unsigned thread_count, idle_count, job_count;
};

extern const csc_io_engine csc_io_engine_uring; /* its open says CASCADE_ENOTSUP where it is not built */
extern const csc_io_engine csc_io_engine_threads;

/** In a forked child: closes its copies of all that csc_io_open opened. */
void csc_io_close_in_child(csc_io *io);

static inline void csc_io_count(csc_io *io, enum csc_io_counter counter)
{
    atomic_fetch_add_explicit(&io->counters[counter], 1, memory_order_relaxed);
}

/** Waits for a condition made by csc_io_condition until a time of csc_clock_ns; false when it is past.
 */
bool csc_io_wait(pthread_cond_t *condition, pthread_mutex_t *lock, uint64_t deadline_ns);
/** A condition on the monotonic clock. */
void csc_io_condition(pthread_cond_t *condition);

/** Runs a job in the pool, whose threads are made as they are needed. CASCADE_EAGAIN: no thread can be
 * made and there is none. */
int csc_io_run(csc_io *io, csc_io_job *job);
/** Ends the pool's threads after the jobs in it. */
void csc_io_threads_stop(csc_io *io);

/** Makes and ends the parts that lanes need; io.c calls them. */
void csc_io_lanes_init(csc_io *io);
void csc_io_lanes_destroy(csc_io *io);

#endif
