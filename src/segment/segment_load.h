/* SPDX-License-Identifier: MIT */
/*
 * One segment being read: at open, and again when a refresh finds more of it. Between the files that
 * read segments; not seen outside this folder.
 */
#ifndef CSC_SEGMENT_SEGMENT_LOAD_H
#define CSC_SEGMENT_SEGMENT_LOAD_H

#include "segment/segment_internal.h"

typedef struct csc_segment_loading {
    csc_segment_tier *t;
    const csc_segment_visitor *visitor;
    csc_segment_file *file;
    csc_segment_item *item; /* NULL: only read, not in the table */
    csc_segment_source source;
    uint64_t generation;
    uint64_t key_id;
    uint64_t size;       /* of the file, whole pages */
    uint64_t from;       /* records before this offset were visited, or are left out */
    uint64_t last_at;    /* of the last record that was visited by its header, 0: none */
    uint64_t last_sum;   /* and its checksum */
    bool live;           /* a refresh: other handles write meanwhile */
    bool went;           /* a refresh: a file was gone that had just been there */
    bool all_or_nothing; /* what cannot be read fails the reading; else it ends there */
    bool cut;            /* it did */
    uint8_t *window;
    size_t window_room;
    uint64_t window_from, window_to; /* what of the file lies there */
} csc_segment_loading;

/* ---- segment_load.c: what is in a segment ----------------------------------------------------------
 */

/** Makes the window. Errors: CASCADE_ENOMEM. */
int csc_segment_loading_begin(csc_segment_loading *l);
void csc_segment_loading_end(csc_segment_loading *l);
/** Forgets the segment read before, and memory that only a large one needed. */
void csc_segment_loading_next(csc_segment_loading *l);
/** What is read next is read anew. */
void csc_segment_loading_forget(csc_segment_loading *l);
/** The first page; goes over to buffered reads where direct ones are refused. */
int csc_segment_load_page(csc_segment_loading *l, const csc_segment_name *named, const void **page);
/** Visits a segment from `from` on by its index. `*sound` tells whether there was a good one; if not,
 * nothing was visited; else `from` is behind the records. */
int csc_segment_load_index(csc_segment_loading *l, bool *sound);
/** Visits whole records from `from` on, by their headers, and moves `from` behind them. */
int csc_segment_scan_records(csc_segment_loading *l);
/** Whether the record at `at` is the one with that checksum. An unsealed segment's writer may have cut
 * off what he could not write as a whole, and gone on from there. Errors: CASCADE_EIO. */
int csc_segment_scan_has(csc_segment_loading *l, uint64_t at, uint64_t sum, bool *has);

/* ---- segment_open.c --------------------------------------------------------------------------- */

/** Reads a file that is not in the table. What is wrong with that file alone is logged and counted. */
int csc_segment_load(csc_segment_loading *l, const csc_segment_name *named);
/** Whether a file is known to be no segment and has been looked at often enough. */
bool csc_segment_is_skipped(csc_segment_tier *t, const csc_segment_name *named);
/** Makes durable what a killed writer left in a segment without an index that becomes `ours`. */
int csc_segment_take_over(csc_segment_loading *l, const csc_segment_name *named);
/** After all files were looked at: whether there are some that only others can read. */
void csc_segment_note_unread(csc_segment_tier *t);

#endif
