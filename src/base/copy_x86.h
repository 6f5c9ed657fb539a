/* SPDX-License-Identifier: MIT */
/* The x86 copy kernels, for copy_x86.c, which knows whether the CPU can run them. */
#ifndef CSC_BASE_COPY_X86_H
#define CSC_BASE_COPY_X86_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define CSC_COPY_LINE_BYTES 64u

/** Copies the bytes before the first line boundary of the target by memcpy; returns their count. */
static inline size_t csc_copy_head(void *restrict to, const void *restrict from, size_t bytes)
{
    size_t head = -(uintptr_t)to % CSC_COPY_LINE_BYTES;

    if (head > bytes)
        head = bytes;
    memcpy(to, from, head);
    return head;
}

void csc_copy_avx2(void *restrict to, const void *restrict from, size_t bytes);
void csc_copy_avx512(void *restrict to, const void *restrict from, size_t bytes);

#endif
