/* SPDX-License-Identifier: MIT */
/*
 * Cascade: a tiered, content-addressed store for the KV blocks of LLM engines.
 *
 * A store is a directory (settings file and segment files) plus, while a process has it open, an
 * arena in shared memory. Blocks are named by 32-byte keys; equal contents are kept once and named
 * by their block id, the first 32 hex digits of SHA-256(K || V).
 *
 * What survives what:
 *   acknowledged (a put or delete has returned 0)     survives the death of any process;
 *   flushed (cascade_store_flush or _close returned 0,
 *   or CASCADE_PUT_DURABLE was given)                 survives power loss, until the file budget, if
 *                                                     there is one, drops it.
 *
 * Threads: every call may be made from any thread, several at once, unless its comment says
 * otherwise. One handle per store and process. After fork() the child's copy of a handle answers
 * CASCADE_EFORKED to everything but cascade_store_close, which then unmaps the arena; what else the
 * handle had in memory stays until the child ends, for the parent may have been changing it.
 *
 * Errors: see error.h. cascade_last_error() gives the calling thread's detail text. Every call can
 * return CASCADE_EINVAL (bad argument), CASCADE_EFORKED and CASCADE_EPOISONED; the comments name the
 * others. On failure outputs are left untouched, unless stated.
 */
#ifndef CASCADE_CASCADE_H
#define CASCADE_CASCADE_H

#include <cascade/error.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define CASCADE_API __attribute__((visibility("default")))
#else
#define CASCADE_API
#endif

#define CASCADE_VERSION_MAJOR 0
#define CASCADE_VERSION_MINOR 1
#define CASCADE_VERSION_PATCH 0

#define CASCADE_KEY_BYTES 32u
#define CASCADE_ID_BYTES  16u
/** Bytes of a block id as text: 32 hex digits and the terminating zero. */
#define CASCADE_ID_TEXT_BYTES 33u
/** The largest block (K and V together): 1 TiB. */
#define CASCADE_BLOCK_BYTES_MAX (UINT64_C(1) << 40)

/** An open store. Opaque. */
typedef struct cascade_store cascade_store;

/** The name of a block: 32 opaque bytes; see cascade_key_fold. */
typedef struct cascade_key {
    uint8_t bytes[CASCADE_KEY_BYTES];
} cascade_key;

/** The address of a content: the first 16 bytes of SHA-256(K || V). */
typedef struct cascade_id {
    uint8_t bytes[CASCADE_ID_BYTES];
} cascade_id;

/** A run of bytes. `data` may be NULL only if `bytes` is 0. Puts read it, gets write it. */
typedef struct cascade_piece {
    void *data;
    size_t bytes;
} cascade_piece;

/** The two halves of a block as lists of pieces, in order. V may be empty (`v_count` 0). */
typedef struct cascade_block {
    const cascade_piece *k;
    size_t k_count;
    const cascade_piece *v;
    size_t v_count;
} cascade_block;

/* ---- text -------------------------------------------------------------------------------- */

/** The name of a code, such as "CASCADE_EINVAL"; never NULL, static storage. */
CASCADE_API const char *cascade_error_name(int code);

/** One sentence about a code; never NULL, static storage. */
CASCADE_API const char *cascade_error_text(int code);

/**
 * The detail of the calling thread's last failure ("" when there was none). Valid until the
 * thread's next Cascade call. Never NULL.
 */
CASCADE_API const char *cascade_last_error(void);

/** "0.1.0". */
CASCADE_API const char *cascade_version(void);

/**
 * Parses a size as people write it: digits, optional fraction, optional suffix B, K/KB/KiB, M.., G..,
 * T.., P.. (all powers of 1024, case ignored): "4GiB", "512M", "1.5g".
 * Errors: CASCADE_EINVAL for anything else or a value over 2^63-1; `*bytes` untouched.
 */
