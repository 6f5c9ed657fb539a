/* SPDX-License-Identifier: MIT */
/*
 * One life of a tier, over and over: each time another of its system calls fails, moves less than asked,
 * or is interrupted, once or from then on. Whatever happens: a write that returned 0 reads back; what a
 * sync acknowledged is there after reopening; nothing reads as other bytes; nothing crashes or leaks.
 */
#include "segment/segment_testing.h"

#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#define MIB ((size_t)1 << 20)

enum { BLOCKS = 12 };
enum promise { NONE, WRITTEN, DURABLE };

/* Short lives: small ones, aligned or copied, and one that takes several requests. */
static size_t k_bytes_of(size_t i)
{
    return i == 5 ? 4 * MIB + 7 : i % 3 == 0 ? 4096 * (i + 1) : 3001 * i;
}

static enum promise promises[BLOCKS];
static csc_place places[BLOCKS];
static bool lenient; /* reads may fail too */

static void write_block(csc_tier *tier, size_t i)
{
    int rc = testing_write(tier, i, k_bytes_of(i), i, 1, &places[i]);

    if (rc == 0) {
        promises[i] = WRITTEN;
        return;
    }
    assert_true(rc == CASCADE_EIO || rc == CASCADE_ENOSPC || rc == CASCADE_EACCES ||
                rc == CASCADE_ENOMEM);
    assert_int_equal(places[i].words[3], 0);
    assert_true(testing_fault.met);
}

/* A good sync makes what was written durable; a failed one takes every promise since the last back. */
static void after_sync(int rc)
{
    if (rc != 0)
        assert_true(testing_fault.met);
    for (size_t i = 0; i < BLOCKS; i++)
        if (promises[i] == WRITTEN)
            promises[i] = rc == 0 ? DURABLE : NONE;
}

static void read_all(csc_tier *tier)
{
    for (size_t i = 0; i < BLOCKS; i++) {
        int rc;

        if (promises[i] == NONE)
            continue;
        rc = testing_read(tier, &places[i], i, k_bytes_of(i), i);
        assert_int_not_equal(rc, -1000);
        assert_int_not_equal(rc, CASCADE_ECORRUPT);
        if (!lenient || !testing_fault.met)
            assert_int_equal(rc, 0);
    }
}

static void live(csc_tier *tier)
{
    csc_log_entry entry = {.is_delete = true, .binding = testing_binding(77, 0)};
    uint32_t segment;
    size_t i = 0;

    for (; i < 4; i++)
        write_block(tier, i);
    after_sync(tier->ops->sync(tier));
    for (; i < 8; i++)
        write_block(tier, i);
    csc_segment_log(tier, &entry, 1, &segment);
    read_all(tier);
    after_sync(tier->ops->sync(tier));
    for (; i < 10; i++)
        write_block(tier, i);
    after_sync(csc_segment_seal(tier));
    for (; i < BLOCKS; i++)
        write_block(tier, i);
    read_all(tier);
    after_sync(tier->ops->sync(tier));
}

/* What was promised must be there for the next handle, on a machine that works again. */
static void check_after(void)
{
    csc_tier *tier;

    testing_fault = (testing_faults){.at = INT_MAX};
    tier = testing_open_default();
    for (size_t i = 0; i < BLOCKS; i++) {
        const testing_block *block = testing_find(i, k_bytes_of(i), i);
        int rc;

        if (promises[i] == DURABLE)
            assert_non_null(block);
        if (!block)
            continue;
        rc = testing_read(tier, &block->place, i, k_bytes_of(i), i);
        assert_true(rc == 0 || (promises[i] != DURABLE && rc == CASCADE_ECORRUPT));
    }
    for (size_t i = 0; i < BLOCKS; i++)
        assert_int_equal(testing_write(tier, i + 100, 5000, 0, 1, &places[0]), 0);
    assert_int_equal(csc_segment_seal(tier), 0);
    tier->ops->close(&tier);
}

