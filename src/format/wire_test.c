/* SPDX-License-Identifier: MIT */
/* Packets of the daemon's socket: what is made passes, each byte's wrong value does not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include "format/wire.h"
#include <cmocka.h>
#include <string.h>

static union {
    csc_wire_header header;
    uint64_t words[CSC_WIRE_PACKET_MAX / 8];
    uint8_t bytes[CSC_WIRE_PACKET_MAX];
} packet;

static void *items(void)
{
    return &packet.header + 1;
}

static size_t begin(unsigned type, size_t count)
{
    memset(&packet, 0, sizeof packet);
    return csc_wire_begin(&packet.header, type, 7, count);
}

static size_t puts_of(size_t count)
{
    size_t bytes = begin(CSC_WIRE_RESERVE, count);
    csc_wire_put *puts = items();

    for (size_t i = 0; i < count; i++)
        puts[i] = (csc_wire_put){.k_bytes = 1 << 20, .v_bytes = 1 << 20};
    return bytes;
}

static void every_request_passes(void **state)
{
    (void)state;
    for (unsigned type = 1; type < CSC_WIRE_TYPE_COUNT; type++) {
        size_t bytes = begin(type, csc_wire_request_item(type) ? 1 : 0);

        assert_int_equal(csc_wire_check_request(&packet, bytes), 0);
        assert_int_equal(packet.header.bytes, bytes);
    }
}

static void the_largest_of_each_fits(void **state)
{
    (void)state;
    for (unsigned type = 1; type < CSC_WIRE_TYPE_COUNT; type++) {
        assert_true(sizeof(csc_wire_header) + CSC_WIRE_BATCH_MAX * csc_wire_request_item(type) <=
                    CSC_WIRE_PACKET_MAX);
        if (type != CSC_WIRE_STATS) /* one item */
            assert_true(sizeof(csc_wire_header) + CSC_WIRE_BATCH_MAX * csc_wire_answer_item(type) +
                            sizeof(csc_wire_text) <=
                        CSC_WIRE_PACKET_MAX);
    }
    assert_true(sizeof(csc_wire_header) + sizeof(csc_wire_stats) <= CSC_WIRE_PACKET_MAX);
}

static void wrong_sizes_do_not_pass(void **state)
{
    size_t bytes = puts_of(3);

    (void)state;
    assert_int_equal(csc_wire_check_request(&packet, bytes), 0);
    for (size_t cut = 0; cut < bytes; cut++)
        assert_int_equal(csc_wire_check_request(&packet, cut), CASCADE_EFORMAT);
    assert_int_equal(csc_wire_check_request(&packet, bytes + 8), CASCADE_EFORMAT);
    packet.header.count = 2;
    assert_int_equal(csc_wire_check_request(&packet, bytes), CASCADE_EFORMAT);
    packet.header.count = UINT32_MAX;
    assert_int_equal(csc_wire_check_request(&packet, bytes), CASCADE_EFORMAT);
    assert_int_equal(csc_wire_check_request(&packet, begin(CSC_WIRE_RESERVE, 0)), CASCADE_EFORMAT);
    assert_int_equal(csc_wire_check_request(&packet, begin(CSC_WIRE_JOIN, 2)), CASCADE_EFORMAT);
    bytes = puts_of(CSC_WIRE_BATCH_MAX);
    assert_int_equal(csc_wire_check_request(&packet, bytes), 0);
    bytes = puts_of(CSC_WIRE_BATCH_MAX + 1);
    assert_int_equal(csc_wire_check_request(&packet, bytes), CASCADE_EFORMAT);
}

static void unknown_types_do_not_pass(void **state)
{
    const unsigned types[] = {0, CSC_WIRE_TYPE_COUNT, UINT32_MAX, CSC_WIRE_FLUSH | CSC_WIRE_ANSWER};
    size_t bytes = begin(CSC_WIRE_FLUSH, 0);

    (void)state;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        packet.header.type = types[i];
        assert_int_equal(csc_wire_check_request(&packet, bytes), CASCADE_EFORMAT);
    }
    packet.header.type = CSC_WIRE_FLUSH;
    packet.header.magic++;
    assert_int_equal(csc_wire_check_request(&packet, bytes), CASCADE_EFORMAT);
}

