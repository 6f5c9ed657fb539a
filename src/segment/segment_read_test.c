/* SPDX-License-Identifier: MIT */
/* Reads of the file tier in batches: what they read, in which order bytes arrive, what a deadline leaves
 * behind, and segments that are changed or taken away under a reader. */
#include "base/clock.h"
#include "format/segment_format.h"
#include "segment/segment_testing.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define KIB   ((size_t)1 << 10)
#define MIB   ((size_t)1 << 20)
#define CHUNK (256 * KIB)

/* ---- reads that a test can hold up --------------------------------------------------------------- */

/* Should the test not let go: a lane may do its transfers at once, in the submitting thread. */
#define HELD_NS_MAX UINT64_C(1000000000)

static atomic_bool holding;
static atomic_uint held;

static ssize_t held_preadv(int fd, const struct iovec *vectors, int count, off_t offset)
{
    uint64_t until_ns = csc_clock_ns() + HELD_NS_MAX;

    if (atomic_load(&holding)) {
        atomic_fetch_add(&held, 1);
        while (atomic_load(&holding) && csc_clock_ns() < until_ns)
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        atomic_fetch_sub(&held, 1);
    }
    return testing_calls.preadv(fd, vectors, count, offset);
}

static int setup(void **state)
{
    csc_io_calls calls = testing_calls;
    int rc = testing_setup(state);

    csc_io_destroy(&testing_io);
    atomic_store(&holding, false);
    calls.preadv = held_preadv;
    return rc ? rc : csc_io_create(&calls, &testing_io);
}

/* Whether transfers go on beside the thread that started them. */
static bool lanes_run_beside(void)
{
    static uint8_t page[4096];
    struct iovec vector = {page, sizeof page};
    csc_io_request request = {.vectors = &vector, .count = 1}, *done;
    csc_io_lane *lane;
    int rc;

    request.fd = open("/proc/self/exe", O_RDONLY);
    assert_int_equal(csc_io_lane_take(testing_io, &lane), 0);
    atomic_store(&holding, true);
    assert_int_equal(csc_io_submit(lane, &request), 0);
    rc = csc_io_lane_next(lane, csc_clock_ns() + 1000000, &done);
    atomic_store(&holding, false);
    if (rc == CASCADE_ETIMEDOUT)
        assert_int_equal(csc_io_lane_next(lane, UINT64_MAX, &done), 0);
    csc_io_lane_give(&lane);
    close(request.fd);
    if (rc != CASCADE_ETIMEDOUT)
        print_message("# skipped: this lane does its transfers at once, so none can be late\n");
    return rc == CASCADE_ETIMEDOUT;
}

/* ---- one read and what is told about it ----------------------------------------------------------- */

typedef struct told {
    const uint8_t *memory; /* where the range goes, in one piece */
    const uint8_t *expected;
    uint64_t arrived;
    unsigned calls;
    bool wrong;
    atomic_uint released;
} told;

static void note_arrived(void *context, uint64_t bytes)
{
    told *t = context;

    t->calls++;
    t->wrong = t->wrong || bytes <= t->arrived || memcmp(t->memory, t->expected, bytes) != 0;
    t->arrived = bytes;
}

static void note_released(void *context)
{
    atomic_fetch_add(&((told *)context)->released, 1);
}

static uint8_t *page_memory(size_t bytes)
{
    void *memory = NULL;

    assert_int_equal(posix_memalign(&memory, 4096, bytes + 4096), 0);
    memset(memory, 0xee, bytes + 4096);
    return memory;
}

static uint8_t *block_of(uint64_t seed, size_t bytes)
{
    uint8_t *memory = page_memory(bytes);

    csc_tier_suite_fill(memory, bytes, seed);
    return memory;
}

/* ---- tests ----------------------------------------------------------------------------------- */

