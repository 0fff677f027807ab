/* Activation functions of one number: what the plain C kernels apply, and the meaning of the vector ones. */
#ifndef FVLM_KERNELS_ACTIVATION_SCALAR_H
#define FVLM_KERNELS_ACTIVATION_SCALAR_H

#include <math.h>

#include "kernels/activation.h"

static inline float fvlm_activate_one(fvlm_activation activation, float x)
{
    switch (activation) {
    case FVLM_ACTIVATION_GELU:
        return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case FVLM_ACTIVATION_RELU:
        return x < 0 ? 0 : x;
    case FVLM_ACTIVATION_SILU:
        return x / (1.0f + expf(-x));
    case FVLM_ACTIVATION_SIGMOID:
        return 1.0f / (1.0f + expf(-x));
    case FVLM_ACTIVATION_NONE:
        break;
    }
    return x;
}

static inline float fvlm_derivative_one(fvlm_activation activation, float x)
{
    float s;
    switch (activation) {
    case FVLM_ACTIVATION_GELU: /* Phi(x) + x phi(x) */
        return 0.5f * (1.0f + erff(x * 0.70710678f)) + x * 0.39894228f * expf(-0.5f * x * x);
    case FVLM_ACTIVATION_RELU:
        return x > 0 ? 1 : 0;
    case FVLM_ACTIVATION_SILU:
        s = 1.0f / (1.0f + expf(-x));
        return s * (1.0f + x * (1.0f - s));
    case FVLM_ACTIVATION_SIGMOID:
        s = 1.0f / (1.0f + expf(-x));
        return s * (1.0f - s);
    case FVLM_ACTIVATION_NONE:
        break;
    }
    return 1;
}

#endif
