/* SPDX-License-Identifier: MIT */
/* Texts as people read and write them, for the library's own parts; the rest is in cascade.h. */
#ifndef CSC_BASE_TEXT_H
#define CSC_BASE_TEXT_H

#include <stddef.h>
#include <stdint.h>

/** Reads 2 * count hex digits, of either case, into `bytes`. Returns 0, or which character (from 1) is
 * the first that is no digit; then a part of `bytes` may be written. */
size_t csc_hex_parse(const char *text, size_t count, uint8_t *bytes);

#endif
