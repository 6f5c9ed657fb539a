/* SPDX-License-Identifier: MIT */
/*
 * A reader in another process against an owner that works, stops and dies at marked points.
 *
 * Four processes a run. The owner puts, gets, deletes and evicts, and tells the test over a pipe what
 * was acknowledged; at the chosen mark it stops itself. The reader maps the arena and looks keys up,
 * pins them and checks their bytes in place, all the while. The test sees that the reader goes on beside
 * a stopped owner and beside a dead one. A next owner takes the arena over with the reader still at it,
 * and must find all that was acknowledged.
 */
#include "base/mark.h"
#include "store/store_private.h"
#include "store/store_scene.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { UNKNOWN = 0, PRESENT, ABSENT };

static uint8_t known[SCENE_KEYS]; /* the test's: what was acknowledged */

/* ---- the owner ----------------------------------------------------------------------- */

static const char *wanted_name; /* NULL: count marks */
static uint32_t wanted_count;   /* of that name, or of all when the name is "" */
static _Atomic uint32_t seen_count;

static void count_mark(const char *name)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    uint32_t i = 0;

    pthread_mutex_lock(&lock);
    while (i < scene_now->name_count && strcmp(scene_now->names[i].text, name) != 0)
        i++;
    if (i < SCENE_NAMES) {
        if (i == scene_now->name_count)
            snprintf(scene_now->names[scene_now->name_count++].text, sizeof scene_now->names[i].text,
                     "%s", name);
        scene_now->names[i].count++;
    }
    pthread_mutex_unlock(&lock);
}

static void at_mark(const char *name)
{
    if (!wanted_name)
        count_mark(name);
    else if ((!*wanted_name || strcmp(name, wanted_name) == 0) &&
             atomic_fetch_add(&seen_count, 1) + 1 == wanted_count)
        raise(SIGSTOP);
}

static void tell(int fd, char what, uint32_t number)
{
    uint32_t record[2] = {(uint32_t)what, number};

    SCENE_CHECK(write(fd, record, sizeof record) == sizeof record);
}

static int own_fd; /* for what is acknowledged */

static void own(void)
{
    cascade_store *store;
    uint64_t seed = 12345;

    atomic_store(&csc_mark_hook_now, at_mark);
    store = scene_open_store();
    for (uint32_t number = 0; number < SCENE_KEYS; number++) {
        cascade_key old;
        uint32_t other;

        atomic_store(&scene_now->begun, number + 1);
        scene_put_key(store, number, number % 40 == 39 ? CASCADE_PUT_DURABLE : 0);
        tell(own_fd, 'P', number);
        if (number < SCENE_STEADY) {
            atomic_store(&scene_now->steady, number + 1);
            continue;
        }
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
        other = (uint32_t)((seed >> 33) % (number + 1));
        (void)scene_get_key(store, other);
        if (number % 6 == 0 && other >= SCENE_STEADY) {
            int code;

            old = scene_key_of(other);
            tell(own_fd, 'd', other);
            code = cascade_block_delete(store, &old);
            SCENE_CHECK(code >= 0);
            if (code == 0) /* else it was dropped (or deleted) before */
                tell(own_fd, 'D', other);
        }
    }
    SCENE_CHECK(cascade_store_close(&store) == 0);
    _exit(0);
}

/* ---- the reader ---------------------------------------------------------------------- */

/* Checks a pinned content's bytes where they lie. */
static bool bytes_are_right(const csc_index *index, const csc_content_entry *entry, uint32_t number)
{
    const csc_arena_region *region = &index->header->geometry.regions[CSC_REGION_PAGES];
    const char *pages = (const char *)index->header + region->offset;
    uint64_t left = scene_bytes_of(number), offset = 0;

    if (entry->content.k_bytes + entry->content.v_bytes != left)
        return false;
    for (uint32_t i = 0; left; i++) {
        csc_extent extent = csc_index_extent(index, &entry->dram, i);
        uint64_t part = (uint64_t)extent.count * region->element_bytes;

        if (i == entry->dram.count || part == 0)
            return false;
        if (part > left)
            part = left;
        if (!scene_is_right(number, offset, pages + (uint64_t)extent.page * region->element_bytes, part))
            return false;
        offset += part;
        left -= part;
    }
    return true;
}

