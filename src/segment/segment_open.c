/* SPDX-License-Identifier: MIT */
/*
 * Opening: what is in the directory. Files are judged one by one: what is damaged or foreign is skipped,
 * counted and logged, and left as it is. Only what would make every file unreadable (no memory, no
 * descriptors) fails the open.
 *
 * A refresh (segment_refresh.c) reads new files in the same way, while others write. A file that is not
 * a segment yet may become one, so it is looked at a few times before it is left alone.
 */
#include "base/clock.h"
#include "base/fail.h"
#include "base/log.h"
#include "segment/segment_load.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define PAGE CSC_SEGFMT_PAGE_BYTES

/* ---- one file ------------------------------------------------------------------------------------- */

/* Of a file that is of no use, and this rank's. A refresh leaves it to the next open. */
static void remove_useless(const csc_segment_loading *l, const csc_segment_name *named)
{
    char path[CSC_SEGMENT_PATH_BYTES];

    if (named->rank != l->t->rank || l->live)
        return;
    csc_segment_path(l->t, named->rank, named->number, path);
    (void)csc_io_unlink(l->t->io, path); /* else it stays, and the next open tries again */
}

/* Whether no handle, on whatever node, writes to it any more. */
static bool is_abandoned(csc_segment_tier *t, const csc_segment_name *named)
{
    char path[CSC_SEGMENT_PATH_BYTES];
    struct stat info;

    csc_segment_path(t, named->rank, named->number, path);
    return csc_io_stat(t->io, path, &info) == 0 &&
           (uint64_t)info.st_mtim.tv_sec * UINT64_C(1000000000) + CSC_SEGMENT_ABANDONED_NS <
               csc_wall_ns();
}

/* 0: the first page is that of a segment or of a spare. */
static int judge(const csc_segment_name *named, const void *page)
{
    const csc_segfmt_header *header = page;
    int rc = csc_segfmt_header_check(header);

    if (rc == 0 && (header->rank != named->rank || header->number != named->number))
        rc = csc_fail(CASCADE_EFORMAT, "written under another name");
    return csc_segfmt_is_spare(page, named->rank, named->number) ? 0 : rc;
}

/* Checks the first page against the name and puts the segment into the table. CASCADE_MISS: there is
 * nothing to read, and nothing wrong. */
static int load_header(csc_segment_loading *l, const csc_segment_name *named)
{
    csc_segment_item facts = {.rank = named->rank,
                              .number = named->number,
                              .ours = named->rank == l->t->rank && !l->live,
                              .found = true,
                              .scanned = PAGE,
                              .state = CSC_SEGMENT_UNSEALED};
    const csc_segfmt_header *header;
    const void *page;
    int rc = csc_io_size(l->t->io, l->file->fd, &l->size);

    if (rc)
        return rc;
    if (l->size == 0) {
        /* Its writer was killed before it wrote anything, or is about to; or a file server made it and
         * said that it was there already. */
        if (is_abandoned(l->t, named))
            remove_useless(l, named);
        return CASCADE_MISS;
    }
    facts.bytes = l->size;
    l->size -= l->size % PAGE; /* a torn page holds no whole record */
    if (l->size < PAGE)
        return csc_fail(CASCADE_EFORMAT, "too short for a segment");
    rc = csc_segment_load_page(l, named, &page);
    if (rc == 0 && (rc = judge(named, page)) != 0) {
        csc_segment_loading_forget(l); /* the transfer may have hurt it */
        rc = csc_segment_load_page(l, named, &page);
        if (rc == 0)
            rc = judge(named, page);
    }
    if (rc)
        return rc;
    if (csc_segfmt_is_spare(page, named->rank, named->number)) {
        /* Its writer was killed and it takes space for nothing; if he lives, on another node, he makes a
         * new file where he meant to use this one. */
        remove_useless(l, named);
        return CASCADE_MISS;
    }
    header = page;
    if (memcmp(header->writer, l->t->writer.id, sizeof header->writer) == 0)
        return CASCADE_MISS; /* this handle's, about to come into the table or just removed */
    l->source.rank = named->rank;
    facts.generation = l->generation = header->generation;
    facts.key_id = l->key_id = header->key_id;
    if (header->key_id && !csc_keyring_find(l->t->keyring, header->key_id))
        return CASCADE_ENOKEY;
    rc = csc_segment_add(l->t, &facts, &l->source.segment);
    if (rc)
        return rc;
    pthread_mutex_lock(&l->t->lock);
    l->item = l->t->items[l->source.segment];
    pthread_mutex_unlock(&l->t->lock);
    return 0;
}

