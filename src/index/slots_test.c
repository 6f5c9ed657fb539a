/* SPDX-License-Identifier: MIT */
#include "index/slots.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define REGION_BYTES                                                                                    \
    (CSC_ARENA_HEADER_BYTES + CSC_SLOT_CLAIMS_BYTES +                                                   \
     (size_t)CSC_SLOT_AREAS * CSC_AREA_SLOTS * sizeof(csc_slot))

/* An arena's header and slots in plain memory. */
typedef struct fixture {
    void *region;
    csc_slots owner;
    _Atomic uint32_t high;
} fixture;

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);

    assert_non_null(f);
    f->region = calloc(1, REGION_BYTES);
    assert_non_null(f->region);
    ((csc_arena_header *)f->region)->geometry.slots_offset = CSC_ARENA_HEADER_BYTES;
    csc_slots_attach(&f->owner, f->region, 0, &f->high);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;

    free(f->region);
    free(f);
    return 0;
}

static csc_slots_view look(const csc_slots *slots, uint32_t *pins, uint32_t room)
{
    csc_slots_view view = {.pins = pins, .room = room};

    csc_slots_look(slots, &view);
    return view;
}

static void test_exhaustion(void **state)
{
    fixture *f = *state;
    static csc_slot *taken[CSC_AREA_SLOTS];
    uint32_t pins[1];

    for (uint32_t i = 0; i < CSC_AREA_SLOTS; i++) {
        taken[i] = csc_slot_guard(&f->owner);
        assert_non_null(taken[i]);
        assert_in_range(taken[i] - f->owner.words, 0, CSC_AREA_SLOTS - 1);
    }
    assert_null(csc_slot_guard(&f->owner));
    csc_slot_release(taken[1234]);
    assert_ptr_equal(csc_slot_guard(&f->owner), taken[1234]);
    assert_null(csc_slot_guard(&f->owner));
    for (uint32_t i = 0; i < CSC_AREA_SLOTS; i++)
        csc_slot_release(taken[i]);
    assert_true(look(&f->owner, pins, 1).epoch_min == UINT64_MAX);
    assert_non_null(csc_slot_guard(&f->owner));
}

/* The oldest guard decides, wherever it lies. */
static void test_oldest_guard(void **state)
{
    fixture *f = *state;
    csc_slot *guards[5];
    uint32_t pins[4];
    csc_slots_view view = look(&f->owner, pins, 4);

    assert_true(view.epoch_min == UINT64_MAX);
    for (uint64_t i = 0; i < 5; i++) {
        atomic_store(f->owner.epoch, 40 - i * 3);
        guards[i] = csc_slot_guard(&f->owner);
        view = look(&f->owner, pins, 4);
        assert_int_equal(view.epoch_min, 40 - i * 3);
    }
    csc_slot_release(guards[4]);
    csc_slot_pin(guards[3], 9); /* a pin is no guard */
    view = look(&f->owner, pins, 4);
    assert_int_equal(view.epoch_min, 34);
    assert_int_equal(view.pin_count, 1);
}

static void test_pins(void **state)
{
    fixture *f = *state;
    static const uint32_t contents[] = {70, 3, UINT32_MAX - 1, 0, 3, 12};
    csc_slot *slots[6];
    uint32_t pins[6];
    csc_slots_view view;

    for (int i = 0; i < 6; i++) {
        slots[i] = csc_slot_guard(&f->owner);
        csc_slot_pin(slots[i], contents[i]);
    }
    view = look(&f->owner, pins, 6);
    assert_int_equal(view.pin_count, 6);
    assert_false(view.overflow);
    assert_true(view.epoch_min == UINT64_MAX);
    for (int i = 0; i < 6; i++) {
        assert_true(csc_slots_view_pins(&view, contents[i]));
        assert_true(csc_slots_pinned(&f->owner, contents[i]));
    }
    assert_false(csc_slots_view_pins(&view, 4));
    assert_false(csc_slots_pinned(&f->owner, 4));
    csc_slot_release(slots[1]);
    assert_true(csc_slots_pinned(&f->owner, 3)); /* its other pin stands */
    csc_slot_release(slots[4]);
    assert_false(csc_slots_pinned(&f->owner, 3));
    view = look(&f->owner, pins, 6);
    assert_int_equal(view.pin_count, 4);
    assert_false(csc_slots_view_pins(&view, 3));
    /* No room for all of them: every content counts as pinned. */
    view = look(&f->owner, pins, 3);
    assert_true(view.overflow);
    assert_true(csc_slots_view_pins(&view, 4));
    view = look(&f->owner, pins, 0);
    assert_true(csc_slots_view_pins(&view, 4));
}

