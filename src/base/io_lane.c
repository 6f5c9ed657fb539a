/* SPDX-License-Identifier: MIT */
/*
 * Lanes, whatever carries them: transfers that came back short go on, errors become codes, lanes are
 * kept and used again, and those whose transfers are past their deadline wait in the reaper's care.
 */
#include "base/clock.h"
#include "base/fail.h"
#include "base/io_internal.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define REAP_NS UINT64_C(2000000)

void csc_io_condition(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;

    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
}

bool csc_io_wait(pthread_cond_t *condition, pthread_mutex_t *lock, uint64_t deadline_ns)
{
    struct timespec deadline = {.tv_sec = (time_t)(deadline_ns / 1000000000),
                                .tv_nsec = (long)(deadline_ns % 1000000000)};

    if (deadline_ns / 1000000000 >= INT32_MAX)
        return pthread_cond_wait(condition, lock) == 0;
    return pthread_cond_timedwait(condition, lock, &deadline) != ETIMEDOUT;
}

/* ---- taking and giving ------------------------------------------------------------------------ */

static void lane_destroy(csc_io_lane *lane)
{
    lane->engine->close(lane);
    for (unsigned i = 0; i < CSC_IO_DEPTH; i++)
        free(lane->slots[i].rest);
    free(lane);
}

static int lane_make(csc_io *io, csc_io_lane **result)
{
    csc_io_lane *lane = calloc(1, sizeof *lane);
    int code;

    if (!lane)
        return csc_fail(CASCADE_ENOMEM, "no memory for a lane of transfers");
    lane->io = io;
    for (unsigned i = 0; i < CSC_IO_DEPTH; i++)
        lane->slots[i].lane = lane;
    lane->engine = atomic_load(&io->uring) ? &csc_io_engine_uring : &csc_io_engine_threads;
    code = lane->engine->open(lane);
    if (code && lane->engine == &csc_io_engine_uring) {
        /* Not here, or no more of them: threads do the same. */
        if (code == CASCADE_ENOTSUP && atomic_exchange(&io->uring, false))
            csc_log(CSC_LOG_INFO, "files are read and written by threads: %s", csc_fail_text());
        lane->engine = &csc_io_engine_threads;
        code = lane->engine->open(lane);
    }
    if (code) {
        free(lane);
        return code;
    }
    pthread_mutex_lock(&io->lock);
    lane->all_next = io->all_lanes;
    io->all_lanes = lane;
    pthread_mutex_unlock(&io->lock);
    *result = lane;
    return 0;
}

static void *reaper_main(void *context);

/* No thread for it: the next lane that is taken or abandoned tries again, and csc_io_destroy does
 * without. Lock held. */
static void want_reaper(csc_io *io)
{
    if (!io->has_reaper && pthread_create(&io->reaper, NULL, reaper_main, io) == 0)
        io->has_reaper = true;
}

int csc_io_lane_take(csc_io *io, csc_io_lane **result)
{
    csc_io_lane *lane = NULL;
    bool stopped;
    int code = 0;

    pthread_mutex_lock(&io->lock);
    if (io->abandoned)
        want_reaper(io);
    stopped = atomic_load(&io->late) >= CSC_IO_LATE_MAX;
    if (!stopped && (lane = io->free_lanes))
        io->free_lanes = lane->next;
    pthread_mutex_unlock(&io->lock);
    if (stopped)
        return csc_fail(CASCADE_ETIMEDOUT, "the disk does not answer: %u operations wait for it",
                        CSC_IO_LATE_MAX);
    if (!lane)
        code = lane_make(io, &lane);
    if (code)
        return code;
    if (lane->engine->refresh)
        lane->engine->refresh(lane);
    *result = lane;
    return 0;
}

void csc_io_lane_give(csc_io_lane **slot)
{
    csc_io_lane *lane = *slot;

    *slot = NULL;
    if (!lane)
        return;
    pthread_mutex_lock(&lane->io->lock);
    lane->next = lane->io->free_lanes;
    lane->io->free_lanes = lane;
    pthread_mutex_unlock(&lane->io->lock);
}

/* ---- transfers -------------------------------------------------------------------------------- */

