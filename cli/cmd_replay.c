/* SPDX-License-Identifier: MIT */
/*
 * `cascade replay`: a trace of requests against a store. For each request: match the prefix, read every
 * hit and check all of its bytes, put the rest. Block contents are a pattern of the hash id, so that
 * nothing needs to be remembered to check them.
 */
#include "cli.h"
#include "pattern.h"
#include "progress.h"
#include "trace.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Blocks are put in batches of at most this many bytes, however long the request: that much memory is
 * needed for contents. */
#define BATCH_BYTES (UINT64_C(256) << 20)
#define BATCH_MAX   1024u

typedef struct replay_arguments {
    cli_common common;
    const char *trace;
    uint64_t block_bytes;
    uint64_t limit; /* requests; 0: all */
} replay_arguments;

typedef struct replay {
    cascade_store *store;
    uint64_t block_bytes;
    /* working memory: one slot of a batch is a block's bytes, its two pieces and its put */
    size_t batch;
    uint8_t *contents;
    cascade_piece *pieces;
    cascade_put *puts;
    cascade_key *keys;
    size_t key_room;
    /* results */
    uint64_t requests, blocks, hits, lost, wrong, stored;
    uint64_t get_bytes, get_ns, put_bytes, put_ns, match_ns;
    cascade_stats before, after;
} replay;

enum { REPLAY_BLOCK_BYTES = 0x2000, REPLAY_LIMIT };

static error_t parse_replay(int key, char *argument, struct argp_state *state)
{
    replay_arguments *arguments = state->input;

    switch (key) {
    case REPLAY_BLOCK_BYTES:
        arguments->block_bytes = cli_size_argument("--block-bytes", argument, state);
        if (arguments->block_bytes == 0 || arguments->block_bytes > CASCADE_BLOCK_BYTES_MAX)
            argp_error(state, "--block-bytes: a block has 1 byte to 1TiB");
        return 0;
    case REPLAY_LIMIT:
        arguments->limit = cli_count_argument("--limit", argument, 1, UINT64_MAX, state);
        return 0;
    case ARGP_KEY_ARG:
        if (arguments->trace)
            argp_error(state, "one trace at a time");
        arguments->trace = argument;
        return 0;
    case ARGP_KEY_END:
        if (!arguments->trace)
            argp_error(state, "which trace?");
        if (arguments->block_bytes == 0)
            argp_error(state, "how large is a block? Give --block-bytes, like 64KiB");
        return 0;
    default:
        return cli_parse_rest(key, argument, state, &arguments->common);
    }
}

static void replay_destroy(replay *run)
{
    free(run->contents);
    free(run->pieces);
    free(run->puts);
    free(run->keys);
}

static int replay_create(replay *run, const replay_arguments *arguments)
{
    uint64_t fit = BATCH_BYTES / arguments->block_bytes;

    *run = (replay){.block_bytes = arguments->block_bytes,
                    .batch = fit < 1           ? 1
                             : fit > BATCH_MAX ? BATCH_MAX
                                               : (size_t)fit,
                    .before = {.struct_bytes = sizeof run->before},
                    .after = {.struct_bytes = sizeof run->after}};
    run->contents = malloc(run->batch * run->block_bytes);
    run->pieces = calloc(run->batch * 2, sizeof *run->pieces);
    run->puts = calloc(run->batch, sizeof *run->puts);
    if (!run->contents || !run->pieces || !run->puts) {
        cli_say("no memory for blocks of %s", cli_size_text(run->block_bytes));
        replay_destroy(run);
        return CLI_STORE;
    }
    for (size_t i = 0; i < run->batch; i++) {
        uint8_t *block = run->contents + i * run->block_bytes;
        size_t k_bytes = run->block_bytes - run->block_bytes / 2;

        run->pieces[2 * i] = (cascade_piece){block, k_bytes};
        run->pieces[2 * i + 1] = (cascade_piece){block + k_bytes, run->block_bytes / 2};
        run->puts[i].block = (cascade_block){&run->pieces[2 * i], 1, &run->pieces[2 * i + 1],
                                             run->block_bytes > 1 ? 1 : 0};
    }
    memset(run->contents, 1,
           run->batch * run->block_bytes); /* warm: a first touch costs more than a get */
    return CLI_OK;
}

