/* SPDX-License-Identifier: MIT */
/* What else may lie under an arena's name, what dead stores leave, and a full shared memory. */
#include "arena/arena_testing.h"
#include "base/fail.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <cmocka.h>

#define PAGE UINT32_C(65536)
#define MIB  (UINT64_C(1) << 20)

/* ---- damaged and foreign files ------------------------------------------------------- */

typedef struct damaged {
    char path[512];
    csc_arena_header header;
    off_t file_bytes;
} damaged;

static void make_dead(damaged *d)
{
    csc_arena *arena = arena_testing_open(PAGE, 4 * MIB);
    struct stat info;
    int fd;

    arena_testing_go_live(arena);
    snprintf(d->path, sizeof d->path, "%s", csc_arena_path(arena));
    csc_arena_close(&arena, true);
    fd = open(d->path, O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &info), 0);
    d->file_bytes = info.st_size;
    assert_int_equal(pread(fd, &d->header, sizeof d->header, 0), sizeof d->header);
    close(fd);
}

/* Opens with `header` in place; the file stays, whatever comes of it. */
static int open_with(const damaged *d, const void *header, size_t bytes, off_t file_bytes)
{
    csc_arena_options options = arena_testing_options(PAGE, 4 * MIB);
    char *after = malloc(bytes + 1);
    csc_arena *arena = NULL;
    struct stat info;
    bool taken_over;
    int code, fd = open(d->path, O_RDWR);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, file_bytes), 0);
    assert_int_equal(pwrite(fd, header, bytes, 0), (ssize_t)bytes);
    code = csc_arena_open(&options, &arena, &taken_over);
    if (code == 0) {
        assert_true(taken_over); /* never made anew over what was there */
        csc_arena_close(&arena, true);
    } else {
        assert_true(code == CASCADE_EFORMAT || code == CASCADE_ECORRUPT);
        assert_non_null(strstr(csc_fail_text(), d->path));
        assert_int_equal(stat(d->path, &info), 0);
        assert_int_equal(info.st_size, file_bytes > (off_t)bytes ? file_bytes : (off_t)bytes);
        assert_int_equal(pread(fd, after, bytes, 0), bytes);
        assert_memory_equal(after, header, bytes);
    }
    close(fd);
    free(after);
    return code;
}

static void test_foreign_and_cut(void **state)
{
    csc_arena_header header;
    damaged d;

    (void)state;
    make_dead(&d);
    assert_int_equal(open_with(&d, "#!/bin/sh\n", 10, 0), CASCADE_EFORMAT);
    assert_int_equal(open_with(&d, "text", 4, 20000), CASCADE_EFORMAT);
    assert_int_equal(open_with(&d, &d.header, 100, 0), CASCADE_EFORMAT);
    assert_int_equal(open_with(&d, &d.header, sizeof d.header, 0), CASCADE_ECORRUPT);
    assert_int_equal(open_with(&d, &d.header, sizeof d.header, d.file_bytes - 1), CASCADE_ECORRUPT);
    header = d.header;
    header.geometry.version++;
    assert_int_equal(open_with(&d, &header, sizeof header, d.file_bytes), CASCADE_EFORMAT);
    atomic_store(&header.state, 0); /* where another version keeps its state, who knows */
    assert_int_equal(open_with(&d, &header, sizeof header, d.file_bytes), CASCADE_EFORMAT);
    unlink(d.path);
    make_dead(&d);
    assert_int_equal(open_with(&d, &d.header, sizeof d.header, d.file_bytes), 0);
    header = d.header;
    atomic_store(&header.used[CSC_REGION_CONTENTS], header.geometry.regions[CSC_REGION_CONTENTS].max);
    assert_int_equal(open_with(&d, &header, sizeof header, d.file_bytes), CASCADE_ECORRUPT);
    atomic_store(&header.used[CSC_REGION_CONTENTS], UINT32_MAX);
    assert_int_equal(open_with(&d, &header, sizeof header, d.file_bytes), CASCADE_ECORRUPT);
    assert_int_equal(open_with(&d, &d.header, sizeof d.header, d.file_bytes), 0);
    unlink(d.path);
}

