/* SPDX-License-Identifier: MIT */
/* The arithmetic of learning, against plain and slow ways to get the same. */
#include "hazard.c" /* its static parts are under test */

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static uint32_t random_below(uint32_t *seed, uint32_t bound)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)*seed * bound >> 32);
}

static void test_buckets_cover_ages_as_wide_as_they_say(void **state)
{
    static unsigned ages[BUCKETS];

    (void)state;
    for (uint64_t age = 1; age < 1u << 16; age++) {
        assert_true(bucket_of(age) >= bucket_of(age - 1));
        ages[bucket_of(age)]++;
    }
    for (unsigned b = 0; b < 64; b++)
        assert_int_equal(ages[b], (unsigned)bucket_width(b));
    assert_int_equal(bucket_of(0), 0);
    assert_int_equal(bucket_of(UINT64_MAX), BUCKETS - 1);
}

/* The best over all times to stop, tried one by one. */
static double slow_value(const double *rate, unsigned from)
{
    double best = 0, alive = 1, ticks = 0;

    for (unsigned e = from; e < BUCKETS; e++) {
        double next = alive * (1 - rate[e]);

        ticks += bucket_width(e) * (alive + next) / 2;
        alive = next;
        if (ticks > 0 && (1 - alive) / ticks > best)
            best = (1 - alive) / ticks;
    }
    return best;
}

static void test_values_equal_the_slow_way(void **state)
{
    uint32_t seed = 11;

    (void)state;
    for (int round = 0; round < 200; round++) {
        double rate[BUCKETS] = {0};
        float value[BUCKETS] = {0};
        uint32_t scale = 2 + random_below(&seed, 10);

        for (unsigned a = 0; a < BUCKETS; a++)
            if (bucket_width(a) > 0 && random_below(&seed, 4))
                rate[a] = random_below(&seed, 999) / 1000.0 / scale;
        if (round % 10 == 0)
            rate[random_below(&seed, 24) * 4] = hazard_max;
        fill_values(rate, value);
        for (unsigned a = 0; a < BUCKETS; a++) {
            double slow = slow_value(rate, a);

            if (bucket_width(a) > 0)
                assert_true(value[a] >= slow * 0.9999 - 1e-30 && value[a] <= slow * 1.0001 + 1e-30);
        }
    }
}

static uint64_t living_sum(const csc_hazard *hazard)
{
    uint64_t sum = 0;

    for (unsigned class = 0; class < CLASSES; class ++) {
        sum += hazard->ancient[class];
        for (unsigned epoch = 0; epoch < EPOCHS; epoch++)
            sum += hazard->living[epoch][class];
    }
    return sum;
}

static void test_living_are_counted_once(void **state)
{
    enum { BLOCKS = 500 };
    static csc_hazard_mark marks[BLOCKS];
    static bool known[BLOCKS];
    csc_hazard *hazard = csc_hazard_create();
    uint32_t seed = 5;
    uint64_t count = 0;

    (void)state;
    assert_non_null(hazard);
    for (int t = 0; t < 40000; t++) { /* the ring goes round twice */
        uint32_t i = random_below(&seed, BLOCKS), rare = i % 50;

        csc_hazard_tick(hazard);
        if (rare == 0 && t > 3000)
            continue; /* these grow ancient */
        if (known[i] && random_below(&seed, 8) == 0) {
            csc_hazard_lost(hazard, &marks[i]);
            known[i] = false;
            count--;
        } else if (known[i]) {
            csc_hazard_used(hazard, &marks[i], i % 2);
            csc_hazard_used(hazard, &marks[i], true);
            assert_int_equal(marks[i].class % 2, 1);
        } else {
            csc_hazard_born(hazard, &marks[i], i % 2);
            known[i] = true;
            count++;
        }
    }
    assert_int_equal(living_sum(hazard), count);
    for (int i = 0; i < BLOCKS; i++)
        if (known[i])
            csc_hazard_lost(hazard, &marks[i]);
    for (unsigned class = 0; class < CLASSES; class ++) {
        assert_int_equal(hazard->ancient[class], 0);
        for (unsigned epoch = 0; epoch < EPOCHS; epoch++)
            assert_int_equal(hazard->living[epoch][class], 0);
    }
    csc_hazard_destroy(hazard);
}

/* Five blocks of one class: hits at ages 1 and 4, lost at age 4, two still watched, at ages 8 and 1. */
static void test_risk_of_five_blocks(void **state)
{
    csc_hazard *hazard = csc_hazard_create();
    unsigned class = class_of_new(false);

    (void)state;
    assert_non_null(hazard);
    hazard->hit[class][bucket_of(1)] = 1;
    hazard->hit[class][bucket_of(4)] = 1;
    hazard->lost[class][bucket_of(4)] = 1;
    hazard->risk[class][bucket_of(8)] = 1;
    hazard->risk[class][bucket_of(1)] = 1;
    count_risk(hazard);
    assert_true(hazard->risk[class][bucket_of(16)] == 0);
    assert_true(hazard->risk[class][bucket_of(8)] == 0.5);
    assert_true(hazard->risk[class][bucket_of(4)] == 2.5);
    assert_true(hazard->risk[class][bucket_of(2)] == 3);
    assert_true(hazard->risk[class][bucket_of(1)] == 4.5);
    fill_rates(hazard);
    /* Alone, a class is its own prior; one of which nothing was seen has its prior alone. */
    assert_true(fabs(hazard->rate[class][bucket_of(1)] - 1 / 4.5) < 1e-12);
    assert_true(fabs(hazard->rate[class][bucket_of(4)] - 1 / 2.5) < 1e-12);
    assert_true(hazard->rate[class][bucket_of(8)] == 0);
    class = class_of(1, 0, false);
    assert_true(fabs(hazard->rate[class][bucket_of(1)] - 4 / 4.5) < 1e-12);
    assert_true(hazard->rate[class][bucket_of(4)] == hazard_max); /* not 1.6 */
    class = class_of(2, 0, false);
    assert_true(fabs(hazard->rate[class][bucket_of(1)] - 4 / 4.5) < 1e-12);
    assert_true(hazard->rate[class_of(2, 2, true)][bucket_of(8)] == 0);
    csc_hazard_destroy(hazard);
}

