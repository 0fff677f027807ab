/* From the operations of a Core ML program to the layers of a vision tower.
 *
 * The operations are walked in order. Those with weights, activations and sums become layers; those that only move or
 * convert values are passed over, but each remembers the last layer that its value depends on, so that every layer
 * knows what it follows. How an exporter wrote a thing down (layer norm as one operation or seven, a linear layer as
 * matmul, GELU by erf, casts anywhere) ends here.
 */
#include "formats/tower_layers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"

#define MAX_LAYERS 8192 /* FastViTHD has 400 */

struct builder {
    fvlm_mil *mil;
    const char *path;
    size_t *last; /* [operations]: the last layer that the operation's value depends on */
    fvlm_layer *layers;
    size_t count, capacity;
    double factor; /* product of constant numbers since the last layer */
    float addend;  /* the constant number added last since the last layer: a layer norm's epsilon */
    fvlm_error *error;
};

typedef fvlm_status (*handler_fn)(struct builder *builder, size_t op);

static fvlm_status fail(const struct builder *builder, size_t op, const char *problem)
{
    return fvlm_fail(builder->error, FVLM_ERROR_UNSUPPORTED, "%s: operation '%s' (%s): %s", builder->path,
                     fvlm_mil_name(builder->mil, op), fvlm_mil_type(builder->mil, op), problem);
}

/* The last layer behind the op's i-th computed input; false where there are fewer. */
static bool operand_layer(const struct builder *builder, size_t op, size_t i, size_t *layer)
{
    size_t producer;
    if (!fvlm_mil_operand(builder->mil, op, i, &producer))
        return false;
    *layer = producer == FVLM_MIL_INPUT ? 0 : builder->last[producer];
    return true;
}

static size_t latest_layer(const struct builder *builder, size_t op)
{
    size_t latest = 0, layer;
    for (size_t i = 0; operand_layer(builder, op, i, &layer); i++)
        latest = layer > latest ? layer : latest;
    return latest;
}

/* Append `layer` as what the operation does. */
static fvlm_status append(struct builder *builder, size_t op, fvlm_layer layer)
{
    if (builder->count == MAX_LAYERS)
        return fail(builder, op, "the program has too many layers");
    if (builder->count == builder->capacity) {
        size_t capacity = builder->capacity ? 2 * builder->capacity : 256;
        fvlm_layer *layers = realloc(builder->layers, capacity * sizeof *layers);
        if (!layers)
            return fvlm_fail_memory(builder->error);
        builder->layers = layers;
        builder->capacity = capacity;
    }
    layer.op = op;
    layer.after = latest_layer(builder, op);
    layer.factor = builder->factor;
    builder->factor = 1;
    builder->addend = 0;
    builder->layers[builder->count++] = layer;
    builder->last[op] = builder->count;
    return FVLM_OK;
}

static fvlm_status pass_over(struct builder *builder, size_t op)
{
    builder->last[op] = latest_layer(builder, op);
    return FVLM_OK;
}

static fvlm_status read_tensor(struct builder *builder, size_t op, const char *parameter, fvlm_tensor *tensor)
{
    fvlm_status status = fvlm_mil_tensor(builder->mil, op, parameter, tensor, builder->error);
    if (!status && tensor->type != FVLM_F32 && tensor->type != FVLM_F16)
        status = fail(builder, op, "a weight is not of a float type");
    return status;
}

/* The same where the parameter may be missing. */
static fvlm_status read_optional(struct builder *builder, size_t op, const char *parameter, fvlm_tensor *tensor)
{
    *tensor = (fvlm_tensor){0};
    if (!fvlm_mil_is_constant(builder->mil, op, parameter))
        return FVLM_OK;
    return read_tensor(builder, op, parameter, tensor);
}

static size_t element_count(const fvlm_tensor *tensor)
{
    return tensor->bytes / fvlm_dtype_bytes(tensor->type);
}

