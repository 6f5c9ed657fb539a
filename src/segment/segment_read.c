/* SPDX-License-Identifier: MIT */
/*
 * Reading a range of a block, checked. The file is read in *regions*: the whole checksum chunks that the
 * range touches. If the caller's pieces suit direct I/O the region is read in one request, straight into
 * them, with what lies before and behind the range going into the reader's own memory (a *bounce*);
 * else chunk by chunk through the bounce. A region that begins at the payload's start is read together
 * with the record's header.
 *
 * Nothing in a place is believed: it may come from an arena that another handle left behind.
 */
#include "base/fail.h"
#include "segment/segment_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define PAGE             CSC_SEGFMT_PAGE_BYTES
#define CHUNK            ((uint64_t)CSC_SEGFMT_CHUNK_BYTES)
#define DATA_BYTES       (CSC_SEGMENT_BOUNCE_BYTES - CSC_SEGMENT_BOUNCE_HEADER)
#define STEP_BYTES       (3 * CHUNK) /* of a copied read: whole chunks that fit into DATA_BYTES */
#define VECTORS_ON_STACK 64

_Static_assert(STEP_BYTES <= DATA_BYTES, "a step fits");
_Static_assert(2 * CHUNK + PAGE <= DATA_BYTES, "what surrounds a range fits");

typedef struct reading {
    csc_segment_tier *t;
    csc_segment_item *item;
    csc_segment_file *file;
    const csc_content *content;
    uint64_t record; /* its offset in the file */
    uint64_t header_bytes;
    uint64_t payload_bytes;
    uint64_t from, to;               /* the range */
    uint64_t region_from, region_to; /* the same, whole chunks */
    const cascade_piece *pieces;
    size_t piece_count;
    uint8_t *bounce;
    csc_segfmt_record *header; /* in the bounce, or, if it is too large, allocated */
    uint8_t *data;             /* DATA_BYTES of the bounce */
    bool header_checked;
} reading;

static uint8_t *bounce_take(csc_segment_tier *t)
{
    uint8_t *bounce = NULL;

    pthread_mutex_lock(&t->lock);
    if (t->bounce_count > 0)
        bounce = t->bounces[--t->bounce_count];
    pthread_mutex_unlock(&t->lock);
    return bounce ? bounce : csc_segment_alloc(CSC_SEGMENT_BOUNCE_BYTES);
}

static void bounce_give(csc_segment_tier *t, uint8_t *bounce)
{
    pthread_mutex_lock(&t->lock);
    if (bounce && t->bounce_count < CSC_SEGMENT_BOUNCE_KEPT) {
        t->bounces[t->bounce_count++] = bounce;
        bounce = NULL;
    }
    pthread_mutex_unlock(&t->lock);
    free(bounce);
}

/* Reads vectors at a place of the record. A file that ends before its record does is damage, not a
 * failing disk. */
static int read_vectors(reading *r, const struct iovec *vectors, int count, uint64_t at)
{
    uint64_t bytes = 0;
    uint64_t size;
    int rc = csc_io_read(r->t->io, r->file->fd, vectors, count, r->record + at);

    for (int i = 0; i < count; i++)
        bytes += vectors[i].iov_len;
    if (rc == 0)
        atomic_fetch_add(&r->t->read_bytes, bytes);
    else if (rc == CASCADE_EIO && csc_io_size(r->t->io, r->file->fd, &size) == 0 &&
             r->record + at + bytes > size)
        rc = csc_fail(CASCADE_ECORRUPT, "the segment ends inside the record");
    return rc;
}

/* The header is in memory: is it sound, and is it the expected content's? */
static int check_header(reading *r)
{
    uint64_t record_bytes;
    int rc;

    if (r->header_checked)
        return 0;
    rc = csc_segfmt_record_measure(r->header, r->item->generation, r->record, INT64_MAX, &record_bytes);
    if (rc == 0 && r->header->header_bytes != r->header_bytes)
        rc = csc_fail(CASCADE_ECORRUPT, "the record's header has another size");
    if (rc == 0)
        rc = csc_segfmt_record_check(r->header);
    if (rc)
        return rc;
    if (r->header->type != CSC_SEGFMT_RECORD_BLOCK || r->header->k_bytes != r->content->k_bytes ||
        r->header->v_bytes != r->content->v_bytes ||
        memcmp(r->header->digest, r->content->digest, sizeof r->header->digest) != 0)
        return csc_fail(CASCADE_ECORRUPT, "the record holds another content");
    r->header_checked = true;
    return 0;
}

/* Prepares to compare the chunks from payload byte `at`, the start of a chunk, on. */
static void begin_sums(const reading *r, csc_segfmt_summer *summer, uint64_t at)
{
    uint64_t chunk = at / CHUNK;

    csc_segfmt_summer_begin(summer, r->header, chunk, NULL, csc_segfmt_sums(r->header) + chunk);
}

