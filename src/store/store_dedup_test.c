/* SPDX-License-Identifier: MIT */
/* Many keys, one content: merged behind the puts, kept for as long as one key is left, found again after
 * every kind of end. */
#include "base/mark.h"
#include "store/store_testing.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { KEYS = 50, K = 20000, V = 12000 };

static void die(void)
{
    raise(SIGKILL);
}

static void put_fifty(cascade_store *store)
{
    for (uint64_t i = 0; i < KEYS; i++)
        ST_CHECK(st_put(store, i, 7, K, V, 0) == 0);
}

static void assert_fifty(cascade_store *store)
{
    for (uint64_t i = 0; i < KEYS; i++)
        assert_int_equal(st_get(store, i, 7, K, V), 0);
    assert_int_equal(st_info(store, 0).references, KEYS);
    assert_int_equal(st_stats(store).contents, 1);
    assert_int_equal(st_stats(store).keys, KEYS);
    assert_int_equal(st_stats(store).dedup_bytes_saved, (KEYS - 1) * (K + V));
    assert_int_equal(st_stats(store).lost, 0);
}

static void fifty_keys_after_a_close(void **state)
{
    cascade_store *store = st_open();

    (void)state;
    put_fifty(store);
    assert_int_equal(cascade_store_flush(store), 0);
    st_settle(store);
    assert_fifty(store);
    assert_int_equal(st_stats(store).dedup_blocks, KEYS - 1);
    assert_int_equal(st_stats(store).dirty_bytes, 0);
    assert_in_range(st_stats(store).tiers[CASCADE_TIER_FILE].written_bytes, K + V, 5 * (K + V));
    st_close(&store);
    store = st_open();
    assert_fifty(store);
    st_close(&store);
}

static void put_flush_die(void *context)
{
    cascade_store *store = st_open();

    (void)context;
    put_fifty(store);
    ST_CHECK(cascade_store_flush(store) == 0);
    die();
}

static void fifty_keys_after_a_kill(void **state)
{
    cascade_store *store;

    (void)state;
    st_in_child(put_flush_die, NULL, -SIGKILL);
    assert_int_equal(st_shm_count(), 1);
    store = st_open();
    assert_int_equal(st_stats(store).recovered_blocks, 1);
    assert_fifty(store);
    st_close(&store);
}

/* A flush returns when the bindings are on disk that a merge moved while it waited, not only the bytes.
 */
static void fifty_keys_after_power_loss(void **state)
{
    (void)state;
    for (int round = 0; round < 10; round++) {
        cascade_store *store;

        st_in_child(put_flush_die, NULL, -SIGKILL);
        st_lose_memory();
        store = st_open();
        assert_int_equal(st_stats(store).recovered_blocks, 0);
        assert_fifty(store);
        for (uint64_t i = 0; i < KEYS; i++)
            assert_int_equal(st_delete(store, i), 0);
        st_close(&store);
    }
}

static void deleting_one_harms_no_other(void **state)
{
    cascade_store *store = st_open();

    (void)state;
    put_fifty(store);
    /* While digests are pending, and after. */
    for (uint64_t gone = 0; gone < KEYS - 1; gone++) {
        assert_int_equal(st_delete(store, gone), 0);
        for (uint64_t i = 0; i < KEYS; i += 7)
            assert_int_equal(st_get(store, i, 7, K, V), i <= gone ? CASCADE_MISS : 0);
        if (gone == KEYS / 2) {
            assert_int_equal(cascade_store_flush(store), 0);
            st_settle(store);
            assert_int_equal(st_info(store, KEYS - 1).references, KEYS - 1 - gone);
        }
    }
    assert_int_equal(st_get(store, KEYS - 1, 7, K, V), 0);
    st_close(&store);
    store = st_open();
    for (uint64_t i = 0; i < KEYS; i++)
        assert_int_equal(st_get(store, i, 7, K, V), i < KEYS - 1 ? CASCADE_MISS : 0);
    assert_int_equal(st_delete(store, KEYS - 1), 0);
    assert_int_equal(st_stats(store).contents, 0);
    st_close(&store);
}