int csc_segment_take_over(csc_segment_loading *l, const csc_segment_name *named)
{
    bool abandoned = is_abandoned(l->t, named);

    pthread_mutex_lock(&l->t->lock);
    l->item->abandoned = abandoned;
    pthread_mutex_unlock(&l->t->lock);
    /* What its writer cut off after a failed sync is not to come back. */
    return csc_io_sync(l->t->io, l->file->fd);
}

static int load_records(csc_segment_loading *l, const csc_segment_name *named)
{
    bool sound;
    int rc = csc_segment_load_index(l, &sound);

    if (rc == 0 && !sound)
        rc = csc_segment_scan_records(l);
    if (rc == 0 && sound && l->live)
        rc = csc_io_sync_directory(l->t->io, l->t->directory);
    pthread_mutex_lock(&l->t->lock);
    l->item->scanned = l->from;
    l->item->last_at = l->last_at;
    l->item->last_sum = l->last_sum;
    if (rc == 0 && sound)
        l->item->state = CSC_SEGMENT_SEALED;
    pthread_mutex_unlock(&l->t->lock);
    /* What a killed writer had not synced yet is on disk from here on, as the store will take it to be.
     */
    if (rc == 0 && !sound && l->item->ours)
        rc = csc_segment_take_over(l, named);
    /* What is behind has been seen by nobody: whoever empties the segment would lose that. */
    if (rc || l->cut) {
        pthread_mutex_lock(&l->t->lock);
        l->item->cut = true;
        l->item->ours_whole = l->item->ours;
        l->item->ours = false;
        pthread_mutex_unlock(&l->t->lock);
    }
    csc_segment_file_keep(l->t, l->item, l->file);
    l->file = NULL;
    return rc;
}

/* A file that is no segment is told of once, and looked at so often again. */
#define SKIPPED_LOOKS 3u

/* Notes which file it is now; true: it is another one, or has changed. */
static bool identify(csc_segment_tier *t, csc_segment_skipped *skipped)
{
    char path[CSC_SEGMENT_PATH_BYTES];
    csc_segment_skipped then = *skipped;
    struct stat info;

    csc_segment_path(t, skipped->rank, skipped->number, path);
    if (csc_io_stat(t->io, path, &info) != 0)
        return false; /* it went, as the next listing will show */
    skipped->inode = info.st_ino;
    skipped->bytes = (uint64_t)info.st_size;
    skipped->changed = info.st_ctim;
    return then.inode != skipped->inode || then.bytes != skipped->bytes ||
           then.changed.tv_sec != skipped->changed.tv_sec ||
           then.changed.tv_nsec != skipped->changed.tv_nsec;
}

static csc_segment_skipped *find_skipped(csc_segment_tier *t, const csc_segment_name *named)
{
    for (size_t i = 0; i < t->skipped_count; i++)
        if (t->skipped[i].rank == named->rank && t->skipped[i].number == named->number)
            return &t->skipped[i];
    return NULL;
}

bool csc_segment_is_skipped(csc_segment_tier *t, const csc_segment_name *named)
{
    csc_segment_skipped *known = find_skipped(t, named);

    if (!known)
        return false;
    known->there = true;
    if (known->looks_left == 0 && identify(t, known))
        known->looks_left = SKIPPED_LOOKS;
    return known->looks_left == 0;
}

/* Notes a file that is not read; true: it is to be told of. What only others can read may hold binds
 * that a delete here hides; what is damaged holds nothing for anybody. */
static bool skip(csc_segment_tier *t, const csc_segment_name *named, uint32_t looks, bool unread)
{
    csc_segment_skipped *known = find_skipped(t, named), *grown;

    if (known) {
        known->looks_left -= known->looks_left > 0;
        known->unread = unread;
        return false;
    }
    grown = realloc(t->skipped, (t->skipped_count + 1) * sizeof *grown);
    if (grown) {
        t->skipped = grown;
        known = &grown[t->skipped_count++];
        *known = (csc_segment_skipped){.rank = named->rank,
                                       .number = named->number,
                                       .looks_left = looks,
                                       .there = true,
                                       .unread = unread};
        identify(t, known);
    }
    return true;
}

void csc_segment_note_unread(csc_segment_tier *t)
{
    bool unread = false;

    for (size_t i = 0; i < t->skipped_count; i++)
        unread |= t->skipped[i].unread;
    atomic_store(&t->unread, unread);
}

/* Whether a failure to read one file is that file's, not the process's or the machine's. */
static bool is_files_own(int rc)
{
    return rc == CASCADE_EFORMAT || rc == CASCADE_ECORRUPT || rc == CASCADE_EACCES;
}

/* Without their key this rank's blocks would all be misses, and an engine would compute and store
 * them again: better not to open. Another rank's are its own to read. */
