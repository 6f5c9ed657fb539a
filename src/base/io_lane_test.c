/* SPDX-License-Identifier: MIT */
/* Lanes on both engines: the bytes, short transfers, failures, deadlines and what comes after them. */
#include "base/clock.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define PAGE  ((size_t)4096)
#define EVER  UINT64_MAX
#define BYTES ((size_t)4 << 20)

static char path[256];

static uint64_t soon(unsigned ms)
{
    return csc_clock_ns() + ms * UINT64_C(1000000);
}

static int make_file(void **state)
{
    const char *base = getenv("TMPDIR");

    (void)state;
    unsetenv("CASCADE_IO");
    snprintf(path, sizeof path, "%s/io_lane_test.XXXXXX", base ? base : "/tmp");
    close(mkstemp(path));
    return 0;
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

static csc_io *open_layer(const char *engine, const csc_io_calls *calls)
{
    csc_io_facts facts;
    csc_io *io;

    setenv("CASCADE_IO", engine, 1);
    assert_int_equal(csc_io_create(calls, &io), 0);
    csc_io_get_facts(io, &facts);
    if (strcmp(engine, "uring") == 0 && !facts.uring) {
        csc_io_destroy(&io);
        print_message("skipped: no io_uring here\n");
        skip();
    }
    return io;
}

static void fill(uint8_t *to, size_t bytes, unsigned seed)
{
    for (size_t i = 0; i < bytes; i++)
        to[i] = (uint8_t)((i * 2654435761u + seed) >> 13);
}

/* ---- bytes ------------------------------------------------------------------------------------ */

/* Sixteen requests of three vectors each, submitted back to front. */
static void move_all(csc_io *io, int fd, uint8_t *data, bool is_write)
{
    struct iovec vectors[CSC_IO_DEPTH][3];
    csc_io_request requests[CSC_IO_DEPTH] = {0}, *done;
    const size_t each = BYTES / CSC_IO_DEPTH;
    csc_io_lane *lane;
    unsigned seen = 0;

    assert_int_equal(csc_io_lane_take(io, &lane), 0);
    for (unsigned i = CSC_IO_DEPTH; i-- > 0;) {
        uint8_t *from = data + i * each;

        vectors[i][0] = (struct iovec){from, PAGE};
        vectors[i][1] = (struct iovec){from + PAGE, each - 2 * PAGE};
        vectors[i][2] = (struct iovec){from + each - PAGE, PAGE};
        requests[i] = (csc_io_request){.fd = fd,
                                       .is_write = is_write,
                                       .vectors = vectors[i],
                                       .count = 3,
                                       .offset = i * each,
                                       .owner = &requests[i]};
        assert_int_equal(csc_io_submit(lane, &requests[i]), 0);
    }
    assert_int_equal(csc_io_submit(lane, &(csc_io_request){.fd = fd}), CASCADE_EAGAIN);
    while (csc_io_lane_next(lane, EVER, &done) == 0) {
        assert_int_equal(done->status, 0);
        assert_ptr_equal(done->owner, done);
        seen++;
    }
    assert_int_equal(seen, CSC_IO_DEPTH);
    csc_io_lane_give(&lane);
    assert_null(lane);
}

static void bytes_go_and_come(const char *engine, const csc_io_calls *calls)
{
    csc_io *io = open_layer(engine, calls);
    uint8_t *out = aligned_alloc(PAGE, BYTES), *in = aligned_alloc(PAGE, BYTES);
    int fd = open(path, O_RDWR);

    fill(out, BYTES, 7);
    move_all(io, fd, out, true);
    memset(in, 0, BYTES);
    move_all(io, fd, in, false);
    assert_memory_equal(in, out, BYTES);
    close(fd);
    free(in);
    free(out);
    csc_io_destroy(&io);
}

static void uring_moves_bytes(void **state)
{
    (void)state;
    bytes_go_and_come("uring", NULL);
}

static void threads_move_bytes(void **state)
{
    (void)state;
    bytes_go_and_come("threads", NULL);
}

/* ---- transfers that do not go as asked -------------------------------------------------------- */

static atomic_int hook_calls;
static int hook_error; /* of every third completion */

/* Half of what was moved is said to be missing; now and then a call was interrupted. */
static int shorten(bool is_write, int fd, off_t offset, size_t bytes, int result)
{
    int call = atomic_fetch_add(&hook_calls, 1);

    (void)is_write, (void)fd, (void)offset, (void)bytes;
    if (hook_error && call % 3 == 2)
        return -hook_error;
    return result > (int)PAGE ? result / 2 : result;
}

static csc_io_calls real_with(int (*completed)(bool, int, off_t, size_t, int))
{
    return (csc_io_calls){.completed = completed};
}

static void short_and_interrupted_transfers_go_on(void **state)
{
    csc_io_calls calls = real_with(shorten);

    (void)state;
    hook_error = EINTR;
    bytes_go_and_come("uring", &calls);
    assert_true(atomic_load(&hook_calls) > 2 * (int)CSC_IO_DEPTH);
    hook_error = 0;
}

static ssize_t short_preadv(int fd, const struct iovec *vectors, int count, off_t offset)
{
    struct iovec half = {vectors[0].iov_base, (vectors[0].iov_len + 1) / 2};

    if (atomic_fetch_add(&hook_calls, 1) % 3 == 2) {
        errno = EINTR;
        return -1;
    }
    return count ? preadv(fd, &half, 1, offset) : 0;
}

static void short_transfers_go_on_in_threads(void **state)
{
    csc_io_calls calls = real_with(NULL);

    (void)state;
    calls.preadv = short_preadv;
    bytes_go_and_come("threads", &calls);
}

static int status_of(const char *engine, const csc_io_calls *calls, uint64_t offset)
{
    csc_io *io = open_layer(engine, calls);
    uint8_t *memory = aligned_alloc(PAGE, PAGE);
    struct iovec vector = {memory, PAGE};
    int fd = open(path, O_RDONLY), status;
    csc_io_request request = {.fd = fd, .vectors = &vector, .count = 1, .offset = offset}, *done;
    csc_io_lane *lane;

    assert_int_equal(csc_io_lane_take(io, &lane), 0);
    assert_int_equal(csc_io_lane_next(lane, EVER, &done), CASCADE_MISS);
    assert_int_equal(csc_io_submit(lane, &request), 0);
    assert_int_equal(csc_io_lane_next(lane, EVER, &done), 0);
    status = done->status;
    if (status)
        assert_true(strlen(cascade_last_error()) > 0);
    csc_io_lane_give(&lane);
    close(fd);
    free(memory);
    csc_io_destroy(&io);
    return status;
}

static int error_for_all;
static int fail_completion(bool is_write, int fd, off_t offset, size_t bytes, int result)
{
    (void)is_write, (void)fd, (void)offset, (void)bytes, (void)result;
    return -error_for_all;
}

static ssize_t fail_preadv(int fd, const struct iovec *vectors, int count, off_t offset)
{
    (void)fd, (void)vectors, (void)count, (void)offset;
    errno = error_for_all;
    return -1;
}

static void failures_have_names(void **state)
{
    static const struct {
        int err, code;
    } cases[] = {{EIO, CASCADE_EIO},        {ENOSPC, CASCADE_ENOSPC},      {EDQUOT, CASCADE_ENOSPC},
                 {EINVAL, CASCADE_ENOTSUP}, {EOPNOTSUPP, CASCADE_ENOTSUP}, {ESTALE, CASCADE_EIO}};
    csc_io_calls by_hook = real_with(fail_completion), by_call = real_with(NULL);

    (void)state;
    by_call.preadv = fail_preadv;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        error_for_all = cases[i].err;
        assert_int_equal(status_of("threads", &by_call, 0), cases[i].code);
    }
    /* The file is empty: its end comes first. */
    assert_int_equal(status_of("threads", NULL, 0), CASCADE_EIO);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        error_for_all = cases[i].err;
        assert_int_equal(status_of("uring", &by_hook, 0), cases[i].code);
    }
    assert_int_equal(status_of("uring", NULL, 0), CASCADE_EIO);
}

