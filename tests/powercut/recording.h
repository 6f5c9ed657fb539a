/* SPDX-License-Identifier: MIT */
/*
 * What a workload did to its directory, and the states that a power cut could leave of it.
 *
 * The model is the weakest that POSIX allows. A file's writes and truncations are durable once a sync
 * that began after they were done has ended; of the others any subset may have reached the disk, each
 * whole or in any subset of its sectors, and what is missing reads as before, or as zeros. Names are
 * durable once the directory was synced; of later changes of names any may be missing, but of one name
 * those after a missing one are missing too. A rename happens or not.
 */
#ifndef CSC_POWERCUT_RECORDING_H
#define CSC_POWERCUT_RECORDING_H

#include "base/io.h"

/** What the workload says of itself, at its place among the writes. */
typedef struct pc_note {
    enum { PC_PUT, PC_DELETE, PC_FLUSHED } what; /* begun; begun; ended well */
    uint64_t key, seed;
} pc_note;

/** Starts an empty recording of a directory; `pc_calls` records from here. One at a time. */
void pc_record(const char *directory);
extern const csc_io_calls pc_calls;
/** Adds a note; returns the step it has. */
size_t pc_say(pc_note note);
/** Frees the recording. */
void pc_forget(void);

/** How many steps there are. A power cut may come before any of them. */
size_t pc_steps(void);
/** The note at a step, or NULL if it is something else. */
const pc_note *pc_note_at(size_t step);

/** Makes, in an empty directory, one of the states that a cut before `step` could leave. */
void pc_build(size_t step, uint64_t seed, const char *directory);

/** Pseudo-random numbers: advances `*state`. */
uint64_t pc_random(uint64_t *state);

#endif
