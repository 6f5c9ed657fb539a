/* SPDX-License-Identifier: MIT */
/*
 * SHA-256 (FIPS 180-4) of many messages at once. One message is sequential whatever the hardware;
 * several in parallel fill the machine: 16 lanes of AVX-512, or up to 4 interleaved SHA-NI streams, or
 * OpenSSL one by one. The path is chosen at run time by what the CPU has; CASCADE_SHA256=openssl|shani|
 * avx512 forces one (for tests and benchmarks).
 */
#ifndef CSC_BASE_SHA256_H
#define CSC_BASE_SHA256_H

#include <cascade/cascade.h>
#include <stddef.h>
#include <stdint.h>

#define CSC_SHA256_BYTES 32u
/** More messages than this at once gain nothing. */
#define CSC_SHA256_BATCH 16u

/** One message: pieces in order, any sizes and alignments. `digest` is the result. */
typedef struct csc_sha256_message {
    const cascade_piece *pieces;
    size_t piece_count;
    uint8_t digest[CSC_SHA256_BYTES];
} csc_sha256_message;

typedef enum csc_sha256_path {
    CSC_SHA256_AUTO = 0,
    CSC_SHA256_OPENSSL,
    CSC_SHA256_SHANI,
    CSC_SHA256_AVX512
} csc_sha256_path;

/** Digests `count` messages (any number) with the best path. Cannot fail. Any thread. */
void csc_sha256_many(csc_sha256_message *messages, size_t count);

/** The same by a given path. Returns 0, or CASCADE_ENOTSUP when this CPU lacks it. */
int csc_sha256_many_by(csc_sha256_path path, csc_sha256_message *messages, size_t count);

/** One flat message. */
void csc_sha256(const void *data, size_t bytes, uint8_t digest[CSC_SHA256_BYTES]);

/** The name of the path AUTO takes: "openssl", "shani", "avx512". */
const char *csc_sha256_path_name(void);

#endif
