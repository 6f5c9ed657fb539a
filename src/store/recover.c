/* SPDX-License-Identifier: MIT */
/*
 * Opening: what a dead owner left in the arena, then what the segments hold. The sequence decides
 * between two records of a key; a tombstone hides every older record of its key, wherever that is found.
 *
 * While the segments are read, deleted keys are kept as entries in the lists (state DELETED), so that
 * records that come later but are older are recognised. They go at the end.
 */
#include "base/clock.h"
#include "base/fail.h"
#include "base/grow.h"
#include "base/log.h"
#include "base/mark.h"
#include "store/filled.h"

#include <stdlib.h>
#include <string.h>

/* ---- the arena ------------------------------------------------------------------------------- */

/* Not a block (any more). Its pages are free, unless a reader that lives still looks at them. */
static void bury(cascade_store *store, uint32_t number)
{
    csc_content_entry *entry = csc_content_at(store, number);
    uint64_t generation = (atomic_load(&entry->state) >> CSC_CONTENT_GENERATION_SHIFT) + 1;

    if (!entry->dram.count || !csc_slots_pinned(&store->slots, number) ||
        csc_arena_claim(store->arena, &entry->dram, csc_content_bytes(entry)) != 0)
        entry->dram = (csc_extents){0};
    atomic_store(&entry->state, generation << CSC_CONTENT_GENERATION_SHIFT | CSC_CONTENT_DOOMED);
    csc_retire(store, &store->contents_retired, number);
}

/* Keeps what is whole. A place in the file tier meant something to the dead owner alone; but that he had
 * published it says that the record there is whole (is_published). */
static void adopt_content(cascade_store *store, uint32_t number)
{
    csc_content_entry *entry = csc_content_at(store, number);
    uint64_t state = atomic_load(&entry->state);

    store->places_then[number] = entry->file;
    entry->file = (csc_place){0};
    entry->first_key = 0;
    entry->references = 0;
    if (!(state & CSC_CONTENT_LIVE) || !csc_content_is_sane(&entry->content)) {
        bury(store, number);
        return;
    }
    /* Killed while it was leaving dram, with a reader that lives, or with no other copy: it stays. */
    if (!(state & CSC_CONTENT_RESIDENT) && entry->dram.count &&
        (csc_slots_pinned(&store->slots, number) || !csc_place_is_set(&store->places_then[number])))
        state = atomic_fetch_or(&entry->state, CSC_CONTENT_RESIDENT) | CSC_CONTENT_RESIDENT;
    if (!(state & CSC_CONTENT_RESIDENT)) {
        entry->dram = (csc_extents){0};
        if (!(state & CSC_CONTENT_DIGEST))
            bury(store, number); /* else the segments will say where it is */
        return;
    }
    if (csc_arena_claim(store->arena, &entry->dram, csc_content_bytes(entry)) != 0) {
        csc_log(CSC_LOG_WARNING, "a block in the arena is damaged: %s", csc_fail_text());
        csc_count(&store->counters.quarantined[CASCADE_TIER_DRAM], 1);
        entry->dram = (csc_extents){0};
        bury(store, number);
        return;
    }
    csc_count(&store->counters.recovered, 1);
}

static int take_filled(cascade_store *store, uint32_t number)
{
    bool left;
    int code = csc_filled_take(store, number, &left);

    if (code == 0 && !left)
        adopt_content(store, number);
    return code;
}

static void adopt_key(cascade_store *store, uint32_t number)
{
    csc_key_entry *entry = csc_key_at(store, number);
    uint32_t state = atomic_load(&entry->state), content = atomic_load(&entry->content);
    csc_key_state *mine = &store->key_states[number];
    csc_content_entry *target;

    *mine = (csc_key_state){.parent = CSC_NUMBER_NONE, .generation = 1};
    entry->segment = 0;
    if ((state & 0xff) == CSC_KEY_DELETED) {
        csc_hash_insert(&store->index.key_list, number, csc_index_key_hash(&store->index, &entry->key));
        return;
    }
    if ((state & 0xff) == CSC_KEY_BOUND && content < store->contents_made &&
        csc_content_has(csc_content_at(store, content), CSC_CONTENT_LIVE)) {
        target = csc_content_at(store, content);
        entry->sibling = target->first_key;
        target->first_key = number + 1;
        target->references++;
        store->key_count++;
        store->named_bytes += csc_content_bytes(target);
        csc_hash_insert(&store->index.key_list, number, csc_index_key_hash(&store->index, &entry->key));
        return;
    }
    entry->sibling = 0;
    csc_key_retire(store, number);
}

