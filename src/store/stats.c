/* SPDX-License-Identifier: MIT */
/* Counters out. */
#include "base/clock.h"
#include "base/fail.h"
#include "store/client.h"

#include <stdlib.h>
#include <string.h>

void csc_latency(cascade_store *store, unsigned op, uint64_t since_ns)
{
    uint64_t took_ns = csc_clock_ns() - since_ns;
    unsigned bucket = took_ns ? 63u - (unsigned)__builtin_clzll(took_ns) : 0;

    if (bucket >= CASCADE_HISTOGRAM_BUCKETS)
        bucket = CASCADE_HISTOGRAM_BUCKETS - 1;
    csc_count(&store->counters.latency[op].count, 1);
    csc_count(&store->counters.latency[op].total_ns, took_ns);
    csc_count(&store->counters.latency[op].buckets[bucket], 1);
}

static uint64_t value(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

static void copy_counters(const csc_counters *counters, cascade_stats *stats)
{
    for (int tier = 0; tier < CASCADE_TIER_COUNT; tier++) {
        stats->tiers[tier].hits = value(&counters->hits[tier]);
        stats->tiers[tier].misses = value(&counters->misses[tier]);
        stats->tiers[tier].promotions = value(&counters->promotions[tier]);
        stats->tiers[tier].demotions = value(&counters->demotions[tier]);
        stats->tiers[tier].evictions = value(&counters->evictions[tier]);
        stats->tiers[tier].drops = value(&counters->drops[tier]);
        stats->tiers[tier].quarantined += value(&counters->quarantined[tier]);
    }
    stats->puts = value(&counters->puts);
    stats->puts_existed = value(&counters->puts_existed);
    stats->conflicts = value(&counters->conflicts);
    stats->deletes = value(&counters->deletes);
    stats->dedup_blocks = value(&counters->dedup_blocks);
    stats->digests = value(&counters->digests);
    stats->lost = value(&counters->lost);
    stats->recovered_blocks = value(&counters->recovered);
    stats->compactions = value(&counters->compactions);
    stats->compacted_bytes = value(&counters->compacted_bytes);
    stats->aged_blocks = value(&counters->aged);
    stats->file_timeouts = value(&counters->file_timeouts);
    stats->read_ahead_blocks = value(&counters->read_ahead);
    for (unsigned op = 0; op < CASCADE_OP_COUNT; op++) {
        stats->latency[op].count = value(&counters->latency[op].count);
        stats->latency[op].total_ns = value(&counters->latency[op].total_ns);
        for (unsigned i = 0; i < CASCADE_HISTOGRAM_BUCKETS; i++)
            stats->latency[op].buckets[i] = value(&counters->latency[op].buckets[i]);
    }
}

static void hand_out(cascade_stats *stats, cascade_stats *result)
{
    stats->struct_bytes = result->struct_bytes < sizeof *stats ? result->struct_bytes : sizeof *stats;
    memcpy(result, stats, stats->struct_bytes);
}

int cascade_store_stats(cascade_store *store, cascade_stats *result)
{
    cascade_stats stats = {.struct_bytes = sizeof stats};
    uint32_t pins[CSC_AREA_SLOTS];
    csc_slots_view view = {.pins = pins, .room = CSC_AREA_SLOTS};
    csc_io_facts facts;

    CSC_ENTER(store);
    if (!result || result->struct_bytes < sizeof(size_t))
        return csc_fail(CASCADE_EINVAL, "no place for the counters, or its struct_bytes is not set");
    if (store->daemon) {
        int code = store->daemon->ops->stats(store, &stats);

        if (code == 0)
            hand_out(&stats, result);
        return code;
    }
    csc_arena_tier(store->arena)
        ->ops->stats(csc_arena_tier(store->arena), &stats.tiers[CASCADE_TIER_DRAM]);
    store->file->ops->stats(store->file, &stats.tiers[CASCADE_TIER_FILE]);
    stats.tiers[CASCADE_TIER_FILE].capacity_bytes = store->config.settings.file_budget_bytes;
    copy_counters(&store->counters, &stats);
    csc_io_counts(store->io, &stats.metadata_ops);
    csc_slots_look(&store->slots, &view);
    stats.pins = view.pin_count;
    stats.arena_huge_bytes = csc_arena_huge(store->arena);
    stats.arena_ready_bytes = csc_arena_ready(store->arena);
    stats.segments = csc_segment_count(store->file);
    stats.file_direct = csc_segment_is_direct(store->file);
    stats.file_encrypted = store->keyring != NULL;
    stats.file_striped = csc_segment_is_striped(store->file);
    stats.file_live_bytes = csc_segment_live_bytes(store->file);
    stats.recycled_segments = csc_segment_recycled(store->file);
    stats.file_rereads = csc_segment_rereads(store->file);
    csc_io_get_facts(store->io, &facts);
    stats.file_uring = facts.uring;
    stats.file_slow = facts.late > 0;
    stats.file_registered_bytes = facts.registered_bytes;
    pthread_mutex_lock(&store->lock);
    stats.tiers[CASCADE_TIER_DRAM].blocks = store->resident_count;
    stats.tiers[CASCADE_TIER_DRAM].block_bytes = store->resident_bytes;
    stats.tiers[CASCADE_TIER_FILE].blocks = store->file_count;
    stats.tiers[CASCADE_TIER_FILE].block_bytes = store->file_bytes;
    stats.keys = store->key_count;
    stats.contents = store->content_count;
    stats.dedup_bytes_saved = store->named_bytes - store->content_bytes;
    stats.digest_pending = store->hash_queue.count + store->hashing;
    stats.dirty_bytes = store->dirty_bytes;
    stats.file_degraded = store->file_error != 0;
    pthread_mutex_unlock(&store->lock);
    hand_out(&stats, result);
    return 0;
}
