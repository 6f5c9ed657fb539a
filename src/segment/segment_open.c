/* SPDX-License-Identifier: MIT */
/*
 * Opening: what is in the directory, and what is in each segment. A sealed segment is read by its first
 * page and its index; any other by its record headers, one after the other, never the payload.
 *
 * Files are judged one by one: what is damaged or foreign is skipped, counted and logged, and left as it
 * is. Only what would make every file unreadable (no memory, no descriptors) fails the open.
 */
#include "base/fail.h"
#include "base/log.h"
#include "segment/segment_internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define PAGE CSC_SEGFMT_PAGE_BYTES
/* Headers that lie closer together than this are read many at a time. */
#define NEAR_BYTES   ((uint64_t)128 << 10)
#define WINDOW_BYTES ((size_t)1 << 20)

/* ---- the directory -------------------------------------------------------------------------------- */

typedef struct name {
    uint32_t rank;
    uint32_t number;
} name;

typedef struct name_list {
    name *names;
    size_t count, room;
} name_list;

static int collect_name(void *context, const char *text)
{
    name_list *list = context;
    name found;

    if (!csc_segfmt_name_parse(text, &found.rank, &found.number))
        return 0;
    if (list->count == list->room) {
        size_t room = list->room ? 2 * list->room : 64;
        name *names = realloc(list->names, room * sizeof *names);

        if (!names)
            return csc_fail(CASCADE_ENOMEM, "no memory for %zu names", room);
        list->names = names;
        list->room = room;
    }
    list->names[list->count++] = found;
    return 0;
}

