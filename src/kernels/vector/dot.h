/* Dot products of low precision, in the style of vector.h.
 *
 * A unit is 4 bytes along k: two bf16 numbers or four 8-bit integers. vd is VF_LANES units, or VF_LANES int32 sums.
 * Where the instruction set has no instruction for it, a dot product of bf16 is two fused multiply-adds, and one of
 * integers goes through 16-bit sums of two products, which holds them only if activations keep to 7 bits:
 * DOT_LEVELS is the largest integer that an activation may become.
 *
 * Where activations are signed and weights rounded to integers, these become DOT_ZERO + integer, with integers up to
 * DOT_WEIGHTS, as the product needs it; vd_dot_panel multiplies DOT_OFFSET + integer. 8-bit weights q that are used as
 * they are meet vd_dot_q8, which multiplies q - DOT_Q8_ZERO.
 */
#ifndef FVLM_KERNELS_VECTOR_DOT_H
#define FVLM_KERNELS_VECTOR_DOT_H

#include <stdbool.h>

#include "kernels/vector/vector.h"

/* One instruction multiplies bf16. */
#if defined(__AVX512BF16__) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
enum { DOT_BF16 = true };
#else
enum { DOT_BF16 = false };
#endif

/* clang-format off */

#if defined(__AVX512F__)

enum { DOT_ROWS = 14 }; /* rows of a tile: 28 sums, 2 vectors of weights, 1 of activations */
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
FVLM_INLINE vf vd_as_float(vd a) { return _mm512_castsi512_ps(a); } /* the bits */
/* The first and the second bf16 number of each unit. */
FVLM_INLINE vf vd_first_bf16(vd a) { return _mm512_castsi512_ps(_mm512_slli_epi32(a, 16)); }
FVLM_INLINE vf vd_second_bf16(vd a) { return _mm512_castsi512_ps(_mm512_and_si512(a, _mm512_set1_epi32(-0x10000))); }
/* Units of two numbers, rounded to nearest, and away from 0 halfway. */
FVLM_INLINE vd vd_pair_bf16(vf first, vf second)
{
    __m512i half = _mm512_set1_epi32(0x8000);
    __m512i low = _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(first), half), 16);
    __m512i high = _mm512_add_epi32(_mm512_castps_si512(second), half);
    return _mm512_or_si512(low, _mm512_and_si512(high, _mm512_set1_epi32(-0x10000)));
}
#if defined(__AVX512BF16__)
FVLM_INLINE vf vd_dot_bf16(vf sum, vd a, vd b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
/* VF_LANES numbers, rounded to nearest even. */
FVLM_INLINE void vf_store_bf16(uint16_t *p, vf a) { _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh(a)); }
/* The numbers 2^(x / 128 - 127), of a's lanes and then b's, to 0.7 %, with 0 for x below 0: x as the bits of a number
 * is that but for its mantissa, from which is taken what two neighbouring ones have too much. */
