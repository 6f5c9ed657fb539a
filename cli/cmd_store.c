/* SPDX-License-Identifier: MIT */
/* The commands about a store as a whole: init, stat, flush. */
#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- init -------------------------------------------------------------------------------- */

typedef struct init_arguments {
    cli_common common;
    cascade_options options;
} init_arguments;

enum { INIT_DRAM = 0x2000, INIT_FILE_BUDGET, INIT_PAGE, INIT_SEGMENT, INIT_POLICY };

static error_t parse_init(int key, char *argument, struct argp_state *state)
{
    init_arguments *arguments = state->input;

    switch (key) {
    case INIT_DRAM:
        arguments->options.dram_bytes = cli_size_argument("--dram", argument, state);
        if (arguments->options.dram_bytes == 0)
            argp_error(state, "--dram: a store needs memory, at least a few blocks' worth");
        return 0;
    case INIT_FILE_BUDGET:
        arguments->options.file_budget_bytes = cli_size_argument("--file-budget", argument, state);
        return 0;
    case INIT_PAGE:
        arguments->options.page_bytes = cli_size_argument("--page", argument, state);
        if (arguments->options.page_bytes == 0)
            argp_error(state, "--page: pages have 4KiB to 2MiB");
        return 0;
    case INIT_SEGMENT:
        arguments->options.segment_bytes = cli_size_argument("--segment", argument, state);
        return 0;
    case INIT_POLICY:
        arguments->options.policy = argument;
        return 0;
    case ARGP_KEY_ARG:
        if (arguments->options.directory)
            argp_error(state, "one directory is enough");
        arguments->options.directory = argument;
        return 0;
    case ARGP_KEY_NO_ARGS:
        argp_error(state, "which directory?");
        return EINVAL;
    default:
        return cli_parse_rest(key, argument, state, &arguments->common);
    }
}

static void print_init(const init_arguments *arguments, const cascade_stats *stats)
{
    uint64_t dram = stats->tiers[CASCADE_TIER_DRAM].capacity_bytes;
    uint64_t budget = stats->tiers[CASCADE_TIER_FILE].capacity_bytes;

    if (arguments->common.json)
        cli_print_json(json_pack("{s:s, s:I, s:I}", "directory", arguments->options.directory,
                                 "dram_bytes", (json_int_t)dram, "file_budget_bytes",
                                 (json_int_t)budget));
    else
        printf("made a store in %s: dram %s, file budget %s\n", arguments->options.directory,
               cli_size_text(dram), budget ? cli_size_text(budget) : "unlimited");
}

