/* SPDX-License-Identifier: MIT */
/*
 * The index: keys -> contents -> places, in the arena, read by many without a lock.
 *
 * Readers (any thread of any process that maps the arena) use a csc_index and a guard. The owner changes
 * it under the store's lock. Life of a key entry: free -> fields written -> linked, state BOUND -> state
 * FREE or DELETED, unlinked -> retired -> no guard of its epoch left -> free. Contents alike.
 */
#ifndef CSC_INDEX_INDEX_H
#define CSC_INDEX_INDEX_H

#include "base/checksum.h"
#include "index/hash_list.h"
#include "index/slots.h"

#define CSC_NUMBER_NONE UINT32_MAX

typedef struct csc_index {
    csc_arena_header *header;
    csc_key_entry *keys;
    csc_content_entry *contents;
    csc_spill_entry *spills;
    csc_hash_list key_list;
    csc_hash_list content_list;
    uint64_t hash_seed;
} csc_index;

/** Points a csc_index into a mapping of the arena; no byte is touched but the header's. */
void csc_index_attach(csc_index *index, void *arena_base);

static inline uint32_t csc_index_key_hash(const csc_index *index, const cascade_key *key)
{
    return (uint32_t)csc_checksum(key->bytes, sizeof key->bytes, index->hash_seed);
}

/** By the part of the digest that is the block id, so that contents are found by id. */
static inline uint32_t csc_index_id_hash(const csc_index *index, uint64_t tenant, const uint8_t id[16])
{
    return (uint32_t)csc_checksum(id, CASCADE_ID_BYTES, index->hash_seed ^ tenant);
}

/* ---- readers: a guard stands ---------------------------------------------------------------- */

/** The entry bound to `key`, or CSC_NUMBER_NONE. `*lost`: the walk was given up (EAGAIN). */
uint32_t csc_index_find(const csc_index *index, const cascade_key *key, uint32_t hash, bool *lost);

/** As csc_index_find for many: `hashes` is scratch of `count`; fetches ahead so that misses of the
 * processor's caches overlap. Stops at the first absent key; returns how many were found. */
size_t csc_index_find_run(const csc_index *index, const cascade_key *keys, size_t count,
                          uint32_t *numbers, bool *lost);

/** The content a bound key entry names, with the content's state as it was while the key named it;
 * CSC_NUMBER_NONE if the entry is no longer bound. */
uint32_t csc_index_content_of(const csc_index *index, uint32_t key_number, uint64_t *state);

/** The first live content of the tenant with this id, or CSC_NUMBER_NONE; `*state` as above. */
uint32_t csc_index_find_id(const csc_index *index, uint64_t tenant, const uint8_t id[16],
                           uint64_t *state, bool *lost);

/** Extent `i` of a content's bytes (the content is pinned and resident, or the caller owns it). */
csc_extent csc_index_extent(const csc_index *index, const csc_extents *extents, uint32_t i);

/** Whether state `now` is resident and of the same content as `then`. */
static inline bool csc_content_still(uint64_t then, uint64_t now)
{
    return then >> CSC_CONTENT_GENERATION_SHIFT == now >> CSC_CONTENT_GENERATION_SHIFT &&
           (now & CSC_CONTENT_RESIDENT) && (now & CSC_CONTENT_LIVE);
}

/* ---- leases --------------------------------------------------------------------------------- */

/** Adds one lease until `until_ms` (coarse ms since boot). Lossy under contention. */
void csc_lease_add(csc_content_entry *content, uint64_t now_ms, uint64_t until_ms);
/** Takes one back. */
void csc_lease_end(csc_content_entry *content);
/** Whether one holds at `now_ms`. */
static inline bool csc_lease_holds(const csc_content_entry *content, uint64_t now_ms)
{
    uint64_t lease = atomic_load_explicit(&content->lease, memory_order_relaxed);

    return (lease & 0xffff) && lease >> 16 > now_ms;
}

#endif