CASCADE_API int cascade_size_parse(const char *text, uint64_t *bytes);

/** Writes 32 lower-case hex digits and a zero to `text`. */
CASCADE_API void cascade_id_format(const cascade_id *id, char text[CASCADE_ID_TEXT_BYTES]);

/** Reads exactly 32 hex digits (either case). Errors: CASCADE_EINVAL. */
CASCADE_API int cascade_id_parse(const char *text, cascade_id *id);

/** Writes 64 lower-case hex digits and a zero to `text`. */
CASCADE_API void cascade_key_format(const cascade_key *key, char text[2 * CASCADE_KEY_BYTES + 1]);

/** Reads exactly 64 hex digits (either case). Errors: CASCADE_EINVAL. */
CASCADE_API int cascade_key_parse(const char *text, cascade_key *key);

/* ---- names ------------------------------------------------------------------------------- */

/**
 * What must agree for two engines to share KV bytes. Strings are UTF-8 of at most 4,096 bytes, NULL
 * means "". Set `struct_bytes` to sizeof(cascade_namespace); zero the rest you do not use. The byte
 * encoding is specified in docs/formats.md, "Namespace".
 */
typedef struct cascade_namespace {
    size_t struct_bytes;
    const char *model;       /* model name */
    const char *revision;    /* weights revision */
    const char *dtype;       /* "bfloat16", "fp8_e4m3", ...: dtype or quantisation of the KV */
    const char *lora;        /* adapter name and revision, "" for none */
    const char *numerics;    /* numerics class: kernels whose low bits agree */
    const char *tenant;      /* dedup and get by id never cross tenants */
    uint32_t layout_version; /* of the bytes inside a block */
    uint32_t block_tokens;   /* tokens per block */
    uint32_t layer_first;    /* layer range [first, first + count) */
    uint32_t layer_count;
    uint32_t kv_head_first; /* KV-head range, not the TP rank: MLA replicas meet */
    uint32_t kv_head_count;
} cascade_namespace;

/**
 * Folds a namespace into an engine's key: SHA-256 over the namespace's canonical encoding, then the
 * engine's bytes. `raw` is 1 to 4,096 bytes. Pure; any thread. Errors: CASCADE_EINVAL.
 */
CASCADE_API int cascade_key_fold(const cascade_namespace *ns, const void *raw, size_t raw_bytes,
                                 cascade_key *key);

/** The canonical encoding itself. `*bytes` in: room at `out` (may be NULL with 0); out: bytes needed.
 * Errors: CASCADE_EINVAL; CASCADE_ESIZE when `out` is too small (`*bytes` is then set). */
CASCADE_API int cascade_namespace_encode(const cascade_namespace *ns, void *out, size_t *bytes);

/** The tenant number that puts and gets by id take: 0 for "" or NULL, else the first 8 bytes of
 * SHA-256 over "cascade tenant\0" and the name, little-endian, 0 replaced by 1. */
CASCADE_API uint64_t cascade_tenant(const char *name);

/** The block id of a content without storing it. Pure; any thread. Errors: CASCADE_EINVAL;
 * CASCADE_ENOMEM, with over 256 pieces only. */
CASCADE_API int cascade_block_id(const cascade_block *block, cascade_id *id);

/** The block ids of many contents: what cascade_block_id gives for each, several times as fast, because
 * the digests of `count` blocks are computed side by side. Pure; any thread. Errors: CASCADE_EINVAL,
 * CASCADE_ENOMEM (no id is written). */
CASCADE_API int cascade_digest_many(const cascade_block *blocks, size_t count, cascade_id *ids);

/* ---- opening and closing ----------------------------------------------------------------- */

enum {
    CASCADE_OPEN_CREATE = 1u << 0,     /* make the directory and the settings file if missing */
    CASCADE_OPEN_EXCLUSIVE = 1u << 1,  /* with CREATE: fail with CASCADE_EEXIST if there is a store */
    CASCADE_OPEN_NO_PREFAULT = 1u << 2 /* do not touch the arena's pages ahead of use */
};

