/* SPDX-License-Identifier: MIT */
/*
 * What the files of this folder share.
 *
 * Two halves that meet in few places. The *table* of segments and their read descriptors is guarded by
 * `lock`; any thread reads through it. The *writer* belongs to the one thread that writes, syncs, seals
 * and removes; it takes the lock only where it changes the table. Writer and readers use descriptors of
 * their own, so neither can pull the other's away.
 *
 * A segment is in the table for as long as the handle lives, so its index stays good; a removed one only
 * changes state.
 */
#ifndef CSC_SEGMENT_SEGMENT_INTERNAL_H
#define CSC_SEGMENT_SEGMENT_INTERNAL_H

#include "format/segment_format.h"
#include "segment/segment.h"

#include <pthread.h>
#include <stdatomic.h>

#define CSC_SEGMENT_PATH_BYTES     4096
#define CSC_SEGMENT_FILES_MAX      128u              /* read descriptors kept open */
#define CSC_SEGMENT_BOUNCE_BYTES   ((size_t)1 << 20) /* of a reader */
#define CSC_SEGMENT_BOUNCE_HEADER  ((size_t)1 << 17) /* of which its first part is for the header */
#define CSC_SEGMENT_BOUNCE_KEPT    4u
#define CSC_SEGMENT_REQUEST_BYTES  ((size_t)16 << 20) /* of one write */
#define CSC_SEGMENT_STAGE_BYTES    ((size_t)4 << 20)  /* of the writer's own memory */
#define CSC_SEGMENT_RESERVE_BYTES  (UINT64_C(64) << 20)
#define CSC_SEGMENT_BIG_BYTES      (UINT64_C(4) << 20) /* blocks that blocks_max counts */
#define CSC_SEGMENT_BYTES_DEFAULT  (UINT64_C(4) << 30)
#define CSC_SEGMENT_BLOCKS_DEFAULT 256u

/* A descriptor for reading. Freed by the last of its users and the table. */
typedef struct csc_segment_file {
    int fd;
    bool direct;
    bool detached; /* no longer in the table: the last user closes it */
    uint32_t users;
} csc_segment_file;

typedef enum csc_segment_state {
    CSC_SEGMENT_OPEN,     /* this handle appends to it */
    CSC_SEGMENT_UNSEALED, /* nobody here appends, no footer */
    CSC_SEGMENT_SEALED,
    CSC_SEGMENT_REMOVED
} csc_segment_state;

typedef struct csc_segment_item {
    uint32_t rank;
    uint32_t number;
    uint64_t generation;
    /* under the lock */
    uint64_t bytes;
    csc_segment_state state;
    csc_segment_file *file; /* NULL while not open for reading */
    bool opening;           /* some thread is opening `file` */
    uint64_t used_tick;
} csc_segment_item;

/* The open segment, and what there is to know between two syncs. */
typedef struct csc_segment_writer {
    csc_segment_item *item; /* NULL: none is open */
    uint32_t index;         /* of `item` in the table */
    uint32_t number;        /* of its file */
    int fd;
    bool direct;
    uint64_t position;               /* where the next record goes */
    uint64_t reserved_bytes;         /* file space reserved up to here */
    bool can_reserve;                /* the file system knows how */
    uint32_t big_count;              /* blocks of 4 MiB and more in it */
    csc_segfmt_index_entry *entries; /* its index so far */
    size_t entry_count, entry_room;  /* */
    bool dirty;                      /* records written since the last sync of `fd` */
    bool directory_dirty;            /* names made or removed since the directory was synced */
    bool lost;                       /* a sync failed; the next csc_segment sync tells */
    uint32_t next_number;            /* above all seen */
    uint8_t id[16];                  /* of this handle, random */
    uint8_t *stage;                  /* CSC_SEGMENT_STAGE_BYTES, aligned; made at the first write */
} csc_segment_writer;

typedef struct csc_segment_tier {
    csc_tier base;
    csc_io *io;
    char *directory;
    uint32_t rank;
    uint64_t segment_bytes;
    uint32_t blocks_max;
    atomic_bool direct; /* try O_DIRECT when opening */

    pthread_mutex_t lock;
    pthread_cond_t opened; /* some item's `opening` ended */
    csc_segment_item **items;
    size_t item_count, item_room;
    size_t file_count; /* read descriptors in the table */
    uint64_t tick;
    uint8_t *bounces[CSC_SEGMENT_BOUNCE_KEPT];
    size_t bounce_count;

    csc_segment_writer writer;
    _Atomic uint64_t read_bytes, written_bytes, quarantined;
} csc_segment_tier;

extern const csc_tier_ops csc_segment_ops;

/** Memory aligned to a page; free() frees it. NULL: none left, with the text written. */
void *csc_segment_alloc(size_t bytes);

