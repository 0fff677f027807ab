/* AdamW as PyTorch has it: decay first, then the moments' step; runs of elements in parallel. */
#include "train/optimizer.h"

#include <math.h>
#include <stdlib.h>

#include "train/blockwise.h"

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
    float average; /* 1 - decay of the moving average */
};

/* One run's elements with their moments, which are in memory or were just decoded. */
static void update(const struct step_job *job, const float *gradient, size_t count, float *value, float *m, float *v)
{
    for (size_t i = 0; i < count; i++) {
        float g = gradient[i] * job->scale;
        m[i] = job->beta1 * m[i] + job->rest1 * g;
        v[i] = job->beta2 * v[i] + job->rest2 * g * g;
        value[i] = value[i] * job->keep - job->rate * m[i] / (sqrtf(v[i]) * job->root + job->eps);
    }
}

static void update_blocks(const struct step_job *job, size_t first, size_t last)
{
    const fvlm_parameter *parameter = job->parameter;
    for (size_t i = first, n; i < last; i += n) {
        float moments[2][FVLM_BLOCK];
        n = last - i < FVLM_BLOCK ? last - i : FVLM_BLOCK;
        for (int k = 0; k < 2; k++)
            fvlm_block_decode(k == 0, parameter->codes[k] + i, parameter->scales[k][i / FVLM_BLOCK], n, moments[k]);
        update(job, parameter->own_gradient + i, n, parameter->own_value + i, moments[0], moments[1]);
        for (int k = 0; k < 2; k++)
            parameter->scales[k][i / FVLM_BLOCK] = fvlm_block_encode(k == 0, moments[k], n, parameter->codes[k] + i);
    }
}

static void run_step(void *argument, size_t index, int thread)
{
    (void)thread;
    const struct step_job *job = argument;
    size_t first = index * RUN, count = job->parameter->share, last = count - first < RUN ? count : first + RUN;
    const fvlm_parameter *parameter = job->parameter;
    float *value = parameter->own_value, *average = parameter->average;
    if (parameter->codes[0])
        update_blocks(job, first, last);
    else
        update(job, parameter->own_gradient + first, last - first, value + first, parameter->first + first,
               parameter->second + first);
    for (size_t i = first; average && i < last; i++)
        average[i] += job->average * (value[i] - average[i]);
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
                               .scale = (float)scale,
                               .average = (float)(1 - adamw->average)};
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
