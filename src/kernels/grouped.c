/* Affine groups as MLX makes them: y = scale * q + bias, q in [0, 2^bits). */
#include "kernels/grouped.h"

#include <math.h>
#include <stdbool.h>

#define LEAST_SCALE 1e-7f /* of a group whose values are all equal */

static void find_scale(const float *x, size_t count, float levels, float *scale, float *bias)
{
    float low = INFINITY, high = -INFINITY;
    for (size_t i = 0; i < count; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    /* The end that is further from zero becomes the bias; the scale's sign leads from there to the other end. */
    bool low_edge = fabsf(low) > fabsf(high);
    float edge = low_edge ? low : high, step = fmaxf((high - low) / levels, LEAST_SCALE);
    step = low_edge ? step : -step;
    /* Zero is to be one of the levels. */
    float zero = rintf(edge / step);
    *scale = zero != 0 ? edge / zero : step;
    *bias = zero != 0 ? edge : 0;
}

void fvlm_grouped_quantize(const float *x, size_t cols, size_t bits, size_t group, uint32_t *words, float *scales,
                           float *biases)
{
    float levels = (float)((1u << bits) - 1);
    size_t each = 32 / bits;
    for (size_t g = 0; g < cols / group; g++, x += group) {
        find_scale(x, group, levels, &scales[g], &biases[g]);
        for (size_t i = 0; i < group; i += each) {
            uint32_t word = 0;
            for (size_t k = 0; k < each; k++) {
                float q = rintf((x[i + k] - biases[g]) / scales[g]);
                q = q > 0 ? q : 0; /* of a NaN too */
                word |= (uint32_t)(q < levels ? q : levels) << k * bits;
            }
            *words++ = word;
        }
    }
}
