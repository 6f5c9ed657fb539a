/* SPDX-License-Identifier: MIT */
/* Damaged, foreign and missing files under a store: a miss and a count, never wrong bytes, and nothing
 * else lost. */
#include "format/segment_format.h"
#include "segment/segment.h"
#include "store/store_testing.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { KEYS = 8, BLOCK = 20 * 1024 };

/* ---- files ----------------------------------------------------------------------------------- */

static uint8_t *read_file(const char *path, size_t *bytes)
{
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    uint8_t *image;

    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &info), 0);
    *bytes = (size_t)info.st_size;
    image = malloc(*bytes + 1);
    assert_non_null(image);
    assert_int_equal(read(fd, image, *bytes), *bytes);
    close(fd);
    return image;
}

static void write_file(const char *path, const void *image, size_t bytes)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, image, bytes), bytes);
    close(fd);
}

/* Flips a bit in place, under whoever has the file open. */
static void flip(const char *path, size_t at)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    uint8_t byte;

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
    assert_int_equal(fsync(fd), 0);
    close(fd);
}

/* Where the bytes of a seed's block lie in an image; 0 if nowhere. */
static size_t find_payload(const uint8_t *image, size_t bytes, uint64_t seed)
{
    uint8_t start[64];

    st_fill(start, sizeof start, seed);
    for (size_t at = 0; at + sizeof start <= bytes; at += 4096)
        if (memcmp(image + at, start, sizeof start) == 0)
            return at;
    return 0;
}

/* A closed store of KEYS blocks in one sealed segment. */
static void make_segment(void)
{
    cascade_store *store = st_open();

    for (uint64_t i = 0; i < KEYS; i++)
        assert_int_equal(st_put(store, i, i, BLOCK, 0, CASCADE_PUT_DURABLE), 0);
    st_close(&store);
    assert_int_equal(st_segment_count(), 1);
}

/* Gets every key: right bytes or a miss. Returns a bit mask of those found. */
static unsigned found_keys(cascade_store *store)
{
    unsigned mask = 0;

    for (uint64_t i = 0; i < KEYS; i++) {
        int code = st_get(store, i, i, BLOCK, 0);

        assert_true(code == 0 || code == CASCADE_MISS);
        mask |= (unsigned)(code == 0) << i;
    }
    return mask;
}

/* ---- bits ------------------------------------------------------------------------------------ */

static void a_flipped_payload_bit(void **state)
{
    cascade_store *store;
    cascade_key key = st_key(3);
    cascade_view *view = NULL;
    uint8_t byte, *image;
    size_t bytes, at, matched;

    (void)state;
    make_segment();
    image = read_file(st_segment_path(0), &bytes);
    at = find_payload(image, bytes, 3);
    assert_int_not_equal(at, 0);
    for (int way = 0; way < 4; way++) {
        cascade_piece piece = {&byte, 1};

        while (st_segment_count() > 1)
            assert_int_equal(unlink(st_segment_path(1)), 0);
        write_file(st_segment_path(0), image, bytes);
        flip(st_segment_path(0), at + 10000);
        store = st_open();
        assert_int_equal(cascade_prefix_match(store, &key, 1, &matched), 0);
        assert_int_equal(matched, 1); /* nobody has looked at its bytes yet */
        if (way == 0)
            assert_int_equal(st_get(store, 3, 3, BLOCK, 0), CASCADE_MISS);
        else if (way == 1)
            assert_int_equal(cascade_block_view(store, &key, &view), CASCADE_MISS);
        else if (way == 2)
            assert_int_equal(cascade_block_get_range(store, &key, 10000, 1, piece.data), CASCADE_MISS);
        else
            assert_int_equal(st_put(store, 3, 3, BLOCK, 0, CASCADE_PUT_VERIFY), 0); /* stored anew */
        assert_int_equal(st_stats(store).tiers[CASCADE_TIER_FILE].quarantined, 1);
        assert_int_equal(st_stats(store).lost, 0);
        assert_int_equal(cascade_prefix_match(store, &key, 1, &matched), 0);
        assert_int_equal(matched, way == 3);
        assert_int_equal(found_keys(store) | 8u, 0xff);
        st_close(&store);
        store = st_open();
        assert_int_equal(cascade_prefix_match(store, &key, 1, &matched), 0);
        assert_int_equal(matched, way == 3); /* not to be found and missed again in every life */
        assert_int_equal(found_keys(store) | 8u, 0xff);
        st_close(&store);
    }
    free(image);
}

