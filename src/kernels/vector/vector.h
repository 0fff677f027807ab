/* The vector vocabulary: one set of names over AVX-512, AVX2, NEON and WebAssembly, so that a kernel is written once.
 *
 * A source in this folder is compiled once for each instruction set with FVLM_ISA set to its suffix (see meson.build).
 * vf is VF_LANES floats. The *_n forms move the first n lanes only, 0 <= n <= VF_LANES, never touch memory behind them,
 * and read 0 in the others. Pointers need the alignment of their element only.
 */
#ifndef FVLM_KERNELS_VECTOR_VECTOR_H
#define FVLM_KERNELS_VECTOR_VECTOR_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#elif defined(__wasm_simd128__)
#include <wasm_simd128.h>
#else
#error "no vector vocabulary for this instruction set"
#endif

/* FVLM_FOR_ISA(fvlm_x) is fvlm_x_avx2 where FVLM_ISA is avx2. */
#define FVLM_JOIN_(name, suffix) name##_##suffix
#define FVLM_JOIN(name, suffix) FVLM_JOIN_(name, suffix)
#define FVLM_FOR_ISA(name) FVLM_JOIN(name, FVLM_ISA)

/* Functions whose loops have constant counts once they are inlined, and the loops, whose arrays are then registers. */
#define FVLM_INLINE static inline __attribute__((always_inline, unused))
#if defined(__clang__)
#define FVLM_UNROLL _Pragma("clang loop unroll(full)")
#else
#define FVLM_UNROLL _Pragma("GCC unroll 32")
#endif

/* One line a name, to be read as a table. */
/* clang-format off */

#if defined(__AVX512F__)

#define VF_LANES 16
#define VF_REGISTERS 32
typedef __m512 vf;

