/* Linear layers whose inputs are rounded, to bf16 or to 8-bit integers, over matrices as they are stored: where
 * fvlm_linear and its backward pass send layers that ask for it. */
#ifndef FVLM_KERNELS_ROUNDED_H
#define FVLM_KERNELS_ROUNDED_H

#include <stdbool.h>

#include "kernels/gemm.h"

/* Whether this part of fvlm_linear_parts, with m rows of x, should come here: its matrix asks for it, and this
 * processor gains by it. */
bool fvlm_rounded_fits(const fvlm_matrix *w, size_t m);

/* As fvlm_linear_parts, for parts that all fit, with equal inputs. */
void fvlm_rounded_linear(fvlm_pool *pool, const fvlm_linear_part *parts, size_t count, const float *x, size_t m,
                         size_t x_stride);

/* Elements col .. col + count of a row of W as floats: where they lie, or converted into own[count]. */
static inline const float *fvlm_matrix_floats(const fvlm_matrix *w, size_t row, size_t col, size_t count, float *own)
{
    if (w->type == FVLM_F32)
        return (const float *)w->data + row * w->cols + col;
    fvlm_matrix_values(w, row, col, count, own);
    return own;
}

/* y[m, n] = A B, or that added to y, with both rounded to bf16. A[m, k] are rows of a, or its columns where it is
 * `turned`: a[k, m]. B[k, n] are the first columns of the k rows of b; of grouped types n is a multiple of 32. m, n and
 * k are at least 1. */
typedef struct fvlm_rounded_product {
    size_t m, n, k;
    const float *a;
    size_t a_stride;
    bool turned;
    const fvlm_matrix *b;
    float *y;
    size_t y_stride;
    bool add;
} fvlm_rounded_product;
void fvlm_rounded_multiply(fvlm_pool *pool, const fvlm_rounded_product *product);

/* Whether backward passes of layers with such inputs should go there. */
bool fvlm_rounded_fits_backward(fvlm_dtype inputs);

#endif