/* Found damaged, put again: from then on it is there, also after reopens. */
static void put_again_after_damage(void **state)
{
    cascade_store *store;
    uint8_t *image;
    size_t bytes, at;

    (void)state;
    make_segment();
    image = read_file(st_segment_path(0), &bytes);
    at = find_payload(image, bytes, 3);
    flip(st_segment_path(0), at + 5000);
    store = st_open();
    assert_int_equal(st_get(store, 3, 3, BLOCK, 0), CASCADE_MISS);
    assert_int_equal(st_put(store, 3, 3, BLOCK, 0, CASCADE_PUT_DURABLE), 0);
    for (int reopened = 0; reopened < 3; reopened++) {
        assert_int_equal(found_keys(store), 0xff);
        assert_int_equal(st_stats(store).tiers[CASCADE_TIER_FILE].quarantined, reopened == 0);
        st_close(&store);
        store = st_open();
    }
    st_close(&store);
    free(image);
}

/* A bit flipped in every 256th byte, one file each: header, record headers, payload, footer. */
static void flips_all_over(void **state)
{
    uint8_t *image;
    char path[600];
    size_t bytes;
    unsigned whole = 0, part = 0;

    (void)state;
    make_segment();
    strcpy(path, st_segment_path(0));
    image = read_file(path, &bytes);
    for (size_t at = 5; at < bytes; at += at < 16384 || at + 12288 > bytes ? 331 : 4099) {
        cascade_store *store;
        unsigned mask;

        write_file(path, image, bytes);
        flip(path, at);
        store = st_open();
        mask = found_keys(store);
        whole += mask == 0xff;
        part += mask != 0xff;
        assert_in_range(st_stats(store).tiers[CASCADE_TIER_FILE].quarantined, 0, KEYS);
        if (at >= 4096) /* beyond the segment's own header one block at most is gone */
            assert_true(__builtin_popcount(mask) >= KEYS - 1);
        st_close(&store);
        while (st_segment_count() > 1)
            assert_int_equal(unlink(st_segment_path(1)), 0);
    }
    assert_in_range(part, 10, 1000);
    assert_in_range(whole, 5, 1000);
    free(image);
}

static void cut_short(void **state)
{
    uint8_t *image;
    char path[600];
    size_t bytes;
    unsigned last = 0;

    (void)state;
    make_segment();
    strcpy(path, st_segment_path(0));
    image = read_file(path, &bytes);
    for (size_t keep = 0; keep <= bytes; keep += keep % 4096 ? 4095 : keep + 1 < bytes ? 1 : 4095) {
        cascade_store *store;
        unsigned mask;

        if (keep % 4096 > 1)
            continue;
        write_file(path, image, keep);
        store = st_open();
        mask = found_keys(store);
        assert_int_equal(mask & (mask + 1), 0); /* the first few, in the order they were written */
        assert_true(mask >= last);
        last = mask;
        /* And it goes on working. */
        assert_int_equal(st_put(store, 100, 100, BLOCK, 0, CASCADE_PUT_DURABLE), 0);
        assert_int_equal(st_get(store, 100, 100, BLOCK, 0), 0);
        st_close(&store);
        while (st_segment_count() > 1)
            assert_int_equal(unlink(st_segment_path(1)), 0);
    }
    assert_int_equal(last, 0xff);
    free(image);
}

/* ---- whole files ----------------------------------------------------------------------------- */

static void foreign_files(void **state)
{
    char name[CSC_SEGFMT_NAME_BYTES], path[600];
    cascade_store *store;
    uint8_t noise[20000], *image;
    size_t bytes;

    (void)state;
    make_segment();
    st_fill(noise, sizeof noise, 99);
    csc_segfmt_name_format(0, 500, name);
    snprintf(path, sizeof path, "%s/%s", st_directory(), name);
    write_file(path, noise, sizeof noise);
    csc_segfmt_name_format(3, 0, name);
    snprintf(path, sizeof path, "%s/%s", st_directory(), name);
    write_file(path, "", 0);
    csc_segfmt_name_format(0, 600, name); /* a true segment under another's name */
    snprintf(path, sizeof path, "%s/%s", st_directory(), name);
    image = read_file(st_segment_path(0), &bytes);
    write_file(path, image, bytes);
    csc_segfmt_name_format(0, 700, name);
    snprintf(path, sizeof path, "%s/%s", st_directory(), name);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/agg_rank000_000001.bin.tmp", st_directory());
    write_file(path, noise, sizeof noise);
    store = st_open();
    assert_int_equal(st_stats(store).tiers[CASCADE_TIER_FILE].quarantined,
                     3); /* an empty file is no damage */
    assert_int_equal(found_keys(store), 0xff);
    assert_int_equal(st_put(store, 100, 100, BLOCK, 0, CASCADE_PUT_DURABLE), 0);
    st_close(&store);
    store = st_open();
    assert_int_equal(found_keys(store), 0xff);
    assert_int_equal(st_get(store, 100, 100, BLOCK, 0), 0);
    st_close(&store);
    free(image);
}

