/* SPDX-License-Identifier: MIT */
/*
 * The engine. What the files of src/store share.
 *
 * Locking. `lock` guards everything in csc_store but what is marked otherwise, and all changes to the
 * arena's entries. It is held for metadata only: bytes are copied, hashed, read and written outside it.
 * A content whose bytes are in use outside the lock by the store's own threads is *busy* (a count); a
 * content in use by a reader is *pinned* (a slot). Readers take no lock at all.
 *
 * Life of a content: FILLING (pages taken, bytes coming) -> LIVE and RESIDENT -> digest known, equals
 * merged
 * -> written and synced: its file place is set, it is clean -> RESIDENT off and on again -> dropped when
 * no key is left: DOOMED while pinned, then free.
 *
 * A content is *dirty* until it is on stable storage; dirty ones form a list in order of tickets, so
 * that a flush knows when all that came before it is done. One that dram holds when the file budget
 * takes its file copy is *shed*: not dirty, for the flush that it was promised to has been, and nobody
 * writes it again for its own sake. It goes when it leaves dram.
 */
#ifndef CSC_STORE_STORE_PRIVATE_H
#define CSC_STORE_STORE_PRIVATE_H

#include "arena/arena.h"
#include "base/clock.h"
#include "base/io.h"
#include "index/index.h"
#include "policy/policy.h"
#include "segment/segment.h"
#include "store/config.h"
#include "store/discover.h"
#include "store/touch.h"
#include <cascade/cascade.h>
#include <pthread.h>

#define CSC_STORE_MAGIC          UINT64_C(0x65726f7473637363)
#define CSC_RUNS_MAX             8u /* pieces a block should have at most; more only when nothing else is left */
#define CSC_BINDINGS_MAX         1024u
#define CSC_TRANSIT_SHARE        16u /* refused newcomers may fill a sixteenth of dram */
#define CSC_PARENTS_WANTED_WORDS (1u << 17)
#define CSC_LOAD_RING            4096u
#define CSC_RECORD_EXTRA_BYTES   UINT64_C(16384) /* headers and padding of a block on disk at most */
#define CSC_SCAN_STEP            4096u           /* entries looked at in one go under the lock */
#define CSC_PINS_MAX             (CSC_SLOT_AREAS * CSC_AREA_SLOTS)

enum {
    CSC_KS_EDGE = 1,       /* counted as a resident child of `parent` */
    CSC_KS_INFLIGHT = 2,   /* its binding is on its way to disk */
    CSC_KS_LOGGED = 4,     /* waits in the log queue */
    CSC_KS_FILE_EDGE = 16, /* counted as a child of `parent` that has a file copy */
    CSC_KS_OURS = 64,      /* found at open, with a record of this rank beside that of another */
    CSC_KS_ELSEWHERE = 32, /* another rank has a record of it: what is lost here is not deleted there */
    CSC_KS_RECORDED = 8 /* a record older than `sequence`, or a failed one, may be on disk: a delete has
                           to hide it */
};

/** What the owner knows of a key beyond the arena. */
typedef struct csc_key_state {
    uint32_t parent;                       /* key number, CSC_NUMBER_NONE when not known */
    uint32_t parent_generation;            /* of that number */
    uint32_t generation;                   /* of this number: changes at free */
    uint32_t children[CASCADE_TIER_COUNT]; /* by edges: resident, and with a file copy */
    uint64_t ticket;                       /* of its place in the log queue */
    uint32_t queue_next;                   /* log queue: number + 1 */
    uint32_t flags;
} csc_key_state;

