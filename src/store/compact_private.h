/* SPDX-License-Identifier: MIT */
/* What the files of compaction share. */
#ifndef CSC_STORE_COMPACT_PRIVATE_H
#define CSC_STORE_COMPACT_PRIVATE_H

#include "store/store_private.h"

#define CSC_COMPACT_BLOCKS      256u /* of a batch */
#define CSC_COMPACT_LOG_ENTRIES 4096u
#define CSC_COMPACT_FAILED      8u

/** A block of the batch at hand. */
typedef struct csc_compact_block {
    uint32_t number;
    uint32_t generation;
    uint32_t first_binding;
    csc_place place;     /* in the segment that is emptied */
    cascade_piece piece; /* where it is read to */
} csc_compact_block;

/** The writer's; no lock. */
struct csc_compactor {
    uint32_t segment;  /* 1 + index of the one being emptied, 0: none */
    uint64_t written;  /* to others for its sake */
    uint32_t *numbers; /* of what lives there, in the order in which it is moved */
    uint32_t count, next;
    csc_compact_block batch[CSC_COMPACT_BLOCKS];
    csc_tier_read reads[CSC_COMPACT_BLOCKS];
    csc_tier_write writes[CSC_COMPACT_BLOCKS];
    uint32_t batch_count;
    csc_binding *bindings;
    uint32_t *keys; /* the key of each binding */
    size_t binding_count, binding_room, key_room;
    uint8_t *memory;
    uint64_t memory_bytes, memory_used;
    csc_log_entry *log; /* CSC_COMPACT_LOG_ENTRIES of each */
    uint32_t *log_keys;
    uint32_t log_count;
    bool all_known;         /* what others have written, while deletes are moved */
    uint64_t next_ns;       /* when what was moved in the background is paid for */
    uint64_t rest_until_ns; /* nothing is done in the background after a failure */
    struct {
        uint32_t segment; /* 1 + index */
        uint64_t until_ns;
    } failed[CSC_COMPACT_FAILED]; /* are not tried again until then */
    uint32_t failed_next;
};

/** Lists the contents whose file copy lies in a segment, prefix chains together and parents first. The
 * caller frees `*numbers`. CASCADE_ENOMEM. No lock held. */
int csc_compact_list(cascade_store *store, uint32_t segment, uint32_t **numbers, uint32_t *count);

/** Logs and syncs the binds whose only record lies in the segment at hand. */
int csc_compact_move_binds(cascade_store *store, struct csc_compactor *c);
/** Logs and syncs deletes for what else it holds that may still hide something. */
int csc_compact_move_hiders(cascade_store *store, struct csc_compactor *c);

#endif
