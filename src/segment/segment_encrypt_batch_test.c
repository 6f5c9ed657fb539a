/* SPDX-License-Identifier: MIT */
/* Encrypting beside writing: batches larger than all requests, and failures in the middle of them. */
#include "segment/segment_testing.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MIB ((size_t)1 << 20)
#define KEY "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n"

static csc_keyring *ring;

static csc_tier *open_encrypted(void)
{
    csc_tier *tier = NULL;

    assert_int_equal(testing_open((csc_segment_options){.keyring = ring}, &tier), 0);
    return tier;
}

enum { LARGE = 2, BATCH = 40 };

static size_t bytes_in_batch(size_t i)
{
    return i < LARGE ? 41 * MIB + 5 : i * 20011;
}

/* One call; large records first, whose headers come after what is being encrypted. */
static int write_batch(csc_tier *tier, csc_tier_write *writes, cascade_piece *pieces)
{
    for (size_t i = 0; i < BATCH; i++)
        writes[i] = (csc_tier_write){.content = csc_tier_suite_content(i, pieces[i].bytes, 0),
                                     .pieces = &pieces[i],
                                     .piece_count = 1};
    return tier->ops->write(tier, writes, BATCH);
}

static void batches_larger_than_the_requests(void **state)
{
    static const int fails_at[] = {0, 3, 9, 14, 22}; /* 0: none does */
    csc_tier_write writes[BATCH];
    cascade_piece pieces[BATCH];
    size_t rounds_failed = 0;

    (void)state;
    for (size_t i = 0; i < BATCH; i++) {
        pieces[i] = (cascade_piece){malloc(bytes_in_batch(i) + 1), bytes_in_batch(i)};
        assert_non_null(pieces[i].data);
        csc_tier_suite_fill(pieces[i].data, pieces[i].bytes, i);
    }
    for (size_t f = 0; f < sizeof fails_at / sizeof fails_at[0]; f++) {
        csc_tier *tier = open_encrypted();
        size_t failed = 0;

        testing_fault = (testing_faults){.at = fails_at[f], .err = EIO, .only_growth = true};
        if (write_batch(tier, writes, pieces) != 0)
            for (size_t i = 0; i < BATCH; i++)
                failed += writes[i].status != 0;
        rounds_failed += failed > 0;
        testing_fault = (testing_faults){0};
        if (failed)
            assert_int_equal(write_batch(tier, writes, pieces), 0);
        for (size_t i = 0; i < BATCH; i++)
            assert_int_equal(testing_read(tier, &writes[i].place, i, bytes_in_batch(i), 0), 0);
        assert_int_equal(testing_stats(tier).quarantined, 0);
        tier->ops->close(&tier);
        testing_again();
    }
    assert_true(rounds_failed >= 2); /* a reservation that fails hurts nothing */
    for (size_t i = 0; i < BATCH; i++)
        free(pieces[i].data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(batches_larger_than_the_requests, testing_setup,
                                        testing_teardown),
    };
    int result;

    if (csc_keyring_parse(KEY, strlen(KEY), &ring))
        return 1;
    result = cmocka_run_group_tests_name("segment_encrypt_batch", tests, NULL, NULL);
    csc_keyring_destroy(&ring);
    return result;
}
