/* SPDX-License-Identifier: MIT */
/* What other handles do to the directory while this one is open: records are seen once each, and what is
 * gone is gone. */
#include "segment/segment_internal.h"
#include "segment/segment_testing.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define KEY "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n"

enum { BYTES = 50000, OTHER = 7 };

static csc_tier *reader, *writer;

static csc_tier *open_as(uint32_t rank, uint32_t spares_max)
{
    csc_tier *tier = NULL;

    assert_int_equal(testing_open((csc_segment_options){.rank = rank, .spares_max = spares_max}, &tier),
                     0);
    return tier;
}

static int setup(void **state)
{
    int rc = testing_setup(state);

    reader = open_as(0, 0);
    writer = open_as(OTHER, 1);
    return rc;
}

static int teardown(void **state)
{
    if (writer)
        writer->ops->close(&writer);
    if (reader)
        reader->ops->close(&reader);
    return testing_teardown(state);
}

static csc_place write_one(csc_tier *tier, uint64_t seed)
{
    csc_place place;

    assert_int_equal(testing_write(tier, seed, BYTES, 0, 2, &place), 0);
    assert_int_equal(tier->ops->sync(tier), 0);
    return place;
}

/* One refresh sees these blocks, from..to-1, and nothing else, and can read them. */
static void sees(uint64_t from, uint64_t to)
{
    assert_int_equal(testing_refresh(reader), 0);
    assert_int_equal(testing_seen.block_count, to - from);
    for (uint64_t seed = from; seed < to; seed++) {
        const testing_block *block = testing_find(seed, BYTES, 0);

        assert_non_null(block);
        assert_int_equal(block->binding_count, 2);
        assert_int_equal(testing_read(reader, &block->place, seed, BYTES, 0), 0);
    }
}

static void path_of(uint32_t rank, unsigned number, char path[400])
{
    snprintf(path, 400, "%s/agg_rank%03u_%06u.bin", testing_directory_used(), rank, number);
}

static void put_file(const char *path, const void *data, size_t bytes)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, bytes), (ssize_t)bytes);
    close(fd);
}

static void records_are_seen_as_they_come(void **state)
{
    csc_log_entry entry = {.is_delete = true, .binding = testing_binding(99, 0)};
    uint32_t segment;

    (void)state;
    sees(0, 0);
    write_one(writer, 1);
    sees(1, 2);
    assert_int_equal(testing_seen.sealed_count, 0);
    segment = testing_seen.blocks[0].segment;
    sees(0, 0);
    write_one(writer, 2);
    write_one(writer, 3);
    sees(2, 4);
    assert_int_equal(testing_seen.blocks[0].segment, segment);
    assert_int_equal(csc_segment_standing(reader, segment), 0);
    assert_int_equal(csc_segment_log(writer, &entry, 1, &segment), 0);
    sees(0, 0);
    assert_int_equal(testing_seen.log_count, 1);
}

static void an_index_tells_only_what_is_new(void **state)
{
    uint32_t segment;

    (void)state;
    write_one(writer, 1);
    write_one(writer, 2);
    sees(1, 3);
    segment = testing_seen.blocks[0].segment;
    write_one(writer, 3);
    assert_int_equal(csc_segment_seal(writer), 0);
    sees(3, 4);
    assert_int_equal(testing_seen.sealed_count, 1);
    assert_int_equal(csc_segment_standing(reader, segment), CSC_SEGMENT_IS_SEALED);
    sees(0, 0);
    /* And one that was never seen unsealed. */
    write_one(writer, 4);
    write_one(writer, 5);
    assert_int_equal(csc_segment_seal(writer), 0);
    sees(4, 6);
    assert_int_equal(testing_seen.sealed_count, 2);
    /* An open tells which is which, too: a segment without an index behind two that have one. */
    write_one(writer, 6);
    reader->ops->close(&reader);
    reader = open_as(0, 0);
    assert_int_equal(testing_seen.block_count, 6);
    assert_int_equal(testing_seen.sealed_count, 5);
}

/* What this handle writes is not news to it, also while the table does not know the file: when it was
 * just made, or is about to go. */
