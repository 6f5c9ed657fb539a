/* SPDX-License-Identifier: MIT */
/*
 * What records on disk say, when an open or a refresh reads them: of which content, and whether a later
 * delete hides it.
 *
 * Deleted keys are kept by the sequence of their latest delete: a bind that another rank made before it,
 * and that is found after it, must not bring the key back. A table with open addressing, of the keys'
 * hashes; two keys with the same hash would at worst make a miss. When it is as large as it may get, the
 * older half is forgotten: a bind older than all that stays hidden only when the store is opened the
 * next time.
 */
#include "store/store_private.h"

#include <stdlib.h>
#include <string.h>

#define ROOM_FIRST 1024u
#define ROOM_MAX   (1u << 21) /* 32 MiB */
#define SAMPLES    1024u

/* ---- contents ----------------------------------------------------------------------------------- */

uint32_t csc_content_find(cascade_store *store, const csc_content *content)
{
    uint32_t hash = csc_index_id_hash(&store->index, content->tenant, content->digest);
    uint32_t link = csc_hash_start(&store->index.content_list, hash), order = csc_hash_order(hash),
             found;
    bool lost = false;

    while ((found = csc_hash_seek(&store->index.content_list, link, order, &lost)) != CSC_HASH_NONE) {
        const csc_content_entry *entry = csc_content_at(store, found);

        if (csc_content_has(entry, CSC_CONTENT_LIVE) &&
            memcmp(&entry->content, content, sizeof *content) == 0)
            return found;
        link = atomic_load(&entry->node.next);
    }
    return CSC_NUMBER_NONE;
}

int csc_content_for(cascade_store *store, const csc_content *content, uint32_t *number, bool *made)
{
    int code;

    *number = csc_content_find(store, content);
    *made = *number == CSC_NUMBER_NONE;
    if (!*made)
        return 0;
    code = csc_content_make(store, content, number);
    if (code)
        return code;
    atomic_fetch_or(&csc_content_at(store, *number)->state, CSC_CONTENT_LIVE);
    atomic_fetch_and(&csc_content_at(store, *number)->state, ~(uint64_t)CSC_CONTENT_FILLING);
    store->content_count++;
    store->content_bytes += content->k_bytes + content->v_bytes;
    csc_content_set_digest(store, *number, content->digest);
    return 0;
}

/* ---- deletes ------------------------------------------------------------------------------------ */

static uint64_t hash_of(const cascade_store *store, const cascade_key *key)
{
    uint64_t hash = csc_checksum(key->bytes, sizeof key->bytes, store->index.hash_seed);

    return hash ? hash : 1;
}

/* The slot of a hash, or the free one where it belongs. There is always a free one. */
static csc_deleted *slot_of(csc_deleted *slots, uint32_t room, uint64_t hash)
{
    uint32_t at = (uint32_t)(hash >> 32) & (room - 1);

    while (slots[at].hash && slots[at].hash != hash)
        at = (at + 1) & (room - 1);
    return &slots[at];
}

/* Moves what is not older than `from` to a table of that room. Out of memory: all stays. */
static void rebuild(cascade_store *store, uint32_t room, uint64_t from)
{
    csc_deleted *slots = calloc(room, sizeof *slots);

    if (!slots)
        return;
    store->deleted_count = 0;
    for (uint32_t i = 0; i < store->deleted_room; i++)
        if (store->deleted[i].hash && store->deleted[i].sequence >= from) {
            *slot_of(slots, room, store->deleted[i].hash) = store->deleted[i];
            store->deleted_count++;
        }
    free(store->deleted);
    store->deleted = slots;
    store->deleted_room = room;
}

static int compare_sequences(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return *x < *y ? -1 : *x > *y;
}

/* About the median: hashes are in no order, so some of the slots are as good as all. */
static uint64_t middle_sequence(const cascade_store *store)
{
    uint64_t samples[SAMPLES];
    size_t count = 0;

    for (uint32_t i = 0; i < store->deleted_room && count < SAMPLES; i++)
        if (store->deleted[i].hash)
            samples[count++] = store->deleted[i].sequence;
    qsort(samples, count, sizeof samples[0], compare_sequences);
    return samples[count / 2];
}

void csc_deleted_note(cascade_store *store, const cascade_key *key, uint64_t sequence)
{
    uint64_t hash = hash_of(store, key);
    csc_deleted *slot;

    if (store->deleted_count >= store->deleted_room / 4 * 3) {
        if (store->deleted_room < ROOM_MAX)
            rebuild(store, store->deleted_room ? 2 * store->deleted_room : ROOM_FIRST, 0);
        else
            rebuild(store, store->deleted_room, middle_sequence(store));
    }
    if (store->deleted_count + 1 >= store->deleted_room)
        return; /* no memory */
    slot = slot_of(store->deleted, store->deleted_room, hash);
    store->deleted_count += slot->hash == 0;
    slot->hash = hash;
    if (slot->sequence < sequence)
        slot->sequence = sequence;
}

bool csc_deleted_hides(const cascade_store *store, const csc_binding *binding)
{
    return store->deleted_count &&
           slot_of(store->deleted, store->deleted_room, hash_of(store, &binding->key))->sequence >
               binding->sequence;
}
