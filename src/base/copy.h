/* SPDX-License-Identifier: MIT */
/*
 * Copying megabytes. Which kernel is fastest (libc's memcpy, non-temporal stores, rep movsb) depends on
 * CPU, size, page kind and direction, so csc_copy_tune measures them once and csc_copy uses the
 * winner of the size class. A kernel that wants an alignment handles the unaligned head itself.
 */
#ifndef CSC_BASE_COPY_H
#define CSC_BASE_COPY_H

#include <stddef.h>

/** Direction relative to the arena: the winner differs. */
typedef enum csc_copy_direction { CSC_COPY_IN = 0, CSC_COPY_OUT = 1 } csc_copy_direction;

/**
 * Measures every kernel for sizes of 64 KiB, 1 MiB, 16 MiB and larger between `arena` (bytes of warm
 * arena memory that the caller owns and may overwrite, at least 4 MiB; more is better) and private warm
 * memory that it allocates and frees. Takes at most about `budget_ms`: below some 50 the larger sizes
 * are not measured and take the smaller ones' winner. Process-wide; later calls do nothing. Before the
 * first call, below 16 KiB and under sanitizers csc_copy is memcpy. Any thread.
 */
void csc_copy_tune(void *arena, size_t bytes, unsigned budget_ms);

/** Copies; the ranges must not overlap. Stores are globally visible to later release-stores
 * (non-temporal kernels end in sfence). */
void csc_copy(csc_copy_direction direction, void *to, const void *from, size_t bytes);

/** The chosen kernel's name for a size, for stats and logs. */
const char *csc_copy_kernel_name(csc_copy_direction direction, size_t bytes);

#endif
