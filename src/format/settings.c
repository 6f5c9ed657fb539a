/* SPDX-License-Identifier: MIT */
/*
 * Parsing and printing of the settings file. All settings must be present and every line must end, so
 * that a file cut short anywhere is noticed even when its checksum line, the last, is gone.
 */
#include "format/settings.h"

#include "base/checksum.h"
#include "base/fail.h"

#include <cascade/cascade.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char first_line[] = "cascade-store 1";

enum { UUID, PAGE_BYTES, DRAM_BYTES, FILE_BUDGET_BYTES, SEGMENT_BYTES, POLICY, SETTING_COUNT };

static const char *const setting_names[SETTING_COUNT] = {
    [UUID] = "uuid",
    [PAGE_BYTES] = "page_bytes",
    [DRAM_BYTES] = "dram_bytes",
    [FILE_BUDGET_BYTES] = "file_budget_bytes",
    [SEGMENT_BYTES] = "segment_bytes",
    [POLICY] = "policy",
};

/* A run of characters inside the text; not terminated. */
typedef struct span {
    const char *at;
    size_t bytes;
} span;

static bool span_is(span s, const char *text)
{
    return s.bytes == strlen(text) && memcmp(s.at, text, s.bytes) == 0;
}

static span trim(span s)
{
    while (s.bytes && (*s.at == ' ' || *s.at == '\t')) {
        s.at++;
        s.bytes--;
    }
    while (s.bytes &&
           (s.at[s.bytes - 1] == ' ' || s.at[s.bytes - 1] == '\t' || s.at[s.bytes - 1] == '\r'))
        s.bytes--;
    return s;
}

static bool page_bytes_valid(uint64_t bytes)
{
    return bytes >= CSC_PAGE_BYTES_MIN && bytes <= CSC_PAGE_BYTES_MAX && (bytes & (bytes - 1)) == 0;
}

static bool policy_valid(span word)
{
    if (word.bytes == 0 || word.bytes >= CSC_SETTINGS_POLICY_BYTES)
        return false;
    for (size_t i = 0; i < word.bytes; i++)
        if (!((word.at[i] >= 'a' && word.at[i] <= 'z') || word.at[i] == '-' || word.at[i] == '_'))
            return false;
    return true;
}

/* Stores the value of setting `which`; `text` is the value, terminated. */
static int take_value(int which, const char *text, unsigned line, csc_settings *settings)
{
    uint64_t bytes = 0;

    if (which == UUID) {
        cascade_id id;

        if (cascade_id_parse(text, &id))
            return csc_fail(CASCADE_EINVAL, "settings line %u: uuid is not 32 hex digits", line);
        memcpy(settings->uuid, id.bytes, sizeof settings->uuid);
        return 0;
    }
    if (which == POLICY) {
        span word = {text, strlen(text)};

        if (!policy_valid(word))
            return csc_fail(CASCADE_EINVAL, "settings line %u: policy is not a word of 1 to %u letters",
                            line, CSC_SETTINGS_POLICY_BYTES - 1);
        memcpy(settings->policy, text, word.bytes + 1);
        return 0;
    }
    if (cascade_size_parse(text, &bytes))
        return csc_fail(CASCADE_EINVAL, "settings line %u: %s is not a size like 4GiB or 65536", line,
                        setting_names[which]);
    switch (which) {
    case PAGE_BYTES:
        if (!page_bytes_valid(bytes))
            return csc_fail(CASCADE_EINVAL,
                            "settings line %u: page_bytes is not a power of two from 4 KiB to 2 MiB",
                            line);
        settings->page_bytes = bytes;
        break;
    case DRAM_BYTES:
        settings->dram_bytes = bytes;
        break;
    case FILE_BUDGET_BYTES:
        settings->file_budget_bytes = bytes;
        break;
    default:
        settings->segment_bytes = bytes;
        break;
    }
    return 0;
}

static int take_setting(span name, span value, unsigned line, csc_settings *settings, unsigned *seen)
{
    char text[64];

    for (int i = 0; i < SETTING_COUNT; i++) {
        if (!span_is(name, setting_names[i]))
            continue;
        if (*seen & 1u << i)
            return csc_fail(CASCADE_EINVAL, "settings line %u: %s was set before", line,
                            setting_names[i]);
        *seen |= 1u << i;
        if (value.bytes >= sizeof text)
            return csc_fail(CASCADE_EINVAL, "settings line %u: the value of %s is too long", line,
                            setting_names[i]);
        memcpy(text, value.at, value.bytes);
        text[value.bytes] = '\0';
        return take_value(i, text, line, settings);
    }
    return csc_fail(CASCADE_EINVAL, "settings line %u: there is no setting named '%.*s'", line,
                    (int)(name.bytes < 40 ? name.bytes : 40), name.at);
}

static int check_checksum(const char *text, size_t bytes_before, span value, unsigned line)
{
    char expected[17];

    snprintf(expected, sizeof expected, "%016" PRIx64, csc_checksum(text, bytes_before, 0));
    if (span_is(value, expected))
        return 0;
    return csc_fail(
        CASCADE_ECORRUPT,
        "settings line %u: the checksum does not match the lines above; if they were edited by "
        "hand, delete this line",
        line);
}

