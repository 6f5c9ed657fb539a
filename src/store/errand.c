/* SPDX-License-Identifier: MIT */
/*
 * What a call has the writer do, which alone may empty segments: a gc, a scrub that fixes. It is done in
 * parts, between rounds: there may be much to move, and puts and flushes do not wait for all of it. One
 * call's errand at a time.
 */
#include "base/clock.h"
#include "base/fail.h"
#include "store/store_private.h"

#include <stdio.h>

#define LOOK_NS UINT64_C(100000000) /* between two looks of the caller */

/* Lock held. */
static void end(cascade_store *store, int code, const char *text)
{
    csc_errand *errand = store->errand;

    errand->code = code;
    snprintf(errand->text, sizeof errand->text, "%s", text);
    errand->is_done = true;
    store->errand = NULL;
    pthread_cond_broadcast(&store->progress);
}

void csc_errand_serve(cascade_store *store)
{
    csc_errand *errand;
    bool done = false;
    int code;

    pthread_mutex_lock(&store->lock);
    if (store->errand && store->closing)
        end(store, CASCADE_EAGAIN, "the store is being closed");
    errand = store->errand;
    pthread_mutex_unlock(&store->lock);
    if (!errand)
        return;
    code = errand->part(store, errand, &done);
    if (code == 0 && !done)
        return;
    pthread_mutex_lock(&store->lock);
    end(store, code, csc_fail_text());
    pthread_mutex_unlock(&store->lock);
}

int csc_errand_run(cascade_store *store, csc_errand *errand)
{
    pthread_mutex_lock(&store->lock);
    while (store->errand) /* another's first */
        csc_store_wait(store, csc_clock_ns() + LOOK_NS);
    store->errand = errand;
    pthread_cond_signal(&store->write_work);
    while (!errand->is_done) {
        csc_store_wait(store, csc_clock_ns() + LOOK_NS);
        if (errand->is_done || !errand->look)
            continue;
        pthread_mutex_unlock(&store->lock);
        errand->look(store, errand);
        pthread_mutex_lock(&store->lock);
    }
    pthread_mutex_unlock(&store->lock);
    return errand->code ? csc_fail(errand->code, "%s", errand->text) : 0;
}
