/* SPDX-License-Identifier: MIT */
/*
 * Striping on Lustre: a file is spread over several servers only if that is asked for before it is made.
 * The directory is told once, by Lustre's own tool, and new files inherit it.
 */
#ifndef CSC_SEGMENT_STRIPE_H
#define CSC_SEGMENT_STRIPE_H

#include "base/io.h"

/** Whether a directory lies on Lustre. */
bool csc_stripe_is_wanted(csc_io *io, const char *directory);

/** Has `lfs` (from PATH, without a shell) set 16 stripes of 4 MiB for new files in a directory; waits
 * for it for at most `wait_ms`, then kills it. CASCADE_ENOTSUP: it cannot be run, or says no;
 * CASCADE_ETIMEDOUT; CASCADE_EIO: the system gives no process. */
int csc_stripe_set(const char *directory, uint32_t wait_ms);

#endif
