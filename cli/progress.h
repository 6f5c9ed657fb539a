/* SPDX-License-Identifier: MIT */
/* A progress bar on standard error; silent unless that is a terminal. */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct progress {
    bool shown;
    const char *what;
    uint64_t next_ns; /* do not draw before */
} progress;

void progress_start(progress *bar, const char *what);
/** `total` 0: unknown, only `detail` is shown. Cheap when called often. `detail`: a few words or "". */
void progress_update(progress *bar, uint64_t done, uint64_t total, const char *detail);
/** Wipes the bar. May be called without a start (zeroed struct). */
void progress_end(progress *bar);

#endif
