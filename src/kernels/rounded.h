/* Linear layers whose inputs are rounded, to bf16 or to 8-bit integers, over matrices as they are stored: where
 * fvlm_linear sends layers that ask for it. */
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

#endif