static void a_segment_vanishes(void **state)
{
    cascade_store *store;
    cascade_stats stats;

    (void)state;
    make_segment();
    store = st_open();
    assert_int_equal(st_put(store, 100, 100, BLOCK, 0, CASCADE_PUT_DURABLE), 0);
    assert_int_equal(st_get(store, 0, 0, BLOCK, 0), 0); /* in dram from here on */
    assert_int_equal(unlink(st_segment_path(0)), 0);
    (void)found_keys(store); /* an open descriptor may still give the bytes; then they are right */
    assert_int_equal(st_get(store, 0, 0, BLOCK, 0), 0);
    assert_int_equal(st_get(store, 100, 100, BLOCK, 0), 0);
    st_close(&store);
    store = st_open();
    assert_int_equal(found_keys(store), 0);
    assert_int_equal(st_get(store, 100, 100, BLOCK, 0), 0);
    stats = st_stats(store);
    assert_int_equal(stats.keys, 1);
    assert_int_equal(stats.contents, 1);
    for (uint64_t i = 0; i < KEYS; i++)
        assert_int_equal(st_put(store, i, i, BLOCK, 0, 0), 0);
    st_close(&store);
    store = st_open();
    assert_int_equal(found_keys(store), 0xff);
    st_close(&store);
}

static void cut_under_an_open_store(void **state)
{
    cascade_store *store;
    unsigned mask;

    (void)state;
    make_segment();
    store = st_open();
    assert_int_equal(truncate(st_segment_path(0), 4096 * 8), 0);
    mask = found_keys(store);
    assert_int_equal(mask & 1, 1);
    assert_int_equal(mask & ~3u, 0);
    assert_true(st_stats(store).tiers[CASCADE_TIER_FILE].quarantined + st_stats(store).lost > 0);
    for (uint64_t i = 0; i < KEYS; i++)
        assert_int_equal(st_put(store, i, i, BLOCK, 0, CASCADE_PUT_DURABLE), 0);
    assert_int_equal(found_keys(store), 0xff);
    st_close(&store);
    store = st_open();
    assert_int_equal(found_keys(store), 0xff);
    st_close(&store);
}

/* ---- verify ---------------------------------------------------------------------------------- */

static int stop_at_half(void *context, uint64_t done, uint64_t total)
{
    ++*(int *)context;
    return done * 2 >= total;
}

static void verify_finds_and_quarantines(void **state)
{
    cascade_verify_report report;
    cascade_store *store;
    uint8_t *image;
    size_t bytes, at;
    int calls = 0;

    (void)state;
    make_segment();
    flip(st_segment_path(0), 20); /* the whole file is skipped at open: that is no sound store */
    store = st_open();
    assert_int_equal(cascade_store_verify(store, &report, NULL, NULL), CASCADE_ECORRUPT);
    assert_int_equal(report.blocks[CASCADE_TIER_FILE], 0);
    assert_int_equal(report.damaged[CASCADE_TIER_FILE], 1);
    st_close(&store);
    flip(st_segment_path(0), 20);
    store = st_open();
    assert_int_equal(cascade_store_verify(store, &report, NULL, NULL), 0);
    assert_int_equal(report.blocks[CASCADE_TIER_FILE], KEYS);
    assert_int_equal(report.blocks[CASCADE_TIER_DRAM], 0);
    assert_int_equal(report.damaged[CASCADE_TIER_FILE], 0);
    assert_int_equal(report.bytes, KEYS * BLOCK);
    assert_int_equal(st_get(store, 5, 5, BLOCK, 0), 0); /* 5 is in both tiers */
    assert_int_equal(cascade_store_verify(store, &report, stop_at_half, &calls), CASCADE_EAGAIN);
    assert_in_range(calls, 1, KEYS);
    image = read_file(st_segment_path(0), &bytes);
    assert_int_equal(st_get(store, 2, 2, BLOCK, 0), 0);
    for (uint64_t i = 2; i < 7; i += i == 2 ? 3 : 1) {
        at = find_payload(image, bytes, i);
        flip(st_segment_path(0), at + 777);
    }
    free(image);
    assert_int_equal(cascade_store_verify(store, &report, NULL, NULL), CASCADE_ECORRUPT);
    assert_int_equal(st_delete(store, 2), 0); /* perhaps before it is written anew */
    assert_int_equal(report.damaged[CASCADE_TIER_FILE], 3);
    assert_int_equal(report.damaged[CASCADE_TIER_DRAM], 0);
    assert_int_equal(report.blocks[CASCADE_TIER_FILE], KEYS - 3);
    assert_int_equal(report.blocks[CASCADE_TIER_DRAM], 2);
    assert_int_equal(st_stats(store).tiers[CASCADE_TIER_FILE].quarantined, 3);
    assert_int_equal(found_keys(store), 0xff & ~(1u << 2 | 1u << 6)); /* 5 lives on from dram */
    assert_int_equal(cascade_store_flush(store), 0);
    assert_int_equal(cascade_store_verify(store, &report, NULL, NULL), 0);
    st_close(&store);
    /* And was written anew. */
    for (int reopened = 0; reopened < 2; reopened++) {
        store = st_open();
        assert_int_equal(st_get(store, 5, 5, BLOCK, 0), 0);
        assert_int_equal(st_get(store, 2, 2, BLOCK, 0), CASCADE_MISS);
        st_close(&store);
    }
}