static int check_characters(span s, unsigned line)
{
    for (size_t i = 0; i < s.bytes; i++)
        if (((unsigned char)s.at[i] < ' ' && s.at[i] != '\t' && s.at[i] != '\r') || s.at[i] == 0x7f)
            return csc_fail(CASCADE_ECORRUPT, "settings line %u: holds a control character", line);
    return 0;
}

/* One line after the first. `*closed` is set by the checksum line, which nothing may follow. */
static int take_line(const char *text, span whole, unsigned line, csc_settings *settings, unsigned *seen,
                     bool *closed)
{
    span content = trim(whole), name, value;
    const char *equals;
    int status = check_characters(whole, line);

    if (status)
        return status;
    if (*closed)
        return csc_fail(CASCADE_ECORRUPT, "settings line %u: text after the checksum line", line);
    if (content.bytes == 0 || *content.at == '#')
        return 0;
    equals = memchr(content.at, '=', content.bytes);
    if (!equals)
        return csc_fail(CASCADE_EINVAL, "settings line %u: expected 'name = value'", line);
    name = trim((span){content.at, (size_t)(equals - content.at)});
    value = trim((span){equals + 1, (size_t)(content.at + content.bytes - equals - 1)});
    if (span_is(name, "checksum")) {
        *closed = true;
        return check_checksum(text, (size_t)(whole.at - text), value, line);
    }
    return take_setting(name, value, line, settings, seen);
}

int csc_settings_parse(const char *text, size_t bytes, csc_settings *out)
{
    csc_settings settings = {0};
    unsigned line = 1, seen = 0;
    bool closed = false;
    size_t at = 0;

    if (bytes > CSC_SETTINGS_BYTES_MAX)
        return csc_fail(CASCADE_EFORMAT, "settings: %zu bytes; a settings file has at most %u", bytes,
                        CSC_SETTINGS_BYTES_MAX);
    for (; at < bytes; line++) {
        const char *end = memchr(text + at, '\n', bytes - at);
        span whole = {text + at, end ? (size_t)(end - text) - at : bytes - at};
        int status = 0;

        if (line == 1 && !span_is(trim(whole), first_line))
            return csc_fail(CASCADE_EFORMAT,
                            "settings line 1: not '%s': another program's file, or a newer version's",
                            first_line);
        if (!end)
            return csc_fail(CASCADE_ECORRUPT,
                            "settings line %u: the file ends in the middle of this line", line);
        if (line > 1)
            status = take_line(text, whole, line, &settings, &seen, &closed);
        if (status)
            return status;
        at += whole.bytes + 1;
    }
    if (line == 1)
        return csc_fail(CASCADE_EFORMAT, "settings line 1: the file is empty");
    for (int i = 0; i < SETTING_COUNT; i++)
        if (!(seen & 1u << i))
            return csc_fail(CASCADE_ECORRUPT, "settings line %u: the file ends without %s", line,
                            setting_names[i]);
    *out = settings;
    return 0;
}

int csc_settings_print(const csc_settings *settings, char *out, size_t *bytes)
{
    span policy = {settings->policy, strnlen(settings->policy, CSC_SETTINGS_POLICY_BYTES)};
    char text[CSC_SETTINGS_PRINT_BYTES], uuid[CASCADE_ID_TEXT_BYTES];
    size_t used, room = *bytes;
    cascade_id id;

    if (!page_bytes_valid(settings->page_bytes))
        return csc_fail(CASCADE_EINVAL, "page_bytes is not a power of two from 4 KiB to 2 MiB");
    if (!policy_valid(policy))
        return csc_fail(CASCADE_EINVAL, "policy is not a word of 1 to %u letters",
                        CSC_SETTINGS_POLICY_BYTES - 1);
    if (settings->dram_bytes > INT64_MAX || settings->file_budget_bytes > INT64_MAX ||
        settings->segment_bytes > INT64_MAX)
        return csc_fail(CASCADE_EINVAL, "a size is 2^63 bytes or more");
    memcpy(id.bytes, settings->uuid, sizeof id.bytes);
    cascade_id_format(&id, uuid);
    used = (size_t)snprintf(
        text, sizeof text,
        "%s\n"
        "# Sizes may be written like 4GiB. After an edit by hand delete the checksum line.\n"
        "# uuid and page_bytes belong to the stored blocks and must stay.\n"
        "uuid = %s\n"
        "page_bytes = %" PRIu64 "\n"
        "dram_bytes = %" PRIu64 "\n"
        "file_budget_bytes = %" PRIu64 "\n"
        "segment_bytes = %" PRIu64 "\n"
        "policy = %s\n",
        first_line, uuid, settings->page_bytes, settings->dram_bytes, settings->file_budget_bytes,
        settings->segment_bytes, settings->policy);
    used += (size_t)snprintf(text + used, sizeof text - used, "checksum = %016" PRIx64 "\n",
                             csc_checksum(text, used, 0));
    *bytes = used;
    if (room < used)
        return csc_fail(CASCADE_ESIZE, "the settings text has %zu bytes, there is room for %zu", used,
                        room);
    memcpy(out, text, used);
    return 0;
}
