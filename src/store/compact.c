/* SPDX-License-Identifier: MIT */
/*
 * Compaction: a segment that is mostly dead is emptied, by writing what lives in it again, and removed.
 * The writer thread does it, between its rounds.
 *
 * Order, for the sake of a kill between any two steps: copies and binds are written and synced, then the
 * places are published, then what else only that segment says (binds of contents that lie elsewhere,
 * deletes that still hide something) is logged and synced, and then the segment goes. Copies keep the
 * sequences of their binds, so that an open takes either copy for the same; in the order of the old
 * records, so that a prefix chain that lay together lies together again.
 */
#include "base/clock.h"
#include "base/fail.h"
#include "base/log.h"
#include "base/mark.h"
#include "store/store_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_BLOCKS  256u
#define BATCH_BYTES   (UINT64_C(16) << 20)
#define PAGE_BYTES    UINT64_C(4096)
#define DELETES_BATCH 4096u
#define SCAN_STEP     4096u

/* A content that lives in the segment. */
typedef struct mover {
    uint64_t offset; /* of its record */
    uint32_t number;
    uint32_t generation;
    csc_place place; /* then */
} mover;

typedef struct compaction {
    cascade_store *store;
    uint32_t segment;
    bool urgent; /* no rate limit */
    mover *movers;
    size_t count, room;
    /* one batch */
    csc_tier_write writes[BATCH_BLOCKS];
    const mover *moved[BATCH_BLOCKS];
    cascade_piece read_into[BATCH_BLOCKS];
    bool by_file[BATCH_BLOCKS]; /* read from the segment, not from dram */
    uint32_t first_binding[BATCH_BLOCKS + 1];
    uint32_t write_count;
    csc_binding *bindings;
    uint32_t *keys;
    size_t binding_room, key_room;
    cascade_piece *pieces;
    size_t piece_room, piece_count;
    uint8_t *buffer; /* of what is read */
    uint64_t buffer_bytes, buffer_used;
    uint64_t moved_bytes;
    csc_log_entry *deletes;
    size_t delete_count;
    uint64_t hides_below; /* deletes with a sequence over it hide something */
} compaction;

static bool grow(void *items, size_t *room, size_t wanted, size_t bytes)
{
    void **array = items, *grown;

    if (wanted <= *room)
        return true;
    grown = realloc(*array, 2 * wanted * bytes);
    if (!grown)
        return false;
    *array = grown;
    *room = 2 * wanted;
    return true;
}

/* ---- what lives there --------------------------------------------------------------------------- */

