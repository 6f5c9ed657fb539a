/* SPDX-License-Identifier: MIT */
/* The public calls on blocks by key: what they give, what they refuse, and what a refusal leaves alone.
 */
#include "store/store_testing.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { K = 5000, V = 3000 };

/* ---- opening -------------------------------------------------------------------------------------- */

static void open_refuses_bad_arguments(void **state)
{
    cascade_store *store = NULL;
    cascade_options options = st_options();

    (void)state;
    assert_int_equal(cascade_store_open(NULL, &store), CASCADE_EINVAL);
    assert_int_equal(cascade_store_open(&options, NULL), CASCADE_EINVAL);
    options.struct_bytes = 0;
    assert_int_equal(cascade_store_open(&options, &store), CASCADE_EINVAL);
    options.struct_bytes = SIZE_MAX;
    assert_int_equal(cascade_store_open(&options, &store), CASCADE_EINVAL);
    options = st_options();
    options.directory = NULL;
    assert_int_equal(cascade_store_open(&options, &store), CASCADE_EINVAL);
    assert_string_not_equal(cascade_last_error(), "");
    options = st_options();
    options.open_flags |= 1u << 30;
    assert_int_equal(cascade_store_open(&options, &store), CASCADE_EINVAL);
    assert_null(store);
    assert_int_equal(st_shm_count(), 0);
}

static void open_needs_a_store_or_makes_it_once(void **state)
{
    cascade_store *store = NULL;
    cascade_options options = st_options();
    char nowhere[600];

    (void)state;
    options.open_flags = CASCADE_OPEN_NO_PREFAULT;
    assert_int_equal(cascade_store_open(&options, &store), CASCADE_ENOSTORE);
    strcpy(nowhere, st_directory());
    strcat(nowhere, "/nowhere");
    options.directory = nowhere;
    assert_int_equal(cascade_store_open(&options, &store), CASCADE_ENOSTORE);
    assert_null(store);
    options = st_options();
    options.open_flags |= CASCADE_OPEN_EXCLUSIVE;
    store = st_open_with(options);
    st_close(&store);
    assert_int_equal(cascade_store_open(&options, &store), CASCADE_EEXIST);
    options.open_flags = CASCADE_OPEN_NO_PREFAULT;
    store = st_open_with(options);
    st_close(&store);
}

static void closed_and_foreign_handles_are_refused(void **state)
{
    static char zeros[65536]; /* no store's magic number */
    cascade_store *none = NULL, *foreign = (void *)zeros;
    cascade_stats stats = {.struct_bytes = sizeof stats};

    (void)state;
    assert_int_equal(cascade_store_close(NULL), 0);
    assert_int_equal(cascade_store_close(&none), 0);
    assert_int_equal(cascade_store_close(&foreign), CASCADE_EINVAL);
    assert_int_equal(cascade_store_flush(NULL), CASCADE_EINVAL);
    assert_int_equal(cascade_store_flush(foreign), CASCADE_EINVAL);
    assert_int_equal(cascade_store_stats(NULL, &stats), CASCADE_EINVAL);
}

/* ---- put and get ----------------------------------------------------------------------------- */

static void put_then_get(void **state)
{
    cascade_store *store = st_open();
    cascade_info info;

    (void)state;
    assert_int_equal(st_get(store, 1, 1, K, V), CASCADE_MISS);
    assert_int_equal(st_put(store, 1, 1, K, V, 0), 0);
    assert_int_equal(st_get(store, 1, 1, K, V), 0);
    assert_int_equal(st_put(store, 2, 2, 1, 0, 0), 0); /* one byte, V empty */
    assert_int_equal(st_get(store, 2, 2, 1, 0), 0);
    info = st_info(store, 1);
    assert_int_equal(info.k_bytes, K);
    assert_int_equal(info.v_bytes, V);
    assert_int_equal(info.references, 1);
    assert_true(info.in_dram);
    assert_false(info.has_parent);
    assert_int_equal(st_stats(store).keys, 2);
    assert_int_equal(st_stats(store).puts, 2);
    st_close(&store);
}