FVLM_INLINE vd vd_exp2_bf16(vf a, vf b)
{
    static const uint16_t excess[64] = {0, 1, 1, 2, 2, 3, 4, 4, 5, 5, 5, 6, 6, 7, 7, 8, 8, 8, 9, 9, 9, 9, 10, 10, 10, 10, 10, 11, 11, 11, 11, 11,
                                        11, 11, 11, 11, 11, 11, 11, 11, 11, 10, 10, 10, 10, 10, 9, 9, 9, 8, 8, 8, 7, 7, 6, 6, 5, 5, 4, 3, 3, 2, 1, 1};
    __m512i bits = _mm512_packs_epi32(_mm512_cvtps_epi32(a), _mm512_cvtps_epi32(b));
    bits = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), bits);
    bits = _mm512_max_epi16(bits, _mm512_setzero_si512());
    __m512i less = _mm512_permutex2var_epi16(vd_load(excess), _mm512_srli_epi16(bits, 1), vd_load(excess + 32));
    return _mm512_sub_epi16(bits, less);
}
#else
FVLM_INLINE vf vd_dot_bf16(vf sum, vd a, vd b)
{
    return vf_fma(vd_second_bf16(a), vd_second_bf16(b), vf_fma(vd_first_bf16(a), vd_first_bf16(b), sum));
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
#if defined(__AVX512VNNI__)
#define DOT_LEVELS 255
/* a unsigned, b signed. Written as assembly because gcc 12 copies and spills the sums around the intrinsic, which
 * halves the speed of a tile. */
FVLM_INLINE vd vd_dot_u8s8(vd sum, vd a, vd b)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
}
#else
#define DOT_LEVELS 127
FVLM_INLINE vd vd_dot_u8s8(vd sum, vd a, vd b)
{
    __m512i pairs = _mm512_maddubs_epi16(a, b);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
#endif
/* VF_LANES integers nearest to a, within 0..255 and -128..127. */
FVLM_INLINE void vf_store_u8(uint8_t *p, vf a)
{
    __m512i whole = _mm512_max_epi32(_mm512_cvtps_epi32(a), _mm512_setzero_si512());
    _mm_storeu_si128((__m128i *)p, _mm512_cvtusepi32_epi8(whole));
}
/* The same of four vectors. */
FVLM_INLINE void vf_store4_u8(uint8_t *p, const vf a[4])
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i first = _mm512_packs_epi32(_mm512_cvtps_epi32(a[0]), _mm512_cvtps_epi32(a[1]));
    __m512i last = _mm512_packs_epi32(_mm512_cvtps_epi32(a[2]), _mm512_cvtps_epi32(a[3]));
    _mm512_storeu_si512(p, _mm512_permutexvar_epi32(order, _mm512_packus_epi16(first, last)));
}
FVLM_INLINE void vf_store_i8(int8_t *p, vf a) { _mm_storeu_si128((__m128i *)p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a))); }
FVLM_INLINE float vf_least(vf a) { return _mm512_reduce_min_ps(a); }

enum { DOT_ZERO = 128, DOT_OFFSET = DOT_ZERO, DOT_WEIGHTS = 127, DOT_Q8_ZERO = 0 };
FVLM_INLINE vd vd_set(int32_t x) { return _mm512_set1_epi32(x); }
FVLM_INLINE vd vd_low(vd a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); } /* low halves of bytes */
FVLM_INLINE vd vd_high(vd a) { return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(15)); }
FVLM_INLINE vd vd_flip(vd a) { return _mm512_xor_si512(a, _mm512_set1_epi8(-128)); } /* q - 128 to q, and back */
FVLM_INLINE vd vd_dot_panel(vd sum, vd weights, vd x) { return vd_dot_u8s8(sum, weights, x); }
FVLM_INLINE vd vd_dot_u4(vd sum, vd q, vd x) { return vd_dot_u8s8(sum, q, x); }
FVLM_INLINE vd vd_dot_q8(vd sum, vd q, vd x) { return vd_dot_u8s8(sum, q, x); }
/* 16 or 32 bytes each from p, p + stride and so on. */
FVLM_INLINE vd vd_load_16(const uint8_t *p, size_t stride)
{
    /* Blends of broadcast loads, as inserting would keep the two ports of shuffles busy. */
    __m512i a = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)p));
    a = _mm512_mask_broadcast_i32x4(a, 0x00f0, _mm_loadu_si128((const __m128i *)(p + stride)));
    a = _mm512_mask_broadcast_i32x4(a, 0x0f00, _mm_loadu_si128((const __m128i *)(p + 2 * stride)));
    return _mm512_mask_broadcast_i32x4(a, 0xf000, _mm_loadu_si128((const __m128i *)(p + 3 * stride)));
}
FVLM_INLINE vd vd_load_32(const uint8_t *p, size_t stride)
{
    __m512i a = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_inserti64x4(a, _mm256_loadu_si256((const __m256i *)(p + stride)), 1);
}
/* Lane i of vf_spread(p, vf_lanes(each, step)) is p[i / each * step]; VF_LANES of p may be read. */
typedef __m512i vf_index;
FVLM_INLINE vf_index vf_lanes(size_t each, size_t step)
{
    int32_t lanes[16];
    for (size_t i = 0; i < 16; i++)
        lanes[i] = (int32_t)(i / each * step);
    return _mm512_loadu_si512(lanes);
}
FVLM_INLINE vf vf_spread(const float *p, vf_index index) { return _mm512_permutexvar_ps(index, vf_load(p)); }
/* Lane i of vf_spread_f16(p, vf_lanes_f16(each, bytes)) is the fp16 number at p[i / each * bytes]; 64 bytes of p may be
 * read. */
