/* SPDX-License-Identifier: MIT */
/* Clients of a server that go, and servers that end. */
#include "base/clock.h"
#include "daemon/server_testing.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- those that go
 * ------------------------------------------------------------------------------------ */

static int to_child[2], to_test[2];

static void reserve_and_pin(void *context)
{
    char arena[512];
    csc_wire_name names[2] = {raw_name(1), raw_name(2)};

    (void)context;
    ST_CHECK(read(to_child[0], arena, sizeof arena) == sizeof arena);
    raw_attach(&a, arena);
    for (uint64_t i = 100; i < 110; i++)
        raw_reserve(&a, i, BYTES);
    ST_CHECK(raw_status(&a, CSC_WIRE_LOAD, 0, names, 2) == 0);
    ST_CHECK(write(to_test[1], "r", 1) == 1);
    for (;;)
        pause();
}

static pid_t spawn_client(void)
{
    assert_int_equal(pipe(to_child), 0);
    assert_int_equal(pipe(to_test), 0);
    return st_spawn(reserve_and_pin, NULL);
}

static void await_client(void)
{
    char arena[512] = "", byte;

    snprintf(arena, sizeof arena, "%s", path());
    assert_int_equal(write(to_child[1], arena, sizeof arena), sizeof arena);
    assert_int_equal(read(to_test[0], &byte, 1), 1);
}

static void kill_client(pid_t child)
{
    kill(child, SIGKILL);
    assert_int_equal(st_wait(child), -SIGKILL);
    for (int i = 0; i < 2; i++) {
        close(to_child[i]);
        close(to_test[i]);
    }
}

static void a_killed_client_leaves_nothing(void **state)
{
    pid_t child = spawn_client(); /* before there are threads */
    uint64_t before;

    (void)state;
    start();
    assert_int_equal(st_put(store, 1, 1, BYTES, 0, 0), 0);
    assert_int_equal(st_put(store, 2, 2, BYTES, 0, 0), 0);
    before = used_bytes();
    await_client();
    assert_int_equal(st_stats(store).pins, 2);
    assert_true(used_bytes() > before + 10 * BYTES);
    assert_int_equal(csc_server_idle_ns(server), 0);
    kill_client(child);
    UNTIL(used_bytes() == before && st_stats(store).pins == 0);
    assert_true(csc_server_idle_ns(server) > 0);
    stop();
}

/* Its connection's thread is busy, waiting for room, which there will be only when it is heard. */
static void who_goes_while_he_waits_is_heard(void **state)
{
    static const size_t held[] = {ST_MIB, ST_MIB, ST_MIB};
    cascade_options options = st_options();
    struct {
        csc_wire_header header;
        csc_wire_put item;
    } packet;
    raw_client others[3];
    uint64_t before;

    (void)state;
    options.put_wait_ms = 600000;
    start_with(options);
    for (int i = 0; i < 3; i++) {
        raw_attach(&others[i], path());
        raw_reserve(&others[i], 10 + (uint64_t)i, held[i]);
    }
    before = used_bytes();
    raw_attach(&a, path());
    raw_attach(&b, path());
    raw_reserve(&a, 1, 200000);
    raw_reserve(&b, 2, 500000);
    csc_wire_begin(&packet.header, CSC_WIRE_RESERVE, 9, 1);
    packet.item = raw_put_item(3, 800000);
    raw_send(&a, &packet, packet.header.bytes);
    raw_close(&a);
    UNTIL(used_bytes() < before + 600000);
    raw_close(&b);
    for (int i = 0; i < 3; i++)
        raw_close(&others[i]);
    UNTIL(used_bytes() == 0);
    stop();
}

/* The next holder of a dead client's area begins without what a late load put there; one who comes back
 * keeps his pins. */
