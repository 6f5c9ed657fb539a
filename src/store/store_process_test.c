/* SPDX-License-Identifier: MIT */
/* Several processes: who may open what, what a fork leaves, and one directory with many writers. */
#include "store/store_testing.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { K = 30000, V = 5000 };

/* ---- in use ---------------------------------------------------------------------------------- */

static void find_busy(void *context)
{
    cascade_options options = st_options();
    cascade_store *store = NULL;
    char pid[32];

    snprintf(pid, sizeof pid, "%ld", *(const long *)context);
    ST_CHECK(cascade_store_open(&options, &store) == CASCADE_EBUSY);
    ST_CHECK(store == NULL);
    ST_CHECK(strstr(cascade_last_error(), pid) != NULL);
}

static void the_owner_is_named(void **state)
{
    cascade_options options = st_options();
    cascade_store *store = st_open(), *second = NULL;
    long me = getpid();

    (void)state;
    st_in_child(find_busy, &me, 0);
    assert_int_equal(cascade_store_open(&options, &second),
                     CASCADE_EBUSY); /* this process is no exception */
    assert_null(second);
    assert_int_equal(st_put(store, 1, 1, K, V, 0), 0);
    assert_int_equal(st_get(store, 1, 1, K, V), 0);
    st_close(&store);
    store = st_open();
    assert_int_equal(st_get(store, 1, 1, K, V), 0);
    st_close(&store);
}

/* ---- forks ----------------------------------------------------------------------------------- */

static cascade_store *inherited;
static cascade_view *inherited_view;

static void every_call_says_forked(void *context)
{
    uint8_t bytes[K];
    const cascade_piece piece = {bytes, K};
    cascade_key key = st_key(1);
    cascade_id id = {{0}};
    cascade_put put = {.key = key, .block = {&piece, 1, NULL, 0}};
    cascade_get get = {.key = key, .into = {&piece, 1, NULL, 0}};
    cascade_view *view = NULL;
    cascade_info info;
    cascade_stats stats = {.struct_bytes = sizeof stats};
    cascade_verify_report report;
    uint64_t cursor = 0;
    size_t matched;

    (void)context;
    ST_CHECK(cascade_block_put(inherited, &put, 0) == CASCADE_EFORKED);
    ST_CHECK(cascade_block_put_many(inherited, &put, 1, 0) == CASCADE_EFORKED);
    ST_CHECK(cascade_block_get(inherited, &key, &get.into) == CASCADE_EFORKED);
    ST_CHECK(cascade_block_get_many(inherited, &get, 1) == CASCADE_EFORKED);
    ST_CHECK(cascade_block_get_range(inherited, &key, 0, 1, bytes) == CASCADE_EFORKED);
    ST_CHECK(cascade_block_view(inherited, &key, &view) == CASCADE_EFORKED);
    ST_CHECK(cascade_block_info(inherited, &key, &info) == CASCADE_EFORKED);
    ST_CHECK(cascade_block_delete(inherited, &key) == CASCADE_EFORKED);
    ST_CHECK(cascade_key_next(inherited, &cursor, &key, &info) == CASCADE_EFORKED);
    ST_CHECK(cascade_prefix_match(inherited, &key, 1, &matched) == CASCADE_EFORKED);
    ST_CHECK(cascade_prefix_release(inherited, &key, 1) == CASCADE_EFORKED);
    ST_CHECK(cascade_prefetch(inherited, &key, 1) == CASCADE_EFORKED);
    ST_CHECK(cascade_content_put(inherited, 0, &put.block, 0, &id, NULL) == CASCADE_EFORKED);
    ST_CHECK(cascade_content_get(inherited, 0, &id, &put.block) == CASCADE_EFORKED);
    ST_CHECK(cascade_content_info(inherited, 0, &id, &info) == CASCADE_EFORKED);
    ST_CHECK(cascade_content_delete(inherited, 0, &id) == CASCADE_EFORKED);
    ST_CHECK(cascade_store_stats(inherited, &stats) == CASCADE_EFORKED);
    ST_CHECK(cascade_store_verify(inherited, &report, NULL, NULL) == CASCADE_EFORKED);
    ST_CHECK(cascade_store_flush(inherited) == CASCADE_EFORKED);
    ST_CHECK(strlen(cascade_last_error()) > 0);
    /* Its copies can be given up; the parent keeps what it has. */
    cascade_view_release(inherited, &inherited_view);
    ST_CHECK(inherited_view == NULL);
    alarm(600);
    ST_CHECK(cascade_store_close(&inherited) == 0);
    ST_CHECK(inherited == NULL);
}

