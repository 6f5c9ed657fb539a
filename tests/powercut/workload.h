/* SPDX-License-Identifier: MIT */
/* A store put to hard use while it is recorded. All of it follows from a seed but for what threads do.
 */
#ifndef CSC_POWERCUT_WORKLOAD_H
#define CSC_POWERCUT_WORKLOAD_H

#include "recording.h"

#include <cascade/cascade.h>

/** Where all files of the run are. */
void pc_set_base(const char *path);
/** A path below; the last few calls' results stay. */
const char *pc_place(const char *name);
/** Removes a directory below with all that is in it; `make`: and makes it anew. */
void pc_clear(const char *name, bool make);

/** Opens a rank of the store in the directory `where` below, its arena in `shm` below. */
int pc_open(const char *where, const char *shm, const pc_setup *setup, uint32_t rank, bool is_recorded,
            cascade_store **store);
/** Puts the block that the seed gives. */
int pc_put(cascade_store *store, uint64_t key, uint64_t seed, uint32_t flags, bool *existed);
/** What is under a key: 1: the block of `seeds[*which]`; 0: nothing; -1: something else, which `*code`
 * tells (0: other bytes). `is_torn`: a record seemed to be there until it was read. */
int pc_get(cascade_store *store, uint64_t key, const uint64_t *seeds, size_t count, size_t *which,
           bool *is_torn, int *code);

/** How a run of this seed uses its store. */
pc_setup pc_setup_of(uint64_t seed);
/** Records a run in "work", from an empty directory on. */
void pc_run(const pc_setup *setup);
/** Records a few more calls on a store of rank 0 that was opened on what a cut had left, and closes it.
 */
void pc_run_more(cascade_store *store, const char *where, const char *shm, uint64_t seed);

#endif
