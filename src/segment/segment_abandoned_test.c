/* SPDX-License-Identifier: MIT */
/* When a segment without an index has no writer any more: he appends to none that he left alone for an
 * hour, so after a day it is anybody's of his rank. */
#include "base/mark.h"
#include "segment/segment_internal.h"
#include "segment/segment_testing.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define HOUR_S 3600

/* Leaves the one segment of a directory unsealed, and closes. */
static void leave_unsealed(void)
{
    csc_tier *tier = testing_open_default();
    csc_place place;

    assert_int_equal(testing_write(tier, 1, 5000, 0, 1, &place), 0);
    assert_int_equal(tier->ops->sync(tier), 0);
    tier->ops->close(&tier);
}

static void set_age(time_t seconds)
{
    struct timespec times[2];

    clock_gettime(CLOCK_REALTIME, &times[0]);
    times[0].tv_sec -= seconds;
    times[1] = times[0];
    assert_int_equal(utimensat(AT_FDCWD, testing_path(0, 0), times, 0), 0);
}

static bool is_abandoned(void)
{
    csc_tier *tier = testing_open_default();
    csc_segment_info info = {0};
    size_t count = 1;

    csc_segment_list(tier, &info, &count);
    assert_int_equal(count, 1);
    assert_true(info.ours && !info.sealed && !info.open);
    tier->ops->close(&tier);
    return info.abandoned;
}

static void a_day_is_enough(void **state)
{
    (void)state;
    leave_unsealed();
    assert_false(is_abandoned());
    set_age(23 * HOUR_S);
    assert_false(is_abandoned());
    set_age(25 * HOUR_S);
    assert_true(is_abandoned());
}

/* Makes it that long ago that a record was prepared. */
static void stand_still(csc_tier *tier, uint64_t hours)
{
    csc_segment_tier_of(tier)->writer.prepared_ns -= hours * CSC_SEGMENT_IDLE_NS;
}

static void nothing_is_appended_after_an_hour(void **state)
{
    csc_tier *tier = testing_open_default();
    csc_place first, second, third;

    (void)state;
    assert_int_equal(testing_write(tier, 1, 5000, 0, 1, &first), 0);
    assert_int_equal(tier->ops->sync(tier), 0);
    assert_int_equal(testing_write(tier, 2, 5000, 0, 1, &second), 0);
    assert_int_equal(tier->ops->sync(tier), 0);
    assert_int_equal(csc_segment_of(&first), csc_segment_of(&second));
    stand_still(tier, 2);
    assert_int_equal(testing_write(tier, 3, 5000, 0, 1, &third), 0);
    assert_int_not_equal(csc_segment_of(&first), csc_segment_of(&third));
    assert_int_equal(tier->ops->sync(tier), 0);
    tier->ops->close(&tier);
}

/* Not even the first record, which had no room before: another node may have removed the file. */
static void nothing_is_begun_in_an_old_file(void **state)
{
    csc_tier *tier = testing_open_default(), *other;
    csc_place place;

    (void)state;
    testing_fault = (testing_faults){.at = 2, .err = ENOSPC, .lasting = true, .only_growth = true};
    assert_int_equal(testing_write(tier, 1, 5000, 0, 1, &place), CASCADE_ENOSPC);
    testing_fault = (testing_faults){0};
    stand_still(tier, 25);
    set_age(25 * HOUR_S);
    other = testing_open_default();
    assert_int_equal(csc_segment_remove(other, 0), 0);
    other->ops->close(&other);
    assert_int_equal(testing_write(tier, 1, 5000, 0, 1, &place), 0);
    assert_int_equal(tier->ops->sync(tier), 0);
    tier->ops->close(&tier);
    tier = testing_open_default();
    assert_non_null(testing_find(1, 5000, 0));
    tier->ops->close(&tier);
}

/* Stopped between a write and its sync: what was written is not called durable. */
static void nothing_is_synced_after_an_hour(void **state)
{
    csc_tier *tier = testing_open_default();
    csc_place place;

    (void)state;
    assert_int_equal(testing_write(tier, 1, 5000, 0, 1, &place), 0);
    stand_still(tier, 2);
    assert_int_equal(tier->ops->sync(tier), CASCADE_EIO);
    assert_int_equal(testing_write(tier, 1, 5000, 0, 1, &place), 0);
    assert_int_equal(tier->ops->sync(tier), 0);
    tier->ops->close(&tier);
}

