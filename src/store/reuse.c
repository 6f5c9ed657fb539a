/* SPDX-License-Identifier: MIT */
/* Entries that nothing names any more: reused once no reader can stand on them, and, of contents, once
 * nobody looks at their pages. All under the store's lock. */
#include "base/grow.h"
#include "base/mark.h"
#include "store/store_private.h"

static void push_number(csc_numbers *numbers, uint32_t number)
{
    /* Out of memory loses a free entry until the next open, no more. */
    if (csc_grow(&numbers->items, &numbers->room, numbers->count + 1, sizeof *numbers->items))
        numbers->items[numbers->count++] = number;
}

void csc_retire(cascade_store *store, csc_retirees *retirees, uint32_t number)
{
    /* Readers that began in this epoch or before may still stand on the entry. */
    uint64_t epoch = atomic_fetch_add(&store->index.header->epoch, 1);

    if (csc_grow(&retirees->items, &retirees->room, retirees->count + 1, sizeof *retirees->items))
        retirees->items[retirees->count++] = (csc_retired){epoch, number};
}

void csc_key_retire(cascade_store *store, uint32_t number)
{
    atomic_store(&csc_key_at(store, number)->state, CSC_KEY_FREE);
    csc_retire(store, &store->keys_retired, number);
}

static void content_free(cascade_store *store, uint32_t number)
{
    csc_content_entry *entry = csc_content_at(store, number);
    uint64_t generation = (atomic_load(&entry->state) >> CSC_CONTENT_GENERATION_SHIFT) + 1;

    atomic_store(&entry->state, generation << CSC_CONTENT_GENERATION_SHIFT);
    csc_mark("content: freed");
    if (entry->dram.count)
        csc_arena_free(store->arena, &entry->dram);
    push_number(&store->contents_free, number);
}

void csc_content_abandon(cascade_store *store, uint32_t number)
{
    content_free(store, number);
    pthread_cond_broadcast(&store->progress);
}

void csc_entries_reclaim(cascade_store *store)
{
    csc_slots_view view = {.pins = store->pins, .room = CSC_PINS_MAX};
    uint32_t kept = 0;

    if (store->keys_retired.count == 0 && store->contents_retired.count == 0)
        return;
    csc_slots_look(&store->slots, &view);
    for (uint32_t i = 0; i < store->keys_retired.count; i++) {
        csc_retired retired = store->keys_retired.items[i];

        /* A key on its way to disk or in the log queue is still named there by number. */
        if (retired.epoch < view.epoch_min &&
            !(store->key_states[retired.number].flags & (CSC_KS_INFLIGHT | CSC_KS_LOGGED)))
            push_number(&store->keys_free, retired.number);
        else
            store->keys_retired.items[kept++] = retired;
    }
    store->keys_retired.count = kept;
    kept = 0;
    for (uint32_t i = 0; i < store->contents_retired.count; i++) {
        csc_retired retired = store->contents_retired.items[i];
        const csc_content_state *state = &store->content_states[retired.number];

        if (retired.epoch < view.epoch_min && state->busy == 0 &&
            !(state->flags &
              (CSC_CS_HASHING | CSC_CS_WRITING | CSC_CS_TRANSIT_QUEUED | CSC_CS_LOADING)) &&
            !csc_slots_view_pins(&view, retired.number))
            content_free(store, retired.number);
        else
            store->contents_retired.items[kept++] = retired;
    }
    store->contents_retired.count = kept;
}
