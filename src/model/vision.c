/* The tower's weights and forward pass.
 *
 * Loading reorders depthwise weights for the kernels, folds batch norm into them, and packs 1x1 convolutions.
 * The forward pass moves x between two buffers of the workspace, [pixels, channels] each; what is wider exists in
 * parts only, but for an attention block's queries, keys and values.
 */
#include "model/vision.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/cpu.h"
#include "kernels/conv.h"
#include "kernels/gemm.h"
#include "kernels/norm.h"
#include "kernels/packed.h"

#define PREFIX "model.vision_tower.vision_tower.model."
#define NORM_EPS 1e-5f /* batch norm and layer norm alike (PyTorch's default) */
#define BLOCK_NAME 96  /* bytes that hold the name of a stage's or block's tensors without their last parts */
#define SQUEEZE 16     /* conv_exp's squeeze-excite goes through width / 16 channels */

_Static_assert(FVLM_VISION_HEAD_DIM == FVLM_PACKED_HEAD, "heads are as the kernel takes them");

/* A depthwise convolution's weights, packed for the kernel. */
struct depthwise {
    size_t channels, kernel, stride, multiplier;
    const float *weight, *bias;
};

/* A linear layer, or a 1x1 convolution. */
struct linear {
    fvlm_matrix weight;
    const float *bias;  /* [rows], or NULL */
    fvlm_packed packed; /* the weights once more; data NULL: of a layer that sees one row only */
};

/* Depthwise 7x7 with batch norm folded, then channels -> ratio * channels -> channels. */
struct conv_ffn {
    struct depthwise conv;
    const uint32_t *conv_units; /* conv for bf16, or NULL: in float32 */
    struct linear fc1, fc2;
    const float *scale; /* layer scale [channels] */
};

struct block {
    struct depthwise mixer;                                 /* rep-mixer */
    const float *norm_weight, *norm_bias, *attention_scale; /* attention: [channels] each */
    struct linear qkv, projection;
    struct conv_ffn ffn;
};

struct stage {
    bool attention;
    size_t channels, block_count;
    struct depthwise downsample; /* channels == 0: none (the first stage) */
    struct linear downsample_linear;
    struct depthwise position; /* channels == 0: none */
    struct block *blocks;
};

struct fvlm_vision {
    const float *stem_weight, *stem_bias; /* [27, width], [width] */
    struct depthwise stem_depthwise;
    struct linear stem_linear;
    struct stage stages[FVLM_STAGES];
    struct depthwise expand;
    struct linear squeeze, excite;
    fvlm_packed_type between; /* of the products that are no linear layers: attention's, feed-forward convolutions' */
};

/* Loading. */

static struct linear load_linear(fvlm_loader *loader, size_t rows, size_t cols, bool bias, const char *name)
{
    struct linear linear = {.weight = fvlm_load_matrix(loader, rows, cols, "%s", name)};
    if (bias)
        linear.bias = fvlm_load_vector(loader, rows, "%s.bias", name);
    return linear;
}

/* `scale` [channels] multiplies the weights; `bias` is what is added (NULL: name.bias). */
static struct depthwise load_depthwise(fvlm_loader *loader, size_t channels, size_t kernel, size_t stride,
                                       size_t multiplier, const float *scale, const float *bias, const char *name)
{
    struct depthwise conv = {.channels = channels, .kernel = kernel, .stride = stride, .multiplier = multiplier};
    size_t count = channels * kernel * kernel;
    const float *stored = fvlm_load_vector(loader, count, "%s.weight", name);
    float *packed = fvlm_loader_alloc(loader, count);
    conv.bias = bias ? bias : fvlm_load_vector(loader, channels, "%s.bias", name);
    if (!loader->status) {
        fvlm_depthwise_pack(stored, channels, kernel, scale, packed);
        conv.weight = packed;
    }
    return conv;
}

