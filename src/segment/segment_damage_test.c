/* SPDX-License-Identifier: MIT */
/*
 * Damaged files: cut short at every page, bits flipped all over, foreign and odd files. An open may find
 * less, but what it finds is read rightly or named damaged, and what lies before the damage is found.
 */
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

#define PAGE ((uint64_t)4096)

/* The small segment: blocks of these sizes, and a log record behind the third. */
enum { BLOCKS = 6, RECORDS = BLOCKS + 1, LOG_AT = 3 };
static const size_t sizes[BLOCKS][2] = {{3000, 2000}, {1, 0},    {9000, 0},
                                        {4096, 4096}, {0, 5000}, {100, 100}};
static uint64_t record_at[RECORDS + 1]; /* and where the last one ends */
static uint8_t *image;
static uint64_t image_bytes;
static char image_path[300];
static csc_segment_options buffered = {.buffered = true};

static void put_image(uint64_t bytes)
{
    /* Not O_TRUNC: file systems write a file out at once when it is truncated and written anew. */
    int fd = open(image_path, O_RDWR | O_CREAT, 0600);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, image, bytes, 0), bytes);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    close(fd);
}

/* Makes the image of the small segment, sealed or not. */
static void make_image(bool sealed)
{
    csc_log_entry entry = {.is_delete = true, .binding = testing_binding(900, 0)};
    csc_tier *tier = NULL;
    csc_place place;
    uint32_t segment;
    struct stat info;
    size_t record = 0;
    int fd;

    assert_int_equal(testing_open(buffered, &tier), 0);
    record_at[0] = PAGE;
    for (uint64_t i = 0; i < BLOCKS; i++) {
        if (i == LOG_AT) {
            assert_int_equal(csc_segment_log(tier, &entry, 1, &segment), 0);
            record_at[record + 1] = record_at[record] + PAGE;
            record++;
        }
        assert_int_equal(testing_write(tier, i, sizes[i][0], sizes[i][1], i % 3, &place), 0);
        record_at[record + 1] = record_at[record] + PAGE + csc_segfmt_round(sizes[i][0] + sizes[i][1]);
        record++;
    }
    if (sealed)
        assert_int_equal(csc_segment_seal(tier), 0);
    tier->ops->close(&tier);
    snprintf(image_path, sizeof image_path, "%s/agg_rank000_000000.bin", testing_directory_used());
    fd = open(image_path, O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &info), 0);
    image_bytes = (uint64_t)info.st_size;
    image = malloc(image_bytes);
    assert_int_equal(read(fd, image, image_bytes), image_bytes);
    close(fd);
}

static int teardown(void **state)
{
    free(image);
    image = NULL;
    return testing_teardown(state);
}

static size_t record_of(size_t block)
{
    return block < LOG_AT ? block : block + 1;
}

/* Opens what is there. The first `intact` records must be found; those found must be right, or, if the
 * damage at byte `damaged` lies in them, named so. Returns how many were found. */
static size_t check_open(size_t intact, uint64_t damaged)
{
    csc_tier *tier = NULL;
    size_t found = 0;

    assert_int_equal(testing_open(buffered, &tier), 0);
    for (size_t i = 0; i < BLOCKS; i++) {
        const testing_block *block = testing_find(i, sizes[i][0], sizes[i][1]);
        size_t record = record_of(i);
        int rc;

        if (!block) {
            assert_true(record >= intact);
            continue;
        }
        found++;
        rc = testing_read(tier, &block->place, i, sizes[i][0], sizes[i][1]);
        if (rc != 0) {
            assert_int_equal(rc, CASCADE_ECORRUPT);
            assert_true(damaged >= record_at[record] && damaged < record_at[record + 1]);
        }
    }
    assert_true(testing_seen.log_count == 1 || LOG_AT >= intact);
    assert_true(testing_seen.log_count <= 1);
    assert_int_equal(testing_seen.block_count, found);
    tier->ops->close(&tier);
    return found;
}

static void cut_short(void **state)
{
    for (int sealed = 0; sealed < 2; sealed++) {
        make_image(sealed);
        for (uint64_t bytes = 0; bytes <= image_bytes; bytes += PAGE)
            for (int around = -1; around <= 1; around++) {
                uint64_t length = bytes + (uint64_t)around;
                size_t intact = 0;

                if (length > image_bytes)
                    continue;
                while (intact < RECORDS && record_at[intact + 1] <= length)
                    intact++;
                put_image(length);
                size_t found = check_open(intact, UINT64_MAX);
                /* Nothing is believed to be there that the file has no room for. */
                assert_int_equal(found, intact > LOG_AT ? intact - 1 : intact);
            }
        assert_int_equal(unlink(image_path), 0);
        free(image);
        image = NULL;
    }
    (void)state;
}

