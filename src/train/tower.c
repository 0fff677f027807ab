/* The tower's nodes, forward and backward, side by side; channels last as in inference (model/vision.c).
 *
 *     stem          gelu(conv 3x3 s2), gelu(depthwise 3x3 s2), gelu(1x1)
 *     downsampling  gelu(depthwise 7x7 s2), gelu(1x1)
 *     position      depthwise 7x7
 *     rep-mixer     m = depthwise 3x3 (x);                         y = m + scale * ffn(m)
 *     attention     m = x + scale * proj(attention(qkv(norm(x)))); y = m + scale * ffn(m)
 *     expansion     e = depthwise 3x3 (x); gelu(e * sigmoid(W2 relu(W1 mean(e))))
 *     ffn           fc2(gelu(fc1(batch_norm(depthwise 7x7 (m)))))
 */
#include "train/tower.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/conv.h"
#include "kernels/gemm.h"
#include "kernels/norm.h"
#include "train/shards.h"

#define PREFIX "model.vision_tower.vision_tower.model."
#define NORM_EPS 1e-5f
#define MOMENTUM 0.1 /* of running statistics: PyTorch's default */
#define SQUEEZE 16
#define BLOCK_NAME 96

/* A depthwise convolution; `packed` is the kernel's order of its weights, renewed before each forward pass. */
struct conv {
    fvlm_parameter *weight, *bias; /* bias NULL: none */
    size_t channels, kernel, stride, multiplier;
    float *packed;
};

struct batch_norm {
    fvlm_parameter *weight, *bias, *mean, *variance; /* the last two: running, not trained by gradient */
};

enum kind { STEM, DOWNSAMPLING, POSITION, REP_MIXER, ATTENTION, EXPANSION };

struct node {
    enum kind kind;
    size_t shrink;           /* its input's side is resolution / shrink */
    size_t channels;         /* of its output */
    size_t inputs;           /* channels of its input */
    struct conv stem;        /* stem only: [channels, 3, 3, 3] */
    struct conv conv;        /* stem, downsampling, position, mixer, expansion */
    fvlm_linear_layer point; /* stem, downsampling: 1x1 */
    fvlm_parameter *norm_weight, *norm_bias, *attention_scale;
    fvlm_linear_layer qkv, projection;
    struct conv ffn_conv;
    struct batch_norm batch_norm;
    fvlm_linear_layer fc1, fc2; /* expansion: squeeze and excite */
    fvlm_parameter *scale;
};

struct fvlm_tower {
    fvlm_vision_config config;
    struct node *nodes;
    size_t count;
    size_t ends[FVLM_STAGES];    /* the node that reads what comes out of a stage; not of the last */
    fvlm_parameters *parameters; /* node i is their group i */
};

/* Creation. */

static struct conv create_conv(fvlm_parameters *set, fvlm_loader *loader, size_t channels, size_t kernel, size_t stride,
                               size_t multiplier, size_t group_inputs, bool bias, const char *name)
{
    struct conv conv = {.channels = channels, .kernel = kernel, .stride = stride, .multiplier = multiplier};
    size_t count = channels * group_inputs * kernel * kernel;
    conv.weight = fvlm_parameter_vector(set, loader, FVLM_PART_VISION, count, "%s.weight", name);
    if (bias)
        conv.bias = fvlm_parameter_vector(set, loader, FVLM_PART_VISION, channels, "%s.bias", name);
    if (!loader->status && !(conv.packed = fvlm_arena_alloc(set->arena, count, sizeof(float))))
        loader->status = fvlm_fail_memory(loader->error);
    return conv;
}

static fvlm_linear_layer create_linear(fvlm_parameters *set, fvlm_loader *loader, size_t rows, size_t cols, bool bias,
                                       const char *name)
{
    fvlm_linear_layer layer = {.weight = fvlm_parameter_matrix(set, loader, FVLM_PART_VISION, rows, cols, "%s", name)};
    if (bias)
        layer.bias = fvlm_parameter_vector(set, loader, FVLM_PART_VISION, rows, "%s.bias", name);
    return layer;
}

static fvlm_parameter *create_vector(fvlm_parameters *set, fvlm_loader *loader, size_t count, const char *block,
                                     const char *name)
{
    return fvlm_parameter_vector(set, loader, FVLM_PART_VISION, count, "%s.%s", block, name);
}

