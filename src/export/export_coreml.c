/* The vision tower as a Core ML program, operation by operation as docs/model.md has it.
 *
 * Everything is channels first, [1, channels, height, width]; heights and widths are numbers where the package has one
 * input size, and known only when it runs where it has several. Batch norm is folded into the convolution before it,
 * layer scale stays a product, so that a package that is read back is the same model.
 */
#include "export/export_coreml.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "export/export_tensors.h"
#include "formats/mil_write.h"

#define NORM_EPS 1e-5f
#define HEAD FVLM_VISION_HEAD_DIM
#define INT8_LEAST 2048 /* weights of fewer values are not worth unpacking */
#define MAX_SIZES 16
#define NAME 128

struct tower {
    const fvlm_export_source *source;
    fvlm_mil_builder *builder;
    fvlm_arena *arena;
    bool int8;
    bool fixed; /* one input size */
    fvlm_status status;
    fvlm_error *error;
};

static void keep(struct tower *tower, fvlm_status status)
{
    if (!tower->status)
        tower->status = status ? status : fvlm_mil_builder_status(tower->builder);
}

static const fvlm_tensor *find(const struct tower *tower, const char *name, const char *suffix)
{
    char whole[FVLM_MAX_NAME];
    snprintf(whole, sizeof whole, FVLM_TOWER_PREFIX "%s%s", name, suffix);
    return fvlm_tensor_table_find(tower->source->table, whole);
}

/* float32 [count] in the arena; fvlm_export_source_open has checked that it is there. */
static float *read_vector(struct tower *tower, const char *name, const char *suffix, size_t count)
{
    keep(tower, FVLM_OK);
    if (tower->status)
        return NULL;
    const fvlm_tensor *tensor = find(tower, name, suffix);
    float *values = fvlm_arena_alloc(tower->arena, count, sizeof *values);
    if (values)
        fvlm_to_float(tensor->type, tensor->data, count, values);
    else
        keep(tower, fvlm_fail_memory(tower->error));
    return values;
}

/* One behind the other; names of the tower have at most 50 characters. */
static void join(const char *name, const char *part, char to[NAME])
{
    size_t length = 0;
    for (; *name && length < NAME - 1; name++)
        to[length++] = *name;
    for (; *part && length < NAME - 1; part++)
        to[length++] = *part;
    to[length] = '\0';
}

/* "network.0.1" and "_part" -> "network_0_1_part" */
static void identifier(const char *name, const char *part, char to[NAME])
{
    join(name, part, to);
    for (char *c = to; *c; c++)
        *c = *c == '.' ? '_' : *c;
}

static fvlm_mil_value add_vector(struct tower *tower, const char *name, int rank, const int64_t *shape, size_t count,
                                 const float *values)
{
    fvlm_mil_value value = fvlm_mil_begin_weight(tower->builder, name, rank, shape, false);
    size_t cols = count / (size_t)shape[0];
    for (size_t i = 0; values && i < (size_t)shape[0]; i++)
        fvlm_mil_weight_row(tower->builder, values + i * cols);
    return value;
}

struct conv {
    int64_t out, in; /* in: of one group */
    int32_t kernel, stride, groups;
    const float *scale, *bias; /* of each output channel; scale NULL: 1; bias NULL: NAME.bias, or none */
    bool no_bias;
};

/* The weights of `name` times conv->scale, row by row. */
static fvlm_mil_value add_weight(struct tower *tower, const char *name, const struct conv *conv)
{
    char id[NAME];
    int64_t shape[4] = {conv->out, conv->in, conv->kernel, conv->kernel};
    size_t cols = (size_t)(conv->in * conv->kernel * conv->kernel);
    identifier(name, "_weight", id);
    bool int8 = tower->int8 && (size_t)conv->out * cols >= INT8_LEAST;
    fvlm_mil_value value = fvlm_mil_begin_weight(tower->builder, id, 4, shape, int8);
    float *row = fvlm_arena_alloc(tower->arena, cols, sizeof *row);
    fvlm_matrix matrix = {0};
    keep(tower, FVLM_OK);
    if (!tower->status && !row)
        keep(tower, fvlm_fail_memory(tower->error));
    if (!tower->status)
        keep(tower, fvlm_export_find_matrix(tower->source->model, tower->arena, find(tower, name, ".weight"), &matrix,
                                            tower->error));
    matrix.rows = (size_t)conv->out;
    matrix.cols = cols;
    for (size_t r = 0; !tower->status && r < matrix.rows; r++) {
        fvlm_matrix_row(&matrix, r, row);
        for (size_t i = 0; conv->scale && i < cols; i++)
            row[i] *= conv->scale[r];
        fvlm_mil_weight_row(tower->builder, row);
        keep(tower, FVLM_OK);
    }
    return value;
}

