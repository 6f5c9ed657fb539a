/* SPDX-License-Identifier: MIT */
/* What a store runs with, and bad settings, directories and arenas: a named error, and nothing lost. */
#include "format/arena_format.h"
#include "store/store_testing.h"

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { KEYS = 20, BLOCK = 30 * 1024, NOBODY = 65534 };

static char settings[600];

static void make_store(void)
{
    cascade_store *store = st_open();

    for (uint64_t i = 0; i < KEYS; i++)
        assert_int_equal(st_put(store, i, i, BLOCK, 10, 0), 0);
    st_close(&store);
    snprintf(settings, sizeof settings, "%s/cascade.conf", st_directory());
}

static void assert_all(cascade_store *store)
{
    for (uint64_t i = 0; i < KEYS; i++)
        assert_int_equal(st_get(store, i, i, BLOCK, 10), 0);
}

static uint64_t capacity(cascade_store *store)
{
    return st_stats(store).tiers[CASCADE_TIER_DRAM].capacity_bytes;
}

static size_t read_settings(char *text, size_t room)
{
    int fd = open(settings, O_RDONLY | O_CLOEXEC);
    ssize_t bytes;

    assert_true(fd >= 0);
    bytes = read(fd, text, room);
    assert_in_range(bytes, 10, room - 1);
    close(fd);
    return (size_t)bytes;
}

static void write_settings(const char *text, size_t bytes)
{
    int fd = open(settings, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, bytes), bytes);
    close(fd);
}

/* The open fails with one of the codes for bad files, says so, and leaves nothing behind. */
static void assert_bad(void)
{
    cascade_options options = st_options();
    cascade_store *store = NULL;
    int code = cascade_store_open(&options, &store);

    assert_true(code == CASCADE_EFORMAT || code == CASCADE_ECORRUPT || code == CASCADE_EINVAL);
    assert_string_not_equal(cascade_last_error(), "");
    assert_null(store);
    assert_int_equal(st_shm_count(), 0);
}

/* ---- the settings file ----------------------------------------------------------------------- */

static void bad_settings_files(void **state)
{
    static char text[4096], bad[200000];
    cascade_store *store;
    size_t bytes;

    (void)state;
    make_store();
    bytes = read_settings(text, sizeof text);
    for (size_t keep = 0; keep < bytes; keep += 7) { /* cut short */
        write_settings(text, keep);
        assert_bad();
    }
    for (size_t at = 0; at < bytes; at += 3) { /* flipped */
        memcpy(bad, text, bytes);
        bad[at] = (char)(bad[at] ^ 1);
        write_settings(bad, bytes);
        assert_bad();
    }
    memset(bad, 'x', sizeof bad); /* huge, and no settings at all */
    write_settings(bad, sizeof bad);
    assert_bad();
    memcpy(bad, text, bytes); /* begins well, then goes on for too long */
    write_settings(bad, sizeof bad);
    assert_bad();
    memset(bad, 0, sizeof bad);
    write_settings(bad, 1000);
    assert_bad();
    snprintf(bad, sizeof bad, "%.*sunknown_name = 1\n", (int)bytes, text);
    write_settings(bad, strlen(bad));
    assert_bad();
    assert_int_equal(unlink(settings), 0);
    assert_int_equal(mkdir(settings, 0700), 0);
    assert_bad();
    assert_int_equal(rmdir(settings), 0);
    write_settings(text, bytes);
    store = st_open();
    assert_all(store);
    st_close(&store);
}

