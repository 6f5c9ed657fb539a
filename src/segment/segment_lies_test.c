/* SPDX-License-Identifier: MIT */
/* A file system that does not tell the truth: calls that were done and are said to have failed, bytes
 * that come wrong once, names that are all taken, and parts of a file that cannot be read for a while.
 */
#include "segment/segment_testing.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { BLOCKS = 4, BYTES = 700000 };

static int rename_lies, creates_taken;
static int wrong_at, reads; /* from 1: this read of the open brings a wrong bit */
static off_t unreadable;    /* no byte from here on can be read; 0: all can */

static ssize_t lying_preadv(int fd, const struct iovec *vectors, int count, off_t offset)
{
    ssize_t got = preadv(fd, vectors, count, offset);

    if (unreadable && offset + got > unreadable) {
        errno = EIO;
        return -1;
    }
    if (++reads == wrong_at && got > 0)
        ((uint8_t *)vectors[0].iov_base)[40] ^= 0x10;
    return got;
}

static int lying_rename(const char *from, const char *to)
{
    int rc = rename(from, to);

    if (rename_lies) {
        errno = ENOENT;
        rc = -1;
    }
    return rc;
}

static int lying_open(const char *path, int flags, mode_t mode)
{
    if ((flags & O_EXCL) && creates_taken > 0) {
        creates_taken--;
        errno = EEXIST;
        return -1;
    }
    return open(path, flags, mode);
}

static int set_up(void **state)
{
    csc_io_calls calls = testing_calls;
    int rc = testing_setup(state);

    calls.preadv = lying_preadv;
    calls.rename = lying_rename;
    calls.open = lying_open;
    rename_lies = creates_taken = wrong_at = 0;
    unreadable = 0;
    csc_io_destroy(&testing_io);
    return rc ? rc : csc_io_create(&calls, &testing_io);
}

static csc_tier *open_buffered(void)
{
    csc_tier *tier = NULL;

    assert_int_equal(testing_open((csc_segment_options){.spares_max = 1, .buffered = true}, &tier), 0);
    return tier;
}

/* Blocks 0 to BLOCKS, the second deleted after the third. */
static void leave_segment(bool sealed)
{
    csc_log_entry entry = {.is_delete = true, .binding = testing_binding(1, 0)};
    csc_tier *tier = open_buffered();
    csc_place place;
    uint32_t segment;

    for (uint64_t i = 0; i < BLOCKS; i++) {
        assert_int_equal(testing_write(tier, i, BYTES, 0, 1, &place), 0);
        if (i == 2)
            assert_int_equal(csc_segment_log(tier, &entry, 1, &segment), 0);
    }
    assert_int_equal(sealed ? csc_segment_seal(tier) : tier->ops->sync(tier), 0);
    tier->ops->close(&tier);
}

/* What is written afterwards must not go to the file that lost its name. */
static void a_rename_that_was_done(void **state)
{
    csc_tier *tier = open_buffered();
    csc_place place;

    (void)state;
    assert_int_equal(testing_write(tier, 1, BYTES, 0, 1, &place), 0);
    assert_int_equal(csc_segment_seal(tier), 0);
    assert_int_equal(csc_segment_remove(tier, csc_segment_of(&place)), 0);
    rename_lies = true;
    assert_int_equal(testing_write(tier, 2, BYTES, 0, 1, &place), 0);
    assert_int_equal(tier->ops->sync(tier), 0);
    tier->ops->close(&tier);
    tier = open_buffered();
    assert_int_equal(testing_file_count(), 1);
    assert_int_equal(testing_seen.block_count, 1);
    assert_non_null(testing_find(2, BYTES, 0));
    assert_int_equal(testing_read(tier, &testing_find(2, BYTES, 0)->place, 2, BYTES, 0), 0);
    tier->ops->close(&tier);
}

/* The writer gives up after some, and goes on from there the next time. */
static void names_that_are_all_taken(void **state)
{
    csc_tier *tier = open_buffered();
    csc_place place;

    (void)state;
    creates_taken = 150;
    assert_int_equal(testing_write(tier, 1, BYTES, 0, 1, &place), CASCADE_EIO);
    assert_int_equal(creates_taken, 50);
    assert_int_equal(testing_write(tier, 1, BYTES, 0, 1, &place), 0);
    tier->ops->close(&tier);
}

static void bytes_that_come_wrong_once(void **state)
{
    (void)state;
    for (int sealed = 0; sealed < 2; sealed++) {
        int count = 1;

        leave_segment(sealed);
        for (wrong_at = 1; wrong_at <= count; wrong_at++) {
            csc_tier *tier;

            reads = 0;
            tier = open_buffered();
            assert_int_equal(testing_seen.block_count, BLOCKS);
            assert_int_equal(testing_seen.log_count, 1);
            assert_int_equal(testing_seen.sealed_count, sealed ? BLOCKS + 1 : 0);
            assert_int_equal(testing_stats(tier).quarantined, 0);
            if (reads > count)
                count = reads;
            tier->ops->close(&tier);
        }
        assert_true(count > 2);
        wrong_at = 0;
        assert_int_equal(unlink(testing_path(0, 0)), 0);
    }
}

static bool is_ours(csc_tier *tier)
{
    csc_segment_info info = {.ours = true};
    size_t count = 1;

    csc_segment_list(tier, &info, &count);
    return count == 0 || info.ours;
}

static bool may_hide(csc_tier *tier)
{
    const csc_binding binding = testing_binding(77, 0);

    return csc_segment_may_hide(tier, UINT32_MAX, &binding) &&
           csc_segment_bind_may_hide(tier, UINT32_MAX, &binding);
}

/* Nobody may empty a segment of which he has seen a part, or forget a delete that hides what he has not
 * seen; and what can be read later is found then. */
static void a_part_that_cannot_be_read(void **state)
{
    (void)state;
    for (int sealed = 0; sealed < 2; sealed++) {
        csc_tier *tier;
        struct stat info;

        leave_segment(sealed);
        assert_int_equal(stat(testing_path(0, 0), &info), 0);
        unreadable = info.st_size / 2;
        tier = open_buffered();
        assert_in_range(testing_seen.block_count, 1, BLOCKS - 1);
        assert_false(is_ours(tier));
        assert_true(may_hide(tier));
        assert_int_equal(testing_refresh(tier), CASCADE_EIO);
        assert_true(may_hide(tier));
        unreadable = 0;
        assert_int_equal(testing_refresh(tier), 0);
        assert_non_null(testing_find(BLOCKS - 1, BYTES, 0));
        assert_false(may_hide(tier));
        tier->ops->close(&tier);
        tier = open_buffered();
        assert_true(is_ours(tier));
        tier->ops->close(&tier);
        assert_int_equal(unlink(testing_path(0, 0)), 0);
    }
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, testing_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_rename_that_was_done),
        CASE(names_that_are_all_taken),
        CASE(bytes_that_come_wrong_once),
        CASE(a_part_that_cannot_be_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
