/* SPDX-License-Identifier: MIT */
/* The arena's file: its life, its lock, its owner's death; the arena as a tier. */
#include "arena/arena_testing.h"
#include "base/fail.h"
#include "tier/tier_suite.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cmocka.h>

#define PAGE UINT32_C(65536)
#define MIB  (UINT64_C(1) << 20)

/* ---- life ---------------------------------------------------------------------------- */

static void test_file(void **state)
{
    csc_arena *arena = arena_testing_open(PAGE, 8 * MIB);
    struct stat info;
    char path[512];

    (void)state;
    snprintf(path, sizeof path, "%s", csc_arena_path(arena));
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 07777, 0600);
    assert_true(info.st_blocks * 512 < 4 * (off_t)MIB); /* sparse: pages come when they are wanted */
    assert_int_equal(csc_arena_capacity(arena), 8 * MIB);
    assert_int_equal(csc_arena_used(arena), 0);
    assert_int_equal(csc_arena_page_bytes(arena), PAGE);
    csc_arena_close(&arena, true);
    assert_null(arena);
    assert_int_equal(access(path, F_OK), 0);
    /* Never live: nothing was acknowledged from it, so it is made anew. */
    arena = arena_testing_open(PAGE, 16 * MIB);
    assert_int_equal(csc_arena_capacity(arena), 16 * MIB);
    csc_arena_close(&arena, false);
    assert_int_equal(arena_testing_files(), 0);
    csc_arena_close(&arena, false);
}

static void test_stores_do_not_meet(void **state)
{
    csc_arena_options options = arena_testing_options(PAGE, MIB);
    csc_arena *arenas[4];
    bool taken_over;

    (void)state;
    for (int i = 0; i < 4; i++) {
        options.rank = i == 1;
        options.directory = i == 2 ? "/nowhere/other" : "/nowhere/store";
        options.store_uuid[15] = i == 3;
        assert_int_equal(csc_arena_open(&options, &arenas[i], &taken_over), 0);
    }
    assert_int_equal(arena_testing_files(), 4);
    for (int i = 0; i < 4; i++)
        csc_arena_close(&arenas[i], false);
}

static void test_prefault(void **state)
{
    csc_arena *arena = arena_testing_open(PAGE, 40 * MIB);

    (void)state;
    assert_int_equal(csc_arena_start_prefault(arena), 0);
    for (int i = 0; i < 10000 && csc_arena_ready(arena) < 40 * MIB; i++)
        usleep(1000);
    assert_int_equal(csc_arena_ready(arena), 40 * MIB);
    assert_int_equal(csc_arena_used(arena), 0);
    assert_false(csc_arena_is_short(arena));
    csc_arena_close(&arena, false);
    /* Closed while it is at work. */
    arena = arena_testing_open(PAGE, 256 * MIB);
    assert_int_equal(csc_arena_start_prefault(arena), 0);
    csc_arena_close(&arena, false);
}

static void test_growth(void **state)
{
    csc_arena *arena = arena_testing_open(PAGE, MIB);
    csc_arena_header *header = csc_arena_base(arena);
    const csc_arena_region *region = &header->geometry.regions[CSC_REGION_KEYS];
    uint32_t used = atomic_load(&header->used[CSC_REGION_KEYS]), wanted = 5 * used;
    const char *start = (char *)csc_arena_base(arena) + region->offset;

    (void)state;
    assert_true(used > 0);
    assert_int_equal(csc_arena_grow(arena, CSC_REGION_KEYS, used), 0);
    assert_int_equal(atomic_load(&header->used[CSC_REGION_KEYS]), used);
    assert_int_equal(csc_arena_grow(arena, CSC_REGION_KEYS, wanted), 0);
    assert_true(atomic_load(&header->used[CSC_REGION_KEYS]) >= wanted);
    for (uint64_t i = 0; i < (uint64_t)wanted * region->element_bytes; i += 997)
        assert_int_equal(start[i], 0);
    used = atomic_load(&header->used[CSC_REGION_KEYS]);
    assert_int_equal(csc_arena_grow(arena, CSC_REGION_KEYS, region->max + 1), CASCADE_ENOSPC);
    assert_int_equal(atomic_load(&header->used[CSC_REGION_KEYS]), used);
    /* Buckets are published by the caller, once they are in use. */
    assert_int_equal(csc_arena_grow(arena, CSC_REGION_KEY_BUCKETS, 1024), 0);
    assert_int_equal(atomic_load(&header->used[CSC_REGION_KEY_BUCKETS]), 0);
    csc_arena_close(&arena, false);
}

/* ---- the lock ------------------------------------------------------------------------ */

