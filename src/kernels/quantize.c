/* Rounding to block types. */
#include "kernels/quantize.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#define PART FVLM_BLOCK_PART
#define PARTS (FVLM_BLOCK_MOST / FVLM_BLOCK_PART)
#define SCALE_LEVELS 63 /* 6 bits, of Q4_K's scales and least values */

static void put_half(uint8_t *y, float x)
{
    uint16_t half = fvlm_f16_from_float(x);
    y[0] = (uint8_t)half;
    y[1] = (uint8_t)(half >> 8);
}

static float as_half(float x)
{
    return fvlm_float_from_f16(fvlm_f16_from_float(x));
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

static int clamp(int value, int low, int high)
{
    return value < low ? low : value > high ? high : value;
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

/* ---- grids ---- */

static float weight_of(const float *importance, int i)
{
    return importance ? importance[i] : 1;
}

/* The squared error of a part on step * q + offset. */
static float part_error(const float *x, const float *importance, float step, float offset, const float q[PART])
{
    float error = 0;
    for (int i = 0; i < PART; i++) {
        float difference = x[i] - (step * q[i] + offset);
        error += weight_of(importance, i) * difference * difference;
    }
    return error;
}

/* The nearest q, from low to high, and the error; step 0: all are `offset`. */
static float part_round(const float *x, const float *importance, float step, float offset, int low, int high,
                        float q[PART])
{
    float scale = inverse(step), least = (float)low, most = (float)high;
    for (int i = 0; i < PART; i++) {
        float nearest = rintf((x[i] - offset) * scale);
        q[i] = nearest < least ? least : nearest > most ? most : nearest;
    }
    return part_error(x, importance, step, offset, q);
}

/* One step for the block, the farthest element at or near the grid's end on either side. */
static void fit_symmetric(const float *x, const float *importance, int low, int high, uint8_t *y, fvlm_block_grid *grid)
{
    float end = farthest(x), best = INFINITY, step = 0, q[PART];
    for (int side = 0; side < 2; side++)
        for (int shift = -4; shift <= 8; shift++) {
            float reach = (side ? (float)high : (float)low) + (side ? -0.125f : 0.125f) * (float)shift;
            float candidate = as_half(end / reach);
            float error = part_round(x, importance, candidate, 0, low, high, q);
            if (error < best) {
                best = error;
                step = candidate;
            }
        }
    put_half(y, step);
    *grid = (fvlm_block_grid){.steps = {step}, .low = low, .high = high};
}

/* The step and the offset (at most 0) that fit x best where the q are given; false where they have no say. */
static bool solve_part(const float *x, const float *importance, const float q[PART], float *step, float *offset)
{
    float w = 0, wq = 0, wqq = 0, wx = 0, wqx = 0;
    for (int i = 0; i < PART; i++) {
        float weight = weight_of(importance, i);
        w += weight;
        wq += weight * q[i];
        wqq += weight * q[i] * q[i];
        wx += weight * x[i];
        wqx += weight * q[i] * x[i];
    }
    float determinant = w * wqq - wq * wq;
    if (!(determinant > 0))
        return false;
    *step = (w * wqx - wq * wx) / determinant;
    *offset = (wqq * wx - wq * wqx) / determinant;
    if (*offset > 0) {
        *offset = 0;
        *step = wqq > 0 ? wqx / wqq : 0;
    }
    return *step > 0;
}

/* The ends of a part's values; offsets are never above zero, so the lower one is not either. */
static void find_ends(const float *x, float *least, float *most)
{
    *least = 0;
    *most = x[0];
    for (int i = 0; i < PART; i++) {
        *least = x[i] < *least ? x[i] : *least;
        *most = x[i] > *most ? x[i] : *most;
    }
}

/* Step and offset of one part: several first guesses, each improved by turns of rounding and solving. */
static void fit_part(const float *x, const float *importance, float *step, float *offset)
{
    float least, most, q[PART];
    find_ends(x, &least, &most);
    *step = (most - least) / 15;
    *offset = least;
    float best = part_round(x, importance, *step, *offset, 0, 15, q);
    for (int shift = -4; shift <= 10 && most > least; shift++) {
        float candidate = (most - least) / (15 + 0.2f * (float)shift), from = least;
        for (int turn = 0; turn < 3; turn++) {
            float error = part_round(x, importance, candidate, from, 0, 15, q);
            if (error < best) {
                best = error;
                *step = candidate;
                *offset = from;
            }
            if (!solve_part(x, importance, q, &candidate, &from))
                break;
        }
    }
}

/* The same by ggml's rule: large values count more, and guesses go on from the best offset so far. */
static void fit_part_as_ggml(const float *x, const float *importance, float *step, float *offset)
{
    float least, most, q[PART], weights[PART], squares = 0;
    for (int i = 0; i < PART; i++)
        squares += x[i] * x[i];
    for (int i = 0; i < PART; i++)
        weights[i] = weight_of(importance, i) * (sqrtf(squares / PART) + fabsf(x[i]));
    find_ends(x, &least, &most);
    *step = (most - least) / 15;
    *offset = least;
    float best = part_round(x, weights, *step, *offset, 0, 15, q);
    for (int guess = 0; guess <= 20 && most > least; guess++) {
        float candidate, from;
        part_round(x, weights, (most - *offset) / (14 + 0.1f * (float)guess), *offset, 0, 15, q);
        if (!solve_part(x, weights, q, &candidate, &from))
            continue;
        float error = part_error(x, weights, candidate, from, q);
        if (error < best) {
            best = error;
            *step = candidate;
            *offset = from;
        }
    }
}

/* d and dmin of the block, and each part's 6-bit multiples of them, which are the best of the neighbours. */
struct q4_k_scales {
    float d, dmin;
    uint8_t scales[PARTS], least[PARTS];
};

static float choose_multiples(const float *x, const float *importance, const float steps[PARTS],
                              const float offsets[PARTS], struct q4_k_scales *s)
{
    float total = 0, q[PART], per_step = inverse(s->d), per_offset = inverse(s->dmin);
    for (int part = 0; part < PARTS; part++) {
        const float *values = x + part * PART, *weights = importance ? importance + part * PART : NULL;
        int scale = whole(rintf(steps[part] * per_step), 0, SCALE_LEVELS);
        int least = whole(rintf(-offsets[part] * per_offset), 0, SCALE_LEVELS);
        float best = INFINITY;
        for (int i = -1; i <= 1; i++)
            for (int j = -1; j <= 1; j++) {
                int a = clamp(scale + i, 0, SCALE_LEVELS), b = clamp(least + j, 0, SCALE_LEVELS);
                float error = part_round(values, weights, s->d * (float)a, -(s->dmin * (float)b), 0, 15, q);
                if (error < best) {
                    best = error;
                    s->scales[part] = (uint8_t)a;
                    s->least[part] = (uint8_t)b;
                }
            }
        total += best;
    }
    return total;
}

/* The d and dmin that fit best where the multiples and the q that follow from them are given. */
static void solve_block(const float *x, const float *importance, struct q4_k_scales *s)
{
    float aa = 0, ab = 0, bb = 0, xa = 0, xb = 0, q[PART];
    for (int part = 0; part < PARTS; part++) {
        const float *values = x + part * PART, *weights = importance ? importance + part * PART : NULL;
        float scale = s->scales[part], least = s->least[part];
        part_round(values, weights, s->d * scale, -(s->dmin * least), 0, 15, q);
        for (int i = 0; i < PART; i++) {
            float weight = weight_of(weights, i), a = scale * q[i];
            aa += weight * a * a;
            ab += weight * a * least;
            bb += weight * least * least;
            xa += weight * a * values[i];
            xb += weight * least * values[i];
        }
    }
    float determinant = aa * bb - ab * ab;
    if (!(determinant > 1e-6f * aa * bb)) /* one of the two has no say */
        return;
    float d = (bb * xa - ab * xb) / determinant, dmin = (ab * xa - aa * xb) / determinant;
    if (d > 0 && dmin > 0) {
        s->d = as_half(d);
        s->dmin = as_half(dmin);
    }
}

static void put_q4_k_scales(const struct q4_k_scales *s, uint8_t *y)
{
    put_half(y, s->d);
    put_half(y + 2, s->dmin);
    uint8_t *packed = y + 4;
    for (int i = 0; i < 4; i++) {
        packed[i] = (uint8_t)(s->scales[i] | s->scales[i + 4] >> 4 << 6);
        packed[i + 4] = (uint8_t)(s->least[i] | s->least[i + 4] >> 4 << 6);
        packed[i + 8] = (uint8_t)((s->scales[i + 4] & 15) | s->least[i + 4] << 4);
    }
}

/* Take what is best for the block among d, dmin and multiples that start from each part's step and offset. */
static void improve(const float *x, const float *importance, const float steps[PARTS], const float offsets[PARTS],
                    struct q4_k_scales *chosen, float *best)
{
    float step = 0, offset = 0;
    for (int part = 0; part < PARTS; part++) {
        step = steps[part] > step ? steps[part] : step;
        offset = -offsets[part] > offset ? -offsets[part] : offset;
    }
    struct q4_k_scales s = {.d = as_half(step / SCALE_LEVELS), .dmin = as_half(offset / SCALE_LEVELS)};
    for (int turn = 0; turn < 3; turn++) {
        float error = choose_multiples(x, importance, steps, offsets, &s);
        if (error < *best) {
            *best = error;
            *chosen = s;
        }
        solve_block(x, importance, &s);
    }
}

static void fit_q4_k(const float *x, const float *importance, uint8_t *y, fvlm_block_grid *grid)
{
    static void (*const fits[])(const float *, const float *, float *, float *) = {fit_part, fit_part_as_ggml};
    struct q4_k_scales chosen = {0};
    float steps[PARTS], offsets[PARTS], best = INFINITY;
    for (size_t i = 0; i < sizeof fits / sizeof *fits; i++) {
        for (int part = 0; part < PARTS; part++)
            fits[i](x + part * PART, importance ? importance + part * PART : NULL, &steps[part], &offsets[part]);
        improve(x, importance, steps, offsets, &chosen, &best);
    }
    put_q4_k_scales(&chosen, y);
    *grid = (fvlm_block_grid){.low = 0, .high = 15};
    for (int part = 0; part < PARTS; part++) {
        grid->steps[part] = chosen.d * (float)chosen.scales[part];
        grid->offsets[part] = -(chosen.dmin * (float)chosen.least[part]);
    }
}

void fvlm_block_fit(fvlm_dtype type, const float *x, const float *importance, uint8_t *y, fvlm_block_grid *grid)
{
    if (type == FVLM_Q4_K)
        fit_q4_k(x, importance, y, grid);
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
    fvlm_block_grid grid;
    int8_t q[FVLM_BLOCK_MOST];
    fit_q4_k(x, NULL, y, &grid);
    for (size_t i = 0; i < FVLM_BLOCK_MOST; i++)
        q[i] = (int8_t)fvlm_block_round(&grid, i / PART, x[i]);
    fvlm_block_pack(FVLM_Q4_K, q, y);
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
