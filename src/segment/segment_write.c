/* SPDX-License-Identifier: MIT */
/*
 * Appending records. Small records are gathered into one request of up to 16 MiB; they share its fate. A
 * record that does not fit into one request is written payload first and header last, so that a process
 * that dies in between leaves no header that promises missing bytes.
 *
 * Payload pieces that begin at pages go to the file from where they lie; everything else (headers, the
 * last part of a page, pieces of any other shape) goes through the writer's own aligned memory, `stage`.
 */
#include "base/fail.h"
#include "segment/segment_internal.h"

#include <stdlib.h>
#include <string.h>

#define PAGE        CSC_SEGFMT_PAGE_BYTES
#define VECTORS_MAX 512

/* What is gathered for the next request, and where the writer stood before it. */
typedef struct batch {
    struct iovec vectors[VECTORS_MAX];
    int count;
    uint64_t offset;
    size_t bytes;
    size_t staged_bytes;
    /* to go back to */
    uint64_t position;
    size_t entry_count;
    uint32_t big_count;
    size_t first; /* the first of the writes that are in this batch */
} batch;

/* Begins an empty batch at the writer's position, for writes from `first` on. */
static void batch_begin(csc_segment_tier *t, batch *b, size_t first)
{
    const csc_segment_writer *w = &t->writer;

    b->count = 0;
    b->bytes = 0;
    b->staged_bytes = 0;
    b->offset = b->position = w->item ? w->position : 0;
    b->entry_count = w->entry_count;
    b->big_count = w->big_count;
    b->first = first;
}

static void push(batch *b, void *data, size_t bytes)
{
    struct iovec *last = b->count > 0 ? &b->vectors[b->count - 1] : NULL;

    if (last && (uint8_t *)last->iov_base + last->iov_len == data)
        last->iov_len += bytes;
    else
        b->vectors[b->count++] = (struct iovec){data, bytes};
    b->bytes += bytes;
}

/* Takes `bytes`, whole pages, of the stage; the caller knows that there is room. */
static uint8_t *take_stage(csc_segment_tier *t, batch *b, size_t bytes)
{
    uint8_t *place = t->writer.stage + b->staged_bytes;

    b->staged_bytes += bytes;
    push(b, place, bytes);
    return place;
}

/* Writes what is gathered; the batch goes on behind it. */
static int put_request(csc_segment_tier *t, batch *b)
{
    int rc = b->count > 0 ? csc_segment_put(t, b->vectors, b->count, b->offset) : 0;

    b->offset += b->bytes;
    b->count = 0;
    b->bytes = 0;
    b->staged_bytes = 0;
    return rc;
}

/* A batch has failed: nothing of it remains. */
static void batch_fail(csc_segment_tier *t, batch *b, csc_tier_write *writes, size_t end, int code)
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

/* Writes the gathered records of writes[b->first, end) and begins the next batch. */
static void batch_flush(csc_segment_tier *t, batch *b, csc_tier_write *writes, size_t end)
{
    int rc;

    if (b->count > 0) {
        t->writer.dirty = true;
        rc = put_request(t, b);
        if (rc)
            batch_fail(t, b, writes, end, rc);
        else
            csc_segment_set_bytes(t, t->writer.position);
    }
    batch_begin(t, b, end);
}

/* ---- one record ----------------------------------------------------------------------------------- */

/* A write on its way into the file. */
typedef struct job {
    csc_tier_write *write;
    uint64_t header_bytes;
    uint64_t payload_bytes;
    csc_segment_cursor cursor;
    bool aligned;
    csc_segfmt_record *header;
    csc_segfmt_summer summer;
} job;

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
    for (size_t i = 0; i < write->binding_count; i++) {
        const csc_binding *from = &write->bindings[i];

        memcpy(bindings[i].key, from->key.bytes, sizeof bindings[i].key);
        if (from->has_parent)
            memcpy(bindings[i].parent, from->parent.bytes, sizeof bindings[i].parent);
        bindings[i].flags = from->has_parent ? CSC_SEGFMT_HAS_PARENT : 0;
        bindings[i].sequence = from->sequence;
    }
    csc_segfmt_summer_begin(&j->summer, header, 0, (void *)(bindings + write->binding_count), NULL);
}

/* Adds payload from aligned pieces until the request or the payload is full; true: all is in. */
static bool fill_aligned(csc_segment_tier *t, batch *b, job *j)
{
    uint8_t *data;
    size_t bytes;

    while ((bytes = csc_segment_cursor_peek(&j->cursor, CSC_SEGMENT_REQUEST_BYTES, &data)) > 0) {
        if (b->bytes == CSC_SEGMENT_REQUEST_BYTES || b->count == VECTORS_MAX)
            return false;
        if (bytes > CSC_SEGMENT_REQUEST_BYTES - b->bytes)
            bytes = CSC_SEGMENT_REQUEST_BYTES - b->bytes;
        if (bytes >= PAGE) {
            bytes -= bytes % PAGE;
            push(b, data, bytes);
        } else {
            /* The last bytes: what lies behind them in memory is not ours to write out. */
            uint8_t *page = take_stage(t, b, PAGE);

            memcpy(page, data, bytes);
            memset(page + bytes, 0, PAGE - bytes);
        }
        csc_segfmt_summer_feed(&j->summer, data, bytes);
        csc_segment_cursor_move(&j->cursor, bytes);
    }
    return true;
}

