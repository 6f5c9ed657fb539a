/* SPDX-License-Identifier: MIT */
/* Blocks that dram holds when the file budget takes their file copies: nobody writes them again for
 * nothing, and they go when they leave dram. */
#include "base/mark.h"
#include "store/shed.h"
#include "store/store_private.h"
#include "store/store_testing.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

enum { BLOCK = 4000, FEW = 100, MANY = 400 };

/* Dram has room for 128 blocks, the budget for 32 with their headers. */
static cascade_options shed_options(void)
{
    cascade_options options = st_options();

    options.dram_bytes = 512 * ST_KIB;
    options.file_budget_bytes = 256 * ST_KIB;
    options.segment_bytes = 64 * ST_KIB;
    options.policy = "lru";
    return options;
}

/* The first `count` keys, with a flush now and then. False: one failed. */
static bool put_first(cascade_store *store, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        if (st_put(store, i, i, BLOCK, 0, 0) || (i % 20 == 19 && cascade_store_flush(store)))
            return false;
    return true;
}

/* The oldest key from `first` on whose block is in dram alone. In a child. */
static uint64_t find_shed(cascade_store *store, uint64_t first)
{
    while (first < FEW && st_info(store, first).in_file)
        first++;
    ST_CHECK(first < FEW && st_info(store, first).in_dram);
    return first;
}

static uint64_t written(cascade_store *store)
{
    return st_stats(store).tiers[CASCADE_TIER_FILE].demotions;
}

static uint64_t dropped(cascade_store *store)
{
    return st_stats(store).tiers[CASCADE_TIER_FILE].drops;
}

/* ---- what writes them ------------------------------------------------------------------------ */

static void a_flush_writes_none(void **state)
{
    cascade_store *store = st_open_with(shed_options());

    (void)state;
    assert_true(put_first(store, FEW));
    assert_int_equal(written(store), FEW);
    assert_false(st_info(store, 0).in_file);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(st_stats(store).dirty_bytes, 0);
        assert_int_equal(cascade_store_flush(store), 0);
    }
    assert_int_equal(written(store), FEW);
    assert_int_equal(dropped(store), 0);
    for (uint64_t i = 0; i < FEW; i++)
        assert_int_equal(st_get(store, i, i, BLOCK, 0), 0);
    st_close(&store);
}

/* Each in its own way, and on disk when it returns or is flushed. */
static void put_again(void *context)
{
    uint64_t *keys = context;
    cascade_store *store = st_open_with(shed_options());

    ST_CHECK(put_first(store, FEW));
    keys[0] = find_shed(store, 0);
    ST_CHECK(st_put(store, keys[0], keys[0], BLOCK, 0, CASCADE_PUT_DURABLE) == 0);
    ST_CHECK(st_info(store, keys[0]).in_file);
    keys[1] = find_shed(store, keys[0] + 1);
    ST_CHECK(st_put(store, keys[1], keys[1], BLOCK, 0, 0) == 0);
    keys[2] = find_shed(store, keys[1] + 1);
    ST_CHECK(st_put(store, keys[2], keys[2], BLOCK, 0, CASCADE_PUT_VERIFY) == 0);
    keys[3] = find_shed(store, keys[2] + 1);
    ST_CHECK(st_put(store, FEW, keys[3], BLOCK, 0, 0) == 0); /* its bytes, under another key */
    ST_CHECK(cascade_store_flush(store) == 0);
    for (int i = 0; i < 4; i++)
        ST_CHECK(st_info(store, keys[i]).in_file);
    ST_CHECK(st_info(store, FEW).in_file);
    ST_CHECK(written(store) == FEW + 4);
    raise(SIGKILL);
}

