/* SPDX-License-Identifier: MIT */
/* Opens a state, and holds the store to its promises. */
#ifndef CSC_POWERCUT_CHECK_H
#define CSC_POWERCUT_CHECK_H

#include "promises.h"

#include <cascade/cascade.h>

/** Looks at every key; `found` is what there was, as a promise for later. 0: all is well; else the error
 * stream tells. */
int pc_check_keys(cascade_store *store, const pc_promise promises[PC_KEYS], pc_promise found[PC_KEYS]);

/** Opens and checks the state in `where`; `number` says how thoroughly. 0: all is well. */
int pc_check_state(const char *where, const char *shm, const pc_promise promises[PC_KEYS],
                   uint64_t number);

#endif
