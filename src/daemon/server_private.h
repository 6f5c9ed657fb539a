/* SPDX-License-Identifier: MIT */
/*
 * What the files of the server share.
 *
 * Threads: the door (accepts, sees clients die, joins threads that ended) and one for each connection.
 * `lock` guards all that is not marked otherwise; it is held for bookkeeping only, and comes before the
 * store's. A connection is closed and freed by the door alone.
 *
 * A client is *gone* once its first connection ended, whoever ended it. From there on nothing of it is
 * accepted, and no pin is put into its area. Its reservations wait until its process is surely not
 * writing to their pages: until the lock of its area is free.
 */
#ifndef CSC_DAEMON_SERVER_PRIVATE_H
#define CSC_DAEMON_SERVER_PRIVATE_H

#include "daemon/server.h"
#include "daemon/socket_path.h"
#include "format/wire.h"
#include "store/put.h"
#include <stdatomic.h>

#define CSC_CLIENTS_MAX             256u
#define CSC_STRANGERS_MAX           256u /* connections that are no client's yet */
#define CSC_CLIENT_CONNECTIONS_MAX  8u
#define CSC_CLIENT_RESERVATIONS_MAX 1024u
#define CSC_CLIENT_RESERVED_SHARE   4u /* of dram at most the fourth part */

typedef struct csc_client_reservation {
    csc_wire_content content;
    csc_reservation made;
} csc_client_reservation;

typedef struct csc_client {
    struct csc_client *next;
    uint32_t area; /* constant, as the next four */
    int pid;
    csc_slots slots; /* its area */
    uint8_t token[CSC_WIRE_TOKEN_BYTES];
    char program[32];
    uint64_t since_ns;
    bool gone;
    bool replaced; /* gone, and its area has been attached anew */
    uint32_t connections;
    csc_client_reservation *reservations;
    size_t reservation_count, reservation_room;
    uint32_t reserved_count; /* with those that are being made */
    uint64_t reserved_bytes;
    uint64_t requests, put_blocks, put_bytes, loaded_blocks;
} csc_client;

typedef enum csc_connection_state { CSC_STRANGER, CSC_GREETED, CSC_OF_CLIENT } csc_connection_state;

typedef struct csc_connection {
    struct csc_connection *next;
    csc_server *server; /* constant, as the next three */
    int fd;
    int pid;
    pthread_t thread;
    csc_connection_state state; /* its thread's */
    bool is_first;              /* of its client */
    bool ended;
    csc_client *client; /* set once; it stays until this one is freed */
    char program[32];   /* its thread's */
    uint64_t request[CSC_WIRE_PACKET_MAX / 8], answer[CSC_WIRE_PACKET_MAX / 8];
} csc_connection;

struct csc_server {
    cascade_store *store; /* constant, as the next seven */
    uint32_t hello_ms;
    int listen_fd, wake_fd, epoll_fd;
    int arena_fd; /* for clients; not the one that holds the lock */
    char name[CSC_SOCKET_NAME_BYTES];
    pthread_t door;
    _Atomic bool stopping;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a connection ended */
    csc_connection *connections;
    csc_client *clients; /* also those that are gone, until nothing of them is left */
    uint32_t strangers, client_count;
    uint64_t idle_since_ns;
    uint64_t bad_packets;
    uint32_t area_pids[CSC_SLOT_AREAS]; /* the client that each area was last attached by */
};

/** A request and the answer that is being made. `answer` has room for CSC_WIRE_PACKET_MAX. */
typedef struct csc_request {
    csc_server *server;
    csc_connection *connection;
    csc_client *client; /* NULL: a stranger's */
    const csc_wire_header *asked;
    csc_wire_header *answer;
    uint32_t count; /* of items of the answer */
    int status;     /* the first that is not 0 */
    int pass_fd;    /* goes with the answer; -1: none */
    char text[CSC_WIRE_TEXT_BYTES];
} csc_request;

/** Notes the status of an item, or of the whole; the first that is not 0 is the request's. */
int csc_request_note(csc_request *request, int status);
/** What a client's request of a type does: the items of the answer, and how many. */
void csc_request_serve(csc_request *request);

/* server_clients.c */
/** Strangers become clients. */
void csc_client_greet(csc_request *request);
void csc_client_attach(csc_request *request);
void csc_client_join(csc_request *request);
/** The client is gone from here on. */
void csc_client_end(csc_server *server, csc_client *client);
void csc_client_free(csc_client *client);
/** Forgets clients that are gone, with what they left, once their processes are. True: some are not. */
bool csc_clients_bury(csc_server *server);
/** Takes a reservation's share of a client's limits; false: there is none left, or it is gone. */
bool csc_client_may_reserve(csc_server *server, csc_client *client, uint64_t bytes);
void csc_client_not_reserved(csc_server *server, csc_client *client, uint64_t bytes);
/** Keeps a reservation that was made. False: it could not be kept, and is given up. */
bool csc_client_keep(csc_server *server, csc_client *client, const csc_wire_content *content,
                     const csc_reservation *made);
/** Takes one away; false: the client has none of that content. */
bool csc_client_take(csc_server *server, csc_client *client, const csc_wire_content *content,
                     csc_reservation *made);
/** Puts a pin of `content` into a client's area. False: it is gone, or has no slot free. */
bool csc_client_pin(csc_server *server, csc_client *client, uint32_t content, uint32_t *slot);
/** What is told of the clients; returns how many. */
uint32_t csc_clients_list(csc_server *server, csc_wire_client *list, uint32_t room);

/* server.c */
/** Has the door look. */
void csc_server_wake(csc_server *server);
/** Has the door see when the peer of a first connection goes. Errors: CASCADE_ENOSPC, CASCADE_ENOMEM. */
int csc_server_watch(csc_server *server, csc_connection *connection);
/** Sends a progress packet, if the client is reading; false: it is gone, or the server stops. */
bool csc_connection_progress(csc_request *request, uint64_t done_bytes, uint64_t total_bytes);

/* request_put.c */
void csc_request_reserve(csc_request *request);
void csc_request_commit(csc_request *request);
void csc_request_abandon(csc_request *request);
/* request_load.c */
void csc_request_load(csc_request *request);

#endif
