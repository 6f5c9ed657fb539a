/* SPDX-License-Identifier: MIT */
/*
 * The process that is killed: opens the store, compares every key with the oracle, then works until it
 * dies, at a mark that it counts or by its parent's hand; or closes the store.
 */
#include "torture_child.h"
#include "base/mark.h"

#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define VIEWS          100u
#define VIEW_BYTES_MAX (32u << 10)

/* ---- telling ------------------------------------------------------------------------------------- */

static void write_record(const torture_child *child, const torture_record *told)
{
    /* One write of less than PIPE_BUF bytes is whole or absent, whoever dies. */
    if (write(child->plan->pipe_fd, told, sizeof *told) != (ssize_t)sizeof *told)
        _exit(4);
}

void child_tell(const torture_child *child, record_kind kind, unsigned worker, uint32_t key,
                uint64_t seed)
{
    torture_record told = {.kind = (uint8_t)kind, .worker = (uint8_t)worker, .key = key, .seed = seed};

    write_record(child, &told);
}

void child_violation(const torture_child *child, uint32_t key, const char *format, ...)
{
    char what[512], known[2048] = "";
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    if (key < KEY_COUNT) {
        cascade_key name = name_of_key(key);
        char text[2 * CASCADE_KEY_BYTES + 1];

        cascade_key_format(&name, text);
        fprintf(stderr, "violation: key %u (%s): %s\n", key, text, what);
        oracle_describe(child->oracle, key, known, sizeof known);
        fprintf(stderr, "  when the process began, %s\n", known);
    } else {
        fprintf(stderr, "violation: %s\n", what);
    }
    child_tell(child, RECORD_VIOLATION, 0, key, 0);
    _exit(3);
}

/* ---- dying --------------------------------------------------------------------------------------- */

static const torture_child *mark_child;
static _Atomic uint64_t mark_hits;
static _Atomic bool mark_armed;

static void at_mark(const char *name)
{
    const child_plan *plan = mark_child->plan;
    torture_record told = {.kind = RECORD_AT_MARK};

    if (!atomic_load(&mark_armed) || strncmp(name, plan->mark, strlen(plan->mark)) != 0 ||
        atomic_fetch_add(&mark_hits, 1) + 1 != plan->mark_hits)
        return;
    snprintf(told.text, sizeof told.text, "%s", name);
    write_record(mark_child, &told);
    kill(getpid(), SIGKILL);
}

/* ---- reading -------------------------------------------------------------------------------------- */

static int info_of(const torture_child *child, uint32_t key, cascade_info *info)
{
    cascade_key name = name_of_key(key);

    return kind_of_key(key) == KEY_CONTENT
               ? cascade_content_info(child->store, tenant_of_key(key), &child->ids[key], info)
               : cascade_block_info(child->store, &name, info);
}

static int get_whole(const torture_child *child, uint32_t key, const cascade_info *info,
                     random_state *random, uint8_t *room)
{
    cascade_key name = name_of_key(key);
    uint64_t cut = random_below(random, info->k_bytes + 1);
    cascade_piece k[2] = {{room, cut}, {room + cut, info->k_bytes - cut}};
    cascade_piece v = {room + info->k_bytes, info->v_bytes};
    cascade_block into = {k, 2, &v, info->v_bytes ? 1 : 0};

    return kind_of_key(key) == KEY_CONTENT
               ? cascade_content_get(child->store, tenant_of_key(key), &child->ids[key], &into)
               : cascade_block_get(child->store, &name, &into);
}

static int get_ranges(const torture_child *child, uint32_t key, const cascade_info *info,
                      random_state *random, uint8_t *room)
{
    cascade_key name = name_of_key(key);
    uint64_t total = info->k_bytes + info->v_bytes, cut = random_below(random, total + 1);
    int code = cascade_block_get_range(child->store, &name, cut, total - cut, room + cut);

    return code ? code : cascade_block_get_range(child->store, &name, 0, cut, room);
}

