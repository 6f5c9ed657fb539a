/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include "pattern.h"

#include <cmocka.h>

/* Word i of pattern id is mix(id) + i * STEP, whatever the length and the alignment. */
static void test_words(void **state)
{
    uint8_t bytes[1 + 1000];
    uint64_t word;

    (void)state;
    for (size_t length = 0; length <= 1000; length += 37) {
        memset(bytes, 0xee, sizeof bytes);
        pattern_fill(5, bytes + 1, length);
        for (size_t i = 0; i + 8 <= length; i += 8) {
            memcpy(&word, bytes + 1 + i, 8);
            assert_true(word == pattern_mix(5) + i / 8 * PATTERN_STEP);
        }
        assert_true(length == 1000 || bytes[1 + length] == 0xee);
        assert_true(pattern_check(5, bytes + 1, length));
    }
}

static void test_every_byte_counts(void **state)
{
    uint8_t bytes[333];

    (void)state;
    pattern_fill(9, bytes, sizeof bytes);
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] ^= 0x10;
        assert_false(pattern_check(9, bytes, sizeof bytes));
        bytes[i] ^= 0x10;
    }
    assert_true(pattern_check(9, bytes, sizeof bytes));
    assert_false(pattern_check(10, bytes, sizeof bytes));
    assert_false(pattern_check(9, bytes + 8, sizeof bytes - 8));
    assert_false(pattern_check(9, bytes + 64, sizeof bytes - 64));
}

/* The first outputs of splitmix64 from state 0: the published reference. */
static void test_mix(void **state)
{
    (void)state;
    assert_true(pattern_mix(0) == UINT64_C(0xe220a8397b1dcdaf));
    assert_true(pattern_mix(PATTERN_STEP) == UINT64_C(0x6e789e6aa1b965f4));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_every_byte_counts),
        cmocka_unit_test(test_mix),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
