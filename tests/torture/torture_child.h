/* SPDX-License-Identifier: MIT */
/* What the two files of the child share: the store it runs, and how it tells. */
#ifndef CSC_TESTS_TORTURE_CHILD_H
#define CSC_TESTS_TORTURE_CHILD_H

#include "torture.h"

typedef struct torture_child {
    const child_plan *plan;
    const torture_oracle *oracle;
    cascade_store *store;
    cascade_id ids[KEY_COUNT]; /* of KEY_CONTENT alone */
    bool loaded;               /* the load has begun */
    uint64_t found[KEY_COUNT]; /* the states that verifying saw */
    bool doubtful[KEY_COUNT];  /* not to be touched */
} torture_child;

void child_tell(const torture_child *child, record_kind kind, unsigned worker, uint32_t key,
                uint64_t seed);
/** Prints what is wrong, with all that is known of the key, and ends the process. */
void child_violation(const torture_child *child, uint32_t key, const char *format, ...)
    __attribute__((noreturn, format(printf, 3, 4)));

/** Reads a key in one of several ways and checks its bytes. Returns 0 with `*seed` (0: no such block),
 * or the code of a read that others' changes disturbed. `room` holds TORTURE_BLOCK_MAX bytes. */
int child_observe(const torture_child *child, uint32_t key, random_state *random, uint8_t *room,
                  uint64_t *seed);

/** The load (torture_load.c): works until it is killed. */
void child_load(torture_child *child);

#endif
