/* SPDX-License-Identifier: MIT */
/*
 * Room in dram: who leaves, and how long a put waits for it.
 *
 * Only clean blocks leave, so that leaving costs nothing but metadata: what the policy refused first,
 * then what it values least. A leased block yields before a put fails, a pinned one never. When
 * everything is dirty the caller waits for the writer.
 *
 * A block whose file copy the budget took is clean too, and gone when it leaves: the file policy, which
 * hears of the same reads, has valued it less than all that files hold. Written again it would push out
 * another, which dram may hold as well, and so on: where dram is larger than the budget that has no end.
 *
 * What others have too is read there, and not deleted: such a block goes only after a look at what they
 * wrote. A look is short, and a victim of the policy's is waited for rather than passed over; but where
 * it takes long, or a put may wait no longer, such blocks are passed over. What the policy refused is
 * not waited for: one that it kept may go meanwhile.
 */
#include "base/clock.h"
#include "base/fail.h"
#include "store/store_private.h"

#define WAIT_STEP_NS     UINT64_C(20000000)
#define FEW_PIECES_WAITS 5u

typedef struct leave_test {
    cascade_store *store;
    csc_slots_view pins;
    uint64_t now_ms;
    bool leased_too;
    bool has_looked;
    bool pass_over;  /* what waits for a look */
    bool wants_look; /* result */
} leave_test;

/* Whether a block that may leave has to wait for a look. */
static bool waits(leave_test *test, uint32_t number)
{
    bool it_does = !test->has_looked && csc_content_is_shed(test->store, number);

    test->wants_look |= it_does;
    return it_does;
}

static bool may_leave(void *context, uint32_t number)
{
    leave_test *test = context;
    const csc_content_entry *entry = csc_content_at(test->store, number);

    if (!csc_content_has(entry, CSC_CONTENT_LIVE | CSC_CONTENT_RESIDENT) ||
        (test->store->content_states[number].flags & CSC_CS_DIRTY) ||
        test->store->content_states[number].busy || csc_slots_view_pins(&test->pins, number) ||
        (!test->leased_too && csc_lease_holds(entry, test->now_ms)))
        return false;
    return !test->pass_over || !waits(test, number);
}

/* Whether what others wrote is known well enough for a shed block to go. A look that the request asked
 * for is good for one attempt, also where the next is due already. */
static bool has_looked(const cascade_store *store, csc_room_request *request)
{
    if (request->look == 0 || store->looks_done < request->look)
        return !csc_discover_is_due(store, csc_clock_ns());
    request->look = 0;
    return true;
}

/* Takes a block out of dram that may leave. False: a pin came in between. */
static bool leave(cascade_store *store, uint32_t number)
{
    if (csc_content_is_shed(store, number) && !csc_copies_use_foreign(store, number))
        return csc_content_discard(store, number);
    return csc_content_evict(store, number);
}

/* Evicts refused newcomers that are clean by now; those that are not go back to the end. */
static uint64_t evict_transit(cascade_store *store, leave_test *test, uint64_t bytes)
{
    uint64_t freed = 0;

    for (uint32_t tries = store->transit_queue.count; tries && freed < bytes; tries--) {
        uint32_t number = csc_transit_pop(store);
        csc_content_entry *entry = csc_content_at(store, number);
        uint64_t size = csc_content_bytes(entry);

        if (!csc_content_has(entry, CSC_CONTENT_LIVE)) {
            freed += size; /* reclaimed with the retired */
        } else if (!(store->content_states[number].flags & CSC_CS_TRANSIT)) {
            continue;
        } else if (may_leave(test, number) && !waits(test, number) && leave(store, number)) {
            freed += size;
        } else {
            csc_transit_push(store, number);
        }
    }
    return freed;
}

