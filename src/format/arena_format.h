/* SPDX-License-Identifier: MIT */
/*
 * The arena: one sparse file in shared memory that holds a store's index and dram tier. This file is
 * its byte layout; docs/formats.md, "Arena", says the same in prose. Offsets and indexes, never
 * pointers: every process maps it where it likes. The byte order is the machine's: an arena does
 * not outlive a boot.
 *
 *   header | slots | key buckets | content buckets | keys | contents | spills | pages
 *
 * Every region but pages is an array that grows: space is allocated (fallocate) before the count that
 * publishes it. Written by the owner alone, but for the slots and the lease words.
 *
 * Each entry is whole or absent: fields first, then the state word by one atomic store. A kill between
 * any two stores leaves a table that csc_arena takes over.
 */
#ifndef CSC_FORMAT_ARENA_FORMAT_H
#define CSC_FORMAT_ARENA_FORMAT_H

#include "format/content.h"
#include <assert.h>
#include <stdatomic.h>
#include <stdint.h>

#define CSC_ARENA_MAGIC           UINT64_C(0x314e455241435343) /* "CSCAREN1" */
#define CSC_ARENA_VERSION         2u
#define CSC_ARENA_HEADER_BYTES    8192u
#define CSC_ARENA_DIRECTORY_BYTES 4096u

/* Header state. Far apart, so that a flipped bit makes none of them of another. */
enum {
    CSC_ARENA_UNFORMATTED = 0, /* being made: nothing was acknowledged */
    CSC_ARENA_LIVE = 0x1eaf5eed,
    CSC_ARENA_CLOSED = 0x70c105ed /* flushed and unlinked; mapped by late readers only */
};

/* ---- slots: what readers hold -------------------------------------------------------------- */

#define CSC_SLOT_AREAS                                                                                  \
    32u /* area 0 is the owner's; each other belongs to the holder of its lock byte                     \
         */
#define CSC_AREA_SLOTS 4096u /* words an area */
#define CSC_AREA_NOTES                                                                                  \
    4096u /* of an area's ring of touches, a power of two; the owner's is not used                      \
           */

/* The region begins with a page of claims: claims[a] is the pid of area a's holder, 0 for none. A client
 * allocates its area, then claims it; the owner clears the claim of a holder whose lock is gone. Lock
 * byte 0 of the file is the owner's, byte 1 + a is that of area a's holder. */
#define CSC_SLOT_CLAIMS_BYTES 4096u

/* The parts of the region: claims, the areas' slots, the areas' rings. A ring is a page that begins with
 * the number of notes ever taken, then the notes. */
#define CSC_AREA_SLOTS_BYTES        (CSC_AREA_SLOTS * sizeof(uint64_t))
#define CSC_AREA_RING_BYTES         (4096u + CSC_AREA_NOTES * sizeof(uint64_t))
#define CSC_AREA_SLOTS_OFFSET(area) (CSC_SLOT_CLAIMS_BYTES + (uint64_t)(area)*CSC_AREA_SLOTS_BYTES)
#define CSC_AREA_RING_OFFSET(area)                                                                      \
    (CSC_AREA_SLOTS_OFFSET(CSC_SLOT_AREAS) + (uint64_t)(area)*CSC_AREA_RING_BYTES)
#define CSC_SLOTS_BYTES CSC_AREA_RING_OFFSET(CSC_SLOT_AREAS)

/* A slot word: 0 is free; the top bits tell guard from pin. */
#define CSC_SLOT_GUARD      (UINT64_C(1) << 62) /* low bits: the epoch the reader began in */
#define CSC_SLOT_PIN        (UINT64_C(1) << 63) /* low 32 bits: the content */
#define CSC_SLOT_EPOCH_MASK (CSC_SLOT_GUARD - 1)

/* ---- links of a hash list ------------------------------------------------------------------ */

/* A link is 0 (a bucket not yet made), 1 (the end), an entry's number plus 2, or a bucket with the top
 * bit. Fresh sparse memory is thus an array of buckets not yet made. */
#define CSC_LINK_NONE   0u
#define CSC_LINK_END    1u
#define CSC_LINK_ENTRY  2u
#define CSC_LINK_BUCKET 0x80000000u

typedef struct csc_hash_node {
    _Atomic uint32_t next; /* a link */
    uint32_t order;        /* bit-reversed hash, low bit set */
} csc_hash_node;

/* ---- keys ---------------------------------------------------------------------------------- */

