/* SPDX-License-Identifier: MIT */
/* The file tier as it is meant to work: the shared tier test, reopening, sealing, logs, removal. */
#include "base/fail.h"
#include "format/segment_format.h"
#include "segment/segment_testing.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB ((size_t)1 << 20)

/* ---- the shared test ------------------------------------------------------------------------------ */

static csc_tier *open_direct(void)
{
    return testing_suite_open((csc_segment_options){.segment_bytes = 24 * MIB});
}

static csc_tier *open_buffered(void)
{
    return testing_suite_open((csc_segment_options){.buffered = true, .segment_bytes = 24 * MIB});
}

static csc_tier_fixture direct = {open_direct, testing_suite_close};
static csc_tier_fixture buffered = {open_buffered, testing_suite_close};

/* ---- reopening ------------------------------------------------------------------------------------ */

static void check_found(csc_tier *tier, uint64_t seed, size_t k_bytes, size_t v_bytes,
                        size_t binding_count)
{
    const testing_block *block = testing_find(seed, k_bytes, v_bytes);

    assert_non_null(block);
    assert_int_equal(block->content.tenant, seed % 3);
    assert_int_equal(block->content.k_bytes, k_bytes);
    assert_int_equal(block->content.v_bytes, v_bytes);
    assert_int_equal(block->binding_count, binding_count);
    for (size_t i = 0; i < binding_count && i < 3; i++) {
        /* An index gives the bindings of a block back in the order of their keys. */
        bool seen = false;

        for (size_t k = 0; k < binding_count; k++) {
            csc_binding expected = testing_binding(seed, k);

            seen |= block->bindings[i].sequence == expected.sequence &&
                    block->bindings[i].has_parent == expected.has_parent &&
                    memcmp(&block->bindings[i].key, &expected.key, 32) == 0 &&
                    memcmp(&block->bindings[i].parent, &expected.parent, 32) == 0;
        }
        assert_true(seen);
    }
    assert_int_equal(testing_read(tier, &block->place, seed, k_bytes, v_bytes), 0);
}

static void write_some(csc_tier *tier)
{
    csc_log_entry entries[3] = {
        {.is_delete = true, .binding = testing_binding(70, 0)},
        {.binding = testing_binding(71, 1), .content = csc_tier_suite_content(5, 4096, 0)},
        {.binding = testing_binding(72, 0), .content = csc_tier_suite_content(6, 1, 0)}};
    csc_place place;
    uint32_t segment = 99;

    assert_int_equal(testing_write(tier, 1, 5000, 3000, 1, &place), 0);
    assert_int_equal(testing_write(tier, 2, 1, 0, 0, &place), 0);
    assert_int_equal(testing_write(tier, 3, 300000, 300001, 3, &place), 0);
    assert_int_equal(csc_segment_log(tier, entries, 3, &segment), 0);
    assert_int_equal(segment, csc_segment_of(&place));
    assert_int_equal(testing_write(tier, 4, 20 * MIB, 1, 2, &place), 0);
    assert_int_equal(testing_write(tier, 5, 4096, 0, 1024, &place), 0);
    assert_int_equal(testing_write(tier, 6, 0, 0, 1, &place), 0);
}

static void check_some(csc_tier *tier)
{
    int deletes = 0;

    assert_int_equal(testing_seen.block_count, 6);
    check_found(tier, 1, 5000, 3000, 1);
    check_found(tier, 2, 1, 0, 0);
    check_found(tier, 3, 300000, 300001, 3);
    check_found(tier, 4, 20 * MIB, 1, 2);
    check_found(tier, 5, 4096, 0, 1024);
    check_found(tier, 6, 0, 0, 1);
    assert_int_equal(testing_seen.log_count, 3);
    for (size_t i = 0; i < 3; i++) {
        const csc_log_entry *entry = &testing_seen.logs[i];
        uint64_t seed = entry->binding.sequence / 100;
        csc_binding expected = testing_binding(seed, seed == 71);
        csc_content content = csc_tier_suite_content(seed == 71 ? 5 : 6, seed == 71 ? 4096 : 1, 0);

        assert_memory_equal(&entry->binding.key, &expected.key, 32);
        deletes += entry->is_delete;
        if (entry->is_delete) {
            assert_int_equal(seed, 70);
            continue;
        }
        assert_int_equal(entry->binding.sequence, expected.sequence);
        assert_int_equal(entry->binding.has_parent, seed == 71);
        assert_memory_equal(&entry->binding.parent, &expected.parent, 32);
        assert_memory_equal(&entry->content.digest, &content.digest, 32);
        assert_int_equal(entry->content.tenant, content.tenant);
        assert_int_equal(entry->content.k_bytes, content.k_bytes);
    }
    assert_int_equal(deletes, 1);
}

