/* Linear layers in the vector vocabulary.
 *
 * GEMM: `unpack` turns the rows of W that make a panel into [k, PANEL], a square of VF_LANES x VF_LANES at a time,
 * transposed in registers; `block` runs a tile of TILE rows x PANEL columns of y, all of it in registers, along k: two
 * loads of the panel and a broadcast for each row of x give 2 TILE multiply-adds.
 * GEMV: each output has one register of partial sums, lane by lane along k, for any number of rows of x; several rows
 * of W at once keep enough of them in flight, and memory busy.
 */
#include <stdbool.h>

#include "kernels/gemm_block.h"
#include "kernels/vector/finish.h"

/* A tile's sums take 2 registers a row; 2 hold a row of the panel and at least 1 an element of x. */
#if VF_REGISTERS == 32
#define TILE 14
#else
#define TILE 6
#endif
#define PANEL (2 * VF_LANES)

/* A row of W and where its groups' scales are. */
struct weights {
    const uint8_t *data;
    const uint8_t *scales, *biases;
};

/* How many elements of W a step takes for each type. */
FVLM_INLINE struct weights weights_row(const fvlm_matrix *w, fvlm_dtype type, size_t row)
{
    struct weights weights = {0};
    if (type == FVLM_MLX4 || type == FVLM_MLX8) {
        size_t scale_bytes = fvlm_dtype_bytes(w->scale_type) * (w->cols / w->group);
        weights.data = (const uint8_t *)w->data + row * (type == FVLM_MLX4 ? w->cols / 2 : w->cols);
        weights.scales = (const uint8_t *)w->scales + row * scale_bytes;
        weights.biases = (const uint8_t *)w->biases + row * scale_bytes;
    } else {
        weights.data = (const uint8_t *)w->data + row * w->cols * (type == FVLM_F32 ? 4 : 2);
    }
    return weights;
}

static float scale_at(fvlm_dtype type, const uint8_t *scales, size_t index)
{
    uint16_t half;
    float single;
    if (type == FVLM_F32) {
        memcpy(&single, scales + index * sizeof single, sizeof single);
        return single;
    }
    memcpy(&half, scales + index * sizeof half, sizeof half);
    return type == FVLM_BF16 ? fvlm_float_from_bf16(half) : fvlm_float_from_f16(half);
}

/* The VF_LANES elements from column `col` on; of the grouped types they are q, to be scaled by the caller. */
FVLM_INLINE vf weights_load(fvlm_dtype type, struct weights weights, size_t col)
{
    switch (type) {
    case FVLM_F32:
        return vf_load((const float *)(const void *)weights.data + col);
    case FVLM_BF16:
        return vf_load_bf16((const uint16_t *)(const void *)weights.data + col);
    case FVLM_F16:
        return vf_load_f16((const uint16_t *)(const void *)weights.data + col);
    case FVLM_MLX4:
        return vf_load_u4(weights.data + col / 2);
    default:
        return vf_load_u8(weights.data + col);
    }
}

FVLM_INLINE vf weights_load_n(fvlm_dtype type, struct weights weights, size_t col, size_t n)
{
    switch (type) {
    case FVLM_BF16:
        return vf_load_bf16_n((const uint16_t *)(const void *)weights.data + col, n);
    case FVLM_F16:
        return vf_load_f16_n((const uint16_t *)(const void *)weights.data + col, n);
    default:
        return vf_load_n((const float *)(const void *)weights.data + col, n);
    }
}

/* Elements of a grouped matrix from their q, rounded as fvlm_grouped_value says. */
FVLM_INLINE vf grouped_value(fvlm_dtype scale_type, vf q, vf scale, vf bias)
{
    vf product = vf_mul(q, scale);
    if (scale_type == FVLM_F16)
        return vf_round_f16(vf_add(vf_round_f16(product), bias));
    if (scale_type == FVLM_BF16)
        return vf_round_bf16(vf_add(vf_round_bf16(product), bias));
    return vf_add(product, bias);
}

/* Half of a panel, [cols, PANEL] at `panel`, from VF_LANES rows of W. Where there are fewer, the last one is repeated.
 */
