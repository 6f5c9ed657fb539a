/* SPDX-License-Identifier: MIT */
/* `cascade bench`: options, the temporary store, memory, and the table of results. */
#include "bench_file.h"

#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MATCH_KEY_BYTES 1024u /* room in dram for a key's entry, generously */
#define DRAM_SLACK      (UINT64_C(64) << 20)
#define WORKING_SET_MAX (UINT64_C(2) << 30)

static const char *const all_ops[] = {"put",           "get",     "view", "match", "digest",
                                      "put_sustained", "persist", "cold", "files", "open"};
#define OP_COUNT     (sizeof all_ops / sizeof all_ops[0])
#define OP_MATCH     3u
#define OP_SUSTAINED 5u /* from here on they write gigabytes: only when asked for */
#define OP_PERSIST   6u
#define OP_COLD      7u
#define OP_FILES     8u
#define OP_OPEN      9u
#define SIZE_DEFAULT (UINT64_C(2) << 30)
#define RUNS_DEFAULT 3u

typedef struct bench_arguments {
    cli_common common;
    bool has_store; /* -s was given: CASCADE_DIR alone does not make bench write to a store */
    uint64_t block_bytes;
    uint64_t blocks;
    unsigned threads;
    uint64_t match_keys;
    uint64_t size_bytes; /* persist, cold, files: of one pass */
    unsigned runs;
    const char *key_file;
    bool ops[OP_COUNT];
    bool some_ops;
} bench_arguments;

enum {
    BENCH_BLOCK_BYTES = 0x2000,
    BENCH_BLOCKS,
    BENCH_THREADS,
    BENCH_OPS,
    BENCH_MATCH_KEYS,
    BENCH_SIZE,
    BENCH_FILE_RUNS,
    BENCH_KEY_FILE
};

static void parse_ops(bench_arguments *arguments, char *text, struct argp_state *state)
{
    char *rest = text, *item;

    while ((item = strsep(&rest, ","))) {
        size_t i = 0;

        while (i < OP_COUNT && strcmp(item, all_ops[i]) != 0)
            i++;
        if (i == OP_COUNT)
            argp_error(state,
                       "--ops: '%.40s' is not one of put, get, view, match, digest, put_sustained, "
                       "persist, cold, files, open",
                       item);
        else
            arguments->ops[i] = arguments->some_ops = true;
    }
}

static error_t parse_bench(int key, char *argument, struct argp_state *state)
{
    bench_arguments *arguments = state->input;

    switch (key) {
    case 's':
        arguments->common.directory = argument;
        arguments->has_store = true;
        return 0;
    case BENCH_BLOCK_BYTES:
        arguments->block_bytes = cli_size_argument("--block-bytes", argument, state);
        if (arguments->block_bytes < 2 || arguments->block_bytes > CASCADE_BLOCK_BYTES_MAX)
            argp_error(state, "--block-bytes: 2 bytes to 1TiB");
        return 0;
    case BENCH_BLOCKS:
        arguments->blocks = cli_count_argument("--blocks", argument, 1, UINT32_MAX, state);
        return 0;
    case BENCH_THREADS:
        arguments->threads = (unsigned)cli_count_argument("--threads", argument, 1, 1024, state);
        return 0;
    case BENCH_MATCH_KEYS:
        arguments->match_keys =
            cli_count_argument("--match-keys", argument, BENCH_CHAIN, 100000000, state);
        return 0;
    case BENCH_OPS:
        parse_ops(arguments, argument, state);
        return 0;
    case BENCH_SIZE:
        arguments->size_bytes = cli_size_argument("--size", argument, state);
        if (arguments->size_bytes < BENCH_FILE_SIZE_LEAST || arguments->size_bytes > UINT64_C(1) << 44)
            argp_error(state, "--size: 16MiB to 16TiB");
        return 0;
    case BENCH_FILE_RUNS:
        arguments->runs =
            (unsigned)cli_count_argument("--runs", argument, 1, BENCH_FILE_RUNS_MAX, state);
        return 0;
    case BENCH_KEY_FILE:
        arguments->key_file = argument;
        return 0;
    default:
        return cli_parse_rest(key, argument, state, &arguments->common);
    }
}

