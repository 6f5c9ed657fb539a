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

#include "base/cipher.h"
#include "format/segment_format.h"
#include "segment/segment.h"

#include <pthread.h>
#include <stdatomic.h>

#define CSC_SEGMENT_PATH_BYTES    4096
#define CSC_SEGMENT_FILES_MAX     128u /* read descriptors kept open */
#define CSC_SEGMENT_READERS_KEPT  4u
#define CSC_SEGMENT_NO_DEADLINE   UINT64_MAX
#define CSC_SEGMENT_DEADLINE_MS   10000u
#define CSC_SEGMENT_REQUESTS      8u                /* of the writer, at the same time */
#define CSC_SEGMENT_REQUEST_BYTES ((size_t)4 << 20) /* of one of them, and of the memory it owns */
#define CSC_SEGMENT_VECTORS_MAX   512
#define CSC_SEGMENT_SPARES_MAX    64u
/* A handle appends to no segment that it has not written to for an hour. So one that has no index and
 * was not written to for a day has no writer any more, whatever clocks say on other nodes. */
#define CSC_SEGMENT_IDLE_NS        (UINT64_C(3600) * 1000000000)
#define CSC_SEGMENT_ABANDONED_NS   (24 * CSC_SEGMENT_IDLE_NS)
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

/* The keys bound in a segment, to find out what a delete may hide. */
typedef struct csc_segment_binds {
    uint64_t sequence_min; /* UINT64_MAX: there are none */
    uint32_t *hashes;
    size_t count, room;
    bool is_sorted;
    bool incomplete; /* for want of memory */
} csc_segment_binds;

typedef struct csc_segment_item {
    uint32_t rank;
    uint32_t number;
    uint64_t generation;
    uint64_t key_id;  /* of its payloads' key, 0: none */
    bool found;       /* in the directory, not made by this handle */
    atomic_bool ours; /* as in csc_segment_info */
    bool abandoned;   /* the same */
    bool cut;         /* a part of it could not be read yet */
    bool ours_whole;  /* found at open: `ours` once all of it is read, if it does not grow until then */
    /* under the lock */
    uint64_t bytes;
    uint64_t scanned;           /* records before this offset were visited, or written here */
    uint64_t last_at, last_sum; /* of the last of them that was visited: its offset and its checksum */
    uint64_t live_bytes;        /* of records that hold a retained place */
    uint64_t log_entries;       /* in log records */
    uint64_t log_deletes;       /* of them */
    uint64_t index_bytes;       /* index and trailer; 0: not sealed */
    uint64_t removals_then;     /* how many segments had been removed when it was begun or found */
    csc_segment_binds binds;
    csc_segment_state state;
    csc_segment_file *file; /* NULL while not open for reading */
    bool opening;           /* some thread is opening `file` */
    uint64_t used_tick;
} csc_segment_item;

/* A file that is named like a segment and is none. */
typedef struct csc_segment_skipped {
    uint32_t rank;
    uint32_t number;
    uint32_t looks_left; /* that a refresh takes at it, while it stays that file */
    uint64_t inode, bytes;
    struct timespec changed;
    bool there;  /* while a refresh goes on: it is still in the directory */
    bool unread; /* it may be a segment that others can read */
} csc_segment_skipped;

/* A file that waits to become a segment again. */
typedef struct csc_segment_spare {
    uint32_t number; /* in its name */
    uint64_t bytes;
} csc_segment_spare;

/** A place in a list of pieces. */
typedef struct csc_segment_cursor {
    const cascade_piece *pieces;
    size_t count;
    size_t index;
    size_t used; /* of pieces[index] */
} csc_segment_cursor;

/* Payload that is to be encrypted into a request's memory, from a chunk's start to a chunk's end. */
typedef struct csc_segment_part {
    csc_segfmt_record *header; /* with its salt; sums and tags go there */
    uint64_t first;            /* its first chunk */
    csc_segment_cursor from;
    size_t bytes;
    uint8_t *to;
    bool whole; /* all of the record is in the request: the header is sealed too */
} csc_segment_part;

/* One of the writer's requests: idle, being filled, waiting to be encrypted, or in the file layer's
 * hands. */
typedef struct csc_segment_request {
    csc_io_request io;
    struct iovec vectors[CSC_SEGMENT_VECTORS_MAX];
    size_t bytes;
    uint8_t *stage; /* CSC_SEGMENT_REQUEST_BYTES, for what cannot go to the file from where it lies */
    size_t staged_bytes;
    csc_segfmt_record *owned; /* a header by itself, sealed when all before it is encrypted, and freed
                                 when the request is done; or NULL */
    csc_segment_part *parts;
    size_t part_count, part_room;
    int code; /* of encrypting */
    bool encrypted;
} csc_segment_request;