FVLM_INLINE __mmask16 vf_mask(size_t n) { return (__mmask16)((1u << n) - 1); }
FVLM_INLINE vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
/* VF_LANES / 2 floats, each in two neighbouring lanes */
FVLM_INLINE vf vf_load_twice(const float *p)
{
    __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_loadu_ps(p)));
}
/* The sums of neighbouring lanes, in the first VF_LANES / 2 ones */
FVLM_INLINE vf vf_add_pairs(vf a)
{
    __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 2, 4, 6, 8, 10, 12, 14);
    return _mm512_permutexvar_ps(even, _mm512_add_ps(a, _mm512_permute_ps(a, 0xb1)));
}
FVLM_INLINE void vf_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
/* The same past the caches, to memory that is aligned to a vector; vf_streamed() orders it before what follows. */
FVLM_INLINE void vf_stream(float *p, vf a) { _mm512_stream_ps(p, a); }
FVLM_INLINE void vf_streamed(void) { _mm_sfence(); }
FVLM_INLINE vf vf_load_n(const float *p, size_t n) { return _mm512_maskz_loadu_ps(vf_mask(n), p); }
FVLM_INLINE void vf_store_n(float *p, vf a, size_t n) { _mm512_mask_storeu_ps(p, vf_mask(n), a); }
FVLM_INLINE vf vf_set(float x) { return _mm512_set1_ps(x); }
FVLM_INLINE vf vf_set_f16(uint16_t x) { return _mm512_cvtph_ps(_mm256_set1_epi16((short)x)); }
FVLM_INLINE vf vf_zero(void) { return _mm512_setzero_ps(); }
FVLM_INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
FVLM_INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
FVLM_INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
FVLM_INLINE vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
FVLM_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }   /* a b + c */
FVLM_INLINE vf vf_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); } /* c - a b */
FVLM_INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); } /* b where either is NaN */
FVLM_INLINE vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); } /* b where either is NaN */
FVLM_INLINE vf vf_sqrt(vf a) { return _mm512_sqrt_ps(a); }
FVLM_INLINE vf vf_round(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
FVLM_INLINE vf vf_abs(vf a) { return _mm512_abs_ps(a); }
FVLM_INLINE vf vf_copysign(vf size, vf sign)
{
    return _mm512_or_ps(vf_abs(size), _mm512_and_ps(sign, _mm512_set1_ps(-0.0f)));
}
/* a < b ? x : y, lane by lane */
FVLM_INLINE vf vf_select_less(vf a, vf b, vf x, vf y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
/* table[32] at the lowest 5 bits of each lane of `index` */
FVLM_INLINE vf vf_look_up(const float table[32], vf index)
{
    return _mm512_permutex2var_ps(vf_load(table), _mm512_castps_si512(index), vf_load(table + 16));
}
FVLM_INLINE float vf_sum(vf a) { return _mm512_reduce_add_ps(a); }
FVLM_INLINE float vf_largest(vf a) { return _mm512_reduce_max_ps(a); }
FVLM_INLINE vf vf_load_i8(const int8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
FVLM_INLINE vf vf_load_u8(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
FVLM_INLINE vf vf_load_bf16(const uint16_t *p)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
FVLM_INLINE vf vf_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
FVLM_INLINE vf vf_load_bf16_n(const uint16_t *p, size_t n)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(vf_mask(n), p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
FVLM_INLINE vf vf_load_f16_n(const uint16_t *p, size_t n)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(vf_mask(n), p));
}
/* a * 2^n for integral n; overflows to infinity and rounds through the subnormals to 0. */
FVLM_INLINE vf vf_scale2(vf a, vf n) { return _mm512_scalef_ps(a, n); }
/* The nearest number that the type has; bf16's NaNs are not looked after. */
FVLM_INLINE vf vf_round_f16(vf a)
{
    return _mm512_cvtph_ps(_mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
FVLM_INLINE vf vf_round_bf16(vf a)
{
    __m512i bits = _mm512_castps_si512(a), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    bits = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    return _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(-0x10000)));
}
/* The 16 nibbles of p's 8 bytes, lowest first. */
FVLM_INLINE vf vf_load_u4(const void *p)
{
    const __m512i shift = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
    const __m512i word = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    __m512i words = _mm512_castsi128_si512(_mm_loadl_epi64((const __m128i *)p));
    __m512i nibbles = _mm512_srlv_epi32(_mm512_permutexvar_epi32(word, words), shift);
    return _mm512_cvtepi32_ps(_mm512_and_si512(nibbles, _mm512_set1_epi32(15)));
}

/* Row i of the square r[VF_LANES] becomes its column i. */
FVLM_INLINE void vf_transpose(vf r[VF_LANES])
{
    __m512 t[16];
    /* Pairs of rows, then quads, within each 128-bit lane; then the lanes themselves, twice. */
    FVLM_UNROLL
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    FVLM_UNROLL
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    FVLM_UNROLL
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
    }
    FVLM_UNROLL
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

#elif defined(__AVX2__)

#define VF_LANES 8
#define VF_REGISTERS 16
typedef __m256 vf;

FVLM_INLINE __m256i vf_mask(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
FVLM_INLINE vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
FVLM_INLINE vf vf_load_twice(const float *p)
{
    __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), twice);
}
FVLM_INLINE vf vf_add_pairs(vf a)
{
    __m256i even = _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6);
    return _mm256_permutevar8x32_ps(_mm256_add_ps(a, _mm256_permute_ps(a, 0xb1)), even);
}
FVLM_INLINE void vf_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
FVLM_INLINE vf vf_load_n(const float *p, size_t n) { return _mm256_maskload_ps(p, vf_mask(n)); }
FVLM_INLINE void vf_store_n(float *p, vf a, size_t n) { _mm256_maskstore_ps(p, vf_mask(n), a); }
FVLM_INLINE vf vf_set(float x) { return _mm256_set1_ps(x); }
FVLM_INLINE vf vf_set_f16(uint16_t x) { return _mm256_cvtph_ps(_mm_set1_epi16((short)x)); }
FVLM_INLINE vf vf_zero(void) { return _mm256_setzero_ps(); }
FVLM_INLINE vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
FVLM_INLINE vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
FVLM_INLINE vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
FVLM_INLINE vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
FVLM_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
FVLM_INLINE vf vf_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }
FVLM_INLINE vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
FVLM_INLINE vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
FVLM_INLINE vf vf_sqrt(vf a) { return _mm256_sqrt_ps(a); }
FVLM_INLINE vf vf_round(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
FVLM_INLINE vf vf_abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
FVLM_INLINE vf vf_copysign(vf size, vf sign)
{
    return _mm256_or_ps(vf_abs(size), _mm256_and_ps(sign, _mm256_set1_ps(-0.0f)));
}
FVLM_INLINE vf vf_select_less(vf a, vf b, vf x, vf y)
{
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
FVLM_INLINE float vf_sum(vf a)
{
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
FVLM_INLINE float vf_largest(vf a)
{
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}
FVLM_INLINE vf vf_load_i8(const int8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
FVLM_INLINE vf vf_load_u8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
FVLM_INLINE vf vf_load_bf16(const uint16_t *p)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
FVLM_INLINE vf vf_load_f16(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
FVLM_INLINE vf vf_load_bf16_n(const uint16_t *p, size_t n)
{
    uint16_t whole[8] = {0};
    memcpy(whole, p, n * sizeof *p);
    return vf_load_bf16(whole);
}
FVLM_INLINE vf vf_load_f16_n(const uint16_t *p, size_t n)
{
    uint16_t whole[8] = {0};
    memcpy(whole, p, n * sizeof *p);
    return vf_load_f16(whole);
}
/* In two steps, since 2^n alone may leave the range of a float where a * 2^n does not; -300 < n < 250. */
FVLM_INLINE vf vf_scale2(vf a, vf n)
{
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1), bias = _mm256_set1_epi32(127);
    __m256i rest = _mm256_sub_epi32(whole, half);
    __m256 first = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    __m256 second = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
    return _mm256_mul_ps(_mm256_mul_ps(a, first), second);
}
FVLM_INLINE vf vf_round_f16(vf a)
{
    return _mm256_cvtph_ps(_mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
FVLM_INLINE vf vf_round_bf16(vf a)
{
    __m256i bits = _mm256_castps_si256(a), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    bits = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    return _mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32(-0x10000)));
}
/* The 8 nibbles of p's 4 bytes, lowest first. */
FVLM_INLINE vf vf_load_u4(const void *p)
{
    const __m256i shift = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    int32_t word;
    memcpy(&word, p, sizeof word);
    __m256i nibbles = _mm256_srlv_epi32(_mm256_set1_epi32(word), shift);
    return _mm256_cvtepi32_ps(_mm256_and_si256(nibbles, _mm256_set1_epi32(15)));
}

FVLM_INLINE void vf_transpose(vf r[VF_LANES])
{
    __m256 t[8];
    FVLM_UNROLL
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    FVLM_UNROLL
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    FVLM_UNROLL
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
        t[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
    }
    memcpy(r, t, sizeof t);
}

#elif defined(__ARM_NEON)

#define VF_LANES 4
#define VF_REGISTERS 32
typedef float32x4_t vf;

FVLM_INLINE vf vf_load(const float *p) { return vld1q_f32(p); }
FVLM_INLINE vf vf_load_twice(const float *p)
{
    float32x2_t two = vld1_f32(p);
    return vcombine_f32(vdup_lane_f32(two, 0), vdup_lane_f32(two, 1));
}
FVLM_INLINE vf vf_add_pairs(vf a) { return vpaddq_f32(a, a); }
FVLM_INLINE void vf_store(float *p, vf a) { vst1q_f32(p, a); }
FVLM_INLINE vf vf_load_n(const float *p, size_t n)
{
    float whole[4] = {0};
    memcpy(whole, p, n * sizeof *p);
    return vld1q_f32(whole);
}
FVLM_INLINE void vf_store_n(float *p, vf a, size_t n)
{
    float whole[4];
    vst1q_f32(whole, a);
    memcpy(p, whole, n * sizeof *p);
}
FVLM_INLINE vf vf_set(float x) { return vdupq_n_f32(x); }
FVLM_INLINE vf vf_set_f16(uint16_t x) { return vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(x))); }
FVLM_INLINE vf vf_zero(void) { return vdupq_n_f32(0); }
FVLM_INLINE vf vf_add(vf a, vf b) { return vaddq_f32(a, b); }
FVLM_INLINE vf vf_sub(vf a, vf b) { return vsubq_f32(a, b); }
FVLM_INLINE vf vf_mul(vf a, vf b) { return vmulq_f32(a, b); }
FVLM_INLINE vf vf_div(vf a, vf b) { return vdivq_f32(a, b); }
FVLM_INLINE vf vf_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
FVLM_INLINE vf vf_fnma(vf a, vf b, vf c) { return vfmsq_f32(c, a, b); }
FVLM_INLINE vf vf_max(vf a, vf b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
FVLM_INLINE vf vf_min(vf a, vf b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
FVLM_INLINE vf vf_sqrt(vf a) { return vsqrtq_f32(a); }
FVLM_INLINE vf vf_round(vf a) { return vrndnq_f32(a); }
FVLM_INLINE vf vf_abs(vf a) { return vabsq_f32(a); }
FVLM_INLINE vf vf_copysign(vf size, vf sign) { return vbslq_f32(vdupq_n_u32(0x80000000u), sign, size); }
FVLM_INLINE vf vf_select_less(vf a, vf b, vf x, vf y) { return vbslq_f32(vcltq_f32(a, b), x, y); }
FVLM_INLINE float vf_sum(vf a) { return vaddvq_f32(a); }
FVLM_INLINE float vf_largest(vf a) { return vmaxvq_f32(a); }
FVLM_INLINE vf vf_load_i8(const int8_t *p)
{
    int32_t word;
    memcpy(&word, p, sizeof word);
    int16x8_t wide = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(word)));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
}
FVLM_INLINE vf vf_load_u8(const uint8_t *p)
{
    uint32_t word;
    memcpy(&word, p, sizeof word);
    uint16x8_t wide = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(word)));
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide)));
}
FVLM_INLINE vf vf_load_bf16(const uint16_t *p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
FVLM_INLINE vf vf_load_f16(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
FVLM_INLINE vf vf_load_bf16_n(const uint16_t *p, size_t n)
{
    uint16_t whole[4] = {0};
    memcpy(whole, p, n * sizeof *p);
    return vf_load_bf16(whole);
}
FVLM_INLINE vf vf_load_f16_n(const uint16_t *p, size_t n)
{
    uint16_t whole[4] = {0};
    memcpy(whole, p, n * sizeof *p);
    return vf_load_f16(whole);
}
/* In two steps, since 2^n alone may leave the range of a float where a * 2^n does not; -300 < n < 250. */
FVLM_INLINE vf vf_scale2(vf a, vf n)
{
    int32x4_t whole = vcvtq_s32_f32(n), half = vshrq_n_s32(whole, 1), bias = vdupq_n_s32(127);
    int32x4_t rest = vsubq_s32(whole, half);
    float32x4_t first = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, bias), 23));
    float32x4_t second = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(rest, bias), 23));
    return vmulq_f32(vmulq_f32(a, first), second);
}
FVLM_INLINE vf vf_round_f16(vf a) { return vcvt_f32_f16(vcvt_f16_f32(a)); }
FVLM_INLINE vf vf_round_bf16(vf a)
{
    uint32x4_t bits = vreinterpretq_u32_f32(a), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    bits = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    return vreinterpretq_f32_u32(vandq_u32(bits, vdupq_n_u32(0xffff0000u)));
}
/* The 4 nibbles of p's 2 bytes, lowest first. */
FVLM_INLINE vf vf_load_u4(const void *p)
{
    const int32_t shifts[4] = {0, -4, -8, -12};
    uint16_t half;
    memcpy(&half, p, sizeof half);
    uint32x4_t nibbles = vshlq_u32(vdupq_n_u32(half), vld1q_s32(shifts));
    return vcvtq_f32_u32(vandq_u32(nibbles, vdupq_n_u32(15)));
}

