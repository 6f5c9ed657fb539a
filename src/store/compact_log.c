/* SPDX-License-Identifier: MIT */
/* What a segment that goes is needed for beside its blocks: binds and deletes without bytes. */
#include "base/mark.h"
#include "store/compact_private.h"

typedef struct csc_compactor compactor;

/* Logs and syncs what was gathered; the binds among it are recorded there from then on. */
static int write_log(cascade_store *store, compactor *c)
{
    uint32_t where = 0;
    int code;

    if (c->log_count == 0)
        return 0;
    code = csc_segment_log(store->file, c->log, c->log_count, &where);
    if (code == 0)
        code = store->file->ops->sync(store->file);
    csc_mark("compact: logged");
    pthread_mutex_lock(&store->lock);
    for (uint32_t i = 0; i < c->log_count && code == 0; i++) {
        csc_key_entry *key;

        if (c->log[i].is_delete)
            continue;
        key = csc_key_at(store, c->log_keys[i]);
        if ((atomic_load(&key->state) & 0xff) == CSC_KEY_BOUND && key->segment == c->segment &&
            key->sequence == c->log[i].binding.sequence)
            key->segment = where + 1;
    }
    pthread_mutex_unlock(&store->lock);
    c->written += (uint64_t)c->log_count * sizeof(csc_log_entry);
    c->log_count = 0;
    return code;
}

int csc_compact_move_binds(cascade_store *store, compactor *c)
{
    int code = 0;

    pthread_mutex_lock(&store->lock);
    for (uint32_t number = 0; number < store->keys_made && code == 0; number++) {
        csc_key_entry *key = csc_key_at(store, number);
        const csc_content_entry *entry;

        if (number % CSC_SCAN_STEP == CSC_SCAN_STEP - 1) {
            pthread_mutex_unlock(&store->lock);
            pthread_mutex_lock(&store->lock);
        }
        if ((atomic_load(&key->state) & 0xff) != CSC_KEY_BOUND || key->segment != c->segment)
            continue;
        entry = csc_content_at(store, atomic_load(&key->content));
        if (!csc_place_is_set(&entry->file)) {
            /* It goes with the content's next record. Until the segment is gone a delete needs its
             * tombstone. */
            key->segment = 0;
            store->key_states[number].flags |= CSC_KS_RECORDED;
            continue;
        }
        c->log[c->log_count] =
            (csc_log_entry){.binding = csc_binding_of(key), .content = entry->content};
        c->log_keys[c->log_count++] = number;
        if (c->log_count == CSC_COMPACT_LOG_ENTRIES) {
            pthread_mutex_unlock(&store->lock);
            code = write_log(store, c);
            pthread_mutex_lock(&store->lock);
        }
    }
    pthread_mutex_unlock(&store->lock);
    return code ? code : write_log(store, c);
}

/* Whether the bind counts, and is recorded in another segment by now. */
static bool is_elsewhere(cascade_store *store, const csc_binding *binding)
{
    bool lost = false, yes = false;
    uint32_t number;

    pthread_mutex_lock(&store->lock);
    number = csc_index_find(&store->index, &binding->key,
                            csc_index_key_hash(&store->index, &binding->key), &lost);
    if (number != CSC_NUMBER_NONE) {
        const csc_key_entry *key = csc_key_at(store, number);

        yes = key->sequence == binding->sequence && key->segment &&
              key->segment != store->compactor->segment;
    }
    pthread_mutex_unlock(&store->lock);
    return yes;
}

/*
 * What a delete hides stays hidden. So does what a bind hides, be it of a key that was deleted since:
 * that delete may not be durable yet, and the one between the two binds may have been dropped with a
 * dead owner's entry. In the place of such a bind comes a delete just before it, so that the bind itself
 * is still found where it is recorded otherwise. What lies in a file that could not be read nobody
 * knows. Nothing is older than 0, which no writer gives, and which a file may hold all the same.
 */
static int move_hider(void *context, const csc_binding *binding, bool is_delete)
{
    cascade_store *store = context;
    compactor *c = store->compactor;
    csc_log_entry entry = {.is_delete = true,
                           .binding = {.key = binding->key, .sequence = binding->sequence}};

    if (is_delete && c->all_known && !csc_segment_may_hide(store->file, c->segment - 1, &entry.binding))
        return 0;
    if (binding->sequence == 0)
        return 0;
    if (!is_delete && ((!store->files_skipped &&
                        !csc_segment_bind_may_hide(store->file, c->segment - 1, &entry.binding)) ||
                       is_elsewhere(store, binding)))
        return 0;
    entry.binding.sequence -= !is_delete;
    c->log[c->log_count++] = entry;
    return c->log_count == CSC_COMPACT_LOG_ENTRIES ? write_log(store, c) : 0;
}

int csc_compact_move_hiders(cascade_store *store, compactor *c)
{
    int code;

    c->all_known = !store->files_skipped && csc_discover_now(store);
    code = csc_segment_hiders(store->file, c->segment - 1, move_hider, store);

    return code ? code : write_log(store, c);
}
