/* SPDX-License-Identifier: MIT */
/* The simulator: golden hit ratios on a generated workload, and corners. */
#include "simulator.c" /* what is resident is looked at */

#include "policy/golden.h"

#include <string.h>

/* ---- the generated workload ---- */

enum { SESSIONS = 300, SESSION_BLOCKS = 160, PROMPTS = 6, GENERATED_REQUESTS = 6000 };

typedef struct chat {
    uint64_t ids[SESSION_BLOCKS];
    uint32_t count;
    uint32_t turns_left;
} chat;

static uint32_t random_below(uint32_t *seed, uint32_t bound)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)*seed * bound >> 32);
}

static void session_add(chat *session, uint64_t *next_id, uint32_t count)
{
    while (count-- > 0 && session->count < SESSION_BLOCKS)
        session->ids[session->count++] = (*next_id)++;
}

/* Chats in several turns, most of them short, that begin with one of a few shared system prompts; the
 * sooner a session spoke, the likelier it speaks next; a fifth of the requests are asked once only. */
static void generate(block_trace *trace)
{
    static chat sessions[SESSIONS], prompts[PROMPTS];
    uint64_t next_id = 1;
    uint32_t seed = 2024;

    memset(sessions, 0, sizeof sessions);
    memset(prompts, 0, sizeof prompts);
    for (uint32_t p = 0; p < PROMPTS; p++)
        session_add(&prompts[p], &next_id, 1 + p * 2);
    for (uint32_t r = 0; r < GENERATED_REQUESTS; r++) {
        uint32_t near = random_below(&seed, SESSIONS), rank = random_below(&seed, near + 1);
        bool once = random_below(&seed, 5) == 0;
        chat turn = sessions[rank];

        if (once || turn.turns_left == 0) {
            turn = prompts[random_below(&seed, PROMPTS)];
            session_add(&turn, &next_id, 1 + random_below(&seed, once ? 40 : 12));
            turn.turns_left = 1 + random_below(&seed, 1 + random_below(&seed, 12));
        } else {
            session_add(&turn, &next_id, 1 + random_below(&seed, 6));
        }
        turn.turns_left--;
        for (uint32_t i = 0; i < turn.count; i++)
            trace_add(trace, turn.ids[i]);
        trace_end_request(trace);
        if (once)
            continue;
        memmove(&sessions[1], &sessions[0], rank * sizeof sessions[0]);
        sessions[0] = turn;
    }
}

static void test_generated_workload(void **state)
{
    static const uint32_t capacities[] = {300, 600, 1200, 2400, 4800, UINT32_MAX};
    static const golden_row rows[] = {
        {"hazard", GOLDEN_HAZARD, {.3532, .4011, .4623, .5305, .5902, .6404}},
        {"lru", GOLDEN_EXACT, {.3402, .3942, .4559, .5246, .5835, .6404}},
        {"published", GOLDEN_EXACT, {.3184, .3295, .3442, .3709, .4285, .6404}},
    };
    block_trace trace = {0};

    (void)state;
    generate(&trace);
    check_golden(&trace, capacities, rows, 3);
    trace_free(&trace);
}

/* Whatever leaves or is refused, a block is resident only with all blocks before it. */
static void test_residents_are_whole_prefixes(void **state)
{
    block_trace trace = {0};

    (void)state;
    generate(&trace);
    for (int i = 0; i < 3; i++) {
        static const char *const policies[] = {"hazard", "lru", "published"};
        cascade_simulator *simulator = NULL;

        assert_int_equal(cascade_simulator_create(policies[i], 300, &simulator), CASCADE_OK);
        for (size_t r = 0; r < trace.requests; r++) {
            const uint64_t *ids = trace.ids + trace.starts[r];
            size_t count = trace.starts[r + 1] - trace.starts[r], residents = 0, hits;

            assert_int_equal(cascade_simulator_request(simulator, ids, count, &hits), CASCADE_OK);
            if (r % 20)
                continue;
            for (uint32_t b = 0; b < simulator->count; b++) {
                const sim_block *block = &simulator->blocks[b];

                residents += block->resident;
                if (block->resident && block->parent != NONE)
                    assert_true(simulator->blocks[block->parent].resident);
            }
            assert_true(residents <= 300);
            assert_int_equal(residents, csc_policy_resident_count(simulator->policy));
        }
        cascade_simulator_destroy(&simulator);
    }
    trace_free(&trace);
}

