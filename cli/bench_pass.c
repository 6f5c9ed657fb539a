/* SPDX-License-Identifier: MIT */
/* Running one pass of a measurement in several threads, and the arithmetic of results. */
#include "bench.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint64_t bench_random(bench *b)
{
    b->random ^= b->random << 13;
    b->random ^= b->random >> 7;
    b->random ^= b->random << 17;
    return b->random;
}

void bench_shuffle(bench *b)
{
    for (size_t i = b->blocks; i > 1; i--) {
        size_t other = bench_random(b) % i;
        uint32_t swapped = b->order[i - 1];

        b->order[i - 1] = b->order[other];
        b->order[other] = swapped;
    }
}

static int compare_doubles(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;

    return left < right ? -1 : left > right;
}

double bench_median(double *values, size_t count)
{
    qsort(values, count, sizeof *values, compare_doubles);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

/* One thread's share of a pass: steps first, first + threads, ... */
typedef struct worker {
    pthread_t thread;
    bench *b;
    bench_pass *pass;
    pthread_barrier_t *barrier;
    atomic_bool *failed;
    size_t first;
    uint64_t start_ns, end_ns;
    int code;
    char text[256]; /* the detail is per thread and must be carried over */
} worker;

static void *work(void *context)
{
    worker *w = context;
    const bench_pass *pass = w->pass;

    pthread_barrier_wait(w->barrier);
    w->start_ns = cli_now_ns();
    for (size_t i = w->first; i < pass->steps && !bench_stopped() && !atomic_load(w->failed);
         i += pass->threads) {
        w->code = pass->step(w->b, i, &pass->sample_ns[i]);
        if (w->code) {
            snprintf(w->text, sizeof w->text, "%s", cascade_last_error());
            atomic_store(w->failed, true);
        }
    }
    w->end_ns = cli_now_ns();
    return NULL;
}

/* Starts all or none: the barrier wants them all. */
static unsigned start_workers(worker *workers, unsigned count)
{
    unsigned started = 0;

    while (started < count &&
           pthread_create(&workers[started].thread, NULL, work, &workers[started]) == 0)
        started++;
    return started;
}

int bench_run_pass(bench *b, bench_pass *pass)
{
    worker *workers = calloc(pass->threads, sizeof *workers);
    uint64_t start_ns = UINT64_MAX, end_ns = 0;
    atomic_bool failed = false;
    pthread_barrier_t barrier;
    int result = CLI_OK;

    if (!workers) {
        cli_say("no memory for %u threads", pass->threads);
        return CLI_STORE;
    }
    pthread_barrier_init(&barrier, NULL, pass->threads);
    for (unsigned i = 0; i < pass->threads; i++)
        workers[i] = (worker){.b = b, .pass = pass, .barrier = &barrier, .failed = &failed, .first = i};
    if (start_workers(workers, pass->threads) < pass->threads) {
        /* The started ones wait at the barrier for ever; only the end of the process frees them. */
        cli_say("the system does not allow %u threads; use fewer", pass->threads);
        exit(CLI_STORE);
    }
    for (unsigned i = 0; i < pass->threads; i++) {
        worker *w = &workers[i];

        pthread_join(w->thread, NULL);
        start_ns = w->start_ns < start_ns ? w->start_ns : start_ns;
        end_ns = w->end_ns > end_ns ? w->end_ns : end_ns;
        if (w->code && !result) {
            cli_say("a step failed: %s (%s)", w->text[0] ? w->text : cascade_error_text(w->code),
                    cascade_error_name(w->code));
            result = cli_exit_code(w->code);
        }
    }
    pass->seconds = (double)(end_ns - start_ns) / 1e9;
    pthread_barrier_destroy(&barrier);
    free(workers);
    return result;
}