static void its_own_are_left_out(void **state)
{
    csc_segment_tier *t = csc_segment_tier_of(reader);
    csc_tier *kept = writer;

    (void)state;
    write_one(reader, 1);
    sees(0, 0);
    assert_int_equal(csc_segment_seal(reader), 0);
    write_one(reader, 2);
    sees(0, 0);
    assert_int_equal(csc_segment_count(reader), 2);
    csc_segment_set_removed(t, t->items[0]);
    sees(0, 0);
    assert_int_equal(csc_segment_count(reader), 1);
    /* The other one sees them all. */
    writer = reader;
    reader = kept;
    sees(1, 3);
    reader = writer;
    writer = kept;
}

/* A refresh at rest looks at the directory and at what may have grown, at no file twice. */
static void costs_little(void **state)
{
    cascade_metadata_ops before, after;

    (void)state;
    for (uint64_t seed = 1; seed < 9; seed++) {
        write_one(writer, seed);
        assert_int_equal(csc_segment_seal(writer), 0);
    }
    sees(1, 9);
    csc_io_counts(testing_io, &before);
    for (int i = 0; i < 10; i++)
        sees(0, 0);
    csc_io_counts(testing_io, &after);
    assert_int_equal(after.readdir - before.readdir, 10);
    assert_int_equal(after.open - before.open, 10);
    assert_int_equal(after.stat - before.stat, 0);
}

static void what_is_removed_is_a_miss(void **state)
{
    csc_place here, there;

    (void)state;
    there = write_one(writer, 1);
    assert_int_equal(csc_segment_seal(writer), 0);
    write_one(writer, 2);
    sees(1, 3);
    here = testing_find(1, BYTES, 0)->place;
    /* Its file is kept as a spare, and goes when the writer closes. */
    assert_int_equal(csc_segment_remove(writer, csc_segment_of(&there)), 0);
    writer->ops->close(&writer);
    sees(0, 0);
    assert_int_equal(testing_seen.gone_count, 1);
    assert_int_equal(testing_seen.gone[0], csc_segment_of(&here));
    assert_int_equal(testing_read(reader, &here, 1, BYTES, 0), CASCADE_MISS);
    assert_int_equal(csc_segment_standing(reader, csc_segment_of(&here)), CSC_SEGMENT_IS_GONE);
    sees(0, 0);
    assert_int_equal(testing_seen.gone_count, 0);
}

/* Its name is still there, but the file is a spare, or has become another segment under another name. */
static void spares_are_gone(void **state)
{
    csc_place here, there;
    size_t gone = 0;

    (void)state;
    there = write_one(writer, 1);
    assert_int_equal(csc_segment_seal(writer), 0);
    sees(1, 2);
    here = testing_find(1, BYTES, 0)->place;
    assert_int_equal(csc_segment_remove(writer, csc_segment_of(&there)), 0);
    assert_true(csc_segment_spare_bytes(writer) > 0);
    sees(0, 0); /* one segment is known, so it is its turn */
    assert_int_equal(testing_seen.gone_count, 1);
    sees(0, 0);
    assert_int_equal(testing_seen.gone_count, 0);
    write_one(writer, 2);
    assert_int_equal(csc_segment_recycled(writer), 1);
    sees(2, 3);
    /* Removed and used again between two refreshes. */
    there = testing_seen.blocks[0].place;
    here = there;
    assert_int_equal(csc_segment_seal(writer), 0);
    sees(0, 0);
    assert_int_equal(csc_segment_remove(writer, 1), 0);
    write_one(writer, 3);
    assert_int_equal(csc_segment_recycled(writer), 2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(testing_refresh(reader), 0);
        gone += testing_seen.gone_count;
    }
    assert_int_equal(gone, 1);
    assert_int_equal(testing_read(reader, &here, 2, BYTES, 0), CASCADE_MISS);
}

