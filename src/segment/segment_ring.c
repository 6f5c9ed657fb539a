/* SPDX-License-Identifier: MIT */
/*
 * The writer's requests in flight. While some are under way the writer fills and sums the next, so that
 * neither disk nor processor waits for the other.
 *
 * A request past any deadline cannot be taken back: its bytes may reach the file at any time, so nothing
 * else may be done with that part of the file. The writer waits for it for as long as it takes; the
 * store is the one that notices and says so.
 *
 * A failure is kept until the drain: by then every request is done, and the caller can take all of them
 * back together without any of them arriving afterwards.
 */
#include "base/clock.h"
#include "base/fail.h"
#include "segment/segment_internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE ((size_t)2 << 20)
#define WAIT_NS   UINT64_C(60000000000)

static int make_ring(csc_segment_writer *w)
{
    const size_t bytes = CSC_SEGMENT_REQUESTS * CSC_SEGMENT_REQUEST_BYTES;
    csc_segment_ring *ring = calloc(1, sizeof *ring);
    void *memory = NULL;

    if (!ring || posix_memalign(&memory, HUGE_PAGE, bytes)) {
        free(ring);
        return csc_fail(CASCADE_ENOMEM, "no memory for requests");
    }
    (void)madvise(memory, bytes, MADV_HUGEPAGE); /* the kernel looks up each page of a transfer */
    ring->stages = memory;
    for (size_t i = 0; i < CSC_SEGMENT_REQUESTS; i++) {
        ring->requests[i].stage = ring->stages + i * CSC_SEGMENT_REQUEST_BYTES;
        ring->idle[ring->idle_count++] = &ring->requests[i];
    }
    w->ring = ring;
    return 0;
}

int csc_segment_ring_begin(csc_segment_tier *t)
{
    csc_segment_writer *w = &t->writer;
    int rc = w->ring ? 0 : make_ring(w);

    if (rc == 0)
        rc = csc_io_lane_take(t->io, &w->ring->lane);
    return rc == CASCADE_ETIMEDOUT ? CASCADE_EIO : rc;
}

void csc_segment_ring_end(csc_segment_tier *t)
{
    csc_io_lane_give(&t->writer.ring->lane);
}

void csc_segment_ring_destroy(csc_segment_ring *ring)
{
    if (!ring)
        return;
    for (size_t i = 0; i < CSC_SEGMENT_REQUESTS; i++)
        free(ring->requests[i].parts);
    free(ring->stages);
    free(ring);
}

void csc_segment_ring_release(csc_segment_tier *t, csc_segment_request *request)
{
    csc_segment_ring *ring = t->writer.ring;

    free(request->owned);
    request->owned = NULL;
    ring->idle[ring->idle_count++] = request;
}

/* A request is done, in one way or another. */
static void finish(csc_segment_tier *t, csc_segment_request *request)
{
    csc_segment_ring *ring = t->writer.ring;
    int code = request->io.status;

    if (code == CASCADE_ENOTSUP && t->writer.direct) {
        ring->refused[ring->refused_count++] = request;
        return;
    }
    if (code == 0)
        atomic_fetch_add(&t->written_bytes, request->bytes);
    else if (ring->code == 0)
        ring->code = code == CASCADE_ENOTSUP ? CASCADE_EIO : code;
    csc_segment_ring_release(t, request);
}

static void wait_for_one(csc_segment_tier *t)
{
    csc_segment_ring *ring = t->writer.ring;
    csc_io_request *done;
    int rc;

    do /* one is under way, so there is nothing but time that can be missing */
        rc = csc_io_lane_next(ring->lane, csc_clock_ns() + WAIT_NS, &done);
    while (rc);
    ring->in_flight--;
    finish(t, done->owner);
}

/* Nothing is in flight, so the descriptor can be exchanged. */
static void write_refused(csc_segment_tier *t)
{
    csc_segment_ring *ring = t->writer.ring;
    int rc = csc_segment_go_buffered(t);

    while (ring->refused_count > 0) {
        csc_segment_request *request = ring->refused[--ring->refused_count];
        csc_io_request *io = &request->io;

        io->status =
            rc ? CASCADE_EIO : csc_io_write(t->io, t->writer.fd, io->vectors, io->count, io->offset);
        finish(t, request);
    }
}

/* A request whose bytes are all there. After a failure nothing more is written: the whole batch goes. */
static void send(csc_segment_tier *t, csc_segment_request *request)
{
    csc_segment_ring *ring = t->writer.ring;
    int rc;

    if (request->code && ring->code == 0)
        ring->code = csc_fail(request->code, "a record cannot be encrypted");
    if (ring->code) {
        csc_segment_ring_release(t, request);
        return;
    }
    if (request->owned)
        csc_segfmt_record_seal(request->owned);
    t->writer.dirty = true;
    request->io.fd = t->writer.fd;
    rc = csc_io_submit(ring->lane, &request->io);
    if (rc == 0) {
        ring->in_flight++;
    } else {
        request->io.status = rc;
        finish(t, request);
    }
}

/* Sends what is encrypted; with `wait` the oldest request in any case. False: there was none. */
static bool send_encrypted(csc_segment_tier *t, bool wait)
{
    csc_segment_crew *crew = t->writer.crew;
    csc_segment_request *request = crew ? csc_segment_crew_pop(crew, wait) : NULL;

    if (request)
        send(t, request);
    return request;
}

csc_segment_request *csc_segment_ring_take(csc_segment_tier *t, uint64_t offset)
{
    csc_segment_ring *ring = t->writer.ring;
    csc_segment_request *request;

    while (ring->idle_count == 0)
        if (send_encrypted(t, true))
            continue;
        else if (ring->in_flight > 0)
            wait_for_one(t);
        else
            write_refused(t);
    request = ring->idle[--ring->idle_count];
    request->io = (csc_io_request){
        .is_write = true, .vectors = request->vectors, .offset = offset, .owner = request};
    request->bytes = 0;
    request->staged_bytes = 0;
    request->part_count = 0;
    request->code = 0;
    request->encrypted = false;
    return request;
}

void csc_segment_request_push(csc_segment_request *request, void *data, size_t bytes)
{
    int count = request->io.count;
    struct iovec *last = count > 0 ? &request->vectors[count - 1] : NULL;

    if (last && (uint8_t *)last->iov_base + last->iov_len == data)
        last->iov_len += bytes;
    else
        request->vectors[request->io.count++] = (struct iovec){data, bytes};
    request->bytes += bytes;
}

uint8_t *csc_segment_request_stage(csc_segment_request *request, size_t bytes)
{
    uint8_t *place = request->stage + request->staged_bytes;

    request->staged_bytes += bytes;
    csc_segment_request_push(request, place, bytes);
    return place;
}

void csc_segment_ring_submit(csc_segment_tier *t, csc_segment_request *request)
{
    if (!t->writer.crew) {
        send(t, request);
        return;
    }
    csc_segment_crew_push(t->writer.crew, request);
    while (send_encrypted(t, false))
        ;
}

int csc_segment_ring_drain(csc_segment_tier *t)
{
    csc_segment_ring *ring = t->writer.ring;
    int code;

    while (send_encrypted(t, true))
        ;
    while (ring->in_flight > 0)
        wait_for_one(t);
    if (ring->refused_count > 0)
        write_refused(t);
    code = ring->code;
    ring->code = 0;
    return code;
}
