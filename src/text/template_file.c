/* A user's template: a JSON object of the strings in text/template.h, described in docs/templates.md. Every string may
 * be left out; a key that is not known is an error, since a misspelt one would silently change every prompt. The
 * template's strings are those of the parsed object, which lives as long as the file. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/file.h"
#include "base/memory.h"
#include "text/template.h"

#define MAX_FILE ((size_t)1 << 20)

struct fvlm_template_file {
    fvlm_template made;
    json_t *json;
    fvlm_turn *turns;
    const char **stops;
};

/* Keys with a string, and where it goes. */
static const struct string_key {
    const char *key;
    size_t offset; /* of the const char * in fvlm_template */
} string_keys[] = {
    {"system_prefix", offsetof(fvlm_template, system_prefix)},
    {"system", offsetof(fvlm_template, system)},
    {"system_suffix", offsetof(fvlm_template, system_suffix)},
    {"first_prefix", offsetof(fvlm_template, first_prefix)},
    {"user_prefix", offsetof(fvlm_template, user.prefix)},
    {"user_suffix", offsetof(fvlm_template, user.suffix)},
    {"user_open", offsetof(fvlm_template, user.open)},
    {"assistant_prefix", offsetof(fvlm_template, assistant.prefix)},
    {"assistant_suffix", offsetof(fvlm_template, assistant.suffix)},
    {"assistant_open", offsetof(fvlm_template, assistant.open)},
};

/* Keys with true or false. */
static const struct flag_key {
    const char *key;
    size_t offset; /* of the bool in fvlm_template */
} flag_keys[] = {
    {"keep_empty_system", offsetof(fvlm_template, keep_empty_system)},
    {"system_in_first_turn", offsetof(fvlm_template, system_in_first_turn)},
};

#define ARRAY_COUNT(array) (sizeof(array) / sizeof *(array))

void fvlm_template_file_close(fvlm_template_file **file)
{
    if (!*file)
        return;
    json_decref((*file)->json);
    free((*file)->turns);
    free((*file)->stops);
    free(*file);
    *file = NULL;
}

const fvlm_template *fvlm_template_file_template(const fvlm_template_file *file)
{
    return &file->made;
}

static fvlm_status wrong_type(const char *name, const char *key, const char *wanted, fvlm_error *error)
{
    return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: \"%s\" must be %s", name, key, wanted);
}

/* "stop": ["text", ...] */
static fvlm_status read_stops(fvlm_template_file *file, const json_t *list, const char *name, fvlm_error *error)
{
    static const char wanted[] = "a list of texts that are not empty";
    if (!json_is_array(list))
        return wrong_type(name, "stop", wanted, error);
    file->stops = fvlm_calloc(json_array_size(list), sizeof *file->stops);
    if (!file->stops)
        return fvlm_fail_memory(error);
    for (size_t i = 0; i < json_array_size(list); i++) {
        file->stops[i] = json_string_value(json_array_get(list, i));
        if (!file->stops[i] || !*file->stops[i])
            return wrong_type(name, "stop", wanted, error);
    }
    file->made.stops = file->stops;
    file->made.stop_count = json_array_size(list);
    return FVLM_OK;
}

/* "turns": [["user", "text"], ["assistant", "text"], ...] */
static fvlm_status read_turns(fvlm_template_file *file, const json_t *list, const char *name, fvlm_error *error)
{
    static const char wanted[] = "a list of [\"user\" or \"assistant\", text]";
    if (!json_is_array(list))
        return wrong_type(name, "turns", wanted, error);
    file->turns = fvlm_calloc(json_array_size(list), sizeof *file->turns);
    if (!file->turns)
        return fvlm_fail_memory(error);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *turn = json_array_get(list, i);
        const char *role = json_string_value(json_array_get(turn, 0));
        const char *text = json_string_value(json_array_get(turn, 1));
        if (json_array_size(turn) != 2 || !text || !role ||
            (strcmp(role, "user") != 0 && strcmp(role, "assistant") != 0))
            return wrong_type(name, "turns", wanted, error);
        file->turns[i] = (fvlm_turn){role, text};
    }
    file->made.turns = file->turns;
    file->made.turn_count = json_array_size(list);
    return FVLM_OK;
}

static fvlm_status read_key(fvlm_template_file *file, const char *key, const json_t *value, const char *name,
                            fvlm_error *error)
{
    char *made = (char *)&file->made;
    for (size_t i = 0; i < ARRAY_COUNT(string_keys); i++) {
        if (strcmp(key, string_keys[i].key) != 0)
            continue;
        if (!json_is_string(value))
            return wrong_type(name, key, "a text", error);
        *(const char **)(void *)(made + string_keys[i].offset) = json_string_value(value);
        return FVLM_OK;
    }
    for (size_t i = 0; i < ARRAY_COUNT(flag_keys); i++) {
        if (strcmp(key, flag_keys[i].key) != 0)
            continue;
        if (!json_is_boolean(value))
            return wrong_type(name, key, "true or false", error);
        *(bool *)(void *)(made + flag_keys[i].offset) = json_is_true(value);
        return FVLM_OK;
    }
    if (strcmp(key, "description") == 0)
        return json_is_string(value) ? FVLM_OK : wrong_type(name, key, "a text", error);
    if (strcmp(key, "stop") == 0)
        return read_stops(file, value, name, error);
    if (strcmp(key, "turns") == 0)
        return read_turns(file, value, name, error);
    return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: \"%s\" is no key of a template; docs/templates.md lists them", name,
                     key);
}

/* What is not in the file: prefixes and suffixes are empty, an open turn is its prefix. */
static void fill_in(fvlm_template *made)
{
    const char **strings[] = {&made->system_prefix, &made->system,           &made->system_suffix,   &made->user.prefix,
                              &made->user.suffix,   &made->assistant.prefix, &made->assistant.suffix};
    for (size_t i = 0; i < ARRAY_COUNT(strings); i++)
        if (!*strings[i])
            *strings[i] = "";
    if (!made->user.open)
        made->user.open = made->user.prefix;
    if (!made->assistant.open)
        made->assistant.open = made->assistant.prefix;
}

fvlm_status fvlm_template_file_parse(const char *json, size_t bytes, const char *name, fvlm_template_file **file,
                                     fvlm_error *error)
{
    *file = fvlm_calloc(1, sizeof **file);
    if (!*file)
        return fvlm_fail_memory(error);
    json_error_t problem;
    fvlm_status status = FVLM_OK;
    (*file)->json = json_loadb(json, bytes, JSON_REJECT_DUPLICATES, &problem);
    if (!(*file)->json)
        status = fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: %s (line %d)", name, problem.text, problem.line);
    else if (!json_is_object((*file)->json))
        status = fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: a template is a JSON object", name);
    const char *key;
    json_t *value;
    json_object_foreach((*file)->json, key, value)
    {
        if (!status)
            status = read_key(*file, key, value, name, error);
    }
    if (!status && !json_object_get((*file)->json, "user_prefix") && !json_object_get((*file)->json, "user_suffix"))
        status = fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: a template needs \"user_prefix\" or \"user_suffix\"", name);
    if (status)
        fvlm_template_file_close(file);
    else
        fill_in(&(*file)->made);
    return status;
}

fvlm_status fvlm_template_file_open(const char *path, fvlm_template_file **file, fvlm_error *error)
{
    *file = NULL;
    char *json;
    size_t bytes;
    fvlm_status status = fvlm_file_read(path, MAX_FILE, &json, &bytes, error);
    if (status)
        return status;
    status = fvlm_template_file_parse(json, bytes, path, file, error);
    free(json);
    return status;
}
