/* SPDX-License-Identifier: MIT */
/*
 * Space comes back: compaction in the background, blocks that are too old, and the gc that an operator
 * asks for. All but the asking happens in the writer thread.
 */
#include "base/clock.h"
#include "base/fail.h"
#include "base/log.h"
#include "store/store_private.h"

#include <stdlib.h>
#include <string.h>

#define DEAD_PCT_OF_ALL UINT64_C(12) /* dead bytes of sealed segments from which compaction starts */
#define DEAD_PCT_OF_ONE 20u          /* and of the segment that is emptied */
#define GC_DEAD_PCT     5u           /* a gc is thorough */
#define AGE_PERIOD_NS   UINT64_C(5000000000)
#define RETRY_NS        UINT64_C(10000000000)
#define SCAN_STEP       4096u
#define SPARES          1u
#define SPARE_SHARE                                                                                     \
    16u /* a segment that is at most this share of the budget leaves room for a spare                   \
         */

struct csc_gc {
    bool is_done, stop;
    int code;
    char text[256];
    cascade_gc_report report;
};

uint32_t csc_spares_max(const cascade_store *store)
{
    const csc_settings *settings = &store->config.settings;

    if (settings->file_budget_bytes == 0)
        return SPARES;
    return settings->segment_bytes <= settings->file_budget_bytes / SPARE_SHARE ? 1 : 0;
}

/* ---- age ------------------------------------------------------------------------------------------ */

/* Whether a block is in files only and was not used for as long as the limit says. Lock held. */
static bool is_old(cascade_store *store, uint32_t number, uint64_t now_s, uint64_t now_ms)
{
    const csc_content_entry *entry = csc_content_at(store, number);
    const csc_content_state *state = &store->content_states[number];

    return csc_content_has(entry, CSC_CONTENT_LIVE) && csc_place_is_set(&entry->file) &&
           !csc_content_has(entry, CSC_CONTENT_RESIDENT) && state->busy == 0 &&
           !csc_lease_holds(entry, now_ms) && state->used_s + store->config.file_age_s < now_s;
}

/* Drops blocks that are too old, or only counts them. */
static void drop_old(cascade_store *store, bool dry_run, cascade_gc_report *report)
{
    uint64_t now_s = csc_wall_ns() / 1000000000, now_ms = csc_clock_coarse_ms();

    if (store->config.file_age_s == 0)
        return;
    pthread_mutex_lock(&store->lock);
    csc_touches_pass_on(store);
    for (uint32_t number = 0; number < store->contents_made; number++) {
        if (number % SCAN_STEP == SCAN_STEP - 1) {
            pthread_mutex_unlock(&store->lock);
            pthread_mutex_lock(&store->lock);
        }
        if (!is_old(store, number, now_s, now_ms))
            continue;
        report->dropped_blocks++;
        report->dropped_bytes += csc_content_bytes(csc_content_at(store, number));
        if (dry_run)
            continue;
        csc_count(&store->counters.drops[CASCADE_TIER_FILE], 1);
        csc_count(&store->counters.aged, 1);
        csc_content_lose(store, number, true);
    }
    pthread_mutex_unlock(&store->lock);
}

/* ---- in the background ------------------------------------------------------------------------------
 */

/* Whether so much of the sealed segments is dead, or is encrypted with an old key, that some should be
 * emptied. */
static bool is_wasteful(cascade_store *store)
{
    size_t count;
    csc_segment_info *infos = csc_segments(store, &count);
    uint64_t bytes = 0, dead = 0, key_id = (store->keyring ? csc_keyring_first(store->keyring) : 0);
    bool is_rekeyed = false;

    for (size_t i = 0; i < count; i++) {
        bytes += infos[i].bytes;
        is_rekeyed |= infos[i].sealed && infos[i].ours && infos[i].key_id != key_id;
        if (infos[i].sealed && infos[i].ours)
            dead += csc_segment_dead(&infos[i]);
    }
    free(infos);
    return is_rekeyed || dead * 100 > bytes * DEAD_PCT_OF_ALL;
}

static void note_failure(cascade_store *store)
{
    csc_log(CSC_LOG_WARNING, "a segment was not emptied: %s", csc_fail_text());
    store->compact_after_ns = csc_clock_ns() + RETRY_NS;
}

/* ---- asked for
 * ---------------------------------------------------------------------------------------- */

static void measure(cascade_store *store, cascade_gc_report *report)
{
    cascade_tier_stats stats = {0};
    size_t count;
    csc_segment_info *infos = csc_segments(store, &count);

    store->file->ops->stats(store->file, &stats);
    report->file_bytes = stats.used_bytes;
    for (size_t i = 0; i < count; i++) {
        uint64_t dead = csc_segment_dead(&infos[i]);

        report->segments += infos[i].sealed;
        report->live_bytes += infos[i].live_bytes;
        if (!infos[i].sealed || !infos[i].ours || dead * 100 < infos[i].bytes * GC_DEAD_PCT)
            continue;
        report->moved_segments++;
        report->moved_bytes += infos[i].live_bytes;
        report->freed_bytes += dead;
    }
    free(infos);
}

