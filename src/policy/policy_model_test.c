/* SPDX-License-Identifier: MIT */
/*
 * Random calls against each policy, checked against a model that keeps plain arrays and looks at
 * everything. The model knows what must hold for every policy, and for LRU the very victim.
 */
#include "policy/policy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define NONE CSC_POLICY_NONE

enum { ITEMS = 300, STEPS = 60000 };

typedef struct model_state {
    bool resident[ITEMS];
    bool blocked[ITEMS];
    uint32_t children[ITEMS];
    uint64_t tick[ITEMS];     /* of the last use; 0: unknown */
    uint64_t sequence[ITEMS]; /* of arrival, in all */
    uint64_t now;
    uint64_t arrivals;
    uint32_t count;
} model_state;

static uint32_t random_below(uint32_t *seed, uint32_t bound)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)*seed * bound >> 32);
}

static bool passes(void *context, uint32_t item)
{
    assert_in_range(item, 0, ITEMS - 1);
    return !((model_state *)context)->blocked[item];
}

static bool may_go(const model_state *model, uint32_t item)
{
    return model->resident[item] && !model->blocked[item] && model->tick[item] != model->now;
}

/* Least recent tick first; within it, last come first. */
static bool goes_before(const model_state *model, uint32_t a, uint32_t b)
{
    if (model->tick[a] != model->tick[b])
        return model->tick[a] < model->tick[b];
    return model->sequence[a] > model->sequence[b];
}

static uint32_t least_recent(const model_state *model, bool leaf)
{
    uint32_t best = NONE;

    for (uint32_t i = 0; i < ITEMS; i++)
        if (may_go(model, i) && (model->children[i] == 0) == leaf)
            if (best == NONE || goes_before(model, i, best))
                best = i;
    return best;
}

static void model_use(model_state *model, uint32_t item)
{
    if (model->tick[item] != model->now || !model->resident[item])
        model->sequence[item] = ++model->arrivals;
    model->tick[item] = model->now;
}

static void check_victim(csc_policy *policy, model_state *model, bool exact)
{
    uint32_t victim = csc_policy_victim(policy, passes, model);
    uint32_t leaf = least_recent(model, true), inner = least_recent(model, false);

    if (exact)
        assert_int_equal(victim, leaf != NONE ? leaf : inner);
    if (leaf == NONE && inner == NONE) {
        assert_int_equal(victim, NONE);
        return;
    }
    assert_in_range(victim, 0, ITEMS - 1);
    assert_true(may_go(model, victim));
    assert_true(model->children[victim] == 0 || leaf == NONE);
}

static void step(csc_policy *policy, model_state *model, uint32_t *seed, bool exact)
{
    uint32_t item = random_below(seed, ITEMS);
    bool flag = random_below(seed, 2);
    int delta;

    switch (random_below(seed, 11)) {
    case 0:
        csc_policy_tick(policy);
        model->now++;
        break;
    case 1:
    case 2:
        csc_policy_touch(policy, item, flag);
        if (model->resident[item])
            model_use(model, item);
        break;
    case 3:
    case 4:
        assert_int_equal(csc_policy_insert(policy, item, random_below(seed, 1000), flag, !flag),
                         CASCADE_OK);
        model_use(model, item);
        model->count += !model->resident[item];
        model->resident[item] = true;
        break;
    case 5:
        csc_policy_evict(policy, item);
        model->count -= model->resident[item];
        model->resident[item] = false;
        break;
    case 6:
        csc_policy_refuse(policy, item, flag);
        model->count -= model->resident[item];
        model->resident[item] = false;
        break;
    case 7:
        if (random_below(seed, 4))
            break;
        csc_policy_forget(policy, item);
        model->count -= model->resident[item];
        model->resident[item] = false;
        model->children[item] = 0;
        break;
    case 8:
        delta = (int)random_below(seed, 4) - 2;
        assert_int_equal(csc_policy_children(policy, item, delta), CASCADE_OK);
        model->children[item] =
            (int)model->children[item] + delta < 0 ? 0 : (uint32_t)((int)model->children[item] + delta);
        break;
    case 9:
        if (!exact)
            csc_policy_set_shared(policy, item, flag);
        model->blocked[item] = random_below(seed, 8) != 0;
        break;
    default:
        check_victim(policy, model, exact);
        csc_policy_refuses(policy, random_below(seed, ITEMS), item, random_below(seed, 3), flag);
        if (random_below(seed, 500) == 0) /* now and then nearly all is blocked, or nothing */
            memset(model->blocked, flag, sizeof model->blocked);
    }
    assert_int_equal(csc_policy_resident_count(policy), model->count);
    assert_true(csc_policy_ghost_count(policy) <= 16u * 8);
}

static void random_calls(csc_policy_kind kind)
{
    for (uint32_t seed = 1; seed <= 5; seed++) {
        uint32_t state = seed;
        csc_policy *policy = NULL;
        model_state model = {0};

        assert_int_equal(csc_policy_create(kind, 8, seed, &policy), CASCADE_OK);
        csc_policy_tick(policy);
        model.now++;
        for (int i = 0; i < STEPS; i++)
            step(policy, &model, &state, kind == CSC_POLICY_LRU);
        csc_policy_destroy(&policy);
    }
}

static void test_hazard(void **state)
{
    (void)state;
    random_calls(CSC_POLICY_HAZARD);
}

static void test_lru_picks_the_models_victim(void **state)
{
    (void)state;
    random_calls(CSC_POLICY_LRU);
}

static void test_published(void **state)
{
    (void)state;
    random_calls(CSC_POLICY_PUBLISHED);
}

/* The same seed, the same calls: the same victims. Another seed: others. */
static void test_seed_decides(void **state)
{
    uint32_t differ = 0;

    (void)state;
    for (uint64_t other = 0; other < 2; other++) {
        csc_policy *a = NULL, *b = NULL;

        assert_int_equal(csc_policy_create(CSC_POLICY_HAZARD, 1000, 9, &a), CASCADE_OK);
        assert_int_equal(csc_policy_create(CSC_POLICY_HAZARD, 1000, 9 + other, &b), CASCADE_OK);
        for (uint32_t i = 0; i < 1000; i++) {
            csc_policy_tick(a);
            csc_policy_tick(b);
            assert_int_equal(csc_policy_insert(a, i, 1, false, false), CASCADE_OK);
            assert_int_equal(csc_policy_insert(b, i, 1, false, false), CASCADE_OK);
            uint32_t victim = csc_policy_victim(a, NULL, NULL);

            if (other == 0)
                assert_int_equal(victim, csc_policy_victim(b, NULL, NULL));
            else
                differ += victim != csc_policy_victim(b, NULL, NULL);
        }
        csc_policy_destroy(&a);
        csc_policy_destroy(&b);
    }
    assert_true(differ > 500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hazard),
        cmocka_unit_test(test_lru_picks_the_models_victim),
        cmocka_unit_test(test_published),
        cmocka_unit_test(test_seed_decides),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
