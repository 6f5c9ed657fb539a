/* SPDX-License-Identifier: MIT */
/* In how many pieces blocks lie after a churn of ten times dram in mixed sizes, seen from outside. */
#include "store/store_scene.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { PAGE = 4096, DRAM_PAGES = 4096, BLOCKS_MAX = 4000 };

static int compare_counts(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;

    return a < b ? -1 : a > b;
}

static uint32_t pieces_of(cascade_store *store, uint32_t number)
{
    cascade_key key = scene_key_of(number);
    cascade_view *view = NULL;
    uint32_t count;

    assert_int_equal(cascade_block_view(store, &key, &view), 0);
    count = (uint32_t)(view->k_count + view->v_count);
    cascade_view_release(store, &view);
    return count;
}

static void test_churn(void **state)
{
    cascade_options options = {.struct_bytes = sizeof options,
                               .directory = scene_now->directory,
                               .shm_directory = scene_now->shm,
                               .dram_bytes = (uint64_t)DRAM_PAGES * PAGE,
                               .page_bytes = PAGE,
                               .put_wait_ms = SCENE_PATIENCE_MS,
                               .io_deadline_ms = SCENE_PATIENCE_MS,
                               .open_flags = CASCADE_OPEN_CREATE | CASCADE_OPEN_NO_PREFAULT};
    static uint32_t counts[2 * BLOCKS_MAX];
    static char data[128 * PAGE];
    uint64_t seed = 99, moved = 0;
    uint32_t number = 0, samples = 0, over = 0;
    cascade_store *store = NULL;

    (void)state;
    assert_int_equal(cascade_store_open(&options, &store), 0);
    while (moved < UINT64_C(10) * DRAM_PAGES * PAGE) {
        /* Up to a thirty-second of dram, every size class alike. */
        uint64_t bytes;
        cascade_piece piece = {data, 0};
        cascade_put put = {.key = scene_key_of(number), .block = {&piece, 1, NULL, 0}};

        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
        bytes = (UINT64_C(1) << (seed >> 40) % 7) * PAGE;
        bytes += (seed >> 20) % bytes;
        piece.bytes = bytes;
        memcpy(data, &number, sizeof number);
        assert_int_equal(cascade_block_put(store, &put, 0), 0);
        assert_true(number < BLOCKS_MAX);
        counts[samples++] = pieces_of(store, number);
        /* An old one comes back from its file now and then. */
        if (number % 8 == 7)
            counts[samples++] = pieces_of(store, (uint32_t)((seed >> 33) % number));
        moved += bytes;
        number++;
    }
    assert_int_equal(cascade_store_close(&store), 0);
    for (uint32_t i = 0; i < samples; i++)
        over += counts[i] > 8;
    qsort(counts, samples, sizeof counts[0], compare_counts);
    print_message("# %u blocks: p50 %u, p99 %u, most %u pieces, %u over 8\n", samples,
                  counts[samples / 2], counts[samples * 99 / 100], counts[samples - 1], over);
    assert_true(counts[samples * 99 / 100] <= 8);
}

static int setup(void **state)
{
    if (scene_setup(state))
        return -1;
    scene_begin_run();
    return 0;
}

static int teardown(void **state)
{
    scene_end_run();
    return scene_teardown(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(test_churn, setup, teardown)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