/* Block size is part of the key, so that one store can take replays of several sizes. */
static int make_keys(replay *run, const trace_request *request)
{
    static const cascade_namespace ns = {.struct_bytes = sizeof ns, .model = "cascade replay"};

    if (request->count > run->key_room) {
        cascade_key *larger = reallocarray(run->keys, request->count, sizeof *larger);

        if (!larger) {
            cli_say("no memory for %zu keys", request->count);
            return CLI_STORE;
        }
        run->keys = larger;
        run->key_room = request->count;
    }
    for (size_t i = 0; i < request->count; i++) {
        uint8_t raw[16];
        int code;

        for (int byte = 0; byte < 8; byte++) {
            raw[byte] = (uint8_t)(request->ids[i] >> 8 * byte);
            raw[8 + byte] = (uint8_t)(run->block_bytes >> 8 * byte);
        }
        code = cascade_key_fold(&ns, raw, sizeof raw, &run->keys[i]);
        if (code)
            return cli_fail(code, "cannot make a key");
    }
    return CLI_OK;
}

/* Reads and checks one block that a match has promised. */
static int read_hit(replay *run, uint64_t id, const cascade_key *key)
{
    uint64_t start = cli_now_ns();
    int code = cascade_block_get(run->store, key, &run->puts[0].block);

    run->get_ns += cli_now_ns() - start;
    if (code == CASCADE_MISS) {
        run->lost++;
        return CLI_OK;
    }
    if (code)
        return cli_fail(code, "cannot read the block of hash id %" PRIu64, id);
    run->hits++;
    run->get_bytes += run->block_bytes;
    if (!pattern_check(id, run->contents, run->block_bytes))
        run->wrong++;
    return CLI_OK;
}

static int put_batch(replay *run, const trace_request *request, size_t from, size_t count)
{
    uint64_t start;
    int code;

    for (size_t i = 0; i < count; i++) {
        cascade_put *put = &run->puts[i];

        pattern_fill(request->ids[from + i], run->contents + i * run->block_bytes, run->block_bytes);
        put->key = run->keys[from + i];
        put->has_parent = from + i > 0;
        if (put->has_parent)
            put->parent = run->keys[from + i - 1];
    }
    start = cli_now_ns();
    code = cascade_block_put_many(run->store, run->puts, count, 0);
    run->put_ns += cli_now_ns() - start;
    if (code)
        return cli_fail(code, "cannot store the blocks of request %" PRIu64, run->requests + 1);
    for (size_t i = 0; i < count; i++)
        if (!run->puts[i].existed) {
            run->stored++;
            run->put_bytes += run->block_bytes;
        }
    return CLI_OK;
}

static int replay_request(replay *run, const trace_request *request)
{
    size_t matched = 0, count;
    uint64_t start;
    int code, result = make_keys(run, request);

    if (result || request->count == 0)
        goto out;
    start = cli_now_ns();
    code = cascade_prefix_match(run->store, run->keys, request->count, &matched);
    run->match_ns += cli_now_ns() - start;
    if (code) {
        result = cli_fail(code, "cannot match request %" PRIu64, run->requests + 1);
        goto out;
    }
    for (size_t i = 0; i < matched && !result; i++)
        result = read_hit(run, request->ids[i], &run->keys[i]);
    for (size_t from = matched; from < request->count && !result; from += count) {
        count = request->count - from < run->batch ? request->count - from : run->batch;
        result = put_batch(run, request, from, count);
    }
    run->blocks += request->count;
out:
    if (!result)
        run->requests++;
    return result;
}

static int replay_trace(replay *run, const replay_arguments *arguments, trace *reader)
{
    trace_request request = {0};
    char text[TRACE_TEXT_BYTES];
    int got = 1, result = CLI_OK;
    progress bar;

    progress_start(&bar, "replay");
    while (!result && !cli_stop_signal() &&
           (arguments->limit == 0 || run->requests < arguments->limit) &&
           (got = trace_next(reader, &request, text)) == 1) {
        uint64_t done, total;
        char detail[80];

        result = replay_request(run, &request);
        trace_position(reader, &done, &total);
        snprintf(detail, sizeof detail, "%" PRIu64 " requests, hit ratio %.3f", run->requests,
                 run->blocks ? (double)run->hits / (double)run->blocks : 0);
        if (arguments->limit)
            progress_update(&bar, run->requests, arguments->limit, detail);
        else
            progress_update(&bar, done, total, detail);
    }
    progress_end(&bar);
    if (got < 0 && !cli_stop_signal()) {
        cli_say("%s", text);
        result = CLI_FILE;
    } else if (result) {
        cli_say("stopped at line %" PRIu64 " of the trace", trace_line(reader));
    }
    trace_request_free(&request);
    return result;
}

/* ---- results ----------------------------------------------------------------------------- */

static double gbps(uint64_t bytes, uint64_t ns)
{
    return ns ? (double)bytes / (double)ns : 0; /* bytes a nanosecond are GB a second */
}

