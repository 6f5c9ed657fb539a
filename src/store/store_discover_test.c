/* SPDX-License-Identifier: MIT */
/* Two nodes over one directory: what one flushes the other finds when it misses, and what it removes is
 * a miss there. */
#include "store/store_two_nodes.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static uint64_t readdirs(cascade_store *store)
{
    return st_stats(store).metadata_ops.readdir;
}

/* ---- finding -------------------------------------------------------------------------------------- */

static void a_miss_finds_what_the_other_flushed(void **state)
{
    cascade_view *view = NULL;
    cascade_info info;
    cascade_key key;
    cascade_id id = st_id(3, K, V);

    (void)state;
    open_both();
    assert_int_equal(get_later(here, 1, 1), CASCADE_MISS);
    for (uint64_t i = 1; i < 5; i++) {
        put_there(i, i); /* all into one segment, that has no index yet */
        st_sleep_ms(3);
        key = st_key(i);
        switch (i) {
        case 1:
            assert_int_equal(st_get(here, i, i, K, V), 0);
            break;
        case 2:
            assert_int_equal(cascade_block_view(here, &key, &view), 0);
            assert_true(st_view_is(view, i, K, V));
            cascade_view_release(here, &view);
            break;
        case 3:
            assert_int_equal(cascade_content_info(here, 0, &id, &info), 0);
            break;
        default:
            assert_true(st_info(here, i).in_file);
        }
        assert_int_equal(st_get(here, i, i, K, V), 0);
        assert_int_equal(st_get(here, i, i, K, V), 0);
    }
    assert_int_equal(st_segment_count(), 1);
    put_there(5, 5);
    close_one(&there);
    assert_int_equal(get_later(here, 5, 5), 0);
    assert_int_equal(st_stats(here).tiers[CASCADE_TIER_FILE].quarantined, 0);
    assert_int_equal(st_stats(here).tiers[CASCADE_TIER_FILE].misses, 1);
}

static void many_gets_find_it_too(void **state)
{
    uint8_t into[3][K];
    cascade_piece pieces[3];
    cascade_get gets[3];

    (void)state;
    open_both();
    for (uint64_t i = 0; i < 3; i++) {
        assert_int_equal(st_put(there, i, i, K, 0, CASCADE_PUT_DURABLE), 0);
        pieces[i] = (cascade_piece){into[i], K};
        gets[i] = (cascade_get){.key = st_key(i), .into = {&pieces[i], 1, NULL, 0}};
    }
    st_sleep_ms(3);
    assert_int_equal(cascade_block_get_many(here, gets, 3), 0);
}

/* A match does not wait: the next ones, after a moment, are longer. */
static void a_match_finds_it_in_a_while(void **state)
{
    cascade_key keys[8];
    size_t matched = 0;

    (void)state;
    open_both();
    for (uint64_t i = 0; i < 8; i++) {
        keys[i] = st_key(i);
        put_there(i, i);
    }
    for (int i = 0; matched < 8; i++) {
        assert_int_equal(cascade_prefix_match(here, keys, 8, &matched), 0);
        assert_true(i > 0 || matched == 0);
        st_sleep_ms(10);
    }
}

/* Nobody looks into the directory who finds what he asks for, or before it is time. */
static void lookups_list_no_directory(void **state)
{
    cascade_options options = options_of(0, false);
    cascade_key absent = st_key(99);
    uint64_t before;
    size_t matched;

    (void)state;
    options.refresh_ms = HOUR_MS;
    here = st_open_with(options);
    before = readdirs(here);
    for (uint64_t i = 0; i < 200; i++) {
        assert_int_equal(st_get(here, 1000 + i, i, K, V), CASCADE_MISS);
        assert_int_equal(cascade_prefix_match(here, &absent, 1, &matched), 0);
    }
    assert_int_equal(readdirs(here), before);
    close_one(&here);
    here = st_open_with(options_of(0, false));
    before = readdirs(here);
    for (uint64_t i = 0; i < 50; i++)
        assert_int_equal(st_put(here, i, i, K, V, 0), 0); /* nor does a put of something new */
    for (uint64_t i = 0; i < 200; i++)
        assert_int_equal(st_get(here, i % 50, i % 50, K, V), 0);
    st_sleep_ms(250); /* the keeper */
    assert_int_equal(readdirs(here), before);
    assert_int_equal(get_later(here, 99, 99), CASCADE_MISS);
    assert_int_equal(readdirs(here), before + 1);
}