/* The highest number may be given twice: once the first file of that name is gone. */
static void a_name_that_means_another_file(void **state)
{
    csc_place old;

    (void)state;
    old = write_one(writer, 1);
    assert_int_equal(csc_segment_seal(writer), 0);
    sees(1, 2);
    assert_int_equal(csc_segment_remove(writer, csc_segment_of(&old)), 0);
    old = testing_seen.blocks[0].place;
    writer->ops->close(&writer);
    writer = open_as(OTHER, 0);
    write_one(writer, 2);
    assert_int_equal(testing_file_count(), 1);
    sees(2, 3);
    assert_int_equal(testing_seen.gone_count, 1);
    assert_int_equal(testing_read(reader, &old, 1, BYTES, 0), CASCADE_MISS);
}

/* A header that is whole, with a payload that is not there yet. */
static void a_record_is_visited_again_if_asked(void **state)
{
    (void)state;
    write_one(writer, 1);
    write_one(writer, 2);
    write_one(writer, 3);
    sees(1, 4);
    csc_segment_reread(reader, &testing_find(2, BYTES, 0)->place);
    sees(2, 4);
    sees(0, 0);
    /* Also if the segment was sealed in between. */
    csc_segment_reread(reader, &(csc_place){.words = {0, 4096}});
    assert_int_equal(csc_segment_seal(writer), 0);
    sees(1, 4);
    assert_int_equal(testing_seen.sealed_count, 3);
    csc_segment_reread(reader, &testing_seen.blocks[0].place);
    sees(0, 0);
}

/* A header that only came in part ends the scan, and goes on from there once it is whole. */
static void half_a_header_is_waited_for(void **state)
{
    char path[400], copy[4096], zeros[4096] = {0};
    csc_place place;
    int fd;

    (void)state;
    write_one(writer, 1);
    place = write_one(writer, 2);
    path_of(OTHER, 0, path);
    fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, copy, sizeof copy, (off_t)csc_segment_offset_of(&place)), 4096);
    assert_int_equal(pwrite(fd, zeros, 512, (off_t)csc_segment_offset_of(&place)), 512);
    sees(1, 2);
    sees(0, 0);
    assert_int_equal(pwrite(fd, copy, 512, (off_t)csc_segment_offset_of(&place)), 512);
    close(fd);
    sees(2, 3);
}

static uint64_t quarantined(void)
{
    cascade_tier_stats stats;

    reader->ops->stats(reader, &stats);
    return stats.quarantined;
}

/* Files that are no segments are told of once, looked at for a while, since they may be about to become
 * one, and then left alone. */
static void files_that_are_no_segments(void **state)
{
    static uint8_t junk[8192] = "no segment";
    char path[400];
    cascade_metadata_ops before, after;

    (void)state;
    path_of(OTHER, 0, path);
    put_file(path, junk, 0);
    sees(0, 0);
    assert_int_equal(quarantined(), 0);
    put_file(path, junk, sizeof junk);
    sees(0, 0);
    assert_int_equal(quarantined(), 1);
    for (int i = 0; i < 4; i++)
        sees(0, 0);
    assert_int_equal(quarantined(), 1);
    csc_io_counts(testing_io, &before);
    sees(0, 0);
    csc_io_counts(testing_io, &after);
    assert_int_equal(after.open, before.open);
    assert_int_equal(unlink(path), 0);
    sees(0, 0);
    /* It is forgotten with its file: another one of that name is told of again. */
    put_file(path, junk, sizeof junk);
    sees(0, 0);
    assert_int_equal(quarantined(), 2);
    /* Or a segment gets its name, before anybody saw it gone. */
    for (int i = 0; i < 4; i++)
        sees(0, 0);
    assert_int_equal(unlink(path), 0);
    write_one(writer, 1);
    sees(1, 2);
}

/* Of one rank, on two nodes: what the other makes is not ours to empty, nor what we took to be a dead
 * one's until we saw it grow. */
static void two_nodes_of_one_rank(void **state)
{
    csc_segment_info infos[4];
    size_t count = 4;

    (void)state;
    reader->ops->close(&reader);
    writer->ops->close(&writer);
    writer = open_as(0, 0);
    write_one(writer, 1);
    reader = open_as(0, 0);
    csc_segment_list(reader, infos, &count);
    assert_int_equal(count, 1);
    assert_true(infos[0].ours);
    sees(0, 0);
    assert_int_equal(csc_segment_standing(reader, 0), CSC_SEGMENT_IS_OURS);
    write_one(writer, 2);
    sees(2, 3);
    assert_int_equal(csc_segment_standing(reader, 0), 0);
    assert_int_equal(csc_segment_seal(writer), 0);
    write_one(writer, 3);
    sees(3, 4);
    count = 4;
    csc_segment_list(reader, infos, &count);
    assert_int_equal(count, 2);
    assert_false(infos[0].ours || infos[1].ours);
    assert_true(infos[0].sealed);
}

