/* SPDX-License-Identifier: MIT */
/*
 * Life of a handle.
 *
 * `calls` counts the calls inside the library. A call adds itself first and looks at `closing` second;
 * close sets `closing` first and waits for `calls` to reach zero second. Both are sequentially
 * consistent, so one of the two always sees the other. The wait polls: it is rare, it ends when a
 * bounded call ends, and a condition would have to be signalled by a call that might be the last to
 * touch it.
 *
 * `references` is Python's own reference plus one per view. The garbage collector may free the handle
 * before the views, so the last to go closes and frees.
 *
 * In a forked child `calls` may count the parent's threads, which do not exist there: the child never
 * waits, and drops views without telling the library, whose slots belong to the parent.
 */
#include "binding.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct binding_store {
    cascade_store *store; /* NULL once closed; written only while `closing` is set and `calls` is zero */
    atomic_uint calls;
    atomic_uint references;
    atomic_bool closing;
    atomic_bool closed;
    pid_t owner;
};

static const int error_codes[] = {
#define ERROR_CODE(name, value, text) (value),
    CASCADE_ERROR_TABLE(ERROR_CODE)
#undef ERROR_CODE
};

/* Keys travel as plain bytes, which Python hands over without making a structure. */
_Static_assert(sizeof(cascade_key) == CASCADE_KEY_BYTES, "a key is its bytes");
_Static_assert(_Alignof(cascade_key) == 1, "a key may lie anywhere");

static const cascade_key *as_key(const uint8_t *bytes)
{
    return (const cascade_key *)bytes;
}

const int *binding_error_codes(size_t *count)
{
    *count = sizeof error_codes / sizeof error_codes[0];
    return error_codes;
}

int binding_store_open(const cascade_options *options, binding_store **handle)
{
    binding_store *made = calloc(1, sizeof *made);
    int code;

    if (!made)
        return CASCADE_ENOMEM;
    code = cascade_store_open(options, &made->store);
    if (code) {
        free(made);
        return code;
    }
    atomic_init(&made->references, 1);
    made->owner = getpid();
    *handle = made;
    return 0;
}

static void pause_briefly(void)
{
    const struct timespec wait = {.tv_nsec = 200 * 1000};

    nanosleep(&wait, NULL);
}

int binding_store_close(binding_store *handle)
{
    bool forked = getpid() != handle->owner;
    int code;

    while (atomic_exchange(&handle->closing, true)) {
        if (atomic_load(&handle->closed) || forked)
            return 0;
        pause_briefly();
    }
    while (!forked && atomic_load(&handle->calls))
        pause_briefly();
    if (atomic_load(&handle->references) > 1) {
        atomic_store(&handle->closing, false);
        return BINDING_VIEWS;
    }
    code = cascade_store_close(&handle->store);
    atomic_store(&handle->closed, true);
    return code;
}

bool binding_store_is_open(const binding_store *handle)
{
    return !atomic_load(&handle->closed);
}

static void drop_reference(binding_store *handle)
{
    if (atomic_fetch_sub(&handle->references, 1) > 1)
        return;
    if (!atomic_load(&handle->closed))
        cascade_store_close(&handle->store);
    free(handle);
}

void binding_store_free(binding_store *handle)
{
    drop_reference(handle);
}

static bool enter(binding_store *handle)
{
    atomic_fetch_add(&handle->calls, 1);
    if (!atomic_load(&handle->closing))
        return true;
    atomic_fetch_sub(&handle->calls, 1);
    return false;
}

static int leave(binding_store *handle, int code)
{
    atomic_fetch_sub(&handle->calls, 1);
    return code;
}

/* `call` is evaluated only inside. */
#define GUARDED(handle, call) (enter(handle) ? leave((handle), (call)) : BINDING_CLOSED)

int binding_store_flush(binding_store *handle)
{
    return GUARDED(handle, cascade_store_flush(handle->store));
}

int binding_store_stats(binding_store *handle, cascade_stats *stats)
{
    return GUARDED(handle, cascade_store_stats(handle->store, stats));
}

/* Looked at between steps: a close does not wait for hours of a slow scrub. */
static int wants_end(void *context, uint64_t done_bytes, uint64_t total_bytes)
{
    const binding_store *handle = context;

    (void)done_bytes;
    (void)total_bytes;
    return atomic_load(&handle->closing);
}

int binding_store_scrub(binding_store *handle, const cascade_scrub_options *options,
                        cascade_verify_report *report)
{
    return GUARDED(handle, cascade_store_scrub(handle->store, options, report, wants_end, handle));
}

