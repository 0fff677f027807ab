/* Rows: the C reference, the choice of a body, and the functions of activation.h. */
#include "kernels/rows.h"

#include <string.h>

#include "base/cpu.h"
#include "kernels/activation_scalar.h"

static void activate(fvlm_activation activation, const float *x, size_t count, float *y)
{
    for (size_t i = 0; i < count; i++)
        y[i] = fvlm_activate_one(activation, x[i]);
}

static void swiglu(const float *gate, const float *up, size_t count, float *y)
{
    for (size_t i = 0; i < count; i++)
        y[i] = fvlm_activate_one(FVLM_ACTIVATION_SILU, gate[i]) * up[i];
}

static void activate_backward(fvlm_activation activation, const float *x, const float *dy, size_t count, float *dx)
{
    for (size_t i = 0; i < count; i++)
        dx[i] = dy[i] * fvlm_derivative_one(activation, x[i]);
}

static void swiglu_backward(const float *gate, const float *up, const float *dy, size_t count, float *dgate, float *dup)
{
    for (size_t i = 0; i < count; i++) {
        float g = gate[i], u = up[i], d = dy[i], s = fvlm_activate_one(FVLM_ACTIVATION_SIGMOID, g);
        dup[i] = d * g * s;
        dgate[i] = d * u * s * (1.0f + g * (1.0f - s));
    }
}

static float exponentials(float *x, size_t count, float scale)
{
    float largest = -INFINITY, sum = 0;
    for (size_t i = 0; i < count; i++)
        largest = scale * x[i] > largest ? scale * x[i] : largest;
    for (size_t i = 0; i < count; i++)
        sum += x[i] = expf(scale * x[i] - largest);
    return sum;
}

static void scale(float *x, size_t count, float factor)
{
    for (size_t i = 0; i < count; i++)
        x[i] *= factor;
}

static void layer_norm(const float *x, size_t c, const float *weight, const float *bias, float eps, float *y)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < c; i++)
        sum += x[i];
    float mean = (float)(sum / (double)c);
    for (size_t i = 0; i < c; i++)
        squares += (double)(x[i] - mean) * (double)(x[i] - mean);
    float inverse = 1.0f / sqrtf((float)(squares / (double)c) + eps);
    for (size_t i = 0; i < c; i++)
        y[i] = (x[i] - mean) * inverse * weight[i] + bias[i];
}

static void rms_norm(const float *x, size_t c, const float *weight, float eps, float *y)
{
    double squares = 0;
    for (size_t i = 0; i < c; i++)
        squares += (double)x[i] * (double)x[i];
    float inverse = 1.0f / sqrtf((float)(squares / (double)c) + eps);
    for (size_t i = 0; i < c; i++)
        y[i] = x[i] * inverse * weight[i];
}

static void scale_gelu(const float *x, size_t c, const float *factor, float *y)
{
    for (size_t i = 0; i < c; i++)
        y[i] = fvlm_activate_one(FVLM_ACTIVATION_GELU, x[i] * factor[i]);
}

static void add(const float *x, size_t c, float *y)
{
    for (size_t i = 0; i < c; i++)
        y[i] += x[i];
}

static void dots(const float *x, size_t x_stride, size_t m, size_t c, const float *rows, size_t stride, size_t count,
                 float *y, size_t y_stride)
{
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < count; j++) {
            float sum = 0;
            for (size_t k = 0; k < c; k++)
                sum += x[i * x_stride + k] * rows[j * stride + k];
            y[i * y_stride + j] = sum;
        }
}

static void add_scaled(const float *factors, size_t factors_stride, size_t m, const float *rows, size_t stride,
                       size_t count, size_t c, float *y, size_t y_stride)
{
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < count; j++)
            for (size_t k = 0; k < c; k++)
                y[i * y_stride + k] += factors[i * factors_stride + j] * rows[j * stride + k];
}

static void narrow(fvlm_dtype type, const float *x, size_t c, void *y)
{
    if (type == FVLM_BF16) {
        for (size_t i = 0; i < c; i++)
            ((uint16_t *)y)[i] = fvlm_bf16_from_float(x[i]);
        return;
    }
    float largest = 0;
    for (size_t i = 0; i < c; i++)
        largest = fmaxf(fabsf(x[i]), largest);
    float step = largest / 127, inverse = largest > 0 ? 127 / largest : 0;
    for (size_t i = 0; i < c; i++)
        ((int8_t *)y)[i] = (int8_t)fmaxf(fminf(nearbyintf(x[i] * inverse), 127), -127);
    memcpy((int8_t *)y + c, &step, sizeof step);
}

static void widen(fvlm_dtype type, const void *rows, size_t stride, size_t count, size_t c, float *y)
{
    for (size_t i = 0; i < count; i++, y += c) {
        if (type == FVLM_BF16) {
            for (size_t k = 0; k < c; k++)
                y[k] = fvlm_float_from_bf16(((const uint16_t *)rows)[i * stride + k]);
            continue;
        }
        const int8_t *row = (const int8_t *)rows + i * stride;
        float step;
        memcpy(&step, row + c, sizeof step);
        for (size_t k = 0; k < c; k++)
            y[k] = step * row[k];
    }
}

const fvlm_row_kernels fvlm_row_kernels_reference = {
    activate, swiglu, activate_backward, swiglu_backward, exponentials, scale, layer_norm, rms_norm, scale_gelu,
    add,      dots,   add_scaled,        narrow,          widen};

const fvlm_row_kernels *fvlm_row_kernels_select(void)
{
    unsigned flags = fvlm_cpu_flags();
    (void)flags;
#if defined(__x86_64__)
    if (flags & FVLM_CPU_AVX512)
        return &fvlm_row_kernels_avx512;
    if (flags & FVLM_CPU_AVX2)
        return &fvlm_row_kernels_avx2;
#elif defined(__aarch64__)
    if (flags & FVLM_CPU_NEON)
        return &fvlm_row_kernels_neon;
#elif defined(__wasm_simd128__)
    if (flags & FVLM_CPU_WASM_SIMD)
        return &fvlm_row_kernels_wasm;
#endif
    return &fvlm_row_kernels_reference;
}

void fvlm_activate(fvlm_activation activation, const float *x, size_t count, float *y)
{
    fvlm_row_kernels_select()->activate(activation, x, count, y);
}

void fvlm_swiglu(const float *gate, const float *up, size_t count, float *y)
{
    fvlm_row_kernels_select()->swiglu(gate, up, count, y);
}

void fvlm_softmax(float *x, size_t count)
{
    const fvlm_row_kernels *kernels = fvlm_row_kernels_select();
    kernels->scale(x, count, 1.0f / kernels->exponentials(x, count, 1.0f));
}
