/* SPDX-License-Identifier: MIT */
/*
 * What the daemon and its clients say to each other: docs/formats.md, "Wire", is the specification; this
 * is its code. One packet of a SOCK_SEQPACKET socket is one message: a header, then `count` items of the
 * type's size. A request gets one answer; gc, scrub and verify send CSC_WIRE_PROGRESS before it.
 *
 * No I/O: callers bring memory, aligned to 8 bytes, and the checks trust nothing in it. Structs have
 * their fields where the packet has them; the machine must be little-endian. The bytes of blocks are in
 * no packet: they lie in the arena, which both sides map.
 */
#ifndef CSC_FORMAT_WIRE_H
#define CSC_FORMAT_WIRE_H

#include <cascade/cascade.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CSC_WIRE_MAGIC       UINT32_C(0x57435343) /* "CSCW" */
#define CSC_WIRE_VERSION     1u
#define CSC_WIRE_PACKET_MAX  65536u
#define CSC_WIRE_BATCH_MAX   256u /* items of any request or answer */
#define CSC_WIRE_TEXT_BYTES  240u /* of a detail text, its terminating zero included */
#define CSC_WIRE_TOKEN_BYTES 16u

/* Requests, by number for ever; new ones are appended. */
typedef enum csc_wire_type {
    CSC_WIRE_HELLO =
        1, /* first packet of a first connection; the answer carries the arena's descriptor */
    CSC_WIRE_ATTACH = 2,  /* a slot area was claimed: the connection is a client from here on */
    CSC_WIRE_JOIN = 3,    /* first packet of a further connection of the same client */
    CSC_WIRE_RESERVE = 4, /* puts: pages for blocks whose keys are not bound */
    CSC_WIRE_COMMIT = 5,  /* the pages are filled */
    CSC_WIRE_ABANDON = 6, /* they will not be */
    CSC_WIRE_LOAD = 7,    /* blocks into dram, each pinned in a slot of the client's area */
    CSC_WIRE_DELETE = 8,
    CSC_WIRE_PREFETCH = 9,
    CSC_WIRE_INFO = 10,
    CSC_WIRE_KEYS = 11, /* the next keys from a cursor on */
    CSC_WIRE_FLUSH = 12,
    CSC_WIRE_STATS = 13,
    CSC_WIRE_CLIENTS = 14,
    CSC_WIRE_GC = 15,
    CSC_WIRE_SCRUB = 16, /* also verify */
    CSC_WIRE_TYPE_COUNT
} csc_wire_type;

/* Flags in `type` of what is no request. */
#define CSC_WIRE_ANSWER   0x10000u
#define CSC_WIRE_PROGRESS 0x20000u

typedef struct csc_wire_header {
    uint32_t magic;
    uint32_t type;
    uint32_t bytes;  /* of the packet, header included */
    uint32_t count;  /* of items */
    uint32_t serial; /* of the request, by connection; its answer has the same */
    int32_t status;  /* of an answer: a CASCADE_* code, of the first item that failed or of the whole */
    /* RESERVE, COMMIT: CASCADE_PUT_* flags (SYNC and DURABLE at RESERVE: of what is bound); GC: 1 is a
     * dry run; KEYS: the cursor, in the answer the next one, with no items at the end; else 0 */
    uint64_t value;
} csc_wire_header;

/** Behind the items of an answer whose status is not 0, of which there may then be none: the detail. */
typedef struct csc_wire_text {
    char text[CSC_WIRE_TEXT_BYTES]; /* ends in a zero */
} csc_wire_text;

/* ---- items of requests ------------------------------------------------------------------------ */

typedef struct csc_wire_hello {
    uint32_t version_least, version_most; /* that the client speaks */
    uint8_t store_uuid[16];               /* zero: any */
    char program[32];                     /* for an operator; ends in a zero */
} csc_wire_hello;

typedef struct csc_wire_attach {
    uint32_t area;
    uint32_t reserved;
} csc_wire_attach;

typedef struct csc_wire_join {
    uint8_t token[CSC_WIRE_TOKEN_BYTES];
} csc_wire_join;

enum {
    CSC_WIRE_HAS_PARENT = 1u << 0, /* else `parent` is all zero */
    CSC_WIRE_TAIL = 1u << 1        /* last block of its request, for the policy */
};
typedef struct csc_wire_put {
    cascade_key key;
    cascade_key parent;
    uint64_t tenant;
    uint64_t k_bytes;
    uint64_t v_bytes;
    uint32_t flags;
    uint32_t reserved;
} csc_wire_put;

/** A content that this client reserved. */
typedef struct csc_wire_content {
    uint32_t number;
    uint32_t generation;
} csc_wire_content;

/** What a block is called: by key, or by tenant and id; the other is all zero. */
typedef struct csc_wire_name {
    cascade_key key;
    uint64_t tenant;
    cascade_id id;
    uint32_t by_id; /* 0 or 1 */
    uint32_t reserved;
} csc_wire_name;

typedef struct csc_wire_key {
    cascade_key key;
} csc_wire_key;

