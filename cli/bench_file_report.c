/* SPDX-License-Identifier: MIT */
/* The runs of bench_file.c, and their medians as a table or JSON. */
#include "bench_file.h"

#include <stdio.h>
#include <stdlib.h>

/* The median, least and most of one op. */
typedef struct spread {
    double gbps, least, most, p50_us, p99_us;
} spread;

static spread spread_of(const bench_file_result *results, size_t stride, unsigned runs)
{
    double values[BENCH_FILE_RUNS_MAX];
    spread found = {0};

    for (unsigned i = 0; i < runs; i++)
        values[i] = results[i * stride].p50_us;
    found.p50_us = bench_median(values, runs);
    for (unsigned i = 0; i < runs; i++)
        values[i] = results[i * stride].p99_us;
    found.p99_us = bench_median(values, runs);
    for (unsigned i = 0; i < runs; i++)
        values[i] = results[i * stride].gbps;
    found.gbps = bench_median(values, runs);
    found.least = values[0];
    found.most = values[runs - 1];
    return found;
}

static json_t *result_json(const bench_file_result *results, size_t stride, unsigned runs)
{
    spread found = spread_of(results, stride, runs);
    json_t *all = json_array();

    for (unsigned i = 0; i < runs; i++)
        json_array_append_new(all, json_real(results[i * stride].gbps));
    return json_pack(
        "{s:s, s:I, s:f, s:f, s:f, s:o, s:f, s:f, s:o}", "op", results->op, "bytes",
        (json_int_t)results->bytes, "gbps", found.gbps, "gbps_min", found.least, "gbps_max", found.most,
        "gbps_runs", all, "p50_us", found.p50_us, "p99_us", found.p99_us, "metadata_ops",
        results->metadata_ops ? json_integer((json_int_t)results->metadata_ops) : json_null());
}

static int print_json(const bench_file_options *options, const bench_file_result *results, size_t count,
                      unsigned runs)
{
    json_t *list = json_array();

    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, result_json(results + i, BENCH_FILE_RESULTS, runs));
    return cli_print_json(json_pack("{s:o, s:s, s:I, s:i, s:I, s:b, s:b, s:b, s:I, s:I}", "file_results",
                                    list, "version", cascade_version(), "seed", (json_int_t)BENCH_SEED,
                                    "runs", (int)runs, "size_bytes", (json_int_t)options->size_bytes,
                                    "direct", options->facts->direct, "uring", options->facts->uring,
                                    "encrypted", options->facts->encrypted, "recycled_segments",
                                    (json_int_t)options->facts->recycled_segments, "compacted_bytes",
                                    (json_int_t)options->facts->compacted_bytes));
}

static int print_table(const bench_file_result *results, size_t count, unsigned runs)
{
    printf("%-17s %10s %8s %8s %8s %12s %12s %9s\n", "op", "bytes", "GB/s", "least", "most", "p50 us",
           "p99 us", "metadata");
    for (size_t i = 0; i < count; i++) {
        spread found = spread_of(results + i, BENCH_FILE_RESULTS, runs);

        printf("%-17s %10s %8.2f %8.2f %8.2f %12.1f %12.1f", results[i].op,
               cli_size_text(results[i].bytes), found.gbps, found.least, found.most, found.p50_us,
               found.p99_us);
        if (results[i].metadata_ops)
            printf(" %9llu\n", (unsigned long long)results[i].metadata_ops);
        else
            printf(" %9s\n", "-");
    }
    return CLI_OK;
}

int bench_file_report(const bench_file_options *options, unsigned runs, bool json)
{
    bench_file_result *results = calloc((size_t)runs * BENCH_FILE_RESULTS, sizeof *results);
    size_t count = 0;
    int result = CLI_OK;

    if (!results) {
        cli_say("no memory for the results");
        return CLI_STORE;
    }
    for (unsigned run = 0; run < runs && !result && !bench_stopped(); run++)
        result = bench_file_run(options, results + (size_t)run * BENCH_FILE_RESULTS, &count);
    if (!result && !bench_stopped())
        result = json ? print_json(options, results, count, runs) : print_table(results, count, runs);
    free(results);
    return result;
}
