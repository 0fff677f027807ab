/* Which layer is which: a FastViTHD tower's layers, in order, under the names of LLaVA checkpoints.
 *
 * The layers must follow the tower's grammar; kernel widths, strides and channel counts tell where
 * stages, blocks and downsamples begin:
 *
 *   tower    = stem { block | downsample | position } expansion
 *   stem     = conv 3x3 s2, GELU, depthwise 3x3 s2, GELU, conv 1x1, GELU
 *   block    = depthwise 3x3, ffn | normalise, qkv, attention, projection, scale, sum, ffn
 *   ffn      = depthwise 7x7, conv 1x1, GELU, conv 1x1, scale, sum
 *   downsample = depthwise 7x7 s2, GELU, conv 1x1, GELU
 *   position = depthwise 7x7 (a normalise follows)
 *   expansion = depthwise 3x3 to twice the channels, conv 1x1, ReLU, conv 1x1, sigmoid, gate, GELU
 *
 * Batch norm, scales and shifts that an exporter left behind a convolution are folded into it, but for the FFN's batch
 * norm, which checkpoints keep. A layer scale that the exporter folded becomes ones.
 */
#include "formats/tower_names.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "formats/tower_layers.h"

#define PREFIX "model.vision_tower.vision_tower.model."
#define MAX_NAME 256
#define HEAD_WIDTH 32      /* of FastViTHD's attention */
#define NORM_EPSILON 1e-5f /* of its layer norms and batch norms */

struct walk {
    fvlm_tensor_table *table;
    fvlm_mil *mil;
    const char *path;
    const fvlm_layer *layers; /* [count] */
    size_t count, at;         /* at: the next layer's index, which is the last one's number */
    size_t channels;          /* of the present value */
    fvlm_status status;       /* the first error; later steps do nothing */
    fvlm_error *error;
};

struct name {
    char text[MAX_NAME];
};

/* "block.part"; both are short names of our own. */
static struct name join(const char *block, const char *part)
{
    struct name name;
    snprintf(name.text, sizeof name.text, "%.128s.%.64s", block, part);
    return name;
}

static const fvlm_layer *peek(const struct walk *walk, size_t ahead)
{
    return walk->status || walk->at + ahead >= walk->count ? NULL : &walk->layers[walk->at + ahead];
}

static bool next_is(const struct walk *walk, fvlm_layer_kind kind)
{
    const fvlm_layer *layer = peek(walk, 0);
    return layer && layer->kind == kind;
}

static void fail(struct walk *walk, const fvlm_layer *layer, const char *problem)
{
    if (walk->status)
        return;
    if (layer)
        walk->status =
            fvlm_fail(walk->error, FVLM_ERROR_UNSUPPORTED, "%s: not a FastViTHD tower: operation '%s' (%s): %s",
                      walk->path, fvlm_mil_name(walk->mil, layer->op), fvlm_layer_kind_name(layer->kind), problem);
    else
        walk->status = fvlm_fail(walk->error, FVLM_ERROR_UNSUPPORTED,
                                 "%s: not a FastViTHD tower: it ends too early: %s", walk->path, problem);
}

/* The next layer, which must be of this kind; `role` says where we are. */
static const fvlm_layer *take(struct walk *walk, fvlm_layer_kind kind, const char *role)
{
    const fvlm_layer *layer = peek(walk, 0);
    if (!layer || layer->kind != kind) {
        char problem[128];
        snprintf(problem, sizeof problem, "a %s was expected, %s", fvlm_layer_kind_name(kind), role);
        fail(walk, layer, problem);
        return NULL;
    }
    walk->at++;
    return layer;
}

static size_t element_count(const fvlm_tensor *tensor)
{
    return tensor->data ? tensor->bytes / fvlm_dtype_bytes(tensor->type) : 0;
}

static void *allocate(struct walk *walk, size_t bytes)
{
    void *memory = NULL;
    if (!walk->status)
        walk->status = fvlm_mil_alloc(walk->mil, bytes, &memory, walk->error);
    return memory;
}

