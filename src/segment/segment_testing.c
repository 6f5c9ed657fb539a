/* SPDX-License-Identifier: MIT */
#include "segment/segment_testing.h"

#include "format/segment_format.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

csc_io *testing_io;
testing_found testing_seen;
testing_faults testing_fault;

static char directory[256];

void testing_directory(void)
{
    const char *base = getenv("TMPDIR");

    snprintf(directory, sizeof directory, "%s/segment_test.XXXXXX", base ? base : "/tmp");
    assert_non_null(mkdtemp(directory));
}

const char *testing_directory_used(void)
{
    return directory;
}

void testing_remove(void)
{
    struct dirent *entry;
    DIR *folder = opendir(directory);

    assert_non_null(folder);
    while ((entry = readdir(folder)))
        if (entry->d_name[0] != '.')
            assert_int_equal(
                unlinkat(dirfd(folder), entry->d_name, entry->d_type == DT_DIR ? AT_REMOVEDIR : 0), 0);
    closedir(folder);
    assert_int_equal(rmdir(directory), 0);
}

size_t testing_file_count(void)
{
    struct dirent *entry;
    DIR *folder = opendir(directory);
    size_t count = 0;
    uint32_t rank;
    uint32_t number;

    assert_non_null(folder);
    while ((entry = readdir(folder)))
        count += csc_segfmt_name_parse(entry->d_name, &rank, &number);
    closedir(folder);
    return count;
}

