/* SPDX-License-Identifier: MIT */
/*
 * What comes from the file tier: chains that are read ahead, batches, and a disk that does not answer in
 * time. Transfers are made by threads here (io_uring is forbidden by a filter), so that this file's
 * preadv stands between the store and the disk.
 */
#include "base/clock.h"
#include "base/mark.h"
#include "store/store_private.h"
#include "store/store_testing.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cmocka.h>

#define GUARD_NS (ST_PATIENCE_MS * UINT64_C(1000000)) /* what takes longer hangs */

enum { BYTES = 64 * 1024, CHAIN = 24 };

/* ---- the disk -------------------------------------------------------------------------------- */

static atomic_bool holding;
static atomic_uint held, most, calls;
static atomic_int company; /* each read waits until so many are under way, for a while */

static ssize_t read_disk(int fd, const struct iovec *vectors, int count, off_t offset)
{
    return syscall(SYS_preadv, fd, vectors, count, (long)offset, 0L);
}

ssize_t preadv(int fd, const struct iovec *vectors, int count, off_t offset)
{
    uint64_t until_ns = csc_clock_ns() + UINT64_C(100000000);
    unsigned now = atomic_fetch_add(&held, 1) + 1;

    atomic_fetch_add(&calls, 1);
    while (atomic_load(&holding))
        st_sleep_ms(1);
    while ((int)atomic_load(&held) < atomic_load(&company) && csc_clock_ns() < until_ns)
        st_sleep_ms(1);
    if (now > atomic_load(&most))
        atomic_store(&most, now);
    atomic_fetch_sub(&held, 1);
    return read_disk(fd, vectors, count, offset);
}

