/* What an instruction set provides to measure its own limits; single-threaded.
 *
 * The loops of operations take `seeds`, two small numbers, so that nothing is known at compile time, and leave a sum of
 * what they computed in seeds[0]. They return the operations done.
 */
#ifndef FVLM_KERNELS_ROOFLINE_BODY_H
#define FVLM_KERNELS_ROOFLINE_BODY_H

#include <stddef.h>
#include <stdint.h>

typedef struct fvlm_roofline_kernels {
    double (*fp32)(size_t rounds, float seeds[2]);
    float (*read)(const float *memory, size_t count); /* a sum of them; count is a multiple of 1024 */
} fvlm_roofline_kernels;

/* Dot products of low precision. */
typedef struct fvlm_roofline_dot_kernels {
    double (*bf16)(size_t rounds, float seeds[2]);
    double (*int8)(size_t rounds, float seeds[2]);
} fvlm_roofline_dot_kernels;

/* Those of this build's architecture exist. */
extern const fvlm_roofline_kernels fvlm_roofline_kernels_avx2, fvlm_roofline_kernels_avx512, fvlm_roofline_kernels_neon;
extern const fvlm_roofline_dot_kernels fvlm_roofline_dot_kernels_avx2, fvlm_roofline_dot_kernels_avx512vnni,
    fvlm_roofline_dot_kernels_avx512bf16, fvlm_roofline_dot_kernels_amx;

#endif