static void reopen_finds_everything(void **state)
{
    csc_tier *tier;

    (void)state;
    for (int sealed = 0; sealed < 2; sealed++) {
        tier = testing_open_default();
        assert_int_equal(testing_file_count(), 0); /* none before the first write */
        write_some(tier);
        assert_int_equal(tier->ops->sync(tier), 0);
        if (sealed)
            assert_int_equal(csc_segment_seal(tier), 0);
        tier->ops->close(&tier);
        tier = testing_open_default();
        check_some(tier);
        csc_segment_info info;
        size_t count = 1;
        csc_segment_list(tier, &info, &count);
        assert_int_equal(count, 1);
        assert_int_equal(info.sealed, sealed);
        assert_int_equal(csc_segment_remove(tier, info.segment), 0);
        tier->ops->close(&tier);
        assert_int_equal(testing_file_count(), 0);
    }
}

/* Opening a sealed segment must not read its payload, nor its records. */
static void open_reads_the_index_only(void **state)
{
    csc_tier *tier = testing_open_default();
    cascade_tier_stats stats;
    struct stat info;
    csc_place place;

    (void)state;
    for (uint64_t i = 0; i < 100; i++)
        assert_int_equal(testing_write(tier, i, 100000, 0, 1, &place), 0);
    assert_int_equal(csc_segment_seal(tier), 0);
    tier->ops->close(&tier);
    tier = testing_open_default();
    tier->ops->stats(tier, &stats);
    assert_int_equal(testing_seen.block_count, 100);
    assert_int_equal(stats.read_bytes, 4096 + 4096 + 16384); /* header, trailer, 100 entries */
    tier->ops->close(&tier);
    /* What was reserved ahead was given back. */
    assert_int_equal(stat(testing_path(0, 0), &info), 0);
    assert_true((uint64_t)info.st_blocks * 512 <= (uint64_t)info.st_size + MIB);
}

/* What lies behind a caller's bytes in memory never reaches the disk. */
static void padding_is_zero(void **state)
{
    csc_tier *tier = testing_open_default();
    uint8_t *memory = NULL;
    uint8_t page[4096];
    int fd;

    (void)state;
    assert_int_equal(posix_memalign((void **)&memory, 4096, 8192), 0);
    memset(memory, 0x77, 8192);
    for (size_t shift = 0; shift < 2; shift++) {
        const cascade_piece piece = {memory + shift, 100};
        csc_tier_write write = {
            .content = csc_tier_suite_content(shift, 100, 0), .pieces = &piece, .piece_count = 1};

        assert_int_equal(tier->ops->write(tier, &write, 1), 0);
    }
    fd = open(testing_path(0, 0), O_RDONLY);
    for (off_t at = 8192; at <= 16384; at += 8192) {
        assert_int_equal(pread(fd, page, sizeof page, at), sizeof page);
        for (size_t i = 0; i < sizeof page; i++)
            assert_int_equal(page[i], i < 100 ? 0x77 : 0);
    }
    close(fd);
    free(memory);
    tier->ops->close(&tier);
}

/* ---- limits --------------------------------------------------------------------------------------- */

static void seals_at_its_limits(void **state)
{
    csc_tier *tier = NULL;
    csc_segment_info infos[8];
    size_t count = 8;
    csc_place place;

    (void)state;
    assert_int_equal(testing_open((csc_segment_options){.segment_bytes = MIB}, &tier), 0);
    for (uint64_t i = 0; i < 30; i++) /* 15 of 65,536 + 4,096 fit beside header and index */
        assert_int_equal(testing_write(tier, i, 61440, 0, 1, &place), 0);
    csc_segment_list(tier, infos, &count);
    assert_int_equal(count, 2);
    assert_true(infos[0].sealed);
    assert_true(infos[0].bytes <= MIB);
    assert_true(infos[0].bytes > MIB - 2 * 65536);
    assert_false(infos[1].sealed);
    /* One that is larger than a segment gets its own. */
    assert_int_equal(testing_write(tier, 100, 2 * MIB, 0, 1, &place), 0);
    assert_int_equal(testing_write(tier, 101, 4096, 0, 1, &place), 0);
    count = 8;
    csc_segment_list(tier, infos, &count);
    assert_int_equal(count, 4);
    assert_int_equal(csc_segment_count(tier), 4);
    tier->ops->close(&tier);
    tier = testing_open_default();
    assert_int_equal(testing_seen.block_count, 32);
    for (uint64_t i = 0; i < 30; i++)
        check_found(tier, i, 61440, 0, 1);
    check_found(tier, 100, 2 * MIB, 0, 1);
    tier->ops->close(&tier);
}

