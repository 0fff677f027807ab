/* The two products of a linear layer's backward pass, blocked like the forward one (gemm.c).
 *
 * Both are y = A B with B unpacked into panels and summed over blocks of depth in y itself. For the gradient of x the
 * depth is W's rows, and a panel is a run of W's columns as they lie. For the gradient of W it is the rows of x, and A
 * is dy turned on its side, a block at a time.
 */
#include <string.h>

#include "kernels/gemm.h"
#include "kernels/gemm_block.h"
#include "kernels/rounded.h"
#include "kernels/row_sums.h"

/* A task's panels are COLUMNS x DEPTH floats, 512 KB; as many again hold a block of dy turned on its side. */
#define COLUMNS 256
#define DEPTH 512
#define ROWS 256
#define STRIP 32            /* columns that are unpacked together: a multiple of any panel, a divisor of any group */
#define TURNED (DEPTH + 16) /* floats from row to row: lines of one column do not share a set of the cache */
/* A gradient of W with fewer tasks is cut along its depth, too. What the parts come to lies behind the first thread's
 * panels and block. */
#define TASKS 8
#define PARTS_FLOATS (FVLM_SCRATCH_BYTES / sizeof(float) - COLUMNS * DEPTH - ROWS * TURNED)

struct backward {
    const fvlm_gemm_kernels *kernels;
    fvlm_pool *pool;
    const fvlm_matrix *w; /* gradient of x; NULL: gradient of W */
    const float *dy, *x;
    size_t dy_stride, x_stride;
    size_t rows, columns, depth; /* of the product */
    size_t column_tasks, parts;
    float *out; /* parts > 1: [parts, rows, columns] */
    size_t out_stride;
    bool add;
};

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* panels of W[first .. first + depth, column .. column + columns], which is B as it lies. */
static void panels_of_weights(const struct backward *job, size_t first, size_t depth, size_t column, size_t columns,
                              float *panels)
{
    const fvlm_matrix *w = job->w;
    size_t panel = job->kernels->panel;
    if (w->type == FVLM_F32) {
        fvlm_gemm_panels_from_columns(job->kernels, (const float *)w->data + first * w->cols + column, w->cols, depth,
                                      columns, panels);
        return;
    }
    float turned[STRIP * STRIP]; /* [columns of W, panel], as `unpack` writes it */
    for (size_t c = 0; c < columns; c += STRIP) {
        size_t width = least(STRIP, columns - c);
        for (size_t r = 0; r < depth; r += panel) {
            size_t count = least(panel, depth - r);
            job->kernels->unpack(w, first + r, count, column + c, width, turned);
            for (size_t i = 0; i < width; i++) {
                float *to = panels + (c + i) / panel * panel * depth + (c + i) % panel;
                for (size_t j = 0; j < count; j++)
                    to[(r + j) * panel] = turned[i * panel + j];
            }
        }
    }
}

/* turned[columns, TURNED] = dy[first .. first + depth, column .. column + columns] on its side. */
static void turn(const struct backward *job, size_t first, size_t depth, size_t column, size_t columns, float *turned)
{
    fvlm_matrix dy = {.type = FVLM_F32, .rows = job->depth, .cols = job->dy_stride, .data = job->dy};
    size_t panel = job->kernels->panel;
    float square[STRIP * STRIP];
    for (size_t r = 0; r < depth; r += panel)
        for (size_t c = 0; c < columns; c += STRIP) {
            size_t count = least(panel, depth - r), width = least(STRIP, columns - c);
            job->kernels->unpack(&dy, first + r, count, column + c, width, square);
            for (size_t i = 0; i < width; i++)
                memcpy(turned + (c + i) * TURNED + r, square + i * panel, count * sizeof *square);
        }
}

static void run_task(void *argument, size_t index, int thread)
{
    const struct backward *job = argument;
    size_t part = index % job->parts, blocks = (job->depth + DEPTH - 1) / DEPTH;
    size_t from = part * blocks / job->parts * DEPTH;
    size_t end = least((part + 1) * blocks / job->parts * DEPTH, job->depth);
    size_t row = index / job->parts / job->column_tasks * ROWS;
    size_t column = index / job->parts % job->column_tasks * COLUMNS;
    size_t rows = least(ROWS, job->rows - row), columns = least(COLUMNS, job->columns - column);
    float *panels = fvlm_pool_scratch(job->pool, thread), *turned = panels + COLUMNS * DEPTH;
    float *out = job->out + (part * job->rows + row) * job->out_stride + column;
    for (size_t k = from; k < end; k += DEPTH) {
        size_t depth = least(DEPTH, end - k);
        fvlm_gemm_block block = {.m = rows,
                                 .n = columns,
                                 .k = depth,
                                 .panels = panels,
                                 .sum = job->add || k > from ? out : NULL,
                                 .sum_stride = job->out_stride,
                                 .y = out,
                                 .y_stride = job->out_stride};
        if (job->w) {
            panels_of_weights(job, k, depth, column, columns, panels);
            block.x = job->dy + row * job->dy_stride + k;
            block.x_stride = job->dy_stride;
        } else {
            fvlm_gemm_panels_from_columns(job->kernels, job->x + k * job->x_stride + column, job->x_stride, depth,
                                          columns, panels);
            turn(job, k, depth, row, rows, turned);
            block.x = turned;
            block.x_stride = TURNED;
        }
        job->kernels->block(&block);
    }
}

