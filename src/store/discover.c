/* SPDX-License-Identifier: MIT */
/*
 * What other ranks and nodes put into the directory while the store is open: one look at that. When
 * there is one, and who waits for it, is in discover_when.c.
 *
 * What a refresh finds is collected without the lock, and entered under it in small steps. Unlike at an
 * open, readers and the policy look at the tables meanwhile, and a key that is bound here stays as it
 * is.
 *
 * Places in a segment that another handle is still writing are *weak*: the bytes may not be there yet,
 * and nobody here can say when they are durable. They are good enough to read from, since every read is
 * checked, but not to call a block of our own stored.
 */
#include "base/fail.h"
#include "base/grow.h"
#include "base/log.h"
#include "store/store_private.h"

#include <stdlib.h>
#include <string.h>

#define BATCH       256u
#define ORPHANS_MAX 4096u
#define STOPPED     1

/* A record's content with one of its keys, or a bind without bytes. */
typedef struct found {
    bool is_block;
    bool has_binding;
    bool sealed;
    uint32_t segment;
    csc_content content;
    csc_place place;
    uint64_t written_ns;
    csc_binding binding;
} found;

typedef struct found_delete {
    cascade_key key;
    uint64_t sequence;
} found_delete;

/* A content that was made, and may have got no key. */
typedef struct fresh {
    uint32_t number;
    uint32_t generation;
} fresh;

typedef struct list {
    void *items;
    size_t count, room;
} list;

struct csc_discovery {
    found batch[BATCH];
    size_t count;
    list deletes; /* found_delete: after all binds, so that a content that binds share is known */
    list made;    /* fresh */
    list orphans; /* found: binds whose content was in no record yet; kept from refresh to refresh */
    list gone;    /* uint32_t: segments */
};

static bool push(list *to, const void *item, size_t bytes)
{
    if (!csc_grow(&to->items, &to->room, to->count + 1, bytes)) {
        csc_fail(CASCADE_ENOMEM, "no memory for %zu things found", to->count + 1);
        return false;
    }
    memcpy((char *)to->items + to->count++ * bytes, item, bytes);
    return true;
}

int csc_discovery_make(cascade_store *store)
{
    store->discovery = calloc(1, sizeof *store->discovery);
    return store->discovery ? 0 : csc_fail(CASCADE_ENOMEM, "no memory for the index");
}

void csc_discovery_destroy(cascade_store *store)
{
    struct csc_discovery *d = store->discovery;

    if (d) {
        free(d->deletes.items);
        free(d->made.items);
        free(d->orphans.items);
        free(d->gone.items);
    }
    free(d);
    free(store->deleted);
    csc_copies_destroy(store);
}

bool csc_place_is_weak(const cascade_store *store, const csc_place *place)
{
    unsigned standing = csc_segment_standing(store->file, csc_segment_of(place));

    return (standing & CSC_SEGMENT_IS_GONE) ||
           !(standing & (CSC_SEGMENT_IS_OURS | CSC_SEGMENT_IS_SEALED));
}

bool csc_key_is_foreign(const cascade_store *store, uint32_t number)
{
    uint32_t segment = store->index.keys[number].segment;

    return segment && (csc_segment_standing(store->file, segment - 1) &
                       (CSC_SEGMENT_IS_OURS | CSC_SEGMENT_IS_GONE)) != CSC_SEGMENT_IS_OURS;
}

/* ---- entering. Lock held ------------------------------------------------------------------------ */

/* Later binds and deletes of this store come after all that it has seen. */
static void note_sequence(cascade_store *store, uint64_t sequence)
{
    uint64_t last = atomic_load(&store->index.header->sequence);

    while (last < sequence &&
           !atomic_compare_exchange_weak(&store->index.header->sequence, &last, sequence))
        ;
}

/* A place for a content that has none, or none to rely on; else it is remembered, for the old one may be
 * in a segment that is being emptied. What is dirty will get one of our own; what is shed, none that
 * another is writing. */
