/* SPDX-License-Identifier: MIT */
/* The block id of a content that need not be stored. */
#include "base/fail.h"
#include "base/sha256.h"

#include <cascade/cascade.h>
#include <stdlib.h>
#include <string.h>

/* 128 layers of K and V need no allocation. */
#define STACK_PIECES 256u

static int check_pieces(const char *name, const cascade_piece *pieces, size_t count, uint64_t *room)
{
    if (count && !pieces)
        return csc_fail(CASCADE_EINVAL, "block id: %s is NULL but %s_count is %zu", name, name, count);
    for (size_t i = 0; i < count; i++) {
        if (pieces[i].bytes && !pieces[i].data)
            return csc_fail(CASCADE_EINVAL, "block id: piece %zu of %s is NULL but has %zu bytes", i,
                            name, pieces[i].bytes);
        if (pieces[i].bytes > *room)
            return csc_fail(CASCADE_EINVAL, "block id: the block is over the largest size, 1 TiB");
        *room -= pieces[i].bytes;
    }
    return 0;
}

int cascade_block_id(const cascade_block *block, cascade_id *id)
{
    cascade_piece stack[STACK_PIECES], *pieces = stack;
    uint64_t room = CASCADE_BLOCK_BYTES_MAX;
    csc_sha256_message message;
    int code;

    if (!block || !id)
        return csc_fail(CASCADE_EINVAL, "block id: %s is NULL", block ? "id" : "block");
    if ((code = check_pieces("k", block->k, block->k_count, &room)) ||
        (code = check_pieces("v", block->v, block->v_count, &room)))
        return code;
    size_t count = block->k_count + block->v_count;
    if (count > STACK_PIECES && !(pieces = reallocarray(NULL, count, sizeof *pieces)))
        return csc_fail(CASCADE_ENOMEM, "block id: no memory for a list of %zu pieces", count);
    if (block->k_count)
        memcpy(pieces, block->k, block->k_count * sizeof *pieces);
    if (block->v_count)
        memcpy(pieces + block->k_count, block->v, block->v_count * sizeof *pieces);
    message = (csc_sha256_message){.pieces = pieces, .piece_count = count};
    csc_sha256_many(&message, 1);
    memcpy(id->bytes, message.digest, sizeof id->bytes);
    if (pieces != stack)
        free(pieces);
    return 0;
}
