/* SPDX-License-Identifier: MIT */
/*
 * What a store runs with: the options given, then the environment, then the settings file, then the
 * defaults. Also where a store is made: its directory and its settings file.
 */
#include "base/fail.h"
#include "store/store_private.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define DRAM_DEFAULT     (UINT64_C(1) << 30)
#define PAGE_DEFAULT     (UINT64_C(64) << 10)
#define SEGMENT_DEFAULT  (UINT64_C(4) << 30)
#define SEGMENT_SHARE    32u /* of a file budget */
#define SEGMENT_MIN      (UINT64_C(64) << 10)
#define PUT_WAIT_DEFAULT 30000u
#define LEASE_DEFAULT    10000u
#define DEADLINE_DEFAULT 10000u
#define REFRESH_DEFAULT  1000u
#define RATE_DEFAULT     (UINT64_C(256) << 20)
#define WATERMARK_LOW    98u
#define WATERMARK_HIGH   99u
#define HASH_THREADS_MAX 64u
#define RANK_MAX         999u

/* ---- one value ------------------------------------------------------------------------------- */

/* In the environment too zero means default: no dram and no hash thread are no use to anybody. */

static int size_setting(uint64_t given, const char *variable, uint64_t settings, uint64_t fallback,
                        uint64_t *value)
{
    const char *text = getenv(variable);

    if (given) {
        *value = given;
    } else if (text && *text) {
        if (cascade_size_parse(text, value) != 0)
            return csc_fail(CASCADE_EINVAL, "%s=%s is not a size such as 4GiB", variable, text);
        if (*value == 0)
            *value = fallback;
    } else {
        *value = settings ? settings : fallback;
    }
    return 0;
}

static int count_setting(uint32_t given, const char *variable, uint32_t max, uint32_t fallback,
                         uint32_t *value)
{
    const char *text = getenv(variable);
    char *end;
    unsigned long parsed;

    if (given || !text || !*text) {
        *value = given ? given : fallback;
    } else {
        errno = 0;
        parsed = strtoul(text, &end, 10);
        if (errno || *end || text[0] == '-' || parsed > max)
            return csc_fail(CASCADE_EINVAL, "%s=%s is not a number up to %u", variable, text, max);
        *value = parsed ? (uint32_t)parsed : fallback;
    }
    return *value <= max
               ? 0
               : csc_fail(CASCADE_EINVAL, "%u is over the limit of %u (%s)", *value, max, variable);
}

static int seconds_setting(uint64_t given, const char *variable, uint64_t *value)
{
    const char *text = getenv(variable);
    char *end;

    *value = given;
    if (given || !text || !*text)
        return 0;
    errno = 0;
    *value = strtoull(text, &end, 10);
    if (errno || *end || text[0] == '-')
        return csc_fail(CASCADE_EINVAL, "%s=%s is not a number of seconds", variable, text);
    return 0;
}

static const char *text_setting(const char *given, const char *variable, const char *fallback)
{
    const char *text = getenv(variable);

    return given && *given ? given : text && *text ? text : fallback;
}

/* ---- checks ---------------------------------------------------------------------------------- */

/* What a settings file may say, whoever overrides it later. 0 is the default. */
static int check_lasting(const csc_settings *settings)
{
    csc_policy_kind kind;

    if (settings->page_bytes < CSC_PAGE_BYTES_MIN || settings->page_bytes > CSC_PAGE_BYTES_MAX ||
        (settings->page_bytes & (settings->page_bytes - 1)))
        return csc_fail(CASCADE_EINVAL, "pages of %llu bytes: must be a power of two from 4KiB to 2MiB",
                        (unsigned long long)settings->page_bytes);
    if (settings->dram_bytes && (settings->dram_bytes < settings->page_bytes ||
                                 settings->dram_bytes / settings->page_bytes > UINT32_MAX / 2))
        return csc_fail(CASCADE_EINVAL,
                        "a dram budget of %llu bytes: with pages of %llu from one page to %llu bytes",
                        (unsigned long long)settings->dram_bytes,
                        (unsigned long long)settings->page_bytes,
                        (unsigned long long)settings->page_bytes * (UINT32_MAX / 2));
    if (settings->segment_bytes && settings->segment_bytes < SEGMENT_MIN)
        return csc_fail(CASCADE_EINVAL, "segments of %llu bytes: at least 64KiB",
                        (unsigned long long)settings->segment_bytes);
    if (settings->file_budget_bytes && settings->file_budget_bytes < 2 * SEGMENT_MIN)
        return csc_fail(CASCADE_EINVAL,
                        "a file budget of %llu bytes: at least 128KiB, or 0 for no limit",
                        (unsigned long long)settings->file_budget_bytes);
    if (settings->file_budget_bytes && settings->segment_bytes > settings->file_budget_bytes / 2)
        return csc_fail(CASCADE_EINVAL,
                        "segments of %llu bytes do not fit twice into a file budget of %llu",
                        (unsigned long long)settings->segment_bytes,
                        (unsigned long long)settings->file_budget_bytes);
    return csc_policy_kind_parse(settings->policy, &kind);
}

