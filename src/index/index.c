/* SPDX-License-Identifier: MIT */
#include "index/index.h"

#include <string.h>

#define LEASE_ATTEMPTS 16 /* a lease is a hint: not worth a wait */

void csc_index_attach(csc_index *index, void *arena_base)
{
    char *base = arena_base;
    csc_arena_header *header = arena_base;
    const csc_arena_region *regions = header->geometry.regions;

    index->header = header;
    index->keys = (void *)(base + regions[CSC_REGION_KEYS].offset);
    index->contents = (void *)(base + regions[CSC_REGION_CONTENTS].offset);
    index->spills = (void *)(base + regions[CSC_REGION_SPILLS].offset);
    index->key_list = (csc_hash_list){
        .buckets = (void *)(base + regions[CSC_REGION_KEY_BUCKETS].offset),
        .bucket_count = &header->used[CSC_REGION_KEY_BUCKETS],
        .entries = (char *)index->keys,
        .entry_bytes = sizeof(csc_key_entry),
        .node_offset = offsetof(csc_key_entry, node),
    };
    index->content_list = (csc_hash_list){
        .buckets = (void *)(base + regions[CSC_REGION_CONTENT_BUCKETS].offset),
        .bucket_count = &header->used[CSC_REGION_CONTENT_BUCKETS],
        .entries = (char *)index->contents,
        .entry_bytes = sizeof(csc_content_entry),
        .node_offset = offsetof(csc_content_entry, node),
    };
    index->hash_seed = header->geometry.hash_seed;
}

static bool is_bound(uint32_t state)
{
    return (state & 0xff) == CSC_KEY_BOUND;
}

/* Follows the list from `link` to the bound entry of `key`. */
static uint32_t walk_to_key(const csc_index *index, uint32_t link, uint32_t order,
                            const cascade_key *key, bool *lost)
{
    for (;;) {
        uint32_t number = csc_hash_seek(&index->key_list, link, order, lost);
        const csc_key_entry *entry;

        if (number == CSC_HASH_NONE)
            return CSC_NUMBER_NONE;
        entry = &index->keys[number];
        if (memcmp(entry->key.bytes, key->bytes, sizeof key->bytes) == 0 &&
            is_bound(atomic_load(&entry->state)))
            return number;
        link = atomic_load(&entry->node.next);
    }
}

uint32_t csc_index_find(const csc_index *index, const cascade_key *key, uint32_t hash, bool *lost)
{
    return walk_to_key(index, csc_hash_start(&index->key_list, hash), csc_hash_order(hash), key, lost);
}

#define RUN_WIDTH 32u

static void prefetch_entry(const csc_index *index, uint32_t link)
{
    if (link >= CSC_LINK_ENTRY && !(link & CSC_LINK_BUCKET)) {
        const char *entry = (const char *)&index->keys[link - CSC_LINK_ENTRY];

        __builtin_prefetch(entry);
        __builtin_prefetch(entry + offsetof(csc_key_entry, sequence));
    }
}

/* One step towards `order`: where a walk standing at `link` looks next. */
static uint32_t step(const csc_index *index, uint32_t link, uint32_t order)
{
    const csc_hash_node *node;

    if (link & CSC_LINK_BUCKET)
        return atomic_load(&index->key_list.buckets[link & ~CSC_LINK_BUCKET]);
    if (link < CSC_LINK_ENTRY)
        return link;
    node = &index->keys[link - CSC_LINK_ENTRY].node;
    return node->order < order ? atomic_load(&node->next) : link;
}

