/* SPDX-License-Identifier: MIT */
/* serve: lets the processes of this node share one store. */
#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

typedef struct serve_arguments {
    cli_common common;
    uint32_t idle_ms, drain_ms;
} serve_arguments;

enum { SERVE_IDLE = 0x2000, SERVE_DRAIN };

static error_t parse_serve(int key, char *argument, struct argp_state *state)
{
    serve_arguments *arguments = state->input;

    switch (key) {
    case SERVE_IDLE:
        arguments->idle_ms = 1000 * (uint32_t)cli_count_argument("--idle", argument, 0, 4000000, state);
        return 0;
    case SERVE_DRAIN:
        arguments->drain_ms =
            1000 * (uint32_t)cli_count_argument("--drain", argument, 0, 4000000, state);
        return 0;
    default:
        return cli_parse_rest(key, argument, state, &arguments->common);
    }
}

/* Before the store's threads are made, which inherit the mask: the signals come by the descriptor alone.
 */
static int signals_as_file(sigset_t *before)
{
    sigset_t signals;
    int fd;

    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, before);
    fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        cli_say("cannot wait for signals: %s", strerror(errno));
    return fd;
}

/* The last line: what was done, and what is left to be done. */
static int print_end(cascade_store *store, bool json)
{
    cascade_stats stats = {.struct_bytes = sizeof stats};

    if (!json || cascade_store_stats(store, &stats))
        return CLI_OK;
    return cli_print_json(json_pack("{s:I, s:I, s:I, s:I}", "puts", (json_int_t)stats.puts, "keys",
                                    (json_int_t)stats.keys, "left_bytes", (json_int_t)stats.dirty_bytes,
                                    "recovered_blocks", (json_int_t)stats.recovered_blocks));
}

/* Time is up: closing would flush on. The arena is left as a killed owner leaves it. */
static void leave_at_once(void)
{
    fflush(stdout);
    _exit(CLI_DEGRADED);
}

static int serve(cascade_store *store, const serve_arguments *arguments, int signal_fd)
{
    const cascade_serve_options options = {.struct_bytes = sizeof options,
                                           .stop_fd = signal_fd,
                                           .idle_ms = arguments->idle_ms,
                                           .drain_ms = arguments->drain_ms};
    int code = cascade_store_serve(store, &options), result = CLI_OK;

    if (code)
        result = cli_fail_to_keep(code, code == CASCADE_ETIMEDOUT
                                            ? "what is left waits in shared memory for the next open"
                                            : "cannot serve");
    if (code != CASCADE_EBUSY)
        print_end(store, arguments->common.json);
    if (code == CASCADE_ETIMEDOUT)
        leave_at_once();
    return result;
}

int cli_serve(int argc, char **argv)
{
    static const struct argp_child children[] = {{&cli_store_argp, 0, NULL, 0}, {0}};
    static const struct argp_option options[] = {
        {"idle", SERVE_IDLE, "SECONDS", 0, "End after so long without a client (0: never)", 0},
        {"drain", SERVE_DRAIN, "SECONDS", 0, "Flush for so long at the end (0: any time)", 0},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_serve,
        .doc = "Lets all processes of this user and node use one store, until SIGTERM or SIGINT.",
        .children = children};
    serve_arguments arguments = {0};
    cascade_store *store;
    sigset_t before;
    int signal_fd, result;

    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    signal_fd = signals_as_file(&before);
    if (signal_fd < 0)
        return CLI_STORE;
    result = cli_open(&arguments.common, CASCADE_OPEN_CREATE, &store);
    if (result == CLI_OK) {
        struct signalfd_siginfo seen;

        result = serve(store, &arguments, signal_fd);
        (void)!read(signal_fd, &seen, sizeof seen); /* it did its work */
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        result = cli_close(&store, result);
    }
    close(signal_fd);
    return result;
}
