/* SPDX-License-Identifier: MIT */
#include "store/store_two_nodes.h"

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char other_shm[256];
cascade_store *here, *there;

cascade_options options_of(uint32_t rank, bool is_there)
{
    cascade_options options = st_options();

    options.rank = rank;
    options.refresh_ms = 1;
    if (is_there)
        options.shm_directory = other_shm;
    return options;
}

cascade_options hourly(uint32_t rank, bool is_there)
{
    cascade_options options = options_of(rank, is_there);

    options.refresh_ms = HOUR_MS;
    return options;
}

int two_setup(void **state)
{
    int rc = st_setup(state);

    snprintf(other_shm, sizeof other_shm, "/dev/shm/store_test.XXXXXX");
    return rc || !mkdtemp(other_shm) ? -1 : 0;
}

int two_teardown(void **state)
{
    atomic_store(&directory_hangs, false); /* a close looks */
    if (here)
        cascade_store_close(&here);
    if (there)
        cascade_store_close(&there);
    st_remove_tree(other_shm);
    return st_teardown(state);
}

void open_both(void)
{
    here = st_open_with(options_of(0, false));
    there = st_open_with(options_of(1, true));
}

void close_one(cascade_store **store)
{
    assert_int_equal(cascade_store_close(store), 0);
}

void put_there(uint64_t number, uint64_t seed)
{
    assert_int_equal(st_put(there, number, seed, K, V, CASCADE_PUT_DURABLE), 0);
}

/* Long enough for the next miss to look again. */
int get_later(cascade_store *store, uint64_t number, uint64_t seed)
{
    st_sleep_ms(3);
    return st_get(store, number, seed, K, V);
}

const char *path_there(void)
{
    return st_segment_path_of(1, 0);
}

/* Writes over a part of the first record's payload in a file; keeps what was there in `kept`. */
void tear(const char *path, uint8_t kept[64], bool mend)
{
    uint8_t zeros[64] = {0};
    int fd = open(path, O_RDWR);

    assert_true(fd >= 0);
    if (!mend)
        assert_int_equal(pread(fd, kept, 64, 2 * PAGE + 100), 64);
    assert_int_equal(pwrite(fd, mend ? kept : zeros, 64, 2 * PAGE + 100), 64);
    close(fd);
}

_Atomic bool directory_hangs;
_Atomic unsigned directory_waiters, directory_takes_ms;

/* In place of the C library's: the store's directory does not answer, or is slow to. */
DIR *opendir(const char *path)
{
    DIR *(*real)(const char *path);

    *(void **)&real = dlsym(RTLD_NEXT, "opendir");
    if (atomic_load(&directory_takes_ms) && strcmp(path, st_directory()) == 0)
        st_sleep_ms(atomic_load(&directory_takes_ms));
    if (atomic_load(&directory_hangs) && strcmp(path, st_directory()) == 0) {
        atomic_fetch_add(&directory_waiters, 1);
        while (atomic_load(&directory_hangs))
            st_sleep_ms(1);
        atomic_fetch_sub(&directory_waiters, 1);
    }
    return real(path);
}
