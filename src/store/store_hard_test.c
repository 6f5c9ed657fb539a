/* SPDX-License-Identifier: MIT */
/* Pins, slots and many threads at once. */
#include "base/mark.h"
#include "store/store_private.h"
#include "store/store_testing.h"

#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { BLOCK = 64 * 1024, SLOTS = 4096 };

/* ---- pins ------------------------------------------------------------------------------------ */

static void viewed_blocks_stay_unchanged(void **state)
{
    enum { VIEWS = 20 };
    cascade_store *store = st_open();
    cascade_view *views[VIEWS] = {NULL};

    (void)state;
    for (uint64_t i = 0; i < VIEWS; i++) {
        cascade_key key = st_key(i);

        assert_int_equal(st_put(store, i, i, BLOCK - 100, 100, i % 2 ? CASCADE_PUT_DURABLE : 0), 0);
        assert_int_equal(cascade_block_view(store, &key, &views[i]), 0);
        if (i % 5 == 0)
            assert_int_equal(st_delete(store, i), 0);
    }
    assert_int_equal(st_stats(store).pins, VIEWS);
    for (uint64_t i = 0; i < 300; i++)
        assert_int_equal(st_put(store, 1000 + i, 1000 + i, BLOCK, 0, 0), 0);
    for (uint64_t i = 0; i < VIEWS; i++) {
        assert_true(st_view_is(views[i], i, BLOCK - 100, 100));
        assert_int_equal(st_get(store, i, i, BLOCK - 100, 100), i % 5 ? 0 : CASCADE_MISS);
        if (i % 5)
            assert_true(st_info(store, i).in_dram);
        cascade_view_release(store, &views[i]);
    }
    assert_int_equal(st_stats(store).pins, 0);
    st_close(&store);
}

static void a_view_brings_its_block_back(void **state)
{
    cascade_store *store = st_open();
    cascade_key key = st_key(1);
    cascade_view *view = NULL;

    (void)state;
    assert_int_equal(st_put(store, 1, 1, BLOCK, 77, 0), 0);
    st_push_out(store, 1, 1000);
    assert_int_equal(cascade_block_view(store, &key, &view), 0);
    assert_true(st_view_is(view, 1, BLOCK, 77));
    assert_true(st_info(store, 1).in_dram);
    assert_int_equal(st_stats(store).tiers[CASCADE_TIER_FILE].hits, 1);
    cascade_view_release(store, &view);
    st_close(&store);
}

/* Many small views are no reason not to evict what is not viewed. */
static void a_thousand_views_leave_room(void **state)
{
    enum { VIEWS = 1500 };
    static cascade_view *views[VIEWS];
    cascade_options options = st_options();
    cascade_store *store;

    (void)state;
    options.dram_bytes = 12 * ST_MIB;
    store = st_open_with(options);
    for (uint64_t i = 0; i < VIEWS; i++) {
        cascade_key key = st_key(i);

        assert_int_equal(st_put(store, i, i, 4096, 0, 0), 0);
        assert_int_equal(cascade_block_view(store, &key, &views[i]), 0);
    }
    for (uint64_t i = 0; i < 400; i++)
        assert_int_equal(st_put(store, 10000 + i, 10000 + i, BLOCK, 0, 0), 0);
    for (uint64_t i = 0; i < VIEWS; i++) {
        assert_true(st_view_is(views[i], i, 4096, 0));
        cascade_view_release(store, &views[i]);
    }
    st_close(&store);
}

static void *release_soon(void *context)
{
    void **both = context;

    st_sleep_ms(150);
    for (cascade_view **view = both[1]; *view; view++)
        cascade_view_release(both[0], view);
    return NULL;
}