FVLM_INLINE void unpack_half(fvlm_dtype type, const fvlm_matrix *w, size_t row, size_t rows, size_t col, size_t cols,
                             float *panel)
{
    bool grouped = type == FVLM_MLX4 || type == FVLM_MLX8;
    struct weights weights[VF_LANES];
    for (size_t i = 0; i < VF_LANES; i++)
        weights[i] = weights_row(w, type, row + (i < rows ? i : rows - 1));
    size_t done = 0;
    for (; done + VF_LANES <= cols; done += VF_LANES) {
        vf square[VF_LANES];
        FVLM_UNROLL
        for (int i = 0; i < VF_LANES; i++) {
            square[i] = weights_load(type, weights[i], col + done);
            if (grouped) {
                size_t group = (col + done) / w->group;
                square[i] =
                    grouped_value(w->scale_type, square[i], vf_set(scale_at(w->scale_type, weights[i].scales, group)),
                                  vf_set(scale_at(w->scale_type, weights[i].biases, group)));
            }
        }
        vf_transpose(square);
        FVLM_UNROLL
        for (int i = 0; i < VF_LANES; i++)
            vf_store(panel + (done + (size_t)i) * PANEL, square[i]);
    }
    if (grouped || done == cols)
        return;
    vf square[VF_LANES];
    FVLM_UNROLL
    for (int i = 0; i < VF_LANES; i++)
        square[i] = weights_load_n(type, weights[i], col + done, cols - done);
    vf_transpose(square);
    FVLM_UNROLL
    for (int i = 0; i < VF_LANES; i++)
        if (done + (size_t)i < cols)
            vf_store(panel + (done + (size_t)i) * PANEL, square[i]);
}

/* The same for GGUF's blocks, whose elements are taken 32 at a time. */
static void unpack_half_blocks(const fvlm_matrix *w, size_t row, size_t rows, size_t col, size_t cols, float *panel)
{
    float values[VF_LANES][32];
    for (size_t done = 0; done < cols; done += 32) {
        for (size_t i = 0; i < VF_LANES; i++)
            fvlm_matrix_values(w, row + (i < rows ? i : rows - 1), col + done, 32, values[i]);
        for (size_t k = 0; k < 32; k += VF_LANES) {
            vf square[VF_LANES];
            FVLM_UNROLL
            for (int i = 0; i < VF_LANES; i++)
                square[i] = vf_load(values[i] + k);
            vf_transpose(square);
            FVLM_UNROLL
            for (int i = 0; i < VF_LANES; i++)
                vf_store(panel + (done + k + (size_t)i) * PANEL, square[i]);
        }
    }
}

FVLM_INLINE void unpack_type(fvlm_dtype type, const fvlm_matrix *w, size_t row, size_t rows, size_t col, size_t cols,
                             float *panel)
{
    unpack_half(type, w, row, rows, col, cols, panel);
    if (rows > VF_LANES)
        unpack_half(type, w, row + VF_LANES, rows - VF_LANES, col, cols, panel + VF_LANES);
}

static void unpack(const fvlm_matrix *w, size_t row, size_t rows, size_t col, size_t cols, float *panel)
{
    switch (w->type) {
    case FVLM_BF16:
        unpack_type(FVLM_BF16, w, row, rows, col, cols, panel);
        break;
    case FVLM_F16:
        unpack_type(FVLM_F16, w, row, rows, col, cols, panel);
        break;
    case FVLM_MLX4:
        unpack_type(FVLM_MLX4, w, row, rows, col, cols, panel);
        break;
    case FVLM_MLX8:
        unpack_type(FVLM_MLX8, w, row, rows, col, cols, panel);
        break;
    case FVLM_Q8_0:
    case FVLM_Q4_0:
    case FVLM_Q4_K:
        unpack_half_blocks(w, row, rows, col, cols, panel);
        if (rows > VF_LANES)
            unpack_half_blocks(w, row + VF_LANES, rows - VF_LANES, col, cols, panel + VF_LANES);
        break;
    default:
        unpack_type(FVLM_F32, w, row, rows, col, cols, panel);
    }
}

