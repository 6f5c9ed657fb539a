/* SPDX-License-Identifier: MIT */
#include "format/segment_format.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define PAGE CSC_SEGFMT_PAGE_BYTES

static uint64_t le64(const uint8_t *bytes)
{
    uint64_t value = 0;

    for (int i = 7; i >= 0; i--)
        value = value << 8 | bytes[i];
    return value;
}

/* The specification's offsets, read as bytes; and a checksum that must never change. */
static void header_bytes_are_as_specified(void **state)
{
    union {
        csc_segfmt_header header;
        uint8_t bytes[PAGE];
    } page;

    (void)state;
    memset(&page, 0, sizeof page);
    for (uint8_t i = 0; i < 16; i++)
        page.header.writer[i] = i;
    page.header.rank = 3;
    page.header.number = 0x01020304;
    page.header.generation = UINT64_C(0x1122334455667788);
    page.header.created_ns = 5;
    csc_segfmt_header_seal(&page.header);
    assert_memory_equal(page.bytes, "CSCSEGMT\2\0\0\0\0\x10\0\0\0\1\2", 19);
    assert_memory_equal(page.bytes + 32, "\3\0\0\0\4\3\2\1\x88\x77\x66\x55\x44\x33\x22\x11\5", 17);
    assert_int_equal(le64(page.bytes + 4088), XXH3_64bits(page.bytes, 4088));
    assert_int_equal(csc_segfmt_header_check(&page.header), 0);
    for (size_t i = 0; i < PAGE * 8; i += 5) {
        page.bytes[i / 8] ^= (uint8_t)(1 << i % 8);
        assert_int_not_equal(csc_segfmt_header_check(&page.header), 0);
        page.bytes[i / 8] ^= (uint8_t)(1 << i % 8);
    }
    page.header.version = 1;
    assert_int_equal(csc_segfmt_header_check(&page.header), CASCADE_EFORMAT);
    page.header.rank = 1000;
    csc_segfmt_header_seal(&page.header);
    assert_int_equal(csc_segfmt_header_check(&page.header), CASCADE_ECORRUPT);
}

/* A file between two lives is told by its first page, and by nothing that could be mere damage. */
static void spares_are_told(void **state)
{
    union {
        csc_segfmt_header header;
        csc_segfmt_spare spare;
        uint8_t bytes[PAGE];
    } page;

    (void)state;
    memset(&page, 0x5a, sizeof page);
    page.spare.rank = 3;
    page.spare.number = 0x01020304;
    csc_segfmt_spare_seal(&page.spare);
    assert_memory_equal(page.bytes, "CSCSPARE", 8);
    assert_memory_equal(page.bytes + 16, "\2\0\0\0\3\0\0\0\4\3\2\1", 12);
    assert_int_equal(le64(page.bytes + 8), XXH3_64bits(page.bytes + 16, 496));
    assert_true(csc_segfmt_is_spare(&page, 3, 0x01020304));
    assert_false(csc_segfmt_is_spare(&page, 4, 0x01020304));
    assert_false(csc_segfmt_is_spare(&page, 3, 0x01020305));
    assert_int_equal(csc_segfmt_header_check(&page.header), CASCADE_EFORMAT);
    for (size_t i = 0; i < PAGE * 8; i++) {
        page.bytes[i / 8] ^= (uint8_t)(1 << i % 8);
        assert_int_equal(csc_segfmt_is_spare(&page, 3, 0x01020304), i >= 512 * 8); /* one sector */
        page.bytes[i / 8] ^= (uint8_t)(1 << i % 8);
    }

    /* A new segment's header in a file that has its old name still. */
    page.header = (csc_segfmt_header){.rank = 3, .number = 9, .recycled_from = 6};
    csc_segfmt_header_seal(&page.header);
    assert_true(csc_segfmt_is_spare(&page, 3, 5));
    assert_false(csc_segfmt_is_spare(&page, 3, 9)); /* where it belongs */
    assert_false(csc_segfmt_is_spare(&page, 3, 7)); /* renamed by somebody */
    assert_false(csc_segfmt_is_spare(&page, 2, 5));
    page.bytes[100] ^= 1;
    assert_false(csc_segfmt_is_spare(&page, 3, 5));
    memset(&page, 0, sizeof page);
    assert_false(csc_segfmt_is_spare(&page, 0, 1));
}

static csc_segfmt_record block_record(uint64_t k_bytes, uint64_t v_bytes, uint32_t bindings)
{
    uint64_t payload = k_bytes + v_bytes;

    return (csc_segfmt_record){
        .generation = 77,
        .offset = 8192,
        .type = CSC_SEGFMT_RECORD_BLOCK,
        .header_bytes = (uint32_t)csc_segfmt_block_header_bytes(bindings, payload, 0),
        .item_count = bindings,
        .chunk_count = (uint32_t)csc_segfmt_chunk_count(payload),
        .k_bytes = k_bytes,
        .v_bytes = v_bytes,
    };
}

