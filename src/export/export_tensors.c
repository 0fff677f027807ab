/* Lists of tensors, and writing them: source rows -> float32 -> the file's type, in blocks over the pool.
 *
 * A row that is written as it is stored is copied. Source pages are given back once they were read, so that a mapped
 * model does not stay in memory.
 */
#include "export/export_tensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "kernels/grouped.h"
#include "kernels/quantize.h"

#define BLOCK_BYTES ((size_t)8 << 20) /* of the file, that are converted before they are written */

void fvlm_export_list_open(const fvlm_export_source *source, fvlm_error *error, fvlm_export_list *list)
{
    *list = (fvlm_export_list){.source = source, .error = error};
    list->arena = fvlm_arena_create();
    if (!list->arena)
        list->status = fvlm_fail_memory(error);
}

void fvlm_export_list_close(fvlm_export_list *list)
{
    fvlm_arena_destroy(&list->arena);
    free(list->tensors);
    *list = (fvlm_export_list){0};
}

/* Append `tensor` with its name copied and its size measured. */
static void append(fvlm_export_list *list, fvlm_export_tensor tensor, const char *name, const char *suffix)
{
    char whole[FVLM_MAX_NAME];
    if (list->status)
        return;
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 512;
        fvlm_export_tensor *tensors = realloc(list->tensors, capacity * sizeof *tensors);
        if (!tensors) {
            list->status = fvlm_fail_memory(list->error);
            return;
        }
        list->tensors = tensors;
        list->capacity = capacity;
    }
    snprintf(whole, sizeof whole, "%s%s", name, suffix);
    tensor.written.name = fvlm_arena_strdup(list->arena, whole);
    if (!tensor.written.name || !fvlm_tensor_measure(&tensor.written)) {
        list->status = fvlm_fail_memory(list->error);
        return;
    }
    list->tensors[list->count++] = tensor;
}

static fvlm_matrix find_source(fvlm_export_list *list, const fvlm_tensor *from)
{
    fvlm_matrix matrix = {.rows = 1, .cols = 1};
    if (!list->status)
        list->status = fvlm_export_find_matrix(list->source->model, list->arena, from, &matrix, list->error);
    return matrix;
}

/* Quantised: MLX's groups or GGUF's blocks. */
static bool is_grouped(const fvlm_matrix *matrix)
{
    return fvlm_dtype_bytes(matrix->type) == 0;
}

static void add_values(fvlm_export_list *list, const fvlm_tensor *from, const char *name, fvlm_export_type type,
                       bool longer)
{
    static const fvlm_dtype types[] = {
        [FVLM_EXPORT_FP32] = FVLM_F32, [FVLM_EXPORT_FP16] = FVLM_F16, [FVLM_EXPORT_BF16] = FVLM_BF16};
    fvlm_export_tensor tensor = {.written = *from, .source = find_source(list, from), .longer = longer};
    const fvlm_matrix *source = &tensor.source;
    bool grouped = is_grouped(source);
    if (grouped) {
        tensor.written.type = source->scales ? source->scale_type : FVLM_F16;
        tensor.written.shape[1] = source->cols;
    }
    bool floats = grouped || from->type == FVLM_F32 || from->type == FVLM_F16 || from->type == FVLM_BF16 ||
                  from->type == FVLM_F64;
    if (floats && (type != FVLM_EXPORT_DEFAULT || from->type == FVLM_F64))
        tensor.written.type = type == FVLM_EXPORT_DEFAULT ? FVLM_F32 : types[type];
    tensor.written.shape[0] += longer;
    append(list, tensor, name, "");
}

void fvlm_export_add(fvlm_export_list *list, const fvlm_tensor *from, const char *name, fvlm_export_type type)
{
    add_values(list, from, name, type, false);
}

void fvlm_export_add_longer(fvlm_export_list *list, const fvlm_tensor *from, const char *name, fvlm_export_type type)
{
    add_values(list, from, name, type, true);
}

void fvlm_export_add_quantized(fvlm_export_list *list, const fvlm_tensor *from, const char *name, size_t bits,
                               size_t group)
{
    fvlm_export_tensor tensor = {.source = find_source(list, from), .bits = bits, .group = group};
    const fvlm_matrix *source = &tensor.source;
    if (source->cols % group != 0) {
        char weight[FVLM_MAX_NAME];
        snprintf(weight, sizeof weight, "%s.weight", name);
        fvlm_export_add(list, from, weight, FVLM_EXPORT_FP16);
        return;
    }
    tensor.part = FVLM_EXPORT_WORDS;
    tensor.written = (fvlm_tensor){.type = FVLM_U32, .rank = 2, .shape = {source->rows, source->cols * bits / 32}};
    append(list, tensor, name, ".weight");
    tensor.part = FVLM_EXPORT_SCALES;
    tensor.written = (fvlm_tensor){.type = FVLM_F16, .rank = 2, .shape = {source->rows, source->cols / group}};
    append(list, tensor, name, ".scales");
    tensor.part = FVLM_EXPORT_BIASES;
    append(list, tensor, name, ".biases");
}

