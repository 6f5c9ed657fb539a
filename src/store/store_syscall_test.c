/* SPDX-License-Identifier: MIT */
/*
 * Lookups, pins and copies of what is in dram make no system call: a thread under a filter that traps
 * every call does thousands of them while another thread puts.
 */
#include "store_testing.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define SANITIZED 0
#endif

#define BLOCKS      64u
#define ROUNDS      200u
#define BLOCK_BYTES (16 * ST_KIB)

static volatile sig_atomic_t trapped_call = -1;
static _Atomic bool stop;

static void on_trap(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)context;
    if (trapped_call < 0)
        trapped_call = info->si_syscall;
}

/* From here on the calling thread traps at every system call but those that end it. */
static bool forbid_calls(void)
{
    static const unsigned ending[] = {SYS_exit,   SYS_exit_group,   SYS_madvise,
                                      SYS_munmap, SYS_rt_sigreturn, SYS_rt_sigprocmask};
    struct sock_filter program[2 + sizeof ending / sizeof ending[0] + 1];
    struct sock_fprog filter = {.filter = program};
    unsigned short count = sizeof ending / sizeof ending[0], at = 0;

    program[at++] =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (unsigned short i = 0; i < count; i++)
        program[at++] =
            (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ending[i], (__u8)(count - i), 0);
    program[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
    program[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    filter.len = at;
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

typedef struct filtered_reader {
    cascade_store *store;
    bool filtered;
    bool always_a_call; /* proves that the trap works */
    unsigned failures;
} filtered_reader;

static void read_all(filtered_reader *reader, uint8_t *into, unsigned rounds)
{
    cascade_key keys[BLOCKS];
    const cascade_piece piece = {into, BLOCK_BYTES};
    const cascade_block block = {&piece, 1, NULL, 0};

    for (unsigned i = 0; i < BLOCKS; i++)
        keys[i] = st_key(i);
    for (unsigned round = 0; round < rounds; round++) {
        size_t matched = 0;

        if (cascade_prefix_match(reader->store, keys, BLOCKS, &matched) != 0 || matched != BLOCKS)
            reader->failures++;
        for (unsigned i = 0; i < BLOCKS; i++) {
            cascade_view *view = NULL;

            if (cascade_block_view(reader->store, &keys[i], &view) != 0)
                reader->failures++;
            cascade_view_release(reader->store, &view);
            if (cascade_block_get(reader->store, &keys[i], &block) != 0)
                reader->failures++;
        }
    }
}

static void *read_filtered(void *context)
{
    static uint8_t into[BLOCK_BYTES];
    filtered_reader *reader = context;

    read_all(reader, into, 2); /* the allocator and the page tables are warm after this */
    reader->filtered = forbid_calls();
    if (!reader->filtered)
        return NULL;
    if (reader->always_a_call)
        (void)syscall(SYS_getppid);
    read_all(reader, into, ROUNDS);
    return NULL;
}

static void *put_more(void *context)
{
    for (uint64_t number = 1000; !atomic_load(&stop); number++)
        (void)st_put(context, number % 2000 + 1000, number, 4 * ST_KIB, 0, 0);
    return NULL;
}

/* Runs the reader; returns the number of the first system call that it made, -1 for none. */
static int first_call(bool always_a_call)
{
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
    cascade_options options = st_options();
    filtered_reader reader = {.always_a_call = always_a_call};
    pthread_t reading, putting;

    if (SANITIZED) {
        print_message("# skipped: the sanitizers make system calls of their own\n");
        skip();
    }
    options.dram_bytes = 64 * ST_MIB;
    options.lease_ms = 600000;
    reader.store = st_open_with(options);
    for (uint64_t i = 0; i < BLOCKS; i++)
        assert_int_equal(st_put(reader.store, i, i, BLOCK_BYTES, 0, 0), 0);
    trapped_call = -1;
    sigaction(SIGSYS, &action, NULL);
    atomic_store(&stop, false);
    assert_int_equal(pthread_create(&putting, NULL, put_more, reader.store), 0);
    assert_int_equal(pthread_create(&reading, NULL, read_filtered, &reader), 0);
    pthread_join(reading, NULL);
    atomic_store(&stop, true);
    pthread_join(putting, NULL);
    st_close(&reader.store);
    if (!reader.filtered) {
        print_message("# skipped: this kernel lets no thread filter its system calls\n");
        skip();
    }
    assert_int_equal(reader.failures, 0);
    return trapped_call;
}

static void test_reading_makes_no_system_call(void **state)
{
    (void)state;
    assert_int_equal(first_call(false), -1);
}

static void test_a_system_call_would_be_seen(void **state)
{
    (void)state;
    assert_int_equal(first_call(true), SYS_getppid);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_reading_makes_no_system_call, st_setup, st_teardown),
        cmocka_unit_test_setup_teardown(test_a_system_call_would_be_seen, st_setup, st_teardown),
    };

    return cmocka_run_group_tests_name("store_syscall", tests, NULL, NULL);
}
