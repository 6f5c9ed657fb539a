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
    const csc_binding *bindings; /* keys to store with it (file tier); may be none */
    size_t binding_count;
    const cascade_piece *pieces; /* K then V; add up to k_bytes + v_bytes */
    size_t piece_count;
    /* results */
    csc_place place;
    int status;
} csc_tier_write;

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

    /** Required. Copies bytes [offset, offset + sum of pieces) of K || V into `pieces`, checked.
     * Returns 0, CASCADE_ECORRUPT (damaged, or not this content), CASCADE_MISS (its storage is gone),
     * CASCADE_EIO, CASCADE_ESIZE (range outside). After a failure the pieces' bytes are undefined. */
    int (*read)(csc_tier *tier, const csc_place *place, const csc_content *content, uint64_t offset,
                const cascade_piece *pieces, size_t piece_count);

    /** Required. The content will not be asked for again; its space may be reused. */
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

#endif
