/* SPDX-License-Identifier: MIT */
/* Deletes: acknowledged like puts, never undone by a late digest, a late write, a kill or a reopen. */
#include "base/mark.h"
#include "store/store_testing.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { K = 9000, V = 4000 };

/* ---- kills at marked points ----------------------------------------------------------------------- */

static _Atomic int marks_left;

static void die_at_the_last(const char *name)
{
    (void)name;
    if (atomic_fetch_sub(&marks_left, 1) == 1)
        raise(SIGKILL);
}

static void die_after_marks(int marks)
{
    atomic_store(&marks_left, marks);
    atomic_store(&csc_mark_hook_now, die_at_the_last);
}

/* ---- in one process -------------------------------------------------------------------------- */

static void while_the_digest_is_pending(void **state)
{
    enum { BLOCKS = 12, BIG = 1024 * 1024 };
    cascade_options options = st_options();
    cascade_store *store;
    size_t pending = 0;

    (void)state;
    options.dram_bytes = 32 * ST_MIB;
    store = st_open_with(options);
    /* Two equal blocks at a time: the digest of one may be known, that of the other hardly is. */
    for (uint64_t i = 0; i < 2 * BLOCKS; i++) {
        uint64_t key = i % BLOCKS;

        assert_int_equal(st_put(store, key, key / 2, BIG, 0, 0), 0);
        if (key % 2 == 0)
            continue;
        for (uint64_t gone = key - 1; gone <= key; gone++) {
            pending += !st_info(store, gone).has_id;
            assert_int_equal(st_delete(store, gone), 0);
            assert_int_equal(st_get(store, gone, gone / 2, BIG, 0), CASCADE_MISS);
        }
    }
    print_message("# %zu of %d were deleted before their digest was known\n", pending, 2 * BLOCKS);
    st_settle(store);
    assert_int_equal(cascade_store_flush(store), 0);
    for (uint64_t i = 0; i < BLOCKS; i++)
        assert_int_equal(st_get(store, i, i / 2, BIG, 0), CASCADE_MISS);
    assert_int_equal(st_stats(store).keys, 0);
    assert_int_equal(st_stats(store).contents, 0);
    assert_int_equal(st_stats(store).dirty_bytes, 0);
    /* Put again under the same keys, while old digests may still be on their way. */
    for (int round = 0; round < 10; round++)
        for (uint64_t i = 0; i < 4; i++) {
            assert_int_equal(st_put(store, i, 100 + i + (uint64_t)round, BIG, 0, 0), 0);
            assert_int_equal(st_get(store, i, 100 + i + (uint64_t)round, BIG, 0), 0);
            if (round < 9)
                assert_int_equal(st_delete(store, i), 0);
        }
    st_close(&store);
    store = st_open_with(options);
    assert_int_equal(st_stats(store).keys, 4);
    for (uint64_t i = 0; i < 4; i++)
        assert_int_equal(st_get(store, i, 109 + i, BIG, 0), 0);
    st_close(&store);
}

/* Every combination of: was it on disk, was the tombstone flushed, was it put again. */
static void tombstones_outlive_what_they_hide(void **state)
{
    enum { KEYS = 24 };
    cascade_store *store = st_open();

    (void)state;
    for (uint64_t i = 0; i < KEYS; i++)
        assert_int_equal(st_put(store, i, i % 8, K, V, i % 2 ? CASCADE_PUT_DURABLE : 0), 0);
    for (uint64_t i = 0; i < KEYS; i += 3)
        assert_int_equal(st_delete(store, i), 0);
    assert_int_equal(cascade_store_flush(store), 0);
    for (uint64_t i = 1; i < KEYS; i += 3)
        assert_int_equal(st_delete(store, i), 0);
    for (int reopened = 0; reopened < 4; reopened++) {
        for (uint64_t i = 0; i < KEYS; i++)
            assert_int_equal(st_get(store, i, i % 8, K, V), i % 3 == 2 ? 0 : CASCADE_MISS);
        assert_int_equal(st_stats(store).keys, KEYS / 3 + reopened);
        /* Something new in every life, so that segments follow on the tombstones. */
        assert_int_equal(st_put(store, 100 + (uint64_t)reopened, 100, K, V, 0), 0);
        st_close(&store);
        store = st_open();
    }
    /* A key that was deleted is as good as new. */
    assert_int_equal(st_put(store, 0, 50, K, V, 0), 0);
    assert_int_equal(st_put(store, 1, 50, K, V, 0), 0);
    st_close(&store);
    store = st_open();
    assert_int_equal(st_get(store, 0, 50, K, V), 0);
    assert_int_equal(st_get(store, 1, 50, K, V), 0);
    assert_int_equal(st_delete(store, 1), 0);
    st_close(&store);
    store = st_open();
    assert_int_equal(st_get(store, 0, 50, K, V), 0);
    assert_int_equal(st_get(store, 1, 50, K, V), CASCADE_MISS);
    st_close(&store);
}