/* Add a tensor under PREFIX and the formatted name. */
FVLM_PRINTF(3, 4)
static void emit(struct walk *walk, fvlm_tensor tensor, const char *format, ...)
{
    char name[MAX_NAME] = PREFIX;
    if (walk->status)
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name + strlen(PREFIX), sizeof name - strlen(PREFIX), format, arguments);
    va_end(arguments);
    tensor.name = name;
    walk->status = fvlm_tensor_table_add(walk->table, &tensor, walk->path, walk->error);
}

/* `values` [channels] as a float32 tensor of `rank` axes, the others of length 1. */
static fvlm_tensor vector_of(const float *values, size_t channels, int rank)
{
    fvlm_tensor tensor = {
        .type = FVLM_F32, .rank = rank, .shape = {channels, 1, 1}, .bytes = channels * sizeof *values, .data = values};
    return tensor;
}

/* float32 [channels] of a stored vector, or `fallback` everywhere where it is none. NULL on failure. */
static float *floats_of(struct walk *walk, const fvlm_layer *layer, const fvlm_tensor *vector, size_t channels,
                        float fallback)
{
    if (vector->data && element_count(vector) != channels)
        fail(walk, layer, "a vector's length is not the number of channels");
    float *values = allocate(walk, channels * sizeof *values);
    if (!values)
        return NULL;
    if (vector->data)
        fvlm_to_float(vector->type, vector->data, channels, values);
    for (size_t i = 0; !vector->data && i < channels; i++)
        values[i] = fallback;
    return values;
}

/* A layer with weights, and the scales and shifts behind it that are to be folded into it. */
struct weights {
    const fvlm_layer *layer;
    fvlm_tensor weight, bias; /* bias.data is NULL where there is none */
};

/* Multiply row r of the weight by scale[r], bias[r] = bias[r] * scale[r] + shift[r]; all become float32. */
static void fold(struct walk *walk, struct weights *weights, const float *scale, const float *shift)
{
    size_t rows = weights->weight.shape[0], count = element_count(&weights->weight), width = count / rows;
    float *weight = allocate(walk, count * sizeof *weight);
    float *bias = floats_of(walk, weights->layer, &weights->bias, rows, 0);
    if (!weight || !bias)
        return;
    fvlm_to_float(weights->weight.type, weights->weight.data, count, weight);
    for (size_t r = 0; r < rows; r++) {
        for (size_t i = 0; i < width; i++)
            weight[r * width + i] *= scale[r];
        bias[r] = bias[r] * scale[r] + shift[r];
    }
    weights->weight.type = FVLM_F32;
    weights->weight.data = weight;
    weights->weight.bytes = count * sizeof *weight;
    weights->bias = vector_of(bias, rows, 1);
}

/* What a scale, shift or batch norm does to each of `channels`; NULLs on failure. */
static void affine_of(struct walk *walk, const fvlm_layer *layer, size_t channels, float **scale, float **shift)
{
    *scale = floats_of(walk, layer, &layer->weight, channels, 1);
    *shift = floats_of(walk, layer, &layer->bias, channels, 0);
    if (layer->kind != FVLM_LAYER_BATCH_NORM)
        return;
    const float *mean = floats_of(walk, layer, &layer->mean, channels, 0);
    const float *variance = floats_of(walk, layer, &layer->variance, channels, 1);
    bool plain = true;
    for (size_t i = 0; mean && variance && i < channels; i++)
        plain = plain && mean[i] == 0 && variance[i] == 1;
    /* Converters write a plain scale and shift as a batch norm of mean 0 and variance 1; that its epsilon then takes
     * 5e-6 off the scale is not what the checkpoint meant. */
    float epsilon = plain ? 0 : layer->epsilon;
    for (size_t i = 0; *scale && *shift && mean && variance && i < channels; i++) {
        (*scale)[i] /= sqrtf(variance[i] + epsilon);
        (*shift)[i] -= mean[i] * (*scale)[i];
    }
}