static int miss_key(const csc_segment_loading *l, const csc_segment_name *named, const char *text)
{
    csc_fail(CASCADE_ENOKEY,
             "%s is encrypted with key %016" PRIx64 ", which is not among the keys given", text,
             l->key_id);
    if (named->rank == l->t->rank && !l->live)
        return CASCADE_ENOKEY;
    if (skip(l->t, named, 0, true))
        csc_log(CSC_LOG_WARNING, "%s", csc_fail_text());
    return 0;
}

int csc_segment_load(csc_segment_loading *l, const csc_segment_name *named)
{
    char text[CSC_SEGFMT_NAME_BYTES];
    int rc = csc_segment_file_open(l->t, named->rank, named->number, CSC_SEGMENT_NO_DEADLINE, &l->file);

    if (rc == CASCADE_MISS) {
        l->went = true; /* removed since it was listed */
        return 0;
    }
    if (rc == 0) {
        rc = load_header(l, named);
        if (rc == 0)
            return load_records(l, named);
        if (rc == CASCADE_EIO && !l->live)
            rc = CASCADE_ECORRUPT; /* it opened, so it is this file that cannot be read */
        csc_segment_file_close(l->t, l->file);
        l->file = NULL;
        if (rc == CASCADE_MISS)
            return 0;
    }
    csc_segfmt_name_format(named->rank, named->number, text);
    if (rc == CASCADE_ENOKEY)
        return miss_key(l, named, text);
    if (!is_files_own(rc))
        return rc;
    if (skip(l->t, named, SKIPPED_LOOKS, rc != CASCADE_ECORRUPT)) {
        csc_log(CSC_LOG_WARNING, "%s is skipped: %s", text, csc_fail_text());
        atomic_fetch_add(&l->t->quarantined, 1);
    }
    return 0;
}

/* ---- all of them ---------------------------------------------------------------------------------- */

static int load_all(csc_segment_tier *t, const csc_segment_visitor *visitor)
{
    csc_segment_names list = {NULL, 0, 0};
    csc_segment_loading l = {.t = t, .visitor = visitor};
    struct stat info;
    int rc = csc_segment_names_list(t, &list);

    if (rc == CASCADE_MISS)
        rc = CASCADE_ENOSTORE;
    if (rc == 0 && csc_io_stat(t->io, t->directory, &info) == 0)
        t->directory_inode = info.st_ino, t->directory_device = info.st_dev;
    if (rc == 0)
        rc = csc_segment_loading_begin(&l);
    for (size_t i = 0; i < list.count && rc == 0; i++) {
        size_t before = t->item_count;

        csc_segment_loading_next(&l);
        rc = csc_segment_load(&l, &list.names[i]);
        /* A file that is no segment claims no number: it could claim the last. */
        if (t->item_count > before && list.names[i].rank == t->rank &&
            list.names[i].number >= t->writer.next_number)
            t->writer.next_number = list.names[i].number + 1;
    }
    /* So are the names, of others' files too: a writer may be killed between an index and its name. */
    if (rc == 0 && t->item_count > 0)
        rc = csc_io_sync_directory(t->io, t->directory);
    csc_segment_note_unread(t);
    csc_segment_loading_end(&l);
    free(list.names);
    return rc;
}

int csc_segment_open(const csc_segment_options *options, const csc_segment_visitor *visitor,
                     csc_tier **tier)
{
    pthread_condattr_t attributes;
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
    t->keyring = options->keyring;
    t->segment_bytes = options->segment_bytes ? options->segment_bytes : CSC_SEGMENT_BYTES_DEFAULT;
    t->spares_max =
        options->spares_max < CSC_SEGMENT_SPARES_MAX ? options->spares_max : CSC_SEGMENT_SPARES_MAX;
    t->owner = getpid();
    t->blocks_max = options->blocks_max ? options->blocks_max : CSC_SEGMENT_BLOCKS_DEFAULT;
    t->deadline_ms = options->deadline_ms ? options->deadline_ms : CSC_SEGMENT_DEADLINE_MS;
    atomic_init(&t->direct, !options->buffered);
    atomic_init(&t->users, 1);
    pthread_mutex_init(&t->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&t->opened, &attributes);
    pthread_condattr_destroy(&attributes);
    t->directory = strdup(options->directory);
    if (!t->directory)
        rc = csc_fail(CASCADE_ENOMEM, "no memory for the file tier");
    else if (getrandom(t->writer.id, sizeof t->writer.id, 0) != sizeof t->writer.id)
        rc = csc_fail(CASCADE_EIO, "the system gives no random bytes");
    if (rc == 0 && t->keyring)
        rc = csc_segment_crew_make(t->keyring, &t->writer.crew);
    if (rc == 0)
        rc = load_all(t, visitor);
    if (rc)
        csc_segment_free(t);
    else
        *tier = &t->base;
    return rc;
}
