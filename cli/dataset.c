/* Loading LLaVA-format files and reading their samples. */
#include "dataset.h"

#include <stdlib.h>
#include <string.h>

#include "answer.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text_buffer.h"

static const size_t max_file_bytes = (size_t)2 << 30;

static fvlm_status load_lines(const char *path, char *text, json_t *samples, fvlm_error *error)
{
    size_t number = 0;
    for (char *line = text, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        number++;
        if (line[strspn(line, " \t\r")] == '\0')
            continue;
        json_error_t where;
        json_t *sample = json_loads(line, JSON_REJECT_DUPLICATES, &where);
        if (!sample)
            return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s, line %zu: %s", path, number, where.text);
        json_array_append_new(samples, sample);
    }
    return FVLM_OK;
}

fvlm_status cli_dataset_load(const char *path, json_t **samples, fvlm_error *error)
{
    char *text;
    size_t bytes;
    *samples = NULL;
    fvlm_status status = fvlm_file_read(path, max_file_bytes, &text, &bytes, error);
    if (status)
        return status;
    json_error_t where;
    json_t *list = NULL;
    if (text[strspn(text, " \t\r\n")] == '[') {
        list = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &where);
        if (!list)
            status = fvlm_fail(error, FVLM_ERROR_FORMAT, "%s, line %d: %s", path, where.line, where.text);
    } else {
        list = json_array();
        status = list ? load_lines(path, text, list, error) : fvlm_fail_memory(error);
    }
    free(text);
    if (status == FVLM_OK && json_array_size(list) == 0)
        status = fvlm_fail(error, FVLM_ERROR_FORMAT, "%s has no samples", path);
    if (status == FVLM_OK)
        *samples = list;
    else
        json_decref(list);
    return status;
}

static fvlm_status read_id(const json_t *object, size_t index, cli_sample *sample, fvlm_error *error)
{
    const json_t *id = json_object_get(object, "id");
    fvlm_text_buffer text = {0};
    if (json_is_string(id))
        fvlm_text_append_string(&text, json_string_value(id));
    else if (json_is_integer(id))
        fvlm_text_format(&text, "%lld", (long long)json_integer_value(id));
    else
        fvlm_text_format(&text, "#%zu", index + 1);
    sample->id = fvlm_text_take(&text);
    return sample->id ? FVLM_OK : fvlm_fail_memory(error);
}

static fvlm_status read_images(const json_t *object, cli_sample *sample, fvlm_error *error)
{
    const json_t *image = json_object_get(object, "image");
    size_t count = json_is_array(image) ? json_array_size(image) : json_is_string(image);
    if (image && !json_is_null(image) && !json_is_array(image) && !json_is_string(image))
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "sample %s: \"image\" is neither a name nor a list of names",
                         sample->id);
    sample->images = fvlm_calloc(count + 1, sizeof *sample->images);
    if (!sample->images)
        return fvlm_fail_memory(error);
    for (size_t i = 0; i < count; i++) {
        const json_t *name = json_is_array(image) ? json_array_get(image, i) : image;
        if (!(sample->images[i] = json_string_value(name)))
            return fvlm_fail(error, FVLM_ERROR_FORMAT, "sample %s: an \"image\" is not a name", sample->id);
    }
    sample->image_count = count;
    return FVLM_OK;
}

/* `value` without its `<image>` and the blanks around it, behind as many `<image>` lines. NULL when out of memory. */
static char *placeholders_first(const char *value)
{
    static const char placeholder[] = "<image>", blanks[] = " \t\r\n";
    fvlm_text_buffer bare = {0}, text = {0};
    for (const char *at = value, *next;; at = next + sizeof placeholder - 1) {
        next = strstr(at, placeholder);
        fvlm_text_append(&bare, at, next ? (size_t)(next - at) : strlen(at));
        if (!next)
            break;
        fvlm_text_format(&text, "%s\n", placeholder);
    }
    size_t length = bare.failed ? 0 : bare.length, start = 0;
    while (length > 0 && strchr(blanks, bare.data[length - 1]))
        length--;
    while (start < length && strchr(blanks, bare.data[start]))
        start++;
    if (length > 0)
        fvlm_text_append(&text, bare.data + start, length - start);
    else
        fvlm_text_append(&text, "", 0);
    bool failed = bare.failed;
    fvlm_text_clear(&bare);
    char *made = fvlm_text_take(&text);
    if (failed) {
        free(made);
        made = NULL;
    }
    return made;
}

static fvlm_status read_turns(const json_t *object, cli_sample *sample, fvlm_error *error)
{
    const json_t *list = json_object_get(object, "conversations");
    size_t count = json_array_size(list), placed = 0;
    if (count == 0 || count % 2 != 0)
        return fvlm_fail(error, FVLM_ERROR_FORMAT,
                         "sample %s: \"conversations\" has to be a list of questions, each followed by its answer",
                         sample->id);
    sample->turns = fvlm_calloc(count, sizeof *sample->turns);
    if (!sample->turns)
        return fvlm_fail_memory(error);
    sample->turn_count = count;
    for (size_t i = 0; i < count; i++) {
        const json_t *turn = json_array_get(list, i);
        const char *from = json_string_value(json_object_get(turn, "from"));
        const char *value = json_string_value(json_object_get(turn, "value"));
        bool human = from && (strcmp(from, "human") == 0 || strcmp(from, "user") == 0);
        bool model = from && (strcmp(from, "gpt") == 0 || strcmp(from, "assistant") == 0);
        if (!value || !(i % 2 == 0 ? human : model))
            return fvlm_fail(error, FVLM_ERROR_FORMAT, "sample %s: turn %zu is not a \"value\" from \"%s\"", sample->id,
                             i + 1, i % 2 == 0 ? "human" : "gpt");
        size_t here = human ? cli_placeholders(value) : 0;
        placed += here;
        char *text = here ? placeholders_first(value) : fvlm_strdup(value);
        sample->turns[i] = (fvlm_turn){human ? "user" : "assistant", text};
        if (!text)
            return fvlm_fail_memory(error);
    }
    if (placed != sample->image_count)
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "sample %s has %zu pictures but %zu <image> in its questions",
                         sample->id, sample->image_count, placed);
    return FVLM_OK;
}

fvlm_status cli_sample_read(const json_t *samples, size_t index, cli_sample *sample, fvlm_error *error)
{
    static const char *const kind_fields[] = {"type", "kind", "category"};
    const json_t *object = json_array_get(samples, index);
    *sample = (cli_sample){0};
    fvlm_status status = read_id(object, index, sample, error);
    if (status == FVLM_OK)
        status = read_images(object, sample, error);
    if (status == FVLM_OK)
        status = read_turns(object, sample, error);
    for (size_t i = 0; status == FVLM_OK && !sample->kind && i < 3; i++)
        sample->kind = json_string_value(json_object_get(object, kind_fields[i]));
    if (status)
        cli_sample_clear(sample);
    return status;
}

void cli_sample_clear(cli_sample *sample)
{
    for (size_t i = 0; i < sample->turn_count; i++)
        free((char *)sample->turns[i].text);
    free(sample->turns);
    free((void *)sample->images);
    free(sample->id);
    *sample = (cli_sample){0};
}