static void bad_values_do_not_pass(void **state)
{
    csc_wire_put *put = items();
    csc_wire_name *name = items();
    csc_wire_scrub *scrub = items();
    csc_wire_hello *hello = items();
    size_t bytes;

    (void)state;
#define REFUSED(make, spoil)                                                                            \
    do {                                                                                                \
        bytes = (make);                                                                                 \
        assert_int_equal(csc_wire_check_request(&packet, bytes), 0);                                    \
        spoil;                                                                                          \
        assert_int_equal(csc_wire_check_request(&packet, bytes), CASCADE_EINVAL);                       \
    } while (0)
    REFUSED(puts_of(1), put->k_bytes = CASCADE_BLOCK_BYTES_MAX + 1);
    REFUSED(puts_of(1), put->v_bytes = UINT64_MAX);
    REFUSED(puts_of(1), put->k_bytes = CASCADE_BLOCK_BYTES_MAX);
    REFUSED(puts_of(1), put->flags = 4);
    REFUSED(puts_of(1), put->reserved = 1);
    REFUSED(puts_of(1), put->parent.bytes[31] = 1);
    REFUSED(puts_of(2), put[1].parent.bytes[0] = 1);
    REFUSED(puts_of(1), packet.header.value = 8);
    REFUSED(puts_of(1), packet.header.status = 1);
    REFUSED(begin(CSC_WIRE_LOAD, 1), name->by_id = 2);
    REFUSED(begin(CSC_WIRE_LOAD, 1), name->tenant = 2);
    REFUSED(begin(CSC_WIRE_INFO, 1), name->id.bytes[15] = 2);
    REFUSED(begin(CSC_WIRE_LOAD, 1), (name->by_id = 1, name->key.bytes[0] = 1));
    REFUSED(begin(CSC_WIRE_SCRUB, 1), scrub->fix = 2);
    REFUSED(begin(CSC_WIRE_SCRUB, 1), (scrub->verify = 1, scrub->fix = 1));
    REFUSED(begin(CSC_WIRE_SCRUB, 1), (scrub->verify = 1, scrub->rate_bytes = 1));
    REFUSED(begin(CSC_WIRE_HELLO, 1), hello->version_least = 1);
    REFUSED(begin(CSC_WIRE_HELLO, 1), memset(hello->program, 'x', sizeof hello->program));
    REFUSED(begin(CSC_WIRE_ATTACH, 1), packet.bytes[sizeof packet.header + 4] = 1);
    REFUSED(begin(CSC_WIRE_GC, 0), packet.header.value = 2);
}

static int answer_to(unsigned type, size_t bytes, size_t count)
{
    return csc_wire_check_answer(&packet, bytes, type, 7, count);
}

static void answers_are_to_their_requests(void **state)
{
    size_t bytes = begin(CSC_WIRE_RESERVE | CSC_WIRE_ANSWER, 3);

    (void)state;
    assert_int_equal(answer_to(CSC_WIRE_RESERVE, bytes, 3), 0);
    assert_string_equal(csc_wire_text_of(&packet.header), "");
    assert_int_equal(answer_to(CSC_WIRE_RESERVE, bytes, 2), CASCADE_EFORMAT);
    assert_int_equal(answer_to(CSC_WIRE_COMMIT, bytes, 3), CASCADE_EFORMAT);
    assert_int_equal(csc_wire_check_answer(&packet, bytes, CSC_WIRE_RESERVE, 8, 3), CASCADE_EFORMAT);
    for (size_t cut = 0; cut < bytes; cut++)
        assert_int_equal(answer_to(CSC_WIRE_RESERVE, cut, 3), CASCADE_EFORMAT);
    bytes = begin(CSC_WIRE_RESERVE | CSC_WIRE_ANSWER, 0);
    assert_int_equal(answer_to(CSC_WIRE_RESERVE, bytes, 3), CASCADE_EFORMAT);
    bytes = begin(CSC_WIRE_KEYS | CSC_WIRE_ANSWER, 0);
    assert_int_equal(answer_to(CSC_WIRE_KEYS, bytes, 0), 0);
    bytes = begin(CSC_WIRE_KEYS | CSC_WIRE_ANSWER, CSC_WIRE_BATCH_MAX);
    assert_int_equal(answer_to(CSC_WIRE_KEYS, bytes, 0), 0);
}

