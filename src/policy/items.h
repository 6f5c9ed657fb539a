/* SPDX-License-Identifier: MIT */
/*
 * Inside src/policy: the records of all items, the lists that order them and the set of leaves. No rule
 * of eviction is here.
 *
 * Every known item is in exactly one list: residents in one of two recency lists, ghosts in a FIFO. A
 * list runs from the end that leaves first. Within one tick later arrivals go in front of earlier ones,
 * so that of a request, which comes head first, the tail leaves first.
 */
#ifndef CSC_POLICY_ITEMS_H
#define CSC_POLICY_ITEMS_H

#include "policy/hazard.h"
#include "policy/policy.h"

typedef enum item_list {
    LIST_NONE = 0,  /* unknown */
    LIST_RESIDENT,  /* resident, unprotected */
    LIST_PROTECTED, /* resident, protected by the published rule */
    LIST_GHOST,
    LIST_COUNT
} item_list;

typedef struct policy_item {
    csc_hazard_mark mark; /* only `last` unless the policy learns */
    uint32_t older;       /* neighbours in the list */
    uint32_t newer;
    uint32_t children; /* resident ones; counted for unknown items too */
    uint32_t leaf;     /* place among the leaves, or CSC_POLICY_NONE */
    float bytes;
    uint8_t list; /* item_list */
} policy_item;

typedef struct list_ends {
    uint32_t oldest;
    uint32_t newest;
    uint32_t tick_start; /* where the items of tick `tick`, the last, begin; NONE if all left */
    uint32_t count;
    uint64_t tick;
} list_ends;

typedef struct policy_items {
    policy_item *at;
    uint32_t room; /* items [0, room) have a record */
    list_ends lists[LIST_COUNT];
    uint32_t *leaves; /* resident items without a resident child, in no order */
    uint32_t leaf_count;
    uint32_t leaf_room;
} policy_items;

void csc_items_init(policy_items *items);
void csc_items_free(policy_items *items);

/** Makes a record for `item`. Errors: CASCADE_ENOMEM. */
int csc_items_reserve(policy_items *items, uint32_t item);

/** The list an item is in; LIST_NONE for one without a record. */
item_list csc_items_list(const policy_items *items, uint32_t item);
bool csc_items_resident(const policy_items *items, uint32_t item);

/** Moves an item with a record to a list (LIST_NONE: out of all), as one that was used in `tick`: the
 * current one, or an earlier one and then next to the current tick's. Keeps the set of leaves. */
void csc_items_move(policy_items *items, uint32_t item, item_list list, uint64_t tick);

/** Sets the number of resident children. */
void csc_items_set_children(policy_items *items, uint32_t item, uint32_t children);

#endif