/* Who misses waits for the deadline of a read, no longer, and others not at all. */
static void a_disk_that_hangs_makes_misses(void **state)
{
    cascade_options options = options_of(0, false);
    int code = CASCADE_MISS;

    (void)state;
    options.io_deadline_ms = 300;
    here = st_open_with(options);
    there = st_open_with(options_of(1, true));
    assert_int_equal(st_put(here, 50, 50, K, V, 0), 0);
    put_there(1, 1);
    atomic_store(&directory_hangs, true);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(get_later(here, 1, 1), CASCADE_MISS);
        assert_int_equal(st_get(here, 50, 50, K, V), 0);
    }
    atomic_store(&directory_hangs, false);
    while (code == CASCADE_MISS)
        code = get_later(here, 1, 1);
    assert_int_equal(code, 0);
}

/* And a slow one, for which not every miss waits. */
static void a_slow_directory_is_looked_at_less(void **state)
{
    uint64_t before;

    (void)state;
    here = st_open_with(options_of(0, false));
    atomic_store(&directory_takes_ms, 300);
    before = readdirs(here);
    for (int i = 0; i < 20; i++)
        assert_int_equal(get_later(here, 99, 99), CASCADE_MISS);
    atomic_store(&directory_takes_ms, 0);
    assert_in_range(readdirs(here) - before, 1, 10);
}

static void *get_one(void *code)
{
    *(int *)code = st_get(here, 1, 1, K, V);
    return NULL;
}

/* Whoever misses while somebody has it look already waits for that look. */
static void one_look_is_for_all_who_miss(void **state)
{
    pthread_t threads[4];
    int codes[4];

    (void)state;
    open_both();
    put_there(1, 1);
    st_sleep_ms(3);
    atomic_store(&directory_hangs, true);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, get_one, &codes[i]), 0);
    st_sleep_ms(100);
    atomic_store(&directory_hangs, false);
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(codes[i], 0);
    }
}

/* Keys that share a content: their binds come without bytes, and the key that came with them may be
 * deleted before anyone looks. */
static void binds_without_bytes(void **state)
{
    (void)state;
    open_both();
    put_there(1, 1);
    put_there(2, 1);
    assert_int_equal(get_later(here, 2, 1), 0);
    put_there(3, 3);
    put_there(4, 3);
    assert_int_equal(st_delete(there, 3), 0);
    put_there(5, 5);
    assert_int_equal(get_later(here, 4, 3), 0);
    assert_int_equal(st_get(here, 3, 3, K, V), CASCADE_MISS);
    assert_int_equal(st_get(here, 5, 5, K, V), 0);
    assert_int_equal(st_info(here, 2).references, 2);
}

/* A bind in a segment that is read before the one with its content. */
static void a_bind_before_its_content(void **state)
{
    cascade_store *third = NULL;

    (void)state;
    here = st_open_with(options_of(0, false));
    third = st_open_with(options_of(2, true));
    assert_int_equal(st_put(third, 1, 1, K, V, CASCADE_PUT_DURABLE), 0);
    close_one(&third);
    there = st_open_with(options_of(1, true));
    put_there(2, 1);
    close_one(&there);
    assert_int_equal(get_later(here, 2, 1), 0);
}

/* Both with rank 0. */
static void two_nodes_of_one_rank(void **state)
{
    (void)state;
    here = st_open_with(options_of(0, false));
    there = st_open_with(options_of(0, true));
    for (uint64_t i = 0; i < 40; i++) {
        assert_int_equal(st_put(here, i, i, K, V, CASCADE_PUT_DURABLE), 0);
        put_there(100 + i, 100 + i);
        assert_int_equal(get_later(here, 100 + i, 100 + i), 0);
        assert_int_equal(get_later(there, i, i), 0);
    }
    close_one(&there);
    for (uint64_t i = 0; i < 40; i++)
        assert_int_equal(st_get(here, 100 + i, 100 + i, K, V), 0);
    close_one(&here);
    here = st_open_with(options_of(0, false));
    for (uint64_t i = 0; i < 40; i++) {
        assert_int_equal(st_get(here, i, i, K, V), 0);
        assert_int_equal(st_get(here, 100 + i, 100 + i, K, V), 0);
    }
}