static void many_odd_pieces(void **state)
{
    enum { PIECES = 160 };
    cascade_store *store = st_open();
    cascade_piece k[PIECES], v[PIECES], out[7];
    uint8_t *memory, *got;
    size_t k_bytes = 0, v_bytes = 0;
    cascade_put put = {.key = st_key(1), .block = {k, PIECES, v, PIECES}};
    cascade_view *view = NULL;

    (void)state;
    for (size_t i = 0; i < PIECES; i++) {
        k[i].bytes = i % 9 == 4 ? 0 : 1 + i * 37 % 997;
        v[i].bytes = 1 + i * 53 % 1409;
        k_bytes += k[i].bytes;
        v_bytes += v[i].bytes;
    }
    memory = malloc(k_bytes + v_bytes);
    got = malloc(k_bytes + v_bytes);
    assert_non_null(memory);
    assert_non_null(got);
    st_fill(memory, k_bytes + v_bytes, 9);
    for (size_t i = 0, at = 0; i < 2 * PIECES; i++) {
        cascade_piece *piece = i < PIECES ? &k[i] : &v[i - PIECES];

        piece->data = piece->bytes ? memory + at : NULL;
        at += piece->bytes;
    }
    assert_int_equal(cascade_block_put(store, &put, CASCADE_PUT_SYNC), 0);
    assert_true(put.has_id);
    assert_memory_equal(&put.id, (cascade_id[]){st_id(9, k_bytes, v_bytes)}, sizeof put.id);
    assert_int_equal(st_get(store, 1, 9, k_bytes, v_bytes), 0);
    /* Out again into pieces that lie otherwise. */
    for (size_t i = 0, at = 0; i < 7; i++) {
        size_t part = i == 6 ? k_bytes - at : k_bytes / 7 + i;

        out[i] = (cascade_piece){got + at, part};
        at += part;
    }
    assert_int_equal(
        cascade_block_get(store, &put.key,
                          &(cascade_block){out, 7, (cascade_piece[]){{got + k_bytes, v_bytes}}, 1}),
        0);
    assert_memory_equal(got, memory, k_bytes + v_bytes);
    assert_int_equal(cascade_block_view(store, &put.key, &view), 0);
    assert_true(st_view_is(view, 9, k_bytes, v_bytes));
    cascade_view_release(store, &view);
    assert_null(view);
    assert_int_equal(st_stats(store).pins, 0);
    free(memory);
    free(got);
    st_close(&store);
}

static void put_refuses_bad_arguments(void **state)
{
    cascade_store *store = st_open();
    uint8_t byte = 1;
    const cascade_piece good = {&byte, 1}, empty = {NULL, 0}, null = {NULL, 5}, huge = {&byte, SIZE_MAX},
                        halves[2] = {{&byte, SIZE_MAX / 2 + 1}, {&byte, SIZE_MAX / 2 + 1}};
    const struct {
        cascade_block block;
    } bad[] = {
        {{NULL, 0, NULL, 0}}, /* K may not be empty */
        {{&empty, 1, NULL, 0}}, {{NULL, 0, &good, 1}},  {{NULL, 1, NULL, 0}},
        {{&good, 1, NULL, 1}},  {{&null, 1, NULL, 0}},  {{&good, 1, &null, 1}},
        {{&huge, 1, NULL, 0}},  {{halves, 2, NULL, 0}}, {{&good, 1, &huge, 1}},
    };
    cascade_put put = {.key = st_key(1), .block = {&good, 1, NULL, 0}};

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        put.block = bad[i].block;
        assert_int_equal(cascade_block_put(store, &put, 0), CASCADE_EINVAL);
        assert_int_equal(put.status, CASCADE_EINVAL);
        assert_string_not_equal(cascade_last_error(), "");
    }
    put.block = (cascade_block){&good, 1, NULL, 0};
    assert_int_equal(cascade_block_put(NULL, &put, 0), CASCADE_EINVAL);
    assert_int_equal(cascade_block_put(store, NULL, 0), CASCADE_EINVAL);
    assert_int_equal(cascade_block_put(store, &put, 8), CASCADE_EINVAL);
    assert_int_equal(cascade_block_put_many(store, NULL, 3, 0), CASCADE_EINVAL);
    assert_int_equal(cascade_block_put_many(store, NULL, 0, 0), 0);
    assert_int_equal(st_put(store, 2, 2, 4 * ST_MIB + 1, 0, 0), CASCADE_ETOOBIG);
    assert_int_equal(st_put(store, 2, 2, 3 * ST_MIB, 2 * ST_MIB, 0), CASCADE_ETOOBIG);
    assert_int_equal(st_stats(store).keys, 0);
    assert_int_equal(st_stats(store).tiers[CASCADE_TIER_DRAM].used_bytes, 0);
    assert_int_equal(st_put(store, 2, 2, 4 * ST_MIB, 0, 0), 0); /* all of dram */
    assert_int_equal(st_get(store, 2, 2, 4 * ST_MIB, 0), 0);
    st_close(&store);
}

