/* Attention's part of fvlm_packed_kernels, in a source of its own. */
#ifndef FVLM_KERNELS_VECTOR_PACKED_ATTENTION_H
#define FVLM_KERNELS_VECTOR_PACKED_ATTENTION_H

#include "kernels/packed_block.h"
#include "kernels/vector/vector.h"

void FVLM_FOR_ISA(fvlm_packed_attend)(const fvlm_packed_chunk *call);

#endif
