/* SPDX-License-Identifier: MIT */
/*
 * A session: opens a store that holds sealed segments, one that a killed process left and one of another
 * rank; puts, gets, deletes, flushes, empties segments, starts others in their space, closes and opens
 * again. Background threads make two runs of a case differ a little.
 */
#include "fault_case.h"

#include "store/store_private.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define KEYS         64u
#define BLOCK_MAX    32768u
#define CASE_SECONDS 120u
#define HEAL_TRIES   500u

enum { OLD = 24, TORN = 4, FOREIGN = 4 }; /* blocks that are there: keys [0, 32) */
/* How far a key's life may have come: 0 not put, 1 put, 2 deleted. */
typedef struct key_life {
    int least, most, flushed;
} key_life;

static char base[256];
static fault_outcome *seen;
static const fault_case *now;
static key_life lives[KEYS];
static uint64_t dropped;
static uint8_t buffer[BLOCK_MAX], expected[BLOCK_MAX];

static void stop(const char *what)
{
    fprintf(stderr, "fault_sweep: %s: %s (%s)\n", what, strerror(errno), cascade_last_error());
    exit(2);
}

__attribute__((format(printf, 1, 2))) static void broken(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    if (!seen->broken[0])
        vsnprintf(seen->broken, sizeof seen->broken, format, arguments);
    va_end(arguments);
}

__attribute__((format(printf, 1, 2))) static void shell(const char *format, ...)
{
    char command[1200];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    if (system(command) != 0)
        stop(command);
}

static uint64_t random_next(uint64_t *state)
{
    uint64_t x = *state += UINT64_C(0x9e3779b97f4a7c15);

    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* ---- codes ---------------------------------------------------------------------------------------- */

#define BIT(name) (1u << -CASCADE_##name)

static const uint32_t open_may = BIT(EBUSY) | BIT(ENOSTORE) | BIT(EEXIST) | BIT(EACCES) | BIT(EFORMAT) |
                                 BIT(ECORRUPT) | BIT(ENOSPC) | BIT(EIO) | BIT(ENOMEM);
static const uint32_t flush_may = BIT(ENOSPC) | BIT(EIO);
static const uint32_t get_may = BIT(EIO) | BIT(EAGAIN) | BIT(ENOSLOT);
static const uint32_t view_may = BIT(EIO) | BIT(EAGAIN) | BIT(ENOSLOT) | BIT(ENOSPC);
static const uint32_t gc_may = BIT(ENOSPC) | BIT(EIO) | BIT(EAGAIN) | BIT(ETIMEDOUT);
static const uint32_t verify_may = BIT(ECORRUPT) | BIT(EIO) | BIT(ETIMEDOUT);

static int named(const char *call, int code, uint32_t may, uint32_t *codes)
{
    if (code >= 0)
        return code;
    if (!(may >> -code & 1))
        broken("%s returns %s: %s", call, cascade_error_name(code), cascade_last_error());
    *codes |= 1u << -code;
    return code;
}

/* ---- blocks --------------------------------------------------------------------------------------- */

/* Keys 40 and 41 have the content of 20 and 34. */
static uint64_t seed_of(unsigned key)
{
    return key == 40 ? 20 : key == 41 ? 34 : key;
}

static size_t block_of(unsigned key, uint8_t *to)
{
    uint64_t random = seed_of(key) + 1;
    size_t bytes = 3000 + (size_t)(random_next(&random) % (BLOCK_MAX - 3008));

    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t word = random_next(&random);

        memcpy(to + i, &word, sizeof word);
    }
    return bytes;
}

static cascade_key key_of(unsigned key)
{
    return (cascade_key){.bytes = {(uint8_t)(key + 1), 7}};
}

static int put_block(cascade_store *store, unsigned key, uint32_t flags)
{
    cascade_piece piece = {buffer, block_of(key, buffer)};
    cascade_put request = {.key = key_of(key), .block = {.k = &piece, .k_count = 1}};

    return cascade_block_put(store, &request, flags);
}

/* ---- the store ------------------------------------------------------------------------------------ */