/* One attempt to free `bytes`. Returns what was freed; 0: nothing can leave now. */
static uint64_t make_room(cascade_store *store, csc_room_request *request, bool *asked)
{
    leave_test test = {.store = store,
                       .pins = {.pins = store->pins, .room = CSC_PINS_MAX},
                       .now_ms = csc_clock_coarse_ms(),
                       .has_looked = has_looked(store, request),
                       .pass_over = request->hurry || csc_discover_is_slow(store)};
    uint64_t freed, capacity = csc_arena_capacity(store->arena);
    bool ticked = false;

    csc_touches_pass_on(store);
    csc_entries_reclaim(store);
    csc_slots_look(&store->slots, &test.pins);
    freed = evict_transit(store, &test, request->bytes);
    while (freed < request->bytes) {
        uint32_t victim = csc_policy_victim(store->policy, may_leave, &test);

        if (victim == CSC_POLICY_NONE && request->ahead)
            break; /* a guess takes nothing from those who asked */
        if (victim == CSC_POLICY_NONE && !test.leased_too) {
            test.leased_too = true;
            continue;
        }
        if (victim == CSC_POLICY_NONE && !ticked && store->resident_bytes > store->dirty_bytes) {
            /* What could go is of the request at hand, which is larger than dram: then its older blocks
             * make way for its newer ones. */
            csc_policy_tick(store->policy);
            ticked = true;
            continue;
        }
        if (victim == CSC_POLICY_NONE)
            break;
        if (!*asked && !request->forced) {
            *asked = true;
            request->refused =
                csc_policy_refuses(store->policy, victim, request->item, request->bytes, request->tail);
        }
        /* A refused newcomer only passes through: it takes a victim's place while few do, else it waits
         * for one of its kind to leave. */
        if (request->refused && (!(request->may_wait || request->ahead) ||
                                 store->transit_bytes > capacity / CSC_TRANSIT_SHARE))
            break;
        if (waits(&test, victim))
            break;
        if (leave(store, victim))
            freed += csc_content_bytes(csc_content_at(store, victim));
        else
            csc_slots_look(&store->slots, &test.pins); /* a pin came in between: look again */
    }
    if (test.wants_look && request->look == 0)
        request->look = csc_discover_ask(store);
    return freed;
}

/* Nothing can leave now: waits for the writer or a look, or says why that is no use. A pin that ends
 * tells nobody, so the wait is in steps. Lock held. */
static int wait_for_room(cascade_store *store, const csc_room_request *request, uint64_t deadline_ns)
{
    uint64_t step_ns = csc_clock_ns() + WAIT_STEP_NS;

    if (store->file_error && request->look == 0)
        return csc_fail(CASCADE_ENOSPC, "dram is full and the file tier refuses writes (%s)",
                        store->file_error_text);
    if (request->hurry && request->look)
        return csc_fail(CASCADE_ETIMEDOUT,
                        "dram has no room for %llu bytes: others may have what could go, and their "
                        "records could not be looked for in time",
                        (unsigned long long)request->bytes);
    if (request->hurry)
        return csc_fail(store->dirty_bytes ? CASCADE_ETIMEDOUT : CASCADE_ENOSPC,
                        "dram has no room for %llu bytes: %llu bytes wait for the disk, the rest is "
                        "pinned or not to be had",
                        (unsigned long long)request->bytes, (unsigned long long)store->dirty_bytes);
    csc_store_wait(store, step_ns < deadline_ns ? step_ns : deadline_ns);
    return 0;
}

int csc_room_take(cascade_store *store, csc_room_request *request, csc_extents *extents)
{
    uint64_t deadline_ns = csc_clock_ns() + store->config.put_wait_ms * UINT64_C(1000000), evicted = 0;
    unsigned waits = 0;
    bool asked = false;

    request->refused = false;
    for (;;) {
        /* Few pieces are worth up to twice a block's bytes of further evictions, not more. */
        uint32_t runs_max = evicted > 3 * request->bytes ? 0 : CSC_RUNS_MAX;
        uint64_t freed;
        int code = csc_arena_allocate(store->arena, request->bytes, runs_max, extents);

        if (code == 0)
            return 0;
        request->hurry = csc_clock_ns() >= deadline_ns;
        pthread_mutex_lock(&store->lock);
        freed = make_room(store, request, &asked);
        evicted += freed;
        code = 0;
        if (freed == 0) {
            /* Many pieces are better than no room, but better room may soon be had. */
            bool promising = request->look || (store->dirty_bytes && !store->file_error);
            bool patient =
                request->may_wait && promising && !request->hurry && waits++ < FEW_PIECES_WAITS;

            if (!patient && csc_arena_allocate(store->arena, request->bytes, 0, extents) == 0) {
                pthread_mutex_unlock(&store->lock);
                return 0;
            }
            code = request->may_wait ? wait_for_room(store, request, deadline_ns)
                                     : csc_fail(CASCADE_ENOSPC, "dram has no room for %llu bytes now",
                                                (unsigned long long)request->bytes);
        }
        pthread_mutex_unlock(&store->lock);
        if (code)
            return code;
    }
}

void csc_room_keep(cascade_store *store)
{
    uint64_t capacity = csc_arena_capacity(store->arena), used = csc_arena_used(store->arena);
    csc_room_request request = {.item = CSC_NUMBER_NONE, .forced = true, .look = store->keeper_look};
    bool asked = true;

    store->keeper_look = 0; /* of use at once or not at all */
    csc_touches_pass_on(store);
    csc_entries_reclaim(store);
    if (used <= capacity / 100 * store->config.watermark_high_pct ||
        store->config.watermark_high_pct >= 100)
        return;
    request.bytes = used - capacity / 100 * store->config.watermark_low_pct;
    if (make_room(store, &request, &asked))
        pthread_cond_broadcast(&store->progress);
    store->keeper_look = request.look;
}