static void record_sizes(void **state)
{
    /* An 80 MiB block has a one-page header with up to 17 bindings: 51 of them fit into 4 GiB. */
    const uint64_t block = UINT64_C(80) << 20;

    (void)state;
    assert_int_equal(csc_segfmt_block_header_bytes(17, block, 0), PAGE);
    assert_int_equal(csc_segfmt_block_header_bytes(18, block, 0), 2 * PAGE);
    assert_true(PAGE + 51 * (PAGE + block) + csc_segfmt_footer_bytes(51 * 17) <= UINT64_C(4) << 30);
    assert_int_equal(csc_segfmt_log_header_bytes(29), PAGE);
    assert_int_equal(csc_segfmt_log_header_bytes(30), 2 * PAGE);
    assert_int_equal(csc_segfmt_footer_bytes(0), PAGE);
    assert_int_equal(csc_segfmt_footer_bytes(29), 3 * PAGE);
    assert_int_equal(csc_segfmt_chunk_count(0), 0);
    assert_int_equal(csc_segfmt_chunk_count(262144), 1);
    assert_int_equal(csc_segfmt_chunk_count(262145), 2);
}

static int measure_sealed(csc_segfmt_record record, uint64_t end, uint64_t *bytes)
{
    uint8_t *page = calloc(1, PAGE);
    int rc;

    memcpy(page, &record, sizeof record);
    if (record.header_bytes > 16 && record.header_bytes <= PAGE)
        csc_segfmt_record_seal((void *)page);
    else
        memcpy(page, "CSCRECRD", 8);
    rc = csc_segfmt_record_measure((void *)page, 77, 8192, end, bytes);
    free(page);
    return rc;
}

static void impossible_records_are_refused(void **state)
{
    static const uint64_t absurd[] = {UINT64_C(1) << 63, UINT64_MAX, UINT64_MAX - 262143,
                                      (UINT64_C(1) << 40) + 1};
    csc_segfmt_record record = block_record(5000, 1000, 2);
    csc_segfmt_record log = {.generation = 77,
                             .offset = 8192,
                             .type = CSC_SEGFMT_RECORD_LOG,
                             .header_bytes = PAGE,
                             .item_count = 3};
    uint64_t bytes = 0;

    (void)state;
    assert_int_equal(measure_sealed(record, 8192 + 3 * PAGE, &bytes), 0);
    assert_int_equal(bytes, 3 * PAGE);
    assert_int_equal(measure_sealed(record, 8192 + 3 * PAGE - 1, &bytes), CASCADE_ECORRUPT);
    assert_int_equal(measure_sealed(record, 100, &bytes), CASCADE_ECORRUPT);
    for (size_t i = 0; i < 4; i++) {
        csc_segfmt_record bad = record;

        bad.k_bytes = absurd[i];
        assert_int_equal(measure_sealed(bad, UINT64_MAX, &bytes), CASCADE_ECORRUPT);
        bad = record;
        bad.v_bytes = absurd[i];
        assert_int_equal(measure_sealed(bad, UINT64_MAX, &bytes), CASCADE_ECORRUPT);
        bad = block_record(absurd[i], 0, 0);
        assert_int_equal(measure_sealed(bad, UINT64_MAX, &bytes), CASCADE_ECORRUPT);
    }
    assert_int_equal(measure_sealed(block_record(UINT64_C(1) << 40, 0, 0), UINT64_MAX, &bytes), 0);
    assert_int_equal(measure_sealed(block_record(1, 0, 1025), UINT64_MAX, &bytes), CASCADE_ECORRUPT);
#define BAD(base, field, value)                                                                         \
    do {                                                                                                \
        csc_segfmt_record bad = base;                                                                   \
        bad.field = value;                                                                              \
        assert_int_equal(measure_sealed(bad, UINT64_MAX, &bytes), CASCADE_ECORRUPT);                    \
    } while (0)
    BAD(record, generation, 78);
    BAD(record, offset, 4096);
    BAD(record, type, 3);
    BAD(record, header_bytes, 0);
    BAD(record, header_bytes, 8192);
    BAD(record, header_bytes, UINT32_MAX);
    BAD(record, chunk_count, 0);
    BAD(record, item_count, UINT32_MAX);
    assert_int_equal(measure_sealed(log, UINT64_MAX, &bytes), 0);
    BAD(log, item_count, 0);
    BAD(log, item_count, 16385);
    BAD(log, k_bytes, 1);
    BAD(log, key_id, 1);
    BAD(log, chunk_count, 1);
#undef BAD
}

