/* SPDX-License-Identifier: MIT */
#include "workload.h"

#include "base/mark.h"
#include "promises.h"
#include "store/store_private.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK_MAX   (160u << 10)
#define CALLS       200u
#define CALLS_AGAIN 16u
#define AGE_WAIT_US 2100000u
#define KEY_TEXT    "a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf\n"

static char base[256];
static uint8_t buffer[BLOCK_MAX], expected[BLOCK_MAX + 8];

static _Noreturn void fail(const char *what)
{
    fprintf(stderr, "powercut: seed %llu: %s: %s (%s)\n", (unsigned long long)pc_setup_now()->seed, what,
            strerror(errno), cascade_last_error());
    exit(2);
}

/* ---- places --------------------------------------------------------------------------------------- */

void pc_set_base(const char *path)
{
    snprintf(base, sizeof base, "%s", path);
}

const char *pc_place(const char *name)
{
    static char paths[8][320];
    static unsigned next;
    char *path = paths[next++ % 8];

    snprintf(path, sizeof paths[0], "%s/%s", base, name);
    return path;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *where)
{
    (void)info;
    (void)kind;
    (void)where;
    return remove(path);
}

void pc_clear(const char *name, bool make)
{
    const char *path = pc_place(name);

    if ((nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) != 0 && errno != ENOENT) ||
        (make && mkdir(path, 0700) != 0))
        fail("clearing a directory");
}

/* ---- a store -------------------------------------------------------------------------------------- */

static void write_key(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    if (fd < 0 || write(fd, KEY_TEXT, strlen(KEY_TEXT)) != (ssize_t)strlen(KEY_TEXT))
        fail("writing the key");
    close(fd);
}

int pc_open(const char *where, const char *shm, const pc_setup *setup, uint32_t rank, bool is_recorded,
            cascade_store **store)
{
    cascade_options options = {.struct_bytes = sizeof(cascade_options),
                               .directory = pc_place(where),
                               .shm_directory = pc_place(shm),
                               .rank = rank,
                               .dram_bytes = 1 << 20,
                               .page_bytes = 4096,
                               .segment_bytes = setup->segment_bytes,
                               .file_budget_bytes = setup->budget_bytes,
                               .file_age_s = setup->age_s,
                               .key_file = setup->is_encrypted ? pc_place("key") : NULL,
                               .open_flags = CASCADE_OPEN_CREATE | CASCADE_OPEN_NO_PREFAULT};

    if (setup->is_encrypted)
        write_key(options.key_file);
    return csc_store_open_with(&options, is_recorded ? &pc_calls : NULL, store);
}

static cascade_key key_of(uint64_t number)
{
    cascade_key key = {{0}};

    memcpy(key.bytes, &number, sizeof number);
    key.bytes[31] = 1;
    return key;
}

/* Sizes and bytes follow from the seed. */
static size_t block_size(uint64_t *random)
{
    uint64_t large = pc_random(random) % 4;

    return 1 + (size_t)(pc_random(random) % (large ? 20000 : BLOCK_MAX));
}

static size_t block_of(uint64_t seed, uint8_t *to)
{
    uint64_t random = seed;
    size_t bytes = block_size(&random);

    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t word = pc_random(&random);

        memcpy(to + i, &word, bytes - i < 8 ? bytes - i : 8);
    }
    return bytes;
}

int pc_put(cascade_store *store, uint64_t key, uint64_t seed, uint32_t flags, bool *existed)
{
    cascade_piece piece = {buffer, block_of(seed, buffer)};
    cascade_put request = {.key = key_of(key),
                           .parent = key_of(key / 3),
                           .has_parent = key > 2,
                           .block = {.k = &piece, .k_count = 1}};
    int code = cascade_block_put(store, &request, flags);

    *existed = request.existed;
    return code;
}

int pc_get(cascade_store *store, uint64_t key, const uint64_t *seeds, size_t count, size_t *which,
           bool *is_torn, int *code)
{
    cascade_key name = key_of(key);
    cascade_info info;
    cascade_piece piece;

    *is_torn = false;
    *code = cascade_block_info(store, &name, &info);
    if (*code)
        return *code == CASCADE_MISS ? 0 : -1;
    if (info.k_bytes > BLOCK_MAX || info.v_bytes)
        return -1;
    piece = (cascade_piece){buffer, info.k_bytes};
    *code = cascade_block_get(store, &name, &(cascade_block){.k = &piece, .k_count = 1});
    if (*code == CASCADE_MISS) {
        *is_torn = true;
        return 0;
    }
    for (size_t i = 0; *code == 0 && i < count; i++) {
        *which = i;
        if (block_of(seeds[i], expected) == info.k_bytes && memcmp(buffer, expected, info.k_bytes) == 0)
            return 1;
    }
    return -1;
}

/* ---- the workload -----------------------------------------------------------------------------------
 */

typedef struct world {
    const char *where, *shm;
    pc_setup setup;
    cascade_store *stores[2]; /* of each rank */
    bool reopened[2];         /* since the last look for drops, so that their count may be gone */
    bool bound[PC_KEYS];
    uint64_t random, contents;
} world;

