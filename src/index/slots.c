/* SPDX-License-Identifier: MIT */
#include "index/slots.h"

#include <stdlib.h>

/* Each thread starts its search where it last found a free slot, threads far apart. */
static _Thread_local uint32_t hint;
static _Atomic uint32_t next_hint;

static void raise_high(csc_slots *slots, uint32_t used)
{
    uint32_t seen = slots->high ? atomic_load(slots->high) : used;

    /* Before the slot is published, so that a look never misses it. */
    while (seen < used && !atomic_compare_exchange_weak(slots->high, &seen, used))
        ;
}

csc_slot *csc_slot_guard(csc_slots *slots)
{
    csc_slot *area = slots->words + (size_t)slots->area * CSC_AREA_SLOTS;
    uint64_t guard = CSC_SLOT_GUARD | (atomic_load(slots->epoch) & CSC_SLOT_EPOCH_MASK);

    if (hint == 0)
        hint = 1 + (atomic_fetch_add_explicit(&next_hint, 8, memory_order_relaxed) & 63u);
    for (uint32_t i = 0; i < CSC_AREA_SLOTS; i++) {
        uint32_t place = (hint - 1 + i) % CSC_AREA_SLOTS;
        uint64_t expected = 0;

        if (atomic_load_explicit(&area[place], memory_order_relaxed) != 0)
            continue;
        raise_high(slots, place + 1);
        if (atomic_compare_exchange_strong(&area[place], &expected, guard)) {
            hint = place + 1;
            return &area[place];
        }
    }
    return NULL;
}

static int compare_u32(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;

    return a < b ? -1 : a > b;
}

/* How many words of an area to look at: the owner's up to the highest used, a client's all or none. */
static uint32_t area_used(const csc_slots *slots, uint32_t area)
{
    if (area == slots->area && slots->high)
        return atomic_load(slots->high);
    return atomic_load(&slots->claims[area]) ? CSC_AREA_SLOTS : 0;
}

void csc_slots_look(const csc_slots *slots, csc_slots_view *view)
{
    view->epoch_min = UINT64_MAX;
    view->pin_count = 0;
    view->overflow = false;
    for (uint32_t area = 0; area < CSC_SLOT_AREAS; area++) {
        csc_slot *words = slots->words + (size_t)area * CSC_AREA_SLOTS;

        for (uint32_t i = 0, used = area_used(slots, area); i < used; i++) {
            uint64_t word = atomic_load(&words[i]);

            if (word & CSC_SLOT_PIN) {
                if (view->pin_count < view->room)
                    view->pins[view->pin_count++] = (uint32_t)word;
                else
                    view->overflow = true;
            } else if (word & CSC_SLOT_GUARD) {
                uint64_t epoch = word & CSC_SLOT_EPOCH_MASK;

                if (epoch < view->epoch_min)
                    view->epoch_min = epoch;
            }
        }
    }
    qsort(view->pins, view->pin_count, sizeof view->pins[0], compare_u32);
}

bool csc_slots_view_pins(const csc_slots_view *view, uint32_t content)
{
    return view->overflow || (view->pin_count && bsearch(&content, view->pins, view->pin_count,
                                                         sizeof view->pins[0], compare_u32) != NULL);
}

bool csc_slots_pinned(const csc_slots *slots, uint32_t content)
{
    for (uint32_t area = 0; area < CSC_SLOT_AREAS; area++) {
        csc_slot *words = slots->words + (size_t)area * CSC_AREA_SLOTS;

        for (uint32_t i = 0, used = area_used(slots, area); i < used; i++)
            if (atomic_load(&words[i]) == (CSC_SLOT_PIN | content))
                return true;
    }
    return false;
}

void csc_slots_attach(csc_slots *slots, void *arena_base, uint32_t area, _Atomic uint32_t *high)
{
    csc_arena_header *header = arena_base;
    char *region = (char *)arena_base + header->geometry.slots_offset;

    slots->claims = (void *)region;
    slots->words = (void *)(region + CSC_SLOT_CLAIMS_BYTES);
    slots->epoch = &header->epoch;
    slots->area = area;
    slots->high = high;
}