/* An offset that is no off_t is not handed down: io_uring takes -1 for "where the file stands". */
static void start(csc_io_slot *slot)
{
    slot->is_refused = slot->offset > CSC_IO_OFFSET_MAX;
    if (slot->is_refused) {
        slot->next = slot->lane->refused;
        slot->lane->refused = slot;
        return;
    }
    slot->lane->engine->start(slot);
}

int csc_io_submit(csc_io_lane *lane, csc_io_request *request)
{
    csc_io_slot *slot = NULL;

    for (unsigned i = 0; i < CSC_IO_DEPTH && !slot; i++)
        if (!lane->slots[i].request)
            slot = &lane->slots[i];
    if (!slot)
        return csc_fail(CASCADE_EAGAIN, "%u transfers are under way", CSC_IO_DEPTH);
    slot->request = request;
    slot->vectors = (struct iovec *)(uintptr_t)request->vectors; /* only read */
    slot->count = request->count;
    slot->offset = request->offset;
    request->status = 0;
    lane->busy++;
    start(slot);
    return 0;
}

/* Takes `bytes` off the front of what is left; the list is copied the first time, for the submitter's
 * stays as it is. False: no memory. */
static bool advance(csc_io_slot *slot, size_t bytes)
{
    int first = 0;

    if (!slot->rest) {
        slot->rest = malloc((size_t)slot->count * sizeof *slot->rest);
        if (!slot->rest)
            return false;
        memcpy(slot->rest, slot->vectors, (size_t)slot->count * sizeof *slot->rest);
        slot->vectors = slot->rest;
    }
    slot->offset += bytes;
    while (first < slot->count && bytes >= slot->vectors[first].iov_len)
        bytes -= slot->vectors[first++].iov_len;
    slot->vectors += first;
    slot->count -= first;
    if (slot->count) {
        slot->vectors[0].iov_base = (char *)slot->vectors[0].iov_base + bytes;
        slot->vectors[0].iov_len -= bytes;
    }
    return true;
}

static size_t left(const csc_io_slot *slot)
{
    size_t bytes = 0;

    for (int i = 0; i < slot->count; i++)
        bytes += slot->vectors[i].iov_len;
    return bytes;
}

static int failure(const csc_io_slot *slot, int err)
{
    const char *verb = slot->request->is_write ? "writing" : "reading";

    if (err == EINVAL || err == EOPNOTSUPP || err == ENOSYS)
        return csc_fail(CASCADE_ENOTSUP, "%s at offset %llu: refused", verb,
                        (unsigned long long)slot->offset);
    return csc_fail_errno(err, "%s at offset %llu", verb, (unsigned long long)slot->offset);
}

/* Looks at a completion. True: the request is done, with its status. */
static bool finish(csc_io_slot *slot)
{
    int64_t result = slot->result;
    size_t wanted = left(slot);

    if (slot->is_refused) {
        slot->request->status =
            csc_fail(CASCADE_EINVAL, "%s at offset %llu: past the largest file",
                     slot->request->is_write ? "writing" : "reading", (unsigned long long)slot->offset);
        return true;
    }
    if (slot->lane->io->calls.completed)
        result = slot->lane->io->calls.completed(slot->request->is_write, slot->request->fd,
                                                 (off_t)slot->offset, wanted, (int)result);
    /* What nobody waits for any more does not go on: memory is given back as early as can be, and a
     * transfer that never gets on cannot hold up the end of the layer. */
    if (slot->lane->released)
        return true;
    /* Canceled: by the kernel, which does so when the thread that submitted has ended. */
    if (result == -EINTR || result == -EAGAIN || result == -ECANCELED) {
        start(slot);
        return false;
    }
    if (result < 0) {
        slot->request->status = failure(slot, (int)-result);
    } else if (result == 0 && wanted) {
        slot->request->status =
            csc_fail(CASCADE_EIO, "%s at offset %llu: end of file",
                     slot->request->is_write ? "writing" : "reading", (unsigned long long)slot->offset);
    } else if ((size_t)result < wanted) {
        if (advance(slot, (size_t)result)) {
            start(slot);
            return false;
        }
        slot->request->status = csc_fail(CASCADE_ENOMEM, "no memory for what is left of a transfer");
    }
    return true;
}

