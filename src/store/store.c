/* SPDX-License-Identifier: MIT */
/* Opening, flushing and closing a store, its threads, and what fork does to it. */
#include "base/clock.h"
#include "base/copy.h"
#include "base/fail.h"
#include "base/log.h"
#include "store/client.h"
#include "store/shed.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEEPER_PERIOD_NS UINT64_C(100000000)
#define TUNE_BYTES       (UINT64_C(64) << 20)
#define TUNE_MS          150u

/* ---- fork -------------------------------------------------------------------------------------- */

/* A child inherits the mapping and the lock's descriptor, but none of the threads. */
static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static cascade_store *registry;
static _Atomic uint64_t fork_generation;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void before_fork(void)
{
    pthread_mutex_lock(&registry_lock);
}

static void after_fork_in_parent(void)
{
    pthread_mutex_unlock(&registry_lock);
}

static void after_fork_in_child(void)
{
    atomic_fetch_add(&fork_generation, 1);
    for (cascade_store *store = registry; store; store = store->registry_next) {
        if (store->io)
            csc_io_after_fork(store->io);
        if (store->arena)
            csc_arena_after_fork(store->arena);
        if (store->daemon)
            store->daemon->ops->after_fork(store);
    }
    registry = NULL;
    pthread_mutex_unlock(&registry_lock);
}