int cli_init(int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"dram", INIT_DRAM, "SIZE", 0, "Budget of the dram tier (1GiB)", 0},
        {"file-budget", INIT_FILE_BUDGET, "SIZE", 0, "Budget of the file tier (0: unlimited)", 0},
        {"page", INIT_PAGE, "SIZE", 0, "Page of the dram tier, 4KiB to 2MiB; fixed for ever (64KiB)", 0},
        {"segment", INIT_SEGMENT, "SIZE", 0, "Seal segment files at this size", 0},
        {"policy", INIT_POLICY, "NAME", 0, "Eviction policy: hazard, lru or published (hazard)", 0},
        {0},
    };
    static const struct argp_child children[] = {{&cli_json_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {options,  parse_init, "DIR", "Makes a store in DIR.",
                                     children, NULL,       NULL};
    init_arguments arguments = {.options = {.struct_bytes = sizeof arguments.options,
                                            .open_flags = CASCADE_OPEN_CREATE | CASCADE_OPEN_EXCLUSIVE |
                                                          CASCADE_OPEN_NO_PREFAULT}};
    cascade_stats stats = {.struct_bytes = sizeof stats};
    cascade_store *store;
    int code;

    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    code = cascade_store_open(&arguments.options, &store);
    if (code) {
        int result = cli_fail(code, "cannot make a store in '%s'", arguments.options.directory);

        return code == CASCADE_EINVAL ? CLI_USAGE : result;
    }
    code = cascade_store_stats(store, &stats);
    if (code)
        return cli_close(&store, cli_fail(code, "cannot read the new store's counters"));
    print_init(&arguments, &stats);
    return cli_close(&store, CLI_OK);
}

/* ---- stat -------------------------------------------------------------------------------- */

static void print_tiers(const cascade_stats *stats)
{
    printf("%-6s %12s %12s %9s %12s %9s %9s %9s %9s %7s %7s\n", "tier", "capacity", "used", "blocks",
           "bytes", "hits", "misses", "promoted", "evicted", "dropped", "damaged");
    for (unsigned i = 0; i < CASCADE_TIER_COUNT; i++) {
        const cascade_tier_stats *tier = &stats->tiers[i];

        printf("%-6s %12s %12s %9" PRIu64 " %12s %9" PRIu64 " %9" PRIu64 " %9" PRIu64 " %9" PRIu64
               " %7" PRIu64 " %7" PRIu64 "\n",
               cascade_tier_name(i),
               tier->capacity_bytes ? cli_size_text(tier->capacity_bytes) : "unlimited",
               cli_size_text(tier->used_bytes), tier->blocks, cli_size_text(tier->block_bytes),
               tier->hits, tier->misses, tier->promotions, tier->evictions, tier->drops,
               tier->quarantined);
    }
}

static void print_latencies(const cascade_stats *stats)
{
    bool begun = false;

    for (unsigned i = 0; i < CASCADE_OP_COUNT; i++) {
        const cascade_histogram *histogram = &stats->latency[i];

        if (histogram->count == 0)
            continue;
        if (!begun)
            printf("\n%-9s %10s %12s %12s\n", "latency", "count", "p50 us", "p99 us");
        begun = true;
        printf("%-9s %10" PRIu64 " %12.1f %12.1f\n", cascade_op_name(i), histogram->count,
               cli_histogram_ns(histogram, 0.50) / 1000, cli_histogram_ns(histogram, 0.99) / 1000);
    }
}

static void print_file_tier(const cascade_stats *stats)
{
    printf("file tier: %s, %s, %s of dram registered%s%s%s%s\n",
           stats->file_direct ? "direct I/O" : "buffered I/O",
           stats->file_uring ? "io_uring" : "threads", cli_size_text(stats->file_registered_bytes),
           stats->file_encrypted ? ", encrypted" : "", stats->file_striped ? ", striped" : "",
           stats->file_slow ? "; SLOW: transfers are past their deadline" : "",
           stats->file_degraded ? "; REFUSES WRITES: disk full or failing" : "");
    printf("  live %s", cli_size_text(stats->file_live_bytes));
    if (stats->file_live_bytes)
        printf(", %.2f file bytes for each", cli_amplification(stats));
    printf("; compactions %" PRIu64 " (%s moved), recycled segments %" PRIu64 "\n", stats->compactions,
           cli_size_text(stats->compacted_bytes), stats->recycled_segments);
    printf("  read ahead %" PRIu64 " blocks, dropped by age %" PRIu64 ", past their deadline %" PRIu64
           " reads, right only when repeated %" PRIu64 "\n",
           stats->read_ahead_blocks, stats->aged_blocks, stats->file_timeouts, stats->file_rereads);
}

static void print_metadata(const cascade_stats *stats)
{
    const cascade_metadata_ops *ops = &stats->metadata_ops;

    printf("metadata operations since open: open %" PRIu64 ", create %" PRIu64 ", rename %" PRIu64
           ", unlink %" PRIu64 ", stat %" PRIu64 ", mkdir %" PRIu64 ", readdir %" PRIu64
           ", truncate %" PRIu64 ", fsync %" PRIu64,
           ops->open, ops->create, ops->rename, ops->unlink, ops->stat, ops->mkdir, ops->readdir,
           ops->truncate, ops->fsync);
    if (stats->tiers[CASCADE_TIER_FILE].written_bytes)
        printf("; %.1f per GiB written", cli_metadata_per_gib(stats));
    putchar('\n');
}

static void print_stats(const cascade_stats *stats)
{
    print_tiers(stats);
    printf("\nkeys %" PRIu64 ", contents %" PRIu64 ", saved by dedup %s, segments %" PRIu64 "\n",
           stats->keys, stats->contents, cli_size_text(stats->dedup_bytes_saved), stats->segments);
    printf("waiting: %" PRIu64 " digests, %s not on stable storage; pins %" PRIu64 "\n",
           stats->digest_pending, cli_size_text(stats->dirty_bytes), stats->pins);
    printf("arena: %s ready, %s on huge pages, %" PRIu64 " blocks recovered at open\n",
           cli_size_text(stats->arena_ready_bytes), cli_size_text(stats->arena_huge_bytes),
           stats->recovered_blocks);
    print_file_tier(stats);
    printf("lost %" PRIu64 ", conflicts %" PRIu64 "\n", stats->lost, stats->conflicts);
    print_metadata(stats);
    print_latencies(stats);
}

int cli_stat(int argc, char **argv)
{
    cli_common common = cli_plain_arguments(
        "Prints all counters of a store. Exits with 6 if the file tier refuses writes or is slow.", argc,
        argv);
    cascade_stats stats = {.struct_bytes = sizeof stats};
    cascade_store *store;
    int result = cli_open(&common, CASCADE_OPEN_NO_PREFAULT, &store);
    int code;

    if (result)
        return result;
    code = cascade_store_stats(store, &stats);
    if (!code && stats.dirty_bytes) {
        /* Whether the file tier takes writes is known once it was tried. */
        (void)cascade_store_flush(store);
        code = cascade_store_stats(store, &stats);
    }
    if (code)
        result = cli_fail(code, "cannot read the counters");
    else if (common.json)
        result = cli_print_json(cli_stats_json(&stats));
    else
        print_stats(&stats);
    if (!result && (stats.file_degraded || stats.file_slow))
        result = CLI_DEGRADED;
    return cli_close(&store, result);
}

/* ---- flush ------------------------------------------------------------------------------- */

int cli_flush(int argc, char **argv)
{
    cli_common common = cli_plain_arguments(
        "Writes everything to stable storage, also what a killed owner left in shared memory.", argc,
        argv);
    cascade_stats stats = {.struct_bytes = sizeof stats};
    cascade_store *store;
    int result = cli_open(&common, CASCADE_OPEN_NO_PREFAULT, &store);
    int code;

    if (result)
        return result;
    code = cascade_store_flush(store);
    if (!code)
        code = cascade_store_stats(store, &stats);
    if (code)
        result = cli_fail_to_keep(code, "cannot flush");
    else if (common.json)
        result = cli_print_json(json_pack("{s:I, s:I}", "written_bytes",
                                          (json_int_t)stats.tiers[CASCADE_TIER_FILE].written_bytes,
                                          "recovered_blocks", (json_int_t)stats.recovered_blocks));
    return cli_close(&store, result);
}
