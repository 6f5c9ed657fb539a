/* SPDX-License-Identifier: MIT */
/* Lanes where the system is unkind: io_uring forbidden or used up, threads that end, forks, files that
 * never get on. */
#include "base/clock.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define PAGE ((size_t)4096)
#define EVER UINT64_MAX

static char path[256];
static const char *const engines[] = {"uring", "threads"};

static uint64_t soon(unsigned ms)
{
    return csc_clock_ns() + ms * UINT64_C(1000000);
}

static int make_file(void **state)
{
    const char *base = getenv("TMPDIR");
    int fd;

    (void)state;
    unsetenv("CASCADE_IO");
    snprintf(path, sizeof path, "%s/io_lane_hard_test.XXXXXX", base ? base : "/tmp");
    fd = mkstemp(path);
    return fd < 0 || close(fd) != 0;
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

static bool is_uring(const csc_io *io)
{
    csc_io_facts facts;

    csc_io_get_facts(io, &facts);
    return facts.uring;
}

/* NULL: the engine is not to be had here. */
static csc_io *open_layer(const char *engine, const csc_io_calls *calls)
{
    csc_io *io;

    setenv("CASCADE_IO", engine, 1);
    assert_int_equal(csc_io_create(calls, &io), 0);
    if (strcmp(engine, "uring") == 0 && !is_uring(io)) {
        csc_io_destroy(&io);
        print_message("skipped: no io_uring here\n");
    }
    return io;
}

/* One transfer, from its submission to its end; its status, or what waiting for it said. */
static int move_one(csc_io *io, int fd, bool is_write, void *memory, size_t bytes, uint64_t offset)
{
    struct iovec vector = {memory, bytes};
    csc_io_request request = {
        .fd = fd, .is_write = is_write, .vectors = &vector, .count = 1, .offset = offset};
    csc_io_request *done;
    csc_io_lane *lane;
    int code = csc_io_lane_take(io, &lane);

    if (code)
        return code;
    code = csc_io_submit(lane, &request);
    if (code == 0)
        code = csc_io_lane_next(lane, EVER, &done);
    csc_io_lane_give(&lane);
    return code ? code : request.status;
}

/* Without asserts: children use it too. */
static bool moves_bytes(csc_io *io)
{
    static uint8_t out[PAGE], in[PAGE];
    int fd = open(path, O_RDWR);
    bool good;

    memset(out, 0x5a, sizeof out);
    memset(in, 0, sizeof in);
    good = fd >= 0 && move_one(io, fd, true, out, PAGE, PAGE) == 0 &&
           move_one(io, fd, false, in, PAGE, PAGE) == 0 && memcmp(in, out, PAGE) == 0;
    close(fd);
    return good;
}

/* What `body` returns in a child of its own: below 100. */
static int in_child(int (*body)(void *context), void *context)
{
    int status;
    pid_t child = fork();

    if (child == 0) {
        alarm(600); /* rather a failure than a hang */
        _exit(body(context));
    }
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

/* ---- which engine ------------------------------------------------------------------------------ */

static void the_environment_says_which_engine(void **state)
{
    csc_io *io = open_layer("uring", NULL);
    bool has_uring = io != NULL;

    (void)state;
    csc_io_destroy(&io);
    io = open_layer("threads", NULL);
    assert_false(is_uring(io));
    assert_true(moves_bytes(io));
    csc_io_destroy(&io);
    /* Not a name of an engine: as if nothing had been said. */
    setenv("CASCADE_LOG", "none", 1);
    io = open_layer("carrier pigeon", NULL);
    assert_int_equal(is_uring(io), has_uring);
    csc_io_destroy(&io);
    unsetenv("CASCADE_LOG");
}

/* The filter of a container: one system call answers EPERM. */
static int forbid(int call)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof code[0], code};

    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static int without_call(void *context)
{
    csc_io *io;

    if (forbid(*(int *)context) != 0)
        return 77;
    if (csc_io_create(NULL, &io) != 0)
        return 1;
    if (is_uring(io))
        return 2;
    if (!moves_bytes(io))
        return 3;
    csc_io_destroy(&io);
    return 0;
}

static void where_io_uring_is_forbidden_threads_do_it(void **state)
{
    int calls[] = {SYS_io_uring_setup, SYS_io_uring_enter};

    (void)state;
    unsetenv("CASCADE_IO");
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        int got = in_child(without_call, &calls[i]);

        if (got == 77) {
            print_message("skipped: no filters here\n");
            skip();
        }
        assert_int_equal(got, 0);
    }
}