static void get_refuses_bad_arguments(void **state)
{
    cascade_store *store = st_open();
    uint8_t bytes[K + V + 1], before[sizeof bytes];
    const cascade_piece k = {bytes, K}, v = {bytes + K, V}, less = {bytes, K - 1}, more = {bytes, K + 1},
                        all = {bytes, K + V}, huge = {bytes, SIZE_MAX}, null = {NULL, K};
    const cascade_block good = {&k, 1, &v, 1};
    cascade_key key = st_key(1), absent = st_key(2);

    (void)state;
    memset(bytes, 0x5a, sizeof bytes);
    memcpy(before, bytes, sizeof bytes);
    assert_int_equal(st_put(store, 1, 1, K, V, 0), 0);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(cascade_block_get(store, &key, &(cascade_block){&less, 1, &v, 1}),
                         CASCADE_ESIZE);
        assert_int_equal(cascade_block_get(store, &key, &(cascade_block){&more, 1, &v, 1}),
                         CASCADE_ESIZE);
        assert_int_equal(cascade_block_get(store, &key, &(cascade_block){&k, 1, NULL, 0}),
                         CASCADE_ESIZE);
        assert_int_equal(cascade_block_get(store, &key, &(cascade_block){&all, 1, NULL, 0}),
                         CASCADE_ESIZE);
        assert_int_equal(cascade_block_get(store, &key, &(cascade_block){NULL, 0, NULL, 0}),
                         CASCADE_ESIZE);
        assert_int_equal(cascade_block_get(store, &absent, &good), CASCADE_MISS);
        assert_int_equal(cascade_block_get(store, &key, &(cascade_block){&huge, 1, &v, 1}),
                         CASCADE_EINVAL);
        assert_int_equal(cascade_block_get(store, &key, &(cascade_block){&null, 1, &v, 1}),
                         CASCADE_EINVAL);
        assert_int_equal(cascade_block_get(store, &key, &(cascade_block){NULL, 1, &v, 1}),
                         CASCADE_EINVAL);
        assert_int_equal(cascade_block_get(store, NULL, &good), CASCADE_EINVAL);
        assert_int_equal(cascade_block_get(store, &key, NULL), CASCADE_EINVAL);
        assert_int_equal(cascade_block_get(NULL, &key, &good), CASCADE_EINVAL);
        assert_memory_equal(bytes, before, sizeof bytes);
        /* Then the same from the file tier. */
        if (round == 0)
            st_push_out(store, 1, 1000);
    }
    assert_int_equal(st_get(store, 1, 1, K, V), 0);
    st_close(&store);
}

static void ranges(void **state)
{
    enum { BIG = 700 * 1024, TAIL = 300 * 1024 };
    static const struct {
        uint64_t offset;
        size_t bytes;
    } good[] = {{0, 0},         {0, 1},           {BIG - 1, 2},        {BIG, TAIL},
                {262143, 2},    {262144, 262144}, {1, BIG + TAIL - 2}, {BIG + TAIL - 1, 1},
                {BIG + TAIL, 0}},
      bad[] = {{BIG + TAIL, 1}, {BIG + TAIL + 1, 0}, {1, BIG + TAIL},
               {UINT64_MAX, 1}, {UINT64_MAX, 0},     {5, SIZE_MAX / 2}};
    cascade_store *store = st_open();
    uint8_t *memory = malloc(BIG + TAIL), *got = malloc(BIG + TAIL);
    cascade_key key = st_key(1), absent = st_key(2);

    (void)state;
    assert_non_null(memory);
    assert_non_null(got);
    st_fill(memory, BIG + TAIL, 1);
    assert_int_equal(st_put(store, 1, 1, BIG, TAIL, 0), 0);
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
            memset(got, 0, BIG + TAIL);
            assert_int_equal(cascade_block_get_range(store, &key, good[i].offset, good[i].bytes, got),
                             0);
            assert_memory_equal(got, memory + good[i].offset, good[i].bytes);
        }
        for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
            assert_int_equal(cascade_block_get_range(store, &key, bad[i].offset, bad[i].bytes, got),
                             CASCADE_ESIZE);
        assert_int_equal(cascade_block_get_range(store, &absent, 0, 1, got), CASCADE_MISS);
        assert_int_equal(cascade_block_get_range(store, &key, 0, 1, NULL), CASCADE_EINVAL);
        assert_int_equal(cascade_block_get_range(store, NULL, 0, 1, got), CASCADE_EINVAL);
        if (round == 0)
            st_push_out(store, 1, 1000);
    }
    /* A range reads the chunks that it touches, not the block. */
    {
        uint64_t before = st_stats(store).tiers[CASCADE_TIER_FILE].read_bytes;

        assert_int_equal(cascade_block_get_range(store, &key, 300000, 100, got), 0);
        assert_in_range(st_stats(store).tiers[CASCADE_TIER_FILE].read_bytes - before, 1, 300 * ST_KIB);
    }
    free(memory);
    free(got);
    st_close(&store);
}