static inline csc_segment_tier *csc_segment_tier_of(csc_tier *tier)
{
    return (csc_segment_tier *)(void *)tier;
}

/* ---- segment.c: the table ---------------------------------------------------------------------- */

void csc_segment_path(const csc_segment_tier *t, uint32_t rank, uint32_t number,
                      char path[CSC_SEGMENT_PATH_BYTES]);
/** Adds a segment; `*index` is its place in the table. Errors: CASCADE_ENOMEM. */
int csc_segment_add(csc_segment_tier *t, const csc_segment_item *facts, uint32_t *index);
/** Frees a tier in whatever state of building; the descriptors close. */
void csc_segment_free(csc_segment_tier *t);
/** Marks it removed: no read finds it any more; those under way go on. */
void csc_segment_set_removed(csc_segment_tier *t, csc_segment_item *item);

/* ---- segment_file.c: descriptors for reading -------------------------------------------------------
 */

/** Opens a file for reading, with O_DIRECT if that is wanted and works. */
int csc_segment_file_open(csc_segment_tier *t, uint32_t rank, uint32_t number, csc_segment_file **file);
/** Puts a file just opened, that has no user, into the table if there is room, else closes it. */
void csc_segment_file_keep(csc_segment_tier *t, csc_segment_item *item, csc_segment_file *file);
/** The descriptor of a segment, opened if need be. CASCADE_MISS: the segment is gone. */
int csc_segment_file_acquire(csc_segment_tier *t, csc_segment_item *item, csc_segment_file **file);
void csc_segment_file_release(csc_segment_tier *t, csc_segment_file *file);
/** Takes a file out of the table, for example because direct reads fail on it. With the lock held;
 * returns the file if the caller has to close it, after unlocking. */
csc_segment_file *csc_segment_file_detach(csc_segment_tier *t, csc_segment_item *item);
void csc_segment_file_close(csc_segment_tier *t, csc_segment_file *file);

/* ---- segment_roll.c: the life of the open segment
 * ----------------------------------------------------- */

/**
 * Makes sure that an open segment has room for a record: seals the open one first if limits say so,
 * starts one, reserves file space and index entries. Requests not yet written must have been written
 * first if csc_segment_must_roll says so.
 */
int csc_segment_prepare(csc_segment_tier *t, uint64_t record_bytes, size_t entry_count);
bool csc_segment_must_roll(const csc_segment_tier *t, uint64_t record_bytes, size_t entry_count);
/** Writes vectors into the open segment; goes over to buffered writes where direct ones are refused. */
int csc_segment_put(csc_segment_tier *t, const struct iovec *vectors, int count, uint64_t offset);
/**
 * After a failed write, with position and index back where they were before it: cuts the file there, or,
 * when that too fails or the error was not for want of room, gives the segment up. What was written to
 * it before stays readable and is synced.
 */
void csc_segment_recover(csc_segment_tier *t, int code);
int csc_segment_seal_open(csc_segment_tier *t);
int csc_segment_sync(csc_tier *tier);
/** Tells the table how far the open segment reaches. */
void csc_segment_set_bytes(csc_segment_tier *t, uint64_t bytes);

/* ---- segment_write.c, segment_read.c ----------------------------------------------------------------
 */

int csc_segment_write(csc_tier *tier, csc_tier_write *writes, size_t count);
int csc_segment_read(csc_tier *tier, const csc_place *place, const csc_content *content, uint64_t offset,
                     const cascade_piece *pieces, size_t piece_count);

/** A place is: segment index, record offset (2 words), header pages, generation (2 words), 0, 0. The
 * generation makes a place of an earlier handle a miss, not somebody else's bytes. */
void csc_segment_place_make(csc_place *place, uint32_t index, uint64_t offset, uint64_t header_bytes,
                            uint64_t generation);

/* ---- pieces
 * ------------------------------------------------------------------------------------------- */

/** A place in a list of pieces. */
typedef struct csc_segment_cursor {
    const cascade_piece *pieces;
    size_t count;
    size_t index;
    size_t used; /* of pieces[index] */
} csc_segment_cursor;

/** The next bytes that lie together, at most `most`; 0 at the end. Does not move. */
size_t csc_segment_cursor_peek(csc_segment_cursor *cursor, size_t most, uint8_t **data);
static inline void csc_segment_cursor_move(csc_segment_cursor *cursor, size_t bytes)
{
    cursor->used += bytes;
}
/** Adds up pieces; false if that overflows. */
bool csc_segment_pieces_bytes(const cascade_piece *pieces, size_t count, uint64_t *bytes);
/** Whether every piece begins at a page and all but the last are whole pages. */
bool csc_segment_pieces_aligned(const cascade_piece *pieces, size_t count);

#endif
