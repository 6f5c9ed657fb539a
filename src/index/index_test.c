/* SPDX-License-Identifier: MIT */
/* The index over a made-up arena in plain memory. */
#include "index/index.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { KEYS = 3000, BUCKETS = 1024, RUN = 200 };

typedef struct fixture {
    char *base;
    csc_index index;
    bool bound[KEYS];
} fixture;

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static cascade_key key_of(uint32_t i)
{
    cascade_key key = {{0}};

    memcpy(key.bytes, &i, sizeof i);
    return key;
}

static int setup(void **state)
{
    static const uint64_t sizes[CSC_REGION_COUNT] = {
        [CSC_REGION_KEY_BUCKETS] = BUCKETS * sizeof(uint32_t),
        [CSC_REGION_CONTENT_BUCKETS] = BUCKETS * sizeof(uint32_t),
        [CSC_REGION_KEYS] = KEYS * sizeof(csc_key_entry),
        [CSC_REGION_CONTENTS] = KEYS * sizeof(csc_content_entry),
        [CSC_REGION_SPILLS] = 64 * sizeof(csc_spill_entry),
    };
    fixture *f = calloc(1, sizeof *f);
    uint64_t offset = CSC_ARENA_HEADER_BYTES;
    csc_arena_header *header;

    assert_non_null(f);
    f->base = aligned_alloc(64, 4 << 20);
    assert_non_null(f->base);
    memset(f->base, 0, 4 << 20);
    header = (csc_arena_header *)(void *)f->base;
    header->geometry.hash_seed = 42;
    for (unsigned i = 0; i < CSC_REGION_COUNT; i++) {
        header->geometry.regions[i].offset = offset;
        offset += (sizes[i] + 63) / 64 * 64;
    }
    assert_true(offset <= 4 << 20);
    csc_index_attach(&f->index, f->base);
    csc_hash_init(&f->index.key_list, BUCKETS);
    csc_hash_init(&f->index.content_list, BUCKETS);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;

    free(f->base);
    free(f);
    return 0;
}

/* Key i lies in entry i and names content KEYS - 1 - i. */
static void bind(fixture *f, uint32_t i)
{
    csc_key_entry *entry = &f->index.keys[i];

    entry->key = key_of(i);
    atomic_store(&entry->content, KEYS - 1 - i);
    atomic_store(&f->index.contents[KEYS - 1 - i].state,
                 (uint64_t)i << CSC_CONTENT_GENERATION_SHIFT | CSC_CONTENT_LIVE | CSC_CONTENT_RESIDENT);
    atomic_store(&entry->state, CSC_KEY_BOUND | (i % 2 ? CSC_KEY_HAS_PARENT : 0));
    csc_hash_insert(&f->index.key_list, i, csc_index_key_hash(&f->index, &entry->key));
    f->bound[i] = true;
}

static void unbind(fixture *f, uint32_t i)
{
    atomic_store(&f->index.keys[i].state, i % 3 ? CSC_KEY_FREE : CSC_KEY_DELETED);
    assert_true(csc_hash_remove(&f->index.key_list, i));
    f->bound[i] = false;
}

static uint32_t find(const fixture *f, uint32_t i)
{
    cascade_key key = key_of(i);
    bool lost = false;
    uint32_t found = csc_index_find(&f->index, &key, csc_index_key_hash(&f->index, &key), &lost);

    assert_false(lost);
    return found;
}

static void test_find(void **state)
{
    fixture *f = *state;

    for (uint32_t i = 0; i < KEYS; i += 2)
        bind(f, i);
    for (uint32_t i = 0; i < KEYS; i++)
        assert_int_equal(find(f, i), i % 2 ? CSC_NUMBER_NONE : i);
    for (uint32_t i = 0; i < KEYS; i += 4)
        unbind(f, i);
    for (uint32_t i = 0; i < KEYS; i++)
        assert_int_equal(find(f, i), i % 4 == 2 ? i : CSC_NUMBER_NONE);
    /* Unbound but still linked (a kill between the two stores, or a reader that is faster). */
    atomic_store(&f->index.keys[2].state, CSC_KEY_DELETED);
    assert_int_equal(find(f, 2), CSC_NUMBER_NONE);
}

