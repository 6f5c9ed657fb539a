/* SPDX-License-Identifier: MIT */
/* At a take-over: contents whose pages were being filled. Lock held, or nobody else is there yet. */
#ifndef CSC_STORE_FILLED_H
#define CSC_STORE_FILLED_H

#include "store/store_private.h"

static inline bool csc_content_is_sane(const csc_content *content)
{
    return content->k_bytes > 0 && content->k_bytes <= CASCADE_BLOCK_BYTES_MAX &&
           content->v_bytes <= CASCADE_BLOCK_BYTES_MAX - content->k_bytes;
}

/** Whether a content's pages were being filled by a transfer, or by a client that lives. */
bool csc_filled_is(cascade_store *store, uint32_t number);
/** Claims such pages, after those of all whole blocks. `*left`: the entry stays a client's; else it is
 * to be adopted like any other. Errors: CASCADE_ENOMEM. */
int csc_filled_take(cascade_store *store, uint32_t number, bool *left);

#endif
