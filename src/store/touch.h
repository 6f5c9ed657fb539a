/* SPDX-License-Identifier: MIT */
/*
 * Touches on their way to the policy: readers note what they used without a lock, whoever holds the
 * store's lock passes the notes on. A ring that forgets the oldest when it is lapped: a lost touch costs
 * a little accuracy, a lock would cost every reader.
 *
 * The store has a ring of its own, and each client one in the arena (format/arena_format.h). A client
 * may write anything there: whoever is told of a note checks the number in it.
 */
#ifndef CSC_STORE_TOUCH_H
#define CSC_STORE_TOUCH_H

#include "policy/policy.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define CSC_TOUCH_RING 65536u
#define CSC_TOUCH_TICK (UINT64_C(1) << 63) /* a request begins */
#define CSC_TOUCH_TAIL (UINT64_C(1) << 62) /* last block of its request */
#define CSC_TOUCH_ITEM (UINT64_C(1) << 61) /* low 32 bits: the item */
/* Notes of a match are in the order of its blocks. */
#define CSC_TOUCH_MATCH (UINT64_C(1) << 60) /* an item found by a match */
#define CSC_TOUCH_CHAIN (UINT64_C(1) << 59) /* it follows the item of the note before */
#define CSC_TOUCH_FROM  (UINT64_C(1) << 58) /* no touch: low 32 bits: what the next note follows */
/* Of a client, which cannot write leases itself: low 32 bits: the item that one is given up on. */
#define CSC_TOUCH_LEASE_END (UINT64_C(1) << 57)
/* Of a client too: its match ended early, others may have written what is missing. */
#define CSC_TOUCH_LOOK (UINT64_C(1) << 56)

typedef struct csc_touch {
    _Atomic uint64_t *ring;
    _Atomic uint64_t *head; /* next to write */
    uint64_t room;          /* of the ring, a power of two */
    uint64_t tail;          /* next to read; the store's lock */
    _Atomic bool matched;   /* a match began the request at hand */
    _Atomic uint64_t own_head;
} csc_touch;

/** The store's own ring. */
int csc_touch_init(csc_touch *touch);
/** A ring in the arena: written here by a client, or read here by the owner. */
void csc_touch_attach(csc_touch *touch, _Atomic uint64_t *ring, _Atomic uint64_t *head);
void csc_touch_destroy(csc_touch *touch);

/** Takes `count` places in a row; write each with csc_touch_note. */
static inline uint64_t csc_touch_reserve(csc_touch *touch, uint64_t count)
{
    return atomic_fetch_add_explicit(touch->head, count, memory_order_relaxed);
}

static inline void csc_touch_note(csc_touch *touch, uint64_t place, uint64_t note)
{
    atomic_store_explicit(&touch->ring[place & (touch->room - 1)], note, memory_order_release);
}

/** Passes all notes on, oldest first, each with the item that it follows in a chain (CSC_POLICY_NONE:
 * none). The store's lock is held. */
void csc_touch_drain(csc_touch *touch, void (*see)(void *context, uint64_t note, uint32_t before),
                     void *context);

#endif
