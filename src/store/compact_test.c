/* SPDX-License-Identifier: MIT */
/* Compaction and gc: space comes back, and nothing else changes. */
#include "base/mark.h"
#include "store/store_private.h"
#include "store/store_testing.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { BLOCK = 30000, BLOCKS = 400 };

static cascade_options small_segments(void)
{
    cascade_options options = st_options();

    options.segment_bytes = 1 * ST_MIB;
    options.background_rate_bytes = UINT64_C(1) << 40;
    return options;
}

static double amplification(cascade_store *store)
{
    cascade_stats stats = st_stats(store);

    return stats.file_live_bytes
               ? (double)stats.tiers[CASCADE_TIER_FILE].used_bytes / (double)stats.file_live_bytes
               : 1;
}

static void put_range(cascade_store *store, uint64_t from, uint64_t to)
{
    for (uint64_t key = from; key < to; key++)
        assert_int_equal(st_put(store, key, key, BLOCK, 0, 0), 0);
    assert_int_equal(cascade_store_flush(store), 0);
}

/* Every key of [0, BLOCKS) that is a multiple of `kept` is there, the others are not. */
static void assert_kept(cascade_store *store, uint64_t kept)
{
    for (uint64_t key = 0; key < BLOCKS; key++)
        assert_int_equal(st_get(store, key, key, BLOCK, 0), key % kept ? CASCADE_MISS : 0);
    assert_int_equal(st_stats(store).lost, 0);
    assert_int_equal(st_stats(store).tiers[CASCADE_TIER_FILE].quarantined, 0);
}

static void delete_but(cascade_store *store, uint64_t kept)
{
    for (uint64_t key = 0; key < BLOCKS; key++)
        if (key % kept)
            assert_int_equal(st_delete(store, key), 0);
    assert_int_equal(cascade_store_flush(store), 0);
}

static void deletes_give_space_back(void **state)
{
    cascade_store *store = st_open_with(small_segments());
    cascade_gc_report dry, report;
    uint64_t before;

    (void)state;
    put_range(store, 0, BLOCKS);
    before = st_stats(store).tiers[CASCADE_TIER_FILE].used_bytes;
    delete_but(store, 5);
    assert_int_equal(cascade_store_gc(store, true, &dry, NULL, NULL), 0);
    assert_int_equal(cascade_store_gc(store, false, &report, NULL, NULL), 0);
    assert_true(st_stats(store).compactions > 0);
    assert_true(st_stats(store).tiers[CASCADE_TIER_FILE].used_bytes < before / 2);
    assert_kept(store, 5);
    st_close(&store);
    store = st_open_with(small_segments());
    assert_kept(store, 5); /* from files alone, and no delete is forgotten */
    assert_int_equal(cascade_store_gc(store, true, &dry, NULL, NULL), 0);
    assert_int_equal(dry.moved_segments, 0);
    st_close(&store);
}

/* The background does it by itself. */
static void waste_stays_small(void **state)
{
    cascade_options options = small_segments();
    cascade_store *store;

    (void)state;
    options.segment_bytes = 256 * ST_KIB;
    store = st_open_with(options);
    put_range(store, 0, BLOCKS);
    delete_but(store, 3);
    while (amplification(store) >= 1.3) /* the open segment and a spare are small here */
        st_sleep_ms(50);
    assert_kept(store, 3);
    st_close(&store);
}

/* A tombstone goes with its segment only when nothing is left that it hides. */
static void deletes_survive_their_segment(void **state)
{
    cascade_options options = small_segments();
    cascade_store *store;
    cascade_gc_report report;

    (void)state;
    options.open_flags |= CASCADE_OPEN_CREATE;
    store = st_open_with(options);
    put_range(store, 0, BLOCKS);
    st_close(&store);
    store = st_open_with(options);
    /* Deletes in a segment of their own, that is then nearly all dead. */
    delete_but(store, 2);
    st_close(&store);
    for (int round = 0; round < 3; round++) {
        store = st_open_with(options);
        assert_int_equal(cascade_store_gc(store, false, &report, NULL, NULL), 0);
        assert_kept(store, 2);
        st_close(&store);
    }
    store = st_open_with(options);
    assert_kept(store, 2);
    st_close(&store);
}

