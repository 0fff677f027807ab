/* Reading config.json and its companions.
 *
 * A reader keeps the first error it meets and later calls do nothing, so the code below says what is read and not
 * what may go wrong. Widths and counts have generous upper bounds: they keep products of sizes far from overflow.
 */
#include "model/config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"

#define CONFIG_LIMIT ((size_t)16 << 20) /* bytes of a config file; tokenizer files are read elsewhere */
#define MAX_WIDTH 65536
#define MAX_LAYERS 1024
#define MAX_VOCABULARY (1 << 24)
#define MAX_POSITIONS (1 << 24)
#define MAX_RESOLUTION 4096

struct reader {
    const char *path; /* of the file being read, for messages */
    fvlm_status status;
    fvlm_error *error;
};

const fvlm_vision_config fvlm_fastvithd = {
    .layers = {2, 12, 24, 4, 2},
    .widths = {96, 192, 384, 768, 1536},
    .mlp_ratio = {4, 4, 4, 4, 4},
    .attention = {false, false, false, true, true},
    .resolution = 1024,
};

static json_t *read_json(struct reader *reader, const fvlm_bundle *files, const char *name, bool required)
{
    json_t *root = NULL;
    if (!reader->status && (required || fvlm_bundle_has(files, name)))
        reader->status = fvlm_json_read_bundle(files, name, CONFIG_LIMIT, &root, reader->error);
    return root;
}

/* A whole number of `object` in [low, high]; `fallback` where it is absent or null. */
static size_t read_size(struct reader *reader, const json_t *object, const char *key, size_t low, size_t high,
                        size_t fallback)
{
    const json_t *value = json_object_get(object, key);
    if (reader->status || !value || json_is_null(value))
        return fallback;
    json_int_t number = json_is_integer(value) ? json_integer_value(value) : -1;
    if (number < 0 || (size_t)number < low || (size_t)number > high) {
        reader->status = fvlm_fail(reader->error, FVLM_ERROR_FORMAT, "%s: %s must be a whole number from %zu to %zu",
                                   reader->path, key, low, high);
        return fallback;
    }
    return (size_t)number;
}

static size_t require_size(struct reader *reader, const json_t *object, const char *key, size_t low, size_t high)
{
    if (!reader->status && !json_object_get(object, key))
        reader->status = fvlm_fail(reader->error, FVLM_ERROR_FORMAT, "%s: %s is missing", reader->path, key);
    return read_size(reader, object, key, low, high, low);
}

static double read_number(struct reader *reader, const json_t *object, const char *key, double fallback)
{
    const json_t *value = json_object_get(object, key);
    if (reader->status || !value || json_is_null(value))
        return fallback;
    double number = json_number_value(value);
    if (!json_is_number(value) || !(number > 0) || !isfinite(number))
        reader->status =
            fvlm_fail(reader->error, FVLM_ERROR_FORMAT, "%s: %s must be a positive number", reader->path, key);
    return number;
}

/* A string of `object`, or `fallback` where it is absent or not a string. */
static const char *read_text(const json_t *object, const char *key, const char *fallback)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : fallback;
}

/* FVLM_STAGES sizes in an array, or one number for all of them. */
static void read_stages(struct reader *reader, const json_t *object, const char *key, size_t high,
                        size_t stages[FVLM_STAGES])
{
    const json_t *value = json_object_get(object, key);
    if (reader->status || !value || json_is_null(value))
        return;
    bool one = json_is_integer(value);
    bool fine = one || (json_is_array(value) && json_array_size(value) == FVLM_STAGES);
    for (size_t i = 0; i < FVLM_STAGES && fine; i++) {
        const json_t *item = one ? value : json_array_get(value, i);
        json_int_t number = json_integer_value(item);
        fine = json_is_integer(item) && number >= 1 && (size_t)number <= high;
        if (fine)
            stages[i] = (size_t)number;
    }
    if (!fine)
        reader->status = fvlm_fail(reader->error, FVLM_ERROR_FORMAT, "%s: %s must be %d whole numbers from 1 to %zu",
                                   reader->path, key, FVLM_STAGES, high);
}

