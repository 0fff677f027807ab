/* The loader: finds a tensor, checks its shape, and gives a view of it or a converted copy. */
#include "model/weights.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"

/* Write the formatted name followed by `suffix`; false when it is too long for any tensor we know. */
static bool format_name(char name[FVLM_MAX_NAME], const char *format, va_list arguments, const char *suffix)
{
    int length = vsnprintf(name, FVLM_MAX_NAME, format, arguments);
    if (length < 0 || (size_t)length + strlen(suffix) >= FVLM_MAX_NAME)
        return false;
    strcpy(name + length, suffix);
    return true;
}

bool fvlm_loader_has(const fvlm_loader *loader, const char *format, ...)
{
    char name[FVLM_MAX_NAME];
    va_list arguments;
    va_start(arguments, format);
    bool fits = format_name(name, format, arguments, "");
    va_end(arguments);
    return fits && fvlm_tensor_table_find(loader->table, name);
}

float *fvlm_loader_alloc(fvlm_loader *loader, size_t count)
{
    if (loader->status)
        return NULL;
    float *memory = fvlm_arena_alloc(loader->arena, count, sizeof *memory);
    if (!memory)
        loader->status = fvlm_fail_memory(loader->error);
    return memory;
}

static bool is_float_type(fvlm_dtype type)
{
    return type == FVLM_F32 || type == FVLM_F16 || type == FVLM_BF16 || type == FVLM_F64;
}

static size_t element_count(const fvlm_tensor *tensor)
{
    size_t count = 1;
    for (int i = 0; i < tensor->rank; i++)
        count *= tensor->shape[i]; /* the reader has checked that this fits */
    return count;
}

static const fvlm_tensor *find_tensor(fvlm_loader *loader, const char *name)
{
    const fvlm_tensor *tensor = loader->status ? NULL : fvlm_tensor_table_find(loader->table, name);
    if (!tensor && !loader->status)
        loader->status = fvlm_fail(loader->error, FVLM_ERROR_FORMAT,
                                   "the checkpoint has no tensor %s: a file of it is missing, or config.json "
                                   "describes another model",
                                   name);
    return tensor;
}

static const fvlm_tensor *find_floats(fvlm_loader *loader, const char *name)
{
    const fvlm_tensor *tensor = find_tensor(loader, name);
    if (tensor && !is_float_type(tensor->type)) {
        loader->status = fvlm_fail(loader->error, FVLM_ERROR_UNSUPPORTED, "tensor %s has type %s, not a float type",
                                   name, fvlm_dtype_name(tensor->type));
        return NULL;
    }
    return tensor;
}

static fvlm_status fail_shape(fvlm_loader *loader, const fvlm_tensor *tensor, const char *expected)
{
    char shape[96] = "";
    size_t used = 0;
    for (int i = 0; i < tensor->rank && used < sizeof shape; i++)
        used += (size_t)snprintf(shape + used, sizeof shape - used, "%s%zu", i ? ", " : "", tensor->shape[i]);
    loader->status = fvlm_fail(loader->error, FVLM_ERROR_FORMAT,
                               "tensor %s has shape [%s] where config.json asks for %s", tensor->name, shape, expected);
    return loader->status;
}

static void count_weights(fvlm_loader *loader, const fvlm_tensor *tensor, size_t parameters)
{
    loader->parameters += parameters;
    loader->bytes += tensor->bytes;
}

/* A float32 copy in the arena. */
static const float *convert(fvlm_loader *loader, const fvlm_tensor *tensor, size_t count)
{
    float *copy = fvlm_loader_alloc(loader, count);
    if (copy)
        fvlm_to_float(tensor->type, tensor->data, count, copy);
    return copy;
}

static bool is_aligned(const void *data, size_t bytes)
{
    return (uintptr_t)data % bytes == 0;
}

/* The tensor's data where it lies, or, when its elements are not aligned there, a copy in the arena. */
static const void *aligned_data(fvlm_loader *loader, const fvlm_tensor *tensor)
{
    if (loader->in_place || is_aligned(tensor->data, fvlm_dtype_bytes(tensor->type)))
        return tensor->data;
    void *copy = fvlm_arena_alloc(loader->arena, tensor->bytes, 1);
    if (!copy) {
        loader->status = fvlm_fail_memory(loader->error);
        return NULL;
    }
    return memcpy(copy, tensor->data, tensor->bytes);
}

const float *fvlm_load_vector(fvlm_loader *loader, size_t count, const char *format, ...)
{
    char name[FVLM_MAX_NAME];
    va_list arguments;
    va_start(arguments, format);
    bool fits = format_name(name, format, arguments, "");
    va_end(arguments);
    const fvlm_tensor *tensor = fits ? find_floats(loader, name) : NULL;
    if (!tensor)
        return NULL;
    if (element_count(tensor) != count) {
        char expected[32];
        snprintf(expected, sizeof expected, "%zu values", count);
        fail_shape(loader, tensor, expected);
        return NULL;
    }
    count_weights(loader, tensor, count);
    if (tensor->type == FVLM_F32 && is_aligned(tensor->data, sizeof(float)))
        return tensor->data;
    return convert(loader, tensor, count);
}

