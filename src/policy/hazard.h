/* SPDX-License-Identifier: MIT */
/*
 * What the traffic teaches about reuse: for each class of block and each age since its last use, how
 * many hits a slot kept for it earns per tick. Knows nothing of residents, ghosts or forests; the
 * policy tells it when a block is born, used again, or lost from sight. docs/policy.md states the rule.
 */
#ifndef CSC_POLICY_HAZARD_H
#define CSC_POLICY_HAZARD_H

#include <stdbool.h>
#include <stdint.h>

typedef struct csc_hazard csc_hazard;

/* A tick as a mark holds it. */
#define CSC_HAZARD_TICK(clock) ((clock) & ((UINT64_C(1) << 47) - 1))

/* What is remembered of one block, inside the caller's record of it: 8 bytes. */
typedef struct csc_hazard_mark {
    uint64_t last : 47; /* tick of the last use: lasts four years at a million a second */
    uint64_t class : 6; /* as of the last use; the living are counted under it */
    uint64_t reuse : 4; /* uses after the first, saturating at 9 */
    uint64_t pace : 7;  /* running mean of the gaps, in age buckets; meaningless while reuse is 0 */
} csc_hazard_mark;

/** NULL when memory is exhausted. */
csc_hazard *csc_hazard_create(void);
void csc_hazard_destroy(csc_hazard *hazard);

/** The next tick has begun. Every so often the values are computed anew here. */
void csc_hazard_tick(csc_hazard *hazard);

/** A block seen for the first time. */
void csc_hazard_born(csc_hazard *hazard, csc_hazard_mark *mark, bool tail);
/** A block, born before, used again. A second use in one tick teaches nothing and only adds `tail`. */
void csc_hazard_used(csc_hazard *hazard, csc_hazard_mark *mark, bool tail);
/** A block is watched no longer, and had not been used again up to now. */
void csc_hazard_lost(csc_hazard *hazard, const csc_hazard_mark *mark);

/** Hits per tick that a slot kept for the block will earn. */
float csc_hazard_value(const csc_hazard *hazard, const csc_hazard_mark *mark);
/** The same if the block were used now; `mark` is NULL for a block never seen. */
float csc_hazard_value_if_used(const csc_hazard *hazard, const csc_hazard_mark *mark, bool tail);
/** Whether values were ever computed; until then all are 0. */
bool csc_hazard_learned(const csc_hazard *hazard);

#endif