/* The quick way over many keys finds what the plain way finds, for runs of any length and with the first
 * gap anywhere. */
static void test_find_run(void **state)
{
    fixture *f = *state;
    static cascade_key keys[RUN];
    static uint32_t numbers[RUN];
    uint64_t seed = 8;

    for (uint32_t round = 0; round < 600; round++) {
        uint32_t begin = (uint32_t)(next_random(&seed) % KEYS);
        size_t count = next_random(&seed) % (RUN + 1), expected = 0, found;
        /* From mostly present to mostly absent. */
        uint32_t changes = round < 40 ? 60 : 10;
        bool lost = false;

        for (uint32_t i = 0; i < changes; i++) {
            uint32_t key = (uint32_t)(next_random(&seed) % KEYS);

            if (!f->bound[key])
                bind(f, key);
            else if (next_random(&seed) % 8 == 0)
                unbind(f, key);
        }
        for (size_t i = 0; i < count; i++)
            keys[i] = key_of((uint32_t)(begin + i) % KEYS);
        while (expected < count && find(f, (uint32_t)(begin + expected) % KEYS) != CSC_NUMBER_NONE)
            expected++;
        found = csc_index_find_run(&f->index, keys, count, numbers, &lost);
        assert_false(lost);
        assert_int_equal(found, expected);
        for (size_t i = 0; i < found; i++)
            assert_int_equal(numbers[i], (begin + i) % KEYS);
    }
    for (uint32_t i = 0; i < KEYS; i++)
        if (!f->bound[i])
            bind(f, i);
    for (size_t count = 0; count <= RUN; count++) {
        bool lost = false;

        for (size_t i = 0; i < count; i++)
            keys[i] = key_of((uint32_t)(13 * i));
        if (count)
            keys[count - 1] = key_of(KEYS + 5); /* the last is absent */
        assert_int_equal(csc_index_find_run(&f->index, keys, count, numbers, &lost),
                         count ? count - 1 : 0);
    }
}

static void test_content_of(void **state)
{
    fixture *f = *state;
    uint64_t seen = 0;

    bind(f, 7);
    assert_int_equal(csc_index_content_of(&f->index, 7, &seen), KEYS - 8);
    assert_int_equal(seen >> CSC_CONTENT_GENERATION_SHIFT, 7);
    assert_true(csc_content_still(seen, atomic_load(&f->index.contents[KEYS - 8].state)));
    assert_false(csc_content_still(seen, seen & ~(uint64_t)CSC_CONTENT_RESIDENT));
    assert_false(csc_content_still(seen, seen & ~(uint64_t)CSC_CONTENT_LIVE));
    assert_false(csc_content_still(seen, seen + (UINT64_C(1) << CSC_CONTENT_GENERATION_SHIFT)));
    assert_true(csc_content_still(seen, seen | CSC_CONTENT_DIGEST)); /* only learned meanwhile */
    atomic_store(&f->index.keys[7].content, 1);                      /* merged away */
    assert_int_equal(csc_index_content_of(&f->index, 7, &seen), 1);
    unbind(f, 7);
    assert_int_equal(csc_index_content_of(&f->index, 7, &seen), CSC_NUMBER_NONE);
}

