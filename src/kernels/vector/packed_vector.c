/* Packed linear layers over the vector vocabulary and its dot products.
 *
 * The innermost loop multiplies a tile of up to ROWS rows of activations by two vectors of a panel of weights and
 * leaves the raw sums, [rows, WIDTH] of float32 or int32, in level 1 cache; what follows reads them from there: scaling
 * of integers, then the epilogue into y, or GELU and rounding into the activations of an FFN's second layer.
 */
#include <string.h>

#include "base/memory.h"

#include "kernels/vector/interleave.h"
#include "kernels/vector/packed_parts.h"
#include "kernels/vector/packed_tile.h"
#include "kernels/vector/vector_math.h"

struct tile {
    size_t row, rows;                                    /* of the block; at most ROWS */
    size_t channel;                                      /* the first of WIDTH */
    _Alignas(FVLM_ALIGN) float sums[ROWS * WIDTH];       /* raw sums; int8: those of slices before the last, scaled */
    _Alignas(FVLM_ALIGN) int32_t integers[ROWS * WIDTH]; /* int8: raw sums of the last slice */
};

/* What the integers of some channels and one slice are worth. */
struct worth {
    vf scale, sum; /* of the weights of VF_LANES channels */
};

FVLM_INLINE struct worth worth_of(const fvlm_packed *w, size_t channel, size_t slice)
{
    size_t padded = (w->rows + PANEL - 1) / PANEL * PANEL;
    return (struct worth){vf_load(w->scales + channel), vf_load(w->sums + slice * padded + channel)};
}

/* `start` and the float that a raw sum of slice `slice` of x stands for: sum of (low + scale u) W. */
FVLM_INLINE vf worth_add(struct worth worth, const fvlm_packed_rows *x, size_t slice, size_t row, vd integers, vf start)
{
    size_t at = slice * x->rows + row;
    vf scale = vf_set(x->scale[at]), low = vf_set(x->low[at]);
    return vf_fma(vf_mul(vd_float(integers), scale), worth.scale, vf_fma(low, worth.sum, start));
}

/* Fill the tile's raw sums; for int8 and several slices also what comes before the last one. */
FVLM_INLINE void multiply(fvlm_packed_type type, const fvlm_packed_block *call, struct tile *tile)
{
    const fvlm_packed *w = call->w;
    size_t unit = fvlm_packed_unit(type), units = (w->cols + unit - 1) / unit;
    size_t first = call->slice * FVLM_PACKED_SLICE, end = (call->slice + call->slices) * FVLM_PACKED_SLICE;
    size_t place = (tile->channel / PANEL * units + first / unit) * PANEL + tile->channel % PANEL;
    const uint8_t *data = (const uint8_t *)w->data + place * UNIT_BYTES;
    const uint8_t *x = call->x->data + (call->first_row + tile->row) * call->x->stride;
    if (end > w->cols)
        end = w->cols;
    if (type != FVLM_PACKED_INT8) {
        dot(type, tile->rows, x, call->x->stride, data, end - first, tile->sums);
        return;
    }
    for (size_t slice = 0;; slice++) {
        size_t done = slice * FVLM_PACKED_SLICE, left = end - first - done;
        dot(type, tile->rows, x + done, call->x->stride, data + done * PANEL,
            left < FVLM_PACKED_SLICE ? left : FVLM_PACKED_SLICE, tile->integers);
        if (slice + 1 == call->slices)
            return;
        for (int v = 0; v < VECTORS; v++) {
            struct worth worth = worth_of(w, tile->channel + (size_t)v * VF_LANES, call->slice + slice);
            for (size_t i = 0; i < tile->rows; i++) {
                size_t at = i * WIDTH + (size_t)v * VF_LANES;
                vf start = slice == 0 ? vf_zero() : vf_load(tile->sums + at);
                vf_store(tile->sums + at, worth_add(worth, call->x, slice, call->first_row + tile->row + i,
                                                    vd_load(tile->integers + at), start));
            }
        }
    }
}

/* The sums of row i of the tile, vector v, and the bias. */
FVLM_INLINE vf tile_sum(fvlm_packed_type type, const fvlm_packed_block *call, const struct tile *tile,
                        struct worth worth, size_t i, int v, vf bias)
{
    size_t at = i * WIDTH + (size_t)v * VF_LANES, last = call->slices - 1;
    if (type != FVLM_PACKED_INT8)
        return vf_add(vf_load(tile->sums + at), bias);
    vf start = last == 0 ? bias : vf_add(vf_load(tile->sums + at), bias);
    return worth_add(worth, call->x, last, call->first_row + tile->row + i, vd_load(tile->integers + at), start);
}

