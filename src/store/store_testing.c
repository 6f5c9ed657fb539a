/* SPDX-License-Identifier: MIT */
#include "store/store_testing.h"

#include "format/segment_format.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <openssl/evp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static char directory[256], shm[256];

/* ---- directories ----------------------------------------------------------------------------- */

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *walk)
{
    (void)info;
    (void)kind;
    (void)walk;
    return remove(path);
}

void st_remove_tree(const char *path)
{
    assert_int_equal(nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

int st_setup(void **state)
{
    static const char *const variables[] = {
        "CASCADE_DIR",      "CASCADE_DRAM",        "CASCADE_FILE_BUDGET",   "CASCADE_SEGMENT",
        "CASCADE_POLICY",   "CASCADE_SHM_DIR",     "CASCADE_RANK",          "CASCADE_HASH_THREADS",
        "CASCADE_LEASE_MS", "CASCADE_PUT_WAIT_MS", "CASCADE_WATERMARK_LOW", "CASCADE_WATERMARK_HIGH",
    };
    const char *base = getenv("TMPDIR");

    (void)state;
    for (size_t i = 0; i < sizeof variables / sizeof variables[0]; i++)
        unsetenv(variables[i]);
    setenv("CASCADE_LOG", "none", 0);
    snprintf(directory, sizeof directory, "%s/store_test.XXXXXX", base ? base : "/tmp");
    snprintf(shm, sizeof shm, "/dev/shm/store_test.XXXXXX");
    return mkdtemp(directory) && mkdtemp(shm) ? 0 : -1;
}

int st_teardown(void **state)
{
    size_t left = st_shm_count();

    (void)state;
    st_remove_tree(directory);
    st_remove_tree(shm);
    if (left)
        print_error("%zu files were left in shared memory\n", left);
    return left ? -1 : 0;
}

const char *st_directory(void)
{
    return directory;
}

const char *st_shm(void)
{
    return shm;
}

/* Names in a folder that are not hidden, in order. */
static int list(const char *path, struct dirent ***names)
{
    int count = scandir(path, names, NULL, alphasort), kept = 0;

    assert_true(count >= 0);
    for (int i = 0; i < count; i++)
        if ((*names)[i]->d_name[0] != '.')
            (*names)[kept++] = (*names)[i];
        else
            free((*names)[i]);
    return kept;
}

static void free_list(struct dirent **names, int count)
{
    for (int i = 0; i < count; i++)
        free(names[i]);
    free(names);
}

size_t st_shm_count(void)
{
    struct dirent **names;
    int count = list(shm, &names);

    free_list(names, count);
    return (size_t)count;
}

/* By one listing: while a store is open, files come and go between two. */
static size_t find_segment(const uint32_t *of_rank, size_t which, char *path, size_t room)
{
    struct dirent **names;
    int count = list(directory, &names);
    size_t found = 0;
    uint32_t rank, number;

    for (int i = 0; i < count; i++)
        if (csc_segfmt_name_parse(names[i]->d_name, &rank, &number) && (!of_rank || rank == *of_rank) &&
            found++ == which && path)
            snprintf(path, room, "%s/%s", directory, names[i]->d_name);
    free_list(names, count);
    return found;
}

size_t st_segment_count(void)
{
    return find_segment(NULL, SIZE_MAX, NULL, 0);
}

const char *st_segment_path(size_t which)
{
    static char path[600];

    assert_true(find_segment(NULL, which, path, sizeof path) > which);
    return path;
}

const char *st_segment_path_of(uint32_t rank, size_t which)
{
    static char path[600];

    assert_true(find_segment(&rank, which, path, sizeof path) > which);
    return path;
}

void st_lose_memory(void)
{
    struct dirent **names;
    int count = list(shm, &names);
    char path[600];

    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/%s", shm, names[i]->d_name);
        assert_int_equal(unlink(path), 0);
    }
    free_list(names, count);
}

/* ---- stores ---------------------------------------------------------------------------------- */

cascade_options st_options(void)
{
    return (cascade_options){.struct_bytes = sizeof(cascade_options),
                             .directory = directory,
                             .shm_directory = shm,
                             .dram_bytes = 4 * ST_MIB,
                             .page_bytes = 4 * ST_KIB,
                             .put_wait_ms = ST_PATIENCE_MS,
                             .io_deadline_ms = ST_PATIENCE_MS,
                             .open_flags = CASCADE_OPEN_CREATE | CASCADE_OPEN_NO_PREFAULT};
}

cascade_store *st_open_with(cascade_options options)
{
    cascade_store *store = NULL;
    int code = cascade_store_open(&options, &store);

    if (code)
        print_error("%s: %s\n", cascade_error_name(code), cascade_last_error());
    assert_int_equal(code, 0);
    assert_non_null(store);
    return store;
}

cascade_store *st_open(void)
{
    return st_open_with(st_options());
}

void st_close(cascade_store **store)
{
    int code = cascade_store_close(store);

    if (code)
        print_error("%s: %s\n", cascade_error_name(code), cascade_last_error());
    assert_int_equal(code, 0);
    assert_null(*store);
    assert_int_equal(st_shm_count(), 0);
}

cascade_stats st_stats(cascade_store *store)
{
    cascade_stats stats = {.struct_bytes = sizeof stats};

    assert_int_equal(cascade_store_stats(store, &stats), 0);
    return stats;
}

void st_sleep_ms(unsigned ms)
{
    struct timespec time = {ms / 1000, (long)(ms % 1000) * 1000000};

    nanosleep(&time, NULL);
}

void st_settle(cascade_store *store)
{
    while (st_stats(store).digest_pending)
        st_sleep_ms(5);
}

void st_push_out(cascade_store *store, uint64_t key, uint64_t first)
{
    cascade_info info = st_info(store, key);

    for (uint64_t i = 0; i < 4096 && info.in_dram; i++) {
        assert_int_equal(st_put(store, first + i, first + i, 64 * ST_KIB, 0, 0), 0);
        if (i % 16 == 15)
            assert_int_equal(cascade_store_flush(store), 0);
        info = st_info(store, key);
    }
    assert_false(info.in_dram);
    assert_true(info.in_file);
}

/* ---- blocks ---------------------------------------------------------------------------------- */

cascade_key st_key(uint64_t number)
{
    cascade_key key;

    st_fill(key.bytes, sizeof key.bytes, ~number);
    return key;
}

void st_fill(void *to, size_t bytes, uint64_t seed)
{
    uint8_t *out = to;
    uint64_t state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;

    for (size_t at = 0; at < bytes; at += sizeof state) {
        /* One step of a 64-bit mixer a word. */
        uint64_t word = (state += UINT64_C(0x9e3779b97f4a7c15));

        word = (word ^ word >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
        word = (word ^ word >> 27) * UINT64_C(0x94d049bb133111eb);
        word ^= word >> 31;
        memcpy(out + at, &word, bytes - at < sizeof word ? bytes - at : sizeof word);
    }
}

/* Not by cmocka's functions: also used in child processes and threads. */
static uint8_t *block_bytes(uint64_t seed, size_t bytes)
{
    uint8_t *memory = malloc(bytes + 1);

    if (!memory)
        abort();
    st_fill(memory, bytes, seed);
    return memory;
}

int st_put(cascade_store *store, uint64_t number, uint64_t seed, size_t k_bytes, size_t v_bytes,
           uint32_t flags)
{
    uint8_t *memory = block_bytes(seed, k_bytes + v_bytes);
    const cascade_piece k = {memory, k_bytes}, v = {memory + k_bytes, v_bytes};
    cascade_put put = {.key = st_key(number), .block = {&k, 1, &v, v_bytes != 0}};
    int code = cascade_block_put(store, &put, flags);

    free(memory);
    return code;
}

int st_put_child(cascade_store *store, uint64_t number, uint64_t parent, size_t bytes)
{
    uint8_t *memory = block_bytes(number, bytes);
    const cascade_piece k = {memory, bytes};
    cascade_put put = {
        .key = st_key(number), .parent = st_key(parent), .has_parent = true, .block = {&k, 1, NULL, 0}};
    int code = cascade_block_put(store, &put, 0);

    free(memory);
    return code;
}

int st_get(cascade_store *store, uint64_t number, uint64_t seed, size_t k_bytes, size_t v_bytes)
{
    size_t bytes = k_bytes + v_bytes;
    uint8_t *memory = block_bytes(seed, bytes), *got = malloc(bytes + 1);
    const cascade_piece k = {got, k_bytes}, v = {got ? got + k_bytes : NULL, v_bytes};
    const cascade_block into = {&k, 1, &v, v_bytes != 0};
    cascade_key key = st_key(number);
    int code;

    if (!got)
        abort();
    memset(got, 0xa5, bytes);
    code = cascade_block_get(store, &key, &into);
    if (code == 0 && memcmp(got, memory, bytes) != 0)
        code = ST_WRONG;
    free(memory);
    free(got);
    return code;
}

bool st_view_is(const cascade_view *view, uint64_t seed, size_t k_bytes, size_t v_bytes)
{
    uint8_t *memory = block_bytes(seed, k_bytes + v_bytes), *at = memory;
    bool same = view->k_bytes == k_bytes && view->v_bytes == v_bytes;

    for (int half = 0; half < 2; half++) {
        const cascade_piece *pieces = half ? view->v : view->k;
        size_t count = half ? view->v_count : view->k_count, total = 0;

        for (size_t i = 0; i < count; i++) {
            total += pieces[i].bytes;
            same = same && total <= (half ? v_bytes : k_bytes) &&
                   memcmp(pieces[i].data, at, pieces[i].bytes) == 0;
            at += pieces[i].bytes;
        }
        same = same && total == (half ? v_bytes : k_bytes);
    }
    free(memory);
    return same;
}

cascade_id st_id(uint64_t seed, size_t k_bytes, size_t v_bytes)
{
    uint8_t *memory = block_bytes(seed, k_bytes + v_bytes), digest[EVP_MAX_MD_SIZE];
    cascade_id id;

    if (EVP_Digest(memory, k_bytes + v_bytes, digest, NULL, EVP_sha256(), NULL) != 1)
        abort();
    memcpy(id.bytes, digest, sizeof id.bytes);
    free(memory);
    return id;
}

cascade_info st_info(cascade_store *store, uint64_t number)
{
    cascade_key key = st_key(number);
    cascade_info info = {0};

    assert_int_equal(cascade_block_info(store, &key, &info), 0);
    return info;
}

int st_delete(cascade_store *store, uint64_t number)
{
    cascade_key key = st_key(number);

    return cascade_block_delete(store, &key);
}

/* ---- processes ------------------------------------------------------------------------------- */

pid_t st_spawn(void (*body)(void *context), void *context)
{
    pid_t child;

    fflush(NULL); /* what is buffered is not to be printed twice */
    child = fork();
    if (child == 0) {
        body(context);
        _exit(0);
    }
    assert_true(child > 0);
    return child;
}

int st_wait(pid_t child)
{
    int status = 0;

    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

void st_in_child(void (*body)(void *context), void *context, int expected)
{
    assert_int_equal(st_wait(st_spawn(body, context)), expected);
}

void st_check(bool condition, const char *text, const char *file, int line)
{
    if (condition)
        return;
    fprintf(stderr, "%s:%d: in a child: %s (%s)\n", file, line, text, cascade_last_error());
    _exit(99);
}
