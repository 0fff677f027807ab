/* What an instruction set provides for work along one row of numbers: norms, activations, softmax, dot products. */
#ifndef FVLM_KERNELS_ROWS_H
#define FVLM_KERNELS_ROWS_H

#include "kernels/activation.h"
#include "kernels/matrix.h"

typedef struct fvlm_row_kernels {
    void (*activate)(fvlm_activation activation, const float *x, size_t count, float *y);
    void (*swiglu)(const float *gate, const float *up, size_t count, float *y);
    /* As fvlm_activate_backward and fvlm_swiglu_backward. */
    void (*activate_backward)(fvlm_activation activation, const float *x, const float *dy, size_t count, float *dx);
    void (*swiglu_backward)(const float *gate, const float *up, const float *dy, size_t count, float *dgate,
                            float *dup);
    /* x[count] = exp(scale x - max) and their sum, with max the largest scale x */
    float (*exponentials)(float *x, size_t count, float scale);
    void (*scale)(float *x, size_t count, float factor);
    void (*layer_norm)(const float *x, size_t c, const float *weight, const float *bias, float eps, float *y);
    void (*rms_norm)(const float *x, size_t c, const float *weight, float eps, float *y);
    void (*scale_gelu)(const float *x, size_t c, const float *scale, float *y);
    /* y[c] += x[c] */
    void (*add)(const float *x, size_t c, float *y);
    /* y[m, count] = x[m, c] rows[count, c]^T; strides are floats between rows. */
    void (*dots)(const float *x, size_t x_stride, size_t m, size_t c, const float *rows, size_t stride, size_t count,
                 float *y, size_t y_stride);
    /* y[m, c] += factors[m, count] rows[count, c], row after row. */
    void (*add_scaled)(const float *factors, size_t factors_stride, size_t m, const float *rows, size_t stride,
                       size_t count, size_t c, float *y, size_t y_stride);
    /* Rows of keys or values as attention.h stores them, of `type` BF16 or I8. y = the row that stands for x[c], one of
     * I8 with its float behind it. */
    void (*narrow)(fvlm_dtype type, const float *x, size_t c, void *y);
    /* y[count, c] = rows, `stride` elements apart. */
    void (*widen)(fvlm_dtype type, const void *rows, size_t stride, size_t count, size_t c, float *y);
} fvlm_row_kernels;

extern const fvlm_row_kernels fvlm_row_kernels_reference, fvlm_row_kernels_avx2, fvlm_row_kernels_avx512,
    fvlm_row_kernels_neon, fvlm_row_kernels_wasm; /* those of this build's architecture exist */

/* The best of the instruction sets that fvlm_cpu_flags allows. */
const fvlm_row_kernels *fvlm_row_kernels_select(void);

#endif
