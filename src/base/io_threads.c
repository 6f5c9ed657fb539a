/* SPDX-License-Identifier: MIT */
/* The engine of lanes where io_uring is missing or forbidden: threads that call preadv and pwritev. */
#include "base/clock.h"
#include "base/fail.h"
#include "base/io_internal.h"

#include <errno.h>
#include <stdlib.h>

/* ---- the pool ------------------------------------------------------------------------------------- */

static void *thread_main(void *context)
{
    csc_io *io = context;

    pthread_mutex_lock(&io->lock);
    for (;;) {
        csc_io_job *job = io->jobs;

        if (!job && io->stopping)
            break;
        if (!job) {
            io->idle_count++;
            pthread_cond_wait(&io->job_work, &io->lock);
            io->idle_count--;
            continue;
        }
        io->jobs = job->next;
        if (!io->jobs)
            io->jobs_end = &io->jobs;
        io->job_count--;
        pthread_mutex_unlock(&io->lock);
        job->run(job);
        pthread_mutex_lock(&io->lock);
    }
    pthread_mutex_unlock(&io->lock);
    return NULL;
}

int csc_io_run(csc_io *io, csc_io_job *job)
{
    bool can;

    pthread_mutex_lock(&io->lock);
    if (io->job_count >= io->idle_count &&
        io->thread_count < sizeof io->threads / sizeof io->threads[0] &&
        pthread_create(&io->threads[io->thread_count], NULL, thread_main, io) == 0)
        io->thread_count++;
    can = io->thread_count > 0;
    if (can) {
        job->next = NULL;
        *io->jobs_end = job;
        io->jobs_end = &job->next;
        io->job_count++;
        pthread_cond_signal(&io->job_work);
    }
    pthread_mutex_unlock(&io->lock);
    return can ? 0 : csc_fail(CASCADE_EAGAIN, "no thread for a file operation");
}

void csc_io_threads_stop(csc_io *io)
{
    pthread_mutex_lock(&io->lock);
    io->stopping = true;
    pthread_cond_broadcast(&io->job_work);
    pthread_mutex_unlock(&io->lock);
    for (unsigned i = 0; i < io->thread_count; i++)
        pthread_join(io->threads[i], NULL);
    io->thread_count = 0;
}

/* ---- the engine ----------------------------------------------------------------------------------- */

typedef struct transfer_job {
    csc_io_job job;
    csc_io_slot *slot;
} transfer_job;

typedef struct thread_lane {
    transfer_job jobs[CSC_IO_DEPTH];
    pthread_mutex_t lock;
    pthread_cond_t came;
    csc_io_slot *done;
} thread_lane;

static int lane_open(csc_io_lane *lane)
{
    thread_lane *mine = calloc(1, sizeof *mine);

    if (!mine)
        return csc_fail(CASCADE_ENOMEM, "no memory for a lane of transfers");
    pthread_mutex_init(&mine->lock, NULL);
    csc_io_condition(&mine->came);
    lane->state = mine;
    return 0;
}

static void lane_close(csc_io_lane *lane)
{
    thread_lane *mine = lane->state;

    pthread_cond_destroy(&mine->came);
    pthread_mutex_destroy(&mine->lock);
    free(mine);
}

static void transfer(csc_io_job *base)
{
    csc_io_slot *slot = ((transfer_job *)base)->slot;
    const csc_io_calls *calls = &slot->lane->io->calls;
    thread_lane *mine = slot->lane->state;
    ssize_t moved = (slot->request->is_write ? calls->pwritev : calls->preadv)(
        slot->request->fd, slot->vectors, slot->count, (off_t)slot->offset);

    slot->result = moved < 0 ? -errno : moved;
    pthread_mutex_lock(&mine->lock);
    slot->next = mine->done;
    mine->done = slot;
    pthread_cond_signal(&mine->came);
    pthread_mutex_unlock(&mine->lock);
}

static void start(csc_io_slot *slot)
{
    thread_lane *mine = slot->lane->state;
    transfer_job *job = &mine->jobs[slot - slot->lane->slots];

    job->slot = slot;
    job->job.run = transfer;
    if (csc_io_run(slot->lane->io, &job->job) != 0)
        transfer(&job->job); /* no thread is to be had: then at once */
}

static csc_io_slot *wait_one(csc_io_lane *lane, uint64_t deadline_ns)
{
    thread_lane *mine = lane->state;
    csc_io_slot *slot;

    pthread_mutex_lock(&mine->lock);
    while (!mine->done && csc_io_wait(&mine->came, &mine->lock, deadline_ns))
        ;
    slot = mine->done;
    if (slot)
        mine->done = slot->next;
    pthread_mutex_unlock(&mine->lock);
    return slot;
}

const csc_io_engine csc_io_engine_threads = {
    .open = lane_open,
    .close = lane_close,
    .start = start,
    .wait = wait_one,
};