static void what_is_put_again_is_written(void **state)
{
    uint64_t *keys =
        mmap(NULL, 4 * sizeof *keys, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cascade_store *store;

    (void)state;
    assert_ptr_not_equal(keys, MAP_FAILED);
    st_in_child(put_again, keys, -SIGKILL);
    st_lose_memory();
    store = st_open_with(shed_options());
    for (int i = 0; i < 4; i++)
        assert_int_equal(st_get(store, keys[i], keys[i], BLOCK, 0), 0);
    assert_int_equal(st_get(store, FEW, keys[3], BLOCK, 0), 0);
    st_close(&store);
    munmap(keys, 4 * sizeof *keys);
}

static _Atomic bool is_held, is_let_go;

static void hold_the_writer(const char *name)
{
    if (strcmp(name, "write: written") || atomic_load(&is_let_go))
        return;
    atomic_store(&is_held, true);
    while (!atomic_load(&is_let_go))
        st_sleep_ms(1);
}

/* As the budget does. */
static void take_file_copy(cascade_store *store, uint64_t number)
{
    static const csc_place nowhere;
    const cascade_key key = st_key(number);
    uint32_t found;
    bool lost = false;

    pthread_mutex_lock(&store->lock);
    found = csc_index_find(&store->index, &key, csc_index_key_hash(&store->index, &key), &lost);
    csc_content_set_file(store, atomic_load(&csc_key_at(store, found)->content), &nowhere);
    pthread_mutex_unlock(&store->lock);
}

static void shed_before_its_bind_is_written(void *context)
{
    cascade_store *store = st_open_with(shed_options());

    (void)context;
    ST_CHECK(st_put(store, 1, 1, BLOCK, 0, CASCADE_PUT_DURABLE) == 0);
    atomic_store(&csc_mark_hook_now, hold_the_writer);
    ST_CHECK(st_put(store, 9, 9, BLOCK, 0, 0) == 0);
    while (!atomic_load(&is_held))
        st_sleep_ms(1);
    ST_CHECK(st_put(store, 2, 1, BLOCK, 0, CASCADE_PUT_SYNC) == 0);
    take_file_copy(store, 1);
    atomic_store(&is_let_go, true);
    ST_CHECK(cascade_store_flush(store) == 0);
    raise(SIGKILL);
}

/* A second key joined while the file copy was there: its bind waits for the writer when that goes. */
static void a_bind_does_not_go_with_the_copy_it_waits_for(void **state)
{
    cascade_store *store;

    (void)state;
    st_in_child(shed_before_its_bind_is_written, NULL, -SIGKILL);
    st_lose_memory();
    store = st_open_with(shed_options());
    assert_int_equal(st_get(store, 2, 1, BLOCK, 0), 0);
    st_close(&store);
}

/* Of those in dram alone, what was used since is worth more than the oldest that the files hold. The
 * rest would only push out what is worth more. */
static void a_close_writes_what_is_worth_it(void **state)
{
    enum { USED = 6 };
    cascade_options options = shed_options();
    bool shed[FEW], used[FEW] = {false};
    uint64_t count = 0, used_count = 0, kept = 0, pushed_out = 0;
    cascade_store *store;

    (void)state;
    store = st_open_with(options);
    assert_true(put_first(store, FEW));
    for (uint64_t i = 0; i < FEW; i++)
        count += shed[i] = !st_info(store, i).in_file;
    assert_in_range(count, FEW / 2, FEW - 2 * USED);
    for (uint64_t i = 0; i < FEW && used_count < USED; i += 3)
        if (shed[i]) {
            assert_int_equal(st_get(store, i, i, BLOCK, 0), 0);
            used[i] = true;
            used_count++;
        }
    st_close(&store);
    store = st_open_with(options);
    for (uint64_t i = 0; i < FEW; i++) {
        bool there = st_get(store, i, i, BLOCK, 0) == 0;

        if (used[i])
            assert_true(there);
        kept += there;
        pushed_out += !shed[i] && !there;
    }
    assert_in_range(pushed_out, 0, 3 * USED); /* with what lives in a segment that cannot be moved */
    assert_true(kept >= FEW - count + USED - pushed_out);
    assert_int_equal(st_stats(store).lost, 0);
    st_close(&store);
}

static _Atomic uint64_t published;

static void count_published(const char *name)
{
    atomic_fetch_add(&published, strcmp(name, "write: published") == 0);
}

/* What is older than all that files hold is not written: that would cost them some of it. */
static void a_close_writes_none_that_is_worth_less(void **state)
{
    cascade_store *store = st_open_with(shed_options());
    uint64_t oldest = FEW, newer = 0;

    (void)state;
    assert_true(put_first(store, FEW));
    for (uint64_t i = 0; i < FEW; i++)
        if (st_info(store, i).in_file)
            oldest = i < oldest ? i : oldest;
        else
            newer += i > oldest;
    assert_in_range(oldest, FEW / 2, FEW - 1);
    atomic_store(&published, 0);
    atomic_store(&csc_mark_hook_now, count_published);
    st_close(&store);
    atomic_store(&csc_mark_hook_now, NULL);
    assert_in_range(atomic_load(&published), 0, newer);
}

static bool is_sent(cascade_store *store, const csc_shed *shed, uint64_t number)
{
    const cascade_key key = st_key(number);
    bool lost = false;
    uint32_t found = csc_index_find(&store->index, &key, csc_index_key_hash(&store->index, &key), &lost);

    for (size_t i = 0; i < shed->count; i++)
        if (shed->numbers[i] == atomic_load(&csc_key_at(store, found)->content))
            return true;
    return false;
}

/* There is no place for all that was used, and the children were last. */
static void a_close_writes_no_child_without_its_parent(void **state)
{
    enum { PAIRS = 30 };
    cascade_store *store = st_open_with(shed_options());
    uint64_t sent = 0;
    csc_shed shed;

    (void)state;
    for (uint64_t i = 0; i < PAIRS; i++)
        assert_int_equal(st_put_child(store, i, PAIRS + i, BLOCK), 0);
    for (uint64_t i = PAIRS; i < FEW; i++)
        assert_int_equal(st_put(store, i, i, BLOCK, 0, i % 20 == 19 ? CASCADE_PUT_DURABLE : 0), 0);
    assert_int_equal(cascade_store_flush(store), 0);
    for (uint64_t i = 2 * PAIRS; i-- > 0;) {
        assert_false(st_info(store, i).in_file);
        assert_int_equal(st_get(store, i, i, BLOCK, 0), 0);
    }
    /* What a close chooses; to make room for it whole segments may go again. */
    csc_shed_send_down(store, &shed);
    for (uint64_t i = 0; i < PAIRS; i++)
        if (is_sent(store, &shed, i)) {
            assert_true(is_sent(store, &shed, PAIRS + i));
            sent++;
        }
    csc_shed_end(store, &shed, false);
    assert_in_range(sent, 3, PAIRS);
    st_close(&store);
}

/* ---- who goes -------------------------------------------------------------------------------- */

static void a_churn_writes_each_block_once(void **state)
{
    cascade_store *store = st_open_with(shed_options());
    cascade_stats stats;
    uint64_t there = 0, kept = 0;
    bool found[MANY];

    (void)state;
    assert_true(put_first(store, MANY));
    stats = st_stats(store);
    assert_int_equal(written(store), MANY);
    assert_int_equal(stats.tiers[CASCADE_TIER_FILE].drops, MANY - stats.keys);
    for (uint64_t i = 0; i < MANY; i++) {
        cascade_key key = st_key(i);
        cascade_info info;

        found[i] = cascade_block_info(store, &key, &info) == 0;
        there += found[i];
    }
    assert_int_equal(there, stats.keys);
    assert_in_range(there, 64, 128 + 32);
    assert_true(found[MANY - 1]);
    st_close(&store);
    store = st_open_with(shed_options());
    for (uint64_t i = 0; i < MANY; i++) {
        int code = st_get(store, i, i, BLOCK, 0);

        assert_true(code == CASCADE_MISS || (code == 0 && found[i]));
        kept += code == 0;
    }
    assert_in_range(kept, 10, 32);
    assert_int_equal(st_stats(store).lost, 0);
    st_close(&store);
}

/* Dram and files hold about as much, so that blocks go while their old records are still there. */
typedef struct fate {
    uint64_t budget_bytes;
    bool gone[MANY];
} fate;

static void fill_and_die(void *context)
{
    fate *run = context;
    cascade_options options = shed_options();
    cascade_store *store;

    options.file_budget_bytes = run->budget_bytes;
    store = st_open_with(options);
    ST_CHECK(put_first(store, MANY));
    for (uint64_t i = 0; i < MANY; i++) {
        cascade_key key = st_key(i);
        cascade_info info;

        run->gone[i] = cascade_block_info(store, &key, &info) == CASCADE_MISS;
    }
    ST_CHECK(cascade_store_flush(store) == 0);
    raise(SIGKILL);
}

static void what_went_stays_away(void **state)
{
    enum { BUDGETS = 4 };
    fate *run = mmap(NULL, sizeof *run, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_ptr_not_equal(run, MAP_FAILED);
    for (size_t i = 0; i < BUDGETS; i++) {
        cascade_store *store;

        run->budget_bytes = (1024 + 32 * i) * ST_KIB;
        st_in_child(fill_and_die, run, -SIGKILL);
        st_lose_memory();
        store = st_open_with(shed_options());
        for (uint64_t key = 0; key < MANY; key++)
            if (run->gone[key])
                assert_int_equal(st_get(store, key, key, BLOCK, 0), CASCADE_MISS);
        st_close(&store);
        assert_int_equal(st_teardown(state), 0);
        assert_int_equal(st_setup(state), 0);
    }
    munmap(run, sizeof *run);
}

/* Nearly all of dram is shed, and one block needs a tenth of it. */
static void a_large_put_finds_room(void **state)
{
    enum { LARGE = 100 * 1024, COUNT = 20 };
    cascade_store *store = st_open_with(shed_options());

    (void)state;
    assert_true(put_first(store, MANY));
    for (uint64_t i = MANY; i < MANY + COUNT; i++)
        assert_int_equal(st_put(store, i, i, LARGE, 0, 0), 0);
    assert_int_equal(cascade_store_flush(store), 0);
    assert_int_equal(written(store), MANY + COUNT);
    assert_int_equal(dropped(store), MANY + COUNT - st_stats(store).keys);
    st_close(&store);
}

static void a_view_keeps_its_bytes(void **state)
{
    cascade_store *store = st_open_with(shed_options());
    cascade_key key = st_key(0);
    cascade_view *view = NULL;

    (void)state;
    assert_true(put_first(store, FEW));
    assert_false(st_info(store, 0).in_file);
    assert_int_equal(cascade_block_view(store, &key, &view), 0);
    assert_true(put_first(store, MANY));
    assert_true(st_view_is(view, 0, BLOCK, 0));
    assert_int_equal(st_get(store, 0, 0, BLOCK, 0), 0);
    cascade_view_release(store, &view);
    st_close(&store);
}

enum { READ_LATE = 5 };
static cascade_store *read_late;
static cascade_view *late_view;

/* While the first goes, when who is pinned has been looked at for all. */
static void view_at_the_first(const char *name)
{
    cascade_key key = st_key(READ_LATE);

    if (strcmp(name, "delete: key unbound") == 0 && !late_view)
        (void)cascade_block_view(read_late, &key, &late_view);
}

/* As it would if files held it. */
static void one_that_is_read_meanwhile_stays(void **state)
{
    enum { LARGE = 100 * 1024, COUNT = 2 }; /* there is room for the first */
    cascade_store *store = st_open_with(shed_options());
    int codes[COUNT];

    (void)state;
    assert_true(put_first(store, FEW));
    assert_int_equal(cascade_store_flush(store), 0);
    assert_false(st_info(store, READ_LATE).in_file);
    read_late = store;
    late_view = NULL;
    atomic_store(&csc_mark_hook_now, view_at_the_first);
    for (uint64_t i = 0; i < COUNT; i++)
        codes[i] = st_put(store, MANY + i, MANY + i, LARGE, 0, 0);
    atomic_store(&csc_mark_hook_now, NULL);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(codes[i], 0);
    assert_non_null(late_view);
    assert_true(st_view_is(late_view, READ_LATE, BLOCK, 0));
    cascade_view_release(store, &late_view);
    assert_int_equal(st_get(store, READ_LATE, READ_LATE, BLOCK, 0), 0);
    assert_int_equal(st_get(store, READ_LATE + 1, READ_LATE + 1, BLOCK, 0), CASCADE_MISS);
    st_close(&store);
}

/* ---- kills ----------------------------------------------------------------------------------- */

static const char *mark_wanted;
static _Atomic int marks_left;

static void die_at_the_last(const char *name)
{
    if (strcmp(name, mark_wanted) == 0 && atomic_fetch_sub(&marks_left, 1) == 1)
        raise(SIGKILL);
}

static void churn_and_die(void *context)
{
    cascade_store *store = st_open_with(shed_options());

    mark_wanted = context;
    atomic_store(&marks_left, 50);
    atomic_store(&csc_mark_hook_now, die_at_the_last);
    (void)put_first(store, MANY);
}

/* What goes is there or is not, and nothing of it counts as lost. */
static void killed_while_they_go(void **state)
{
    static const char *marks[] = {"evict: not resident", "delete: sequence written",
                                  "delete: key unbound", "content: doomed", "content: freed"};

    (void)state;
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++) {
        cascade_store *store;

        st_in_child(churn_and_die, (void *)(uintptr_t)marks[i], -SIGKILL);
        store = st_open_with(shed_options());
        assert_true(st_stats(store).recovered_blocks > 0);
        assert_int_equal(st_stats(store).lost, 0);
        for (uint64_t key = 0; key < MANY; key++) {
            int code = st_get(store, key, key, BLOCK, 0);

            assert_true(code == 0 || code == CASCADE_MISS);
            if (code == 0)
                assert_int_equal(st_delete(store, key), 0);
        }
        assert_int_equal(st_stats(store).keys, 0);
        st_close(&store);
    }
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, st_setup, st_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_flush_writes_none),
        CASE(what_is_put_again_is_written),
        CASE(a_bind_does_not_go_with_the_copy_it_waits_for),
        CASE(a_close_writes_what_is_worth_it),
        CASE(a_close_writes_none_that_is_worth_less),
        CASE(a_close_writes_no_child_without_its_parent),
        CASE(a_churn_writes_each_block_once),
        CASE(what_went_stays_away),
        CASE(a_large_put_finds_room),
        CASE(a_view_keeps_its_bytes),
        CASE(one_that_is_read_meanwhile_stays),
        CASE(killed_while_they_go),
    };

    return cmocka_run_group_tests_name("store shed", tests, NULL, NULL);
}