FVLM_INLINE struct worth last_worth(fvlm_packed_type type, const fvlm_packed_block *call, const struct tile *tile,
                                    int v)
{
    if (type != FVLM_PACKED_INT8)
        return (struct worth){vf_zero(), vf_zero()};
    return worth_of(call->w, tile->channel + (size_t)v * VF_LANES, call->slice + call->slices - 1);
}

FVLM_INLINE vf load_channels(const float *p, size_t channel, size_t n, float otherwise)
{
    if (!p)
        return vf_set(otherwise);
    return n == VF_LANES ? vf_load(p + channel) : vf_load_n(p + channel, n);
}

FVLM_INLINE vf activate(fvlm_packed_type type, fvlm_activation activation, vf x)
{
    bool near = activation == FVLM_ACTIVATION_GELU && !fvlm_packed_is_fp32(type);
    return near ? vf_gelu_near(x) : vf_activate(activation, x);
}

/* How many of vector v's channels the matrix has. */
FVLM_INLINE size_t channels_of(const fvlm_packed_block *call, const struct tile *tile, int v)
{
    size_t channel = tile->channel + (size_t)v * VF_LANES, rows = call->w->rows;
    return rows <= channel ? 0 : rows - channel < VF_LANES ? rows - channel : VF_LANES;
}

/* `whole`: the matrix has all channels of the tile. */
FVLM_INLINE void finish(fvlm_packed_type type, fvlm_activation activation, bool whole, const fvlm_packed_block *call,
                        const struct tile *tile)
{
    const fvlm_epilogue *epilogue = call->epilogue;
    struct worth worth[VECTORS];
    vf bias[VECTORS], scale[VECTORS];
    size_t n[VECTORS];
    FVLM_UNROLL
    for (int v = 0; v < VECTORS; v++) {
        size_t channel = tile->channel + (size_t)v * VF_LANES;
        n[v] = whole ? VF_LANES : channels_of(call, tile, v);
        worth[v] = last_worth(type, call, tile, v);
        bias[v] = load_channels(epilogue->bias, channel, n[v], 0);
        scale[v] = load_channels(epilogue->scale, channel, n[v], 1);
    }
    size_t length = call->line > 0 ? call->line : call->rows, line = tile->row / length, place = tile->row % length;
    const float *residual = epilogue->residual;
    for (size_t i = 0; i < tile->rows; i++) {
        size_t start = line * call->line_stride + tile->channel;
        const float *from = residual ? residual + start + place * epilogue->residual_stride : NULL;
        float *y = call->y + start + place * call->y_stride;
        FVLM_UNROLL
        for (int v = 0; v < VECTORS; v++) {
            size_t at = (size_t)v * VF_LANES;
            vf value = activate(type, activation, tile_sum(type, call, tile, worth[v], i, v, bias[v]));
            if (residual)
                value = vf_fma(value, scale[v], load_channels(from, at, n[v], 0));
            else
                value = vf_mul(value, scale[v]);
            if (whole)
                vf_store(y + at, value);
            else
                vf_store_n(y + at, value, n[v]);
        }
        if (++place == length) {
            place = 0;
            line++;
        }
    }
}

/* Before a block's tiles; after them, dot_end. */
FVLM_INLINE void begin(fvlm_packed_type type, const fvlm_packed_block *call)
{
    size_t first = call->slice * FVLM_PACKED_SLICE, end = first + call->slices * FVLM_PACKED_SLICE;
    dot_begin(type, call->rows, (end < call->w->cols ? end : call->w->cols) - first);
}

FVLM_INLINE void block_of(fvlm_packed_type type, const fvlm_packed_block *call)
{
    struct tile tile;
    begin(type, call);
    for (size_t channel = call->first; channel < call->first + call->count; channel += WIDTH) {
        tile.channel = channel;
        for (tile.row = 0; tile.row < call->rows; tile.row += tile.rows) {
            tile.rows = next_rows(call->rows - tile.row);
            multiply(type, call, &tile);
            if (call->epilogue->activation != FVLM_ACTIVATION_NONE)
                finish(type, call->epilogue->activation, false, call, &tile);
            else if (channel + WIDTH <= call->w->rows)
                finish(type, FVLM_ACTIVATION_NONE, true, call, &tile);
            else
                finish(type, FVLM_ACTIVATION_NONE, false, call, &tile);
        }
    }
    dot_end();
}

