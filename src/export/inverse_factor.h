/* The lower triangular L with L L^T = (H + damping)^-1, for symmetric positive definite H: what GPTQ spreads rounding
 * errors by. */
#ifndef FVLM_EXPORT_INVERSE_FACTOR_H
#define FVLM_EXPORT_INVERSE_FACTOR_H

#include <stdbool.h>
#include <stddef.h>

#include "base/pool.h"

/* h and l are [n, n]; h is overwritten. `damping` is added to h's diagonal in units of its mean, and more, by tens, as
 * long as h is not positive definite. False when out of memory. Does not depend on the pool's threads. */
bool fvlm_inverse_factor(fvlm_pool *pool, float *h, size_t n, double damping, float *l);

#endif
