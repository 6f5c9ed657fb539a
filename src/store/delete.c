/* SPDX-License-Identifier: MIT */
/* Deleting by key. */
#include "base/clock.h"
#include "base/fail.h"
#include "store/client.h"

int cascade_block_delete(cascade_store *store, const cascade_key *key)
{
    uint64_t begin_ns = csc_clock_ns();
    uint32_t number;
    int code = 0;

    CSC_ENTER(store);
    if (!key)
        return csc_fail(CASCADE_EINVAL, "no key");
    if (store->daemon)
        return store->daemon->ops->remove(store, key);
    pthread_mutex_lock(&store->lock);
    number = csc_key_find(store, key);
    if (number == CSC_NUMBER_NONE) {
        pthread_mutex_unlock(&store->lock);
        (void)csc_discover(store); /* a delete is for what others wrote, too */
        pthread_mutex_lock(&store->lock);
        number = csc_key_find(store, key);
    }
    if (number == CSC_NUMBER_NONE) {
        code = CASCADE_MISS;
    } else {
        csc_key_unbind(store, number, csc_key_is_on_disk(store, number) ? csc_next_sequence(store) : 0);
        csc_count(&store->counters.deletes, 1);
        csc_entries_reclaim(store);
        pthread_cond_broadcast(&store->progress);
    }
    pthread_mutex_unlock(&store->lock);
    if (code == 0)
        csc_latency(store, CASCADE_OP_DELETE, begin_ns);
    return code;
}