static void run_gc(cascade_store *store, struct csc_gc *gc)
{
    uint64_t moved = atomic_load(&store->counters.compacted_bytes);
    cascade_tier_stats before = {0}, after = {0};
    csc_segment_info info;
    int code = 0;

    measure(store, &gc->report);
    gc->report.moved_segments = gc->report.moved_bytes = gc->report.freed_bytes = 0;
    store->file->ops->stats(store->file, &before);
    drop_old(store, false, &gc->report);
    code = csc_writer_serve(store, 0); /* the tombstones of what was dropped */
    for (size_t i = 0; code == 0 && i <= gc->report.segments; i++) {
        bool stop;

        pthread_mutex_lock(&store->lock);
        stop = gc->stop || store->stopping;
        pthread_mutex_unlock(&store->lock);
        if (stop)
            code = csc_fail(CASCADE_EAGAIN, "stopped before the end");
        else if (!csc_compact_choose(store, GC_DEAD_PCT, &info))
            break;
        else
            code = csc_compact_segment(store, info.segment, true);
        if (code == 0)
            gc->report.moved_segments++;
    }
    store->file->ops->stats(store->file, &after);
    gc->report.moved_bytes = atomic_load(&store->counters.compacted_bytes) - moved;
    gc->report.freed_bytes =
        before.used_bytes > after.used_bytes ? before.used_bytes - after.used_bytes : 0;
    gc->code = code;
    if (code)
        strncpy(gc->text, csc_fail_text(), sizeof gc->text - 1);
}

/* Lock held. */
static void end_gc(cascade_store *store)
{
    store->gc->is_done = true;
    store->gc = NULL;
    pthread_cond_broadcast(&store->progress);
}

void csc_gc_stop(cascade_store *store)
{
    if (!store->gc)
        return;
    store->gc->code = CASCADE_EAGAIN;
    strcpy(store->gc->text, "the store is being closed");
    end_gc(store);
}

bool csc_gc_waits(cascade_store *store)
{
    bool waits;

    pthread_mutex_lock(&store->lock);
    waits = store->gc != NULL;
    pthread_mutex_unlock(&store->lock);
    return waits;
}

bool csc_gc_chores(cascade_store *store)
{
    cascade_gc_report report = {0};
    csc_segment_info info;
    struct csc_gc *gc;
    int code;

    pthread_mutex_lock(&store->lock);
    gc = store->gc;
    pthread_mutex_unlock(&store->lock);
    if (gc) {
        run_gc(store, gc);
        pthread_mutex_lock(&store->lock);
        end_gc(store);
        pthread_mutex_unlock(&store->lock);
        return true;
    }
    if (store->config.file_age_s && csc_clock_ns() > store->aged_ns + AGE_PERIOD_NS) {
        store->aged_ns = csc_clock_ns();
        drop_old(store, false, &report);
    }
    if (csc_clock_ns() < store->compact_after_ns || !is_wasteful(store) ||
        !csc_compact_choose(store, DEAD_PCT_OF_ONE, &info))
        return false;
    code = csc_compact_segment(store, info.segment, false);
    if (code && code != CASCADE_EAGAIN) /* which is the store being closed */
        note_failure(store);
    return code == 0;
}

int cascade_store_gc(cascade_store *store, bool dry_run, cascade_gc_report *result,
                     cascade_progress progress, void *context)
{
    struct csc_gc gc = {0};

    CSC_ENTER(store);
    if (!result)
        return csc_fail(CASCADE_EINVAL, "no place for the report");
    if (dry_run) {
        measure(store, &gc.report);
        drop_old(store, true, &gc.report);
        *result = gc.report;
        return 0;
    }
    pthread_mutex_lock(&store->lock);
    while (store->gc && !store->stopping) /* another's first */
        csc_store_wait(store, csc_clock_ns() + UINT64_C(200000000));
    store->gc = &gc;
    pthread_cond_signal(&store->write_work);
    while (!gc.is_done) {
        csc_store_wait(store, csc_clock_ns() + UINT64_C(200000000));
        if (gc.is_done || !progress)
            continue;
        pthread_mutex_unlock(&store->lock);
        if (progress(context, atomic_load(&store->counters.compacted_bytes), 0))
            gc.stop = true;
        pthread_mutex_lock(&store->lock);
    }
    pthread_mutex_unlock(&store->lock);
    *result = gc.report;
    if (gc.code)
        csc_fail_set_text(gc.text);
    return gc.code;
}
