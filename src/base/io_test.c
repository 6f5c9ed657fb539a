/* SPDX-License-Identifier: MIT */
#include "base/io.h"

#include "base/fail.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char directory[256];
static char path[300];
static char other[300];
static csc_io *io;

static int setup(void **state)
{
    const char *base = getenv("TMPDIR");

    (void)state;
    snprintf(directory, sizeof directory, "%s/io_test.XXXXXX", base ? base : "/tmp");
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/file", directory);
    snprintf(other, sizeof other, "%s/other", directory);
    return csc_io_create(NULL, &io);
}

static int teardown(void **state)
{
    (void)state;
    csc_io_destroy(&io);
    unlink(path);
    unlink(other);
    return rmdir(directory);
}

static int count_names(void *context, const char *name)
{
    int *count = context;

    assert_true(strcmp(name, ".") != 0 && strcmp(name, "..") != 0);
    return ++*count > 1 ? 5 : 0;
}

static void counts_what_it_does(void **state)
{
    cascade_metadata_ops counts;
    uint64_t bytes = 0;
    struct iovec vector = {(char[]){"text"}, 4};
    int names = 0;
    int fd;
    int again;

    (void)state;
    assert_int_equal(csc_io_open(io, path, O_RDWR | O_CREAT | O_EXCL, 0600, &fd), 0);
    assert_int_equal(csc_io_open(io, path, O_RDWR | O_CREAT | O_EXCL, 0600, &again), CASCADE_EEXIST);
    assert_int_equal(csc_io_open(io, other, O_RDONLY, 0, &again), CASCADE_MISS);
    assert_int_equal(csc_io_write(io, fd, &vector, 1, 3), 0);
    assert_int_equal(csc_io_size(io, fd, &bytes), 0);
    assert_int_equal(bytes, 7);
    assert_int_equal(csc_io_truncate(io, fd, 5), 0);
    assert_int_equal(csc_io_datasync(io, fd), 0);
    csc_io_close(io, fd);
    assert_int_equal(csc_io_rename(io, path, other), 0);
    assert_int_equal(csc_io_mkdir(io, directory, 0700), 0);
    assert_int_equal(csc_io_sync_directory(io, directory), 0);
    assert_int_equal(csc_io_list(io, directory, count_names, &names), 0);
    assert_int_equal(names, 1);
    assert_int_equal(csc_io_unlink(io, other), 0);
    assert_int_equal(csc_io_unlink(io, other), CASCADE_MISS);
    assert_int_equal(csc_io_list(io, path, count_names, &names), CASCADE_MISS);
    csc_io_counts(io, &counts);
    assert_int_equal(counts.create, 2);
    assert_int_equal(counts.open, 2); /* the missing file, the directory */
    assert_int_equal(counts.rename, 1);
    assert_int_equal(counts.unlink, 2);
    assert_int_equal(counts.stat, 1);
    assert_int_equal(counts.mkdir, 1);
    assert_int_equal(counts.readdir, 2);
    assert_int_equal(counts.truncate, 1);
    assert_int_equal(counts.fsync, 2);
}

static void failures_have_names(void **state)
{
    struct iovec vector = {(char[]){"text"}, 4};
    uint64_t bytes;
    int fd;

    (void)state;
    assert_int_equal(csc_io_open(io, directory, O_RDONLY, 0, &fd), 0);
    assert_int_equal(csc_io_size(io, fd, &bytes), CASCADE_EFORMAT);
    csc_io_close(io, fd);
    assert_int_equal(csc_io_open(io, path, O_RDWR | O_CREAT, 0600, &fd), 0);
    assert_int_equal(csc_io_write(io, fd, &vector, 1, 0), 0);
    assert_int_equal(csc_io_read(io, fd, &vector, 1, 1), CASCADE_EIO);
    assert_non_null(strstr(csc_fail_text(), "end of file"));
    assert_int_equal(csc_io_read(io, fd, &vector, 1, UINT64_MAX), CASCADE_EINVAL);
    assert_int_equal(csc_io_truncate(io, fd, UINT64_MAX), CASCADE_EINVAL);
    assert_int_equal(csc_io_allocate(io, fd, UINT64_MAX, 5), CASCADE_EINVAL);
    csc_io_close(io, fd);
    assert_int_equal(csc_io_read(io, -1, &vector, 1, 0), CASCADE_EIO);
    assert_int_equal(csc_io_datasync(io, -1), CASCADE_EIO);
}