typedef struct csc_segment_crew csc_segment_crew;

/* The writer's requests; they complete in any order. Between two calls of csc_segment_write all are
 * idle. */
typedef struct csc_segment_ring {
    csc_io_lane *lane; /* while a call of csc_segment_write goes on */
    csc_segment_request requests[CSC_SEGMENT_REQUESTS];
    csc_segment_request *idle[CSC_SEGMENT_REQUESTS];
    csc_segment_request *refused[CSC_SEGMENT_REQUESTS]; /* for being direct: to be written again */
    size_t idle_count, refused_count, in_flight;
    int code; /* the first failure since the last drain */
    uint8_t *stages;
} csc_segment_ring;

/* The open segment, and what there is to know between two syncs. */
typedef struct csc_segment_writer {
    csc_segment_item *item; /* NULL: none is open */
    uint32_t index;         /* of `item` in the table */
    uint32_t number;        /* of its file */
    int fd;
    bool direct;
    uint64_t position;               /* where the next record goes */
    uint64_t synced_position;        /* where it went at the last good sync */
    uint64_t reserved_bytes;         /* file space reserved up to here */
    uint64_t recycled_bytes;         /* what its file reaches to from an earlier use; 0: nothing */
    bool can_reserve;                /* the file system knows how */
    uint32_t big_count;              /* blocks of 4 MiB and more in it */
    csc_segfmt_index_entry *entries; /* its index so far */
    size_t entry_count, entry_room;  /* */
    bool dirty;                      /* records written since the last sync of `fd` */
    bool directory_dirty;            /* names made or removed since the directory was synced */
    size_t named_count;   /* items of the table when it was: names of later ones are in doubt */
    bool names_unsure;    /* the directory was once not synced: what was removed may come back */
    uint64_t prepared_ns; /* when room for the latest record was made, since 1970 */
    bool lost;            /* a sync failed; the next csc_segment sync tells */
    uint32_t next_number; /* above all seen */
    bool stripe_tried;
    uint8_t id[16];         /* of this handle, random */
    uint8_t *page;          /* for first pages; made with the first segment */
    csc_segment_ring *ring; /* made at the first write */
    csc_segment_crew *crew; /* NULL: payloads are not encrypted */
} csc_segment_writer;

typedef struct csc_segment_tier {
    csc_tier base;
    csc_io *io;
    char *directory;
    uint32_t rank;
    const csc_keyring *keyring; /* or NULL */
    uint64_t segment_bytes;
    uint32_t blocks_max;
    uint32_t spares_max;
    pid_t owner;            /* a forked child removes no files */
    uint32_t deadline_ms;   /* of a read */
    atomic_bool direct;     /* try O_DIRECT when opening */
    _Atomic uint32_t users; /* the handle, and readers with late transfers */

    pthread_mutex_t lock;
    pthread_cond_t opened; /* some item's `opening` ended */
    csc_segment_item **items;
    size_t item_count, item_room;
    size_t removed_count; /* of the items */
    size_t file_count;    /* read descriptors in the table */
    uint64_t tick;
    csc_segment_spare spares[CSC_SEGMENT_SPARES_MAX];
    uint32_t spare_count;               /* only the writer changes it */
    struct csc_segment_reader *readers; /* kept for the next reads */
    size_t reader_count;

    /* Of open and refresh alone */
    csc_segment_skipped *skipped;
    size_t skipped_count;
    size_t checked;           /* index of the segment whose first page was looked at last */
    uint64_t directory_inode; /* 0: not known */
    uint64_t directory_device;
    atomic_bool unread; /* there are segments that only others can read */

    csc_segment_writer writer;
    _Atomic uint64_t read_bytes, written_bytes, quarantined, recycled, rereads;
    atomic_bool striped;
} csc_segment_tier;

extern const csc_tier_ops csc_segment_ops;

/** Memory aligned to a page; free() frees it. NULL: none left, with the text written. */
void *csc_segment_alloc(size_t bytes);

static inline csc_segment_tier *csc_segment_tier_of(csc_tier *tier)
{
    return (csc_segment_tier *)(void *)tier;
}

/** What the key of an encrypted record is made from, as its header says. */
csc_cipher_record csc_segment_cipher_record(const csc_segfmt_record *header);

/* ---- segment.c: the table ---------------------------------------------------------------------- */

void csc_segment_path(const csc_segment_tier *t, uint32_t rank, uint32_t number,
                      char path[CSC_SEGMENT_PATH_BYTES]);