static void the_child_of_a_fork(void **state)
{
    cascade_key key = st_key(1);

    (void)state;
    inherited = st_open();
    assert_int_equal(st_put(inherited, 1, 1, K, 0, CASCADE_PUT_SYNC), 0);
    assert_int_equal(cascade_block_view(inherited, &key, &inherited_view), 0);
    for (int i = 0; i < 3; i++)
        st_in_child(every_call_says_forked, NULL, 0);
    assert_int_equal(st_stats(inherited).pins, 1); /* the child's release was of its copy */
    assert_true(st_view_is(inherited_view, 1, K, 0));
    assert_int_equal(st_put(inherited, 2, 2, K, V, CASCADE_PUT_DURABLE), 0);
    assert_int_equal(st_get(inherited, 2, 2, K, V), 0);
    assert_int_equal(st_shm_count(), 1);
    cascade_view_release(inherited, &inherited_view);
    st_close(&inherited);
}

/* Descriptors of files in the store's directory that this process has. */
static size_t files_open(void)
{
    size_t found = 0;

    for (int fd = 0; fd < 1024; fd++) {
        char link[64], path[600];
        ssize_t bytes;

        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        bytes = readlink(link, path, sizeof path - 1);
        path[bytes > 0 ? bytes : 0] = 0;
        found += strstr(path, st_directory()) != NULL;
    }
    return found;
}

static void holds_no_file(void *context)
{
    (void)context;
    ST_CHECK(files_open() == 0);
}

/* A removed segment must not keep its space because a child lives on. */
static void the_child_of_a_fork_has_no_files(void **state)
{
    cascade_store *store = st_open();

    (void)state;
    assert_int_equal(st_put(store, 1, 1, K, V, CASCADE_PUT_DURABLE), 0);
    assert_true(files_open() > 0);
    st_in_child(holds_no_file, NULL, 0);
    assert_int_equal(st_put(store, 2, 2, K, V, CASCADE_PUT_DURABLE), 0);
    st_close(&store);
}

/* Forks where a thread of the store has moved an array and not yet noted where to. Such a child has the
 * old address, which is free. */
static _Atomic int forks_left;
static _Atomic int bad_children;

void *__real_realloc(void *old, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);

void *__wrap_realloc(void *old, size_t bytes)
{
    void *moved = __real_realloc(old, bytes);
    pid_t child;

    if (!inherited || atomic_load(&forks_left) <= 0 || atomic_fetch_sub(&forks_left, 1) <= 0)
        return moved;
    child = fork();
    if (child == 0) {
        alarm(600);
        _exit(cascade_store_close(&inherited) == 0 ? 0 : 1);
    }
    if (child < 0 || st_wait(child) != 0)
        atomic_fetch_add(&bad_children, 1);
    return moved;
}

static void the_child_of_a_fork_while_tables_grow(void **state)
{
    (void)state;
    inherited = st_open();
    atomic_store(&bad_children, 0);
    atomic_store(&forks_left, 64);
    for (uint64_t i = 0; i < 300; i++)
        assert_int_equal(st_put(inherited, i, i, 4096, 0, 0), 0);
    assert_int_equal(cascade_store_flush(inherited), 0);
    assert_in_range(atomic_exchange(&forks_left, 0), 0, 60); /* some came of it */
    assert_int_equal(atomic_load(&bad_children), 0);
    st_close(&inherited);
}