/* The same from pieces of any shape, through the stage. */
static bool fill_copied(csc_segment_tier *t, batch *b, job *j)
{
    size_t room = CSC_SEGMENT_STAGE_BYTES - b->staged_bytes;
    uint8_t *stage = t->writer.stage + b->staged_bytes;
    size_t copied = 0;
    uint8_t *data;
    size_t bytes;

    if (room > CSC_SEGMENT_REQUEST_BYTES - b->bytes)
        room = CSC_SEGMENT_REQUEST_BYTES - b->bytes;
    while ((bytes = csc_segment_cursor_peek(&j->cursor, room - copied, &data)) > 0) {
        memcpy(stage + copied, data, bytes);
        copied += bytes;
        csc_segment_cursor_move(&j->cursor, bytes);
    }
    if (copied > 0) {
        size_t padded = csc_segfmt_round(copied);

        csc_segfmt_summer_feed(&j->summer, stage, copied);
        memset(stage + copied, 0, padded - copied);
        take_stage(t, b, padded);
    }
    return csc_segment_cursor_peek(&j->cursor, 1, &data) == 0;
}

static bool fill(csc_segment_tier *t, batch *b, job *j)
{
    return j->aligned ? fill_aligned(t, b, j) : fill_copied(t, b, j);
}

/* Whether the whole record fits into what is left of the request being gathered. */
static bool fits(const batch *b, const job *j)
{
    uint64_t padded = csc_segfmt_round(j->payload_bytes);
    uint64_t staged = j->header_bytes + (j->aligned ? PAGE : padded);

    return j->header_bytes + padded <= CSC_SEGMENT_REQUEST_BYTES - b->bytes &&
           staged <= CSC_SEGMENT_STAGE_BYTES - b->staged_bytes &&
           (j->aligned ? j->cursor.count : 0) + 3 <= (size_t)(VECTORS_MAX - b->count);
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
        entry.flags = (uint16_t)binding->flags;
        w->entries[w->entry_count++] = entry;
    }
    csc_segment_place_make(&write->place, w->index, w->position, j->header_bytes, w->item->generation);
    w->position += j->header_bytes + csc_segfmt_round(j->payload_bytes);
    w->big_count += j->payload_bytes >= CSC_SEGMENT_BIG_BYTES;
}

/* A record larger than a request; the batch is empty. */
static int write_large(csc_segment_tier *t, batch *b, job *j)
{
    struct iovec vector;
    bool whole = false;
    int rc = 0;

    j->header = csc_segment_alloc(j->header_bytes);
    if (!j->header)
        return CASCADE_ENOMEM;
    t->writer.dirty = true;
    begin_header(t, j);
    b->offset = t->writer.position + j->header_bytes;
    while (rc == 0 && !whole) {
        whole = fill(t, b, j);
        rc = put_request(t, b);
    }
    if (rc == 0) {
        csc_segfmt_summer_end(&j->summer);
        csc_segfmt_record_seal(j->header);
        vector = (struct iovec){j->header, j->header_bytes};
        rc = csc_segment_put(t, &vector, 1, t->writer.position);
    }
    if (rc == 0) {
        note(t, j);
        csc_segment_set_bytes(t, t->writer.position);
    }
    free(j->header);
    return rc;
}

static void gather(csc_segment_tier *t, batch *b, job *j)
{
    j->header = (void *)take_stage(t, b, j->header_bytes);
    begin_header(t, j);
    fill(t, b, j);
    csc_segfmt_summer_end(&j->summer);
    csc_segfmt_record_seal(j->header);
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

/* Writes or gathers writes[i]; sets its status. */
static void write_one(csc_segment_tier *t, batch *b, csc_tier_write *writes, size_t i)
{
    csc_tier_write *write = &writes[i];
    job j = {.write = write,
             .cursor = {write->pieces, write->piece_count, 0, 0},
             .aligned = csc_segment_pieces_aligned(write->pieces, write->piece_count)};
    size_t entry_count = write->binding_count ? write->binding_count : 1;
    uint64_t record_bytes;

    j.payload_bytes = write->content.k_bytes + write->content.v_bytes;
    j.header_bytes = csc_segfmt_block_header_bytes(write->binding_count, j.payload_bytes);
    record_bytes = j.header_bytes + csc_segfmt_round(j.payload_bytes);
    if (csc_segment_must_roll(t, record_bytes, entry_count) || !fits(b, &j))
        batch_flush(t, b, writes, i);
    write->status = csc_segment_prepare(t, record_bytes, entry_count);
    if (write->status)
        return;
    if (b->count == 0)
        batch_begin(t, b, i);
    if (fits(b, &j)) {
        gather(t, b, &j);
        return;
    }
    write->status = write_large(t, b, &j);
    if (write->status)
        batch_fail(t, b, writes, i, write->status);
    batch_begin(t, b, i + 1);
}

int csc_segment_write(csc_tier *tier, csc_tier_write *writes, size_t count)
{
    csc_segment_tier *t = csc_segment_tier_of(tier);
    int first_failure = 0;
    batch b;

    for (size_t i = 0; i < count; i++) {
        writes[i].status = 0;
        writes[i].place = (csc_place){.words = {0}};
    }
    batch_begin(t, &b, 0);
    for (size_t i = 0; i < count; i++) {
        writes[i].status = check_write(&writes[i]);
        if (writes[i].status == 0)
            write_one(t, &b, writes, i);
    }
    batch_flush(t, &b, writes, count);
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

static void note_log_entry(csc_segment_writer *w, const csc_segfmt_log_entry *from,
                           uint64_t header_bytes)
{
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
    csc_segfmt_record_seal(record);
    vector = (struct iovec){record, bytes};
    w->dirty = true;
    rc = csc_segment_put(t, &vector, 1, w->position);
    if (rc) {
        csc_segment_recover(t, rc);
    } else {
        for (size_t i = 0; i < count; i++)
            note_log_entry(w, &encoded[i], bytes);
        w->position += bytes;
        csc_segment_set_bytes(t, w->position);
        *segment = w->index;
    }
    free(record);
    return rc;
}