static csc_io_slot *next_slot(csc_io_lane *lane, uint64_t deadline_ns)
{
    csc_io_slot *slot = lane->refused;

    if (!slot)
        return lane->engine->wait(lane, deadline_ns);
    lane->refused = slot->next;
    return slot;
}

int csc_io_lane_next(csc_io_lane *lane, uint64_t deadline_ns, csc_io_request **request)
{
    while (lane->busy) {
        csc_io_slot *slot = next_slot(lane, deadline_ns);

        if (slot && !finish(slot)) {
            if (csc_clock_ns() < deadline_ns)
                continue;
            slot = NULL; /* one that is interrupted for ever must not outlast it */
        }
        if (!slot)
            return csc_fail(CASCADE_ETIMEDOUT, "%u transfers are not done at their deadline",
                            lane->busy);
        *request = slot->request;
        free(slot->rest);
        slot->rest = NULL;
        slot->request = NULL;
        lane->busy--;
        return 0;
    }
    return CASCADE_MISS;
}

/* ---- past the deadline -------------------------------------------------------------------------- */

/* Whether all of a lane's transfers are done. */
static bool reap(csc_io_lane *lane)
{
    csc_io_request *request;
    int code;

    while ((code = csc_io_lane_next(lane, 0, &request)) == 0)
        ;
    return code == CASCADE_MISS;
}

static void *reaper_main(void *context)
{
    csc_io *io = context;

    pthread_mutex_lock(&io->lock);
    while (!io->stopping || io->abandoned) {
        csc_io_lane *lanes = io->abandoned, **link = &lanes;

        if (!lanes) {
            pthread_cond_wait(&io->reaper_work, &io->lock);
            continue;
        }
        io->abandoned = NULL;
        pthread_mutex_unlock(&io->lock);
        while (*link) {
            csc_io_lane *lane = *link;

            if (!reap(lane)) {
                link = &lane->next;
                continue;
            }
            *link = lane->next;
            lane->released(lane->context);
            lane->released = NULL;
            atomic_fetch_sub(&io->late, 1);
            csc_io_lane_give(&lane);
        }
        pthread_mutex_lock(&io->lock);
        *link = io->abandoned; /* what came meanwhile */
        io->abandoned = lanes;
        if (lanes)
            csc_io_wait(&io->reaper_work, &io->lock, csc_clock_ns() + REAP_NS);
    }
    pthread_mutex_unlock(&io->lock);
    return NULL;
}

void csc_io_lane_abandon(csc_io_lane **slot, void (*released)(void *context), void *context)
{
    csc_io_lane *lane = *slot;
    csc_io *io = lane->io;

    *slot = NULL;
    lane->released = released;
    lane->context = context;
    atomic_fetch_add(&io->timeouts, 1);
    atomic_fetch_add(&io->late, 1);
    pthread_mutex_lock(&io->lock);
    want_reaper(io);
    lane->next = io->abandoned;
    io->abandoned = lane;
    pthread_cond_signal(&io->reaper_work);
    pthread_mutex_unlock(&io->lock);
}

/* ---- opening ------------------------------------------------------------------------------------ */

typedef struct open_job {
    csc_io_job job;
    csc_io *io;
    char *path;
    int flags;
    mode_t mode;
    pthread_cond_t done;
    int code, fd;
    bool is_done, unwanted; /* under the lock */
    char text[256];
} open_job;

static void open_free(open_job *job)
{
    pthread_cond_destroy(&job->done);
    free(job->path);
    free(job);
}

static void open_run(csc_io_job *base)
{
    open_job *job = (open_job *)base;
    bool unwanted;

    job->code = csc_io_open(job->io, job->path, job->flags, job->mode, &job->fd);
    if (job->code)
        strncpy(job->text, csc_fail_text(), sizeof job->text - 1);
    pthread_mutex_lock(&job->io->lock);
    job->is_done = true;
    unwanted = job->unwanted;
    pthread_cond_signal(&job->done);
    pthread_mutex_unlock(&job->io->lock);
    if (!unwanted)
        return; /* whoever waits frees it */
    if (job->code == 0)
        csc_io_close(job->io, job->fd);
    atomic_fetch_sub(&job->io->late_opens, 1);
    open_free(job);
}

