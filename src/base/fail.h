/* SPDX-License-Identifier: MIT */
/*
 * The detail text behind a return code. The function that first decides an error writes the text with
 * csc_fail; callers pass the code on unchanged. One buffer a thread, fixed storage, never allocates.
 */
#ifndef CSC_BASE_FAIL_H
#define CSC_BASE_FAIL_H

#include <cascade/error.h>

/** Writes the calling thread's detail text and returns `code`. */
int csc_fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/** As csc_fail, with ": " and the text of `err` (an errno value) appended; the code is chosen from
 * `err` (ENOSPC and EDQUOT: ENOSPC; EACCES, EPERM, EROFS: EACCES; ENOMEM: ENOMEM; else EIO). */
int csc_fail_errno(int err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/** The thread's text; "" if none. */
const char *csc_fail_text(void);

/** Sets the thread's text (to carry one over from another thread); NULL clears it. */
void csc_fail_set_text(const char *text);

#endif