/* A delete lies in a segment that is emptied, the bind that it hides in one that is not. So do the only
 * record of a second key's bind and its block. */
static void what_is_not_a_block_outlives_its_segment(void **state)
{
    enum { OLD = 60, HIDDEN = 3, TWIN = 5000 };
    cascade_options options = small_segments();
    cascade_gc_report report;
    cascade_store *store;

    (void)state;
    options.segment_bytes = 16 * ST_MIB;
    store = st_open_with(options);
    put_range(store, 0, OLD);
    st_close(&store);
    store = st_open_with(options);
    assert_int_equal(st_delete(store, HIDDEN), 0);
    assert_int_equal(st_put(store, TWIN, 7, BLOCK, 0, CASCADE_PUT_DURABLE), 0);
    put_range(store, 100, 110);
    st_close(&store);
    for (int round = 0; round < 3; round++) {
        store = st_open_with(options);
        for (uint64_t i = 100; i < 110 && round == 0; i++)
            assert_int_equal(st_delete(store, i), 0);
        assert_int_equal(cascade_store_flush(store), 0);
        assert_int_equal(cascade_store_gc(store, false, &report, NULL, NULL), 0);
        assert_true(round > 0 || st_stats(store).compactions > 0);
        st_close(&store);
        st_lose_memory();
        store = st_open_with(options);
        for (uint64_t i = 0; i < OLD; i++)
            assert_int_equal(st_get(store, i, i, BLOCK, 0), i == HIDDEN ? CASCADE_MISS : 0);
        assert_int_equal(st_get(store, TWIN, 7, BLOCK, 0), 0);
        st_close(&store);
    }
}

/* Blocks with many keys, and keys alone: what they take in headers, logs and indexes is in use. */
static void keys_are_no_waste(void **state)
{
    enum { SMALL = 4000, CONTENTS = 10, KEYS = 1500 };
    cascade_options options = small_segments();
    cascade_gc_report report = {.moved_segments = 1};
    cascade_store *store;

    (void)state;
    options.dram_bytes = 16 * ST_MIB;
    store = st_open_with(options);
    for (uint64_t seed = 0; seed < CONTENTS; seed++)
        for (uint64_t key = 0; key < KEYS; key++)
            assert_int_equal(st_put(store, seed * KEYS + key, seed, SMALL, 0, 0), 0);
    assert_int_equal(cascade_store_flush(store), 0);
    /* The first times bring together what was logged in many small records. */
    for (int i = 0; i < 5 && report.moved_segments; i++)
        assert_int_equal(cascade_store_gc(store, false, &report, NULL, NULL), 0);
    assert_int_equal(report.moved_segments, 0);
    st_close(&store);
    store = st_open_with(options);
    st_sleep_ms(300); /* for the background to look at it */
    assert_int_equal(st_stats(store).compactions, 0);
    for (uint64_t key = 0; key < CONTENTS * KEYS; key++)
        assert_int_equal(st_get(store, key, key / KEYS, SMALL, 0), 0);
    st_close(&store);
}

/* Flushes while a gc goes on; counts those that ended before it did. */
typedef struct flusher {
    cascade_store *store;
    uint64_t key, segments; /* that there were to be emptied */
    unsigned early;
} flusher;

static int flush_meanwhile(void *context, uint64_t done, uint64_t total)
{
    flusher *f = context;

    if (done >= total || f->early)
        return 0;
    ST_CHECK(st_put(f->store, ++f->key, 0, BLOCK, 7, CASCADE_PUT_DURABLE) == 0);
    f->early += st_stats(f->store).compactions < f->segments;
    return 0;
}

