/* SPDX-License-Identifier: MIT */
/*
 * A client's connections to its daemon. One request at a time on each; a thread that asks takes one that
 * is idle, or makes another. The first connection is the client: when it ends, the daemon gives up what
 * the client held but for its pins, which are the area's.
 *
 * A daemon that died is looked for again. Its successor has the same arena, so the mapping, the pins and
 * the views stay as they are. What was reserved is not: from the moment that the client is attached
 * to the new one, those pages are others'. So they are filled under `filling`, after a look at
 * `daemons`, which says that the daemon that reserved them is still the one.
 */
#ifndef CSC_DAEMON_CLIENT_LINK_H
#define CSC_DAEMON_CLIENT_LINK_H

#include "daemon/socket_path.h"
#include "format/wire.h"
#include "store/client.h"
#include <pthread.h>

#define CSC_LINES_MAX 8u

typedef struct csc_line {
    int fd; /* -1: none */
    uint32_t serial;
    uint64_t daemon; /* that is at its other end: `daemons` when it was made */
    bool busy;
} csc_line;

typedef struct csc_link {
    cascade_store *store;
    char name[CSC_SOCKET_NAME_BYTES];
    pthread_mutex_t lock;
    pthread_cond_t returned; /* a connection is idle again */
    pthread_rwlock_t filling;
    _Atomic uint64_t daemons;            /* how many there were; changes under `filling` */
    csc_line connections[CSC_LINES_MAX]; /* [0]: the first, and the client's life */
    uint8_t token[CSC_WIRE_TOKEN_BYTES];
    uint64_t down_until_ns; /* nobody answered: not asked again before */
} csc_link;

/** What a packet and its answer are written into. */
typedef union csc_packet {
    csc_wire_header header;
    uint64_t words[CSC_WIRE_PACKET_MAX / sizeof(uint64_t)];
} csc_packet;

/** Looks whether a daemon serves the arena, and what it says: 0, and the first connection stands; the
 * arena's descriptor is the caller's. CASCADE_ENOSTORE: nobody does. Errors: CASCADE_EAGAIN,
 * CASCADE_EACCES, CASCADE_EFORMAT. */
int csc_link_open(csc_link *link, const csc_arena_options *arena, csc_wire_welcome *welcome,
                  int *arena_fd);
/** The area is claimed: the daemon counts the client in. */
int csc_link_attach(csc_link *link, uint32_t area);
void csc_link_close(csc_link *link);
/** In a forked child. */
void csc_link_after_fork(csc_link *link);

/**
 * Asks: `packet` is a request without its serial, and becomes the answer. `wait_ms`: how long for that;
 * 0: as long as the daemon lives. 0, and the answer is checked (its status is the daemon's affair); or
 * CASCADE_EAGAIN: nobody answers, and whether it was done is not known. Progress, if the request has
 * it, goes to `progress` (may be NULL); if that says to stop, CASCADE_EAGAIN. `daemon` (may be NULL):
 * which one answered.
 */
int csc_link_ask(csc_link *link, csc_packet *packet, uint64_t wait_ms, cascade_progress progress,
                 void *context, uint64_t *daemon);

/** The answer's status as this thread's error. */
int csc_link_status(const csc_packet *answer);

#endif
