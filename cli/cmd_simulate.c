/* SPDX-License-Identifier: MIT */
/* `cascade simulate`: the eviction policies on a trace, without a store. */
#include "cli.h"
#include "progress.h"
#include "trace.h"
#include <cascade/simulator.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIST_MAX 64

static const char *const all_policies[] = {"hazard", "lru", "published"};

/* A capacity as given: a number of blocks, or percent of the trace's distinct blocks. */
typedef struct capacity {
    bool is_percent;
    double percent;
    uint32_t blocks;
} capacity;

typedef struct simulate_arguments {
    cli_common common;
    const char *trace;
    capacity capacities[LIST_MAX];
    size_t capacity_count;
    const char *policies[LIST_MAX];
    size_t policy_count;
} simulate_arguments;

/* All requests, one after the other. */
typedef struct workload {
    uint64_t *ids;
    size_t id_count;
    size_t id_room;
    size_t *ends; /* of each request in `ids` */
    size_t request_count;
    size_t request_room;
    size_t distinct;
} workload;

enum { SIMULATE_CAPACITY = 0x2000, SIMULATE_POLICY };

static bool parse_capacity(const char *text, capacity *out)
{
    char *end;

    errno = 0;
    if (*text < '0' || *text > '9')
        return false;
    if (text[strlen(text) - 1] == '%') {
        out->is_percent = true;
        out->percent = strtod(text, &end);
        return strcmp(end, "%") == 0 && out->percent > 0 && out->percent <= 100;
    }
    unsigned long long blocks = strtoull(text, &end, 10);

    out->blocks = (uint32_t)blocks;
    return !*end && !errno && blocks > 0 && blocks < UINT32_MAX;
}

/* Cuts the argument at its commas, in place. */
static void parse_list(int key, char *text, simulate_arguments *arguments, struct argp_state *state)
{
    char *rest = text, *item;

    while ((item = strsep(&rest, ","))) {
        if (key == SIMULATE_CAPACITY) {
            capacity parsed = {0};

            if (!parse_capacity(item, &parsed))
                argp_error(state,
                           "--capacity-blocks: '%.40s' is neither a number of blocks nor a "
                           "percentage like 10%%",
                           item);
            else if (arguments->capacity_count == LIST_MAX)
                argp_error(state, "--capacity-blocks: %d are the most", LIST_MAX);
            else
                arguments->capacities[arguments->capacity_count++] = parsed;
        } else if (strcmp(item, "all") == 0) {
            memcpy(arguments->policies, all_policies, sizeof all_policies);
            arguments->policy_count = sizeof all_policies / sizeof all_policies[0];
        } else if (arguments->policy_count == LIST_MAX) {
            argp_error(state, "--policy: %d are the most", LIST_MAX);
        } else {
            arguments->policies[arguments->policy_count++] = item;
        }
    }
}

static error_t parse_simulate(int key, char *argument, struct argp_state *state)
{
    simulate_arguments *arguments = state->input;

    switch (key) {
    case SIMULATE_CAPACITY:
    case SIMULATE_POLICY:
        parse_list(key, argument, arguments, state);
        return 0;
    case ARGP_KEY_ARG:
        if (arguments->trace)
            argp_error(state, "one trace at a time");
        arguments->trace = argument;
        return 0;
    case ARGP_KEY_END:
        if (!arguments->trace)
            argp_error(state, "which trace?");
        if (arguments->capacity_count == 0)
            argp_error(state, "give --capacity-blocks, like 1000,5000 or 1%%,10%%");
        if (arguments->policy_count == 0)
            arguments->policies[arguments->policy_count++] = all_policies[0];
        return 0;
    default:
        return cli_parse_rest(key, argument, state, &arguments->common);
    }
}

/* ---- the trace --------------------------------------------------------------------------- */

static bool reserve(void **array, size_t *room, size_t needed, size_t element_bytes)
{
    size_t larger_room = needed + needed / 2 + 64;
    void *larger;

    if (needed <= *room)
        return true;
    larger = reallocarray(*array, larger_room, element_bytes);
    if (!larger)
        return false;
    *array = larger;
    *room = larger_room;
    return true;
}

static bool add_request(workload *load, const trace_request *request)
{
    if (!reserve((void **)&load->ids, &load->id_room, load->id_count + request->count,
                 sizeof *load->ids) ||
        !reserve((void **)&load->ends, &load->request_room, load->request_count + 1, sizeof *load->ends))
        return false;
    if (request->count)
        memcpy(load->ids + load->id_count, request->ids, request->count * sizeof *request->ids);
    load->id_count += request->count;
    load->ends[load->request_count++] = load->id_count;
    return true;
}

static int compare_ids(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

    return left < right ? -1 : left > right;
}

static bool count_distinct(workload *load)
{
    uint64_t *sorted = malloc((load->id_count + 1) * sizeof *sorted);

    if (!sorted)
        return false;
    if (load->id_count)
        memcpy(sorted, load->ids, load->id_count * sizeof *sorted);
    qsort(sorted, load->id_count, sizeof *sorted, compare_ids);
    for (size_t i = 0; i < load->id_count; i++)
        load->distinct += i == 0 || sorted[i] != sorted[i - 1];
    free(sorted);
    return true;
}