/* The tower's shape, from `mm_vision_arch` (LLaVA) or `vision_config.model_args` (transformers); NULL: FastViTHD. */
static void read_tower(struct reader *reader, const json_t *arch, fvlm_vision_config *vision)
{
    read_stages(reader, arch, "layers", MAX_LAYERS, vision->layers);
    read_stages(reader, arch, "embed_dims", MAX_WIDTH / 8, vision->widths);
    read_stages(reader, arch, "mlp_ratio", 16, vision->mlp_ratio);
    read_stages(reader, arch, "mlp_ratios", 16, vision->mlp_ratio);
    const json_t *mixers = json_object_get(arch, "token_mixers");
    if (!reader->status && mixers) {
        bool fine = json_is_array(mixers) && json_array_size(mixers) == FVLM_STAGES;
        for (size_t i = 0; i < FVLM_STAGES && fine; i++) {
            const char *mixer = json_string_value(json_array_get(mixers, i));
            fine = mixer && (strcmp(mixer, "attention") == 0 || strcmp(mixer, "repmixer") == 0);
            if (fine)
                vision->attention[i] = strcmp(mixer, "attention") == 0;
        }
        if (!fine)
            reader->status =
                fvlm_fail(reader->error, FVLM_ERROR_UNSUPPORTED,
                          "%s: token_mixers must be %d of \"repmixer\" or \"attention\"", reader->path, FVLM_STAGES);
    }
    for (size_t i = 0; i < FVLM_STAGES && !reader->status; i++) {
        if (vision->attention[i] && vision->widths[i] % FVLM_VISION_HEAD_DIM != 0)
            reader->status = fvlm_fail(reader->error, FVLM_ERROR_UNSUPPORTED,
                                       "%s: width %zu of attention stage %zu is not a multiple of the head size %d",
                                       reader->path, vision->widths[i], i, FVLM_VISION_HEAD_DIM);
        else if (i > 0 && vision->widths[i] % vision->widths[i - 1] != 0)
            reader->status = fvlm_fail(reader->error, FVLM_ERROR_UNSUPPORTED,
                                       "%s: width %zu of stage %zu is not a multiple of the width before it (%zu)",
                                       reader->path, vision->widths[i], i, vision->widths[i - 1]);
    }
}

static void read_resolution(struct reader *reader, size_t resolution, fvlm_vision_config *vision)
{
    if (reader->status)
        return;
    if (resolution == 0 || resolution > MAX_RESOLUTION || resolution % FVLM_VISION_STRIDE != 0)
        reader->status =
            fvlm_fail(reader->error, FVLM_ERROR_UNSUPPORTED, "%s: input size %zu is not a multiple of %d up to %d",
                      reader->path, resolution, FVLM_VISION_STRIDE, MAX_RESOLUTION);
    vision->resolution = resolution;
}

static void read_decoder(struct reader *reader, const json_t *text, fvlm_decoder_config *decoder)
{
    decoder->hidden = require_size(reader, text, "hidden_size", 1, MAX_WIDTH);
    decoder->ffn = require_size(reader, text, "intermediate_size", 1, 4 * MAX_WIDTH);
    decoder->layers = require_size(reader, text, "num_hidden_layers", 1, MAX_LAYERS);
    decoder->heads = require_size(reader, text, "num_attention_heads", 1, 1024);
    decoder->kv_heads = read_size(reader, text, "num_key_value_heads", 1, 1024, decoder->heads);
    decoder->vocabulary = require_size(reader, text, "vocab_size", 1, MAX_VOCABULARY);
    decoder->positions = read_size(reader, text, "max_position_embeddings", 1, MAX_POSITIONS, 32768);
    decoder->norm_eps = (float)read_number(reader, text, "rms_norm_eps", 1e-6);
    const json_t *rope = json_object_get(text, "rope_parameters");
    decoder->rope_base = read_number(reader, json_is_object(rope) ? rope : text, "rope_theta", 1e6);
    if (reader->status)
        return;

    const json_t *scaling = json_object_get(text, "rope_scaling");
    const char *rope_type =
        read_text(json_is_object(rope) ? rope : scaling, "rope_type", read_text(scaling, "type", "default"));
    const char *activation = read_text(text, "hidden_act", "silu");
    bool window = json_is_true(json_object_get(text, "use_sliding_window"));
    if (strcmp(rope_type, "default") != 0)
        reader->status = fvlm_fail(reader->error, FVLM_ERROR_UNSUPPORTED, "%s: rope scaling \"%s\" is not supported",
                                   reader->path, rope_type);
    else if (strcmp(activation, "silu") != 0)
        reader->status = fvlm_fail(reader->error, FVLM_ERROR_UNSUPPORTED, "%s: hidden_act \"%s\" is not supported",
                                   reader->path, activation);
    else if (window)
        reader->status =
            fvlm_fail(reader->error, FVLM_ERROR_UNSUPPORTED, "%s: use_sliding_window is not supported", reader->path);
    else if (decoder->heads % decoder->kv_heads != 0)
        reader->status = fvlm_fail(reader->error, FVLM_ERROR_FORMAT,
                                   "%s: num_attention_heads %zu is not a multiple of num_key_value_heads %zu",
                                   reader->path, decoder->heads, decoder->kv_heads);
    if (reader->status)
        return;
    decoder->head_dim = read_size(reader, text, "head_dim", 2, 1024, decoder->hidden / decoder->heads);
    if (!reader->status && (decoder->head_dim < 2 || decoder->head_dim % 2 != 0))
        reader->status = fvlm_fail(reader->error, FVLM_ERROR_FORMAT, "%s: the head size %zu is not even", reader->path,
                                   decoder->head_dim);
}

