/* Sets of parameters: views of a checkpoint where they are frozen, float32 copies where they are trained. */
#include "train/parameters.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train/blockwise.h"
#include "train/shards.h"

#define CLEAR_RUN ((size_t)1 << 16)
#define MIN_EIGHT_BITS 4096 /* smaller parameters keep float32 moments, as in bitsandbytes */
#define LINE (FVLM_ALIGN / sizeof(float))

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
    set->groups[set->group_count - 1].count++;
    return set->items[set->count++] = made;
}

size_t fvlm_parameters_group(fvlm_parameters *set, fvlm_loader *loader, bool wide)
{
    if (set->group_count == set->group_capacity) {
        size_t capacity = set->group_capacity ? 2 * set->group_capacity : 64;
        fvlm_parameter_group *groups = realloc(set->groups, capacity * sizeof *groups);
        if (!groups) {
            loader->status = fvlm_fail_memory(loader->error);
            return 0;
        }
        set->groups = groups;
        set->group_capacity = capacity;
    }
    set->groups[set->group_count] =
        (fvlm_parameter_group){.first = set->count, .slot = wide ? FVLM_WIDE_SLOT : (int)(set->group_count % 2)};
    return set->group_count++;
}

void fvlm_parameters_clear(fvlm_parameters *set)
{
    free(set->items);
    free(set->groups);
    fvlm_arena_destroy(&set->arena);
}

/* Give what is trained its own float32 value, gradient and moments: whole ones, or this process's share. */
static void make_trained(fvlm_parameters *set, fvlm_loader *loader, fvlm_parameter *parameter)
{
    const fvlm_shards *shards = set->shards;
    fvlm_parameter_group *group = &set->groups[set->group_count - 1];
    int stage = shards ? shards->stage : 0;
    parameter->trained = parameter->own = true;
    parameter->share = parameter->count;
    if (shards)
        parameter->share = fvlm_share(parameter->count, fvlm_ranks_count(shards->ranks),
                                      fvlm_ranks_index(shards->ranks), &parameter->start);
    bool eight_bits = set->eight_bits && parameter->count >= MIN_EIGHT_BITS;
    size_t share = parameter->share, blocks = (share + FVLM_BLOCK - 1) / FVLM_BLOCK;
    set->value_bytes += (stage == 3 ? share : parameter->count) * sizeof(float);
    set->gradient_bytes += (stage >= 2 ? share : parameter->count) * sizeof(float);
    set->state_bytes += 2 * (eight_bits ? share + blocks * sizeof(float) : share * sizeof(float));
    set->state_bytes += set->averaged ? share * sizeof(float) : 0;
    float *values = set->measuring || stage < 3 ? NULL : shards->slots[group->slot].values + group->floats;
    float *gradients = set->measuring || stage < 2 ? NULL : shards->slots[group->slot].gradients + group->floats;
    group->floats += (parameter->count + LINE - 1) / LINE * LINE;
    if (set->measuring)
        return;
    parameter->value = values ? values : floats(set, loader, parameter->count);
    parameter->gradient = gradients ? gradients : floats(set, loader, parameter->count);
    parameter->own_value = values ? floats(set, loader, share) : parameter->value;
    parameter->own_gradient = gradients ? floats(set, loader, share) : parameter->gradient;
    if (set->averaged)
        parameter->average = floats(set, loader, share);
    for (int i = 0; i < 2 && eight_bits; i++) {
        parameter->codes[i] = fvlm_arena_alloc(set->arena, share, 1);
        parameter->scales[i] = floats(set, loader, blocks);
        if (!parameter->codes[i])
            loader->status = fvlm_fail_memory(loader->error);
    }
    if (!eight_bits) {
        parameter->first = floats(set, loader, share);
        parameter->second = floats(set, loader, share);
    }
    if (!loader->status) {
        parameter->own_value += values ? 0 : parameter->start;
        parameter->own_gradient += gradients ? 0 : parameter->start;
    }
}

void fvlm_parameter_keep(fvlm_parameter *parameter)
{
    if (parameter->own_value != parameter->value + parameter->start)
        memcpy(parameter->own_value, parameter->value + parameter->start, parameter->share * sizeof(float));
    if (parameter->average)
        memcpy(parameter->average, parameter->own_value, parameter->share * sizeof(float));
}

