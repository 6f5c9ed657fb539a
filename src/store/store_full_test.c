/* SPDX-License-Identifier: MIT */
/* More than dram holds: nothing is lost, and who leaves is who may. */
#include "store/store_testing.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { BLOCK = 64 * 1024 };

static size_t size_of(uint64_t number)
{
    return 1 + (number * 7919) % (number % 9 == 0 ? 300000 : 60000);
}

static void five_times_dram_mixed(void **state)
{
    cascade_store *store = st_open();
    uint64_t count = 0, bytes = 0;

    (void)state;
    for (; bytes < 5 * 4 * ST_MIB; bytes += size_of(count++))
        assert_int_equal(st_put(store, count, count, size_of(count), count % 3 ? 100 : 0, 0), 0);
    for (int reopened = 0; reopened < 2; reopened++) {
        for (uint64_t i = 0; i < count; i++) {
            uint64_t key = i * 31 % count;

            assert_int_equal(st_get(store, key, key, size_of(key), key % 3 ? 100 : 0), 0);
        }
        assert_int_equal(st_stats(store).keys, count);
        assert_int_equal(st_stats(store).lost, 0);
        assert_int_equal(st_stats(store).tiers[CASCADE_TIER_FILE].drops, 0);
        assert_int_equal(st_stats(store).tiers[CASCADE_TIER_DRAM].hits +
                             st_stats(store).tiers[CASCADE_TIER_FILE].hits,
                         count);
        assert_in_range(st_stats(store).tiers[CASCADE_TIER_DRAM].used_bytes, 1, 4 * ST_MIB);
        st_close(&store);
        store = st_open();
    }
    st_close(&store);
}

static void every_policy_keeps_everything(void **state)
{
    static const char *const policies[] = {"hazard", "lru", "published"};
    cascade_options options = st_options();

    (void)state;
    for (uint64_t p = 0; p < 3; p++) {
        cascade_store *store;

        options.policy = policies[p];
        store = st_open_with(options);
        for (uint64_t i = 0; i < 200; i++) {
            assert_int_equal(st_put(store, p * 1000 + i, i, BLOCK, 0, 0), 0);
            assert_int_equal(st_get(store, p * 1000 + i / 2, i / 2, BLOCK, 0), 0);
        }
        for (uint64_t i = 0; i < 200; i++)
            assert_int_equal(st_get(store, p * 1000 + i, i, BLOCK, 0), 0);
        st_close(&store);
    }
}

/* ---- prefixes -------------------------------------------------------------------------------- */

static void circles_are_refused(void **state)
{
    cascade_store *store = st_open();
    cascade_info info;

    (void)state;
    assert_int_equal(st_put_child(store, 1, 1, 100), CASCADE_EINVAL);
    assert_int_equal(st_put_child(store, 1, 2, 100), 0); /* its parent comes later */
    assert_int_equal(st_put_child(store, 2, 3, 100), 0);
    assert_int_equal(st_put_child(store, 3, 4, 100), 0);
    assert_int_equal(st_put_child(store, 4, 1, 100), CASCADE_EINVAL);
    assert_int_equal(st_get(store, 4, 4, 100, 0), CASCADE_MISS);
    assert_int_equal(st_put_child(store, 4, 5, 100), 0);
    assert_int_equal(st_delete(store, 2), 0); /* 3 and 1 stay; 1 names 2, whoever that will be */
    assert_int_equal(st_put_child(store, 2, 1, 100), CASCADE_EINVAL);
    info = st_info(store, 1);
    assert_true(info.has_parent);
    assert_memory_equal(&info.parent, (cascade_key[]){st_key(2)}, sizeof info.parent);
    st_close(&store);
    store = st_open();
    assert_int_equal(st_put_child(store, 2, 1, 100), CASCADE_EINVAL); /* also known after a reopen */
    assert_int_equal(st_put_child(store, 5, 3, 100), CASCADE_EINVAL);
    assert_int_equal(st_put_child(store, 2, 3, 100), 0);
    st_close(&store);
}

/* Whether no resident child's parent has left dram: only leaves leave. */
static size_t orphans(cascade_store *store, uint64_t chains, uint64_t length)
{
    size_t count = 0;

    for (uint64_t chain = 0; chain < chains; chain++)
        for (uint64_t i = 1; i < length; i++)
            count +=
                st_info(store, chain * 100 + i).in_dram && !st_info(store, chain * 100 + i - 1).in_dram;
    return count;
}

