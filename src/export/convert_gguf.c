/* GGUF files of a model: this project's single file, or a language model as llama.cpp loads it and the rest beside it.
 *
 * The single file and the rest hold the checkpoint's small files (config, tokenizer, preprocessor) as they are, under
 * fastvlm.file.NAME: that is what an engine reads. Other keys are for other programs and for people.
 */
#include "export/convert_gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/system.h"
#include "export/gguf_vocabulary.h"
#include "model/gguf_names.h"

#define FILE_LIMIT ((size_t)256 << 20)
#define QUANTIZATION_VERSION 2 /* of ggml's block layouts */

/* What Qwen2's templates come to for plain turns, for programs that read one from the file. */
static const char default_template[] =
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/* Which tensors a file holds. */
enum contents { WHOLE, LANGUAGE, REST };

static bool belongs(const fvlm_planned *tensor, enum contents contents)
{
    bool rest = tensor->part == FVLM_PART_VISION || tensor->part == FVLM_PART_PROJECTOR;
    return contents == WHOLE || rest == (contents == REST);
}

/* llama.cpp adds vectors in float32 only. */
static void widen_vectors(fvlm_plan *plan)
{
    for (size_t i = 0; i < plan->count; i++) {
        fvlm_planned *tensor = &plan->tensors[i];
        if (!belongs(tensor, LANGUAGE) || tensor->rank != 1)
            continue;
        plan->bytes_after -= tensor->bytes;
        tensor->type = FVLM_F32;
        tensor->bytes = tensor->shape[0] * sizeof(float);
        plan->bytes_after += tensor->bytes;
    }
}

static void put_text(fvlm_gguf_writer *writer, const char *key, const char *text)
{
    fvlm_gguf_put_string(writer, key, text, strlen(text));
}

/* llama.cpp's number of the type that most bytes of a file have. */
static uint32_t file_type(const fvlm_plan *plan, enum contents contents)
{
    static const struct {
        fvlm_dtype type;
        uint32_t number;
    } numbers[] = {{FVLM_F32, 0}, {FVLM_F16, 1}, {FVLM_Q4_0, 2}, {FVLM_Q8_0, 7}, {FVLM_Q4_K, 14}, {FVLM_BF16, 32}};
    uint64_t most = 0;
    uint32_t number = 0;
    for (size_t n = 0; n < sizeof numbers / sizeof *numbers; n++) {
        uint64_t bytes = 0;
        for (size_t i = 0; i < plan->count; i++)
            if (belongs(&plan->tensors[i], contents) && plan->tensors[i].type == numbers[n].type)
                bytes += plan->tensors[i].bytes;
        if (bytes > most) {
            most = bytes;
            number = numbers[n].number;
        }
    }
    return number;
}

static void put_number(fvlm_gguf_writer *writer, const char *architecture, const char *key, size_t value)
{
    char whole[128];
    snprintf(whole, sizeof whole, "%s.%s", architecture, key);
    fvlm_gguf_put_u32(writer, whole, (uint32_t)value);
}

static void put_decoder(fvlm_gguf_writer *writer, const char *architecture, const fvlm_decoder_config *config)
{
    char key[128];
    put_number(writer, architecture, "block_count", config->layers);
    put_number(writer, architecture, "context_length", config->positions);
    put_number(writer, architecture, "embedding_length", config->hidden);
    put_number(writer, architecture, "feed_forward_length", config->ffn);
    put_number(writer, architecture, "attention.head_count", config->heads);
    put_number(writer, architecture, "attention.head_count_kv", config->kv_heads);
    put_number(writer, architecture, "attention.key_length", config->head_dim);
    put_number(writer, architecture, "attention.value_length", config->head_dim);
    put_number(writer, architecture, "rope.dimension_count", config->head_dim);
    snprintf(key, sizeof key, "%s.rope.freq_base", architecture);
    fvlm_gguf_put_f32(writer, key, (float)config->rope_base);
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", architecture);
    fvlm_gguf_put_f32(writer, key, config->norm_eps);
}

static void put_vision(fvlm_gguf_writer *writer, const char *architecture, const fvlm_config *config)
{
    const fvlm_vision_config *vision = &config->vision;
    size_t layers = 0;
    for (size_t i = 0; i < FVLM_STAGES; i++)
        layers += vision->layers[i];
    put_number(writer, architecture, "image_size", vision->resolution);
    put_number(writer, architecture, "patch_size", FVLM_VISION_STRIDE);
    put_number(writer, architecture, "block_count", layers);
    put_number(writer, architecture, "embedding_length", 2 * vision->widths[FVLM_STAGES - 1]);
    put_number(writer, architecture, "projection_dim", config->decoder.hidden);
}

