/* SPDX-License-Identifier: MIT */
/*
 * Bytes made from a number, so that every byte read back can be checked without keeping the original:
 * 8-byte word i of pattern `id` is mix(id) + i * STEP. Words at different places and of different
 * patterns differ, so bytes that are shifted, mixed up or of another block are noticed. Additions
 * alone: as fast as memory.
 */
#ifndef CLI_PATTERN_H
#define CLI_PATTERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define PATTERN_STEP UINT64_C(0x9e3779b97f4a7c15)

typedef uint64_t pattern_words __attribute__((vector_size(64))); /* eight words; split where narrower */

/* The finaliser of splitmix64: near numbers become far ones. */
static inline uint64_t pattern_mix(uint64_t id)
{
    id += PATTERN_STEP;
    id = (id ^ id >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    id = (id ^ id >> 27) * UINT64_C(0x94d049bb133111eb);
    return id ^ id >> 31;
}

/* By pointer: a vector this wide as a return value depends on the compiler's flags. */
static inline void pattern_first(uint64_t id, pattern_words *words)
{
    for (uint64_t i = 0; i < 8; i++)
        (*words)[i] = pattern_mix(id) + i * PATTERN_STEP;
}

static inline void pattern_fill(uint64_t id, void *to, size_t bytes)
{
    pattern_words words;
    uint8_t *at = to;

    pattern_first(id, &words);
    for (; bytes >= sizeof words; bytes -= sizeof words, at += sizeof words) {
        memcpy(at, &words, sizeof words);
        words += 8 * PATTERN_STEP;
    }
    memcpy(at, &words, bytes);
}

/** Whether the bytes are exactly those of pattern_fill. */
static inline bool pattern_check(uint64_t id, const void *from, size_t bytes)
{
    pattern_words words, found, wrong = {0};
    const uint8_t *at = from;
    uint64_t any = 0;

    pattern_first(id, &words);
    for (; bytes >= sizeof words; bytes -= sizeof words, at += sizeof words) {
        memcpy(&found, at, sizeof found);
        wrong |= found ^ words;
        words += 8 * PATTERN_STEP;
    }
    for (int i = 0; i < 8; i++)
        any |= wrong[i];
    return any == 0 && memcmp(at, &words, bytes) == 0;
}

#endif
