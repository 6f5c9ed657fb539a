/* SPDX-License-Identifier: MIT */
#include "policy/policy.h"

#include "base/fail.h"
#include "policy/hazard.h"
#include "policy/items.h"

#include <stdlib.h>
#include <string.h>

enum {
    GHOSTS_PER_SLOT = 16,
    SAMPLES = 32,        /* eligible leaves compared for a victim */
    DRAWS = 4 * SAMPLES, /* leaves looked at before the search turns into a scan */
};

struct csc_policy {
    csc_policy_kind kind;
    uint32_t capacity_items;
    uint64_t clock;
    uint64_t random;
    policy_items items;
    csc_hazard *hazard; /* NULL unless the policy learns; it then ticks with `clock` */
};

static const char *const kind_names[] = {
    [CSC_POLICY_HAZARD] = "hazard", [CSC_POLICY_LRU] = "lru", [CSC_POLICY_PUBLISHED] = "published"};

int csc_policy_kind_parse(const char *name, csc_policy_kind *kind)
{
    for (size_t i = 0; name && i < sizeof kind_names / sizeof kind_names[0]; i++)
        if (strcmp(name, kind_names[i]) == 0) {
            *kind = (csc_policy_kind)i;
            return CASCADE_OK;
        }
    return csc_fail(CASCADE_EINVAL, "policy \"%.64s\" is none of hazard, lru, published",
                    name ? name : "(null)");
}

const char *csc_policy_kind_name(csc_policy_kind kind)
{
    return kind_names[kind];
}

int csc_policy_create(csc_policy_kind kind, uint32_t capacity_items, uint64_t seed, csc_policy **policy)
{
    csc_policy *made = calloc(1, sizeof *made);

    if (made && kind == CSC_POLICY_HAZARD) {
        made->hazard = csc_hazard_create();
        if (!made->hazard) {
            free(made);
            made = NULL;
        }
    }
    if (!made)
        return csc_fail(CASCADE_ENOMEM, "no memory for an eviction policy");
    made->kind = kind;
    made->capacity_items = capacity_items;
    made->random = seed;
    csc_items_init(&made->items);
    *policy = made;
    return CASCADE_OK;
}

void csc_policy_destroy(csc_policy **policy)
{
    if (!*policy)
        return;
    csc_hazard_destroy((*policy)->hazard);
    csc_items_free(&(*policy)->items);
    free(*policy);
    *policy = NULL;
}

static void move(csc_policy *policy, uint32_t item, item_list list)
{
    csc_items_move(&policy->items, item, list, policy->clock);
}

/* Stops watching a known item. Its number of resident children stays: they may outlive it here. */
static void lose(csc_policy *policy, uint32_t item)
{
    if (policy->hazard)
        csc_hazard_lost(policy->hazard, &policy->items.at[item].mark);
    move(policy, item, LIST_NONE);
}

static void trim_ghosts(csc_policy *policy)
{
    const list_ends *ghosts = &policy->items.lists[LIST_GHOST];

    while (ghosts->count > (uint64_t)policy->capacity_items * GHOSTS_PER_SLOT)
        lose(policy, ghosts->oldest);
}

void csc_policy_set_capacity(csc_policy *policy, uint32_t capacity_items)
{
    policy->capacity_items = capacity_items;
    trim_ghosts(policy);
}

void csc_policy_tick(csc_policy *policy)
{
    policy->clock++;
    if (policy->hazard)
        csc_hazard_tick(policy->hazard);
}

/* An item with a record was used; it stays in, or comes into, `list`. */
static void use(csc_policy *policy, uint32_t item, bool tail, item_list list)
{
    policy_item *record = &policy->items.at[item];
    bool known = record->list != LIST_NONE;
    bool again = known && record->mark.last == policy->clock;

    if (policy->hazard && known)
        csc_hazard_used(policy->hazard, &record->mark, tail);
    else if (policy->hazard)
        csc_hazard_born(policy->hazard, &record->mark, tail);
    else
        record->mark = (csc_hazard_mark){.last = CSC_HAZARD_TICK(policy->clock)};
    if (!again || record->list != list)
        move(policy, item, list);
}

