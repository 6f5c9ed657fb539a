/* SPDX-License-Identifier: MIT */
#include "format/wire.h"

#include "base/fail.h"

#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "packets are little-endian and their structs are used in place"
#endif

#define SIZE(type, bytes) _Static_assert(sizeof(csc_wire_##type) == (bytes), #type)
SIZE(header, 32);
SIZE(text, 240);
SIZE(hello, 56);
SIZE(attach, 8);
SIZE(join, 16);
SIZE(put, 96);
SIZE(content, 8);
SIZE(name, 64);
SIZE(key, 32);
SIZE(scrub, 16);
SIZE(welcome, 40);
SIZE(token, 16);
SIZE(put_result, 32);
SIZE(loaded, 16);
SIZE(status, 8);
SIZE(info, 128);
SIZE(client, 96);
SIZE(gc_report, 64);
SIZE(scrub_report, 40);
SIZE(progress, 16);

enum { NONE, ONE, MANY };

/* How many items a request has and of what size, and the same of its answer. `values`: bits that the
 * header's value may have. A request with many items has at least one. */
static const struct rule {
    uint16_t count, bytes, answer_count, answer_bytes;
    uint64_t values;
} rules[CSC_WIRE_TYPE_COUNT] = {
#define OF(name) sizeof(csc_wire_##name)
    [CSC_WIRE_HELLO] = {ONE, OF(hello), ONE, OF(welcome), 0},
    [CSC_WIRE_ATTACH] = {ONE, OF(attach), ONE, OF(token), 0},
    [CSC_WIRE_JOIN] = {ONE, OF(join), NONE, 0, 0},
    [CSC_WIRE_RESERVE] = {MANY, OF(put), MANY, OF(put_result),
                          CASCADE_PUT_SYNC | CASCADE_PUT_DURABLE | CASCADE_PUT_VERIFY},
    [CSC_WIRE_COMMIT] = {MANY, OF(content), MANY, OF(put_result),
                         CASCADE_PUT_SYNC | CASCADE_PUT_DURABLE | CASCADE_PUT_VERIFY},
    [CSC_WIRE_ABANDON] = {MANY, OF(content), NONE, 0, 0},
    [CSC_WIRE_LOAD] = {MANY, OF(name), MANY, OF(loaded), 0},
    [CSC_WIRE_DELETE] = {MANY, OF(key), MANY, OF(status), 0},
    [CSC_WIRE_PREFETCH] = {MANY, OF(key), NONE, 0, 0},
    [CSC_WIRE_INFO] = {ONE, OF(name), ONE, OF(info), 0},
    [CSC_WIRE_KEYS] = {NONE, 0, MANY, OF(info), UINT64_MAX},
    [CSC_WIRE_FLUSH] = {NONE, 0, NONE, 0, 0},
    [CSC_WIRE_STATS] = {NONE, 0, ONE, OF(stats), 0},
    [CSC_WIRE_CLIENTS] = {NONE, 0, MANY, OF(client), 0},
    [CSC_WIRE_GC] = {NONE, 0, ONE, OF(gc_report), 1},
    [CSC_WIRE_SCRUB] = {ONE, OF(scrub), ONE, OF(scrub_report), 0},
#undef OF
};

static bool is_known(unsigned type)
{
    return type > 0 && type < CSC_WIRE_TYPE_COUNT;
}

static bool has_progress(unsigned type)
{
    return type == CSC_WIRE_GC || type == CSC_WIRE_SCRUB;
}

size_t csc_wire_request_item(unsigned type)
{
    return rules[type].bytes;
}

size_t csc_wire_answer_item(unsigned type)
{
    return rules[type].answer_bytes;
}

size_t csc_wire_begin(csc_wire_header *header, unsigned type, uint32_t serial, size_t count)
{
    const struct rule *rule = &rules[type & ~(CSC_WIRE_ANSWER | CSC_WIRE_PROGRESS)];
    size_t item = type & CSC_WIRE_PROGRESS ? sizeof(csc_wire_progress)
                  : type & CSC_WIRE_ANSWER ? rule->answer_bytes
                                           : rule->bytes;
    size_t bytes = sizeof *header + count * item;

    *header = (csc_wire_header){.magic = CSC_WIRE_MAGIC,
                                .type = type,
                                .bytes = (uint32_t)bytes,
                                .count = (uint32_t)count,
                                .serial = serial};
    return bytes;
}

size_t csc_wire_fail(csc_wire_header *header, int status, const char *text)
{
    csc_wire_text *out = (csc_wire_text *)((char *)header + header->bytes);

    header->status = status;
    header->bytes += sizeof *out;
    memset(out, 0, sizeof *out);
    memcpy(out->text, text, strnlen(text, sizeof out->text - 1));
    return header->bytes;
}

const char *csc_wire_text_of(const csc_wire_header *answer)
{
    const char *end = (const char *)answer + answer->bytes;

    return answer->status ? end - sizeof(csc_wire_text) : "";
}

/* ---- checks ----------------------------------------------------------------------------------------
 */

static int check_header(const csc_wire_header *header, size_t bytes)
{
    if (bytes < sizeof *header || bytes > CSC_WIRE_PACKET_MAX || header->magic != CSC_WIRE_MAGIC)
        return csc_fail(CASCADE_EFORMAT, "a packet of %zu bytes is not one of Cascade's", bytes);
    if (header->bytes != bytes)
        return csc_fail(CASCADE_EFORMAT, "a packet of %zu bytes says that it has %u", bytes,
                        header->bytes);
    if (header->count > CSC_WIRE_BATCH_MAX)
        return csc_fail(CASCADE_EFORMAT, "a packet has %u items", header->count);
    return 0;
}

