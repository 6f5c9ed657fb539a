/* SPDX-License-Identifier: MIT */
/* The server, asked by clients that speak its packets; some do what they should not. */
#include "daemon/server_testing.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- what a client does --------------------------------------------------------------------------- */

static void a_client_puts_and_loads(void **state)
{
    csc_wire_name names[4];
    csc_wire_loaded loaded[4];
    const csc_wire_header *answer;

    (void)state;
    start();
    raw_attach(&a, path());
    assert_int_equal(raw_put(&a, 1, 4, BYTES, CASCADE_PUT_DURABLE), 0);
    for (uint64_t i = 0; i < 4; i++) {
        const csc_wire_put_result *results = csc_wire_items((csc_wire_header *)(void *)a.packet);

        assert_int_equal(results[i].flags, CSC_WIRE_HAS_ID);
        assert_memory_equal(results[i].id.bytes, st_id(1 + i, BYTES, 0).bytes, 16);
        assert_int_equal(st_get(store, 1 + i, 1 + i, BYTES, 0), 0);
        names[i] = raw_name(1 + i);
    }
    names[2] = (csc_wire_name){.id = st_id(3, BYTES, 0), .by_id = 1};
    names[3] = raw_name(99);
    answer = raw_ask(&a, CSC_WIRE_LOAD, 0, names, 4, NULL);
    assert_non_null(answer);
    assert_int_equal(answer->status, CASCADE_MISS);
    memcpy(loaded, csc_wire_items(answer), sizeof loaded);
    for (uint64_t i = 0; i < 3; i++)
        assert_true(raw_is(&a, &loaded[i], BYTES, 1 + i));
    assert_int_equal(loaded[3].status, CASCADE_MISS);
    assert_int_equal(st_stats(store).pins, 3);
    for (uint64_t i = 0; i < 3; i++)
        raw_release(&a, loaded[i].slot);
    assert_int_equal(st_stats(store).pins, 0);
    raw_close(&a);
    stop();
}

static void what_only_files_have_is_loaded(void **state)
{
    enum { COUNT = 20 };
    cascade_options options = st_options();
    csc_wire_name names[COUNT + 1];
    csc_wire_loaded loaded[COUNT + 1];
    const csc_wire_header *answer;

    (void)state;
    start_with(options);
    for (uint64_t i = 0; i < COUNT; i++)
        assert_int_equal(st_put(store, i, i, BYTES, 0, CASCADE_PUT_DURABLE), 0);
    st_push_out(store, COUNT - 1, 1000);
    raw_attach(&a, path());
    names[0] = raw_name(COUNT - 1); /* twice, side by side */
    for (uint64_t i = 0; i < COUNT; i++)
        names[1 + i] = raw_name(COUNT - 1 - i);
    answer = raw_ask(&a, CSC_WIRE_LOAD, 0, names, COUNT + 1, NULL);
    assert_non_null(answer);
    assert_int_equal(answer->status, 0);
    memcpy(loaded, csc_wire_items(answer), sizeof loaded);
    assert_int_equal(st_stats(store).pins, COUNT + 1);
    for (uint64_t i = 0; i < 200; i++) /* nothing takes what is pinned */
        assert_int_equal(st_put(store, 2000 + i, 2000 + i, BYTES, 0, 0), 0);
    for (uint64_t i = 0; i <= COUNT; i++)
        assert_true(raw_is(&a, &loaded[i], BYTES, i ? COUNT - i : COUNT - 1));
    raw_close(&a);
    UNTIL(st_stats(store).pins == 0);
    stop();
}

/* More than dram holds at once is loaded in parts. */
static void a_load_is_cut_where_dram_ends(void **state)
{
    enum { COUNT = 100 };
    cascade_options options = st_options();
    csc_wire_name names[COUNT];
    csc_wire_loaded loaded[COUNT];
    size_t done = 0;

    (void)state;
    options.put_wait_ms = 600000; /* nothing here waits for room */
    start_with(options);
    for (uint64_t i = 0; i < COUNT; i++) {
        assert_int_equal(st_put(store, i, i, BYTES, 0, 0), 0);
        names[i] = raw_name(i);
    }
    assert_int_equal(cascade_store_flush(store), 0);
    raw_attach(&a, path());
    while (done < COUNT) {
        const csc_wire_header *answer = raw_ask(&a, CSC_WIRE_LOAD, 0, names + done, COUNT - done, NULL);
        size_t count = COUNT - done, good = 0;

        assert_non_null(answer);
        memcpy(loaded, csc_wire_items(answer), count * sizeof *loaded);
        for (size_t i = 0; i < count; i++)
            if (loaded[i].status == 0) {
                assert_true(raw_is(&a, &loaded[i], BYTES, done + i));
                raw_release(&a, loaded[i].slot);
            } else {
                assert_int_equal(loaded[i].status, CASCADE_EAGAIN);
            }
        while (good < count && loaded[good].status == 0)
            good++;
        assert_true(good > 0);
        done += good;
    }
    raw_close(&a);
    stop();
}