static void a_flush_does_not_wait_for_a_gc(void **state)
{
    cascade_options options = small_segments();
    cascade_gc_report report;
    flusher f = {.key = 10 * BLOCKS};

    (void)state;
    options.segment_bytes = 128 * ST_KIB;
    options.background_rate_bytes = 1;
    f.store = st_open_with(options);
    put_range(f.store, 0, BLOCKS);
    delete_but(f.store, 2);
    assert_int_equal(cascade_store_gc(f.store, true, &report, NULL, NULL), 0);
    f.segments = st_stats(f.store).compactions + report.moved_segments;
    assert_int_equal(cascade_store_gc(f.store, false, &report, flush_meanwhile, &f), 0);
    assert_true(report.moved_segments > 50 && f.early > 0);
    assert_kept(f.store, 2);
    st_close(&f.store);
}

static void put_delete_gc_and_die(void *context)
{
    cascade_store *store = st_open_with(small_segments());
    cascade_gc_report report;

    (void)context;
    for (uint64_t key = 0; key < BLOCKS; key++)
        ST_CHECK(st_put(store, key, key, BLOCK, 0, 0) == 0);
    for (uint64_t key = 0; key < BLOCKS; key++)
        if (key % 4)
            ST_CHECK(st_delete(store, key) == 0);
    ST_CHECK(cascade_store_flush(store) == 0);
    ST_CHECK(cascade_store_gc(store, false, &report, NULL, NULL) == 0);
    raise(SIGKILL);
}

static void compacted_then_killed(void **state)
{
    cascade_store *store;

    (void)state;
    st_in_child(put_delete_gc_and_die, NULL, -SIGKILL);
    st_lose_memory();
    store = st_open_with(small_segments());
    assert_kept(store, 4);
    st_close(&store);
}

/* Where the record of a key lies: segment above offset. */
static uint64_t record_of(cascade_store *store, uint64_t key)
{
    cascade_key name = st_key(key);
    bool lost = false;
    uint32_t number;
    const csc_place *place;

    pthread_mutex_lock(&store->lock);
    number = csc_index_find(&store->index, &name, csc_index_key_hash(&store->index, &name), &lost);
    assert_int_not_equal(number, CSC_NUMBER_NONE);
    place = &csc_content_at(store, atomic_load(&csc_key_at(store, number)->content))->file;
    pthread_mutex_unlock(&store->lock);
    return (uint64_t)csc_segment_of(place) << 40 | csc_segment_offset_of(place);
}

/* Prompts that were written a block of each in turn lie one after the other afterwards. */
static void chains_lie_together(void **state)
{
    enum { CHAINS = 4, LENGTH = 6 };
    cascade_options options = small_segments();
    cascade_gc_report report;
    cascade_store *store = st_open_with(options);

    (void)state;
    for (uint64_t i = 0; i < LENGTH; i++)
        for (uint64_t chain = 0; chain < CHAINS; chain++) {
            uint64_t key = 100 * (chain + 1) + i;

            assert_int_equal(st_put_child(store, key, key - 1, BLOCK), 0);
            assert_int_equal(st_put(store, 5000 + key, 5000 + key, BLOCK, 0, 0), 0);
        }
    assert_int_equal(cascade_store_flush(store), 0);
    st_close(&store);
    store = st_open_with(options);
    for (uint64_t i = 0; i < LENGTH; i++)
        for (uint64_t chain = 0; chain < CHAINS; chain++)
            assert_int_equal(st_delete(store, 5000 + 100 * (chain + 1) + i), 0);
    assert_int_equal(cascade_store_flush(store), 0);
    assert_int_equal(cascade_store_gc(store, false, &report, NULL, NULL), 0);
    assert_true(report.moved_segments > 0);
    for (uint64_t chain = 1; chain <= CHAINS; chain++) {
        uint64_t last = record_of(store, 100 * chain), gaps = 0;

        for (uint64_t i = 1; i < LENGTH; i++) {
            uint64_t at = record_of(store, 100 * chain + i);

            gaps += at < last || at - last > 2 * BLOCK;
            last = at;
        }
        assert_in_range(gaps, 0, 1); /* one where it lay in two segments */
    }
    st_close(&store);
}