static json_t *replay_json(const replay *run)
{
    json_t *by_tier = json_object();

    for (unsigned i = 0; i < CASCADE_TIER_COUNT; i++)
        json_object_set_new(
            by_tier, cascade_tier_name(i),
            json_integer((json_int_t)(run->after.tiers[i].hits - run->before.tiers[i].hits)));
    return json_pack("{s:I, s:I, s:I, s:f, s:o, s:I, s:I, s:f, s:f, s:I, s:I, s:I, s:I}", "requests",
                     (json_int_t)run->requests, "blocks", (json_int_t)run->blocks, "hits",
                     (json_int_t)run->hits, "hit_ratio",
                     run->blocks ? (double)run->hits / (double)run->blocks : 0.0, "hits_by_tier",
                     by_tier, "lost", (json_int_t)run->lost, "wrong", (json_int_t)run->wrong, "put_gbps",
                     gbps(run->put_bytes, run->put_ns), "get_gbps", gbps(run->get_bytes, run->get_ns),
                     "dedup_bytes_saved", (json_int_t)run->after.dedup_bytes_saved, "stored_blocks",
                     (json_int_t)run->stored, "put_bytes", (json_int_t)run->put_bytes, "get_bytes",
                     (json_int_t)run->get_bytes);
}

static void print_replay(const replay *run)
{
    printf("requests        %" PRIu64 "\n", run->requests);
    printf("blocks          %" PRIu64 " (%" PRIu64 " stored)\n", run->blocks, run->stored);
    printf("hits            %" PRIu64 "\n", run->hits);
    printf("hit ratio       %.4f\n", run->blocks ? (double)run->hits / (double)run->blocks : 0);
    for (unsigned i = 0; i < CASCADE_TIER_COUNT; i++)
        printf("hits in %-7s %" PRIu64 "\n", cascade_tier_name(i),
               run->after.tiers[i].hits - run->before.tiers[i].hits);
    printf("put             %.2f GB/s (%s)\n", gbps(run->put_bytes, run->put_ns),
           cli_size_text(run->put_bytes));
    printf("get             %.2f GB/s (%s)\n", gbps(run->get_bytes, run->get_ns),
           cli_size_text(run->get_bytes));
    printf("match           %.2f us a request\n",
           run->requests ? (double)run->match_ns / 1000 / (double)run->requests : 0);
    printf("lost blocks     %" PRIu64 "\n", run->lost);
    printf("wrong bytes in  %" PRIu64 " blocks\n", run->wrong);
    printf("saved by dedup  %s\n", cli_size_text(run->after.dedup_bytes_saved));
}

/* An interrupted replay prints what it has; its flush is left to the close. */
static int finish(replay *run, bool json)
{
    int code = cli_stop_signal() ? 0 : cascade_store_flush(run->store); /* so that dedup is complete */
    int result = CLI_OK;

    if (!code)
        code = cascade_store_stats(run->store, &run->after);
    if (code)
        return cli_fail(code, "cannot end the replay");
    if (json)
        result = cli_print_json(replay_json(run));
    else
        print_replay(run);
    return result ? result : run->lost || run->wrong ? CLI_NEGATIVE : CLI_OK;
}

int cli_replay(int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"block-bytes", REPLAY_BLOCK_BYTES, "SIZE", 0, "Bytes of a block, K and V together", 0},
        {"limit", REPLAY_LIMIT, "REQUESTS", 0, "Stop after this many requests", 0},
        {0},
    };
    static const struct argp_child children[] = {{&cli_store_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {
        options,
        parse_replay,
        "TRACE",
        "Runs the requests of a trace ('-': standard input) against a store: matches each prefix, reads "
        "every "
        "hit and checks its bytes, stores the rest. Fails (1) if a block was lost or wrong.",
        children,
        NULL,
        NULL};
    replay_arguments arguments = {0};
    char text[TRACE_TEXT_BYTES];
    trace *reader;
    replay run;
    int code, result;

    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    reader = trace_open(arguments.trace, text);
    if (!reader) {
        cli_say("%s", text);
        return CLI_FILE;
    }
    result = replay_create(&run, &arguments);
    if (result)
        goto close_trace;
    result = cli_open(&arguments.common, 0, &run.store);
    if (result)
        goto destroy;
    code = cascade_store_stats(run.store, &run.before);
    result = code ? cli_fail(code, "cannot read the counters") : replay_trace(&run, &arguments, reader);
    if (!result)
        result = finish(&run, arguments.common.json);
    result = cli_close(&run.store, result);
destroy:
    replay_destroy(&run);
close_trace:
    trace_close(&reader);
    return result;
}
