/* SPDX-License-Identifier: MIT */
/* What each policy does in small, named situations. */
#include "policy/policy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define NONE CSC_POLICY_NONE

static csc_policy *make(csc_policy_kind kind, uint32_t capacity)
{
    csc_policy *policy = NULL;

    assert_int_equal(csc_policy_create(kind, capacity, 7, &policy), CASCADE_OK);
    return policy;
}

static void insert(csc_policy *policy, uint32_t item)
{
    assert_int_equal(csc_policy_insert(policy, item, 1, false, false), CASCADE_OK);
}

/* One request for a chain of items [first, first + count), head first. */
static void insert_chain(csc_policy *policy, uint32_t first, uint32_t count)
{
    csc_policy_tick(policy);
    for (uint32_t i = first; i < first + count; i++) {
        assert_int_equal(csc_policy_insert(policy, i, 1, i + 1 == first + count, false), CASCADE_OK);
        if (i > first)
            assert_int_equal(csc_policy_children(policy, i - 1, 1), CASCADE_OK);
    }
}

static void ticks(csc_policy *policy, int count)
{
    while (count-- > 0)
        csc_policy_tick(policy);
}

static bool only(void *context, uint32_t item)
{
    return item == *(uint32_t *)context;
}

static bool count_and_pass(void *context, uint32_t item)
{
    (void)item;
    ++*(uint32_t *)context;
    return true;
}

static bool count_and_stop(void *context, uint32_t item)
{
    (void)item;
    ++*(uint32_t *)context;
    return false;
}

static void test_names(void **state)
{
    csc_policy_kind kind = CSC_POLICY_LRU;

    (void)state;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(csc_policy_kind_parse(csc_policy_kind_name((csc_policy_kind)i), &kind),
                         CASCADE_OK);
        assert_int_equal(kind, i);
    }
    kind = CSC_POLICY_LRU;
    assert_int_equal(csc_policy_kind_parse("LRU", &kind), CASCADE_EINVAL);
    assert_int_equal(csc_policy_kind_parse("", &kind), CASCADE_EINVAL);
    assert_int_equal(csc_policy_kind_parse(NULL, &kind), CASCADE_EINVAL);
    assert_int_equal(kind, CSC_POLICY_LRU);
}

static void test_chain_leaves_from_its_tail(void **state)
{
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        csc_policy *policy = make((csc_policy_kind)kind, 100);

        insert_chain(policy, 0, 50);
        csc_policy_tick(policy);
        if (kind == CSC_POLICY_HAZARD)
            ticks(policy, 200); /* learned by now */
        for (uint32_t expected = 50; expected-- > 0;) {
            assert_int_equal(csc_policy_victim(policy, NULL, NULL), expected);
            csc_policy_evict(policy, expected);
            if (expected)
                assert_int_equal(csc_policy_children(policy, expected - 1, -1), CASCADE_OK);
        }
        assert_int_equal(csc_policy_victim(policy, NULL, NULL), NONE);
        csc_policy_destroy(&policy);
        assert_null(policy);
    }
}

static void test_tail_leaves_first_without_a_forest(void **state)
{
    csc_policy *policy = make(CSC_POLICY_LRU, 100);

    (void)state;
    csc_policy_tick(policy);
    for (uint32_t i = 0; i < 4; i++)
        insert(policy, i);
    csc_policy_tick(policy);
    csc_policy_touch(policy, 1, false);
    csc_policy_touch(policy, 2, true);
    csc_policy_touch(policy, 1, false); /* no second place in one tick */
    csc_policy_tick(policy);
    for (int i = 0; i < 4; i++) {
        static const uint32_t order[] = {3, 0, 2, 1};

        assert_int_equal(csc_policy_victim(policy, NULL, NULL), order[i]);
        csc_policy_evict(policy, order[i]);
    }
    csc_policy_destroy(&policy);
}

static void test_request_at_hand_stays(void **state)
{
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        csc_policy *policy = make((csc_policy_kind)kind, 100);

        ticks(policy, 100);
        for (uint32_t i = 0; i < 80; i++)
            insert(policy, i);
        assert_int_equal(csc_policy_victim(policy, NULL, NULL), NONE);
        csc_policy_tick(policy);
        for (uint32_t i = 0; i < 80; i++)
            if (i != 17)
                csc_policy_touch(policy, i, false);
        assert_int_equal(csc_policy_victim(policy, NULL, NULL), 17);
        csc_policy_destroy(&policy);
    }
}

