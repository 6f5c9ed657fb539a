/* SPDX-License-Identifier: MIT */
#include "policy/items.h"

#include "base/fail.h"

#include <assert.h>
#include <stdlib.h>

#define NONE CSC_POLICY_NONE

static_assert(sizeof(csc_hazard_mark) == 8, "a mark is one word");
static_assert(sizeof(policy_item) == 32, "two records a cache line");

void csc_items_init(policy_items *items)
{
    *items = (policy_items){0};
    for (int list = 0; list < LIST_COUNT; list++)
        items->lists[list] = (list_ends){.oldest = NONE, .newest = NONE, .tick_start = NONE};
}

void csc_items_free(policy_items *items)
{
    free(items->at);
    free(items->leaves);
    csc_items_init(items);
}

int csc_items_reserve(policy_items *items, uint32_t item)
{
    uint64_t room = items->room ? items->room : 64;
    policy_item *at;
    uint32_t *leaves;

    if (item < items->room)
        return CASCADE_OK;
    if (item == NONE)
        return csc_fail(CASCADE_EINVAL, "item %u is not a number of an item", item);
    while (room <= item)
        room += room / 2;
    if (room > NONE)
        room = NONE;
    /* A list longer than `room` says does no harm, so the first may stay when the second fails. */
    leaves = realloc(items->leaves, room * sizeof *leaves);
    if (leaves)
        items->leaves = leaves;
    at = leaves ? realloc(items->at, room * sizeof *at) : NULL;
    if (!at)
        return csc_fail(CASCADE_ENOMEM, "no memory for the records of %llu blocks",
                        (unsigned long long)room);
    items->at = at;
    for (uint64_t i = items->room; i < room; i++)
        at[i] = (policy_item){.older = NONE, .newer = NONE, .leaf = NONE, .list = LIST_NONE};
    items->room = (uint32_t)room;
    return CASCADE_OK;
}

item_list csc_items_list(const policy_items *items, uint32_t item)
{
    return item < items->room ? (item_list)items->at[item].list : LIST_NONE;
}

bool csc_items_resident(const policy_items *items, uint32_t item)
{
    item_list list = csc_items_list(items, item);

    return list == LIST_RESIDENT || list == LIST_PROTECTED;
}

/* Makes the item a leaf, or none, as its list and children say. */
static void place_leaf(policy_items *items, uint32_t item)
{
    policy_item *record = &items->at[item];
    bool leaf = csc_items_resident(items, item) && record->children == 0;

    if (leaf == (record->leaf != NONE))
        return;
    if (leaf) {
        record->leaf = items->leaf_count;
        items->leaves[items->leaf_count++] = item;
        return;
    }
    uint32_t last = items->leaves[--items->leaf_count];

    items->leaves[record->leaf] = last;
    items->at[last].leaf = record->leaf;
    record->leaf = NONE;
}

static void unlink_item(policy_items *items, uint32_t item)
{
    policy_item *record = &items->at[item];
    list_ends *ends = &items->lists[record->list];

    if (record->list == LIST_NONE)
        return;
    if (ends->tick_start == item)
        ends->tick_start = record->newer;
    *(record->older == NONE ? &ends->oldest : &items->at[record->older].newer) = record->newer;
    *(record->newer == NONE ? &ends->newest : &items->at[record->newer].older) = record->older;
    record->older = record->newer = NONE;
    record->list = LIST_NONE;
    ends->count--;
}

static void link_item(policy_items *items, uint32_t item, item_list list, uint64_t tick)
{
    policy_item *record = &items->at[item];
    list_ends *ends = &items->lists[list];

    if (list == LIST_NONE)
        return;
    record->list = (uint8_t)list;
    record->newer = tick <= ends->tick ? ends->tick_start : NONE;
    record->older = record->newer == NONE ? ends->newest : items->at[record->newer].older;
    *(record->older == NONE ? &ends->oldest : &items->at[record->older].newer) = item;
    *(record->newer == NONE ? &ends->newest : &items->at[record->newer].older) = item;
    if (tick >= ends->tick) {
        ends->tick = tick;
        ends->tick_start = item;
    }
    ends->count++;
}

void csc_items_move(policy_items *items, uint32_t item, item_list list, uint64_t tick)
{
    unlink_item(items, item);
    link_item(items, item, list, tick);
    place_leaf(items, item);
}

void csc_items_set_children(policy_items *items, uint32_t item, uint32_t children)
{
    items->at[item].children = children;
    place_leaf(items, item);
}
