/* SPDX-License-Identifier: MIT */
/* Encrypted segments: everything that plain ones do; which keys open what; what tampering does; and that
 * no plain byte reaches a file. */
#include "base/cipher.h"
#include "base/fail.h"
#include "format/segment_format.h"
#include "segment/segment_testing.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define PAGE  CSC_SEGFMT_PAGE_BYTES
#define CHUNK ((size_t)CSC_SEGFMT_CHUNK_BYTES)
#define MIB   ((size_t)1 << 20)
#define KEY_A "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n"
#define KEY_B "f0e1d2c3b4a5968778695a4b3c2d1e0ff0e1d2c3b4a5968778695a4b3c2d1e0f\n"

enum { A, B, BA, RINGS };
static csc_keyring *rings[RINGS];

static int make_rings(void **state)
{
    static const char *const texts[RINGS] = {KEY_A, KEY_B, KEY_B KEY_A};

    (void)state;
    for (int i = 0; i < RINGS; i++)
        if (csc_keyring_parse(texts[i], strlen(texts[i]), &rings[i]))
            return -1;
    return 0;
}

static int destroy_rings(void **state)
{
    (void)state;
    for (int i = 0; i < RINGS; i++)
        csc_keyring_destroy(&rings[i]);
    return 0;
}

static csc_tier *open_with(const csc_keyring *ring)
{
    csc_tier *tier = NULL;

    assert_int_equal(testing_open((csc_segment_options){.keyring = ring}, &tier), 0);
    return tier;
}

/* ---- the suite of every tier ---------------------------------------------------------------------- */

static csc_tier *suite_open_direct(void)
{
    return testing_suite_open((csc_segment_options){.keyring = rings[A]});
}

static csc_tier *suite_open_buffered(void)
{
    return testing_suite_open((csc_segment_options){.keyring = rings[A], .buffered = true});
}

static csc_tier_fixture direct = {suite_open_direct, testing_suite_close};
static csc_tier_fixture buffered = {suite_open_buffered, testing_suite_close};

/* ---- ranges --------------------------------------------------------------------------------------- */

static void note_released(void *context)
{
    (void)context;
}

/* A range into pages, as the store reads, and into a piece that fits nothing. */
static void check_range(csc_tier *tier, const testing_block *block, const uint8_t *expected,
                        uint64_t from, size_t bytes)
{
    void *memory = NULL;
    uint8_t *odd = malloc(bytes + 1);
    cascade_piece piece;
    csc_tier_read read = {.place = block->place,
                          .content = block->content,
                          .offset = from,
                          .pieces = &piece,
                          .piece_count = 1,
                          .released = note_released};

    assert_int_equal(posix_memalign(&memory, PAGE, bytes + PAGE), 0);
    piece = (cascade_piece){memory, bytes};
    assert_int_equal(tier->ops->read(tier, &read, 1), 0);
    assert_memory_equal(memory, expected + from, bytes);
    piece = (cascade_piece){odd + 1, bytes};
    read.released = NULL;
    assert_int_equal(tier->ops->read(tier, &read, 1), 0);
    assert_memory_equal(odd + 1, expected + from, bytes);
    free(memory);
    free(odd);
}

static void ranges_of_sealed_and_unsealed_segments(void **state)
{
    const size_t k_bytes = 5 * MIB + 1234, v_bytes = 4 * MIB;
    const size_t all = k_bytes + v_bytes;
    uint8_t *expected = malloc(all);
    csc_place place;
    csc_tier *tier, *reader;

    (void)state;
    csc_tier_suite_fill(expected, all, 5);
    tier = open_with(rings[A]);
    assert_int_equal(testing_write(tier, 5, k_bytes, v_bytes, 2, &place), 0);
    assert_int_equal(testing_write(tier, 6, 0, 0, 1, &place), 0);
    assert_int_equal(testing_write(tier, 7, 1, 0, 0, &place), 0);
    assert_int_equal(tier->ops->sync(tier), 0);
    for (int round = 0; round < 2; round++) {
        const testing_block *block;

        if (round == 1)
            assert_int_equal(csc_segment_seal(tier), 0);
        reader = open_with(rings[A]);
        assert_int_equal(testing_seen.block_count, 3);
        block = testing_find(5, k_bytes, v_bytes);
        assert_non_null(block);
        check_range(reader, block, expected, 0, all);
        check_range(reader, block, expected, 4096, 4096);
        check_range(reader, block, expected, CHUNK - 4096, 8192);
        check_range(reader, block, expected, 3 * CHUNK, 2 * CHUNK);
        check_range(reader, block, expected, 3 * CHUNK + 8192, 3 * MIB + 77);
        check_range(reader, block, expected, 12345, MIB + 1);
        check_range(reader, block, expected, all - 1, 1);
        assert_int_equal(testing_read(reader, &testing_find(6, 0, 0)->place, 6, 0, 0), 0);
        assert_int_equal(testing_read(reader, &testing_find(7, 1, 0)->place, 7, 1, 0), 0);
        assert_int_equal(testing_stats(reader).quarantined, 0);
        reader->ops->close(&reader);
    }
    tier->ops->close(&tier);
    free(expected);
}