void fvlm_export_add_constant(fvlm_export_list *list, const char *name, fvlm_dtype type, int rank, const size_t *shape,
                              double fill)
{
    fvlm_export_tensor tensor = {
        .written = {.type = type, .rank = rank}, .source = {.rows = 1, .cols = 1}, .fill = fill};
    for (int i = 0; i < rank; i++) {
        tensor.written.shape[i] = shape[i];
        tensor.source.rows *= shape[i];
    }
    append(list, tensor, name, "");
}

void fvlm_export_add_unfolded(fvlm_export_list *list, const fvlm_tensor *bias, const char *name, fvlm_export_type type)
{
    static const struct {
        const char *part;
        double fill;
    } parts[] = {{"weight", 1}, {"running_mean", 0}, {"running_var", 1 - 1e-5}}; /* with the epsilon: 1 */
    char norm[FVLM_MAX_NAME];
    int stem = (int)(strlen(name) - strlen("conv.bias"));
    snprintf(norm, sizeof norm, "%.*sbn.bias", stem, name);
    fvlm_export_add(list, bias, norm, type);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        snprintf(norm, sizeof norm, "%.*sbn.%s", stem, name, parts[i].part);
        fvlm_export_add_constant(list, norm, FVLM_F32, 1, bias->shape, parts[i].fill);
    }
}

const char *fvlm_export_dtype(const fvlm_export_source *source, fvlm_export_type type)
{
    const fvlm_tensor *norm = fvlm_tensor_table_find(source->table, "model.norm.weight");
    if (type == FVLM_EXPORT_FP16 || (type == FVLM_EXPORT_DEFAULT && norm->type == FVLM_F16))
        return "float16";
    return type == FVLM_EXPORT_BF16 || (type == FVLM_EXPORT_DEFAULT && norm->type == FVLM_BF16) ? "bfloat16"
                                                                                                : "float32";
}

/* Writing. */

struct block {
    const fvlm_export_tensor *tensor;
    fvlm_pool *pool;
    size_t first; /* row */
    size_t row_bytes;
    uint8_t *out;           /* [rows of the block, row_bytes] */
    float *scales, *biases; /* [rows, groups] of the whole matrix, for the parts behind the words */
};

static void convert_row(void *argument, size_t index, int thread)
{
    const struct block *block = argument;
    const fvlm_export_tensor *tensor = block->tensor;
    size_t row = (block->first + index) % tensor->source.rows, cols = tensor->source.cols;
    uint8_t *out = block->out + index * block->row_bytes;
    float *values = fvlm_pool_scratch(block->pool, thread), *turned = values + FVLM_EXPORT_MAX_ROW;
    if (!tensor->source.data) {
        int64_t whole = (int64_t)tensor->fill;
        values[0] = (float)tensor->fill;
        if (tensor->written.type == FVLM_I64)
            memcpy(out, &whole, sizeof whole);
        else
            fvlm_from_float(tensor->written.type, values, 1, out);
        return;
    }
    if (tensor->part == FVLM_EXPORT_VALUES && tensor->channels_last <= 1 &&
        tensor->source.type == tensor->written.type) {
        memcpy(out, (const uint8_t *)tensor->source.data + row * block->row_bytes, block->row_bytes);
        return;
    }
    fvlm_matrix_row(&tensor->source, row, values);
    if (tensor->part == FVLM_EXPORT_WORDS) {
        size_t groups = cols / tensor->group;
        for (size_t i = 0; i < cols; i++)
            values[i] = fvlm_float_from_f16(fvlm_f16_from_float(values[i]));
        fvlm_grouped_quantize(values, cols, tensor->bits, tensor->group, (uint32_t *)(void *)out,
                              block->scales + row * groups, block->biases + row * groups);
        return;
    }
    if (tensor->channels_last > 1) {
        size_t pixels = tensor->channels_last, in = cols / pixels;
        for (size_t i = 0; i < cols; i++)
            turned[i % pixels * in + i / pixels] = values[i];
        values = turned;
    }
    fvlm_from_float(tensor->written.type, values, cols, out);
}

