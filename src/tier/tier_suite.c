/* SPDX-License-Identifier: MIT */
#include "tier/tier_suite.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define PAGE   ((size_t)4096)
#define MIB    ((size_t)1 << 20)
#define PIECES 64

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

void csc_tier_suite_fill(void *to, size_t bytes, uint64_t seed)
{
    uint64_t state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    uint8_t *next = to;

    for (; bytes >= sizeof state; bytes -= sizeof state, next += sizeof state) {
        next_random(&state);
        memcpy(next, &state, sizeof state);
    }
    next_random(&state);
    memcpy(next, &state, bytes);
}

csc_content csc_tier_suite_content(uint64_t seed, uint64_t k_bytes, uint64_t v_bytes)
{
    csc_content content = {.tenant = seed % 3, .k_bytes = k_bytes, .v_bytes = v_bytes};

    csc_tier_suite_fill(content.digest, sizeof content.digest, ~seed);
    return content;
}

static void *page_memory(size_t bytes)
{
    void *memory = NULL;

    assert_int_equal(posix_memalign(&memory, PAGE, bytes + PAGE), 0);
    return memory;
}

/* A block in flat memory. */
typedef struct flat {
    uint8_t *bytes;
    csc_content content;
    csc_place place;
} flat;

static size_t flat_bytes(const flat *f)
{
    return f->content.k_bytes + f->content.v_bytes;
}

static void flat_make(flat *f, uint64_t seed, size_t k_bytes, size_t v_bytes)
{
    f->content = csc_tier_suite_content(seed, k_bytes, v_bytes);
    f->bytes = page_memory(k_bytes + v_bytes);
    csc_tier_suite_fill(f->bytes, k_bytes + v_bytes, seed);
}

static void flat_store(csc_tier *tier, flat *f)
{
    cascade_piece piece = {f->bytes, flat_bytes(f)};
    csc_tier_write write = {.content = f->content, .pieces = &piece, .piece_count = 1};

    assert_int_equal(tier->ops->write(tier, &write, 1), 0);
    assert_int_equal(write.status, 0);
    f->place = write.place;
}

/* Reads [offset, offset + bytes) into memory `shift` bytes off a page and compares. */
static void flat_check(csc_tier *tier, const flat *f, size_t offset, size_t bytes, size_t shift)
{
    uint8_t *memory = page_memory(bytes + shift);
    cascade_piece piece = {memory + shift, bytes};

    memset(memory, 0xa5, bytes + shift + PAGE);
    assert_int_equal(csc_tier_read_one(tier, &f->place, &f->content, offset, &piece, 1), 0);
    assert_memory_equal(memory + shift, f->bytes + offset, bytes);
    assert_int_equal(memory[shift + bytes], 0xa5); /* and not a byte more */
    free(memory);
}

void csc_tier_suite_sizes(void **state)
{
    static const size_t sizes[][2] = {
        {1, 0},
        {0, 1},
        {1, 1},
        {4095, 0},
        {4096, 0},
        {4097, 0},
        {4096, 4096},
        {5000, 3000},
        {262144, 0},
        {262143, 2},
        {262144, 4096},
        {65536, 65536},
        {1000000, 7},
        {MIB, MIB},
        {3 * MIB + 12345, 0},
        {0, MIB + 4096},
        {9 * MIB, 8 * MIB},
        {17 * MIB + 1, 1},
    };
    const csc_tier_fixture *fixture = *state;
    csc_tier *tier = fixture->open();
    enum { COUNT = sizeof sizes / sizeof sizes[0] };
    flat flats[COUNT];

    for (size_t i = 0; i < COUNT; i++) {
        flat_make(&flats[i], i + 1, sizes[i][0], sizes[i][1]);
        flat_store(tier, &flats[i]);
        flat_check(tier, &flats[i], 0, flat_bytes(&flats[i]), 0);
        flat_check(tier, &flats[i], 0, flat_bytes(&flats[i]), 1);
    }
    assert_int_equal(tier->ops->sync(tier), 0);
    for (size_t i = 0; i < COUNT; i++) {
        flat_check(tier, &flats[i], 0, flat_bytes(&flats[i]), 0);
        free(flats[i].bytes);
    }
    fixture->close(&tier);
}

/* Cuts [0, bytes) of memory into at most PIECES pieces at multiples of `unit`; some are empty. */
static size_t cut(cascade_piece *pieces, uint8_t *memory, size_t bytes, size_t unit, uint64_t *random)
{
    size_t count = 0;
    size_t at = 0;

    while (at < bytes && count < PIECES - 1) {
        size_t take = next_random(random) % (bytes / 8 + 2) / unit * unit;

        if (take > bytes - at)
            take = bytes - at;
        pieces[count++] = (cascade_piece){memory + at, take};
        at += take;
    }
    pieces[count++] = (cascade_piece){bytes > at ? memory + at : NULL, bytes - at};
    return count;
}

