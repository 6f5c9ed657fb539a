/* SPDX-License-Identifier: MIT */
/* Bytes that a disk brings wrong: once, then the block is a hit all the same; each time, then it is
 * damaged. Reads of dram and writes are left alone. */
#include "store/store_private.h"
#include "store/store_testing.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { BYTES = 150000, WAYS = 4, EVER = 1 << 30 };

static atomic_int wrong;          /* so many reads of blocks to come bring a wrong bit */
static atomic_int wrong_settings; /* the same of the settings file */

static atomic_ullong unreadable; /* inode of a file of which no block can be read, 0: none */
static atomic_uint refused;      /* such reads so far */

static bool is_unreadable(int fd, off_t offset)
{
    struct stat info;

    return atomic_load(&unreadable) && offset >= 4096 && fstat(fd, &info) == 0 &&
           info.st_ino == atomic_load(&unreadable);
}

/* Blocks and their headers; not first pages, which are looked at when a read fails. */
static ssize_t wrong_preadv(int fd, const struct iovec *vectors, int count, off_t offset)
{
    const struct iovec *last = &vectors[count - 1];
    ssize_t got;

    if (is_unreadable(fd, offset)) {
        atomic_fetch_add(&refused, 1);
        errno = EIO;
        return -1;
    }
    got = preadv(fd, vectors, count, offset);
    if (got > 0 && got < 4096 && atomic_load(&wrong_settings) > 0) {
        atomic_fetch_sub(&wrong_settings, 1);
        ((uint8_t *)last->iov_base)[last->iov_len / 2] ^= 0x20;
    }
    if (got > 4096 && atomic_load(&wrong) > 0) {
        atomic_fetch_sub(&wrong, 1);
        ((uint8_t *)last->iov_base)[last->iov_len / 2] ^= 0x10;
    }
    return got;
}

static const csc_io_calls calls = {.preadv = wrong_preadv};

/* A store whose block of key 1 is in a file alone. */
static cascade_store *with_file_block(void)
{
    cascade_options options = st_options();
    cascade_store *store = st_open();

    assert_int_equal(st_put(store, 1, 1, BYTES, 0, 0), 0);
    st_close(&store);
    assert_int_equal(csc_store_open_with(&options, &calls, &store), 0);
    return store;
}

/* Reads the block in one of the ways there are: 0 if its bytes came, and were right. */
static int read_block(cascade_store *store, int way)
{
    cascade_key key = st_key(1);
    uint8_t byte, expected[100];
    cascade_view *view = NULL;
    cascade_verify_report report;
    int code;

    switch (way) {
    case 0:
        return st_get(store, 1, 1, BYTES, 0);
    case 1:
        code = cascade_block_view(store, &key, &view);
        if (code)
            return code;
        code = st_view_is(view, 1, BYTES, 0) ? 0 : ST_WRONG;
        cascade_view_release(store, &view);
        return code;
    case 2:
        st_fill(expected, sizeof expected, 1);
        code = cascade_block_get_range(store, &key, 99, 1, &byte);
        return code == 0 && byte != expected[99] ? ST_WRONG : code;
    default:
        code = cascade_store_verify(store, &report, NULL, NULL);
        return code == CASCADE_ECORRUPT ? CASCADE_MISS : code;
    }
}

static void wrong_once_is_a_hit(void **state)
{
    (void)state;
    for (int way = 0; way < WAYS; way++) {
        cascade_store *store = with_file_block();

        atomic_store(&wrong, 1);
        assert_int_equal(read_block(store, way), 0);
        assert_int_equal(atomic_load(&wrong), 0);
        assert_int_equal(st_stats(store).file_rereads, 1);
        assert_int_equal(st_stats(store).tiers[CASCADE_TIER_FILE].quarantined, 0);
        assert_int_equal(st_stats(store).tiers[CASCADE_TIER_FILE].blocks, 1);
        assert_int_equal(st_get(store, 1, 1, BYTES, 0), 0);
        st_close(&store);
    }
}

static void wrong_ever_is_a_miss(void **state)
{
    (void)state;
    for (int way = 0; way < WAYS; way++) {
        cascade_store *store = with_file_block();

        atomic_store(&wrong, EVER);
        assert_int_equal(read_block(store, way), CASCADE_MISS);
        atomic_store(&wrong, 0);
        assert_int_equal(st_stats(store).file_rereads, 0);
        assert_int_equal(st_stats(store).tiers[CASCADE_TIER_FILE].quarantined, 1);
        assert_int_equal(st_get(store, 1, 1, BYTES, 0), CASCADE_MISS);
        st_close(&store);
    }
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, st_setup, st_teardown)

/* A segment that is to be emptied for room, and cannot be read: others are, and writes go on. */
static void one_bad_segment_stops_nothing(void **state)
{
    enum { BLOCK = 60 * 1024, KEYS = 26 };
    cascade_options options = st_options();
    cascade_store *store;
    struct stat info;

    (void)state;
    options.dram_bytes = ST_MIB;
    options.file_budget_bytes = 2 * ST_MIB;
    options.segment_bytes = 256 * ST_KIB;
    options.background_rate_bytes = 1;
    store = st_open_with(options);
    for (uint64_t i = 0; i < KEYS; i++)
        assert_int_equal(st_put(store, i, i, BLOCK, 0, CASCADE_PUT_DURABLE), 0);
    st_close(&store);
    assert_int_equal(stat(st_segment_path(0), &info), 0);
    assert_int_equal(csc_store_open_with(&options, &calls, &store), 0);
    for (int times = 0; times < 5; times++) /* so that they stay */
        for (uint64_t i = 1; i < 4; i++)
            assert_int_equal(st_get(store, i, i, BLOCK, 0), 0);
    atomic_store(&unreadable, info.st_ino);
    assert_int_equal(st_delete(store, 0), 0);
    assert_int_equal(st_delete(store, 1), 0);
    for (uint64_t i = KEYS; i < 3 * KEYS; i++)
        assert_int_equal(st_put(store, i, i, BLOCK, 0, CASCADE_PUT_DURABLE), 0);
    assert_true(atomic_load(&refused) > 0);
    assert_int_equal(st_stats(store).file_degraded, 0);
    assert_in_range(st_stats(store).tiers[CASCADE_TIER_FILE].used_bytes, 1, 2 * ST_MIB);
    atomic_store(&unreadable, 0);
    st_close(&store);
}

static void settings_are_read_again(void **state)
{
    cascade_options options = st_options();
    cascade_store *store = st_open();

    (void)state;
    st_close(&store);
    atomic_store(&wrong_settings, 1);
    assert_int_equal(csc_store_open_with(&options, &calls, &store), 0);
    assert_int_equal(atomic_load(&wrong_settings), 0);
    st_close(&store);
    atomic_store(&wrong_settings, 2);
    assert_int_not_equal(csc_store_open_with(&options, &calls, &store), 0);
    assert_int_equal(atomic_load(&wrong_settings), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(wrong_once_is_a_hit),
        CASE(wrong_ever_is_a_miss),
        CASE(one_bad_segment_stops_nothing),
        CASE(settings_are_read_again),
    };

    return cmocka_run_group_tests_name("store, reads that are wrong", tests, NULL, NULL);
}
