/* SPDX-License-Identifier: MIT */
/* A gc by hand: an errand of the writer, each of whose parts is a batch of one segment. */
#include "base/fail.h"
#include "store/client.h"

#include <stdlib.h>

#define OPEN_PARTS 20u /* more than this part of the open segment dead: it is emptied too */

typedef struct gc {
    csc_errand errand; /* the first member */
    cascade_gc_report report;
    cascade_progress progress;
    void *context;
    uint64_t before; /* bytes compacted ever, when it was asked for */
    _Atomic bool stop;
    _Atomic uint64_t total_bytes; /* to be moved */
    /* the writer's */
    bool is_begun;
    csc_segment_info *infos; /* there were at the beginning */
    size_t count, next;
    uint64_t bytes_then, moved_then;
} gc;

/* What there is, and how much of it is worth moving. */
static int measure(cascade_store *store, cascade_gc_report *report)
{
    cascade_tier_stats stats = {0};
    size_t count;
    csc_segment_info *infos = csc_segments(store, &count);

    if (!infos)
        return CASCADE_ENOMEM;
    store->file->ops->stats(store->file, &stats);
    report->file_bytes = stats.used_bytes;
    for (size_t i = 0; i < count; i++) {
        report->segments += infos[i].sealed;
        report->live_bytes += infos[i].live_bytes;
        if (!csc_compact_is_worthy(store, CSC_COMPACT_SOMEWHAT, &infos[i]))
            continue;
        report->moved_segments++;
        report->moved_bytes += infos[i].live_bytes;
        report->freed_bytes += csc_segment_dead(&infos[i]);
    }
    free(infos);
    return 0;
}

/* What goes fast, and what is to be moved. */
static int begin(cascade_store *store, gc *g)
{
    cascade_tier_stats stats = {0};
    int code;

    csc_file_age(store, false, &g->report.dropped_blocks, &g->report.dropped_bytes);
    code = measure(store, &g->report);
    if (code)
        return code;
    atomic_store(&g->total_bytes, g->report.moved_bytes);
    g->report.moved_segments = g->report.moved_bytes = g->report.freed_bytes = 0;
    g->moved_then = atomic_load(&store->counters.compacted_bytes);
    store->file->ops->stats(store->file, &stats);
    g->bytes_then = stats.used_bytes;
    csc_compact_retry(store);
    code = csc_file_room_end_open(store, OPEN_PARTS);
    if (code == 0)
        code = csc_file_room_make(store, 0, 0, 0); /* the budget may have been larger once */
    if (code == 0) {
        g->infos = csc_segments(store, &g->count);
        code = g->infos ? 0 : CASCADE_ENOMEM;
    }
    /* Deletes that may hide nothing any more: whoever asks wants to know. */
    for (size_t i = 0; i < g->count; i++)
        g->infos[i].log_bytes -= g->infos[i].delete_bytes;
    g->is_begun = true;
    return code;
}

/* Each segment once: what is begun by moving is not moved again. */
static int move(cascade_store *store, gc *g)
{
    const csc_segment_info *info = &g->infos[g->next];
    bool done = true;
    int code = 0;

    if (csc_compact_is_worthy(store, CSC_COMPACT_SOMEWHAT, info)) {
        code = csc_compact_part(store, info->segment, &done);
        g->report.moved_segments += code == 0 && done;
    }
    g->next += done;
    return code;
}

/* What was done, also by a gc that did not come to its end. */
static void sum_up(cascade_store *store, gc *g)
{
    cascade_tier_stats stats = {0};

    store->file->ops->stats(store->file, &stats);
    g->report.moved_bytes = atomic_load(&store->counters.compacted_bytes) - g->moved_then;
    if (g->bytes_then > stats.used_bytes)
        g->report.freed_bytes = g->bytes_then - stats.used_bytes;
}

static int part(cascade_store *store, csc_errand *errand, bool *done)
{
    gc *g = (gc *)errand;
    int code;

    if (atomic_load(&g->stop))
        code = csc_fail(CASCADE_EAGAIN, "stopped before the end");
    else
        code = g->is_begun ? 0 : begin(store, g);
    if (code == 0 && g->next < g->count)
        code = move(store, g);
    *done = code || g->next == g->count;
    if (code == 0 && *done)
        code = store->file->ops->sync(store->file); /* so that what was removed stays so */
    return code;
}

static void look(cascade_store *store, csc_errand *errand)
{
    gc *g = (gc *)errand;

    if (g->progress && g->progress(g->context, atomic_load(&store->counters.compacted_bytes) - g->before,
                                   atomic_load(&g->total_bytes)))
        atomic_store(&g->stop, true);
}

int cascade_store_gc(cascade_store *store, bool dry_run, cascade_gc_report *result,
                     cascade_progress progress, void *context)
{
    gc g = {.errand = {.part = part, .look = look}, .progress = progress, .context = context};
    int code;

    CSC_ENTER(store);
    if (!result)
        return csc_fail(CASCADE_EINVAL, "no place for the report");
    if (store->daemon)
        return store->daemon->ops->gc(store, dry_run, result, progress, context);
    code = csc_long_call_begin(store);
    if (code)
        return code;
    if (dry_run) {
        code = measure(store, &g.report);
        csc_file_age(store, true, &g.report.dropped_blocks, &g.report.dropped_bytes);
    } else {
        g.before = atomic_load(&store->counters.compacted_bytes);
        code = csc_errand_run(store, &g.errand);
        if (g.is_begun)
            sum_up(store, &g);
        free(g.infos);
    }
    csc_long_call_end(store);
    *result = g.report;
    return code;
}
