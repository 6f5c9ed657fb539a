/* SPDX-License-Identifier: MIT */
/*
 * Queues of contents and keys, linked through their states: hash and write (a content is in at most one
 * of the two), transit, and the log. A queue may hold entries that were dropped since; their flags keep
 * them from being reused until they are popped, and whoever pops them looks at their state.
 */
#include "store/store_private.h"

/* `next_of(number)` as a macro argument: the link field of an entry. */
#define QUEUE_PUSH(queue, number, next_of)                                                              \
    do {                                                                                                \
        next_of(number) = 0;                                                                            \
        if ((queue)->tail)                                                                              \
            next_of((queue)->tail - 1) = (number) + 1;                                                  \
        else                                                                                            \
            (queue)->head = (number) + 1;                                                               \
        (queue)->tail = (number) + 1;                                                                   \
        (queue)->count++;                                                                               \
    } while (0)

#define QUEUE_POP(queue, number, next_of)                                                               \
    do {                                                                                                \
        (number) = (queue)->head - 1; /* CSC_NUMBER_NONE when empty */                                  \
        if ((queue)->head) {                                                                            \
            (queue)->head = next_of(number);                                                            \
            if ((queue)->head == 0)                                                                     \
                (queue)->tail = 0;                                                                      \
            (queue)->count--;                                                                           \
        }                                                                                               \
    } while (0)

#define WORK_NEXT(number)    store->content_states[number].queue_next
#define TRANSIT_NEXT(number) store->content_states[number].transit_next
#define LOG_NEXT(number)     store->key_states[number].queue_next

void csc_work_push(cascade_store *store, csc_queue *queue, uint32_t number)
{
    QUEUE_PUSH(queue, number, WORK_NEXT);
}

uint32_t csc_work_pop(cascade_store *store, csc_queue *queue)
{
    uint32_t number;

    QUEUE_POP(queue, number, WORK_NEXT);
    return number;
}

void csc_transit_push(cascade_store *store, uint32_t number)
{
    csc_content_state *state = &store->content_states[number];

    if (state->flags & CSC_CS_TRANSIT_QUEUED)
        return; /* it left dram and came back before it was popped */
    state->flags |= CSC_CS_TRANSIT_QUEUED;
    QUEUE_PUSH(&store->transit_queue, number, TRANSIT_NEXT);
}

uint32_t csc_transit_pop(cascade_store *store)
{
    uint32_t number;

    QUEUE_POP(&store->transit_queue, number, TRANSIT_NEXT);
    if (number != CSC_NUMBER_NONE)
        store->content_states[number].flags &= (uint16_t)~CSC_CS_TRANSIT_QUEUED;
    return number;
}

void csc_log_push(cascade_store *store, uint32_t key)
{
    csc_key_state *state = &store->key_states[key];

    /* A binding on its way to disk comes back with the ticket it has, should it not get there. */
    if ((state->flags & CSC_KS_LOGGED) ||
        ((state->flags & CSC_KS_INFLIGHT) &&
         (atomic_load(&csc_key_at(store, key)->state) & 0xff) == CSC_KEY_BOUND))
        return;
    state->flags |= CSC_KS_LOGGED;
    state->ticket = ++store->ticket;
    QUEUE_PUSH(&store->log_queue, key, LOG_NEXT);
    pthread_cond_signal(&store->write_work);
}

uint32_t csc_log_pop(cascade_store *store)
{
    uint32_t key;

    QUEUE_POP(&store->log_queue, key, LOG_NEXT);
    if (key != CSC_NUMBER_NONE)
        store->key_states[key].flags &= ~(uint32_t)CSC_KS_LOGGED;
    return key;
}

void csc_log_unpop(cascade_store *store, uint32_t key)
{
    csc_queue *queue = &store->log_queue;
    uint32_t *link = &queue->head;

    /* A flush looks at the head alone: tickets stay in order. */
    while (*link && store->key_states[*link - 1].ticket < store->key_states[key].ticket)
        link = &LOG_NEXT(*link - 1);
    store->key_states[key].flags |= CSC_KS_LOGGED;
    LOG_NEXT(key) = *link;
    if (*link == 0)
        queue->tail = key + 1;
    *link = key + 1;
    queue->count++;
}

static void dirty_add(cascade_store *store, uint32_t number)
{
    csc_content_state *state = &store->content_states[number];

    if (state->flags & CSC_CS_DIRTY)
        return;
    state->flags |= CSC_CS_DIRTY;
    state->ticket = ++store->ticket;
    state->dirty_next = 0;
    state->dirty_previous = store->dirty_tail;
    if (store->dirty_tail)
        store->content_states[store->dirty_tail - 1].dirty_next = number + 1;
    else
        store->dirty_head = number + 1;
    store->dirty_tail = number + 1;
    store->dirty_bytes += csc_content_bytes(csc_content_at(store, number));
}

void csc_dirty_remove(cascade_store *store, uint32_t number)
{
    csc_content_state *state = &store->content_states[number];

    if (!(state->flags & CSC_CS_DIRTY))
        return;
    store->replacing -= (state->flags & CSC_CS_REPLACES) != 0;
    state->flags &= (uint16_t) ~(CSC_CS_DIRTY | CSC_CS_REPLACES);
    if (state->dirty_previous)
        store->content_states[state->dirty_previous - 1].dirty_next = state->dirty_next;
    else
        store->dirty_head = state->dirty_next;
    if (state->dirty_next)
        store->content_states[state->dirty_next - 1].dirty_previous = state->dirty_previous;
    else
        store->dirty_tail = state->dirty_previous;
    store->dirty_bytes -= csc_content_bytes(csc_content_at(store, number));
}

void csc_content_replaces(cascade_store *store, uint32_t number)
{
    csc_content_state *state = &store->content_states[number];

    store->replacing += !(state->flags & CSC_CS_REPLACES);
    state->flags |= CSC_CS_REPLACES;
}

void csc_content_send_down(cascade_store *store, uint32_t number)
{
    csc_content_state *state = &store->content_states[number];

    dirty_add(store, number);
    if (state->flags & (CSC_CS_HASHING | CSC_CS_WRITING))
        return;
    if (csc_content_has(csc_content_at(store, number), CSC_CONTENT_DIGEST)) {
        state->flags |= CSC_CS_WRITING;
        csc_work_push(store, &store->write_queue, number);
        pthread_cond_signal(&store->write_work);
    } else {
        state->flags |= CSC_CS_HASHING;
        csc_work_push(store, &store->hash_queue, number);
        pthread_cond_signal(&store->hash_work);
    }
}

void csc_content_write_again(cascade_store *store, uint32_t number)
{
    for (uint32_t link = csc_content_at(store, number)->first_key; link;
         link = csc_key_at(store, link - 1)->sibling) {
        csc_key_at(store, link - 1)->sequence = csc_next_sequence(store);
        csc_key_at(store, link - 1)->segment = 0;
        store->key_states[link - 1].flags |= CSC_KS_RECORDED; /* a delete still has something to hide */
    }
    csc_content_send_down(store, number);
}
