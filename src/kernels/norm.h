/* Normalisations over the last dimension, and the channel statistics of squeeze-excite. */
#ifndef FVLM_KERNELS_NORM_H
#define FVLM_KERNELS_NORM_H

#include <stdbool.h>

#include "base/pool.h"

/* y[m, c] = (x - mean) / sqrt(variance + eps) * weight + bias, for each row of x[m, c]; y may be x. */
void fvlm_layer_norm(fvlm_pool *pool, const float *x, size_t m, size_t c, const float *weight, const float *bias,
                     float eps, float *y);
/* For dy[m, c]: dx is added to, and so are dweight[c] and dbias[c] (both NULL: frozen). dx may not be dy.
 * statistics [m, 2] is scratch. */
void fvlm_layer_norm_backward(fvlm_pool *pool, const float *x, size_t m, size_t c, const float *weight, float eps,
                              const float *dy, float *dx, float *dweight, float *dbias, float *statistics);

/* y[m, c] = x / sqrt(mean(x^2) + eps) * weight; y may be x (Qwen2RMSNorm). */
void fvlm_rms_norm(fvlm_pool *pool, const float *x, size_t m, size_t c, const float *weight, float eps, float *y);

/* As fvlm_layer_norm_backward. */
void fvlm_rms_norm_backward(fvlm_pool *pool, const float *x, size_t m, size_t c, const float *weight, float eps,
                            const float *dy, float *dx, float *dweight, float *statistics);

/* Batch norm, for training: y[m, c] = (x - mean[c]) / sqrt(variance[c] + eps) * weight[c] + bias[c]; y may be x. */
void fvlm_batch_norm(fvlm_pool *pool, const float *x, size_t m, size_t c, const float *mean, const float *variance,
                     const float *weight, const float *bias, float eps, float *y);
/* mean[c] and (biased) variance[c] of x[m, c] over its rows. */
void fvlm_batch_norm_statistics(fvlm_pool *pool, const float *x, size_t m, size_t c, float *mean, float *variance);
/* dx[m, c] for dy[m, c], which it may be; dweight and dbias are added to (both NULL: frozen). batch: mean and variance
 * are those of x, and depend on it. */
void fvlm_batch_norm_backward(fvlm_pool *pool, const float *x, size_t m, size_t c, const float *mean,
                              const float *variance, const float *weight, float eps, bool batch, const float *dy,
                              float *dx, float *dweight, float *dbias);

/* mean[c] of x[m, c] over its rows. */
void fvlm_row_mean(const float *x, size_t m, size_t c, float *mean);

/* y[m, c] = gelu(x[m, c] * scale[c]); y may be x. */
void fvlm_scale_gelu(fvlm_pool *pool, const float *x, size_t m, size_t c, const float *scale, float *y);
/* dx[m, c] for dy[m, c], which it may be; dscale[c] is added to. */
void fvlm_scale_gelu_backward(fvlm_pool *pool, const float *x, size_t m, size_t c, const float *scale, const float *dy,
                              float *dx, float *dscale);

/* y[m, c] = x[m, c] * scale[c]; y may be x. */
void fvlm_scale_channels(fvlm_pool *pool, const float *x, size_t m, size_t c, const float *scale, float *y);

#endif
