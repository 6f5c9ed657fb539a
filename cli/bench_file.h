/* SPDX-License-Identifier: MIT */
/* `cascade bench --ops persist,cold,files`: the file tier by itself. */
#ifndef CLI_BENCH_FILE_H
#define CLI_BENCH_FILE_H

#include "bench.h"

#define BENCH_FILE_RUNS_MAX   99u
#define BENCH_FILE_RESULTS    8u                   /* of one run at most */
#define BENCH_FILE_SIZE_LEAST (UINT64_C(16) << 20) /* blocks then have 1 MiB at most */

/** What the runs found out about the file tier. */
typedef struct bench_file_facts {
    uint64_t recycled_segments, compacted_bytes;
    bool encrypted, direct, uring;
} bench_file_facts;

typedef struct bench_file_options {
    bool persist, cold, files;
    uint64_t size_bytes;  /* of one pass, at least BENCH_FILE_SIZE_LEAST */
    const char *folder;   /* where the stores are made */
    const char *key_file; /* NULL: as the environment says */
    bench_file_facts *facts;
} bench_file_options;

/** One figure of one run. */
typedef struct bench_file_result {
    const char *op;
    uint64_t bytes;
    double gbps;
    double p50_us, p99_us; /* of a put, a get or a get_many */
    uint64_t metadata_ops; /* 0: not told */
} bench_file_result;

/** One run of the ops, in stores of its own. Every run has the same results in the same order. Returns
 * an exit code. */
int bench_file_run(const bench_file_options *options, bench_file_result *results, size_t *count);

#define BENCH_OPEN_BYTES_LEAST UINT64_C(16)
#define BENCH_OPEN_BYTES_MOST  (UINT64_C(16) << 20)

/** Times opens of stores of a tenth, three tenths and all of that many blocks, and of all with four
 * times the bytes each, and prints them. Returns an exit code. */
int bench_open(const char *folder, uint64_t blocks, uint64_t block_bytes, unsigned runs, bool json);

/** `runs` runs and the table or JSON of their medians. Returns an exit code. */
int bench_file_report(const bench_file_options *options, unsigned runs, bool json);

#endif