/* All of dram is pinned: a put waits for a release; without one it fails and harms nothing. */
static void puts_wait_for_pins(void **state)
{
    enum { VIEWS = 64 };
    cascade_options options = st_options();
    cascade_view *views[VIEWS + 1] = {NULL};
    cascade_store *store;
    pthread_t thread;
    void *both[2];

    (void)state;
    options.put_wait_ms = 300;
    store = st_open_with(options);
    for (uint64_t i = 0; i < VIEWS; i++) {
        cascade_key key = st_key(i);

        assert_int_equal(st_put(store, i, i, BLOCK, 0, 0), 0);
        assert_int_equal(cascade_block_view(store, &key, &views[i]), 0);
    }
    assert_int_equal(cascade_store_flush(store), 0);
    assert_int_equal(st_put(store, 100, 100, BLOCK, 0, 0), CASCADE_ENOSPC);
    assert_int_equal(st_get(store, 100, 100, BLOCK, 0), CASCADE_MISS);
    both[0] = store;
    both[1] = views;
    assert_int_equal(pthread_create(&thread, NULL, release_soon, both), 0);
    for (int code = CASCADE_ENOSPC, tries = 0; code; tries++) {
        code = st_put(store, 100, 100, BLOCK, 0, 0);
        assert_true(code == 0 || code == CASCADE_ENOSPC);
        assert_in_range(tries, 0, 100);
    }
    pthread_join(thread, NULL);
    for (uint64_t i = 0; i < VIEWS; i++)
        assert_int_equal(st_get(store, i, i, BLOCK, 0), 0);
    assert_int_equal(st_get(store, 100, 100, BLOCK, 0), 0);
    st_close(&store);
}

static void slots_run_out_and_come_back(void **state)
{
    static cascade_view *views[SLOTS + 1];
    cascade_store *store = st_open();
    cascade_key key = st_key(1), walked;
    cascade_info info;
    uint64_t cursor = 0;
    size_t count = 0, matched = 77;
    uint8_t byte = 0;
    const cascade_piece piece = {&byte, 1};
    int code = 0;

    (void)state;
    assert_int_equal(st_put(store, 1, 1, 1, 0, CASCADE_PUT_SYNC), 0);
    while (count <= SLOTS && (code = cascade_block_view(store, &key, &views[count])) == 0)
        count++;
    assert_int_equal(code, CASCADE_ENOSLOT);
    assert_int_equal(count, SLOTS);
    assert_null(views[SLOTS]);
    assert_string_not_equal(cascade_last_error(), "");
    assert_int_equal(st_stats(store).pins, SLOTS);
    assert_int_equal(cascade_block_get(store, &key, &(cascade_block){&piece, 1, NULL, 0}),
                     CASCADE_ENOSLOT);
    assert_int_equal(cascade_block_get_range(store, &key, 0, 1, &byte), CASCADE_ENOSLOT);
    assert_int_equal(cascade_block_info(store, &key, &info), CASCADE_ENOSLOT);
    assert_int_equal(cascade_prefix_match(store, &key, 1, &matched), CASCADE_ENOSLOT);
    assert_int_equal(matched, 77);
    assert_int_equal(cascade_key_next(store, &cursor, &walked, &info),
                     CASCADE_ENOSLOT); /* not "the end" */
    assert_int_equal(cascade_prefetch(store, &key, 1), 0);
    assert_int_equal(cascade_store_flush(store), 0);
    cascade_view_release(store, &views[2000]);
    assert_int_equal(st_get(store, 1, 1, 1, 0), 0);
    assert_int_equal(cascade_key_next(store, &cursor, &walked, &info), 0);
    assert_memory_equal(&walked, &key, sizeof key);
    for (size_t i = 0; i < SLOTS; i++)
        cascade_view_release(store, &views[i]);
    assert_int_equal(st_stats(store).pins, 0);
    st_close(&store);
}

/* ---- many threads ---------------------------------------------------------------------------- */

enum { WORKERS = 8, KEYS = 160, OPERATIONS = 2500 };

typedef struct worker {
    cascade_store *store;
    uint64_t number;
    uint64_t wrong, refused, hits, again;
} worker;

static size_t size_of(uint64_t key)
{
    return 500 + key * 331 % 60000;
}

/* Keys 0, 1 and 2 of each three share bytes. */
static uint64_t seed_of(uint64_t key)
{
    return key / 3;
}

