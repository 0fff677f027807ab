/* Sets of parameters: views of a checkpoint where they are frozen, float32 copies where they are trained. */
#include "train/parameters.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CLEAR_RUN ((size_t)1 << 16)

static float *floats(fvlm_parameters *set, fvlm_loader *loader, size_t count)
{
    float *memory = loader->status ? NULL : fvlm_arena_alloc(set->arena, count, sizeof *memory);
    if (!memory && !loader->status)
        loader->status = fvlm_fail_memory(loader->error);
    return memory;
}

/* A parameter of this name and shape at the end of the set. */
static fvlm_parameter *append(fvlm_parameters *set, fvlm_loader *loader, const char *name)
{
    if (loader->status)
        return NULL;
    if (set->count == set->capacity) {
        size_t capacity = set->capacity ? 2 * set->capacity : 256;
        fvlm_parameter **items = realloc(set->items, capacity * sizeof *items);
        if (items) {
            set->items = items;
            set->capacity = capacity;
        }
    }
    fvlm_parameter *made = fvlm_arena_alloc(set->arena, 1, sizeof *made);
    if (made)
        made->name = fvlm_arena_strdup(set->arena, name);
    if (!made || !made->name || set->count == set->capacity) {
        loader->status = fvlm_fail_memory(loader->error);
        return NULL;
    }
    return set->items[set->count++] = made;
}

/* Give what is trained its own float32 value, gradient and moments. */
static void make_trained(fvlm_parameters *set, fvlm_loader *loader, fvlm_parameter *parameter)
{
    parameter->value = floats(set, loader, parameter->count);
    parameter->gradient = floats(set, loader, parameter->count);
    parameter->first = floats(set, loader, parameter->count);
    parameter->second = floats(set, loader, parameter->count);
}

static void take_shape(fvlm_parameter *parameter, const fvlm_tensor *stored)
{
    parameter->rank = stored->rank;
    memcpy(parameter->shape, stored->shape, sizeof parameter->shape);
    parameter->stored_type = stored->type;
}

fvlm_parameter *fvlm_parameters_find(const fvlm_parameters *set, const char *name)
{
    for (size_t i = 0; i < set->count; i++)
        if (strcmp(set->items[i]->name, name) == 0)
            return set->items[i];
    return NULL;
}

fvlm_parameter *fvlm_parameter_vector(fvlm_parameters *set, fvlm_loader *loader, fvlm_part part, size_t count,
                                      const char *format, ...)
{
    char name[FVLM_MAX_NAME];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    fvlm_parameter *parameter = fvlm_parameters_find(set, name);
    if (parameter)
        return parameter;
    const float *stored = fvlm_load_vector(loader, count, "%s", name);
    parameter = append(set, loader, name);
    if (!parameter)
        return NULL;
    parameter->part = part;
    parameter->count = count;
    take_shape(parameter, fvlm_tensor_table_find(loader->table, name));
    if (set->trained & part) {
        make_trained(set, loader, parameter);
        if (!loader->status)
            memcpy(parameter->value, stored, count * sizeof *stored);
    } else {
        parameter->value = (float *)(uintptr_t)stored; /* read only */
    }
    return parameter;
}

fvlm_parameter *fvlm_parameter_matrix(fvlm_parameters *set, fvlm_loader *loader, fvlm_part part, size_t rows,
                                      size_t cols, const char *format, ...)
{
    char stem[FVLM_MAX_NAME], name[FVLM_MAX_NAME + 8];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(stem, sizeof stem, format, arguments);
    va_end(arguments);
    snprintf(name, sizeof name, "%s.weight", stem);
    fvlm_parameter *parameter = fvlm_parameters_find(set, name);
    if (parameter)
        return parameter;
    fvlm_matrix matrix = fvlm_load_matrix(loader, rows, cols, "%s", stem);
    parameter = append(set, loader, name);
    if (!parameter)
        return NULL;
    parameter->part = part;
    parameter->count = rows * cols;
    parameter->matrix = matrix;
    parameter->matrix.inputs = set->inputs;
    take_shape(parameter, fvlm_tensor_table_find(loader->table, name));
    if (!(set->trained & part))
        return parameter;
    bool quantised = matrix.type != FVLM_F32 && matrix.type != FVLM_F16 && matrix.type != FVLM_BF16;
    if (quantised && !(set->trained & FVLM_PART_ADAPTER)) {
        loader->status = fvlm_fail(loader->error, FVLM_ERROR_UNSUPPORTED,
                                   "%s is quantised and cannot be trained itself: train adapters (--lora true)", name);
        return NULL;
    }
    make_trained(set, loader, parameter);
    for (size_t row = 0; row < rows && !loader->status; row++)
        fvlm_matrix_row(&matrix, row, parameter->value + row * cols);
    if (quantised) { /* beside adapters, which leave the model's files alone, it may become float32 */
        parameter->rank = 2;
        parameter->shape[0] = rows;
        parameter->shape[1] = cols;
        parameter->stored_type = FVLM_F32;
    }
    parameter->matrix =
        (fvlm_matrix){.type = FVLM_F32, .rows = rows, .cols = cols, .data = parameter->value, .inputs = set->inputs};
    return parameter;
}

fvlm_parameter *fvlm_parameter_create(fvlm_parameters *set, fvlm_loader *loader, fvlm_part part, size_t rows,
                                      size_t cols, const char *format, ...)
{
    char name[FVLM_MAX_NAME];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    fvlm_parameter *parameter = append(set, loader, name);
    if (!parameter)
        return NULL;
    parameter->part = part;
    parameter->rank = 2;
    parameter->shape[0] = rows;
    parameter->shape[1] = cols;
    parameter->count = rows * cols;
    parameter->stored_type = FVLM_F32;
    make_trained(set, loader, parameter);
    parameter->matrix =
        (fvlm_matrix){.type = FVLM_F32, .rows = rows, .cols = cols, .data = parameter->value, .inputs = set->inputs};
    return parameter;
}

struct clear_job {
    float *values;
    size_t count;
};

static void run_clear(void *argument, size_t index, int thread)
{
    (void)thread;
    const struct clear_job *job = argument;
    size_t first = index * CLEAR_RUN, rest = job->count - first;
    memset(job->values + first, 0, (rest < CLEAR_RUN ? rest : CLEAR_RUN) * sizeof *job->values);
}

void fvlm_parameters_clear_gradients(fvlm_parameters *set, fvlm_pool *pool)
{
    for (size_t i = 0; i < set->count; i++) {
        struct clear_job job = {set->items[i]->gradient, set->items[i]->count};
        if (job.values)
            fvlm_pool_run(pool, (job.count + CLEAR_RUN - 1) / CLEAR_RUN, run_clear, &job);
    }
}

fvlm_tensor fvlm_parameter_tensor(const fvlm_parameter *parameter, const float *data)
{
    fvlm_tensor tensor = {.name = parameter->name,
                          .type = FVLM_F32,
                          .rank = parameter->rank,
                          .bytes = parameter->count * sizeof *data,
                          .data = data};
    memcpy(tensor.shape, parameter->shape, sizeof tensor.shape);
    return tensor;
}