static void read_one(const csc_index *index, csc_slots *slots, uint32_t number)
{
    csc_slot *slot = csc_slot_guard(slots);
    bool lost = false,
         surely = number < atomic_load(&scene_now->steady) && !atomic_load(&scene_now->taking_over);
    cascade_key key = scene_key_of(number);
    uint32_t found, content;
    uint64_t state;

    SCENE_CHECK(slot);
    found = csc_index_find(index, &key, csc_index_key_hash(index, &key), &lost);
    if (found == CSC_NUMBER_NONE && surely && !atomic_load(&scene_now->taking_over))
        atomic_fetch_add(&scene_now->vanished, 1);
    content = found == CSC_NUMBER_NONE ? found : csc_index_content_of(index, found, &state);
    if (content != CSC_NUMBER_NONE && (state & CSC_CONTENT_RESIDENT)) {
        const csc_content_entry *entry = &index->contents[content];

        csc_slot_pin(slot, content);
        if (csc_content_still(state, atomic_load(&entry->state))) {
            bool right = bytes_are_right(index, entry, number);

            if (number % 4 == 0) {
                /* Under the pin the bytes stay, however long it takes. */
                usleep(300);
                right = right && bytes_are_right(index, entry, number);
            }
            atomic_fetch_add(right ? &scene_now->checked : &scene_now->wrong, 1);
        }
    }
    csc_slot_release(slot);
}

static void read_all_the_while(void)
{
    csc_arena *reader = NULL;
    uint64_t seed = 777;
    csc_index index;
    csc_slots slots;
    char path[512];

    while (!atomic_load(&scene_now->stop)) {
        uint32_t begun = atomic_load(&scene_now->begun);

        atomic_fetch_add(&scene_now->rounds, 1);
        if (!reader) {
            if (!scene_find_arena(path, sizeof path) || csc_arena_attach(path, -1, &reader) != 0) {
                usleep(500);
                continue;
            }
            csc_index_attach(&index, csc_arena_base(reader));
            csc_slots_attach(&slots, csc_arena_base(reader), csc_arena_area(reader), NULL);
        }
        if (atomic_load(&index.header->state) != CSC_ARENA_LIVE) {
            csc_arena_detach(&reader);
            continue;
        }
        for (int i = 0; i < 16 && begun; i++) {
            seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
            read_one(&index, &slots, (uint32_t)((seed >> 33) % (i % 4 ? begun : SCENE_STEADY)));
        }
        usleep(50); /* two cores serve everybody */
    }
    csc_arena_detach(&reader);
    _exit(0);
}

/* ---- the next owner ------------------------------------------------------------------ */

static void check_all(void)
{
    cascade_stats stats = {.struct_bytes = sizeof stats};
    cascade_store *store;

    store = scene_open_store();
    for (uint32_t number = 0; number < SCENE_KEYS; number++) {
        int code = scene_get_key(store, number);

        if (code != 0 && code != CASCADE_MISS)
            fprintf(stderr, "key %u: %s %s\n", number, cascade_error_name(code), cascade_last_error());
        SCENE_CHECK(code == 0 || code == CASCADE_MISS);
        if (known[number] == PRESENT && scene_budget_bytes == 0 && code != 0) {
            fprintf(stderr, "key %u was acknowledged and is gone\n", number);
            _exit(1);
        }
        if (known[number] == ABSENT && code == 0) {
            fprintf(stderr, "key %u was deleted and is back\n", number);
            _exit(1);
        }
    }
    SCENE_CHECK(cascade_store_stats(store, &stats) == 0);
    SCENE_CHECK(stats.lost == 0 || scene_budget_bytes);
    /* The file tier counts a segment whose maker was killed before its first page. */
    SCENE_CHECK(stats.tiers[CASCADE_TIER_DRAM].quarantined == 0);
    SCENE_CHECK(cascade_store_close(&store) == 0);
    _exit(0);
}