static bool forbid_uring(void)
{
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {.len = sizeof program / sizeof program[0], .filter = program};

    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

static int setup(void **state)
{
    atomic_store(&holding, false);
    atomic_store(&company, 0);
    atomic_store(&most, 0);
    return st_setup(state);
}

/* ---- what the tests share -------------------------------------------------------------------- */

/* A store whose blocks first, first + 1, ... are in files alone. */
static cascade_store *with_file_blocks(cascade_options options, uint64_t first, uint64_t count)
{
    cascade_store *store = st_open_with(options);

    for (uint64_t i = first; i < first + count; i++)
        assert_int_equal(st_put(store, i, i, BYTES, 0, 0), 0);
    st_close(&store);
    return st_open_with(options);
}

static void match(cascade_store *store, uint64_t first, uint64_t count)
{
    cascade_key keys[CHAIN];
    size_t matched = 0;

    for (uint64_t i = 0; i < count; i++)
        keys[i] = st_key(first + i);
    assert_int_equal(cascade_prefix_match(store, keys, count, &matched), 0);
    assert_int_equal(matched, count);
}

static void wait_in_dram(cascade_store *store, uint64_t number)
{
    uint64_t until_ns = csc_clock_ns() + GUARD_NS;

    while (!st_info(store, number).in_dram) {
        assert_true(csc_clock_ns() < until_ns);
        st_sleep_ms(1);
    }
}

static cascade_tier_stats dram_of(cascade_store *store)
{
    return st_stats(store).tiers[CASCADE_TIER_DRAM];
}

/* ---- ahead ----------------------------------------------------------------------------------- */

/* The first block is asked for; the others are in dram when their turn comes, however long the chain. */
static void follow(cascade_store *store, uint64_t first)
{
    cascade_stats before = st_stats(store), after;

    match(store, first, CHAIN);
    assert_int_equal(st_get(store, first, first, BYTES, 0), 0);
    for (uint64_t i = first + 1; i < first + CHAIN; i++) {
        wait_in_dram(store, i);
        assert_int_equal(st_get(store, i, i, BYTES, 0), 0);
    }
    after = st_stats(store);
    assert_true(after.tiers[CASCADE_TIER_DRAM].hits - before.tiers[CASCADE_TIER_DRAM].hits >= CHAIN - 1);
    assert_true(after.read_ahead_blocks - before.read_ahead_blocks >= CHAIN - 1);
}

static void a_chain_is_read_ahead(void **state)
{
    cascade_store *store = with_file_blocks(st_options(), 0, CHAIN);

    (void)state;
    follow(store, 0);
    st_close(&store);
}

/* Dram is full of blocks that are worth more: the chain passes through, they stay. */
static void a_chain_passes_through_full_dram(void **state)
{
    cascade_store *store = with_file_blocks(st_options(), 0, CHAIN);
    unsigned stayed = 0;

    (void)state;
    for (int round = 0; round < 4; round++)
        for (uint64_t i = 100; i < 162; i++) {
            assert_int_equal(round ? st_get(store, i, i, BYTES, 0) : st_put(store, i, i, BYTES, 0, 0),
                             0);
        }
    assert_int_equal(cascade_store_flush(store), 0);
    follow(store, 0);
    for (uint64_t i = 100; i < 162; i++)
        stayed += st_info(store, i).in_dram;
    assert_true(stayed > 30);
    st_close(&store);
}

/* A match that ends in the file tier is enough. */
static void a_match_is_enough(void **state)
{
    cascade_store *store = with_file_blocks(st_options(), 0, CHAIN);

    (void)state;
    match(store, 0, 3);
    for (uint64_t i = 0; i < 3; i++)
        wait_in_dram(store, i);
    assert_true(st_stats(store).read_ahead_blocks >= 3);
    for (uint64_t i = 0; i < 3; i++)
        assert_int_equal(st_get(store, i, i, BYTES, 0), 0);
    assert_int_equal(st_stats(store).tiers[CASCADE_TIER_FILE].hits, 0);
    st_close(&store);
}

/* ---- many ------------------------------------------------------------------------------------ */

static void many_go_out_together(void **state)
{
    enum { MANY = 90 };
    static uint8_t bytes[MANY][BYTES];
    static cascade_get gets[MANY];
    static cascade_piece pieces[MANY];
    static uint8_t expected[BYTES];
    cascade_store *store = with_file_blocks(st_options(), 0, MANY - 5);

    (void)state;
    assert_int_equal(st_get(store, 3, 3, BYTES, 0), 0); /* is in dram */
    for (uint64_t i = 0; i < MANY; i++) {
        pieces[i] = (cascade_piece){bytes[i], BYTES};
        gets[i] = (cascade_get){.key = st_key(i), .into = {.k = &pieces[i], .k_count = 1}};
    }
    gets[20].key = gets[21].key; /* twice the same */
    pieces[30].bytes -= 100;     /* too little room */
    atomic_store(&company, 8);
    atomic_store(&most, 0);
    assert_int_equal(cascade_block_get_many(store, gets, MANY), CASCADE_ESIZE);
    atomic_store(&company, 0);
    assert_true(atomic_load(&most) >= 8);
    for (uint64_t i = 0; i < MANY; i++) {
        assert_int_equal(gets[i].status, i == 30 ? CASCADE_ESIZE : i >= MANY - 5 ? CASCADE_MISS : 0);
        if (gets[i].status)
            continue;
        st_fill(expected, BYTES, i == 20 ? 21 : i);
        assert_memory_equal(bytes[i], expected, BYTES);
    }
    st_close(&store);
}

/* ---- a disk that does not answer ------------------------------------------------------------- */

/* However slow the disk is beside this test. */
static int get_at_last(cascade_store *store, uint64_t number)
{
    uint64_t until_ns = csc_clock_ns() + GUARD_NS;
    int code;

    while ((code = st_get(store, number, number, BYTES, 0)) == CASCADE_MISS && csc_clock_ns() < until_ns)
        st_sleep_ms(1);
    return code;
}

/* The get misses in time; the pages stay out of use until the disk has let go of them; then it hits. */
static void a_late_read_is_a_miss(void **state)
{
    cascade_options options = st_options();
    cascade_store *store;
    cascade_view *view = NULL;
    cascade_key key = st_key(1);
    uint64_t until_ns = csc_clock_ns() + GUARD_NS;
    unsigned before;

    (void)state;
    options.io_deadline_ms = 150;
    store = with_file_blocks(options, 1, 1);
    atomic_store(&holding, true);
    assert_int_equal(st_get(store, 1, 1, BYTES, 0), CASCADE_MISS);
    assert_int_equal(st_stats(store).file_timeouts, 1);
    assert_int_equal(st_stats(store).file_slow, 1);
    assert_int_equal(st_stats(store).lost, 0);
    before = atomic_load(&calls);
    assert_int_equal(st_get(store, 1, 1, BYTES, 0), CASCADE_MISS); /* at once */
    assert_int_equal(cascade_block_view(store, &key, &view), CASCADE_MISS);
    assert_int_equal(atomic_load(&calls), before);
    assert_int_equal(dram_of(store).used_bytes, BYTES);
    /* Others fill dram, all of it but those pages. */
    for (uint64_t i = 100; i < 163; i++)
        assert_int_equal(st_put(store, i, i, BYTES, 0, 0), 0);
    atomic_store(&holding, false);
    while (st_stats(store).file_slow || dram_of(store).used_bytes > dram_of(store).block_bytes) {
        assert_true(csc_clock_ns() < until_ns);
        st_sleep_ms(1);
    }
    for (uint64_t i = 100; i < 163; i++)
        assert_int_equal(get_at_last(store, i), 0);
    assert_int_equal(get_at_last(store, 1), 0);
    assert_int_equal(st_stats(store).lost, 0);
    st_close(&store);
}

/* The block is deleted, and the store closed, while the transfer runs. */
static void closed_while_late(void **state)
{
    cascade_options options = st_options();
    cascade_store *store;

    (void)state;
    options.io_deadline_ms = 100;
    store = with_file_blocks(options, 1, 2);
    atomic_store(&holding, true);
    assert_int_equal(st_get(store, 1, 1, BYTES, 0), CASCADE_MISS);
    assert_int_equal(st_get(store, 2, 2, BYTES, 0), CASCADE_MISS);
    assert_int_equal(st_delete(store, 1), 0);
    assert_int_equal(st_put(store, 1, 11, BYTES, 0, CASCADE_PUT_DURABLE), 0);
    assert_int_equal(st_get(store, 1, 11, BYTES, 0), 0);
    /* A put of a key whose block cannot be read says so, and does not try for ever. */
    assert_int_equal(st_put(store, 2, 2, BYTES, 0, CASCADE_PUT_VERIFY), CASCADE_ETIMEDOUT);
    atomic_store(&holding, false);
    st_close(&store);
    store = st_open();
    assert_int_equal(st_get(store, 1, 11, BYTES, 0), 0);
    assert_int_equal(st_get(store, 2, 2, BYTES, 0), 0);
    st_close(&store);
}

/* ---- a new owner ----------------------------------------------------------------------------- */

static void die_when_marked(const char *name)
{
    if (strcmp(name, "load: pages marked") == 0)
        raise(SIGKILL);
}

static cascade_options grace_options(void)
{
    cascade_options options = st_options();

    options.io_deadline_ms = 1500;
    return options;
}

static void die_loading(void *context)
{
    cascade_store *store = st_open_with(grace_options());

    (void)context;
    ST_CHECK(st_put(store, 50, 50, BYTES, 0, 0) == 0);
    atomic_store(&csc_mark_hook_now, die_when_marked);
    (void)st_get(store, 1, 1, BYTES, 0);
}

/* Pages that a dead owner's transfers were filling are no block's, and nobody's for a while. */
static void filled_pages_are_set_aside(void **state)
{
    cascade_store *store = with_file_blocks(grace_options(), 1, 3);
    uint64_t until_ns = csc_clock_ns() + GUARD_NS;

    (void)state;
    st_close(&store);
    st_in_child(die_loading, NULL, -SIGKILL);
    store = st_open();
    assert_int_equal(dram_of(store).blocks, 1);
    assert_int_equal(dram_of(store).used_bytes, 2 * BYTES);
    assert_false(st_info(store, 1).in_dram);
    assert_int_equal(st_get(store, 50, 50, BYTES, 0), 0);
    assert_int_equal(st_get(store, 1, 1, BYTES, 0), 0); /* into other pages */
    assert_int_equal(dram_of(store).used_bytes, 3 * BYTES);
    pthread_mutex_lock(&store->lock);
    store->set_aside_until_ns = 0; /* as if a read's time was over */
    pthread_mutex_unlock(&store->lock);
    while (dram_of(store).used_bytes > dram_of(store).block_bytes) {
        assert_true(csc_clock_ns() < until_ns);
        st_sleep_ms(1);
    }
    assert_int_equal(dram_of(store).blocks, 2);
    for (uint64_t i = 1; i < 4; i++)
        assert_int_equal(st_get(store, i, i, BYTES, 0), 0);
    st_close(&store);
}

static void die_when_doomed(const char *name)
{
    if (strcmp(name, "content: doomed") == 0)
        raise(SIGKILL);
}

static void die_dropping_a_late_block(void *context)
{
    cascade_store *store = st_open_with(grace_options());

    (void)context;
    atomic_store(&holding, true);
    ST_CHECK(st_get(store, 1, 1, BYTES, 0) == CASCADE_MISS);
    atomic_store(&csc_mark_hook_now, die_when_doomed);
    (void)st_delete(store, 1);
}

/* The same when the block was deleted while its pages were being filled. */
static void filled_pages_of_a_dropped_block(void **state)
{
    cascade_store *store = with_file_blocks(grace_options(), 1, 1);

    (void)state;
    st_close(&store);
    st_in_child(die_dropping_a_late_block, NULL, -SIGKILL);
    store = st_open();
    assert_int_equal(dram_of(store).blocks, 0);
    assert_int_equal(dram_of(store).used_bytes, BYTES);
    assert_int_equal(st_get(store, 1, 1, BYTES, 0), CASCADE_MISS); /* deleted */
    st_close(&store);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, st_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_chain_is_read_ahead),      CASE(a_chain_passes_through_full_dram),
        CASE(a_match_is_enough),          CASE(many_go_out_together),
        CASE(a_late_read_is_a_miss),      CASE(closed_while_late),
        CASE(filled_pages_are_set_aside), CASE(filled_pages_of_a_dropped_block),
    };

    if (!forbid_uring()) {
        print_message("# skipped: this kernel filters no system calls\n");
        return 77;
    }
    return cmocka_run_group_tests_name("store, loads", tests, NULL, NULL);
}