/* y[rows, PANEL] = sum[rows, PANEL] + x[rows, k] panel[k, PANEL]; sum NULL: 0. */
FVLM_INLINE void multiply(int rows, size_t k, const float *panel, const float *x, size_t x_stride, const float *sum,
                          size_t sum_stride, float *y, size_t y_stride)
{
    vf low[TILE], high[TILE];
    FVLM_UNROLL
    for (int r = 0; r < rows; r++) {
        low[r] = sum ? vf_load(sum + (size_t)r * sum_stride) : vf_zero();
        high[r] = sum ? vf_load(sum + (size_t)r * sum_stride + VF_LANES) : vf_zero();
    }
    /* Three pointers to rows five apart: with stride times 1, 2, 3 and 4 they address a tile from six registers. */
    const float *base[3] = {x, x + 5 * x_stride, x + 10 * x_stride};
    for (size_t i = 0; i < k; i++) {
        vf b0 = vf_load(panel), b1 = vf_load(panel + VF_LANES);
        panel += PANEL;
        FVLM_UNROLL
        for (int r = 0; r < rows; r++) {
            vf a = vf_set(base[r / 5][(size_t)(r % 5) * x_stride]);
            low[r] = vf_fma(a, b0, low[r]);
            high[r] = vf_fma(a, b1, high[r]);
        }
        base[0]++;
        base[1]++;
        base[2]++;
    }
    FVLM_UNROLL
    for (int r = 0; r < rows; r++) {
        vf_store(y + (size_t)r * y_stride, low[r]);
        vf_store(y + (size_t)r * y_stride + VF_LANES, high[r]);
    }
}

typedef void (*multiply_fn)(size_t k, const float *panel, const float *x, size_t x_stride, const float *sum,
                            size_t sum_stride, float *y, size_t y_stride);

#define MULTIPLY(rows)                                                                                                 \
    static void multiply_##rows(size_t k, const float *panel, const float *x, size_t x_stride, const float *sum,       \
                                size_t sum_stride, float *y, size_t y_stride)                                          \
    {                                                                                                                  \
        multiply(rows, k, panel, x, x_stride, sum, sum_stride, y, y_stride);                                           \
    }
MULTIPLY(1)
MULTIPLY(2)
MULTIPLY(3)
MULTIPLY(4)
MULTIPLY(5)
MULTIPLY(6)
#if TILE == 14
MULTIPLY(7)
MULTIPLY(8)
MULTIPLY(9)
MULTIPLY(10)
MULTIPLY(11)
MULTIPLY(12)
MULTIPLY(13)
MULTIPLY(14)
#endif

/* By the number of rows, less 1. */
static const multiply_fn multiply_rows[TILE] = {
    multiply_1, multiply_2, multiply_3, multiply_4,  multiply_5,  multiply_6,
#if TILE == 14
    multiply_7, multiply_8, multiply_9, multiply_10, multiply_11, multiply_12, multiply_13, multiply_14,
#endif
};

/* Tiles outside, panels inside: a tile of x comes from memory once and serves all panels, which wait in the level 2
 * cache. */
static void block(const fvlm_gemm_block *call)
{
    float tile[TILE * PANEL];
    for (size_t row = 0; row < call->m; row += TILE) {
        size_t rows = call->m - row < TILE ? call->m - row : TILE;
        const float *x = call->x + row * call->x_stride;
        float *y = call->y + row * call->y_stride;
        for (size_t column = 0; column < call->n; column += PANEL) {
            size_t columns = call->n - column < PANEL ? call->n - column : PANEL;
            const float *panel = call->panels + column * call->k;
            const float *sum = call->sum ? call->sum + row * call->sum_stride + column : NULL;
            size_t sum_stride = call->sum_stride;
            if (columns == PANEL && !call->epilogue) {
                multiply_rows[rows - 1](call->k, panel, x, call->x_stride, sum, sum_stride, y + column, call->y_stride);
                continue;
            }
            if (sum && columns < PANEL) {
                for (size_t r = 0; r < rows; r++)
                    memcpy(tile + r * PANEL, sum + r * sum_stride, columns * sizeof *tile);
                sum = tile;
                sum_stride = PANEL;
            }
            multiply_rows[rows - 1](call->k, panel, x, call->x_stride, sum, sum_stride, tile, PANEL);
            finish(call->epilogue, tile, PANEL, row, rows, column, columns, y, call->y_stride);
        }
    }
}

/* Sums of `rows` rows of W with `m` rows of x, both small constants: sums[m, GEMV_COLUMNS]. */
#define GEMV_COLUMNS 64

