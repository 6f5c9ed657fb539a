/* SPDX-License-Identifier: MIT */
/*
 * Inside sha256: what a lane kernel is, and the loop that keeps its lanes busy. Only sha256*.c and their
 * test include this.
 *
 * A kernel advances several independent digests by the same number of 64-byte blocks. Their states lie
 * in columns (word w of lane i is state[w][i]), which is how a vector kernel loads them; the kernels of
 * few lanes pay some nanoseconds a call for the stride.
 */
#ifndef CSC_BASE_SHA256_LANES_H
#define CSC_BASE_SHA256_LANES_H

#include "base/sha256.h"

#define CSC_SHA256_BLOCK_BYTES 64u
#define CSC_SHA256_LANES       16u
/** With fewer digests left than this, four SHA-NI lanes beat sixteen AVX-512 ones. */
#define CSC_SHA256_WIDE_MIN 10u

typedef struct csc_sha256_lanes {
    uint32_t state[8][CSC_SHA256_LANES] __attribute__((aligned(64)));
    const uint8_t *data[CSC_SHA256_LANES];
} csc_sha256_lanes;

typedef struct csc_sha256_kernel {
    unsigned width; /* lanes it works on at once */
    /** Compresses `blocks` (at least 1) blocks from data[i] into column i for each i < active, where
     * 1 <= active <= width. Columns from `active` to `width` may be overwritten; those from `width` on
     * are not touched. `data` is left as it is. */
    void (*hash)(csc_sha256_lanes *lanes, unsigned active, size_t blocks);
} csc_sha256_kernel;

/** The round constants and the initial state. */
extern const uint32_t csc_sha256_k[64];
extern const uint32_t csc_sha256_initial[8];

/** One lane in plain C: for when OpenSSL cannot give a context. Always there. */
extern const csc_sha256_kernel csc_sha256_scalar;

/** The kernels of this platform, NULL where the CPU (or the operating system) lacks it. */
const csc_sha256_kernel *csc_sha256_shani(void);
const csc_sha256_kernel *csc_sha256_avx512(void);

/** csc_sha256_stream with given kernels: `wide`, and while the source has no message and fewer than
 * CSC_SHA256_WIDE_MIN are under way `narrow`, if it is not NULL. */
void csc_sha256_run(const csc_sha256_kernel *wide, const csc_sha256_kernel *narrow,
                    csc_sha256_source *source);

#endif
