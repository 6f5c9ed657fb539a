/* SPDX-License-Identifier: MIT */
/* The facts of a content and of the keys bound to it, as every part below passes them on. */
#ifndef CSC_FORMAT_CONTENT_H
#define CSC_FORMAT_CONTENT_H

#include <cascade/cascade.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Where a content lies in its tier. Plain data: may lie in shared memory; all zero means nowhere. */
typedef struct csc_place {
    uint32_t words[8];
} csc_place;

/** A key bound to a content. */
typedef struct csc_binding {
    cascade_key key;
    cascade_key parent; /* all zero without has_parent */
    bool has_parent;
    uint64_t sequence; /* of the bind, per writer, never 0 */
} csc_binding;

/** A content's facts. */
typedef struct csc_content {
    uint64_t tenant;
    uint64_t k_bytes;
    uint64_t v_bytes;
    uint8_t digest[32]; /* all zero while it is not known (dram only) */
} csc_content;

#endif
