/* Rounding to block types. */
#include "kernels/quantize.h"

#include <math.h>
#include <string.h>

#include "base/cpu.h"
#include "kernels/q4_k.h"

#define PART FVLM_BLOCK_PART

static void put_half(uint8_t *y, float x)
{
    uint16_t half = fvlm_f16_from_float(x);
    y[0] = (uint8_t)half;
    y[1] = (uint8_t)(half >> 8);
}

/* 1 / step, or 0 where that is not a number to work with: the block is then all zero. */
static float inverse(float step)
{
    float result = step != 0 ? 1 / step : 0;
    return isfinite(result) ? result : 0;
}

/* The element that is farthest from zero, the first of several. */
static float farthest(const float *x)
{
    float found = 0, size = 0;
    for (int i = 0; i < PART; i++)
        if (fabsf(x[i]) > size) {
            size = fabsf(x[i]);
            found = x[i];
        }
    return found;
}

/* The whole part of x, from low to high; low for a NaN. */
static int whole(float x, int low, int high)
{
    return !(x > (float)low) ? low : x > (float)high ? high : (int)x;
}

static void quantize_q8_0(const float *x, uint8_t *y)
{
    float step = fabsf(farthest(x)) / 127, scale = inverse(step);
    put_half(y, step);
    for (int i = 0; i < PART; i++)
        y[2 + i] = (uint8_t)whole(roundf(x[i] * scale), -127, 127);
}

static void quantize_q4_0(const float *x, uint8_t *y)
{
    float step = farthest(x) / -8, scale = inverse(step);
    int8_t q[PART];
    put_half(y, step);
    for (int i = 0; i < PART; i++)
        q[i] = (int8_t)(whole(x[i] * scale + 8.5f, 0, 15) - 8);
    fvlm_block_pack(FVLM_Q4_0, q, y);
}

/* ---- one step for a block ---- */

/* The squared error of a part on whole multiples of the step, from low to high. */
static float symmetric_error(const float *x, const float *importance, float step, int low, int high)
{
    float scale = inverse(step), error = 0;
    for (int i = 0; i < PART; i++) {
        float nearest = rintf(x[i] * scale);
        nearest = nearest < (float)low ? (float)low : nearest > (float)high ? (float)high : nearest;
        float difference = x[i] - step * nearest;
        error += (importance ? importance[i] : 1) * difference * difference;
    }
    return error;
}

/* One step for the block, the farthest element at or near the grid's end on either side. */
static void fit_symmetric(const float *x, const float *importance, int low, int high, uint8_t *y, fvlm_block_grid *grid)
{
    float end = farthest(x), best = INFINITY, step = 0;
    for (int side = 0; side < 2; side++)
        for (int shift = -4; shift <= 8; shift++) {
            float reach = (side ? (float)high : (float)low) + (side ? -0.125f : 0.125f) * (float)shift;
            float candidate = fvlm_float_from_f16(fvlm_f16_from_float(end / reach));
            float error = symmetric_error(x, importance, candidate, low, high);
            if (error < best) {
                best = error;
                step = candidate;
            }
        }
    put_half(y, step);
    *grid = (fvlm_block_grid){.steps = {step}, .low = low, .high = high};
}

/* ---- Q4_K ---- */

/* Fit, and write the scales to y. */
static void fit_q4_k(const float *x, const float *importance, uint8_t *y, fvlm_q4_k *found)
{
    fvlm_q4_k_fit *fit = &fvlm_q4_k_fit_reference;
#if defined(__x86_64__)
    if (fvlm_cpu_flags() & FVLM_CPU_AVX2)
        fit = &fvlm_q4_k_fit_avx2;
#endif
    fit(x, importance, found);
    const uint8_t *scales = found->scales, *least = found->least;
    uint8_t *packed = y + 4;
    put_half(y, found->d);
    put_half(y + 2, found->dmin);
    for (int i = 0; i < 4; i++) {
        packed[i] = (uint8_t)(scales[i] | scales[i + 4] >> 4 << 6);
        packed[i + 4] = (uint8_t)(least[i] | least[i + 4] >> 4 << 6);
        packed[i + 8] = (uint8_t)((scales[i + 4] & 15) | least[i + 4] << 4);
    }
}

static void fit_q4_k_grid(const float *x, const float *importance, uint8_t *y, fvlm_block_grid *grid)
{
    fvlm_q4_k found;
    fit_q4_k(x, importance, y, &found);
    *grid = (fvlm_block_grid){.low = 0, .high = 15};
    for (int part = 0; part < FVLM_BLOCK_MOST / PART; part++) {
        grid->steps[part] = found.d * (float)found.scales[part];
        grid->offsets[part] = -(found.dmin * (float)found.least[part]);
    }
}

void fvlm_block_fit(fvlm_dtype type, const float *x, const float *importance, uint8_t *y, fvlm_block_grid *grid)
{
    if (type == FVLM_Q4_K)
        fit_q4_k_grid(x, importance, y, grid);
    else if (type == FVLM_Q4_0)
        fit_symmetric(x, importance, -8, 7, y, grid);
    else
        fit_symmetric(x, importance, -127, 127, y, grid);
}

int fvlm_block_round(const fvlm_block_grid *grid, size_t part, float x)
{
    return whole(rintf((x - grid->offsets[part]) * inverse(grid->steps[part])), grid->low, grid->high);
}

void fvlm_block_pack(fvlm_dtype type, const int8_t *q, uint8_t *y)
{
    if (type == FVLM_Q8_0) {
        memcpy(y + 2, q, PART);
    } else if (type == FVLM_Q4_0) {
        for (int i = 0; i < PART / 2; i++)
            y[2 + i] = (uint8_t)((q[i] + 8) | (q[i + PART / 2] + 8) << 4);
    } else {
        for (int i = 0; i < FVLM_BLOCK_MOST / 2; i++) {
            const int8_t *low = q + i / PART * 2 * PART + i % PART;
            y[16 + i] = (uint8_t)(low[0] | low[PART] << 4);
        }
    }
}

static void quantize_q4_k(const float *x, uint8_t *y)
{
    fvlm_q4_k found;
    fit_q4_k(x, NULL, y, &found);
    fvlm_block_pack(FVLM_Q4_K, found.q, y);
}

void fvlm_from_float(fvlm_dtype type, const float *x, size_t count, void *y)
{
    size_t bytes, block = fvlm_dtype_block(type, &bytes);
    if (type == FVLM_F32)
        memcpy(y, x, count * sizeof *x);
    for (size_t i = 0; !block && type != FVLM_F32 && i < count; i++) {
        uint16_t half = type == FVLM_F16 ? fvlm_f16_from_float(x[i]) : fvlm_bf16_from_float(x[i]);
        memcpy((uint8_t *)y + i * sizeof half, &half, sizeof half);
    }
    for (size_t i = 0; block && i < count / block; i++) {
        uint8_t *out = (uint8_t *)y + i * bytes;
        if (type == FVLM_Q8_0)
            quantize_q8_0(x + i * block, out);
        else if (type == FVLM_Q4_0)
            quantize_q4_0(x + i * block, out);
        else
            quantize_q4_k(x + i * block, out);
    }
}
