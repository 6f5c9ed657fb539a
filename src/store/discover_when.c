/* SPDX-License-Identifier: MIT */
/*
 * When the store looks for what others wrote, and who waits for that. A thread of its own looks, when a
 * miss asks for that and the last look is long enough ago: whoever misses waits, until the look has
 * taken as long as a read may take, and others do not. A match that ends early only leaves a note for
 * the keeper. Whoever is about to decide something for good, such as that a delete is of no use any
 * more, has it look at once. What a look does is in discover.c.
 */
#include "base/clock.h"
#include "store/store_private.h"

#define SLOW_NS     UINT64_C(250000000)
#define SLOW_FACTOR 9u

bool csc_discover_is_due(const cascade_store *store, uint64_t now_ns)
{
    return now_ns >= atomic_load_explicit(&store->look_due_ns, memory_order_relaxed);
}

/* Where a look is slow, misses are to wait for it a small part of the time only. */
static uint64_t pause_after(const cascade_store *store, uint64_t took_ns)
{
    uint64_t least_ns = store->config.refresh_ms * UINT64_C(1000000);
    uint64_t slow_ns = took_ns < SLOW_NS ? 0 : SLOW_FACTOR * took_ns;

    return slow_ns > least_ns ? slow_ns : least_ns;
}

bool csc_discover_later(cascade_store *store, uint64_t now_ns)
{
    if (!csc_discover_is_due(store, now_ns))
        return false;
    atomic_store_explicit(&store->look_wanted, true, memory_order_relaxed);
    return true;
}

static void ask(cascade_store *store)
{
    if (store->look_asked)
        return;
    store->look_asked = true;
    store->look_asked_ns = csc_clock_ns();
    pthread_cond_signal(&store->discover_work);
}

uint64_t csc_discover_ask(cascade_store *store)
{
    ask(store);
    return store->looks_done + 1;
}

bool csc_discover_is_slow(const cascade_store *store)
{
    return store->look_asked && csc_clock_ns() >= store->look_asked_ns + SLOW_NS;
}

void csc_discover_if_wanted(cascade_store *store)
{
    if (atomic_exchange_explicit(&store->look_wanted, false, memory_order_relaxed) &&
        csc_discover_is_due(store, csc_clock_ns()))
        ask(store);
}

/* Until that look is done, or has taken as long as a read may. Lock held. */
static bool wait_for(cascade_store *store, uint64_t look)
{
    while (store->looks_done < look) {
        if (store->stopping)
            return false;
        ask(store);
        if (!csc_store_wait(store,
                            store->look_asked_ns + store->config.io_deadline_ms * UINT64_C(1000000)))
            return false;
    }
    return true;
}

bool csc_discover(cascade_store *store)
{
    uint64_t now_ns = csc_clock_ns();
    bool done = true;

    if (!csc_discover_is_due(store, now_ns))
        return false;
    pthread_mutex_lock(&store->lock);
    if (csc_discover_is_due(store, now_ns)) /* else another thread had it look meanwhile */
        done = wait_for(store, store->looks_done + 1);
    pthread_mutex_unlock(&store->lock);
    return done;
}

bool csc_discover_now(cascade_store *store)
{
    bool known;

    pthread_mutex_lock(&store->lock);
    known = wait_for(store, store->looks_begun + 1) && store->look_code == 0;
    pthread_mutex_unlock(&store->lock);
    return known;
}

bool csc_discover_if_bad(cascade_store *store, const csc_tier_read *reads, size_t count)
{
    bool is_bad = false;

    for (size_t i = 0; i < count; i++)
        is_bad |= reads[i].status == CASCADE_MISS || reads[i].status == CASCADE_ECORRUPT;
    return !is_bad || csc_discover_now(store);
}

void *csc_discover_main(void *context)
{
    cascade_store *store = context;
    uint64_t begun_ns;
    int code;

    pthread_mutex_lock(&store->lock);
    while (!store->stopping) {
        if (!store->look_asked) {
            pthread_cond_wait(&store->discover_work, &store->lock);
            continue;
        }
        store->looks_begun++;
        pthread_mutex_unlock(&store->lock);
        begun_ns = csc_clock_ns();
        code = csc_discover_look(store);
        pthread_mutex_lock(&store->lock);
        store->look_code = code;
        store->look_asked = false;
        store->looks_done++;
        atomic_store(&store->look_due_ns,
                     csc_clock_ns() + pause_after(store, csc_clock_ns() - begun_ns));
        pthread_cond_broadcast(&store->progress);
    }
    pthread_cond_broadcast(&store->progress); /* nobody looks any more */
    pthread_mutex_unlock(&store->lock);
    return NULL;
}