/* Batch norm as y = scale x + shift: scale = weight / sqrt(variance + eps), shift = bias - mean scale. */
static void load_batch_norm(fvlm_loader *loader, size_t channels, const char *name, const float **scale,
                            const float **shift)
{
    const float *weight = fvlm_load_vector(loader, channels, "%s.weight", name);
    const float *bias = fvlm_load_vector(loader, channels, "%s.bias", name);
    const float *mean = fvlm_load_vector(loader, channels, "%s.running_mean", name);
    const float *variance = fvlm_load_vector(loader, channels, "%s.running_var", name);
    float *a = fvlm_loader_alloc(loader, channels), *b = fvlm_loader_alloc(loader, channels);
    if (loader->status)
        return;
    for (size_t i = 0; i < channels; i++) {
        a[i] = (float)(weight[i] / sqrt((double)variance[i] + NORM_EPS));
        b[i] = (float)(bias[i] - (double)mean[i] * a[i]);
    }
    *scale = a;
    *shift = b;
}

static struct conv_ffn load_ffn(fvlm_loader *loader, size_t channels, size_t ratio, const char *block,
                                const char *scale_name)
{
    struct conv_ffn ffn = {0};
    char name[FVLM_MAX_NAME];
    const float *scale = NULL, *shift = NULL;
    snprintf(name, sizeof name, "%s.convffn.conv.bn", block);
    /* CoreML packages come with the batch norm already folded into a convolution with a bias. */
    if (fvlm_loader_has(loader, "%s.weight", name))
        load_batch_norm(loader, channels, name, &scale, &shift);
    snprintf(name, sizeof name, "%s.convffn.conv.conv", block);
    ffn.conv = load_depthwise(loader, channels, 7, 1, 1, scale, shift, name);
    snprintf(name, sizeof name, "%s.convffn.fc1", block);
    ffn.fc1 = load_linear(loader, ratio * channels, channels, true, name);
    snprintf(name, sizeof name, "%s.convffn.fc2", block);
    ffn.fc2 = load_linear(loader, channels, ratio * channels, true, name);
    ffn.scale = fvlm_load_vector(loader, channels, "%s.%s", block, scale_name);
    return ffn;
}

static void load_block(fvlm_loader *loader, const struct stage *stage, size_t ratio, const char *name,
                       struct block *block)
{
    size_t channels = stage->channels;
    char part[FVLM_MAX_NAME];
    if (!stage->attention) {
        snprintf(part, sizeof part, "%s.token_mixer.reparam_conv", name);
        block->mixer = load_depthwise(loader, channels, 3, 1, 1, NULL, NULL, part);
        block->ffn = load_ffn(loader, channels, ratio, name, "layer_scale");
        return;
    }
    block->norm_weight = fvlm_load_vector(loader, channels, "%s.norm.weight", name);
    block->norm_bias = fvlm_load_vector(loader, channels, "%s.norm.bias", name);
    block->attention_scale = fvlm_load_vector(loader, channels, "%s.layer_scale_1", name);
    snprintf(part, sizeof part, "%s.token_mixer.qkv", name);
    block->qkv = load_linear(loader, 3 * channels, channels, false, part);
    snprintf(part, sizeof part, "%s.token_mixer.proj", name);
    block->projection = load_linear(loader, channels, channels, true, part);
    block->ffn = load_ffn(loader, channels, ratio, name, "layer_scale_2");
}

