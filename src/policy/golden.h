/* SPDX-License-Identifier: MIT */
/*
 * For the tests of the simulator: a trace in memory, and golden hit ratios. LRU and the published rule
 * are exact to the hit. Hazard computes in floating point, which compilers may contract differently; one
 * other choice then changes all later ones, as another seed would, so that it gets a seed's margin.
 */
#ifndef CSC_POLICY_GOLDEN_H
#define CSC_POLICY_GOLDEN_H

#include <cascade/simulator.h>

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define GOLDEN_EXACT  0.00005 /* four digits */
#define GOLDEN_HAZARD 0.003

typedef struct block_trace {
    uint64_t *ids;
    size_t count;
    size_t room;
    size_t *starts; /* request r is ids[starts[r] .. starts[r + 1]) */
    size_t requests;
    size_t requests_room;
} block_trace;

static inline void trace_add(block_trace *trace, uint64_t id)
{
    if (trace->count == trace->room) {
        trace->room = trace->room ? 2 * trace->room : 4096;
        trace->ids = realloc(trace->ids, trace->room * sizeof *trace->ids);
        assert_non_null(trace->ids);
    }
    trace->ids[trace->count++] = id;
}

/* Ends the request that the last ids belong to. */
static inline void trace_end_request(block_trace *trace)
{
    if (trace->requests + 2 > trace->requests_room) {
        trace->requests_room = trace->requests_room ? 2 * trace->requests_room : 1024;
        trace->starts = realloc(trace->starts, trace->requests_room * sizeof *trace->starts);
        assert_non_null(trace->starts);
        trace->starts[0] = 0;
    }
    trace->starts[++trace->requests] = trace->count;
}

static inline void trace_free(block_trace *trace)
{
    free(trace->ids);
    free(trace->starts);
}

static inline double hit_ratio(const block_trace *trace, const char *policy, uint32_t capacity_blocks)
{
    cascade_simulator *simulator = NULL;
    size_t hits = 0;

    assert_int_equal(cascade_simulator_create(policy, capacity_blocks, &simulator), CASCADE_OK);
    for (size_t r = 0; r < trace->requests; r++) {
        size_t run = SIZE_MAX, count = trace->starts[r + 1] - trace->starts[r];

        assert_int_equal(
            cascade_simulator_request(simulator, trace->ids + trace->starts[r], count, &run),
            CASCADE_OK);
        assert_true(run <= count);
        hits += run;
    }
    cascade_simulator_destroy(&simulator);
    assert_null(simulator);
    return (double)hits / (double)trace->count;
}

typedef struct golden_row {
    const char *policy;
    double margin;
    double ratios[6];
} golden_row;

static inline void check_golden(const block_trace *trace, const uint32_t *capacities,
                                const golden_row *rows, int row_count)
{
    int wrong = 0;

    for (int row = 0; row < row_count; row++)
        for (int i = 0; i < 6; i++) {
            double ratio = hit_ratio(trace, rows[row].policy, capacities[i]);

            if (fabs(ratio - rows[row].ratios[i]) <= rows[row].margin)
                continue;
            print_error("# %s, %u blocks: hit ratio %.4f instead of %.4f\n", rows[row].policy,
                        capacities[i], ratio, rows[row].ratios[i]);
            wrong++;
        }
    assert_int_equal(wrong, 0);
}

#endif