/* "linear", "identity", "mlpNx_gelu" (LLaVA's build_vision_projector). */
static void read_projector(struct reader *reader, const char *type, fvlm_config *config)
{
    if (reader->status)
        return;
    int layers = 0, end = 0;
    if (strcmp(type, "identity") == 0) {
        config->projector = FVLM_PROJECTOR_IDENTITY;
    } else if (strcmp(type, "linear") == 0) {
        config->projector = FVLM_PROJECTOR_MLP;
        config->projector_layers = 1;
    } else if (sscanf(type, "mlp%2dx_gelu%n", &layers, &end) == 1 && layers >= 1 && end > 0 && type[end] == '\0') {
        config->projector = FVLM_PROJECTOR_MLP;
        config->projector_layers = (size_t)layers;
    } else {
        reader->status =
            fvlm_fail(reader->error, FVLM_ERROR_UNSUPPORTED,
                      "%s: mm_projector_type \"%s\" is not linear, identity or mlpNx_gelu", reader->path, type);
    }
}

static void read_pinpoints(struct reader *reader, const json_t *list, fvlm_config *config)
{
    if (reader->status || config->image_mode != FVLM_IMAGE_ANYRES)
        return;
    size_t count = json_array_size(list);
    bool fine = count >= 1 && count <= FVLM_MAX_PINPOINTS;
    for (size_t i = 0; i < count && fine; i++) {
        const json_t *pair = json_array_get(list, i);
        fine = json_array_size(pair) == 2;
        for (size_t j = 0; j < 2 && fine; j++) {
            json_int_t side = json_integer_value(json_array_get(pair, j));
            fine = side >= 1 && side <= 16 * MAX_RESOLUTION && side % (json_int_t)config->vision.resolution == 0;
            config->pinpoints[i][j] = fine ? (size_t)side : 0;
        }
    }
    config->pinpoint_count = fine ? count : 0;
    if (!fine)
        reader->status = fvlm_fail(reader->error, FVLM_ERROR_FORMAT,
                                   "%s: image_grid_pinpoints must be 1 to %d pairs of multiples of the input size %zu",
                                   reader->path, FVLM_MAX_PINPOINTS, config->vision.resolution);
}

static void read_llava(struct reader *reader, const json_t *root, fvlm_config *config)
{
    read_tower(reader, json_object_get(root, "mm_vision_arch"), &config->vision);
    /* The tower's name ends in its input size: mobileclip_l_1024. */
    const char *tower = read_text(root, "mm_vision_tower", "mobileclip_l_1024");
    const char *size = strrchr(tower, '_');
    read_resolution(reader, size ? (size_t)strtoul(size + 1, NULL, 10) : 0, &config->vision);
    read_projector(reader, read_text(root, "mm_projector_type", "linear"), config);
    read_decoder(reader, root, &config->decoder);

    const char *mode = read_text(root, "image_aspect_ratio", "crop");
    config->image_mode = strcmp(mode, "pad") == 0      ? FVLM_IMAGE_PAD
                         : strcmp(mode, "anyres") == 0 ? FVLM_IMAGE_ANYRES
                                                       : FVLM_IMAGE_CROP;
    const char *merge = read_text(root, "mm_patch_merge_type", "flat");
    if (strcmp(merge, "flat") == 0)
        config->merge = FVLM_MERGE_FLAT;
    else if (strcmp(merge, "spatial") == 0)
        config->merge = FVLM_MERGE_SPATIAL;
    else if (strcmp(merge, "spatial_unpad") == 0)
        config->merge = FVLM_MERGE_SPATIAL_UNPAD;
    else if (!reader->status)
        reader->status =
            fvlm_fail(reader->error, FVLM_ERROR_UNSUPPORTED,
                      "%s: mm_patch_merge_type \"%s\" is not flat, spatial or spatial_unpad", reader->path, merge);
    read_pinpoints(reader, json_object_get(root, "image_grid_pinpoints"), config);

    const json_t *quantization = json_object_get(root, "quantization");
    if (json_is_object(quantization)) {
        config->quantized_bits = read_size(reader, quantization, "bits", 2, 8, 4);
        config->quantized_group = read_size(reader, quantization, "group_size", 32, 128, 64);
        if (!reader->status && config->quantized_bits != 4 && config->quantized_bits != 8)
            reader->status =
                fvlm_fail(reader->error, FVLM_ERROR_UNSUPPORTED, "%s: %zu-bit weights are not supported, only 4 and 8",
                          reader->path, config->quantized_bits);
    }
}