enum {
    CSC_CS_DIRTY = 1,     /* in the dirty list */
    CSC_CS_HASHING = 2,   /* in the hash queue or with a worker */
    CSC_CS_WRITING = 4,   /* in the write queue or with the writer */
    CSC_CS_LOADING = 8,   /* coming from the file tier */
    CSC_CS_TRANSIT = 16,  /* refused by the policy: leaves as soon as it is clean */
    CSC_CS_REPLACES = 32, /* until it is written, what it was merged with is the copy that counts */
    CSC_CS_TRANSIT_QUEUED = 64, /* lies in the transit queue, whatever became of it */
    CSC_CS_SEALED = 128,        /* while a store is opened: its place is in a sealed segment */
    CSC_CS_UNSURE = 256,        /* the record written last may be torn: it is written again from dram */
    CSC_CS_WANTED = 512,        /* in the loader's queue */
    CSC_CS_GO_ON = 1024,        /* when it is read, more of its chain is brought */
    CSC_CS_TAKEN = 2048,        /* while a store is opened: a block that the dead owner knew */
    CSC_CS_FOREIGN = 4096,      /* the same: its place is in a segment of another rank */
    CSC_CS_DAMAGED = 8192 /* in dram, and counted; it is in use, and there is no entry to leave it */
};

/** What the owner knows of a content beyond the arena. */
typedef struct csc_content_state {
    uint64_t ticket;
    uint32_t dirty_next, dirty_previous; /* number + 1 */
    uint32_t queue_next;                 /* hash or write queue: number + 1 */
    uint32_t transit_next;               /* transit queue: number + 1 */
    uint32_t chain_next;                 /* what followed it in the latest match: number + 1; a hint */
    uint32_t used_s; /* since 1970: written to a file, read from one, or left dram: the latest known */
    uint16_t busy;
    uint16_t flags;
} csc_content_state;

/** A singly linked queue through `queue_next`. */
typedef struct csc_queue {
    uint32_t head, tail; /* number + 1 */
    uint32_t count;
} csc_queue;

typedef struct csc_retired {
    uint64_t epoch;
    uint32_t number;
} csc_retired;

/** A growing array of numbers or retired entries. */
typedef struct csc_numbers {
    uint32_t *items;
    size_t count, room;
} csc_numbers;
typedef struct csc_retirees {
    csc_retired *items;
    size_t count, room;
} csc_retirees;

/** Counters, bumped with relaxed order from anywhere. */
typedef struct csc_counters {
    _Atomic uint64_t hits[CASCADE_TIER_COUNT], misses[CASCADE_TIER_COUNT],
        promotions[CASCADE_TIER_COUNT], demotions[CASCADE_TIER_COUNT], evictions[CASCADE_TIER_COUNT],
        drops[CASCADE_TIER_COUNT], quarantined[CASCADE_TIER_COUNT];
    _Atomic uint64_t puts, puts_existed, conflicts, deletes, dedup_blocks, digests, lost, recovered,
        file_timeouts, read_ahead;
    _Atomic uint64_t compactions, compacted_bytes, aged;
    struct {
        _Atomic uint64_t count, total_ns, buckets[CASCADE_HISTOGRAM_BUCKETS];
    } latency[CASCADE_OP_COUNT];
} csc_counters;

typedef struct csc_set_aside {
    uint32_t area; /* of the client that may fill the pages of content `number`; 0: */
    uint32_t number;
    csc_extents extents; /* a transfer of the owner's may fill these, until `set_aside_until_ns` */
} csc_set_aside;

struct cascade_store {
    uint64_t magic;
    uint64_t fork_generation;  /* constant */
    csc_store_config config;   /* constant */
    struct csc_daemon *daemon; /* constant; NULL: this process owns the store (client.h) */
    csc_io *io;                /* constant */
    csc_keyring *keyring;      /* constant; NULL: files are not encrypted */
    csc_arena *arena;          /* constant */
    csc_index index;           /* constant; what it points to: see above */
    csc_slots slots;           /* constant */
    _Atomic uint32_t slots_high;
    csc_tier *file;                           /* constant; one writer: the writer thread */
    csc_touch touch;                          /* lock-free */
    _Atomic uint64_t matched_until_ns;        /* of a client: its latest match's leases hold so long */
    csc_touch client_touches[CSC_SLOT_AREAS]; /* by area; the lock */
    uint64_t files_skipped;                   /* constant: segment files that open could not read */
    uint64_t segments_found; /* constant: segments with a lower index are of earlier runs */
    csc_counters counters;
    _Atomic bool poisoned;
    cascade_store *registry_next; /* the registry's lock */

