/* SPDX-License-Identifier: MIT */
#include "recording.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FDS    4096
#define INODES 4096

/* All below is guarded by the lock; a step is never moved once it is in the array of pointers. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char directory_name[512];
static pc_setup setup;
static pc_step **steps;
static size_t step_count, step_room, first_step;
static uint32_t inode_count;
static uint32_t inode_of_fd[FDS]; /* + 1; 0: not recorded */
static bool is_directory[FDS];
static uint32_t failures[INODES];    /* syncs of the file that failed */
static uint32_t failures_of_fd[FDS]; /* of these, told through the descriptor */
static bool syncs_fail;
static uint64_t fault_random;
static struct {
    char name[PC_NAME_BYTES];
    uint32_t inode;
} names[4096];
static size_t name_count;

_Noreturn void pc_die(const char *what)
{
    fprintf(stderr, "powercut: %s: %s\n", what, strerror(errno));
    abort();
}

static pc_step *add(enum pc_kind kind)
{
    if (step_count == step_room) {
        step_room = step_room ? 2 * step_room : 1024;
        steps = realloc(steps, step_room * sizeof(pc_step *));
    }
    if (!steps || !(steps[step_count] = calloc(1, sizeof(pc_step))))
        pc_die("memory");
    steps[step_count]->kind = kind;
    return steps[step_count++];
}