/* Fold the shifts behind a layer into it, and batch norms and scales too where `scales` says so. */
static void fold_followers(struct walk *walk, struct weights *weights, bool scales)
{
    while (next_is(walk, FVLM_LAYER_SHIFT) ||
           (scales && (next_is(walk, FVLM_LAYER_SCALE) || next_is(walk, FVLM_LAYER_BATCH_NORM)))) {
        const fvlm_layer *layer = &walk->layers[walk->at++];
        float *scale, *shift;
        affine_of(walk, layer, weights->weight.shape[0], &scale, &shift);
        if (!walk->status)
            fold(walk, weights, scale, shift);
    }
}

/* The next layer, a convolution of this form over the present channels. */
static struct weights take_conv(struct walk *walk, size_t kernel, size_t stride, bool depthwise, const char *role)
{
    struct weights weights = {.layer = take(walk, FVLM_LAYER_CONV, role)};
    if (!weights.layer)
        return weights;
    const fvlm_layer *layer = weights.layer;
    const size_t *shape = layer->weight.shape;
    size_t groups = depthwise ? walk->channels : 1;
    if (shape[2] != kernel || layer->stride != stride || layer->groups != groups ||
        shape[1] * layer->groups != walk->channels) {
        char problem[160];
        snprintf(problem, sizeof problem, "a %s%zux%zu convolution of stride %zu over %zu channels was expected, %s",
                 depthwise ? "depthwise " : "", kernel, kernel, stride, walk->channels, role);
        fail(walk, layer, problem);
    }
    weights.weight = layer->weight;
    weights.bias = layer->bias;
    walk->channels = shape[0];
    return weights;
}

/* The next layer, linear or a 1x1 convolution over the present channels; its weight becomes [out, in]. */
static struct weights take_linear(struct walk *walk, const char *role)
{
    struct weights weights = {0};
    if (next_is(walk, FVLM_LAYER_CONV)) {
        weights = take_conv(walk, 1, 1, false, role);
        weights.weight.rank = 2;
        return weights;
    }
    weights.layer = take(walk, FVLM_LAYER_LINEAR, role);
    if (!weights.layer)
        return weights;
    if (weights.layer->weight.shape[1] != walk->channels)
        fail(walk, weights.layer, "its weight does not fit the number of channels");
    weights.weight = weights.layer->weight;
    weights.bias = weights.layer->bias;
    walk->channels = weights.weight.shape[0];
    return weights;
}

/* "name.weight" as [out, in, 1, 1] where `spatial`, and "name.bias", zeros where the layer has none. */
static void emit_weights(struct walk *walk, const struct weights *weights, bool spatial, const char *name)
{
    if (walk->status)
        return;
    fvlm_tensor weight = weights->weight, bias = weights->bias;
    size_t rows = weight.shape[0];
    if (spatial && weight.rank == 2) {
        weight.rank = 4;
        weight.shape[2] = weight.shape[3] = 1;
    }
    if (bias.data) {
        bias.rank = 1;
        bias.shape[0] = rows;
    } else {
        const float *zeros = floats_of(walk, weights->layer, &bias, rows, 0);
        bias = vector_of(zeros, rows, 1);
    }
    emit(walk, weight, "%s.weight", name);
    emit(walk, bias, "%s.bias", name);
}

static void read_conv(struct walk *walk, size_t kernel, size_t stride, bool depthwise, const char *name)
{
    struct weights weights = take_conv(walk, kernel, stride, depthwise, name);
    fold_followers(walk, &weights, true);
    emit_weights(walk, &weights, true, name);
}

static void read_pointwise(struct walk *walk, size_t channels, const char *name)
{
    struct weights weights = take_linear(walk, name);
    if (weights.layer && channels && walk->channels != channels)
        fail(walk, weights.layer, "it gives another number of channels than the tower's form asks for");
    fold_followers(walk, &weights, false);
    emit_weights(walk, &weights, true, name);
}

