/* SPDX-License-Identifier: MIT */
/*
 * Puts that go on and on: four times what dram holds, until the last byte is durable. No put can be
 * faster for long than the slower of digest and disk, so both are measured in turn with it.
 */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DRAM_BYTES    (UINT64_C(256) << 20)
#define ROUNDS        4u /* of dram */
#define REQUEST_BYTES (UINT64_C(16) << 20)

typedef struct sustained {
    bench *b;
    cascade_store *store;
    size_t blocks; /* a run */
    uint64_t number;
    uint64_t *sample_ns;
    char folder[4096];
} sustained;

/* Blocks that never were: else the store would find them equal and write nothing. */
static int put_run(sustained *s, double *gbps)
{
    uint64_t begin_ns = cli_now_ns();
    int code = 0;

    for (size_t i = 0; i < s->blocks && !code && !bench_stopped(); i++) {
        uint8_t *at = s->b->caller + i % s->b->blocks * s->b->block_bytes;
        uint64_t raw[2] = {BENCH_SEED, ++s->number}, start_ns;
        cascade_piece piece = {at, s->b->block_bytes};
        cascade_put put = {.block = {&piece, 1, NULL, 0}};

        memcpy(at, raw, s->b->block_bytes < sizeof raw ? s->b->block_bytes : sizeof raw);
        memcpy(put.key.bytes, raw, sizeof raw);
        start_ns = cli_now_ns();
        code = cascade_block_put(s->store, &put, 0);
        s->sample_ns[i] = cli_now_ns() - start_ns;
    }
    if (!code)
        code = cascade_store_flush(s->store);
    *gbps = (double)s->blocks * (double)s->b->block_bytes / (double)(cli_now_ns() - begin_ns);
    return code ? cli_fail(code, "cannot put") : CLI_OK;
}

static int digest_run(sustained *s, double *gbps)
{
    cascade_piece pieces[BENCH_BATCH];
    cascade_block blocks[BENCH_BATCH];
    cascade_id ids[BENCH_BATCH];
    uint64_t begin_ns;
    int code;

    for (size_t i = 0; i < BENCH_BATCH; i++) {
        pieces[i] =
            (cascade_piece){s->b->caller + i % s->b->blocks * s->b->block_bytes, s->b->block_bytes};
        blocks[i] = (cascade_block){&pieces[i], 1, NULL, 0};
    }
    begin_ns = cli_now_ns();
    code = cascade_digest_many(blocks, BENCH_BATCH, ids);
    *gbps = (double)BENCH_BATCH * (double)s->b->block_bytes / (double)(cli_now_ns() - begin_ns);
    return code ? cli_fail(code, "cannot digest") : CLI_OK;
}

/* A fresh file of dram's size, in large direct requests, synced. */
static int disk_run(sustained *s, double *gbps)
{
    char path[4200];
    uint64_t begin_ns;
    int fd, result = CLI_OK;
    uint8_t *buffer = aligned_alloc(4096, REQUEST_BYTES);

    snprintf(path, sizeof path, "%s/raw", s->folder);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_DIRECT, 0600);
    if (fd < 0 && errno == EINVAL)
        fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || !buffer) {
        cli_say("cannot make the raw file '%s': %s", path, strerror(errno));
        free(buffer);
        return CLI_FILE;
    }
    memset(buffer, 7, REQUEST_BYTES);
    begin_ns = cli_now_ns();
    for (uint64_t at = 0; at < DRAM_BYTES && !result; at += REQUEST_BYTES)
        if (pwrite(fd, buffer, REQUEST_BYTES, (off_t)at) != (ssize_t)REQUEST_BYTES)
            result = CLI_FILE;
    if (!result && fdatasync(fd) != 0)
        result = CLI_FILE;
    *gbps = (double)DRAM_BYTES / (double)(cli_now_ns() - begin_ns);
    if (result)
        cli_say("cannot write the raw file '%s': %s", path, strerror(errno));
    close(fd);
    unlink(path);
    free(buffer);
    return result;
}

static int run_all(sustained *s, bench_result *out)
{
    double gbps[BENCH_RUNS], limit[BENCH_RUNS], digest, disk;
    uint64_t *samples = calloc(BENCH_RUNS * s->blocks, sizeof *samples);
    int result = CLI_OK;

    if (!samples) {
        cli_say("no memory for the samples");
        return CLI_STORE;
    }
    s->sample_ns = samples;
    result = put_run(s, &gbps[0]); /* warms up */
    for (size_t run = 0; run < BENCH_RUNS && !result && !bench_stopped(); run++) {
        s->sample_ns = samples + run * s->blocks;
        result = put_run(s, &gbps[run]);
        if (!result)
            result = digest_run(s, &digest);
        if (!result)
            result = disk_run(s, &disk);
        limit[run] = !result && digest < disk ? digest : disk;
    }
    if (!result && !bench_stopped()) {
        *out = (bench_result){.op = "put_sustained", .threads = 1, .beside = "limit"};
        bench_summarise(out, gbps, limit, samples, BENCH_RUNS * s->blocks);
    }
    free(samples);
    return result;
}

int bench_sustained(bench *b, const char *folder, bench_result *out)
{
    sustained s = {.b = b, .blocks = ROUNDS * DRAM_BYTES / b->block_bytes};
    cascade_options options = {.struct_bytes = sizeof options,
                               .directory = s.folder,
                               .dram_bytes = DRAM_BYTES,
                               .open_flags = CASCADE_OPEN_CREATE};
    int code, result;

    if (s.blocks < ROUNDS) {
        cli_say("blocks of %s are larger than the %s of dram that put_sustained takes",
                cli_size_text(b->block_bytes), cli_size_text(DRAM_BYTES));
        return CLI_USAGE;
    }
    snprintf(s.folder, sizeof s.folder, "%s/cascade-bench-XXXXXX", folder);
    if (!mkdtemp(s.folder)) {
        cli_say("cannot make a temporary directory '%s': %s", s.folder, strerror(errno));
        return CLI_FILE;
    }
    code = cascade_store_open(&options, &s.store);
    result = code ? cli_fail(code, "cannot make a temporary store in '%s'", s.folder) : run_all(&s, out);
    if (s.store)
        result = cli_close(&s.store, result);
    nftw(s.folder, bench_remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    return result;
}
