/* SPDX-License-Identifier: MIT */
/* What the commands share; see cli.h. */
#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- options ----------------------------------------------------------------------------- */

enum { OPTION_JSON = 0x1000 };

static error_t parse_common(int key, char *argument, struct argp_state *state)
{
    cli_common *common = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        common->directory = getenv("CASCADE_DIR");
        return 0;
    case 's':
        common->directory = argument;
        return 0;
    case OPTION_JSON:
        common->json = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option store_options[] = {
    {"store", 's', "DIR", 0, "The store's directory (else: CASCADE_DIR)", 0},
    {"json", OPTION_JSON, NULL, 0, "Print JSON", 0},
    {0},
};
const struct argp cli_store_argp = {.options = store_options, .parser = parse_common};

static const struct argp_option json_options[] = {
    {"json", OPTION_JSON, NULL, 0, "Print JSON", 0},
    {0},
};
const struct argp cli_json_argp = {.options = json_options, .parser = parse_common};

error_t cli_parse_rest(int key, const char *argument, struct argp_state *state, cli_common *common)
{
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = common;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", argument);
        return EINVAL;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_plain(int key, char *argument, struct argp_state *state)
{
    return cli_parse_rest(key, argument, state, state->input);
}

cli_common cli_plain_arguments(const char *documentation, int argc, char **argv)
{
    static const struct argp_child children[] = {{&cli_store_argp, 0, NULL, 0}, {0}};
    const struct argp argp = {.parser = parse_plain, .doc = documentation, .children = children};
    cli_common common = {0};

    argp_parse(&argp, argc, argv, 0, NULL, &common);
    return common;
}

uint64_t cli_size_argument(const char *name, const char *text, struct argp_state *state)
{
    uint64_t bytes = 0;

    if (cascade_size_parse(text, &bytes))
        argp_error(state, "%s: %s", name, cascade_last_error());
    return bytes;
}

uint64_t cli_count_argument(const char *name, const char *text, uint64_t low, uint64_t high,
                            struct argp_state *state)
{
    char *end;
    unsigned long long value;

    errno = 0;
    value = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || value < low || value > high)
        argp_error(state, "%s: '%.40s' is not a number from %" PRIu64 " to %" PRIu64, name, text, low,
                   high);
    return value;
}

cascade_key cli_key_argument(const char *name, const char *text, struct argp_state *state)
{
    cascade_key key = {{0}};

    if (cascade_key_parse(text, &key))
        argp_error(state, "%s: %s", name, cascade_last_error());
    return key;
}

cli_block_name cli_block_name_argument(const char *text, struct argp_state *state)
{
    cli_block_name name = {.text = text, .is_id = strlen(text) == 2 * CASCADE_ID_BYTES};
    int status = name.is_id ? cascade_id_parse(text, &name.id) : cascade_key_parse(text, &name.key);

    if (status)
        argp_error(state, "'%.70s' is neither a key (64 hex digits) nor a block id (32): %s", text,
                   cascade_last_error());
    return name;
}

/* ---- messages ---------------------------------------------------------------------------- */

static void __attribute__((format(printf, 1, 0))) say(const char *format, va_list arguments)
{
    fprintf(stderr, "%s: ", cli_name);
    vfprintf(stderr, format, arguments);
}

void cli_say(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    say(format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

int cli_exit_code(int code)
{
    switch (code) {
    case CASCADE_OK:
        return CLI_OK;
    case CASCADE_MISS:
        return CLI_NEGATIVE;
    case CASCADE_EBUSY:
        return CLI_BUSY;
    default:
        return CLI_STORE;
    }
}

static const char *advice(int code)
{
    switch (code) {
    case CASCADE_ENOSTORE:
        return "make a store with `cascade init DIR --dram 4GiB', or name another with -s DIR";
    case CASCADE_EBUSY:
        return "a store has one owner at a time: wait for that process to end, or stop it";
    case CASCADE_EACCES:
        return "check the owner and the mode of the directory, of cascade.conf and of the arena in "
               "/dev/shm";
    case CASCADE_ENOSPC:
        return "make room in /dev/shm or on the file system, or raise the store's budgets; what is "
               "stored "
               "is safe";
    case CASCADE_EFORMAT:
        return "the directory belongs to another program or to a newer version of Cascade; nothing was "
               "changed";
    case CASCADE_ECORRUPT:
        return "nothing was changed; mend the named file or take it from a copy";
    case CASCADE_EEXIST:
        return "use the store that is there, or give another directory";
    case CASCADE_ETOOBIG:
        return "raise that budget in the store's cascade.conf (or CASCADE_DRAM, CASCADE_FILE_BUDGET)";
    case CASCADE_EAGAIN:
    case CASCADE_ETIMEDOUT:
        return "try again; if it stays so, look at the disk's load with `cascade stat'";
    case CASCADE_ENOMEM:
        return "free memory, or use a smaller block or batch";
    default:
        return NULL;
    }
}

int cli_fail(int code, const char *format, ...)
{
    const char *detail = cascade_last_error(), *hint = advice(code);
    va_list arguments;

    va_start(arguments, format);
    say(format, arguments);
    va_end(arguments);
    fprintf(stderr, ": %s (%s)\n", *detail ? detail : cascade_error_text(code),
            cascade_error_name(code));
    if (hint)
        fprintf(stderr, "%s: %s\n", cli_name, hint);
    return cli_exit_code(code);
}

int cli_fail_to_keep(int code, const char *what)
{
    int result = cli_fail(code, "%s", what);

    return code == CASCADE_ENOSPC || code == CASCADE_EIO ? CLI_DEGRADED : result;
}

/* ---- the store --------------------------------------------------------------------------- */

int cli_open(const cli_common *common, uint32_t open_flags, cascade_store **store)
{
    cascade_options options = {
        .struct_bytes = sizeof options,
        .directory = common->directory,
        .open_flags = open_flags,
    };
    int code;

    if (!common->directory) {
        cli_say("no store given; use -s DIR or set CASCADE_DIR");
        return CLI_USAGE;
    }
    code = cascade_store_open(&options, store);
    return code ? cli_fail(code, "cannot open the store in '%s'", common->directory) : CLI_OK;
}

int cli_close(cascade_store **store, int result)
{
    int code = cascade_store_close(store);

    if (code) {
        int failed = cli_fail_to_keep(code, "the store did not close cleanly");

        return result == CLI_OK || result == CLI_NEGATIVE ? failed : result;
    }
    return result;
}

/* ---- files and output -------------------------------------------------------------------- */

int cli_print_json(json_t *value)
{
    int failed;

    if (!value) {
        cli_say("no memory for the JSON output");
        return CLI_STORE;
    }
    failed = json_dumpf(value, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(10));
    json_decref(value);
    if (!failed)
        putchar('\n'); /* a failed write shows when main flushes */
    return CLI_OK;
}

static int file_trouble(const char *path, const char *verb, int err)
{
    cli_say("cannot %s '%s': %s", verb, path, strerror(err));
    return CLI_FILE;
}

int cli_read_file(const char *path, void **data, size_t *bytes)
{
    bool is_input = strcmp(path, "-") == 0;
    FILE *file = is_input ? stdin : fopen(path, "rb");
    uint8_t *buffer = NULL;
    size_t used = 0, room = 0;
    struct stat info;
    int result = CLI_OK;

    if (!file)
        return file_trouble(path, "open", errno);
    if (fstat(fileno(file), &info) == 0 && S_ISREG(info.st_mode))
        room = (size_t)info.st_size; /* plus one below: so that the end is seen without growing */
    do {
        uint8_t *larger = realloc(buffer, room + 1);

        if (!larger) {
            cli_say("no memory for the %zu bytes of '%s'", room, path);
            result = CLI_STORE;
            break;
        }
        buffer = larger;
        used += fread(buffer + used, 1, room + 1 - used, file);
        if (ferror(file)) {
            result = file_trouble(path, "read", errno);
            break;
        }
        room = used > room ? 2 * used + 65536 : room;
    } while (!feof(file));
    if (!is_input)
        fclose(file);
    if (result) {
        free(buffer);
        return result;
    }
    *data = buffer;
    *bytes = used;
    return CLI_OK;
}

int cli_write_file(const char *path, const void *data, size_t bytes)
{
    bool is_output = strcmp(path, "-") == 0;
    FILE *file = is_output ? stdout : fopen(path, "wb");
    int err = 0;

    if (!file)
        return file_trouble(path, "create", errno);
    if (fwrite(data, 1, bytes, file) != bytes || fflush(file))
        err = errno;
    if (!is_output && fclose(file) && !err)
        err = errno;
    return err ? file_trouble(path, "write all of", err) : CLI_OK;
}

uint64_t cli_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

const char *cli_size_text(uint64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    static _Thread_local char texts[4][32];
    static _Thread_local unsigned turn;
    char *text = texts[turn++ % 4];
    double value = (double)bytes;
    size_t unit = 0;

    for (; value >= 1024 && unit + 1 < sizeof units / sizeof units[0]; unit++)
        value /= 1024;
    if (value == (double)(uint64_t)value)
        snprintf(text, sizeof texts[0], "%.0f %s", value, units[unit]);
    else
        snprintf(text, sizeof texts[0], "%.2f %s", value, units[unit]);
    return text;
}
