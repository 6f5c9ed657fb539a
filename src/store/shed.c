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
 */
#include "store/shed.h"
#include "base/log.h"
#include "format/segment_format.h"
#include "store/store_private.h"

#include <inttypes.h>
#include <stdlib.h>

typedef struct rival {
    csc_policy_worth worth;
    uint64_t bytes; /* of its record */
    uint32_t number;
    bool shed;
} rival;

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

    found->number = number;
    found->shed = csc_content_is_shed(store, number);
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

static uint64_t less(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

/* Gives out the budget. What is worth less than all that files hold gets only what is left as files lie
 * now: to make more of that, segments are emptied, and what lives in them is not always moved. Lock
 * held.
 */
static void share_out(cascade_store *store, const rival *rivals, size_t count, csc_shed *shed)
{
    uint64_t movable = 0, sent = 0, room, most = csc_file_room_for_live(store);
    size_t held = 0; /* the last that files hold, and all before it */

    for (size_t i = 0; i < count; i++)
        if (!rivals[i].shed) {
            movable += rivals[i].bytes;
            held = i + 1;
        }
    room = less(most, less(csc_segment_live_bytes(store->file), movable));
    for (size_t i = 0; i < count; i++) {
        if (i == held) {
            uint64_t as_it_lies = less(most, csc_segment_used_bytes(store->file) + sent);

            room = as_it_lies < room ? as_it_lies : room;
        }
        if (!rivals[i].shed) {
            room = less(room, rivals[i].bytes);
        } else if (rivals[i].bytes <= room) {
            room -= rivals[i].bytes;
            sent += rivals[i].bytes;
            shed->numbers[shed->count++] = rivals[i].number;
            csc_content_send_down(store, rivals[i].number);
        } else {
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
    rival *rivals;
    size_t count = 0;

    *shed = (csc_shed){0};
    if (!has_any(store))
        return;
    (void)csc_discover(store); /* what others have too is read there */
    pthread_mutex_lock(&store->lock);
    csc_touches_pass_on(store);
    rivals = malloc((store->contents_made + 1) * sizeof *rivals);
    shed->numbers = malloc((store->contents_made + 1) * sizeof *shed->numbers);
    for (uint32_t number = 0; number < store->contents_made; number++)
        if (rivals && shed->numbers)
            count += enter(store, number, &rivals[count]);
        else
            shed->dropped += csc_content_is_shed(store, number);
    if (count) {
        qsort(rivals, count, sizeof *rivals, compare);
        share_out(store, rivals, count, shed);
    }
    pthread_mutex_unlock(&store->lock);
    free(rivals);
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

void csc_shed_end(cascade_store *store, csc_shed *shed)
{
    csc_count(&store->counters.drops[CASCADE_TIER_FILE], shed->dropped);
    if (shed->dropped)
        csc_log(CSC_LOG_INFO, "%" PRIu64 " blocks went with dram: the file budget has no place for them",
                shed->dropped);
    free(shed->numbers);
    *shed = (csc_shed){0};
}
