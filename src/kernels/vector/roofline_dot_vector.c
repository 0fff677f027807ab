/* The limits of dot products of bf16 and of 8-bit integers, over the vector vocabulary. */
#include "kernels/roofline_body.h"
#include "kernels/vector/dot.h"

enum { SUMS = VF_REGISTERS * 3 / 4 };

/* The compiler may not know what is in `a`: else it would take steps that a dot product is made of out of the loop. */
#if defined(__x86_64__)
#define UNKNOWN(a) __asm__("" : "+v"(a))
#else
#define UNKNOWN(a) __asm__("" : "+w"(a))
#endif

static double bf16(size_t rounds, float seeds[2])
{
    vf sum[SUMS], total = vf_zero();
    uint16_t numbers[2 * 2 * VF_LANES];
    for (int i = 0; i < 4 * VF_LANES; i += VF_LANES)
        vf_store_bf16(numbers + i, vf_set(seeds[i / VF_LANES % 2]));
    vd a = vd_load(numbers), b = vd_load(numbers + 2 * VF_LANES);
    FVLM_UNROLL
    for (int i = 0; i < SUMS; i++)
        sum[i] = vf_set((float)i);
    for (size_t round = 0; round < rounds; round++)
        FVLM_UNROLL
    for (int i = 0; i < SUMS; i++)
        sum[i] = vd_dot_bf16(sum[i], a, b);
    FVLM_UNROLL
    for (int i = 0; i < SUMS; i++)
        total = vf_add(total, sum[i]);
    seeds[0] = vf_sum(total);
    return (double)rounds * SUMS * VF_LANES * 2 * 2;
}

static double int8(size_t rounds, float seeds[2])
{
    vd sum[SUMS];
    vf total = vf_zero();
    uint8_t numbers[4 * VF_LANES];
    for (int i = 0; i < 4 * VF_LANES; i += VF_LANES)
        vf_store_u8(numbers + i, vf_set(1000 * seeds[0]));
    vd a = vd_load(numbers), b = a;
    FVLM_UNROLL
    for (int i = 0; i < SUMS; i++)
        sum[i] = vd_zero();
    for (size_t round = 0; round < rounds; round++)
        FVLM_UNROLL
    for (int i = 0; i < SUMS; i++) {
        UNKNOWN(a);
        sum[i] = vd_dot_u8s8(sum[i], a, b);
    }
    FVLM_UNROLL
    for (int i = 0; i < SUMS; i++)
        total = vf_add(total, vd_float(sum[i]));
    seeds[0] = vf_sum(total);
    return (double)rounds * SUMS * VF_LANES * 4 * 2;
}

const fvlm_roofline_dot_kernels FVLM_FOR_ISA(fvlm_roofline_dot_kernels) = {bf16, int8};
