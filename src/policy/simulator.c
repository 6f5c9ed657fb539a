/* SPDX-License-Identifier: MIT */
/*
 * The policy on a trace of block numbers, without a store. A request looks its blocks up in order; hits
 * are the longest leading run of residents; then all its blocks are touched or inserted, head first.
 */
#include "base/fail.h"
#include "policy/policy.h"

#include <cascade/simulator.h>

#include <stdlib.h>

#define NONE CSC_POLICY_NONE

enum { FIRST_ROOM = 1024, SEED = 1 };

typedef struct sim_block {
    uint64_t id;
    uint32_t parent; /* as it became resident, or NONE */
    bool resident;
} sim_block;

struct cascade_simulator {
    uint32_t capacity_blocks; /* UINT32_MAX: unlimited */
    csc_policy *policy;
    sim_block *blocks; /* by block number, in order of first sight */
    uint32_t *slots;   /* open addressing over ids: block number + 1, 0 free; twice `room` */
    uint32_t count;
    uint32_t room; /* a power of two */
};

int cascade_simulator_create(const char *policy, uint32_t capacity_blocks, cascade_simulator **simulator)
{
    cascade_simulator *made;
    csc_policy_kind kind;
    int result;

    if (!simulator)
        return csc_fail(CASCADE_EINVAL, "no place for the simulator");
    if (capacity_blocks == 0)
        return csc_fail(CASCADE_EINVAL, "a capacity of 0 blocks");
    result = csc_policy_kind_parse(policy, &kind);
    if (result != CASCADE_OK)
        return result;
    made = calloc(1, sizeof *made);
    if (!made)
        return csc_fail(CASCADE_ENOMEM, "no memory for a simulator");
    made->capacity_blocks = capacity_blocks;
    result = csc_policy_create(kind, capacity_blocks, SEED, &made->policy);
    if (result != CASCADE_OK) {
        free(made);
        return result;
    }
    *simulator = made;
    return CASCADE_OK;
}

void cascade_simulator_destroy(cascade_simulator **simulator)
{
    if (!simulator || !*simulator)
        return;
    csc_policy_destroy(&(*simulator)->policy);
    free((*simulator)->blocks);
    free((*simulator)->slots);
    free(*simulator);
    *simulator = NULL;
}

static uint32_t *slot_of(const cascade_simulator *simulator, uint64_t id)
{
    uint32_t mask = 2 * simulator->room - 1;
    uint32_t i = (uint32_t)((id * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & mask;

    while (simulator->slots[i] && simulator->blocks[simulator->slots[i] - 1].id != id)
        i = (i + 1) & mask;
    return &simulator->slots[i];
}

static int grow(cascade_simulator *simulator)
{
    uint32_t room = simulator->room ? 2 * simulator->room : FIRST_ROOM;
    sim_block *blocks = NULL;
    uint32_t *slots = NULL;

    if (room <= UINT32_MAX / 4) {
        blocks = realloc(simulator->blocks, room * sizeof *blocks);
        if (blocks)
            simulator->blocks = blocks;
        slots = blocks ? calloc(2 * (size_t)room, sizeof *slots) : NULL;
    }
    if (!slots)
        return csc_fail(CASCADE_ENOMEM, "no memory for %u blocks", room);
    free(simulator->slots);
    simulator->slots = slots;
    simulator->room = room;
    for (uint32_t i = 0; i < simulator->count; i++)
        *slot_of(simulator, blocks[i].id) = i + 1;
    return CASCADE_OK;
}

/* The block's number; a new one for an id not seen before. */
static int number_of(cascade_simulator *simulator, uint64_t id, uint32_t *number)
{
    uint32_t *slot;
    int result = simulator->count == simulator->room ? grow(simulator) : CASCADE_OK;

    if (result != CASCADE_OK)
        return result;
    slot = slot_of(simulator, id);
    if (!*slot) {
        simulator->blocks[simulator->count] = (sim_block){.id = id, .parent = NONE};
        *slot = ++simulator->count;
    }
    *number = *slot - 1;
    return CASCADE_OK;
}

static void leave(cascade_simulator *simulator, uint32_t number)
{
    sim_block *block = &simulator->blocks[number];

    csc_policy_evict(simulator->policy, number);
    if (block->parent != NONE)
        csc_policy_children(simulator->policy, block->parent, -1);
    block->resident = false;
}

/* Makes room for one block. False: it is refused. */
static bool make_room(cascade_simulator *simulator, uint32_t number, bool tail)
{
    csc_policy *policy = simulator->policy;
    uint32_t victim;

    if (csc_policy_resident_count(policy) < simulator->capacity_blocks)
        return true;
    victim = csc_policy_victim(policy, NULL, NULL);
    if (victim == NONE || csc_policy_refuses(policy, victim, number, 1, tail))
        return false;
    leave(simulator, victim);
    return true;
}

static int enter(cascade_simulator *simulator, uint32_t number, uint32_t parent, bool tail)
{
    sim_block *block = &simulator->blocks[number];
    int result = csc_policy_insert(simulator->policy, number, 1, tail, false);

    if (result != CASCADE_OK)
        return result;
    /* A block twice in one request could be its own parent. */
    block->parent = parent == number ? NONE : parent;
    if (block->parent != NONE)
        result = csc_policy_children(simulator->policy, parent, 1);
    if (result != CASCADE_OK)
        csc_policy_forget(simulator->policy, number);
    block->resident = result == CASCADE_OK;
    return result;
}

/* The blocks at hand; `*run` is the longest leading run of them. A block used again while it is here is
 * what the published rule protects: a trace knows no other reference. */
static int use_residents(cascade_simulator *simulator, const uint64_t *ids, size_t count, size_t *run)
{
    bool leading = true;
    uint32_t number;

    for (size_t i = 0; i < count; i++) {
        int result = number_of(simulator, ids[i], &number);

        if (result != CASCADE_OK)
            return result;
        leading = leading && simulator->blocks[number].resident;
        *run += leading;
        if (simulator->blocks[number].resident) {
            csc_policy_touch(simulator->policy, number, i + 1 == count);
            csc_policy_set_shared(simulator->policy, number, true);
        }
    }
    return CASCADE_OK;
}

int cascade_simulator_request(cascade_simulator *simulator, const uint64_t *ids, size_t count,
                              size_t *hits)
{
    uint32_t parent = NONE, number;
    bool refused = false;
    size_t run = 0;
    int result;

    if (!simulator || !hits || (count && !ids))
        return csc_fail(CASCADE_EINVAL,
                        "a simulated request needs a simulator, ids and a place for hits");
    csc_policy_tick(simulator->policy);
    result = use_residents(simulator, ids, count, &run);
    for (size_t i = 0; result == CASCADE_OK && i < count; i++, parent = number) {
        bool tail = i + 1 == count;

        result = number_of(simulator, ids[i], &number);
        if (result != CASCADE_OK || simulator->blocks[number].resident)
            continue;
        refused = refused || !make_room(simulator, number, tail);
        if (refused)
            csc_policy_refuse(simulator->policy, number, tail);
        else
            result = enter(simulator, number, parent, tail);
    }
    if (result == CASCADE_OK)
        *hits = run;
    return result;
}
