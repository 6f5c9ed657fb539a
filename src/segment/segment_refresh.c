/* SPDX-License-Identifier: MIT */
/*
 * What came to the directory since it was read last. One thread at a time does this, while others read
 * segments, and the writer makes and removes those of this handle: a refresh looks only at segments that
 * were found. Files are opened and read without the lock.
 *
 * Records that were visited are not read again: an item remembers how far its file was scanned. A sealed
 * segment does not change any more, but its name may come to mean another file; that is seen by the
 * generation in the first page, of one segment each time, in turn.
 *
 * A directory is not listed at one instant: whoever empties a segment makes the copies, then removes it,
 * and the listing may show neither. So when a file went meanwhile, the directory is listed again.
 *
 * What another handle did to a name, and was killed before he synced it, a power cut still undoes: a
 * block of ours would be called stored in a file that is not there, or a delete forgotten whose bind
 * comes back. So a segment is called sealed, or gone, only once its name was synced here.
 */
#include "base/fail.h"
#include "base/log.h"
#include "segment/segment_load.h"

#include <inttypes.h>
#include <stdlib.h>

#define PAGE   CSC_SEGFMT_PAGE_BYTES
#define PASSES 3

/* A segment that is in the table, and not removed. */
typedef struct known {
    csc_segment_name name;
    uint32_t index;
    csc_segment_item *item;
    bool listed;
} known;

typedef struct known_list {
    known *items;
    size_t count;
} known_list;

