/* SPDX-License-Identifier: MIT */
/*
 * Reading ranges of blocks, checked. Of each record the *region* is read: the whole checksum chunks that
 * the range touches, together with the record's header where the region begins at the payload's start.
 * Regions are cut into transfers of whole chunks, and those of all reads of a call share one lane, so
 * that the disk always has several to do; while it does, what came is checked and copied, in order for
 * each read.
 *
 * Pieces that are the store's own pages (`released` is set) are read into in place; anybody else's only
 * get a copy of what was checked, because a transfer past its deadline goes on writing when the call has
 * returned.
 *
 * Nothing in a place is believed: it may come from an arena that another handle left behind.
 *
 * Bytes that fail their check may have been hurt on the way: they are read once more before the record
 * is called damaged.
 */
#include "base/clock.h"
#include "base/copy.h"
#include "base/fail.h"
#include "segment/segment_reader.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#define PAGE  CSC_SEGFMT_PAGE_BYTES
#define CHUNK ((uint64_t)CSC_SEGFMT_CHUNK_BYTES)

_Static_assert(CSC_SEGMENT_READ_COPIED <= CSC_SEGMENT_READ_BOUNCE, "a copied transfer fits");
_Static_assert(CSC_SEGMENT_READ_COPIED % CSC_SEGFMT_CHUNK_BYTES == 0, "whole chunks");
_Static_assert(CSC_SEGMENT_READ_STRAIGHT % CSC_SEGFMT_CHUNK_BYTES == 0, "whole chunks");
_Static_assert(2 * CHUNK + PAGE <= CSC_SEGMENT_READ_BOUNCE, "what surrounds a range fits");
_Static_assert(CSC_SEGMENT_READ_VECTORS <= CSC_IO_VECTORS_MAX, "a lane takes them");

typedef csc_segment_reading reading;
typedef csc_segment_transfer transfer;

/* ---- checking what came ---------------------------------------------------------------------- */

/* The header is in memory: is it sound, and is it the expected content's? */
static int check_header(reading *r)
{
    const csc_content *content = &r->read->content;
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
    if (r->header->type != CSC_SEGFMT_RECORD_BLOCK || r->header->k_bytes != content->k_bytes ||
        r->header->v_bytes != content->v_bytes ||
        memcmp(r->header->digest, content->digest, sizeof r->header->digest) != 0)
        return csc_fail(CASCADE_ECORRUPT, "the record holds another content");
    if (r->header->key_id != r->item->key_id)
        return csc_fail(CASCADE_ECORRUPT, "the record has another key than its segment");
    r->header_checked = true;
    return 0;
}

static int end_sums(const reading *r, csc_segfmt_summer *summer)
{
    csc_segfmt_summer_end(summer);
    return summer->differs
               ? csc_fail(CASCADE_ECORRUPT,
                          "payload of the record at offset %" PRIu64 " fails its checksum", r->record)
               : 0;
}

static void copy_to_pieces(reading *r, const uint8_t *from, size_t bytes)
{
    uint8_t *data;
    size_t part;

    while (bytes && (part = csc_segment_cursor_peek(&r->checked, bytes, &data)) > 0) {
        csc_copy(CSC_COPY_OUT, data, from, part);
        csc_segment_cursor_move(&r->checked, part);
        from += part;
        bytes -= part;
    }
}

static int sum_straight(reading *r, const transfer *t, csc_segfmt_summer *summer)
{
    size_t left = t->straight;
    uint8_t *data;
    size_t bytes;

    csc_segfmt_summer_feed(summer, t->bounce, t->lead);
    while (left && (bytes = csc_segment_cursor_peek(&r->checked, left, &data)) > 0) {
        csc_segfmt_summer_feed(summer, data, bytes);
        csc_segment_cursor_move(&r->checked, bytes);
        left -= bytes;
    }
    csc_segfmt_summer_feed(summer, t->bounce + t->lead, t->tail);
    return end_sums(r, summer);
}

static int sum_copied(reading *r, const transfer *t, csc_segfmt_summer *summer)
{
    csc_segfmt_summer_feed(summer, t->bounce, t->end - t->at);
    return end_sums(r, summer);
}