static void counts_big_blocks_only(void **state)
{
    csc_tier *tier = NULL;
    csc_place place;

    (void)state;
    assert_int_equal(testing_open((csc_segment_options){.blocks_max = 2}, &tier), 0);
    for (uint64_t i = 0; i < 20; i++)
        assert_int_equal(testing_write(tier, i, 5000, 0, 1, &place), 0);
    assert_int_equal(testing_file_count(), 1);
    for (uint64_t i = 0; i < 3; i++)
        assert_int_equal(testing_write(tier, 50 + i, 4 * MIB, 0, 1, &place), 0);
    assert_int_equal(testing_file_count(), 2);
    tier->ops->close(&tier);
}

/* 200 blocks of 80 MiB are 51 + 51 + 51 + 47 of them: four files. */
static void large_blocks_make_few_files(void **state)
{
    csc_tier *tier = testing_open_default();
    const size_t bytes = 80 * MIB;
    void *memory = calloc(1, bytes);
    cascade_metadata_ops counts;
    csc_binding binding = testing_binding(1, 1);
    cascade_piece piece = {memory, bytes};

    (void)state;
    assert_non_null(memory);
    testing_fault.discard = true;
    for (uint64_t i = 0; i < 52; i++) {
        csc_tier_write write = {.content = csc_tier_suite_content(i, bytes / 2, bytes / 2),
                                .bindings = &binding,
                                .binding_count = 1,
                                .pieces = &piece,
                                .piece_count = 1};

        assert_int_equal(tier->ops->write(tier, &write, 1), 0);
        assert_int_equal(csc_segment_of(&write.place), i < 51 ? 0 : 1);
    }
    csc_io_counts(testing_io, &counts);
    assert_int_equal(counts.create, 2);
    assert_true(counts.open <= 2);
    assert_int_equal(counts.stat, 1); /* the directory, to know it again */
    assert_int_equal(counts.rename + counts.unlink + counts.mkdir, 0);
    assert_int_equal(counts.readdir, 1);
    tier->ops->close(&tier);
    free(memory);
}

static void bad_writes_are_refused(void **state)
{
    csc_tier *tier = testing_open_default();
    uint8_t bytes[64] = {0};
    cascade_piece piece = {bytes, 64};
    csc_tier_write writes[5];
    csc_log_entry entry = {.content = {.k_bytes = UINT64_MAX}};
    csc_place place;
    uint32_t segment;

    (void)state;
    for (uint64_t i = 0; i < 5; i++)
        writes[i] = (csc_tier_write){.content = csc_tier_suite_content(i, 60, 4),
                                     .pieces = &piece,
                                     .piece_count = 1,
                                     .place = {{1, 1, 1, 1}}};
    writes[1].content.v_bytes = 5;
    writes[2].content.k_bytes = UINT64_C(1) << 63;
    writes[3].content.v_bytes = UINT64_MAX - 59;
    assert_int_equal(tier->ops->write(tier, writes, 5), CASCADE_EINVAL);
    assert_int_equal(writes[0].status, 0);
    assert_int_equal(writes[1].status, CASCADE_EINVAL);
    assert_int_equal(writes[2].status, CASCADE_ETOOBIG);
    assert_int_equal(writes[3].status, CASCADE_ETOOBIG);
    assert_int_equal(writes[3].place.words[3], 0);
    assert_int_equal(writes[4].status, 0);
    assert_int_equal(testing_write(tier, 9, 10, 0, 1025, &place), CASCADE_EINVAL);
    assert_int_equal(csc_segment_log(tier, &entry, 0, &segment), CASCADE_EINVAL);
    assert_int_equal(csc_segment_log(tier, &entry, 1, &segment), CASCADE_EINVAL);
    tier->ops->close(&tier);
    tier = testing_open_default();
    assert_int_equal(testing_seen.block_count, 2);
    tier->ops->close(&tier);
}

