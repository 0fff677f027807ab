/* What this machine reaches at most: the roof that a model's speed is held against. */
#ifndef FASTVLM_ROOFLINE_H
#define FASTVLM_ROOFLINE_H

#include "fastvlm/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Operations a second, where a multiplication and its addition are two. 0: no kernel for it at this instruction set. */
typedef struct fvlm_roofline {
    double fp32, bf16, int8;
    double read; /* bytes a second from main memory */
} fvlm_roofline;

/* Measure with `threads` threads (at least 1) under the mask of fvlm_cpu_mask: loops that compute in registers alone,
 * and one that only reads, over more memory than the caches hold. Takes about a second; the best of several rounds
 * counts, but other work on the machine still lowers it. */
FVLM_API fvlm_status fvlm_roofline_measure(int threads, fvlm_roofline *roofline, fvlm_error *error);

#ifdef __cplusplus
}
#endif
#endif
