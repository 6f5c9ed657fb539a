/* SPDX-License-Identifier: MIT */
/* Where sockets lie, and who may have them. */
#include "daemon/socket_path.h"

#include <cascade/error.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define NAME "cascade-1-0123456789abcdef"

static char root[64], folder[512], file[600];

static void use_folder(const char *runtime)
{
    assert_int_equal(setenv("XDG_RUNTIME_DIR", runtime, 1), 0);
    snprintf(folder, sizeof folder, "%s/cascade", runtime);
    snprintf(file, sizeof file, "%s/" NAME ".sock", folder);
}

static int setup(void **state)
{
    (void)state;
    snprintf(root, sizeof root, "/tmp/socket_test.XXXXXX");
    if (!mkdtemp(root))
        return -1;
    use_folder(root);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(file);
    if (rmdir(folder) != 0)
        unlink(folder);
    return rmdir(root);
}

static mode_t mode_of(const char *path)
{
    struct stat info;

    assert_int_equal(lstat(path, &info), 0);
    return info.st_mode & 07777;
}

static void test_names(void **state)
{
    char name[CSC_SOCKET_NAME_BYTES];

    (void)state;
    assert_int_equal(csc_socket_name("/dev/shm/" NAME ".arena", name), 0);
    assert_string_equal(name, NAME);
    assert_int_equal(csc_socket_name("/dev/shm/.arena", name), CASCADE_EINVAL);
    assert_int_equal(csc_socket_name("/dev/shm.arena/a.txt", name), CASCADE_EINVAL);
    assert_int_equal(
        csc_socket_name("0123456789012345678901234567890123456789012345678901234567890123.arena", name),
        CASCADE_EINVAL);
}

/* A packet goes through, and both are told who the other is. */
static void talk(int listener)
{
    int client, server, pid;
    char packet[8];

    assert_int_equal(csc_socket_connect(NAME, &client), 0);
    server = accept(listener, NULL, NULL);
    assert_true(server >= 0);
    assert_int_equal(csc_socket_peer(server, &pid), 0);
    assert_int_equal(pid, getpid());
    assert_int_equal(send(client, "hello", 5, 0), 5);
    assert_int_equal(recv(server, packet, sizeof packet, 0), 5);
    close(server);
    assert_int_equal(recv(client, packet, sizeof packet, 0), 0); /* blocks until then */
    close(client);
}

static void test_talk(void **state)
{
    mode_t before = umask(0);
    int listener, client;

    (void)state;
    assert_int_equal(csc_socket_connect(NAME, &client), CASCADE_EAGAIN); /* not even a folder */
    assert_int_equal(csc_socket_listen(NAME, &listener), 0);
    assert_int_equal(mode_of(folder), 0700);
    assert_int_equal(mode_of(file), 0600);
    umask(before);
    talk(listener);
    close(listener);
    assert_int_equal(csc_socket_connect(NAME, &client), CASCADE_EAGAIN); /* nobody listens any more */
    assert_int_equal(csc_socket_listen(NAME, &listener), 0);             /* the stale one is replaced */
    talk(listener);
    csc_socket_remove(NAME);
    assert_int_equal(access(file, F_OK), -1);
    assert_int_equal(csc_socket_connect(NAME, &client), CASCADE_EAGAIN);
    close(listener);
}

static void test_long_directory(void **state)
{
    char longer[400];
    int listener;

    (void)state;
    snprintf(longer, sizeof longer, "%s/%0200d", root, 0);
    assert_int_equal(mkdir(longer, 0700), 0);
    use_folder(longer);
    assert_int_equal(csc_socket_listen(NAME, &listener), 0);
    assert_int_equal(access(file, F_OK), 0);
    talk(listener);
    close(listener);
    csc_socket_remove(NAME);
    assert_int_equal(rmdir(folder), 0);
    assert_int_equal(rmdir(longer), 0);
    use_folder(root);
}

static void test_refused_folders(void **state)
{
    char elsewhere[100];
    int fd;

    (void)state;
    assert_int_equal(mkdir(folder, 0755), 0);
    assert_int_equal(csc_socket_listen(NAME, &fd), CASCADE_EACCES);
    assert_int_equal(csc_socket_connect(NAME, &fd), CASCADE_EACCES);
    if (geteuid() == 0) {
        assert_int_equal(chmod(folder, 0700), 0);
        assert_int_equal(chown(folder, 1234, 1234), 0);
        assert_int_equal(csc_socket_listen(NAME, &fd), CASCADE_EACCES);
    }
    assert_int_equal(rmdir(folder), 0);
    snprintf(elsewhere, sizeof elsewhere, "%s/elsewhere", root);
    assert_int_equal(mkdir(elsewhere, 0700), 0);
    assert_int_equal(symlink(elsewhere, folder), 0);
    assert_int_equal(csc_socket_listen(NAME, &fd), CASCADE_EACCES);
    assert_int_equal(csc_socket_connect(NAME, &fd), CASCADE_EACCES);
    assert_int_equal(rmdir(elsewhere), 0);
}

/* Who does not accept holds nobody up. */
static void test_full_backlog(void **state)
{
    enum { MOST = 2000 };
    static int clients[MOST];
    int listener, count = 0, code = 0;

    (void)state;
    assert_int_equal(csc_socket_listen(NAME, &listener), 0);
    while (count < MOST && (code = csc_socket_connect(NAME, &clients[count])) == 0)
        count++;
    assert_true(count > 0 && count < MOST);
    assert_int_equal(code, CASCADE_EAGAIN);
    while (count)
        close(clients[--count]);
    close(listener);
}

/* A runtime directory that is named but not there: nothing is made in its place. */
static void test_no_runtime_directory(void **state)
{
    char missing[100], made[200];
    int listener;

    (void)state;
    snprintf(missing, sizeof missing, "%s/missing", root);
    assert_int_equal(setenv("XDG_RUNTIME_DIR", missing, 1), 0);
    assert_int_equal(csc_socket_listen(NAME "-test", &listener), 0);
    snprintf(made, sizeof made, "/tmp/cascade-%u/" NAME "-test.sock", (unsigned)geteuid());
    assert_int_equal(mode_of(made), 0600);
    assert_int_equal(access(missing, F_OK), -1);
    csc_socket_remove(NAME "-test");
    assert_int_equal(access(made, F_OK), -1);
    close(listener);
    use_folder(root);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_names),           CASE(test_talk),         CASE(test_long_directory),
        CASE(test_refused_folders), CASE(test_full_backlog), CASE(test_no_runtime_directory),
    };

    return cmocka_run_group_tests_name("socket paths", tests, NULL, NULL);
}
