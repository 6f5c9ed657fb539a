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
 * Writing. Several large requests of one `write` call are in flight; when one fails, all records of the
 * call in the same segment share its fate. A write that fails leaves nothing behind; after
 * CASCADE_ENOSPC the segment goes on, after CASCADE_EIO later writes go into a new one. CASCADE_EINVAL:
 * pieces that do not add up, or more than 1,024 bindings (the rest belongs in the log).
 *
 * Syncing. When tier.ops->sync (or csc_segment_seal, which includes it) fails with CASCADE_EIO,
 * everything written and logged since the last sync that returned 0 must be treated as not stored and
 * written again, even if other segments were sealed in between. It is told once: the next sync speaks
 * only for what was written after the failed one. The failed segment is not appended to; what of it is
 * whole may be found again by a later open.
 *
 * Reading. A damaged record, or one of another content, is CASCADE_ECORRUPT, after it was read twice; a
 * place of another handle or in a removed segment is CASCADE_MISS. stats.quarantined counts the files
 * that were skipped, not records: several may read the same; stats.used_bytes is of this rank's files.
 *
 * All file work goes through base/io.h, which counts it.
 */
#ifndef CSC_SEGMENT_SEGMENT_H
#define CSC_SEGMENT_SEGMENT_H

#include "base/io.h"
#include "base/keyring.h"
#include "tier/tier.h"

typedef struct csc_segment_options {
    csc_io *io; /* borrowed for the life of the tier */
    const char *directory;
    uint32_t rank;          /* 0 to 999: agg_rank%03u_%06u.bin */
    uint64_t segment_bytes; /* seal when the next record and the index would pass this (0: 4 GiB); a
                               record larger than this gets a segment of its own */
    uint32_t blocks_max;    /* seal after this many blocks of 4 MiB and more (0: 256) */
    bool buffered;          /* do not try O_DIRECT */
    uint32_t deadline_ms;   /* of a read; 0: 10,000 */
    uint32_t
        spares_max; /* removed segments whose files are kept to be used again, at most 64 (0: none) */
    const csc_keyring *keyring; /* borrowed for the life of the tier. Its first key encrypts the payloads
                                   of new segments. NULL: they are not encrypted */
} csc_segment_options;

/** One bind or delete without bytes. */
typedef struct csc_log_entry {
    bool is_delete;
    csc_binding binding; /* of a delete only key and sequence count */
    csc_content content; /* what a bind refers to; zero for a delete */
} csc_log_entry;

/** Where something was found. */
typedef struct csc_segment_source {
    uint32_t segment; /* index for this handle */
    uint32_t rank;    /* whose it is */
    bool sealed;      /* by its index: all of it was durable before the index was written. Else by its
                         record headers: a payload may be torn */
} csc_segment_source;

/** What reading the directory finds, in no particular order; the sequence decides. */
typedef struct csc_segment_visitor {
    void *context;
    /** A whole block record. Several records may hold the same content. */
    int (*block)(void *context, const csc_segment_source *source, const csc_content *content,
                 uint64_t written_ns, const csc_binding *bindings, size_t binding_count,
                 const csc_place *place);
    int (*log)(void *context, const csc_segment_source *source, const csc_log_entry *entry);
    /** Optional; of a refresh, before it reads anything: a segment is gone. */
    void (*gone)(void *context, uint32_t segment);
} csc_segment_visitor;

/** Facts about one segment of this rank, for choosing which to drop. */
typedef struct csc_segment_info {
    uint32_t segment; /* index for this handle, as csc_segment_of gives it */
    uint64_t bytes;
    uint64_t live_bytes; /* of records that hold a retained place, headers included */
    uint64_t
        log_bytes; /* that its binds and deletes take when packed; 0: many may be of no use by now */
    uint64_t delete_bytes; /* of log_bytes, of deletes */
    uint64_t index_bytes;  /* of `bytes`, taken by its index; 0: it has none */
    uint64_t key_id;       /* its payloads are encrypted with, 0: none */
    bool sealed;           /* has its index; if not, it may be growing, under this handle or another */
    bool open;             /* this handle appends to it */
    bool abandoned;        /* ours, without an index, and will get none: given up by this handle, or
                              nobody had appended to it for a day when it was opened. May be emptied and
                              removed too */
    bool ours; /* written by this handle, or found at open with this rank: may be emptied and removed.
                  Not: found later, so another live handle of the same rank made it; or read in part,
                  until a refresh has read the rest */
} csc_segment_info;

