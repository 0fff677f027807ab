/* The members of fvlm_packed_kernels that have sources of their own. */
#ifndef FVLM_KERNELS_VECTOR_PACKED_PARTS_H
#define FVLM_KERNELS_VECTOR_PACKED_PARTS_H

#include "kernels/packed_block.h"
#include "kernels/vector/vector.h"

void FVLM_FOR_ISA(fvlm_packed_attend)(const fvlm_packed_chunk *call);
void FVLM_FOR_ISA(fvlm_packed_convolve)(const fvlm_depthwise *conv, const uint32_t *weights, const float *x,
                                        const fvlm_conv_area *area);

#endif
