/* SPDX-License-Identifier: MIT */
/* Records that a killed owner wrote but had not synced: a whole header may have a torn payload behind
 * it, because requests reach the disk in any order. Dram still has those blocks, so nothing may be lost.
 */
#include "base/mark.h"
#include "store/store_private.h"
#include "store/store_testing.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cmocka.h>

enum { BYTES = 100000, HEADER = 4096 };

static void die_when_written(const char *name)
{
    if (strcmp(name, "write: written") == 0)
        raise(SIGKILL);
}

static void flush_one_and_die_writing_another(void *context)
{
    cascade_store *store = st_open();

    (void)context;
    ST_CHECK(st_put(store, 1, 1, BYTES, 0, CASCADE_PUT_DURABLE) == 0);
    atomic_store(&csc_mark_hook_now, die_when_written);
    ST_CHECK(st_put(store, 2, 2, BYTES, 0, CASCADE_PUT_DURABLE) == 0);
    raise(SIGKILL); /* it was there already, and was written again before the hook was set */
}

static void seal_one_and_die_writing_another(void *context)
{
    cascade_store *store = st_open();

    ST_CHECK(st_put(store, 7, 7, BYTES, 0, 0) == 0);
    ST_CHECK(cascade_store_close(&store) == 0);
    flush_one_and_die_writing_another(context);
}

/* Zeroes a page of the payload of the `which`-th record of a segment, both from 0. */
static void tear(size_t segment, unsigned which)
{
    static const uint8_t zeros[HEADER];
    const off_t record = HEADER + (BYTES + HEADER - 1) / HEADER * HEADER;
    int fd = open(st_segment_path(segment), O_WRONLY);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, zeros, sizeof zeros, HEADER + which * record + 2 * HEADER),
                     (ssize_t)sizeof zeros);
    close(fd);
}

static void assert_both(void)
{
    cascade_store *store = st_open();

    assert_int_equal(st_get(store, 1, 1, BYTES, 0), 0);
    assert_int_equal(st_get(store, 2, 2, BYTES, 0), 0);
    assert_int_equal(st_stats(store).lost, 0);
    assert_int_equal(st_stats(store).tiers[CASCADE_TIER_FILE].quarantined, 0);
    st_close(&store);
}

static void a_torn_record_is_written_again(void **state)
{
    (void)state;
    st_in_child(flush_one_and_die_writing_another, NULL, -SIGKILL);
    tear(0, 1);
    assert_both(); /* from dram; closed, so now from files alone */
    assert_both();
}

/* Whatever was read before it. */
static void a_torn_record_behind_a_sealed_segment(void **state)
{
    (void)state;
    st_in_child(seal_one_and_die_writing_another, NULL, -SIGKILL);
    assert_int_equal(st_segment_count(), 2);
    tear(1, 1);
    assert_both();
    assert_both();
}

static void die_writing_it_again(void *context)
{
    cascade_store *store;

    (void)context;
    atomic_store(&csc_mark_hook_now, die_when_written);
    store = st_open();
    (void)cascade_store_flush(store);
}

/* And is not taken for the newer copy while its successor is not synced either. */
static void killed_again_before_it_was_written_again(void **state)
{
    (void)state;
    st_in_child(flush_one_and_die_writing_another, NULL, -SIGKILL);
    for (int i = 0; i < 2; i++)
        st_in_child(die_writing_it_again, NULL, -SIGKILL);
    tear(0, 1);
    assert_both();
    assert_both();
}

/* With dram gone too, the newest copy is found torn at open, and another one counts. */
static void a_torn_copy_takes_no_space(void **state)
{
    const uint64_t record_bytes = HEADER + (BYTES + HEADER - 1) / HEADER * HEADER;
    csc_segment_info infos[4];
    cascade_store *store;
    size_t count = 4;

    (void)state;
    st_in_child(flush_one_and_die_writing_another, NULL, -SIGKILL);
    for (int i = 0; i < 2; i++)
        st_in_child(die_writing_it_again, NULL, -SIGKILL);
    assert_int_equal(st_segment_count(), 3);
    st_lose_memory();
    tear(2, 0);
    store = st_open();
    csc_segment_list(store->file, infos, &count);
    assert_int_equal(count, 3);
    assert_int_equal(infos[0].live_bytes, 2 * record_bytes);
    assert_int_equal(infos[1].live_bytes, 0);
    assert_int_equal(infos[2].live_bytes, 0);
    assert_int_equal(st_stats(store).tiers[CASCADE_TIER_FILE].quarantined, 1);
    assert_int_equal(st_get(store, 1, 1, BYTES, 0), 0);
    assert_int_equal(st_get(store, 2, 2, BYTES, 0), 0);
    assert_int_equal(st_stats(store).tiers[CASCADE_TIER_FILE].quarantined, 1);
    st_close(&store);
}