/* The shape in the checkpoint, or where there is none [rows, cols] or [rows]. */
static void take_shape(const fvlm_parameters *set, const fvlm_loader *loader, fvlm_parameter *parameter, size_t rows,
                       size_t cols)
{
    const fvlm_tensor *stored = set->measuring ? NULL : fvlm_tensor_table_find(loader->table, parameter->name);
    parameter->count = rows * cols;
    parameter->rank = stored ? stored->rank : cols > 1 ? 2 : 1;
    parameter->shape[0] = rows;
    parameter->shape[1] = cols;
    if (stored)
        memcpy(parameter->shape, stored->shape, sizeof parameter->shape);
}

static void fill(const fvlm_parameters *set, const fvlm_loader *loader, fvlm_parameter *parameter, const float *stored)
{
    if (set->measuring || loader->status)
        return;
    memcpy(parameter->value, stored, parameter->count * sizeof *stored);
    fvlm_parameter_keep(parameter);
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
    const float *stored = set->measuring ? NULL : fvlm_load_vector(loader, count, "%s", name);
    parameter = append(set, loader, name);
    if (!parameter)
        return NULL;
    parameter->part = part;
    take_shape(set, loader, parameter, count, 1);
    if (set->trained & part) {
        make_trained(set, loader, parameter);
        fill(set, loader, parameter, stored);
    } else {
        parameter->value = (float *)(uintptr_t)stored; /* read only */
    }
    return parameter;
}

fvlm_parameter *fvlm_parameter_statistics(fvlm_parameters *set, fvlm_loader *loader, fvlm_part part, size_t count,
                                          const char *format, ...)
{
    char name[FVLM_MAX_NAME];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    const float *stored = set->measuring ? NULL : fvlm_load_vector(loader, count, "%s", name);
    fvlm_parameter *parameter = append(set, loader, name);
    if (!parameter)
        return NULL;
    parameter->part = part;
    take_shape(set, loader, parameter, count, 1);
    parameter->own = true;
    parameter->share = count;
    set->value_bytes += count * sizeof(float);
    if (!set->measuring)
        parameter->value = parameter->own_value = floats(set, loader, count);
    fill(set, loader, parameter, stored);
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
    fvlm_matrix matrix = {.type = FVLM_F32};
    if (!set->measuring)
        matrix = fvlm_load_matrix(loader, rows, cols, "%s", stem);
    parameter = append(set, loader, name);
    if (!parameter)
        return NULL;
    parameter->part = part;
    parameter->matrix = matrix;
    parameter->matrix.inputs = set->inputs;
    take_shape(set, loader, parameter, rows, cols);
    if (!(set->trained & part))
        return parameter;
    bool grouped = matrix.type == FVLM_MLX4 || matrix.type == FVLM_MLX8;
    if (grouped && !(set->trained & FVLM_PART_ADAPTER)) {
        loader->status = fvlm_fail(loader->error, FVLM_ERROR_UNSUPPORTED,
                                   "%s is quantised and cannot be trained itself: train adapters (--lora true)", name);
        return NULL;
    }
    make_trained(set, loader, parameter);
    for (size_t row = 0; row < rows && !loader->status && !set->measuring; row++)
        fvlm_matrix_row(&matrix, row, parameter->value + row * cols);
    if (!loader->status && !set->measuring) {
        fvlm_tensor_table_forget(loader->table, matrix.data, fvlm_matrix_row_bytes(&matrix) * rows);
        fvlm_parameter_keep(parameter);
    }
    if (grouped) { /* beside adapters, which leave the model's files alone, it may become float32 */
        parameter->rank = 2;
        parameter->shape[0] = rows;
        parameter->shape[1] = cols;
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
        const fvlm_parameter *parameter = set->items[i];
        bool whole = parameter->own_gradient == parameter->gradient + parameter->start;
        struct clear_job job = {whole ? parameter->gradient : parameter->own_gradient,
                                whole ? parameter->count : parameter->share};
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
