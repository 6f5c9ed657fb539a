/* SPDX-License-Identifier: MIT */
/* For the tests of this folder: a directory of one's own, what an open finds, and system calls that
 * fail. */
#ifndef CSC_SEGMENT_SEGMENT_TESTING_H
#define CSC_SEGMENT_SEGMENT_TESTING_H

#include "segment/segment.h"
#include "tier/tier_suite.h"

#define TESTING_FOUND_MAX 600

/** The deadline of reads, where a test sets none: longer than it may run, so that none fails because the
 * disk is slow. */
#define TESTING_PATIENCE_MS 600000

typedef struct testing_block {
    uint32_t segment;
    csc_content content;
    csc_place place;
    csc_binding bindings[3];
    size_t binding_count;
} testing_block;

/** What a visitor was told. */
typedef struct testing_found {
    testing_block blocks[TESTING_FOUND_MAX];
    size_t block_count;
    csc_log_entry logs[TESTING_FOUND_MAX];
    size_t log_count;
    size_t sealed_count; /* of blocks and logs, from an index */
    uint32_t gone[16];   /* segments */
    size_t gone_count;
} testing_found;

/** Makes an empty directory that the functions below work on; testing_remove empties and removes it. */
void testing_directory(void);
const char *testing_directory_used(void);
void testing_remove(void);
/** How many segment files are in the directory. */
size_t testing_file_count(void);
/** The path of a segment file there; static storage. */
const char *testing_path(uint32_t rank, uint32_t number);

extern csc_io *testing_io;
extern testing_found testing_seen;

/** Opens the tier on the directory and fills testing_seen; returns the open's code. */
int testing_open(csc_segment_options options, csc_tier **tier);
csc_tier *testing_open_default(void);
cascade_tier_stats testing_stats(csc_tier *tier);
/** Refreshes the tier and fills testing_seen with what is new; returns the refresh's code. */
int testing_refresh(csc_tier *tier);

/** Writes a block of that seed with `binding_count` made-up bindings; returns its status. */
int testing_write(csc_tier *tier, uint64_t seed, size_t k_bytes, size_t v_bytes, size_t binding_count,
                  csc_place *place);
/** Reads a block of that seed whole: 0 only if the bytes are right; -1000 if they are wrong. */
int testing_read(csc_tier *tier, const csc_place *place, uint64_t seed, size_t k_bytes, size_t v_bytes);
/** The binding that testing_write makes up. */
csc_binding testing_binding(uint64_t seed, size_t which);
/** The block of testing_seen with that seed's content; NULL if it was not reported. */
const testing_block *testing_find(uint64_t seed, size_t k_bytes, size_t v_bytes);

/** Calls that work until the `at`-th (from 1), which fails with `err`; `lasting`: so do all after it.
 * `err` 0: transfers move only a part. Directly opened files must be used with aligned memory. */
typedef struct testing_faults {
    int at;
    int err;
    bool lasting;
    bool only_sync;                 /* count and fail fsync and fdatasync alone */
    bool only_growth;               /* count and fail pwritev and fallocate alone */
    bool is_lustre;                 /* says statfs */
    bool refuse_direct;             /* transfers on descriptors with O_DIRECT fail with EINVAL */
    bool shuffle;                   /* every other write takes a while */
    _Atomic int whole_syncs;        /* calls of fsync for files, so far */
    _Atomic size_t write_bytes_max; /* of one pwritev, so far */
    int wrong_at;                   /* reads of more than a page, from 1: this one brings a wrong bit, */
    int wrong_count;                /* and so many from there on */
    _Atomic int wide_reads;         /* such reads so far */
    bool discard;                   /* writes succeed and write nothing, space is not reserved */
    _Atomic int calls;              /* counted so far */
    _Atomic bool met;               /* the fault has happened */
} testing_faults;

extern testing_faults testing_fault;
extern const csc_io_calls testing_calls;

/** How many descriptors this process has open. */
size_t testing_open_descriptors(void);

/** cmocka set-up and tear-down: a directory and a file layer without faults; gone after. */
int testing_setup(void **state);
int testing_teardown(void **state);
/** Both, the second first: a test begins again. */
void testing_again(void);

/** For the suite of every tier: opens a tier in a set-up of its own; closes it, and tears down. */
csc_tier *testing_suite_open(csc_segment_options options);
void testing_suite_close(csc_tier **tier);

#endif
