/* SPDX-License-Identifier: MIT */
/*
 * What is in one segment. A sealed one is read by its index; any other by its record headers, one after
 * the other, never the payload.
 */
#include "segment/segment_load.h"

#include "base/fail.h"
#include "base/log.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define PAGE CSC_SEGFMT_PAGE_BYTES
/* Headers that lie closer together than this are read many at a time. */
#define NEAR_BYTES   ((uint64_t)128 << 10)
#define WINDOW_BYTES ((size_t)1 << 20)
#define WINDOW_KEPT  ((size_t)4 << 20) /* from one segment to the next */

/* ---- the window ----------------------------------------------------------------------------------- */

int csc_segment_loading_begin(csc_segment_loading *l)
{
    l->window_room = WINDOW_BYTES;
    l->window = csc_segment_alloc(WINDOW_BYTES);
    return l->window ? 0 : CASCADE_ENOMEM;
}

void csc_segment_loading_end(csc_segment_loading *l)
{
    free(l->window);
    l->window = NULL;
}

void csc_segment_loading_next(csc_segment_loading *l)
{
    uint8_t *window = l->window_room > WINDOW_KEPT ? csc_segment_alloc(WINDOW_BYTES) : NULL;

    if (window) {
        free(l->window);
        l->window = window;
        l->window_room = WINDOW_BYTES;
    }
    l->window_from = l->window_to = 0;
    l->source = (csc_segment_source){0};
    l->from = PAGE;
    l->item = NULL;
    l->file = NULL;
    l->cut = false;
    l->last_at = l->last_sum = 0;
}

void csc_segment_loading_forget(csc_segment_loading *l)
{
    l->window_from = l->window_to = 0;
}

/* Makes the window as large as that; its first `kept` bytes stay. */
static int widen(csc_segment_loading *l, uint64_t bytes, uint64_t kept)
{
    uint8_t *window;

    if (bytes <= l->window_room)
        return 0;
    window = csc_segment_alloc(bytes);
    if (!window)
        return CASCADE_ENOMEM;
    memcpy(window, l->window, kept);
    free(l->window);
    l->window = window;
    l->window_room = bytes;
    return 0;
}

/* Reads into the window, `to` bytes behind its beginning. */
static int read_into(csc_segment_loading *l, uint64_t at, uint64_t to, uint64_t bytes)
{
    struct iovec vector = {l->window + to, bytes};
    int rc = csc_io_read(l->t->io, l->file->fd, &vector, 1, at);

    if (rc == 0)
        atomic_fetch_add(&l->t->read_bytes, bytes);
    return rc;
}

/* Bytes of the file, whole pages within `size`; they stay until the next call. `ahead`: read more than
 * was asked for, there is more to come. A direct read that is refused is done again on a buffered
 * descriptor. */
static int fetch(csc_segment_loading *l, uint64_t at, uint64_t bytes, bool ahead, const void **data)
{
    int rc;

    if (at >= l->window_from && at + bytes <= l->window_to) {
        *data = l->window + (at - l->window_from);
        return 0;
    }
    l->window_from = l->window_to = 0;
    rc = widen(l, bytes, 0);
    if (rc)
        return rc;
    if (ahead && bytes < WINDOW_BYTES)
        bytes = l->size - at < WINDOW_BYTES ? l->size - at : WINDOW_BYTES;
    rc = read_into(l, at, 0, bytes);
    if (rc)
        return rc;
    l->window_from = at;
    l->window_to = at + bytes;
    *data = l->window;
    return 0;
}

int csc_segment_load_page(csc_segment_loading *l, const csc_segment_name *named, const void **page)
{
    csc_segment_file *buffered;
    int rc = fetch(l, 0, PAGE, false, page);

    if (rc != CASCADE_ENOTSUP || !l->file->direct)
        return rc;
    atomic_store(&l->t->direct, false);
    rc = csc_segment_file_open(l->t, named->rank, named->number, CSC_SEGMENT_NO_DEADLINE, &buffered);
    if (rc)
        return rc;
    csc_segment_file_close(l->t, l->file);
    l->file = buffered;
    return fetch(l, 0, PAGE, false, page);
}

static void to_content(csc_content *to, uint64_t tenant, uint64_t k_bytes, uint64_t v_bytes,
                       const uint8_t digest[32])
{
    to->tenant = tenant;
    to->k_bytes = k_bytes;
    to->v_bytes = v_bytes;
    memcpy(to->digest, digest, sizeof to->digest);
}

