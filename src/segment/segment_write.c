/* SPDX-License-Identifier: MIT */
/*
 * Appending records. Several requests are in flight (segment_ring.c). Small records are gathered into
 * one request; a record that does not fit into one takes several, and its header follows in one of its
 * own when all of the payload has been summed, which happens while requests are under way. They complete
 * in any order: until the segment is synced, a header on disk promises nothing.
 *
 * Payload pieces that begin at pages go to the file from where they lie; everything else (headers, the
 * last part of a page, pieces of any other shape) goes through the request's own memory. So does
 * everything that is encrypted: that memory is where it is encrypted to.
 */
#include "base/clock.h"
#include "base/fail.h"
#include "segment/segment_internal.h"

#include <stdlib.h>
#include <string.h>

#define PAGE CSC_SEGFMT_PAGE_BYTES

/* What was written since everything was last known to be in the file, and where the writer stood then.
 * All of it succeeds or fails together. */
typedef struct batch {
    csc_segment_request *open; /* being gathered into; NULL: none */
    bool empty;                /* no record yet */
    /* to go back to */
    uint64_t position;
    size_t entry_count;
    uint32_t big_count;
    size_t first; /* the first of the writes that are in this batch */
} batch;

/* Begins an empty batch at the writer's position, for writes from `first` on. */
static void batch_begin(const csc_segment_tier *t, batch *b, size_t first)
{
    const csc_segment_writer *w = &t->writer;

    *b = (batch){.empty = true,
                 .position = w->item ? w->position : 0,
                 .entry_count = w->entry_count,
                 .big_count = w->big_count,
                 .first = first};
}

/* The batch has failed and nothing of it is in flight: nothing of it remains. */
static void batch_fail(csc_segment_tier *t, const batch *b, csc_tier_write *writes, size_t end, int code)
{
    csc_segment_writer *w = &t->writer;

    w->position = b->position;
    w->entry_count = b->entry_count;
    w->big_count = b->big_count;
    for (size_t i = b->first; i < end; i++)
        if (writes[i].status == 0) {
            writes[i].status = code;
            writes[i].place = (csc_place){.words = {0}};
        }
    csc_segment_recover(t, code);
}

static void batch_submit(csc_segment_tier *t, batch *b)
{
    if (b->open)
        csc_segment_ring_submit(t, b->open);
    b->open = NULL;
}

/* Waits until the records of writes[b->first, end) are in the file and begins the next batch. */
static void batch_finish(csc_segment_tier *t, batch *b, csc_tier_write *writes, size_t end)
{
    int rc;

    if (t->writer.ring->code && b->open) {
        csc_segment_ring_release(t, b->open);
        b->open = NULL;
    }
    batch_submit(t, b);
    rc = csc_segment_ring_drain(t);
    if (rc)
        batch_fail(t, b, writes, end, rc);
    else if (!b->empty)
        csc_segment_set_bytes(t, t->writer.position);
    batch_begin(t, b, end);
}

/* ---- one record ----------------------------------------------------------------------------------- */

/* A write on its way into the file. */
typedef struct job {
    csc_tier_write *write;
    uint64_t header_bytes;
    uint64_t payload_bytes;
    csc_segment_cursor cursor;
    bool aligned; /* goes to the file from where it lies */
    bool encrypts;
    uint64_t chunks; /* so many are in requests, to be encrypted there */
    csc_segfmt_record *header;
    csc_segfmt_summer summer;
} job;

/* A failure to encrypt is the batch's, as that of a request is. */
static void note_failure(csc_segment_tier *t, int rc)
{
    if (rc && t->writer.ring->code == 0)
        t->writer.ring->code = rc;
}