static int64_t strided(int64_t side, int32_t stride)
{
    return side == FVLM_MIL_ANY ? side : (side + stride - 1) / stride;
}

static fvlm_mil_value add_conv(struct tower *tower, const char *name, const struct conv *conv, fvlm_mil_value x)
{
    char id[NAME];
    int32_t half = conv->kernel / 2, ones[] = {1, 1};
    int64_t shape[] = {1, conv->out, strided(x.shape[2], conv->stride), strided(x.shape[3], conv->stride)};
    fvlm_mil_value bias = {0}, weight = add_weight(tower, name, conv);
    if (!conv->no_bias) {
        const float *values = conv->bias ? conv->bias : read_vector(tower, name, ".bias", (size_t)conv->out);
        identifier(name, "_bias", id);
        bias = add_vector(tower, id, 1, &conv->out, (size_t)conv->out, values);
    }
    identifier(name, "", id);
    fvlm_mil_begin(tower->builder, "conv", id);
    fvlm_mil_set(tower->builder, "x", x);
    fvlm_mil_set(tower->builder, "weight", weight);
    if (!conv->no_bias)
        fvlm_mil_set(tower->builder, "bias", bias);
    fvlm_mil_set_text(tower->builder, "pad_type", "custom");
    fvlm_mil_set_integers(tower->builder, "pad", 4, (int32_t[]){half, half, half, half});
    fvlm_mil_set_integers(tower->builder, "strides", 2, (int32_t[]){conv->stride, conv->stride});
    fvlm_mil_set_integers(tower->builder, "dilations", 2, ones);
    fvlm_mil_set_integer(tower->builder, "groups", conv->groups);
    return fvlm_mil_end(tower->builder, 4, shape);
}

/* An operation of one input, whose shape the result has. */
static fvlm_mil_value add_unary(struct tower *tower, const char *type, const char *name, const char *part,
                                fvlm_mil_value x)
{
    char id[NAME];
    identifier(name, part, id);
    fvlm_mil_begin(tower->builder, type, id);
    fvlm_mil_set(tower->builder, "x", x);
    if (strcmp(type, "gelu") == 0)
        fvlm_mil_set_text(tower->builder, "mode", "EXACT");
    if (strcmp(type, "softmax") == 0)
        fvlm_mil_set_integer(tower->builder, "axis", -1);
    return fvlm_mil_end(tower->builder, x.rank, x.shape);
}

static fvlm_mil_value add_gelu(struct tower *tower, const char *name, fvlm_mil_value x)
{
    return add_unary(tower, "gelu", name, "_gelu", x);
}

/* Of two inputs; the result has x's shape. */
static fvlm_mil_value add_binary(struct tower *tower, const char *type, const char *name, const char *part,
                                 fvlm_mil_value x, fvlm_mil_value y)
{
    char id[NAME];
    identifier(name, part, id);
    fvlm_mil_begin(tower->builder, type, id);
    fvlm_mil_set(tower->builder, "x", x);
    fvlm_mil_set(tower->builder, "y", y);
    return fvlm_mil_end(tower->builder, x.rank, x.shape);
}

static fvlm_mil_value add_with_number(struct tower *tower, const char *type, const char *name, const char *part,
                                      fvlm_mil_value x, float y)
{
    char id[NAME];
    identifier(name, part, id);
    fvlm_mil_begin(tower->builder, type, id);
    fvlm_mil_set(tower->builder, "x", x);
    fvlm_mil_set_number(tower->builder, "y", y);
    return fvlm_mil_end(tower->builder, x.rank, x.shape);
}

/* The tensor NAMESUFFIX [channels] for each place of x: "mul" or "add". */
static fvlm_mil_value add_by_channel(struct tower *tower, const char *type, const char *name, const char *suffix,
                                     fvlm_mil_value x)
{
    char id[NAME], part[NAME];
    int64_t shape[] = {1, x.shape[1], 1, 1};
    size_t channels = (size_t)x.shape[1];
    identifier(name, suffix, id);
    fvlm_mil_value values = add_vector(tower, id, 4, shape, channels, read_vector(tower, name, suffix, channels));
    join(suffix, strcmp(type, "mul") == 0 ? "_mul" : "_add", part);
    return add_binary(tower, type, name, part, x, values);
}

