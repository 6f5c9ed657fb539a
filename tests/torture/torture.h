/* SPDX-License-Identifier: MIT */
/*
 * The kill torture's shared parts. A parent process keeps the *oracle*: what was acknowledged, told over
 * a pipe by the child that runs the store. A child says BEGIN before an operation and ACK after it, each
 * one atomic write, so that whatever moment it is killed at, the parent knows what must hold.
 *
 * A state of a key is the *seed* of the content it is bound to, 0 for none. Sizes and bytes of a content
 * follow from its seed, and its first word is the seed, so any block read says what it is.
 */
#ifndef CSC_TESTS_TORTURE_H
#define CSC_TESTS_TORTURE_H

#include <cascade/cascade.h>

#define WORKERS            4u
#define OWNED              320u /* keys that one worker alone puts and deletes */
#define CONTENTS           12u  /* contents that one worker alone puts by id and deletes */
#define SHARED             64u  /* keys that all workers put, always the same bytes, never deleted */
#define KEY_COUNT          (WORKERS * (OWNED + CONTENTS) + SHARED)
#define POOL               24u /* contents that many keys share */
#define TORTURE_BLOCK_MAX  (UINT64_C(1400) << 10)
#define TORTURE_TEXT_BYTES 32u

/* ---- contents (torture_content.c) ---------------------------------------------------------------- */

typedef struct random_state {
    uint64_t state;
} random_state;

uint64_t random_next(random_state *random);
/** 0 to below - 1. */
uint64_t random_below(random_state *random, uint64_t below);
uint64_t random_mix(uint64_t value);

typedef enum key_kind { KEY_OWNED, KEY_SHARED, KEY_CONTENT } key_kind;

key_kind kind_of_key(uint32_t key);
/** The worker that alone changes a key; WORKERS for a shared one. */
uint32_t owner_of_key(uint32_t key);
cascade_key name_of_key(uint32_t key);
uint64_t tenant_of_key(uint32_t key);
/** Keys form chains of eight. */
bool parent_of_key(uint32_t key, cascade_key *parent);

/** A content of the key's own: equal to no other. */
uint64_t seed_of_version(uint32_t key, uint32_t version);
uint64_t seed_of_pool(uint32_t number);
/** Whether a key may be bound to that content at all. */
bool seed_fits_key(uint64_t seed, uint32_t key);

void content_sizes(uint64_t seed, uint64_t *k_bytes, uint64_t *v_bytes);
/** Writes K then V. */
void content_fill(uint64_t seed, uint8_t *bytes);
/** The seed that the bytes name if they are that content's and no other's, else 0. */
uint64_t content_check(const uint8_t *bytes, uint64_t k_bytes, uint64_t v_bytes);

/* ---- what a child tells --------------------------------------------------------------------------- */

typedef enum record_kind {
    RECORD_OPENED = 1,
    RECORD_BEGIN,       /* key, seed: the key is about to become that */
    RECORD_ACK,         /* key, seed */
    RECORD_ACK_DURABLE, /* the same, on stable storage */
    RECORD_FLUSH_BEGIN,
    RECORD_FLUSH_ACK,
    RECORD_SEEN, /* key, seed: what a key that could be several things is */
    RECORD_VERIFIED,
    RECORD_RUSHED, /* works without having verified */
    RECORD_CLOSED,
    RECORD_AT_MARK,  /* text: the mark it dies at now */
    RECORD_VIOLATION /* the details are in the child's log */
} record_kind;

typedef struct torture_record {
    uint8_t kind;
    uint8_t worker;
    uint16_t unused;
    uint32_t key;
    uint64_t seed;
    char text[TORTURE_TEXT_BYTES];
} torture_record;

/* ---- the oracle (torture_oracle.c) ----------------------------------------------------------- */

/** The states of a key that were acknowledged, oldest first; the first is on stable storage. */
typedef struct key_history {
    uint64_t *seeds;
    uint64_t *times; /* when each was acknowledged, counted in records */
    uint32_t count, room;
    uint64_t pending; /* the state that an operation without an answer makes */
    bool is_pending;
    uint32_t version; /* last used */
} key_history;

typedef struct torture_oracle {
    key_history keys[KEY_COUNT];
    uint64_t time;
    uint64_t flush_began[WORKERS];
    bool rebooted; /* since the last verification: what was not durable may be gone */
    uint64_t put_acks, delete_acks, durable_acks, flush_acks;
} torture_oracle;

/** A store that holds nothing. */
void oracle_reset(torture_oracle *oracle);
void oracle_take(torture_oracle *oracle, const torture_record *record);
/** All acknowledged is durable: the store was closed. */
void oracle_closed(torture_oracle *oracle);
/** Nothing is pending any more and the memory of a lost arena is settled: all keys were looked at. */
void oracle_verified(torture_oracle *oracle);
/** Whether the key may be in that state now. */
bool oracle_allows(const torture_oracle *oracle, uint32_t key, uint64_t seed);
/** Whether it may be in more than one. */
bool oracle_doubts(const torture_oracle *oracle, uint32_t key);
/** The last acknowledged state. */
uint64_t oracle_state(const torture_oracle *oracle, uint32_t key);
/** One line: what a key may be, for a report. */
void oracle_describe(const torture_oracle *oracle, uint32_t key, char *text, size_t room);

/* ---- the child (torture_child.c) ------------------------------------------------------------- */

typedef struct child_plan {
    const char *directory;
    const char *shm_directory;
    uint64_t seed;
    int pipe_fd;
    uint64_t page_bytes;
    const char *policy;
    uint32_t hash_threads;
    bool prefault;
    bool load;               /* after verifying: work until killed; else close */
    bool rush;               /* work without verifying first */
    bool empty;              /* before closing: delete all, and look for lost pages */
    const char *mark;        /* marks that begin so are counted; NULL: none */
    uint64_t mark_hits;      /* dies at this one */
    bool mark_while_opening; /* counts during open and verification, else from then on */
} child_plan;

/** Runs the store; what it finds wrong is told by RECORD_VIOLATION and standard error. Does not return.
 */
void child_main(const child_plan *plan, const torture_oracle *oracle) __attribute__((noreturn));

#endif