/* The name within the directory, or NULL for another place. */
static const char *name_of(const char *path)
{
    size_t length = strlen(directory_name);

    return strncmp(path, directory_name, length) == 0 && path[length] == '/' &&
                   strlen(path) - length <= PC_NAME_BYTES
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

static uint32_t new_inode(void)
{
    if (inode_count == INODES)
        pc_die("too many files");
    failures[inode_count] = 0;
    return inode_count++;
}

static void bind(const char *name, uint32_t inode)
{
    size_t i = find(name);

    if (i == sizeof names / sizeof names[0])
        pc_die("too many names");
    if (i == name_count)
        snprintf(names[name_count++].name, PC_NAME_BYTES, "%s", name);
    names[i].inode = inode;
}

static void unbind(const char *name)
{
    size_t i = find(name);

    if (i < name_count)
        names[i] = names[--name_count];
}

/* ---- the calls ------------------------------------------------------------------------------------ */

/* Done: lock held. */
static void note_truncation(int fd, uint64_t bytes)
{
    pc_step *made = add(PC_STEP_TRUNCATE);

    made->inode = inode_of_fd[fd] - 1;
    made->offset = bytes;
    made->done = step_count;
}

static int rec_open(const char *path, int flags, mode_t mode)
{
    const char *name = name_of(path);
    int fd;

    pthread_mutex_lock(&lock);
    fd = open(path, flags, mode);
    if (fd >= FDS)
        pc_die("too many files");
    if (fd >= 0) {
        inode_of_fd[fd] = 0;
        is_directory[fd] = strcmp(path, directory_name) == 0;
        if (name && find(name) == name_count) {
            pc_step *made = add(PC_STEP_BIND);

            made->inode = new_inode();
            snprintf(made->to, PC_NAME_BYTES, "%s", name);
            bind(name, made->inode);
        }
        if (name)
            inode_of_fd[fd] = names[find(name)].inode + 1;
        if (name)
            failures_of_fd[fd] = failures[inode_of_fd[fd] - 1];
        if (name && (flags & O_TRUNC))
            note_truncation(fd, 0);
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
    pc_step *made = NULL;
    ssize_t written;

    pthread_mutex_lock(&lock);
    if (inode_of_fd[fd]) {
        uint8_t *to;

        made = add(PC_STEP_WRITE);
        made->inode = inode_of_fd[fd] - 1;
        made->offset = (uint64_t)offset;
        made->done = SIZE_MAX;
        for (int i = 0; i < count; i++)
            made->bytes += vectors[i].iov_len;
        to = made->data = malloc(made->bytes + 1);
        if (!to)
            pc_die("memory");
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

/* Whether this sync fails: lock held. */
static bool fails_now(int fd)
{
    bool by_chance = syncs_fail && pc_random(&fault_random) % setup.failing_syncs == 0;
    uint32_t *count;

    if (!inode_of_fd[fd])
        return by_chance && is_directory[fd];
    count = &failures[inode_of_fd[fd] - 1];
    *count += by_chance;
    by_chance = failures_of_fd[fd] != *count;
    failures_of_fd[fd] = *count;
    return by_chance;
}

static int rec_sync(int fd, int (*call)(int), bool whole)
{
    bool fails;
    size_t began;
    int code;

    pthread_mutex_lock(&lock);
    began = step_count;
    fails = fails_now(fd);
    pthread_mutex_unlock(&lock);
    code = fails ? -1 : call(fd);
    pthread_mutex_lock(&lock);
    if ((code == 0 || fails) && (inode_of_fd[fd] || is_directory[fd])) {
        pc_step *made = add(is_directory[fd] ? PC_STEP_SYNC_NAMES : PC_STEP_SYNC);

        made->inode = inode_of_fd[fd] - 1;
        made->began = began;
        made->failed = fails;
        made->whole = whole;
    }
    pthread_mutex_unlock(&lock);
    if (fails)
        errno = EIO;
    return code;
}

static int rec_fdatasync(int fd)
{
    return rec_sync(fd, fdatasync, false);
}

static int rec_fsync(int fd)
{
    return rec_sync(fd, fsync, true);
}

static int rec_ftruncate(int fd, off_t bytes)
{
    int code;

    pthread_mutex_lock(&lock);
    code = ftruncate(fd, bytes);
    if (code == 0 && inode_of_fd[fd])
        note_truncation(fd, (uint64_t)bytes);
    pthread_mutex_unlock(&lock);
    return code;
}

static int rec_link(const char *from, const char *to)
{
    int code;

    pthread_mutex_lock(&lock);
    code = link(from, to);
    if (code == 0 && name_of(to)) {
        pc_step *made = add(PC_STEP_BIND);

        made->inode = names[find(name_of(from))].inode;
        snprintf(made->to, PC_NAME_BYTES, "%s", name_of(to));
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
        pc_step *made = add(PC_STEP_RENAME);

        made->inode = names[find(name_of(from))].inode;
        snprintf(made->from, PC_NAME_BYTES, "%s", name_of(from));
        snprintf(made->to, PC_NAME_BYTES, "%s", name_of(to));
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
        snprintf(add(PC_STEP_UNLINK)->to, PC_NAME_BYTES, "%s", name_of(path));
        unbind(name_of(path));
    }
    pthread_mutex_unlock(&lock);
    return code;
}

const csc_io_calls pc_calls = {
    .open = rec_open,
    .close = rec_close,
    .pwritev = rec_pwritev,
    .fdatasync = rec_fdatasync,
    .fsync = rec_fsync,
    .ftruncate = rec_ftruncate,
    .link = rec_link,
    .rename = rec_rename,
    .unlink = rec_unlink,
};

/* ---- the recording ------------------------------------------------------------------------------- */

void pc_record(const char *directory, const pc_setup *how)
{
    pc_forget();
    setup = *how;
    syncs_fail = false;
    fault_random = setup.seed;
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
    step_count = step_room = first_step = name_count = 0;
    inode_count = 0;
    memset(inode_of_fd, 0, sizeof inode_of_fd);
    memset(is_directory, 0, sizeof is_directory);
}

void pc_say(pc_note note)
{
    pthread_mutex_lock(&lock);
    add(PC_STEP_NOTE)->note = note;
    pthread_mutex_unlock(&lock);
}

void pc_let_syncs_fail(bool yes)
{
    pthread_mutex_lock(&lock);
    syncs_fail = yes && setup.failing_syncs;
    pthread_mutex_unlock(&lock);
}

const pc_setup *pc_setup_now(void)
{
    return &setup;
}

size_t pc_steps(void)
{
    return step_count;
}

size_t pc_first(void)
{
    return first_step;
}

const pc_step *pc_step_at(size_t at)
{
    return steps[at];
}

uint32_t pc_inodes(void)
{
    return inode_count;
}

uint64_t pc_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static void adopt_bytes(const char *path, uint64_t bytes, uint32_t inode)
{
    pc_step *made = add(PC_STEP_WRITE);
    FILE *file = fopen(path, "rb");

    made->inode = inode;
    made->bytes = bytes;
    made->data = malloc(bytes + 1);
    made->done = step_count;
    if (!file || !made->data || fread(made->data, 1, bytes, file) != bytes)
        pc_die(path);
    fclose(file);
    made = add(PC_STEP_SYNC);
    made->inode = inode;
    made->began = step_count;
}

void pc_adopt(void)
{
    static struct {
        ino_t number;
        uint32_t inode;
    } known[1024];
    size_t known_count = 0;
    DIR *directory = opendir(directory_name);
    struct dirent *item;
    pc_step *made;

    if (!directory)
        pc_die(directory_name);
    while ((item = readdir(directory))) {
        char path[1024];
        struct stat info;
        size_t k = 0;

        snprintf(path, sizeof path, "%s/%.63s", directory_name, item->d_name);
        if (stat(path, &info) != 0)
            pc_die(path);
        if (!S_ISREG(info.st_mode))
            continue;
        while (k < known_count && known[k].number != info.st_ino)
            k++;
        if (k == known_count) {
            if (known_count == sizeof known / sizeof known[0])
                pc_die("too many files");
            known[known_count].number = info.st_ino;
            known[known_count++].inode = new_inode();
            adopt_bytes(path, (uint64_t)info.st_size, known[k].inode);
        }
        made = add(PC_STEP_BIND);
        made->inode = known[k].inode;
        snprintf(made->to, PC_NAME_BYTES, "%.63s", item->d_name);
        bind(made->to, made->inode);
    }
    closedir(directory);
    made = add(PC_STEP_SYNC_NAMES);
    made->began = step_count;
    first_step = step_count;
}

/* ---- in a file -------------------------------------------------------------------------------------
 * A head, then each step as it lies in memory and its bytes: for this machine and this build alone.
 */

typedef struct head {
    char magic[8];
    uint64_t step_bytes, step_count, first_step, inode_count;
    pc_setup setup;
} head;

static const char magic[8] = "PCUTREC3";

void pc_save(const char *path)
{
    head top = {.step_bytes = sizeof(pc_step),
                .step_count = step_count,
                .first_step = first_step,
                .inode_count = inode_count,
                .setup = setup};
    FILE *file = fopen(path, "wb");

    memcpy(top.magic, magic, sizeof magic);
    if (!file || fwrite(&top, sizeof top, 1, file) != 1)
        pc_die(path);
    for (size_t i = 0; i < step_count; i++)
        if (fwrite(steps[i], sizeof *steps[i], 1, file) != 1 ||
            (steps[i]->data && fwrite(steps[i]->data, 1, steps[i]->bytes, file) != steps[i]->bytes))
            pc_die(path);
    if (fclose(file) != 0)
        pc_die(path);
}

void pc_load(const char *path)
{
    FILE *file = fopen(path, "rb");
    head top;

    pc_forget();
    if (!file || fread(&top, sizeof top, 1, file) != 1)
        pc_die(path);
    if (memcmp(top.magic, magic, sizeof magic) != 0 || top.step_bytes != sizeof(pc_step))
        pc_die("this is not a recording of this build");
    for (size_t i = 0; i < top.step_count; i++) {
        pc_step *to = add(PC_STEP_NOTE);

        if (fread(to, sizeof *to, 1, file) != 1)
            pc_die(path);
        if (!to->data)
            continue;
        to->data = malloc(to->bytes + 1);
        if (!to->data || fread(to->data, 1, to->bytes, file) != to->bytes)
            pc_die(path);
    }
    fclose(file);
    first_step = top.first_step;
    inode_count = (uint32_t)top.inode_count;
    setup = top.setup;
}