struct progress {
    const fvlm_export_options *options;
    uint64_t done, total;
};

static fvlm_status write_bytes(fvlm_writer *writer, const void *data, size_t bytes, struct progress *progress,
                               fvlm_error *error)
{
    fvlm_status status = fvlm_writer_write(writer, data, bytes, error);
    progress->done += bytes;
    const fvlm_export_options *options = progress->options;
    if (!status && options->on_progress && !options->on_progress(options->user, progress->done, progress->total))
        status = fvlm_fail(error, FVLM_ERROR_IO, "stopped; %s is as it was", options->output);
    return status;
}

/* Words that are quantised just as they are to be: the three parts are copied. */
static bool write_as_is(const fvlm_export_tensor *tensor, const void **data)
{
    const fvlm_matrix *source = &tensor->source;
    fvlm_dtype type = tensor->bits == 4 ? FVLM_MLX4 : FVLM_MLX8;
    if (tensor->part == FVLM_EXPORT_VALUES || source->type != type || source->group != tensor->group ||
        source->scale_type != FVLM_F16)
        return false;
    *data = tensor->part == FVLM_EXPORT_WORDS    ? source->data
            : tensor->part == FVLM_EXPORT_SCALES ? source->scales
                                                 : source->biases;
    return true;
}

static fvlm_status write_tensor(const fvlm_export_tensor *tensor, struct block *block, fvlm_writer *writer,
                                struct progress *progress, fvlm_error *error)
{
    const fvlm_matrix *source = &tensor->source;
    size_t bytes = tensor->written.bytes;
    const void *stored;
    fvlm_status status = FVLM_OK;
    if (bytes == 0)
        return FVLM_OK;
    if (write_as_is(tensor, &stored))
        return write_bytes(writer, stored, bytes, progress, error);
    block->tensor = tensor;
    size_t all = source->rows + tensor->longer;
    block->row_bytes = bytes / all;
    size_t rows = BLOCK_BYTES / block->row_bytes, groups = tensor->group ? source->cols / tensor->group : 0;
    if (tensor->part == FVLM_EXPORT_WORDS) {
        free(block->scales);
        free(block->biases);
        block->scales = fvlm_calloc(source->rows, groups * sizeof *block->scales);
        block->biases = fvlm_calloc(source->rows, groups * sizeof *block->biases);
        if (!block->scales || !block->biases)
            return fvlm_fail_memory(error);
    }
    for (block->first = 0; !status && block->first < all; block->first += rows) {
        size_t left = all - block->first, count = left < rows ? left : rows;
        if (tensor->part == FVLM_EXPORT_SCALES || tensor->part == FVLM_EXPORT_BIASES) {
            const float *values = tensor->part == FVLM_EXPORT_SCALES ? block->scales : block->biases;
            fvlm_from_float(FVLM_F16, values + block->first * groups, count * groups, block->out);
        } else {
            fvlm_pool_run(block->pool, count, convert_row, block);
        }
        status = write_bytes(writer, block->out, count * block->row_bytes, progress, error);
    }
    return status;
}

fvlm_status fvlm_export_list_write(const fvlm_export_list *list, const fvlm_export_folder *folder, const char *format,
                                   const fvlm_export_options *options, fvlm_error *error)
{
    if (list->status)
        return list->status;
    struct progress progress = {.options = options};
    struct block block = {.pool = list->source->pool, .out = fvlm_aligned_alloc(BLOCK_BYTES)};
    fvlm_tensor *headers = fvlm_calloc(list->count, sizeof *headers);
    fvlm_writer *writer = NULL;
    char *path = fvlm_path_join(folder->aside, "model.safetensors");
    fvlm_status status = block.out && headers && path ? FVLM_OK : fvlm_fail_memory(error);
    for (size_t i = 0; !status && i < list->count; i++) {
        headers[i] = list->tensors[i].written;
        progress.total += headers[i].bytes;
    }
    if (!status)
        status = fvlm_safetensors_begin(path, format, headers, list->count, &writer, error);
    for (size_t i = 0; !status && i < list->count; i++) {
        const fvlm_matrix *source = &list->tensors[i].source;
        status = write_tensor(&list->tensors[i], &block, writer, &progress, error);
        fvlm_tensor_table_forget(list->source->table, source->data, fvlm_matrix_bytes(source));
    }
    if (!status)
        status = fvlm_writer_commit(&writer, error);
    fvlm_writer_abort(&writer);
    free(path);
    free(headers);
    fvlm_aligned_free(block.out);
    free(block.scales);
    free(block.biases);
    return status;
}
