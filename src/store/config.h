/* SPDX-License-Identifier: MIT */
/* What a store runs with. A part of store_private.h. */
#ifndef CSC_STORE_CONFIG_H
#define CSC_STORE_CONFIG_H

#include "base/io.h"
#include "format/arena_format.h"
#include "format/settings.h"
#include <cascade/cascade.h>

/** Options after environment, settings and defaults. */
typedef struct csc_store_config {
    char directory[CSC_ARENA_DIRECTORY_BYTES]; /* absolute */
    uint64_t device;                           /* the directory is on */
    char shm_directory[1024];
    csc_settings settings;
    uint32_t rank;
    uint32_t hash_threads;
    uint32_t lease_ms;
    uint32_t watermark_low_pct;
    uint32_t watermark_high_pct;
    uint32_t put_wait_ms;
    uint32_t io_deadline_ms;
    uint32_t refresh_ms;
    uint64_t file_age_s;            /* 0: no limit */
    uint64_t background_rate_bytes; /* a second */
    uint64_t scrub_interval_s;      /* 0: none */
    char key_file[1024];            /* "": none */
    char key_command[1024];
    bool prefault;
} csc_store_config;

/** The options of an open, whatever version of the struct they have, checked; clears the thread's error
 * text. Errors: CASCADE_EINVAL. */
int csc_options_copy(const cascade_options *given, cascade_options *options);
/** Options, environment, settings file, defaults; makes directory and settings file if asked to. */
int csc_config_resolve(const cascade_options *options, csc_io *io, csc_store_config *config);

#endif
