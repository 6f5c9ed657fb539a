/* SPDX-License-Identifier: MIT */
/*
 * A daemon and its clients, each a process: what one puts the others find; reads go on while the daemon
 * stands still; whoever is killed leaves nothing, and takes nothing along.
 */
#include "store/store_private.h"
#include "store/store_testing.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { K = 40000, V = 3000, BLOCKS = 20 };

static int ready[2], stop[2];

/* ---- the daemon ---------------------------------------------------------------------------------- */

static void serve(void *context)
{
    cascade_serve_options options = {
        .struct_bytes = sizeof options, .stop_fd = stop[0], .drain_ms = 60000};
    cascade_store *store;

    (void)context;
    alarm(600);
    close(stop[1]);
    store = st_open();
    ST_CHECK(store->daemon == NULL);
    ST_CHECK(write(ready[1], "r", 1) == 1);
    ST_CHECK(cascade_store_serve(store, &options) == 0);
    ST_CHECK(cascade_store_close(&store) == 0);
}

static void open_pipes(void)
{
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    assert_int_equal(pipe2(stop, O_CLOEXEC), 0);
}

static void close_pipes(void)
{
    close(ready[0]);
    close(ready[1]);
    close(stop[0]);
    if (stop[1] >= 0)
        close(stop[1]);
}

static pid_t start_daemon(void)
{
    pid_t daemon = st_spawn(serve, NULL);
    char byte;

    assert_int_equal(read(ready[0], &byte, 1), 1);
    return daemon;
}

static void stop_daemon(pid_t daemon)
{
    close(stop[1]);
    stop[1] = -1;
    assert_int_equal(st_wait(daemon), 0);
    close_pipes();
}

static void kill_daemon(pid_t daemon)
{
    kill(daemon, SIGKILL);
    assert_int_equal(st_wait(daemon), -SIGKILL);
}

/* The daemon says that it serves before it listens. */
static cascade_store *open_client(void)
{
    cascade_options options = st_options();
    cascade_store *store = NULL;
    int code;

    do
        code = cascade_store_open(&options, &store);
    while (code == CASCADE_EBUSY && usleep(1000) == 0);
    ST_CHECK(code == 0);
    ST_CHECK(store->daemon != NULL);
    return store;
}

static uint64_t pins_of(cascade_store *store)
{
    return st_stats(store).pins;
}

/* ---- the calls ----------------------------------------------------------------------------------- */

static void what_one_puts_the_other_finds(void **state)
{
    cascade_store *one, *other;
    cascade_key keys[BLOCKS], key = st_key(3);
    cascade_view *view;
    cascade_info info;
    size_t matched, seen = 0;
    uint64_t cursor = 0;
    pid_t daemon;

    (void)state;
    open_pipes();
    daemon = start_daemon();
    one = open_client();
    other = open_client();
    for (uint64_t i = 0; i < BLOCKS; i++) {
        keys[i] = st_key(i);
        assert_int_equal(st_put(one, i, i, K, V, i == 3 ? CASCADE_PUT_DURABLE : 0), 0);
        assert_int_equal(st_get(other, i, i, K, V), 0);
    }
    assert_int_equal(cascade_prefix_match(other, keys, BLOCKS, &matched), 0);
    assert_int_equal(matched, BLOCKS);
    assert_int_equal(cascade_prefix_release(other, keys, BLOCKS), 0);
    assert_int_equal(st_get(other, 77, 77, K, V), CASCADE_MISS);
    assert_int_equal(cascade_block_view(other, &key, &view), 0);
    assert_true(st_view_is(view, 3, K, V));
    assert_int_equal(st_delete(one, 3), 0);
    assert_int_equal(st_get(other, 3, 3, K, V), CASCADE_MISS);
    assert_true(st_view_is(view, 3, K, V)); /* it stays for whoever looks at it */
    cascade_view_release(other, &view);
    assert_int_equal(st_delete(other, 3), CASCADE_MISS);
    assert_int_equal(cascade_block_info(one, &keys[4], &info), 0);
    assert_true(info.in_dram);
    assert_int_equal(info.k_bytes, K);
    while (cascade_key_next(one, &cursor, &key, &info) == 0)
        seen++;
    assert_int_equal(seen, BLOCKS - 1);
    assert_int_equal(cascade_store_flush(one), 0);
    assert_int_equal(st_stats(one).keys, BLOCKS - 1);
    assert_int_equal(st_stats(one).dirty_bytes, 0);
    st_sleep_ms(1);
    cascade_store_close(&one);
    cascade_store_close(&other);
    stop_daemon(daemon);
    one = st_open();
    assert_null(one->daemon);
    for (uint64_t i = 0; i < BLOCKS; i++)
        assert_int_equal(st_get(one, i, i, K, V), i == 3 ? CASCADE_MISS : 0);
    st_close(&one);
}

