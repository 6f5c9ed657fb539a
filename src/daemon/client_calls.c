/* SPDX-License-Identifier: MIT */
/* The calls of a client, each as one or a few requests. */
#include "daemon/client_calls.h"
#include "base/clock.h"
#include "base/fail.h"
#include "daemon/client_puts.h"

#include <stdlib.h>
#include <string.h>

#define TRIES 3 /* a daemon may die under a request, and its successor too */

static uint64_t patience_ms(const csc_link *link)
{
    return (uint64_t)link->store->config.io_deadline_ms + link->store->config.put_wait_ms;
}

/* A request that may be asked twice. `items` of its size. */
static int ask(csc_link *link, csc_packet *packet, unsigned type, uint64_t value, const void *items,
               size_t count, uint64_t wait_ms)
{
    int code = CASCADE_EAGAIN;

    for (int i = 0; code == CASCADE_EAGAIN && i < TRIES; i++) {
        csc_wire_begin(&packet->header, type, 0, count);
        packet->header.value = value;
        if (count)
            memcpy(&packet->header + 1, items, count * csc_wire_request_item(type));
        code = csc_link_ask(link, packet, wait_ms, NULL, NULL, NULL);
    }
    return code;
}

static csc_wire_name wire_name(const csc_name *name)
{
    csc_wire_name made = {.by_id = name->key == NULL};

    if (name->key) {
        made.key = *name->key;
    } else {
        made.tenant = name->tenant;
        made.id = *name->id;
    }
    return made;
}

static int bring(cascade_store *store, const csc_name *name, csc_held *held)
{
    csc_link *link = csc_client_link(store);
    const csc_wire_name wanted = wire_name(name);
    const csc_wire_loaded *loaded;
    csc_packet packet;
    int code = ask(link, &packet, CSC_WIRE_LOAD, 0, &wanted, 1, patience_ms(link));

    if (code == 0)
        code = csc_link_status(&packet);
    if (code)
        return code;
    loaded = csc_wire_items(&packet.header);
    if (loaded->slot >= CSC_AREA_SLOTS ||
        loaded->content.number >= store->index.header->geometry.regions[CSC_REGION_CONTENTS].max)
        return csc_fail(CASCADE_EAGAIN, "the daemon's answer makes no sense");
    held->slot = store->slots.words + (size_t)store->slots.area * CSC_AREA_SLOTS + loaded->slot;
    held->content = loaded->content.number;
    held->state = atomic_load(&store->index.contents[held->content].state);
    return 0;
}

static int delete_key(cascade_store *store, const cascade_key *key)
{
    csc_link *link = csc_client_link(store);
    uint64_t daemons = atomic_load(&link->daemons);
    csc_packet packet;
    int code = ask(link, &packet, CSC_WIRE_DELETE, 0, key, 1, patience_ms(link));

    if (code == 0)
        code = csc_link_status(&packet);
    /* A daemon that died may have done it, and the next finds nothing. */
    return code == CASCADE_MISS && atomic_load(&link->daemons) != daemons ? 0 : code;
}

/* Only what is not in dram is worth a request. */
static int prefetch(cascade_store *store, const cascade_key *keys, size_t count)
{
    csc_link *link = csc_client_link(store);
    cascade_key wanted[CSC_WIRE_BATCH_MAX];
    csc_packet packet;

    for (size_t i = 0, found = 0; i < count; i++) {
        csc_held held;

        if (csc_hold(store, &(csc_name){.key = &keys[i]}, &held) == 0) {
            if (held.slot)
                csc_slot_release(held.slot);
            else
                wanted[found++] = keys[i];
        }
        if (found == CSC_WIRE_BATCH_MAX || (i + 1 == count && found)) {
            (void)ask(link, &packet, CSC_WIRE_PREFETCH, 0, wanted, found, patience_ms(link));
            found = 0;
        }
    }
    return 0;
}

static void info_of(const csc_wire_info *wire, cascade_info *info)
{
    *info = (cascade_info){.k_bytes = wire->k_bytes,
                           .v_bytes = wire->v_bytes,
                           .tenant = wire->tenant,
                           .references = wire->references,
                           .id = wire->id,
                           .has_id = wire->flags & CSC_WIRE_INFO_ID,
                           .in_dram = wire->flags & CSC_WIRE_INFO_DRAM,
                           .in_file = wire->flags & CSC_WIRE_INFO_FILE,
                           .has_parent = wire->flags & CSC_WIRE_INFO_PARENT,
                           .parent = wire->parent};
}

