/* SPDX-License-Identifier: MIT */
/* Two nodes over one directory: what one deletes, and what one may believe of the other's records. */
#include "base/mark.h"
#include "store/store_two_nodes.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- deleting ------------------------------------------------------------------------------------- */

static void a_delete_reaches_the_other(void **state)
{
    (void)state;
    open_both();
    put_there(1, 1);
    put_there(2, 2);
    assert_int_equal(get_later(here, 1, 1), 0);
    assert_int_equal(st_delete(there, 1), 0);
    assert_int_equal(cascade_store_flush(there), 0);
    assert_int_equal(get_later(here, 99, 99), CASCADE_MISS); /* looks */
    assert_int_equal(st_get(here, 1, 1, K, V), CASCADE_MISS);
    assert_int_equal(st_get(here, 2, 2, K, V), 0);
    /* And one of what was put here, on disk. */
    assert_int_equal(st_put(here, 3, 3, K, V, CASCADE_PUT_DURABLE), 0);
    assert_int_equal(get_later(there, 3, 3), 0);
    assert_int_equal(st_delete(there, 3), 0);
    assert_int_equal(cascade_store_flush(there), 0);
    assert_int_equal(get_later(here, 99, 99), CASCADE_MISS);
    assert_int_equal(st_get(here, 3, 3, K, V), CASCADE_MISS);
    close_one(&there);
    close_one(&here);
    here = st_open_with(options_of(0, false));
    assert_int_equal(st_get(here, 1, 1, K, V), CASCADE_MISS);
    assert_int_equal(st_get(here, 2, 2, K, V), 0);
    assert_int_equal(st_get(here, 3, 3, K, V), CASCADE_MISS);
}

/* Sequences follow what was seen: a delete hides the bind that it was meant for, however much the other
 * had done before. */
static void a_delete_comes_after_what_was_seen(void **state)
{
    (void)state;
    open_both();
    for (uint64_t i = 0; i < 50; i++)
        put_there(i, i);
    assert_int_equal(get_later(here, 49, 49), 0);
    assert_int_equal(st_delete(here, 49), 0);
    assert_int_equal(get_later(here, 49, 49), CASCADE_MISS);
    close_one(&here);
    close_one(&there);
    for (int i = 0; i < 2; i++) {
        here = st_open_with(options_of((uint32_t)i, false));
        assert_int_equal(get_later(here, 49, 49), CASCADE_MISS);
        assert_int_equal(st_get(here, 48, 48, K, V), 0);
        close_one(&here);
    }
}

/* A bind that is older than a delete here is found only after it. */
static void what_is_deleted_stays_so(void **state)
{
    cascade_id id = st_id(1, K, V);
    cascade_info info;

    (void)state;
    open_both();
    for (uint64_t i = 0; i < 20; i++) /* sequences here are far ahead */
        assert_int_equal(st_put(here, 100 + i, 100 + i, K, V, CASCADE_PUT_DURABLE), 0);
    assert_int_equal(st_put(here, 1, 1, K, V, CASCADE_PUT_DURABLE), 0);
    assert_int_equal(st_delete(here, 1), 0);
    put_there(1, 1);
    put_there(2, 2);
    assert_int_equal(get_later(here, 2, 2), 0);
    assert_int_equal(get_later(here, 1, 1), CASCADE_MISS);
    assert_int_equal(cascade_content_info(here, 0, &id, &info), CASCADE_MISS);
    /* As it will be for everybody. */
    close_one(&here);
    close_one(&there);
    here = st_open_with(options_of(0, false));
    there = st_open_with(options_of(1, true));
    assert_int_equal(get_later(here, 1, 1), CASCADE_MISS);
    assert_int_equal(get_later(there, 1, 1), CASCADE_MISS);
    /* Also if the delete is one that an open found. */
    put_there(3, 3);
    assert_int_equal(get_later(here, 3, 3), 0);
    assert_int_equal(get_later(here, 1, 1), CASCADE_MISS);
}