/* Each range costs its chunks, and the header. */
static void ranges_cost_their_chunks(void **state)
{
    static const struct {
        size_t offset, bytes, chunks;
    } ranges[] = {{0, 1, 1},
                  {0, CHUNK, 1},
                  {CHUNK - 1, 2, 2},
                  {CHUNK, CHUNK, 1},
                  {5 * CHUNK + 77, 3 * CHUNK, 4},
                  {4096 * 3, 8 * MIB, 33},
                  {10 * MIB, 0, 0},
                  {0, 10 * MIB, 40}};
    const size_t bytes = 10 * MIB;
    csc_content content = csc_tier_suite_content(1, bytes, 0);
    uint8_t *expected = block_of(1, bytes), *memory = page_memory(bytes);
    csc_tier *tier = testing_open_default();
    csc_place place;

    (void)state;
    assert_int_equal(testing_write(tier, 1, bytes, 0, 1, &place), 0);
    for (size_t i = 0; i < 2 * sizeof ranges / sizeof ranges[0]; i++) {
        size_t offset = ranges[i / 2].offset;
        cascade_piece piece = {memory, ranges[i / 2].bytes};
        csc_tier_read read = {
            .place = place, .content = content, .offset = offset, .pieces = &piece, .piece_count = 1};
        uint64_t before = testing_stats(tier).read_bytes;

        read.released = i % 2 ? note_released : NULL;
        memset(memory, 0xee, bytes);
        assert_int_equal(tier->ops->read(tier, &read, 1), 0);
        assert_memory_equal(memory, expected + offset, piece.bytes);
        assert_int_equal(memory[piece.bytes], 0xee);
        assert_int_equal(testing_stats(tier).read_bytes - before, 4096 + ranges[i / 2].chunks * CHUNK);
    }
    free(memory);
    free(expected);
    tier->ops->close(&tier);
}

enum { BATCH = 60 };

static size_t batch_bytes(size_t i)
{
    return i % 10 == 3 ? 7 * MIB + 123 * i : i % 4 == 0 ? 4096 * (i + 1) : 999 * i + 1;
}

/* Many at once, into pages and into pieces; one is damaged, one names nothing. */
static void a_batch_of_all_kinds(void **state)
{
    static told tolds[BATCH];
    csc_tier_read reads[BATCH] = {0};
    cascade_piece pieces[BATCH];
    csc_place places[BATCH];
    csc_tier *tier = testing_open_default();

    (void)state;
    for (size_t i = 0; i < BATCH; i++)
        assert_int_equal(testing_write(tier, i, batch_bytes(i), 0, 1, &places[i]), 0);
    for (size_t i = 0; i < BATCH; i++) {
        size_t at = (i * 37 + 11) % BATCH, bytes = batch_bytes(at);

        tolds[i] = (told){.memory = page_memory(bytes), .expected = block_of(at, bytes)};
        pieces[i] = (cascade_piece){(void *)(uintptr_t)tolds[i].memory, bytes};
        reads[i] = (csc_tier_read){.place = places[at],
                                   .content = csc_tier_suite_content(at, bytes, 0),
                                   .pieces = &pieces[i],
                                   .piece_count = 1,
                                   .arrived = note_arrived,
                                   .released = i % 3 ? note_released : NULL,
                                   .context = &tolds[i]};
    }
    reads[7].content.digest[0] ^= 1;
    reads[9].place.words[0] = 1000;
    assert_int_equal(tier->ops->read(tier, reads, BATCH), CASCADE_ECORRUPT);
    for (size_t i = 0; i < BATCH; i++) {
        bool good = i != 7 && i != 9;

        assert_int_equal(reads[i].status, good ? 0 : i == 7 ? CASCADE_ECORRUPT : CASCADE_MISS);
        assert_int_equal(tolds[i].arrived, good ? pieces[i].bytes : 0);
        assert_false(tolds[i].wrong);
        assert_false(reads[i].late);
        assert_int_equal(atomic_load(&tolds[i].released), 0);
        if (good)
            assert_memory_equal(tolds[i].memory, tolds[i].expected, pieces[i].bytes);
        if (pieces[i].bytes > 4 * MIB)
            assert_true(tolds[i].calls > 2); /* while later parts were still read */
        free((void *)(uintptr_t)tolds[i].memory);
        free((void *)(uintptr_t)tolds[i].expected);
    }
    tier->ops->close(&tier);
}

/* Pieces that belong to a caller are not touched after the call, pages are until they are released. The
 * segment is removed and the tier closed while the transfers still run. */
