/* SPDX-License-Identifier: MIT */
/* Inside copy: the kernels beside memcpy. Only copy*.c and their test include this. */
#ifndef CSC_BASE_COPY_KERNELS_H
#define CSC_BASE_COPY_KERNELS_H

#include <stddef.h>

#define CSC_COPY_KERNELS_MAX 4u

typedef struct csc_copy_kernel {
    const char *name;
    /** Any alignments and sizes; ends with its stores ordered before later stores. */
    void (*copy)(void *restrict to, const void *restrict from, size_t bytes);
} csc_copy_kernel;

/** Fills `kernels` with those that this CPU can run; returns how many (0 where there are none). */
size_t csc_copy_platform_kernels(const csc_copy_kernel *kernels[CSC_COPY_KERNELS_MAX]);

#endif
