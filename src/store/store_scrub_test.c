/* SPDX-License-Identifier: MIT */
/* Scrubbing: what is damaged is found, in files and in dram, by hand and in the background; it keeps to
 * its rate, ends with the store, and empties segments without an index. */
#include "base/mark.h"
#include "store/store_private.h"
#include "store/store_testing.h"

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { KEYS = 8, BLOCK = 20 * 1024, PATIENCE_STEPS = 600 };

static const cascade_scrub_options full_speed = {.struct_bytes = sizeof full_speed};
static const cascade_scrub_options with_fix = {.struct_bytes = sizeof with_fix, .fix = true};

/* Flips a bit in the middle of a seed's block, wherever a file has it. Returns how many it found. An
 * arena is sparse and large. */
static int damage(const char *path, uint64_t seed)
{
    uint8_t start[64], page[64], byte;
    int fd = open(path, O_RDWR | O_CLOEXEC), found = 0;
    off_t from = 0, to;

    assert_true(fd >= 0);
    st_fill(start, sizeof start, seed);
    while ((from = lseek(fd, from, SEEK_DATA)) >= 0) {
        to = lseek(fd, from, SEEK_HOLE);
        for (off_t at = from / 4096 * 4096; at < to; at += 4096)
            if (pread(fd, page, sizeof page, at) == sizeof page &&
                memcmp(page, start, sizeof start) == 0) {
                assert_int_equal(pread(fd, &byte, 1, at + BLOCK / 2), 1);
                byte ^= 0x10;
                assert_int_equal(pwrite(fd, &byte, 1, at + BLOCK / 2), 1);
                found++;
            }
        from = to;
    }
    close(fd);
    return found;
}

static int damage_files(uint64_t seed)
{
    int found = 0;

    for (size_t i = 0; i < st_segment_count(); i++)
        found += damage(st_segment_path(i), seed);
    return found;
}

