/* Reading a tokenizer from the files of a checkpoint.
 *
 * tokenizer.json says everything: vocabulary, merges, normaliser, split patterns, added tokens. Only the components
 * that byte-level BPE tokenizers use are known; another one is an error, for a wrong token is worse than none.
 * Without it, vocab.json and merges.txt are read, and what they do not say is Qwen2's. In both cases
 * tokenizer_config.json adds to and corrects the added tokens, as transformers does it.
 *
 * The vocabulary and the merges are streamed (text/json_stream.h); everything small goes through jansson. */
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/memory.h"
#include "text/json_stream.h"
#include "text/tokenizer_parts.h"

#define MAX_FILE ((size_t)256 << 20)      /* tokenizer.json, vocab.json, merges.txt; Qwen2's has 11 MB */
#define MAX_SMALL_FILE ((size_t)16 << 20) /* the others */
#define MAX_COMPONENT_DEPTH 4             /* of Sequences in Sequences */

/* The split pattern that the ByteLevel pre-tokenizer (GPT-2's) comes with; interface data of those models. */
#define GPT2_PATTERN "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/* The special tokens that every Qwen2 vocabulary is followed by, for a folder that names none. */
static const char *const qwen2_special[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};

/* A part of a file that is being read, for errors. */
struct source {
    const char *name; /* the file's path */
    fvlm_error *error;
};

static fvlm_status bad(const struct source *source, const char *what)
{
    return fvlm_fail(source->error, FVLM_ERROR_FORMAT, "%s: %s", source->name, what);
}

static fvlm_status unsupported(const struct source *source, const char *part, const char *what)
{
    return fvlm_fail(source->error, FVLM_ERROR_UNSUPPORTED,
                     "%s: the %s %s is not supported (byte-level BPE with NFC is)", source->name, part, what);
}

static fvlm_status parse_json(const struct source *source, const char *text, size_t bytes, json_t **value)
{
    json_error_t problem;
    *value = json_loadb(text, bytes, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &problem);
    if (!*value)
        return fvlm_fail(source->error, FVLM_ERROR_FORMAT, "%s: %s (line %d)", source->name, problem.text,
                         problem.line);
    return FVLM_OK;
}

static fvlm_status read_json(const fvlm_bundle *files, const char *name, json_t **value, fvlm_error *error)
{
    fvlm_bundle_file file;
    fvlm_status status = fvlm_bundle_open(files, name, MAX_SMALL_FILE, &file, error);
    if (status)
        return status;
    status = parse_json(&(struct source){file.path, error}, file.data, file.size, value);
    fvlm_bundle_file_close(&file);
    return status;
}

static const char *type_of(const json_t *component)
{
    const char *type = json_string_value(json_object_get(component, "type"));
    return type ? type : "without a type";
}

static bool is_true(const json_t *object, const char *key)
{
    return json_is_true(json_object_get(object, key));
}

/* ---- components of tokenizer.json ---- */

typedef fvlm_status (*component_fn)(fvlm_tokenizer *, const json_t *, int depth, const struct source *);

/* The members of a Sequence, one after the other. */
static fvlm_status read_sequence(fvlm_tokenizer *tokenizer, const json_t *members, component_fn read, const char *part,
                                 int depth, const struct source *source)
{
    if (!json_is_array(members) || depth >= MAX_COMPONENT_DEPTH)
        return unsupported(source, part, "Sequence (malformed or too deep)");
    size_t i;
    json_t *member;
    json_array_foreach(members, i, member)
    {
        fvlm_status status = read(tokenizer, member, depth + 1, source);
        if (status)
            return status;
    }
    return FVLM_OK;
}

static fvlm_status read_normalizer(fvlm_tokenizer *tokenizer, const json_t *component, int depth,
                                   const struct source *source)
{
    if (json_is_null(component))
        return FVLM_OK;
    const char *type = type_of(component);
    if (strcmp(type, "Sequence") == 0)
        return read_sequence(tokenizer, json_object_get(component, "normalizers"), read_normalizer, "normalizer", depth,
                             source);
    if (strcmp(type, "NFC") != 0)
        return unsupported(source, "normalizer", type);
    tokenizer->nfc = true;
    return FVLM_OK;
}

static fvlm_status add_pattern(fvlm_tokenizer *tokenizer, const json_t *text, bool literal, const struct source *source)
{
    return fvlm_splitter_add(tokenizer->splitter, json_string_value(text), json_string_length(text), literal,
                             source->name, source->error);
}

