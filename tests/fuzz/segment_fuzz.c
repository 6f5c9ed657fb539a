/* SPDX-License-Identifier: MIT */
/*
 * Reads any bytes as a segment file or a spare: header, trailer and index, then the records one after
 * the other with their items and payload sums. A second pass first repairs every checksum on its way, so
 * that wrong fields behind right checksums are met too.
 */
#include "format/segment_format.h"

#include <stdlib.h>
#include <string.h>

#define PAGE CSC_SEGFMT_PAGE_BYTES

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t sink; /* what is read is used */

static void use(const void *bytes, size_t count)
{
    sink += csc_checksum(bytes, count, 0);
}

static void read_payload(const csc_segfmt_record *record)
{
    const uint8_t *payload = (const uint8_t *)record + record->header_bytes;
    uint64_t bytes = record->k_bytes + record->v_bytes;
    csc_segfmt_summer summer;

    csc_segfmt_summer_begin(&summer, record, 0, NULL, csc_segfmt_sums(record));
    csc_segfmt_summer_feed(&summer, payload, bytes / 3);
    csc_segfmt_summer_feed(&summer, payload + bytes / 3, bytes - bytes / 3);
    csc_segfmt_summer_end(&summer);
    sink += summer.differs;
}

static void read_items(const csc_segfmt_record *record)
{
    if (record->type == CSC_SEGFMT_RECORD_LOG) {
        use(csc_segfmt_log_entries(record), record->item_count * sizeof(csc_segfmt_log_entry));
        return;
    }
    use(csc_segfmt_bindings(record), record->item_count * sizeof(csc_segfmt_binding));
    if (record->key_id) {
        use(csc_segfmt_salt(record), CSC_SEGFMT_SALT_BYTES);
        use(csc_segfmt_tags(record), record->chunk_count * CSC_SEGFMT_TAG_BYTES);
    }
    read_payload(record);
}

static void read_index(uint8_t *image, size_t size, uint64_t generation, int repair)
{
    csc_segfmt_trailer *trailer = (void *)(image + size - PAGE);

    if (trailer->index_offset < size && trailer->index_offset % PAGE == 0 && repair) {
        uint64_t room = (size - PAGE - trailer->index_offset) / sizeof(csc_segfmt_index_entry);

        trailer->generation = generation;
        if (trailer->index_count <= room && trailer->index_offset <= size - PAGE)
            csc_segfmt_trailer_seal(trailer, (void *)(image + trailer->index_offset));
    }
    if (csc_segfmt_trailer_check(trailer, generation, size) == 0)
        sink += (uint64_t)csc_segfmt_index_check(trailer, (void *)(image + trailer->index_offset));
}

static void read_records(uint8_t *image, size_t size, uint64_t generation, int repair)
{
    uint64_t record_bytes;

    for (uint64_t at = PAGE; size - at >= PAGE; at += record_bytes) {
        csc_segfmt_record *record = (void *)(image + at);

        if (csc_segfmt_record_measure(record, generation, at, size, &record_bytes))
            return;
        if (repair)
            csc_segfmt_record_seal(record);
        if (csc_segfmt_record_check(record))
            return;
        read_items(record);
    }
}

/* A spare's page, and a header that names another file, each as if for the name it has in it. */
static void read_spare(uint8_t *image, int repair)
{
    const csc_segfmt_header *header = (const void *)image;
    union {
        csc_segfmt_spare spare;
        uint8_t page[PAGE];
    } copy;

    memcpy(&copy, image, PAGE);
    sink += csc_segfmt_is_spare(&copy, copy.spare.rank, copy.spare.number);
    sink += csc_segfmt_is_spare(image, header->rank, (uint32_t)header->recycled_from - 1);
    if (!repair)
        return;
    csc_segfmt_spare_seal(&copy.spare);
    if (!csc_segfmt_is_spare(&copy, copy.spare.rank, copy.spare.number))
        abort();
}

static void read_image(uint8_t *image, size_t size, int repair)
{
    csc_segfmt_header *header = (void *)image;

    read_spare(image, repair);
    if (repair)
        csc_segfmt_header_seal(header);
    if (csc_segfmt_header_check(header))
        return;
    if (size >= 2 * PAGE)
        read_index(image, size, header->generation, repair);
    read_records(image, size, header->generation, repair);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char name[CSC_SEGFMT_NAME_BYTES * 2];
    size_t name_bytes = size < sizeof name - 1 ? size : sizeof name - 1;
    uint32_t rank;
    uint32_t number;
    uint8_t *image;

    if (size > 0)
        memcpy(name, data, name_bytes);
    name[name_bytes] = '\0';
    sink += csc_segfmt_name_parse(name, &rank, &number);
    size -= size % PAGE;
    if (size == 0)
        return 0;
    image = malloc(size); /* just as large, so that a sanitizer sees every step outside */
    if (!image)
        return 0;
    for (int repair = 0; repair < 2; repair++) {
        memcpy(image, data, size);
        read_image(image, size, repair);
    }
    free(image);
    return 0;
}