static void create_ffn(fvlm_parameters *set, fvlm_loader *loader, size_t ratio, const char *block, struct node *node)
{
    size_t channels = node->channels;
    char name[FVLM_MAX_NAME];
    snprintf(name, sizeof name, "%s.convffn.conv.conv", block);
    node->ffn_conv = create_conv(set, loader, channels, 7, 1, 1, 1, false, name);
    snprintf(name, sizeof name, "%s.convffn.conv.bn", block);
    struct batch_norm *norm = &node->batch_norm;
    norm->weight = create_vector(set, loader, channels, name, "weight");
    norm->bias = create_vector(set, loader, channels, name, "bias");
    norm->mean = fvlm_parameter_statistics(set, loader, FVLM_PART_VISION, channels, "%s.running_mean", name);
    norm->variance = fvlm_parameter_statistics(set, loader, FVLM_PART_VISION, channels, "%s.running_var", name);
    snprintf(name, sizeof name, "%s.convffn.fc1", block);
    node->fc1 = create_linear(set, loader, ratio * channels, channels, true, name);
    snprintf(name, sizeof name, "%s.convffn.fc2", block);
    node->fc2 = create_linear(set, loader, channels, ratio * channels, true, name);
    node->scale =
        create_vector(set, loader, channels, block, node->kind == REP_MIXER ? "layer_scale" : "layer_scale_2");
}

static void create_block(fvlm_parameters *set, fvlm_loader *loader, size_t ratio, const char *block, struct node *node)
{
    size_t channels = node->channels;
    char name[FVLM_MAX_NAME];
    if (node->kind == REP_MIXER) {
        snprintf(name, sizeof name, "%s.token_mixer.reparam_conv", block);
        node->conv = create_conv(set, loader, channels, 3, 1, 1, 1, true, name);
    } else {
        node->norm_weight = create_vector(set, loader, channels, block, "norm.weight");
        node->norm_bias = create_vector(set, loader, channels, block, "norm.bias");
        node->attention_scale = create_vector(set, loader, channels, block, "layer_scale_1");
        snprintf(name, sizeof name, "%s.token_mixer.qkv", block);
        node->qkv = create_linear(set, loader, 3 * channels, channels, false, name);
        snprintf(name, sizeof name, "%s.token_mixer.proj", block);
        node->projection = create_linear(set, loader, channels, channels, true, name);
    }
    create_ffn(set, loader, ratio, block, node);
}

/* The next node, whose parameters are a group of their own. */
static struct node *add_node(fvlm_loader *loader, fvlm_tower *tower)
{
    fvlm_parameters_group(tower->parameters, loader, false);
    return &tower->nodes[tower->count++];
}

/* `network` is the running index of LLaVA's names. */
static void create_stage(fvlm_parameters *set, fvlm_loader *loader, fvlm_tower *tower, size_t index, int *network)
{
    const fvlm_vision_config *config = &tower->config;
    char name[BLOCK_NAME];
    size_t channels = config->widths[index], shrink = (size_t)4 << index;
    if (index > 0) {
        size_t before = config->widths[index - 1];
        struct node *node = add_node(loader, tower);
        tower->ends[index - 1] = tower->count - 1;
        *node = (struct node){.kind = DOWNSAMPLING, .shrink = shrink / 2, .channels = channels, .inputs = before};
        snprintf(name, sizeof name, PREFIX "network.%d.proj.0.lkb_reparam", *network);
        node->conv = create_conv(set, loader, channels, 7, 2, channels / before, 1, true, name);
        snprintf(name, sizeof name, PREFIX "network.%d.proj.1.reparam_conv", (*network)++);
        node->point = create_linear(set, loader, channels, channels, true, name);
    }
    if (config->attention[index]) {
        struct node *node = add_node(loader, tower);
        *node = (struct node){.kind = POSITION, .shrink = shrink, .channels = channels, .inputs = channels};
        snprintf(name, sizeof name, PREFIX "network.%d.reparam_conv", (*network)++);
        node->conv = create_conv(set, loader, channels, 7, 1, 1, 1, true, name);
    }
    for (size_t i = 0; i < config->layers[index] && !loader->status; i++) {
        struct node *node = add_node(loader, tower);
        *node = (struct node){.kind = config->attention[index] ? ATTENTION : REP_MIXER,
                              .shrink = shrink,
                              .channels = channels,
                              .inputs = channels};
        snprintf(name, sizeof name, PREFIX "network.%d.%zu", *network, i);
        create_block(set, loader, config->mlp_ratio[index], name, node);
    }
    (*network)++;
}

