/* Element-wise functions and softmax. Each works on any count, any alignment, in place where said. */
#ifndef FVLM_KERNELS_ACTIVATION_H
#define FVLM_KERNELS_ACTIVATION_H

#include <stddef.h>

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

/* x[count] = exp(x - max) / sum, in place. */
void fvlm_softmax(float *x, size_t count);

#endif
