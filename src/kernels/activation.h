/* Element-wise functions and softmax. Each works on any count, any alignment, in place where said. */
#ifndef FVLM_KERNELS_ACTIVATION_H
#define FVLM_KERNELS_ACTIVATION_H

#include <stddef.h>

#include "base/pool.h"

typedef enum fvlm_activation {
    FVLM_ACTIVATION_NONE = 0,
    FVLM_ACTIVATION_GELU, /* exact: x/2 (1 + erf(x / sqrt 2)) */
    FVLM_ACTIVATION_RELU,
    FVLM_ACTIVATION_SILU,   /* x sigmoid(x) */
    FVLM_ACTIVATION_SIGMOID /* 1 / (1 + exp(-x)) */
} fvlm_activation;

/* y[count] = activation(x[count]); y may be x. */
void fvlm_activate(fvlm_activation activation, const float *x, size_t count, float *y);

/* y[count] = silu(gate[count]) * up[count]; y may be gate or up. */
void fvlm_swiglu(const float *gate, const float *up, size_t count, float *y);

/* The same over many elements on all threads, and backward, from the x that went in: dx = dy activation'(x); dx may be
 * dy. */
void fvlm_activate_forward(fvlm_pool *pool, fvlm_activation activation, const float *x, size_t count, float *y);
void fvlm_activate_backward(fvlm_pool *pool, fvlm_activation activation, const float *x, const float *dy, size_t count,
                            float *dx);
void fvlm_swiglu_forward(fvlm_pool *pool, const float *gate, const float *up, size_t count, float *y);
/* dgate may be gate and dup may be up, or one of them dy. */
void fvlm_swiglu_backward(fvlm_pool *pool, const float *gate, const float *up, const float *dy, size_t count,
                          float *dgate, float *dup);

/* x[count] = exp(x - max) / sum, in place. */
void fvlm_softmax(float *x, size_t count);

#endif
