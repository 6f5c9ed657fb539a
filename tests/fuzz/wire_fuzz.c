/* SPDX-License-Identifier: MIT */
/*
 * Packets of the daemon's socket. The input's first byte is the type of the request that an answer is
 * taken for, the second how many items it had; the rest is a packet, checked as a request and as an
 * answer. What passes is read as whoever gets it reads it: every item, every text to its end.
 */
#include "format/wire.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint8_t sink;

static void read_all(const void *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        sink = (uint8_t)(sink + ((const uint8_t *)bytes)[i]);
}

static void read_request(const csc_wire_header *header)
{
    const csc_wire_hello *hello = csc_wire_items(header);

    read_all(hello, header->count * csc_wire_request_item(header->type));
    if (header->type == CSC_WIRE_HELLO)
        read_all(hello->program, strlen(hello->program));
}

static void read_answer(const csc_wire_header *header, unsigned type)
{
    const csc_wire_client *clients = csc_wire_items(header);

    if (header->type & CSC_WIRE_PROGRESS) {
        read_all(clients, sizeof(csc_wire_progress));
        return;
    }
    read_all(clients, header->count * csc_wire_answer_item(type));
    read_all(csc_wire_text_of(header), strlen(csc_wire_text_of(header)));
    for (uint32_t i = 0; type == CSC_WIRE_CLIENTS && i < header->count; i++)
        read_all(clients[i].program, strlen(clients[i].program));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    unsigned type = size ? 1 + data[0] % (CSC_WIRE_TYPE_COUNT - 1) : 1;
    size_t count = size > 1 ? data[1] : 0, bytes = size > 2 ? size - 2 : 0;
    void *packet = malloc(bytes ? bytes : 1); /* no byte more: the sanitizer sees what reads past it */
    const csc_wire_header *header = packet;

    if (!packet)
        return 0;
    if (bytes)
        memcpy(packet, data + 2, bytes);
    if (csc_wire_check_request(packet, bytes) == 0)
        read_request(header);
    if (csc_wire_check_answer(packet, bytes, type, bytes >= sizeof *header ? header->serial : 0,
                              count) == 0)
        read_answer(header, type);
    free(packet);
    return 0;
}
