/* SPDX-License-Identifier: MIT */
/*
 * A gc by hand: asked for in one thread, done by the writer, which alone may empty segments. It is done
 * in parts, between rounds: there may be much to move, and puts and flushes do not wait for all of it.
 */
#include "base/clock.h"
#include "base/fail.h"
#include "store/store_private.h"

#include <stdio.h>
#include <stdlib.h>

#define OPEN_PARTS 20u /* more than this part of the open segment dead: it is emptied too */
#define LOOK_NS    UINT64_C(100000000) /* between two calls of the caller's progress */

struct csc_gc {
    cascade_gc_report report;
    _Atomic bool stop;
    _Atomic uint64_t total_bytes; /* to be moved */
    /* the writer's */
    bool is_begun;
    csc_segment_info *infos; /* there were at the beginning */
    size_t count, next;
    uint64_t bytes_then, moved_then;
    /* under the lock */
    bool is_done;
    int code;
    char text[256];
};

/* What there is, and how much of it is worth moving. */
static void measure(cascade_store *store, cascade_gc_report *report)
{
    cascade_tier_stats stats = {0};
    size_t count;
    csc_segment_info *infos = csc_segments(store, &count);

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
}

/* The open segment is emptied like another once it is sealed. */
static int seal_if_worthy(cascade_store *store)
{
    size_t count;
    csc_segment_info *infos = csc_segments(store, &count);
    bool is_wanted = false;

    for (size_t i = 0; i < count; i++)
        is_wanted |= infos[i].open && csc_segment_dead(&infos[i]) * OPEN_PARTS > infos[i].bytes;
    free(infos);
    return is_wanted ? csc_segment_seal(store->file) : 0;
}

/* What goes fast, and what is to be moved. */
static int begin(cascade_store *store, struct csc_gc *gc)
{
    cascade_tier_stats stats = {0};
    int code;

    csc_file_age(store, false, &gc->report.dropped_blocks, &gc->report.dropped_bytes);
    measure(store, &gc->report);
    atomic_store(&gc->total_bytes, gc->report.moved_bytes);
    gc->report.moved_segments = gc->report.moved_bytes = gc->report.freed_bytes = 0;
    gc->moved_then = atomic_load(&store->counters.compacted_bytes);
    store->file->ops->stats(store->file, &stats);
    gc->bytes_then = stats.used_bytes;
    csc_compact_retry(store);
    code = seal_if_worthy(store);
    if (code == 0)
        code = csc_file_room_make(store, 0, 0, 0); /* the budget may have been larger once */
    if (code == 0)
        gc->infos = csc_segments(store, &gc->count);
    /* Deletes that may hide nothing any more: whoever asks wants to know. */
    for (size_t i = 0; i < gc->count; i++)
        gc->infos[i].log_bytes -= gc->infos[i].delete_bytes;
    gc->is_begun = true;
    return code;
}

/* Each segment once: what is begun by moving is not moved again. */
static int move(cascade_store *store, struct csc_gc *gc)
{
    const csc_segment_info *info = &gc->infos[gc->next];
    bool done = true;
    int code = 0;

    if (csc_compact_is_worthy(store, CSC_COMPACT_SOMEWHAT, info)) {
        code = csc_compact_part(store, info->segment, &done);
        gc->report.moved_segments += code == 0 && done;
    }
    gc->next += done;
    return code;
}

static int finish(cascade_store *store, struct csc_gc *gc, int code)
{
    cascade_tier_stats stats = {0};

    if (code == 0)
        code = store->file->ops->sync(store->file); /* so that what was removed stays so */
    store->file->ops->stats(store->file, &stats);
    gc->report.moved_bytes = atomic_load(&store->counters.compacted_bytes) - gc->moved_then;
    if (gc->bytes_then > stats.used_bytes)
        gc->report.freed_bytes = gc->bytes_then - stats.used_bytes;
    return code;
}

/* Lock held. */
static void end(cascade_store *store, int code, const char *text)
{
    struct csc_gc *gc = store->gc;

    gc->code = code;
    snprintf(gc->text, sizeof gc->text, "%s", text);
    free(gc->infos);
    gc->is_done = true;
    store->gc = NULL;
    pthread_cond_broadcast(&store->progress);
}

void csc_gc_serve(cascade_store *store)
{
    struct csc_gc *gc;
    int code;

    pthread_mutex_lock(&store->lock);
    gc = store->gc;
    pthread_mutex_unlock(&store->lock);
    if (!gc)
        return;
    if (atomic_load(&gc->stop))
        code = csc_fail(CASCADE_EAGAIN, "stopped before the end");
    else
        code = gc->is_begun ? 0 : begin(store, gc);
    if (code == 0 && gc->next < gc->count)
        code = move(store, gc);
    if (code == 0 && gc->next < gc->count)
        return;
    code = finish(store, gc, code);
    pthread_mutex_lock(&store->lock);
    end(store, code, csc_fail_text());
    pthread_mutex_unlock(&store->lock);
}

void csc_gc_stop(cascade_store *store)
{
    if (store->gc)
        end(store, CASCADE_EAGAIN, "the store is being closed");
}

int cascade_store_gc(cascade_store *store, bool dry_run, cascade_gc_report *result,
                     cascade_progress progress, void *context)
{
    struct csc_gc gc = {0};
    uint64_t before;

    CSC_ENTER(store);
    if (!result)
        return csc_fail(CASCADE_EINVAL, "no place for the report");
    if (dry_run) {
        measure(store, &gc.report);
        csc_file_age(store, true, &gc.report.dropped_blocks, &gc.report.dropped_bytes);
        *result = gc.report;
        return 0;
    }
    before = atomic_load(&store->counters.compacted_bytes);
    pthread_mutex_lock(&store->lock);
    while (store->gc && !store->stopping) /* another's first */
        csc_store_wait(store, csc_clock_ns() + LOOK_NS);
    if (store->stopping) {
        pthread_mutex_unlock(&store->lock);
        return csc_fail(CASCADE_EAGAIN, "the store is being closed");
    }
    store->gc = &gc;
    pthread_cond_signal(&store->write_work);
    while (!gc.is_done) {
        csc_store_wait(store, csc_clock_ns() + LOOK_NS);
        if (gc.is_done || !progress)
            continue;
        pthread_mutex_unlock(&store->lock);
        if (progress(context, atomic_load(&store->counters.compacted_bytes) - before,
                     atomic_load(&gc.total_bytes)))
            atomic_store(&gc.stop, true);
        pthread_mutex_lock(&store->lock);
    }
    pthread_mutex_unlock(&store->lock);
    *result = gc.report;
    return gc.code ? csc_fail(gc.code, "%s", gc.text) : 0;
}