/* A key makes room for salt and tags behind the sums. */
static void encrypted_headers(void **state)
{
    enum { PAYLOAD = 3 * 262144 };
    csc_segfmt_record record = block_record(PAYLOAD, 0, 2);
    uint8_t *page = calloc(1, PAGE);
    uint64_t bytes = 0;

    (void)state;
    record.key_id = 9;
    assert_int_equal(measure_sealed(record, UINT64_MAX, &bytes), 0);
    memcpy(page, &record, sizeof record);
    assert_ptr_equal(csc_segfmt_salt((void *)page), page + 128 + 2 * 80 + 3 * 8);
    assert_ptr_equal(csc_segfmt_tags((void *)page), page + 128 + 2 * 80 + 3 * 8 + 16);
    free(page);
    /* 128 + 48 x 80 + 3 x 8 + 16 + 3 x 16 bytes fit into a page; with 49 bindings only without a key. */
    assert_int_equal(csc_segfmt_block_header_bytes(48, PAYLOAD, 9), PAGE);
    assert_int_equal(csc_segfmt_block_header_bytes(49, PAYLOAD, 9), 2 * PAGE);
    assert_int_equal(csc_segfmt_block_header_bytes(49, PAYLOAD, 0), PAGE);
    record = block_record(PAYLOAD, 0, 49);
    assert_int_equal(measure_sealed(record, UINT64_MAX, &bytes), 0);
    record.key_id = 9;
    assert_int_equal(measure_sealed(record, UINT64_MAX, &bytes), CASCADE_ECORRUPT);
    /* The tags of an 80 MiB block are more than a page. */
    assert_int_equal(csc_segfmt_block_header_bytes(3, UINT64_C(80) << 20, 9), 2 * PAGE);
    assert_int_equal(csc_segfmt_block_header_bytes(0, 0, 9), PAGE);
}

/* The sums do not depend on how the bytes come by, and are bound to generation, place and number. */
static void sums(void **state)
{
    enum { BYTES = 3 * 262144 + 1000 };
    uint8_t *data = malloc(BYTES);
    csc_segfmt_record record = block_record(BYTES, 0, 0);
    csc_segfmt_summer summer;
    uint64_t whole[4];
    uint64_t parts[4];
    uint64_t seed[3] = {77, 8192, 3};

    (void)state;
    for (size_t i = 0; i < BYTES; i++)
        data[i] = (uint8_t)(i * 7 + i / 256);
    csc_segfmt_summer_begin(&summer, &record, 0, whole, NULL);
    csc_segfmt_summer_feed(&summer, data, BYTES);
    csc_segfmt_summer_end(&summer);
    assert_int_equal(summer.done, 4);
    assert_int_equal(whole[3], XXH3_64bits_withSeed(data + 3 * 262144, 1000, XXH3_64bits(seed, 24)));
    seed[2] = 1;
    assert_int_equal(whole[1], XXH3_64bits_withSeed(data + 262144, 262144, XXH3_64bits(seed, 24)));
    for (size_t step = 4093; step < BYTES; step = step * 5 + 1) {
        csc_segfmt_summer_begin(&summer, &record, 0, parts, NULL);
        for (size_t at = 0; at < BYTES; at += step)
            csc_segfmt_summer_feed(&summer, data + at, BYTES - at < step ? BYTES - at : step);
        csc_segfmt_summer_end(&summer);
        assert_memory_equal(parts, whole, sizeof whole);
    }
    csc_segfmt_summer_begin(&summer, &record, 2, NULL, whole + 2);
    csc_segfmt_summer_feed(&summer, data + 2 * 262144, 262144);
    csc_segfmt_summer_end(&summer);
    assert_false(summer.differs);
    data[2 * 262144 + 5] ^= 4;
    csc_segfmt_summer_begin(&summer, &record, 2, NULL, whole + 2);
    csc_segfmt_summer_feed(&summer, data + 2 * 262144, 262144);
    csc_segfmt_summer_end(&summer);
    assert_true(summer.differs);
    record.offset += 4096;
    csc_segfmt_summer_begin(&summer, &record, 0, NULL, whole);
    csc_segfmt_summer_feed(&summer, data, 262144);
    assert_true(summer.differs);
    free(data);
}

