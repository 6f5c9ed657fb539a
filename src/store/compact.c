/* SPDX-License-Identifier: MIT */
/*
 * Compaction: what lives in a segment is copied to the open one, then the segment goes. In this order:
 * copies written and synced; places published; binds and deletes that only it records, and that are
 * still needed, logged and synced; the file removed. A kill between any two of these leaves both copies,
 * of which an open takes one.
 *
 * A copy keeps its binds with their sequences, so that an open cannot tell it from the original. It is
 * made from the file, whose sums say that it is right, and not from dram.
 *
 * All of it belongs to the writer's thread and happens between rounds, a batch at a time. A content that
 * is being copied is busy; readers go on with the old place, and look again if that is gone.
 */
#include "base/clock.h"
#include "base/fail.h"
#include "base/grow.h"
#include "base/log.h"
#include "base/mark.h"
#include "store/compact_private.h"

#include <stdlib.h>
#include <string.h>

#define BATCH_BYTES  (UINT64_C(16) << 20)
#define PAGE_BYTES   UINT64_C(4096)
#define SECOND_NS    UINT64_C(1000000000)
#define REST_NS      (10 * SECOND_NS) /* after a failure */
#define FAILED_NS    (60 * SECOND_NS) /* before the same segment is tried again */
#define FRAME_BYTES  UINT64_C(8192)   /* a header, and pages that are not full */
#define WORTHY_PCT   15u
#define SOMEWHAT_PCT 5u
#define WASTE_PCT    12u /* dead bytes of all, from which space is given back in the background */

typedef struct csc_compactor compactor;
typedef csc_compact_block block;

int csc_compactor_make(cascade_store *store)
{
    compactor *c = calloc(1, sizeof *c);

    store->compactor = c;
    if (c) {
        c->log = malloc(CSC_COMPACT_LOG_ENTRIES * sizeof *c->log);
        c->log_keys = malloc(CSC_COMPACT_LOG_ENTRIES * sizeof *c->log_keys);
    }
    return c && c->log && c->log_keys ? 0 : csc_fail(CASCADE_ENOMEM, "no memory for the writer");
}

void csc_compactor_destroy(cascade_store *store)
{
    compactor *c = store->compactor;

    if (!c)
        return;
    free(c->numbers);
    free(c->bindings);
    free(c->keys);
    free(c->memory);
    free(c->log);
    free(c->log_keys);
    free(c);
    store->compactor = NULL;
}

/* ---- which ---------------------------------------------------------------------------------- */

csc_segment_info *csc_segments(cascade_store *store, size_t *count)
{
    size_t room = 0;
    csc_segment_info *infos;

    *count = 0;
    csc_segment_list(store->file, NULL, &room);
    room += 4; /* the writer may start some meanwhile */
    infos = malloc(room * sizeof *infos);
    if (!infos) {
        csc_fail(CASCADE_ENOMEM, "no memory for a list of %zu segments", room);
        return NULL;
    }
    *count = room;
    csc_segment_list(store->file, infos, count);
    if (*count > room)
        *count = room;
    return infos;
}

uint64_t csc_segment_dead(const csc_segment_info *info)
{
    uint64_t used = info->live_bytes + info->log_bytes, records = info->bytes - info->index_bytes;

    /* The index lives as far as the records do: it may well be larger than they are, when keys are many
     * and blocks small, and moving them would only make another one. */
    if (used < records)
        used += (uint64_t)((double)info->index_bytes * (double)used / (double)records);
    else
        used += info->index_bytes;
    used += FRAME_BYTES;
    return info->bytes > used ? info->bytes - used : 0;
}

static bool has_failed(const compactor *c, uint32_t segment)
{
    for (unsigned i = 0; i < CSC_COMPACT_FAILED; i++)
        if (c->failed[i].segment == segment + 1 && c->failed[i].until_ns > csc_clock_ns())
            return true;
    return false;
}

/* Whether it goes however much of it lives: nobody will write its index, or it is encrypted with a key
 * that is not the first any more. */
static bool must_go(const cascade_store *store, const csc_segment_info *info)
{
    return info->abandoned || info->key_id != csc_keyring_first(store->keyring);
}

bool csc_compact_is_worthy(const cascade_store *store, csc_compact_which which,
                           const csc_segment_info *info)
{
    uint64_t dead = csc_segment_dead(info);

    if (!info->ours || info->open || has_failed(store->compactor, info->segment))
        return false;
    if (which == CSC_COMPACT_ANY)
        return true;
    if (!info->sealed && !info->abandoned)
        return false;
    if (which == CSC_COMPACT_WHOLE || must_go(store, info))
        return true;
    return dead * 100 >= info->bytes * (which == CSC_COMPACT_WORTHY ? WORTHY_PCT : SOMEWHAT_PCT);
}

