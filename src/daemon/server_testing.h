/* SPDX-License-Identifier: MIT */
/* For the tests of the server: a store that this process serves, and two clients of it. Included once by
 * each; what it has is theirs. */
#ifndef CSC_DAEMON_SERVER_TESTING_H
#define CSC_DAEMON_SERVER_TESTING_H

#include "daemon/raw_client.h"
#include "daemon/server.h"
#include "store/store_private.h"
#include "store/store_testing.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <cmocka.h>

enum { BYTES = 60000 };

static cascade_store *store;
static csc_server *server;
static raw_client a, b;

static int setup(void **state)
{
    char runtime[300];

    if (st_setup(state) != 0)
        return -1;
    snprintf(runtime, sizeof runtime, "%s/.run", st_directory());
    return mkdir(runtime, 0700) == 0 ? setenv("XDG_RUNTIME_DIR", runtime, 1) : -1;
}

static void start_with(cascade_options options)
{
    store = st_open_with(options);
    assert_int_equal(csc_server_start(store, NULL, &server), 0);
}

static void start(void)
{
    start_with(st_options());
}

static void stop(void)
{
    csc_server_stop(&server, INT64_MAX);
    assert_null(server);
    st_close(&store);
}

static const char *path(void)
{
    return csc_arena_path(store->arena);
}

static uint64_t used_bytes(void)
{
    return st_stats(store).tiers[CASCADE_TIER_DRAM].used_bytes;
}

/* What happens in other threads, soon. */
#define UNTIL(condition)                                                                                \
    while (!(condition))                                                                                \
    st_sleep_ms(1)

#endif
