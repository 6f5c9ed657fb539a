/* SPDX-License-Identifier: MIT */
/* The choice of a path, and the OpenSSL path. The lanes are in sha256_lanes.c. */
#include "base/sha256.h"

#include "base/clock.h"
#include "base/fail.h"
#include "base/log.h"
#include "base/sha256_lanes.h"

#include <openssl/evp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static const char *const path_names[] = {"auto", "openssl", "shani", "avx512"};

static bool digest_by_openssl(EVP_MD_CTX *context, csc_sha256_message *message)
{
    if (!EVP_DigestInit_ex(context, EVP_sha256(), NULL))
        return false;
    for (size_t i = 0; i < message->piece_count; i++)
        if (!EVP_DigestUpdate(context, message->pieces[i].data, message->pieces[i].bytes))
            return false;
    return EVP_DigestFinal_ex(context, message->digest, NULL);
}

/* ---- a list as a source ------------------------------------------------------------------------- */

typedef struct list {
    csc_sha256_source source;
    csc_sha256_message *next;
    size_t left;
} list;

static csc_sha256_message *list_next(csc_sha256_source *source)
{
    list *l = (list *)(void *)source;

    if (l->left == 0)
        return NULL;
    l->left--;
    return l->next++;
}

static void list_done(csc_sha256_source *source, csc_sha256_message *message)
{
    (void)source;
    (void)message;
}

static list list_of(csc_sha256_message *messages, size_t count)
{
    return (list){.source = {list_next, list_done}, .next = messages, .left = count};
}

/* ---- paths ---------------------------------------------------------------------------------------- */

static void run_openssl(csc_sha256_source *source)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    csc_sha256_message *message;

    while ((message = source->next(source))) {
        /* OpenSSL fails when memory is short or its configuration has no SHA-256. A wrong digest would
         * merge different blocks, so there is a path that cannot fail. */
        if (!context || !digest_by_openssl(context, message)) {
            list alone = list_of(message, 1);

            csc_sha256_run(&csc_sha256_scalar, NULL, &alone.source);
        }
        source->done(source, message);
    }
    EVP_MD_CTX_free(context);
}

/* Which of the two wins depends on how the CPU was built, not on what it can do: 512-bit rotations in
 * one pass (Zen 5) beat SHA-NI by a third, in two passes (Zen 4) they lose by a fifth. So they are
 * timed, on full lanes, for about a millisecond in all. */
static bool wide_is_faster(const csc_sha256_kernel *shani, const csc_sha256_kernel *avx512)
{
    enum { MESSAGES = CSC_SHA256_WIDE_MIN > 16 ? CSC_SHA256_WIDE_MIN : 16, BYTES = 8192, ROUNDS = 5 };
    static uint8_t data[BYTES];
    cascade_piece piece = {data, sizeof data};
    csc_sha256_message messages[MESSAGES];
    uint64_t best_ns[2] = {UINT64_MAX, UINT64_MAX};

    for (size_t i = 0; i < MESSAGES; i++)
        messages[i] = (csc_sha256_message){.pieces = &piece, .piece_count = 1};
    for (unsigned round = 0; round < 2 * ROUNDS; round++) {
        uint64_t begin_ns = csc_clock_ns(), spent_ns;
        list all = list_of(messages, MESSAGES);

        csc_sha256_run(round % 2 ? avx512 : shani, shani, &all.source);
        spent_ns = csc_clock_ns() - begin_ns;
        if (spent_ns < best_ns[round % 2])
            best_ns[round % 2] = spent_ns;
    }
    return best_ns[1] < best_ns[0];
}

/* CASCADE_SHA256, else the fastest this CPU has. AUTO: AVX-512, with SHA-NI for few messages. */
static csc_sha256_path choose_path(void)
{
    const char *wanted = getenv("CASCADE_SHA256");
    const csc_sha256_kernel *shani = csc_sha256_shani(), *avx512 = csc_sha256_avx512();

    if (wanted && strcmp(wanted, "openssl") == 0)
        return CSC_SHA256_OPENSSL;
    if (wanted && strcmp(wanted, "shani") == 0 && shani)
        return CSC_SHA256_SHANI;
    if (wanted && strcmp(wanted, "avx512") == 0 && avx512)
        return CSC_SHA256_AVX512;
    if (wanted && *wanted)
        csc_log(CSC_LOG_WARNING, "CASCADE_SHA256=%s: not a path that this CPU has; ignored", wanted);
    if (shani && avx512)
        return wide_is_faster(shani, avx512) ? CSC_SHA256_AUTO : CSC_SHA256_SHANI;
    return shani ? CSC_SHA256_SHANI : avx512 ? CSC_SHA256_AVX512 : CSC_SHA256_OPENSSL;
}

static csc_sha256_path chosen_path(void)
{
    static atomic_int chosen = -1;
    int path = atomic_load_explicit(&chosen, memory_order_relaxed);

    if (path < 0) {
        path = choose_path();
        atomic_store_explicit(&chosen, path, memory_order_relaxed);
    }
    return (csc_sha256_path)path;
}

int csc_sha256_stream_by(csc_sha256_path path, csc_sha256_source *source)
{
    const csc_sha256_kernel *shani = csc_sha256_shani(), *avx512 = csc_sha256_avx512();

    switch (path == CSC_SHA256_AUTO ? chosen_path() : path) {
    case CSC_SHA256_AUTO: /* both are there, and AVX-512 won */
        csc_sha256_run(avx512, shani, source);
        return 0;
    case CSC_SHA256_OPENSSL:
        run_openssl(source);
        return 0;
    case CSC_SHA256_SHANI:
        if (!shani)
            break;
        csc_sha256_run(shani, NULL, source);
        return 0;
    case CSC_SHA256_AVX512:
        if (!avx512)
            break;
        csc_sha256_run(avx512, NULL, source);
        return 0;
    default:
        return csc_fail(CASCADE_EINVAL, "SHA-256 path %d does not exist", (int)path);
    }
    return csc_fail(CASCADE_ENOTSUP, "this CPU has no SHA-256 path %s", path_names[path]);
}

void csc_sha256_stream(csc_sha256_source *source)
{
    csc_sha256_stream_by(CSC_SHA256_AUTO, source);
}

int csc_sha256_many_by(csc_sha256_path path, csc_sha256_message *messages, size_t count)
{
    list all = list_of(messages, count);

    return csc_sha256_stream_by(path, &all.source);
}

void csc_sha256_many(csc_sha256_message *messages, size_t count)
{
    csc_sha256_many_by(CSC_SHA256_AUTO, messages, count);
}

void csc_sha256(const void *data, size_t bytes, uint8_t digest[CSC_SHA256_BYTES])
{
    /* The digest only reads; cascade_piece is not const because gets write through it. */
    cascade_piece piece = {.data = (void *)(uintptr_t)data, .bytes = bytes};
    csc_sha256_message message = {.pieces = &piece, .piece_count = 1};

    csc_sha256_many(&message, 1);
    memcpy(digest, message.digest, CSC_SHA256_BYTES);
}

const char *csc_sha256_path_name(void)
{
    csc_sha256_path path = chosen_path();

    return path == CSC_SHA256_AUTO ? "avx512" : path_names[path];
}
