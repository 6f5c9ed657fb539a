/* SPDX-License-Identifier: MIT */
#include "recording.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SECTOR    512u
#define FDS       4096
#define NAME_MAX_ 64

enum kind { WRITE, TRUNCATE, SYNC, BIND, RENAME, UNLINK, SYNC_NAMES, NOTE };

typedef struct step {
    enum kind kind;
    uint32_t inode;
    uint64_t offset, bytes; /* TRUNCATE: the size in `offset` */
    uint8_t *data;
    char from[NAME_MAX_], to[NAME_MAX_]; /* BIND and UNLINK: `to` */
    size_t began;                        /* SYNC, SYNC_NAMES: the steps that were done when it began */
    size_t done;                         /* WRITE: the step by which it was done */
    pc_note note;
} step;

/* All below is guarded by the lock; a step is never moved once it is in the array of pointers. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char directory_name[512];
static step **steps;
static size_t step_count, step_room;
static uint32_t inode_count;
static uint32_t inode_of_fd[FDS]; /* + 1; 0: not recorded */
static bool is_directory[FDS];
static struct {
    char name[NAME_MAX_];
    uint32_t inode;
} names[4096];
static size_t name_count;

static void die(const char *what)
{
    fprintf(stderr, "powercut: %s: %s\n", what, strerror(errno));
    abort();
}

static step *add(enum kind kind)
{
    if (step_count == step_room) {
        step_room = step_room ? 2 * step_room : 1024;
        steps = realloc(steps, step_room * sizeof(step *));
    }
    if (!steps || !(steps[step_count] = calloc(1, sizeof(step))))
        die("memory");
    steps[step_count]->kind = kind;
    return steps[step_count++];
}

/* The name within the directory, or NULL for another place. */
static const char *name_of(const char *path)
{
    size_t length = strlen(directory_name);

    return strncmp(path, directory_name, length) == 0 && path[length] == '/' &&
                   strlen(path) - length <= NAME_MAX_
               ? path + length + 1
               : NULL;
}

static size_t find(const char *name)
{
    size_t i = 0;

    while (i < name_count && strcmp(names[i].name, name) != 0)
        i++;
    return i;
}

static void bind(const char *name, uint32_t inode)
{
    size_t i = find(name);

    if (i == sizeof names / sizeof names[0])
        die("too many names");
    if (i == name_count)
        snprintf(names[name_count++].name, NAME_MAX_, "%s", name);
    names[i].inode = inode;
}

static void unbind(const char *name)
{
    size_t i = find(name);

    if (i < name_count)
        names[i] = names[--name_count];
}

/* ---- the calls ------------------------------------------------------------------------------------ */

