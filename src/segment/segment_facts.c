/* SPDX-License-Identifier: MIT */
/*
 * What a segment holds that matters to whoever empties it: how much of it is in use, and whether a
 * delete may still hide a bind in it. For the latter every segment has a list of its binds' keys, as
 * hashes of four bytes: a wrong yes keeps a delete for nothing, a wrong no is impossible. The lowest
 * sequence alone would keep nearly every delete for ever, since moved binds keep their sequences.
 */
#include "base/checksum.h"
#include "base/grow.h"
#include "segment/segment_internal.h"

#include <stdlib.h>

/* ---- noting --------------------------------------------------------------------------------------- */

static uint32_t hash_of(const uint8_t key[32])
{
    return (uint32_t)csc_checksum(key, 32, 0);
}

void csc_segment_note_bind(csc_segment_tier *t, uint32_t segment, const uint8_t key[32],
                           uint64_t sequence)
{
    csc_segment_binds *binds;

    pthread_mutex_lock(&t->lock);
    binds = &t->items[segment]->binds;
    if (sequence < binds->sequence_min)
        binds->sequence_min = sequence;
    if (csc_grow(&binds->hashes, &binds->room, binds->count + 1, sizeof *binds->hashes))
        binds->hashes[binds->count++] = hash_of(key);
    else
        binds->incomplete = true;
    binds->is_sorted = false;
    pthread_mutex_unlock(&t->lock);
}

void csc_segment_note_log(csc_segment_tier *t, uint32_t segment, bool is_delete)
{
    pthread_mutex_lock(&t->lock);
    t->items[segment]->log_entries++;
    t->items[segment]->log_deletes += is_delete;
    pthread_mutex_unlock(&t->lock);
}

/* What its deletes hide lies in segments that were there before it. Once as many as there are now have
 * been removed since, it is time to look again. */
uint64_t csc_segment_log_bytes(const csc_segment_tier *t, const csc_segment_item *item, uint64_t entries)
{
    uint64_t there = t->item_count - t->removed_count;

    return t->removed_count - item->removals_then > there ? 0 : entries * sizeof(csc_segfmt_log_entry);
}

/* ---- use ------------------------------------------------------------------------------------------ */

uint64_t csc_segment_record_bytes(const csc_place *place, const csc_content *content)
{
    return (uint64_t)place->words[3] * CSC_SEGFMT_PAGE_BYTES +
           csc_segfmt_round(content->k_bytes + content->v_bytes);
}

/* Records are never changed or taken out of a segment: space comes back with the whole of it, once
 * little of it is live. A place of another handle counts for nothing. */
static void count_live(csc_tier *tier, const csc_place *place, const csc_content *content, bool more)
{
    csc_segment_tier *t = csc_segment_tier_of(tier);
    uint64_t bytes = csc_segment_record_bytes(place, content);
    uint64_t generation = place->words[4] | (uint64_t)place->words[5] << 32;

    pthread_mutex_lock(&t->lock);
    if (place->words[0] < t->item_count && t->items[place->words[0]]->generation == generation) {
        csc_segment_item *item = t->items[place->words[0]];

        item->live_bytes = more ? item->live_bytes + bytes : item->live_bytes - bytes;
    }
    pthread_mutex_unlock(&t->lock);
}

void csc_segment_retain(csc_tier *tier, const csc_place *place, const csc_content *content)
{
    count_live(tier, place, content, true);
}

void csc_segment_drop(csc_tier *tier, const csc_place *place, const csc_content *content)
{
    count_live(tier, place, content, false);
}

uint64_t csc_segment_live_bytes(csc_tier *tier)
{
    csc_segment_tier *t = csc_segment_tier_of(tier);
    uint64_t bytes = 0;

    pthread_mutex_lock(&t->lock);
    for (size_t i = 0; i < t->item_count; i++)
        if (t->items[i]->rank == t->rank && t->items[i]->state != CSC_SEGMENT_REMOVED)
            bytes += t->items[i]->live_bytes;
    pthread_mutex_unlock(&t->lock);
    return bytes;
}