/* Scales or biases of a quantised matrix: [rows, groups] of a float type, where they lie: MLX aligns nothing, and the
 * type has to stay, since it decides how values are rounded. */
static const void *load_group_values(fvlm_loader *loader, const char *name, size_t rows, size_t groups,
                                     fvlm_dtype *type)
{
    const fvlm_tensor *tensor = find_floats(loader, name);
    if (!tensor)
        return NULL;
    if (tensor->rank != 2 || tensor->shape[0] != rows || tensor->shape[1] != groups) {
        char expected[64];
        snprintf(expected, sizeof expected, "[%zu, %zu]", rows, groups);
        fail_shape(loader, tensor, expected);
        return NULL;
    }
    loader->bytes += tensor->bytes;
    *type = FVLM_F32;
    if (tensor->type == FVLM_F64)
        return convert(loader, tensor, rows * groups);
    *type = tensor->type;
    return tensor->data;
}

/* An MLX matrix: `packed` is u32 [rows, cols * bits / 32]; stem ends in ".weight". */
static void load_quantized(fvlm_loader *loader, const fvlm_tensor *packed, fvlm_matrix *matrix)
{
    size_t bits = loader->quantized_bits, group = loader->quantized_group;
    if (bits == 0 || group == 0 || matrix->cols % group != 0) {
        loader->status =
            fvlm_fail(loader->error, FVLM_ERROR_FORMAT,
                      "tensor %s is quantised, but config.json's \"quantization\" does not fit it", packed->name);
        return;
    }
    size_t words = matrix->cols * bits / 32;
    if (packed->type != FVLM_U32 || packed->rank != 2 || packed->shape[0] != matrix->rows ||
        packed->shape[1] != words) {
        char expected[64];
        snprintf(expected, sizeof expected, "u32 [%zu, %zu]", matrix->rows, words);
        fail_shape(loader, packed, expected);
        return;
    }
    size_t stem = strlen(packed->name) - strlen(".weight");
    char name[FVLM_MAX_NAME + 8];
    fvlm_dtype bias_type;
    snprintf(name, sizeof name, "%.*s.scales", (int)stem, packed->name);
    matrix->scales = load_group_values(loader, name, matrix->rows, matrix->cols / group, &matrix->scale_type);
    snprintf(name, sizeof name, "%.*s.biases", (int)stem, packed->name);
    matrix->biases = load_group_values(loader, name, matrix->rows, matrix->cols / group, &bias_type);
    if (!loader->status && bias_type != matrix->scale_type)
        loader->status =
            fvlm_fail(loader->error, FVLM_ERROR_UNSUPPORTED, "tensor %s has another type than its scales", name);
    matrix->type = bits == 4 ? FVLM_MLX4 : FVLM_MLX8;
    matrix->group = group;
    matrix->data = packed->data;
}

fvlm_matrix fvlm_load_matrix(fvlm_loader *loader, size_t rows, size_t cols, const char *format, ...)
{
    fvlm_matrix matrix = {.type = FVLM_F32, .rows = rows, .cols = cols};
    char name[FVLM_MAX_NAME], scales[FVLM_MAX_NAME];
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    bool fits = format_name(name, format, arguments, ".weight") && format_name(scales, format, again, ".scales");
    va_end(again);
    va_end(arguments);
    if (!fits)
        return matrix;

    bool quantized = !loader->status && fvlm_tensor_table_find(loader->table, scales);
    const fvlm_tensor *tensor = find_tensor(loader, name);
    size_t block_bytes;
    bool blocks = tensor && fvlm_dtype_block(tensor->type, &block_bytes);
    if (!quantized && !blocks)
        tensor = find_floats(loader, name);
    if (!tensor)
        return matrix;
    if (quantized) {
        load_quantized(loader, tensor, &matrix);
        count_weights(loader, tensor, rows * cols);
        return matrix;
    }
    bool shaped = tensor->rank >= 2 && tensor->shape[0] == rows && tensor->shape[1] == cols;
    for (int i = 2; i < tensor->rank; i++)
        shaped = shaped && tensor->shape[i] == 1;
    if (!shaped) {
        char expected[64];
        snprintf(expected, sizeof expected, "[%zu, %zu]", rows, cols);
        fail_shape(loader, tensor, expected);
        return matrix;
    }
    count_weights(loader, tensor, rows * cols);
    matrix.type = tensor->type;
    if (tensor->type == FVLM_F64) {
        matrix.type = FVLM_F32;
        matrix.data = convert(loader, tensor, rows * cols);
    } else {
        matrix.data = blocks ? tensor->data : aligned_data(loader, tensor);
    }
    return matrix;
}