static fvlm_status read_pre_tokenizer(fvlm_tokenizer *tokenizer, const json_t *component, int depth,
                                      const struct source *source)
{
    if (json_is_null(component))
        return FVLM_OK;
    const char *type = type_of(component);
    if (strcmp(type, "Sequence") == 0)
        return read_sequence(tokenizer, json_object_get(component, "pretokenizers"), read_pre_tokenizer,
                             "pre-tokenizer", depth, source);
    if (strcmp(type, "Split") == 0) {
        const json_t *pattern = json_object_get(component, "pattern");
        const json_t *regex = json_object_get(pattern, "Regex"), *literal = json_object_get(pattern, "String");
        const char *behavior = json_string_value(json_object_get(component, "behavior"));
        if (!behavior || strcmp(behavior, "Isolated") != 0 || is_true(component, "invert"))
            return unsupported(source, "pre-tokenizer", "Split with another behavior than Isolated");
        if (!json_is_string(regex) && !json_is_string(literal))
            return bad(source, "a Split without a pattern");
        return json_is_string(regex) ? add_pattern(tokenizer, regex, false, source)
                                     : add_pattern(tokenizer, literal, true, source);
    }
    if (strcmp(type, "ByteLevel") != 0)
        return unsupported(source, "pre-tokenizer", type);
    if (is_true(component, "add_prefix_space"))
        return unsupported(source, "pre-tokenizer", "ByteLevel with add_prefix_space");
    if (json_is_false(json_object_get(component, "use_regex")))
        return FVLM_OK;
    return fvlm_splitter_add(tokenizer->splitter, GPT2_PATTERN, sizeof GPT2_PATTERN - 1, false, source->name,
                             source->error);
}

static fvlm_status read_decoder(fvlm_tokenizer *tokenizer, const json_t *component, int depth,
                                const struct source *source)
{
    const char *type = type_of(component);
    if (strcmp(type, "Sequence") == 0)
        return read_sequence(tokenizer, json_object_get(component, "decoders"), read_decoder, "decoder", depth, source);
    return strcmp(type, "ByteLevel") == 0 ? FVLM_OK : unsupported(source, "decoder", type);
}

/* ByteLevel only moves offsets; others add tokens around the text. */
static fvlm_status read_post_processor(fvlm_tokenizer *tokenizer, const json_t *component, int depth,
                                       const struct source *source)
{
    if (json_is_null(component))
        return FVLM_OK;
    const char *type = type_of(component);
    if (strcmp(type, "Sequence") == 0)
        return read_sequence(tokenizer, json_object_get(component, "processors"), read_post_processor, "post-processor",
                             depth, source);
    return strcmp(type, "ByteLevel") == 0 ? FVLM_OK : unsupported(source, "post-processor", type);
}

/* ---- added tokens ---- */

static bool flag(const json_t *entry, const char *key, bool otherwise)
{
    const json_t *value = json_object_get(entry, key);
    return json_is_boolean(value) ? json_is_true(value) : otherwise;
}

static fvlm_status add_token(fvlm_tokenizer *tokenizer, const json_t *entry, json_int_t id, const struct source *source)
{
    const json_t *content = json_object_get(entry, "content");
    if (!json_is_string(content) || id < 0 || id >= FVLM_TOKEN_LIMIT)
        return bad(source, "an added token without content, or with an id out of range");
    bool special = flag(entry, "special", false);
    fvlm_added_token token = {
        .content = (char *)json_string_value(content), /* copied, not changed */
        .bytes = json_string_length(content),
        .id = (int32_t)id,
        .special = special,
        .normalized = flag(entry, "normalized", !special),
        .single_word = flag(entry, "single_word", false),
        .lstrip = flag(entry, "lstrip", false),
        .rstrip = flag(entry, "rstrip", false),
    };
    return fvlm_added_add(&tokenizer->added, &token, source->name, source->error);
}

/* "added_tokens" of tokenizer.json: [{"id": 151643, "content": "<|endoftext|>", "special": true, ...}] */
static fvlm_status read_added_list(fvlm_tokenizer *tokenizer, const json_t *list, int depth,
                                   const struct source *source)
{
    (void)depth;
    if (json_is_null(list))
        return FVLM_OK;
    if (!json_is_array(list))
        return bad(source, "\"added_tokens\" is not a list");
    size_t i;
    json_t *entry;
    json_array_foreach(list, i, entry)
    {
        const json_t *id = json_object_get(entry, "id");
        fvlm_status status = add_token(tokenizer, entry, json_is_integer(id) ? json_integer_value(id) : -1, source);
        if (status)
            return status;
    }
    return FVLM_OK;
}

