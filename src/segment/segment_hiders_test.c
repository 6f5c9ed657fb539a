/* SPDX-License-Identifier: MIT */
/* The deletes and binds of a segment that is to go: all of them, from an index or from the records, or
 * an error; and reading them leaves the table as it is. */
#include "segment/segment_testing.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define KEY "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n"

enum { BYTES = 300000, DELETES = 5 };
static csc_keyring *ring;

static int make_ring(void **state)
{
    (void)state;
    return csc_keyring_parse(KEY, strlen(KEY), &ring);
}

static int destroy_ring(void **state)
{
    (void)state;
    csc_keyring_destroy(&ring);
    return 0;
}

static csc_tier *open_with(const csc_keyring *keyring)
{
    csc_tier *tier = NULL;

    assert_int_equal(testing_open((csc_segment_options){.keyring = keyring}, &tier), 0);
    return tier;
}

/* A segment of a block, a delete, a block, a delete and so on; returns its index. */
static uint32_t write_deletes(csc_tier *tier)
{
    uint32_t segment = 0;

    for (uint64_t i = 0; i < DELETES; i++) {
        csc_log_entry entry = {.is_delete = true, .binding = testing_binding(i, 0)};
        csc_place place;

        assert_int_equal(testing_write(tier, i, BYTES, 0, 1, &place), 0);
        assert_int_equal(csc_segment_log(tier, &entry, 1, &segment), 0);
    }
    assert_int_equal(tier->ops->sync(tier), 0);
    return segment;
}

/* The same, left by a handle that sealed it or not. */
static csc_tier *with_deletes(const csc_keyring *keyring, bool sealed)
{
    csc_tier *tier = open_with(keyring);

    write_deletes(tier);
    if (sealed)
        assert_int_equal(csc_segment_seal(tier), 0);
    tier->ops->close(&tier);
    return open_with(keyring);
}

/* How many there were. */
typedef struct hiders {
    uint64_t binds, deletes;
} hiders;

static int count_any(void *context, const csc_binding *binding, bool is_delete)
{
    hiders *seen = context;

    (void)binding;
    seen->deletes += is_delete;
    seen->binds += !is_delete;
    return 0;
}

static int count(void *context, const csc_binding *binding, bool is_delete)
{
    const hiders *seen = context;
    csc_binding expected = testing_binding(is_delete ? seen->deletes : seen->binds, 0);

    assert_memory_equal(&binding->key, &expected.key, sizeof expected.key);
    assert_int_equal(binding->sequence, expected.sequence);
    return count_any(context, binding, is_delete);
}

static void check(const csc_keyring *keyring, bool sealed)
{
    csc_tier *tier = with_deletes(keyring, sealed);
    csc_segment_info before, after;
    size_t listed = 1;

    csc_segment_list(tier, &before, &listed);
    assert_int_equal(listed, 1);
    assert_int_equal(before.sealed, sealed);
    assert_true(before.log_bytes > 0);
    for (int i = 0; i < 2; i++) {
        hiders seen = {0};

        assert_int_equal(csc_segment_hiders(tier, 0, count, &seen), 0);
        assert_int_equal(seen.deletes, DELETES);
        assert_int_equal(seen.binds, DELETES);
    }
    csc_segment_list(tier, &after, &listed);
    assert_int_equal(after.log_bytes, before.log_bytes);
    tier->ops->close(&tier);
}

static void from_an_index(void **state)
{
    (void)state;
    check(NULL, true);
}

static int spoil_the_first(void)
{
    static const uint8_t nothing[4096];
    int fd = open(testing_path(0, 0), O_WRONLY);
    ssize_t written = pwrite(fd, nothing, sizeof nothing, sizeof nothing);

    return close(fd) || written != sizeof nothing;
}

