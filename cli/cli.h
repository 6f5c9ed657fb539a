/* SPDX-License-Identifier: MIT */
/*
 * What the commands share: exit codes, the options of every command, opening and closing a store with
 * messages that say what to do, and output. A command is one function that gets its own arguments
 * (argv[0] is "cascade NAME") and returns an exit code. Sees include/cascade/ alone.
 */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <argp.h>
#include <cascade/cascade.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* Part of the interface; documented in cascade.1. A signal gives 128 plus its number. */
enum {
    CLI_OK = 0,
    CLI_NEGATIVE = 1, /* not found, nothing matched, damage found, blocks lost */
    CLI_USAGE = 2,
    CLI_STORE = 3,   /* the store or the library failed */
    CLI_BUSY = 4,    /* another process owns the store */
    CLI_FILE = 5,    /* a file named on the command line cannot be read, written or understood */
    CLI_DEGRADED = 6 /* the file tier refuses writes (disk full or failing) or is slow */
};

int cli_init(int argc, char **argv);
int cli_put(int argc, char **argv);
int cli_get(int argc, char **argv);
int cli_match(int argc, char **argv);
int cli_ls(int argc, char **argv);
int cli_stat(int argc, char **argv);
int cli_delete(int argc, char **argv);
int cli_flush(int argc, char **argv);
int cli_verify(int argc, char **argv);
int cli_scrub(int argc, char **argv);
int cli_gc(int argc, char **argv);
int cli_serve(int argc, char **argv);
int cli_replay(int argc, char **argv);
int cli_simulate(int argc, char **argv);
int cli_bench(int argc, char **argv);

/** The name of the running command, "cascade put", for messages. Set by main. */
extern const char *cli_name;

/** Options of every command; the argp children below fill it. */
typedef struct cli_common {
    const char *directory; /* -s, else CASCADE_DIR, else NULL */
    bool json;
} cli_common;

/** Children for a command's argp: `-s DIR` and `--json`, or `--json` alone. Their input is a cli_common.
 */
extern const struct argp cli_store_argp;
extern const struct argp cli_json_argp;

/** What a command's parser does with every key that is not its own: gives `common` to the first of its
 * children, and takes no arguments. */
error_t cli_parse_rest(int key, const char *argument, struct argp_state *state, cli_common *common);

/** Parses the arguments of a command that has none of its own. */
cli_common cli_plain_arguments(const char *documentation, int argc, char **argv);

/** Parses an option's value, or ends the program with a usage error. */
uint64_t cli_size_argument(const char *name, const char *text, struct argp_state *state);
uint64_t cli_count_argument(const char *name, const char *text, uint64_t low, uint64_t high,
                            struct argp_state *state);
cascade_key cli_key_argument(const char *name, const char *text, struct argp_state *state);

/** A block's name on the command line: 32 hex digits are an id, 64 a key. */
typedef struct cli_block_name {
    const char *text;
    bool is_id;
    cascade_id id;
    cascade_key key;
} cli_block_name;
cli_block_name cli_block_name_argument(const char *text, struct argp_state *state);

/** Prints "cascade put: WHAT" on standard error. */
void cli_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/** The exit code for a library code; none is 0 but for CASCADE_OK. */
int cli_exit_code(int code);

/** Prints what failed, the library's detail and what to do about it; returns the exit code. */
int cli_fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/** As cli_fail, for what had to reach the disk: CLI_DEGRADED if the disk is why it did not. */
int cli_fail_to_keep(int code, const char *what);

/** Opens the store of `common`; on failure prints why. `open_flags` as in cascade_options. */
int cli_open(const cli_common *common, uint32_t open_flags, cascade_store **store);

/** Closes the store, which flushes it. Returns `result`, or what is worse: a failed close. */
int cli_close(cascade_store **store, int result);

/** The signal (SIGINT, SIGTERM, SIGHUP) that asked for an end, or 0. Long loops look at it; main turns
 * it into the exit code. */
int cli_stop_signal(void);

/** Prints a JSON value and a newline; takes the reference. NULL (out of memory) is an error. */
int cli_print_json(json_t *value);

/** Reads a whole file ("-": standard input); the caller frees `*data`. */
int cli_read_file(const char *path, void **data, size_t *bytes);
/** Writes a whole file ("-": standard output). */
int cli_write_file(const char *path, const void *data, size_t bytes);

uint64_t cli_now_ns(void);

/** "1.5 GiB" in a static buffer of the calling thread (four calls deep). */
const char *cli_size_text(uint64_t bytes);

/** The whole of the stats as JSON; field names as in cascade_stats. */
json_t *cli_stats_json(const cascade_stats *stats);
/** File bytes per live one; 0 without any. */
double cli_amplification(const cascade_stats *stats);
/** All metadata operations since open per GiB written since; 0 if nothing was. */
double cli_metadata_per_gib(const cascade_stats *stats);
/** The latency in ns below which the share `quantile` of operations lies: exact to its bucket, and
 * interpolated inside. 0 without operations. */
double cli_histogram_ns(const cascade_histogram *histogram, double quantile);

#endif
