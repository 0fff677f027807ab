/* Elementary functions over the vector vocabulary. NaN stays NaN in all of them.
 *
 * Coefficients are least-maximum fits made for this file (Lawson's iteration on a Chebyshev grid); errors beside each.
 */
#ifndef FVLM_KERNELS_VECTOR_VECTOR_MATH_H
#define FVLM_KERNELS_VECTOR_VECTOR_MATH_H

#include "kernels/activation.h"
#include "kernels/vector/vector.h"

/* x within [low, high]. A minimum or maximum with NaN is its second operand, so x must be that. */
FVLM_INLINE vf vf_clamp(vf x, float low, float high)
{
    return vf_max(vf_set(low), vf_min(vf_set(high), x));
}

/* e^x to 2 units in the last place: x = n ln 2 + r, |r| <= ln 2 / 2, e^r = 1 + r + r^2 p(r) with relative error 3e-9.
 * Beyond [-104, 89] the result is 0 or infinity, as it should be. */
FVLM_INLINE vf vf_exp(vf x)
{
    x = vf_clamp(x, -104.0f, 89.0f);
    vf n = vf_round(vf_mul(x, vf_set(1.44269504f)));
    /* ln 2 in two parts; the first has so few bits that n times it is exact. */
    vf r = vf_fnma(n, vf_set(0.693359375f), x);
    r = vf_fnma(n, vf_set(-2.12194440e-4f), r);
    vf p = vf_set(0.00138145987f);
    p = vf_fma(p, r, vf_set(0.00836871707f));
    p = vf_fma(p, r, vf_set(0.0416683881f));
    p = vf_fma(p, r, vf_set(0.166665206f));
    p = vf_fma(p, r, vf_set(0.499999934f));
    p = vf_fma(vf_mul(r, r), p, r);
    return vf_scale2(vf_add(p, vf_set(1.0f)), n);
}

/* 2^x for x <= 0 to 8e-5 of it, for what is rounded to bf16. Below -150 the result is 0. */
FVLM_INLINE vf vf_exp2_near(vf x)
{
    x = vf_max(vf_set(-150.0f), x);
    vf n = vf_round(x), f = vf_sub(x, n);
    vf p = vf_set(0.05517167f);
    p = vf_fma(p, f, vf_set(0.24261113f));
    p = vf_fma(p, f, vf_set(0.69326099f));
    p = vf_fma(p, f, vf_set(0.99992807f));
    return vf_scale2(p, n);
}

FVLM_INLINE vf vf_sigmoid(vf x)
{
    vf one = vf_set(1.0f);
    return vf_div(one, vf_add(one, vf_exp(vf_sub(vf_zero(), x))));
}

FVLM_INLINE vf vf_silu(vf x)
{
    return vf_div(x, vf_add(vf_set(1.0f), vf_exp(vf_sub(vf_zero(), x))));
}

/* erf(x / sqrt 2) / 2 = x P(x^2) / Q(x^2) on |x| <= 5.4 to 6e-9; beyond, it differs from 1/2 by less than 4e-8. */
FVLM_INLINE vf vf_half_erf(vf x)
{
    vf c = vf_clamp(x, -5.4f, 5.4f);
    vf t = vf_mul(c, c);
    vf p = vf_set(2.33867332e-08f), q = vf_set(1.21658928e-06f);
    p = vf_fma(p, t, vf_set(6.35999737e-06f));
    q = vf_fma(q, t, vf_set(7.23997101e-05f));
    p = vf_fma(p, t, vf_set(0.000164320441f));
    q = vf_fma(q, t, vf_set(0.00185897443f));
    p = vf_fma(p, t, vf_set(0.00465084332f));
    q = vf_fma(q, t, vf_set(0.0283786226f));
    p = vf_fma(p, t, vf_set(0.0333721209f));
    q = vf_fma(q, t, vf_set(0.250317591f));
    p = vf_fma(p, t, vf_set(0.398942245f));
    q = vf_fma(q, t, vf_set(1.0f));
    return vf_div(vf_mul(c, p), q);
}

/* x (1 + erf(x / sqrt 2)) / 2; so that the error of erf never meets a large factor, it stops at -2e-7 below -5.4. */
FVLM_INLINE vf vf_gelu(vf x)
{
    return vf_mul(vf_max(vf_set(-5.4f), x), vf_add(vf_half_erf(x), vf_set(0.5f)));
}

#if defined(__AVX512F__)
/* GELU to 8e-4, for outputs that are rounded to bf16 or 8 bits: x / 2 + g(|x|), with g(a) = a erf(a / sqrt 2) / 2 by
 * lines over the 32 places around the multiples of 0.12. The last one is a / 2, so that GELU is 0 or x beyond 3.66. */