typedef __m512i vf_index_f16;
FVLM_INLINE vf_index_f16 vf_lanes_f16(size_t each, size_t bytes)
{
    int16_t lanes[32] = {0};
    for (size_t i = 0; i < 16; i++)
        lanes[i] = (int16_t)(i / each * bytes / 2);
    return _mm512_loadu_si512(lanes);
}
FVLM_INLINE vf vf_spread_f16(const uint8_t *p, vf_index_f16 index)
{
    return _mm512_cvtph_ps(_mm512_castsi512_si256(_mm512_permutexvar_epi16(index, vd_load(p))));
}

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
FVLM_INLINE vf vd_as_float(vd a) { return _mm256_castsi256_ps(a); }
FVLM_INLINE vf vd_first_bf16(vd a) { return _mm256_castsi256_ps(_mm256_slli_epi32(a, 16)); }
FVLM_INLINE vf vd_second_bf16(vd a) { return _mm256_castsi256_ps(_mm256_and_si256(a, _mm256_set1_epi32(-0x10000))); }
FVLM_INLINE vd vd_pair_bf16(vf first, vf second)
{
    __m256i half = _mm256_set1_epi32(0x8000);
    __m256i low = _mm256_srli_epi32(_mm256_add_epi32(_mm256_castps_si256(first), half), 16);
    __m256i high = _mm256_add_epi32(_mm256_castps_si256(second), half);
    return _mm256_or_si256(low, _mm256_and_si256(high, _mm256_set1_epi32(-0x10000)));
}
FVLM_INLINE vf vd_dot_bf16(vf sum, vd a, vd b)
{
    return vf_fma(vd_second_bf16(a), vd_second_bf16(b), vf_fma(vd_first_bf16(a), vd_first_bf16(b), sum));
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

enum { DOT_ZERO = 64, DOT_OFFSET = DOT_ZERO, DOT_WEIGHTS = 63, DOT_Q8_ZERO = 128 };
FVLM_INLINE vd vd_set(int32_t x) { return _mm256_set1_epi32(x); }
FVLM_INLINE vd vd_low(vd a) { return _mm256_and_si256(a, _mm256_set1_epi8(15)); }
FVLM_INLINE vd vd_high(vd a) { return _mm256_and_si256(_mm256_srli_epi16(a, 4), _mm256_set1_epi8(15)); }
FVLM_INLINE vd vd_flip(vd a) { return _mm256_xor_si256(a, _mm256_set1_epi8(-128)); }
FVLM_INLINE vd vd_dot_panel(vd sum, vd weights, vd x) { return vd_dot_u8s8(sum, weights, x); }
FVLM_INLINE vd vd_dot_u4(vd sum, vd q, vd x) { return vd_dot_u8s8(sum, q, x); }
/* Sums of two products of up to 128 x 127 fit 16 bits: |q - 128| times x with its sign. */
FVLM_INLINE vd vd_dot_q8(vd sum, vd q, vd x)
{
    __m256i w = vd_flip(q);
    return vd_dot_u8s8(sum, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
}
FVLM_INLINE vd vd_load_16(const uint8_t *p, size_t stride)
{
    __m256i a = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)p));
    return _mm256_inserti128_si256(a, _mm_loadu_si128((const __m128i *)(p + stride)), 1);
}
FVLM_INLINE vd vd_load_32(const uint8_t *p, size_t stride)
{
    (void)stride;
    return vd_load(p);
}
typedef __m256i vf_index;
FVLM_INLINE vf_index vf_lanes(size_t each, size_t step)
{
    int32_t lanes[8];
    for (size_t i = 0; i < 8; i++)
        lanes[i] = (int32_t)(i / each * step);
    return _mm256_loadu_si256((const __m256i *)lanes);
}
FVLM_INLINE vf vf_spread(const float *p, vf_index index) { return _mm256_permutevar8x32_ps(vf_load(p), index); }
typedef size_t vf_index_f16; /* how far the number of the last four lanes is from that of the first */
FVLM_INLINE vf_index_f16 vf_lanes_f16(size_t each, size_t bytes) { return each == 4 ? bytes : 0; }
FVLM_INLINE vf vf_spread_f16(const uint8_t *p, vf_index_f16 index)
{
    int16_t first, last;
    memcpy(&first, p, sizeof first);
    memcpy(&last, p + index, sizeof last);
    return _mm256_cvtph_ps(_mm_unpacklo_epi64(_mm_set1_epi16(first), _mm_set1_epi16(last)));
}