/* How many records must be found with a flipped bit at `at`. */
static size_t intact_with_flip(uint64_t at, bool sealed)
{
    if (at < PAGE)
        return 0;
    for (size_t i = 0; i < RECORDS && !sealed; i++)
        if (at >= record_at[i] && at < record_at[i] + PAGE)
            return i;
    return RECORDS;
}

static void flips(bool sealed)
{
    uint64_t corrupt = 0;

    make_image(sealed);
    for (uint64_t at = 0; at < image_bytes; at += at % PAGE < 160 ? 3 : 37) {
        csc_tier *tier = NULL;
        cascade_tier_stats stats;

        image[at] ^= (uint8_t)(1u << at % 8);
        put_image(image_bytes);
        check_open(intact_with_flip(at, sealed), at);
        if (at < PAGE) {
            assert_int_equal(testing_open(buffered, &tier), 0);
            tier->ops->stats(tier, &stats);
            assert_int_equal(stats.quarantined, 1);
            tier->ops->close(&tier);
            corrupt++;
        }
        image[at] ^= (uint8_t)(1u << at % 8);
    }
    assert_true(corrupt > 0);
    put_image(image_bytes);
    assert_int_equal(check_open(RECORDS, UINT64_MAX), BLOCKS);
}

static void flips_unsealed(void **state)
{
    (void)state;
    flips(false);
}

static void flips_sealed(void **state)
{
    (void)state;
    flips(true);
}

/* A payload flip is noticed at the read, whatever part of it is asked for. */
static void flipped_payload_is_never_returned(void **state)
{
    uint64_t at = record_at[0];
    csc_tier *tier = NULL;
    const testing_block *block;
    uint8_t byte;
    cascade_piece piece = {&byte, 1};

    (void)state;
    make_image(true);
    at = record_at[0] + PAGE + 4999;
    image[at] ^= 1;
    put_image(image_bytes);
    assert_int_equal(testing_open(buffered, &tier), 0);
    block = testing_find(0, 3000, 2000);
    assert_non_null(block);
    assert_int_equal(testing_read(tier, &block->place, 0, 3000, 2000), CASCADE_ECORRUPT);
    assert_int_equal(csc_tier_read_one(tier, &block->place, &block->content, 0, &piece, 1),
                     CASCADE_ECORRUPT);
    tier->ops->close(&tier);
}

/* Records copied to another place or into another segment are not believed. */
static void copied_records_are_not_believed(void **state)
{
    (void)state;
    make_image(false);
    memmove(image + record_at[1], image + record_at[0], PAGE);
    put_image(image_bytes);
    assert_int_equal(check_open(1, UINT64_MAX), 1);
    /* The header of a later segment over the records of an earlier one. */
    ((csc_segfmt_header *)(void *)image)->generation++;
    csc_segfmt_header_seal((void *)image);
    put_image(image_bytes);
    assert_int_equal(check_open(0, UINT64_MAX), 0);
}

static void absurd_lengths_are_refused(void **state)
{
    static const uint64_t lengths[] = {UINT64_C(1) << 63, UINT64_MAX, UINT64_MAX - 4095,
                                       UINT64_C(1) << 40, 1000000};

    (void)state;
    make_image(false);
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        csc_segfmt_record *record = (void *)(image + record_at[1]);
        csc_segfmt_record kept = *record;

        record->k_bytes = lengths[i];
        csc_segfmt_record_seal(record);
        put_image(image_bytes);
        assert_int_equal(check_open(1, UINT64_MAX), 1);
        *record = kept;
    }
}

/* A file of 1 TiB, nearly all of it a hole, whose last page is a trailer with good sums: what it says of
 * its index is believed only as far as there is one. The records before the hole are found. */
static void forge_trailer(uint64_t index_offset)
{
    const uint64_t bytes = UINT64_C(1) << 40;
    csc_segfmt_trailer *trailer = (void *)(image + image_bytes - PAGE);
    int fd = open(image_path, O_RDWR);

    trailer->index_offset = index_offset;
    trailer->index_count = (bytes - PAGE - index_offset) / sizeof(csc_segfmt_index_entry);
    trailer->checksum = csc_checksum(
        &trailer->generation, PAGE - offsetof(csc_segfmt_trailer, generation), trailer->generation);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)record_at[RECORDS]), 0);
    if (pwrite(fd, trailer, PAGE, (off_t)(bytes - PAGE)) != (ssize_t)PAGE)
        skip(); /* a file system without such files */
    close(fd);
}

static void an_index_in_a_hole_is_not_read(void **state)
{
    static const uint64_t offsets[] = {PAGE, UINT64_C(1) << 32, UINT64_C(1) << 39};

    (void)state;
    make_image(true);
    for (size_t i = 0; i < sizeof offsets / sizeof offsets[0]; i++) {
        csc_tier *tier = NULL;

        forge_trailer(offsets[i]);
        assert_int_equal(check_open(RECORDS, UINT64_MAX), BLOCKS);
        assert_int_equal(testing_open(buffered, &tier), 0);
        assert_int_equal(testing_seen.sealed_count, 0);
        assert_true(testing_stats(tier).read_bytes < 8 << 20);
        tier->ops->close(&tier);
    }
    assert_int_equal(unlink(image_path), 0);
}

