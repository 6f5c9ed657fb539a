/* SPDX-License-Identifier: MIT */
/* A file tier that is full: by its budget, or because the disk is. */
#include "base/mark.h"
#include "store/store_testing.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { BLOCK = 60 * 1024 };

/* ---- the budget ------------------------------------------------------------------------------ */

static cascade_options budget_options(void)
{
    cascade_options options = st_options();

    options.dram_bytes = ST_MIB;
    options.file_budget_bytes = 2 * ST_MIB;
    options.segment_bytes = 256 * ST_KIB;
    return options;
}

static void the_oldest_go(void **state)
{
    enum { KEYS = 150 };
    cascade_store *store = st_open_with(budget_options());
    bool found[KEYS];
    size_t missing = 0, kept = 0;

    (void)state;
    for (uint64_t i = 0; i < KEYS; i++) {
        assert_int_equal(st_put(store, i, i, BLOCK, 0, 0), 0);
        if (i % 5 == 4) {
            assert_int_equal(cascade_store_flush(store), 0);
            assert_in_range(st_stats(store).tiers[CASCADE_TIER_FILE].used_bytes, 1, 2 * ST_MIB);
        }
    }
    for (uint64_t i = 0; i < KEYS; i++) {
        cascade_key key = st_key(i);
        cascade_info info;
        int code = cascade_block_info(store, &key, &info);

        found[i] = code == 0;
        missing += !found[i];
        assert_int_equal(st_get(store, i, i, BLOCK, 0), code);
    }
    assert_int_equal(missing, st_stats(store).tiers[CASCADE_TIER_FILE].drops);
    assert_int_equal(st_stats(store).keys, KEYS - missing);
    assert_int_equal(st_stats(store).lost, 0);
    assert_int_equal(st_stats(store).file_degraded, 0);
    assert_in_range(missing, KEYS / 3, KEYS - 20);
    for (uint64_t i = KEYS - 20; i < KEYS; i++)
        assert_true(found[i]); /* the newest MiB */
    st_close(&store);
    store = st_open_with(budget_options());
    assert_in_range(st_stats(store).tiers[CASCADE_TIER_FILE].used_bytes, 1, 2 * ST_MIB);
    for (uint64_t i = 0; i < KEYS; i++) {
        int code = st_get(store, i, i, BLOCK, 0);

        assert_true(code == CASCADE_MISS || (code == 0 && found[i]));
        kept += code == 0;
    }
    assert_in_range(kept, 15, KEYS);
    assert_int_equal(st_stats(store).lost, 0);
    st_close(&store);
}

/* What dram holds outlives its segment. */
static void what_dram_holds_survives(void **state)
{
    cascade_store *store = st_open_with(budget_options());
    cascade_key key = st_key(5000);
    cascade_view *view = NULL;

    (void)state;
    assert_int_equal(st_put(store, 5000, 5000, 1000, 0, CASCADE_PUT_DURABLE), 0);
    assert_int_equal(cascade_block_view(store, &key, &view), 0); /* so that it is not evicted */
    for (uint64_t i = 0; i < 150; i++)
        assert_int_equal(st_put(store, i, i, BLOCK, 0, 0), 0);
    assert_int_equal(cascade_store_flush(store), 0);
    assert_true(st_view_is(view, 5000, 1000, 0));
    cascade_view_release(store, &view);
    assert_false(st_info(store, 5000).in_file);
    assert_int_equal(st_get(store, 5000, 5000, 1000, 0), 0);
    st_close(&store);
    store = st_open_with(budget_options());
    assert_int_equal(st_get(store, 5000, 5000, 1000, 0), 0);
    st_close(&store);
}

static void budgets_that_cannot_be_met(void **state)
{
    cascade_options options = budget_options();
    cascade_store *store;

    (void)state;
    options.dram_bytes = 4 * ST_MIB;
    store = st_open_with(options);
    assert_int_equal(st_put(store, 1, 1, 2 * ST_MIB + 1, 0, 0), CASCADE_ETOOBIG);
    /* Larger than a segment, smaller than the budget: a segment of its own. */
    for (uint64_t i = 0; i < 6; i++)
        assert_int_equal(st_put(store, 10 + i, i, ST_MIB + 5000, 0, CASCADE_PUT_DURABLE), 0);
    assert_int_equal(st_get(store, 15, 5, ST_MIB + 5000, 0), 0);
    st_close(&store);
}

/* Blocks that are small beside their headers and their part of the index: nothing is gained by moving
 * them, however full it is. */