/* Decrypted once already, the first parts are read and decrypted once more. */
static void wrong_bytes_are_read_once_more(void **state)
{
    const size_t bytes = 5 * MIB + 1234;
    uint8_t *expected = malloc(bytes);
    csc_tier *tier = open_with(rings[A]);
    csc_place place;

    (void)state;
    csc_tier_suite_fill(expected, bytes, 5);
    assert_int_equal(testing_write(tier, 5, bytes, 0, 1, &place), 0);
    assert_int_equal(csc_segment_seal(tier), 0);
    tier->ops->close(&tier);
    tier = open_with(rings[A]);
    for (int at = 1; at < 5; at++) {
        testing_fault = (testing_faults){.wrong_at = at, .wrong_count = 1};
        check_range(tier, testing_find(5, bytes, 0), expected, 0, bytes);
        assert_int_equal(csc_segment_rereads(tier), at);
    }
    assert_int_equal(testing_stats(tier).quarantined, 0);
    tier->ops->close(&tier);
    free(expected);
}

/* ---- files ---------------------------------------------------------------------------------------- */

static uint8_t *read_file(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    struct stat info;
    void *image = NULL;

    assert_non_null(file);
    assert_int_equal(fstat(fileno(file), &info), 0);
    *bytes = (size_t)info.st_size;
    assert_int_equal(posix_memalign(&image, PAGE, *bytes + PAGE), 0);
    assert_int_equal(fread(image, 1, *bytes, file), *bytes);
    fclose(file);
    return image;
}

static void write_file(const char *path, const void *image, size_t bytes)
{
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(image, 1, bytes, file), bytes);
    fclose(file);
}

/* Whether any 32 bytes of the block of that seed, from any page's start, lie in any file. */
static bool is_plain_anywhere(uint64_t seed, size_t bytes)
{
    uint8_t *plain = malloc(bytes);
    DIR *folder = opendir(testing_directory_used());
    struct dirent *entry;
    bool found = false;

    csc_tier_suite_fill(plain, bytes, seed);
    while ((entry = readdir(folder))) {
        char path[600];
        uint8_t *image;
        size_t size;

        if (entry->d_type != DT_REG)
            continue;
        snprintf(path, sizeof path, "%s/%s", testing_directory_used(), entry->d_name);
        image = read_file(path, &size);
        for (size_t at = 0; at + 32 <= bytes; at += 1024)
            found = found || memmem(image, size, plain + at, 32);
        free(image);
    }
    closedir(folder);
    free(plain);
    return found;
}

static void no_plain_byte_is_in_a_file(void **state)
{
    csc_place place;
    csc_tier *tier = open_with(rings[A]);

    (void)state;
    assert_int_equal(testing_write(tier, 1, 5 * MIB, 100, 1, &place), 0);
    assert_int_equal(testing_write(tier, 2, 10000, 100, 1, &place), 0);
    assert_int_equal(tier->ops->sync(tier), 0);
    assert_false(is_plain_anywhere(1, 5 * MIB));
    assert_false(is_plain_anywhere(2, 10000));
    tier->ops->close(&tier);
    tier = open_with(rings[BA]);
    assert_false(is_plain_anywhere(1, 5 * MIB));
    tier->ops->close(&tier);
    testing_again();
    tier = open_with(NULL);
    assert_int_equal(testing_write(tier, 2, 10000, 100, 1, &place), 0);
    assert_int_equal(tier->ops->sync(tier), 0);
    assert_true(is_plain_anywhere(2, 10000)); /* it would have been found */
    tier->ops->close(&tier);
}