static int decrypt_straight(csc_cipher *cipher, const transfer *t, csc_segment_cursor pieces)
{
    int rc = csc_cipher_feed(cipher, t->bounce, t->bounce, t->lead);
    uint8_t *tail = t->bounce + t->lead;
    size_t left = t->straight;
    uint8_t *data;
    size_t bytes;

    while (rc == 0 && left && (bytes = csc_segment_cursor_peek(&pieces, left, &data)) > 0) {
        rc = csc_cipher_feed(cipher, data, data, bytes);
        csc_segment_cursor_move(&pieces, bytes);
        left -= bytes;
    }
    return rc ? rc : csc_cipher_feed(cipher, tail, tail, t->tail);
}

/* Decrypts a transfer's payload where it lies; `pieces`: where its straight part begins. Only after the
 * sums: damage is found without a key, and by a check that is the same for every segment. */
static int decrypt(csc_segment_reader *reader, reading *r, const transfer *t, csc_segment_cursor pieces)
{
    const csc_cipher_record record = csc_segment_cipher_record(r->header);
    uint64_t chunk = t->at / CHUNK;
    int rc = 0;

    if (!reader->cipher)
        rc = csc_cipher_create(reader->t->keyring, &reader->cipher);
    if (rc == 0)
        rc = csc_cipher_begin_open(reader->cipher, &record, chunk,
                                   csc_segfmt_tags(r->header) + chunk * CSC_SEGFMT_TAG_BYTES);
    if (rc == 0)
        rc = r->into_pages ? decrypt_straight(reader->cipher, t, pieces)
                           : csc_cipher_feed(reader->cipher, t->bounce, t->bounce, t->end - t->at);
    return rc ? rc : csc_cipher_end(reader->cipher);
}

/* What of a transfer did not go to the pieces by itself. */
static void copy_out(reading *r, const transfer *t)
{
    uint64_t from = r->from > t->at ? r->from : t->at;
    uint64_t to = r->to < t->end ? r->to : t->end;

    if (r->into_pages)
        copy_to_pieces(r, t->bounce + t->lead, t->copied);
    else
        copy_to_pieces(r, t->bounce + (from - t->at), to - from);
}

/* A transfer whose turn it is: checks it and tells how far the range has come. */
static int check(csc_segment_reader *reader, reading *r, const transfer *t)
{
    csc_segment_cursor pieces = r->checked;
    uint64_t chunk = t->at / CHUNK;
    csc_segfmt_summer summer;
    uint64_t arrived;
    int rc = t->request.status;

    if (rc == 0)
        rc = check_header(r);
    if (rc || t->at == t->end)
        return rc;
    csc_segfmt_summer_begin(&summer, r->header, chunk, NULL, csc_segfmt_sums(r->header) + chunk);
    rc = r->into_pages ? sum_straight(r, t, &summer) : sum_copied(r, t, &summer);
    if (rc == 0 && r->header->key_id)
        rc = decrypt(reader, r, t, pieces);
    if (rc)
        return rc;
    copy_out(r, t);
    arrived = (t->end < r->to ? t->end : r->to) - r->from;
    if (r->read->arrived && arrived > r->arrived) {
        r->arrived = arrived;
        r->read->arrived(r->read->context, arrived);
    }
    return 0;
}

/* ---- transfers ------------------------------------------------------------------------------- */

static uint64_t bytes_of(const csc_io_request *request)
{
    uint64_t bytes = 0;

    for (int i = 0; i < request->count; i++)
        bytes += request->vectors[i].iov_len;
    return bytes;
}

static void add_vector(transfer *t, void *memory, size_t bytes)
{
    if (bytes)
        t->vectors[t->request.count++] = (struct iovec){memory, bytes};
}

