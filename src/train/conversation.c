/* From a sample's JSON to a conversation, whichever form it has. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/text_buffer.h"
#include "fastvlm/dataset.h"
#include "train/sample_files.h"

#define IMAGE_MARK "<image>"

static size_t count_marks(const char *text)
{
    size_t count = 0;
    for (const char *mark = text; (mark = strstr(mark, IMAGE_MARK)); mark += strlen(IMAGE_MARK))
        count++;
    return count;
}

/* `value` without its `<image>` and the blanks around it, behind as many `<image>` lines, as the published code does.
 * Left as it is where there is none. NULL when out of memory. */
static char *marks_first(const char *value)
{
    static const char blanks[] = " \t\r\n";
    size_t marks = count_marks(value);
    if (marks == 0)
        return fvlm_strdup(value);
    fvlm_text_buffer bare = {0}, text = {0};
    const char *at = value;
    for (const char *next; (next = strstr(at, IMAGE_MARK)); at = next + strlen(IMAGE_MARK))
        fvlm_text_append(&bare, at, (size_t)(next - at));
    fvlm_text_append_string(&bare, at);
    for (size_t i = 0; i < marks; i++)
        fvlm_text_append_string(&text, IMAGE_MARK "\n");
    size_t start = 0, end = bare.failed ? 0 : bare.length;
    while (end > 0 && strchr(blanks, bare.data[end - 1]))
        end--;
    while (start < end && strchr(blanks, bare.data[start]))
        start++;
    if (end > start)
        fvlm_text_append(&text, bare.data + start, end - start);
    if (bare.failed)
        text.failed = true;
    fvlm_text_clear(&bare);
    return fvlm_text_take(&text);
}

static fvlm_status read_images(const json_t *object, fvlm_conversation *made, fvlm_error *error)
{
    const json_t *image = json_object_get(object, "image");
    if (!image || json_is_null(image))
        image = json_object_get(object, "images");
    if (image && !json_is_null(image) && !json_is_array(image) && !json_is_string(image))
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "\"image\" is neither a name nor a list of names");
    size_t count = json_is_array(image) ? json_array_size(image) : json_is_string(image);
    made->images = fvlm_calloc(count + 1, sizeof *made->images);
    if (!made->images)
        return fvlm_fail_memory(error);
    for (size_t i = 0; i < count; i++) {
        const json_t *name = json_is_array(image) ? json_array_get(image, i) : image;
        if (!(made->images[i] = json_string_value(name)))
            return fvlm_fail(error, FVLM_ERROR_FORMAT, "an \"image\" is not a name");
    }
    made->image_count = count;
    return FVLM_OK;
}

/* The text of a `messages` content: a string, or parts {"type": "text", "text": ...} and {"type": "image"}. NULL where
 * it is neither. */
static char *read_content(const json_t *content)
{
    if (json_is_string(content))
        return fvlm_strdup(json_string_value(content));
    fvlm_text_buffer text = {0};
    fvlm_text_append_string(&text, "");
    for (size_t i = 0; i < json_array_size(content); i++) {
        const json_t *part = json_array_get(content, i);
        const char *type = json_string_value(json_object_get(part, "type"));
        const char *words = json_string_value(json_object_get(part, "text"));
        if (type && strcmp(type, "text") == 0 && words) {
            fvlm_text_append_string(&text, words);
        } else if (type && strncmp(type, "image", strlen("image")) == 0) {
            fvlm_text_append_string(&text, IMAGE_MARK);
        } else {
            fvlm_text_clear(&text);
            return NULL;
        }
    }
    if (!json_is_array(content)) {
        fvlm_text_clear(&text);
        return NULL;
    }
    return fvlm_text_take(&text);
}

static bool is_one_of(const char *text, const char *a, const char *b)
{
    return text && (strcmp(text, a) == 0 || strcmp(text, b) == 0);
}