static fvlm_mil_value add_mean(struct tower *tower, const char *name, const char *part, fvlm_mil_value x, size_t count,
                               const int32_t *axes)
{
    char id[NAME];
    fvlm_mil_value mean = x;
    for (size_t i = 0; i < count; i++)
        mean.shape[axes[i]] = 1;
    identifier(name, part, id);
    fvlm_mil_begin(tower->builder, "reduce_mean", id);
    fvlm_mil_set(tower->builder, "x", x);
    fvlm_mil_set_integers(tower->builder, "axes", count, axes);
    fvlm_mil_set_boolean(tower->builder, "keep_dims", true);
    return fvlm_mil_end(tower->builder, mean.rank, mean.shape);
}

/* Layer norm over channels, written out: Core ML's own is slow along that axis. */
static fvlm_mil_value add_layer_norm(struct tower *tower, const char *name, fvlm_mil_value x)
{
    static const int32_t channels = 1;
    char norm[NAME];
    join(name, ".norm", norm);
    fvlm_mil_value mean = add_mean(tower, norm, "_mean", x, 1, &channels);
    fvlm_mil_value centred = add_binary(tower, "sub", norm, "_centred", x, mean);
    fvlm_mil_value squares = add_with_number(tower, "pow", norm, "_squares", centred, 2);
    fvlm_mil_value variance = add_mean(tower, norm, "_variance", squares, 1, &channels);
    fvlm_mil_value safe = add_with_number(tower, "add", norm, "_safe", variance, NORM_EPS);
    fvlm_mil_value root = add_unary(tower, "sqrt", norm, "_root", safe);
    fvlm_mil_value normal = add_binary(tower, "real_div", norm, "_normal", centred, root);
    return add_by_channel(tower, "add", norm, ".bias", add_by_channel(tower, "mul", norm, ".weight", normal));
}

static fvlm_mil_value add_reshape(struct tower *tower, const char *name, const char *part, fvlm_mil_value x, int rank,
                                  const int32_t *sizes, const int64_t *shape)
{
    char id[NAME];
    identifier(name, part, id);
    fvlm_mil_begin(tower->builder, "reshape", id);
    fvlm_mil_set(tower->builder, "x", x);
    fvlm_mil_set_integers(tower->builder, "shape", (size_t)rank, sizes);
    return fvlm_mil_end(tower->builder, rank, shape);
}

static fvlm_mil_value add_matmul(struct tower *tower, const char *name, const char *part, fvlm_mil_value x, bool turn_x,
                                 fvlm_mil_value y, bool turn_y, const int64_t *shape)
{
    char id[NAME];
    identifier(name, part, id);
    fvlm_mil_begin(tower->builder, "matmul", id);
    fvlm_mil_set(tower->builder, "x", x);
    fvlm_mil_set(tower->builder, "y", y);
    fvlm_mil_set_boolean(tower->builder, "transpose_x", turn_x);
    fvlm_mil_set_boolean(tower->builder, "transpose_y", turn_y);
    return fvlm_mil_end(tower->builder, 4, shape);
}

/* Back to x's [1, channels, height, width]. */
static fvlm_mil_value unfold(struct tower *tower, const char *name, fvlm_mil_value value, fvlm_mil_value x)
{
    char id[NAME];
    if (tower->fixed) {
        int32_t sizes[] = {1, (int32_t)x.shape[1], (int32_t)x.shape[2], (int32_t)x.shape[3]};
        return add_reshape(tower, name, "_unfolded", value, 4, sizes, x.shape);
    }
    /* Height and width are nowhere but in the other value's shape. */
    identifier(name, "_shape", id);
    fvlm_mil_begin(tower->builder, "shape", id);
    fvlm_mil_set(tower->builder, "x", x);
    fvlm_mil_value sizes = fvlm_mil_end_type(tower->builder, FVLM_MIL_INT32, 1, (int64_t[]){4});
    identifier(name, "_unfolded", id);
    fvlm_mil_begin(tower->builder, "reshape", id);
    fvlm_mil_set(tower->builder, "x", value);
    fvlm_mil_set(tower->builder, "shape", sizes);
    return fvlm_mil_end(tower->builder, 4, x.shape);
}

