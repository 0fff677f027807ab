/* Packed linear layers in plain C: the meaning of every vector body, and what runs where none is. */
#include <math.h>
#include <string.h>

#include "kernels/activation_scalar.h"
#include "kernels/packed_block.h"

enum { PANEL = FVLM_PACKED_PANEL, UNIT_BYTES = FVLM_PACKED_UNIT, LEVELS = 255 };

static float bf16_at(const uint8_t *data, size_t index)
{
    uint16_t bits;
    memcpy(&bits, data + index * sizeof bits, sizeof bits);
    return fvlm_float_from_bf16(bits);
}

static void to_bf16(const float *x, size_t cols, uint8_t *to)
{
    for (size_t k = 0; k < cols + cols % 2; k++) {
        uint16_t bits = k < cols ? fvlm_bf16_from_float(x[k]) : 0;
        memcpy(to + k * sizeof bits, &bits, sizeof bits);
    }
}

/* The integer nearest to x within [low, high]; NaN becomes `low`. */
static int round_within(float x, int low, int high)
{
    float whole = rintf(x);
    if (!(whole > (float)low))
        return low;
    return whole < (float)high ? (int)whole : high;
}

/* x as integers above `low`. */
static void round_row(const float *x, size_t cols, float low, float high, uint8_t *to, float *scale)
{
    float step = (high - low) / LEVELS;
    for (size_t k = 0; k < cols; k++)
        to[k] = step > 0 ? (uint8_t)round_within((x[k] - low) / step, 0, LEVELS) : 0;
    for (size_t k = cols; k % UNIT_BYTES != 0; k++)
        to[k] = 0;
    *scale = step;
}

