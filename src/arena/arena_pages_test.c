/* SPDX-License-Identifier: MIT */
/* Pages: who has which, in how few runs, and the bytes in them. */
#include "arena/arena_testing.h"
#include "index/index.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define PAGE UINT32_C(4096)

/* Every extent of a place, chain and all. */
static csc_extent extent_of(csc_arena *arena, const csc_extents *extents, uint32_t i)
{
    csc_index index;

    csc_index_attach(&index, csc_arena_base(arena));
    return csc_index_extent(&index, extents, i);
}

/* ---- against a model ----------------------------------------------------------------- */

enum { MODEL_PAGES = 3000, MODEL_BLOCKS = 400 };

typedef struct model {
    csc_arena *arena;
    uint8_t taken[MODEL_PAGES];
    csc_extents blocks[MODEL_BLOCKS];
    uint32_t pages[MODEL_BLOCKS];
    uint32_t used;
} model;

static void mark(model *m, uint32_t block, uint8_t before, uint8_t after)
{
    uint32_t total = 0;

    for (uint32_t i = 0; i < m->blocks[block].count; i++) {
        csc_extent extent = extent_of(m->arena, &m->blocks[block], i);

        assert_true(extent.count > 0 && extent.page + extent.count <= MODEL_PAGES);
        for (uint32_t page = extent.page; page < extent.page + extent.count; page++) {
            assert_int_equal(m->taken[page], before); /* no page is given twice */
            m->taken[page] = after;
        }
        total += extent.count;
    }
    assert_int_equal(total, m->pages[block]);
    m->used += after ? total : 0 - total;
}

static void test_model(void **state)
{
    model *m = calloc(1, sizeof *m);
    uint64_t seed = 5, refused = 0, spilled = 0;

    (void)state;
    assert_non_null(m);
    m->arena = arena_testing_open(PAGE, (uint64_t)MODEL_PAGES * PAGE);
    for (uint32_t step = 0; step < 30000; step++) {
        uint32_t block = (uint32_t)(arena_testing_random(&seed) % MODEL_BLOCKS);

        if (m->pages[block]) {
            mark(m, block, 1, 0);
            csc_arena_free(m->arena, &m->blocks[block]);
            assert_int_equal(m->blocks[block].count, 0);
            m->pages[block] = 0;
        } else {
            uint32_t runs_max = arena_testing_random(&seed) % 4 ? 0 : 8;
            uint32_t pages = 1 + (uint32_t)(arena_testing_random(&seed) %
                                            (arena_testing_random(&seed) % 8 ? 12 : 200));
            int code = csc_arena_allocate(m->arena, (uint64_t)pages * PAGE - step % PAGE, runs_max,
                                          &m->blocks[block]);

            if (code) {
                assert_int_equal(code, CASCADE_ENOSPC);
                /* Any number of runs: refused only when there are not that many pages. */
                assert_true(runs_max || pages > MODEL_PAGES - m->used);
                assert_int_equal(m->blocks[block].count, 0);
                refused++;
            } else {
                m->pages[block] = pages;
                mark(m, block, 0, 1);
                assert_true(runs_max == 0 || m->blocks[block].count <= runs_max);
                spilled += m->blocks[block].count > CSC_EXTENTS_INLINE;
            }
        }
        assert_int_equal(csc_arena_used(m->arena), (uint64_t)m->used * PAGE);
    }
    assert_true(refused > 100 && spilled > 100); /* else the test saw too little */
    for (uint32_t block = 0; block < MODEL_BLOCKS; block++)
        csc_arena_free(m->arena, &m->blocks[block]);
    assert_int_equal(csc_arena_used(m->arena), 0);
    /* All free: one run again, whatever order the pages came back in. */
    assert_int_equal(csc_arena_allocate(m->arena, (uint64_t)MODEL_PAGES * PAGE, 1, &m->blocks[0]), 0);
    assert_int_equal(m->blocks[0].count, 1);
    csc_arena_close(&m->arena, false);
    free(m);
}

