/* SPDX-License-Identifier: MIT */
/* Counters out, and the check of everything against its digest. */
#include "base/clock.h"
#include "base/fail.h"
#include "base/log.h"
#include "store/store_private.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#define VERIFY_STEP_BYTES (UINT64_C(4) << 20)

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
    for (unsigned op = 0; op < CASCADE_OP_COUNT; op++) {
        stats->latency[op].count = value(&counters->latency[op].count);
        stats->latency[op].total_ns = value(&counters->latency[op].total_ns);
        for (unsigned i = 0; i < CASCADE_HISTOGRAM_BUCKETS; i++)
            stats->latency[op].buckets[i] = value(&counters->latency[op].buckets[i]);
    }
}

int cascade_store_stats(cascade_store *store, cascade_stats *result)
{
    cascade_stats stats = {.struct_bytes = sizeof stats};
    uint32_t pins[CSC_AREA_SLOTS];
    csc_slots_view view = {.pins = pins, .room = CSC_AREA_SLOTS};

    CSC_ENTER(store);
    if (!result || result->struct_bytes < sizeof(size_t))
        return csc_fail(CASCADE_EINVAL, "no place for the counters, or its struct_bytes is not set");
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
    stats.struct_bytes = result->struct_bytes < sizeof stats ? result->struct_bytes : sizeof stats;
    memcpy(result, &stats, stats.struct_bytes);
    return 0;
}

/* ---- verify ---------------------------------------------------------------------------------- */

typedef struct verify_target {
    uint32_t number;
    uint64_t state;
    csc_content content;
    csc_place file;
    bool in_dram, in_file;
} verify_target;

/* Holds content `number` busy, if it is a block whose digest is known. */
static bool begin(cascade_store *store, uint32_t number, verify_target *target)
{
    csc_content_entry *entry = csc_content_at(store, number);
    bool yes = csc_content_has(entry, CSC_CONTENT_LIVE | CSC_CONTENT_DIGEST);

    if (yes) {
        target->number = number;
        target->state = atomic_load(&entry->state);
        target->content = entry->content;
        target->file = entry->file;
        target->in_dram = target->state & CSC_CONTENT_RESIDENT;
        target->in_file = csc_place_is_set(&entry->file);
        store->content_states[number].busy++;
    }
    return yes;
}

/* Digests the content as a tier gives it. 0, CASCADE_ECORRUPT or what reading says. */
static int check(cascade_store *store, const verify_target *target, bool in_file, uint8_t *buffer,
                 EVP_MD_CTX *context)
{
    uint64_t bytes = target->content.k_bytes + target->content.v_bytes;
    uint8_t digest[EVP_MAX_MD_SIZE];

    EVP_DigestInit_ex(context, EVP_sha256(), NULL);
    for (uint64_t at = 0; at < bytes; at += VERIFY_STEP_BYTES) {
        cascade_piece piece = {buffer, bytes - at < VERIFY_STEP_BYTES ? bytes - at : VERIFY_STEP_BYTES};

        if (in_file) {
            int code =
                store->file->ops->read(store->file, &target->file, &target->content, at, &piece, 1);

            if (code)
                return code;
        } else {
            csc_arena_copy_out(store->arena, &csc_content_at(store, target->number)->dram, at, &piece,
                               1);
        }
        EVP_DigestUpdate(context, piece.data, piece.bytes);
    }
    EVP_DigestFinal_ex(context, digest, NULL);
    if (memcmp(digest, target->content.digest, sizeof target->content.digest) == 0)
        return 0;
    csc_count(&store->counters.quarantined[in_file ? CASCADE_TIER_FILE : CASCADE_TIER_DRAM], 1);
    return csc_fail(CASCADE_ECORRUPT, "a block's bytes do not match its digest");
}