/* ---- deadlines -------------------------------------------------------------------------------- */

static atomic_int release_count;

static void count_release(void *context)
{
    assert_ptr_equal(context, &release_count);
    atomic_fetch_add(&release_count, 1);
}

static void wait_for_release(int count)
{
    while (atomic_load(&release_count) < count)
        usleep(1000);
    usleep(5000);
    assert_int_equal(atomic_load(&release_count), count);
}

/* Leaves reads of an empty pipe on `lanes` lanes, past their deadline. */
static void leave_late(csc_io *io, int fd, const struct iovec *vectors, csc_io_request *requests,
                       unsigned lanes)
{
    for (unsigned i = 0; i < lanes; i++) {
        csc_io_request *done;
        csc_io_lane *lane;
        uint64_t begin_ns = csc_clock_ns();

        requests[i] = (csc_io_request){.fd = fd, .vectors = &vectors[i], .count = 1};
        assert_int_equal(csc_io_lane_take(io, &lane), 0);
        assert_int_equal(csc_io_submit(lane, &requests[i]), 0);
        assert_int_equal(csc_io_lane_next(lane, soon(5), &done), CASCADE_ETIMEDOUT);
        assert_true(csc_clock_ns() - begin_ns >= 4000000);
        csc_io_lane_abandon(&lane, count_release, &release_count);
        assert_null(lane);
    }
}

