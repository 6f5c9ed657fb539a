/* SPDX-License-Identifier: MIT */
/*
 * The engine of lanes on io_uring: one ring a lane. Memory that is registered need not be looked up and
 * pinned for each transfer; it is registered in chunks, as it becomes ready and as far as the limit on
 * locked memory goes (it counts all rings of a user together). Plain transfers do where it ends.
 */
#include "base/clock.h"
#include "base/fail.h"
#include "base/io_internal.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK_BYTES    (UINT64_C(64) << 20)
#define CHUNK_MIN      (UINT64_C(1) << 20)
#define CHUNKS_MAX     4096u /* 256 GiB */
#define CHUNKS_AT_ONCE 4u    /* registered in one go: pinning pages takes time, and someone waits */
#define RETRY_NS       UINT64_C(1000000)
#define WAIT_NS_MAX    UINT64_C(3600000000000)

/* Without them a wait with a timeout takes entries of the ring, and completions can be lost. */
#define FEATURES (IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG)

typedef struct uring_lane {
    struct io_uring ring;
    uint64_t registered_bytes; /* from the memory's start; all chunks are whole but for the last */
    bool has_table;            /* of chunks */
    bool full;                 /* the limit is reached, or the kernel cannot */
} uring_lane;

/* Sends nothing through the ring and waits for it: a filter may let rings be made but not be used. Then
 * the errno value. */
static int try_ring(struct io_uring *ring)
{
    struct io_uring_cqe *cqe;
    int code;

    if ((ring->features & FEATURES) != FEATURES)
        return EOPNOTSUPP;
    io_uring_prep_nop(io_uring_get_sqe(ring));
    do
        code = io_uring_submit_and_wait(ring, 1);
    while (code == -EINTR);
    if (code >= 0)
        code = io_uring_wait_cqe(ring, &cqe);
    if (code < 0)
        return -code;
    io_uring_cqe_seen(ring, cqe);
    /* A mapping in a forked child would keep the ring, and the memory that it pins, after the parent. */
    return -io_uring_ring_dontfork(ring);
}

static int lane_open(csc_io_lane *lane)
{
    uring_lane *mine = calloc(1, sizeof *mine);
    int err;

    if (!mine)
        return csc_fail(CASCADE_ENOMEM, "no memory for a lane of transfers");
    err = -io_uring_queue_init(CSC_IO_DEPTH, &mine->ring, 0);
    if (err == 0) {
        err = try_ring(&mine->ring);
        if (err)
            io_uring_queue_exit(&mine->ring);
    }
    if (err) {
        free(mine);
        return err == EMFILE || err == ENFILE || err == ENOMEM
                   ? csc_fail_errno(err, "cannot make a ring")
                   : csc_fail(CASCADE_ENOTSUP, "io_uring is not to be had: %s", strerror(err));
    }
    lane->state = mine;
    return 0;
}

static void lane_close(csc_io_lane *lane)
{
    uring_lane *mine = lane->state;

    io_uring_queue_exit(&mine->ring);
    free(mine);
}

static bool register_chunk(uring_lane *mine, unsigned chunk, void *memory, uint64_t bytes)
{
    struct iovec vector = {memory, bytes};
    __u64 tag = 0;

    return io_uring_register_buffers_update_tag(&mine->ring, chunk, &vector, &tag, 1) == 1;
}

static void note_registered(csc_io *io, uint64_t bytes)
{
    uint64_t known = atomic_load(&io->registered_bytes);

    while (known < bytes && !atomic_compare_exchange_weak(&io->registered_bytes, &known, bytes))
        ;
}

/* Registers the next chunk, or, of one that was not all ready, more. False: there is no more for now. */
static bool register_more(uring_lane *mine, const csc_io *io, uint64_t ready)
{
    unsigned chunk = (unsigned)(mine->registered_bytes / CHUNK_BYTES);
    uint64_t from = chunk * CHUNK_BYTES, had = mine->registered_bytes - from;
    uint64_t bytes = ready - from < CHUNK_BYTES ? ready - from : CHUNK_BYTES;

    if (ready <= from || bytes < CHUNK_MIN || (bytes < CHUNK_BYTES && bytes < 2 * had))
        return false;
    if (chunk == CHUNKS_MAX) {
        mine->full = true;
        return false;
    }
    while (!register_chunk(mine, chunk, (uint8_t *)io->memory + from, bytes)) {
        mine->full = true; /* that was the limit: as much as fits, and no more later */
        bytes /= 2;
        if (bytes < CHUNK_MIN || bytes <= had)
            return false;
    }
    mine->registered_bytes = from + bytes;
    return !mine->full && bytes == CHUNK_BYTES;
}

