/* Linear layers: choice of the instruction set, blocking, and how the work falls on threads.
 *
 * Many rows of x: y is cut into tasks of `rows` x `columns`. A task walks over k in blocks; for each it unpacks
 * W[columns, k block] into its thread's scratch, where it stays in the level 2 cache while the task's rows of x pass
 * over it. Sums between blocks of k wait in scratch too, since y may be the residual of its own epilogue.
 * Few rows: tasks are ranges of W's rows.
 */
#include "kernels/gemm.h"

#include <stdbool.h>
#include <string.h>

#include "base/cpu.h"
#include "base/memory.h"
#include "kernels/gemm_block.h"
#include "kernels/rounded.h"

/* Long enough that loading and storing sums between blocks of k is lost in the noise (2 of 1024 operations), short
 * enough that a panel of the widest instruction set, 128 KB, fits any level 2 cache. A multiple of any MLX group. */
#define K_BLOCK 1024
/* Rows of x in a task: unpacking W once more for each costs about 1/16 of a multiply-add a row of x and weight, so that
 * at 2000 rows it does not show, while an input of 65536 rows still gives every thread several tasks. */
#define ROWS 2048
/* Enough tasks a thread that a late one costs little. */
#define TASKS_PER_THREAD 4

const fvlm_gemm_kernels *fvlm_gemm_kernels_select(void)
{
    unsigned flags = fvlm_cpu_flags();
    (void)flags;
#if defined(__x86_64__)
    if (flags & FVLM_CPU_AVX512)
        return &fvlm_gemm_kernels_avx512;
    if (flags & FVLM_CPU_AVX2)
        return &fvlm_gemm_kernels_avx2;
#elif defined(__aarch64__)
    if (flags & FVLM_CPU_NEON)
        return &fvlm_gemm_kernels_neon;
#elif defined(__wasm_simd128__)
    if (flags & FVLM_CPU_WASM_SIMD)
        return &fvlm_gemm_kernels_wasm;
#endif
    return &fvlm_gemm_kernels_reference;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t round_up(size_t x, size_t step)
{
    return (x + step - 1) / step * step;
}

size_t fvlm_gemm_panels_size(const fvlm_gemm_kernels *kernels, size_t k, size_t n)
{
    return round_up(n, kernels->panel) * k;
}

void fvlm_gemm_panels_from_rows(const fvlm_gemm_kernels *kernels, const float *b, size_t b_stride, size_t n, size_t k,
                                float *panels)
{
    /* A matrix whose rows are b_stride long, of which the first k columns are read. */
    fvlm_matrix matrix = {.type = FVLM_F32, .rows = n, .cols = b_stride, .data = b};
    for (size_t row = 0; row < n; row += kernels->panel)
        kernels->unpack(&matrix, row, least(kernels->panel, n - row), 0, k, panels + row * k);
}

void fvlm_gemm_panels_from_columns(const fvlm_gemm_kernels *kernels, const float *b, size_t b_stride, size_t k,
                                   size_t n, float *panels)
{
    for (size_t column = 0; column < n; column += kernels->panel) {
        size_t width = least(kernels->panel, n - column);
        float *panel = panels + column * k;
        for (size_t i = 0; i < k; i++) {
            memcpy(panel + i * kernels->panel, b + i * b_stride + column, width * sizeof *b);
            memset(panel + i * kernels->panel + width, 0, (kernels->panel - width) * sizeof *b);
        }
    }
}

struct gemm {
    const fvlm_gemm_kernels *kernels;
    fvlm_pool *pool;
    const fvlm_matrix *w;
    const float *x; /* [m, w->cols] */
    size_t m, x_stride;
    float *y; /* [m, w->rows] */
    size_t y_stride;
    const fvlm_epilogue *epilogue;
    size_t k_block;
    size_t rows, columns; /* of y in a task */
    size_t columns_tasks; /* tasks side by side */
};

static const float *shifted(const float *pointer, size_t by)
{
    return pointer ? pointer + by : NULL;
}

static void gemm_task(void *argument, size_t index, int thread)
{
    const struct gemm *gemm = argument;
    const fvlm_gemm_kernels *kernels = gemm->kernels;
    size_t row = index / gemm->columns_tasks * gemm->rows, column = index % gemm->columns_tasks * gemm->columns;
    size_t m = least(gemm->rows, gemm->m - row), n = least(gemm->columns, gemm->w->rows - column);
    size_t depth = gemm->w->cols;
    float *panels = fvlm_pool_scratch(gemm->pool, thread);
    float *sums = panels + gemm->columns * gemm->k_block;

    fvlm_epilogue epilogue = {0};
    if (gemm->epilogue) {
        epilogue = *gemm->epilogue;
        epilogue.bias = shifted(epilogue.bias, column);
        epilogue.scale = shifted(epilogue.scale, column);
        epilogue.residual = shifted(epilogue.residual, row * epilogue.residual_stride + column);
    }
    for (size_t k = 0; k == 0 || k < depth; k += gemm->k_block) {
        size_t count = least(gemm->k_block, depth - k);
        for (size_t i = 0; i < n; i += kernels->panel)
            kernels->unpack(gemm->w, column + i, least(kernels->panel, n - i), k, count, panels + i * count);
        bool last = k + count == depth;
        kernels->block(&(fvlm_gemm_block){
            .m = m,
            .n = n,
            .k = count,
            .panels = panels,
            .x = gemm->x + row * gemm->x_stride + k,
            .x_stride = gemm->x_stride,
            .sum = k > 0 ? sums : NULL,
            .sum_stride = gemm->columns,
            .y = last ? gemm->y + row * gemm->y_stride + column : sums,
            .y_stride = last ? gemm->y_stride : gemm->columns,
            .epilogue = last && gemm->epilogue ? &epilogue : NULL,
        });
    }
}

/* Columns first: as many panels as half of the level 2 cache holds, evened out over the width of y. Then, where that
 * gives too few tasks, narrower ones, which cost nothing, and then lower ones, which unpack W again. */
static size_t plan_tasks(struct gemm *gemm)
{
    size_t panel = gemm->kernels->panel, tile = gemm->kernels->tile, n = gemm->w->rows;
    size_t wanted = (size_t)fvlm_pool_threads(gemm->pool) * TASKS_PER_THREAD;
    size_t depth = gemm->w->cols;
    gemm->k_block = depth == 0 ? 1 : least(depth, K_BLOCK);

    size_t cache = least(fvlm_cpu_cache_bytes(2) / 2, FVLM_SCRATCH_BYTES / 4);
    size_t columns = cache / (gemm->k_block * sizeof(float)) / panel * panel;
    columns = columns < panel ? panel : least(columns, round_up(n, panel));
    columns = round_up((n + (n + columns - 1) / columns - 1) / ((n + columns - 1) / columns), panel);
    size_t rows = ROWS;
    if (depth > gemm->k_block)
        rows = least(rows, (FVLM_SCRATCH_BYTES / sizeof(float) - columns * gemm->k_block) / columns);
    rows = least(rows / tile * tile, round_up(gemm->m, tile));

    size_t down = (gemm->m + rows - 1) / rows, across = (n + columns - 1) / columns;
    while (down * across < wanted && columns > panel) {
        columns = round_up(columns / 2, panel);
        across = (n + columns - 1) / columns;
    }
    while (down * across < wanted && rows > 8 * tile) {
        rows = round_up(rows / 2, tile);
        down = (gemm->m + rows - 1) / rows;
    }
    gemm->rows = rows;
    gemm->columns = columns;
    gemm->columns_tasks = across;
    return down * across;
}

size_t fvlm_gemv_rows(const fvlm_matrix *w)
{
    enum { BYTES = 16 << 10, STEP = 8 };
    size_t row_bytes = fvlm_matrix_bytes(w) / w->rows + 1;
    return least(FVLM_GEMV_TASK, round_up(BYTES / row_bytes + 1, STEP));
}

struct gemv {
    const fvlm_gemm_kernels *kernels;
    fvlm_gemv call;
    size_t rows; /* of W in a task */
};

static void gemv_task(void *argument, size_t index, int thread)
{
    const struct gemv *gemv = argument;
    size_t row = index * gemv->rows;
    (void)thread;
    gemv->kernels->gemv(&gemv->call, row, least(gemv->rows, gemv->call.w->rows - row));
}

static void linear_float(fvlm_pool *pool, const fvlm_matrix *w, const float *x, size_t m, size_t x_stride, float *y,
                         size_t y_stride, const fvlm_epilogue *epilogue)
{
    const fvlm_gemm_kernels *kernels = fvlm_gemm_kernels_select();
    if (m <= FVLM_GEMV_ROWS) {
        struct gemv gemv = {kernels, {w, x, m, x_stride, y, y_stride, epilogue}, fvlm_gemv_rows(w)};
        fvlm_pool_run_stretches(pool, (w->rows + gemv.rows - 1) / gemv.rows, FVLM_GEMV_STRETCH, gemv_task, &gemv);
        return;
    }
    struct gemm gemm = {.kernels = kernels,
                        .pool = pool,
                        .w = w,
                        .x = x,
                        .m = m,
                        .x_stride = x_stride,
                        .y = y,
                        .y_stride = y_stride,
                        .epilogue = epilogue};
    size_t tasks = plan_tasks(&gemm);
    fvlm_pool_run(pool, tasks, gemm_task, &gemm);
}

void fvlm_linear_parts(fvlm_pool *pool, const fvlm_linear_part *parts, size_t count, const float *x, size_t m,
                       size_t x_stride)
{
    bool together = m > 0 && count > 0;
    for (size_t i = 0; i < count; i++)
        together = together && parts[i].w->inputs == parts[0].w->inputs && fvlm_rounded_fits(parts[i].w, m);
    if (together)
        fvlm_rounded_linear(pool, parts, count, x, m, x_stride);
    else
        for (size_t i = 0; i < count; i++)
            fvlm_linear(pool, parts[i].w, x, m, x_stride, parts[i].y, parts[i].y_stride, parts[i].epilogue);
}

void fvlm_linear(fvlm_pool *pool, const fvlm_matrix *w, const float *x, size_t m, size_t x_stride, float *y,
                 size_t y_stride, const fvlm_epilogue *epilogue)
{
    if (m == 0 || w->rows == 0)
        return;
    if (fvlm_rounded_fits(w, m))
        fvlm_rounded_linear(pool, &(fvlm_linear_part){w, y, y_stride, epilogue}, 1, x, m, x_stride);
    else
        linear_float(pool, w, x, m, x_stride, y, y_stride, epilogue);
}