static void keys_and_facts(void **state)
{
    csc_wire_key keys[2] = {{st_key(7)}, {st_key(7777)}};
    csc_wire_name name = raw_name(7);
    csc_wire_scrub scrub = {.verify = 1};
    const csc_wire_header *answer;
    const csc_wire_info *info;
    const csc_wire_client *client;
    size_t seen = 0;
    uint64_t cursor = 0;

    (void)state;
    start();
    raw_attach(&a, path());
    for (uint64_t i = 0; i < 300; i += 100)
        assert_int_equal(raw_put(&a, i, 100, 1000, 0), 0);
    do {
        answer = raw_ask(&a, CSC_WIRE_KEYS, cursor, NULL, 0, NULL);
        assert_non_null(answer);
        seen += answer->count;
        cursor = answer->value;
    } while (answer->count);
    assert_int_equal(seen, 300);
    answer = raw_ask(&a, CSC_WIRE_INFO, 0, &name, 1, NULL);
    info = csc_wire_items(answer);
    assert_int_equal(info->k_bytes, 1000);
    assert_int_equal(info->references, 1);
    assert_true(info->flags & CSC_WIRE_INFO_DRAM);
    answer = raw_ask(&a, CSC_WIRE_DELETE, 0, keys, 2, NULL);
    assert_int_equal(answer->status, CASCADE_MISS);
    assert_int_equal(((const csc_wire_status *)csc_wire_items(answer))[0].status, 0);
    assert_int_equal(((const csc_wire_status *)csc_wire_items(answer))[1].status, CASCADE_MISS);
    assert_int_equal(raw_status(&a, CSC_WIRE_INFO, 0, &name, 1), CASCADE_MISS);
    assert_int_equal(raw_status(&a, CSC_WIRE_PREFETCH, 0, keys, 2), 0);
    assert_int_equal(raw_status(&a, CSC_WIRE_FLUSH, 0, NULL, 0), 0);
    answer = raw_ask(&a, CSC_WIRE_STATS, 0, NULL, 0, NULL);
    assert_int_equal(((const csc_wire_stats *)csc_wire_items(answer))->stats.keys, 299);
    assert_int_equal(raw_status(&a, CSC_WIRE_GC, 1, NULL, 0), 0);
    assert_int_equal(raw_status(&a, CSC_WIRE_SCRUB, 0, &scrub, 1), 0);
    answer = raw_ask(&a, CSC_WIRE_CLIENTS, 0, NULL, 0, NULL);
    client = csc_wire_items(answer);
    assert_int_equal(answer->count, 1);
    assert_int_equal(client->pid, getpid());
    assert_int_equal(client->put_blocks, 300);
    assert_int_equal(client->put_bytes, 300 * 1000);
    assert_string_equal(client->program, "raw");
    raw_close(&a);
    stop();
}

/* What is bound is told at once, with what the flags of the put wait for. */
static void what_is_bound_is_settled_by_the_reserve(void **state)
{
    csc_wire_put item = raw_put_item(1, BYTES);
    const csc_wire_put_result *result;
    const csc_wire_header *answer;

    (void)state;
    start();
    raw_attach(&a, path());
    assert_int_equal(st_put(store, 1, 1, BYTES, 0, 0), 0);
    answer = raw_ask(&a, CSC_WIRE_RESERVE, CASCADE_PUT_DURABLE, &item, 1, NULL);
    assert_non_null(answer);
    assert_int_equal(answer->status, 0);
    result = csc_wire_items(answer);
    assert_int_equal(result->flags, CSC_WIRE_EXISTED | CSC_WIRE_HAS_ID);
    assert_memory_equal(result->id.bytes, st_id(1, BYTES, 0).bytes, 16);
    assert_true(st_info(store, 1).in_file);
    item.k_bytes = 0;
    assert_int_equal(raw_status(&a, CSC_WIRE_RESERVE, 0, &item, 1), CASCADE_EINVAL);
    item = raw_put_item(2, 1 << 30);
    assert_int_equal(raw_status(&a, CSC_WIRE_RESERVE, 0, &item, 1), CASCADE_ETOOBIG);
    assert_true(*csc_wire_text_of((csc_wire_header *)(void *)a.packet));
    raw_close(&a);
    stop();
}

