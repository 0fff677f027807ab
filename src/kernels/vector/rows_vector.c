/* Rows in the vector vocabulary. A row's last, partial register is loaded with zeros behind its end. */
#include <math.h>

#include "kernels/rows.h"
#include "kernels/vector/vector_math.h"

/* How many of the lanes from i on belong to the row. */
static size_t lanes_at(size_t i, size_t count)
{
    return count - i < VF_LANES ? count - i : VF_LANES;
}

static void activate(fvlm_activation activation, const float *x, size_t count, float *y)
{
    for (size_t i = 0; i < count; i += VF_LANES) {
        size_t n = lanes_at(i, count);
        vf_store_n(y + i, vf_activate(activation, vf_load_n(x + i, n)), n);
    }
}

static void swiglu(const float *gate, const float *up, size_t count, float *y)
{
    for (size_t i = 0; i < count; i += VF_LANES) {
        size_t n = lanes_at(i, count);
        vf_store_n(y + i, vf_mul(vf_silu(vf_load_n(gate + i, n)), vf_load_n(up + i, n)), n);
    }
}

static void activate_backward(fvlm_activation activation, const float *x, const float *dy, size_t count, float *dx)
{
    for (size_t i = 0; i < count; i += VF_LANES) {
        size_t n = lanes_at(i, count);
        vf_store_n(dx + i, vf_mul(vf_load_n(dy + i, n), vf_derivative(activation, vf_load_n(x + i, n))), n);
    }
}

static void swiglu_backward(const float *gate, const float *up, const float *dy, size_t count, float *dgate, float *dup)
{
    for (size_t i = 0; i < count; i += VF_LANES) {
        size_t n = lanes_at(i, count);
        vf g = vf_load_n(gate + i, n), u = vf_load_n(up + i, n), d = vf_load_n(dy + i, n);
        vf_store_n(dup + i, vf_mul(d, vf_silu(g)), n);
        vf_store_n(dgate + i, vf_mul(vf_mul(d, u), vf_derivative(FVLM_ACTIVATION_SILU, g)), n);
    }
}

static float exponentials(float *x, size_t count, float scale)
{
    vf factor = vf_set(scale), largest = vf_set(-INFINITY), sum = vf_zero();
    size_t i = 0;
    for (; i + VF_LANES <= count; i += VF_LANES)
        largest = vf_max(vf_mul(vf_load(x + i), factor), largest);
    float top = vf_largest(largest);
    for (size_t j = i; j < count; j++)
        top = scale * x[j] > top ? scale * x[j] : top;
    vf shift = vf_set(top);
    for (i = 0; i + VF_LANES <= count; i += VF_LANES) {
        vf e = vf_exp(vf_sub(vf_mul(vf_load(x + i), factor), shift));
        sum = vf_add(sum, e);
        vf_store(x + i, e);
    }
    float rest = 0;
    if (i < count) {
        float lanes[VF_LANES];
        vf_store(lanes, vf_exp(vf_sub(vf_mul(vf_load_n(x + i, count - i), factor), shift)));
        for (size_t j = 0; j < count - i; j++)
            rest += x[i + j] = lanes[j];
    }
    return vf_sum(sum) + rest;
}

static void scale(float *x, size_t count, float factor)
{
    for (size_t i = 0; i < count; i += VF_LANES) {
        size_t n = lanes_at(i, count);
        vf_store_n(x + i, vf_mul(vf_load_n(x + i, n), vf_set(factor)), n);
    }
}

static void layer_norm(const float *x, size_t c, const float *weight, const float *bias, float eps, float *y)
{
    vf sum = vf_zero(), squares = vf_zero();
    for (size_t i = 0; i < c; i += VF_LANES)
        sum = vf_add(sum, vf_load_n(x + i, lanes_at(i, c)));
    float mean = vf_sum(sum) / (float)c;
    size_t i = 0;
    for (; i + VF_LANES <= c; i += VF_LANES) {
        vf d = vf_sub(vf_load(x + i), vf_set(mean));
        squares = vf_fma(d, d, squares);
    }
    float variance = vf_sum(squares);
    for (; i < c; i++)
        variance += (x[i] - mean) * (x[i] - mean);
    vf inverse = vf_div(vf_set(1.0f), vf_sqrt(vf_set(variance / (float)c + eps)));
    for (i = 0; i < c; i += VF_LANES) {
        size_t n = lanes_at(i, c);
        vf normal = vf_mul(vf_sub(vf_load_n(x + i, n), vf_set(mean)), inverse);
        vf_store_n(y + i, vf_fma(normal, vf_load_n(weight + i, n), vf_load_n(bias + i, n)), n);
    }
}

