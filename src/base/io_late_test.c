/* SPDX-License-Identifier: MIT */
/* What is past its deadline: opens that do not come back, and lanes without a thread to look after them.
 * Calls of a table are made by threads. */
#include "base/clock.h"
#include "base/io.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#define PAGE ((size_t)4096)
#define EVER UINT64_MAX

static char path[256];
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER; /* what goes through it is held up */

static uint64_t soon(unsigned ms)
{
    return csc_clock_ns() + ms * UINT64_C(1000000);
}

static int make_file(void **state)
{
    const char *base = getenv("TMPDIR");
    int fd;

    (void)state;
    snprintf(path, sizeof path, "%s/io_late_test.XXXXXX", base ? base : "/tmp");
    fd = mkstemp(path);
    return fd < 0 || close(fd) != 0;
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

/* ---- opens that do not come back ------------------------------------------------------------------ */

static atomic_int opens_begun;

static int gated_open(const char *name, int flags, mode_t mode)
{
    atomic_fetch_add(&opens_begun, 1);
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
    return open(name, flags, mode);
}

static void many_late_opens_are_answered_at_once(void **state)
{
    csc_io_calls calls = {.open = gated_open};
    csc_io_facts facts;
    csc_io *io;
    int fd = -1;

    (void)state;
    assert_int_equal(csc_io_create(&calls, &io), 0);
    pthread_mutex_lock(&gate);
    for (int i = 0; i < 16; i++)
        assert_int_equal(csc_io_open_by(io, path, O_RDONLY, 0, soon(2), &fd), CASCADE_ETIMEDOUT);
    /* A deadline that never comes: only an answer at once lets this go on. */
    assert_int_equal(csc_io_open_by(io, path, O_RDONLY, 0, EVER, &fd), CASCADE_ETIMEDOUT);
    assert_true(atomic_load(&opens_begun) <= 16);
    csc_io_get_facts(io, &facts);
    assert_int_equal(facts.late, 16);
    pthread_mutex_unlock(&gate);
    /* The disk answers again. */
    while (csc_io_open_by(io, path, O_RDONLY, 0, EVER, &fd) != 0)
        usleep(1000);
    csc_io_close(io, fd);
    do
        csc_io_get_facts(io, &facts);
    while (facts.late > 0 && usleep(1000) == 0);
    csc_io_destroy(&io);
}

/* ---- no thread to be had -------------------------------------------------------------------------- */

static ssize_t gated_preadv(int fd, const struct iovec *vectors, int count, off_t offset)
{
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
    return preadv(fd, vectors, count, offset);
}

/* A stack that fits in no memory. */
static void allow_threads(bool allow)
{
    static pthread_attr_t usual;
    pthread_attr_t huge;

    if (!allow)
        assert_int_equal(pthread_getattr_default_np(&usual), 0);
    pthread_attr_init(&huge);
    assert_int_equal(pthread_attr_setstacksize(&huge, (size_t)1 << 47), 0);
    assert_int_equal(pthread_setattr_default_np(allow ? &usual : &huge), 0);
    pthread_attr_destroy(&huge);
}

static void note_release(void *context)
{
    atomic_fetch_add((atomic_int *)context, 1);
}

/* Abandoned lanes are released all the same: as soon as there are threads again, or at the end. */
static void without_a_thread_for_the_reaper(void **state)
{
    csc_io_calls calls = {.preadv = gated_preadv};

    (void)state;
    for (unsigned ends = 0; ends < 2; ends++) {
        uint8_t page[PAGE] = {1};
        struct iovec vector = {page, PAGE};
        csc_io_request request = {.fd = open(path, O_RDWR), .vectors = &vector, .count = 1}, *done;
        atomic_int released = 0;
        csc_io_lane *lane;
        csc_io *io;

        assert_int_equal(csc_io_create(&calls, &io), 0);
        assert_int_equal(pwrite(request.fd, page, PAGE, 0), PAGE);
        assert_int_equal(csc_io_lane_take(io, &lane), 0);
        pthread_mutex_lock(&gate);
        assert_int_equal(csc_io_submit(lane, &request), 0);
        allow_threads(false);
        assert_int_equal(csc_io_lane_next(lane, soon(2), &done), CASCADE_ETIMEDOUT);
        csc_io_lane_abandon(&lane, note_release, &released);
        pthread_mutex_unlock(&gate);
        usleep(20000);
        assert_int_equal(atomic_load(&released), 0); /* there is nobody to do it */
        if (ends)
            csc_io_destroy(&io);
        allow_threads(true);
        if (!ends) {
            assert_int_equal(csc_io_lane_take(io, &lane), 0);
            csc_io_lane_give(&lane);
            while (atomic_load(&released) == 0)
                usleep(1000);
            csc_io_destroy(&io);
        }
        assert_int_equal(atomic_load(&released), 1);
        close(request.fd);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_late_opens_are_answered_at_once),
        cmocka_unit_test(without_a_thread_for_the_reaper),
    };

    return cmocka_run_group_tests(tests, make_file, remove_file);
}
