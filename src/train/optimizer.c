/* AdamW as PyTorch has it: decay first, then the moments' step; runs of elements in parallel. */
#include "train/optimizer.h"

#include <math.h>
#include <stdlib.h>

#define RUN ((size_t)1 << 15)

static size_t run_count(size_t count)
{
    return (count + RUN - 1) / RUN;
}

struct norm_job {
    const float *gradient;
    size_t count;
    double *sums; /* [runs] */
};

static void run_norm(void *argument, size_t index, int thread)
{
    (void)thread;
    const struct norm_job *job = argument;
    size_t first = index * RUN, last = job->count - first < RUN ? job->count : first + RUN;
    double sums[8] = {0};
    for (size_t i = first; i < last; i++)
        sums[i % 8] += (double)job->gradient[i] * (double)job->gradient[i];
    job->sums[index] = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

double fvlm_gradient_square(const fvlm_parameters *set, fvlm_pool *pool, fvlm_status *status, fvlm_error *error)
{
    size_t most = 0;
    for (size_t i = 0; i < set->count; i++)
        most = set->items[i]->gradient && set->items[i]->share > most ? set->items[i]->share : most;
    double *sums = fvlm_calloc(run_count(most), sizeof *sums), total = 0;
    *status = sums ? FVLM_OK : fvlm_fail_memory(error);
    for (size_t i = 0; i < set->count && sums; i++) {
        struct norm_job job = {set->items[i]->own_gradient, set->items[i]->share, sums};
        if (!job.gradient)
            continue;
        fvlm_pool_run(pool, run_count(job.count), run_norm, &job);
        for (size_t run = 0; run < run_count(job.count); run++)
            total += sums[run];
    }
    free(sums);
    return total;
}

struct step_job {
    fvlm_parameter *parameter;
    float beta1, beta2, rest1, rest2; /* rest: 1 - beta */
    float eps, keep, rate, root;      /* keep: 1 - rate decay; root: 1 / sqrt(1 - beta2^step) */
    float scale;
};

static void run_step(void *argument, size_t index, int thread)
{
    (void)thread;
    const struct step_job *job = argument;
    size_t first = index * RUN, count = job->parameter->share, last = count - first < RUN ? count : first + RUN;
    float *value = job->parameter->own_value, *m = job->parameter->first, *v = job->parameter->second;
    const float *gradient = job->parameter->own_gradient;
    for (size_t i = first; i < last; i++) {
        float g = gradient[i] * job->scale;
        m[i] = job->beta1 * m[i] + job->rest1 * g;
        v[i] = job->beta2 * v[i] + job->rest2 * g * g;
        value[i] = value[i] * job->keep - job->rate * m[i] / (sqrtf(v[i]) * job->root + job->eps);
    }
}

static int part_index(fvlm_part part)
{
    return part == FVLM_PART_VISION ? 0 : part == FVLM_PART_PROJECTOR ? 1 : part == FVLM_PART_LANGUAGE ? 2 : 3;
}

void fvlm_adamw_step(const fvlm_adamw *adamw, fvlm_parameters *set, fvlm_pool *pool, uint64_t step, double scale,
                     double factor)
{
    double correction1 = 1 - pow(adamw->beta1, (double)step), correction2 = 1 - pow(adamw->beta2, (double)step);
    for (size_t i = 0; i < set->count; i++) {
        fvlm_parameter *parameter = set->items[i];
        if (!parameter->gradient)
            continue;
        double rate = adamw->rates[part_index(parameter->part)] * factor;
        bool decayed = adamw->decay_all || parameter->count > parameter->shape[0];
        struct step_job job = {.parameter = parameter,
                               .beta1 = (float)adamw->beta1,
                               .beta2 = (float)adamw->beta2,
                               .rest1 = (float)(1 - adamw->beta1),
                               .rest2 = (float)(1 - adamw->beta2),
                               .eps = (float)adamw->eps,
                               .keep = (float)(1 - (decayed ? rate * adamw->decay : 0)),
                               .rate = (float)(rate / correction1),
                               .root = (float)(1 / sqrt(correction2)),
                               .scale = (float)scale};
        fvlm_pool_run(pool, run_count(parameter->share), run_step, &job);
    }
}

double fvlm_schedule_factor(fvlm_schedule schedule, uint64_t step, uint64_t warmup, uint64_t steps)
{
    static const double pi = 3.14159265358979323846;
    if (step < warmup)
        return (double)step / (double)warmup;
    double rest = steps > warmup ? (double)(step - warmup) / (double)(steps - warmup) : 1;
    switch (schedule) {
    case FVLM_SCHEDULE_COSINE:
        return rest < 1 ? 0.5 * (1 + cos(pi * rest)) : 0;
    case FVLM_SCHEDULE_LINEAR:
        return rest < 1 ? 1 - rest : 0;
    case FVLM_SCHEDULE_CONSTANT:
        break;
    }
    return 1;
}
