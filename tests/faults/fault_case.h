/* SPDX-License-Identifier: MIT */
/* One fault under one session of a store, in a process of its own, and what came of it. */
#ifndef CSC_FAULTS_FAULT_CASE_H
#define CSC_FAULTS_FAULT_CASE_H

#include "faults.h"

typedef struct fault_case {
    fault_operation operation;
    fault_kind kind;
    unsigned first; /* call, from 1 */
    bool lasting;
    uint64_t seed;
    bool ring;
    bool fresh;       /* begins without a store */
    bool lose_memory; /* after a close that failed */
    bool none;        /* no fault: counts calls */
} fault_case;

/* What a case saw; in memory that its process shares with the sweep. Codes are bits: 1 << -code. */
typedef struct fault_outcome {
    char broken[400]; /* the promise; "" is none */
    unsigned hits;
    unsigned counts[FAULT_OPERATIONS];
    uint32_t open_codes, flush_codes, gc_codes, get_codes, verify_codes;
    bool missed, reread;
} fault_outcome;

/** Makes the store that sessions begin with; fault_cases_end removes it. */
void fault_cases_begin(void);
void fault_cases_end(void);
fault_outcome fault_case_run(const fault_case *c);

#endif
