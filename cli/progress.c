/* SPDX-License-Identifier: MIT */
#include "progress.h"

#include "cli.h"

#include <stdio.h>
#include <unistd.h>

#define WIDTH     30
#define REDRAW_NS UINT64_C(100000000)

void progress_start(progress *bar, const char *what)
{
    *bar = (progress){.shown = isatty(STDERR_FILENO) == 1, .what = what};
}

void progress_update(progress *bar, uint64_t done, uint64_t total, const char *detail)
{
    static const char full[] = "##############################",
                      empty[] = "..............................";
    uint64_t now;
    int filled;

    if (!bar->shown || (now = cli_now_ns()) < bar->next_ns)
        return;
    bar->next_ns = now + REDRAW_NS;
    if (total == 0) {
        fprintf(stderr, "\r%s %s\033[K", bar->what, detail);
        return;
    }
    if (done > total)
        done = total;
    filled = (int)((double)done / (double)total * WIDTH);
    fprintf(stderr, "\r%s [%.*s%.*s] %3d %% %s\033[K", bar->what, filled, full, WIDTH - filled, empty,
            (int)((double)done / (double)total * 100), detail);
}

void progress_end(progress *bar)
{
    if (bar->shown)
        fputs("\r\033[K", stderr);
    bar->shown = false;
}