/**
 * How to open a store. Set `struct_bytes` to sizeof(cascade_options); zero means default. A field set
 * here wins over the environment variable, which wins over the settings file, which wins over the
 * default. Fields marked (s) are written to the settings file at creation.
 */
typedef struct cascade_options {
    size_t struct_bytes;
    const char *directory;       /* CASCADE_DIR: the store's directory; required */
    uint64_t dram_bytes;         /* (s) CASCADE_DRAM: budget of the dram tier; default 1 GiB */
    uint64_t file_budget_bytes;  /* (s) CASCADE_FILE_BUDGET: default 0 = unlimited */
    uint64_t page_bytes;         /* (s) fixed at creation: power of two, 4 KiB to 2 MiB; 64 KiB */
    uint64_t segment_bytes;      /* (s) CASCADE_SEGMENT: seal at this size; default the smaller of
                                    4 GiB and 1/32 of the file budget */
    const char *policy;          /* (s) CASCADE_POLICY: "hazard" (default), "lru", "published" */
    const char *shm_directory;   /* CASCADE_SHM_DIR: default "/dev/shm" */
    uint32_t rank;               /* CASCADE_RANK: 0 to 999; one owner per directory, rank and node */
    uint32_t hash_threads;       /* CASCADE_HASH_THREADS: default 1 */
    uint32_t lease_ms;           /* CASCADE_LEASE_MS: how long a match holds blocks; default 10,000 */
    uint32_t watermark_low_pct;  /* CASCADE_WATERMARK_LOW: evict down to; default 98 */
    uint32_t watermark_high_pct; /* CASCADE_WATERMARK_HIGH: start evicting at; default 99 */
    uint32_t put_wait_ms;        /* CASCADE_PUT_WAIT_MS: longest wait of a put for room; 30,000 */
    uint32_t open_flags;         /* CASCADE_OPEN_* */
    uint32_t io_deadline_ms;     /* CASCADE_IO_DEADLINE_MS: longest wait for a file; 10,000 */
    uint32_t refresh_ms; /* CASCADE_REFRESH_MS: how often a miss looks for what other ranks wrote;
                            1,000 */
    uint64_t file_age_s; /* CASCADE_FILE_AGE: seconds after which a block that is in files only
                            and was not used goes; default 0 = never */
    uint64_t background_rate_bytes; /* CASCADE_BACKGROUND_RATE: bytes a second that compaction and
                                       background scrubbing move; default 256 MiB */
    uint64_t scrub_interval_s;      /* CASCADE_SCRUB_INTERVAL: seconds between the starts of background
                                       scrubs; default 0 = none */
    const char *key_file;           /* CASCADE_KEY_FILE: encrypt files with the first key in this file
                                       (docs/operations.md, "Encryption") */
    const char *key_command; /* CASCADE_KEY_COMMAND: a program that prints what a key file holds; words
                                between spaces, no shell. Not beside key_file */
} cascade_options;

/**
 * Opens (with CASCADE_OPEN_CREATE: makes) the store in `options->directory`, becomes its only owner
 * on this node for this rank, takes over the arena that a killed owner left, reads the segments'
 * indexes, and starts the background threads.
 * Where another process of this user serves the store (cascade_store_serve), the handle is a client of
 * that one instead: it reads what is in dram by itself and asks the daemon for the rest, by whose
 * options it goes. Every call may then also return CASCADE_EAGAIN: the daemon does not answer; it is
 * looked for again by the next call. Returns 0 and a handle that cascade_store_close frees; or
 * CASCADE_EBUSY (the detail text names the owner's pid), CASCADE_ENOSTORE, CASCADE_EEXIST,
 * CASCADE_EACCES, CASCADE_EFORMAT (foreign or newer settings file or arena), CASCADE_ECORRUPT (settings
 * file damaged), CASCADE_ENOSPC (not even the index fits in shared memory), CASCADE_EIO, CASCADE_ENOMEM.
 * `*store` is written only on success.
 */
