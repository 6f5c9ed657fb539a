/* SPDX-License-Identifier: MIT */
#include "daemon/raw_client.h"
#include "store/store_testing.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void raw_send(raw_client *client, const void *bytes, size_t count)
{
    ST_CHECK(send(client->fd, bytes, count, MSG_NOSIGNAL) == (ssize_t)count);
}

static ssize_t receive(raw_client *client, int *passed)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec part = {client->packet, sizeof client->packet};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control.bytes};
    ssize_t bytes = recvmsg(client->fd, &message, MSG_CMSG_CLOEXEC);
    int fd = -1;

    if (message.msg_controllen)
        memcpy(&fd, CMSG_DATA(&control.header), sizeof fd);
    if (passed)
        *passed = fd;
    else
        ST_CHECK(fd < 0);
    return bytes;
}

const csc_wire_header *raw_ask(raw_client *client, unsigned type, uint64_t value, const void *items,
                               size_t count, int *passed)
{
    csc_wire_header *header = (csc_wire_header *)(void *)client->packet;
    size_t bytes = csc_wire_begin(header, type, ++client->serial, count);

    header->value = value;
    if (count)
        memcpy(header + 1, items, count * csc_wire_request_item(type));
    if (send(client->fd, header, bytes, MSG_NOSIGNAL) != (ssize_t)bytes)
        return NULL;
    do {
        ssize_t got = receive(client, passed);

        if (got <= 0)
            return NULL;
        ST_CHECK(csc_wire_check_answer(header, (size_t)got, type, client->serial, count) == 0);
        client->progress += (header->type & CSC_WIRE_PROGRESS) != 0;
    } while (header->type & CSC_WIRE_PROGRESS);
    return header;
}

int raw_status(raw_client *client, unsigned type, uint64_t value, const void *items, size_t count)
{
    const csc_wire_header *answer = raw_ask(client, type, value, items, count, NULL);

    ST_CHECK(answer != NULL);
    return answer->status;
}

void raw_hello(raw_client *client, const char *arena_path)
{
    csc_wire_hello hello = {.version_least = 1, .version_most = 3, .program = "raw"};
    const csc_wire_header *answer;
    int fd = -1;

    memset(client, 0, sizeof *client);
    ST_CHECK(csc_socket_name(arena_path, client->name) == 0);
    ST_CHECK(csc_socket_connect(client->name, &client->fd) == 0);
    answer = raw_ask(client, CSC_WIRE_HELLO, 0, &hello, 1, &fd);
    ST_CHECK(answer && answer->status == 0 && fd >= 0);
    ST_CHECK(csc_arena_attach(NULL, fd, &client->arena) == 0);
    close(fd);
    csc_index_attach(&client->index, csc_arena_base(client->arena));
    csc_slots_attach(&client->slots, csc_arena_base(client->arena), csc_arena_area(client->arena), NULL);
}

void raw_attach(raw_client *client, const char *arena_path)
{
    csc_wire_attach attach = {0};
    const csc_wire_header *answer;

    raw_hello(client, arena_path);
    attach.area = csc_arena_area(client->arena);
    answer = raw_ask(client, CSC_WIRE_ATTACH, 0, &attach, 1, NULL);
    ST_CHECK(answer && answer->status == 0);
    memcpy(client->token, csc_wire_items(answer), sizeof client->token);
}

int raw_join(raw_client *client, const raw_client *first)
{
    *client = *first;
    ST_CHECK(csc_socket_connect(client->name, &client->fd) == 0);
    return raw_status(client, CSC_WIRE_JOIN, 0, first->token, 1);
}

void raw_hang_up(raw_client *client)
{
    close(client->fd);
    client->fd = -1;
}

void raw_close(raw_client *client)
{
    csc_arena_detach(&client->arena);
    raw_hang_up(client);
}

/* ---- blocks
 * ------------------------------------------------------------------------------------------- */

csc_wire_put raw_put_item(uint64_t number, size_t bytes)
{
    return (csc_wire_put){.key = st_key(number), .k_bytes = bytes};
}

csc_wire_name raw_name(uint64_t number)
{
    return (csc_wire_name){.key = st_key(number)};
}

void raw_fill(raw_client *client, const csc_wire_content *content, size_t bytes, uint64_t seed)
{
    uint8_t *block = malloc(bytes);
    cascade_piece piece = {block, bytes};

    ST_CHECK(block != NULL);
    st_fill(block, bytes, seed);
    csc_arena_copy_in(client->arena, &client->index.contents[content->number].dram, &piece, 1);
    free(block);
}

int raw_put(raw_client *client, uint64_t first, size_t count, size_t bytes, uint32_t flags)
{
    csc_wire_put items[CSC_WIRE_BATCH_MAX] = {{.flags = 0}};
    csc_wire_content contents[CSC_WIRE_BATCH_MAX] = {{0}};
    const csc_wire_header *answer;
    const csc_wire_put_result *results;

    for (size_t i = 0; i < count; i++)
        items[i] = raw_put_item(first + i, bytes);
    answer = raw_ask(client, CSC_WIRE_RESERVE, 0, items, count, NULL);
    ST_CHECK(answer != NULL);
    if (answer->status)
        return answer->status;
    results = csc_wire_items(answer);
    for (size_t i = 0; i < count; i++) {
        ST_CHECK(results[i].flags == CSC_WIRE_RESERVED);
        contents[i] = results[i].content;
        raw_fill(client, &contents[i], bytes, first + i);
    }
    return raw_status(client, CSC_WIRE_COMMIT, flags, contents, count);
}

csc_wire_content raw_reserve(raw_client *client, uint64_t number, size_t bytes)
{
    csc_wire_put item = raw_put_item(number, bytes);
    const csc_wire_header *answer = raw_ask(client, CSC_WIRE_RESERVE, 0, &item, 1, NULL);
    const csc_wire_put_result *result;

    ST_CHECK(answer && answer->status == 0);
    result = csc_wire_items(answer);
    ST_CHECK(result->flags == CSC_WIRE_RESERVED);
    return result->content;
}

bool raw_is(raw_client *client, const csc_wire_loaded *loaded, size_t bytes, uint64_t seed)
{
    const csc_content_entry *entry = &client->index.contents[loaded->content.number];
    const csc_slot *area = client->slots.words + (size_t)client->slots.area * CSC_AREA_SLOTS;
    uint8_t *expected = malloc(bytes), *got = malloc(bytes);
    cascade_piece piece = {got, bytes};
    bool same;

    ST_CHECK(expected && got);
    st_fill(expected, bytes, seed);
    csc_arena_copy_out(client->arena, &entry->dram, 0, &piece, 1);
    same = loaded->status == 0 && entry->content.k_bytes == bytes && memcmp(expected, got, bytes) == 0 &&
           loaded->slot < CSC_AREA_SLOTS &&
           atomic_load(&area[loaded->slot]) == (CSC_SLOT_PIN | loaded->content.number) &&
           (uint32_t)(atomic_load(&entry->state) >> CSC_CONTENT_GENERATION_SHIFT) ==
               loaded->content.generation;
    free(expected);
    free(got);
    return same;
}

void raw_release(raw_client *client, uint32_t slot)
{
    csc_slot_release(&client->slots.words[(size_t)client->slots.area * CSC_AREA_SLOTS + slot]);
}
