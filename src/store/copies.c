/* SPDX-License-Identifier: MIT */
/*
 * Contents of which there are several copies in segments.
 *
 * In an unsealed segment a whole header may have a torn payload behind it: a sync failed there, or the
 * power went, and the block was written again elsewhere. An open reads such a copy before it trusts it,
 * if there is another; that is rare, and few bytes.
 *
 * Copies that are not chosen are remembered: another rank makes one when it empties a segment, which is
 * seen while the old one is still there, and each record is visited only once. The newest are kept.
 */
#include "base/fail.h"
#include "base/grow.h"
#include "base/log.h"
#include "store/store_private.h"

#include <stdlib.h>

#define KEPT_FIRST ((size_t)1 << 10) /* powers of two */
#define KEPT_MAX   ((size_t)1 << 18)

bool csc_copies_note(csc_copies *copies, uint32_t number, const csc_place *place)
{
    if (!csc_grow(&copies->items, &copies->room, copies->count + 1, sizeof *copies->items))
        return false;
    copies->items[copies->count++] = (csc_twin){.number = number, .place = *place};
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

        if (!csc_place_is_set(&csc_content_at(store, copy->number)->file) ||
            is_whole(store, copy->number, &buffer, &room))
            continue;
        csc_content_at(store, copy->number)->file = copy->place; /* nothing counts as live yet */
        csc_count(&store->counters.quarantined[CASCADE_TIER_FILE], 1);
        csc_log(CSC_LOG_WARNING, "another copy of a block is used: %s", csc_fail_text());
    }
    free(buffer);
    free(copies->items);
    *copies = (csc_copies){0};
}

/* ---- remembered ----------------------------------------------------------------------------------- */

static uint32_t *chain_of(csc_remembered *r, uint32_t number)
{
    return &r->chains[number & (r->room - 1)];
}

static void link_in(csc_remembered *r, size_t index)
{
    uint32_t *chain = chain_of(r, r->items[index].number);

    r->items[index].next = *chain;
    *chain = (uint32_t)index + 1;
}

static void take_out(csc_remembered *r, size_t index)
{
    uint32_t *link = chain_of(r, r->items[index].number);

    while (*link != index + 1)
        link = &r->items[*link - 1].next;
    *link = r->items[index].next;
    r->items[index].number = CSC_NUMBER_NONE;
}

/* Without memory it stays as it is. */
static void grow(csc_remembered *r)
{
    size_t room = r->room ? 2 * r->room : KEPT_FIRST;
    csc_twin *items = realloc(r->items, room * sizeof *items);
    uint32_t *chains = calloc(room, sizeof *chains);

    if (items)
        r->items = items;
    if (!items || !chains) {
        free(chains);
        return;
    }
    free(r->chains);
    r->chains = chains;
    r->room = room;
    for (size_t i = 0; i < r->count; i++)
        if (r->items[i].number != CSC_NUMBER_NONE)
            link_in(r, i);
}

void csc_copies_keep(cascade_store *store, uint32_t number, const csc_place *place)
{
    csc_remembered *r = &store->remembered;
    size_t index;

    if (r->count == r->room && r->room < KEPT_MAX)
        grow(r);
    if (r->room == 0)
        return;
    if (r->count < r->room) {
        index = r->count++;
    } else {
        index = r->oldest;
        r->oldest = (r->oldest + 1) % r->room;
        if (r->items[index].number != CSC_NUMBER_NONE)
            take_out(r, index);
    }
    r->items[index] = (csc_twin){.number = number,
                                 .generation = csc_content_generation(csc_content_at(store, number)),
                                 .place = *place};
    link_in(r, index);
}

static bool is_gone(const cascade_store *store, const csc_place *place)
{
    return csc_segment_standing(store->file, csc_segment_of(place)) & CSC_SEGMENT_IS_GONE;
}

/* Whether it is a copy of what its number says, and not the chosen one. In a segment that is about to be
 * removed it is of no use. */