static int without_descriptors(void *context)
{
    int highest = open("/dev/null", O_RDONLY), fd = open(path, O_RDWR);
    struct rlimit limit = {(rlim_t)fd + 1, (rlim_t)fd + 1};
    uint8_t page[PAGE] = {1};
    csc_io *io;

    (void)context;
    if (highest < 0 || fd < highest || setrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 77;
    if (csc_io_create(NULL, &io) != 0)
        return 1;
    if (is_uring(io))
        return 2;
    if (move_one(io, fd, true, page, PAGE, 0) != 0)
        return 3;
    csc_io_destroy(&io);
    return 0;
}

static void without_descriptors_for_rings_threads_do_it(void **state)
{
    (void)state;
    unsetenv("CASCADE_IO");
    assert_int_equal(in_child(without_descriptors, NULL), 0);
}

/* ---- transfers that never get on --------------------------------------------------------------- */

static int refuse_error;

static int refuse(bool is_write, int fd, off_t offset, size_t bytes, int result)
{
    (void)is_write, (void)fd, (void)offset, (void)bytes, (void)result;
    return -refuse_error;
}

static ssize_t refuse_preadv(int fd, const struct iovec *vectors, int count, off_t offset)
{
    (void)fd, (void)vectors, (void)count, (void)offset;
    errno = refuse_error;
    return -1;
}

static void note_release(void *context)
{
    atomic_fetch_add((atomic_int *)context, 1);
}

static void an_interruption_for_ever_ends_at_the_deadline(void **state)
{
    static const int errors[] = {EINTR, EAGAIN};
    csc_io_calls calls = {.preadv = refuse_preadv};

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        static uint8_t page[PAGE];
        static struct iovec vector = {page, PAGE};
        static csc_io_request request;
        csc_io_request *done;
        atomic_int released = 0;
        csc_io_lane *lane;
        csc_io *io;
        int fd = open(path, O_RDWR);

        refuse_error = errors[i / 2];
        calls.completed = i % 2 ? NULL : refuse;
        io = open_layer(engines[i % 2], &calls);
        request = (csc_io_request){.fd = fd, .vectors = &vector, .count = 1};
        if (!io) {
            close(fd);
            continue;
        }
        assert_int_equal(csc_io_lane_take(io, &lane), 0);
        assert_int_equal(csc_io_submit(lane, &request), 0);
        assert_int_equal(csc_io_lane_next(lane, soon(5), &done), CASCADE_ETIMEDOUT);
        assert_non_null(strstr(cascade_last_error(), "deadline"));
        csc_io_lane_abandon(&lane, note_release, &released);
        csc_io_destroy(&io); /* waits for what is on its way, not for the rest of it */
        assert_int_equal(atomic_load(&released), 1);
        close(fd);
    }
}

/* ---- ends of files, and odd requests ------------------------------------------------------------ */

static void a_file_can_end_within_a_transfer(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        csc_io *io = open_layer(engines[i], NULL);
        uint8_t data[3 * PAGE];
        int fd = open(path, O_RDWR | O_TRUNC);

        memset(data, 9, sizeof data);
        if (io) {
            assert_int_equal(move_one(io, fd, true, data, 2 * PAGE + 10, 0), 0);
            assert_int_equal(move_one(io, fd, false, data, 2 * PAGE + 10, 0), 0);
            assert_int_equal(move_one(io, fd, false, data, 3 * PAGE, 0), CASCADE_EIO);
            assert_non_null(strstr(cascade_last_error(), "end of file"));
        }
        close(fd);
        csc_io_destroy(&io);
    }
}

