/* SPDX-License-Identifier: MIT */
/* The public interface's texts: error names, sizes, keys and ids as people read and write them. */
#include "base/text.h"

#include "base/fail.h"

#include <cascade/cascade.h>
#include <ctype.h>
#include <string.h>
#include <strings.h>

#define STRING_(x) #x
#define STRING(x)  STRING_(x)

const char *cascade_error_name(int code)
{
    switch (code) {
#define CASE(name, value, text)                                                                         \
    case value:                                                                                         \
        return "CASCADE_" #name;
        CASCADE_ERROR_TABLE(CASE)
#undef CASE
    default:
        return "CASCADE_UNKNOWN";
    }
}

const char *cascade_error_text(int code)
{
    switch (code) {
#define CASE(name, value, text)                                                                         \
    case value:                                                                                         \
        return text;
        CASCADE_ERROR_TABLE(CASE)
#undef CASE
    default:
        return "not a code of this library";
    }
}

const char *cascade_last_error(void)
{
    return csc_fail_text();
}

const char *cascade_version(void)
{
    return STRING(CASCADE_VERSION_MAJOR) "." STRING(CASCADE_VERSION_MINOR) "." STRING(
        CASCADE_VERSION_PATCH);
}

/* ---- sizes ------------------------------------------------------------------------------- */

#define SIZE_MAX_BYTES ((UINT64_C(1) << 63) - 1)
/* More digits of a fraction than this cannot change the result by a byte at any suffix, and would not
 * fit below. */
#define FRACTION_DIGITS 18

/* The power of two that a suffix stands for, or -1. */
static int suffix_shift(const char *suffix)
{
    static const char letters[] = "kmgtp";
    const char *letter;

    if (!*suffix || strcasecmp(suffix, "b") == 0)
        return 0;
    letter = strchr(letters, tolower((unsigned char)*suffix));
    if (!letter)
        return -1;
    if (suffix[1] && strcasecmp(suffix + 1, "b") != 0 && strcasecmp(suffix + 1, "ib") != 0)
        return -1;
    return 10 * (int)(letter - letters + 1);
}

int cascade_size_parse(const char *text, uint64_t *bytes)
{
    uint64_t whole = 0, part = 0, part_scale = 1;
    bool has_fraction = false;
    unsigned __int128 total;
    const char *at = text;
    int shift;

    if (!text || !bytes)
        return csc_fail(CASCADE_EINVAL, "a size and a place for it are needed");
    if (!isdigit((unsigned char)*at))
        goto bad;
    for (; isdigit((unsigned char)*at); at++)
        if (__builtin_mul_overflow(whole, UINT64_C(10), &whole) ||
            __builtin_add_overflow(whole, (uint64_t)(*at - '0'), &whole))
            goto too_large;
    if (*at == '.') {
        has_fraction = true;
        if (!isdigit((unsigned char)*++at))
            goto bad;
        for (int digits = 0; isdigit((unsigned char)*at); at++, digits++)
            if (digits < FRACTION_DIGITS) {
                part = part * 10 + (uint64_t)(*at - '0');
                part_scale *= 10;
            }
    }
    shift = suffix_shift(at);
    if (shift < 0 || (has_fraction && shift == 0)) /* half a byte is nobody's intention */
        goto bad;
    total = ((unsigned __int128)whole << shift) + ((unsigned __int128)part << shift) / part_scale;
    if (total > SIZE_MAX_BYTES)
        goto too_large;
    *bytes = (uint64_t)total;
    return 0;
bad:
    return csc_fail(CASCADE_EINVAL, "'%.40s' is not a size; write it like 4GiB, 512M, 1.5g or 65536",
                    text);
too_large:
    return csc_fail(CASCADE_EINVAL, "the size '%.40s' is 2^63 bytes or more", text);
}

/* ---- hexadecimal ------------------------------------------------------------------------- */

static void hex_format(const uint8_t *bytes, size_t count, char *text)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < count; i++) {
        text[2 * i] = digits[bytes[i] >> 4];
        text[2 * i + 1] = digits[bytes[i] & 15];
    }
    text[2 * count] = '\0';
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

size_t csc_hex_parse(const char *text, size_t count, uint8_t *bytes)
{
    for (size_t i = 0; i < count; i++) {
        int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);

        if (high < 0 || low < 0)
            return 2 * i + (high < 0 ? 1 : 2);
        bytes[i] = (uint8_t)(high << 4 | low);
    }
    return 0;
}

/* Writes `bytes` only if all of `text` is good; `count` is at most CASCADE_KEY_BYTES. */
static int parse_name(const char *what, const char *text, size_t count, uint8_t *bytes)
{
    uint8_t parsed[CASCADE_KEY_BYTES];
    size_t digits, bad;

    if (!text || !bytes)
        return csc_fail(CASCADE_EINVAL, "%s and a place for it are needed", what);
    digits = strnlen(text, 2 * count + 1);
    if (digits != 2 * count)
        return csc_fail(CASCADE_EINVAL, "%s has %zu hex digits, this text has %s%zu characters", what,
                        2 * count, digits > 2 * count ? "at least " : "", digits);
    bad = csc_hex_parse(text, count, parsed);
    if (bad)
        return csc_fail(CASCADE_EINVAL, "character %zu of %s is not a hex digit", bad, what);
    memcpy(bytes, parsed, count);
    return 0;
}

void cascade_id_format(const cascade_id *id, char text[CASCADE_ID_TEXT_BYTES])
{
    hex_format(id->bytes, CASCADE_ID_BYTES, text);
}

int cascade_id_parse(const char *text, cascade_id *id)
{
    return parse_name("a block id", text, CASCADE_ID_BYTES, id ? id->bytes : NULL);
}

void cascade_key_format(const cascade_key *key, char text[2 * CASCADE_KEY_BYTES + 1])
{
    hex_format(key->bytes, CASCADE_KEY_BYTES, text);
}

int cascade_key_parse(const char *text, cascade_key *key)
{
    return parse_name("a key", text, CASCADE_KEY_BYTES, key ? key->bytes : NULL);
}

/* ---- names of numbers -------------------------------------------------------------------- */

const char *cascade_op_name(unsigned op)
{
    static const char *const names[CASCADE_OP_COUNT] = {
        [CASCADE_OP_PUT] = "put",           [CASCADE_OP_GET_DRAM] = "get_dram",
        [CASCADE_OP_GET_FILE] = "get_file", [CASCADE_OP_VIEW] = "view",
        [CASCADE_OP_MATCH] = "match",       [CASCADE_OP_DELETE] = "delete",
        [CASCADE_OP_FLUSH] = "flush",
    };

    return op < CASCADE_OP_COUNT ? names[op] : NULL;
}

const char *cascade_tier_name(unsigned tier)
{
    static const char *const names[CASCADE_TIER_COUNT] = {
        [CASCADE_TIER_DRAM] = "dram",
        [CASCADE_TIER_FILE] = "file",
    };

    return tier < CASCADE_TIER_COUNT ? names[tier] : NULL;
}