/* In the arena, under the store that has it open. */
static int damage_dram(uint64_t seed)
{
    DIR *directory = opendir(st_shm());
    struct dirent *entry;
    char path[1024];
    int found = 0;

    assert_non_null(directory);
    while ((entry = readdir(directory))) {
        struct stat info;

        snprintf(path, sizeof path, "%s/%s", st_shm(), entry->d_name);
        if (stat(path, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > BLOCK)
            found += damage(path, seed);
    }
    closedir(directory);
    return found;
}

static void put_all(cascade_store *store)
{
    for (uint64_t i = 0; i < KEYS; i++)
        assert_int_equal(st_put(store, i, i, BLOCK, 0, CASCADE_PUT_DURABLE), 0);
}

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- finding --------------------------------------------------------------------------------- */

static void damage_in_dram_is_replaced(void **state)
{
    cascade_verify_report report;
    cascade_store *store = st_open();

    (void)state;
    put_all(store);
    assert_int_equal(damage_dram(3), 1);
    assert_int_equal(st_get(store, 3, 3, BLOCK, 0), ST_WRONG); /* reads of dram check nothing */
    assert_int_equal(cascade_store_scrub(store, &full_speed, &report, NULL, NULL), CASCADE_ECORRUPT);
    assert_int_equal(report.damaged[CASCADE_TIER_DRAM], 1);
    assert_int_equal(report.damaged[CASCADE_TIER_FILE], 0);
    assert_int_equal(report.blocks[CASCADE_TIER_DRAM], KEYS - 1);
    assert_int_equal(report.blocks[CASCADE_TIER_FILE], KEYS);
    assert_int_equal(st_get(store, 3, 3, BLOCK, 0), 0);
    assert_int_equal(st_stats(store).tiers[CASCADE_TIER_DRAM].quarantined, 1);
    assert_int_equal(cascade_store_scrub(store, &full_speed, &report, NULL, NULL), 0);
    st_close(&store);
}

static void damage_in_pinned_dram_is_left_to_its_reader(void **state)
{
    cascade_verify_report report;
    cascade_store *store = st_open();
    cascade_key key = st_key(3);
    cascade_view *view;
    cascade_stats stats;

    (void)state;
    put_all(store);
    assert_int_equal(st_put(store, 100, 3, BLOCK, 0, CASCADE_PUT_DURABLE), 0); /* a second name */
    assert_int_equal(cascade_block_view(store, &key, &view), 0);
    assert_in_range(damage_dram(3), 1, 2); /* the second copy, merged since, may still lie there */
    assert_int_equal(cascade_store_scrub(store, &full_speed, &report, NULL, NULL), CASCADE_ECORRUPT);
    assert_int_equal(report.damaged[CASCADE_TIER_DRAM], 1);
    /* Who comes now gets right bytes, while the pin is held and after. */
    assert_int_equal(st_get(store, 3, 3, BLOCK, 0), 0);
    assert_int_equal(st_get(store, 100, 3, BLOCK, 0), 0);
    assert_false(st_view_is(view, 3, BLOCK, 0));
    assert_int_equal(cascade_store_scrub(store, &full_speed, &report, NULL, NULL), 0);
    cascade_view_release(store, &view);
    stats = st_stats(store);
    assert_int_equal(stats.contents, KEYS);
    assert_int_equal(stats.keys, KEYS + 1);
    assert_int_equal(stats.dedup_blocks, 1);
    assert_int_equal(stats.tiers[CASCADE_TIER_FILE].blocks, KEYS);
    assert_int_equal(stats.lost, 0);
    st_close(&store);
    store = st_open();
    assert_int_equal(st_get(store, 3, 3, BLOCK, 0), 0);
    assert_int_equal(st_get(store, 100, 3, BLOCK, 0), 0);
    st_close(&store);
}

/* All entries of contents are in use, and there can be no more. */
static void use_up_contents(cascade_store *store)
{
    csc_arena_header *header = store->index.header;

    for (uint64_t i = 1000; store->contents_made < atomic_load(&header->used[CSC_REGION_CONTENTS]) ||
                            store->contents_free.count;
         i++)
        assert_int_equal(st_put(store, i, i, 64, 0, 0), 0);
    header->geometry.regions[CSC_REGION_CONTENTS].max = store->contents_made;
    assert_int_equal(cascade_store_flush(store), 0);
}

/* Without an entry for the right copy the damaged one stays, as long as it is in use. */
static void damage_that_stays_in_use_counts_once(void **state)
{
    cascade_verify_report report;
    cascade_store *store = st_open();
    cascade_key key = st_key(3);
    cascade_view *view;

    (void)state;
    put_all(store);
    assert_int_equal(cascade_block_view(store, &key, &view), 0);
    assert_int_equal(damage_dram(3), 1);
    use_up_contents(store);
    for (int i = 0; i < 3; i++) {
        if (i == 2)
            cascade_view_release(store, &view);
        assert_int_equal(cascade_store_scrub(store, &full_speed, &report, NULL, NULL), CASCADE_ECORRUPT);
        assert_int_equal(report.damaged[CASCADE_TIER_DRAM], 1);
        assert_int_equal(st_stats(store).tiers[CASCADE_TIER_DRAM].quarantined, 1);
    }
    assert_int_equal(cascade_store_scrub(store, &full_speed, &report, NULL, NULL), 0);
    assert_int_equal(st_get(store, 3, 3, BLOCK, 0), 0);
    /* Should it be damaged again, that is another. */
    assert_int_equal(cascade_block_view(store, &key, &view), 0);
    assert_true(damage_dram(3) > 0); /* and where it was */
    cascade_view_release(store, &view);
    assert_int_equal(cascade_store_scrub(store, &full_speed, &report, NULL, NULL), CASCADE_ECORRUPT);
    assert_int_equal(st_stats(store).tiers[CASCADE_TIER_DRAM].quarantined, 2);
    st_close(&store);
}

static void damage_everywhere_is_a_miss(void **state)
{
    cascade_verify_report report;
    cascade_store *store = st_open();
    cascade_key key = st_key(3);
    cascade_view *view;

    (void)state;
    put_all(store);
    assert_int_equal(cascade_block_view(store, &key, &view), 0);
    assert_int_equal(damage_dram(3), 1);
    assert_int_equal(damage_files(3), 1);
    assert_int_equal(cascade_store_scrub(store, &full_speed, &report, NULL, NULL), CASCADE_ECORRUPT);
    assert_int_equal(report.damaged[CASCADE_TIER_DRAM], 1);
    assert_int_equal(report.damaged[CASCADE_TIER_FILE], 1);
    assert_int_equal(st_get(store, 3, 3, BLOCK, 0), CASCADE_MISS);
    cascade_view_release(store, &view);
    assert_int_equal(st_put(store, 3, 3, BLOCK, 0, CASCADE_PUT_DURABLE), 0);
    assert_int_equal(st_get(store, 3, 3, BLOCK, 0), 0);
    st_close(&store);
}

/* ---- pace ------------------------------------------------------------------------------------ */

static void it_keeps_to_its_rate(void **state)
{
    const cascade_scrub_options slow = {.struct_bytes = sizeof slow, .rate_bytes = 640 * ST_KIB};
    cascade_verify_report report;
    cascade_store *store = st_open();
    uint64_t begin_ms;

    (void)state;
    put_all(store);
    begin_ms = now_ms();
    assert_int_equal(cascade_store_scrub(store, &slow, &report, NULL, NULL), 0);
    assert_int_equal(report.bytes, 2 * KEYS * BLOCK); /* in both tiers */
    assert_true(now_ms() - begin_ms >= 490);          /* 320 KiB */
    st_close(&store);
}

static int stop(void *context, uint64_t done, uint64_t total)
{
    (void)done;
    (void)total;
    return ++*(int *)context == 3;
}

static void a_pause_can_be_stopped(void **state)
{
    const cascade_scrub_options crawl = {.struct_bytes = sizeof crawl, .rate_bytes = 1};
    cascade_verify_report report;
    cascade_store *store = st_open();
    int calls = 0;

    (void)state;
    put_all(store);
    assert_int_equal(cascade_store_scrub(store, &crawl, &report, stop, &calls), CASCADE_EAGAIN);
    assert_int_equal(calls, 3);
    assert_int_equal(report.bytes, BLOCK); /* the pause after the first block would last hours */
    st_close(&store);
}

/* ---- in the background ----------------------------------------------------------------------- */

static void the_background_finds_damage(void **state)
{
    cascade_options options = st_options();
    cascade_store *store = st_open();

    (void)state;
    put_all(store);
    st_close(&store);
    assert_int_equal(damage_files(5), 1);
    options.scrub_interval_s = 1;
    store = st_open_with(options);
    for (int i = 0; i < PATIENCE_STEPS && st_stats(store).tiers[CASCADE_TIER_FILE].blocks == KEYS; i++)
        st_sleep_ms(100);
    assert_int_equal(st_stats(store).tiers[CASCADE_TIER_FILE].quarantined, 1);
    assert_int_equal(st_get(store, 5, 5, BLOCK, 0), CASCADE_MISS);
    assert_int_equal(st_get(store, 4, 4, BLOCK, 0), 0);
    st_close(&store);
}

static void the_background_ends_with_the_store(void **state)
{
    cascade_options options = st_options();
    cascade_store *store;

    (void)state;
    options.scrub_interval_s = 1;
    options.background_rate_bytes = 1;
    store = st_open_with(options);
    put_all(store);
    st_sleep_ms(1500); /* it has begun, and pauses for hours */
    st_close(&store);
}

/* ---- segments without an index --------------------------------------------------------------- */

static void fill(cascade_store *store)
{
    for (uint64_t i = 0; i < KEYS; i++)
        ST_CHECK(st_put(store, i, i, BLOCK, 0, CASCADE_PUT_DURABLE) == 0);
    for (uint64_t i = 0; i < 50; i++) /* names of one content */
        ST_CHECK(st_put(store, 100 + i, 2, BLOCK, 0, CASCADE_PUT_SYNC) == 0);
    ST_CHECK(st_delete(store, 7) == 0);
}

static void leave_unsealed(void *context)
{
    cascade_store *store;
    cascade_options options = st_options();

    (void)context;
    ST_CHECK(cascade_store_open(&options, &store) == 0);
    fill(store);
    ST_CHECK(cascade_store_flush(store) == 0);
    kill(getpid(), SIGKILL);
}

static void expect_all(cascade_store *store)
{
    for (uint64_t i = 0; i < KEYS; i++)
        assert_int_equal(st_get(store, i, i, BLOCK, 0), i == 7 ? CASCADE_MISS : 0);
    for (uint64_t i = 0; i < 50; i++)
        assert_int_equal(st_get(store, 100 + i, 2, BLOCK, 0), 0);
}

/* All that lives in the first segment is elsewhere afterwards: it goes, and nothing is missed. */
static void fix_the_first_segment(uint64_t rate_bytes)
{
    cascade_scrub_options options = with_fix;
    cascade_verify_report report;
    cascade_store *store = st_open();
    char first[1024];

    options.rate_bytes = rate_bytes;
    assert_int_equal(st_segment_count(), 1);
    snprintf(first, sizeof first, "%s", st_segment_path(0));
    expect_all(store);
    st_push_out(store, 3, 1000); /* some have to be read first */
    assert_int_equal(cascade_store_scrub(store, &options, &report, NULL, NULL), 0);
    assert_int_not_equal(access(first, F_OK), 0);
    assert_int_equal(st_stats(store).compactions, 1);
    expect_all(store);
    st_close(&store);
    store = st_open();
    expect_all(store);
    assert_int_equal(cascade_store_scrub(store, &with_fix, &report, NULL, NULL), 0);
    assert_int_equal(st_stats(store).compactions, 0);
    st_close(&store);
}

static void an_unsealed_segment_is_emptied(void **state)
{
    (void)state;
    assert_int_equal(st_wait(st_spawn(leave_unsealed, NULL)), -SIGKILL);
    st_lose_memory();
    fix_the_first_segment(0);
}

static void a_segment_with_a_damaged_index_is_emptied(void **state)
{
    cascade_store *store;
    struct stat info;
    uint8_t byte;
    int fd;

    (void)state;
    store = st_open();
    fill(store);
    st_close(&store);
    fd = open(st_segment_path(0), O_RDWR | O_CLOEXEC);
    assert_int_equal(fstat(fd, &info), 0);
    assert_int_equal(pread(fd, &byte, 1, info.st_size - 4090), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, info.st_size - 4090), 1);
    close(fd);
    fix_the_first_segment(64 * ST_MIB);
}