static void a_thousand_rounds_of_put_and_delete(void **state)
{
    cascade_store *store = st_open();

    (void)state;
    for (uint64_t i = 0; i < 1000; i++) {
        assert_int_equal(st_put(store, i % 3, i, K, V, i % 100 == 0 ? CASCADE_PUT_SYNC : 0), 0);
        assert_int_equal(st_get(store, i % 3, i, K, V), 0);
        assert_int_equal(st_delete(store, i % 3), 0);
    }
    assert_int_equal(cascade_store_flush(store), 0);
    assert_int_equal(st_stats(store).keys, 0);
    assert_int_equal(st_stats(store).contents, 0);
    assert_int_equal(st_stats(store).deletes, 1000);
    st_close(&store);
    store = st_open();
    assert_int_equal(st_stats(store).keys, 0);
    st_close(&store);
}

/* ---- killed ---------------------------------------------------------------------------------- */

static void delete_then_die(void *context)
{
    uint32_t flags = *(const uint32_t *)context;
    cascade_store *store = st_open();

    for (uint64_t i = 0; i < 6; i++)
        ST_CHECK(st_put(store, i, i / 2, K, V, flags) == 0);
    ST_CHECK(st_delete(store, 0) == 0); /* its content has another key */
    ST_CHECK(st_delete(store, 2) == 0);
    ST_CHECK(st_delete(store, 3) == 0); /* its content has none left */
    raise(SIGKILL);
}

static void acknowledged_then_killed(void **state)
{
    uint32_t flags[] = {0, CASCADE_PUT_SYNC, CASCADE_PUT_DURABLE};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        cascade_store *store;

        st_in_child(delete_then_die, &flags[i], -SIGKILL);
        store = st_open();
        for (int reopened = 0; reopened < 3; reopened++) {
            assert_int_equal(st_stats(store).keys, 3);
            for (uint64_t key = 0; key < 6; key++)
                assert_int_equal(st_get(store, key, key / 2, K, V),
                                 key == 0 || key == 2 || key == 3 ? CASCADE_MISS : 0);
            assert_int_equal(st_stats(store).lost, 0);
            st_close(&store);
            store = st_open();
        }
        assert_int_equal(st_delete(store, 1), 0);
        assert_int_equal(st_delete(store, 4), 0);
        assert_int_equal(st_delete(store, 5), 0);
        st_close(&store);
    }
}

static void delete_flush_then_die(void *context)
{
    cascade_store *store = st_open();

    (void)context;
    for (uint64_t i = 0; i < 6; i++)
        ST_CHECK(st_put(store, i, i / 2, K, V, 0) == 0);
    ST_CHECK(cascade_store_flush(store) == 0);
    ST_CHECK(st_delete(store, 0) == 0);
    ST_CHECK(st_delete(store, 2) == 0);
    ST_CHECK(st_delete(store, 3) == 0);
    ST_CHECK(cascade_store_flush(store) == 0);
    raise(SIGKILL);
}

