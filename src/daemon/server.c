/* SPDX-License-Identifier: MIT */
/* The door, and a thread for each connection. */
#include "daemon/server.h"
#include "base/clock.h"
#include "base/fail.h"
#include "base/log.h"
#include "daemon/server_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define HELLO_MS 60000u
#define BURY_MS  100 /* between looks whether the process of a client that is gone is too */
#define EVENTS   32

/* ---- packets ----------------------------------------------------------------------------------------
 */

/* As sendmsg, with a descriptor if there is one. */
static ssize_t send_packet(int fd, const csc_wire_header *packet, int pass_fd, int flags)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec part = {.iov_base = (void *)(uintptr_t)packet, .iov_len = packet->bytes};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

    if (pass_fd >= 0) {
        control.header = (struct cmsghdr){
            .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.header), &pass_fd, sizeof pass_fd);
        message.msg_control = &control;
        message.msg_controllen = sizeof control.bytes;
    }
    return sendmsg(fd, &message, flags | MSG_NOSIGNAL);
}

bool csc_connection_progress(csc_request *request, uint64_t done_bytes, uint64_t total_bytes)
{
    struct {
        csc_wire_header header;
        csc_wire_progress progress;
    } packet;

    csc_wire_begin(&packet.header, request->asked->type | CSC_WIRE_PROGRESS, request->asked->serial, 1);
    packet.progress = (csc_wire_progress){.done_bytes = done_bytes, .total_bytes = total_bytes};
    if (atomic_load(&request->server->stopping))
        return false;
    /* One that does not read is only told less. */
    return send_packet(request->connection->fd, &packet.header, -1, MSG_DONTWAIT) >= 0 ||
           errno == EAGAIN || errno == EINTR || errno == ENOBUFS;
}

int csc_request_note(csc_request *request, int status)
{
    if (status && request->status == 0) {
        request->status = status;
        if (status < 0) /* a miss has nothing to say */
            strncpy(request->text, csc_fail_text(), sizeof request->text - 1);
    }
    return status;
}

/* ---- a connection
 * --------------------------------------------------------------------------------------
 */

/* Carries out what a connection may ask for in its state; false: not that. */
static bool carry_out(csc_request *request)
{
    csc_connection_state state = request->connection->state;
    unsigned type = request->asked->type;

    if (type == CSC_WIRE_HELLO && state == CSC_STRANGER)
        csc_client_greet(request);
    else if (type == CSC_WIRE_JOIN && state == CSC_STRANGER)
        csc_client_join(request);
    else if (type == CSC_WIRE_ATTACH && state == CSC_GREETED)
        csc_client_attach(request);
    else if (type > CSC_WIRE_JOIN && state == CSC_OF_CLIENT)
        csc_request_serve(request);
    else
        return false;
    return true;
}

static bool answer(csc_request *request)
{
    csc_wire_header *packet = request->answer;
    uint64_t value = packet->value;

    csc_wire_begin(packet, request->asked->type | CSC_WIRE_ANSWER, request->asked->serial,
                   request->count);
    packet->value = value;
    if (request->status)
        csc_wire_fail(packet, request->status, request->text);
    return send_packet(request->connection->fd, packet, request->pass_fd, 0) >= 0;
}

static void note_bad_packet(csc_connection *connection)
{
    csc_log(CSC_LOG_WARNING, "process %d sent what is no request, and is disconnected: %s",
            connection->pid, csc_fail_text());
    pthread_mutex_lock(&connection->server->lock);
    connection->server->bad_packets++;
    pthread_mutex_unlock(&connection->server->lock);
}

/* One request and its answer. False: the connection is over. */
static bool serve_one(csc_connection *connection)
{
    csc_request request = {.server = connection->server,
                           .connection = connection,
                           .client = connection->client,
                           .asked = (const csc_wire_header *)(void *)connection->request,
                           .answer = (csc_wire_header *)(void *)connection->answer,
                           .pass_fd = -1};
    ssize_t bytes = recv(connection->fd, connection->request, sizeof connection->request, MSG_TRUNC);
    bool was_stranger = connection->state != CSC_OF_CLIENT;
    struct timeval for_ever = {0};

    if (bytes < 0 && errno == EINTR)
        return true;
    if (bytes <= 0)
        return false;
    csc_fail_set_text(NULL);
    request.answer->value = 0;
    if (csc_wire_check_request(connection->request, (size_t)bytes) != 0 || !carry_out(&request)) {
        note_bad_packet(connection);
        return false;
    }
    if (was_stranger && connection->state == CSC_OF_CLIENT)
        setsockopt(connection->fd, SOL_SOCKET, SO_RCVTIMEO, &for_ever, sizeof for_ever);
    return answer(&request);
}

