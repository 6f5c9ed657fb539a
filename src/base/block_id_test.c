/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/fail.h"

#include <cascade/cascade.h>
#include <stdlib.h>
#include <string.h>

/* The first 16 bytes of SHA-256 of "abc" and of nothing. */
static const uint8_t id_abc[] = {0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea,
                                 0x41, 0x41, 0x40, 0xde, 0x5d, 0xae, 0x22, 0x23};
static const uint8_t id_empty[] = {0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14,
                                   0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24};

static char text_abc[] = "abc";

static void test_k_then_v(void **state)
{
    cascade_piece all = {text_abc, 3}, head = {text_abc, 1}, tail[] = {{text_abc + 1, 2}, {NULL, 0}};
    cascade_id id;

    (void)state;
    assert_int_equal(
        cascade_block_id(&(cascade_block){.k = &head, .k_count = 1, .v = tail, .v_count = 2}, &id), 0);
    assert_memory_equal(id.bytes, id_abc, sizeof id_abc);
    assert_int_equal(cascade_block_id(&(cascade_block){.k = &all, .k_count = 1}, &id), 0);
    assert_memory_equal(id.bytes, id_abc, sizeof id_abc);
    assert_int_equal(cascade_block_id(&(cascade_block){.v = &all, .v_count = 1}, &id), 0);
    assert_memory_equal(id.bytes, id_abc, sizeof id_abc);
    assert_int_equal(cascade_block_id(&(cascade_block){0}, &id), 0);
    assert_memory_equal(id.bytes, id_empty, sizeof id_empty);
}

static void test_many_pieces(void **state)
{
    static uint8_t bytes[2000];
    cascade_piece whole = {bytes, sizeof bytes}, split[sizeof bytes];
    cascade_id expected, id;

    (void)state;
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)(i * 7 + i / 256);
        split[i] = (cascade_piece){bytes + i, 1};
    }
    assert_int_equal(cascade_block_id(&(cascade_block){.k = &whole, .k_count = 1}, &expected), 0);
    assert_int_equal(
        cascade_block_id(&(cascade_block){.k = split, .k_count = 500, .v = split + 500, .v_count = 1500},
                         &id),
        0);
    assert_memory_equal(id.bytes, expected.bytes, sizeof id.bytes);
}

static void test_bad_arguments(void **state)
{
    cascade_piece hole = {NULL, 5}, one = {text_abc, 3};
    cascade_piece vast[] = {{text_abc, CASCADE_BLOCK_BYTES_MAX}, {text_abc, 1}};
    cascade_block no_list = {.k_count = 1},
                  no_data = {.k = &one, .k_count = 1, .v = &hole, .v_count = 1};
    cascade_block too_big = {.k = vast, .k_count = 1, .v = vast + 1, .v_count = 1};
    cascade_block too_wide = {.k = &(cascade_piece){text_abc, SIZE_MAX}, .k_count = 1};
    cascade_id id, untouched;

    (void)state;
    memset(&id, 0x5a, sizeof id);
    untouched = id;
    assert_int_equal(cascade_block_id(NULL, &id), CASCADE_EINVAL);
    assert_int_equal(cascade_block_id(&(cascade_block){.k = &one, .k_count = 1}, NULL), CASCADE_EINVAL);
    assert_int_equal(cascade_block_id(&no_list, &id), CASCADE_EINVAL);
    assert_int_equal(cascade_block_id(&no_data, &id), CASCADE_EINVAL);
    assert_string_equal(csc_fail_text(), "block id: piece 0 of v is NULL but has 5 bytes");
    assert_int_equal(cascade_block_id(&too_big, &id), CASCADE_EINVAL);
    assert_int_equal(cascade_block_id(&too_wide, &id), CASCADE_EINVAL);
    assert_memory_equal(&id, &untouched, sizeof id);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_k_then_v),
        cmocka_unit_test(test_many_pieces),
        cmocka_unit_test(test_bad_arguments),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