static void count(worker *me, int code)
{
    me->wrong += code == ST_WRONG;
    me->hits += code == 0;
    me->again += code == CASCADE_EAGAIN;
    me->refused += code < 0 && code != ST_WRONG && code != CASCADE_EAGAIN;
}

static void view_one(worker *me, uint64_t key)
{
    cascade_key name = st_key(key);
    cascade_view *view = NULL;
    int code = cascade_block_view(me->store, &name, &view);

    if (code == 0 && !st_view_is(view, seed_of(key), size_of(key / 3), 40))
        code = ST_WRONG;
    cascade_view_release(me->store, &view);
    count(me, code);
}

static void match_some(worker *me, uint64_t key)
{
    cascade_key keys[6];
    size_t matched = 0;

    for (uint64_t i = 0; i < 6; i++)
        keys[i] = st_key((key + i) % KEYS);
    count(me, cascade_prefix_match(me->store, keys, 6, &matched));
    if (key % 2)
        count(me, cascade_prefix_release(me->store, keys, matched));
    if (key % 5 == 0)
        count(me, cascade_prefetch(me->store, keys, 6));
}

static void range_one(worker *me, uint64_t key)
{
    cascade_key name = st_key(key);
    uint8_t right[1000], got[300];
    int code = cascade_block_get_range(me->store, &name, 200, sizeof got, got);

    st_fill(right, sizeof right, seed_of(key));
    count(me, code == 0 && memcmp(got, right + 200, sizeof got) != 0 ? ST_WRONG : code);
}

static void *work(void *context)
{
    worker *me = context;
    uint64_t random = me->number * 1000003 + 12345;

    for (int i = 0; i < OPERATIONS; i++) {
        uint64_t key, size;
        cascade_key name;
        cascade_info info;

        random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        key = (random >> 33) % KEYS;
        size = size_of(key / 3);
        name = st_key(key);
        switch ((random >> 20) % 16) {
        case 0:
        case 1:
        case 2:
        case 3:
            count(me,
                  st_put(me->store, key, seed_of(key), size, 40, key % 40 == 0 ? CASCADE_PUT_SYNC : 0));
            break;
        case 4:
            count(me, st_delete(me->store, key));
            break;
        case 5:
        case 6:
            view_one(me, key);
            break;
        case 7:
            match_some(me, key);
            break;
        case 8:
            range_one(me, key);
            break;
        case 9:
            count(me, cascade_block_info(me->store, &name, &info));
            break;
        case 10:
            count(me, st_put(me->store, key, seed_of(key), size, 40, CASCADE_PUT_VERIFY));
            break;
        default:
            count(me, st_get(me->store, key, seed_of(key), size, 40));
        }
    }
    return NULL;
}

static void eight_threads_do_everything(void **state)
{
    cascade_options options = st_options();
    cascade_verify_report report;
    cascade_stats stats;
    cascade_store *store;
    pthread_t threads[WORKERS];
    worker workers[WORKERS] = {0};
    uint64_t refused = 0, hits = 0, again = 0;

    (void)state;
    options.dram_bytes = 1 * ST_MIB; /* the keys want about three times that */
    options.hash_threads = 2;
    options.put_wait_ms = 60000;
    store = st_open_with(options);
    for (uint64_t i = 0; i < WORKERS; i++) {
        workers[i] = (worker){.store = store, .number = i};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < WORKERS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(workers[i].wrong, 0);
        refused += workers[i].refused;
        again += workers[i].again;
        hits += workers[i].hits;
    }
    print_message("# %d operations: %d done, %d to try again\n", WORKERS * OPERATIONS, (int)hits,
                  (int)again);
    assert_int_equal(refused, 0);
    assert_in_range(again, 0, WORKERS * OPERATIONS / 100);
    assert_int_equal(cascade_store_flush(store), 0);
    assert_int_equal(cascade_store_verify(store, &report, NULL, NULL), 0);
    stats = st_stats(store);
    assert_int_equal(stats.pins, 0);
    assert_int_equal(stats.lost, 0);
    assert_int_equal(stats.conflicts, 0);
    assert_int_equal(stats.tiers[CASCADE_TIER_FILE].quarantined, 0);
    assert_in_range(stats.contents, 1, KEYS / 3 + 1);
    st_close(&store);
    store = st_open_with(options);
    assert_int_equal(st_stats(store).keys, stats.keys);
    for (uint64_t key = 0; key < KEYS; key++) {
        int code = st_get(store, key, seed_of(key), size_of(key / 3), 40);

        assert_true(code == 0 || code == CASCADE_MISS);
        if (code == 0)
            assert_int_equal(st_delete(store, key), 0);
    }
    assert_int_equal(st_stats(store).keys, 0);
    assert_int_equal(st_stats(store).contents, 0);
    st_close(&store);
}

