/* SPDX-License-Identifier: MIT */
/* The daemon's half of the wire: lets other processes use the store of this one. docs/adr/0004-daemon.md
 * says why it is as it is. */
#ifndef CSC_DAEMON_SERVER_H
#define CSC_DAEMON_SERVER_H

#include <cascade/cascade.h>

typedef struct csc_server csc_server;

typedef struct csc_server_options {
    uint32_t hello_ms; /* a connection that is no client's after that long is closed; 0: 60,000 */
} csc_server_options;

/** Listens, and serves in threads of its own. `options` may be NULL. The store must stay open until
 * csc_server_stop. Errors: as csc_socket_listen, CASCADE_ENOMEM. */
int csc_server_start(cascade_store *store, const csc_server_options *options, csc_server **server);

/** Accepts nobody and nothing from here on, lets requests under way end (from `deadline_ns` on, on
 * csc_clock_ns, their answers are given up), and frees the server. NULL inside is accepted. */
void csc_server_stop(csc_server **server, uint64_t deadline_ns);

/** How long there has been no client; 0: there is one. */
uint64_t csc_server_idle_ns(csc_server *server);
/** Connections closed because of what they sent. */
uint64_t csc_server_bad_packets(csc_server *server);

#endif