size_t csc_index_find_run(const csc_index *index, const cascade_key *keys, size_t count,
                          uint32_t *numbers, bool *lost)
{
    uint32_t hashes[RUN_WIDTH], links[RUN_WIDTH], orders[RUN_WIDTH];
    uint32_t bucket_mask = atomic_load(index->key_list.bucket_count) - 1;

    for (size_t begin = 0; begin < count; begin += RUN_WIDTH) {
        uint32_t width = count - begin < RUN_WIDTH ? (uint32_t)(count - begin) : RUN_WIDTH;

        for (uint32_t i = 0; i < width; i++) {
            hashes[i] = csc_index_key_hash(index, &keys[begin + i]);
            orders[i] = csc_hash_order(hashes[i]);
            __builtin_prefetch(&index->key_list.buckets[hashes[i] & bucket_mask]);
        }
        for (uint32_t i = 0; i < width; i++) {
            links[i] = csc_hash_start(&index->key_list, hashes[i]);
            prefetch_entry(index, links[i]);
        }
        /* Two hops cover most lists; the rest is walked below, warm or not. */
        for (int hop = 0; hop < 2; hop++)
            for (uint32_t i = 0; i < width; i++) {
                links[i] = step(index, links[i], orders[i]);
                prefetch_entry(index, links[i]);
            }
        for (uint32_t i = 0; i < width; i++) {
            uint32_t number = walk_to_key(index, links[i], orders[i], &keys[begin + i], lost);

            if (number == CSC_NUMBER_NONE)
                return begin + i;
            numbers[begin + i] = number;
            __builtin_prefetch(&index->contents[atomic_load_explicit(&index->keys[number].content,
                                                                     memory_order_relaxed)],
                               1);
        }
    }
    return count;
}

uint32_t csc_index_content_of(const csc_index *index, uint32_t key_number, uint64_t *state)
{
    const csc_key_entry *entry = &index->keys[key_number];

    /* A merge moves the key to another content: read again until key and state were seen together. The
     * owner unbinds before it frees, so a state read while the key still names the content is its own.
     */
    for (int attempt = 0; attempt < 16; attempt++) {
        uint32_t content = atomic_load(&entry->content);

        *state = atomic_load(&index->contents[content].state);
        if (!is_bound(atomic_load(&entry->state)))
            return CSC_NUMBER_NONE;
        if (atomic_load(&entry->content) == content)
            return content;
    }
    return CSC_NUMBER_NONE;
}

uint32_t csc_index_find_id(const csc_index *index, uint64_t tenant, const uint8_t id[16],
                           uint64_t *state, bool *lost)
{
    uint32_t hash = csc_index_id_hash(index, tenant, id);
    uint32_t link = csc_hash_start(&index->content_list, hash), order = csc_hash_order(hash);

    for (;;) {
        uint32_t number = csc_hash_seek(&index->content_list, link, order, lost);
        const csc_content_entry *entry;

        if (number == CSC_HASH_NONE)
            return CSC_NUMBER_NONE;
        entry = &index->contents[number];
        *state = atomic_load(&entry->state);
        if ((*state & CSC_CONTENT_LIVE) && (*state & CSC_CONTENT_DIGEST) &&
            entry->content.tenant == tenant && memcmp(entry->content.digest, id, CASCADE_ID_BYTES) == 0)
            return number;
        link = atomic_load(&entry->node.next);
    }
}

csc_extent csc_index_extent(const csc_index *index, const csc_extents *extents, uint32_t i)
{
    uint32_t spill = extents->spill;

    if (i < CSC_EXTENTS_INLINE)
        return extents->first[i];
    i -= CSC_EXTENTS_INLINE;
    while (i >= CSC_SPILL_EXTENTS) {
        spill = index->spills[spill - 1].next;
        i -= CSC_SPILL_EXTENTS;
    }
    return index->spills[spill - 1].extents[i];
}

void csc_lease_add(csc_content_entry *content, uint64_t now_ms, uint64_t until_ms)
{
    uint64_t old = atomic_load_explicit(&content->lease, memory_order_relaxed);

    for (int attempt = 0; attempt < LEASE_ATTEMPTS; attempt++) {
        uint64_t count = old >> 16 > now_ms ? old & 0xffff : 0;
        uint64_t until = old >> 16 > until_ms ? old >> 16 : until_ms;

        if (atomic_compare_exchange_weak_explicit(&content->lease, &old,
                                                  until << 16 | (count < 0xffff ? count + 1 : count),
                                                  memory_order_relaxed, memory_order_relaxed))
            return;
    }
}

void csc_lease_end(csc_content_entry *content)
{
    uint64_t old = atomic_load_explicit(&content->lease, memory_order_relaxed);

    while ((old & 0xffff) &&
           !atomic_compare_exchange_weak_explicit(&content->lease, &old, old - 1, memory_order_relaxed,
                                                  memory_order_relaxed))
        ;
}
