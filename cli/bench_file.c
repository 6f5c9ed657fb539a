/* SPDX-License-Identifier: MIT */
/*
 * The file tier by itself. `persist`: blocks of mixed sizes put until all is durable, first into fresh
 * files, then, with a budget a little over one pass, into space that the first pass gives up. `cold`:
 * what persist wrote, read in random order by a store that has just been opened, with the page cache
 * dropped. `files`: small blocks, beside one file for each.
 *
 * The caller's memory is touched before. Every block starts with its number, so that no two are equal
 * and a read is checked. The raw rates of the disk come from a tool beside: scripts/bench_file.sh.
 */
#include "bench_file.h"
#include "pattern.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB          (UINT64_C(1) << 20)
#define LARGEST_MAX  (80 * MIB)
#define SPREAD       5u  /* the largest block is so many times the smallest */
#define BLOCKS_LEAST 16u /* of the largest size, a pass */
#define BATCH        4u  /* blocks of one get_many; and slots of the caller */
#define DRAM_MAX     (UINT64_C(1) << 30)
#define COLD_DRAM    (UINT64_C(256) << 20)
#define SMALL_BYTES  MIB
#define SMALL_COUNT  2000u

typedef struct file_bench {
    const bench_file_options *options;
    bench_file_result *results; /* of this run, in the order of their ops */
    size_t result_count;
    cascade_store *store;
    uint64_t largest, smallest;
    size_t blocks; /* of one pass */
    uint64_t *sizes;
    uint32_t *order;
    uint8_t *caller; /* BATCH * largest */
    uint64_t random;
    char folder[4096];
} file_bench;

static uint64_t next_random(file_bench *f)
{
    f->random = pattern_mix(f->random);
    return f->random;
}

static cascade_key key_of(unsigned pass, size_t block)
{
    uint64_t raw[4] = {BENCH_SEED, pass, block, ~BENCH_SEED};
    cascade_key key;

    memcpy(key.bytes, raw, sizeof key.bytes);
    return key;
}

/* ---- results --------------------------------------------------------------------------------- */

static int compare_samples(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

    return left < right ? -1 : left > right;
}

static void add_result(file_bench *f, const char *op, uint64_t bytes, uint64_t ns, uint64_t *samples,
                       size_t count, uint64_t metadata_ops)
{
    qsort(samples, count, sizeof *samples, compare_samples);
    f->results[f->result_count++] =
        (bench_file_result){.op = op,
                            .bytes = bytes,
                            .gbps = (double)bytes / (double)ns,
                            .p50_us = (double)samples[count / 2] / 1000,
                            .p99_us = (double)samples[count * 99 / 100] / 1000,
                            .metadata_ops = metadata_ops};
}

static uint64_t metadata_of(const cascade_stats *stats)
{
    const cascade_metadata_ops *ops = &stats->metadata_ops;

    return ops->open + ops->create + ops->rename + ops->unlink + ops->stat + ops->mkdir + ops->readdir +
           ops->truncate + ops->fsync;
}

/* ---- the store ------------------------------------------------------------------------------- */

static int open_store(file_bench *f, uint64_t dram_bytes, uint64_t budget_bytes)
{
    cascade_options options = {.struct_bytes = sizeof options,
                               .directory = f->folder,
                               .dram_bytes = dram_bytes,
                               .file_budget_bytes = budget_bytes,
                               .key_file = f->options->key_file,
                               .open_flags = CASCADE_OPEN_CREATE};
    int code = cascade_store_open(&options, &f->store);

    if (code)
        return cli_fail(code, "cannot open a store in '%s'", f->folder);
    bench_wait_for_prefault(f->store);
    return CLI_OK;
}

static int drop_entry(const char *path, const struct stat *info, int kind, struct FTW *walk)
{
    int fd = kind == FTW_F ? open(path, O_RDONLY | O_CLOEXEC) : -1;

    (void)info;
    (void)walk;
    if (fd >= 0) {
        (void)fsync(fd); /* what is dirty cannot be dropped */
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        close(fd);
    }
    return 0;
}

/* So that reads come from the disk, also where the store's I/O is buffered. */
static void drop_cache(const file_bench *f)
{
    nftw(f->folder, drop_entry, 16, FTW_PHYS);
}