void csc_policy_touch(csc_policy *policy, uint32_t item, bool tail)
{
    item_list list = csc_items_list(&policy->items, item);

    if (list != LIST_NONE)
        use(policy, item, tail, list);
}

static float weight(uint64_t bytes)
{
    return bytes ? (float)bytes : 1.0f;
}

static item_list resident_list(const csc_policy *policy, bool shared)
{
    return shared && policy->kind == CSC_POLICY_PUBLISHED ? LIST_PROTECTED : LIST_RESIDENT;
}

int csc_policy_insert(csc_policy *policy, uint32_t item, uint64_t bytes, bool tail, bool shared)
{
    int result = csc_items_reserve(&policy->items, item);

    if (result != CASCADE_OK)
        return result;
    use(policy, item, tail, resident_list(policy, shared));
    policy->items.at[item].bytes = weight(bytes);
    return CASCADE_OK;
}

void csc_policy_set_shared(csc_policy *policy, uint32_t item, bool shared)
{
    item_list list = resident_list(policy, shared);

    if (csc_items_resident(&policy->items, item) && csc_items_list(&policy->items, item) != list)
        csc_items_move(&policy->items, item, list, policy->items.at[item].mark.last);
}

/* Only a policy that learns has a use for ghosts. */
static void leave(csc_policy *policy, uint32_t item)
{
    move(policy, item, policy->hazard ? LIST_GHOST : LIST_NONE);
    trim_ghosts(policy);
}

void csc_policy_evict(csc_policy *policy, uint32_t item)
{
    if (csc_items_resident(&policy->items, item))
        leave(policy, item);
}

void csc_policy_refuse(csc_policy *policy, uint32_t item, bool tail)
{
    if (csc_items_resident(&policy->items, item)) {
        leave(policy, item);
        return;
    }
    /* Without memory for its record it is simply not remembered. */
    if (!policy->hazard || csc_items_reserve(&policy->items, item) != CASCADE_OK)
        return;
    use(policy, item, tail, LIST_GHOST);
    trim_ghosts(policy);
}

void csc_policy_forget(csc_policy *policy, uint32_t item)
{
    if (item >= policy->items.room)
        return;
    if (policy->items.at[item].list != LIST_NONE)
        lose(policy, item);
    csc_items_set_children(&policy->items, item, 0);
}

int csc_policy_children(csc_policy *policy, uint32_t item, int delta)
{
    int result = csc_items_reserve(&policy->items, item);

    if (result != CASCADE_OK)
        return result;
    int64_t children = (int64_t)policy->items.at[item].children + delta;

    if (children < 0)
        children = 0;
    if (children > UINT32_MAX)
        children = UINT32_MAX;
    csc_items_set_children(&policy->items, item, (uint32_t)children);
    return CASCADE_OK;
}

uint32_t csc_policy_resident_count(const csc_policy *policy)
{
    return policy->items.lists[LIST_RESIDENT].count + policy->items.lists[LIST_PROTECTED].count;
}

uint32_t csc_policy_ghost_count(const csc_policy *policy)
{
    return policy->items.lists[LIST_GHOST].count;
}

/* ---- choosing ---- */

