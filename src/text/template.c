/* Conversations to prompts. The prompt is
 *
 *     system block, then for every turn its role's prefix, text and suffix, or the role's `open` where text is missing
 *
 * with the example turns of the template in front of the caller's. As in the published code an empty text counts as
 * missing. */
#include "text/template.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/text_buffer.h"

#define DEFAULT_TEMPLATE "qwen_2"

struct writer {
    const fvlm_template *made;
    const char *system;
    fvlm_text_buffer prompt;
    size_t place; /* turns written so far */
};

static void write_system(struct writer *writer)
{
    const fvlm_template *made = writer->made;
    if (!*writer->system && !made->keep_empty_system)
        return;
    fvlm_text_append_string(&writer->prompt, made->system_prefix);
    fvlm_text_append_string(&writer->prompt, writer->system);
    fvlm_text_append_string(&writer->prompt, made->system_suffix);
}

static fvlm_status write_turn(struct writer *writer, const fvlm_turn *turn, fvlm_error *error)
{
    const fvlm_template *made = writer->made;
    bool user = turn->role && strcmp(turn->role, "user") == 0;
    if (!user && (!turn->role || strcmp(turn->role, "assistant") != 0))
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "turn %zu has the role \"%s\"; it must be user or assistant",
                         writer->place + 1, turn->role ? turn->role : "");
    bool first = writer->place == 0, has_text = turn->text && *turn->text;
    if (first && made->user_first && !(user && has_text))
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT,
                         "with this template the first turn must be the user's and must have a text");

    bool even = writer->place % 2 == 0;
    const fvlm_template_role *role = user ? &made->user : &made->assistant;
    const fvlm_template_role *by_place = even ? &made->user : &made->assistant;
    const char *suffix = made->order == FVLM_TEMPLATE_BY_ROLE ? role->suffix : by_place->suffix;
    if (made->order == FVLM_TEMPLATE_ALL_BY_PLACE)
        role = by_place;

    fvlm_text_buffer *prompt = &writer->prompt;
    writer->place++;
    if (!has_text) {
        fvlm_text_append_string(prompt, role->open);
        return FVLM_OK;
    }
    fvlm_text_append_string(prompt, first && made->first_prefix ? made->first_prefix : role->prefix);
    if (first && made->system_in_first_turn)
        write_system(writer);
    fvlm_text_append_string(prompt, turn->text);
    fvlm_text_append_string(prompt, suffix);
    return FVLM_OK;
}

fvlm_status fvlm_template_fill(const fvlm_template *made, const char *system, const fvlm_turn *turns, size_t count,
                               char **prompt, fvlm_error *error)
{
    *prompt = NULL;
    struct writer writer = {.made = made, .system = system ? system : made->system};
    if (!made->system_in_first_turn)
        write_system(&writer);
    fvlm_status status = FVLM_OK;
    for (size_t i = 0; !status && i < made->turn_count; i++)
        status = write_turn(&writer, &made->turns[i], error);
    for (size_t i = 0; !status && i < count; i++)
        status = write_turn(&writer, &turns[i], error);
    if (!status && !(*prompt = fvlm_text_take(&writer.prompt)))
        status = fvlm_fail_memory(error);
    fvlm_text_clear(&writer.prompt);
    return status;
}

/* The template of this name or path; *file is to be closed when done and NULL for a published one. */
static fvlm_status find(const char *name, const fvlm_template **made, fvlm_template_file **file, fvlm_error *error)
{
    *file = NULL;
    *made = fvlm_template_find(name ? name : DEFAULT_TEMPLATE);
    if (*made)
        return FVLM_OK;
    if (!fvlm_file_exists(name)) {
        size_t count;
        const char *const *names = fvlm_template_names(&count);
        fvlm_text_buffer list = {0};
        for (size_t i = 0; i < count; i++)
            fvlm_text_format(&list, "%s%s", i ? ", " : "", names[i]);
        fvlm_status status = fvlm_fail(error, FVLM_ERROR_ARGUMENT, "no template \"%s\", neither a file nor one of %s",
                                       name, list.failed ? "the published names" : list.data);
        fvlm_text_clear(&list);
        return status;
    }
    fvlm_status status = fvlm_template_file_open(name, file, error);
    if (!status)
        *made = fvlm_template_file_template(*file);
    return status;
}

fvlm_status fvlm_template_render(const char *name, const char *system, const fvlm_turn *turns, size_t count,
                                 char **prompt, fvlm_error *error)
{
    *prompt = NULL;
    const fvlm_template *made;
    fvlm_template_file *file;
    fvlm_status status = find(name, &made, &file, error);
    if (!status)
        status = fvlm_template_fill(made, system, turns, count, prompt, error);
    fvlm_template_file_close(&file);
    return status;
}

fvlm_status fvlm_template_stops(const char *name, char ***stops, size_t *count, fvlm_error *error)
{
    *stops = NULL;
    *count = 0;
    const fvlm_template *made;
    fvlm_template_file *file;
    fvlm_status status = find(name, &made, &file, error);
    if (status)
        return status;
    /* One block: the pointers, then the texts. */
    size_t bytes = made->stop_count * sizeof(char *);
    for (size_t i = 0; i < made->stop_count; i++)
        bytes += strlen(made->stops[i]) + 1;
    char **list = fvlm_calloc(bytes, 1);
    if (list) {
        char *text = (char *)(list + made->stop_count);
        for (size_t i = 0; i < made->stop_count; i++) {
            size_t length = strlen(made->stops[i]) + 1;
            list[i] = memcpy(text, made->stops[i], length);
            text += length;
        }
        *stops = list;
        *count = made->stop_count;
    } else {
        status = fvlm_fail_memory(error);
    }
    fvlm_template_file_close(&file);
    return status;
}
