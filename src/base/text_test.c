/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cascade/cascade.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

static void test_error_names(void **state)
{
    (void)state;
    assert_string_equal(cascade_error_name(0), "CASCADE_OK");
    assert_string_equal(cascade_error_name(1), "CASCADE_MISS");
    assert_string_equal(cascade_error_name(-1), "CASCADE_EINVAL");
    assert_string_equal(cascade_error_name(-19), "CASCADE_ECONFLICT");
    assert_string_equal(cascade_error_name(-1000), "CASCADE_UNKNOWN");
    assert_string_equal(cascade_error_text(CASCADE_EBUSY), "the store is in use by another process");
    assert_string_equal(cascade_error_text(77), "not a code of this library");
}

static void test_version(void **state)
{
    char text[32];

    (void)state;
    snprintf(text, sizeof text, "%d.%d.%d", CASCADE_VERSION_MAJOR, CASCADE_VERSION_MINOR,
             CASCADE_VERSION_PATCH);
    assert_string_equal(cascade_version(), text);
}

static void test_sizes(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {
        {"0", 0},
        {"65536", 65536},
        {"7B", 7},
        {"4GiB", UINT64_C(4) << 30},
        {"512M", UINT64_C(512) << 20},
        {"1.5g", UINT64_C(3) << 29},
        {"1k", 1024},
        {"2KB", 2048},
        {"3tib", UINT64_C(3) << 40},
        {"1P", UINT64_C(1) << 50},
        {"0.5K", 512},
        {"1.9999999999999999999999999K", 2047},
        {"9223372036854775807", INT64_MAX},
        {"8191P", UINT64_C(8191) << 50},
        {"000010", 10},
    };

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        uint64_t bytes = 1;

        assert_int_equal(cascade_size_parse(good[i].text, &bytes), 0);
        assert_int_equal(bytes, good[i].bytes);
    }
}

static void test_bad_sizes(void **state)
{
    static const char *const bad[] = {
        "",
        "G",
        "-1",
        "+1",
        " 1",
        "1 ",
        "1 G",
        "1.G",
        ".5G",
        "1.5",
        "1.5B",
        "1e3",
        "0x10",
        "4GiBB",
        "4iB",
        "4Gi",
        "4GBi",
        "1,5G",
        "1..5G",
        "8192P",
        "9223372036854775808",
        "18446744073709551616",
        "99999999999999999999999",
        "4X",
    };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        uint64_t bytes = 42;

        assert_int_equal(cascade_size_parse(bad[i], &bytes), CASCADE_EINVAL);
        assert_int_equal(bytes, 42);
    }
    assert_int_equal(cascade_size_parse(NULL, NULL), CASCADE_EINVAL);
    assert_int_equal(cascade_size_parse("4GiBx", &(uint64_t){0}), CASCADE_EINVAL);
    assert_non_null(strstr(cascade_last_error(), "4GiBx"));
}

static void test_hex(void **state)
{
    static const char id_text[] = "00112233445566778899aabbccddeeff";
    static const char key_text[] = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eff";
    char text[2 * CASCADE_KEY_BYTES + 1];
    cascade_key key, untouched;
    cascade_id id;

    (void)state;
    assert_int_equal(cascade_id_parse(id_text, &id), 0);
    assert_int_equal(id.bytes[1], 0x11);
    assert_int_equal(id.bytes[15], 0xff);
    cascade_id_format(&id, text);
    assert_string_equal(text, id_text);
    assert_int_equal(cascade_id_parse("00112233445566778899AABBCCDDEEFF", &id), 0);
    cascade_id_format(&id, text);
    assert_string_equal(text, id_text);

    assert_int_equal(cascade_key_parse(key_text, &key), 0);
    cascade_key_format(&key, text);
    assert_string_equal(text, key_text);

    untouched = key;
    assert_int_equal(cascade_key_parse(id_text, &key), CASCADE_EINVAL);
    assert_int_equal(cascade_key_parse(NULL, &key), CASCADE_EINVAL);
    assert_int_equal(cascade_key_parse("", &key), CASCADE_EINVAL);
    memcpy(text, key_text, sizeof text);
    text[63] = 'g';
    assert_int_equal(cascade_key_parse(text, &key), CASCADE_EINVAL);
    assert_non_null(strstr(cascade_last_error(), "character 64"));
    assert_memory_equal(&key, &untouched, sizeof key);
    assert_int_equal(cascade_id_parse(key_text, &id), CASCADE_EINVAL);
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(cascade_op_name(CASCADE_OP_PUT), "put");
    assert_string_equal(cascade_op_name(CASCADE_OP_GET_FILE), "get_file");
    assert_string_equal(cascade_op_name(CASCADE_OP_FLUSH), "flush");
    assert_null(cascade_op_name(CASCADE_OP_COUNT));
    assert_string_equal(cascade_tier_name(CASCADE_TIER_DRAM), "dram");
    assert_string_equal(cascade_tier_name(CASCADE_TIER_FILE), "file");
    assert_null(cascade_tier_name(CASCADE_TIER_COUNT));
    for (unsigned i = 0; i < CASCADE_OP_COUNT; i++)
        assert_non_null(cascade_op_name(i));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_error_names), cmocka_unit_test(test_version), cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_bad_sizes),   cmocka_unit_test(test_hex),     cmocka_unit_test(test_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
