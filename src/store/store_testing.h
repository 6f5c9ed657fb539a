/* SPDX-License-Identifier: MIT */
/*
 * For the tests of this folder: a store directory and a shared-memory directory of one's own, blocks
 * whose bytes follow from a seed, and child processes that can be killed.
 *
 * Blocks are small and pages 4 KiB, so that a tier of a few MiB is as full as a node's.
 */
#ifndef CSC_STORE_STORE_TESTING_H
#define CSC_STORE_STORE_TESTING_H

#include <cascade/cascade.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define ST_KIB ((size_t)1024)
#define ST_MIB ((size_t)1 << 20)

/** How long a store waits for the disk here: longer than a test may run, so that none fails because the
 * disk is slow. Tests of the deadlines themselves set shorter ones. */
#define ST_PATIENCE_MS UINT32_C(600000)

/** What st_get returns beside the library's codes: it got bytes, and they are wrong. */
#define ST_WRONG (-1000)

/** cmocka set-up and tear-down: makes and removes the directories; the tear-down fails if anything is
 * left in shared memory. */
int st_setup(void **state);
int st_teardown(void **state);

const char *st_directory(void);
const char *st_shm(void);
/** How many files lie in the shared-memory directory. */
size_t st_shm_count(void);
/** How many segment files lie in the store's directory. */
size_t st_segment_count(void);
/** Path of the `which`-th segment file by name (from 0); static storage. */
const char *st_segment_path(size_t which);
/** The same of those of one rank alone. */
const char *st_segment_path_of(uint32_t rank, size_t which);
/** Removes every file in the shared-memory directory: what power loss does to it. */
void st_lose_memory(void);
void st_remove_tree(const char *path);

/* ---- stores ------------------------------------------------------------------------------------ */

/** Both directories set, CREATE, 4 MiB of dram in pages of 4 KiB, no prefault, patience. */
cascade_options st_options(void);
/** Opens; the test fails if that fails. */
cascade_store *st_open_with(cascade_options options);
cascade_store *st_open(void);
/** Closes; the test fails if that fails or leaves anything in shared memory. */
void st_close(cascade_store **store);
cascade_stats st_stats(cascade_store *store);
/** Waits until no digest is pending. */
void st_settle(cascade_store *store);
/** Puts and flushes fillers (keys `first`...) until `key` is only in the file tier. */
void st_push_out(cascade_store *store, uint64_t key, uint64_t first);

/* ---- blocks ------------------------------------------------------------------------------------ */

cascade_key st_key(uint64_t number);
/** Bytes that depend on seed and place. */
void st_fill(void *to, size_t bytes, uint64_t seed);
/** Puts the block of `seed` under key `number`; returns the put's code. */
int st_put(cascade_store *store, uint64_t number, uint64_t seed, size_t k_bytes, size_t v_bytes,
           uint32_t flags);
/** Puts a block whose seed is its number, under a parent. */
int st_put_child(cascade_store *store, uint64_t number, uint64_t parent, size_t bytes);
/** Gets key `number`: 0 only if the bytes are those of `seed`, ST_WRONG if they are not. */
int st_get(cascade_store *store, uint64_t number, uint64_t seed, size_t k_bytes, size_t v_bytes);
/** Whether a view shows the bytes of `seed`. */
bool st_view_is(const cascade_view *view, uint64_t seed, size_t k_bytes, size_t v_bytes);
/** The block id of a seed's block, by OpenSSL. */
cascade_id st_id(uint64_t seed, size_t k_bytes, size_t v_bytes);
cascade_info st_info(cascade_store *store, uint64_t number);
int st_delete(cascade_store *store, uint64_t number);

/* ---- processes --------------------------------------------------------------------------------- */

/** Forks; the child runs `body` and exits with 0. In it no cmocka assertion may be used: ST_CHECK. */
pid_t st_spawn(void (*body)(void *context), void *context);
/** Waits for a child: its exit status, or minus the signal that killed it. */
int st_wait(pid_t child);
/** Runs `body` in a child to its end; the test fails if the child does not return `expected`. */
void st_in_child(void (*body)(void *context), void *context, int expected);

/** Says where and leaves the child process when `condition` does not hold. */
#define ST_CHECK(condition) st_check((condition), #condition, __FILE__, __LINE__)
void st_check(bool condition, const char *text, const char *file, int line);

void st_sleep_ms(unsigned ms);

#endif
