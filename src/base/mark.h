/* SPDX-License-Identifier: MIT */
/*
 * Marked points: places between two stores where a kill must do no harm. A test sets the hook and stops
 * or kills the process there; otherwise a mark costs one predictable branch.
 */
#ifndef CSC_BASE_MARK_H
#define CSC_BASE_MARK_H

#include <stdatomic.h>
#include <stddef.h>

typedef void (*csc_mark_hook)(const char *name);

extern _Atomic(csc_mark_hook) csc_mark_hook_now;

static inline void csc_mark(const char *name)
{
    /* Acquired: the hook finds what was set before it was. */
    csc_mark_hook hook = atomic_load_explicit(&csc_mark_hook_now, memory_order_acquire);

    if (__builtin_expect(hook != NULL, 0))
        hook(name);
}

#endif
