/* SPDX-License-Identifier: MIT */
/*
 * Power cuts: records what a store does to its directory (workload.h), builds the states that a cut
 * could leave of it (states.h), opens a store on each, and holds it to what was promised (promises.h):
 *
 *   - it opens, and gives no bytes but those that were put;
 *   - what was acknowledged and made durable is there, what was deleted is not;
 *   - a durable put of what may be torn, before anything has read it, is stored;
 *   - it takes puts again, and these, a gc, a scrub and more opens leave what there is as it is.
 *
 * Of some states the store goes on for a while, recorded again, and is cut a second time.
 *
 *   power_cut [--states N] [--seed S]
 *   power_cut --replay DIRECTORY --state K
 *
 * Each recording has its own seed, from S on; its states are numbered. The store's threads make two runs
 * of one seed differ, so that the recording of a state that breaks a promise is kept, and the state is
 * built of that again, to the byte. Of a state from which the store went on both recordings are kept,
 * the second one as soon as one of its states breaks a promise. A replay of the first goes on from its
 * state too, a few times: what went wrong before there was a second state may have needed its threads'
 * order.
 *
 * Seen to find, each alone in the product: a round's blocks published before their sync, or not synced;
 * no sync of the directory; payload sums not compared; binds and tombstones that a compaction moves, not
 * synced before the segment goes; the segment removed before they are logged; binds not moved;
 * tombstones dropped, or kept for binds of the own rank alone; the mark of a spare not synced; rounds of
 * binds and deletes alone not synced; deleted keys forgotten while an open reads on; a durable put that
 * takes a torn record for a stored one; no sync of earlier removals before tombstones are
 * judged; a failed sync of a file or of the directory ignored, or made up for by the next; a segment
 * that fails within a round not told to the round. Copies that a compaction makes, not synced before
 * they are published, only together with that last sync, which covers them.
 *
 * Not found, because nothing depends on it: an index written before its records are synced (they are not
 * promised before the sync of their round, and their sums tell which are torn); the last sync of a seal
 * (an index that is missing or torn is made up for by a scan of the records, which were synced before
 * it); the first of the two syncs of a spare's new header (a first page that is neither is a file
 * without blocks, which is left alone; segment_recycle_test has the order). Nor that a removal whose
 * sync failed is in doubt, which no state has (states.h; segment_fault_test has it).
 */
#include "check.h"
#include "recording.h"
#include "states.h"
#include "workload.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define STATES_A_RUN  150u
#define SECOND_EVERY  25u /* of so many states one goes on */
#define SECOND_STATES 8u  /* of each second recording */
#define CHECK_SECONDS 60u
#define REPLAYS       20u /* of a state from which the store goes on */

static char base[] = "/dev/shm/cascade-powercut.XXXXXX";

/* ---- a state -------------------------------------------------------------------------------------- */

typedef struct places {
    const char *state, *shm;
} places;

static const places first_places = {"state", "shm"}, second_places = {"state-2", "shm-2"};

static uint64_t build(uint64_t number, const places *at)
{
    pc_clear(at->state, true);
    pc_clear(at->shm, true);
    return pc_build(pc_cut_of(number), pc_place(at->state));
}

/* Keeps the recording of a state that breaks a promise, in a directory below. */
static void keep(uint64_t number, const char *where)
{
    const pc_setup *setup = pc_setup_now();
    pc_cut cut = pc_cut_of(number);
    char path[320], inside[400];
    uint64_t hash;

    pc_clear(where, true);
    snprintf(path, sizeof path, "%s", pc_place(where));
    snprintf(inside, sizeof inside, "%s/recording", path);
    pc_save(inside);
    /* The check may have changed the state: made again, it is what was opened. */
    snprintf(inside, sizeof inside, "%s/state", path);
    if (mkdir(inside, 0700) != 0)
        pc_die(inside);
    hash = pc_build(cut, inside);
    fprintf(stderr,
            "powercut: state %llu of %s seed %llu breaks a promise: a cut before step %zu of %zu, hash "
            "%016llx\n  recording and state: %s\n  again: power_cut --replay %s --state %llu\n",
            (unsigned long long)number,
            setup->ranks_before ? "a second recording of" : "the recording of",
            (unsigned long long)setup->seed, cut.end, pc_steps(), (unsigned long long)hash, path, path,
            (unsigned long long)number);
}

