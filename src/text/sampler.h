/* From logits to the next token, in the order of transformers' warpers: repetition penalty, temperature, top-k, top-p,
 * min-p, then softmax. */
#ifndef FVLM_TEXT_SAMPLER_H
#define FVLM_TEXT_SAMPLER_H

#include <stdint.h>

#include "base/error.h"
#include "fastvlm/session.h"

typedef struct fvlm_sampler fvlm_sampler; /* holds its workspace and the random state */

fvlm_status fvlm_sampler_create(const fvlm_sampling *sampling, size_t vocabulary, fvlm_sampler **sampler,
                                fvlm_error *error);
void fvlm_sampler_destroy(fvlm_sampler **sampler);

/* Probabilities [vocabulary] of the next token; history [count] are prompt and answer so far (ids outside the
 * vocabulary, such as image positions, are passed over). Valid until the next call. */
const float *fvlm_sampler_probabilities(fvlm_sampler *sampler, const float *logits, const int32_t *history,
                                        size_t count);

/* The next token: the largest logit (first of equals) at temperature 0, after the repetition penalty; otherwise a draw.
 * The n-th draw depends only on seed and n. */
int32_t fvlm_sampler_next(fvlm_sampler *sampler, const float *logits, const int32_t *history, size_t count);

#endif