FVLM_INLINE void dot_rows(fvlm_dtype type, int rows, int m, const fvlm_gemv *call, size_t row, size_t x_row,
                          float *sums)
{
    const fvlm_matrix *w = call->w;
    bool grouped = type == FVLM_MLX4 || type == FVLM_MLX8;
    size_t depth = w->cols, step = grouped ? w->group : depth / VF_LANES * VF_LANES;
    const float *x = call->x + x_row * call->x_stride;
    struct weights weights[8];
    vf acc[8][4];
    FVLM_UNROLL
    for (int r = 0; r < rows; r++) {
        weights[r] = weights_row(w, type, row + (size_t)r);
        FVLM_UNROLL
        for (int i = 0; i < m; i++)
            acc[r][i] = vf_zero();
    }
    size_t k = 0;
    for (size_t group = 0; k + VF_LANES <= depth; group++) {
        vf scale[8], bias[8];
        if (grouped) {
            FVLM_UNROLL
            for (int r = 0; r < rows; r++) {
                scale[r] = vf_set(scale_at(w->scale_type, weights[r].scales, group));
                bias[r] = vf_set(scale_at(w->scale_type, weights[r].biases, group));
            }
        }
        for (size_t end = k + step; k < end; k += VF_LANES) {
            vf b[4];
            FVLM_UNROLL
            for (int i = 0; i < m; i++)
                b[i] = vf_load(x + (size_t)i * call->x_stride + k);
            FVLM_UNROLL
            for (int r = 0; r < rows; r++) {
                vf a = weights_load(type, weights[r], k);
                if (grouped)
                    a = grouped_value(w->scale_type, a, scale[r], bias[r]);
                FVLM_UNROLL
                for (int i = 0; i < m; i++)
                    acc[r][i] = vf_fma(a, b[i], acc[r][i]);
            }
        }
    }
    if (!grouped && k < depth) {
        FVLM_UNROLL
        for (int i = 0; i < m; i++) {
            vf b = vf_load_n(x + (size_t)i * call->x_stride + k, depth - k);
            FVLM_UNROLL
            for (int r = 0; r < rows; r++)
                acc[r][i] = vf_fma(weights_load_n(type, weights[r], k, depth - k), b, acc[r][i]);
        }
    }
    FVLM_UNROLL
    for (int i = 0; i < m; i++) {
        FVLM_UNROLL
        for (int r = 0; r < rows; r++)
            sums[i * GEMV_COLUMNS + r] = vf_sum(acc[r][i]);
    }
}