/* One life with one fault; false: it ended before the fault was met. */
static bool live_once(testing_faults fault)
{
    csc_tier *tier = NULL;
    bool met;
    int rc;

    testing_setup(NULL);
    memset(promises, 0, sizeof promises);
    testing_fault = fault;
    rc = testing_open((csc_segment_options){.segment_bytes = 5 * MIB}, &tier);
    if (rc == 0) {
        live(tier);
        tier->ops->close(&tier);
    } else {
        assert_true(testing_fault.met);
        assert_null(tier);
    }
    met = testing_fault.met;
    check_after();
    testing_teardown(NULL);
    return met;
}

static void each_call(testing_faults fault)
{
    int at = 1;

    for (;; at++) {
        fault.at = at;
        if (!live_once(fault))
            break;
        assert_true(at < 1000);
    }
    assert_true(at > 3);
}

static void io_error_once(void **state)
{
    (void)state;
    lenient = true;
    each_call((testing_faults){.err = EIO});
}

static void io_error_lasting(void **state)
{
    (void)state;
    lenient = true;
    each_call((testing_faults){.err = EIO, .lasting = true});
}

static void no_space_once(void **state)
{
    (void)state;
    lenient = true;
    each_call((testing_faults){.err = ENOSPC});
}

static void no_space_lasting(void **state)
{
    (void)state;
    lenient = true;
    each_call((testing_faults){.err = ENOSPC, .lasting = true});
}

static void failing_sync(void **state)
{
    (void)state;
    lenient = false;
    each_call((testing_faults){.err = EIO, .only_sync = true});
    each_call((testing_faults){.err = EIO, .only_sync = true, .lasting = true});
}

/* Neither of these is an error: everything must work as ever. */
static void assert_harmless(testing_faults fault)
{
    lenient = false;
    for (fault.at = 1; fault.at < 60; fault.at++) {
        csc_tier *tier = NULL;

        testing_setup(NULL);
        memset(promises, 0, sizeof promises);
        testing_fault = fault;
        assert_int_equal(testing_open((csc_segment_options){.segment_bytes = 5 * MIB}, &tier), 0);
        live(tier);
        tier->ops->close(&tier);
        for (size_t i = 0; i < BLOCKS; i++)
            assert_int_equal(promises[i], DURABLE);
        check_after();
        testing_teardown(NULL);
    }
}

static void interrupted_calls(void **state)
{
    (void)state;
    assert_harmless((testing_faults){.err = EINTR});
}

static void short_transfers(void **state)
{
    (void)state;
    assert_harmless((testing_faults){.err = 0});
}

/* A failed sync is told once, even if sealing met it, and what is written afterwards is good again. */
static int ignore_block(void *context, const csc_segment_source *source, const csc_content *content,
                        uint64_t written_ns, const csc_binding *bindings, size_t binding_count,
                        const csc_place *place)
{
    (void)context, (void)source, (void)content, (void)written_ns, (void)bindings, (void)binding_count;
    (void)place;
    return 0;
}

static int ignore_log(void *context, const csc_segment_source *source, const csc_log_entry *entry)
{
    (void)context, (void)source, (void)entry;
    return 0;
}

static void a_failed_sync_is_told_once(void **state)
{
    csc_tier *tier;
    csc_place place;

    (void)state;
    testing_setup(NULL);
    tier = testing_open_default();
    assert_int_equal(testing_write(tier, 1, 5000, 0, 1, &place), 0);
    testing_fault = (testing_faults){.at = 1, .err = EIO, .only_sync = true};
    assert_int_equal(tier->ops->sync(tier), CASCADE_EIO);
    assert_int_equal(tier->ops->sync(tier), 0);
    assert_int_equal(testing_write(tier, 2, 5000, 0, 1, &place), 0);
    assert_int_equal(csc_segment_of(&place), 1); /* not into the segment that failed */
    assert_int_equal(tier->ops->sync(tier), 0);
    testing_fault = (testing_faults){.at = 1, .err = EIO, .only_sync = true};
    assert_int_equal(testing_write(tier, 3, 5000, 0, 1, &place), 0);
    assert_int_equal(csc_segment_seal(tier), CASCADE_EIO);
    assert_int_equal(tier->ops->sync(tier), 0);
    tier->ops->close(&tier);
    testing_teardown(NULL);
}