int binding_store_gc(binding_store *handle, bool dry_run, cascade_gc_report *report)
{
    return GUARDED(handle, cascade_store_gc(handle->store, dry_run, report, wants_end, handle));
}

int binding_put(binding_store *handle, cascade_put *put, uint32_t flags)
{
    return GUARDED(handle, cascade_block_put(handle->store, put, flags));
}

int binding_put_many(binding_store *handle, cascade_put *puts, size_t count, uint32_t flags)
{
    return GUARDED(handle, cascade_block_put_many(handle->store, puts, count, flags));
}

int binding_get(binding_store *handle, const uint8_t *key, const cascade_block *into)
{
    return GUARDED(handle, cascade_block_get(handle->store, as_key(key), into));
}

int binding_get_pair(binding_store *handle, const uint8_t *key, void *k, size_t k_bytes, void *v,
                     size_t v_bytes)
{
    const cascade_piece pieces[2] = {{k, k_bytes}, {v, v_bytes}};
    const cascade_block into = {&pieces[0], 1, &pieces[1], v_bytes ? 1 : 0};

    return GUARDED(handle, cascade_block_get(handle->store, as_key(key), &into));
}

int binding_get_many(binding_store *handle, cascade_get *gets, size_t count)
{
    return GUARDED(handle, cascade_block_get_many(handle->store, gets, count));
}

int binding_get_range(binding_store *handle, const uint8_t *key, uint64_t offset, size_t bytes,
                      void *into)
{
    return GUARDED(handle, cascade_block_get_range(handle->store, as_key(key), offset, bytes, into));
}

int binding_info(binding_store *handle, const uint8_t *key, cascade_info *info)
{
    return GUARDED(handle, cascade_block_info(handle->store, as_key(key), info));
}

int binding_delete(binding_store *handle, const uint8_t *key)
{
    return GUARDED(handle, cascade_block_delete(handle->store, as_key(key)));
}

int binding_key_next(binding_store *handle, uint64_t *cursor, uint8_t *key, cascade_info *info)
{
    return GUARDED(handle, cascade_key_next(handle->store, cursor, (cascade_key *)key, info));
}

int binding_prefix_match(binding_store *handle, const uint8_t *keys, size_t count, size_t *matched)
{
    return GUARDED(handle, cascade_prefix_match(handle->store, as_key(keys), count, matched));
}

int binding_prefix_release(binding_store *handle, const uint8_t *keys, size_t count)
{
    return GUARDED(handle, cascade_prefix_release(handle->store, as_key(keys), count));
}

int binding_prefetch(binding_store *handle, const uint8_t *keys, size_t count)
{
    return GUARDED(handle, cascade_prefetch(handle->store, as_key(keys), count));
}

int binding_content_put(binding_store *handle, uint64_t tenant, const cascade_block *block,
                        uint32_t flags, cascade_id *id, bool *existed)
{
    return GUARDED(handle, cascade_content_put(handle->store, tenant, block, flags, id, existed));
}

int binding_content_get(binding_store *handle, uint64_t tenant, const cascade_id *id,
                        const cascade_block *into)
{
    return GUARDED(handle, cascade_content_get(handle->store, tenant, id, into));
}

int binding_content_info(binding_store *handle, uint64_t tenant, const cascade_id *id,
                         cascade_info *info)
{
    return GUARDED(handle, cascade_content_info(handle->store, tenant, id, info));
}

int binding_content_delete(binding_store *handle, uint64_t tenant, const cascade_id *id)
{
    return GUARDED(handle, cascade_content_delete(handle->store, tenant, id));
}

int binding_view_open(binding_store *handle, const uint8_t *key, binding_view **view)
{
    binding_view *made = calloc(1, sizeof *made);
    int code;

    if (!made)
        return CASCADE_ENOMEM;
    if (!enter(handle)) {
        free(made);
        return BINDING_CLOSED;
    }
    code = cascade_block_view(handle->store, as_key(key), &made->pinned);
    if (code) {
        free(made);
        return leave(handle, code);
    }
    /* Before the call is over, so that a close that waits for it finds the view. */
    atomic_fetch_add(&handle->references, 1);
    made->handle = handle;
    *view = made;
    return leave(handle, 0);
}

void binding_view_free(binding_view *view)
{
    if (getpid() == view->handle->owner)
        cascade_view_release(view->handle->store, &view->pinned);
    drop_reference(view->handle);
    free(view);
}
