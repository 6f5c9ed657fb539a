/* SPDX-License-Identifier: MIT */
/* Two nodes over one directory: blocks of which there are several copies, since one node moved them or
 * both had them. Where one copy goes or is damaged, the others are found, and nothing is deleted. */
#include "base/mark.h"
#include "store/store_private.h"
#include "store/store_two_nodes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- moved ---------------------------------------------------------------------------------------- */

static void (*between)(void);

/* The copies are on disk, what they were made of is there still. */
static void pause_moving(const char *name)
{
    void (*now)(void) = between;

    if (strcmp(name, "compact: synced") != 0)
        return;
    between = NULL;
    if (now)
        now();
}

static void look_here(void)
{
    assert_true(csc_discover_now(here));
}

static void open_here(void)
{
    cascade_options options = options_of(0, false);

    options.refresh_ms = HOUR_MS;
    here = st_open_with(options);
}

/* Moves every `step`-th of 40 blocks there, while `look` is called in between, and uses the files again.
 */
static void move_there(uint64_t step, void (*look)(void))
{
    cascade_gc_report report;

    for (uint64_t i = 0; i < 40; i++)
        if (i % step)
            assert_int_equal(st_delete(there, i), 0);
    between = look;
    atomic_store(&csc_mark_hook_now, pause_moving);
    assert_int_equal(cascade_store_gc(there, false, &report, NULL, NULL), 0);
    atomic_store(&csc_mark_hook_now, NULL);
    assert_null(between);
    assert_true(report.moved_segments > 1);
    for (uint64_t i = 0; i < 60; i++)
        put_there(200 + i, 200 + i);
    assert_true(st_stats(there).recycled_segments > 0);
}

static void put_forty_there(void)
{
    cascade_options options = options_of(1, true);

    options.segment_bytes = 256 << 10;
    there = st_open_with(options);
    for (uint64_t i = 0; i < 40; i++)
        put_there(i, i);
    close_one(&there);
    there = st_open_with(options_of(1, true));
}

static void moved_blocks_are_there(void)
{
    for (uint64_t i = 0; i < 40; i += 4)
        assert_int_equal(st_get(here, i, i, K, V), 0);
    assert_int_equal(st_stats(here).lost, 0);
    /* At most those that were deleted there, of whose deletes nothing may be left to see. */
    assert_in_range(st_stats(here).tiers[CASCADE_TIER_FILE].drops, 0, 30);
    assert_int_equal(cascade_store_flush(here), 0);
    close_one(&here);
    close_one(&there);
    here = st_open_with(options_of(1, false));
    for (uint64_t i = 0; i < 40; i++)
        assert_int_equal(st_get(here, i, i, K, V), i % 4 ? CASCADE_MISS : 0);
}

/* What the other removed is a miss here, and no loss of ours: not before it is known, if
 * nobody can look where it is. */
static void what_the_other_dropped_is_no_loss(void **state)
{
    cascade_options options = options_of(0, false);

    (void)state;
    put_forty_there();
    options.refresh_ms = HOUR_MS;
    options.io_deadline_ms = 50;
    here = st_open_with(options);
    move_there(40, NULL);
    atomic_store(&directory_hangs, true);
    for (uint64_t i = 1; i < 40; i++) {
        int code = st_get(here, i, i, K, V);

        assert_true(code == 0 || code == CASCADE_MISS); /* a file may be open still */
    }
    atomic_store(&directory_hangs, false);
    assert_int_equal(st_stats(here).tiers[CASCADE_TIER_FILE].drops, 0);
    /* On a slow machine the deadline may pass a few times more. */
    while (!csc_discover_now(here))
        ;
    for (uint64_t i = 1; i < 40; i++)
        assert_int_equal(st_get(here, i, i, K, V), CASCADE_MISS);
    assert_int_equal(st_stats(here).lost, 0);
    while (st_get(here, 0, 0, K, V) == CASCADE_MISS)
        st_sleep_ms(10);
    assert_int_equal(st_get(here, 0, 0, K, V), 0);
}

/* The copies were seen while a better known one was there, and are not visited again. */
static void seen_while_they_are_moved(void **state)
{
    (void)state;
    put_forty_there();
    open_here();
    move_there(4, look_here);
    moved_blocks_are_there();
}

/* The next look tells that the old ones are gone. */
static void seen_again_when_they_were_moved(void **state)
{
    (void)state;
    put_forty_there();
    open_here();
    move_there(4, look_here);
    look_here();
    moved_blocks_are_there();
}

static void put_one_here(void)
{
    assert_int_equal(st_put(here, 110, 1, K, V, CASCADE_PUT_DURABLE), 0);
    st_push_out(here, 110, 1000);
}

/* Key 110 is put here while its block, of which there is no copy here, is moved. Where it is moved to
 * cannot be read for a while, and whoever looks sees only that the old place is gone. */