static _Atomic bool writer_held, writer_waits;

static void hold_writer(const char *name)
{
    if (strcmp(name, "write: written") != 0)
        return;
    while (atomic_load(&writer_held)) {
        atomic_store(&writer_waits, true);
        st_sleep_ms(1);
    }
}

/* The writer here stands still with block `first`; key 1 was bound and deleted there, which is not known
 * here, and put here. */
static void meet_a_delete(uint64_t first)
{
    open_both();
    for (uint64_t i = 0; i < 20; i++)
        put_there(100 + i, 100 + i);
    put_there(1, 1);
    assert_int_equal(st_delete(there, 1), 0);
    assert_int_equal(cascade_store_flush(there), 0);
    atomic_store(&writer_waits, false);
    atomic_store(&writer_held, true);
    atomic_store(&csc_mark_hook_now, hold_writer);
    assert_int_equal(st_put(here, first, first, K, V, 0), 0);
    while (!atomic_load(&writer_waits))
        st_sleep_ms(1);
    assert_int_equal(st_put(here, 1, 1, K, V, 0), 0);
    assert_int_equal(get_later(here, 99, 99), CASCADE_MISS); /* looks */
    assert_int_equal(st_get(here, 119, 119, K, V), 0);
    assert_int_equal(st_get(here, 1, 1, K, V), 0);
    atomic_store(&writer_held, false);
    atomic_store(&csc_mark_hook_now, NULL);
    assert_int_equal(cascade_store_flush(here), 0);
}

/* A block that was put here and is not written yet outlives the other's delete, and the next open. */
static void what_is_dirty_outlives_a_delete(void **state)
{
    (void)state;
    meet_a_delete(50);
    assert_int_equal(get_later(here, 98, 98), CASCADE_MISS);
    assert_int_equal(st_get(here, 1, 1, K, V), 0);
    close_one(&here);
    close_one(&there);
    here = st_open_with(options_of(0, false));
    assert_int_equal(st_get(here, 1, 1, K, V), 0);
}

/* What is being written can get no later bind any more: it goes once it is there. */
static void a_delete_waits_for_a_write(void **state)
{
    (void)state;
    meet_a_delete(1);
    assert_int_equal(get_later(here, 98, 98), CASCADE_MISS);
    assert_int_equal(st_get(here, 1, 1, K, V), CASCADE_MISS);
    close_one(&here);
    close_one(&there);
    here = st_open_with(options_of(0, false));
    assert_int_equal(st_get(here, 1, 1, K, V), CASCADE_MISS);
}

/* What is too old here may be in use there. */
static void age_deletes_nothing_of_the_other(void **state)
{
    cascade_options options = options_of(0, false);
    cascade_gc_report report;

    (void)state;
    there = st_open_with(options_of(1, true));
    put_there(1, 1);
    close_one(&there);
    st_sleep_ms(2100);
    options.file_age_s = 1;
    here = st_open_with(options);
    assert_int_equal(cascade_store_gc(here, false, &report, NULL, NULL), 0);
    assert_int_equal(st_stats(here).keys, 0);
    close_one(&here);
    there = st_open_with(options_of(1, true));
    assert_int_equal(st_get(there, 1, 1, K, V), 0);
}

static void (*meanwhile)(void);

/* A segment is being emptied here. */
static void do_meanwhile(const char *name)
{
    void (*now)(void) = meanwhile;

    if (now && strcmp(name, "compact: synced") == 0) {
        meanwhile = NULL;
        now();
    }
}

/* Here 21 blocks, with sequences far ahead, are put and all but the last deleted, and the segment of
 * that is emptied, while `now` is called. */