/* Two entries of one key are possible: a pending delete and the bind that came after it. The later
 * stays. */
static void drop_older_twins(cascade_store *store, uint32_t number);

static void move_keys(cascade_store *store, uint32_t from, uint32_t to)
{
    csc_content_entry *loser = csc_content_at(store, from), *winner = csc_content_at(store, to);

    while (loser->first_key) {
        uint32_t number = loser->first_key - 1;
        csc_key_entry *entry = csc_key_at(store, number);

        loser->first_key = entry->sibling;
        entry->sibling = winner->first_key;
        winner->first_key = number + 1;
        atomic_store(&entry->content, to);
        loser->references--;
        winner->references++;
    }
}

/* Makes a content findable by its digest. Two equal ones are a merge that the owner was killed in: all
 * keys go to one, with the bytes if either has them, lest the segments tell the other where they are.
 * The other is left without keys and goes at the end. */
static void list_content(cascade_store *store, uint32_t number)
{
    const csc_content_entry *entry = csc_content_at(store, number);
    uint32_t equal = csc_content_equal(store, number);

    if (equal != CSC_NUMBER_NONE &&
        (!csc_content_has(entry, CSC_CONTENT_RESIDENT) ||
         csc_content_has(csc_content_at(store, equal), CSC_CONTENT_RESIDENT))) {
        move_keys(store, number, equal);
        atomic_fetch_and(&csc_content_at(store, number)->state,
                         ~(uint64_t)CSC_CONTENT_DIGEST); /* not listed */
        return;
    }
    if (equal != CSC_NUMBER_NONE) {
        csc_hash_remove(&store->index.content_list, equal);
        atomic_fetch_and(&csc_content_at(store, equal)->state, ~(uint64_t)CSC_CONTENT_DIGEST);
        move_keys(store, equal, number);
    }
    csc_hash_insert(&store->index.content_list, number,
                    csc_index_id_hash(&store->index, entry->content.tenant, entry->content.digest));
}

int csc_recover_arena(cascade_store *store)
{
    const csc_arena_header *header = store->index.header;
    uint64_t sequence = 0;
    int code = 0;

    store->keys_made = atomic_load(&header->used[CSC_REGION_KEYS]);
    store->contents_made = atomic_load(&header->used[CSC_REGION_CONTENTS]);
    if (!csc_grow(&store->key_states, &store->key_states_room, store->keys_made,
                  sizeof *store->key_states) ||
        !csc_grow(&store->content_states, &store->content_states_room, store->contents_made,
                  sizeof *store->content_states))
        return csc_fail(CASCADE_ENOMEM, "no memory for the index");
    store->places_then_count = store->contents_made;
    store->places_then = calloc(store->contents_made + 1, sizeof *store->places_then);
    if (!store->places_then)
        return csc_fail(CASCADE_ENOMEM, "no memory for the index");
    for (uint32_t i = 0; i < store->contents_made; i++)
        if (!csc_filled_is(store, i))
            adopt_content(store, i);
    for (uint32_t i = 0; code == 0 && i < store->contents_made; i++)
        if (csc_filled_is(store, i))
            code = take_filled(store, i);
    if (code == 0)
        code = csc_arena_claims_done(store->arena);
    if (code)
        return code;
    store->set_aside_until_ns = csc_clock_ns() + store->config.io_deadline_ms * UINT64_C(1000000);
    csc_mark("recover: contents adopted");
    for (uint32_t i = 0; i < store->keys_made; i++) {
        adopt_key(store, i);
        if (csc_key_at(store, i)->sequence > sequence)
            sequence = csc_key_at(store, i)->sequence;
    }
    csc_mark("recover: keys adopted");
    for (uint32_t i = 0; i < store->keys_made; i++)
        drop_older_twins(store, i);
    if (atomic_load(&header->sequence) < sequence)
        atomic_store(&store->index.header->sequence, sequence);
    for (uint32_t i = 0; i < store->contents_made; i++) {
        csc_content_entry *entry = csc_content_at(store, i);

        if (!csc_content_has(entry, CSC_CONTENT_LIVE))
            continue;
        store->content_states[i].flags |= CSC_CS_TAKEN;
        store->content_count++;
        store->content_bytes += csc_content_bytes(entry);
        if (csc_content_has(entry, CSC_CONTENT_DIGEST))
            list_content(store, i);
    }
    return 0;
}