/* Late for as long as the pipe is empty. */
static void late_transfers_are_released_once(const char *engine, const csc_io_calls *calls)
{
    enum { LATE = 16 };
    static csc_io_request requests[LATE];
    static uint8_t memory[LATE][8];
    struct iovec vectors[LATE];
    csc_io *io = open_layer(engine, calls);
    csc_io_facts facts;
    csc_io_lane *lane;
    int ends[2];

    for (unsigned i = 0; i < LATE; i++)
        vectors[i] = (struct iovec){memory[i], sizeof memory[i]};
    assert_int_equal(pipe(ends), 0);
    atomic_store(&release_count, 0);
    leave_late(io, ends[0], vectors, requests, LATE);
    csc_io_get_facts(io, &facts);
    assert_int_equal(facts.late, LATE);
    assert_int_equal(facts.timeouts, LATE);
    assert_int_equal(csc_io_lane_take(io, &lane), CASCADE_ETIMEDOUT);
    assert_int_equal(atomic_load(&release_count), 0);
    assert_int_equal(write(ends[1], "12345678", 8), 8);
    wait_for_release(1);
    for (int i = 1; i < LATE; i++)
        assert_int_equal(write(ends[1], "12345678", 8), 8);
    wait_for_release(LATE);
    for (unsigned i = 0; i < LATE; i++)
        assert_memory_equal(memory[i], "12345678", 8);
    do /* counted after the release */
        csc_io_get_facts(io, &facts);
    while (facts.late > 0 && usleep(1000) == 0);
    assert_int_equal(csc_io_lane_take(io, &lane), 0);
    csc_io_lane_give(&lane);
    close(ends[0]);
    close(ends[1]);
    csc_io_destroy(&io);
}

static ssize_t pipe_preadv(int fd, const struct iovec *vectors, int count, off_t offset)
{
    (void)offset;
    return readv(fd, vectors, count);
}

static void uring_releases_late_transfers(void **state)
{
    (void)state;
    late_transfers_are_released_once("uring", NULL);
}

static void threads_release_late_transfers(void **state)
{
    csc_io_calls calls = real_with(NULL);

    (void)state;
    calls.preadv = pipe_preadv;
    late_transfers_are_released_once("threads", &calls);
}

static atomic_int slow_opens, closes;
static atomic_bool open_may_go;

