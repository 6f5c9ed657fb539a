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
 * Writing. Records of one `write` call share large requests; those in a request that fails share its
 * fate. A write that fails leaves nothing behind; after CASCADE_ENOSPC the segment goes on, after
 * CASCADE_EIO later writes go into a new one. CASCADE_EINVAL: pieces that do not add up, or more than
 * 1,024 bindings (the rest belongs in the log).
 *
 * Syncing. When tier.ops->sync (or csc_segment_seal, which includes it) fails with CASCADE_EIO,
 * everything written and logged since the last sync that returned 0 must be treated as not stored and
 * written again, even if other segments were sealed in between. It is told once: the next sync speaks
 * only for what was written after the failed one. The failed segment is not appended to; what of it is
 * whole may be found again by a later open.
 *
 * Reading. A damaged record, or one of another content, is CASCADE_ECORRUPT; a place of another handle
 * or in a removed segment is CASCADE_MISS. stats.quarantined counts the files skipped at open and the
 * reads that were CASCADE_ECORRUPT; stats.used_bytes is of this rank's files.
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
    uint64_t segment_bytes; /* seal when the next record and the index would pass this (0: 4 GiB); a
                               record larger than this gets a segment of its own */
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
    bool sealed; /* has its index; if not, it may be growing, under this handle or another */
} csc_segment_info;

/**
 * Opens the tier: lists the directory, reads every segment of every rank (sealed: its footer; unsealed
 * or with a damaged footer: its record headers up to the first that is not whole), and calls the visitor
 * for what it finds. A visitor's nonzero return stops and is returned. Damaged or foreign files named
 * like segments are skipped, counted as quarantined and logged, never changed. New segments take numbers
 * above all seen. No file is created before the first write.
 * Returns 0, CASCADE_ENOSTORE (no such directory), CASCADE_EACCES (it cannot be listed), CASCADE_EINVAL,
 * CASCADE_EIO, CASCADE_ENOMEM; `*tier` is written only on success.
 */
int csc_segment_open(const csc_segment_options *options, const csc_segment_visitor *visitor,
                     csc_tier **tier);

/** Appends 1 to 16,384 log entries (else CASCADE_EINVAL) as one record; all or nothing. Durable after
 * sync.
 * `*segment`: where they went. Returns as a write. The writing thread only. */
int csc_segment_log(csc_tier *tier, const csc_log_entry *entries, size_t count, uint32_t *segment);

/** The segment (index for this handle, stable while open) a place lies in. */
uint32_t csc_segment_of(const csc_place *place);

/** Lists this rank's segments, oldest first; `*count` in: room, out: how many there are. */
void csc_segment_list(csc_tier *tier, csc_segment_info *infos, size_t *count);

/** Seals the open segment if there is one, and syncs. CASCADE_ENOSPC: there is no room for the index;
 * the segment stays open, its records are durable. The writing thread only. */
int csc_segment_seal(csc_tier *tier);

/** Unlinks a segment of this rank. Reads of its places under way finish; later ones are CASCADE_MISS.
 * The removal is durable after the next sync. CASCADE_EBUSY: it is the open one; CASCADE_EINVAL: not
 * this rank's; CASCADE_MISS: removed before. An unsealed one may belong to another live handle of the
 * same rank on another node: only the caller can know. The writing thread only. */
int csc_segment_remove(csc_tier *tier, uint32_t segment);

/** Segment files open or sealed, of all ranks. */
uint64_t csc_segment_count(csc_tier *tier);

/** Whether O_DIRECT is in use. */
bool csc_segment_is_direct(csc_tier *tier);

#endif
