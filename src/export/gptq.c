/* GPTQ by batches of columns: within a batch each row passes its errors on by itself; to the columns behind it they go
 * in one matrix product. Every row is on its own, so threads share rows. */
#include "export/gptq.h"

#include <string.h>

#include "base/memory.h"
#include "kernels/gemm.h"
#include "kernels/quantize.h"

#define BATCH FVLM_BLOCK_MOST /* columns; a multiple of every block */

struct job {
    const fvlm_matrix *w, *other;
    const float *l;
    fvlm_dtype type;
    size_t first, count; /* the batch's columns */
    float *values;       /* [rows, cols]: the weights with the errors so far */
    float *errors;       /* [rows, count], negative */
    uint8_t *out;
    const float *products;
    double *sums;
};

static void unpack_row(void *argument, size_t row, int thread)
{
    (void)thread;
    const struct job *job = argument;
    fvlm_matrix_row(job->w, row, job->values + row * job->w->cols);
}

static uint8_t *block_at(const struct job *job, size_t row, size_t col)
{
    size_t bytes, block = fvlm_dtype_block(job->type, &bytes);
    return job->out + (row * job->w->cols + col) / block * bytes;
}

/* The batch's columns of one row. The weight of a column's error is 1 / l[c, c]^2. */
static void round_row(void *argument, size_t row, int thread)
{
    (void)thread;
    const struct job *job = argument;
    size_t cols = job->w->cols, bytes, block = fvlm_dtype_block(job->type, &bytes);
    float *x = job->values + row * cols + job->first, *errors = job->errors + row * job->count;
    const float *l = job->l + job->first * cols + job->first;
    fvlm_block_grid grid;
    float importance[FVLM_BLOCK_MOST];
    int8_t q[FVLM_BLOCK_MOST];
    for (size_t c = 0; c < job->count; c++) {
        size_t in = c % block;
        if (in == 0) {
            for (size_t i = 0; i < block; i++) {
                float own = l[(c + i) * cols + c + i];
                importance[i] = 1 / (own * own);
            }
            fvlm_block_fit(job->type, x + c, importance, block_at(job, row, job->first + c), &grid);
        }
        size_t part = in / FVLM_BLOCK_PART;
        q[in] = (int8_t)fvlm_block_round(&grid, part, x[c]);
        float error = (grid.steps[part] * (float)q[in] + grid.offsets[part] - x[c]) / l[c * cols + c];
        errors[c] = error;
        for (size_t later = c + 1; later < job->count; later++)
            x[later] += error * l[later * cols + c];
        if (in + 1 == block)
            fvlm_block_pack(job->type, q, block_at(job, row, job->first + c + 1 - block));
    }
}

bool fvlm_gptq(fvlm_pool *pool, const fvlm_matrix *w, const float *l, fvlm_dtype type, float *values, uint8_t *out)
{
    size_t rows = w->rows, cols = w->cols;
    struct job job = {.w = w, .l = l, .type = type, .values = values, .out = out};
    job.errors = fvlm_aligned_alloc(rows * BATCH * sizeof *job.errors);
    float *panel = fvlm_aligned_alloc(cols * BATCH * sizeof *panel);
    bool fine = job.errors && panel;
    if (fine)
        fvlm_pool_run(pool, rows, unpack_row, &job);
    for (; fine && job.first < cols; job.first += BATCH) {
        size_t rest = cols - job.first;
        job.count = rest < BATCH ? rest : BATCH;
        fvlm_pool_run(pool, rows, round_row, &job);
        size_t next = job.first + job.count, left = cols - next;
        if (left == 0)
            continue;
        for (size_t i = 0; i < left; i++)
            memcpy(panel + i * job.count, l + (next + i) * cols + job.first, job.count * sizeof *panel);
        fvlm_matrix behind = {.type = FVLM_F32, .rows = left, .cols = job.count, .data = panel};
        fvlm_epilogue epilogue = {.residual = values + next, .residual_stride = cols};
        fvlm_linear(pool, &behind, job.errors, rows, job.count, values + next, cols, &epilogue);
    }
    fvlm_aligned_free(job.errors);
    fvlm_aligned_free(panel);
    return fine;
}

static void nearest_row(void *argument, size_t row, int thread)
{
    const struct job *job = argument;
    unpack_row(argument, row, thread);
    fvlm_from_float(job->type, job->values + row * job->w->cols, job->w->cols, block_at(job, row, 0));
}

void fvlm_round_to_nearest(fvlm_pool *pool, const fvlm_matrix *w, fvlm_dtype type, float *values, uint8_t *out)
{
    struct job job = {.w = w, .type = type, .values = values, .out = out};
    fvlm_pool_run(pool, w->rows, nearest_row, &job);
}

/* values = w - other */
static void difference_row(void *argument, size_t row, int thread)
{
    const struct job *job = argument;
    size_t cols = job->w->cols;
    float *x = job->values + row * cols, *y = x + job->w->rows * cols;
    unpack_row(argument, row, thread);
    if (!job->other)
        return;
    fvlm_matrix_row(job->other, row, y);
    for (size_t i = 0; i < cols; i++)
        x[i] -= y[i];
}

static void sum_row(void *argument, size_t row, int thread)
{
    (void)thread;
    const struct job *job = argument;
    size_t cols = job->w->cols;
    double sum = 0;
    for (size_t i = 0; i < cols; i++)
        sum += (double)job->values[row * cols + i] * job->products[row * cols + i];
    job->sums[row] = sum;
}

double fvlm_output_energy(fvlm_pool *pool, const fvlm_matrix *w, const fvlm_matrix *other, const float *gram,
                          float *values)
{
    size_t rows = w->rows, cols = w->cols;
    float *products = values + rows * cols;
    struct job job = {.w = w, .other = other, .values = values};
    fvlm_pool_run(pool, rows, difference_row, &job);
    fvlm_matrix matrix = {.type = FVLM_F32, .rows = cols, .cols = cols, .data = gram}; /* symmetric */
    fvlm_linear(pool, &matrix, values, rows, cols, products, cols, NULL);
    double total = 0;
    job.products = products;
    job.sums = fvlm_aligned_alloc(rows * sizeof *job.sums);
    if (!job.sums)
        return -1;
    fvlm_pool_run(pool, rows, sum_row, &job);
    for (size_t row = 0; row < rows; row++)
        total += job.sums[row];
    fvlm_aligned_free(job.sums);
    return total;
}