static void empty_here(void (*now)(void))
{
    cascade_gc_report report;

    here = st_open_with(hourly(0, false));
    there = st_open_with(hourly(1, true));
    for (uint64_t i = 0; i < 21; i++)
        assert_int_equal(st_put(here, i, i, K, V, CASCADE_PUT_DURABLE), 0);
    for (uint64_t i = 0; i < 20; i++)
        assert_int_equal(st_delete(here, i), 0);
    close_one(&here);
    meanwhile = now;
    atomic_store(&csc_mark_hook_now, do_meanwhile);
    here = st_open_with(hourly(0, false)); /* does it by itself, if it is not asked to first */
    assert_int_equal(cascade_store_gc(here, false, &report, NULL, NULL), 0);
    atomic_store(&csc_mark_hook_now, NULL);
    assert_null(meanwhile);
    assert_int_equal(st_stats(here).compactions, 1);
}

static void put_one_there(void)
{
    put_there(1, 1);
}

/* Emptying the segment of a delete drops it only if it hides nothing of anybody, and who does not look
 * does not know. */
static void a_delete_outlives_what_it_hides_there(void **state)
{
    (void)state;
    empty_here(put_one_there);
    close_one(&there);
    close_one(&here);
    here = st_open_with(hourly(0, false));
    assert_int_equal(st_get(here, 1, 1, K, V), CASCADE_MISS);
}

static char unreadable[700];

static void add_unreadable_file(void)
{
    snprintf(unreadable, sizeof unreadable, "%s/agg_rank003_000000.bin", st_directory());
    assert_int_equal(symlink(unreadable, unreadable), 0);
}

/* Nor is it dropped while there is something that cannot be read now. */
static void a_delete_outlives_what_it_may_hide(void **state)
{
    (void)state;
    empty_here(add_unreadable_file);
    assert_int_equal(unlink(unreadable), 0);
    put_there(1, 1); /* as if it had been in there */
    close_one(&there);
    close_one(&here);
    here = st_open_with(hourly(0, false));
    assert_int_equal(st_get(here, 1, 1, K, V), CASCADE_MISS);
}

static void do_nothing(void)
{
}

/* But then: else deletes would pile up. */
static void a_delete_that_hides_nothing_goes(void **state)
{
    (void)state;
    empty_here(do_nothing);
    put_there(1, 1);
    close_one(&there);
    close_one(&here);
    here = st_open_with(hourly(0, false));
    assert_int_equal(st_get(here, 1, 1, K, V), 0);
}

/* A key that only the other has bound, and that nobody here has asked for. */
static void a_delete_of_what_is_not_known_yet(void **state)
{
    (void)state;
    open_both();
    put_there(1, 1);
    st_sleep_ms(3);
    assert_int_equal(st_delete(here, 1), 0);
    assert_int_equal(st_delete(here, 2), CASCADE_MISS);
    close_one(&here);
    assert_int_equal(get_later(there, 99, 99), CASCADE_MISS); /* looks */
    assert_int_equal(st_get(there, 1, 1, K, V), CASCADE_MISS);
}

/* ---- trusting ------------------------------------------------------------------------------------- */

/* What is acknowledged here does not rest on a record that another node is writing. */
static void a_put_does_not_rely_on_the_other(void **state)
{
    (void)state;
    open_both();
    put_there(1, 1);
    put_there(2, 2);
    assert_int_equal(get_later(here, 2, 2), 0); /* 1 is known here, 2 in dram as well */
    assert_int_equal(st_put(here, 1, 1, K, V, CASCADE_PUT_DURABLE), 0);
    assert_int_equal(st_put(here, 3, 1, K, V, CASCADE_PUT_DURABLE), 0); /* another key, the same block */
    assert_int_equal(st_put(here, 4, 2, K, V, CASCADE_PUT_DURABLE), 0);
    assert_int_equal(st_put(here, 2, 2, K, V, CASCADE_PUT_DURABLE), 0);
    assert_int_equal(unlink(path_there()), 0); /* as if it had never got to the disk */
    close_one(&here);
    here = st_open_with(options_of(0, false));
    assert_int_equal(st_get(here, 1, 1, K, V), 0);
    assert_int_equal(st_get(here, 2, 2, K, V), 0);
    assert_int_equal(st_get(here, 3, 1, K, V), 0);
    assert_int_equal(st_get(here, 4, 2, K, V), 0);
}

