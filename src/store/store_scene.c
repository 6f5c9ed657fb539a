/* SPDX-License-Identifier: MIT */
#include "store/store_scene.h"

#include <dirent.h>
#include <ftw.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <cmocka.h>

scene *scene_now;
uint64_t scene_budget_bytes;

/* ---- blocks -------------------------------------------------------------------------- */

cascade_key scene_key_of(uint32_t number)
{
    cascade_key key = {{0}};

    memcpy(key.bytes, &number, sizeof number);
    return key;
}

/* Every fifth key holds the content of the key before it, so that contents are merged. */
static uint64_t content_of(uint32_t number)
{
    return number % 5 == 4 ? number - 1 : number;
}

uint64_t scene_bytes_of(uint32_t number)
{
    return 512 + content_of(number) * 7919 % 37 * 1024;
}

static uint64_t word_of(uint32_t number, uint64_t i)
{
    uint64_t x = (content_of(number) << 32 | i) * UINT64_C(0x9e3779b97f4a7c15) + 1;

    return x ^ x >> 29;
}

bool scene_is_right(uint32_t number, uint64_t offset, const void *data, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes / 8; i++) {
        uint64_t word;

        memcpy(&word, (const char *)data + 8 * i, sizeof word);
        if (word != word_of(number, offset / 8 + i))
            return false;
    }
    return true;
}

cascade_store *scene_open_store(void)
{
    cascade_options options = {.struct_bytes = sizeof options,
                               .directory = scene_now->directory,
                               .shm_directory = scene_now->shm,
                               .dram_bytes = 1 << 20,
                               .page_bytes = 4096,
                               .file_budget_bytes = scene_budget_bytes,
                               .segment_bytes = 256 << 10,
                               .put_wait_ms = SCENE_PATIENCE_MS,
                               .io_deadline_ms = SCENE_PATIENCE_MS,
                               .open_flags = CASCADE_OPEN_CREATE | CASCADE_OPEN_NO_PREFAULT};
    cascade_store *store = NULL;

    SCENE_CHECK(cascade_store_open(&options, &store) == 0);
    return store;
}

void scene_put_key(cascade_store *store, uint32_t number, uint32_t flags)
{
    uint64_t bytes = scene_bytes_of(number), *data = malloc(bytes);
    cascade_piece pieces[2] = {{data, 512}, {data + 64, bytes - 512}};
    cascade_put put = {.key = scene_key_of(number),
                       .has_parent = number % 3 != 0,
                       .block = {pieces, 1, pieces + 1, bytes > 512}};

    SCENE_CHECK(data);
    if (put.has_parent)
        put.parent = scene_key_of(number - 1);
    for (uint64_t i = 0; i < bytes / 8; i++)
        data[i] = word_of(number, i);
    SCENE_CHECK(cascade_block_put(store, &put, flags) == 0);
    free(data);
}

/* Returns what the get returned; checks the bytes it gave. */
int scene_get_key(cascade_store *store, uint32_t number)
{
    uint64_t bytes = scene_bytes_of(number), *data = malloc(bytes);
    cascade_piece pieces[2] = {{data, 512}, {data + 64, bytes - 512}};
    cascade_block into = {pieces, 1, pieces + 1, bytes > 512};
    cascade_key key = scene_key_of(number);
    int code;

    SCENE_CHECK(data);
    code = cascade_block_get(store, &key, &into);
    if (code == 0)
        SCENE_CHECK(scene_is_right(number, 0, data, bytes));
    free(data);
    return code;
}

/* ---- runs ---------------------------------------------------------------------------- */

bool scene_find_arena(char *path, size_t room)
{
    DIR *folder = opendir(scene_now->shm);
    struct dirent *entry;
    bool found = false;

    while (folder && !found && (entry = readdir(folder)))
        if (entry->d_name[0] != '.') {
            snprintf(path, room, "%s/%s", scene_now->shm, entry->d_name);
            found = true;
        }
    if (folder)
        closedir(folder);
    return found;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *place)
{
    (void)info;
    (void)kind;
    (void)place;
    return remove(path);
}

void scene_begin_run(void)
{
    const char *tmp = getenv("TMPDIR"), *shm = getenv("CASCADE_SHM_DIR");

    memset(scene_now, 0, sizeof *scene_now);
    snprintf(scene_now->directory, sizeof scene_now->directory, "%s/reader_test.XXXXXX",
             tmp ? tmp : "/tmp");
    snprintf(scene_now->shm, sizeof scene_now->shm, "%s/reader_test.XXXXXX",
             shm && *shm ? shm : "/dev/shm");
    assert_non_null(mkdtemp(scene_now->directory));
    assert_non_null(mkdtemp(scene_now->shm));
}

void scene_end_run(void)
{
    char path[512];

    assert_false(scene_find_arena(path, sizeof path)); /* closed: nothing is left in shared memory */
    assert_int_equal(rmdir(scene_now->shm), 0);
    assert_int_equal(nftw(scene_now->directory, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

pid_t scene_start(void (*body)(void))
{
    pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        body();
        _exit(1);
    }
    return child;
}

void scene_expect_success(pid_t child)
{
    int status;

    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

int scene_setup(void **state)
{
    (void)state;
    scene_now = mmap(NULL, sizeof *scene_now, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return scene_now == MAP_FAILED ? -1 : 0;
}

int scene_teardown(void **state)
{
    (void)state;
    munmap(scene_now, sizeof *scene_now);
    return 0;
}
