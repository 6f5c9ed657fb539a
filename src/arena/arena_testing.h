/* SPDX-License-Identifier: MIT */
/* What the tests of the arena share: a folder in shared memory, arenas in it, children. For tests only.
 */
#ifndef CSC_ARENA_ARENA_TESTING_H
#define CSC_ARENA_ARENA_TESTING_H

#include "arena/arena.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

/** In a child: says what is wrong and ends it, so that the parent's wait sees it. cmocka's checks do not
 * work across processes. */
#define CHILD_CHECK(condition)                                                                          \
    do {                                                                                                \
        if (!(condition)) {                                                                             \
            fprintf(stderr, "%s:%d: in the child: %s\n", __FILE__, __LINE__, #condition);               \
            _exit(1);                                                                                   \
        }                                                                                               \
    } while (0)

/** cmocka set-up and tear-down: an empty folder under CASCADE_SHM_DIR or /dev/shm; the tear-down fails
 * if anything is left in it. */
int arena_testing_setup(void **state);
int arena_testing_teardown(void **state);
const char *arena_testing_folder(void);
#define ARENA_TESTING_CASE(test)                                                                        \
    cmocka_unit_test_setup_teardown(test, arena_testing_setup, arena_testing_teardown)

/** Options of a store in that folder. */
csc_arena_options arena_testing_options(uint32_t page_bytes, uint64_t dram_bytes);
/** Opens with them, checked. */
csc_arena *arena_testing_open(uint32_t page_bytes, uint64_t dram_bytes);
/** As the store does once it is whole. */
void arena_testing_go_live(csc_arena *arena);

csc_content_entry *arena_testing_contents(csc_arena *arena);
/** Stores a block as content `number`, whole, and tells whether its bytes are what they were. */
void arena_testing_store(csc_arena *arena, uint32_t number, uint64_t bytes);
bool arena_testing_is_right(csc_arena *arena, uint32_t number);

uint64_t arena_testing_random(uint64_t *state);
size_t arena_testing_files(void);

/** Waits for a child; returns its exit status, or 128 + the signal that ended it. */
int arena_testing_wait(pid_t child);
/** Runs `body` in a child of its own and returns as above. */
int arena_testing_in_child(void (*body)(void *context), void *context);
/** In a child: a tmpfs of that size over the test's folder, seen by this child alone. False if the
 * system allows none. */
bool arena_testing_mount(uint64_t bytes);

#endif