pc_setup pc_setup_of(uint64_t seed)
{
    return (pc_setup){.seed = seed,
                      .budget_bytes = seed % 2   ? 0
                                      : seed % 4 ? 2 << 20
                                                 : 3 << 20,
                      .segment_bytes = seed % 2 && seed / 2 % 2 ? 256 << 10 : 64 << 10,
                      .ranks = 1 + seed / 2 % 2,
                      .age_s = seed % 16 == 9,
                      .is_encrypted = seed % 3 == 1,
                      .failing_syncs = seed % 5 == 0   ? 6
                                       : seed % 5 == 2 ? 30
                                                       : 0};
}

static uint64_t below(world *w, uint64_t limit)
{
    return pc_random(&w->random) % limit;
}

static uint32_t rank_of(const world *w, uint64_t key)
{
    return (uint32_t)(key % w->setup.ranks);
}

/* A key that is bound, or one that is not, if a few tries find one. */
static uint32_t pick_key(world *w, bool bound)
{
    uint32_t key = 0;

    for (unsigned i = 0; i < 6; i++) {
        key = (uint32_t)below(w, PC_KEYS);
        if (w->bound[key] == bound)
            break;
    }
    return key;
}

/* There is no room, or the disk has not done what it was told: the store goes on. */
static bool may_fail(const world *w, int code)
{
    return (code == CASCADE_ENOSPC && w->setup.budget_bytes) ||
           (code == CASCADE_EIO && w->setup.failing_syncs);
}

static void open_rank(world *w, uint32_t rank)
{
    pc_let_syncs_fail(false);
    if (pc_open(w->where, w->shm, &w->setup, rank, true, &w->stores[rank]) != 0)
        fail("opening the store of the workload");
    pc_let_syncs_fail(true);
}

static void close_rank(world *w, uint32_t rank)
{
    int code = cascade_store_close(&w->stores[rank]);

    if (code == 0)
        pc_say((pc_note){.what = PC_FLUSHED, .rank = rank});
    else if (code != CASCADE_EIO || !w->setup.failing_syncs)
        fail("closing");
}

static void reopen_rank(world *w, uint32_t rank)
{
    close_rank(w, rank);
    open_rank(w, rank);
    w->reopened[rank] = true;
}

static void flush(world *w, uint32_t rank)
{
    int code = cascade_store_flush(w->stores[rank]);

    if (code == 0)
        pc_say((pc_note){.what = PC_FLUSHED, .rank = rank});
    else if (!may_fail(w, code))
        fail("flushing");
}

/* A durable put that fails may have stored the block, in memory. */
static bool is_bound(world *w, uint32_t key)
{
    cascade_key name = key_of(key);
    cascade_info info;

    return cascade_block_info(w->stores[rank_of(w, key)], &name, &info) == 0;
}

static void put(world *w, uint32_t flags)
{
    pc_note note = {.what = PC_PUT, .key = pick_key(w, below(w, 8) == 0)};
    uint64_t content;
    bool existed;
    int code;

    /* A third has bytes that were put before, but never another rank's: that may take away what is its
     * own, and then it is a miss here. */
    content = below(w, 3) || !w->contents ? w->contents++ : below(w, w->contents);
    note.seed = w->setup.seed << 20 | (content * w->setup.ranks + rank_of(w, note.key));
    pc_say(note);
    code = pc_put(w->stores[rank_of(w, note.key)], note.key, note.seed, flags, &existed);
    /* Alone after a cut of two ranks: the other's key may be bound to what only his open segment has. */
    if (code == CASCADE_EAGAIN && (flags & CASCADE_PUT_DURABLE) && w->setup.ranks_before &&
        note.key % w->setup.ranks_before != 0)
        return;
    if (code && !may_fail(w, code))
        fail("putting");
    if (code && (w->bound[note.key] || !is_bound(w, note.key)))
        return;
    note.what = PC_PUT_DONE;
    note.existed = code == 0 && existed;
    note.durable = code == 0 && (flags & CASCADE_PUT_DURABLE);
    pc_say(note);
    w->bound[note.key] = true;
}

static void delete (world *w)
{
    pc_note note = {.what = PC_DELETE, .key = pick_key(w, true)};
    cascade_key name = key_of(note.key);
    int code;

    pc_say(note);
    code = cascade_block_delete(w->stores[rank_of(w, note.key)], &name);
    if (code < 0)
        fail("deleting");
    w->bound[note.key] = false;
    note.what = PC_DELETED;
    if (code == 0)
        pc_say(note);
}

static void gc(world *w, uint32_t rank)
{
    cascade_gc_report report;
    int code = cascade_store_gc(w->stores[rank], false, &report, NULL, NULL);

    if (code && !may_fail(w, code))
        fail("gc");
}

static void scrub(world *w, uint32_t rank)
{
    cascade_scrub_options options = {.struct_bytes = sizeof options, .fix = true};
    cascade_verify_report report;
    int code = cascade_store_scrub(w->stores[rank], &options, &report, NULL, NULL);

    /* What a cut has torn is damage. */
    if (code && code != CASCADE_ECORRUPT && !may_fail(w, code))
        fail("scrubbing");
}

