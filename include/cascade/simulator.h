/* SPDX-License-Identifier: MIT */
/* The eviction policy without a store. Threads, errors: as in cascade.h. */
#ifndef CASCADE_SIMULATOR_H
#define CASCADE_SIMULATOR_H

#include <cascade/cascade.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * The eviction policy without a store: feeds requests to the very code the dram tier runs.
 * One simulator belongs to one thread at a time.
 */
typedef struct cascade_simulator cascade_simulator;

/** `policy`: as in cascade_options. `capacity_blocks`: 1 or more; UINT32_MAX is unlimited.
 * Errors: CASCADE_EINVAL, CASCADE_ENOMEM. */
CASCADE_API int cascade_simulator_create(const char *policy, uint32_t capacity_blocks,
                                         cascade_simulator **simulator);

/**
 * One request for the blocks `ids[0..count)`, each the child of the one before. Equal ids mean equal
 * prefixes. `*hits`: the longest leading run that was resident. Errors: CASCADE_ENOMEM.
 */
CASCADE_API int cascade_simulator_request(cascade_simulator *simulator, const uint64_t *ids,
                                          size_t count, size_t *hits);

CASCADE_API void cascade_simulator_destroy(cascade_simulator **simulator);

#ifdef __cplusplus
}
#endif
#endif