CASCADE_API int cascade_store_open(const cascade_options *options, cascade_store **store);

/**
 * Flushes, writes what only dram holds as far as the file budget goes, seals the open segment, removes
 * the arena and frees the handle; sets `*store` to NULL.
 * Of a client: ends its connection, and what it holds goes; what was acknowledged is the daemon's to
 * keep. Returns 0.
 * NULL inside is accepted. No other call may come after this one begins, or be running, but for
 * cascade_store_gc, _verify and _scrub that have begun in other threads: they end early, with
 * CASCADE_EAGAIN, and this call waits for them (so it is not to be made from their `progress`). Views
 * must have been released.
 * On CASCADE_ENOSPC or CASCADE_EIO something could not be flushed: the handle is freed all the same,
 * the arena stays in shared memory (the detail text says where) and the next open takes it over.
 */
CASCADE_API int cascade_store_close(cascade_store **store);

/** Returns once all that was acknowledged before the call is on stable storage, or was and the file
 * budget has dropped it since: dram may hold it still, but it is not written again.
 * Errors: CASCADE_ENOSPC, CASCADE_EIO; nothing already stored is harmed. */
CASCADE_API int cascade_store_flush(cascade_store *store);

/** How to serve. Set `struct_bytes`. */
typedef struct cascade_serve_options {
    size_t struct_bytes;
    int stop_fd;                /* ends it when readable; -1: none */
    uint32_t idle_ms, drain_ms; /* ends after so long without a client; longest end; 0: no limit */
} cascade_serve_options;

/** Lets other processes of this user use the store that this handle owns, until told to end; then
 * answers what is under way, and flushes. Blocks; no cascade_store_close meanwhile. Errors: as a flush,
 * CASCADE_EBUSY (another process serves it),
 * CASCADE_EACCES (the socket's folder), CASCADE_ENOMEM; CASCADE_ETIMEDOUT: `drain_ms` passed, the text
 * has the bytes that are left, safe in dram. */
CASCADE_API int cascade_store_serve(cascade_store *store, const cascade_serve_options *options);

/* ---- blocks by key ----------------------------------------------------------------------- */

enum {
    CASCADE_PUT_SYNC = 1u << 0,    /* return with the block id: digest computed, equals merged */
    CASCADE_PUT_DURABLE = 1u << 1, /* implies SYNC; return after the block is on stable storage */
    CASCADE_PUT_VERIFY = 1u << 2   /* if the key is bound: compare bytes, CASCADE_ECONFLICT if other */
};

/** One put. */
typedef struct cascade_put {
    cascade_key key;
    cascade_key parent; /* read only if has_parent */
    bool has_parent;
    uint64_t tenant;     /* cascade_tenant(); 0 is the default tenant */
    cascade_block block; /* borrowed for the call */
    /* results */
    int status;   /* this put's own return code */
    bool existed; /* the key was bound already; nothing was copied */
    bool has_id;  /* `id` is valid (always, with CASCADE_PUT_SYNC) */
    cascade_id id;
} cascade_put;

/**
 * Binds `put->key` to the bytes of `put->block` and copies them into dram, in one pass. The block is
 * readable by all at return; digest, dedup and the file copy follow behind. A bound key: nothing is
 * copied or hashed, `existed` is set, returns 0 (if lengths differ the conflict is counted and the
 * first content stays). Blocks for at most `put_wait_ms` when all of dram is waiting for the disk,
 * or for a look at what others wrote before it goes.
 * Errors: CASCADE_EINVAL (also for a key that is its own parent or ancestor), CASCADE_ETOOBIG,
 * CASCADE_ENOSPC (nothing stored is harmed), CASCADE_ECONFLICT (CASCADE_PUT_VERIFY only),
 * CASCADE_ETIMEDOUT, CASCADE_ENOSLOT, CASCADE_EAGAIN (also: the key is bound to what a killed owner
 * wrote, which may be torn and cannot be read now; with DURABLE also: to a block of other lengths that
 * another node is still writing); with SYNC or DURABLE also CASCADE_EIO: the put is then acknowledged in
 * memory but not durable.
 */