static int check(const csc_store_config *config)
{
    if (config->watermark_low_pct > config->watermark_high_pct)
        return csc_fail(CASCADE_EINVAL, "the low watermark (%u) is above the high one (%u)",
                        config->watermark_low_pct, config->watermark_high_pct);
    return check_lasting(&config->settings);
}

/* ---- the settings file ----------------------------------------------------------------------- */

static bool is_damage(int code)
{
    return code == CASCADE_EFORMAT || code == CASCADE_ECORRUPT || code == CASCADE_EINVAL;
}

static int read_settings_once(csc_io *io, const char *path, csc_settings *settings)
{
    struct iovec vector;
    uint64_t bytes;
    char *text;
    int fd, code = csc_io_open(io, path, O_RDONLY, 0, &fd);

    if (code)
        return code;
    code = csc_io_size(io, fd, &bytes);
    if (code == 0 && bytes > CSC_SETTINGS_BYTES_MAX)
        code = csc_fail(CASCADE_EFORMAT, "%llu bytes: not a settings file", (unsigned long long)bytes);
    text = code ? NULL : malloc(bytes + 1);
    if (code == 0 && !text)
        code = csc_fail(CASCADE_ENOMEM, "no memory to read %s", path);
    if (code == 0 && bytes) {
        vector = (struct iovec){text, bytes};
        code = csc_io_read(io, fd, &vector, 1, 0);
    }
    csc_io_close(io, fd);
    if (code == 0)
        code = csc_settings_parse(text, bytes, settings);
    free(text);
    if (is_damage(code)) {
        char why[256];

        snprintf(why, sizeof why, "%s", csc_fail_text());
        return csc_fail(code, "%s: %s", path, why);
    }
    return code;
}

/* Wrong bytes are read once more: the transfer may have hurt them. */
static int read_settings(csc_io *io, const char *path, csc_settings *settings)
{
    int code = read_settings_once(io, path, settings);

    return is_damage(code) ? read_settings_once(io, path, settings) : code;
}

/* Whole or not at all: written aside, synced, then given its name unless another was quicker. */
static int write_settings(csc_io *io, const csc_store_config *config, const char *path)
{
    char text[CSC_SETTINGS_PRINT_BYTES], aside[CSC_ARENA_DIRECTORY_BYTES + 64];
    size_t bytes = sizeof text;
    struct iovec vector = {text, 0};
    int fd, code = csc_settings_print(&config->settings, text, &bytes);

    if (code)
        return code;
    vector.iov_len = bytes;
    snprintf(aside, sizeof aside, "%s.%ld", path, (long)getpid());
    code = csc_io_open(io, aside, O_WRONLY | O_CREAT | O_TRUNC, 0644, &fd);
    if (code)
        return code;
    code = csc_io_write(io, fd, &vector, 1, 0);
    if (code == 0)
        code = csc_io_datasync(io, fd);
    csc_io_close(io, fd);
    if (code == 0)
        code = csc_io_link(io, aside, path);
    (void)csc_io_unlink(io, aside);
    return code ? code : csc_io_sync_directory(io, config->directory);
}

static int make_settings(csc_io *io, const cascade_options *options, csc_store_config *config,
                         const char *path)
{
    csc_settings *settings = &config->settings;
    int code;

    memset(settings, 0, sizeof *settings);
    if (getrandom(settings->uuid, sizeof settings->uuid, 0) != sizeof settings->uuid)
        return csc_fail_errno(errno, "no random bytes for the store's name");
    settings->page_bytes = options->page_bytes ? options->page_bytes : PAGE_DEFAULT;
    settings->dram_bytes = options->dram_bytes;
    settings->file_budget_bytes = options->file_budget_bytes;
    settings->segment_bytes = options->segment_bytes;
    snprintf(settings->policy, sizeof settings->policy, "%s",
             options->policy && *options->policy ? options->policy : "hazard");
    code = check_lasting(settings);
    if (code)
        return code;
    code = write_settings(io, config, path);
    if (code == CASCADE_EEXIST)
        return options->open_flags & CASCADE_OPEN_EXCLUSIVE ? code : read_settings(io, path, settings);
    return code;
}

