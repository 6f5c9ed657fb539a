/* SPDX-License-Identifier: MIT */
/* A put in steps, for a client that fills the pages itself. No lock held. */
#ifndef CSC_STORE_PUT_H
#define CSC_STORE_PUT_H

#include "store/store_private.h"

typedef struct csc_put_terms {
    uint64_t k_bytes, v_bytes;
    uint32_t area; /* of the client: its pages are left alone by a next owner while it lives */
    bool tail, verify, may_wait;
} csc_put_terms;
typedef struct csc_reservation {
    cascade_put put;
    uint64_t k_bytes, v_bytes;
    csc_room_request room;
    uint32_t content; /* CSC_NUMBER_NONE: none */
    uint32_t area;
} csc_reservation;

/** Copies a block into the pages that were taken for it. Errors: CASCADE_ENOMEM. */
int csc_put_copy_in(cascade_store *store, const csc_extents *extents, const cascade_block *block);
/** Takes pages for a put whose `block` is not looked at. 0: reserved, or settled by what the key is
 * bound to (no content; `put` has the results). Errors as of a put; without `may_wait` CASCADE_ENOSPC.
 */
int csc_put_reserve(cascade_store *store, cascade_put *put, const csc_put_terms *terms,
                    bool *request_refused, csc_reservation *made);
/** The pages are filled: ends the reservation, whatever it returns. As a put; results in `made->put`. */
int csc_put_commit(cascade_store *store, csc_reservation *made, uint32_t flags);
void csc_put_abandon(cascade_store *store, csc_reservation *made);
/** Puts begin: unless a match did, they are a request of their own. */
void csc_put_begin_request(cascade_store *store);
/** What CASCADE_PUT_SYNC and _DURABLE wait for: the digest, the disk. */
int csc_put_wait(cascade_store *store, cascade_put *put, uint32_t flags);

#endif