static void many_keys_fill_a_budget(void **state)
{
    enum { SMALL = 1000, KEYS = 400, CONTENTS = 60 };
    cascade_store *store;
    cascade_stats stats;
    uint64_t kept = 0;

    (void)state;
    store = st_open_with(budget_options());
    for (uint64_t seed = 0; seed < CONTENTS; seed++) {
        for (uint64_t key = 0; key < KEYS; key++)
            assert_int_equal(st_put(store, seed * KEYS + key, seed, SMALL, 0, 0), 0);
        assert_int_equal(cascade_store_flush(store), 0);
    }
    stats = st_stats(store);
    assert_in_range(stats.tiers[CASCADE_TIER_FILE].used_bytes, 1, 2 * ST_MIB);
    assert_true(stats.compactions < 1000);
    /* Each block that has gone was counted, once. */
    assert_int_equal(stats.tiers[CASCADE_TIER_FILE].drops + stats.tiers[CASCADE_TIER_DRAM].drops,
                     CONTENTS - stats.contents);
    st_close(&store);
    store = st_open_with(budget_options());
    for (uint64_t key = 0; key < CONTENTS * KEYS; key++)
        kept += st_get(store, key, key / KEYS, SMALL, 0) == 0;
    assert_in_range(kept, KEYS, CONTENTS * KEYS - 1); /* they take three times the budget */
    assert_int_equal(st_stats(store).lost, 0);
    st_close(&store);
}

/* Binds that come to disk one by one, each in a page of its own, and deletes after them. */
static void small_rounds_stay_within_the_budget(void **state)
{
    enum { SMALL = 1000, KEYS = 900, CONTENTS = 3 };
    cascade_options options = budget_options();
    cascade_store *store;
    uint64_t most = 0;

    (void)state;
    options.background_rate_bytes = 1; /* the rounds make room for themselves */
    store = st_open_with(options);
    for (uint64_t key = 0; key < CONTENTS * KEYS; key++) {
        uint64_t used;

        assert_int_equal(st_put(store, key, key / KEYS, SMALL, 0, CASCADE_PUT_DURABLE), 0);
        if (key % 3 == 2) {
            assert_int_equal(st_delete(store, key - 1), 0);
            assert_int_equal(cascade_store_flush(store), 0);
        }
        used = st_stats(store).tiers[CASCADE_TIER_FILE].used_bytes;
        most = used > most ? used : most;
    }
    assert_in_range(most, 1, 2 * ST_MIB);
    assert_int_equal(st_get(store, CONTENTS * KEYS - 1, CONTENTS - 1, SMALL, 0), 0);
    assert_int_equal(st_stats(store).lost, 0);
    st_close(&store);
}

/* Keys of one content in segments of different ages: the content goes with its record, the binds that
 * are left in later segments name nothing, and that is no loss. */
static void binds_to_what_was_dropped(void *context)
{
    cascade_options options = budget_options();
    cascade_store *store;

    (void)context;
    options.policy = "lru";
    options.file_budget_bytes = 3 * ST_MIB;
    store = st_open_with(options);
    ST_CHECK(st_put(store, 5000, 5000, BLOCK, 0, CASCADE_PUT_DURABLE) == 0);
    for (uint64_t i = 0; i < 20; i++)
        ST_CHECK(st_put(store, i, i, BLOCK, 0, CASCADE_PUT_DURABLE) == 0);
    ST_CHECK(st_put(store, 5001, 5000, BLOCK, 0, CASCADE_PUT_DURABLE) == 0);
    for (uint64_t i = 100; i < 175; i++)
        ST_CHECK(st_put(store, i, i, BLOCK, 0, CASCADE_PUT_DURABLE) == 0);
    ST_CHECK(st_get(store, 5000, 5000, BLOCK, 0) == CASCADE_MISS);
    ST_CHECK(st_get(store, 5001, 5000, BLOCK, 0) == CASCADE_MISS);
    ST_CHECK(st_delete(store, 174) == 0);
    raise(SIGKILL);
}

static void a_dropped_block_is_not_a_lost_one(void **state)
{
    (void)state;
    for (int power_lost = 0; power_lost < 2; power_lost++) {
        cascade_store *store;

        st_in_child(binds_to_what_was_dropped, NULL, -SIGKILL);
        if (power_lost)
            st_lose_memory();
        store = st_open_with(budget_options());
        assert_int_equal(st_stats(store).lost, 0);
        for (uint64_t key = 5000; key < 5002; key++)
            assert_int_equal(st_get(store, key, 5000, BLOCK, 0), CASCADE_MISS);
        for (uint64_t i = 160; i < 174; i++)
            assert_int_equal(st_get(store, i, i, BLOCK, 0), 0);
        assert_int_equal(st_stats(store).lost, 0);
        for (uint64_t i = 0; i < 200; i++)
            (void)st_delete(store, i);
        (void)st_delete(store, 5000);
        (void)st_delete(store, 5001);
        st_close(&store);
    }
}