/* config.json without what only describes how MLX packed the weights, which the file no longer has. */
static fvlm_status put_config(fvlm_gguf_writer *writer, const fvlm_bundle *files, fvlm_error *error)
{
    json_t *root;
    fvlm_status status = fvlm_json_read_bundle(files, "config.json", FILE_LIMIT, &root, error);
    if (status)
        return status;
    json_object_del(root, "quantization");
    json_object_del(root, "quantization_config");
    char *text = json_dumps(root, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    if (text)
        put_text(writer, FVLM_GGUF_FILE_KEY "config.json", text);
    free(text);
    json_decref(root);
    return text ? FVLM_OK : fvlm_fail_memory(error);
}

static fvlm_status put_files(fvlm_gguf_writer *writer, const fvlm_source *source, fvlm_error *error)
{
    fvlm_status status = FVLM_OK;
    for (size_t i = 0; fvlm_small_files[i] && !status; i++) {
        fvlm_bundle_file file;
        if (!fvlm_bundle_has(&source->files, fvlm_small_files[i]))
            continue;
        if (i == 0 && source->config.quantized_bits) {
            status = put_config(writer, &source->files, error);
            continue;
        }
        status = fvlm_bundle_open(&source->files, fvlm_small_files[i], FILE_LIMIT, &file, error);
        if (status)
            break;
        char key[128];
        snprintf(key, sizeof key, FVLM_GGUF_FILE_KEY "%s", fvlm_small_files[i]);
        fvlm_gguf_put_string(writer, key, file.data, file.size);
        fvlm_bundle_file_close(&file);
    }
    return status;
}

/* The checkpoint's chat template, or the default. */
static fvlm_status put_template(fvlm_gguf_writer *writer, const fvlm_bundle *files, fvlm_error *error)
{
    json_t *root = NULL;
    fvlm_status status = FVLM_OK;
    if (fvlm_bundle_has(files, "tokenizer_config.json"))
        status = fvlm_json_read_bundle(files, "tokenizer_config.json", FILE_LIMIT, &root, error);
    const char *text = json_string_value(json_object_get(root, "chat_template"));
    put_text(writer, "tokenizer.chat_template", text ? text : default_template);
    json_decref(root);
    return status;
}

static fvlm_status put_language(fvlm_gguf_writer *writer, const fvlm_source *source, fvlm_error *error)
{
    const fvlm_tensor *embedding = fvlm_tensor_table_find(source->table, "model.embed_tokens.weight");
    fvlm_tokenizer *tokenizer = NULL;
    if (!embedding)
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s has no tensor model.embed_tokens.weight", source->path);
    put_decoder(writer, "qwen2", &source->config.decoder);
    put_number(writer, "qwen2", "vocab_size", embedding->shape[0]);
    fvlm_status status = fvlm_tokenizer_read(&source->files, &tokenizer, error);
    if (!status) {
        const fvlm_config *config = &source->config;
        int32_t end = config->end_text[0] ? fvlm_tokenizer_special(tokenizer, config->end_text) : -1;
        if (end < 0 && config->end_token_count > 0)
            end = config->end_tokens[0];
        status = fvlm_gguf_put_tokenizer(writer, tokenizer, end, embedding->shape[0], error);
    }
    fvlm_tokenizer_close(&tokenizer);
    return status ? status : put_template(writer, &source->files, error);
}

static fvlm_status put_metadata(fvlm_gguf_writer *writer, const fvlm_conversion *conversion, enum contents contents,
                                fvlm_error *error)
{
    static const char *const architectures[] = {[WHOLE] = "fastvlm", [LANGUAGE] = "qwen2", [REST] = "clip"};
    const fvlm_source *source = conversion->source;
    put_text(writer, "general.architecture", architectures[contents]);
    put_text(writer, "general.type", contents == REST ? "mmproj" : "model");
    put_text(writer, "general.name", "FastVLM");
    fvlm_gguf_put_u32(writer, "general.file_type", file_type(conversion->plan, contents));
    fvlm_gguf_put_u32(writer, "general.quantization_version", QUANTIZATION_VERSION);
    if (contents == LANGUAGE)
        return put_language(writer, source, error);
    if (contents == REST) {
        static const float mean[] = {0, 0, 0}, deviation[] = {1, 1, 1}; /* pixels are in 0..1 */
        fvlm_gguf_put_bool(writer, "clip.has_vision_encoder", true);
        put_text(writer, "clip.projector_type", "fastvithd");
        put_vision(writer, "clip.vision", &source->config);
        fvlm_gguf_put_array(writer, "clip.vision.image_mean", FVLM_GGUF_F32, 3);
        for (int i = 0; i < 3; i++)
            fvlm_gguf_item_f32(writer, mean[i]);
        fvlm_gguf_put_array(writer, "clip.vision.image_std", FVLM_GGUF_F32, 3);
        for (int i = 0; i < 3; i++)
            fvlm_gguf_item_f32(writer, deviation[i]);
        return put_files(writer, source, error);
    }
    put_decoder(writer, "fastvlm", &source->config.decoder);
    put_vision(writer, "fastvlm.vision", &source->config);
    fvlm_status status = put_template(writer, &source->files, error);
    return status ? status : put_files(writer, source, error);
}

static fvlm_status put_tensors(fvlm_gguf_writer *writer, const fvlm_plan *plan, enum contents contents,
                               fvlm_error *error)
{
    for (size_t i = 0; i < plan->count; i++) {
        const fvlm_planned *tensor = &plan->tensors[i];
        char name[FVLM_MAX_NAME];
        if (!belongs(tensor, contents))
            continue;
        if (!fvlm_rename_to_gguf(tensor->name, name, sizeof name))
            snprintf(name, sizeof name, "%s", tensor->name);
        if (strlen(name) > FVLM_GGUF_MAX_NAME)
            return fvlm_fail(error, FVLM_ERROR_UNSUPPORTED, "tensor %s: its name is too long for GGUF", tensor->name);
        fvlm_gguf_put_tensor(writer, name, tensor->type, tensor->rank, tensor->shape);
    }
    return FVLM_OK;
}

struct sink {
    fvlm_conversion *conversion;
    fvlm_gguf_writer *writer;
};

static fvlm_status write_piece(void *user, const void *data, size_t bytes, fvlm_error *error)
{
    struct sink *sink = user;
    fvlm_status status = fvlm_gguf_write(sink->writer, data, bytes, error);
    return status ? status : fvlm_conversion_advance(sink->conversion, bytes, error);
}

/* The model is read while the new file is written aside. */
static fvlm_status check_path(const fvlm_source *source, const char *path, fvlm_error *error)
{
    const fvlm_gguf *const read[] = {source->gguf, source->projector_gguf};
    char *aside = path ? fvlm_writer_aside(path) : NULL;
    fvlm_status status = aside ? fvlm_writer_check(path, error) : fvlm_fail_memory(error);
    for (size_t i = 0; i < sizeof read / sizeof *read && !status; i++)
        if (read[i] && fvlm_path_same(read[i]->path, aside))
            status = fvlm_fail(error, FVLM_ERROR_ARGUMENT,
                               "%s is the model, and would be written over before %s is whole: name another output",
                               aside, path);
    free(aside);
    return status;
}

fvlm_status fvlm_convert_check_output(const fvlm_source *source, const fvlm_convert_options *options, fvlm_error *error)
{
    fvlm_status status = check_path(source, options->output, error);
    if (status || options->target != FVLM_CONVERT_GGUF_SPLIT)
        return status;
    char *rest = fvlm_gguf_projector_path(options->output);
    status = check_path(source, rest, error);
    free(rest);
    return status;
}

/* Write everything; the caller commits or aborts *writer. */
static fvlm_status write_file(fvlm_conversion *conversion, const char *path, enum contents contents,
                              fvlm_gguf_writer **writer, fvlm_error *error)
{
    const fvlm_plan *plan = conversion->plan;
    fvlm_status status = fvlm_gguf_writer_open(path, writer, error);
    if (!status)
        status = put_metadata(*writer, conversion, contents, error);
    if (!status)
        status = put_tensors(*writer, plan, contents, error);
    struct sink sink = {conversion, *writer};
    for (size_t i = 0; i < plan->count && !status; i++) {
        if (belongs(&plan->tensors[i], contents))
            status =
                fvlm_planned_write(&plan->tensors[i], conversion->source, conversion->pool, write_piece, &sink, error);
    }
    return status;
}

fvlm_status fvlm_convert_to_gguf(fvlm_conversion *conversion, fvlm_error *error)
{
    const char *output = conversion->options->output;
    bool split = conversion->options->target == FVLM_CONVERT_GGUF_SPLIT;
    fvlm_status status = fvlm_convert_check_output(conversion->source, conversion->options, error);
    if (split)
        widen_vectors(conversion->plan);
    fvlm_gguf_writer *writer = NULL, *rest_writer = NULL;
    char *rest = split ? fvlm_gguf_projector_path(output) : NULL;
    if (!status && split && !rest)
        status = fvlm_fail_memory(error);
    if (!status && split)
        status = write_file(conversion, rest, REST, &rest_writer, error);
    if (!status)
        status = write_file(conversion, output, split ? LANGUAGE : WHOLE, &writer, error);
    /* Both files of a pair are whole before either is put in place. */
    if (!status && split)
        status = fvlm_gguf_writer_commit(&rest_writer, error);
    if (!status)
        status = fvlm_gguf_writer_commit(&writer, error);
    fvlm_gguf_writer_abort(&rest_writer);
    fvlm_gguf_writer_abort(&writer);
    free(rest);
    return status;
}
