/* SPDX-License-Identifier: MIT */
/*
 * Kills a process that works on a store, over and over, and looks at what is left.
 *
 * Each round forks a child that opens the store, compares every key with what was acknowledged (the
 * oracle of this process, told over a pipe), works on, and is killed: at the n-th mark of a chosen
 * phase, or at a random time; some already while they open the store. After some kills the arena is
 * removed, as a reboot would, and only what was durable must be there. After a number of rounds the
 * store is closed: nothing may be left in shared memory, and all must be found again.
 *
 * Seeds are printed and can be given; how threads interleave they cannot fix.
 */
#include "base/clock.h"
#include "torture.h"

#include <argp.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROUNDS_A_STORE 25u
#define HANG_NS        UINT64_C(180000000000)
#define MARK_WAIT_NS   UINT64_C(1500000000)
#define POINTS_MAX     128u
#define PATH_BYTES     4096u

/* ---- what was asked for ---------------------------------------------------------------------- */

static struct {
    uint64_t kills;
    uint64_t seed;
    const char *directory; /* where stores are made */
    const char *shm_directory;
    bool tap;
    bool keep;
} asked = {.kills = 200};

/* ---- what happened --------------------------------------------------------------------------- */

typedef struct point {
    char name[TORTURE_TEXT_BYTES];
    uint64_t kills;
} point;

static point points[POINTS_MAX]; /* kills by mark, or by what a timed one met */
static unsigned point_count;
static uint64_t kills, reboots, closes, verifications;
static torture_oracle told;
static bool failed;
static volatile sig_atomic_t interrupted;

static char scratch[PATH_BYTES], shm[PATH_BYTES], store_path[PATH_BYTES + 32], log_path[PATH_BYTES + 32];

/* The last events, for a report. */
static char recent[8][TORTURE_TEXT_BYTES];
static unsigned recent_count;

static void remember(const char *event)
{
    snprintf(recent[recent_count++ % 8], sizeof recent[0], "%s", event);
}

static void count_kill(const char *name)
{
    unsigned i = 0;

    remember(name);
    while (i < point_count && strcmp(points[i].name, name) != 0)
        i++;
    if (i == POINTS_MAX)
        return;
    if (i == point_count)
        snprintf(points[point_count++].name, sizeof points[0].name, "%s", name);
    points[i].kills++;
    kills++;
}

/* ---- folders --------------------------------------------------------------------------------- */

/* Calls `visit` (may be NULL) with the path of everything in a folder; returns how much there is. */
static unsigned each_file(const char *folder, void (*visit)(const char *path))
{
    DIR *open_folder = opendir(folder);
    struct dirent *entry;
    char path[PATH_BYTES + 300];
    unsigned count = 0;

    while (open_folder && (entry = readdir(open_folder))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        count++;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (visit)
            visit(path);
    }
    if (open_folder)
        closedir(open_folder);
    return count;
}

static void print_path(const char *path)
{
    printf("%s  %s\n", asked.tap ? "#" : "", path);
}

static void remove_file(const char *path)
{
    unlink(path);
}

static void remove_store(void)
{
    each_file(store_path, remove_file);
    rmdir(store_path);
}

/* ---- reporting ------------------------------------------------------------------------------- */

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...)
{
    va_list arguments;

    if (asked.tap)
        fputs("# ", stdout);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
    fflush(stdout);
}

static void print_log(void)
{
    FILE *log = fopen(log_path, "r");
    char line[1024];

    while (log && fgets(line, sizeof line, log)) {
        line[strcspn(line, "\n")] = 0;
        say("  | %s", line);
    }
    if (log)
        fclose(log);
}

static void fail(const char *what)
{
    if (!failed)
        say("VIOLATION after %llu kills (seed %llu): %s", (unsigned long long)kills,
            (unsigned long long)asked.seed, what);
    for (unsigned i = recent_count > 8 ? recent_count - 8 : 0; !failed && i < recent_count; i++)
        say("  %s %s", i + 1 == recent_count ? "and last" : "after", recent[i % 8]);
    failed = true;
}

static int compare_points(const void *left, const void *right)
{
    return strcmp(((const point *)left)->name, ((const point *)right)->name);
}

static void print_points(void)
{
    char phase[TORTURE_TEXT_BYTES] = "";

    qsort(points, point_count, sizeof points[0], compare_points);
    say("kills by phase:");
    for (unsigned i = 0; i < point_count; i++) {
        uint64_t total = 0;
        size_t length = strcspn(points[i].name, ":");
        char text[600] = "";

        if (strncmp(phase, points[i].name, length) == 0 && phase[length] == 0 && phase[0])
            continue;
        snprintf(phase, sizeof phase, "%.*s", (int)length, points[i].name);
        for (unsigned j = i; j < point_count; j++) {
            if (strncmp(points[j].name, phase, length) != 0 || points[j].name[length] != ':')
                continue;
            total += points[j].kills;
            snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s %llu", text[0] ? ", " : "",
                     points[j].name + length + 2, (unsigned long long)points[j].kills);
        }
        say("  %-8s %4llu  (%s)", phase, (unsigned long long)total, text);
    }
}

