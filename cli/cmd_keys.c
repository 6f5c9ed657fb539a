/* SPDX-License-Identifier: MIT */
/* The commands that handle names alone: match, ls, delete. */
#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct names_arguments {
    cli_common common;
    uint64_t tenant;
    bool keys_only;
    cli_block_name *names;
    size_t count;
} names_arguments;

enum { NAMES_TENANT = 0x2000 };

static error_t parse_names(int key, char *argument, struct argp_state *state)
{
    names_arguments *arguments = state->input;

    switch (key) {
    case NAMES_TENANT:
        arguments->tenant = cascade_tenant(argument);
        return 0;
    case ARGP_KEY_ARG:
        if (!arguments->names)
            arguments->names = calloc((size_t)state->argc, sizeof *arguments->names);
        if (!arguments->names)
            return ENOMEM;
        arguments->names[arguments->count] = cli_block_name_argument(argument, state);
        if (arguments->keys_only && arguments->names[arguments->count].is_id)
            argp_error(state, "'%s' is a block id; a prefix is made of keys (64 hex digits)", argument);
        arguments->count++;
        return 0;
    case ARGP_KEY_NO_ARGS:
        argp_error(state, "give at least one name in hex");
        return EINVAL;
    default:
        return cli_parse_rest(key, argument, state, &arguments->common);
    }
}

static const struct argp_child store_children[] = {{&cli_store_argp, 0, NULL, 0}, {0}};

/* ---- match ------------------------------------------------------------------------------- */

static int match_keys(cascade_store *store, const names_arguments *arguments)
{
    cascade_key *keys = calloc(arguments->count, sizeof *keys);
    size_t matched = 0;
    int code, result = CLI_OK;

    if (!keys) {
        cli_say("no memory for %zu keys", arguments->count);
        return CLI_STORE;
    }
    for (size_t i = 0; i < arguments->count; i++)
        keys[i] = arguments->names[i].key;
    code = cascade_prefix_match(store, keys, arguments->count, &matched);
    if (!code)
        code = cascade_prefix_release(store, keys, matched);
    free(keys);
    if (code)
        return cli_fail(code, "cannot match");
    if (arguments->common.json)
        result = cli_print_json(json_pack("{s:I, s:I}", "matched", (json_int_t)matched, "keys",
                                          (json_int_t)arguments->count));
    else
        printf("%zu\n", matched);
    return result ? result : matched ? CLI_OK : CLI_NEGATIVE;
}

int cli_match(int argc, char **argv)
{
    static const struct argp argp = {
        NULL,
        parse_names,
        "KEY...",
        "Prints how many leading keys are present. Fails (1) if not even the first is.",
        store_children,
        NULL,
        NULL};
    names_arguments arguments = {.keys_only = true};
    cascade_store *store;
    int result;

    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    result = cli_open(&arguments.common, CASCADE_OPEN_NO_PREFAULT, &store);
    if (!result)
        result = cli_close(&store, match_keys(store, &arguments));
    free(arguments.names);
    return result;
}

/* ---- ls ---------------------------------------------------------------------------------- */

static json_t *entry_json(const char *key, const char *id, const cascade_info *info)
{
    char tenant[17], parent[2 * CASCADE_KEY_BYTES + 1];
    json_t *tiers = json_array();

    if (info->in_dram)
        json_array_append_new(tiers, json_string("dram"));
    if (info->in_file)
        json_array_append_new(tiers, json_string("file"));
    snprintf(tenant, sizeof tenant, "%016" PRIx64, info->tenant); /* JSON numbers end at 2^53 for many */
    cascade_key_format(&info->parent, parent);
    return json_pack("{s:s, s:o, s:I, s:I, s:o, s:I, s:s, s:o}", "key", key, "id",
                     info->has_id ? json_string(id) : json_null(), "k_bytes", (json_int_t)info->k_bytes,
                     "v_bytes", (json_int_t)info->v_bytes, "tiers", tiers, "references",
                     (json_int_t)info->references, "tenant", tenant, "parent",
                     info->has_parent ? json_string(parent) : json_null());
}

/* One array, written as it comes: a store may have millions of keys. */
static void print_entry(bool json, uint64_t number, const cascade_key *name, const cascade_info *info)
{
    char key[2 * CASCADE_KEY_BYTES + 1], id[CASCADE_ID_TEXT_BYTES];
    json_t *entry;

    cascade_key_format(name, key);
    cascade_id_format(&info->id, id);
    if (!json) {
        printf("%s %-32s %12" PRIu64 " %12" PRIu64 " %s%s%s\n", key, info->has_id ? id : "-",
               info->k_bytes, info->v_bytes, info->in_dram ? "dram" : "",
               info->in_dram && info->in_file ? "+" : "", info->in_file ? "file" : "");
        return;
    }
    entry = entry_json(key, id, info);
    fputs(number ? ",\n  " : "\n  ", stdout);
    if (entry)
        json_dumpf(entry, stdout, 0);
    json_decref(entry);
}

int cli_ls(int argc, char **argv)
{
    cli_common common = cli_plain_arguments(
        "Lists the keys: key, block id ('-' while not yet computed), bytes of K and of V, tiers.", argc,
        argv);
    cascade_store *store;
    cascade_info info;
    cascade_key key;
    uint64_t cursor = 0, number = 0;
    int code, result;

    result = cli_open(&common, CASCADE_OPEN_NO_PREFAULT, &store);
    if (result)
        return result;
    if (common.json)
        putchar('[');
    while ((code = cascade_key_next(store, &cursor, &key, &info)) == 0 && !cli_stop_signal() &&
           !ferror(stdout))
        print_entry(common.json, number++, &key, &info);
    if (common.json)
        fputs(number ? "\n]\n" : "]\n", stdout);
    if (code < 0)
        result = cli_fail(code, "cannot list the keys");
    return cli_close(&store, result);
}

/* ---- delete ------------------------------------------------------------------------------ */

static int delete_names(cascade_store *store, const names_arguments *arguments)
{
    json_t *missing = json_array();
    json_int_t deleted = 0;
    int result = CLI_OK;

    for (size_t i = 0; i < arguments->count && !cli_stop_signal(); i++) {
        const cli_block_name *name = &arguments->names[i];
        int code = name->is_id ? cascade_content_delete(store, arguments->tenant, &name->id)
                               : cascade_block_delete(store, &name->key);

        if (code == CASCADE_MISS) {
            cli_say("no such block: %s", name->text);
            json_array_append_new(missing, json_string(name->text));
            result = CLI_NEGATIVE;
        } else if (code) {
            result = cli_fail(code, "cannot delete %s", name->text);
            break;
        } else {
            deleted++;
        }
    }
    if (arguments->common.json)
        cli_print_json(json_pack("{s:I, s:O}", "deleted", deleted, "missing", missing));
    json_decref(missing);
    return result;
}

int cli_delete(int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"tenant", NAMES_TENANT, "NAME", 0, "The tenant, for block ids", 0},
        {0},
    };
    static const struct argp argp = {options,
                                     parse_names,
                                     "HEX...",
                                     "Removes keys (64 hex digits), or the references of puts by "
                                     "content (block ids, 32). A content goes "
                                     "when nothing refers to it.",
                                     store_children,
                                     NULL,
                                     NULL};
    names_arguments arguments = {0};
    cascade_store *store;
    int result;

    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    result = cli_open(&arguments.common, CASCADE_OPEN_NO_PREFAULT, &store);
    if (!result)
        result = cli_close(&store, delete_names(store, &arguments));
    free(arguments.names);
    return result;
}