const char *testing_path(uint32_t rank, uint32_t number)
{
    static char path[sizeof directory + CSC_SEGFMT_NAME_BYTES];
    char name[CSC_SEGFMT_NAME_BYTES];

    csc_segfmt_name_format(rank, number, name);
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

/* ---- what an open finds --------------------------------------------------------------------------- */

static int see_block(void *context, const csc_segment_source *source, const csc_content *content,
                     uint64_t written_ns, const csc_binding *bindings, size_t binding_count,
                     const csc_place *place)
{
    testing_found *found = context;
    testing_block *block = &found->blocks[found->block_count];

    assert_true(found->block_count < TESTING_FOUND_MAX);
    assert_int_equal(csc_segment_of(place), source->segment);
    assert_true(written_ns > 0);
    found->sealed_count += source->sealed;
    *block = (testing_block){.segment = source->segment, .content = *content, .place = *place};
    block->binding_count = binding_count;
    for (size_t i = 0; i < binding_count && i < 3; i++)
        block->bindings[i] = bindings[i];
    found->block_count++;
    return 0;
}

static int see_log(void *context, const csc_segment_source *source, const csc_log_entry *entry)
{
    testing_found *found = context;

    found->sealed_count += source->sealed;
    assert_true(found->log_count < TESTING_FOUND_MAX);
    found->logs[found->log_count++] = *entry;
    return 0;
}

static void see_gone(void *context, uint32_t segment)
{
    testing_found *found = context;

    assert_true(found->gone_count < sizeof found->gone / sizeof found->gone[0]);
    found->gone[found->gone_count++] = segment;
}

static void forget_seen(void)
{
    testing_seen.block_count = testing_seen.log_count = 0;
    testing_seen.sealed_count = testing_seen.gone_count = 0;
}

int testing_refresh(csc_tier *tier)
{
    const csc_segment_visitor visitor = {&testing_seen, see_block, see_log, see_gone};

    forget_seen();
    return csc_segment_refresh(tier, &visitor);
}

int testing_open(csc_segment_options options, csc_tier **tier)
{
    const csc_segment_visitor visitor = {.context = &testing_seen, .block = see_block, .log = see_log};

    forget_seen();
    options.io = testing_io;
    options.directory = directory;
    if (!options.deadline_ms)
        options.deadline_ms = TESTING_PATIENCE_MS;
    return csc_segment_open(&options, &visitor, tier);
}

csc_tier *testing_open_default(void)
{
    csc_tier *tier = NULL;

    assert_int_equal(testing_open((csc_segment_options){0}, &tier), 0);
    return tier;
}

cascade_tier_stats testing_stats(csc_tier *tier)
{
    cascade_tier_stats stats = {0};

    tier->ops->stats(tier, &stats);
    return stats;
}

const testing_block *testing_find(uint64_t seed, size_t k_bytes, size_t v_bytes)
{
    csc_content content = csc_tier_suite_content(seed, k_bytes, v_bytes);

    for (size_t i = 0; i < testing_seen.block_count; i++)
        if (memcmp(testing_seen.blocks[i].content.digest, content.digest, sizeof content.digest) == 0)
            return &testing_seen.blocks[i];
    return NULL;
}

/* ---- blocks --------------------------------------------------------------------------------------- */

csc_binding testing_binding(uint64_t seed, size_t which)
{
    csc_binding binding = {.has_parent = which % 2 == 1, .sequence = seed * 100 + which + 1};

    csc_tier_suite_fill(binding.key.bytes, sizeof binding.key.bytes, seed * 3000 + which);
    if (binding.has_parent)
        csc_tier_suite_fill(binding.parent.bytes, sizeof binding.parent.bytes, seed * 3000 + which - 1);
    return binding;
}

static uint8_t *page_memory(size_t bytes)
{
    void *memory = NULL;

    assert_int_equal(posix_memalign(&memory, 4096, bytes + 1), 0);
    return memory;
}

int testing_write(csc_tier *tier, uint64_t seed, size_t k_bytes, size_t v_bytes, size_t binding_count,
                  csc_place *place)
{
    uint8_t *memory = page_memory(k_bytes + v_bytes);
    csc_binding *bindings = calloc(binding_count + 1, sizeof *bindings);
    const cascade_piece pieces[2] = {{memory, k_bytes}, {memory + k_bytes, v_bytes}};
    csc_tier_write write = {.content = csc_tier_suite_content(seed, k_bytes, v_bytes),
                            .bindings = bindings,
                            .binding_count = binding_count,
                            .pieces = pieces,
                            .piece_count = 2};
    int rc;

    csc_tier_suite_fill(memory, k_bytes + v_bytes, seed);
    for (size_t i = 0; i < binding_count; i++)
        bindings[i] = testing_binding(seed, i);
    rc = tier->ops->write(tier, &write, 1);
    assert_int_equal(rc, write.status);
    *place = write.place;
    free(bindings);
    free(memory);
    return write.status;
}

int testing_read(csc_tier *tier, const csc_place *place, uint64_t seed, size_t k_bytes, size_t v_bytes)
{
    size_t bytes = k_bytes + v_bytes;
    uint8_t *memory = page_memory(bytes);
    uint8_t *expected = page_memory(bytes);
    const cascade_piece piece = {memory, bytes};
    csc_content content = csc_tier_suite_content(seed, k_bytes, v_bytes);
    int rc = csc_tier_read_one(tier, place, &content, 0, &piece, 1);

    csc_tier_suite_fill(expected, bytes, seed);
    if (rc == 0 && memcmp(memory, expected, bytes) != 0)
        rc = -1000;
    free(memory);
    free(expected);
    return rc;
}

/* ---- calls that fail ------------------------------------------------------------------------------ */

enum kind { OTHER, SYNC, GROWTH };

/* The number of a call of this kind, from 1; 0: it does not count. */
static int count_call(enum kind kind)
{
    testing_faults *f = &testing_fault;

    if (f->at == 0 || (f->only_sync && kind != SYNC) || (f->only_growth && kind != GROWTH))
        return 0;
    return ++f->calls;
}

/* Whether the call with that number fails; errno is set. */
static bool fails_at(int number)
{
    testing_faults *f = &testing_fault;

    if (number == 0 || f->err == 0 || number < f->at || (number > f->at && !f->lasting))
        return false;
    f->met = true;
    errno = f->err;
    return true;
}

static bool is_direct(int fd)
{
    return fcntl(fd, F_GETFL) & O_DIRECT;
}

static bool fails(enum kind kind)
{
    return fails_at(count_call(kind));
}

/* Direct transfers must be of whole pages, whatever this file system would put up with. */
static void check_alignment(int fd, const struct iovec *vectors, int count, off_t offset)
{
    if (!is_direct(fd))
        return;
    assert_int_equal(offset % 4096, 0);
    for (int i = 0; i < count; i++) {
        assert_int_equal((uintptr_t)vectors[i].iov_base % 4096, 0);
        assert_int_equal(vectors[i].iov_len % 4096, 0);
    }
}

/* The `at`-th transfer that is longer than a page moves a page less (a whole page stays aligned). */
static int shorten(struct iovec *to, const struct iovec *vectors, int count, int number)
{
    testing_faults *f = &testing_fault;

    memcpy(to, vectors, (size_t)count * sizeof *to);
    if (number == 0 || f->err != 0 || number != f->at)
        return count;
    f->met = true;
    if (to[count - 1].iov_len > 4096)
        to[count - 1].iov_len = (to[count - 1].iov_len - 1) / 4096 * 4096;
    else if (count > 1)
        count--;
    return count;
}

static ssize_t faulty_transfer(ssize_t (*call)(int, const struct iovec *, int, off_t), int fd,
                               const struct iovec *vectors, int count, off_t offset)
{
    struct iovec window[1024];
    int number = count_call(call == pwritev ? GROWTH : OTHER);

    check_alignment(fd, vectors, count, offset);
    if (fails_at(number))
        return -1;
    if (testing_fault.refuse_direct && is_direct(fd)) {
        errno = EINVAL;
        return -1;
    }
    count = shorten(window, vectors, count, number);
    return call(fd, window, count, offset);
}

/* A bit in the middle: of the payload, if any of that was read. */
static void flip(const struct iovec *vectors, size_t bytes)
{
    size_t at = bytes / 2;

    while (at >= vectors->iov_len)
        at -= vectors++->iov_len;
    ((uint8_t *)vectors->iov_base)[at] ^= 0x10;
}

static ssize_t faulty_preadv(int fd, const struct iovec *vectors, int count, off_t offset)
{
    testing_faults *f = &testing_fault;
    ssize_t got = faulty_transfer(preadv, fd, vectors, count, offset);
    int number;

    if (f->wrong_at == 0 || got <= 4096)
        return got;
    number = ++f->wide_reads;
    if (number >= f->wrong_at && number < f->wrong_at + f->wrong_count)
        flip(vectors, (size_t)got);
    return got;
}

static ssize_t faulty_pwritev(int fd, const struct iovec *vectors, int count, off_t offset)
{
    testing_faults *f = &testing_fault;
    size_t bytes = 0;

    for (int i = 0; i < count; i++)
        bytes += vectors[i].iov_len;
    if (bytes > f->write_bytes_max)
        f->write_bytes_max = bytes;
    if (f->shuffle && offset / 4096 % 2 == 0)
        usleep(2000);
    return f->discard ? (ssize_t)bytes : faulty_transfer(pwritev, fd, vectors, count, offset);
}

static int faulty_open(const char *path, int flags, mode_t mode)
{
    return fails(OTHER) ? -1 : open(path, flags, mode);
}

/* No power is cut here, so in the many lives with faults a sync that works need not do anything. */
static int faulty_sync(int (*call)(int), int fd)
{
    if (fails(SYNC))
        return -1;
    return testing_fault.at == 0 ? call(fd) : 0;
}

static int faulty_fdatasync(int fd)
{
    return faulty_sync(fdatasync, fd);
}

static int faulty_fsync(int fd)
{
    struct stat info;

    if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode))
        testing_fault.whole_syncs++;
    return faulty_sync(fsync, fd);
}

