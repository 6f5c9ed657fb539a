/* SPDX-License-Identifier: MIT */
/*
 * The split-ordered list against an array, and under readers while it changes. The readers do what real
 * ones do: they hold a guard, and what they may stand on is not reused before csc_slots_look says so.
 */
#include "index/hash_list.h"
#include "index/slots.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ENTRIES     2048u
#define BUCKETS_MAX 4096u

typedef struct test_entry {
    uint64_t name; /* what find compares */
    csc_hash_node node;
} test_entry;

typedef struct test_list {
    csc_hash_list list;
    _Atomic uint32_t buckets[BUCKETS_MAX];
    _Atomic uint32_t bucket_count;
    test_entry entries[ENTRIES];
} test_list;

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static test_list *make_list(uint32_t bucket_count)
{
    test_list *made = calloc(1, sizeof *made);

    assert_non_null(made);
    made->list = (csc_hash_list){.buckets = made->buckets,
                                 .bucket_count = &made->bucket_count,
                                 .entries = (char *)made->entries,
                                 .entry_bytes = sizeof(test_entry),
                                 .node_offset = offsetof(test_entry, node)};
    csc_hash_init(&made->list, bucket_count);
    return made;
}

/* Takes no cmocka call: readers in other threads use it. */
static uint32_t find(const test_list *test, uint64_t name, uint32_t hash, bool *lost)
{
    uint32_t link = csc_hash_start(&test->list, hash), order = csc_hash_order(hash), entry;

    while ((entry = csc_hash_seek(&test->list, link, order, lost)) != CSC_HASH_NONE) {
        if (test->entries[entry].name == name)
            return entry;
        link = atomic_load(&test->entries[entry].node.next);
    }
    return CSC_HASH_NONE;
}

/* Walks it all: sorted, every made bucket in its place, as many entries as there should be. */
static void check_order(const test_list *test, uint32_t expected)
{
    uint32_t link = atomic_load(&test->buckets[0]), previous = 0, count = 0, sentinels = 1, made = 0;

    while (link != CSC_LINK_END) {
        uint32_t order;

        assert_int_not_equal(link, CSC_LINK_NONE);
        if (link & CSC_LINK_BUCKET) {
            order = csc_hash_reverse(link & ~CSC_LINK_BUCKET);
            link = atomic_load(&test->buckets[link & ~CSC_LINK_BUCKET]);
            sentinels++;
        } else {
            const csc_hash_node *node = &test->entries[link - CSC_LINK_ENTRY].node;

            order = node->order;
            link = atomic_load(&node->next);
            count++;
        }
        assert_true(order >= previous);
        assert_true(count + sentinels <= ENTRIES + BUCKETS_MAX);
        previous = order;
    }
    for (uint32_t i = 0; i < BUCKETS_MAX; i++)
        made += atomic_load(&test->buckets[i]) != CSC_LINK_NONE;
    assert_int_equal(count, expected);
    assert_int_equal(sentinels, made);
}

/* Few different hashes, some of them apart in the top bit alone: many entries of one rank. */
static uint32_t clashing_hash(uint64_t *seed, uint32_t spread)
{
    return (uint32_t)(next_random(seed) % spread) * 2654435761u ^
           (next_random(seed) % 4 == 0 ? 0x80000000u : 0);
}