/* `network` is the running index of LLaVA's names: it counts downsamples, position encodings and stages. */
static void load_stage(fvlm_loader *loader, const fvlm_vision_config *config, size_t index, int *network,
                       struct stage *stage)
{
    char name[BLOCK_NAME];
    size_t channels = config->widths[index];
    stage->attention = config->attention[index];
    stage->channels = channels;
    if (index > 0) {
        snprintf(name, sizeof name, PREFIX "network.%d.proj.0.lkb_reparam", *network);
        stage->downsample =
            load_depthwise(loader, channels, 7, 2, channels / config->widths[index - 1], NULL, NULL, name);
        snprintf(name, sizeof name, PREFIX "network.%d.proj.1.reparam_conv", (*network)++);
        stage->downsample_linear = load_linear(loader, channels, channels, true, name);
    }
    if (stage->attention) {
        snprintf(name, sizeof name, PREFIX "network.%d.reparam_conv", (*network)++);
        stage->position = load_depthwise(loader, channels, 7, 1, 1, NULL, NULL, name);
    }
    if (loader->status)
        return;
    stage->block_count = config->layers[index];
    stage->blocks = fvlm_arena_alloc(loader->arena, stage->block_count, sizeof *stage->blocks);
    if (!stage->blocks) {
        loader->status = fvlm_fail_memory(loader->error);
        return;
    }
    for (size_t i = 0; i < stage->block_count && !loader->status; i++) {
        snprintf(name, sizeof name, PREFIX "network.%d.%zu", *network, i);
        load_block(loader, stage, config->mlp_ratio[index], name, &stage->blocks[i]);
    }
    (*network)++;
}

static fvlm_depthwise depthwise_shape(const struct depthwise *conv, size_t side, fvlm_activation activation)
{
    return (fvlm_depthwise){.height = side,
                            .width = side,
                            .channels = conv->channels,
                            .multiplier = conv->multiplier,
                            .kernel = conv->kernel,
                            .stride = conv->stride,
                            .weight = conv->weight,
                            .bias = conv->bias,
                            .activation = activation};
}

/* The side of stage i's picture. */
static size_t stage_side(size_t resolution, size_t index)
{
    return resolution / 4 >> index;
}

/* The integers of processors that keep activations to 7 bits are left to feed-forward blocks, nine tenths of the work:
 * in bf16 the rest brings the least cosine of a feature from 0.994 to 0.995, at 4 % of the time. */
static fvlm_packed_type packed_type(fvlm_precision precision, fvlm_dtype stored, bool feed_forward)
{
    if (precision == FVLM_PRECISION_INT8 && (feed_forward || fvlm_packed_int8_levels() == 255))
        return FVLM_PACKED_INT8;
    if (precision != FVLM_PRECISION_FP32)
        return FVLM_PACKED_BF16;
    return stored == FVLM_BF16 ? FVLM_PACKED_FP32_BF16 : FVLM_PACKED_FP32;
}

static void pack_linear(fvlm_loader *loader, fvlm_precision precision, bool feed_forward, struct linear *linear)
{
    if (loader->status)
        return;
    const fvlm_matrix *weight = &linear->weight;
    fvlm_packed_type type = packed_type(precision, weight->type, feed_forward);
    size_t bytes = fvlm_packed_bytes(type, weight->rows, weight->cols);
    void *memory = bytes == 0 ? NULL : fvlm_arena_alloc(loader->arena, bytes, 1);
    if (bytes == 0)
        loader->status = fvlm_fail(loader->error, FVLM_ERROR_UNSUPPORTED,
                                   "a layer of the vision tower takes %zu inputs, which is too many", weight->cols);
    else if (!memory)
        loader->status = fvlm_fail_memory(loader->error);
    else
        fvlm_packed_fill(loader->pool, type, weight, memory, &linear->packed);
}

static void pack_convolution(fvlm_loader *loader, struct conv_ffn *ffn)
{
    fvlm_depthwise conv = depthwise_shape(&ffn->conv, 0, FVLM_ACTIVATION_NONE);
    uint32_t *units =
        loader->status ? NULL
                       : fvlm_arena_alloc(loader->arena, fvlm_packed_convolution_units(conv.channels), sizeof *units);
    if (units)
        fvlm_packed_convolution(&conv, units);
    else if (!loader->status)
        loader->status = fvlm_fail_memory(loader->error);
    ffn->conv_units = units;
}

/* Every linear layer of the tower but the two of squeeze-excite, which see one row, and the feed-forward blocks'
 * convolutions where they are faster in bf16. */
