/* Dot products of low precision, in the style of vector.h.
 *
 * A unit is 4 bytes along k: two bf16 numbers or four 8-bit integers. vd is VF_LANES units, or VF_LANES int32 sums.
 * Where the instruction set has no instruction for it, a dot product of bf16 is two fused multiply-adds, and one of
 * integers goes through 16-bit sums of two products, which holds them only if activations keep to 7 bits:
 * DOT_LEVELS is the largest integer that an activation may become.
 */
#ifndef FVLM_KERNELS_VECTOR_DOT_H
#define FVLM_KERNELS_VECTOR_DOT_H

#include "kernels/vector/vector.h"

/* clang-format off */
#if defined(__AVX512F__)

enum { DOT_ROWS = 14 }; /* rows of a tile: 28 sums, 2 vectors of weights, 1 of activations */
#define DOT_LEVELS 255
typedef __m512i vd;

FVLM_INLINE vd vd_load(const void *p) { return _mm512_loadu_si512(p); }
FVLM_INLINE void vd_store(void *p, vd a) { _mm512_storeu_si512(p, a); }
FVLM_INLINE vd vd_zero(void) { return _mm512_setzero_si512(); }
/* The unit at p in every lane. */
FVLM_INLINE vd vd_spread(const void *p)
{
    int32_t unit;
    memcpy(&unit, p, sizeof unit);
    return _mm512_set1_epi32(unit);
}
FVLM_INLINE vf vd_float(vd a) { return _mm512_cvtepi32_ps(a); }
#if defined(__AVX512BF16__)
FVLM_INLINE vf vd_dot_bf16(vf sum, vd a, vd b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
/* VF_LANES numbers, rounded to nearest even. */
FVLM_INLINE void vf_store_bf16(uint16_t *p, vf a) { _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh(a)); }
#else
FVLM_INLINE vf vd_dot_bf16(vf sum, vd a, vd b)
{
    const __m512i high = _mm512_set1_epi32((int)0xffff0000);
    sum = vf_fma(_mm512_castsi512_ps(_mm512_slli_epi32(a, 16)), _mm512_castsi512_ps(_mm512_slli_epi32(b, 16)), sum);
    return vf_fma(_mm512_castsi512_ps(_mm512_and_si512(a, high)), _mm512_castsi512_ps(_mm512_and_si512(b, high)), sum);
}
FVLM_INLINE void vf_store_bf16(uint16_t *p, vf a)
{
    __m512i bits = _mm512_castps_si512(a);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    rounded = _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), rounded, quiet);
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}
#endif
/* a unsigned, b signed. Written as assembly because gcc 12 copies and spills the sums around the intrinsic, which
 * halves the speed of a tile. */
FVLM_INLINE vd vd_dot_u8s8(vd sum, vd a, vd b)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
}
/* VF_LANES integers nearest to a, within 0..255 and -128..127. */
FVLM_INLINE void vf_store_u8(uint8_t *p, vf a)
{
    __m512i whole = _mm512_max_epi32(_mm512_cvtps_epi32(a), _mm512_setzero_si512());
    _mm_storeu_si128((__m128i *)p, _mm512_cvtusepi32_epi8(whole));
}
FVLM_INLINE void vf_store_i8(int8_t *p, vf a) { _mm_storeu_si128((__m128i *)p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a))); }
FVLM_INLINE float vf_least(vf a) { return _mm512_reduce_min_ps(a); }

#elif defined(__AVX2__)

enum { DOT_ROWS = 3 }; /* 12 sums */
#define DOT_LEVELS 127
typedef __m256i vd;

FVLM_INLINE vd vd_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
FVLM_INLINE void vd_store(void *p, vd a) { _mm256_storeu_si256((__m256i *)p, a); }
FVLM_INLINE vd vd_zero(void) { return _mm256_setzero_si256(); }
FVLM_INLINE vd vd_spread(const void *p)
{
    int32_t unit;
    memcpy(&unit, p, sizeof unit);
    return _mm256_set1_epi32(unit);
}
FVLM_INLINE vf vd_float(vd a) { return _mm256_cvtepi32_ps(a); }
FVLM_INLINE vf vd_dot_bf16(vf sum, vd a, vd b)
{
    const __m256i high = _mm256_set1_epi32((int)0xffff0000);
    sum = vf_fma(_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(b, 16)), sum);
    return vf_fma(_mm256_castsi256_ps(_mm256_and_si256(a, high)), _mm256_castsi256_ps(_mm256_and_si256(b, high)), sum);
}
FVLM_INLINE void vf_store_bf16(uint16_t *p, vf a)
{
    __m256i bits = _mm256_castps_si256(a);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256 quiet = _mm256_or_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(0x400000)));
    rounded = _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(rounded), quiet, _mm256_cmp_ps(a, a, _CMP_UNORD_Q)));
    __m256i halves = _mm256_packus_epi32(_mm256_srli_epi32(rounded, 16), _mm256_setzero_si256());
    _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(_mm256_permute4x64_epi64(halves, 0x08)));
}
FVLM_INLINE vd vd_dot_u8s8(vd sum, vd a, vd b)
{
    __m256i pairs = _mm256_maddubs_epi16(a, b);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
FVLM_INLINE __m128i vd_halves(vf a)
{
    __m256i whole = _mm256_cvtps_epi32(a);
    return _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
}
FVLM_INLINE void vf_store_u8(uint8_t *p, vf a)
{
    __m128i halves = vd_halves(a);
    _mm_storel_epi64((__m128i *)p, _mm_packus_epi16(halves, halves));
}
FVLM_INLINE void vf_store_i8(int8_t *p, vf a)
{
    __m128i halves = vd_halves(a);
    _mm_storel_epi64((__m128i *)p, _mm_packs_epi16(halves, halves));
}
FVLM_INLINE float vf_least(vf a) { return -vf_largest(vf_sub(vf_zero(), a)); }

#endif
/* clang-format on */
#endif