/* What a failed sync was to make durable is on no disk, though it can be read until the power goes: the
 * next open does not find it, in a file that is used again neither, and finds what was synced before. */
static void a_failed_sync_leaves_nothing_to_find(void **state)
{
    csc_tier *tier = testing_open_default();
    csc_place place;

    (void)state;
    assert_int_equal(testing_write(tier, 1, 50000, 0, 1, &place), 0);
    assert_int_equal(csc_segment_seal(tier), 0);
    assert_int_equal(csc_segment_remove(tier, csc_segment_of(&place)), 0);
    assert_int_equal(testing_write(tier, 2, 5000, 0, 1, &place), 0);
    assert_int_equal(tier->ops->sync(tier), 0);
    for (uint64_t seed = 3; seed <= 4; seed++) { /* behind that record, then alone in a segment */
        assert_int_equal(testing_write(tier, seed, 5000, 0, 1, &place), 0);
        testing_fault = (testing_faults){.at = 1, .err = EIO, .only_sync = true};
        assert_int_equal(tier->ops->sync(tier), CASCADE_EIO);
    }
    testing_fault = (testing_faults){.at = INT_MAX};
    tier->ops->close(&tier);
    tier = testing_open_default();
    assert_int_equal(testing_seen.block_count, 1);
    assert_non_null(testing_find(2, 5000, 0));
    assert_true(testing_fault.whole_syncs >
                0); /* a cut may be undone with the power if data alone are synced */
    tier->ops->close(&tier);
}

/* A name that a failed sync of the directory was to make durable: the segment goes, sealed or not. One
 * that has its name stays, with its records, which are durable. */
static void a_name_in_doubt_is_not_found(void **state)
{
    csc_tier *tier = testing_open_default();
    csc_place place;

    (void)state;
    assert_int_equal(testing_write(tier, 1, 5000, 0, 1, &place), 0);
    assert_int_equal(csc_segment_seal(tier), 0);
    assert_int_equal(testing_write(tier, 2, 5000, 0, 1, &place), 0);
    assert_int_equal(tier->ops->sync(tier), 0);
    assert_int_equal(csc_segment_remove(tier, 0), 0);
    assert_int_equal(testing_write(tier, 3, 5000, 0, 1, &place), 0);
    testing_fault = (testing_faults){.at = 2, .err = EIO, .only_sync = true}; /* after the records' */
    assert_int_equal(tier->ops->sync(tier), CASCADE_EIO);
    assert_int_equal(testing_write(tier, 4, 5000, 0, 1, &place), 0);
    testing_fault = (testing_faults){.at = 2, .err = EIO, .only_sync = true};
    assert_int_equal(tier->ops->sync(tier), CASCADE_EIO);
    assert_int_equal(testing_write(tier, 5, 5000, 0, 1, &place), 0);
    testing_fault = (testing_faults){.at = 3, .err = EIO, .only_sync = true}; /* and the index's */
    assert_int_equal(csc_segment_seal(tier), CASCADE_EIO);
    testing_fault = (testing_faults){.at = INT_MAX};
    tier->ops->close(&tier);
    tier = testing_open_default();
    assert_int_equal(testing_seen.block_count, 2);
    assert_non_null(testing_find(2, 5000, 0));
    assert_non_null(testing_find(3, 5000, 0));
    tier->ops->close(&tier);
}

/* A killed writer leaves records that no sync has reached; an open that tells of them makes them
 * durable. */
