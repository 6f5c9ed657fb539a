/* SPDX-License-Identifier: MIT */
#include "format/segment_format.h"

#include "base/fail.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "segment files are little-endian and their structs are used in place"
#endif

/* As they stand in the file: "CSCSEGMT", "CSCRECRD", "CSCTRAIL", "CSCSPARE". */
#define HEADER_MAGIC  UINT64_C(0x544d474553435343)
#define RECORD_MAGIC  UINT64_C(0x4452434552435343)
#define TRAILER_MAGIC UINT64_C(0x4c49415254435343)
#define SPARE_MAGIC   UINT64_C(0x4552415053435343)

/* What an index entry stands for takes at least that many bytes of the records. */
#define ENTRY_BYTES_MIN sizeof(csc_segfmt_binding)

#define AT(type, field, place)                                                                          \
    _Static_assert(offsetof(csc_segfmt_##type, field) == (place), #type "." #field)
#define SIZE(type, bytes) _Static_assert(sizeof(csc_segfmt_##type) == (bytes), #type)

SIZE(header, CSC_SEGFMT_PAGE_BYTES);
AT(header, version, 8);
AT(header, writer, 16);
AT(header, rank, 32);
AT(header, generation, 40);
AT(header, created_ns, 48);
AT(header, key_id, 56);
AT(header, recycled_from, 64);
AT(header, checksum, 4088);
SIZE(spare, 512);
AT(spare, checksum, 8);
AT(spare, version, 16);
AT(spare, rank, 20);
AT(spare, number, 24);
SIZE(record, 128);
AT(record, checksum, 8);
AT(record, generation, 16);
AT(record, offset, 24);
AT(record, type, 32);
AT(record, header_bytes, 36);
AT(record, item_count, 40);
AT(record, chunk_count, 44);
AT(record, tenant, 48);
AT(record, k_bytes, 56);
AT(record, v_bytes, 64);
AT(record, digest, 72);
AT(record, written_ns, 104);
AT(record, key_id, 112);
SIZE(binding, 80);
AT(binding, parent, 32);
AT(binding, sequence, 64);
AT(binding, flags, 72);
SIZE(log_entry, 136);
AT(log_entry, digest, 64);
AT(log_entry, sequence, 96);
AT(log_entry, k_bytes, 112);
AT(log_entry, type, 128);
AT(log_entry, flags, 132);
SIZE(index_entry, 152);
AT(index_entry, digest, 64);
AT(index_entry, sequence, 96);
AT(index_entry, offset, 128);
AT(index_entry, written_ns, 136);
AT(index_entry, header_bytes, 144);
AT(index_entry, type, 148);
AT(index_entry, flags, 150);
SIZE(trailer, CSC_SEGFMT_PAGE_BYTES);
AT(trailer, checksum, 8);
AT(trailer, generation, 16);
AT(trailer, version, 24);
AT(trailer, index_offset, 32);
AT(trailer, index_count, 40);
AT(trailer, index_checksum, 48);

/* ---- sizes ---------------------------------------------------------------------------------------- */

uint64_t csc_segfmt_round(uint64_t bytes)
{
    return (bytes + CSC_SEGFMT_PAGE_BYTES - 1) & ~(uint64_t)(CSC_SEGFMT_PAGE_BYTES - 1);
}

uint64_t csc_segfmt_chunk_count(uint64_t payload_bytes)
{
    return (payload_bytes + CSC_SEGFMT_CHUNK_BYTES - 1) / CSC_SEGFMT_CHUNK_BYTES;
}

uint64_t csc_segfmt_block_header_bytes(uint64_t binding_count, uint64_t payload_bytes, uint64_t key_id)
{
    uint64_t chunk_count = csc_segfmt_chunk_count(payload_bytes);
    uint64_t cipher_bytes = key_id ? CSC_SEGFMT_SALT_BYTES + chunk_count * CSC_SEGFMT_TAG_BYTES : 0;

    return csc_segfmt_round(sizeof(csc_segfmt_record) + binding_count * sizeof(csc_segfmt_binding) +
                            chunk_count * sizeof(uint64_t) + cipher_bytes);
}

uint64_t csc_segfmt_log_header_bytes(uint64_t entry_count)
{
    return csc_segfmt_round(sizeof(csc_segfmt_record) + entry_count * sizeof(csc_segfmt_log_entry));
}

uint64_t csc_segfmt_footer_bytes(uint64_t index_count)
{
    return csc_segfmt_round(index_count * sizeof(csc_segfmt_index_entry)) + sizeof(csc_segfmt_trailer);
}

/* K and V lengths whose sum is a possible block. */
static bool lengths_fit(uint64_t k_bytes, uint64_t v_bytes)
{
    return k_bytes <= CASCADE_BLOCK_BYTES_MAX && v_bytes <= CASCADE_BLOCK_BYTES_MAX - k_bytes;
}

/* ---- names ---------------------------------------------------------------------------------------- */

void csc_segfmt_name_format(uint32_t rank, uint32_t number, char name[CSC_SEGFMT_NAME_BYTES])
{
    snprintf(name, CSC_SEGFMT_NAME_BYTES, "agg_rank%03" PRIu32 "_%06" PRIu32 ".bin", rank, number);
}

bool csc_segfmt_name_parse(const char *name, uint32_t *rank, uint32_t *number)
{
    char again[CSC_SEGFMT_NAME_BYTES];
    uint32_t found_rank;
    uint32_t found_number;

    if (strlen(name) >= sizeof again ||
        sscanf(name, "agg_rank%3" SCNu32 "_%10" SCNu32 ".bin", &found_rank, &found_number) != 2)
        return false;
    /* sscanf forgives signs, blanks, overflow and what follows; the round trip does not. */
    csc_segfmt_name_format(found_rank, found_number, again);
    if (found_rank > CSC_SEGFMT_RANK_MAX || strcmp(name, again) != 0)
        return false;
    *rank = found_rank;
    *number = found_number;
    return true;
}

/* ---- segment header ------------------------------------------------------------------------------- */

void csc_segfmt_header_seal(csc_segfmt_header *header)
{
    header->magic = HEADER_MAGIC;
    header->version = CSC_SEGFMT_VERSION;
    header->header_bytes = sizeof *header;
    header->checksum = csc_checksum(header, offsetof(csc_segfmt_header, checksum), 0);
}

int csc_segfmt_header_check(const csc_segfmt_header *header)
{
    if (header->magic != HEADER_MAGIC)
        return csc_fail(CASCADE_EFORMAT, "not a segment");
    if (header->version != CSC_SEGFMT_VERSION)
        return csc_fail(CASCADE_EFORMAT, "segment of version %" PRIu32 ", this library reads %u",
                        header->version, CSC_SEGFMT_VERSION);
    if (header->checksum != csc_checksum(header, offsetof(csc_segfmt_header, checksum), 0))
        return csc_fail(CASCADE_ECORRUPT, "segment header fails its checksum");
    if (header->header_bytes != sizeof *header || header->rank > CSC_SEGFMT_RANK_MAX)
        return csc_fail(CASCADE_ECORRUPT, "segment header contradicts itself");
    return 0;
}

static uint64_t spare_checksum(const csc_segfmt_spare *spare)
{
    const size_t from = offsetof(csc_segfmt_spare, version);

    return csc_checksum((const char *)spare + from, sizeof *spare - from, 0);
}

void csc_segfmt_spare_seal(csc_segfmt_spare *spare)
{
    spare->magic = SPARE_MAGIC;
    spare->version = CSC_SEGFMT_VERSION;
    spare->checksum = spare_checksum(spare);
}

bool csc_segfmt_is_spare(const void *page, uint32_t rank, uint32_t number)
{
    const csc_segfmt_header *header = page;
    const csc_segfmt_spare *spare = page;

    if (spare->magic == SPARE_MAGIC)
        return spare->version == CSC_SEGFMT_VERSION && spare->checksum == spare_checksum(spare) &&
               spare->rank == rank && spare->number == number;
    return header->magic == HEADER_MAGIC && csc_segfmt_header_check(header) == 0 &&
           header->rank == rank && header->number != number &&
           header->recycled_from == (uint64_t)number + 1;
}

/* ---- records -------------------------------------------------------------------------------------- */

static uint64_t record_checksum(const csc_segfmt_record *record)
{
    const size_t from = offsetof(csc_segfmt_record, generation);

    return csc_checksum((const char *)record + from, record->header_bytes - from, record->generation);
}

void csc_segfmt_record_seal(csc_segfmt_record *record)
{
    record->magic = RECORD_MAGIC;
    record->checksum = record_checksum(record);
}

/* The header's and the payload's size, as the counts and lengths say. */
static int record_sizes(const csc_segfmt_record *record, uint64_t *header_bytes, uint64_t *payload_bytes)
{
    switch (record->type) {
    case CSC_SEGFMT_RECORD_BLOCK:
        if (!lengths_fit(record->k_bytes, record->v_bytes))
            return csc_fail(CASCADE_ECORRUPT, "record with impossible K and V lengths");
        if (record->item_count > CSC_SEGFMT_BINDINGS_MAX)
            return csc_fail(CASCADE_ECORRUPT, "record with %" PRIu32 " bindings", record->item_count);
        *payload_bytes = record->k_bytes + record->v_bytes;
        *header_bytes =
            csc_segfmt_block_header_bytes(record->item_count, *payload_bytes, record->key_id);
        break;
    case CSC_SEGFMT_RECORD_LOG:
        if (record->k_bytes != 0 || record->v_bytes != 0 || record->item_count == 0 ||
            record->item_count > CSC_SEGFMT_LOG_MAX || record->key_id != 0)
            return csc_fail(CASCADE_ECORRUPT, "log record of impossible size");
        *payload_bytes = 0;
        *header_bytes = csc_segfmt_log_header_bytes(record->item_count);
        break;
    default:
        return csc_fail(CASCADE_ECORRUPT, "record of unknown type %" PRIu32, record->type);
    }
    if (record->chunk_count != csc_segfmt_chunk_count(*payload_bytes))
        return csc_fail(CASCADE_ECORRUPT, "record with a wrong number of chunks");
    return 0;
}

int csc_segfmt_record_measure(const csc_segfmt_record *record, uint64_t generation, uint64_t offset,
                              uint64_t end, uint64_t *record_bytes)
{
    uint64_t header_bytes = 0;
    uint64_t payload_bytes = 0;
    uint64_t total;
    int rc;

    if (record->magic != RECORD_MAGIC)
        return csc_fail(CASCADE_ECORRUPT, "no record at offset %" PRIu64, offset);
    if (record->generation != generation || record->offset != offset)
        return csc_fail(CASCADE_ECORRUPT, "record at offset %" PRIu64 " was written for elsewhere",
                        offset);
    rc = record_sizes(record, &header_bytes, &payload_bytes);
    if (rc)
        return rc;
    if (record->header_bytes != header_bytes)
        return csc_fail(CASCADE_ECORRUPT, "record with a header of %" PRIu32 " bytes",
                        record->header_bytes);
    total = header_bytes + csc_segfmt_round(payload_bytes);
    if (offset > end || total > end - offset)
        return csc_fail(CASCADE_ECORRUPT, "record at offset %" PRIu64 " passes the end", offset);
    *record_bytes = total;
    return 0;
}

int csc_segfmt_record_check(const csc_segfmt_record *record)
{
    if (record->checksum != record_checksum(record))
        return csc_fail(CASCADE_ECORRUPT, "record header at offset %" PRIu64 " fails its checksum",
                        record->offset);
    for (uint32_t i = 0; i < record->item_count; i++) {
        bool known;

        if (record->type == CSC_SEGFMT_RECORD_BLOCK) {
            known = csc_segfmt_bindings(record)[i].flags <= CSC_SEGFMT_HAS_PARENT;
        } else {
            const csc_segfmt_log_entry *entry = &csc_segfmt_log_entries(record)[i];

            known = entry->flags <= CSC_SEGFMT_HAS_PARENT &&
                    lengths_fit(entry->k_bytes, entry->v_bytes) &&
                    (entry->type == CSC_SEGFMT_LOG_BIND || entry->type == CSC_SEGFMT_LOG_DELETE);
        }
        if (!known)
            return csc_fail(CASCADE_ECORRUPT, "record at offset %" PRIu64 " holds an impossible item",
                            record->offset);
    }
    return 0;
}

const csc_segfmt_binding *csc_segfmt_bindings(const csc_segfmt_record *record)
{
    return (const csc_segfmt_binding *)(record + 1);
}

const uint64_t *csc_segfmt_sums(const csc_segfmt_record *record)
{
    return (const uint64_t *)(csc_segfmt_bindings(record) + record->item_count);
}

const uint8_t *csc_segfmt_salt(const csc_segfmt_record *record)
{
    return (const uint8_t *)(csc_segfmt_sums(record) + record->chunk_count);
}

const uint8_t *csc_segfmt_tags(const csc_segfmt_record *record)
{
    return csc_segfmt_salt(record) + CSC_SEGFMT_SALT_BYTES;
}

const csc_segfmt_log_entry *csc_segfmt_log_entries(const csc_segfmt_record *record)
{
    return (const csc_segfmt_log_entry *)(record + 1);
}

/* ---- index and trailer ---------------------------------------------------------------------------- */

int csc_segfmt_index_compare(const void *a, const void *b)
{
    const csc_segfmt_index_entry *x = a;
    const csc_segfmt_index_entry *y = b;
    int order = memcmp(x->key, y->key, sizeof x->key);

    if (order != 0)
        return order;
    if (x->sequence != y->sequence)
        return x->sequence < y->sequence ? -1 : 1;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return 0;
}

static uint64_t trailer_checksum(const csc_segfmt_trailer *trailer)
{
    const size_t from = offsetof(csc_segfmt_trailer, generation);

    return csc_checksum((const char *)trailer + from, sizeof *trailer - from, trailer->generation);
}

static uint64_t index_checksum(const csc_segfmt_trailer *trailer, const csc_segfmt_index_entry *entries)
{
    return csc_checksum(entries, trailer->index_count * sizeof *entries, trailer->generation);
}

void csc_segfmt_trailer_seal(csc_segfmt_trailer *trailer, const csc_segfmt_index_entry *entries)
{
    trailer->magic = TRAILER_MAGIC;
    trailer->version = CSC_SEGFMT_VERSION;
    trailer->index_checksum = index_checksum(trailer, entries);
    trailer->checksum = trailer_checksum(trailer);
}

int csc_segfmt_trailer_check(const csc_segfmt_trailer *trailer, uint64_t generation, uint64_t file_bytes)
{
    if (trailer->magic != TRAILER_MAGIC || trailer->generation != generation)
        return csc_fail(CASCADE_EFORMAT, "segment is not sealed");
    if (trailer->checksum != trailer_checksum(trailer))
        return csc_fail(CASCADE_ECORRUPT, "segment trailer fails its checksum");
    if (trailer->version != CSC_SEGFMT_VERSION ||
        trailer->index_count > file_bytes / sizeof(csc_segfmt_index_entry) ||
        trailer->index_offset < CSC_SEGFMT_PAGE_BYTES || trailer->index_offset > file_bytes ||
        trailer->index_offset % CSC_SEGFMT_PAGE_BYTES != 0 ||
        csc_segfmt_footer_bytes(trailer->index_count) != file_bytes - trailer->index_offset ||
        trailer->index_count > (trailer->index_offset - CSC_SEGFMT_PAGE_BYTES) / ENTRY_BYTES_MIN)
        return csc_fail(CASCADE_ECORRUPT, "segment trailer contradicts the file");
    return 0;
}

/* Whether an entry names a record that can lie before the index. */
static bool index_entry_fits(const csc_segfmt_index_entry *entry, uint64_t end)
{
    uint64_t payload_bytes;
    uint64_t least_bytes;

    if (!lengths_fit(entry->k_bytes, entry->v_bytes) || entry->flags > CSC_SEGFMT_HAS_PARENT ||
        entry->offset < CSC_SEGFMT_PAGE_BYTES || entry->offset % CSC_SEGFMT_PAGE_BYTES != 0 ||
        entry->offset > end || entry->header_bytes % CSC_SEGFMT_PAGE_BYTES != 0)
        return false;
    switch (entry->type) {
    case CSC_SEGFMT_INDEX_CONTENT:
    case CSC_SEGFMT_INDEX_BINDING:
        payload_bytes = entry->k_bytes + entry->v_bytes;
        /* An entry does not say whether its payload is encrypted. */
        least_bytes = csc_segfmt_block_header_bytes(0, payload_bytes, 0);
        return entry->header_bytes >= least_bytes &&
               entry->header_bytes <=
                   csc_segfmt_block_header_bytes(CSC_SEGFMT_BINDINGS_MAX, payload_bytes, 1) &&
               entry->header_bytes + csc_segfmt_round(payload_bytes) <= end - entry->offset;
    case CSC_SEGFMT_INDEX_BIND:
    case CSC_SEGFMT_INDEX_DELETE:
        return entry->header_bytes >= csc_segfmt_log_header_bytes(1) &&
               entry->header_bytes <= csc_segfmt_log_header_bytes(CSC_SEGFMT_LOG_MAX) &&
               entry->header_bytes <= end - entry->offset;
    default:
        return false;
    }
}

int csc_segfmt_index_check_part(const csc_segfmt_trailer *trailer, const csc_segfmt_index_entry *entries,
                                uint64_t from, uint64_t to)
{
    for (uint64_t i = from; i < to; i++) {
        if (!index_entry_fits(&entries[i], trailer->index_offset))
            return csc_fail(CASCADE_ECORRUPT, "segment index entry %" PRIu64 " is impossible", i);
        if (i > 0 && csc_segfmt_index_compare(&entries[i - 1], &entries[i]) > 0)
            return csc_fail(CASCADE_ECORRUPT, "segment index is out of order at %" PRIu64, i);
    }
    return 0;
}

int csc_segfmt_index_check(const csc_segfmt_trailer *trailer, const csc_segfmt_index_entry *entries)
{
    if (trailer->index_checksum != index_checksum(trailer, entries))
        return csc_fail(CASCADE_ECORRUPT, "segment index fails its checksum");
    return csc_segfmt_index_check_part(trailer, entries, 0, trailer->index_count);
}

/* ---- chunk sums ----------------------------------------------------------------------------------- */

static uint64_t chunk_seed(const csc_segfmt_summer *summer)
{
    const uint64_t parts[3] = {summer->generation, summer->offset, summer->first + summer->done};

    return csc_checksum(parts, sizeof parts, 0);
}

void csc_segfmt_summer_begin(csc_segfmt_summer *summer, const csc_segfmt_record *record, uint64_t first,
                             uint64_t *out, const uint64_t *expected)
{
    XXH3_INITSTATE(&summer->state);
    summer->generation = record->generation;
    summer->offset = record->offset;
    summer->first = first;
    summer->done = 0;
    summer->filled = 0;
    summer->out = out;
    summer->expected = expected;
    summer->differs = false;
}

static void summer_finish_chunk(csc_segfmt_summer *summer, uint64_t sum)
{
    if (summer->out)
        summer->out[summer->done] = sum;
    else if (summer->expected[summer->done] != sum)
        summer->differs = true;
    summer->done++;
    summer->filled = 0;
}

void csc_segfmt_summer_feed(csc_segfmt_summer *summer, const void *data, size_t bytes)
{
    const char *next = data;

    while (bytes > 0) {
        size_t take = CSC_SEGFMT_CHUNK_BYTES - summer->filled;

        if (summer->filled == 0 && bytes >= take) {
            summer_finish_chunk(summer, csc_checksum(next, take, chunk_seed(summer)));
        } else {
            if (take > bytes)
                take = bytes;
            if (summer->filled == 0)
                XXH3_64bits_reset_withSeed(&summer->state, chunk_seed(summer));
            XXH3_64bits_update(&summer->state, next, take);
            summer->filled += take;
            if (summer->filled == CSC_SEGFMT_CHUNK_BYTES)
                summer_finish_chunk(summer, XXH3_64bits_digest(&summer->state));
        }
        next += take;
        bytes -= take;
    }
}

void csc_segfmt_summer_end(csc_segfmt_summer *summer)
{
    if (summer->filled > 0)
        summer_finish_chunk(summer, XXH3_64bits_digest(&summer->state));
}
