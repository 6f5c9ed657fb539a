/* SPDX-License-Identifier: MIT */
/* Pages that somebody may still be filling for a dead owner, and until when they are left alone. */
#include "store/filled.h"
#include "base/clock.h"
#include "base/fail.h"
#include "base/grow.h"

/* The area of the client that reserved the pages and may be filling them, while it lives; else 0. */
static uint32_t client_that_fills(cascade_store *store, const csc_content_entry *entry)
{
    uint32_t area = entry->file.words[0];

    return atomic_load(&entry->state) & (CSC_CONTENT_LIVE | CSC_CONTENT_DOOMED) ||
                   !csc_arena_is_claimed(store->arena, area)
               ? 0
               : area;
}

bool csc_filled_is(cascade_store *store, uint32_t number)
{
    const csc_content_entry *entry = csc_content_at(store, number);
    uint64_t state = atomic_load(&entry->state);

    return (state & CSC_CONTENT_FILLING) &&
           ((state & (CSC_CONTENT_LIVE | CSC_CONTENT_DOOMED)) || client_that_fills(store, entry));
}

static int note_aside(cascade_store *store, const csc_set_aside *aside)
{
    if (!csc_grow(&store->set_aside, &store->set_aside_room, store->set_aside_count + 1,
                  sizeof *store->set_aside))
        return csc_fail(CASCADE_ENOMEM, "no memory for the index");
    store->set_aside[store->set_aside_count++] = *aside;
    return 0;
}

/* The dead owner reserved these pages for a client, which may go on filling them until it has heard of
 * the new owner or is dead. The entry stays as it is: the client goes by it, and so does a next owner.
 */
static int leave_to_client(cascade_store *store, uint32_t number, uint32_t area, bool *left)
{
    csc_content_entry *entry = csc_content_at(store, number);

    *left = csc_content_is_sane(&entry->content) && entry->dram.count &&
            csc_arena_claim(store->arena, &entry->dram, csc_content_bytes(entry)) == 0;
    return *left ? note_aside(store, &(csc_set_aside){.number = number, .area = area}) : 0;
}

/* The dead owner had the file tier fill these pages. Its transfers ended before its lock did (the kernel
 * tears rings and threads down first); should one not have, the pages stay out of use for as long as a
 * read may take. They are claimed after all whole blocks, so that runs that were being written when the
 * owner was killed cannot take a block's pages away. */
static int set_aside(cascade_store *store, uint32_t number)
{
    csc_content_entry *entry = csc_content_at(store, number);
    csc_set_aside aside = {.extents = entry->dram};
    int code = 0;

    entry->dram = (csc_extents){0};
    atomic_fetch_and(&entry->state, ~(uint64_t)CSC_CONTENT_FILLING);
    if (csc_content_is_sane(&entry->content) && aside.extents.count &&
        csc_arena_claim(store->arena, &aside.extents, csc_content_bytes(entry)) == 0)
        code = note_aside(store, &aside);
    return code;
}

int csc_filled_take(cascade_store *store, uint32_t number, bool *left)
{
    uint32_t area = client_that_fills(store, csc_content_at(store, number));

    *left = false;
    return area ? leave_to_client(store, number, area, left) : set_aside(store, number);
}

void csc_recover_end_area(cascade_store *store, uint32_t area)
{
    size_t kept = 0;

    for (size_t i = 0; i < store->set_aside_count; i++)
        if (store->set_aside[i].area == area && area)
            csc_content_abandon(store, store->set_aside[i].number);
        else if (store->set_aside[i].area == area)
            csc_arena_free(store->arena, &store->set_aside[i].extents);
        else
            store->set_aside[kept++] = store->set_aside[i];
    if (kept < store->set_aside_count)
        pthread_cond_broadcast(&store->progress);
    store->set_aside_count = kept;
}

void csc_recover_end_grace(cascade_store *store)
{
    if (csc_clock_ns() >= store->set_aside_until_ns)
        csc_recover_end_area(store, 0);
    for (uint32_t area = 1; store->set_aside_count && area < CSC_SLOT_AREAS; area++)
        if (!csc_arena_is_claimed(store->arena, area))
            csc_recover_end_area(store, area);
}
