/* SPDX-License-Identifier: MIT */
/*
 * Striping, with a double of lfs: a small script in the test's directory, first in PATH, that writes its
 * arguments down. That Lustre is there is also pretended. Neither says anything about a real Lustre.
 */
#include "base/fail.h"
#include "segment/segment_testing.h"
#include "segment/stripe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char old_path[4096];
static char record[400];

/* Makes the double: it records, then does `then`. */
static void make_double(const char *then)
{
    char path[400];
    char search[4500];
    FILE *file;

    snprintf(record, sizeof record, "%s/recorded", testing_directory_used());
    snprintf(path, sizeof path, "%s/lfs", testing_directory_used());
    file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "#!/bin/sh\nfor word; do echo \"$word\" >>'%s'; done\n%s\n", record, then);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(path, 0700), 0);
    snprintf(search, sizeof search, "%s:%s", testing_directory_used(), old_path);
    assert_int_equal(setenv("PATH", search, 1), 0);
}

static int setup(void **state)
{
    testing_setup(state);
    snprintf(old_path, sizeof old_path, "%s", getenv("PATH"));
    return 0;
}

static int teardown(void **state)
{
    setenv("PATH", old_path, 1);
    return testing_teardown(state);
}

/* What was recorded, lines as they are; "" if nothing ran. */
static const char *recorded(void)
{
    static char text[2000];
    FILE *file = fopen(record, "r");
    size_t bytes = 0;

    if (file) {
        bytes = fread(text, 1, sizeof text - 1, file);
        fclose(file);
    }
    text[bytes] = '\0';
    return text;
}

static void write_two_segments(csc_tier *tier)
{
    csc_place place;

    for (uint64_t i = 0; i < 2; i++) {
        assert_int_equal(testing_write(tier, i, 5000, 0, 1, &place), 0);
        assert_int_equal(csc_segment_seal(tier), 0);
    }
}

static void the_directory_is_striped_once(void **state)
{
    csc_tier *tier;
    char expected[400];

    (void)state;
    make_double("exit 0");
    testing_fault.is_lustre = true;
    tier = testing_open_default();
    assert_string_equal(recorded(), ""); /* nothing is made before the first write */
    assert_false(csc_segment_is_striped(tier));
    write_two_segments(tier);
    snprintf(expected, sizeof expected, "setstripe\n-c\n16\n-S\n4m\n%s\n", testing_directory_used());
    assert_string_equal(recorded(), expected);
    assert_true(csc_segment_is_striped(tier));
    tier->ops->close(&tier);
}

static void nothing_runs_elsewhere(void **state)
{
    csc_tier *tier;

    (void)state;
    make_double("exit 0");
    tier = testing_open_default();
    write_two_segments(tier);
    assert_string_equal(recorded(), "");
    assert_false(csc_segment_is_striped(tier));
    tier->ops->close(&tier);
}

/* The tool says no, dies, or is not there: told, once, and segments are written without stripes. */
static void a_failure_changes_nothing_else(void **state)
{
    const char *const ends[] = {"exit 3", "kill -9 $$", NULL};

    (void)state;
    for (int i = 0; i < 3; i++) {
        csc_tier *tier;

        if (ends[i])
            make_double(ends[i]);
        else
            assert_int_equal(setenv("PATH", "/nonexistent", 1), 0);
        unlink(record);
        testing_fault.is_lustre = true;
        tier = testing_open_default();
        write_two_segments(tier);
        assert_false(csc_segment_is_striped(tier));
        if (ends[i])
            assert_int_equal(strncmp(recorded(), "setstripe\n-c\n16\n", 16), 0);
        assert_null(strstr(recorded() + strlen("setstripe") * (ends[i] != NULL), "setstripe"));
        tier->ops->close(&tier);
        tier = testing_open_default();
        assert_int_equal(testing_seen.block_count, 2 * ((size_t)i + 1));
        tier->ops->close(&tier);
    }
}

static void a_tool_that_hangs_is_given_up(void **state)
{
    (void)state;
    make_double("exec sleep 1000");
    assert_int_equal(csc_stripe_set(testing_directory_used(), 50), CASCADE_ETIMEDOUT);
    assert_int_equal(csc_stripe_set("-c", 50), CASCADE_ENOTSUP); /* would be taken for an option */
}

static void the_real_file_system_is_asked(void **state)
{
    uint32_t magic = 0;

    (void)state;
    assert_false(csc_stripe_is_wanted(testing_io, testing_directory_used()));
    assert_false(csc_stripe_is_wanted(testing_io, "/nonexistent"));
    assert_int_equal(csc_io_file_system(testing_io, testing_directory_used(), &magic), 0);
    assert_int_not_equal(magic, 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(the_directory_is_striped_once),  CASE(nothing_runs_elsewhere),
        CASE(a_failure_changes_nothing_else), CASE(a_tool_that_hangs_is_given_up),
        CASE(the_real_file_system_is_asked),
    };

    setenv("CASCADE_LOG", "none", 0); /* the errors are meant */
    return cmocka_run_group_tests_name("stripe", tests, NULL, NULL);
}