    pthread_mutex_t lock;
    pthread_cond_t hash_work, write_work, load_work, keeper_work, scrub_work, discover_work;
    pthread_cond_t progress; /* a digest, a durable block, free room, a finished load */

    csc_policy *policy;
    csc_policy *file_policy; /* of what has a file copy; NULL: there is no budget */
    csc_key_state *key_states;
    csc_content_state *content_states;
    size_t key_states_room, content_states_room;
    uint32_t keys_made, contents_made; /* entries ever used */
    csc_numbers keys_free, contents_free;
    csc_retirees keys_retired, contents_retired;
    uint64_t key_count, content_count, resident_count, file_count;
    uint64_t named_bytes;   /* over keys */
    uint64_t content_bytes; /* over contents */
    uint64_t resident_bytes, file_bytes, dirty_bytes, transit_bytes;
    uint32_t *pins;           /* scratch for one look at all slots there are */
    uint64_t *parents_wanted; /* filter of keys named as parents while absent (put.c) */
    uint32_t parents_wanted_count;

    csc_queue hash_queue, write_queue, transit_queue, log_queue;
    uint32_t dirty_head, dirty_tail; /* number + 1 */
    uint64_t ticket;                 /* last given */
    uint64_t log_inflight;           /* first ticket of the log entries being written, 0: none */
    struct csc_errand *errand;       /* waits for the writer, or is under way; NULL: none */
    uint32_t segment_leaving;        /* 1 + index of the segment that goes in a moment, 0: none */
    bool segment_taken;              /* a place in it changed hands */
    uint32_t replacing;              /* contents that replace a dead owner's record: no segment goes */
    uint64_t attempts;               /* rounds the writer began */
    uint64_t attempts_failed;        /* the last round that failed */
    int file_error;                  /* of the last failed round while degraded, else 0 */
    char file_error_text[256];
    uint32_t waiting_flushes;
    uint32_t hashing;              /* contents with a worker */
    uint64_t hash_taken;           /* contents that left the hash queue and the workers, ever */
    struct csc_write_round *round; /* the writer's */
    struct csc_compactor *compactor;
    bool stopping;
    bool closing;           /* a full file budget drops rather than keeps dirty; long calls end */
    uint32_t long_calls;    /* gcs and scrubs under way: a close waits for them */
    csc_place *places_then; /* while a store is opened: places that the dead owner had published */
    uint32_t places_then_count;
    uint32_t *load_ring;
    uint32_t load_head, load_tail;
    uint64_t ahead_left;      /* bytes that the match being noted may still have brought */
    csc_set_aside *set_aside; /* pages that somebody may still be filling for a dead owner */
    size_t set_aside_count, set_aside_room;
    uint64_t set_aside_until_ns;

    csc_deleted *deleted; /* records.c */
    uint32_t deleted_count, deleted_room;
    csc_remembered remembered;       /* copies.c */
    struct csc_discovery *discovery; /* the discovering thread's */
    bool look_asked;                 /* until it was done */
    uint64_t look_asked_ns;
    uint64_t looks_begun, looks_done;
    int look_code;                /* of the last one */
    _Atomic uint64_t look_due_ns; /* not before that */
    _Atomic bool look_wanted;     /* by a match; the keeper sees to it */
    uint64_t keeper_look;         /* that the keeper itself needs to make room; 0: none */

    pthread_t hash_threads[64], writer_thread, loader_thread, keeper_thread, scrub_thread,
        discover_thread;
    uint32_t threads_started; /* bits below */
    uint32_t hash_started;
};

/* ---- store.c --------------------------------------------------------------------------------- */