static void test_class_follows_reuse_pace_and_tail(void **state)
{
    csc_hazard *hazard = csc_hazard_create();
    csc_hazard_mark mark = {.last = 1000, .reuse = 1, .pace = 20};

    (void)state;
    assert_non_null(hazard);
    hazard->gap_sum = 20 * 10;
    hazard->gap_count = 10;
    hazard->clock = 1000 + 32; /* bucket 20 */
    assert_int_equal(mark_after(hazard, &mark, false).class, class_of(2, 1, false));
    assert_int_equal(mark_after(hazard, &mark, true).class, class_of(2, 1, true));
    assert_int_equal(mark_after(hazard, &mark, true).pace, 20);
    hazard->clock = 1000 + 4; /* bucket 8 */
    assert_int_equal(mark_after(hazard, &mark, false).class, class_of(2, 0, false));
    assert_int_equal(mark_after(hazard, &mark, false).pace, 14);
    hazard->clock = 1000 + 256; /* bucket 32 */
    assert_int_equal(mark_after(hazard, &mark, false).class, class_of(2, 2, false));
    mark.reuse = 0; /* the first gap: averaged with the mean, not with the unset pace */
    mark.pace = 0;
    assert_int_equal(mark_after(hazard, &mark, false).class, class_of(1, 2, false));
    assert_int_equal(mark_after(hazard, &mark, false).pace, 26);
    mark.reuse = REUSE_MAX;
    assert_int_equal(mark_after(hazard, &mark, false).reuse, REUSE_MAX);
    for (unsigned class = 0; class < CLASSES; class ++)
        assert_int_equal(class_of(class / (PACES * 2), class / 2 % PACES, class % 2), class);
    assert_int_equal(reuse_group(3), reuse_group(4));
    assert_int_equal(reuse_group(5), reuse_group(8));
    assert_int_equal(reuse_group(9), REUSE_GROUPS - 1);
    csc_hazard_destroy(hazard);
}

/* Twenty blocks, each used every 20 ticks, and one more a tick that is never used again. */
static void test_learns_a_period(void **state)
{
    csc_hazard *hazard = csc_hazard_create();
    csc_hazard_mark regular[20], once;
    float young, due, over;

    (void)state;
    assert_non_null(hazard);
    assert_false(csc_hazard_learned(hazard));
    for (int t = 0; t < 6400; t++) {
        csc_hazard_tick(hazard);
        if (t < 20)
            csc_hazard_born(hazard, &regular[t], false);
        else
            csc_hazard_used(hazard, &regular[t % 20], false);
        csc_hazard_born(hazard, &once, false);
    }
    assert_true(csc_hazard_learned(hazard));
    once = regular[(6400 - 1) % 20];
    assert_int_equal(once.reuse, REUSE_MAX);
    young = csc_hazard_value(hazard, &once);
    assert_true(young > 0.03f && young < 0.07f); /* one hit in 20 ticks */
    once.last = CSC_HAZARD_TICK(hazard->clock - 19);
    due = csc_hazard_value(hazard, &once);
    assert_true(due > 2 * young);
    once.last = CSC_HAZARD_TICK(hazard->clock - 40);
    over = csc_hazard_value(hazard, &once);
    assert_true(over < young / 4); /* it should have come by now */
    assert_true(csc_hazard_value_if_used(hazard, NULL, false) < young / 4);
    assert_true(csc_hazard_value_if_used(hazard, &regular[0], false) > young / 2);
    csc_hazard_destroy(hazard);
}

static void test_old_observations_fade(void **state)
{
    csc_hazard *hazard = csc_hazard_create();
    csc_hazard_mark mark;

    (void)state;
    assert_non_null(hazard);
    csc_hazard_tick(hazard);
    csc_hazard_born(hazard, &mark, false);
    csc_hazard_tick(hazard);
    csc_hazard_used(hazard, &mark, false);
    assert_true(hazard->hit[class_of_new(false)][0] == 1);
    while (hazard->clock < HALVING_TICKS)
        csc_hazard_tick(hazard);
    assert_true(hazard->hit[class_of_new(false)][0] == 0.5f);
    assert_true(hazard->gap_count == 0.5);
    csc_hazard_destroy(hazard);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buckets_cover_ages_as_wide_as_they_say),
        cmocka_unit_test(test_values_equal_the_slow_way),
        cmocka_unit_test(test_living_are_counted_once),
        cmocka_unit_test(test_risk_of_five_blocks),
        cmocka_unit_test(test_class_follows_reuse_pace_and_tail),
        cmocka_unit_test(test_learns_a_period),
        cmocka_unit_test(test_old_observations_fade),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
