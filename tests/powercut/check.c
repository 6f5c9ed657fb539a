/* SPDX-License-Identifier: MIT */
#include "check.h"

#include "workload.h"

#include <stdio.h>
#include <string.h>

#define NEW_KEY   1000u
#define NEW_SEED  99u
#define UNLIMITED (UINT64_C(1) << 40)

static int violated(const char *when, uint64_t key, const char *what, int code)
{
    fprintf(stderr, "powercut: %s: key %llu %s (%s; %s)\n", when, (unsigned long long)key, what,
            cascade_error_name(code), cascade_last_error());
    return 1;
}

static int check_keys(const char *when, cascade_store *store, const pc_promise *promises,
                      pc_promise *found)
{
    for (uint32_t key = 0; key < PC_KEYS; key++) {
        const pc_promise *p = &promises[key];
        bool is_torn;
        size_t which = 0;
        int code, got = pc_get(store, key, p->may, p->may_count, &which, &is_torn, &code);

        if (got < 0)
            return violated(when, key, p->may_count ? "is not what it was" : "is there again", code);
        if (got == 0 && p->must)
            return violated(when, key, is_torn ? "is damaged" : "is lost", code);
        if (is_torn && !p->may_tear)
            return violated(when, key, "is there again, and damaged", code);
        if (!found)
            continue;
        found[key] = (pc_promise){.must = got == 1, .may_tear = true};
        if (got == 1) {
            found[key].may[0] = p->may[which];
            found[key].may_count = 1;
        }
    }
    return 0;
}

int pc_check_keys(cascade_store *store, const pc_promise promises[PC_KEYS], pc_promise found[PC_KEYS])
{
    return check_keys("after the cut", store, promises, found);
}

static int check_new(const char *when, cascade_store *store)
{
    const uint64_t seed = NEW_SEED;
    size_t which;
    bool is_torn;
    int code;

    return pc_get(store, NEW_KEY, &seed, 1, &which, &is_torn, &code) == 1
               ? 0
               : violated(when, NEW_KEY, "was put after the cut and is lost", code);
}

static int reopen(const char *when, const char *where, const char *shm, const pc_setup *setup,
                  uint32_t rank, cascade_store **store)
{
    int code = cascade_store_close(store);

    if (code)
        return violated(when, 0, "and all: the close fails", code);
    code = pc_open(where, shm, setup, rank, false, store);
    return code ? violated(when, 0, "and all: the open fails", code) : 0;
}

static int tidy(const char *when, cascade_store *store, bool fix)
{
    cascade_scrub_options options = {.struct_bytes = sizeof options, .fix = true};
    cascade_verify_report verified;
    cascade_gc_report report;
    int code = fix ? cascade_store_scrub(store, &options, &verified, NULL, NULL) : 0;

    if (code && code != CASCADE_ECORRUPT) /* what was torn is damage */
        return violated(when, 0, "and all: the scrub fails", code);
    code = cascade_store_gc(store, false, &report, NULL, NULL);
    return code ? violated(when, 0, "and all: the gc fails", code) : 0;
}

/* The store takes puts again, gives space back, and both leave what there is as it is. */
static int go_on(const char *where, const char *shm, const pc_setup *setup, uint64_t number,
                 const pc_promise *found, cascade_store **store)
{
    bool existed;
    int code = tidy("in a gc after the cut", *store, number / 4 % 2);

    if (code || check_keys("after a gc", *store, found, NULL))
        return 1;
    code = pc_put(*store, NEW_KEY, NEW_SEED, CASCADE_PUT_DURABLE, &existed);
    if (code)
        return violated("after the cut", NEW_KEY, "cannot be put", code);
    if (reopen("after a gc and a put", where, shm, setup, 0, store) ||
        check_keys("after a gc, a put and a new open", *store, found, NULL) ||
        check_new("after a new open", *store))
        return 1;
    if (tidy("in a gc after a new open", *store, false) ||
        check_keys("after a gc after a new open", *store, found, NULL) ||
        reopen("after the second gc", where, shm, setup, setup->ranks - 1, store) ||
        check_keys("after the second gc and a new open", *store, found, NULL))
        return 1;
    return check_new("after the second gc and a new open", *store);
}

/* Puts again what may be there, before anything has read it: that is stored from then on, whether the
 * put found a record or not. Of a key that may be bound to several contents the first found stays, torn
 * or not, so it is no such key's turn. */
static int put_again(const char *where, const char *shm, const pc_setup *setup, pc_promise *promises,
                     cascade_store **store)
{
    for (uint32_t key = 0; key < PC_KEYS; key++) {
        pc_promise *p = &promises[key];
        bool existed;
        int code;

        if (p->may_count != 1)
            continue;
        code = pc_put(*store, key, p->may[0], CASCADE_PUT_DURABLE, &existed);
        if (code)
            return violated("after the cut", key, "cannot be put again", code);
        p->must = true;
        p->may_tear = false;
    }
    return reopen("after puts", where, shm, setup, 0, store);
}

int pc_check_state(const char *where, const char *shm, const pc_promise promises[PC_KEYS],
                   uint64_t number)
{
    pc_setup setup = *pc_setup_now();
    pc_promise held[PC_KEYS], found[PC_KEYS];
    cascade_store *store;
    int code;

    /* Nothing is dropped from here on. */
    setup.budget_bytes = UNLIMITED;
    setup.age_s = 0;
    code = pc_open(where, shm, &setup, 0, false, &store);
    if (code)
        return violated("after the cut", 0, "and all: the open fails", code);
    memcpy(held, promises, sizeof held);
    if (number % 4 == 2)
        code = put_again(where, shm, &setup, held, &store);
    if (code == 0)
        code = pc_check_keys(store, held, found);
    if (code || number % 4 != 0)
        return code;
    code = go_on(where, shm, &setup, number, found, &store);
    if (code == 0 && (code = cascade_store_close(&store)) != 0)
        return violated("at the end", 0, "and all: the close fails", code);
    return code;
}
