/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include "cli.h"

#include <cmocka.h>

static void test_quantiles(void **state)
{
    cascade_histogram histogram = {.count = 100};

    (void)state;
    assert_true(cli_histogram_ns(&(cascade_histogram){0}, 0.5) == 0);
    histogram.buckets[10] = 50; /* 1,024 to 2,047 ns */
    histogram.buckets[12] = 49; /* 4,096 to 8,191 ns */
    histogram.buckets[20] = 1;
    assert_true(cli_histogram_ns(&histogram, 0.25) > 1400 && cli_histogram_ns(&histogram, 0.25) < 1500);
    assert_true(cli_histogram_ns(&histogram, 0.5) == 2048);
    assert_true(cli_histogram_ns(&histogram, 0.75) > 4096 && cli_histogram_ns(&histogram, 0.75) < 8192);
    assert_true(cli_histogram_ns(&histogram, 0.99) == 8192);
    assert_true(cli_histogram_ns(&histogram, 0.995) > 1 << 20);
}

static int64_t number(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);

    if (!json_is_integer(value))
        fail_msg("%s is missing", name);
    return json_integer_value(value);
}

/* Sizes say that no counter of the structs was left out. */
static void test_json(void **state)
{
    cascade_stats stats = {.keys = 11, .lost = 12, .file_direct = 1, .dedup_bytes_saved = 13};
    json_t *object, *tiers;

    (void)state;
    stats.tiers[CASCADE_TIER_DRAM].hits = 21;
    stats.tiers[CASCADE_TIER_FILE].hits = 22;
    stats.tiers[CASCADE_TIER_FILE].written_bytes = INT64_MAX;
    stats.tiers[CASCADE_TIER_FILE].used_bytes = 300;
    stats.file_live_bytes = 200;
    stats.recycled_segments = 14;
    stats.file_rereads = 15;
    stats.metadata_ops.fsync = 31;
    stats.latency[CASCADE_OP_GET_FILE].count = 1;
    stats.latency[CASCADE_OP_GET_FILE].buckets[3] = 1;
    object = cli_stats_json(&stats);
    tiers = json_object_get(object, "tiers");
    assert_int_equal(json_object_size(object),
                     37); /* 32 numbers, 2 ratios, tiers, metadata_ops, latency */
    assert_int_equal(number(object, "keys"), 11);
    assert_int_equal(number(object, "lost"), 12);
    assert_int_equal(number(object, "file_direct"), 1);
    assert_int_equal(number(object, "dedup_bytes_saved"), 13);
    assert_int_equal(json_object_size(tiers), CASCADE_TIER_COUNT);
    assert_int_equal(json_object_size(json_object_get(tiers, "dram")),
                     sizeof(cascade_tier_stats) / sizeof(uint64_t));
    assert_int_equal(number(json_object_get(tiers, "dram"), "hits"), 21);
    assert_int_equal(number(json_object_get(tiers, "file"), "hits"), 22);
    assert_true(number(json_object_get(tiers, "file"), "written_bytes") == INT64_MAX);
    assert_int_equal(json_object_size(json_object_get(object, "metadata_ops")),
                     sizeof(cascade_metadata_ops) / sizeof(uint64_t));
    assert_int_equal(number(json_object_get(object, "metadata_ops"), "fsync"), 31);
    assert_int_equal(json_object_size(json_object_get(object, "latency")), CASCADE_OP_COUNT);
    assert_int_equal(json_object_size(json_object_get(json_object_get(object, "latency"), "get_file")),
                     5);
    assert_int_equal(number(object, "recycled_segments"), 14);
    assert_int_equal(number(object, "file_rereads"), 15);
    assert_true(json_real_value(json_object_get(object, "space_amplification")) == 1.5);
    json_decref(object);
}

static void test_ratios(void **state)
{
    cascade_stats stats = {0};
    json_t *object = cli_stats_json(&stats);

    (void)state;
    assert_true(json_is_null(json_object_get(object, "space_amplification")));
    assert_true(json_is_null(json_object_get(object, "metadata_ops_per_gib")));
    json_decref(object);
    stats.tiers[CASCADE_TIER_FILE].written_bytes = UINT64_C(1) << 29;
    stats.metadata_ops = (cascade_metadata_ops){1, 1, 1, 1, 1, 1, 1, 1, 2};
    assert_true(cli_metadata_per_gib(&stats) == 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_quantiles), cmocka_unit_test(test_json),
                                       cmocka_unit_test(test_ratios)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