/* A bind left over from a dropped content does not come back with that content, after its key was
 * deleted. */
static void a_bind_left_over_stays_away(void **state)
{
    cascade_options options = budget_options();
    cascade_key key = st_key(5001);
    cascade_store *store;
    cascade_info info;

    (void)state;
    options.policy = "lru";
    options.file_budget_bytes = 3 * ST_MIB;
    store = st_open_with(options);
    assert_int_equal(st_put(store, 5000, 5000, BLOCK, 0, CASCADE_PUT_DURABLE), 0);
    for (uint64_t i = 0; i < 20; i++)
        assert_int_equal(st_put(store, i, i, BLOCK, 0, CASCADE_PUT_DURABLE), 0);
    assert_int_equal(st_put(store, 5001, 5000, BLOCK, 0, CASCADE_PUT_DURABLE), 0);
    for (uint64_t i = 100; cascade_block_info(store, &key, &info) != CASCADE_MISS; i++)
        assert_int_equal(st_put(store, i, i, BLOCK, 0, CASCADE_PUT_DURABLE), 0);
    assert_int_equal(st_put(store, 5001, 1, BLOCK, 0, 0), 0);
    assert_int_equal(st_delete(store, 5001), 0);
    assert_int_equal(st_put(store, 5002, 5000, BLOCK, 0, CASCADE_PUT_DURABLE), 0);
    st_close(&store);
    store = st_open_with(options);
    assert_int_equal(st_get(store, 5001, 5000, BLOCK, 0), CASCADE_MISS);
    assert_int_equal(st_get(store, 5002, 5000, BLOCK, 0), 0);
    st_close(&store);
}

static cascade_store *marked_store;
static _Atomic int marked;

static void delete_once(const char *name)
{
    if (strcmp(name, "compact: segment goes") == 0 && atomic_exchange(&marked, 1) == 0)
        ST_CHECK(st_delete(marked_store, 7000) == 0);
}

/* A delete while its key's record is being written, and old segments go to make room for it. */
static void deleted_while_segments_go(void *context)
{
    cascade_options options = budget_options();

    (void)context;
    options.segment_bytes = 64 * ST_KIB;
    options.dram_bytes = 8 * ST_MIB;        /* so that nothing but this block is written, */
    options.file_budget_bytes = 4 * ST_MIB; /* and the flush does not drop its segment again */
    marked_store = st_open_with(options);
    for (uint64_t i = 0; i < 60; i++)
        ST_CHECK(st_put(marked_store, i, i, BLOCK, 0, CASCADE_PUT_DURABLE) == 0);
    atomic_store(&csc_mark_hook_now, delete_once);
    ST_CHECK(st_put(marked_store, 7000, 7000, 8 * BLOCK, 0, 0) == 0);
    while (!atomic_load(&marked))
        st_sleep_ms(1);
    ST_CHECK(cascade_store_flush(marked_store) == 0);
    raise(SIGKILL);
}

static void a_delete_under_a_drop_stays(void **state)
{
    cascade_store *store;

    (void)state;
    st_in_child(deleted_while_segments_go, NULL, -SIGKILL);
    st_lose_memory();
    store = st_open_with(budget_options());
    assert_int_equal(st_get(store, 7000, 7000, 8 * BLOCK, 0), CASCADE_MISS);
    assert_int_equal(st_get(store, 59, 59, BLOCK, 0), 0);
    st_close(&store);
}

/* ---- the disk -------------------------------------------------------------------------------- */

static char disk[600];

/* A disk of `kib` KiB to put stores on; skips the test where it cannot be had. */
static void make_disk(unsigned kib)
{
    char size[64];

    snprintf(disk, sizeof disk, "%s/disk", st_directory());
    snprintf(size, sizeof size, "size=%uk,mode=0700", kib);
    assert_int_equal(mkdir(disk, 0700), 0);
    if (mount("tmpfs", disk, "tmpfs", 0, size) != 0) {
        print_message("# skipped: a small disk cannot be mounted here (root only)\n");
        rmdir(disk);
        skip();
    }
}

static void grow_disk(unsigned kib)
{
    char size[64];

    snprintf(size, sizeof size, "size=%uk", kib);
    assert_int_equal(mount("tmpfs", disk, "tmpfs", MS_REMOUNT, size), 0);
}