/* Another node of this rank took a sealed segment for abandoned: it is not tried again for ever. */
static void one_that_somebody_removed_is_forgotten(void **state)
{
    cascade_gc_report report;
    cascade_store *store = st_open_with(small_segments());
    size_t files;

    (void)state;
    put_range(store, 0, 100);
    files = st_segment_count();
    assert_true(files > 2);
    for (uint64_t i = 0; i < 100; i++)
        if (i % 5)
            assert_int_equal(st_delete(store, i), 0);
    assert_int_equal(unlink(st_segment_path(0)), 0);
    for (int i = 0; i < 3; i++) /* the first may fail where blocks were to be copied from it */
        (void)cascade_store_gc(store, false, &report, NULL, NULL);
    assert_int_equal(cascade_store_gc(store, false, &report, NULL, NULL), 0);
    assert_int_equal(report.moved_segments, 0);
    st_close(&store);
}

/* What hides nothing any more is given up, however old the blocks beside it are. */
static void deletes_do_not_stay_for_ever(void **state)
{
    enum { OLD = 4, ROUNDS = 6, EACH = 60, DELETES = 4000 };
    cascade_options options = small_segments();
    cascade_gc_report report;
    cascade_store *store = st_open_with(options);

    (void)state;
    put_range(store, 0, OLD);
    assert_int_equal(cascade_store_flush(store), 0);
    st_close(&store);
    store = st_open_with(options);
    for (uint64_t round = 0; round < ROUNDS; round++) {
        for (uint64_t i = 0; i < DELETES; i++)
            assert_int_equal(st_put(store, 10000 + i, round, 4096, 0, 0), 0);
        put_range(store, 1000, 1000 + EACH); /* and flushes */
        for (uint64_t i = 0; i < DELETES; i++)
            assert_int_equal(st_delete(store, 10000 + i), 0);
        for (uint64_t i = 1000; i < 1000 + EACH; i++)
            assert_int_equal(st_delete(store, i), 0);
        assert_int_equal(cascade_store_flush(store), 0);
        assert_int_equal(cascade_store_gc(store, false, &report, NULL, NULL), 0);
    }
    for (int i = 0; i < 4; i++)
        assert_int_equal(cascade_store_gc(store, false, &report, NULL, NULL), 0);
    st_close(&store);
    store = st_open_with(options);
    for (int i = 0; i < 4; i++)
        assert_int_equal(cascade_store_gc(store, false, &report, NULL, NULL), 0);
    /* The old blocks, and less than the deletes of two rounds take. */
    print_message("# %llu bytes are left\n",
                  (unsigned long long)st_stats(store).tiers[CASCADE_TIER_FILE].used_bytes);
    assert_true(st_stats(store).tiers[CASCADE_TIER_FILE].used_bytes < 2 * ST_MIB);
    for (uint64_t i = 0; i < DELETES; i += 7)
        assert_int_equal(st_get(store, 10000 + i, ROUNDS - 1, 4096, 0), CASCADE_MISS);
    for (uint64_t key = 0; key < OLD; key++)
        assert_int_equal(st_get(store, key, key, BLOCK, 0), 0);
    st_close(&store);
}

