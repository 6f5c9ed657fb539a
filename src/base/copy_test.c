/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/copy.h"
#include "base/copy_kernels.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEED       UINT64_C(0x2545f4914f6cdd1d)
#define ROOM_BYTES ((size_t)6 << 20)
#define GUARD      0xa5

static uint64_t random_state = SEED;
static uint8_t *source, *target;

static uint64_t random_next(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static void copy_in(void *restrict to, const void *restrict from, size_t bytes)
{
    csc_copy(CSC_COPY_IN, to, from, bytes);
}

static void copy_out(void *restrict to, const void *restrict from, size_t bytes)
{
    csc_copy(CSC_COPY_OUT, to, from, bytes);
}

/* Copies between random alignments; the bytes around the target must stay. */
static void check_copy(const csc_copy_kernel *kernel, size_t bytes)
{
    size_t from = random_next() % 130, to = 1 + random_next() % 130;

    memset(target, GUARD, to + bytes + 64);
    kernel->copy(target + to, source + from, bytes);
    if (memcmp(target + to, source + from, bytes) != 0)
        fail_msg("%s: %zu bytes from +%zu to +%zu differ", kernel->name, bytes, from, to);
    for (size_t i = 0; i < to; i++)
        assert_int_equal(target[i], GUARD);
    for (size_t i = 0; i < 64; i++)
        assert_int_equal(target[to + bytes + i], GUARD);
}

static void check_sizes(const csc_copy_kernel *kernel)
{
    static const size_t large[] = {16 << 10, 64 << 10, (256 << 10) - 1, 1 << 20, (5 << 20) + 17};

    for (size_t bytes = 0; bytes <= 600; bytes++)
        check_copy(kernel, bytes);
    for (unsigned i = 0; i < 300; i++)
        check_copy(kernel, random_next() % (40 << 10));
    for (size_t i = 0; i < sizeof large / sizeof large[0]; i++)
        check_copy(kernel, large[i]);
}

static const csc_copy_kernel in = {.name = "csc_copy in", .copy = copy_in};
static const csc_copy_kernel out = {.name = "csc_copy out", .copy = copy_out};

static void test_every_kernel_copies(void **state)
{
    const csc_copy_kernel *kernels[CSC_COPY_KERNELS_MAX];
    size_t count = csc_copy_platform_kernels(kernels);

    (void)state;
    assert_in_range(count, 0, CSC_COPY_KERNELS_MAX);
    for (size_t i = 0; i < count; i++)
        check_sizes(kernels[i]);
}

static void test_untuned_is_memcpy(void **state)
{
    (void)state;
    for (size_t bytes = 1; bytes < ROOM_BYTES; bytes *= 2) {
        assert_string_equal(csc_copy_kernel_name(CSC_COPY_IN, bytes), "memcpy");
        assert_string_equal(csc_copy_kernel_name(CSC_COPY_OUT, bytes), "memcpy");
    }
    check_sizes(&in);
    csc_copy(CSC_COPY_IN, NULL, NULL, 0);
}

static bool is_a_kernel(const char *name)
{
    const csc_copy_kernel *kernels[CSC_COPY_KERNELS_MAX];
    size_t count = csc_copy_platform_kernels(kernels);

    for (size_t i = 0; i < count; i++)
        if (strcmp(name, kernels[i]->name) == 0)
            return true;
    return strcmp(name, "memcpy") == 0;
}

/* Which kernel wins is the machine's affair; here: that each size has one and it copies rightly, and
 * that a second call is without effect. */
static void test_tuned(void **state)
{
    static const size_t sizes[] = {1, 16 << 10, 64 << 10, 1 << 20, 16 << 20, 80 << 20};
    const char *names[2][sizeof sizes / sizeof sizes[0]];

    (void)state;
    csc_copy_tune(target, ROOM_BYTES, 60);
    for (int direction = 0; direction < 2; direction++)
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            names[direction][i] = csc_copy_kernel_name((csc_copy_direction)direction, sizes[i]);
            assert_true(is_a_kernel(names[direction][i]));
            printf("# %s %zu KiB: %s\n", direction == CSC_COPY_IN ? "in" : "out", sizes[i] >> 10,
                   names[direction][i]);
        }
    assert_string_equal(names[0][0], "memcpy");
    check_sizes(&in);
    check_sizes(&out);
    memset(target, GUARD, ROOM_BYTES);
    csc_copy_tune(target, ROOM_BYTES, 20);
    for (size_t i = 0; i < ROOM_BYTES; i++)
        if (target[i] != GUARD)
            fail_msg("the second tuning wrote to the arena");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_kernel_copies),
        cmocka_unit_test(test_untuned_is_memcpy),
        cmocka_unit_test(test_tuned),
    };
    int failed;

    source = malloc(ROOM_BYTES);
    target = malloc(ROOM_BYTES);
    if (!source || !target)
        return 1;
    for (size_t i = 0; i < ROOM_BYTES; i++)
        source[i] = (uint8_t)(random_next() >> 32);
    printf("# seed %#llx\n", (unsigned long long)SEED);
    fflush(stdout);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(source);
    free(target);
    return failed;
}