static int slow_open(const char *name, int flags, mode_t mode)
{
    while (!atomic_load(&open_may_go))
        usleep(1000);
    atomic_fetch_add(&slow_opens, 1);
    return open(name, flags, mode);
}

static int counted_close(int fd)
{
    atomic_fetch_add(&closes, 1);
    return close(fd);
}

static void an_open_has_a_deadline(void **state)
{
    csc_io_calls calls = real_with(NULL);
    cascade_metadata_ops ops;
    csc_io *io;
    int fd = -1;

    (void)state;
    calls.open = slow_open;
    calls.close = counted_close;
    assert_int_equal(csc_io_create(&calls, &io), 0);
    assert_int_equal(csc_io_open_by(io, path, O_RDONLY, 0, soon(5), &fd), CASCADE_ETIMEDOUT);
    assert_int_equal(fd, -1);
    atomic_store(&open_may_go, true);
    assert_int_equal(csc_io_open_by(io, path, O_RDONLY, 0, EVER, &fd), 0);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(csc_io_open_by(io, "/nowhere/at/all", O_RDONLY, 0, EVER, &fd), CASCADE_MISS);
    assert_non_null(strstr(cascade_last_error(), "/nowhere/at/all"));
    csc_io_counts(io, &ops);
    assert_int_equal(ops.open, 3);
    csc_io_destroy(&io);
    assert_int_equal(atomic_load(&slow_opens), 3);
    assert_int_equal(atomic_load(&closes), 1); /* the late one */
}

/* ---- many at once ------------------------------------------------------------------------------ */

typedef struct worker {
    csc_io *io;
    int fd;
    unsigned seed;
    bool good;
} worker;

/* Without asserts: they do not work beside the test's own thread. */
static bool move(csc_io_lane *lane, csc_io_request *request)
{
    csc_io_request *done;

    return csc_io_submit(lane, request) == 0 && csc_io_lane_next(lane, EVER, &done) == 0 &&
           done == request && request->status == 0;
}

static void *work(void *context)
{
    worker *w = context;
    uint8_t *data = aligned_alloc(PAGE, 2 * PAGE);

    w->good = true;
    for (unsigned i = 0; w->good && i < 200; i++) {
        struct iovec out = {data, PAGE}, in = {data + PAGE, PAGE};
        csc_io_request request = {
            .fd = w->fd, .is_write = true, .vectors = &out, .count = 1, .offset = w->seed * PAGE};
        csc_io_lane *lane;

        fill(data, PAGE, w->seed + i);
        w->good = csc_io_lane_take(w->io, &lane) == 0;
        if (!w->good)
            break;
        w->good = move(lane, &request);
        request.is_write = false;
        request.vectors = &in;
        w->good = w->good && move(lane, &request) && memcmp(data, data + PAGE, PAGE) == 0;
        csc_io_lane_give(&lane);
    }
    free(data);
    return NULL;
}

static void threads_have_lanes_of_their_own(void **state)
{
    (void)state;
    for (int engine = 0; engine < 2; engine++) {
        csc_io *io = open_layer(engine ? "uring" : "threads", NULL);
        int fd = open(path, O_RDWR);
        pthread_t threads[6];
        worker workers[6];

        for (unsigned i = 0; i < 6; i++) {
            workers[i] = (worker){io, fd, i, false};
            assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
        }
        for (unsigned i = 0; i < 6; i++)
            pthread_join(threads[i], NULL);
        for (unsigned i = 0; i < 6; i++)
            assert_true(workers[i].good);
        close(fd);
        csc_io_destroy(&io);
    }
}

/* ---- registered memory ------------------------------------------------------------------------- */

#define MEMORY_BYTES ((size_t)160 << 20)

static _Atomic uint64_t ready_bytes;

static uint64_t how_much(void *context)
{
    (void)context;
    return atomic_load(&ready_bytes);
}

