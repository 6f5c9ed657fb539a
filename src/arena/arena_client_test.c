/* SPDX-License-Identifier: MIT */
/* Processes that map an arena they do not own: their slots, and what becomes of these when they die. */
#include "arena/arena_testing.h"
#include "base/fail.h"
#include "index/slots.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define PAGE UINT32_C(4096)
#define MIB  (UINT64_C(1) << 20)

static csc_arena *open_live(void)
{
    csc_arena *arena = arena_testing_open(PAGE, 4 * MIB);

    arena_testing_go_live(arena);
    return arena;
}

static uint32_t claim_of(csc_arena *arena, uint32_t area)
{
    csc_slots slots;

    csc_slots_attach(&slots, csc_arena_base(arena), 0, NULL);
    return atomic_load(&slots.claims[area]);
}

static void test_open(void **state)
{
    csc_arena *arena = open_live();
    csc_arena *reader = NULL;
    uint32_t area;

    (void)state;
    assert_int_equal(csc_arena_attach(csc_arena_path(arena), -1, &reader), 0);
    area = csc_arena_area(reader);
    assert_in_range(area, 1, CSC_SLOT_AREAS - 1);
    assert_int_equal(claim_of(arena, area), getpid());
    assert_memory_equal(csc_arena_base(reader), csc_arena_base(arena), 64);
    csc_arena_detach(&reader);
    assert_null(reader);
    csc_arena_detach(&reader);
    assert_int_equal(claim_of(arena, area), 0);
    csc_arena_close(&arena, false);
}

static void test_refusals(void **state)
{
    csc_arena *arena = arena_testing_open(PAGE, MIB);
    csc_arena_header *header = csc_arena_base(arena);
    csc_arena *reader = NULL;
    char path[512];
    int fd;

    (void)state;
    snprintf(path, sizeof path, "%s/none", arena_testing_folder());
    assert_int_equal(csc_arena_attach(path, -1, &reader), CASCADE_ENOSTORE);
    assert_int_equal(csc_arena_attach(csc_arena_path(arena), -1, &reader), CASCADE_EAGAIN);
    arena_testing_go_live(arena);
    header->geometry.regions[CSC_REGION_KEYS].offset += 8;
    assert_int_equal(csc_arena_attach(csc_arena_path(arena), -1, &reader), CASCADE_ECORRUPT);
    header->geometry.regions[CSC_REGION_KEYS].offset -= 8;
    header->geometry.version++;
    assert_int_equal(csc_arena_attach(csc_arena_path(arena), -1, &reader), CASCADE_EFORMAT);
    assert_non_null(strstr(csc_fail_text(), csc_arena_path(arena)));
    csc_arena_close(&arena, false);

    fd = open(path, O_CREAT | O_RDWR, 0600);
    assert_int_equal(csc_arena_attach(path, -1, &reader), CASCADE_EAGAIN); /* being made, as yet empty */
    for (int i = 0; i < 1000; i++)
        assert_int_equal(write(fd, "not an arena", 12), 12);
    close(fd);
    assert_int_equal(csc_arena_attach(path, -1, &reader), CASCADE_EFORMAT);
    assert_null(reader);
    unlink(path);
}

static void test_all_areas(void **state)
{
    csc_arena *arena = open_live();
    csc_arena *readers[CSC_SLOT_AREAS], *late = NULL;
    bool seen[CSC_SLOT_AREAS] = {false};

    (void)state;
    for (uint32_t i = 1; i < CSC_SLOT_AREAS; i++) {
        assert_int_equal(csc_arena_attach(csc_arena_path(arena), -1, &readers[i]), 0);
        assert_false(seen[csc_arena_area(readers[i])]);
        seen[csc_arena_area(readers[i])] = true;
    }
    assert_int_equal(csc_arena_attach(csc_arena_path(arena), -1, &late), CASCADE_EAGAIN);
    csc_arena_clear_dead_clients(arena); /* all alive */
    assert_int_equal(csc_arena_attach(csc_arena_path(arena), -1, &late), CASCADE_EAGAIN);
    csc_arena_detach(&readers[17]);
    assert_int_equal(csc_arena_attach(csc_arena_path(arena), -1, &late), 0);
    csc_arena_detach(&late);
    for (uint32_t i = 1; i < CSC_SLOT_AREAS; i++) {
        assert_int_equal(claim_of(arena, i), i == 17 ? 0 : getpid());
        csc_arena_detach(&readers[i]);
    }
    csc_arena_close(&arena, false);
}

