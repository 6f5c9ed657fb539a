/* SPDX-License-Identifier: MIT */
/*
 * Feeds every file of a corpus folder, each also cut short at several lengths and with bits flipped, to
 * LLVMFuzzerTestOneInput. Prints TAP: one case a file.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define INPUT_BYTES_MAX (1u << 20)

static void feed_variants(uint8_t *data, size_t size)
{
    uint32_t state = 2463534242u;

    LLVMFuzzerTestOneInput(data, size);
    for (size_t cut = 0; cut < size; cut += size / 16 + 1)
        LLVMFuzzerTestOneInput(data, cut);
    for (int i = 0; size && i < 256; i++) {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        size_t bit = state % (size * 8);
        data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        LLVMFuzzerTestOneInput(data, size);
        data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

int main(int argc, char **argv)
{
    static uint8_t input[INPUT_BYTES_MAX];
    char path[4096];
    struct dirent *entry;
    int cases = 0;
    DIR *folder;

    if (argc != 2 || !(folder = opendir(argv[1]))) {
        fprintf(stderr, "usage: %s CORPUS_FOLDER\n", argv[0]);
        return 2;
    }
    while ((entry = readdir(folder))) {
        FILE *file;

        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", argv[1], entry->d_name);
        file = fopen(path, "rb");
        if (!file)
            continue;
        size_t size = fread(input, 1, sizeof input, file);
        fclose(file);
        feed_variants(input, size);
        printf("ok %d - %s\n", ++cases, entry->d_name);
    }
    closedir(folder);
    printf("1..%d\n", cases);
    return cases ? 0 : 1;
}