/* ---- losing --------------------------------------------------------------------------------------- */

/* A segment of the other rank goes: a miss, and no trace is left; least of all a delete, for the other
 * may only have moved its blocks. What was put here as well stays. */
static void a_removed_segment_is_a_miss(void **state)
{
    char path[700], away[800];
    uint64_t keys;

    (void)state;
    open_both();
    put_there(1, 1);
    put_there(2, 2);
    put_there(3, 3);
    close_one(&there);
    snprintf(path, sizeof path, "%s", path_there());
    snprintf(away, sizeof away, "%s.away", path);
    assert_int_equal(get_later(here, 2, 2), 0); /* comes to dram */
    assert_int_equal(st_put(here, 2, 2, K, V, 0), 0);
    assert_int_equal(st_get(here, 3, 3, K, V), 0);
    keys = st_stats(here).keys;
    assert_int_equal(keys, 3);
    assert_int_equal(rename(path, away), 0);
    assert_int_equal(get_later(here, 99, 99), CASCADE_MISS); /* looks */
    assert_int_equal(st_stats(here).keys, 1);
    assert_int_equal(st_stats(here).tiers[CASCADE_TIER_FILE].drops, 2);
    assert_int_equal(st_stats(here).lost, 0);
    assert_int_equal(st_get(here, 1, 1, K, V), CASCADE_MISS);
    assert_int_equal(st_get(here, 3, 3, K, V), CASCADE_MISS);
    assert_int_equal(st_get(here, 2, 2, K, V), 0);
    assert_int_equal(cascade_store_flush(here), 0);
    close_one(&here);
    here = st_open_with(options_of(0, false));
    assert_int_equal(st_get(here, 2, 2, K, V), 0); /* written here, because dram had it */
    assert_int_equal(get_later(here, 1, 1), CASCADE_MISS);
    assert_int_equal(rename(away, path), 0);
    assert_int_equal(get_later(here, 1, 1), 0);
}

/* Before anyone noticed: the read itself finds the segment gone. */
static void a_segment_removed_under_a_reader(void **state)
{
    cascade_options options = options_of(0, false);

    (void)state;
    options.refresh_ms = HOUR_MS;
    there = st_open_with(options_of(1, true));
    put_there(1, 1);
    put_there(2, 2);
    close_one(&there);
    here = st_open_with(options);
    assert_int_equal(unlink(path_there()), 0);
    for (uint64_t i = 1; i < 3; i++) {
        int code = st_get(here, i, i, K, V);

        assert_true(code == 0 || code == CASCADE_MISS); /* its descriptor may be open still */
    }
}

static void moved_blocks_are_found_again(void **state)
{
    cascade_gc_report report = {0};

    (void)state;
    open_both();
    for (uint64_t i = 0; i < 40; i++)
        put_there(i, i);
    close_one(&there);
    there = st_open_with(options_of(1, true));
    assert_int_equal(get_later(here, 0, 0), 0);
    for (uint64_t i = 0; i < 40; i++)
        if (i % 4)
            assert_int_equal(st_delete(there, i), 0);
    assert_int_equal(cascade_store_gc(there, false, &report, NULL, NULL), 0);
    assert_true(st_stats(there).compactions > 0);
    for (uint64_t i = 0; i < 40; i++)
        put_there(200 + i, 200 + i); /* into the emptied file, once the segment at hand is full */
    close_one(&there);
    there = st_open_with(options_of(1, true));
    for (uint64_t i = 0; i < 40; i += 4)
        assert_int_equal(get_later(here, i, i), 0); /* a read finds its segment gone, looks, and reads */
    assert_int_equal(get_later(here, 99, 99), CASCADE_MISS);
    assert_int_equal(st_get(here, 1, 1, K, V), CASCADE_MISS);
    assert_int_equal(st_stats(here).keys, 50);
    close_one(&there);
    close_one(&here);
    here = st_open_with(options_of(0, false));
    for (uint64_t i = 0; i < 40; i++)
        assert_int_equal(st_get(here, i, i, K, V), i % 4 ? CASCADE_MISS : 0);
}