fvlm_tower *fvlm_tower_create(fvlm_parameters *set, fvlm_loader *loader, const fvlm_vision_config *config)
{
    if (loader->status)
        return NULL;
    size_t most = 2 + 2 * FVLM_STAGES;
    for (size_t i = 0; i < FVLM_STAGES; i++)
        most += config->layers[i];
    fvlm_tower *tower = fvlm_arena_alloc(set->arena, 1, sizeof *tower);
    struct node *nodes = fvlm_arena_alloc(set->arena, most, sizeof *nodes);
    if (!tower || !nodes) {
        loader->status = fvlm_fail_memory(loader->error);
        return NULL;
    }
    *tower = (fvlm_tower){.config = *config, .nodes = nodes, .parameters = set};
    size_t width = config->widths[0], last = config->widths[FVLM_STAGES - 1];
    struct node *node = add_node(loader, tower);
    *node = (struct node){.kind = STEM, .shrink = 1, .channels = width, .inputs = 3};
    node->stem = create_conv(set, loader, width, 3, 2, 1, 3, true, PREFIX "patch_embed.0.reparam_conv");
    node->conv = create_conv(set, loader, width, 3, 2, 1, 1, true, PREFIX "patch_embed.1.reparam_conv");
    node->point = create_linear(set, loader, width, width, true, PREFIX "patch_embed.2.reparam_conv");
    int network = 0;
    for (size_t i = 0; i < FVLM_STAGES && !loader->status; i++)
        create_stage(set, loader, tower, i, &network);
    node = add_node(loader, tower);
    *node = (struct node){.kind = EXPANSION, .shrink = FVLM_VISION_STRIDE, .channels = 2 * last, .inputs = last};
    node->conv = create_conv(set, loader, 2 * last, 3, 1, 2, 1, true, PREFIX "conv_exp.reparam_conv");
    node->fc1 = create_linear(set, loader, 2 * last / SQUEEZE, 2 * last, true, PREFIX "conv_exp.se.reduce");
    node->fc2 = create_linear(set, loader, 2 * last, 2 * last / SQUEEZE, true, PREFIX "conv_exp.se.expand");
    return loader->status ? NULL : tower;
}

size_t fvlm_tower_width(const fvlm_tower *tower)
{
    return tower->nodes[tower->count - 1].channels;
}

/* Buffers. */

/* What a node keeps for its backward pass; which of them a node has, and their shapes, are in cut_kept. */
struct kept {
    float *first, *first_gelu;              /* stem: before and after its first GELU */
    float *deep, *deep_gelu, *point;        /* stem, downsampling: the same of the depthwise layer; the 1x1's output */
    float *normed, *qkv, *attended, *mixed; /* attention; `mixed` before its layer scale */
    float *middle;                          /* m */
    float *conv, *batch_normed, *mean, *variance, *wide, *wide_gelu, *narrow; /* ffn; narrow: before its layer scale */
    float *expanded, *average, *squeezed, *squeezed_relu, *excited, *excited_sigmoid;
};

struct buffers {
    float **inputs;    /* [nodes + 1]: node i reads inputs[i], the stem nothing; the last holds the features */
    struct kept *kept; /* [nodes] */
    float *plane[4]; /* of the largest output of any node: 0 and 1 for the gradient on its way, 2 and 3 scratch; 2 also
                        holds the stem's first picture */
    float *wide;     /* of the widest middle */
    float *statistics, *attention;
};

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static bool is_block(const struct node *node)
{
    return node->kind == REP_MIXER || node->kind == ATTENTION;
}

static size_t side_in(const fvlm_tower *tower, const struct node *node)
{
    return tower->config.resolution / node->shrink;
}

static size_t side_out(const fvlm_tower *tower, const struct node *node)
{
    size_t side = side_in(tower, node);
    return node->kind == STEM ? side / 4 : node->kind == DOWNSAMPLING ? side / 2 : side;
}

static void cut_kept(const fvlm_tower *tower, const struct node *node, size_t pictures, fvlm_cutter *cutter,
                     struct kept *kept)
{
    size_t side = side_in(tower, node), out = side_out(tower, node), channels = node->channels;
    size_t rows = pictures * out * out;
    *kept = (struct kept){0};
    switch (node->kind) {
    case STEM:
        kept->first = fvlm_cut(cutter, pictures * side / 2 * (side / 2), channels);
        kept->first_gelu = fvlm_cut(cutter, pictures * side / 2 * (side / 2), channels);
        /* fall through */
    case DOWNSAMPLING:
        kept->deep = fvlm_cut(cutter, rows, channels);
        kept->deep_gelu = fvlm_cut(cutter, rows, channels);
        kept->point = fvlm_cut(cutter, rows, channels);
        break;
    case POSITION:
        break;
    case ATTENTION:
        kept->normed = fvlm_cut(cutter, rows, channels);
        kept->qkv = fvlm_cut(cutter, rows, 3 * channels);
        kept->attended = fvlm_cut(cutter, rows, channels);
        kept->mixed = fvlm_cut(cutter, rows, channels);
        /* fall through */
    case REP_MIXER:
        kept->middle = fvlm_cut(cutter, rows, channels);
        kept->conv = fvlm_cut(cutter, rows, channels);
        kept->batch_normed = fvlm_cut(cutter, rows, channels);
        kept->mean = fvlm_cut(cutter, 1, channels);
        kept->variance = fvlm_cut(cutter, 1, channels);
        kept->wide = fvlm_cut(cutter, rows, node->fc1.weight->matrix.rows);
        kept->wide_gelu = fvlm_cut(cutter, rows, node->fc1.weight->matrix.rows);
        kept->narrow = fvlm_cut(cutter, rows, channels);
        break;
    case EXPANSION:
        kept->expanded = fvlm_cut(cutter, rows, channels);
        kept->average = fvlm_cut(cutter, pictures, channels);
        kept->squeezed = fvlm_cut(cutter, pictures, channels / SQUEEZE);
        kept->squeezed_relu = fvlm_cut(cutter, pictures, channels / SQUEEZE);
        kept->excited = fvlm_cut(cutter, pictures, channels);
        kept->excited_sigmoid = fvlm_cut(cutter, pictures, channels);
    }
}