void csc_tier_suite_pieces(void **state)
{
    const csc_tier_fixture *fixture = *state;
    csc_tier *tier = fixture->open();
    uint64_t random = 88172645463325252u;

    for (int round = 0; round < 60; round++) {
        size_t bytes = next_random(&random) % (round % 10 == 0 ? 6 * MIB : MIB) + 1;
        size_t unit = round % 2 ? PAGE : 1;
        uint8_t *memory = page_memory(bytes);
        cascade_piece pieces[PIECES];
        size_t count;
        flat f;

        flat_make(&f, (uint64_t)round + 100, bytes / 2, bytes - bytes / 2);
        count = cut(pieces, f.bytes, bytes, unit, &random);
        csc_tier_write write = {.content = f.content, .pieces = pieces, .piece_count = count};
        assert_int_equal(tier->ops->write(tier, &write, 1), 0);
        count = cut(pieces, memory, bytes, round % 3 ? PAGE : 1, &random);
        memset(memory, 0, bytes);
        assert_int_equal(csc_tier_read_one(tier, &write.place, &f.content, 0, pieces, count), 0);
        assert_memory_equal(memory, f.bytes, bytes);
        free(memory);
        free(f.bytes);
    }
    fixture->close(&tier);
}

void csc_tier_suite_ranges(void **state)
{
    const csc_tier_fixture *fixture = *state;
    csc_tier *tier = fixture->open();
    uint64_t random = 1234567;
    uint8_t byte;
    cascade_piece one = {&byte, 1};
    flat f;

    flat_make(&f, 7, 2 * MIB + 777, MIB + 1);
    flat_store(tier, &f);
    for (int round = 0; round < 100; round++) {
        size_t unit = round % 3 ? 1 : PAGE;
        size_t offset = next_random(&random) % flat_bytes(&f) / unit * unit;
        size_t bytes = next_random(&random) % (flat_bytes(&f) - offset + 1);

        flat_check(tier, &f, offset, bytes, round % 2 ? 0 : round % 16);
    }
    flat_check(tier, &f, flat_bytes(&f), 0, 0);
    assert_int_equal(csc_tier_read_one(tier, &f.place, &f.content, flat_bytes(&f), &one, 1),
                     CASCADE_ESIZE);
    assert_int_equal(csc_tier_read_one(tier, &f.place, &f.content, UINT64_MAX, &one, 1), CASCADE_ESIZE);
    free(f.bytes);
    fixture->close(&tier);
}

void csc_tier_suite_batch(void **state)
{
    const csc_tier_fixture *fixture = *state;
    csc_tier *tier = fixture->open();
    enum { COUNT = 100 };
    csc_tier_write writes[COUNT];
    cascade_piece pieces[COUNT];
    flat flats[COUNT];

    memset(writes, 0, sizeof writes);
    for (size_t i = 0; i < COUNT; i++) {
        flat_make(&flats[i], i + 500, (i + 1) * 977, i % 4 ? 0 : i * PAGE);
        pieces[i] = (cascade_piece){flats[i].bytes, flat_bytes(&flats[i])};
        writes[i] = (csc_tier_write){
            .content = flats[i].content, .pieces = &pieces[i], .piece_count = 1, .status = 99};
    }
    assert_int_equal(tier->ops->write(tier, writes, COUNT), 0);
    for (size_t i = 0; i < COUNT; i++) {
        assert_int_equal(writes[i].status, 0);
        flats[i].place = writes[i].place;
    }
    for (size_t i = 0; i < COUNT; i++) {
        flat_check(tier, &flats[i], 0, flat_bytes(&flats[i]), i % 5);
        free(flats[i].bytes);
    }
    fixture->close(&tier);
}

void csc_tier_suite_refusals(void **state)
{
    const csc_tier_fixture *fixture = *state;
    csc_tier *tier = fixture->open();
    csc_place nowhere = {{0}};
    cascade_piece piece;
    csc_content other;
    flat f;
    int rc;

    flat_make(&f, 9, 100000, 50000);
    flat_store(tier, &f);
    piece = (cascade_piece){f.bytes, 1};
    rc = csc_tier_read_one(tier, &nowhere, &f.content, 0, &piece, 1);
    assert_true(rc == CASCADE_MISS || rc == CASCADE_ECORRUPT);
    other = f.content;
    other.digest[5] ^= 1;
    assert_int_equal(csc_tier_read_one(tier, &f.place, &other, 0, &piece, 1), CASCADE_ECORRUPT);
    other = f.content;
    other.k_bytes++;
    assert_int_equal(csc_tier_read_one(tier, &f.place, &other, 0, &piece, 1), CASCADE_ECORRUPT);
    for (size_t i = 0; i < 8; i++) { /* a damaged place is never believed */
        csc_place wrong = f.place;

        wrong.words[i] ^= 0x80000001u;
        rc = csc_tier_read_one(tier, &wrong, &f.content, 0, &piece, 1);
        assert_true(rc == CASCADE_MISS || rc == CASCADE_ECORRUPT || i >= 6);
    }
    free(f.bytes);
    fixture->close(&tier);
}