/* ---- corners ---- */

static void test_arguments(void **state)
{
    cascade_simulator *simulator = NULL;
    uint64_t id = 1;
    size_t hits = 77;

    (void)state;
    assert_int_equal(cascade_simulator_create("clock", 10, &simulator), CASCADE_EINVAL);
    assert_int_equal(cascade_simulator_create(NULL, 10, &simulator), CASCADE_EINVAL);
    assert_int_equal(cascade_simulator_create("lru", 0, &simulator), CASCADE_EINVAL);
    assert_int_equal(cascade_simulator_create("lru", 10, NULL), CASCADE_EINVAL);
    assert_null(simulator);
    assert_int_equal(cascade_simulator_create("lru", 10, &simulator), CASCADE_OK);
    assert_int_equal(cascade_simulator_request(NULL, &id, 1, &hits), CASCADE_EINVAL);
    assert_int_equal(cascade_simulator_request(simulator, NULL, 1, &hits), CASCADE_EINVAL);
    assert_int_equal(cascade_simulator_request(simulator, &id, 1, NULL), CASCADE_EINVAL);
    assert_int_equal(hits, 77);
    assert_int_equal(cascade_simulator_request(simulator, NULL, 0, &hits), CASCADE_OK);
    assert_int_equal(hits, 0);
    cascade_simulator_destroy(&simulator);
    cascade_simulator_destroy(&simulator);
    cascade_simulator_destroy(NULL);
}

static size_t request(cascade_simulator *simulator, const uint64_t *ids, size_t count)
{
    size_t hits = SIZE_MAX;

    assert_int_equal(cascade_simulator_request(simulator, ids, count, &hits), CASCADE_OK);
    return hits;
}

static void test_only_the_leading_run_counts(void **state)
{
    static const uint64_t ids[] = {UINT64_MAX, 0, 5, 6}, other[] = {UINT64_MAX, 9, 5, 6};

    (void)state;
    for (int i = 0; i < 3; i++) {
        static const char *const policies[] = {"hazard", "lru", "published"};
        cascade_simulator *simulator = NULL;

        assert_int_equal(cascade_simulator_create(policies[i], 3, &simulator), CASCADE_OK);
        assert_int_equal(request(simulator, ids, 4), 0);
        assert_int_equal(request(simulator, ids, 4), 3); /* the fourth found no room */
        assert_int_equal(request(simulator, other, 4), 1);
        cascade_simulator_destroy(&simulator);
    }
}

/* Ids that contradict the promise of one parent each, and repeat within a request. */
static void test_senseless_requests(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        static const char *const policies[] = {"hazard", "lru", "published"};
        cascade_simulator *simulator = NULL;
        uint32_t seed = 3;

        assert_int_equal(cascade_simulator_create(policies[i], 20, &simulator), CASCADE_OK);
        for (int r = 0; r < 20000; r++) {
            uint64_t ids[40];
            uint32_t count = random_below(&seed, 40), range = 1 + random_below(&seed, 60);

            for (uint32_t b = 0; b < count; b++)
                ids[b] = random_below(&seed, range) * UINT64_C(0x100000000);
            assert_true(request(simulator, ids, count) <= count);
        }
        cascade_simulator_destroy(&simulator);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_generated_workload), cmocka_unit_test(test_residents_are_whole_prefixes),
        cmocka_unit_test(test_arguments),          cmocka_unit_test(test_only_the_leading_run_counts),
        cmocka_unit_test(test_senseless_requests),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