static void begin_header(csc_segment_tier *t, job *j)
{
    const csc_tier_write *write = j->write;
    csc_segfmt_record *header = j->header;
    csc_segfmt_binding *bindings = (void *)(header + 1);

    memset(header, 0, j->header_bytes);
    header->generation = t->writer.item->generation;
    header->offset = t->writer.position;
    header->type = CSC_SEGFMT_RECORD_BLOCK;
    header->header_bytes = (uint32_t)j->header_bytes;
    header->item_count = (uint32_t)write->binding_count;
    header->chunk_count = (uint32_t)csc_segfmt_chunk_count(j->payload_bytes);
    header->tenant = write->content.tenant;
    header->k_bytes = write->content.k_bytes;
    header->v_bytes = write->content.v_bytes;
    memcpy(header->digest, write->content.digest, sizeof header->digest);
    header->written_ns = write->written_ns ? write->written_ns : csc_wall_ns();
    for (size_t i = 0; i < write->binding_count; i++) {
        const csc_binding *from = &write->bindings[i];

        memcpy(bindings[i].key, from->key.bytes, sizeof bindings[i].key);
        if (from->has_parent)
            memcpy(bindings[i].parent, from->parent.bytes, sizeof bindings[i].parent);
        bindings[i].flags = from->has_parent ? CSC_SEGFMT_HAS_PARENT : 0;
        bindings[i].sequence = from->sequence;
    }
    header->key_id = t->writer.item->key_id;
    csc_segfmt_summer_begin(&j->summer, header, 0, (void *)(bindings + write->binding_count), NULL);
    if (j->encrypts)
        note_failure(t, csc_segment_encrypt_begin(header));
}

static bool is_filled(job *j)
{
    uint8_t *data;

    return csc_segment_cursor_peek(&j->cursor, 1, &data) == 0;
}

/* Adds payload from aligned pieces until the request has `most` bytes or the payload ends; returns how
 * much. */
static size_t fill_aligned(csc_segment_request *request, job *j, size_t most)
{
    size_t filled = 0;
    uint8_t *data;
    size_t bytes;

    while ((bytes = csc_segment_cursor_peek(&j->cursor, most - request->bytes, &data)) > 0 &&
           request->io.count < CSC_SEGMENT_VECTORS_MAX) {
        if (bytes >= PAGE) {
            bytes -= bytes % PAGE;
            csc_segment_request_push(request, data, bytes);
        } else {
            /* The last bytes: what lies behind them in memory is not ours to write out. */
            uint8_t *page = csc_segment_request_stage(request, PAGE);

            memcpy(page, data, bytes);
            memset(page + bytes, 0, PAGE - bytes);
        }
        csc_segment_cursor_move(&j->cursor, bytes);
        filled += bytes;
    }
    return filled;
}

/* The same from pieces of any shape, through the request's memory. */
static size_t fill_copied(csc_segment_request *request, job *j, size_t most)
{
    uint8_t *stage = request->stage + request->staged_bytes;
    size_t room = most - request->bytes;
    size_t copied = 0;
    uint8_t *data;
    size_t bytes;

    while ((bytes = csc_segment_cursor_peek(&j->cursor, room - copied, &data)) > 0) {
        memcpy(stage + copied, data, bytes);
        copied += bytes;
        csc_segment_cursor_move(&j->cursor, bytes);
    }
    memset(stage + copied, 0, csc_segfmt_round(copied) - copied);
    csc_segment_request_stage(request, csc_segfmt_round(copied));
    return copied;
}

/* The same, to be encrypted and summed there. */
static size_t fill_encrypted(csc_segment_tier *t, csc_segment_request *request, job *j, size_t most)
{
    csc_segment_part part = {.header = j->header,
                             .first = j->chunks,
                             .from = j->cursor,
                             .to = request->stage + request->staged_bytes,
                             .whole = request->bytes > 0};
    size_t room = most - request->bytes;
    uint8_t *data;
    size_t bytes;

    while ((bytes = csc_segment_cursor_peek(&j->cursor, room - part.bytes, &data)) > 0) {
        csc_segment_cursor_move(&j->cursor, bytes);
        part.bytes += bytes;
    }
    j->chunks += csc_segfmt_chunk_count(part.bytes);
    note_failure(t, csc_segment_request_encrypt(request, &part));
    memset(part.to + part.bytes, 0, csc_segfmt_round(part.bytes) - part.bytes);
    csc_segment_request_stage(request, csc_segfmt_round(part.bytes));
    return part.bytes;
}

/* Sums the `bytes` of payload that begin at `from`. */
static void sum_up(job *j, csc_segment_cursor from, size_t bytes)
{
    uint8_t *data;
    size_t part;

    while ((part = csc_segment_cursor_peek(&from, bytes, &data)) > 0) {
        csc_segfmt_summer_feed(&j->summer, data, part);
        csc_segment_cursor_move(&from, part);
        bytes -= part;
    }
}

