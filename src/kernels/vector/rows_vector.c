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

/* Sums stay in registers: `vectors` of them, of which the last one has `lanes` columns. */
FVLM_INLINE void add_columns(int vectors, const float *factors, const float *rows, size_t stride, size_t count,
                             size_t lanes, float *y)
{
    vf sum[4];
    FVLM_UNROLL
    for (int v = 0; v < vectors; v++)
        sum[v] = vf_load_n(y + v * VF_LANES, v + 1 < vectors ? VF_LANES : lanes);
    for (size_t j = 0; j < count; j++, rows += stride) {
        vf factor = vf_set(factors[j]);
        FVLM_UNROLL
        for (int v = 0; v < vectors; v++)
            sum[v] = vf_fma(factor, vf_load_n(rows + v * VF_LANES, v + 1 < vectors ? VF_LANES : lanes), sum[v]);
    }
    FVLM_UNROLL
    for (int v = 0; v < vectors; v++)
        vf_store_n(y + v * VF_LANES, sum[v], v + 1 < vectors ? VF_LANES : lanes);
}

static void add_scaled(const float *factors, size_t factors_stride, size_t m, const float *rows, size_t stride,
                       size_t count, size_t c, float *y, size_t y_stride)
{
    enum { WIDE = 4, ROWS = 32 }; /* vectors; rows that wait in level 1 cache, as above */
    for (size_t j = 0; j < count; j += ROWS, rows += ROWS * stride) {
        size_t n = count - j < ROWS ? count - j : ROWS;
        for (size_t i = 0; i < m; i++) {
            const float *own = factors + i * factors_stride + j;
            float *to = y + i * y_stride;
            size_t k = 0;
            for (; k + WIDE * VF_LANES <= c; k += WIDE * VF_LANES)
                add_columns(WIDE, own, rows + k, stride, n, VF_LANES, to + k);
            for (; k < c; k += VF_LANES)
                add_columns(1, own, rows + k, stride, n, lanes_at(k, c), to + k);
        }
    }
}

const fvlm_row_kernels FVLM_FOR_ISA(fvlm_row_kernels) = {
    activate, swiglu, activate_backward, swiglu_backward, exponentials, scale, layer_norm, rms_norm, scale_gelu,
    add,      dots,   add_scaled};