static void test_filter_finds_the_one_that_may_go(void **state)
{
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        csc_policy *policy = make((csc_policy_kind)kind, 20000);
        uint32_t wanted, calls = 0;

        ticks(policy, 100);
        for (uint32_t i = 0; i < 10000; i++)
            insert(policy, i);
        insert_chain(policy, 10000, 3);
        csc_policy_tick(policy);
        for (wanted = 3; wanted < 10000; wanted += 1999)
            assert_int_equal(csc_policy_victim(policy, only, &wanted), wanted);
        wanted = 10000; /* an inner one, when no leaf may go */
        assert_int_equal(csc_policy_victim(policy, only, &wanted), wanted);
        assert_int_equal(csc_policy_victim(policy, count_and_stop, &calls), NONE);
        assert_in_range(calls, 10003, 10003 + 128);
        calls = 0;
        assert_int_not_equal(csc_policy_victim(policy, count_and_pass, &calls), NONE);
        assert_in_range(calls, 1, 32);
        csc_policy_destroy(&policy);
    }
}

/* Before anything is learned by age, then by value a byte; what is protected above all. */
static void test_worth(void **state)
{
    csc_policy *policy = make(CSC_POLICY_PUBLISHED, 100);
    csc_policy_worth old, young, kept, unknown;

    (void)state;
    csc_policy_tick(policy);
    insert(policy, 0);
    assert_int_equal(csc_policy_insert(policy, 1, 1, false, true), CASCADE_OK);
    csc_policy_tick(policy);
    insert(policy, 2);
    old = csc_policy_worth_of(policy, 0);
    kept = csc_policy_worth_of(policy, 1);
    young = csc_policy_worth_of(policy, 2);
    unknown = csc_policy_worth_of(policy, 77);
    assert_true(csc_policy_worth_compare(&old, &young) < 0);
    assert_true(csc_policy_worth_compare(&young, &kept) < 0);
    assert_true(csc_policy_worth_compare(&kept, &young) > 0);
    assert_true(csc_policy_worth_compare(&unknown, &old) < 0);
    assert_int_equal(csc_policy_worth_compare(&old, &old), 0);
    old.value = 1; /* as a policy that learns says */
    assert_true(csc_policy_worth_compare(&old, &young) > 0);
    csc_policy_destroy(&policy);
}

static void test_published_protects_shared(void **state)
{
    csc_policy *policy = make(CSC_POLICY_PUBLISHED, 100);

    (void)state;
    csc_policy_tick(policy);
    assert_int_equal(csc_policy_insert(policy, 0, 1, false, true), CASCADE_OK);
    insert(policy, 1);
    csc_policy_tick(policy);
    insert(policy, 2);
    csc_policy_tick(policy);
    csc_policy_set_shared(policy, 1, true);
    csc_policy_set_shared(policy, 77, true); /* unknown */
    assert_int_equal(csc_policy_resident_count(policy), 3);
    assert_int_equal(csc_policy_victim(policy, NULL, NULL), 2);
    csc_policy_set_shared(policy, 1, false);
    csc_policy_evict(policy, 2);
    csc_policy_tick(policy);
    assert_int_equal(csc_policy_victim(policy, NULL, NULL), 1);
    csc_policy_evict(policy, 1);
    assert_int_equal(csc_policy_victim(policy, NULL, NULL), 0); /* nothing else is left */
    csc_policy_destroy(&policy);
}