static int find_directory(csc_io *io, const cascade_options *options, csc_store_config *config)
{
    const char *given = text_setting(options->directory, "CASCADE_DIR", NULL);
    struct stat info;
    char *absolute;
    int code;

    if (!given)
        return csc_fail(CASCADE_EINVAL, "no store directory: give one or set CASCADE_DIR");
    if (options->open_flags & CASCADE_OPEN_CREATE) {
        code = csc_io_mkdir(io, given, 0755);
        if (code)
            return code;
    }
    absolute = realpath(given, NULL);
    if (!absolute)
        return errno == ENOENT
                   ? csc_fail(CASCADE_ENOSTORE, "there is no directory %s: `cascade init` makes a store",
                              given)
                   : csc_fail_errno(errno, "cannot reach the directory %s", given);
    code = csc_io_stat(io, absolute, &info);
    if (code == 0 && !S_ISDIR(info.st_mode))
        code = csc_fail(CASCADE_ENOSTORE, "%s is a file; a store is a directory", given);
    if (code) {
        free(absolute);
        return code == CASCADE_MISS ? CASCADE_ENOSTORE : code;
    }
    config->device = (uint64_t)info.st_dev;
    if (strlen(absolute) >= sizeof config->directory - 64) {
        free(absolute);
        return csc_fail(CASCADE_EINVAL, "the path of the store directory is too long");
    }
    snprintf(config->directory, sizeof config->directory, "%s", absolute);
    free(absolute);
    return 0;
}

static int find_settings(csc_io *io, const cascade_options *options, csc_store_config *config)
{
    char path[CSC_ARENA_DIRECTORY_BYTES + 32];
    int code;

    snprintf(path, sizeof path, "%s/%s", config->directory, CSC_SETTINGS_FILE_NAME);
    /* Looked for by opening it: on a file system of a cluster each question costs a message. */
    code = read_settings(io, path, &config->settings);
    if (code == CASCADE_MISS) {
        if (options->open_flags & CASCADE_OPEN_CREATE)
            return make_settings(io, options, config, path);
        return csc_fail(CASCADE_ENOSTORE, "there is no store in %s: `cascade init` makes one",
                        config->directory);
    }
    if (options->open_flags & CASCADE_OPEN_EXCLUSIVE)
        return csc_fail(CASCADE_EEXIST, "there is a store in %s already", config->directory);
    if (code == 0 && options->page_bytes && options->page_bytes != config->settings.page_bytes)
        return csc_fail(CASCADE_EINVAL,
                        "the store's pages have %llu bytes; that is fixed when it is made",
                        (unsigned long long)config->settings.page_bytes);
    return code;
}

static int path_setting(const char *given, const char *variable, char *value, size_t room)
{
    const char *text = text_setting(given, variable, "");

    if (strlen(text) >= room)
        return csc_fail(CASCADE_EINVAL, "%s is too long", variable);
    memcpy(value, text, strlen(text) + 1);
    return 0;
}

/* Where the keys come from. One place given as an option sets aside what the environment says of the
 * other, too. */
static int resolve_keys(const cascade_options *options, csc_store_config *config)
{
    bool has_file = options->key_file && *options->key_file;
    bool has_command = options->key_command && *options->key_command;
    int code = 0;

    if (has_file || !has_command)
        code = path_setting(options->key_file, "CASCADE_KEY_FILE", config->key_file,
                            sizeof config->key_file);
    if (code == 0 && (has_command || !has_file))
        code = path_setting(options->key_command, "CASCADE_KEY_COMMAND", config->key_command,
                            sizeof config->key_command);
    return code;
}