static void prepare(fvlm_packed_type type, const float *x, size_t x_stride, size_t cols, size_t first, size_t count,
                    const fvlm_packed_rows *to)
{
    for (size_t i = 0; i < count; i++) {
        const float *row = x + i * x_stride;
        uint8_t *data = to->data + (first + i) * to->stride;
        if (type == FVLM_PACKED_BF16) {
            to_bf16(row, cols, data);
            continue;
        }
        for (size_t k = 0, slice = 0; k < cols; k += FVLM_PACKED_SLICE, slice++) {
            size_t width = cols - k < FVLM_PACKED_SLICE ? cols - k : FVLM_PACKED_SLICE;
            size_t at = slice * to->rows + first + i;
            float low = 0, high = 0;
            for (size_t j = k; j < k + width; j++) {
                low = row[j] < low ? row[j] : low;
                high = row[j] > high ? row[j] : high;
            }
            to->low[at] = low;
            round_row(row + k, width, low, high, data + k, &to->scale[at]);
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
        to_bf16(w, cols, to);
        return;
    }
    float largest = 0;
    for (size_t k = 0; k < cols; k++)
        largest = fabsf(w[k]) > largest ? fabsf(w[k]) : largest;
    *scale = largest / 127;
    for (size_t start = 0; start < cols; start += FVLM_PACKED_SLICE, sums += sums_stride) {
        int sum = 0;
        for (size_t k = start; k < cols && k < start + FVLM_PACKED_SLICE; k++) {
            int integer = *scale > 0 ? round_within(w[k] / *scale, -127, 127) : 0;
            to[k] = (uint8_t)integer;
            sum += integer;
        }
        *sums = *scale * (float)sum;
    }
    for (size_t k = cols; k % UNIT_BYTES != 0; k++)
        to[k] = 0;
}

static void interleave(const uint8_t *rows, size_t stride, size_t units, void *panel)
{
    for (size_t k = 0; k < units; k++)
        for (size_t i = 0; i < PANEL; i++)
            memcpy((uint8_t *)panel + (k * PANEL + i) * UNIT_BYTES, rows + i * stride + k * UNIT_BYTES, UNIT_BYTES);
}

/* sums[PANEL] grow by `inputs` inputs of a row of x times a panel. */
static void add_floats(fvlm_packed_type type, const uint8_t *x, const uint8_t *panel, size_t inputs, float *sums)
{
    size_t unit = fvlm_packed_unit(type);
    for (size_t k = 0; k < inputs; k++) {
        float a;
        if (type == FVLM_PACKED_BF16)
            a = bf16_at(x, k);
        else
            memcpy(&a, x + k * sizeof a, sizeof a);
        const uint8_t *w = panel + k / unit * PANEL * UNIT_BYTES;
        for (size_t i = 0; i < PANEL; i++) {
            float b;
            if (type == FVLM_PACKED_FP32)
                memcpy(&b, w + i * sizeof b, sizeof b);
            else
                b = bf16_at(w, 2 * i + k % 2);
            sums[i] += a * b;
        }
    }
}

/* Slice `slice` of x, which is slice `w_slice` of W. */
static void add_integers(const fvlm_packed_block *call, size_t row, size_t first, size_t slice, size_t inputs,
                         const uint8_t *x, const uint8_t *panel, float *sums)
{
    size_t padded = (call->w->rows + PANEL - 1) / PANEL * PANEL, at = slice * call->x->rows + call->first_row + row;
    int integers[PANEL] = {0};
    for (size_t k = 0; k < inputs; k++)
        for (size_t i = 0; i < PANEL; i++)
            integers[i] += x[k] * (int8_t)panel[(k / UNIT_BYTES * PANEL + i) * UNIT_BYTES + k % UNIT_BYTES];
    for (size_t i = 0; i < PANEL; i++)
        sums[i] += call->x->scale[at] * (float)integers[i] * call->w->scales[first + i] +
                   call->x->low[at] * call->w->sums[(call->slice + slice) * padded + first + i];
}

/* Outputs [row, first .. first + PANEL] of a block before their epilogue. */
static void outputs(const fvlm_packed_block *call, size_t row, size_t first, float *sums)
{
    const fvlm_packed *w = call->w;
    size_t unit = fvlm_packed_unit(w->type), units = (w->cols + unit - 1) / unit;
    const uint8_t *panel = (const uint8_t *)w->data + first / PANEL * units * PANEL * UNIT_BYTES;
    const uint8_t *x = call->x->data + (call->first_row + row) * call->x->stride;
    memset(sums, 0, PANEL * sizeof *sums);
    for (size_t slice = 0; slice < call->slices; slice++) {
        size_t from = (call->slice + slice) * FVLM_PACKED_SLICE, left = w->cols - from;
        size_t inputs = left < FVLM_PACKED_SLICE ? left : FVLM_PACKED_SLICE;
        const uint8_t *weights = panel + from / unit * PANEL * UNIT_BYTES;
        if (w->type == FVLM_PACKED_INT8)
            add_integers(call, row, first, slice, inputs, x, weights, sums);
        else
            add_floats(w->type, x, weights, inputs, sums);
        x += FVLM_PACKED_SLICE * fvlm_packed_input_bytes(w->type);
    }
}

static size_t channels_left(const fvlm_packed_block *call, size_t first)
{
    size_t left = call->first + call->count - first;
    return left < PANEL ? left : PANEL;
}

static void block(const fvlm_packed_block *call)
{
    const fvlm_epilogue *epilogue = call->epilogue;
    size_t length = call->line > 0 ? call->line : call->rows;
    for (size_t row = 0; row < call->rows; row++) {
        size_t line = row / length * call->line_stride, place = row % length;
        for (size_t first = call->first; first < call->first + call->count; first += PANEL) {
            float sums[PANEL];
            outputs(call, row, first, sums);
            for (size_t i = 0; i < channels_left(call, first); i++) {
                size_t channel = first + i;
                float x = sums[i] + (epilogue->bias ? epilogue->bias[channel] : 0);
                x = fvlm_activate_one(epilogue->activation, x);
                if (epilogue->scale)
                    x *= epilogue->scale[channel];
                if (epilogue->residual)
                    x += epilogue->residual[line + place * epilogue->residual_stride + channel];
                call->y[line + place * call->y_stride + channel] = x;
            }
        }
    }
}

static void hidden(const fvlm_packed_block *call, const fvlm_packed_rows *to)
{
    for (size_t row = 0; row < call->rows; row++) {
        float values[FVLM_PACKED_SLICE + PANEL], largest = 0;
        for (size_t first = call->first; first < call->first + call->count; first += PANEL) {
            float *sums = values + (first - call->first);
            outputs(call, row, first, sums);
            for (size_t i = 0; i < channels_left(call, first); i++) {
                float bias = call->epilogue->bias ? call->epilogue->bias[first + i] : 0;
                sums[i] = fvlm_activate_one(FVLM_ACTIVATION_GELU, sums[i] + bias);
                largest = sums[i] > largest ? sums[i] : largest;
            }
        }
        uint8_t *data = to->data + row * to->stride;
        if (fvlm_packed_is_fp32(call->w->type)) {
            memcpy(data, values, call->count * sizeof *values);
        } else if (call->w->type == FVLM_PACKED_BF16) {
            to_bf16(values, call->count, data);
        } else {
            to->low[row] = FVLM_GELU_LEAST;
            round_row(values, call->count, FVLM_GELU_LEAST, largest, data, &to->scale[row]);
        }
    }
}

static void attend(const fvlm_packed_chunk *call)
{
    size_t row_bytes = PANEL * fvlm_packed_input_bytes(call->type);
    for (size_t query = 0; query < call->queries; query++) {
        float scores[FVLM_PACKED_KEYS] = {0}, largest = call->first ? -INFINITY : call->largest[query];
        uint8_t weights[FVLM_PACKED_KEYS * sizeof(float)];
        float sums[PANEL] = {0}, total = 0;
        for (size_t key = 0; key < call->count; key += PANEL)
            add_floats(call->type, call->q + query * row_bytes, call->keys + key * row_bytes, PANEL, scores + key);
        for (size_t key = 0; key < call->count; key++)
            largest = scores[key] > largest ? scores[key] : largest;
        for (size_t key = 0; key < call->count; key++)
            total += scores[key] = expf(call->scale * (scores[key] - largest));
        if (call->type == FVLM_PACKED_BF16)
            to_bf16(scores, call->count, weights);
        else
            memcpy(weights, scores, call->count * sizeof *scores);
        add_floats(call->type, weights, call->values, call->count, sums);
        float factor = call->first ? 0 : expf(call->scale * (call->largest[query] - largest));
        for (size_t i = 0; i < PANEL; i++)
            call->sums[query * PANEL + i] = sums[i] + (call->first ? 0 : factor * call->sums[query * PANEL + i]);
        call->totals[query] = total + (call->first ? 0 : factor * call->totals[query]);
        call->largest[query] = largest;
    }
}

static void convolve_place(const fvlm_depthwise *conv, const uint32_t *weights, const float *x, size_t row,
                           size_t column, size_t odd, float *y)
{
    size_t stride = fvlm_packed_conv_stride(conv->channels), taps = 2 * FVLM_PACKED_CONV_UNITS;
    for (size_t c = 0; c < conv->channels; c++)
        y[c] = conv->bias ? conv->bias[c] : 0;
    for (size_t i = 0; i < taps * 7; i++) {
        size_t tap = i / 7, r = row + tap - odd - 3, s = column + i % 7 - 3; /* large where below 0 */
        if (r >= conv->height || s >= conv->width)
            continue;
        const uint32_t *weight = weights + ((odd * FVLM_PACKED_CONV_UNITS + tap / 2) * 7 + i % 7) * stride;
        const float *in = x + (r * conv->width + s) * conv->channels;
        for (size_t c = 0; c < conv->channels; c++)
            y[c] += fvlm_float_from_bf16(fvlm_bf16_from_float(in[c])) *
                    fvlm_float_from_bf16((uint16_t)(weight[c] >> (tap % 2 * 16)));
    }
}

static void convolve(const fvlm_depthwise *conv, const uint32_t *weights, const float *x, const fvlm_conv_area *area)
{
    for (size_t i = 0; i < area->rows; i++)
        for (size_t j = 0; j < area->columns; j++)
            convolve_place(conv, weights, x, area->row + i, area->column + j, i % 2,
                           area->y + i * area->line_stride + j * area->y_stride);
}

const fvlm_packed_kernels fvlm_packed_kernels_reference = {.levels = LEVELS,
                                                           .places = 32,
                                                           .round = round_weights,
                                                           .interleave = interleave,
                                                           .prepare = prepare,
                                                           .block = block,
                                                           .hidden = hidden,
                                                           .attend = attend,
                                                           .convolve = convolve};
