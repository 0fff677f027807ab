/* Numbers in 8 bits, a block of FVLM_BLOCK of them with the scale of its largest: dynamic tree codes (Dettmers et al.,
 * arXiv 2110.02861), for the optimiser's moments.
 *
 * A code's leading zeros say by which power of ten it is less than the scale, the bits behind them where it lies
 * between a tenth of that and all of it: small numbers keep their order of magnitude, large ones two digits.
 */
#ifndef FVLM_TRAIN_BLOCKWISE_H
#define FVLM_TRAIN_BLOCKWISE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FVLM_BLOCK 256

/* x[count] from codes [count], count at most FVLM_BLOCK. `is_signed` codes keep a bit for the sign. */
void fvlm_block_decode(bool is_signed, const uint8_t *codes, float scale, size_t count, float *x);
/* The codes of x[count], and their scale. What is not 0 does not become 0 where it is not signed: it is a divisor. */
float fvlm_block_encode(bool is_signed, const float *x, size_t count, uint8_t *codes);
/* Makes the tables; before the first use, on one thread. */
void fvlm_block_prepare(void);

#endif