/* splitmix64 */
static uint64_t next_random(csc_policy *policy)
{
    uint64_t z = policy->random += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

typedef struct victim_search {
    csc_policy_filter filter;
    void *context;
    uint32_t best;
    float value;    /* of the best */
    uint32_t found; /* eligible items seen */
} victim_search;

static bool eligible(const csc_policy *policy, const victim_search *search, uint32_t item)
{
    if (policy->items.at[item].mark.last == policy->clock)
        return false;
    return !search->filter || search->filter(search->context, item);
}

static float value_of(const csc_policy *policy, uint32_t item)
{
    const policy_item *record = &policy->items.at[item];

    return csc_hazard_value(policy->hazard, &record->mark) / record->bytes;
}

static void consider(const csc_policy *policy, victim_search *search, uint32_t item)
{
    if (!eligible(policy, search, item))
        return;
    search->found++;

    float value = value_of(policy, item);

    if (search->best == CSC_POLICY_NONE || value < search->value ||
        (value == search->value &&
         policy->items.at[item].mark.last < policy->items.at[search->best].mark.last)) {
        search->best = item;
        search->value = value;
    }
}

/* The leaf of least value among a sample. */
static uint32_t sampled_leaf(csc_policy *policy, victim_search *search)
{
    const policy_items *items = &policy->items;
    uint32_t count = items->leaf_count, start;

    if (count == 0)
        return CSC_POLICY_NONE;
    if (count > SAMPLES)
        for (int i = 0; i < DRAWS && search->found < SAMPLES; i++)
            consider(policy, search, items->leaves[next_random(policy) % count]);
    if (search->found)
        return search->best;
    /* Few leaves, or few that may go: look at them in turn. */
    start = (uint32_t)(next_random(policy) % count);
    for (uint32_t i = 0; i < count && search->found < SAMPLES; i++)
        consider(policy, search, items->leaves[((uint64_t)start + i) % count]);
    return search->best;
}

static uint32_t oldest_in(const csc_policy *policy, const victim_search *search, item_list list,
                          bool leaf)
{
    const list_ends *ends = &policy->items.lists[list];
    const policy_item *at = policy->items.at;
    uint32_t end = ends->tick == policy->clock ? ends->tick_start : CSC_POLICY_NONE;

    for (uint32_t item = ends->oldest; item != end; item = at[item].newer)
        if ((at[item].leaf != CSC_POLICY_NONE) == leaf && eligible(policy, search, item))
            return item;
    return CSC_POLICY_NONE;
}

/* The least recently used leaf or inner item; protected ones after all others. */
static uint32_t oldest(const csc_policy *policy, const victim_search *search, bool leaf)
{
    uint32_t item = oldest_in(policy, search, LIST_RESIDENT, leaf);

    return item != CSC_POLICY_NONE ? item : oldest_in(policy, search, LIST_PROTECTED, leaf);
}

uint32_t csc_policy_victim(csc_policy *policy, csc_policy_filter filter, void *context)
{
    victim_search search = {.filter = filter, .context = context, .best = CSC_POLICY_NONE};
    uint32_t victim;

    if (policy->hazard && csc_hazard_learned(policy->hazard))
        victim = sampled_leaf(policy, &search);
    else
        victim = oldest(policy, &search, true);
    return victim != CSC_POLICY_NONE ? victim : oldest(policy, &search, false);
}

bool csc_policy_refuses(const csc_policy *policy, uint32_t victim, uint32_t item, uint64_t bytes,
                        bool tail)
{
    bool known = csc_items_list(&policy->items, item) != LIST_NONE;
    float value;

    if (!policy->hazard || !csc_items_resident(&policy->items, victim))
        return false;
    value = csc_hazard_value_if_used(policy->hazard, known ? &policy->items.at[item].mark : NULL, tail);
    return value_of(policy, victim) > value / weight(bytes);
}

csc_policy_worth csc_policy_worth_of(const csc_policy *policy, uint32_t item)
{
    item_list list = csc_items_list(&policy->items, item);

    if (list == LIST_NONE)
        return (csc_policy_worth){.age = UINT64_MAX};
    return (csc_policy_worth){.is_protected = list == LIST_PROTECTED,
                              .value = policy->hazard ? value_of(policy, item)
                                                      : 0, /* 0 for all until it has learned */
                              .age = policy->clock - policy->items.at[item].mark.last};
}

int csc_policy_worth_compare(const csc_policy_worth *a, const csc_policy_worth *b)
{
    if (a->is_protected != b->is_protected)
        return a->is_protected ? 1 : -1;
    if (a->value != b->value)
        return a->value < b->value ? -1 : 1;
    return (a->age < b->age) - (a->age > b->age);
}
