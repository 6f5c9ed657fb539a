/* SPDX-License-Identifier: MIT */
#include "store/touch.h"
#include "base/fail.h"

#include <stdbool.h>
#include <stdlib.h>

int csc_touch_init(csc_touch *touch)
{
    touch->ring = calloc(CSC_TOUCH_RING, sizeof *touch->ring);
    return touch->ring ? 0 : csc_fail(CASCADE_ENOMEM, "no memory for the touch ring");
}

void csc_touch_destroy(csc_touch *touch)
{
    free(touch->ring);
    touch->ring = NULL;
}

void csc_touch_drain(csc_touch *touch, void (*see)(void *context, uint64_t note, uint32_t before),
                     void *context)
{
    uint64_t head = atomic_load_explicit(&touch->head, memory_order_relaxed);
    uint32_t before = CSC_POLICY_NONE;

    if (head - touch->tail > CSC_TOUCH_RING)
        touch->tail = head - CSC_TOUCH_RING;
    for (; touch->tail < head; touch->tail++) {
        uint64_t note = atomic_exchange_explicit(&touch->ring[touch->tail % CSC_TOUCH_RING], 0,
                                                 memory_order_acquire);

        /* 0: reserved and not written yet, or lapped. Forgotten. */
        if (note)
            see(context, note, note & CSC_TOUCH_CHAIN ? before : CSC_POLICY_NONE);
        before = note & (CSC_TOUCH_ITEM | CSC_TOUCH_FROM) ? (uint32_t)note : CSC_POLICY_NONE;
    }
}