static void refresh(csc_io_lane *lane)
{
    uring_lane *mine = lane->state;
    csc_io *io = lane->io;
    uint64_t ready;

    if (mine->full || !io->memory)
        return;
    ready = io->ready(io->ready_context);
    if (!mine->has_table && ready >= CHUNK_MIN) {
        mine->has_table = io_uring_register_buffers_sparse(&mine->ring, CHUNKS_MAX) == 0;
        mine->full = !mine->has_table;
    }
    for (unsigned i = 0; i < CHUNKS_AT_ONCE && !mine->full && register_more(mine, io, ready); i++)
        ;
    note_registered(io, mine->registered_bytes);
}

/* The number of the registered chunk that a transfer lies in, or -1. */
static int chunk_of(const csc_io_slot *slot)
{
    const uring_lane *mine = slot->lane->state;
    const uint8_t *memory = slot->lane->io->memory, *data = slot->vectors[0].iov_base;
    uint64_t at;

    if (slot->count != 1 || mine->registered_bytes == 0 || data < memory)
        return -1;
    at = (uint64_t)(data - memory);
    if (at >= mine->registered_bytes || slot->vectors[0].iov_len > mine->registered_bytes - at ||
        at / CHUNK_BYTES != (at + slot->vectors[0].iov_len - 1) / CHUNK_BYTES)
        return -1;
    return (int)(at / CHUNK_BYTES);
}

static void prepare(struct io_uring_sqe *sqe, const csc_io_slot *slot)
{
    const struct iovec *first = slot->vectors;
    int fd = slot->request->fd, chunk = chunk_of(slot);

    if (slot->request->is_write) {
        if (chunk >= 0)
            io_uring_prep_write_fixed(sqe, fd, first->iov_base, (unsigned)first->iov_len, slot->offset,
                                      chunk);
        else
            io_uring_prep_writev(sqe, fd, first, (unsigned)slot->count, slot->offset);
    } else if (chunk >= 0) {
        io_uring_prep_read_fixed(sqe, fd, first->iov_base, (unsigned)first->iov_len, slot->offset,
                                 chunk);
    } else {
        io_uring_prep_readv(sqe, fd, first, (unsigned)slot->count, slot->offset);
    }
}

static void start(csc_io_slot *slot)
{
    uring_lane *mine = slot->lane->state;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&mine->ring); /* there are as many as slots */

    prepare(sqe, slot);
    io_uring_sqe_set_data(sqe, slot);
    io_uring_submit(&mine->ring); /* what the kernel does not take now, it is offered again in a wait */
}

static int wait_for(uring_lane *mine, uint64_t wait_ns, struct io_uring_cqe **cqe)
{
    struct __kernel_timespec wait;

    if (wait_ns > WAIT_NS_MAX)
        wait_ns = WAIT_NS_MAX;
    if (io_uring_sq_ready(&mine->ring) > 0 && wait_ns > RETRY_NS)
        wait_ns = RETRY_NS;
    wait.tv_sec = (long long)(wait_ns / 1000000000);
    wait.tv_nsec = (long long)(wait_ns % 1000000000);
    return io_uring_wait_cqe_timeout(&mine->ring, cqe, &wait);
}

static csc_io_slot *wait_one(csc_io_lane *lane, uint64_t deadline_ns)
{
    uring_lane *mine = lane->state;
    struct io_uring_cqe *cqe = NULL;
    csc_io_slot *slot;

    for (;;) {
        uint64_t now_ns;
        int code;

        if (io_uring_sq_ready(&mine->ring) > 0)
            io_uring_submit(&mine->ring); /* the kernel had no memory for it, or was interrupted */
        if (io_uring_peek_cqe(&mine->ring, &cqe) == 0)
            break;
        now_ns = csc_clock_ns();
        if (now_ns >= deadline_ns)
            return NULL;
        code = wait_for(mine, deadline_ns - now_ns, &cqe);
        if (code == 0)
            break;
        if (code != -ETIME && code != -EINTR && code != -EAGAIN)
            return NULL;
    }
    slot = io_uring_cqe_get_data(cqe);
    slot->result = cqe->res;
    io_uring_cqe_seen(&mine->ring, cqe);
    return slot;
}

/* The ring, and the memory that it pins, must end with the parent; its mapping is not in the child. */
static void after_fork(csc_io_lane *lane)
{
    uring_lane *mine = lane->state;

    close(mine->ring.ring_fd);
}

const csc_io_engine csc_io_engine_uring = {
    .open = lane_open,
    .close = lane_close,
    .refresh = refresh,
    .start = start,
    .wait = wait_one,
    .after_fork = after_fork,
};