/** Opens a store as its owner. Takes `*io`, with which the configuration was resolved. */
int csc_store_own(csc_io **io, const csc_store_config *config, cascade_store **store);
/** The same on other system calls below the file layer (NULL: the real ones), for tests. */
int csc_store_open_with(const cascade_options *options, const csc_io_calls *calls,
                        cascade_store **store);

/** Notes a handle for forks of this process, and forgets it, its arena unmapped. */
void csc_store_register(cascade_store *store);
/** Attaches a client's arena and notes the handle, as one. Errors: as csc_arena_attach. */
int csc_store_register_client(cascade_store *store, int arena_fd);
void csc_store_unregister(cascade_store *store, bool keep_arena);

/** Checks a handle at the door of every public call; clears the thread's error text. */
int csc_store_enter(const cascade_store *store);
#define CSC_ENTER(store)                                                                                \
    do {                                                                                                \
        int enter_code_ = csc_store_enter(store);                                                       \
        if (enter_code_)                                                                                \
            return enter_code_;                                                                         \
    } while (0)

/** As cascade_store_flush, until that time. CASCADE_ETIMEDOUT: the text says how much is left. */
int csc_store_flush_until(cascade_store *store, uint64_t deadline_ns);

/** Around a call that a close ends and waits for; between the two the handle stays. CASCADE_EAGAIN: the
 * store is being closed. */
int csc_long_call_begin(cascade_store *store);
void csc_long_call_end(cascade_store *store);

/** Waits on `progress` until `deadline_ns` (csc_clock_ns); false when it has passed. Lock held. */
bool csc_store_wait(cascade_store *store, uint64_t deadline_ns);
void csc_latency(cascade_store *store, unsigned op, uint64_t since_ns);
static inline void csc_count(_Atomic uint64_t *counter, uint64_t by)
{
    atomic_fetch_add_explicit(counter, by, memory_order_relaxed);
}

/* ---- entries.c, reuse.c: the tables. Lock held ------------------------------------------------- */

int csc_entries_init(cascade_store *store);
void csc_entries_destroy(cascade_store *store);
/** A content entry with its state FILLING. Errors: CASCADE_ENOSPC, CASCADE_ENOMEM. */
int csc_content_make(cascade_store *store, const csc_content *content, uint32_t *number);
/** FILLING to free: the put did not come to pass. Frees its pages. */
void csc_content_abandon(cascade_store *store, uint32_t number);
/** Binds a key that is not bound. Errors: CASCADE_ENOSPC, CASCADE_ENOMEM. */
int csc_key_bind(cascade_store *store, const csc_binding *binding, uint32_t content, uint32_t segment,
                 uint32_t *number);
/** Has a bound key name another content, which is whole: readers find it all the while. What it named
 * goes with its last key. Takes no memory. */
void csc_key_rebind(cascade_store *store, uint32_t number, const csc_binding *binding, uint32_t content);
/** Unbinds; the content goes with its last key. `tombstone`: keep the entry as a pending delete. */
void csc_key_unbind(cascade_store *store, uint32_t number, uint64_t tombstone_sequence);
/** A DELETED entry whose tombstone is durable becomes free. */
void csc_key_retire(cascade_store *store, uint32_t number);
/** Moves all keys of `from` to `to` and drops `from`. */
void csc_content_merge(cascade_store *store, uint32_t from, uint32_t to);
/** Unbinds every key of a content; it is gone after. `tombstones`: also for the next open, which would
 * find their records again, but for those that other ranks have records of, who may have the block. */
void csc_content_lose(cascade_store *store, uint32_t number, bool tombstones);
/** The digest has become known: makes the content findable by it. */
void csc_content_set_digest(cascade_store *store, uint32_t number, const uint8_t digest[32]);
/** Another live content with the same tenant, digest and lengths, or CSC_NUMBER_NONE. */
uint32_t csc_content_equal(cascade_store *store, uint32_t number);
/** Residency changes, with edges, policy and counts. `tail`: last of its request. */
void csc_content_now_resident(cascade_store *store, uint32_t number, bool refused, bool tail);
/** Takes a clean, unpinned, idle content out of dram; false if a pin came meanwhile. */
bool csc_content_evict(cascade_store *store, uint32_t number);
/** Takes a shed one, unpinned and idle, out of dram and so out of the store, counted; false if a pin
 * came meanwhile. */
