/* SPDX-License-Identifier: MIT */
/* The clients of a server: how they come and go, and what they hold. */
#include "base/clock.h"
#include "base/fail.h"
#include "base/grow.h"
#include "daemon/server_private.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

/* ---- hello ---------------------------------------------------------------------------------------- */

static int check_hello(const cascade_store *store, const csc_wire_hello *hello)
{
    static const uint8_t any[16];

    if (hello->version_least > CSC_WIRE_VERSION || hello->version_most < CSC_WIRE_VERSION)
        return csc_fail(CASCADE_EFORMAT, "the daemon speaks version %u, the client %u to %u",
                        CSC_WIRE_VERSION, hello->version_least, hello->version_most);
    if (memcmp(hello->store_uuid, any, sizeof any) != 0 &&
        memcmp(hello->store_uuid, store->config.settings.uuid, sizeof any) != 0)
        return csc_fail(CASCADE_ENOSTORE, "the daemon serves another store");
    return 0;
}

void csc_client_greet(csc_request *request)
{
    const csc_wire_hello *hello = csc_wire_items(request->asked);
    const csc_store_config *config = &request->server->store->config;
    csc_wire_welcome *welcome = (csc_wire_welcome *)(request->answer + 1);

    if (csc_request_note(request, check_hello(request->server->store, hello)))
        return;
    *welcome = (csc_wire_welcome){.version = CSC_WIRE_VERSION,
                                  .lease_ms = config->lease_ms,
                                  .put_wait_ms = config->put_wait_ms,
                                  .io_deadline_ms = config->io_deadline_ms,
                                  .refresh_ms = config->refresh_ms};
    memcpy(welcome->store_uuid, config->settings.uuid, sizeof welcome->store_uuid);
    memcpy(request->connection->program, hello->program, sizeof hello->program);
    request->pass_fd = request->server->arena_fd;
    request->connection->state = CSC_GREETED;
    request->count = 1;
}

/* ---- those that are gone ----------------------------------------------------------------------------
 */

/* Whether the area is still the client's, as of the last look at the locks. */
static bool has_area(const csc_client *client)
{
    return !client->replaced &&
           atomic_load(&client->slots.claims[client->area]) == (uint32_t)client->pid;
}

static void give_up_reservations(csc_server *server, csc_client *client)
{
    for (size_t i = 0; i < client->reservation_count; i++)
        csc_put_abandon(server->store, &client->reservations[i].made);
    client->reservation_count = 0;
}

/* Lock held. */
static void end(csc_server *server, csc_client *client)
{
    if (client->gone)
        return;
    client->gone = true;
    if (--server->client_count == 0)
        server->idle_since_ns = csc_clock_ns();
    for (csc_connection *connection = server->connections; connection; connection = connection->next)
        if (connection->client == client)
            shutdown(connection->fd, SHUT_RDWR);
}

void csc_client_end(csc_server *server, csc_client *client)
{
    pthread_mutex_lock(&server->lock);
    end(server, client);
    pthread_mutex_unlock(&server->lock);
    csc_server_wake(server);
}

void csc_client_free(csc_client *client)
{
    free(client->reservations);
    free(client);
}

/* Lock held. */
static bool anybody_gone(const csc_server *server)
{
    const csc_client *client = server->clients;

    while (client && !client->gone)
        client = client->next;
    return client != NULL;
}

bool csc_clients_bury(csc_server *server)
{
    csc_client **link = &server->clients;
    bool left = false;

    pthread_mutex_lock(&server->lock);
    if (anybody_gone(server)) {
        pthread_mutex_lock(&server->store->lock);
        csc_arena_clear_dead_clients(server->store->arena); /* their pins, at once */
        pthread_mutex_unlock(&server->store->lock);
    }
    while (*link) {
        csc_client *client = *link;

        if (client->gone && !has_area(client))
            give_up_reservations(server, client);
        if (client->gone && !has_area(client) && client->connections == 0) {
            *link = client->next;
            csc_client_free(client);
            continue;
        }
        left = left || client->gone;
        link = &client->next;
    }
    pthread_mutex_unlock(&server->lock);
    return left;
}

/* ---- attach and join --------------------------------------------------------------------------------
 */