/* Takes over with the hook set; stops at the mark. */
static void take_over(void)
{
    cascade_store *store;

    atomic_store(&csc_mark_hook_now, at_mark);
    store = scene_open_store();
    for (uint32_t number = 0; number < 40; number++)
        (void)scene_get_key(store, number);
    SCENE_CHECK(cascade_store_close(&store) == 0);
    _exit(0);
}

/* ---- one run ------------------------------------------------------------------------- */

static void hear(int fd)
{
    uint32_t record[2];

    while (read(fd, record, sizeof record) == sizeof record) {
        assert_in_range(record[1], 0, SCENE_KEYS - 1);
        known[record[1]] = record[0] == 'P' ? PRESENT : record[0] == 'D' ? ABSENT : UNKNOWN;
    }
}

/* The reader gets on, whatever state the owner is in. */
static void see_reader_go_on(void)
{
    uint64_t before = atomic_load(&scene_now->rounds);

    while (atomic_load(&scene_now->rounds) < before + 10)
        usleep(1000);
}

/* Waits until the process ends or stops, listening meanwhile; returns whether it stopped. */
static bool wait_for_mark(pid_t owner, int fd)
{
    for (;;) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        int status;
        pid_t seen;

        poll(&ready, fd >= 0, 2);
        if (fd >= 0)
            hear(fd);
        else
            usleep(1000);
        seen = waitpid(owner, &status, WNOHANG | WUNTRACED);
        assert_true(seen >= 0);
        if (seen == 0)
            continue;
        if (WIFSTOPPED(status))
            return true;
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
        return false;
    }
}

static void kill_stopped(pid_t owner)
{
    int status;

    assert_int_equal(kill(owner, SIGKILL), 0);
    assert_int_equal(waitpid(owner, &status, 0), owner);
    assert_true(WIFSIGNALED(status));
}

static uint64_t checked_in_all;

/* `again`: marks of the take-over at which the second owner dies too, 0: it does not. Returns whether
 * the mark was reached. */
static bool run(const char *name, uint32_t count, uint32_t again)
{
    pid_t owner, reader;
    bool stopped;
    int pipe_fds[2];

    scene_begin_run();
    memset(known, 0, sizeof known);
    assert_int_equal(pipe(pipe_fds), 0);
    assert_int_equal(fcntl(pipe_fds[0], F_SETFL, O_NONBLOCK), 0);
    wanted_name = name;
    wanted_count = count;
    atomic_store(&seen_count, 0);
    own_fd = pipe_fds[1];
    owner = scene_start(own);
    close(pipe_fds[1]);
    reader = scene_start(read_all_the_while);
    stopped = wait_for_mark(owner, pipe_fds[0]);
    if (stopped) {
        see_reader_go_on();
        kill_stopped(owner);
        see_reader_go_on();
        hear(pipe_fds[0]);
    }
    close(pipe_fds[0]);
    atomic_store(&scene_now->taking_over, true);
    if (again) {
        wanted_name = "";
        wanted_count = again;
        atomic_store(&seen_count, 0);
        owner = scene_start(take_over);
        if (wait_for_mark(owner, -1)) {
            see_reader_go_on();
            kill_stopped(owner);
        }
    }
    scene_expect_success(scene_start(check_all));
    see_reader_go_on();
    atomic_store(&scene_now->stop, true);
    scene_expect_success(reader);
    assert_int_equal(atomic_load(&scene_now->wrong), 0);
    if (scene_budget_bytes == 0)
        assert_int_equal(atomic_load(&scene_now->vanished), 0);
    checked_in_all += atomic_load(&scene_now->checked);
    scene_end_run();
    return stopped;
}

/* ---- tests --------------------------------------------------------------------------- */

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { TRIES = 1 };
#else
enum { TRIES = 2 };
#endif

