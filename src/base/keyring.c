/* SPDX-License-Identifier: MIT */
/* A keyring from text, and from a file; keyring_command.c brings it from a program. */
#include "base/keyring.h"

#include "base/fail.h"
#include "base/sha256.h"
#include "base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define COMMAND_LIMIT_MS 10000u

struct csc_keyring {
    size_t count;
    uint64_t ids[CSC_KEYRING_KEYS_MAX];
    uint8_t keys[CSC_KEYRING_KEYS_MAX][CSC_KEY_BYTES];
};

/* Fresh memory of whole pages. What cannot be had of its protection is done without: a container may
 * forbid to lock memory, and an old kernel to wipe it at fork. */
static csc_keyring *allocate(void)
{
    csc_keyring *ring =
        mmap(NULL, sizeof *ring, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (ring == MAP_FAILED)
        return NULL;
    (void)mlock(ring, sizeof *ring);
    (void)madvise(ring, sizeof *ring, MADV_DONTDUMP);
    (void)madvise(ring, sizeof *ring, MADV_WIPEONFORK);
    return ring;
}

void csc_keyring_destroy(csc_keyring **ring)
{
    if (*ring) {
        OPENSSL_cleanse(*ring, sizeof **ring);
        munmap(*ring, sizeof **ring);
    }
    *ring = NULL;
}

uint64_t csc_keyring_first(const csc_keyring *ring)
{
    return ring ? ring->ids[0] : 0;
}

const uint8_t *csc_keyring_find(const csc_keyring *ring, uint64_t key_id)
{
    for (size_t i = 0; ring && i < ring->count; i++)
        if (ring->ids[i] == key_id)
            return ring->keys[i];
    return NULL;
}

size_t csc_keyring_count(const csc_keyring *ring)
{
    return ring->count;
}

uint64_t csc_key_id(const uint8_t key[CSC_KEY_BYTES])
{
    static const char label[] = "cascade key id"; /* with its zero */
    uint8_t message[sizeof label + CSC_KEY_BYTES];
    uint8_t digest[CSC_SHA256_BYTES];
    uint64_t id = 0;

    memcpy(message, label, sizeof label);
    memcpy(message + sizeof label, key, CSC_KEY_BYTES);
    csc_sha256(message, sizeof message, digest);
    OPENSSL_cleanse(message, sizeof message);
    for (int i = 7; i >= 0; i--)
        id = id << 8 | digest[i];
    return id ? id : 1;
}

/* ---- text ------------------------------------------------------------------------------------- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* One line without its newline. */
static int parse_line(csc_keyring *ring, const char *line, size_t bytes, size_t number)
{
    uint8_t *key;
    uint64_t id;

    while (bytes > 0 && is_blank(line[0])) {
        line++;
        bytes--;
    }
    while (bytes > 0 && is_blank(line[bytes - 1]))
        bytes--;
    if (bytes == 0 || line[0] == '#')
        return 0;
    if (ring->count == CSC_KEYRING_KEYS_MAX)
        return csc_fail(CASCADE_EFORMAT, "line %zu: more than %u keys", number, CSC_KEYRING_KEYS_MAX);
    key = ring->keys[ring->count];
    if (bytes != (size_t)2 * CSC_KEY_BYTES || csc_hex_parse(line, CSC_KEY_BYTES, key) != 0)
        return csc_fail(CASCADE_EFORMAT, "line %zu: not a key of 64 hex digits", number);
    id = csc_key_id(key);
    /* Somebody meant to give two keys; and two of one id could not be told apart. */
    if (csc_keyring_find(ring, id))
        return csc_fail(CASCADE_EFORMAT, "line %zu: this key was there before", number);
    ring->ids[ring->count++] = id;
    return 0;
}

int csc_keyring_parse(const char *text, size_t bytes, csc_keyring **ring)
{
    csc_keyring *made;
    size_t number = 0;
    int code = 0;

    if (bytes > CSC_KEYRING_TEXT_BYTES)
        return csc_fail(CASCADE_EFORMAT, "more than 64 KiB: not a list of keys");
    made = allocate();
    if (!made)
        return csc_fail(CASCADE_ENOMEM, "no memory for keys");
    for (size_t at = 0; at < bytes && code == 0;) {
        const char *newline = memchr(text + at, '\n', bytes - at);
        size_t length = newline ? (size_t)(newline - text) - at : bytes - at;

        code = parse_line(made, text + at, length, ++number);
        at += length + 1;
    }
    if (code == 0 && made->count == 0)
        code = csc_fail(CASCADE_EFORMAT, "there is no key in it");
    if (code)
        csc_keyring_destroy(&made);
    else
        *ring = made;
    return code;
}

/* ---- a file ----------------------------------------------------------------------------------- */

/* At most one byte more than a key file may have. */
static int read_all(int fd, const char *path, char *text, size_t room, size_t *bytes)
{
    *bytes = 0;
    while (*bytes < room) {
        ssize_t got = read(fd, text + *bytes, room - *bytes);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return csc_fail_errno(errno, "cannot read the key file %s", path);
        if (got == 0)
            break;
        *bytes += (size_t)got;
    }
    return 0;
}

static int check_file(int fd, const char *path)
{
    struct stat info;

    if (fstat(fd, &info) != 0)
        return csc_fail_errno(errno, "cannot look at the key file %s", path);
    if (!S_ISREG(info.st_mode))
        return csc_fail(CASCADE_EFORMAT, "the key file %s is not a regular file", path);
    if (info.st_mode & (S_IRWXG | S_IRWXO))
        return csc_fail(CASCADE_EACCES,
                        "the key file %s is open to others (mode %03o): run chmod 600 on it", path,
                        (unsigned)(info.st_mode & 0777));
    return 0;
}

int csc_keyring_read_file(const char *path, csc_keyring **ring)
{
    const size_t room = CSC_KEYRING_TEXT_BYTES + 1;
    char *text = NULL;
    size_t bytes = 0;
    int code;
    /* O_NONBLOCK: a pipe in its place is refused below, not waited for. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);

    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        return csc_fail(CASCADE_ENOKEY, "there is no key file %s", path);
    if (fd < 0)
        return csc_fail_errno(errno, "cannot open the key file %s", path);
    code = check_file(fd, path);
    if (code == 0 && !(text = malloc(room)))
        code = csc_fail(CASCADE_ENOMEM, "no memory to read the key file %s", path);
    if (code == 0)
        code = read_all(fd, path, text, room, &bytes);
    close(fd);
    if (code == 0) {
        code = csc_keyring_parse(text, bytes, ring);
        if (code == CASCADE_EFORMAT) {
            char why[128];

            snprintf(why, sizeof why, "%s", csc_fail_text());
            csc_fail(code, "the key file %s, %s", path, why);
        }
    }
    if (text)
        OPENSSL_cleanse(text, room);
    free(text);
    return code;
}

int csc_keyring_load(const char *file, const char *command, csc_keyring **ring)
{
    bool has_file = file && *file;
    bool has_command = command && *command;

    if (has_file && has_command)
        return csc_fail(CASCADE_EINVAL, "both a key file (%s) and a key command: give one", file);
    if (has_file)
        return csc_keyring_read_file(file, ring);
    if (has_command)
        return csc_keyring_run_command(command, COMMAND_LIMIT_MS, ring);
    *ring = NULL;
    return 0;
}
