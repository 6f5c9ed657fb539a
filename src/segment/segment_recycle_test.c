/* SPDX-License-Identifier: MIT */
/*
 * Files of removed segments that are used again: nothing of the old life is ever taken for the new one,
 * whoever reads, and wherever the writer dies.
 */
#include "base/mark.h"
#include "segment/segment_internal.h"
#include "segment/segment_testing.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB ((size_t)1 << 20)

enum { OLD = 8, BYTES = 200000 };

static csc_place places[OLD];

static csc_tier *open_keeping(uint32_t spares_max)
{
    csc_tier *tier = NULL;

    assert_int_equal(testing_open((csc_segment_options){.spares_max = spares_max}, &tier), 0);
    return tier;
}

/* The size of a segment's file; 0: there is none. */
static uint64_t file_bytes(unsigned number)
{
    struct stat info;

    return stat(testing_path(0, number), &info) == 0 ? (uint64_t)info.st_size : 0;
}

/* A sealed segment of OLD blocks; returns its index. */
static uint32_t write_old(csc_tier *tier)
{
    for (uint64_t i = 0; i < OLD; i++)
        assert_int_equal(testing_write(tier, i, BYTES, 0, 1, &places[i]), 0);
    assert_int_equal(csc_segment_seal(tier), 0);
    return csc_segment_of(&places[0]);
}

/* The new segment's first block is as large as the old one's, so that an old record follows at once. */
static void only_the_new_records_are_found(void **state)
{
    (void)state;
    for (uint64_t count = 0; count <= OLD; count++) {
        csc_tier *tier;
        csc_place place;
        uint64_t old_bytes;

        tier = open_keeping(1);
        assert_int_equal(csc_segment_remove(tier, write_old(tier)), 0);
        old_bytes = file_bytes(0);
        assert_int_equal(testing_read(tier, &places[0], 0, BYTES, 0), CASCADE_MISS);
        assert_int_equal(csc_segment_count(tier), 0);
        assert_true(old_bytes > OLD * BYTES);
        assert_int_equal(csc_segment_spare_bytes(tier), old_bytes);
        assert_int_equal(testing_stats(tier).used_bytes, old_bytes);
        for (uint64_t i = 0; i < count; i++)
            assert_int_equal(testing_write(tier, 100 + i, BYTES, 0, 1, &place), 0);
        assert_int_equal(tier->ops->sync(tier), 0);
        assert_int_equal(csc_segment_recycled(tier), count > 0);
        assert_int_equal(csc_segment_spare_bytes(tier), count > 0 ? 0 : old_bytes);
        assert_true(testing_stats(tier).used_bytes == old_bytes);
        assert_int_equal(file_bytes(0), count > 0 ? 0 : old_bytes);
        assert_int_equal(file_bytes(1), count > 0 ? old_bytes : 0);
        tier->ops->close(&tier); /* as a crash would: without an index */
        tier = open_keeping(1);
        assert_int_equal(testing_seen.block_count, count);
        for (uint64_t i = 0; i < count; i++) {
            const testing_block *block = testing_find(100 + i, BYTES, 0);

            assert_non_null(block);
            assert_int_equal(testing_read(tier, &block->place, 100 + i, BYTES, 0), 0);
        }
        assert_int_equal(testing_stats(tier).quarantined, 0);
        tier->ops->close(&tier);
        testing_again();
    }
}

/* A write that fails cuts the file, so what it takes from then on is what there is; else a file budget
 * would take it to be full. */
static void a_failed_write_gives_the_rest_back(void **state)
{
    csc_tier *tier = open_keeping(1);
    csc_place place;

    (void)state;
    assert_int_equal(csc_segment_remove(tier, write_old(tier)), 0);
    assert_int_equal(testing_write(tier, 100, BYTES, 0, 1, &place), 0);
    testing_fault = (testing_faults){.at = 1, .err = ENOSPC, .only_growth = true};
    assert_int_equal(testing_write(tier, 101, BYTES, 0, 1, &place), CASCADE_ENOSPC);
    testing_fault = (testing_faults){0};
    assert_true(file_bytes(1) < 2 * (uint64_t)BYTES);
    assert_int_equal(testing_stats(tier).used_bytes, file_bytes(1));
    tier->ops->close(&tier);
}

