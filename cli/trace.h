/* SPDX-License-Identifier: MIT */
/*
 * Request traces: JSON Lines. Each line is an object whose `hash_ids` is an array of whole numbers from
 * 0 to 2^63-1, one a block, in prompt order; equal numbers mean equal prefixes. Other members and empty
 * lines are ignored.
 */
#ifndef CLI_TRACE_H
#define CLI_TRACE_H

#include <stddef.h>
#include <stdint.h>

#define TRACE_TEXT_BYTES     256u
#define TRACE_LINE_BYTES_MAX (16u << 20)

/** The ids of a request. Start zeroed; grows; free with trace_request_free. */
typedef struct trace_request {
    uint64_t *ids;
    size_t count;
    size_t room;
} trace_request;

void trace_request_free(trace_request *request);

/** Parses one line, without its newline. Returns 0, or -1 with the reason in `text`. */
int trace_parse_line(const char *line, size_t bytes, trace_request *request,
                     char text[TRACE_TEXT_BYTES]);

/** An open trace file. */
typedef struct trace trace;

/** Opens a file, or "-" for standard input. Returns NULL with the reason in `text`. */
trace *trace_open(const char *path, char text[TRACE_TEXT_BYTES]);
void trace_close(trace **reader);

/** Reads the next request. Returns 1, 0 at the end, or -1 with the reason, which names the line, in
 * `text`. */
int trace_next(trace *reader, trace_request *request, char text[TRACE_TEXT_BYTES]);

/** The number of the line read last. */
uint64_t trace_line(const trace *reader);

/** How far reading has got, in bytes, and the file's size (0 when not known). */
void trace_position(const trace *reader, uint64_t *done, uint64_t *total);

#endif