typedef struct outlived {
    int ready,
        stay; /* pipe ends: written by the child when it lives; read until the test closes its end */
} outlived;

static void wait_for_the_end(void *context)
{
    const outlived *pipes = context;
    char byte;

    ST_CHECK(write(pipes->ready, "r", 1) == 1); /* the fork is over here too: what is closed is closed */
    ST_CHECK(read(pipes->stay, &byte, 1) == 0);
}

/* Owns a store, leaves a child that knows nothing of it, and is killed. */
static void own_fork_die(void *context)
{
    cascade_store *store = st_open();
    cascade_key key = st_key(1);
    cascade_view *view = NULL;

    ST_CHECK(st_put(store, 1, 1, K, V, 0) == 0);
    ST_CHECK(cascade_block_view(store, &key, &view) == 0);
    (void)st_spawn(wait_for_the_end, context);
    raise(SIGKILL);
}

static void a_child_that_outlives_its_parent(void **state)
{
    cascade_store *store;
    int ready[2], stay[2];
    outlived pipes;
    char byte;

    (void)state;
    assert_int_equal(pipe(ready), 0);
    assert_int_equal(pipe2(stay, O_CLOEXEC), 0);
    pipes = (outlived){ready[1], stay[0]};
    {
        pid_t child;

        fflush(NULL);
        child = fork();
        if (child == 0) {
            close(stay[1]);
            own_fork_die(&pipes);
        }
        assert_true(child > 0);
        assert_int_equal(st_wait(child), -SIGKILL);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    store = st_open(); /* while the grandchild lives */
    assert_int_equal(st_stats(store).recovered_blocks, 1);
    assert_int_equal(st_stats(store).pins, 0);
    assert_int_equal(st_get(store, 1, 1, K, V), 0);
    st_close(&store);
    close(stay[1]);
    close(stay[0]);
    close(ready[0]);
    close(ready[1]);
}

static void *fork_often(void *context)
{
    (void)context;
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();

        if (child == 0)
            _exit(0);
        if (child < 0 || st_wait(child) != 0)
            abort();
    }
    return NULL;
}

/* Forks while the store works: the parent notices nothing. */
static void forks_under_load(void **state)
{
    cascade_store *store = st_open();
    pthread_t thread;

    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, fork_often, NULL), 0);
    for (uint64_t i = 0; i < 300; i++) {
        assert_int_equal(st_put(store, i, i, K, V, 0), 0);
        assert_int_equal(st_get(store, i / 2, i / 2, K, V), 0);
    }
    pthread_join(thread, NULL);
    st_close(&store);
}

/* ---- one directory, many writers ------------------------------------------------------------- */

static void two_ranks_at_once(void **state)
{
    cascade_options options = st_options();
    cascade_store *first = st_open_with(options), *second;

    (void)state;
    options.rank = 7;
    second = st_open_with(options);
    for (uint64_t i = 0; i < 100; i++) {
        assert_int_equal(st_put(first, i, i, K, V, 0), 0);
        assert_int_equal(st_put(second, 1000 + i, i, K, V, 0), 0);
        assert_int_equal(st_put(second, i, i, K, V, 0), 0); /* the same key in both */
    }
    for (uint64_t i = 0; i < 100; i++) {
        assert_int_equal(st_get(first, i, i, K, V), 0);
        assert_int_equal(st_get(second, 1000 + i, i, K, V), 0);
    }
    assert_int_equal(cascade_store_close(&second), 0);
    st_close(&first);
    /* Each finds what both wrote. */
    for (int reopened = 0; reopened < 2; reopened++) {
        options.rank = reopened ? 0 : 7;
        first = st_open_with(options);
        for (uint64_t i = 0; i < 100; i++) {
            assert_int_equal(st_get(first, i, i, K, V), 0);
            assert_int_equal(st_get(first, 1000 + i, i, K, V), 0);
        }
        assert_int_equal(st_stats(first).contents, 100);
        st_close(&first);
    }
    /* What one deletes stays deleted for all that open later. */
    options.rank = 0;
    first = st_open_with(options);
    for (uint64_t i = 0; i < 100; i += 2)
        assert_int_equal(st_delete(first, 1000 + i), 0);
    st_close(&first);
    options.rank = 7;
    first = st_open_with(options);
    for (uint64_t i = 0; i < 100; i++) {
        assert_int_equal(st_get(first, i, i, K, V), 0);
        assert_int_equal(st_get(first, 1000 + i, i, K, V), i % 2 ? 0 : CASCADE_MISS);
    }
    st_close(&first);
}

