/* transformers' fast_vlm: LLaVA's names become timm's for the tower, which counts stages where `network` counts
 * downsamples, positions and stages.
 */
#include <stdio.h>
#include <string.h>

#include "export/export_config.h"
#include "export/export_tensors.h"

#define TOWER "model.vision_tower.timm_model."

/* What stands at each place of `network`, and of which stage. */
static const struct {
    char kind; /* b: blocks, d: downsample, p: position encoding */
    int stage;
} network[] = {{'b', 0}, {'d', 1}, {'b', 1}, {'d', 2}, {'b', 2}, {'d', 3},
               {'p', 3}, {'b', 3}, {'d', 4}, {'p', 4}, {'b', 4}};
enum { NETWORK = sizeof network / sizeof network[0] };

static void rename_block_part(const char *part, char *to, size_t to_size)
{
    const char *rest;
    if (strcmp(part, "layer_scale") == 0 || strcmp(part, "layer_scale_1") == 0 || strcmp(part, "layer_scale_2") == 0)
        snprintf(to, to_size, "%s.gamma", part);
    else if ((rest = fvlm_export_after(part, "convffn.")))
        snprintf(to, to_size, "mlp.%s", rest);
    else
        snprintf(to, to_size, "%s", part);
}

/* The name behind LLaVA's prefix of the tower; false for what the layout does not have, such as the classifier that
 * training leaves behind. */
static bool rename_tower(const char *from, char *to, size_t to_size)
{
    const char *rest;
    char part[FVLM_MAX_NAME - 64];
    int place, block, end = 0;
    if ((rest = fvlm_export_after(from, "patch_embed."))) {
        snprintf(to, to_size, TOWER "stem.%s", rest);
    } else if ((rest = fvlm_export_after(from, "conv_exp.se.reduce."))) {
        snprintf(to, to_size, TOWER "final_conv.se.fc1.%s", rest);
    } else if ((rest = fvlm_export_after(from, "conv_exp.se.expand."))) {
        snprintf(to, to_size, TOWER "final_conv.se.fc2.%s", rest);
    } else if ((rest = fvlm_export_after(from, "conv_exp."))) {
        snprintf(to, to_size, TOWER "final_conv.%s", rest);
    } else if (sscanf(from, "network.%2d.%n", &place, &end) == 1 && end > 0 && place >= 0 && place < NETWORK) {
        int stage = network[place].stage;
        rest = from + end;
        const char *tail = fvlm_export_after(rest, "proj.0.lkb_reparam.");
        end = 0;
        if (network[place].kind == 'p')
            snprintf(to, to_size, TOWER "stages.%d.pos_emb.%s", stage, rest);
        else if (network[place].kind == 'd' && tail)
            snprintf(to, to_size, TOWER "stages.%d.downsample.proj.0.reparam_conv.%s", stage, tail);
        else if (network[place].kind == 'd')
            snprintf(to, to_size, TOWER "stages.%d.downsample.%s", stage, rest);
        else if (sscanf(rest, "%4d.%n", &block, &end) == 1 && end > 0) {
            rename_block_part(rest + end, part, sizeof part);
            snprintf(to, to_size, TOWER "stages.%d.blocks.%d.%s", stage, block, part);
        } else {
            return false;
        }
    } else {
        return false;
    }
    return true;
}

static bool rename_tensor(const char *from, char *to, size_t to_size)
{
    const char *rest;
    if ((rest = fvlm_export_after(from, FVLM_TOWER_PREFIX)))
        return rename_tower(rest, to, to_size);
    if ((rest = fvlm_export_after(from, "model.mm_projector.0.")))
        snprintf(to, to_size, "model.multi_modal_projector.linear_1.%s", rest);
    else if ((rest = fvlm_export_after(from, "model.mm_projector.2.")))
        snprintf(to, to_size, "model.multi_modal_projector.linear_2.%s", rest);
    else if (strcmp(from, "lm_head.weight") == 0)
        snprintf(to, to_size, "%s", from);
    else if ((fvlm_export_after(from, "model.layers.") && !strstr(from, "rotary_emb")) ||
             fvlm_export_after(from, "model.embed_tokens.") || fvlm_export_after(from, "model.norm."))
        snprintf(to, to_size, "model.language_model.%s", from + strlen("model."));
    else
        return false;
    return true;
}