static void moved_out_of_sight(bool read_meanwhile)
{
    cascade_gc_report report;
    char path[700], away[800];

    there = st_open_with(hourly(1, true));
    for (uint64_t i = 1; i < 20; i++)
        put_there(i, i);
    close_one(&there);
    there = st_open_with(hourly(1, true));
    here = st_open_with(options_of(0, false));
    for (uint64_t i = 2; i < 20; i++)
        assert_int_equal(st_delete(there, i), 0);
    between = put_one_here;
    atomic_store(&csc_mark_hook_now, pause_moving);
    assert_int_equal(cascade_store_gc(there, false, &report, NULL, NULL), 0);
    atomic_store(&csc_mark_hook_now, NULL);
    assert_null(between);
    close_one(&there);
    snprintf(path, sizeof path, "%s", path_there());
    snprintf(away, sizeof away, "%s.away", path);
    assert_int_equal(rename(path, away), 0);
    assert_int_equal(symlink(path, path), 0);
    assert_int_equal(get_later(here, 99, 99), CASCADE_MISS); /* looks */
    if (read_meanwhile)
        assert_int_equal(get_later(here, 110, 1), CASCADE_MISS);
    assert_int_equal(rename(away, path), 0);
    assert_int_equal(get_later(here, 99, 99), CASCADE_MISS);
    assert_int_equal(st_get(here, 110, 1, K, V), 0);
    assert_int_equal(st_get(here, 1, 1, K, V), 0);
    /* At most those that were deleted there, of whose deletes nothing may be left to see. */
    assert_in_range(st_stats(here).tiers[CASCADE_TIER_FILE].drops, 0, 18);
}

static void what_is_gone_waits_for_a_whole_look(void **state)
{
    (void)state;
    moved_out_of_sight(false);
}

static void a_read_of_what_moved_out_of_sight(void **state)
{
    (void)state;
    moved_out_of_sight(true);
}

static void opened_while_they_are_moved(void **state)
{
    (void)state;
    put_forty_there();
    move_there(4, open_here);
    moved_blocks_are_there();
}

/* Nothing is damaged that is only somewhere else. */
static void a_scrub_of_moved_blocks(void **state)
{
    cascade_verify_report report = {0};

    (void)state;
    put_forty_there();
    open_here();
    move_there(4, look_here);
    assert_int_equal(cascade_store_verify(here, &report, NULL, NULL), 0);
    assert_int_equal(report.damaged[CASCADE_TIER_FILE], 0);
    assert_true(report.blocks[CASCADE_TIER_FILE] >= 10);
    moved_blocks_are_there();
}

/* ---- both have it --------------------------------------------------------------------------------- */

/* Both have put the block, and do not know of each other's. Here it becomes too old. */
static void age_deletes_nothing_that_both_have(void **state)
{
    cascade_options options = hourly(0, false);
    cascade_gc_report report;

    (void)state;
    there = st_open_with(hourly(1, true));
    here = st_open_with(options);
    for (uint64_t i = 0; i < 20; i++) /* sequences here are far ahead */
        assert_int_equal(st_put(here, i, i, K, V, 0), 0);
    close_one(&here);
    options.file_age_s = 1;
    here = st_open_with(options);
    put_there(1, 1);
    close_one(&there);
    st_sleep_ms(2100);
    assert_int_equal(cascade_store_gc(here, false, &report, NULL, NULL), 0);
    assert_int_equal(st_stats(here).keys, 0);
    close_one(&here);
    there = st_open_with(hourly(1, true));
    assert_int_equal(st_get(there, 1, 1, K, V), 0);
    assert_int_equal(st_get(there, 2, 2, K, V), CASCADE_MISS);
}

/* The copy here is damaged, and nobody has looked whether the other has one. */
static void both_have_what_is_damaged_here(void (*notice)(void))
{
    uint8_t kept[64];

    there = st_open_with(hourly(1, true));
    here = st_open_with(hourly(0, false));
    for (uint64_t i = 0; i < 20; i++)
        assert_int_equal(st_put(here, 100 + i, 100 + i, K, V, 0), 0);
    close_one(&here);
    here = st_open_with(hourly(0, false));
    put_there(100, 100);
    tear(st_segment_path(0), kept, false);
    notice();
    assert_true(st_stats(here).tiers[CASCADE_TIER_FILE].quarantined > 0);
    assert_int_equal(st_get(here, 100, 100, K, V), 0);
    close_one(&here);
    close_one(&there);
    for (uint32_t rank = 0; rank < 2; rank++) {
        here = st_open_with(hourly(rank, false));
        assert_int_equal(st_get(here, 100, 100, K, V), 0);
        close_one(&here);
    }
}

static void notice_by_reading(void)
{
    assert_int_equal(st_get(here, 100, 100, K, V), 0);
}

static void notice_by_scrubbing(void)
{
    cascade_verify_report report = {0};

    assert_int_equal(cascade_store_verify(here, &report, NULL, NULL), CASCADE_ECORRUPT);
    assert_int_equal(report.damaged[CASCADE_TIER_FILE], 1);
}

static void notice_by_moving(void)
{
    cascade_gc_report report;

    for (uint64_t i = 10; i < 20; i++)
        assert_int_equal(st_delete(here, 100 + i), 0);
    assert_int_equal(cascade_store_gc(here, false, &report, NULL, NULL), 0);
    assert_true(st_stats(here).compactions > 0);
}

