/* SPDX-License-Identifier: MIT */
/*
 * Files that are used again: allocated space is written faster than new. docs/formats.md, "Spare", has
 * the bytes and the order of steps.
 *
 * A kill or a power cut between any two steps leaves a segment, a spare or an empty file, never damage:
 * what tells them apart lies in one sector, and each step changes it alone. Whoever finds a spare whose
 * writer is gone may unlink it. If that happens to a spare whose writer lives (the same rank on another
 * node), its rename fails and it goes on with a new file.
 */
#include "base/fail.h"
#include "base/log.h"
#include "base/mark.h"
#include "segment/segment_internal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE CSC_SEGFMT_PAGE_BYTES

static int write_page(csc_segment_tier *t, int fd, void *page)
{
    const struct iovec vector = {page, PAGE};
    int rc = csc_io_write(t->io, fd, &vector, 1, 0);

    return rc ? rc : csc_io_datasync(t->io, fd);
}

static int read_page(csc_segment_tier *t, int fd, void *page)
{
    const struct iovec vector = {page, PAGE};

    return csc_io_read(t->io, fd, &vector, 1, 0);
}

/* Makes the page's first sector that of a spare; the rest stays. */
static void put_spare(void *page, uint32_t rank, uint32_t number)
{
    csc_segfmt_spare *spare = page;

    memset(spare, 0, sizeof *spare);
    spare->rank = rank;
    spare->number = number;
    csc_segfmt_spare_seal(spare);
}

/* ---- keeping -------------------------------------------------------------------------------------- */

static int mark_spare(csc_segment_tier *t, const csc_segment_item *item, int fd, void *page)
{
    const csc_segfmt_header *header = page;
    int rc = read_page(t, fd, page);

    if (rc == 0)
        rc = csc_segfmt_header_check(header);
    if (rc == 0 && header->generation != item->generation)
        rc = csc_fail(CASCADE_EFORMAT, "somebody put another file in the segment's place");
    if (rc)
        return rc;
    put_spare(page, item->rank, item->number);
    rc = write_page(t, fd, page);
    csc_mark("recycle: spare synced");
    return rc;
}

bool csc_segment_spare_keep(csc_segment_tier *t, const csc_segment_item *item)
{
    char path[CSC_SEGMENT_PATH_BYTES];
    void *page;
    int fd;
    int rc;

    if (t->spare_count >= t->spares_max || !item->ours)
        return false;
    /* Its plain bytes would stay in the directory until they are overwritten. */
    if (t->keyring && item->key_id == 0)
        return false;
    page = csc_segment_alloc(PAGE);
    if (!page)
        return false;
    csc_segment_path(t, item->rank, item->number, path);
    rc = csc_io_open(t->io, path, O_RDWR, 0, &fd);
    if (rc == 0) {
        rc = mark_spare(t, item, fd, page);
        csc_io_close(t->io, fd);
    }
    free(page);
    if (rc)
        return false;
    pthread_mutex_lock(&t->lock);
    t->spares[t->spare_count++] = (csc_segment_spare){item->number, item->bytes};
    pthread_mutex_unlock(&t->lock);
    return true;
}

/* ---- taking --------------------------------------------------------------------------------------- */

/* Writes the new segment's header into the spare. The rest of the page goes first, so that a torn second
 * write is still either the one or the other. */
static int begin_again(csc_segment_tier *t, const csc_segment_spare *spare, int fd, uint64_t generation)
{
    int rc = csc_segment_fill_header(t, generation, (uint64_t)spare->number + 1);
    uint8_t sector[sizeof(csc_segfmt_spare)];
    uint8_t *page = t->writer.page;

    if (rc)
        return rc;
    memcpy(sector, page, sizeof sector);
    put_spare(page, t->rank, spare->number);
    rc = write_page(t, fd, page);
    csc_mark("recycle: header prepared");
    memcpy(page, sector, sizeof sector);
    if (rc == 0)
        rc = write_page(t, fd, page);
    csc_mark("recycle: header synced");
    return rc;
}

static int open_spare(csc_segment_tier *t, const csc_segment_spare *spare, const char *path, int *fd)
{
    void *page = csc_segment_alloc(PAGE);
    int rc = page ? csc_io_open(t->io, path, O_RDWR, 0, fd) : CASCADE_ENOMEM;

    if (rc == 0) {
        rc = read_page(t, *fd, page);
        if (rc == 0 && !csc_segfmt_is_spare(page, t->rank, spare->number))
            rc = csc_fail(CASCADE_EFORMAT, "somebody put another file in the spare's place");
        if (rc)
            csc_io_close(t->io, *fd);
    }
    free(page);
    return rc;
}

/* A rename that failed may have been done: then the file that was claimed has no name any more, and what
 * is written to it would vanish. Whichever file has the name is emptied and used. */
static int claim_again(csc_segment_tier *t, const char *path)
{
    int fd;
    int rc = csc_io_open(t->io, path, O_RDWR, 0, &fd);

    if (rc)
        return rc == CASCADE_MISS ? CASCADE_EIO : rc;
    csc_io_close(t->io, t->writer.fd);
    t->writer.fd = fd;
    return csc_io_truncate(t->io, fd, 0);
}

int csc_segment_spare_take(csc_segment_tier *t, const char *path, uint64_t generation, bool *taken)
{
    char old_path[CSC_SEGMENT_PATH_BYTES];
    csc_segment_writer *w = &t->writer;
    csc_segment_spare spare;
    int claimed = 0;
    int fd;
    int rc;

    *taken = false;
    if (t->spare_count == 0)
        return 0;
    pthread_mutex_lock(&t->lock);
    spare = t->spares[--t->spare_count];
    pthread_mutex_unlock(&t->lock);
    csc_segment_path(t, t->rank, spare.number, old_path);
    rc = open_spare(t, &spare, old_path, &fd);
    if (rc == 0) {
        rc = begin_again(t, &spare, fd, generation);
        if (rc == 0) {
            rc = csc_io_rename(t->io, old_path, path);
            csc_mark("recycle: renamed");
            claimed = rc;
        }
        if (rc) {
            csc_io_close(t->io, fd);
            csc_io_unlink(t->io, old_path); /* if that fails too, an open will find a spare */
        }
    }
    if (rc) {
        csc_log(CSC_LOG_WARNING, "a removed segment's file cannot be used again: %s", csc_fail_text());
        return claimed ? claim_again(t, path) : 0;
    }
    csc_io_close(t->io, w->fd);
    w->fd = fd;
    w->recycled_bytes = spare.bytes;
    *taken = true;
    atomic_fetch_add(&t->recycled, 1);
    return 0;
}

void csc_segment_spares_remove(csc_segment_tier *t)
{
    while (t->spare_count > 0)
        (void)csc_segment_unlink(t, t->spares[--t->spare_count].number, 0);
}

/* ---- counts ---------------------------------------------------------------------------------- */

uint64_t csc_segment_recycled(csc_tier *tier)
{
    return atomic_load(&csc_segment_tier_of(tier)->recycled);
}

uint64_t csc_segment_spare_bytes(csc_tier *tier)
{
    csc_segment_tier *t = csc_segment_tier_of(tier);
    uint64_t bytes = 0;

    pthread_mutex_lock(&t->lock);
    for (uint32_t i = 0; i < t->spare_count; i++)
        bytes += t->spares[i].bytes;
    pthread_mutex_unlock(&t->lock);
    return bytes;
}