/* ---- finding keys while reading --------------------------------------------------------------- */

/* The entry of a key in the lists, bound or deleted, other than `not`. */
static uint32_t find_any(const cascade_store *store, const cascade_key *key, uint32_t not )
{
    uint32_t hash = csc_index_key_hash(&store->index, key), order = csc_hash_order(hash), number;
    uint32_t link = csc_hash_start(&store->index.key_list, hash);
    bool lost = false;

    while ((number = csc_hash_seek(&store->index.key_list, link, order, &lost)) != CSC_HASH_NONE) {
        const csc_key_entry *entry = &store->index.keys[number];

        if (number != not &&memcmp(entry->key.bytes, key->bytes, sizeof key->bytes) == 0)
            return number;
        link = atomic_load(&entry->node.next);
    }
    return CSC_NUMBER_NONE;
}

/* Takes a key entry out while the store is being opened: no reader, no policy, no edges yet. */
static void take_out(cascade_store *store, uint32_t number)
{
    csc_key_entry *entry = csc_key_at(store, number);

    if ((atomic_load(&entry->state) & 0xff) == CSC_KEY_BOUND) {
        csc_content_entry *target = csc_content_at(store, atomic_load(&entry->content));
        uint32_t *link = &target->first_key;

        while (*link && *link != number + 1)
            link = &csc_key_at(store, *link - 1)->sibling;
        if (*link)
            *link = entry->sibling;
        target->references--;
        store->key_count--;
        store->named_bytes -= csc_content_bytes(target);
    }
    csc_hash_remove(&store->index.key_list, number);
    csc_key_retire(store, number);
}

static void drop_older_twins(cascade_store *store, uint32_t number)
{
    csc_key_entry *entry = csc_key_at(store, number);
    uint32_t twin;

    if ((atomic_load(&entry->state) & 0xff) == CSC_KEY_FREE)
        return;
    while ((twin = find_any(store, &entry->key, number)) != CSC_NUMBER_NONE) {
        if (csc_key_at(store, twin)->sequence > entry->sequence) {
            take_out(store, number);
            return;
        }
        take_out(store, twin);
    }
}

/* ---- the segments ----------------------------------------------------------------------------- */

typedef struct segment_scan {
    cascade_store *store;
    uint64_t sequence;
    csc_copies others;
} segment_scan;

static void note_sequence(segment_scan *scan, uint64_t sequence)
{
    if (sequence > scan->sequence)
        scan->sequence = sequence;
}

/* A bind found on disk: counts if nothing later is known of the key. */
static int see_bind(segment_scan *scan, const csc_segment_source *source, const csc_binding *binding,
                    uint32_t content)
{
    cascade_store *store = scan->store;
    uint32_t known = find_any(store, &binding->key, CSC_NUMBER_NONE), number, segment = source->segment;
    uint32_t whose = source->rank == store->config.rank ? CSC_KS_OURS : CSC_KS_ELSEWHERE;
    int code;

    note_sequence(scan, binding->sequence);
    if (known != CSC_NUMBER_NONE) {
        csc_key_entry *entry = csc_key_at(store, known);

        whose |= store->key_states[known].flags & (CSC_KS_OURS | CSC_KS_ELSEWHERE);
        store->key_states[known].flags |= whose;
        if (entry->sequence == binding->sequence && (atomic_load(&entry->state) & 0xff) == CSC_KEY_BOUND)
            entry->segment = segment + 1;
        /* The pending delete between the two may have been dropped with the dead owner's entry. */
        if (entry->sequence > binding->sequence)
            store->key_states[known].flags |= CSC_KS_RECORDED;
        if (entry->sequence >= binding->sequence)
            return 0;
        take_out(store, known);
    }
    code = csc_key_bind(store, binding, content, segment + 1, &number);
    if (code == 0)
        store->key_states[number].flags |= whose;
    return code;
}

/* Whether the dead owner had published this place: then the record was synced, and is whole. */
static bool is_published(const cascade_store *store, uint32_t number, const csc_place *place)
{
    return number < store->places_then_count &&
           csc_segment_is_same_record(&store->places_then[number], place);
}

/* A copy of our own comes before those of other ranks, which go when these think fit; and theirs in
 * segments that are not sealed may be torn at any time. */
static int worth(bool foreign, bool sealed)
{
    return foreign ? sealed : 2;
}