static void what_is_damaged_here_is_read_there(void **state)
{
    (void)state;
    both_have_what_is_damaged_here(notice_by_reading);
}

static void what_a_scrub_finds_is_read_there(void **state)
{
    (void)state;
    both_have_what_is_damaged_here(notice_by_scrubbing);
}

static void what_cannot_be_moved_is_read_there(void **state)
{
    (void)state;
    both_have_what_is_damaged_here(notice_by_moving);
}

/* Both have put the blocks, and there is no room for all of them here: they are read there. */
static void what_the_budget_drops_is_read_there(void **state)
{
    cascade_options options = options_of(0, false);

    (void)state;
    options.file_budget_bytes = 4 * ST_MIB;
    options.segment_bytes = 256 * ST_KIB;
    options.dram_bytes = ST_MIB;
    here = st_open_with(options);
    there = st_open_with(hourly(1, true));
    for (uint64_t i = 0; i < 10; i++) {
        assert_int_equal(st_put(here, i, i, K, V, CASCADE_PUT_DURABLE), 0);
        put_there(i, i);
    }
    for (uint64_t i = 100; i < 600; i++)
        assert_int_equal(st_put(here, i, i, K, V, 0), 0);
    assert_int_equal(cascade_store_flush(here), 0);
    assert_true(st_stats(here).tiers[CASCADE_TIER_FILE].drops > 0);
    for (uint64_t i = 0; i < 10; i++)
        assert_int_equal(st_get(here, i, i, K, V), 0);
    close_one(&here);
    for (uint64_t i = 0; i < 10; i++)
        assert_int_equal(st_get(there, i, i, K, V), 0);
}

/* ---- flushed ---------------------------------------------------------------------------------- */

static _Atomic bool writer_held, flush_returned;
static _Atomic unsigned rounds, synced;

/* The first round here stands still until it is let go; the third gives a flush that does not wait for
 * it the time to return. */
static void hold_rounds(const char *name)
{
    unsigned round = strcmp(name, "write: written") == 0 ? atomic_fetch_add(&rounds, 1) + 1 : 0;

    while (round == 1 && atomic_load(&writer_held))
        st_sleep_ms(1);
    for (int i = 0; round == 3 && i < 300 && !atomic_load(&flush_returned); i++)
        st_sleep_ms(1);
    if (strcmp(name, "write: synced") == 0)
        atomic_fetch_add(&synced, 1);
}

static void *flush_here(void *context)
{
    (void)context;
    assert_int_equal(cascade_store_flush(here), 0);
    atomic_store(&flush_returned, true);
    return NULL;
}

/* More keys than a record has room for share a block of the other's, which goes while they are flushed:
 * it is written again, its record, then what did not fit. */
static void a_flush_waits_for_all_keys_of_a_block(void **state)
{
    enum { KEYS = CSC_BINDINGS_MAX + 100 };
    pthread_t flusher;

    (void)state;
    open_here();
    there = st_open_with(options_of(1, true));
    put_there(1, 1);
    close_one(&there);
    look_here();
    assert_int_equal(st_get(here, 1, 1, K, V), 0);
    assert_true(st_info(here, 1).in_dram);
    atomic_store(&writer_held, true);
    atomic_store(&csc_mark_hook_now, hold_rounds);
    assert_int_equal(st_put(here, 50, 50, K, V, 0), 0);
    while (atomic_load(&rounds) == 0)
        st_sleep_ms(1);
    for (uint64_t i = 0; i < KEYS; i++)
        assert_int_equal(st_put(here, 1000 + i, 1, K, V, CASCADE_PUT_SYNC), 0);
    pthread_create(&flusher, NULL, flush_here, NULL);
    for (bool waits = false; !waits; st_sleep_ms(1)) {
        pthread_mutex_lock(&here->lock);
        waits = here->waiting_flushes > 0;
        pthread_mutex_unlock(&here->lock);
    }
    assert_int_equal(unlink(path_there()), 0);
    look_here();
    atomic_store(&writer_held, false);
    pthread_join(flusher, NULL);
    assert_true(atomic_load(&synced) >= 3);
    atomic_store(&csc_mark_hook_now, NULL);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, two_setup, two_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(what_the_other_dropped_is_no_loss),
        CASE(seen_while_they_are_moved),
        CASE(seen_again_when_they_were_moved),
        CASE(what_is_gone_waits_for_a_whole_look),
        CASE(a_read_of_what_moved_out_of_sight),
        CASE(opened_while_they_are_moved),
        CASE(a_scrub_of_moved_blocks),
        CASE(age_deletes_nothing_that_both_have),
        CASE(what_is_damaged_here_is_read_there),
        CASE(what_a_scrub_finds_is_read_there),
        CASE(what_cannot_be_moved_is_read_there),
        CASE(what_the_budget_drops_is_read_there),
        CASE(a_flush_waits_for_all_keys_of_a_block),
    };

    return cmocka_run_group_tests_name("store, two nodes have it", tests, NULL, NULL);
}