static struct buffers cut(const fvlm_tower *tower, size_t pictures, bool recompute, int threads, fvlm_cutter *cutter)
{
    struct buffers b = {0};
    size_t plane = 0, wide = 0, attention = 0, rows = 0, side = tower->config.resolution / 2;
    b.inputs = fvlm_cut_items(cutter, tower->count + 1, sizeof *b.inputs);
    b.kept = fvlm_cut_items(cutter, tower->count, sizeof *b.kept);
    if (b.inputs)
        b.inputs[0] = NULL;
    /* Blocks that are computed again all keep what they keep in one place. */
    size_t shared = cutter->used, most = shared;
    for (size_t i = 0; recompute && i < tower->count; i++) {
        struct kept kept;
        cutter->used = shared;
        if (is_block(&tower->nodes[i]))
            cut_kept(tower, &tower->nodes[i], pictures, cutter, &kept);
        most = larger(most, cutter->used);
    }
    if (recompute)
        cutter->used = most;
    for (size_t i = 0; i < tower->count; i++) {
        const struct node *node = &tower->nodes[i];
        size_t out = side_out(tower, node);
        fvlm_cutter own = {.memory = cutter->memory, .used = shared};
        struct kept kept;
        cut_kept(tower, node, pictures, recompute && is_block(node) ? &own : cutter, &kept);
        float *output = fvlm_cut(cutter, pictures * out * out, node->channels);
        if (b.inputs) {
            b.kept[i] = kept;
            b.inputs[i + 1] = output;
        }
        plane = larger(plane, out * out * node->channels);
        rows = larger(rows, out * out);
        if (is_block(node))
            wide = larger(wide, out * out * larger(node->fc1.weight->matrix.rows, 3 * node->channels));
        if (node->kind == ATTENTION) {
            size_t heads = node->channels / FVLM_VISION_HEAD_DIM;
            attention =
                larger(attention, fvlm_attention_workspace(out * out, out * out, FVLM_VISION_HEAD_DIM, threads));
            attention =
                larger(attention, fvlm_attention_backward_workspace(out * out, heads, FVLM_VISION_HEAD_DIM, threads));
        }
    }
    for (int i = 0; i < 4; i++)
        b.plane[i] = fvlm_cut(cutter, pictures, i == 2 ? larger(plane, side * side * tower->nodes[0].channels) : plane);
    b.wide = fvlm_cut(cutter, pictures, wide);
    b.statistics = fvlm_cut(cutter, pictures * rows, 2);
    b.attention = fvlm_cut(cutter, 1, attention);
    return b;
}

size_t fvlm_tower_floats(const fvlm_tower *tower, size_t pictures, bool recompute, int threads)
{
    fvlm_cutter cutter = {0};
    cut(tower, pictures, recompute, threads, &cutter);
    return cutter.overflow ? 0 : cutter.used;
}

/* Convolutions over all pictures. */

static fvlm_depthwise shape_of(const struct conv *conv, size_t side)
{
    return (fvlm_depthwise){.height = side,
                            .width = side,
                            .channels = conv->channels,
                            .multiplier = conv->multiplier,
                            .kernel = conv->kernel,
                            .stride = conv->stride,
                            .weight = conv->packed,
                            .bias = conv->bias ? conv->bias->value : NULL};
}

static void conv_forward(const fvlm_tower_pass *pass, const struct conv *conv, size_t side, const float *x, float *y)
{
    fvlm_depthwise_pack(conv->weight->value, conv->channels, conv->kernel, NULL, conv->packed);
    fvlm_depthwise shape = shape_of(conv, side);
    fvlm_depthwise_forward(pass->pool, &shape, pass->pictures, x, y);
}