static void *connection_main(void *context)
{
    csc_connection *connection = context;
    csc_server *server = connection->server;

    while (serve_one(connection) && !atomic_load(&server->stopping))
        ;
    shutdown(connection->fd, SHUT_RDWR);
    if (connection->is_first)
        csc_client_end(server, connection->client);
    pthread_mutex_lock(&server->lock);
    connection->ended = true;
    pthread_cond_broadcast(&server->changed);
    pthread_mutex_unlock(&server->lock);
    csc_server_wake(server);
    return NULL;
}

/* ---- the door
 * ------------------------------------------------------------------------------------------
 */

void csc_server_wake(csc_server *server)
{
    uint64_t one = 1;
    ssize_t written = write(server->wake_fd, &one, sizeof one);

    (void)written; /* a full counter wakes as well */
}

/* Told once when the peer's end is closed, whatever its thread is doing then. */
int csc_server_watch(csc_server *server, csc_connection *connection)
{
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLONESHOT, .data.ptr = connection};

    return epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, connection->fd, &event) == 0
               ? 0
               : csc_fail_errno(errno, "cannot watch a connection");
}

static void peer_is_gone(csc_server *server, csc_connection *connection)
{
    csc_client *client;

    pthread_mutex_lock(&server->lock);
    client = connection->client;
    pthread_mutex_unlock(&server->lock);
    csc_client_end(server, client);
}

/* A connection with its thread, or neither. */
static void admit(csc_server *server, int fd)
{
    struct timeval patience = {.tv_sec = server->hello_ms / 1000,
                               .tv_usec = server->hello_ms % 1000 * 1000};
    csc_connection *connection = NULL;
    bool admitted;
    int pid;

    pthread_mutex_lock(&server->lock);
    if (csc_socket_peer(fd, &pid) == 0 && server->strangers < CSC_STRANGERS_MAX)
        connection = calloc(1, sizeof *connection);
    if (connection) {
        connection->server = server;
        connection->fd = fd;
        connection->pid = pid;
    }
    /* With the lock held: it is in the list before it can end. */
    admitted = connection && setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0 &&
               pthread_create(&connection->thread, NULL, connection_main, connection) == 0;
    if (admitted) {
        connection->next = server->connections;
        server->connections = connection;
        server->strangers++;
    }
    pthread_mutex_unlock(&server->lock);
    if (!admitted) {
        free(connection);
        close(fd);
    }
}

static void accept_all(csc_server *server)
{
    for (;;) {
        int fd = accept4(server->listen_fd, NULL, NULL, SOCK_CLOEXEC);

        if (fd >= 0) {
            admit(server, fd);
        } else if (errno != EINTR && errno != ECONNABORTED) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
                usleep(10000); /* others may go */
            return;
        }
    }
}

static void forget(csc_connection *connection)
{
    pthread_join(connection->thread, NULL);
    close(connection->fd);
    free(connection);
}

/* Takes one that ended out of the list. Lock held. */
static csc_connection *take_ended(csc_server *server)
{
    csc_connection **link = &server->connections, *found;

    while (*link && !(*link)->ended)
        link = &(*link)->next;
    found = *link;
    if (!found)
        return NULL;
    *link = found->next;
    if (found->client)
        found->client->connections--;
    else
        server->strangers--;
    return found;
}

static void forget_ended(csc_server *server)
{
    csc_connection *ended;

    do {
        pthread_mutex_lock(&server->lock);
        ended = take_ended(server);
        pthread_mutex_unlock(&server->lock);
        if (ended)
            forget(ended);
    } while (ended);
}

static void *door_main(void *context)
{
    csc_server *server = context;
    struct epoll_event events[EVENTS];
    bool left = false;

    while (!atomic_load(&server->stopping)) {
        int count = epoll_wait(server->epoll_fd, events, EVENTS, left ? BURY_MS : -1);
        uint64_t woken;

        for (int i = 0; i < count; i++)
            if (events[i].data.ptr == &server->wake_fd)
                (void)!read(server->wake_fd, &woken, sizeof woken);
            else if (events[i].data.ptr == &server->listen_fd)
                accept_all(server);
            else
                peer_is_gone(server, events[i].data.ptr);
        forget_ended(server);
        left = csc_clients_bury(server);
    }
    return NULL;
}

/* ---- start and stop
 * ------------------------------------------------------------------------------------
 */

static int watch_own(csc_server *server, int *fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = fd};

    return epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, *fd, &event) == 0
               ? 0
               : csc_fail_errno(errno, "cannot watch a socket");
}

