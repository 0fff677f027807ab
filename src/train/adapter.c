/* Writing adapters, and merging them into the model they were trained on. */
#include "train/adapter.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cpu.h"
#include "base/json.h"
#include "base/system.h"
#include "fastvlm/train.h"
#include "kernels/gemm.h"
#include "train/model_folder.h"

#define PEFT_PREFIX "base_model.model."
#define MAX_CONFIG ((size_t)1 << 20)
#define MAX_RANK 65536

static const char *const target_modules[] = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                             "gate_proj", "up_proj", "down_proj"};

/* What PEFT calls the tensor: transformers' fast_vlm has the layers one module deeper. */
static void peft_name(const fvlm_source *source, const char *name, char *to, size_t size)
{
    const char *rest = strncmp(name, "model.", 6) == 0 ? name + 6 : name;
    if (source->config.fast_vlm)
        snprintf(to, size, PEFT_PREFIX "model.language_model.%s", rest);
    else
        snprintf(to, size, PEFT_PREFIX "%s", name);
}

static fvlm_status write_config(const fvlm_source *source, size_t rank, double alpha, const char *folder,
                                fvlm_error *error)
{
    json_t *targets = json_array(), *base = json_string(source->path);
    for (size_t i = 0; i < sizeof target_modules / sizeof *target_modules; i++)
        json_array_append_new(targets, json_string(target_modules[i]));
    json_t *root = json_pack("{ss ss so sI sf sf ss so sb sb sn}", "peft_type", "LORA", "task_type", "CAUSAL_LM",
                             "base_model_name_or_path", base ? base : json_null(), "r", (json_int_t)rank, "lora_alpha",
                             alpha, "lora_dropout", 0.0, "bias", "none", "target_modules", targets, "inference_mode", 1,
                             "fan_in_fan_out", 0, "modules_to_save");
    char *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
    json_decref(root);
    fvlm_status status =
        text ? fvlm_file_write(folder, "adapter_config.json", text, strlen(text), error) : fvlm_fail_memory(error);
    free(text);
    return status;
}

/* LoRA's matrices, or everything else that was trained. */
static fvlm_status write_tensors(const fvlm_source *source, const fvlm_parameters *parameters, bool adapters,
                                 fvlm_values_fn values, void *user, const char *path, fvlm_error *error)
{
    fvlm_tensor *tensors = fvlm_calloc(parameters->count + 1, sizeof *tensors);
    fvlm_arena *names = fvlm_arena_create();
    fvlm_status status = tensors && names && path ? FVLM_OK : fvlm_fail_memory(error);
    size_t count = 0;
    for (size_t i = 0; i < parameters->count && !status; i++) {
        const fvlm_parameter *parameter = parameters->items[i];
        if (!parameter->own || (parameter->part == FVLM_PART_ADAPTER) != adapters)
            continue;
        char name[FVLM_MAX_NAME + 64];
        if (adapters)
            peft_name(source, parameter->name, name, sizeof name);
        else
            snprintf(name, sizeof name, PEFT_PREFIX "%s", parameter->name);
        tensors[count] = fvlm_parameter_tensor(parameter, values(user, parameter));
        tensors[count].name = fvlm_arena_strdup(names, name);
        if (!tensors[count].name || !tensors[count].data)
            status = fvlm_fail_memory(error);
        count++;
    }
    if (!status)
        status = adapters    ? fvlm_safetensors_write(path, tensors, count, error)
                 : count > 0 ? fvlm_torch_write(path, tensors, count, error)
                             : FVLM_OK;
    free(tensors);
    fvlm_arena_destroy(&names);
    return status;
}

fvlm_status fvlm_adapter_write(const fvlm_source *source, const fvlm_parameters *parameters, fvlm_values_fn values,
                               void *user, double alpha, const char *folder, fvlm_error *error)
{
    size_t rank = 0;
    for (size_t i = 0; i < parameters->count && rank == 0; i++)
        if (parameters->items[i]->part == FVLM_PART_ADAPTER)
            rank = parameters->items[i]->shape[0]; /* an A comes before its B */
    char *adapter = fvlm_path_join(folder, "adapter_model.safetensors");
    char *others = fvlm_path_join(folder, "non_lora_trainables.bin");
    fvlm_status status = fvlm_model_folder_copy(source, folder, error);
    if (!status)
        status = write_config(source, rank, alpha, folder, error);
    if (!status)
        status = write_tensors(source, parameters, true, values, user, adapter, error);
    if (!status)
        status = write_tensors(source, parameters, false, values, user, others, error);
    free(adapter);
    free(others);
    return status;
}

