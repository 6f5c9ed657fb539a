/* SPDX-License-Identifier: MIT */
/* Puts in steps: a client's mapping fills pages that the owner took for it, and either may die. */
#include "store/put.h"
#include "store/store_testing.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { K = 60000, V = 9000, BYTES = K + V };

static csc_put_terms terms_of(uint32_t area)
{
    return (csc_put_terms){.k_bytes = K, .v_bytes = V, .area = area, .may_wait = true};
}

static csc_reservation reserve(cascade_store *store, uint64_t number, const csc_put_terms *terms)
{
    cascade_put put = {.key = st_key(number)};
    csc_reservation made;
    bool refused = false;

    ST_CHECK(csc_put_reserve(store, &put, terms, &refused, &made) == 0);
    return made;
}

/* As a client does: by another mapping, from what the arena says. */
static void fill(csc_arena *client, const csc_reservation *made, uint64_t seed)
{
    csc_index index;
    uint8_t *bytes = malloc(BYTES);
    cascade_piece pieces[] = {{bytes, K}, {bytes + K, V}};

    ST_CHECK(bytes != NULL);
    st_fill(bytes, BYTES, seed);
    csc_index_attach(&index, csc_arena_base(client));
    csc_arena_copy_in(client, &index.contents[made->content].dram, pieces, 2);
    free(bytes);
}

static csc_arena *attach(cascade_store *store)
{
    csc_arena *client = NULL;

    ST_CHECK(csc_arena_attach(csc_arena_path(store->arena), -1, &client) == 0);
    return client;
}

static uint64_t used_bytes(cascade_store *store)
{
    return st_stats(store).tiers[CASCADE_TIER_DRAM].used_bytes;
}

static void what_a_client_filled_is_a_block(void **state)
{
    cascade_store *store = st_open();
    csc_arena *client = attach(store);
    csc_put_terms terms = terms_of(csc_arena_area(client));
    csc_reservation made = reserve(store, 1, &terms);

    (void)state;
    assert_int_equal(st_get(store, 1, 1, K, V), CASCADE_MISS);
    fill(client, &made, 1);
    assert_int_equal(csc_put_commit(store, &made, 0), 0);
    assert_false(made.put.existed);
    assert_int_equal(st_get(store, 1, 1, K, V), 0);
    assert_int_equal(csc_put_wait(store, &made.put, CASCADE_PUT_DURABLE), 0);
    assert_true(made.put.has_id);
    assert_memory_equal(made.put.id.bytes, st_id(1, K, V).bytes, sizeof made.put.id.bytes);
    csc_arena_detach(&client);
    st_close(&store);
    store = st_open();
    assert_int_equal(st_get(store, 1, 1, K, V), 0);
    st_close(&store);
}

static void a_bound_key_takes_no_pages(void **state)
{
    cascade_store *store = st_open();
    cascade_put put = {.key = st_key(1)};
    csc_put_terms terms = terms_of(1);
    csc_reservation made;
    bool refused = false;

    (void)state;
    assert_int_equal(st_put(store, 1, 1, K, V, 0), 0);
    assert_int_equal(csc_put_reserve(store, &put, &terms, &refused, &made), 0);
    assert_int_equal(made.content, CSC_NUMBER_NONE);
    assert_true(put.existed);
    assert_in_range(used_bytes(store), BYTES, BYTES + 4096);
    terms.k_bytes = 0;
    assert_int_equal(csc_put_reserve(store, &put, &terms, &refused, &made), CASCADE_EINVAL);
    terms.k_bytes = 1 << 30;
    put.key = st_key(2);
    assert_int_equal(csc_put_reserve(store, &put, &terms, &refused, &made), CASCADE_ETOOBIG);
    st_close(&store);
}

/* The first that commits stays; what the other brought is compared, and its pages come back. */
static void two_that_meet(void **state)
{
    cascade_store *store = st_open();
    csc_arena *client = attach(store);
    csc_put_terms terms = terms_of(csc_arena_area(client));
    csc_reservation first = reserve(store, 1, &terms), same = reserve(store, 1, &terms),
                    other = reserve(store, 1, &terms), verified = reserve(store, 1, &terms);

    (void)state;
    fill(client, &first, 1);
    fill(client, &same, 1);
    fill(client, &other, 2);
    fill(client, &verified, 2);
    assert_int_equal(csc_put_commit(store, &first, 0), 0);
    assert_int_equal(csc_put_commit(store, &same, 0), 0);
    assert_true(same.put.existed);
    assert_int_equal(st_stats(store).conflicts, 0);
    assert_int_equal(csc_put_commit(store, &other, 0), 0);
    assert_true(other.put.existed);
    assert_int_equal(st_stats(store).conflicts, 1);
    assert_int_equal(csc_put_commit(store, &verified, CASCADE_PUT_VERIFY), CASCADE_ECONFLICT);
    assert_int_equal(st_get(store, 1, 1, K, V), 0);
    assert_in_range(used_bytes(store), BYTES, BYTES + 4096);
    csc_arena_detach(&client);
    st_close(&store);
}