/* No room for its index: it keeps its records, and may be emptied. */
static void given_up_by_its_own_writer(void **state)
{
    csc_tier *tier = testing_open_default();
    csc_segment_info infos[2];
    csc_place first, second;
    size_t count = 2;

    (void)state;
    assert_int_equal(csc_segment_give_up(tier), 0); /* there is none */
    assert_int_equal(testing_write(tier, 1, 5000, 0, 1, &first), 0);
    testing_fault = (testing_faults){.at = 1, .err = ENOSPC, .lasting = true, .only_growth = true};
    assert_int_equal(csc_segment_seal(tier), CASCADE_ENOSPC);
    assert_int_equal(csc_segment_give_up(tier), 0);
    testing_fault = (testing_faults){0};
    assert_int_equal(testing_write(tier, 2, 5000, 0, 1, &second), 0);
    assert_int_equal(testing_read(tier, &first, 1, 5000, 0), 0);
    csc_segment_list(tier, infos, &count);
    assert_int_equal(count, 2);
    assert_true(infos[0].abandoned && infos[0].ours && !infos[0].open && !infos[0].sealed);
    assert_true(infos[1].open && !infos[1].abandoned);
    assert_int_equal(csc_segment_remove(tier, csc_segment_of(&first)), 0);
    assert_int_equal(tier->ops->sync(tier), 0);
    assert_int_equal(testing_file_count(), 1);
    tier->ops->close(&tier);
}

static csc_tier *standing;

static void stand_still_when_claimed(const char *name)
{
    if (strcmp(name, "segment: created") == 0)
        stand_still(standing, 2);
}

/* Stopped between the making of a file and its first page. */
static void nothing_is_begun_after_an_hour(void **state)
{
    csc_place place;

    (void)state;
    standing = testing_open_default();
    atomic_store(&csc_mark_hook_now, stand_still_when_claimed);
    assert_int_equal(testing_write(standing, 1, 5000, 0, 1, &place), CASCADE_EIO);
    atomic_store(&csc_mark_hook_now, NULL);
    assert_int_equal(csc_segment_count(standing), 0);
    assert_int_equal(testing_write(standing, 1, 5000, 0, 1, &place), 0);
    assert_int_equal(standing->ops->sync(standing), 0);
    standing->ops->close(&standing);
}

static void open_and_close(uint32_t rank)
{
    csc_tier *tier = NULL;

    assert_int_equal(testing_open((csc_segment_options){.rank = rank}, &tier), 0);
    assert_int_equal(csc_segment_count(tier), 0);
    tier->ops->close(&tier);
}

/* A file that was made, and never became a segment: a kill, or a file server that said that it was there
 * before. Its writer may still be about to begin it, until a day has passed. */
static void an_empty_file_goes_after_a_day(void **state)
{
    (void)state;
    close(open(testing_path(0, 0), O_CREAT | O_EXCL | O_WRONLY, 0600));
    open_and_close(0);
    set_age(23 * HOUR_S);
    open_and_close(0);
    assert_int_equal(testing_file_count(), 1);
    set_age(25 * HOUR_S);
    open_and_close(1); /* it is another rank's */
    assert_int_equal(testing_file_count(), 1);
    open_and_close(0);
    assert_int_equal(testing_file_count(), 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, testing_setup, testing_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_day_is_enough),
        CASE(nothing_is_appended_after_an_hour),
        CASE(nothing_is_begun_in_an_old_file),
        CASE(nothing_is_synced_after_an_hour),
        CASE(given_up_by_its_own_writer),
        CASE(nothing_is_begun_after_an_hour),
        CASE(an_empty_file_goes_after_a_day),
    };

    setenv("CASCADE_LOG", "none", 0); /* the errors are meant */
    return cmocka_run_group_tests_name("abandoned segments", tests, NULL, NULL);
}