static void open_busy(void *context)
{
    csc_arena_options options = arena_testing_options(PAGE, MIB);
    char pid[32];
    csc_arena *arena = NULL;
    bool taken_over;

    snprintf(pid, sizeof pid, "process %d;", *(int *)context);
    CHILD_CHECK(csc_arena_open(&options, &arena, &taken_over) == CASCADE_EBUSY);
    CHILD_CHECK(strstr(csc_fail_text(), pid));
    CHILD_CHECK(!arena);
}

static void test_busy(void **state)
{
    csc_arena *arena = arena_testing_open(PAGE, MIB);
    int pid = getpid();

    (void)state;
    assert_int_equal(arena_testing_in_child(open_busy, &pid), 0);
    open_busy(&pid); /* in this process too: the lock belongs to the open file */
    arena_testing_go_live(arena);
    assert_int_equal(arena_testing_in_child(open_busy, &pid), 0);
    csc_arena_close(&arena, false);
}

/* A child of the owner outlives it. */
static void die_with_child(bool closes_lock, int ready_fd)
{
    csc_arena_options options = arena_testing_options(PAGE, MIB);
    csc_arena *arena;
    bool taken_over;
    pid_t child;

    CHILD_CHECK(csc_arena_open(&options, &arena, &taken_over) == 0);
    arena_testing_go_live(arena);
    child = fork();
    if (child == 0) {
        if (closes_lock)
            csc_arena_after_fork(arena);
        child = getpid();
        alarm(600);
        CHILD_CHECK(write(ready_fd, &child, sizeof child) == sizeof child);
        for (;;)
            pause();
    }
    for (;;)
        pause();
}

static void test_fork(void **state)
{
    csc_arena_options options = arena_testing_options(PAGE, MIB);

    (void)state;
    for (int closes_lock = 1; closes_lock >= 0; closes_lock--) {
        csc_arena *arena = NULL;
        bool taken_over;
        pid_t owner, child;
        int ready[2];

        assert_int_equal(pipe(ready), 0);
        owner = fork();
        assert_true(owner >= 0);
        if (owner == 0)
            die_with_child(closes_lock, ready[1]);
        assert_int_equal(read(ready[0], &child, sizeof child), sizeof child);
        kill(owner, SIGKILL);
        assert_int_equal(arena_testing_wait(owner), 128 + SIGKILL);
        if (!closes_lock) {
            /* What the call is for. */
            assert_int_equal(csc_arena_open(&options, &arena, &taken_over), CASCADE_EBUSY);
            kill(child, SIGKILL);
            while (kill(child, 0) == 0 && csc_arena_open(&options, &arena, &taken_over) != 0)
                usleep(1000);
        } else {
            assert_int_equal(csc_arena_open(&options, &arena, &taken_over), 0);
            kill(child, SIGKILL);
        }
        if (!arena)
            assert_int_equal(csc_arena_open(&options, &arena, &taken_over), 0);
        assert_true(taken_over);
        csc_arena_close(&arena, false);
        close(ready[0]);
        close(ready[1]);
    }
}

/* ---- a killed owner ------------------------------------------------------------------ */

enum { BLOCKS = 12 };

static uint64_t size_of(uint32_t number)
{
    return 1000 + number * 40000;
}

static void own_and_die(void *context)
{
    csc_arena_options options = arena_testing_options(PAGE, 16 * MIB);
    csc_arena_header *header;
    _Atomic uint64_t *words;
    csc_arena *arena;
    bool taken_over;

    (void)context;
    CHILD_CHECK(csc_arena_open(&options, &arena, &taken_over) == 0 && !taken_over);
    header = csc_arena_base(arena);
    for (uint32_t i = 0; i < BLOCKS; i++)
        arena_testing_store(arena, i, size_of(i));
    /* One whose pages are being filled, and a guard and a pin of threads that die too. */
    CHILD_CHECK(csc_arena_allocate(arena, MIB, 0, &arena_testing_contents(arena)[BLOCKS].dram) == 0);
    atomic_store(&arena_testing_contents(arena)[BLOCKS].state, CSC_CONTENT_FILLING);
    words =
        (void *)((char *)csc_arena_base(arena) + header->geometry.slots_offset + CSC_SLOT_CLAIMS_BYTES);
    atomic_store(&words[3], CSC_SLOT_GUARD | 1);
    atomic_store(&words[CSC_AREA_SLOTS - 1], CSC_SLOT_PIN | 2);
    arena_testing_go_live(arena);
    raise(SIGKILL);
}

