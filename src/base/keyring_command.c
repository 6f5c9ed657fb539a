/* SPDX-License-Identifier: MIT */
/*
 * Keys from a program: a secret store's client, a decrypting tool. It is spawned without a shell, so
 * that no character of the setting means anything but itself, and in a process group of its own, so that
 * what it started goes with it when its time is up.
 */
#include "base/keyring.h"

#include "base/clock.h"
#include "base/fail.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define REAP_STEP_MS 2u

extern char **environ;

/* Cuts `line` up in place; the words end with a NULL. */
static int split(char *line, char *words[CSC_KEYRING_COMMAND_WORDS + 1])
{
    size_t count = 0;
    char *rest = NULL;

    for (char *word = strtok_r(line, " \t", &rest); word; word = strtok_r(NULL, " \t", &rest)) {
        if (count == CSC_KEYRING_COMMAND_WORDS)
            return csc_fail(CASCADE_EINVAL, "a key command of more than %u words",
                            CSC_KEYRING_COMMAND_WORDS);
        words[count++] = word;
    }
    words[count] = NULL;
    return count ? 0 : csc_fail(CASCADE_EINVAL, "the key command has no word");
}

/* The program must not inherit what this process blocks or ignores. */
static int set_attributes(posix_spawnattr_t *attributes)
{
    sigset_t none, usual;
    int err;

    sigemptyset(&none);
    sigemptyset(&usual);
    sigaddset(&usual, SIGPIPE);
    sigaddset(&usual, SIGCHLD);
    err = posix_spawnattr_setsigmask(attributes, &none);
    if (!err)
        err = posix_spawnattr_setsigdefault(attributes, &usual);
    if (!err)
        err = posix_spawnattr_setpgroup(attributes, 0);
    return err ? err
               : posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                                          POSIX_SPAWN_SETPGROUP);
}

/* Its output goes to `fd`, what it has to say about errors to ours. Returns an errno value. */
static int spawn(char **words, int fd, pid_t *child)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    int err = posix_spawn_file_actions_init(&actions);

    if (err)
        return err;
    err = posix_spawnattr_init(&attributes);
    if (!err) {
        /* In this order: in a host without standard input the pipe itself may be 0. */
        err = posix_spawn_file_actions_adddup2(&actions, fd, 1);
        if (!err)
            err = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
        if (!err)
            err = set_attributes(&attributes);
        if (!err)
            err = posix_spawnp(child, words[0], &actions, &attributes, words, environ);
        posix_spawnattr_destroy(&attributes);
    }
    posix_spawn_file_actions_destroy(&actions);
    return err;
}

static int timed_out(const char *program, uint32_t limit_ms)
{
    return csc_fail(CASCADE_ETIMEDOUT, "the key command %s did not end within %u ms", program, limit_ms);
}

/* Everything it prints, up to `room`. */
static int collect(int fd, uint64_t end_ns, char *text, size_t room, size_t *bytes)
{
    *bytes = 0;
    while (*bytes < room) {
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        uint64_t now = csc_clock_ns();
        ssize_t got;

        if (now >= end_ns)
            return CASCADE_ETIMEDOUT;
        if (poll(&wait, 1, (int)((end_ns - now) / 1000000 + 1)) <= 0)
            continue;
        got = read(fd, text + *bytes, room - *bytes);
        if (got < 0 && errno != EINTR && errno != EAGAIN)
            return csc_fail_errno(errno, "cannot read what the key command prints");
        if (got == 0)
            break;
        if (got > 0)
            *bytes += (size_t)got;
    }
    return 0;
}

/* Waits for its end. If the host collects its children's states itself, or has the system forget them,
 * there is none for us: what it printed then has to do. */
static int reap(pid_t child, uint64_t end_ns, int *state)
{
    const struct timespec step = {.tv_nsec = REAP_STEP_MS * 1000000};

    *state = 0;
    for (;;) {
        pid_t got = waitpid(child, state, WNOHANG);

        if (got == child || (got < 0 && errno == ECHILD))
            return 0;
        if (csc_clock_ns() >= end_ns)
            return CASCADE_ETIMEDOUT;
        nanosleep(&step, NULL);
    }
}

/* With the program running: its output, then its end. */
static int attend(pid_t child, int fd, const char *program, uint32_t limit_ms, char *text, size_t room,
                  size_t *bytes)
{
    uint64_t end_ns = csc_clock_ns() + (uint64_t)limit_ms * 1000000;
    int code = collect(fd, end_ns, text, room, bytes);
    int state = 0;

    if (code == 0 && *bytes == room)
        code = csc_fail(CASCADE_EFORMAT, "the key command %s prints more than 64 KiB", program);
    if (code == 0)
        code = reap(child, end_ns, &state);
    if (code == CASCADE_ETIMEDOUT)
        timed_out(program, limit_ms);
    if (code) {
        kill(-child, SIGKILL);
        waitpid(child, NULL, 0);
        return code;
    }
    if (WIFSIGNALED(state))
        return csc_fail(CASCADE_ENOKEY, "the key command %s was killed by signal %d", program,
                        WTERMSIG(state));
    if (WEXITSTATUS(state) != 0)
        return csc_fail(CASCADE_ENOKEY, "the key command %s ended with status %d", program,
                        WEXITSTATUS(state));
    return 0;
}

static int run(char **words, uint32_t limit_ms, char *text, size_t room, size_t *bytes)
{
    pid_t child;
    int ends[2];
    int code;
    int err;

    if (pipe2(ends, O_CLOEXEC) != 0)
        return csc_fail_errno(errno, "no pipe for the key command");
    err = spawn(words, ends[1], &child);
    close(ends[1]);
    code = err ? csc_fail(CASCADE_ENOKEY, "the key command %s cannot be run: %s", words[0],
                          strerrordesc_np(err) ? strerrordesc_np(err) : "unknown error")
               : attend(child, ends[0], words[0], limit_ms, text, room, bytes);
    close(ends[0]);
    return code;
}

int csc_keyring_run_command(const char *command, uint32_t limit_ms, csc_keyring **ring)
{
    char *words[CSC_KEYRING_COMMAND_WORDS + 1];
    const size_t room = CSC_KEYRING_TEXT_BYTES + 1;
    char *line = strdup(command);
    char *text = malloc(room);
    size_t bytes = 0;
    int code = 0;

    if (!line || !text)
        code = csc_fail(CASCADE_ENOMEM, "no memory to run the key command");
    if (code == 0)
        code = split(line, words);
    if (code == 0)
        code = run(words, limit_ms, text, room, &bytes);
    if (code == 0) {
        code = csc_keyring_parse(text, bytes, ring);
        if (code == CASCADE_EFORMAT) {
            char why[128];

            snprintf(why, sizeof why, "%s", csc_fail_text());
            csc_fail(code, "what the key command %s prints, %s", words[0], why);
        }
    }
    if (text)
        OPENSSL_cleanse(text, room);
    free(text);
    free(line);
    return code;
}
