/* SPDX-License-Identifier: MIT */
/* The table of segments, its life, and the small operations. segment_internal.h tells how it is locked.
 */
#include "segment/segment.h"

#include "base/fail.h"
#include "segment/segment_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void *csc_segment_alloc(size_t bytes)
{
    void *memory = NULL;

    if (posix_memalign(&memory, CSC_SEGFMT_PAGE_BYTES, bytes)) {
        csc_fail(CASCADE_ENOMEM, "no memory for %zu bytes of file buffer", bytes);
        return NULL;
    }
    return memory;
}

void csc_segment_path(const csc_segment_tier *t, uint32_t rank, uint32_t number,
                      char path[CSC_SEGMENT_PATH_BYTES])
{
    char name[CSC_SEGFMT_NAME_BYTES];

    csc_segfmt_name_format(rank, number, name);
    snprintf(path, CSC_SEGMENT_PATH_BYTES, "%s/%s", t->directory, name);
}

csc_cipher_record csc_segment_cipher_record(const csc_segfmt_record *header)
{
    csc_cipher_record record = {.key_id = header->key_id,
                                .generation = header->generation,
                                .offset = header->offset,
                                .tenant = header->tenant,
                                .k_bytes = header->k_bytes,
                                .v_bytes = header->v_bytes};

    memcpy(record.salt, csc_segfmt_salt(header), sizeof record.salt);
    memcpy(record.digest, header->digest, sizeof record.digest);
    return record;
}

int csc_segment_add(csc_segment_tier *t, const csc_segment_item *facts, uint32_t *index)
{
    csc_segment_item *item = malloc(sizeof *item);
    int rc = 0;

    if (!item)
        return csc_fail(CASCADE_ENOMEM, "no memory for a segment");
    *item = *facts;
    item->binds.sequence_min = UINT64_MAX;
    pthread_mutex_lock(&t->lock);
    if (t->item_count == t->item_room) {
        size_t room = t->item_room ? 2 * t->item_room : 64;
        csc_segment_item **items = realloc(t->items, room * sizeof(csc_segment_item *));

        if (items) {
            t->items = items;
            t->item_room = room;
        } else {
            rc = csc_fail(CASCADE_ENOMEM, "no memory for %zu segments", room);
        }
    }
    if (rc == 0) {
        *index = (uint32_t)t->item_count;
        item->removals_then = t->removed_count;
        t->items[t->item_count++] = item;
    }
    pthread_mutex_unlock(&t->lock);
    if (rc)
        free(item);
    return rc;
}

void csc_segment_set_removed(csc_segment_tier *t, csc_segment_item *item)
{
    csc_segment_file *leaving;

    pthread_mutex_lock(&t->lock);
    t->removed_count += item->state != CSC_SEGMENT_REMOVED;
    item->state = CSC_SEGMENT_REMOVED;
    free(item->binds.hashes);
    item->binds = (csc_segment_binds){.sequence_min = UINT64_MAX};
    leaving = csc_segment_file_detach(t, item);
    pthread_mutex_unlock(&t->lock);
    csc_segment_file_close(t, leaving);
}

void csc_segment_free(csc_segment_tier *t)
{
    if (t->owner == getpid()) {
        csc_segment_discard_if_empty(t);
        csc_segment_spares_remove(t);
    }
    if (t->writer.item)
        csc_io_close(t->io, t->writer.fd);
    free(t->writer.entries);
    free(t->writer.page);
    csc_segment_crew_destroy(t->writer.crew, t->owner != getpid());
    csc_segment_ring_destroy(t->writer.ring);
    for (size_t i = 0; i < t->item_count; i++) {
        csc_segment_file_close(t, t->items[i]->file);
        free(t->items[i]->binds.hashes);
        free(t->items[i]);
    }
    free(t->items);
    csc_segment_readers_free(t);
    pthread_cond_destroy(&t->opened);
    pthread_mutex_destroy(&t->lock);
    free(t->directory);
    free(t->skipped);
    free(t);
}

void csc_segment_leave(csc_segment_tier *t)
{
    if (atomic_fetch_sub(&t->users, 1) == 1)
        csc_segment_free(t);
}

/* Transfers past their deadline may still use descriptors: the tier goes with the last of them. */
static void segment_close(csc_tier **tier)
{
    if (*tier)
        csc_segment_leave(csc_segment_tier_of(*tier));
    *tier = NULL;
}

