/* SPDX-License-Identifier: MIT */
#include "base/fail.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define TEXT_BYTES 512

static _Thread_local char last_text[TEXT_BYTES];

int csc_fail(int code, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(last_text, sizeof last_text, format, arguments);
    va_end(arguments);
    return code;
}

static int code_of_errno(int err)
{
    switch (err) {
    case ENOSPC:
    case EDQUOT:
        return CASCADE_ENOSPC;
    case EACCES:
    case EPERM:
    case EROFS:
        return CASCADE_EACCES;
    case ENOMEM:
        return CASCADE_ENOMEM;
    default:
        return CASCADE_EIO;
    }
}

int csc_fail_errno(int err, const char *format, ...)
{
    va_list arguments;
    char reason[96];
    int used;

    va_start(arguments, format);
    used = vsnprintf(last_text, sizeof last_text, format, arguments);
    va_end(arguments);
    if (used < 0)
        used = 0;
    if ((size_t)used < sizeof last_text)
        snprintf(last_text + used, sizeof last_text - (size_t)used, ": %s",
                 strerror_r(err, reason, sizeof reason));
    return code_of_errno(err);
}

const char *csc_fail_text(void)
{
    return last_text;
}

void csc_fail_set_text(const char *text)
{
    snprintf(last_text, sizeof last_text, "%s", text ? text : "");
}