bool csc_segment_is_ours(csc_tier *tier, uint32_t segment)
{
    csc_segment_tier *t = csc_segment_tier_of(tier);
    bool yes;

    pthread_mutex_lock(&t->lock);
    yes = segment < t->item_count && t->items[segment]->rank == t->rank && t->items[segment]->ours;
    pthread_mutex_unlock(&t->lock);
    return yes;
}

uint64_t csc_segment_bytes_after(csc_tier *tier, uint64_t record_bytes, size_t record_count,
                                 size_t entry_count)
{
    csc_segment_tier *t = csc_segment_tier_of(tier);
    const csc_segment_writer *w = &t->writer;
    cascade_tier_stats stats = {0};
    /* Two segments that follow each other hold more than one's bytes together. */
    uint64_t begun = 1 + 2 * record_bytes / t->segment_bytes;
    uint64_t more, at_hand = csc_segment_spare_bytes(tier);

    if (record_count == 0)
        begun = 0;
    else if (begun > record_count)
        begun = record_count;
    /* Each begins with a page and ends with an index that fills up a page, and a page behind it. */
    more = record_bytes + begun * 3 * CSC_SEGFMT_PAGE_BYTES +
           csc_segfmt_footer_bytes(entry_count + (w->item ? w->entry_count : 0));
    if (w->item && w->recycled_bytes > w->position)
        at_hand += w->recycled_bytes - w->position;
    tier->ops->stats(tier, &stats);
    return stats.used_bytes + (more > at_hand ? more - at_hand : 0);
}

uint64_t csc_segment_used_bytes(csc_tier *tier)
{
    const csc_segment_writer *w = &csc_segment_tier_of(tier)->writer;
    cascade_tier_stats stats = {0};

    tier->ops->stats(tier, &stats);
    return stats.used_bytes - csc_segment_spare_bytes(tier) +
           (w->item ? csc_segfmt_footer_bytes(w->entry_count) : 0);
}

/* ---- deletes -------------------------------------------------------------------------------------- */

static int compare_hashes(const void *a, const void *b)
{
    const uint32_t *x = a;
    const uint32_t *y = b;

    return *x < *y ? -1 : *x > *y;
}

/* Lock held. */
static bool may_hold(csc_segment_binds *binds, uint32_t hash)
{
    if (binds->incomplete)
        return true;
    if (binds->count == 0)
        return false;
    if (!binds->is_sorted)
        qsort(binds->hashes, binds->count, sizeof *binds->hashes, compare_hashes);
    binds->is_sorted = true;
    return bsearch(&hash, binds->hashes, binds->count, sizeof hash, compare_hashes) != NULL;
}

static bool may_hide(csc_segment_tier *t, uint32_t except, const csc_binding *hider, bool of_all_ranks)
{
    uint32_t hash = hash_of(hider->key.bytes);
    bool yes = t->writer.names_unsure;

    pthread_mutex_lock(&t->lock);
    for (size_t i = 0; i < t->item_count && !yes; i++)
        yes = i != except && t->items[i]->state != CSC_SEGMENT_REMOVED &&
              (of_all_ranks || t->items[i]->rank == t->rank) &&
              (t->items[i]->cut || (t->items[i]->binds.sequence_min < hider->sequence &&
                                    may_hold(&t->items[i]->binds, hash)));
    pthread_mutex_unlock(&t->lock);
    return yes;
}

bool csc_segment_may_hide(csc_tier *tier, uint32_t except, const csc_binding *deleted)
{
    csc_segment_tier *t = csc_segment_tier_of(tier);

    return atomic_load(&t->unread) || may_hide(t, except, deleted, true);
}

bool csc_segment_bind_may_hide(csc_tier *tier, uint32_t except, const csc_binding *bind)
{
    return may_hide(csc_segment_tier_of(tier), except, bind, false);
}