/* ---- the machine ------------------------------------------------------------------------- */

static uint64_t last_level_cache_bytes(void)
{
    long bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);

    if (bytes <= 0)
        bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
    return bytes > 0 ? (uint64_t)bytes : UINT64_C(32) << 20;
}

static uint64_t working_set_wanted(void)
{
    uint64_t bytes = 4 * last_level_cache_bytes();

    return bytes < WORKING_SET_MAX ? bytes : WORKING_SET_MAX;
}

static uint64_t available_bytes(void)
{
    FILE *file = fopen("/proc/meminfo", "r");
    uint64_t kib = UINT64_MAX / 1024;
    char line[128];

    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1)
            break;
    if (file)
        fclose(file);
    return kib * 1024;
}

/* The bytes of a mapping that lie on huge pages. */
static uint64_t huge_bytes(const void *at, uint64_t bytes)
{
    FILE *file = fopen("/proc/self/smaps", "r");
    uint64_t from, to, kib, huge = 0;
    bool inside = false;
    char line[256];

    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &from, &to) == 2)
            inside = from < (uintptr_t)at + bytes && to > (uintptr_t)at;
        else if (inside && sscanf(line, "AnonHugePages: %" SCNu64, &kib) == 1)
            huge += kib * 1024;
    }
    if (file)
        fclose(file);
    return huge;
}

static uint8_t *map_warm(uint64_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        return NULL;
    memset(memory, 1, bytes);
    return memory;
}

static const char *temporary_folder(void)
{
    const char *folder = getenv("TMPDIR");

    return folder && *folder ? folder : "/tmp";
}

/* ---- the store --------------------------------------------------------------------------- */

int bench_remove_entry(const char *path, const struct stat *info, int kind, struct FTW *walk)
{
    (void)info;
    (void)kind;
    (void)walk;
    remove(path);
    return 0;
}

/* Makes the temporary store; `directory` is a template for mkdtemp. */
static int make_store(const bench_arguments *arguments, uint64_t dram_bytes, char *directory, bench *b)
{
    cascade_options options = {.struct_bytes = sizeof options,
                               .directory = directory,
                               .dram_bytes = dram_bytes,
                               .open_flags = CASCADE_OPEN_CREATE};
    int code;

    if (arguments->has_store)
        return cli_open(&arguments->common, 0, &b->store);
    if (!mkdtemp(directory)) {
        cli_say("cannot make a temporary directory '%s': %s", directory, strerror(errno));
        directory[0] = '\0';
        return CLI_FILE;
    }
    code = cascade_store_open(&options, &b->store);
    return code ? cli_fail(code, "cannot make a temporary store in '%s'", directory) : CLI_OK;
}

