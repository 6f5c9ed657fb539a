/* SPDX-License-Identifier: MIT */
#include "trace.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct trace {
    FILE *file;
    const char *name; /* for messages */
    char *line;
    size_t line_room;
    uint64_t line_number;
    uint64_t bytes_done;
    uint64_t bytes_total;
};

void trace_request_free(trace_request *request)
{
    free(request->ids);
    *request = (trace_request){0};
}

static int take_ids(const json_t *array, trace_request *request, char text[TRACE_TEXT_BYTES])
{
    size_t count = json_array_size(array);

    if (count > request->room) {
        uint64_t *larger = realloc(request->ids, count * sizeof *larger);

        if (!larger) {
            snprintf(text, TRACE_TEXT_BYTES, "no memory for %zu ids", count);
            return -1;
        }
        request->ids = larger;
        request->room = count;
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *id = json_array_get(array, i);

        if (!json_is_integer(id) || json_integer_value(id) < 0) {
            snprintf(text, TRACE_TEXT_BYTES,
                     "element %zu of hash_ids is not a whole number of 0 or more", i);
            return -1;
        }
        request->ids[i] = (uint64_t)json_integer_value(id);
    }
    request->count = count;
    return 0;
}

int trace_parse_line(const char *line, size_t bytes, trace_request *request, char text[TRACE_TEXT_BYTES])
{
    json_error_t error;
    json_t *root = json_loadb(line, bytes, JSON_REJECT_DUPLICATES, &error), *array;
    int result = -1;

    if (!root) {
        snprintf(text, TRACE_TEXT_BYTES, "not JSON at byte %d: %s", error.position, error.text);
        return -1;
    }
    array = json_object_get(root, "hash_ids"); /* NULL too if the line is not an object */
    if (json_is_array(array))
        result = take_ids(array, request, text);
    else
        snprintf(text, TRACE_TEXT_BYTES, "not an object with an array 'hash_ids'");
    json_decref(root);
    return result;
}

trace *trace_open(const char *path, char text[TRACE_TEXT_BYTES])
{
    bool is_input = strcmp(path, "-") == 0;
    trace *reader = calloc(1, sizeof *reader);
    struct stat info;

    if (!reader) {
        snprintf(text, TRACE_TEXT_BYTES, "no memory");
        return NULL;
    }
    reader->name = is_input ? "standard input" : path;
    reader->file = is_input ? stdin : fopen(path, "rb");
    if (!reader->file) {
        snprintf(text, TRACE_TEXT_BYTES, "cannot open '%.100s': %s", path, strerror(errno));
        free(reader);
        return NULL;
    }
    if (fstat(fileno(reader->file), &info) == 0 && S_ISREG(info.st_mode))
        reader->bytes_total = (uint64_t)info.st_size;
    return reader;
}

void trace_close(trace **reader)
{
    if (!*reader)
        return;
    if ((*reader)->file != stdin)
        fclose((*reader)->file);
    free((*reader)->line);
    free(*reader);
    *reader = NULL;
}

static int fail_line(const trace *reader, char text[TRACE_TEXT_BYTES], const char *reason)
{
    snprintf(text, TRACE_TEXT_BYTES, "%.100s, line %" PRIu64 ": %.120s", reader->name,
             reader->line_number, reason);
    return -1;
}

/* Reads one line, newline dropped. Returns 1, 0 at the end, -1. getline would take all memory for a file
 * without newlines. */
static int read_line(trace *reader, size_t *bytes, char text[TRACE_TEXT_BYTES])
{
    size_t used = 0;
    int c;

    reader->line_number++;
    while ((c = getc_unlocked(reader->file)) != EOF && c != '\n') {
        if (used == reader->line_room) {
            size_t room = used ? 2 * used : 4096;
            char *larger = used < TRACE_LINE_BYTES_MAX ? realloc(reader->line, room) : NULL;

            if (!larger)
                return fail_line(reader, text,
                                 used < TRACE_LINE_BYTES_MAX ? "no memory" : "longer than 16 MiB");
            reader->line = larger;
            reader->line_room = room;
        }
        reader->line[used++] = (char)c;
    }
    if (ferror(reader->file))
        return fail_line(reader, text, strerror(errno));
    reader->bytes_done += used + 1;
    *bytes = used;
    return c != EOF || used;
}

static bool is_blank(const char *line, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r')
            return false;
    return true;
}

int trace_next(trace *reader, trace_request *request, char text[TRACE_TEXT_BYTES])
{
    char reason[TRACE_TEXT_BYTES];
    size_t bytes;

    for (;;) {
        int got = read_line(reader, &bytes, text);

        if (got != 1)
            return got;
        if (is_blank(reader->line, bytes))
            continue;
        if (trace_parse_line(reader->line, bytes, request, reason))
            return fail_line(reader, text, reason);
        return 1;
    }
}

uint64_t trace_line(const trace *reader)
{
    return reader->line_number;
}

void trace_position(const trace *reader, uint64_t *done, uint64_t *total)
{
    *done = reader->bytes_done;
    *total = reader->bytes_total;
}
