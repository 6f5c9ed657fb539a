/* SPDX-License-Identifier: MIT */
#include "promises.h"

#include "recording.h"

#include <string.h>

/* A drop is said after the call during which it happened, or, if it happened while the store was looked
 * at for drops, after the next. */
#define GONE_CALLS 2u

/* While the store drops blocks it may also give up the file copies of others that dram holds, and write
 * them again: what is looked at after each call does not tell. So a call that drops anything promises no
 * block until it has ended. */

static void may(pc_promise *p, uint64_t seed)
{
    for (uint32_t i = 0; i < p->may_count; i++)
        if (p->may[i] == seed)
            return;
    if (p->may_count == PC_MAY_MAX)
        pc_die("too many contents may be under one key");
    p->may[p->may_count++] = seed;
}

static void is_only(pc_promise *p, uint64_t seed)
{
    p->may[0] = seed;
    p->may_count = 1;
    p->must = true;
}

static void is_none(pc_promise *p)
{
    p->may_count = 0;
    p->must = false;
}

static void flushed(pc_promise *promises, const bool *dropped, uint32_t rank)
{
    for (uint32_t key = 0; key < PC_KEYS; key++) {
        pc_promise *p = &promises[key];

        if (key % pc_setup_now()->ranks != rank)
            continue;
        /* Without a delete's record a torn one of an earlier put stays, a miss whenever it is read. */
        if (p->bound || p->is_deleted)
            p->may_tear = false;
        if (p->bound)
            is_only(p, p->bound_seed);
        else if (!dropped[key]) /* a drop is no promise: what was dropped may come back */
            is_none(p);
    }
}

static void take(pc_promise *promises, bool *dropped, const pc_note *note)
{
    pc_promise *p = &promises[note->key];

    switch (note->what) {
    case PC_PUT:
        may(p, note->seed);
        p->may_tear = true;
        break;
    case PC_PUT_DONE:
        if (!note->existed) {
            p->bound = true;
            p->bound_seed = note->seed;
            p->is_deleted = false;
            dropped[note->key] = false;
        }
        if (note->durable && p->bound)
            is_only(p, p->bound_seed);
        break;
    case PC_DELETED:
        p->bound = false;
        p->is_deleted = true;
        dropped[note->key] = false;
        break;
    case PC_FLUSHED:
        flushed(promises, dropped, note->rank);
        break;
    case PC_GONE:
        p->bound = p->must = false;
        dropped[note->key] = true;
        break;
    case PC_DELETE:
    case PC_LOOSE:
        p->must = false;
        break;
    case PC_MAY:
        may(p, note->seed);
        p->may_tear = true;
        break;
    case PC_MUST:
        p->must = true;
        break;
    case PC_SEEN:
        is_only(p, note->seed);
        p->bound = true;
        p->bound_seed = note->seed;
        break;
    case PC_UNSEEN:
        is_none(p);
        p->may_tear = true;
        break;
    case PC_CALL_DONE:
    case PC_MARK:
        break;
    }
}

void pc_promises_at(size_t end, pc_promise promises[PC_KEYS])
{
    bool dropped[PC_KEYS] = {false};
    unsigned calls = 0;
    bool drops = false;

    memset(promises, 0, PC_KEYS * sizeof *promises);
    for (size_t i = 0; i < end; i++)
        if (pc_step_at(i)->kind == PC_STEP_NOTE)
            take(promises, dropped, &pc_step_at(i)->note);
    for (size_t i = end; i < pc_steps() && calls < GONE_CALLS; i++) {
        const pc_step *s = pc_step_at(i);

        if (s->kind != PC_STEP_NOTE)
            continue;
        calls += s->note.what == PC_CALL_DONE;
        if (s->note.what == PC_GONE || s->note.what == PC_LOOSE)
            drops |= promises[s->note.key].must;
    }
    for (uint32_t key = 0; drops && key < PC_KEYS; key++)
        promises[key].must = false;
}

void pc_promises_say(const pc_promise promises[PC_KEYS])
{
    for (uint32_t key = 0; key < PC_KEYS; key++) {
        for (uint32_t i = 0; i < promises[key].may_count; i++)
            pc_say((pc_note){.what = PC_MAY, .key = key, .seed = promises[key].may[i]});
        if (promises[key].must)
            pc_say((pc_note){.what = PC_MUST, .key = key});
    }
}
