/* SPDX-License-Identifier: MIT */
/* The operations of `cascade bench` and their yardsticks. */
#include "bench.h"
#include "pattern.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define REST_NS (UINT64_C(120) * 1000000000) /* longest wait for the store to come to rest */

/* ---- blocks and keys --------------------------------------------------------------------- */

typedef struct block_pieces {
    cascade_piece k, v;
} block_pieces;

static block_pieces caller_pieces(const bench *b, size_t index)
{
    uint8_t *at = b->caller + index * b->block_bytes;
    size_t k_bytes = b->block_bytes - b->block_bytes / 2;

    return (block_pieces){{at, k_bytes}, {at + k_bytes, b->block_bytes / 2}};
}

/* The block of a step: the same random order for the store and its yardstick. */
static size_t block_of(const bench *b, size_t step)
{
    return b->order[step % b->blocks];
}

static int make_key(uint64_t kind, uint64_t number, cascade_key *key)
{
    static const cascade_namespace ns = {.struct_bytes = sizeof ns, .model = "cascade bench"};
    uint64_t raw[3] = {BENCH_SEED, kind, number};

    return cascade_key_fold(&ns, raw, sizeof raw, key);
}

/* New names for all blocks: a put of a deleted key is not the put of a new one. */
static int new_generation(bench *b)
{
    b->generation++;
    for (size_t i = 0; i < b->blocks; i++) {
        int code = make_key(b->generation, i, &b->keys[i]);

        if (code)
            return cli_fail(code, "cannot make a key");
    }
    return CLI_OK;
}