/* dx is written. */
static void conv_backward(const fvlm_tower_pass *pass, const struct conv *conv, size_t side, const float *x,
                          const float *dy, float *dx)
{
    size_t out = (side + conv->stride - 1) / conv->stride;
    fvlm_depthwise shape = shape_of(conv, side);
    fvlm_depthwise_backward_w(pass->pool, &shape, pass->pictures, x, dy, conv->weight->gradient);
    fvlm_depthwise_backward_x(pass->pool, &shape, pass->pictures, dy, dx);
    if (conv->bias)
        fvlm_column_sums(pass->pool, dy, conv->channels, NULL, 0, pass->pictures * out * out, conv->channels,
                         conv->bias->gradient);
}

/* Feed-forward block: y = m + scale * ffn(m). */

static void ffn_forward(const fvlm_tower_pass *pass, const struct node *node, const struct kept *kept, size_t side,
                        bool update, float *y)
{
    size_t channels = node->channels, rows = pass->pictures * side * side, wide = node->fc1.weight->matrix.rows;
    const struct batch_norm *norm = &node->batch_norm;
    fvlm_pool *pool = pass->pool;
    conv_forward(pass, &node->ffn_conv, side, kept->middle, kept->conv);
    if (pass->batch_statistics) {
        fvlm_batch_norm_statistics(pool, kept->conv, rows, channels, kept->mean, kept->variance);
        double unbiased = rows > 1 ? (double)rows / (double)(rows - 1) : 1;
        for (size_t i = 0; update && i < channels; i++) {
            norm->mean->value[i] += (float)(MOMENTUM * ((double)kept->mean[i] - (double)norm->mean->value[i]));
            norm->variance->value[i] +=
                (float)(MOMENTUM * (unbiased * (double)kept->variance[i] - (double)norm->variance->value[i]));
        }
    } else {
        memcpy(kept->mean, norm->mean->value, channels * sizeof(float));
        memcpy(kept->variance, norm->variance->value, channels * sizeof(float));
    }
    fvlm_batch_norm(pool, kept->conv, rows, channels, kept->mean, kept->variance, norm->weight->value,
                    norm->bias->value, NORM_EPS, kept->batch_normed);
    fvlm_linear_layer_forward(pool, &node->fc1, kept->batch_normed, rows, kept->wide, NULL);
    fvlm_activate_forward(pool, FVLM_ACTIVATION_GELU, kept->wide, rows * wide, kept->wide_gelu);
    fvlm_linear_layer_forward(pool, &node->fc2, kept->wide_gelu, rows, kept->narrow, NULL);
    fvlm_scale_channels(pool, kept->narrow, rows, channels, node->scale->value, y);
    fvlm_add_floats(pool, kept->middle, rows * channels, y);
}

/* dx: the gradient of y, then that of m. */
static void ffn_backward(const fvlm_tower_pass *pass, const struct buffers *b, const struct node *node,
                         const struct kept *kept, size_t side, float *dx)
{
    size_t channels = node->channels, rows = pass->pictures * side * side, wide = node->fc1.weight->matrix.rows;
    const struct batch_norm *norm = &node->batch_norm;
    fvlm_pool *pool = pass->pool;
    float *t = b->plane[2], *dconv = b->plane[3];
    fvlm_column_sums(pool, dx, channels, kept->narrow, channels, rows, channels, node->scale->gradient);
    fvlm_scale_channels(pool, dx, rows, channels, node->scale->value, t);
    fvlm_linear_layer_backward(pool, &node->fc2, kept->wide_gelu, rows, t, NULL, NULL, b->wide, false);
    fvlm_activate_backward(pool, FVLM_ACTIVATION_GELU, kept->wide, b->wide, rows * wide, b->wide);
    fvlm_linear_layer_backward(pool, &node->fc1, kept->batch_normed, rows, b->wide, NULL, NULL, t, false);
    fvlm_batch_norm_backward(pool, kept->conv, rows, channels, kept->mean, kept->variance, norm->weight->value,
                             NORM_EPS, pass->batch_statistics, t, t, norm->weight->gradient, norm->bias->gradient);
    conv_backward(pass, &node->ffn_conv, side, kept->middle, t, dconv);
    fvlm_add_floats(pool, dconv, rows * channels, dx);
}

/* Token mixing by attention: m = x + scale * proj(attention(qkv(norm(x)))). */

static fvlm_attention attention_of(const struct node *node, const struct kept *kept, size_t tokens, size_t picture)
{
    size_t channels = node->channels, first = picture * tokens;
    const float *qkv = kept->qkv + first * 3 * channels;
    return (fvlm_attention){.queries = tokens,
                            .keys = tokens,
                            .heads = channels / FVLM_VISION_HEAD_DIM,
                            .kv_heads = channels / FVLM_VISION_HEAD_DIM,
                            .head_dim = FVLM_VISION_HEAD_DIM,
                            .scale = 1.0f / sqrtf(FVLM_VISION_HEAD_DIM),
                            .q = qkv,
                            .k = qkv + channels,
                            .v = qkv + 2 * channels,
                            .q_stride = 3 * channels,
                            .k_stride = 3 * channels,
                            .v_stride = 3 * channels,
                            .out = kept->attended + first * channels,
                            .out_stride = channels};
}