static void an_open_syncs_what_it_finds(void **state)
{
    csc_segment_visitor visitor = {.block = ignore_block, .log = ignore_log};
    csc_segment_options options;
    csc_tier *tier;
    csc_place place;

    (void)state;
    testing_setup(NULL);
    tier = testing_open_default();
    assert_int_equal(testing_write(tier, 1, 5000, 0, 1, &place), 0);
    tier->ops->close(&tier);
    options = (csc_segment_options){.io = testing_io, .directory = testing_directory_used()};
    for (int at = 1; at <= 2; at++) {
        testing_fault = (testing_faults){.at = at, .err = EIO, .only_sync = true};
        assert_int_equal(csc_segment_open(&options, &visitor, &tier), CASCADE_EIO);
        assert_true(testing_fault.met);
    }
    testing_fault = (testing_faults){0};
    tier = testing_open_default();
    assert_int_equal(testing_seen.block_count, 1);
    tier->ops->close(&tier);
    testing_teardown(NULL);
}

/* A full disk fails the write, harms nothing, leaves no files behind, and is over when there is room. */
static void full_disk_is_survived(void **state)
{
    csc_tier *tier;
    csc_place place;
    csc_place other;

    (void)state;
    testing_setup(NULL);
    tier = testing_open_default();
    assert_int_equal(testing_write(tier, 1, 5000, 0, 1, &place), 0);
    testing_fault = (testing_faults){.at = 1, .err = ENOSPC, .lasting = true, .only_growth = true};
    for (uint64_t i = 0; i < 20; i++)
        assert_int_equal(testing_write(tier, 10 + i, 17 * MIB, 0, 1, &other), CASCADE_ENOSPC);
    testing_fault = (testing_faults){0};
    assert_int_equal(testing_file_count(), 1);
    assert_int_equal(testing_read(tier, &place, 1, 5000, 0), 0);
    assert_int_equal(testing_write(tier, 2, 17 * MIB, 0, 1, &other), 0);
    assert_int_equal(testing_read(tier, &other, 2, 17 * MIB, 0), 0);
    assert_int_equal(csc_segment_seal(tier), 0);
    tier->ops->close(&tier);
    tier = testing_open_default();
    assert_int_equal(testing_seen.block_count, 2);
    tier->ops->close(&tier);
    testing_teardown(NULL);
}

static uint64_t file_bytes(void)
{
    struct stat info;

    assert_int_equal(stat(testing_path(0, 0), &info), 0);
    return (uint64_t)info.st_size;
}

/* A segment whose first page cannot be written is not left lying about. */
static void no_room_for_a_segment(void **state)
{
    csc_tier *tier;
    csc_place place;

    (void)state;
    testing_setup(NULL);
    tier = testing_open_default();
    testing_fault = (testing_faults){.at = 1, .err = ENOSPC, .only_growth = true};
    assert_int_equal(testing_write(tier, 1, 5000, 0, 1, &place), CASCADE_ENOSPC);
    assert_int_equal(testing_file_count(), 0);
    assert_int_equal(testing_write(tier, 1, 5000, 0, 1, &place), 0);
    assert_int_equal(testing_file_count(), 1);
    tier->ops->close(&tier);
    testing_teardown(NULL);
}

/* Nor is one in which no record can be written, of which there is a new one with every try. */
static void no_record_in_a_segment(void **state)
{
    csc_tier *tier = testing_open_default();
    csc_place place;

    (void)state;
    for (int tries = 0; tries < 3; tries++) {
        testing_fault = (testing_faults){.at = 3, .err = EIO, .only_growth = true};
        assert_int_equal(testing_write(tier, 1, 5000, 0, 1, &place), CASCADE_EIO);
        assert_true(testing_fault.met);
        assert_int_equal(testing_file_count(), 0);
    }
    assert_int_equal(testing_stats(tier).used_bytes, 0);
    testing_fault = (testing_faults){0};
    assert_int_equal(testing_write(tier, 1, 5000, 0, 1, &place), 0);
    assert_int_equal(tier->ops->sync(tier), 0);
    assert_int_equal(testing_read(tier, &place, 1, 5000, 0), 0);
    tier->ops->close(&tier);
}

