/* SPDX-License-Identifier: MIT */
/* Room in dram where most of it may go only after a look at what others wrote. */
#include "store/store_two_nodes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* Dram has room for 64 blocks, files for about 20: the others that dram holds may go only after a look.
 * Nobody else makes room. */
static cascade_options crowded(void)
{
    cascade_options options = options_of(0, false);

    options.dram_bytes = 512 * ST_KIB;
    options.file_budget_bytes = 256 * ST_KIB;
    options.segment_bytes = 64 * ST_KIB;
    options.policy = "lru";
    options.io_deadline_ms = HOUR_MS;
    options.watermark_high_pct = 100;
    return options;
}

static void put_here(uint64_t first, uint64_t count)
{
    for (uint64_t i = first; i < first + count; i++) {
        assert_int_equal(st_put(here, i, i, K, V, 0), 0);
        if (i % 4 == 3)
            assert_int_equal(cascade_store_flush(here), 0);
    }
    assert_int_equal(cascade_store_flush(here), 0);
}

/* Notes which of these are in dram alone, and counts them. */
static size_t find_shed(bool *shed, uint64_t count)
{
    size_t found = 0;

    for (uint64_t i = 0; i < count; i++) {
        cascade_key key = st_key(i);
        cascade_info info = {0};

        shed[i] = cascade_block_info(here, &key, &info) == 0 && info.in_dram && !info.in_file;
        found += shed[i];
    }
    return found;
}

/* Without a look. */
static bool is_there(uint64_t number)
{
    cascade_key key = st_key(number);
    size_t matched;

    assert_int_equal(cascade_prefix_match(here, &key, 1, &matched), 0);
    return matched == 1;
}

/* A look is under way from here on, and does not end. */
static void hang(void)
{
    atomic_store(&directory_hangs, true);
    while (atomic_load(&directory_waiters) == 0) {
        assert_false(is_there(9999)); /* asks for one */
        st_sleep_ms(1);
    }
}

static cascade_tier_stats dram_stats(void)
{
    return st_stats(here).tiers[CASCADE_TIER_DRAM];
}

/* A put takes the place of those that files hold. Without any it waits as long as it may, and nothing
 * goes that others may have. */
static void a_put_waits_for_a_look_as_long_as_it_may(void **state)
{
    enum { COUNT = 200 };
    cascade_options options = crowded();
    bool shed[COUNT];
    uint64_t evictions, next = COUNT;
    int code;

    (void)state;
    options.put_wait_ms = 50;
    here = st_open_with(options);
    put_here(0, COUNT);
    assert_true(find_shed(shed, COUNT) > 10);
    evictions = dram_stats().evictions;
    hang();
    do
        code = st_put(here, next, next, K, V, 0);
    while (code == 0 && ++next < 2 * COUNT);
    assert_int_equal(code, CASCADE_ETIMEDOUT);
    assert_true(dram_stats().evictions > evictions);
    for (uint64_t i = 0; i < COUNT; i++)
        assert_true(!shed[i] || is_there(i));
    atomic_store(&directory_hangs, false);
    while (code == CASCADE_ETIMEDOUT)
        code = st_put(here, next, next, K, V, 0);
    assert_int_equal(code, 0);
}

/* So does the keeper, who waits for nobody. */
static void the_keeper_evicts_what_needs_no_look(void **state)
{
    enum { COUNT = 36, MORE = 6 };
    cascade_options options = crowded();
    bool shed[COUNT];

    (void)state;
    options.watermark_high_pct = 60;
    options.watermark_low_pct = 20;
    here = st_open_with(options);
    put_here(0, COUNT);
    assert_in_range(find_shed(shed, COUNT), 10, COUNT - MORE);
    assert_int_equal(dram_stats().evictions, 0);
    hang();
    for (uint64_t i = COUNT; i < COUNT + MORE; i++)
        assert_int_equal(st_put(here, i, i, K, V, 0), 0);
    while (dram_stats().evictions == 0)
        st_sleep_ms(10);
    st_sleep_ms(250); /* and again */
    for (uint64_t i = 0; i < COUNT; i++)
        assert_true(!shed[i] || is_there(i));
    atomic_store(&directory_hangs, false);
}

/* A look that the keeper had made is of use to it, though the next is due before it comes round. */
static void the_keeper_evicts_after_its_look(void **state)
{
    enum { COUNT = 36, PINNED = 20 };
    cascade_options options = crowded();
    cascade_view *views[PINNED];
    uint64_t high;

    (void)state;
    options.watermark_high_pct = 60;
    options.watermark_low_pct = 20;
    here = st_open_with(options);
    put_here(0, COUNT);
    for (uint64_t i = 0; i < PINNED; i++) {
        cascade_key key = st_key(COUNT + i);

        assert_int_equal(st_put(here, COUNT + i, COUNT + i, K, V, 0), 0);
        assert_int_equal(cascade_block_view(here, &key, &views[i]), 0);
    }
    high = dram_stats().capacity_bytes / 100 * 60;
    while (dram_stats().used_bytes > high)
        st_sleep_ms(10);
    for (uint64_t i = 0; i < PINNED; i++)
        cascade_view_release(here, &views[i]);
}

/* A get that would bring a block there goes on without. */
static void a_get_does_not_wait_for_a_look_to_make_room(void **state)
{
    (void)state;
    here = st_open_with(crowded());
    there = st_open_with(options_of(1, true));
    put_there(1000, 1000);
    assert_int_equal(get_later(here, 1000, 1000), 0);
    put_here(0, 200);
    assert_false(st_info(here, 1000).in_dram);
    assert_false(st_info(here, 150).in_file);
    hang();
    assert_int_equal(st_get(here, 1000, 1000, K, V), 0);
    assert_int_equal(st_get(here, 150, 150, K, V), 0);
    atomic_store(&directory_hangs, false);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, two_setup, two_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_put_waits_for_a_look_as_long_as_it_may),
        CASE(the_keeper_evicts_what_needs_no_look),
        CASE(the_keeper_evicts_after_its_look),
        CASE(a_get_does_not_wait_for_a_look_to_make_room),
    };

    return cmocka_run_group_tests_name("store, room after a look", tests, NULL, NULL);
}