static int by_offset(const void *a, const void *b)
{
    const mover *x = a, *y = b;

    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static bool is_still(cascade_store *store, const mover *m)
{
    const csc_content_entry *entry = csc_content_at(store, m->number);

    return csc_content_has(entry, CSC_CONTENT_LIVE) && csc_content_generation(entry) == m->generation &&
           csc_segment_is_same_record(&entry->file, &m->place);
}

static int find_movers(compaction *c)
{
    cascade_store *store = c->store;
    int code = 0;

    pthread_mutex_lock(&store->lock);
    for (uint32_t number = 0; number < store->contents_made && code == 0; number++) {
        const csc_content_entry *entry = csc_content_at(store, number);

        if (number % SCAN_STEP == SCAN_STEP - 1) {
            pthread_mutex_unlock(&store->lock);
            pthread_mutex_lock(&store->lock);
        }
        if (!csc_content_has(entry, CSC_CONTENT_LIVE) || !csc_place_is_set(&entry->file) ||
            csc_segment_of(&entry->file) != c->segment)
            continue;
        if (!grow(&c->movers, &c->room, c->count + 1, sizeof *c->movers))
            code = csc_fail(CASCADE_ENOMEM, "no memory to list what lives in a segment");
        else
            c->movers[c->count++] = (mover){.offset = csc_segment_offset_of(&entry->file),
                                            .number = number,
                                            .generation = csc_content_generation(entry),
                                            .place = entry->file};
    }
    pthread_mutex_unlock(&store->lock);
    if (c->count)
        qsort(c->movers, c->count, sizeof *c->movers, by_offset);
    return code;
}

/* ---- one batch ------------------------------------------------------------------------------------ */

/* Adds the keys whose bind lies in the segment. Lock held. */
static bool add_keys(compaction *c, const csc_content_entry *entry)
{
    cascade_store *store = c->store;
    uint32_t at = c->first_binding[c->write_count], count = 0;

    if (!grow(&c->keys, &c->key_room, at + CSC_BINDINGS_MAX, sizeof *c->keys) ||
        !grow(&c->bindings, &c->binding_room, at + CSC_BINDINGS_MAX, sizeof *c->bindings))
        return false;
    for (uint32_t link = entry->first_key; link && count < CSC_BINDINGS_MAX;
         link = csc_key_at(store, link - 1)->sibling) {
        csc_key_entry *key = csc_key_at(store, link - 1);

        if (key->segment != c->segment + 1 || (store->key_states[link - 1].flags & CSC_KS_INFLIGHT))
            continue; /* the rest is logged at the end */
        store->key_states[link - 1].flags |= CSC_KS_INFLIGHT;
        c->keys[at + count] = link - 1;
        c->bindings[at + count++] =
            (csc_binding){.key = key->key,
                          .parent = key->parent,
                          .has_parent = atomic_load(&key->state) & CSC_KEY_HAS_PARENT,
                          .sequence = key->sequence};
    }
    c->first_binding[c->write_count + 1] = at + count;
    return true;
}

static uint64_t padded(uint64_t bytes)
{
    return (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

/* Room in the buffer for a block; only an empty batch may make the buffer grow. */
static bool buffer_fits(compaction *c, uint64_t bytes)
{
    uint64_t wanted = bytes > BATCH_BYTES ? bytes : BATCH_BYTES;

    if (c->buffer_bytes - c->buffer_used >= bytes)
        return true;
    if (c->buffer_used > 0)
        return false;
    free(c->buffer);
    c->buffer = aligned_alloc(PAGE_BYTES, wanted);
    c->buffer_bytes = c->buffer ? wanted : 0;
    return c->buffer != NULL;
}

/* Adds a block to the batch, held busy. False: it is full. Lock held. */
static bool add_mover(compaction *c, const mover *m)
{
    cascade_store *store = c->store;
    const csc_content_entry *entry = csc_content_at(store, m->number);
    bool resident = csc_content_has(entry, CSC_CONTENT_RESIDENT);
    uint64_t bytes = csc_content_bytes(entry);
    size_t runs = resident ? entry->dram.count : 1;
    uint32_t i = c->write_count;

    if (i == BATCH_BLOCKS || (!resident && !buffer_fits(c, padded(bytes))) ||
        !grow(&c->pieces, &c->piece_room, c->piece_count + runs, sizeof *c->pieces) ||
        !add_keys(c, entry))
        return false;
    if (resident) {
        runs = csc_arena_pieces(store->arena, &entry->dram, 0, bytes, c->pieces + c->piece_count,
                                c->piece_room - c->piece_count);
    } else {
        c->pieces[c->piece_count] = (cascade_piece){c->buffer + c->buffer_used, bytes};
        c->buffer_used += padded(bytes);
    }
    c->by_file[i] = !resident;
    c->moved[i] = m;
    c->writes[i] =
        (csc_tier_write){.content = entry->content,
                         .binding_count = c->first_binding[i + 1] - c->first_binding[i],
                         .piece_count = runs,
                         .written_ns = store->content_states[m->number].used_s * UINT64_C(1000000000)};
    c->piece_count += runs;
    c->write_count++;
    store->content_states[m->number].busy++;
    return true;
}

/* Takes movers from `*next` on. */
static void take_batch(compaction *c, size_t *next)
{
    uint64_t bytes = 0;
    size_t piece = 0;

    c->write_count = 0;
    c->piece_count = 0;
    c->buffer_used = 0;
    c->first_binding[0] = 0;
    pthread_mutex_lock(&c->store->lock);
    for (; *next < c->count && bytes < BATCH_BYTES; (*next)++) {
        const mover *m = &c->movers[*next];

        if (!is_still(c->store, m))
            continue;
        if (!add_mover(c, m))
            break;
        bytes += csc_content_bytes(csc_content_at(c->store, m->number));
    }
    pthread_mutex_unlock(&c->store->lock);
    for (uint32_t i = 0; i < c->write_count; i++) {
        c->writes[i].bindings = c->bindings + c->first_binding[i];
        c->writes[i].pieces = c->pieces + piece;
        piece += c->writes[i].piece_count;
    }
}

/* Reads what dram does not hold. A block that cannot be read has a status, and is left out of writing.
 */
static void read_batch(compaction *c)
{
    for (uint32_t i = 0; i < c->write_count; i++) {
        csc_tier_write *write = &c->writes[i];

        write->status = 0;
        if (c->by_file[i])
            write->status = csc_tier_read_one(c->store->file, &c->moved[i]->place, &write->content, 0,
                                              write->pieces, write->piece_count);
    }
}

static int write_batch(compaction *c)
{
    int code = 0;

    for (uint32_t i = 0; i < c->write_count && code == 0; i++)
        if (c->writes[i].status == 0) {
            uint32_t end = i + 1;

            while (end < c->write_count && c->writes[end].status == 0)
                end++;
            code = c->store->file->ops->write(c->store->file, c->writes + i, end - i);
            i = end - 1;
        }
    csc_mark("compact: copied");
    if (code == 0)
        code = c->store->file->ops->sync(c->store->file);
    csc_mark("compact: synced");
    return code;
}

/* The block's only file copy is damaged or gone. Lock held. */
static void quarantine(cascade_store *store, uint32_t number)
{
    static const csc_place nowhere;

    csc_content_set_file(store, number, &nowhere);
    if (csc_content_has(csc_content_at(store, number), CSC_CONTENT_RESIDENT))
        csc_content_write_again(store, number);
    else
        csc_content_lose(store, number, true);
}

/* Lock held. */
static void settle_one(compaction *c, uint32_t i, bool durable)
{
    cascade_store *store = c->store;
    const mover *m = c->moved[i];
    bool still = is_still(store, m);
    int status = c->writes[i].status;

    store->content_states[m->number].busy--;
    for (uint32_t b = c->first_binding[i]; b < c->first_binding[i + 1]; b++) {
        csc_key_entry *key = csc_key_at(store, c->keys[b]);

        store->key_states[c->keys[b]].flags &= ~(uint32_t)CSC_KS_INFLIGHT;
        if (durable && status == 0 && (atomic_load(&key->state) & 0xff) == CSC_KEY_BOUND &&
            key->sequence == c->bindings[b].sequence)
            key->segment = csc_segment_of(&c->writes[i].place) + 1;
        /* The old record stays until the segment goes, and a failed copy may be found: a delete has
         * something to hide either way. */
        store->key_states[c->keys[b]].flags |= CSC_KS_RECORDED;
    }
    if (!still)
        return;
    if (durable && status == 0)
        csc_content_set_file(store, m->number, &c->writes[i].place);
    else if (status == CASCADE_ECORRUPT || status == CASCADE_MISS)
        quarantine(store, m->number);
}

static int move_batch(compaction *c)
{
    int code;

    read_batch(c);
    code = write_batch(c);
    pthread_mutex_lock(&c->store->lock);
    for (uint32_t i = 0; i < c->write_count; i++) {
        int status = c->writes[i].status;

        settle_one(c, i, code == 0);
        if (code == 0 && status == 0)
            c->moved_bytes += csc_content_bytes(csc_content_at(c->store, c->moved[i]->number));
        else if (code == 0 && status != CASCADE_ECORRUPT && status != CASCADE_MISS)
            code = csc_fail(status, "a block in the segment that is emptied cannot be read now");
    }
    csc_mark("compact: published");
    pthread_cond_broadcast(&c->store->progress);
    pthread_mutex_unlock(&c->store->lock);
    return code;
}

/* ---- the deletes ------------------------------------------------------------------------------------
 */

static int log_deletes(compaction *c)
{
    uint32_t where;
    int code =
        c->delete_count ? csc_segment_log(c->store->file, c->deletes, c->delete_count, &where) : 0;

    c->delete_count = 0;
    return code;
}

/* A tombstone outlives every record that it hides. */
static int keep_delete(void *context, const csc_log_entry *entry)
{
    compaction *c = context;

    if (entry->binding.sequence <= c->hides_below)
        return 0;
    if (!c->deletes && !(c->deletes = malloc(DELETES_BATCH * sizeof *c->deletes)))
        return csc_fail(CASCADE_ENOMEM, "no memory for deletes");
    c->deletes[c->delete_count++] = *entry;
    return c->delete_count == DELETES_BATCH ? log_deletes(c) : 0;
}

static int move_deletes(compaction *c)
{
    int code;

    c->hides_below = csc_segment_oldest_bind(c->store->file, c->segment);
    code = csc_segment_deletes(c->store->file, c->segment, keep_delete, c);
    if (code == 0)
        code = log_deletes(c);
    if (code == 0)
        code = c->store->file->ops->sync(c->store->file);
    return code;
}

/* ---- a whole segment --------------------------------------------------------------------------------
 */

/* Keeps to the rate, and lets the writer's own work go first. */
static int give_way(compaction *c, uint64_t began_ns)
{
    cascade_store *store = c->store;
    int code = 0;

    for (;;) {
        uint64_t due_ns = began_ns + (uint64_t)((double)c->moved_bytes * 1e9 /
                                                (double)store->config.background_rate_bytes);

        if (c->urgent || csc_gc_waits(store))
            return 0;
        code = csc_writer_serve(store, due_ns);
        if (code || csc_clock_ns() >= due_ns)
            return code;
    }
}

static int move_all(compaction *c)
{
    uint64_t began_ns = csc_clock_ns();
    size_t next = 0;
    int code = find_movers(c);

    while (code == 0 && next < c->count) {
        size_t from = next;

        take_batch(c, &next);
        if (c->write_count)
            code = move_batch(c);
        else if (next == from)
            code = csc_fail(CASCADE_ENOMEM, "no memory to move a block");
        if (code == 0)
            code = give_way(c, began_ns);
    }
    return code;
}

/* From here no content that was passed may take over a place in the segment from another. */
static void set_compacting(cascade_store *store, uint32_t segment)
{
    pthread_mutex_lock(&store->lock);
    store->compacting = segment;
    pthread_mutex_unlock(&store->lock);
}

int csc_compact_segment(cascade_store *store, uint32_t segment, bool urgent)
{
    compaction *c = calloc(1, sizeof *c);
    int code;

    if (!c)
        return csc_fail(CASCADE_ENOMEM, "no memory to empty a segment");
    c->store = store;
    c->segment = segment;
    c->urgent = urgent;
    set_compacting(store, segment + 1);
    do {
        c->count = 0;
        code = move_all(c);
    } while (code == 0 && c->count); /* nothing lives there: looked at again */
    if (code == 0)
        code = csc_writer_relog(store, segment);
    if (code == 0)
        code = move_deletes(c);
    csc_mark("compact: segment goes");
    if (code == 0)
        code = csc_segment_remove(store->file, segment);
    if (code == 0) {
        csc_count(&store->counters.compactions, 1);
        csc_count(&store->counters.compacted_bytes, c->moved_bytes);
    }
    set_compacting(store, 0);
    free(c->movers);
    free(c->bindings);
    free(c->keys);
    free(c->pieces);
    free(c->buffer);
    free(c->deletes);
    free(c);
    return code;
}

csc_segment_info *csc_segments(cascade_store *store, size_t *count)
{
    size_t room = 0;
    csc_segment_info *infos;

    *count = 0;
    csc_segment_list(store->file, NULL, &room);
    room += 4; /* the writer may start some meanwhile */
    infos = malloc(room * sizeof *infos);
    if (!infos)
        return NULL;
    *count = room;
    csc_segment_list(store->file, infos, count);
    if (*count > room)
        *count = room;
    return infos;
}

bool csc_compact_choose(cascade_store *store, unsigned dead_pct_min, csc_segment_info *chosen)
{
    size_t count;
    csc_segment_info *infos = csc_segments(store, &count);
    uint64_t key_id = (store->keyring ? csc_keyring_first(store->keyring) : 0);
    double best = -1;

    for (size_t i = 0; i < count; i++) {
        const csc_segment_info *info = &infos[i];
        double dead = (double)csc_segment_dead(info) / (double)info->bytes;

        if (info->key_id != key_id)
            dead += 1; /* the key has changed: it goes first, however much of it lives */
        if (!info->ours || !info->sealed || info->segment + 1 == store->compacting ||
            dead * 100 < dead_pct_min || dead <= best)
            continue;
        best = dead;
        *chosen = *info;
    }
    free(infos);
    return best >= 0;
}
