/* SPDX-License-Identifier: MIT */
/*
 * In which order the blocks of a segment are moved: each prefix chain from its root on, so that what is
 * read together lies together afterwards.
 */
#include "base/fail.h"
#include "base/grow.h"
#include "store/compact_private.h"

#include <stdlib.h>

#define LINK_STEP 256u /* parents looked for in one go under the lock */

/* One content of the segment. Links are indexes into the list plus 1; 0: none. */
typedef struct node {
    uint32_t number;
    uint32_t child, sibling;
    bool has_parent; /* in this segment */
    bool placed;
} node;

typedef struct node_list {
    node *nodes; /* in the order of numbers */
    size_t count, room;
} node_list;

static int compare(const void *a, const void *b)
{
    const node *x = a;
    const node *y = b;

    return x->number < y->number ? -1 : x->number > y->number;
}

static int collect(cascade_store *store, uint32_t segment, node_list *list)
{
    int code = 0;

    pthread_mutex_lock(&store->lock);
    for (uint32_t number = 0; number < store->contents_made && code == 0; number++) {
        const csc_content_entry *entry = csc_content_at(store, number);

        if (number % CSC_SCAN_STEP == CSC_SCAN_STEP - 1) {
            pthread_mutex_unlock(&store->lock);
            pthread_mutex_lock(&store->lock);
        }
        if (!csc_content_has(entry, CSC_CONTENT_LIVE) || !csc_place_is_set(&entry->file) ||
            csc_segment_of(&entry->file) != segment)
            continue;
        if (csc_grow(&list->nodes, &list->room, list->count + 1, sizeof *list->nodes))
            list->nodes[list->count++] = (node){.number = number};
        else
            code = csc_fail(CASCADE_ENOMEM, "no memory to list what lives in a segment");
    }
    pthread_mutex_unlock(&store->lock);
    return code;
}

uint32_t csc_compact_parent(cascade_store *store, uint32_t number)
{
    const csc_content_entry *entry = csc_content_at(store, number);
    const csc_key_entry *key;
    bool lost = false;
    uint32_t parent;

    if (!csc_content_has(entry, CSC_CONTENT_LIVE) || !entry->first_key)
        return CSC_NUMBER_NONE;
    key = csc_key_at(store, entry->first_key - 1);
    if (!(atomic_load(&key->state) & CSC_KEY_HAS_PARENT))
        return CSC_NUMBER_NONE;
    parent = csc_index_find(&store->index, &key->parent, csc_index_key_hash(&store->index, &key->parent),
                            &lost);
    return parent == CSC_NUMBER_NONE ? parent : atomic_load(&csc_key_at(store, parent)->content);
}

/* From the last to the first, so that children are listed in the order of numbers. */
static void link_parents(cascade_store *store, node_list *list)
{
    pthread_mutex_lock(&store->lock);
    for (size_t i = list->count; i-- > 0;) {
        node wanted = {.number = csc_compact_parent(store, list->nodes[i].number)}, *parent = NULL;

        if (i % LINK_STEP == 0) {
            pthread_mutex_unlock(&store->lock);
            pthread_mutex_lock(&store->lock);
        }
        if (wanted.number != CSC_NUMBER_NONE && wanted.number != list->nodes[i].number)
            parent = bsearch(&wanted, list->nodes, list->count, sizeof wanted, compare);
        if (!parent)
            continue;
        list->nodes[i].has_parent = true;
        list->nodes[i].sibling = parent->child;
        parent->child = (uint32_t)i + 1;
    }
    pthread_mutex_unlock(&store->lock);
}

/* From `root` on, children before siblings. Each node is somebody's child once at most, so the stack
 * holds them all. Returns how many numbers there are now. */
static uint32_t place_chain(node_list *list, uint32_t root, uint32_t *stack, uint32_t *numbers,
                            uint32_t count)
{
    uint32_t depth = 0;

    stack[depth++] = root;
    while (depth) {
        node *top = &list->nodes[stack[--depth]];

        if (top->placed)
            continue;
        top->placed = true;
        numbers[count++] = top->number;
        for (uint32_t link = top->child; link; link = list->nodes[link - 1].sibling)
            if (!list->nodes[link - 1].placed)
                stack[depth++] = link - 1;
    }
    return count;
}

int csc_compact_list(cascade_store *store, uint32_t segment, uint32_t **numbers, uint32_t *count)
{
    node_list list = {0};
    uint32_t *ordered = NULL, *stack = NULL, placed = 0;
    int code = collect(store, segment, &list);

    if (code == 0) {
        ordered = malloc((list.count + 1) * sizeof *ordered);
        stack = malloc((list.count + 1) * sizeof *stack);
        if (!ordered || !stack)
            code = csc_fail(CASCADE_ENOMEM, "no memory to list %zu blocks", list.count);
    }
    if (code == 0) {
        link_parents(store, &list);
        for (uint32_t i = 0; i < list.count; i++)
            if (!list.nodes[i].has_parent)
                placed = place_chain(&list, i, stack, ordered, placed);
        /* Contents that are each other's parents, under different keys. */
        for (uint32_t i = 0; i < list.count; i++)
            placed = place_chain(&list, i, stack, ordered, placed);
        *numbers = ordered;
        *count = placed;
        ordered = NULL;
    }
    free(ordered);
    free(stack);
    free(list.nodes);
    return code;
}