/* Whether the whole record fits into what is left of a request, or into an empty one if that is NULL. */
static bool fits(const csc_segment_request *request, const job *j)
{
    uint64_t record_bytes = j->header_bytes + csc_segfmt_round(j->payload_bytes);
    size_t used = request ? request->bytes : 0;
    size_t count = request ? (size_t)request->io.count : 0;

    /* What is staged is a part of its bytes, so there is room for that too. */
    return record_bytes <= CSC_SEGMENT_REQUEST_BYTES - used &&
           (j->aligned ? j->cursor.count : 0) + 3 <= CSC_SEGMENT_VECTORS_MAX - count;
}

/* Remembers a record for the index and hands out its place. */
static void note(csc_segment_tier *t, const job *j)
{
    csc_segment_writer *w = &t->writer;
    csc_tier_write *write = j->write;
    csc_segfmt_index_entry entry = {.tenant = write->content.tenant,
                                    .k_bytes = write->content.k_bytes,
                                    .v_bytes = write->content.v_bytes,
                                    .offset = w->position,
                                    .written_ns = j->header->written_ns,
                                    .header_bytes = (uint32_t)j->header_bytes,
                                    .type = CSC_SEGFMT_INDEX_CONTENT};

    memcpy(entry.digest, write->content.digest, sizeof entry.digest);
    if (write->binding_count == 0)
        w->entries[w->entry_count++] = entry;
    for (size_t i = 0; i < write->binding_count; i++) {
        const csc_segfmt_binding *binding = &csc_segfmt_bindings(j->header)[i];

        entry.type = CSC_SEGFMT_INDEX_BINDING;
        memcpy(entry.key, binding->key, sizeof entry.key);
        memcpy(entry.parent, binding->parent, sizeof entry.parent);
        entry.sequence = binding->sequence;
        csc_segment_note_bind(t, w->index, binding->key, binding->sequence);
        entry.flags = (uint16_t)binding->flags;
        w->entries[w->entry_count++] = entry;
    }
    csc_segment_place_make(&write->place, w->index, w->position, j->header_bytes, w->item->generation);
    w->position += j->header_bytes + csc_segfmt_round(j->payload_bytes);
    w->big_count += j->payload_bytes >= CSC_SEGMENT_BIG_BYTES;
}

/* Adds payload in the way that the record's pieces want. */
static size_t fill(csc_segment_tier *t, csc_segment_request *request, job *j, size_t most)
{
    if (j->encrypts)
        return fill_encrypted(t, request, j, most);
    return j->aligned ? fill_aligned(request, j, most) : fill_copied(request, j, most);
}

/* A record larger than a request; its header is allocated. Its requests end where multiples of a
 * request's size do in the file, because that is where stripes and extents end; but where chunks do if
 * they are encrypted, so that each can be by itself. */
static void write_large(csc_segment_tier *t, batch *b, job *j)
{
    uint64_t at = t->writer.position + j->header_bytes;
    csc_segment_request *request;

    batch_submit(t, b);
    begin_header(t, j);
    do {
        size_t over = j->encrypts ? 0 : at % CSC_SEGMENT_REQUEST_BYTES;
        csc_segment_cursor from = j->cursor;
        size_t filled;

        request = csc_segment_ring_take(t, at);
        filled = fill(t, request, j, CSC_SEGMENT_REQUEST_BYTES - over);
        at += request->bytes;
        csc_segment_ring_submit(t, request);
        if (!j->encrypts)
            sum_up(j, from, filled);
    } while (t->writer.ring->code == 0 && !is_filled(j));
    csc_segfmt_summer_end(&j->summer);
    request = csc_segment_ring_take(t, t->writer.position);
    request->owned = j->header; /* after a failure too: what is being encrypted needs it */
    csc_segment_request_push(request, j->header, j->header_bytes);
    if (t->writer.ring->code == 0)
        note(t, j);
    csc_segment_ring_submit(t, request);
}