static void test_bit_flips(void **state)
{
    damaged d;
    size_t strict = offsetof(csc_arena_header, owner_pid);

    (void)state;
    make_dead(&d);
    for (size_t bit = 0; bit < sizeof d.header * 8; bit += bit < strict * 8 ? 13 : 1) {
        csc_arena_header header = d.header;
        int code;

        ((uint8_t *)&header)[bit / 8] ^= (uint8_t)(1u << bit % 8);
        code = open_with(&d, &header, sizeof header, d.file_bytes);
        /* The geometry and the state are guarded; counters that are wrong but possible are not. */
        if (bit < strict * 8)
            assert_int_not_equal(code, 0);
    }
    for (size_t bit = 0; bit < 32; bit++) {
        csc_arena_header header = d.header;

        atomic_store(&header.state, CSC_ARENA_LIVE ^ (1u << bit));
        assert_int_equal(open_with(&d, &header, sizeof header, d.file_bytes), CASCADE_ECORRUPT);
    }
    assert_int_equal(open_with(&d, &d.header, sizeof d.header, d.file_bytes), 0);
    unlink(d.path);
}

/* Another store's arena under this one's name. */
static void test_other_store(void **state)
{
    csc_arena_options options = arena_testing_options(PAGE, 4 * MIB);
    csc_arena *arena = NULL;
    char other_path[512];
    bool taken_over;
    damaged d;

    (void)state;
    make_dead(&d);
    options.store_uuid[0] = 77;
    assert_int_equal(csc_arena_open(&options, &arena, &taken_over), 0);
    snprintf(other_path, sizeof other_path, "%s", csc_arena_path(arena));
    csc_arena_close(&arena, false);
    assert_int_equal(rename(d.path, other_path), 0);
    assert_int_equal(csc_arena_open(&options, &arena, &taken_over), CASCADE_EFORMAT);
    assert_non_null(strstr(csc_fail_text(), "another store"));
    assert_int_equal(access(other_path, F_OK), 0);
    unlink(other_path);
}

/* ---- orphans ------------------------------------------------------------------------- */

static void make_store(const char *directory, bool exists)
{
    char path[512];
    FILE *file;

    snprintf(path, sizeof path, "%s/cascade.conf", directory);
    if (exists) {
        assert_int_equal(mkdir(directory, 0700), 0);
        file = fopen(path, "w");
        assert_non_null(file);
        fclose(file);
    } else {
        unlink(path);
        rmdir(directory);
    }
}

static void test_orphans(void **state)
{
    csc_arena_options options = arena_testing_options(PAGE, MIB);
    char directories[3][300], paths[3][512], stray[300];
    csc_arena *arenas[3];
    bool taken_over;

    (void)state;
    for (int i = 0; i < 3; i++) {
        snprintf(directories[i], sizeof directories[i], "%s/.store%d", arena_testing_folder(), i);
        make_store(directories[i], true);
        options.directory = directories[i];
        assert_int_equal(csc_arena_open(&options, &arenas[i], &taken_over), 0);
        arena_testing_go_live(arenas[i]);
        snprintf(paths[i], sizeof paths[i], "%s", csc_arena_path(arenas[i]));
    }
    snprintf(stray, sizeof stray, "%s/cascade-%u-0123456789abcdef.arena", arena_testing_folder(),
             (unsigned)geteuid());
    close(open(stray, O_CREAT | O_RDWR, 0600));
    csc_arena_close(&arenas[0], true); /* 0: owner dead, store there */
    csc_arena_close(&arenas[1], true); /* 1: owner dead, store gone */
    make_store(directories[1], false);
    make_store(directories[2], false); /* 2: store gone, owner lives */
    csc_arena_collect_orphans(arena_testing_folder());
    assert_int_equal(access(paths[0], F_OK), 0);
    assert_int_not_equal(access(paths[1], F_OK), 0);
    assert_int_equal(access(paths[2], F_OK), 0);
    assert_int_equal(access(stray, F_OK), 0); /* not known to be an arena: not ours to remove */
    csc_arena_close(&arenas[2], true);
    make_store(directories[0], false);
    csc_arena_collect_orphans(arena_testing_folder());
    assert_int_equal(unlink(stray), 0);
    assert_int_equal(arena_testing_files(), 0);
    csc_arena_collect_orphans("/nowhere/at/all");
}