static void test_find_id(void **state)
{
    fixture *f = *state;
    uint8_t id[CASCADE_ID_BYTES] = {1, 2, 3};
    uint64_t seen;
    bool lost = false;

    for (uint32_t i = 0; i < 64; i++) {
        csc_content_entry *entry = &f->index.contents[i];

        entry->content.tenant = i % 2;
        id[5] = (uint8_t)(i / 2);
        memcpy(entry->content.digest, id, sizeof id);
        atomic_store(&entry->state, CSC_CONTENT_LIVE | CSC_CONTENT_DIGEST);
        csc_hash_insert(&f->index.content_list, i, csc_index_id_hash(&f->index, i % 2, id));
    }
    for (uint32_t i = 0; i < 64; i++) {
        id[5] = (uint8_t)(i / 2);
        assert_int_equal(csc_index_find_id(&f->index, i % 2, id, &seen, &lost), i);
        assert_int_equal(csc_index_find_id(&f->index, 2, id, &seen, &lost), CSC_NUMBER_NONE);
    }
    id[5] = 3;
    atomic_store(&f->index.contents[6].state, CSC_CONTENT_LIVE); /* the digest is not vouched for */
    assert_int_equal(csc_index_find_id(&f->index, 0, id, &seen, &lost), CSC_NUMBER_NONE);
    atomic_store(&f->index.contents[6].state, CSC_CONTENT_DOOMED | CSC_CONTENT_DIGEST);
    assert_int_equal(csc_index_find_id(&f->index, 0, id, &seen, &lost), CSC_NUMBER_NONE);
    assert_false(lost);
}

static void test_extents(void **state)
{
    fixture *f = *state;
    csc_extents extents = {.count = 20, .spill = 5};

    for (uint32_t i = 0; i < 3; i++)
        extents.first[i] = (csc_extent){i, i + 100};
    for (uint32_t i = 3; i < 20; i++) {
        static const uint32_t chain[] = {4, 9, 2};
        uint32_t group = (i - 3) / CSC_SPILL_EXTENTS;

        f->index.spills[chain[group]].next = group < 2 ? chain[group + 1] + 1 : 0;
        f->index.spills[chain[group]].extents[(i - 3) % CSC_SPILL_EXTENTS] = (csc_extent){i, i + 100};
    }
    for (uint32_t i = 0; i < 20; i++) {
        csc_extent extent = csc_index_extent(&f->index, &extents, i);

        assert_int_equal(extent.page, i);
        assert_int_equal(extent.count, i + 100);
    }
}

static void test_leases(void **state)
{
    csc_content_entry content;

    (void)state;
    memset(&content, 0, sizeof content);
    assert_false(csc_lease_holds(&content, 0));
    csc_lease_add(&content, 1000, 2000);
    assert_true(csc_lease_holds(&content, 1999));
    assert_false(csc_lease_holds(&content, 2000));
    csc_lease_end(&content);
    assert_false(csc_lease_holds(&content, 1500));
    csc_lease_end(&content); /* one end too many does no harm */
    csc_lease_add(&content, 1500, 1800);
    assert_true(csc_lease_holds(&content, 1700));
    /* Two holders: the later end counts, and one end leaves the other's. */
    csc_lease_add(&content, 1500, 2500);
    csc_lease_add(&content, 1500, 1600);
    csc_lease_end(&content);
    csc_lease_end(&content);
    assert_true(csc_lease_holds(&content, 2400));
    csc_lease_end(&content);
    assert_false(csc_lease_holds(&content, 1500));
    /* What has expired does not count any more. */
    csc_lease_add(&content, 3000, 3100);
    csc_lease_add(&content, 3000, 3100);
    csc_lease_add(&content, 4000, 4100);
    csc_lease_end(&content);
    assert_false(csc_lease_holds(&content, 4000));
    /* More than the count can hold: it stays at its greatest. */
    for (int i = 0; i < 70000; i++)
        csc_lease_add(&content, 5000, 6000);
    assert_true(csc_lease_holds(&content, 5999));
    assert_false(csc_lease_holds(&content, 6000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_find, setup, teardown),
        cmocka_unit_test_setup_teardown(test_find_run, setup, teardown),
        cmocka_unit_test_setup_teardown(test_content_of, setup, teardown),
        cmocka_unit_test_setup_teardown(test_find_id, setup, teardown),
        cmocka_unit_test_setup_teardown(test_extents, setup, teardown),
        cmocka_unit_test(test_leases),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
