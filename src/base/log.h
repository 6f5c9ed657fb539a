/* SPDX-License-Identifier: MIT */
/*
 * One line an event, to standard error: "cascade: warning: text". The level comes from CASCADE_LOG
 * ("error", "warning", "info", "debug", "none"), default "warning".
 */
#ifndef CSC_BASE_LOG_H
#define CSC_BASE_LOG_H

typedef enum csc_log_level {
    CSC_LOG_ERROR = 1,
    CSC_LOG_WARNING,
    CSC_LOG_INFO,
    CSC_LOG_DEBUG
} csc_log_level;

void csc_log(csc_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
