/* Products of a linear layer's backward pass on bf16 inputs, summed in float32.
 *
 * The depth goes in parts that fit the scratch memory: all threads round a part of A into thread 0's scratch, on its
 * side where it has to be turned; then a task is some panels of B, whose rows become pairs as they lie, and those
 * rows of A, or where there are few panels some of the rows. Parts are added in y itself, in their order.
 */
#include <string.h>

#include "base/memory.h"
#include "kernels/packed_block.h"
#include "kernels/rounded.h"

/* Rows of B in a part: a panel of so many is 160 KB. Even, since a unit holds two. */
#define DEPTH 2560
/* Columns of B in a task, and rows of A that a task rounds. */
#define COLUMNS ((size_t)2 * FVLM_PACKED_PANEL)
#define PREPARE_ROWS 16
/* Tasks that threads can share evenly, and rows of A of which a task has a multiple. */
#define ENOUGH_TASKS 4
#define LINES 32
/* A square of A that is turned at a time. */
#define SQUARE 64

struct job {
    const fvlm_rounded_product *product;
    const fvlm_packed_kernels *kernels;
    fvlm_pool *pool;
    size_t row, rows;      /* of A and y in this part */
    size_t first, depth;   /* of B in this part */
    size_t columns, lines; /* of a task: columns of B, and rows of A */
    fvlm_packed_rows left; /* A's rows, rounded */
};

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t divide_up(size_t a, size_t b)
{
    return (a + b - 1) / b;
}

static void prepare_task(void *argument, size_t index, int thread)
{
    const struct job *job = argument;
    const fvlm_rounded_product *p = job->product;
    size_t row = index * PREPARE_ROWS, count = least(PREPARE_ROWS, job->rows - row);
    (void)thread;
    job->kernels->prepare(FVLM_PACKED_BF16, p->a + (job->row + row) * p->a_stride + job->first, p->a_stride, job->depth,
                          row, count, &job->left);
    for (size_t i = 0; job->depth % 2 && i < count; i++) /* the second of the last pair */
        ((uint16_t *)(void *)(job->left.data + (row + i) * job->left.stride))[job->depth] = 0;
}

/* SQUARE of A's rows, which are columns of the stored matrix. */
static void turn_task(void *argument, size_t index, int thread)
{
    const struct job *job = argument;
    const fvlm_rounded_product *p = job->product;
    size_t row = index * SQUARE, count = least(SQUARE, job->rows - row);
    uint16_t square[SQUARE][SQUARE];
    fvlm_packed_rows rounded = {.data = (uint8_t *)square, .stride = sizeof square[0]};
    (void)thread;
    for (size_t k = 0; k < job->depth; k += SQUARE) {
        size_t depth = least(SQUARE, job->depth - k);
        job->kernels->prepare(FVLM_PACKED_BF16, p->a + (job->first + k) * p->a_stride + job->row + row, p->a_stride,
                              count, 0, depth, &rounded);
        if (depth % 2)
            memset(square[depth], 0, sizeof square[depth]);
        for (size_t i = 0; i < count; i++) {
            uint16_t *to = (uint16_t *)(void *)(job->left.data + (row + i) * job->left.stride) + k;
            for (size_t j = 0; j < depth + depth % 2; j++)
                to[j] = square[j][i];
        }
    }
}

/* A row of B in bf16: where it lies, or rounded into `own`. */
static const uint16_t *row_of(const struct job *job, size_t row, size_t column, size_t columns, uint16_t own[COLUMNS])
{
    const fvlm_matrix *b = job->product->b;
    float values[COLUMNS];
    if (b->type == FVLM_BF16)
        return (const uint16_t *)b->data + row * b->cols + column;
    job->kernels->round(FVLM_PACKED_BF16, fvlm_matrix_floats(b, row, column, columns, values), columns, (uint8_t *)own,
                        NULL, NULL, 0);
    return own;
}