/* Where the payload of a transfer goes. */
static void lay_out(reading *r, transfer *t)
{
    uint64_t whole_to = r->to - (r->to - r->from) % PAGE; /* whole pages of the pieces end here */
    uint64_t from = r->from > t->at ? r->from : t->at;
    uint64_t to = whole_to < t->end ? whole_to : t->end;
    size_t left;
    uint8_t *data;
    size_t bytes;

    t->lead = t->straight = t->tail = t->copied = 0;
    if (!r->into_pages) {
        add_vector(t, t->bounce, csc_segfmt_round(t->end - t->at));
        return;
    }
    to = to > from ? to : from;
    t->lead = from - t->at;
    t->straight = to - from;
    t->tail = t->end - to;
    t->copied = r->to > to ? (r->to < t->end ? r->to : t->end) - to : 0;
    add_vector(t, t->bounce, t->lead);
    left = t->straight;
    while (left && (bytes = csc_segment_cursor_peek(&r->asked, left, &data)) > 0) {
        add_vector(t, data, bytes);
        csc_segment_cursor_move(&r->asked, bytes);
        left -= bytes;
    }
    add_vector(t, t->bounce + t->lead, csc_segfmt_round(t->tail));
}

/* Starts the next transfer of a read. */
static int start(csc_segment_reader *reader, reading *r, transfer *t)
{
    uint64_t step = r->into_pages ? CSC_SEGMENT_READ_STRAIGHT : CSC_SEGMENT_READ_COPIED;
    uint64_t at = r->record + r->header_bytes + r->next;
    int rc;

    t->request = (csc_io_request){.fd = r->file->fd, .vectors = t->vectors, .owner = t};
    t->at = t->end = r->next;
    if (!r->header_asked) {
        add_vector(t, r->header, r->header_bytes);
        at = r->record;
    }
    if (r->header_asked || r->region_from == 0)
        t->end = r->region_to - t->at < step ? r->region_to : t->at + step;
    if (t->end > t->at)
        lay_out(r, t);
    t->request.offset = at;
    t->done = false;
    t->next = NULL;
    t->reading = r;
    rc = csc_io_submit(reader->lane, &t->request);
    if (rc) {
        t->reading = NULL;
        return rc;
    }
    r->header_asked = true;
    r->next = t->end;
    *(r->first ? &r->last->next : &r->first) = t;
    r->last = t;
    return 0;
}

/* ---- a read ---------------------------------------------------------------------------------- */

/* Finds the place's segment and measures what is to be read. */
static int measure(csc_segment_tier *t, reading *r)
{
    const csc_content *content = &r->read->content;
    const csc_place *place = &r->read->place;
    uint64_t generation = place->words[4] | (uint64_t)place->words[5] << 32;
    uint64_t bytes;

    r->payload_bytes = content->k_bytes + content->v_bytes;
    if (content->k_bytes > CASCADE_BLOCK_BYTES_MAX ||
        content->v_bytes > CASCADE_BLOCK_BYTES_MAX - content->k_bytes ||
        !csc_segment_pieces_bytes(r->read->pieces, r->read->piece_count, &bytes) ||
        r->read->offset > r->payload_bytes || bytes > r->payload_bytes - r->read->offset)
        return csc_fail(CASCADE_ESIZE, "the range leaves the block");
    r->from = r->read->offset;
    r->to = r->from + bytes;
    r->region_from = bytes ? r->from - r->from % CHUNK : 0;
    r->region_to = bytes ? (r->to + CHUNK - 1) / CHUNK * CHUNK : 0;
    if (r->region_to > r->payload_bytes)
        r->region_to = r->payload_bytes;
    r->into_pages = r->read->released && r->from % PAGE == 0 &&
                    csc_segment_pieces_aligned(r->read->pieces, r->read->piece_count);

    pthread_mutex_lock(&t->lock);
    if (place->words[0] < t->item_count)
        r->item = t->items[place->words[0]];
    pthread_mutex_unlock(&t->lock);
    if (!r->item || r->item->generation != generation)
        return csc_fail(CASCADE_MISS, "the place is not in a segment of this handle");
    r->record = place->words[1] | (uint64_t)place->words[2] << 32;
    r->header_bytes = (uint64_t)place->words[3] * PAGE;
    if (r->record % PAGE != 0 || r->record > INT64_MAX / 2 ||
        r->header_bytes < csc_segfmt_block_header_bytes(0, r->payload_bytes, 0) ||
        r->header_bytes > csc_segfmt_block_header_bytes(CSC_SEGFMT_BINDINGS_MAX, r->payload_bytes, 1))
        return csc_fail(CASCADE_ECORRUPT, "the place is not this content's");
    return 0;
}

