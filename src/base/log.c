/* SPDX-License-Identifier: MIT */
#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const level_names[] = {"none", "error", "warning", "info", "debug"};

static int level_from_environment(void)
{
    const char *value = getenv("CASCADE_LOG");

    for (int i = 0; value && i < (int)(sizeof level_names / sizeof level_names[0]); i++)
        if (strcmp(value, level_names[i]) == 0)
            return i;
    return CSC_LOG_WARNING;
}

void csc_log(csc_log_level level, const char *format, ...)
{
    static atomic_int threshold = -1;
    char line[512];
    va_list arguments;
    int limit = atomic_load_explicit(&threshold, memory_order_relaxed);

    if (limit < 0) {
        limit = level_from_environment();
        atomic_store_explicit(&threshold, limit, memory_order_relaxed);
    }
    if ((int)level > limit)
        return;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    fprintf(stderr, "cascade: %s: %s\n", level_names[level], line);
}