/* Shorter and longer than the earlier use: a sealed segment ends where its index does. */
static void sealed_ones_end_at_their_index(void **state)
{
    (void)state;
    for (uint64_t count = 1; count <= 2 * OLD; count += OLD) {
        csc_tier *tier;
        csc_segment_info info;
        size_t infos = 1;
        csc_place place;

        tier = open_keeping(1);
        assert_int_equal(csc_segment_remove(tier, write_old(tier)), 0);
        for (uint64_t i = 0; i < count; i++)
            assert_int_equal(testing_write(tier, 100 + i, BYTES, 0, 1, &place), 0);
        assert_int_equal(csc_segment_seal(tier), 0);
        csc_segment_list(tier, &info, &infos);
        assert_int_equal(infos, 1);
        assert_true(info.sealed && info.ours);
        assert_int_equal(info.bytes, file_bytes(1));
        assert_int_equal(testing_stats(tier).used_bytes, file_bytes(1));
        tier->ops->close(&tier);
        tier = open_keeping(1);
        assert_int_equal(testing_seen.block_count, count);
        infos = 1;
        csc_segment_list(tier, &info, &infos);
        assert_true(info.sealed);
        /* It can be used once more. */
        assert_int_equal(csc_segment_remove(tier, info.segment), 0);
        assert_int_equal(testing_write(tier, 300, BYTES, 0, 1, &place), 0);
        assert_int_equal(csc_segment_recycled(tier), 1);
        assert_int_equal(csc_segment_seal(tier), 0);
        tier->ops->close(&tier);
        tier = open_keeping(0);
        assert_int_equal(testing_seen.block_count, 1);
        assert_int_equal(testing_stats(tier).quarantined, 0);
        tier->ops->close(&tier);
        testing_again();
    }
}

static void as_many_as_allowed_are_kept(void **state)
{
    (void)state;
    for (uint32_t spares_max = 0; spares_max < 4; spares_max++) {
        csc_tier *tier;
        csc_place place;

        tier = open_keeping(spares_max);
        for (uint32_t i = 0; i < 3; i++)
            write_old(tier);
        for (uint32_t i = 0; i < 3; i++)
            assert_int_equal(csc_segment_remove(tier, i), 0);
        assert_int_equal(testing_file_count(), spares_max < 3 ? spares_max : 3);
        /* One that was not sealed is never kept. */
        assert_int_equal(testing_write(tier, 100, BYTES, 0, 1, &place), 0);
        tier->ops->close(&tier);
        assert_int_equal(testing_file_count(), 1);
        tier = open_keeping(spares_max);
        assert_int_equal(csc_segment_remove(tier, 0), 0);
        assert_int_equal(testing_file_count(), 0);
        tier->ops->close(&tier);
        testing_again();
    }
}

/* A reader that knows the old segment, with its file open or not, gets right bytes or a miss. */
static void readers_of_the_old_segment_miss(void **state)
{
    csc_tier *tier;
    csc_tier *reader;
    csc_place place;

    (void)state;
    tier = open_keeping(1);
    write_old(tier);
    reader = open_keeping(0);
    for (uint64_t i = 0; i < OLD; i++)
        places[i] = testing_find(i, BYTES, 0)->place;
    assert_int_equal(testing_read(reader, &places[0], 0, BYTES, 0), 0);
    assert_int_equal(csc_segment_remove(tier, 0), 0);
    for (uint64_t i = 0; i < OLD; i++)
        assert_int_equal(testing_read(reader, &places[i], i, BYTES, 0), 0); /* still there */
    assert_int_equal(testing_write(tier, 100, BYTES + 4096, 0, 1, &place), 0);
    for (uint64_t i = 0; i < OLD; i++) {
        int rc = testing_read(reader, &places[i], i, BYTES, 0);

        assert_int_equal(rc, i < 2 ? CASCADE_MISS : 0);
    }
    assert_int_equal(csc_segment_seal(tier), 0);
    for (uint64_t i = 0; i < OLD; i++)
        assert_int_equal(testing_read(reader, &places[i], i, BYTES, 0), CASCADE_MISS);
    assert_int_equal(testing_stats(reader).quarantined, 0);
    reader->ops->close(&reader);
    tier->ops->close(&tier);
}

/* Somebody else took the spare away, or put something else there: a new file is made instead. */
static void spares_that_vanish(void **state)
{
    (void)state;
    for (int how = 0; how < 3; how++) {
        csc_tier *tier;
        csc_place place;

        tier = open_keeping(1);
        assert_int_equal(csc_segment_remove(tier, write_old(tier)), 0);
        if (how == 0)
            assert_int_equal(unlink(testing_path(0, 0)), 0);
        else if (how == 1)
            assert_int_equal(truncate(testing_path(0, 0), 0), 0);
        else
            testing_fault = (testing_faults){.at = 1, .err = EIO, .only_growth = true};
        assert_int_equal(testing_write(tier, 100, BYTES, 0, 1, &place), 0);
        assert_int_equal(csc_segment_recycled(tier), 0);
        assert_int_equal(csc_segment_spare_bytes(tier), 0);
        assert_int_equal(csc_segment_seal(tier), 0);
        assert_int_equal(testing_file_count(), how == 1 ? 2 : 1);
        tier->ops->close(&tier);
        tier = open_keeping(0);
        assert_int_equal(testing_seen.block_count, 1);
        assert_int_equal(testing_stats(tier).quarantined, 0);
        tier->ops->close(&tier);
        testing_again();
    }
}