/* ---- which hole ---------------------------------------------------------------------- */

enum { HOLES = 5 };

static void test_best_fit(void **state)
{
    static const uint32_t sizes[HOLES] = {40, 5, 3, 9, 6};
    csc_arena *arena = arena_testing_open(PAGE, 1024 * PAGE);
    csc_extents holes[HOLES], walls[HOLES], rest, six, found;
    uint32_t pages[HOLES];

    (void)state;
    for (int i = 0; i < HOLES; i++) {
        assert_int_equal(csc_arena_allocate(arena, sizes[i] * PAGE, 1, &holes[i]), 0);
        assert_int_equal(csc_arena_allocate(arena, PAGE, 1, &walls[i]), 0);
        pages[i] = holes[i].first[0].page;
    }
    while (csc_arena_allocate(arena, PAGE, 1, &rest) == 0)
        ;
    for (int i = 0; i < HOLES; i++)
        csc_arena_free(arena, &holes[i]);
    assert_int_equal(csc_arena_allocate(arena, 3 * PAGE, 0, &found), 0);
    assert_int_equal(found.first[0].page, pages[2]);
    assert_int_equal(csc_arena_allocate(arena, 4 * PAGE, 0, &found), 0);
    assert_int_equal(found.first[0].page, pages[1]);
    assert_int_equal(csc_arena_allocate(arena, 6 * PAGE, 0, &six), 0);
    assert_int_equal(six.first[0].page, pages[4]);
    /* Left: 40, 9 and what the 5 left. As few runs as there are, the largest first. */
    assert_int_equal(csc_arena_allocate(arena, 45 * PAGE, 1, &found), CASCADE_ENOSPC);
    assert_int_equal(csc_arena_allocate(arena, 45 * PAGE, 2, &found), 0);
    assert_int_equal(found.count, 2);
    assert_int_equal(found.first[0].page, pages[0]);
    assert_int_equal(found.first[1].page, pages[3]);
    /* Between two free neighbours: one run of all three. */
    csc_arena_free(arena, &found);
    csc_arena_free(arena, &six);
    csc_arena_free(arena, &walls[3]);
    assert_int_equal(csc_arena_allocate(arena, 16 * PAGE, 1, &found), 0);
    assert_int_equal(found.first[0].page, pages[3]);
    csc_arena_close(&arena, false);
}

/* ---- many runs, and their bytes ------------------------------------------------------ */

enum { SCATTER_PAGES = 1200 };

/* Frees about half of all pages one by one, so that a block gets many runs. */
static void scatter(csc_arena *arena, csc_extents singles[SCATTER_PAGES])
{
    uint64_t seed = 31;

    for (uint32_t i = 0; i < SCATTER_PAGES; i++)
        assert_int_equal(csc_arena_allocate(arena, PAGE, 1, &singles[i]), 0);
    for (uint32_t i = 0; i < SCATTER_PAGES; i++)
        if (arena_testing_random(&seed) % 2)
            csc_arena_free(arena, &singles[i]);
}

static void check_range(csc_arena *arena, const csc_extents *extents, const uint8_t *flat,
                        uint64_t offset, uint64_t bytes)
{
    static cascade_piece pieces[SCATTER_PAGES];
    uint8_t *copied = malloc(bytes + 1);
    cascade_piece into[3] = {{copied, bytes / 3},
                             {copied + bytes / 3, bytes / 7},
                             {copied + bytes / 3 + bytes / 7, bytes - bytes / 3 - bytes / 7}};
    size_t count = csc_arena_pieces(arena, extents, offset, bytes, pieces, SCATTER_PAGES);
    uint64_t at = 0;

    assert_true(count <= SCATTER_PAGES);
    assert_int_equal(csc_arena_pieces(arena, extents, offset, bytes, pieces, count / 2), count);
    for (size_t i = 0; i < count; i++) {
        assert_true(pieces[i].bytes > 0 && at + pieces[i].bytes <= bytes);
        assert_memory_equal(pieces[i].data, flat + offset + at, pieces[i].bytes);
        at += pieces[i].bytes;
    }
    assert_int_equal(at, bytes);
    copied[bytes] = 0xa5;
    csc_arena_copy_out(arena, extents, offset, into, 3);
    assert_memory_equal(copied, flat + offset, bytes);
    assert_int_equal(copied[bytes], 0xa5);
    free(copied);
}