/* Who reads a segment for its deletes has noted the rest before. */
static void note_bind(const csc_segment_loading *l, const uint8_t key[32], uint64_t sequence)
{
    if (l->item)
        csc_segment_note_bind(l->t, l->source.segment, key, sequence);
}

static void note_log(const csc_segment_loading *l, bool is_delete)
{
    if (l->item)
        csc_segment_note_log(l->t, l->source.segment, is_delete);
}

static void note_index(const csc_segment_loading *l, uint64_t bytes)
{
    if (!l->item)
        return;
    pthread_mutex_lock(&l->t->lock);
    l->item->index_bytes = bytes;
    pthread_mutex_unlock(&l->t->lock);
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

static int visit_logged(const csc_segment_loading *l, const csc_segfmt_index_entry *from)
{
    csc_log_entry entry = {.is_delete = from->type == CSC_SEGFMT_INDEX_DELETE};

    note_log(l, entry.is_delete);
    if (!entry.is_delete)
        note_bind(l, from->key, from->sequence);
    to_binding(&entry.binding, from->key, from->parent, from->sequence, from->flags);
    to_content(&entry.content, from->tenant, from->k_bytes, from->v_bytes, from->digest);
    return l->visitor->log(l->visitor->context, &l->source, &entry);
}

/* Reports the block whose entries are sorted[0, count). */
static int visit_indexed(const csc_segment_loading *l, const csc_segfmt_index_entry *const *sorted,
                         size_t count)
{
    csc_binding bindings[CSC_SEGFMT_BINDINGS_MAX];
    const csc_segfmt_index_entry *first = sorted[0];
    csc_content content;
    csc_place place;
    size_t found = 0;

    for (size_t i = 0; i < count; i++)
        if (sorted[i]->type == CSC_SEGFMT_INDEX_BINDING) {
            note_bind(l, sorted[i]->key, sorted[i]->sequence);
            to_binding(&bindings[found++], sorted[i]->key, sorted[i]->parent, sorted[i]->sequence,
                       sorted[i]->flags);
        }
    to_content(&content, first->tenant, first->k_bytes, first->v_bytes, first->digest);
    csc_segment_place_make(&place, l->source.segment, first->offset, first->header_bytes, l->generation);
    return l->visitor->block(l->visitor->context, &l->source, &content, first->written_ns, bindings,
                             found, &place);
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
static int visit_index(const csc_segment_loading *l, const csc_segfmt_index_entry *entries, size_t count,
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
        if (sorted[i]->offset < l->from)
            continue; /* visited by its header, before there was an index */
        if (!is_logged(sorted[i]))
            rc = visit_indexed(l, &sorted[i], run);
        for (size_t k = i; k < i + run && rc == 0 && is_logged(sorted[i]); k++)
            rc = visit_logged(l, sorted[k]);
    }
    free(sorted);
    return rc;
}

/* The whole index, checked. It is read in parts that grow, and each is looked at before memory is taken
 * for the next: a trailer may say anything about a file that is mostly a hole. */
static int fetch_index(csc_segment_loading *l, const csc_segfmt_trailer *trailer, const void **data)
{
    uint64_t bytes = l->size - PAGE - trailer->index_offset, done = 0, checked = 0;
    int rc = 0;

    l->window_from = l->window_to = 0;
    while (rc == 0 && done < bytes) {
        uint64_t end = done ? 2 * done : WINDOW_BYTES;

        if (end > bytes)
            end = bytes;
        rc = widen(l, end, done);
        if (rc == 0)
            rc = read_into(l, trailer->index_offset + done, done, end - done);
        done = end;
        if (rc == 0 && done < bytes) {
            uint64_t whole = done / sizeof(csc_segfmt_index_entry);

            rc = csc_segfmt_index_check_part(trailer, (const void *)l->window, checked, whole);
            checked = whole;
        }
    }
    *data = l->window;
    return rc ? rc : csc_segfmt_index_check(trailer, *data);
}

static int find_index(csc_segment_loading *l, csc_segfmt_trailer *trailer, const void **data)
{
    int rc = fetch(l, l->size - PAGE, PAGE, false, data);

    if (rc)
        return rc;
    memcpy(trailer, *data, sizeof *trailer);
    rc = csc_segfmt_trailer_check(trailer, l->generation, l->size);
    return rc ? rc : fetch_index(l, trailer, data);
}

/* Reads a segment by its index. `*sound` tells whether there was a good one; if not, nothing was
 * reported. */
int csc_segment_load_index(csc_segment_loading *l, bool *sound)
{
    csc_segfmt_trailer trailer;
    const void *data;
    int rc;

    *sound = l->source.sealed = false;
    if (l->size < 2 * PAGE)
        return 0;
    rc = find_index(l, &trailer, &data);
    if (rc == CASCADE_ECORRUPT && !l->live) {
        csc_segment_loading_forget(l); /* the transfer may have hurt it */
        rc = find_index(l, &trailer, &data);
    }
    if (rc == CASCADE_ENOMEM || (rc == CASCADE_EIO && l->all_or_nothing))
        return rc;
    if ((rc == CASCADE_ECORRUPT || rc == CASCADE_EIO) && !l->live)
        csc_log(CSC_LOG_WARNING, "a segment's index is not usable, reading its records: %s",
                csc_fail_text());
    if (rc)
        return 0;
    *sound = true;
    l->source.sealed = true;
    note_index(l, l->size - trailer.index_offset);
    rc = visit_index(l, data, trailer.index_count, sound);
    l->source.sealed = *sound;
    if (rc == 0 && *sound)
        l->from = trailer.index_offset;
    else if (rc == 0)
        csc_log(CSC_LOG_WARNING, "a segment's index contradicts itself, reading its records");
    return rc;
}

/* ---- unsealed: the record headers ----------------------------------------------------------------- */

static int visit_block(const csc_segment_loading *l, const csc_segfmt_record *record)
{
    csc_binding bindings[CSC_SEGFMT_BINDINGS_MAX];
    csc_content content;
    csc_place place;

    for (uint32_t i = 0; i < record->item_count; i++) {
        const csc_segfmt_binding *from = &csc_segfmt_bindings(record)[i];

        note_bind(l, from->key, from->sequence);
        to_binding(&bindings[i], from->key, from->parent, from->sequence, from->flags);
    }
    to_content(&content, record->tenant, record->k_bytes, record->v_bytes, record->digest);
    csc_segment_place_make(&place, l->source.segment, record->offset, record->header_bytes,
                           l->generation);
    return l->visitor->block(l->visitor->context, &l->source, &content, record->written_ns, bindings,
                             record->item_count, &place);
}

static int visit_log(const csc_segment_loading *l, const csc_segfmt_record *record)
{
    int rc = 0;

    for (uint32_t i = 0; i < record->item_count && rc == 0; i++) {
        const csc_segfmt_log_entry *from = &csc_segfmt_log_entries(record)[i];
        csc_log_entry entry = {.is_delete = from->type == CSC_SEGFMT_LOG_DELETE};

        note_log(l, entry.is_delete);
        if (!entry.is_delete)
            note_bind(l, from->key, from->sequence);
        to_binding(&entry.binding, from->key, from->parent, from->sequence, from->flags);
        to_content(&entry.content, from->tenant, from->k_bytes, from->v_bytes, from->digest);
        rc = l->visitor->log(l->visitor->context, &l->source, &entry);
    }
    return rc;
}

/* The record at `at`, checked. Anything but 0 and CASCADE_ENOMEM: there is no whole record. */
static int fetch_record(csc_segment_loading *l, uint64_t at, bool ahead,
                        const csc_segfmt_record **record, uint64_t *record_bytes)
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
    if (rc == 0 && (*record = data)->type == CSC_SEGFMT_RECORD_BLOCK && (*record)->key_id != l->key_id)
        rc = csc_fail(CASCADE_ECORRUPT, "record at offset %" PRIu64 " has another key", at);
    return rc;
}

