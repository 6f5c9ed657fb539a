/* SPDX-License-Identifier: MIT */
/* The x86 kernels' inner functions, for sha256_x86.c, which knows whether the CPU can run them. */
#ifndef CSC_BASE_SHA256_X86_H
#define CSC_BASE_SHA256_X86_H

#include "base/sha256_lanes.h"

void csc_sha256_shani_hash(csc_sha256_lanes *lanes, unsigned active, size_t blocks);
void csc_sha256_avx512_hash(csc_sha256_lanes *lanes, unsigned active, size_t blocks);

#endif
