/* SPDX-License-Identifier: MIT */
/* What dram alone holds when the store is closed. No lock held. */
#ifndef CSC_STORE_SHED_H
#define CSC_STORE_SHED_H

#include <cascade/cascade.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct csc_shed {
    uint32_t *numbers; /* contents sent down */
    size_t count;
    uint64_t dropped;
} csc_shed;

/** Sends down those that are worth more than what they push out of the files. All else was flushed. */
void csc_shed_send_down(cascade_store *store, csc_shed *shed);
/** There was no room for them, and the writer has stopped: they are not waited for. Whether nothing else
 * is dirty. */
bool csc_shed_let_go(cascade_store *store, csc_shed *shed);
/** Counts and tells how many are left out, if dram goes: a close that fails keeps it. */
void csc_shed_end(cascade_store *store, csc_shed *shed, bool dram_goes);

#endif
