/* SPDX-License-Identifier: MIT */
/*
 * The trace's parser: each line of any bytes, as the reader would cut them. The parser belongs to the
 * command, not to the library, so it is compiled in here.
 */
#include "../../cli/trace.c"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    trace_request request = {0};
    char text[TRACE_TEXT_BYTES];

    while (size) {
        const uint8_t *end = memchr(data, '\n', size);
        size_t bytes = end ? (size_t)(end - data) : size;

        text[0] = '\0';
        if (trace_parse_line((const char *)data, bytes, &request, text)) {
            if (text[0] == '\0')
                abort(); /* refused without a reason */
        } else {
            for (size_t i = 0; i < request.count; i++)
                if (request.ids[i] > INT64_MAX)
                    abort();
        }
        bytes += end != NULL;
        data += bytes;
        size -= bytes;
    }
    trace_request_free(&request);
    return 0;
}