CASCADE_API int cascade_block_put(cascade_store *store, cascade_put *put, uint32_t flags);

/** Puts `count` blocks, as one request for the eviction policy (the last is its tail). Each `status` is
 * set; returns 0 if all are 0, else the first failure. */
CASCADE_API int cascade_block_put_many(cascade_store *store, cascade_put *puts, size_t count,
                                       uint32_t flags);

/** One get: `into`'s pieces must add up to exactly the block's K and V bytes. */
typedef struct cascade_get {
    cascade_key key;
    cascade_block into; /* borrowed for the call; its memory is written */
    int status;
} cascade_get;

/**
 * Copies a block's K and V into the caller's pieces. From the file tier every byte is checked first;
 * a damaged block is quarantined, counted and a miss. Ends one lease on the block.
 * Returns 0, CASCADE_MISS, CASCADE_ESIZE (nothing written), CASCADE_ENOSLOT, CASCADE_EIO,
 * CASCADE_EAGAIN. After any code but 0 the caller's memory may hold part of the block.
 */
CASCADE_API int cascade_block_get(cascade_store *store, const cascade_key *key,
                                  const cascade_block *into);

/** Gets `count` blocks. Each `status` is set; returns 0 if all are 0, else the first that is not. */
CASCADE_API int cascade_block_get_many(cascade_store *store, cascade_get *gets, size_t count);

/**
 * Copies bytes [offset, offset + bytes) of K || V to `into`. Reads from the file tier at most the
 * checksum chunks (256 KiB each) that the range touches. Ends no lease.
 * Returns as cascade_block_get; CASCADE_ESIZE if the range leaves the block.
 */
CASCADE_API int cascade_block_get_range(cascade_store *store, const cascade_key *key, uint64_t offset,
                                        size_t bytes, void *into);

/**
 * A block pinned in dram, readable in place. The pieces are read-only and stay valid, unchanged,
 * until cascade_view_release; no time-out. Any thread may release.
 */
typedef struct cascade_view {
    const cascade_piece *k;
    size_t k_count;
    const cascade_piece *v;
    size_t v_count;
    uint64_t k_bytes;
    uint64_t v_bytes;
} cascade_view;

/**
 * Pins a block and hands out its pieces without a copy; brings it into dram first if need be.
 * `*view` is freed by cascade_view_release. Returns as cascade_block_get, and CASCADE_ENOSPC when
 * dram cannot make room for a block that is only in the file tier.
 */
CASCADE_API int cascade_block_view(cascade_store *store, const cascade_key *key, cascade_view **view);

/** Unpins; sets `*view` to NULL; NULL inside is accepted. */
CASCADE_API void cascade_view_release(cascade_store *store, cascade_view **view);

/** Facts about a block. */
typedef struct cascade_info {
    uint64_t k_bytes;
    uint64_t v_bytes;
    uint64_t tenant;
    uint64_t references; /* keys bound to the content */
    cascade_id id;       /* valid if has_id */
    bool has_id;         /* the digest has been computed */
    bool in_dram;
    bool in_file; /* on stable storage */
    bool has_parent;
    cascade_key parent;
} cascade_info;

/** Looks a key up. Touches nothing. Returns 0, CASCADE_MISS or CASCADE_EAGAIN. */
CASCADE_API int cascade_block_info(cascade_store *store, const cascade_key *key, cascade_info *info);