static fvlm_mil_value add_attention(struct tower *tower, const char *block, fvlm_mil_value x)
{
    char mixer[NAME], name[NAME], id[NAME];
    int32_t channels = (int32_t)x.shape[1], heads = channels / HEAD;
    int64_t places = tower->fixed ? x.shape[2] * x.shape[3] : FVLM_MIL_ANY;
    int64_t folded[] = {1, heads, HEAD, places}, scores[] = {1, heads, places, places};
    fvlm_mil_value parts[3];
    join(block, ".token_mixer", mixer);
    join(mixer, ".qkv", name);
    struct conv qkv = {.out = 3 * channels, .in = channels, .kernel = 1, .stride = 1, .groups = 1, .no_bias = true};
    fvlm_mil_value all = add_conv(tower, name, &qkv, x);
    identifier(mixer, "_split", id);
    fvlm_mil_begin(tower->builder, "split", id);
    fvlm_mil_set(tower->builder, "x", all);
    fvlm_mil_set_integers(tower->builder, "split_sizes", 3, (int32_t[]){channels, channels, channels});
    fvlm_mil_set_integer(tower->builder, "axis", 1);
    fvlm_mil_end_many(tower->builder, 3, 4, x.shape, parts);
    static const char *const labels[] = {"_q", "_k", "_v"};
    for (int i = 0; i < 3; i++)
        parts[i] = add_reshape(tower, mixer, labels[i], parts[i], 4, (int32_t[]){1, heads, HEAD, -1}, folded);
    fvlm_mil_value query = add_with_number(tower, "mul", mixer, "_scaled", parts[0], 1 / sqrtf(HEAD));
    fvlm_mil_value logits = add_matmul(tower, mixer, "_logits", query, true, parts[1], false, scores);
    fvlm_mil_value weights = add_unary(tower, "softmax", mixer, "_weights", logits);
    fvlm_mil_value mixed = add_matmul(tower, mixer, "_mixed", parts[2], false, weights, true, folded);
    join(mixer, ".proj", name);
    struct conv projection = {.out = channels, .in = channels, .kernel = 1, .stride = 1, .groups = 1};
    return add_conv(tower, name, &projection, unfold(tower, mixer, mixed, x));
}

/* Batch norm as a scale and a shift of each channel, with the convolution's own bias, if it has one. */
static void read_norm(struct tower *tower, const char *name, size_t channels, struct conv *conv)
{
    char norm[NAME];
    join(name, ".convffn.conv.bn", norm);
    if (!find(tower, norm, ".weight"))
        return; /* folded already */
    float *weight = read_vector(tower, norm, ".weight", channels);
    float *bias = read_vector(tower, norm, ".bias", channels);
    const float *mean = read_vector(tower, norm, ".running_mean", channels);
    const float *variance = read_vector(tower, norm, ".running_var", channels);
    for (size_t i = 0; !tower->status && i < channels; i++) {
        weight[i] = (float)(weight[i] / sqrt((double)variance[i] + NORM_EPS));
        bias[i] = (float)(bias[i] - (double)mean[i] * weight[i]);
    }
    conv->scale = weight;
    conv->bias = bias;
}

/* x + scale * ffn(x) */
static fvlm_mil_value add_ffn(struct tower *tower, const char *block, const char *scale, size_t ratio, fvlm_mil_value x)
{
    char name[NAME];
    int64_t channels = x.shape[1], middle = channels * (int64_t)ratio;
    struct conv mix = {.out = channels, .in = 1, .kernel = 7, .stride = 1, .groups = (int32_t)channels};
    struct conv up = {.out = middle, .in = channels, .kernel = 1, .stride = 1, .groups = 1};
    struct conv down = {.out = channels, .in = middle, .kernel = 1, .stride = 1, .groups = 1};
    read_norm(tower, block, (size_t)channels, &mix);
    join(block, ".convffn.conv.conv", name);
    fvlm_mil_value y = add_conv(tower, name, &mix, x);
    join(block, ".convffn.fc1", name);
    y = add_gelu(tower, name, add_conv(tower, name, &up, y));
    join(block, ".convffn.fc2", name);
    y = add_by_channel(tower, "mul", block, scale, add_conv(tower, name, &down, y));
    return add_binary(tower, "add", block, "_ffn_sum", x, y);
}

static fvlm_mil_value add_depthwise(struct tower *tower, const char *name, int64_t out, int32_t kernel, int32_t stride,
                                    fvlm_mil_value x)
{
    struct conv conv = {.out = out, .in = 1, .kernel = kernel, .stride = stride, .groups = (int32_t)x.shape[1]};
    return add_conv(tower, name, &conv, x);
}

