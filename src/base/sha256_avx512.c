/* SPDX-License-Identifier: MIT */
/* The sixteen lanes of sha256_wide.h, compiled with -mavx512f -mavx512bw. Called only where
 * sha256_x86.c found both. */
#include "base/sha256_x86.h"

#include "base/sha256_wide.h"

void csc_sha256_avx512_hash(csc_sha256_lanes *lanes, unsigned active, size_t blocks)
{
    csc_sha256_wide_hash(lanes, active, blocks);
}
