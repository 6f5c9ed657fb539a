/* SPDX-License-Identifier: MIT */
/* A key that is bound to what the other node is still writing is put here: from one moment to the next
 * it means the new block, and whatever happens it means one of the two. */
#include "base/mark.h"
#include "store/store_private.h"
#include "store/store_two_nodes.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

/* Key 1 is the other's, in a segment that is not sealed. */
static void know_of_one(void)
{
    open_both();
    put_there(1, 1);
    assert_int_equal(get_later(here, 1, 1), 0);
}

/* ---- who reads meanwhile -------------------------------------------------------------------------- */

static _Atomic unsigned looks, misses;

/* As a reader does between two stores of the put. */
static void look_up(const char *name)
{
    cascade_key key = st_key(1);
    csc_held held = {0};
    int code = csc_hold(here, &(csc_name){.key = &key}, &held);

    (void)name;
    atomic_fetch_add(&looks, 1);
    atomic_fetch_add(&misses, code == CASCADE_MISS);
    if (held.slot)
        csc_slot_release(held.slot);
}

static void nobody_misses_it_meanwhile(void **state)
{
    (void)state;
    know_of_one();
    atomic_store(&csc_mark_hook_now, look_up);
    assert_int_equal(st_put(here, 1, 1, K, V, CASCADE_PUT_DURABLE), 0);
    atomic_store(&csc_mark_hook_now, NULL);
    assert_true(atomic_load(&looks) > 0);
    assert_int_equal(atomic_load(&misses), 0);
    assert_int_equal(st_stats(here).keys, 1);
    assert_int_equal(st_get(here, 1, 1, K, V), 0);
    assert_int_equal(unlink(path_there()), 0);
    close_one(&here);
    here = st_open_with(options_of(0, false));
    assert_int_equal(st_get(here, 1, 1, K, V), 0);
}

/* ---- a kill meanwhile ----------------------------------------------------------------------------- */

static const char *last_mark;

static void die_there(const char *name)
{
    if (strcmp(name, last_mark) == 0)
        raise(SIGKILL);
}

static void put_and_die(void *context)
{
    cascade_options options = options_of(0, false);
    cascade_store *store = NULL;

    (void)context;
    ST_CHECK(cascade_store_open(&options, &store) == 0);
    ST_CHECK(st_get(store, 1, 1, K, V) == 0);
    atomic_store(&csc_mark_hook_now, die_there);
    st_put(store, 1, 7, K, V, 0);
}

/* The other node, with key 1 in a segment that it writes, until it may end. */
static void be_there(void *context)
{
    const int *ends = context;
    cascade_store *store = st_open_with(options_of(1, true));
    char byte;

    close(ends[0]);
    ST_CHECK(st_put(store, 1, 1, K, V, CASCADE_PUT_DURABLE) == 0);
    ST_CHECK(write(ends[1], "r", 1) == 1);
    ST_CHECK(read(ends[1], &byte, 1) == 0);
}

/* It means what it did, or the new block for good. No store is open here at a fork: the thread sanitizer
 * has no threads in the child of a process that has some. */
static void a_kill_leaves_one_of_the_two(void **state)
{
    pid_t node;
    int ends[2];
    char byte;

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    node = st_spawn(be_there, ends);
    close(ends[1]);
    assert_int_equal(read(ends[0], &byte, 1), 1);
    last_mark = "key: rewritten";
    st_in_child(put_and_die, NULL, -SIGKILL);
    here = st_open_with(options_of(0, false));
    assert_int_equal(st_get(here, 1, 1, K, V), 0);
    close_one(&here);
    last_mark = "merge: key moved";
    st_in_child(put_and_die, NULL, -SIGKILL);
    here = st_open_with(options_of(0, false));
    assert_int_equal(st_get(here, 1, 7, K, V), 0);
    assert_int_equal(cascade_store_flush(here), 0);
    close(ends[0]);
    assert_int_equal(st_wait(node), 0);
    assert_int_equal(unlink(path_there()), 0);
    close_one(&here);
    here = st_open_with(options_of(0, false));
    assert_int_equal(st_get(here, 1, 7, K, V), 0);
}

/* ---- no room for another entry -------------------------------------------------------------------- */

/* All entries of keys are in use, and there can be no more. */
static void use_up_keys(void)
{
    csc_arena_header *header = here->index.header;

    for (uint64_t i = 1000; here->keys_made < atomic_load(&header->used[CSC_REGION_KEYS]); i++)
        assert_int_equal(st_put(here, i, 5, 64, 0, CASCADE_PUT_SYNC), 0);
    header->geometry.regions[CSC_REGION_KEYS].max = here->keys_made;
    assert_int_equal(st_put(here, 2, 2, K, V, 0), CASCADE_ENOSPC);
}

static void it_takes_no_entry(void **state)
{
    csc_slot *guard;

    (void)state;
    know_of_one();
    use_up_keys();
    guard = csc_slot_guard(&here->slots); /* a reader: what goes now is not used again */
    assert_non_null(guard);
    assert_int_equal(st_put(here, 1, 1, K, V, 0), 0);
    csc_slot_release(guard);
    assert_int_equal(st_get(here, 1, 1, K, V), 0);
}

/* ---- its parent ----------------------------------------------------------------------------------- */

enum { BYTES = 3000 };

static void its_parent_is_the_new_one(void **state)
{
    cascade_key two = st_key(2);
    cascade_info info;

    (void)state;
    open_both();
    assert_int_equal(st_put(there, 1, 1, BYTES, 0, 0), 0);
    assert_int_equal(st_put_child(there, 3, 1, BYTES), 0);
    assert_int_equal(st_put_child(there, 4, 1, BYTES), 0);
    assert_int_equal(st_put(there, 2, 2, BYTES, 0, CASCADE_PUT_DURABLE), 0);
    assert_int_equal(get_later(here, 99, 99), CASCADE_MISS); /* looks */
    assert_int_equal(st_put(here, 3, 3, BYTES, 0, 0), 0);
    assert_false(st_info(here, 3).has_parent);
    assert_int_equal(st_put_child(here, 4, 2, BYTES), 0);
    info = st_info(here, 4);
    assert_true(info.has_parent);
    assert_memory_equal(&info.parent, &two, sizeof two);
    /* The other's chain still counts: 4 is a child of 2 now. */
    assert_int_equal(st_put_child(here, 2, 4, BYTES), CASCADE_EINVAL);
    assert_int_equal(st_get(here, 2, 2, BYTES, 0), 0);
    assert_int_equal(cascade_store_flush(here), 0);
    close_one(&here);
    close_one(&there);
    here = st_open_with(options_of(0, false));
    assert_false(st_info(here, 3).has_parent);
    info = st_info(here, 4);
    assert_true(info.has_parent);
    assert_memory_equal(&info.parent, &two, sizeof two);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, two_setup, two_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(nobody_misses_it_meanwhile),
        CASE(a_kill_leaves_one_of_the_two),
        CASE(it_takes_no_entry),
        CASE(its_parent_is_the_new_one),
    };

    return cmocka_run_group_tests_name("store, weak keys", tests, NULL, NULL);
}