/* How the file tier works in the background, and what it must not wait for. */
static int resolve_file_work(const cascade_options *options, csc_store_config *config)
{
    int code = count_setting(options->io_deadline_ms, "CASCADE_IO_DEADLINE_MS", INT_MAX,
                             DEADLINE_DEFAULT, &config->io_deadline_ms);

    if (code == 0)
        code = count_setting(options->refresh_ms, "CASCADE_REFRESH_MS", INT_MAX, REFRESH_DEFAULT,
                             &config->refresh_ms);
    if (code == 0)
        code = seconds_setting(options->file_age_s, "CASCADE_FILE_AGE", &config->file_age_s);
    if (code == 0)
        code = seconds_setting(options->scrub_interval_s, "CASCADE_SCRUB_INTERVAL",
                               &config->scrub_interval_s);
    if (code == 0)
        code = size_setting(options->background_rate_bytes, "CASCADE_BACKGROUND_RATE", 0, RATE_DEFAULT,
                            &config->background_rate_bytes);
    if (code == 0)
        code = resolve_keys(options, config);
    return code;
}

int csc_config_resolve(const cascade_options *options, csc_io *io, csc_store_config *config)
{
    csc_settings *settings = &config->settings;
    uint64_t segment_default;
    const char *policy;
    int code;

    *config = (csc_store_config){0};
    code = find_directory(io, options, config);
    if (code == 0 && options->policy && strlen(options->policy) >= sizeof settings->policy)
        code = csc_fail(CASCADE_EINVAL, "there is no policy %s", options->policy);
    if (code == 0)
        code = find_settings(io, options, config);
    if (code)
        return code;
    snprintf(config->shm_directory, sizeof config->shm_directory, "%s",
             text_setting(options->shm_directory, "CASCADE_SHM_DIR", "/dev/shm"));
    policy = text_setting(options->policy, "CASCADE_POLICY", NULL);
    if (policy)
        snprintf(settings->policy, sizeof settings->policy, "%s", policy);
    config->prefault = !(options->open_flags & CASCADE_OPEN_NO_PREFAULT);
    code = size_setting(options->dram_bytes, "CASCADE_DRAM", settings->dram_bytes, DRAM_DEFAULT,
                        &settings->dram_bytes);
    if (code == 0)
        code = size_setting(options->file_budget_bytes, "CASCADE_FILE_BUDGET",
                            settings->file_budget_bytes, 0, &settings->file_budget_bytes);
    segment_default = settings->file_budget_bytes / SEGMENT_SHARE;
    if (segment_default == 0 || segment_default > SEGMENT_DEFAULT)
        segment_default = SEGMENT_DEFAULT;
    if (segment_default < SEGMENT_MIN)
        segment_default = SEGMENT_MIN;
    if (code == 0)
        code = size_setting(options->segment_bytes, "CASCADE_SEGMENT", settings->segment_bytes,
                            segment_default, &settings->segment_bytes);
    if (code == 0)
        code = count_setting(options->rank, "CASCADE_RANK", RANK_MAX, 0, &config->rank);
    if (code == 0)
        code = count_setting(options->hash_threads, "CASCADE_HASH_THREADS", HASH_THREADS_MAX, 1,
                             &config->hash_threads);
    if (code == 0)
        code = count_setting(options->lease_ms, "CASCADE_LEASE_MS", INT_MAX, LEASE_DEFAULT,
                             &config->lease_ms);
    if (code == 0)
        code = count_setting(options->watermark_low_pct, "CASCADE_WATERMARK_LOW", 100, WATERMARK_LOW,
                             &config->watermark_low_pct);
    if (code == 0)
        code = count_setting(options->watermark_high_pct, "CASCADE_WATERMARK_HIGH", 100, WATERMARK_HIGH,
                             &config->watermark_high_pct);
    if (code == 0)
        code = count_setting(options->put_wait_ms, "CASCADE_PUT_WAIT_MS", INT_MAX, PUT_WAIT_DEFAULT,
                             &config->put_wait_ms);
    if (code == 0)
        code = resolve_file_work(options, config);
    return code ? code : check(config);
}

int csc_options_copy(const cascade_options *given, cascade_options *options)
{
    csc_fail_set_text(NULL);
    if (!given || given->struct_bytes < sizeof(size_t) || given->struct_bytes > 65536)
        return csc_fail(CASCADE_EINVAL, "no options, or struct_bytes is not set");
    *options = (cascade_options){0};
    memcpy(options, given,
           given->struct_bytes < sizeof *options ? given->struct_bytes : sizeof *options);
    if (options->open_flags &
        ~(uint32_t)(CASCADE_OPEN_CREATE | CASCADE_OPEN_EXCLUSIVE | CASCADE_OPEN_NO_PREFAULT))
        return csc_fail(CASCADE_EINVAL, "unknown open flags 0x%x", options->open_flags);
    return 0;
}