/* "added_tokens_decoder" of tokenizer_config.json: {"151643": {"content": "<|endoftext|>", ...}} */
static fvlm_status read_added_decoder(fvlm_tokenizer *tokenizer, json_t *decoder, const struct source *source)
{
    const char *key;
    json_t *entry;
    json_object_foreach(decoder, key, entry)
    {
        char *end;
        long long id = strtoll(key, &end, 10);
        fvlm_status status = add_token(tokenizer, entry, *key && !*end ? id : -1, source);
        if (status)
            return status;
    }
    return FVLM_OK;
}

/* added_tokens.json, {"<|endoftext|>": 151643}: content and id only. Files of this kind hold special tokens;
 * tokenizer_config.json, read afterwards, may say otherwise. */
static fvlm_status read_added_file(fvlm_tokenizer *tokenizer, json_t *file, const struct source *source)
{
    if (!json_is_object(file))
        return bad(source, "expected an object of token and id");
    const char *content;
    json_t *id;
    json_object_foreach(file, content, id)
    {
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= FVLM_TOKEN_LIMIT)
            return bad(source, "a token's id is no integer, or out of range");
        fvlm_added_token token = {.content = (char *)content,
                                  .bytes = strlen(content),
                                  .id = (int32_t)json_integer_value(id),
                                  .special = true};
        fvlm_status status = fvlm_added_add(&tokenizer->added, &token, source->name, source->error);
        if (status)
            return status;
    }
    return FVLM_OK;
}

/* ---- vocabulary and merges ---- */

static bool read_vocabulary(fvlm_tokenizer *tokenizer, fvlm_json_stream *stream)
{
    const char *token;
    size_t bytes;
    int32_t id;
    if (!fvlm_json_object(stream))
        return false;
    while (fvlm_json_member(stream, &token, &bytes)) {
        /* Reading an integer leaves the key where it is. */
        if (!fvlm_json_integer(stream, 0, FVLM_TOKEN_LIMIT - 1, &id))
            return false;
        stream->status = fvlm_vocabulary_add(&tokenizer->vocabulary, token, bytes, id, stream->name, stream->error);
        if (stream->status)
            return false;
    }
    return !stream->status;
}

/* A merge written "left right". */
static fvlm_status add_merge_line(fvlm_tokenizer *tokenizer, const char *line, size_t bytes, const char *name,
                                  fvlm_error *error)
{
    const char *space = memchr(line, ' ', bytes);
    if (!space || space == line || space == line + bytes - 1 ||
        memchr(space + 1, ' ', (size_t)(line + bytes - space - 1)))
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: merge \"%.*s\" is not two tokens with a space between", name,
                         bytes < 60 ? (int)bytes : 60, line);
    return fvlm_merges_add(&tokenizer->merges, &tokenizer->vocabulary, line, (size_t)(space - line), space + 1,
                           (size_t)(line + bytes - space - 1), name, error);
}

/* ["a b", ...] or, from tokenizers 0.20 on, [["a", "b"], ...]. */
static bool read_merges(fvlm_tokenizer *tokenizer, fvlm_json_stream *stream)
{
    fvlm_text_buffer kept = {0}; /* the left token, which reading the right one overwrites */
    if (!fvlm_json_array(stream))
        return false;
    while (fvlm_json_element(stream)) {
        const char *left, *right, *rest;
        size_t left_bytes, right_bytes, rest_bytes;
        if (fvlm_json_peek(stream) == '"') {
            if (fvlm_json_string(stream, &left, &left_bytes))
                stream->status = add_merge_line(tokenizer, left, left_bytes, stream->name, stream->error);
            continue;
        }
        if (!fvlm_json_array(stream) || !fvlm_json_element(stream) || !fvlm_json_string(stream, &left, &left_bytes))
            break;
        kept.length = 0;
        fvlm_text_append(&kept, left, left_bytes);
        if (kept.failed) {
            stream->status = fvlm_fail_memory(stream->error);
            break;
        }
        if (!fvlm_json_element(stream) || !fvlm_json_string(stream, &right, &right_bytes)) {
            fvlm_json_refuse(stream, "a merge of fewer than two tokens");
            break;
        }
        stream->status = fvlm_merges_add(&tokenizer->merges, &tokenizer->vocabulary, kept.data, left_bytes, right,
                                         right_bytes, stream->name, stream->error);
        if (fvlm_json_element(stream)) {
            fvlm_json_skip(stream, &rest, &rest_bytes);
            fvlm_json_refuse(stream, "a merge of more than two tokens");
        }
    }
    fvlm_text_clear(&kept);
    return !stream->status;
}

