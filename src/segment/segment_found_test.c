/* SPDX-License-Identifier: MIT */
/* When what others did to the directory is believed: a power cut may undo what they had not synced. And
 * what becomes of a segment of which an open could read only a part. */
#include "segment/segment_internal.h"
#include "segment/segment_testing.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

enum { BYTES = 5000, OTHER = 7 };

static csc_tier *open_as(uint32_t rank)
{
    csc_tier *tier = NULL;

    assert_int_equal(testing_open((csc_segment_options){.rank = rank}, &tier), 0);
    return tier;
}

static csc_place write_one(csc_tier *tier, uint64_t seed)
{
    csc_place place;

    assert_int_equal(testing_write(tier, seed, BYTES, 0, 1, &place), 0);
    assert_int_equal(tier->ops->sync(tier), 0);
    return place;
}

/* A refresh in which the first sync fails, then one in which none does. */
static void fail_a_sync(csc_tier *tier)
{
    testing_fault = (testing_faults){.at = 1, .err = EIO, .only_sync = true};
    (void)testing_refresh(tier);
    assert_true(testing_fault.met);
    testing_fault = (testing_faults){0};
}

static uint64_t syncs(void)
{
    cascade_metadata_ops counts;

    csc_io_counts(testing_io, &counts);
    return counts.fsync;
}

/* Its writer may have been killed before he synced the name. */
static void an_index_counts_once_its_name_is_synced(void **state)
{
    csc_tier *reader = open_as(0), *writer = open_as(OTHER);
    uint32_t segment;
    uint64_t before;

    (void)state;
    write_one(writer, 1);
    assert_int_equal(csc_segment_seal(writer), 0);
    fail_a_sync(reader);
    segment = testing_find(1, BYTES, 0)->segment;
    assert_int_equal(csc_segment_standing(reader, segment), 0);
    assert_int_equal(testing_refresh(reader), 0);
    assert_int_equal(csc_segment_standing(reader, segment), CSC_SEGMENT_IS_SEALED);
    /* The same if it was seen before it had its index. */
    write_one(writer, 2);
    assert_int_equal(testing_refresh(reader), 0);
    segment = testing_find(2, BYTES, 0)->segment;
    assert_int_equal(csc_segment_seal(writer), 0);
    fail_a_sync(reader);
    assert_int_equal(csc_segment_standing(reader, segment), 0);
    assert_int_equal(testing_refresh(reader), 0);
    assert_int_equal(csc_segment_standing(reader, segment), CSC_SEGMENT_IS_SEALED);
    before = syncs();
    assert_int_equal(testing_refresh(reader), 0);
    assert_int_equal(syncs(), before);
    writer->ops->close(&writer);
    reader->ops->close(&reader);
}

/* Removes a segment of a writer with these options, under a reader whose first sync then fails. */
static void goes_once_synced(csc_segment_options options)
{
    csc_binding deleted = testing_binding(1, 0);
    csc_tier *reader, *writer = NULL;
    csc_place place;

    deleted.sequence++;
    assert_int_equal(testing_open(options, &writer), 0);
    place = write_one(writer, 1);
    assert_int_equal(csc_segment_seal(writer), 0);
    reader = open_as(0);
    assert_int_equal(csc_segment_remove(writer, csc_segment_of(&place)), 0);
    fail_a_sync(reader);
    assert_int_equal(testing_seen.gone_count, 0);
    assert_true(csc_segment_may_hide(reader, UINT32_MAX, &deleted));
    assert_int_equal(testing_refresh(reader), 0);
    assert_int_equal(testing_seen.gone_count, 1);
    assert_false(csc_segment_may_hide(reader, UINT32_MAX, &deleted));
    reader->ops->close(&reader);
    writer->ops->close(&writer);
}

/* Else a delete here would be forgotten, and a power cut bring back the bind that it hides. */
static void what_went_is_gone_once_that_is_synced(void **state)
{
    (void)state;
    goes_once_synced((csc_segment_options){.rank = OTHER});
    goes_once_synced((csc_segment_options){.rank = OTHER, .spares_max = 1}); /* a spare, not unlinked */
}