/* Clients have areas of their own, looked at while they are claimed. */
static void test_areas(void **state)
{
    fixture *f = *state;
    csc_slots client;
    csc_slot *slot;
    uint32_t pins[8];
    csc_slots_view view;

    csc_slots_attach(&client, f->region, 31, NULL);
    atomic_store(&client.claims[31], 4711);
    atomic_store(f->owner.epoch, 5);
    slot = csc_slot_guard(&client);
    assert_non_null(slot);
    assert_in_range(slot - client.words, 31 * CSC_AREA_SLOTS, 32 * CSC_AREA_SLOTS - 1);
    view = look(&f->owner, pins, 8);
    assert_int_equal(view.epoch_min, 5);
    csc_slot_pin(slot, 99);
    view = look(&f->owner, pins, 8);
    assert_true(csc_slots_view_pins(&view, 99));
    assert_true(csc_slots_pinned(&f->owner, 99));
    for (uint32_t i = 1; i < CSC_AREA_SLOTS; i++)
        assert_non_null(csc_slot_guard(&client));
    assert_null(csc_slot_guard(&client));
    assert_non_null(csc_slot_guard(&f->owner)); /* the owner's are its own */
    atomic_store(&client.claims[31], 0);
    assert_false(csc_slots_pinned(&f->owner, 99));
}

/* ---- threads ------------------------------------------------------------------------------------ */

enum { THREADS = 4, TAKES = 4000, HELD = 700 };

typedef struct crowd {
    csc_slots *slots;
    _Atomic uint32_t holders[CSC_AREA_SLOTS];
    _Atomic uint32_t doubly, refused, unseen;
} crowd;

static void give(crowd *all, csc_slot *slot)
{
    atomic_store(&all->holders[slot - all->slots->words], 0);
    csc_slot_release(slot);
}

static void *take_and_give(void *context)
{
    crowd *all = context;
    csc_slot *held[HELD] = {0};
    uint32_t pins[CSC_AREA_SLOTS];

    for (uint32_t i = 0; i < TAKES; i++) {
        csc_slot **place = &held[i * 7919 % HELD];

        if (*place)
            give(all, *place);
        *place = csc_slot_guard(all->slots);
        if (!*place) {
            atomic_fetch_add(&all->refused, 1);
            continue;
        }
        if (atomic_fetch_add(&all->holders[*place - all->slots->words], 1) != 0)
            atomic_fetch_add(&all->doubly, 1);
        /* What has been claimed is seen, however high it lies. */
        if (i % 64 == 0 && look(all->slots, pins, CSC_AREA_SLOTS).epoch_min == UINT64_MAX)
            atomic_fetch_add(&all->unseen, 1);
        if (i % 16 == 0) {
            csc_slot_pin(*place, i);
            if (!csc_slots_pinned(all->slots, i))
                atomic_fetch_add(&all->unseen, 1);
        }
    }
    for (uint32_t i = 0; i < HELD; i++)
        if (held[i])
            give(all, held[i]);
    return NULL;
}

static void test_threads(void **state)
{
    fixture *f = *state;
    crowd *all = calloc(1, sizeof *all);
    pthread_t threads[THREADS];
    uint32_t pins[1];

    assert_non_null(all);
    all->slots = &f->owner;
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, take_and_give, all), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&all->doubly), 0);
    assert_int_equal(atomic_load(&all->refused), 0); /* never more than THREADS * HELD at once */
    assert_int_equal(atomic_load(&all->unseen), 0);
    assert_true(look(&f->owner, pins, 1).epoch_min == UINT64_MAX);
    for (uint32_t i = 0; i < CSC_AREA_SLOTS; i++)
        assert_int_equal(atomic_load(&f->owner.words[i]), 0);
    free(all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_exhaustion, setup, teardown),
        cmocka_unit_test_setup_teardown(test_oldest_guard, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pins, setup, teardown),
        cmocka_unit_test_setup_teardown(test_areas, setup, teardown),
        cmocka_unit_test_setup_teardown(test_threads, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
