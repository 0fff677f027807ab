/* The limits of float32 multiply-adds and of reading memory, over the vector vocabulary. */
#include "kernels/roofline_body.h"
#include "kernels/vector/vector.h"

enum { SUMS = VF_REGISTERS * 3 / 4 }; /* independent, more than latency times throughput asks for */

static double fp32(size_t rounds, float seeds[2])
{
    vf sum[SUMS], a = vf_set(seeds[0]), b = vf_set(seeds[1]), total = vf_zero();
    FVLM_UNROLL
    for (int i = 0; i < SUMS; i++)
        sum[i] = vf_set((float)i);
    for (size_t round = 0; round < rounds; round++)
        FVLM_UNROLL
    for (int i = 0; i < SUMS; i++)
        sum[i] = vf_fma(a, b, sum[i]);
    FVLM_UNROLL
    for (int i = 0; i < SUMS; i++)
        total = vf_add(total, sum[i]);
    seeds[0] = vf_sum(total);
    return (double)rounds * SUMS * VF_LANES * 2;
}

static float read_memory(const float *memory, size_t count)
{
    enum { STREAMS = 8 };
    vf sum[STREAMS];
    FVLM_UNROLL
    for (int i = 0; i < STREAMS; i++)
        sum[i] = vf_zero();
    for (size_t at = 0; at < count; at += (size_t)STREAMS * VF_LANES)
        FVLM_UNROLL
    for (int i = 0; i < STREAMS; i++)
        sum[i] = vf_add(sum[i], vf_load(memory + at + (size_t)i * VF_LANES));
    for (int i = 1; i < STREAMS; i++)
        sum[0] = vf_add(sum[0], sum[i]);
    return vf_sum(sum[0]);
}

const fvlm_roofline_kernels FVLM_FOR_ISA(fvlm_roofline_kernels) = {fp32, read_memory};
