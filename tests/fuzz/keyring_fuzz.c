/* SPDX-License-Identifier: MIT */
/* The key file's parser: any bytes; every key that it takes can be found by its id. */
#include "base/keyring.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    csc_keyring *ring = NULL;
    const uint8_t *key;

    if (csc_keyring_parse((const char *)data, size, &ring)) {
        if (ring)
            abort();
        return 0;
    }
    key = csc_keyring_find(ring, csc_keyring_first(ring));
    if (!key || csc_key_id(key) != csc_keyring_first(ring) || csc_keyring_count(ring) == 0 ||
        csc_keyring_count(ring) > CSC_KEYRING_KEYS_MAX)
        abort();
    csc_keyring_destroy(&ring);
    return 0;
}
