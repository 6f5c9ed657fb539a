/* SPDX-License-Identifier: MIT */
/* Arrays that grow. */
#ifndef CSC_BASE_GROW_H
#define CSC_BASE_GROW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/**
 * Makes an array of items of `bytes` hold `wanted` of them: `*room` is how many it holds, `array` is the
 * address of the pointer to them. New items are zero. Grows to twice what it was at least. False: no
 * memory, nothing changed.
 */
static inline bool csc_grow(void *array, size_t *room, size_t wanted, size_t bytes)
{
    size_t grown = *room ? 2 * *room : 64;
    void *items;
    char *moved;

    if (wanted <= *room)
        return true;
    memcpy(&items, array, sizeof items);
    if (grown < wanted)
        grown = wanted;
    if (grown > SIZE_MAX / bytes)
        return false;
    moved = realloc(items, grown * bytes);
    if (!moved)
        return false;
    memset(moved + *room * bytes, 0, (grown - *room) * bytes);
    items = moved;
    memcpy(array, &items, sizeof items);
    *room = grown;
    return true;
}

#endif