static void what_is_given_up_leaves_nothing(void **state)
{
    cascade_store *store = st_open();
    csc_put_terms terms = terms_of(1);

    (void)state;
    for (int i = 0; i < 1000; i++) {
        csc_reservation made = reserve(store, 1, &terms);

        csc_put_abandon(store, &made);
    }
    assert_int_equal(used_bytes(store), 0);
    assert_int_equal(st_get(store, 1, 1, K, V), CASCADE_MISS);
    st_close(&store);
}

/* ---- an owner that dies ------------------------------------------------------------------------- */

static int to_owner[2], to_test[2];

/* Reserves for the test's area, says which content it is, and waits to be killed. */
static void own_and_reserve(void *context)
{
    cascade_store *store = st_open();
    csc_put_terms terms;
    csc_reservation made;
    uint32_t area;

    (void)context;
    ST_CHECK(write(to_test[1], csc_arena_path(store->arena), 512) == 512);
    ST_CHECK(read(to_owner[0], &area, sizeof area) == sizeof area);
    terms = terms_of(area);
    made = reserve(store, 1, &terms);
    ST_CHECK(write(to_test[1], &made.content, sizeof made.content) == sizeof made.content);
    pause();
}

static void take_over_and_die(void *context)
{
    cascade_store *store = st_open();

    (void)context;
    ST_CHECK(st_put(store, 99, 99, K, V, 0) == 0);
    raise(SIGKILL);
}

/* The client does not know yet that its owner is dead, and goes on filling: no block of the next owner
 * may lie there. */
static void a_next_owner_leaves_a_client_its_pages(void **state)
{
    csc_reservation made = {.k_bytes = K, .v_bytes = V};
    cascade_store *store;
    csc_arena *client;
    char path[512];
    uint32_t area;
    pid_t owner;
    size_t blocks = 0;

    (void)state;
    assert_int_equal(pipe(to_owner), 0);
    assert_int_equal(pipe(to_test), 0);
    owner = st_spawn(own_and_reserve, NULL);
    assert_int_equal(read(to_test[0], path, sizeof path), sizeof path);
    assert_int_equal(csc_arena_attach(path, -1, &client), 0);
    area = csc_arena_area(client);
    assert_int_equal(write(to_owner[1], &area, sizeof area), sizeof area);
    assert_int_equal(read(to_test[0], &made.content, sizeof made.content), sizeof made.content);
    kill(owner, SIGKILL);
    assert_int_equal(st_wait(owner), -SIGKILL);

    st_in_child(take_over_and_die, NULL, -SIGKILL);
    {
        csc_index index;
        csc_extents extents;
        uint8_t *bytes = malloc(BYTES);
        cascade_piece piece = {bytes, BYTES};

        csc_index_attach(&index, csc_arena_base(client));
        store = st_open();
        for (; (blocks + 4) * BYTES < 4 * ST_MIB; blocks++)
            assert_int_equal(st_put(store, 100 + blocks, 100 + blocks, K, V, 0), 0);
        assert_non_null(bytes);
        extents = index.contents[made.content].dram; /* what it has always gone by */
        assert_true(extents.count > 0 && extents.count <= CSC_EXTENTS_INLINE);
        memset(bytes, 0xee, BYTES);
        csc_arena_copy_in(client, &extents, &piece, 1);
        free(bytes);
    }
    for (size_t i = 0; i < blocks; i++)
        assert_int_equal(st_get(store, 100 + i, 100 + i, K, V), 0);
    assert_int_equal(st_get(store, 99, 99, K, V), 0);
    assert_int_equal(st_get(store, 1, 1, K, V), CASCADE_MISS);
    assert_true(used_bytes(store) > (blocks + 1) * BYTES + BYTES / 2);
    csc_arena_detach(&client);
    while (used_bytes(store) > (blocks + 1) * (BYTES + 4096)) /* the keeper sees that it is gone */
        st_sleep_ms(1);
    st_close(&store);
    for (int i = 0; i < 2; i++) {
        close(to_owner[i]);
        close(to_test[i]);
    }
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, st_setup, st_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(what_a_client_filled_is_a_block),
        CASE(a_bound_key_takes_no_pages),
        CASE(two_that_meet),
        CASE(what_is_given_up_leaves_nothing),
        CASE(a_next_owner_leaves_a_client_its_pages),
    };

    return cmocka_run_group_tests_name("store reservations", tests, NULL, NULL);
}
