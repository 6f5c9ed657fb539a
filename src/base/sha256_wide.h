/* SPDX-License-Identifier: MIT */
/*
 * Sixteen lanes at once, in the vector extensions of gcc and clang. sha256_avx512.c compiles this for
 * AVX-512, where a vector is one register; the test compiles it for the build's plain CPU, where the
 * compiler lowers it to whatever there is, so that the same lines are tested everywhere. The AVX-512
 * build has so far run in an instruction emulator only (gcc 12's and clang 14's code, 1 to 16 lanes), on
 * no AVX-512 hardware: on such a CPU sha256_test covers it too.
 */
#ifndef CSC_BASE_SHA256_WIDE_H
#define CSC_BASE_SHA256_WIDE_H

#include <stdint.h>
#include <string.h>

typedef uint32_t csc_sha256_wide_word __attribute__((vector_size(64)));
typedef uint8_t csc_sha256_wide_bytes __attribute__((vector_size(64)));

#define CSC_SHA256_WORD csc_sha256_wide_word
#include "base/sha256_rounds.h"

/* How far ahead of sixteen streams to fetch: more streams than hardware prefetchers follow. */
#define CSC_WIDE_PREFETCH_BYTES 1024

#define CSC_SWAP4(i)  (i) + 3, (i) + 2, (i) + 1, (i)
#define CSC_SWAP16(i) CSC_SWAP4(i), CSC_SWAP4((i) + 4), CSC_SWAP4((i) + 8), CSC_SWAP4((i) + 12)

/* Messages are big-endian. (Vectors go by address: by value they would need AVX-512's calling rules.) */
CSC_SHA256_INLINE void csc_wide_load(csc_sha256_word *words, const uint8_t *data)
{
    memcpy(words, data, sizeof *words);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    csc_sha256_wide_bytes bytes = (csc_sha256_wide_bytes)*words;

    *words = (csc_sha256_word)__builtin_shufflevector(bytes, bytes, CSC_SWAP16(0), CSC_SWAP16(16),
                                                      CSC_SWAP16(32), CSC_SWAP16(48));
#endif
}

/* One of four equal stages that together transpose 16 x 16 words: rows i and i + 8 are interleaved into
 * rows 2i and 2i + 1. (Each stage rotates the 8-bit address row:column left by one bit.) */
CSC_SHA256_INLINE void csc_wide_interleave(const csc_sha256_word in[16], csc_sha256_word out[16])
{
    for (unsigned i = 0; i < 8; i++) {
        out[2 * i] = __builtin_shufflevector(in[i], in[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21,
                                             6, 22, 7, 23);
        out[2 * i + 1] = __builtin_shufflevector(in[i], in[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28,
                                                 13, 29, 14, 30, 15, 31);
    }
}

CSC_SHA256_INLINE void csc_wide_transpose(csc_sha256_word rows[16])
{
    csc_sha256_word other[16];

    csc_wide_interleave(rows, other);
    csc_wide_interleave(other, rows);
    csc_wide_interleave(rows, other);
    csc_wide_interleave(other, rows);
}

/** A kernel's `hash` with width 16. Idle lanes repeat lane 0, so that they read only what may be read.
 */
CSC_SHA256_INLINE void csc_sha256_wide_hash(csc_sha256_lanes *lanes, unsigned active, size_t blocks)
{
    const uint8_t *data[CSC_SHA256_LANES];
    csc_sha256_word state[8];

    for (unsigned i = 0; i < CSC_SHA256_LANES; i++)
        data[i] = lanes->data[i < active ? i : 0];
    memcpy(state, lanes->state, sizeof state);
    for (; blocks; blocks--) {
        csc_sha256_word w[16];

        for (unsigned i = 0; i < CSC_SHA256_LANES; i++) {
            csc_wide_load(&w[i], data[i]);
            __builtin_prefetch(data[i] + CSC_WIDE_PREFETCH_BYTES);
            data[i] += CSC_SHA256_BLOCK_BYTES;
        }
        csc_wide_transpose(w);
        csc_sha256_compress(state, w);
    }
    memcpy(lanes->state, state, sizeof state);
}

#endif
