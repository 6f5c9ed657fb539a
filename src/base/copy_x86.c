/* SPDX-License-Identifier: MIT */
/* The x86 copy kernels and which of them this CPU can run. */
#include "base/copy_x86.h"

#include "base/copy_kernels.h"

#include <cpuid.h>
#include <stdbool.h>

/* From an aligned target on: to an unaligned one it is several times slower. */
static void copy_movsb(void *restrict to, const void *restrict from, size_t bytes)
{
    size_t head = csc_copy_head(to, from, bytes);
    const char *source = (const char *)from + head;
    char *target = (char *)to + head;
    size_t left = bytes - head;

    __asm__ volatile("rep movsb" : "+D"(target), "+S"(source), "+c"(left) : : "memory");
}

static const csc_copy_kernel avx512 = {.name = "avx512-nontemporal", .copy = csc_copy_avx512};
static const csc_copy_kernel avx2 = {.name = "avx2-nontemporal", .copy = csc_copy_avx2};
static const csc_copy_kernel movsb = {.name = "rep-movsb", .copy = copy_movsb};

static bool has_fast_movsb(void)
{
    const unsigned erms = 1u << 9; /* leaf 7, EBX */
    unsigned a, b, c, d;

    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & erms);
}

size_t csc_copy_platform_kernels(const csc_copy_kernel *kernels[CSC_COPY_KERNELS_MAX])
{
    size_t count = 0;

    if (__builtin_cpu_supports("avx512f"))
        kernels[count++] = &avx512;
    if (__builtin_cpu_supports("avx2"))
        kernels[count++] = &avx2;
    if (has_fast_movsb())
        kernels[count++] = &movsb;
    return count;
}
