/* SPDX-License-Identifier: MIT */
/* Contents by block id, and tenants. */
#include "store/store_testing.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { K = 6000, V = 2000 };

static int content_put(cascade_store *store, uint64_t tenant, uint64_t seed, uint32_t flags,
                       cascade_id *id, bool *existed)
{
    uint8_t memory[K + V];
    const cascade_piece k = {memory, K}, v = {memory + K, V};

    st_fill(memory, sizeof memory, seed);
    return cascade_content_put(store, tenant, &(cascade_block){&k, 1, &v, 1}, flags, id, existed);
}

/* 0 only if the bytes are right. */
static int content_get(cascade_store *store, uint64_t tenant, uint64_t seed)
{
    uint8_t memory[K + V], got[K + V];
    const cascade_piece k = {got, K}, v = {got + K, V};
    cascade_id id = st_id(seed, K, V);
    int code = cascade_content_get(store, tenant, &id, &(cascade_block){&k, 1, &v, 1});

    st_fill(memory, sizeof memory, seed);
    return code ? code : memcmp(memory, got, sizeof got) ? ST_WRONG : 0;
}

static void put_get_info_delete(void **state)
{
    cascade_store *store = st_open();
    cascade_id id, right = st_id(1, K, V);
    cascade_info info;
    bool existed = true;

    (void)state;
    assert_int_equal(cascade_content_info(store, 0, &right, &info), CASCADE_MISS);
    assert_int_equal(cascade_content_delete(store, 0, &right), CASCADE_MISS);
    assert_int_equal(content_put(store, 0, 1, 0, &id, &existed), 0);
    assert_false(existed);
    assert_memory_equal(&id, &right, sizeof id);
    assert_int_equal(content_get(store, 0, 1), 0);
    assert_int_equal(cascade_content_info(store, 0, &id, &info), 0);
    assert_int_equal(info.k_bytes, K);
    assert_int_equal(info.v_bytes, V);
    assert_int_equal(info.references, 1);
    assert_true(info.has_id);
    assert_int_equal(content_put(store, 0, 1, CASCADE_PUT_DURABLE, &id, &existed), 0);
    assert_true(existed);
    assert_int_equal(content_put(store, 0, 1, 0, &id, NULL), 0);
    assert_int_equal(cascade_content_info(store, 0, &id, &info), 0);
    assert_int_equal(info.references, 1); /* one reference, however often it is put */
    assert_true(info.in_file);
    assert_int_equal(cascade_content_delete(store, 0, &id), 0);
    assert_int_equal(content_get(store, 0, 1), CASCADE_MISS);
    assert_int_equal(cascade_content_delete(store, 0, &id), CASCADE_MISS);
    assert_int_equal(st_stats(store).contents, 0);
    st_close(&store);
}

static void refusals(void **state)
{
    cascade_store *store = st_open();
    cascade_id id, untouched;
    cascade_info info;
    uint8_t byte = 0;
    const cascade_piece piece = {&byte, 1}, null = {NULL, 1};
    const cascade_block block = {&piece, 1, NULL, 0};
    bool existed = true;

    (void)state;
    memset(&id, 0x33, sizeof id);
    untouched = id;
    assert_int_equal(cascade_content_put(store, 0, NULL, 0, &id, NULL), CASCADE_EINVAL);
    assert_int_equal(cascade_content_put(store, 0, &block, 0, NULL, NULL), CASCADE_EINVAL);
    assert_int_equal(cascade_content_put(store, 0, &block, CASCADE_PUT_SYNC | 8, &id, NULL),
                     CASCADE_EINVAL);
    assert_int_equal(cascade_content_put(NULL, 0, &block, 0, &id, NULL), CASCADE_EINVAL);
    assert_int_equal(cascade_content_put(store, 0, &(cascade_block){0}, 0, &id, &existed),
                     CASCADE_EINVAL);
    assert_int_equal(
        cascade_content_put(store, 0, &(cascade_block){&null, 1, NULL, 0}, 0, &id, &existed),
        CASCADE_EINVAL);
    assert_memory_equal(&id, &untouched, sizeof id);
    assert_true(existed);
    assert_int_equal(cascade_content_get(store, 0, NULL, &block), CASCADE_EINVAL);
    assert_int_equal(cascade_content_get(store, 0, &id, NULL), CASCADE_EINVAL);
    assert_int_equal(cascade_content_get(store, 0, &id, &block), CASCADE_MISS);
    assert_int_equal(cascade_content_info(store, 0, NULL, &info), CASCADE_EINVAL);
    assert_int_equal(cascade_content_info(store, 0, &id, NULL), CASCADE_EINVAL);
    assert_int_equal(cascade_content_delete(store, 0, NULL), CASCADE_EINVAL);
    assert_int_equal(content_put(store, 0, 1, 0, &id, NULL), 0);
    assert_int_equal(cascade_content_get(store, 0, &id, &block), CASCADE_ESIZE);
    st_close(&store);
}

