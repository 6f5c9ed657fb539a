/* SPDX-License-Identifier: MIT */
/*
 * A hash table that grows without a pause and is read without a lock: a split-ordered list (Shalev and
 * Shavit, "Split-Ordered Lists: Lock-Free Extensible Hash Tables", J. ACM 53(3), 2006), here with one
 * writer and with the buckets' sentinels lying in the bucket array itself.
 *
 * All entries form one list sorted by bit-reversed hash; bucket b points into it where the hashes that
 * end in b begin. Doubling the bucket count moves nothing: a new bucket is made at its first insert, and
 * until then readers start from the bucket it splits. Every change is one atomic store of a link.
 * Equal contents are the caller's affair: find calls `equal`.
 */
#ifndef CSC_INDEX_HASH_LIST_H
#define CSC_INDEX_HASH_LIST_H

#include "format/arena_format.h"
#include <stdbool.h>

#define CSC_HASH_NONE UINT32_MAX

typedef struct csc_hash_list {
    _Atomic uint32_t *buckets;
    _Atomic uint32_t *bucket_count; /* in the header; a power of two, 0 before init */
    char *entries;
    size_t entry_bytes;
    size_t node_offset; /* of the csc_hash_node in an entry */
} csc_hash_list;

static inline csc_hash_node *csc_hash_node_of(const csc_hash_list *list, uint32_t entry)
{
    return (csc_hash_node *)(void *)(list->entries + (size_t)entry * list->entry_bytes +
                                     list->node_offset);
}

static inline uint32_t csc_hash_reverse(uint32_t bits)
{
    bits = __builtin_bswap32(bits);
    bits = (bits & 0x0f0f0f0fu) << 4 | (bits >> 4 & 0x0f0f0f0fu);
    bits = (bits & 0x33333333u) << 2 | (bits >> 2 & 0x33333333u);
    return (bits & 0x55555555u) << 1 | (bits >> 1 & 0x55555555u);
}

/** An entry's rank in the list. The low bit puts it above the sentinel of its bucket (bucket numbers
 * have no top bit); it costs the hash's top bit, so unequal hashes may share a rank. */
static inline uint32_t csc_hash_order(uint32_t hash)
{
    return csc_hash_reverse(hash) | 1u;
}

/** The link a search for `hash` starts from. Readers and owner. */
uint32_t csc_hash_start(const csc_hash_list *list, uint32_t hash);

/**
 * The first entry at or after `link` whose order is `order`, or CSC_HASH_NONE. The caller compares it
 * and goes on with its node's next. Bounded: gives up (CSC_HASH_NONE, `*lost` set) after more hops than
 * there can be entries.
 */
uint32_t csc_hash_seek(const csc_hash_list *list, uint32_t link, uint32_t order, bool *lost);

/** Owner only, below. `bucket_count` buckets of zeroed memory are there. */
void csc_hash_init(csc_hash_list *list, uint32_t bucket_count);
/** Doubling: the caller has made room for `bucket_count` buckets, zeroed. */
void csc_hash_grow(csc_hash_list *list, uint32_t bucket_count);
/** Links an entry whose fields are all written. */
void csc_hash_insert(csc_hash_list *list, uint32_t entry, uint32_t hash);
/** Unlinks; the entry's own link stays for readers standing on it. Returns whether it was there. */
bool csc_hash_remove(csc_hash_list *list, uint32_t entry);

#endif