static uint64_t all_ready(void *context)
{
    return *(uint64_t *)context;
}

/* As csc_io_read and csc_io_write say: no bytes are no error, and no offset means "where the file
 * stands". */
static void odd_requests_are_answered_alike(void **state)
{
    uint64_t ready = (uint64_t)4 << 20;
    uint8_t *memory = mmap(NULL, ready, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    (void)state;
    assert_ptr_not_equal(memory, MAP_FAILED);
    for (unsigned i = 0; i < 2; i++) {
        csc_io *io = open_layer(engines[i], NULL);
        int fd = open(path, O_RDWR | O_TRUNC);

        if (io) {
            csc_io_set_memory(io, memory, all_ready, &ready);
            assert_int_equal(move_one(io, fd, false, memory, 0, 0), 0);
            assert_int_equal(move_one(io, fd, true, memory + PAGE, 0, 0), 0);
            assert_int_equal(move_one(io, fd, true, memory, PAGE, UINT64_MAX), CASCADE_EINVAL);
            assert_int_equal(move_one(io, fd, true, memory, PAGE, INT64_MAX), CASCADE_EINVAL);
            assert_int_equal(lseek(fd, 0, SEEK_END), 0); /* nothing was written anywhere */
        }
        close(fd);
        csc_io_destroy(&io);
    }
    munmap(memory, ready);
}

/* ---- a descriptor that does not wait -------------------------------------------------------------- */

/* io_uring carries out at once, in the thread that submits, what it takes not to block: also a read from
 * a file system that does not know the flag, and then nothing runs beside and no deadline holds. */
static void nonblocking_is_only_the_open(void **state)
{
    csc_io *io;
    int fd;

    (void)state;
    assert_int_equal(csc_io_create(NULL, &io), 0);
    assert_int_equal(csc_io_open(io, path, O_RDONLY | O_NONBLOCK, 0, &fd), 0);
    assert_int_equal(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
    assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
    csc_io_close(io, fd);
    assert_int_equal(csc_io_open_by(io, path, O_RDWR | O_NONBLOCK, 0, EVER, &fd), 0);
    assert_int_equal(fcntl(fd, F_GETFL) & (O_NONBLOCK | O_ACCMODE), O_RDWR);
    csc_io_close(io, fd);
    csc_io_destroy(&io);
}

/* ---- threads that end ----------------------------------------------------------------------------- */

typedef struct left_behind {
    csc_io *io;
    csc_io_lane *lane;
    int fd;
    bool abandons;
    uint8_t memory[8];
    struct iovec vector;
    csc_io_request request;
    atomic_int released;
    bool good;
} left_behind;

static void *submit_and_end(void *context)
{
    left_behind *left = context;
    csc_io_request *done;

    left->vector = (struct iovec){left->memory, sizeof left->memory};
    left->request = (csc_io_request){.fd = left->fd, .vectors = &left->vector, .count = 1};
    left->good = csc_io_lane_take(left->io, &left->lane) == 0 &&
                 csc_io_submit(left->lane, &left->request) == 0 &&
                 csc_io_lane_next(left->lane, soon(2), &done) == CASCADE_ETIMEDOUT;
    if (left->good && left->abandons)
        csc_io_lane_abandon(&left->lane, note_release, &left->released);
    return NULL;
}

/* The kernel cancels what a thread that ends had under way; nobody asked for that. */
static void a_transfer_outlives_its_thread(void **state)
{
    (void)state;
    for (unsigned abandons = 0; abandons < 2; abandons++) {
        left_behind left = {.abandons = abandons != 0};
        csc_io_request *done;
        pthread_t thread;
        int ends[2];

        left.io = open_layer("uring", NULL);
        if (!left.io)
            skip();
        assert_int_equal(pipe(ends), 0);
        left.fd = ends[0];
        assert_int_equal(pthread_create(&thread, NULL, submit_and_end, &left), 0);
        pthread_join(thread, NULL);
        assert_true(left.good);
        assert_int_equal(write(ends[1], "12345678", 8), 8);
        if (abandons) {
            while (atomic_load(&left.released) == 0)
                usleep(1000);
        } else {
            assert_int_equal(csc_io_lane_next(left.lane, EVER, &done), 0);
            assert_int_equal(done->status, 0);
            assert_memory_equal(left.memory, "12345678", 8);
            csc_io_lane_give(&left.lane);
        }
        csc_io_destroy(&left.io);
        assert_int_equal(atomic_load(&left.released), abandons);
        close(ends[0]);
        close(ends[1]);
    }
}

/* ---- forks ----------------------------------------------------------------------------------- */

/* How many lines of a file of /proc name io_uring. */
static int mentions(const char *name)
{
    char line[512];
    FILE *file = fopen(name, "r");
    int count = 0;

    while (file && fgets(line, sizeof line, file))
        count += strstr(line, "io_uring") != NULL;
    if (file)
        fclose(file);
    return count;
}

static int ring_descriptors(void)
{
    int count = 0;

    for (int fd = 0; fd < 256; fd++) {
        char name[64], target[64] = "";

        snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
        if (readlink(name, target, sizeof target - 1) > 0)
            count += strstr(target, "io_uring") != NULL;
    }
    return count;
}

/* A ring that a child holds, by descriptor or by mapping, keeps its registered memory pinned. */
static int child_lets_go(void *context)
{
    csc_io *io = context;

    csc_io_after_fork(io);
    if (ring_descriptors() != 0)
        return 1;
    if (mentions("/proc/self/maps") != 0)
        return 2;
    csc_io_destroy(&io);
    return io ? 3 : 0;
}

static int child_only_destroys(void *context)
{
    csc_io *io = context;

    csc_io_destroy(&io);
    return io ? 3 : 0;
}

static void a_fork_changes_nothing_for_the_parent(void **state)
{
    int (*children[])(void *) = {child_lets_go, child_only_destroys};

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        csc_io *io = open_layer(engines[i], NULL);
        atomic_int released = 0;
        uint8_t memory[8];
        struct iovec vector = {memory, sizeof memory};
        csc_io_request request = {.vectors = &vector, .count = 1}, *done;
        csc_io_lane *lane;
        int ends[2];

        if (!io)
            continue;
        assert_true(moves_bytes(io));
        assert_int_equal(pipe(ends), 0);
        request.fd = ends[0];
        assert_int_equal(csc_io_lane_take(io, &lane), 0);
        assert_int_equal(csc_io_submit(lane, &request), 0);
        if (i == 0) { /* threads do not wait for a pipe: pread refuses it */
            assert_int_equal(csc_io_lane_next(lane, soon(2), &done), CASCADE_ETIMEDOUT);
            assert_true(mentions("/proc/self/maps") >= 0 && ring_descriptors() > 0);
        }
        csc_io_lane_abandon(&lane, note_release, &released);
        for (unsigned c = 0; c < 2; c++)
            assert_int_equal(in_child(children[c], io), 0);
        assert_int_equal(write(ends[1], "12345678", 8), 8);
        while (atomic_load(&released) == 0)
            usleep(1000);
        if (i == 0)
            assert_memory_equal(memory, "12345678", 8);
        assert_true(moves_bytes(io));
        csc_io_destroy(&io);
        close(ends[0]);
        close(ends[1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_environment_says_which_engine),
        cmocka_unit_test(where_io_uring_is_forbidden_threads_do_it),
        cmocka_unit_test(without_descriptors_for_rings_threads_do_it),
        cmocka_unit_test(an_interruption_for_ever_ends_at_the_deadline),
        cmocka_unit_test(a_file_can_end_within_a_transfer),
        cmocka_unit_test(odd_requests_are_answered_alike),
        cmocka_unit_test(nonblocking_is_only_the_open),
        cmocka_unit_test(a_transfer_outlives_its_thread),
        cmocka_unit_test(a_fork_changes_nothing_for_the_parent),
    };

    return cmocka_run_group_tests(tests, make_file, remove_file);
}
