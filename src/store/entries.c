/* SPDX-License-Identifier: MIT */
/*
 * The tables of keys and contents: making, binding, merging, dropping. All under the store's lock.
 *
 * Order of stores, for the sake of a kill between any two: a content is LIVE before a key names it; a
 * key is BOUND before it is linked; a key is unbound before it is unlinked, and its content dropped
 * after.
 */
#include "base/fail.h"
#include "base/grow.h"
#include "base/log.h"
#include "base/mark.h"
#include "store/store_private.h"

#include <stdlib.h>
#include <string.h>

#define BUCKETS_FIRST  1024u
#define FOUND_TOGETHER 64u /* of the same age, as far as the policy knows */

int csc_entries_init(cascade_store *store)
{
    for (unsigned region = CSC_REGION_KEY_BUCKETS; region <= CSC_REGION_CONTENT_BUCKETS; region++) {
        uint32_t used = atomic_load(&store->index.header->used[region]);
        csc_hash_list *list =
            region == CSC_REGION_KEY_BUCKETS ? &store->index.key_list : &store->index.content_list;

        if (used) {
            /* Taken over: the lists are rebuilt from the entries. */
            for (uint32_t i = 0; i < used; i++)
                atomic_store_explicit(&list->buckets[i], CSC_LINK_NONE, memory_order_relaxed);
        } else {
            int code = csc_arena_grow(store->arena, region, BUCKETS_FIRST);

            if (code)
                return code;
            used = BUCKETS_FIRST;
        }
        csc_hash_init(list, used);
    }
    store->parents_wanted = calloc(CSC_PARENTS_WANTED_WORDS, sizeof *store->parents_wanted);
    store->pins = malloc(CSC_PINS_MAX * sizeof *store->pins);
    return store->parents_wanted && store->pins ? 0
                                                : csc_fail(CASCADE_ENOMEM, "no memory for the index");
}

void csc_entries_destroy(cascade_store *store)
{
    free(store->key_states);
    free(store->content_states);
    free(store->keys_free.items);
    free(store->contents_free.items);
    free(store->keys_retired.items);
    free(store->contents_retired.items);
    free(store->parents_wanted);
    free(store->places_then);
    free(store->pins);
    free(store->set_aside);
}

/* More buckets when there is one entry a bucket; without room for them the lists only get longer. */
static void grow_buckets(cascade_store *store, csc_hash_list *list, unsigned region, uint64_t entries)
{
    uint32_t buckets = atomic_load_explicit(list->bucket_count, memory_order_relaxed);

    if (entries <= buckets || buckets >= store->index.header->geometry.regions[region].max)
        return;
    if (csc_arena_grow(store->arena, region, 2 * buckets) == 0)
        csc_hash_grow(list, 2 * buckets);
}

uint64_t csc_next_sequence(cascade_store *store)
{
    return atomic_fetch_add(&store->index.header->sequence, 1) + 1;
}

/* ---- prefix edges: resident children ---------------------------------------------------------- */

/* Two forests: of what is in dram, and of what has a file copy. */
static uint32_t edge_flag(unsigned tier)
{
    return tier == CASCADE_TIER_DRAM ? CSC_KS_EDGE : CSC_KS_FILE_EDGE;
}

static int count_children(cascade_store *store, unsigned tier, uint32_t content, int by)
{
    csc_policy *policy = tier == CASCADE_TIER_DRAM ? store->policy : store->file_policy;

    return policy ? csc_policy_children(policy, content, by) : 0;
}

