/* SPDX-License-Identifier: MIT */
/* `cascade COMMAND ...`: finds the command, runs it, and makes the exit code. */
#include "cli.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"init", cli_init},     {"put", cli_put},     {"get", cli_get},       {"match", cli_match},
    {"ls", cli_ls},         {"stat", cli_stat},   {"delete", cli_delete}, {"flush", cli_flush},
    {"verify", cli_verify}, {"scrub", cli_scrub}, {"replay", cli_replay}, {"simulate", cli_simulate},
    {"bench", cli_bench},   {"gc", cli_gc},       {"serve", cli_serve},
};

static const char documentation[] =
    "Stores KV blocks of LLM engines in shared memory and segment files, and loses none of them.\v"
    "Commands:\n"
    "  init      make a store\n"
    "  put       store a block and print its id\n"
    "  get       read a block into files\n"
    "  match     count the leading keys that are present\n"
    "  ls        list the keys\n"
    "  stat      print all counters\n"
    "  delete    remove keys\n"
    "  flush     write everything to stable storage\n"
    "  verify    read every block in every tier and check its SHA-256\n"
    "  scrub     the same at a limited rate\n"
    "  gc        give back the space of what was deleted or is too old\n"
    "  serve     let the processes of this node share a store\n"
    "  replay    run a trace of requests against a store and check every byte\n"
    "  simulate  hit ratios of the eviction policies on a trace\n"
    "  bench     measure the store beside memcpy\n"
    "\n"
    "`cascade COMMAND --help' tells a command's options; cascade(1) has the exit codes.";

const char *cli_name = "cascade";

static volatile sig_atomic_t stop_signal;

static void remember_signal(int number)
{
    stop_signal = number;
}

int cli_stop_signal(void)
{
    return stop_signal;
}

/* The first signal asks for an orderly end (the store is closed and so flushed); a second one kills.
 * Without SA_RESTART, so that waiting for input ends too. A closed pipe is a failed write, not a death
 * with the store open. */
static void catch_signals(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler = remember_signal, .sa_flags = (int)SA_RESETHAND};

    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        sigaction(numbers[i], &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static void print_version(FILE *stream, struct argp_state *state)
{
    (void)state;
    fprintf(stream, "cascade %s\n", cascade_version());
}

static error_t parse(int key, char *argument, struct argp_state *state)
{
    int *command_at = state->input;

    (void)argument;
    switch (key) {
    case ARGP_KEY_ARG:
        *command_at = state->next - 1;
        state->next = state->argc;
        return 0;
    case ARGP_KEY_NO_ARGS:
        argp_error(state, "which command?");
        return EINVAL;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static int run(const struct command *command, int argc, char **argv)
{
    static char name[64];
    int result;

    snprintf(name, sizeof name, "cascade %s", command->name);
    cli_name = argv[0] = name;
    result = command->run(argc, argv);
    errno = 0;
    if ((fflush(stdout) || ferror(stdout)) && result == CLI_OK) {
        if (errno != EPIPE)
            cli_say("cannot write to standard output: %s", strerror(errno ? errno : EIO));
        result = CLI_FILE;
    }
    return stop_signal ? 128 + (int)stop_signal : result;
}

int main(int argc, char **argv)
{
    static const struct argp argp = {
        .parser = parse,
        .args_doc = "COMMAND [OPTION...]",
        .doc = documentation,
    };
    static char own_name[] = "cascade";
    int at = 0;

    if (argc > 0)
        argv[0] = own_name; /* messages are the same wherever the program lies */
    argp_program_version_hook = print_version;
    argp_err_exit_status = CLI_USAGE;
    catch_signals();
    if (argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &at) || at == 0)
        return CLI_USAGE;
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        if (strcmp(argv[at], commands[i].name) == 0)
            return run(&commands[i], argc - at, argv + at);
    cli_say("there is no command '%s'; `cascade --help' lists them", argv[at]);
    return CLI_USAGE;
}
