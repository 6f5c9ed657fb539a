/* SPDX-License-Identifier: MIT */
/*
 * Which block leaves a tier next. Pure: no I/O, no clock, no threads, no randomness but its own seeded
 * generator, so that the simulator and the store run the same code and agree.
 *
 * Items are small integers chosen by the caller (the store: content numbers; the simulator: dense block
 * numbers); arrays grow to the largest seen. An item is unknown, resident, or a ghost (left,
 * remembered). The caller keeps the prefix forest: it tells the policy how many resident children an
 * item has. Only leaves (no resident child) are candidates to leave.
 *
 * Not thread-safe: the store calls it under its lock.
 */
#ifndef CSC_POLICY_POLICY_H
#define CSC_POLICY_POLICY_H

#include <cascade/error.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CSC_POLICY_NONE UINT32_MAX

typedef enum csc_policy_kind {
    CSC_POLICY_HAZARD = 0, /* prefix hazard density: docs/policy.md */
    CSC_POLICY_LRU,        /* least recently used, tail of a request first */
    CSC_POLICY_PUBLISHED   /* protect items flagged prefix or with more than one reference, else LRU */
} csc_policy_kind;

typedef struct csc_policy csc_policy;

/** Parses "hazard", "lru", "published". Errors: CASCADE_EINVAL. */
int csc_policy_kind_parse(const char *name, csc_policy_kind *kind);
const char *csc_policy_kind_name(csc_policy_kind kind);

/** `capacity_items`: about how many items are resident when full (sizes the ghost list; the store passes
 * an estimate and may correct it with csc_policy_set_capacity). Errors: CASCADE_ENOMEM. */
int csc_policy_create(csc_policy_kind kind, uint32_t capacity_items, uint64_t seed, csc_policy **policy);
void csc_policy_destroy(csc_policy **policy);
void csc_policy_set_capacity(csc_policy *policy, uint32_t capacity_items);

/** A new request begins: one tick of the policy's clock. Items touched or inserted from here to the
 * next tick are "of the request at hand". */
void csc_policy_tick(csc_policy *policy);

/** A resident item was used, or a ghost was (read from a lower tier without coming up; it stays a
 * ghost). `tail`: the last block of its request. Ignored if unknown; a second touch in one tick changes
 * nothing but may add `tail`. */
void csc_policy_touch(csc_policy *policy, uint32_t item, bool tail);

/** An item becomes resident (unknown or ghost before; if resident already, as a touch with new bytes).
 * `bytes` > 0 weighs it: hits per byte count.
 * `shared`: flagged prefix or several references (the published rule looks at it only).
 * Errors: CASCADE_ENOMEM (nothing changed). */
int csc_policy_insert(csc_policy *policy, uint32_t item, uint64_t bytes, bool tail, bool shared);

/** Sets the published rule's protection. */
void csc_policy_set_shared(csc_policy *policy, uint32_t item, bool shared);

/** A resident item left for a lower tier: it becomes a ghost. */
void csc_policy_evict(csc_policy *policy, uint32_t item);

/** The policy judged a newcomer not worth a victim: it never became resident, but is remembered. (If it
 * was inserted already: as csc_policy_evict.) */
void csc_policy_refuse(csc_policy *policy, uint32_t item, bool tail);

/** An item is gone for good (deleted, dropped, merged); forgets all about it, child count included. The
 * number may then be given to another item. */
void csc_policy_forget(csc_policy *policy, uint32_t item);

/** The number of resident children of `item` (resident or not) changed by `delta`; never below 0.
 * Errors: CASCADE_ENOMEM (nothing changed; never for an item known before). */
int csc_policy_children(csc_policy *policy, uint32_t item, int delta);

/** Says whether an item may leave now (pins, leases, dirt): false skips it. */
typedef bool (*csc_policy_filter)(void *context, uint32_t item);

/**
 * The resident leaf that should leave next and passes `filter` (NULL: all pass), not of the request at
 * hand; if no leaf can go, the coldest item of any kind that passes; CSC_POLICY_NONE if none: then a
 * newcomer has to go to the tier below itself. Changes nothing but the generator's state. At most 128
 * items are looked at while enough of them pass; only if none of those does, as many as it takes.
 */
uint32_t csc_policy_victim(csc_policy *policy, csc_policy_filter filter, void *context);

/** Whether `victim` is worth more than a newcomer `item` (unknown or ghost) of `bytes`: then the
 * newcomer, and the rest of its request, should go to the tier below instead. */
bool csc_policy_refuses(const csc_policy *policy, uint32_t victim, uint32_t item, uint64_t bytes,
                        bool tail);

/** What an item earns where it is; of policies of one kind that tick together, as those of two tiers. */
typedef struct csc_policy_worth {
    bool is_protected;
    float value;
    uint64_t age; /* in ticks: counts where all else is equal */
} csc_policy_worth;

/** Of an item that is not known: the least. Its children do not count. */
csc_policy_worth csc_policy_worth_of(const csc_policy *policy, uint32_t item);
/** Below 0: `a` is worth less than `b`; 0: as much. */
int csc_policy_worth_compare(const csc_policy_worth *a, const csc_policy_worth *b);

uint32_t csc_policy_resident_count(const csc_policy *policy);
/** At most 16 times the capacity; 0 for policies that do not learn. */
uint32_t csc_policy_ghost_count(const csc_policy *policy);

#endif