/** Unbinds a key; its content goes when no key is left. Acknowledged like a put.
 * Returns 0, CASCADE_MISS, CASCADE_ENOSPC. */
CASCADE_API int cascade_block_delete(cascade_store *store, const cascade_key *key);

/**
 * Visits all keys: start with `*cursor` 0, each call gives one key and moves on. Keys bound or deleted
 * meanwhile may or may not be seen. Returns 0, or CASCADE_MISS at the end; CASCADE_ENOSLOT or
 * CASCADE_EAGAIN with the cursor where it was.
 */
CASCADE_API int cascade_key_next(cascade_store *store, uint64_t *cursor, cascade_key *key,
                                 cascade_info *info);

/* ---- prefixes ---------------------------------------------------------------------------- */

/**
 * How many leading keys of `keys[0..count)` are present, in any tier: `*matched`. Those are held by a
 * lease: not evicted or dropped before each is read (cascade_block_get, _view), released
 * (cascade_prefix_release) or `lease_ms` has passed. A lease yields before a put fails. Counts as one
 * request for the eviction policy. Takes no lock. Returns 0, CASCADE_EAGAIN or CASCADE_ENOSLOT.
 */
CASCADE_API int cascade_prefix_match(cascade_store *store, const cascade_key *keys, size_t count,
                                     size_t *matched);

/** One match of a batch. */
typedef struct cascade_match {
    const cascade_key *keys;
    size_t count;
    size_t matched; /* result */
} cascade_match;

/** Matches several prompts, each as cascade_prefix_match. */
CASCADE_API int cascade_prefix_match_many(cascade_store *store, cascade_match *matches, size_t count);

/** Gives up one lease on each of the keys; absent keys are ignored. */
CASCADE_API int cascade_prefix_release(cascade_store *store, const cascade_key *keys, size_t count);

/** Brings keys from the file tier into dram in the background. A hint: returns at once, 0 always. */
CASCADE_API int cascade_prefetch(cascade_store *store, const cascade_key *keys, size_t count);

/* ---- contents by block id ---------------------------------------------------------------- */

/**
 * Stores a content under its block id alone: waits for the digest, and counts as one reference until
 * cascade_content_delete. That reference is a key made from tenant and id (docs/formats.md,
 * "Namespace"): cascade_key_next visits it, and it counts among the keys. `flags`: CASCADE_PUT_DURABLE
 * or 0. `existed` may be NULL; set if the content was there. Errors: as cascade_block_put.
 */
CASCADE_API int cascade_content_put(cascade_store *store, uint64_t tenant, const cascade_block *block,
                                    uint32_t flags, cascade_id *id, bool *existed);

/** Gets any content of the tenant by its id, whether it was put by key or by content. */
CASCADE_API int cascade_content_get(cascade_store *store, uint64_t tenant, const cascade_id *id,
                                    const cascade_block *into);

/** Facts about a content. Returns 0, CASCADE_MISS or CASCADE_EAGAIN. */
CASCADE_API int cascade_content_info(cascade_store *store, uint64_t tenant, const cascade_id *id,
                                     cascade_info *info);

/** Gives up the reference that cascade_content_put made. Returns 0, CASCADE_MISS, CASCADE_ENOSPC. */
CASCADE_API int cascade_content_delete(cascade_store *store, uint64_t tenant, const cascade_id *id);

/* ---- what an operator sees --------------------------------------------------------------- */

enum { CASCADE_TIER_DRAM = 0, CASCADE_TIER_FILE = 1, CASCADE_TIER_COUNT = 2 };