static void show_progress(void)
{
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r%llu of %llu kills, %llu puts and %llu deletes acknowledged ",
                (unsigned long long)kills, (unsigned long long)asked.kills,
                (unsigned long long)told.put_acks, (unsigned long long)told.delete_acks);
}

/* ---- one child ------------------------------------------------------------------------------- */

typedef enum stage { STAGE_OPENING, STAGE_VERIFYING, STAGE_WORKING, STAGE_CLOSED } stage;
static const char *const stage_names[] = {"time: opening", "time: verifying", "time: working", ""};

typedef struct child_watch {
    pid_t pid;
    int fd;
    stage stage;
    char mark[TORTURE_TEXT_BYTES]; /* where it said it would die */
    bool violated;
    uint64_t kill_at; /* 0: not yet known */
    uint8_t left[sizeof(torture_record)];
    size_t left_bytes;
} child_watch;

static void take(child_watch *watch, const torture_record *record, uint64_t work_ns)
{
    oracle_take(&told, record);
    switch (record->kind) {
    case RECORD_OPENED:
        watch->stage = STAGE_VERIFYING;
        break;
    case RECORD_VERIFIED:
        watch->stage = STAGE_WORKING;
        verifications++;
        if (work_ns)
            watch->kill_at = csc_clock_ns() + work_ns;
        break;
    case RECORD_RUSHED:
        watch->stage = STAGE_WORKING;
        watch->kill_at = csc_clock_ns() + work_ns;
        break;
    case RECORD_CLOSED:
        watch->stage = STAGE_CLOSED;
        break;
    case RECORD_AT_MARK:
        memcpy(watch->mark, record->text, sizeof watch->mark);
        break;
    case RECORD_VIOLATION:
        watch->violated = true;
        break;
    default:
        break;
    }
}

/* Takes what is in the pipe; false at its end. */
static bool drain(child_watch *watch, uint64_t work_ns)
{
    static uint8_t bytes[1 << 16];
    ssize_t got;
    size_t at = 0, total;

    memcpy(bytes, watch->left, watch->left_bytes);
    got = read(watch->fd, bytes + watch->left_bytes, sizeof bytes - watch->left_bytes);
    if (got <= 0)
        return got < 0 && errno == EINTR;
    total = watch->left_bytes + (size_t)got;
    for (; total - at >= sizeof(torture_record); at += sizeof(torture_record)) {
        torture_record record;

        memcpy(&record, bytes + at, sizeof record);
        take(watch, &record, work_ns);
    }
    watch->left_bytes = total - at;
    memcpy(watch->left, bytes + at, watch->left_bytes);
    return true;
}

static bool start(child_watch *watch, child_plan *plan)
{
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) != 0)
        return false;
    fflush(NULL);
    watch->pid = fork();
    if (watch->pid == 0) {
        int log = open(log_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

        dup2(log, STDERR_FILENO);
        close(ends[0]);
        plan->pipe_fd = ends[1];
        child_main(plan, &told);
    }
    close(ends[1]);
    watch->fd = ends[0];
    return watch->pid > 0;
}

static void judge(const child_watch *watch, int status, bool we_killed, bool hung)
{
    char what[200];

    if (hung)
        snprintf(what, sizeof what, "the process hangs (%s)", stage_names[watch->stage]);
    else if (watch->violated)
        snprintf(what, sizeof what, "see below");
    else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && (we_killed || watch->mark[0]))
        return;
    else if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && watch->stage == STAGE_CLOSED)
        return;
    else if (WIFSIGNALED(status))
        snprintf(what, sizeof what, "the process died of signal %d", WTERMSIG(status));
    else
        snprintf(what, sizeof what, "the process ended with status %d", WEXITSTATUS(status));
    fail(what);
    print_log();
}

/* Runs a child to its end. `open_ns`: kill it that long after its start, `work_ns`: after it has
 * verified (0: not). */