static void edge_up(cascade_store *store, uint32_t number, unsigned tier)
{
    csc_key_entry *entry = csc_key_at(store, number);
    csc_key_state *state = &store->key_states[number];
    bool lost = false;

    if ((state->flags & edge_flag(tier)) || !(atomic_load(&entry->state) & CSC_KEY_HAS_PARENT))
        return;
    if (state->parent == CSC_NUMBER_NONE ||
        store->key_states[state->parent].generation != state->parent_generation) {
        /* With the parent's entry went what was counted there, in the other forest too. */
        state->flags &= ~(uint32_t)(CSC_KS_EDGE | CSC_KS_FILE_EDGE);
        state->parent = csc_index_find(&store->index, &entry->parent,
                                       csc_index_key_hash(&store->index, &entry->parent), &lost);
        if (state->parent == CSC_NUMBER_NONE)
            return;
        state->parent_generation = store->key_states[state->parent].generation;
    }
    if (count_children(store, tier, atomic_load(&csc_key_at(store, state->parent)->content), 1) != 0)
        return;
    store->key_states[state->parent].children[tier]++;
    state->flags |= edge_flag(tier);
}

static void edge_down(cascade_store *store, uint32_t number, unsigned tier)
{
    csc_key_state *state = &store->key_states[number];

    if (!(state->flags & edge_flag(tier)))
        return;
    state->flags &= ~edge_flag(tier);
    if (store->key_states[state->parent].generation != state->parent_generation ||
        store->key_states[state->parent].children[tier] == 0)
        return;
    store->key_states[state->parent].children[tier]--;
    count_children(store, tier, atomic_load(&csc_key_at(store, state->parent)->content), -1);
}

static void edges(cascade_store *store, uint32_t content, unsigned tier,
                  void (*change)(cascade_store *, uint32_t, unsigned))
{
    for (uint32_t link = csc_content_at(store, content)->first_key; link;
         link = csc_key_at(store, link - 1)->sibling)
        change(store, link - 1, tier);
}

/* Whether the file forest is kept: while a store is opened it is not yet. */
static bool has_file_forest(const cascade_store *store)
{
    return store->file && (store->file_policy || store->config.file_age_s);
}

/* What is linked must be found: if it is not, nothing the lists say can be trusted any more. */
static void unlink_entry(cascade_store *store, csc_hash_list *list, uint32_t number)
{
    if (csc_hash_remove(list, number))
        return;
    atomic_store(&store->poisoned, true);
    csc_log(CSC_LOG_ERROR, "entry %u is missing from its list: the store only closes now", number);
}

/* Takes a key out of the list of its content's keys. */
static void unlink_key(cascade_store *store, uint32_t number)
{
    csc_key_entry *entry = csc_key_at(store, number);
    uint32_t *link = &csc_content_at(store, atomic_load(&entry->content))->first_key;

    while (*link && *link != number + 1)
        link = &csc_key_at(store, *link - 1)->sibling;
    if (*link)
        *link = entry->sibling;
}

/* ---- contents -------------------------------------------------------------------------------- */

int csc_content_make(cascade_store *store, const csc_content *content, uint32_t *number)
{
    csc_content_entry *entry;
    uint64_t generation;
    uint32_t made;

    if (store->contents_free.count == 0)
        csc_entries_reclaim(store);
    if (store->contents_free.count) {
        made = store->contents_free.items[--store->contents_free.count];
    } else {
        int code = csc_arena_grow(store->arena, CSC_REGION_CONTENTS, store->contents_made + 1);

        if (code)
            return code;
        if (!csc_grow(&store->content_states, &store->content_states_room, store->contents_made + 1,
                      sizeof *store->content_states))
            return csc_fail(CASCADE_ENOMEM, "no memory for the index");
        made = store->contents_made++;
    }
    entry = csc_content_at(store, made);
    generation = atomic_load(&entry->state) >> CSC_CONTENT_GENERATION_SHIFT;
    entry->content = *content;
    entry->dram = (csc_extents){0};
    entry->file = (csc_place){0};
    entry->first_key = 0;
    entry->references = 0;
    atomic_store(&entry->lease, 0);
    store->content_states[made] = (csc_content_state){0};
    atomic_store(&entry->state, generation << CSC_CONTENT_GENERATION_SHIFT | CSC_CONTENT_FILLING);
    *number = made;
    return 0;
}