/* Opens, pins, and waits to be killed. */
static void pin_and_wait(const char *path, int ready_fd)
{
    csc_arena *reader;
    csc_slots slots;
    csc_slot *slot;

    alarm(600);
    CHILD_CHECK(csc_arena_attach(path, -1, &reader) == 0);
    csc_slots_attach(&slots, csc_arena_base(reader), csc_arena_area(reader), NULL);
    slot = csc_slot_guard(&slots);
    CHILD_CHECK(slot);
    csc_slot_pin(slot, 123);
    CHILD_CHECK(write(ready_fd, "r", 1) == 1);
    for (;;)
        pause();
}

static void test_dead_reader(void **state)
{
    csc_arena *arena = open_live();
    csc_arena *next = NULL;
    _Atomic uint32_t high = 0;
    csc_slots slots;
    int ready[2];
    pid_t child;
    char byte;

    (void)state;
    csc_slots_attach(&slots, csc_arena_base(arena), 0, &high);
    assert_int_equal(pipe(ready), 0);
    child = fork();
    assert_true(child >= 0);
    if (child == 0)
        pin_and_wait(csc_arena_path(arena), ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_true(csc_slots_pinned(&slots, 123));
    csc_arena_clear_dead_clients(arena);
    assert_true(csc_slots_pinned(&slots, 123)); /* it lives: a pin never times out */
    kill(child, SIGSTOP);
    csc_arena_clear_dead_clients(arena);
    assert_true(csc_slots_pinned(&slots, 123)); /* and a stopped process lives */
    kill(child, SIGKILL);
    assert_int_equal(arena_testing_wait(child), 128 + SIGKILL);
    csc_arena_clear_dead_clients(arena);
    assert_false(csc_slots_pinned(&slots, 123));
    assert_int_equal(csc_arena_attach(csc_arena_path(arena), -1, &next), 0);
    csc_arena_detach(&next);
    close(ready[0]);
    close(ready[1]);
    csc_arena_close(&arena, false);
}

/* The pins of readers outlive the owner; the next owner honours them while the readers live. */
static void test_pin_over_take_over(void **state)
{
    csc_arena *arena = open_live();
    csc_arena_options options = arena_testing_options(PAGE, 4 * MIB);
    csc_slots slots;
    char path[512];
    int ready[2];
    bool taken_over;
    pid_t child;
    char byte;

    (void)state;
    snprintf(path, sizeof path, "%s", csc_arena_path(arena));
    /* The child must not inherit the lock: made before it, opened after. */
    csc_arena_close(&arena, true);
    assert_int_equal(pipe(ready), 0);
    child = fork();
    assert_true(child >= 0);
    if (child == 0)
        pin_and_wait(path, ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    for (int dead = 0; dead < 2; dead++) {
        if (dead) {
            kill(child, SIGKILL);
            assert_int_equal(arena_testing_wait(child), 128 + SIGKILL);
        }
        assert_int_equal(csc_arena_open(&options, &arena, &taken_over), 0);
        assert_true(taken_over);
        csc_slots_attach(&slots, csc_arena_base(arena), 0, NULL);
        assert_int_equal(csc_slots_pinned(&slots, 123), !dead);
        csc_arena_close(&arena, !dead);
    }
    close(ready[0]);
    close(ready[1]);
}

static void write_as_reader(void *context)
{
    csc_arena *reader;
    csc_arena_header *header;

    CHILD_CHECK(csc_arena_attach(context, -1, &reader) == 0);
    header = csc_arena_base(reader);
    atomic_store((_Atomic uint64_t *)(void *)((char *)header + header->geometry.slots_offset +
                                              CSC_SLOT_CLAIMS_BYTES),
                 0); /* slots are there to be written */
    signal(SIGSEGV, SIG_DFL);
    header->geometry.version = 7;
}

static void test_read_only(void **state)
{
    csc_arena *arena = open_live();
    char path[512];

    (void)state;
    snprintf(path, sizeof path, "%s", csc_arena_path(arena));
    assert_int_equal(arena_testing_in_child(write_as_reader, path), 128 + SIGSEGV);
    assert_int_equal(((csc_arena_header *)csc_arena_base(arena))->geometry.version, CSC_ARENA_VERSION);
    csc_arena_close(&arena, false);
}

/* The owner reserves pages, the client fills them by its own mapping, in as many runs as there are. */
static void test_fill(void **state)
{
    csc_arena *arena = open_live(), *client = NULL;
    csc_extents singles[8], extents;
    char data[5 * 4096 + 100], back[sizeof data];
    cascade_piece in[2] = {{data, 5000}, {data + 5000, sizeof data - 5000}}, out = {back, sizeof back};
    int fd = open(csc_arena_path(arena), O_RDWR | O_CLOEXEC);

    (void)state;
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (char)(i * 7 + i / 256);
    for (int i = 0; i < 8; i++)
        assert_int_equal(csc_arena_allocate(arena, PAGE, 0, &singles[i]), 0);
    assert_int_equal(csc_arena_allocate(arena, sizeof data, 0, &extents), 0);
    assert_int_equal(csc_arena_attach(NULL, fd, &client), 0);
    close(fd);
    csc_arena_copy_in(client, &extents, in, 2);
    csc_arena_copy_out(arena, &extents, 0, &out, 1);
    assert_memory_equal(back, data, sizeof data);
    memset(back, 0, sizeof back);
    csc_arena_copy_out(client, &extents, 0, &out, 1);
    assert_memory_equal(back, data, sizeof data);
    csc_arena_detach(&client);
    for (int i = 0; i < 8; i++)
        csc_arena_free(arena, &singles[i]);
    csc_arena_free(arena, &extents);
    csc_arena_close(&arena, false);
}

/* Both sides see the same ring, and who comes next finds it empty. */
static void test_ring(void **state)
{
    csc_arena *arena = open_live(), *client = NULL;
    _Atomic uint64_t *mine, *theirs, *taken_here, *taken_there;
    uint32_t area;

    (void)state;
    assert_int_equal(csc_arena_attach(csc_arena_path(arena), -1, &client), 0);
    area = csc_arena_area(client);
    assert_null(csc_arena_ring(arena, 0, &taken_here));
    assert_null(csc_arena_ring(arena, area + 1, &taken_here));
    mine = csc_arena_ring(client, area, &taken_here);
    theirs = csc_arena_ring(arena, area, &taken_there);
    assert_non_null(mine);
    assert_non_null(theirs);
    atomic_store(&mine[0], 1);
    atomic_store(&mine[CSC_AREA_NOTES - 1], 2);
    atomic_store(taken_here, 3);
    assert_int_equal(atomic_load(&theirs[0]), 1);
    assert_int_equal(atomic_load(&theirs[CSC_AREA_NOTES - 1]), 2);
    assert_int_equal(atomic_load(taken_there), 3);
    csc_arena_detach(&client);
    assert_null(csc_arena_ring(arena, area, &taken_there));
    assert_int_equal(csc_arena_attach(csc_arena_path(arena), -1, &client), 0);
    assert_int_equal(csc_arena_area(client), area);
    mine = csc_arena_ring(client, area, &taken_here);
    assert_int_equal(atomic_load(&mine[0]) | atomic_load(&mine[CSC_AREA_NOTES - 1]), 0);
    assert_int_equal(atomic_load(taken_here), 0);
    csc_arena_detach(&client);
    csc_arena_close(&arena, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ARENA_TESTING_CASE(test_open),      ARENA_TESTING_CASE(test_refusals),
        ARENA_TESTING_CASE(test_all_areas), ARENA_TESTING_CASE(test_dead_reader),
        ARENA_TESTING_CASE(test_read_only), ARENA_TESTING_CASE(test_pin_over_take_over),
        ARENA_TESTING_CASE(test_fill),      ARENA_TESTING_CASE(test_ring),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
