/* MLX: the folder of Apple's exports, whose tower is a Core ML package, and mlx-vlm's own layout, which has the tower
 * among the weights, convolutions with channels last.
 */
#include <stdio.h>
#include <string.h>

#include "export/export_config.h"
#include "export/export_coreml.h"
#include "export/export_tensors.h"

#define PACKAGE "fastvithd.mlpackage"
#define TOWER "vision_tower.vision_model."
#define DEFAULT_GROUP 64

static bool is_language_model(const char *name, const fvlm_config *config)
{
    /* Only tiles have use for it, and clients refuse what they do not know. */
    if (strcmp(name, "model.image_newline") == 0)
        return config->image_mode == FVLM_IMAGE_ANYRES && config->merge == FVLM_MERGE_SPATIAL_UNPAD;
    return (fvlm_export_after(name, "model.layers.") && !strstr(name, "rotary_emb")) ||
           fvlm_export_after(name, "model.embed_tokens.") || fvlm_export_after(name, "model.norm.") ||
           strcmp(name, "lm_head.weight") == 0;
}

/* Names outside the tower; false for what the layouts do not have. */
static bool rename_tensor(const char *from, const fvlm_config *config, fvlm_mlx_layout layout, char *to, size_t to_size)
{
    const char *rest = fvlm_export_after(from, "model.mm_projector.");
    if (rest && layout == FVLM_MLX_VLM)
        snprintf(to, to_size, "mm_projector.%s", rest);
    else if (rest) /* a projector of one layer may have no number */
        snprintf(to, to_size, "multi_modal_projector.linear_%s%s", rest[0] >= '0' && rest[0] <= '9' ? "" : "0.", rest);
    else if (is_language_model(from, config))
        snprintf(to, to_size, "language_model.%s", from);
    else
        return false;
    return true;
}

/* Matrices of the language model and the projector are quantised, everything else is not. */
static void add_language_model(fvlm_export_list *list, const fvlm_mlx_options *options, fvlm_export_type type)
{
    const fvlm_tensor_table *table = list->source->table;
    size_t group = options->group ? (size_t)options->group : DEFAULT_GROUP;
    char name[FVLM_MAX_NAME];
    for (size_t i = 0; i < fvlm_tensor_table_count(table); i++) {
        const fvlm_tensor *tensor = fvlm_tensor_table_at(table, i);
        if (fvlm_export_ends_in(tensor->name, ".scales") || fvlm_export_ends_in(tensor->name, ".biases") ||
            !rename_tensor(tensor->name, list->source->config, options->layout, name, sizeof name))
            continue;
        if (options->bits == 0 || tensor->rank != 2 || !fvlm_export_ends_in(name, ".weight")) {
            fvlm_export_add(list, tensor, name, type);
        } else {
            name[strlen(name) - strlen(".weight")] = '\0';
            fvlm_export_add_quantized(list, tensor, name, (size_t)options->bits, group);
        }
    }
}

/* Convolutions become [out, height, width, in], layer scales [1, 1, channels]. */
static void put_channels_last(fvlm_export_tensor *tensor)
{
    size_t *shape = tensor->written.shape;
    if (tensor->written.rank == 4) {
        size_t in = shape[1];
        tensor->channels_last = in > 1 ? shape[2] * shape[3] : 1;
        memmove(shape + 1, shape + 2, 2 * sizeof *shape);
        shape[3] = in;
    } else if (tensor->written.rank == 3) {
        shape[2] = shape[0];
        shape[0] = 1;
    }
}

