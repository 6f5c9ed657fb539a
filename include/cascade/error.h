/* SPDX-License-Identifier: MIT */
/*
 * Return codes of every Cascade call.
 *
 * A call returns 0 on success, a positive code for a normal outcome that is not success (a miss),
 * and a negative code for a failure. The values are fixed for ever; new ones are appended.
 * They are Cascade's own, not errno's, because drivers and message layers have no errno and "no
 * such block" must not look like "no such file".
 *
 * One table, CASCADE_ERROR_TABLE, gives code, name, value and text; the enum, the names and the
 * texts are generated from it.
 */
#ifndef CASCADE_ERROR_H
#define CASCADE_ERROR_H

#ifdef __cplusplus
extern "C" {
#endif

#define CASCADE_ERROR_TABLE(X)                                                                          \
    X(OK, 0, "success")                                                                                 \
    X(MISS, 1, "no such block, or it is no longer held")                                                \
    X(EINVAL, -1, "an argument or a setting is not valid")                                              \
    X(ENOMEM, -2, "process memory is exhausted")                                                        \
    X(ENOSPC, -3, "no room: memory, shared memory or the file budget is full")                          \
    X(EBUSY, -4, "the store is in use by another process")                                              \
    X(EAGAIN, -5, "not answered in bounded time; try again")                                            \
    X(EIO, -6, "an input or output operation failed")                                                   \
    X(ECORRUPT, -7, "bytes fail their checksum or contradict each other")                               \
    X(EFORMAT, -8, "not a Cascade file, or of a version this library does not read")                    \
    X(ENOSTORE, -9, "there is no store in this directory")                                              \
    X(EACCES, -10, "permission denied")                                                                 \
    X(ENOSLOT, -11, "all pin slots of this process are taken")                                          \
    X(EFORKED, -12, "the handle belongs to the parent process; open the store again")                   \
    X(ETOOBIG, -13, "the block is larger than the dram tier can hold")                                  \
    X(EPOISONED, -14, "an internal invariant broke; the handle only closes now")                        \
    X(ETIMEDOUT, -15, "the operation did not end within its deadline")                                  \
    X(ENOTSUP, -16, "not supported here")                                                               \
    X(EEXIST, -17, "it exists already")                                                                 \
    X(ESIZE, -18, "the given pieces do not add up to the block's size")                                 \
    X(ECONFLICT, -19, "the key is bound to other bytes")                                                \
    X(ENOKEY, -20, "blocks are encrypted with a key that was not given")

typedef enum cascade_error {
#define CASCADE_ERROR_ENUM_(name, value, text) CASCADE_##name = (value),
    CASCADE_ERROR_TABLE(CASCADE_ERROR_ENUM_)
#undef CASCADE_ERROR_ENUM_
} cascade_error;

#ifdef __cplusplus
}
#endif
#endif