static fvlm_status begin_merges(fvlm_tokenizer *tokenizer, fvlm_error *error)
{
    return fvlm_merges_begin(&tokenizer->merges, &tokenizer->vocabulary, error);
}

/* ---- tokenizer.json ---- */

static bool key_is(const char *key, size_t bytes, const char *name)
{
    return bytes == strlen(name) && memcmp(key, name, bytes) == 0;
}

/* A small member of "model": options that change what the merges mean. */
static fvlm_status check_option(fvlm_tokenizer *tokenizer, const char *key, const json_t *value,
                                const struct source *source)
{
    static const char *const refused[] = {"dropout", "byte_fallback", "continuing_subword_prefix",
                                          "end_of_word_suffix"};
    bool set = json_is_true(value) || json_string_length(value) > 0 || json_number_value(value) != 0;
    if (strcmp(key, "type") == 0) {
        const char *type = json_string_value(value);
        return type && strcmp(type, "BPE") == 0 ? FVLM_OK : unsupported(source, "model", type ? type : "type");
    }
    if (strcmp(key, "ignore_merges") == 0)
        tokenizer->ignore_merges = set;
    for (size_t i = 0; set && i < sizeof refused / sizeof *refused; i++)
        if (strcmp(key, refused[i]) == 0)
            return unsupported(source, "model option", key);
    return FVLM_OK;
}

static bool read_option(fvlm_tokenizer *tokenizer, fvlm_json_stream *stream, const char *key, size_t key_bytes)
{
    const struct source source = {stream->name, stream->error};
    const char *text;
    size_t bytes;
    json_t *value;
    char name[32] = ""; /* longer keys are none of ours */
    memcpy(name, key, key_bytes < sizeof name ? key_bytes : 0);
    if (!fvlm_json_skip(stream, &text, &bytes))
        return false;
    stream->status = parse_json(&source, text, bytes, &value);
    if (stream->status)
        return false;
    stream->status = check_option(tokenizer, name, value, &source);
    json_decref(value);
    return !stream->status;
}

/* "model": {"type": "BPE", "vocab": {...}, "merges": [...], ...}. Should merges come first, they wait. */
static bool read_model(fvlm_tokenizer *tokenizer, fvlm_json_stream *stream)
{
    const char *key, *merges = NULL;
    size_t key_bytes, merge_bytes = 0;
    bool have_vocabulary = false, have_merges = false;
    if (!fvlm_json_object(stream))
        return false;
    while (fvlm_json_member(stream, &key, &key_bytes)) {
        if (key_is(key, key_bytes, "vocab")) {
            if (have_vocabulary)
                return fvlm_json_refuse(stream, "a second vocabulary");
            have_vocabulary = true;
            if (read_vocabulary(tokenizer, stream))
                stream->status = begin_merges(tokenizer, stream->error);
        } else if (key_is(key, key_bytes, "merges")) {
            if (have_merges)
                return fvlm_json_refuse(stream, "a second list of merges");
            have_merges = true;
            if (have_vocabulary)
                read_merges(tokenizer, stream);
            else
                fvlm_json_skip(stream, &merges, &merge_bytes);
        } else {
            read_option(tokenizer, stream, key, key_bytes);
        }
    }
    if (stream->status)
        return false;
    if (!have_vocabulary || !have_merges)
        return fvlm_json_refuse(stream, "the model has no \"vocab\" or no \"merges\"");
    if (merges) {
        fvlm_json_stream late;
        fvlm_json_open(&late, merges, merge_bytes, stream->name, stream->error);
        read_merges(tokenizer, &late);
        stream->status = fvlm_json_close(&late);
    }
    return !stream->status;
}