static void pack_layers(fvlm_loader *loader, fvlm_precision precision, fvlm_vision *vision)
{
    pack_linear(loader, precision, false, &vision->stem_linear);
    for (size_t i = 0; i < FVLM_STAGES && !loader->status; i++) {
        struct stage *stage = &vision->stages[i];
        if (stage->downsample.channels)
            pack_linear(loader, precision, false, &stage->downsample_linear);
        for (size_t j = 0; j < stage->block_count; j++) {
            struct block *block = &stage->blocks[j];
            if (stage->attention) {
                pack_linear(loader, precision, false, &block->qkv);
                pack_linear(loader, precision, false, &block->projection);
            }
            pack_linear(loader, precision, true, &block->ffn.fc1);
            pack_linear(loader, precision, true, &block->ffn.fc2);
            if (vision->between == FVLM_PACKED_BF16)
                pack_convolution(loader, &block->ffn);
        }
    }
}

fvlm_vision *fvlm_vision_load(fvlm_loader *loader, const fvlm_vision_config *config, fvlm_precision precision)
{
    fvlm_vision *vision = loader->status ? NULL : fvlm_arena_alloc(loader->arena, 1, sizeof *vision);
    if (!vision) {
        if (!loader->status)
            loader->status = fvlm_fail_memory(loader->error);
        return NULL;
    }
    size_t width = config->widths[0], last = config->widths[FVLM_STAGES - 1];
    const float *stem = fvlm_load_vector(loader, width * 27, PREFIX "patch_embed.0.reparam_conv.weight");
    float *packed = fvlm_loader_alloc(loader, width * 27);
    if (!loader->status)
        fvlm_stem_pack(stem, width, packed);
    vision->stem_weight = packed;
    vision->stem_bias = fvlm_load_vector(loader, width, PREFIX "patch_embed.0.reparam_conv.bias");
    vision->stem_depthwise = load_depthwise(loader, width, 3, 2, 1, NULL, NULL, PREFIX "patch_embed.1.reparam_conv");
    vision->stem_linear = load_linear(loader, width, width, true, PREFIX "patch_embed.2.reparam_conv");
    int network = 0;
    for (size_t i = 0; i < FVLM_STAGES && !loader->status; i++)
        load_stage(loader, config, i, &network, &vision->stages[i]);
    vision->expand = load_depthwise(loader, 2 * last, 3, 1, 2, NULL, NULL, PREFIX "conv_exp.reparam_conv");
    vision->squeeze = load_linear(loader, 2 * last / SQUEEZE, 2 * last, true, PREFIX "conv_exp.se.reduce");
    vision->excite = load_linear(loader, 2 * last, 2 * last / SQUEEZE, true, PREFIX "conv_exp.se.expand");
    vision->between =
        precision != FVLM_PRECISION_FP32 && fvlm_packed_multiplies_bf16() ? FVLM_PACKED_BF16 : FVLM_PACKED_FP32;
    pack_layers(loader, precision, vision);
    return loader->status ? NULL : vision;
}

fvlm_precision fvlm_vision_fastest(void)
{
    /* NEON multiplies 8-bit integers no faster than floats; plain C gains nothing from them. */
    return fvlm_cpu_flags() & FVLM_CPU_AVX2 ? FVLM_PRECISION_INT8 : FVLM_PRECISION_FP32;
}

size_t fvlm_vision_width(const fvlm_vision *vision)
{
    return vision->expand.channels;
}

/* Workspace: where each buffer starts, in floats. */

