/* SPDX-License-Identifier: MIT */
/* Puts of clients: reserve, commit, abandon. */
#include "base/fail.h"
#include "daemon/server_private.h"

#include <string.h>

/* Bytes are in pages, or what the key is bound to settled it: what the flags of a put wait for. */
static int wait_for(csc_request *request, cascade_put *put)
{
    uint32_t flags = (uint32_t)request->asked->value & (CASCADE_PUT_SYNC | CASCADE_PUT_DURABLE);

    return flags ? csc_put_wait(request->server->store, put, flags) : 0;
}

static void report(csc_wire_put_result *result, const cascade_put *put)
{
    result->flags |=
        (put->existed ? CSC_WIRE_EXISTED : 0u) | (put->has_id ? (unsigned)CSC_WIRE_HAS_ID : 0u);
    if (put->has_id)
        result->id = put->id;
}

/* ---- reserve
 * ------------------------------------------------------------------------------------------ */

static csc_put_terms terms_of(const csc_request *request, const csc_wire_put *item, bool may_wait)
{
    return (csc_put_terms){.k_bytes = item->k_bytes,
                           .v_bytes = item->v_bytes,
                           .area = request->client->area,
                           .tail = item->flags & CSC_WIRE_TAIL,
                           .verify = request->asked->value & CASCADE_PUT_VERIFY,
                           .may_wait = may_wait};
}

/* The store took pages for it. */
static int keep(csc_request *request, const csc_reservation *made, csc_wire_put_result *result)
{
    csc_content_entry *entry = csc_content_at(request->server->store, made->content);

    result->content =
        (csc_wire_content){.number = made->content, .generation = csc_content_generation(entry)};
    if (!csc_client_keep(request->server, request->client, &result->content, made))
        return csc_fail(CASCADE_ENOMEM, "no memory for a reservation");
    result->flags |= CSC_WIRE_RESERVED;
    return 0;
}

/* Only the first that takes pages may wait for room: the others wait for what this request holds. */
static int reserve_one(csc_request *request, const csc_wire_put *item, bool may_wait, bool *refused,
                       csc_wire_put_result *result)
{
    cascade_put put = {.key = item->key,
                       .parent = item->parent,
                       .has_parent = item->flags & CSC_WIRE_HAS_PARENT,
                       .tenant = item->tenant};
    csc_put_terms terms = terms_of(request, item, may_wait);
    uint64_t bytes = item->k_bytes + item->v_bytes;
    csc_reservation made;
    int code;

    if (!csc_client_may_reserve(request->server, request->client, bytes))
        return csc_fail(CASCADE_EAGAIN, "the client has reserved as much as it may: commit first");
    code = csc_put_reserve(request->server->store, &put, &terms, refused, &made);
    if (code == 0 && made.content != CSC_NUMBER_NONE)
        return keep(request, &made, result);
    csc_client_not_reserved(request->server, request->client, bytes);
    if (code == CASCADE_ENOSPC && !may_wait)
        return csc_fail(CASCADE_EAGAIN, "no room beside what this request reserved: commit first");
    if (code == 0)
        code = wait_for(request, &put);
    report(result, &put);
    return code;
}

void csc_request_reserve(csc_request *request)
{
    const csc_wire_put *items = csc_wire_items(request->asked);
    csc_wire_put_result *results = (csc_wire_put_result *)(request->answer + 1);
    bool refused = false, may_wait = true;

    csc_put_begin_request(request->server->store);
    request->count = request->asked->count;
    for (uint32_t i = 0; i < request->count; i++) {
        results[i] = (csc_wire_put_result){0};
        results[i].status =
            csc_request_note(request, reserve_one(request, &items[i], may_wait, &refused, &results[i]));
        may_wait = may_wait && !(results[i].flags & CSC_WIRE_RESERVED);
    }
}

/* ---- commit
 * -------------------------------------------------------------------------------------------- */

static int commit_one(csc_request *request, const csc_wire_content *content, csc_reservation *made)
{
    uint32_t flags = (uint32_t)request->asked->value & CASCADE_PUT_VERIFY;

    if (!csc_client_take(request->server, request->client, content, made))
        return csc_fail(CASCADE_EINVAL, "content %u is not reserved for this client", content->number);
    return csc_put_commit(request->server->store, made, flags);
}

static void count_put(csc_request *request, const csc_reservation *made)
{
    pthread_mutex_lock(&request->server->lock);
    request->client->put_blocks++;
    request->client->put_bytes += made->k_bytes + made->v_bytes;
    pthread_mutex_unlock(&request->server->lock);
}

void csc_request_commit(csc_request *request)
{
    const csc_wire_content *items = csc_wire_items(request->asked);
    csc_wire_put_result *results = (csc_wire_put_result *)(request->answer + 1);
    cascade_put puts[CSC_WIRE_BATCH_MAX];

    request->count = request->asked->count;
    for (uint32_t i = 0; i < request->count; i++) {
        csc_reservation made;

        results[i] = (csc_wire_put_result){0};
        results[i].status = csc_request_note(request, commit_one(request, &items[i], &made));
        if (results[i].status)
            continue;
        puts[i] = made.put;
        if (!puts[i].existed)
            count_put(request, &made);
    }
    /* All are on their way before the first is waited for. */
    for (uint32_t i = 0; i < request->count; i++) {
        if (results[i].status)
            continue;
        results[i].status = csc_request_note(request, wait_for(request, &puts[i]));
        report(&results[i], &puts[i]);
    }
}

/* ---- abandon
 * ------------------------------------------------------------------------------------------- */

void csc_request_abandon(csc_request *request)
{
    const csc_wire_content *items = csc_wire_items(request->asked);

    for (uint32_t i = 0; i < request->asked->count; i++) {
        csc_reservation made;

        if (csc_client_take(request->server, request->client, &items[i], &made))
            csc_put_abandon(request->server->store, &made);
        else
            csc_request_note(
                request,
                csc_fail(CASCADE_EINVAL, "content %u is not reserved for this client", items[i].number));
    }
}
