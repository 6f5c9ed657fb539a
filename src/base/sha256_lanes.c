/* SPDX-License-Identifier: MIT */
/*
 * Feeding the lanes. Each message under way is a stream, which is cut into runs of whole blocks: a run
 * lies in the caller's memory wherever a piece holds 64 bytes or more, and in the stream's own buffer
 * only for a block that straddles pieces and for the padded end. A kernel call takes the shortest
 * current run of the lanes at work; a lane whose message ends takes the next message at once.
 *
 * All state is on the caller's stack: nothing here can fail.
 */
#include "base/sha256_lanes.h"

#include <string.h>

/* With a lane free the source is asked again after so much of the others: 256 KiB. */
#define ASK_BLOCKS 4096u

typedef struct stream {
    csc_sha256_message *message;
    size_t piece; /* where the next run begins: piece and offset in it */
    size_t offset;
    uint64_t bytes;     /* of the message, before that place */
    const uint8_t *run; /* what is to be hashed now */
    size_t run_blocks;  /* 0 only between runs */
    bool closed;        /* the run holds the message's end */
    uint8_t buffer[2 * CSC_SHA256_BLOCK_BYTES];
} stream;

typedef struct engine {
    csc_sha256_lanes lanes;
    stream streams[CSC_SHA256_LANES]; /* storage; order without meaning */
    stream *column[CSC_SHA256_LANES]; /* the stream of lane i for i < active, then the idle ones */
    unsigned active;
    csc_sha256_source *source;
    bool dry; /* it had none when it was asked last */
} engine;

/* Copies up to a block from the stream's place on into its buffer, across pieces. */
static size_t gather(stream *s)
{
    size_t filled = 0;

    while (filled < CSC_SHA256_BLOCK_BYTES && s->piece < s->message->piece_count) {
        const cascade_piece *piece = &s->message->pieces[s->piece];
        size_t part = piece->bytes - s->offset;

        if (part > CSC_SHA256_BLOCK_BYTES - filled)
            part = CSC_SHA256_BLOCK_BYTES - filled;
        if (part) /* an empty piece may have no address */
            memcpy(s->buffer + filled, (const uint8_t *)piece->data + s->offset, part);
        filled += part;
        s->offset += part;
        if (s->offset == piece->bytes) {
            s->piece++;
            s->offset = 0;
        }
    }
    return filled;
}

/* Pads the last `filled` bytes: a one bit, zeros, the length in bits. */
static void close_stream(stream *s, size_t filled)
{
    size_t padded = filled + 9 <= CSC_SHA256_BLOCK_BYTES ? CSC_SHA256_BLOCK_BYTES : sizeof s->buffer;
    uint64_t bits = s->bytes * 8;

    s->buffer[filled] = 0x80;
    memset(s->buffer + filled + 1, 0, padded - filled - 1);
    for (unsigned i = 1; i <= 8; i++, bits >>= 8)
        s->buffer[padded - i] = (uint8_t)bits;
    s->run_blocks = padded / CSC_SHA256_BLOCK_BYTES;
    s->closed = true;
}

/* Makes the next run; false when the message is done. */
static bool next_run(stream *s)
{
    size_t left = 0;

    if (s->closed)
        return false;
    if (s->piece < s->message->piece_count)
        left = s->message->pieces[s->piece].bytes - s->offset;
    if (left >= CSC_SHA256_BLOCK_BYTES) {
        s->run = (const uint8_t *)s->message->pieces[s->piece].data + s->offset;
        s->run_blocks = left / CSC_SHA256_BLOCK_BYTES;
        s->offset += s->run_blocks * CSC_SHA256_BLOCK_BYTES;
        s->bytes += s->run_blocks * CSC_SHA256_BLOCK_BYTES;
        return true;
    }
    size_t filled = gather(s);
    s->bytes += filled;
    s->run = s->buffer;
    if (filled == CSC_SHA256_BLOCK_BYTES)
        s->run_blocks = 1;
    else
        close_stream(s, filled);
    return true;
}

/* Begins the source's next message in a lane; false: it has none now. */
static bool begin(engine *e, unsigned lane)
{
    csc_sha256_message *message = e->source->next(e->source);
    stream *s = e->column[lane];

    e->dry = !message;
    if (e->dry)
        return false;
    s->message = message;
    s->piece = 0;
    s->offset = 0;
    s->bytes = 0;
    s->closed = false;
    for (unsigned i = 0; i < 8; i++)
        e->lanes.state[i][lane] = csc_sha256_initial[i];
    next_run(s); /* an empty message too has a block */
    return true;
}

/* Hands out the digest of a lane whose message ended. */
static void deliver(engine *e, unsigned lane)
{
    stream *s = e->column[lane];

    for (unsigned i = 0; i < 8; i++) {
        uint32_t word = e->lanes.state[i][lane];

        s->message->digest[4 * i] = (uint8_t)(word >> 24);
        s->message->digest[4 * i + 1] = (uint8_t)(word >> 16);
        s->message->digest[4 * i + 2] = (uint8_t)(word >> 8);
        s->message->digest[4 * i + 3] = (uint8_t)word;
    }
    e->source->done(e->source, s->message);
    s->message = NULL;
}

/* Gives an idle lane the work of the last one. */
static void close_gap(engine *e, unsigned lane)
{
    unsigned last = --e->active;
    stream *idle = e->column[lane];

    e->column[lane] = e->column[last];
    e->column[last] = idle;
    for (unsigned i = 0; i < 8; i++)
        e->lanes.state[i][lane] = e->lanes.state[i][last];
}

/* One kernel call over the first lanes, of at most `most` blocks, and what follows from it. */
static void advance(engine *e, const csc_sha256_kernel *kernel, size_t most)
{
    unsigned working = e->active < kernel->width ? e->active : kernel->width;
    size_t blocks = most;

    for (unsigned i = 0; i < working; i++) {
        e->lanes.data[i] = e->column[i]->run;
        if (e->column[i]->run_blocks < blocks)
            blocks = e->column[i]->run_blocks;
    }
    kernel->hash(&e->lanes, working, blocks);
    for (unsigned i = 0; i < working; i++) {
        e->column[i]->run += blocks * CSC_SHA256_BLOCK_BYTES;
        e->column[i]->run_blocks -= blocks;
    }
    /* Upwards, so that messages of one size are done in the order in which they came. */
    for (unsigned i = 0; i < working; i++)
        if (!e->column[i]->run_blocks && !next_run(e->column[i]))
            deliver(e, i);
    for (unsigned i = 0; i < working; i++)
        if (!e->column[i]->message)
            (void)begin(e, i);
    /* Downwards, so that the last lane is never a gap. */
    for (unsigned i = working; i-- > 0;)
        if (!e->column[i]->message)
            close_gap(e, i);
}

void csc_sha256_run(const csc_sha256_kernel *wide, const csc_sha256_kernel *narrow,
                    csc_sha256_source *source)
{
    engine e = {.source = source};

    for (unsigned i = 0; i < CSC_SHA256_LANES; i++)
        e.column[i] = &e.streams[i];
    do {
        while (e.active < wide->width && begin(&e, e.active))
            e.active++;
        if (e.active)
            advance(&e, narrow && e.dry && e.active < CSC_SHA256_WIDE_MIN ? narrow : wide,
                    e.active < wide->width ? ASK_BLOCKS : SIZE_MAX);
    } while (e.active || !e.dry);
}
