/* SPDX-License-Identifier: MIT */
/*
 * The keys that files are encrypted with (docs/operations.md, "Encryption"; the text of a key file is
 * specified in docs/formats.md, "Keys"). The first key encrypts, all of them decrypt.
 *
 * The keys lie in a page of their own: locked in memory as far as the system allows, in no core dump,
 * zero in a forked child, wiped by destroy. No text of an error holds any part of a key.
 *
 * A keyring does not change once it is made: any number of threads read it.
 */
#ifndef CSC_BASE_KEYRING_H
#define CSC_BASE_KEYRING_H

#include <stddef.h>
#include <stdint.h>

#define CSC_KEY_BYTES             32u
#define CSC_KEYRING_KEYS_MAX      64u
#define CSC_KEYRING_TEXT_BYTES    65536u /* of a key file or a command's output, at most */
#define CSC_KEYRING_COMMAND_WORDS 64u

typedef struct csc_keyring csc_keyring;

/**
 * Reads the text of a key file. CASCADE_EFORMAT, with a text that names the line: a line that is no key,
 * a key that was there before, more than 64, none at all, more than 64 KiB. CASCADE_ENOMEM. `*ring` is
 * written only on success.
 */
int csc_keyring_parse(const char *text, size_t bytes, csc_keyring **ring);

/** Reads a key file. Beside parse's: CASCADE_ENOKEY (there is no such file), CASCADE_EACCES (it cannot
 * be opened; or group or others may use it: the text says what to do), CASCADE_EIO. */
int csc_keyring_read_file(const char *path, csc_keyring **ring);

/**
 * Runs a program and reads what it prints. `command` is cut at spaces and tabs into at most 64 words; no
 * shell sees it, and nothing is quoted. The first word is looked for in PATH. It reads from /dev/null.
 * After `limit_ms` it and its children are killed. Beside parse's: CASCADE_EINVAL (no word, or too
 * many), CASCADE_ENOKEY (it cannot be run, or does not end with status 0), CASCADE_ETIMEDOUT,
 * CASCADE_EIO.
 */
int csc_keyring_run_command(const char *command, uint32_t limit_ms, csc_keyring **ring);

/** Whichever is given, with 10 s for a command. Neither (NULL or ""): success, with `*ring` NULL. Both:
 * CASCADE_EINVAL. */
int csc_keyring_load(const char *file, const char *command, csc_keyring **ring);

/** Wipes the keys. Sets `*ring` to NULL; NULL inside is accepted. */
void csc_keyring_destroy(csc_keyring **ring);

/** The id of the key that encrypts; 0 for a NULL `ring`. */
uint64_t csc_keyring_first(const csc_keyring *ring);
/** The key with an id; NULL if it is not there (or `ring` is NULL). */
const uint8_t *csc_keyring_find(const csc_keyring *ring, uint64_t key_id);
size_t csc_keyring_count(const csc_keyring *ring);

/** Tells keys apart without telling them: the first 8 bytes, little-endian, of SHA-256("cascade key id"
 * || 00 || key); 1 if that is 0. */
uint64_t csc_key_id(const uint8_t key[CSC_KEY_BYTES]);

#endif