static void check_bytes(csc_arena *arena, uint64_t bytes, uint64_t *seed)
{
    uint8_t *flat = malloc(bytes);
    cascade_piece parts[9];
    csc_extents extents;
    uint64_t at = 0;

    for (uint64_t i = 0; i < bytes; i++)
        flat[i] = (uint8_t)arena_testing_random(seed);
    for (int i = 0; i < 9; i++) {
        uint64_t part = i == 8 ? bytes - at : arena_testing_random(seed) % (bytes - at + 1) / 2;

        parts[i] = (cascade_piece){flat + at, part};
        at += part;
    }
    assert_int_equal(csc_arena_allocate(arena, bytes, 0, &extents), 0);
    csc_arena_copy_in(arena, &extents, parts, 9);
    check_range(arena, &extents, flat, 0, bytes);
    for (int i = 0; i < 60; i++) {
        uint64_t offset = arena_testing_random(seed) % bytes;

        if (i % 3 == 0)
            offset = offset / PAGE * PAGE; /* at a run's edge */
        check_range(arena, &extents, flat, offset, arena_testing_random(seed) % (bytes - offset + 1));
    }
    check_range(arena, &extents, flat, bytes, 0);
    check_range(arena, &extents, flat, bytes - 1, 1);
    csc_arena_free(arena, &extents);
    free(flat);
}

static void test_bytes(void **state)
{
    csc_arena *arena = arena_testing_open(PAGE, (uint64_t)SCATTER_PAGES * PAGE);
    csc_extents singles[SCATTER_PAGES];
    uint64_t seed = 3, room;

    (void)state;
    scatter(arena, singles);
    room = csc_arena_capacity(arena) - csc_arena_used(arena);
    assert_true(room > 400 * PAGE);
    for (uint32_t pages = 1; pages < 60; pages++)
        check_bytes(arena, (uint64_t)pages * PAGE - arena_testing_random(&seed) % PAGE, &seed);
    check_bytes(arena, room, &seed);
    check_bytes(arena, room - PAGE / 2, &seed);
    csc_arena_close(&arena, false);
}

/* What lay in the pages before does not go to disk behind the block's end. */
static void test_zeroed_tail(void **state)
{
    csc_arena *arena = arena_testing_open(65536, 4 << 20);
    char *data = malloc(70000);
    cascade_piece piece = {data, 70000}, seen[2];
    csc_extents extents;

    (void)state;
    for (uint64_t bytes = 70000; bytes > 60000; bytes -= 977) {
        memset(data, 0xee, 70000);
        piece.bytes = 70000;
        assert_int_equal(csc_arena_allocate(arena, 70000, 1, &extents), 0);
        csc_arena_copy_in(arena, &extents, &piece, 1);
        csc_arena_free(arena, &extents);
        piece.bytes = bytes;
        assert_int_equal(csc_arena_allocate(arena, bytes, 1, &extents), 0);
        csc_arena_copy_in(arena, &extents, &piece, 1);
        assert_int_equal(csc_arena_pieces(arena, &extents, 0, bytes, seen, 2), 1);
        for (uint64_t i = bytes; i % 4096; i++)
            assert_int_equal(((char *)seen[0].data)[i], 0);
        csc_arena_free(arena, &extents);
    }
    csc_arena_close(&arena, false);
    free(data);
}