/* An empty directory in the place of a disk that was taken away says nothing about the segments. */
static void a_directory_that_is_gone(void **state)
{
    char away[300], path[400];
    const testing_block *block;

    (void)state;
    write_one(writer, 1);
    sees(1, 2);
    block = testing_find(1, BYTES, 0);
    snprintf(away, sizeof away, "%s.away", testing_directory_used());
    assert_int_equal(rename(testing_directory_used(), away), 0);
    assert_int_equal(testing_refresh(reader), CASCADE_EIO);
    assert_int_equal(mkdir(testing_directory_used(), 0700), 0);
    assert_int_equal(testing_refresh(reader), CASCADE_EIO);
    assert_int_equal(testing_seen.gone_count, 0);
    assert_int_equal(rmdir(testing_directory_used()), 0);
    assert_int_equal(rename(away, testing_directory_used()), 0);
    sees(0, 0);
    assert_int_equal(testing_read(reader, &block->place, 1, BYTES, 0), 0);
    path_of(OTHER, 0, path);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(testing_refresh(reader), 0);
    assert_int_equal(testing_seen.gone_count, 1);
}

static bool move_soon;
static csc_place moving;

/* Makes a copy in another segment and removes the one that holds it. */
static void move_one(void)
{
    move_soon = false;
    assert_int_equal(testing_write(writer, 1, BYTES, 0, 2, &(csc_place){0}), 0);
    assert_int_equal(writer->ops->sync(writer), 0);
    assert_int_equal(csc_segment_remove(writer, csc_segment_of(&moving)), 0);
}

/* In place of the C library's: a listing that begins before the move and gets to the old name after. */
struct dirent *readdir(DIR *directory)
{
    static DIR *blind;
    struct dirent *(*real)(DIR * directory), *entry;

    *(void **)&real = dlsym(RTLD_NEXT, "readdir");
    entry = real(directory); /* the system gives many names at once */
    if (move_soon) {
        move_one();
        blind = directory;
    }
    while (entry && directory == blind && strcmp(entry->d_name, "agg_rank007_000000.bin") == 0)
        entry = real(directory);
    if (!entry)
        blind = NULL;
    return entry;
}

/* A listing in which neither the segment that went nor the one with its copies is. */
static void what_moves_behind_its_back_is_found(void **state)
{
    (void)state;
    writer->ops->close(&writer);
    writer = open_as(OTHER, 0);
    moving = write_one(writer, 1);
    assert_int_equal(csc_segment_seal(writer), 0);
    sees(1, 2);
    move_soon = true;
    sees(1, 2);
    assert_false(move_soon);
    assert_int_equal(testing_seen.gone_count, 1);
    assert_int_equal(csc_segment_count(reader), 1);
    sees(0, 0);
}

/* Whether a delete of a key that nobody here knows may be of use. */
static bool may_hide_another(void)
{
    csc_binding other = testing_binding(50, 0);
    csc_binding known = testing_binding(1, 0);

    known.sequence++;
    assert_true(csc_segment_may_hide(reader, UINT32_MAX, &known));
    return csc_segment_may_hide(reader, UINT32_MAX, &other);
}

/* Its binds may be older than a delete here, and others read them. */
static void what_only_others_can_read(void **state)
{
    csc_keyring *ring = NULL;
    csc_tier *secret = NULL;
    char path[400];

    (void)state;
    assert_int_equal(csc_keyring_parse(KEY, strlen(KEY), &ring), 0);
    assert_int_equal(testing_open((csc_segment_options){.rank = 8, .keyring = ring}, &secret), 0);
    write_one(writer, 1);
    sees(1, 2);
    assert_false(may_hide_another());
    write_one(secret, 2);
    sees(0, 0);
    assert_int_equal(quarantined(), 0);
    assert_true(may_hide_another());
    reader->ops->close(&reader);
    reader = open_as(0, 0);
    assert_true(may_hide_another());
    secret->ops->close(&secret);
    path_of(8, 0, path);
    assert_int_equal(unlink(path), 0);
    sees(0, 0);
    assert_false(may_hide_another());
    csc_keyring_destroy(&ring);
}