int csc_segment_scan_records(csc_segment_loading *l)
{
    const csc_segfmt_record *record = NULL;
    uint64_t record_bytes = 0, sum;
    bool ahead = !l->live; /* what ends a file that grows is looked at again and again */
    int rc = 0;

    while (rc == 0 && l->from < l->size) {
        rc = fetch_record(l, l->from, ahead, &record, &record_bytes);
        if (rc == CASCADE_ECORRUPT && !l->live) {
            csc_segment_loading_forget(l); /* the transfer may have hurt it */
            rc = fetch_record(l, l->from, ahead, &record, &record_bytes);
        }
        if (rc == CASCADE_ENOMEM || (rc && rc != CASCADE_ECORRUPT && l->all_or_nothing))
            return rc;
        if (rc) {
            l->cut = rc != CASCADE_ECORRUPT;
            if (!l->live)
                csc_log(rc == CASCADE_ECORRUPT ? CSC_LOG_INFO : CSC_LOG_WARNING,
                        "reading an unsealed segment ends: %s", csc_fail_text());
            return 0;
        }
        sum = record->checksum;
        rc = record->type == CSC_SEGFMT_RECORD_BLOCK ? visit_block(l, record) : visit_log(l, record);
        if (rc == 0) {
            l->last_at = l->from;
            l->last_sum = sum;
            l->from += record_bytes;
        }
        ahead = record_bytes <= NEAR_BYTES;
    }
    return rc;
}

