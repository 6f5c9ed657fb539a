/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/fail.h"
#include "base/sha256.h"
#include "base/sha256_lanes.h"
#include "base/sha256_wide.h" /* here lowered to whatever this build's plain CPU has */

#include <openssl/evp.h>
#include <openssl/provider.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define SEED          UINT64_C(0x9e3779b97f4a7c15)
#define MESSAGES_MAX  40u
#define PIECES_MAX    12u
#define FLAT_BYTES    (256u << 10)
#define ROUNDS_A_PATH 3u

/* ---- every way to digest ------------------------------------------------------------------ */

static void hash_wide(csc_sha256_lanes *lanes, unsigned active, size_t blocks)
{
    csc_sha256_wide_hash(lanes, active, blocks);
}

/* The same lines, as a kernel that may touch the first four columns only. */
static void hash_narrow(csc_sha256_lanes *lanes, unsigned active, size_t blocks)
{
    csc_sha256_lanes mine = *lanes;

    assert_in_range(active, 1, 4);
    csc_sha256_wide_hash(&mine, active, blocks);
    for (unsigned i = 0; i < 8; i++)
        memcpy(lanes->state[i], mine.state[i], 4 * sizeof(uint32_t));
}

static const csc_sha256_kernel wide = {.width = 16, .hash = hash_wide};
static const csc_sha256_kernel narrow = {.width = 4, .hash = hash_narrow};

typedef struct digester {
    const char *name;
    csc_sha256_path path; /* used if `wide` is NULL */
    const csc_sha256_kernel *wide;
    const csc_sha256_kernel *narrow;
} digester;

static const digester digesters[] = {
    {.name = "auto", .path = CSC_SHA256_AUTO},
    {.name = "openssl", .path = CSC_SHA256_OPENSSL},
    {.name = "shani", .path = CSC_SHA256_SHANI},
    {.name = "avx512", .path = CSC_SHA256_AVX512},
    {.name = "scalar", .wide = &csc_sha256_scalar},
    {.name = "sixteen lanes", .wide = &wide},
    {.name = "sixteen lanes, then four", .wide = &wide, .narrow = &narrow},
};
#define DIGESTERS (sizeof digesters / sizeof digesters[0])

/* A source that now and then has none, though more are to come. */
typedef struct moody_source {
    csc_sha256_source source;
    csc_sha256_message *messages;
    size_t count, begun, done;
    uint64_t asked;
    unsigned moods; /* it has none each so many times that it is asked; 0: it always has */
    size_t out_of_order;
} moody_source;

static csc_sha256_message *moody_next(csc_sha256_source *source)
{
    moody_source *m = (moody_source *)(void *)source;

    if (m->begun == m->count || (m->moods && ++m->asked % m->moods == 0))
        return NULL;
    assert_true(m->begun - m->done < CSC_SHA256_BATCH);
    return &m->messages[m->begun++];
}

static void moody_done(csc_sha256_source *source, csc_sha256_message *message)
{
    moody_source *m = (moody_source *)(void *)source;

    assert_true(message >= m->messages && message < m->messages + m->begun);
    m->out_of_order += message != &m->messages[m->done];
    m->done++;
}

/* False when this CPU cannot. `moods` 0: as one list, where there is a call for that. */
static bool digest(const digester *by, unsigned moods, csc_sha256_message *messages, size_t count)
{
    moody_source m = {{moody_next, moody_done}, messages, count, 0, 0, 0, moods, 0};
    int code = 0;

    do {
        if (by->wide)
            csc_sha256_run(by->wide, by->narrow, &m.source);
        else if (moods)
            code = csc_sha256_stream_by(by->path, &m.source);
        else
            code = csc_sha256_many_by(by->path, messages, count);
        assert_int_equal(m.done, m.begun); /* none is left behind */
    } while (code == 0 && (by->wide || moods) && m.done < count);
    if (code == 0)
        return true;
    assert_int_equal(code, CASCADE_ENOTSUP);
    assert_non_null(strstr(csc_fail_text(), by->name));
    return false;
}

/* ---- random messages ---------------------------------------------------------------------- */

static uint64_t random_state;