FVLM_INLINE vf vf_gelu_near(vf x)
{
    static const float slopes[32] = {
        0.02392218f, 0.09517448f, 0.187643f,  0.2748719f, 0.3546562f, 0.4252453f, 0.4854277f, 0.5345694f,
        0.572605f,   0.599986f,   0.6175958f, 0.6266409f, 0.6285332f, 0.6247721f, 0.61684f,   0.6061151f,
        0.5938087f,  0.5809268f,  0.5682538f, 0.5563571f, 0.545606f,  0.5362001f, 0.5282034f, 0.5215791f,
        0.5162218f,  0.5119855f,  0.5087065f, 0.5062198f, 0.5043707f, 0.5030216f, 0.5020556f, 0.5f};
    static const float starts[32] = {-0.0001793356f, -0.004982536f, -0.02159672f,  -0.04771729f,
                                     -0.08116362f,   -0.1192074f,   -0.1588466f,   -0.1970933f,
                                     -0.2312431f,    -0.2590947f,   -0.2791008f,   -0.2904387f,
                                     -0.2930004f,    -0.287323f,    -0.2744471f,   -0.2557696f,
                                     -0.232872f,     -0.2073647f,   -0.1807554f,   -0.1543523f,
                                     -0.1292043f,    -0.1060762f,   -0.08545535f,  -0.0675797f,
                                     -0.05248101f,   -0.04003423f,  -0.03000701f,  -0.02210451f,
                                     -0.01600663f,   -0.01139629f,  -0.007978963f, 0};
    /* Added to 2^23 a number leaves its nearest whole one in the lowest bits. */
    const float whole = 0x1p23f;
    vf a = vf_abs(x), place = vf_min(vf_fma(a, vf_set(1 / 0.12f), vf_set(whole)), vf_set(whole + 31));
    vf g = vf_fma(a, vf_look_up(slopes, place), vf_look_up(starts, place));
    return vf_fma(x, vf_set(0.5f), g);
}
#else
/* GELU to 5e-4, for outputs that are rounded to bf16 or 8 bits: x (1/2 + x P(x^2)), P fitted on |x| <= 3.7 under the
 * condition that 1/2 + x P is 0 at -3.7 and 1 at 3.7, where it stays. */
FVLM_INLINE vf vf_gelu_near(vf x)
{
    vf c = vf_clamp(x, -3.7f, 3.7f);
    vf t = vf_mul(c, c);
    vf p = vf_set(-4.899703440799995e-07f);
    p = vf_fma(p, t, vf_set(2.688863926222861e-05f));
    p = vf_fma(p, t, vf_set(-0.0006175000869104783f));
    p = vf_fma(p, t, vf_set(0.007848686730899052f));
    p = vf_fma(p, t, vf_set(-0.06258768886790851f));
    p = vf_fma(p, t, vf_set(0.39647506348037526f));
    return vf_mul(x, vf_fma(p, c, vf_set(0.5f)));
}
#endif

FVLM_INLINE vf vf_activate(fvlm_activation activation, vf x)
{
    switch (activation) {
    case FVLM_ACTIVATION_GELU:
        return vf_gelu(x);
    case FVLM_ACTIVATION_RELU:
        return vf_max(vf_zero(), x);
    case FVLM_ACTIVATION_SILU:
        return vf_silu(x);
    case FVLM_ACTIVATION_SIGMOID:
        return vf_sigmoid(x);
    case FVLM_ACTIVATION_NONE:
        break;
    }
    return x;
}

/* The derivatives of vf_activate's functions. */
FVLM_INLINE vf vf_derivative(fvlm_activation activation, vf x)
{
    vf one = vf_set(1.0f), s;
    switch (activation) {
    case FVLM_ACTIVATION_GELU: /* Phi(x) + x phi(x) */
        s = vf_exp(vf_mul(vf_mul(x, x), vf_set(-0.5f)));
        return vf_fma(vf_mul(x, vf_set(0.39894228f)), s, vf_add(vf_half_erf(x), vf_set(0.5f)));
    case FVLM_ACTIVATION_RELU:
        return vf_select_less(vf_zero(), x, one, vf_zero());
    case FVLM_ACTIVATION_SILU:
        s = vf_sigmoid(x);
        return vf_mul(s, vf_fma(x, vf_sub(one, s), one));
    case FVLM_ACTIVATION_SIGMOID:
        s = vf_sigmoid(x);
        return vf_mul(s, vf_sub(one, s));
    case FVLM_ACTIVATION_NONE:
        break;
    }
    return one;
}

#endif
