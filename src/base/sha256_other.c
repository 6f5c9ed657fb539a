/* SPDX-License-Identifier: MIT */
/* Platforms without kernels of their own: OpenSSL does it all. */
#include "base/sha256_lanes.h"

const csc_sha256_kernel *csc_sha256_shani(void)
{
    return NULL;
}

const csc_sha256_kernel *csc_sha256_avx512(void)
{
    return NULL;
}