/* The top-level members that matter, and who reads them. */
static const struct part {
    const char *key;
    component_fn read;
} parts[] = {
    {"normalizer", read_normalizer},         {"pre_tokenizer", read_pre_tokenizer}, {"decoder", read_decoder},
    {"post_processor", read_post_processor}, {"added_tokens", read_added_list},
};
#define PART_COUNT (sizeof parts / sizeof *parts)
#define PART_MODEL PART_COUNT /* bit of "model" in the set of members seen */
#define PART_DECODER 2

static bool read_part(fvlm_tokenizer *tokenizer, fvlm_json_stream *stream, size_t part)
{
    const struct source source = {stream->name, stream->error};
    const char *text;
    size_t bytes;
    json_t *value;
    if (!fvlm_json_skip(stream, &text, &bytes))
        return false;
    stream->status = parse_json(&source, text, bytes, &value);
    if (stream->status)
        return false;
    stream->status = parts[part].read(tokenizer, value, 0, &source);
    json_decref(value);
    return !stream->status;
}

static fvlm_status read_tokenizer(fvlm_tokenizer *tokenizer, const char *json, size_t size, const char *name,
                                  fvlm_error *error)
{
    fvlm_json_stream stream;
    fvlm_json_open(&stream, json, size, name, error);
    unsigned seen = 0;
    const char *key, *text;
    size_t bytes;
    fvlm_json_object(&stream);
    while (!stream.status && fvlm_json_member(&stream, &key, &bytes)) {
        size_t part = 0;
        while (part < PART_COUNT && !key_is(key, bytes, parts[part].key))
            part++;
        bool model = key_is(key, bytes, "model");
        if (part == PART_COUNT && !model) {
            fvlm_json_skip(&stream, &text, &bytes);
            continue;
        }
        if (seen & 1u << part)
            fvlm_json_refuse(&stream, "a member comes twice");
        else if (model)
            read_model(tokenizer, &stream);
        else
            read_part(tokenizer, &stream, part);
        seen |= 1u << part;
    }
    if (!stream.status && !(seen & 1u << PART_MODEL))
        fvlm_json_refuse(&stream, "there is no \"model\"; is this a tokenizer.json?");
    if (!stream.status && !(seen & 1u << PART_DECODER))
        fvlm_json_refuse(&stream, "there is no \"decoder\"");
    return fvlm_json_close(&stream);
}

/* ---- opening ---- */

static fvlm_status create(fvlm_tokenizer **tokenizer, fvlm_error *error)
{
    *tokenizer = fvlm_calloc(1, sizeof **tokenizer);
    if (!*tokenizer)
        return fvlm_fail_memory(error);
    fvlm_status status = fvlm_splitter_create(&(*tokenizer)->splitter, error);
    if (status)
        fvlm_tokenizer_close(tokenizer);
    return status;
}

fvlm_status fvlm_tokenizer_parse(const char *json, size_t bytes, const char *name, fvlm_tokenizer **tokenizer,
                                 fvlm_error *error)
{
    fvlm_status status = create(tokenizer, error);
    if (!status)
        status = read_tokenizer(*tokenizer, json, bytes, name, error);
    if (!status)
        status = fvlm_added_finish(&(*tokenizer)->added, (*tokenizer)->nfc, name, error);
    if (status && *tokenizer)
        fvlm_tokenizer_close(tokenizer);
    return status;
}

static fvlm_status open_tokenizer_json(fvlm_tokenizer *tokenizer, const fvlm_bundle *files, fvlm_error *error)
{
    fvlm_bundle_file file;
    fvlm_status status = fvlm_bundle_open(files, "tokenizer.json", MAX_FILE, &file, error);
    if (status)
        return status;
    status = read_tokenizer(tokenizer, file.data, file.size, file.path, error);
    fvlm_bundle_file_close(&file);
    return status;
}

static fvlm_status open_vocabulary(fvlm_tokenizer *tokenizer, const fvlm_bundle *files, fvlm_error *error)
{
    fvlm_bundle_file file;
    fvlm_status status = fvlm_bundle_open(files, "vocab.json", MAX_FILE, &file, error);
    if (status)
        return status;
    fvlm_json_stream stream;
    fvlm_json_open(&stream, file.data, file.size, file.path, error);
    read_vocabulary(tokenizer, &stream);
    status = fvlm_json_close(&stream);
    fvlm_bundle_file_close(&file);
    return status;
}