static void give_place(cascade_store *store, uint32_t number, const found *item)
{
    const csc_content_entry *entry = csc_content_at(store, number);
    csc_place old = entry->file;
    bool has = csc_place_is_set(&old), needs_one;

    if (store->content_states[number].flags & CSC_CS_DIRTY)
        return;
    needs_one = has ? csc_segment_standing(store->file, csc_segment_of(&old)) & CSC_SEGMENT_IS_GONE
                    : item->sealed || !csc_content_is_shed(store, number);
    if (needs_one) {
        csc_content_set_file(store, number, &item->place);
    } else if (item->sealed && csc_place_is_weak(store, &old)) {
        csc_content_set_file(store, number, &item->place);
        csc_copies_keep(store, number, &old);
    } else if (!csc_segment_is_same_record(&old, &item->place)) {
        csc_copies_keep(store, number, &item->place);
    }
}

static int bind(cascade_store *store, const found *item, uint32_t content)
{
    const csc_binding *binding = &item->binding;
    uint32_t number = csc_key_find(store, &binding->key);
    int code;

    if (number != CSC_NUMBER_NONE) {
        /* A delete here has to hide that one too; what is only lost here does not. */
        store->key_states[number].flags |= CSC_KS_RECORDED | CSC_KS_ELSEWHERE;
        if (csc_key_at(store, number)->sequence == binding->sequence &&
            csc_key_is_foreign(store, number))
            csc_key_at(store, number)->segment = item->segment + 1; /* it is being moved */
        return 0;
    }
    if (csc_deleted_hides(store, binding))
        return 0;
    code = csc_key_bind(store, binding, content, item->segment + 1, &number);
    if (code)
        return code;
    store->key_states[number].flags |= CSC_KS_ELSEWHERE;
    csc_content_note_shared(store, content);
    if (binding->has_parent && csc_key_find(store, &binding->parent) == CSC_NUMBER_NONE)
        csc_want_parent(store, &binding->parent);
    return 0;
}

static int enter_block(cascade_store *store, const found *item, uint32_t *number)
{
    uint32_t written_s = (uint32_t)(item->written_ns / 1000000000);
    bool made;
    int code = csc_content_for(store, &item->content, number, &made);

    if (code)
        return code;
    if (made) {
        fresh note = {*number, csc_content_generation(csc_content_at(store, *number))};

        csc_content_set_file(store, *number, &item->place);
        /* Unnoted it would stay without a key until the next open. */
        if (!push(&store->discovery->made, &note, sizeof note)) {
            csc_content_drop(store, *number);
            return CASCADE_ENOMEM;
        }
    } else {
        give_place(store, *number, item);
    }
    if (written_s > store->content_states[*number].used_s)
        store->content_states[*number].used_s = written_s;
    return 0;
}

static int enter(cascade_store *store, const found *item)
{
    uint32_t number;
    int code = 0;

    if (item->is_block) {
        code = enter_block(store, item, &number);
    } else {
        number = csc_content_find(store, &item->content);
        if (number == CSC_NUMBER_NONE) {
            if (store->discovery->orphans.count < ORPHANS_MAX)
                push(&store->discovery->orphans, item, sizeof *item);
            return 0;
        }
    }
    if (code == 0 && item->has_binding) {
        note_sequence(store, item->binding.sequence);
        code = bind(store, item, number);
    }
    return code;
}

/* Was put here and is not on disk yet: nobody knows which came first, so it stays, with a bind that is
 * later than the delete. */
static void outlive(cascade_store *store, uint32_t number)
{
    csc_key_entry *entry = csc_key_at(store, number);

    entry->sequence = csc_next_sequence(store);
    entry->segment = 0;
    store->key_states[number].flags |= CSC_KS_RECORDED;
    csc_log_push(store, number);
}

/* False: not now, its bind is on its way to disk. */
static bool enter_delete(cascade_store *store, const found_delete *item)
{
    uint32_t number = csc_key_find(store, &item->key), content;

    note_sequence(store, item->sequence);
    csc_deleted_note(store, &item->key, item->sequence);
    if (number == CSC_NUMBER_NONE || csc_key_at(store, number)->sequence >= item->sequence)
        return true;
    if (store->key_states[number].flags & CSC_KS_INFLIGHT)
        return false;
    content = atomic_load(&csc_key_at(store, number)->content);
    if ((store->content_states[content].flags & CSC_CS_DIRTY) || csc_key_at(store, number)->segment == 0)
        outlive(store, number);
    else
        csc_key_unbind(store, number, 0);
    return true;
}

