/* SPDX-License-Identifier: MIT */
#include "states.h"

#include "recording.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIST_MAX 8192

/* ---- where ------------------------------------------------------------------------------------------
 */

/* Whether a write is the first of records into a file that got its name by a rename. */
static bool is_first_again(size_t at)
{
    const pc_step *s = pc_step_at(at);

    if (s->kind != PC_STEP_WRITE || s->offset == 0)
        return false;
    while (at-- > 0) {
        const pc_step *before = pc_step_at(at);

        if (before->inode != s->inode)
            continue;
        if (before->kind == PC_STEP_RENAME)
            return true;
        if (before->kind == PC_STEP_WRITE && before->offset > 0)
            return false;
    }
    return false;
}

static bool is_interesting(size_t at)
{
    const pc_step *s = pc_step_at(at);

    switch (s->kind) {
    case PC_STEP_TRUNCATE:
    case PC_STEP_BIND:
    case PC_STEP_RENAME:
    case PC_STEP_UNLINK:
    case PC_STEP_SYNC_NAMES:
        return true;
    case PC_STEP_NOTE:
        return s->note.what == PC_MARK || s->note.what == PC_FLUSHED;
    default:
        return is_first_again(at);
    }
}

pc_cut pc_cut_of(uint64_t number)
{
    uint64_t random = pc_setup_now()->seed * 1000003 + number;
    size_t first = pc_first(), count = pc_steps() - first;
    pc_cut cut = {.end = first + 1 + (size_t)(pc_random(&random) % count)};

    if (pc_random(&random) % 2) {
        /* The next such step in the round, then a little before or behind it. */
        for (size_t i = 0; i < count; i++) {
            size_t at = first + (cut.end - first + i) % count;

            if (is_interesting(at)) {
                cut.end = at + (size_t)(pc_random(&random) % 3);
                break;
            }
        }
    }
    if (cut.end < first + 1)
        cut.end = first + 1;
    if (cut.end > pc_steps())
        cut.end = pc_steps();
    cut.seed = pc_random(&random);
    return cut;
}

/* ---- what is durable --------------------------------------------------------------------------------
 */

static size_t syncs[LIST_MAX]; /* steps: those of one file, or of names */
static size_t sync_count;

static void find_syncs(enum pc_kind kind, uint32_t inode, size_t end)
{
    bool failures_count = kind == PC_STEP_SYNC || pc_setup_now()->ranks == 1;

    sync_count = 0;
    for (size_t i = 0; i < end; i++) {
        const pc_step *s = pc_step_at(i);

        if (s->kind != kind || (kind == PC_STEP_SYNC && s->inode != inode) ||
            (s->failed && !failures_count))
            continue;
        if (sync_count == LIST_MAX)
            pc_die("too many syncs");
        syncs[sync_count++] = i;
    }
}

/* Of a step that was done by `done`: the first sync that began afterwards and succeeded counts, unless
 * one that failed was under way with the step not durable yet. */
static bool is_durable(size_t step, size_t done, bool failures_harm, bool whole)
{
    for (size_t i = 0; i < sync_count; i++) {
        const pc_step *s = pc_step_at(syncs[i]);

        if (syncs[i] <= step)
            continue;
        if (s->failed && failures_harm)
            return false;
        if (!s->failed && s->began >= done && (s->whole || !whole))
            return true;
    }
    return false;
}

/* ---- bytes ------------------------------------------------------------------------------------------
 */

typedef struct image {
    uint8_t *data;
    uint64_t bytes, room;
    const struct image *stale; /* what grown space holds before it is written; NULL: zeros */
} image;

static void reach(image *file, uint64_t bytes)
{
    if (bytes > file->room) {
        uint64_t room = bytes + bytes / 2 + 65536;

        file->data = realloc(file->data, room);
        if (!file->data)
            pc_die("memory");
        memset(file->data + file->room, 0, room - file->room);
        file->room = room;
    }
    if (bytes > file->bytes) {
        if (file->stale && file->stale->bytes > file->bytes)
            memcpy(file->data + file->bytes, file->stale->data + file->bytes,
                   (file->stale->bytes < bytes ? file->stale->bytes : bytes) - file->bytes);
        file->bytes = bytes;
    }
}

