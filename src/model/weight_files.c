/* Opening a checkpoint's weights: whatever the layout, tensors come out under the names and in the shapes of LLaVA
 * checkpoints.
 */
#include "model/weights.h"

#include <stdio.h>
#include <string.h>

#include "base/checked.h"

#define VISION "model.vision_tower.vision_tower.model."

/* If `from` starts with `prefix`, give what follows. */
static const char *after(const char *from, const char *prefix)
{
    size_t length = strlen(prefix);
    return strncmp(from, prefix, length) == 0 ? from + length : NULL;
}

/* The rest of a block's name: timm says layer_scale.gamma and mlp where LLaVA's says layer_scale and convffn. */
static void rename_block_part(const char *part, char *to, size_t to_size)
{
    const char *rest;
    if (strcmp(part, "layer_scale.gamma") == 0)
        snprintf(to, to_size, "layer_scale");
    else if (strcmp(part, "layer_scale_1.gamma") == 0)
        snprintf(to, to_size, "layer_scale_1");
    else if (strcmp(part, "layer_scale_2.gamma") == 0)
        snprintf(to, to_size, "layer_scale_2");
    else if ((rest = after(part, "mlp.")))
        snprintf(to, to_size, "convffn.%s", rest);
    else
        snprintf(to, to_size, "%s", part);
}

/* timm counts stages; LLaVA's `network` counts stages, downsamples and position encodings in order. */
static bool rename_timm(const char *from, char *to, size_t to_size)
{
    static const int downsample[] = {0, 1, 3, 5, 8}, position[] = {0, 0, 0, 6, 9}, blocks[] = {0, 2, 4, 7, 10};
    const char *rest;
    char part[FVLM_MAX_NAME];
    int stage, block, end = 0;
    if ((rest = after(from, "stem."))) {
        snprintf(to, to_size, VISION "patch_embed.%s", rest);
    } else if ((rest = after(from, "final_conv.se.fc1."))) {
        snprintf(to, to_size, VISION "conv_exp.se.reduce.%s", rest);
    } else if ((rest = after(from, "final_conv.se.fc2."))) {
        snprintf(to, to_size, VISION "conv_exp.se.expand.%s", rest);
    } else if ((rest = after(from, "final_conv."))) {
        snprintf(to, to_size, VISION "conv_exp.%s", rest);
    } else if (sscanf(from, "stages.%1d.%n", &stage, &end) == 1 && end > 0 && stage < 5) {
        rest = from + end;
        const char *tail;
        end = 0;
        if ((tail = after(rest, "downsample.proj.0.reparam_conv.")))
            snprintf(to, to_size, VISION "network.%d.proj.0.lkb_reparam.%s", downsample[stage], tail);
        else if ((tail = after(rest, "downsample.")))
            snprintf(to, to_size, VISION "network.%d.%s", downsample[stage], tail);
        else if ((tail = after(rest, "pos_emb.")))
            snprintf(to, to_size, VISION "network.%d.%s", position[stage], tail);
        else if (sscanf(rest, "blocks.%4d.%n", &block, &end) == 1 && end > 0) {
            rename_block_part(rest + end, part, sizeof part);
            snprintf(to, to_size, VISION "network.%d.%d.%s", blocks[stage], block, part);
        } else
            return false;
    } else {
        return false;
    }
    return true;
}

bool fvlm_rename_fast_vlm(const char *from, char *to, size_t to_size)
{
    const char *rest;
    if ((rest = after(from, "model.vision_tower.timm_model.")))
        return rename_timm(rest, to, to_size);
    if ((rest = after(from, "model.language_model.")))
        snprintf(to, to_size, "model.%s", rest);
    else if ((rest = after(from, "model.multi_modal_projector.linear_1.")))
        snprintf(to, to_size, "model.mm_projector.0.%s", rest);
    else if ((rest = after(from, "model.multi_modal_projector.linear_2.")))
        snprintf(to, to_size, "model.mm_projector.2.%s", rest);
    else
        return false;
    return true;
}

static bool rename_mlx(const char *from, char *to, size_t to_size)
{
    const char *rest;
    if ((rest = after(from, "language_model.")))
        snprintf(to, to_size, "%s", rest);
    else if ((rest = after(from, "multi_modal_projector.linear_")))
        snprintf(to, to_size, "model.mm_projector.%s", rest);
    else
        return false;
    return true;
}

/* mlx-vlm's own layout, which has the tower among the safetensors. */
static bool rename_mlx_vlm(const char *from, char *to, size_t to_size)
{
    const char *rest;
    if ((rest = after(from, "vision_tower.vision_model.patch_embed.blocks.")))
        snprintf(to, to_size, VISION "patch_embed.%s", rest);
    else if ((rest = after(from, "vision_tower.vision_model.")))
        snprintf(to, to_size, VISION "%s", rest);
    else if (after(from, "mm_projector."))
        snprintf(to, to_size, "model.%s", from);
    else
        return rename_mlx(from, to, to_size);
    return true;
}

/* MLX's convolutions are [out, height, width, in]: make them [out, in, height, width]. A copy where both `in` and the
 * kernel are more than one, which is the stem alone. */
static fvlm_status put_channels_first(fvlm_tensor_table *table, fvlm_error *error)
{
    for (size_t i = 0; i < fvlm_tensor_table_count(table); i++) {
        fvlm_tensor tensor = *fvlm_tensor_table_at(table, i);
        if (tensor.rank != 4 || !after(tensor.name, VISION))
            continue;
        size_t out = tensor.shape[0], pixels = tensor.shape[1] * tensor.shape[2], in = tensor.shape[3];
        memmove(tensor.shape + 2, tensor.shape + 1, 2 * sizeof tensor.shape[0]);
        tensor.shape[1] = in;
        if (in > 1 && pixels > 1) {
            size_t element = fvlm_dtype_bytes(tensor.type);
            uint8_t *copy = fvlm_tensor_table_alloc(table, tensor.bytes);
            if (!copy)
                return fvlm_fail_memory(error);
            const uint8_t *from = tensor.data;
            for (size_t o = 0; o < out; o++)
                for (size_t p = 0; p < pixels; p++)
                    for (size_t c = 0; c < in; c++, from += element)
                        memcpy(copy + ((o * in + c) * pixels + p) * element, from, element);
            tensor.data = copy;
        }
        fvlm_tensor_table_replace(table, i, &tensor);
    }
    return FVLM_OK;
}

fvlm_status fvlm_weights_open(const char *folder, const fvlm_config *config, fvlm_tensor_table **table,
                              const char **layout, fvlm_error *error)
{
    fvlm_status status = fvlm_tensor_table_create(table, error);
    if (!status)
        status = fvlm_checkpoint_read(*table, folder, layout, error);
    if (status)
        return status;
    if (config->fast_vlm) {
        *layout = "fast_vlm";
        return fvlm_tensor_table_rename(*table, fvlm_rename_fast_vlm, error);
    }
    if (!fvlm_tensor_table_find(*table, "language_model.model.norm.weight")) {
        *layout = strcmp(*layout, "bin") == 0 ? "llava-bin" : "llava";
        return FVLM_OK;
    }
    bool vision = fvlm_tensor_table_find(*table, "vision_tower.vision_model.conv_exp.reparam_conv.weight");
    *layout = vision ? "mlx-vlm" : "mlx";
    status = fvlm_tensor_table_rename(*table, vision ? rename_mlx_vlm : rename_mlx, error);
    return status || !vision ? status : put_channels_first(*table, error);
}