/* ---- what it may not --------------------------------------------------------------------------------
 */

static void reservations_are_ones_own(void **state)
{
    csc_wire_content mine, other;

    (void)state;
    start();
    raw_attach(&a, path());
    raw_attach(&b, path());
    mine = raw_reserve(&a, 1, BYTES);
    assert_int_equal(raw_status(&b, CSC_WIRE_COMMIT, 0, &mine, 1), CASCADE_EINVAL);
    assert_int_equal(raw_status(&b, CSC_WIRE_ABANDON, 0, &mine, 1), CASCADE_EINVAL);
    other = (csc_wire_content){.number = mine.number, .generation = mine.generation + 1};
    assert_int_equal(raw_status(&a, CSC_WIRE_COMMIT, 0, &other, 1), CASCADE_EINVAL);
    raw_fill(&a, &mine, BYTES, 1);
    assert_int_equal(raw_status(&a, CSC_WIRE_COMMIT, 0, &mine, 1), 0);
    assert_int_equal(raw_status(&a, CSC_WIRE_COMMIT, 0, &mine, 1), CASCADE_EINVAL);
    mine = raw_reserve(&b, 2, BYTES);
    assert_int_equal(raw_status(&b, CSC_WIRE_ABANDON, 0, &mine, 1), 0);
    assert_int_equal(raw_status(&b, CSC_WIRE_ABANDON, 0, &mine, 1), CASCADE_EINVAL);
    assert_int_equal(st_get(store, 1, 1, BYTES, 0), 0);
    assert_in_range(used_bytes(), BYTES, BYTES + 4096);
    raw_close(&a);
    raw_close(&b);
    stop();
}

static void limits_of_reservations(void **state)
{
    cascade_options options = st_options();
    csc_wire_put items[CSC_WIRE_BATCH_MAX];

    (void)state;
    options.dram_bytes = 16 * ST_MIB;
    start_with(options);
    raw_attach(&a, path());
    for (uint64_t i = 0; i < 1024; i++) {
        items[i % 256] = raw_put_item(i, 100);
        if (i % 256 == 255)
            assert_int_equal(raw_status(&a, CSC_WIRE_RESERVE, 0, items, 256), 0);
    }
    items[0] = raw_put_item(1024, 100);
    assert_int_equal(raw_status(&a, CSC_WIRE_RESERVE, 0, items, 1), CASCADE_EAGAIN);
    raw_attach(&b, path());
    items[0] = raw_put_item(1, 3 * ST_MIB);
    items[1] = raw_put_item(2, 3 * ST_MIB);
    assert_int_equal(raw_status(&b, CSC_WIRE_RESERVE, 0, items, 2), CASCADE_EAGAIN);
    raw_close(&b);
    raw_close(&a);
    UNTIL(used_bytes() == 0);
    raw_attach(&b, path());
    items[0] = raw_put_item(1, 15 * ST_MIB); /* alone, as large as dram can hold */
    assert_int_equal(raw_status(&b, CSC_WIRE_RESERVE, 0, items, 1), 0);
    raw_close(&b);
    stop();
}

static void only_the_first_waits_for_room(void **state)
{
    static const size_t held[] = {ST_MIB, ST_MIB, ST_MIB, 500000};
    cascade_options options = st_options();
    csc_wire_put items[2] = {raw_put_item(1, 400000), raw_put_item(2, 200000)};
    const csc_wire_put_result *results;
    const csc_wire_header *answer;
    raw_client others[4];

    (void)state;
    options.put_wait_ms = 600000;
    start_with(options);
    for (int i = 0; i < 4; i++) {
        csc_wire_put item = raw_put_item(10 + (uint64_t)i, held[i]);

        raw_attach(&others[i], path());
        assert_int_equal(raw_status(&others[i], CSC_WIRE_RESERVE, 0, &item, 1), 0);
    }
    raw_attach(&a, path());
    answer = raw_ask(&a, CSC_WIRE_RESERVE, 0, items, 2, NULL);
    assert_non_null(answer);
    assert_int_equal(answer->status, CASCADE_EAGAIN);
    results = csc_wire_items(answer);
    assert_int_equal(results[0].status, 0);
    assert_int_equal(results[0].flags, CSC_WIRE_RESERVED);
    assert_int_equal(results[1].status, CASCADE_EAGAIN);
    raw_close(&a);
    for (int i = 0; i < 4; i++)
        raw_close(&others[i]);
    stop();
}