static fvlm_mil_value add_pointwise(struct tower *tower, const char *name, int64_t out, fvlm_mil_value x)
{
    struct conv conv = {.out = out, .in = x.shape[1], .kernel = 1, .stride = 1, .groups = 1};
    return add_conv(tower, name, &conv, x);
}

static fvlm_mil_value add_block(struct tower *tower, const char *block, bool attention, size_t ratio, fvlm_mil_value x)
{
    char name[NAME];
    if (!attention) {
        join(block, ".token_mixer.reparam_conv", name);
        return add_ffn(tower, block, ".layer_scale", ratio, add_depthwise(tower, name, x.shape[1], 3, 1, x));
    }
    fvlm_mil_value y = add_attention(tower, block, add_layer_norm(tower, block, x));
    y = add_by_channel(tower, "mul", block, ".layer_scale_1", y);
    return add_ffn(tower, block, ".layer_scale_2", ratio, add_binary(tower, "add", block, "_mixer_sum", x, y));
}

/* conv_exp: twice the channels, each then gated by what squeeze-excite makes of all places. */
static fvlm_mil_value add_expansion(struct tower *tower, fvlm_mil_value x)
{
    static const int32_t places[] = {2, 3};
    const char *name = "conv_exp";
    int64_t channels = 2 * x.shape[1];
    fvlm_mil_value wide = add_depthwise(tower, "conv_exp.reparam_conv", channels, 3, 1, x);
    fvlm_mil_value gate = add_mean(tower, name, "_mean", wide, 2, places);
    gate = add_pointwise(tower, "conv_exp.se.reduce", channels / 16, gate);
    gate = add_unary(tower, "relu", name, "_relu", gate);
    gate = add_pointwise(tower, "conv_exp.se.expand", channels, gate);
    gate = add_unary(tower, "sigmoid", name, "_gate", gate);
    return add_gelu(tower, name, add_binary(tower, "mul", name, "_gated", wide, gate));
}

static fvlm_mil_value cast(struct tower *tower, const char *name, fvlm_mil_value x, int type)
{
    fvlm_mil_begin(tower->builder, "cast", name);
    fvlm_mil_set(tower->builder, "x", x);
    fvlm_mil_set_text(tower->builder, "dtype", type == FVLM_MIL_FLOAT16 ? "fp16" : "fp32");
    return fvlm_mil_end_type(tower->builder, type, x.rank, x.shape);
}

/* The whole program; `half`: fp16 between float32 ends. */
static fvlm_mil_value add_tower(struct tower *tower, int64_t side, bool half)
{
    const fvlm_vision_config *config = &tower->source->config->vision;
    int64_t image[] = {1, 3, side, side}, width = (int64_t)config->widths[0];
    fvlm_mil_value x = fvlm_mil_add_input(tower->builder, "images", 4, image);
    if (half)
        x = cast(tower, "images_fp16", x, FVLM_MIL_FLOAT16);
    struct conv stem = {.out = width, .in = 3, .kernel = 3, .stride = 2, .groups = 1};
    const char *name = "patch_embed.0.reparam_conv";
    x = add_gelu(tower, name, add_conv(tower, name, &stem, x));
    name = "patch_embed.1.reparam_conv";
    x = add_gelu(tower, name, add_depthwise(tower, name, width, 3, 2, x));
    name = "patch_embed.2.reparam_conv";
    x = add_gelu(tower, name, add_pointwise(tower, name, width, x));

    char part[NAME];
    int place = 0; /* in `network`, which counts downsamples, positions and stages */
    for (size_t stage = 0; stage < FVLM_STAGES; stage++) {
        if (stage > 0) {
            snprintf(part, sizeof part, "network.%d.proj.0.lkb_reparam", place);
            x = add_gelu(tower, part, add_depthwise(tower, part, (int64_t)config->widths[stage], 7, 2, x));
            snprintf(part, sizeof part, "network.%d.proj.1.reparam_conv", place++);
            x = add_gelu(tower, part, add_pointwise(tower, part, (int64_t)config->widths[stage], x));
        }
        if (config->attention[stage]) {
            snprintf(part, sizeof part, "network.%d.reparam_conv", place++);
            x = add_depthwise(tower, part, x.shape[1], 7, 1, x);
        }
        for (size_t block = 0; block < config->layers[stage] && !tower->status; block++) {
            snprintf(part, sizeof part, "network.%d.%zu", place, block);
            x = add_block(tower, part, config->attention[stage], config->mlp_ratio[stage], x);
        }
        place++;
    }
    x = add_expansion(tower, x);

    int64_t places = tower->fixed ? x.shape[2] * x.shape[3] : FVLM_MIL_ANY;
    int64_t flat[] = {1, x.shape[1], places}, turned[] = {1, places, x.shape[1]};
    x = add_reshape(tower, "features", "_flat", x, 3, (int32_t[]){1, (int32_t)x.shape[1], -1}, flat);
    fvlm_mil_begin(tower->builder, "transpose", half ? "features_fp16" : "image_features");
    fvlm_mil_set(tower->builder, "x", x);
    fvlm_mil_set_integers(tower->builder, "perm", 3, (int32_t[]){0, 2, 1});
    x = fvlm_mil_end(tower->builder, 3, turned);
    return half ? cast(tower, "image_features", x, FVLM_MIL_FLOAT32) : x;
}