static void segment_stats(csc_tier *tier, cascade_tier_stats *stats)
{
    csc_segment_tier *t = csc_segment_tier_of(tier);

    stats->capacity_bytes = 0;
    stats->used_bytes = csc_segment_spare_bytes(tier);
    pthread_mutex_lock(&t->lock);
    for (size_t i = 0; i < t->item_count; i++)
        if (t->items[i]->rank == t->rank && t->items[i]->state != CSC_SEGMENT_REMOVED)
            stats->used_bytes += t->items[i]->bytes;
    pthread_mutex_unlock(&t->lock);
    stats->read_bytes = atomic_load(&t->read_bytes);
    stats->written_bytes = atomic_load(&t->written_bytes);
    stats->quarantined = atomic_load(&t->quarantined);
}

const csc_tier_ops csc_segment_ops = {
    .name = "file",
    .write = csc_segment_write,
    .sync = csc_segment_sync,
    .read = csc_segment_read,
    .retain = csc_segment_retain,
    .drop = csc_segment_drop,
    .stats = segment_stats,
    .close = segment_close,
};

void csc_segment_place_make(csc_place *place, uint32_t index, uint64_t offset, uint64_t header_bytes,
                            uint64_t generation)
{
    *place = (csc_place){.words = {index, (uint32_t)offset, (uint32_t)(offset >> 32),
                                   (uint32_t)(header_bytes / CSC_SEGFMT_PAGE_BYTES),
                                   (uint32_t)generation, (uint32_t)(generation >> 32)}};
}

uint32_t csc_segment_of(const csc_place *place)
{
    return place->words[0];
}

uint64_t csc_segment_offset_of(const csc_place *place)
{
    return place->words[1] | (uint64_t)place->words[2] << 32;
}

bool csc_segment_is_same_record(const csc_place *a, const csc_place *b)
{
    /* Offset and generation; the index is one handle's own, and the rest follows. */
    return memcmp(&a->words[1], &b->words[1], 5 * sizeof a->words[0]) == 0;
}

void csc_segment_list(csc_tier *tier, csc_segment_info *infos, size_t *count)
{
    csc_segment_tier *t = csc_segment_tier_of(tier);
    size_t room = *count;
    size_t found = 0;

    /* The table is in the order of numbers: open adds them so, and new ones are above all. */
    pthread_mutex_lock(&t->lock);
    for (size_t i = 0; i < t->item_count; i++) {
        const csc_segment_item *item = t->items[i];

        if (item->rank != t->rank || item->state == CSC_SEGMENT_REMOVED)
            continue;
        if (found < room)
            infos[found] =
                (csc_segment_info){.segment = (uint32_t)i,
                                   .bytes = item->bytes,
                                   .index_bytes = item->index_bytes,
                                   .key_id = item->key_id,
                                   .sealed = item->state == CSC_SEGMENT_SEALED,
                                   .open = item->state == CSC_SEGMENT_OPEN,
                                   .abandoned = item->abandoned,
                                   .ours = item->ours,
                                   .live_bytes = item->live_bytes,
                                   .log_bytes = csc_segment_log_bytes(t, item, item->log_entries),
                                   .delete_bytes = csc_segment_log_bytes(t, item, item->log_deletes)};
        found++;
    }
    pthread_mutex_unlock(&t->lock);
    *count = found;
}

unsigned csc_segment_standing(csc_tier *tier, uint32_t segment)
{
    csc_segment_tier *t = csc_segment_tier_of(tier);
    unsigned standing = CSC_SEGMENT_IS_GONE;

    pthread_mutex_lock(&t->lock);
    if (segment < t->item_count) {
        const csc_segment_item *item = t->items[segment];

        standing = (item->ours ? CSC_SEGMENT_IS_OURS : 0) |
                   (item->state == CSC_SEGMENT_SEALED ? CSC_SEGMENT_IS_SEALED : 0) |
                   (item->state == CSC_SEGMENT_REMOVED ? CSC_SEGMENT_IS_GONE : 0) |
                   (item->found ? 0 : CSC_SEGMENT_IS_MADE);
    }
    pthread_mutex_unlock(&t->lock);
    return standing;
}

void csc_segment_reread(csc_tier *tier, const csc_place *place)
{
    csc_segment_tier *t = csc_segment_tier_of(tier);

    pthread_mutex_lock(&t->lock);
    if (csc_segment_of(place) < t->item_count) {
        csc_segment_item *item = t->items[csc_segment_of(place)];
        uint64_t offset = csc_segment_offset_of(place);

        if (item->found && !item->ours && item->state == CSC_SEGMENT_UNSEALED && offset < item->scanned)
            item->scanned = offset;
    }
    pthread_mutex_unlock(&t->lock);
}