/* It is kept for the next try while there is no room; a close takes it away, an open cannot yet. */
static void no_room_for_a_record(void **state)
{
    csc_tier *tier = testing_open_default();
    csc_place place;

    (void)state;
    testing_fault = (testing_faults){.at = 2, .err = ENOSPC, .lasting = true, .only_growth = true};
    assert_int_equal(testing_write(tier, 1, 5000, 0, 1, &place), CASCADE_ENOSPC);
    assert_int_equal(testing_write(tier, 1, 5000, 0, 1, &place), CASCADE_ENOSPC);
    assert_int_equal(testing_file_count(), 1);
    testing_fault = (testing_faults){0};
    tier->ops->close(&tier);
    assert_int_equal(testing_file_count(), 0);
}

/* Writes `count` blocks of 5000 bytes in one call, so that they share a request. */
static int write_batch(csc_tier *tier, uint64_t seed, csc_tier_write *writes, size_t count)
{
    uint8_t *memory = malloc(count * 5000);
    cascade_piece pieces[8];
    csc_binding binding = testing_binding(seed, 0);
    int rc;

    for (size_t i = 0; i < count; i++) {
        csc_tier_suite_fill(memory + i * 5000, 5000, seed + i);
        pieces[i] = (cascade_piece){memory + i * 5000, 5000};
        writes[i] = (csc_tier_write){.content = csc_tier_suite_content(seed + i, 5000, 0),
                                     .bindings = &binding,
                                     .binding_count = 1,
                                     .pieces = &pieces[i],
                                     .piece_count = 1,
                                     .place = {{1, 1, 1, 1}}};
    }
    rc = tier->ops->write(tier, writes, count);
    free(memory);
    return rc;
}

/* Of failed writes neither bytes nor index entries stay, and the segment goes on to be used. */
static void failed_writes_leave_nothing(void **state)
{
    csc_tier_write writes[8];
    csc_tier *tier;
    csc_segment_info info;
    size_t count = 1;
    csc_place place;
    uint64_t before;

    (void)state;
    testing_setup(NULL);
    tier = testing_open_default();
    assert_int_equal(testing_write(tier, 1, 5000, 0, 1, &place), 0);
    before = file_bytes();
    testing_fault = (testing_faults){.at = 2, .err = ENOSPC, .only_growth = true};
    assert_int_equal(testing_write(tier, 2, 17 * MIB, 0, 1, &place), CASCADE_ENOSPC);
    assert_int_equal(file_bytes(), before);
    testing_fault = (testing_faults){.at = 2, .err = ENOSPC, .only_growth = true};
    assert_int_equal(write_batch(tier, 10, writes, 8), CASCADE_ENOSPC); /* after reserving */
    for (size_t i = 0; i < 8; i++) {
        assert_int_equal(writes[i].status, CASCADE_ENOSPC);
        assert_int_equal(writes[i].place.words[3], 0);
    }
    assert_int_equal(write_batch(tier, 20, writes, 8), 0);
    for (size_t i = 0; i < 8; i++)
        assert_int_equal(testing_read(tier, &writes[i].place, 20 + i, 5000, 0), 0);
    assert_int_equal(csc_segment_seal(tier), 0);
    tier->ops->close(&tier);
    assert_int_equal(testing_file_count(), 1);
    tier = testing_open_default();
    assert_int_equal(testing_seen.block_count, 9);
    csc_segment_list(tier, &info, &count);
    assert_true(info.sealed); /* and so the index is right */
    tier->ops->close(&tier);
    testing_teardown(NULL);
}