bool csc_content_discard(cascade_store *store, uint32_t number);
/** A content without keys is no block any more; its pages go when no reader looks at them. */
void csc_content_drop(cascade_store *store, uint32_t number);
/** An entry that no list holds: reused when no reader can stand on it. */
void csc_retire(cascade_store *store, csc_retirees *retirees, uint32_t number);
/** Frees what no guard and no pin holds any more. */
void csc_entries_reclaim(cascade_store *store);
uint64_t csc_next_sequence(cascade_store *store);
static inline csc_key_entry *csc_key_at(cascade_store *store, uint32_t number)
{
    return &store->index.keys[number];
}
static inline csc_content_entry *csc_content_at(cascade_store *store, uint32_t number)
{
    return &store->index.contents[number];
}
/** The entry that is bound to a key, or CSC_NUMBER_NONE. Lock held. */
static inline uint32_t csc_key_find(const cascade_store *store, const cascade_key *key)
{
    bool lost = false;

    return csc_index_find(&store->index, key, csc_index_key_hash(&store->index, key), &lost);
}
static inline uint64_t csc_content_bytes(const csc_content_entry *entry)
{
    return entry->content.k_bytes + entry->content.v_bytes;
}
static inline uint32_t csc_content_generation(const csc_content_entry *entry)
{
    return (uint32_t)(atomic_load_explicit(&entry->state, memory_order_relaxed) >>
                      CSC_CONTENT_GENERATION_SHIFT);
}
static inline bool csc_content_has(const csc_content_entry *entry, uint32_t bits)
{
    return (atomic_load_explicit(&entry->state, memory_order_relaxed) & bits) == bits;
}
/** Whether a record of the key's binding is, or will be, in a segment: its delete needs a tombstone. */
static inline bool csc_key_is_on_disk(cascade_store *store, uint32_t number)
{
    return csc_key_at(store, number)->segment ||
           (store->key_states[number].flags & (CSC_KS_INFLIGHT | CSC_KS_RECORDED));
}
static inline bool csc_place_is_set(const csc_place *place)
{
    static const csc_place nowhere;

    return __builtin_memcmp(place, &nowhere, sizeof nowhere) != 0;
}
/** Whether dram holds it, as far as anyone knows as it was put: another copy can be written from there.
 * One that is damaged there has a file copy all the while, and goes with that. */
static inline bool csc_content_has_right_bytes(const cascade_store *store, uint32_t number)
{
    return csc_content_has(&store->index.contents[number], CSC_CONTENT_LIVE | CSC_CONTENT_RESIDENT) &&
           !(store->content_states[number].flags & CSC_CS_DAMAGED);
}
/** Whether dram alone holds it since the file budget took its file copy. */
static inline bool csc_content_is_shed(const cascade_store *store, uint32_t number)
{
    const csc_content_entry *entry = &store->index.contents[number];

    return csc_content_has(entry, CSC_CONTENT_LIVE | CSC_CONTENT_RESIDENT) &&
           !csc_place_is_set(&entry->file) && !(store->content_states[number].flags & CSC_CS_DIRTY);
}
/** Notes that a content was used now, for the age limit. */
static inline void csc_content_used(cascade_store *store, uint32_t number)
{
    store->content_states[number].used_s = (uint32_t)(csc_wall_ns() / 1000000000);
}
/** Sets or clears the file place, with counts, edges and policy; the tier hears of it. */
void csc_content_set_file(cascade_store *store, uint32_t number, const csc_place *place);
/** When a store is opened, for each content with a place: what csc_content_set_file could not do yet. */
void csc_content_found_in_file(cascade_store *store, uint32_t number);
/** The file copy of `from` becomes that of `to`, which has none. */
void csc_content_take_file(cascade_store *store, uint32_t from, uint32_t to);
/** Tells the policies whether several keys name it. */
void csc_content_note_shared(cascade_store *store, uint32_t number);

