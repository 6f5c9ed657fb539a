/* SPDX-License-Identifier: MIT */
/*
 * A handle that is a client of another process: it maps the arena that a daemon owns, looks up, pins and
 * copies as the engine does, and asks the daemon for what changes something. The public calls branch
 * here; src/daemon fills the table.
 */
#ifndef CSC_STORE_CLIENT_H
#define CSC_STORE_CLIENT_H

#include "store/store_private.h"

/** The calls, with their public contracts. Arguments are checked, and the handle is entered. */
typedef struct csc_daemon_ops {
    /** Has a block brought to dram and pinned for this handle. As csc_hold, and `held->slot` is set. */
    int (*bring)(cascade_store *store, const csc_name *name, csc_held *held);
    int (*put_many)(cascade_store *store, cascade_put *puts, size_t count, uint32_t flags);
    int (*remove)(cascade_store *store, const cascade_key *key);
    int (*prefetch)(cascade_store *store, const cascade_key *keys, size_t count);
    int (*info)(cascade_store *store, const csc_name *name, cascade_info *info);
    int (*key_next)(cascade_store *store, uint64_t *cursor, cascade_key *key, cascade_info *info);
    int (*flush)(cascade_store *store);
    int (*stats)(cascade_store *store, cascade_stats *stats); /* struct_bytes: all that there is */
    int (*gc)(cascade_store *store, bool dry_run, cascade_gc_report *report, cascade_progress progress,
              void *context);
    /** `options` NULL: cascade_store_verify. */
    int (*scrub)(cascade_store *store, const cascade_scrub_options *options,
                 cascade_verify_report *report, cascade_progress progress, void *context);
    /** Frees what is behind the handle's back; the connection ends. */
    void (*close)(cascade_store *store);
    /** In a forked child: closes what would keep the parent's connection open. */
    void (*after_fork)(cascade_store *store);
} csc_daemon_ops;

struct csc_daemon {
    const csc_daemon_ops *ops;
};

/** Makes the handle of a client: options resolved, nothing mapped. */
int csc_client_handle_make(const csc_store_config *config, cascade_store **store);
/** Frees it and what it maps; for csc_client_handle_make's caller, when it fails, and
 * cascade_store_close. */
void csc_client_handle_free(cascade_store *store);
/** Attaches it to an arena by its descriptor, which stays the caller's; `daemon` is set. Errors: as
 * csc_arena_attach. */
int csc_client_handle_map(cascade_store *store, int arena_fd);

/** Gives up a lease that a match made: by the word, or by a note to whoever may write it. */
void csc_lease_give_up(cascade_store *store, uint32_t content);

#endif