/* What the owner had published is not written twice. */
static void published_records_are_trusted(void **state)
{
    cascade_store *store;

    (void)state;
    st_in_child(flush_one_and_die_writing_another, NULL, -SIGKILL);
    store = st_open();
    assert_int_equal(cascade_store_flush(store), 0);
    assert_in_range(st_stats(store).tiers[CASCADE_TIER_FILE].written_bytes, BYTES, 2 * BYTES - 1);
    st_close(&store);
}

static void die_when_copied(const char *name)
{
    if (strcmp(name, "compact: copied") == 0)
        raise(SIGKILL);
}

/* Leaves block 1 in a sealed segment, and behind the delete of block 2 in one that is not. */
static void die_copying_one(void *context)
{
    cascade_store *store = st_open();
    cascade_gc_report report;

    (void)context;
    ST_CHECK(st_put(store, 1, 1, BYTES, 0, 0) == 0);
    ST_CHECK(st_put(store, 2, 2, BYTES, 0, 0) == 0);
    ST_CHECK(cascade_store_close(&store) == 0);
    store = st_open();
    atomic_store(&csc_mark_hook_now, die_when_copied);
    ST_CHECK(st_delete(store, 2) == 0);
    ST_CHECK(cascade_store_flush(store) == 0);
    (void)cascade_store_gc(store, false, &report, NULL, NULL);
}

/* Another copy of our own is no reason to keep a block that a budget takes: nobody has read that copy.
 * Taken for the block it would be damage, found later, where there was a drop. */
static void a_torn_copy_is_not_what_a_drop_leaves(void **state)
{
    static const uint8_t zeros[HEADER];
    cascade_options options = st_options();
    cascade_verify_report report;
    cascade_store *store;
    const cascade_key key = st_key(1);
    uint64_t filler = 100;
    cascade_info info;
    int fd;

    (void)state;
    st_in_child(die_copying_one, NULL, -SIGKILL);
    assert_int_equal(st_segment_count(), 2);
    st_lose_memory();
    fd = open(st_segment_path(1), O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, zeros, sizeof zeros, 4 * HEADER), (ssize_t)sizeof zeros);
    close(fd);
    options.dram_bytes = ST_MIB;
    options.file_budget_bytes = 2 * ST_MIB;
    store = st_open_with(options);
    while (cascade_block_info(store, &key, &info) == 0 && filler < 200) {
        assert_int_equal(st_put(store, filler, filler, BYTES, 0, CASCADE_PUT_DURABLE), 0);
        filler++;
        assert_int_equal(cascade_store_verify(store, &report, NULL, NULL), 0);
    }
    assert_in_range(filler, 101, 199);
    assert_in_range(st_stats(store).tiers[CASCADE_TIER_FILE].drops, 1, 100);
    assert_int_equal(st_stats(store).tiers[CASCADE_TIER_FILE].quarantined, 0);
    st_close(&store);
}

/* Nor for one that dram held longest: it is counted when it leaves that. */
static void a_torn_copy_is_not_what_a_shed_block_leaves(void **state)
{
    static const uint8_t zeros[HEADER];
    cascade_options options = st_options();
    cascade_verify_report report;
    cascade_store *store;
    const cascade_key key = st_key(1);
    uint64_t filler = 100;
    cascade_info info;
    int fd;

    (void)state;
    st_in_child(die_copying_one, NULL, -SIGKILL);
    assert_int_equal(st_segment_count(), 2);
    st_lose_memory();
    fd = open(st_segment_path(1), O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, zeros, sizeof zeros, 4 * HEADER), (ssize_t)sizeof zeros);
    close(fd);
    options.file_budget_bytes = 2 * ST_MIB;
    store = st_open_with(options);
    assert_int_equal(st_get(store, 1, 1, BYTES, 0), 0);
    while (cascade_block_info(store, &key, &info) == 0 && filler < 300) {
        assert_int_equal(st_put(store, filler, filler, BYTES, 0, CASCADE_PUT_DURABLE), 0);
        filler++;
        assert_int_equal(cascade_store_verify(store, &report, NULL, NULL), 0);
    }
    assert_in_range(filler, 101, 299);
    assert_int_equal(st_stats(store).tiers[CASCADE_TIER_FILE].quarantined, 0);
    assert_in_range(st_stats(store).tiers[CASCADE_TIER_FILE].drops, 1, 200);
    st_close(&store);
}