static int end_sums(const reading *r, csc_segfmt_summer *summer)
{
    csc_segfmt_summer_end(summer);
    return summer->differs
               ? csc_fail(CASCADE_ECORRUPT,
                          "payload of the record at offset %" PRIu64 " fails its checksum", r->record)
               : 0;
}

/* ---- straight into the caller's pieces ------------------------------------------------------------ */

/* The parts of a region in payload order: lead (bounce), the pieces up to the last whole page, and tail
 * (bounce), whose first `copied` bytes belong to the last piece. */
typedef struct split {
    size_t lead;
    size_t straight;
    size_t tail;
    size_t copied;
} split;

static split split_region(const reading *r)
{
    split s;

    s.lead = r->from - r->region_from;
    s.copied = (r->to - r->from) % PAGE;
    s.straight = r->to - r->from - s.copied;
    s.tail = r->region_to - r->from - s.straight;
    return s;
}

/* Compares the sums and copies the part of the last piece that came with the tail. */
static int finish_straight(reading *r, const split *s)
{
    csc_segment_cursor cursor = {r->pieces, r->piece_count, 0, 0};
    uint8_t *tail = r->data + s->lead;
    csc_segfmt_summer summer;
    size_t left = s->straight;
    uint8_t *data;
    size_t bytes;

    begin_sums(r, &summer, r->region_from);
    csc_segfmt_summer_feed(&summer, r->data, s->lead);
    while ((bytes = csc_segment_cursor_peek(&cursor, left, &data)) > 0) {
        csc_segfmt_summer_feed(&summer, data, bytes);
        csc_segment_cursor_move(&cursor, bytes);
        left -= bytes;
    }
    csc_segfmt_summer_feed(&summer, tail, s->tail);
    if (csc_segment_cursor_peek(&cursor, s->copied, &data) > 0)
        memcpy(data, tail, s->copied);
    return end_sums(r, &summer);
}

static int read_straight(reading *r)
{
    struct iovec on_stack[VECTORS_ON_STACK];
    struct iovec *vectors = on_stack;
    csc_segment_cursor cursor = {r->pieces, r->piece_count, 0, 0};
    const split s = split_region(r);
    size_t left = s.straight;
    uint8_t *data;
    size_t bytes;
    int count = 0;
    int rc;

    if (r->piece_count > INT32_MAX - 3)
        return csc_fail(CASCADE_EINVAL, "too many pieces");
    if (r->piece_count + 3 > VECTORS_ON_STACK)
        vectors = malloc((r->piece_count + 3) * sizeof *vectors);
    if (!vectors)
        return csc_fail(CASCADE_ENOMEM, "no memory for %zu vectors", r->piece_count);
    if (!r->header_checked)
        vectors[count++] = (struct iovec){r->header, r->header_bytes};
    vectors[count++] = (struct iovec){r->data, s.lead};
    while ((bytes = csc_segment_cursor_peek(&cursor, left, &data)) > 0) {
        vectors[count++] = (struct iovec){data, bytes};
        csc_segment_cursor_move(&cursor, bytes);
        left -= bytes;
    }
    vectors[count++] = (struct iovec){r->data + s.lead, csc_segfmt_round(s.tail)};
    rc = read_vectors(r, vectors, count, r->header_checked ? r->header_bytes + r->region_from : 0);
    if (rc == 0)
        rc = check_header(r);
    if (rc == 0)
        rc = finish_straight(r, &s);
    if (vectors != on_stack)
        free(vectors);
    return rc;
}

/* ---- through the bounce --------------------------------------------------------------------------- */

static int read_copied(reading *r)
{
    csc_segment_cursor cursor = {r->pieces, r->piece_count, 0, 0};
    uint64_t at = r->region_from;
    int rc = 0;

    do {
        uint64_t end = r->region_to - at < STEP_BYTES ? r->region_to : at + STEP_BYTES;
        struct iovec vectors[2] = {{r->header, r->header_checked ? 0 : r->header_bytes},
                                   {r->data, csc_segfmt_round(end - at)}};
        const uint8_t *from = r->data + (r->from > at ? r->from - at : 0);
        const uint8_t *to = r->data + ((r->to < end ? r->to : end) - at);
        csc_segfmt_summer summer;
        uint8_t *data;
        size_t bytes;

        rc = read_vectors(r, vectors, 2, r->header_checked ? r->header_bytes + at : 0);
        if (rc == 0)
            rc = check_header(r);
        if (rc)
            break;
        begin_sums(r, &summer, at);
        csc_segfmt_summer_feed(&summer, r->data, end - at);
        rc = end_sums(r, &summer);
        while (rc == 0 && (bytes = csc_segment_cursor_peek(&cursor, (size_t)(to - from), &data)) > 0) {
            memcpy(data, from, bytes);
            csc_segment_cursor_move(&cursor, bytes);
            from += bytes;
        }
        at = end;
    } while (rc == 0 && at < r->region_to);
    return rc;
}