static void leave_a_bind(void *context)
{
    cascade_store *store;
    cascade_options options = st_options();

    (void)context;
    ST_CHECK(cascade_store_open(&options, &store) == 0);
    ST_CHECK(st_put(store, 100, 2, BLOCK, 0, CASCADE_PUT_DURABLE) == 0);
    kill(getpid(), SIGKILL);
}

static void a_bind_alone_is_kept(void **state)
{
    cascade_verify_report report;
    cascade_store *store = st_open();

    (void)state;
    put_all(store);
    st_close(&store);
    assert_int_equal(st_wait(st_spawn(leave_a_bind, NULL)), -SIGKILL);
    st_lose_memory();
    assert_int_equal(st_segment_count(), 2);
    store = st_open();
    assert_int_equal(cascade_store_scrub(store, &with_fix, &report, NULL, NULL), 0);
    st_close(&store);
    assert_int_equal(st_segment_count(), 2);
    store = st_open();
    assert_int_equal(st_get(store, 100, 2, BLOCK, 0), 0);
    st_close(&store);
}

static cascade_options options_with(const char *key_file)
{
    cascade_options options = st_options();

    options.key_file = key_file;
    return options;
}

static void leave_a_delete(void *key_file)
{
    cascade_store *store = st_open_with(options_with(key_file));
    uint64_t number = key_file ? 101 : 100;

    ST_CHECK(st_put(store, number, number, BLOCK, 0, CASCADE_PUT_DURABLE) == 0);
    ST_CHECK(st_delete(store, 3) == 0);
    ST_CHECK(cascade_store_flush(store) == 0);
    kill(getpid(), SIGKILL);
}