static void reserving_keeps_the_size(void **state)
{
    uint64_t bytes = 9;
    int fd;
    int rc;

    (void)state;
    assert_int_equal(csc_io_open(io, path, O_RDWR | O_CREAT, 0600, &fd), 0);
    rc = csc_io_allocate(io, fd, 0, 1 << 20);
    assert_true(rc == 0 || rc == CASCADE_ENOTSUP);
    assert_int_equal(csc_io_size(io, fd, &bytes), 0);
    assert_int_equal(bytes, 0);
    csc_io_close(io, fd);
}

/* Moves at most seven bytes a call, and every other call is interrupted. */
static int interruptions;

static bool interrupted(struct iovec *first, const struct iovec *vectors)
{
    *first = vectors[0];
    if (first->iov_len > 7)
        first->iov_len = 7;
    errno = EINTR;
    return interruptions++ % 2 == 0;
}

static ssize_t slow_preadv(int fd, const struct iovec *vectors, int count, off_t offset)
{
    struct iovec first;

    (void)count;
    return interrupted(&first, vectors) ? -1 : preadv(fd, &first, 1, offset);
}

static ssize_t slow_pwritev(int fd, const struct iovec *vectors, int count, off_t offset)
{
    struct iovec first;

    (void)count;
    return interrupted(&first, vectors) ? -1 : pwritev(fd, &first, 1, offset);
}

static void short_transfers_go_on(void **state)
{
    const csc_io_calls calls = {.preadv = slow_preadv, .pwritev = slow_pwritev};
    char text[2000];
    char read_back[2000];
    const struct iovec from[4] = {{text, 5}, {NULL, 0}, {text + 5, 1990}, {text + 1995, 5}};
    const struct iovec to[3] = {{read_back, 1}, {read_back + 1, 1998}, {read_back + 1999, 1}};
    csc_io *slow;
    int fd;

    (void)state;
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)(i * 11 + i / 200);
    assert_int_equal(csc_io_create(&calls, &slow), 0);
    assert_int_equal(csc_io_open(slow, path, O_RDWR | O_CREAT, 0600, &fd), 0);
    assert_int_equal(csc_io_write(slow, fd, from, 4, 10), 0);
    assert_int_equal(csc_io_read(slow, fd, to, 3, 10), 0);
    assert_memory_equal(text, read_back, sizeof text);
    csc_io_close(slow, fd);
    csc_io_destroy(&slow);
}

/* More vectors than one call takes. */
static void many_vectors(void **state)
{
    enum { COUNT = 3000 };
    static char bytes[2][COUNT];
    static struct iovec vectors[COUNT];
    int fd;

    (void)state;
    assert_int_equal(csc_io_open(io, path, O_RDWR | O_CREAT, 0600, &fd), 0);
    for (int i = 0; i < COUNT; i++) {
        bytes[0][i] = (char)(i % 251);
        vectors[i] = (struct iovec){&bytes[0][i], 1};
    }
    assert_int_equal(csc_io_write(io, fd, vectors, COUNT, 0), 0);
    for (int i = 0; i < COUNT; i++)
        vectors[i].iov_base = &bytes[1][i];
    assert_int_equal(csc_io_read(io, fd, vectors, COUNT, 0), 0);
    assert_memory_equal(bytes[0], bytes[1], COUNT);
    csc_io_close(io, fd);
}

/* Every call but close is interrupted the first time. */
static unsigned asked;

static bool is_first(void)
{
    errno = EINTR;
    return asked++ % 2 == 0;
}

static int twice_open(const char *name, int flags, mode_t mode)
{
    return is_first() ? -1 : open(name, flags, mode);
}

static int twice_fdatasync(int fd)
{
    return is_first() ? -1 : fdatasync(fd);
}

static int twice_fsync(int fd)
{
    return is_first() ? -1 : fsync(fd);
}

static int twice_fallocate(int fd, int mode, off_t offset, off_t bytes)
{
    return is_first() ? -1 : fallocate(fd, mode, offset, bytes);
}

