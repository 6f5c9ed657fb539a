/* SPDX-License-Identifier: MIT */
/* Monotonic time, in nanoseconds and milliseconds since boot (so that it means the same in every
 * process). */
#ifndef CSC_BASE_CLOCK_H
#define CSC_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t csc_clock_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

/** Time of day in nanoseconds since 1970, for what is stored: it may jump. */
static inline uint64_t csc_wall_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

/** Cheaper and up to 4 ms late. */
static inline uint64_t csc_clock_coarse_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

#endif