/* Ten times the budget, of which a part is asked for again and again. */
static void churn_under_a_budget(void **state)
{
    enum { BUDGET_MIB = 16, HOT = 200, ROUNDS = BUDGET_MIB * 1024 * 1024 / BLOCK * 10 };
    cascade_options options = small_segments();
    cascade_store *store;
    cascade_stats stats;
    double worst = 0;
    uint64_t misses = 0;

    (void)state;
    options.file_budget_bytes = BUDGET_MIB * ST_MIB;
    options.segment_bytes = BUDGET_MIB * ST_MIB / 32;
    store = st_open_with(options);
    for (uint64_t i = 0; i < ROUNDS; i++) {
        assert_int_equal(st_put(store, 1000 + i, 1000 + i, BLOCK, 0, 0), 0);
        if (i % 2 == 0) {
            uint64_t hot = i / 2 % HOT;
            int code = st_get(store, hot, hot, BLOCK, 0);

            if (code == CASCADE_MISS) {
                misses++;
                code = st_put(store, hot, hot, BLOCK, 0, 0);
            }
            assert_int_equal(code, 0);
        }
        if (i % 3 == 0 && i > 30)
            (void)st_delete(store, 1000 + i - 30);
        if (i % 500 == 499) {
            assert_int_equal(cascade_store_flush(store), 0);
            stats = st_stats(store);
            assert_true(stats.tiers[CASCADE_TIER_FILE].used_bytes <= options.file_budget_bytes);
            if (i > ROUNDS / 10 && amplification(store) > worst)
                worst = amplification(store);
        }
    }
    stats = st_stats(store);
    print_message(
        "# used / live at worst %.3f, %llu compactions, %llu segments used again, %llu misses\n", worst,
        (unsigned long long)stats.compactions, (unsigned long long)stats.recycled_segments,
        (unsigned long long)misses);
    assert_true(worst < 1.3);
    /* Between two reads of one go by more bytes than the budget has: the oldest first would miss them
     * all. */
    assert_true(misses < ROUNDS / 2 / 2);
    assert_true(stats.recycled_segments > 0);
    assert_int_equal(stats.lost, 0);
    assert_int_equal(stats.tiers[CASCADE_TIER_FILE].quarantined, 0);
    st_close(&store);
}

enum { MOVED = 300, AGAIN = 290 };

static atomic_uint paused, let_go; /* at so many marks */

/* Once when the first blocks are copied, and once when the rest is looked for. The segment is gone when
 * its file waits to be used again. */
static void pause_and_die(const char *name)
{
    static atomic_bool was_copied;

    if (strcmp(name, "recycle: spare synced") == 0)
        raise(SIGKILL);
    if (strcmp(name, "compact: looked") == 0 ||
        (strcmp(name, "compact: copied") == 0 && !atomic_exchange(&was_copied, true))) {
        unsigned turn = atomic_fetch_add(&paused, 1) + 1;

        while (atomic_load(&let_go) < turn && turn <= 2)
            st_sleep_ms(1);
    }
}

static void *gc_beside(void *store)
{
    cascade_gc_report report;

    (void)cascade_store_gc(store, false, &report, NULL, NULL);
    return NULL;
}

/* Twice a key is put whose block lies in the segment and was not moved yet. */
static void put_again_and_die(void *context)
{
    cascade_store *store = st_open();
    pthread_t gc;

    (void)context;
    for (uint64_t key = MOVED; key < MOVED + 40; key++)
        ST_CHECK(st_delete(store, key) == 0);
    atomic_store(&csc_mark_hook_now, pause_and_die);
    ST_CHECK(pthread_create(&gc, NULL, gc_beside, store) == 0);
    for (unsigned turn = 1; turn <= 2; turn++) {
        while (atomic_load(&paused) < turn)
            st_sleep_ms(1);
        ST_CHECK(st_put(store, 1000 + turn, AGAIN, BLOCK, 0, CASCADE_PUT_SYNC) == 0);
        ST_CHECK(st_info(store, AGAIN).references == 1 + turn);
        /* Out of dram, so that the next put takes over its place. */
        for (uint64_t key = 0; turn == 1 && st_info(store, AGAIN).in_dram; key = (key + 1) % AGAIN)
            ST_CHECK(st_get(store, key, key, BLOCK, 0) == 0);
        atomic_store(&let_go, turn);
    }
    pthread_join(gc, NULL);
}

/* A block in a segment that is emptied changes hands, and is moved all the same before the segment goes.
 */
