/* SPDX-License-Identifier: MIT */
/*
 * The bytes of a segment file: docs/formats.md, "Segment", is the specification; this is its code.
 * No I/O: callers bring memory, aligned to 8 bytes, and the parsers trust nothing in it. Structs have
 * their fields where the file has them; the machine must be little-endian.
 */
#ifndef CSC_FORMAT_SEGMENT_FORMAT_H
#define CSC_FORMAT_SEGMENT_FORMAT_H

#include "base/checksum.h"

#include <cascade/cascade.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CSC_SEGFMT_PAGE_BYTES   4096u
#define CSC_SEGFMT_CHUNK_BYTES  262144u
#define CSC_SEGFMT_VERSION      2u
#define CSC_SEGFMT_BINDINGS_MAX 1024u  /* of one block record */
#define CSC_SEGFMT_LOG_MAX      16384u /* entries of one log record */
#define CSC_SEGFMT_RANK_MAX     999u
#define CSC_SEGFMT_NAME_BYTES   32u
#define CSC_SEGFMT_SALT_BYTES   16u
#define CSC_SEGFMT_TAG_BYTES    16u

/** The first page of a segment. */
typedef struct csc_segfmt_header {
    uint64_t magic;
    uint32_t version;
    uint32_t header_bytes;
    uint8_t writer[16];
    uint32_t rank;
    uint32_t number;
    uint64_t generation;
    uint64_t created_ns;
    uint64_t key_id; /* of the key that its payloads are encrypted with, 0: none */
    /* 1 + the number it had while it waited as a spare; 0: it was made anew */
    uint64_t recycled_from;
    uint8_t reserved[4016];
    uint64_t checksum; /* of the bytes before it, seed 0 */
} csc_segfmt_header;

/** The first sector of a file that was a segment and waits to become another. It is as large as what
 * disks write as a whole, and the rest of the page is not looked at: a page torn between a header and
 * this one is one of the two. */
typedef struct csc_segfmt_spare {
    uint64_t magic;
    uint64_t checksum; /* of the sector's bytes after it, seed 0 */
    uint32_t version;
    uint32_t rank;
    uint32_t number; /* as in its name */
    uint8_t reserved[484];
} csc_segfmt_spare;

enum { CSC_SEGFMT_RECORD_BLOCK = 1, CSC_SEGFMT_RECORD_LOG = 2 };

/** The fixed part of a record's header. Bindings and chunk sums (then salt and tags, if the payload is
 * encrypted), or log entries, follow. */
typedef struct csc_segfmt_record {
    uint64_t magic;
    uint64_t checksum; /* of the header's bytes after it, padding included; seed: generation */
    uint64_t generation;
    uint64_t offset; /* of this record in its file */
    uint32_t type;
    uint32_t header_bytes;
    uint32_t item_count; /* bindings or log entries */
    uint32_t chunk_count;
    uint64_t tenant;
    uint64_t k_bytes;
    uint64_t v_bytes;
    uint8_t digest[32];
    uint64_t written_ns; /* first written to any segment, since 1970; kept when the record is copied */
    uint64_t key_id; /* of the key the payload is encrypted with, 0: none; as in the segment header */
    uint8_t reserved[8];
} csc_segfmt_record;

enum { CSC_SEGFMT_HAS_PARENT = 1u };

typedef struct csc_segfmt_binding {
    uint8_t key[32];
    uint8_t parent[32];
    uint64_t sequence;
    uint32_t flags;
    uint32_t reserved;
} csc_segfmt_binding;

enum { CSC_SEGFMT_LOG_BIND = 1, CSC_SEGFMT_LOG_DELETE = 2 };

typedef struct csc_segfmt_log_entry {
    uint8_t key[32];
    uint8_t parent[32];
    uint8_t digest[32];
    uint64_t sequence;
    uint64_t tenant;
    uint64_t k_bytes;
    uint64_t v_bytes;
    uint32_t type;
    uint32_t flags;
} csc_segfmt_log_entry;

enum {
    CSC_SEGFMT_INDEX_CONTENT = 1, /* a block record without bindings */
    CSC_SEGFMT_INDEX_BINDING = 2, /* one binding of a block record */
    CSC_SEGFMT_INDEX_BIND = 3,    /* entries of log records */
    CSC_SEGFMT_INDEX_DELETE = 4
};

/** One entry of the index that ends a sealed segment. */
typedef struct csc_segfmt_index_entry {
    uint8_t key[32];
    uint8_t parent[32];
    uint8_t digest[32];
    uint64_t sequence;
    uint64_t tenant;
    uint64_t k_bytes;
    uint64_t v_bytes;
    uint64_t offset; /* of the record */
    uint64_t written_ns;
    uint32_t header_bytes;
    uint16_t type;
    uint16_t flags;
} csc_segfmt_index_entry;

/** The last page of a sealed segment. */
typedef struct csc_segfmt_trailer {
    uint64_t magic;
    uint64_t checksum; /* of the page's bytes after it; seed: generation */
    uint64_t generation;
    uint32_t version;
    uint32_t reserved0;
    uint64_t index_offset;
    uint64_t index_count;
    uint64_t index_checksum; /* of the entries; seed: generation */
    uint8_t reserved[4040];
} csc_segfmt_trailer;

/* ---- sizes; arguments in the ranges that the checks allow ----------------------------------- */

