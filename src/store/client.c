/* SPDX-License-Identifier: MIT */
/* The handle of a client: what of a store's it has. No threads, no tables, no files. */
#include "store/client.h"
#include "base/fail.h"

#include <stdlib.h>

int csc_client_handle_make(const csc_store_config *config, cascade_store **result)
{
    cascade_store *store = calloc(1, sizeof *store);

    if (!store)
        return csc_fail(CASCADE_ENOMEM, "no memory for a store");
    store->config = *config;
    pthread_mutex_init(&store->lock, NULL);
    *result = store;
    return 0;
}

int csc_client_handle_map(cascade_store *store, int arena_fd)
{
    _Atomic uint64_t *head, *ring;
    csc_arena *arena;
    int code = csc_store_register_client(store, arena_fd);

    if (code)
        return code;
    arena = store->arena;
    ring = csc_arena_ring(arena, csc_arena_area(arena), &head);
    csc_index_attach(&store->index, csc_arena_base(arena));
    csc_slots_attach(&store->slots, csc_arena_base(arena), csc_arena_area(arena), NULL);
    csc_touch_attach(&store->touch, ring, head);
    store->magic = CSC_STORE_MAGIC;
    return 0;
}

void csc_client_handle_free(cascade_store *store)
{
    if (store->arena)
        csc_store_unregister(store, false); /* first: a fork from here on has nothing to close */
    if (store->daemon)
        store->daemon->ops->close(store);
    store->magic = 0;
    pthread_mutex_destroy(&store->lock);
    free(store);
}
