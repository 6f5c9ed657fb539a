/* SPDX-License-Identifier: MIT */
/* A writer that could not write all of a batch cuts it off and goes on. Another handle may have read
 * some of it meanwhile. */
#include "segment/segment_internal.h"
#include "segment/segment_testing.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

enum { BYTES = 50000, OTHER = 7 };

static csc_tier *reader, *writer;

static csc_tier *open_as(uint32_t rank)
{
    csc_tier *tier = NULL;

    assert_int_equal(testing_open((csc_segment_options){.rank = rank}, &tier), 0);
    return tier;
}

static int setup(void **state)
{
    int rc = testing_setup(state);

    reader = open_as(0);
    writer = open_as(OTHER);
    return rc;
}

static int teardown(void **state)
{
    writer->ops->close(&writer);
    reader->ops->close(&reader);
    return testing_teardown(state);
}

static void write_one(uint64_t seed, uint64_t bytes)
{
    csc_place place;

    assert_int_equal(testing_write(writer, seed, bytes, 0, 2, &place), 0);
    assert_int_equal(writer->ops->sync(writer), 0);
}

/* One refresh finds a block, and it can be read. */
static void finds(uint64_t seed, uint64_t bytes)
{
    const testing_block *block;

    assert_int_equal(testing_refresh(reader), 0);
    block = testing_find(seed, bytes, 0);
    assert_non_null(block);
    assert_int_equal(testing_read(reader, &block->place, seed, bytes, 0), 0);
}

/* `bytes`: of what comes in the place of what was cut off. */
static void cut_and_go_on(uint64_t bytes, bool seal)
{
    csc_segment_writer *w = &csc_segment_tier_of(writer)->writer;
    uint64_t position;
    size_t entries;

    write_one(1, BYTES);
    position = w->position;
    entries = w->entry_count;
    write_one(2, BYTES);
    finds(2, BYTES);
    w->position = position;
    w->entry_count = entries;
    csc_segment_recover(csc_segment_tier_of(writer), CASCADE_ENOSPC);
    write_one(3, bytes);
    if (seal)
        assert_int_equal(csc_segment_seal(writer), 0);
    finds(3, bytes);
    assert_int_equal(testing_refresh(reader), 0); /* once is enough */
    assert_int_equal(testing_seen.block_count, 0);
}

static void as_large(void **state)
{
    (void)state;
    cut_and_go_on(BYTES, false);
}

static void smaller(void **state)
{
    (void)state;
    cut_and_go_on(BYTES / 4, false);
}

static void larger(void **state)
{
    (void)state;
    cut_and_go_on(3 * BYTES, false);
}

static void and_sealed(void **state)
{
    (void)state;
    cut_and_go_on(BYTES, true);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {CASE(as_large), CASE(smaller), CASE(larger), CASE(and_sealed)};

    return cmocka_run_group_tests_name("segment, cut off", tests, NULL, NULL);
}
