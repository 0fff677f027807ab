/* AdamW (arXiv 1711.05101) and what goes with it: the gradient's norm, and the learning rate over time. */
#ifndef FVLM_TRAIN_OPTIMIZER_H
#define FVLM_TRAIN_OPTIMIZER_H

#include "fastvlm/train.h"
#include "train/parameters.h"

typedef struct fvlm_adamw {
    double beta1, beta2, eps;
    double decay;
    bool decay_all;  /* otherwise matrices and convolutions only, not norms, biases and scales */
    double average;  /* decay of the moving average */
    double rates[4]; /* by part: vision, projector, language, adapter */
} fvlm_adamw;

/* The sum of squares of all gradients, of this process's share of them. Sums run in a fixed order. */
double fvlm_gradient_square(const fvlm_parameters *set, fvlm_pool *pool, fvlm_status *status, fvlm_error *error);

/* Step `step` (from 1) of this process's share with gradients times `scale` and rates times `factor`. */
void fvlm_adamw_step(const fvlm_adamw *adamw, fvlm_parameters *set, fvlm_pool *pool, uint64_t step, double scale,
                     double factor);

/* The factor of the learning rate for step `step` (from 0) of `steps`. */
double fvlm_schedule_factor(fvlm_schedule schedule, uint64_t step, uint64_t warmup, uint64_t steps);

#endif
