/* SPDX-License-Identifier: MIT */
/* Many records in one call, of every size and shape: they arrive whole whatever the order of requests,
 * and those that share a failure go together. */
#include "segment/segment_testing.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MIB ((size_t)1 << 20)

enum { COUNT = 40, PIECES_MAX = 3000 };

static csc_tier_write writes[COUNT];
static cascade_piece pieces[COUNT][PIECES_MAX];
static csc_binding bindings[COUNT];
static uint8_t *memories[COUNT];

/* From nothing to several requests; two thirds are whole pages. */
static size_t bytes_of(size_t i)
{
    static const size_t sizes[8] = {4096,         700001, 3 * MIB, 9 * MIB + 4096,
                                    5 * MIB + 13, 0,      65536,   12288};

    return sizes[i % 8];
}

/* Cuts bytes into pieces: one; some of odd sizes; or many single pages. */
static size_t cut(cascade_piece *to, uint8_t *memory, size_t bytes, size_t how)
{
    const size_t steps[3] = {bytes, 130001, 4096};
    size_t count = 0;

    for (size_t at = 0; at < bytes; count++) {
        size_t step = bytes - at < steps[how % 3] ? bytes - at : steps[how % 3];

        to[count] = (cascade_piece){memory + at, step};
        at += step;
    }
    return count;
}

/* Fills writes[0, count) with blocks of seeds from `seed` on. */
static void prepare(uint64_t seed, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        size_t bytes = bytes_of(i);
        void *memory = NULL;

        assert_int_equal(posix_memalign(&memory, 4096, bytes + 1), 0);
        csc_tier_suite_fill(memory, bytes, seed + i);
        memories[i] = memory;
        bindings[i] = testing_binding(seed + i, 0);
        writes[i] = (csc_tier_write){.content = csc_tier_suite_content(seed + i, bytes, 0),
                                     .bindings = &bindings[i],
                                     .binding_count = 1,
                                     .pieces = pieces[i],
                                     .piece_count = cut(pieces[i], memory, bytes, i / 8)};
    }
}

static void release(size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(memories[i]);
}

static void everything_arrives(void **state)
{
    (void)state;
    for (int round = 0; round < 4; round++) {
        const csc_segment_options options = {.buffered = round % 2, .segment_bytes = 40 * MIB};
        csc_tier *tier = NULL;
        cascade_tier_stats stats;
        uint64_t payload_bytes = 0;

        testing_setup(NULL);
        testing_fault.shuffle = round >= 2;
        assert_int_equal(testing_open(options, &tier), 0);
        prepare(1, COUNT);
        assert_int_equal(tier->ops->write(tier, writes, COUNT), 0);
        release(COUNT);
        for (size_t i = 0; i < COUNT; i++) {
            assert_int_equal(testing_read(tier, &writes[i].place, 1 + i, bytes_of(i), 0), 0);
            payload_bytes += bytes_of(i);
        }
        assert_true(testing_fault.write_bytes_max <= 4 * MIB);
        tier->ops->stats(tier, &stats);
        assert_true(stats.written_bytes >= payload_bytes);
        if (round % 2) /* by the index, or by the records */
            assert_int_equal(csc_segment_seal(tier), 0);
        tier->ops->close(&tier);
        tier = testing_open_default();
        assert_int_equal(testing_seen.block_count, COUNT);
        for (size_t i = 0; i < COUNT; i++) {
            const testing_block *block = testing_find(1 + i, bytes_of(i), 0);

            assert_non_null(block);
            assert_int_equal(testing_read(tier, &block->place, 1 + i, bytes_of(i), 0), 0);
        }
        tier->ops->close(&tier);
        testing_teardown(NULL);
    }
}

/* A request is used again and again, and carries nothing over. */
static void memory_is_used_again(void **state)
{
    csc_tier *tier;

    (void)state;
    testing_setup(NULL);
    tier = testing_open_default();
    for (uint64_t round = 0; round < 3; round++) {
        prepare(1 + round * COUNT, COUNT);
        assert_int_equal(tier->ops->write(tier, writes, COUNT), 0);
        release(COUNT);
        assert_int_equal(tier->ops->sync(tier), 0);
        for (size_t i = 0; i < COUNT; i++)
            assert_int_equal(testing_read(tier, &writes[i].place, 1 + round * COUNT + i, bytes_of(i), 0),
                             0);
    }
    tier->ops->close(&tier);
    testing_teardown(NULL);
}

