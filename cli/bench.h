/* SPDX-License-Identifier: MIT */
/*
 * `cascade bench`: the store beside a yardstick, honestly. Both use the same caller buffers, sizes and
 * random order; the working set is at least four last-level caches, or 2 GiB, as memory allows; store
 * and yardstick take turns; figures are medians of BENCH_RUNS runs after a warm-up.
 */
#ifndef CLI_BENCH_H
#define CLI_BENCH_H

#include "cli.h"

#define BENCH_RUNS        7
#define BENCH_SEED        UINT64_C(20240607)
#define BENCH_CHAIN       256u /* keys of one match */
#define BENCH_BATCH       16u  /* blocks of one digest */
#define BENCH_SMALL_STEPS 2000u

typedef struct bench {
    cascade_store *store;
    size_t block_bytes;
    size_t blocks;
    unsigned threads;
    uint8_t *caller; /* blocks * block_bytes: what an engine would hold */
    uint8_t *plain;  /* as much: the yardstick's other side */
    uint32_t *order; /* a random order of the blocks */
    cascade_key *keys;
    uint64_t generation; /* of keys: every fill uses new ones */
    bool filled;
    cascade_key *match_keys;
    size_t match_key_count;
    uint64_t random;
} bench;

/** One operation, on the block (or chain, or batch) that is step `step`'s turn; its own time in `*ns`.
 * Returns a library code. */
typedef int (*bench_step)(bench *b, size_t step, uint64_t *ns);

/** A pass: `steps` calls spread over `threads`. */
typedef struct bench_pass {
    bench_step step;
    size_t steps;
    unsigned threads;
    uint64_t *sample_ns; /* one a step */
    double seconds;      /* result: from the first start to the last end */
} bench_pass;

/** Runs a pass. Returns an exit code; a failure has been printed. */
int bench_run_pass(bench *b, bench_pass *pass);

/** What one operation measured. */
typedef struct bench_result {
    const char *op;
    unsigned threads;
    const char
        *beside; /* the yardstick: "memcpy", "openssl", "limit"; NULL: no bytes were moved, no rates */
    double gbps, gbps_min, gbps_max;
    double yardstick_gbps;
    double p50_us, p99_us;
} bench_result;

/** Measures one operation by name: "put", "get", "view", "match", "digest". Returns an exit code. */
int bench_measure(bench *b, const char *op, bench_result *result);

/** Measures puts of four times dram, until all is durable, beside the slower of digest and disk.
 * `folder`: a directory for a store of its own. Returns an exit code. */
int bench_sustained(bench *b, const char *folder, bench_result *result);

/** Median, least and most of BENCH_RUNS rates; sorts both and the samples. */
void bench_summarise(bench_result *result, double *gbps, double *yardstick, uint64_t *samples,
                     size_t count);

/** Removes all blocks that the bench has put, and waits until the store is at rest. */
int bench_empty(bench *b);

/** Waits until the arena is touched, or gets no further: else page faults would be measured. */
void bench_wait_for_prefault(cascade_store *store);

/** A new random order of the blocks. */
void bench_shuffle(bench *b);

/** For nftw: removes what it visits. */
struct FTW;
struct stat;
int bench_remove_entry(const char *path, const struct stat *info, int kind, struct FTW *walk);

uint64_t bench_random(bench *b);
double bench_median(double *values, size_t count);

/** Whether the bench was told to stop; then exit codes do not matter. */
static inline bool bench_stopped(void)
{
    return cli_stop_signal() != 0;
}

#endif