/* The layer scale behind a branch, or ones where it was folded into the branch. */
static void read_layer_scale(struct walk *walk, const char *name)
{
    const fvlm_layer *layer = next_is(walk, FVLM_LAYER_SCALE) ? take(walk, FVLM_LAYER_SCALE, name) : NULL;
    fvlm_tensor scale = layer ? layer->weight : (fvlm_tensor){0};
    const float *values = floats_of(walk, layer, &scale, walk->channels, 1);
    if (values)
        emit(walk, vector_of(values, walk->channels, 3), "%s", name);
}

/* The sum that ends a branch; it must add what layer number `base` gave. */
static void read_sum(struct walk *walk, size_t base, const char *role)
{
    const fvlm_layer *layer = take(walk, FVLM_LAYER_RESIDUAL, role);
    if (layer && layer->other != base)
        fail(walk, layer, "it does not add the branch to the block's input");
}

/* The FFN's depthwise convolution: with its batch norm where the program has it, else with a bias. */
static void read_ffn_conv(struct walk *walk, const char *name)
{
    struct weights weights = take_conv(walk, 7, 1, true, name);
    if (!next_is(walk, FVLM_LAYER_BATCH_NORM)) {
        fold_followers(walk, &weights, true);
        emit_weights(walk, &weights, true, join(name, "conv").text);
        return;
    }
    const fvlm_layer *norm = take(walk, FVLM_LAYER_BATCH_NORM, name);
    size_t channels = walk->channels;
    const float *scale = floats_of(walk, norm, &norm->weight, channels, 1);
    const float *shift = floats_of(walk, norm, &norm->bias, channels, 0);
    const float *bias = floats_of(walk, norm, &weights.bias, channels, 0);
    float *mean = floats_of(walk, norm, &norm->mean, channels, 0);
    float *variance = floats_of(walk, norm, &norm->variance, channels, 1);
    if (!scale || !shift || !bias || !mean || !variance)
        return;
    /* Checkpoints have no bias in front of this batch norm, and its epsilon is fixed. */
    for (size_t i = 0; i < channels; i++) {
        mean[i] -= bias[i];
        variance[i] += norm->epsilon - NORM_EPSILON;
    }
    emit(walk, weights.weight, "%s.conv.weight", name);
    emit(walk, vector_of(scale, channels, 1), "%s.bn.weight", name);
    emit(walk, vector_of(shift, channels, 1), "%s.bn.bias", name);
    emit(walk, vector_of(mean, channels, 1), "%s.bn.running_mean", name);
    emit(walk, vector_of(variance, channels, 1), "%s.bn.running_var", name);
}

/* `block` is "network.K.B". */
static void read_ffn(struct walk *walk, const char *block, const char *scale)
{
    size_t base = walk->at, channels = walk->channels;
    read_ffn_conv(walk, join(block, "convffn.conv").text);
    read_pointwise(walk, 0, join(block, "convffn.fc1").text);
    take(walk, FVLM_LAYER_GELU, block);
    read_pointwise(walk, channels, join(block, "convffn.fc2").text);
    read_layer_scale(walk, join(block, scale).text);
    read_sum(walk, base, block);
}

/* Layer norm over the channels: its weight and bias may be part of it or come behind it. */
static void read_norm(struct walk *walk, const char *block)
{
    const fvlm_layer *layer = take(walk, FVLM_LAYER_NORMALISE, block);
    if (!layer)
        return;
    /* fp16 rounds the epsilon. */
    if (fabsf(layer->epsilon - NORM_EPSILON) > 0.02f * NORM_EPSILON)
        fail(walk, layer, "the epsilon of its layer norm is not 1e-5");
    size_t channels = walk->channels;
    float *weight = floats_of(walk, layer, &layer->weight, channels, 1);
    float *bias = floats_of(walk, layer, &layer->bias, channels, 0);
    while (next_is(walk, FVLM_LAYER_BATCH_NORM) || next_is(walk, FVLM_LAYER_SCALE) || next_is(walk, FVLM_LAYER_SHIFT)) {
        float *scale, *shift;
        affine_of(walk, &walk->layers[walk->at++], channels, &scale, &shift);
        for (size_t i = 0; !walk->status && i < channels; i++) {
            weight[i] *= scale[i];
            bias[i] = bias[i] * scale[i] + shift[i];
        }
    }
    if (walk->status)
        return;
    emit(walk, vector_of(weight, channels, 1), "%s.norm.weight", block);
    emit(walk, vector_of(bias, channels, 1), "%s.norm.bias", block);
}

