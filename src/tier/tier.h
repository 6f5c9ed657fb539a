/* SPDX-License-Identifier: MIT */
/*
 * What a tier is: a constant table of typed functions. Tiers never know of each other; only src/store
 * knows that several exist. tier_suite.h runs the same test against every tier.
 *
 * A tier stores contents: K and V bytes, one after the other, with the facts needed to find them again.
 * It hands back a place, plain data that means something to that tier alone.
 */
#ifndef CSC_TIER_TIER_H
#define CSC_TIER_TIER_H

#include "format/content.h"
#include <cascade/cascade.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** One content to store. Everything is borrowed for the call. */
typedef struct csc_tier_write {
    csc_content content;
    uint64_t written_ns; /* when it was first stored below dram, since 1970; 0: now (file tier) */
    const csc_binding *bindings; /* keys to store with it (file tier); may be none */
    size_t binding_count;
    const cascade_piece *pieces; /* K then V; add up to k_bytes + v_bytes */
    size_t piece_count;
    /* results */
    csc_place place;
    int status;
} csc_tier_write;

/** One range of a content to read. All but the bytes is borrowed for the call. */
typedef struct csc_tier_read {
    csc_place place;
    csc_content content;
    uint64_t offset;             /* the range: [offset, offset + sum of pieces) of K || V */
    const cascade_piece *pieces; /* where to */
    size_t piece_count;
    /* Optional; called from the reading thread, in order, as checked bytes of the range arrive in the
     * pieces: the first `bytes` of the range are there. */
    void (*arrived)(void *context, uint64_t bytes);
    /* Set: the pieces are the store's own pages, and the transfer may go straight into them. Then, when
     * status is CASCADE_ETIMEDOUT and `late` is set, they are still being written to, and stay reserved
     * until `released` is called, from another thread, once. Not set: the pieces belong to a caller and
     * are never touched after the call. */
    void (*released)(void *context);
    void *context;
    /* results */
    int status;
    bool late;
} csc_tier_read;

typedef struct csc_tier csc_tier;

/** Calls may come from several threads at once unless stated. */
typedef struct csc_tier_ops {
    const char *name;

    /** Required. Stores `count` contents; each gets its `status` (0, CASCADE_ENOSPC, CASCADE_EIO,
     * CASCADE_ETOOBIG) and, on 0, its place. A failed one leaves nothing behind and harms no other.
     * Returns 0 if all are 0, else the first failure. File tier: one caller at a time. */
    int (*write)(csc_tier *tier, csc_tier_write *writes, size_t count);

    /** Required. Returns once all that `write` stored before is as safe as the tier makes it. */
    int (*sync)(csc_tier *tier);

    /** Required. Reads `count` ranges, checked, as far as possible at the same time. Each gets its
     * `status`: 0, CASCADE_ECORRUPT (damaged, or not this content), CASCADE_MISS (its storage is gone),
     * CASCADE_EIO, CASCADE_ETIMEDOUT (past the tier's deadline), CASCADE_ESIZE (range outside),
     * CASCADE_EINVAL, CASCADE_ENOMEM. After a failure the pieces' bytes are undefined. Returns 0 if all
     * are 0, else the first failure. */
    int (*read)(csc_tier *tier, csc_tier_read *reads, size_t count);

    /** Optional. A place that `write` gave, or that was found at open, is in use from here: its space
     * counts as live until `drop`. */
    void (*retain)(csc_tier *tier, const csc_place *place, const csc_content *content);

    /** Required. The content will not be asked for again at this place; its space may be reused. */
    void (*drop)(csc_tier *tier, const csc_place *place, const csc_content *content);

    /** Required. Fills what the tier itself knows: capacity, used, read and written bytes. */
    void (*stats)(csc_tier *tier, cascade_tier_stats *stats);

    /** Required. Frees the tier; no call is running. NULL inside is accepted. */
    void (*close)(csc_tier **tier);

    /** Optional. The bytes in place, as pieces; valid until drop. `*count` in: room, out: needed;
     * CASCADE_ESIZE if there are more. */
    int (*view)(csc_tier *tier, const csc_place *place, const csc_content *content,
                cascade_piece *pieces, size_t *count);
} csc_tier_ops;

/** Every tier's own struct begins with this. */
struct csc_tier {
    const csc_tier_ops *ops;
};

/** One range into pieces of a caller; returns its status. */
static inline int csc_tier_read_one(csc_tier *tier, const csc_place *place, const csc_content *content,
                                    uint64_t offset, const cascade_piece *pieces, size_t piece_count)
{
    csc_tier_read read = {.place = *place,
                          .content = *content,
                          .offset = offset,
                          .pieces = pieces,
                          .piece_count = piece_count};

    return tier->ops->read(tier, &read, 1);
}

#endif