static void eviction_harms_no_key(void **state)
{
    cascade_store *store = st_open();

    (void)state;
    put_fifty(store);
    assert_int_equal(cascade_store_flush(store), 0);
    st_push_out(store, 3, 1000);
    for (uint64_t i = 0; i < KEYS; i++)
        assert_int_equal(st_get(store, i, 7, K, V), 0);
    assert_int_equal(st_info(store, 0).references, KEYS);
    st_close(&store);
}

/* The newcomer's equal is on disk alone: it takes that one's place there, and nothing is written. */
static void equal_to_what_only_the_file_tier_has(void **state)
{
    cascade_store *store = st_open();
    cascade_stats before, after;

    (void)state;
    assert_int_equal(st_put(store, 1, 7, K, V, CASCADE_PUT_DURABLE), 0);
    st_push_out(store, 1, 1000);
    assert_int_equal(cascade_store_flush(store), 0);
    before = st_stats(store);
    assert_int_equal(st_put(store, 2, 7, K, V, CASCADE_PUT_DURABLE), 0);
    after = st_stats(store);
    assert_int_equal(after.contents, before.contents);
    assert_int_equal(after.tiers[CASCADE_TIER_FILE].blocks, before.tiers[CASCADE_TIER_FILE].blocks);
    assert_int_equal(after.tiers[CASCADE_TIER_FILE].demotions,
                     before.tiers[CASCADE_TIER_FILE].demotions);
    assert_true(st_info(store, 1).in_dram);
    assert_int_equal(st_info(store, 1).references, 2);
    assert_int_equal(st_get(store, 1, 7, K, V), 0);
    assert_int_equal(st_get(store, 2, 7, K, V), 0);
    assert_int_equal(st_stats(store).tiers[CASCADE_TIER_FILE].hits,
                     before.tiers[CASCADE_TIER_FILE].hits);
    assert_int_equal(st_delete(store, 1), 0);
    st_close(&store);
    store = st_open();
    assert_int_equal(st_get(store, 1, 7, K, V), CASCADE_MISS);
    assert_int_equal(st_get(store, 2, 7, K, V), 0);
    st_close(&store);
}

/* The loser of a merge is gone for all but the one who looks at it. */
static void a_view_of_the_loser_stays(void **state)
{
    enum { BIG = 3 * 1024 * 1024 };
    cascade_options options = st_options();
    cascade_store *store;
    cascade_key second = st_key(2);
    cascade_view *view = NULL;
    uint64_t pages;

    (void)state;
    options.dram_bytes = 16 * ST_MIB;
    store = st_open_with(options);
    assert_int_equal(st_put(store, 1, 7, BIG, 0, CASCADE_PUT_DURABLE), 0);
    assert_int_equal(st_put(store, 2, 7, BIG, 0, 0), 0);
    assert_int_equal(cascade_block_view(store, &second, &view), 0);
    assert_int_equal(st_stats(store).pins, 1);
    while (st_stats(store).dedup_blocks == 0)
        st_sleep_ms(2);
    assert_int_equal(st_stats(store).dedup_blocks, 1);
    pages = st_stats(store).tiers[CASCADE_TIER_DRAM].used_bytes;
    assert_int_equal(st_info(store, 2).references, 2);
    /* Fill dram several times over: nothing may land on the viewed pages. */
    for (uint64_t i = 0; i < 60; i++) {
        assert_int_equal(st_put(store, 100 + i, 100 + i, ST_MIB, 0, 0), 0);
        if (i % 6 == 0)
            assert_true(st_view_is(view, 7, BIG, 0));
    }
    assert_true(st_view_is(view, 7, BIG, 0));
    cascade_view_release(store, &view);
    assert_int_equal(cascade_store_flush(store), 0);
    for (uint64_t i = 0; i < 60; i++)
        assert_int_equal(st_delete(store, 100 + i), 0);
    assert_int_equal(st_get(store, 2, 7, BIG, 0), 0);
    assert_int_equal(st_delete(store, 1), 0);
    assert_int_equal(st_get(store, 2, 7, BIG, 0), 0);
    /* The loser's pages came back. */
    assert_in_range(pages, BIG, 2 * BIG);
    while (st_stats(store).tiers[CASCADE_TIER_DRAM].used_bytes > BIG)
        st_sleep_ms(5);
    st_close(&store);
}

