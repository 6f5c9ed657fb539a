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

/** Where messages come from while others are under way, and where their digests go. Its owner embeds it.
 */
typedef struct csc_sha256_source {
    /** A message to begin with; NULL: none now. It is the callee's until it is done. */
    csc_sha256_message *(*next)(struct csc_sha256_source *source);
    /** The digest is there. */
    void (*done)(struct csc_sha256_source *source, csc_sha256_message *message);
} csc_sha256_source;

/**
 * Digests what the source has, up to CSC_SHA256_BATCH messages at a time, until it has none and all are
 * done. A message that comes while others are under way joins them, so that lanes do not stay empty for
 * as long as the longest takes. Both functions are called by this thread, and not too seldom (every few
 * 100 KiB of the others) while a lane is free. Cannot fail. Any thread.
 */
void csc_sha256_stream(csc_sha256_source *source);
/** The same by a given path. Returns 0, or CASCADE_ENOTSUP when this CPU lacks it. */
int csc_sha256_stream_by(csc_sha256_path path, csc_sha256_source *source);

/** Digests `count` messages (any number) with the best path. Cannot fail. Any thread. */
void csc_sha256_many(csc_sha256_message *messages, size_t count);

/** The same by a given path. Returns 0, or CASCADE_ENOTSUP when this CPU lacks it. */
int csc_sha256_many_by(csc_sha256_path path, csc_sha256_message *messages, size_t count);

/** One flat message. */
void csc_sha256(const void *data, size_t bytes, uint8_t digest[CSC_SHA256_BYTES]);

/** The name of the path AUTO takes: "openssl", "shani", "avx512". */
const char *csc_sha256_path_name(void);

#endif