typedef struct csc_wire_scrub {
    uint64_t rate_bytes;
    uint32_t fix;    /* 0 or 1 */
    uint32_t verify; /* 0 or 1: as cascade_store_verify; the two others are 0 */
} csc_wire_scrub;

/* ---- items of answers -------------------------------------------------------------------------- */

typedef struct csc_wire_welcome {
    uint32_t version; /* to be spoken */
    uint32_t reserved;
    uint8_t store_uuid[16];
    uint32_t lease_ms;
    uint32_t put_wait_ms;
    uint32_t io_deadline_ms;
    uint32_t refresh_ms;
} csc_wire_welcome;

typedef struct csc_wire_token {
    uint8_t token[CSC_WIRE_TOKEN_BYTES]; /* for CSC_WIRE_JOIN */
} csc_wire_token;

enum { CSC_WIRE_EXISTED = 1u << 0, CSC_WIRE_HAS_ID = 1u << 1, CSC_WIRE_RESERVED = 1u << 2 };
/**
 * Of a put, at RESERVE and at COMMIT. Status 0 at RESERVE: reserved, or the key is bound. CASCADE_EAGAIN
 * there: no room beside what was reserved before it in this request; to be asked again after their
 * commit.
 */
typedef struct csc_wire_put_result {
    int32_t status;
    uint32_t flags;
    csc_wire_content content; /* with CSC_WIRE_RESERVED: to be filled, then committed or abandoned */
    cascade_id id;            /* with CSC_WIRE_HAS_ID */
} csc_wire_put_result;

typedef struct csc_wire_loaded {
    int32_t status;
    uint32_t slot; /* of the client's area, with status 0: it pins the block */
    csc_wire_content content;
} csc_wire_loaded;

typedef struct csc_wire_status {
    int32_t status;
    uint32_t reserved;
} csc_wire_status;

enum {
    CSC_WIRE_INFO_ID = 1u << 0,
    CSC_WIRE_INFO_DRAM = 1u << 1,
    CSC_WIRE_INFO_FILE = 1u << 2,
    CSC_WIRE_INFO_PARENT = 1u << 3
};
typedef struct csc_wire_info {
    cascade_key key;
    cascade_key parent;
    uint64_t k_bytes;
    uint64_t v_bytes;
    uint64_t tenant;
    uint64_t references;
    cascade_id id;
    uint32_t flags;
    int32_t status;
    uint64_t cursor; /* of KEYS: behind this one */
} csc_wire_info;

/** The answer to STATS is one item that has as many bytes as it says: later versions append. */
typedef struct csc_wire_stats {
    cascade_stats stats; /* struct_bytes: sizeof(cascade_stats) of the sender */
} csc_wire_stats;

typedef struct csc_wire_client {
    uint32_t pid;
    uint32_t area;
    uint32_t connections;
    uint32_t reservations; /* not committed yet */
    uint64_t pins;
    uint64_t requests;
    uint64_t put_blocks;
    uint64_t put_bytes;
    uint64_t loaded_blocks;
    uint64_t connected_ns; /* ago */
    char program[32];
} csc_wire_client;

typedef struct csc_wire_gc_report {
    cascade_gc_report report;
} csc_wire_gc_report;

typedef struct csc_wire_scrub_report {
    cascade_verify_report report;
} csc_wire_scrub_report;

typedef struct csc_wire_progress {
    uint64_t done_bytes;
    uint64_t total_bytes;
} csc_wire_progress;

/* ---- checks ------------------------------------------------------------------------------------ */

/** The items behind a header. */
static inline const void *csc_wire_items(const csc_wire_header *header)
{
    return header + 1;
}

/** Bytes of one item of a request, of its answer; 0: it has none. `type`: a request's. */
size_t csc_wire_request_item(unsigned type);
size_t csc_wire_answer_item(unsigned type);

/** Fills the header of a packet with `count` items; returns the packet's bytes. `type`: a request's, or
 * one with CSC_WIRE_ANSWER or CSC_WIRE_PROGRESS. */
size_t csc_wire_begin(csc_wire_header *header, unsigned type, uint32_t serial, size_t count);

/** Gives an answer, its items in place, a status that is not 0, and its text (cut to what fits). Returns
 * the packet's bytes: sizeof(csc_wire_text) more. */
size_t csc_wire_fail(csc_wire_header *header, int status, const char *text);

/**
 * Whether `bytes` at `packet` are a request that can be carried out: header, number and values of its
 * items. Errors: CASCADE_EFORMAT (no packet of this protocol, or of a newer one), CASCADE_EINVAL (a
 * value that no client of ours sends). After an error the connection is of no use.
 */
int csc_wire_check_request(const void *packet, size_t bytes);

/** The same for what may come after a request of `type` and `serial` with `count` items: its answer,
 * or, if that type has it, progress. Errors: CASCADE_EFORMAT. */
int csc_wire_check_answer(const void *packet, size_t bytes, unsigned type, uint32_t serial,
                          size_t count);

/** Of an answer that is checked: the detail text, "" if it has none. */
const char *csc_wire_text_of(const csc_wire_header *answer);

#endif
