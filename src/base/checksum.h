/* SPDX-License-Identifier: MIT */
/*
 * The fast checksum and the hash of keys: XXH3-64 (libxxhash, header-only so that it inlines).
 * Catches damage, not malice: SHA-256 is for that.
 */
#ifndef CSC_BASE_CHECKSUM_H
#define CSC_BASE_CHECKSUM_H

#define XXH_INLINE_ALL
#include <stddef.h>
#include <stdint.h>
#include <xxhash.h>

static inline uint64_t csc_checksum(const void *data, size_t bytes, uint64_t seed)
{
    return XXH3_64bits_withSeed(data, bytes, seed);
}

#endif
