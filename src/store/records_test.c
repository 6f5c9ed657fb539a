/* SPDX-License-Identifier: MIT */
/* Keys that were deleted: the latest delete counts, and when there are too many the older half goes. */
#include "store/store_private.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static cascade_store *store;

static int setup(void **state)
{
    (void)state;
    store = calloc(1, sizeof *store);
    return store ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    free(store->deleted);
    free(store);
    return 0;
}

static cascade_key key_of(uint64_t number)
{
    cascade_key key = {{0}};

    memcpy(key.bytes, &number, sizeof number);
    return key;
}

static bool hides(uint64_t number, uint64_t sequence)
{
    csc_binding binding = {.key = key_of(number), .sequence = sequence};

    return csc_deleted_hides(store, &binding);
}

static void delete_at(uint64_t number, uint64_t sequence)
{
    cascade_key key = key_of(number);

    csc_deleted_note(store, &key, sequence);
}

static void the_latest_delete_counts(void **state)
{
    (void)state;
    assert_false(hides(1, 1));
    delete_at(1, 10);
    assert_true(hides(1, 9));
    assert_false(hides(1, 10));
    assert_false(hides(2, 9));
    delete_at(1, 30);
    delete_at(1, 20);
    assert_true(hides(1, 29));
    assert_false(hides(1, 30));
}

static void all_of_some_are_kept(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 100000; i++)
        delete_at(i, i + 1000);
    for (uint64_t i = 0; i < 100000; i++)
        assert_true(hides(i, i + 999) && !hides(i, i + 1000));
}

/* As after as many puts: the sequences lie close together, and none is low. */
static void the_newest_of_many_are_kept(void **state)
{
    enum { MANY = 3000000 };

    (void)state;
    for (uint64_t i = 0; i < MANY; i++)
        delete_at(i, MANY + i);
    assert_true((uint64_t)store->deleted_room * sizeof *store->deleted <= UINT64_C(32) << 20);
    for (uint64_t i = MANY - MANY / 8; i < MANY; i++)
        assert_true(hides(i, MANY + i - 1));
    for (uint64_t i = 0; i < MANY / 8; i++)
        assert_false(hides(i, MANY + i - 1));
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(the_latest_delete_counts),
        CASE(all_of_some_are_kept),
        CASE(the_newest_of_many_are_kept),
    };

    return cmocka_run_group_tests_name("store, deleted keys", tests, NULL, NULL);
}
