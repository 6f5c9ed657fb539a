/* SPDX-License-Identifier: MIT */
/* Built without liburing: lanes go through threads. */
#include "base/fail.h"
#include "base/io_internal.h"

static int lane_open(csc_io_lane *lane)
{
    (void)lane;
    return csc_fail(CASCADE_ENOTSUP, "built without io_uring");
}

const csc_io_engine csc_io_engine_uring = {.open = lane_open};
