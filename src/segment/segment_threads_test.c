/* SPDX-License-Identifier: MIT */
/* The file tier with readers beside everything the writer does. */
#include "segment/segment_testing.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#define MIB ((size_t)1 << 20)

enum { BUSY_COUNT = 120, BUSY_BYTES = 200000 };

static struct {
    csc_tier *tier;
    csc_place places[BUSY_COUNT];
    atomic_size_t written;
    atomic_bool done;
    atomic_int wrong;
} busy;

static void *read_busy(void *context)
{
    size_t at = *(const size_t *)context;

    while (!atomic_load(&busy.done)) {
        size_t written = atomic_load(&busy.written);

        if (written == 0)
            continue;
        at = (at * 31 + 7) % written;
        int rc = testing_read(busy.tier, &busy.places[at], at, BUSY_BYTES, 0);
        if (rc != 0 && rc != CASCADE_MISS)
            atomic_store(&busy.wrong, rc);
    }
    return NULL;
}

static void readers_beside_removal(void **state)
{
    static size_t starts[3] = {1, 2, 3};
    size_t before = testing_open_descriptors();
    csc_segment_info infos[64];
    pthread_t readers[3];

    (void)state;
    atomic_store(&busy.written, 0);
    atomic_store(&busy.done, false);
    atomic_store(&busy.wrong, 0);
    assert_int_equal(testing_open((csc_segment_options){.segment_bytes = MIB}, &busy.tier), 0);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(pthread_create(&readers[i], NULL, read_busy, &starts[i]), 0);
    }
    for (uint64_t i = 0; i < BUSY_COUNT; i++) {
        assert_int_equal(testing_write(busy.tier, i, BUSY_BYTES, 0, 1, &busy.places[i]), 0);
        atomic_store(&busy.written, i + 1);
        if (i % 16 == 15) {
            size_t count = 64;

            csc_segment_list(busy.tier, infos, &count);
            if (infos[0].sealed)
                assert_int_equal(csc_segment_remove(busy.tier, infos[0].segment), 0);
            assert_int_equal(busy.tier->ops->sync(busy.tier), 0);
        }
    }
    atomic_store(&busy.done, true);
    for (size_t i = 0; i < 3; i++)
        pthread_join(readers[i], NULL);
    assert_int_equal(atomic_load(&busy.wrong), 0);
    busy.tier->ops->close(&busy.tier);
    assert_int_equal(testing_open_descriptors(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(readers_beside_removal, testing_setup, testing_teardown),
    };

    return cmocka_run_group_tests_name("segment_threads", tests, NULL, NULL);
}
