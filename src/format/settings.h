/* SPDX-License-Identifier: MIT */
/*
 * The settings file of a store, `cascade.conf` (docs/formats.md, "Settings"): what was fixed when the
 * store was made, and the defaults of what may change. Pure: text in memory to struct and back.
 */
#ifndef CSC_FORMAT_SETTINGS_H
#define CSC_FORMAT_SETTINGS_H

#include <stddef.h>
#include <stdint.h>

#define CSC_SETTINGS_FILE_NAME    "cascade.conf"
#define CSC_SETTINGS_BYTES_MAX    65536u /* of a file */
#define CSC_SETTINGS_PRINT_BYTES  1024u  /* room enough for csc_settings_print */
#define CSC_SETTINGS_POLICY_BYTES 16u
#define CSC_PAGE_BYTES_MIN        (UINT64_C(4) << 10)
#define CSC_PAGE_BYTES_MAX        (UINT64_C(2) << 20)

typedef struct csc_settings {
    uint8_t uuid[16];           /* random; tells this store's segments and arena from another's */
    uint64_t page_bytes;        /* power of two, CSC_PAGE_BYTES_MIN to _MAX */
    uint64_t dram_bytes;        /* 0: the library's default, here and below */
    uint64_t file_budget_bytes; /* 0: unlimited */
    uint64_t segment_bytes;
    char policy[CSC_SETTINGS_POLICY_BYTES]; /* a word; src/policy knows which words there are */
} csc_settings;

/**
 * Reads the text of a settings file. Errors, each with a text that names the line: CASCADE_EFORMAT
 * (foreign, newer, or over 64 KiB), CASCADE_ECORRUPT (checksum, cut off, binary bytes, a setting is
 * missing), CASCADE_EINVAL (unknown or repeated name, value out of range). `*out` is written only on
 * success.
 */
int csc_settings_parse(const char *text, size_t bytes, csc_settings *out);

/**
 * Writes the text, checksum line included, without a terminating zero. `*bytes` in: room at `out`; out:
 * the text's length. Errors: CASCADE_EINVAL (a value that csc_settings_parse would refuse),
 * CASCADE_ESIZE (`*bytes` is set, `out` untouched).
 */
int csc_settings_print(const csc_settings *settings, char *out, size_t *bytes);

#endif
