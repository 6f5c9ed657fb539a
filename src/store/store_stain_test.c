/* SPDX-License-Identifier: MIT */
/* A block that is damaged in dram and stays there, because it is in use and there is no entry for its
 * file copy: those bytes are never written under the digest of others, nor given to who puts the right
 * ones. */
#include "store/store_private.h"
#include "store/store_testing.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { BLOCK = 4000, KEY = 3, HEADER = 4096 };

static cascade_options small(void)
{
    cascade_options options = st_options();

    options.dram_bytes = 16 * ST_MIB;
    options.file_budget_bytes = 32 * ST_MIB;
    options.segment_bytes = 2 * ST_MIB;
    options.policy = "lru";
    return options;
}

/* All entries of contents are in use, and there can be no more. Returns how many there could be. */
static uint32_t use_up_contents(cascade_store *store)
{
    csc_arena_header *header = store->index.header;
    uint32_t max = header->geometry.regions[CSC_REGION_CONTENTS].max;

    for (uint64_t i = 1000; store->contents_made < atomic_load(&header->used[CSC_REGION_CONTENTS]) ||
                            store->contents_free.count;
         i++)
        assert_int_equal(st_put(store, i, i, 64, 0, 0), 0);
    header->geometry.regions[CSC_REGION_CONTENTS].max = store->contents_made;
    assert_int_equal(cascade_store_flush(store), 0);
    return max;
}

/* Puts the block, and damages it in dram under a view that keeps it there. */
static cascade_view *put_and_damage(cascade_store *store)
{
    cascade_verify_report report;
    cascade_key key = st_key(KEY);
    cascade_view *view;
    uint32_t max;

    assert_int_equal(st_put(store, KEY, KEY, BLOCK, 0, CASCADE_PUT_DURABLE), 0);
    assert_int_equal(cascade_block_view(store, &key, &view), 0);
    max = use_up_contents(store);
    ((uint8_t *)view->k[0].data)[BLOCK / 2] ^= 1;
    assert_int_equal(cascade_store_verify(store, &report, NULL, NULL), CASCADE_ECORRUPT);
    assert_int_equal(report.damaged[CASCADE_TIER_DRAM], 1);
    assert_true(st_info(store, KEY).in_dram);
    assert_true(st_info(store, KEY).in_file);
    store->index.header->geometry.regions[CSC_REGION_CONTENTS].max = max;
    return view;
}

static void assert_gone(cascade_store *store, cascade_view *view)
{
    assert_int_equal(st_get(store, KEY, KEY, BLOCK, 0), CASCADE_MISS);
    cascade_view_release(store, &view);
    st_close(&store);
    store = st_open_with(small());
    assert_int_equal(st_get(store, KEY, KEY, BLOCK, 0), CASCADE_MISS);
    st_close(&store);
}

/* What the budget takes from under it is a drop, at once. */
static void it_goes_with_its_file_copy(void **state)
{
    cascade_store *store = st_open_with(small());
    cascade_view *view = put_and_damage(store);
    cascade_key key = st_key(KEY);
    cascade_info info;

    (void)state;
    for (uint64_t i = 100; i < 900 && cascade_block_info(store, &key, &info) == 0 && info.in_file; i++)
        assert_int_equal(st_put(store, i, i, 100 * ST_KIB, 0, CASCADE_PUT_SYNC), 0);
    assert_in_range(st_stats(store).tiers[CASCADE_TIER_FILE].drops, 1, 2000);
    assert_gone(store, view);
}

/* The file copy turns out damaged too, when a compaction reads it. */
static void it_does_not_replace_its_file_copy(void **state)
{
    enum { OTHERS = 4 };
    cascade_options options = small();
    cascade_gc_report report;
    cascade_store *store;
    cascade_view *view;
    uint8_t bytes[BLOCK], page[BLOCK];
    off_t at = 0;
    int fd;

    (void)state;
    options.file_budget_bytes = 0;
    store = st_open_with(options);
    for (uint64_t i = 200; i < 200 + OTHERS; i++)
        assert_int_equal(st_put(store, i, i, BLOCK, 0, CASCADE_PUT_DURABLE), 0);
    view = put_and_damage(store);
    fd = open(st_segment_path(0), O_RDWR);
    assert_true(fd >= 0);
    st_fill(bytes, sizeof bytes, KEY);
    while (pread(fd, page, sizeof page, at) == sizeof page && memcmp(page, bytes, sizeof page) != 0)
        at += HEADER;
    assert_memory_equal(page, bytes, sizeof page);
    page[7] ^= 1;
    assert_int_equal(pwrite(fd, page, sizeof page, at), sizeof page);
    close(fd);
    for (uint64_t i = 200; i < 200 + OTHERS; i++)
        assert_int_equal(st_delete(store, i), 0);
    for (uint64_t i = 1000; st_delete(store, i) == 0; i++)
        ;
    assert_int_equal(cascade_store_gc(store, false, &report, NULL, NULL), 0);
    assert_int_equal(st_stats(store).tiers[CASCADE_TIER_FILE].quarantined, 1);
    assert_gone(store, view);
}

/* Who puts its bytes again, under another key, has the right ones, and so has everybody. */
static void its_equal_takes_its_place(void **state)
{
    cascade_store *store = st_open_with(small());
    cascade_view *view = put_and_damage(store);

    (void)state;
    assert_int_equal(st_put(store, 50, KEY, BLOCK, 0, CASCADE_PUT_DURABLE), 0);
    assert_int_equal(st_get(store, 50, KEY, BLOCK, 0), 0);
    assert_int_equal(st_get(store, KEY, KEY, BLOCK, 0), 0);
    assert_false(st_view_is(view, KEY, BLOCK, 0));
    cascade_view_release(store, &view);
    st_close(&store);
    store = st_open_with(small());
    assert_int_equal(st_get(store, 50, KEY, BLOCK, 0), 0);
    assert_int_equal(st_get(store, KEY, KEY, BLOCK, 0), 0);
    st_close(&store);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, st_setup, st_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(it_goes_with_its_file_copy),
        CASE(it_does_not_replace_its_file_copy),
        CASE(its_equal_takes_its_place),
    };

    return cmocka_run_group_tests_name("store, damaged in dram", tests, NULL, NULL);
}