static int read_workload(const char *path, workload *load)
{
    char text[TRACE_TEXT_BYTES];
    trace *reader = trace_open(path, text);
    trace_request request = {0};
    int got, result = CLI_OK;

    if (!reader) {
        cli_say("%s", text);
        return CLI_FILE;
    }
    while ((got = trace_next(reader, &request, text)) == 1 && !cli_stop_signal())
        if (!add_request(load, &request))
            break;
    if (got < 0 && !cli_stop_signal()) {
        cli_say("%s", text);
        result = CLI_FILE;
    } else if (got == 1 || !count_distinct(load)) {
        if (!cli_stop_signal())
            cli_say("no memory for the trace");
        result = CLI_STORE;
    } else if (load->id_count == 0) {
        cli_say("the trace '%s' has no blocks", path);
        result = CLI_FILE;
    }
    trace_request_free(&request);
    trace_close(&reader);
    return result;
}

/* ---- simulating -------------------------------------------------------------------------- */

static int simulate(const workload *load, const char *policy, uint32_t capacity_blocks,
                    double *hit_ratio)
{
    cascade_simulator *simulator;
    size_t from = 0, hits = 0;
    uint64_t total = 0;
    int code = cascade_simulator_create(policy, capacity_blocks, &simulator);

    if (code) {
        int result = cli_fail(code, "cannot simulate policy '%s'", policy);

        return code == CASCADE_EINVAL ? CLI_USAGE : result;
    }
    for (size_t i = 0; i < load->request_count && !code && !cli_stop_signal(); i++) {
        code = cascade_simulator_request(simulator, load->ids + from, load->ends[i] - from, &hits);
        total += hits;
        from = load->ends[i];
    }
    cascade_simulator_destroy(&simulator);
    *hit_ratio = (double)total / (double)load->id_count;
    return code ? cli_fail(code, "the simulation failed") : CLI_OK;
}

static uint32_t capacity_blocks(const capacity *wanted, const workload *load)
{
    double blocks = wanted->percent * (double)load->distinct / 100; /* exact for whole percents */

    if (!wanted->is_percent)
        return wanted->blocks;
    return blocks < 1 ? 1 : (uint32_t)blocks;
}

static void print_row(const json_t *result, const workload *load)
{
    json_int_t blocks = json_integer_value(json_object_get(result, "capacity_blocks"));

    printf("%-10s %12" PRId64 " %7.2f %% %10.4f\n", json_string_value(json_object_get(result, "policy")),
           (int64_t)blocks, 100.0 * (double)blocks / (double)load->distinct,
           json_real_value(json_object_get(result, "hit_ratio")));
}

static int simulate_all(const simulate_arguments *arguments, const workload *load, json_t *results)
{
    size_t done = 0, total = arguments->policy_count * arguments->capacity_count;
    progress bar;
    int result = CLI_OK;

    progress_start(&bar, "simulate");
    for (size_t p = 0; p < arguments->policy_count; p++)
        for (size_t c = 0; c < arguments->capacity_count && !result && !cli_stop_signal(); c++) {
            uint32_t blocks = capacity_blocks(&arguments->capacities[c], load);
            double ratio = 0;

            progress_update(&bar, done++, total, arguments->policies[p]);
            result = simulate(load, arguments->policies[p], blocks, &ratio);
            if (!result)
                json_array_append_new(results, json_pack("{s:s, s:I, s:f}", "policy",
                                                         arguments->policies[p], "capacity_blocks",
                                                         (json_int_t)blocks, "hit_ratio", ratio));
        }
    progress_end(&bar);
    return result;
}

int cli_simulate(int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"capacity-blocks", SIMULATE_CAPACITY, "N[,N...]", 0,
         "Capacities in blocks, or in percent of the distinct blocks (10%)", 0},
        {"policy", SIMULATE_POLICY, "P[,P...]", 0, "hazard, lru, published, or all (hazard)", 0},
        {0},
    };
    static const struct argp_child children[] = {{&cli_json_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {
        options,
        parse_simulate,
        "TRACE",
        "Prints the hit ratio of an eviction policy on a trace ('-': standard input), per capacity, and "
        "the "
        "ceiling that an unlimited capacity reaches. Runs the code that the dram tier runs.",
        children,
        NULL,
        NULL};
    simulate_arguments arguments = {0};
    workload load = {0};
    json_t *results = json_array(), *row;
    double ceiling = 0;
    size_t i;
    int result;

    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    result = read_workload(arguments.trace, &load);
    if (!result)
        result = simulate_all(&arguments, &load, results);
    if (!result)
        result =
            simulate(&load, "lru", UINT32_MAX, &ceiling); /* nothing leaves: the policy is no matter */
    if (!result && !cli_stop_signal() && arguments.common.json) {
        result = cli_print_json(json_pack("{s:O, s:f, s:I, s:I, s:I}", "results", results, "ceiling",
                                          ceiling, "distinct_blocks", (json_int_t)load.distinct,
                                          "requests", (json_int_t)load.request_count, "blocks",
                                          (json_int_t)load.id_count));
    } else if (!result && !cli_stop_signal()) {
        printf("%zu requests, %zu blocks, %zu distinct\n\n%-10s %12s %9s %10s\n", load.request_count,
               load.id_count, load.distinct, "policy", "blocks", "distinct", "hit ratio");
        json_array_foreach(results, i, row) print_row(row, &load);
        printf("%-10s %12s %9s %10.4f\n", "unlimited", "", "", ceiling);
    }
    json_decref(results);
    free(load.ids);
    free(load.ends);
    return result;
}