static void add_tensors(fvlm_export_list *list, fvlm_export_type type)
{
    const fvlm_tensor_table *table = list->source->table;
    char name[FVLM_MAX_NAME];
    for (size_t i = 0; i < fvlm_tensor_table_count(table); i++) {
        const fvlm_tensor *tensor = fvlm_tensor_table_at(table, i);
        if (fvlm_export_ends_in(tensor->name, ".scales") || fvlm_export_ends_in(tensor->name, ".biases") ||
            fvlm_export_ends_in(tensor->name, ".num_batches_tracked") ||
            !rename_tensor(tensor->name, name, sizeof name))
            continue;
        bool folded = fvlm_export_ends_in(name, "mlp.conv.conv.bias");
        bool tokens =
            strcmp(tensor->name, "lm_head.weight") == 0 || fvlm_export_after(tensor->name, "model.embed_tokens.");
        if (tokens && (size_t)list->source->image_token == list->source->config->decoder.vocabulary)
            fvlm_export_add_longer(list, tensor, name, type);
        else if (folded)
            fvlm_export_add_unfolded(list, tensor, name, type);
        else
            fvlm_export_add(list, tensor, name, type);
        /* Every batch norm has a counter, which counts in training only. */
        if (folded || fvlm_export_ends_in(name, "mlp.conv.bn.running_var")) {
            size_t stem = strlen(name) - strlen(folded ? "conv.bias" : "bn.running_var");
            snprintf(name + stem, sizeof name - stem, "bn.num_batches_tracked");
            fvlm_export_add_constant(list, name, FVLM_I64, 0, NULL, 0);
        }
    }
}

static fvlm_status check_fits(const fvlm_export_source *source, fvlm_error *error)
{
    const fvlm_config *config = source->config;
    if (config->projector != FVLM_PROJECTOR_MLP || config->projector_layers != 2)
        return fvlm_fail(error, FVLM_ERROR_UNSUPPORTED,
                         "%s: fast_vlm has a projector of two layers, this model another: export it as mlx",
                         source->model->path);
    if (config->image_mode == FVLM_IMAGE_ANYRES)
        return fvlm_fail(error, FVLM_ERROR_UNSUPPORTED,
                         "%s: fast_vlm does not cut pictures into tiles, this model does (anyres)",
                         source->model->path);
    for (size_t i = 0; i < FVLM_STAGES; i++)
        if (config->vision.attention[i] != fvlm_fastvithd.attention[i])
            return fvlm_fail(error, FVLM_ERROR_UNSUPPORTED,
                             "%s: fast_vlm has attention in the last two stages alone, this model elsewhere",
                             source->model->path);
    if ((size_t)source->image_token > config->decoder.vocabulary)
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: its tokenizer has more tokens than the %zu embeddings",
                         source->model->path, config->decoder.vocabulary);
    return FVLM_OK;
}

fvlm_status fvlm_export_hf(const fvlm_export_options *options, fvlm_error *error)
{
    fvlm_export_job job;
    fvlm_export_list list = {0};
    fvlm_status status = fvlm_export_job_open(options, "config.json", &job, error);
    const fvlm_export_source *source = &job.source;
    if (!status)
        status = check_fits(source, error);
    if (!status) {
        fvlm_export_list_open(source, error, &list);
        add_tensors(&list, options->type);
        status = fvlm_export_list_write(&list, &job.folder, "pt", options, error);
        fvlm_export_list_close(&list);
    }
    if (!status)
        status =
            fvlm_export_put_json(&job.folder, "config.json",
                                 fvlm_export_fast_vlm_config(source, fvlm_export_dtype(source, options->type)), error);
    if (!status)
        status = fvlm_export_put_processor(source, &job.folder, error);
    if (!status)
        status = fvlm_export_put_tokenizer(source, &job.folder, error);
    return fvlm_export_job_end(&job, status, error);
}