/* A constant number, or `fallback` where the parameter is not given. */
static fvlm_status read_number(struct builder *builder, size_t op, const char *parameter, float fallback, float *number)
{
    fvlm_tensor tensor;
    fvlm_status status = read_optional(builder, op, parameter, &tensor);
    *number = fallback;
    if (status || !tensor.data)
        return status;
    if (element_count(&tensor) != 1)
        return fail(builder, op, "a number was expected where it has a tensor");
    fvlm_to_float(tensor.type, tensor.data, 1, number);
    return FVLM_OK;
}

/* Convolutions keep their input's size or halve it: kernels of odd width, padded by half of it. */
static fvlm_status check_padding(struct builder *builder, size_t op, size_t kernel, size_t stride)
{
    const char *kind = fvlm_mil_text(builder->mil, op, "pad_type", "valid");
    bool half = kernel == 1 && strcmp(kind, "valid") == 0;
    if (stride == 1 && (strcmp(kind, "same") == 0 || strcmp(kind, "same_lower") == 0))
        half = true;
    if (strcmp(kind, "custom") == 0) {
        int64_t pads[4];
        fvlm_status status = fvlm_mil_numbers(builder->mil, op, "pad", 4, 0, pads, builder->error);
        if (status)
            return status;
        half = true;
        for (int i = 0; i < 4; i++)
            half = half && pads[i] == (int64_t)(kernel / 2);
    }
    return half ? FVLM_OK : fail(builder, op, "its padding is not half its kernel");
}

static fvlm_status add_conv(struct builder *builder, size_t op)
{
    fvlm_layer layer = {.kind = FVLM_LAYER_CONV};
    int64_t strides[2], dilations[2], groups;
    fvlm_status status = read_tensor(builder, op, "weight", &layer.weight);
    if (!status)
        status = read_optional(builder, op, "bias", &layer.bias);
    if (!status)
        status = fvlm_mil_numbers(builder->mil, op, "strides", 2, 1, strides, builder->error);
    if (!status)
        status = fvlm_mil_numbers(builder->mil, op, "dilations", 2, 1, dilations, builder->error);
    if (!status)
        status = fvlm_mil_numbers(builder->mil, op, "groups", 1, 1, &groups, builder->error);
    if (status)
        return status;
    const size_t *shape = layer.weight.shape;
    if (layer.weight.rank != 4 || shape[2] != shape[3] || shape[2] % 2 == 0 || layer.weight.bytes == 0)
        return fail(builder, op, "its kernel is not square and of odd width");
    if (strides[0] != strides[1] || strides[0] < 1 || strides[0] > 2 || dilations[0] != 1 || dilations[1] != 1 ||
        groups < 1 || shape[0] % (uint64_t)groups != 0)
        return fail(builder, op, "its strides, dilations or groups are not those of this tower");
    if (layer.bias.data && element_count(&layer.bias) != shape[0])
        return fail(builder, op, "its bias does not fit its weight");
    layer.stride = (size_t)strides[0];
    layer.groups = (size_t)groups;
    status = check_padding(builder, op, shape[2], layer.stride);
    return status ? status : append(builder, op, layer);
}

static fvlm_status append_linear(struct builder *builder, size_t op, fvlm_layer *layer)
{
    if (layer->weight.rank != 2 || layer->weight.bytes == 0 ||
        (layer->bias.data && element_count(&layer->bias) != layer->weight.shape[0]))
        return fail(builder, op, "its weight is not a matrix, or its bias does not fit");
    layer->kind = FVLM_LAYER_LINEAR;
    return append(builder, op, *layer);
}

static fvlm_status add_linear(struct builder *builder, size_t op)
{
    fvlm_layer layer = {0};
    fvlm_status status = read_tensor(builder, op, "weight", &layer.weight);
    if (!status)
        status = read_optional(builder, op, "bias", &layer.bias);
    return status ? status : append_linear(builder, op, &layer);
}

