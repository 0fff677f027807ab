/* Linear layers over 8-bit inputs in plain C: what the vector bodies must agree with. */
#include <math.h>
#include <string.h>

#include "kernels/activation_scalar.h"
#include "kernels/int8.h"

enum { GROUP = FVLM_INT8_COLS, PANEL = FVLM_INT8_PANEL };

/* The integers of x[cols], at most a group; their scale, and their sum. */
static float round_group(const float *x, size_t cols, int8_t *to, int32_t *sum)
{
    float largest = 0;
    for (size_t i = 0; i < cols; i++)
        largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
    float per = largest > 0 ? 127 / largest : 0;
    *sum = 0;
    memset(to, 0, GROUP);
    for (size_t i = 0; i < cols; i++)
        *sum += to[i] = (int8_t)lrintf(x[i] * per);
    return largest / 127;
}

static void prepare(const float *x, size_t x_stride, size_t first, size_t count, const fvlm_int8_rows *to)
{
    for (size_t row = first; row < first + count; row++, x += x_stride)
        for (size_t k = 0, group = 0; k < to->cols; k += GROUP, group++)
            to->scale[group * to->rows + row] =
                round_group(x + k, to->cols - k < GROUP ? to->cols - k : GROUP, to->data + row * to->stride + k,
                            &to->sum[group * to->rows + row]);
}

static void unpack(const fvlm_matrix *w, size_t row, size_t rows, void *panel)
{
    float values[GROUP];
    int32_t sum;
    for (size_t k = 0; k < w->cols; k += GROUP) {
        int8_t *integers = panel;
        float *scales = (float *)(void *)(integers + PANEL * GROUP);
        size_t cols = w->cols - k < GROUP ? w->cols - k : GROUP;
        for (size_t i = 0; i < rows; i++) {
            fvlm_matrix_values(w, row + i, k, cols, values);
            scales[i] = round_group(values, cols, integers + i * GROUP, &sum);
        }
        panel = (char *)panel + FVLM_INT8_PART;
    }
}

static float finish(const fvlm_epilogue *epilogue, float x, size_t row, size_t column)
{
    x = fvlm_activate_one(epilogue->activation, x + (epilogue->bias ? epilogue->bias[column] : 0));
    if (epilogue->scale)
        x *= epilogue->scale[column];
    if (epilogue->residual)
        x += epilogue->residual[row * epilogue->residual_stride + column];
    return x;
}

static void block(const fvlm_int8_block *call)
{
    for (size_t i = 0; i < call->count; i++)
        for (size_t column = 0; column < call->columns; column++) {
            const int8_t *part = call->panel, *x = call->x->data + (call->first_row + i) * call->x->stride;
            float sum = 0;
            for (size_t group = 0; group < fvlm_int8_count(call->x->cols); group++) {
                int32_t dot = 0;
                for (size_t k = 0; k < GROUP; k++)
                    dot += part[column * GROUP + k] * x[group * GROUP + k];
                const float *scales = (const float *)(const void *)(part + PANEL * GROUP);
                sum += (float)dot * call->x->scale[group * call->x->rows + call->first_row + i] * scales[column];
                part += FVLM_INT8_PART;
            }
            call->y[i * call->y_stride + column] = finish(call->epilogue, sum, i, column);
        }
}

static void arrange(const fvlm_matrix *w, const float *x, const fvlm_int8_vector *to)
{
    size_t step = fvlm_int8_step(w);
    int32_t sum;
    for (size_t k = 0; k < w->cols; k += GROUP) {
        size_t cols = w->cols - k < GROUP ? w->cols - k : GROUP;
        float scale = round_group(x + k, cols, to->data + k, &sum);
        for (size_t i = k; i < k + cols; i += step)
            to->scale[i / step] = scale;
    }
}

static void multiply(const fvlm_matrix *w, size_t row, size_t rows, const fvlm_int8_vector *x,
                     const fvlm_epilogue *epilogue, size_t x_row, float *y)
{
    const fvlm_epilogue none = {0};
    float values[GROUP];
    size_t step = fvlm_int8_step(w);
    for (size_t i = row; i < row + rows; i++) {
        float all = 0;
        for (size_t k = 0; k < w->cols; k += GROUP) {
            size_t cols = w->cols - k < GROUP ? w->cols - k : GROUP;
            float sum = 0;
            fvlm_matrix_values(w, i, k, cols, values);
            for (size_t j = 0; j < cols; j++)
                sum += values[j] * (float)x->data[k + j];
            all += sum * x->scale[k / step];
        }
        y[i] = finish(epilogue ? epilogue : &none, all, x_row, i);
    }
}

const fvlm_int8_kernels fvlm_int8_kernels_reference = {prepare, unpack, block, arrange, multiply};