/* A store that could not be made leaves no settings that stand in the way of making it rightly. */
static void a_failed_creation_leaves_nothing(void **state)
{
    static const struct {
        uint64_t dram, page, budget, segment;
        const char *policy;
        uint32_t rank, low, high;
    } bad[] = {
        {.page = 3000},
        {.page = 1024},
        {.page = 4 * 1024 * 1024},
        {.dram = 100},
        {.segment = 100},
        {.budget = 1024 * 1024, .segment = 1024 * 1024},
        {.policy = "nonsense"},
        {.policy = "a policy with a name that is far too long"},
        {.dram = UINT64_MAX},
        {.rank = 1000},
        {.low = 95, .high = 90},
        {.high = 101},
    };
    cascade_store *store = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cascade_options options = st_options();

        options.dram_bytes = bad[i].dram ? bad[i].dram : options.dram_bytes;
        options.page_bytes = bad[i].page ? bad[i].page : options.page_bytes;
        options.file_budget_bytes = bad[i].budget;
        options.segment_bytes = bad[i].segment;
        options.policy = bad[i].policy;
        options.rank = bad[i].rank;
        options.watermark_low_pct = bad[i].low;
        options.watermark_high_pct = bad[i].high;
        assert_int_equal(cascade_store_open(&options, &store), CASCADE_EINVAL);
        assert_string_not_equal(cascade_last_error(), "");
        assert_int_equal(st_shm_count(), 0);
        /* What the settings file would not have kept does not keep the store from being made. */
        if (bad[i].rank || bad[i].low || bad[i].high)
            continue;
        options = st_options();
        options.open_flags = CASCADE_OPEN_NO_PREFAULT;
        assert_int_equal(cascade_store_open(&options, &store), CASCADE_ENOSTORE);
    }
    assert_null(store);
    store = st_open();
    st_close(&store);
}

/* ---- who wins -------------------------------------------------------------------------------- */

static void options_then_environment_then_settings(void **state)
{
    cascade_options options = st_options();
    cascade_store *store;

    (void)state;
    make_store(); /* 4 MiB of dram */
    options.dram_bytes = options.page_bytes = 0;
    store = st_open_with(options);
    assert_int_equal(capacity(store), 4 * ST_MIB);
    assert_all(store);
    st_close(&store);
    setenv("CASCADE_DRAM", "8MiB", 1);
    store = st_open_with(options);
    assert_int_equal(capacity(store), 8 * ST_MIB);
    st_close(&store);
    options.dram_bytes = 2 * ST_MIB;
    store = st_open_with(options);
    assert_int_equal(capacity(store), 2 * ST_MIB);
    assert_all(store);
    st_close(&store);
    unsetenv("CASCADE_DRAM");
    setenv("CASCADE_FILE_BUDGET", "64M", 1);
    setenv("CASCADE_POLICY", "lru", 1);
    store = st_open_with(options);
    assert_int_equal(st_stats(store).tiers[CASCADE_TIER_FILE].capacity_bytes, 64 * ST_MIB);
    st_close(&store);
    unsetenv("CASCADE_FILE_BUDGET");
    /* None of it was written to the settings file. */
    options.dram_bytes = 0;
    store = st_open_with(options);
    assert_int_equal(capacity(store), 4 * ST_MIB);
    assert_int_equal(st_stats(store).tiers[CASCADE_TIER_FILE].capacity_bytes, 0);
    st_close(&store);
    setenv("CASCADE_DIR", st_directory(), 1);
    setenv("CASCADE_SHM_DIR", st_shm(), 1);
    options = (cascade_options){.struct_bytes = sizeof options, .open_flags = CASCADE_OPEN_NO_PREFAULT};
    store = st_open_with(options);
    assert_all(store);
    assert_int_equal(st_shm_count(), 1);
    st_close(&store);
    /* A caller of an older library knows fewer options. */
    options.struct_bytes = offsetof(cascade_options, rank);
    options.rank = 77777;
    store = st_open_with(options);
    st_close(&store);
}

static void zero_in_the_environment_is_the_default(void **state)
{
    cascade_options options = st_options();
    cascade_store *store;

    (void)state;
    options.dram_bytes = 0;
    setenv("CASCADE_DRAM", "0", 1);
    setenv("CASCADE_HASH_THREADS", "0", 1);
    store = st_open_with(options);
    unsetenv("CASCADE_DRAM");
    unsetenv("CASCADE_HASH_THREADS");
    assert_int_equal(st_stats(store).tiers[CASCADE_TIER_DRAM].capacity_bytes, 1024 * ST_MIB);
    assert_int_equal(st_put(store, 1, 1, 1000, 0, CASCADE_PUT_SYNC), 0);
    st_close(&store);
}