static void put_again_while_it_is_moved(void **state)
{
    cascade_store *store = st_open();

    (void)state;
    put_range(store, 0, MOVED + 40);
    st_close(&store);
    st_in_child(put_again_and_die, NULL, -SIGKILL);
    st_lose_memory();
    store = st_open();
    for (uint64_t key = 0; key < MOVED; key++)
        assert_int_equal(st_get(store, key, key, BLOCK, 0), 0);
    st_close(&store);
}

/* ---- what hides an older bind --------------------------------------------------------------------- */

enum { TWICE = 3, LATER = 999 };

static atomic_bool is_held, may_go_on;

static void hold_the_writer(const char *name)
{
    if (strcmp(name, "segment: created") == 0)
        for (;;)
            st_sleep_ms(1000);
}

/* Deleted and put again, and killed before either is on disk. */
static void put_twice_and_die(void *context)
{
    cascade_store *store = st_open();

    (void)context;
    atomic_store(&csc_mark_hook_now, hold_the_writer);
    ST_CHECK(st_delete(store, TWICE) == 0);
    ST_CHECK(st_put(store, TWICE, LATER, BLOCK, 0, CASCADE_PUT_SYNC) == 0);
    raise(SIGKILL);
}

static void hold_a_round_and_die(const char *name)
{
    if (strcmp(name, "recycle: spare synced") == 0)
        raise(SIGKILL);
    if (strcmp(name, "write: synced") == 0 && !atomic_exchange(&is_held, true))
        while (!atomic_load(&may_go_on))
            st_sleep_ms(1);
}

/* Deleted once more, and the segment of the later bind emptied before that is on disk. */
static void delete_empty_and_die(void *context)
{
    cascade_store *store = st_open();
    pthread_t gc;

    (void)context;
    atomic_store(&csc_mark_hook_now, hold_a_round_and_die);
    ST_CHECK(st_put(store, 7000, 7000, BLOCK, 0, 0) == 0);
    while (!atomic_load(&is_held))
        st_sleep_ms(1);
    ST_CHECK(st_delete(store, TWICE) == 0);
    ST_CHECK(pthread_create(&gc, NULL, gc_beside, store) == 0);
    st_sleep_ms(200); /* until it waits for the writer */
    atomic_store(&may_go_on, true);
    pthread_join(gc, NULL);
}

/* The second bind of a key hides the first, which lies in a segment that stays. */
static void a_bind_that_hides_another_goes(void **state)
{
    cascade_store *store = st_open();

    (void)state;
    put_range(store, 0, 60);
    st_close(&store);
    st_in_child(put_twice_and_die, NULL, -SIGKILL);
    store = st_open();
    assert_int_equal(st_get(store, TWICE, LATER, BLOCK, 0), 0);
    st_close(&store);
    st_in_child(delete_empty_and_die, NULL, -SIGKILL);
    st_lose_memory();
    store = st_open();
    assert_int_not_equal(st_get(store, TWICE, TWICE, BLOCK, 0), 0);
    for (uint64_t key = 0; key < 60; key++)
        assert_true(key == TWICE || st_get(store, key, key, BLOCK, 0) == 0);
    st_close(&store);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, st_setup, st_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(deletes_give_space_back),
        CASE(waste_stays_small),
        CASE(deletes_survive_their_segment),
        CASE(what_is_not_a_block_outlives_its_segment),
        CASE(compacted_then_killed),
        CASE(chains_lie_together),
        CASE(one_that_somebody_removed_is_forgotten),
        CASE(deletes_do_not_stay_for_ever),
        CASE(churn_under_a_budget),
        CASE(a_bind_that_hides_another_goes),
        CASE(keys_are_no_waste),
        CASE(a_flush_does_not_wait_for_a_gc),
        CASE(put_again_while_it_is_moved),
    };

    return cmocka_run_group_tests_name("compaction", tests, NULL, NULL);
}