static void add_tower(fvlm_export_list *list, fvlm_export_type type)
{
    const fvlm_tensor_table *table = list->source->table;
    char name[FVLM_MAX_NAME];
    for (size_t i = 0; i < fvlm_tensor_table_count(table) && !list->status; i++) {
        const fvlm_tensor *tensor = fvlm_tensor_table_at(table, i);
        const char *rest = fvlm_export_after(tensor->name, FVLM_TOWER_PREFIX), *stem;
        if (!rest || fvlm_export_ends_in(rest, "num_batches_tracked"))
            continue;
        if ((stem = fvlm_export_after(rest, "patch_embed.")))
            snprintf(name, sizeof name, TOWER "patch_embed.blocks.%s", stem);
        else if (fvlm_export_after(rest, "network.") || fvlm_export_after(rest, "conv_exp."))
            snprintf(name, sizeof name, TOWER "%s", rest);
        else
            continue;
        if (fvlm_export_ends_in(rest, "convffn.conv.conv.bias")) {
            fvlm_export_add_unfolded(list, tensor, name, type);
            continue;
        }
        fvlm_export_add(list, tensor, name, type);
        if (!list->status)
            put_channels_last(&list->tensors[list->count - 1]);
    }
    /* mlx-vlm makes a classifier that it never asks: one of a single class, which config.json says. */
    size_t head[2] = {2 * list->source->config->vision.widths[FVLM_STAGES - 1], 1};
    fvlm_export_add_constant(list, TOWER "head.proj", FVLM_F16, 2, head, 0);
}

static json_t *make_config(const fvlm_export_source *source, const fvlm_mlx_options *options, fvlm_export_type type)
{
    json_t *config = fvlm_export_llava_config(source, fvlm_export_dtype(source, type));
    if (options->layout == FVLM_MLX_VLM)
        json_object_set_new(config, "vision_config",
                            json_pack("{ss si si}", "model_type", "llava_qwen2", "image_size",
                                      (int)source->config->vision.resolution, "projection_dim", 1));
    else
        json_object_set_new(config, "image_token_index", json_integer(source->image_token));
    if (options->bits)
        json_object_set_new(
            config, "quantization",
            json_pack("{si si}", "group_size", options->group ? options->group : DEFAULT_GROUP, "bits", options->bits));
    return config;
}

static fvlm_status check_options(const fvlm_export_options *options, const fvlm_mlx_options *mlx, fvlm_error *error)
{
    if (mlx->bits != 0 && mlx->bits != 4 && mlx->bits != 8)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "%d bits: MLX exports have 4 or 8, or none", mlx->bits);
    if (mlx->group != 0 && mlx->group != 32 && mlx->group != 64 && mlx->group != 128)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "groups of %d: MLX has 32, 64 and 128", mlx->group);
    if (mlx->bits != 0 && options->type != FVLM_EXPORT_DEFAULT && options->type != FVLM_EXPORT_FP16)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "quantised exports have fp16 for the rest");
    return FVLM_OK;
}

fvlm_status fvlm_export_mlx(const fvlm_export_options *options, const fvlm_mlx_options *mlx, fvlm_error *error)
{
    fvlm_export_job job;
    fvlm_export_list list = {0};
    fvlm_export_type type = options->type == FVLM_EXPORT_DEFAULT ? FVLM_EXPORT_FP16 : options->type;
    fvlm_status status = check_options(options, mlx, error);
    if (status)
        return status;
    status = fvlm_export_job_open(options, "config.json", &job, error);
    const fvlm_export_source *source = &job.source;
    if (!status && mlx->layout == FVLM_MLX_VLM && source->config->image_mode == FVLM_IMAGE_ANYRES)
        status =
            fvlm_fail(error, FVLM_ERROR_UNSUPPORTED,
                      "%s: mlx-vlm does not cut pictures into tiles, this model does (anyres)", source->model->path);
    if (!status) {
        fvlm_export_list_open(source, error, &list);
        add_language_model(&list, mlx, type);
        if (mlx->layout == FVLM_MLX_VLM)
            add_tower(&list, type);
        status = fvlm_export_list_write(&list, &job.folder, "mlx", options, error);
        fvlm_export_list_close(&list);
    }
    if (!status && mlx->layout == FVLM_MLX_APPLE)
        status = fvlm_export_put_package(source, &job.folder, PACKAGE, type, error);
    if (!status)
        status = fvlm_export_put_json(&job.folder, "config.json", make_config(source, mlx, type), error);
    if (!status)
        status = fvlm_export_put_processor(source, &job.folder, error);
    if (!status)
        status = fvlm_export_put_tokenizer(source, &job.folder, error);
    return fvlm_export_job_end(&job, status, error);
}
