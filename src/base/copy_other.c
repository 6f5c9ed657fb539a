/* SPDX-License-Identifier: MIT */
/* Platforms without copy kernels of their own. */
#include "base/copy_kernels.h"

size_t csc_copy_platform_kernels(const csc_copy_kernel *kernels[CSC_COPY_KERNELS_MAX])
{
    (void)kernels;
    return 0;
}
