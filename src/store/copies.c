/* SPDX-License-Identifier: MIT */
/*
 * Contents of which an open finds several copies. In an unsealed segment a whole header may have a torn
 * payload behind it: a sync failed there, or the power went, and the block was written again elsewhere.
 * Such a copy is read before it is trusted, if there is another; that is rare, and few bytes.
 */
#include "base/grow.h"
#include "store/store_private.h"

#include <stdlib.h>

bool csc_copies_note(csc_copies *copies, uint32_t number, const csc_place *place)
{
    if (!csc_grow(&copies->items, &copies->room, copies->count + 1, sizeof *copies->items))
        return false;
    copies->items[copies->count++] = (csc_twin){number, *place};
    return true;
}

/* Whether the chosen copy is not known to be damaged. */
static bool is_whole(cascade_store *store, uint32_t number, uint8_t **buffer, uint64_t *room)
{
    const csc_content_entry *entry = csc_content_at(store, number);
    uint64_t bytes = csc_content_bytes(entry);
    cascade_piece piece;

    if (bytes > *room) {
        free(*buffer);
        *buffer = malloc(bytes);
        *room = *buffer ? bytes : 0;
    }
    piece = (cascade_piece){*buffer, bytes};
    return !*buffer || csc_tier_read_one(store->file, &entry->file, &entry->content, 0, &piece, 1) !=
                           CASCADE_ECORRUPT;
}

void csc_copies_check(cascade_store *store, csc_copies *copies)
{
    uint8_t *buffer = NULL;
    uint64_t room = 0;

    for (size_t i = 0; i < copies->count; i++) {
        const csc_twin *copy = &copies->items[i];

        if (csc_place_is_set(&csc_content_at(store, copy->number)->file) &&
            !is_whole(store, copy->number, &buffer, &room))
            csc_content_at(store, copy->number)->file = copy->place; /* nothing counts either yet */
    }
    free(buffer);
    free(copies->items);
    *copies = (csc_copies){0};
}