uint64_t csc_segment_count(csc_tier *tier)
{
    csc_segment_tier *t = csc_segment_tier_of(tier);
    uint64_t count = 0;

    pthread_mutex_lock(&t->lock);
    for (size_t i = 0; i < t->item_count; i++)
        count += t->items[i]->state != CSC_SEGMENT_REMOVED;
    pthread_mutex_unlock(&t->lock);
    return count;
}

bool csc_segment_is_direct(csc_tier *tier)
{
    return atomic_load(&csc_segment_tier_of(tier)->direct);
}

bool csc_segment_is_striped(csc_tier *tier)
{
    return atomic_load(&csc_segment_tier_of(tier)->striped);
}

uint64_t csc_segment_rereads(csc_tier *tier)
{
    return atomic_load(&csc_segment_tier_of(tier)->rereads);
}

/* Whether the name means another segment than that of this generation, or a file that is becoming one.
 */
static bool is_anothers(csc_segment_tier *t, uint32_t number, uint64_t generation)
{
    csc_segfmt_header *header = csc_segment_alloc(sizeof *header);
    struct iovec vector = {header, sizeof *header};
    csc_segment_file *file = NULL;
    uint64_t bytes;
    bool yes = false;

    if (header && csc_segment_file_open(t, t->rank, number, CSC_SEGMENT_NO_DEADLINE, &file) == 0 &&
        csc_io_size(t->io, file->fd, &bytes) == 0)
        yes =
            bytes == 0 || (bytes >= sizeof *header && csc_io_read(t->io, file->fd, &vector, 1, 0) == 0 &&
                           csc_segfmt_header_check(header) == 0 && header->number == number &&
                           header->generation != generation);
    csc_segment_file_close(t, file);
    free(header);
    return yes;
}

int csc_segment_unlink(csc_segment_tier *t, uint32_t number, uint64_t generation)
{
    char path[CSC_SEGMENT_PATH_BYTES];

    csc_segment_path(t, t->rank, number, path);
    if (is_anothers(t, number, generation))
        return csc_fail(CASCADE_MISS, "%s is another handle's by now", path);
    return csc_io_unlink(t->io, path);
}

int csc_segment_remove(csc_tier *tier, uint32_t segment)
{
    csc_segment_tier *t = csc_segment_tier_of(tier);
    csc_segment_item *item = NULL;
    csc_segment_state state = CSC_SEGMENT_REMOVED;
    int rc;

    pthread_mutex_lock(&t->lock);
    if (segment < t->item_count) {
        item = t->items[segment];
        state = item->state;
    }
    pthread_mutex_unlock(&t->lock);
    if (!item || item->rank != t->rank)
        return csc_fail(CASCADE_EINVAL, "segment %u is not this rank's", segment);
    if (state == CSC_SEGMENT_OPEN)
        return csc_fail(CASCADE_EBUSY, "segment %u is being written", segment);
    if (state == CSC_SEGMENT_REMOVED)
        return csc_fail(CASCADE_MISS, "segment %u was removed", segment);
    if (state != CSC_SEGMENT_SEALED || !csc_segment_spare_keep(t, item)) {
        rc = csc_segment_unlink(t, item->number, item->generation);
        if (rc && rc != CASCADE_MISS)
            return rc;
        t->writer.directory_dirty = true;
    }
    csc_segment_set_removed(t, item);
    return 0;
}

/* ---- pieces --------------------------------------------------------------------------------------- */

size_t csc_segment_cursor_peek(csc_segment_cursor *cursor, size_t most, uint8_t **data)
{
    size_t left;

    while (cursor->index < cursor->count && cursor->used == cursor->pieces[cursor->index].bytes) {
        cursor->index++;
        cursor->used = 0;
    }
    if (cursor->index == cursor->count)
        return 0;
    *data = (uint8_t *)cursor->pieces[cursor->index].data + cursor->used;
    left = cursor->pieces[cursor->index].bytes - cursor->used;
    return left < most ? left : most;
}

bool csc_segment_pieces_bytes(const cascade_piece *pieces, size_t count, uint64_t *bytes)
{
    uint64_t total = 0;

    for (size_t i = 0; i < count; i++)
        if (__builtin_add_overflow(total, pieces[i].bytes, &total))
            return false;
    *bytes = total;
    return true;
}

bool csc_segment_pieces_aligned(const cascade_piece *pieces, size_t count)
{
    bool ended = false; /* by a piece that is not whole pages */

    for (size_t i = 0; i < count; i++) {
        if (pieces[i].bytes == 0)
            continue;
        if (ended || (uintptr_t)pieces[i].data % CSC_SEGFMT_PAGE_BYTES != 0)
            return false;
        ended = pieces[i].bytes % CSC_SEGFMT_PAGE_BYTES != 0;
    }
    return true;
}