static void run_model(uint64_t seed, uint32_t spread, uint32_t buckets)
{
    test_list *test = make_list(buckets);
    static bool present[ENTRIES];
    static uint32_t hashes[ENTRIES];
    uint32_t count = 0;
    bool lost = false;

    memset(present, 0, sizeof present);
    for (uint32_t step = 0; step < 20000; step++) {
        uint32_t i = (uint32_t)(next_random(&seed) % ENTRIES);

        if (present[i]) {
            assert_true(csc_hash_remove(&test->list, i));
            assert_false(csc_hash_remove(&test->list, i));
            count--;
        } else {
            hashes[i] = clashing_hash(&seed, spread);
            test->entries[i].name = i;
            csc_hash_insert(&test->list, i, hashes[i]);
            count++;
        }
        present[i] = !present[i];
        if (step % 1500 == 1499 && 2 * buckets <= BUCKETS_MAX)
            csc_hash_grow(&test->list, buckets *= 2);
        if (step % 500 == 0)
            check_order(test, count);
        i = (uint32_t)(next_random(&seed) % ENTRIES);
        assert_int_equal(find(test, i, hashes[i], &lost), present[i] ? i : CSC_HASH_NONE);
    }
    for (uint32_t i = 0; i < ENTRIES; i++)
        assert_int_equal(find(test, i, hashes[i], &lost), present[i] ? i : CSC_HASH_NONE);
    check_order(test, count);
    assert_false(lost);
    free(test);
}

static void test_model(void **state)
{
    const uint64_t seed = 20240611;

    (void)state;
    print_message("# seed %llu\n", (unsigned long long)seed);
    run_model(seed, UINT32_MAX, 1);
    run_model(seed + 1, UINT32_MAX, 16);
    run_model(seed + 2, 600, 1); /* few hashes: whole runs of one rank */
    run_model(seed + 3, 8, 2);
}

static void test_unknown_is_absent(void **state)
{
    test_list *test = make_list(4);
    bool lost = false;

    (void)state;
    assert_int_equal(find(test, 1, 77, &lost), CSC_HASH_NONE);
    test->entries[5].name = 5;
    csc_hash_insert(&test->list, 5, 77);
    assert_int_equal(find(test, 1, 77, &lost), CSC_HASH_NONE);
    assert_int_equal(find(test, 5, 77, &lost), 5);
    /* Never linked: nothing is unlinked in its stead. */
    test->entries[6].node.order = csc_hash_order(77);
    assert_false(csc_hash_remove(&test->list, 6));
    assert_int_equal(find(test, 5, 77, &lost), 5);
    assert_false(lost);
    free(test);
}

/* A list whose bytes are damaged into a circle: given up, and said so. */
static void test_circle_ends(void **state)
{
    test_list *test = make_list(1);
    bool lost = false;

    (void)state;
    csc_hash_insert(&test->list, 1, 10);
    atomic_store(&test->entries[1].node.next, 1 + CSC_LINK_ENTRY);
    assert_int_equal(
        csc_hash_seek(&test->list, csc_hash_start(&test->list, 11), csc_hash_order(~0u), &lost),
        CSC_HASH_NONE);
    assert_true(lost);
    free(test);
}

/* ---- readers ------------------------------------------------------------------------------------ */

enum { STEADY = 256, CHURN_NAMES = 4096, READERS = 2, ROUNDS = 6, CHANGES = 12000 };

typedef struct race {
    test_list *test;
    void *region; /* a made-up arena header with slots */
    csc_slots slots;
    _Atomic uint32_t high;
    _Atomic bool stop;
    _Atomic uint64_t walks, missed, wrong;
    uint32_t retired[ENTRIES];
    uint64_t retired_epoch[ENTRIES];
    uint32_t retired_count;
    uint32_t unused[ENTRIES];
    uint32_t unused_count;
} race;

static uint32_t hash_of_name(uint64_t name)
{
    /* Neighbours share a rank in pairs. */
    return (uint32_t)(name / 2) * 2654435761u;
}

static void *read_names(void *context)
{
    race *run = context;
    uint64_t seed = (uintptr_t)&seed | 1;

    while (!atomic_load(&run->stop)) {
        csc_slot *guard = csc_slot_guard(&run->slots);
        bool lost = false;

        if (!guard)
            continue;
        for (int i = 0; i < 8; i++) {
            uint64_t name = next_random(&seed) % STEADY,
                     other = STEADY + next_random(&seed) % CHURN_NAMES;
            uint32_t entry = find(run->test, name, hash_of_name(name), &lost);

            if (entry == CSC_HASH_NONE || lost)
                atomic_fetch_add(&run->missed, 1);
            entry = find(run->test, other, hash_of_name(other), &lost);
            /* Still itself while the guard stands, linked or not. */
            if (entry != CSC_HASH_NONE && run->test->entries[entry].name != other)
                atomic_fetch_add(&run->wrong, 1);
        }
        csc_slot_release(guard);
        atomic_fetch_add(&run->walks, 8);
    }
    return NULL;
}