static cascade_store *store_under_verify;

static int get_damaged(void *context, uint64_t done, uint64_t total)
{
    (void)done;
    (void)total;
    *(int *)context = st_get(store_under_verify, 3, 3, BLOCK, 0);
    return 0;
}

/* A damaged block that a reader came upon first, or at the same time, is in the report, and counted
 * once. */
static void damage_is_counted_once(void **state)
{
    cascade_verify_report report;
    uint8_t *image;
    size_t bytes;
    int code = 0;

    (void)state;
    make_segment();
    image = read_file(st_segment_path(0), &bytes);
    flip(st_segment_path(0), find_payload(image, bytes, 3) + 777);
    free(image);
    store_under_verify = st_open();
    assert_int_equal(cascade_store_verify(store_under_verify, &report, get_damaged, &code),
                     CASCADE_ECORRUPT);
    assert_int_equal(code, CASCADE_MISS);
    assert_int_equal(report.damaged[CASCADE_TIER_FILE], 1);
    assert_int_equal(st_stats(store_under_verify).tiers[CASCADE_TIER_FILE].quarantined, 1);
    assert_int_equal(cascade_store_verify(store_under_verify, &report, NULL, NULL), 0);
    st_close(&store_under_verify);
}

/* Writes a segment with one bind that no writer of ours makes: its sequence is 0. */
static void bind_at_zero(uint64_t number)
{
    const csc_log_entry entry = {.binding = {.key = st_key(number)},
                                 .content = {.k_bytes = 100, .digest = {1}}};
    const csc_segment_visitor nobody = {0};
    csc_segment_options options = {.directory = st_directory()};
    csc_tier *tier = NULL;
    uint32_t segment;

    assert_int_equal(csc_io_create(NULL, &options.io), 0);
    assert_int_equal(csc_segment_open(&options, &nobody, &tier), 0);
    assert_int_equal(csc_segment_log(tier, &entry, 1, &segment), 0);
    assert_int_equal(csc_segment_seal(tier), 0);
    tier->ops->close(&tier);
    csc_io_destroy(&options.io);
}

/* Nothing is older than it: when its segment is emptied, no delete just before it is needed. */
static void a_sequence_that_no_writer_gives(void **state)
{
    char path[600] = "";
    cascade_gc_report report;
    cascade_store *store = st_open();

    (void)state;
    st_close(&store);
    bind_at_zero(1);
    snprintf(path, sizeof path, "%s/agg_rank005_000000.bin", st_directory());
    write_file(path, path, sizeof path); /* with this about, all that may hide something is kept */
    store = st_open();
    assert_int_equal(st_put(store, 1, 1, BLOCK, 0, CASCADE_PUT_DURABLE), 0);
    assert_int_equal(cascade_store_gc(store, false, &report, NULL, NULL), 0);
    assert_true(st_stats(store).compactions > 0);
    st_close(&store);
    store = st_open();
    assert_int_equal(st_get(store, 1, 1, BLOCK, 0), 0);
    assert_int_equal(st_put(store, 2, 2, BLOCK, 0, 0), 0);
    st_close(&store);
    store = st_open();
    assert_int_equal(st_get(store, 2, 2, BLOCK, 0), 0);
    st_close(&store);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, st_setup, st_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_flipped_payload_bit),   CASE(put_again_after_damage),
        CASE(flips_all_over),          CASE(cut_short),
        CASE(foreign_files),           CASE(a_segment_vanishes),
        CASE(cut_under_an_open_store), CASE(verify_finds_and_quarantines),
        CASE(damage_is_counted_once),  CASE(a_sequence_that_no_writer_gives),
    };

    return cmocka_run_group_tests_name("store damage", tests, NULL, NULL);
}
