/* SPDX-License-Identifier: MIT */
/* The golden vectors of docs/formats.md, "Namespace"; computed with Python's hashlib and struct. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cascade/cascade.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#define EMPTY                                                                                           \
    "43534e53010000000000000000000000000000000000000000000000000000000000000000000000"                  \
    "00000000000000000000000000000000"
#define FULL                                                                                            \
    "43534e5301000000180000006d6574612d6c6c616d612f4c6c616d612d332e312d3730420600000061316232633308000" \
    "000"                                                                                               \
    "62666c6f61743136000000000300000066613307000000c3a971756970650100000000010000000000005000000000000" \
    "00008"                                                                                             \
    "000000"

static cascade_namespace full(void)
{
    return (cascade_namespace){
        .struct_bytes = sizeof(cascade_namespace),
        .model = "meta-llama/Llama-3.1-70B",
        .revision = "a1b2c3",
        .dtype = "bfloat16",
        .numerics = "fa3",
        .tenant = "\xc3\xa9quipe",
        .layout_version = 1,
        .block_tokens = 256,
        .layer_count = 80,
        .kv_head_count = 8,
    };
}

static void check_encoding(const cascade_namespace *ns, const char *expected)
{
    uint8_t encoded[256];
    char text[2 * sizeof encoded + 1];
    size_t bytes = sizeof encoded;

    assert_int_equal(cascade_namespace_encode(ns, encoded, &bytes), 0);
    for (size_t i = 0; i < bytes; i++) {
        text[2 * i] = "0123456789abcdef"[encoded[i] >> 4];
        text[2 * i + 1] = "0123456789abcdef"[encoded[i] & 15];
    }
    text[2 * bytes] = '\0';
    assert_string_equal(text, expected);
}

static void check_key(const cascade_namespace *ns, const void *raw, size_t raw_bytes,
                      const char *expected)
{
    char text[2 * CASCADE_KEY_BYTES + 1];
    cascade_key key;

    assert_int_equal(cascade_key_fold(ns, raw, raw_bytes, &key), 0);
    cascade_key_format(&key, text);
    assert_string_equal(text, expected);
}

static void test_golden(void **state)
{
    const cascade_namespace empty = {.struct_bytes = sizeof empty}, filled = full();
    uint8_t raw[32];

    (void)state;
    for (size_t i = 0; i < sizeof raw; i++)
        raw[i] = (uint8_t)i;
    check_encoding(&empty, EMPTY);
    check_encoding(&filled, FULL);
    check_key(&empty, "x", 1, "e22151e89280e24f52db58391eba80a237e2d3c476c91b81e217f139cc2b8022");
    check_key(&filled, raw, sizeof raw,
              "5d324f9a3c1e21f04b968f526cf742e216369f2f82d8ec7e6207fe4b8a918fa0");
}

static void test_tenants(void **state)
{
    (void)state;
    assert_int_equal(cascade_tenant(NULL), 0);
    assert_int_equal(cascade_tenant(""), 0);
    assert_true(cascade_tenant("alice") == UINT64_C(0x2e2cca3315cf498e));
    assert_true(cascade_tenant("\xc3\xa9quipe") == UINT64_C(0x78f80caab9a5c8e5));
}

/* NULL and "" are the same name; moving a byte from one string to the next is another name. */
static void test_canonical(void **state)
{
    cascade_namespace a = {.struct_bytes = sizeof a, .model = "ab", .revision = "c", .lora = ""};
    cascade_namespace b = {.struct_bytes = sizeof b, .model = "a", .revision = "bc"};
    uint8_t encoded_a[100], encoded_b[100];
    size_t bytes_a = sizeof encoded_a, bytes_b = sizeof encoded_b;

    (void)state;
    assert_int_equal(cascade_namespace_encode(&a, encoded_a, &bytes_a), 0);
    assert_int_equal(cascade_namespace_encode(&b, encoded_b, &bytes_b), 0);
    assert_int_equal(bytes_a, bytes_b);
    assert_memory_not_equal(encoded_a, encoded_b, bytes_a);
    a.model = "a";
    a.revision = "bc";
    assert_int_equal(cascade_namespace_encode(&a, encoded_a, &bytes_a), 0);
    assert_memory_equal(encoded_a, encoded_b, bytes_a);
}

