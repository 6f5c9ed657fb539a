/* SPDX-License-Identifier: MIT */
/* cascade_digest_many: block ids of many contents by the multi-buffer SHA-256. */
#include "base/fail.h"
#include "base/sha256.h"

#include <cascade/cascade.h>
#include <stdlib.h>
#include <string.h>

static bool half_is_valid(const cascade_piece *pieces, size_t count)
{
    if (!pieces && count)
        return false;
    for (size_t i = 0; i < count; i++)
        if (!pieces[i].data && pieces[i].bytes)
            return false;
    return true;
}

int cascade_digest_many(const cascade_block *blocks, size_t count, cascade_id *ids)
{
    csc_sha256_message *messages = NULL;
    cascade_piece *pieces = NULL, *next;
    size_t piece_count = 0;
    int status = CASCADE_ENOMEM;

    if (count == 0)
        return 0;
    if (!blocks || !ids)
        return csc_fail(CASCADE_EINVAL, "blocks and a place for their ids are needed");
    for (size_t i = 0; i < count; i++) {
        if (!half_is_valid(blocks[i].k, blocks[i].k_count) ||
            !half_is_valid(blocks[i].v, blocks[i].v_count))
            return csc_fail(CASCADE_EINVAL, "block %zu has a piece without memory", i);
        piece_count += blocks[i].k_count + blocks[i].v_count;
    }

    /* A message is one list of pieces, a block is two: they are joined in one array for all blocks. */
    messages = calloc(count, sizeof *messages);
    pieces = calloc(piece_count ? piece_count : 1, sizeof *pieces);
    if (!messages || !pieces) {
        csc_fail(status, "no memory to list the pieces of %zu blocks", count);
        goto out;
    }
    next = pieces;
    for (size_t i = 0; i < count; i++) {
        messages[i].pieces = next;
        messages[i].piece_count = blocks[i].k_count + blocks[i].v_count;
        if (blocks[i].k_count)
            memcpy(next, blocks[i].k, blocks[i].k_count * sizeof *next);
        next += blocks[i].k_count;
        if (blocks[i].v_count)
            memcpy(next, blocks[i].v, blocks[i].v_count * sizeof *next);
        next += blocks[i].v_count;
    }
    csc_sha256_many(messages, count);
    for (size_t i = 0; i < count; i++)
        memcpy(ids[i].bytes, messages[i].digest, sizeof ids[i].bytes);
    status = 0;
out:
    free(pieces);
    free(messages);
    return status;
}
