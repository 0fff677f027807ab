/* The innermost loop of packed products: a tile of rows of activations by two vectors of a panel of weights. With
 * AMX, products of bf16 and of integers are those of tiles.h. */
#ifndef FVLM_KERNELS_VECTOR_PACKED_TILE_H
#define FVLM_KERNELS_VECTOR_PACKED_TILE_H

#include <stdbool.h>

#include "kernels/packed_block.h"
#include "kernels/vector/dot.h"
#include "kernels/vector/tiles.h"

enum { PANEL = FVLM_PACKED_PANEL, UNIT_BYTES = FVLM_PACKED_UNIT, VECTORS = 2, WIDTH = VECTORS * VF_LANES };
#if defined(__AMX_TILE__)
#define DOT_TILES 1
enum { ROWS = TILES_ROWS, DOT_PLACES = 128 };
#else
enum { DOT_PLACES = 32 };
/* Rows of a tile: 2 sums each, beside 2 vectors of weights and 1 of activations; or 4 of weights, two units deep. */
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define DOT_PAIRS 1
enum { ROWS = 10 };
#else
enum { ROWS = VF_REGISTERS == 32 ? 14 : 6 };
#endif
#endif

#if defined(DOT_TILES)

/* Before the first `dot` of a thread: of up to `rows` rows, and `inputs` deep, or a multiple of 64 bytes. */
FVLM_INLINE void dot_begin(fvlm_packed_type type, size_t rows, size_t inputs)
{
    size_t unit = fvlm_packed_unit(type);
    tiles_begin(rows, (inputs + unit - 1) / unit);
}

/* After the last. */
FVLM_INLINE void dot_end(void)
{
    tiles_end();
}

/* raw[rows, WIDTH], float32 or, for int8, int32: rows of x, `stride` bytes apart, with WIDTH columns of a panel,
 * `inputs` deep. Not for float32. */
FVLM_INLINE void dot(fvlm_packed_type type, size_t rows, const uint8_t *x, size_t stride, const uint8_t *w,
                     size_t inputs, void *raw)
{
    size_t unit = fvlm_packed_unit(type);
    tiles_multiply(type == FVLM_PACKED_INT8 ? TILES_U8_S8 : TILES_BF16, rows, x, stride, w, (inputs + unit - 1) / unit,
                   raw);
}

#else

FVLM_INLINE void dot_begin(fvlm_packed_type type, size_t rows, size_t inputs)
{
    (void)type, (void)rows, (void)inputs;
}
FVLM_INLINE void dot_end(void) {}

/* The sums of a tile in registers; those of the other kind do not exist. */
struct sums {
    vf floats[ROWS][VECTORS];
    vd integers[ROWS][VECTORS];
};

FVLM_INLINE void multiply_unit(fvlm_packed_type type, bool second, vd x, vd w, vf *sum, vd *integers)
{
    if (type == FVLM_PACKED_INT8)
        *integers = vd_dot_u8s8(*integers, x, w);
    else if (type == FVLM_PACKED_BF16)
        *sum = vd_dot_bf16(*sum, x, w);
    else if (type == FVLM_PACKED_FP32)
        *sum = vf_fma(vd_as_float(x), vd_as_float(w), *sum);
    else
        *sum = vf_fma(vd_as_float(x), second ? vd_second_bf16(w) : vd_first_bf16(w), *sum);
}

/* A unit of weights with a unit of each row of x, or, for FVLM_PACKED_FP32_BF16, with the first or second input. */
FVLM_INLINE void multiply_step(fvlm_packed_type type, bool second, size_t rows, const uint8_t *x, size_t stride,
                               const uint8_t *w, struct sums *sums)
{
    vd weights[VECTORS];
    FVLM_UNROLL
    for (int v = 0; v < VECTORS; v++)
        weights[v] = vd_load(w + v * VF_LANES * UNIT_BYTES);
    FVLM_UNROLL
    for (size_t i = 0; i < rows; i++) {
        vd unit = vd_spread(x + i * stride);
        FVLM_UNROLL
        for (int v = 0; v < VECTORS; v++)
            multiply_unit(type, second, unit, weights[v], &sums->floats[i][v], &sums->integers[i][v]);
    }
}

/* raw[rows, WIDTH], float32 or, for int8, int32: rows of x, `stride` bytes apart, with WIDTH columns of a panel,
 * `inputs` deep. */
FVLM_INLINE void dot_rows(fvlm_packed_type type, size_t rows, const uint8_t *x, size_t stride, const uint8_t *w,
                          size_t inputs, void *raw)
{
    struct sums sums;
    FVLM_UNROLL
    for (size_t i = 0; i < rows; i++)
        FVLM_UNROLL
    for (int v = 0; v < VECTORS; v++) {
        sums.floats[i][v] = vf_zero();
        sums.integers[i][v] = vd_zero();
    }
    const size_t unit = fvlm_packed_unit(type), x_step = unit * fvlm_packed_input_bytes(type);
    /* Behind an odd number of inputs there may be no other one to read. */
    size_t units = type == FVLM_PACKED_FP32_BF16 ? inputs / unit : (inputs + unit - 1) / unit;
    for (size_t k = 0; k < units; k++, x += x_step, w += PANEL * UNIT_BYTES) {
        multiply_step(type, false, rows, x, stride, w, &sums);
        if (type == FVLM_PACKED_FP32_BF16)
            multiply_step(type, true, rows, x + sizeof(float), stride, w, &sums);
    }
    if (type == FVLM_PACKED_FP32_BF16 && inputs % unit != 0)
        multiply_step(type, false, rows, x, stride, w, &sums);
    FVLM_UNROLL
    for (size_t i = 0; i < rows; i++)
        FVLM_UNROLL
    for (int v = 0; v < VECTORS; v++) {
        if (type == FVLM_PACKED_INT8)
            vd_store((int32_t *)raw + i * WIDTH + v * VF_LANES, sums.integers[i][v]);
        else
            vf_store((float *)raw + i * WIDTH + v * VF_LANES, sums.floats[i][v]);
    }
}

