/* Backward passes of the norms, and batch norm itself, which inference folds into a convolution.
 *
 * Of x[m, c]: what a row or a channel is normalised by is computed again, rows in parallel; the gradients of weight and
 * bias are sums over rows (row_sums.h). So no result depends on the threads.
 */
#include <math.h>

#include "kernels/gemm.h"
#include "kernels/norm.h"
#include "kernels/row_sums.h"

#define ROWS_A_TASK 16
#define BATCH_ROWS_A_TASK 256

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

/* sums [2, c]: what weight and bias get. */
static void add_weights(const void *argument, size_t first, size_t rows, double *sums)
{
    const struct row_norm *job = argument;
    double *weights = sums, *biases = sums + job->c;
    for (size_t i = first; i < first + rows; i++) {
        const float *x = job->x + i * job->c, *dy = job->dy + i * job->c;
        float mean = job->statistics[2 * i], inverse = job->statistics[2 * i + 1];
        for (size_t k = 0; k < job->c; k++) {
            weights[k] += (double)(dy[k] * (x[k] - mean) * inverse);
            biases[k] += dy[k];
        }
    }
}

static void run_row_norm(fvlm_pool *pool, struct row_norm *job)
{
    fvlm_pool_run(pool, tasks(job->m, ROWS_A_TASK), run_rows, job);
    if (!job->dweight)
        return;
    const double *sums = fvlm_row_sums(pool, job->m, 2 * job->c, add_weights, job);
    for (size_t k = 0; k < job->c; k++) {
        job->dweight[k] += (float)sums[k];
        if (job->dbias)
            job->dbias[k] += (float)sums[job->c + k];
    }
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
    float *y;             /* dx in the backward pass */
    const float *factors; /* of the channels */
    size_t m, c;
    float eps;
};

static void add_values(const void *argument, size_t first, size_t rows, double *sums)
{
    const struct batch_norm *job = argument;
    for (size_t i = first; i < first + rows; i++)
        for (size_t k = 0; k < job->c; k++)
            sums[k] += job->x[i * job->c + k];
}

static void add_squares(const void *argument, size_t first, size_t rows, double *sums)
{
    const struct batch_norm *job = argument;
    for (size_t i = first; i < first + rows; i++)
        for (size_t k = 0; k < job->c; k++) {
            double d = (double)job->x[i * job->c + k] - (double)job->mean[k];
            sums[k] += d * d;
        }
}

void fvlm_batch_norm_statistics(fvlm_pool *pool, const float *x, size_t m, size_t c, float *mean, float *variance)
{
    struct batch_norm job = {.x = x, .mean = mean, .m = m, .c = c};
    const double *sums = fvlm_row_sums(pool, m, c, add_values, &job);
    for (size_t k = 0; k < c; k++)
        mean[k] = (float)(sums[k] / (double)m);
    sums = fvlm_row_sums(pool, m, c, add_squares, &job);
    for (size_t k = 0; k < c; k++)
        variance[k] = (float)(sums[k] / (double)m);
}

static float inverse_deviation(const struct batch_norm *job, size_t channel)
{
    return (float)(1.0 / sqrt((double)job->variance[channel] + (double)job->eps));
}

/* Factors: [c] scales. */
static void run_batch_norm(void *argument, size_t index, int thread)
{
    (void)thread;
    const struct batch_norm *job = argument;
    size_t c = job->c, first = index * BATCH_ROWS_A_TASK, last = least(first + BATCH_ROWS_A_TASK, job->m);
    for (size_t i = first; i < last; i++)
        for (size_t k = 0; k < c; k++)
            job->y[i * c + k] = (job->x[i * c + k] - job->mean[k]) * job->factors[k] + job->bias[k];
}

void fvlm_batch_norm(fvlm_pool *pool, const float *x, size_t m, size_t c, const float *mean, const float *variance,
                     const float *weight, const float *bias, float eps, float *y)
{
    float *scales = fvlm_pool_scratch(pool, 0);
    struct batch_norm job = {.x = x,
                             .mean = mean,
                             .variance = variance,
                             .bias = bias,
                             .y = y,
                             .factors = scales,
                             .m = m,
                             .c = c,
                             .eps = eps};
    for (size_t k = 0; k < c; k++)
        scales[k] = weight[k] * inverse_deviation(&job, k);
    fvlm_pool_run(pool, tasks(m, BATCH_ROWS_A_TASK), run_batch_norm, &job);
}

/* sums [2, c]: of dy, and of dy n, where n = (x - mean) inverse; the inverse is multiplied later. */
static void add_gradients(const void *argument, size_t first, size_t rows, double *sums)
{
    const struct batch_norm *job = argument;
    for (size_t i = first; i < first + rows; i++) {
        const float *x = job->x + i * job->c, *dy = job->dy + i * job->c;
        for (size_t k = 0; k < job->c; k++) {
            sums[k] += dy[k];
            sums[job->c + k] += (double)(dy[k] * (x[k] - job->mean[k]));
        }
    }
}

/* Factors [3, c]: dx = f0 (dy - f1 - (x - mean) f2). */
static void run_batch_norm_backward(void *argument, size_t index, int thread)
{
    (void)thread;
    const struct batch_norm *job = argument;
    size_t c = job->c, first = index * BATCH_ROWS_A_TASK, last = least(first + BATCH_ROWS_A_TASK, job->m);
    const float *scale = job->factors, *mean_dy = scale + c, *slope = mean_dy + c;
    for (size_t i = first; i < last; i++) {
        const float *x = job->x + i * c, *dy = job->dy + i * c;
        float *dx = job->y + i * c;
        for (size_t k = 0; k < c; k++)
            dx[k] = scale[k] * (dy[k] - mean_dy[k] - (x[k] - job->mean[k]) * slope[k]);
    }
}

/* With n = (x - mean) inverse: dx = weight inverse dy where mean and variance are given, and
 * dx = weight inverse (dy - mean(dy) - n mean(dy n)) where they are those of x. */
void fvlm_batch_norm_backward(fvlm_pool *pool, const float *x, size_t m, size_t c, const float *mean,
                              const float *variance, const float *weight, float eps, bool batch, const float *dy,
                              float *dx, float *dweight, float *dbias)
{
    struct batch_norm job = {.x = x, .mean = mean, .variance = variance, .dy = dy, .y = dx, .m = m, .c = c, .eps = eps};
    double *sums = fvlm_row_sums(pool, m, 2 * c, add_gradients, &job);
    float *factors = (float *)(void *)(sums + 2 * c);
    job.factors = factors;
    for (size_t k = 0; k < c; k++) {
        float inverse = inverse_deviation(&job, k);
        double product = sums[c + k] * (double)inverse;
        if (dweight) {
            dweight[k] += (float)product;
            dbias[k] += (float)sums[k];
        }
        factors[k] = weight[k] * inverse;
        factors[c + k] = batch ? (float)(sums[k] / (double)m) : 0;
        factors[2 * c + k] = batch ? (float)(product / (double)m) * inverse : 0;
    }
    fvlm_pool_run(pool, tasks(m, BATCH_ROWS_A_TASK), run_batch_norm_backward, &job);
}