static void die_writing_one(void *context)
{
    cascade_store *store = st_open();

    (void)context;
    atomic_store(&csc_mark_hook_now, die_when_written);
    (void)st_put(store, 1, 1, BYTES, 0, CASCADE_PUT_DURABLE);
}

/* What was not flushed may be torn after a power cut; whoever puts its bytes again, as that key or as
 * another, is not told that they are stored. */
static void put_again_as(uint64_t number)
{
    cascade_store *store;

    st_in_child(die_writing_one, NULL, -SIGKILL);
    st_lose_memory();
    tear(0, 0);
    store = st_open();
    assert_int_equal(st_put(store, number, 1, BYTES, 0, CASCADE_PUT_DURABLE), 0);
    st_close(&store);
    store = st_open();
    assert_int_equal(st_get(store, number, 1, BYTES, 0), 0);
    st_close(&store);
}

static void a_put_is_not_durable_by_a_torn_record(void **state)
{
    (void)state;
    put_again_as(1);
}

static void a_content_is_not_durable_by_a_torn_record(void **state)
{
    (void)state;
    put_again_as(2);
}

/* What is whole is relied on once it was read: the first content of a key stays. */
static void the_first_content_stays(void **state)
{
    cascade_store *store;
    cascade_put put;
    uint8_t bytes[BYTES];
    cascade_piece piece = {bytes, BYTES};

    (void)state;
    st_in_child(flush_one_and_die_writing_another, NULL, -SIGKILL);
    st_lose_memory();
    store = st_open();
    memset(bytes, 7, sizeof bytes);
    put = (cascade_put){.key = st_key(1), .block = {&piece, 1, NULL, 0}};
    assert_int_equal(cascade_block_put(store, &put, CASCADE_PUT_DURABLE), 0);
    assert_true(put.existed);
    assert_int_equal(st_get(store, 1, 1, BYTES, 0), 0);
    st_close(&store);
}

/* ---- a record that is given up ------------------------------------------------------------------ */

static atomic_bool refuses; /* the disk does, what a segment that begins writes */

static ssize_t refusing_pwritev(int fd, const struct iovec *vectors, int count, off_t offset)
{
    if (atomic_load(&refuses)) {
        errno = EIO;
        return -1;
    }
    return pwritev(fd, vectors, count, offset);
}

static atomic_bool unreadable; /* blocks are */

static ssize_t refusing_preadv(int fd, const struct iovec *vectors, int count, off_t offset)
{
    if (atomic_load(&unreadable) && offset >= HEADER) {
        errno = EIO;
        return -1;
    }
    return preadv(fd, vectors, count, offset);
}

static int refusing_fallocate(int fd, int mode, off_t offset, off_t bytes)
{
    if (atomic_load(&refuses)) {
        errno = EIO;
        return -1;
    }
    return fallocate(fd, mode, offset, bytes);
}

static const csc_io_calls refusing = {
    .preadv = refusing_preadv, .pwritev = refusing_pwritev, .fallocate = refusing_fallocate};

static void flush_one_and_die(void *context)
{
    cascade_store *store = st_open();

    (void)context;
    ST_CHECK(st_put(store, 1, 1, BYTES, 0, CASCADE_PUT_DURABLE) == 0);
    raise(SIGKILL);
}

static void seal_one_and_flush_one(void *context)
{
    cascade_store *store = st_open();

    ST_CHECK(st_put(store, 7, 7, BYTES, 0, 0) == 0);
    ST_CHECK(cascade_store_close(&store) == 0);
    flush_one_and_die(context);
}

/* Puts the flushed block under a second key while nothing can be written, and has all segments emptied
 * that can be: the sealed one, which nobody wants any more. Then the power goes. */
static void empty_while_it_is_replaced(void *context)
{
    const cascade_scrub_options fix = {.struct_bytes = sizeof fix, .fix = true};
    cascade_options options = st_options();
    cascade_verify_report report;
    cascade_gc_report collected;
    cascade_store *store;
    char sealed[600];

    (void)context;
    snprintf(sealed, sizeof sealed, "%s", st_segment_path(0));
    atomic_store(&refuses, true);
    ST_CHECK(csc_store_open_with(&options, &refusing, &store) == 0);
    ST_CHECK(st_put(store, 2, 1, BYTES, 0, CASCADE_PUT_DURABLE) == CASCADE_EIO);
    ST_CHECK(st_delete(store, 7) == 0);
    ST_CHECK(cascade_store_gc(store, false, &collected, NULL, NULL) == 0);
    ST_CHECK(access(sealed, F_OK) != 0);
    ST_CHECK(cascade_store_scrub(store, &fix, &report, NULL, NULL) == CASCADE_EIO);
    raise(SIGKILL);
}