static void run(child_plan *plan, uint64_t open_ns, uint64_t work_ns)
{
    uint64_t began = csc_clock_ns();
    child_watch watch = {.kill_at = open_ns ? began + open_ns : 0};
    bool we_killed = false, hung = false;
    int status;

    if (!start(&watch, plan)) {
        fail("cannot start a process");
        return;
    }
    for (;;) {
        uint64_t now = csc_clock_ns(), end = watch.kill_at ? watch.kill_at : began + HANG_NS;
        struct pollfd poll_fd = {.fd = watch.fd, .events = POLLIN};

        if (!we_killed && (now >= end || interrupted)) {
            hung = !watch.kill_at && !interrupted;
            kill(watch.pid, SIGKILL);
            we_killed = true;
        }
        if (poll(&poll_fd, 1, we_killed || now >= end ? 1000 : (int)((end - now) / 1000000 + 1)) > 0 &&
            !drain(&watch, work_ns))
            break;
    }
    close(watch.fd);
    while (waitpid(watch.pid, &status, 0) < 0 && errno == EINTR)
        ;
    judge(&watch, status, we_killed, hung);
    if (watch.mark[0])
        count_kill(watch.mark);
    else if (we_killed)
        count_kill(stage_names[watch.stage]);
    show_progress();
}

/* ---- rounds ---------------------------------------------------------------------------------- */

/* Marks to die at while working: by name, and about how many there are before the load is over. */
static const struct {
    const char *name;
    uint64_t hits_max;
} phases[] = {{"put: ", 1500},    {"merge: ", 60},  {"evict: ", 400},     {"write: ", 120},
              {"seal: ", 24},     {"put: ", 300},   {"merge: ", 10},      {"evict: ", 40},
              {"write: ", 20},    {"seal: ", 6},    {"delete: ", 300},    {"key: ", 800},
              {"content: ", 600}, {"hash: ", 1500}, {"segment: ", 20},    {"ack: put", 300},
              {"compact: ", 40},  {"compact: ", 8}, {"ack: durable", 20}, {"ack: delete", 200},
              {"ack: flush", 10}, {"ack: flush", 4}};
/* And while opening. */
static const struct {
    const char *name;
    uint64_t hits_max;
} opening_phases[] = {
    {"arena: ", 1}, {"recover: ", 3}, {"key: ", 40}, {"content: ", 60}, {"hash: ", 1500}};

/* 1 to `most`, small ones as often as large ones. */
static uint64_t spread(random_state *random, uint64_t most)
{
    uint64_t limit = most;

    while (limit > 8 && random_below(random, 2))
        limit /= 4;
    return 1 + random_below(random, limit);
}

static void kill_once(child_plan plan, random_state *random)
{
    uint64_t kind = random_below(random, 100);

    plan.seed = random_next(random);
    plan.load = true;
    plan.rush = !told.rebooted && random_below(random, 6) == 0;
    if (kind < 8) {
        run(&plan, 1 + random_below(random, 60000000), 0);
    } else if (kind < 20) {
        unsigned i = (unsigned)random_below(random, sizeof opening_phases / sizeof opening_phases[0]);

        plan.mark = opening_phases[i].name;
        plan.mark_hits = spread(random, opening_phases[i].hits_max);
        plan.mark_while_opening = true;
        run(&plan, 0, MARK_WAIT_NS / 4);
    } else if (kind < 40) {
        run(&plan, 0, 1 + random_below(random, 300000000));
    } else {
        unsigned i = (unsigned)random_below(random, sizeof phases / sizeof phases[0]);

        plan.mark = phases[i].name;
        plan.mark_hits = spread(random, phases[i].hits_max);
        run(&plan, 0, MARK_WAIT_NS);
    }
    if (each_file(shm, NULL) > 1) {
        fail("more than one arena in shared memory");
        each_file(shm, print_path);
    }
}

static void reboot(void)
{
    each_file(shm, remove_file);
    told.rebooted = true;
    remember("arena removed");
    reboots++;
}

/* Verifies and closes: nothing may be left in shared memory. */
static void close_once(child_plan plan, random_state *random, bool empty)
{
    plan.seed = random_next(random);
    plan.empty = empty;
    run(&plan, 0, 0);
    oracle_closed(&told);
    closes++;
    if (!failed && !interrupted && each_file(shm, NULL)) {
        fail("a closed store leaves something in shared memory");
        each_file(shm, print_path);
    }
}

static void torture_store(uint64_t number, uint64_t kills_end)
{
    static const uint64_t page_bytes[] = {4096, 16384, 65536};
    static const char *const policies[] = {"hazard", "lru", "published"};
    random_state random = {random_mix(asked.seed + number * UINT64_C(0x100000001b3))};
    child_plan plan = {.directory = store_path,
                       .shm_directory = shm,
                       .page_bytes = page_bytes[random_below(&random, 3)],
                       .policy = policies[random_below(&random, 3)],
                       .hash_threads = 1 + (uint32_t)random_below(&random, 2),
                       .prefault = random_below(&random, 2)};
    uint64_t to_reboot = 2 + random_below(&random, 8);

    oracle_reset(&told);
    while (kills < kills_end && !failed && !interrupted) {
        kill_once(plan, &random);
        bool was_durable = strstr(recent[(recent_count + 7) % 8], "ack: flush") ||
                           strstr(recent[(recent_count + 7) % 8], "ack: durable");

        if (!failed && (--to_reboot == 0 || (was_durable && random_below(&random, 2)))) {
            reboot();
            to_reboot = 7 + random_below(&random, 7);
        }
    }
    if (!failed && !interrupted)
        close_once(plan, &random, number % 2 == 0);
    if (!failed && !interrupted)
        close_once(plan, &random, number % 2 != 0);
    if (!failed || !asked.keep)
        remove_store();
}

