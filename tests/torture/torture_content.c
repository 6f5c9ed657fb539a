/* SPDX-License-Identifier: MIT */
/* Keys and contents of the kill torture: all follows from small numbers. */
#include "torture.h"

#include <string.h>

#define POOL_BIT (UINT64_C(1) << 63)

uint64_t random_mix(uint64_t value)
{
    value = (value ^ value >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ value >> 27) * UINT64_C(0x94d049bb133111eb);
    return value ^ value >> 31;
}

uint64_t random_next(random_state *random)
{
    random->state += UINT64_C(0x9e3779b97f4a7c15);
    return random_mix(random->state);
}

uint64_t random_below(random_state *random, uint64_t below)
{
    return random_next(random) % below;
}

key_kind kind_of_key(uint32_t key)
{
    if (key < WORKERS * OWNED)
        return KEY_OWNED;
    return key < WORKERS * OWNED + SHARED ? KEY_SHARED : KEY_CONTENT;
}

uint32_t owner_of_key(uint32_t key)
{
    switch (kind_of_key(key)) {
    case KEY_OWNED:
        return key / OWNED;
    case KEY_CONTENT:
        return (key - WORKERS * OWNED - SHARED) / CONTENTS;
    default:
        return WORKERS;
    }
}

cascade_key name_of_key(uint32_t key)
{
    cascade_key name;

    for (unsigned i = 0; i < sizeof name.bytes; i += 8) {
        uint64_t word = random_mix(((uint64_t)key << 8 | i) + UINT64_C(0x5851f42d4c957f2d));

        memcpy(name.bytes + i, &word, 8);
    }
    return name;
}

uint64_t tenant_of_key(uint32_t key)
{
    return kind_of_key(key) == KEY_CONTENT ? 0 : key % 2;
}

bool parent_of_key(uint32_t key, cascade_key *parent)
{
    if (key % 8 == 0 || kind_of_key(key) != KEY_OWNED)
        return false;
    *parent = name_of_key(key - 1);
    return true;
}

uint64_t seed_of_version(uint32_t key, uint32_t version)
{
    return (uint64_t)(key + 1) << 32 | version;
}

uint64_t seed_of_pool(uint32_t number)
{
    return POOL_BIT | number;
}

bool seed_fits_key(uint64_t seed, uint32_t key)
{
    if (seed & POOL_BIT)
        return kind_of_key(key) == KEY_OWNED;
    return seed >> 32 == key + 1;
}

/* Most blocks are small, so that many are in play; a few are larger than a segment. V may be empty. */
void content_sizes(uint64_t seed, uint64_t *k_bytes, uint64_t *v_bytes)
{
    random_state random = {random_mix(seed)};
    uint64_t kind = random_below(&random, 100), total, half = random_below(&random, 4);

    if (kind < 78)
        total = 512 + random_below(&random, 8 << 10);
    else if (kind < 94)
        total = (8 << 10) + random_below(&random, 56 << 10);
    else if (kind < 99)
        total = (64 << 10) + random_below(&random, 200 << 10);
    else
        total = (400 << 10) + random_below(&random, 1000 << 10);
    *k_bytes = half == 0 ? total : half == 1 ? 16 : 16 + random_below(&random, total - 16);
    *v_bytes = total - *k_bytes;
}

/* Word `i` of a content: the first is the seed itself. */
static uint64_t word_of(uint64_t seed, uint64_t i)
{
    return i == 0 ? seed : (seed ^ i * UINT64_C(0x9e3779b97f4a7c15)) * UINT64_C(0xd1342543de82ef95);
}

void content_fill(uint64_t seed, uint8_t *bytes)
{
    uint64_t k_bytes, v_bytes, total;

    content_sizes(seed, &k_bytes, &v_bytes);
    total = k_bytes + v_bytes;
    for (uint64_t at = 0; at < total; at += 8) {
        uint64_t word = word_of(seed, at / 8);

        memcpy(bytes + at, &word, total - at < 8 ? total - at : 8);
    }
}

uint64_t content_check(const uint8_t *bytes, uint64_t k_bytes, uint64_t v_bytes)
{
    uint64_t seed, k_wanted, v_wanted, total = k_bytes + v_bytes;

    if (k_bytes < 8)
        return 0;
    memcpy(&seed, bytes, sizeof seed);
    content_sizes(seed, &k_wanted, &v_wanted);
    if (k_bytes != k_wanted || v_bytes != v_wanted)
        return 0;
    for (uint64_t at = 0; at < total; at += 8) {
        uint64_t word = word_of(seed, at / 8);

        if (memcmp(bytes + at, &word, total - at < 8 ? total - at : 8) != 0)
            return 0;
    }
    return seed;
}