static void only_leaves_leave(void **state)
{
    enum { CHAINS = 20, LENGTH = 16 };

    (void)state;
    for (int backwards = 0; backwards < 2; backwards++) {
        cascade_store *store = st_open();

        for (uint64_t chain = 0; chain < CHAINS; chain++) {
            for (uint64_t i = 0; i < LENGTH; i++) {
                uint64_t at = backwards ? LENGTH - 1 - i : i;

                assert_int_equal(
                    st_put_child(store, chain * 100 + at, at ? chain * 100 + at - 1 : 99999, BLOCK / 4),
                    0);
            }
            assert_int_equal(cascade_store_flush(store), 0);
            /* A child that came before its parent is not counted as one until it is loaded again. */
            if (chain % 4 == 3 && !backwards)
                assert_int_equal(orphans(store, chain + 1, LENGTH), 0);
        }
        for (uint64_t chain = 0; chain < CHAINS; chain++)
            for (uint64_t i = 0; i < LENGTH; i++) {
                assert_int_equal(st_get(store, chain * 100 + i, chain * 100 + i, BLOCK / 4, 0), 0);
                assert_int_equal(st_delete(store, chain * 100 + i), 0);
            }
        st_close(&store);
    }
}

static void match_counts_the_leading_run(void **state)
{
    enum { LENGTH = 600 };
    static cascade_key keys[LENGTH];
    cascade_store *store = st_open();
    cascade_match matches[2] = {{keys, LENGTH, 0}, {keys + 300, 300, 0}};
    size_t matched;

    (void)state;
    for (uint64_t i = 0; i < LENGTH; i++) {
        keys[i] = st_key(i);
        assert_int_equal(st_put_child(store, i, i ? i - 1 : 99999, 12000), 0); /* more than dram holds */
    }
    assert_int_equal(cascade_prefix_match(store, keys, LENGTH, &matched), 0);
    assert_int_equal(matched, LENGTH);
    assert_int_equal(st_delete(store, 511), 0);
    assert_int_equal(cascade_prefix_match(store, keys, LENGTH, &matched), 0);
    assert_int_equal(matched, 511);
    assert_int_equal(cascade_prefix_match(store, keys + 511, 1, &matched), 0);
    assert_int_equal(matched, 0);
    assert_int_equal(cascade_prefix_match_many(store, matches, 2), 0);
    assert_int_equal(matches[0].matched, 511);
    assert_int_equal(matches[1].matched, 211);
    assert_int_equal(st_stats(store).pins, 0);
    st_close(&store);
}

/* ---- leases ---------------------------------------------------------------------------------- */

enum { LEASED = 24 };

/* Puts LEASED blocks of a request of their own and makes them clean. */
static void put_leased(cascade_store *store)
{
    for (uint64_t i = 0; i < LEASED; i++)
        assert_int_equal(st_put(store, i, i, BLOCK, 0, 0), 0);
    assert_int_equal(cascade_store_flush(store), 0);
}

static void match_leased(cascade_store *store)
{
    cascade_key keys[LEASED];
    size_t matched;

    for (uint64_t i = 0; i < LEASED; i++)
        keys[i] = st_key(i);
    assert_int_equal(cascade_prefix_match(store, keys, LEASED, &matched), 0);
    assert_int_equal(matched, LEASED);
}

/* Twice dram of other blocks, clean before the next few come: there is always someone else to evict. */
static void press(cascade_store *store, uint64_t first)
{
    for (uint64_t i = 0; i < 128; i++) {
        assert_int_equal(st_put(store, first + i, first + i, BLOCK, 0, 0), 0);
        if (i % 8 == 7) {
            assert_int_equal(cascade_store_flush(store), 0);
            for (uint64_t j = i - 7; j <= i; j++) /* worth more than what is leased */
                for (int reads = 0; reads < 3; reads++)
                    assert_int_equal(st_get(store, first + j, first + j, BLOCK, 0), 0);
        }
    }
}

static size_t leased_in_dram(cascade_store *store)
{
    size_t count = 0;

    for (uint64_t i = 0; i < LEASED; i++)
        count += st_info(store, i).in_dram;
    return count;
}

