/* SPDX-License-Identifier: MIT */
/*
 * What must hold. Per key: the acknowledged states since the last durable one, in order, and the one
 * that an unanswered operation would make.
 *
 * After a kill a key is in its last acknowledged state or the pending one. After the arena is gone too
 * (a reboot), it is in its last durable state or any later one: what was not flushed may or may not have
 * reached the disk, but what was flushed never comes undone.
 */
#include "torture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void append(key_history *history, uint64_t seed, uint64_t time)
{
    if (history->count == history->room) {
        history->room = history->room ? 2 * history->room : 4;
        history->seeds = realloc(history->seeds, history->room * sizeof *history->seeds);
        history->times = realloc(history->times, history->room * sizeof *history->times);
        if (!history->seeds || !history->times)
            abort();
    }
    history->seeds[history->count] = seed;
    history->times[history->count++] = time;
}

/* Forgets all before state number `first`. */
static void cut(key_history *history, uint32_t first)
{
    history->count -= first;
    memmove(history->seeds, history->seeds + first, history->count * sizeof *history->seeds);
    memmove(history->times, history->times + first, history->count * sizeof *history->times);
}

void oracle_reset(torture_oracle *oracle)
{
    for (uint32_t key = 0; key < KEY_COUNT; key++) {
        key_history *history = &oracle->keys[key];

        history->count = 0;
        history->is_pending = false;
        append(history, 0, 0);
    }
    oracle->rebooted = false;
}

uint64_t oracle_state(const torture_oracle *oracle, uint32_t key)
{
    return oracle->keys[key].seeds[oracle->keys[key].count - 1];
}

static void acknowledge(torture_oracle *oracle, const torture_record *record, bool durable)
{
    key_history *history = &oracle->keys[record->key];

    if (oracle_state(oracle, record->key) != record->seed)
        append(history, record->seed, oracle->time);
    if (durable)
        cut(history, history->count - 1);
    /* Workers put shared keys at the same time: one's answer ends the doubt of all. */
    history->is_pending = false;
    oracle->put_acks += record->seed != 0;
    oracle->delete_acks += record->seed == 0;
    oracle->durable_acks += durable;
}

static void flushed(torture_oracle *oracle, uint64_t began)
{
    for (uint32_t key = 0; key < KEY_COUNT; key++) {
        key_history *history = &oracle->keys[key];
        uint32_t first = history->count - 1;

        while (first > 0 && history->times[first] > began)
            first--;
        cut(history, first);
    }
    oracle->flush_acks++;
}

static void begin(torture_oracle *oracle, const torture_record *record)
{
    key_history *history = &oracle->keys[record->key];

    if (oracle_state(oracle, record->key) == record->seed)
        return;
    history->is_pending = true;
    history->pending = record->seed;
    history->version++;
}

/* A key that was in doubt has been looked at: what it is, it stays. */
static void settle(torture_oracle *oracle, const torture_record *record)
{
    key_history *history = &oracle->keys[record->key];

    if (oracle->rebooted)
        history->count = 0;
    if (history->count == 0 || oracle_state(oracle, record->key) != record->seed)
        append(history, record->seed, oracle->time);
    history->is_pending = false;
}

void oracle_take(torture_oracle *oracle, const torture_record *record)
{
    oracle->time++;
    switch (record->kind) {
    case RECORD_BEGIN:
        begin(oracle, record);
        break;
    case RECORD_ACK:
    case RECORD_ACK_DURABLE:
        acknowledge(oracle, record, record->kind == RECORD_ACK_DURABLE);
        break;
    case RECORD_FLUSH_BEGIN:
        oracle->flush_began[record->worker] = oracle->time;
        break;
    case RECORD_FLUSH_ACK:
        flushed(oracle, oracle->flush_began[record->worker]);
        break;
    case RECORD_SEEN:
        settle(oracle, record);
        break;
    case RECORD_VERIFIED:
        oracle_verified(oracle);
        break;
    default:
        break;
    }
}

void oracle_verified(torture_oracle *oracle)
{
    for (uint32_t key = 0; key < KEY_COUNT; key++)
        oracle->keys[key].is_pending = false;
    oracle->rebooted = false;
}

void oracle_closed(torture_oracle *oracle)
{
    for (uint32_t key = 0; key < KEY_COUNT; key++)
        cut(&oracle->keys[key], oracle->keys[key].count - 1);
}

bool oracle_allows(const torture_oracle *oracle, uint32_t key, uint64_t seed)
{
    const key_history *history = &oracle->keys[key];

    if (history->is_pending && history->pending == seed)
        return true;
    for (uint32_t i = oracle->rebooted ? 0 : history->count - 1; i < history->count; i++)
        if (history->seeds[i] == seed)
            return true;
    return false;
}

bool oracle_doubts(const torture_oracle *oracle, uint32_t key)
{
    const key_history *history = &oracle->keys[key];

    return history->is_pending || (oracle->rebooted && history->count > 1);
}

void oracle_describe(const torture_oracle *oracle, uint32_t key, char *text, size_t room)
{
    const key_history *history = &oracle->keys[key];
    size_t used = (size_t)snprintf(text, room, "acknowledged, from the durable on:");

    for (uint32_t i = 0; i < history->count && used < room; i++)
        used += (size_t)snprintf(text + used, room - used, " %llx@%llu",
                                 (unsigned long long)history->seeds[i],
                                 (unsigned long long)history->times[i]);
    if (history->is_pending && used < room)
        used += (size_t)snprintf(text + used, room - used, "; pending %llx",
                                 (unsigned long long)history->pending);
    if (oracle->rebooted && used < room)
        snprintf(text + used, room - used, "; after a reboot");
}