static void gather(csc_segment_tier *t, batch *b, job *j)
{
    csc_segment_cursor from = j->cursor;
    size_t filled;

    if (b->open && !fits(b->open, j))
        batch_submit(t, b);
    if (!b->open)
        b->open = csc_segment_ring_take(t, t->writer.position);
    j->header = (void *)csc_segment_request_stage(b->open, j->header_bytes);
    begin_header(t, j);
    filled = fill(t, b->open, j, CSC_SEGMENT_REQUEST_BYTES);
    if (!j->encrypts) {
        sum_up(j, from, filled);
        csc_segfmt_summer_end(&j->summer);
        csc_segfmt_record_seal(j->header);
    }
    note(t, j);
}

/* ---- the operation -------------------------------------------------------------------------------- */

static int check_write(const csc_tier_write *write)
{
    uint64_t k_bytes = write->content.k_bytes;
    uint64_t v_bytes = write->content.v_bytes;
    uint64_t bytes;

    if (k_bytes > CASCADE_BLOCK_BYTES_MAX || v_bytes > CASCADE_BLOCK_BYTES_MAX - k_bytes)
        return csc_fail(CASCADE_ETOOBIG, "a block of more than 1 TiB");
    if (!csc_segment_pieces_bytes(write->pieces, write->piece_count, &bytes) ||
        bytes != k_bytes + v_bytes)
        return csc_fail(CASCADE_EINVAL, "pieces do not add up to the block");
    if (write->binding_count > CSC_SEGFMT_BINDINGS_MAX)
        return csc_fail(CASCADE_EINVAL, "%zu bindings in one record; the rest belongs in the log",
                        write->binding_count);
    return 0;
}

/* Writes or gathers writes[i]; sets its status, which may still become a failure with its batch. */
static void write_one(csc_segment_tier *t, batch *b, csc_tier_write *writes, size_t i)
{
    csc_tier_write *write = &writes[i];
    job j = {.write = write,
             .cursor = {write->pieces, write->piece_count, 0, 0},
             .aligned = !t->keyring && csc_segment_pieces_aligned(write->pieces, write->piece_count),
             .encrypts = t->keyring};
    size_t entry_count = write->binding_count ? write->binding_count : 1;
    uint64_t record_bytes;
    bool is_small;

    j.payload_bytes = write->content.k_bytes + write->content.v_bytes;
    j.header_bytes = csc_segfmt_block_header_bytes(write->binding_count, j.payload_bytes,
                                                   csc_keyring_first(t->keyring));
    record_bytes = j.header_bytes + csc_segfmt_round(j.payload_bytes);
    is_small = fits(NULL, &j);
    if (csc_segment_must_roll(t, record_bytes, entry_count))
        batch_finish(t, b, writes, i);
    write->status = csc_segment_prepare(t, record_bytes, entry_count);
    if (write->status == 0 && !is_small && !(j.header = csc_segment_alloc(j.header_bytes)))
        write->status = CASCADE_ENOMEM;
    if (write->status)
        return;
    if (b->empty)
        batch_begin(t, b, i); /* the segment may be new */
    b->empty = false;
    if (is_small)
        gather(t, b, &j);
    else
        write_large(t, b, &j);
    if (t->writer.ring->code)
        batch_finish(t, b, writes, i + 1);
}

int csc_segment_write(csc_tier *tier, csc_tier_write *writes, size_t count)
{
    csc_segment_tier *t = csc_segment_tier_of(tier);
    int first_failure = csc_segment_ring_begin(t);
    batch b;

    for (size_t i = 0; i < count; i++) {
        writes[i].status = first_failure;
        writes[i].place = (csc_place){.words = {0}};
    }
    if (first_failure)
        return first_failure;
    batch_begin(t, &b, 0);
    for (size_t i = 0; i < count; i++) {
        writes[i].status = check_write(&writes[i]);
        if (writes[i].status == 0)
            write_one(t, &b, writes, i);
    }
    batch_finish(t, &b, writes, count);
    csc_segment_ring_end(t);
    for (size_t i = 0; i < count && first_failure == 0; i++)
        first_failure = writes[i].status;
    return first_failure;
}

/* ---- the log -------------------------------------------------------------------------------------- */