static void past_the_deadline(void **state)
{
    const size_t bytes = 3 * MIB;
    csc_content content = csc_tier_suite_content(1, bytes, 0);
    size_t descriptors = testing_open_descriptors(), count = 1;
    told tolds[2] = {0};
    cascade_piece pieces[2];
    csc_tier_read reads[2];
    csc_segment_info info;
    csc_tier *tier = NULL;
    csc_place place;

    (void)state;
    if (!lanes_run_beside())
        skip();
    assert_int_equal(testing_open((csc_segment_options){.deadline_ms = 150}, &tier), 0);
    assert_int_equal(testing_write(tier, 1, bytes, 0, 1, &place), 0);
    assert_int_equal(csc_segment_seal(tier), 0);
    for (int i = 0; i < 2; i++) {
        tolds[i] = (told){.memory = page_memory(bytes), .expected = block_of(1, bytes)};
        pieces[i] = (cascade_piece){(void *)(uintptr_t)tolds[i].memory, bytes};
        reads[i] = (csc_tier_read){.place = place,
                                   .content = content,
                                   .pieces = &pieces[i],
                                   .piece_count = 1,
                                   .released = i ? note_released : NULL,
                                   .context = &tolds[i]};
    }
    atomic_store(&holding, true);
    assert_int_equal(tier->ops->read(tier, reads, 2), CASCADE_ETIMEDOUT);
    assert_int_equal(reads[0].status, CASCADE_ETIMEDOUT);
    assert_int_equal(reads[1].status, CASCADE_ETIMEDOUT);
    assert_false(reads[0].late);
    assert_true(reads[1].late);
    assert_true(atomic_load(&held) > 0);
    assert_int_equal(atomic_load(&tolds[1].released), 0);
    csc_segment_list(tier, &info, &count);
    assert_int_equal(csc_segment_remove(tier, info.segment), 0);
    tier->ops->close(&tier);
    atomic_store(&holding, false);
    csc_io_destroy(&testing_io); /* waits */
    assert_int_equal(atomic_load(&tolds[1].released), 1);
    assert_int_equal(testing_open_descriptors(), descriptors);
    assert_int_equal(csc_io_create(&testing_calls, &testing_io), 0);
    /* What the disk gave in the end went into the pages. */
    assert_memory_equal(tolds[1].memory, tolds[1].expected, bytes);
    for (size_t at = 0; at < bytes; at++)
        assert_int_equal(tolds[0].memory[at], 0xee);
    for (int i = 0; i < 2; i++) {
        free((void *)(uintptr_t)tolds[i].memory);
        free((void *)(uintptr_t)tolds[i].expected);
    }
}

/* A deadline costs the reads that met it, no others. */
static void after_a_deadline(void **state)
{
    csc_tier *tier = NULL;
    csc_place place;
    int rc;

    (void)state;
    if (!lanes_run_beside())
        skip();
    assert_int_equal(testing_open((csc_segment_options){.deadline_ms = 150}, &tier), 0);
    assert_int_equal(testing_write(tier, 1, MIB, 0, 1, &place), 0);
    atomic_store(&holding, true);
    assert_int_equal(testing_read(tier, &place, 1, MIB, 0), CASCADE_ETIMEDOUT);
    atomic_store(&holding, false);
    do {
        rc = testing_read(tier, &place, 1, MIB, 0);
    } while (rc == CASCADE_ETIMEDOUT); /* a machine may be as slow as that by itself */
    assert_int_equal(rc, 0);
    tier->ops->close(&tier);
}

/* One read of a block, into pages or not, of which the `wrong_at`-th transfer and those after it bring
 * a wrong bit; its status. */
static int read_wrongly(csc_tier *tier, const testing_block *block, uint64_t seed, bool into_pages,
                        int wrong_at, int wrong_count)
{
    size_t bytes = block->content.k_bytes;
    told t = {.memory = page_memory(bytes), .expected = block_of(seed, bytes)};
    cascade_piece piece = {(void *)(uintptr_t)t.memory, bytes};
    csc_tier_read read = {.place = block->place,
                          .content = block->content,
                          .pieces = &piece,
                          .piece_count = 1,
                          .arrived = note_arrived,
                          .released = into_pages ? note_released : NULL,
                          .context = &t};
    int rc;

    testing_fault = (testing_faults){.wrong_at = wrong_at, .wrong_count = wrong_count};
    rc = tier->ops->read(tier, &read, 1);
    assert_int_equal(rc, read.status);
    assert_false(t.wrong);
    if (rc == 0) {
        assert_int_equal(t.arrived, bytes);
        assert_memory_equal(t.memory, t.expected, bytes);
    }
    testing_fault = (testing_faults){0};
    free((void *)(uintptr_t)t.memory);
    free((void *)(uintptr_t)t.expected);
    return rc;
}