/* ---- main ------------------------------------------------------------------------------------ */

static void on_signal(int number)
{
    (void)number;
    interrupted = 1;
}

static bool make_folders(void)
{
    const char *shm_parent = asked.shm_directory ? asked.shm_directory : getenv("CASCADE_SHM_DIR");

    snprintf(scratch, sizeof scratch, "%s/kill-torture.XXXXXX", asked.directory ? asked.directory : ".");
    snprintf(shm, sizeof shm, "%s/kill-torture.XXXXXX",
             shm_parent && *shm_parent ? shm_parent : "/dev/shm");
    if (!mkdtemp(scratch)) {
        perror(scratch);
        return false;
    }
    if (!mkdtemp(shm)) {
        perror(shm);
        rmdir(scratch);
        return false;
    }
    snprintf(store_path, sizeof store_path, "%s/store", scratch);
    snprintf(log_path, sizeof log_path, "%s/log", scratch);
    return true;
}

static void remove_folders(void)
{
    if (failed && asked.keep) {
        say("kept: %s and %s", scratch, shm);
        return;
    }
    each_file(shm, remove_file);
    rmdir(shm);
    unlink(log_path);
    rmdir(scratch);
}

static int parse(int key, char *text, struct argp_state *state)
{
    switch (key) {
    case 'n':
        asked.kills = strtoull(text, NULL, 10);
        return 0;
    case 's':
        asked.seed = strtoull(text, NULL, 10);
        return 0;
    case 'd':
        asked.directory = text;
        return 0;
    case 'm':
        asked.shm_directory = text;
        return 0;
    case 't':
        asked.tap = true;
        return 0;
    case 'k':
        asked.keep = true;
        return 0;
    case ARGP_KEY_ARG:
        argp_usage(state);
        return EINVAL;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"kills", 'n', "COUNT", 0, "how many processes are killed (200)", 0},
    {"seed", 's', "SEED", 0, "of everything random (default: from the clock, and printed)", 0},
    {"directory", 'd', "DIR", 0, "stores are made in here (the working directory)", 0},
    {"shm", 'm', "DIR", 0, "arenas are made in here (CASCADE_SHM_DIR, else /dev/shm)", 0},
    {"tap", 't', NULL, 0, "speak TAP", 0},
    {"keep", 'k', NULL, 0, "keep store and arena after a violation", 0},
    {0}};

int main(int argc, char **argv)
{
    static const struct argp argp = {
        options, parse, NULL, "Kills processes that work on a store and looks at what is left.",
        NULL,    NULL,  NULL};
    struct sigaction action = {.sa_handler = on_signal};

    asked.seed = csc_clock_ns() % 1000000000;
    argp_parse(&argp, argc, argv, 0, NULL, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    if (!make_folders())
        return 2;
    say("seed %llu, %llu kills", (unsigned long long)asked.seed, (unsigned long long)asked.kills);
    for (uint64_t number = 0; kills < asked.kills && !failed && !interrupted; number++) {
        uint64_t end = kills + ROUNDS_A_STORE;

        torture_store(number, end < asked.kills ? end : asked.kills);
    }
    if (isatty(STDERR_FILENO))
        fputc('\n', stderr);
    print_points();
    say("%llu kills, %llu lost arenas, %llu closes, %llu times every key was checked; acknowledged: "
        "%llu "
        "puts (%llu durable), %llu deletes, %llu flushes",
        (unsigned long long)kills, (unsigned long long)reboots, (unsigned long long)closes,
        (unsigned long long)verifications, (unsigned long long)told.put_acks,
        (unsigned long long)told.durable_acks, (unsigned long long)told.delete_acks,
        (unsigned long long)told.flush_acks);
    remove_folders();
    if (asked.tap)
        printf("%s 1 - what was acknowledged survives %llu kills\n1..1\n", failed ? "not ok" : "ok",
               (unsigned long long)kills);
    else
        say("%s", failed ? "FAILED" : interrupted ? "interrupted" : "all acknowledged blocks are there");
    return failed ? 1 : interrupted ? 130 : 0;
}