static void leased_blocks_stay(void **state)
{
    enum { READ, RELEASED, EXPIRED, WAYS };

    (void)state;
    for (int way = READ; way < WAYS; way++) {
        cascade_options options = st_options();
        cascade_store *store;
        cascade_key keys[LEASED];

        options.policy = "lru";
        options.lease_ms = way == EXPIRED ? 1000 : 600000;
        store = st_open_with(options);
        put_leased(store);
        match_leased(store);
        if (way != EXPIRED) {
            press(store, 1000);
            assert_int_equal(leased_in_dram(store), LEASED);
        }
        for (uint64_t i = 0; i < LEASED; i++) {
            keys[i] = st_key(i);
            if (way == READ)
                assert_int_equal(st_get(store, i, i, BLOCK, 0), 0);
        }
        if (way == RELEASED)
            assert_int_equal(cascade_prefix_release(store, keys, LEASED), 0);
        else if (way == EXPIRED)
            st_sleep_ms(1100);
        press(store, 2000);
        assert_int_equal(leased_in_dram(store), 0);
        for (uint64_t i = 0; i < LEASED; i++)
            assert_int_equal(st_get(store, i, i, BLOCK, 0), 0);
        for (uint64_t i = 0; i < 3000; i++)
            (void)st_delete(store, i);
        st_close(&store);
    }
}

static void leases_yield_before_a_put_fails(void **state)
{
    cascade_options options = st_options();
    cascade_key keys[64];
    cascade_store *store;
    size_t matched;

    (void)state;
    options.lease_ms = 600000;
    store = st_open_with(options);
    for (uint64_t i = 0; i < 64; i++) {
        keys[i] = st_key(i);
        assert_int_equal(st_put(store, i, i, BLOCK, 0, 0), 0);
    }
    assert_int_equal(cascade_store_flush(store), 0);
    assert_int_equal(cascade_prefix_match(store, keys, 64, &matched), 0);
    assert_int_equal(matched, 64);
    for (uint64_t i = 0; i < 10; i++)
        assert_int_equal(st_put(store, 100 + i, 100 + i, i % 2 ? BLOCK : 2 * ST_MIB, 0, 0), 0);
    for (uint64_t i = 0; i < 64; i++)
        assert_int_equal(st_get(store, i, i, BLOCK, 0), 0);
    st_close(&store);
}

/* ---- in the background ----------------------------------------------------------------------- */

static void prefetch_brings_to_dram(void **state)
{
    cascade_store *store = st_open();
    cascade_key keys[10];
    size_t resident = 0;

    (void)state;
    for (uint64_t i = 0; i < 300; i++) {
        assert_int_equal(st_put(store, i, i, BLOCK, 0, 0), 0);
        if (i < 10)
            keys[i] = st_key(i);
    }
    assert_int_equal(cascade_store_flush(store), 0);
    for (uint64_t i = 10; i < 300; i++)
        assert_int_equal(st_delete(store, i), 0);
    assert_int_equal(cascade_prefetch(store, keys, 10), 0);
    for (int wait = 0; wait < 1000 && resident < 10; wait++) {
        resident = 0;
        for (uint64_t i = 0; i < 10; i++)
            resident += st_info(store, i).in_dram;
        st_sleep_ms(5);
    }
    assert_int_equal(resident, 10);
    for (uint64_t i = 0; i < 10; i++)
        assert_int_equal(st_get(store, i, i, BLOCK, 0), 0);
    assert_int_equal(st_stats(store).tiers[CASCADE_TIER_DRAM].hits, 10);
    st_close(&store);
}

static void watermarks_make_room_ahead(void **state)
{
    cascade_options options = st_options();
    cascade_store *store;
    uint64_t used = UINT64_MAX;

    (void)state;
    options.watermark_low_pct = 40;
    options.watermark_high_pct = 60;
    store = st_open_with(options);
    for (uint64_t i = 0; i < 64; i++)
        assert_int_equal(st_put(store, i, i, BLOCK, 0, 0), 0);
    assert_int_equal(cascade_store_flush(store), 0);
    for (int wait = 0; wait < 1000 && used > 4 * ST_MIB * 60 / 100; wait++) {
        used = st_stats(store).tiers[CASCADE_TIER_DRAM].used_bytes;
        st_sleep_ms(5);
    }
    /* Down to 40 % each time it was above 60; the last puts may have come after the last time. */
    assert_in_range(used, 4 * ST_MIB * 30 / 100, 4 * ST_MIB * 60 / 100);
    for (uint64_t i = 0; i < 64; i++)
        assert_int_equal(st_get(store, i, i, BLOCK, 0), 0);
    st_close(&store);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, st_setup, st_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(five_times_dram_mixed),
        CASE(every_policy_keeps_everything),
        CASE(circles_are_refused),
        CASE(only_leaves_leave),
        CASE(match_counts_the_leading_run),
        CASE(leased_blocks_stay),
        CASE(leases_yield_before_a_put_fails),
        CASE(prefetch_brings_to_dram),
        CASE(watermarks_make_room_ahead),
    };

    return cmocka_run_group_tests_name("store full", tests, NULL, NULL);
}
