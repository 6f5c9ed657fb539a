/* SPDX-License-Identifier: MIT */
/* A handle that is a client of a daemon: what it has beside the mapping (store/client.h). */
#ifndef CSC_DAEMON_CLIENT_CALLS_H
#define CSC_DAEMON_CLIENT_CALLS_H

#include "daemon/client_link.h"

typedef struct daemon_client {
    struct csc_daemon base;
    csc_link link;
    pthread_mutex_t keys_lock;
    csc_wire_info keys[CSC_WIRE_BATCH_MAX]; /* of cascade_key_next, read ahead */
    uint64_t keys_cursor;                   /* before keys[keys_at] */
    uint32_t key_count, keys_at;
} daemon_client;

extern const csc_daemon_ops csc_daemon_client_ops;

static inline daemon_client *csc_client_of(cascade_store *store)
{
    return (daemon_client *)store->daemon;
}
static inline csc_link *csc_client_link(cascade_store *store)
{
    return &csc_client_of(store)->link;
}

#endif