/* ---- what a put says ------------------------------------------------------------------------- */

static void sync_gives_the_id_that_openssl_gives(void **state)
{
    static const size_t sizes[][2] = {{1, 0}, {55, 1}, {64, 64}, {4096, 0}, {100000, 77777}};
    cascade_store *store = st_open();

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint8_t memory[200000];
        const cascade_piece k = {memory, sizes[i][0]}, v = {memory + sizes[i][0], sizes[i][1]};
        cascade_put put = {.key = st_key(i), .block = {&k, 1, &v, 1}};
        cascade_id right = st_id(i, sizes[i][0], sizes[i][1]), id;

        st_fill(memory, sizeof memory, i);
        assert_int_equal(cascade_block_put(store, &put, CASCADE_PUT_SYNC), 0);
        assert_true(put.has_id);
        assert_false(put.existed);
        assert_memory_equal(&put.id, &right, sizeof right);
        assert_int_equal(cascade_block_id(&put.block, &id), 0);
        assert_memory_equal(&id, &right, sizeof right);
        assert_true(st_info(store, i).has_id);
    }
    st_close(&store);
}

static void a_bound_key_is_not_copied_or_hashed(void **state)
{
    cascade_store *store = st_open();
    cascade_stats before, after;
    uint8_t memory[K];
    const cascade_piece k = {memory, K};
    cascade_put put = {.key = st_key(1), .block = {&k, 1, NULL, 0}};

    (void)state;
    st_fill(memory, K, 1);
    assert_int_equal(cascade_block_put(store, &put, CASCADE_PUT_SYNC), 0);
    before = st_stats(store);
    memset(memory, 0, K); /* not even looked at */
    assert_int_equal(cascade_block_put(store, &put, 0), 0);
    assert_true(put.existed);
    assert_true(put.has_id);
    assert_int_equal(cascade_block_put(store, &put, CASCADE_PUT_SYNC), 0);
    st_settle(store);
    after = st_stats(store);
    assert_int_equal(after.digests, before.digests);
    assert_int_equal(after.puts, before.puts);
    assert_int_equal(after.tiers[CASCADE_TIER_DRAM].written_bytes,
                     before.tiers[CASCADE_TIER_DRAM].written_bytes);
    assert_int_equal(after.puts_existed, before.puts_existed + 2);
    assert_int_equal(after.conflicts, 0);
    assert_int_equal(st_get(store, 1, 1, K, 0), 0);
    st_close(&store);
}

static void conflicts_are_counted_and_the_first_stays(void **state)
{
    cascade_store *store = st_open();

    (void)state;
    for (int round = 0; round < 2; round++) {
        uint64_t seen = st_stats(store).conflicts;

        assert_int_equal(st_put(store, 1, 1, K, V, 0), 0);
        assert_int_equal(st_put(store, 1, 2, K + 1, V, 0), 0); /* lengths differ */
        assert_int_equal(st_put(store, 1, 1, K + V, 0, 0), 0); /* the same bytes, divided otherwise */
        assert_int_equal(st_stats(store).conflicts, seen + 2);
        assert_int_equal(st_put(store, 1, 2, K, V, 0), 0); /* not seen without VERIFY */
        assert_int_equal(st_stats(store).conflicts, seen + 2);
        assert_int_equal(st_put(store, 1, 1, K, V, CASCADE_PUT_VERIFY), 0);
        assert_int_equal(st_put(store, 1, 2, K, V, CASCADE_PUT_VERIFY), CASCADE_ECONFLICT);
        assert_int_equal(st_put(store, 1, 2, K, V - 1, CASCADE_PUT_VERIFY), CASCADE_ECONFLICT);
        assert_int_equal(st_stats(store).conflicts, seen + 4);
        assert_int_equal(st_get(store, 1, 1, K, V), 0);
        if (round == 0)
            st_push_out(store, 1, 1000);
    }
    assert_int_equal(st_stats(store).pins, 0);
    st_close(&store);
}