void csc_tier_suite_view(void **state)
{
    const csc_tier_fixture *fixture = *state;
    csc_tier *tier = fixture->open();
    cascade_piece pieces[4096];
    size_t count = 4096;
    size_t at = 0;
    flat f;

    assert_non_null(tier->ops->view);
    flat_make(&f, 11, 300000, 123457);
    flat_store(tier, &f);
    assert_int_equal(tier->ops->view(tier, &f.place, &f.content, pieces, &count), 0);
    assert_true(count > 0);
    for (size_t i = 0; i < count; at += pieces[i++].bytes) {
        assert_true(pieces[i].bytes <= flat_bytes(&f) - at);
        assert_memory_equal(pieces[i].data, f.bytes + at, pieces[i].bytes);
    }
    assert_int_equal(at, flat_bytes(&f));
    if (count > 0) {
        size_t room = count - 1;

        assert_int_equal(tier->ops->view(tier, &f.place, &f.content, pieces, &room), CASCADE_ESIZE);
        assert_int_equal(room, count);
    }
    free(f.bytes);
    fixture->close(&tier);
}

/* Dropping some harms none of the others, and written again they are there. */
void csc_tier_suite_drop(void **state)
{
    const csc_tier_fixture *fixture = *state;
    csc_tier *tier = fixture->open();
    enum { COUNT = 24 };
    flat flats[COUNT];

    for (size_t i = 0; i < COUNT; i++) {
        flat_make(&flats[i], i + 40, (i + 1) * 30011, i * 5000);
        flat_store(tier, &flats[i]);
    }
    for (int round = 0; round < 3; round++) {
        for (size_t i = (size_t)round % 2; i < COUNT; i += 2)
            tier->ops->drop(tier, &flats[i].place, &flats[i].content);
        for (size_t i = 1 - (size_t)round % 2; i < COUNT; i += 2)
            flat_check(tier, &flats[i], 0, flat_bytes(&flats[i]), 0);
        for (size_t i = (size_t)round % 2; i < COUNT; i += 2)
            flat_store(tier, &flats[i]);
    }
    for (size_t i = 0; i < COUNT; i++) {
        flat_check(tier, &flats[i], 0, flat_bytes(&flats[i]), 0);
        free(flats[i].bytes);
    }
    fixture->close(&tier);
}

/* ---- readers beside a writer ---------------------------------------------------------------------- */

enum { SHARED_COUNT = 200, SHARED_BYTES = 70000 };

typedef struct shared {
    csc_tier *tier;
    csc_place places[SHARED_COUNT];
    atomic_size_t written;
    atomic_bool wrong;
} shared;

static void *read_shared(void *context)
{
    shared *s = context;
    uint8_t *memory = malloc(SHARED_BYTES);
    uint8_t *expected = malloc(SHARED_BYTES);
    uint64_t random = 5;

    while (atomic_load(&s->written) < SHARED_COUNT && !atomic_load(&s->wrong)) {
        size_t written = atomic_load(&s->written);
        size_t which = written ? next_random(&random) % written : 0;
        csc_content content = csc_tier_suite_content(which, SHARED_BYTES, 0);
        cascade_piece piece = {memory, SHARED_BYTES};

        if (written == 0)
            continue;
        csc_tier_suite_fill(expected, SHARED_BYTES, which);
        if (csc_tier_read_one(s->tier, &s->places[which], &content, 0, &piece, 1) != 0 ||
            memcmp(memory, expected, SHARED_BYTES) != 0)
            atomic_store(&s->wrong, true);
    }
    free(memory);
    free(expected);
    return NULL;
}

void csc_tier_suite_threads(void **state)
{
    const csc_tier_fixture *fixture = *state;
    static shared s;
    pthread_t readers[2];

    s.tier = fixture->open();
    atomic_store(&s.written, 0);
    atomic_store(&s.wrong, false);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&readers[i], NULL, read_shared, &s), 0);
    for (size_t i = 0; i < SHARED_COUNT; i++) {
        flat f;

        flat_make(&f, i, SHARED_BYTES, 0);
        flat_store(s.tier, &f);
        s.places[i] = f.place;
        atomic_store(&s.written, i + 1);
        if (i % 50 == 49)
            assert_int_equal(s.tier->ops->sync(s.tier), 0);
        free(f.bytes);
    }
    for (int i = 0; i < 2; i++)
        pthread_join(readers[i], NULL);
    assert_false(atomic_load(&s.wrong));
    fixture->close(&s.tier);
}