static void put_bytes(image *file, const pc_step *step)
{
    if (step->bytes) /* else there may be no data at all */
        memcpy(file->data + step->offset, step->data, step->bytes);
}

/* How likely it is, in sixteenths, that something not synced is there all the same. */
static unsigned pick_chance(uint64_t *random)
{
    static const unsigned chances[] = {0, 0, 2, 8, 8, 14, 16, 16};

    return chances[pc_random(random) % (sizeof chances / sizeof chances[0])];
}

/* Some of the sectors of a write: any, the first, the last, all but one, none (only the size grew). */
static void apply_torn(image *file, const pc_step *write, uint64_t *random)
{
    uint64_t sector = pc_random(random) % 2 ? 512 : 4096, how = pc_random(random) % 5;
    uint64_t count = (write->bytes + sector - 1) / sector;
    uint64_t which = count ? pc_random(random) % count : 0;

    for (uint64_t i = 0; i < count; i++) {
        uint64_t at = i * sector, bytes = write->bytes - at < sector ? write->bytes - at : sector;
        bool is_there = how == 0   ? pc_random(random) % 2
                        : how == 1 ? i < which
                        : how == 2 ? i >= which
                        : how == 3 ? i != which
                                   : false;

        if (is_there)
            memcpy(file->data + write->offset + at, write->data + at, bytes);
    }
}

static void cut_to(image *file, uint64_t bytes)
{
    reach(file, bytes);
    if (file->room > bytes) /* else there may be no data at all */
        memset(file->data + bytes, 0, file->room - bytes);
    file->bytes = bytes;
}

/* All that was ever written to a file before the step. */
static void apply_all(image *file, uint32_t inode, size_t end)
{
    for (size_t i = 0; i < end; i++) {
        const pc_step *s = pc_step_at(i);

        if (s->kind != PC_STEP_WRITE || s->inode != inode)
            continue;
        reach(file, s->offset + s->bytes);
        put_bytes(file, s);
    }
}

static void apply_some(image *file, uint32_t inode, size_t end, uint64_t *random)
{
    unsigned chance = pick_chance(random), tear = pick_chance(random) / 2;
    bool stays_large = pc_random(random) % 8 == 0;

    find_syncs(PC_STEP_SYNC, inode, end);
    for (size_t i = 0; i < end; i++) {
        const pc_step *s = pc_step_at(i);
        bool durable;

        if ((s->kind != PC_STEP_WRITE && s->kind != PC_STEP_TRUNCATE) || s->inode != inode)
            continue;
        durable = is_durable(i, s->done, true,
                             s->kind == PC_STEP_TRUNCATE && s->offset < file->bytes && stays_large);
        if (!durable && pc_random(random) % 16 >= chance)
            continue;
        if (s->kind == PC_STEP_TRUNCATE) {
            cut_to(file, s->offset);
            continue;
        }
        reach(file, s->offset + s->bytes);
        if (durable || pc_random(random) % 16 >= tear)
            put_bytes(file, s);
        else
            apply_torn(file, s, random);
    }
}

static void write_image(const image *file, const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);

    if (fd < 0)
        pc_die(path);
    for (uint64_t at = 0; at < file->bytes;) {
        ssize_t wrote = write(fd, file->data + at, file->bytes - at);

        if (wrote <= 0)
            pc_die("writing a state");
        at += (uint64_t)wrote;
    }
    close(fd);
}

static uint64_t hash(uint64_t sum, const uint8_t *data, uint64_t bytes)
{
    uint64_t word;

    for (; bytes >= 8; bytes -= 8, data += 8) {
        memcpy(&word, data, 8);
        sum = (sum ^ word) * UINT64_C(0x100000001b3);
        sum ^= sum >> 29;
    }
    while (bytes-- > 0)
        sum = (sum ^ *data++) * UINT64_C(0x100000001b3);
    return sum;
}