/* ---- queues.c. Lock held -------------------------------------------------------------------- */

void csc_work_push(cascade_store *store, csc_queue *queue, uint32_t number);
uint32_t csc_work_pop(cascade_store *store, csc_queue *queue);
void csc_transit_push(cascade_store *store, uint32_t number);
uint32_t csc_transit_pop(cascade_store *store);
void csc_log_push(cascade_store *store, uint32_t key);
uint32_t csc_log_pop(cascade_store *store);
/** Back to its place in the queue, near the head, with the ticket it had. */
void csc_log_unpop(cascade_store *store, uint32_t key);
void csc_dirty_remove(cascade_store *store, uint32_t number);
/** A live content is dirty from here on, and on its way: to the hash queue, or to the writer if its
 * digest is known. */
void csc_content_send_down(cascade_store *store, uint32_t number);
/** A dirty content that a flushed one, whose record may be torn, was merged into: until it is written no
 * segment goes, for that record may be the only one. */
void csc_content_replaces(cascade_store *store, uint32_t number);
/** The file copy is damaged, the one in dram is not: that one is written anew, with binds that are later
 * than those of the damaged one, so that an open finds the keys and reads this copy. */
void csc_content_write_again(cascade_store *store, uint32_t number);

/* ---- room.c ----------------------------------------------------------------------------------- */

/** What a caller that wants pages is. */
typedef struct csc_room_request {
    uint64_t bytes;
    uint32_t item; /* content number of a ghost that comes back, or CSC_NUMBER_NONE */
    bool tail;
    bool forced;   /* a view: not refused */
    bool may_wait; /* up to put_wait_ms */
    bool ahead; /* nobody asked yet: if refused, only passes through; never takes a leased block's place
                 */
    bool hurry; /* its time is over */
    uint64_t look; /* the one after which a shed block may make way, 0: none was asked for */
    bool refused;  /* result: the policy would rather keep what is there */
} csc_room_request;

/** Takes pages, evicting as need be. No lock held. A refused request that may not wait gets no pages:
 * CASCADE_ENOSPC with `refused` set. Errors: CASCADE_ENOSPC, CASCADE_ETIMEDOUT. */
int csc_room_take(cascade_store *store, csc_room_request *request, csc_extents *extents);
/** Evicts down to the low watermark if above the high one. Lock held. */
void csc_room_keep(cascade_store *store);

/* ---- circle.c. Lock held ------------------------------------------------------------------------ */

/** Notes a key that is absent and may be named as a parent: putting it could close a circle. */
void csc_want_parent(cascade_store *store, const cascade_key *key);
/** Whether a put may name its parent; notes that one if it is absent. Errors: CASCADE_EINVAL. */
int csc_circle_check(cascade_store *store, const cascade_put *put);

/* ---- get.c, info.c: names and pins
 * -------------------------------------------------------------------- */

/** How a reader names a block: by key, or (key NULL) by tenant and id. */
typedef struct csc_name {
    const cascade_key *key;
    uint64_t tenant;
    const cascade_id *id;
} csc_name;

/** A block found, and pinned if it is resident. */
typedef struct csc_held {
    csc_slot *slot; /* a pin, NULL when not resident */
    uint32_t content;
    uint64_t state;
} csc_held;

/** Under a guard: the content that a name means now, CSC_NUMBER_NONE: none. */
uint32_t csc_look_up(cascade_store *store, const csc_name *name, uint64_t *state, bool *lost);
/** Looks a block up without a lock and pins it where it is resident. Returns 0 (release `held->slot` if
 * it is set), CASCADE_MISS, CASCADE_ENOSLOT, CASCADE_EAGAIN. */
int csc_hold(cascade_store *store, const csc_name *name, csc_held *held);