static void test_room(void **state)
{
    const cascade_namespace ns = full();
    uint8_t encoded[104] = {0};
    size_t bytes = 0;

    (void)state;
    assert_int_equal(cascade_namespace_encode(&ns, NULL, &bytes), CASCADE_ESIZE);
    assert_int_equal(bytes, sizeof encoded);
    bytes--;
    assert_int_equal(cascade_namespace_encode(&ns, encoded, &bytes), CASCADE_ESIZE);
    assert_int_equal(bytes, sizeof encoded);
    assert_int_equal(encoded[0], 0);
    assert_int_equal(cascade_namespace_encode(&ns, encoded, &bytes), 0);
    assert_int_equal(cascade_namespace_encode(&ns, NULL, &bytes), CASCADE_EINVAL);
    assert_int_equal(cascade_namespace_encode(&ns, encoded, NULL), CASCADE_EINVAL);
}

static void test_bad_strings(void **state)
{
    static const char *const bad[] = {
        "\x80",
        "\xc3",
        "\xc0\xaf",
        "\xe0\x9f\x80",
        "\xed\xa0\x80",
        "\xf0\x8f\x80\x80",
        "\xf4\x90\x80\x80",
        "\xf5\x80\x80\x80",
        "ok\xe2\x82",
        "\xe2\x82x",
    };
    cascade_namespace ns = full();
    char *longest = malloc(4098);
    cascade_key key;

    (void)state;
    assert_non_null(longest);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ns.lora = bad[i];
        assert_int_equal(cascade_key_fold(&ns, "x", 1, &key), CASCADE_EINVAL);
        assert_non_null(strstr(cascade_last_error(), "lora"));
    }
    ns.lora = "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x90\xb1 \xed\x9f\xbf \xf4\x8f\xbf\xbf";
    assert_int_equal(cascade_key_fold(&ns, "x", 1, &key), 0);

    memset(longest, 'a', 4097);
    longest[4097] = '\0';
    ns.model = longest;
    assert_int_equal(cascade_key_fold(&ns, "x", 1, &key), CASCADE_EINVAL);
    ns.model = ns.revision = ns.dtype = ns.lora = ns.numerics = ns.tenant = longest + 1;
    assert_int_equal(cascade_key_fold(&ns, "x", 1, &key), 0);
    free(longest);
}

static void test_bad_arguments(void **state)
{
    cascade_namespace ns = full();
    static const uint8_t raw[4097];
    cascade_key key = {{7}};

    (void)state;
    assert_int_equal(cascade_key_fold(NULL, "x", 1, &key), CASCADE_EINVAL);
    assert_int_equal(cascade_key_fold(&ns, NULL, 1, &key), CASCADE_EINVAL);
    assert_int_equal(cascade_key_fold(&ns, "x", 1, NULL), CASCADE_EINVAL);
    assert_int_equal(cascade_key_fold(&ns, raw, 0, &key), CASCADE_EINVAL);
    assert_int_equal(cascade_key_fold(&ns, raw, 4097, &key), CASCADE_EINVAL);
    ns.struct_bytes = 0;
    assert_int_equal(cascade_key_fold(&ns, "x", 1, &key), CASCADE_EINVAL);
    assert_int_equal(key.bytes[0], 7);
    ns.struct_bytes = sizeof ns;
    assert_int_equal(cascade_key_fold(&ns, raw, 4096, &key), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),      cmocka_unit_test(test_tenants),
        cmocka_unit_test(test_canonical),   cmocka_unit_test(test_room),
        cmocka_unit_test(test_bad_strings), cmocka_unit_test(test_bad_arguments),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