/* [rows, cols] -> [cols, rows], a copy. */
static fvlm_status transpose(struct builder *builder, fvlm_tensor *matrix)
{
    size_t rows = matrix->shape[0], cols = matrix->shape[1], element = fvlm_dtype_bytes(matrix->type);
    void *memory;
    fvlm_status status = fvlm_mil_alloc(builder->mil, matrix->bytes, &memory, builder->error);
    if (status)
        return status;
    const uint8_t *from = matrix->data;
    uint8_t *to = memory;
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            memcpy(to + (c * rows + r) * element, from + (r * cols + c) * element, element);
    matrix->data = memory;
    matrix->shape[0] = cols;
    matrix->shape[1] = rows;
    return FVLM_OK;
}

/* A matmul with a constant is a linear layer: x W (W [in, out]) or W x (W [out, in]), either transposed. Without one it
 * belongs to attention and has no weights. */
static fvlm_status add_matmul(struct builder *builder, size_t op)
{
    bool left = fvlm_mil_is_constant(builder->mil, op, "x");
    if (!left && !fvlm_mil_is_constant(builder->mil, op, "y"))
        return pass_over(builder, op);
    fvlm_layer layer = {0};
    int64_t transposed;
    fvlm_status status = read_tensor(builder, op, left ? "x" : "y", &layer.weight);
    if (!status)
        status =
            fvlm_mil_numbers(builder->mil, op, left ? "transpose_x" : "transpose_y", 1, 0, &transposed, builder->error);
    if (status)
        return status;
    while (layer.weight.rank > 2 && layer.weight.shape[0] == 1) {
        layer.weight.rank--;
        memmove(layer.weight.shape, layer.weight.shape + 1, (size_t)layer.weight.rank * sizeof layer.weight.shape[0]);
    }
    if (layer.weight.rank == 2 && layer.weight.bytes > 0 && left == (transposed != 0))
        status = transpose(builder, &layer.weight);
    return status ? status : append_linear(builder, op, &layer);
}

static fvlm_status add_batch_norm(struct builder *builder, size_t op)
{
    fvlm_layer layer = {.kind = FVLM_LAYER_BATCH_NORM};
    fvlm_status status = read_tensor(builder, op, "mean", &layer.mean);
    if (!status)
        status = read_tensor(builder, op, "variance", &layer.variance);
    if (!status)
        status = read_optional(builder, op, "gamma", &layer.weight);
    if (!status)
        status = read_optional(builder, op, "beta", &layer.bias);
    if (!status)
        status = read_number(builder, op, "epsilon", 1e-5f, &layer.epsilon);
    if (status)
        return status;
    size_t channels = element_count(&layer.mean);
    if (element_count(&layer.variance) != channels || (layer.weight.data && element_count(&layer.weight) != channels) ||
        (layer.bias.data && element_count(&layer.bias) != channels))
        return fail(builder, op, "its vectors are not of one length");
    return append(builder, op, layer);
}

static fvlm_status add_layer_norm(struct builder *builder, size_t op)
{
    fvlm_layer layer = {.kind = FVLM_LAYER_NORMALISE};
    fvlm_status status = read_optional(builder, op, "gamma", &layer.weight);
    if (!status)
        status = read_optional(builder, op, "beta", &layer.bias);
    if (!status)
        status = read_number(builder, op, "epsilon", 1e-5f, &layer.epsilon);
    return status ? status : append(builder, op, layer);
}

/* The root of a layer norm that is written out: (x - mean) / sqrt(variance + epsilon). */
static fvlm_status add_root(struct builder *builder, size_t op)
{
    return append(builder, op, (fvlm_layer){.kind = FVLM_LAYER_NORMALISE, .epsilon = builder->addend});
}

