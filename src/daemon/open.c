/* SPDX-License-Identifier: MIT */
/* Opening a store: as a client of the daemon that serves it, else as its owner. */
#include "base/fail.h"
#include "daemon/client_calls.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Names the arena that a store of these options has. */
static csc_arena_options arena_of(const csc_store_config *config)
{
    csc_arena_options arena = {
        .shm_directory = config->shm_directory, .directory = config->directory, .rank = config->rank};

    memcpy(arena.store_uuid, config->settings.uuid, sizeof arena.store_uuid);
    return arena;
}

/* The daemon answers: its arena is mapped, and it is told. */
static int join_daemon(cascade_store *store, daemon_client *client, const csc_wire_welcome *welcome,
                       int arena_fd)
{
    int code;

    store->config.lease_ms = welcome->lease_ms;
    store->config.put_wait_ms = welcome->put_wait_ms;
    store->config.io_deadline_ms = welcome->io_deadline_ms;
    store->config.refresh_ms = welcome->refresh_ms;
    store->daemon = &client->base;
    code = csc_client_handle_map(store, arena_fd);
    close(arena_fd);
    return code ? code : csc_link_attach(&client->link, csc_arena_area(store->arena));
}

/* CASCADE_ENOSTORE: nobody serves it, which only a socket there can tell. */
static int open_as_client(const csc_store_config *config, cascade_store **result)
{
    const csc_arena_options arena = arena_of(config);
    daemon_client *client = calloc(1, sizeof *client);
    csc_wire_welcome welcome;
    cascade_store *store = NULL;
    int arena_fd, code = client ? csc_client_handle_make(config, &store)
                                : csc_fail(CASCADE_ENOMEM, "no memory for a client");

    if (code) {
        free(client);
        return code;
    }
    client->base.ops = &csc_daemon_client_ops;
    client->link.store = store;
    pthread_mutex_init(&client->keys_lock, NULL);
    code = csc_link_open(&client->link, &arena, &welcome, &arena_fd);
    if (code == 0)
        code = join_daemon(store, client, &welcome, arena_fd);
    if (code == 0) {
        *result = store;
        return 0;
    }
    store->daemon = &client->base; /* goes with it */
    csc_client_handle_free(store);
    return code;
}

int cascade_store_open(const cascade_options *given, cascade_store **result)
{
    cascade_options options;
    csc_store_config config;
    csc_io *io = NULL;
    int code = csc_options_copy(given, &options);

    if (code == 0 && !result)
        code = csc_fail(CASCADE_EINVAL, "no place for the handle");
    if (code)
        return code;
    code = csc_io_create(NULL, &io);
    if (code == 0)
        code = csc_config_resolve(&options, io, &config);
    if (code == 0) {
        code = open_as_client(&config, result);
        if (code == CASCADE_ENOSTORE)
            code = csc_store_own(&io, &config, result);
    }
    csc_io_destroy(&io);
    return code;
}