/* ---- the operation -------------------------------------------------------------------------------- */

/* Finds the place's segment and measures what is to be read. */
static int begin(reading *r, const csc_place *place, uint64_t offset)
{
    csc_segment_tier *t = r->t;
    uint64_t generation = place->words[4] | (uint64_t)place->words[5] << 32;
    uint64_t bytes;

    r->payload_bytes = r->content->k_bytes + r->content->v_bytes;
    if (r->content->k_bytes > CASCADE_BLOCK_BYTES_MAX ||
        r->content->v_bytes > CASCADE_BLOCK_BYTES_MAX - r->content->k_bytes ||
        !csc_segment_pieces_bytes(r->pieces, r->piece_count, &bytes) || offset > r->payload_bytes ||
        bytes > r->payload_bytes - offset)
        return csc_fail(CASCADE_ESIZE, "the range leaves the block");
    r->from = offset;
    r->to = offset + bytes;
    r->region_from = bytes ? r->from - r->from % CHUNK : 0;
    r->region_to = bytes ? (r->to + CHUNK - 1) / CHUNK * CHUNK : 0;
    if (r->region_to > r->payload_bytes)
        r->region_to = r->payload_bytes;

    pthread_mutex_lock(&t->lock);
    if (place->words[0] < t->item_count)
        r->item = t->items[place->words[0]];
    pthread_mutex_unlock(&t->lock);
    if (!r->item || r->item->generation != generation)
        return csc_fail(CASCADE_MISS, "the place is not in a segment of this handle");
    r->record = place->words[1] | (uint64_t)place->words[2] << 32;
    r->header_bytes = (uint64_t)place->words[3] * PAGE;
    if (r->record % PAGE != 0 || r->record > INT64_MAX / 2 ||
        r->header_bytes < csc_segfmt_block_header_bytes(0, r->payload_bytes) ||
        r->header_bytes > csc_segfmt_block_header_bytes(CSC_SEGFMT_BINDINGS_MAX, r->payload_bytes))
        return csc_fail(CASCADE_ECORRUPT, "the place is not this content's");
    return 0;
}

static int read_with_file(reading *r)
{
    int rc = 0;

    if (r->region_from > 0 || r->region_to == 0) {
        struct iovec vector = {r->header, r->header_bytes};

        rc = read_vectors(r, &vector, 1, 0);
        if (rc == 0)
            rc = check_header(r);
    }
    if (rc || r->region_to == 0)
        return rc;
    if (r->from % PAGE == 0 && csc_segment_pieces_aligned(r->pieces, r->piece_count))
        return read_straight(r);
    return read_copied(r);
}

/* Direct reads are refused on this file: have it opened anew. */
static void leave_direct(reading *r)
{
    csc_segment_file *leaving = NULL;

    atomic_store(&r->t->direct, false);
    pthread_mutex_lock(&r->t->lock);
    if (r->item->file == r->file)
        leaving = csc_segment_file_detach(r->t, r->item);
    pthread_mutex_unlock(&r->t->lock);
    csc_segment_file_close(r->t, leaving);
}

int csc_segment_read(csc_tier *tier, const csc_place *place, const csc_content *content, uint64_t offset,
                     const cascade_piece *pieces, size_t piece_count)
{
    reading r = {.t = csc_segment_tier_of(tier),
                 .content = content,
                 .pieces = pieces,
                 .piece_count = piece_count};
    int rc = begin(&r, place, offset);

    if (rc)
        return rc;
    r.bounce = bounce_take(r.t);
    if (!r.bounce)
        return CASCADE_ENOMEM;
    r.data = r.bounce + CSC_SEGMENT_BOUNCE_HEADER;
    r.header = r.header_bytes <= CSC_SEGMENT_BOUNCE_HEADER ? (void *)r.bounce
                                                           : csc_segment_alloc(r.header_bytes);
    rc = r.header ? csc_segment_file_acquire(r.t, r.item, &r.file) : CASCADE_ENOMEM;
    if (rc == 0) {
        rc = read_with_file(&r);
        if (rc == CASCADE_ENOTSUP && r.file->direct) {
            leave_direct(&r);
            csc_segment_file_release(r.t, r.file);
            r.file = NULL;
            r.header_checked = false;
            rc = csc_segment_file_acquire(r.t, r.item, &r.file);
            if (rc == 0)
                rc = read_with_file(&r);
        }
        if (rc == CASCADE_ENOTSUP)
            rc = CASCADE_EIO;
        if (r.file)
            csc_segment_file_release(r.t, r.file);
    }
    if (rc == CASCADE_ECORRUPT)
        atomic_fetch_add(&r.t->quarantined, 1);
    if ((uint8_t *)r.header != r.bounce)
        free(r.header);
    bounce_give(r.t, r.bounce);
    return rc;
}