int csc_segment_scan_has(csc_segment_loading *l, uint64_t at, uint64_t sum, bool *has)
{
    const csc_segfmt_record *record;
    uint64_t record_bytes;
    int rc = at < l->size ? fetch_record(l, at, false, &record, &record_bytes) : CASCADE_ECORRUPT;

    *has = rc == 0 && record->checksum == sum;
    return rc == CASCADE_ECORRUPT ? 0 : rc;
}

/* ---- what hides older binds ------------------------------------------------------------------------
 */

typedef struct hiders_wanted {
    int (*visit)(void *context, const csc_binding *binding, bool is_delete);
    void *context;
} hiders_wanted;

static int pass_block(void *context, const csc_segment_source *source, const csc_content *content,
                      uint64_t written_ns, const csc_binding *bindings, size_t binding_count,
                      const csc_place *place)
{
    const hiders_wanted *wanted = context;
    int rc = 0;

    (void)source, (void)content, (void)written_ns, (void)place;
    for (size_t i = 0; i < binding_count && rc == 0; i++)
        rc = wanted->visit(wanted->context, &bindings[i], false);
    return rc;
}

static int pass_log(void *context, const csc_segment_source *source, const csc_log_entry *entry)
{
    const hiders_wanted *wanted = context;

    (void)source;
    return wanted->visit(wanted->context, &entry->binding, entry->is_delete);
}

int csc_segment_hiders(csc_tier *tier, uint32_t segment,
                       int (*visit)(void *context, const csc_binding *binding, bool is_delete),
                       void *context)
{
    csc_segment_tier *t = csc_segment_tier_of(tier);
    hiders_wanted wanted = {visit, context};
    csc_segment_visitor visitor = {.context = &wanted, .block = pass_block, .log = pass_log};
    /* The segment goes: a delete that was not seen would be undone. */
    csc_segment_loading l = {.t = t, .visitor = &visitor, .all_or_nothing = true};
    csc_segment_item item = {.state = CSC_SEGMENT_REMOVED};
    bool sound;
    int rc;

    pthread_mutex_lock(&t->lock);
    if (segment < t->item_count)
        item = *t->items[segment];
    pthread_mutex_unlock(&t->lock);
    if (item.state == CSC_SEGMENT_REMOVED)
        return csc_fail(CASCADE_MISS, "segment %u was removed", segment);
    if (item.rank != t->rank || item.state == CSC_SEGMENT_OPEN)
        return csc_fail(CASCADE_EINVAL, "segment %u is not this rank's, or is being written", segment);
    rc = csc_segment_loading_begin(&l);
    if (rc == 0) {
        csc_segment_loading_next(&l);
        l.source = (csc_segment_source){.segment = segment, .rank = t->rank};
        l.generation = item.generation;
        l.key_id = item.key_id;
        l.size = item.bytes - item.bytes % PAGE;
        rc = csc_segment_file_open(t, item.rank, item.number, CSC_SEGMENT_NO_DEADLINE, &l.file);
    }
    if (rc == 0) {
        rc = csc_segment_load_index(&l, &sound);
        if (rc == 0 && !sound)
            rc = csc_segment_scan_records(&l);
        if (rc == 0 && l.from < item.scanned)
            rc = csc_fail(CASCADE_ECORRUPT, "segment %u cannot be read as far as before", segment);
        csc_segment_file_close(t, l.file);
    }
    csc_segment_loading_end(&l);
    return rc;
}