/* Waits until background work would no longer disturb a measurement. */
static int rest(bench *b)
{
    cascade_stats stats = {.struct_bytes = sizeof stats};
    uint64_t deadline = cli_now_ns() + REST_NS;
    int code = cascade_store_flush(b->store);

    while (!code && !bench_stopped()) {
        code = cascade_store_stats(b->store, &stats);
        if (!code && stats.digest_pending == 0)
            return CLI_OK;
        if (cli_now_ns() > deadline) {
            cli_say("the store does not come to rest: %llu digests pending",
                    (unsigned long long)stats.digest_pending);
            return CLI_STORE;
        }
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    return code ? cli_fail(code, "cannot flush") : CLI_OK;
}

int bench_empty(bench *b)
{
    for (size_t i = 0; i < b->blocks && b->filled; i++) {
        int code = cascade_block_delete(b->store, &b->keys[i]);

        if (code < 0)
            return cli_fail(code, "cannot delete");
    }
    b->filled = false;
    return rest(b);
}

/* ---- steps ------------------------------------------------------------------------------- */

static int step_put(bench *b, size_t step, uint64_t *ns)
{
    size_t index = block_of(b, step);
    block_pieces pieces = caller_pieces(b, index);
    cascade_put put = {.key = b->keys[index],
                       .block = {&pieces.k, 1, &pieces.v, pieces.v.bytes ? 1 : 0}};
    uint64_t start = cli_now_ns();
    int code = cascade_block_put(b->store, &put, 0);

    *ns = cli_now_ns() - start;
    return code;
}

static int step_get(bench *b, size_t step, uint64_t *ns)
{
    size_t index = block_of(b, step);
    block_pieces pieces = caller_pieces(b, index);
    const cascade_block into = {&pieces.k, 1, &pieces.v, pieces.v.bytes ? 1 : 0};
    uint64_t start = cli_now_ns();
    int code = cascade_block_get(b->store, &b->keys[index], &into);

    *ns = cli_now_ns() - start;
    return code;
}

static int step_view(bench *b, size_t step, uint64_t *ns)
{
    size_t index = block_of(b, step);
    cascade_view *view;
    uint64_t start = cli_now_ns();
    int code = cascade_block_view(b->store, &b->keys[index], &view);

    if (!code)
        cascade_view_release(b->store, &view);
    *ns = cli_now_ns() - start;
    return code;
}

/* A chain drawn at random. */
static int step_match(bench *b, size_t step, uint64_t *ns)
{
    size_t chains = b->match_key_count / BENCH_CHAIN, matched = 0;
    const cascade_key *keys = b->match_keys + pattern_mix(step) % chains * BENCH_CHAIN;
    uint64_t start = cli_now_ns();
    int code = cascade_prefix_match(b->store, keys, BENCH_CHAIN, &matched);

    *ns = cli_now_ns() - start;
    if (!code && matched != BENCH_CHAIN)
        code = CASCADE_MISS;
    if (!code)
        code = cascade_prefix_release(b->store, keys, BENCH_CHAIN); /* not part of a match */
    return code;
}

/* One batch of blocks. */
static int step_digest(bench *b, size_t step, uint64_t *ns)
{
    block_pieces pieces[BENCH_BATCH];
    cascade_block blocks[BENCH_BATCH];
    cascade_id ids[BENCH_BATCH];
    uint64_t start;
    int code;

    for (size_t i = 0; i < BENCH_BATCH; i++) {
        pieces[i] = caller_pieces(b, block_of(b, step * BENCH_BATCH + i));
        blocks[i] = (cascade_block){&pieces[i].k, 1, &pieces[i].v, 1};
    }
    start = cli_now_ns();
    code = cascade_digest_many(blocks, BENCH_BATCH, ids);
    *ns = cli_now_ns() - start;
    return code;
}

/* The yardstick of digest: the same blocks, one after the other, by OpenSSL. */
static int step_openssl(bench *b, size_t step, uint64_t *ns)
{
    uint8_t digest[EVP_MAX_MD_SIZE];
    uint64_t start = cli_now_ns();
    int ok = 1;

    for (size_t i = 0; i < BENCH_BATCH; i++)
        ok &= EVP_Digest(b->caller + block_of(b, step * BENCH_BATCH + i) * b->block_bytes,
                         b->block_bytes, digest, NULL, EVP_sha256(), NULL);
    *ns = cli_now_ns() - start;
    return ok ? 0 : CASCADE_ENOMEM;
}

static int step_copy_out(bench *b, size_t step, uint64_t *ns)
{
    size_t index = block_of(b, step);
    uint64_t start = cli_now_ns();

    memcpy(b->caller + index * b->block_bytes, b->plain + index * b->block_bytes, b->block_bytes);
    *ns = cli_now_ns() - start;
    return 0;
}

static int step_copy_in(bench *b, size_t step, uint64_t *ns)
{
    size_t index = block_of(b, step);
    uint64_t start = cli_now_ns();

    memcpy(b->plain + index * b->block_bytes, b->caller + index * b->block_bytes, b->block_bytes);
    *ns = cli_now_ns() - start;
    return 0;
}

/* ---- what comes before a pass ------------------------------------------------------------ */

/* Contents differ from block to block, or dedup would be measured. */
static int fill_caller(bench *b)
{
    for (size_t i = 0; i < b->blocks; i++)
        pattern_fill(i, b->caller + i * b->block_bytes, b->block_bytes);
    return CLI_OK;
}

/* Every put pass starts from an empty store at rest and full caller buffers. */
static int before_put(bench *b)
{
    int result = bench_empty(b);

    fill_caller(b);

    return result ? result : new_generation(b);
}

/* Reads want all blocks in dram and the store at rest. */
static int before_read(bench *b)
{
    uint64_t ns;
    int code = 0, result;

    if (b->filled)
        return CLI_OK;
    result = before_put(b);
    for (size_t i = 0; i < b->blocks && !result && !code && !bench_stopped(); i++)
        code = step_put(b, i, &ns);
    b->filled = true;
    if (code)
        return cli_fail(code, "cannot fill the store");
    return result ? result : rest(b);
}

/* A few contents under many keys: the keys are what a match is about, and a page of dram for each would
 * need 64 GB for a million. */
static int before_match(bench *b)
{
    static uint8_t contents[BENCH_CHAIN][64];
    cascade_piece pieces[BENCH_CHAIN];
    cascade_put *puts;
    int code = 0;

    if (b->match_keys)
        return CLI_OK;
    b->match_keys = calloc(b->match_key_count, sizeof *b->match_keys);
    puts = calloc(BENCH_CHAIN, sizeof *puts);
    if (!b->match_keys || !puts) {
        free(puts);
        cli_say("no memory for %zu keys", b->match_key_count);
        return CLI_STORE;
    }
    for (size_t i = 0; i < BENCH_CHAIN; i++) {
        pattern_fill(i, contents[i], sizeof contents[i]);
        pieces[i] = (cascade_piece){contents[i], sizeof contents[i]};
    }
    for (size_t from = 0; from < b->match_key_count && !code && !bench_stopped(); from += BENCH_CHAIN) {
        for (size_t i = 0; i < BENCH_CHAIN && !code; i++) {
            code = make_key(0, from + i, &b->match_keys[from + i]);
            puts[i] = (cascade_put){
                .key = b->match_keys[from + i], .has_parent = i > 0, .block = {&pieces[i], 1, NULL, 0}};
            if (i > 0)
                puts[i].parent = b->match_keys[from + i - 1];
        }
        if (!code)
            code = cascade_block_put_many(b->store, puts, BENCH_CHAIN, CASCADE_PUT_SYNC);
    }
    free(puts);
    return code ? cli_fail(code, "cannot store the keys to match") : rest(b);
}

/* ---- measuring --------------------------------------------------------------------------- */

typedef struct operation {
    const char *name;
    int (*before)(bench *b); /* ahead of every pass of `step`, outside the time */
    bench_step step;
    bench_step yardstick; /* NULL: none */
    bool single_thread;
    bool small; /* many steps, no bytes */
    unsigned blocks_a_step;
} operation;

static const operation operations[] = {
    {"put", before_put, step_put, step_copy_in, false, false, 1},
    {"get", before_read, step_get, step_copy_out, false, false, 1},
    {"view", before_read, step_view, NULL, false, true, 0},
    {"match", before_match, step_match, NULL, false, true, 0},
    {"digest", fill_caller, step_digest, step_openssl, true, false, BENCH_BATCH},
};

static int compare_samples(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

    return left < right ? -1 : left > right;
}

static int measure_once(bench *b, const operation *op, bench_pass *pass, bool yardstick, double *gbps)
{
    int result = yardstick ? CLI_OK : op->before(b);

    if (result)
        return result;
    pass->step = yardstick ? op->yardstick : op->step;
    result = bench_run_pass(b, pass);
    if (!yardstick && op->step == step_put)
        b->filled = true;
    *gbps = (double)(pass->steps * op->blocks_a_step) * (double)b->block_bytes / pass->seconds / 1e9;
    return result;
}

static size_t step_count(const bench *b, const operation *op)
{
    if (op->small)
        return b->blocks > BENCH_SMALL_STEPS ? b->blocks : BENCH_SMALL_STEPS;
    if (op->blocks_a_step > 1)
        return b->blocks < BENCH_BATCH ? 1 : b->blocks / BENCH_BATCH;
    return b->blocks;
}

void bench_summarise(bench_result *result, double *gbps, double *yardstick, uint64_t *samples,
                     size_t sample_count)
{
    result->gbps = bench_median(gbps, BENCH_RUNS);
    result->gbps_min = gbps[0];
    result->gbps_max = gbps[BENCH_RUNS - 1];
    result->yardstick_gbps = bench_median(yardstick, BENCH_RUNS);
    qsort(samples, sample_count, sizeof *samples, compare_samples);
    result->p50_us = (double)samples[sample_count / 2] / 1000;
    result->p99_us = (double)samples[sample_count * 99 / 100] / 1000;
}

int bench_measure(bench *b, const char *name, bench_result *out)
{
    const operation *op = operations;
    double gbps[BENCH_RUNS + 1], yardstick[BENCH_RUNS + 1] = {0};
    uint64_t *samples, *ignored;
    bench_pass pass;
    int result = CLI_OK;

    while (strcmp(op->name, name) != 0)
        op++;
    pass = (bench_pass){.steps = step_count(b, op), .threads = op->single_thread ? 1 : b->threads};
    samples = calloc((BENCH_RUNS + 1) * pass.steps, sizeof *samples);
    ignored = calloc(pass.steps, sizeof *ignored);
    if (!samples || !ignored) {
        cli_say("no memory for the samples");
        result = CLI_STORE;
    }
    for (size_t run = 0; run <= BENCH_RUNS && !result && !bench_stopped(); run++) { /* run 0 warms up */
        bench_shuffle(b);
        pass.sample_ns = samples + run * pass.steps;
        result = measure_once(b, op, &pass, false, &gbps[run]);
        if (result || !op->yardstick)
            continue;
        pass.sample_ns = ignored;
        if (op->step == step_put && (result = rest(b))) /* hashing behind would slow the yardstick */
            continue;
        result = measure_once(b, op, &pass, true, &yardstick[run]);
    }
    if (!result && !bench_stopped()) {
        *out = (bench_result){.op = op->name,
                              .threads = pass.threads,
                              .beside = !op->yardstick                  ? NULL
                                        : op->yardstick == step_openssl ? "openssl"
                                                                        : "memcpy"};
        bench_summarise(out, gbps + 1, yardstick + 1, samples + pass.steps, BENCH_RUNS * pass.steps);
    }
    free(ignored);
    free(samples);
    return result;
}
