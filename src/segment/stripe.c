/* SPDX-License-Identifier: MIT */
#include "segment/stripe.h"

#include "base/clock.h"
#include "base/fail.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LUSTRE_MAGIC 0x0BD00BD0u
#define LOOK_NS      5000000

bool csc_stripe_is_wanted(csc_io *io, const char *directory)
{
    uint32_t magic;

    return csc_io_file_system(io, directory, &magic) == 0 && magic == LUSTRE_MAGIC;
}

/* Starts `lfs` with nothing to read and nowhere to write, and with the signals of a fresh process: the
 * host's threads may block or ignore some. */
static int start(const char *directory, pid_t *child)
{
    char path[4096];
    char *arguments[] = {(char[]){"lfs"}, (char[]){"setstripe"}, (char[]){"-c"}, (char[]){"16"},
                         (char[]){"-S"},  (char[]){"4m"},        path,           NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    sigset_t all;
    int err;

    if (strlen(directory) >= sizeof path)
        return ENAMETOOLONG;
    strcpy(path, directory);
    sigemptyset(&none);
    sigfillset(&all);
    err = posix_spawn_file_actions_init(&actions);
    if (err)
        return err;
    err = posix_spawnattr_init(&attributes);
    if (err == 0) {
        for (int fd = 0; fd <= 2 && err == 0; fd++)
            err = posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0);
        posix_spawnattr_setsigmask(&attributes, &none);
        posix_spawnattr_setsigdefault(&attributes, &all);
        posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
        if (err == 0)
            err = posix_spawnp(child, arguments[0], &actions, &attributes, arguments, environ);
        posix_spawnattr_destroy(&attributes);
    }
    posix_spawn_file_actions_destroy(&actions);
    return err;
}

static bool is_done(pid_t child, int *status)
{
    pid_t got;

    do
        got = waitpid(child, status, WNOHANG);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        *status = -1; /* the host ignores or reaps its children: how it ended is not known */
    return got != 0;
}

int csc_stripe_set(const char *directory, uint32_t wait_ms)
{
    const uint64_t end_ns = csc_clock_ns() + (uint64_t)wait_ms * 1000000;
    int status = -1;
    pid_t child;
    int err;

    if (directory[0] == '-')
        return csc_fail(CASCADE_ENOTSUP, "a directory whose name begins with '-' is not striped");
    err = start(directory, &child);
    if (err == ENOENT)
        return csc_fail(CASCADE_ENOTSUP, "there is no lfs to stripe %s with", directory);
    if (err)
        return csc_fail_errno(err, "starting lfs to stripe %s", directory);
    while (!is_done(child, &status)) {
        if (csc_clock_ns() >= end_ns) {
            kill(child, SIGKILL);
            /* It ends at once, or hangs in the kernel: that is not waited for. */
            nanosleep(&(struct timespec){.tv_nsec = 10 * LOOK_NS}, NULL);
            is_done(child, &status);
            return csc_fail(CASCADE_ETIMEDOUT, "lfs did not stripe %s in %u ms", directory, wait_ms);
        }
        nanosleep(&(struct timespec){.tv_nsec = LOOK_NS}, NULL);
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return csc_fail(CASCADE_ENOTSUP, "lfs did not stripe %s (wait status %d)", directory, status);
    return 0;
}