/* At each mark: the first time it is passed, and in the midst of the work. */
static void try_marks(void)
{
    static struct {
        char text[40];
        uint32_t count;
    } marks[SCENE_NAMES];
    uint32_t mark_count, runs = 0;

    (void)run(NULL, 0, 0);
    mark_count = scene_now->name_count;
    assert_in_range(mark_count, 10, SCENE_NAMES);
    for (uint32_t i = 0; i < mark_count; i++) {
        memcpy(marks[i].text, scene_now->names[i].text, sizeof marks[i].text);
        marks[i].count = scene_now->names[i].count;
    }
    checked_in_all = 0;
    for (uint32_t i = 0; i < mark_count; i++)
        for (uint32_t try = 0; try < TRIES; try++) {
            uint32_t count = 1 + marks[i].count * (TRIES == 1 ? i % 4 : 2 * try) / 4;

            runs += run(marks[i].text, count, 0);
        }
    print_message("# %u marks, %u deaths, %llu blocks checked in place\n", mark_count, runs,
                  (unsigned long long)checked_in_all);
    assert_true(runs >= mark_count * TRIES / 2);
    assert_true(checked_in_all > 1000);
}

static void test_every_mark(void **state)
{
    (void)state;
    scene_budget_bytes = 0;
    try_marks();
}

/* The next owner dies too, while it takes over or soon after. */
static void test_take_over_dies(void **state)
{
    static const uint32_t marks[] = {1, 2, 3, 10, 40, 150, 700, 2500};

    (void)state;
    scene_budget_bytes = 0;
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i += TRIES == 1 ? 2 : 1)
        (void)run("put: queued", 100 + 30 * (uint32_t)i, marks[i]);
}

/* With a file budget blocks are dropped; still nothing wrong is read, nothing deleted comes back. */
static void test_budget(void **state)
{
    (void)state;
    scene_budget_bytes = 3 << 20;
    for (uint32_t count = 1; count <= 3; count++)
        assert_true(run("compact: segment goes", count, 0));
    scene_budget_bytes = 0;
}

/* Deletes all there is, by the writer's own hand, when a segment is about to go; then dies. */
static cascade_store *dying_store;

static void delete_all_and_die(const char *name)
{
    if (strcmp(name, "compact: segment goes") != 0)
        return;
    for (uint32_t number = 0; number < SCENE_KEYS; number++) {
        cascade_key key = scene_key_of(number);

        if (cascade_block_delete(dying_store, &key) == 0)
            atomic_store(&scene_now->deleted[number], true);
    }
    raise(SIGKILL);
}

static void delete_while_segment_goes(void)
{
    dying_store = scene_open_store();
    atomic_store(&csc_mark_hook_now, delete_all_and_die);
    for (uint32_t number = 0; number < SCENE_KEYS; number++) {
        scene_put_key(dying_store, number, 0);
        (void)scene_get_key(dying_store, number % 8); /* in dram when the oldest segment goes */
    }
    (void)cascade_store_flush(dying_store);
    _exit(0);
}

/* The records of those keys lie in a segment that is still there at the next open. */
static void test_delete_while_segment_goes(void **state)
{
    pid_t owner;
    int status;
    uint32_t deleted = 0;

    (void)state;
    scene_begin_run();
    memset(known, 0, sizeof known);
    scene_budget_bytes = 2 << 20;
    owner = scene_start(delete_while_segment_goes);
    assert_int_equal(waitpid(owner, &status, 0), owner);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    for (uint32_t number = 0; number < SCENE_KEYS; number++)
        if (atomic_load(&scene_now->deleted[number])) {
            known[number] = ABSENT;
            deleted++;
        }
    assert_true(deleted > 20);
    scene_expect_success(scene_start(check_all));
    scene_budget_bytes = 0;
    scene_end_run();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_every_mark, scene_setup, scene_teardown),
        cmocka_unit_test_setup_teardown(test_take_over_dies, scene_setup, scene_teardown),
        cmocka_unit_test_setup_teardown(test_budget, scene_setup, scene_teardown),
        cmocka_unit_test_setup_teardown(test_delete_while_segment_goes, scene_setup, scene_teardown),
    };

    /* Owners die on purpose here; what they log is not news. */
    setenv("CASCADE_LOG", "none", 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