/* The segment that goes holds the delete of a block that lies in another. */
static void a_delete_is_kept(void **state)
{
    char path[] = "/tmp/store_scrub_test_XXXXXX";
    int fd = mkstemp(path);

    (void)state;
    assert_true(fd >= 0);
    for (int i = 0; i < 64; i++)
        assert_int_equal(write(fd, "5", 1), 1);
    for (int encrypted = 0; encrypted < 2; encrypted++) {
        char *key_file = encrypted ? path : NULL;
        cascade_store *store = st_open_with(options_with(key_file));
        cascade_verify_report report;

        put_all(store);
        st_close(&store);
        assert_int_equal(st_wait(st_spawn(leave_a_delete, key_file)), -SIGKILL);
        st_lose_memory();
        store = st_open_with(options_with(key_file));
        assert_int_equal(cascade_store_scrub(store, &with_fix, &report, NULL, NULL), 0);
        assert_int_equal(st_stats(store).compactions, 1);
        st_close(&store);
        store = st_open_with(options_with(key_file));
        for (uint64_t i = 0; i < KEYS; i++)
            assert_int_equal(st_get(store, i, i, BLOCK, 0), i == 3 ? CASCADE_MISS : 0);
        assert_int_equal(st_get(store, 100 + encrypted, 100 + encrypted, BLOCK, 0), 0);
        st_close(&store);
    }
    close(fd);
    unlink(path);
}

static atomic_int marks_left;

static void die_at_the_last(const char *name)
{
    (void)name;
    if (atomic_fetch_sub(&marks_left, 1) == 1)
        kill(getpid(), SIGKILL);
}