/* The key is let go of, put here, and deleted before that is written: the other's bind stays hidden. */
static void a_delete_hides_what_was_let_go(void **state)
{
    (void)state;
    open_both();
    put_there(1, 1);
    assert_int_equal(get_later(here, 1, 1), 0);
    atomic_store(&writer_waits, false);
    atomic_store(&writer_held, true);
    atomic_store(&csc_mark_hook_now, hold_writer);
    assert_int_equal(st_put(here, 50, 50, K, V, 0), 0);
    while (!atomic_load(&writer_waits))
        st_sleep_ms(1);
    assert_int_equal(st_put(here, 1, 1, K, V, 0), 0);
    assert_int_equal(st_delete(here, 1), 0);
    atomic_store(&writer_held, false);
    atomic_store(&csc_mark_hook_now, NULL);
    close_one(&here);
    here = st_open_with(options_of(0, false));
    assert_int_equal(get_later(here, 1, 1), CASCADE_MISS);
}

/* A put of other lengths leaves what the key is bound to, which may never get to the disk. */
static void a_durable_conflict_does_not_rely_on_the_other(void **state)
{
    (void)state;
    open_both();
    put_there(1, 1);
    assert_int_equal(get_later(here, 1, 1), 0);
    assert_int_equal(st_put(here, 1, 1, K + 1, V, 0), 0);
    assert_int_equal(st_put(here, 1, 1, K + 1, V, CASCADE_PUT_DURABLE), CASCADE_EAGAIN);
    assert_int_equal(st_stats(here).conflicts, 2);
    close_one(&there);
    assert_int_equal(get_later(here, 99, 99), CASCADE_MISS); /* looks */
    assert_int_equal(st_put(here, 1, 1, K + 1, V, CASCADE_PUT_DURABLE), 0);
    assert_int_equal(st_get(here, 1, 1, K, V), 0);
}

/* The other deletes a key, and its bind and then the delete are gone before anyone looks here: the key
 * does not come back, though its block is here as well. */
static void a_delete_nobody_saw(void **state)
{
    cascade_gc_report report;

    (void)state;
    here = st_open_with(options_of(0, false));
    assert_int_equal(st_put(here, 50, 1, K, V, CASCADE_PUT_DURABLE), 0);
    there = st_open_with(options_of(1, true));
    put_there(1, 1); /* the block of 50 */
    for (uint64_t i = 0; i < 20; i++)
        put_there(100 + i, 100 + i);
    assert_int_equal(get_later(here, 1, 1), 0);
    for (uint64_t i = 0; i < 20; i++)
        assert_int_equal(st_delete(there, 100 + i), 0);
    assert_int_equal(st_delete(there, 1), 0);
    close_one(&there);
    for (int i = 0; i < 3; i++) { /* the bind, then its delete */
        there = st_open_with(options_of(1, true));
        assert_int_equal(cascade_store_gc(there, false, &report, NULL, NULL), 0);
        close_one(&there);
    }
    assert_int_equal(get_later(here, 99, 99), CASCADE_MISS); /* looks */
    assert_int_equal(st_get(here, 50, 1, K, V), 0);
    assert_int_equal(st_get(here, 1, 1, K, V), CASCADE_MISS);
    assert_int_equal(cascade_store_flush(here), 0);
    close_one(&here);
    there = st_open_with(options_of(1, true));
    assert_int_equal(get_later(there, 1, 1), CASCADE_MISS);
    assert_int_equal(st_get(there, 50, 1, K, V), 0);
}