int csc_io_open_by(csc_io *io, const char *path, int flags, mode_t mode, uint64_t deadline_ns, int *fd)
{
    open_job *job;
    bool unwanted;
    int code;

    if (atomic_load(&io->late_opens) >= CSC_IO_LATE_MAX)
        return csc_fail(CASCADE_ETIMEDOUT, "the disk does not answer: %u files wait to be opened",
                        CSC_IO_LATE_MAX);
    job = calloc(1, sizeof *job);
    if (!job || !(job->path = strdup(path))) {
        free(job);
        return csc_fail(CASCADE_ENOMEM, "no memory to open %s", path);
    }
    job->job.run = open_run;
    job->io = io;
    job->flags = flags;
    job->mode = mode;
    csc_io_condition(&job->done);
    if (csc_io_run(io, &job->job) != 0) {
        open_free(job);
        return csc_io_open(io, path, flags, mode, fd);
    }
    pthread_mutex_lock(&io->lock);
    while (!job->is_done && csc_io_wait(&job->done, &io->lock, deadline_ns))
        ;
    unwanted = !job->is_done;
    job->unwanted = unwanted;
    if (unwanted)
        atomic_fetch_add(&io->late_opens, 1);
    pthread_mutex_unlock(&io->lock);
    if (unwanted) { /* the job is no longer ours to look at */
        atomic_fetch_add(&io->timeouts, 1);
        return csc_fail(CASCADE_ETIMEDOUT, "opening %s takes too long", path);
    }
    code = job->code;
    if (code)
        csc_fail_set_text(job->text);
    else
        *fd = job->fd;
    open_free(job);
    return code;
}

/* ---- the layer's own life ------------------------------------------------------------------------- */

static bool wants_uring(const csc_io *io)
{
    const char *wanted = getenv("CASCADE_IO");

    if (wanted && strcmp(wanted, "threads") == 0)
        return false;
    if (wanted && *wanted && strcmp(wanted, "uring") != 0)
        csc_log(CSC_LOG_WARNING, "CASCADE_IO=%s is neither uring nor threads; ignored", wanted);
    /* A table of calls has to see the transfers. */
    return !io->has_table || io->calls.completed;
}

void csc_io_lanes_init(csc_io *io)
{
    csc_io_lane *lane;

    io->pid = getpid();
    pthread_mutex_init(&io->lock, NULL);
    csc_io_condition(&io->reaper_work);
    csc_io_condition(&io->job_work);
    io->jobs_end = &io->jobs;
    atomic_init(&io->uring, wants_uring(io));
    /* Which it is shows when the first lane is made. */
    if (atomic_load(&io->uring) && lane_make(io, &lane) == 0) {
        atomic_store(&io->uring, lane->engine == &csc_io_engine_uring);
        csc_io_lane_give(&lane);
    }
}

void csc_io_lanes_destroy(csc_io *io)
{
    csc_io_lane *lane;

    pthread_mutex_lock(&io->lock);
    io->stopping = true;
    pthread_cond_signal(&io->reaper_work);
    pthread_mutex_unlock(&io->lock);
    if (io->has_reaper)
        pthread_join(io->reaper, NULL);
    else
        reaper_main(io); /* no thread was to be had for it: what is left is waited for here */
    csc_io_threads_stop(io);
    while ((lane = io->all_lanes)) {
        io->all_lanes = lane->all_next;
        lane_destroy(lane);
    }
    pthread_cond_destroy(&io->job_work);
    pthread_cond_destroy(&io->reaper_work);
    pthread_mutex_destroy(&io->lock);
}

void csc_io_after_fork(csc_io *io)
{
    for (csc_io_lane *lane = io->all_lanes; lane; lane = lane->all_next)
        if (lane->engine->after_fork)
            lane->engine->after_fork(lane);
    csc_io_close_in_child(io);
}

void csc_io_set_memory(csc_io *io, void *memory, uint64_t (*ready)(void *context), void *context)
{
    io->memory = memory;
    io->ready = ready;
    io->ready_context = context;
}

void csc_io_get_facts(const csc_io *io, csc_io_facts *facts)
{
    facts->uring = atomic_load(&io->uring);
    facts->registered_bytes = atomic_load(&io->registered_bytes);
    facts->late = atomic_load(&io->late) + atomic_load(&io->late_opens);
    facts->timeouts = atomic_load(&io->timeouts);
}