static void odd_files_are_skipped(void **state)
{
    csc_tier *tier = NULL;
    cascade_tier_stats stats;
    char path[400];
    csc_place place;
    FILE *file;

    (void)state;
    make_image(true);
    const char *directory = testing_directory_used();
    /* A copy under another name, an empty file, text, a folder, a pipe, and names that do not match. */
    snprintf(path, sizeof path, "%s/agg_rank000_000007.bin", directory);
    assert_int_equal(link(image_path, path), 0);
    snprintf(path, sizeof path, "%s/agg_rank000_000001.bin", directory);
    file = fopen(path, "w");
    fclose(file);
    snprintf(path, sizeof path, "%s/agg_rank001_4294967295.bin", directory);
    file = fopen(path, "w");
    for (int i = 0; i < 1000; i++)
        fputs("not a segment at all\n", file);
    fclose(file);
    snprintf(path, sizeof path, "%s/agg_rank000_000003.bin", directory);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/agg_rank000_000004.bin", directory);
    assert_int_equal(mkfifo(path, 0600), 0);
    snprintf(path, sizeof path, "%s/agg_rank000_5.bin", directory);
    assert_int_equal(link(image_path, path), 0);
    for (int direct = 0; direct < 2; direct++) {
        assert_int_equal(testing_open((csc_segment_options){.buffered = !direct}, &tier), 0);
        assert_int_equal(testing_seen.block_count, BLOCKS);
        tier->ops->stats(tier, &stats);
        assert_int_equal(stats.quarantined, 4); /* a writer killed at once leaves an empty file */
        /* A new segment goes around their names. */
        assert_int_equal(testing_write(tier, 50 + (uint64_t)direct, 1000, 0, 0, &place), 0);
        assert_int_equal(testing_read(tier, &place, 50 + (uint64_t)direct, 1000, 0), 0);
        assert_int_equal(csc_segment_seal(tier), 0);
        assert_int_equal(csc_segment_remove(tier, csc_segment_of(&place)), 0);
        tier->ops->close(&tier);
    }
}

static void directories_that_cannot_be_read(void **state)
{
    csc_tier *tier = NULL;
    csc_segment_visitor visitor = {0};
    csc_segment_options options = {.io = testing_io, .directory = "/nonexistent/folder"};
    int rc;

    (void)state;
    assert_int_equal(csc_segment_open(&options, &visitor, &tier), CASCADE_ENOSTORE);
    options.directory = testing_directory_used();
    options.rank = 1000;
    assert_int_equal(csc_segment_open(&options, &visitor, &tier), CASCADE_EINVAL);
    options.rank = 0;
    assert_int_equal(chmod(testing_directory_used(), 0), 0);
    if (getuid() == 0)
        assert_int_equal(seteuid(65534), 0); /* root may read everything */
    rc = csc_segment_open(&options, &visitor, &tier);
    if (getuid() == 0)
        assert_int_equal(seteuid(0), 0);
    assert_int_equal(chmod(testing_directory_used(), 0700), 0);
    assert_int_equal(rc, CASCADE_EACCES);
    assert_null(tier);
}

/* A file that shrinks while it is open. */
static void shrinking_file(void **state)
{
    csc_tier *tier = NULL;
    const testing_block *block;

    (void)state;
    make_image(true);
    assert_int_equal(testing_open(buffered, &tier), 0);
    assert_int_equal(truncate(image_path, (off_t)record_at[2]), 0);
    block = testing_find(5, sizes[5][0], sizes[5][1]);
    assert_non_null(block);
    assert_int_equal(testing_read(tier, &block->place, 5, sizes[5][0], sizes[5][1]), CASCADE_ECORRUPT);
    block = testing_find(0, sizes[0][0], sizes[0][1]);
    assert_int_equal(testing_read(tier, &block->place, 0, sizes[0][0], sizes[0][1]), 0);
    tier->ops->close(&tier);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, testing_setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(cut_short),
        CASE(flips_unsealed),
        CASE(flips_sealed),
        CASE(flipped_payload_is_never_returned),
        CASE(copied_records_are_not_believed),
        CASE(absurd_lengths_are_refused),
        CASE(an_index_in_a_hole_is_not_read),
        CASE(odd_files_are_skipped),
        CASE(directories_that_cannot_be_read),
        CASE(shrinking_file),
    };

    setenv("CASCADE_LOG", "none", 0); /* thousands of warnings that are meant */
    return cmocka_run_group_tests_name("segment_damage", tests, NULL, NULL);
}