static void attention_forward(const fvlm_tower_pass *pass, const struct buffers *b, const struct node *node,
                              const struct kept *kept, size_t side, const float *x)
{
    size_t channels = node->channels, tokens = side * side, rows = pass->pictures * tokens;
    fvlm_pool *pool = pass->pool;
    fvlm_layer_norm(pool, x, rows, channels, node->norm_weight->value, node->norm_bias->value, NORM_EPS, kept->normed);
    fvlm_linear_layer_forward(pool, &node->qkv, kept->normed, rows, kept->qkv, NULL);
    for (size_t i = 0; i < pass->pictures; i++) {
        fvlm_attention attention = attention_of(node, kept, tokens, i);
        fvlm_attention_forward(pool, &attention, b->attention);
    }
    fvlm_linear_layer_forward(pool, &node->projection, kept->attended, rows, kept->mixed, NULL);
    fvlm_scale_channels(pool, kept->mixed, rows, channels, node->attention_scale->value, kept->middle);
    fvlm_add_floats(pool, x, rows * channels, kept->middle);
}

static void attention_backward(const fvlm_tower_pass *pass, const struct buffers *b, const struct node *node,
                               const struct kept *kept, size_t side, const float *x, float *dx)
{
    size_t channels = node->channels, tokens = side * side, rows = pass->pictures * tokens;
    fvlm_pool *pool = pass->pool;
    float *t = b->plane[2], *dattended = b->plane[3], *dqkv = b->wide;
    fvlm_column_sums(pool, dx, channels, kept->mixed, channels, rows, channels, node->attention_scale->gradient);
    fvlm_scale_channels(pool, dx, rows, channels, node->attention_scale->value, t);
    fvlm_linear_layer_backward(pool, &node->projection, kept->attended, rows, t, NULL, NULL, dattended, false);
    for (size_t i = 0; i < pass->pictures; i++) {
        fvlm_attention attention = attention_of(node, kept, tokens, i);
        float *own = dqkv + i * tokens * 3 * channels;
        fvlm_attention_gradients gradients = {.dout = dattended + i * tokens * channels,
                                              .dq = own,
                                              .dk = own + channels,
                                              .dv = own + 2 * channels,
                                              .dout_stride = channels,
                                              .dq_stride = 3 * channels,
                                              .dk_stride = 3 * channels,
                                              .dv_stride = 3 * channels};
        fvlm_attention_backward(pool, &attention, &gradients, b->attention);
    }
    fvlm_linear_layer_backward(pool, &node->qkv, kept->normed, rows, dqkv, NULL, NULL, t, false);
    fvlm_layer_norm_backward(pool, x, rows, channels, node->norm_weight->value, NORM_EPS, t, dx,
                             node->norm_weight->gradient, node->norm_bias->gradient, b->statistics);
}

/* Depthwise layer and 1x1 of stem and downsampling, a GELU behind each. */

static void shrink_forward(const fvlm_tower_pass *pass, const struct node *node, const struct kept *kept, size_t side,
                           const float *x, float *y)
{
    size_t rows = pass->pictures * (side / 2) * (side / 2), channels = node->channels;
    conv_forward(pass, &node->conv, side, x, kept->deep);
    fvlm_activate_forward(pass->pool, FVLM_ACTIVATION_GELU, kept->deep, rows * channels, kept->deep_gelu);
    fvlm_linear_layer_forward(pass->pool, &node->point, kept->deep_gelu, rows, kept->point, NULL);
    fvlm_activate_forward(pass->pool, FVLM_ACTIVATION_GELU, kept->point, rows * channels, y);
}

/* dy is scratch afterwards; dx is written. */
static void shrink_backward(const fvlm_tower_pass *pass, const struct buffers *b, const struct node *node,
                            const struct kept *kept, size_t side, const float *x, float *dy, float *dx)
{
    size_t rows = pass->pictures * (side / 2) * (side / 2), channels = node->channels;
    float *t = b->plane[3];
    fvlm_activate_backward(pass->pool, FVLM_ACTIVATION_GELU, kept->point, dy, rows * channels, dy);
    fvlm_linear_layer_backward(pass->pool, &node->point, kept->deep_gelu, rows, dy, NULL, NULL, t, false);
    fvlm_activate_backward(pass->pool, FVLM_ACTIVATION_GELU, kept->deep, t, rows * channels, t);
    conv_backward(pass, &node->conv, side, x, t, dx);
}

static fvlm_stem stem_of(const struct node *node, size_t side)
{
    return (fvlm_stem){.height = side,
                       .width = side,
                       .channels = node->channels,
                       .weight = node->stem.packed,
                       .bias = node->stem.bias->value};
}

