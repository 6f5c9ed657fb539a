/* SPDX-License-Identifier: MIT */
/* The age limit, by a time of day that the test sets forward. */
#include "store/store_testing.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { BLOCK = 30000, BLOCKS = 20, AGE_S = 1000 };

static _Atomic time_t ahead_s;

/* In place of the C library's. */
int clock_gettime(clockid_t clock, struct timespec *now)
{
    int rc = (int)syscall(SYS_clock_gettime, clock, now);

    if (rc == 0 && clock == CLOCK_REALTIME)
        now->tv_sec += atomic_load(&ahead_s);
    return rc;
}

static void blocks_that_nobody_asks_for_go(void **state)
{
    cascade_options options = st_options();
    cascade_gc_report report;
    cascade_store *store = st_open_with(options);

    (void)state;
    for (uint64_t i = 0; i < BLOCKS; i++)
        assert_int_equal(st_put(store, i, i, BLOCK, 0, 0), 0);
    st_close(&store);
    options.file_age_s = AGE_S;
    store = st_open_with(options);
    assert_int_equal(cascade_store_gc(store, false, &report, NULL, NULL), 0);
    assert_int_equal(st_stats(store).aged_blocks, 0);
    assert_int_equal(st_get(store, 7, 7, BLOCK, 0), 0);
    atomic_fetch_add(&ahead_s, AGE_S + 2);
    /* The store may have looked by itself in between. */
    assert_int_equal(cascade_store_gc(store, true, &report, NULL, NULL), 0);
    assert_in_range(report.dropped_blocks + st_stats(store).aged_blocks, BLOCKS - 1, 2 * BLOCKS);
    assert_int_equal(cascade_store_gc(store, false, &report, NULL, NULL), 0);
    assert_int_equal(st_get(store, 7, 7, BLOCK, 0), 0);
    assert_int_equal(st_get(store, 8, 8, BLOCK, 0), CASCADE_MISS);
    assert_int_equal(st_stats(store).aged_blocks, st_stats(store).tiers[CASCADE_TIER_FILE].drops);
    assert_int_equal(st_stats(store).aged_blocks, BLOCKS - 1);
    st_close(&store);
    store = st_open();
    assert_int_equal(st_get(store, 8, 8, BLOCK, 0), CASCADE_MISS);
    st_close(&store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(blocks_that_nobody_asks_for_go, st_setup, st_teardown),
    };

    return cmocka_run_group_tests_name("store age", tests, NULL, NULL);
}