struct layout {
    size_t x, mixed; /* two buffers of `plane` floats: the residual stream and what blocks put beside it */
    size_t qkv;      /* [pixels, 3 * channels] of an attention block */
    size_t total;
};

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static struct layout plan(const fvlm_vision *vision, size_t resolution)
{
    /* Squeeze-excite's two vectors need as much too. */
    size_t plane = vision->expand.channels + vision->squeeze.weight.rows, qkv = 0;
    for (size_t i = 0; i < FVLM_STAGES; i++) {
        const struct stage *stage = &vision->stages[i];
        size_t side = stage_side(resolution, i), pixels = side * side;
        plane = larger(plane, pixels * stage->channels);
        if (stage->attention)
            qkv = larger(qkv, pixels * 3 * stage->channels);
    }
    struct layout layout = {.x = 0, .mixed = plane, .qkv = 2 * plane};
    layout.total = layout.qkv + qkv;
    return layout;
}

size_t fvlm_vision_workspace(const fvlm_vision *vision, size_t resolution)
{
    return plan(vision, resolution).total;
}

/* The forward pass. */

struct pass {
    const fvlm_vision *vision;
    fvlm_pool *pool;
    struct layout layout;
    float *workspace;
    fvlm_stage_fn on_stage;
    void *user;
    float *x, *mixed; /* [side * side, channels]; blocks swap them */
    size_t side;
};

static void run_depthwise(const struct pass *pass, const struct depthwise *conv, size_t side,
                          fvlm_activation activation, const float *x, float *y)
{
    fvlm_depthwise shape = depthwise_shape(conv, side, activation);
    fvlm_depthwise_forward(pass->pool, &shape, 1, x, y);
}

static void run_linear(const struct pass *pass, const struct linear *linear, const float *x, size_t rows, float *y,
                       fvlm_epilogue epilogue)
{
    epilogue.bias = linear->bias;
    epilogue.residual_stride = linear->weight.rows;
    if (linear->packed.data)
        fvlm_packed_linear(pass->pool, &linear->packed, x, rows, linear->weight.cols, y, linear->weight.rows,
                           &epilogue);
    else
        fvlm_linear(pass->pool, &linear->weight, x, rows, linear->weight.cols, y, linear->weight.rows, &epilogue);
}

static void swap_buffers(float **a, float **b)
{
    float *old = *a;
    *a = *b;
    *b = old;
}

/* x = x + scale * fc2(gelu(fc1(conv(x)))) */
static void run_ffn(struct pass *pass, const struct conv_ffn *ffn)
{
    fvlm_packed_ffn packed = {.conv = depthwise_shape(&ffn->conv, pass->side, FVLM_ACTIVATION_NONE),
                              .conv_units = ffn->conv_units,
                              .fc1 = ffn->fc1.packed,
                              .fc2 = ffn->fc2.packed,
                              .bias1 = ffn->fc1.bias,
                              .bias2 = ffn->fc2.bias,
                              .scale = ffn->scale};
    fvlm_packed_ffn_forward(pass->pool, &packed, pass->x, pass->mixed);
    swap_buffers(&pass->x, &pass->mixed);
}

/* x = x + scale * projection(attention(layer_norm(x))) */
static void run_attention(const struct pass *pass, const struct block *block, size_t channels)
{
    size_t pixels = pass->side * pass->side;
    float *qkv = pass->workspace + pass->layout.qkv;
    fvlm_layer_norm(pass->pool, pass->x, pixels, channels, block->norm_weight, block->norm_bias, NORM_EPS, pass->mixed);
    run_linear(pass, &block->qkv, pass->mixed, pixels, qkv, (fvlm_epilogue){0});
    fvlm_packed_attention(pass->pool, pass->vision->between, pixels, channels / FVLM_VISION_HEAD_DIM, qkv, pass->mixed);
    run_linear(pass, &block->projection, pass->mixed, pixels, pass->x,
               (fvlm_epilogue){.scale = block->attention_scale, .residual = pass->x});
}

static void run_block(struct pass *pass, const struct stage *stage, const struct block *block)
{
    if (stage->attention) {
        run_attention(pass, block, stage->channels);
    } else {
        run_depthwise(pass, &block->mixer, pass->side, FVLM_ACTIVATION_NONE, pass->x, pass->mixed);
        swap_buffers(&pass->x, &pass->mixed);
    }
    run_ffn(pass, &block->ffn);
}

