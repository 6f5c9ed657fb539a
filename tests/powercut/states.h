/* SPDX-License-Identifier: MIT */
/*
 * The states that a power cut could leave of a recorded directory. The model is the weakest that POSIX
 * allows:
 *
 *   Bytes. A file's writes and truncations are durable once a sync that began after they were done has
 *   ended. Of the others any subset may have reached the disk, each whole or in some of its sectors;
 *   what is missing reads as before, or, where the file has grown, as zeros, or as what some removed
 *   file had in that space. A file that was made smaller may be as large as before even after a sync of
 *   its data (fdatasync).
 *
 *   What was done to a file before a sync of it failed, and was not durable by then, never is: the next
 *   sync succeeds and has not written it. The same with names, but not where two stores share them: one
 *   would never hear of the other's failure, so there a sync of the directory that fails did nothing. A
 *   removal is only put off by one: that it is in doubt the store knows until it is closed, and the next
 *   open does not, so that it may forget the deletes of what then comes back after a cut.
 *
 *   Names are durable once the directory was synced, whatever is known of the file's bytes. Of later
 *   changes either the first so many are there; or, for each name, the first so many of its own, where a
 *   rename happens or not; or the same with a rename taken as two changes, of the old name and the new.
 */
#ifndef CSC_POWERCUT_STATES_H
#define CSC_POWERCUT_STATES_H

#include <stddef.h>
#include <stdint.h>

/** A cut: before this step, and what of the unsynced is there, by `seed`. */
typedef struct pc_cut {
    size_t end;
    uint64_t seed;
} pc_cut;

/** State number `number` of the recording: half of the cuts are near steps where much may go wrong
 * (changes of names, truncations, syncs of the directory, the first writes into a file that is used
 * again, marked points). Depends on the recording and the number alone. */
pc_cut pc_cut_of(uint64_t number);

/** Makes the state in an empty directory; returns a hash of its names and bytes. */
uint64_t pc_build(pc_cut cut, const char *directory);

#endif