FVLM_INLINE void vf_transpose(vf r[VF_LANES])
{
    float32x4x2_t low = vtrnq_f32(r[0], r[1]), high = vtrnq_f32(r[2], r[3]);
    r[0] = vcombine_f32(vget_low_f32(low.val[0]), vget_low_f32(high.val[0]));
    r[1] = vcombine_f32(vget_low_f32(low.val[1]), vget_low_f32(high.val[1]));
    r[2] = vcombine_f32(vget_high_f32(low.val[0]), vget_high_f32(high.val[0]));
    r[3] = vcombine_f32(vget_high_f32(low.val[1]), vget_high_f32(high.val[1]));
}

#else /* WebAssembly; it has no fused multiply-add */

#define VF_LANES 4
#define VF_REGISTERS 16
typedef v128_t vf;

FVLM_INLINE vf vf_load(const float *p) { return wasm_v128_load(p); }
FVLM_INLINE vf vf_load_twice(const float *p)
{
    v128_t two = wasm_v128_load64_zero(p);
    return wasm_i32x4_shuffle(two, two, 0, 0, 1, 1);
}
FVLM_INLINE vf vf_add_pairs(vf a)
{
    return wasm_f32x4_add(wasm_i32x4_shuffle(a, a, 0, 2, 0, 2), wasm_i32x4_shuffle(a, a, 1, 3, 1, 3));
}
FVLM_INLINE void vf_store(float *p, vf a) { wasm_v128_store(p, a); }
FVLM_INLINE vf vf_load_n(const float *p, size_t n)
{
    float whole[4] = {0};
    memcpy(whole, p, n * sizeof *p);
    return wasm_v128_load(whole);
}
FVLM_INLINE void vf_store_n(float *p, vf a, size_t n)
{
    float whole[4];
    wasm_v128_store(whole, a);
    memcpy(p, whole, n * sizeof *p);
}
FVLM_INLINE vf vf_set(float x) { return wasm_f32x4_splat(x); }
FVLM_INLINE vf vf_zero(void) { return wasm_f32x4_splat(0); }
FVLM_INLINE vf vf_add(vf a, vf b) { return wasm_f32x4_add(a, b); }
FVLM_INLINE vf vf_sub(vf a, vf b) { return wasm_f32x4_sub(a, b); }
FVLM_INLINE vf vf_mul(vf a, vf b) { return wasm_f32x4_mul(a, b); }
FVLM_INLINE vf vf_div(vf a, vf b) { return wasm_f32x4_div(a, b); }
FVLM_INLINE vf vf_fma(vf a, vf b, vf c) { return wasm_f32x4_add(c, wasm_f32x4_mul(a, b)); }
FVLM_INLINE vf vf_fnma(vf a, vf b, vf c) { return wasm_f32x4_sub(c, wasm_f32x4_mul(a, b)); }
FVLM_INLINE vf vf_max(vf a, vf b) { return wasm_v128_bitselect(a, b, wasm_f32x4_gt(a, b)); }
FVLM_INLINE vf vf_min(vf a, vf b) { return wasm_v128_bitselect(a, b, wasm_f32x4_lt(a, b)); }
FVLM_INLINE vf vf_sqrt(vf a) { return wasm_f32x4_sqrt(a); }
FVLM_INLINE vf vf_round(vf a) { return wasm_f32x4_nearest(a); }
FVLM_INLINE vf vf_abs(vf a) { return wasm_f32x4_abs(a); }
FVLM_INLINE vf vf_copysign(vf size, vf sign) { return wasm_v128_bitselect(sign, size, wasm_i32x4_splat(INT32_MIN)); }
FVLM_INLINE vf vf_select_less(vf a, vf b, vf x, vf y) { return wasm_v128_bitselect(x, y, wasm_f32x4_lt(a, b)); }
FVLM_INLINE float vf_sum(vf a)
{
    vf half = vf_add(a, wasm_i32x4_shuffle(a, a, 2, 3, 0, 1));
    return wasm_f32x4_extract_lane(half, 0) + wasm_f32x4_extract_lane(half, 1);
}
FVLM_INLINE float vf_largest(vf a)
{
    vf half = vf_max(a, wasm_i32x4_shuffle(a, a, 2, 3, 0, 1));
    return wasm_f32x4_extract_lane(vf_max(half, wasm_i32x4_shuffle(half, half, 1, 0, 3, 2)), 0);
}
FVLM_INLINE vf vf_load_i8(const int8_t *p)
{
    v128_t wide = wasm_i16x8_extend_low_i8x16(wasm_v128_load32_zero(p));
    return wasm_f32x4_convert_i32x4(wasm_i32x4_extend_low_i16x8(wide));
}
FVLM_INLINE vf vf_load_u8(const uint8_t *p)
{
    v128_t wide = wasm_u16x8_extend_low_u8x16(wasm_v128_load32_zero(p));
    return wasm_f32x4_convert_i32x4(wasm_u32x4_extend_low_u16x8(wide));
}
FVLM_INLINE vf vf_load_bf16(const uint16_t *p) { return wasm_i32x4_shl(wasm_u32x4_load16x4(p), 16); }
/* The exponents differ by 112. A multiplication moves them, subnormal numbers too; infinities and NaN get theirs whole. */
FVLM_INLINE vf vf_load_f16(const uint16_t *p)
{
    v128_t bits = wasm_u32x4_load16x4(p), size = wasm_i32x4_shl(wasm_v128_and(bits, wasm_i32x4_splat(0x7fff)), 13);
    v128_t value = wasm_f32x4_mul(size, wasm_f32x4_splat(0x1p112f));
    v128_t infinite = wasm_i32x4_gt(size, wasm_i32x4_splat(0x0f7fffff));
    value = wasm_v128_or(value, wasm_v128_and(infinite, wasm_i32x4_splat(0x7f800000)));
    return wasm_v128_or(value, wasm_i32x4_shl(wasm_v128_and(bits, wasm_i32x4_splat(0x8000)), 16));
}
FVLM_INLINE vf vf_set_f16(uint16_t x)
{
    const uint16_t whole[4] = {x, x, x, x};
    return vf_load_f16(whole);
}
FVLM_INLINE vf vf_load_bf16_n(const uint16_t *p, size_t n)
{
    uint16_t whole[4] = {0};
    memcpy(whole, p, n * sizeof *p);
    return vf_load_bf16(whole);
}
FVLM_INLINE vf vf_load_f16_n(const uint16_t *p, size_t n)
{
    uint16_t whole[4] = {0};
    memcpy(whole, p, n * sizeof *p);
    return vf_load_f16(whole);
}
/* In two steps, since 2^n alone may leave the range of a float where a * 2^n does not; -300 < n < 250. */
FVLM_INLINE vf vf_scale2(vf a, vf n)
{
    v128_t whole = wasm_i32x4_trunc_sat_f32x4(n), half = wasm_i32x4_shr(whole, 1), bias = wasm_i32x4_splat(127);
    v128_t rest = wasm_i32x4_sub(whole, half);
    v128_t first = wasm_i32x4_shl(wasm_i32x4_add(half, bias), 23);
    return vf_mul(vf_mul(a, first), wasm_i32x4_shl(wasm_i32x4_add(rest, bias), 23));
}
/* Below 2^-14 fp16 has multiples of 2^-24, which is what floats from 0.5 to 1 are; above, 13 bits go. */
FVLM_INLINE vf vf_round_f16(vf a)
{
    v128_t size = wasm_f32x4_abs(a), odd = wasm_v128_and(wasm_u32x4_shr(size, 13), wasm_i32x4_splat(1));
    v128_t few = wasm_f32x4_sub(wasm_f32x4_add(size, wasm_f32x4_splat(0.5f)), wasm_f32x4_splat(0.5f));
    v128_t many = wasm_i32x4_add(size, wasm_i32x4_add(odd, wasm_i32x4_splat(0xfff)));
    many = wasm_v128_and(many, wasm_i32x4_splat(-0x2000));
    many = vf_select_less(wasm_f32x4_splat(65504), many, wasm_i32x4_splat(0x7f800000), many);
    v128_t rounded = vf_select_less(size, wasm_f32x4_splat(0x1p-14f), few, many);
    return vf_copysign(wasm_v128_bitselect(rounded, a, wasm_f32x4_eq(a, a)), a);
}
FVLM_INLINE vf vf_round_bf16(vf a)
{
    v128_t odd = wasm_v128_and(wasm_u32x4_shr(a, 16), wasm_i32x4_splat(1));
    v128_t bits = wasm_i32x4_add(a, wasm_i32x4_add(odd, wasm_i32x4_splat(0x7fff)));
    return wasm_v128_and(bits, wasm_i32x4_splat(-0x10000));
}
/* The 4 nibbles of p's 2 bytes, lowest first. */
FVLM_INLINE vf vf_load_u4(const void *p)
{
    uint16_t half;
    memcpy(&half, p, sizeof half);
    return wasm_f32x4_make((float)(half & 15), (float)(half >> 4 & 15), (float)(half >> 8 & 15), (float)(half >> 12));
}

FVLM_INLINE void vf_transpose(vf r[VF_LANES])
{
    v128_t low = wasm_i32x4_shuffle(r[0], r[1], 0, 4, 1, 5), high = wasm_i32x4_shuffle(r[0], r[1], 2, 6, 3, 7);
    v128_t low2 = wasm_i32x4_shuffle(r[2], r[3], 0, 4, 1, 5), high2 = wasm_i32x4_shuffle(r[2], r[3], 2, 6, 3, 7);
    r[0] = wasm_i64x2_shuffle(low, low2, 0, 2);
    r[1] = wasm_i64x2_shuffle(low, low2, 1, 3);
    r[2] = wasm_i64x2_shuffle(high, high2, 0, 2);
    r[3] = wasm_i64x2_shuffle(high, high2, 1, 3);
}

#endif

#if !defined(__AVX512F__)
FVLM_INLINE void vf_stream(float *p, vf a) { vf_store(p, a); }
FVLM_INLINE void vf_streamed(void) {}
#endif
/* clang-format on */
#endif