/** Adds a segment; `*index` is its place in the table. Errors: CASCADE_ENOMEM. */
int csc_segment_add(csc_segment_tier *t, const csc_segment_item *facts, uint32_t *index);
/** Frees a tier in whatever state of building; the descriptors close. */
void csc_segment_free(csc_segment_tier *t);
/** One user less; the last frees it. */
void csc_segment_leave(csc_segment_tier *t);
/** Unlinks a file of this rank, unless another handle has taken it away and given its number to a
 * segment of its own: CASCADE_MISS then too. `generation`: of the segment, 0: of a spare. */
int csc_segment_unlink(csc_segment_tier *t, uint32_t number, uint64_t generation);
/** Marks it removed: no read finds it any more; those under way go on. */
void csc_segment_set_removed(csc_segment_tier *t, csc_segment_item *item);

/* ---- segment_facts.c: what a segment holds --------------------------------------------------- */

/** Note what was written to a segment of the table, or found there. */
void csc_segment_note_bind(csc_segment_tier *t, uint32_t segment, const uint8_t key[32],
                           uint64_t sequence);
void csc_segment_note_log(csc_segment_tier *t, uint32_t segment, bool is_delete);
/** Bytes that so many of its binds and deletes take when packed, 0: they may well be of no use any more.
 * Lock held. */
uint64_t csc_segment_log_bytes(const csc_segment_tier *t, const csc_segment_item *item,
                               uint64_t entries);
void csc_segment_retain(csc_tier *tier, const csc_place *place, const csc_content *content);
void csc_segment_drop(csc_tier *tier, const csc_place *place, const csc_content *content);

/* ---- segment_names.c ---------------------------------------------------------------------------- */

typedef struct csc_segment_name {
    uint32_t rank;
    uint32_t number;
} csc_segment_name;

typedef struct csc_segment_names {
    csc_segment_name *names; /* the caller frees it, after a failure too */
    size_t count, room;
} csc_segment_names;

/** Lists the directory's segment files, sorted. Returns as csc_io_list. */
int csc_segment_names_list(csc_segment_tier *t, csc_segment_names *list);

/* ---- segment_file.c: descriptors for reading ------------------------------------------------- */

/** Opens a file for reading, with O_DIRECT if that is wanted and works. CASCADE_ETIMEDOUT: not by
 * `deadline_ns` (csc_clock_ns, or CSC_SEGMENT_NO_DEADLINE). */
int csc_segment_file_open(csc_segment_tier *t, uint32_t rank, uint32_t number, uint64_t deadline_ns,
                          csc_segment_file **file);
/** Puts a file just opened, that has no user, into the table if there is room, else closes it. */
void csc_segment_file_keep(csc_segment_tier *t, csc_segment_item *item, csc_segment_file *file);
/** The descriptor of a segment, opened if need be. CASCADE_MISS: the segment is gone;
 * CASCADE_ETIMEDOUT: it did not open in time. */
int csc_segment_file_acquire(csc_segment_tier *t, csc_segment_item *item, uint64_t deadline_ns,
                             csc_segment_file **file);
void csc_segment_file_release(csc_segment_tier *t, csc_segment_file *file);
/** Takes a file out of the table, for example because direct reads fail on it. With the lock held;
 * returns the file if the caller has to close it, after unlocking. */
csc_segment_file *csc_segment_file_detach(csc_segment_tier *t, csc_segment_item *item);
void csc_segment_file_close(csc_segment_tier *t, csc_segment_file *file);

/* ---- segment_roll.c: the life of the open segment -------------------------------------------- */

/**
 * Makes sure that an open segment has room for a record: seals the open one first if limits say so,
 * starts one, reserves file space and index entries. Requests not yet written must have been written
 * first if csc_segment_must_roll says so.
 */
int csc_segment_prepare(csc_segment_tier *t, uint64_t record_bytes, size_t entry_count);
bool csc_segment_must_roll(const csc_segment_tier *t, uint64_t record_bytes, size_t entry_count);
/** Writes vectors into the open segment; goes over to buffered writes where direct ones are refused. */
int csc_segment_put(csc_segment_tier *t, const struct iovec *vectors, int count, uint64_t offset);
int csc_segment_go_buffered(csc_segment_tier *t);
/**
 * After a failed write, with position and index back where they were before it: cuts the file there, or,
 * when that too fails or the error was not for want of room, gives the segment up. What was written to
 * it before stays readable and is synced.
 */