/*
 * Of several copies of a content of the same worth the one written last is used, for an earlier one may
 * have been found damaged and put again; of those written at the same time, such as a compaction's copy,
 * a sealed one. While the segments are read, a content's ticket is the sequence of the copy chosen.
 *
 * Requests reach the disk in any order, so in an unsealed segment a whole header may have a torn payload
 * behind it, if the owner died before he synced. Of a block that dram holds such a copy is not taken but
 * written again; of any other the owner had published the place, or it was never flushed, or there is
 * another copy: an owner whose sync failed, or whose power went, left this one behind. Then it is read
 * before it is trusted (csc_copies_check).
 */
static int choose_place(segment_scan *scan, uint32_t number, const csc_segment_source *source,
                        uint64_t sequence, const csc_place *place)
{
    static const csc_place nowhere;
    cascade_store *store = scan->store;
    csc_content_entry *entry = csc_content_at(store, number);
    csc_content_state *state = &store->content_states[number];
    bool unsure = !source->sealed && csc_content_has(entry, CSC_CONTENT_RESIDENT) &&
                  !is_published(store, number, place);
    bool foreign = source->rank != store->config.rank;
    int more = worth(foreign, source->sealed) -
               worth(state->flags & CSC_CS_FOREIGN, state->flags & CSC_CS_SEALED);
    bool has = csc_place_is_set(&entry->file) || (state->flags & CSC_CS_UNSURE);
    bool later = sequence > state->ticket ||
                 (sequence == state->ticket && source->sealed && !(state->flags & CSC_CS_SEALED));
    bool keeps = has && (more ? more < 0 : !later);

    if (csc_place_is_set(&entry->file))
        csc_copies_keep(store, number, keeps ? place : &entry->file);
    if (csc_place_is_set(&entry->file) && !(keeps ? state->flags & CSC_CS_SEALED : source->sealed) &&
        !csc_copies_note(&scan->others, number, keeps ? place : &entry->file))
        return csc_fail(CASCADE_ENOMEM, "no memory for the index");
    if (keeps)
        return 0;
    state->ticket = sequence;
    state->flags &= (uint16_t) ~(CSC_CS_SEALED | CSC_CS_UNSURE | CSC_CS_FOREIGN);
    state->flags |= source->sealed ? CSC_CS_SEALED : unsure ? CSC_CS_UNSURE : 0;
    state->flags |= foreign ? CSC_CS_FOREIGN : 0;
    csc_content_set_file(store, number, unsure ? &nowhere : place);
    return 0;
}

static int see_block(void *context, const csc_segment_source *source, const csc_content *content,
                     uint64_t written_ns, const csc_binding *bindings, size_t binding_count,
                     const csc_place *place)
{
    segment_scan *scan = context;
    cascade_store *store = scan->store;
    uint64_t sequence = 0;
    uint32_t number;
    bool made;
    int code = csc_content_for(store, content, &number, &made);

    if (code)
        return code;
    for (size_t i = 0; i < binding_count; i++)
        if (bindings[i].sequence > sequence)
            sequence = bindings[i].sequence;
    code = choose_place(scan, number, source, sequence, place);
    if (written_ns / 1000000000 > store->content_states[number].used_s)
        store->content_states[number].used_s = (uint32_t)(written_ns / 1000000000);
    for (size_t i = 0; code == 0 && i < binding_count; i++)
        code = see_bind(scan, source, &bindings[i], number);
    return code;
}

static int see_delete(segment_scan *scan, uint32_t segment, const csc_binding *binding)
{
    cascade_store *store = scan->store;
    uint32_t known = find_any(store, &binding->key, CSC_NUMBER_NONE), number, content;
    csc_key_entry *entry;
    int code;

    note_sequence(scan, binding->sequence);
    if (known != CSC_NUMBER_NONE) {
        entry = csc_key_at(store, known);
        if (entry->sequence == binding->sequence)
            entry->segment = segment + 1; /* the arena's pending delete is on disk after all */
        if (entry->sequence >= binding->sequence)
            return 0;
        take_out(store, known);
    }
    /* A deleted key is kept in the list until all is read, bound to a content that is none. */
    code = csc_content_make(store, &(csc_content){0}, &content);
    if (code)
        return code;
    code = csc_key_bind(store, binding, content, segment + 1, &number);
    if (code == 0) {
        atomic_store(&csc_key_at(store, number)->state, CSC_KEY_DELETED);
        store->key_count--;
    }
    csc_content_abandon(store, content);
    return code;
}