static uint64_t random_next(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

/* Lengths around the block and padding limits, small ones, and long runs. */
static size_t random_bytes(void)
{
    switch (random_next() % 8) {
    case 0:
        return 0;
    case 1:
        return random_next() % 4 * 64;
    case 2:
    case 3:
        return 48 + random_next() % 32;
    case 4:
        return random_next() % 20000;
    default:
        return random_next() % 300;
    }
}

typedef struct sample {
    cascade_piece pieces[PIECES_MAX];
    void *memory[PIECES_MAX];
    uint8_t expected[CSC_SHA256_BYTES];
} sample;

/* Each piece ends where its allocation ends, so that AddressSanitizer sees a read past it. */
static void make_sample(sample *s, csc_sha256_message *message)
{
    static uint8_t flat[FLAT_BYTES];
    size_t count = random_next() % (PIECES_MAX + 1), total = 0;

    for (size_t i = 0; i < count; i++) {
        size_t bytes = random_bytes(), misalignment = random_next() % 64;

        s->memory[i] = malloc(misalignment + bytes + 1);
        assert_non_null(s->memory[i]);
        s->pieces[i].bytes = bytes;
        s->pieces[i].data = bytes ? (uint8_t *)s->memory[i] + misalignment + 1 : NULL;
        assert_true(total + bytes <= sizeof flat);
        for (size_t j = 0; j < bytes; j++)
            flat[total + j] = (uint8_t)(random_next() >> 32);
        if (bytes)
            memcpy(s->pieces[i].data, flat + total, bytes);
        total += bytes;
    }
    assert_int_equal(EVP_Digest(flat, total, s->expected, NULL, EVP_sha256(), NULL), 1);
    memset(message, 0xee, sizeof *message);
    message->pieces = count ? s->pieces : NULL;
    message->piece_count = count;
}

static void free_sample(sample *s, const csc_sha256_message *message)
{
    for (size_t i = 0; i < message->piece_count; i++)
        free(s->memory[i]);
}

static const unsigned all_moods[] = {0, 2, 3, 7};
#define MOODS (sizeof all_moods / sizeof all_moods[0])

static void test_equals_openssl(void **state)
{
    static sample samples[MESSAGES_MAX];
    static csc_sha256_message messages[MESSAGES_MAX];

    (void)state;
    random_state = SEED;
    for (unsigned round = 0; round < ROUNDS_A_PATH; round++)
        for (size_t count = 0; count <= MESSAGES_MAX; count++) {
            for (size_t i = 0; i < count; i++)
                make_sample(&samples[i], &messages[i]);
            for (size_t d = 0; d < DIGESTERS; d++) {
                for (size_t i = 0; i < count; i++)
                    memset(messages[i].digest, 0xee, CSC_SHA256_BYTES);
                if (!digest(&digesters[d], all_moods[round % MOODS], messages, count))
                    continue;
                for (size_t i = 0; i < count; i++)
                    if (memcmp(messages[i].digest, samples[i].expected, CSC_SHA256_BYTES) != 0)
                        fail_msg("%s: message %zu of %zu differs (seed %#llx, round %u)",
                                 digesters[d].name, i, count, (unsigned long long)SEED, round);
            }
            for (size_t i = 0; i < count; i++)
                free_sample(&samples[i], &messages[i]);
        }
}

/* Blocks of a prefix are of one size; in files they lie in the order in which they are done here. */
static void test_equal_sizes_are_done_in_order(void **state)
{
    enum { COUNT = 50 };
    static uint8_t data[3000];
    cascade_piece piece = {data, sizeof data};
    csc_sha256_message messages[COUNT];

    (void)state;
    for (size_t i = 0; i < COUNT; i++)
        messages[i] = (csc_sha256_message){.pieces = &piece, .piece_count = 1};
    for (size_t d = 0; d < DIGESTERS; d++) {
        moody_source m = {{moody_next, moody_done}, messages, COUNT, 0, 0, 0, 0, 0};

        if (digesters[d].wide && !digesters[d].narrow)
            csc_sha256_run(digesters[d].wide, NULL, &m.source);
        else if (csc_sha256_stream_by(digesters[d].path, &m.source) != 0)
            continue;
        assert_int_equal(m.done, COUNT);
        assert_int_equal(m.out_of_order, 0);
    }
}

/* ---- published vectors ------------------------------------------------------------------- */

static void format_hex(const uint8_t *bytes, size_t count, char *text)
{
    for (size_t i = 0; i < count; i++)
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
}

/* FIPS 180 examples of NIST: one block, two blocks, four blocks' worth, empty, and a million times "a".
 */
static void test_published_vectors(void **state)
{
    static const struct {
        const char *text;
        const char *digest;
    } vectors[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
        {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopq"
         "rsmno"
         "pqrstnopqrstu",
         "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"},
        {NULL, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
    };
    enum { COUNT = sizeof vectors / sizeof vectors[0], MILLION = 1000000 };
    char *million = malloc(MILLION), hex[2 * CSC_SHA256_BYTES + 1];
    cascade_piece pieces[COUNT];
    csc_sha256_message messages[COUNT];

    (void)state;
    assert_non_null(million);
    memset(million, 'a', MILLION);
    for (size_t i = 0; i < COUNT; i++) {
        const char *text = vectors[i].text ? vectors[i].text : million;

        pieces[i] = (cascade_piece){.data = (void *)(uintptr_t)text,
                                    .bytes = vectors[i].text ? strlen(text) : MILLION};
        messages[i] = (csc_sha256_message){.pieces = &pieces[i], .piece_count = 1};
    }
    for (size_t d = 0; d < DIGESTERS * MOODS; d++) {
        memset(messages[4].digest, 0, CSC_SHA256_BYTES);
        if (!digest(&digesters[d / MOODS], all_moods[d % MOODS], messages, COUNT))
            continue;
        for (size_t i = 0; i < COUNT; i++) {
            format_hex(messages[i].digest, CSC_SHA256_BYTES, hex);
            assert_string_equal(hex, vectors[i].digest);
        }
    }
    uint8_t flat[CSC_SHA256_BYTES];
    csc_sha256("abc", 3, flat);
    format_hex(flat, sizeof flat, hex);
    assert_string_equal(hex, vectors[1].digest);
    free(million);
}

static void test_unknown_path_is_refused(void **state)
{
    (void)state;
    assert_int_equal(csc_sha256_many_by((csc_sha256_path)17, NULL, 0), CASCADE_EINVAL);
}

/* ---- what is decided once a process: in children, before this process decides ------------- */

static int exit_status(pid_t child)
{
    int status;

    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int path_is(const char *setting, const char *expected)
{
    pid_t child = fork();

    if (child == 0) {
        setenv("CASCADE_LOG", "none", 1);
        setenv("CASCADE_SHA256", setting, 1);
        _exit(strcmp(csc_sha256_path_name(), expected) != 0);
    }
    return exit_status(child) == 0;
}

static void test_environment_forces_a_path(void **state)
{
    const char *by_avx512 = csc_sha256_avx512() ? "avx512" : NULL;
    const char *by_shani = csc_sha256_shani() ? "shani" : NULL;
    const char *best = by_avx512 ? by_avx512 : by_shani ? by_shani : "openssl";

    (void)state;
    assert_true(path_is("openssl", "openssl"));
    assert_true(path_is("shani", by_shani ? by_shani : best));
    assert_true(path_is("avx512", best));
    /* Of two, the one that was faster just now. */
    assert_true(path_is("", best) || (by_shani && path_is("", by_shani)));
    assert_true(path_is("nonsense", best) || (by_shani && path_is("nonsense", by_shani)));
}

/* A process whose OpenSSL has no digests at all still gets right ones. */
static void test_openssl_without_sha256(void **state)
{
    pid_t child = fork();

    (void)state;
    if (child == 0) {
        cascade_piece pieces[] = {{.data = (char[]){"a"}, .bytes = 1},
                                  {.data = (char[]){"bc"}, .bytes = 2}};
        csc_sha256_message message = {.pieces = pieces, .piece_count = 2};
        EVP_MD_CTX *context = EVP_MD_CTX_new();

        if (!OSSL_PROVIDER_load(NULL, "null") || EVP_DigestInit_ex(context, EVP_sha256(), NULL))
            _exit(2);
        csc_sha256_many_by(CSC_SHA256_OPENSSL, &message, 1);
        _exit(memcmp(message.digest, "\xba\x78\x16\xbf\x8f\x01\xcf\xea", 8) != 0);
    }
    assert_int_equal(exit_status(child), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_environment_forces_a_path),
        cmocka_unit_test(test_openssl_without_sha256),
        cmocka_unit_test(test_published_vectors),
        cmocka_unit_test(test_equals_openssl),
        cmocka_unit_test(test_equal_sizes_are_done_in_order),
        cmocka_unit_test(test_unknown_path_is_refused),
    };

    printf("# seed %#llx, paths: shani %s, avx512 %s\n", (unsigned long long)SEED,
           csc_sha256_shani() ? "yes" : "no", csc_sha256_avx512() ? "yes" : "no");
    fflush(stdout);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