typedef struct racer {
    cascade_store *store;
    pthread_barrier_t *barrier;
    uint64_t seed;
} racer;

static void *race(void *context)
{
    racer *me = context;

    for (uint64_t key = 0; key < 60; key++) {
        pthread_barrier_wait(me->barrier);
        if (st_put(me->store, key, 100 * me->seed + key, 200000, 0, 0) != 0)
            abort();
    }
    return NULL;
}

/* The first commit wins; where both were under way, the conflict is seen and counted. */
static void racing_puts_of_one_key(void **state)
{
    cascade_store *store = st_open();
    cascade_stats stats;
    pthread_barrier_t barrier;
    racer racers[2] = {{store, &barrier, 1}, {store, &barrier, 2}};
    pthread_t threads[2];

    (void)state;
    pthread_barrier_init(&barrier, NULL, 2);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, race, &racers[i]), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&barrier);
    for (uint64_t key = 0; key < 60; key++) {
        int first = st_get(store, key, 100 + key, 200000, 0),
            second = st_get(store, key, 200 + key, 200000, 0);

        assert_true((first == 0 && second == ST_WRONG) || (first == ST_WRONG && second == 0));
    }
    stats = st_stats(store);
    print_message("# %d of 60 puts met\n", (int)stats.conflicts);
    assert_int_equal(stats.puts, 60);
    assert_int_equal(stats.puts_existed, 60);
    assert_int_equal(stats.keys, 60);
    assert_int_equal(stats.contents, 60);
    assert_in_range(stats.conflicts, 0, 60);
    st_close(&store);
}

/* ---- closing --------------------------------------------------------------------------------- */

typedef struct long_call {
    cascade_store *store;
    bool is_gc;
    int code;
    sem_t began;
    _Atomic bool is_closed, was_left; /* the handle was freed during the call */
} long_call;

static _Atomic bool writer_is_held, writer_stands;

static void hold_writer(const char *name)
{
    while (strcmp(name, "write: written") == 0 && atomic_load(&writer_is_held)) {
        atomic_store(&writer_stands, true);
        st_sleep_ms(1);
    }
}

/* Gives a close that does not wait the time to end. */
static int linger(void *context, uint64_t done, uint64_t total)
{
    long_call *call = context;

    (void)done, (void)total;
    sem_post(&call->began);
    atomic_store(&writer_is_held, false);
    for (int i = 0; i < 300 && !atomic_load(&call->is_closed); i++)
        st_sleep_ms(1);
    if (atomic_load(&call->is_closed)) {
        atomic_store(&call->was_left, true);
        pthread_exit(NULL);
    }
    return 0;
}

static void *call_for_long(void *context)
{
    const cascade_scrub_options slowly = {.struct_bytes = sizeof slowly, .rate_bytes = 1};
    long_call *call = context;
    cascade_verify_report verified;
    cascade_gc_report collected;

    call->code = call->is_gc ? cascade_store_gc(call->store, false, &collected, linger, call)
                             : cascade_store_scrub(call->store, &slowly, &verified, linger, call);
    return NULL;
}

