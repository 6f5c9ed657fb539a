/* SPDX-License-Identifier: MIT */
/* The settings file's parser: any bytes; what it accepts must survive printing and parsing again. */
#include "format/settings.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    csc_settings first, second;
    char text[CSC_SETTINGS_PRINT_BYTES];
    size_t bytes = sizeof text;

    memset(&first, 0, sizeof first);
    memset(&second, 0, sizeof second);
    if (csc_settings_parse((const char *)data, size, &first))
        return 0;
    if (csc_settings_print(&first, text, &bytes) || csc_settings_parse(text, bytes, &second) ||
        memcmp(&first, &second, sizeof first) != 0)
        abort();
    return 0;
}