static void watch_forks(void)
{
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

void csc_store_register(cascade_store *store)
{
    pthread_once(&fork_once, watch_forks);
    store->fork_generation = atomic_load(&fork_generation);
    pthread_mutex_lock(&registry_lock);
    store->registry_next = registry;
    registry = store;
    pthread_mutex_unlock(&registry_lock);
}

int csc_store_register_client(cascade_store *store, int arena_fd)
{
    int code;

    pthread_once(&fork_once, watch_forks);
    store->fork_generation = atomic_load(&fork_generation);
    pthread_mutex_lock(&registry_lock); /* no fork between its area's lock and its place in the handle */
    code = csc_arena_attach(NULL, arena_fd, &store->arena);
    if (code == 0) {
        store->registry_next = registry;
        registry = store;
    }
    pthread_mutex_unlock(&registry_lock);
    return code;
}

/* With the lock held, so that no child is made that has the descriptor and does not know of it. */
void csc_store_unregister(cascade_store *store, bool keep_arena)
{
    cascade_store **link = &registry;

    pthread_mutex_lock(&registry_lock);
    while (*link && *link != store)
        link = &(*link)->registry_next;
    if (*link)
        *link = store->registry_next;
    if (store->daemon)
        csc_arena_detach(&store->arena);
    else
        csc_arena_close(&store->arena, keep_arena);
    pthread_mutex_unlock(&registry_lock);
}

int csc_store_enter(const cascade_store *store)
{
    csc_fail_set_text(NULL);
    if (!store || store->magic != CSC_STORE_MAGIC)
        return csc_fail(CASCADE_EINVAL, "not an open store");
    if (store->fork_generation != atomic_load_explicit(&fork_generation, memory_order_relaxed))
        return csc_fail(CASCADE_EFORKED,
                        "the store was opened before this process forked; open it again here");
    if (atomic_load_explicit(&store->poisoned, memory_order_relaxed))
        return csc_fail(CASCADE_EPOISONED, "the store found its own state broken; close it");
    return 0;
}

/* ---- waiting ----------------------------------------------------------------------------------- */

static struct timespec timespec_of(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
}

bool csc_store_wait(cascade_store *store, uint64_t deadline_ns)
{
    struct timespec deadline = timespec_of(deadline_ns);

    return pthread_cond_timedwait(&store->progress, &store->lock, &deadline) != ETIMEDOUT;
}

/* ---- threads ----------------------------------------------------------------------------------- */

/* Small chores: room ahead of puts, dead readers' slots, touches that nobody passed on. */
static void *keeper_main(void *context)
{
    cascade_store *store = context;
    unsigned rounds = 0;

    pthread_mutex_lock(&store->lock);
    while (!store->stopping) {
        struct timespec wake = timespec_of(csc_clock_ns() + KEEPER_PERIOD_NS);

        pthread_cond_timedwait(&store->keeper_work, &store->lock, &wake);
        csc_room_keep(store);
        csc_discover_if_wanted(store);
        if (store->set_aside_count)
            csc_recover_end_grace(store);
        if (++rounds % 10 == 0)
            csc_arena_clear_dead_clients(store->arena);
    }
    pthread_mutex_unlock(&store->lock);
    return NULL;
}

enum { WRITER = 1, LOADER = 2, KEEPER = 4, SCRUBBER = 8, DISCOVERER = 16 };

static int start(cascade_store *store, pthread_t *thread, void *(*main)(void *), uint32_t bit)
{
    int err = pthread_create(thread, NULL, main, store);

    if (err)
        return csc_fail_errno(err, "cannot start a thread");
    store->threads_started |= bit;
    return 0;
}

static int start_threads(cascade_store *store)
{
    int code = start(store, &store->writer_thread, csc_writer_main, WRITER);

    if (code == 0)
        code = start(store, &store->loader_thread, csc_loader_main, LOADER);
    if (code == 0)
        code = start(store, &store->keeper_thread, keeper_main, KEEPER);
    if (code == 0)
        code = start(store, &store->discover_thread, csc_discover_main, DISCOVERER);
    if (code == 0 && store->config.scrub_interval_s)
        code = start(store, &store->scrub_thread, csc_scrub_main, SCRUBBER);
    while (code == 0 && store->hash_started < store->config.hash_threads) {
        code = start(store, &store->hash_threads[store->hash_started], csc_hasher_main, 0);
        if (code == 0)
            store->hash_started++;
    }
    if (code == 0 && store->config.prefault)
        code = csc_arena_start_prefault(store->arena);
    return code;
}

static void stop_threads(cascade_store *store)
{
    pthread_mutex_lock(&store->lock);
    store->stopping = true;
    pthread_cond_broadcast(&store->hash_work);
    pthread_cond_broadcast(&store->write_work);
    pthread_cond_broadcast(&store->load_work);
    pthread_cond_broadcast(&store->keeper_work);
    pthread_cond_broadcast(&store->scrub_work);
    pthread_cond_broadcast(&store->discover_work);
    pthread_mutex_unlock(&store->lock);
    for (uint32_t i = 0; i < store->hash_started; i++)
        pthread_join(store->hash_threads[i], NULL);
    if (store->threads_started & WRITER)
        pthread_join(store->writer_thread, NULL);
    if (store->threads_started & LOADER)
        pthread_join(store->loader_thread, NULL);
    if (store->threads_started & KEEPER)
        pthread_join(store->keeper_thread, NULL);
    if (store->threads_started & SCRUBBER)
        pthread_join(store->scrub_thread, NULL);
    if (store->threads_started & DISCOVERER)
        pthread_join(store->discover_thread, NULL);
    store->threads_started = store->hash_started = 0;
}

/* ---- open -------------------------------------------------------------------------------------- */

static void init_sync(cascade_store *store)
{
    pthread_condattr_t attributes;
    pthread_cond_t *conditions[] = {&store->hash_work,   &store->write_work, &store->load_work,
                                    &store->keeper_work, &store->scrub_work, &store->discover_work,
                                    &store->progress};

    pthread_mutex_init(&store->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    for (size_t i = 0; i < sizeof conditions / sizeof conditions[0]; i++)
        pthread_cond_init(conditions[i], &attributes);
    pthread_condattr_destroy(&attributes);
}

/* Frees what this process holds. The threads have stopped. */
static void destroy(cascade_store *store, bool keep_arena)
{
    pthread_cond_t *conditions[] = {&store->hash_work,   &store->write_work, &store->load_work,
                                    &store->keeper_work, &store->scrub_work, &store->discover_work,
                                    &store->progress};
    csc_io *io;

    if (store->file)
        store->file->ops->close(&store->file);
    pthread_mutex_lock(&registry_lock); /* a child of a fork from here on has nothing to let go of */
    io = store->io;
    store->io = NULL;
    pthread_mutex_unlock(&registry_lock);
    csc_io_destroy(&io); /* waits for transfers past their deadline: they write to the arena's pages */
    csc_store_unregister(store, keep_arena);
    csc_policy_destroy(&store->policy);
    csc_policy_destroy(&store->file_policy);
    csc_touch_destroy(&store->touch);
    csc_entries_destroy(store);
    csc_writer_destroy(store);
    csc_discovery_destroy(store);
    free(store->load_ring);
    csc_keyring_destroy(&store->keyring);
    for (size_t i = 0; i < sizeof conditions / sizeof conditions[0]; i++)
        pthread_cond_destroy(conditions[i]);
    pthread_mutex_destroy(&store->lock);
    store->magic = 0;
    free(store);
}

/* About how many blocks a tier holds: the policy's ghost list follows it. */
static uint32_t capacity_guess(const cascade_store *store, uint64_t bytes)
{
    uint64_t pages = bytes / store->config.settings.page_bytes;

    return (uint32_t)(pages < UINT32_MAX / 32 ? pages : UINT32_MAX / 32);
}

static int open_arena(cascade_store *store, bool *taken_over)
{
    csc_arena_options options = {.shm_directory = store->config.shm_directory,
                                 .directory = store->config.directory,
                                 .device = store->config.device,
                                 .rank = store->config.rank,
                                 .page_bytes = (uint32_t)store->config.settings.page_bytes,
                                 .dram_bytes = store->config.settings.dram_bytes};
    csc_policy_kind kind;
    int code;

    memcpy(options.store_uuid, store->config.settings.uuid, sizeof options.store_uuid);
    csc_arena_collect_orphans(store->config.shm_directory);
    pthread_mutex_lock(&registry_lock); /* no fork between its lock and its place in the handle */
    code = csc_arena_open(&options, &store->arena, taken_over);
    pthread_mutex_unlock(&registry_lock);
    if (code)
        return code;
    csc_index_attach(&store->index, csc_arena_base(store->arena));
    csc_slots_attach(&store->slots, csc_arena_base(store->arena), 0, &store->slots_high);
    code = csc_policy_kind_parse(store->config.settings.policy, &kind);
    if (code == 0)
        code = csc_policy_create(kind, capacity_guess(store, store->config.settings.dram_bytes),
                                 store->index.hash_seed, &store->policy);
    if (code == 0 && store->config.settings.file_budget_bytes)
        code = csc_policy_create(kind, capacity_guess(store, store->config.settings.file_budget_bytes),
                                 store->index.hash_seed, &store->file_policy);
    if (code == 0)
        code = csc_touch_init(&store->touch);
    if (code == 0 && !(store->load_ring = calloc(CSC_LOAD_RING, sizeof *store->load_ring)))
        code = csc_fail(CASCADE_ENOMEM, "no memory for the read-ahead queue");
    if (code == 0)
        code = csc_writer_make(store);
    if (code == 0)
        code = csc_discovery_make(store);
    if (code == 0)
        code = csc_entries_init(store);
    if (code == 0 && *taken_over)
        code = csc_recover_arena(store);
    return code;
}

/* Pages become usable in ascending order, so those that are are the first of the region. */
static void *pages_start(cascade_store *store)
{
    return (char *)csc_arena_base(store->arena) +
           store->index.header->geometry.regions[CSC_REGION_PAGES].offset;
}

static uint64_t pages_ready(void *arena)
{
    return csc_arena_ready(arena);
}

/* Which copy kernel is fastest depends on the arena's pages, so it is measured on them, once a process.
 */
static void tune_copies(cascade_store *store)
{
    csc_extents extents;
    cascade_piece piece;

    if (!store->config.prefault || csc_arena_capacity(store->arena) < TUNE_BYTES ||
        csc_arena_allocate(store->arena, TUNE_BYTES, 1, &extents) != 0)
        return;
    csc_arena_pieces(store->arena, &extents, 0, TUNE_BYTES, &piece, 1);
    csc_copy_tune(piece.data, piece.bytes, TUNE_MS);
    csc_arena_free(store->arena, &extents);
}

int csc_store_own(csc_io **io, const csc_store_config *config, cascade_store **result)
{
    bool taken_over = false, whole = false;
    cascade_store *store = calloc(1, sizeof *store);
    int code;

    if (!store)
        return csc_fail(CASCADE_ENOMEM, "no memory for a store");
    init_sync(store);
    csc_store_register(store);
    store->config = *config;
    store->io = *io;
    *io = NULL;
    code = csc_keyring_load(store->config.key_file, store->config.key_command, &store->keyring);
    if (code == 0)
        code = open_arena(store, &taken_over);
    if (code == 0) {
        csc_io_set_memory(store->io, pages_start(store), pages_ready, store->arena);
        code = csc_recover_segments(store);
    }
    if (code == 0) {
        store->segments_found = csc_segment_count(store->file);
        atomic_store(&store->look_due_ns, csc_clock_ns() + store->config.refresh_ms * UINT64_C(1000000));
        atomic_store(&store->index.header->state, CSC_ARENA_LIVE);
        whole = true;
        tune_copies(store);
        code = start_threads(store);
    }
    if (code) {
        char text[512];

        strncpy(text, csc_fail_text(), sizeof text - 1);
        text[sizeof text - 1] = 0;
        stop_threads(store);
        destroy(store, taken_over || whole);
        csc_fail_set_text(text);
        return code;
    }
    store->magic = CSC_STORE_MAGIC;
    if (taken_over)
        csc_log(CSC_LOG_INFO, "took over %llu blocks that a dead owner left in memory",
                (unsigned long long)atomic_load(&store->counters.recovered));
    *result = store;
    return 0;
}

int csc_store_open_with(const cascade_options *given, const csc_io_calls *calls, cascade_store **result)
{
    cascade_options options;
    csc_store_config config;
    csc_io *io = NULL;
    int code = csc_options_copy(given, &options);

    if (code == 0)
        code = csc_io_create(calls, &io);
    if (code == 0)
        code = csc_config_resolve(&options, io, &config);
    if (code == 0)
        code = csc_store_own(&io, &config, result);
    csc_io_destroy(&io);
    return code;
}

/* ---- flush and close --------------------------------------------------------------------------- */

/* Whether all that was acknowledged up to `ticket` is on stable storage. Lock held. */
static bool is_flushed(const cascade_store *store, uint64_t ticket)
{
    return (store->dirty_head == 0 || store->content_states[store->dirty_head - 1].ticket > ticket) &&
           (store->log_queue.head == 0 ||
            store->key_states[store->log_queue.head - 1].ticket > ticket) &&
           (store->log_inflight == 0 || store->log_inflight > ticket);
}

/* Waits until what is dirty or in the log now is on stable storage. Lock held. */
static int flush_to_here(cascade_store *store, uint64_t deadline_ns)
{
    uint64_t ticket = store->ticket, attempt = store->attempts;
    int code = 0;

    while (!is_flushed(store, ticket)) {
        if (store->file_error && store->attempts_failed > attempt) {
            code = csc_fail(
                store->file_error, "%llu bytes and %u binds or deletes could not be flushed: %s",
                (unsigned long long)store->dirty_bytes, store->log_queue.count, store->file_error_text);
            break;
        }
        if (csc_clock_ns() >= deadline_ns) {
            code = csc_fail(CASCADE_ETIMEDOUT,
                            "%llu bytes and %u binds or deletes are not on stable storage yet",
                            (unsigned long long)store->dirty_bytes, store->log_queue.count);
            break;
        }
        pthread_cond_signal(&store->write_work);
        csc_store_wait(store, csc_clock_ns() + UINT64_C(200000000));
    }
    return code;
}

static int flush(cascade_store *store, uint64_t deadline_ns)
{
    int code = 0;

    pthread_mutex_lock(&store->lock);
    store->waiting_flushes++;
    /* A content that was merged on the way left its keys to another or to the log, with later tickets;
     * and what of the other's keys did not fit its record came to the log later still. */
    for (int pass = 0; pass < 3 && code == 0; pass++)
        code = flush_to_here(store, deadline_ns);
    store->waiting_flushes--;
    pthread_mutex_unlock(&store->lock);
    return code;
}

int cascade_store_flush(cascade_store *store)
{
    uint64_t begin_ns = csc_clock_ns();
    int code;

    CSC_ENTER(store);
    if (store->daemon)
        return store->daemon->ops->flush(store);
    code = flush(store, UINT64_MAX);
    csc_latency(store, CASCADE_OP_FLUSH, begin_ns);
    return code;
}

int csc_store_flush_until(cascade_store *store, uint64_t deadline_ns)
{
    return flush(store, deadline_ns);
}

int csc_long_call_begin(cascade_store *store)
{
    bool closing;

    pthread_mutex_lock(&store->lock);
    closing = store->closing;
    store->long_calls += !closing;
    pthread_mutex_unlock(&store->lock);
    return closing ? csc_fail(CASCADE_EAGAIN, "the store is being closed") : 0;
}

void csc_long_call_end(cascade_store *store)
{
    pthread_mutex_lock(&store->lock);
    store->long_calls--;
    pthread_cond_broadcast(&store->progress);
    pthread_mutex_unlock(&store->lock);
}

/* Before the flush: a scrub may have found something that has to be written again. */
static void end_long_calls(cascade_store *store)
{
    pthread_mutex_lock(&store->lock);
    store->closing = true;
    pthread_cond_broadcast(&store->scrub_work);
    pthread_cond_broadcast(&store->write_work);
    pthread_cond_broadcast(&store->progress);
    while (store->long_calls)
        csc_store_wait(store, csc_clock_ns() + UINT64_C(100000000));
    pthread_mutex_unlock(&store->lock);
}

/* What was acknowledged, then what is worth its place in the files: for want of room for the latter a
 * close does not fail. Stops the threads. */
static int flush_and_stop(cascade_store *store)
{
    csc_shed shed = {0};
    int code = flush(store, UINT64_MAX), shed_code = 0;

    if (code == 0) {
        csc_shed_send_down(store, &shed);
        shed_code = flush(store, UINT64_MAX);
    }
    stop_threads(store);
    if (shed_code == CASCADE_ENOSPC && csc_shed_let_go(store, &shed))
        shed_code = 0;
    csc_shed_end(store, &shed, code == 0 && shed_code == 0);
    return code ? code : shed_code;
}

int cascade_store_close(cascade_store **slot)
{
    cascade_store *store;
    char text[768] = "";
    int code;

    if (!slot || !*slot)
        return 0;
    store = *slot;
    code = csc_store_enter(store);
    if (code == CASCADE_EINVAL)
        return code;
    *slot = NULL;
    if (code == CASCADE_EFORKED) {
        /* Its threads may have been changing what the child has a copy of when the fork came, under
         * locks that nobody here holds: nothing of that is safe to walk or to free. */
        csc_arena_leave(store->arena);
        return 0;
    }
    if (store->daemon) {
        csc_client_handle_free(store);
        return 0;
    }
    end_long_calls(store);
    if (code == 0)
        code = flush_and_stop(store);
    else
        stop_threads(store);
    if (code == 0) {
        code = csc_segment_seal(store->file);
        if (code == CASCADE_ENOSPC)
            code =
                0; /* no room for the segment's index, but its records are durable and will be scanned */
    }
    if (code) {
        snprintf(text, sizeof text, "%s; what was not flushed waits in %s for the next open",
                 csc_fail_text(), csc_arena_path(store->arena));
        csc_log(CSC_LOG_ERROR, "closing %s: %s", store->config.directory, text);
    }
    destroy(store, code != 0);
    csc_fail_set_text(text);
    return code;
}