static fvlm_status add_gelu(struct builder *builder, size_t op)
{
    if (strcmp(fvlm_mil_text(builder->mil, op, "mode", "EXACT"), "EXACT") != 0)
        return fail(builder, op, "only the exact (erf) GELU belongs to this tower");
    return append(builder, op, (fvlm_layer){.kind = FVLM_LAYER_GELU});
}

/* GELU written out: the products and the sum around erf have constants and are passed over. */
static fvlm_status add_erf(struct builder *builder, size_t op)
{
    return append(builder, op, (fvlm_layer){.kind = FVLM_LAYER_GELU});
}

static fvlm_status add_relu(struct builder *builder, size_t op)
{
    return append(builder, op, (fvlm_layer){.kind = FVLM_LAYER_RELU});
}

static fvlm_status add_sigmoid(struct builder *builder, size_t op)
{
    return append(builder, op, (fvlm_layer){.kind = FVLM_LAYER_SIGMOID});
}

static fvlm_status add_softmax(struct builder *builder, size_t op)
{
    return append(builder, op, (fvlm_layer){.kind = FVLM_LAYER_SOFTMAX});
}

static fvlm_status add_attention(struct builder *builder, size_t op)
{
    return append(builder, op, (fvlm_layer){.kind = FVLM_LAYER_SOFTMAX, .own_factor = true});
}

/* The constant operand of a binary operation; data NULL where both are computed. */
static fvlm_status constant_operand(struct builder *builder, size_t op, fvlm_tensor *tensor)
{
    fvlm_status status = read_optional(builder, op, "x", tensor);
    return status || tensor->data ? status : read_optional(builder, op, "y", tensor);
}

/* The layers behind the two computed inputs. */
static fvlm_status two_operands(struct builder *builder, size_t op, size_t *a, size_t *b)
{
    if (!operand_layer(builder, op, 0, a) || !operand_layer(builder, op, 1, b))
        return fail(builder, op, "it has not two inputs");
    return FVLM_OK;
}

static fvlm_status add_sum(struct builder *builder, size_t op)
{
    fvlm_layer layer = {0};
    size_t a, b;
    fvlm_status status = constant_operand(builder, op, &layer.bias);
    if (status)
        return status;
    if (!layer.bias.data) {
        status = two_operands(builder, op, &a, &b);
        layer.kind = FVLM_LAYER_RESIDUAL;
        layer.other = a < b ? a : b;
        return status ? status : append(builder, op, layer);
    }
    if (element_count(&layer.bias) == 1) {
        fvlm_to_float(layer.bias.type, layer.bias.data, 1, &builder->addend);
        /* An epsilon, or the 1 of a GELU that is written out. */
        if (builder->addend != 1 && !(fabsf(builder->addend) < 1e-3f))
            return fail(builder, op, "it adds a constant number");
        return pass_over(builder, op);
    }
    layer.kind = FVLM_LAYER_SHIFT;
    return append(builder, op, layer);
}

static fvlm_status add_product(struct builder *builder, size_t op)
{
    fvlm_layer layer = {0};
    size_t a, b;
    fvlm_status status = constant_operand(builder, op, &layer.weight);
    if (status)
        return status;
    if (!layer.weight.data) {
        status = two_operands(builder, op, &a, &b);
        if (status)
            return status;
        bool gate_a = a > 0 && builder->layers[a - 1].kind == FVLM_LAYER_SIGMOID;
        bool gate_b = b > 0 && builder->layers[b - 1].kind == FVLM_LAYER_SIGMOID;
        if (gate_a == gate_b)
            return pass_over(builder, op);
        layer.kind = FVLM_LAYER_GATE;
        layer.other = gate_a ? b : a;
        return append(builder, op, layer);
    }
    if (element_count(&layer.weight) == 1) {
        float factor;
        fvlm_to_float(layer.weight.type, layer.weight.data, 1, &factor);
        builder->factor *= factor;
        return pass_over(builder, op);
    }
    layer.kind = FVLM_LAYER_SCALE;
    return append(builder, op, layer);
}

