/* What the networks of this room are made of: linear layers with biases and LoRA, forward and backward, and how a
 * network cuts its workspace into buffers. */
#ifndef FVLM_TRAIN_LAYERS_H
#define FVLM_TRAIN_LAYERS_H

#include "train/parameters.h"

/* y = x W^T + bias + scale (x A^T) B^T (arXiv 2106.09685); bias, A and B may be NULL. */
typedef struct fvlm_linear_layer {
    fvlm_parameter *weight, *bias;
    fvlm_parameter *a, *b; /* [rank, in], [out, rank] */
    float scale;
} fvlm_linear_layer;

static inline size_t fvlm_linear_layer_rank(const fvlm_linear_layer *layer)
{
    return layer->a ? layer->a->matrix.rows : 0;
}

/* y[m, out] from x[m, in]. `low` [m, rank] keeps scale x A^T for the backward pass; NULL without LoRA. */
void fvlm_linear_layer_forward(fvlm_pool *pool, const fvlm_linear_layer *layer, const float *x, size_t m, float *y,
                               float *low);
/* Add to the gradients of what is trained; dx[m, in] receives that of x, or has it added, or is NULL. `low` as the
 * forward pass left it, `dlow` [m, rank] is scratch. */
void fvlm_linear_layer_backward(fvlm_pool *pool, const fvlm_linear_layer *layer, const float *x, size_t m,
                                const float *dy, const float *low, float *dlow, float *dx, bool add);

/* Cuts a workspace into buffers, each on a cache line. With `memory` NULL it only measures, and gives NULL. */
typedef struct fvlm_cutter {
    float *memory;
    size_t used;
    bool overflow; /* the sizes do not fit in a size_t */
} fvlm_cutter;
float *fvlm_cut(fvlm_cutter *cutter, size_t rows, size_t width);
/* The same for `count` items of `bytes` each; a tile's bytes are a multiple of a float's. */
void *fvlm_cut_items(fvlm_cutter *cutter, size_t count, size_t bytes);

/* y[count] += x[count] */
void fvlm_add_floats(fvlm_pool *pool, const float *x, size_t count, float *y);

#endif
