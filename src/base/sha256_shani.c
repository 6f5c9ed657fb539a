/* SPDX-License-Identifier: MIT */
/*
 * Up to four lanes of the SHA extensions, interleaved: one message keeps sha256rnds2 waiting for itself
 * most of the time. Compiled with -msha -mavx (for the three-operand forms: with four lanes 12 % faster
 * than -msse4.1); called only where sha256_x86.c found both.
 *
 * sha256rnds2 wants the state as two registers, ABEF and CDGH, A and C in the highest words.
 */
#include "base/sha256_x86.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* How far ahead of each stream to fetch: 3 % on data from memory, and steadier. */
#define PREFETCH_BYTES 1024

typedef struct lane {
    __m128i abef;
    __m128i cdgh;
    __m128i w[4]; /* the last sixteen schedule words */
} lane;

/* Rounds 4 * step to 4 * step + 3 of one lane. */
INLINE void four_rounds(lane *l, const unsigned step)
{
    __m128i *now = &l->w[step % 4], *next = &l->w[(step + 1) % 4], *last = &l->w[(step + 3) % 4];
    const __m128i *k = (const __m128i *)csc_sha256_k + step;
    __m128i sum = _mm_add_epi32(*now, _mm_load_si128(k));

    l->cdgh = _mm_sha256rnds2_epu32(l->cdgh, l->abef, sum);
    if (step >= 3 && step < 15) {
        *next = _mm_add_epi32(*next, _mm_alignr_epi8(*now, *last, 4));
        *next = _mm_sha256msg2_epu32(*next, *now);
    }
    l->abef = _mm_sha256rnds2_epu32(l->abef, l->cdgh, _mm_shuffle_epi32(sum, 0x0e));
    if (step >= 1 && step < 13)
        *last = _mm_sha256msg1_epu32(*last, *now);
}

/* `count` is a constant in each caller, so that every loop unrolls. */
INLINE void hash_blocks(lane *lanes, const uint8_t *const *data, const unsigned count, size_t blocks)
{
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    __m128i abef[4], cdgh[4];

    for (size_t offset = 0; offset < blocks * CSC_SHA256_BLOCK_BYTES; offset += CSC_SHA256_BLOCK_BYTES) {
        UNROLL for (unsigned i = 0; i < count; i++)
        {
            const __m128i *block = (const __m128i *)(data[i] + offset);

            abef[i] = lanes[i].abef;
            cdgh[i] = lanes[i].cdgh;
            UNROLL for (unsigned j = 0; j < 4; j++) lanes[i].w[j] =
                _mm_shuffle_epi8(_mm_loadu_si128(block + j), swap);
            _mm_prefetch((const char *)block + PREFETCH_BYTES, _MM_HINT_T0);
        }
        UNROLL for (unsigned step = 0; step < 16; step++)
        {
            UNROLL for (unsigned i = 0; i < count; i++) four_rounds(&lanes[i], step);
        }
        UNROLL for (unsigned i = 0; i < count; i++)
        {
            lanes[i].abef = _mm_add_epi32(lanes[i].abef, abef[i]);
            lanes[i].cdgh = _mm_add_epi32(lanes[i].cdgh, cdgh[i]);
        }
    }
}

INLINE void hash_lanes(csc_sha256_lanes *all, const unsigned count, size_t blocks)
{
    lane lanes[4];

    UNROLL for (unsigned i = 0; i < count; i++)
    {
        const uint32_t(*s)[CSC_SHA256_LANES] = (const uint32_t(*)[CSC_SHA256_LANES])all->state;

        lanes[i].abef = _mm_set_epi32((int)s[0][i], (int)s[1][i], (int)s[4][i], (int)s[5][i]);
        lanes[i].cdgh = _mm_set_epi32((int)s[2][i], (int)s[3][i], (int)s[6][i], (int)s[7][i]);
    }
    hash_blocks(lanes, all->data, count, blocks);
    UNROLL for (unsigned i = 0; i < count; i++)
    {
        all->state[0][i] = (uint32_t)_mm_extract_epi32(lanes[i].abef, 3);
        all->state[1][i] = (uint32_t)_mm_extract_epi32(lanes[i].abef, 2);
        all->state[2][i] = (uint32_t)_mm_extract_epi32(lanes[i].cdgh, 3);
        all->state[3][i] = (uint32_t)_mm_extract_epi32(lanes[i].cdgh, 2);
        all->state[4][i] = (uint32_t)_mm_extract_epi32(lanes[i].abef, 1);
        all->state[5][i] = (uint32_t)_mm_extract_epi32(lanes[i].abef, 0);
        all->state[6][i] = (uint32_t)_mm_extract_epi32(lanes[i].cdgh, 1);
        all->state[7][i] = (uint32_t)_mm_extract_epi32(lanes[i].cdgh, 0);
    }
}

void csc_sha256_shani_hash(csc_sha256_lanes *lanes, unsigned active, size_t blocks)
{
    switch (active) {
    case 1:
        hash_lanes(lanes, 1, blocks);
        break;
    case 2:
        hash_lanes(lanes, 2, blocks);
        break;
    case 3:
        hash_lanes(lanes, 3, blocks);
        break;
    default:
        hash_lanes(lanes, 4, blocks);
    }
}