static void reclaim(race *run)
{
    uint32_t pins[16], kept = 0;
    csc_slots_view view = {.pins = pins, .room = 16};

    csc_slots_look(&run->slots, &view);
    for (uint32_t i = 0; i < run->retired_count; i++) {
        if (run->retired_epoch[i] < view.epoch_min) {
            run->unused[run->unused_count++] = run->retired[i];
        } else {
            run->retired[kept] = run->retired[i];
            run->retired_epoch[kept++] = run->retired_epoch[i];
        }
    }
    run->retired_count = kept;
}

static void change(race *run, uint64_t *seed, uint32_t *linked, uint32_t *linked_count)
{
    test_list *test = run->test;

    if (run->unused_count == 0 || (*linked_count && next_random(seed) % 2)) {
        uint32_t at = (uint32_t)(next_random(seed) % *linked_count), entry = linked[at];

        linked[at] = linked[--*linked_count];
        assert_true(csc_hash_remove(&test->list, entry));
        run->retired_epoch[run->retired_count] = atomic_fetch_add(run->slots.epoch, 1);
        run->retired[run->retired_count++] = entry;
    } else {
        uint32_t entry = run->unused[--run->unused_count];
        uint64_t name = STEADY + next_random(seed) % CHURN_NAMES;

        test->entries[entry].name = name;
        csc_hash_insert(&test->list, entry, hash_of_name(name));
        linked[(*linked_count)++] = entry;
    }
}

static void run_race(uint64_t seed)
{
    static uint32_t linked[ENTRIES];
    uint32_t linked_count = 0, buckets = 2;
    race *run = calloc(1, sizeof *run);
    pthread_t threads[READERS];
    csc_arena_header *header;

    assert_non_null(run);
    run->region = calloc(1, CSC_ARENA_HEADER_BYTES + CSC_SLOT_CLAIMS_BYTES +
                                (size_t)CSC_SLOT_AREAS * CSC_AREA_SLOTS * sizeof(csc_slot));
    assert_non_null(run->region);
    header = run->region;
    header->geometry.slots_offset = CSC_ARENA_HEADER_BYTES;
    csc_slots_attach(&run->slots, run->region, 0, &run->high);
    run->test = make_list(buckets);
    for (uint32_t i = 0; i < STEADY; i++) {
        run->test->entries[i].name = i;
        csc_hash_insert(&run->test->list, i, hash_of_name(i));
    }
    for (uint32_t i = STEADY; i < ENTRIES; i++)
        run->unused[run->unused_count++] = i;
    for (int i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_names, run), 0);
    for (uint32_t i = 0; i < CHANGES; i++) {
        if (run->unused_count == 0 && linked_count == 0) {
            reclaim(run);
            continue;
        }
        change(run, &seed, linked, &linked_count);
        if (i % 16 == 0)
            reclaim(run);
        if (i % 1024 == 1023 && 2 * buckets <= BUCKETS_MAX)
            csc_hash_grow(&run->test->list, buckets *= 2);
    }
    while (atomic_load(&run->walks) < 1000)
        ; /* on one busy core the readers may not have begun */
    atomic_store(&run->stop, true);
    for (int i = 0; i < READERS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&run->missed), 0);
    assert_int_equal(atomic_load(&run->wrong), 0);
    check_order(run->test, STEADY + linked_count);
    free(run->test);
    free(run->region);
    free(run);
}

static void test_readers(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < ROUNDS; round++)
        run_race(77 + round);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model),
        cmocka_unit_test(test_unknown_is_absent),
        cmocka_unit_test(test_circle_ends),
        cmocka_unit_test(test_readers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