enum {
    CSC_KEY_FREE = 0,
    CSC_KEY_BOUND = 1,
    CSC_KEY_DELETED = 2 /* the tombstone is not on disk yet */
};
#define CSC_KEY_HAS_PARENT 0x100u

typedef struct csc_key_entry {
    cascade_key key;
    csc_hash_node node;
    _Atomic uint32_t content; /* content number */
    _Atomic uint32_t state;   /* CSC_KEY_*, with CSC_KEY_HAS_PARENT */
    uint64_t sequence;        /* of the bind or the delete */
    uint32_t segment;         /* 1 + index of the segment that holds the binding; 0: none yet */
    uint32_t sibling;         /* next key of the content: number + 1, 0 ends */
    cascade_key parent;
} csc_key_entry;
static_assert(sizeof(csc_key_entry) == 96, "key entry");

/* ---- contents ------------------------------------------------------------------------------ */

/* State bits (low half of the word; the high half is the generation, changed at every free). */
#define CSC_CONTENT_FILLING          0x01u /* pages are being written */
#define CSC_CONTENT_LIVE             0x02u /* a block: whole, named by keys */
#define CSC_CONTENT_RESIDENT         0x04u /* its bytes are in the pages */
#define CSC_CONTENT_DIGEST           0x08u /* the digest is known */
#define CSC_CONTENT_DOOMED           0x10u /* not a block any more, pages kept for a pin */
#define CSC_CONTENT_GENERATION_SHIFT 32

/** A run of pages. */
typedef struct csc_extent {
    uint32_t page;
    uint32_t count;
} csc_extent;

#define CSC_EXTENTS_INLINE 3u
/** A dram place: its first extents, and where the others are. */
typedef struct csc_extents {
    uint32_t count;
    uint32_t spill; /* number + 1 of the first spill entry, 0: none */
    csc_extent first[CSC_EXTENTS_INLINE];
} csc_extents;
static_assert(sizeof(csc_extents) == sizeof(csc_place), "extents are a place");

#define CSC_SPILL_EXTENTS 7u
typedef struct csc_spill_entry {
    uint32_t next; /* number + 1 */
    uint32_t count;
    csc_extent extents[CSC_SPILL_EXTENTS];
} csc_spill_entry;
static_assert(sizeof(csc_spill_entry) == 64, "spill entry");

/** What readers need comes first. */
typedef struct csc_content_entry {
    _Atomic uint64_t state;
    _Atomic uint64_t lease; /* until (coarse ms since boot) << 16 | count */
    csc_hash_node node;     /* list by digest */
    uint32_t first_key;     /* number + 1, 0: none */
    uint32_t references;
    csc_extents dram;
    csc_content content;
    csc_place file; /* meaningful to the owner alone */
} csc_content_entry;
static_assert(sizeof(csc_content_entry) == 152, "content entry");

/* ---- header -------------------------------------------------------------------------------- */

/** The regions that grow. */
enum {
    CSC_REGION_KEY_BUCKETS,
    CSC_REGION_CONTENT_BUCKETS,
    CSC_REGION_KEYS,
    CSC_REGION_CONTENTS,
    CSC_REGION_SPILLS,
    CSC_REGION_PAGES,
    CSC_REGION_COUNT
};

typedef struct csc_arena_region {
    uint64_t offset; /* from the start of the file */
    uint32_t max;    /* elements there is address space for */
    uint32_t element_bytes;
} csc_arena_region;

/** Fixed when the arena is made; guarded by a checksum. */
typedef struct csc_arena_geometry {
    uint64_t magic;
    uint32_t version;
    uint32_t rank;
    uint8_t store_uuid[16];
    uint64_t hash_seed;
    uint64_t slots_offset;
    uint64_t file_bytes;
    csc_arena_region regions[CSC_REGION_COUNT];
    char directory[CSC_ARENA_DIRECTORY_BYTES]; /* the store's, absolute */
    uint64_t device;                           /* that the directory is on; 0: not known */
} csc_arena_geometry;

typedef struct csc_arena_header {
    csc_arena_geometry geometry;
    uint64_t geometry_checksum;
    _Atomic uint32_t state;
    _Atomic uint32_t owner_pid;
    _Atomic uint64_t epoch;
    _Atomic uint64_t sequence;
    _Atomic uint32_t used[CSC_REGION_COUNT]; /* elements allocated and published */
} csc_arena_header;
static_assert(sizeof(csc_arena_header) <= CSC_ARENA_HEADER_BYTES, "header");

#endif