/** Rounds up to a page. */
uint64_t csc_segfmt_round(uint64_t bytes);
uint64_t csc_segfmt_chunk_count(uint64_t payload_bytes);
/** `key_id`: of its payload's key, 0: not encrypted. */
uint64_t csc_segfmt_block_header_bytes(uint64_t binding_count, uint64_t payload_bytes, uint64_t key_id);
uint64_t csc_segfmt_log_header_bytes(uint64_t entry_count);
/** Index and trailer together. */
uint64_t csc_segfmt_footer_bytes(uint64_t index_count);

/* ---- names -------------------------------------------------------------------------------------- */

void csc_segfmt_name_format(uint32_t rank, uint32_t number, char name[CSC_SEGFMT_NAME_BYTES]);
/** Whether `name` is just what csc_segfmt_name_format writes for some rank and number. */
bool csc_segfmt_name_parse(const char *name, uint32_t *rank, uint32_t *number);

/* ---- segment header --------------------------------------------------------------------------- */

/** Sets magic, version, sizes and checksum. */
void csc_segfmt_header_seal(csc_segfmt_header *header);
/** Returns 0, CASCADE_EFORMAT (not a segment, or another version) or CASCADE_ECORRUPT. */
int csc_segfmt_header_check(const csc_segfmt_header *header);

/** Sets magic, version and checksum. */
void csc_segfmt_spare_seal(csc_segfmt_spare *spare);
/**
 * Whether a file of that rank and number, by its first page, is a spare: no segment and not damaged.
 * Either it waits, or its writer died while it made a new segment of it, after the new header was
 * written and before the file had its new name.
 */
bool csc_segfmt_is_spare(const void *page, uint32_t rank, uint32_t number);

/* ---- records -------------------------------------------------------------------------------------- */

/** Sets magic and checksum; `record` is followed by the rest of its header_bytes. */
void csc_segfmt_record_seal(csc_segfmt_record *record);
/**
 * Reads the fixed part alone: is it a record of this generation, written for this offset, whose header
 * and payload are of possible sizes and end by `end`? Then `*record_bytes` is the whole record's size.
 * Proves nothing about the bytes themselves. Returns 0 or CASCADE_ECORRUPT.
 */
int csc_segfmt_record_measure(const csc_segfmt_record *record, uint64_t generation, uint64_t offset,
                              uint64_t end, uint64_t *record_bytes);
/** After measure, with all header_bytes in memory: checksum and items. Returns 0 or CASCADE_ECORRUPT. */
int csc_segfmt_record_check(const csc_segfmt_record *record);

/** The items of a record; valid for as many as it says it has. */
const csc_segfmt_binding *csc_segfmt_bindings(const csc_segfmt_record *record);
const uint64_t *csc_segfmt_sums(const csc_segfmt_record *record);
/** Of a block record with a key: its salt; behind it lie the chunks' tags. */
const uint8_t *csc_segfmt_salt(const csc_segfmt_record *record);
const uint8_t *csc_segfmt_tags(const csc_segfmt_record *record);
const csc_segfmt_log_entry *csc_segfmt_log_entries(const csc_segfmt_record *record);

/* ---- index and trailer ------------------------------------------------------------------------- */

/** The order of the index, for qsort. */
int csc_segfmt_index_compare(const void *a, const void *b);
/** Sets magic, version, index_checksum and checksum; the other fields are set already. */
void csc_segfmt_trailer_seal(csc_segfmt_trailer *trailer, const csc_segfmt_index_entry *entries);
/** Returns 0, CASCADE_EFORMAT (no trailer, or one left by an earlier use of the file: the segment is not
 * sealed) or CASCADE_ECORRUPT. */
int csc_segfmt_trailer_check(const csc_segfmt_trailer *trailer, uint64_t generation,
                             uint64_t file_bytes);
/** With a checked trailer: checksum, order and every entry. Returns 0 or CASCADE_ECORRUPT. */
int csc_segfmt_index_check(const csc_segfmt_trailer *trailer, const csc_segfmt_index_entry *entries);
/** The same of entries[from, to) without the checksum, while the rest is not there yet; those before
 * `from` were checked. */
int csc_segfmt_index_check_part(const csc_segfmt_trailer *trailer, const csc_segfmt_index_entry *entries,
                                uint64_t from, uint64_t to);

/* ---- chunk sums --------------------------------------------------------------------------------- */

/**
 * Computes (`out`) or compares (`expected`) the sums of consecutive chunks while their bytes come by in
 * pieces of any size. Each array begins with chunk `first`. Feed from a chunk's start; end after the
 * payload's last byte, or after a whole chunk.
 */
typedef struct csc_segfmt_summer {
    XXH3_state_t state;
    uint64_t generation;
    uint64_t offset; /* of the record */
    uint64_t first;
    uint64_t done; /* chunks */
    size_t filled; /* bytes of the chunk begun */
    uint64_t *out;
    const uint64_t *expected;
    bool differs; /* result of comparing */
} csc_segfmt_summer;

void csc_segfmt_summer_begin(csc_segfmt_summer *summer, const csc_segfmt_record *record, uint64_t first,
                             uint64_t *out, const uint64_t *expected);
void csc_segfmt_summer_feed(csc_segfmt_summer *summer, const void *data, size_t bytes);
void csc_segfmt_summer_end(csc_segfmt_summer *summer);

#endif