static int disk_teardown(void **state)
{
    if (disk[0])
        umount2(disk, MNT_DETACH);
    disk[0] = 0;
    return st_teardown(state);
}

static cascade_options disk_options(void)
{
    cascade_options options = st_options();

    options.directory = disk;
    options.put_wait_ms = 1000;
    return options;
}

/* Puts until nothing goes any more; returns how many went. */
static uint64_t fill(cascade_store *store)
{
    uint64_t count = 0;
    int code;

    while ((code = st_put(store, count, count, BLOCK, 100, 0)) == 0 && count < 1000)
        count++;
    assert_int_equal(code, CASCADE_ENOSPC);
    assert_string_not_equal(cascade_last_error(), "");
    return count;
}

static void assert_all(cascade_store *store, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        assert_int_equal(st_get(store, i, i, BLOCK, 100), 0);
    assert_int_equal(st_get(store, count, count, BLOCK, 100), CASCADE_MISS);
    assert_int_equal(st_stats(store).lost, 0);
    assert_int_equal(st_stats(store).tiers[CASCADE_TIER_FILE].drops, 0);
    assert_int_equal(st_stats(store).keys, count);
}

static void a_full_disk_harms_nothing(void **state)
{
    cascade_store *store;
    cascade_key key = st_key(0);
    cascade_view *view = NULL;
    uint64_t count;
    int code = CASCADE_ENOSPC;

    (void)state;
    make_disk(2048);
    store = st_open_with(disk_options());
    count = fill(store);
    assert_in_range(count, 66, 100); /* 4 MiB of dram, something on disk */
    assert_true(st_stats(store).file_degraded);
    assert_all(store, count);
    assert_int_equal(cascade_store_flush(store), CASCADE_ENOSPC);
    assert_string_not_equal(cascade_last_error(), "");
    assert_int_equal(st_put(store, 0, 0, BLOCK, 100, 0), 0); /* bound: needs no room */
    assert_int_equal(st_put(store, 3, 3, BLOCK, 100, CASCADE_PUT_SYNC), 0);
    code = cascade_block_view(store, &key, &view); /* if it is only on disk, there is no room for it */
    assert_true(code == 0 ? st_view_is(view, 0, BLOCK, 100) : code == CASCADE_ENOSPC);
    cascade_view_release(store, &view);
    assert_int_equal(st_put(store, 2000, 2000, BLOCK, 0, CASCADE_PUT_DURABLE), CASCADE_ENOSPC);
    assert_all(store, count);
    /* A delete makes room in dram. */
    assert_int_equal(st_delete(store, count - 1), 0);
    for (int tries = 0; tries < 200 && (code = st_put(store, 2000, 2000, BLOCK, 0, 0)); tries++) {
        assert_int_equal(code, CASCADE_ENOSPC); /* the writer has yet to let go of it */
        st_sleep_ms(50);
    }
    assert_int_equal(code, 0);
    assert_int_equal(st_get(store, 2000, 2000, BLOCK, 0), 0);
    assert_int_equal(st_put(store, 2001, 2001, BLOCK, 0, 0), CASCADE_ENOSPC);
    assert_int_equal(st_delete(store, 2000), 0);
    /* Heals by itself. */
    grow_disk(32768);
    for (int tries = 0; tries < 100 && (code = st_put(store, 3000, 3000, BLOCK, 0, 0)); tries++) {
        assert_int_equal(code, CASCADE_ENOSPC);
        st_sleep_ms(50);
    }
    assert_int_equal(code, 0);
    assert_int_equal(cascade_store_flush(store), 0);
    assert_int_equal(st_stats(store).file_degraded, 0);
    assert_int_equal(st_stats(store).dirty_bytes, 0);
    assert_int_equal(st_delete(store, 3000), 0);
    assert_all(store, count - 1);
    st_close(&store);
    store = st_open_with(disk_options());
    assert_all(store, count - 1);
    st_close(&store);
}