/* A store on a file system that is not mounted at the moment is not gone. */
static void test_store_that_is_away(void **state)
{
    csc_arena_options options = arena_testing_options(PAGE, MIB);
    char mounted[200], directory[300], path[512];
    csc_arena *arena;
    bool taken_over;

    (void)state;
    snprintf(mounted, sizeof mounted, "%s/.mounted", arena_testing_folder());
    snprintf(directory, sizeof directory, "%s/store", mounted);
    assert_int_equal(mkdir(mounted, 0700), 0);
    if (mount("tmpfs", mounted, "tmpfs", 0, "size=64k") != 0) {
        print_message("# skipped: no tmpfs can be mounted here\n");
        rmdir(mounted);
        skip();
    }
    make_store(directory, true);
    options.directory = directory;
    assert_int_equal(csc_arena_open(&options, &arena, &taken_over), 0);
    arena_testing_go_live(arena);
    snprintf(path, sizeof path, "%s", csc_arena_path(arena));
    csc_arena_close(&arena, true);
    assert_int_equal(umount(mounted), 0);
    csc_arena_collect_orphans(arena_testing_folder());
    assert_int_equal(unlink(path), 0); /* it was still there */
    rmdir(mounted);
}

/* ---- a full shared memory ------------------------------------------------------------ */

/* Exit status 77: the system gives no tmpfs. */
static void fill_it(void *context)
{
    uint64_t room = *(uint64_t *)context, stored = 0, capacity;
    csc_arena_options options = arena_testing_options(PAGE, 64 * MIB);
    csc_arena *arena;
    bool taken_over;

    if (!arena_testing_mount(room))
        _exit(77);
    CHILD_CHECK(csc_arena_open(&options, &arena, &taken_over) == 0);
    CHILD_CHECK(csc_arena_start_prefault(arena) == 0);
    for (uint32_t i = 0; i < 1000; i++) {
        csc_extents *extents = &arena_testing_contents(arena)[i].dram;
        int code = csc_arena_allocate(arena, 4 * PAGE, 0, extents);

        CHILD_CHECK(code == 0 || code == CASCADE_ENOSPC);
        if (code)
            break;
        csc_arena_free(arena, extents);
        arena_testing_store(arena, i,
                            4 * PAGE); /* touches every byte: a page that is not there is SIGBUS */
        stored++;
    }
    CHILD_CHECK(csc_arena_is_short(arena));
    capacity = csc_arena_capacity(arena);
    CHILD_CHECK(stored > 0 && stored * 4 * PAGE <= capacity && capacity < room);
    for (uint32_t i = 0; i < stored; i++)
        CHILD_CHECK(arena_testing_is_right(arena, i));
    /* It goes on within what there is. */
    for (uint32_t i = 0; i < 3 * stored; i++) {
        csc_arena_free(arena, &arena_testing_contents(arena)[i % stored].dram);
        arena_testing_store(arena, i % (uint32_t)stored, 4 * PAGE);
        CHILD_CHECK(arena_testing_is_right(arena, i % (uint32_t)stored));
    }
    /* The index finds no room either, in the end, and says so. */
    for (uint32_t wanted = 10000;; wanted += 10000) {
        int code = csc_arena_grow(arena, CSC_REGION_KEYS, wanted);

        CHILD_CHECK(code == 0 || code == CASCADE_ENOSPC);
        if (code)
            break;
    }
    csc_arena_close(&arena, false);
    CHILD_CHECK(arena_testing_files() == 0);
}

static void open_without_room(void *context)
{
    csc_arena_options options = arena_testing_options(PAGE, 64 * MIB);
    csc_arena *arena = NULL;
    bool taken_over;

    (void)context;
    if (!arena_testing_mount(128 << 10))
        _exit(77);
    CHILD_CHECK(csc_arena_open(&options, &arena, &taken_over) == CASCADE_ENOSPC);
    CHILD_CHECK(arena_testing_files() == 0);
}

static void test_full(void **state)
{
    uint64_t rooms[] = {48 * MIB, 13 * MIB, 3 * MIB};

    (void)state;
    for (size_t i = 0; i < sizeof rooms / sizeof rooms[0]; i++) {
        int result = arena_testing_in_child(fill_it, &rooms[i]);

        if (result == 77) {
            print_message("# skipped: no tmpfs can be mounted here\n");
            skip();
        }
        assert_int_equal(result, 0);
    }
    assert_int_equal(arena_testing_in_child(open_without_room, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ARENA_TESTING_CASE(test_foreign_and_cut),    ARENA_TESTING_CASE(test_bit_flips),
        ARENA_TESTING_CASE(test_other_store),        ARENA_TESTING_CASE(test_orphans),
        ARENA_TESTING_CASE(test_store_that_is_away), ARENA_TESTING_CASE(test_full),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