static void block(const fvlm_packed_block *call)
{
    switch (call->w->type) {
#if defined(DOT_TILES)
    case FVLM_PACKED_FP32:
    case FVLM_PACKED_FP32_BF16:
        fvlm_packed_kernels_avx512bf16.block(call);
        break;
#else
    case FVLM_PACKED_FP32:
        block_of(FVLM_PACKED_FP32, call);
        break;
    case FVLM_PACKED_FP32_BF16:
        block_of(FVLM_PACKED_FP32_BF16, call);
        break;
#endif
    case FVLM_PACKED_BF16:
        block_of(FVLM_PACKED_BF16, call);
        break;
    case FVLM_PACKED_INT8:
        block_of(FVLM_PACKED_INT8, call);
        break;
    }
}

/* x as integers above `low`; scale * (low + integer) is x. */
FVLM_INLINE void round_row(const float *x, size_t cols, float low, float high, uint8_t *to, float *scale)
{
    float step = (high - low) / DOT_LEVELS;
    vf per = vf_set(step > 0 ? 1 / step : 0), offset = vf_set(step > 0 ? -low / step : 0);
    size_t k = 0;
    for (; k + 4 * VF_LANES <= cols; k += 4 * VF_LANES) {
        vf four[4];
        FVLM_UNROLL
        for (size_t i = 0; i < 4; i++)
            four[i] = vf_fma(vf_load(x + k + i * VF_LANES), per, offset);
        vf_store4_u8(to + k, four);
    }
    for (; k + VF_LANES <= cols; k += VF_LANES)
        vf_store_u8(to + k, vf_fma(vf_load(x + k), per, offset));
    if (k < cols)
        vf_store_u8(to + k, vf_fma(vf_load_n(x + k, cols - k), per, offset));
    *scale = step;
}

/* GELU of one tile into `to`, at the block's own columns. int8: as floats into y, with the row's maxima behind them;
 * there what a panel has behind the matrix is 0. */
FVLM_INLINE void finish_hidden(fvlm_packed_type type, const fvlm_packed_block *call, const struct tile *tile,
                               const fvlm_packed_rows *to)
{
    size_t column = tile->channel - call->first;
    struct worth worth[VECTORS];
    vf bias[VECTORS];
    FVLM_UNROLL
    for (int v = 0; v < VECTORS; v++) {
        worth[v] = last_worth(type, call, tile, v);
        bias[v] =
            load_channels(call->epilogue->bias, tile->channel + (size_t)v * VF_LANES, channels_of(call, tile, v), 0);
    }
    for (size_t i = 0; i < tile->rows; i++) {
        size_t row = tile->row + i;
        uint8_t *out = to->data + row * to->stride;
        float *y = call->y + row * call->y_stride, *maxima = y + FVLM_PACKED_SLICE;
        vf largest = type != FVLM_PACKED_INT8 || column == 0 ? vf_zero() : vf_load(maxima);
        FVLM_UNROLL
        for (int v = 0; v < VECTORS; v++) {
            size_t at = column + (size_t)v * VF_LANES;
            vf value = activate(type, FVLM_ACTIVATION_GELU, tile_sum(type, call, tile, worth[v], i, v, bias[v]));
            if (fvlm_packed_is_fp32(type))
                vf_store((float *)(void *)out + at, value);
            else if (type == FVLM_PACKED_BF16)
                vf_store_bf16((uint16_t *)(void *)out + at, value);
            else
                vf_store(y + at, value);
            largest = vf_max(value, largest);
        }
        if (type == FVLM_PACKED_INT8)
            vf_store(maxima, largest);
    }
}

FVLM_INLINE void hidden_of(fvlm_packed_type type, const fvlm_packed_block *call, const fvlm_packed_rows *to)
{
    struct tile tile;
    begin(type, call);
    for (size_t channel = call->first; channel < call->first + call->count; channel += WIDTH) {
        tile.channel = channel;
        for (tile.row = 0; tile.row < call->rows; tile.row += tile.rows) {
            tile.rows = next_rows(call->rows - tile.row);
            multiply(type, call, &tile);
            finish_hidden(type, call, &tile, to);
        }
    }
    dot_end();
    if (type != FVLM_PACKED_INT8)
        return;
    for (size_t row = 0; row < call->rows; row++) {
        const float *y = call->y + row * call->y_stride;
        to->low[row] = FVLM_GELU_LEAST;
        round_row(y, call->count, FVLM_GELU_LEAST, vf_largest(vf_load(y + FVLM_PACKED_SLICE)),
                  to->data + row * to->stride, &to->scale[row]);
    }
}