static fvlm_status add_quotient(struct builder *builder, size_t op)
{
    float divisor;
    if (fvlm_mil_is_constant(builder->mil, op, "x"))
        return fail(builder, op, "it divides a constant");
    fvlm_status status = read_number(builder, op, "y", 1, &divisor);
    if (!status)
        builder->factor /= divisor;
    return status ? status : pass_over(builder, op);
}

static fvlm_status add_difference(struct builder *builder, size_t op)
{
    fvlm_tensor constant;
    fvlm_status status = constant_operand(builder, op, &constant);
    if (!status && constant.data)
        status = fail(builder, op, "it subtracts a constant");
    return status ? status : pass_over(builder, op);
}

static fvlm_status add_power(struct builder *builder, size_t op)
{
    float exponent;
    fvlm_status status = read_number(builder, op, "y", 0, &exponent);
    if (!status && exponent != 2)
        status = fail(builder, op, "it is not a square");
    return status ? status : pass_over(builder, op);
}

static const struct {
    const char *type;
    handler_fn handle;
} handlers[] = {
    {"conv", add_conv},
    {"linear", add_linear},
    {"matmul", add_matmul},
    {"batch_norm", add_batch_norm},
    {"layer_norm", add_layer_norm},
    {"sqrt", add_root},
    {"rsqrt", add_root},
    {"gelu", add_gelu},
    {"erf", add_erf},
    {"relu", add_relu},
    {"sigmoid", add_sigmoid},
    {"softmax", add_softmax},
    {"scaled_dot_product_attention", add_attention},
    {"add", add_sum},
    {"mul", add_product},
    {"real_div", add_quotient},
    {"sub", add_difference},
    {"pow", add_power},
    {"square", pass_over},
    {"reduce_mean", pass_over},
    {"avg_pool", pass_over},
    {"cast", pass_over},
    {"identity", pass_over},
    {"reshape", pass_over},
    {"shape", pass_over},
    {"transpose", pass_over},
    {"expand_dims", pass_over},
    {"squeeze", pass_over},
    {"split", pass_over},
    {"slice_by_index", pass_over},
    {"slice_by_size", pass_over},
    {"gather", pass_over},
};

static handler_fn find_handler(const char *type)
{
    for (size_t i = 0; i < sizeof handlers / sizeof handlers[0]; i++)
        if (strcmp(handlers[i].type, type) == 0)
            return handlers[i].handle;
    return NULL;
}

static fvlm_status add_operation(struct builder *builder, size_t op)
{
    const char *type = fvlm_mil_type(builder->mil, op);
    if (strcmp(type, "const") == 0 || strncmp(type, "constexpr_", 10) == 0)
        return FVLM_OK;
    handler_fn handle = find_handler(type);
    return handle ? handle(builder, op) : fail(builder, op, "a FastViTHD tower has no such operation");
}

fvlm_status fvlm_tower_layers(fvlm_mil *mil, const char *path, fvlm_layer **layers, size_t *count, fvlm_error *error)
{
    struct builder builder = {.mil = mil, .path = path, .factor = 1, .error = error};
    builder.last = fvlm_calloc(fvlm_mil_count(mil), sizeof *builder.last);
    fvlm_status status = builder.last ? FVLM_OK : fvlm_fail_memory(error);
    for (size_t i = 0; !status && i < fvlm_mil_count(mil); i++)
        status = add_operation(&builder, i);
    free(builder.last);
    if (status) {
        free(builder.layers);
        builder.layers = NULL;
    }
    *layers = builder.layers;
    *count = builder.count;
    return status;
}

const char *fvlm_layer_kind_name(fvlm_layer_kind kind)
{
    static const char *const names[] = {"convolution", "linear layer", "normalisation", "batch norm",
                                        "scale",       "shift",        "GELU",          "ReLU",
                                        "sigmoid",     "attention",    "residual sum",  "gate"};
    return names[kind];
}
