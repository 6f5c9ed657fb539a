/* SPDX-License-Identifier: MIT */
/* A disk that is full or fails under binds and deletes alone, or while a segment is emptied: what was
 * acknowledged is not called flushed, and is there when the disk takes writes again. */
#include "base/mark.h"
#include "store/store_testing.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

enum { K = 9000, V = 4000 };

static _Atomic int space_error, sync_error; /* what the disk says; 0: nothing is wrong */

/* In place of the C library's: segments reserve space, and are synced, by these. The arena's calls keep
 * the size and pass. */
int fallocate(int fd, int mode, off_t offset, off_t bytes)
{
    if (mode && atomic_load(&space_error)) {
        errno = atomic_load(&space_error);
        return -1;
    }
    return (int)syscall(SYS_fallocate, fd, mode, offset, bytes);
}

int fdatasync(int fd)
{
    if (atomic_load(&sync_error)) {
        errno = atomic_load(&sync_error);
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}

static int clear(void **state)
{
    atomic_store(&space_error, 0);
    atomic_store(&sync_error, 0);
    return st_teardown(state);
}

/* A store with keys 1 and 2 on disk, open, with no segment of its own yet. */
static cascade_store *with_two_blocks(void)
{
    cascade_store *store = st_open();

    assert_int_equal(st_put(store, 1, 1, K, V, 0), 0);
    assert_int_equal(st_put(store, 2, 2, K, V, 0), 0);
    st_close(&store);
    return st_open();
}

static void a_full_disk_keeps_a_delete_in_memory(void **state)
{
    cascade_store *store = with_two_blocks();

    (void)state;
    atomic_store(&space_error, ENOSPC);
    assert_int_equal(st_delete(store, 1), 0);
    assert_int_equal(cascade_store_flush(store), CASCADE_ENOSPC);
    assert_int_equal(cascade_store_close(&store), CASCADE_ENOSPC);
    assert_int_equal(st_shm_count(), 1);
    atomic_store(&space_error, 0);
    for (int opens = 0; opens < 2; opens++) {
        store = st_open();
        assert_int_equal(st_get(store, 1, 1, K, V), CASCADE_MISS);
        assert_int_equal(st_get(store, 2, 2, K, V), 0);
        st_close(&store);
    }
}

static void a_bind_that_cannot_be_synced_is_not_flushed(void **state)
{
    cascade_store *store = with_two_blocks();

    (void)state;
    atomic_store(&sync_error, EIO);
    assert_int_equal(st_get(store, 1, 1, K, V), 0);
    assert_int_equal(st_put(store, 3, 1, K, V, CASCADE_PUT_SYNC), 0); /* merged: a bind alone */
    assert_int_equal(st_delete(store, 2), 0);
    for (int i = 0; i < 5; i++)
        assert_int_equal(cascade_store_flush(store), CASCADE_EIO);
    assert_int_equal(st_put(store, 3, 1, K, V, CASCADE_PUT_DURABLE), CASCADE_EIO);
    atomic_store(&sync_error, 0);
    assert_int_equal(cascade_store_flush(store), 0);
    assert_int_equal(st_stats(store).file_degraded, 0);
    st_close(&store);
    store = st_open();
    assert_int_equal(st_get(store, 2, 2, K, V), CASCADE_MISS);
    assert_int_equal(st_get(store, 3, 1, K, V), 0);
    st_close(&store);
}

/* The records of a round whose sync failed may be found by the next open all the same. */
static void a_delete_hides_what_a_failed_sync_left(void **state)
{
    cascade_store *store = with_two_blocks();

    (void)state;
    atomic_store(&sync_error, EIO);
    assert_int_equal(st_put(store, 3, 3, K, V, CASCADE_PUT_DURABLE), CASCADE_EIO);
    assert_int_equal(st_delete(store, 3), 0);
    atomic_store(&sync_error, 0);
    st_close(&store);
    store = st_open();
    assert_int_equal(st_get(store, 3, 3, K, V), CASCADE_MISS);
    st_close(&store);
}

static void leave_unsealed(void *context)
{
    cascade_store *store = st_open();

    (void)context;
    ST_CHECK(st_put(store, 3, 3, K, V, CASCADE_PUT_DURABLE) == 0);
    raise(SIGKILL);
}

/* Its segment stays until the copies are safe. */
static void a_segment_is_emptied_on_a_failing_disk(void **state)
{
    const cascade_scrub_options options = {.struct_bytes = sizeof options, .fix = true};
    cascade_verify_report report;
    cascade_store *store;

    (void)state;
    st_in_child(leave_unsealed, NULL, -SIGKILL);
    st_lose_memory();
    store = st_open();
    atomic_store(&sync_error, EIO);
    assert_int_equal(cascade_store_scrub(store, &options, &report, NULL, NULL), CASCADE_EIO);
    assert_int_equal(st_stats(store).compactions, 0);
    /* While the writer has work that fails: it does not wait for the end of that. */
    assert_int_equal(st_put(store, 4, 4, K, V, 0), 0);
    assert_int_equal(cascade_store_flush(store), CASCADE_EIO);
    assert_int_equal(cascade_store_scrub(store, &options, &report, NULL, NULL), CASCADE_EIO);
    atomic_store(&sync_error, 0);
    assert_int_equal(cascade_store_scrub(store, &options, &report, NULL, NULL), 0);
    assert_int_equal(st_stats(store).compactions, 1);
    assert_int_equal(st_get(store, 3, 3, K, V), 0);
    st_close(&store);
    store = st_open();
    assert_int_equal(st_get(store, 3, 3, K, V), 0);
    assert_int_equal(st_get(store, 4, 4, K, V), 0);
    st_close(&store);
}

/* What dram alone holds since the budget took its file copy has been flushed once: it goes. */
static void a_full_disk_does_not_fail_a_close_that_owes_nothing(void **state)
{
    enum { BLOCK = 4000, COUNT = 100 };
    cascade_options options = st_options();
    cascade_store *store;

    (void)state;
    options.dram_bytes = 512 * ST_KIB;
    options.file_budget_bytes = 256 * ST_KIB;
    options.segment_bytes = 64 * ST_KIB;
    options.policy = "lru";
    store = st_open_with(options);
    for (uint64_t i = 0; i < COUNT; i++) {
        assert_int_equal(st_put(store, i, i, BLOCK, 0, 0), 0);
        if (i % 20 == 19)
            assert_int_equal(cascade_store_flush(store), 0);
    }
    for (uint64_t i = 0; i < COUNT; i++)
        if (!st_info(store, i).in_file)
            assert_int_equal(st_get(store, i, i, BLOCK, 0), 0); /* now worth more than the files' */
    atomic_store(&space_error, ENOSPC);
    st_close(&store);
    atomic_store(&space_error, 0);
    store = st_open_with(options);
    assert_int_equal(st_stats(store).recovered_blocks, 0);
    assert_int_equal(st_stats(store).lost, 0);
    st_close(&store);
}

static _Atomic pid_t forked_in_close;

static void fork_in_a_round(const char *name)
{
    int stands[2];
    char byte;
    pid_t child;

    if (strcmp(name, "write: written") != 0 || atomic_load(&forked_in_close) || pipe(stands) != 0)
        return;
    child = fork();
    if (child == 0) {
        alarm(600); /* should nobody kill it */
        while (write(stands[1], "s", 1) == 1)
            pause();
    }
    if (read(stands[0], &byte, 1) == 1) /* the fork is over in the child too */
        atomic_store(&forked_in_close, child);
    close(stands[0]);
    close(stands[1]);
}

/* The child of a fork that met a close does not keep the arena that the close left. */
static void a_fork_during_a_close_that_fails(void **state)
{
    cascade_store *store = with_two_blocks();
    pid_t child;

    (void)state;
    atomic_store(&space_error, ENOSPC);
    assert_int_equal(st_delete(store, 1), 0);
    assert_int_equal(cascade_store_flush(store), CASCADE_ENOSPC);
    atomic_store(&forked_in_close, 0);
    atomic_store(&csc_mark_hook_now, fork_in_a_round);
    assert_int_equal(cascade_store_close(&store), CASCADE_ENOSPC);
    atomic_store(&csc_mark_hook_now, NULL);
    atomic_store(&space_error, 0);
    child = atomic_load(&forked_in_close);
    assert_true(child > 0);
    store = st_open();
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(st_wait(child), -SIGKILL);
    assert_int_equal(st_get(store, 1, 1, K, V), CASCADE_MISS);
    st_close(&store);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, st_setup, clear)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_full_disk_does_not_fail_a_close_that_owes_nothing),
        CASE(a_full_disk_keeps_a_delete_in_memory),
        CASE(a_bind_that_cannot_be_synced_is_not_flushed),
        CASE(a_fork_during_a_close_that_fails),
        CASE(a_delete_hides_what_a_failed_sync_left),
        CASE(a_segment_is_emptied_on_a_failing_disk),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
