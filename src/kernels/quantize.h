/* Writing weights in GGUF's block types (matrix.h has their layout).
 *
 * Q8_0 and Q4_0 are rounded as ggml's own reference does, to the bit. Q4_K is searched more thoroughly, from ggml's
 * scales among others, so that the squared error of a block is never larger than ggml's.
 */
#ifndef FVLM_KERNELS_QUANTIZE_H
#define FVLM_KERNELS_QUANTIZE_H

#include "kernels/matrix.h"

/* y = x[count] as F32, F16, BF16 or a block type, of whose blocks count is a multiple. */
void fvlm_from_float(fvlm_dtype type, const float *x, size_t count, void *y);

#define FVLM_BLOCK_PART 32  /* elements that share a step */
#define FVLM_BLOCK_MOST 256 /* elements of the largest block */

/* What a block's elements may be: steps[part] * q + offsets[part], q a whole number from low to high. */
typedef struct fvlm_block_grid {
    float steps[FVLM_BLOCK_MOST / FVLM_BLOCK_PART], offsets[FVLM_BLOCK_MOST / FVLM_BLOCK_PART];
    int low, high;
} fvlm_block_grid;

/* The grid on which the block x[elements of a block] has the least squared error, each element's counted
 * `importance` times (NULL: once); its scales are written to the block y. */
void fvlm_block_fit(fvlm_dtype type, const float *x, const float *importance, uint8_t *y, fvlm_block_grid *grid);
/* The nearest q of an element of part `part`. */
int fvlm_block_round(const fvlm_block_grid *grid, size_t part, float x);
/* Write the q of each element to y, beside the scales. */
void fvlm_block_pack(fvlm_dtype type, const int8_t *q, uint8_t *y);

#endif