#else /* NEON */

#define DOT_LEVELS 127
typedef int32x4_t vd;

FVLM_INLINE vd vd_load(const void *p) { return vreinterpretq_s32_u8(vld1q_u8(p)); }
FVLM_INLINE void vd_store(void *p, vd a) { vst1q_u8(p, vreinterpretq_u8_s32(a)); }
FVLM_INLINE vd vd_zero(void) { return vdupq_n_s32(0); }
FVLM_INLINE vd vd_spread(const void *p)
{
    int32_t unit;
    memcpy(&unit, p, sizeof unit);
    return vdupq_n_s32(unit);
}
FVLM_INLINE vf vd_float(vd a) { return vcvtq_f32_s32(a); }
FVLM_INLINE vf vd_as_float(vd a) { return vreinterpretq_f32_s32(a); }
FVLM_INLINE vf vd_first_bf16(vd a) { return vreinterpretq_f32_s32(vshlq_n_s32(a, 16)); }
FVLM_INLINE vf vd_second_bf16(vd a) { return vreinterpretq_f32_s32(vandq_s32(a, vdupq_n_s32(-0x10000))); }
FVLM_INLINE vd vd_pair_bf16(vf first, vf second)
{
    uint32x4_t half = vdupq_n_u32(0x8000);
    uint32x4_t low = vaddq_u32(vreinterpretq_u32_f32(first), half);
    uint32x4_t high = vaddq_u32(vreinterpretq_u32_f32(second), half);
    return vreinterpretq_s32_u32(vsriq_n_u32(high, low, 16));
}
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
/* Products are exact; their sum and then that with `sum` are rounded to odd, and numbers below 2^-126 are 0. */
FVLM_INLINE vf vd_dot_bf16(vf sum, vd a, vd b) { return vbfdotq_f32(sum, vreinterpretq_bf16_s32(a), vreinterpretq_bf16_s32(b)); }
/* The same for 2 rows by 2 columns, each two units deep; the first are added first, to the bits that vd_dot_bf16 gives. */
FVLM_INLINE vf vd_dot_pairs_bf16(vf sums, vd rows, vd columns)
{
    return vbfmmlaq_f32(sums, vreinterpretq_bf16_s32(rows), vreinterpretq_bf16_s32(columns));
}
FVLM_INLINE void vf_store_bf16(uint16_t *p, vf a) { vst1_u16(p, vreinterpret_u16_bf16(vcvt_bf16_f32(a))); }
#else
FVLM_INLINE vf vd_dot_bf16(vf sum, vd a, vd b)
{
    return vf_fma(vd_second_bf16(a), vd_second_bf16(b), vf_fma(vd_first_bf16(a), vd_first_bf16(b), sum));
}
FVLM_INLINE void vf_store_bf16(uint16_t *p, vf a)
{
    uint32x4_t bits = vreinterpretq_u32_f32(a), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    rounded = vbslq_u32(vceqq_f32(a, a), rounded, vorrq_u32(bits, vdupq_n_u32(0x400000)));
    vst1_u16(p, vshrn_n_u32(rounded, 16));
}
#endif
FVLM_INLINE vd vd_dot_u8s8(vd sum, vd a, vd b)
{
    int8x16_t x = vreinterpretq_s8_s32(a), w = vreinterpretq_s8_s32(b);
    int16x8_t low = vmull_s8(vget_low_s8(x), vget_low_s8(w)), high = vmull_s8(vget_high_s8(x), vget_high_s8(w));
    return vpadalq_s16(sum, vpaddq_s16(low, high));
}
FVLM_INLINE void vf_store_u8(uint8_t *p, vf a)
{
    uint16x4_t halves = vqmovun_s32(vcvtnq_s32_f32(a));
    uint32_t word = vget_lane_u32(vreinterpret_u32_u8(vqmovn_u16(vcombine_u16(halves, halves))), 0);
    memcpy(p, &word, sizeof word);
}
FVLM_INLINE void vf_store_i8(int8_t *p, vf a)
{
    int16x4_t halves = vqmovn_s32(vcvtnq_s32_f32(a));
    uint32_t word = vget_lane_u32(vreinterpret_u32_s8(vqmovn_s16(vcombine_s16(halves, halves))), 0);
    memcpy(p, &word, sizeof word);
}
FVLM_INLINE float vf_least(vf a) { return vminvq_f32(a); }

