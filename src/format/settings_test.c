/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include "format/settings.h"

#include <cascade/cascade.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEAD   "cascade-store 1\n"
#define UUID   "uuid = 000102030405060708090a0b0c0d0e0f\n"
#define PAGE   "page_bytes = 65536\n"
#define DRAM   "dram_bytes = 4294967296\n"
#define BUDGET "file_budget_bytes = 0\n"
#define SEG    "segment_bytes = 134217728\n"
#define POLICY "policy = hazard\n"
#define ALL    UUID PAGE DRAM BUDGET SEG POLICY

static csc_settings sample(void)
{
    csc_settings settings = {
        .page_bytes = 65536,
        .dram_bytes = UINT64_C(4) << 30,
        .segment_bytes = UINT64_C(128) << 20,
        .policy = "hazard",
    };

    for (size_t i = 0; i < sizeof settings.uuid; i++)
        settings.uuid[i] = (uint8_t)i;
    return settings;
}

static int parse(const char *text, csc_settings *settings)
{
    return csc_settings_parse(text, strlen(text), settings);
}

static void assert_same(const csc_settings *a, const csc_settings *b)
{
    assert_memory_equal(a->uuid, b->uuid, sizeof a->uuid);
    assert_int_equal(a->page_bytes, b->page_bytes);
    assert_int_equal(a->dram_bytes, b->dram_bytes);
    assert_int_equal(a->file_budget_bytes, b->file_budget_bytes);
    assert_int_equal(a->segment_bytes, b->segment_bytes);
    assert_string_equal(a->policy, b->policy);
}

static size_t print(const csc_settings *settings, char text[CSC_SETTINGS_PRINT_BYTES])
{
    size_t bytes = CSC_SETTINGS_PRINT_BYTES;

    assert_int_equal(csc_settings_print(settings, text, &bytes), 0);
    return bytes;
}

static void test_round_trip(void **state)
{
    csc_settings in = sample(), out;
    char text[CSC_SETTINGS_PRINT_BYTES];
    size_t bytes;

    (void)state;
    in.file_budget_bytes = INT64_MAX;
    bytes = print(&in, text);
    assert_memory_equal(text, HEAD, strlen(HEAD));
    assert_int_equal(csc_settings_parse(text, bytes, &out), 0);
    assert_same(&in, &out);
}

static void test_hand_edited(void **state)
{
    const csc_settings expected = sample();
    csc_settings settings;

    (void)state;
    assert_int_equal(parse(HEAD ALL, &settings), 0);
    assert_same(&settings, &expected);
    assert_int_equal(parse("cascade-store 1 \r\n\r\n# why\n" POLICY SEG "\t dram_bytes=4GiB \r\n"
                           "  # more = less\n" UUID BUDGET PAGE "\n",
                           &settings),
                     0);
    assert_same(&settings, &expected);
}

/* Every cut is noticed, except one that takes nothing but the checksum line. */
static void test_cut_short(void **state)
{
    const csc_settings in = sample();
    char text[CSC_SETTINGS_PRINT_BYTES];
    size_t bytes = print(&in, text), without_checksum;
    csc_settings out;

    (void)state;
    text[bytes] = '\0';
    without_checksum = (size_t)(strstr(text, "checksum =") - text);
    for (size_t cut = 0; cut < bytes; cut++) {
        int status = csc_settings_parse(text, cut, &out);

        if (cut == without_checksum)
            assert_int_equal(status, 0);
        else
            assert_int_equal(status, cut < strlen(HEAD) - 1 ? CASCADE_EFORMAT : CASCADE_ECORRUPT);
    }
}

static void test_flipped_bits(void **state)
{
    const csc_settings in = sample();
    char text[CSC_SETTINGS_PRINT_BYTES];
    size_t bytes = print(&in, text);
    csc_settings out;

    (void)state;
    for (size_t bit = 0; bit < 8 * bytes; bit++) {
        text[bit / 8] ^= (char)(1 << bit % 8);
        int status = csc_settings_parse(text, bytes, &out);
        text[bit / 8] ^= (char)(1 << bit % 8);
        if (status == 0) { /* a flip that makes the checksum line a comment is harmless */
            assert_same(&in, &out);
            continue;
        }
        assert_true(status == CASCADE_EFORMAT || status == CASCADE_ECORRUPT || status == CASCADE_EINVAL);
    }
}