static uint64_t build_file(uint32_t inode, pc_cut cut, const char *path)
{
    uint64_t random = cut.seed + inode * UINT64_C(0x9e3779b9), sum;
    image file = {0}, stale = {0};

    if (inode > 0 && pc_random(&random) % 8 == 0) {
        apply_all(&stale, (uint32_t)(pc_random(&random) % inode), cut.end);
        file.stale = &stale;
    }
    apply_some(&file, inode, cut.end, &random);
    write_image(&file, path);
    sum = hash(file.bytes, file.data, file.bytes);
    free(file.data);
    free(stale.data);
    return sum;
}

/* ---- names ------------------------------------------------------------------------------------------
 */

/* A name's life: from nothing. */
typedef struct listing {
    char name[PC_NAME_BYTES];
    uint32_t inode;
    bool there, stopped; /* stopped: a change was lost, so are all after it */
} listing;

static listing list[LIST_MAX];
static size_t list_count;

static listing *entry(const char *name)
{
    for (size_t i = 0; i < list_count; i++)
        if (strcmp(list[i].name, name) == 0)
            return &list[i];
    if (list_count == LIST_MAX)
        pc_die("too many names");
    list[list_count] = (listing){.there = false};
    memcpy(list[list_count].name, name, PC_NAME_BYTES);
    return &list[list_count++];
}

/* Whether a change that is not durable is lost; the names then stop. */
static bool is_lost(listing *a, listing *b, unsigned chance, uint64_t *random)
{
    bool lost = a->stopped || (b && b->stopped) || pc_random(random) % 16 >= chance;

    a->stopped |= lost;
    if (b)
        b->stopped |= lost;
    return lost;
}

static void build_names(size_t end, uint64_t *random)
{
    enum { JOURNAL, ATOMIC, LOOSE } how = (unsigned)(pc_random(random) % 4) % 3;
    unsigned chance = pick_chance(random);
    listing journal = {.there = false};

    list_count = 0;
    find_syncs(PC_STEP_SYNC_NAMES, 0, end);
    for (size_t i = 0; i < end; i++) {
        const pc_step *s = pc_step_at(i);
        listing *from = NULL, *to;
        bool to_lost = false, from_lost = false, durable;

        if (s->kind != PC_STEP_BIND && s->kind != PC_STEP_RENAME && s->kind != PC_STEP_UNLINK)
            continue;
        to = entry(s->to);
        durable = is_durable(i, i + 1, s->kind != PC_STEP_UNLINK, false);
        if (s->kind == PC_STEP_RENAME)
            from = entry(s->from);
        if (!durable && how == JOURNAL) {
            to_lost = from_lost = is_lost(&journal, NULL, chance, random);
        } else if (!durable && how == ATOMIC) {
            to_lost = from_lost = is_lost(to, from, chance, random);
        } else if (!durable) {
            to_lost = is_lost(to, NULL, chance, random);
            from_lost = from && is_lost(from, NULL, chance, random);
        }
        if (!to_lost) {
            to->there = s->kind != PC_STEP_UNLINK;
            to->inode = s->inode;
        }
        if (from && !from_lost)
            from->there = false;
    }
}

uint64_t pc_build(pc_cut cut, const char *directory)
{
    uint64_t random = cut.seed, sum = 0;

    build_names(cut.end, &random);
    for (size_t i = 0; i < list_count; i++) {
        char path[1024], other[1024];
        size_t twin = 0;

        if (!list[i].there)
            continue;
        snprintf(path, sizeof path, "%s/%.63s", directory, list[i].name);
        /* Two names of one file. */
        while (twin < i && !(list[twin].there && list[twin].inode == list[i].inode))
            twin++;
        snprintf(other, sizeof other, "%s/%.63s", directory, list[twin].name);
        if (twin < i && link(other, path) != 0)
            pc_die(path);
        if (twin == i)
            sum += build_file(list[i].inode, cut, path);
        sum = hash(sum, (const uint8_t *)list[i].name, PC_NAME_BYTES);
    }
    return sum;
}
