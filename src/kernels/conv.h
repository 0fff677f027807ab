/* Convolutions over channels-last pictures x[h, w, c]. 1x1 convolutions are linear layers (gemm.h). */
#ifndef FVLM_KERNELS_CONV_H
#define FVLM_KERNELS_CONV_H

#include <stdint.h>

#include "base/pool.h"
#include "kernels/activation.h"

/* A depthwise convolution with zero padding kernel / 2: output channel o reads input channel o / multiplier.
 * Output size is (size + stride - 1) / stride. */
typedef struct fvlm_depthwise {
    size_t height, width; /* of the input */
    size_t channels;      /* of the output */
    size_t multiplier;    /* output channels per input channel: 1 or 2 */
    size_t kernel;        /* 3 or 7 */
    size_t stride;        /* 1 or 2 */
    const float *weight;  /* [kernel * kernel, channels]: fvlm_depthwise_pack */
    const float *bias;    /* [channels] or NULL */
    fvlm_activation activation;
} fvlm_depthwise;

/* Reorder weights as checkpoints store them, [channels, 1, kernel, kernel], to [kernel * kernel, channels], each
 * multiplied by scale[channels] (batch norm folding; NULL: 1). */
void fvlm_depthwise_pack(const float *weight, size_t channels, size_t kernel, const float *scale, float *packed);

/* y[pictures, (h + s - 1) / s, (w + s - 1) / s, channels] from x[pictures, h, w, channels / multiplier]. No overlap. */
void fvlm_depthwise_forward(fvlm_pool *pool, const fvlm_depthwise *conv, size_t pictures, const float *x, float *y);
/* Backward, for dy of y's shape before its activation: dx of x's shape is written, and dweight, as checkpoints store
 * weights ([channels, 1, kernel, kernel]), is added to. */
void fvlm_depthwise_backward_x(fvlm_pool *pool, const fvlm_depthwise *conv, size_t pictures, const float *dy,
                               float *dx);
void fvlm_depthwise_backward_w(fvlm_pool *pool, const fvlm_depthwise *conv, size_t pictures, const float *x,
                               const float *dy, float *dweight);

/* The first layer: 3x3, stride 2, zero padding 1, 3 input channels given as bytes that stand for 0..1 (x / 255), then
 * bias and activation. weight is [27, channels], tap major then input channel: fvlm_stem_pack.
 * y[pictures, (h + 1) / 2, (w + 1) / 2, channels] from x[pictures, h, w, 3]. */
typedef struct fvlm_stem {
    size_t height, width, channels;
    const float *weight, *bias;
    fvlm_activation activation;
} fvlm_stem;

/* From the stored [channels, 3, 3, 3] (output, input, y, x) to [27, channels]. */
void fvlm_stem_pack(const float *weight, size_t channels, float *packed);
void fvlm_stem_forward(fvlm_pool *pool, const fvlm_stem *conv, size_t pictures, const uint8_t *x, float *y);
/* dweight [channels, 3, 3, 3], as stored, is added to, for dy of y's shape before its activation. */
void fvlm_stem_backward_w(fvlm_pool *pool, const fvlm_stem *conv, size_t pictures, const uint8_t *x, const float *dy,
                          float *dweight);

#endif