/* Opens the file and takes memory for the header. Also anew, when direct reads were refused. */
static int begin(csc_segment_reader *reader, reading *r)
{
    int rc = csc_segment_file_acquire(reader->t, r->item, reader->deadline_ns, &r->file);

    if (rc)
        return rc;
    r->header = csc_segment_reader_header(reader, r->header_bytes);
    if (!r->header)
        return CASCADE_ENOMEM;
    r->begun = true;
    r->next = r->region_from;
    r->header_asked = r->header_checked = false;
    r->asked = r->checked = (csc_segment_cursor){r->read->pieces, r->read->piece_count, 0, 0};
    r->first = r->last = NULL;
    return 0;
}

static bool is_all_asked(const reading *r)
{
    return r->begun && r->header_asked && r->next == r->region_to;
}

/* A read without transfers starts from its beginning. What it told of as arrived is not told again. */
static void begin_again(csc_segment_reader *reader, reading *r)
{
    csc_segment_file_release(reader->t, r->file);
    r->file = NULL;
    r->begun = false;
    r->status = 0;
    reader->from = 0;
}

/* Direct reads are refused on this file: have it opened anew. */
static void leave_direct(csc_segment_reader *reader, reading *r)
{
    csc_segment_file *leaving = NULL;

    atomic_store(&reader->t->direct, false);
    pthread_mutex_lock(&reader->t->lock);
    if (r->item->file == r->file)
        leaving = csc_segment_file_detach(reader->t, r->item);
    pthread_mutex_unlock(&reader->t->lock);
    csc_segment_file_close(reader->t, leaving);
    begin_again(reader, r);
}

/* A read without transfers, done or failed, is over. */
static void settle(csc_segment_reader *reader, reading *r)
{
    if (r->ended || r->first || (r->status == 0 && !is_all_asked(r)))
        return;
    if (r->header)
        csc_segment_reader_header_done(reader, r->header);
    r->header = NULL;
    if (r->status == CASCADE_ENOTSUP && r->file && r->file->direct) {
        leave_direct(reader, r);
        return;
    }
    if (r->status == CASCADE_ECORRUPT && r->file && !r->again) {
        r->again = true;
        begin_again(reader, r);
        return;
    }
    if (r->status == CASCADE_ENOTSUP)
        r->status = CASCADE_EIO;
    r->ended = true;
    if (r->status == 0) {
        csc_segment_file_release(reader->t, r->file);
        r->file = NULL;
        if (r->again)
            atomic_fetch_add(&reader->t->rereads, 1);
    }
}

/* ---- all of them ----------------------------------------------------------------------------- */

/* Starts transfers as far as the lane takes them. */
static void feed(csc_segment_reader *reader)
{
    for (size_t i = reader->from; i < reader->count; i++) {
        reading *r = &reader->readings[i];

        while (!r->ended && r->status == 0 && !is_all_asked(r) && csc_clock_ns() < reader->deadline_ns) {
            int rc;
            transfer *t = csc_segment_reader_transfer(reader, &rc);

            if (!t && rc == 0)
                return;
            if (rc == 0 && !r->begun)
                rc = begin(reader, r);
            if (rc == 0)
                rc = start(reader, r, t);
            if (rc)
                r->status = rc;
        }
        settle(reader, r);
        if (i == reader->from && (r->ended || is_all_asked(r)))
            reader->from++;
    }
}

/* A transfer is done: it is checked when those before it in its read are. A file that ends before its
 * record does is damage, not a failing disk. */
static void note_done(csc_segment_reader *reader, transfer *t)
{
    reading *r = t->reading;
    csc_io_request *request = &t->request;
    uint64_t size;

    t->done = true;
    if (request->status == 0)
        atomic_fetch_add(&reader->t->read_bytes, bytes_of(request));
    else if (request->status == CASCADE_EIO && csc_io_size(reader->t->io, request->fd, &size) == 0 &&
             request->offset + bytes_of(request) > size)
        request->status = csc_fail(CASCADE_ECORRUPT, "the segment ends inside the record");
    while (r->first && r->first->done) {
        transfer *turn = r->first;

        r->first = turn->next;
        if (r->status == 0)
            r->status = check(reader, r, turn);
        turn->reading = NULL;
        turn->done = false;
    }
    settle(reader, r);
}

