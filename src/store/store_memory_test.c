/* SPDX-License-Identifier: MIT */
/* No memory for a list of what there is to do: the call says so, and not that it is done. Each malloc of
 * a call fails in turn; the linker has them come here. */
#include "store/store_testing.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>

#include <cmocka.h>

enum { KEYS = 60, BLOCK = 60 * 1024 };

static _Atomic int fails_at; /* so many calls from now; 0: none does */

void *__real_malloc(size_t bytes);
void *__wrap_malloc(size_t bytes);

void *__wrap_malloc(size_t bytes)
{
    if (atomic_load(&fails_at) > 0 && atomic_fetch_sub(&fails_at, 1) == 1) {
        errno = ENOMEM;
        return NULL;
    }
    return __real_malloc(bytes);
}

/* Nothing is done in the background but a first step. */
static cascade_options by_hand(void)
{
    cascade_options options = st_options();

    options.segment_bytes = 512 * ST_KIB;
    options.background_rate_bytes = 1;
    return options;
}

/* ---- gc ------------------------------------------------------------------------------------------- */

static cascade_store *with_waste(void)
{
    cascade_store *store = st_open_with(by_hand());

    for (uint64_t i = 0; i < KEYS; i++)
        assert_int_equal(st_put(store, i, i, BLOCK, 0, CASCADE_PUT_DURABLE), 0);
    for (uint64_t i = 0; i < KEYS; i++)
        if (i % 4)
            assert_int_equal(st_delete(store, i), 0);
    assert_int_equal(cascade_store_flush(store), 0);
    return store;
}

static void a_gc_is_not_done_without_memory(void **state)
{
    cascade_gc_report report, then;
    cascade_store *store = with_waste();
    bool reached = true;

    (void)state;
    for (int at = 1; reached; at++) {
        int code;

        atomic_store(&fails_at, at);
        code = cascade_store_gc(store, true, &then, NULL, NULL);
        reached = atomic_exchange(&fails_at, 0) == 0;
        if (code)
            assert_int_equal(code, CASCADE_ENOMEM);
        else
            assert_in_range(then.moved_segments, 2, KEYS);
    }
    for (int at = 1, code = -1; code; at++) {
        atomic_store(&fails_at, at);
        code = cascade_store_gc(store, false, &report, NULL, NULL);
        atomic_store(&fails_at, 0);
        if (code)
            assert_int_equal(code, CASCADE_ENOMEM);
    }
    assert_int_equal(cascade_store_gc(store, true, &then, NULL, NULL), 0);
    assert_int_equal(then.moved_segments, 0);
    for (uint64_t i = 0; i < KEYS; i++)
        assert_int_equal(st_get(store, i, i, BLOCK, 0), i % 4 ? CASCADE_MISS : 0);
    st_close(&store);
}

/* ---- scrub ---------------------------------------------------------------------------------------- */

static void leave_unsealed(void *context)
{
    cascade_store *store = st_open();

    (void)context;
    ST_CHECK(st_put(store, 3, 3, BLOCK, 0, CASCADE_PUT_DURABLE) == 0);
    raise(SIGKILL);
}

static void a_fix_is_not_done_without_memory(void **state)
{
    const cascade_scrub_options options = {.struct_bytes = sizeof options, .fix = true};
    cascade_verify_report report;
    cascade_store *store;

    (void)state;
    st_in_child(leave_unsealed, NULL, -SIGKILL);
    st_lose_memory();
    store = st_open_with(by_hand());
    assert_int_equal(cascade_store_verify(store, &report, NULL, NULL), 0); /* reading needs none after */
    for (int at = 1, code = -1; code; at++) {
        atomic_store(&fails_at, at);
        code = cascade_store_scrub(store, &options, &report, NULL, NULL);
        atomic_store(&fails_at, 0);
        if (code)
            assert_int_equal(code, CASCADE_ENOMEM);
    }
    assert_int_equal(st_stats(store).compactions, 1);
    assert_int_equal(st_get(store, 3, 3, BLOCK, 0), 0);
    st_close(&store);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, st_setup, st_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_gc_is_not_done_without_memory),
        CASE(a_fix_is_not_done_without_memory),
    };

    return cmocka_run_group_tests_name("store without memory", tests, NULL, NULL);
}
