/* SPDX-License-Identifier: MIT */
/* Stores one block, finds it, and reads it back: hello DIRECTORY. */
#include <cascade/cascade.h>
#include <stdio.h>
#include <string.h>

static int failed(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, cascade_last_error());
    return 1;
}

int main(int argc, char **argv)
{
    static char k[4096], v[4096], back[8192];
    const char prefix[] = "the engine's hash of a token prefix";
    const cascade_namespace model = {
        .struct_bytes = sizeof model, .model = "demo", .dtype = "bfloat16", .block_tokens = 16};
    cascade_options options = {
        .struct_bytes = sizeof options, .dram_bytes = 64 << 20, .open_flags = CASCADE_OPEN_CREATE};
    const cascade_piece k_piece = {k, sizeof k}, v_piece = {v, sizeof v};
    const cascade_piece back_k = {back, sizeof k}, back_v = {back + sizeof k, sizeof v};
    const cascade_block into = {&back_k, 1, &back_v, 1};
    cascade_put put = {.block = {&k_piece, 1, &v_piece, 1}};
    char id[CASCADE_ID_TEXT_BYTES];
    cascade_store *store;
    size_t matched;

    if (argc != 2) {
        fprintf(stderr, "usage: %s DIRECTORY\n", argv[0]);
        return 2;
    }
    options.directory = argv[1];
    memset(k, 'K', sizeof k);
    memset(v, 'V', sizeof v);

    if (cascade_key_fold(&model, prefix, sizeof prefix - 1, &put.key) ||
        cascade_store_open(&options, &store))
        return failed("open");
    if (cascade_block_put(store, &put, CASCADE_PUT_SYNC) ||
        cascade_prefix_match(store, &put.key, 1, &matched) ||
        cascade_block_get(store, &put.key, &into)) {
        failed("put and get");
        cascade_store_close(&store);
        return 1;
    }
    cascade_id_format(&put.id, id);
    printf("stored %s and found %zu of 1\n", id, matched);
    if (memcmp(back, k, sizeof k) == 0 && memcmp(back + sizeof k, v, sizeof v) == 0)
        puts("read back the same bytes");
    return cascade_store_close(&store) ? failed("close") : 0;
}
