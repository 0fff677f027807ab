/* Linear layers: y = epilogue(x W^T), for any stored weight type.
 *
 * Many rows of x: blocked GEMM, panels of W unpacked once a block. Few rows (decoding): GEMV over W's rows, bound by
 * reading W. Sums over k run in a fixed order whatever the thread count.
 *
 * Arithmetic is float32's, unless a matrix says that its layer's inputs may be rounded: to bf16, which then also holds
 * for W where there are many rows of x; or to 8-bit integers, where W is stored as integers or there are many rows.
 */
#ifndef FVLM_KERNELS_GEMM_H
#define FVLM_KERNELS_GEMM_H

#include <stdbool.h>

#include "base/pool.h"
#include "kernels/activation.h"
#include "kernels/matrix.h"

/* What happens to an output while it is still in a register:
 * y = residual + scale * activation(sum + bias); every pointer may be NULL. */
typedef struct fvlm_epilogue {
    const float *bias; /* [rows of W] */
    fvlm_activation activation;
    const float *scale;    /* [rows of W] */
    const float *residual; /* [m, rows of W], rows residual_stride floats apart; may be y itself */
    size_t residual_stride;
} fvlm_epilogue;

/* y[m, w->rows] = epilogue(x[m, w->cols] W^T). Strides are floats between rows. x and y must not overlap.
 * `epilogue` NULL: none. */
void fvlm_linear(fvlm_pool *pool, const fvlm_matrix *w, const float *x, size_t m, size_t x_stride, float *y,
                 size_t y_stride, const fvlm_epilogue *epilogue);

/* Backward of y = x W^T, for dy [m, w->rows]: dx[m, w->cols] = dy W, or that added to dx. No overlap. Where W's inputs
 * may be rounded to bf16, so may dy and W. */
void fvlm_linear_backward_x(fvlm_pool *pool, const fvlm_matrix *w, const float *dy, size_t m, size_t dy_stride,
                            float *dx, size_t dx_stride, bool add);
/* dw[rows, cols] += dy[m, rows]^T x[m, cols]; `inputs` F32 or BF16: what both may be rounded to. */
void fvlm_linear_backward_w(fvlm_pool *pool, fvlm_dtype inputs, const float *dy, size_t m, size_t rows,
                            size_t dy_stride, const float *x, size_t cols, size_t x_stride, float *dw);
/* sums[c] += the sum over the rows of a[m, c] * b[m, c]; b NULL: 1. What a bias, and a factor for each channel, get. */
void fvlm_column_sums(fvlm_pool *pool, const float *a, size_t a_stride, const float *b, size_t b_stride, size_t m,
                      size_t c, float *sums);

/* One of several layers over the same x. */
typedef struct fvlm_linear_part {
    const fvlm_matrix *w;
    float *y; /* [m, w->rows] */
    size_t y_stride;
    const fvlm_epilogue *epilogue; /* NULL: none */
} fvlm_linear_part;

/* What fvlm_linear does for each part, whose cols are equal; x is read and rounded once where that is possible. */
void fvlm_linear_parts(fvlm_pool *pool, const fvlm_linear_part *parts, size_t count, const float *x, size_t m,
                       size_t x_stride);

/* Up to so many rows of x the time goes into reading W, and unpacking it would cost more than it saves. */
#define FVLM_GEMV_ROWS 8

#endif