static void rms_norm(const float *x, size_t c, const float *weight, float eps, float *y)
{
    vf squares = vf_zero();
    for (size_t i = 0; i < c; i += VF_LANES) {
        vf v = vf_load_n(x + i, lanes_at(i, c));
        squares = vf_fma(v, v, squares);
    }
    vf inverse = vf_div(vf_set(1.0f), vf_sqrt(vf_set(vf_sum(squares) / (float)c + eps)));
    for (size_t i = 0; i < c; i += VF_LANES) {
        size_t n = lanes_at(i, c);
        vf_store_n(y + i, vf_mul(vf_mul(vf_load_n(x + i, n), inverse), vf_load_n(weight + i, n)), n);
    }
}

static void scale_gelu(const float *x, size_t c, const float *factor, float *y)
{
    for (size_t i = 0; i < c; i += VF_LANES) {
        size_t n = lanes_at(i, c);
        vf_store_n(y + i, vf_gelu(vf_mul(vf_load_n(x + i, n), vf_load_n(factor + i, n))), n);
    }
}

static void add(const float *x, size_t c, float *y)
{
    for (size_t i = 0; i < c; i += VF_LANES) {
        size_t n = lanes_at(i, c);
        vf_store_n(y + i, vf_add(vf_load_n(x + i, n), vf_load_n(y + i, n)), n);
    }
}

/* y[n] = rows[n, c] x[c], n at most a vector: the rows' partial sums are transposed and added up together. Where there
 * are fewer, the last row fills up, so that a row's sum does not depend on its place. */
FVLM_INLINE void dot_vector(const float *x, size_t c, const float *rows, size_t stride, size_t n, float *y)
{
    vf sum[VF_LANES];
    FVLM_UNROLL
    for (size_t r = 0; r < VF_LANES; r++)
        sum[r] = vf_zero();
    for (size_t k = 0; k < c; k += VF_LANES) {
        size_t lanes = lanes_at(k, c);
        vf own = vf_load_n(x + k, lanes);
        FVLM_UNROLL
        for (size_t r = 0; r < VF_LANES; r++)
            sum[r] = vf_fma(own, vf_load_n(rows + (r < n ? r : n - 1) * stride + k, lanes), sum[r]);
    }
    vf_transpose(sum);
    FVLM_UNROLL
    for (size_t r = 1; r < VF_LANES; r++)
        sum[0] = vf_add(sum[0], sum[r]);
    vf_store_n(y, sum[0], n);
}

/* Rows wait in level 1 cache until all of x has met them. */
static void dots(const float *x, size_t x_stride, size_t m, size_t c, const float *rows, size_t stride, size_t count,
                 float *y, size_t y_stride)
{
    for (size_t j = 0; j < count; j += VF_LANES)
        for (size_t i = 0; i < m; i++)
            dot_vector(x + i * x_stride, c, rows + j * stride, stride, lanes_at(j, count), y + i * y_stride + j);
}

/* y[m, columns] of add_scaled with the sums in registers: `vectors` a row, of which the last one has `lanes` columns.
 */
FVLM_INLINE void add_columns(int m, int vectors, const float *factors, size_t factors_stride, const float *rows,
                             size_t stride, size_t count, size_t lanes, float *y, size_t y_stride)
{
    vf sum[4][4];
    FVLM_UNROLL
    for (int i = 0; i < m; i++) {
        FVLM_UNROLL
        for (int v = 0; v < vectors; v++)
            sum[i][v] = vf_load_n(y + (size_t)i * y_stride + v * VF_LANES, v + 1 < vectors ? VF_LANES : lanes);
    }
    for (size_t j = 0; j < count; j++, rows += stride) {
        vf row[4];
        FVLM_UNROLL
        for (int v = 0; v < vectors; v++)
            row[v] = vf_load_n(rows + v * VF_LANES, v + 1 < vectors ? VF_LANES : lanes);
        FVLM_UNROLL
        for (int i = 0; i < m; i++) {
            vf factor = vf_set(factors[(size_t)i * factors_stride + j]);
            FVLM_UNROLL
            for (int v = 0; v < vectors; v++)
                sum[i][v] = vf_fma(factor, row[v], sum[i][v]);
        }
    }
    FVLM_UNROLL
    for (int i = 0; i < m; i++) {
        FVLM_UNROLL
        for (int v = 0; v < vectors; v++)
            vf_store_n(y + (size_t)i * y_stride + v * VF_LANES, sum[i][v], v + 1 < vectors ? VF_LANES : lanes);
    }
}