int csc_get(cascade_store *store, const csc_name *name, const cascade_block *into);
/** As cascade_block_view, and says whether a miss is one for want of time. */
int csc_view(cascade_store *store, const cascade_key *key, cascade_view **result, bool *timed_out);
/** Without a lock: not what only the owner's tables say, nor the parent. */
int csc_info(cascade_store *store, const csc_name *name, cascade_info *info);
/** As cascade_block_info, but of what is known now. */
int csc_block_facts(cascade_store *store, const cascade_key *key, cascade_info *info);

/** Checks pieces and adds them up. Errors: CASCADE_EINVAL. */
int csc_pieces_sum(const cascade_piece *pieces, size_t count, uint64_t *bytes);

/* ---- ahead.c: what comes next -------------------------------------------------------------------- */

/** Passes the readers' notes to the policy and to the chains. Lock held. */
void csc_touches_pass_on(cascade_store *store);
/** A content had to be asked of the file tier: those after it will be. Lock held. */
void csc_ahead_from(cascade_store *store, uint32_t content);
void *csc_loader_main(void *store);

/* ---- load.c: from the file tier ---------------------------------------------------------------- */

#define CSC_LOAD_BATCH 64u

/** A read of a content that was not resident when it was looked up. */
typedef struct csc_load {
    uint32_t content;
    uint64_t state;              /* as it was then: tells whether it is still the same content */
    bool forced;                 /* must come to dram, whatever the policy says */
    bool no_wait;                /* and forced: fails where there is no room at once */
    bool whole;                  /* worth bringing to dram */
    uint64_t offset;             /* of the bytes to copy out */
    uint64_t k_bytes;            /* whole: what the caller takes for K; checked */
    const cascade_piece *pieces; /* where to; may be none */
    size_t piece_count;
    csc_slot **pin; /* takes a pin once it is in dram; NULL: none wanted */
    bool in_batch;  /* does not wait for another that loads it */
    bool ahead;     /* of use: into dram or not at all */
    /* results */
    int status;
    bool timed_out; /* with CASCADE_MISS: the block may be there, but the disk does not answer in time */
} csc_load;

/** Returns 0, CASCADE_EAGAIN (it changed meanwhile: look it up again), CASCADE_MISS (damaged or gone,
 * now quarantined; or, with `timed_out`, out of time), CASCADE_ENOSPC (no room, and forced or ahead),
 * CASCADE_EIO. */
int csc_load_from_file(cascade_store *store, csc_load *load);
/** At most CSC_LOAD_BATCH, read at the same time; each gets its `status` as above. */
void csc_load_many(cascade_store *store, csc_load *loads, size_t count);

/* ---- threads ---------------------------------------------------------------------------------- */

void *csc_hasher_main(void *store);
/** What the writer works with, made before its thread so that a store that opened can write. */
int csc_writer_make(cascade_store *store);
void csc_writer_destroy(cascade_store *store);
void *csc_writer_main(void *store);
/** What a segment records of a key. */
csc_binding csc_binding_of(const csc_key_entry *entry);

/* ---- compact.c: emptying segments. The writer thread only, no lock held ------------------------- */

/** All segments of this rank, in memory that the caller frees; NULL, and 0: CASCADE_ENOMEM. */
csc_segment_info *csc_segments(cascade_store *store, size_t *count);
/** Bytes of a segment that are of no use to anybody. */
uint64_t csc_segment_dead(const csc_segment_info *info);

int csc_compactor_make(cascade_store *store);
void csc_compactor_destroy(cascade_store *store);
/** Which segments are worthy of being emptied. The first three: sealed or abandoned ones. */
typedef enum csc_compact_which {
    CSC_COMPACT_WORTHY,   /* abandoned, of a key that is not used any more, or 15 % of it dead */
    CSC_COMPACT_SOMEWHAT, /* the same with 5 % */
    CSC_COMPACT_WHOLE,    /* however much of it lives */
    CSC_COMPACT_ANY       /* all that nobody here appends to */
} csc_compact_which;
bool csc_compact_is_worthy(const cascade_store *store, csc_compact_which which,
                           const csc_segment_info *info);