/* Whichever request fails: what was in an earlier segment, or in an earlier call, is untouched; what was
 * under way with it goes; what comes after works. A failure for want of room does not end the segment.
 */
static void those_under_way_fail_together(int err)
{
    const int code = err == EIO ? CASCADE_EIO : CASCADE_ENOSPC;
    bool met = true;
    bool some = false;

    for (int at = 1; met; at += 7) {
        const csc_segment_options options = {.segment_bytes = 64 * MIB};
        csc_tier *tier = NULL;
        csc_place early;
        csc_place late;
        size_t good = 0;

        testing_setup(NULL);
        assert_int_equal(testing_open(options, &tier), 0);
        assert_int_equal(testing_write(tier, 900, 100000, 0, 1, &early), 0);
        prepare(1, COUNT);
        testing_fault = (testing_faults){.at = at, .err = err, .only_growth = true, .shuffle = true};
        tier->ops->write(tier, writes, COUNT);
        met = testing_fault.met;
        testing_fault = (testing_faults){0};
        release(COUNT);
        for (size_t i = 0; i < COUNT; i++) {
            good += writes[i].status == 0;
            if (writes[i].status == 0) {
                assert_int_equal(testing_read(tier, &writes[i].place, 1 + i, bytes_of(i), 0), 0);
            } else {
                assert_int_equal(writes[i].status, code);
                assert_int_equal(writes[i].place.words[3], 0);
            }
        }
        some |= good > 0 && good < COUNT - 1;
        assert_true(met ? good < COUNT : good == COUNT);
        assert_int_equal(testing_write(tier, 901, 5 * MIB, 0, 1, &late), 0);
        assert_int_equal(testing_read(tier, &early, 900, 100000, 0), 0);
        assert_int_equal(testing_read(tier, &late, 901, 5 * MIB, 0), 0);
        tier->ops->close(&tier);
        tier = testing_open_default();
        assert_int_equal(testing_seen.block_count, good + 2);
        tier->ops->close(&tier);
        testing_teardown(NULL);
    }
    assert_true(some);
}

static void no_room_for_a_request(void **state)
{
    (void)state;
    those_under_way_fail_together(ENOSPC);
}

static void an_error_in_a_request(void **state)
{
    (void)state;
    those_under_way_fail_together(EIO);
}

/* Direct requests are refused when several are under way: all of them are written again. */
static void refused_requests_are_written_again(void **state)
{
    csc_tier *tier;
    csc_place place;

    (void)state;
    testing_setup(NULL);
    tier = testing_open_default();
    assert_int_equal(testing_write(tier, 900, 4096, 0, 1, &place), 0);
    testing_fault.refuse_direct = true;
    prepare(1, COUNT);
    assert_int_equal(tier->ops->write(tier, writes, COUNT), 0);
    release(COUNT);
    assert_false(csc_segment_is_direct(tier));
    for (size_t i = 0; i < COUNT; i++)
        assert_int_equal(testing_read(tier, &writes[i].place, 1 + i, bytes_of(i), 0), 0);
    assert_int_equal(csc_segment_seal(tier), 0);
    tier->ops->close(&tier);
    tier = testing_open_default();
    assert_int_equal(testing_seen.block_count, COUNT + 1);
    tier->ops->close(&tier);
    testing_teardown(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_arrives),
        cmocka_unit_test(memory_is_used_again),
        cmocka_unit_test(no_room_for_a_request),
        cmocka_unit_test(an_error_in_a_request),
        cmocka_unit_test(refused_requests_are_written_again),
    };

    setenv("CASCADE_LOG", "none", 0); /* the errors are meant */
    return cmocka_run_group_tests_name("segment_write", tests, NULL, NULL);
}