#if defined(DOT_PAIRS)

/* A unit, or two, of each of two rows. */
FVLM_INLINE vd load_pair(bool two, const uint8_t *upper, const uint8_t *lower)
{
    uint64_t units[2] = {0};
    memcpy(&units[0], upper, two ? 2 * UNIT_BYTES : UNIT_BYTES);
    memcpy(&units[1], lower, two ? 2 * UNIT_BYTES : UNIT_BYTES);
    return vreinterpretq_s32_u64(vcombine_u64(vcreate_u64(units[0]), vcreate_u64(units[1])));
}

/* One unit of weights, or two, with as many of each row. Sums are [pairs of rows][pairs of columns], 2 x 2 each. */
FVLM_INLINE void multiply_pairs(bool two, size_t rows, const uint8_t *x, size_t stride, const uint8_t *w,
                                vf sums[ROWS / 2][2 * VECTORS])
{
    vd columns[2 * VECTORS];
    FVLM_UNROLL
    for (int v = 0; v < VECTORS; v++) {
        const uint8_t *units = w + v * VF_LANES * UNIT_BYTES;
        vd first = vd_load(units), second = two ? vd_load(units + PANEL * UNIT_BYTES) : vd_zero();
        columns[2 * v] = vzip1q_s32(first, second);
        columns[2 * v + 1] = vzip2q_s32(first, second);
    }
    FVLM_UNROLL
    for (size_t i = 0; i < rows; i += 2) {
        const uint8_t *upper = x + i * stride;
        vd pair = load_pair(two, upper, i + 1 < rows ? upper + stride : upper);
        FVLM_UNROLL
        for (int c = 0; c < 2 * VECTORS; c++)
            sums[i / 2][c] = vd_dot_pairs_bf16(sums[i / 2][c], pair, columns[c]);
    }
}

/* dot_rows for bf16; behind an odd number of rows the last one is its own neighbour. */
FVLM_INLINE void dot_row_pairs(size_t rows, const uint8_t *x, size_t stride, const uint8_t *w, size_t inputs,
                               float *raw)
{
    vf sums[ROWS / 2][2 * VECTORS];
    FVLM_UNROLL
    for (size_t i = 0; i < rows; i += 2)
        FVLM_UNROLL
    for (int c = 0; c < 2 * VECTORS; c++)
        sums[i / 2][c] = vf_zero();
    size_t units = (inputs + 1) / 2, k = 0;
    for (; k + 2 <= units; k += 2, x += 2 * UNIT_BYTES, w += 2 * PANEL * UNIT_BYTES)
        multiply_pairs(true, rows, x, stride, w, sums);
    if (k < units)
        multiply_pairs(false, rows, x, stride, w, sums);
    FVLM_UNROLL
    for (size_t i = 0; i < rows; i += 2)
        FVLM_UNROLL
    for (int v = 0; v < VECTORS; v++) {
        vf left = sums[i / 2][2 * v], right = sums[i / 2][2 * v + 1];
        float *to = raw + i * WIDTH + v * VF_LANES;
        vf_store(to, vcombine_f32(vget_low_f32(left), vget_low_f32(right)));
        if (i + 1 < rows)
            vf_store(to + WIDTH, vcombine_f32(vget_high_f32(left), vget_high_f32(right)));
    }
}

#endif

FVLM_INLINE void dot_any(fvlm_packed_type type, size_t rows, const uint8_t *x, size_t stride, const uint8_t *w,
                         size_t inputs, void *raw)
{
#if defined(DOT_PAIRS)
    if (type == FVLM_PACKED_BF16) {
        dot_row_pairs(rows, x, stride, w, inputs, raw);
        return;
    }
#endif
    dot_rows(type, rows, x, stride, w, inputs, raw);
}

/* One body for each number of rows, so that the sums are registers. */
#define DOT_CASE(n)                                                                                                    \
    case n:                                                                                                            \
        dot_any(type, n, x, stride, w, inputs, raw);                                                                   \
        break;

/* The same for any number of rows up to ROWS. */
FVLM_INLINE void dot(fvlm_packed_type type, size_t rows, const uint8_t *x, size_t stride, const uint8_t *w,
                     size_t inputs, void *raw)
{
    switch (rows) {
        DOT_CASE(1)
        DOT_CASE(2)
        DOT_CASE(3)
        DOT_CASE(4)
        DOT_CASE(5)
        DOT_CASE(6)
#if VF_REGISTERS == 32
        DOT_CASE(7)
        DOT_CASE(8)
        DOT_CASE(9)
        DOT_CASE(10)
#endif
#if VF_REGISTERS == 32 && !defined(DOT_PAIRS)
        DOT_CASE(11)
        DOT_CASE(12)
        DOT_CASE(13)
        DOT_CASE(14)
#endif
    }
}

#endif

/* The tiles of a block divide its rows evenly: a tile of 13 rows takes 13/14 of the time of one of 14, but one of 2
 * rows waits for its own sums. With AMX only a block of less than 16 rows has tiles of so few. */
FVLM_INLINE size_t next_rows(size_t rows_left)
{
    size_t tiles = (rows_left + ROWS - 1) / ROWS;
    return (rows_left + tiles - 1) / tiles;
}

#endif
