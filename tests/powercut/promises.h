/* SPDX-License-Identifier: MIT */
/*
 * What a store has promised by a step of its recording: for each key, the contents that may be found
 * under it, and whether one of them has to be.
 *
 *   - A put that was acknowledged, and after which a flush (or the durable put itself) ended well, is
 *     there, until a delete of it begins, or the store drops it and counts that.
 *   - A delete that was acknowledged and flushed stays.
 *   - In between there is the one or the other, and never anything else.
 *
 * After a cut what an open has found is a promise as well: the next open, or the next cut, changes
 * nothing about it.
 */
#ifndef CSC_POWERCUT_PROMISES_H
#define CSC_POWERCUT_PROMISES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PC_KEYS    48u
#define PC_MAY_MAX 32u

typedef struct pc_promise {
    uint64_t may[PC_MAY_MAX]; /* contents that may be there, by their seeds */
    uint32_t may_count;
    bool must;       /* one of them */
    bool may_tear;   /* there may be a record that is found out to be torn when it is read */
    bool bound;      /* as the workload saw it */
    bool is_deleted; /* and not put since */
    uint64_t bound_seed;
} pc_promise;

/** For a cut before `end`. */
void pc_promises_at(size_t end, pc_promise promises[PC_KEYS]);
/** Says a promise in the recording, as its beginning. */
void pc_promises_say(const pc_promise promises[PC_KEYS]);

#endif
