/* SPDX-License-Identifier: MIT */
/* What the records of a directory tell, at an open and while others write: contents, deletes, copies
 * beside the chosen one. A part of store_private.h, which tells how things are locked. */
#ifndef CSC_STORE_DISCOVER_H
#define CSC_STORE_DISCOVER_H

#include "segment/segment.h"
#include <cascade/cascade.h>

/** A copy of a content beside the chosen one. */
typedef struct csc_twin {
    uint32_t number; /* CSC_NUMBER_NONE: none any more */
    uint32_t generation;
    uint32_t next; /* 1 + index of another in the same chain */
    csc_place place;
} csc_twin;
typedef struct csc_copies {
    csc_twin *items;
    size_t count, room;
} csc_copies;
/** The newest of them, found by number. */
typedef struct csc_remembered {
    csc_twin *items;
    uint32_t *chains;           /* 1 + index of the first one; `room` of them */
    size_t count, room, oldest; /* `oldest` is overwritten next, once all are in use */
} csc_remembered;

/** A key's latest delete. */
typedef struct csc_deleted {
    uint64_t hash; /* of the key; 0: free */
    uint64_t sequence;
} csc_deleted;

/* ---- records.c: what records tell. Lock held --------------------------------------------------- */

/** The live content that a record tells of, or CSC_NUMBER_NONE. */
uint32_t csc_content_find(cascade_store *store, const csc_content *content);
/** That one, or a new entry without bytes, place and keys. Errors as csc_content_make. */
int csc_content_for(cascade_store *store, const csc_content *content, uint32_t *number, bool *made);

void csc_deleted_note(cascade_store *store, const cascade_key *key, uint64_t sequence);
/** Whether a later delete of its key is known. */
bool csc_deleted_hides(const cascade_store *store, const csc_binding *binding);

/* ---- discover.c: what others write -------------------------------------------------------------- */

int csc_discovery_make(cascade_store *store);
void csc_discovery_destroy(cascade_store *store);
/** Reads and enters what was written since the last look. Any code but 0: not all of it is known. The
 * discovering thread only, no lock held. */
int csc_discover_look(cascade_store *store);
/** Whether a place is in a segment that another handle is writing, or in none: it does not make a block
 * that was put here a stored one. */
bool csc_place_is_weak(const cascade_store *store, const csc_place *place);
/** Whether the record of a key's binding is another rank's, or another node's, or gone. Lock held. */
bool csc_key_is_foreign(const cascade_store *store, uint32_t number);

/* ---- discover_when.c: when the store looks for that ---------------------------------------------- */

/** After a miss: true if it is worth looking again, because what others wrote was read meanwhile. Waits
 * for that if it is time; at most for the I/O deadline after it was asked for. No lock or guard held. */
bool csc_discover(cascade_store *store);
/** Reads what others have written by now, whether it is time or not, and waits as long for it: before a
 * block is given up, or a delete judged to be of no use. False: not all of it is known. No lock or guard
 * held. */
bool csc_discover_now(cascade_store *store);
/** The same if one of the reads found damage or nothing: another node may have moved the block, or have
 * it too, and then it is read there, and no delete is written for it. True if none did. */
bool csc_discover_if_bad(cascade_store *store, const csc_tier_read *reads, size_t count);
/** For whoever cannot wait: true if it is time, and the keeper will see to it. */
bool csc_discover_later(cascade_store *store, uint64_t now_ns);
/** The same under the lock, in steps: whether it is time; to have it look, or let a look under way end,
 * which is so when `looks_done` has reached the result, and `progress` tells of that; and whether that
 * takes so long that who can do without should. Lock held. */
bool csc_discover_is_due(const cascade_store *store, uint64_t now_ns);
uint64_t csc_discover_ask(cascade_store *store);
bool csc_discover_is_slow(const cascade_store *store);
/** The keeper's part of that. Lock held. */
void csc_discover_if_wanted(cascade_store *store);
void *csc_discover_main(void *store);

/* ---- copies.c: while a store is opened ---------------------------------------------------------- */

/** Notes one beside the chosen copy, which may be torn. False: no memory. */
bool csc_copies_note(csc_copies *copies, uint32_t number, const csc_place *place);
/** Where the chosen copy is torn, chooses another. Frees the list. */
void csc_copies_check(cascade_store *store, csc_copies *copies);

/* ---- copies.c: always. Lock held ------------------------------------------------------------------ */

/** Remembers one beside the chosen copy, for the day that one is gone; as far as there is room. */
void csc_copies_keep(cascade_store *store, uint32_t number, const csc_place *place);
/** Chooses a remembered copy in the place of the chosen one. False: none is known. */
bool csc_copies_use(cascade_store *store, uint32_t number);
/** The same, of those that other ranks and nodes have: nobody has read what a dead owner of our own left
 * beside the chosen one, and it may be torn. */
bool csc_copies_use_foreign(cascade_store *store, uint32_t number);
/** The chosen copy cannot be used: CASCADE_ECORRUPT, it is damaged, or CASCADE_MISS, it is not there.
 * One in dram is written again if it is right, else a remembered one is chosen; without either the block
 * is lost, and is a miss from here on. Counts. True: the block is still to be had. */
bool csc_copies_quarantine(cascade_store *store, uint32_t number, int code, bool dram_is_right);
/** Chooses remembered ones for all contents whose chosen copy is in a segment that is gone. Lets go of
 * the lock in between. */
void csc_copies_use_all(cascade_store *store);
/** Whether a place is weak (csc_place_is_weak), or in a segment that a dead owner of our own left
 * without an index: nobody has read it yet, and after a power cut its bytes may not be those that its
 * header promises. */
bool csc_place_is_unsure(const cascade_store *store, const csc_place *place);
void csc_copies_destroy(cascade_store *store);

#endif
