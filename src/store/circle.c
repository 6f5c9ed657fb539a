/* SPDX-License-Identifier: MIT */
/*
 * Keys that would be their own ancestors. A put can close a circle only if its key was named as a parent
 * while it was absent. Which were is kept in a Bloom filter; only a key found there pays for the walk up
 * its ancestors.
 */
#include "base/fail.h"
#include "store/store_private.h"

#include <string.h>

static void filter_bits(const csc_index *index, const cascade_key *key, uint32_t bits[2])
{
    uint64_t hash = csc_checksum(key->bytes, sizeof key->bytes, ~index->hash_seed);

    bits[0] = (uint32_t)hash % (CSC_PARENTS_WANTED_WORDS * 64);
    bits[1] = (uint32_t)(hash >> 32) % (CSC_PARENTS_WANTED_WORDS * 64);
}

void csc_want_parent(cascade_store *store, const cascade_key *key)
{
    uint32_t bits[2];

    filter_bits(&store->index, key, bits);
    for (int i = 0; i < 2; i++)
        store->parents_wanted[bits[i] / 64] |= UINT64_C(1) << bits[i] % 64;
}

static bool is_wanted(const cascade_store *store, const cascade_key *key)
{
    uint32_t bits[2];

    filter_bits(&store->index, key, bits);
    return store->parents_wanted[bits[0] / 64] >> bits[0] % 64 &
           store->parents_wanted[bits[1] / 64] >> bits[1] % 64 & 1;
}

/* Whether `key` is an ancestor of `parent`. */
static bool closes_circle(cascade_store *store, const cascade_key *key, const cascade_key *parent)
{
    for (uint64_t steps = 0; steps <= store->key_count; steps++) {
        uint32_t number;

        if (memcmp(key->bytes, parent->bytes, sizeof key->bytes) == 0)
            return true;
        number = csc_key_find(store, parent);
        if (number == CSC_NUMBER_NONE ||
            !(atomic_load(&csc_key_at(store, number)->state) & CSC_KEY_HAS_PARENT))
            return false;
        parent = &csc_key_at(store, number)->parent;
    }
    return true;
}

int csc_circle_check(cascade_store *store, const cascade_put *put)
{
    if (!put->has_parent)
        return 0;
    if (is_wanted(store, &put->key) && closes_circle(store, &put->key, &put->parent))
        return csc_fail(CASCADE_EINVAL, "the key is an ancestor of its own parent");
    if (csc_key_find(store, &put->parent) == CSC_NUMBER_NONE)
        csc_want_parent(store, &put->parent);
    return 0;
}