/**
 * Opens the tier: lists the directory, reads every segment of every rank (sealed: its footer; unsealed
 * or with a damaged footer: its record headers up to the first that is not whole), and calls the visitor
 * for what it finds. A visitor's nonzero return stops and is returned. Damaged or foreign files named
 * like segments are skipped, counted as quarantined and logged, never changed. New segments take numbers
 * above all seen. No file is created before the first write.
 * CASCADE_ENOKEY: a segment of this rank is encrypted with a key that is not in the keyring; those of
 * other ranks are skipped and logged, but are not damaged. Returns 0, CASCADE_ENOSTORE (no such
 * directory), CASCADE_EACCES (it cannot be listed), CASCADE_EINVAL, CASCADE_EIO, CASCADE_ENOMEM,
 * CASCADE_ENOTSUP (OpenSSL cannot encrypt); `*tier` is written only on success.
 */
int csc_segment_open(const csc_segment_options *options, const csc_segment_visitor *visitor,
                     csc_tier **tier);

/** Appends 1 to 16,384 log entries (else CASCADE_EINVAL) as one record; all or nothing. Durable after
 * sync.
 * `*segment`: where they went. Returns as a write. The writing thread only. */
int csc_segment_log(csc_tier *tier, const csc_log_entry *entries, size_t count, uint32_t *segment);

/** The segment (index for this handle, stable while open) a place lies in. */
uint32_t csc_segment_of(const csc_place *place);

/** Where in its segment a place's record begins. */
uint64_t csc_segment_offset_of(const csc_place *place);

/** Whether two places, of any two handles, are of the same record. */
bool csc_segment_is_same_record(const csc_place *a, const csc_place *b);

/** Bytes in use by this rank's segments, with the index that the open one will get, without files that
 * wait to be used again. The writing thread only. */
uint64_t csc_segment_used_bytes(csc_tier *tier);

/** Lists this rank's segments, oldest first; `*count` in: room, out: how many there are. */
void csc_segment_list(csc_tier *tier, csc_segment_info *infos, size_t *count);

/** Seals the open segment if there is one, and syncs. CASCADE_ENOSPC: there is no room for the index;
 * the segment stays open, its records are durable. The writing thread only. */
int csc_segment_seal(csc_tier *tier);

/** Ends the open segment, if there is one, without an index, for want of room for it: it may be emptied
 * as an abandoned one. Fails as tier.ops->sync does. The writing thread only. */
int csc_segment_give_up(csc_tier *tier);

/** Removes a segment of this rank: unlinks it, or, if it is sealed and `ours` and options.spares_max
 * allows, keeps its file to become a new segment later. Reads of its places under way finish, or are
 * CASCADE_MISS where the file is used again; later ones are CASCADE_MISS, for other handles too. The
 * removal is durable after the next sync. CASCADE_EBUSY: it is the open one; CASCADE_EINVAL: not
 * this rank's; CASCADE_MISS: removed before. An unsealed one may belong to another live handle of the
 * same rank on another node: only the caller can know. The writing thread only. */
int csc_segment_remove(csc_tier *tier, uint32_t segment);

