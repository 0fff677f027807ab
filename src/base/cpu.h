/* Which instruction sets the kernels may use. */
#ifndef FVLM_BASE_CPU_H
#define FVLM_BASE_CPU_H

#include <stddef.h>

#include "base/error.h"

enum {
    FVLM_CPU_AVX2 = 1 << 0,        /* AVX2, FMA, F16C, BMI2 */
    FVLM_CPU_AVX512 = 1 << 1,      /* F, BW, DQ, VL */
    FVLM_CPU_AVX512_VNNI = 1 << 2, /* int8 dot products */
    FVLM_CPU_AVX512_BF16 = 1 << 3,
    FVLM_CPU_AVX_VNNI = 1 << 4,
    FVLM_CPU_AMX = 1 << 5, /* tiles of bf16 and of int8, which the system lets this process use */
    FVLM_CPU_NEON = 1 << 8,
    FVLM_CPU_DOTPROD = 1 << 9,
    FVLM_CPU_I8MM = 1 << 10,
    FVLM_CPU_ARM_BF16 = 1 << 11, /* products of bf16 */
    FVLM_CPU_WASM_SIMD = 1 << 16
};

/* Flags of this machine under the mask; the first call detects and reads FVLM_CPU_MASK. Thread safe. */
unsigned fvlm_cpu_flags(void);
/* Level names are those of fvlm_cpu_mask (fastvlm/engine.h). */
fvlm_status fvlm_cpu_set_level(const char *level, fvlm_error *error);
/* The highest level that `flags` reaches, as fvlm_cpu_mask spells it; static. */
const char *fvlm_cpu_level_name(unsigned flags);
/* Processors the system lets this process use, at least 1. */
int fvlm_cpu_count(void);
/* Data cache bytes of level 1 to 3, or a cautious guess where the system does not tell. */
size_t fvlm_cpu_cache_bytes(int level);

#endif