/* Prefix trees whose nodes share contents: the numbers stay right through merges and deletes. */
static void merged_parents_and_children(void **state)
{
    enum { CHAINS = 8, LENGTH = 20 };
    cascade_store *store = st_open();
    uint8_t memory[3000];
    const cascade_piece k = {memory, sizeof memory};

    (void)state;
    for (uint64_t chain = 0; chain < CHAINS; chain++)
        for (uint64_t i = 0; i < LENGTH; i++) {
            cascade_put put = {.key = st_key(chain * 100 + i),
                               .parent = st_key(chain * 100 + i - 1),
                               .has_parent = i > 0,
                               .block = {&k, 1, NULL, 0}};

            st_fill(memory, sizeof memory, i % 5); /* equal along a chain and between chains */
            assert_int_equal(cascade_block_put(store, &put, 0), 0);
        }
    assert_int_equal(cascade_store_flush(store), 0);
    assert_int_equal(st_stats(store).contents, 5);
    for (uint64_t chain = 0; chain < CHAINS; chain += 2)
        for (uint64_t i = 0; i < LENGTH; i++)
            assert_int_equal(st_delete(store, chain * 100 + (i * 7) % LENGTH), 0);
    for (int reopened = 0; reopened < 2; reopened++) {
        assert_int_equal(st_stats(store).keys, CHAINS / 2 * LENGTH);
        assert_int_equal(st_info(store, 100).references, CHAINS / 2 * LENGTH / 5);
        for (uint64_t i = 0; i < LENGTH; i++) {
            assert_int_equal(st_get(store, 100 + i, i % 5, sizeof memory, 0), 0);
            assert_int_equal(st_get(store, i, i % 5, sizeof memory, 0), CASCADE_MISS);
        }
        st_close(&store);
        store = st_open();
    }
    st_close(&store);
}

static _Atomic bool emptying, go_on;

/* What lives in the segment was listed and copied. */
static void pause_emptying(const char *name)
{
    if (strcmp(name, "compact: copied") != 0)
        return;
    atomic_store(&emptying, true);
    while (!atomic_load(&go_on))
        st_sleep_ms(1);
}

static void *empty_segments(void *store)
{
    cascade_gc_report report;

    (void)cascade_store_gc(store, false, &report, NULL, NULL);
    return NULL;
}

/* The other copy lies in a segment that is being emptied, and was listed under the content that goes. */
static void equal_to_what_is_being_moved(void **state)
{
    cascade_store *store = st_open();
    pthread_t gc;

    (void)state;
    for (uint64_t i = 0; i < 20; i++)
        assert_int_equal(st_put(store, i, i, K, V, 0), 0);
    st_close(&store);
    store = st_open();
    atomic_store(&emptying, false);
    atomic_store(&go_on, false);
    atomic_store(&csc_mark_hook_now, pause_emptying);
    for (uint64_t i = 5; i < 20; i++)
        assert_int_equal(st_delete(store, i), 0);
    assert_int_equal(pthread_create(&gc, NULL, empty_segments, store), 0);
    while (!atomic_load(&emptying))
        st_sleep_ms(1);
    assert_int_equal(st_put(store, 100, 3, K, V, 0), 0);
    st_settle(store);
    assert_int_equal(st_info(store, 3).references, 2);
    atomic_store(&go_on, true);
    pthread_join(gc, NULL);
    atomic_store(&csc_mark_hook_now, NULL);
    assert_int_equal(cascade_store_flush(store), 0);
    st_push_out(store, 100, 1000);
    assert_int_equal(st_get(store, 100, 3, K, V), 0);
    assert_int_equal(st_get(store, 3, 3, K, V), 0);
    assert_int_equal(st_stats(store).lost, 0);
    st_close(&store);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, st_setup, st_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(fifty_keys_after_a_close),     CASE(fifty_keys_after_a_kill),
        CASE(fifty_keys_after_power_loss),  CASE(deleting_one_harms_no_other),
        CASE(eviction_harms_no_key),        CASE(equal_to_what_only_the_file_tier_has),
        CASE(a_view_of_the_loser_stays),    CASE(merged_parents_and_children),
        CASE(equal_to_what_is_being_moved),
    };

    return cmocka_run_group_tests_name("store dedup", tests, NULL, NULL);
}