void csc_content_set_file(cascade_store *store, uint32_t number, const csc_place *place)
{
    csc_content_entry *entry = csc_content_at(store, number);
    bool had = csc_place_is_set(&entry->file), has = csc_place_is_set(place);

    if (had && store->file)
        store->file->ops->drop(store->file, &entry->file, &entry->content);
    entry->file = *place;
    if (has && !had) {
        store->file_count++;
        store->file_bytes += csc_content_bytes(entry);
    } else if (had && !has) {
        store->file_count--;
        store->file_bytes -= csc_content_bytes(entry);
    }
    if (!store->file)
        return; /* csc_content_found_in_file makes up for it */
    if (has)
        store->file->ops->retain(store->file, place, &entry->content);
    if (had == has || !has_file_forest(store))
        return;
    edges(store, number, CASCADE_TIER_FILE, has ? edge_up : edge_down);
    if (store->file_policy && !has)
        csc_policy_evict(store->file_policy, number);
    /* Without memory for it the block stays until it is deleted. */
    if (store->file_policy && has)
        (void)csc_policy_insert(store->file_policy, number, csc_content_bytes(entry), false,
                                entry->references > 1);
}

void csc_content_found_in_file(cascade_store *store, uint32_t number)
{
    csc_content_entry *entry = csc_content_at(store, number);

    store->file->ops->retain(store->file, &entry->file, &entry->content);
    if (!has_file_forest(store))
        return;
    edges(store, number, CASCADE_TIER_FILE, edge_up);
    if (!store->file_policy)
        return;
    if (number % FOUND_TOGETHER == 0)
        csc_policy_tick(store->file_policy); /* so that those found first are the oldest */
    (void)csc_policy_insert(store->file_policy, number, csc_content_bytes(entry), false,
                            entry->references > 1);
}

void csc_content_take_file(cascade_store *store, uint32_t from, uint32_t to)
{
    static const csc_place nowhere;
    csc_place place = csc_content_at(store, from)->file;

    if (csc_segment_of(&place) + 1 == store->segment_leaving)
        store->segment_taken = true;
    csc_content_set_file(store, from, &nowhere);
    csc_content_set_file(store, to, &place);
    store->content_states[to].used_s = store->content_states[from].used_s;
}

/* Its bytes are in dram no more, or are nobody's. */
static void count_out(cascade_store *store, uint32_t number)
{
    csc_content_state *state = &store->content_states[number];
    uint64_t bytes = csc_content_bytes(csc_content_at(store, number));

    store->resident_count--;
    store->resident_bytes -= bytes;
    if (state->flags & CSC_CS_TRANSIT)
        store->transit_bytes -= bytes;
    state->flags &= (uint16_t)~CSC_CS_TRANSIT;
}

/* The last key is gone. */
void csc_content_drop(cascade_store *store, uint32_t number)
{
    static const csc_place nowhere;
    csc_content_entry *entry = csc_content_at(store, number);
    uint64_t state = atomic_load(&entry->state);
    uint64_t generation = (state >> CSC_CONTENT_GENERATION_SHIFT) + 1;
    uint64_t filling = state & CSC_CONTENT_FILLING; /* a transfer may still write to its pages */

    /* Readers that pinned it before see another generation and let go, or go on reading pages that stay
     * until their pin is gone. */
    atomic_store(&entry->state,
                 generation << CSC_CONTENT_GENERATION_SHIFT | CSC_CONTENT_DOOMED | filling);
    csc_mark("content: doomed");
    if (state & CSC_CONTENT_DIGEST)
        unlink_entry(store, &store->index.content_list, number);
    if (state & CSC_CONTENT_RESIDENT)
        count_out(store, number);
    csc_policy_forget(store->policy, number);
    csc_content_set_file(store, number, &nowhere);
    if (store->file_policy)
        csc_policy_forget(store->file_policy, number);
    csc_dirty_remove(store, number);
    store->content_count--;
    store->content_bytes -= csc_content_bytes(entry);
    csc_retire(store, &store->contents_retired, number);
}