/** Whether so much of the files is dead, or abandoned or encrypted with an old key, that something is to
 * be done. */
bool csc_compact_is_due(cascade_store *store);
/** The worthy segment with the largest part of it dead; false: there is none. */
bool csc_compact_choose(cascade_store *store, csc_compact_which which, csc_segment_info *found);
/** Moves what lives out of a segment and removes it, now. Errors: as of a round; the segment is then
 * still there, and whole. */
int csc_compact_segment(cascade_store *store, uint32_t segment);
/** The same, a batch at a time, so that the writer can do a round in between. `*done`: with this one the
 * segment went. */
int csc_compact_part(cascade_store *store, uint32_t segment, bool *done);
/** The content of the parent of a content's first key, or CSC_NUMBER_NONE. Any thread, lock held. */
uint32_t csc_compact_parent(cascade_store *store, uint32_t number);
/** Segments that could not be emptied are tried again. */
void csc_compact_retry(cascade_store *store);
/** Does a small part of what there is to do in the background, at its rate. `*wake_ns`: when there is
 * more to do; UINT64_MAX: when something has changed. */
void csc_compact_step(cascade_store *store, uint64_t *wake_ns);

/* ---- file_room.c: the file budget and the age limit. The writer thread only, no lock held ---- */

/** Makes room in the file budget for records as csc_segment_bytes_after takes them: drops what is worth
 * least, empties segments. CASCADE_ENOSPC, or why a segment cannot be emptied. */
int csc_file_room_make(cascade_store *store, uint64_t bytes, size_t records, size_t entries);
/** Ends the open segment, so that it can be emptied, if more than that part of it is dead; without its
 * index if there is no room for that. Returns as a sync. */
int csc_file_room_end_open(cascade_store *store, unsigned part);
/** Drops blocks that were not used for file_age_s, and counts them. `dry_run`: only counts. Any thread.
 */
void csc_file_age(cascade_store *store, bool dry_run, uint64_t *blocks, uint64_t *bytes);
/** Emptied files that are kept to be used again. */
uint32_t csc_spares_max(const cascade_store *store);

/** Bytes that records in use may take within the budget, before blocks are dropped. */
uint64_t csc_file_room_for_live(const cascade_store *store);

/* ---- errand.c: what a call has the writer do --------------------------------------------------- */

typedef struct csc_errand {
    /* Does a part of it. The writer thread, no lock held. `*done`: that was the last, or it failed. */
    int (*part)(cascade_store *store, struct csc_errand *errand, bool *done);
    /* Called now and then by the thread that waits; may be NULL. */
    void (*look)(cascade_store *store, struct csc_errand *errand);
    /* under the lock */
    bool is_done;
    int code;
    char text[256];
} csc_errand;

/** Has an errand done and waits; others' first. What `part` returned, or CASCADE_EAGAIN: the store is
 * being closed. During a long call, no lock held. */
int csc_errand_run(cascade_store *store, csc_errand *errand);
/** Does a part of what somebody asked for, if anybody did, or ends it when the store is being closed.
 * The writer thread only, no lock held. */
void csc_errand_serve(cascade_store *store);

/* ---- scrub.c ---------------------------------------------------------------------------------- */

/** Scrubs once per interval. */
void *csc_scrub_main(void *store);

/* ---- recover.c -------------------------------------------------------------------------------- */

/** Rebuilds the tables of an arena that was taken over. Errors: CASCADE_ENOMEM, CASCADE_ENOSPC. */
int csc_recover_arena(cascade_store *store);
/** Opens the file tier and enters what its segments hold. */
int csc_recover_segments(cascade_store *store);
/** Frees pages that were set aside because a dead owner's transfers, or a client, might still write to
 * them, once they cannot. Lock held. */
void csc_recover_end_grace(cascade_store *store);
/** The client of that area writes to none of them any more. Lock held. */
void csc_recover_end_area(cascade_store *store, uint32_t area);

#endif