static void flushed_then_power_lost(void **state)
{
    cascade_store *store;

    (void)state;
    st_in_child(delete_flush_then_die, NULL, -SIGKILL);
    st_lose_memory();
    store = st_open();
    assert_int_equal(st_stats(store).keys, 3);
    for (uint64_t key = 0; key < 6; key++)
        assert_int_equal(st_get(store, key, key / 2, K, V),
                         key == 0 || key == 2 || key == 3 ? CASCADE_MISS : 0);
    st_close(&store);
}

typedef struct again {
    int marks;       /* die at this one */
    int acknowledge; /* written to: one letter an acknowledgement */
} again;

/* Key 1 with bytes 1, on disk; deleted; put again with bytes 2; flushed. Key 2 shares bytes 1 all along.
 */
static void put_delete_put(void *context)
{
    again *what = context;
    cascade_store *store = st_open();

    ST_CHECK(st_put(store, 1, 1, K, V, CASCADE_PUT_DURABLE) == 0);
    ST_CHECK(st_put(store, 2, 1, K, V, CASCADE_PUT_DURABLE) == 0);
    die_after_marks(what->marks);
    ST_CHECK(st_delete(store, 1) == 0);
    ST_CHECK(write(what->acknowledge, "d", 1) == 1);
    ST_CHECK(st_put(store, 1, 2, K, V, 0) == 0);
    ST_CHECK(write(what->acknowledge, "p", 1) == 1);
    ST_CHECK(cascade_store_flush(store) == 0);
    ST_CHECK(write(what->acknowledge, "f", 1) == 1);
    atomic_store(&csc_mark_hook_now, NULL);
    raise(SIGTERM); /* so many marks there are not */
}

/* What key 1 may be, given what was acknowledged. */
static void assert_allowed(cascade_store *store, const char *acknowledged, bool power_lost)
{
    int first = st_get(store, 1, 1, K, V), second = st_get(store, 1, 2, K, V);

    assert_true(first == 0 || first == CASCADE_MISS || first == ST_WRONG);
    assert_true(first == ST_WRONG ? second == 0 : second == CASCADE_MISS || second == ST_WRONG);
    if (strchr(acknowledged, power_lost ? 'f' : 'p'))
        assert_int_equal(second, 0);
    else if (strchr(acknowledged, 'd') && !power_lost)
        assert_int_not_equal(first, 0);
    assert_int_equal(st_get(store, 2, 1, K, V), 0);
    assert_int_equal(st_stats(store).lost, 0);
    assert_int_equal(st_stats(store).tiers[CASCADE_TIER_FILE].quarantined, 0);
}

static void put_again_and_killed_at_every_mark(void **state)
{
    int status = -SIGKILL, kills = 0;

    (void)state;
    for (int marks = 1; status == -SIGKILL; marks++) {
        char acknowledged[4] = "";
        cascade_store *store;
        int ends[2];

        assert_int_equal(pipe(ends), 0);
        status = st_wait(st_spawn(put_delete_put, &(again){marks, ends[1]}));
        close(ends[1]);
        assert_true(read(ends[0], acknowledged, 3) >= 0);
        close(ends[0]);
        assert_true(status == -SIGKILL || status == -SIGTERM);
        kills += status == -SIGKILL;
        if (marks % 2)
            st_lose_memory();
        store = st_open();
        assert_allowed(store, acknowledged, marks % 2);
        st_close(&store);
        store = st_open();
        assert_allowed(store, acknowledged, marks % 2);
        (void)st_delete(store, 1);
        (void)st_delete(store, 2);
        st_close(&store);
    }
    print_message("# killed at %d marks\n", kills);
    assert_in_range(kills, 10, 1000);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, st_setup, st_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(while_the_digest_is_pending),
        CASE(tombstones_outlive_what_they_hide),
        CASE(a_thousand_rounds_of_put_and_delete),
        CASE(acknowledged_then_killed),
        CASE(flushed_then_power_lost),
        CASE(put_again_and_killed_at_every_mark),
    };

    return cmocka_run_group_tests_name("store deletes", tests, NULL, NULL);
}