static cascade_options options_of(uint64_t budget, uint32_t rank)
{
    static char directory[300], shm[300];

    snprintf(directory, sizeof directory, "%s/store", base);
    snprintf(shm, sizeof shm, "%s/shm", base);
    return (cascade_options){.struct_bytes = sizeof(cascade_options),
                             .directory = directory,
                             .shm_directory = shm,
                             .dram_bytes = 2 << 20,
                             .page_bytes = 4096,
                             .segment_bytes = 96 << 10,
                             .file_budget_bytes = budget,
                             .rank = rank,
                             .put_wait_ms = 5000,
                             .open_flags = CASCADE_OPEN_CREATE | CASCADE_OPEN_NO_PREFAULT};
}

static bool has_deadline(fault_operation operation)
{
    return operation == FAULT_OPEN || operation == FAULT_PREADV || operation == FAULT_RING_READ;
}

static cascade_options options_now(void)
{
    cascade_options options = options_of(now->seed % 2 ? 0 : 8 << 20, 0);

    if (now->kind == FAULT_LATE && !now->none && has_deadline(now->operation))
        options.io_deadline_ms = FAULT_DEADLINE_MS;
    return options;
}

static cascade_stats stats_of(cascade_store *store)
{
    cascade_stats stats = {.struct_bytes = sizeof stats};

    cascade_store_stats(store, &stats);
    return stats;
}

static void note_stats(cascade_store *store)
{
    cascade_stats stats = stats_of(store);

    seen->reread |= stats.file_rereads > 0;
    if (stats.lost)
        broken("%llu blocks are lost", (unsigned long long)stats.lost);
}

static void arm(void)
{
    if (!now->none)
        fault_arm(now->operation, now->kind, now->first, now->lasting);
}

/* Opens with the fault in; if that fails, without it, which then comes later. */
static cascade_store *open_store(bool later)
{
    cascade_options options = options_now();
    cascade_store *store = NULL;

    if (named("open", csc_store_open_with(&options, fault_table(now->ring, now->seed / 11 % 2), &store),
              open_may, &seen->open_codes) == 0)
        return store;
    fault_heal();
    if (csc_store_open_with(&options, fault_table(now->ring, now->seed / 11 % 2), &store) != 0) {
        broken("the store does not open after the fault: %s", cascade_last_error());
        _exit(0);
    }
    if (later)
        arm();
    return store;
}

static void close_store(cascade_store **store)
{
    int code;

    note_stats(*store);
    dropped += stats_of(*store).tiers[CASCADE_TIER_FILE].drops;
    code = named("close", cascade_store_close(store), flush_may, &seen->flush_codes);
    if (code == 0) {
        for (unsigned key = 0; key < KEYS; key++)
            lives[key].flushed = lives[key].least;
    } else if (now->lose_memory) {
        shell("rm -rf '%s/shm' && mkdir '%s/shm'", base, base);
        for (unsigned key = 0; key < KEYS; key++)
            lives[key].least = lives[key].flushed;
    }
}

static int flush(cascade_store *store)
{
    key_life before[KEYS];
    int code;

    memcpy(before, lives, sizeof before);
    code = named("flush", cascade_store_flush(store), flush_may, &seen->flush_codes);
    for (unsigned key = 0; key < KEYS && code == 0; key++)
        lives[key].flushed = before[key].least;
    note_stats(store);
    return code;
}

/* ---- the calls ------------------------------------------------------------------------------------ */

static void put(cascade_store *store, unsigned key, uint32_t flags)
{
    int code = put_block(store, key, flags);

    if (flags & CASCADE_PUT_DURABLE)
        named("durable put", code, BIT(EIO) | BIT(ENOSPC), &seen->flush_codes);
    else if (code)
        broken("put of key %u returns %s: %s", key, cascade_error_name(code), cascade_last_error());
    lives[key].most = lives[key].most > 1 ? lives[key].most : 1;
    if (code == 0 || (code == CASCADE_EIO && flags))
        lives[key].least = 1;
    if (code == 0 && (flags & CASCADE_PUT_DURABLE))
        lives[key].flushed = 1;
}

static void delete (cascade_store *store, unsigned key)
{
    cascade_key name = key_of(key);
    int code = named("delete", cascade_block_delete(store, &name), BIT(ENOSPC), &seen->flush_codes);

    if (code == CASCADE_MISS)
        return; /* it is in a file that could not be read */
    lives[key].most = 2;
    if (code == 0)
        lives[key].least = 2;
}

