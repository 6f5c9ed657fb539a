/* SPDX-License-Identifier: MIT */
/*
 * Copying with non-temporal stores of AVX2: the target's lines are not read first, which saves a third
 * of the memory traffic. Compiled with -mavx2; called only where copy_x86.c found it.
 */
#include "base/copy_x86.h"

#include <immintrin.h>

#define STEP_BYTES (4 * CSC_COPY_LINE_BYTES)
/* How far ahead to fetch the source. */
#define PREFETCH_BYTES 512

static inline void stream_line(char *to, const char *from)
{
    __m256i low = _mm256_loadu_si256((const __m256i *)from);
    __m256i high = _mm256_loadu_si256((const __m256i *)(from + 32));

    _mm_prefetch(from + PREFETCH_BYTES, _MM_HINT_T0);
    _mm256_stream_si256((__m256i *)to, low);
    _mm256_stream_si256((__m256i *)(to + 32), high);
}

void csc_copy_avx2(void *restrict to, const void *restrict from, size_t bytes)
{
    size_t head = csc_copy_head(to, from, bytes);
    const char *source = (const char *)from + head;
    char *target = (char *)to + head;
    size_t left = bytes - head;

    for (; left >= STEP_BYTES; left -= STEP_BYTES, target += STEP_BYTES, source += STEP_BYTES)
        for (unsigned i = 0; i < STEP_BYTES; i += CSC_COPY_LINE_BYTES)
            stream_line(target + i, source + i);
    _mm_sfence(); /* orders the streamed lines before a later store that publishes them */
    memcpy(target, source, left);
}