/* Merging. */

struct merger {
    const fvlm_source *source;
    fvlm_tensor_table *adapter, *others; /* others NULL: there are none */
    fvlm_pool *pool;
    float scale;
    float *values; /* [capacity] */
    size_t capacity, merged;
    fvlm_status status;
    fvlm_error *error;
};

static bool provide_values(struct merger *merger, size_t count)
{
    if (count <= merger->capacity)
        return true;
    fvlm_aligned_free(merger->values);
    merger->values = count > SIZE_MAX / sizeof(float) ? NULL : fvlm_aligned_alloc(count * sizeof(float));
    merger->capacity = merger->values ? count : 0;
    if (!merger->values)
        merger->status = fvlm_fail_memory(merger->error);
    return merger->values;
}

static bool is_float(fvlm_dtype type)
{
    return type == FVLM_F32 || type == FVLM_F16 || type == FVLM_BF16 || type == FVLM_F64;
}

/* 0 for a type whose elements are not numbers on their own. */
static size_t element_count(const fvlm_tensor *tensor)
{
    fvlm_matrix blocks;
    if (is_float(tensor->type))
        return tensor->bytes / fvlm_dtype_bytes(tensor->type);
    return fvlm_block_matrix(tensor, &blocks) ? blocks.rows * blocks.cols : 0;
}

/* values [element_count] */
static void read_values(const fvlm_tensor *tensor, float *values)
{
    fvlm_matrix blocks;
    if (!fvlm_block_matrix(tensor, &blocks)) {
        fvlm_to_float(tensor->type, tensor->data, element_count(tensor), values);
        return;
    }
    for (size_t row = 0; row < blocks.rows; row++)
        fvlm_matrix_row(&blocks, row, values + row * blocks.cols);
}

/* W + scale B A. */
static const float *merge_matrix(struct merger *merger, const fvlm_tensor *stored, const fvlm_tensor *a,
                                 const fvlm_tensor *b)
{
    bool fits = a->rank == 2 && b->rank == 2 && stored->rank == 2 && a->shape[0] == b->shape[1] &&
                b->shape[0] == stored->shape[0] && a->shape[1] == stored->shape[1] && a->shape[0] <= MAX_RANK;
    if (element_count(stored) == 0) {
        merger->status = fvlm_fail(merger->error, FVLM_ERROR_UNSUPPORTED,
                                   "%s is quantised: merge the adapter into the model in a float type", stored->name);
        return NULL;
    }
    if (!fits || !is_float(a->type) || !is_float(b->type)) {
        merger->status =
            fvlm_fail(merger->error, FVLM_ERROR_FORMAT,
                      "%s does not fit the model's %s: the adapter belongs to another model", a->name, stored->name);
        return NULL;
    }
    size_t rows = stored->shape[0], cols = stored->shape[1], rank = a->shape[0];
    if (!provide_values(merger, rows * cols + rank * cols + 2 * rows * rank))
        return NULL;
    float *w = merger->values, *low = w + rows * cols, *high = low + rank * cols, *turned = high + rows * rank;
    read_values(stored, w);
    fvlm_to_float(a->type, a->data, rank * cols, low);
    fvlm_to_float(b->type, b->data, rows * rank, high);
    for (size_t i = 0; i < rows; i++)
        for (size_t k = 0; k < rank; k++)
            turned[k * rows + i] = merger->scale * high[i * rank + k];
    fvlm_linear_backward_w(merger->pool, FVLM_F32, turned, rank, rows, rows, low, cols, cols, w);
    merger->merged++;
    return w;
}