static void a_bad_environment(void **state)
{
    static const char *const bad[][2] = {
        {"CASCADE_DRAM", "plenty"},      {"CASCADE_DRAM", "-1"},
        {"CASCADE_FILE_BUDGET", "1x"},   {"CASCADE_SEGMENT", "99999999999999999999"},
        {"CASCADE_RANK", "1000"},        {"CASCADE_RANK", "-1"},
        {"CASCADE_RANK", "1 "},          {"CASCADE_HASH_THREADS", "65"},
        {"CASCADE_LEASE_MS", "soon"},    {"CASCADE_WATERMARK_LOW", "101"},
        {"CASCADE_WATERMARK_HIGH", "5"}, {"CASCADE_PUT_WAIT_MS", "99999999999"},
        {"CASCADE_POLICY", "random"},
    };
    cascade_options options = st_options();
    cascade_store *store = NULL;

    (void)state;
    make_store();
    options.dram_bytes = 0;
    options.put_wait_ms = 0;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        setenv(bad[i][0], bad[i][1], 1);
        assert_int_equal(cascade_store_open(&options, &store), CASCADE_EINVAL);
        assert_string_not_equal(cascade_last_error(), "");
        unsetenv(bad[i][0]);
    }
    assert_null(store);
    store = st_open();
    assert_all(store);
    st_close(&store);
}

static void reopened_with_other_options(void **state)
{
    static const char *const policies[] = {"published", "lru", "hazard"};
    cascade_options options = st_options();
    cascade_store *store = NULL;

    (void)state;
    make_store();
    for (uint64_t i = 0; i < 3; i++) {
        options.policy = policies[i];
        options.dram_bytes = (i + 1) * 512 * ST_KIB;
        options.segment_bytes = (i + 1) * 128 * ST_KIB;
        options.hash_threads = (uint32_t)i + 1;
        options.file_budget_bytes = i == 1 ? 64 * ST_MIB : 0;
        store = st_open_with(options);
        assert_int_equal(capacity(store), options.dram_bytes);
        assert_all(store);
        assert_int_equal(st_put(store, 100 + i, 100 + i, BLOCK, 0, 0), 0);
        st_close(&store);
    }
    options.page_bytes = 8192; /* fixed at creation */
    assert_int_equal(cascade_store_open(&options, &store), CASCADE_EINVAL);
    assert_null(store);
    store = st_open();
    assert_all(store);
    assert_int_equal(st_stats(store).keys, KEYS + 3);
    st_close(&store);
}

/* ---- directories ----------------------------------------------------------------------------- */

static void bad_directories(void **state)
{
    static char long_path[9000];
    cascade_options options = st_options();
    cascade_store *store = NULL;
    char path[600];

    (void)state;
    make_store();
    options.directory = settings; /* a file */
    assert_int_equal(cascade_store_open(&options, &store), CASCADE_ENOSTORE);
    options.open_flags |= CASCADE_OPEN_CREATE | CASCADE_OPEN_EXCLUSIVE;
    assert_int_equal(cascade_store_open(&options, &store), CASCADE_ENOSTORE);
    assert_non_null(strstr(cascade_last_error(), "is a file"));
    memset(long_path, 'd', sizeof long_path - 1);
    long_path[0] = '/';
    options.directory = long_path;
    assert_true(cascade_store_open(&options, &store) < 0);
    options = st_options();
    snprintf(path, sizeof path, "%s/nowhere", st_shm());
    options.shm_directory = path;
    assert_true(cascade_store_open(&options, &store) < 0);
    options.shm_directory = long_path;
    assert_true(cascade_store_open(&options, &store) < 0);
    assert_null(store);
    store = st_open();
    assert_all(store);
    st_close(&store);
}

static void become_nobody(void)
{
    ST_CHECK(setgid(NOBODY) == 0);
    ST_CHECK(setuid(NOBODY) == 0);
}

static void open_without_rights(void *context)
{
    cascade_options options = st_options();
    cascade_store *store = NULL;

    become_nobody();
    if (!*(const bool *)context)
        options.open_flags &= ~(uint32_t)CASCADE_OPEN_CREATE;
    ST_CHECK(cascade_store_open(&options, &store) == CASCADE_EACCES);
    ST_CHECK(store == NULL);
    ST_CHECK(strlen(cascade_last_error()) > 0);
}

static void unreadable_directories(void **state)
{
    cascade_store *store;

    (void)state;
    if (geteuid() != 0) {
        print_message("# skipped: only root can become somebody else\n");
        skip();
    }
    for (int create = 0; create < 2; create++) { /* no store yet, and no right to make one */
        bool flag = true;

        assert_int_equal(chmod(st_directory(), create ? 0555 : 0700), 0);
        st_in_child(open_without_rights, &flag, 0);
    }
    assert_int_equal(chmod(st_directory(), 0700), 0);
    make_store();
    for (int create = 0; create < 2; create++) {
        bool flag = create;

        assert_int_equal(chmod(st_directory(), 0700), 0); /* not even to look into */
        st_in_child(open_without_rights, &flag, 0);
        assert_int_equal(chmod(st_directory(), 0755), 0);
        assert_int_equal(chmod(settings, 0600), 0); /* the settings alone */
        st_in_child(open_without_rights, &flag, 0);
        assert_int_equal(chmod(settings, 0644), 0);
        assert_int_equal(chmod(st_shm(), 0755), 0); /* all but shared memory */
        st_in_child(open_without_rights, &flag, 0);
    }
    store = st_open();
    assert_all(store);
    st_close(&store);
}

