/* SPDX-License-Identifier: MIT */
/* The commands that move one block's bytes: put, get. */
#include "cli.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- put --------------------------------------------------------------------------------- */

typedef struct put_arguments {
    cli_common common;
    bool has_key;
    cascade_put put;
    const char *files[2]; /* K, V */
    int file_count;
} put_arguments;

enum { BLOCK_KEY = 0x2000, BLOCK_PARENT, BLOCK_TENANT, BLOCK_RANGE };

static error_t parse_put(int key, char *argument, struct argp_state *state)
{
    put_arguments *arguments = state->input;

    switch (key) {
    case BLOCK_KEY:
        arguments->put.key = cli_key_argument("--key", argument, state);
        arguments->has_key = true;
        return 0;
    case BLOCK_PARENT:
        arguments->put.parent = cli_key_argument("--parent", argument, state);
        arguments->put.has_parent = true;
        return 0;
    case BLOCK_TENANT:
        arguments->put.tenant = cascade_tenant(argument);
        return 0;
    case ARGP_KEY_ARG:
        if (arguments->file_count == 2)
            argp_error(state, "a block has two files at most: K and V");
        arguments->files[arguments->file_count++] = argument;
        return 0;
    case ARGP_KEY_END:
        if (arguments->file_count == 0)
            argp_error(state, "which file holds K?");
        if (arguments->put.has_parent && !arguments->has_key)
            argp_error(state, "--parent needs --key: only keys form prefixes");
        return 0;
    default:
        return cli_parse_rest(key, argument, state, &arguments->common);
    }
}

static int put_block(cascade_store *store, put_arguments *arguments)
{
    cascade_put *put = &arguments->put;
    char id[CASCADE_ID_TEXT_BYTES], key[2 * CASCADE_KEY_BYTES + 1];
    int code;

    if (arguments->has_key)
        code = cascade_block_put(store, put, CASCADE_PUT_SYNC);
    else
        code = cascade_content_put(store, put->tenant, &put->block, 0, &put->id, &put->existed);
    if (code)
        return cli_fail(code, "cannot store the block");
    cascade_id_format(&put->id, id);
    cascade_key_format(&put->key, key);
    if (!arguments->common.json) {
        puts(id);
        return CLI_OK;
    }
    return cli_print_json(json_pack("{s:s, s:o, s:b, s:I, s:I}", "id", id, "key",
                                    arguments->has_key ? json_string(key) : json_null(), "existed",
                                    put->existed, "k_bytes", (json_int_t)put->block.k->bytes, "v_bytes",
                                    (json_int_t)(put->block.v_count ? put->block.v->bytes : 0)));
}