static void encode_log_entry(csc_segfmt_log_entry *to, const csc_log_entry *from)
{
    memcpy(to->key, from->binding.key.bytes, sizeof to->key);
    to->sequence = from->binding.sequence;
    to->type = from->is_delete ? CSC_SEGFMT_LOG_DELETE : CSC_SEGFMT_LOG_BIND;
    if (from->is_delete)
        return;
    if (from->binding.has_parent)
        memcpy(to->parent, from->binding.parent.bytes, sizeof to->parent);
    to->flags = from->binding.has_parent ? CSC_SEGFMT_HAS_PARENT : 0;
    memcpy(to->digest, from->content.digest, sizeof to->digest);
    to->tenant = from->content.tenant;
    to->k_bytes = from->content.k_bytes;
    to->v_bytes = from->content.v_bytes;
}

static void note_log_entry(csc_segment_tier *t, const csc_segfmt_log_entry *from, uint64_t header_bytes)
{
    csc_segment_writer *w = &t->writer;
    csc_segfmt_index_entry *entry = &w->entries[w->entry_count++];

    memset(entry, 0, sizeof *entry);
    memcpy(entry->key, from->key, sizeof entry->key);
    memcpy(entry->parent, from->parent, sizeof entry->parent);
    memcpy(entry->digest, from->digest, sizeof entry->digest);
    entry->sequence = from->sequence;
    entry->tenant = from->tenant;
    entry->k_bytes = from->k_bytes;
    entry->v_bytes = from->v_bytes;
    entry->offset = w->position;
    entry->header_bytes = (uint32_t)header_bytes;
    entry->type = from->type == CSC_SEGFMT_LOG_BIND ? CSC_SEGFMT_INDEX_BIND : CSC_SEGFMT_INDEX_DELETE;
    entry->flags = (uint16_t)from->flags;
    csc_segment_note_log(t, w->index, from->type == CSC_SEGFMT_LOG_DELETE);
}

int csc_segment_log(csc_tier *tier, const csc_log_entry *entries, size_t count, uint32_t *segment)
{
    csc_segment_tier *t = csc_segment_tier_of(tier);
    csc_segment_writer *w = &t->writer;
    csc_segfmt_record *record;
    csc_segfmt_log_entry *encoded;
    struct iovec vector;
    uint64_t bytes;
    int rc;

    if (count == 0 || count > CSC_SEGFMT_LOG_MAX)
        return csc_fail(CASCADE_EINVAL, "a log record of %zu entries", count);
    for (size_t i = 0; i < count; i++)
        if (!entries[i].is_delete &&
            (entries[i].content.k_bytes > CASCADE_BLOCK_BYTES_MAX ||
             entries[i].content.v_bytes > CASCADE_BLOCK_BYTES_MAX - entries[i].content.k_bytes))
            return csc_fail(CASCADE_EINVAL, "a log entry names a block of more than 1 TiB");
    bytes = csc_segfmt_log_header_bytes(count);
    rc = csc_segment_prepare(t, bytes, count);
    if (rc)
        return rc;
    record = csc_segment_alloc(bytes);
    if (!record)
        return CASCADE_ENOMEM;
    memset(record, 0, bytes);
    record->generation = w->item->generation;
    record->offset = w->position;
    record->type = CSC_SEGFMT_RECORD_LOG;
    record->header_bytes = (uint32_t)bytes;
    record->item_count = (uint32_t)count;
    encoded = (void *)(record + 1);
    for (size_t i = 0; i < count; i++)
        encode_log_entry(&encoded[i], &entries[i]);
    /* Before it is known whether they got there: a record that failed may be found by a later open. */
    for (size_t i = 0; i < count; i++)
        if (!entries[i].is_delete)
            csc_segment_note_bind(t, w->index, encoded[i].key, encoded[i].sequence);
    csc_segfmt_record_seal(record);
    vector = (struct iovec){record, bytes};
    w->dirty = true;
    rc = csc_segment_put(t, &vector, 1, w->position);
    if (rc) {
        csc_segment_recover(t, rc);
    } else {
        for (size_t i = 0; i < count; i++)
            note_log_entry(t, &encoded[i], bytes);
        w->position += bytes;
        csc_segment_set_bytes(t, w->position);
        *segment = w->index;
    }
    free(record);
    return rc;
}
