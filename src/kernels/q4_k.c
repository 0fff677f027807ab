/* The search for a Q4_K block's scales: plain C for vectors of the compiler's, compiled once more for AVX2. */
#include "kernels/q4_k.h"

#include <math.h>

#define PART FVLM_BLOCK_PART
#define PARTS (FVLM_BLOCK_MOST / FVLM_BLOCK_PART)
#define SCALE_LEVELS 63 /* 6 bits, of scales and least values */

#ifdef __AVX2__
#define LANES 8
#else
#define LANES 4
#endif
#ifndef FVLM_Q4_K_FIT
#define FVLM_Q4_K_FIT fvlm_q4_k_fit_reference
#endif

/* One number for each of LANES parts: a block's parts are searched side by side, each in the order of its elements, so
 * that the result does not depend on what the processor has for vectors. */
#define GROUPS (PARTS / LANES)
typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t lane_mask __attribute__((vector_size(LANES * sizeof(float))));

/* The elements of LANES parts, how much each counts, and levels for them. */
struct parts {
    lanes x[PART], weights[PART], q[PART];
};

static lanes all(float x)
{
    return (lanes){0} + x;
}

static lanes choose(lane_mask where, lanes a, lanes b)
{
    return (lanes)((where & (lane_mask)a) | (~where & (lane_mask)b));
}

static float as_half(float x)
{
    return fvlm_float_from_f16(fvlm_f16_from_float(x));
}

static lanes inverses(lanes step)
{
    lanes result = 1 / step;
    return choose((step != 0) & (result - result == 0), result, all(0));
}

/* The nearest whole numbers from 0 to most, which is below 2^22; 0 for a NaN. */
static lanes levels(lanes x, float most)
{
    const float to_whole = 0x1.8p23f; /* the sum has no bits for a fraction */
    x = (lanes)((x > 0) & (lane_mask)x);
    x = choose(x < most, x, all(most));
    return x + to_whole - to_whole;
}

static lanes squared_error(const struct parts *p, int i, lanes step, lanes offset)
{
    lanes difference = p->x[i] - (step * p->q[i] + offset);
    return p->weights[i] * difference * difference;
}

/* The squared errors on step * q + offset. */
static lanes errors(const struct parts *p, lanes step, lanes offset)
{
    lanes error = all(0);
    for (int i = 0; i < PART; i++)
        error += squared_error(p, i, step, offset);
    return error;
}

/* The nearest q, and the errors; step 0: all are `offset`. */
static lanes round_parts(struct parts *p, lanes step, lanes offset)
{
    lanes scale = inverses(step), error = all(0);
    for (int i = 0; i < PART; i++) {
        p->q[i] = levels((p->x[i] - offset) * scale, 15);
        error += squared_error(p, i, step, offset);
    }
    return error;
}

/* The steps and the offsets (at most 0) that fit x best where the q are given; returns where the q have a say. */
static lane_mask solve_parts(const struct parts *p, lanes *step, lanes *offset)
{
    lanes w = all(0), wq = w, wqq = w, wx = w, wqx = w;
    for (int i = 0; i < PART; i++) {
        lanes weighted = p->weights[i] * p->q[i];
        w += p->weights[i];
        wq += weighted;
        wqq += weighted * p->q[i];
        wx += p->weights[i] * p->x[i];
        wqx += weighted * p->x[i];
    }
    lanes determinant = w * wqq - wq * wq;
    *step = (w * wqx - wq * wx) / determinant;
    *offset = (wqq * wx - wq * wqx) / determinant;
    lane_mask above = *offset > 0;
    *offset = choose(above, all(0), *offset);
    *step = choose(above, choose(wqq > 0, wqx / wqq, all(0)), *step);
    return (determinant > 0) & (*step > 0);
}

/* The ends of the parts' values; offsets are never above zero, so the lower one is not either. */
static void find_ends(const struct parts *p, lanes *least, lanes *most)
{
    *least = all(0);
    *most = p->x[0];
    for (int i = 0; i < PART; i++) {
        *least = choose(p->x[i] < *least, p->x[i], *least);
        *most = choose(p->x[i] > *most, p->x[i], *most);
    }
}

struct fit {
    lanes step, offset, error;
};

static void keep_better(struct fit *best, lane_mask where, lanes step, lanes offset, lanes error)
{
    where &= error < best->error;
    best->step = choose(where, step, best->step);
    best->offset = choose(where, offset, best->offset);
    best->error = choose(where, error, best->error);
}

/* Steps and offsets: several first guesses, each improved by turns of rounding and solving. */
static struct fit fit_parts(struct parts *p)
{
    lanes least, most;
    find_ends(p, &least, &most);
    struct fit best = {.step = (most - least) / 15, .offset = least};
    best.error = round_parts(p, best.step, best.offset);
    for (int shift = -4; shift <= 10; shift++) {
        lanes step = (most - least) / (15 + 0.2f * (float)shift), offset = least;
        lane_mask going = most > least;
        for (int turn = 0; turn < 3; turn++) {
            keep_better(&best, going, step, offset, round_parts(p, step, offset));
            if (turn < 2)
                going &= solve_parts(p, &step, &offset);
        }
    }
    return best;
}

