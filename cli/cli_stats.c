/* SPDX-License-Identifier: MIT */
/* The stats as JSON. Field names are those of the structs, and part of the interface. */
#include "cli.h"

#include <math.h>

/* Sets `target`'s member named like the struct's; a lack of memory leaves it out. */
#define MEMBER(target, from, name)                                                                      \
    json_object_set_new(target, #name, json_integer((json_int_t)(from)->name))

static json_t *tier_json(const cascade_tier_stats *tier)
{
    json_t *object = json_object();

    MEMBER(object, tier, capacity_bytes);
    MEMBER(object, tier, used_bytes);
    MEMBER(object, tier, blocks);
    MEMBER(object, tier, block_bytes);
    MEMBER(object, tier, hits);
    MEMBER(object, tier, misses);
    MEMBER(object, tier, promotions);
    MEMBER(object, tier, demotions);
    MEMBER(object, tier, evictions);
    MEMBER(object, tier, drops);
    MEMBER(object, tier, quarantined);
    MEMBER(object, tier, read_bytes);
    MEMBER(object, tier, written_bytes);
    return object;
}

static json_t *metadata_json(const cascade_metadata_ops *ops)
{
    json_t *object = json_object();

    MEMBER(object, ops, open);
    MEMBER(object, ops, create);
    MEMBER(object, ops, rename);
    MEMBER(object, ops, unlink);
    MEMBER(object, ops, stat);
    MEMBER(object, ops, mkdir);
    MEMBER(object, ops, readdir);
    MEMBER(object, ops, truncate);
    MEMBER(object, ops, fsync);
    return object;
}

double cli_histogram_ns(const cascade_histogram *histogram, double quantile)
{
    double wanted = quantile * (double)histogram->count, below = 0;

    for (unsigned i = 0; i < CASCADE_HISTOGRAM_BUCKETS; i++) {
        double here = (double)histogram->buckets[i];

        if (here > 0 && below + here >= wanted)
            return exp2(i + (wanted - below) / here);
        below += here;
    }
    return 0;
}

static json_t *latency_json(const cascade_histogram *histogram)
{
    json_t *object = json_object(), *buckets = json_array();

    MEMBER(object, histogram, count);
    MEMBER(object, histogram, total_ns);
    json_object_set_new(object, "p50_us", json_real(cli_histogram_ns(histogram, 0.50) / 1000));
    json_object_set_new(object, "p99_us", json_real(cli_histogram_ns(histogram, 0.99) / 1000));
    for (unsigned i = 0; i < CASCADE_HISTOGRAM_BUCKETS; i++)
        json_array_append_new(buckets, json_integer((json_int_t)histogram->buckets[i]));
    json_object_set_new(object, "buckets", buckets);
    return object;
}

double cli_amplification(const cascade_stats *stats)
{
    if (stats->file_live_bytes == 0)
        return 0;
    return (double)stats->tiers[CASCADE_TIER_FILE].used_bytes / (double)stats->file_live_bytes;
}

double cli_metadata_per_gib(const cascade_stats *stats)
{
    const cascade_metadata_ops *ops = &stats->metadata_ops;
    uint64_t written = stats->tiers[CASCADE_TIER_FILE].written_bytes;
    uint64_t all = ops->open + ops->create + ops->rename + ops->unlink + ops->stat + ops->mkdir +
                   ops->readdir + ops->truncate + ops->fsync;

    return written ? (double)all * (double)(1 << 30) / (double)written : 0;
}

json_t *cli_stats_json(const cascade_stats *stats)
{
    json_t *object = json_object(), *tiers = json_object(), *latency = json_object();

    for (unsigned i = 0; i < CASCADE_TIER_COUNT; i++)
        json_object_set_new(tiers, cascade_tier_name(i), tier_json(&stats->tiers[i]));
    json_object_set_new(object, "tiers", tiers);
    json_object_set_new(object, "metadata_ops", metadata_json(&stats->metadata_ops));
    MEMBER(object, stats, keys);
    MEMBER(object, stats, contents);
    MEMBER(object, stats, puts);
    MEMBER(object, stats, puts_existed);
    MEMBER(object, stats, conflicts);
    MEMBER(object, stats, deletes);
    MEMBER(object, stats, dedup_blocks);
    MEMBER(object, stats, dedup_bytes_saved);
    MEMBER(object, stats, digests);
    MEMBER(object, stats, digest_pending);
    MEMBER(object, stats, dirty_bytes);
    MEMBER(object, stats, lost);
    MEMBER(object, stats, pins);
    MEMBER(object, stats, recovered_blocks);
    MEMBER(object, stats, arena_huge_bytes);
    MEMBER(object, stats, arena_ready_bytes);
    MEMBER(object, stats, segments);
    MEMBER(object, stats, file_degraded);
    MEMBER(object, stats, file_direct);
    MEMBER(object, stats, file_uring);
    MEMBER(object, stats, file_slow);
    MEMBER(object, stats, file_timeouts);
    MEMBER(object, stats, file_registered_bytes);
    MEMBER(object, stats, file_live_bytes);
    MEMBER(object, stats, compactions);
    MEMBER(object, stats, compacted_bytes);
    MEMBER(object, stats, recycled_segments);
    MEMBER(object, stats, read_ahead_blocks);
    MEMBER(object, stats, aged_blocks);
    MEMBER(object, stats, file_encrypted);
    MEMBER(object, stats, file_striped);
    MEMBER(object, stats, file_rereads);
    json_object_set_new(object, "space_amplification",
                        stats->file_live_bytes ? json_real(cli_amplification(stats)) : json_null());
    json_object_set_new(object, "metadata_ops_per_gib",
                        stats->tiers[CASCADE_TIER_FILE].written_bytes
                            ? json_real(cli_metadata_per_gib(stats))
                            : json_null());
    for (unsigned i = 0; i < CASCADE_OP_COUNT; i++)
        json_object_set_new(latency, cascade_op_name(i), latency_json(&stats->latency[i]));
    json_object_set_new(object, "latency", latency);
    return object;
}
