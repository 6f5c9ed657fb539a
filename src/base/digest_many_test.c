/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cascade/cascade.h>
#include <cmocka.h>
#include <string.h>

static cascade_piece piece(const char *text)
{
    return (cascade_piece){(void *)(uintptr_t)text, strlen(text)};
}

/* Expected ids: hashlib.sha256(k + v).hexdigest()[:32] in Python. */
static void test_ids(void **state)
{
    const cascade_piece k0[] = {piece("ab"), piece(""), piece("c")};
    const cascade_piece k1[] = {piece("key bytes ")};
    const cascade_piece v1[] = {piece("value "), piece("bytes")};
    const cascade_block blocks[] = {{k1, 1, v1, 2}, {k0, 3, NULL, 0}, {NULL, 0, NULL, 0}};
    static const char *const expected[] = {
        "e66e292557834fe04d9e28bb622c9477",
        "ba7816bf8f01cfea414140de5dae2223",
        "e3b0c44298fc1c149afbf4c8996fb924",
    };
    char text[CASCADE_ID_TEXT_BYTES];
    cascade_id ids[3];

    (void)state;
    assert_int_equal(cascade_digest_many(blocks, 3, ids), 0);
    for (size_t i = 0; i < 3; i++) {
        cascade_id_format(&ids[i], text);
        assert_string_equal(text, expected[i]);
    }
}

static void test_bad_arguments(void **state)
{
    const cascade_piece hole = {NULL, 1};
    const cascade_block with_hole = {&hole, 1, NULL, 0}, without_list = {NULL, 0, NULL, 2};
    cascade_id id;

    (void)state;
    assert_int_equal(cascade_digest_many(NULL, 0, NULL), 0);
    assert_int_equal(cascade_digest_many(NULL, 1, &id), CASCADE_EINVAL);
    assert_int_equal(cascade_digest_many(&with_hole, 1, &id), CASCADE_EINVAL);
    assert_int_equal(cascade_digest_many(&without_list, 1, &id), CASCADE_EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_bad_arguments),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