static int open_all(csc_server *server)
{
    const char *path = csc_arena_path(server->store->arena);
    int code = csc_socket_name(path, server->name);

    if (code)
        return code;
    /* Opened anew: who gets the descriptor that holds the lock would hold the lock. */
    server->arena_fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    server->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    server->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (server->arena_fd < 0 || server->epoll_fd < 0 || server->wake_fd < 0)
        return csc_fail_errno(errno, "cannot open what serving %s takes", path);
    code = csc_socket_listen(server->name, &server->listen_fd);
    if (code == 0)
        code = watch_own(server, &server->listen_fd);
    if (code == 0)
        code = watch_own(server, &server->wake_fd);
    return code;
}

static void server_free(csc_server *server)
{
    int fds[] = {server->listen_fd, server->wake_fd, server->epoll_fd, server->arena_fd};

    if (server->listen_fd >= 0)
        csc_socket_remove(server->name);
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    pthread_cond_destroy(&server->changed);
    pthread_mutex_destroy(&server->lock);
    free(server);
}

int csc_server_start(cascade_store *store, const csc_server_options *options, csc_server **result)
{
    csc_server *server = calloc(1, sizeof *server);
    pthread_condattr_t attributes;
    int code, err = 0;

    if (!server)
        return csc_fail(CASCADE_ENOMEM, "no memory for a server");
    server->store = store;
    server->hello_ms = options && options->hello_ms ? options->hello_ms : HELLO_MS;
    server->listen_fd = server->wake_fd = server->epoll_fd = server->arena_fd = -1;
    server->idle_since_ns = csc_clock_ns();
    pthread_mutex_init(&server->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&server->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    code = open_all(server);
    if (code == 0)
        err = pthread_create(&server->door, NULL, door_main, server);
    if (err)
        code = csc_fail_errno(err, "cannot start a thread");
    if (code)
        server_free(server);
    else
        *result = server;
    return code;
}

/* Lock held. */
static void shut_all(csc_server *server, int how)
{
    for (csc_connection *connection = server->connections; connection; connection = connection->next)
        shutdown(connection->fd, how);
}

/* Lock held. */
static bool all_ended(const csc_server *server)
{
    const csc_connection *connection = server->connections;

    while (connection && connection->ended)
        connection = connection->next;
    return !connection;
}

/* Requests that came are answered; from the deadline on nobody waits for those who do not read. */
static void end_connections(csc_server *server, uint64_t deadline_ns)
{
    struct timespec deadline = {.tv_sec = (time_t)(deadline_ns / 1000000000),
                                .tv_nsec = (long)(deadline_ns % 1000000000)};

    pthread_mutex_lock(&server->lock);
    shut_all(server, SHUT_RD);
    while (!all_ended(server) &&
           pthread_cond_timedwait(&server->changed, &server->lock, &deadline) != ETIMEDOUT)
        ;
    shut_all(server, SHUT_RDWR);
    while (!all_ended(server)) /* the store's own deadlines end the others */
        pthread_cond_wait(&server->changed, &server->lock);
    pthread_mutex_unlock(&server->lock);
    while (server->connections) {
        csc_connection *connection = server->connections;

        server->connections = connection->next;
        forget(connection);
    }
}

void csc_server_stop(csc_server **slot, uint64_t deadline_ns)
{
    csc_server *server = *slot;

    if (!server)
        return;
    *slot = NULL;
    atomic_store(&server->stopping, true);
    csc_server_wake(server);
    pthread_join(server->door, NULL);
    close(server->listen_fd);
    server->listen_fd = -1;
    csc_socket_remove(server->name);
    end_connections(server, deadline_ns);
    csc_clients_bury(server);
    /* Reservations of clients that live stay as they are: these may still be writing. The arena goes
     * with a close; the owner after a kill knows what to do. */
    while (server->clients) {
        csc_client *client = server->clients;

        server->clients = client->next;
        csc_client_free(client);
    }
    server_free(server);
}

uint64_t csc_server_idle_ns(csc_server *server)
{
    uint64_t idle_ns = 0;

    pthread_mutex_lock(&server->lock);
    if (server->client_count == 0)
        idle_ns = csc_clock_ns() - server->idle_since_ns;
    pthread_mutex_unlock(&server->lock);
    return idle_ns;
}

uint64_t csc_server_bad_packets(csc_server *server)
{
    uint64_t count;

    pthread_mutex_lock(&server->lock);
    count = server->bad_packets;
    pthread_mutex_unlock(&server->lock);
    return count;
}
