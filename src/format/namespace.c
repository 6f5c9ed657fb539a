/* SPDX-License-Identifier: MIT */
/*
 * Namespaces: what must agree for two engines to share KV bytes, as bytes, and folded into keys.
 * The layout is specified in docs/formats.md, "Namespace"; it may never change without a new version
 * number, because every stored key depends on it.
 */
#include "base/fail.h"
#include "base/sha256.h"

#include <cascade/cascade.h>
#include <string.h>

#define VERSION           1u
#define STRING_COUNT      6
#define NUMBER_COUNT      6
#define STRING_BYTES_MAX  4096u
#define FIXED_BYTES       (4u + 4u + 4u * STRING_COUNT + 4u * NUMBER_COUNT)
#define ENCODED_BYTES_MAX (FIXED_BYTES + STRING_COUNT * STRING_BYTES_MAX)
#define RAW_BYTES_MAX     4096u

static const uint8_t magic[4] = {'C', 'S', 'N', 'S'};

/* The length of the well-formed UTF-8 sequence at `at` (RFC 3629: shortest form, no surrogates), or 0.
 * Reading past a bad byte is safe: the text ends in a zero, which is no continuation byte. */
static size_t utf8_sequence(const uint8_t *at)
{
    uint8_t low = 0x80, high = 0xbf;
    size_t length;

    if (at[0] < 0x80)
        return 1;
    if (at[0] < 0xc2 || at[0] > 0xf4)
        return 0;
    length = at[0] < 0xe0 ? 2 : at[0] < 0xf0 ? 3 : 4;
    if (at[0] == 0xe0)
        low = 0xa0;
    else if (at[0] == 0xed)
        high = 0x9f;
    else if (at[0] == 0xf0)
        low = 0x90;
    else if (at[0] == 0xf4)
        high = 0x8f;
    if (at[1] < low || at[1] > high)
        return 0;
    for (size_t i = 2; i < length; i++)
        if (at[i] < 0x80 || at[i] > 0xbf)
            return 0;
    return length;
}

static int check_string(const char *name, const char *text, size_t *bytes)
{
    size_t at = 0, step;

    *bytes = strnlen(text, STRING_BYTES_MAX + 1);
    if (*bytes > STRING_BYTES_MAX)
        return csc_fail(CASCADE_EINVAL, "the namespace's %s is longer than %u bytes", name,
                        STRING_BYTES_MAX);
    for (; at < *bytes; at += step) {
        step = utf8_sequence((const uint8_t *)text + at);
        if (step == 0)
            return csc_fail(CASCADE_EINVAL, "the namespace's %s is not UTF-8 at byte %zu", name, at);
    }
    return 0;
}

static uint8_t *store_u32(uint8_t *at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        *at++ = (uint8_t)(value >> 8 * i);
    return at;
}

/* Encodes into `out`, which has room for ENCODED_BYTES_MAX. */
static int encode(const cascade_namespace *ns, uint8_t *out, size_t *bytes)
{
    static const char *const names[STRING_COUNT] = {"model", "revision", "dtype",
                                                    "lora",  "numerics", "tenant"};
    uint8_t *at = out;

    if (!ns || ns->struct_bytes != sizeof *ns)
        return csc_fail(CASCADE_EINVAL,
                        "struct_bytes of the namespace is not sizeof(cascade_namespace)");
    const char *const strings[STRING_COUNT] = {ns->model, ns->revision, ns->dtype,
                                               ns->lora,  ns->numerics, ns->tenant};
    const uint32_t numbers[NUMBER_COUNT] = {ns->layout_version, ns->block_tokens,  ns->layer_first,
                                            ns->layer_count,    ns->kv_head_first, ns->kv_head_count};

    memcpy(at, magic, sizeof magic);
    at = store_u32(at + sizeof magic, VERSION);
    for (int i = 0; i < STRING_COUNT; i++) {
        const char *text = strings[i] ? strings[i] : "";
        size_t length;
        int status = check_string(names[i], text, &length);

        if (status)
            return status;
        at = store_u32(at, (uint32_t)length);
        memcpy(at, text, length);
        at += length;
    }
    for (int i = 0; i < NUMBER_COUNT; i++)
        at = store_u32(at, numbers[i]);
    *bytes = (size_t)(at - out);
    return 0;
}

int cascade_namespace_encode(const cascade_namespace *ns, void *out, size_t *bytes)
{
    uint8_t encoded[ENCODED_BYTES_MAX];
    size_t needed, room;
    int status;

    if (!bytes || (!out && *bytes))
        return csc_fail(CASCADE_EINVAL, "the encoding needs a length, and room if the length is not 0");
    status = encode(ns, encoded, &needed);
    if (status)
        return status;
    room = *bytes;
    *bytes = needed;
    if (room < needed)
        return csc_fail(CASCADE_ESIZE, "the encoding has %zu bytes, there is room for %zu", needed,
                        room);
    memcpy(out, encoded, needed);
    return 0;
}

int cascade_key_fold(const cascade_namespace *ns, const void *raw, size_t raw_bytes, cascade_key *key)
{
    uint8_t message[ENCODED_BYTES_MAX + RAW_BYTES_MAX];
    size_t bytes;
    int status;

    if (!raw || !key)
        return csc_fail(CASCADE_EINVAL, "the engine's key and a place for the folded one are needed");
    if (raw_bytes == 0 || raw_bytes > RAW_BYTES_MAX)
        return csc_fail(CASCADE_EINVAL, "the engine's key has %zu bytes; 1 to %u are allowed", raw_bytes,
                        RAW_BYTES_MAX);
    status = encode(ns, message, &bytes);
    if (status)
        return status;
    memcpy(message + bytes, raw, raw_bytes);
    csc_sha256(message, bytes + raw_bytes, key->bytes);
    return 0;
}

uint64_t cascade_tenant(const char *name)
{
    static const char prefix[] = "cascade tenant"; /* its zero included */
    uint64_t tenant = 0;

    if (!name || !*name)
        return 0;
    const cascade_piece pieces[] = {{(void *)(uintptr_t)prefix, sizeof prefix},
                                    {(void *)(uintptr_t)name, strlen(name)}};
    csc_sha256_message message = {.pieces = pieces, .piece_count = 2};

    csc_sha256_many(&message, 1);
    for (int i = 7; i >= 0; i--)
        tenant = tenant << 8 | message.digest[i];
    return tenant ? tenant : 1;
}