/* ---- several handles ------------------------------------------------------------------------------ */

static void two_handles_of_one_rank(void **state)
{
    csc_tier *first = testing_open_default();
    csc_tier *second = testing_open_default();
    csc_tier *third = NULL;
    csc_place places[2];

    (void)state;
    assert_int_equal(testing_write(first, 1, 9999, 1, 1, &places[0]), 0);
    assert_int_equal(testing_write(second, 2, 8888, 1, 1, &places[1]), 0);
    assert_int_equal(testing_file_count(), 2);
    assert_int_equal(testing_write(first, 3, 7777, 1, 1, &places[0]), 0);
    assert_int_equal(testing_write(second, 4, 6666, 1, 1, &places[1]), 0);
    assert_int_equal(csc_segment_seal(first), 0);
    assert_int_equal(csc_segment_seal(second), 0);
    assert_int_equal(testing_file_count(), 2);
    /* Another rank reads them all, lists none as its own, and writes under its own name. */
    assert_int_equal(testing_open((csc_segment_options){.rank = 7}, &third), 0);
    assert_int_equal(testing_seen.block_count, 4);
    check_found(third, 1, 9999, 1, 1);
    check_found(third, 4, 6666, 1, 1);
    csc_segment_info info;
    size_t count = 1;
    csc_segment_list(third, &info, &count);
    assert_int_equal(count, 0);
    assert_int_equal(csc_segment_count(third), 2);
    assert_int_equal(csc_segment_remove(third, 0), CASCADE_EINVAL);
    assert_int_equal(testing_write(third, 5, 1, 0, 1, &places[0]), 0);
    assert_int_equal(testing_file_count(), 3);
    first->ops->close(&first);
    second->ops->close(&second);
    third->ops->close(&third);
}

static void removal(void **state)
{
    csc_tier *tier = testing_open_default();
    csc_tier *other;
    const testing_block *block;
    csc_place place;
    csc_place later;
    uint32_t segment;

    (void)state;
    assert_int_equal(testing_write(tier, 1, 50000, 0, 1, &place), 0);
    segment = csc_segment_of(&place);
    assert_int_equal(csc_segment_remove(tier, segment), CASCADE_EBUSY);
    assert_int_equal(csc_segment_seal(tier), 0);
    other = testing_open_default();
    block = testing_find(1, 50000, 0);
    assert_non_null(block);
    assert_int_equal(testing_read(tier, &place, 1, 50000, 0), 0);
    assert_int_equal(csc_segment_remove(tier, segment), 0);
    assert_int_equal(csc_segment_remove(tier, segment), CASCADE_MISS);
    assert_int_equal(csc_segment_remove(tier, 12345), CASCADE_EINVAL);
    assert_int_equal(testing_read(tier, &place, 1, 50000, 0), CASCADE_MISS);
    assert_int_equal(csc_segment_count(tier), 0);
    assert_int_equal(testing_file_count(), 0);
    /* The other handle has it open still, or finds it gone. */
    int rc = testing_read(other, &block->place, 1, 50000, 0);
    assert_true(rc == 0 || rc == CASCADE_MISS);
    /* A place does not outlive its handle, even where a new segment has the index. */
    assert_int_equal(testing_write(other, 2, 50000, 0, 1, &later), 0);
    later.words[0] = 0;
    assert_int_equal(testing_read(other, &later, 2, 50000, 0), CASCADE_MISS);
    tier->ops->close(&tier);
    other->ops->close(&other);
}

static void keeps_few_descriptors(void **state)
{
    enum { COUNT = 150 };
    csc_tier *tier = NULL;
    csc_place places[COUNT];
    size_t before = testing_open_descriptors();

    (void)state;
    assert_int_equal(testing_open((csc_segment_options){.segment_bytes = 8192, .buffered = true}, &tier),
                     0);
    for (uint64_t i = 0; i < COUNT; i++)
        assert_int_equal(testing_write(tier, i, 100, 0, 1, &places[i]), 0);
    assert_int_equal(csc_segment_of(&places[COUNT - 1]), COUNT - 1);
    for (int round = 0; round < 2; round++)
        for (uint64_t i = 0; i < COUNT; i++)
            assert_int_equal(testing_read(tier, &places[i], i, 100, 0), 0);
    assert_true(testing_open_descriptors() <= before + 129);
    tier->ops->close(&tier);
    tier = testing_open_default();
    assert_int_equal(testing_seen.block_count, COUNT);
    assert_true(testing_open_descriptors() <= before + 129);
    for (uint64_t i = 0; i < COUNT; i++)
        check_found(tier, i, 100, 0, 1);
    tier->ops->close(&tier);
    assert_int_equal(testing_open_descriptors(), before);
}

