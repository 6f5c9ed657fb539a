/* SPDX-License-Identifier: MIT */
/* Numbers that are used again: what another handle of the rank, on another node, took away leaves a
 * number that he may give to a segment of his own. Who removed or kept the first one leaves that alone.
 */
#include "segment/segment_internal.h"
#include "segment/segment_testing.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

enum { BYTES = 5000 };

static csc_tier *open_keeping(uint32_t spares_max)
{
    csc_tier *tier = NULL;

    assert_int_equal(testing_open((csc_segment_options){.spares_max = spares_max}, &tier), 0);
    return tier;
}

static uint32_t write_one(csc_tier *tier, uint64_t seed)
{
    csc_place place;

    assert_int_equal(testing_write(tier, seed, BYTES, 0, 1, &place), 0);
    assert_int_equal(tier->ops->sync(tier), 0);
    return csc_segment_of(&place);
}

static uint32_t seal_one(csc_tier *tier, uint64_t seed)
{
    uint32_t segment = write_one(tier, seed);

    assert_int_equal(csc_segment_seal(tier), 0);
    return segment;
}

/* Another node empties the segment, leaves, comes back and writes one with the first free number. */
static void put_another_in_its_place(uint64_t seed)
{
    csc_tier *other = open_keeping(0);

    if (csc_segment_count(other) > 0)
        assert_int_equal(csc_segment_remove(other, 0), 0);
    assert_int_equal(testing_file_count(), 0);
    other->ops->close(&other);
    other = open_keeping(0);
    write_one(other, seed);
    assert_int_equal(access(testing_path(0, 0), F_OK), 0);
    other->ops->close(&other);
}

static void is_still_there(uint64_t seed)
{
    csc_tier *tier = open_keeping(0);

    assert_non_null(testing_find(seed, BYTES, 0));
    tier->ops->close(&tier);
}

static void a_spare_that_is_a_segment_now(void **state)
{
    csc_tier *tier = open_keeping(1);

    (void)state;
    assert_int_equal(csc_segment_remove(tier, seal_one(tier, 1)), 0);
    put_another_in_its_place(2);
    tier->ops->close(&tier);
    is_still_there(2);
}

static void a_removed_one_that_is_another_now(void **state)
{
    (void)state;
    for (uint32_t spares_max = 0; spares_max < 2; spares_max++) {
        csc_tier *tier = open_keeping(spares_max);
        uint32_t segment = seal_one(tier, 1);

        put_another_in_its_place(2);
        assert_int_equal(csc_segment_remove(tier, segment), 0);
        assert_true(csc_segment_standing(tier, segment) & CSC_SEGMENT_IS_GONE);
        is_still_there(2);
        tier->ops->close(&tier);
        testing_again();
    }
}

/* Nobody knows whose it is; it may get its first page. */
static void a_removed_one_that_is_being_made(void **state)
{
    csc_tier *tier = open_keeping(0);
    uint32_t segment = seal_one(tier, 1);

    (void)state;
    assert_int_equal(unlink(testing_path(0, 0)), 0);
    close(open(testing_path(0, 0), O_CREAT | O_EXCL | O_WRONLY, 0600));
    assert_int_equal(csc_segment_remove(tier, segment), 0);
    assert_int_equal(testing_file_count(), 1);
    tier->ops->close(&tier);
}

/* Left without a record, because the disk was full, for so long that another node took it away. */
static void an_empty_one_that_is_another_now(void **state)
{
    csc_tier *tier = open_keeping(0);
    csc_place place;

    (void)state;
    testing_fault = (testing_faults){.at = 2, .err = ENOSPC, .lasting = true, .only_growth = true};
    assert_int_equal(testing_write(tier, 1, BYTES, 0, 1, &place), CASCADE_ENOSPC);
    testing_fault = (testing_faults){0};
    assert_int_equal(testing_file_count(), 1);
    put_another_in_its_place(2);
    tier->ops->close(&tier);
    is_still_there(2);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, testing_setup, testing_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_spare_that_is_a_segment_now),
        CASE(a_removed_one_that_is_another_now),
        CASE(a_removed_one_that_is_being_made),
        CASE(an_empty_one_that_is_another_now),
    };

    setenv("CASCADE_LOG", "none", 0); /* the errors are meant */
    return cmocka_run_group_tests_name("segment numbers", tests, NULL, NULL);
}