/* More than dram holds: the daemon writes down and brings up. */
static void what_left_dram_comes_back(void **state)
{
    enum { MANY = 200 };
    cascade_store *client;
    pid_t daemon;

    (void)state;
    open_pipes();
    daemon = start_daemon();
    client = open_client();
    for (uint64_t i = 0; i < MANY; i++)
        assert_int_equal(st_put(client, i, i, K, V, 0), 0);
    for (uint64_t i = 0; i < MANY; i++)
        assert_int_equal(st_get(client, i, i, K, V), 0);
    assert_int_equal(pins_of(client), 0);
    assert_true(st_stats(client).tiers[CASCADE_TIER_FILE].hits > 0);
    cascade_store_close(&client);
    stop_daemon(daemon);
}

static void batches_are_puts(void **state)
{
    enum { COUNT = 150 };
    static uint8_t bytes[COUNT][4096];
    cascade_piece pieces[COUNT];
    cascade_put puts[COUNT];
    cascade_store *client;
    pid_t daemon;

    (void)state;
    open_pipes();
    daemon = start_daemon();
    client = open_client();
    for (uint64_t i = 0; i < COUNT; i++) {
        st_fill(bytes[i], sizeof bytes[i], i);
        pieces[i] = (cascade_piece){bytes[i], sizeof bytes[i]};
        puts[i] = (cascade_put){.key = st_key(i), .block = {.k = &pieces[i], .k_count = 1}};
    }
    puts[7].block.k_count = 0; /* K must not be empty */
    assert_int_equal(cascade_block_put_many(client, puts, COUNT, CASCADE_PUT_SYNC), CASCADE_EINVAL);
    for (uint64_t i = 0; i < COUNT; i++) {
        assert_int_equal(puts[i].status, i == 7 ? CASCADE_EINVAL : 0);
        assert_int_equal(st_get(client, i, i, sizeof bytes[i], 0), i == 7 ? CASCADE_MISS : 0);
        assert_int_equal(puts[i].has_id, i != 7);
    }
    assert_int_equal(st_put(client, 1, 2, 4096, 0, CASCADE_PUT_VERIFY), CASCADE_ECONFLICT);
    assert_int_equal(st_put(client, 1, 1, 4096, 0, CASCADE_PUT_VERIFY), 0);
    cascade_store_close(&client);
    stop_daemon(daemon);
}

/* ---- a daemon that stands still, or dies ---------------------------------------------------------- */

static void reads_do_not_ask(void **state)
{
    cascade_store *client;
    cascade_key keys[BLOCKS];
    cascade_view *view;
    size_t matched;
    pid_t daemon;

    (void)state;
    open_pipes();
    daemon = start_daemon();
    client = open_client();
    for (uint64_t i = 0; i < BLOCKS; i++) {
        keys[i] = st_key(i);
        assert_int_equal(st_put(client, i, i, K, V, 0), 0);
    }
    kill(daemon, SIGSTOP);
    assert_int_equal(cascade_prefix_match(client, keys, BLOCKS, &matched), 0);
    assert_int_equal(matched, BLOCKS);
    for (uint64_t i = 0; i < BLOCKS; i++) {
        assert_int_equal(st_get(client, i, i, K, V), 0);
        assert_int_equal(cascade_block_view(client, &keys[i], &view), 0);
        assert_true(st_view_is(view, i, K, V));
        cascade_view_release(client, &view);
    }
    kill(daemon, SIGCONT);
    cascade_store_close(&client);
    stop_daemon(daemon);
}