static int rec_open(const char *path, int flags, mode_t mode)
{
    const char *name = name_of(path);
    int fd;

    pthread_mutex_lock(&lock);
    fd = open(path, flags, mode);
    if (fd >= FDS)
        die("too many files");
    if (fd >= 0) {
        inode_of_fd[fd] = 0;
        is_directory[fd] = strcmp(path, directory_name) == 0;
        if (name && find(name) == name_count) {
            step *made = add(BIND);

            made->inode = inode_count++;
            snprintf(made->to, NAME_MAX_, "%s", name);
            bind(name, made->inode);
        }
        if (name)
            inode_of_fd[fd] = names[find(name)].inode + 1;
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

static int rec_close(int fd)
{
    pthread_mutex_lock(&lock);
    if (fd >= 0 && fd < FDS) {
        inode_of_fd[fd] = 0;
        is_directory[fd] = false;
    }
    pthread_mutex_unlock(&lock);
    return close(fd);
}

static ssize_t rec_pwritev(int fd, const struct iovec *vectors, int count, off_t offset)
{
    step *made = NULL;
    ssize_t written;

    pthread_mutex_lock(&lock);
    if (inode_of_fd[fd]) {
        uint8_t *to;

        made = add(WRITE);
        made->inode = inode_of_fd[fd] - 1;
        made->offset = (uint64_t)offset;
        made->done = SIZE_MAX;
        for (int i = 0; i < count; i++)
            made->bytes += vectors[i].iov_len;
        to = made->data = malloc(made->bytes + 1);
        if (!to)
            die("memory");
        for (int i = 0; i < count; i++) {
            memcpy(to, vectors[i].iov_base, vectors[i].iov_len);
            to += vectors[i].iov_len;
        }
    }
    pthread_mutex_unlock(&lock);
    written = pwritev(fd, vectors, count, offset);
    pthread_mutex_lock(&lock);
    if (made) {
        made->bytes = written > 0 ? (uint64_t)written : 0;
        made->done = step_count;
    }
    pthread_mutex_unlock(&lock);
    return written;
}

static int rec_sync(int fd, int (*call)(int))
{
    size_t began;
    int code;

    pthread_mutex_lock(&lock);
    began = step_count;
    pthread_mutex_unlock(&lock);
    code = call(fd);
    pthread_mutex_lock(&lock);
    if (code == 0 && (inode_of_fd[fd] || is_directory[fd])) {
        step *made = add(is_directory[fd] ? SYNC_NAMES : SYNC);

        made->inode = inode_of_fd[fd] - 1;
        made->began = began;
    }
    pthread_mutex_unlock(&lock);
    return code;
}

static int rec_fdatasync(int fd)
{
    return rec_sync(fd, fdatasync);
}

static int rec_fsync(int fd)
{
    return rec_sync(fd, fsync);
}

static int rec_ftruncate(int fd, off_t bytes)
{
    int code;

    pthread_mutex_lock(&lock);
    code = ftruncate(fd, bytes);
    if (code == 0 && inode_of_fd[fd]) {
        step *made = add(TRUNCATE);

        made->inode = inode_of_fd[fd] - 1;
        made->offset = (uint64_t)bytes;
        made->done = step_count;
    }
    pthread_mutex_unlock(&lock);
    return code;
}

static int rec_link(const char *from, const char *to)
{
    int code;

    pthread_mutex_lock(&lock);
    code = link(from, to);
    if (code == 0 && name_of(to)) {
        step *made = add(BIND);

        made->inode = names[find(name_of(from))].inode;
        snprintf(made->to, NAME_MAX_, "%s", name_of(to));
        bind(made->to, made->inode);
    }
    pthread_mutex_unlock(&lock);
    return code;
}

static int rec_rename(const char *from, const char *to)
{
    int code;

    pthread_mutex_lock(&lock);
    code = rename(from, to);
    if (code == 0 && name_of(from) && name_of(to)) {
        step *made = add(RENAME);

        made->inode = names[find(name_of(from))].inode;
        snprintf(made->from, NAME_MAX_, "%s", name_of(from));
        snprintf(made->to, NAME_MAX_, "%s", name_of(to));
        unbind(made->from);
        bind(made->to, made->inode);
    }
    pthread_mutex_unlock(&lock);
    return code;
}

static int rec_unlink(const char *path)
{
    int code;

    pthread_mutex_lock(&lock);
    code = unlink(path);
    if (code == 0 && name_of(path)) {
        snprintf(add(UNLINK)->to, NAME_MAX_, "%s", name_of(path));
        unbind(name_of(path));
    }
    pthread_mutex_unlock(&lock);
    return code;
}

const csc_io_calls pc_calls = {
    .open = rec_open,
    .close = rec_close,
    .preadv = preadv,
    .pwritev = rec_pwritev,
    .fdatasync = rec_fdatasync,
    .fsync = rec_fsync,
    .fallocate = fallocate,
    .ftruncate = rec_ftruncate,
    .fstat = fstat,
    .link = rec_link,
    .rename = rec_rename,
    .unlink = rec_unlink,
    .mkdir = mkdir,
};

/* ---- the recording ---------------------------------------------------------------------------------
 */

void pc_record(const char *directory)
{
    pc_forget();
    snprintf(directory_name, sizeof directory_name, "%s", directory);
}

void pc_forget(void)
{
    for (size_t i = 0; i < step_count; i++) {
        free(steps[i]->data);
        free(steps[i]);
    }
    free(steps);
    steps = NULL;
    step_count = step_room = name_count = 0;
    inode_count = 0;
    memset(inode_of_fd, 0, sizeof inode_of_fd);
}

size_t pc_say(pc_note note)
{
    size_t at;

    pthread_mutex_lock(&lock);
    at = step_count;
    add(NOTE)->note = note;
    pthread_mutex_unlock(&lock);
    return at;
}

size_t pc_steps(void)
{
    return step_count;
}

const pc_note *pc_note_at(size_t at)
{
    return steps[at]->kind == NOTE ? &steps[at]->note : NULL;
}

/* ---- the states -------------------------------------------------------------------------------------
 */

uint64_t pc_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

typedef struct image {
    uint8_t *data;
    uint64_t bytes, room;
} image;

static void reach(image *file, uint64_t bytes)
{
    if (bytes > file->room) {
        uint64_t room = bytes + bytes / 2 + 65536;

        file->data = realloc(file->data, room);
        if (!file->data)
            die("memory");
        memset(file->data + file->room, 0, room - file->room);
        file->room = room;
    }
    if (bytes > file->bytes)
        file->bytes = bytes;
}

/* Of the bytes of a write, those in the sectors that the choice takes. */
static void apply(image *file, const step *write, bool torn, uint64_t *random)
{
    reach(file, write->offset + write->bytes);
    for (uint64_t at = 0; at < write->bytes; at += SECTOR) {
        uint64_t bytes = write->bytes - at < SECTOR ? write->bytes - at : SECTOR;

        if (!torn || pc_random(random) % 2)
            memcpy(file->data + write->offset + at, write->data + at, bytes);
    }
}

static void cut(image *file, uint64_t bytes)
{
    reach(file, bytes);
    memset(file->data + bytes, 0, file->room - bytes);
    file->bytes = bytes;
}

/* How likely it is, in sixteenths, that something not synced is there all the same. */
static unsigned pick_chance(uint64_t *random)
{
    static const unsigned chances[] = {0, 0, 2, 8, 8, 14, 16, 16};

    return chances[pc_random(random) % (sizeof chances / sizeof chances[0])];
}

static void build_file(uint32_t inode, size_t end, uint64_t *random, const char *path)
{
    image file = {0};
    size_t synced = 0; /* all that was done by this step is durable */
    unsigned chance = pick_chance(random), tear = pick_chance(random) / 2;
    int fd;

    for (size_t i = 0; i < end; i++)
        if (steps[i]->kind == SYNC && steps[i]->inode == inode && steps[i]->began > synced)
            synced = steps[i]->began;
    for (size_t i = 0; i < end; i++) {
        const step *s = steps[i];
        bool durable = s->done <= synced;

        if ((s->kind != WRITE && s->kind != TRUNCATE) || s->inode != inode)
            continue;
        if (!durable && pc_random(random) % 16 >= chance)
            continue;
        if (s->kind == TRUNCATE)
            cut(&file, s->offset);
        else
            apply(&file, s, !durable && pc_random(random) % 16 < tear, random);
    }
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    if (fd < 0)
        die(path);
    for (uint64_t at = 0; at < file.bytes;) {
        ssize_t wrote = write(fd, file.data + at, file.bytes - at);

        if (wrote <= 0)
            die("writing a state");
        at += (uint64_t)wrote;
    }
    close(fd);
    free(file.data);
}

/* The names that are there: a list like `names`, from nothing. */
typedef struct listing {
    char name[NAME_MAX_];
    uint32_t inode;
    bool there, stopped; /* stopped: a change was lost, so are all after it */
} listing;

static listing *entry(listing *list, size_t *count, const char *name)
{
    for (size_t i = 0; i < *count; i++)
        if (strcmp(list[i].name, name) == 0)
            return &list[i];
    if (*count == 8192)
        die("too many names");
    list[*count] = (listing){.there = false};
    snprintf(list[*count].name, NAME_MAX_, "%s", name);
    return &list[(*count)++];
}

static size_t build_names(listing *list, size_t end, uint64_t *random)
{
    unsigned chance = pick_chance(random);
    size_t synced = 0, count = 0;

    for (size_t i = 0; i < end; i++)
        if (steps[i]->kind == SYNC_NAMES && steps[i]->began > synced)
            synced = steps[i]->began;
    for (size_t i = 0; i < end; i++) {
        const step *s = steps[i];
        listing *from, *to;

        if (s->kind != BIND && s->kind != RENAME && s->kind != UNLINK)
            continue;
        to = entry(list, &count, s->to);
        from = s->kind == RENAME ? entry(list, &count, s->from) : NULL;
        to = entry(list, &count, s->to);
        if (i >= synced &&
            (to->stopped || (from && from->stopped) || pc_random(random) % 16 >= chance)) {
            to->stopped = true;
            if (from)
                from->stopped = true;
            continue;
        }
        to->there = s->kind != UNLINK;
        to->inode = s->inode;
        if (from)
            from->there = false;
    }
    return count;
}

void pc_build(size_t end, uint64_t seed, const char *directory)
{
    static listing list[8192];
    uint64_t random = seed;
    size_t count = build_names(list, end, &random);

    for (size_t i = 0; i < count; i++) {
        char path[1024], other[1024];
        size_t twin = 0;

        if (!list[i].there)
            continue;
        snprintf(path, sizeof path, "%s/%.63s", directory, list[i].name);
        /* Two names of one file. */
        while (twin < i && !(list[twin].there && list[twin].inode == list[i].inode))
            twin++;
        snprintf(other, sizeof other, "%s/%.63s", directory, list[twin].name);
        if (twin < i ? link(other, path) != 0 : false)
            die(path);
        if (twin == i)
            build_file(list[i].inode, end, &random, path);
    }
}
