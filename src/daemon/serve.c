/* SPDX-License-Identifier: MIT */
/* A store that is served until somebody says stop. */
#include "base/clock.h"
#include "base/fail.h"
#include "daemon/server.h"
#include "store/store_private.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

/* Milliseconds to wait until the idle time may be over; -1: there is none. */
static int wait_ms(csc_server *server, uint32_t idle_ms)
{
    uint64_t idle_ns = csc_server_idle_ns(server), most_ns = idle_ms * UINT64_C(1000000);

    if (idle_ms == 0)
        return -1;
    if (idle_ns >= most_ns)
        return 0;
    return (int)((most_ns - idle_ns + 999999) / 1000000 % INT32_MAX);
}

/* Until `stop_fd` is readable, or the idle time is over. */
static int wait_for_stop(csc_server *server, const cascade_serve_options *options)
{
    struct pollfd stop = {.fd = options->stop_fd, .events = POLLIN};
    int timeout;

    do {
        timeout = wait_ms(server, options->idle_ms);
        if (timeout == 0)
            return 0;
        if (poll(&stop, 1, timeout) < 0 && errno != EINTR)
            return csc_fail_errno(errno, "cannot wait for an end of serving");
    } while (stop.revents == 0);
    return 0;
}

int cascade_store_serve(cascade_store *store, const cascade_serve_options *given)
{
    cascade_serve_options options = {.stop_fd = -1};
    csc_server *server = NULL;
    uint64_t deadline_ns;
    int code;

    CSC_ENTER(store);
    if (store->daemon)
        return csc_fail(CASCADE_EBUSY, "process %u serves the store already",
                        atomic_load(&store->index.header->owner_pid));
    if (!given || given->struct_bytes < sizeof(size_t))
        return csc_fail(CASCADE_EINVAL, "no options, or struct_bytes is not set");
    memcpy(&options, given, given->struct_bytes < sizeof options ? given->struct_bytes : sizeof options);
    code = csc_server_start(store, NULL, &server);
    if (code)
        return code;
    code = wait_for_stop(server, &options);
    deadline_ns = options.drain_ms ? csc_clock_ns() + options.drain_ms * UINT64_C(1000000)
                                   : INT64_MAX; /* of a timespec */
    csc_server_stop(&server, deadline_ns);
    return code ? code : csc_store_flush_until(store, deadline_ns);
}