static fvlm_status check_sizes(const fvlm_coreml_options *coreml, fvlm_error *error)
{
    if (coreml->size_count > MAX_SIZES)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "more than %d input sizes", MAX_SIZES);
    for (size_t i = 0; i < coreml->size_count; i++) {
        if (coreml->sizes[i] <= 0 || coreml->sizes[i] > 4096 || coreml->sizes[i] % FVLM_VISION_STRIDE != 0)
            return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "an input of %d pixels: sizes are multiples of %d up to 4096",
                             coreml->sizes[i], FVLM_VISION_STRIDE);
        for (size_t k = 0; k < i; k++)
            if (coreml->sizes[k] == coreml->sizes[i])
                return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "the input size %d is given twice", coreml->sizes[i]);
    }
    return FVLM_OK;
}

/* Write the package at `path`. */
static fvlm_status write_package(const fvlm_export_source *source, const char *path, fvlm_export_type type,
                                 const fvlm_coreml_options *coreml, fvlm_error *error)
{
    int64_t shapes[MAX_SIZES][4] = {{1, 3, (int64_t)source->config->vision.resolution, 0}};
    shapes[0][3] = shapes[0][2];
    fvlm_mil_about about = {.description = "FastViTHD, the vision tower of FastVLM: pixels from 0 to 1, features of "
                                           "64 x 64 of them",
                            .author = "fastvlm",
                            .version = FVLM_VERSION,
                            .shapes = (const int64_t(*)[4])shapes,
                            .shape_count = coreml->size_count > 1 ? coreml->size_count : 1};
    for (size_t i = 0; i < coreml->size_count; i++) {
        shapes[i][0] = 1;
        shapes[i][1] = 3;
        shapes[i][2] = shapes[i][3] = coreml->sizes[i];
    }
    struct tower tower = {.source = source, .int8 = coreml->int8, .fixed = about.shape_count == 1, .error = error};
    bool half = type != FVLM_EXPORT_FP32;
    tower.arena = fvlm_arena_create();
    if (!tower.arena)
        return fvlm_fail_memory(error);
    fvlm_status status = fvlm_mil_builder_open(path, half ? FVLM_MIL_FLOAT16 : FVLM_MIL_FLOAT32, &tower.builder, error);
    if (!status) {
        fvlm_mil_value features = add_tower(&tower, tower.fixed ? shapes[0][2] : FVLM_MIL_ANY, half);
        status = tower.status ? tower.status : fvlm_mil_builder_finish(tower.builder, features, &about);
    }
    fvlm_mil_builder_close(&tower.builder);
    fvlm_arena_destroy(&tower.arena);
    return status;
}

fvlm_status fvlm_export_put_package(const fvlm_export_source *source, const fvlm_export_folder *folder,
                                    const char *name, fvlm_export_type type, fvlm_error *error)
{
    char *path = fvlm_path_join(folder->aside, name);
    fvlm_status status =
        path ? write_package(source, path, type, &(fvlm_coreml_options){0}, error) : fvlm_fail_memory(error);
    free(path);
    return status;
}

fvlm_status fvlm_export_coreml(const fvlm_export_options *options, const fvlm_coreml_options *coreml, fvlm_error *error)
{
    fvlm_export_job job;
    if (options->type == FVLM_EXPORT_BF16)
        return fvlm_fail(error, FVLM_ERROR_UNSUPPORTED, "Core ML has no bf16: fp16 or fp32");
    fvlm_status status = check_sizes(coreml, error);
    if (status)
        return status;
    status = fvlm_export_job_open(options, "Manifest.json", &job, error);
    if (!status)
        status = write_package(&job.source, job.folder.aside, options->type, coreml, error);
    return fvlm_export_job_end(&job, status, error);
}