static int compare_names(const void *a, const void *b)
{
    const name *x = a;
    const name *y = b;

    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

/* ---- one segment ---------------------------------------------------------------------------------- */

/* A segment being read. */
typedef struct loading {
    csc_segment_tier *t;
    const csc_segment_visitor *visitor;
    csc_segment_file *file;
    uint32_t index; /* in the table */
    uint64_t generation;
    uint64_t size;   /* of the file, whole pages */
    uint8_t *window; /* WINDOW_BYTES or more, aligned */
    size_t window_room;
    uint64_t window_from, window_to; /* what of the file lies there */
} loading;

/* Bytes of the file, whole pages within `size`; they stay until the next call. `ahead`: read more than
 * was asked for, there is more to come. A direct read that is refused is done again on a buffered
 * descriptor. */
static int fetch(loading *l, uint64_t at, uint64_t bytes, bool ahead, const void **data)
{
    struct iovec vector;
    int rc;

    if (at >= l->window_from && at + bytes <= l->window_to) {
        *data = l->window + (at - l->window_from);
        return 0;
    }
    if (bytes > l->window_room) {
        uint8_t *window = csc_segment_alloc(bytes);

        if (!window)
            return CASCADE_ENOMEM;
        free(l->window);
        l->window = window;
        l->window_room = bytes;
    }
    if (ahead && bytes < WINDOW_BYTES)
        bytes = l->size - at < WINDOW_BYTES ? l->size - at : WINDOW_BYTES;
    vector = (struct iovec){l->window, bytes};
    l->window_from = l->window_to = 0;
    rc = csc_io_read(l->t->io, l->file->fd, &vector, 1, at);
    if (rc)
        return rc;
    atomic_fetch_add(&l->t->read_bytes, bytes);
    l->window_from = at;
    l->window_to = at + bytes;
    *data = l->window;
    return 0;
}

static void to_content(csc_content *to, uint64_t tenant, uint64_t k_bytes, uint64_t v_bytes,
                       const uint8_t digest[32])
{
    to->tenant = tenant;
    to->k_bytes = k_bytes;
    to->v_bytes = v_bytes;
    memcpy(to->digest, digest, sizeof to->digest);
}

static void to_binding(csc_binding *to, const uint8_t key[32], const uint8_t parent[32],
                       uint64_t sequence, uint32_t flags)
{
    memcpy(to->key.bytes, key, sizeof to->key.bytes);
    memcpy(to->parent.bytes, parent, sizeof to->parent.bytes);
    to->has_parent = flags & CSC_SEGFMT_HAS_PARENT;
    to->sequence = sequence;
}

/* ---- sealed: the index ---------------------------------------------------------------------------- */

/* By record, because a block is reported once with all its bindings. */
static int compare_records(const void *a, const void *b)
{
    const csc_segfmt_index_entry *const *x = a;
    const csc_segfmt_index_entry *const *y = b;

    if ((*x)->offset != (*y)->offset)
        return (*x)->offset < (*y)->offset ? -1 : 1;
    return *x < *y ? -1 : *x > *y;
}

static int visit_logged(const loading *l, const csc_segfmt_index_entry *from)
{
    csc_log_entry entry = {.is_delete = from->type == CSC_SEGFMT_INDEX_DELETE};

    to_binding(&entry.binding, from->key, from->parent, from->sequence, from->flags);
    to_content(&entry.content, from->tenant, from->k_bytes, from->v_bytes, from->digest);
    return l->visitor->log(l->visitor->context, l->index, &entry);
}

/* Reports the block whose entries are sorted[0, count). */
static int visit_indexed(const loading *l, const csc_segfmt_index_entry *const *sorted, size_t count)
{
    csc_binding bindings[CSC_SEGFMT_BINDINGS_MAX];
    const csc_segfmt_index_entry *first = sorted[0];
    csc_content content;
    csc_place place;
    size_t found = 0;

    for (size_t i = 0; i < count; i++)
        if (sorted[i]->type == CSC_SEGFMT_INDEX_BINDING)
            to_binding(&bindings[found++], sorted[i]->key, sorted[i]->parent, sorted[i]->sequence,
                       sorted[i]->flags);
    to_content(&content, first->tenant, first->k_bytes, first->v_bytes, first->digest);
    csc_segment_place_make(&place, l->index, first->offset, first->header_bytes, l->generation);
    return l->visitor->block(l->visitor->context, l->index, &content, bindings, found, &place);
}

static bool is_logged(const csc_segfmt_index_entry *entry)
{
    return entry->type == CSC_SEGFMT_INDEX_BIND || entry->type == CSC_SEGFMT_INDEX_DELETE;
}

/* How many entries from `i` on belong to one record; 0 if they contradict each other. */
static size_t record_run(const csc_segfmt_index_entry *const *sorted, size_t count, size_t i)
{
    const csc_segfmt_index_entry *first = sorted[i];
    size_t end = i + 1;

    for (; end < count && sorted[end]->offset == first->offset; end++) {
        const csc_segfmt_index_entry *other = sorted[end];

        if (is_logged(other) != is_logged(first) || other->header_bytes != first->header_bytes)
            return 0;
        if (!is_logged(first) && (other->tenant != first->tenant || other->k_bytes != first->k_bytes ||
                                  other->v_bytes != first->v_bytes ||
                                  memcmp(other->digest, first->digest, sizeof first->digest) != 0 ||
                                  end - i >= CSC_SEGFMT_BINDINGS_MAX))
            return 0;
    }
    return end - i;
}

/* Reports everything in a checked index. `*sound` is cleared, and nothing reported, if entries of one
 * record contradict each other. */
static int visit_index(const loading *l, const csc_segfmt_index_entry *entries, size_t count,
                       bool *sound)
{
    const csc_segfmt_index_entry **sorted = malloc((count + 1) * sizeof *sorted);
    size_t run;
    int rc = 0;

    if (!sorted)
        return csc_fail(CASCADE_ENOMEM, "no memory for a segment index of %zu entries", count);
    for (size_t i = 0; i < count; i++)
        sorted[i] = &entries[i];
    qsort(sorted, count, sizeof *sorted, compare_records);
    for (size_t i = 0; i < count && *sound; i += run) {
        run = record_run(sorted, count, i);
        *sound = run > 0;
    }
    for (size_t i = 0; i < count && *sound && rc == 0; i += run) {
        run = record_run(sorted, count, i);
        if (!is_logged(sorted[i]))
            rc = visit_indexed(l, &sorted[i], run);
        for (size_t k = i; k < i + run && rc == 0 && is_logged(sorted[i]); k++)
            rc = visit_logged(l, sorted[k]);
    }
    free(sorted);
    return rc;
}

/* Reads a segment by its index. `*sound` tells whether there was a good one; if not, nothing was
 * reported. */
static int load_index(loading *l, bool *sound)
{
    csc_segfmt_trailer trailer;
    const void *data;
    int rc;

    *sound = false;
    if (l->size < 2 * PAGE)
        return 0;
    rc = fetch(l, l->size - PAGE, PAGE, false, &data);
    if (rc == 0) {
        memcpy(&trailer, data, sizeof trailer);
        rc = csc_segfmt_trailer_check(&trailer, l->generation, l->size);
    }
    if (rc == 0)
        rc = fetch(l, trailer.index_offset, l->size - PAGE - trailer.index_offset, false, &data);
    if (rc == 0)
        rc = csc_segfmt_index_check(&trailer, data);
    if (rc == CASCADE_ENOMEM)
        return rc;
    if (rc == CASCADE_ECORRUPT || rc == CASCADE_EIO)
        csc_log(CSC_LOG_WARNING, "a segment's index is not usable, reading its records: %s",
                csc_fail_text());
    if (rc)
        return 0;
    *sound = true;
    rc = visit_index(l, data, trailer.index_count, sound);
    if (rc == 0 && !*sound)
        csc_log(CSC_LOG_WARNING, "a segment's index contradicts itself, reading its records");
    return rc;
}

/* ---- unsealed: the record headers ----------------------------------------------------------------- */

static int visit_block(const loading *l, const csc_segfmt_record *record)
{
    csc_binding bindings[CSC_SEGFMT_BINDINGS_MAX];
    csc_content content;
    csc_place place;

    for (uint32_t i = 0; i < record->item_count; i++) {
        const csc_segfmt_binding *from = &csc_segfmt_bindings(record)[i];

        to_binding(&bindings[i], from->key, from->parent, from->sequence, from->flags);
    }
    to_content(&content, record->tenant, record->k_bytes, record->v_bytes, record->digest);
    csc_segment_place_make(&place, l->index, record->offset, record->header_bytes, l->generation);
    return l->visitor->block(l->visitor->context, l->index, &content, bindings, record->item_count,
                             &place);
}

static int visit_log(const loading *l, const csc_segfmt_record *record)
{
    int rc = 0;

    for (uint32_t i = 0; i < record->item_count && rc == 0; i++) {
        const csc_segfmt_log_entry *from = &csc_segfmt_log_entries(record)[i];
        csc_log_entry entry = {.is_delete = from->type == CSC_SEGFMT_LOG_DELETE};

        to_binding(&entry.binding, from->key, from->parent, from->sequence, from->flags);
        to_content(&entry.content, from->tenant, from->k_bytes, from->v_bytes, from->digest);
        rc = l->visitor->log(l->visitor->context, l->index, &entry);
    }
    return rc;
}

/* The record at `at`, checked. Anything but 0 and CASCADE_ENOMEM: there is no whole record. */
static int fetch_record(loading *l, uint64_t at, bool ahead, const csc_segfmt_record **record,
                        uint64_t *record_bytes)
{
    const void *data;
    int rc = fetch(l, at, PAGE, ahead, &data);

    if (rc == 0)
        rc = csc_segfmt_record_measure(data, l->generation, at, l->size, record_bytes);
    if (rc == 0)
        rc = fetch(l, at, ((const csc_segfmt_record *)data)->header_bytes, ahead, &data);
    /* A header of several pages was read anew: sizes are believed only from the bytes that are checked.
     */
    if (rc == 0)
        rc = csc_segfmt_record_measure(data, l->generation, at, l->size, record_bytes);
    if (rc == 0)
        rc = csc_segfmt_record_check(data);
    if (rc == 0)
        *record = data;
    return rc;
}

static int scan_records(loading *l)
{
    const csc_segfmt_record *record;
    uint64_t record_bytes = 0;
    uint64_t at = PAGE;
    bool ahead = true;
    int rc = 0;

    while (rc == 0 && l->size - at >= PAGE) {
        rc = fetch_record(l, at, ahead, &record, &record_bytes);
        if (rc == CASCADE_ENOMEM)
            return rc;
        if (rc) {
            csc_log(rc == CASCADE_ECORRUPT ? CSC_LOG_INFO : CSC_LOG_WARNING,
                    "reading an unsealed segment ends: %s", csc_fail_text());
            return 0;
        }
        rc = record->type == CSC_SEGFMT_RECORD_BLOCK ? visit_block(l, record) : visit_log(l, record);
        at += record_bytes;
        ahead = record_bytes <= NEAR_BYTES;
    }
    return rc;
}

/* ---- all of it ------------------------------------------------------------------------------------ */

/* Checks the first page against the name and puts the segment into the table. */
static int load_header(loading *l, const name *named)
{
    csc_segment_item facts = {
        .rank = named->rank, .number = named->number, .state = CSC_SEGMENT_UNSEALED};
    const csc_segfmt_header *header;
    const void *data;
    int rc = csc_io_size(l->t->io, l->file->fd, &l->size);

    if (rc)
        return rc;
    if (l->size == 0)
        return CASCADE_MISS; /* its writer was killed before it wrote anything, or is about to */
    facts.bytes = l->size;
    l->size -= l->size % PAGE; /* a torn page holds no whole record */
    if (l->size < PAGE)
        return csc_fail(CASCADE_EFORMAT, "too short for a segment");
    rc = fetch(l, 0, PAGE, false, &data);
    if (rc == CASCADE_ENOTSUP && l->file->direct) {
        csc_segment_file *buffered;

        atomic_store(&l->t->direct, false);
        rc = csc_segment_file_open(l->t, named->rank, named->number, &buffered);
        if (rc)
            return rc;
        csc_segment_file_close(l->t, l->file);
        l->file = buffered;
        rc = fetch(l, 0, PAGE, false, &data);
    }
    if (rc)
        return rc;
    header = data;
    rc = csc_segfmt_header_check(header);
    if (rc)
        return rc;
    if (header->rank != named->rank || header->number != named->number)
        return csc_fail(CASCADE_EFORMAT, "written under another name");
    facts.generation = l->generation = header->generation;
    return csc_segment_add(l->t, &facts, &l->index);
}

static int load_records(loading *l)
{
    csc_segment_item *item = l->t->items[l->index];
    bool sound;
    int rc = load_index(l, &sound);

    if (rc == 0 && sound)
        item->state = CSC_SEGMENT_SEALED;
    else if (rc == 0)
        rc = scan_records(l);
    /* What a killed writer had not synced yet is on disk from here on, as the store will take it to be.
     */
    if (rc == 0 && !sound && item->rank == l->t->rank)
        rc = csc_io_datasync(l->t->io, l->file->fd);
    csc_segment_file_keep(l->t, item, l->file);
    l->file = NULL;
    return rc;
}

/* Whether a failure to read one file is that file's, not the process's or the machine's. */
static bool is_files_own(int rc)
{
    return rc == CASCADE_EFORMAT || rc == CASCADE_ECORRUPT || rc == CASCADE_EACCES;
}

static int load(loading *l, const name *named)
{
    char text[CSC_SEGFMT_NAME_BYTES];
    int rc = csc_segment_file_open(l->t, named->rank, named->number, &l->file);

    if (rc == CASCADE_MISS)
        return 0; /* removed since it was listed */
    if (rc == 0) {
        rc = load_header(l, named);
        if (rc == 0)
            return load_records(l);
        if (rc == CASCADE_EIO)
            rc = CASCADE_ECORRUPT; /* it opened, so it is this file that cannot be read */
        csc_segment_file_close(l->t, l->file);
        l->file = NULL;
        if (rc == CASCADE_MISS)
            return 0;
    }
    if (!is_files_own(rc))
        return rc;
    csc_segfmt_name_format(named->rank, named->number, text);
    csc_log(CSC_LOG_WARNING, "%s is skipped: %s", text, csc_fail_text());
    atomic_fetch_add(&l->t->quarantined, 1);
    return 0;
}

static int load_all(csc_segment_tier *t, const csc_segment_visitor *visitor)
{
    name_list list = {NULL, 0, 0};
    loading l = {.t = t, .visitor = visitor, .window_room = WINDOW_BYTES};
    int rc = csc_io_list(t->io, t->directory, collect_name, &list);

    if (rc == CASCADE_MISS)
        rc = CASCADE_ENOSTORE;
    if (rc == 0) {
        l.window = csc_segment_alloc(WINDOW_BYTES);
        rc = l.window ? 0 : CASCADE_ENOMEM;
    }
    if (rc == 0 && list.count > 0)
        qsort(list.names, list.count, sizeof *list.names, compare_names);
    for (size_t i = 0; i < list.count && rc == 0; i++) {
        size_t before = t->item_count;

        l.window_from = l.window_to = 0;
        rc = load(&l, &list.names[i]);
        /* A file that is no segment claims no number: it could claim the last. */
        if (t->item_count > before && list.names[i].rank == t->rank &&
            list.names[i].number >= t->writer.next_number)
            t->writer.next_number = list.names[i].number + 1;
    }
    /* So are the names of its files. */
    if (rc == 0 && t->writer.next_number > 0)
        rc = csc_io_sync_directory(t->io, t->directory);
    free(l.window);
    free(list.names);
    return rc;
}

int csc_segment_open(const csc_segment_options *options, const csc_segment_visitor *visitor,
                     csc_tier **tier)
{
    csc_segment_tier *t;
    int rc = 0;

    if (options->rank > CSC_SEGFMT_RANK_MAX ||
        strlen(options->directory) > CSC_SEGMENT_PATH_BYTES - CSC_SEGFMT_NAME_BYTES - 1)
        return csc_fail(CASCADE_EINVAL, "a rank of at most %u and a path of less than 4 KiB are needed",
                        CSC_SEGFMT_RANK_MAX);
    t = calloc(1, sizeof *t);
    if (!t)
        return csc_fail(CASCADE_ENOMEM, "no memory for the file tier");
    t->base.ops = &csc_segment_ops;
    t->io = options->io;
    t->rank = options->rank;
    t->segment_bytes = options->segment_bytes ? options->segment_bytes : CSC_SEGMENT_BYTES_DEFAULT;
    t->blocks_max = options->blocks_max ? options->blocks_max : CSC_SEGMENT_BLOCKS_DEFAULT;
    atomic_init(&t->direct, !options->buffered);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->opened, NULL);
    t->directory = strdup(options->directory);
    if (!t->directory)
        rc = csc_fail(CASCADE_ENOMEM, "no memory for the file tier");
    else if (getrandom(t->writer.id, sizeof t->writer.id, 0) != sizeof t->writer.id)
        rc = csc_fail(CASCADE_EIO, "the system gives no random bytes");
    if (rc == 0)
        rc = load_all(t, visitor);
    if (rc)
        csc_segment_free(t);
    else
        *tier = &t->base;
    return rc;
}