/* Also if none of them is its own. */
static void an_open_syncs_the_names_it_finds(void **state)
{
    csc_tier *writer = open_as(OTHER), *reader = NULL;

    (void)state;
    write_one(writer, 1);
    assert_int_equal(csc_segment_seal(writer), 0);
    testing_fault = (testing_faults){.at = 1, .err = EIO, .only_sync = true};
    assert_int_equal(testing_open((csc_segment_options){.rank = 0}, &reader), CASCADE_EIO);
    testing_fault = (testing_faults){0};
    writer->ops->close(&writer);
}

static csc_segment_info only_one(csc_tier *tier)
{
    csc_segment_info info = {0};
    size_t count = 1;

    csc_segment_list(tier, &info, &count);
    assert_int_equal(count, 1);
    return info;
}

/* Opens until a record of the one segment cannot be read; returns how many came before it. */
static size_t open_a_part(csc_tier **tier)
{
    for (int at = 1;; at++) {
        int rc;

        testing_fault = (testing_faults){.at = at, .err = EIO};
        rc = testing_open((csc_segment_options){0}, tier);
        assert_true(testing_fault.met);
        testing_fault = (testing_faults){0};
        if (rc == 0 && csc_segment_count(*tier) == 1 && testing_seen.block_count < 3)
            return testing_seen.block_count;
        if (rc == 0)
            (*tier)->ops->close(tier);
    }
}

static csc_tier *write_three(void)
{
    csc_tier *tier = open_as(0);
    csc_place place;

    for (uint64_t seed = 1; seed < 4; seed++)
        assert_int_equal(testing_write(tier, seed, 300000, 0, 1, &place), 0);
    assert_int_equal(tier->ops->sync(tier), 0);
    return tier;
}

/* Nobody knows what is behind, so it is not to be emptied; until a refresh has read it. */
static void read_whole_later_it_is_ours(void **state)
{
    csc_tier *tier = write_three();
    csc_binding other = testing_binding(50, 0);
    size_t before;

    (void)state;
    tier->ops->close(&tier);
    before = open_a_part(&tier);
    assert_false(only_one(tier).ours);
    assert_true(csc_segment_may_hide(tier, UINT32_MAX, &other));
    assert_int_equal(testing_refresh(tier), 0);
    assert_int_equal(before + testing_seen.block_count, 3);
    assert_true(only_one(tier).ours);
    assert_false(csc_segment_may_hide(tier, UINT32_MAX, &other));
    assert_int_equal(testing_refresh(tier), 0);
    assert_true(only_one(tier).ours);
    tier->ops->close(&tier);
}

/* The next sync would succeed and have written nothing. */
static void but_not_if_its_sync_failed(void **state)
{
    csc_tier *tier = write_three();
    size_t before;

    (void)state;
    tier->ops->close(&tier);
    before = open_a_part(&tier);
    fail_a_sync(tier);
    assert_int_equal(before + testing_seen.block_count, 3);
    assert_int_equal(testing_refresh(tier), 0);
    assert_int_equal(testing_refresh(tier), 0);
    assert_false(only_one(tier).ours);
    tier->ops->close(&tier);
}

/* The same rank on another node. */
static void but_not_if_it_grew(void **state)
{
    csc_tier *writer = write_three(), *tier;

    (void)state;
    open_a_part(&tier);
    write_one(writer, 4);
    assert_int_equal(testing_refresh(tier), 0);
    assert_non_null(testing_find(4, BYTES, 0));
    assert_false(only_one(tier).ours);
    tier->ops->close(&tier);
    writer->ops->close(&writer);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, testing_setup, testing_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(an_index_counts_once_its_name_is_synced),
        CASE(what_went_is_gone_once_that_is_synced),
        CASE(an_open_syncs_the_names_it_finds),
        CASE(read_whole_later_it_is_ours),
        CASE(but_not_if_its_sync_failed),
        CASE(but_not_if_it_grew),
    };

    setenv("CASCADE_LOG", "none", 0); /* the errors are meant */
    return cmocka_run_group_tests_name("segments found", tests, NULL, NULL);
}
