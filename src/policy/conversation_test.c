/* SPDX-License-Identifier: MIT */
/*
 * Golden hit ratios on the published conversation trace, which is not part of this repository: the file
 * named by CASCADE_TRACE, else one beside the repository, else the test is skipped.
 */
#include "policy/golden.h"

#include <string.h>

static FILE *file;

/* The numbers of "hash_ids": [...] of each line: all that is needed here of JSON. */
static void load(block_trace *trace)
{
    char *line = NULL;
    size_t room = 0;

    while (getline(&line, &room, file) > 0) {
        char *at = strstr(line, "\"hash_ids\":"), *end;

        assert_non_null(at);
        at = strchr(at, '[');
        assert_non_null(at);
        for (at++;; at = end + strspn(end, ", ")) {
            uint64_t id = strtoull(at, &end, 10);

            if (end == at)
                break;
            trace_add(trace, id);
        }
        trace_end_request(trace);
    }
    free(line);
}

static void test_conversation_trace(void **state)
{
    /* 1, 2, 5, 10, 20 and 40 % of 182,790 distinct blocks */
    static const uint32_t capacities[] = {1827, 3655, 9139, 18279, 36558, 73116};
    static const golden_row rows[] = {
        {"hazard", GOLDEN_HAZARD, {.1100, .1538, .2285, .2951, .3465, .3610}},
        {"lru", GOLDEN_EXACT, {.0525, .0793, .1958, .2789, .3453, .3604}},
        {"published", GOLDEN_EXACT, {.0582, .0834, .1267, .1949, .3069, .3591}},
    };
    block_trace trace = {0};

    (void)state;
    load(&trace);
    assert_int_equal(trace.requests, 12031);
    assert_int_equal(trace.count, 288500);
    check_golden(&trace, capacities, rows, 3);
    assert_true(fabs(hit_ratio(&trace, "hazard", UINT32_MAX) - 0.3664) < GOLDEN_EXACT);
    trace_free(&trace);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conversation_trace),
    };
    const char *path = getenv("CASCADE_TRACE");
    int failed;

    path = path ? path : getenv("CASCADE_TRACE_DEFAULT");
    file = path ? fopen(path, "r") : NULL;
    if (!file) {
        puts("1..0 # SKIP no trace file at hand: set CASCADE_TRACE to conversation_trace.jsonl");
        return 0;
    }
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    fclose(file);
    return failed;
}
