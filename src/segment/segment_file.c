/* SPDX-License-Identifier: MIT */
/*
 * Read descriptors: opened when first needed, shared by all readers of a segment, at most
 * CSC_SEGMENT_FILES_MAX kept. All state under the tier's lock; opening and closing files, which can be
 * slow, happen without it.
 */
#include "base/fail.h"
#include "segment/segment_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

static int open_by(csc_segment_tier *t, const char *path, int flags, uint64_t deadline_ns, int *fd)
{
    if (deadline_ns == CSC_SEGMENT_NO_DEADLINE)
        return csc_io_open(t->io, path, flags, 0, fd);
    return csc_io_open_by(t->io, path, flags, 0, deadline_ns, fd);
}

int csc_segment_file_open(csc_segment_tier *t, uint32_t rank, uint32_t number, uint64_t deadline_ns,
                          csc_segment_file **file)
{
    char path[CSC_SEGMENT_PATH_BYTES];
    csc_segment_file *made;
    /* O_NONBLOCK: a pipe with a segment's name must not hang the open. Regular files ignore it. */
    const int flags = O_RDONLY | O_NONBLOCK;
    int rc = CASCADE_ENOTSUP;

    made = calloc(1, sizeof *made);
    if (!made)
        return csc_fail(CASCADE_ENOMEM, "no memory for a file");
    csc_segment_path(t, rank, number, path);
    made->direct = atomic_load(&t->direct);
    if (made->direct)
        rc = open_by(t, path, flags | O_DIRECT, deadline_ns, &made->fd);
    if (rc == CASCADE_ENOTSUP) {
        made->direct = false;
        rc = open_by(t, path, flags, deadline_ns, &made->fd);
    }
    if (rc) {
        free(made);
        return rc == CASCADE_ENOSPC ? CASCADE_EIO : rc; /* nothing was to be written */
    }
    *file = made;
    return 0;
}

void csc_segment_file_close(csc_segment_tier *t, csc_segment_file *file)
{
    if (file) {
        csc_io_close(t->io, file->fd);
        free(file);
    }
}

csc_segment_file *csc_segment_file_detach(csc_segment_tier *t, csc_segment_item *item)
{
    csc_segment_file *file = item->file;

    if (!file)
        return NULL;
    item->file = NULL;
    t->file_count--;
    file->detached = true;
    return file->users == 0 ? file : NULL;
}

/* The file that was unused for longest leaves if the table is full; returned to be closed. If all are in
 * use there are more for a while. */
static csc_segment_file *make_room(csc_segment_tier *t)
{
    csc_segment_item *oldest = NULL;

    if (t->file_count < CSC_SEGMENT_FILES_MAX)
        return NULL;
    for (size_t i = 0; i < t->item_count; i++) {
        csc_segment_item *item = t->items[i];

        if (item->file && item->file->users == 0 && (!oldest || item->used_tick < oldest->used_tick))
            oldest = item;
    }
    return oldest ? csc_segment_file_detach(t, oldest) : NULL;
}

void csc_segment_file_keep(csc_segment_tier *t, csc_segment_item *item, csc_segment_file *file)
{
    pthread_mutex_lock(&t->lock);
    if (t->file_count < CSC_SEGMENT_FILES_MAX && !item->file && !item->opening &&
        item->state != CSC_SEGMENT_REMOVED) {
        item->file = file;
        item->used_tick = t->tick++;
        t->file_count++;
        file = NULL;
    }
    pthread_mutex_unlock(&t->lock);
    csc_segment_file_close(t, file);
}

/* With the lock held on entry and at return: opens item->file, so that one thread does and others wait.
 */
static int open_locked(csc_segment_tier *t, csc_segment_item *item, uint64_t deadline_ns)
{
    csc_segment_file *made = NULL;
    csc_segment_file *leaving = make_room(t);
    int rc;

    item->opening = true;
    pthread_mutex_unlock(&t->lock);
    csc_segment_file_close(t, leaving);
    rc = csc_segment_file_open(t, item->rank, item->number, deadline_ns, &made);
    pthread_mutex_lock(&t->lock);
    item->opening = false;
    pthread_cond_broadcast(&t->opened);
    if (rc)
        return rc;
    item->file = made;
    t->file_count++;
    return 0;
}

/* While another thread opens the file. With the lock held. */
static int wait_for_open(csc_segment_tier *t, const csc_segment_item *item, uint64_t deadline_ns)
{
    struct timespec until = {.tv_sec = (time_t)(deadline_ns / 1000000000),
                             .tv_nsec = (long)(deadline_ns % 1000000000)};

    while (item->opening)
        if (pthread_cond_timedwait(&t->opened, &t->lock, &until) == ETIMEDOUT && item->opening)
            return csc_fail(CASCADE_ETIMEDOUT, "a segment file did not open in time");
    return 0;
}

int csc_segment_file_acquire(csc_segment_tier *t, csc_segment_item *item, uint64_t deadline_ns,
                             csc_segment_file **file)
{
    csc_segment_file *leaving = NULL;
    int rc;

    pthread_mutex_lock(&t->lock);
    rc = wait_for_open(t, item, deadline_ns);
    if (rc == 0 && item->state != CSC_SEGMENT_REMOVED && !item->file)
        rc = open_locked(t, item, deadline_ns);
    if (rc == 0 && item->state == CSC_SEGMENT_REMOVED) {
        leaving = csc_segment_file_detach(t, item);
        rc = csc_fail(CASCADE_MISS, "the segment was removed");
    }
    if (rc == 0) {
        item->file->users++;
        item->used_tick = t->tick++;
        *file = item->file;
    }
    pthread_mutex_unlock(&t->lock);
    csc_segment_file_close(t, leaving);
    return rc;
}

void csc_segment_file_release(csc_segment_tier *t, csc_segment_file *file)
{
    bool last;

    pthread_mutex_lock(&t->lock);
    last = --file->users == 0 && file->detached;
    pthread_mutex_unlock(&t->lock);
    if (last)
        csc_segment_file_close(t, file);
}