static void hidden(const fvlm_packed_block *call, const fvlm_packed_rows *to)
{
    switch (call->w->type) {
#if defined(DOT_TILES)
    case FVLM_PACKED_FP32:
    case FVLM_PACKED_FP32_BF16:
        fvlm_packed_kernels_avx512bf16.hidden(call, to);
        break;
#else
    case FVLM_PACKED_FP32:
        hidden_of(FVLM_PACKED_FP32, call, to);
        break;
    case FVLM_PACKED_FP32_BF16:
        hidden_of(FVLM_PACKED_FP32_BF16, call, to);
        break;
#endif
    case FVLM_PACKED_BF16:
        hidden_of(FVLM_PACKED_BF16, call, to);
        break;
    case FVLM_PACKED_INT8:
        hidden_of(FVLM_PACKED_INT8, call, to);
        break;
    }
}

FVLM_INLINE void to_bf16(const float *x, size_t cols, uint16_t *to)
{
    size_t k = 0;
    for (; k + VF_LANES <= cols; k += VF_LANES)
        vf_store_bf16(to + k, vf_load(x + k));
    if (k < cols)
        vf_store_bf16(to + k, vf_load_n(x + k, cols - k));
}

/* The least and the largest of x and 0. */
FVLM_INLINE void range_of(const float *x, size_t cols, float *low, float *high)
{
    vf least = vf_zero(), largest = vf_zero();
    size_t k = 0;
    for (; k + VF_LANES <= cols; k += VF_LANES) {
        least = vf_min(vf_load(x + k), least);
        largest = vf_max(vf_load(x + k), largest);
    }
    if (k < cols) {
        least = vf_min(vf_load_n(x + k, cols - k), least);
        largest = vf_max(vf_load_n(x + k, cols - k), largest);
    }
    *low = vf_least(least);
    *high = vf_largest(largest);
}

static void prepare(fvlm_packed_type type, const float *x, size_t x_stride, size_t cols, size_t first, size_t count,
                    const fvlm_packed_rows *to)
{
    for (size_t i = 0; i < count; i++) {
        const float *row = x + i * x_stride;
        uint8_t *data = to->data + (first + i) * to->stride;
        if (type == FVLM_PACKED_BF16) {
            to_bf16(row, cols, (uint16_t *)(void *)data);
            continue;
        }
        for (size_t k = 0, slice = 0; k < cols; k += FVLM_PACKED_SLICE, slice++) {
            size_t width = cols - k < FVLM_PACKED_SLICE ? cols - k : FVLM_PACKED_SLICE;
            size_t at = slice * to->rows + first + i;
            float high;
            range_of(row + k, width, &to->low[at], &high);
            round_row(row + k, width, to->low[at], high, data + k, &to->scale[at]);
        }
    }
}

static void round_weights(fvlm_packed_type type, const float *w, size_t cols, uint8_t *to, float *scale, float *sums,
                          size_t sums_stride)
{
    if (type == FVLM_PACKED_FP32) {
        memcpy(to, w, cols * sizeof *w);
        return;
    }
    if (type != FVLM_PACKED_INT8) {
        to_bf16(w, cols, (uint16_t *)(void *)to);
        return;
    }
    int8_t *integers = (int8_t *)to;
    vf largest = vf_zero();
    size_t k = 0;
    for (; k + VF_LANES <= cols; k += VF_LANES)
        largest = vf_max(vf_abs(vf_load(w + k)), largest);
    if (k < cols)
        largest = vf_max(vf_abs(vf_load_n(w + k, cols - k)), largest);
    *scale = vf_largest(largest) / 127;
    vf per = vf_set(*scale > 0 ? 1 / *scale : 0);
    for (k = 0; k + VF_LANES <= cols; k += VF_LANES)
        vf_store_i8(integers + k, vf_mul(vf_load(w + k), per));
    if (k < cols)
        vf_store_i8(integers + k, vf_mul(vf_load_n(w + k, cols - k), per));
    for (size_t start = 0; start < cols; start += FVLM_PACKED_SLICE, sums += sums_stride) {
        size_t end = cols - start < FVLM_PACKED_SLICE ? cols : start + FVLM_PACKED_SLICE;
        int32_t sum = 0;
        for (k = start; k < end; k++)
            sum += integers[k];
        *sums = *scale * (float)sum;
    }
}

const fvlm_packed_kernels FVLM_FOR_ISA(fvlm_packed_kernels) = {.bf16 = DOT_BF16,
                                                               .levels = DOT_LEVELS,
                                                               .places = DOT_PLACES,
                                                               .round = round_weights,
                                                               .interleave = interleave,
                                                               .prepare = prepare,
                                                               .block = block,
                                                               .hidden = hidden,
                                                               .attend = FVLM_FOR_ISA(fvlm_packed_attend),
                                                               .convolve = FVLM_FOR_ISA(fvlm_packed_convolve)};
