/* SPDX-License-Identifier: MIT */
/* A store with keys: where they come from, what happens without them, and that neither blocks nor keys
 * are in any file of its directory. */
#include "store/store_testing.h"

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { KEYS = 12, BLOCK = 40 * 1024 };

#define KEY_A "a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf"
#define KEY_B "0f0e0d0c0b0a09080706050403020100f0e0d0c0b0a090807060504030201000"

static char key_path[] = "/tmp/store_encrypt_test_XXXXXX";

static void write_keys(const char *text)
{
    int fd = open(key_path, O_WRONLY | O_TRUNC | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static int make_key_file(void **state)
{
    int fd = mkstemp(key_path);

    (void)state;
    return fd < 0 ? -1 : close(fd);
}

static int remove_key_file(void **state)
{
    (void)state;
    return unlink(key_path);
}

static int setup(void **state)
{
    write_keys(KEY_A "\n");
    return st_setup(state);
}

static cascade_options with_keys(void)
{
    cascade_options options = st_options();

    options.key_file = key_path;
    return options;
}

static int try_open(cascade_options options)
{
    cascade_store *store = NULL;
    int code = cascade_store_open(&options, &store);

    if (code == 0)
        st_close(&store);
    else
        assert_null(store);
    return code;
}

static void put_all(cascade_store *store, uint64_t first)
{
    for (uint64_t i = first; i < first + KEYS; i++)
        assert_int_equal(st_put(store, i, i, BLOCK, 100, 0), 0);
}

static void assert_all(cascade_store *store, uint64_t first)
{
    for (uint64_t i = first; i < first + KEYS; i++)
        assert_int_equal(st_get(store, i, i, BLOCK, 100), 0);
}

/* Whether those bytes lie in any file of the store's directory. */
static bool is_in_a_file(const void *bytes, size_t count)
{
    DIR *folder = opendir(st_directory());
    struct dirent *entry;
    bool found = false;

    assert_non_null(folder);
    while ((entry = readdir(folder))) {
        int fd = openat(dirfd(folder), entry->d_name, O_RDONLY | O_CLOEXEC);
        struct stat info;

        assert_int_equal(fstat(fd, &info), 0);
        if (S_ISREG(info.st_mode) && info.st_size > 0) {
            char *image = malloc((size_t)info.st_size);

            assert_int_equal(read(fd, image, (size_t)info.st_size), info.st_size);
            found = found || memmem(image, (size_t)info.st_size, bytes, count);
            free(image);
        }
        close(fd);
    }
    closedir(folder);
    return found;
}

static bool is_block_in_a_file(uint64_t seed)
{
    uint8_t block[BLOCK];
    bool found = false;

    st_fill(block, sizeof block, seed);
    for (size_t at = 0; at < sizeof block; at += 4096)
        found = found || is_in_a_file(block + at, 48);
    return found;
}

static void nothing_plain_is_on_disk(void **state)
{
    uint8_t key[32];
    cascade_store *store = st_open_with(with_keys());

    (void)state;
    for (size_t i = 0; i < sizeof key; i++)
        key[i] = (uint8_t)(0xa0 + i);
    assert_int_equal(st_stats(store).file_encrypted, 1);
    put_all(store, 0);
    assert_int_equal(cascade_store_flush(store), 0);
    for (uint64_t i = 0; i < KEYS; i++)
        assert_false(is_block_in_a_file(i));
    st_close(&store);
    for (uint64_t i = 0; i < KEYS; i++)
        assert_false(is_block_in_a_file(i));
    assert_false(is_in_a_file(key, sizeof key));
    assert_false(is_in_a_file(KEY_A, strlen(KEY_A)));
    store = st_open_with(with_keys());
    assert_all(store, 0);
    put_all(store, 100);
    assert_all(store, 100);
    assert_int_equal(st_stats(store).tiers[CASCADE_TIER_FILE].quarantined, 0);
    st_close(&store);
}

static void plain_stores_are_seen_to_be_plain(void **state)
{
    cascade_store *store = st_open();

    (void)state;
    assert_int_equal(st_stats(store).file_encrypted, 0);
    put_all(store, 0);
    st_close(&store);
    assert_true(is_block_in_a_file(3));
}

static void without_its_keys_a_store_does_not_open(void **state)
{
    cascade_store *store = st_open_with(with_keys());
    cascade_options options = st_options();

    (void)state;
    put_all(store, 0);
    st_close(&store);
    assert_int_equal(try_open(options), CASCADE_ENOKEY);
    assert_non_null(strstr(cascade_last_error(), "agg_rank000_000000.bin"));
    write_keys(KEY_B "\n");
    assert_int_equal(try_open(with_keys()), CASCADE_ENOKEY);
    write_keys(KEY_A "0\n");
    assert_int_equal(try_open(with_keys()), CASCADE_EFORMAT);
    options.key_file = "/nonexistent/keys";
    assert_int_equal(try_open(options), CASCADE_ENOKEY);
    write_keys(KEY_A "\n");
    assert_int_equal(chmod(key_path, 0640), 0);
    assert_int_equal(try_open(with_keys()), CASCADE_EACCES);
    assert_int_equal(chmod(key_path, 0600), 0);
    /* Nothing was harmed by trying. */
    store = st_open_with(with_keys());
    assert_all(store, 0);
    st_close(&store);
}

static void keys_from_everywhere(void **state)
{
    cascade_options options = st_options();
    cascade_store *store = st_open_with(with_keys());

    (void)state;
    put_all(store, 0);
    st_close(&store);
    options.key_command = "echo " KEY_A;
    assert_int_equal(try_open(options), 0);
    options.key_file = key_path;
    assert_int_equal(try_open(options), CASCADE_EINVAL);
    options = st_options();
    setenv("CASCADE_KEY_FILE", key_path, 1);
    assert_int_equal(try_open(options), 0);
    setenv("CASCADE_KEY_COMMAND", "echo " KEY_B, 1);
    assert_int_equal(try_open(options), CASCADE_EINVAL);
    /* An option sets the whole environment aside. */
    assert_int_equal(try_open(with_keys()), 0);
    options.key_command = "echo " KEY_A;
    assert_int_equal(try_open(options), 0);
    options.key_command = NULL;
    unsetenv("CASCADE_KEY_FILE");
    assert_int_equal(try_open(options), CASCADE_ENOKEY);
    setenv("CASCADE_KEY_COMMAND", "echo " KEY_A, 1);
    assert_int_equal(try_open(options), 0);
    unsetenv("CASCADE_KEY_COMMAND");
}

/* Plain, key A, then key B with A behind it: one store. */
static void rotation(void **state)
{
    cascade_store *store = st_open();
    cascade_gc_report report;

    (void)state;
    put_all(store, 0);
    st_close(&store);
    store = st_open_with(with_keys());
    put_all(store, 100);
    st_close(&store);
    write_keys("# new\n" KEY_B "\n# old\n" KEY_A "\n");
    store = st_open_with(with_keys());
    put_all(store, 200);
    st_close(&store);
    store = st_open_with(with_keys());
    for (uint64_t first = 0; first <= 200; first += 100)
        assert_all(store, first);
    assert_int_equal(st_stats(store).tiers[CASCADE_TIER_FILE].quarantined, 0);
    /* A gc leaves nothing that needs the old key, nor anything plain. */
    assert_int_equal(cascade_store_gc(store, false, &report, NULL, NULL), 0);
    st_close(&store);
    write_keys(KEY_B "\n");
    store = st_open_with(with_keys());
    for (uint64_t first = 0; first <= 200; first += 100)
        assert_all(store, first);
    st_close(&store);
    write_keys(KEY_A "\n");
    assert_int_equal(try_open(with_keys()), CASCADE_ENOKEY);
}

/* Equal bytes under two keys are one content, whatever the salt of their record. */
static void dedup_works(void **state)
{
    cascade_store *store = st_open_with(with_keys());

    (void)state;
    put_all(store, 0);
    assert_int_equal(cascade_store_flush(store), 0);
    for (uint64_t i = 0; i < KEYS; i++)
        assert_int_equal(st_put(store, 1000 + i, i, BLOCK, 100, 0), 0);
    st_settle(store);
    assert_int_equal(st_stats(store).contents, KEYS);
    st_close(&store);
    store = st_open_with(with_keys());
    for (uint64_t i = 0; i < KEYS; i++)
        assert_int_equal(st_get(store, 1000 + i, i, BLOCK, 100), 0);
    assert_int_equal(st_stats(store).contents, KEYS);
    st_close(&store);
}

/* A killed owner's blocks are taken over from memory and from unsealed segments. */
static void killed_at_work(void *context)
{
    cascade_options options = with_keys();
    const uint64_t *first = context;
    cascade_store *store = NULL;

    ST_CHECK(cascade_store_open(&options, &store) == 0);
    for (uint64_t i = 0; i < KEYS; i++) {
        ST_CHECK(st_put(store, *first + i, *first + i, BLOCK, 100, 0) == 0);
        if (i == KEYS / 2)
            ST_CHECK(cascade_store_flush(store) == 0);
    }
    _exit(7);
}

static void take_over(void **state)
{
    cascade_store *store;

    (void)state;
    for (uint64_t first = 0; first <= 100; first += 100) {
        st_in_child(killed_at_work, &first, 7);
        if (first == 100)
            st_lose_memory();
        /* Without the key nothing is taken over, and nothing lost. */
        assert_int_equal(try_open(st_options()), CASCADE_ENOKEY);
        store = st_open_with(with_keys());
        for (uint64_t i = first; i < first + (first == 100 ? KEYS / 2 : KEYS); i++)
            assert_int_equal(st_get(store, i, i, BLOCK, 100), 0);
        st_close(&store);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(nothing_plain_is_on_disk, setup, st_teardown),
        cmocka_unit_test_setup_teardown(plain_stores_are_seen_to_be_plain, setup, st_teardown),
        cmocka_unit_test_setup_teardown(without_its_keys_a_store_does_not_open, setup, st_teardown),
        cmocka_unit_test_setup_teardown(keys_from_everywhere, setup, st_teardown),
        cmocka_unit_test_setup_teardown(rotation, setup, st_teardown),
        cmocka_unit_test_setup_teardown(dedup_works, setup, st_teardown),
        cmocka_unit_test_setup_teardown(take_over, setup, st_teardown),
    };

    return cmocka_run_group_tests_name("store_encrypt", tests, make_key_file, remove_key_file);
}
