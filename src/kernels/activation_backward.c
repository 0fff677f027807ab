/* Derivatives of activations, of a scaled GELU, and of the loss: element by element, rows or runs in parallel. */
#include <math.h>
#include <string.h>

#include "kernels/activation_scalar.h"
#include "kernels/gemm.h"
#include "kernels/loss.h"
#include "kernels/norm.h"
#include "kernels/rows.h"

#define RUN 16384 /* elements of a task */

struct element_job {
    fvlm_activation activation;
    const float *x, *up, *dy;
    float *dx, *dup;
    size_t count;
};

static size_t run_end(size_t first, size_t count)
{
    return count - first < RUN ? count : first + RUN;
}

static void run_activate(void *argument, size_t index, int thread)
{
    (void)thread;
    const struct element_job *job = argument;
    size_t first = index * RUN;
    fvlm_row_kernels_select()->activate(job->activation, job->x + first, run_end(first, job->count) - first,
                                        job->dx + first);
}

void fvlm_activate_forward(fvlm_pool *pool, fvlm_activation activation, const float *x, size_t count, float *y)
{
    struct element_job job = {.activation = activation, .x = x, .dx = y, .count = count};
    fvlm_pool_run(pool, (count + RUN - 1) / RUN, run_activate, &job);
}

static void run_activate_backward(void *argument, size_t index, int thread)
{
    (void)thread;
    const struct element_job *job = argument;
    size_t first = index * RUN;
    fvlm_row_kernels_select()->activate_backward(job->activation, job->x + first, job->dy + first,
                                                 run_end(first, job->count) - first, job->dx + first);
}

void fvlm_activate_backward(fvlm_pool *pool, fvlm_activation activation, const float *x, const float *dy, size_t count,
                            float *dx)
{
    struct element_job job = {.activation = activation, .x = x, .dy = dy, .dx = dx, .count = count};
    fvlm_pool_run(pool, (count + RUN - 1) / RUN, run_activate_backward, &job);
}

static void run_swiglu(void *argument, size_t index, int thread)
{
    (void)thread;
    const struct element_job *job = argument;
    size_t first = index * RUN;
    fvlm_swiglu(job->x + first, job->up + first, run_end(first, job->count) - first, job->dx + first);
}

void fvlm_swiglu_forward(fvlm_pool *pool, const float *gate, const float *up, size_t count, float *y)
{
    struct element_job job = {.x = gate, .up = up, .dx = y, .count = count};
    fvlm_pool_run(pool, (count + RUN - 1) / RUN, run_swiglu, &job);
}

static void run_swiglu_backward(void *argument, size_t index, int thread)
{
    (void)thread;
    const struct element_job *job = argument;
    size_t first = index * RUN;
    fvlm_row_kernels_select()->swiglu_backward(job->x + first, job->up + first, job->dy + first,
                                               run_end(first, job->count) - first, job->dx + first, job->dup + first);
}

void fvlm_swiglu_backward(fvlm_pool *pool, const float *gate, const float *up, const float *dy, size_t count,
                          float *dgate, float *dup)
{
    struct element_job job = {.x = gate, .up = up, .dy = dy, .dx = dgate, .dup = dup, .count = count};
    fvlm_pool_run(pool, (count + RUN - 1) / RUN, run_swiglu_backward, &job);
}

/* Channels of x[m, c] times scale[c]. */

struct scale_job {
    const float *x, *scale, *dy;
    float *dx;
    size_t c;
};

static void run_scale_row(void *argument, size_t row, int thread)
{
    (void)thread;
    const struct scale_job *job = argument;
    const float *x = job->x + row * job->c;
    float *y = job->dx + row * job->c;
    for (size_t k = 0; k < job->c; k++)
        y[k] = x[k] * job->scale[k];
}

void fvlm_scale_channels(fvlm_pool *pool, const float *x, size_t m, size_t c, const float *scale, float *y)
{
    struct scale_job job = {.x = x, .scale = scale, .dx = y, .c = c};
    fvlm_pool_run_stretches(pool, m, 64, run_scale_row, &job);
}

/* dx = dy gelu'(x scale), the gradient of x scale. */
static void run_scale_gelu_row(void *argument, size_t row, int thread)
{
    (void)thread;
    const struct scale_job *job = argument;
    const float *x = job->x + row * job->c, *dy = job->dy + row * job->c;
    float *dx = job->dx + row * job->c;
    for (size_t k = 0; k < job->c; k++)
        dx[k] = dy[k] * fvlm_derivative_one(FVLM_ACTIVATION_GELU, x[k] * job->scale[k]);
}

void fvlm_scale_gelu_backward(fvlm_pool *pool, const float *x, size_t m, size_t c, const float *scale, const float *dy,
                              float *dx, float *dscale)
{
    struct scale_job job = {.x = x, .scale = scale, .dy = dy, .dx = dx, .c = c};
    fvlm_pool_run_stretches(pool, m, 64, run_scale_gelu_row, &job);
    fvlm_column_sums(pool, dx, c, x, c, m, c, dscale);
    fvlm_scale_channels(pool, dx, m, c, scale, dx);
}

/* Softmax cross-entropy. */

struct loss_job {
    float *logits;
    size_t vocabulary;
    const int32_t *labels;
    float factor;
    float *losses;
    bool gradient;
};

static void run_loss_row(void *argument, size_t row, int thread)
{
    (void)thread;
    const struct loss_job *job = argument;
    const fvlm_row_kernels *kernels = fvlm_row_kernels_select();
    float *x = job->logits + row * job->vocabulary, largest = -INFINITY;
    size_t label = (size_t)job->labels[row];
    for (size_t i = 0; i < job->vocabulary; i++)
        largest = x[i] > largest ? x[i] : largest;
    float own = x[label] - largest, sum = kernels->exponentials(x, job->vocabulary, 1.0f);
    job->losses[row] = logf(sum) - own;
    if (job->gradient) {
        kernels->scale(x, job->vocabulary, job->factor / sum);
        x[label] -= job->factor;
    }
}

void fvlm_cross_entropy(fvlm_pool *pool, float *logits, size_t rows, size_t vocabulary, const int32_t *labels,
                        float *losses)
{
    struct loss_job job = {.logits = logits, .vocabulary = vocabulary, .labels = labels, .losses = losses};
    fvlm_pool_run(pool, rows, run_loss_row, &job);
}

void fvlm_cross_entropy_backward(fvlm_pool *pool, float *logits, size_t rows, size_t vocabulary, const int32_t *labels,
                                 float factor, float *losses)
{
    struct loss_job job = {logits, vocabulary, labels, factor, losses, true};
    fvlm_pool_run(pool, rows, run_loss_row, &job);
}