/* A removed plain segment is not kept for use again under a handle with keys; an encrypted one is. */
static void plain_files_are_not_kept(void **state)
{
    const csc_segment_options options = {.keyring = rings[A], .spares_max = 2};
    csc_tier *tier = open_with(NULL);
    csc_place place;

    (void)state;
    assert_int_equal(testing_write(tier, 1, 10000, 0, 1, &place), 0);
    assert_int_equal(csc_segment_seal(tier), 0);
    tier->ops->close(&tier);
    assert_int_equal(testing_open(options, &tier), 0);
    assert_true(is_plain_anywhere(1, 10000));
    assert_int_equal(csc_segment_remove(tier, testing_seen.blocks[0].segment), 0);
    assert_false(is_plain_anywhere(1, 10000));
    assert_int_equal(testing_file_count(), 0);
    assert_int_equal(testing_write(tier, 2, 10000, 0, 1, &place), 0);
    assert_int_equal(csc_segment_seal(tier), 0);
    assert_int_equal(csc_segment_remove(tier, csc_segment_of(&place)), 0);
    assert_int_equal(testing_file_count(), 1);
    assert_int_equal(testing_write(tier, 3, 9000, 0, 1, &place), 0);
    assert_int_equal(csc_segment_recycled(tier), 1);
    assert_int_equal(testing_read(tier, &place, 3, 9000, 0), 0);
    tier->ops->close(&tier);
}

/* ---- keys ----------------------------------------------------------------------------------------- */

static void keys_that_are_missing(void **state)
{
    static const int wrong[] = {-1, B};
    csc_tier *tier = open_with(rings[A]);
    csc_place place;
    char id[32];

    (void)state;
    assert_int_equal(testing_write(tier, 1, 3000, 50, 1, &place), 0);
    snprintf(id, sizeof id, "%016llx", (unsigned long long)csc_keyring_first(rings[A]));
    for (int sealed = 0; sealed < 2; sealed++) {
        assert_int_equal(sealed ? csc_segment_seal(tier) : tier->ops->sync(tier), 0);
        for (size_t i = 0; i < 2; i++) {
            csc_segment_options options = {.keyring = wrong[i] < 0 ? NULL : rings[wrong[i]]};
            csc_tier *other = NULL;

            assert_int_equal(testing_open(options, &other), CASCADE_ENOKEY);
            assert_null(other);
            assert_int_equal(testing_seen.block_count, 0);
            assert_non_null(strstr(csc_fail_text(), id));
            assert_non_null(strstr(csc_fail_text(), "agg_rank000_000000.bin"));
            /* Another rank does without it, and counts no damage. */
            options.rank = 1;
            assert_int_equal(testing_open(options, &other), 0);
            assert_int_equal(testing_seen.block_count, 0);
            assert_int_equal(testing_stats(other).quarantined, 0);
            assert_int_equal(testing_write(other, 2, 3000, 50, 1, &place), 0);
            assert_int_equal(testing_read(other, &place, 2, 3000, 50), 0);
            other->ops->close(&other);
            unlink(testing_path(1, 0));
        }
    }
    tier->ops->close(&tier);
    tier = NULL;
    assert_int_equal(testing_open((csc_segment_options){.keyring = rings[BA], .rank = 1}, &tier), 0);
    assert_int_equal(testing_seen.block_count, 1);
    assert_int_equal(testing_read(tier, &testing_seen.blocks[0].place, 1, 3000, 50), 0);
    tier->ops->close(&tier);
}

/* Plain, then A, then B before A: all are read, and each segment says its key. */
static void rotation(void **state)
{
    const csc_keyring *const order[] = {NULL, rings[A], rings[BA]};
    csc_segment_info infos[4];
    size_t count = 4;
    csc_place place;
    csc_tier *tier;

    (void)state;
    for (uint64_t i = 0; i < 3; i++) {
        tier = open_with(order[i]);
        assert_int_equal(testing_write(tier, i, 300000, 5, 1, &place), 0);
        assert_int_equal(csc_segment_seal(tier), 0);
        tier->ops->close(&tier);
    }
    tier = open_with(rings[BA]);
    assert_int_equal(testing_seen.block_count, 3);
    for (uint64_t i = 0; i < 3; i++)
        assert_int_equal(testing_read(tier, &testing_find(i, 300000, 5)->place, i, 300000, 5), 0);
    csc_segment_list(tier, infos, &count);
    assert_int_equal(count, 3);
    assert_true(infos[0].key_id == 0);
    assert_true(infos[1].key_id == csc_keyring_first(rings[A]));
    assert_true(infos[2].key_id == csc_keyring_first(rings[B]));
    /* Without the old key the segment with it has to be gone. */
    csc_tier *other = NULL;
    assert_int_equal(testing_open((csc_segment_options){.keyring = rings[B]}, &other), CASCADE_ENOKEY);
    assert_int_equal(csc_segment_remove(tier, infos[1].segment), 0);
    other = open_with(rings[B]);
    assert_int_equal(testing_seen.block_count, 2);
    other->ops->close(&other);
    tier->ops->close(&tier);
}

/* ---- tampering ------------------------------------------------------------------------------------ */

