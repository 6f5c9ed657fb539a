/* SPDX-License-Identifier: MIT */
/*
 * Encryption of one record's payload (docs/formats.md, "Encryption"): AES-256-GCM by OpenSSL, in chunks,
 * each with a tag of its own, so that a range can be read without the rest. The key is made for the
 * record from one of the keyring's and from what the record's header says: a payload under another
 * header does not open.
 *
 * A cipher is reused for any number of records and chunks; one thread at a time. Bytes go through
 * csc_cipher_feed in pieces of any size, as through a csc_segfmt_summer. The same bytes are written, and
 * the same are read, however they are cut.
 */
#ifndef CSC_BASE_CIPHER_H
#define CSC_BASE_CIPHER_H

#include "base/keyring.h"

#include <stdbool.h>

#define CSC_CIPHER_CHUNK_BYTES 262144u
#define CSC_CIPHER_SALT_BYTES  16u
#define CSC_CIPHER_TAG_BYTES   16u

/** What a record's key is made from, beside the key with this id. */
typedef struct csc_cipher_record {
    uint64_t key_id;
    uint8_t salt[CSC_CIPHER_SALT_BYTES]; /* random, never used twice */
    uint64_t generation;
    uint64_t offset; /* of the record in its file */
    uint8_t digest[32];
    uint64_t tenant;
    uint64_t k_bytes;
    uint64_t v_bytes;
} csc_cipher_record;

typedef struct csc_cipher csc_cipher;

/** `ring` is borrowed for the cipher's life. Errors: CASCADE_ENOTSUP (this OpenSSL, as it is configured,
 * has no AES-256-GCM or no HMAC), CASCADE_ENOMEM. */
int csc_cipher_create(const csc_keyring *ring, csc_cipher **cipher);
/** Wipes what it knows; sets `*cipher` to NULL; NULL inside is accepted. */
void csc_cipher_destroy(csc_cipher **cipher);

/** Fills a salt. Errors: CASCADE_EIO. */
int csc_cipher_salt(uint8_t salt[CSC_CIPHER_SALT_BYTES]);

/**
 * Begins to encrypt a record's payload from chunk `first` on. The chunks' tags will be written to
 * `tags`, that of `first` first. Several ciphers may encrypt chunks of one record at the same time.
 * Errors: CASCADE_ENOKEY (the keyring lacks the key), CASCADE_ENOMEM.
 */
int csc_cipher_begin_seal(csc_cipher *cipher, const csc_cipher_record *record, uint64_t first,
                          uint8_t *tags);
/** Begins to decrypt from chunk `first` on, whose tag is the first in `tags`. */
int csc_cipher_begin_open(csc_cipher *cipher, const csc_cipher_record *record, uint64_t first,
                          const uint8_t *tags);

/**
 * The next bytes of the payload: from `from` to `to`, which are the same place or do not overlap.
 * CASCADE_ECORRUPT: a chunk that ended here is not what was sealed; what came to `to` is not to be used.
 * After a failure nothing more may be fed to this record.
 */
int csc_cipher_feed(csc_cipher *cipher, const void *from, void *to, size_t bytes);
/** After the payload's last byte, or a whole chunk. Returns as feed. */
int csc_cipher_end(csc_cipher *cipher);

#endif
