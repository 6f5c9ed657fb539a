/* SPDX-License-Identifier: MIT */
/*
 * The compression function of SHA-256 (FIPS 180-4, section 6.2.2), written once for any word: a uint32_t
 * (one lane) or, if CSC_SHA256_WORD is defined before, a vector of 32-bit words (a lane an element).
 * Everything is inlined, and unrolled so that the sixteen schedule words stay in registers.
 */
#ifndef CSC_BASE_SHA256_ROUNDS_H
#define CSC_BASE_SHA256_ROUNDS_H

#include "base/sha256_lanes.h"

#ifndef CSC_SHA256_WORD
#define CSC_SHA256_WORD uint32_t
#endif
typedef CSC_SHA256_WORD csc_sha256_word;

#define CSC_SHA256_INLINE static inline __attribute__((always_inline))

/* Written so that compilers for AVX-512 make one vprord of each rotation and one vpternlogd of each
 * three-way function. */
#define CSC_ROTR(x, n)        (((x) >> (n)) | ((x) << (32 - (n))))
#define CSC_CHOOSE(x, y, z)   ((z) ^ ((x) & ((y) ^ (z))))
#define CSC_MAJORITY(x, y, z) (((x) & (y)) | ((z) & ((x) | (y))))
#define CSC_BIG0(x)           (CSC_ROTR(x, 2) ^ CSC_ROTR(x, 13) ^ CSC_ROTR(x, 22))
#define CSC_BIG1(x)           (CSC_ROTR(x, 6) ^ CSC_ROTR(x, 11) ^ CSC_ROTR(x, 25))
#define CSC_SMALL0(x)         (CSC_ROTR(x, 7) ^ CSC_ROTR(x, 18) ^ ((x) >> 3))
#define CSC_SMALL1(x)         (CSC_ROTR(x, 17) ^ CSC_ROTR(x, 19) ^ ((x) >> 10))

/* One round. The names of the working variables rotate from call to call instead of their values. */
#define CSC_ROUND(a, b, c, d, e, f, g, h, t)                                                            \
    do {                                                                                                \
        csc_sha256_word sum_ = h + CSC_BIG1(e) + CSC_CHOOSE(e, f, g) + (w[(t) % 16] + k[t]);            \
        d += sum_;                                                                                      \
        h = sum_ + CSC_BIG0(a) + CSC_MAJORITY(a, b, c);                                                 \
    } while (0)

#define CSC_EXPAND(t)                                                                                   \
    (w[(t) % 16] += CSC_SMALL1(w[((t) + 14) % 16]) + w[((t) + 9) % 16] + CSC_SMALL0(w[((t) + 1) % 16]))

#define CSC_ROUNDS8(t)                                                                                  \
    do {                                                                                                \
        CSC_ROUND(a, b, c, d, e, f, g, h, (t));                                                         \
        CSC_ROUND(h, a, b, c, d, e, f, g, (t) + 1);                                                     \
        CSC_ROUND(g, h, a, b, c, d, e, f, (t) + 2);                                                     \
        CSC_ROUND(f, g, h, a, b, c, d, e, (t) + 3);                                                     \
        CSC_ROUND(e, f, g, h, a, b, c, d, (t) + 4);                                                     \
        CSC_ROUND(d, e, f, g, h, a, b, c, (t) + 5);                                                     \
        CSC_ROUND(c, d, e, f, g, h, a, b, (t) + 6);                                                     \
        CSC_ROUND(b, c, d, e, f, g, h, a, (t) + 7);                                                     \
    } while (0)

#define CSC_EXPAND8(t)                                                                                  \
    do {                                                                                                \
        CSC_EXPAND(t);                                                                                  \
        CSC_EXPAND((t) + 1);                                                                            \
        CSC_EXPAND((t) + 2);                                                                            \
        CSC_EXPAND((t) + 3);                                                                            \
        CSC_EXPAND((t) + 4);                                                                            \
        CSC_EXPAND((t) + 5);                                                                            \
        CSC_EXPAND((t) + 6);                                                                            \
        CSC_EXPAND((t) + 7);                                                                            \
    } while (0)

/** Compresses one block, given as sixteen words (overwritten), into `state`. */
CSC_SHA256_INLINE void csc_sha256_compress(csc_sha256_word state[8], csc_sha256_word w[16])
{
    csc_sha256_word a = state[0], b = state[1], c = state[2], d = state[3];
    csc_sha256_word e = state[4], f = state[5], g = state[6], h = state[7];
    const uint32_t *k = csc_sha256_k;

    CSC_ROUNDS8(0);
    CSC_ROUNDS8(8);
    for (unsigned t = 16; t < 64; t += 16) {
        k = csc_sha256_k + t;
        CSC_EXPAND8(0);
        CSC_ROUNDS8(0);
        CSC_EXPAND8(8);
        CSC_ROUNDS8(8);
    }
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
    state[4] += e;
    state[5] += f;
    state[6] += g;
    state[7] += h;
}

#endif