static int faulty_fallocate(int fd, int mode, off_t offset, off_t bytes)
{
    if (testing_fault.discard) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return fails(GROWTH) ? -1 : fallocate(fd, mode, offset, bytes);
}

static int faulty_ftruncate(int fd, off_t bytes)
{
    return fails(OTHER) ? -1 : ftruncate(fd, bytes);
}

static int faulty_fstat(int fd, struct stat *info)
{
    return fails(OTHER) ? -1 : fstat(fd, info);
}

static int faulty_rename(const char *from, const char *to)
{
    return fails(OTHER) ? -1 : rename(from, to);
}

static int faulty_unlink(const char *path)
{
    return fails(OTHER) ? -1 : unlink(path);
}

static int faulty_statfs(const char *path, struct statfs *info)
{
    int rc = statfs(path, info);

    if (testing_fault.is_lustre)
        info->f_type = 0x0BD00BD0;
    return rc;
}

const csc_io_calls testing_calls = {
    .open = faulty_open,
    .preadv = faulty_preadv,
    .pwritev = faulty_pwritev,
    .fdatasync = faulty_fdatasync,
    .fsync = faulty_fsync,
    .fallocate = faulty_fallocate,
    .ftruncate = faulty_ftruncate,
    .fstat = faulty_fstat,
    .rename = faulty_rename,
    .unlink = faulty_unlink,
    .statfs = faulty_statfs,
};

size_t testing_open_descriptors(void)
{
    DIR *folder = opendir("/proc/self/fd");
    size_t count = 0;

    assert_non_null(folder);
    while (readdir(folder))
        count++;
    closedir(folder);
    return count;
}

int testing_setup(void **state)
{
    (void)state;
    testing_directory();
    testing_fault = (testing_faults){0};
    return csc_io_create(&testing_calls, &testing_io);
}

int testing_teardown(void **state)
{
    (void)state;
    csc_io_destroy(&testing_io);
    testing_remove();
    return 0;
}

void testing_again(void)
{
    testing_teardown(NULL);
    assert_int_equal(testing_setup(NULL), 0);
}

csc_tier *testing_suite_open(csc_segment_options options)
{
    csc_tier *tier = NULL;

    assert_int_equal(testing_setup(NULL), 0);
    assert_int_equal(testing_open(options, &tier), 0);
    return tier;
}

void testing_suite_close(csc_tier **tier)
{
    (*tier)->ops->close(tier);
    assert_null(*tier);
    testing_teardown(NULL);
}