/* A bind whose record failed may be in the file all the same: a delete must be kept for it. */
static void a_failed_bind_may_be_there(void **state)
{
    csc_log_entry entry = {.binding = testing_binding(5, 0)};
    csc_binding deleted = entry.binding;
    csc_tier *tier = testing_open_default();
    csc_place place;
    uint32_t segment;

    (void)state;
    assert_int_equal(testing_write(tier, 1, 5000, 0, 1, &place), 0);
    assert_int_equal(tier->ops->sync(tier), 0);
    deleted.sequence = entry.binding.sequence + 1;
    assert_false(csc_segment_may_hide(tier, UINT32_MAX, &deleted));
    testing_fault = (testing_faults){.at = 1, .err = EIO, .lasting = true};
    assert_int_equal(csc_segment_log(tier, &entry, 1, &segment), CASCADE_EIO);
    testing_fault = (testing_faults){.at = INT_MAX};
    assert_true(csc_segment_may_hide(tier, UINT32_MAX, &deleted));
    tier->ops->close(&tier);
}

/* A segment whose removal may come undone holds a bind that a delete must still hide, whatever a later
 * sync of the directory says. */
static void a_removal_that_was_not_synced_may_come_undone(void **state)
{
    csc_log_entry entry = {.is_delete = true, .binding = testing_binding(1, 0)};
    csc_tier *tier = testing_open_default();
    csc_place place;
    uint32_t segment;

    (void)state;
    assert_int_equal(testing_write(tier, 1, 5000, 0, 1, &place), 0);
    assert_int_equal(csc_segment_seal(tier), 0);
    entry.binding.sequence++;
    assert_int_equal(csc_segment_log(tier, &entry, 1, &segment), 0);
    assert_int_equal(csc_segment_seal(tier), 0);
    assert_true(csc_segment_may_hide(tier, segment, &entry.binding));
    assert_true(csc_segment_bind_may_hide(tier, segment, &entry.binding));
    assert_int_equal(csc_segment_remove(tier, csc_segment_of(&place)), 0);
    assert_false(csc_segment_may_hide(tier, segment, &entry.binding));
    testing_fault = (testing_faults){.at = 1, .err = EIO, .only_sync = true};
    assert_int_equal(tier->ops->sync(tier), CASCADE_EIO);
    testing_fault = (testing_faults){.at = INT_MAX};
    assert_int_equal(tier->ops->sync(tier), 0);
    assert_true(csc_segment_may_hide(tier, segment, &entry.binding));
    assert_true(csc_segment_bind_may_hide(tier, segment, &entry.binding));
    tier->ops->close(&tier);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(io_error_once),
        cmocka_unit_test(io_error_lasting),
        cmocka_unit_test(no_space_once),
        cmocka_unit_test(no_space_lasting),
        cmocka_unit_test(failing_sync),
        cmocka_unit_test(interrupted_calls),
        cmocka_unit_test(short_transfers),
        cmocka_unit_test(a_failed_sync_is_told_once),
        cmocka_unit_test_setup_teardown(a_failed_sync_leaves_nothing_to_find, testing_setup,
                                        testing_teardown),
        cmocka_unit_test_setup_teardown(a_name_in_doubt_is_not_found, testing_setup, testing_teardown),
        cmocka_unit_test(an_open_syncs_what_it_finds),
        cmocka_unit_test(full_disk_is_survived),
        cmocka_unit_test(no_room_for_a_segment),
        cmocka_unit_test_setup_teardown(no_record_in_a_segment, testing_setup, testing_teardown),
        cmocka_unit_test_setup_teardown(no_room_for_a_record, testing_setup, testing_teardown),
        cmocka_unit_test(failed_writes_leave_nothing),
        cmocka_unit_test_setup_teardown(a_failed_bind_may_be_there, testing_setup, testing_teardown),
        cmocka_unit_test_setup_teardown(a_removal_that_was_not_synced_may_come_undone, testing_setup,
                                        testing_teardown),
    };

    setenv("CASCADE_LOG", "none", 0); /* the errors are meant */
    return cmocka_run_group_tests_name("segment_fault", tests, NULL, NULL);
}