static void an_area_changes_hands(void **state)
{
    pid_t child = spawn_client();
    csc_wire_name name = raw_name(1);
    csc_wire_attach attach;

    (void)state;
    start();
    assert_int_equal(st_put(store, 1, 1, BYTES, 0, 0), 0);
    assert_int_equal(st_put(store, 2, 2, BYTES, 0, 0), 0);
    await_client();
    kill_client(child);
    UNTIL(csc_server_idle_ns(server) > 0);
    raw_hello(&a, path());
    attach = (csc_wire_attach){.area = csc_arena_area(a.arena)};
    assert_int_equal(attach.area, 1); /* the dead one's */
    csc_slot_pin(csc_slot_guard(&a.slots), 5);
    assert_int_equal(raw_status(&a, CSC_WIRE_ATTACH, 0, &attach, 1), 0);
    assert_int_equal(st_stats(store).pins, 0);
    assert_int_equal(raw_status(&a, CSC_WIRE_LOAD, 0, &name, 1), 0);

    raw_hang_up(&a);
    assert_int_equal(csc_socket_connect(a.name, &a.fd), 0);
    {
        csc_wire_hello hello = {.version_least = 1, .version_most = 1};
        int fd = -1;

        assert_non_null(raw_ask(&a, CSC_WIRE_HELLO, 0, &hello, 1, &fd));
        close(fd);
    }
    assert_int_equal(raw_status(&a, CSC_WIRE_ATTACH, 0, &attach, 1), 0);
    assert_int_equal(st_stats(store).pins, 1);
    raw_close(&a);
    stop();
}

/* Its process may still be writing to what it reserved. */
static void who_hangs_up_keeps_its_pages_while_it_lives(void **state)
{
    csc_wire_content mine;

    (void)state;
    start();
    raw_attach(&a, path());
    mine = raw_reserve(&a, 1, BYTES);
    raw_hang_up(&a);
    UNTIL(csc_server_idle_ns(server) > 0);
    for (uint64_t i = 0; (i + 3) * BYTES < 4 * ST_MIB; i++)
        assert_int_equal(st_put(store, 100 + i, 100 + i, BYTES, 0, 0), 0);
    raw_fill(&a, &mine, BYTES, 1);
    for (uint64_t i = 0; (i + 3) * BYTES < 4 * ST_MIB; i++)
        assert_int_equal(st_get(store, 100 + i, 100 + i, BYTES, 0), 0);
    {
        uint64_t before = used_bytes();

        csc_arena_detach(&a.arena);
        UNTIL(used_bytes() < before);
    }
    stop();
}