/* ---- dying ---------------------------------------------------------------------------------------- */

static int marks_left;

static void die_at_the_last(const char *name)
{
    (void)name;
    if (--marks_left == 0)
        kill(getpid(), SIGKILL);
}

/* Two lives of one file; what is acknowledged goes through the pipe. */
static void live_and_die(int acknowledge)
{
    csc_tier *tier = open_keeping(1);
    csc_place place;

    write_old(tier);
    if (write(acknowledge, "o", 1) != 1)
        _exit(2);
    if (write(acknowledge, "r", 1) != 1 || csc_segment_remove(tier, 0) != 0)
        _exit(2);
    for (uint64_t i = 0; i < 3; i++)
        if (testing_write(tier, 100 + i, BYTES, 0, 1, &place) != 0)
            _exit(2);
    if (tier->ops->sync(tier) != 0 || write(acknowledge, "n", 1) != 1 || csc_segment_seal(tier) != 0)
        _exit(2);
    tier->ops->close(&tier);
    _exit(0);
}

/* Files that begin as a spare does. */
static size_t spares_left(void)
{
    struct dirent *entry;
    DIR *folder = opendir(testing_directory_used());
    size_t count = 0;

    assert_non_null(folder);
    while ((entry = readdir(folder))) {
        char magic[8] = "";
        int fd = openat(dirfd(folder), entry->d_name, O_RDONLY);

        if (read(fd, magic, sizeof magic) == sizeof magic)
            count += memcmp(magic, "CSCSPARE", sizeof magic) == 0;
        close(fd);
    }
    closedir(folder);
    return count;
}

/* What the next owner finds, and that it can go on. */
static void check_after_death(const char *acknowledged)
{
    csc_tier *tier = open_keeping(1);
    size_t found = 0;
    csc_place place;

    for (uint64_t i = 0; i < OLD; i++) {
        const testing_block *block = testing_find(i, BYTES, 0);

        if (strchr(acknowledged, 'o') && !strchr(acknowledged, 'r'))
            assert_non_null(block);
        if (!block)
            continue;
        found++;
        assert_false(strchr(acknowledged, 'n'));
        assert_int_equal(testing_read(tier, &block->place, i, BYTES, 0), 0);
    }
    for (uint64_t i = 100; i < 103; i++) {
        const testing_block *block = testing_find(i, BYTES, 0);

        if (strchr(acknowledged, 'n'))
            assert_non_null(block);
        if (!block)
            continue;
        found++;
        assert_int_equal(testing_read(tier, &block->place, i, BYTES, 0), 0);
    }
    assert_int_equal(testing_seen.block_count, found);
    assert_int_equal(spares_left(), 0); /* they would take space for ever */
    assert_int_equal(testing_stats(tier).quarantined, 0);
    assert_int_equal(testing_write(tier, 200, BYTES, 0, 1, &place), 0);
    assert_int_equal(csc_segment_seal(tier), 0);
    assert_int_equal(testing_read(tier, &place, 200, BYTES, 0), 0);
    tier->ops->close(&tier);
}

static void killed_at_each_mark(void **state)
{
    int status = -1;
    int last = 1;

    (void)state;
    for (; status != 0; last++) {
        char acknowledged[8] = {0};
        int ends[2];
        pid_t child;

        assert_int_equal(pipe(ends), 0);
        child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            marks_left = last;
            atomic_store(&csc_mark_hook_now, die_at_the_last);
            live_and_die(ends[1]);
        }
        close(ends[1]);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(status == 0 || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
        assert_true(read(ends[0], acknowledged, sizeof acknowledged - 1) >= 0);
        close(ends[0]);
        check_after_death(acknowledged);
        testing_again();
    }
    assert_true(last > 12);
}

/* ---- torn pages ----------------------------------------------------------------------------------- */

enum { SECTOR = 512, PAGE = 4096, SECTORS = PAGE / SECTOR };

static uint8_t first_pages[16][PAGE]; /* as they were written, in order */
static size_t first_page_count;