/* What was hurt on its way is read once more; what is wrong again is damaged. */
static void wrong_bytes_are_read_once_more(void **state)
{
    static const size_t sizes[] = {3000, 300000, 9 * MIB + 5};
    csc_tier *tier = testing_open_default();
    uint64_t rereads = 0;
    csc_place place;

    (void)state;
    for (uint64_t i = 0; i < 3; i++)
        assert_int_equal(testing_write(tier, i, sizes[i], 0, 1, &place), 0);
    assert_int_equal(csc_segment_seal(tier), 0);
    tier->ops->close(&tier);
    tier = testing_open_default();
    for (uint64_t i = 0; i < 6; i++) {
        const testing_block *block = testing_find(i / 2, sizes[i / 2], 0);
        bool into_pages = i % 2;

        for (int at = 1; at <= (i / 2 == 2 ? 5 : 1); at++) {
            assert_int_equal(read_wrongly(tier, block, i / 2, into_pages, at, 1), 0);
            assert_int_equal(csc_segment_rereads(tier), ++rereads);
            assert_int_equal(read_wrongly(tier, block, i / 2, into_pages, at, 1000), CASCADE_ECORRUPT);
            assert_int_equal(csc_segment_rereads(tier), rereads);
        }
        assert_int_equal(read_wrongly(tier, block, i / 2, into_pages, 0, 0), 0);
    }
    tier->ops->close(&tier);
}

/* Overwrites bytes of the only segment file. */
static void overwrite(const void *bytes, size_t count, off_t offset)
{
    int fd = open(testing_path(0, 0), O_RDWR);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, count, offset), count);
    close(fd);
}

static void recycled_under_a_reader(void **state)
{
    static csc_segfmt_header header;
    static const uint8_t junk[64 * 1024] = {1, 2, 3};
    csc_tier *tier = testing_open_default();
    csc_place place;
    int fd;

    (void)state;
    assert_int_equal(testing_write(tier, 1, 2 * MIB, 0, 1, &place), 0);
    assert_int_equal(csc_segment_seal(tier), 0);
    assert_int_equal(testing_read(tier, &place, 1, 2 * MIB, 0), 0);
    fd = open(testing_path(0, 0), O_RDONLY);
    assert_int_equal(pread(fd, &header, sizeof header, 0), sizeof header);
    close(fd);
    /* Damage is damage. */
    overwrite(junk, sizeof junk, (off_t)(MIB + 8192));
    assert_int_equal(testing_read(tier, &place, 1, 2 * MIB, 0), CASCADE_ECORRUPT);
    /* Another segment's header, and another's bytes: the block is not there any more. */
    header.generation++;
    csc_segfmt_header_seal(&header);
    overwrite(&header, sizeof header, 0);
    assert_int_equal(testing_read(tier, &place, 1, 2 * MIB, 0), CASCADE_MISS);
    overwrite(junk, 4096, 0);
    assert_int_equal(testing_read(tier, &place, 1, 2 * MIB, 0), CASCADE_MISS);
    header.generation--;
    csc_segfmt_header_seal(&header);
    overwrite(&header, sizeof header, 0);
    assert_int_equal(testing_read(tier, &place, 1, 2 * MIB, 0), CASCADE_ECORRUPT);
    /* Taken away by somebody else. */
    assert_int_equal(unlink(testing_path(0, 0)), 0);
    assert_int_equal(testing_read(tier, &place, 1, 2 * MIB, 0), CASCADE_MISS);
    tier->ops->close(&tier);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, testing_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(ranges_cost_their_chunks),
        CASE(a_batch_of_all_kinds),
        CASE(past_the_deadline),
        CASE(after_a_deadline),
        CASE(wrong_bytes_are_read_once_more),
        CASE(recycled_under_a_reader),
    };

    return cmocka_run_group_tests_name("segment_read", tests, NULL, NULL);
}