/* The scrub would take hours, and the gc does not come to its turn before it has begun to wait. */
static void a_close_ends_long_calls(void **state)
{
    (void)state;
    for (int is_gc = 0; is_gc < 2; is_gc++) {
        cascade_store *store = st_open();
        long_call call = {.store = store, .is_gc = is_gc};
        pthread_t thread;

        sem_init(&call.began, 0, 0);
        atomic_store(&writer_is_held, is_gc);
        atomic_store(&csc_mark_hook_now, hold_writer);
        assert_int_equal(st_put(store, (uint64_t)is_gc, (uint64_t)is_gc, BLOCK, 0, 0), 0);
        while (is_gc && !atomic_load(&writer_stands))
            st_sleep_ms(1);
        pthread_create(&thread, NULL, call_for_long, &call);
        sem_wait(&call.began);
        assert_int_equal(cascade_store_close(&store), 0);
        atomic_store(&call.is_closed, true);
        pthread_join(thread, NULL);
        atomic_store(&csc_mark_hook_now, NULL);
        assert_false(call.was_left);
        assert_true(call.code == CASCADE_EAGAIN || (is_gc && call.code == 0));
        sem_destroy(&call.began);
    }
}

typedef struct collector {
    cascade_store *store;
    cascade_gc_report report;
    int code;
} collector;

static void *collect(void *context)
{
    collector *c = context;

    c->code = cascade_store_gc(c->store, false, &c->report, NULL, NULL);
    return NULL;
}

/* The background may have one of them, which the gc ends first. */
static atomic_uint segments_gone;
static _Atomic bool gc_may_go_on;

static void hold_the_fourth(const char *name)
{
    if (strcmp(name, "compact: segment goes") == 0 && atomic_fetch_add(&segments_gone, 1) == 3)
        while (!atomic_load(&gc_may_go_on))
            st_sleep_ms(1);
}

static void *close_beside(void *store)
{
    return (void *)(intptr_t)cascade_store_close((cascade_store **)store);
}

/* What it did until then is in its report. */
static void a_gc_that_is_ended_reports(void **state)
{
    enum { PUT = 30 };
    cascade_options options = st_options();
    cascade_store *store, *closed;
    collector c = {0};
    pthread_t gc, closer;
    void *code;

    (void)state;
    options.segment_bytes = 256 * ST_KIB;
    options.background_rate_bytes = 1;
    store = closed = st_open_with(options);
    for (uint64_t key = 0; key < PUT; key++)
        assert_int_equal(st_put(store, key, key, 100 * ST_KIB, 0, 0), 0);
    assert_int_equal(cascade_store_flush(store), 0);
    for (uint64_t key = 0; key < PUT; key++)
        if (key % 2)
            assert_int_equal(st_delete(store, key), 0);
    assert_int_equal(cascade_store_flush(store), 0);
    c.store = store;
    atomic_store(&csc_mark_hook_now, hold_the_fourth);
    pthread_create(&gc, NULL, collect, &c);
    while (atomic_load(&segments_gone) < 4)
        st_sleep_ms(1);
    pthread_create(&closer, NULL, close_beside, &closed);
    for (bool closing = false; !closing; st_sleep_ms(1)) {
        pthread_mutex_lock(&store->lock);
        closing = store->closing;
        pthread_mutex_unlock(&store->lock);
    }
    atomic_store(&gc_may_go_on, true);
    pthread_join(gc, NULL);
    pthread_join(closer, &code);
    atomic_store(&csc_mark_hook_now, NULL);
    assert_int_equal((intptr_t)code, 0);
    assert_int_equal(c.code, CASCADE_EAGAIN);
    assert_true(c.report.moved_segments > 0);
    assert_true(c.report.moved_bytes > 0);
    assert_true(c.report.freed_bytes > 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, st_setup, st_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(viewed_blocks_stay_unchanged), CASE(a_view_brings_its_block_back),
        CASE(a_thousand_views_leave_room),  CASE(puts_wait_for_pins),
        CASE(slots_run_out_and_come_back),  CASE(eight_threads_do_everything),
        CASE(racing_puts_of_one_key),       CASE(a_close_ends_long_calls),
        CASE(a_gc_that_is_ended_reports),
    };

    return cmocka_run_group_tests_name("store hard cases", tests, NULL, NULL);
}