static void test_spills(void **state)
{
    csc_arena *arena = arena_testing_open(PAGE, (uint64_t)SCATTER_PAGES * PAGE);
    csc_extents singles[SCATTER_PAGES], many;
    csc_arena_header *header = csc_arena_base(arena);
    uint32_t made;
    uint64_t room;

    (void)state;
    scatter(arena, singles);
    room = csc_arena_capacity(arena) - csc_arena_used(arena);
    assert_int_equal(csc_arena_allocate(arena, room, 8, &many), CASCADE_ENOSPC);
    assert_int_equal(csc_arena_allocate(arena, room, 100, &many), CASCADE_ENOSPC);
    assert_int_equal(csc_arena_capacity(arena) - csc_arena_used(arena), room); /* nothing is kept */
    assert_int_equal(csc_arena_allocate(arena, room, 0, &many), 0);
    assert_true(many.count > 200 && many.spill);
    csc_arena_free(arena, &many);
    made = atomic_load(&header->used[CSC_REGION_SPILLS]);
    /* The entries of the chain are used again: hundreds of such blocks need no more of them. */
    for (int i = 0; i < 300; i++) {
        assert_int_equal(csc_arena_allocate(arena, room, 0, &many), 0);
        csc_arena_free(arena, &many);
    }
    assert_int_equal(atomic_load(&header->used[CSC_REGION_SPILLS]), made);
    csc_arena_close(&arena, false);
}

/* ---- churn --------------------------------------------------------------------------- */

enum { CHURN_PAGES = 4096, CHURN_ROOM = 4096 };

static int compare_counts(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;

    return a < b ? -1 : a > b;
}

/* Room is made as the store makes it (src/store/room.c): random blocks leave until the new one fits in 8
 * runs; only when far more than its bytes have left, any number of runs will do. */
static void test_churn(void **state)
{
    csc_arena *arena = arena_testing_open(PAGE, (uint64_t)CHURN_PAGES * PAGE);
    static csc_extents blocks[CHURN_ROOM];
    static uint32_t counts[200000];
    static uint64_t bytes[CHURN_ROOM];
    uint64_t seed = 99, moved = 0, fallbacks = 0;
    uint32_t live = 0, samples = 0;

    (void)state;
    while (moved < UINT64_C(12) * CHURN_PAGES * PAGE) {
        /* One page to a sixteenth of all, every size class alike. */
        uint64_t size = (UINT64_C(1) << (arena_testing_random(&seed) % 9)) * PAGE;
        uint64_t want = size + arena_testing_random(&seed) % size, evicted = 0;
        csc_extents made;

        while (csc_arena_allocate(arena, want, evicted > 3 * want ? 0 : 8, &made) != 0) {
            uint32_t victim = (uint32_t)(arena_testing_random(&seed) % live);

            csc_arena_free(arena, &blocks[victim]);
            evicted += bytes[victim];
            blocks[victim] = blocks[--live];
            bytes[victim] = bytes[live];
        }
        fallbacks += made.count > 8;
        assert_true(live < CHURN_ROOM && samples < 200000);
        blocks[live] = made;
        bytes[live++] = want;
        counts[samples++] = made.count;
        moved += want;
    }
    qsort(counts, samples, sizeof counts[0], compare_counts);
    print_message("# %u blocks, p50 %u, p99 %u, most %u runs, %llu over 8\n", samples,
                  counts[samples / 2], counts[samples * 99ull / 100], counts[samples - 1],
                  (unsigned long long)fallbacks);
    assert_true(counts[samples * 99ull / 100] <= 8);
    assert_true(csc_arena_used(arena) * 10 > csc_arena_capacity(arena) * 8); /* not by wasting room */
    csc_arena_close(&arena, false);
}

/* ---- take-over ----------------------------------------------------------------------- */