bool csc_compact_choose(cascade_store *store, csc_compact_which which, csc_segment_info *found)
{
    size_t count;
    csc_segment_info *infos = csc_segments(store, &count);
    double best = -1;

    for (size_t i = 0; i < count; i++) {
        double dead = (double)csc_segment_dead(&infos[i]) / (double)infos[i].bytes;

        if (must_go(store, &infos[i]))
            dead += 1;
        if (dead <= best || !csc_compact_is_worthy(store, which, &infos[i]))
            continue;
        best = dead;
        *found = infos[i];
    }
    free(infos);
    return best >= 0;
}

bool csc_compact_is_due(cascade_store *store)
{
    size_t count;
    csc_segment_info *infos = csc_segments(store, &count);
    uint64_t bytes = 0, dead = 0;
    bool any = false;

    for (size_t i = 0; i < count; i++) {
        bytes += infos[i].bytes;
        if (!infos[i].ours || (!infos[i].sealed && !infos[i].abandoned))
            continue;
        any |= must_go(store, &infos[i]);
        dead += csc_segment_dead(&infos[i]);
    }
    free(infos);
    return any || dead * 100 > bytes * WASTE_PCT;
}

/* ---- a batch -------------------------------------------------------------------------------- */

static uint64_t padded(uint64_t bytes)
{
    return (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

/* All its binds that are on disk: those recorded elsewhere do no harm here. False: no memory. Lock held.
 */
static bool add_bindings(cascade_store *store, compactor *c, uint32_t number)
{
    size_t most = c->binding_count + CSC_BINDINGS_MAX;

    if (!csc_grow(&c->bindings, &c->binding_room, most, sizeof *c->bindings) ||
        !csc_grow(&c->keys, &c->key_room, most, sizeof *c->keys))
        return false;
    for (uint32_t link = csc_content_at(store, number)->first_key; link && c->binding_count < most;
         link = csc_key_at(store, link - 1)->sibling) {
        const csc_key_entry *key = csc_key_at(store, link - 1);

        if (key->segment == 0)
            continue;
        c->keys[c->binding_count] = link - 1;
        c->bindings[c->binding_count++] = csc_binding_of(key);
    }
    return true;
}

static bool is_still(cascade_store *store, const block *b)
{
    const csc_content_entry *entry = csc_content_at(store, b->number);

    return csc_content_has(entry, CSC_CONTENT_LIVE) && csc_content_generation(entry) == b->generation &&
           memcmp(&entry->file, &b->place, sizeof b->place) == 0;
}

/* Adds a block to the batch, held busy, if it still lives in the segment. False: there is no room for
 * it. Lock held. */
static bool add(cascade_store *store, compactor *c, uint32_t number)
{
    const csc_content_entry *entry = csc_content_at(store, number);
    uint64_t bytes = csc_content_bytes(entry);
    size_t first = c->binding_count;

    if (!csc_content_has(entry, CSC_CONTENT_LIVE) || !csc_place_is_set(&entry->file) ||
        csc_segment_of(&entry->file) + 1 != c->segment)
        return true;
    if (c->batch_count == CSC_COMPACT_BLOCKS ||
        (c->batch_count && c->memory_used + padded(bytes) > BATCH_BYTES) ||
        !add_bindings(store, c, number))
        return false;
    c->batch[c->batch_count] = (block){.number = number,
                                       .generation = csc_content_generation(entry),
                                       .first_binding = (uint32_t)first,
                                       .place = entry->file,
                                       .piece = {NULL, bytes}};
    c->writes[c->batch_count] = (csc_tier_write){
        .content = entry->content,
        .written_ns = store->content_states[number].used_s * SECOND_NS,
        .binding_count = c->binding_count - first,
    };
    c->memory_used += padded(bytes);
    store->content_states[number].busy++;
    c->batch_count++;
    return true;
}

/* Takes the next blocks of the list. */
static int take_batch(cascade_store *store, compactor *c)
{
    uint32_t before = c->next;

    c->batch_count = 0;
    c->binding_count = 0;
    c->memory_used = 0;
    pthread_mutex_lock(&store->lock);
    while (c->next < c->count && add(store, c, c->numbers[c->next]))
        c->next++;
    pthread_mutex_unlock(&store->lock);
    return c->next == before ? csc_fail(CASCADE_ENOMEM, "no memory to move a block with") : 0;
}

/* Reads the batch and quarantines what is damaged; `*code`: the first read that may be right another
 * time. */
static int read_batch(cascade_store *store, compactor *c)
{
    uint64_t at = 0;
    int code = 0;

    if (c->memory_used > c->memory_bytes) {
        free(c->memory);
        c->memory_bytes = c->memory_used > BATCH_BYTES ? c->memory_used : BATCH_BYTES;
        c->memory = aligned_alloc(PAGE_BYTES, c->memory_bytes);
        if (!c->memory) {
            c->memory_bytes = 0;
            return csc_fail(CASCADE_ENOMEM, "no memory to move blocks with");
        }
    }
    for (uint32_t i = 0; i < c->batch_count; i++) {
        block *b = &c->batch[i];

        b->piece.data = c->memory + at;
        at += padded(b->piece.bytes);
        c->reads[i] = (csc_tier_read){
            .place = b->place, .content = c->writes[i].content, .pieces = &b->piece, .piece_count = 1};
    }
    (void)store->file->ops->read(store->file, c->reads, c->batch_count);
    (void)csc_discover_if_bad(store, c->reads, c->batch_count);
    pthread_mutex_lock(&store->lock);
    for (uint32_t i = 0; i < c->batch_count; i++) {
        int status = c->reads[i].status;

        if (status == CASCADE_ECORRUPT || status == CASCADE_MISS) {
            if (is_still(store, &c->batch[i]))
                (void)csc_copies_quarantine(store, c->batch[i].number, status, true);
        } else if (status && code == 0) {
            code = csc_fail(status, "a block in the segment that is emptied cannot be read now");
        }
    }
    pthread_mutex_unlock(&store->lock);
    return code;
}

/* Lock held. */
static void publish(cascade_store *store, compactor *c, const block *b, const csc_tier_write *write)
{
    if (!is_still(store, b))
        return; /* deleted or damaged: the copy is dead */
    csc_content_set_file(store, b->number, &write->place);
    for (size_t i = b->first_binding; i < b->first_binding + write->binding_count; i++) {
        csc_key_entry *key = csc_key_at(store, c->keys[i]);

        if ((atomic_load(&key->state) & 0xff) == CSC_KEY_BOUND && key->segment &&
            key->sequence == c->bindings[i].sequence)
            key->segment = csc_segment_of(&write->place) + 1;
    }
    csc_count(&store->counters.compacted_bytes, csc_content_bytes(csc_content_at(store, b->number)));
}

/* Moves the next blocks. */
static int move_batch(cascade_store *store, compactor *c)
{
    uint32_t count = 0;
    int code = take_batch(store, c);

    if (code == 0 && c->batch_count)
        code = read_batch(store, c);
    for (uint32_t i = 0; i < c->batch_count && code == 0; i++) {
        if (c->reads[i].status)
            continue;
        c->writes[count] = c->writes[i];
        c->writes[count].bindings = c->bindings + c->batch[i].first_binding;
        c->writes[count].pieces = &c->batch[i].piece;
        c->writes[count++].piece_count = 1;
    }
    if (code == 0 && count)
        code = store->file->ops->write(store->file, c->writes, count);
    csc_mark("compact: copied");
    if (code == 0 && count)
        code = store->file->ops->sync(store->file);
    csc_mark("compact: synced");
    count = 0;
    pthread_mutex_lock(&store->lock);
    for (uint32_t i = 0; i < c->batch_count; i++) {
        if (code == 0 && c->reads[i].status == 0) {
            const csc_tier_write *write = &c->writes[count++];

            publish(store, c, &c->batch[i], write);
            c->written += csc_segment_record_bytes(&write->place, &write->content);
        }
        store->content_states[c->batch[i].number].busy--;
    }
    pthread_cond_broadcast(&store->progress);
    pthread_mutex_unlock(&store->lock);
    csc_mark("compact: published");
    return code;
}

/* ---- a segment ------------------------------------------------------------------------------ */

static int list(cascade_store *store, compactor *c)
{
    free(c->numbers);
    c->numbers = NULL;
    c->count = c->next = 0;
    return csc_compact_list(store, c->segment - 1, &c->numbers, &c->count);
}

static void set_leaving(cascade_store *store, uint32_t segment)
{
    pthread_mutex_lock(&store->lock);
    store->segment_leaving = segment;
    store->segment_taken = false;
    pthread_mutex_unlock(&store->lock);
}

static bool is_taken(cascade_store *store)
{
    bool taken;

    pthread_mutex_lock(&store->lock);
    taken = store->segment_taken;
    pthread_mutex_unlock(&store->lock);
    return taken;
}

/* Whether a block that is being written anew may have its only whole record here. */
static bool is_replacing(cascade_store *store, uint32_t segment)
{
    bool replacing;

    pthread_mutex_lock(&store->lock);
    replacing = store->replacing > 0;
    pthread_mutex_unlock(&store->lock);
    return replacing &&
           !(csc_segment_standing(store->file, segment) & (CSC_SEGMENT_IS_MADE | CSC_SEGMENT_IS_SEALED));
}

static void end(cascade_store *store, compactor *c, int code)
{
    if (code) {
        csc_log(CSC_LOG_WARNING, "a segment could not be emptied, it stays: %s", csc_fail_text());
        c->rest_until_ns = csc_clock_ns() + REST_NS;
        c->failed[c->failed_next].segment = c->segment;
        c->failed[c->failed_next].until_ns = csc_clock_ns() + FAILED_NS;
        c->failed_next = (c->failed_next + 1) % CSC_COMPACT_FAILED;
    }
    set_leaving(store, 0);
    free(c->numbers);
    c->numbers = NULL;
    c->count = c->next = 0;
    c->segment = 0;
}

static int begin(cascade_store *store, compactor *c, uint32_t segment)
{
    int code;

    c->segment = segment + 1;
    c->written = 0;
    c->log_count = 0;
    code = list(store, c);
    if (code)
        end(store, c, code);
    return code;
}

/* Everything was moved: the rest of what the segment is needed for, then its end. Its blocks are looked
 * for once more; and again if a place there changed hands meanwhile, so that its new holder may have
 * been passed. Once none is found, none can come to be there. */
static int finish(cascade_store *store, compactor *c)
{
    uint32_t segment = c->segment - 1;
    int code;

    set_leaving(store, c->segment);
    code = list(store, c);
    csc_mark("compact: looked");
    if (code || c->count || is_taken(store))
        return code;
    if (is_replacing(store, segment)) { /* not for long; it is no failure of who asked for it */
        end(store, c, csc_fail(CASCADE_EAGAIN, "a record that may be torn is being written anew"));
        return 0;
    }
    code = csc_compact_move_binds(store, c);
    /* What else was removed must stay so before a delete is judged by it. */
    if (code == 0)
        code = store->file->ops->sync(store->file);
    if (code == 0)
        code = csc_compact_move_hiders(store, c);
    csc_mark("compact: segment goes");
    /* A miss: somebody else removed it, and it is still to be forgotten here. */
    if (code == 0 || code == CASCADE_MISS)
        code = csc_segment_remove(store->file, segment);
    if (code && code != CASCADE_MISS)
        return code;
    csc_count(&store->counters.compactions, 1);
    end(store, c, 0);
    return 0;
}

/* One batch, or the end of the segment; c->segment becomes 0 with that, and after a failure. */
static int step(cascade_store *store, compactor *c)
{
    int code = c->next < c->count ? move_batch(store, c) : finish(store, c);

    if (code)
        end(store, c, code);
    return code;
}

int csc_compact_part(cascade_store *store, uint32_t segment, bool *done)
{
    compactor *c = store->compactor;
    /* One that was begun in the background is ended first. */
    bool is_other = c->segment && c->segment != segment + 1;
    int code;

    /* Between two parts the background, or a round that needs room, may have ended this one. */
    *done = !c->segment && (csc_segment_standing(store->file, segment) & CSC_SEGMENT_IS_GONE);
    if (*done)
        return 0;
    code = c->segment ? 0 : begin(store, c, segment);
    if (code == 0)
        code = step(store, c);
    *done = !is_other && c->segment == 0;
    return code;
}

int csc_compact_segment(cascade_store *store, uint32_t segment)
{
    bool done = false;
    int code = 0;

    while (code == 0 && !done)
        code = csc_compact_part(store, segment, &done);
    return code;
}

void csc_compact_retry(cascade_store *store)
{
    memset(store->compactor->failed, 0, sizeof store->compactor->failed);
    store->compactor->rest_until_ns = 0;
}

void csc_compact_step(cascade_store *store, uint64_t *wake_ns)
{
    compactor *c = store->compactor;
    uint64_t now_ns = csc_clock_ns(), before;
    csc_segment_info found;
    int code = 0;

    *wake_ns = c->rest_until_ns > c->next_ns ? c->rest_until_ns : c->next_ns;
    if (now_ns < *wake_ns)
        return;
    *wake_ns = UINT64_MAX;
    if (!c->segment) {
        if (!csc_compact_is_due(store) || !csc_compact_choose(store, CSC_COMPACT_WORTHY, &found))
            return;
        code = begin(store, c, found.segment);
    }
    before = c->written;
    if (code == 0)
        code = step(store, c);
    c->next_ns = now_ns + (uint64_t)((double)(c->written - before) * (double)SECOND_NS /
                                     (double)store->config.background_rate_bytes);
    *wake_ns = code ? c->rest_until_ns : c->next_ns;
}