FVLM_INLINE void add_rows(int m, const float *factors, size_t factors_stride, const float *rows, size_t stride,
                          size_t count, size_t c, float *y, size_t y_stride)
{
    enum { WIDE = VF_REGISTERS == 32 ? 4 : 2 };
    size_t k = 0;
    for (; k + WIDE * VF_LANES <= c; k += WIDE * VF_LANES)
        add_columns(m, WIDE, factors, factors_stride, rows + k, stride, count, VF_LANES, y + k, y_stride);
    for (; k < c; k += VF_LANES)
        add_columns(m, 1, factors, factors_stride, rows + k, stride, count, lanes_at(k, c), y + k, y_stride);
}

static void add_scaled(const float *factors, size_t factors_stride, size_t m, const float *rows, size_t stride,
                       size_t count, size_t c, float *y, size_t y_stride)
{
    enum { ROWS = 32 }; /* that wait in level 1 cache until all of y has met them */
    for (size_t j = 0; j < count; j += ROWS, rows += ROWS * stride, factors += ROWS) {
        size_t n = count - j < ROWS ? count - j : ROWS, i = 0;
        for (; i + 4 <= m; i += 4)
            add_rows(4, factors + i * factors_stride, factors_stride, rows, stride, n, c, y + i * y_stride, y_stride);
        if (m - i == 3)
            add_rows(3, factors + i * factors_stride, factors_stride, rows, stride, n, c, y + i * y_stride, y_stride);
        else if (m - i == 2)
            add_rows(2, factors + i * factors_stride, factors_stride, rows, stride, n, c, y + i * y_stride, y_stride);
        else if (m - i == 1)
            add_rows(1, factors + i * factors_stride, factors_stride, rows, stride, n, c, y + i * y_stride, y_stride);
    }
}

static void narrow_bf16(const float *x, size_t c, uint16_t *y)
{
    for (size_t i = 0; i < c; i += VF_LANES) {
        uint32_t bits[VF_LANES];
        size_t n = lanes_at(i, c);
        vf rounded = vf_round_bf16(vf_load_n(x + i, n));
        memcpy(bits, &rounded, sizeof bits);
        for (size_t j = 0; j < n; j++)
            y[i + j] = (uint16_t)(bits[j] >> 16);
    }
}

static void narrow_i8(const float *x, size_t c, int8_t *y)
{
    vf most = vf_zero();
    for (size_t i = 0; i < c; i += VF_LANES)
        most = vf_max(vf_abs(vf_load_n(x + i, lanes_at(i, c))), most);
    float largest = vf_largest(most), step = largest / 127, inverse = largest > 0 ? 127 / largest : 0;
    for (size_t i = 0; i < c; i += VF_LANES) {
        float lanes[VF_LANES];
        size_t n = lanes_at(i, c);
        vf integers = vf_round(vf_mul(vf_load_n(x + i, n), vf_set(inverse)));
        vf_store(lanes, vf_max(vf_min(integers, vf_set(127)), vf_set(-127))); /* NaN becomes a number */
        for (size_t j = 0; j < n; j++)
            y[i + j] = (int8_t)lanes[j];
    }
    memcpy(y + c, &step, sizeof step);
}

static void narrow(fvlm_dtype type, const float *x, size_t c, void *y)
{
    if (type == FVLM_BF16)
        narrow_bf16(x, c, y);
    else
        narrow_i8(x, c, y);
}

static void widen_bf16(const uint16_t *row, size_t c, float *y)
{
    size_t i = 0;
    for (; i + VF_LANES <= c; i += VF_LANES)
        vf_store(y + i, vf_load_bf16(row + i));
    vf_store_n(y + i, vf_load_bf16_n(row + i, c - i), c - i);
}

static void widen_i8(const int8_t *row, size_t c, float *y)
{
    float step;
    memcpy(&step, row + c, sizeof step);
    size_t i = 0;
    for (; i + VF_LANES <= c; i += VF_LANES)
        vf_store(y + i, vf_mul(vf_load_i8(row + i), vf_set(step)));
    for (; i < c; i++)
        y[i] = step * row[i];
}

static void widen(fvlm_dtype type, const void *rows, size_t stride, size_t count, size_t c, float *y)
{
    for (size_t i = 0; i < count; i++, y += c)
        if (type == FVLM_BF16)
            widen_bf16((const uint16_t *)rows + i * stride, c, y);
        else
            widen_i8((const int8_t *)rows + i * stride, c, y);
}

const fvlm_row_kernels FVLM_FOR_ISA(fvlm_row_kernels) = {
    activate, swiglu, activate_backward, swiglu_backward, exponentials, scale, layer_norm, rms_norm, scale_gelu,
    add,      dots,   add_scaled,        narrow,          widen};