static void bad_packets_end_their_connection_alone(void **state)
{
    csc_wire_hello hello = {.version_least = 1, .version_most = 1};
    csc_wire_attach attach = {.area = 1};
    char junk[70000] = "junk";
    uint64_t seen = 0;

    (void)state;
    start();
    raw_attach(&a, path());
    for (unsigned what = 0; what < 6; what++) {
        raw_hello(&b, path());
        attach.area = csc_arena_area(b.arena);
        if (what == 0)
            raw_send(&b, junk, 4);
        else if (what == 1)
            raw_send(&b, junk, sizeof junk);
        else if (what == 2) /* not a client's yet */
            assert_null(raw_ask(&b, CSC_WIRE_STATS, 0, NULL, 0, NULL));
        else if (what == 3)
            assert_null(raw_ask(&b, CSC_WIRE_HELLO, 0, &hello, 1, NULL));
        else
            assert_int_equal(raw_status(&b, CSC_WIRE_ATTACH, 0, &attach, 1), 0);
        if (what == 4)
            assert_null(raw_ask(&b, CSC_WIRE_ATTACH, 0, &attach, 1, NULL));
        if (what == 5)
            assert_null(raw_ask(&b, CSC_WIRE_FLUSH, 17, NULL, 0, NULL));
        assert_int_equal(recv(b.fd, junk, sizeof junk, 0), 0);
        assert_int_equal(csc_server_bad_packets(server), ++seen);
        raw_close(&b);
        assert_int_equal(raw_status(&a, CSC_WIRE_STATS, 0, NULL, 0), 0);
    }
    raw_close(&a);
    stop();
}

static void who_is_no_client(void **state)
{
    csc_wire_hello hello = {.version_least = 7, .version_most = 9};
    csc_wire_attach attach = {0};

    (void)state;
    start();
    raw_attach(&a, path());
    raw_hello(&b, path());
    assert_int_equal(raw_status(&b, CSC_WIRE_ATTACH, 0, &attach, 1), CASCADE_EINVAL); /* the owner's */
    attach.area = 30;
    assert_int_equal(raw_status(&b, CSC_WIRE_ATTACH, 0, &attach, 1), CASCADE_EINVAL); /* nobody's */
    attach.area = 77;
    assert_int_equal(raw_status(&b, CSC_WIRE_ATTACH, 0, &attach, 1), CASCADE_EINVAL);
    raw_close(&b);
    b = a;
    b.token[15] ^= 1;
    assert_int_equal(raw_join(&b, &b), CASCADE_EACCES);
    assert_int_equal(raw_status(&b, CSC_WIRE_HELLO, 0, &hello, 1), CASCADE_EFORMAT);
    hello = (csc_wire_hello){.version_least = 1, .version_most = 1, .store_uuid = {1}};
    assert_int_equal(raw_status(&b, CSC_WIRE_HELLO, 0, &hello, 1), CASCADE_ENOSTORE);
    raw_hang_up(&b);
    raw_close(&a);
    stop();
}

static void a_client_has_eight_connections(void **state)
{
    raw_client more[8];
    char byte;

    (void)state;
    start();
    raw_attach(&a, path());
    for (int i = 0; i < 7; i++)
        assert_int_equal(raw_join(&more[i], &a), 0);
    assert_int_equal(raw_join(&more[7], &a), CASCADE_EAGAIN);
    raw_hang_up(&more[7]);
    assert_int_equal(raw_put(&more[3], 1, 2, BYTES, 0), 0);
    raw_hang_up(&more[6]); /* a further one ends for itself */
    assert_int_equal(raw_status(&a, CSC_WIRE_STATS, 0, NULL, 0), 0);
    while (raw_join(&more[6], &a) != 0) /* once the door has seen it */
        raw_hang_up(&more[6]);
    raw_hang_up(&a); /* the first ends all */
    for (int i = 0; i < 7; i++) {
        assert_int_equal(recv(more[i].fd, &byte, 1, 0), 0);
        raw_hang_up(&more[i]);
    }
    assert_int_equal(raw_join(&more[0], &a), CASCADE_EACCES);
    raw_hang_up(&more[0]);
    csc_arena_detach(&a.arena);
    stop();
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, st_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_client_puts_and_loads),
        CASE(what_only_files_have_is_loaded),
        CASE(a_load_is_cut_where_dram_ends),
        CASE(keys_and_facts),
        CASE(what_is_bound_is_settled_by_the_reserve),
        CASE(reservations_are_ones_own),
        CASE(limits_of_reservations),
        CASE(only_the_first_waits_for_room),
        CASE(bad_packets_end_their_connection_alone),
        CASE(who_is_no_client),
        CASE(a_client_has_eight_connections),
    };

    return cmocka_run_group_tests_name("server", tests, NULL, NULL);
}
