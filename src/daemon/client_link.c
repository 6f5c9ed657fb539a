/* SPDX-License-Identifier: MIT */
#include "daemon/client_link.h"
#include "base/clock.h"
#include "base/fail.h"
#include "daemon/socket_path.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define NS_A_MS      UINT64_C(1000000)
#define SPIN_NS      UINT64_C(60000)      /* a wake-up costs about as much: longer is no gain */
#define GREET_MS     UINT64_C(5000)       /* for what is not asked of a store */
#define FIND_NS      UINT64_C(2000000000) /* a new daemon takes the arena over meanwhile */
#define FIND_STEP_US 20000u
#define DOWN_NS      UINT64_C(1000000000)

/* ---- packets -------------------------------------------------------------------------------------- */

static int fail_gone(void)
{
    return csc_fail(CASCADE_EAGAIN, "the daemon does not answer");
}

static int send_packet(int fd, const csc_packet *packet)
{
    ssize_t sent;

    do
        sent = send(fd, packet, packet->header.bytes, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent == (ssize_t)packet->header.bytes ? 0 : fail_gone();
}

/* Waits until there is something to receive. False: not in time. */
static bool wait_readable(int fd, uint64_t deadline_ns)
{
    for (;;) {
        struct pollfd wanted = {.fd = fd, .events = POLLIN};
        uint64_t now_ns = csc_clock_ns();
        int wait_ms = -1, ready;

        if (deadline_ns && now_ns >= deadline_ns)
            return false;
        if (deadline_ns) {
            uint64_t left_ms = (deadline_ns - now_ns) / NS_A_MS + 1;

            wait_ms = left_ms < 60000 ? (int)left_ms : 60000;
        }
        ready = poll(&wanted, 1, wait_ms);
        if (ready > 0)
            return true;
        if (ready < 0 && errno != EINTR)
            return false;
    }
}

/* Receives a packet, with a descriptor if `passed` wants one. Spins first: the answer to most requests
 * is there before a sleep would have begun. Returns its bytes, or a negative code. */
static ssize_t receive_packet(int fd, csc_packet *packet, uint64_t deadline_ns, int *passed)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec bytes = {packet, sizeof *packet};
    uint64_t spin_until_ns = csc_clock_ns() + SPIN_NS;
    struct cmsghdr *part;
    struct msghdr message;
    ssize_t got;

    for (;;) {
        message = (struct msghdr){.msg_iov = &bytes, .msg_iovlen = 1};
        if (passed) {
            message.msg_control = control.bytes;
            message.msg_controllen = sizeof control.bytes;
        }
        got = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (got >= 0 || (errno != EAGAIN && errno != EINTR))
            break;
        if (csc_clock_ns() >= spin_until_ns && !wait_readable(fd, deadline_ns))
            break;
    }
    if (got <= 0)
        return fail_gone();
    part = passed ? CMSG_FIRSTHDR(&message) : NULL;
    if (part && part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_RIGHTS &&
        part->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(passed, CMSG_DATA(part), sizeof *passed);
    return message.msg_flags & MSG_TRUNC ? fail_gone() : got;
}

/* One request and its answer on a connection that is this thread's. */
static int exchange(csc_line *at, csc_packet *packet, uint64_t wait_ms, cascade_progress progress,
                    void *context, int *passed)
{
    unsigned type = packet->header.type;
    uint32_t count = packet->header.count, serial = packet->header.serial = ++at->serial;
    int code = send_packet(at->fd, packet);

    while (code == 0) {
        uint64_t deadline_ns = wait_ms ? csc_clock_ns() + wait_ms * NS_A_MS : 0;
        ssize_t got = receive_packet(at->fd, packet, deadline_ns, passed);
        const csc_wire_progress *done = csc_wire_items(&packet->header);

        code = got < 0 ? (int)got : csc_wire_check_answer(packet, (size_t)got, type, serial, count);
        if (code || !(packet->header.type & CSC_WIRE_PROGRESS))
            break;
        if (progress && progress(context, done->done_bytes, done->total_bytes))
            code = csc_fail(CASCADE_EAGAIN, "stopped by the caller");
    }
    return code;
}

int csc_link_status(const csc_packet *answer)
{
    if (answer->header.status < 0)
        return csc_fail(answer->header.status, "%s", csc_wire_text_of(&answer->header));
    return answer->header.status;
}

/* ---- connections ---------------------------------------------------------------------------------- */

static void hang_up(csc_line *connection)
{
    if (connection->fd >= 0)
        close(connection->fd);
    connection->fd = -1;
}

static void hang_up_all(csc_link *link)
{
    for (unsigned i = 0; i < CSC_LINES_MAX; i++)
        if (link->connections[i].busy && link->connections[i].fd >= 0)
            shutdown(link->connections[i].fd, SHUT_RDWR); /* its thread hears of it, and closes it */
        else
            hang_up(&link->connections[i]);
}

static int say_hello(csc_link *link, csc_wire_welcome *welcome, int *arena_fd)
{
    csc_packet packet;
    csc_wire_hello hello = {.version_least = CSC_WIRE_VERSION, .version_most = CSC_WIRE_VERSION};
    int code;

    memcpy(hello.store_uuid, link->store->config.settings.uuid, sizeof hello.store_uuid);
    snprintf(hello.program, sizeof hello.program, "%s", program_invocation_short_name);
    csc_wire_begin(&packet.header, CSC_WIRE_HELLO, 0, 1);
    memcpy(packet.words + sizeof packet.header / 8, &hello, sizeof hello);
    *arena_fd = -1;
    code = exchange(&link->connections[0], &packet, GREET_MS, NULL, NULL, arena_fd);
    if (code == 0)
        code = csc_link_status(&packet);
    if (code == 0 && *arena_fd < 0)
        code = csc_fail(CASCADE_EFORMAT, "the daemon did not hand the arena out");
    if (code == 0)
        memcpy(welcome, csc_wire_items(&packet.header), sizeof *welcome);
    else if (*arena_fd >= 0)
        close(*arena_fd);
    return code;
}

int csc_link_attach(csc_link *link, uint32_t area)
{
    csc_packet packet;
    csc_wire_attach attach = {.area = area};
    int code;

    csc_wire_begin(&packet.header, CSC_WIRE_ATTACH, 0, 1);
    memcpy(packet.words + sizeof packet.header / 8, &attach, sizeof attach);
    code = exchange(&link->connections[0], &packet, GREET_MS, NULL, NULL, NULL);
    if (code == 0)
        code = csc_link_status(&packet);
    if (code == 0)
        memcpy(link->token, csc_wire_items(&packet.header), sizeof link->token);
    return code;
}

int csc_link_open(csc_link *link, const csc_arena_options *arena, csc_wire_welcome *welcome,
                  int *arena_fd)
{
    char path[CSC_ARENA_DIRECTORY_BYTES + 64];
    int code;

    pthread_mutex_init(&link->lock, NULL);
    pthread_cond_init(&link->returned, NULL);
    pthread_rwlock_init(&link->filling, NULL);
    for (unsigned i = 0; i < CSC_LINES_MAX; i++)
        link->connections[i] = (csc_line){.fd = -1};
    csc_arena_name(arena, path, sizeof path);
    code = csc_socket_name(path, link->name);
    if (code == 0)
        code = csc_socket_connect(link->name, &link->connections[0].fd);
    if (code)
        return code == CASCADE_EAGAIN ? CASCADE_ENOSTORE : code;
    code = say_hello(link, welcome, arena_fd);
    if (code)
        hang_up(&link->connections[0]);
    return code;
}

/* The daemon is gone: finds the next. Lock held. */
static int greet_again(csc_link *link)
{
    csc_wire_welcome welcome;
    int arena_fd, code = csc_socket_connect(link->name, &link->connections[0].fd);

    if (code)
        return code;
    code = say_hello(link, &welcome, &arena_fd);
    if (code == 0 && !csc_arena_is_file(link->store->arena, arena_fd))
        code = csc_fail(CASCADE_EAGAIN, "the daemon was closed and began anew; open the store again");
    if (code == 0)
        close(arena_fd);
    if (code == 0) {
        pthread_rwlock_wrlock(&link->filling);
        link->connections[0].daemon = atomic_fetch_add(&link->daemons, 1) + 1;
        code = csc_link_attach(link, csc_arena_area(link->store->arena));
        pthread_rwlock_unlock(&link->filling);
    }
    if (code)
        hang_up(&link->connections[0]);
    return code;
}

static int find_daemon(csc_link *link)
{
    uint64_t until_ns = csc_clock_ns() + FIND_NS;
    int code;

    if (csc_clock_ns() < link->down_until_ns)
        return fail_gone();
    hang_up_all(link);
    for (;;) {
        code = greet_again(link);
        if (code == 0 || csc_clock_ns() >= until_ns)
            break;
        usleep(FIND_STEP_US);
    }
    if (code)
        link->down_until_ns = csc_clock_ns() + DOWN_NS;
    return code ? fail_gone() : 0;
}

static int join(csc_link *link, csc_line *made)
{
    csc_packet packet;
    int code = csc_socket_connect(link->name, &made->fd);

    if (code)
        return fail_gone();
    made->daemon = atomic_load(&link->daemons);
    csc_wire_begin(&packet.header, CSC_WIRE_JOIN, 0, 1);
    memcpy(packet.words + sizeof packet.header / 8, link->token, sizeof link->token);
    code = exchange(made, &packet, GREET_MS, NULL, NULL, NULL);
    return code ? code : csc_link_status(&packet);
}

/* Nothing comes unasked but the end. */
static bool has_ended(const csc_line *connection)
{
    char byte;
    ssize_t got = recv(connection->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

    return got >= 0 || (errno != EAGAIN && errno != EINTR);
}

static void look_after(csc_link *link)
{
    for (unsigned i = 0; i < CSC_LINES_MAX; i++)
        if (!link->connections[i].busy && link->connections[i].fd >= 0 &&
            has_ended(&link->connections[i]))
            hang_up(&link->connections[i]);
}

/* An idle connection for this thread. */
static int take(csc_link *link, csc_line **taken)
{
    csc_line *room = NULL;
    int code = 0;

    pthread_mutex_lock(&link->lock);
    for (*taken = NULL; !*taken && code == 0;) {
        look_after(link);
        if (link->connections[0].fd < 0 && !link->connections[0].busy)
            code = find_daemon(link);
        room = NULL;
        for (unsigned i = 0; code == 0 && !*taken && i < CSC_LINES_MAX; i++) {
            csc_line *at = &link->connections[i];

            if (!at->busy && at->fd >= 0)
                *taken = at;
            else if (!at->busy && !room && i)
                room = at;
        }
        if (code == 0 && !*taken && room) {
            code = join(link, room);
            if (code)
                hang_up(room);
            else
                *taken = room;
        } else if (code == 0 && !*taken) {
            pthread_cond_wait(&link->returned, &link->lock);
        }
    }
    if (code == 0)
        (*taken)->busy = true;
    pthread_mutex_unlock(&link->lock);
    return code;
}

/* `code`: how its use ended. One that failed is of no more use; nor, without the first, are the others.
 */
static void give_back(csc_link *link, csc_line *taken, int code)
{
    pthread_mutex_lock(&link->lock);
    taken->busy = false;
    if (code) {
        hang_up(taken);
        if (taken == &link->connections[0])
            hang_up_all(link);
    }
    pthread_cond_signal(&link->returned);
    pthread_mutex_unlock(&link->lock);
}

int csc_link_ask(csc_link *link, csc_packet *packet, uint64_t wait_ms, cascade_progress progress,
                 void *context, uint64_t *daemon)
{
    csc_line *taken;
    int code = take(link, &taken);

    if (code)
        return code;
    code = exchange(taken, packet, wait_ms, progress, context, NULL);
    if (daemon)
        *daemon = taken->daemon;
    give_back(link, taken, code);
    return code == CASCADE_EFORMAT ? fail_gone() : code;
}

void csc_link_close(csc_link *link)
{
    for (unsigned i = 0; i < CSC_LINES_MAX; i++)
        hang_up(&link->connections[i]);
    pthread_rwlock_destroy(&link->filling);
    pthread_cond_destroy(&link->returned);
    pthread_mutex_destroy(&link->lock);
}

void csc_link_after_fork(csc_link *link)
{
    for (unsigned i = 0; i < CSC_LINES_MAX; i++)
        hang_up(&link->connections[i]);
}
