/* SPDX-License-Identifier: MIT */
/*
 * The life of the open segment: started, filled, synced, sealed; or given up when its file fails.
 *
 * A failed write must leave no torn record between good ones, because a scan stops at the first record
 * that is not whole. So the file is cut back to the last good record, and if even that fails nothing
 * more is appended to it.
 *
 * A failed sync is final: the kernel may have dropped the pages and will report success the next time.
 * The segment is given up, `lost` is set, and the next csc_segment_sync fails once, which tells the
 * store that everything written since the last good sync has to be written again. All that is cut off
 * the file: until the power goes it reads as if it were whole, and an open that found it there would
 * rely on it, and give up an older copy. Of a writer that is killed right in between nothing tells.
 */
#include "base/clock.h"
#include "base/fail.h"
#include "base/log.h"
#include "base/mark.h"
#include "segment/segment_internal.h"
#include "segment/stripe.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define STRIPE_WAIT_MS 10000

static int random_bytes(void *to, size_t bytes)
{
    return getrandom(to, bytes, 0) == (ssize_t)bytes
               ? 0
               : csc_fail(CASCADE_EIO, "the system gives no random bytes");
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static void set_state(csc_segment_tier *t, csc_segment_state state, uint64_t bytes)
{
    csc_segment_writer *w = &t->writer;

    pthread_mutex_lock(&t->lock);
    w->item->state = state;
    w->item->scanned = w->position;
    w->item->bytes = max_u64(bytes, w->recycled_bytes);
    pthread_mutex_unlock(&t->lock);
}

void csc_segment_set_bytes(csc_segment_tier *t, uint64_t bytes)
{
    set_state(t, CSC_SEGMENT_OPEN, bytes);
}

/* Ends the handle's interest in writing the open segment. */
static void close_open(csc_segment_tier *t)
{
    csc_segment_writer *w = &t->writer;

    csc_io_close(t->io, w->fd);
    w->item = NULL;
    w->dirty = false;
    w->entry_count = 0;
    w->big_count = 0;
}

/* There is no record in it: no file is better than an empty one. A failure: it stays as it is. */
static int discard_empty(csc_segment_tier *t)
{
    csc_segment_item *item = t->writer.item;
    int rc = csc_segment_unlink(t, item->number, item->generation);

    if (rc && rc != CASCADE_MISS)
        return rc;
    close_open(t);
    csc_segment_set_removed(t, item);
    t->writer.directory_dirty = true;
    return 0;
}

void csc_segment_discard_if_empty(csc_segment_tier *t)
{
    if (t->writer.item && t->writer.position == CSC_SEGFMT_PAGE_BYTES)
        (void)discard_empty(t); /* else an open finds it, and a day later it goes */
}

/* Leaves the open segment as it is, without an index; or without its file, else a disk that takes no
 * record would get another one with every try. */
static void abandon(csc_segment_tier *t)
{
    char name[CSC_SEGFMT_NAME_BYTES];

    csc_segfmt_name_format(t->rank, t->writer.number, name);
    csc_log(CSC_LOG_ERROR, "%s is given up: %s", name, csc_fail_text());
    if (t->writer.position == CSC_SEGFMT_PAGE_BYTES && discard_empty(t) == 0)
        return;
    set_state(t, CSC_SEGMENT_UNSEALED, t->writer.position);
    close_open(t);
}

static bool is_idle(const csc_segment_writer *w)
{
    return csc_wall_ns() > w->prepared_ns + CSC_SEGMENT_IDLE_NS;
}

/* If the disk refuses that too, the records stay. */
static void cut_unsynced(csc_segment_tier *t)
{
    csc_segment_writer *w = &t->writer;

    w->position = w->synced_position;
    if (csc_io_truncate(t->io, w->fd, w->position) == 0)
        w->recycled_bytes = 0;
}

static int sync_open(csc_segment_tier *t)
{
    csc_segment_writer *w = &t->writer;

    if (!w->item || !w->dirty)
        return 0;
    if (csc_io_datasync(t->io, w->fd)) {
        w->lost = true;
        cut_unsynced(t);
        abandon(t);
        return CASCADE_EIO;
    }
    w->dirty = false;
    w->synced_position = w->position;
    /* This process, or the disk, stood still: somebody may have emptied the segment in the meantime. */
    if (is_idle(w)) {
        csc_fail(CASCADE_EIO, "it took over an hour to make records durable");
        w->lost = true;
        abandon(t);
        return CASCADE_EIO;
    }
    return 0;
}

/* The item, if this handle made its file and may still remove it; NULL: another, `*is_last`: none. */
static csc_segment_item *made_at(csc_segment_tier *t, size_t index, bool *is_last)
{
    csc_segment_item *item = NULL;

    pthread_mutex_lock(&t->lock);
    *is_last = index >= t->item_count;
    if (!*is_last && !t->items[index]->found && t->items[index]->state != CSC_SEGMENT_REMOVED)
        item = t->items[index];
    pthread_mutex_unlock(&t->lock);
    return item;
}

/* After a failed sync of the directory. A name made since the last good one may be gone once the power
 * was, whatever later syncs say, and until then an open finds it. Nothing in such a segment has been
 * promised, so it goes; of any other the records are durable. */
static void drop_unnamed(csc_segment_tier *t)
{
    csc_segment_writer *w = &t->writer;
    csc_segment_item *item;
    bool is_last;

    if (w->item)
        abandon(t);
    for (size_t i = w->named_count; item = made_at(t, i, &is_last), !is_last; i++) {
        if (!item)
            continue;
        if (csc_segment_unlink(t, item->number, item->generation) == 0)
            csc_segment_set_removed(t, item);
    }
}

int csc_segment_sync(csc_tier *tier)
{
    csc_segment_tier *t = csc_segment_tier_of(tier);
    csc_segment_writer *w = &t->writer;
    int rc = sync_open(t);

    /* The name of a new file must be as durable as its bytes, and a removal must not come undone. */
    if (w->directory_dirty) {
        if (csc_io_sync_directory(t->io, t->directory)) {
            w->lost = w->names_unsure = true;
            rc = CASCADE_EIO;
            drop_unnamed(t);
        } else {
            w->directory_dirty = false;
            pthread_mutex_lock(&t->lock);
            w->named_count = t->item_count;
            pthread_mutex_unlock(&t->lock);
        }
    }
    if (w->lost && rc == 0)
        rc = csc_fail(CASCADE_EIO, "a sync has failed: what was written since the last good one is not "
                                   "durable");
    w->lost = false;
    return rc;
}

/* ---- starting ------------------------------------------------------------------------------------- */

/* Direct I/O is asked for by a second open: where it is refused, open(O_CREAT | O_DIRECT) fails but
 * leaves the file behind. */
static void go_direct(csc_segment_tier *t, const char *path)
{
    csc_segment_writer *w = &t->writer;
    int fd;
    int rc;

    w->direct = false;
    if (!atomic_load(&t->direct))
        return;
    rc = csc_io_open(t->io, path, O_RDWR | O_DIRECT, 0, &fd);
    if (rc == 0) {
        csc_io_close(t->io, w->fd);
        w->fd = fd;
        w->direct = true;
    } else if (rc == CASCADE_ENOTSUP) {
        atomic_store(&t->direct, false);
    }
}

/* Makes the file with the next free number. Of numbers that are taken so many are tried at once: a file
 * system that says so of each must not hold the writer for ever. The next try goes on from there. */
#define CLAIMS_MAX 100u

static int claim_number(csc_segment_tier *t, char path[CSC_SEGMENT_PATH_BYTES])
{
    csc_segment_writer *w = &t->writer;
    unsigned tries = 0;
    int rc;

    do {
        if (tries++ == CLAIMS_MAX)
            return csc_fail(CASCADE_EIO, "the names of %u new segments are taken, the last is %s",
                            CLAIMS_MAX, path);
        if (w->next_number == UINT32_MAX)
            return csc_fail(CASCADE_ENOSPC, "all segment numbers of rank %u are used", t->rank);
        w->number = w->next_number++;
        csc_segment_path(t, t->rank, w->number, path);
        rc = csc_io_open(t->io, path, O_RDWR | O_CREAT | O_EXCL, 0600, &w->fd);
    } while (rc == CASCADE_EEXIST);
    if (rc == CASCADE_MISS)
        return csc_fail(CASCADE_EIO, "the store's directory %s is gone", t->directory);
    return rc;
}

int csc_segment_fill_header(csc_segment_tier *t, uint64_t generation, uint64_t recycled_from)
{
    csc_segment_writer *w = &t->writer;
    csc_segfmt_header *header;

    if (!w->page && !(w->page = csc_segment_alloc(CSC_SEGFMT_PAGE_BYTES)))
        return CASCADE_ENOMEM;
    header = (void *)w->page;
    memset(header, 0, sizeof *header);
    memcpy(header->writer, w->id, sizeof header->writer);
    header->rank = t->rank;
    header->number = w->number;
    header->generation = generation;
    header->created_ns = csc_wall_ns();
    header->key_id = csc_keyring_first(t->keyring);
    header->recycled_from = recycled_from;
    csc_segfmt_header_seal(header);
    return 0;
}

/* Makes the file just claimed a segment: a removed one's takes its place, or it gets a header itself. */
static int begin(csc_segment_tier *t, const char *path, uint64_t generation)
{
    csc_segment_writer *w = &t->writer;
    bool taken;
    int rc;

    w->recycled_bytes = 0;
    rc = csc_segment_spare_take(t, path, generation, &taken);
    if (rc)
        return rc;
    go_direct(t, path);
    if (!taken) {
        rc = csc_segment_fill_header(t, generation, 0);
        if (rc == 0) {
            struct iovec vector = {w->page, CSC_SEGFMT_PAGE_BYTES};

            rc = csc_segment_put(t, &vector, 1, 0);
        }
    }
    csc_mark("segment: begun");
    return rc;
}

/* Before the first file is made. Without stripes a file works as well, only slower. */
static void stripe_once(csc_segment_tier *t)
{
    if (t->writer.stripe_tried)
        return;
    t->writer.stripe_tried = true;
    if (!csc_stripe_is_wanted(t->io, t->directory))
        return;
    if (csc_stripe_set(t->directory, STRIPE_WAIT_MS) == 0)
        atomic_store(&t->striped, true);
    else
        csc_log(CSC_LOG_WARNING, "segments are not striped: %s", csc_fail_text());
}

static int start(csc_segment_tier *t)
{
    csc_segment_writer *w = &t->writer;
    csc_segment_item facts = {.rank = t->rank,
                              .key_id = csc_keyring_first(t->keyring),
                              .ours = true,
                              .state = CSC_SEGMENT_OPEN};
    char path[CSC_SEGMENT_PATH_BYTES];
    int rc;

    stripe_once(t);
    w->prepared_ns = csc_wall_ns();
    rc = random_bytes(&facts.generation, sizeof facts.generation);
    if (rc == 0)
        rc = claim_number(t, path);
    if (rc)
        return rc;
    csc_mark("segment: created");
    facts.number = w->number;
    w->directory_dirty = true;
    rc = begin(t, path, facts.generation);
    facts.bytes = max_u64(CSC_SEGFMT_PAGE_BYTES, w->recycled_bytes);
    /* This process, or the disk, stood still: its name may be another file's by now. */
    if (rc == 0 && is_idle(w)) {
        csc_io_close(t->io, w->fd);
        return csc_fail(CASCADE_EIO, "it took over an hour to begin %s", path);
    }
    if (rc == 0)
        rc = csc_segment_add(t, &facts, &w->index);
    if (rc) {
        /* Nothing is in it, and nobody else may write to it: it can go. */
        csc_io_close(t->io, w->fd);
        csc_io_unlink(t->io, path);
        return rc;
    }
    pthread_mutex_lock(&t->lock);
    w->item = t->items[w->index];
    pthread_mutex_unlock(&t->lock);
    w->position = w->synced_position = CSC_SEGFMT_PAGE_BYTES;
    w->reserved_bytes = facts.bytes;
    w->can_reserve = true;
    w->entry_count = 0;
    w->big_count = 0;
    w->dirty = true;
    return 0;
}

/* ---- room ----------------------------------------------------------------------------------------- */

/* Reserves file space up to `end` and, if there is more, somewhat ahead. A full disk is noticed here,
 * before anything was written. */
static int reserve(csc_segment_tier *t, uint64_t end)
{
    csc_segment_writer *w = &t->writer;
    uint64_t ahead = min_u64(w->reserved_bytes + CSC_SEGMENT_RESERVE_BYTES, t->segment_bytes);
    int rc = CASCADE_ENOSPC;

    if (!w->can_reserve || end <= w->reserved_bytes)
        return 0;
    if (ahead > end)
        rc = csc_io_allocate(t->io, w->fd, w->reserved_bytes, ahead - w->reserved_bytes);
    if (rc == CASCADE_ENOSPC) {
        ahead = end;
        rc = csc_io_allocate(t->io, w->fd, w->reserved_bytes, ahead - w->reserved_bytes);
    }
    if (rc == 0)
        w->reserved_bytes = ahead;
    else if (rc != CASCADE_ENOSPC)
        w->can_reserve = false; /* cannot, or will not: the write itself decides */
    return rc == CASCADE_ENOSPC ? rc : 0;
}

static int make_entry_room(csc_segment_writer *w, size_t count)
{
    size_t room = w->entry_room ? w->entry_room : 256;
    csc_segfmt_index_entry *entries;

    while (room < w->entry_count + count)
        room *= 2;
    if (room == w->entry_room)
        return 0;
    entries = realloc(w->entries, room * sizeof *entries);
    if (!entries)
        return csc_fail(CASCADE_ENOMEM, "no memory for a segment index of %zu entries", room);
    w->entries = entries;
    w->entry_room = room;
    return 0;
}

bool csc_segment_must_roll(const csc_segment_tier *t, uint64_t record_bytes, size_t entry_count)
{
    const csc_segment_writer *w = &t->writer;

    if (!w->item || is_idle(w))
        return w->item != NULL;
    return w->position > CSC_SEGFMT_PAGE_BYTES &&
           (w->big_count >= t->blocks_max ||
            w->position + record_bytes + csc_segfmt_footer_bytes(w->entry_count + entry_count) >
                t->segment_bytes);
}

int csc_segment_prepare(csc_segment_tier *t, uint64_t record_bytes, size_t entry_count)
{
    int rc = 0;

    if (csc_segment_must_roll(t, record_bytes, entry_count))
        rc = csc_segment_seal_open(t);
    /* No room for the index: no room for anything. Other failures were the old segment's, if it is not
     * an empty one that could not be removed. */
    if (rc == CASCADE_ENOSPC || rc == CASCADE_ENOMEM || (rc && t->writer.item))
        return rc;
    if (!t->writer.item) {
        rc = start(t);
        if (rc)
            return rc;
    }
    t->writer.prepared_ns = csc_wall_ns();
    rc = make_entry_room(&t->writer, entry_count);
    return rc ? rc : reserve(t, t->writer.position + record_bytes);
}

/* ---- writing -------------------------------------------------------------------------------------- */

int csc_segment_go_buffered(csc_segment_tier *t)
{
    csc_segment_writer *w = &t->writer;
    char path[CSC_SEGMENT_PATH_BYTES];
    int fd;
    int rc;

    csc_log(CSC_LOG_INFO, "direct writes are refused; going on with buffered ones");
    csc_segment_path(t, t->rank, w->number, path);
    rc = csc_io_open(t->io, path, O_RDWR, 0, &fd);
    if (rc)
        return rc;
    csc_io_close(t->io, w->fd);
    w->fd = fd;
    w->direct = false;
    atomic_store(&t->direct, false);
    return 0;
}

int csc_segment_put(csc_segment_tier *t, const struct iovec *vectors, int count, uint64_t offset)
{
    csc_segment_writer *w = &t->writer;
    uint64_t bytes = 0;
    int rc = csc_io_write(t->io, w->fd, vectors, count, offset);

    if (rc == CASCADE_ENOTSUP && w->direct) {
        rc = csc_segment_go_buffered(t);
        if (rc == 0)
            rc = csc_io_write(t->io, w->fd, vectors, count, offset);
    }
    if (rc)
        return rc == CASCADE_ENOTSUP || rc == CASCADE_MISS ? CASCADE_EIO : rc;
    for (int i = 0; i < count; i++)
        bytes += vectors[i].iov_len;
    atomic_fetch_add(&t->written_bytes, bytes);
    return 0;
}

void csc_segment_recover(csc_segment_tier *t, int code)
{
    csc_segment_writer *w = &t->writer;

    if (csc_io_truncate(t->io, w->fd, w->position) == 0) {
        w->reserved_bytes = w->position;
        w->recycled_bytes = 0;
        csc_segment_set_bytes(t, w->position);
        w->dirty = true;
        if (code == CASCADE_ENOSPC || code == CASCADE_ENOMEM)
            return;
    }
    if (sync_open(t) == 0)
        abandon(t);
}

/* ---- sealing -------------------------------------------------------------------------------------- */

static int write_footer(csc_segment_tier *t)
{
    csc_segment_writer *w = &t->writer;
    uint64_t bytes = csc_segfmt_footer_bytes(w->entry_count);
    size_t index_bytes = w->entry_count * sizeof *w->entries;
    uint8_t *footer = csc_segment_alloc(bytes);
    csc_segfmt_trailer *trailer;
    struct iovec vector = {footer, bytes};
    int rc;

    if (!footer)
        return CASCADE_ENOMEM;
    qsort(w->entries, w->entry_count, sizeof *w->entries, csc_segfmt_index_compare);
    memcpy(footer, w->entries, index_bytes);
    memset(footer + index_bytes, 0, bytes - index_bytes);
    trailer = (void *)(footer + bytes - sizeof *trailer);
    trailer->generation = w->item->generation;
    trailer->index_offset = w->position;
    trailer->index_count = w->entry_count;
    csc_segfmt_trailer_seal(trailer, w->entries);
    rc = reserve(t, w->position + bytes);
    if (rc == 0) {
        rc = csc_segment_put(t, &vector, 1, w->position);
        if (rc)
            csc_segment_recover(t, rc);
    }
    free(footer);
    return rc;
}

/* A file that is used again reaches further than its records. Only behind its last byte can the index
 * say that it is one; and a file that grows again has its size synced with its bytes. */
static int cut_earlier_use(csc_segment_tier *t)
{
    csc_segment_writer *w = &t->writer;

    if (w->recycled_bytes <= w->position)
        return 0;
    if (csc_io_truncate(t->io, w->fd, w->position)) {
        abandon(t);
        return CASCADE_EIO;
    }
    w->recycled_bytes = 0;
    w->reserved_bytes = w->position;
    csc_segment_set_bytes(t, w->position);
    return 0;
}

int csc_segment_seal_open(csc_segment_tier *t)
{
    csc_segment_writer *w = &t->writer;
    uint64_t end;
    int rc;

    if (!w->item)
        return 0;
    if (w->position == CSC_SEGFMT_PAGE_BYTES)
        return discard_empty(t);
    end = w->position + csc_segfmt_footer_bytes(w->entry_count);
    /* The index speaks for the records, so they are made durable before it. */
    rc = sync_open(t);
    csc_mark("seal: records synced");
    if (rc == 0)
        rc = cut_earlier_use(t);
    csc_mark("seal: earlier use cut");
    if (rc == 0)
        rc = write_footer(t);
    csc_mark("seal: index written");
    if (rc)
        return rc;
    if (w->reserved_bytes > end)
        csc_io_truncate(t->io, w->fd, end); /* what was reserved in vain; only space if it fails */
    if (csc_io_datasync(t->io, w->fd)) {
        /* The records are durable; whether the index is, the next open will see. */
        abandon(t);
        return CASCADE_EIO;
    }
    csc_mark("seal: index synced");
    pthread_mutex_lock(&t->lock);
    w->item->index_bytes = end - w->position;
    pthread_mutex_unlock(&t->lock);
    set_state(t, CSC_SEGMENT_SEALED, end);
    close_open(t);
    return 0;
}

int csc_segment_seal(csc_tier *tier)
{
    int rc = csc_segment_seal_open(csc_segment_tier_of(tier));
    int sync_rc = csc_segment_sync(tier);

    return rc ? rc : sync_rc;
}

int csc_segment_give_up(csc_tier *tier)
{
    csc_segment_tier *t = csc_segment_tier_of(tier);
    csc_segment_writer *w = &t->writer;

    if (w->item && sync_open(t) == 0) {
        pthread_mutex_lock(&t->lock);
        w->item->abandoned = true;
        pthread_mutex_unlock(&t->lock);
        abandon(t);
    }
    return csc_segment_sync(tier);
}