/* ---- all at once ---------------------------------------------------------------------------------- */

enum { BUSY_KEYS = 120, BUSY_ROUNDS = 6 };
static _Atomic bool busy_stop;

/* Reads whatever there is: right bytes, or a miss. */
static void *read_busily(void *context)
{
    _Atomic uint64_t *wrong = context;

    for (uint64_t i = 0; !atomic_load(&busy_stop); i++) {
        uint64_t number = i * 7 % BUSY_KEYS;
        int code = st_get(here, number, number, K, V);
        cascade_key keys[2] = {st_key(number), st_key(number + 1)};
        size_t matched;

        if ((code != 0 && code != CASCADE_MISS && code != CASCADE_EAGAIN) ||
            cascade_prefix_match(here, keys, 2, &matched) != 0)
            atomic_fetch_add(wrong, 1);
    }
    return NULL;
}

static void *put_busily(void *context)
{
    _Atomic uint64_t *wrong = context;

    for (uint64_t i = 0; !atomic_load(&busy_stop); i++) {
        uint64_t number = i * 11 % BUSY_KEYS;
        int code = st_put(here, number, number, K, V, i % 8 == 0 ? CASCADE_PUT_DURABLE : 0);

        /* A durable put may wait while the other's delete of its key arrives. */
        if (code != 0 && code != CASCADE_MISS && code != CASCADE_EAGAIN)
            atomic_fetch_add(wrong, 1);
        if (i % 16 == 0)
            (void)st_delete(here, number);
    }
    return NULL;
}

static void both_work_at_once(void **state)
{
    pthread_t readers[2], putter;
    _Atomic uint64_t wrong = 0;

    (void)state;
    open_both();
    atomic_store(&busy_stop, false);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&readers[i], NULL, read_busily, &wrong), 0);
    assert_int_equal(pthread_create(&putter, NULL, put_busily, &wrong), 0);
    for (int round = 0; round < BUSY_ROUNDS; round++) {
        cascade_gc_report report;

        for (uint64_t i = 0; i < BUSY_KEYS; i++) {
            assert_int_equal(st_put(there, i, i, K, V, 0), 0);
            if (i % 3 == 0)
                (void)st_delete(there, i);
        }
        assert_int_equal(cascade_store_flush(there), 0);
        if (round % 2) {
            close_one(&there);
            there = st_open_with(options_of(1, true));
            assert_int_equal(cascade_store_gc(there, false, &report, NULL, NULL), 0);
        }
    }
    atomic_store(&busy_stop, true);
    for (int i = 0; i < 2; i++)
        pthread_join(readers[i], NULL);
    pthread_join(putter, NULL);
    assert_int_equal(wrong, 0);
    /* What is acknowledged after all that is there at the end. */
    for (uint64_t i = 0; i < 20; i++)
        assert_int_equal(st_put(here, 500 + i, 500 + i, K, V, 0), 0);
    assert_int_equal(cascade_store_flush(here), 0);
    close_one(&there);
    close_one(&here);
    here = st_open_with(options_of(0, false));
    for (uint64_t i = 0; i < 20; i++)
        assert_int_equal(st_get(here, 500 + i, 500 + i, K, V), 0);
    for (uint64_t i = 0; i < BUSY_KEYS; i++) {
        int code = st_get(here, i, i, K, V);

        assert_true(code == 0 || code == CASCADE_MISS);
    }
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, two_setup, two_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_miss_finds_what_the_other_flushed), CASE(many_gets_find_it_too),
        CASE(a_match_finds_it_in_a_while),         CASE(lookups_list_no_directory),
        CASE(a_disk_that_hangs_makes_misses),      CASE(a_slow_directory_is_looked_at_less),
        CASE(one_look_is_for_all_who_miss),        CASE(binds_without_bytes),
        CASE(a_bind_before_its_content),           CASE(two_nodes_of_one_rank),
        CASE(a_removed_segment_is_a_miss),         CASE(a_segment_removed_under_a_reader),
        CASE(moved_blocks_are_found_again),        CASE(both_work_at_once),
    };

    return cmocka_run_group_tests_name("store, two nodes find", tests, NULL, NULL);
}
