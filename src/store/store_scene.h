/* SPDX-License-Identifier: MIT */
/*
 * A stage for tests in which several processes meet over one store: what they all see, a store with a
 * small dram tier, and blocks whose bytes follow from their key's number, so that whoever reads one can
 * check it. For tests only.
 */
#ifndef CSC_STORE_STORE_SCENE_H
#define CSC_STORE_STORE_SCENE_H

#include <cascade/cascade.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

enum {
    SCENE_STEADY = 24, /* keys put first and never deleted */
    SCENE_KEYS = 420,  /* all keys of a run */
    SCENE_NAMES = 64,  /* marks there may be */
    SCENE_PATIENCE_MS =
        600000 /* for the disk: more than a test may take, which is the runner's affair */
};

/** In a child, where cmocka's checks do not work. */
#define SCENE_CHECK(condition)                                                                          \
    do {                                                                                                \
        if (!(condition)) {                                                                             \
            fprintf(stderr, "%s:%d: %s; %s\n", __FILE__, __LINE__, #condition, cascade_last_error());   \
            _exit(1);                                                                                   \
        }                                                                                               \
    } while (0)

/** What all processes of a run see. */
typedef struct scene {
    char directory[128], shm[128];
    _Atomic bool stop;         /* reader: end */
    _Atomic bool taking_over;  /* the lists are being rebuilt: misses say nothing */
    _Atomic uint32_t steady;   /* keys below are acknowledged and stay */
    _Atomic uint32_t begun;    /* keys below may be there */
    _Atomic uint64_t rounds;   /* of the reader */
    _Atomic uint64_t checked;  /* blocks whose bytes it saw, right */
    _Atomic uint64_t wrong;    /* and wrong */
    _Atomic uint64_t vanished; /* steady keys not found */
    _Atomic bool deleted[SCENE_KEYS];
    uint32_t name_count; /* marks passed by a run that stops at none */
    struct {
        char text[40];
        uint32_t count;
    } names[SCENE_NAMES];
} scene;

extern scene *scene_now;
extern uint64_t scene_budget_bytes; /* of the file tier */

/** cmocka set-up and tear-down: the memory of the scene. */
int scene_setup(void **state);
int scene_teardown(void **state);

/** A clean scene with folders of its own; the end fails if anything is left in shared memory. */
void scene_begin_run(void);
void scene_end_run(void);
/** Forks; the child runs `body`, and does not outlive the test, also when that is killed. */
pid_t scene_start(void (*body)(void));
void scene_expect_success(pid_t child);

/** The path of the run's arena, if there is one. */
bool scene_find_arena(char *path, size_t room);

cascade_key scene_key_of(uint32_t number);
uint64_t scene_bytes_of(uint32_t number);
/** Whether `data` is what lies at `offset` of the block. */
bool scene_is_right(uint32_t number, uint64_t offset, const void *data, uint64_t bytes);

/* In children: they end it when something is wrong. */
cascade_store *scene_open_store(void);
void scene_put_key(cascade_store *store, uint32_t number, uint32_t flags);
/** Returns what the get returned; checks the bytes it gave. */
int scene_get_key(cascade_store *store, uint32_t number);

#endif