/* Nor does one that compares. */
static void a_put_that_compares_does_not_rely_on_the_other(void **state)
{
    (void)state;
    open_both();
    put_there(1, 1);
    put_there(2, 2);
    assert_int_equal(get_later(here, 2, 2), 0);
    assert_int_equal(st_put(here, 1, 1, K, V, CASCADE_PUT_DURABLE | CASCADE_PUT_VERIFY), 0);
    assert_int_equal(st_put(here, 2, 2, K, V, CASCADE_PUT_DURABLE | CASCADE_PUT_VERIFY), 0);
    assert_int_equal(st_put(here, 1, 7, K, V, CASCADE_PUT_VERIFY), CASCADE_ECONFLICT);
    assert_int_equal(unlink(path_there()), 0);
    close_one(&here);
    here = st_open_with(options_of(0, false));
    assert_int_equal(st_get(here, 1, 1, K, V), 0);
    assert_int_equal(st_get(here, 2, 2, K, V), 0);
}

/* But on one that is sealed: no bytes are written twice then, only two binds. */
static void a_put_relies_on_a_sealed_one(void **state)
{
    (void)state;
    open_both();
    put_there(1, 1);
    close_one(&there);
    assert_int_equal(get_later(here, 1, 1), 0);
    assert_int_equal(st_put(here, 1, 1, K, V, CASCADE_PUT_DURABLE), 0);
    assert_int_equal(st_put(here, 2, 1, K, V, CASCADE_PUT_DURABLE), 0);
    assert_in_range(st_stats(here).tiers[CASCADE_TIER_FILE].written_bytes, 1, 3 * PAGE);
    close_one(&here);
    here = st_open_with(options_of(0, false));
    assert_int_equal(st_get(here, 2, 1, K, V), 0);
}

/* A header that is ahead of its payload: a miss as long as it is, not a delete, and not for ever. */
static void a_payload_that_is_not_there_yet(void **state)
{
    uint8_t kept[64];

    (void)state;
    open_both();
    put_there(1, 1);
    put_there(2, 2);
    tear(path_there(), kept, false);
    assert_int_equal(get_later(here, 1, 1), CASCADE_MISS);
    assert_int_equal(get_later(here, 1, 1), CASCADE_MISS);
    assert_int_equal(st_get(here, 2, 2, K, V), 0);
    tear(path_there(), kept, true);
    assert_int_equal(get_later(here, 1, 1), 0);
    assert_int_equal(cascade_store_flush(here), 0);
    close_one(&here);
    close_one(&there);
    there = st_open_with(options_of(1, true));
    assert_int_equal(st_get(there, 1, 1, K, V), 0);
}

/* Nor is a block deleted whose only copy is in a sealed segment of the other, when that is damaged. */
static void damage_of_the_other_deletes_nothing(void **state)
{
    uint8_t kept[64];

    (void)state;
    there = st_open_with(options_of(1, true));
    put_there(1, 1);
    close_one(&there);
    here = st_open_with(options_of(0, false));
    assert_int_equal(st_put(here, 10, 1, K, V, CASCADE_PUT_DURABLE), 0);
    close_one(&here);
    here = st_open_with(options_of(0, false));
    tear(path_there(), kept, false);
    assert_int_equal(st_get(here, 10, 1, K, V), CASCADE_MISS);
    close_one(&here);
    tear(path_there(), kept, true);
    here = st_open_with(options_of(0, false));
    assert_int_equal(st_get(here, 10, 1, K, V), 0);
    assert_int_equal(st_get(here, 1, 1, K, V), 0);
}

