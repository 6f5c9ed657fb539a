/* SPDX-License-Identifier: MIT */
#include "store/touch.h"
#include "base/fail.h"
#include "format/arena_format.h"

#include <stdbool.h>
#include <stdlib.h>

int csc_touch_init(csc_touch *touch)
{
    touch->ring = calloc(CSC_TOUCH_RING, sizeof *touch->ring);
    touch->head = &touch->own_head;
    touch->room = CSC_TOUCH_RING;
    return touch->ring ? 0 : csc_fail(CASCADE_ENOMEM, "no memory for the touch ring");
}

void csc_touch_attach(csc_touch *touch, _Atomic uint64_t *ring, _Atomic uint64_t *head)
{
    touch->ring = ring;
    touch->head = head;
    touch->room = CSC_AREA_NOTES;
}

void csc_touch_destroy(csc_touch *touch)
{
    if (touch->head == &touch->own_head)
        free(touch->ring);
    touch->ring = NULL;
}

void csc_touch_drain(csc_touch *touch, void (*see)(void *context, uint64_t note, uint32_t before),
                     void *context)
{
    uint64_t head = atomic_load_explicit(touch->head, memory_order_relaxed);
    uint32_t before = CSC_POLICY_NONE;

    /* Lapped, or another client has the ring and begins anew. */
    if (head - touch->tail > touch->room)
        touch->tail = head > touch->room ? head - touch->room : 0;
    for (; touch->tail != head; touch->tail++) {
        uint64_t note = atomic_exchange_explicit(&touch->ring[touch->tail & (touch->room - 1)], 0,
                                                 memory_order_acquire);

        /* 0: reserved and not written yet, or lapped. Forgotten. */
        if (note)
            see(context, note, note & CSC_TOUCH_CHAIN ? before : CSC_POLICY_NONE);
        before = note & (CSC_TOUCH_ITEM | CSC_TOUCH_FROM) ? (uint32_t)note : CSC_POLICY_NONE;
    }
}