enum { SMALL = 20000 };

typedef struct image {
    uint8_t *bytes;
    size_t size;
    size_t record[2]; /* two records of one size, sealed under rings[A] */
} image;

static csc_segfmt_record *record_of(const image *i, size_t which)
{
    return (void *)(i->bytes + i->record[which]);
}

/* Not sealed: an open goes by the records alone. */
static image make_image(bool sealed)
{
    csc_tier *tier = open_with(rings[A]);
    csc_place places[2];
    image made;

    for (uint64_t i = 0; i < 2; i++)
        assert_int_equal(testing_write(tier, i, SMALL, 0, 1, &places[i]), 0);
    assert_int_equal(sealed ? csc_segment_seal(tier) : tier->ops->sync(tier), 0);
    made.bytes = read_file(testing_path(0, 0), &made.size);
    for (size_t i = 0; i < 2; i++)
        made.record[i] = places[i].words[1];
    tier->ops->close(&tier);
    unlink(testing_path(0, 0));
    return made;
}

/* Makes sums and checksum of a record right again, as one who tampers would. */
static void mend(image *i, size_t which)
{
    csc_segfmt_record *record = record_of(i, which);
    uint64_t *sums = (void *)((uint8_t *)record + 128 + 80);
    csc_segfmt_summer summer;

    csc_segfmt_summer_begin(&summer, record, 0, sums, NULL);
    csc_segfmt_summer_feed(&summer, (uint8_t *)record + record->header_bytes, SMALL);
    csc_segfmt_summer_end(&summer);
    csc_segfmt_record_seal(record);
}

/* Opens the image: what reading the first record gives, and that the other is as `second` says. */
static int read_image(image *i, int second)
{
    const testing_block *block;
    csc_tier *tier;
    int rc;

    write_file(testing_path(0, 0), i->bytes, i->size);
    tier = open_with(rings[BA]);
    block = testing_find(0, SMALL, 0);
    rc = block ? testing_read(tier, &block->place, 0, SMALL, 0) : CASCADE_MISS;
    block = testing_find(1, SMALL, 0);
    assert_int_equal(block ? testing_read(tier, &block->place, 1, SMALL, 0) : CASCADE_MISS, second);
    tier->ops->close(&tier);
    unlink(testing_path(0, 0));
    return rc;
}

#define TAMPER(expected, second, change)                                                                \
    do {                                                                                                \
        image i = make_image(is_sealed);                                                                \
        csc_segfmt_record *first = record_of(&i, 0);                                                    \
        uint8_t *cipher = (uint8_t *)first + 128 + 80 + 8; /* salt, then tag */                         \
        (void)cipher;                                                                                   \
        change;                                                                                         \
        mend(&i, 0);                                                                                    \
        assert_int_equal(read_image(&i, second), expected);                                             \
        free(i.bytes);                                                                                  \
    } while (0)

static void tampering_is_noticed(void **state)
{
    const bool is_sealed = false;

    (void)state;
    TAMPER(0, 0, (void)0);
    TAMPER(CASCADE_ECORRUPT, 0, i.bytes[i.record[0] + PAGE + 777] ^= 1);
    TAMPER(CASCADE_ECORRUPT, 0, cipher[3] ^= 1);
    TAMPER(CASCADE_ECORRUPT, 0, cipher[16 + 3] ^= 1);
    TAMPER(CASCADE_ECORRUPT, 0, first->tenant ^= 1);
    TAMPER(CASCADE_ECORRUPT, 0, first->k_bytes--; first->v_bytes++);
    /* Another key, though one that is there; and none: records that are not their segment's. */
    TAMPER(CASCADE_MISS, CASCADE_MISS, first->key_id = csc_keyring_first(rings[B]));
    TAMPER(CASCADE_MISS, CASCADE_MISS, first->key_id = 0);
}

/* The index says nothing of keys: reads must see that a record is not its segment's. Else encrypted
 * bytes would be given out as plain ones. */
static void tampering_under_an_index_is_noticed(void **state)
{
    const bool is_sealed = true;

    (void)state;
    TAMPER(0, 0, (void)0);
    TAMPER(CASCADE_ECORRUPT, 0, cipher[16 + 3] ^= 1);
    TAMPER(CASCADE_ECORRUPT, 0, first->key_id = csc_keyring_first(rings[B]));
    TAMPER(CASCADE_ECORRUPT, 0, first->key_id = 0);
}