static void test_bad_text(void **state)
{
    static const struct {
        const char *text;
        int code;
        const char *detail;
    } bad[] = {
        {"", CASCADE_EFORMAT, "line 1"},
        {"\n" HEAD ALL, CASCADE_EFORMAT, "line 1"},
        {"cascade-store 2\n" ALL, CASCADE_EFORMAT, "newer"},
        {"\x7f"
         "ELF",
         CASCADE_EFORMAT, "line 1"},
        {HEAD UUID "colour = red\n" PAGE, CASCADE_EINVAL, "line 3: there is no setting named 'colour'"},
        {HEAD UUID PAGE UUID, CASCADE_EINVAL, "line 4: uuid was set before"},
        {HEAD "page_bytes\n", CASCADE_EINVAL, "line 2: expected"},
        {HEAD "page_bytes = 65537\n", CASCADE_EINVAL, "line 2: page_bytes"},
        {HEAD "page_bytes = 2KiB\n", CASCADE_EINVAL, "page_bytes"},
        {HEAD "page_bytes = 4MiB\n", CASCADE_EINVAL, "page_bytes"},
        {HEAD "page_bytes = 0\n", CASCADE_EINVAL, "page_bytes"},
        {HEAD "dram_bytes = -1\n", CASCADE_EINVAL, "line 2: dram_bytes"},
        {HEAD "dram_bytes = \n", CASCADE_EINVAL, "line 2: dram_bytes"},
        {HEAD "dram_bytes = 9223372036854775808\n", CASCADE_EINVAL, "dram_bytes"},
        {HEAD
         "segment_bytes = 00000000000000000000000000000000000000000000000000000000000000000000001\n",
         CASCADE_EINVAL, "too long"},
        {HEAD "policy = Hazard\n", CASCADE_EINVAL, "policy"},
        {HEAD "policy = a-word-of-16-is\n", CASCADE_EINVAL, "policy"},
        {HEAD "uuid = 00\n", CASCADE_EINVAL, "uuid"},
        {HEAD "uuid = 000102030405060708090a0b0c0d0e0g\n", CASCADE_EINVAL, "uuid"},
        {HEAD "policy = haz\001rd\n", CASCADE_ECORRUPT, "line 2: holds a control"},
        {HEAD UUID PAGE DRAM BUDGET SEG, CASCADE_ECORRUPT, "without policy"},
        {HEAD UUID PAGE DRAM BUDGET SEG "policy = hazard", CASCADE_ECORRUPT, "line 7: the file ends"},
        {HEAD ALL "checksum = 0000000000000000\n", CASCADE_ECORRUPT, "line 8: the checksum"},
        {HEAD ALL "checksum = \n", CASCADE_ECORRUPT, "line 8: the checksum"},
    };
    csc_settings settings;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        memset(&settings, 0x5a, sizeof settings);
        assert_int_equal(parse(bad[i].text, &settings), bad[i].code);
        if (!strstr(cascade_last_error(), bad[i].detail))
            fail_msg("case %zu: '%s' does not hold '%s'", i, cascade_last_error(), bad[i].detail);
        assert_int_equal(settings.uuid[0], 0x5a);
    }
}

static void test_after_checksum(void **state)
{
    const csc_settings in = sample();
    char text[CSC_SETTINGS_PRINT_BYTES + 16];
    size_t bytes = print(&in, text);
    csc_settings out;

    (void)state;
    memcpy(text + bytes, "# x\n", 5);
    assert_int_equal(parse(text, &out), CASCADE_ECORRUPT);
    assert_non_null(strstr(cascade_last_error(), "after the checksum"));
}

static void test_too_large(void **state)
{
    size_t bytes = CSC_SETTINGS_BYTES_MAX + 1;
    char *text = malloc(bytes);
    csc_settings settings;

    (void)state;
    assert_non_null(text);
    memset(text, '\n', bytes);
    memcpy(text, HEAD ALL, strlen(HEAD ALL));
    assert_int_equal(csc_settings_parse(text, bytes - 1, &settings), 0);
    assert_int_equal(csc_settings_parse(text, bytes, &settings), CASCADE_EFORMAT);
    free(text);
}

static void test_print_refuses(void **state)
{
    csc_settings settings = sample();
    char text[CSC_SETTINGS_PRINT_BYTES] = "";
    size_t bytes = 10;

    (void)state;
    assert_int_equal(csc_settings_print(&settings, text, &bytes), CASCADE_ESIZE);
    assert_true(bytes > 10);
    assert_int_equal(text[0], 0);
    assert_int_equal(csc_settings_print(&settings, text, &bytes), 0);
    settings.page_bytes = 5000;
    assert_int_equal(csc_settings_print(&settings, text, &bytes), CASCADE_EINVAL);
    settings = sample();
    settings.dram_bytes = UINT64_MAX;
    assert_int_equal(csc_settings_print(&settings, text, &bytes), CASCADE_EINVAL);
    settings = sample();
    memset(settings.policy, 'a', sizeof settings.policy);
    assert_int_equal(csc_settings_print(&settings, text, &bytes), CASCADE_EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_hand_edited),
        cmocka_unit_test(test_cut_short),  cmocka_unit_test(test_flipped_bits),
        cmocka_unit_test(test_bad_text),   cmocka_unit_test(test_after_checksum),
        cmocka_unit_test(test_too_large),  cmocka_unit_test(test_print_refuses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