static int twice_ftruncate(int fd, off_t bytes)
{
    return is_first() ? -1 : ftruncate(fd, bytes);
}

static int twice_fstat(int fd, struct stat *info)
{
    return is_first() ? -1 : fstat(fd, info);
}

static int twice_link(const char *from, const char *to)
{
    return is_first() ? -1 : link(from, to);
}

static int twice_rename(const char *from, const char *to)
{
    return is_first() ? -1 : rename(from, to);
}

static int twice_unlink(const char *name)
{
    return is_first() ? -1 : unlink(name);
}

static int twice_mkdir(const char *name, mode_t mode)
{
    return is_first() ? -1 : mkdir(name, mode);
}

static int twice_statfs(const char *name, struct statfs *info)
{
    return is_first() ? -1 : statfs(name, info);
}

static int twice_stat(const char *name, struct stat *info)
{
    return is_first() ? -1 : stat(name, info);
}

static DIR *twice_opendir(const char *name)
{
    return is_first() ? NULL : opendir(name);
}

static void interruptions_are_asked_again(void **state)
{
    const csc_io_calls calls = {.open = twice_open,
                                .fdatasync = twice_fdatasync,
                                .fsync = twice_fsync,
                                .fallocate = twice_fallocate,
                                .ftruncate = twice_ftruncate,
                                .fstat = twice_fstat,
                                .link = twice_link,
                                .rename = twice_rename,
                                .unlink = twice_unlink,
                                .mkdir = twice_mkdir,
                                .statfs = twice_statfs,
                                .stat = twice_stat,
                                .opendir = twice_opendir};
    struct stat info;
    uint64_t bytes;
    uint32_t magic;
    csc_io *twice;
    int names = 0;
    int fd;

    (void)state;
    asked = 0;
    assert_int_equal(csc_io_create(&calls, &twice), 0);
    assert_int_equal(csc_io_open(twice, path, O_RDWR | O_CREAT, 0600, &fd), 0);
    assert_int_equal(csc_io_truncate(twice, fd, 5), 0);
    assert_int_equal(csc_io_allocate(twice, fd, 0, 4096), 0);
    assert_int_equal(csc_io_datasync(twice, fd), 0);
    assert_int_equal(csc_io_size(twice, fd, &bytes), 0);
    csc_io_close(twice, fd);
    assert_int_equal(csc_io_link(twice, path, other), 0);
    assert_int_equal(csc_io_unlink(twice, path), 0);
    assert_int_equal(csc_io_rename(twice, other, path), 0);
    assert_int_equal(csc_io_stat(twice, path, &info), 0);
    assert_int_equal(csc_io_mkdir(twice, other, 0700), 0);
    assert_int_equal(rmdir(other), 0);
    assert_int_equal(csc_io_sync_directory(twice, directory), 0);
    assert_int_equal(csc_io_file_system(twice, directory, &magic), 0);
    assert_int_equal(csc_io_list(twice, directory, count_names, &names), 0);
    assert_int_equal(asked, 28);
    csc_io_destroy(&twice);
}

static int lying_link(const char *from, const char *to)
{
    int rc = link(from, to);

    errno = EEXIST;
    return rc < 0 ? rc : -1;
}

/* As when a file server's answer is lost and it is asked again. */
static void a_link_that_was_done(void **state)
{
    const csc_io_calls calls = {.link = lying_link};
    csc_io *lying;
    int fd;

    (void)state;
    assert_int_equal(csc_io_create(&calls, &lying), 0);
    assert_int_equal(csc_io_open(lying, path, O_RDWR | O_CREAT, 0600, &fd), 0);
    csc_io_close(lying, fd);
    assert_int_equal(csc_io_link(lying, path, other), 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(csc_io_open(lying, path, O_RDWR | O_CREAT, 0600, &fd), 0);
    csc_io_close(lying, fd);
    assert_int_equal(csc_io_link(lying, path, other), CASCADE_EEXIST); /* another file */
    csc_io_destroy(&lying);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(counts_what_it_does),   CASE(failures_have_names), CASE(reserving_keeps_the_size),
        CASE(short_transfers_go_on), CASE(many_vectors),        CASE(interruptions_are_asked_again),
        CASE(a_link_that_was_done),
    };

    return cmocka_run_group_tests_name("io", tests, NULL, NULL);
}
