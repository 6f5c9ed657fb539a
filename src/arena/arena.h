/* SPDX-License-Identifier: MIT */
/*
 * The dram tier: one sparse file in shared memory with the store's index and pages (layout:
 * format/arena_format.h). This part owns the file, its lock, its growth and its pages; what the entries
 * mean is the store's affair.
 *
 * No byte is touched, nor published as usable, before fallocate succeeded for it: a full /dev/shm is
 * CASCADE_ENOSPC, never SIGBUS. Pages once allocated are kept and reused, most recently freed first.
 *
 * Threads: allocate, free, copy and pieces from any; grow, claim and close by the owner's lock holder.
 */
#ifndef CSC_ARENA_ARENA_H
#define CSC_ARENA_ARENA_H

#include "format/arena_format.h"
#include "tier/tier.h"

typedef struct csc_arena csc_arena;

typedef struct csc_arena_options {
    const char *shm_directory;
    const char *directory; /* the store's, absolute */
    uint64_t device;       /* it is on; 0: looked up */
    uint8_t store_uuid[16];
    uint32_t rank;
    uint32_t page_bytes;
    uint64_t dram_bytes; /* of pages; the index comes on top */
} csc_arena_options;

/**
 * Opens the arena of (directory, rank) on this node and becomes its owner: makes it, or takes over the
 * one a dead owner left (`*taken_over`; its geometry then stays, whatever the options say, and the
 * caller rebuilds: csc_arena_claim for what is in use, then csc_arena_claims_done). Errors:
 * CASCADE_EBUSY (text names the owner's pid), CASCADE_EFORMAT, CASCADE_ECORRUPT, CASCADE_EACCES,
 * CASCADE_ENOSPC, CASCADE_ENOMEM.
 */
int csc_arena_open(const csc_arena_options *options, csc_arena **arena, bool *taken_over);

/** The path of the arena's file. Of the options: directories, uuid, rank. */
void csc_arena_name(const csc_arena_options *options, char *path, size_t room);

/** Unmaps; unlinks the file unless `keep`. NULL inside is accepted. */
void csc_arena_close(csc_arena **arena, bool keep);

/** In a forked child: closes the lock's descriptor, so that the child cannot keep the store busy. */
void csc_arena_after_fork(csc_arena *arena);

/** In a forked child, after csc_arena_after_fork: unmaps. Frees nothing; the arena is of no further use
 * there. */
void csc_arena_leave(csc_arena *arena);

void *csc_arena_base(csc_arena *arena);
const char *csc_arena_path(const csc_arena *arena);

/** Makes at least `count` elements of a region usable, zeroed, and publishes the number (which may be
 * larger; bucket regions stay powers of two and are published by the caller).
 * Errors: CASCADE_ENOSPC; nothing changed. */
int csc_arena_grow(csc_arena *arena, unsigned region, uint32_t count);

/** Removes arenas in `shm_directory` whose owner is dead and whose store's directory is gone. */
void csc_arena_collect_orphans(const char *shm_directory);

/** Clears the claims of slot areas whose holder is dead. */
void csc_arena_clear_dead_clients(csc_arena *arena);

/* ---- pages --------------------------------------------------------------------------------- */

/** Starts the thread that allocates, touches and collapses pages up to the budget, ahead of use. */
int csc_arena_start_prefault(csc_arena *arena);

/**
 * Takes pages for `bytes`, in as few runs as there are; at most `runs_max` (0: any number).
 * Errors: CASCADE_ENOSPC (not enough free, or only in more runs). `*extents` written on success.
 */
int csc_arena_allocate(csc_arena *arena, uint64_t bytes, uint32_t runs_max, csc_extents *extents);

/** Gives pages back and zeroes `*extents`. */
void csc_arena_free(csc_arena *arena, csc_extents *extents);

/** Take-over: marks the pages of an entry that stays. CASCADE_ECORRUPT if they are out of range, used
 * twice, or do not add up to `bytes`. */
int csc_arena_claim(csc_arena *arena, const csc_extents *extents, uint64_t bytes);
/** Take-over: all other pages are free from here. Errors: CASCADE_ENOMEM. */
int csc_arena_claims_done(csc_arena *arena);

uint64_t
csc_arena_capacity(const csc_arena *arena); /* bytes of pages; less when shared memory is full */
uint64_t csc_arena_used(const csc_arena *arena);
uint64_t csc_arena_ready(const csc_arena *arena);
uint64_t csc_arena_huge(const csc_arena *arena);
uint32_t csc_arena_page_bytes(const csc_arena *arena);
/** Whether growth ended early because shared memory is full. */
bool csc_arena_is_short(const csc_arena *arena);

/* ---- bytes ---------------------------------------------------------------------------------- */

/** Pieces of bytes [offset, offset + bytes) of a content. Returns how many there are; writes at most
 * `room`. */
size_t csc_arena_pieces(csc_arena *arena, const csc_extents *extents, uint64_t offset, uint64_t bytes,
                        cascade_piece *pieces, size_t room);

/** Gathers K then V into the pages; zeroes up to the next 4 KiB, so that no other content's bytes go to
 * disk with it. */
void csc_arena_copy_in(csc_arena *arena, const csc_extents *extents, const cascade_piece *pieces,
                       size_t piece_count);

/** Scatters bytes from `offset` on into `pieces`. */
void csc_arena_copy_out(csc_arena *arena, const csc_extents *extents, uint64_t offset,
                        const cascade_piece *pieces, size_t piece_count);

/** The arena seen through the table of tiers (src/tier/tier.h); borrowed. */
csc_tier *csc_arena_tier(csc_arena *arena);

/* ---- in other processes ----------------------------------------------------------------------- */

/**
 * Maps a live arena that another process owns and claims a slot area, by a lock that the kernel drops
 * when this process dies. By its path, or (`fd` not negative) by a descriptor, which stays the caller's.
 * All but slots and rings is mapped read-only; the pages once more for writing, by which
 * csc_arena_copy_in goes. Of the calls above such an arena has those about bytes, base, path, page_bytes
 * and after_fork. Errors: CASCADE_ENOSTORE, CASCADE_EFORMAT, CASCADE_ECORRUPT, CASCADE_EAGAIN (all areas
 * taken, or the arena is being made), CASCADE_EACCES, CASCADE_ENOSPC, CASCADE_ENOMEM.
 */
int csc_arena_attach(const char *path, int fd, csc_arena **arena);
/** Gives the area up and unmaps. NULL inside is accepted. */
void csc_arena_detach(csc_arena **arena);
/** Whether that is the file of an attached arena. */
bool csc_arena_is_file(const csc_arena *arena, int fd);
/** The slot area of an attached one; 0: the owner's. */
uint32_t csc_arena_area(const csc_arena *arena);
/** Whether a client holds that area, as of the last csc_arena_clear_dead_clients. */
bool csc_arena_is_claimed(const csc_arena *arena, uint32_t area);
/** The ring of an area's touches: how many were ever taken, and the notes. NULL: nobody claims it, or it
 * is the owner's. */
_Atomic uint64_t *csc_arena_ring(csc_arena *arena, uint32_t area, _Atomic uint64_t **taken);

#endif