/* q, k and v as one matrix [3 * channels, channels]; the tower's has no bias. */
static void read_qkv(struct walk *walk, const char *name)
{
    size_t channels = walk->channels;
    struct weights weights = take_linear(walk, name);
    fold_followers(walk, &weights, false);
    if (walk->status)
        return;
    if (walk->channels != 3 * channels)
        fail(walk, weights.layer, "its weight is not that of query, key and value together");
    const float *bias = floats_of(walk, weights.layer, &weights.bias, 3 * channels, 0);
    for (size_t i = 0; bias && i < 3 * channels; i++)
        if (bias[i] != 0)
            fail(walk, weights.layer, "query, key and value have a bias");
    emit(walk, weights.weight, "%s.weight", name);
    walk->channels = channels;
}

static void read_attention_block(struct walk *walk, const char *block)
{
    size_t base = walk->at, channels = walk->channels;
    read_norm(walk, block);
    read_qkv(walk, join(block, "token_mixer.qkv").text);
    const fvlm_layer *softmax = take(walk, FVLM_LAYER_SOFTMAX, block);
    double expected = softmax && softmax->own_factor ? 1 : 1 / sqrt(HEAD_WIDTH);
    if (softmax && !(fabs(softmax->factor - expected) < 0.01 * expected))
        fail(walk, softmax, "its heads are not 32 wide");
    struct weights projection = take_linear(walk, block);
    if (projection.layer && walk->channels != channels)
        fail(walk, projection.layer, "it gives another number of channels than it takes");
    fold_followers(walk, &projection, false);
    emit_weights(walk, &projection, false, join(block, "token_mixer.proj").text);
    read_layer_scale(walk, join(block, "layer_scale_1").text);
    read_sum(walk, base, block);
    read_ffn(walk, block, "layer_scale_2");
}

static void read_mixer_block(struct walk *walk, const char *block)
{
    read_conv(walk, 3, 1, true, join(block, "token_mixer.reparam_conv").text);
    read_ffn(walk, block, "layer_scale");
}

static void read_downsample(struct walk *walk, size_t place)
{
    char name[MAX_NAME];
    snprintf(name, sizeof name, "network.%zu.proj.0.lkb_reparam", place);
    read_conv(walk, 7, 2, true, name);
    take(walk, FVLM_LAYER_GELU, name);
    snprintf(name, sizeof name, "network.%zu.proj.1.reparam_conv", place);
    read_pointwise(walk, 0, name);
    take(walk, FVLM_LAYER_GELU, name);
}

static void read_stem(struct walk *walk)
{
    walk->channels = 3;
    read_conv(walk, 3, 2, false, "patch_embed.0.reparam_conv");
    take(walk, FVLM_LAYER_GELU, "in the stem");
    read_conv(walk, 3, 2, true, "patch_embed.1.reparam_conv");
    take(walk, FVLM_LAYER_GELU, "in the stem");
    read_pointwise(walk, 0, "patch_embed.2.reparam_conv");
    take(walk, FVLM_LAYER_GELU, "in the stem");
}

static void read_expansion(struct walk *walk)
{
    read_conv(walk, 3, 1, true, "conv_exp.reparam_conv");
    size_t channels = walk->channels;
    read_pointwise(walk, 0, "conv_exp.se.reduce");
    take(walk, FVLM_LAYER_RELU, "in the squeeze-excite");
    read_pointwise(walk, channels, "conv_exp.se.expand");
    take(walk, FVLM_LAYER_SIGMOID, "in the squeeze-excite");
    take(walk, FVLM_LAYER_GATE, "in the squeeze-excite");
    take(walk, FVLM_LAYER_GELU, "at the tower's end");
    if (peek(walk, 0))
        fail(walk, peek(walk, 0), "nothing was expected behind the tower's end");
}