/**
 * Reads what came to the directory since open or the last refresh: new segments of any rank, records
 * appended to those of others, indexes of those that were sealed meanwhile. Marks those removed that are
 * gone or became another segment, and tells the visitor. A segment that another live handle writes is
 * not `ours` from then on. Costs one readdir, the first page of one segment, in turn, and a look at the
 * size and the end of each unsealed one; and all that once more if a file went while it looked, for what
 * was in it may have been moved behind its back; and a sync of the directory for each segment that was
 * sealed, and for those that went. A record may be visited twice.
 *
 * 0: all that others had synced when it began is known. Else as open, but CASCADE_ENOKEY is only logged;
 * CASCADE_EAGAIN: files kept going; CASCADE_EIO: some files could not be read, the rest was; or the
 * directory is gone, or is another one, and nothing is taken to be removed. Next time it goes on. Any
 * one thread at a time.
 */
int csc_segment_refresh(csc_tier *tier, const csc_segment_visitor *visitor);

/** What is known of a segment. */
enum {
    CSC_SEGMENT_IS_OURS = 1, /* as in csc_segment_info */
    CSC_SEGMENT_IS_SEALED = 2,
    CSC_SEGMENT_IS_GONE = 4, /* removed, or there never was one */
    CSC_SEGMENT_IS_MADE = 8  /* by this handle */
};
unsigned csc_segment_standing(csc_tier *tier, uint32_t segment);

/** A record in an unsealed segment of another handle was not whole yet: the next refresh visits it
 * again.
 */
void csc_segment_reread(csc_tier *tier, const csc_place *place);

/** Visits all that may hide an older bind: the deletes and binds in a segment of this rank that is not
 * open, for whoever empties it. Nonzero of `visit` stops and is returned. Errors: CASCADE_EINVAL,
 * CASCADE_MISS (removed), CASCADE_EIO, CASCADE_ENOMEM, CASCADE_ECORRUPT (a part that was once read
 * cannot be now; some may have been visited). The writing thread only. */
int csc_segment_hiders(csc_tier *tier, uint32_t segment,
                       int (*visit)(void *context, const csc_binding *binding, bool is_delete),
                       void *context);

/** Whether a delete may hide a bind in any segment, of any rank, but `except`. `deleted`: key and
 * sequence count. Yes for nothing about once in 4e9 / (keys per segment); and while there are segments
 * that cannot be read here, but perhaps by others, or are read in part; and once the directory could not
 * be synced, because what was removed before may come back, though a later sync works. What others wrote
 * counts as far as it is known (csc_segment_refresh). For the writer. */
bool csc_segment_may_hide(csc_tier *tier, uint32_t except, const csc_binding *deleted);
/** The same of a bind, in segments of this rank: the binds of others are not older or younger than it as
 * long as neither has seen the other's. */
bool csc_segment_bind_may_hide(csc_tier *tier, uint32_t except, const csc_binding *bind);

/** Bytes of the record at a place of this tier, header included. */
uint64_t csc_segment_record_bytes(const csc_place *place, const csc_content *content);

/** Bytes of records in use in this rank's segments. */
uint64_t csc_segment_live_bytes(csc_tier *tier);

/** Whether it is of this rank and may be emptied, as csc_segment_info has it. */
bool csc_segment_is_ours(csc_tier *tier, uint32_t segment);

/** What stats.used_bytes will be at most once `record_count` more records of `record_bytes` together are
 * written and their segments sealed. `entry_count`: of their bindings and log entries, at least one a
 * record. The writing thread only. */
uint64_t csc_segment_bytes_after(csc_tier *tier, uint64_t record_bytes, size_t record_count,
                                 size_t entry_count);

/** Segment files open or sealed, of all ranks. */
uint64_t csc_segment_count(csc_tier *tier);

/** Whether O_DIRECT is in use. */
bool csc_segment_is_direct(csc_tier *tier);

/** Whether new files are striped: the directory is on Lustre, and its tool said yes when the first
 * segment was started. */
bool csc_segment_is_striped(csc_tier *tier);

/** How many segments were started in the file of a removed one. */
uint64_t csc_segment_recycled(csc_tier *tier);

/** How many reads were right only the second time. */
uint64_t csc_segment_rereads(csc_tier *tier);

/** Bytes of files that wait to be used again; a part of stats.used_bytes. close removes them. */
uint64_t csc_segment_spare_bytes(csc_tier *tier);

#endif