static void report(const struct pass *pass, int *network, size_t channels)
{
    char name[32];
    snprintf(name, sizeof name, "network.%d", (*network)++);
    if (pass->on_stage)
        pass->on_stage(pass->user, name, pass->x, pass->side, pass->side, channels);
}

static void run_stage(struct pass *pass, const struct stage *stage, int *network)
{
    if (stage->downsample.channels) {
        run_depthwise(pass, &stage->downsample, pass->side, FVLM_ACTIVATION_GELU, pass->x, pass->mixed);
        pass->side = (pass->side + 1) / 2;
        run_linear(pass, &stage->downsample_linear, pass->mixed, pass->side * pass->side, pass->x,
                   (fvlm_epilogue){.activation = FVLM_ACTIVATION_GELU});
        report(pass, network, stage->channels);
    }
    if (stage->position.channels) {
        run_depthwise(pass, &stage->position, pass->side, FVLM_ACTIVATION_NONE, pass->x, pass->mixed);
        swap_buffers(&pass->x, &pass->mixed);
        report(pass, network, stage->channels);
    }
    for (size_t i = 0; i < stage->block_count; i++)
        run_block(pass, stage, &stage->blocks[i]);
    report(pass, network, stage->channels);
}

static void run_stem(struct pass *pass, const uint8_t *pixels, size_t resolution)
{
    const fvlm_vision *vision = pass->vision;
    fvlm_packed_stem stem = {.conv = {.height = resolution,
                                      .width = resolution,
                                      .channels = vision->stages[0].channels,
                                      .weight = vision->stem_weight,
                                      .bias = vision->stem_bias,
                                      .activation = FVLM_ACTIVATION_GELU},
                             .depthwise =
                                 depthwise_shape(&vision->stem_depthwise, resolution / 2, FVLM_ACTIVATION_GELU),
                             .linear = vision->stem_linear.packed,
                             .bias = vision->stem_linear.bias};
    fvlm_packed_stem_forward(pass->pool, &stem, pixels, pass->x);
    if (pass->on_stage)
        pass->on_stage(pass->user, "stem", pass->x, pass->side, pass->side, vision->stages[0].channels);
}

/* Depthwise expansion, squeeze-excite, GELU. */
static void run_expand(struct pass *pass, float *features)
{
    const fvlm_vision *vision = pass->vision;
    size_t channels = vision->expand.channels, pixels = pass->side * pass->side;
    float *mean = pass->mixed, *squeezed = mean + channels;
    run_depthwise(pass, &vision->expand, pass->side, FVLM_ACTIVATION_NONE, pass->x, features);
    fvlm_row_mean(features, pixels, channels, mean);
    run_linear(pass, &vision->squeeze, mean, 1, squeezed, (fvlm_epilogue){.activation = FVLM_ACTIVATION_RELU});
    run_linear(pass, &vision->excite, squeezed, 1, mean, (fvlm_epilogue){.activation = FVLM_ACTIVATION_SIGMOID});
    fvlm_scale_gelu(pass->pool, features, pixels, channels, mean, features);
}

void fvlm_vision_forward(const fvlm_vision *vision, fvlm_pool *pool, const uint8_t *pixels, size_t resolution,
                         float *workspace, float *features, fvlm_stage_fn on_stage, void *user)
{
    struct pass pass = {.vision = vision,
                        .pool = pool,
                        .layout = plan(vision, resolution),
                        .workspace = workspace,
                        .on_stage = on_stage,
                        .user = user,
                        .side = resolution / 4};
    pass.x = workspace + pass.layout.x;
    pass.mixed = workspace + pass.layout.mixed;
    run_stem(&pass, pixels, resolution);
    int network = 0;
    for (size_t i = 0; i < FVLM_STAGES; i++)
        run_stage(&pass, &vision->stages[i], &network);
    run_expand(&pass, features);
}
