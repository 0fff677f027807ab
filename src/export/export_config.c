/* Configs and processor files. What a checkpoint's own config.json says beyond what counts here is kept where the
 * layout is the same.
 */
#include "export/export_config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

#define FILE_LIMIT ((size_t)16 << 20)

/* A float that was read from decimal digits, as the double that those digits mean. */
static json_t *decimal(double value)
{
    char digits[32];
    snprintf(digits, sizeof digits, "%.7g", value);
    return json_real(strtod(digits, NULL));
}

static json_t *stage_sizes(const size_t sizes[FVLM_STAGES])
{
    json_t *array = json_array();
    for (size_t i = 0; i < FVLM_STAGES; i++)
        json_array_append_new(array, json_integer((json_int_t)sizes[i]));
    return array;
}

/* Widths and depths, where they are not the published ones. */
static bool is_fastvithd(const fvlm_vision_config *vision)
{
    const fvlm_vision_config *known = &fvlm_fastvithd;
    return memcmp(vision->layers, known->layers, sizeof known->layers) == 0 &&
           memcmp(vision->widths, known->widths, sizeof known->widths) == 0 &&
           memcmp(vision->mlp_ratio, known->mlp_ratio, sizeof known->mlp_ratio) == 0 &&
           memcmp(vision->attention, known->attention, sizeof known->attention) == 0;
}

