/* SPDX-License-Identifier: MIT */
#include "index/hash_list.h"
#include "base/mark.h"

static uint32_t bucket_order(uint32_t bucket)
{
    return csc_hash_reverse(bucket);
}

uint32_t csc_hash_start(const csc_hash_list *list, uint32_t hash)
{
    uint32_t count = atomic_load(list->bucket_count);
    uint32_t bucket = count ? hash & (count - 1) : 0;
    uint32_t link = atomic_load(&list->buckets[bucket]);

    /* Not made yet: the bucket it splits is the same number without its top bit. */
    while (link == CSC_LINK_NONE && bucket) {
        bucket &= ~(UINT32_C(1) << (31 - __builtin_clz(bucket)));
        link = atomic_load(&list->buckets[bucket]);
    }
    return link == CSC_LINK_NONE ? CSC_LINK_END : link;
}

uint32_t csc_hash_seek(const csc_hash_list *list, uint32_t link, uint32_t order, bool *lost)
{
    /* A guard keeps entries from being reused under the reader, so the walk ends; the bound is for a
     * mapping whose bytes are damaged. */
    for (uint32_t hops = 0; hops < 1u << 20; hops++) {
        if (link & CSC_LINK_BUCKET) {
            uint32_t bucket = link & ~CSC_LINK_BUCKET;

            if (bucket_order(bucket) > order)
                return CSC_HASH_NONE;
            link = atomic_load(&list->buckets[bucket]);
        } else if (link >= CSC_LINK_ENTRY) {
            uint32_t entry = link - CSC_LINK_ENTRY;
            const csc_hash_node *node = csc_hash_node_of(list, entry);

            if (node->order == order)
                return entry;
            if (node->order > order)
                return CSC_HASH_NONE;
            link = atomic_load(&node->next);
        } else {
            return CSC_HASH_NONE;
        }
    }
    *lost = true;
    return CSC_HASH_NONE;
}

/* The link word behind which something of `order` belongs, starting from a made bucket: the first one
 * whose target is not below it. */
static _Atomic uint32_t *find_place(csc_hash_list *list, uint32_t bucket, uint32_t order)
{
    _Atomic uint32_t *place = &list->buckets[bucket];

    for (;;) {
        uint32_t link = atomic_load_explicit(place, memory_order_relaxed);
        uint32_t target_order;
        _Atomic uint32_t *next;

        if (link & CSC_LINK_BUCKET) {
            target_order = bucket_order(link & ~CSC_LINK_BUCKET);
            next = &list->buckets[link & ~CSC_LINK_BUCKET];
        } else if (link >= CSC_LINK_ENTRY) {
            csc_hash_node *node = csc_hash_node_of(list, link - CSC_LINK_ENTRY);

            target_order = node->order;
            next = &node->next;
        } else {
            return place;
        }
        if (target_order >= order)
            return place;
        place = next;
    }
}

static uint32_t make_bucket(csc_hash_list *list, uint32_t bucket)
{
    uint32_t split = bucket, missing[32], missing_count = 0;

    /* From the nearest made ancestor down, so that each is made from a bucket close by. */
    while (atomic_load_explicit(&list->buckets[split], memory_order_relaxed) == CSC_LINK_NONE) {
        missing[missing_count++] = split;
        split &= ~(UINT32_C(1) << (31 - __builtin_clz(split)));
    }
    while (missing_count) {
        uint32_t made = missing[--missing_count];
        _Atomic uint32_t *place = find_place(list, split, bucket_order(made));

        /* First the sentinel's own link, then the link to it: a reader sees the bucket whole or not. */
        atomic_store(&list->buckets[made], atomic_load_explicit(place, memory_order_relaxed));
        csc_mark("hash: bucket made");
        atomic_store(place, CSC_LINK_BUCKET | made);
        csc_mark("hash: bucket linked");
        split = made;
    }
    return bucket;
}

void csc_hash_init(csc_hash_list *list, uint32_t bucket_count)
{
    atomic_store(&list->buckets[0], CSC_LINK_END);
    atomic_store(list->bucket_count, bucket_count);
}

void csc_hash_grow(csc_hash_list *list, uint32_t bucket_count)
{
    atomic_store(list->bucket_count, bucket_count);
    csc_mark("hash: grown");
}

void csc_hash_insert(csc_hash_list *list, uint32_t entry, uint32_t hash)
{
    csc_hash_node *node = csc_hash_node_of(list, entry);
    uint32_t count = atomic_load_explicit(list->bucket_count, memory_order_relaxed);
    uint32_t bucket = make_bucket(list, hash & (count - 1));
    _Atomic uint32_t *place;

    node->order = csc_hash_order(hash);
    place = find_place(list, bucket, node->order);
    atomic_store(&node->next, atomic_load_explicit(place, memory_order_relaxed));
    csc_mark("hash: entry written");
    atomic_store(place, entry + CSC_LINK_ENTRY);
    csc_mark("hash: entry linked");
}

bool csc_hash_remove(csc_hash_list *list, uint32_t entry)
{
    csc_hash_node *node = csc_hash_node_of(list, entry);
    uint32_t count = atomic_load_explicit(list->bucket_count, memory_order_relaxed);
    uint32_t bucket = make_bucket(list, csc_hash_reverse(node->order) & (count - 1));
    _Atomic uint32_t *place = find_place(list, bucket, node->order);

    for (;;) {
        uint32_t link = atomic_load_explicit(place, memory_order_relaxed);

        if (link == entry + CSC_LINK_ENTRY) {
            atomic_store(place, atomic_load_explicit(&node->next, memory_order_relaxed));
            csc_mark("hash: entry unlinked");
            return true;
        }
        if (link < CSC_LINK_ENTRY || link & CSC_LINK_BUCKET ||
            csc_hash_node_of(list, link - CSC_LINK_ENTRY)->order != node->order)
            return false;
        place = &csc_hash_node_of(list, link - CSC_LINK_ENTRY)->next;
    }
}
