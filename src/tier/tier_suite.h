/* SPDX-License-Identifier: MIT */
/*
 * The test that every tier must pass, for tests only. A tier's own test lists CSC_TIER_SUITE(&fixture),
 * and what else fits it, among its cmocka tests and compiles tier_suite.c with it.
 */
#ifndef CSC_TIER_TIER_SUITE_H
#define CSC_TIER_TIER_SUITE_H

#include "tier/tier.h"

/** How to get a tier to test. */
typedef struct csc_tier_fixture {
    /** Makes an empty tier with room for at least 64 MiB. */
    csc_tier *(*open)(void);
    /** Closes it and removes what it left. */
    void (*close)(csc_tier **tier);
} csc_tier_fixture;

void csc_tier_suite_sizes(void **state);
void csc_tier_suite_pieces(void **state);
void csc_tier_suite_ranges(void **state);
void csc_tier_suite_batch(void **state);
void csc_tier_suite_refusals(void **state);
void csc_tier_suite_view(void **state);
void csc_tier_suite_drop(void **state);
void csc_tier_suite_threads(void **state);

#define CSC_TIER_SUITE_TEST(name, fixture)                                                              \
    {                                                                                                   \
        "tier_" #name, csc_tier_suite_##name, NULL, NULL, fixture                                       \
    }
/** For every tier. */
#define CSC_TIER_SUITE(fixture)                                                                         \
    CSC_TIER_SUITE_TEST(sizes, fixture), CSC_TIER_SUITE_TEST(pieces, fixture),                          \
        CSC_TIER_SUITE_TEST(ranges, fixture), CSC_TIER_SUITE_TEST(batch, fixture),                      \
        CSC_TIER_SUITE_TEST(drop, fixture), CSC_TIER_SUITE_TEST(threads, fixture)
/** For tiers that tell other contents and damaged places apart. */
#define CSC_TIER_SUITE_CHECKED(fixture) CSC_TIER_SUITE_TEST(refusals, fixture)
/** For tiers with the view operation. */
#define CSC_TIER_SUITE_VIEW(fixture) CSC_TIER_SUITE_TEST(view, fixture)

/* For a tier's own further tests. */

/** Bytes that depend on seed and place. */
void csc_tier_suite_fill(void *to, size_t bytes, uint64_t seed);
/** Facts of a content of that seed; its digest is made up from the seed. */
csc_content csc_tier_suite_content(uint64_t seed, uint64_t k_bytes, uint64_t v_bytes);

#endif