static void the_next_daemon_is_found(void **state)
{
    cascade_store *client;
    cascade_key key = st_key(1);
    cascade_view *view;
    pid_t daemon;

    (void)state;
    open_pipes();
    daemon = start_daemon();
    client = open_client();
    for (uint64_t i = 0; i < BLOCKS; i++)
        assert_int_equal(st_put(client, i, i, K, V, 0), 0);
    assert_int_equal(cascade_block_view(client, &key, &view), 0);
    kill_daemon(daemon);
    assert_int_equal(st_get(client, 2, 2, K, V), 0); /* dram is there */
    assert_int_equal(st_put(client, 100, 100, K, V, 0), CASCADE_EAGAIN);
    daemon = start_daemon();
    while (st_put(client, 101, 101, K, V, 0) == CASCADE_EAGAIN)
        st_sleep_ms(1);
    assert_true(st_view_is(view, 1, K, V));
    for (uint64_t i = 0; i < BLOCKS; i++)
        assert_int_equal(st_get(client, i, i, K, V), 0);
    assert_int_equal(st_get(client, 101, 101, K, V), 0);
    assert_int_equal(pins_of(client), 1);
    cascade_view_release(client, &view);
    assert_int_equal(pins_of(client), 0);
    cascade_store_close(&client);
    stop_daemon(daemon);
}

static void pin_and_die(void *context)
{
    cascade_store *store = open_client();
    cascade_key key = st_key(1);
    cascade_view *view;

    (void)context;
    ST_CHECK(st_put(store, 50, 50, K, V, 0) == 0);
    ST_CHECK(cascade_block_view(store, &key, &view) == 0);
    raise(SIGKILL);
}

static void a_killed_client_leaves_nothing(void **state)
{
    cascade_store *client;
    pid_t daemon;

    (void)state;
    open_pipes();
    daemon = start_daemon();
    client = open_client();
    assert_int_equal(st_put(client, 1, 1, K, V, 0), 0);
    for (int i = 0; i < 40; i++) /* more than there are areas */
        st_in_child(pin_and_die, NULL, -SIGKILL);
    assert_int_equal(st_get(client, 50, 50, K, V), 0); /* acknowledged */
    while (pins_of(client))
        st_sleep_ms(1);
    cascade_store_close(&client);
    stop_daemon(daemon);
}

/* ---- many ----------------------------------------------------------------------------------------- */

static void work(void *context)
{
    cascade_store *store = open_client();
    uint64_t seed = *(const uint64_t *)context;

    for (int i = 0; i < 300; i++) {
        uint64_t number;
        int code;

        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
        number = (seed >> 33) % 150;
        code = st_get(store, number, number, K, V);
        ST_CHECK(code == 0 || code == CASCADE_MISS);
        if (code)
            ST_CHECK(st_put(store, number, number, K, V, 0) == 0);
        if (seed >> 60 == 0)
            ST_CHECK(st_delete(store, number) >= 0);
    }
    ST_CHECK(cascade_store_close(&store) == 0);
}

static void eight_at_work(void **state)
{
    cascade_store *client;
    uint64_t seeds[8];
    pid_t workers[8], daemon;

    (void)state;
    open_pipes();
    daemon = start_daemon();
    client = open_client();
    for (uint64_t i = 0; i < 8; i++) {
        seeds[i] = 1000 + i;
        workers[i] = st_spawn(work, &seeds[i]);
    }
    for (int i = 0; i < 8; i++)
        assert_int_equal(st_wait(workers[i]), 0);
    assert_int_equal(st_stats(client).lost, 0);
    assert_int_equal(pins_of(client), 0);
    cascade_store_close(&client);
    stop_daemon(daemon);
}

static char sockets[64];

static int setup(void **state)
{
    snprintf(sockets, sizeof sockets, "/tmp/daemon_test.XXXXXX");
    if (!mkdtemp(sockets))
        return -1;
    setenv("XDG_RUNTIME_DIR", sockets, 1);
    return st_setup(state);
}

static int teardown(void **state)
{
    st_remove_tree(sockets);
    return st_teardown(state);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(what_one_puts_the_other_finds),
        CASE(what_left_dram_comes_back),
        CASE(batches_are_puts),
        CASE(reads_do_not_ask),
        CASE(the_next_daemon_is_found),
        CASE(a_killed_client_leaves_nothing),
        CASE(eight_at_work),
    };

    return cmocka_run_group_tests_name("daemon", tests, NULL, NULL);
}
