/* Normalisations over the last dimension, and the channel statistics of squeeze-excite. */
#ifndef FVLM_KERNELS_NORM_H
#define FVLM_KERNELS_NORM_H

#include "base/pool.h"

/* y[m, c] = (x - mean) / sqrt(variance + eps) * weight + bias, for each row of x[m, c]; y may be x. */
void fvlm_layer_norm(fvlm_pool *pool, const float *x, size_t m, size_t c, const float *weight, const float *bias,
                     float eps, float *y);

/* y[m, c] = x / sqrt(mean(x^2) + eps) * weight; y may be x (Qwen2RMSNorm). */
void fvlm_rms_norm(fvlm_pool *pool, const float *x, size_t m, size_t c, const float *weight, float eps, float *y);

/* mean[c] of x[m, c] over its rows. */
void fvlm_row_mean(const float *x, size_t m, size_t c, float *mean);

/* y[m, c] = gelu(x[m, c] * scale[c]); y may be x. */
void fvlm_scale_gelu(fvlm_pool *pool, const float *x, size_t m, size_t c, const float *scale, float *y);

#endif
