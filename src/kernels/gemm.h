/* Linear layers: y = epilogue(x W^T), for any stored weight type.
 *
 * Many rows of x: blocked GEMM, panels of W unpacked once a block. Few rows (decoding): GEMV over W's rows, bound by
 * reading W. Sums over k run in a fixed order whatever the thread count.
 */
#ifndef FVLM_KERNELS_GEMM_H
#define FVLM_KERNELS_GEMM_H

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

#endif