/* The language model's keys, the same in every layout. */
static void set_decoder(json_t *object, const fvlm_export_source *source)
{
    const fvlm_decoder_config *decoder = &source->config->decoder;
    const struct {
        const char *key;
        size_t value;
    } sizes[] = {{"vocab_size", decoder->vocabulary},
                 {"hidden_size", decoder->hidden},
                 {"intermediate_size", decoder->ffn},
                 {"num_hidden_layers", decoder->layers},
                 {"num_attention_heads", decoder->heads},
                 {"num_key_value_heads", decoder->kv_heads},
                 {"max_position_embeddings", decoder->positions}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        json_object_set_new(object, sizes[i].key, json_integer((json_int_t)sizes[i].value));
    if (decoder->head_dim != decoder->hidden / decoder->heads)
        json_object_set_new(object, "head_dim", json_integer((json_int_t)decoder->head_dim));
    json_object_set_new(object, "rms_norm_eps", decimal(decoder->norm_eps));
    json_object_set_new(object, "rope_theta", json_real(decoder->rope_base));
    json_object_set_new(object, "hidden_act", json_string("silu"));
    json_object_set_new(object, "use_sliding_window", json_false());
    json_object_set_new(object, "tie_word_embeddings", json_boolean(!source->own_head));
}

/* Ids that end an answer. */
static json_t *end_tokens(const fvlm_export_source *source)
{
    json_t *array = json_array();
    for (size_t i = 0; i < source->config->end_token_count; i++)
        json_array_append_new(array, json_integer(source->config->end_tokens[i]));
    return array;
}

static const char *const image_modes[] = {
    [FVLM_IMAGE_PAD] = "pad", [FVLM_IMAGE_ANYRES] = "anyres", [FVLM_IMAGE_CROP] = "crop"};
static const char *const merges[] = {
    [FVLM_MERGE_FLAT] = "flat", [FVLM_MERGE_SPATIAL] = "spatial", [FVLM_MERGE_SPATIAL_UNPAD] = "spatial_unpad"};

/* LLaVA's keys for the tower, the projector and how pictures become tokens. */
static void set_multimodal(json_t *object, const fvlm_export_source *source)
{
    const fvlm_config *config = source->config;
    const fvlm_vision_config *vision = &config->vision;
    char text[32];
    snprintf(text, sizeof text, "mobileclip_l_%zu", vision->resolution);
    json_object_set_new(object, "mm_vision_tower", json_string(text));
    snprintf(text, sizeof text, "mlp%zux_gelu", config->projector_layers);
    const char *projector = config->projector == FVLM_PROJECTOR_IDENTITY ? "identity" : text;
    json_object_set_new(object, "mm_projector_type", json_string(projector));
    json_object_set_new(object, "mm_hidden_size", json_integer((json_int_t)(2 * vision->widths[FVLM_STAGES - 1])));
    json_object_set_new(object, "mm_patch_merge_type", json_string(merges[config->merge]));
    json_object_set_new(object, "mm_use_im_start_end", json_false());
    json_object_set_new(object, "mm_use_im_patch_token", json_false());
    json_object_set_new(object, "mm_vision_select_layer", json_integer(-2));
    json_object_set_new(object, "mm_vision_select_feature", json_string("patch"));
    json_object_set_new(object, "unfreeze_mm_vision_tower", json_true());
    json_object_set_new(object, "tokenizer_model_max_length", json_integer(8192));
    json_object_set_new(object, "image_aspect_ratio", json_string(image_modes[config->image_mode]));
    if (is_fastvithd(vision))
        return;
    json_t *mixers = json_array();
    for (size_t i = 0; i < FVLM_STAGES; i++)
        json_array_append_new(mixers, json_string(vision->attention[i] ? "attention" : "repmixer"));
    json_object_set_new(object, "mm_vision_arch",
                        json_pack("{so so so so}", "layers", stage_sizes(vision->layers), "embed_dims",
                                  stage_sizes(vision->widths), "mlp_ratio", stage_sizes(vision->mlp_ratio),
                                  "token_mixers", mixers));
}

json_t *fvlm_export_llava_config(const fvlm_export_source *source, const char *dtype)
{
    json_t *object;
    if (source->config->fast_vlm) {
        object = json_pack("{s[s] ss}", "architectures", "LlavaQwen2ForCausalLM", "model_type", "llava_qwen2");
        set_decoder(object, source);
        set_multimodal(object, source);
        json_object_set_new(object, "eos_token_id", end_tokens(source));
    } else {
        object = json_deep_copy(source->json);
        json_object_del(object, "quantization");
        json_object_del(object, "quantization_config");
        json_object_set_new(object, "tie_word_embeddings", json_boolean(!source->own_head));
    }
    json_object_set_new(object, "torch_dtype", json_string(dtype));
    return object;
}

json_t *fvlm_export_fast_vlm_config(const fvlm_export_source *source, const char *dtype)
{
    const fvlm_vision_config *vision = &source->config->vision;
    size_t side = vision->resolution / FVLM_VISION_STRIDE;
    json_t *text = json_pack("{ss}", "model_type", "qwen2");
    set_decoder(text, source);
    if ((size_t)source->image_token >= source->config->decoder.vocabulary)
        json_object_set_new(text, "vocab_size", json_integer(source->image_token + 1));
    json_object_set_new(text, "rope_parameters",
                        json_pack("{ss sf}", "rope_type", "default", "rope_theta", source->config->decoder.rope_base));
    json_object_set_new(text, "eos_token_id", end_tokens(source));

    json_t *arguments = json_pack("{sb}", "inference_mode", 1);
    if (!is_fastvithd(vision)) {
        json_object_set_new(arguments, "layers", stage_sizes(vision->layers));
        json_object_set_new(arguments, "embed_dims", stage_sizes(vision->widths));
        json_object_set_new(arguments, "mlp_ratios", stage_sizes(vision->mlp_ratio));
    }
    json_t *tower =
        json_pack("{ss ss sb ss si sf so}", "model_type", "timm_wrapper", "architecture", "fastvit_mci3", "do_pooling",
                  1, "global_pool", "avg", "hidden_size", (int)(2 * vision->widths[FVLM_STAGES - 1]),
                  "initializer_range", 0.02, "model_args", arguments);
    return json_pack("{s[s] ss ss si si sb ss sb si ss so so}", "architectures", "FastVlmForConditionalGeneration",
                     "model_type", "fast_vlm", "dtype", dtype, "image_seq_length", (int)(side * side),
                     "image_token_index", (int)source->image_token, "multimodal_projector_bias", 1,
                     "projector_hidden_act", "gelu", "tie_word_embeddings", !source->own_head, "vision_feature_layer",
                     -1, "vision_feature_select_strategy", "full", "text_config", text, "vision_config", tower);
}

/* The source's generation_config.json, with the tokens that end an answer. */
static fvlm_status put_generation(const fvlm_export_source *source, const fvlm_export_folder *folder, fvlm_error *error)
{
    const fvlm_bundle *files = &source->model->files;
    json_t *object = NULL;
    fvlm_status status = FVLM_OK;
    if (fvlm_bundle_has(files, "generation_config.json"))
        status = fvlm_json_read_bundle(files, "generation_config.json", FILE_LIMIT, &object, error);
    if (status)
        return status;
    if (!object)
        object = json_object();
    if (!json_object_get(object, "eos_token_id"))
        json_object_set_new(object, "eos_token_id", end_tokens(source));
    return fvlm_export_put_json(folder, "generation_config.json", object, error);
}

fvlm_status fvlm_export_put_processor(const fvlm_export_source *source, const fvlm_export_folder *folder,
                                      fvlm_error *error)
{
    int side = (int)source->config->vision.resolution;
    /* LLaVA's own processor in transformers: the one that pads to a square. */
    json_t *picture =
        json_pack("{ss ss s{si si} s{si} sb sb sb sb sb sb si sf s[fff] s[fff]}", "image_processor_type",
                  "LlavaImageProcessor", "processor_class", "LlavaProcessor", "crop_size", "height", side, "width",
                  side, "size", "shortest_edge", side, "do_resize", 1, "do_center_crop", 1, "do_convert_rgb", 1,
                  "do_normalize", 1, "do_rescale", 1, "do_pad", source->config->image_mode == FVLM_IMAGE_PAD,
                  "resample", 3, "rescale_factor", 1.0 / 255, "image_mean", 0.0, 0.0, 0.0, "image_std", 1.0, 1.0, 1.0);
    fvlm_status status = fvlm_export_put_json(folder, "preprocessor_config.json", picture, error);
    if (!status)
        status = fvlm_export_put_json(folder, "processor_config.json",
                                      json_pack("{ss ss si si ss}", "processor_class", "LlavaProcessor", "image_token",
                                                "<image>", "num_additional_image_tokens", 0, "patch_size",
                                                FVLM_VISION_STRIDE, "vision_feature_select_strategy", "full"),
                                      error);
    return status ? status : put_generation(source, folder, error);
}