/* A row of GGUF's blocks with m rows of x. */
FVLM_INLINE void dot_blocks(int m, const fvlm_gemv *call, size_t row, size_t x_row, float *sums)
{
    const fvlm_matrix *w = call->w;
    const float *x = call->x + x_row * call->x_stride;
    float values[32];
    vf acc[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
    for (size_t k = 0; k < w->cols; k += 32) {
        fvlm_matrix_values(w, row, k, 32, values);
        for (size_t j = 0; j < 32; j += VF_LANES)
            FVLM_UNROLL
        for (int i = 0; i < m; i++)
            acc[i] = vf_fma(vf_load(values + j), vf_load(x + (size_t)i * call->x_stride + k + j), acc[i]);
    }
    FVLM_UNROLL
    for (int i = 0; i < m; i++)
        sums[i * GEMV_COLUMNS] = vf_sum(acc[i]);
}

/* A row of F32, F16 or BF16 with one of x. */
FVLM_INLINE float dot_row(fvlm_dtype type, const fvlm_matrix *w, size_t row, const float *x)
{
    enum { SUMS = 4 };
    struct weights weights = weights_row(w, type, row);
    size_t depth = w->cols, k = 0;
    vf sum[SUMS];
    FVLM_UNROLL
    for (int i = 0; i < SUMS; i++)
        sum[i] = vf_zero();
    for (; k + SUMS * VF_LANES <= depth; k += SUMS * VF_LANES)
        FVLM_UNROLL
    for (int i = 0; i < SUMS; i++) {
        size_t at = k + (size_t)i * VF_LANES;
        sum[i] = vf_fma(weights_load(type, weights, at), vf_load(x + at), sum[i]);
    }
    for (size_t n; k < depth; k += n) {
        n = depth - k < VF_LANES ? depth - k : VF_LANES;
        sum[0] = vf_fma(weights_load_n(type, weights, k, n), vf_load_n(x + k, n), sum[0]);
    }
    return vf_sum(vf_add(vf_add(sum[0], sum[1]), vf_add(sum[2], sum[3])));
}

/* All rows of a strip of W with m rows of x, `at_once` of W at a time. */
FVLM_INLINE void dot_strip(fvlm_dtype type, int at_once, int m, const fvlm_gemv *call, size_t row, size_t rows,
                           size_t x_row, float *sums)
{
    size_t done = 0;
    if (type == FVLM_Q8_0) { /* or another of its kind */
        for (; done < rows; done++)
            dot_blocks(m, call, row + done, x_row, sums + done);
        return;
    }
    for (; done + (size_t)at_once <= rows; done += (size_t)at_once)
        dot_rows(type, at_once, m, call, row + done, x_row, sums + done);
    for (; done < rows; done++)
        dot_rows(type, 1, m, call, row + done, x_row, sums + done);
}

/* Rows of W at once: at least 8 sums in flight for the latency of a multiply-add, no more than there are registers. */
FVLM_INLINE void gemv_type(fvlm_dtype type, const fvlm_gemv *call, size_t first, size_t rows)
{
    float sums[4 * GEMV_COLUMNS];
    for (size_t done = 0; done < rows; done += GEMV_COLUMNS) {
        size_t row = first + done, count = rows - done < GEMV_COLUMNS ? rows - done : GEMV_COLUMNS;
        for (size_t i = 0, m; i < call->m; i += m) {
            size_t left = call->m - i;
            if (left >= 4) {
                m = 4;
                dot_strip(type, VF_REGISTERS == 32 ? 4 : 2, 4, call, row, count, i, sums);
            } else if (left >= 2) {
                m = 2;
                dot_strip(type, 4, 2, call, row, count, i, sums);
            } else if (type == FVLM_F32 || type == FVLM_F16 || type == FVLM_BF16) {
                m = 1; /* one row after the other, as processors foresee a single stretch of memory best */
                for (size_t j = 0; j < count; j++)
                    sums[j] = dot_row(type, call->w, row + j, call->x + i * call->x_stride);
            } else {
                m = 1;
                dot_strip(type, 8, 1, call, row, count, i, sums);
            }
            finish(call->epilogue, sums, GEMV_COLUMNS, i, m, row, count, call->y + i * call->y_stride, call->y_stride);
        }
    }
}

static void gemv(const fvlm_gemv *call, size_t row, size_t rows)
{
    switch (call->w->type) {
    case FVLM_BF16:
        gemv_type(FVLM_BF16, call, row, rows);
        break;
    case FVLM_F16:
        gemv_type(FVLM_F16, call, row, rows);
        break;
    case FVLM_MLX4:
        gemv_type(FVLM_MLX4, call, row, rows);
        break;
    case FVLM_MLX8:
        gemv_type(FVLM_MLX8, call, row, rows);
        break;
    case FVLM_Q8_0:
    case FVLM_Q4_0:
    case FVLM_Q4_K:
        gemv_type(FVLM_Q8_0, call, row, rows);
        break;
    default:
        gemv_type(FVLM_F32, call, row, rows);
    }
}

FVLM_INLINE void to_float_type(fvlm_dtype type, const void *x, size_t count, float *y)
{
    struct weights weights = {.data = x};
    size_t i = 0;
    for (; i + VF_LANES <= count; i += VF_LANES)
        vf_store(y + i, weights_load(type, weights, i));
    vf_store_n(y + i, weights_load_n(type, weights, i, count - i), count - i);
}

static void to_float(fvlm_dtype type, const void *x, size_t count, float *y)
{
    switch (type) {
    case FVLM_BF16:
        to_float_type(FVLM_BF16, x, count, y);
        break;
    case FVLM_F16:
        to_float_type(FVLM_F16, x, count, y);
        break;
    default:
        to_float_type(FVLM_F32, x, count, y);
    }
}

const fvlm_gemm_kernels FVLM_FOR_ISA(fvlm_gemm_kernels) = {PANEL, TILE, unpack, block, gemv, to_float};
