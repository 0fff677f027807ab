/* From logits to the next token, in the order and with the arithmetic of transformers' processors: repetition penalty,
 * temperature, top-k, top-p, min-p, then softmax. */
#ifndef FVLM_TEXT_SAMPLER_H
#define FVLM_TEXT_SAMPLER_H

#include <stdint.h>

#include "base/error.h"
#include "fastvlm/session.h"

/* Holds its workspace and the number of draws so far; belongs to one thread. */
typedef struct fvlm_sampler fvlm_sampler;

/* Settings out of range are an error that names them. */
fvlm_status fvlm_sampler_create(const fvlm_sampling *sampling, size_t vocabulary, fvlm_sampler **sampler,
                                fvlm_error *error);
void fvlm_sampler_destroy(fvlm_sampler **sampler);

/* Probabilities [vocabulary] of the next token from logits [vocabulary]; at temperature 0 all of it is on the greedy
 * token. history [count] are the tokens the repetition penalty is for (ids outside the vocabulary, such as image
 * positions, are passed over). Logits that are no numbers count as the lowest. Valid until the next call. */
const float *fvlm_sampler_probabilities(fvlm_sampler *sampler, const float *logits, const int32_t *history,
                                        size_t count);

/* The next token: the largest logit (first of equals) at temperature 0, after the repetition penalty; otherwise a draw.
 * The n-th draw depends only on seed and n: its number in [0, 1) is fvlm_sampler_uniform(seed, n). */
int32_t fvlm_sampler_next(fvlm_sampler *sampler, const float *logits, const int32_t *history, size_t count);

/* 53 random bits as a number in [0, 1), by SplitMix64's mixing function over a counter: no state, so that a run can be
 * repeated or taken up anywhere. */
double fvlm_sampler_uniform(uint64_t seed, uint64_t n);

/* logits [vocabulary] after the repetition penalty alone, which falls on each token of the history once. Valid until
 * the next call. Beam search applies it to log-probabilities. */
const float *fvlm_sampler_penalize(fvlm_sampler *sampler, const float *logits, const int32_t *history, size_t count);

#endif
