/* Epilogues of linear layers in the vector vocabulary. */
#ifndef FVLM_KERNELS_VECTOR_FINISH_H
#define FVLM_KERNELS_VECTOR_FINISH_H

#include "kernels/gemm.h"
#include "kernels/vector/vector_math.h"

FVLM_INLINE void finish_activation(fvlm_activation activation, const fvlm_epilogue *epilogue, const float *sums,
                                   size_t sums_stride, size_t row, size_t rows, size_t column, size_t columns, float *y,
                                   size_t y_stride)
{
    for (size_t c = 0; c < columns; c += VF_LANES) {
        size_t n = columns - c < VF_LANES ? columns - c : VF_LANES, at = column + c;
        vf bias = epilogue->bias ? vf_load_n(epilogue->bias + at, n) : vf_zero();
        vf scale = epilogue->scale ? vf_load_n(epilogue->scale + at, n) : vf_set(1.0f);
        for (size_t r = 0; r < rows; r++) {
            vf v = vf_activate(activation, vf_add(vf_load(sums + r * sums_stride + c), bias));
            if (epilogue->residual)
                v = vf_fma(v, scale, vf_load_n(epilogue->residual + (row + r) * epilogue->residual_stride + at, n));
            else
                v = vf_mul(v, scale);
            vf_store_n(y + r * y_stride + at, v, n);
        }
    }
}

static const fvlm_epilogue no_epilogue;

/* y[row .. row + rows, column .. column + columns] from sums[rows, columns], which may be read to the end of a
 * register. y points to row `row`. */
static inline void finish(const fvlm_epilogue *epilogue, const float *sums, size_t sums_stride, size_t row, size_t rows,
                          size_t column, size_t columns, float *y, size_t y_stride)
{
    if (!epilogue)
        epilogue = &no_epilogue;
    switch (epilogue->activation) {
    case FVLM_ACTIVATION_GELU:
        finish_activation(FVLM_ACTIVATION_GELU, epilogue, sums, sums_stride, row, rows, column, columns, y, y_stride);
        break;
    case FVLM_ACTIVATION_NONE:
        finish_activation(FVLM_ACTIVATION_NONE, epilogue, sums, sums_stride, row, rows, column, columns, y, y_stride);
        break;
    default:
        finish_activation(epilogue->activation, epilogue, sums, sums_stride, row, rows, column, columns, y, y_stride);
    }
}

#endif
