/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as the only segment file of a directory: the file tier opens it, with keys and without,
 * reads every block that it found, and its deletes, and removes it. A second pass first repairs every
 * checksum, so that wrong fields behind right checksums are met too. segment_fuzz does the same to the
 * format alone, and faster.
 */
#include "format/segment_format.h"
#include "segment/segment.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE CSC_SEGFMT_PAGE_BYTES

enum { FOUND_MAX = 32, READ_MAX = 1 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The key of the encrypted inputs in the corpus. */
static const char key_text[] = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";

static char folder[256], path[512];
static csc_io *io;
static csc_keyring *ring;
static uint8_t *memory; /* READ_MAX, and a page to begin at an odd place */

static struct {
    csc_content content;
    csc_place place;
} found[FOUND_MAX];
static size_t found_count;

static void demand(bool condition)
{
    if (!condition)
        abort();
}

static void clean_up(void)
{
    csc_io_destroy(&io);
    csc_keyring_destroy(&ring);
    free(memory);
    unlink(path);
    rmdir(folder);
}

static void set_up(void)
{
    const char *base = getenv("CASCADE_SHM_DIR");

    setenv("CASCADE_LOG", "none", 0); /* the errors are meant */
    snprintf(folder, sizeof folder, "%s/segment_open_fuzz.XXXXXX", base && *base ? base : "/dev/shm");
    demand(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/agg_rank000_000000.bin", folder);
    demand(csc_io_create(NULL, &io) == 0);
    demand(csc_keyring_parse(key_text, sizeof key_text - 1, &ring) == 0);
    demand(posix_memalign((void **)&memory, PAGE, READ_MAX + PAGE) == 0);
    atexit(clean_up);
}

/* ---- repair --------------------------------------------------------------------------------------- */

static void repair_index(uint8_t *image, size_t size, uint64_t generation)
{
    csc_segfmt_trailer *trailer = (void *)(image + size - PAGE);
    uint64_t room = size - PAGE;

    if (trailer->index_offset > room || trailer->index_offset % PAGE != 0)
        return;
    room = (room - trailer->index_offset) / sizeof(csc_segfmt_index_entry);
    trailer->generation = generation;
    if (trailer->index_count <= room)
        csc_segfmt_trailer_seal(trailer, (void *)(image + trailer->index_offset));
}

static void repair_records(uint8_t *image, size_t size, const csc_segfmt_header *header)
{
    uint64_t record_bytes;

    for (uint64_t at = PAGE; size - at >= PAGE; at += record_bytes) {
        csc_segfmt_record *record = (void *)(image + at);
        csc_segfmt_summer summer;

        if (csc_segfmt_record_measure(record, header->generation, at, size, &record_bytes))
            return;
        if (record->type == CSC_SEGFMT_RECORD_BLOCK) {
            csc_segfmt_summer_begin(&summer, record, 0, (uint64_t *)(uintptr_t)csc_segfmt_sums(record),
                                    NULL);
            csc_segfmt_summer_feed(&summer, image + at + record->header_bytes,
                                   record->k_bytes + record->v_bytes);
            csc_segfmt_summer_end(&summer);
        }
        csc_segfmt_record_seal(record);
    }
}

static void repair(uint8_t *image, size_t size)
{
    csc_segfmt_header *header = (void *)image;

    header->rank = header->number = 0;
    csc_segfmt_header_seal(header);
    if (csc_segfmt_header_check(header))
        return;
    if (size >= 2 * PAGE)
        repair_index(image, size, header->generation);
    repair_records(image, size, header);
}

/* ---- the tier ------------------------------------------------------------------------------------- */

static int note_block(void *context, const csc_segment_source *source, const csc_content *content,
                      uint64_t written_ns, const csc_binding *bindings, size_t binding_count,
                      const csc_place *place)
{
    (void)context, (void)source, (void)written_ns;
    demand(binding_count <= CSC_SEGFMT_BINDINGS_MAX && (bindings || binding_count == 0));
    if (found_count < FOUND_MAX) {
        found[found_count].content = *content;
        found[found_count++].place = *place;
    }
    return 0;
}

static int note_log(void *context, const csc_segment_source *source, const csc_log_entry *entry)
{
    (void)context, (void)source, (void)entry;
    return 0;
}

static int note_hider(void *context, const csc_binding *binding, bool is_delete)
{
    (void)context, (void)binding, (void)is_delete;
    return 0;
}

static void note_released(void *context)
{
    (void)context;
}

/* Whole or a part, into pages and into what is no page. */
static void read_found(csc_tier *tier, size_t i)
{
    uint64_t bytes = found[i].content.k_bytes + found[i].content.v_bytes;
    csc_tier_read reads[2];
    cascade_piece pieces[2];

    demand(found[i].content.k_bytes <= CASCADE_BLOCK_BYTES_MAX &&
           found[i].content.v_bytes <= CASCADE_BLOCK_BYTES_MAX);
    if (bytes > READ_MAX / 2)
        bytes = READ_MAX / 2;
    for (int k = 0; k < 2; k++) {
        pieces[k] = (cascade_piece){memory + k * (READ_MAX / 2 + 1), bytes};
        reads[k] = (csc_tier_read){.place = found[i].place,
                                   .content = found[i].content,
                                   .pieces = &pieces[k],
                                   .piece_count = 1,
                                   .released = k ? NULL : note_released};
    }
    (void)tier->ops->read(tier, reads, 2);
    demand(reads[0].status == reads[1].status && !reads[0].late);
    if (reads[0].status == 0)
        demand(memcmp(pieces[0].data, pieces[1].data, bytes) == 0);
}

static void live(const csc_keyring *keys)
{
    const csc_segment_visitor visitor = {NULL, note_block, note_log, NULL};
    const csc_segment_options options = {
        .io = io, .directory = folder, .buffered = true, .spares_max = 1, .keyring = keys};
    csc_segment_info info;
    csc_tier *tier = NULL;
    size_t count = 1;
    int code;

    found_count = 0;
    code = csc_segment_open(&options, &visitor, &tier);
    demand(code == 0 || code == CASCADE_ENOKEY);
    if (code)
        return;
    for (size_t i = 0; i < found_count; i++)
        read_found(tier, i);
    demand(csc_segment_refresh(tier, &visitor) == 0);
    csc_segment_list(tier, &info, &count);
    demand(count <= 1);
    if (count && keys) {
        (void)csc_segment_hiders(tier, info.segment, note_hider, NULL);
        demand(csc_segment_remove(tier, info.segment) == 0);
    }
    tier->ops->close(&tier);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *image;

    if (!*folder)
        set_up();
    if (size > READ_MAX)
        return 0;
    image = aligned_alloc(PAGE, size / PAGE * PAGE + PAGE);
    if (!image)
        return 0;
    memcpy(image, data, size);
    for (int pass = 0; pass < 2; pass++) {
        int fd;

        if (pass == 1 && size / PAGE)
            repair(image, size / PAGE * PAGE);
        for (int keys = 0; keys < 2; keys++) {
            fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
            demand(fd >= 0 && pwrite(fd, image, size, 0) == (ssize_t)size);
            close(fd);
            live(keys ? ring : NULL);
        }
    }
    free(image);
    return 0;
}