static void a_long_index(void **state)
{
    csc_tier *tier = testing_open_default();
    enum { COUNT = 400 };
    csc_place place;

    (void)state;
    for (uint64_t i = 0; i < COUNT; i++)
        assert_int_equal(testing_write(tier, i, 10, 0, 3, &place), 0);
    assert_int_equal(csc_segment_seal(tier), 0);
    tier->ops->close(&tier);
    tier = testing_open_default();
    assert_int_equal(testing_seen.block_count, COUNT);
    for (uint64_t i = 0; i < COUNT; i++)
        check_found(tier, i, 10, 0, 3);
    tier->ops->close(&tier);
}

static void ranges_read_little(void **state)
{
    csc_tier *tier = testing_open_default();
    cascade_tier_stats before;
    cascade_tier_stats after;
    const size_t k_bytes = 40 * MIB;
    csc_content content = csc_tier_suite_content(3, k_bytes, k_bytes);
    uint8_t *memory = malloc(MIB);
    cascade_piece piece = {memory, MIB};
    csc_place place;

    (void)state;
    assert_int_equal(testing_write(tier, 3, k_bytes, k_bytes, 1, &place), 0);
    tier->ops->stats(tier, &before);
    assert_int_equal(csc_tier_read_one(tier, &place, &content, 37 * MIB + 12345, &piece, 1), 0);
    tier->ops->stats(tier, &after);
    assert_true(after.read_bytes - before.read_bytes <= 2 * MIB);
    assert_true(after.read_bytes - before.read_bytes >= MIB);
    free(memory);
    tier->ops->close(&tier);
}

static void direct_is_given_up_where_refused(void **state)
{
    csc_tier *tier = testing_open_default();
    csc_place place;

    (void)state;
    assert_int_equal(testing_write(tier, 1, 5 * MIB, 0, 1, &place), 0);
    if (!csc_segment_is_direct(tier)) {
        tier->ops->close(&tier); /* nothing to give up on this file system */
        return;
    }
    assert_int_equal(testing_read(tier, &place, 1, 5 * MIB, 0), 0);
    assert_true(csc_segment_is_direct(tier));
    testing_fault.refuse_direct = true;
    assert_int_equal(testing_read(tier, &place, 1, 5 * MIB, 0), 0);
    assert_false(csc_segment_is_direct(tier));
    assert_int_equal(testing_write(tier, 2, 5 * MIB, 0, 1, &place), 0);
    assert_int_equal(testing_read(tier, &place, 2, 5 * MIB, 0), 0);
    assert_int_equal(csc_segment_seal(tier), 0);
    tier->ops->close(&tier);
    tier = testing_open_default(); /* finds out at its first read */
    assert_int_equal(testing_seen.block_count, 2);
    check_found(tier, 1, 5 * MIB, 0, 1);
    check_found(tier, 2, 5 * MIB, 0, 1);
    tier->ops->close(&tier);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, testing_setup, testing_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CSC_TIER_SUITE(&direct),
        CSC_TIER_SUITE_CHECKED(&direct),
        CSC_TIER_SUITE(&buffered),
        CSC_TIER_SUITE_CHECKED(&buffered),
        CASE(reopen_finds_everything),
        CASE(open_reads_the_index_only),
        CASE(padding_is_zero),
        CASE(seals_at_its_limits),
        CASE(counts_big_blocks_only),
        CASE(large_blocks_make_few_files),
        CASE(bad_writes_are_refused),
        CASE(two_handles_of_one_rank),
        CASE(removal),
        CASE(keeps_few_descriptors),
        CASE(a_long_index),
        CASE(ranges_read_little),
        CASE(direct_is_given_up_where_refused),
    };

    return cmocka_run_group_tests_name("segment", tests, NULL, NULL);
}
