/* Packed linear layers in plain C: the meaning of every vector body, and what runs where none is. */
#include <math.h>
#include <string.h>

#include "kernels/activation_scalar.h"
#include "kernels/packed_block.h"

enum { PANEL = FVLM_PACKED_PANEL, UNIT_BYTES = 4, LEVELS = 255 };

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
    if (type == FVLM_PACKED_BF16) {
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

/* The sum for output channel `channel` over the units from .. to of W, which lie in x from unit 0 on. */
static float dot_bf16(const uint8_t *panel, size_t channel, size_t from, size_t to, const uint8_t *x)
{
    float sum = 0;
    for (size_t k = from; k < to; k++) {
        const uint8_t *unit = panel + (k * PANEL + channel) * UNIT_BYTES;
        for (size_t i = 0; i < 2; i++)
            sum += bf16_at(x, (k - from) * 2 + i) * bf16_at(unit, i);
    }
    return sum;
}

static int dot_int8(const uint8_t *panel, size_t channel, size_t from, size_t to, const uint8_t *x)
{
    int sum = 0;
    for (size_t k = from; k < to; k++) {
        const uint8_t *unit = panel + (k * PANEL + channel) * UNIT_BYTES;
        for (size_t i = 0; i < 4; i++)
            sum += x[(k - from) * 4 + i] * (int8_t)unit[i];
    }
    return sum;
}

/* Output [row, channel] of a block before its epilogue. */
static float output(const fvlm_packed_block *call, size_t row, size_t channel)
{
    const fvlm_packed *w = call->w;
    size_t unit = fvlm_packed_unit(w->type), units = (w->cols + unit - 1) / unit,
           slice_units = FVLM_PACKED_SLICE / unit;
    size_t padded = (w->rows + PANEL - 1) / PANEL * PANEL;
    const uint8_t *panel = (const uint8_t *)w->data + channel / PANEL * units * PANEL * UNIT_BYTES;
    const uint8_t *x = call->x->data + (call->first_row + row) * call->x->stride;
    float sum = 0;
    for (size_t slice = 0; slice < call->slices; slice++, x += slice_units * UNIT_BYTES) {
        size_t from = (call->slice + slice) * slice_units, to = from + slice_units < units ? from + slice_units : units;
        if (w->type == FVLM_PACKED_BF16) {
            sum += dot_bf16(panel, channel % PANEL, from, to, x);
            continue;
        }
        size_t at = slice * call->x->rows + call->first_row + row;
        float integers = (float)dot_int8(panel, channel % PANEL, from, to, x);
        sum += call->x->scale[at] * integers * w->scales[channel] +
               call->x->low[at] * w->sums[(call->slice + slice) * padded + channel];
    }
    return sum;
}

static void block(const fvlm_packed_block *call)
{
    const fvlm_epilogue *epilogue = call->epilogue;
    for (size_t row = 0; row < call->rows; row++)
        for (size_t channel = call->first; channel < call->first + call->count; channel++) {
            float x = output(call, row, channel);
            if (epilogue->bias)
                x += epilogue->bias[channel];
            x = fvlm_activate_one(epilogue->activation, x);
            if (epilogue->scale)
                x *= epilogue->scale[channel];
            if (epilogue->residual)
                x += epilogue->residual[row * epilogue->residual_stride + channel];
            call->y[row * call->y_stride + channel] = x;
        }
}

static void hidden(const fvlm_packed_block *call, const fvlm_packed_rows *to)
{
    for (size_t row = 0; row < call->rows; row++) {
        float values[FVLM_PACKED_SLICE], largest = 0;
        for (size_t i = 0; i < call->count; i++) {
            size_t channel = call->first + i;
            float bias = call->epilogue->bias ? call->epilogue->bias[channel] : 0;
            values[i] = fvlm_activate_one(FVLM_ACTIVATION_GELU, output(call, row, channel) + bias);
            largest = values[i] > largest ? values[i] : largest;
        }
        uint8_t *data = to->data + row * to->stride;
        if (call->w->type == FVLM_PACKED_BF16) {
            to_bf16(values, call->count, data);
        } else {
            to->low[row] = FVLM_GELU_LEAST;
            round_row(values, call->count, FVLM_GELU_LEAST, largest, data, &to->scale[row]);
        }
    }
}

const fvlm_packed_kernels fvlm_packed_kernels_reference = {
    .round = round_weights, .interleave = interleave, .prepare = prepare, .block = block, .hidden = hidden};
