/* Linear layers in plain C: the meaning of every vector body, and what runs where none is.
 *
 * The inner loops go over a panel's columns, which a compiler turns into whatever vectors the target's base has.
 */
#include <string.h>

#include "kernels/activation_scalar.h"
#include "kernels/gemm_block.h"

enum { PANEL = 16 };

static float element(fvlm_dtype type, const void *data, size_t index)
{
    uint16_t half;
    float single;
    if (type == FVLM_F32) {
        memcpy(&single, (const char *)data + index * sizeof single, sizeof single);
        return single;
    }
    memcpy(&half, (const char *)data + index * sizeof half, sizeof half);
    return type == FVLM_BF16 ? fvlm_float_from_bf16(half) : fvlm_float_from_f16(half);
}

/* y[cols] = W[row, col .. col + cols]. */
static void unpack_row(const fvlm_matrix *w, size_t row, size_t col, size_t cols, float *y)
{
    if (fvlm_dtype_bytes(w->type) == 0)
        fvlm_matrix_values(w, row, col, cols, y);
    else
        for (size_t i = 0; i < cols; i++)
            y[i] = element(w->type, w->data, row * w->cols + col + i);
}

static void unpack(const fvlm_matrix *w, size_t row, size_t rows, size_t col, size_t cols, float *panel)
{
    float values[32];
    memset(panel, 0, cols * PANEL * sizeof *panel);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c += 32) {
            size_t count = cols - c < 32 ? cols - c : 32;
            unpack_row(w, row + r, col + c, count, values);
            for (size_t i = 0; i < count; i++)
                panel[(c + i) * PANEL + r] = values[i];
        }
}

/* The epilogue for output [row, column] of sum `x`. */
static float finish(const fvlm_epilogue *epilogue, float x, size_t row, size_t column)
{
    if (!epilogue)
        return x;
    if (epilogue->bias)
        x += epilogue->bias[column];
    x = fvlm_activate_one(epilogue->activation, x);
    if (epilogue->scale)
        x *= epilogue->scale[column];
    if (epilogue->residual)
        x += epilogue->residual[row * epilogue->residual_stride + column];
    return x;
}

static void block(const fvlm_gemm_block *call)
{
    for (size_t row = 0; row < call->m; row++)
        for (size_t column = 0; column < call->n; column += PANEL) {
            size_t width = call->n - column < PANEL ? call->n - column : PANEL;
            const float *panel = call->panels + column * call->k, *x = call->x + row * call->x_stride;
            float sums[PANEL] = {0};
            if (call->sum)
                memcpy(sums, call->sum + row * call->sum_stride + column, width * sizeof *sums);
            for (size_t k = 0; k < call->k; k++)
                for (size_t i = 0; i < PANEL; i++)
                    sums[i] += x[k] * panel[k * PANEL + i];
            for (size_t i = 0; i < width; i++)
                call->y[row * call->y_stride + column + i] = finish(call->epilogue, sums[i], row, column + i);
        }
}

static void gemv(const fvlm_gemv *call, size_t first, size_t rows)
{
    float weights[32];
    size_t depth = call->w->cols;
    for (size_t row = first; row < first + rows; row++)
        for (size_t i = 0; i < call->m; i++) {
            const float *x = call->x + i * call->x_stride;
            float sum = 0;
            for (size_t k = 0; k < depth; k += 32) {
                size_t count = depth - k < 32 ? depth - k : 32;
                unpack_row(call->w, row, k, count, weights);
                for (size_t j = 0; j < count; j++)
                    sum += x[k + j] * weights[j];
            }
            call->y[i * call->y_stride + row] = finish(call->epilogue, sum, i, row);
        }
}

static void to_float(fvlm_dtype type, const void *x, size_t count, float *y)
{
    for (size_t i = 0; i < count; i++)
        y[i] = element(type, x, i);
}

const fvlm_gemm_kernels fvlm_gemm_kernels_reference = {PANEL, 1, unpack, block, gemv, to_float};