static void read_fast_vlm(struct reader *reader, const fvlm_bundle *files, const json_t *root, fvlm_config *config)
{
    const json_t *vision = json_object_get(root, "vision_config");
    read_tower(reader, json_object_get(vision, "model_args"), &config->vision);
    read_decoder(reader, json_object_get(root, "text_config"), &config->decoder);
    config->projector = FVLM_PROJECTOR_MLP;
    config->projector_layers = 2;

    /* image_seq_length is the square of input size / 64; the preprocessor says the size itself. */
    size_t tokens = read_size(reader, root, "image_seq_length", 1, MAX_POSITIONS, 256);
    size_t resolution = (size_t)lround(sqrt((double)tokens)) * FVLM_VISION_STRIDE;
    config->image_mode = FVLM_IMAGE_PAD;
    const char *config_path = reader->path;
    json_t *preprocessor = read_json(reader, files, "preprocessor_config.json", false);
    reader->path = "preprocessor_config.json";
    const json_t *crop = json_object_get(preprocessor, "crop_size");
    if (crop)
        resolution = json_is_object(crop) ? read_size(reader, crop, "height", 1, MAX_RESOLUTION, resolution)
                                          : read_size(reader, preprocessor, "crop_size", 1, MAX_RESOLUTION, resolution);
    if (json_is_false(json_object_get(preprocessor, "do_pad")))
        config->image_mode = FVLM_IMAGE_CROP;
    read_resolution(reader, resolution, &config->vision);
    json_decref(preprocessor);
    reader->path = config_path;
}

/* eos_token_id of config or generation_config: a number or a list. */
static void read_end_tokens(const json_t *object, fvlm_config *config)
{
    const json_t *value = json_object_get(object, "eos_token_id");
    size_t count = json_is_array(value) ? json_array_size(value) : value ? 1 : 0;
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_is_array(value) ? json_array_get(value, i) : value;
        json_int_t id = json_is_integer(item) ? json_integer_value(item) : -1;
        bool known = id < 0 || id > INT32_MAX || config->end_token_count == FVLM_MAX_END_TOKENS;
        for (size_t j = 0; j < config->end_token_count && !known; j++)
            known = config->end_tokens[j] == id;
        if (!known)
            config->end_tokens[config->end_token_count++] = (int32_t)id;
    }
}

/* eos_token of tokenizer_config.json: a text, or an object with a "content". */
static void read_end_text(const json_t *object, fvlm_config *config)
{
    const json_t *token = json_object_get(object, "eos_token");
    const char *text = json_is_object(token) ? read_text(token, "content", "") : read_text(object, "eos_token", "");
    if (strlen(text) < sizeof config->end_text)
        strcpy(config->end_text, text);
}

fvlm_status fvlm_config_read(const fvlm_bundle *files, fvlm_config *config, fvlm_error *error)
{
    *config = (fvlm_config){.vision = fvlm_fastvithd};
    char *path = fvlm_path_join(files->path, "config.json");
    if (!path)
        return fvlm_fail_memory(error);
    struct reader reader = {.path = path, .error = error};
    json_t *root = read_json(&reader, files, "config.json", true);
    if (root) {
        const char *type = read_text(root, "model_type", "");
        config->fast_vlm = strcmp(type, "fast_vlm") == 0;
        if (config->fast_vlm)
            read_fast_vlm(&reader, files, root, config);
        else if (strcmp(type, "llava_qwen2") == 0)
            read_llava(&reader, root, config);
        else
            reader.status = fvlm_fail(error, FVLM_ERROR_UNSUPPORTED,
                                      "%s: model_type \"%s\" is not llava_qwen2 or fast_vlm", path, type);
        read_end_tokens(root, config);
        read_end_tokens(json_object_get(root, "text_config"), config);
    }
    json_t *generation = read_json(&reader, files, "generation_config.json", false);
    read_end_tokens(generation, config);
    json_t *tokenizer = read_json(&reader, files, "tokenizer_config.json", false);
    read_end_text(tokenizer, config);
    json_decref(tokenizer);
    json_decref(generation);
    json_decref(root);
    free(path);
    return reader.status;
}