/* Now and then it stays pinned for a while, whatever others do to the key. */
static int look_in_place(const torture_child *child, uint32_t key, cascade_info *info, uint64_t stay_ns,
                         uint8_t *room)
{
    cascade_key name = name_of_key(key);
    cascade_view *view = NULL;
    uint64_t used = 0;
    int code = cascade_block_view(child->store, &name, &view);

    if (code)
        return code;
    if (stay_ns)
        nanosleep(&(struct timespec){.tv_nsec = (long)stay_ns}, NULL);
    info->k_bytes = view->k_bytes;
    info->v_bytes = view->v_bytes;
    if (view->k_bytes + view->v_bytes > TORTURE_BLOCK_MAX)
        child_violation(child, key, "a view of %llu + %llu bytes", (unsigned long long)view->k_bytes,
                        (unsigned long long)view->v_bytes);
    for (int half = 0; half < 2; half++) {
        const cascade_piece *pieces = half ? view->v : view->k;
        size_t count = half ? view->v_count : view->k_count;

        for (size_t i = 0; i < count; used += pieces[i++].bytes)
            memcpy(room + used, pieces[i].data, pieces[i].bytes);
    }
    if (used != view->k_bytes + view->v_bytes)
        child_violation(child, key, "the pieces of a view have %llu bytes", (unsigned long long)used);
    cascade_view_release(child->store, &view);
    return 0;
}

int child_observe(const torture_child *child, uint32_t key, random_state *random, uint8_t *room,
                  uint64_t *seed)
{
    cascade_info info;
    uint64_t how = random_below(random, 8);
    int code = info_of(child, key, &info);

    *seed = 0;
    if (code)
        return code == CASCADE_MISS ? 0 : code;
    if (info.k_bytes + info.v_bytes > TORTURE_BLOCK_MAX)
        child_violation(child, key, "%llu + %llu bytes, more than any block has",
                        (unsigned long long)info.k_bytes, (unsigned long long)info.v_bytes);
    if (how < 5 || kind_of_key(key) == KEY_CONTENT)
        code = get_whole(child, key, &info, random, room);
    else if (how < 6)
        code = get_ranges(child, key, &info, random, room);
    else
        code = look_in_place(child, key, &info,
                             child->loaded && random_below(random, 8) == 0 ? 2000000 : 0, room);
    if (code)
        return code;
    *seed = content_check(room, info.k_bytes, info.v_bytes);
    if (*seed == 0 && how == 5)
        return CASCADE_EAGAIN; /* between two ranges it can be deleted and put anew */
    if (*seed == 0 || !seed_fits_key(*seed, key))
        child_violation(child, key, "wrong bytes (%llu + %llu, read in way %llu, first word %llx)",
                        (unsigned long long)info.k_bytes, (unsigned long long)info.v_bytes,
                        (unsigned long long)how,
                        (unsigned long long)*(const uint64_t *)(const void *)room);
    return 0;
}

/* ---- verifying ------------------------------------------------------------------------------------ */

