/* Softmax cross-entropy, a chunk of rows at a time: the caller never holds the logits of a whole text. */
#ifndef FVLM_KERNELS_LOSS_H
#define FVLM_KERNELS_LOSS_H

#include <stdint.h>

#include "base/pool.h"

/* losses[rows] = -log softmax(logits)[label] for logits[rows, vocabulary] and labels[rows] within the vocabulary. The
 * logits are scratch afterwards. */
void fvlm_cross_entropy(fvlm_pool *pool, float *logits, size_t rows, size_t vocabulary, const int32_t *labels,
                        float *losses);

/* The same, leaving in `logits` the gradient of factor times the sum of the losses. */
void fvlm_cross_entropy_backward(fvlm_pool *pool, float *logits, size_t rows, size_t vocabulary, const int32_t *labels,
                                 float factor, float *losses);

#endif
