/* Backward passes of the norms, and batch norm itself, which inference folds into a convolution.
 *
 * Of x[m, c]: what a row or a channel is normalised by is computed again, rows in parallel; the gradients of weight and
 * bias, sums over rows, take a run of channels a task. So no result depends on the threads.
 */
#include <math.h>

#include "kernels/gemm.h"
#include "kernels/norm.h"

#define ROWS_A_TASK 16
#define COLUMNS_A_TASK 32

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t tasks(size_t count, size_t each)
{
    return (count + each - 1) / each;
}

struct row_norm {
    const float *x, *weight, *dy;
    float *dx, *dweight, *dbias;
    float *statistics; /* [m, 2]: mean and 1 / deviation of a row */
    size_t m, c;
    float eps;
    bool centred; /* layer norm; otherwise rms norm, whose mean is 0 */
};

/* With n = (x - mean) inverse and g = dy weight: dx = inverse (g - mean(g) - n mean(g n)); rms norm has no mean(g). */
static void run_rows(void *argument, size_t index, int thread)
{
    (void)thread;
    const struct row_norm *job = argument;
    size_t c = job->c, first = index * ROWS_A_TASK, last = least(first + ROWS_A_TASK, job->m);
    for (size_t i = first; i < last; i++) {
        const float *x = job->x + i * c, *dy = job->dy + i * c;
        float *dx = job->dx + i * c;
        double sum = 0, squares = 0, sum_g = 0, sum_gn = 0;
        for (size_t k = 0; job->centred && k < c; k++)
            sum += x[k];
        float mean = (float)(sum / (double)c);
        for (size_t k = 0; k < c; k++)
            squares += (double)(x[k] - mean) * (double)(x[k] - mean);
        float inverse = 1.0f / sqrtf((float)(squares / (double)c) + job->eps);
        for (size_t k = 0; k < c; k++) {
            float g = dy[k] * job->weight[k];
            sum_g += g;
            sum_gn += (double)(g * (x[k] - mean) * inverse);
        }
        float mean_g = job->centred ? (float)(sum_g / (double)c) : 0, mean_gn = (float)(sum_gn / (double)c);
        for (size_t k = 0; k < c; k++)
            dx[k] += inverse * (dy[k] * job->weight[k] - mean_g - (x[k] - mean) * inverse * mean_gn);
        job->statistics[2 * i] = mean;
        job->statistics[2 * i + 1] = inverse;
    }
}

static void run_weights(void *argument, size_t index, int thread)
{
    (void)thread;
    const struct row_norm *job = argument;
    size_t first = index * COLUMNS_A_TASK, columns = least(COLUMNS_A_TASK, job->c - first);
    double weights[COLUMNS_A_TASK] = {0}, biases[COLUMNS_A_TASK] = {0};
    for (size_t i = 0; i < job->m; i++) {
        const float *x = job->x + i * job->c + first, *dy = job->dy + i * job->c + first;
        float mean = job->statistics[2 * i], inverse = job->statistics[2 * i + 1];
        for (size_t k = 0; k < columns; k++) {
            weights[k] += (double)(dy[k] * (x[k] - mean) * inverse);
            biases[k] += dy[k];
        }
    }
    for (size_t k = 0; k < columns; k++) {
        job->dweight[first + k] += (float)weights[k];
        if (job->dbias)
            job->dbias[first + k] += (float)biases[k];
    }
}

static void run_row_norm(fvlm_pool *pool, struct row_norm *job)
{
    fvlm_pool_run(pool, tasks(job->m, ROWS_A_TASK), run_rows, job);
    if (job->dweight)
        fvlm_pool_run(pool, tasks(job->c, COLUMNS_A_TASK), run_weights, job);
}

void fvlm_layer_norm_backward(fvlm_pool *pool, const float *x, size_t m, size_t c, const float *weight, float eps,
                              const float *dy, float *dx, float *dweight, float *dbias, float *statistics)
{
    struct row_norm job = {x, weight, dy, dx, dweight, dbias, statistics, m, c, eps, true};
    run_row_norm(pool, &job);
}

void fvlm_rms_norm_backward(fvlm_pool *pool, const float *x, size_t m, size_t c, const float *weight, float eps,
                            const float *dy, float *dx, float *dweight, float *statistics)
{
    struct row_norm job = {x, weight, dy, dx, dweight, NULL, statistics, m, c, eps, false};
    run_row_norm(pool, &job);
}

/* Batch norm. */

struct batch_norm {
    const float *x, *mean, *variance, *weight, *bias, *dy;
    float *y, *dweight, *dbias; /* y is dx in the backward pass */
    float *out_mean, *out_variance;
    size_t m, c;
    float eps;
    bool batch;
};