/* A content whose put was not answered is found by its id only when its digest is known. */
static void wait_for_digests(const torture_child *child)
{
    cascade_stats stats = {.struct_bytes = sizeof stats};

    while (cascade_store_stats(child->store, &stats) == 0 && stats.digest_pending)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* Every copy of every block, also those in files of what is in dram. */
static void scrub(const torture_child *child)
{
    cascade_verify_report report = {0};
    int code = cascade_store_verify(child->store, &report, NULL, NULL);

    if (code)
        child_violation(child, KEY_COUNT, "a scrub gives %s, %llu damaged in dram, %llu in files: %s",
                        cascade_error_name(code), (unsigned long long)report.damaged[CASCADE_TIER_DRAM],
                        (unsigned long long)report.damaged[CASCADE_TIER_FILE], cascade_last_error());
}

/* While no other thread changes anything. */
static void verify(torture_child *child)
{
    random_state random = {random_mix(child->plan->seed ^ 1)};
    uint8_t *room = malloc(TORTURE_BLOCK_MAX);
    cascade_stats stats = {.struct_bytes = sizeof stats};
    uint32_t first = (uint32_t)random_below(&random, KEY_COUNT);

    if (!room)
        child_violation(child, KEY_COUNT, "no memory");
    for (uint32_t i = 0; i < KEY_COUNT; i++) {
        uint32_t key = (first + i) % KEY_COUNT;
        uint64_t seed;
        int code;

        if (kind_of_key(key) == KEY_CONTENT && oracle_doubts(child->oracle, key))
            wait_for_digests(child);
        code = child_observe(child, key, &random, room, &seed);
        if (code)
            child_violation(child, key, "reading it gives %s: %s", cascade_error_name(code),
                            cascade_last_error());
        if (!oracle_allows(child->oracle, key, seed))
            child_violation(child, key, "it is %llx", (unsigned long long)seed);
        child->found[key] = seed;
        if (oracle_doubts(child->oracle, key))
            child_tell(child, RECORD_SEEN, 0, key, seed);
    }
    free(room);
    if (random_below(&random, 4) == 0)
        scrub(child);
    if (cascade_store_stats(child->store, &stats) != 0)
        child_violation(child, KEY_COUNT, "no statistics");
    if (stats.lost || stats.tiers[CASCADE_TIER_DRAM].quarantined ||
        stats.tiers[CASCADE_TIER_FILE].quarantined || stats.tiers[CASCADE_TIER_FILE].drops)
        child_violation(child, KEY_COUNT,
                        "lost %llu, quarantined %llu in dram and %llu in files, dropped %llu",
                        (unsigned long long)stats.lost,
                        (unsigned long long)stats.tiers[CASCADE_TIER_DRAM].quarantined,
                        (unsigned long long)stats.tiers[CASCADE_TIER_FILE].quarantined,
                        (unsigned long long)stats.tiers[CASCADE_TIER_FILE].drops);
    child_tell(child, RECORD_VERIFIED, 0, 0, 0);
}

/* Takes the oracle's word for what is there; what is in doubt is left alone. */
static void rush(torture_child *child)
{
    for (uint32_t key = 0; key < KEY_COUNT; key++) {
        child->found[key] = oracle_state(child->oracle, key);
        child->doubtful[key] = oracle_doubts(child->oracle, key);
    }
    child_tell(child, RECORD_RUSHED, 0, 0, 0);
}

/* ---- closing -------------------------------------------------------------------------------------- */

/* Takes many pins at once, so that those that dead owners left would be met. */
static void view_many(const torture_child *child)
{
    cascade_view *views[VIEWS] = {NULL};
    uint32_t count = 0;

    for (uint32_t key = 0; key < KEY_COUNT && count < VIEWS; key++) {
        cascade_key name = name_of_key(key);
        cascade_info info;

        /* Small ones, so that all fit into dram. */
        if (cascade_block_info(child->store, &name, &info) == 0 &&
            info.k_bytes + info.v_bytes <= VIEW_BYTES_MAX)
            count += cascade_block_view(child->store, &name, &views[count]) == 0;
    }
    while (count)
        cascade_view_release(child->store, &views[--count]);
}

static void delete_all(const torture_child *child)
{
    for (uint32_t key = 0; key < KEY_COUNT; key++) {
        cascade_key name = name_of_key(key);
        int code;

        child_tell(child, RECORD_BEGIN, 0, key, 0);
        code = kind_of_key(key) == KEY_CONTENT
                   ? cascade_content_delete(child->store, tenant_of_key(key), &child->ids[key])
                   : cascade_block_delete(child->store, &name);
        if (code && code != CASCADE_MISS)
            child_violation(child, key, "deleting it gives %s", cascade_error_name(code));
        child_tell(child, RECORD_ACK, 0, key, 0);
    }
}

/* With nothing stored, no page may be in use, nor any counter think otherwise. */
static void look_for_leaks(const torture_child *child)
{
    cascade_stats stats = {.struct_bytes = sizeof stats};
    const cascade_tier_stats *dram = &stats.tiers[CASCADE_TIER_DRAM];

    for (int i = 0; i < 500; i++) {
        if (cascade_store_stats(child->store, &stats) != 0)
            child_violation(child, KEY_COUNT, "no statistics");
        if (dram->used_bytes == 0 && stats.keys == 0 && stats.contents == 0 && stats.dirty_bytes == 0 &&
            dram->blocks == 0 && dram->block_bytes == 0 && stats.pins == 0)
            return;
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    }
    child_violation(
        child, KEY_COUNT,
        "with all keys deleted: %llu keys, %llu contents, %llu blocks of %llu bytes in dram, "
        "%llu bytes of pages in use, %llu dirty, %llu pins",
        (unsigned long long)stats.keys, (unsigned long long)stats.contents,
        (unsigned long long)dram->blocks, (unsigned long long)dram->block_bytes,
        (unsigned long long)dram->used_bytes, (unsigned long long)stats.dirty_bytes,
        (unsigned long long)stats.pins);
}

static void close_store(torture_child *child)
{
    int code;

    if (child->plan->empty) {
        view_many(child);
        delete_all(child);
        look_for_leaks(child);
    }
    code = cascade_store_close(&child->store);
    if (code)
        child_violation(child, KEY_COUNT, "closing gives %s: %s", cascade_error_name(code),
                        cascade_last_error());
    child_tell(child, RECORD_CLOSED, 0, 0, 0);
}

/* ---- the process ----------------------------------------------------------------------------- */

static void know_contents(torture_child *child)
{
    uint8_t *bytes = malloc(TORTURE_BLOCK_MAX);

    if (!bytes)
        _exit(5);
    for (uint32_t key = 0; key < KEY_COUNT; key++) {
        uint64_t seed = seed_of_version(key, 0), k_bytes, v_bytes;
        cascade_piece k, v;

        if (kind_of_key(key) != KEY_CONTENT)
            continue;
        content_sizes(seed, &k_bytes, &v_bytes);
        content_fill(seed, bytes);
        k = (cascade_piece){bytes, k_bytes};
        v = (cascade_piece){bytes + k_bytes, v_bytes};
        cascade_block_id(&(cascade_block){&k, 1, &v, v_bytes ? 1 : 0}, &child->ids[key]);
    }
    free(bytes);
}

void child_main(const child_plan *plan, const torture_oracle *oracle)
{
    static torture_child child;
    cascade_options options = {.struct_bytes = sizeof options,
                               .directory = plan->directory,
                               .shm_directory = plan->shm_directory,
                               .dram_bytes = UINT64_C(8) << 20,
                               .segment_bytes = UINT64_C(1) << 20,
                               .page_bytes = plan->page_bytes,
                               .policy = plan->policy,
                               .hash_threads = plan->hash_threads,
                               .open_flags = CASCADE_OPEN_CREATE |
                                             (plan->prefault ? 0 : (unsigned)CASCADE_OPEN_NO_PREFAULT)};
    int code;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    child.plan = plan;
    child.oracle = oracle;
    know_contents(&child);
    mark_child = &child;
    atomic_store(&mark_armed, plan->mark && plan->mark_while_opening);
    if (plan->mark)
        atomic_store(&csc_mark_hook_now, at_mark);
    code = cascade_store_open(&options, &child.store);
    if (code)
        child_violation(&child, KEY_COUNT, "opening gives %s: %s", cascade_error_name(code),
                        cascade_last_error());
    child_tell(&child, RECORD_OPENED, 0, 0, 0);
    if (plan->rush)
        rush(&child);
    else
        verify(&child);
    atomic_store(&mark_armed, plan->mark != NULL);
    child.loaded = plan->load;
    if (plan->load)
        child_load(&child);
    else
        close_store(&child);
    exit(0);
}