static void index_entries_are_checked(void **state)
{
    csc_segfmt_index_entry entries[2] = {
        {.key = {1},
         .offset = 4096,
         .header_bytes = 4096,
         .k_bytes = 10,
         .type = CSC_SEGFMT_INDEX_BINDING},
        {.key = {2}, .offset = 12288, .header_bytes = 4096, .type = CSC_SEGFMT_INDEX_DELETE}};
    csc_segfmt_trailer trailer = {.generation = 5, .index_offset = 16384, .index_count = 2};
    const uint64_t file_bytes = 16384 + 2 * PAGE;

    (void)state;
    csc_segfmt_trailer_seal(&trailer, entries);
    assert_int_equal(csc_segfmt_trailer_check(&trailer, 5, file_bytes), 0);
    assert_int_equal(csc_segfmt_trailer_check(&trailer, 6, file_bytes), CASCADE_EFORMAT);
    assert_int_equal(csc_segfmt_trailer_check(&trailer, 5, file_bytes + PAGE), CASCADE_ECORRUPT);
    assert_int_equal(csc_segfmt_index_check(&trailer, entries), 0);
    entries[0].tenant ^= 1;
    assert_int_equal(csc_segfmt_index_check(&trailer, entries), CASCADE_ECORRUPT);
    entries[0].tenant ^= 1;
#define BAD(which, field, value)                                                                        \
    do {                                                                                                \
        csc_segfmt_index_entry kept = entries[which];                                                   \
        entries[which].field = value;                                                                   \
        csc_segfmt_trailer_seal(&trailer, entries);                                                     \
        assert_int_equal(csc_segfmt_index_check(&trailer, entries), CASCADE_ECORRUPT);                  \
        entries[which] = kept;                                                                          \
    } while (0)
    BAD(0, offset, 0);
    BAD(0, offset, 4097);
    BAD(0, offset, 12288); /* its payload would lie in the index */
    BAD(0, offset, UINT64_MAX - 4095);
    BAD(0, header_bytes, 0);
    BAD(0, header_bytes, 1 << 20);
    BAD(0, k_bytes, UINT64_C(1) << 63);
    BAD(0, v_bytes, UINT64_MAX);
    BAD(0, type, 0);
    BAD(0, type, 5);
    BAD(0, flags, 2);
    BAD(0, key[0], 3); /* out of order */
    BAD(1, header_bytes, 8192);
#undef BAD
    static const uint64_t counts[] = {0, 57, UINT64_MAX / 152 + 2, UINT64_MAX};
    for (size_t i = 0; i < 4; i++) {
        csc_segfmt_trailer_seal(&trailer, entries);
        trailer.index_count = counts[i];
        trailer.checksum = XXH3_64bits_withSeed((char *)&trailer + 16, PAGE - 16, 5);
        assert_int_equal(csc_segfmt_trailer_check(&trailer, 5, file_bytes), CASCADE_ECORRUPT);
        trailer.index_count = 2;
    }
    /* Of two pages that can be just full of entries, one page of records has not room for all. */
    trailer.index_offset = 2 * PAGE;
    for (uint64_t count = 51; count <= 52; count++) {
        trailer.index_count = count;
        trailer.checksum = XXH3_64bits_withSeed((char *)&trailer + 16, PAGE - 16, 5);
        assert_int_equal(csc_segfmt_trailer_check(&trailer, 5, 5 * PAGE),
                         count == 51 ? 0 : CASCADE_ECORRUPT);
    }
    memset(&trailer, 0, sizeof trailer);
    assert_int_equal(csc_segfmt_trailer_check(&trailer, 5, file_bytes), CASCADE_EFORMAT);
}

static void names(void **state)
{
    static const char *const bad[] = {"",
                                      "agg_rank000_000000.bi",
                                      "agg_rank000_000000.bin2",
                                      "agg_rank00_000000.bin",
                                      "agg_rank0000_000000.bin",
                                      "agg_rank000_00000.bin",
                                      "agg_rank000_0000000.bin",
                                      "agg_rank000_+00001.bin",
                                      "agg_rank-01_000001.bin",
                                      "agg_rank000_ 00001.bin",
                                      "agg_rank000_4294967296.bin",
                                      "agg_rank000_99999999999999999999999999999999.bin",
                                      "settings.json"};
    char name[CSC_SEGFMT_NAME_BYTES];
    uint32_t rank = 9;
    uint32_t number = 9;

    (void)state;
    csc_segfmt_name_format(7, 42, name);
    assert_string_equal(name, "agg_rank007_000042.bin");
    assert_true(csc_segfmt_name_parse(name, &rank, &number));
    assert_int_equal(rank, 7);
    assert_int_equal(number, 42);
    csc_segfmt_name_format(999, UINT32_MAX, name);
    assert_string_equal(name, "agg_rank999_4294967295.bin");
    assert_true(csc_segfmt_name_parse(name, &rank, &number));
    assert_int_equal(number, UINT32_MAX);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(csc_segfmt_name_parse(bad[i], &rank, &number));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(header_bytes_are_as_specified),
        cmocka_unit_test(spares_are_told),
        cmocka_unit_test(record_sizes),
        cmocka_unit_test(impossible_records_are_refused),
        cmocka_unit_test(encrypted_headers),
        cmocka_unit_test(sums),
        cmocka_unit_test(index_entries_are_checked),
        cmocka_unit_test(names),
    };

    return cmocka_run_group_tests_name("segment_format", tests, NULL, NULL);
}