static void test_ghosts_are_bounded(void **state)
{
    csc_policy *policy = make(CSC_POLICY_HAZARD, 10);

    (void)state;
    for (uint32_t i = 0; i < 1000; i++) {
        csc_policy_tick(policy);
        if (i % 3) {
            insert(policy, i);
            csc_policy_evict(policy, i);
            csc_policy_evict(policy, i);
        } else {
            csc_policy_refuse(policy, i, false);
        }
        csc_policy_touch(policy, i, false);
        csc_policy_refuse(policy, i, false);
    }
    assert_int_equal(csc_policy_resident_count(policy), 0);
    assert_int_equal(csc_policy_ghost_count(policy), 160);
    csc_policy_set_capacity(policy, 2);
    assert_int_equal(csc_policy_ghost_count(policy), 32);
    insert(policy, 999); /* a ghost comes back */
    assert_int_equal(csc_policy_ghost_count(policy), 31);
    insert(policy, 0); /* one forgotten as well */
    assert_int_equal(csc_policy_ghost_count(policy), 31);
    assert_int_equal(csc_policy_resident_count(policy), 2);
    csc_policy_refuse(policy, 0, false); /* inserted already: leaves */
    assert_int_equal(csc_policy_resident_count(policy), 1);
    csc_policy_forget(policy, 0);
    csc_policy_forget(policy, 998);
    csc_policy_forget(policy, 5000000);
    assert_int_equal(csc_policy_ghost_count(policy), 30);
    csc_policy_destroy(&policy);
}

static void test_a_used_ghost_is_kept_longer(void **state)
{
    csc_policy *policy = make(CSC_POLICY_HAZARD, 1);

    (void)state;
    for (uint32_t i = 0; i < 16; i++) {
        csc_policy_tick(policy);
        csc_policy_refuse(policy, i, false);
    }
    csc_policy_tick(policy);
    csc_policy_touch(policy, 0, false);
    csc_policy_refuse(policy, 1, false);
    csc_policy_refuse(policy, 16, false); /* 2 falls out */
    assert_int_equal(csc_policy_ghost_count(policy), 16);
    csc_policy_forget(policy, 2);
    assert_int_equal(csc_policy_ghost_count(policy), 16);
    csc_policy_forget(policy, 0);
    csc_policy_forget(policy, 1);
    assert_int_equal(csc_policy_ghost_count(policy), 14);
    csc_policy_destroy(&policy);
}

static void test_children_known_before_their_parent(void **state)
{
    csc_policy *policy = make(CSC_POLICY_LRU, 10);

    (void)state;
    csc_policy_tick(policy);
    assert_int_equal(csc_policy_children(policy, 5, -3), CASCADE_OK); /* never below 0 */
    assert_int_equal(csc_policy_children(policy, 5, 1), CASCADE_OK);
    insert(policy, 5);
    csc_policy_tick(policy);
    insert(policy, 6);
    csc_policy_tick(policy);
    assert_int_equal(csc_policy_victim(policy, NULL, NULL), 6);
    csc_policy_forget(policy, 5); /* its child count with it */
    insert(policy, 5);
    csc_policy_tick(policy);
    csc_policy_touch(policy, 6, false);
    assert_int_equal(csc_policy_victim(policy, NULL, NULL), 5);
    assert_int_equal(csc_policy_insert(policy, NONE, 1, false, false), CASCADE_EINVAL);
    csc_policy_destroy(&policy);
}

/* Items [0, 8) are used every tick, others once: what a slot earns is plain. */
static csc_policy *taught(void)
{
    csc_policy *policy = make(CSC_POLICY_HAZARD, 1000);

    for (uint32_t t = 0; t < 640; t++) {
        csc_policy_tick(policy);
        for (uint32_t i = 0; i < 8; i++)
            insert(policy, i);
        insert(policy, 100 + t);
    }
    csc_policy_tick(policy);
    return policy;
}

static void test_hazard_keeps_what_earns_and_refuses_what_does_not(void **state)
{
    csc_policy *policy = taught();

    (void)state;
    for (int i = 0; i < 100; i++)
        assert_true(csc_policy_victim(policy, NULL, NULL) >= 100);
    assert_true(csc_policy_refuses(policy, 3, 5000, 1, false));
    assert_false(csc_policy_refuses(policy, 150, 5000, 1, false));
    assert_false(csc_policy_refuses(policy, NONE, 5000, 1, false));
    assert_false(csc_policy_refuses(policy, 9999, 5000, 1, false));
    csc_policy_evict(policy, 3); /* a ghost is still known to earn */
    assert_false(csc_policy_refuses(policy, 150, 3, 1, false));
    assert_true(csc_policy_refuses(policy, 4, 5000, 1, false));
    csc_policy_destroy(&policy);
}