static int see_log(void *context, const csc_segment_source *source, const csc_log_entry *entry)
{
    segment_scan *scan = context;
    uint32_t content;
    bool made;
    int code;

    if (entry->is_delete)
        return see_delete(scan, source->segment, &entry->binding);
    code = csc_content_for(scan->store, &entry->content, &content, &made);
    return code ? code : see_bind(scan, source, &entry->binding, content);
}

/* ---- after reading ----------------------------------------------------------------------------- */

static void settle_keys(cascade_store *store)
{
    for (uint32_t number = 0; number < store->keys_made; number++) {
        csc_key_entry *entry = csc_key_at(store, number);
        uint32_t state = atomic_load(&entry->state) & 0xff;

        if (state == CSC_KEY_DELETED) {
            csc_deleted_note(store, &entry->key, entry->sequence);
            csc_hash_remove(&store->index.key_list, number);
            if (entry->segment)
                csc_key_retire(store, number);
            else
                csc_log_push(store, number);
        }
    }
    for (uint32_t number = 0; number < store->keys_made; number++) {
        const csc_key_entry *entry = csc_key_at(store, number);

        if (atomic_load(&entry->state) == (CSC_KEY_BOUND | CSC_KEY_HAS_PARENT) &&
            find_any(store, &entry->parent, number) == CSC_NUMBER_NONE)
            csc_want_parent(store, &entry->parent);
    }
}

static void settle_contents(cascade_store *store)
{
    for (uint32_t number = 0; number < store->contents_made; number++) {
        csc_content_entry *entry = csc_content_at(store, number);
        bool resident = csc_content_has(entry, CSC_CONTENT_RESIDENT);
        bool known = store->content_states[number].flags & CSC_CS_TAKEN;
        bool unsure = store->content_states[number].flags & CSC_CS_UNSURE;

        store->content_states[number].flags &=
            (uint16_t) ~(CSC_CS_TAKEN | CSC_CS_SEALED | CSC_CS_UNSURE | CSC_CS_FOREIGN);
        if (!csc_content_has(entry, CSC_CONTENT_LIVE))
            continue;
        if (csc_place_is_set(&entry->file))
            csc_content_found_in_file(store, number);
        if (entry->references == 0) {
            /* Not counted as resident yet. */
            atomic_fetch_and(&entry->state, ~(uint64_t)CSC_CONTENT_RESIDENT);
            csc_content_drop(store, number); /* named by deleted or older keys only */
            continue;
        }
        if (!resident && !csc_place_is_set(&entry->file)) {
            /* Bound, but its bytes are nowhere: its segment was dropped, with binds left in later ones;
             * or, if the dead owner still had it, taken away. */
            if (known)
                csc_count(&store->counters.lost, 1);
            csc_content_lose(store, number, false);
            continue;
        }
        if (resident) {
            atomic_fetch_and(&entry->state, ~(uint64_t)CSC_CONTENT_RESIDENT);
            csc_content_now_resident(store, number, false, false);
            if (unsure) {
                csc_content_write_again(store, number);
            } else if (!csc_place_is_set(&entry->file)) {
                csc_content_send_down(store, number);
            }
        }
        for (uint32_t link = entry->first_key; link; link = csc_key_at(store, link - 1)->sibling)
            if (csc_key_at(store, link - 1)->segment == 0)
                csc_log_push(store, link - 1);
    }
}

int csc_recover_segments(cascade_store *store)
{
    segment_scan scan = {.store = store};
    csc_segment_visitor visitor = {.context = &scan, .block = see_block, .log = see_log};
    csc_segment_options options = {.io = store->io,
                                   .directory = store->config.directory,
                                   .rank = store->config.rank,
                                   .deadline_ms = store->config.io_deadline_ms,
                                   .segment_bytes = store->config.settings.segment_bytes,
                                   .keyring = store->keyring,
                                   .spares_max = csc_spares_max(store)};
    cascade_tier_stats stats = {0};
    int code;

    code = csc_segment_open(&options, &visitor, &store->file);
    if (code) {
        free(scan.others.items);
        return code;
    }
    store->file->ops->stats(store->file, &stats);
    store->files_skipped = stats.quarantined;
    csc_copies_check(store, &scan.others);
    csc_mark("recover: segments read");
    if (atomic_load(&store->index.header->sequence) < scan.sequence)
        atomic_store(&store->index.header->sequence, scan.sequence);
    pthread_mutex_lock(&store->lock);
    settle_keys(store);
    settle_contents(store);
    free(store->places_then);
    store->places_then = NULL;
    store->places_then_count = 0;
    pthread_mutex_unlock(&store->lock);
    return 0;
}
