/* SPDX-License-Identifier: MIT */
/*
 * What dram alone holds when the store is closed, because the file budget took its file copy. It was
 * kept as its flush promised, so nothing of it has to be written; but dram goes, and some of it may have
 * been of more use since than what the files hold.
 *
 * All that competes for the budget, what files hold and what is shed, is put in order of its worth, and
 * the budget is given out from the top: the shed blocks that get a share are written, and what they push
 * out is what did not. Rejected: all that the budget can hold (pushes out what is worth more), and what
 * fits into free room (there is none: dropping keeps the files as full as they may be).
 *
 * A block is of no use without those before it in its chain: they are worth at least as much as it is.
 */
#include "store/shed.h"
#include "base/log.h"
#include "format/segment_format.h"
#include "store/store_private.h"

#include <inttypes.h>
#include <stdlib.h>

typedef struct rival {
    csc_policy_worth worth;
    uint64_t bytes;          /* of its record */
    uint32_t number, parent; /* contents */
    bool shed, ordered, left_out;
} rival;

typedef struct rivals {
    rival *all;      /* dearest first, as sorted */
    uint32_t *order; /* of them, each behind its parent */
    uint32_t *at;    /* 1 + index of a content's; 0: it is none */
    size_t count;
} rivals;

/* Dearest first. Of equals what files hold stays, for that costs no write. */
static int compare(const void *a, const void *b)
{
    const rival *x = a, *y = b;
    int order = csc_policy_worth_compare(&y->worth, &x->worth);

    if (order)
        return order;
    if (x->shed != y->shed)
        return x->shed ? 1 : -1;
    return (x->number > y->number) - (x->number < y->number);
}

/* Lock held. */
static bool enter(cascade_store *store, uint32_t number, rival *found)
{
    const csc_content_entry *entry = csc_content_at(store, number);

    *found = (rival){.number = number,
                     .parent = csc_compact_parent(store, number),
                     .shed = csc_content_is_shed(store, number)};
    if (found->shed) {
        uint64_t bytes = csc_content_bytes(entry);

        if (csc_copies_use_foreign(store, number))
            return false; /* another rank has it */
        found->worth = csc_policy_worth_of(store->policy, number);
        found->bytes =
            csc_segfmt_block_header_bytes(entry->references, bytes, csc_keyring_first(store->keyring)) +
            csc_segfmt_round(bytes);
        return true;
    }
    if (!csc_content_has(entry, CSC_CONTENT_LIVE) || !csc_place_is_set(&entry->file) ||
        !csc_segment_is_ours(store->file, csc_segment_of(&entry->file)))
        return false;
    found->worth = csc_policy_worth_of(store->file_policy, number);
    found->bytes = csc_segment_record_bytes(&entry->file, &entry->content);
    return true;
}

static rival *parent_of(const rivals *r, const rival *child)
{
    uint32_t at = child->parent == CSC_NUMBER_NONE ? 0 : r->at[child->parent];

    return at ? &r->all[at - 1] : NULL;
}

static void put_in_order(rivals *r)
{
    size_t count = 0;

    qsort(r->all, r->count, sizeof *r->all, compare);
    for (size_t i = 0; i < r->count; i++)
        r->at[r->all[i].number] = (uint32_t)i + 1;
    for (size_t i = 0; i < r->count; i++) {
        size_t from = count, to;

        /* Contents may be each other's parents, under different keys. */
        for (rival *next = &r->all[i]; next && !next->ordered; next = parent_of(r, next)) {
            next->ordered = true;
            r->order[count++] = (uint32_t)(next - r->all);
        }
        for (to = count; from + 1 < to; from++) {
            uint32_t last = r->order[--to];

            r->order[to] = r->order[from];
            r->order[from] = last;
        }
    }
}

static uint64_t less(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

/* Gives out the budget. What is worth less than all that files hold gets only what is left as files lie
 * now: to make more of that, segments are emptied, and what lives in them is not always moved. Lock
 * held.
 */
static void share_out(cascade_store *store, const rivals *r, csc_shed *shed)
{
    uint64_t movable = 0, sent = 0, room, most = csc_file_room_for_live(store);
    size_t held = 0; /* the last that files hold, and all before it */

    for (size_t i = 0; i < r->count; i++)
        if (!r->all[r->order[i]].shed) {
            movable += r->all[r->order[i]].bytes;
            held = i + 1;
        }
    room = less(most, less(csc_segment_live_bytes(store->file), movable));
    for (size_t i = 0; i < r->count; i++) {
        rival *next = &r->all[r->order[i]], *parent = parent_of(r, next);

        if (i == held) {
            uint64_t as_it_lies = less(most, csc_segment_used_bytes(store->file) + sent);

            room = as_it_lies < room ? as_it_lies : room;
        }
        if (!next->shed) {
            room = less(room, next->bytes);
        } else if (next->bytes <= room && !(parent && parent->left_out)) {
            room -= next->bytes;
            sent += next->bytes;
            shed->numbers[shed->count++] = next->number;
            csc_content_send_down(store, next->number);
        } else {
            next->left_out = true;
            shed->dropped++;
        }
    }
}

static bool has_any(cascade_store *store)
{
    bool found = false;

    pthread_mutex_lock(&store->lock);
    for (uint32_t number = 0; store->file_policy && number < store->contents_made && !found; number++)
        found = csc_content_is_shed(store, number);
    pthread_mutex_unlock(&store->lock);
    return found;
}

void csc_shed_send_down(cascade_store *store, csc_shed *shed)
{
    rivals r = {0};
    size_t room;

    *shed = (csc_shed){0};
    if (!has_any(store))
        return;
    (void)csc_discover(store); /* what others have too is read there */
    pthread_mutex_lock(&store->lock);
    csc_touches_pass_on(store);
    room = store->contents_made;
    r.all = malloc((room + 1) * sizeof *r.all);
    r.order = malloc((room + 1) * sizeof *r.order);
    r.at = calloc(room + 1, sizeof *r.at);
    shed->numbers = malloc((room + 1) * sizeof *shed->numbers);
    for (uint32_t number = 0; number < room; number++)
        if (r.all && r.order && r.at && shed->numbers)
            r.count += enter(store, number, &r.all[r.count]);
        else
            shed->dropped += csc_content_is_shed(store, number);
    if (r.count) {
        put_in_order(&r);
        share_out(store, &r, shed);
    }
    pthread_mutex_unlock(&store->lock);
    free(r.all);
    free(r.order);
    free(r.at);
}

bool csc_shed_let_go(cascade_store *store, csc_shed *shed)
{
    bool all;

    pthread_mutex_lock(&store->lock);
    for (size_t i = 0; i < shed->count; i++) {
        uint32_t number = shed->numbers[i];

        if (!(store->content_states[number].flags & CSC_CS_DIRTY))
            continue;
        csc_dirty_remove(store, number);
        shed->dropped++;
    }
    all = store->dirty_head == 0;
    pthread_mutex_unlock(&store->lock);
    return all;
}

void csc_shed_end(cascade_store *store, csc_shed *shed, bool dram_goes)
{
    if (!dram_goes)
        shed->dropped = 0;
    csc_count(&store->counters.drops[CASCADE_TIER_FILE], shed->dropped);
    if (shed->dropped)
        csc_log(CSC_LOG_INFO, "%" PRIu64 " blocks went with dram: the file budget has no place for them",
                shed->dropped);
    free(shed->numbers);
    *shed = (csc_shed){0};
}
