/* Sums over many rows, in runs that all threads share. */
#include "kernels/row_sums.h"

#include <string.h>

/* Runs at most, and their rows at least. */
#define RUNS 32
#define ROWS 64

struct job {
    fvlm_row_sums_fn add;
    const void *argument;
    size_t rows, run, width;
    double *sums; /* [runs, width] */
};

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static void run_task(void *argument, size_t index, int thread)
{
    (void)thread;
    const struct job *job = argument;
    size_t first = index * job->run;
    double *sums = job->sums + index * job->width;
    memset(sums, 0, job->width * sizeof *sums);
    job->add(job->argument, first, least(job->run, job->rows - first), sums);
}

double *fvlm_row_sums(fvlm_pool *pool, size_t rows, size_t width, fvlm_row_sums_fn add, const void *argument)
{
    size_t runs = least(least(RUNS, (rows + ROWS - 1) / ROWS), FVLM_SCRATCH_BYTES / sizeof(double) / width);
    struct job job = {add, argument, rows, 0, width, fvlm_pool_scratch(pool, 0)};
    if (rows == 0) {
        memset(job.sums, 0, width * sizeof *job.sums);
        return job.sums;
    }
    job.run = (rows + runs - 1) / runs;
    runs = (rows + job.run - 1) / job.run;
    fvlm_pool_run(pool, runs, run_task, &job);
    for (size_t i = 1; i < runs; i++)
        for (size_t k = 0; k < width; k++)
            job.sums[k] += job.sums[i * width + k];
    return job.sums;
}