void csc_segment_recover(csc_segment_tier *t, int code);
int csc_segment_seal_open(csc_segment_tier *t);
/** Removes the open segment, if there is one with no record in it. */
void csc_segment_discard_if_empty(csc_segment_tier *t);
int csc_segment_sync(csc_tier *tier);
/** Tells the table how far the open segment reaches. */
void csc_segment_set_bytes(csc_segment_tier *t, uint64_t bytes);
/** Makes the writer's page, if need be, and fills it with the header of the segment that has its number.
 * `recycled_from`: as in the header. CASCADE_ENOMEM. */
int csc_segment_fill_header(csc_segment_tier *t, uint64_t generation, uint64_t recycled_from);

/* ---- segment_recycle.c: files that are used again -------------------------------------------- */

/** Makes a removed segment's file a spare; false: it has to be unlinked. */
bool csc_segment_spare_keep(csc_segment_tier *t, const csc_segment_item *item);
/** Makes a spare the file of the new segment whose name `path` was just claimed. `*taken` false: there
 * is none that can be used, and the claimed file is empty. A failure: the name cannot be used. */
int csc_segment_spare_take(csc_segment_tier *t, const char *path, uint64_t generation, bool *taken);
void csc_segment_spares_remove(csc_segment_tier *t);

/* ---- segment_ring.c: requests in flight ------------------------------------------------------ */

/** Before and after the requests of one call. begin: CASCADE_ENOMEM; CASCADE_EIO: the file layer has no
 * lane left because too many transfers hang. end: nothing is in flight. */
int csc_segment_ring_begin(csc_segment_tier *t);
void csc_segment_ring_end(csc_segment_tier *t);
/** An idle request for bytes of the open segment from `offset` on; waits until one is done. */
csc_segment_request *csc_segment_ring_take(csc_segment_tier *t, uint64_t offset);
/** Adds memory to the end of a request; it stays as it is until the next drain. */
void csc_segment_request_push(csc_segment_request *request, void *data, size_t bytes);
/** Adds `bytes`, whole pages, of the request's own memory; the caller knows that there is room. */
uint8_t *csc_segment_request_stage(csc_segment_request *request, size_t bytes);
/** Sends a request on its way; what is to be encrypted is encrypted first. */
void csc_segment_ring_submit(csc_segment_tier *t, csc_segment_request *request);
/** Gives a request back that was not submitted. */
void csc_segment_ring_release(csc_segment_tier *t, csc_segment_request *request);
/** Waits for all of them; the first failure since the last drain, after which any may have failed. */
int csc_segment_ring_drain(csc_segment_tier *t);
void csc_segment_ring_destroy(csc_segment_ring *ring);

/* ---- segment_encrypt.c: requests that are encrypted on their way ----------------------------- */

/** Whoever takes requests out encrypts as well; a few threads, started with the first request, do it
 * beside. `ring` is borrowed. Errors: as csc_cipher_create. */
int csc_segment_crew_make(const csc_keyring *ring, csc_segment_crew **crew);
/** Nothing is queued. `forked`: the threads are the parent's. NULL is accepted. */
void csc_segment_crew_destroy(csc_segment_crew *crew, bool forked);
/** Before any of a record's payload: fills the salt. Its header's fixed part is filled in. CASCADE_EIO.
 */
int csc_segment_encrypt_begin(csc_segfmt_record *header);
/** Adds payload to a request's parts. CASCADE_ENOMEM. */
int csc_segment_request_encrypt(csc_segment_request *request, const csc_segment_part *part);
/** Queues a request; one without parts keeps its place in the order. */
void csc_segment_crew_push(csc_segment_crew *crew, csc_segment_request *request);
/**
 * Takes the oldest queued request out, encrypted. `wait`: takes a hand until it is, so that NULL means
 * that none is queued; else NULL also means that it is not ready.
 */
csc_segment_request *csc_segment_crew_pop(csc_segment_crew *crew, bool wait);

/* ---- segment_write.c, segment_read.c --------------------------------------------------------- */

int csc_segment_write(csc_tier *tier, csc_tier_write *writes, size_t count);
int csc_segment_read(csc_tier *tier, csc_tier_read *reads, size_t count);
/** segment_reader.c: frees the readers kept. */
void csc_segment_readers_free(csc_segment_tier *t);

/** A place is: segment index, record offset (2 words), header pages, generation (2 words), 0, 0. The
 * generation makes a place of an earlier handle a miss, not somebody else's bytes. */
void csc_segment_place_make(csc_place *place, uint32_t index, uint64_t offset, uint64_t header_bytes,
                            uint64_t generation);

/* ---- pieces ---------------------------------------------------------------------------------- */

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