static ssize_t recording_pwritev(int fd, const struct iovec *vectors, int count, off_t offset)
{
    if (offset == 0 && first_page_count < 16)
        memcpy(first_pages[first_page_count++], vectors[0].iov_base, PAGE);
    return pwritev(fd, vectors, count, offset);
}

/* Any of the sectors of a page that was being overwritten may be the old one: it is a segment or a spare
 * all the same. */
static void torn_pages_are_never_damage(void **state)
{
    csc_io_calls calls = testing_calls;
    csc_tier *tier;
    csc_place place;

    (void)state;
    csc_io_destroy(&testing_io);
    calls.pwritev = recording_pwritev;
    assert_int_equal(csc_io_create(&calls, &testing_io), 0);
    first_page_count = 0;
    tier = open_keeping(1);
    assert_int_equal(csc_segment_remove(tier, write_old(tier)), 0);
    assert_int_equal(testing_write(tier, 100, BYTES, 0, 1, &place), 0);
    tier->ops->close(&tier);
    assert_int_equal(first_page_count, 4); /* header, spare, header but for a sector, header */
    for (size_t i = 1; i < first_page_count; i++)
        for (unsigned torn = 0; torn < 1u << SECTORS; torn++) {
            union {
                uint8_t bytes[PAGE];
                csc_segfmt_header header;
            } page;

            for (unsigned s = 0; s < SECTORS; s++)
                memcpy(page.bytes + s * SECTOR, first_pages[i - (torn >> s & 1)] + s * SECTOR, SECTOR);
            assert_true(
                csc_segfmt_is_spare(&page, 0, 0) ||
                (i == 1 && csc_segfmt_header_check(&page.header) == 0 && page.header.number == 0));
        }
}

/* ---- failing calls -------------------------------------------------------------------------------- */

static void each_failing_call(testing_faults fault)
{
    bool met = true;

    for (fault.at = 1; met; fault.at++) {
        csc_tier *tier;
        csc_place place;
        csc_place again;
        int removed;
        int written;
        int sealed;

        tier = open_keeping(1);
        write_old(tier);
        testing_fault = fault;
        removed = csc_segment_remove(tier, 0);
        written = testing_write(tier, 100, BYTES, 0, 1, &place);
        sealed = csc_segment_seal(tier);
        met = testing_fault.met;
        testing_fault = (testing_faults){0};
        if (!met) {
            assert_true(removed == 0 && written == 0 && sealed == 0);
            assert_int_equal(csc_segment_recycled(tier), 1);
        }
        if (written == 0) { /* what was not made durable is cut off the file, or all of it goes */
            int read = testing_read(tier, &place, 100, BYTES, 0);

            assert_true(read == 0 || (sealed && read == CASCADE_MISS));
        }
        assert_int_equal(testing_write(tier, 101, BYTES, 0, 1, &again), 0);
        assert_int_equal(csc_segment_seal(tier), 0);
        tier->ops->close(&tier);
        tier = open_keeping(1);
        if (written == 0 && sealed == 0)
            assert_non_null(testing_find(100, BYTES, 0));
        assert_non_null(testing_find(101, BYTES, 0));
        if (removed == 0)
            assert_null(testing_find(0, BYTES, 0));
        for (size_t i = 0; i < testing_seen.block_count; i++)
            for (uint64_t seed = 0; seed < 102; seed = seed == OLD ? 100 : seed + 1)
                if (testing_find(seed, BYTES, 0) == &testing_seen.blocks[i])
                    assert_int_equal(testing_read(tier, &testing_seen.blocks[i].place, seed, BYTES, 0),
                                     0);
        assert_int_equal(testing_stats(tier).quarantined, 0);
        tier->ops->close(&tier);
        testing_again();
    }
    assert_true(fault.at > 5);
}

static void failing_calls(void **state)
{
    (void)state;
    each_failing_call((testing_faults){.err = EIO});
    each_failing_call((testing_faults){.err = ENOSPC});
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, testing_setup, testing_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(only_the_new_records_are_found),
        CASE(a_failed_write_gives_the_rest_back),
        CASE(sealed_ones_end_at_their_index),
        CASE(as_many_as_allowed_are_kept),
        CASE(readers_of_the_old_segment_miss),
        CASE(spares_that_vanish),
        CASE(killed_at_each_mark),
        CASE(torn_pages_are_never_damage),
        CASE(failing_calls),
    };

    setenv("CASCADE_LOG", "none", 0); /* the errors are meant */
    return cmocka_run_group_tests_name("segment_recycle", tests, NULL, NULL);
}
