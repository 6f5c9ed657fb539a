/* SPDX-License-Identifier: MIT */
/* The commands that read everything and check it: verify, at full speed, and scrub, at a rate. */
#include "cli.h"
#include "progress.h"

#include <inttypes.h>
#include <stdio.h>

typedef struct scrub_arguments {
    cli_common common;
    cascade_scrub_options options;
} scrub_arguments;

enum { SCRUB_RATE = 0x2000, SCRUB_FIX };

static error_t parse_scrub(int key, char *argument, struct argp_state *state)
{
    scrub_arguments *arguments = state->input;

    switch (key) {
    case SCRUB_RATE:
        arguments->options.rate_bytes = cli_size_argument("--rate", argument, state);
        return 0;
    case SCRUB_FIX:
        arguments->options.fix = true;
        return 0;
    default:
        return cli_parse_rest(key, argument, state, &arguments->common);
    }
}

static int show(void *context, uint64_t done_bytes, uint64_t total_bytes)
{
    char detail[80];

    snprintf(detail, sizeof detail, "%s of %s", cli_size_text(done_bytes), cli_size_text(total_bytes));
    progress_update(context, done_bytes, total_bytes, detail);
    return cli_stop_signal() != 0;
}

static json_t *report_json(const cascade_verify_report *report, uint64_t damaged)
{
    json_t *blocks = json_object(), *bad = json_object();

    for (unsigned i = 0; i < CASCADE_TIER_COUNT; i++) {
        json_object_set_new(blocks, cascade_tier_name(i), json_integer((json_int_t)report->blocks[i]));
        json_object_set_new(bad, cascade_tier_name(i), json_integer((json_int_t)report->damaged[i]));
    }
    return json_pack("{s:b, s:o, s:o, s:I}", "ok", damaged == 0, "blocks", blocks, "damaged", bad,
                     "bytes", (json_int_t)report->bytes);
}

static void print_report(const cascade_verify_report *report, uint64_t damaged)
{
    for (unsigned i = 0; i < CASCADE_TIER_COUNT; i++)
        printf("%-6s %" PRIu64 " blocks right, %" PRIu64 " damaged\n", cascade_tier_name(i),
               report->blocks[i], report->damaged[i]);
    printf("%s read\n", cli_size_text(report->bytes));
    if (damaged)
        cli_say("damaged blocks are misses now: put them again; a segment file that cannot be read is "
                "named by a warning above, and stays as it is");
}

static int run(const scrub_arguments *arguments, const char *verb)
{
    cascade_verify_report report = {0};
    uint64_t damaged = 0;
    cascade_store *store;
    int result = cli_open(&arguments->common, CASCADE_OPEN_NO_PREFAULT, &store);
    progress bar;
    int code;

    if (result)
        return result;
    progress_start(&bar, verb);
    code = cascade_store_scrub(store, &arguments->options, &report, show, &bar);
    progress_end(&bar);
    for (unsigned i = 0; i < CASCADE_TIER_COUNT; i++)
        damaged += report.damaged[i];
    if (code && code != CASCADE_ECORRUPT) {
        if (!cli_stop_signal())
            result = cli_fail(code, "cannot %s all of it", verb);
    } else {
        if (arguments->common.json)
            result = cli_print_json(report_json(&report, damaged));
        else
            print_report(&report, damaged);
        if (code && !result)
            result = CLI_NEGATIVE;
    }
    return cli_close(&store, result);
}

static const struct argp_child children[] = {{&cli_store_argp, 0, NULL, 0}, {0}};

int cli_verify(int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"fix", SCRUB_FIX, NULL, 0,
         "Write anew what lies in segments without a good index, and remove them", 0},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_scrub,
        .doc = "Reads every block in every tier and checks its SHA-256. Damaged blocks are quarantined.",
        .children = children};
    scrub_arguments arguments = {.options = {.struct_bytes = sizeof arguments.options}};

    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    return run(&arguments, "verify");
}

int cli_scrub(int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"rate", SCRUB_RATE, "SIZE", 0, "Read this many bytes a second at most (256MiB; 0: no limit)",
         0},
        {"fix", SCRUB_FIX, NULL, 0,
         "Write anew what lies in segments without a good index, and remove them", 0},
        {0},
    };
    static const struct argp argp = {.options = options,
                                     .parser = parse_scrub,
                                     .doc = "Does what verify does, slowly: beside work that must not "
                                            "suffer from it.",
                                     .children = children};
    scrub_arguments arguments = {
        .options = {.struct_bytes = sizeof arguments.options, .rate_bytes = UINT64_C(256) << 20}};

    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    return run(&arguments, "scrub");
}