void bench_wait_for_prefault(cascade_store *store)
{
    cascade_stats stats = {.struct_bytes = sizeof stats};
    uint64_t last = 0, changed_ns = cli_now_ns();

    while (!bench_stopped() && cascade_store_stats(store, &stats) == 0 &&
           stats.arena_ready_bytes < stats.tiers[CASCADE_TIER_DRAM].capacity_bytes &&
           cli_now_ns() - changed_ns < UINT64_C(2000000000)) {
        if (stats.arena_ready_bytes != last)
            changed_ns = cli_now_ns();
        last = stats.arena_ready_bytes;
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
}

static int check_capacity(bench *b, const bench_arguments *arguments)
{
    cascade_stats stats = {.struct_bytes = sizeof stats};
    uint64_t capacity, bytes = b->block_bytes * b->blocks;
    int code = cascade_store_stats(b->store, &stats);

    if (code)
        return cli_fail(code, "cannot read the counters");
    capacity = stats.tiers[CASCADE_TIER_DRAM].capacity_bytes;
    if (!arguments->has_store || bytes <= capacity / 2)
        return CLI_OK;
    cli_say("%zu blocks are %s, over half of the store's dram of %s; use fewer --blocks", b->blocks,
            cli_size_text(bytes), cli_size_text(capacity));
    return CLI_USAGE;
}

/* ---- results ----------------------------------------------------------------------------- */

static json_t *rate(bool valid, double value)
{
    return valid ? json_real(value) : json_null();
}

static json_t *result_json(const bench *b, const bench_result *result)
{
    const char *beside = result->beside ? result->beside : "";
    bool rated = result->beside;

    return json_pack("{s:s, s:I, s:i, s:o, s:o, s:o, s:o, s:o, s:f, s:f, s:o, s:o}", "op", result->op,
                     "block_bytes", (json_int_t)b->block_bytes, "threads", (int)result->threads, "gbps",
                     rate(rated, result->gbps), "memcpy_gbps",
                     rate(strcmp(beside, "memcpy") == 0, result->yardstick_gbps), "openssl_gbps",
                     rate(strcmp(beside, "openssl") == 0, result->yardstick_gbps), "limit_gbps",
                     rate(strcmp(beside, "limit") == 0, result->yardstick_gbps), "ratio",
                     rate(rated, rated ? result->gbps / result->yardstick_gbps : 0), "p50_us",
                     result->p50_us, "p99_us", result->p99_us, "gbps_min", rate(rated, result->gbps_min),
                     "gbps_max", rate(rated, result->gbps_max));
}

static void print_result(const bench *b, const bench_result *result)
{
    if (result->beside)
        printf("%-13s %9s %8u %8.2f %8.2f %-8s %6.2f %11.2f %11.2f\n", result->op,
               cli_size_text(b->block_bytes), result->threads, result->gbps, result->yardstick_gbps,
               result->beside, result->gbps / result->yardstick_gbps, result->p50_us, result->p99_us);
    else
        printf("%-13s %9s %8u %8s %8s %-8s %6s %11.2f %11.2f\n", result->op,
               cli_size_text(b->block_bytes), result->threads, "-", "-", "-", "-", result->p50_us,
               result->p99_us);
}

static const char *page_kind(const bench *b)
{
    uint64_t bytes = b->block_bytes * b->blocks;

    return huge_bytes(b->caller, bytes) + huge_bytes(b->plain, bytes) > bytes ? "transparent huge"
                                                                              : "4 KiB";
}

static int print_results(const bench_arguments *arguments, const bench *b, const bench_result *results,
                         size_t count)
{
    uint64_t bytes = b->block_bytes * b->blocks, cache = last_level_cache_bytes();
    bool enough = bytes >= working_set_wanted();
    json_t *list;

    if (!enough)
        cli_say("the working set of %s is under four last-level caches: figures flatter; use at least "
                "--blocks %" PRIu64,
                cli_size_text(bytes), (working_set_wanted() + b->block_bytes - 1) / b->block_bytes);
    if (!arguments->common.json) {
        printf("%zu blocks, working set %s (last-level cache %s), buffers on %s pages, medians of %d "
               "runs\n\n",
               b->blocks, cli_size_text(bytes), cli_size_text(cache), page_kind(b), BENCH_RUNS);
        printf("%-13s %9s %8s %8s %8s %-8s %6s %11s %11s\n", "op", "block", "threads", "GB/s", "GB/s",
               "beside", "ratio", "p50 us", "p99 us");
        for (size_t i = 0; i < count; i++)
            print_result(b, &results[i]);
        return CLI_OK;
    }
    list = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, result_json(b, &results[i]));
    return cli_print_json(json_pack("{s:o, s:s, s:I, s:i, s:I, s:I, s:I, s:b, s:s, s:I}", "results",
                                    list, "version", cascade_version(), "seed", (json_int_t)BENCH_SEED,
                                    "runs", BENCH_RUNS, "blocks", (json_int_t)b->blocks,
                                    "working_set_bytes", (json_int_t)bytes, "last_level_cache_bytes",
                                    (json_int_t)cache, "working_set_is_enough", enough, "buffer_pages",
                                    page_kind(b), "match_keys", (json_int_t)b->match_key_count));
}

/* ---- the command ------------------------------------------------------------------------- */