static int make_folder(file_bench *f)
{
    snprintf(f->folder, sizeof f->folder, "%s/cascade-bench-XXXXXX", f->options->folder);
    if (mkdtemp(f->folder))
        return CLI_OK;
    cli_say("cannot make a temporary directory '%s': %s", f->folder, strerror(errno));
    return CLI_FILE;
}

static int leave_folder(file_bench *f, int result)
{
    if (f->store)
        result = cli_close(&f->store, result);
    nftw(f->folder, bench_remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    return result;
}

/* ---- persist --------------------------------------------------------------------------------- */

static uint8_t *slot_of(const file_bench *f, size_t block)
{
    return f->caller + block % BATCH * f->largest;
}

static int put_pass(file_bench *f, const char *op, unsigned pass, uint64_t *samples)
{
    uint64_t begin_ns = cli_now_ns(), bytes = 0;
    int code = 0;

    for (size_t i = 0; i < f->blocks && !code && !bench_stopped(); i++) {
        cascade_piece piece = {slot_of(f, i), f->sizes[i]};
        cascade_put put = {.key = key_of(pass, i), .block = {&piece, 1, NULL, 0}};
        uint64_t start_ns;

        memcpy(piece.data, put.key.bytes, sizeof put.key.bytes);
        start_ns = cli_now_ns();
        code = cascade_block_put(f->store, &put, 0);
        samples[i] = cli_now_ns() - start_ns;
        bytes += f->sizes[i];
    }
    if (!code)
        code = cascade_store_flush(f->store);
    if (code)
        return cli_fail(code, "cannot put");
    add_result(f, op, bytes, cli_now_ns() - begin_ns, samples, f->blocks, 0);
    return CLI_OK;
}

/* ---- cold ------------------------------------------------------------------------------------ */

/* Reads up to BATCH blocks; `*bytes` grows by those found. */
static int get_some(file_bench *f, const uint32_t *blocks, size_t count, uint64_t *bytes)
{
    cascade_piece pieces[BATCH];
    cascade_get gets[BATCH];
    int code = 0;

    for (size_t i = 0; i < count; i++) {
        pieces[i] = (cascade_piece){f->caller + i * f->largest, f->sizes[blocks[i]]};
        gets[i] = (cascade_get){.key = key_of(1, blocks[i]), .into = {&pieces[i], 1, NULL, 0}};
    }
    if (count == 1)
        gets[0].status = cascade_block_get(f->store, &gets[0].key, &gets[0].into);
    else
        (void)cascade_block_get_many(f->store, gets, count);
    for (size_t i = 0; i < count; i++) {
        if (gets[i].status == CASCADE_MISS)
            continue; /* the budget took it */
        code = code ? code : gets[i].status;
        if (!gets[i].status && memcmp(pieces[i].data, gets[i].key.bytes, sizeof gets[i].key.bytes) != 0)
            code = CASCADE_ECORRUPT;
        *bytes += pieces[i].bytes;
    }
    return code;
}

static int get_pass(file_bench *f, const char *op, size_t batch, uint64_t *samples)
{
    uint64_t begin_ns, bytes = 0, wanted = 0;
    size_t steps = 0;
    int code = 0;

    for (size_t i = f->blocks; i > 1; i--) {
        size_t other = next_random(f) % i;
        uint32_t swapped = f->order[i - 1];

        f->order[i - 1] = f->order[other];
        f->order[other] = swapped;
    }
    begin_ns = cli_now_ns();
    for (size_t at = 0; at < f->blocks && !code && !bench_stopped(); at += batch, steps++) {
        uint64_t start_ns = cli_now_ns();

        code = get_some(f, f->order + at, f->blocks - at < batch ? f->blocks - at : batch, &bytes);
        samples[steps] = cli_now_ns() - start_ns;
    }
    if (code)
        return cli_fail(code, "cannot get");
    for (size_t i = 0; i < f->blocks; i++)
        wanted += f->sizes[i];
    if (bytes < wanted && !bench_stopped())
        cli_say("%s: %s of %s were there, the file budget took the rest", op, cli_size_text(bytes),
                cli_size_text(wanted));
    add_result(f, op, bytes, cli_now_ns() - begin_ns, samples, steps, 0);
    return CLI_OK;
}

static int reopen_cold(file_bench *f, uint64_t budget_bytes)
{
    int result = cli_close(&f->store, CLI_OK);

    drop_cache(f);
    return result ? result : open_store(f, COLD_DRAM + 2 * f->largest, budget_bytes);
}

/* ---- persist and cold ------------------------------------------------------------------------ */

static int run_large(file_bench *f, uint64_t *samples)
{
    uint64_t dram = f->options->size_bytes / 4 < DRAM_MAX ? f->options->size_bytes / 4 : DRAM_MAX;
    uint64_t budget = f->options->size_bytes + f->options->size_bytes / 4 + 2 * f->largest;
    cascade_stats stats = {.struct_bytes = sizeof stats};
    int result = make_folder(f);

    if (result)
        return result;
    result = open_store(f, dram + 2 * f->largest, budget);
    if (!result)
        result = put_pass(f, "persist_fresh", 0, samples);
    if (!result)
        result = put_pass(f, "persist_recycled", 1, samples);
    if (!result && cascade_store_stats(f->store, &stats) == 0) {
        f->options->facts->recycled_segments += stats.recycled_segments;
        f->options->facts->compacted_bytes += stats.compacted_bytes;
    }
    f->options->facts->encrypted = stats.file_encrypted;
    f->options->facts->direct = stats.file_direct;
    f->options->facts->uring = stats.file_uring;
    if (!result && f->options->cold)
        result = reopen_cold(f, budget);
    if (!result && f->options->cold)
        result = get_pass(f, "cold_get", 1, samples);
    if (!result && f->options->cold)
        result = reopen_cold(f, budget);
    if (!result && f->options->cold)
        result = get_pass(f, "cold_get_many", BATCH, samples);
    return leave_folder(f, result);
}

static int prepare(file_bench *f)
{
    uint64_t limit = f->options->size_bytes / BLOCKS_LEAST, bytes = 0;

    f->random = BENCH_SEED;
    f->largest = (limit < LARGEST_MAX ? limit : LARGEST_MAX) / 65536 * 65536;
    f->smallest = f->largest / SPREAD;
    f->sizes = calloc(f->options->size_bytes / f->smallest + 1, sizeof *f->sizes);
    f->order = calloc(f->options->size_bytes / f->smallest + 1, sizeof *f->order);
    f->caller =
        mmap(NULL, BATCH * f->largest, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!f->sizes || !f->order || f->caller == MAP_FAILED) {
        f->caller = f->caller == MAP_FAILED ? NULL : f->caller;
        cli_say("no memory for %s", cli_size_text(BATCH * f->largest));
        return CLI_STORE;
    }
    pattern_fill(BENCH_SEED, f->caller, BATCH * f->largest);
    while (bytes < f->options->size_bytes) {
        uint64_t more = next_random(f) % (f->largest - f->smallest + 1);

        f->sizes[f->blocks] = (f->smallest + more) / 4096 * 4096;
        f->order[f->blocks] = (uint32_t)f->blocks;
        bytes += f->sizes[f->blocks++];
    }
    return CLI_OK;
}

/* ---- files ----------------------------------------------------------------------------------- */

static int write_one_file(const file_bench *f, size_t block, const uint8_t *data)
{
    char path[4200], aside[4200];
    int fd, failed;

    snprintf(path, sizeof path, "%s/%08zu", f->folder, block);
    snprintf(aside, sizeof aside, "%s/%08zu.new", f->folder, block);
    fd = open(aside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return -1;
    failed = write(fd, data, SMALL_BYTES) != (ssize_t)SMALL_BYTES || fsync(fd) != 0;
    close(fd);
    return failed ? -1 : rename(aside, path);
}

static int read_one_file(const file_bench *f, size_t block, uint8_t *into)
{
    char path[4200];
    int fd;
    bool whole;

    snprintf(path, sizeof path, "%s/%08zu", f->folder, block);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    whole = read(fd, into, SMALL_BYTES) == (ssize_t)SMALL_BYTES;
    close(fd);
    return whole ? 0 : -1;
}

/* One file a block: made aside, synced and renamed, as is done to be safe; then read. */
static int run_plain_files(file_bench *f, size_t count, uint64_t *samples)
{
    uint64_t begin_ns, start_ns;
    int result = make_folder(f), failed = 0;

    if (result)
        return result;
    begin_ns = cli_now_ns();
    for (size_t i = 0; i < count && !failed && !bench_stopped(); i++) {
        cascade_key key = key_of(2, i);

        memcpy(f->caller, key.bytes, sizeof key.bytes);
        start_ns = cli_now_ns();
        failed = write_one_file(f, i, f->caller);
        samples[i] = cli_now_ns() - start_ns;
    }
    if (!failed) /* create, fsync and rename for each */
        add_result(f, "files_write", count * SMALL_BYTES, cli_now_ns() - begin_ns, samples, count,
                   3 * count);
    drop_cache(f);
    begin_ns = cli_now_ns();
    for (size_t i = 0; i < count && !failed && !bench_stopped(); i++) {
        start_ns = cli_now_ns();
        failed = read_one_file(f, (i * 7919 + 13) % count, f->caller);
        samples[i] = cli_now_ns() - start_ns;
    }
    if (failed) {
        cli_say("cannot use a file in '%s': %s", f->folder, strerror(errno));
        return leave_folder(f, CLI_FILE);
    }
    add_result(f, "files_read", count * SMALL_BYTES, cli_now_ns() - begin_ns, samples, count, count);
    return leave_folder(f, CLI_OK);
}

static int store_small(file_bench *f, size_t count, bool read, uint64_t *samples, const char *op)
{
    cascade_stats stats = {.struct_bytes = sizeof stats};
    uint64_t begin_ns = cli_now_ns();
    int code = 0;

    for (size_t i = 0; i < count && !code && !bench_stopped(); i++) {
        cascade_key key = key_of(2, read ? (i * 7919 + 13) % count : i);
        cascade_piece piece = {f->caller, SMALL_BYTES};
        cascade_put put = {.key = key, .block = {&piece, 1, NULL, 0}};
        uint64_t start_ns;

        if (!read)
            memcpy(f->caller, key.bytes, sizeof key.bytes);
        start_ns = cli_now_ns();
        code =
            read ? cascade_block_get(f->store, &key, &put.block) : cascade_block_put(f->store, &put, 0);
        samples[i] = cli_now_ns() - start_ns;
    }
    if (!code && !read)
        code = cascade_store_flush(f->store);
    if (!code)
        code = cascade_store_stats(f->store, &stats);
    if (code)
        return cli_fail(code, "cannot %s", read ? "get" : "put");
    add_result(f, op, count * SMALL_BYTES, cli_now_ns() - begin_ns, samples, count, metadata_of(&stats));
    return CLI_OK;
}

/* The same blocks in a store; the metadata operations are those since the open, which is one of them. */
static int run_small(file_bench *f, uint64_t *samples)
{
    size_t count = f->options->size_bytes / SMALL_BYTES;
    int result;

    count = count < SMALL_COUNT ? count : SMALL_COUNT;
    result = make_folder(f);
    if (result)
        return result;
    result = open_store(f, COLD_DRAM + 2 * f->largest, 0);
    if (!result)
        result = store_small(f, count, false, samples, "store_write");
    if (!result)
        result = reopen_cold(f, 0);
    if (!result)
        result = store_small(f, count, true, samples, "store_read");
    result = leave_folder(f, result);
    return result || bench_stopped() ? result : run_plain_files(f, count, samples);
}

/* ---- all ------------------------------------------------------------------------------------- */

int bench_file_run(const bench_file_options *options, bench_file_result *results, size_t *count)
{
    file_bench f = {.options = options, .results = results};
    uint64_t *samples = NULL;
    int result = prepare(&f);

    if (!result) {
        samples = calloc(f.blocks > SMALL_COUNT ? f.blocks : SMALL_COUNT, sizeof *samples);
        if (!samples) {
            cli_say("no memory for the samples");
            result = CLI_STORE;
        }
    }
    if (!result && (options->persist || options->cold))
        result = run_large(&f, samples);
    if (!result && options->files && !bench_stopped())
        result = run_small(&f, samples);
    *count = f.result_count;
    free(samples);
    free(f.sizes);
    free(f.order);
    if (f.caller)
        munmap(f.caller, BATCH * f.largest);
    return result;
}