static csc_client *make_client(csc_server *server, const csc_connection *connection, uint32_t area)
{
    csc_client *client = calloc(1, sizeof *client);

    if (!client || getrandom(client->token, sizeof client->token, 0) != sizeof client->token) {
        free(client);
        csc_fail(CASCADE_ENOMEM, "no memory, or nothing random, for a client");
        return NULL;
    }
    client->area = area;
    client->pid = connection->pid;
    client->since_ns = csc_clock_ns();
    memcpy(client->program, connection->program, sizeof client->program);
    csc_slots_attach(&client->slots, csc_arena_base(server->store->arena), area, NULL);
    return client;
}

/* The area was somebody else's: a load for him may have put a pin there after the new holder had cleared
 * it, who has none of his own before he is attached. Lock held. */
static void clear_late_pins(const csc_client *client)
{
    for (uint32_t i = 0; i < CSC_AREA_SLOTS; i++)
        csc_slot_release(&client->slots.words[client->area * CSC_AREA_SLOTS + i]);
}

/* Whoever had the area before is gone, and the new holder writes to no page yet. Lock held. */
static void take_area(csc_server *server, const csc_client *client)
{
    uint32_t *pid = &server->area_pids[client->area];

    for (csc_client *old = server->clients; old; old = old->next)
        if (old->area == client->area) {
            end(server, old);
            give_up_reservations(server, old);
            old->replaced = true;
        }
    if (*pid && *pid != (uint32_t)client->pid)
        clear_late_pins(client);
    *pid = (uint32_t)client->pid;
    pthread_mutex_lock(&server->store->lock);
    csc_recover_end_area(server->store, client->area);
    pthread_mutex_unlock(&server->store->lock);
}

static int enter(csc_server *server, csc_connection *connection, csc_client *client)
{
    int code = 0;

    pthread_mutex_lock(&server->lock);
    if (server->client_count >= CSC_CLIENTS_MAX)
        code = csc_fail(CASCADE_EAGAIN, "the daemon has %u clients", server->client_count);
    else
        code = csc_server_watch(server, connection);
    if (code == 0) {
        take_area(server, client);
        client->connections = 1;
        client->next = server->clients;
        server->clients = client;
        server->client_count++;
        server->strangers--;
        connection->client = client;
        connection->is_first = true;
    }
    pthread_mutex_unlock(&server->lock);
    return code;
}

void csc_client_attach(csc_request *request)
{
    const csc_wire_attach *asked = csc_wire_items(request->asked);
    csc_connection *connection = request->connection;
    csc_wire_token *token = (csc_wire_token *)(request->answer + 1);
    csc_client *client = NULL;
    int code = 0;

    if (asked->area == 0 || asked->area >= CSC_SLOT_AREAS)
        code = csc_fail(CASCADE_EINVAL, "there is no slot area %u for a client", asked->area);
    else if (!(client = make_client(request->server, connection, asked->area)))
        code = CASCADE_ENOMEM;
    else if (!has_area(client))
        code = csc_fail(CASCADE_EINVAL, "slot area %u is not claimed by process %d", asked->area,
                        connection->pid);
    else
        code = enter(request->server, connection, client);
    if (csc_request_note(request, code)) {
        free(client);
        return;
    }
    memcpy(token->token, client->token, sizeof token->token);
    connection->state = CSC_OF_CLIENT;
    request->client = client;
    request->count = 1;
}

void csc_client_join(csc_request *request)
{
    const csc_wire_join *asked = csc_wire_items(request->asked);
    csc_connection *connection = request->connection;
    csc_server *server = request->server;
    csc_client *client;
    int code = 0;

    pthread_mutex_lock(&server->lock);
    for (client = server->clients; client; client = client->next)
        if (!client->gone && client->pid == connection->pid &&
            CRYPTO_memcmp(client->token, asked->token, sizeof client->token) == 0)
            break;
    if (!client) {
        code = csc_fail(CASCADE_EACCES, "no client of process %d has that token", connection->pid);
    } else if (client->connections >= CSC_CLIENT_CONNECTIONS_MAX) {
        code = csc_fail(CASCADE_EAGAIN, "the client has %u connections", client->connections);
    } else {
        client->connections++;
        server->strangers--;
        connection->client = client;
    }
    pthread_mutex_unlock(&server->lock);
    if (csc_request_note(request, code))
        return;
    connection->state = CSC_OF_CLIENT;
    request->client = client;
}

/* ---- what they hold
 * ----------------------------------------------------------------------------------- */