/* The same by ggml's rule: large values count more, and guesses go on from the best offset so far. */
static struct fit fit_parts_as_ggml(struct parts *p)
{
    struct parts by_size = *p;
    lanes least, most, squares = all(0), mean;
    for (int i = 0; i < PART; i++)
        squares += p->x[i] * p->x[i];
    for (int lane = 0; lane < LANES; lane++)
        mean[lane] = sqrtf(squares[lane] / PART);
    for (int i = 0; i < PART; i++)
        by_size.weights[i] *= mean + choose(p->x[i] < 0, -p->x[i], p->x[i]);
    find_ends(p, &least, &most);
    struct fit best = {.step = (most - least) / 15, .offset = least};
    best.error = round_parts(&by_size, best.step, best.offset);
    for (int guess = 0; guess <= 20; guess++) {
        lanes step, offset;
        round_parts(&by_size, (most - best.offset) / (14 + 0.1f * (float)guess), best.offset);
        lane_mask solved = solve_parts(&by_size, &step, &offset);
        keep_better(&best, solved & (most > least), step, offset, errors(&by_size, step, offset));
    }
    return best;
}

/* d and dmin of the block, and each part's 6-bit multiples of them. */
struct scales {
    float d, dmin;
    lanes scales[GROUPS], least[GROUPS];
};

/* The best multiples of d and dmin among the neighbours of those that `fits` asks for; returns the block's error. */
static float choose_multiples(struct parts p[GROUPS], const struct fit fits[GROUPS], struct scales *s)
{
    float total = 0;
    for (int g = 0; g < GROUPS; g++) {
        lanes scale = levels(fits[g].step * inverses(all(s->d)), SCALE_LEVELS);
        lanes least = levels(-fits[g].offset * inverses(all(s->dmin)), SCALE_LEVELS);
        struct fit best = {.error = all(INFINITY)};
        for (int i = -1; i <= 1; i++)
            for (int j = -1; j <= 1; j++) {
                lanes a = levels(scale + (float)i, SCALE_LEVELS), b = levels(least + (float)j, SCALE_LEVELS);
                lanes error = round_parts(&p[g], s->d * a, -(s->dmin * b));
                keep_better(&best, (lane_mask){0} - 1, a, b, error);
            }
        s->scales[g] = best.step;
        s->least[g] = best.offset;
        for (int lane = 0; lane < LANES; lane++)
            total += best.error[lane];
    }
    return total;
}

static void round_block(struct parts p[GROUPS], const struct scales *s)
{
    for (int g = 0; g < GROUPS; g++)
        round_parts(&p[g], s->d * s->scales[g], -(s->dmin * s->least[g]));
}

/* The d and dmin that fit best where the multiples and the q that follow from them are given. */
static void solve_block(struct parts p[GROUPS], struct scales *s)
{
    float aa = 0, ab = 0, bb = 0, xa = 0, xb = 0;
    round_block(p, s);
    for (int part = 0; part < PARTS; part++) {
        int g = part / LANES, lane = part % LANES;
        float scale = s->scales[g][lane], least = s->least[g][lane];
        for (int i = 0; i < PART; i++) {
            float weight = p[g].weights[i][lane], a = scale * p[g].q[i][lane], x = p[g].x[i][lane];
            aa += weight * a * a;
            ab += weight * a * least;
            bb += weight * least * least;
            xa += weight * a * x;
            xb += weight * least * x;
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

/* Take what is best for the block among d, dmin and multiples that start from each part's step and offset. */
static void improve(struct parts p[GROUPS], const struct fit fits[GROUPS], struct scales *chosen, float *best)
{
    float step = 0, offset = 0;
    for (int part = 0; part < PARTS; part++) {
        const struct fit *fit = &fits[part / LANES];
        step = fit->step[part % LANES] > step ? fit->step[part % LANES] : step;
        offset = -fit->offset[part % LANES] > offset ? -fit->offset[part % LANES] : offset;
    }
    struct scales s = {.d = as_half(step / SCALE_LEVELS), .dmin = as_half(offset / SCALE_LEVELS)};
    for (int turn = 0; turn < 3; turn++) {
        float error = choose_multiples(p, fits, &s);
        if (error < *best) {
            *best = error;
            *chosen = s;
        }
        if (turn < 2)
            solve_block(p, &s);
    }
}

void FVLM_Q4_K_FIT(const float *x, const float *importance, fvlm_q4_k *found)
{
    static struct fit (*const fits[])(struct parts *) = {fit_parts, fit_parts_as_ggml};
    struct parts p[GROUPS];
    struct scales chosen = {0};
    float best = INFINITY;
    for (int i = 0; i < FVLM_BLOCK_MOST; i++) {
        int g = i / PART / LANES, lane = i / PART % LANES;
        p[g].x[i % PART][lane] = x[i];
        p[g].weights[i % PART][lane] = importance ? importance[i] : 1;
    }
    for (size_t i = 0; i < sizeof fits / sizeof *fits; i++) {
        struct fit start[GROUPS];
        for (int g = 0; g < GROUPS; g++)
            start[g] = fits[i](&p[g]);
        improve(p, start, &chosen, &best);
    }
    round_block(p, &chosen);
    found->d = chosen.d;
    found->dmin = chosen.dmin;
    for (int part = 0; part < PARTS; part++) {
        int g = part / LANES, lane = part % LANES;
        found->scales[part] = (uint8_t)chosen.scales[g][lane];
        found->least[part] = (uint8_t)chosen.least[g][lane];
        for (int i = 0; i < PART; i++)
            found->q[part * PART + i] = (int8_t)p[g].q[i][lane];
    }
}