static int block_info(cascade_store *store, const csc_name *name, cascade_info *info)
{
    csc_link *link = csc_client_link(store);
    const csc_wire_name wanted = wire_name(name);
    csc_packet packet;
    int code = ask(link, &packet, CSC_WIRE_INFO, 0, &wanted, 1, patience_ms(link));

    if (code == 0)
        code = csc_link_status(&packet);
    if (code == 0)
        info_of(csc_wire_items(&packet.header), info);
    return code;
}

/* Keys come in batches; the latest is kept. */
static int key_next(cascade_store *store, uint64_t *cursor, cascade_key *key, cascade_info *info)
{
    daemon_client *client = csc_client_of(store);
    int code = 0;

    pthread_mutex_lock(&client->keys_lock);
    if (client->keys_at == client->key_count || client->keys_cursor != *cursor) {
        csc_packet packet;

        client->key_count = client->keys_at = 0;
        code = ask(&client->link, &packet, CSC_WIRE_KEYS, *cursor, NULL, 0, patience_ms(&client->link));
        if (code == 0)
            code = csc_link_status(&packet);
        if (code == 0) {
            client->key_count = packet.header.count;
            memcpy(client->keys, csc_wire_items(&packet.header),
                   packet.header.count * sizeof client->keys[0]);
        }
    }
    if (code == 0 && client->key_count == 0)
        code = CASCADE_MISS;
    if (code == 0) {
        const csc_wire_info *found = &client->keys[client->keys_at++];

        *key = found->key;
        info_of(found, info);
        *cursor = client->keys_cursor = found->cursor;
    }
    pthread_mutex_unlock(&client->keys_lock);
    return code;
}

static int flush_all(cascade_store *store)
{
    csc_packet packet;
    int code = ask(csc_client_link(store), &packet, CSC_WIRE_FLUSH, 0, NULL, 0, 0);

    return code ? code : csc_link_status(&packet);
}

static int get_stats(cascade_store *store, cascade_stats *stats)
{
    csc_link *link = csc_client_link(store);
    csc_packet packet;
    int code = ask(link, &packet, CSC_WIRE_STATS, 0, NULL, 0, patience_ms(link));

    if (code == 0)
        code = csc_link_status(&packet);
    if (code == 0)
        memcpy(stats, csc_wire_items(&packet.header), sizeof *stats);
    return code;
}

/* A long call: its report comes with its failures too. */
static int run_long(cascade_store *store, csc_packet *packet, void *report, size_t bytes,
                    cascade_progress progress, void *context)
{
    int code = csc_link_ask(csc_client_link(store), packet, 0, progress, context, NULL);

    if (code)
        return code;
    if (packet->header.count)
        memcpy(report, csc_wire_items(&packet->header), bytes);
    return csc_link_status(packet);
}

static int collect(cascade_store *store, bool dry_run, cascade_gc_report *report,
                   cascade_progress progress, void *context)
{
    csc_packet packet;

    csc_wire_begin(&packet.header, CSC_WIRE_GC, 0, 0);
    packet.header.value = dry_run;
    return run_long(store, &packet, report, sizeof *report, progress, context);
}

static int scrub(cascade_store *store, const cascade_scrub_options *options,
                 cascade_verify_report *report, cascade_progress progress, void *context)
{
    csc_wire_scrub wanted = {.verify = !options};
    csc_packet packet;

    if (options) {
        wanted.rate_bytes = options->rate_bytes;
        wanted.fix = options->fix;
    }
    csc_wire_begin(&packet.header, CSC_WIRE_SCRUB, 0, 1);
    memcpy(&packet.header + 1, &wanted, sizeof wanted);
    return run_long(store, &packet, report, sizeof *report, progress, context);
}

static void close_client(cascade_store *store)
{
    daemon_client *client = csc_client_of(store);

    csc_link_close(&client->link);
    pthread_mutex_destroy(&client->keys_lock);
    free(client);
}

static void after_fork(cascade_store *store)
{
    csc_link_after_fork(csc_client_link(store));
}

const csc_daemon_ops csc_daemon_client_ops = {
    .bring = bring,
    .put_many = csc_client_put_many,
    .remove = delete_key,
    .prefetch = prefetch,
    .info = block_info,
    .key_next = key_next,
    .flush = flush_all,
    .stats = get_stats,
    .gc = collect,
    .scrub = scrub,
    .close = close_client,
    .after_fork = after_fork,
};