/* The convolution that comes next, by its form. */
enum form { MIXER, DOWNSAMPLE, POSITION, EXPANSION, UNKNOWN };

static enum form form_of(const struct walk *walk)
{
    const fvlm_layer *layer = peek(walk, 0), *next = peek(walk, 1);
    if (!layer || layer->kind != FVLM_LAYER_CONV || layer->groups != walk->channels)
        return UNKNOWN;
    size_t kernel = layer->weight.shape[2];
    bool widens = layer->weight.shape[0] != walk->channels;
    if (kernel == 7 && layer->stride == 2)
        return DOWNSAMPLE;
    if (kernel == 7 && layer->stride == 1 && next && next->kind == FVLM_LAYER_NORMALISE)
        return POSITION;
    if (kernel == 3 && layer->stride == 1)
        return widens ? EXPANSION : MIXER;
    return UNKNOWN;
}

/* Stages, downsamples and position encodings; network's entries are counted in order. */
static void read_network(struct walk *walk)
{
    char name[MAX_NAME];
    size_t place = 0, block = 0;
    while (!walk->status) {
        if (next_is(walk, FVLM_LAYER_NORMALISE)) {
            snprintf(name, sizeof name, "network.%zu.%zu", place, block++);
            read_attention_block(walk, name);
            continue;
        }
        switch (form_of(walk)) {
        case MIXER:
            snprintf(name, sizeof name, "network.%zu.%zu", place, block++);
            read_mixer_block(walk, name);
            break;
        case DOWNSAMPLE:
            read_downsample(walk, place + 1);
            place += 2;
            block = 0;
            break;
        case POSITION:
            if (block > 0)
                fail(walk, peek(walk, 0), "a position encoding within a stage");
            snprintf(name, sizeof name, "network.%zu.reparam_conv", place++);
            read_conv(walk, 7, 1, true, name);
            break;
        case EXPANSION:
            return;
        case UNKNOWN:
            fail(walk, peek(walk, 0), "a block, a downsample or the last expansion was expected");
        }
    }
}

static bool near(double value, double expected)
{
    return fabs(value - expected) <= 0.01 * expected;
}

/* Each layer follows the one before it, and constant factors stand only where the tower has them: pixels of 0..255,
 * GELU that is written out, attention. */
static void check_chain(struct walk *walk)
{
    for (size_t i = 0; i < walk->count && !walk->status; i++) {
        const fvlm_layer *layer = &walk->layers[i];
        bool behind_gelu = i > 0 && walk->layers[i - 1].kind == FVLM_LAYER_GELU;
        bool fine =
            near(layer->factor, 1) || layer->kind == FVLM_LAYER_SOFTMAX || (i == 0 && near(layer->factor, 1. / 255)) ||
            (behind_gelu && near(layer->factor, 0.5)) ||
            (layer->kind == FVLM_LAYER_GELU && (near(layer->factor, sqrt(0.5)) || near(layer->factor, sqrt(0.125))));
        if (layer->after != i)
            fail(walk, layer, "it does not follow the layer before it");
        if (!fine)
            fail(walk, layer, "its input is multiplied by a constant");
    }
}

fvlm_status fvlm_tower_names(fvlm_tensor_table *table, fvlm_mil *mil, const char *path, fvlm_error *error)
{
    fvlm_layer *layers;
    size_t count;
    fvlm_status status = fvlm_tower_layers(mil, path, &layers, &count, error);
    if (status)
        return status;
    struct walk walk = {.table = table, .mil = mil, .path = path, .layers = layers, .count = count, .error = error};
    check_chain(&walk);
    read_stem(&walk);
    read_network(&walk);
    read_expansion(&walk);
    free(layers);
    return walk.status;
}