/* Writes and reads in `memory`, which is registered as far as it may be; returns how far that is. */
static uint64_t use_registered(uint8_t *memory)
{
    csc_io *io = open_layer("uring", NULL);
    int fd = open(path, O_RDWR | O_TRUNC);
    csc_io_facts facts;
    csc_io_lane *lane;

    csc_io_set_memory(io, memory, how_much, NULL);
    atomic_store(&ready_bytes, (uint64_t)10 << 20);
    assert_int_equal(csc_io_lane_take(io, &lane), 0);
    csc_io_get_facts(io, &facts);
    assert_true(facts.registered_bytes <= (uint64_t)10 << 20);
    csc_io_lane_give(&lane);
    atomic_store(&ready_bytes, MEMORY_BYTES);
    /* Within a chunk, across two, and across the end of what is registered. */
    for (size_t at = 0; at + 2 * BYTES <= MEMORY_BYTES; at += 31 * PAGE * 50) {
        fill(memory + at, BYTES, (unsigned)at);
        move_all(io, fd, memory + at, true);
        move_all(io, fd, memory + at + BYTES, false);
        assert_memory_equal(memory + at, memory + at + BYTES, BYTES);
    }
    csc_io_get_facts(io, &facts);
    close(fd);
    csc_io_destroy(&io);
    return facts.registered_bytes;
}

static void memory_is_registered_as_it_becomes_ready(void **state)
{
    uint8_t *memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE,
                           MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    (void)state;
    assert_ptr_not_equal(memory, MAP_FAILED);
    if (geteuid() == 0)
        assert_int_equal(use_registered(memory), MEMORY_BYTES);
    else
        use_registered(memory);
    munmap(memory, MEMORY_BYTES);
}

/* As a user who may lock 8 MiB. */
static void a_small_memory_lock_limit_is_kept(void **state)
{
    uint8_t *memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE,
                           MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    struct rlimit limit = {(rlim_t)8 << 20, (rlim_t)8 << 20};
    csc_io *io = open_layer("uring", NULL); /* skips here, not in the child */
    int status;
    pid_t child;

    (void)state;
    csc_io_destroy(&io);
    if (geteuid() != 0) {
        munmap(memory, MEMORY_BYTES);
        print_message("skipped: only root becomes another user\n");
        skip();
    }
    assert_int_equal(chmod(path, 0666), 0);
    child = fork();
    if (child == 0) {
        csc_io_facts facts;
        uint64_t got;

        if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0 || setresgid(65534, 65534, 65534) != 0 ||
            setresuid(65534, 65534, 65534) != 0)
            _exit(3);
        if (csc_io_create(NULL, &io) != 0)
            _exit(4);
        csc_io_get_facts(io, &facts);
        csc_io_destroy(&io);
        if (!facts.uring) /* a setting of the system: not for everyone */
            _exit(77);
        got = use_registered(memory);
        _exit(got <= ((uint64_t)8 << 20) ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    munmap(memory, MEMORY_BYTES);
    if (WEXITSTATUS(status) == 77) {
        print_message("skipped: io_uring is for root alone here\n");
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(uring_moves_bytes, make_file, remove_file),
        cmocka_unit_test_setup_teardown(threads_move_bytes, make_file, remove_file),
        cmocka_unit_test_setup_teardown(short_and_interrupted_transfers_go_on, make_file, remove_file),
        cmocka_unit_test_setup_teardown(short_transfers_go_on_in_threads, make_file, remove_file),
        cmocka_unit_test_setup_teardown(failures_have_names, make_file, remove_file),
        cmocka_unit_test_setup_teardown(uring_releases_late_transfers, make_file, remove_file),
        cmocka_unit_test_setup_teardown(threads_release_late_transfers, make_file, remove_file),
        cmocka_unit_test_setup_teardown(an_open_has_a_deadline, make_file, remove_file),
        cmocka_unit_test_setup_teardown(threads_have_lanes_of_their_own, make_file, remove_file),
        cmocka_unit_test_setup_teardown(memory_is_registered_as_it_becomes_ready, make_file,
                                        remove_file),
        cmocka_unit_test_setup_teardown(a_small_memory_lock_limit_is_kept, make_file, remove_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
