/* SPDX-License-Identifier: MIT */
/*
 * The file tier: append-only segment files in the store's directory (docs/formats.md, "Segment").
 *
 * A segment is made by one writer, never appended to by another, and never changed once sealed. It
 * holds block records (content with its bindings) and log records (binds and deletes without bytes).
 * tier.ops->write appends block records to the open segment, sealing and starting segments as limits
 * say; nothing is durable before tier.ops->sync. One thread writes, syncs and drops at a time (the
 * store's writer); any number read meanwhile.
 *
 * All file work goes through base/io.h, which counts it.
 */
#ifndef CSC_SEGMENT_SEGMENT_H
#define CSC_SEGMENT_SEGMENT_H

#include "base/io.h"
#include "tier/tier.h"

typedef struct csc_segment_options {
    csc_io *io; /* borrowed for the life of the tier */
    const char *directory;
    uint32_t rank;          /* 0 to 999: agg_rank%03u_%06u.bin */
    uint64_t segment_bytes; /* seal when the next record would pass this; a record larger than this
                               gets a segment of its own */
    uint32_t blocks_max;    /* seal after this many blocks of 4 MiB and more (0: 256) */
    bool buffered;          /* do not try O_DIRECT */
} csc_segment_options;

/** One bind or delete without bytes. */
typedef struct csc_log_entry {
    bool is_delete;
    csc_binding binding; /* of a delete only key and sequence count */
    csc_content content; /* what a bind refers to; zero for a delete */
} csc_log_entry;

/** What the scan at open finds, in no particular order; the sequence decides. */
typedef struct csc_segment_visitor {
    void *context;
    /** A whole block record. Several records may hold the same content. */
    int (*block)(void *context, uint32_t segment, const csc_content *content,
                 const csc_binding *bindings, size_t binding_count, const csc_place *place);
    int (*log)(void *context, uint32_t segment, const csc_log_entry *entry);
} csc_segment_visitor;

/** Facts about one segment of this rank, for choosing which to drop. */
typedef struct csc_segment_info {
    uint32_t segment; /* index for this handle, as csc_segment_of gives it */
    uint64_t bytes;
    bool sealed;
} csc_segment_info;

/**
 * Opens the tier: lists the directory, reads every segment of every rank (sealed: its footer; unsealed
 * or with a damaged footer: its record headers up to the first that is not whole), and calls the visitor
 * for what it finds. A visitor's nonzero return stops and is returned. Damaged or foreign files named
 * like segments are skipped, counted as quarantined and logged, never changed. New segments take numbers
 * above all seen. No file is created before the first write.
 */
int csc_segment_open(const csc_segment_options *options, const csc_segment_visitor *visitor,
                     csc_tier **tier);

/** Appends log entries as one record. Durable after sync. `*segment`: where they went. */
int csc_segment_log(csc_tier *tier, const csc_log_entry *entries, size_t count, uint32_t *segment);

/** The segment (index for this handle, stable while open) a place lies in. */
uint32_t csc_segment_of(const csc_place *place);

/** Lists this rank's segments, oldest first; `*count` in: room, out: how many there are. */
void csc_segment_list(csc_tier *tier, csc_segment_info *infos, size_t *count);

/** Seals the open segment if there is one (footer, sync). */
int csc_segment_seal(csc_tier *tier);

/** Unlinks a sealed segment of this rank. Reads of its places under way finish; later ones are
 * CASCADE_MISS. */
int csc_segment_remove(csc_tier *tier, uint32_t segment);

/** Segment files open or sealed, of all ranks. */
uint64_t csc_segment_count(csc_tier *tier);

/** Whether O_DIRECT is in use. */
bool csc_segment_is_direct(csc_tier *tier);

#endif