static fvlm_status read_turns(const json_t *object, fvlm_conversation *made, fvlm_error *error)
{
    const json_t *list = json_object_get(object, "conversations");
    bool messages = !json_is_array(list);
    if (messages)
        list = json_object_get(object, "messages");
    if (!json_is_array(list))
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "there is neither a list \"conversations\" nor \"messages\"");
    const char *role_field = messages ? "role" : "from", *text_field = messages ? "content" : "value";
    size_t first = 0, count = json_array_size(list), placed = 0;
    const json_t *opening = json_array_get(list, 0);
    const char *opening_role = json_string_value(json_object_get(opening, role_field));
    if (opening_role && strcmp(opening_role, "system") == 0) {
        made->system = json_string_value(json_object_get(opening, text_field));
        if (!made->system)
            return fvlm_fail(error, FVLM_ERROR_FORMAT, "the system turn's \"%s\" is not a text", text_field);
        first = 1;
    }
    if (count - first == 0 || (count - first) % 2 != 0)
        return fvlm_fail(error, FVLM_ERROR_FORMAT,
                         "a conversation is a list of questions, each followed by its answer, and this one has %zu "
                         "turns",
                         count - first);
    made->turns = fvlm_calloc(count, sizeof *made->turns);
    if (!made->turns)
        return fvlm_fail_memory(error);
    for (size_t i = first; i < count; i++) {
        const json_t *turn = json_array_get(list, i);
        const char *from = json_string_value(json_object_get(turn, role_field));
        const json_t *value = json_object_get(turn, text_field);
        bool user = (i - first) % 2 == 0;
        if (!from || !(user ? is_one_of(from, "human", "user") : is_one_of(from, "gpt", "assistant")))
            return fvlm_fail(error, FVLM_ERROR_FORMAT, "turn %zu is from \"%s\" where it is \"%s\"'s turn", i + 1,
                             from ? from : "", user ? (messages ? "user" : "human") : (messages ? "assistant" : "gpt"));
        char *raw = messages || json_is_string(value) ? read_content(value) : NULL;
        if (!raw)
            return fvlm_fail(error, FVLM_ERROR_FORMAT, "turn %zu has no text in \"%s\"", i + 1, text_field);
        placed += user ? count_marks(raw) : 0;
        bool stray = !user && count_marks(raw) > 0, empty = !user && !*raw;
        char *text = marks_first(raw);
        free(raw);
        made->turns[made->turn_count++] = (fvlm_turn){user ? "user" : "assistant", text};
        if (!text)
            return fvlm_fail_memory(error);
        if (stray || empty)
            return fvlm_fail(error, FVLM_ERROR_FORMAT, "the answer in turn %zu %s", i + 1,
                             empty ? "is empty" : "has an <image>");
    }
    if (placed != made->image_count)
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "%zu pictures are given and %zu <image> are in the questions",
                         made->image_count, placed);
    return FVLM_OK;
}

static fvlm_status read_id(const json_t *object, fvlm_conversation *made, fvlm_error *error)
{
    const json_t *id = json_object_get(object, "id");
    id = id ? id : json_object_get(object, "question_id");
    fvlm_text_buffer text = {0};
    if (json_is_string(id))
        fvlm_text_append_string(&text, json_string_value(id));
    else if (json_is_integer(id))
        fvlm_text_format(&text, "%lld", (long long)json_integer_value(id));
    else
        return FVLM_OK;
    made->id = fvlm_text_take(&text);
    return made->id ? FVLM_OK : fvlm_fail_memory(error);
}

/* "answers": texts, or {"answer": text} as VQA's annotations have them. */
static fvlm_status read_answers(const json_t *object, fvlm_conversation *made, fvlm_error *error)
{
    const json_t *list = json_object_get(object, "answers");
    size_t count = json_array_size(list);
    if (list && !json_is_array(list))
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "\"answers\" is not a list");
    made->answers = fvlm_calloc(count + 1, sizeof *made->answers);
    if (!made->answers)
        return fvlm_fail_memory(error);
    for (size_t i = 0; i < count; i++) {
        const json_t *answer = json_array_get(list, i);
        const char *text = json_string_value(json_is_object(answer) ? json_object_get(answer, "answer") : answer);
        if (!text)
            return fvlm_fail(error, FVLM_ERROR_FORMAT, "\"answers\" has something that is not a text");
        made->answers[made->answer_count++] = text;
    }
    return FVLM_OK;
}

static fvlm_status read_conversation(const json_t *object, fvlm_conversation *made, fvlm_error *error)
{
    static const char *const kind_fields[] = {"type", "kind", "category", "question_type"};
    if (!json_is_object(object))
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "it is not a JSON object");
    for (size_t i = 0; !made->kind && i < sizeof kind_fields / sizeof *kind_fields; i++)
        made->kind = json_string_value(json_object_get(object, kind_fields[i]));
    fvlm_status status = read_id(object, made, error);
    if (!status)
        status = read_answers(object, made, error);
    if (!status)
        status = read_images(object, made, error);
    return status ? status : read_turns(object, made, error);
}

fvlm_status fvlm_dataset_read(const fvlm_dataset *dataset, size_t index, fvlm_conversation *conversation,
                              fvlm_error *error)
{
    *conversation = (fvlm_conversation){0};
    json_t *object;
    fvlm_status status = fvlm_dataset_parse(dataset, index, &object, error);
    if (status)
        return status;
    conversation->source = object;
    fvlm_error inner;
    status = read_conversation(object, conversation, &inner);
    if (status) {
        char name[FVLM_DATASET_NAME];
        fvlm_dataset_name(dataset, index, name, sizeof name);
        fvlm_fail(error, status, "%s: %s", name, inner.message);
        fvlm_conversation_clear(conversation);
    }
    return status;
}

void fvlm_conversation_clear(fvlm_conversation *conversation)
{
    for (size_t i = 0; i < conversation->turn_count; i++)
        free((char *)(uintptr_t)conversation->turns[i].text);
    free(conversation->turns);
    free((void *)conversation->images);
    free((void *)conversation->answers);
    free(conversation->id);
    json_decref(conversation->source);
    *conversation = (fvlm_conversation){0};
}