static void write_there_and_die(void *context)
{
    cascade_options options = options_of(1, true);
    cascade_store *store = NULL;
    int *pipes = context;
    char word;

    options.refresh_ms = HOUR_MS;
    ST_CHECK(cascade_store_open(&options, &store) == 0);
    for (uint64_t i = 0; i < 20; i++)
        ST_CHECK(st_put(store, 100 + i, 100 + i, K, V, 0) == 0);
    ST_CHECK(st_put(store, 100, 100, K, V, CASCADE_PUT_DURABLE) == 0);
    ST_CHECK(write(pipes[1], "o", 1) == 1 && read(pipes[2], &word, 1) == 1);
    for (uint64_t i = 0; i < 20; i++)
        ST_CHECK(st_put(store, 200 + i, 200 + i, K, V, 0) == 0);
    ST_CHECK(st_put(store, 2, 1, K, V, CASCADE_PUT_DURABLE) == 0);
    _exit(0); /* not closed: no index */
}

/* The other's copy of a block of ours is the later one, but in a segment without an index: ours is read.
 */
static void an_open_prefers_a_copy_that_is_sure(void **state)
{
    int to_here[2], to_there[2], pipes[4];
    uint8_t zeros[PAGE] = {0};
    struct stat info;
    char word;
    pid_t child;
    int fd;

    (void)state;
    assert_int_equal(pipe(to_here) | pipe(to_there), 0);
    pipes[1] = to_here[1];
    pipes[2] = to_there[0];
    child = st_spawn(write_there_and_die, pipes);
    assert_int_equal(read(to_here[0], &word, 1), 1);
    here = st_open_with(options_of(0, false));
    assert_int_equal(st_put(here, 1, 1, K, V, CASCADE_PUT_DURABLE), 0);
    close_one(&here);
    assert_int_equal(write(to_there[1], "g", 1), 1);
    assert_int_equal(st_wait(child), 0);
    for (int i = 0; i < 2; i++) {
        close(to_here[i]);
        close(to_there[i]);
    }
    fd = open(path_there(), O_RDWR);
    assert_int_equal(fstat(fd, &info), 0);
    for (off_t at = PAGE; at < info.st_size; at += PAGE) { /* all payload, no header */
        char magic[8];

        assert_int_equal(pread(fd, magic, sizeof magic, at), (ssize_t)sizeof magic);
        if (memcmp(magic, "CSCRECRD", sizeof magic) != 0)
            assert_int_equal(pwrite(fd, zeros, PAGE, at), PAGE);
    }
    close(fd);
    here = st_open_with(options_of(0, false));
    assert_int_equal(st_get(here, 1, 1, K, V), 0);
    assert_int_equal(st_get(here, 2, 1, K, V), 0);
    assert_int_equal(st_get(here, 105, 105, K, V), CASCADE_MISS);
    close_one(&here);
    there = st_open_with(options_of(1, true)); /* collects what the dead one left in memory */
    for (uint64_t i = 0; i < 20; i++)          /* dram had all of it, and the torn copies do not count */
        assert_int_equal(st_get(there, 100 + i, 100 + i, K, V), 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, two_setup, two_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_delete_reaches_the_other),
        CASE(a_delete_comes_after_what_was_seen),
        CASE(what_is_deleted_stays_so),
        CASE(what_is_dirty_outlives_a_delete),
        CASE(a_delete_waits_for_a_write),
        CASE(age_deletes_nothing_of_the_other),
        CASE(a_delete_outlives_what_it_hides_there),
        CASE(a_delete_outlives_what_it_may_hide),
        CASE(a_delete_that_hides_nothing_goes),
        CASE(a_delete_of_what_is_not_known_yet),
        CASE(a_put_does_not_rely_on_the_other),
        CASE(a_put_that_compares_does_not_rely_on_the_other),
        CASE(a_durable_conflict_does_not_rely_on_the_other),
        CASE(a_delete_hides_what_was_let_go),
        CASE(a_delete_nobody_saw),
        CASE(a_put_relies_on_a_sealed_one),
        CASE(a_payload_that_is_not_there_yet),
        CASE(damage_of_the_other_deletes_nothing),
        CASE(an_open_prefers_a_copy_that_is_sure),
    };

    return cmocka_run_group_tests_name("store, two nodes trust", tests, NULL, NULL);
}