static int measure_all(const bench_arguments *arguments, bench *b, const char *folder)
{
    bench_result results[OP_COUNT];
    size_t count = 0;
    int result = check_capacity(b, arguments);

    if (!result)
        bench_wait_for_prefault(b->store);
    for (size_t i = 0; i < OP_COUNT && !result && !bench_stopped(); i++)
        if (i == OP_SUSTAINED && arguments->ops[i])
            result = bench_sustained(b, folder, &results[count++]);
        else if (i < OP_SUSTAINED && (arguments->ops[i] || !arguments->some_ops))
            result = bench_measure(b, all_ops[i], &results[count++]);
    if (!result && !bench_stopped())
        result = print_results(arguments, b, results, count);
    return result;
}

/* What the bench has put goes again, also after an interrupt, so that closing need not flush it. */
static void clean_store(const bench_arguments *arguments, bench *b)
{
    if (b->filled)
        for (size_t i = 0; i < b->blocks; i++)
            cascade_block_delete(b->store, &b->keys[i]);
    for (size_t i = 0; b->match_keys && arguments->has_store && i < b->match_key_count; i++)
        cascade_block_delete(b->store, &b->match_keys[i]);
}

static int allocate(bench *b, uint64_t dram_bytes)
{
    uint64_t bytes = b->block_bytes * b->blocks, needed = 2 * bytes + dram_bytes;

    if (needed > available_bytes() / 10 * 9) {
        cli_say("%zu blocks of %s need %s (buffers, and twice as much dram), %s are free; use fewer "
                "--blocks",
                b->blocks, cli_size_text(b->block_bytes), cli_size_text(needed),
                cli_size_text(available_bytes()));
        return CLI_USAGE;
    }
    b->caller = map_warm(bytes);
    b->plain = map_warm(bytes);
    b->order = calloc(b->blocks, sizeof *b->order);
    b->keys = calloc(b->blocks, sizeof *b->keys);
    if (!b->caller || !b->plain || !b->order || !b->keys) {
        cli_say("no memory for %s", cli_size_text(2 * bytes));
        return CLI_STORE;
    }
    for (size_t i = 0; i < b->blocks; i++)
        b->order[i] = (uint32_t)i;
    return CLI_OK;
}