/* ---- collecting ---------------------------------------------------------------------------------- */

/* Enters what was collected. No lock held. */
static int enter_batch(cascade_store *store)
{
    struct csc_discovery *d = store->discovery;
    int code = 0;

    pthread_mutex_lock(&store->lock);
    for (size_t i = 0; i < d->count && code == 0; i++)
        code = enter(store, &d->batch[i]);
    if (store->stopping && code == 0)
        code = STOPPED;
    pthread_mutex_unlock(&store->lock);
    d->count = 0;
    return code;
}

static int collect(cascade_store *store, const found *item)
{
    struct csc_discovery *d = store->discovery;
    int code = d->count == BATCH ? enter_batch(store) : 0;

    d->batch[d->count++] = *item;
    return code;
}

static int see_block(void *context, const csc_segment_source *source, const csc_content *content,
                     uint64_t written_ns, const csc_binding *bindings, size_t binding_count,
                     const csc_place *place)
{
    found item = {.is_block = true,
                  .sealed = source->sealed,
                  .segment = source->segment,
                  .content = *content,
                  .place = *place,
                  .written_ns = written_ns};
    int code = 0;

    if (binding_count == 0)
        return collect(context, &item);
    item.has_binding = true;
    for (size_t i = 0; i < binding_count && code == 0; i++) {
        item.binding = bindings[i];
        code = collect(context, &item);
    }
    return code;
}

static int see_log(void *context, const csc_segment_source *source, const csc_log_entry *entry)
{
    cascade_store *store = context;
    found_delete gone = {entry->binding.key, entry->binding.sequence};
    found item = {.has_binding = true,
                  .segment = source->segment,
                  .content = entry->content,
                  .binding = entry->binding};

    if (entry->is_delete)
        return push(&store->discovery->deletes, &gone, sizeof gone) ? 0 : CASCADE_ENOMEM;
    return collect(store, &item);
}

static void see_gone(void *context, uint32_t segment)
{
    cascade_store *store = context;

    push(&store->discovery->gone, &segment, sizeof segment);
}

/* ---- afterwards ---------------------------------------------------------------------------------- */

/* Lets others have the lock now and then. */
static void breathe(cascade_store *store, size_t done, size_t step)
{
    if (done % step == step - 1) {
        pthread_mutex_unlock(&store->lock);
        pthread_mutex_lock(&store->lock);
    }
}

static void settle_orphans(cascade_store *store)
{
    list orphans = store->discovery->orphans;

    store->discovery->orphans = (list){0};
    for (size_t i = 0; i < orphans.count; i++) {
        const found *item = (const found *)orphans.items + i;

        breathe(store, i, BATCH);
        if (!(csc_segment_standing(store->file, item->segment) & CSC_SEGMENT_IS_GONE))
            (void)enter(store, item); /* or back to where it was */
    }
    free(orphans.items);
}

static void settle_deletes(cascade_store *store)
{
    list *deletes = &store->discovery->deletes;
    found_delete *items = deletes->items;
    size_t kept = 0;

    for (size_t i = 0; i < deletes->count; i++) {
        breathe(store, i, BATCH);
        if (!enter_delete(store, &items[i]))
            items[kept++] = items[i];
    }
    deletes->count = kept;
}

static void settle_made(cascade_store *store)
{
    list *made = &store->discovery->made;

    for (size_t i = 0; i < made->count; i++) {
        const fresh *note = (const fresh *)made->items + i;
        const csc_content_entry *entry = csc_content_at(store, note->number);

        breathe(store, i, BATCH);
        if (csc_content_has(entry, CSC_CONTENT_LIVE) && entry->references == 0 &&
            csc_content_generation(entry) == note->generation)
            csc_content_drop(store, note->number);
    }
    made->count = 0;
}