static void durable_is_on_disk(void **state)
{
    cascade_store *store = st_open();

    (void)state;
    for (uint64_t i = 0; i < 5; i++)
        assert_int_equal(st_put(store, i, i % 3, K, V, CASCADE_PUT_DURABLE), 0);
    for (uint64_t i = 0; i < 5; i++)
        assert_true(st_info(store, i).in_file);
    assert_int_equal(st_put(store, 2, 2, K, V, CASCADE_PUT_DURABLE), 0); /* bound already */
    st_close(&store);
}

static void batches(void **state)
{
    enum { COUNT = 20 };
    cascade_store *store = st_open();
    static uint8_t memory[COUNT][K], got[COUNT][K];
    cascade_piece pieces[COUNT], outs[COUNT];
    cascade_put puts[COUNT];
    cascade_get gets[COUNT];

    (void)state;
    for (size_t i = 0; i < COUNT; i++) {
        st_fill(memory[i], K, i);
        pieces[i] = (cascade_piece){memory[i], K};
        outs[i] = (cascade_piece){got[i], K};
        puts[i] = (cascade_put){.key = st_key(i),
                                .parent = st_key(i - 1),
                                .has_parent = i > 0,
                                .block = {&pieces[i], 1, NULL, 0}};
        gets[i] = (cascade_get){.key = st_key(i), .into = {&outs[i], 1, NULL, 0}, .status = 77};
    }
    puts[7].block.k_count = 0; /* one bad among good */
    assert_int_equal(cascade_block_put_many(store, puts, COUNT, CASCADE_PUT_SYNC), CASCADE_EINVAL);
    for (size_t i = 0; i < COUNT; i++) {
        assert_int_equal(puts[i].status, i == 7 ? CASCADE_EINVAL : 0);
        assert_int_equal(puts[i].has_id, i != 7);
    }
    assert_int_equal(cascade_block_get_many(store, gets, COUNT), CASCADE_MISS);
    for (size_t i = 0; i < COUNT; i++) {
        assert_int_equal(gets[i].status, i == 7 ? CASCADE_MISS : 0);
        if (i != 7)
            assert_memory_equal(got[i], memory[i], K);
    }
    assert_int_equal(cascade_block_get_many(store, NULL, 2), CASCADE_EINVAL);
    assert_int_equal(cascade_block_get_many(store, NULL, 0), 0);
    st_close(&store);
}

/* ---- facts ----------------------------------------------------------------------------------- */

static void keys_are_walked(void **state)
{
    cascade_store *store = st_open();
    bool seen[50] = {false};
    uint64_t cursor = 0;
    cascade_key key;
    cascade_info info;
    size_t count = 0;
    int code;

    (void)state;
    assert_int_equal(cascade_key_next(store, &cursor, &key, &info), CASCADE_MISS);
    for (uint64_t i = 0; i < 50; i++)
        assert_int_equal(st_put(store, i, i, 100 + i, 0, 0), 0);
    for (uint64_t i = 0; i < 50; i += 7)
        assert_int_equal(st_delete(store, i), 0);
    cursor = 0;
    while ((code = cascade_key_next(store, &cursor, &key, &info)) == 0) {
        size_t number = info.k_bytes - 100;

        assert_in_range(number, 0, 49);
        assert_false(seen[number]);
        assert_memory_equal(&key, (cascade_key[]){st_key(number)}, sizeof key);
        seen[number] = true;
        count++;
    }
    assert_int_equal(code, CASCADE_MISS);
    assert_int_equal(count, 50 - 8);
    assert_int_equal(cascade_key_next(store, NULL, &key, &info), CASCADE_EINVAL);
    assert_int_equal(cascade_key_next(store, &cursor, NULL, &info), CASCADE_EINVAL);
    assert_int_equal(cascade_key_next(store, &cursor, &key, NULL), CASCADE_EINVAL);
    st_close(&store);
}