void csc_content_lose(cascade_store *store, uint32_t number, bool tombstones)
{
    uint32_t link;

    while ((link = csc_content_at(store, number)->first_key) != 0) {
        bool needed = tombstones && csc_key_is_on_disk(store, link - 1) &&
                      !(store->key_states[link - 1].flags & CSC_KS_ELSEWHERE);

        csc_key_unbind(store, link - 1, needed ? csc_next_sequence(store) : 0);
    }
}

void csc_content_set_digest(cascade_store *store, uint32_t number, const uint8_t digest[32])
{
    csc_content_entry *entry = csc_content_at(store, number);
    uint32_t hash = csc_index_id_hash(&store->index, entry->content.tenant, digest);

    memcpy(entry->content.digest, digest, sizeof entry->content.digest);
    csc_mark("content: digest written");
    atomic_fetch_or(&entry->state, CSC_CONTENT_DIGEST);
    csc_hash_insert(&store->index.content_list, number, hash);
    grow_buckets(store, &store->index.content_list, CSC_REGION_CONTENT_BUCKETS, store->content_count);
}

uint32_t csc_content_equal(cascade_store *store, uint32_t number)
{
    const csc_content *mine = &csc_content_at(store, number)->content;
    uint32_t hash = csc_index_id_hash(&store->index, mine->tenant, mine->digest);
    uint32_t link = csc_hash_start(&store->index.content_list, hash), order = csc_hash_order(hash),
             found;
    bool lost = false;

    while ((found = csc_hash_seek(&store->index.content_list, link, order, &lost)) != CSC_HASH_NONE) {
        const csc_content_entry *entry = csc_content_at(store, found);

        if (found != number && csc_content_has(entry, CSC_CONTENT_LIVE) &&
            entry->content.tenant == mine->tenant && entry->content.k_bytes == mine->k_bytes &&
            entry->content.v_bytes == mine->v_bytes &&
            memcmp(entry->content.digest, mine->digest, sizeof mine->digest) == 0)
            return found;
        link = atomic_load(&entry->node.next);
    }
    return CSC_NUMBER_NONE;
}

void csc_content_note_shared(cascade_store *store, uint32_t number)
{
    bool shared = csc_content_at(store, number)->references > 1;

    csc_policy_set_shared(store->policy, number, shared);
    if (store->file_policy)
        csc_policy_set_shared(store->file_policy, number, shared);
}

/* Has a key name another content, whose tiers are `is_in`. Its edges in both are down. Readers: the key
 * names one or the other. */
static void move_key(cascade_store *store, uint32_t number, uint32_t to, const bool *is_in)
{
    csc_key_entry *entry = csc_key_at(store, number);
    uint32_t from = atomic_load(&entry->content);
    csc_content_entry *loser = csc_content_at(store, from), *winner = csc_content_at(store, to);

    unlink_key(store, number);
    entry->sibling = winner->first_key;
    winner->first_key = number + 1;
    atomic_store(&entry->content, to);
    csc_mark("merge: key moved");
    loser->references--;
    winner->references++;
    for (unsigned tier = 0; tier < CASCADE_TIER_COUNT; tier++) {
        int children = (int)store->key_states[number].children[tier];

        if (children) {
            count_children(store, tier, from, -children);
            count_children(store, tier, to, children);
        }
        if (is_in[tier])
            edge_up(store, number, tier);
    }
}

/* The tiers in whose forest a content is. */
static void look_where(cascade_store *store, uint32_t number, bool *is_in)
{
    const csc_content_entry *entry = csc_content_at(store, number);

    is_in[CASCADE_TIER_DRAM] = csc_content_has(entry, CSC_CONTENT_RESIDENT);
    is_in[CASCADE_TIER_FILE] = csc_place_is_set(&entry->file) && has_file_forest(store);
}

