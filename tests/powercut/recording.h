/* SPDX-License-Identifier: MIT */
/*
 * What a workload did to its directory, in the order in which it did it. The store's threads make two
 * runs of one workload differ, but a recording, and each state built of it (states.h), is one and the
 * same for ever: it can be written to a file and read back.
 */
#ifndef CSC_POWERCUT_RECORDING_H
#define CSC_POWERCUT_RECORDING_H

#include "base/io.h"

#define PC_NAME_BYTES 64u

/** How the recorded store was opened. */
typedef struct pc_setup {
    uint64_t seed, budget_bytes, segment_bytes;
    uint32_t ranks; /* key `n` is of rank n % ranks */
    uint32_t age_s;
    uint32_t is_encrypted;
    uint32_t failing_syncs; /* one sync in so many fails; 0: none */
    uint32_t ranks_before;  /* of the recording whose cut left the state it began with; 0: began anew */
} pc_setup;

/** What the workload says of itself, at its place among the writes (promises.h makes sense of it). */
typedef struct pc_note {
    enum {
        PC_PUT,       /* begun */
        PC_PUT_DONE,  /* acknowledged */
        PC_DELETE,    /* begun */
        PC_DELETED,   /* acknowledged */
        PC_FLUSHED,   /* of this rank: ended well */
        PC_GONE,      /* the store dropped it, and counted that */
        PC_LOOSE,     /* the store dropped its file copy, and holds it in dram alone */
        PC_CALL_DONE, /* one call of the workload, and a look for what was dropped */
        PC_MAY,       /* a second recording: what the first left: these bytes may be there */
        PC_MUST,      /* and nothing is not among what may be */
        PC_SEEN,      /* the open after the first cut found these bytes */
        PC_UNSEEN,    /* or nothing */
        PC_MARK       /* a marked point of the product */
    } what;
    uint32_t key, rank;
    uint64_t seed;
    uint32_t existed, durable; /* PC_PUT_DONE */
} pc_note;

enum pc_kind {
    PC_STEP_WRITE,
    PC_STEP_TRUNCATE,
    PC_STEP_SYNC,
    PC_STEP_BIND,
    PC_STEP_RENAME,
    PC_STEP_UNLINK,
    PC_STEP_SYNC_NAMES,
    PC_STEP_NOTE
};

typedef struct pc_step {
    enum pc_kind kind;
    uint32_t inode;
    uint64_t offset, bytes; /* TRUNCATE: the size in `offset` */
    uint8_t *data;
    char from[PC_NAME_BYTES], to[PC_NAME_BYTES]; /* BIND and UNLINK: `to` */
    size_t began;                                /* SYNC, SYNC_NAMES: the steps done when it began */
    bool failed;                                 /* the same: and it told its caller so */
    bool whole;                                  /* SYNC: of the size too, if that became smaller */
    size_t done;                                 /* WRITE, TRUNCATE: the step by which it was done */
    pc_note note;
} pc_step;

/** Starts an empty recording of a directory; `pc_calls` records from here. One at a time. */
void pc_record(const char *directory, const pc_setup *setup);
extern const csc_io_calls pc_calls;
/** Records what is in the directory, durable as it is, and takes it for the beginning: no cut is before
 * it. */
void pc_adopt(void);
void pc_say(pc_note note);
/** Whether syncs fail from here on, as often as the setup says; not after pc_record. What Linux does is
 * done: an error is told once through each descriptor that was open, and a later sync of the same bytes
 * succeeds without having written them. */
void pc_let_syncs_fail(bool yes);
/** Frees the recording. */
void pc_forget(void);

const pc_setup *pc_setup_now(void);
/** A power cut may come before any of the steps from `pc_first` on, or after the last. */
size_t pc_steps(void);
size_t pc_first(void);
const pc_step *pc_step_at(size_t step);
/** How many files there were. */
uint32_t pc_inodes(void);

/** Writes the recording to a file; reads one in place of what there is. They end the program if they
 * cannot. */
void pc_save(const char *path);
void pc_load(const char *path);

/** Pseudo-random numbers: advances `*state`. */
uint64_t pc_random(uint64_t *state);
/** Ends the program. */
_Noreturn void pc_die(const char *what);

#endif