/* Until all reads are over or the deadline has passed. */
static void run(csc_segment_reader *reader)
{
    csc_io_request *request;
    int rc = 0;

    while (rc == 0) {
        feed(reader);
        rc = csc_io_lane_next(reader->lane, reader->deadline_ns, &request);
        if (rc == 0)
            note_done(reader, request->owner);
    }
    reader->late = rc != CASCADE_MISS;
}

/* A read failed. If its segment was made into another since, or taken away, that is no damage: whoever
 * did so had the block elsewhere, or had dropped it. Only now the first page is read once more. */
static int judge(csc_segment_reader *reader, reading *r)
{
    char path[CSC_SEGMENT_PATH_BYTES];
    csc_io_request *done;
    transfer *t;
    int fd, rc;

    t = reader->late ? NULL : csc_segment_reader_transfer(reader, &rc);
    if (!t)
        return csc_fail(CASCADE_ETIMEDOUT, "no time was left to look at a segment that reads wrong");
    t->vectors[0] = (struct iovec){t->bounce, PAGE};
    t->request = (csc_io_request){.fd = r->file->fd, .vectors = t->vectors, .count = 1, .owner = t};
    t->reading = r;
    t->done = false;
    if (csc_io_submit(reader->lane, &t->request) != 0) {
        t->reading = NULL;
        return r->status;
    }
    reader->late = csc_io_lane_next(reader->lane, reader->deadline_ns, &done) != 0;
    if (reader->late)
        return csc_fail(CASCADE_ETIMEDOUT, "a segment's first page did not come in time");
    t->reading = NULL;
    if (t->request.status == 0) {
        const csc_segfmt_header *header = (const void *)t->bounce;

        rc = csc_segfmt_header_check(header);
        if (rc == CASCADE_EFORMAT || (rc == 0 && header->generation != r->item->generation))
            return csc_fail(CASCADE_MISS, "the segment was made into another");
    }
    csc_segment_path(reader->t, r->item->rank, r->item->number, path);
    rc = csc_io_open_by(reader->t->io, path, O_RDONLY | O_NONBLOCK, 0, reader->deadline_ns, &fd);
    if (rc == 0)
        csc_io_close(reader->t->io, fd);
    return rc == CASCADE_MISS ? csc_fail(CASCADE_MISS, "the segment is gone") : r->status;
}

/* Sets the result of a read that is over, or past the deadline. */
static int conclude(csc_segment_reader *reader, reading *r)
{
    if (!r->ended)
        r->status = csc_fail(CASCADE_ETIMEDOUT, "a read of %" PRIu64 " bytes did not end in time",
                             r->to - r->from);
    if (r->ended && r->file && (r->status == CASCADE_ECORRUPT || r->status == CASCADE_EIO)) {
        char text[512];
        int rc;

        strncpy(text, csc_fail_text(), sizeof text - 1);
        text[sizeof text - 1] = 0;
        rc = judge(reader, r);
        if (rc == r->status)
            csc_fail_set_text(text); /* what was found first says more */
        r->status = rc;
    }
    r->read->late = r->into_pages && r->first;
    if (r->read->late) {
        r->released = r->read->released;
        r->context = r->read->context;
    }
    r->read->status = r->status;
    return r->status;
}

int csc_segment_read(csc_tier *tier, csc_tier_read *reads, size_t count)
{
    csc_segment_tier *t = csc_segment_tier_of(tier);
    csc_segment_reader *reader;
    int first = 0;
    int rc = 0;

    if (count == 0)
        return 0;
    rc = csc_segment_reader_take(t, count, &reader);
    for (size_t i = 0; i < count; i++) {
        reads[i].late = false;
        reads[i].status = rc;
    }
    if (rc)
        return rc;
    reader->deadline_ns = csc_clock_ns() + t->deadline_ms * UINT64_C(1000000);
    for (size_t i = 0; i < count; i++) {
        reading *r = &reader->readings[i];

        r->read = &reads[i];
        r->status = measure(t, r);
        r->ended = r->status != 0;
    }
    run(reader);
    for (size_t i = 0; i < count; i++) {
        rc = conclude(reader, &reader->readings[i]);
        if (first == 0)
            first = rc;
    }
    csc_segment_reader_give(reader);
    return first;
}