static void a_close_that_cannot_flush(void **state)
{
    cascade_store *store;
    char filler[700];
    uint64_t count;
    int fd;

    (void)state;
    make_disk(8192);
    snprintf(filler, sizeof filler, "%s/filler", disk);
    fd = open(filler, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(posix_fallocate(fd, 0, 7 * 1024 * 1024), 0);
    store = st_open_with(disk_options());
    count = fill(store);
    assert_int_equal(st_delete(store, count - 1), 0);
    for (int tries = 0; tries < 2; tries++) {
        assert_int_equal(cascade_store_close(&store), CASCADE_ENOSPC);
        assert_null(store);
        assert_non_null(strstr(cascade_last_error(), st_shm())); /* says where the rest waits */
        assert_int_equal(st_shm_count(), 1);
        store = st_open_with(disk_options());
        assert_true(st_stats(store).recovered_blocks > 0);
        assert_all(store, count - 1);
    }
    close(fd);
    assert_int_equal(unlink(filler), 0);
    assert_int_equal(cascade_store_flush(store), 0);
    assert_all(store, count - 1);
    st_close(&store);
    store = st_open_with(disk_options());
    assert_int_equal(st_stats(store).recovered_blocks, 0);
    assert_all(store, count - 1);
    st_close(&store);
}

/* All of the disk is the open segment's, which has no room for its index. What is deleted there comes
 * back all the same. */
static void deletes_make_room_on_a_full_disk(void **state)
{
    cascade_store *store;
    uint64_t count;
    int code = CASCADE_ENOSPC;

    (void)state;
    make_disk(2048);
    store = st_open_with(disk_options());
    count = fill(store);
    for (uint64_t i = 0; i < count; i++)
        assert_int_equal(st_delete(store, i), 0);
    for (int tries = 0; tries < 300 && code; tries++) {
        code = st_put(store, 2000, 2000, BLOCK, 0, CASCADE_PUT_DURABLE);
        st_sleep_ms(code ? 50 : 0);
    }
    assert_int_equal(code, 0);
    assert_int_equal(cascade_store_flush(store), 0);
    st_close(&store);
    store = st_open_with(disk_options());
    assert_int_equal(st_get(store, 2000, 2000, BLOCK, 0), 0);
    assert_int_equal(st_stats(store).keys, 1);
    st_close(&store);
}

static void full_before_there_is_a_store(void **state)
{
    cascade_options options;
    cascade_store *store = NULL;
    char filler[700];
    int fd, code;

    (void)state;
    make_disk(64);
    options = disk_options();
    snprintf(filler, sizeof filler, "%s/filler", disk);
    fd = open(filler, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(posix_fallocate(fd, 0, 64 * 1024), 0);
    close(fd);
    code = cascade_store_open(&options, &store);
    assert_int_equal(code, CASCADE_ENOSPC);
    assert_null(store);
    assert_int_equal(st_shm_count(), 0);
    assert_int_equal(unlink(filler), 0);
    store = st_open_with(options);
    st_close(&store);
}

/* Shared memory smaller than the budget says: what there is, is used. */
static void shared_memory_is_full(void **state)
{
    cascade_options options = st_options();
    cascade_store *store;

    (void)state;
    make_disk(8 * 1024);
    options.shm_directory = disk;
    options.dram_bytes = 64 * ST_MIB;
    store = st_open_with(options);
    for (uint64_t i = 0; i < 300; i++) {
        assert_int_equal(st_put(store, i, i, BLOCK, 100, 0), 0);
        assert_int_equal(st_get(store, i / 2, i / 2, BLOCK, 100), 0);
    }
    assert_all(store, 300);
    assert_in_range(st_stats(store).tiers[CASCADE_TIER_DRAM].capacity_bytes, ST_MIB, 8 * ST_MIB);
    assert_int_equal(cascade_store_close(&store), 0);
    /* Not even room for the index. */
    grow_disk(4096); /* smaller, in truth */
    {
        char filler[700];
        int fd;

        snprintf(filler, sizeof filler, "%s/filler", disk);
        fd = open(filler, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        assert_int_equal(posix_fallocate(fd, 0, 4096 * 1024 - 8192), 0);
        close(fd);
        assert_int_equal(cascade_store_open(&options, &store), CASCADE_ENOSPC);
        assert_null(store);
        assert_int_equal(unlink(filler), 0);
    }
    store = st_open_with(options);
    assert_all(store, 300);
    assert_int_equal(cascade_store_close(&store), 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, st_setup, disk_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(the_oldest_go),
        CASE(what_dram_holds_survives),
        CASE(budgets_that_cannot_be_met),
        CASE(many_keys_fill_a_budget),
        CASE(small_rounds_stay_within_the_budget),
        CASE(a_dropped_block_is_not_a_lost_one),
        CASE(a_bind_left_over_stays_away),
        CASE(a_delete_under_a_drop_stays),
        CASE(a_full_disk_harms_nothing),
        CASE(a_close_that_cannot_flush),
        CASE(deletes_make_room_on_a_full_disk),
        CASE(full_before_there_is_a_store),
        CASE(shared_memory_is_full),
    };

    return cmocka_run_group_tests_name("store budget", tests, NULL, NULL);
}