/* Of several MiB, so it is read in parts; and not passed over for the records, which are not there. */
static void from_a_large_index(void **state)
{
    enum { RECORD = 16000, RECORDS = 3 };
    csc_log_entry *entries = calloc(RECORD, sizeof *entries);
    csc_tier *tier = open_with(NULL);
    hiders seen = {0};
    uint32_t segment;

    (void)state;
    for (uint64_t i = 0; i < RECORDS; i++) {
        for (uint64_t k = 0; k < RECORD; k++)
            entries[k] =
                (csc_log_entry){.is_delete = true, .binding = testing_binding(i * RECORD + k, 0)};
        assert_int_equal(csc_segment_log(tier, entries, RECORD, &segment), 0);
    }
    assert_int_equal(csc_segment_seal(tier), 0);
    assert_int_equal(spoil_the_first(), 0);
    assert_int_equal(csc_segment_hiders(tier, segment, count_any, &seen), 0);
    assert_int_equal(seen.deletes, RECORDS * RECORD);
    free(entries);
    tier->ops->close(&tier);
}

static void from_records(void **state)
{
    (void)state;
    check(NULL, false);
}

static void from_an_index_of_an_encrypted_one(void **state)
{
    (void)state;
    check(ring, true);
}

static void from_records_of_an_encrypted_one(void **state)
{
    (void)state;
    check(ring, false);
}

/* What was not read would hide nothing any more when the segment goes. */
static void a_failing_disk_hides_none(void **state)
{
    (void)state;
    for (int sealed = 0; sealed < 2; sealed++) {
        csc_tier *tier = with_deletes(NULL, sealed);
        bool met = true;

        for (int at = 1; met; at++) {
            hiders seen = {0};
            int rc;

            testing_fault = (testing_faults){.at = at, .err = EIO};
            rc = csc_segment_hiders(tier, 0, count_any, &seen);
            met = testing_fault.met;
            testing_fault = (testing_faults){0};
            assert_true(rc == CASCADE_EIO || (seen.deletes == DELETES && seen.binds == DELETES));
            assert_true(met || rc == 0);
        }
        tier->ops->close(&tier);
        testing_remove();
        testing_directory();
    }
}

/* Zeroes a page: the last record, a log record, is one; an index of few entries too, and the trailer. */
static void spoil_page(off_t from_end)
{
    static const uint8_t nothing[4096];
    int fd = open(testing_path(0, 0), O_WRONLY);
    off_t at = lseek(fd, 0, SEEK_END) - from_end * (off_t)sizeof nothing;

    assert_int_equal(pwrite(fd, nothing, sizeof nothing, at), sizeof nothing);
    close(fd);
}

/* It was whole at open. What lies behind the damage is not seen, so the segment is not to go. */
static void damage_hides_none(void **state)
{
    (void)state;
    for (int sealed = 0; sealed < 2; sealed++) {
        csc_tier *tier = with_deletes(NULL, sealed);
        hiders seen = {0};

        if (sealed)
            spoil_page(1);
        spoil_page(sealed ? 3 : 1);
        assert_int_equal(csc_segment_hiders(tier, 0, count_any, &seen), CASCADE_ECORRUPT);
        tier->ops->close(&tier);
        testing_again();
    }
}

/* The same of one that this handle made. */
static void damage_of_its_own_hides_none(void **state)
{
    (void)state;
    for (int sealed = 0; sealed < 2; sealed++) {
        csc_tier *tier = open_with(NULL);
        hiders seen = {0};
        uint32_t segment = write_deletes(tier);

        assert_int_equal(sealed ? csc_segment_seal(tier) : csc_segment_give_up(tier), 0);
        if (sealed)
            spoil_page(1);
        assert_int_equal(csc_segment_hiders(tier, segment, count_any, &seen), 0);
        assert_int_equal(seen.deletes, DELETES);
        spoil_page(sealed ? 3 : 1);
        assert_int_equal(csc_segment_hiders(tier, segment, count_any, &seen), CASCADE_ECORRUPT);
        tier->ops->close(&tier);
        testing_again();
    }
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, testing_setup, testing_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(from_an_index),
        CASE(from_a_large_index),
        CASE(from_records),
        CASE(from_an_index_of_an_encrypted_one),
        CASE(from_records_of_an_encrypted_one),
        CASE(a_failing_disk_hides_none),
        CASE(damage_hides_none),
        CASE(damage_of_its_own_hides_none),
    };

    return cmocka_run_group_tests_name("segment, what hides", tests, make_ring, destroy_ring);
}
