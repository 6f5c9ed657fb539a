/* SPDX-License-Identifier: MIT */
/*
 * For tests of two stores over one directory, as on two nodes: each has shared memory of its own. `here`
 * is of rank 0, `there` of rank 1. Both look at every miss for what the other wrote.
 */
#ifndef CSC_STORE_STORE_TWO_NODES_H
#define CSC_STORE_STORE_TWO_NODES_H

#include "store/store_testing.h"

#include <stdatomic.h>

enum { K = 5000, V = 3000, PAGE = 4096, HOUR_MS = 3600000 };

extern cascade_store *here, *there;

/** cmocka set-up and tear-down; what is open is closed. */
int two_setup(void **state);
int two_teardown(void **state);

cascade_options options_of(uint32_t rank, bool is_there);
/** The same, but misses look only once an hour. */
cascade_options hourly(uint32_t rank, bool is_there);
void open_both(void);
/** Closes; the test fails if that fails. */
void close_one(cascade_store **store);
/** Puts and flushes there. */
void put_there(uint64_t number, uint64_t seed);
/** A get that looks again, if it misses. */
int get_later(cascade_store *store, uint64_t number, uint64_t seed);
/** The path of the first segment of rank 1. */
const char *path_there(void);
/** Writes over a part of the first record's payload in a file; keeps what was there in `kept`, or puts
 * that back. */
void tear(const char *path, uint8_t kept[64], bool mend);

/** While it is set, nobody can list the store's directory. */
extern _Atomic bool directory_hangs;
/** How many are trying to. */
extern _Atomic unsigned directory_waiters;
/** So long each listing takes. */
extern _Atomic unsigned directory_takes_ms;

#endif