/* The first record's header over the second's salt, tag and payload, which open under their own. */
static void swapped_records_are_noticed(void **state)
{
    image i = make_image(false);
    uint8_t *first = (void *)record_of(&i, 0);
    const uint8_t *second = (void *)record_of(&i, 1);

    (void)state;
    memcpy(first + 128 + 80 + 8, second + 128 + 80 + 8, 32);
    memcpy(first + PAGE, second + PAGE, SMALL);
    mend(&i, 0);
    assert_int_equal(read_image(&i, 0), CASCADE_ECORRUPT);
    /* With its digest too: only place and salt tell. */
    memcpy(record_of(&i, 0)->digest, record_of(&i, 1)->digest, 32);
    mend(&i, 0);
    write_file(testing_path(0, 0), i.bytes, i.size);
    csc_tier *tier = open_with(rings[A]);
    assert_int_equal(testing_seen.block_count, 2);
    assert_int_equal(testing_read(tier, &testing_seen.blocks[0].place, 1, SMALL, 0), CASCADE_ECORRUPT);
    assert_int_equal(testing_read(tier, &testing_seen.blocks[1].place, 1, SMALL, 0), 0);
    tier->ops->close(&tier);
    free(i.bytes);
}

/* A key id in the segment's header that is not its records' loses them, as any wrong header does. */
static void keys_of_segment_and_records_agree(void **state)
{
    image i = make_image(false);
    csc_tier *tier;

    (void)state;
    ((csc_segfmt_header *)(void *)i.bytes)->key_id = 0;
    csc_segfmt_header_seal((void *)i.bytes);
    write_file(testing_path(0, 0), i.bytes, i.size);
    tier = open_with(rings[A]);
    assert_int_equal(testing_seen.block_count, 0);
    tier->ops->close(&tier);
    free(i.bytes);
}

/* ---- failures ------------------------------------------------------------------------------------- */

/* Each write call fails once; what is written again in the same place is whole and has another salt. */
static void failed_writes(void **state)
{
    (void)state;
    for (int at = 1; at < 12; at++) {
        csc_tier *tier = open_with(rings[A]);
        csc_place places[3];
        bool met = false;

        testing_fault = (testing_faults){.at = at, .err = ENOSPC, .only_growth = true};
        for (uint64_t i = 0; i < 3; i++) {
            size_t bytes = i == 1 ? 5 * MIB + 3 : 30000;

            while (testing_write(tier, i, bytes, 7, 1, &places[i]) != 0)
                assert_false(met), met = true;
        }
        testing_fault = (testing_faults){0};
        for (uint64_t i = 0; i < 3; i++)
            assert_int_equal(testing_read(tier, &places[i], i, i == 1 ? 5 * MIB + 3 : 30000, 7), 0);
        assert_int_equal(csc_segment_seal(tier), 0);
        tier->ops->close(&tier);
        tier = open_with(rings[A]);
        assert_int_equal(testing_seen.block_count, 3);
        for (uint64_t i = 0; i < 3; i++) {
            size_t bytes = i == 1 ? 5 * MIB + 3 : 30000;

            assert_int_equal(testing_read(tier, &testing_find(i, bytes, 7)->place, i, bytes, 7), 0);
        }
        tier->ops->close(&tier);
        testing_again();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CSC_TIER_SUITE(&direct),
        CSC_TIER_SUITE_CHECKED(&direct),
        CSC_TIER_SUITE(&buffered),
        CSC_TIER_SUITE_CHECKED(&buffered),
        cmocka_unit_test_setup_teardown(ranges_of_sealed_and_unsealed_segments, testing_setup,
                                        testing_teardown),
        cmocka_unit_test_setup_teardown(wrong_bytes_are_read_once_more, testing_setup, testing_teardown),
        cmocka_unit_test_setup_teardown(no_plain_byte_is_in_a_file, testing_setup, testing_teardown),
        cmocka_unit_test_setup_teardown(plain_files_are_not_kept, testing_setup, testing_teardown),
        cmocka_unit_test_setup_teardown(keys_that_are_missing, testing_setup, testing_teardown),
        cmocka_unit_test_setup_teardown(rotation, testing_setup, testing_teardown),
        cmocka_unit_test_setup_teardown(tampering_is_noticed, testing_setup, testing_teardown),
        cmocka_unit_test_setup_teardown(tampering_under_an_index_is_noticed, testing_setup,
                                        testing_teardown),
        cmocka_unit_test_setup_teardown(swapped_records_are_noticed, testing_setup, testing_teardown),
        cmocka_unit_test_setup_teardown(keys_of_segment_and_records_agree, testing_setup,
                                        testing_teardown),
        cmocka_unit_test_setup_teardown(failed_writes, testing_setup, testing_teardown),
    };

    return cmocka_run_group_tests_name("segment_encrypt", tests, make_rings, destroy_rings);
}
