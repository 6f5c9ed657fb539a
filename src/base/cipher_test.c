/* SPDX-License-Identifier: MIT */
#include "base/cipher.h"

#include "base/fail.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CHUNK         ((size_t)CSC_CIPHER_CHUNK_BYTES)
#define PAYLOAD_BYTES (CHUNK + 16)
#define KEYS                                                                                            \
    "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n"                                \
    "0000000000000000000000000000000000000000000000000000000000000001\n"

static csc_keyring *ring;
static csc_cipher *cipher;
static uint8_t *plain, *sealed, *opened;
static uint8_t tags[2 * CSC_CIPHER_TAG_BYTES];

static int set_up(void **state)
{
    (void)state;
    plain = malloc(PAYLOAD_BYTES);
    sealed = malloc(PAYLOAD_BYTES);
    opened = malloc(PAYLOAD_BYTES);
    if (!plain || !sealed || !opened || csc_keyring_parse(KEYS, strlen(KEYS), &ring) ||
        csc_cipher_create(ring, &cipher))
        return -1;
    for (size_t i = 0; i < PAYLOAD_BYTES; i++)
        plain[i] = (uint8_t)(i % 251);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    csc_cipher_destroy(&cipher);
    csc_cipher_destroy(&cipher);
    csc_keyring_destroy(&ring);
    free(plain);
    free(sealed);
    free(opened);
    return 0;
}

/* The record of the test vector in docs/formats.md. */
static csc_cipher_record vector_record(void)
{
    csc_cipher_record record = {.key_id = csc_keyring_first(ring),
                                .generation = UINT64_C(0x1122334455667788),
                                .offset = 4096,
                                .tenant = 7,
                                .k_bytes = 262144,
                                .v_bytes = 16};

    for (uint8_t i = 0; i < 16; i++)
        record.salt[i] = (uint8_t)(0x40 + i);
    for (uint8_t i = 0; i < 32; i++)
        record.digest[i] = (uint8_t)(0x80 + i);
    return record;
}

static void seal_vector(size_t step)
{
    csc_cipher_record record = vector_record();

    memset(tags, 0, sizeof tags);
    assert_int_equal(csc_cipher_begin_seal(cipher, &record, 0, tags), 0);
    for (size_t at = 0; at < PAYLOAD_BYTES; at += step) {
        size_t bytes = PAYLOAD_BYTES - at < step ? PAYLOAD_BYTES - at : step;

        assert_int_equal(csc_cipher_feed(cipher, plain + at, sealed + at, bytes), 0);
    }
    assert_int_equal(csc_cipher_end(cipher), 0);
}

/* Opens what lies in `sealed` from chunk `first` on. */
static int open_from(const csc_cipher_record *record, uint64_t first, size_t step)
{
    int code = csc_cipher_begin_open(cipher, record, first, tags + first * CSC_CIPHER_TAG_BYTES);

    memset(opened, 0, PAYLOAD_BYTES);
    for (size_t at = first * CHUNK; at < PAYLOAD_BYTES && code == 0; at += step) {
        size_t bytes = PAYLOAD_BYTES - at < step ? PAYLOAD_BYTES - at : step;

        code = csc_cipher_feed(cipher, sealed + at, opened + at, bytes);
    }
    return code ? code : csc_cipher_end(cipher);
}

/* The bytes of docs/formats.md, computed there by another implementation. */
static void the_test_vector(void **state)
{
    static const char begin_0[] = "\x9c\xe1\x40\x2f\xf0\x09\xca\x3b\xbe\x0c\x51\xce\xfe\x3d\x99\xc9";
    static const char tag_0[] = "\x32\xdb\x5e\x64\x66\xd3\x22\x71\xa4\x22\x37\x00\x05\x5d\x6b\x9e";
    static const char begin_1[] = "\x21\x7d\xc6\x44\xab\xb3\xf8\xd6\x5b\x9d\x92\x94\x6a\x8a\x16\x5e";
    static const char tag_1[] = "\xc6\x7e\x70\x12\x8d\xf8\x8f\x31\x0e\x43\xf8\x61\x60\xc2\xc5\x63";
    csc_cipher_record record = vector_record();

    (void)state;
    seal_vector(PAYLOAD_BYTES);
    assert_memory_equal(sealed, begin_0, 16);
    assert_memory_equal(tags, tag_0, 16);
    assert_memory_equal(sealed + CHUNK, begin_1, 16);
    assert_memory_equal(tags + 16, tag_1, 16);
    assert_int_equal(open_from(&record, 0, PAYLOAD_BYTES), 0);
    assert_memory_equal(opened, plain, PAYLOAD_BYTES);
}