static void who_does_not_read_holds_up_nobody(void **state)
{
    csc_wire_header stats;

    (void)state;
    start();
    raw_attach(&a, path());
    csc_wire_begin(&stats, CSC_WIRE_STATS, 1, 0);
    while (send(a.fd, &stats, sizeof stats, MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
        ;
    assert_int_equal(errno, EAGAIN);
    raw_attach(&b, path());
    assert_int_equal(raw_put(&b, 1, 10, BYTES, CASCADE_PUT_DURABLE), 0);
    raw_close(&b);
    csc_server_stop(&server, csc_clock_ns()); /* nor the end */
    raw_close(&a);
    st_close(&store);
}

/* ---- the end
 * ------------------------------------------------------------------------------------------- */

static void a_scrub_tells_how_far_it_is_and_ends_with_its_connection(void **state)
{
    csc_wire_scrub scrub = {.rate_bytes = 1};
    csc_wire_header packet[4] = {{0}};
    csc_wire_header *header = (csc_wire_header *)(void *)a.packet;
    size_t bytes;

    (void)state;
    start();
    for (uint64_t i = 0; i < 10; i++)
        assert_int_equal(st_put(store, i, i, BYTES, 0, 0), 0);
    raw_attach(&a, path());
    bytes = csc_wire_begin(packet, CSC_WIRE_SCRUB, 9, 1);
    memcpy(packet + 1, &scrub, sizeof scrub);
    raw_send(&a, packet, bytes);
    bytes = (size_t)recv(a.fd, a.packet, sizeof a.packet, 0);
    assert_int_equal(csc_wire_check_answer(a.packet, bytes, CSC_WIRE_SCRUB, 9, 1), 0);
    assert_true(header->type & CSC_WIRE_PROGRESS);
    raw_close(&a);
    stop(); /* does not wait for ten blocks at a byte a second */
}

static void a_server_after_a_server(void **state)
{
    (void)state;
    start();
    raw_attach(&a, path());
    assert_int_equal(raw_put(&a, 1, 2, BYTES, 0), 0);
    csc_server_stop(&server, INT64_MAX);
    assert_null(raw_ask(&a, CSC_WIRE_STATS, 0, NULL, 0, NULL));
    assert_int_equal(csc_socket_connect(a.name, &b.fd), CASCADE_EAGAIN);
    raw_close(&a);
    assert_int_equal(csc_server_start(store, NULL, &server), 0);
    raw_attach(&a, path());
    assert_int_equal(raw_put(&a, 3, 2, BYTES, 0), 0);
    raw_close(&a);
    stop();
    store = st_open();
    for (uint64_t i = 1; i < 5; i++)
        assert_int_equal(st_get(store, i, i, BYTES, 0), 0);
    st_close(&store);
}

static void serving_ends_when_told_or_idle(void **state)
{
    cascade_serve_options options = {.struct_bytes = sizeof options, .stop_fd = -1, .idle_ms = 1};
    int stop_pipe[2];

    (void)state;
    store = st_open();
    assert_int_equal(cascade_store_serve(store, NULL), CASCADE_EINVAL);
    assert_int_equal(cascade_store_serve(store, &options), 0);
    assert_int_equal(pipe(stop_pipe), 0);
    options = (cascade_serve_options){.struct_bytes = sizeof options, .stop_fd = stop_pipe[0]};
    assert_int_equal(write(stop_pipe[1], "s", 1), 1);
    assert_int_equal(st_put(store, 1, 1, BYTES, 0, 0), 0);
    assert_int_equal(cascade_store_serve(store, &options), 0);
    assert_int_equal(st_stats(store).dirty_bytes, 0);
    close(stop_pipe[0]);
    close(stop_pipe[1]);
    st_close(&store);
}

static _Atomic bool disk_hangs;

static ssize_t hanging_pwritev(int fd, const struct iovec *vectors, int count, off_t offset)
{
    while (atomic_load(&disk_hangs))
        st_sleep_ms(1);
    return pwritev(fd, vectors, count, offset);
}

/* A disk that does not take it in time: what is left is told, and is not lost. */
static void a_drain_has_an_end(void **state)
{
    static const csc_io_calls calls = {.pwritev = hanging_pwritev};
    cascade_serve_options options = {
        .struct_bytes = sizeof options, .stop_fd = -1, .idle_ms = 1, .drain_ms = 1};
    cascade_options how = st_options();

    (void)state;
    assert_int_equal(csc_store_open_with(&how, &calls, &store), 0);
    atomic_store(&disk_hangs, true);
    assert_int_equal(st_put(store, 1, 1, BYTES, 0, 0), 0);
    assert_int_equal(cascade_store_serve(store, &options), CASCADE_ETIMEDOUT);
    assert_non_null(strstr(cascade_last_error(), "60000 bytes"));
    atomic_store(&disk_hangs, false);
    options.drain_ms = 0;
    assert_int_equal(cascade_store_serve(store, &options), 0);
    st_close(&store);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, st_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_killed_client_leaves_nothing),
        CASE(who_goes_while_he_waits_is_heard),
        CASE(an_area_changes_hands),
        CASE(who_hangs_up_keeps_its_pages_while_it_lives),
        CASE(who_does_not_read_holds_up_nobody),
        CASE(a_scrub_tells_how_far_it_is_and_ends_with_its_connection),
        CASE(a_server_after_a_server),
        CASE(serving_ends_when_told_or_idle),
        CASE(a_drain_has_an_end),
    };

    return cmocka_run_group_tests_name("server's end", tests, NULL, NULL);
}