/* Two nodes: each its own shared memory, one directory, both rank 0. */
static void two_nodes_of_one_rank(void **state)
{
    cascade_options here = st_options(), there = st_options();
    cascade_store *first, *second;
    char other[600];

    (void)state;
    snprintf(other, sizeof other, "%s/other", st_directory());
    assert_int_equal(mkdir(other, 0700), 0);
    there.shm_directory = other;
    first = st_open_with(here);
    second = st_open_with(there);
    for (uint64_t i = 0; i < 60; i++) {
        assert_int_equal(st_put(first, i, i, K, V, i % 10 == 9 ? CASCADE_PUT_DURABLE : 0), 0);
        assert_int_equal(st_put(second, 1000 + i, 1000 + i, K, V, i % 10 == 4 ? CASCADE_PUT_DURABLE : 0),
                         0);
    }
    for (uint64_t i = 0; i < 60; i++) {
        assert_int_equal(st_get(first, i, i, K, V), 0);
        assert_int_equal(st_get(second, 1000 + i, 1000 + i, K, V), 0);
    }
    assert_in_range(st_segment_count(), 2, 100);
    assert_int_equal(cascade_store_close(&first), 0);
    assert_int_equal(cascade_store_close(&second), 0);
    first = st_open_with(here);
    assert_int_equal(st_stats(first).tiers[CASCADE_TIER_FILE].quarantined, 0);
    for (uint64_t i = 0; i < 60; i++) {
        assert_int_equal(st_get(first, i, i, K, V), 0);
        assert_int_equal(st_get(first, 1000 + i, 1000 + i, K, V), 0);
    }
    st_close(&first);
}

/* ---- leftovers ------------------------------------------------------------------------------- */

static void put_and_die(void *context)
{
    cascade_options options = st_options();
    cascade_store *store = NULL;

    options.directory = context;
    ST_CHECK(cascade_store_open(&options, &store) == 0);
    ST_CHECK(st_put(store, 1, 1, K, V, 0) == 0);
    raise(SIGKILL);
}

/* The arena of a killed owner whose store was removed goes at the next open of any store. */
static void orphaned_arenas_are_collected(void **state)
{
    char gone[600];
    cascade_store *store;

    (void)state;
    snprintf(gone, sizeof gone, "%s/gone", st_directory());
    st_in_child(put_and_die, gone, -SIGKILL);
    assert_int_equal(st_shm_count(), 1);
    st_remove_tree(gone);
    store = st_open();
    assert_int_equal(st_shm_count(), 1); /* this store's own */
    st_close(&store);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, st_setup, st_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(the_owner_is_named),
        CASE(the_child_of_a_fork),
        CASE(the_child_of_a_fork_has_no_files),
        CASE(the_child_of_a_fork_while_tables_grow),
        CASE(a_child_that_outlives_its_parent),
        CASE(forks_under_load),
        CASE(two_ranks_at_once),
        CASE(two_nodes_of_one_rank),
        CASE(orphaned_arenas_are_collected),
    };

    return cmocka_run_group_tests_name("store processes", tests, NULL, NULL);
}