static void test_hazard_weighs_by_bytes(void **state)
{
    csc_policy *policy = taught();
    uint32_t victim;

    (void)state;
    assert_true(csc_policy_refuses(policy, 3, 5000, 1, false));
    assert_int_equal(csc_policy_insert(policy, 3, UINT64_C(1) << 40, false, false), CASCADE_OK);
    csc_policy_tick(policy);
    for (uint32_t i = 0; i < 8; i++)
        csc_policy_touch(policy, i, false);
    csc_policy_tick(policy);
    assert_false(csc_policy_refuses(policy, 3, 5000, 1, false));
    /* The same block offered at a size that its hits do not pay for. */
    victim = 150;
    csc_policy_evict(policy, 4);
    assert_false(csc_policy_refuses(policy, victim, 4, 1, false));
    assert_true(csc_policy_refuses(policy, 5, 4, UINT64_C(1) << 40, false));
    csc_policy_destroy(&policy);
}

/* With nothing learned but "no hits" all values are equal: the oldest of 32 goes. */
static void test_sample_is_of_32_and_uniform(void **state)
{
    enum { LEAVES = 1000, TRIES = 20000 };
    static uint32_t counts[LEAVES];
    csc_policy *policy = make(CSC_POLICY_HAZARD, LEAVES);
    double mean_rank = 0, chi2 = 0;

    (void)state;
    for (uint32_t i = 0; i < LEAVES; i++) {
        csc_policy_tick(policy);
        insert(policy, i);
    }
    csc_policy_tick(policy);
    for (int i = 0; i < TRIES; i++)
        mean_rank += (double)csc_policy_victim(policy, NULL, NULL) / TRIES;
    assert_in_range((int)(mean_rank * 10), 280, 310); /* expected: 1000 / 33 - 1 = 29.3 */
    csc_policy_destroy(&policy);

    policy = make(CSC_POLICY_HAZARD, LEAVES);
    ticks(policy, 64);
    for (uint32_t i = 0; i < LEAVES; i++)
        insert(policy, i);
    csc_policy_tick(policy);
    memset(counts, 0, sizeof counts);
    for (int i = 0; i < TRIES; i++)
        counts[csc_policy_victim(policy, NULL, NULL)]++;
    for (int i = 0; i < LEAVES; i++)
        chi2 += (counts[i] - 20.0) * (counts[i] - 20.0) / 20.0;
    assert_in_range((int)chi2, 850, 1150); /* 999 degrees of freedom: within 3.4 sigma */
    csc_policy_destroy(&policy);
}

static void test_hazard_is_lru_before_it_learned(void **state)
{
    csc_policy *hazard = make(CSC_POLICY_HAZARD, 40), *lru = make(CSC_POLICY_LRU, 40);

    (void)state;
    for (uint32_t t = 0; t < 62; t++) {
        csc_policy *both[] = {hazard, lru};
        uint32_t victim[2];

        for (int i = 0; i < 2; i++) {
            csc_policy_tick(both[i]);
            for (uint32_t item = 10 * t; item < 10 * t + 10; item++)
                insert(both[i], item);
            csc_policy_touch(both[i], 10 * (t * 7 % (t + 1)), false);
            victim[i] = csc_policy_victim(both[i], NULL, NULL);
            if (csc_policy_resident_count(both[i]) > 200)
                csc_policy_evict(both[i], victim[i]);
        }
        assert_int_equal(victim[0], victim[1]);
    }
    csc_policy_destroy(&hazard);
    csc_policy_destroy(&lru);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_chain_leaves_from_its_tail),
        cmocka_unit_test(test_tail_leaves_first_without_a_forest),
        cmocka_unit_test(test_request_at_hand_stays),
        cmocka_unit_test(test_filter_finds_the_one_that_may_go),
        cmocka_unit_test(test_worth),
        cmocka_unit_test(test_published_protects_shared),
        cmocka_unit_test(test_ghosts_are_bounded),
        cmocka_unit_test(test_a_used_ghost_is_kept_longer),
        cmocka_unit_test(test_children_known_before_their_parent),
        cmocka_unit_test(test_hazard_keeps_what_earns_and_refuses_what_does_not),
        cmocka_unit_test(test_hazard_weighs_by_bytes),
        cmocka_unit_test(test_sample_is_of_32_and_uniform),
        cmocka_unit_test(test_hazard_is_lru_before_it_learned),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
