/* Linear layers with rounded inputs: choice of the instruction set, and how the work falls on threads.
 *
 * Many rows of x: all threads round x into one scratch, then a task is a panel of W, unpacked into its thread's
 * scratch, and all rows of x. Few rows: the caller rounds them, and tasks are ranges of W's rows. Layers over the same
 * x are one run.
 */
#include "kernels/rounded.h"

#include <string.h>

#include "base/cpu.h"
#include "base/memory.h"
#include "kernels/gemm_block.h"
#include "kernels/int8.h"
#include "kernels/packed_block.h"

/* So many that a panel of bf16 and some rows of x fit a thread's scratch: the end of it holds the panel; the rest of
 * thread 0's is for x. */
#define MOST_COLS 30000
/* Rows of x that a task rounds. */
#define PREPARE_ROWS 16

const fvlm_int8_kernels *fvlm_int8_kernels_select(void)
{
    unsigned flags = fvlm_cpu_flags();
    (void)flags;
#if defined(FVLM_AMX)
    if (flags & FVLM_CPU_AMX)
        return &fvlm_int8_kernels_amx;
#endif
#if defined(__x86_64__)
    if (flags & FVLM_CPU_AVX512_VNNI)
        return &fvlm_int8_kernels_avx512vnni;
    if (flags & FVLM_CPU_AVX2)
        return &fvlm_int8_kernels_avx2;
#elif defined(__aarch64__)
    if (flags & FVLM_CPU_I8MM)
        return &fvlm_int8_kernels_i8mm;
    if (flags & FVLM_CPU_DOTPROD)
        return &fvlm_int8_kernels_dotprod;
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

/* Whether a body for this instruction set exists, or nothing has one: plain C beside vectors would be slower than not
 * rounding. */
static bool is_fast(fvlm_dtype inputs)
{
    bool plain = fvlm_gemm_kernels_select() == &fvlm_gemm_kernels_reference;
    return plain || (inputs == FVLM_BF16 ? fvlm_packed_kernels_select() != &fvlm_packed_kernels_reference
                                         : fvlm_int8_kernels_select() != &fvlm_int8_kernels_reference);
}

/* Bytes of a row of x. For integers: with scales and sums for panels, or for products with up to 32 columns a scale. */
static size_t row_bytes(fvlm_dtype inputs, size_t cols)
{
    if (inputs == FVLM_BF16)
        return fvlm_packed_stride(FVLM_PACKED_BF16, cols);
    return fvlm_int8_stride(cols) + fvlm_int8_count(cols) * (FVLM_INT8_COLS / 32) * 2 * sizeof(float);
}

static size_t panel_bytes(fvlm_dtype inputs, size_t cols)
{
    size_t bytes =
        inputs == FVLM_BF16 ? divide_up(cols, 2) * 4 * FVLM_PACKED_PANEL : fvlm_int8_count(cols) * FVLM_INT8_PART;
    return divide_up(bytes, FVLM_ALIGN) * FVLM_ALIGN;
}

bool fvlm_rounded_fits(const fvlm_matrix *w, size_t m)
{
    if (w->inputs == FVLM_F32 || w->cols == 0 || w->cols > MOST_COLS || !is_fast(w->inputs))
        return false;
    size_t step = fvlm_int8_step(w);
    return m > FVLM_GEMV_ROWS || (w->inputs == FVLM_I8 && step && FVLM_INT8_COLS % step == 0);
}

bool fvlm_rounded_fits_backward(fvlm_dtype inputs)
{
    return inputs == FVLM_BF16 && is_fast(inputs);
}

struct job {
    fvlm_pool *pool;
    const fvlm_linear_part *parts;
    size_t count;
    fvlm_dtype inputs;
    const float *x; /* [m, cols] */
    size_t m, x_stride;
    size_t first, rows; /* many: the rows of x that are in scratch, in one of two forms */
    fvlm_packed_rows halves;
    fvlm_int8_rows integers;
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
    size_t row = index * PREPARE_ROWS, count = least(PREPARE_ROWS, job->rows - row);
    const float *x = job->x + (job->first + row) * job->x_stride;
    (void)thread;
    if (job->inputs == FVLM_BF16)
        fvlm_packed_kernels_select()->prepare(FVLM_PACKED_BF16, x, job->x_stride, job->parts[0].w->cols, row, count,
                                              &job->halves);
    else
        fvlm_int8_kernels_select()->prepare(x, job->x_stride, row, count, &job->integers);
}

/* A panel of W in bf16, as of fvlm_packed: some columns of its rows at a time. */
static void unpack_bf16(const fvlm_matrix *w, size_t row, size_t rows, char *panel)
{
    enum { COLS = 256, VECTOR = 32 }; /* columns: at a time, and of the widest vector */
    const fvlm_packed_kernels *kernels = fvlm_packed_kernels_select();
    _Alignas(FVLM_ALIGN) uint8_t units[FVLM_PACKED_PANEL][COLS * 2];
    float values[COLS];
    bool direct = w->type == FVLM_BF16 && rows == FVLM_PACKED_PANEL && w->cols % VECTOR == 0;
    for (size_t k = 0; k < w->cols; k += COLS, panel += COLS * 2 * FVLM_PACKED_PANEL) {
        size_t cols = least(COLS, w->cols - k), pairs = divide_up(cols, 2);
        if (direct) {
            kernels->interleave((const uint8_t *)w->data + (row * w->cols + k) * 2, w->cols * 2, pairs, panel);
            continue;
        }
        memset(units, 0, sizeof units);
        for (size_t i = 0; i < rows; i++) {
            const float *own = fvlm_matrix_floats(w, row + i, k, cols, values);
            kernels->round(FVLM_PACKED_BF16, own, cols, units[i], NULL, NULL, 0);
        }
        kernels->interleave(units[0], sizeof units[0], pairs, panel);
    }
}

static void panel_task(void *argument, size_t index, int thread)
{
    const struct job *job = argument;
    const fvlm_linear_part *part = find_part(job, panel_rows, &index);
    const fvlm_matrix *w = part->w;
    size_t column = index * FVLM_INT8_PANEL, columns = least(FVLM_INT8_PANEL, w->rows - column);
    char *panel = (char *)fvlm_pool_scratch(job->pool, thread) + FVLM_SCRATCH_BYTES - panel_bytes(job->inputs, w->cols);
    float *y = part->y + job->first * part->y_stride + column;
    fvlm_epilogue epilogue = {0};
    if (part->epilogue) {
        epilogue = *part->epilogue;
        epilogue.bias = epilogue.bias ? epilogue.bias + column : NULL;
        epilogue.scale = epilogue.scale ? epilogue.scale + column : NULL;
        if (epilogue.residual)
            epilogue.residual += job->first * epilogue.residual_stride + column;
    }
    if (job->inputs == FVLM_BF16) {
        unpack_bf16(w, column, columns, panel);
        fvlm_packed packed = {.type = FVLM_PACKED_BF16, .rows = columns, .cols = w->cols, .data = panel};
        fvlm_packed_kernels_select()->block(&(fvlm_packed_block){.w = &packed,
                                                                 .count = columns,
                                                                 .slices = divide_up(w->cols, FVLM_PACKED_SLICE),
                                                                 .x = &job->halves,
                                                                 .rows = job->rows,
                                                                 .y = y,
                                                                 .y_stride = part->y_stride,
                                                                 .epilogue = &epilogue});
    } else {
        fvlm_int8_kernels_select()->unpack(w, column, columns, panel);
        fvlm_int8_kernels_select()->block(&(fvlm_int8_block){.panel = panel,
                                                             .columns = columns,
                                                             .x = &job->integers,
                                                             .count = job->rows,
                                                             .y = y,
                                                             .y_stride = part->y_stride,
                                                             .epilogue = &epilogue});
    }
}

/* Where x's rows are in thread 0's scratch. */
static void place_rows(struct job *job, size_t cols)
{
    void *data = fvlm_pool_scratch(job->pool, 0);
    if (job->inputs == FVLM_BF16) {
        job->halves =
            (fvlm_packed_rows){.data = data, .stride = fvlm_packed_stride(FVLM_PACKED_BF16, cols), .rows = job->rows};
        return;
    }
    fvlm_int8_rows *to = &job->integers;
    *to = (fvlm_int8_rows){.rows = job->rows, .cols = cols, .data = data, .stride = fvlm_int8_stride(cols)};
    to->scale = (float *)(void *)(to->data + to->rows * to->stride);
    to->sum = (int32_t *)(void *)(to->scale + fvlm_int8_count(cols) * to->rows);
}

static void run_many(struct job *job)
{
    size_t cols = job->parts[0].w->cols;
    size_t most = (FVLM_SCRATCH_BYTES - panel_bytes(job->inputs, cols)) / row_bytes(job->inputs, cols);
    size_t runs = divide_up(job->m, most), rows = divide_up(job->m, runs);
    for (job->first = 0; job->first < job->m; job->first += rows) {
        job->rows = least(rows, job->m - job->first);
        place_rows(job, cols);
        fvlm_pool_run(job->pool, divide_up(job->rows, PREPARE_ROWS), prepare_task, job);
        fvlm_pool_run(job->pool, task_count(job, panel_rows), panel_task, job);
    }
}

static void strip_task(void *argument, size_t index, int thread)
{
    const struct job *job = argument;
    const fvlm_linear_part *part = find_part(job, fvlm_gemv_rows, &index);
    size_t row = index * fvlm_gemv_rows(part->w), count = least(fvlm_gemv_rows(part->w), part->w->rows - row);
    (void)thread;
    for (size_t i = 0; i < job->m; i++)
        fvlm_int8_kernels_select()->multiply(part->w, row, count, &job->vectors[i], part->epilogue, i,
                                             part->y + i * part->y_stride);
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
            size_t steps = divide_up(cols / fvlm_int8_step(parts[0].w), FVLM_ALIGN / sizeof(float)) * FVLM_ALIGN;
            to->data = (int8_t *)fvlm_pool_scratch(job->pool, 0) +
                       i * (fvlm_int8_stride(cols) + 2 * steps + fvlm_int8_starts(cols) * sizeof *to->start);
            to->scale = (float *)(void *)(to->data + fvlm_int8_stride(cols));
            to->sum = (float *)(void *)((char *)to->scale + steps);
            to->start = (int32_t *)(void *)((char *)to->sum + steps);
            fvlm_int8_kernels_select()->arrange(parts[0].w, job->x + i * job->x_stride, to);
        }
        fvlm_pool_run_stretches(job->pool, task_count(job, fvlm_gemv_rows), FVLM_GEMV_STRETCH, strip_task, job);
        parts += job->count;
        left -= job->count;
    }
}

void fvlm_rounded_linear(fvlm_pool *pool, const fvlm_linear_part *parts, size_t count, const float *x, size_t m,
                         size_t x_stride)
{
    struct job job = {.pool = pool,
                      .parts = parts,
                      .count = count,
                      .inputs = parts[0].w->inputs,
                      .x = x,
                      .m = m,
                      .x_stride = x_stride};
    if (m <= FVLM_GEMV_ROWS)
        run_few(&job);
    else
        run_many(&job);
}