/* ---- arenas ---------------------------------------------------------------------------------- */

static void put_and_die(void *context)
{
    cascade_store *store = st_open();

    (void)context;
    ST_CHECK(st_put(store, 100, 100, BLOCK, 0, 0) == 0);
    raise(SIGKILL);
}

static void flip_in_arena(const char *path, off_t at)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    uint8_t byte;

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 0x40;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

/* Path of the one arena there is. */
static void find_arena(char *path, size_t room)
{
    DIR *folder = opendir(st_shm());
    struct dirent *entry;

    assert_non_null(folder);
    path[0] = 0;
    while ((entry = readdir(folder)))
        if (entry->d_name[0] != '.')
            snprintf(path, room, "%s/%s", st_shm(), entry->d_name);
    closedir(folder);
    assert_int_not_equal(path[0], 0);
}

static void bad_arenas(void **state)
{
    static const off_t places[] = {
        offsetof(csc_arena_geometry, magic),         offsetof(csc_arena_geometry, version),
        offsetof(csc_arena_geometry, store_uuid),    offsetof(csc_arena_geometry, regions),
        offsetof(csc_arena_geometry, directory) + 3, offsetof(csc_arena_header, geometry_checksum)};
    cascade_options options = st_options();
    cascade_store *store = NULL;
    char path[600];

    (void)state;
    make_store();
    st_in_child(put_and_die, NULL, -SIGKILL);
    find_arena(path, sizeof path);
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        int code;

        flip_in_arena(path, places[i]);
        code = cascade_store_open(&options, &store);
        assert_true(code == CASCADE_EFORMAT || code == CASCADE_ECORRUPT);
        assert_non_null(strstr(cascade_last_error(), path)); /* says which file is in the way */
        assert_null(store);
        assert_int_equal(st_shm_count(), 1); /* and leaves it: it may hold what is nowhere else */
        flip_in_arena(path, places[i]);
    }
    options.dram_bytes = 16 * ST_MIB; /* what is taken over keeps its size */
    store = st_open_with(options);
    assert_int_equal(capacity(store), 4 * ST_MIB);
    assert_int_equal(st_get(store, 100, 100, BLOCK, 0), 0);
    assert_all(store);
    st_close(&store);
}

/* No arena at all, but a file of its name. */
static void a_foreign_file_for_an_arena(void **state)
{
    cascade_options options = st_options();
    cascade_store *store = NULL;
    char path[600];
    uint8_t noise[9000];
    int fd, code;

    (void)state;
    make_store();
    st_in_child(put_and_die, NULL, -SIGKILL);
    find_arena(path, sizeof path);
    st_fill(noise, sizeof noise, 5);
    for (size_t bytes = 10; bytes <= sizeof noise; bytes += 4495) {
        fd = open(path, O_RDWR | O_TRUNC | O_CLOEXEC);
        assert_int_equal(write(fd, noise, bytes), bytes);
        close(fd);
        code = cascade_store_open(&options, &store);
        assert_true(code == CASCADE_EFORMAT || code == CASCADE_ECORRUPT);
        assert_null(store);
        assert_int_equal(st_shm_count(), 1);
    }
    assert_int_equal(unlink(path), 0);
    store = st_open();
    assert_all(store);
    st_close(&store);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, st_setup, st_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(bad_settings_files),
        CASE(a_failed_creation_leaves_nothing),
        CASE(options_then_environment_then_settings),
        CASE(zero_in_the_environment_is_the_default),
        CASE(a_bad_environment),
        CASE(reopened_with_other_options),
        CASE(bad_directories),
        CASE(unreadable_directories),
        CASE(bad_arenas),
        CASE(a_foreign_file_for_an_arena),
    };

    return cmocka_run_group_tests_name("store settings", tests, NULL, NULL);
}
