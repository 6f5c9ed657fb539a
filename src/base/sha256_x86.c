/* SPDX-License-Identifier: MIT */
/* Which of the x86 kernels this CPU can run. */
#include "base/sha256_x86.h"

#include <cpuid.h>

static const csc_sha256_kernel shani = {.width = 4, .hash = csc_sha256_shani_hash};
static const csc_sha256_kernel avx512 = {.width = 16, .hash = csc_sha256_avx512_hash};

const csc_sha256_kernel *csc_sha256_shani(void)
{
    const unsigned sha = 1u << 29; /* leaf 7, EBX; the compilers' __builtin_cpu_supports lacks it */
    unsigned a, b, c, d;

    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & sha))
        return NULL;
    return __builtin_cpu_supports("avx") ? &shani : NULL;
}

const csc_sha256_kernel *csc_sha256_avx512(void)
{
    /* Says no too when the operating system does not keep the wide registers. */
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") ? &avx512 : NULL;
}