static void test_take_over(void **state)
{
    csc_arena_options options = arena_testing_options(4096, MIB); /* what it has, stays */
    uint64_t kept = 0;
    csc_arena_header *header;
    _Atomic uint64_t *words;
    csc_arena *arena;
    bool taken_over = false;

    (void)state;
    assert_int_equal(arena_testing_in_child(own_and_die, NULL), 128 + SIGKILL);
    assert_int_equal(csc_arena_open(&options, &arena, &taken_over), 0);
    assert_true(taken_over);
    header = csc_arena_base(arena);
    assert_int_equal(atomic_load(&header->owner_pid), getpid());
    assert_int_equal(csc_arena_page_bytes(arena), PAGE);
    assert_int_equal(csc_arena_capacity(arena), 16 * MIB);
    words =
        (void *)((char *)csc_arena_base(arena) + header->geometry.slots_offset + CSC_SLOT_CLAIMS_BYTES);
    for (uint32_t i = 0; i < CSC_AREA_SLOTS; i++)
        assert_int_equal(atomic_load(&words[i]), 0);
    for (uint32_t i = 0; i < BLOCKS; i++) {
        assert_int_equal(csc_arena_claim(arena, &arena_testing_contents(arena)[i].dram, size_of(i)), 0);
        kept += (size_of(i) + PAGE - 1) / PAGE * PAGE;
    }
    assert_int_equal(csc_arena_claims_done(arena), 0);
    assert_int_equal(csc_arena_used(arena), kept);
    /* New blocks go elsewhere. */
    for (uint32_t i = BLOCKS; i < 40; i++) {
        arena_testing_contents(arena)[i].dram = (csc_extents){0};
        arena_testing_store(arena, i, 2 * PAGE);
    }
    for (uint32_t i = 0; i < 40; i++)
        assert_true(arena_testing_is_right(arena, i));
    csc_arena_close(&arena, false);
    assert_int_equal(arena_testing_files(), 0);
}

/* A maker that was killed leaves nothing worth keeping, and nothing in the way. */
static void test_half_made(void **state)
{
    csc_arena *arena = arena_testing_open(PAGE, MIB);
    char path[512];
    int fd;

    (void)state;
    snprintf(path, sizeof path, "%s", csc_arena_path(arena));
    csc_arena_close(&arena, false);
    for (int kind = 0; kind < 2; kind++) {
        fd = open(path, O_RDWR | O_CREAT, 0600);
        assert_true(fd >= 0);
        assert_int_equal(ftruncate(fd, kind ? 1 << 24 : 0), 0);
        close(fd);
        arena = arena_testing_open(PAGE, MIB);
        csc_arena_close(&arena, false);
    }
}

/* An open that fails for want of memory leaves what the dead owner had. */
static void open_without_memory(void *context)
{
    csc_arena_options options = arena_testing_options(PAGE, MIB);
    struct rlimit limit = {UINT64_C(2) << 30, UINT64_C(2) << 30};
    csc_arena *arena = NULL;
    bool taken_over;

    (void)context;
    CHILD_CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    CHILD_CHECK(csc_arena_open(&options, &arena, &taken_over) == CASCADE_ENOMEM);
}

static void test_no_memory(void **state)
{
    csc_arena_options options = arena_testing_options(PAGE, MIB);
    csc_arena *arena;
    bool taken_over = false;

    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    print_message("# skipped: the sanitizers need more address space than the test leaves\n");
    skip();
#endif
    assert_int_equal(arena_testing_in_child(own_and_die, NULL), 128 + SIGKILL);
    assert_int_equal(arena_testing_in_child(open_without_memory, NULL), 0);
    assert_int_equal(csc_arena_open(&options, &arena, &taken_over), 0);
    assert_true(taken_over);
    csc_arena_close(&arena, false);
    /* And one that was only being made leaves nothing. */
    assert_int_equal(arena_testing_in_child(open_without_memory, NULL), 0);
    assert_int_equal(arena_testing_files(), 0);
}

/* ---- the tier ------------------------------------------------------------------------ */

static csc_tier *open_tier(void)
{
    assert_int_equal(arena_testing_setup(NULL), 0);
    return csc_arena_tier(arena_testing_open(PAGE, 160 * MIB));
}

static void close_tier(csc_tier **tier)
{
    assert_int_equal(csc_arena_used((csc_arena *)(void *)*tier) % PAGE, 0);
    (*tier)->ops->close(tier);
    assert_int_equal(arena_testing_teardown(NULL), 0);
}

static csc_tier_fixture arena_fixture = {.open = open_tier, .close = close_tier};

int main(void)
{
    const struct CMUnitTest tests[] = {
        ARENA_TESTING_CASE(test_file),      ARENA_TESTING_CASE(test_stores_do_not_meet),
        ARENA_TESTING_CASE(test_prefault),  ARENA_TESTING_CASE(test_growth),
        ARENA_TESTING_CASE(test_busy),      ARENA_TESTING_CASE(test_fork),
        ARENA_TESTING_CASE(test_take_over), ARENA_TESTING_CASE(test_half_made),
        ARENA_TESTING_CASE(test_no_memory), CSC_TIER_SUITE(&arena_fixture),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