static void pieces_of_any_size(void **state)
{
    static const size_t steps[] = {1, 15, 17, 4093, 4096, 65536, 100000, CHUNK, CHUNK + 1};
    csc_cipher_record record = vector_record();
    uint8_t *whole = malloc(PAYLOAD_BYTES);
    uint8_t whole_tags[sizeof tags];

    (void)state;
    seal_vector(PAYLOAD_BYTES);
    memcpy(whole, sealed, PAYLOAD_BYTES);
    memcpy(whole_tags, tags, sizeof tags);
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        memset(sealed, 0, PAYLOAD_BYTES);
        seal_vector(steps[i]);
        assert_memory_equal(sealed, whole, PAYLOAD_BYTES);
        assert_memory_equal(tags, whole_tags, sizeof tags);
        assert_int_equal(open_from(&record, 0, steps[i]), 0);
        assert_memory_equal(opened, plain, PAYLOAD_BYTES);
        assert_int_equal(open_from(&record, 1, steps[i]), 0);
        assert_memory_equal(opened + CHUNK, plain + CHUNK, 16);
    }
    /* In place. */
    assert_int_equal(csc_cipher_begin_open(cipher, &record, 0, tags), 0);
    assert_int_equal(csc_cipher_feed(cipher, sealed, sealed, PAYLOAD_BYTES), 0);
    assert_int_equal(csc_cipher_end(cipher), 0);
    assert_memory_equal(sealed, plain, PAYLOAD_BYTES);
    free(whole);
}

static void an_empty_payload(void **state)
{
    csc_cipher_record record = vector_record();

    (void)state;
    assert_int_equal(csc_cipher_begin_seal(cipher, &record, 0, NULL), 0);
    assert_int_equal(csc_cipher_feed(cipher, NULL, NULL, 0), 0);
    assert_int_equal(csc_cipher_end(cipher), 0);
}

/* Every bit of payload and tags, and everything in the record, is bound. */
static void what_was_changed_does_not_open(void **state)
{
    csc_cipher_record record = vector_record();
    csc_cipher_record other;

    (void)state;
    seal_vector(PAYLOAD_BYTES);
    for (size_t bit = 0; bit < sizeof tags * 8; bit += 7) {
        tags[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(open_from(&record, 0, PAYLOAD_BYTES), CASCADE_ECORRUPT);
        tags[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t bit = 3; bit < PAYLOAD_BYTES * 8; bit += 100001) {
        sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(open_from(&record, 0, 50000), CASCADE_ECORRUPT);
        sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
#define OTHER(field)                                                                                    \
    do {                                                                                                \
        other = record;                                                                                 \
        other.field ^= 1;                                                                               \
        assert_int_equal(open_from(&other, 1, PAYLOAD_BYTES), CASCADE_ECORRUPT);                        \
    } while (0)
    OTHER(salt[0]);
    OTHER(salt[15]);
    OTHER(generation);
    OTHER(offset);
    OTHER(digest[31]);
    OTHER(tenant);
    OTHER(k_bytes);
    OTHER(v_bytes);
#undef OTHER
    other = record;
    other.key_id = csc_key_id((const uint8_t[32]){[31] = 1}); /* the ring's second */
    assert_int_equal(open_from(&other, 1, PAYLOAD_BYTES), CASCADE_ECORRUPT);
    other.key_id = 5;
    assert_int_equal(open_from(&other, 1, PAYLOAD_BYTES), CASCADE_ENOKEY);
    assert_non_null(strstr(csc_fail_text(), "0000000000000005"));
    assert_int_equal(open_from(&record, 0, PAYLOAD_BYTES), 0);
    /* A chunk in another's place, with its own tag. */
    memcpy(tags, tags + 16, 16);
    memcpy(sealed, sealed + CHUNK, 16);
    assert_int_equal(csc_cipher_begin_open(cipher, &record, 0, tags), 0);
    assert_int_equal(csc_cipher_feed(cipher, sealed, opened, 16), 0);
    assert_int_equal(csc_cipher_end(cipher), CASCADE_ECORRUPT);
}

static void salts_differ(void **state)
{
    uint8_t a[CSC_CIPHER_SALT_BYTES], b[CSC_CIPHER_SALT_BYTES];

    (void)state;
    assert_int_equal(csc_cipher_salt(a), 0);
    assert_int_equal(csc_cipher_salt(b), 0);
    assert_memory_not_equal(a, b, sizeof a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_test_vector),  cmocka_unit_test(pieces_of_any_size),
        cmocka_unit_test(an_empty_payload), cmocka_unit_test(what_was_changed_does_not_open),
        cmocka_unit_test(salts_differ),
    };

    return cmocka_run_group_tests_name("cipher", tests, set_up, tear_down);
}