/* A flushed block that met its equal is read where it was flushed to, until that one is written. */
static void a_record_stays_until_it_is_replaced(void **state)
{
    cascade_store *store;

    (void)state;
    st_in_child(seal_one_and_flush_one, NULL, -SIGKILL);
    st_lose_memory();
    st_in_child(empty_while_it_is_replaced, NULL, -SIGKILL);
    st_lose_memory();
    store = st_open();
    assert_int_equal(st_get(store, 1, 1, BYTES, 0), 0);
    st_close(&store);
}

/* And goes after that. */
static void a_replaced_record_goes(void **state)
{
    const cascade_scrub_options fix = {.struct_bytes = sizeof fix, .fix = true};
    cascade_verify_report report;
    cascade_store *store;

    (void)state;
    st_in_child(flush_one_and_die, NULL, -SIGKILL);
    st_lose_memory();
    store = st_open();
    assert_int_equal(st_put(store, 2, 1, BYTES, 0, 0), 0);
    assert_int_equal(cascade_store_scrub(store, &fix, &report, NULL, NULL), 0);
    assert_int_equal(st_segment_count(), 1);
    st_close(&store);
    store = st_open();
    assert_int_equal(st_get(store, 1, 1, BYTES, 0), 0);
    assert_int_equal(st_get(store, 2, 1, BYTES, 0), 0);
    st_close(&store);
}

/* A torn record is no content of other lengths that a key could be bound to. */
static void a_torn_record_is_no_conflict(void **state)
{
    cascade_store *store;

    (void)state;
    st_in_child(die_writing_one, NULL, -SIGKILL);
    st_lose_memory();
    tear(0, 0);
    store = st_open();
    assert_int_equal(st_put(store, 1, 9, BYTES / 2, 0, CASCADE_PUT_DURABLE), 0);
    assert_int_equal(st_stats(store).conflicts, 0);
    st_close(&store);
    store = st_open();
    assert_int_equal(st_get(store, 1, 9, BYTES / 2, 0), 0);
    st_close(&store);
}

/* A whole one is: it stays, and is on stable storage. */
static void a_whole_record_of_other_lengths_stays(void **state)
{
    cascade_store *store;

    (void)state;
    st_in_child(die_writing_one, NULL, -SIGKILL);
    st_lose_memory();
    store = st_open();
    assert_int_equal(st_put(store, 1, 9, BYTES / 2, 0, CASCADE_PUT_DURABLE), 0);
    assert_int_equal(st_stats(store).conflicts, 1);
    st_close(&store);
    store = st_open();
    assert_int_equal(st_get(store, 1, 1, BYTES, 0), 0);
    st_close(&store);
}

/* Nobody knows whether the first content is whole: it is not replaced, and the put says so. */
static void the_first_content_stays_when_it_cannot_be_read(void **state)
{
    cascade_options options = st_options();
    cascade_store *store;

    (void)state;
    st_in_child(flush_one_and_die, NULL, -SIGKILL);
    st_lose_memory();
    assert_int_equal(csc_store_open_with(&options, &refusing, &store), 0);
    atomic_store(&unreadable, true);
    assert_int_equal(st_put(store, 1, 5, BYTES, 0, 0), CASCADE_EAGAIN);
    assert_int_equal(st_put(store, 1, 5, BYTES, 0, CASCADE_PUT_DURABLE), CASCADE_EAGAIN);
    atomic_store(&unreadable, false);
    assert_int_equal(st_get(store, 1, 1, BYTES, 0), 0);
    assert_int_equal(st_put(store, 1, 5, BYTES, 0, CASCADE_PUT_DURABLE), 0); /* it existed */
    assert_int_equal(st_get(store, 1, 1, BYTES, 0), 0);
    st_close(&store);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, st_setup, st_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_torn_record_is_written_again),
        CASE(a_torn_record_behind_a_sealed_segment),
        CASE(killed_again_before_it_was_written_again),
        CASE(a_torn_copy_takes_no_space),
        CASE(published_records_are_trusted),
        CASE(a_torn_copy_is_not_what_a_drop_leaves),
        CASE(a_torn_copy_is_not_what_a_shed_block_leaves),
        CASE(a_put_is_not_durable_by_a_torn_record),
        CASE(a_content_is_not_durable_by_a_torn_record),
        CASE(the_first_content_stays),
        CASE(a_record_stays_until_it_is_replaced),
        CASE(a_replaced_record_goes),
        CASE(a_torn_record_is_no_conflict),
        CASE(a_whole_record_of_other_lengths_stays),
        CASE(the_first_content_stays_when_it_cannot_be_read),
    };

    return cmocka_run_group_tests_name("store, torn records", tests, NULL, NULL);
}
