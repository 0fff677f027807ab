/* Fitting Q4_K's grid to a block (matrix.h has the layout): a step and an offset for each part of 32 elements. */
#ifndef FVLM_KERNELS_Q4_K_H
#define FVLM_KERNELS_Q4_K_H

#include "kernels/quantize.h"

/* Element i of part p is d * scales[p] * q - dmin * least[p], with q[p * 32 + i] from 0 to 15. */
typedef struct fvlm_q4_k {
    float d, dmin; /* numbers that fp16 has */
    uint8_t scales[FVLM_BLOCK_MOST / FVLM_BLOCK_PART], least[FVLM_BLOCK_MOST / FVLM_BLOCK_PART]; /* 6 bits */
    int8_t q[FVLM_BLOCK_MOST];
} fvlm_q4_k;

/* Search for the least squared error of x[256], each element's counted `importance` times (NULL: once). The same bits
 * from every one; that of this build's architecture exists. */
typedef void fvlm_q4_k_fit(const float *x, const float *importance, fvlm_q4_k *found);
extern fvlm_q4_k_fit fvlm_q4_k_fit_reference, fvlm_q4_k_fit_avx2;

#endif
