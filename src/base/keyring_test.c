/* SPDX-License-Identifier: MIT */
#include "base/keyring.h"

#include "base/clock.h"
#include "base/fail.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* Bytes 00 to 1f; its id is computed apart from this code, in docs/formats.md. */
#define KEY_A    "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
#define KEY_A_ID UINT64_C(0x38d26a477d487466)
#define KEY_B    "FFeeDDccBBaa99887766554433221100000102030405060708090a0b0c0d0e0f"

static char folder[] = "/tmp/keyring_test_XXXXXX";
static char path[sizeof folder + 16];

static int make_folder(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/keys", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(folder);
}

static void write_file(const char *text, size_t bytes, mode_t mode)
{
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    assert_int_equal(fchmod(fileno(file), mode), 0);
    fclose(file);
}

static int parse(const char *text)
{
    csc_keyring *ring = NULL;
    int code = csc_keyring_parse(text, strlen(text), &ring);

    assert_true((code == 0) == (ring != NULL));
    csc_keyring_destroy(&ring);
    assert_null(ring);
    return code;
}

static void keys_are_read(void **state)
{
    static const char text[] = "# the new one\n\n \t" KEY_A " \r\n#" KEY_A "\n" KEY_B;
    csc_keyring *ring;
    uint8_t bytes[32];
    uint64_t id_b;

    (void)state;
    assert_int_equal(csc_keyring_parse(text, strlen(text), &ring), 0);
    assert_int_equal(csc_keyring_count(ring), 2);
    assert_true(csc_keyring_first(ring) == KEY_A_ID);
    for (uint8_t i = 0; i < 32; i++)
        bytes[i] = i;
    assert_memory_equal(csc_keyring_find(ring, KEY_A_ID), bytes, 32);
    assert_true(csc_key_id(bytes) == KEY_A_ID);
    memcpy(bytes,
           "\xff\xee\xdd\xcc\xbb\xaa\x99\x88\x77\x66\x55\x44\x33\x22\x11\0\0\1\2\3\4\5\6\7\x8\x9\xa\xb",
           28);
    memcpy(bytes + 28, "\xc\xd\xe\xf", 4);
    id_b = csc_key_id(bytes);
    assert_memory_equal(csc_keyring_find(ring, id_b), bytes, 32);
    assert_null(csc_keyring_find(ring, 1));
    assert_null(csc_keyring_find(ring, 0));
    assert_null(csc_keyring_find(NULL, KEY_A_ID));
    assert_int_equal(csc_keyring_first(NULL), 0);
    csc_keyring_destroy(&ring);
}

static void bad_text_is_refused_and_not_told(void **state)
{
    static const char *const bad[] = {"",
                                      "\n",
                                      "#" KEY_A "\n",
                                      "x" KEY_A,
                                      KEY_A "0",
                                      KEY_A " " KEY_B,
                                      KEY_A "\n" KEY_B "\n" KEY_A,
                                      KEY_A "\n0102\n",
                                      "0x" KEY_A,
                                      KEY_A "\n" KEY_B " # old\n"};
    char many[65 * 65 + 1];

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(parse(bad[i]), CASCADE_EFORMAT);
        assert_null(strstr(csc_fail_text(), "0102"));
    }
    assert_int_equal(parse(KEY_A "\nwrong\n"), CASCADE_EFORMAT);
    assert_non_null(strstr(csc_fail_text(), "line 2"));
    for (unsigned i = 0; i < 65; i++)
        snprintf(many + (size_t)65 * i, 66, "%064x\n", i + 1);
    assert_int_equal(parse(many), CASCADE_EFORMAT);
    many[64 * 65] = 0;
    assert_int_equal(parse(many), 0);
}

static void files(void **state)
{
    csc_keyring *ring = NULL;
    char *big = malloc(CSC_KEYRING_TEXT_BYTES + 1);

    (void)state;
    assert_int_equal(csc_keyring_load(path, NULL, &ring), CASCADE_ENOKEY);
    write_file(KEY_A "\n", 65, 0600);
    assert_int_equal(csc_keyring_load(path, "", &ring), 0);
    assert_true(csc_keyring_first(ring) == KEY_A_ID);
    csc_keyring_destroy(&ring);
    chmod(path, 0400);
    assert_int_equal(csc_keyring_load(path, NULL, &ring), 0);
    csc_keyring_destroy(&ring);
    static const mode_t open_modes[] = {0640, 0604, 0620, 0602, 0644};
    for (size_t i = 0; i < sizeof open_modes / sizeof open_modes[0]; i++) {
        chmod(path, open_modes[i]);
        assert_int_equal(csc_keyring_load(path, NULL, &ring), CASCADE_EACCES);
        assert_non_null(strstr(csc_fail_text(), "chmod 600"));
    }
    write_file(KEY_A "\n" KEY_A "\n", 130, 0600);
    assert_int_equal(csc_keyring_load(path, NULL, &ring), CASCADE_EFORMAT);
    assert_non_null(strstr(csc_fail_text(), path));
    assert_non_null(strstr(csc_fail_text(), "line 2"));
    memset(big, '\n', CSC_KEYRING_TEXT_BYTES + 1);
    memcpy(big, KEY_A, 64);
    write_file(big, CSC_KEYRING_TEXT_BYTES + 1, 0600);
    assert_int_equal(csc_keyring_load(path, NULL, &ring), CASCADE_EFORMAT);
    write_file(big, CSC_KEYRING_TEXT_BYTES, 0600);
    assert_int_equal(csc_keyring_load(path, NULL, &ring), 0);
    csc_keyring_destroy(&ring);
    free(big);
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(csc_keyring_load(path, NULL, &ring), CASCADE_EFORMAT);
    assert_int_equal(csc_keyring_load(folder, NULL, &ring), CASCADE_EFORMAT);
    assert_int_equal(csc_keyring_load(path, "cat", &ring), CASCADE_EINVAL);
    assert_null(ring);
    assert_int_equal(csc_keyring_load(NULL, NULL, &ring), 0);
    assert_null(ring);
    unlink(path);
}