static void failures_have_a_text(void **state)
{
    char text[2 * CSC_WIRE_TEXT_BYTES];
    size_t bytes;

    (void)state;
    begin(CSC_WIRE_FLUSH | CSC_WIRE_ANSWER, 0);
    bytes = csc_wire_fail(&packet.header, CASCADE_ENOSPC, "the disk is full");
    assert_int_equal(answer_to(CSC_WIRE_FLUSH, bytes, 0), 0);
    assert_int_equal(packet.header.status, CASCADE_ENOSPC);
    assert_string_equal(csc_wire_text_of(&packet.header), "the disk is full");
    assert_int_equal(answer_to(CSC_WIRE_FLUSH, bytes - 8, 0), CASCADE_EFORMAT);
    memset(packet.bytes + bytes - CSC_WIRE_TEXT_BYTES, 'x', CSC_WIRE_TEXT_BYTES);
    assert_int_equal(answer_to(CSC_WIRE_FLUSH, bytes, 0), CASCADE_EFORMAT);

    /* Beside items, and in their place. */
    begin(CSC_WIRE_RESERVE | CSC_WIRE_ANSWER, 2);
    bytes = csc_wire_fail(&packet.header, CASCADE_ECONFLICT, "");
    assert_int_equal(answer_to(CSC_WIRE_RESERVE, bytes, 2), 0);
    begin(CSC_WIRE_RESERVE | CSC_WIRE_ANSWER, 0);
    memset(text, 'y', sizeof text);
    text[sizeof text - 1] = 0;
    bytes = csc_wire_fail(&packet.header, CASCADE_EAGAIN, text);
    assert_int_equal(answer_to(CSC_WIRE_RESERVE, bytes, 2), 0);
    assert_int_equal(strlen(csc_wire_text_of(&packet.header)), CSC_WIRE_TEXT_BYTES - 1);
}

static void progress_is_for_what_takes_long(void **state)
{
    size_t bytes = begin(CSC_WIRE_GC | CSC_WIRE_PROGRESS, 1);

    (void)state;
    assert_int_equal(answer_to(CSC_WIRE_GC, bytes, 0), 0);
    packet.header.count = 0;
    assert_int_equal(answer_to(CSC_WIRE_GC, bytes, 0), CASCADE_EFORMAT);
    bytes = begin(CSC_WIRE_FLUSH | CSC_WIRE_PROGRESS, 1);
    assert_int_equal(answer_to(CSC_WIRE_FLUSH, bytes, 0), CASCADE_EFORMAT);
}

static void names_in_answers_end(void **state)
{
    size_t bytes = begin(CSC_WIRE_CLIENTS | CSC_WIRE_ANSWER, 2);
    csc_wire_client *clients = items();

    (void)state;
    assert_int_equal(answer_to(CSC_WIRE_CLIENTS, bytes, 0), 0);
    memset(clients[1].program, 'x', sizeof clients[1].program);
    assert_int_equal(answer_to(CSC_WIRE_CLIENTS, bytes, 0), CASCADE_EFORMAT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_request_passes),    cmocka_unit_test(the_largest_of_each_fits),
        cmocka_unit_test(wrong_sizes_do_not_pass), cmocka_unit_test(unknown_types_do_not_pass),
        cmocka_unit_test(bad_values_do_not_pass),  cmocka_unit_test(answers_are_to_their_requests),
        cmocka_unit_test(failures_have_a_text),    cmocka_unit_test(progress_is_for_what_takes_long),
        cmocka_unit_test(names_in_answers_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
