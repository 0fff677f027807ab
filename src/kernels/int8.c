/* Linear layers over 8-bit inputs: choice of the instruction set, and how the work falls on threads.
 *
 * Many rows of x: all threads round x into one scratch, then a task is a panel of W, unpacked into its thread's
 * scratch, and all rows of x. Few rows: the caller rounds them, and tasks are ranges of W's rows. Layers over the same
 * x are one run.
 */
#include "kernels/int8.h"

#include "base/cpu.h"
#include "base/memory.h"
#include "kernels/activation_scalar.h"

/* Of a thread's scratch the end holds a panel; before it, thread 0's has room for x. */
#define PANEL_BYTES ((size_t)1 << 20)
#define X_BYTES (FVLM_SCRATCH_BYTES - PANEL_BYTES)
/* Rows of x that a task rounds. */
#define PREPARE_ROWS 16
/* Bytes of weights in a task of few rows: some microseconds of reading. */
#define TASK_BYTES (64 << 10)
/* Rows of W that are summed before their outputs are finished. */
#define STRIP 64

const fvlm_int8_kernels *fvlm_int8_kernels_select(void)
{
    unsigned flags = fvlm_cpu_flags();
    (void)flags;
#if defined(__x86_64__)
    if (flags & FVLM_CPU_AVX512_VNNI)
        return &fvlm_int8_kernels_avx512vnni;
    if (flags & FVLM_CPU_AVX2)
        return &fvlm_int8_kernels_avx2;
#endif
    return &fvlm_int8_kernels_reference;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t divide_up(size_t a, size_t b)
{
    return (a + b - 1) / b;
}

size_t fvlm_int8_step(const fvlm_matrix *w)
{
    switch (w->type) {
    case FVLM_MLX4:
    case FVLM_MLX8:
        return w->group;
    case FVLM_Q8_0:
    case FVLM_Q4_0:
    case FVLM_Q4_K:
        return 32;
    default:
        return 0;
    }
}

/* Bytes of a row of x: for panels with its scales and sums, and for products with up to 32 columns a scale. */
static size_t row_bytes(size_t cols)
{
    return fvlm_int8_stride(cols) + fvlm_int8_count(cols) * (FVLM_INT8_COLS / 32) * 2 * sizeof(float);
}

bool fvlm_int8_fits(const fvlm_matrix *w, size_t m)
{
    size_t step = fvlm_int8_step(w);
    if (m <= FVLM_GEMV_ROWS)
        return step && FVLM_INT8_COLS % step == 0 && FVLM_GEMV_ROWS * row_bytes(w->cols) <= X_BYTES;
    return fvlm_int8_count(w->cols) * FVLM_INT8_PART <= PANEL_BYTES;
}

struct job {
    const fvlm_int8_kernels *kernels;
    fvlm_pool *pool;
    const fvlm_linear_part *parts;
    size_t count;
    const float *x; /* [m, cols] */
    size_t m, x_stride;
    fvlm_int8_rows rows; /* many: x's rows first .. first + rows.rows */
    size_t first;
    fvlm_int8_vector vectors[FVLM_GEMV_ROWS]; /* few */
};

/* The part that task *index belongs to; *index becomes that within it. Tasks take `rows` of W. */
static const fvlm_linear_part *find_part(const struct job *job, size_t (*rows_of)(const fvlm_matrix *), size_t *index)
{
    const fvlm_linear_part *part = job->parts;
    for (size_t tasks; *index >= (tasks = divide_up(part->w->rows, rows_of(part->w))); part++)
        *index -= tasks;
    return part;
}

static size_t task_count(const struct job *job, size_t (*rows_of)(const fvlm_matrix *))
{
    size_t count = 0;
    for (size_t i = 0; i < job->count; i++)
        count += divide_up(job->parts[i].w->rows, rows_of(job->parts[i].w));
    return count;
}

static size_t panel_rows(const fvlm_matrix *w)
{
    (void)w;
    return FVLM_INT8_PANEL;
}

static void prepare_task(void *argument, size_t index, int thread)
{
    const struct job *job = argument;
    size_t row = index * PREPARE_ROWS;
    (void)thread;
    job->kernels->prepare(job->x + (job->first + row) * job->x_stride, job->x_stride, row,
                          least(PREPARE_ROWS, job->rows.rows - row), &job->rows);
}

static void panel_task(void *argument, size_t index, int thread)
{
    const struct job *job = argument;
    const fvlm_linear_part *part = find_part(job, panel_rows, &index);
    size_t column = index * FVLM_INT8_PANEL, columns = least(FVLM_INT8_PANEL, part->w->rows - column);
    char *panel = (char *)fvlm_pool_scratch(job->pool, thread) + X_BYTES;
    fvlm_epilogue epilogue = {0};
    if (part->epilogue) {
        epilogue = *part->epilogue;
        epilogue.bias = epilogue.bias ? epilogue.bias + column : NULL;
        epilogue.scale = epilogue.scale ? epilogue.scale + column : NULL;
        if (epilogue.residual)
            epilogue.residual += job->first * epilogue.residual_stride + column;
    }
    job->kernels->unpack(part->w, column, columns, panel);
    job->kernels->block(&(fvlm_int8_block){.panel = panel,
                                           .columns = columns,
                                           .x = &job->rows,
                                           .count = job->rows.rows,
                                           .y = part->y + job->first * part->y_stride + column,
                                           .y_stride = part->y_stride,
                                           .epilogue = &epilogue});
}

static void run_many(struct job *job)
{
    size_t cols = job->parts[0].w->cols, groups = fvlm_int8_count(cols);
    size_t most = X_BYTES / row_bytes(cols), tasks = task_count(job, panel_rows);
    size_t runs = divide_up(job->m, most), rows = divide_up(job->m, runs);
    for (job->first = 0; job->first < job->m; job->first += rows) {
        fvlm_int8_rows *to = &job->rows;
        *to = (fvlm_int8_rows){least(rows, job->m - job->first), cols, fvlm_pool_scratch(job->pool, 0),
                               fvlm_int8_stride(cols),           NULL, NULL};
        to->scale = (float *)(void *)(to->data + to->rows * to->stride);
        to->sum = (int32_t *)(void *)(to->scale + groups * to->rows);
        fvlm_pool_run(job->pool, divide_up(to->rows, PREPARE_ROWS), prepare_task, job);
        fvlm_pool_run(job->pool, tasks, panel_task, job);
    }
}

/* Whole cache lines of y for a thread. */
static size_t strip_rows(const fvlm_matrix *w)
{
    size_t bytes = fvlm_matrix_bytes(w) / w->rows + 1, line = FVLM_ALIGN / sizeof(float);
    return divide_up(TASK_BYTES / bytes + 1, line) * line;
}

static void finish(const fvlm_linear_part *part, size_t row, size_t first, size_t count, const float *sums)
{
    const fvlm_epilogue none = {0}, *epilogue = part->epilogue ? part->epilogue : &none;
    float *y = part->y + row * part->y_stride;
    for (size_t i = 0; i < count; i++) {
        size_t column = first + i;
        float value = sums[i] + (epilogue->bias ? epilogue->bias[column] : 0);
        value = fvlm_activate_one(epilogue->activation, value);
        if (epilogue->scale)
            value *= epilogue->scale[column];
        if (epilogue->residual)
            value += epilogue->residual[row * epilogue->residual_stride + column];
        y[column] = value;
    }
}

static void strip_task(void *argument, size_t index, int thread)
{
    const struct job *job = argument;
    const fvlm_linear_part *part = find_part(job, strip_rows, &index);
    size_t rows = strip_rows(part->w), end = least((index + 1) * rows, part->w->rows);
    float sums[STRIP];
    (void)thread;
    for (size_t row = index * rows; row < end; row += STRIP) {
        size_t count = least(STRIP, end - row);
        for (size_t i = 0; i < job->m; i++) {
            job->kernels->multiply(part->w, row, count, &job->vectors[i], sums);
            finish(part, i, row, count, sums);
        }
    }
}

/* Parts whose integers meet x in the same order. */
static bool same_order(const fvlm_matrix *a, const fvlm_matrix *b)
{
    return a->type == b->type && fvlm_int8_step(a) == fvlm_int8_step(b);
}

static void run_few(struct job *job)
{
    const fvlm_linear_part *parts = job->parts;
    size_t left = job->count, cols = parts[0].w->cols;
    while (left > 0) {
        for (job->count = 1; job->count < left && same_order(parts[0].w, parts[job->count].w);)
            job->count++;
        job->parts = parts;
        for (size_t i = 0; i < job->m; i++) {
            fvlm_int8_vector *to = &job->vectors[i];
            to->data = (int8_t *)fvlm_pool_scratch(job->pool, 0) + i * row_bytes(cols);
            to->scale = (float *)(void *)(to->data + fvlm_int8_stride(cols));
            to->sum = to->scale + cols / fvlm_int8_step(parts[0].w);
            job->kernels->arrange(parts[0].w, job->x + i * job->x_stride, to);
        }
        fvlm_pool_run(job->pool, task_count(job, strip_rows), strip_task, job);
        parts += job->count;
        left -= job->count;
    }
}

void fvlm_int8_linear(fvlm_pool *pool, const fvlm_linear_part *parts, size_t count, const float *x, size_t m,
                      size_t x_stride)
{
    struct job job = {.kernels = fvlm_int8_kernels_select(),
                      .pool = pool,
                      .parts = parts,
                      .count = count,
                      .x = x,
                      .m = m,
                      .x_stride = x_stride};
    if (m <= FVLM_GEMV_ROWS)
        run_few(&job);
    else
        run_many(&job);
}
