/* Linear layers with LoRA, and the workspace cutter. */
#include "train/layers.h"

#include "base/checked.h"
#include "kernels/gemm.h"
#include "kernels/rows.h"

#define RUN ((size_t)1 << 14)

struct elements {
    const float *x;
    float *y;
    size_t count;
    float factor;
};

static size_t run_length(const struct elements *job, size_t index)
{
    size_t rest = job->count - index * RUN;
    return rest < RUN ? rest : RUN;
}

static void run_add(void *argument, size_t index, int thread)
{
    (void)thread;
    const struct elements *job = argument;
    fvlm_row_kernels_select()->add(job->x + index * RUN, run_length(job, index), job->y + index * RUN);
}

static void run_scale(void *argument, size_t index, int thread)
{
    (void)thread;
    const struct elements *job = argument;
    fvlm_row_kernels_select()->scale(job->y + index * RUN, run_length(job, index), job->factor);
}

void fvlm_add_floats(fvlm_pool *pool, const float *x, size_t count, float *y)
{
    struct elements job = {.x = x, .y = y, .count = count};
    fvlm_pool_run(pool, (count + RUN - 1) / RUN, run_add, &job);
}

static void scale_floats(fvlm_pool *pool, float *y, size_t count, float factor)
{
    struct elements job = {.y = y, .count = count, .factor = factor};
    fvlm_pool_run(pool, (count + RUN - 1) / RUN, run_scale, &job);
}

void fvlm_linear_layer_forward(fvlm_pool *pool, const fvlm_linear_layer *layer, const float *x, size_t m, float *y,
                               float *low)
{
    const fvlm_matrix *w = &layer->weight->matrix;
    fvlm_epilogue epilogue = {.bias = layer->bias ? layer->bias->value : NULL};
    fvlm_linear(pool, w, x, m, w->cols, y, w->rows, &epilogue);
    if (!layer->a)
        return;
    size_t rank = fvlm_linear_layer_rank(layer);
    fvlm_linear(pool, &layer->a->matrix, x, m, w->cols, low, rank, NULL);
    scale_floats(pool, low, m * rank, layer->scale);
    fvlm_epilogue sum = {.residual = y, .residual_stride = w->rows};
    fvlm_linear(pool, &layer->b->matrix, low, m, rank, y, w->rows, &sum);
}

void fvlm_linear_layer_backward(fvlm_pool *pool, const fvlm_linear_layer *layer, const float *x, size_t m,
                                const float *dy, const float *low, float *dlow, float *dx, bool add)
{
    const fvlm_matrix *w = &layer->weight->matrix;
    if (layer->weight->gradient)
        fvlm_linear_backward_w(pool, w->inputs, dy, m, w->rows, w->rows, x, w->cols, w->cols, layer->weight->gradient);
    if (layer->bias && layer->bias->gradient)
        fvlm_column_sums(pool, dy, w->rows, NULL, 0, m, w->rows, layer->bias->gradient);
    if (dx)
        fvlm_linear_backward_x(pool, w, dy, m, w->rows, dx, w->cols, add);
    if (!layer->a)
        return;
    size_t rank = fvlm_linear_layer_rank(layer);
    fvlm_linear_backward_w(pool, w->inputs, dy, m, w->rows, w->rows, low, rank, rank, layer->b->gradient);
    fvlm_linear_backward_x(pool, &layer->b->matrix, dy, m, w->rows, dlow, rank, false);
    scale_floats(pool, dlow, m * rank, layer->scale);
    fvlm_linear_backward_w(pool, w->inputs, dlow, m, rank, rank, x, w->cols, w->cols, layer->a->gradient);
    if (dx)
        fvlm_linear_backward_x(pool, &layer->a->matrix, dlow, m, rank, dx, w->cols, true);
}

float *fvlm_cut(fvlm_cutter *cutter, size_t rows, size_t width)
{
    size_t count, line = FVLM_ALIGN / sizeof(float);
    if (!fvlm_size_multiply(rows, width, &count) || !fvlm_size_add(count, line - 1, &count) ||
        !fvlm_size_add(cutter->used, count / line * line, &count) || count > SIZE_MAX / sizeof(float)) {
        cutter->overflow = true;
        return NULL;
    }
    float *buffer = cutter->memory ? cutter->memory + cutter->used : NULL;
    cutter->used = count;
    return buffer;
}

void *fvlm_cut_items(fvlm_cutter *cutter, size_t count, size_t bytes)
{
    return fvlm_cut(cutter, count, bytes / sizeof(float));
}