/* Whether the key is there, with its bytes. */
static bool holds(cascade_store *store, unsigned key, int way)
{
    size_t bytes = block_of(key, expected), from = 0;
    cascade_piece piece = {buffer, bytes};
    cascade_key name = key_of(key);
    cascade_view *view = NULL;
    int code;

    memset(buffer, 0, bytes);
    if (way == 1) {
        from = bytes / 3;
        code = cascade_block_get_range(store, &name, from, bytes - from, buffer + from);
    } else if (way == 2) {
        code = cascade_block_view(store, &name, &view);
        for (size_t i = 0, at = 0; code == 0 && i < view->k_count; at += view->k[i++].bytes)
            memcpy(buffer + at, view->k[i].data, view->k[i].bytes);
        if (view)
            cascade_view_release(store, &view);
    } else {
        code = cascade_block_get(store, &name, &(cascade_block){.k = &piece, .k_count = 1});
    }
    named("get", code, way == 2 ? view_may : get_may, &seen->get_codes);
    if (code == 0 && memcmp(buffer + from, expected + from, bytes - from) != 0)
        broken("key %u gives wrong bytes", key);
    return code == 0;
}

static void get(cascade_store *store, unsigned key)
{
    bool there = holds(store, key, (int)(key % 3));

    if (there && lives[key].most == 0)
        broken("key %u was never put", key);
    /* Nobody knows what a file deletes that the open had to skip. */
    if (there && lives[key].least == 2 && !now->none &&
        stats_of(store).tiers[CASCADE_TIER_FILE].quarantined == 0)
        broken("key %u was deleted", key);
    if (!there && lives[key].least == 1 && lives[key].most == 1)
        seen->missed = true;
}

/* A block that was put in this session is in dram. */
static void put_and_get(cascade_store *store, unsigned key)
{
    put(store, key, 0);
    if (!holds(store, key, 0))
        broken("key %u was just put", key);
}

/* ---- a case --------------------------------------------------------------------------------------- */

static void flush_and_look(cascade_store *store)
{
    if (flush(store) != 0 && now->lasting && now->kind != FAULT_LATE && !stats_of(store).file_degraded)
        broken("a flush failed, and the counters do not say so");
}

static void work(cascade_store *store)
{
    cascade_verify_report verified;
    cascade_gc_report collected;

    for (unsigned key = 0; key < 8; key++)
        get(store, key);
    get(store, OLD);
    get(store, OLD + TORN);
    for (unsigned key = 32; key < 38; key++)
        put_and_get(store, key);
    put(store, 40, CASCADE_PUT_SYNC);
    put(store, 41, CASCADE_PUT_SYNC);
    flush_and_look(store);
    put(store, 38, CASCADE_PUT_DURABLE);
    for (unsigned key = 1; key < OLD + TORN; key += 2)
        delete (store, key);
    delete (store, 33);
    flush_and_look(store);
    named("gc", cascade_store_gc(store, false, &collected, NULL, NULL), gc_may, &seen->gc_codes);
    for (unsigned key = 42; key < 50; key++)
        put_and_get(store, key);
    put(store, 44, 0);
    flush_and_look(store);
    named("gc", cascade_store_gc(store, false, &collected, NULL, NULL), gc_may, &seen->gc_codes);
    put(store, 50, CASCADE_PUT_DURABLE);
    named("verify", cascade_store_verify(store, &verified, NULL, NULL), verify_may, &seen->verify_codes);
    for (unsigned key = 0; key < KEYS; key++)
        get(store, key);
}

static void work_again(cascade_store *store)
{
    for (unsigned key = 0; key < KEYS; key += 3)
        get(store, key);
    put_and_get(store, 51);
    delete (store, 34);
    flush_and_look(store);
    put_and_get(store, 52);
}

/* Without a fault: all is well within bounded time. */
static void heal(cascade_store *store)
{
    int code = CASCADE_EIO;

    fault_heal();
    for (unsigned tries = 0; code && tries < HEAL_TRIES; tries++) {
        code = flush(store);
        if (code)
            usleep(10000);
    }
    if (code)
        broken("the store does not heal: %s", cascade_last_error());
    if (stats_of(store).file_degraded)
        broken("the counters say that the healed file tier refuses writes");
    code = put_block(store, 53, CASCADE_PUT_DURABLE);
    if (code)
        broken("after the fault a put returns %s", cascade_error_name(code));
    lives[53] = (key_life){1, 1, 1};
}

