/* SPDX-License-Identifier: MIT */
/*
 * Slots: how a reader tells the owner what it is looking at, without a lock or a system call.
 *
 * A slot is one word. A reader claims a free one as a *guard* (an epoch): no table entry retired in that
 * epoch or later is reused while the guard stands. It may turn the guard into a *pin* of a content: the
 * owner will not reuse that content's pages until the slot is free again. Guards are short; pins have no
 * time limit. The owner looks at all slots before it reuses anything. Words that order are seq_cst.
 */
#ifndef CSC_INDEX_SLOTS_H
#define CSC_INDEX_SLOTS_H

#include "format/arena_format.h"
#include <stdbool.h>

typedef _Atomic uint64_t csc_slot;

/** One process's view of the slots. */
typedef struct csc_slots {
    csc_slot *words;          /* all areas */
    _Atomic uint32_t *claims; /* who holds which area */
    _Atomic uint64_t *epoch;  /* the header's */
    uint32_t area;            /* where this process claims */
    _Atomic uint32_t *high;   /* owner only, else NULL: slots of its area ever used */
} csc_slots;

/** Claims a slot of the area as a guard of the current epoch. Returns NULL when all are taken. */
csc_slot *csc_slot_guard(csc_slots *slots);

/** Turns the guard into a pin; the caller then checks the content again. */
static inline void csc_slot_pin(csc_slot *slot, uint32_t content)
{
    atomic_store(slot, CSC_SLOT_PIN | content);
}

static inline void csc_slot_release(csc_slot *slot)
{
    atomic_store_explicit(slot, 0, memory_order_release);
}

/** What the owner sees in one look over its own area and all claimed ones. */
typedef struct csc_slots_view {
    uint64_t epoch_min; /* the oldest guard, UINT64_MAX when none stands */
    uint32_t pin_count;
    uint32_t
        *pins; /* sorted contents, room for all slots of CSC_SLOT_AREAS areas is the caller's affair */
    uint32_t room;
    bool overflow; /* more pins than room: treat everything as pinned */
} csc_slots_view;

void csc_slots_look(const csc_slots *slots, csc_slots_view *view);

/** Whether the view holds a pin of `content`. */
bool csc_slots_view_pins(const csc_slots_view *view, uint32_t content);

/** Whether any slot pins `content` now. */
bool csc_slots_pinned(const csc_slots *slots, uint32_t content);

/** Points a csc_slots into a mapping of the arena, claiming from `area`. `high`: owner only. */
void csc_slots_attach(csc_slots *slots, void *arena_base, uint32_t area, _Atomic uint32_t *high);

#endif