/* Lets go, and takes a damaged copy out of use; the block is gone if it was the only one. Lock held. */
static void end(cascade_store *store, const verify_target *target, bool dram_bad, bool file_bad)
{
    static const csc_place nowhere;
    csc_content_entry *entry = csc_content_at(store, target->number);
    bool same =
        csc_content_has(entry, CSC_CONTENT_LIVE) &&
        csc_content_generation(entry) == (uint32_t)(target->state >> CSC_CONTENT_GENERATION_SHIFT);

    store->content_states[target->number].busy--;
    if (!same)
        return;
    if (file_bad && memcmp(&entry->file, &target->file, sizeof entry->file) == 0) {
        csc_content_set_file(store, target->number, &nowhere);
        if (csc_content_has(entry, CSC_CONTENT_RESIDENT) && !dram_bad)
            csc_content_write_again(store, target->number);
    }
    if (dram_bad && csc_place_is_set(&entry->file) && csc_content_has(entry, CSC_CONTENT_RESIDENT))
        csc_content_evict(store, target->number);
    else if (dram_bad || (file_bad && !csc_content_has(entry, CSC_CONTENT_RESIDENT)))
        csc_content_lose(store, target->number, true);
}

static int verify_one(cascade_store *store, const verify_target *target, cascade_verify_report *report,
                      uint8_t *buffer, EVP_MD_CTX *context)
{
    int dram = 0, file = 0;

    if (target->in_dram)
        dram = check(store, target, false, buffer, context);
    if (target->in_file)
        file = check(store, target, true, buffer, context);
    for (int tier = 0; tier < CASCADE_TIER_COUNT; tier++) {
        int code = tier == CASCADE_TIER_DRAM ? dram : file;
        bool held = tier == CASCADE_TIER_DRAM ? target->in_dram : target->in_file;

        if (held && code == 0)
            report->blocks[tier]++;
        if (code == CASCADE_ECORRUPT || code == CASCADE_MISS)
            report->damaged[tier]++;
    }
    report->bytes += (target->content.k_bytes + target->content.v_bytes) *
                     ((uint64_t)target->in_dram + (uint64_t)target->in_file);
    pthread_mutex_lock(&store->lock);
    end(store, target, dram == CASCADE_ECORRUPT, file == CASCADE_ECORRUPT || file == CASCADE_MISS);
    pthread_cond_broadcast(&store->progress);
    pthread_mutex_unlock(&store->lock);
    return file == CASCADE_EIO ? file : 0;
}

int cascade_store_verify(cascade_store *store, cascade_verify_report *result, cascade_progress progress,
                         void *progress_context)
{
    cascade_verify_report report = {0};
    EVP_MD_CTX *context;
    uint8_t *buffer;
    uint64_t total, digested;
    int code = 0;

    CSC_ENTER(store);
    if (!result)
        return csc_fail(CASCADE_EINVAL, "no place for the report");
    context = EVP_MD_CTX_new();
    buffer = aligned_alloc(4096, VERIFY_STEP_BYTES);
    if (!context || !buffer) {
        code = csc_fail(CASCADE_ENOMEM, "no memory to verify with");
        goto out;
    }
    pthread_mutex_lock(&store->lock);
    /* What has no digest yet cannot be checked; the queue is served in order. */
    digested = store->hash_taken + store->hash_queue.count + store->hashing;
    while (store->hash_taken < digested && store->hash_queue.count + store->hashing)
        csc_store_wait(store, csc_clock_ns() + UINT64_C(1000000000));
    total = store->resident_bytes + store->file_bytes;
    pthread_mutex_unlock(&store->lock);
    for (uint32_t number = 0; code == 0; number++) {
        verify_target target;
        bool more, is_block = false;

        pthread_mutex_lock(&store->lock);
        more = number < store->contents_made;
        if (more)
            is_block = begin(store, number, &target);
        pthread_mutex_unlock(&store->lock);
        if (!more)
            break;
        if (is_block)
            code = verify_one(store, &target, &report, buffer, context);
        if (code == 0 && progress && progress(progress_context, report.bytes, total))
            code = csc_fail(CASCADE_EAGAIN, "stopped before the end");
    }
    report.damaged[CASCADE_TIER_FILE] += store->files_skipped;
    *result = report;
    if (code == 0 && (report.damaged[CASCADE_TIER_DRAM] || report.damaged[CASCADE_TIER_FILE]))
        code = csc_fail(CASCADE_ECORRUPT,
                        "%llu damaged blocks in dram, %llu damaged blocks or files on disk; quarantined",
                        (unsigned long long)report.damaged[CASCADE_TIER_DRAM],
                        (unsigned long long)report.damaged[CASCADE_TIER_FILE]);
out:
    EVP_MD_CTX_free(context);
    free(buffer);
    return code;
}