static fvlm_status open_merges(fvlm_tokenizer *tokenizer, const fvlm_bundle *files, fvlm_error *error)
{
    fvlm_bundle_file file;
    fvlm_status status = fvlm_bundle_open(files, "merges.txt", MAX_FILE, &file, error);
    if (status)
        return status;
    status = begin_merges(tokenizer, error);
    for (size_t at = 0; !status && at < file.size;) {
        const char *line = file.data + at, *newline = memchr(line, '\n', file.size - at);
        size_t bytes = newline ? (size_t)(newline - line) : file.size - at;
        at += bytes + 1;
        if (bytes && line[bytes - 1] == '\r')
            bytes--;
        if (bytes == 0 || (bytes >= 8 && memcmp(line, "#version", 8) == 0))
            continue;
        status = add_merge_line(tokenizer, line, bytes, file.path, error);
    }
    fvlm_bundle_file_close(&file);
    return status;
}

/* The special tokens of Qwen2, in the ids behind the vocabulary. */
static fvlm_status add_qwen2_special(fvlm_tokenizer *tokenizer, const char *name, fvlm_error *error)
{
    fvlm_status status = FVLM_OK;
    int32_t next = (int32_t)tokenizer->vocabulary.id_count;
    for (size_t i = 0; !status && i < sizeof qwen2_special / sizeof *qwen2_special; i++) {
        const char *content = qwen2_special[i];
        int32_t id = fvlm_vocabulary_find(&tokenizer->vocabulary, content, strlen(content));
        fvlm_added_token token = {
            .content = (char *)content, .bytes = strlen(content), .id = id >= 0 ? id : next++, .special = true};
        status = fvlm_added_add(&tokenizer->added, &token, name, error);
    }
    return status;
}

/* What added_tokens.json (where there is no tokenizer.json) and tokenizer_config.json say of added tokens. */
static fvlm_status read_config(fvlm_tokenizer *tokenizer, const fvlm_bundle *files, bool have_tokenizer,
                               fvlm_error *error)
{
    fvlm_status status = FVLM_OK;
    json_t *file;
    if (!have_tokenizer && fvlm_bundle_has(files, "added_tokens.json")) {
        status = read_json(files, "added_tokens.json", &file, error);
        if (status)
            return status;
        status = read_added_file(tokenizer, file, &(struct source){"added_tokens.json", error});
        json_decref(file);
    }
    if (!status && fvlm_bundle_has(files, "tokenizer_config.json")) {
        status = read_json(files, "tokenizer_config.json", &file, error);
        if (status)
            return status;
        status = read_added_decoder(tokenizer, json_object_get(file, "added_tokens_decoder"),
                                    &(struct source){"tokenizer_config.json", error});
        json_decref(file);
    }
    if (!status && !have_tokenizer && tokenizer->added.count == 0)
        status = add_qwen2_special(tokenizer, "vocab.json", error);
    return status;
}

static fvlm_status read_files(fvlm_tokenizer *tokenizer, const fvlm_bundle *files, fvlm_error *error)
{
    fvlm_status status;
    bool have_tokenizer = fvlm_bundle_has(files, "tokenizer.json");
    if (have_tokenizer) {
        status = open_tokenizer_json(tokenizer, files, error);
    } else if (fvlm_bundle_has(files, "vocab.json") && fvlm_bundle_has(files, "merges.txt")) {
        tokenizer->nfc = true;
        status = fvlm_splitter_add(tokenizer->splitter, FVLM_QWEN2_PATTERN, sizeof FVLM_QWEN2_PATTERN - 1, false,
                                   files->path, error);
        if (!status)
            status = open_vocabulary(tokenizer, files, error);
        if (!status)
            status = open_merges(tokenizer, files, error);
    } else {
        return fvlm_fail(error, FVLM_ERROR_IO,
                         "%s has no tokenizer: put tokenizer.json there, or vocab.json and merges.txt", files->path);
    }
    if (!status)
        status = read_config(tokenizer, files, have_tokenizer, error);
    if (!status)
        status = fvlm_added_finish(&tokenizer->added, tokenizer->nfc, files->path, error);
    return status;
}

fvlm_status fvlm_tokenizer_read(const fvlm_bundle *files, fvlm_tokenizer **tokenizer, fvlm_error *error)
{
    fvlm_status status = create(tokenizer, error);
    if (!status)
        status = read_files(*tokenizer, files, error);
    if (status && *tokenizer)
        fvlm_tokenizer_close(tokenizer);
    return status;
}
