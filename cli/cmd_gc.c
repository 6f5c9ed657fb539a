/* SPDX-License-Identifier: MIT */
/* gc: gives back the space of what was deleted, dropped or is too old; or says how much that would be.
 */
#include "cli.h"
#include "progress.h"

#include <inttypes.h>
#include <stdio.h>

typedef struct gc_arguments {
    cli_common common;
    bool dry_run;
} gc_arguments;

enum { GC_DRY_RUN = 0x2000 };

static error_t parse_gc(int key, char *argument, struct argp_state *state)
{
    gc_arguments *arguments = state->input;

    switch (key) {
    case GC_DRY_RUN:
        arguments->dry_run = true;
        return 0;
    default:
        return cli_parse_rest(key, argument, state, &arguments->common);
    }
}

static int show(void *context, uint64_t done_bytes, uint64_t total_bytes)
{
    char detail[80];

    snprintf(detail, sizeof detail, "%s moved", cli_size_text(done_bytes));
    progress_update(context, done_bytes, total_bytes, detail);
    return cli_stop_signal() != 0;
}

static json_t *report_json(const cascade_gc_report *report, bool dry_run)
{
    return json_pack("{s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "dry_run", dry_run, "segments",
                     (json_int_t)report->segments, "file_bytes", (json_int_t)report->file_bytes,
                     "live_bytes", (json_int_t)report->live_bytes, "moved_segments",
                     (json_int_t)report->moved_segments, "moved_bytes", (json_int_t)report->moved_bytes,
                     "freed_bytes", (json_int_t)report->freed_bytes, "dropped_blocks",
                     (json_int_t)report->dropped_blocks, "dropped_bytes",
                     (json_int_t)report->dropped_bytes);
}

static void print_report(const cascade_gc_report *report, bool dry_run)
{
    printf("%" PRIu64 " sealed segments; files take %s", report->segments,
           cli_size_text(report->file_bytes));
    printf(", of which %s are in use\n", cli_size_text(report->live_bytes));
    printf("%s %" PRIu64 " segments, ", dry_run ? "would empty" : "emptied", report->moved_segments);
    printf("moving %s", cli_size_text(report->moved_bytes));
    printf(" and freeing %s\n", cli_size_text(report->freed_bytes));
    printf("%s %" PRIu64 " blocks that are too old (%s)\n", dry_run ? "would drop" : "dropped",
           report->dropped_blocks, cli_size_text(report->dropped_bytes));
}

int cli_gc(int argc, char **argv)
{
    static const struct argp_child children[] = {{&cli_store_argp, 0, NULL, 0}, {0}};
    static const struct argp_option options[] = {
        {"dry-run", GC_DRY_RUN, NULL, 0, "Only say what would go", 0},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_gc,
        .doc = "Drops blocks that are older than CASCADE_FILE_AGE, and empties segment files that are "
               "partly dead: what lives in them is written again, then they go.",
        .children = children};
    gc_arguments arguments = {0};
    cascade_gc_report report = {0};
    cascade_store *store;
    progress bar;
    int code, result;

    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    result = cli_open(&arguments.common, CASCADE_OPEN_NO_PREFAULT, &store);
    if (result)
        return result;
    progress_start(&bar, "gc");
    code = cascade_store_gc(store, arguments.dry_run, &report, show, &bar);
    progress_end(&bar);
    if (code && !cli_stop_signal())
        result = cli_fail(code, "cannot give back all of the space");
    else if (arguments.common.json)
        result = cli_print_json(report_json(&report, arguments.dry_run));
    else
        print_report(&report, arguments.dry_run);
    return cli_close(&store, result);
}
