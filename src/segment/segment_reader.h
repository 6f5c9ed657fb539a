/* SPDX-License-Identifier: MIT */
/*
 * What one call of csc_segment_read works with: its lane, its transfers and their memory, and the state
 * of each read. All of it lives on the heap and is kept by the tier for the next call, because it has to
 * outlive a call whose transfers are past their deadline: then it belongs to the lane until the last of
 * them is done.
 */
#ifndef CSC_SEGMENT_SEGMENT_READER_H
#define CSC_SEGMENT_SEGMENT_READER_H

#include "segment/segment_internal.h"

#define CSC_SEGMENT_READ_COPIED   ((uint64_t)1 << 20) /* of a transfer through the reader's memory */
#define CSC_SEGMENT_READ_STRAIGHT ((uint64_t)2 << 20) /* of one into pages */
#define CSC_SEGMENT_READ_BOUNCE   ((size_t)1 << 20)
/* Pages of a straight transfer, each alone, and header, lead and tail. */
#define CSC_SEGMENT_READ_VECTORS (CSC_SEGMENT_READ_STRAIGHT / CSC_SEGFMT_PAGE_BYTES + 3)
#define CSC_SEGMENT_READ_HEADERS (CSC_IO_DEPTH + 1)

struct csc_segment_reading;

/* Consecutive bytes of one record: its header if that was not read yet, then payload [at, end). With
 * pieces that are pages the payload is lead (bounce), straight (the pieces), tail (bounce), whose first
 * `copied` bytes belong to the last piece; else all of it goes to the bounce. */
typedef struct csc_segment_transfer {
    csc_io_request request;
    struct csc_segment_reading *reading; /* NULL: free */
    struct csc_segment_transfer *next;   /* of its reading, in file order */
    bool done;
    uint64_t at, end;
    size_t lead, straight, tail, copied;
    uint8_t *bounce; /* made when first needed */
    struct iovec vectors[CSC_SEGMENT_READ_VECTORS];
} csc_segment_transfer;

typedef struct csc_segment_reading {
    csc_tier_read *read; /* the caller's: not touched after the call */
    csc_segment_item *item;
    csc_segment_file *file;
    int status;
    bool ended;
    bool begun;
    bool again; /* its bytes failed their check once */
    bool into_pages;
    uint64_t record; /* its offset in the file */
    uint64_t header_bytes;
    uint64_t payload_bytes;
    uint64_t from, to;               /* the range */
    uint64_t region_from, region_to; /* the same, whole chunks */
    uint64_t next;                   /* payload that no transfer asked for yet */
    uint64_t arrived;                /* of the range, as was told */
    csc_segfmt_record *header;       /* while it is under way */
    bool header_asked, header_checked;
    csc_segment_cursor asked, checked; /* in the pieces */
    csc_segment_transfer *first, *last;
    void (*released)(void *context); /* of a late one */
    void *context;
} csc_segment_reading;

typedef struct csc_segment_header_memory {
    void *memory;
    size_t room;
    bool used;
} csc_segment_header_memory;

typedef struct csc_segment_reader {
    struct csc_segment_reader *next; /* of those kept */
    csc_segment_tier *t;
    csc_io_lane *lane;
    uint64_t deadline_ns;
    csc_segment_reading *readings;
    size_t count, room;
    size_t from;        /* those before it need no more transfers */
    bool late;          /* some are past the deadline */
    csc_cipher *cipher; /* made when first needed */
    csc_segment_transfer transfers[CSC_IO_DEPTH];
    csc_segment_header_memory headers[CSC_SEGMENT_READ_HEADERS];
} csc_segment_reader;

/** A reader for `count` reads, all zero, with a lane. Errors: CASCADE_ENOMEM, CASCADE_ETIMEDOUT. */
int csc_segment_reader_take(csc_segment_tier *t, size_t count, csc_segment_reader **reader);
/** Ends a call: releases the files. Transfers that still run keep what they use, and the late reads'
 * `released` is called after the last of them. */
void csc_segment_reader_give(csc_segment_reader *reader);
/** A free transfer with its bounce. NULL: all are in use (`*rc` 0) or there is no memory. */
csc_segment_transfer *csc_segment_reader_transfer(csc_segment_reader *reader, int *rc);
/** Memory for a header, aligned to a page; NULL: none left, with the text written. */
void *csc_segment_reader_header(csc_segment_reader *reader, size_t bytes);
void csc_segment_reader_header_done(csc_segment_reader *reader, const void *header);

#endif