static const float *merged_values(void *user, const char *name, const fvlm_tensor *stored)
{
    struct merger *merger = user;
    char stem[FVLM_MAX_NAME], peft[FVLM_MAX_NAME + 64], first[FVLM_MAX_NAME + 96], second[FVLM_MAX_NAME + 96];
    if (merger->status)
        return NULL;
    snprintf(first, sizeof first, PEFT_PREFIX "%s", name);
    const fvlm_tensor *other = merger->others ? fvlm_tensor_table_find(merger->others, first) : NULL;
    if (other) {
        if (!is_float(other->type) || element_count(other) != element_count(stored)) {
            merger->status = fvlm_fail(merger->error, FVLM_ERROR_FORMAT, "%s does not fit the model's", other->name);
            return NULL;
        }
        if (!provide_values(merger, element_count(other)))
            return NULL;
        fvlm_to_float(other->type, other->data, element_count(other), merger->values);
        return merger->values;
    }
    size_t length = strlen(name), suffix = strlen(".weight");
    if (length < suffix || strcmp(name + length - suffix, ".weight") != 0)
        return NULL;
    snprintf(stem, sizeof stem, "%.*s", (int)(length - suffix), name);
    peft_name(merger->source, stem, peft, sizeof peft);
    snprintf(first, sizeof first, "%s.lora_A.weight", peft);
    snprintf(second, sizeof second, "%s.lora_B.weight", peft);
    const fvlm_tensor *a = fvlm_tensor_table_find(merger->adapter, first);
    const fvlm_tensor *b = fvlm_tensor_table_find(merger->adapter, second);
    return a && b ? merge_matrix(merger, stored, a, b) : NULL;
}

static fvlm_status read_config(const char *folder, struct merger *merger, fvlm_error *error)
{
    char *path = fvlm_path_join(folder, "adapter_config.json");
    json_t *root = NULL;
    fvlm_status status = path ? fvlm_json_read(path, MAX_CONFIG, &root, error) : fvlm_fail_memory(error);
    double rank = json_number_value(json_object_get(root, "r"));
    double alpha = json_number_value(json_object_get(root, "lora_alpha"));
    if (!status && !(rank >= 1 && alpha == alpha))
        status = fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: \"r\" and \"lora_alpha\" are not those of an adapter", path);
    if (!status && json_is_true(json_object_get(root, "use_dora")))
        status = fvlm_fail(error, FVLM_ERROR_UNSUPPORTED, "%s: DoRA is not supported", path);
    if (!status)
        merger->scale = (float)(alpha / (json_is_true(json_object_get(root, "use_rslora")) ? sqrt(rank) : rank));
    json_decref(root);
    free(path);
    return status;
}

static fvlm_status open_adapter(const char *folder, struct merger *merger, fvlm_error *error)
{
    char *adapter = fvlm_path_join(folder, "adapter_model.safetensors");
    char *others = fvlm_path_join(folder, "non_lora_trainables.bin");
    fvlm_status status = adapter && others ? read_config(folder, merger, error) : fvlm_fail_memory(error);
    if (!status)
        status = fvlm_tensor_table_create(&merger->adapter, error);
    if (!status)
        status = fvlm_safetensors_read(merger->adapter, adapter, error);
    if (!status && fvlm_file_exists(others)) {
        status = fvlm_tensor_table_create(&merger->others, error);
        if (!status)
            status = fvlm_pickle_read(merger->others, others, error);
    }
    free(adapter);
    free(others);
    return status;
}

fvlm_status fvlm_adapter_merge(const char *model, const char *adapter, const char *output, int threads,
                               fvlm_error *error)
{
    fvlm_source *source = NULL;
    struct merger merger = {.error = error};
    fvlm_status status = fvlm_source_open(model, &source, error);
    merger.source = source;
    if (!status)
        status = open_adapter(adapter, &merger, error);
    if (!status)
        status = fvlm_pool_create(threads > 0 ? threads : fvlm_cpu_count(), &merger.pool, error);
    if (!status)
        status = fvlm_folder_create(output, error);
    if (!status)
        status = fvlm_model_folder_write(source, merged_values, &merger, output, error);
    if (!status && merger.status)
        status = merger.status;
    if (!status && 2 * merger.merged != fvlm_tensor_table_count(merger.adapter))
        status =
            fvlm_fail(error, FVLM_ERROR_FORMAT,
                      "%s has %zu matrices, and %zu of the model's have such names: the adapter belongs to another "
                      "model",
                      adapter, fvlm_tensor_table_count(merger.adapter), merger.merged);
    fvlm_pool_destroy(&merger.pool);
    fvlm_aligned_free(merger.values);
    fvlm_tensor_table_destroy(&merger.adapter);
    fvlm_tensor_table_destroy(&merger.others);
    fvlm_source_close(&source);
    return status;
}