/* What lay in segments that are gone, and was found nowhere else: blocks that dram holds, with a key
 * that was put here, are written, others are misses. Their ranks dropped them; there is nothing to hide
 * from anybody, so no delete is written. Segments of our own do not go by themselves. */
static void lose_places(cascade_store *store, const bool *gone, size_t count)
{
    static const csc_place nowhere;
    bool ours;

    for (uint32_t number = 0; number < store->contents_made; number++) {
        csc_content_entry *entry = csc_content_at(store, number);

        breathe(store, number, CSC_SCAN_STEP);
        if (!csc_content_has(entry, CSC_CONTENT_LIVE) || !csc_place_is_set(&entry->file) ||
            csc_segment_of(&entry->file) >= count || !gone[csc_segment_of(&entry->file)])
            continue;
        ours = csc_segment_standing(store->file, csc_segment_of(&entry->file)) & CSC_SEGMENT_IS_OURS;
        csc_content_set_file(store, number, &nowhere);
        if (csc_content_has_right_bytes(store, number)) {
            csc_content_send_down(store, number);
        } else {
            csc_count(ours ? &store->counters.lost : &store->counters.drops[CASCADE_TIER_FILE], 1);
            csc_content_lose(store, number, false);
        }
    }
}

/* Binds that went with them. One of another's that is nowhere else may have been deleted, and the delete
 * be gone as well: kept, the key would come back, and be written here for everybody. */
static void lose_binds(cascade_store *store, const bool *gone, size_t count)
{
    for (uint32_t number = 0; number < store->keys_made; number++) {
        csc_key_entry *entry = csc_key_at(store, number);
        uint32_t content;

        breathe(store, number, CSC_SCAN_STEP);
        if ((atomic_load(&entry->state) & 0xff) != CSC_KEY_BOUND || entry->segment == 0 ||
            entry->segment > count || !gone[entry->segment - 1])
            continue;
        if ((store->key_states[number].flags & CSC_KS_OURS) ||
            (csc_segment_standing(store->file, entry->segment - 1) & CSC_SEGMENT_IS_OURS)) {
            entry->segment = 0;
            csc_log_push(store, number);
            continue;
        }
        content = atomic_load(&entry->content);
        if (csc_content_at(store, content)->references == 1)
            csc_count(&store->counters.drops[CASCADE_TIER_FILE], 1);
        csc_key_unbind(store, number, 0);
    }
}

/* `complete`: all that there is was read. If not, what is gone may lie where nobody could look yet, and
 * is judged the next time. */
static int settle(cascade_store *store, bool complete)
{
    list *numbers = &store->discovery->gone;
    bool *gone = NULL;
    size_t count = 0;

    for (size_t i = 0; i < numbers->count && complete; i++)
        if (((const uint32_t *)numbers->items)[i] >= count)
            count = ((const uint32_t *)numbers->items)[i] + 1;
    if (count && !(gone = calloc(count, sizeof *gone)))
        return csc_fail(CASCADE_ENOMEM, "no memory for a list of segments"); /* next time */
    for (size_t i = 0; i < numbers->count && complete; i++)
        gone[((const uint32_t *)numbers->items)[i]] = true;
    if (complete)
        numbers->count = 0;
    pthread_mutex_lock(&store->lock);
    settle_orphans(store);
    settle_deletes(store);
    settle_made(store);
    if (gone) {
        csc_copies_use_all(store);
        lose_binds(store, gone, count); /* first: what has no key any more is not written */
        lose_places(store, gone, count);
    }
    csc_entries_reclaim(store);
    pthread_mutex_unlock(&store->lock);
    free(gone);
    return 0;
}

int csc_discover_look(cascade_store *store)
{
    const csc_segment_visitor visitor = {store, see_block, see_log, see_gone};
    int code = csc_segment_refresh(store->file, &visitor);
    int batch_code = enter_batch(store); /* also of what came before a failure */
    int settle_code;

    code = code ? code : batch_code;
    settle_code = settle(store, code == 0);
    code = code ? code : settle_code;
    if (code < 0 && code != CASCADE_EAGAIN && code != store->look_code)
        csc_log(CSC_LOG_WARNING, "what others wrote is not all known: %s", csc_fail_text());
    return code;
}