static void run(fvlm_pool *pool, struct backward *job)
{
    job->kernels = fvlm_gemm_kernels_select();
    job->pool = pool;
    job->column_tasks = (job->columns + COLUMNS - 1) / COLUMNS;
    fvlm_pool_run(pool, (job->rows + ROWS - 1) / ROWS * job->column_tasks * job->parts, run_task, job);
}

/* Into how many parts the depth is cut; at least 1. */
static size_t count_parts(size_t rows, size_t columns, size_t depth)
{
    size_t tasks = ((rows + ROWS - 1) / ROWS) * ((columns + COLUMNS - 1) / COLUMNS);
    if (tasks >= TASKS)
        return 1;
    size_t parts = least(TASKS / tasks, (depth + DEPTH - 1) / DEPTH), fit = PARTS_FLOATS / (rows * columns);
    return least(parts, fit) > 1 ? least(parts, fit) : 1;
}

void fvlm_linear_backward_x(fvlm_pool *pool, const fvlm_matrix *w, const float *dy, size_t m, size_t dy_stride,
                            float *dx, size_t dx_stride, bool add)
{
    if (fvlm_rounded_fits_backward(w->inputs) && m > 0 && w->rows > 0 && w->cols > 0) {
        fvlm_rounded_multiply(pool, &(fvlm_rounded_product){.m = m,
                                                            .n = w->cols,
                                                            .k = w->rows,
                                                            .a = dy,
                                                            .a_stride = dy_stride,
                                                            .b = w,
                                                            .y = dx,
                                                            .y_stride = dx_stride,
                                                            .add = add});
        return;
    }
    struct backward job = {.w = w,
                           .dy = dy,
                           .dy_stride = dy_stride,
                           .rows = m,
                           .columns = w->cols,
                           .depth = w->rows,
                           .out = dx,
                           .parts = 1,
                           .out_stride = dx_stride,
                           .add = add};
    run(pool, &job);
}

void fvlm_linear_backward_w(fvlm_pool *pool, fvlm_dtype inputs, const float *dy, size_t m, size_t rows,
                            size_t dy_stride, const float *x, size_t cols, size_t x_stride, float *dw)
{
    if (fvlm_rounded_fits_backward(inputs) && m > 0 && rows > 0 && cols > 0) {
        fvlm_matrix lying = {.type = FVLM_F32, .rows = m, .cols = x_stride, .data = x};
        fvlm_rounded_multiply(pool, &(fvlm_rounded_product){.m = rows,
                                                            .n = cols,
                                                            .k = m,
                                                            .a = dy,
                                                            .a_stride = dy_stride,
                                                            .turned = true,
                                                            .b = &lying,
                                                            .y = dw,
                                                            .y_stride = cols,
                                                            .add = true});
        return;
    }
    if (m == 0 || rows == 0 || cols == 0)
        return;
    size_t parts = count_parts(rows, cols, m);
    float *sums = parts > 1 ? (float *)fvlm_pool_scratch(pool, 0) + COLUMNS * DEPTH + ROWS * TURNED : dw;
    struct backward job = {.dy = dy,
                           .dy_stride = dy_stride,
                           .x = x,
                           .x_stride = x_stride,
                           .rows = rows,
                           .columns = cols,
                           .depth = m,
                           .parts = parts,
                           .out = sums,
                           .out_stride = cols,
                           .add = parts == 1};
    run(pool, &job);
    for (size_t i = 0; i < rows * cols && parts > 1; i++)
        for (size_t part = 0; part < parts; part++)
            dw[i] += sums[part * rows * cols + i];
}

/* Sums of columns. */

struct column_sums {
    const float *a, *b;
    size_t c, a_stride, b_stride;
};

static void add_columns(const void *argument, size_t first, size_t rows, double *sums)
{
    enum { ROWS_TOGETHER = 8, COLUMNS_TOGETHER = 256 }; /* that are summed as floats */
    const struct column_sums *job = argument;
    for (size_t i = first; i < first + rows; i += ROWS_TOGETHER)
        for (size_t k = 0; k < job->c; k += COLUMNS_TOGETHER) {
            float some[COLUMNS_TOGETHER] = {0};
            size_t count = least(COLUMNS_TOGETHER, job->c - k);
            for (size_t row = i; row < least(i + ROWS_TOGETHER, first + rows); row++) {
                const float *a = job->a + row * job->a_stride + k;
                const float *b = job->b ? job->b + row * job->b_stride + k : NULL;
                for (size_t n = 0; n < count; n++)
                    some[n] += b ? a[n] * b[n] : a[n];
            }
            for (size_t n = 0; n < count; n++)
                sums[k + n] += (double)some[n];
        }
}

void fvlm_column_sums(fvlm_pool *pool, const float *a, size_t a_stride, const float *b, size_t b_stride, size_t m,
                      size_t c, float *sums)
{
    for (size_t first = 0; first < c; first += FVLM_MOST_ROW_SUMS) {
        size_t columns = least(FVLM_MOST_ROW_SUMS, c - first);
        struct column_sums job = {a + first, b ? b + first : NULL, columns, a_stride, b_stride};
        const double *made = fvlm_row_sums(pool, m, columns, add_columns, &job);
        for (size_t k = 0; k < columns; k++)
            sums[first + k] += (float)made[k];
    }
}