static bool is_zero(const void *bytes, size_t count)
{
    const uint8_t *at = bytes;

    while (count && *at == 0) {
        at++;
        count--;
    }
    return count == 0;
}

static bool is_text(const char *text, size_t room)
{
    return memchr(text, 0, room) != NULL;
}

static bool is_good_put(const csc_wire_put *put)
{
    return !(put->flags & ~(uint32_t)(CSC_WIRE_HAS_PARENT | CSC_WIRE_TAIL)) && put->reserved == 0 &&
           ((put->flags & CSC_WIRE_HAS_PARENT) || is_zero(&put->parent, sizeof put->parent)) &&
           put->k_bytes <= CASCADE_BLOCK_BYTES_MAX &&
           put->v_bytes <= CASCADE_BLOCK_BYTES_MAX - put->k_bytes;
}

static bool is_good_name(const csc_wire_name *name)
{
    return name->by_id <= 1 && name->reserved == 0 &&
           (name->by_id ? is_zero(&name->key, sizeof name->key)
                        : name->tenant == 0 && is_zero(&name->id, sizeof name->id));
}

static bool is_good_scrub(const csc_wire_scrub *scrub)
{
    return scrub->fix <= 1 && scrub->verify <= 1 &&
           !(scrub->verify && (scrub->fix || scrub->rate_bytes));
}

static bool is_good_hello(const csc_wire_hello *hello)
{
    return hello->version_least <= hello->version_most && is_text(hello->program, sizeof hello->program);
}

static bool is_good_item(unsigned type, const void *item)
{
    switch (type) {
    case CSC_WIRE_HELLO:
        return is_good_hello(item);
    case CSC_WIRE_ATTACH:
        return ((const csc_wire_attach *)item)->reserved == 0;
    case CSC_WIRE_RESERVE:
        return is_good_put(item);
    case CSC_WIRE_LOAD:
    case CSC_WIRE_INFO:
        return is_good_name(item);
    case CSC_WIRE_SCRUB:
        return is_good_scrub(item);
    default:
        return true;
    }
}

int csc_wire_check_request(const void *packet, size_t bytes)
{
    const csc_wire_header *header = packet;
    const struct rule *rule;
    int code = check_header(header, bytes);

    if (code)
        return code;
    if (!is_known(header->type))
        return csc_fail(CASCADE_EFORMAT, "a request of type %u is not known here", header->type);
    rule = &rules[header->type];
    if (bytes != sizeof *header + (size_t)header->count * rule->bytes ||
        (rule->count == MANY ? header->count == 0 : header->count != rule->count))
        return csc_fail(CASCADE_EFORMAT, "a request of type %u has %u items in %zu bytes", header->type,
                        header->count, bytes);
    if ((header->value & ~rule->values) || header->status)
        return csc_fail(CASCADE_EINVAL, "a request of type %u has unknown flags 0x%llx", header->type,
                        (unsigned long long)header->value);
    for (uint32_t i = 0; i < header->count; i++)
        if (!is_good_item(header->type, (const char *)csc_wire_items(header) + i * rule->bytes))
            return csc_fail(CASCADE_EINVAL, "item %u of a request of type %u has a bad value", i,
                            header->type);
    return 0;
}

/* An answer has what its rule says, one for one where both sides have many; or none, if it failed. */
static bool is_good_count(const csc_wire_header *header, unsigned type, size_t count)
{
    const struct rule *rule = &rules[type];

    if (header->count == 0 && header->status)
        return true;
    if (rule->answer_count != MANY)
        return header->count == rule->answer_count;
    return rule->count != MANY || header->count == count;
}

/* Texts are all that could be read past its end. */
static bool has_good_texts(const csc_wire_header *header, unsigned type)
{
    const csc_wire_client *clients = csc_wire_items(header);

    for (uint32_t i = 0; type == CSC_WIRE_CLIENTS && i < header->count; i++)
        if (!is_text(clients[i].program, sizeof clients[i].program))
            return false;
    return !header->status || is_text(csc_wire_text_of(header), CSC_WIRE_TEXT_BYTES);
}

static bool is_good_answer(const csc_wire_header *header, unsigned type, size_t count)
{
    size_t text_bytes = header->status ? sizeof(csc_wire_text) : 0;

    return is_good_count(header, type, count) &&
           header->bytes ==
               sizeof *header + (size_t)header->count * rules[type].answer_bytes + text_bytes &&
           has_good_texts(header, type);
}

static bool is_good_progress(const csc_wire_header *header)
{
    return header->count == 1 && header->status == 0 &&
           header->bytes == sizeof *header + sizeof(csc_wire_progress);
}

int csc_wire_check_answer(const void *packet, size_t bytes, unsigned type, uint32_t serial, size_t count)
{
    const csc_wire_header *header = packet;
    int code = check_header(header, bytes);
    bool good = false;

    if (code)
        return code;
    if (header->serial != serial)
        return csc_fail(CASCADE_EFORMAT, "an answer is to another request");
    if (header->type == (type | CSC_WIRE_ANSWER))
        good = is_good_answer(header, type, count);
    else if (header->type == (type | CSC_WIRE_PROGRESS))
        good = has_progress(type) && is_good_progress(header);
    return good ? 0
                : csc_fail(CASCADE_EFORMAT, "an answer of %zu bytes is not one to a request of type %u",
                           bytes, type);
}
