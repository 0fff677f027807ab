/* From rows of weights to a panel of them, 4 bytes along k at a time. */
#ifndef FVLM_KERNELS_VECTOR_INTERLEAVE_H
#define FVLM_KERNELS_VECTOR_INTERLEAVE_H

#include "kernels/vector/vector.h"

enum { INTERLEAVED = 32 }; /* rows of a panel */

/* panel[units, INTERLEAVED] of units of 4 bytes from rows [INTERLEAVED, units], which lie `stride` bytes apart and may
 * be read to the end of a vector. Units are moved as floats that nothing computes with. */
FVLM_INLINE void interleave(const uint8_t *rows, size_t stride, size_t units, void *panel)
{
    for (size_t k = 0; k < units; k += VF_LANES)
        for (int v = 0; v < INTERLEAVED / VF_LANES; v++) {
            vf square[VF_LANES];
            FVLM_UNROLL
            for (size_t i = 0; i < VF_LANES; i++)
                square[i] = vf_load((const float *)(const void *)(rows + ((size_t)v * VF_LANES + i) * stride) + k);
            vf_transpose(square);
            FVLM_UNROLL
            for (size_t i = 0; i < VF_LANES; i++)
                if (k + i < units)
                    vf_store((float *)panel + (k + i) * INTERLEAVED + v * VF_LANES, square[i]);
        }
}

#endif