static void stem_forward(const fvlm_tower_pass *pass, const struct node *node, const struct kept *kept, size_t side,
                         float *y)
{
    size_t half = side / 2 * (side / 2) * node->channels;
    fvlm_stem_pack(node->stem.weight->value, node->channels, node->stem.packed);
    fvlm_stem stem = stem_of(node, side);
    fvlm_stem_forward(pass->pool, &stem, pass->pictures, pass->pixels, kept->first);
    fvlm_activate_forward(pass->pool, FVLM_ACTIVATION_GELU, kept->first, pass->pictures * half, kept->first_gelu);
    shrink_forward(pass, node, kept, side / 2, kept->first_gelu, y);
}

static void stem_backward(const fvlm_tower_pass *pass, const struct buffers *b, const struct node *node,
                          const struct kept *kept, size_t side, float *dy)
{
    size_t pixels = side / 2 * (side / 2), half = pixels * node->channels;
    float *dfirst = b->plane[2];
    shrink_backward(pass, b, node, kept, side / 2, kept->first_gelu, dy, dfirst);
    fvlm_activate_backward(pass->pool, FVLM_ACTIVATION_GELU, kept->first, dfirst, pass->pictures * half, dfirst);
    fvlm_stem stem = stem_of(node, side);
    fvlm_stem_backward_w(pass->pool, &stem, pass->pictures, pass->pixels, dfirst, node->stem.weight->gradient);
    fvlm_column_sums(pass->pool, dfirst, node->channels, NULL, 0, pass->pictures * pixels, node->channels,
                     node->stem.bias->gradient);
}

/* Expansion with squeeze-excite. */

static void expansion_forward(const fvlm_tower_pass *pass, const struct node *node, const struct kept *kept,
                              size_t side, const float *x, float *y)
{
    size_t pictures = pass->pictures, channels = node->channels, pixels = side * side;
    fvlm_pool *pool = pass->pool;
    conv_forward(pass, &node->conv, side, x, kept->expanded);
    for (size_t i = 0; i < pictures; i++)
        fvlm_row_mean(kept->expanded + i * pixels * channels, pixels, channels, kept->average + i * channels);
    fvlm_linear_layer_forward(pool, &node->fc1, kept->average, pictures, kept->squeezed, NULL);
    fvlm_activate_forward(pool, FVLM_ACTIVATION_RELU, kept->squeezed, pictures * channels / SQUEEZE,
                          kept->squeezed_relu);
    fvlm_linear_layer_forward(pool, &node->fc2, kept->squeezed_relu, pictures, kept->excited, NULL);
    fvlm_activate_forward(pool, FVLM_ACTIVATION_SIGMOID, kept->excited, pictures * channels, kept->excited_sigmoid);
    for (size_t i = 0; i < pictures; i++)
        fvlm_scale_gelu(pool, kept->expanded + i * pixels * channels, pixels, channels,
                        kept->excited_sigmoid + i * channels, y + i * pixels * channels);
}

static void expansion_backward(const fvlm_tower_pass *pass, const struct buffers *b, const struct node *node,
                               const struct kept *kept, size_t side, const float *x, float *dy, float *dx)
{
    size_t pictures = pass->pictures, channels = node->channels, pixels = side * side;
    fvlm_pool *pool = pass->pool;
    float *dexcited = b->plane[3], *dsqueezed = dexcited + pictures * channels;
    memset(dexcited, 0, pictures * channels * sizeof *dexcited);
    for (size_t i = 0; i < pictures; i++)
        fvlm_scale_gelu_backward(pool, kept->expanded + i * pixels * channels, pixels, channels,
                                 kept->excited_sigmoid + i * channels, dy + i * pixels * channels,
                                 dy + i * pixels * channels, dexcited + i * channels);
    fvlm_activate_backward(pool, FVLM_ACTIVATION_SIGMOID, kept->excited, dexcited, pictures * channels, dexcited);
    fvlm_linear_layer_backward(pool, &node->fc2, kept->squeezed_relu, pictures, dexcited, NULL, NULL, dsqueezed, false);
    fvlm_activate_backward(pool, FVLM_ACTIVATION_RELU, kept->squeezed, dsqueezed, pictures * channels / SQUEEZE,
                           dsqueezed);
    float *daverage = dexcited;
    fvlm_linear_layer_backward(pool, &node->fc1, kept->average, pictures, dsqueezed, NULL, NULL, daverage, false);
    for (size_t i = 0; i < pictures * channels; i++)
        daverage[i] /= (float)pixels;
    for (size_t i = 0; i < pictures * pixels; i++)
        for (size_t k = 0; k < channels; k++)
            dy[i * channels + k] += daverage[i / pixels * channels + k];
    conv_backward(pass, &node->conv, side, x, dy, dx);
}

/* The tower. */

