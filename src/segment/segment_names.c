/* SPDX-License-Identifier: MIT */
/* The segment files in the directory, by rank and number. */
#include "base/fail.h"
#include "segment/segment_internal.h"

#include <stdlib.h>

static int collect(void *context, const char *text)
{
    csc_segment_names *list = context;
    csc_segment_name found;

    if (!csc_segfmt_name_parse(text, &found.rank, &found.number))
        return 0;
    if (list->count == list->room) {
        size_t room = list->room ? 2 * list->room : 64;
        csc_segment_name *names = realloc(list->names, room * sizeof *names);

        if (!names)
            return csc_fail(CASCADE_ENOMEM, "no memory for %zu names", room);
        list->names = names;
        list->room = room;
    }
    list->names[list->count++] = found;
    return 0;
}

static int compare(const void *a, const void *b)
{
    const csc_segment_name *x = a;
    const csc_segment_name *y = b;

    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

int csc_segment_names_list(csc_segment_tier *t, csc_segment_names *list)
{
    int rc = csc_io_list(t->io, t->directory, collect, list);

    if (rc == 0 && list->count > 0)
        qsort(list->names, list->count, sizeof *list->names, compare);
    return rc;
}
