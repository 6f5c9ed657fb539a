/* SPDX-License-Identifier: MIT */
/* What each request of a client does, but for puts and loads. */
#include "base/clock.h"
#include "base/fail.h"
#include "daemon/server_private.h"

#include <string.h>

#define PROGRESS_NS UINT64_C(200000000)

static_assert(sizeof(csc_wire_key) == sizeof(cascade_key), "keys of a packet are an array of keys");

static void do_delete(csc_request *request)
{
    const csc_wire_key *items = csc_wire_items(request->asked);
    csc_wire_status *results = (csc_wire_status *)(request->answer + 1);

    request->count = request->asked->count;
    for (uint32_t i = 0; i < request->count; i++)
        results[i] =
            (csc_wire_status){.status = csc_request_note(
                                  request, cascade_block_delete(request->server->store, &items[i].key))};
}

static void do_prefetch(csc_request *request)
{
    const csc_wire_key *items = csc_wire_items(request->asked);

    csc_request_note(request,
                     cascade_prefetch(request->server->store, &items->key, request->asked->count));
}

static csc_wire_info info_item(const cascade_key *key, const cascade_info *info)
{
    return (csc_wire_info){.key = *key,
                           .parent = info->parent,
                           .k_bytes = info->k_bytes,
                           .v_bytes = info->v_bytes,
                           .tenant = info->tenant,
                           .references = info->references,
                           .id = info->id,
                           .flags = (info->has_id ? (unsigned)CSC_WIRE_INFO_ID : 0u) |
                                    (info->in_dram ? (unsigned)CSC_WIRE_INFO_DRAM : 0u) |
                                    (info->in_file ? (unsigned)CSC_WIRE_INFO_FILE : 0u) |
                                    (info->has_parent ? (unsigned)CSC_WIRE_INFO_PARENT : 0u)};
}

static void do_info(csc_request *request)
{
    const csc_wire_name *name = csc_wire_items(request->asked);
    cascade_store *store = request->server->store;
    cascade_info info = {0};
    csc_wire_info *result = (csc_wire_info *)(request->answer + 1);
    int code = name->by_id ? cascade_content_info(store, name->tenant, &name->id, &info)
                           : cascade_block_info(store, &name->key, &info);

    *result = info_item(&name->key, &info);
    result->status = csc_request_note(request, code);
    request->count = 1;
}

/* Some keys are better than an error: what is wrong with the next one is told by the next request. */
static void do_keys(csc_request *request)
{
    csc_wire_info *results = (csc_wire_info *)(request->answer + 1);
    uint64_t cursor = request->asked->value;
    int code = 0;

    while (code == 0 && request->count < CSC_WIRE_BATCH_MAX) {
        cascade_key key;
        cascade_info info;

        code = cascade_key_next(request->server->store, &cursor, &key, &info);
        if (code)
            break;
        results[request->count] = info_item(&key, &info);
        results[request->count++].cursor = cursor;
    }
    if (code < 0 && request->count == 0)
        csc_request_note(request, code);
    request->answer->value = cursor;
}

static void do_flush(csc_request *request)
{
    csc_request_note(request, cascade_store_flush(request->server->store));
}

static void do_stats(csc_request *request)
{
    csc_wire_stats *result = (csc_wire_stats *)(request->answer + 1);

    *result = (csc_wire_stats){.stats.struct_bytes = sizeof result->stats};
    csc_request_note(request, cascade_store_stats(request->server->store, &result->stats));
    request->count = 1;
}

static void do_clients(csc_request *request)
{
    request->count =
        csc_clients_list(request->server, (csc_wire_client *)(request->answer + 1), CSC_WIRE_BATCH_MAX);
}

/* ---- with progress
 * ------------------------------------------------------------------------------------ */

typedef struct long_request {
    csc_request *request;
    uint64_t told_ns;
} long_request;

static int tell(void *context, uint64_t done_bytes, uint64_t total_bytes)
{
    long_request *at = context;
    uint64_t now_ns = csc_clock_ns();

    if (now_ns - at->told_ns < PROGRESS_NS)
        return 0;
    at->told_ns = now_ns;
    return !csc_connection_progress(at->request, done_bytes, total_bytes);
}

static void do_gc(csc_request *request)
{
    csc_wire_gc_report *result = (csc_wire_gc_report *)(request->answer + 1);
    long_request at = {.request = request};

    *result = (csc_wire_gc_report){0};
    csc_request_note(request, cascade_store_gc(request->server->store, request->asked->value,
                                               &result->report, tell, &at));
    request->count = 1;
}

static void do_scrub(csc_request *request)
{
    const csc_wire_scrub *asked = csc_wire_items(request->asked);
    csc_wire_scrub_report *result = (csc_wire_scrub_report *)(request->answer + 1);
    cascade_scrub_options options = {
        .struct_bytes = sizeof options, .rate_bytes = asked->rate_bytes, .fix = asked->fix};
    cascade_store *store = request->server->store;
    long_request at = {.request = request};

    *result = (csc_wire_scrub_report){0};
    csc_request_note(request, asked->verify
                                  ? cascade_store_verify(store, &result->report, tell, &at)
                                  : cascade_store_scrub(store, &options, &result->report, tell, &at));
    request->count = 1;
}

/* ---- the table
 * ------------------------------------------------------------------------------------------ */

static void (*const handlers[CSC_WIRE_TYPE_COUNT])(csc_request *request) = {
    [CSC_WIRE_RESERVE] = csc_request_reserve,
    [CSC_WIRE_COMMIT] = csc_request_commit,
    [CSC_WIRE_ABANDON] = csc_request_abandon,
    [CSC_WIRE_LOAD] = csc_request_load,
    [CSC_WIRE_DELETE] = do_delete,
    [CSC_WIRE_PREFETCH] = do_prefetch,
    [CSC_WIRE_INFO] = do_info,
    [CSC_WIRE_KEYS] = do_keys,
    [CSC_WIRE_FLUSH] = do_flush,
    [CSC_WIRE_STATS] = do_stats,
    [CSC_WIRE_CLIENTS] = do_clients,
    [CSC_WIRE_GC] = do_gc,
    [CSC_WIRE_SCRUB] = do_scrub,
};

void csc_request_serve(csc_request *request)
{
    pthread_mutex_lock(&request->server->lock);
    request->client->requests++;
    pthread_mutex_unlock(&request->server->lock);
    handlers[request->asked->type](request);
}