/* panels[columns / panel, depth / 2, panel] of pairs from B's rows. */
static void pair_rows(const struct job *job, size_t column, size_t columns, uint32_t *panels)
{
    static const uint16_t zeros[COLUMNS];
    size_t pairs = divide_up(job->depth, 2);
    for (size_t k = 0; k < pairs; k++) {
        uint16_t first[COLUMNS], second[COLUMNS];
        size_t row = job->first + 2 * k;
        const uint16_t *low = row_of(job, row, column, columns, first);
        const uint16_t *high = 2 * k + 1 < job->depth ? row_of(job, row + 1, column, columns, second) : zeros;
        for (size_t c = 0; c < columns; c += FVLM_PACKED_PANEL) {
            uint32_t *to = panels + (c * pairs + k * FVLM_PACKED_PANEL);
            size_t width = least(FVLM_PACKED_PANEL, columns - c);
            for (size_t i = 0; i < width; i++)
                to[i] = low[c + i] | (uint32_t)high[c + i] << 16;
            for (size_t i = width; i < FVLM_PACKED_PANEL; i++)
                to[i] = 0;
        }
    }
}

/* Where a thread's panels are: at the end of its scratch, since thread 0's begins with A. */
static size_t panel_bytes(const struct job *job)
{
    return divide_up(job->depth, 2) * COLUMNS * FVLM_PACKED_UNIT;
}

static void product_task(void *argument, size_t index, int thread)
{
    const struct job *job = argument;
    const fvlm_rounded_product *p = job->product;
    size_t across = divide_up(p->n, job->columns), line = index / across * job->lines;
    size_t column = index % across * job->columns, columns = least(job->columns, p->n - column);
    char *panels = (char *)fvlm_pool_scratch(job->pool, thread) + FVLM_SCRATCH_BYTES - panel_bytes(job);
    float *y = p->y + (job->row + line) * p->y_stride + column;
    fvlm_packed_rows left = job->left;
    left.data += line * left.stride;
    left.rows = least(job->lines, job->rows - line);
    fvlm_epilogue epilogue = {.residual = p->add || job->first > 0 ? y : NULL, .residual_stride = p->y_stride};
    fvlm_packed packed = {.type = FVLM_PACKED_BF16, .rows = columns, .cols = job->depth, .data = panels};
    pair_rows(job, column, columns, (uint32_t *)(void *)panels);
    job->kernels->block(&(fvlm_packed_block){.w = &packed,
                                             .count = columns,
                                             .slices = divide_up(job->depth, FVLM_PACKED_SLICE),
                                             .x = &left,
                                             .rows = left.rows,
                                             .y = y,
                                             .y_stride = p->y_stride,
                                             .epilogue = &epilogue});
}

void fvlm_rounded_multiply(fvlm_pool *pool, const fvlm_rounded_product *p)
{
    struct job job = {.product = p, .kernels = fvlm_packed_kernels_select(), .pool = pool};
    size_t depth = divide_up(divide_up(p->k, divide_up(p->k, DEPTH)), 2) * 2;
    size_t threads = (size_t)fvlm_pool_threads(pool);
    job.columns = p->n < 4 * threads * COLUMNS ? FVLM_PACKED_PANEL : COLUMNS;
    for (job.first = 0; job.first < p->k; job.first += depth) {
        job.depth = least(depth, p->k - job.first);
        job.left.data = fvlm_pool_scratch(pool, 0);
        job.left.stride = fvlm_packed_stride(2, job.depth);
        size_t most = (FVLM_SCRATCH_BYTES - panel_bytes(&job)) / job.left.stride;
        size_t rows = divide_up(p->m, divide_up(p->m, most));
        for (job.row = 0; job.row < p->m; job.row += rows) {
            job.left.rows = job.rows = least(rows, p->m - job.row);
            if (p->turned)
                fvlm_pool_run(pool, divide_up(job.rows, SQUARE), turn_task, &job);
            else
                fvlm_pool_run(pool, divide_up(job.rows, PREPARE_ROWS), prepare_task, &job);
            size_t across = divide_up(p->n, job.columns), pieces = divide_up(ENOUGH_TASKS, across);
            job.lines = divide_up(divide_up(job.rows, pieces), LINES) * LINES;
            fvlm_pool_run(pool, across * divide_up(job.rows, job.lines), product_task, &job);
        }
    }
}