static void other_calls_refuse_bad_arguments(void **state)
{
    cascade_store *store = st_open();
    cascade_key key = st_key(1);
    cascade_info info;
    cascade_view *view = NULL;
    cascade_verify_report report;
    cascade_stats stats = {.struct_bytes = sizeof(size_t) - 1};
    size_t matched = 77;

    (void)state;
    memset(&info, 0x11, sizeof info);
    assert_int_equal(cascade_block_info(store, &key, &info), CASCADE_MISS);
    assert_int_equal(info.k_bytes, UINT64_C(0x1111111111111111)); /* untouched */
    assert_int_equal(cascade_block_info(store, NULL, &info), CASCADE_EINVAL);
    assert_int_equal(cascade_block_info(store, &key, NULL), CASCADE_EINVAL);
    assert_int_equal(cascade_block_view(store, &key, &view), CASCADE_MISS);
    assert_int_equal(cascade_block_view(store, NULL, &view), CASCADE_EINVAL);
    assert_int_equal(cascade_block_view(store, &key, NULL), CASCADE_EINVAL);
    assert_null(view);
    cascade_view_release(store, &view);
    cascade_view_release(store, NULL);
    assert_int_equal(cascade_block_delete(store, &key), CASCADE_MISS);
    assert_int_equal(cascade_block_delete(store, NULL), CASCADE_EINVAL);
    assert_int_equal(cascade_prefix_match(store, NULL, 3, &matched), CASCADE_EINVAL);
    assert_int_equal(cascade_prefix_match(store, &key, 1, NULL), CASCADE_EINVAL);
    assert_int_equal(matched, 77);
    assert_int_equal(cascade_prefix_match(store, NULL, 0, &matched), 0);
    assert_int_equal(matched, 0);
    assert_int_equal(cascade_prefix_match_many(store, NULL, 2), CASCADE_EINVAL);
    assert_int_equal(cascade_prefix_release(store, NULL, 2), CASCADE_EINVAL);
    assert_int_equal(cascade_prefix_release(store, &key, 1), 0);
    assert_int_equal(cascade_prefetch(store, NULL, 2), CASCADE_EINVAL);
    assert_int_equal(cascade_prefetch(store, &key, 1), 0);
    assert_int_equal(cascade_store_stats(store, NULL), CASCADE_EINVAL);
    assert_int_equal(cascade_store_stats(store, &stats), CASCADE_EINVAL);
    assert_int_equal(cascade_store_verify(store, NULL, NULL, NULL), CASCADE_EINVAL);
    assert_int_equal(cascade_store_verify(store, &report, NULL, NULL), 0);
    assert_int_equal(st_stats(store).pins, 0);
    st_close(&store);
}

static void stats_fill_what_the_caller_has(void **state)
{
    cascade_store *store = st_open();
    cascade_stats stats;

    (void)state;
    memset(&stats, 0x22, sizeof stats);
    stats.struct_bytes = offsetof(cascade_stats, keys);
    assert_int_equal(st_put(store, 1, 1, K, V, 0), 0);
    assert_int_equal(cascade_store_stats(store, &stats), 0);
    assert_int_equal(stats.struct_bytes, offsetof(cascade_stats, keys));
    assert_int_equal(stats.tiers[CASCADE_TIER_DRAM].blocks, 1);
    assert_int_equal(stats.tiers[CASCADE_TIER_DRAM].block_bytes, K + V);
    assert_int_equal(stats.keys, UINT64_C(0x2222222222222222));
    st_close(&store);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, st_setup, st_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(open_refuses_bad_arguments),
        CASE(open_needs_a_store_or_makes_it_once),
        CASE(closed_and_foreign_handles_are_refused),
        CASE(put_then_get),
        CASE(many_odd_pieces),
        CASE(put_refuses_bad_arguments),
        CASE(get_refuses_bad_arguments),
        CASE(ranges),
        CASE(sync_gives_the_id_that_openssl_gives),
        CASE(a_bound_key_is_not_copied_or_hashed),
        CASE(conflicts_are_counted_and_the_first_stays),
        CASE(durable_is_on_disk),
        CASE(batches),
        CASE(keys_are_walked),
        CASE(other_calls_refuse_bad_arguments),
        CASE(stats_fill_what_the_caller_has),
    };

    return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