static void check_all(cascade_store *store)
{
    uint64_t allowed = dropped;
    unsigned gone = 0, which = 0;

    for (unsigned key = 0; key < KEYS; key++) {
        bool there = holds(store, key, 0);

        if (there && (lives[key].most == 0 || lives[key].least == 2))
            broken("key %u is there after all: %d to %d", key, lives[key].least, lives[key].most);
        if (!there && lives[key].least == 1 && lives[key].most == 1) {
            gone++;
            which = key;
        }
    }
    /* The one block whose bytes the disk lost, and another key of it. */
    if (now->kind == FAULT_WRONG && now->operation != FAULT_PREADV)
        allowed += 2;
    if (gone > allowed)
        broken("%u keys are gone, the last is %u; dropped: %llu", gone, which,
               (unsigned long long)dropped);
}

static void run_case(void)
{
    cascade_options options = options_now();
    cascade_store *store;

    shell("cd '%s' && rm -rf store shm && mkdir shm%s", base, now->fresh ? "" : " && cp -a made store");
    if (now->seed % 3 == 0 && !now->fresh)
        shell("touch -d '3 days ago' '%s'/store/agg*", base);
    for (unsigned key = 0; key < OLD + TORN + FOREIGN && !now->fresh; key++)
        lives[key] = (key_life){1, 1, 1};
    arm();
    store = open_store(true);
    work(store);
    close_store(&store);
    store = open_store(true);
    work_again(store);
    if (now->seed % 5 == 0 && now->lasting) {
        close_store(&store);
        store = open_store(false);
    }
    seen->hits = fault_hits();
    heal(store);
    close_store(&store);
    for (int i = 0; i < FAULT_OPERATIONS; i++)
        seen->counts[i] = fault_count(i);
    shell("rm -rf '%s/shm' && mkdir '%s/shm'", base, base);
    options.io_deadline_ms = 0;
    if (cascade_store_open(&options, &store) != 0) {
        broken("the last open fails: %s", cascade_last_error());
        return;
    }
    check_all(store);
    note_stats(store);
    if (cascade_store_close(&store) != 0)
        broken("the last close fails: %s", cascade_last_error());
}

static void in_child(void (*body)(void), int signal_due)
{
    pid_t child = fork();
    int status;

    if (child < 0)
        stop("fork");
    if (child == 0) {
        alarm(CASE_SECONDS);
        body();
        _exit(0);
    }
    if (waitpid(child, &status, 0) != child)
        stop("waiting");
    if (WIFSIGNALED(status) && WTERMSIG(status) != signal_due)
        broken("ended by signal %d", WTERMSIG(status));
    if (WIFEXITED(status) && WEXITSTATUS(status) != 0)
        broken("ended with status %d", WEXITSTATUS(status));
}

fault_outcome fault_case_run(const fault_case *c)
{
    memset(seen, 0, sizeof *seen);
    now = c;
    in_child(run_case, 0);
    return *seen;
}

/* ---- the store that is there ---------------------------------------------------------------------- */

static void make_part(uint32_t rank, unsigned from, unsigned to, uint32_t flags, bool killed)
{
    cascade_options options = options_of(0, rank);
    cascade_store *store;

    if (cascade_store_open(&options, &store) != 0)
        stop("making the store");
    for (unsigned key = from; key < to; key++)
        if (put_block(store, key, flags) != 0)
            stop("making the store");
    if (killed)
        raise(SIGKILL);
    if (cascade_store_close(&store) != 0)
        stop("making the store");
}

static void make_torn(void)
{
    make_part(0, OLD, OLD + TORN, CASCADE_PUT_DURABLE, true);
}

static void make_rest(void)
{
    make_part(0, 0, OLD, 0, false);
    make_part(1, OLD + TORN, OLD + TORN + FOREIGN, 0, false);
}

void fault_cases_begin(void)
{
    snprintf(base, sizeof base, "/dev/shm/cascade-faults.%ld", (long)getpid());
    seen = mmap(NULL, sizeof *seen, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (seen == MAP_FAILED || mkdir(base, 0700) != 0)
        stop("making a directory");
    shell("mkdir '%s/shm'", base);
    in_child(make_rest, 0);
    in_child(make_torn, SIGKILL);
    if (seen->broken[0])
        stop(seen->broken);
    shell("cd '%s' && mv store made && rm -rf shm", base);
}

void fault_cases_end(void)
{
    shell("rm -rf '%s'", base);
}