/* In a child, which a store that hangs or dies takes with it. */
static int check_in_child(uint64_t number, const places *at, int (*check)(uint64_t, const places *))
{
    pid_t child = fork();
    int status;

    if (child < 0)
        pc_die("fork");
    if (child == 0) {
        alarm(CHECK_SECONDS);
        _exit(check(number, at));
    }
    if (waitpid(child, &status, 0) != child)
        pc_die("waiting");
    if (WIFSIGNALED(status))
        fprintf(stderr, "powercut: the check ended with signal %d\n", WTERMSIG(status));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static int check_once(uint64_t number, const places *at)
{
    pc_promise promises[PC_KEYS];

    pc_promises_at(pc_cut_of(number).end, promises);
    return pc_check_state(at->state, at->shm, promises, number);
}

/* Whether the store goes on from that state. */
static bool goes_on(uint64_t number)
{
    return pc_setup_now()->ranks_before == 0 && number % SECOND_EVERY == SECOND_EVERY / 2;
}

static void say_found(const pc_promise *found)
{
    for (uint32_t key = 0; key < PC_KEYS; key++)
        pc_say((pc_note){
            .what = found[key].must ? PC_SEEN : PC_UNSEEN, .key = key, .seed = found[key].may[0]});
}

/* Goes on with the state, recorded, and checks states of that. */
static int check_twice(uint64_t number, const places *at)
{
    pc_setup setup = *pc_setup_now();
    pc_promise promises[PC_KEYS], found[PC_KEYS];
    cascade_store *store;

    setup.ranks_before = setup.ranks;
    setup.seed = setup.seed * 1000 + number;
    setup.ranks = 1;
    setup.age_s = 0; /* what is found must not be too old already */
    pc_promises_at(pc_cut_of(number).end, promises);
    pc_record(pc_place(at->state), &setup);
    pc_promises_say(promises);
    pc_adopt();
    if (pc_open(at->state, at->shm, &setup, 0, true, &store) != 0) {
        fprintf(stderr, "powercut: the open after the cut fails: %s\n", cascade_last_error());
        return 1;
    }
    if (pc_check_keys(store, promises, found))
        return 1;
    say_found(found);
    pc_run_more(store, at->state, at->shm, setup.seed);
    for (uint64_t k = 0; k < SECOND_STATES; k++) {
        build(k, &second_places);
        if (check_in_child(k, &second_places, check_once) != 0) {
            keep(k, "kept-second");
            return 1;
        }
    }
    return 0;
}

/* ---- all of it ------------------------------------------------------------------------------------ */

/* Exits with the failure. */
static void end_badly(void)
{
    pc_clear("work", false);
    pc_clear(first_places.state, false);
    pc_clear(first_places.shm, false);
    pc_clear(second_places.state, false);
    pc_clear(second_places.shm, false);
    pc_clear("key", false);
    (void)rmdir(base); /* unless something is kept there */
    exit(1);
}

/* What there was to cut. */
static void print_run(const pc_setup *setup)
{
    unsigned counts[PC_STEP_NOTE + 1] = {0}, failed = 0;

    for (size_t i = 0; i < pc_steps(); i++) {
        counts[pc_step_at(i)->kind]++;
        failed += pc_step_at(i)->failed;
    }
    printf(
        "# seed %llu: %u ranks%s%s%s; %u writes, %u truncations, %u syncs, %u new names, %u renames, %u "
        "unlinks, %u syncs of names; %u syncs failed\n",
        (unsigned long long)setup->seed, setup->ranks, setup->budget_bytes ? ", budget" : "",
        setup->age_s ? ", age" : "", setup->is_encrypted ? ", encrypted" : "", counts[PC_STEP_WRITE],
        counts[PC_STEP_TRUNCATE], counts[PC_STEP_SYNC], counts[PC_STEP_BIND], counts[PC_STEP_RENAME],
        counts[PC_STEP_UNLINK], counts[PC_STEP_SYNC_NAMES], failed);
    fflush(stdout);
}

static void check_run(uint64_t seed, uint64_t count)
{
    pc_setup setup = pc_setup_of(seed);

    pc_run(&setup);
    print_run(&setup);
    for (uint64_t k = 0; k < count; k++) {
        build(k, &first_places);
        if (check_in_child(k, &first_places, goes_on(k) ? check_twice : check_once) != 0) {
            keep(k, "kept");
            end_badly();
        }
        if (isatty(STDERR_FILENO) && k % 10 == 0)
            fprintf(stderr, "\rseed %llu, state %llu of %llu ", (unsigned long long)seed,
                    (unsigned long long)k, (unsigned long long)count);
    }
}

/* A recording that was written and read builds the same states. */
static bool check_replay(void)
{
    enum { COUNT = 8 };
    uint64_t hashes[COUNT];
    bool same = true;

    for (uint64_t k = 0; k < COUNT; k++)
        hashes[k] = build(k, &first_places);
    pc_save(pc_place("recording"));
    pc_load(pc_place("recording"));
    for (uint64_t k = 0; k < COUNT; k++)
        same &= hashes[k] == build(k, &first_places);
    return same;
}

static int replay(const char *directory, uint64_t number)
{
    char path[400];
    unsigned left;
    int code = 0;

    snprintf(path, sizeof path, "%s/recording", directory);
    pc_load(path);
    printf("# a cut before step %zu of %zu, hash %016llx\n", pc_cut_of(number).end, pc_steps(),
           (unsigned long long)build(number, &first_places));
    fflush(stdout);
    for (left = goes_on(number) ? REPLAYS : 1; left > 0 && code == 0; left--) {
        build(number, &first_places);
        code = check_in_child(number, &first_places, goes_on(number) ? check_twice : check_once);
    }
    printf("1..1\n%s 1 - the state keeps its promises\n", code ? "not ok" : "ok");
    fflush(stdout);
    if (code)
        end_badly(); /* a second recording may have been kept */
    pc_clear("", false);
    return 0;
}

static uint64_t number(const char *text)
{
    char *end;
    uint64_t value = strtoull(text, &end, 10);

    if (!*text || *end) {
        fprintf(stderr, "power_cut: %s is not a number\n", text);
        exit(2);
    }
    return value;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"states", required_argument, NULL, 'n'}, {"seed", required_argument, NULL, 's'},
        {"replay", required_argument, NULL, 'r'}, {"state", required_argument, NULL, 'k'},
        {"help", no_argument, NULL, 'h'},         {0}};
    uint64_t states = 300, seed = 20261124, one = 0;
    const char *recording = NULL;
    bool same;
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 'n')
            states = number(optarg);
        else if (option == 's')
            seed = number(optarg);
        else if (option == 'r')
            recording = optarg;
        else if (option == 'k')
            one = number(optarg);
        else {
            printf("usage: power_cut [--states N] [--seed S] | --replay DIRECTORY --state K\n");
            return option == 'h' ? 0 : 2;
        }
    }
    if (!mkdtemp(base))
        pc_die("making a directory");
    pc_set_base(base);
    setenv("CASCADE_LOG", "none", 0);
    if (recording)
        return replay(recording, one);
    printf("# power cuts: %llu states from seed %llu\n", (unsigned long long)states,
           (unsigned long long)seed);
    fflush(stdout);
    for (uint64_t done = 0; done < states; done += STATES_A_RUN, seed++)
        check_run(seed, states - done < STATES_A_RUN ? states - done : STATES_A_RUN);
    same = check_replay();
    pc_forget();
    pc_clear("", false);
    printf("1..2\nok 1 - every state keeps its promises\n%s 2 - a recording read back builds the same "
           "states\n",
           same ? "ok" : "not ok");
    return same ? 0 : 1;
}
