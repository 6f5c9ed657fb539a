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

enum { BYTES = 700000 };

static int rename_lies, creates_taken;

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

    calls.rename = lying_rename;
    calls.open = lying_open;
    rename_lies = creates_taken = 0;
    csc_io_destroy(&testing_io);
    return rc ? rc : csc_io_create(&calls, &testing_io);
}

static csc_tier *open_buffered(void)
{
    csc_tier *tier = NULL;

    assert_int_equal(testing_open((csc_segment_options){.spares_max = 1, .buffered = true}, &tier), 0);
    return tier;
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

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, testing_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_rename_that_was_done),
        CASE(names_that_are_all_taken),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