static bool is_another(cascade_store *store, const csc_twin *twin)
{
    const csc_content_entry *entry;

    if (twin->number == CSC_NUMBER_NONE || csc_segment_of(&twin->place) + 1 == store->segment_leaving)
        return false;
    entry = csc_content_at(store, twin->number);
    return csc_content_has(entry, CSC_CONTENT_LIVE) &&
           csc_content_generation(entry) == twin->generation &&
           !csc_segment_is_same_record(&entry->file, &twin->place) && !is_gone(store, &twin->place);
}

bool csc_place_is_unsure(const cascade_store *store, const csc_place *place)
{
    unsigned standing = csc_segment_standing(store->file, csc_segment_of(place));

    return (standing & CSC_SEGMENT_IS_GONE) ||
           !(standing & (CSC_SEGMENT_IS_MADE | CSC_SEGMENT_IS_SEALED));
}

static bool is_foreign(const cascade_store *store, const csc_place *place)
{
    return !(csc_segment_standing(store->file, csc_segment_of(place)) & CSC_SEGMENT_IS_OURS);
}

static bool use(cascade_store *store, uint32_t number, bool foreign_only)
{
    csc_remembered *r = &store->remembered;
    uint32_t best = 0;

    for (uint32_t link = r->room ? *chain_of(r, number) : 0; link; link = r->items[link - 1].next)
        if (r->items[link - 1].number == number && is_another(store, &r->items[link - 1]) &&
            (!foreign_only || is_foreign(store, &r->items[link - 1].place)) &&
            (!best || csc_place_is_weak(store, &r->items[best - 1].place)))
            best = link;
    if (!best)
        return false;
    csc_content_set_file(store, number, &r->items[best - 1].place);
    take_out(r, best - 1);
    return true;
}

bool csc_copies_use(cascade_store *store, uint32_t number)
{
    return use(store, number, false);
}

bool csc_copies_use_foreign(cascade_store *store, uint32_t number)
{
    return use(store, number, true);
}

bool csc_copies_quarantine(cascade_store *store, uint32_t number, int code, bool dram_is_right)
{
    static const csc_place nowhere;
    const csc_content_entry *entry = csc_content_at(store, number);
    bool ours = csc_segment_standing(store->file, csc_segment_of(&entry->file)) & CSC_SEGMENT_IS_OURS;

    if (code == CASCADE_ECORRUPT)
        csc_count(&store->counters.quarantined[CASCADE_TIER_FILE], 1);
    if (csc_content_has_right_bytes(store, number) && dram_is_right) {
        csc_content_set_file(store, number, &nowhere);
        csc_content_write_again(store, number);
        return true;
    }
    if (csc_copies_use(store, number))
        return true;
    csc_content_set_file(store, number, &nowhere);
    if (code == CASCADE_MISS) /* what another rank dropped is no loss of ours */
        csc_count(ours ? &store->counters.lost : &store->counters.drops[CASCADE_TIER_FILE], 1);
    if (ours)
        csc_log(CSC_LOG_WARNING, "a block was lost to the file tier: %s", csc_fail_text());
    csc_content_lose(store, number, ours && code == CASCADE_ECORRUPT);
    return false;
}

void csc_copies_use_all(cascade_store *store)
{
    csc_remembered *r = &store->remembered;

    for (size_t i = 0; i < r->count; i++) {
        const csc_twin *twin = &r->items[i];
        const csc_place *chosen;

        if (i % CSC_SCAN_STEP == CSC_SCAN_STEP - 1) {
            pthread_mutex_unlock(&store->lock);
            pthread_mutex_lock(&store->lock);
            twin = &r->items[i];
        }
        if (!is_another(store, twin))
            continue;
        chosen = &csc_content_at(store, twin->number)->file;
        if (csc_place_is_set(chosen) && is_gone(store, chosen))
            (void)csc_copies_use(store, twin->number);
    }
}

void csc_copies_destroy(cascade_store *store)
{
    free(store->remembered.items);
    free(store->remembered.chains);
}