void csc_content_merge(cascade_store *store, uint32_t from, uint32_t to)
{
    csc_content_entry *loser = csc_content_at(store, from), *winner = csc_content_at(store, to);
    bool is_in[CASCADE_TIER_COUNT];

    look_where(store, to, is_in);
    for (unsigned tier = 0; tier < CASCADE_TIER_COUNT; tier++)
        edges(store, from, tier, edge_down);
    while (loser->first_key) {
        uint32_t number = loser->first_key - 1;

        move_key(store, number, to, is_in);
        if (csc_key_at(store, number)->segment == 0)
            csc_log_push(store, number);
    }
    if (atomic_load(&loser->lease) > atomic_load(&winner->lease))
        atomic_store(&winner->lease, atomic_load(&loser->lease));
    csc_content_note_shared(store, to);
    csc_content_drop(store, from);
    csc_count(&store->counters.dedup_blocks, 1);
}

void csc_content_now_resident(cascade_store *store, uint32_t number, bool refused, bool tail)
{
    csc_content_entry *entry = csc_content_at(store, number);
    uint64_t bytes = csc_content_bytes(entry);

    atomic_fetch_or(&entry->state, CSC_CONTENT_RESIDENT);
    store->resident_count++;
    store->resident_bytes += bytes;
    edges(store, number, CASCADE_TIER_DRAM, edge_up);
    if (!refused && csc_policy_insert(store->policy, number, bytes, tail, entry->references > 1) == 0)
        return;
    /* Not in the policy's care: leaves in the order it came. */
    csc_policy_refuse(store->policy, number, tail);
    store->content_states[number].flags |= CSC_CS_TRANSIT;
    store->transit_bytes += bytes;
    csc_transit_push(store, number);
}

/* False: a pin came, and it stays. The reader's order is pin, then look at the state; ours is state,
 * then look at the pins: one of us sees the other. */
static bool hide(cascade_store *store, uint32_t number)
{
    csc_content_entry *entry = csc_content_at(store, number);

    atomic_fetch_and(&entry->state, ~(uint64_t)CSC_CONTENT_RESIDENT);
    csc_mark("evict: not resident");
    if (!csc_slots_pinned(&store->slots, number))
        return true;
    atomic_fetch_or(&entry->state, CSC_CONTENT_RESIDENT);
    return false;
}

bool csc_content_evict(cascade_store *store, uint32_t number)
{
    csc_content_entry *entry = csc_content_at(store, number);

    if (!hide(store, number))
        return false;
    csc_content_used(store, number);
    store->content_states[number].flags &= (uint16_t)~CSC_CS_DAMAGED;
    edges(store, number, CASCADE_TIER_DRAM, edge_down);
    csc_policy_evict(store->policy, number);
    count_out(store, number);
    csc_arena_free(store->arena, &entry->dram);
    csc_mark("evict: pages free");
    csc_count(&store->counters.evictions[CASCADE_TIER_DRAM], 1);
    return true;
}

bool csc_content_discard(cascade_store *store, uint32_t number)
{
    if (!hide(store, number))
        return false;
    csc_count(&store->counters.drops[CASCADE_TIER_FILE], 1);
    count_out(store, number);
    csc_content_lose(store, number, true);
    /* What a retired entry waits for is not to keep its pages. */
    csc_arena_free(store->arena, &csc_content_at(store, number)->dram);
    return true;
}

/* ---- keys ------------------------------------------------------------------------------------ */

