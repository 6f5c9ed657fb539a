/* SPDX-License-Identifier: MIT */
/*
 * What the Python extension puts between cffi and the public interface: a handle that may be closed
 * while other threads are inside a call, and that views keep alive.
 *
 * The C library asks that no call runs or comes after cascade_store_close. Python cannot ask that of its
 * users, and a check in Python would leave a hole between the check and the call, so the calls are
 * counted here. emit_binding.py hands this file to cffi too, after dropping the lines that start with a
 * hash sign: nothing but plain declarations may stand here, and no macro.
 */
#ifndef CASCADE_PYTHON_BINDING_H
#define CASCADE_PYTHON_BINDING_H

#include <cascade/simulator.h>

/* A store that was opened; see binding.c. */
typedef struct binding_store binding_store;

/* A pinned block. It holds a reference on its handle, whichever of both Python frees first. */
typedef struct binding_view {
    cascade_view *pinned;
    binding_store *handle;
} binding_view;

/* The start of DLPack's managed tensors, old and versioned, as far as it is read here. */
typedef struct binding_dltensor {
    void *data;
    int32_t device_type;
    int32_t device_id;
    int32_t ndim;
    uint8_t code;
    uint8_t bits;
    uint16_t lanes;
    int64_t *shape;
    int64_t *strides; /* in elements; NULL: C order */
    uint64_t byte_offset;
} binding_dltensor;

typedef struct binding_dltensor_versioned {
    uint32_t major;
    uint32_t minor;
    void *context;
    void (*deleter)(void *self);
    uint64_t flags; /* bit 0: read only */
    binding_dltensor tensor;
} binding_dltensor_versioned;

/* What a call on a closed handle returns, and a close that finds views held. No values of Cascade's. */
enum { BINDING_CLOSED = -1000, BINDING_VIEWS = -1001 };

/* The codes of the error table, `*count` of them. */
const int *binding_error_codes(size_t *count);

int binding_store_open(const cascade_options *options, binding_store **handle);

/* Turns new calls away, waits for those that run, and closes. A second close waits for the first.
 * Returns as cascade_store_close, or BINDING_VIEWS: views are held and the store stays open. */
int binding_store_close(binding_store *handle);
bool binding_store_is_open(const binding_store *handle);

/* Gives up Python's reference; the last one, this or a view's, closes a store that is still open. */
void binding_store_free(binding_store *handle);

/* The calls of cascade.h, guarded. */
int binding_store_flush(binding_store *handle);
int binding_store_stats(binding_store *handle, cascade_stats *stats);
int binding_store_scrub(binding_store *handle, const cascade_scrub_options *options,
                        cascade_verify_report *report);
int binding_store_gc(binding_store *handle, bool dry_run, cascade_gc_report *report);
int binding_put(binding_store *handle, cascade_put *put, uint32_t flags);
int binding_put_many(binding_store *handle, cascade_put *puts, size_t count, uint32_t flags);
int binding_get(binding_store *handle, const uint8_t *key, const cascade_block *into);
/* K and V in one run of bytes each: the fast path, without structures to build in Python. */
int binding_get_pair(binding_store *handle, const uint8_t *key, void *k, size_t k_bytes, void *v,
                     size_t v_bytes);
int binding_get_many(binding_store *handle, cascade_get *gets, size_t count);
int binding_get_range(binding_store *handle, const uint8_t *key, uint64_t offset, size_t bytes,
                      void *into);
int binding_info(binding_store *handle, const uint8_t *key, cascade_info *info);
int binding_delete(binding_store *handle, const uint8_t *key);
int binding_key_next(binding_store *handle, uint64_t *cursor, uint8_t *key, cascade_info *info);
int binding_prefix_match(binding_store *handle, const uint8_t *keys, size_t count, size_t *matched);
int binding_prefix_release(binding_store *handle, const uint8_t *keys, size_t count);
int binding_prefetch(binding_store *handle, const uint8_t *keys, size_t count);
int binding_content_put(binding_store *handle, uint64_t tenant, const cascade_block *block,
                        uint32_t flags, cascade_id *id, bool *existed);
int binding_content_get(binding_store *handle, uint64_t tenant, const cascade_id *id,
                        const cascade_block *into);
int binding_content_info(binding_store *handle, uint64_t tenant, const cascade_id *id,
                         cascade_info *info);
int binding_content_delete(binding_store *handle, uint64_t tenant, const cascade_id *id);

int binding_view_open(binding_store *handle, const uint8_t *key, binding_view **view);
void binding_view_free(binding_view *view);

#endif