/** Counters of one tier since open, and what it holds now. */
typedef struct cascade_tier_stats {
    uint64_t capacity_bytes; /* 0: unlimited */
    uint64_t used_bytes;     /* pages or file bytes, padding included */
    uint64_t blocks;         /* contents held */
    uint64_t block_bytes;    /* their K and V bytes */
    uint64_t hits;           /* reads answered */
    uint64_t misses;         /* reads that had to look further */
    uint64_t promotions;     /* blocks copied up into this tier */
    uint64_t demotions;      /* blocks copied down into this tier */
    uint64_t evictions;      /* blocks that left this tier, a lower one holding them */
    uint64_t drops;          /* blocks that left the store from this tier; what the file budget took
                                leaves from the file tier, also when dram held it longest */
    uint64_t quarantined;    /* damaged blocks found here */
    uint64_t read_bytes;
    uint64_t written_bytes;
} cascade_tier_stats;

/** File-system operations since open, counted where they are made. */
typedef struct cascade_metadata_ops {
    uint64_t open, create, rename, unlink, stat, mkdir, readdir, truncate, fsync;
} cascade_metadata_ops;

#define CASCADE_HISTOGRAM_BUCKETS 40u
/** Latencies: bucket i counts operations of [2^i, 2^(i+1)) nanoseconds. */
typedef struct cascade_histogram {
    uint64_t count;
    uint64_t total_ns;
    uint64_t buckets[CASCADE_HISTOGRAM_BUCKETS];
} cascade_histogram;

enum {
    CASCADE_OP_PUT = 0,
    CASCADE_OP_GET_DRAM = 1,
    CASCADE_OP_GET_FILE = 2,
    CASCADE_OP_VIEW = 3,
    CASCADE_OP_MATCH = 4,
    CASCADE_OP_DELETE = 5,
    CASCADE_OP_FLUSH = 6,
    CASCADE_OP_COUNT = 7
};

/** All counters. Set `struct_bytes` before the call. Counters that readers bump are read
 * one by one: they need not add up to the same moment. */
typedef struct cascade_stats {
    size_t struct_bytes;
    cascade_tier_stats tiers[CASCADE_TIER_COUNT];
    cascade_metadata_ops metadata_ops;
    uint64_t keys;
    uint64_t contents;
    uint64_t puts;
    uint64_t puts_existed;
    uint64_t conflicts;
    uint64_t deletes;
    uint64_t dedup_blocks;      /* contents merged into an equal one, since open */
    uint64_t dedup_bytes_saved; /* bytes that keys name beyond what is stored, now */
    uint64_t digests;           /* contents digested since open */
    uint64_t digest_pending;    /* contents waiting for their digest */
    uint64_t dirty_bytes;       /* bytes that wait for stable storage */
    uint64_t lost;              /* blocks that vanished without being dropped or deleted: 0 */
    uint64_t pins;              /* slots taken now */
    uint64_t recovered_blocks;  /* taken over from a dead owner's arena at open */
    uint64_t arena_huge_bytes;  /* arena bytes on huge pages */
    uint64_t arena_ready_bytes; /* arena bytes allocated and touched */
    uint64_t segments;          /* segment files of this store */
    uint32_t file_degraded;     /* the file tier refuses writes (disk full or failing) */
    uint32_t file_direct;       /* O_DIRECT in use */
    cascade_histogram latency[CASCADE_OP_COUNT];
    uint32_t file_uring;            /* io_uring in use, else threads */
    uint32_t file_slow;             /* transfers are past their deadline now */
    uint64_t file_timeouts;         /* reads that were a miss because their deadline passed */
    uint64_t file_registered_bytes; /* of dram, with io_uring */
    uint64_t file_live_bytes;       /* of this rank's files: records in use */
    uint64_t compactions;           /* segments emptied by moving what lives */
    uint64_t compacted_bytes;       /* moved */
    uint64_t recycled_segments;     /* started in the space of an emptied one */
    uint64_t read_ahead_blocks;     /* brought to dram before they were asked for */
    uint64_t aged_blocks;           /* dropped by age; among the file tier's drops */
    uint32_t file_encrypted;        /* new segments are */
    uint32_t file_striped;          /* new segments are striped (Lustre) */
    uint64_t file_rereads;          /* reads that were wrong once, and right when they were repeated */
} cascade_stats;

