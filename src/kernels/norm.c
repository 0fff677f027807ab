/* Norms over many rows, and the channel mean of squeeze-excite. */
#include "kernels/norm.h"

#include <string.h>

#include "kernels/rows.h"

#define ROWS_A_TASK 64 /* enough work that handing it out costs nothing beside it */

struct norm_job {
    const fvlm_row_kernels *kernels;
    const float *x, *weight, *bias; /* bias NULL: rms norm */
    float *y;
    size_t m, c;
    float eps;
};

static void run_norm(void *argument, size_t index, int thread)
{
    (void)thread;
    const struct norm_job *job = argument;
    size_t first = index * ROWS_A_TASK, rest = job->m - first;
    for (size_t i = first; i < first + (rest < ROWS_A_TASK ? rest : ROWS_A_TASK); i++) {
        const float *x = job->x + i * job->c;
        float *y = job->y + i * job->c;
        if (job->bias)
            job->kernels->layer_norm(x, job->c, job->weight, job->bias, job->eps, y);
        else
            job->kernels->rms_norm(x, job->c, job->weight, job->eps, y);
    }
}

static size_t task_count(size_t m)
{
    return (m + ROWS_A_TASK - 1) / ROWS_A_TASK;
}

void fvlm_layer_norm(fvlm_pool *pool, const float *x, size_t m, size_t c, const float *weight, const float *bias,
                     float eps, float *y)
{
    struct norm_job job = {fvlm_row_kernels_select(), x, weight, bias, y, m, c, eps};
    fvlm_pool_run(pool, task_count(m), run_norm, &job);
}

void fvlm_rms_norm(fvlm_pool *pool, const float *x, size_t m, size_t c, const float *weight, float eps, float *y)
{
    struct norm_job job = {fvlm_row_kernels_select(), x, weight, NULL, y, m, c, eps};
    fvlm_pool_run(pool, task_count(m), run_norm, &job);
}

void fvlm_row_mean(const float *x, size_t m, size_t c, float *mean)
{
    const fvlm_row_kernels *kernels = fvlm_row_kernels_select();
    memset(mean, 0, c * sizeof *mean);
    for (size_t i = 0; i < m; i++)
        kernels->add(x + i * c, c, mean);
    kernels->scale(mean, c, 1.0f / (float)m);
}

struct gelu_job {
    const fvlm_row_kernels *kernels;
    const float *x, *scale;
    float *y;
    size_t c;
};

static void run_gelu(void *argument, size_t row, int thread)
{
    (void)thread;
    const struct gelu_job *job = argument;
    job->kernels->scale_gelu(job->x + row * job->c, job->c, job->scale, job->y + row * job->c);
}

void fvlm_scale_gelu(fvlm_pool *pool, const float *x, size_t m, size_t c, const float *scale, float *y)
{
    struct gelu_job job = {fvlm_row_kernels_select(), x, scale, y, c};
    fvlm_pool_run(pool, m, run_gelu, &job);
}
