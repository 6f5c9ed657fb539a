/* SPDX-License-Identifier: MIT */
#include "arena/arena_testing.h"
#include "tier/tier_suite.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include <cmocka.h>

static char folder[256];

int arena_testing_setup(void **state)
{
    const char *base = getenv("CASCADE_SHM_DIR");

    (void)state;
    snprintf(folder, sizeof folder, "%s/arena_test.XXXXXX", base && *base ? base : "/dev/shm");
    assert_non_null(mkdtemp(folder));
    return 0;
}

int arena_testing_teardown(void **state)
{
    struct dirent *entry;
    DIR *listed = opendir(folder);
    size_t left = 0;

    (void)state;
    assert_non_null(listed);
    while ((entry = readdir(listed)))
        if (entry->d_name[0] != '.') {
            print_error("left in shared memory: %s\n", entry->d_name);
            unlinkat(dirfd(listed), entry->d_name, 0);
            left++;
        }
    closedir(listed);
    rmdir(folder);
    return left ? -1 : 0;
}

const char *arena_testing_folder(void)
{
    return folder;
}

size_t arena_testing_files(void)
{
    struct dirent *entry;
    DIR *listed = opendir(folder);
    size_t count = 0;

    if (!listed)
        return 0;
    while ((entry = readdir(listed)))
        count += entry->d_name[0] != '.';
    closedir(listed);
    return count;
}

csc_arena_options arena_testing_options(uint32_t page_bytes, uint64_t dram_bytes)
{
    return (csc_arena_options){.shm_directory = folder,
                               .directory = "/nowhere/store",
                               .store_uuid = {1, 2, 3},
                               .page_bytes = page_bytes,
                               .dram_bytes = dram_bytes};
}

csc_arena *arena_testing_open(uint32_t page_bytes, uint64_t dram_bytes)
{
    csc_arena_options options = arena_testing_options(page_bytes, dram_bytes);
    csc_arena *arena = NULL;
    bool taken_over = true;

    assert_int_equal(csc_arena_open(&options, &arena, &taken_over), 0);
    assert_false(taken_over);
    return arena;
}

void arena_testing_go_live(csc_arena *arena)
{
    csc_arena_header *header = csc_arena_base(arena);

    atomic_store(&header->state, CSC_ARENA_LIVE);
}

csc_content_entry *arena_testing_contents(csc_arena *arena)
{
    csc_arena_header *header = csc_arena_base(arena);

    return (void *)((char *)csc_arena_base(arena) +
                    header->geometry.regions[CSC_REGION_CONTENTS].offset);
}

void arena_testing_store(csc_arena *arena, uint32_t number, uint64_t bytes)
{
    csc_content_entry *entry = &arena_testing_contents(arena)[number];
    char *data = malloc(bytes);
    cascade_piece piece = {data, bytes};

    CHILD_CHECK(data);
    csc_tier_suite_fill(data, bytes, number);
    entry->content = csc_tier_suite_content(number, bytes, 0);
    CHILD_CHECK(csc_arena_allocate(arena, bytes, 0, &entry->dram) == 0);
    csc_arena_copy_in(arena, &entry->dram, &piece, 1);
    atomic_store(&entry->state, CSC_CONTENT_LIVE | CSC_CONTENT_RESIDENT);
    free(data);
}

bool arena_testing_is_right(csc_arena *arena, uint32_t number)
{
    csc_content_entry *entry = &arena_testing_contents(arena)[number];
    uint64_t bytes = entry->content.k_bytes;
    char *expected = malloc(bytes), *found = malloc(bytes);
    cascade_piece piece = {found, bytes};
    bool same;

    csc_tier_suite_fill(expected, bytes, number);
    csc_arena_copy_out(arena, &entry->dram, 0, &piece, 1);
    same = memcmp(expected, found, bytes) == 0;
    free(expected);
    free(found);
    return same;
}

uint64_t arena_testing_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

int arena_testing_wait(pid_t child)
{
    int status = 0;

    while (waitpid(child, &status, 0) < 0)
        assert_int_equal(errno, EINTR);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int arena_testing_in_child(void (*body)(void *context), void *context)
{
    pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0) {
        alarm(600); /* a child that hangs is a failure, not a stall */
        body(context);
        _exit(0);
    }
    return arena_testing_wait(child);
}

bool arena_testing_mount(uint64_t bytes)
{
    char size[32];

    /* As root in a mount namespace of its own, else as root of a user namespace. */
    if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0)
        return false;
    snprintf(size, sizeof size, "size=%llu", (unsigned long long)bytes);
    return mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("none", folder, "tmpfs", 0, size) == 0;
}