/** Fills `*stats` (up to its struct_bytes). */
CASCADE_API int cascade_store_stats(cascade_store *store, cascade_stats *stats);

/** "put", "get_dram", ... for CASCADE_OP_*; "dram", "file" for CASCADE_TIER_*; NULL out of range. */
CASCADE_API const char *cascade_op_name(unsigned op);
CASCADE_API const char *cascade_tier_name(unsigned tier);

/** What cascade_store_verify found. */
typedef struct cascade_verify_report {
    uint64_t blocks[CASCADE_TIER_COUNT];  /* read and right, per tier */
    uint64_t damaged[CASCADE_TIER_COUNT]; /* quarantined meanwhile, by whoever read it; dram: and those
                                             that could not be yet, being in use; file: and segment
                                             files unreadable at open, blocks not there */
    uint64_t bytes;
} cascade_verify_report;

/** Called now and then with the bytes done and to do; return nonzero to stop. */
typedef int (*cascade_progress)(void *context, uint64_t done_bytes, uint64_t total_bytes);

/**
 * Reads every content in every tier that holds it and checks its SHA-256. Damaged ones are quarantined.
 * `progress` may be NULL. Returns 0 if all is right, CASCADE_ECORRUPT if anything was damaged (the
 * report is filled either way), CASCADE_EIO, CASCADE_ETIMEDOUT (the file tier is slow: ended there),
 * CASCADE_EAGAIN (stopped by `progress`, or by cascade_store_close).
 */
CASCADE_API int cascade_store_verify(cascade_store *store, cascade_verify_report *report,
                                     cascade_progress progress, void *context);

/** What to scrub how fast. Set `struct_bytes`. */
typedef struct cascade_scrub_options {
    size_t struct_bytes;
    uint64_t rate_bytes; /* a second at most; 0: as fast as it goes */
    bool fix; /* also empty segments of earlier runs whose index is missing or damaged: what lives in
                 them is written anew, then they go. Not while another node has this rank open */
} cascade_scrub_options;

/**
 * Re-reads every content in every tier and checks its SHA-256, as cascade_store_verify, at a limited
 * rate. A damaged copy is quarantined; one that another tier holds is written anew from there.
 * Returns as cascade_store_verify; a copy that cannot be read is neither right nor damaged, and its code
 * is returned if nothing is damaged; with `fix` also CASCADE_ENOSPC and CASCADE_ENOMEM: the segment is
 * still there, and whole.
 */
CASCADE_API int cascade_store_scrub(cascade_store *store, const cascade_scrub_options *options,
                                    cascade_verify_report *report, cascade_progress progress,
                                    void *context);

/** What a gc did, or would do. */
typedef struct cascade_gc_report {
    uint64_t segments;       /* of this rank's, sealed */
    uint64_t file_bytes;     /* they and the open one take now */
    uint64_t live_bytes;     /* of which in use */
    uint64_t moved_segments; /* emptied by moving what lives */
    uint64_t moved_bytes;
    uint64_t freed_bytes;    /* file bytes freed, net */
    uint64_t dropped_blocks; /* by age or for the budget */
    uint64_t dropped_bytes;
} cascade_gc_report;

/**
 * Drops what is too old, and moves what lives out of segments that are mostly dead, without the rate
 * limit. `dry_run`: only says what would go. Blocks until done; puts and gets go on.
 * Errors: CASCADE_ENOSPC, CASCADE_EIO, CASCADE_ENOMEM; CASCADE_ETIMEDOUT (the file tier is slow);
 * CASCADE_EAGAIN (stopped by `progress`, or by cascade_store_close). The report is filled either way.
 */
CASCADE_API int cascade_store_gc(cascade_store *store, bool dry_run, cascade_gc_report *report,
                                 cascade_progress progress, void *context);

#ifdef __cplusplus
}
#endif
#endif