int csc_key_bind(cascade_store *store, const csc_binding *binding, uint32_t content, uint32_t segment,
                 uint32_t *result)
{
    csc_content_entry *target = csc_content_at(store, content);
    csc_key_state *state;
    csc_key_entry *entry;
    uint32_t number;

    if (store->keys_free.count == 0)
        csc_entries_reclaim(store);
    if (store->keys_free.count) {
        number = store->keys_free.items[--store->keys_free.count];
    } else {
        int code = csc_arena_grow(store->arena, CSC_REGION_KEYS, store->keys_made + 1);

        if (code)
            return code;
        if (!csc_grow(&store->key_states, &store->key_states_room, store->keys_made + 1,
                      sizeof *store->key_states))
            return csc_fail(CASCADE_ENOMEM, "no memory for the index");
        number = store->keys_made++;
    }
    entry = csc_key_at(store, number);
    state = &store->key_states[number];
    *state = (csc_key_state){.parent = CSC_NUMBER_NONE, .generation = state->generation + 1};
    entry->key = binding->key;
    entry->parent = binding->parent;
    entry->sequence = binding->sequence;
    entry->segment = segment;
    entry->sibling = target->first_key;
    atomic_store(&entry->content, content);
    csc_mark("key: written");
    atomic_store(&entry->state, CSC_KEY_BOUND | (binding->has_parent ? CSC_KEY_HAS_PARENT : 0));
    csc_mark("key: bound");
    target->first_key = number + 1;
    target->references++;
    csc_hash_insert(&store->index.key_list, number, csc_index_key_hash(&store->index, &binding->key));
    store->key_count++;
    store->named_bytes += csc_content_bytes(target);
    grow_buckets(store, &store->index.key_list, CSC_REGION_KEY_BUCKETS, store->key_count);
    if (csc_content_has(target, CSC_CONTENT_RESIDENT))
        edge_up(store, number, CASCADE_TIER_DRAM);
    if (csc_place_is_set(&target->file) && has_file_forest(store))
        edge_up(store, number, CASCADE_TIER_FILE);
    *result = number;
    return 0;
}

/* A key less names it. */
static void let_go(cascade_store *store, uint32_t content)
{
    if (csc_content_at(store, content)->references == 0)
        csc_content_drop(store, content);
    else
        csc_content_note_shared(store, content);
}

void csc_key_rebind(cascade_store *store, uint32_t number, const csc_binding *binding, uint32_t content)
{
    csc_key_entry *entry = csc_key_at(store, number);
    csc_key_state *state = &store->key_states[number];
    uint32_t from = atomic_load(&entry->content);
    bool is_in[CASCADE_TIER_COUNT];

    look_where(store, content, is_in);
    for (unsigned tier = 0; tier < CASCADE_TIER_COUNT; tier++)
        edge_down(store, number, tier);
    state->parent = CSC_NUMBER_NONE;
    /* Killed after this the key is bound as it was, later than its record says; after the move it must
     * not seem to be what that record tells of. */
    atomic_fetch_and(&entry->state, ~CSC_KEY_HAS_PARENT);
    entry->parent = binding->parent;
    entry->sequence = binding->sequence;
    entry->segment = 0;
    csc_mark("key: rewritten");
    if (binding->has_parent)
        atomic_fetch_or(&entry->state, CSC_KEY_HAS_PARENT);
    store->named_bytes -= csc_content_bytes(csc_content_at(store, from));
    store->named_bytes += csc_content_bytes(csc_content_at(store, content));
    move_key(store, number, content, is_in);
    let_go(store, from);
}

void csc_key_unbind(cascade_store *store, uint32_t number, uint64_t tombstone_sequence)
{
    csc_key_entry *entry = csc_key_at(store, number);
    uint32_t content = atomic_load(&entry->content);
    csc_content_entry *target = csc_content_at(store, content);

    /* Its children stay and may be found under it again: a later put must look for circles. */
    csc_want_parent(store, &entry->key);
    for (unsigned tier = 0; tier < CASCADE_TIER_COUNT; tier++) {
        edge_down(store, number, tier);
        if (store->key_states[number].children[tier])
            count_children(store, tier, content, -(int)store->key_states[number].children[tier]);
        store->key_states[number].children[tier] = 0;
    }
    store->key_states[number].generation++; /* its children find their parent anew */
    if (tombstone_sequence)
        entry->sequence = tombstone_sequence;
    csc_mark("delete: sequence written");
    atomic_store(&entry->state, tombstone_sequence ? CSC_KEY_DELETED : CSC_KEY_FREE);
    csc_mark("delete: key unbound");
    unlink_entry(store, &store->index.key_list, number);
    unlink_key(store, number);
    store->key_count--;
    store->named_bytes -= csc_content_bytes(target);
    target->references--;
    let_go(store, content);
    if (tombstone_sequence) {
        csc_deleted_note(store, &entry->key, tombstone_sequence);
        entry->segment = 0;
        csc_log_push(store, number);
    } else {
        csc_retire(store, &store->keys_retired, number);
    }
}