static void fix_and_die(void *context)
{
    cascade_store *store = st_open();
    cascade_verify_report report;

    (void)context;
    atomic_store(&csc_mark_hook_now, die_at_the_last);
    ST_CHECK(cascade_store_scrub(store, &with_fix, &report, NULL, NULL) == 0);
    atomic_store(&csc_mark_hook_now, NULL);
    st_close(&store);
}

static void killed_while_it_is_emptied(void **state)
{
    int status = -SIGKILL, last = 1;

    (void)state;
    for (; status == -SIGKILL; last++) {
        cascade_store *store;

        assert_int_equal(st_wait(st_spawn(leave_unsealed, NULL)), -SIGKILL);
        st_lose_memory();
        atomic_store(&marks_left, last);
        status = st_wait(st_spawn(fix_and_die, NULL));
        assert_true(status == 0 || status == -SIGKILL);
        if (last % 2)
            st_lose_memory();
        store = st_open();
        expect_all(store);
        st_close(&store);
        store = st_open();
        expect_all(store);
        st_close(&store);
    }
    assert_true(last > 6);
}

static atomic_bool copied;

static void note_copied(const char *name)
{
    if (strcmp(name, "compact: copied") == 0)
        atomic_store(&copied, true);
}

static int stop_when_copied(void *context, uint64_t done, uint64_t total)
{
    (void)context;
    (void)done;
    (void)total;
    return atomic_load(&copied);
}

/* It ends after the segment that is being emptied. */
static void a_fix_can_be_stopped(void **state)
{
    cascade_verify_report report;
    cascade_store *store;

    (void)state;
    for (int i = 0; i < 2; i++)
        assert_int_equal(st_wait(st_spawn(i ? leave_a_delete : leave_unsealed, NULL)), -SIGKILL);
    st_lose_memory();
    store = st_open();
    atomic_store(&copied, false);
    atomic_store(&csc_mark_hook_now, note_copied);
    assert_int_equal(cascade_store_scrub(store, &with_fix, &report, stop_when_copied, NULL),
                     CASCADE_EAGAIN);
    atomic_store(&csc_mark_hook_now, NULL);
    assert_int_equal(st_stats(store).compactions, 1);
    assert_int_equal(cascade_store_scrub(store, &with_fix, &report, NULL, NULL), 0);
    assert_int_equal(st_stats(store).compactions, 2);
    for (uint64_t i = 0; i < KEYS; i++)
        assert_int_equal(st_get(store, i, i, BLOCK, 0), i == 3 || i == 7 ? CASCADE_MISS : 0);
    st_close(&store);
}

static void sealed_segments_stay_as_they_are(void **state)
{
    cascade_verify_report report;
    cascade_store *store = st_open();

    (void)state;
    put_all(store);
    st_close(&store);
    store = st_open();
    assert_int_equal(cascade_store_scrub(store, &with_fix, &report, NULL, NULL), 0);
    st_close(&store);
    assert_int_equal(st_segment_count(), 1);
}

static void bad_arguments(void **state)
{
    cascade_scrub_options options = {0};
    cascade_verify_report report;
    cascade_store *store = st_open();

    (void)state;
    assert_int_equal(cascade_store_scrub(store, NULL, &report, NULL, NULL), CASCADE_EINVAL);
    assert_int_equal(cascade_store_scrub(store, &options, &report, NULL, NULL), CASCADE_EINVAL);
    assert_int_equal(cascade_store_scrub(store, &full_speed, NULL, NULL, NULL), CASCADE_EINVAL);
    assert_int_equal(cascade_store_scrub(NULL, &full_speed, &report, NULL, NULL), CASCADE_EINVAL);
    st_close(&store);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, st_setup, st_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(damage_in_dram_is_replaced),
        CASE(damage_in_pinned_dram_is_left_to_its_reader),
        CASE(damage_that_stays_in_use_counts_once),
        CASE(damage_everywhere_is_a_miss),
        CASE(it_keeps_to_its_rate),
        CASE(a_pause_can_be_stopped),
        CASE(the_background_finds_damage),
        CASE(the_background_ends_with_the_store),
        CASE(an_unsealed_segment_is_emptied),
        CASE(a_segment_with_a_damaged_index_is_emptied),
        CASE(a_bind_alone_is_kept),
        CASE(a_delete_is_kept),
        CASE(killed_while_it_is_emptied),
        CASE(a_fix_can_be_stopped),
        CASE(sealed_segments_stay_as_they_are),
        CASE(bad_arguments),
    };

    return cmocka_run_group_tests_name("store scrub", tests, NULL, NULL);
}
