/* SPDX-License-Identifier: MIT */
/*
 * Opening a store whose blocks all lie in sealed segments: of three numbers of blocks, and of the most
 * again with four times the bytes. The time should grow with the blocks' index entries, not their bytes.
 * Each open is of a store that was closed, with the segments out of the page cache as far as the system
 * lets go of them, and nothing left in shared memory.
 */
#include "bench_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ROWS       4u
#define DRAM_BYTES (UINT64_C(256) << 20)

typedef struct open_row {
    uint64_t blocks, block_bytes;
    uint64_t file_bytes, segments, metadata_ops; /* results */
    double ms[BENCH_FILE_RUNS_MAX];
} open_row;

static int open_store(const char *folder, uint32_t flags, cascade_store **store)
{
    cascade_options options = {.struct_bytes = sizeof options,
                               .directory = folder,
                               .dram_bytes = DRAM_BYTES,
                               .open_flags = flags};
    int code = cascade_store_open(&options, store);

    return code ? cli_fail(code, "cannot open a temporary store in '%s'", folder) : CLI_OK;
}

/* Blocks that differ in their first bytes. */
static int fill(const char *folder, const open_row *row)
{
    uint8_t *bytes = calloc(1, row->block_bytes);
    cascade_piece piece = {bytes, row->block_bytes};
    cascade_store *store = NULL;
    int code = 0, result;

    if (!bytes) {
        cli_say("no memory for a block of %s", cli_size_text(row->block_bytes));
        return CLI_STORE;
    }
    result = open_store(folder, CASCADE_OPEN_CREATE, &store);
    for (uint64_t i = 0; i < row->blocks && !result && !code && !bench_stopped(); i++) {
        cascade_put put = {.block = {&piece, 1, NULL, 0}};
        uint64_t raw[2] = {BENCH_SEED, i};

        memcpy(bytes, raw, sizeof raw);
        memcpy(put.key.bytes, raw, sizeof raw);
        code = cascade_block_put(store, &put, 0);
    }
    if (code)
        result = cli_fail(code, "cannot put");
    if (store)
        result = cli_close(&store, result);
    free(bytes);
    return result;
}

/* Asks the system to forget what it holds of the folder's files. */
static void forget_pages(const char *folder)
{
    DIR *directory = opendir(folder);
    struct dirent *entry;

    while (directory && (entry = readdir(directory))) {
        int fd = openat(dirfd(directory), entry->d_name, O_RDONLY);

        if (fd < 0)
            continue;
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        close(fd);
    }
    if (directory)
        closedir(directory);
}

static int time_open(const char *folder, open_row *row, double *ms)
{
    cascade_stats stats = {.struct_bytes = sizeof stats};
    cascade_store *store = NULL;
    uint64_t begin_ns;
    int result;

    forget_pages(folder);
    begin_ns = cli_now_ns();
    result = open_store(folder, 0, &store);
    *ms = (double)(cli_now_ns() - begin_ns) / 1e6;
    if (result)
        return result;
    if (cascade_store_stats(store, &stats) == 0) {
        const cascade_metadata_ops *ops = &stats.metadata_ops;

        row->file_bytes = stats.tiers[CASCADE_TIER_FILE].used_bytes;
        row->segments = stats.segments;
        row->metadata_ops = ops->open + ops->create + ops->stat + ops->readdir + ops->fsync;
        if (stats.keys != row->blocks) {
            cli_say("%llu of %llu blocks were found", (unsigned long long)stats.keys,
                    (unsigned long long)row->blocks);
            result = CLI_STORE;
        }
    }
    return cli_close(&store, result);
}

static int measure_row(const char *parent, open_row *row, unsigned runs)
{
    char folder[4096];
    int result;

    snprintf(folder, sizeof folder, "%s/cascade-bench-XXXXXX", parent);
    if (!mkdtemp(folder)) {
        cli_say("cannot make a temporary directory '%s': %s", folder, strerror(errno));
        return CLI_FILE;
    }
    result = fill(folder, row);
    for (unsigned run = 0; run < runs && !result && !bench_stopped(); run++)
        result = time_open(folder, row, &row->ms[run]);
    nftw(folder, bench_remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    return result;
}

static int report(open_row *rows, unsigned runs, bool json)
{
    json_t *list = json ? json_array() : NULL;

    if (!json)
        printf("%10s %9s %10s %9s %9s %10s %10s %10s\n", "blocks", "block", "files", "segments",
               "open ms", "least", "most", "metadata");
    for (unsigned i = 0; i < ROWS; i++) {
        open_row *row = &rows[i];
        double median = bench_median(row->ms, runs); /* sorts them */

        if (json)
            json_array_append_new(
                list,
                json_pack("{s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:I}", "blocks", (json_int_t)row->blocks,
                          "block_bytes", (json_int_t)row->block_bytes, "file_bytes",
                          (json_int_t)row->file_bytes, "segments", (json_int_t)row->segments, "open_ms",
                          median, "open_ms_min", row->ms[0], "open_ms_max", row->ms[runs - 1],
                          "metadata_ops", (json_int_t)row->metadata_ops));
        else
            printf("%10llu %9s %10s %9llu %9.1f %10.1f %10.1f %10llu\n", (unsigned long long)row->blocks,
                   cli_size_text(row->block_bytes), cli_size_text(row->file_bytes),
                   (unsigned long long)row->segments, median, row->ms[0], row->ms[runs - 1],
                   (unsigned long long)row->metadata_ops);
    }
    return json ? cli_print_json(json_pack("{s:o, s:s, s:I, s:I}", "results", list, "version",
                                           cascade_version(), "seed", (json_int_t)BENCH_SEED, "runs",
                                           (json_int_t)runs))
                : CLI_OK;
}

int bench_open(const char *folder, uint64_t blocks, uint64_t block_bytes, unsigned runs, bool json)
{
    open_row rows[ROWS] = {{.blocks = blocks / 10 ? blocks / 10 : 1, .block_bytes = block_bytes},
                           {.blocks = blocks * 3 / 10 ? blocks * 3 / 10 : 1, .block_bytes = block_bytes},
                           {.blocks = blocks, .block_bytes = block_bytes},
                           {.blocks = blocks, .block_bytes = 4 * block_bytes}};
    int result = CLI_OK;

    for (unsigned i = 0; i < ROWS && !result && !bench_stopped(); i++)
        result = measure_row(folder, &rows[i], runs);
    return result || bench_stopped() ? result : report(rows, runs, json);
}