/* Claims come from bytes that nobody vouches for. */
static void test_claims(void **state)
{
    csc_arena *arena = arena_testing_open(PAGE, (uint64_t)SCATTER_PAGES * PAGE);
    csc_arena_options options = arena_testing_options(PAGE, PAGE);
    csc_extents singles[SCATTER_PAGES], whole, many, bad;
    csc_spill_entry *spills;
    bool taken_over;

    (void)state;
    scatter(arena, singles);
    assert_int_equal(csc_arena_allocate(arena, 300 * PAGE, 0, &many), 0);
    assert_true(many.count > 2 * CSC_SPILL_EXTENTS + CSC_EXTENTS_INLINE);
    whole = singles[0].count ? singles[0] : singles[1];
    arena_testing_go_live(arena);
    csc_arena_close(&arena, true);
    assert_int_equal(csc_arena_open(&options, &arena, &taken_over), 0);
    assert_true(taken_over);
    spills =
        (void
             *)((char *)csc_arena_base(arena) +
                ((csc_arena_header *)csc_arena_base(arena))->geometry.regions[CSC_REGION_SPILLS].offset);

    bad = (csc_extents){.count = 1, .first = {{SCATTER_PAGES, 1}}};
    assert_int_equal(csc_arena_claim(arena, &bad, PAGE), CASCADE_ECORRUPT);
    bad = (csc_extents){.count = 1, .first = {{SCATTER_PAGES - 1, 2}}};
    assert_int_equal(csc_arena_claim(arena, &bad, 2 * PAGE), CASCADE_ECORRUPT);
    bad = (csc_extents){.count = 1, .first = {{1, UINT32_MAX}}};
    assert_int_equal(csc_arena_claim(arena, &bad, PAGE), CASCADE_ECORRUPT);
    bad = (csc_extents){.count = 1, .first = {{1, 0}}};
    assert_int_equal(csc_arena_claim(arena, &bad, PAGE), CASCADE_ECORRUPT);
    bad = (csc_extents){.count = 0};
    assert_int_equal(csc_arena_claim(arena, &bad, PAGE), CASCADE_ECORRUPT);
    bad = many;
    bad.count = UINT32_MAX;
    assert_int_equal(csc_arena_claim(arena, &bad, 300 * PAGE), CASCADE_ECORRUPT);
    bad = many;
    bad.spill = UINT32_MAX;
    assert_int_equal(csc_arena_claim(arena, &bad, 300 * PAGE), CASCADE_ECORRUPT);
    bad.spill = 0;
    assert_int_equal(csc_arena_claim(arena, &bad, 300 * PAGE), CASCADE_ECORRUPT);
    assert_int_equal(csc_arena_claim(arena, &many, 299 * PAGE), CASCADE_ECORRUPT);
    assert_int_equal(csc_arena_claim(arena, &many, 301 * PAGE), CASCADE_ECORRUPT);
    /* A chain in a circle. */
    bad = many;
    spills[100].next = many.spill;
    spills[100].count = CSC_SPILL_EXTENTS;
    memcpy(spills[100].extents, spills[many.spill - 1].extents, sizeof spills[100].extents);
    spills[101] = spills[100];
    spills[101].next = 102;
    bad.spill = 102;
    assert_int_equal(csc_arena_claim(arena, &bad, 300 * PAGE), CASCADE_ECORRUPT);

    /* After all that the right ones are still to be had; nobody else gets their pages. */
    assert_int_equal(csc_arena_claim(arena, &whole, PAGE), 0);
    assert_int_equal(csc_arena_claim(arena, &whole, PAGE), CASCADE_ECORRUPT);
    if (singles[0].count && singles[1].count)
        assert_int_equal(csc_arena_claim(arena, &singles[1], PAGE), 0);
    csc_arena_close(&arena, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ARENA_TESTING_CASE(test_model),  ARENA_TESTING_CASE(test_best_fit),
        ARENA_TESTING_CASE(test_bytes),  ARENA_TESTING_CASE(test_zeroed_tail),
        ARENA_TESTING_CASE(test_spills), ARENA_TESTING_CASE(test_churn),
        ARENA_TESTING_CASE(test_claims),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