/* Each call in turn: what one refresh could not read it says, and the next one reads. */
static void calls_that_fail(void **state)
{
    bool met = true;

    (void)state;
    for (int at = 1; met; at++) {
        uint64_t from = (uint64_t)at * 10;
        csc_tier *third = open_as(9, 0);
        size_t seen;
        int rc;

        write_one(writer, from);
        write_one(third, from + 1);
        assert_int_equal(csc_segment_seal(third), 0);
        testing_fault = (testing_faults){.at = at, .err = EIO};
        rc = testing_refresh(reader);
        met = testing_fault.met;
        testing_fault = (testing_faults){0};
        assert_true(rc == 0 || (met && rc == CASCADE_EIO));
        seen = testing_seen.block_count;
        assert_true(rc == CASCADE_EIO || seen == 2);
        assert_int_equal(testing_seen.gone_count, 0);
        assert_int_equal(testing_refresh(reader), 0);
        assert_int_equal(seen + testing_seen.block_count, 2);
        third->ops->close(&third);
    }
}

static void one_that_cannot_be_read_hides_no_other(void **state)
{
    char path[400];

    (void)state;
    path_of(3, 0, path);
    assert_int_equal(symlink(path, path), 0);
    for (uint64_t seed = 1; seed < 3; seed++) {
        write_one(writer, seed);
        assert_int_equal(testing_refresh(reader), CASCADE_EIO);
        assert_int_equal(testing_seen.block_count, 1);
    }
    assert_int_equal(unlink(path), 0);
    sees(0, 0);
}

static int refuse(void *context, const csc_segment_source *source, const csc_content *content,
                  uint64_t written_ns, const csc_binding *bindings, size_t binding_count,
                  const csc_place *place)
{
    int *left = context;

    (void)source, (void)content, (void)written_ns, (void)bindings, (void)binding_count, (void)place;
    return (*left)-- > 0 ? 0 : CASCADE_ENOSPC;
}

static int pass_log(void *context, const csc_segment_source *source, const csc_log_entry *entry)
{
    (void)context, (void)source, (void)entry;
    return 0;
}

/* What a visitor could not take is visited again. */
static void a_refresh_that_fails_is_gone_on_with(void **state)
{
    int left = 1;
    const csc_segment_visitor visitor = {.context = &left, .block = refuse, .log = pass_log};

    (void)state;
    for (uint64_t seed = 1; seed < 4; seed++)
        write_one(writer, seed);
    assert_int_equal(csc_segment_refresh(reader, &visitor), CASCADE_ENOSPC);
    sees(2, 4); /* by headers it goes on where it was */
    for (uint64_t seed = 4; seed < 7; seed++)
        write_one(writer, seed);
    assert_int_equal(csc_segment_seal(writer), 0);
    left = 1;
    assert_int_equal(csc_segment_refresh(reader, &visitor), CASCADE_ENOSPC);
    sees(4, 7); /* by an index it begins again */
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(records_are_seen_as_they_come),
        CASE(an_index_tells_only_what_is_new),
        CASE(its_own_are_left_out),
        CASE(costs_little),
        CASE(what_is_removed_is_a_miss),
        CASE(spares_are_gone),
        CASE(a_name_that_means_another_file),
        CASE(a_record_is_visited_again_if_asked),
        CASE(half_a_header_is_waited_for),
        CASE(files_that_are_no_segments),
        CASE(two_nodes_of_one_rank),
        CASE(a_directory_that_is_gone),
        CASE(what_moves_behind_its_back_is_found),
        CASE(what_only_others_can_read),
        CASE(calls_that_fail),
        CASE(one_that_cannot_be_read_hides_no_other),
        CASE(a_refresh_that_fails_is_gone_on_with),
    };

    return cmocka_run_group_tests_name("segment, refreshed", tests, NULL, NULL);
}