static void what_a_key_names_is_found_by_id(void **state)
{
    cascade_store *store = st_open();
    cascade_id id;
    cascade_info info;
    bool existed = false;

    (void)state;
    assert_int_equal(st_put(store, 1, 1, K, V, CASCADE_PUT_SYNC), 0);
    assert_int_equal(content_get(store, 0, 1), 0);
    assert_int_equal(content_put(store, 0, 1, 0, &id, &existed), 0);
    assert_true(existed);
    assert_int_equal(cascade_content_info(store, 0, &id, &info), 0);
    assert_int_equal(info.references, 2);
    assert_int_equal(st_stats(store).digests,
                     1); /* found by its id: not digested again by the workers */
    /* Either reference keeps it. */
    assert_int_equal(st_delete(store, 1), 0);
    assert_int_equal(content_get(store, 0, 1), 0);
    assert_int_equal(st_put(store, 1, 1, K, V, CASCADE_PUT_SYNC), 0);
    assert_int_equal(cascade_content_delete(store, 0, &id), 0);
    assert_int_equal(content_get(store, 0, 1), 0);
    assert_int_equal(st_get(store, 1, 1, K, V), 0);
    assert_int_equal(cascade_content_info(store, 0, &id, &info), 0);
    assert_int_equal(info.references, 1);
    st_close(&store);
}

static void survives_reopen(void **state)
{
    cascade_store *store = st_open();
    cascade_id id;

    (void)state;
    for (uint64_t seed = 0; seed < 10; seed++)
        assert_int_equal(content_put(store, seed % 2, seed, 0, &id, NULL), 0);
    id = st_id(4, K, V);
    assert_int_equal(cascade_content_delete(store, 0, &id), 0);
    st_close(&store);
    store = st_open();
    for (uint64_t seed = 0; seed < 10; seed++) {
        assert_int_equal(content_get(store, seed % 2, seed), seed == 4 ? CASCADE_MISS : 0);
        assert_int_equal(content_get(store, (seed + 1) % 2, seed), CASCADE_MISS);
    }
    assert_int_equal(content_put(store, 0, 4, 0, &id, NULL), 0);
    st_close(&store);
    store = st_open();
    assert_int_equal(content_get(store, 0, 4), 0);
    st_close(&store);
}

/* ---- tenants ------------------------------------------------------------------------------------- */

static void tenants_do_not_share(void **state)
{
    cascade_store *store = st_open();
    uint64_t red = cascade_tenant("red"), blue = cascade_tenant("blue");
    uint8_t memory[K + V];
    const cascade_piece k = {memory, K}, v = {memory + K, V};
    cascade_put puts[3] = {{.key = st_key(1), .tenant = red, .block = {&k, 1, &v, 1}},
                           {.key = st_key(2), .tenant = blue, .block = {&k, 1, &v, 1}},
                           {.key = st_key(3), .tenant = red, .block = {&k, 1, &v, 1}}};
    cascade_id id = st_id(1, K, V);
    cascade_info info;

    (void)state;
    assert_int_not_equal(red, blue);
    st_fill(memory, sizeof memory, 1);
    assert_int_equal(cascade_block_put_many(store, puts, 3, CASCADE_PUT_SYNC), 0);
    assert_int_equal(st_stats(store).contents, 2);
    assert_int_equal(st_stats(store).dedup_blocks, 1);
    assert_int_equal(st_stats(store).dedup_bytes_saved, K + V);
    for (int reopened = 0; reopened < 2; reopened++) {
        assert_int_equal(content_get(store, red, 1), 0);
        assert_int_equal(content_get(store, blue, 1), 0);
        assert_int_equal(content_get(store, 0, 1), CASCADE_MISS);
        assert_int_equal(cascade_content_info(store, red, &id, &info), 0);
        assert_int_equal(info.references, 2);
        assert_int_equal(info.tenant, red);
        assert_int_equal(st_info(store, 2).references, 1);
        assert_int_equal(st_info(store, 2).tenant, blue);
        assert_int_equal(cascade_content_delete(store, blue, &id),
                         CASCADE_MISS); /* put by key, not by id */
        st_close(&store);
        store = st_open();
    }
    assert_int_equal(st_delete(store, 2), 0);
    assert_int_equal(content_get(store, blue, 1), CASCADE_MISS);
    assert_int_equal(content_get(store, red, 1), 0);
    st_close(&store);
}

/* ---- threads -------------------------------------------------------------------------------------- */

static void *put_often(void *context)
{
    cascade_store *store = context;
    cascade_id id;

    for (uint64_t i = 0; i < 50; i++)
        if (content_put(store, 0, i % 5, 0, &id, NULL) != 0)
            return store;
    return NULL;
}

/* However many put it at once, a content has the one reference that one delete gives up. */
static void one_reference_from_many_threads(void **state)
{
    enum { THREADS = 6 };
    cascade_store *store = st_open();
    pthread_t threads[THREADS];

    (void)state;
    /* Known by keys first, so that every thread finds it there and binds it. */
    for (uint64_t seed = 0; seed < 5; seed++)
        assert_int_equal(st_put(store, seed, seed, K, V, CASCADE_PUT_SYNC), 0);
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, put_often, store), 0);
    for (size_t i = 0; i < THREADS; i++) {
        void *failed;

        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    for (uint64_t seed = 0; seed < 5; seed++) {
        cascade_id id = st_id(seed, K, V);
        cascade_info info;

        assert_int_equal(cascade_content_info(store, 0, &id, &info), 0);
        assert_int_equal(info.references, 2);
        assert_int_equal(st_delete(store, seed), 0);
        assert_int_equal(cascade_content_delete(store, 0, &id), 0);
        assert_int_equal(content_get(store, 0, seed), CASCADE_MISS);
    }
    assert_int_equal(st_stats(store).contents, 0);
    assert_int_equal(st_stats(store).keys, 0);
    st_close(&store);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, st_setup, st_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(put_get_info_delete),
        CASE(refusals),
        CASE(what_a_key_names_is_found_by_id),
        CASE(survives_reopen),
        CASE(tenants_do_not_share),
        CASE(one_reference_from_many_threads),
    };

    return cmocka_run_group_tests_name("store contents", tests, NULL, NULL);
}
