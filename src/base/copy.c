/* SPDX-License-Identifier: MIT */
/*
 * Choosing a copy kernel by measuring.
 *
 * The private side of a trial is what callers have: plain pages, 16 bytes off a page boundary as malloc
 * leaves large buffers, or on it, as tensors often lie. Both count alike, because a kernel can be good
 * at one and bad at the other: on Zen 3, rep movsb (and memcpy up to some 512 KiB, which is built on it)
 * falls from 9 to 2.8 GB/s where source and target differ by 16 bytes modulo a page.
 *
 * Noise only ever slows a trial down, so the best time of each kernel counts; kernels take turns, so
 * that a slow phase of the machine hits all of them.
 */
#include "base/copy.h"

#include "base/clock.h"
#include "base/copy_kernels.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

/* Sanitizers see neither rep movsb nor streamed stores: there memcpy alone. */
#ifdef __has_feature
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                              \
    __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#endif

#define KIB         ((size_t)1 << 10)
#define MIB         ((size_t)1 << 20)
#define BANDS       4u /* of sizes */
#define DIRECTIONS  2u
#define ALIGNMENTS  2u
#define KERNELS_MAX (CSC_COPY_KERNELS_MAX + 1)
#define PRIVATE_MAX (64 * MIB)
#define TRIAL_MIN   MIB
#define LARGE       2u /* the first band that is measured in every fourth round only */

/* Below the first limit a copy is memcpy always. */
static const size_t band_least[BANDS] = {16 * KIB, 256 * KIB, 4 * MIB, 32 * MIB};
static const size_t band_measured[BANDS] = {64 * KIB, MIB, 16 * MIB, 40 * MIB};
static const size_t misalignment[ALIGNMENTS] = {16, 0};

static void copy_memcpy(void *restrict to, const void *restrict from, size_t bytes)
{
    memcpy(to, from, bytes);
}

static const csc_copy_kernel kernel_memcpy = {.name = "memcpy", .copy = copy_memcpy};

/* NULL is memcpy. */
static _Atomic(const csc_copy_kernel *) chosen[DIRECTIONS][BANDS];

static const csc_copy_kernel *kernel_for(csc_copy_direction direction, size_t bytes)
{
    const csc_copy_kernel *kernel;
    unsigned band = 0;

    if (bytes < band_least[0])
        return &kernel_memcpy;
    while (band + 1 < BANDS && bytes >= band_least[band + 1])
        band++;
    kernel = atomic_load_explicit(&chosen[direction][band], memory_order_relaxed);
    return kernel ? kernel : &kernel_memcpy;
}

void csc_copy(csc_copy_direction direction, void *to, const void *from, size_t bytes)
{
    if (bytes) /* an empty piece may have no address */
        kernel_for(direction, bytes)->copy(to, from, bytes);
}

const char *csc_copy_kernel_name(csc_copy_direction direction, size_t bytes)
{
    return kernel_for(direction, bytes)->name;
}

typedef struct tuner {
    const csc_copy_kernel *kernels[KERNELS_MAX]; /* memcpy first */
    size_t kernel_count;
    char *arena;
    char *private;
    size_t bytes;  /* of each side */
    size_t cursor; /* the next trial goes on where the last ended, so that it finds cold memory */
    uint64_t deadline_ns;
    uint64_t best_ns[DIRECTIONS][BANDS][KERNELS_MAX][ALIGNMENTS]; /* 0: not measured */
} tuner;

static void run_trial(tuner *t, csc_copy_direction direction, unsigned band, size_t kernel,
                      unsigned alignment)
{
    uint64_t *best = &t->best_ns[direction][band][kernel][alignment];
    size_t bytes = band_measured[band];
    size_t repeats = bytes < TRIAL_MIN ? TRIAL_MIN / bytes : 1;
    uint64_t begin_ns = csc_clock_ns(), took_ns;

    for (size_t i = 0; i < repeats; i++, t->cursor += bytes) {
        if (t->cursor + bytes > t->bytes)
            t->cursor = 0;
        char *ours = t->arena + t->cursor, *theirs = t->private + t->cursor + misalignment[alignment];
        bool in = direction == CSC_COPY_IN;
        t->kernels[kernel]->copy(in ? ours : theirs, in ? theirs : ours, bytes);
    }
    took_ns = csc_clock_ns() - begin_ns + 1;
    if (!*best || took_ns < *best)
        *best = took_ns;
}

/* Every kernel once for one band; false when the time is up. */
static bool run_band(tuner *t, unsigned band)
{
    for (unsigned direction = 0; direction < DIRECTIONS; direction++)
        for (unsigned alignment = 0; alignment < ALIGNMENTS; alignment++)
            for (size_t kernel = 0; kernel < t->kernel_count; kernel++) {
                if (csc_clock_ns() >= t->deadline_ns)
                    return false;
                run_trial(t, (csc_copy_direction)direction, band, kernel, alignment);
            }
    return true;
}

static void measure(tuner *t)
{
    for (unsigned round = 0;; round++)
        for (unsigned band = 0; band < BANDS; band++) {
            if (band_measured[band] > t->bytes || (band >= LARGE && round % 4 != 3))
                continue;
            if (!run_band(t, band))
                return;
        }
}

/* The fastest kernel, or NULL if not all have been measured. Another must beat memcpy by 3 %. */
static const csc_copy_kernel *winner(const tuner *t, unsigned direction, unsigned band)
{
    uint64_t least = 0;
    size_t best = 0;

    for (size_t kernel = 0; kernel < t->kernel_count; kernel++) {
        const uint64_t *ns = t->best_ns[direction][band][kernel];

        if (!ns[0] || !ns[1])
            return NULL;
        if (kernel == 0) {
            least = (ns[0] + ns[1]) / 100 * 97;
        } else if (ns[0] + ns[1] < least) {
            least = ns[0] + ns[1];
            best = kernel;
        }
    }
    return t->kernels[best];
}

static size_t list_kernels(const csc_copy_kernel *kernels[KERNELS_MAX])
{
    kernels[0] = &kernel_memcpy;
#ifdef SANITIZED
    return 1;
#else
    return 1 + csc_copy_platform_kernels(kernels + 1);
#endif
}

void csc_copy_tune(void *arena, size_t bytes, unsigned budget_ms)
{
    static atomic_flag begun = ATOMIC_FLAG_INIT;
    tuner t = {.arena = arena};
    size_t affordable = budget_ms * MIB; /* populating a MiB takes about 0.4 ms */
    size_t mapped;

    t.deadline_ns = csc_clock_ns() + budget_ms * UINT64_C(1000000);
    t.kernel_count = list_kernels(t.kernels);
    t.bytes = bytes < PRIVATE_MAX ? bytes : PRIVATE_MAX;
    if (t.bytes > affordable)
        t.bytes = affordable;
    if (t.kernel_count == 1 || t.bytes < band_measured[0] || atomic_flag_test_and_set(&begun))
        return;
    mapped = t.bytes + misalignment[0];
    t.private =
        mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (t.private == MAP_FAILED)
        return; /* memcpy it stays */
    measure(&t);
    munmap(t.private, mapped);
    for (unsigned direction = 0; direction < DIRECTIONS; direction++) {
        const csc_copy_kernel *kernel = NULL;

        for (unsigned band = 0; band < BANDS; band++) {
            const csc_copy_kernel *own = winner(&t, direction, band);

            kernel = own ? own : kernel; /* a band without time or room takes the next smaller one's */
            atomic_store_explicit(&chosen[direction][band], kernel, memory_order_relaxed);
        }
    }
}
