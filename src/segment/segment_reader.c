/* SPDX-License-Identifier: MIT */
/* Memory and life of readers: segment_reader.h. */
#include "segment/segment_reader.h"

#include "base/fail.h"

#include <stdlib.h>
#include <string.h>

static void reader_free(csc_segment_reader *reader)
{
    for (size_t i = 0; i < CSC_IO_DEPTH; i++)
        free(reader->transfers[i].bounce);
    for (size_t i = 0; i < CSC_SEGMENT_READ_HEADERS; i++)
        free(reader->headers[i].memory);
    csc_cipher_destroy(&reader->cipher);
    free(reader->readings);
    free(reader);
}

void csc_segment_readers_free(csc_segment_tier *t)
{
    while (t->readers) {
        csc_segment_reader *reader = t->readers;

        t->readers = reader->next;
        reader_free(reader);
    }
}

/* Back to the tier: its memory is warm. */
static void keep(csc_segment_reader *reader)
{
    csc_segment_tier *t = reader->t;
    bool full;

    pthread_mutex_lock(&t->lock);
    full = t->reader_count == CSC_SEGMENT_READERS_KEPT;
    if (!full) {
        reader->next = t->readers;
        t->readers = reader;
        t->reader_count++;
    }
    pthread_mutex_unlock(&t->lock);
    if (full)
        reader_free(reader);
}

static int reader_make(csc_segment_tier *t, size_t count, csc_segment_reader **result)
{
    csc_segment_reader *reader;

    pthread_mutex_lock(&t->lock);
    reader = t->readers;
    if (reader) {
        t->readers = reader->next;
        t->reader_count--;
    }
    pthread_mutex_unlock(&t->lock);
    if (!reader)
        reader = calloc(1, sizeof *reader);
    if (!reader)
        return csc_fail(CASCADE_ENOMEM, "no memory for a reader");
    reader->t = t;
    reader->count = count;
    reader->from = 0;
    reader->late = false;
    if (count > reader->room) {
        free(reader->readings);
        reader->room = 0;
        reader->readings = malloc(count * sizeof *reader->readings);
        if (!reader->readings) {
            reader_free(reader);
            return csc_fail(CASCADE_ENOMEM, "no memory for %zu reads", count);
        }
        reader->room = count;
    }
    memset(reader->readings, 0, count * sizeof *reader->readings);
    *result = reader;
    return 0;
}

int csc_segment_reader_take(csc_segment_tier *t, size_t count, csc_segment_reader **result)
{
    csc_segment_reader *reader = NULL;
    int rc = reader_make(t, count, &reader);

    if (rc)
        return rc;
    rc = csc_io_lane_take(t->io, &reader->lane);
    if (rc) {
        keep(reader);
        return rc;
    }
    *result = reader;
    return 0;
}

static void release_files(csc_segment_reader *reader)
{
    for (size_t i = 0; i < reader->count; i++)
        if (reader->readings[i].file) {
            csc_segment_file_release(reader->t, reader->readings[i].file);
            reader->readings[i].file = NULL;
        }
}

/* The last transfer of an abandoned reader is done: from a thread of the file layer. */
static void was_late(void *context)
{
    csc_segment_reader *reader = context;
    csc_segment_tier *t = reader->t;

    release_files(reader);
    for (size_t i = 0; i < reader->count; i++)
        if (reader->readings[i].released)
            reader->readings[i].released(reader->readings[i].context);
    reader_free(reader);
    csc_segment_leave(t);
}

void csc_segment_reader_give(csc_segment_reader *reader)
{
    bool running = false;

    for (size_t i = 0; i < CSC_IO_DEPTH; i++) {
        running = running || (reader->transfers[i].reading && !reader->transfers[i].done);
        if (reader->transfers[i].done)
            reader->transfers[i].reading = NULL;
        reader->transfers[i].done = false;
    }
    if (running) {
        atomic_fetch_add(&reader->t->users, 1);
        csc_io_lane_abandon(&reader->lane, was_late, reader);
        return;
    }
    csc_io_lane_give(&reader->lane);
    release_files(reader);
    for (size_t i = 0; i < CSC_SEGMENT_READ_HEADERS; i++)
        reader->headers[i].used = false;
    keep(reader);
}

csc_segment_transfer *csc_segment_reader_transfer(csc_segment_reader *reader, int *rc)
{
    csc_segment_transfer *transfer = NULL;

    *rc = 0;
    for (size_t i = 0; i < CSC_IO_DEPTH && !transfer; i++)
        if (!reader->transfers[i].reading)
            transfer = &reader->transfers[i];
    if (transfer && !transfer->bounce) {
        transfer->bounce = csc_segment_alloc(CSC_SEGMENT_READ_BOUNCE);
        if (!transfer->bounce) {
            *rc = CASCADE_ENOMEM;
            return NULL;
        }
    }
    return transfer;
}

void *csc_segment_reader_header(csc_segment_reader *reader, size_t bytes)
{
    csc_segment_header_memory *header = NULL;

    /* Every read under way has a transfer, but for the one whose transfers are being started. */
    for (size_t i = 0; i < CSC_SEGMENT_READ_HEADERS && !header; i++)
        if (!reader->headers[i].used)
            header = &reader->headers[i];
    if (!header) {
        csc_fail(CASCADE_ENOMEM, "no place for a record's header");
        return NULL;
    }
    if (header->room < bytes) {
        free(header->memory);
        header->room = 0;
        header->memory = csc_segment_alloc(bytes);
        if (!header->memory)
            return NULL;
        header->room = bytes;
    }
    header->used = true;
    return header->memory;
}

void csc_segment_reader_header_done(csc_segment_reader *reader, const void *memory)
{
    for (size_t i = 0; i < CSC_SEGMENT_READ_HEADERS; i++)
        if (reader->headers[i].memory == memory)
            reader->headers[i].used = false;
}