static int run(const char *command, uint32_t limit_ms)
{
    csc_keyring *ring = NULL;
    int code = csc_keyring_run_command(command, limit_ms, &ring);

    assert_true((code == 0) == (ring != NULL));
    if (ring)
        assert_true(csc_keyring_first(ring) == KEY_A_ID);
    csc_keyring_destroy(&ring);
    return code;
}

static void commands(void **state)
{
    static const char suicide[] = "#!/bin/sh\necho " KEY_A "\nkill -9 $$\n";
    char line[200];

    (void)state;
    assert_int_equal(run("echo " KEY_A, 10000), 0);
    assert_int_equal(run("  printf\t" KEY_A "\\n" KEY_B "  ", 10000), 0);
    /* What a shell would do is not done. */
    assert_int_equal(run("echo " KEY_A " ; true", 10000), CASCADE_EFORMAT);
    assert_int_equal(run("echo \"" KEY_A "\"", 10000), CASCADE_EFORMAT);
    /* It has nothing to read. */
    assert_int_equal(run("cat", 10000), CASCADE_EFORMAT);
    assert_int_equal(run("false", 10000), CASCADE_ENOKEY);
    assert_non_null(strstr(csc_fail_text(), "status 1"));
    assert_int_equal(run("/no/such/program " KEY_A, 10000), CASCADE_ENOKEY);
    assert_null(strstr(csc_fail_text(), KEY_A));
    assert_int_equal(run("head -c 65537 /dev/zero", 10000), CASCADE_EFORMAT);
    assert_int_equal(run("cat /dev/zero", 10000), CASCADE_EFORMAT);
    assert_int_equal(run(" \t ", 10000), CASCADE_EINVAL);
    strcpy(line, "echo");
    for (int i = 0; i < 63; i++)
        strcat(line, " #");
    assert_int_equal(run(line, 10000), CASCADE_EFORMAT);
    strcat(line, " #");
    assert_int_equal(run(line, 10000), CASCADE_EINVAL);
    write_file(suicide, strlen(suicide), 0700);
    assert_int_equal(run(path, 10000), CASCADE_ENOKEY);
    unlink(path);
}

/* Whether any process of a group is left; the kernel may take a moment to end them. */
static bool group_ends(pid_t group)
{
    for (int i = 0; i < 2000; i++) {
        if (kill(-group, 0) != 0 && errno == ESRCH)
            return true;
        usleep(5000);
    }
    return false;
}

static void slow_commands_are_killed_with_their_children(void **state)
{
    static const char script[] = "#!/bin/sh\necho $$ >&2\nsleep 1000 &\nexec sleep 1000\n";
    char number[32] = "";
    int old_error = dup(2);
    int ends[2];

    (void)state;
    write_file(script, strlen(script), 0700);
    assert_int_equal(pipe(ends), 0);
    dup2(ends[1], 2);
    close(ends[1]);
    int code = run(path, 500);
    dup2(old_error, 2);
    close(old_error);
    assert_int_equal(code, CASCADE_ETIMEDOUT);
    assert_true(read(ends[0], number, sizeof number - 1) > 0);
    close(ends[0]);
    assert_true(group_ends(atoi(number)));
    /* Its output is closed, but it stays. */
    static const char closed[] = "#!/bin/sh\necho " KEY_A "\nexec sleep 1000 >&-\n";
    write_file(closed, strlen(closed), 0700);
    assert_int_equal(run(path, 300), CASCADE_ETIMEDOUT);
    unlink(path);
}

static void hosts_without_children_states(void **state)
{
    void (*old)(int) = signal(SIGCHLD, SIG_IGN);

    (void)state;
    assert_int_equal(run("echo " KEY_A, 10000), 0);
    signal(SIGCHLD, old);
}

/* A forked child has no keys, and may destroy what it has. */
static void forked_children_have_no_keys(void **state)
{
    csc_keyring *ring;
    pid_t child;
    int status;

    (void)state;
    assert_int_equal(csc_keyring_parse(KEY_A, 64, &ring), 0);
    child = fork();
    if (child == 0) {
        bool found = csc_keyring_find(ring, KEY_A_ID) != NULL;

        csc_keyring_destroy(&ring);
        _exit(found);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_non_null(csc_keyring_find(ring, KEY_A_ID));
    csc_keyring_destroy(&ring);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_are_read),
        cmocka_unit_test(bad_text_is_refused_and_not_told),
        cmocka_unit_test(files),
        cmocka_unit_test(commands),
        cmocka_unit_test(slow_commands_are_killed_with_their_children),
        cmocka_unit_test(hosts_without_children_states),
        cmocka_unit_test(forked_children_have_no_keys),
    };

    return cmocka_run_group_tests_name("keyring", tests, make_folder, remove_folder);
}
