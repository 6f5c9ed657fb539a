/* SPDX-License-Identifier: MIT */
/*
 * For tests: a client of the daemon down to its packets, that can also do what no client of ours does.
 * May be used in a child: what fails there leaves it.
 */
#ifndef CSC_DAEMON_RAW_CLIENT_H
#define CSC_DAEMON_RAW_CLIENT_H

#include "arena/arena.h"
#include "daemon/socket_path.h"
#include "format/wire.h"
#include "index/index.h"
#include "index/slots.h"

typedef struct raw_client {
    char name[CSC_SOCKET_NAME_BYTES];
    int fd;
    uint32_t serial;
    uint8_t token[CSC_WIRE_TOKEN_BYTES];
    csc_arena *arena;
    csc_index index;
    csc_slots slots;
    unsigned progress; /* packets of it that came */
    uint64_t packet[CSC_WIRE_PACKET_MAX / 8];
} raw_client;

/** Sends a request and waits for its answer, which lies in the client until the next; NULL: the
 * connection was closed. `*passed`: a descriptor that came with it, or -1; may be NULL. */
const csc_wire_header *raw_ask(raw_client *client, unsigned type, uint64_t value, const void *items,
                               size_t count, int *passed);
/** The status of an answer to a request without further interest. */
int raw_status(raw_client *client, unsigned type, uint64_t value, const void *items, size_t count);
/** Sends bytes that may be no packet. */
void raw_send(raw_client *client, const void *bytes, size_t count);

/** Connects and says hello; maps the arena, claims an area. */
void raw_hello(raw_client *client, const char *arena_path);
/** And attaches: it is a client. */
void raw_attach(raw_client *client, const char *arena_path);
/** Another connection of `first`. Returns the answer's status. */
int raw_join(raw_client *client, const raw_client *first);
/** Ends the connection alone. */
void raw_hang_up(raw_client *client);
/** Ends all of it. */
void raw_close(raw_client *client);

/** Puts the blocks `first`, `first` + 1, ... whose seed is their number; returns the commit's status. */
int raw_put(raw_client *client, uint64_t first, size_t count, size_t bytes, uint32_t flags);
csc_wire_put raw_put_item(uint64_t number, size_t bytes);
csc_wire_name raw_name(uint64_t number);
/** Reserves pages for one block. */
csc_wire_content raw_reserve(raw_client *client, uint64_t number, size_t bytes);
/** Fills a reserved content with a seed's bytes. */
void raw_fill(raw_client *client, const csc_wire_content *content, size_t bytes, uint64_t seed);
/** Whether a loaded block is that of the seed, and its slot pins it. */
bool raw_is(raw_client *client, const csc_wire_loaded *loaded, size_t bytes, uint64_t seed);
void raw_release(raw_client *client, uint32_t slot);

#endif
