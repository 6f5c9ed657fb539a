/* SPDX-License-Identifier: MIT */
/*
 * Loads for clients: blocks come to dram and end up pinned in slots of the client's own area.
 *
 * On the way they are pinned in the owner's area, and the pin is handed on with the server's lock held,
 * where a client that is gone is known to be: nothing is ever put into an area that may be another's. A
 * look at all slots goes by ascending area, so that it sees the one pin or the other.
 */
#include "base/clock.h"
#include "base/fail.h"
#include "daemon/server_private.h"

#include <assert.h>
#include <string.h>

#define LOADS_AT_ONCE 16u /* so that all connections there can be find slots in the owner's area */
#define BYTES_AT_ONCE (UINT64_C(256) << 20) /* so that a slow disk has them before the deadline */
#define ATTEMPTS      64

static_assert((CSC_SLOT_AREAS - 1) * CSC_CLIENT_CONNECTIONS_MAX * LOADS_AT_ONCE < CSC_AREA_SLOTS,
              "slots for all loads at once");
static_assert(LOADS_AT_ONCE <= CSC_LOAD_BATCH, "a batch is one load");

typedef struct one_load {
    csc_name name;
    csc_wire_loaded *result;
    csc_held held;
    uint64_t begin_ns;
    bool loaded;
} one_load;

/* What is wrong with a block that is neither in dram nor coming. */
static int find(cascade_store *store, one_load *one)
{
    int code = csc_hold(store, &one->name, &one->held);

    if (code == CASCADE_MISS && csc_discover(store))
        code = csc_hold(store, &one->name, &one->held);
    return code;
}

static csc_load load_of(one_load *one, bool in_batch, bool may_wait)
{
    return (csc_load){.content = one->held.content,
                      .state = one->held.state,
                      .forced = true,
                      .no_wait = !may_wait,
                      .whole = true,
                      .pin = &one->held.slot,
                      .in_batch = in_batch};
}

/* Found and not in dram, by itself; also what kept moving when it was one of many. */
static int load_alone(cascade_store *store, one_load *one, bool may_wait)
{
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        csc_load load;
        int code = find(store, one);

        if (code || one->held.slot)
            return code;
        load = load_of(one, false, may_wait);
        code = csc_load_from_file(store, &load);
        one->loaded = one->loaded || code == 0;
        if (one->held.slot || (code && code != CASCADE_EAGAIN))
            return code;
    }
    return csc_fail(CASCADE_EAGAIN, "the block kept leaving dram before it could be pinned");
}

/* Hits and misses as a get counts them. */
static void count(cascade_store *store, const one_load *one, int code)
{
    csc_counters *counters = &store->counters;

    if (code == 0 && !one->loaded) {
        csc_count(&counters->hits[CASCADE_TIER_DRAM], 1);
        return;
    }
    csc_count(&counters->misses[CASCADE_TIER_DRAM], 1);
    if (code == CASCADE_MISS)
        csc_count(&counters->misses[CASCADE_TIER_FILE], 1);
    if (code)
        return;
    csc_count(&counters->hits[CASCADE_TIER_FILE], 1);
    csc_latency(store, CASCADE_OP_GET_FILE, one->begin_ns);
}

/* The client's pin takes the place of the owner's. */
static int hand_over(csc_request *request, one_load *one)
{
    const csc_content_entry *entry = csc_content_at(request->server->store, one->held.content);
    bool taken = csc_client_pin(request->server, request->client, one->held.content, &one->result->slot);

    one->result->content =
        (csc_wire_content){.number = one->held.content, .generation = csc_content_generation(entry)};
    csc_slot_release(one->held.slot);
    return taken ? 0 : csc_fail(CASCADE_ENOSLOT, "no slot of the client's area is free");
}

static void finish(csc_request *request, one_load *one, int code, bool may_wait)
{
    count(request->server->store, one, code);
    if (code == 0)
        code = hand_over(request, one);
    else if (code == CASCADE_ENOSPC && !may_wait)
        code = csc_fail(CASCADE_EAGAIN, "no room beside what this request loaded: release first");
    one->result->status = csc_request_note(request, code);
}

/* `first`: of the request; it alone may wait for room, which its others might be holding. */
static void load_batch(csc_request *request, one_load *ones, uint32_t total, bool first)
{
    cascade_store *store = request->server->store;
    csc_load loads[LOADS_AT_ONCE];
    one_load *missing[LOADS_AT_ONCE];
    uint32_t missing_count = 0;

    for (uint32_t i = 0; i < total; i++) {
        int code = find(store, &ones[i]);

        if (code || ones[i].held.slot) {
            finish(request, &ones[i], code, true);
            continue;
        }
        loads[missing_count] = load_of(&ones[i], true, first && i == 0);
        missing[missing_count++] = &ones[i];
    }
    csc_load_many(store, loads, missing_count);
    for (uint32_t i = 0; i < missing_count; i++) {
        bool may_wait = first && missing[i] == ones;
        int code = loads[i].status;

        missing[i]->loaded = code == 0;
        if (!missing[i]->held.slot && (code == 0 || code == CASCADE_EAGAIN))
            code = load_alone(store, missing[i], may_wait);
        finish(request, missing[i], code, may_wait);
    }
}

static csc_name name_of(const csc_wire_name *item)
{
    return (csc_name){.key = item->by_id ? NULL : &item->key, .tenant = item->tenant, .id = &item->id};
}

/* About how much there is to read for it: a hint, it may be another block's by now. */
static uint64_t bytes_of(cascade_store *store, const csc_name *name)
{
    cascade_info info;

    return csc_info(store, name, &info) == 0 && !info.in_dram ? info.k_bytes + info.v_bytes : 0;
}

void csc_request_load(csc_request *request)
{
    cascade_store *store = request->server->store;
    const csc_wire_name *items = csc_wire_items(request->asked);
    csc_wire_loaded *results = (csc_wire_loaded *)(request->answer + 1);
    one_load ones[LOADS_AT_ONCE];

    request->count = request->asked->count;
    memset(results, 0, request->count * sizeof *results);
    for (uint32_t at = 0; at < request->count;) {
        uint64_t bytes = 0;
        uint32_t total = 0, from = at;

        while (at < request->count && total < LOADS_AT_ONCE && bytes < BYTES_AT_ONCE) {
            csc_name name = name_of(&items[at]);

            bytes += bytes_of(store, &name);
            ones[total++] = (one_load){.name = name, .result = &results[at], .begin_ns = csc_clock_ns()};
            at++;
        }
        load_batch(request, ones, total, from == 0);
    }
    pthread_mutex_lock(&request->server->lock);
    for (uint32_t i = 0; i < request->count; i++)
        request->client->loaded_blocks += results[i].status == 0;
    pthread_mutex_unlock(&request->server->lock);
}