static void run_statistics(void *argument, size_t index, int thread)
{
    (void)thread;
    const struct batch_norm *job = argument;
    size_t first = index * COLUMNS_A_TASK, columns = least(COLUMNS_A_TASK, job->c - first);
    double sums[COLUMNS_A_TASK] = {0}, squares[COLUMNS_A_TASK] = {0};
    for (size_t i = 0; i < job->m; i++)
        for (size_t k = 0; k < columns; k++)
            sums[k] += job->x[i * job->c + first + k];
    for (size_t k = 0; k < columns; k++)
        sums[k] /= (double)job->m;
    for (size_t i = 0; i < job->m; i++)
        for (size_t k = 0; k < columns; k++) {
            double d = job->x[i * job->c + first + k] - sums[k];
            squares[k] += d * d;
        }
    for (size_t k = 0; k < columns; k++) {
        job->out_mean[first + k] = (float)sums[k];
        job->out_variance[first + k] = (float)(squares[k] / (double)job->m);
    }
}

void fvlm_batch_norm_statistics(fvlm_pool *pool, const float *x, size_t m, size_t c, float *mean, float *variance)
{
    struct batch_norm job = {.x = x, .out_mean = mean, .out_variance = variance, .m = m, .c = c};
    fvlm_pool_run(pool, tasks(c, COLUMNS_A_TASK), run_statistics, &job);
}

static float inverse_deviation(const struct batch_norm *job, size_t channel)
{
    return (float)(1.0 / sqrt((double)job->variance[channel] + (double)job->eps));
}

static void run_batch_norm(void *argument, size_t index, int thread)
{
    (void)thread;
    const struct batch_norm *job = argument;
    size_t first = index * COLUMNS_A_TASK, columns = least(COLUMNS_A_TASK, job->c - first);
    float scale[COLUMNS_A_TASK];
    for (size_t k = 0; k < columns; k++)
        scale[k] = job->weight[first + k] * inverse_deviation(job, first + k);
    for (size_t i = 0; i < job->m; i++) {
        const float *x = job->x + i * job->c + first;
        float *y = job->y + i * job->c + first;
        for (size_t k = 0; k < columns; k++)
            y[k] = (x[k] - job->mean[first + k]) * scale[k] + job->bias[first + k];
    }
}

void fvlm_batch_norm(fvlm_pool *pool, const float *x, size_t m, size_t c, const float *mean, const float *variance,
                     const float *weight, const float *bias, float eps, float *y)
{
    struct batch_norm job = {
        .x = x, .mean = mean, .variance = variance, .weight = weight, .bias = bias, .y = y, .m = m, .c = c, .eps = eps};
    fvlm_pool_run(pool, tasks(c, COLUMNS_A_TASK), run_batch_norm, &job);
}

/* With n = (x - mean) inverse: dx = weight inverse dy where mean and variance are given, and
 * dx = weight inverse (dy - mean(dy) - n mean(dy n)) where they are those of x. */
static void run_batch_norm_backward(void *argument, size_t index, int thread)
{
    (void)thread;
    const struct batch_norm *job = argument;
    size_t first = index * COLUMNS_A_TASK, columns = least(COLUMNS_A_TASK, job->c - first);
    double sums[COLUMNS_A_TASK] = {0}, products[COLUMNS_A_TASK] = {0};
    float inverse[COLUMNS_A_TASK], mean_dy[COLUMNS_A_TASK] = {0}, mean_product[COLUMNS_A_TASK] = {0};
    for (size_t k = 0; k < columns; k++)
        inverse[k] = inverse_deviation(job, first + k);
    for (size_t i = 0; i < job->m; i++) {
        const float *x = job->x + i * job->c + first, *dy = job->dy + i * job->c + first;
        for (size_t k = 0; k < columns; k++) {
            sums[k] += dy[k];
            products[k] += (double)(dy[k] * (x[k] - job->mean[first + k]) * inverse[k]);
        }
    }
    for (size_t k = 0; k < columns; k++) {
        if (job->dweight) {
            job->dweight[first + k] += (float)products[k];
            job->dbias[first + k] += (float)sums[k];
        }
        if (job->batch) {
            mean_dy[k] = (float)(sums[k] / (double)job->m);
            mean_product[k] = (float)(products[k] / (double)job->m);
        }
    }
    for (size_t i = 0; i < job->m; i++) {
        const float *x = job->x + i * job->c + first, *dy = job->dy + i * job->c + first;
        float *dx = job->y + i * job->c + first;
        for (size_t k = 0; k < columns; k++) {
            float n = (x[k] - job->mean[first + k]) * inverse[k];
            dx[k] = job->weight[first + k] * inverse[k] * (dy[k] - mean_dy[k] - n * mean_product[k]);
        }
    }
}

void fvlm_batch_norm_backward(fvlm_pool *pool, const float *x, size_t m, size_t c, const float *mean,
                              const float *variance, const float *weight, float eps, bool batch, const float *dy,
                              float *dx, float *dweight, float *dbias)
{
    struct batch_norm job = {.x = x,
                             .mean = mean,
                             .variance = variance,
                             .weight = weight,
                             .dy = dy,
                             .y = dx,
                             .dweight = dweight,
                             .dbias = dbias,
                             .m = m,
                             .c = c,
                             .eps = eps,
                             .batch = batch};
    fvlm_pool_run(pool, tasks(c, COLUMNS_A_TASK), run_batch_norm_backward, &job);
}