static void node_forward(const fvlm_tower_pass *pass, const struct buffers *b, size_t index, bool update, float *y)
{
    const struct node *node = &pass->tower->nodes[index];
    const struct kept *kept = &b->kept[index];
    const float *x = b->inputs[index];
    size_t side = side_in(pass->tower, node);
    switch (node->kind) {
    case STEM:
        stem_forward(pass, node, kept, side, y);
        return;
    case DOWNSAMPLING:
        shrink_forward(pass, node, kept, side, x, y);
        return;
    case POSITION:
        conv_forward(pass, &node->conv, side, x, y);
        return;
    case EXPANSION:
        expansion_forward(pass, node, kept, side, x, y);
        return;
    case ATTENTION:
        attention_forward(pass, b, node, kept, side, x);
        break;
    case REP_MIXER:
        conv_forward(pass, &node->conv, side, x, kept->middle);
    }
    ffn_forward(pass, node, kept, side, update, y);
}

/* From the gradient of node `index`'s output in `dy` to that of its input, which goes to `dx` (true), or to dy itself
 * (false); dy is scratch. */
static bool node_backward(const fvlm_tower_pass *pass, const struct buffers *b, size_t index, float *dy, float *dx)
{
    const struct node *node = &pass->tower->nodes[index];
    const struct kept *kept = &b->kept[index];
    const float *x = b->inputs[index];
    size_t side = side_in(pass->tower, node);
    switch (node->kind) {
    case STEM:
        stem_backward(pass, b, node, kept, side, dy);
        return false;
    case DOWNSAMPLING:
        shrink_backward(pass, b, node, kept, side, x, dy, dx);
        return true;
    case POSITION:
        conv_backward(pass, &node->conv, side, x, dy, dx);
        return true;
    case EXPANSION:
        expansion_backward(pass, b, node, kept, side, x, dy, dx);
        return true;
    case ATTENTION:
        ffn_backward(pass, b, node, kept, side, dy);
        attention_backward(pass, b, node, kept, side, x, dy);
        return false;
    case REP_MIXER:
        break;
    }
    ffn_backward(pass, b, node, kept, side, dy);
    conv_backward(pass, &node->conv, side, x, dy, dx);
    return true;
}

static struct buffers buffers_of(const fvlm_tower_pass *pass)
{
    fvlm_cutter cutter = {.memory = pass->memory};
    return cut(pass->tower, pass->pictures, pass->recompute, fvlm_pool_threads(pass->pool), &cutter);
}

const float *fvlm_tower_forward(const fvlm_tower_pass *pass, bool update)
{
    struct buffers b = buffers_of(pass);
    for (size_t i = 0; i < pass->tower->count; i++) {
        fvlm_group_use(pass->tower->parameters, i, 1);
        node_forward(pass, &b, i, update, b.inputs[i + 1]);
    }
    return b.inputs[pass->tower->count];
}

const float *fvlm_tower_stage(const fvlm_tower_pass *pass, size_t stage)
{
    return buffers_of(pass).inputs[pass->tower->ends[stage]];
}

/* Add the gradient of a stage's output to what has come back to it, where it ends at this node. */
static void add_stage(const fvlm_tower_pass *pass, size_t node, size_t stage, const float *dstage, float *dy)
{
    const fvlm_tower *tower = pass->tower;
    size_t side = tower->config.resolution / (4u << stage);
    if (dstage && tower->ends[stage] == node)
        fvlm_add_floats(pass->pool, dstage, pass->pictures * side * side * tower->config.widths[stage], dy);
}

void fvlm_tower_backward(const fvlm_tower_pass *pass, const float *dfeatures, const float *const *dstages)
{
    const fvlm_tower *tower = pass->tower;
    struct buffers b = buffers_of(pass);
    size_t side = tower->config.resolution / FVLM_VISION_STRIDE;
    float *dy = b.plane[0], *dx = b.plane[1];
    memcpy(dy, dfeatures, pass->pictures * side * side * fvlm_tower_width(tower) * sizeof *dy);
    for (size_t i = tower->count; i-- > 0;) {
        fvlm_group_reuse(tower->parameters, i);
        if (pass->recompute && is_block(&tower->nodes[i]))
            node_forward(pass, &b, i, false, b.inputs[i + 1]);
        if (node_backward(pass, &b, i, dy, dx)) {
            float *done = dy;
            dy = dx;
            dx = done;
        }
        for (size_t stage = 0; stage < 2; stage++)
            add_stage(pass, i, FVLM_STAGES / 2 + stage, dstages[stage], dy);
        fvlm_group_sent(tower->parameters, i);
    }
}

void fvlm_tower_pass_by(const fvlm_tower *tower, bool backward)
{
    fvlm_groups_pass(tower->parameters, 0, tower->count, backward);
}
