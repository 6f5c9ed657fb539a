/* SPDX-License-Identifier: MIT */
/* Facts about blocks, and which keys there are. */
#include "base/fail.h"
#include "store/client.h"

#include <string.h>

int csc_info(cascade_store *store, const csc_name *name, cascade_info *info)
{
    csc_slot *slot = csc_slot_guard(&store->slots);
    const csc_content_entry *entry;
    cascade_info found = {0};
    bool lost = false;
    uint64_t state;
    uint32_t content;

    if (!slot)
        return csc_fail(CASCADE_ENOSLOT, "all %u pin slots are taken: release views", CSC_AREA_SLOTS);
    content = csc_look_up(store, name, &state, &lost);
    if (content == CSC_NUMBER_NONE) {
        csc_slot_release(slot);
        return lost ? csc_fail(CASCADE_EAGAIN, "the index kept changing") : CASCADE_MISS;
    }
    entry = csc_content_at(store, content);
    found.k_bytes = entry->content.k_bytes;
    found.v_bytes = entry->content.v_bytes;
    found.tenant = entry->content.tenant;
    found.has_id = state & CSC_CONTENT_DIGEST;
    found.in_dram = state & CSC_CONTENT_RESIDENT;
    if (found.has_id)
        memcpy(found.id.bytes, entry->content.digest, sizeof found.id.bytes);
    /* The guard keeps the entry from being reused, so all this is of one content. */
    csc_slot_release(slot);
    *info = found;
    return 0;
}

static void owner_facts(cascade_store *store, const csc_name *name, cascade_info *info)
{
    uint32_t number = CSC_NUMBER_NONE;
    bool lost = false;
    uint64_t state;

    /* What only the owner's tables say; a put may give a key another parent. */
    pthread_mutex_lock(&store->lock);
    if (name->key)
        number = csc_index_find(&store->index, name->key, csc_index_key_hash(&store->index, name->key),
                                &lost);
    if (number != CSC_NUMBER_NONE) {
        info->has_parent = atomic_load(&csc_key_at(store, number)->state) & CSC_KEY_HAS_PARENT;
        if (info->has_parent)
            info->parent = csc_key_at(store, number)->parent;
    }
    number = csc_look_up(store, name, &state, &lost);
    if (number != CSC_NUMBER_NONE) {
        info->references = csc_content_at(store, number)->references;
        info->in_file = csc_place_is_set(&csc_content_at(store, number)->file);
    }
    pthread_mutex_unlock(&store->lock);
}

static int facts_of(cascade_store *store, const csc_name *name, cascade_info *info)
{
    int code = csc_info(store, name, info);

    if (code == 0)
        owner_facts(store, name, info);
    return code;
}

int csc_block_facts(cascade_store *store, const cascade_key *key, cascade_info *info)
{
    return facts_of(store, &(csc_name){.key = key}, info);
}

static int info_of(cascade_store *store, const csc_name *name, cascade_info *info)
{
    int code;

    if (store->daemon)
        return store->daemon->ops->info(store, name, info);
    code = facts_of(store, name, info);
    return code == CASCADE_MISS && csc_discover(store) ? facts_of(store, name, info) : code;
}

int cascade_block_info(cascade_store *store, const cascade_key *key, cascade_info *info)
{
    CSC_ENTER(store);
    if (!key || !info)
        return csc_fail(CASCADE_EINVAL, "no key or no place for the facts");
    return info_of(store, &(csc_name){.key = key}, info);
}

int cascade_content_info(cascade_store *store, uint64_t tenant, const cascade_id *id, cascade_info *info)
{
    CSC_ENTER(store);
    if (!id || !info)
        return csc_fail(CASCADE_EINVAL, "no id or no place for the facts");
    return info_of(store, &(csc_name){.tenant = tenant, .id = id}, info);
}

int cascade_key_next(cascade_store *store, uint64_t *cursor, cascade_key *key, cascade_info *info)
{
    CSC_ENTER(store);
    if (!cursor || !key || !info)
        return csc_fail(CASCADE_EINVAL, "no place for the cursor, the key or the facts");
    if (store->daemon)
        return store->daemon->ops->key_next(store, cursor, key, info);
    for (;;) {
        bool found = false;
        cascade_key seen;
        uint64_t at;
        int code;

        pthread_mutex_lock(&store->lock);
        for (at = *cursor; at < store->keys_made && !found; at++) {
            const csc_key_entry *entry = csc_key_at(store, (uint32_t)at);

            if ((atomic_load(&entry->state) & 0xff) == CSC_KEY_BOUND) {
                seen = entry->key;
                found = true;
            }
        }
        pthread_mutex_unlock(&store->lock);
        code = found ? csc_block_facts(store, &seen, info) : CASCADE_MISS;
        if (code < 0)
            return code; /* the cursor stays: the next call tries this key again */
        *cursor = at;
        if (!found)
            return CASCADE_MISS;
        if (code == 0) {
            *key = seen;
            return 0;
        }
    }
}
