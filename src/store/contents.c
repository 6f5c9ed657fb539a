/* SPDX-License-Identifier: MIT */
/*
 * Contents by block id. A content that is put without a key is bound to a key derived from its id, so
 * that its one reference is kept, flushed, recovered and deleted like any other.
 */
#include "base/fail.h"
#include "base/sha256.h"
#include "store/store_private.h"

#include <stdlib.h>
#include <string.h>

static void derive_key(uint64_t tenant, const cascade_id *id, cascade_key *key)
{
    uint8_t text[16 + 8 + CASCADE_ID_BYTES] = "cascade content";

    for (int i = 0; i < 8; i++)
        text[16 + i] = (uint8_t)(tenant >> 8 * i);
    memcpy(text + 24, id->bytes, CASCADE_ID_BYTES);
    csc_sha256(text, sizeof text, key->bytes);
}

/* Binds the derived key to a content that is there already. 0, or CASCADE_MISS when it is not. */
static int adopt(cascade_store *store, uint64_t tenant, const cascade_id *id, const cascade_key *key)
{
    csc_binding binding = {.key = *key};
    bool lost = false;
    uint64_t state;
    uint32_t content, number;
    int code = CASCADE_MISS;

    pthread_mutex_lock(&store->lock);
    content = csc_index_find_id(&store->index, tenant, id->bytes, &state, &lost);
    /* Another thread may have bound it since we looked: a key has one entry. */
    if (csc_index_find(&store->index, key, csc_index_key_hash(&store->index, key), &lost) !=
        CSC_NUMBER_NONE) {
        code = 0;
    } else if (content != CSC_NUMBER_NONE &&
               (!csc_place_is_set(&csc_content_at(store, content)->file) ||
                !csc_place_is_unsure(store, &csc_content_at(store, content)->file))) {
        binding.sequence = csc_next_sequence(store);
        code = csc_key_bind(store, &binding, content, 0, &number);
        if (code == 0) {
            csc_content_note_shared(store, content);
            csc_log_push(store, number);
        }
    }
    pthread_mutex_unlock(&store->lock);
    return code;
}

int cascade_content_put(cascade_store *store, uint64_t tenant, const cascade_block *block,
                        uint32_t flags, cascade_id *id, bool *existed)
{
    cascade_put put = {.tenant = tenant};
    cascade_info info;
    cascade_id made;
    bool there;
    int code;

    CSC_ENTER(store);
    if (!block || !id || (flags & ~(uint32_t)CASCADE_PUT_DURABLE))
        return csc_fail(CASCADE_EINVAL, "no block, no place for the id, or unknown flags 0x%x", flags);
    code = cascade_block_id(block, &made);
    if (code)
        return code;
    derive_key(tenant, &made, &put.key);
    put.block = *block;
    there = csc_info(store, &(csc_name){.tenant = tenant, .id = &made}, &info) == 0;
    if (!store->daemon && csc_info(store, &(csc_name){.key = &put.key}, &info) != 0 && there)
        (void)adopt(store, tenant, &made, &put.key);
    code = cascade_block_put(store, &put, CASCADE_PUT_SYNC | flags);
    if (code)
        return code;
    *id = made;
    if (existed)
        *existed = there;
    return 0;
}

int cascade_content_delete(cascade_store *store, uint64_t tenant, const cascade_id *id)
{
    cascade_key key;

    CSC_ENTER(store);
    if (!id)
        return csc_fail(CASCADE_EINVAL, "no id");
    derive_key(tenant, id, &key);
    return cascade_block_delete(store, &key);
}