int cli_put(int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"key", BLOCK_KEY, "HEX", 0,
         "Bind the block to this key, 64 hex digits (else: stored by content)", 0},
        {"parent", BLOCK_PARENT, "HEX", 0, "The key of the block before this one in the prompt", 0},
        {"tenant", BLOCK_TENANT, "NAME", 0, "The tenant it belongs to", 0},
        {0},
    };
    static const struct argp_child children[] = {{&cli_store_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {
        options,
        parse_put,
        "KFILE [VFILE]",
        "Stores a block and prints its id: the first 32 hex digits of SHA-256(K || V).",
        children,
        NULL,
        NULL};
    put_arguments arguments = {0};
    cascade_piece pieces[2] = {{0}};
    cascade_store *store;
    int result = CLI_OK;

    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    for (int i = 0; i < arguments.file_count && !result; i++)
        result = cli_read_file(arguments.files[i], &pieces[i].data, &pieces[i].bytes);
    arguments.put.block = (cascade_block){&pieces[0], 1, &pieces[1], arguments.file_count == 2 ? 1 : 0};
    if (!result)
        result = cli_open(&arguments.common, CASCADE_OPEN_NO_PREFAULT, &store);
    if (!result)
        result = cli_close(&store, put_block(store, &arguments));
    free(pieces[0].data);
    free(pieces[1].data);
    return result;
}

/* ---- get --------------------------------------------------------------------------------- */

typedef struct get_arguments {
    cli_common common;
    cli_block_name name;
    uint64_t tenant;
    const char *k_path;
    const char *v_path;
    bool has_range;
    uint64_t range_offset;
    uint64_t range_bytes;
} get_arguments;

static void parse_range(get_arguments *arguments, const char *text, struct argp_state *state)
{
    const char *colon = strchr(text, ':');
    char offset[64];

    if (!colon || (size_t)(colon - text) >= sizeof offset) {
        argp_error(state, "--range: '%.40s' is not OFFSET:LENGTH", text);
        return;
    }
    memcpy(offset, text, (size_t)(colon - text));
    offset[colon - text] = '\0';
    arguments->range_offset = cli_size_argument("--range, offset", offset, state);
    arguments->range_bytes = cli_size_argument("--range, length", colon + 1, state);
    arguments->has_range = true;
}

static error_t parse_get(int key, char *argument, struct argp_state *state)
{
    get_arguments *arguments = state->input;

    switch (key) {
    case 'k':
        arguments->k_path = argument;
        return 0;
    case 'v':
        arguments->v_path = argument;
        return 0;
    case BLOCK_TENANT:
        arguments->tenant = cascade_tenant(argument);
        return 0;
    case BLOCK_RANGE:
        parse_range(arguments, argument, state);
        return 0;
    case ARGP_KEY_ARG:
        if (arguments->name.text)
            argp_error(state, "one block at a time");
        arguments->name = cli_block_name_argument(argument, state);
        return 0;
    case ARGP_KEY_END:
        if (!arguments->name.text)
            argp_error(state, "which block? Give a key (64 hex digits) or a block id (32)");
        if (!arguments->k_path)
            argp_error(state, "where to? Give -k FILE");
        if (arguments->has_range && arguments->v_path)
            argp_error(state, "--range takes bytes of K and V as one run: it writes to -k alone");
        if (arguments->common.json && (strcmp(arguments->k_path, "-") == 0 ||
                                       (arguments->v_path && strcmp(arguments->v_path, "-") == 0)))
            argp_error(state, "--json and '-' both want standard output");
        return 0;
    default:
        return cli_parse_rest(key, argument, state, &arguments->common);
    }
}

static int report_block(int code, const get_arguments *arguments)
{
    if (code == CASCADE_MISS) {
        cli_say("no such block: %s", arguments->name.text);
        return CLI_NEGATIVE;
    }
    return cli_fail(code, "cannot read block %s", arguments->name.text);
}

/* Reads the bytes that are wanted to `buffer`: the whole block, or, of a key, the range alone. */
static int read_block(cascade_store *store, const get_arguments *arguments, const cascade_info *info,
                      uint8_t *buffer)
{
    const cascade_piece k = {buffer, info->k_bytes}, v = {buffer + info->k_bytes, info->v_bytes};
    const cascade_block into = {&k, 1, &v, 1};

    if (arguments->name.is_id)
        return cascade_content_get(store, arguments->tenant, &arguments->name.id, &into);
    if (arguments->has_range)
        return cascade_block_get_range(store, &arguments->name.key, arguments->range_offset,
                                       arguments->range_bytes, buffer);
    return cascade_block_get(store, &arguments->name.key, &into);
}

static int write_block(const get_arguments *arguments, const cascade_info *info, const uint8_t *buffer)
{
    int result;

    if (arguments->has_range) {
        if (arguments->name.is_id)
            buffer += arguments->range_offset;
        return cli_write_file(arguments->k_path, buffer, arguments->range_bytes);
    }
    result = cli_write_file(arguments->k_path, buffer, info->k_bytes);
    if (!result && arguments->v_path)
        result = cli_write_file(arguments->v_path, buffer + info->k_bytes, info->v_bytes);
    return result;
}

static json_t *block_json(const get_arguments *arguments, const cascade_info *info)
{
    char id[CASCADE_ID_TEXT_BYTES];

    cascade_id_format(&info->id, id);
    return json_pack("{s:o, s:I, s:I, s:I}", "id", info->has_id ? json_string(id) : json_null(),
                     "k_bytes", (json_int_t)info->k_bytes, "v_bytes", (json_int_t)info->v_bytes,
                     "written_bytes",
                     (json_int_t)(arguments->has_range ? arguments->range_bytes
                                  : arguments->v_path  ? info->k_bytes + info->v_bytes
                                                       : info->k_bytes));
}

static int get_block(cascade_store *store, const get_arguments *arguments)
{
    cascade_info info;
    uint64_t bytes;
    uint8_t *buffer;
    int code, result;

    code = arguments->name.is_id
               ? cascade_content_info(store, arguments->tenant, &arguments->name.id, &info)
               : cascade_block_info(store, &arguments->name.key, &info);
    if (code)
        return report_block(code, arguments);
    bytes = info.k_bytes + info.v_bytes;
    if (arguments->has_range &&
        (arguments->range_offset > bytes || arguments->range_bytes > bytes - arguments->range_offset)) {
        cli_say("the range leaves the block, which has %" PRIu64 " bytes", bytes);
        return CLI_USAGE;
    }
    if (arguments->has_range && !arguments->name.is_id)
        bytes = arguments->range_bytes;
    buffer = malloc(bytes ? bytes : 1);
    if (!buffer) {
        cli_say("no memory for the block's %s", cli_size_text(bytes));
        return CLI_STORE;
    }
    code = read_block(store, arguments, &info, buffer);
    result = code ? report_block(code, arguments) : write_block(arguments, &info, buffer);
    if (!result && arguments->common.json)
        result = cli_print_json(block_json(arguments, &info));
    free(buffer);
    return result;
}

int cli_get(int argc, char **argv)
{
    static const struct argp_option options[] = {
        {NULL, 'k', "FILE", 0, "Write K to FILE ('-': standard output)", 0},
        {NULL, 'v', "FILE", 0, "Write V to FILE", 0},
        {"range", BLOCK_RANGE, "OFF:LEN", 0, "Write only these bytes of K || V, to -k", 0},
        {"tenant", BLOCK_TENANT, "NAME", 0, "The tenant, for a get by block id", 0},
        {0},
    };
    static const struct argp_child children[] = {{&cli_store_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {
        options,  parse_get,
        "HEX",    "Reads a block into files. HEX of 64 digits is a key, of 32 a block id.",
        children, NULL,
        NULL};
    get_arguments arguments = {0};
    cascade_store *store;
    int result;

    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    result = cli_open(&arguments.common, CASCADE_OPEN_NO_PREFAULT, &store);
    return result ? result : cli_close(&store, get_block(store, &arguments));
}