#if defined(__ARM_FEATURE_DOTPROD)
enum { DOT_ROWS = 3 }; /* 24 sums */
enum { DOT_WEIGHTS = 127, DOT_Q8_ZERO = 128 };
FVLM_INLINE vd vd_set(int32_t x) { return vdupq_n_s32(x); }
FVLM_INLINE uint8x16_t vd_bytes(vd a) { return vreinterpretq_u8_s32(a); }
FVLM_INLINE vd vd_low(vd a) { return vreinterpretq_s32_u8(vandq_u8(vd_bytes(a), vdupq_n_u8(15))); }
FVLM_INLINE vd vd_high(vd a) { return vreinterpretq_s32_u8(vshrq_n_u8(vd_bytes(a), 4)); }
FVLM_INLINE vd vd_flip(vd a) { return vreinterpretq_s32_u8(veorq_u8(vd_bytes(a), vdupq_n_u8(128))); }
FVLM_INLINE vd vd_dot_s8(vd sum, vd a, vd b) { return vdotq_s32(sum, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b)); }
#if defined(__ARM_FEATURE_MATMUL_INT8)
enum { DOT_ZERO = 128, DOT_OFFSET = DOT_ZERO };
FVLM_INLINE vd vd_dot_panel(vd sum, vd weights, vd x) { return vusdotq_s32(sum, vd_bytes(weights), vreinterpretq_s8_s32(x)); }
#else
enum { DOT_ZERO = 128, DOT_OFFSET = 0 };
FVLM_INLINE vd vd_dot_panel(vd sum, vd weights, vd x) { return vd_dot_s8(sum, vd_flip(weights), x); }
#endif
FVLM_INLINE vd vd_dot_u4(vd sum, vd q, vd x) { return vd_dot_s8(sum, q, x); }
FVLM_INLINE vd vd_dot_q8(vd sum, vd q, vd x) { return vd_dot_s8(sum, vd_flip(q), x); }
/* A vector is part of one group, whose scale is all that spreads. */
FVLM_INLINE vd vd_load_16(const uint8_t *p, size_t stride)
{
    (void)stride;
    return vd_load(p);
}
FVLM_INLINE vd vd_load_32(const uint8_t *p, size_t stride)
{
    (void)stride;
    return vd_load(p);
}
typedef struct { char none; } vf_index;
FVLM_INLINE vf_index vf_lanes(size_t each, size_t step)
{
    (void)each, (void)step;
    return (vf_index){0};
}
FVLM_INLINE vf vf_spread(const float *p, vf_index index)
{
    (void)index;
    return vdupq_n_f32(*p);
}
typedef vf_index vf_index_f16;
FVLM_INLINE vf_index_f16 vf_lanes_f16(size_t each, size_t bytes) { return vf_lanes(each, bytes); }
FVLM_INLINE vf vf_spread_f16(const uint8_t *p, vf_index_f16 index)
{
    uint16_t half;
    (void)index;
    memcpy(&half, p, sizeof half);
    return vf_set_f16(half);
}
#endif

#endif

#if !defined(__AVX512F__)
FVLM_INLINE void vf_store4_u8(uint8_t *p, const vf a[4])
{
    for (int i = 0; i < 4; i++)
        vf_store_u8(p + i * VF_LANES, a[i]);
}
#endif
/* clang-format on */
#endif
