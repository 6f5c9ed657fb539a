/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include "trace.h"

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static trace *open_text(const char *content, size_t bytes, char path[32])
{
    char text[TRACE_TEXT_BYTES];
    trace *reader;
    int fd;

    strcpy(path, "/tmp/trace_test_XXXXXX");
    fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, content, bytes), bytes);
    close(fd);
    reader = trace_open(path, text);
    assert_non_null(reader);
    unlink(path);
    return reader;
}

static void test_good(void **state)
{
    static const char content[] = "{\"timestamp\": 0, \"hash_ids\": [0, 1, 9223372036854775807]}\r\n"
                                  "\n  \t\n"
                                  "{\"hash_ids\": [], \"x\": {\"hash_ids\": 3}}\n"
                                  "{\"hash_ids\": [7]}";
    char path[32], text[TRACE_TEXT_BYTES];
    trace_request request = {0};
    trace *reader = open_text(content, strlen(content), path);
    uint64_t done, total;

    (void)state;
    assert_int_equal(trace_next(reader, &request, text), 1);
    assert_int_equal(request.count, 3);
    assert_int_equal(request.ids[1], 1);
    assert_true(request.ids[2] == INT64_MAX);
    assert_int_equal(trace_line(reader), 1);
    assert_int_equal(trace_next(reader, &request, text), 1);
    assert_int_equal(request.count, 0);
    assert_int_equal(trace_line(reader), 4);
    assert_int_equal(trace_next(reader, &request, text), 1);
    assert_int_equal(request.count, 1);
    assert_int_equal(request.ids[0], 7);
    assert_int_equal(trace_next(reader, &request, text), 0);
    trace_position(reader, &done, &total);
    assert_int_equal(total, strlen(content));
    assert_true(done >= total);
    trace_request_free(&request);
    trace_close(&reader);
    assert_null(reader);
    trace_close(&reader);
}

static void test_bad_lines(void **state)
{
    static const char *const bad[] = {
        "{\"hash_ids\": [0, 1",
        "[]",
        "{}",
        "{\"hash_ids\": 7}",
        "{\"hash_ids\": [-1]}",
        "{\"hash_ids\": [1.0]}",
        "{\"hash_ids\": [\"1\"]}",
        "{\"hash_ids\": [9223372036854775808]}",
        "{\"hash_ids\": [1]} x",
        "{\"hash_ids\": [1], \"hash_ids\": [2]}",
        "\x7f\x45LF",
    };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char path[32], text[TRACE_TEXT_BYTES] = "", content[256];
        trace_request request = {0};
        trace *reader;

        snprintf(content, sizeof content, "{\"hash_ids\": [1]}\n%s\n", bad[i]);
        reader = open_text(content, strlen(content), path);
        assert_int_equal(trace_next(reader, &request, text), 1);
        assert_int_equal(trace_next(reader, &request, text), -1);
        assert_non_null(strstr(text, "line 2"));
        assert_non_null(strstr(text, path));
        trace_request_free(&request);
        trace_close(&reader);
    }
}

static void test_endless_line(void **state)
{
    size_t bytes = TRACE_LINE_BYTES_MAX + 1;
    char path[32], text[TRACE_TEXT_BYTES] = "", *content = malloc(bytes);
    trace_request request = {0};
    trace *reader;

    (void)state;
    assert_non_null(content);
    memset(content, ' ', bytes);
    reader = open_text(content, bytes - 1, path);
    assert_int_equal(trace_next(reader, &request, text), 0);
    trace_close(&reader);
    reader = open_text(content, bytes, path);
    assert_int_equal(trace_next(reader, &request, text), -1);
    assert_non_null(strstr(text, "16 MiB"));
    trace_close(&reader);
    free(content);
}

static void test_unreadable(void **state)
{
    char text[TRACE_TEXT_BYTES] = "";
    trace_request request = {0};
    trace *reader;

    (void)state;
    assert_null(trace_open("/nonexistent/trace", text));
    assert_non_null(strstr(text, "/nonexistent/trace"));
    reader = trace_open("/", text); /* opens, but does not read */
    if (reader) {
        assert_int_equal(trace_next(reader, &request, text), -1);
        trace_close(&reader);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_bad_lines),
        cmocka_unit_test(test_endless_line),
        cmocka_unit_test(test_unreadable),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