static int run_bench(const bench_arguments *arguments, bench *b)
{
    const char *folder = temporary_folder();
    uint64_t dram_bytes = DRAM_SLACK + b->match_key_count * MATCH_KEY_BYTES;
    char directory[4096];
    uint64_t bytes;
    int result;

    if (__builtin_mul_overflow(b->block_bytes, b->blocks, &bytes) || bytes > INT64_MAX / 8) {
        cli_say("%zu blocks of that size are more than any machine has; use fewer --blocks", b->blocks);
        return CLI_USAGE;
    }
    /* Twice the blocks, so that a burst fills half; and an eighth for what does not divide evenly. */
    dram_bytes += 2 * bytes + bytes / 4;
    snprintf(directory, sizeof directory, "%s/cascade-bench-XXXXXX", folder);
    result = allocate(b, arguments->has_store ? 0 : dram_bytes);
    if (!result) {
        result = make_store(arguments, dram_bytes, directory, b);
        if (!result) {
            result = measure_all(arguments, b, folder);
            clean_store(arguments, b);
            result = cli_close(&b->store, result);
        }
        if (!arguments->has_store && directory[0])
            nftw(directory, bench_remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    }
    return result;
}

#define OPEN_BLOCKS      UINT64_C(100000)
#define OPEN_BLOCK_BYTES UINT64_C(4096)

static int measure_open(const bench_arguments *arguments)
{
    uint64_t blocks = arguments->blocks ? arguments->blocks : OPEN_BLOCKS;
    uint64_t bytes = arguments->block_bytes ? arguments->block_bytes : OPEN_BLOCK_BYTES;

    for (size_t i = 0; i < OP_OPEN; i++)
        if (arguments->ops[i] || arguments->has_store) {
            cli_say("open goes without other ops and without -s");
            return CLI_USAGE;
        }
    if (bytes < BENCH_OPEN_BYTES_LEAST || bytes > BENCH_OPEN_BYTES_MOST) {
        cli_say("open: --block-bytes is 16 bytes to 16MiB");
        return CLI_USAGE;
    }
    return bench_open(temporary_folder(), blocks, bytes, arguments->runs, arguments->common.json);
}

/* These make stores and buffers of their own, and their figures have other yardsticks. */
static int measure_files(const bench_arguments *arguments)
{
    bench_file_facts facts = {0};
    bench_file_options options = {.persist = arguments->ops[OP_PERSIST],
                                  .cold = arguments->ops[OP_COLD],
                                  .files = arguments->ops[OP_FILES],
                                  .size_bytes = arguments->size_bytes,
                                  .folder = temporary_folder(),
                                  .key_file = arguments->key_file,
                                  .facts = &facts};

    for (size_t i = 0; i < OP_PERSIST; i++)
        if (arguments->ops[i] || arguments->ops[OP_OPEN] || arguments->has_store) {
            cli_say("persist, cold and files go without other ops and without -s");
            return CLI_USAGE;
        }
    return bench_file_report(&options, arguments->runs, arguments->common.json);
}

int cli_bench(int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"store", 's', "DIR", 0, "Use this store instead of a temporary one under TMPDIR", 0},
        {"block-bytes", BENCH_BLOCK_BYTES, "SIZE", 0, "Bytes of a block (1MiB; open: 4KiB)", 0},
        {"blocks", BENCH_BLOCKS, "N", 0,
         "Blocks (as many as four last-level caches hold, at least 16; open: 100000)", 0},
        {"threads", BENCH_THREADS, "N", 0, "Threads that put and get (1)", 0},
        {"ops", BENCH_OPS, "OP[,OP...]", 0,
         "put, get, view, match, digest (all of these); or put_sustained; or, by themselves, persist, "
         "cold, files; or open",
         0},
        {"size", BENCH_SIZE, "SIZE", 0, "Bytes of a pass of persist and cold (2GiB)", 0},
        {"runs", BENCH_FILE_RUNS, "N", 0, "Runs of persist, cold, files and open (3)", 0},
        {"key-file", BENCH_KEY_FILE, "FILE", 0, "Encrypt files in persist, cold and files", 0},
        {"match-keys", BENCH_MATCH_KEYS, "N", 0, "Keys in the store when matching 256 of them (100000)",
         0},
        {0},
    };
    static const struct argp_child children[] = {{&cli_json_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {options,
                                     parse_bench,
                                     NULL,
                                     "Measures put, get, view, match and digest, and in the same run "
                                     "memcpy (for digest: OpenSSL) over the "
                                     "same buffers.",
                                     children,
                                     NULL,
                                     NULL};
    bench_arguments arguments = {
        .threads = 1, .match_keys = 100000, .size_bytes = SIZE_DEFAULT, .runs = RUNS_DEFAULT};
    bench b;
    int result;

    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    if (arguments.ops[OP_PERSIST] || arguments.ops[OP_COLD] || arguments.ops[OP_FILES])
        return measure_files(&arguments);
    if (arguments.ops[OP_OPEN])
        return measure_open(&arguments);
    if (arguments.block_bytes == 0)
        arguments.block_bytes = 1 << 20;
    if (arguments.blocks == 0) {
        arguments.blocks = (working_set_wanted() + arguments.block_bytes - 1) / arguments.block_bytes;
        if (arguments.blocks < BENCH_BATCH)
            arguments.blocks = BENCH_BATCH;
        if (arguments.blocks > UINT32_MAX)
            arguments.blocks = UINT32_MAX;
    }
    b = (bench){.block_bytes = arguments.block_bytes,
                .blocks = arguments.blocks,
                .threads = arguments.threads,
                .match_key_count = arguments.match_keys / BENCH_CHAIN * BENCH_CHAIN,
                .random = BENCH_SEED};
    if (arguments.some_ops && !arguments.ops[OP_MATCH])
        b.match_key_count = 0;
    result = run_bench(&arguments, &b);
    free(b.match_keys);
    free(b.keys);
    free(b.order);
    if (b.caller)
        munmap(b.caller, b.block_bytes * b.blocks);
    if (b.plain)
        munmap(b.plain, b.block_bytes * b.blocks);
    return result;
}