/* A key is gone: ends the program if nothing was dropped. */
static void check_drop(world *w, uint32_t key, int code)
{
    cascade_stats stats = {.struct_bytes = sizeof stats};
    uint32_t rank = rank_of(w, key);
    const cascade_tier_stats *file = &stats.tiers[CASCADE_TIER_FILE];

    if (cascade_store_stats(w->stores[rank], &stats) != 0)
        fail("asking for counters");
    if (code == CASCADE_MISS && (w->setup.budget_bytes || w->setup.age_s) &&
        (w->reopened[rank] || file->drops + stats.tiers[CASCADE_TIER_DRAM].drops > 0))
        return;
    fprintf(stderr, "powercut: key %u: %s; %llu dropped, %llu lost, %llu damaged\n", key,
            cascade_error_name(code), (unsigned long long)file->drops, (unsigned long long)stats.lost,
            (unsigned long long)file->quarantined);
    fail("a key is gone, and nothing was dropped");
}

/* Says what the store has dropped, or has no more in a file: it may, for a budget or an age, if it
 * counts that. */
static void look_for_drops(world *w)
{
    bool may_drop = w->setup.budget_bytes || w->setup.age_s;

    for (uint32_t key = 0; key < PC_KEYS; key++) {
        cascade_key name = key_of(key);
        cascade_info info;
        int code;

        if (!w->bound[key])
            continue;
        code = cascade_block_info(w->stores[rank_of(w, key)], &name, &info);
        if (code == 0 && may_drop && !info.in_file)
            pc_say((pc_note){.what = PC_LOOSE, .key = key});
        if (code == 0)
            continue;
        check_drop(w, key, code);
        pc_say((pc_note){.what = PC_GONE, .key = key});
        w->bound[key] = false;
    }
    memset(w->reopened, 0, sizeof w->reopened);
    pc_say((pc_note){.what = PC_CALL_DONE});
}

static void call(world *w)
{
    uint32_t rank = (uint32_t)below(w, w->setup.ranks);

    switch (below(w, 32)) {
    case 0:
    case 1:
    case 2:
        flush(w, rank);
        break;
    case 3:
    case 4:
    case 5:
    case 6:
        delete (w);
        break;
    case 7:
        for (uint64_t more = below(w, 12); more > 0; more--)
            delete (w);
        flush(w, rank);
        break;
    case 8:
    case 9:
        gc(w, rank);
        break;
    case 10:
        reopen_rank(w, rank);
        break;
    case 11:
        scrub(w, rank);
        break;
    case 12:
    case 13:
        put(w, CASCADE_PUT_DURABLE);
        break;
    default:
        put(w, 0);
    }
    look_for_drops(w);
}

/* A close may drop what has no room in files, and that is seen once there is a store again. The last one
 * has nothing left to write. */
static void close_all(world *w)
{
    uint32_t age_s = w->setup.age_s;

    w->setup.age_s = 0; /* what goes after the look would be missed by nobody but the check */
    for (uint32_t rank = 0; rank < w->setup.ranks; rank++)
        reopen_rank(w, rank);
    w->setup.age_s = age_s;
    look_for_drops(w);
    for (uint32_t rank = 0; rank < w->setup.ranks; rank++)
        close_rank(w, rank);
}

/* Of what is done to files: there are many more. */
static void say_mark(const char *name)
{
    if (strncmp(name, "compact", 7) == 0 || strncmp(name, "se", 2) == 0 ||
        strncmp(name, "recycle", 7) == 0 || strncmp(name, "write: s", 8) == 0 ||
        strncmp(name, "write: w", 8) == 0)
        pc_say((pc_note){.what = PC_MARK});
}

void pc_run(const pc_setup *setup)
{
    world w = {.where = "work", .shm = "shm", .setup = *setup, .random = setup->seed};

    pc_clear("work", true);
    pc_clear("shm", true);
    pc_record(pc_place("work"), setup);
    atomic_store(&csc_mark_hook_now, say_mark);
    for (uint32_t rank = 0; rank < setup->ranks; rank++)
        open_rank(&w, rank);
    for (unsigned i = 0; i < CALLS; i++) {
        if (setup->age_s && i == CALLS / 2)
            usleep(AGE_WAIT_US);
        call(&w);
    }
    close_all(&w);
    atomic_store(&csc_mark_hook_now, NULL);
}

void pc_run_more(cascade_store *store, const char *where, const char *shm, uint64_t seed)
{
    world w = {.where = where,
               .shm = shm,
               .setup = *pc_setup_now(),
               .stores = {store},
               .random = seed,
               .contents = 1 << 19};
    pc_promise seen[PC_KEYS];

    pc_promises_at(pc_steps(), seen);
    for (uint32_t key = 0; key < PC_KEYS; key++)
        w.bound[key] = seen[key].bound;
    atomic_store(&csc_mark_hook_now, say_mark);
    pc_let_syncs_fail(true);
    for (unsigned i = 0; i < CALLS_AGAIN; i++)
        call(&w);
    close_all(&w);
    atomic_store(&csc_mark_hook_now, NULL);
}