static int compare_names(const csc_segment_name *x, const csc_segment_name *y)
{
    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

static int compare_known(const void *a, const void *b)
{
    return compare_names(&((const known *)a)->name, &((const known *)b)->name);
}

static int list_known(csc_segment_tier *t, known_list *list)
{
    pthread_mutex_lock(&t->lock);
    list->items = malloc((t->item_count + 1) * sizeof *list->items);
    for (size_t i = 0; list->items && i < t->item_count; i++)
        if (t->items[i]->state != CSC_SEGMENT_REMOVED)
            list->items[list->count++] = (known){.name = {t->items[i]->rank, t->items[i]->number},
                                                 .index = (uint32_t)i,
                                                 .item = t->items[i]};
    pthread_mutex_unlock(&t->lock);
    if (!list->items)
        return csc_fail(CASCADE_ENOMEM, "no memory for a list of segments");
    qsort(list->items, list->count, sizeof *list->items, compare_known);
    return 0;
}

static known *find_known(const known_list *list, const csc_segment_name *name)
{
    const known wanted = {.name = *name};

    return bsearch(&wanted, list->items, list->count, sizeof *list->items, compare_known);
}

/* ---- segments that are gone ----------------------------------------------------------------------- */

static void tell_gone(csc_segment_loading *l, csc_segment_item *item, uint32_t index)
{
    l->went = true;
    csc_segment_set_removed(l->t, item);
    if (l->visitor->gone)
        l->visitor->gone(l->visitor->context, index);
}

/* The found segment whose turn it is to be looked at; NULL: there is none. */
static csc_segment_item *next_in_turn(csc_segment_tier *t, uint32_t *index)
{
    csc_segment_item *chosen = NULL;

    pthread_mutex_lock(&t->lock);
    for (size_t step = 1; step <= t->item_count && !chosen; step++) {
        size_t i = (t->checked + step) % t->item_count;

        if (t->items[i]->found && t->items[i]->state != CSC_SEGMENT_REMOVED) {
            chosen = t->items[i];
            t->checked = i;
            *index = (uint32_t)i;
        }
    }
    pthread_mutex_unlock(&t->lock);
    return chosen;
}

/* Is the name still that segment's? Before the directory is listed: what was moved out of a segment lies
 * in others that were there before it was made a spare. */
static int check_one(csc_segment_loading *l)
{
    uint32_t index;
    csc_segment_item *item = next_in_turn(l->t, &index);
    const csc_segfmt_header *header;
    csc_segment_name name;
    const void *page;
    int rc;

    if (!item)
        return 0;
    name = (csc_segment_name){item->rank, item->number};
    csc_segment_loading_next(l);
    rc = csc_segment_file_open(l->t, name.rank, name.number, CSC_SEGMENT_NO_DEADLINE, &l->file);
    if (rc == 0) {
        l->size = PAGE;
        rc = csc_segment_load_page(l, &name, &page);
        header = page;
        if (rc == 0 &&
            (csc_segfmt_is_spare(page, name.rank, name.number) ||
             (csc_segfmt_header_check(header) == 0 && header->generation != item->generation)) &&
            csc_io_datasync(l->t->io, l->file->fd) == 0 &&
            csc_io_sync_directory(l->t->io, l->t->directory) == 0)
            tell_gone(l, item, index); /* else at the next look */
        csc_segment_file_close(l->t, l->file);
    }
    return rc == CASCADE_ENOMEM ? rc : 0;
}

/* A directory that was unmounted is empty too. */
static int check_directory(csc_segment_tier *t)
{
    struct stat info;
    int rc = csc_io_stat(t->io, t->directory, &info);

    if (rc == 0 && info.st_ino == t->directory_inode && info.st_dev == t->directory_device)
        return 0;
    return csc_fail(CASCADE_EIO, "%s is not the directory that it was", t->directory);
}

static int drop_unlisted(csc_segment_loading *l, known_list *list)
{
    char path[CSC_SEGMENT_PATH_BYTES];
    bool checked = false, synced = false;
    struct stat info;

    for (size_t i = 0; i < list->count; i++) {
        known *k = &list->items[i];
        int rc;

        if (!k->item->found || k->listed)
            continue;
        rc = checked ? 0 : check_directory(l->t);
        if (rc)
            return rc;
        checked = true;
        csc_segment_path(l->t, k->name.rank, k->name.number, path);
        if (csc_io_stat(l->t->io, path, &info) != CASCADE_MISS)
            continue;
        rc = synced ? 0 : csc_io_sync_directory(l->t->io, l->t->directory);
        if (rc)
            return rc;
        synced = true;
        tell_gone(l, k->item, k->index);
    }
    return 0;
}

/* ---- segments that are there ---------------------------------------------------------------------- */

/* Ends the reading of more records; lets the next refresh see to it if it was asked to begin earlier. */
static void note_progress(csc_segment_loading *l, uint64_t begun, bool all, bool sealed)
{
    bool is_first; /* time that all of it was read: as it would have been at open */

    pthread_mutex_lock(&l->t->lock);
    is_first = l->item->ours_whole && all;
    l->item->cut &= !all;
    l->item->ours_whole &= !all;
    sealed &= all;
    if (l->item->scanned == begun) {
        l->item->scanned = l->from;
        if (l->last_at) {
            l->item->last_at = l->last_at;
            l->item->last_sum = l->last_sum;
        }
        if (sealed && l->item->state == CSC_SEGMENT_UNSEALED)
            l->item->state = CSC_SEGMENT_SEALED;
    }
    if (is_first)
        l->item->ours = true;
    else if (sealed || l->from != begun)
        l->item->ours = false; /* its writer lives */
    pthread_mutex_unlock(&l->t->lock);
}

/* Where to read on. After a write that failed the writer cuts off the whole batch, of which some records
 * may have been visited, and other ones come in their place: then all of it is read again. */
static int find_start(csc_segment_loading *l, uint64_t scanned)
{
    bool has = true;
    int rc = l->item->last_at ? csc_segment_scan_has(l, l->item->last_at, l->item->last_sum, &has) : 0;

    l->from = rc || has ? scanned : PAGE;
    return rc;
}

/* Reads on in an unsealed segment. */
static int read_more(csc_segment_loading *l, const known *k)
{
    uint64_t begun, bytes;
    bool sound = false;
    int rc;

    csc_segment_loading_next(l);
    rc = csc_segment_file_acquire(l->t, k->item, CSC_SEGMENT_NO_DEADLINE, &l->file);
    if (rc == CASCADE_MISS)
        l->went = true;
    if (rc)
        return rc == CASCADE_MISS ? 0 : rc;
    rc = csc_io_size(l->t->io, l->file->fd, &bytes);
    if (rc == 0) {
        pthread_mutex_lock(&l->t->lock);
        begun = k->item->scanned;
        k->item->ours_whole &= bytes == k->item->bytes;
        k->item->bytes = bytes;
        pthread_mutex_unlock(&l->t->lock);
        l->item = k->item;
        l->generation = k->item->generation;
        l->key_id = k->item->key_id;
        l->source = (csc_segment_source){.segment = k->index, .rank = k->name.rank};
        l->size = bytes - bytes % PAGE;
        rc = find_start(l, begun);
        if (rc == 0 && l->from < l->size)
            rc = csc_segment_load_index(l, &sound);
        if (rc == 0 && !sound)
            rc = csc_segment_scan_records(l);
        else if (rc == 0)
            rc = csc_io_sync_directory(l->t->io, l->t->directory);
        if (rc == 0 && !sound && k->item->ours_whole && (rc = csc_segment_take_over(l, &k->name)) != 0) {
            pthread_mutex_lock(&l->t->lock);
            k->item->ours_whole = false; /* another sync would only seem to work */
            pthread_mutex_unlock(&l->t->lock);
        }
        note_progress(l, begun, rc == 0, sound);
    }
    csc_segment_file_release(l->t, l->file);
    l->file = NULL;
    return rc;
}

static bool is_unsealed(csc_segment_tier *t, const csc_segment_item *item)
{
    bool unsealed;

    pthread_mutex_lock(&t->lock);
    unsealed = item->state == CSC_SEGMENT_UNSEALED;
    pthread_mutex_unlock(&t->lock);
    return unsealed;
}

/* Whether a file that is not in the table need not be looked at: it waits to be used again by this
 * handle, or is known to be no segment. */
static bool is_left_alone(csc_segment_tier *t, const csc_segment_name *name)
{
    bool is_spare = false;

    pthread_mutex_lock(&t->lock);
    for (uint32_t i = 0; i < t->spare_count && name->rank == t->rank; i++)
        is_spare |= t->spares[i].number == name->number;
    pthread_mutex_unlock(&t->lock);
    return is_spare || csc_segment_is_skipped(t, name);
}

/* One file that cannot be read keeps nobody from the others. */
static int read_listed(csc_segment_loading *l, const csc_segment_names *names, const known_list *list)
{
    int rc = 0, failed = 0;

    for (size_t i = 0; i < names->count && rc == 0; i++) {
        const csc_segment_name *name = &names->names[i];
        const known *k = find_known(list, name);

        if (k) {
            if (k->item->found && is_unsealed(l->t, k->item))
                rc = read_more(l, k);
        } else if (!is_left_alone(l->t, name)) {
            csc_segment_loading_next(l);
            rc = csc_segment_load(l, name);
        }
        if (rc == CASCADE_EIO) {
            failed = rc;
            rc = 0;
        }
    }
    return rc ? rc : failed;
}

/* Forgets files that were skipped and are gone. */
static void end_skipped(csc_segment_tier *t)
{
    size_t kept = 0;

    for (size_t i = 0; i < t->skipped_count; i++)
        if (t->skipped[i].there)
            t->skipped[kept++] = t->skipped[i];
    t->skipped_count = kept;
}

/* One look at the whole directory. */
static int look(csc_segment_loading *l)
{
    csc_segment_tier *t = l->t;
    csc_segment_names names = {NULL, 0, 0};
    known_list list = {NULL, 0};
    int rc = csc_segment_names_list(t, &names);

    if (rc == CASCADE_MISS)
        rc = csc_fail(CASCADE_EIO, "the store's directory %s is gone", t->directory);
    if (rc == 0)
        rc = list_known(t, &list);
    if (rc == 0) {
        for (size_t i = 0; i < t->skipped_count; i++)
            t->skipped[i].there = false;
        for (size_t i = 0; i < names.count; i++) {
            known *k = find_known(&list, &names.names[i]);

            if (k)
                k->listed = true;
        }
        rc = drop_unlisted(l, &list);
    }
    if (rc == 0)
        rc = read_listed(l, &names, &list);
    if (rc == 0)
        end_skipped(t);
    free(names.names);
    free(list.items);
    return rc;
}

int csc_segment_refresh(csc_tier *tier, const csc_segment_visitor *visitor)
{
    csc_segment_tier *t = csc_segment_tier_of(tier);
    csc_segment_loading l = {.t = t, .visitor = visitor, .live = true, .all_or_nothing = true};
    int rc = csc_segment_loading_begin(&l);

    if (rc == 0)
        rc = check_one(&l);
    l.went = false; /* that was before the directory is listed */
    for (int pass = 0; rc == 0 && (pass == 0 || l.went); pass++) {
        l.went = false;
        rc = pass < PASSES ? look(&l) : csc_fail(CASCADE_EAGAIN, "segments kept being removed");
    }
    csc_segment_note_unread(t);
    csc_segment_loading_end(&l);
    return rc;
}