bool csc_client_may_reserve(csc_server *server, csc_client *client, uint64_t bytes)
{
    uint64_t most = csc_arena_capacity(server->store->arena) / CSC_CLIENT_RESERVED_SHARE;
    bool may;

    pthread_mutex_lock(&server->lock);
    /* A single one may be as large as a block can be. */
    may = !client->gone && client->reserved_count < CSC_CLIENT_RESERVATIONS_MAX &&
          (client->reserved_count == 0 || client->reserved_bytes + bytes <= most);
    if (may) {
        client->reserved_count++;
        client->reserved_bytes += bytes;
    }
    pthread_mutex_unlock(&server->lock);
    return may;
}

static void not_reserved(csc_client *client, uint64_t bytes)
{
    client->reserved_count--;
    client->reserved_bytes -= bytes;
}

void csc_client_not_reserved(csc_server *server, csc_client *client, uint64_t bytes)
{
    pthread_mutex_lock(&server->lock);
    not_reserved(client, bytes);
    pthread_mutex_unlock(&server->lock);
}

bool csc_client_keep(csc_server *server, csc_client *client, const csc_wire_content *content,
                     const csc_reservation *made)
{
    csc_reservation unwanted = *made;
    bool kept;

    pthread_mutex_lock(&server->lock);
    kept = !client->gone && csc_grow(&client->reservations, &client->reservation_room,
                                     client->reservation_count + 1, sizeof *client->reservations);
    if (kept)
        client->reservations[client->reservation_count++] =
            (csc_client_reservation){.content = *content, .made = *made};
    else
        not_reserved(client, made->room.bytes);
    pthread_mutex_unlock(&server->lock);
    if (!kept) /* nobody has heard of it */
        csc_put_abandon(server->store, &unwanted);
    return kept;
}

bool csc_client_take(csc_server *server, csc_client *client, const csc_wire_content *content,
                     csc_reservation *made)
{
    bool found = false;

    pthread_mutex_lock(&server->lock);
    for (size_t i = 0; !client->gone && i < client->reservation_count; i++) {
        csc_client_reservation *at = &client->reservations[i];

        if (at->content.number != content->number || at->content.generation != content->generation)
            continue;
        *made = at->made;
        *at = client->reservations[--client->reservation_count];
        not_reserved(client, made->room.bytes);
        found = true;
        break;
    }
    pthread_mutex_unlock(&server->lock);
    return found;
}

bool csc_client_pin(csc_server *server, csc_client *client, uint32_t content, uint32_t *slot)
{
    csc_slot *at = NULL;

    pthread_mutex_lock(&server->lock);
    if (!client->gone)
        at = csc_slot_guard(&client->slots);
    if (at) {
        csc_slot_pin(at, content);
        *slot = (uint32_t)(at - &client->slots.words[(size_t)client->area * CSC_AREA_SLOTS]);
    }
    pthread_mutex_unlock(&server->lock);
    return at != NULL;
}

static uint64_t pins_of(const csc_client *client)
{
    const csc_slot *area = &client->slots.words[(size_t)client->area * CSC_AREA_SLOTS];
    uint64_t pins = 0;

    for (uint32_t i = 0; i < CSC_AREA_SLOTS; i++)
        pins += (atomic_load_explicit(&area[i], memory_order_relaxed) & CSC_SLOT_PIN) != 0;
    return pins;
}

uint32_t csc_clients_list(csc_server *server, csc_wire_client *list, uint32_t room)
{
    uint64_t now_ns = csc_clock_ns();
    uint32_t count = 0;

    pthread_mutex_lock(&server->lock);
    for (const csc_client *client = server->clients; client && count < room; client = client->next) {
        if (client->gone)
            continue;
        list[count] = (csc_wire_client){.pid = (uint32_t)client->pid,
                                        .area = client->area,
                                        .connections = client->connections,
                                        .reservations = client->reserved_count,
                                        .pins = pins_of(client),
                                        .requests = client->requests,
                                        .put_blocks = client->put_blocks,
                                        .put_bytes = client->put_bytes,
                                        .loaded_blocks = client->loaded_blocks,
                                        .connected_ns = now_ns - client->since_ns};
        memcpy(list[count++].program, client->program, sizeof client->program);
    }
    pthread_mutex_unlock(&server->lock);
    return count;
}
