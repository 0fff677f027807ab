/* Convolutions in the vector vocabulary, VF_LANES channels at a time.
 *
 * Depthwise: the sums of ROWS x PIXELS neighbouring outputs stay in registers. For each input row the weights that it
 * meets are loaded once, then every input pixel once, which feeds all the outputs that it touches: for a 7x7 kernel
 * with stride 1 and 2 x 8 outputs up to 14 + 14 loads for 112 multiply-adds. An area's channels are the outermost loop,
 * so that what neighbouring patches share is read again soon.
 * Stem: three lines of input become floats, of which each output takes 27 like a row of a small matrix.
 */
#include <stdbool.h>

#include "kernels/conv_body.h"
#include "kernels/vector/vector_math.h"

/* ROWS x PIXELS sums and the weights that an input pixel meets, 7 for each row of them, fill the registers. */
#if VF_REGISTERS == 32
#define ROWS 2
#define PIXELS 8
#else
#define ROWS 1
#define PIXELS 6
#endif
#define FEW_PIXELS 2
#define PLACES 8 /* whose gradients are computed together */

#define CACHE_LINE 16 /* floats */
#define PREFETCHED 64 /* input channels that are fetched together */

/* What an input pixel gives to outputs [c, c + n): channel o of the output reads channel o / multiplier, 1 or 2. */
FVLM_INLINE vf load_input(const float *pixel, size_t c, size_t multiplier, size_t n)
{
    if (multiplier == 1)
        return n == VF_LANES ? vf_load(pixel + c) : vf_load_n(pixel + c, n);
    if (n == VF_LANES)
        return vf_load_twice(pixel + c / 2);
    float lanes[VF_LANES] = {0};
    for (size_t i = 0; i < n; i++)
        lanes[i] = pixel[c / 2 + i / 2];
    return vf_load(lanes);
}

/* Some outputs: rows x pixels from (row, column) on, channels [c, c + n). */
struct patch {
    const fvlm_depthwise *conv;
    const float *x;
    size_t row, column, c, n;
    bool stream; /* all of the output's vectors are whole and aligned, and go past the caches */
};

/* Input rows [from, to), counted from the first one that the kernel meets for the patch, given to the patch's rows
 * [first, last) . Inputs beyond the left and right edge are passed over. */
FVLM_INLINE void depthwise_inputs(const struct patch *patch, size_t from, size_t to, size_t kernel, size_t stride,
                                  size_t multiplier, size_t first, size_t last, size_t pixels, vf sum[ROWS][PIXELS])
{
    const fvlm_depthwise *conv = patch->conv;
    size_t channels = conv->channels, inputs = channels / multiplier, pad = kernel / 2, n = patch->n;
    size_t left = patch->column * stride - pad;
    for (size_t i = from; i < to; i++) {
        const float *in = patch->x + (patch->row * stride + i - pad) * conv->width * inputs;
        vf w[ROWS][7];
        FVLM_UNROLL
        for (size_t r = first; r < last; r++) {
            const float *weight = conv->weight + (i - r * stride) * kernel * channels + patch->c;
            FVLM_UNROLL
            for (size_t j = 0; j < kernel; j++)
                w[r][j] = n == VF_LANES ? vf_load(weight + j * channels) : vf_load_n(weight + j * channels, n);
        }
        FVLM_UNROLL
        for (size_t j = 0; j < (pixels - 1) * stride + kernel; j++) {
            if (left + j >= conv->width) /* also where left + j wraps around below 0 */
                continue;
            vf a = load_input(in + (left + j) * inputs, patch->c, multiplier, n);
            FVLM_UNROLL
            for (size_t r = first; r < last; r++)
                FVLM_UNROLL
            for (size_t p = 0; p < pixels; p++)
                if (j >= p * stride && j - p * stride < kernel)
                    sum[r][p] = vf_fma(a, w[r][j - p * stride], sum[r][p]);
        }
    }
}

FVLM_INLINE void depthwise_patch(const struct patch *patch, size_t kernel, size_t stride, size_t multiplier,
                                 size_t rows, size_t pixels, float *y, size_t y_stride, size_t line_stride)
{
    const fvlm_depthwise *conv = patch->conv;
    size_t n = patch->n, top, bottom, last_top, last_bottom;
    vf sum[ROWS][PIXELS], bias = conv->bias ? vf_load_n(conv->bias + patch->c, n) : vf_zero();
    FVLM_UNROLL
    for (size_t r = 0; r < rows; r++)
        FVLM_UNROLL
    for (size_t p = 0; p < pixels; p++)
        sum[r][p] = bias;
    fvlm_conv_taps(patch->row, kernel, stride, conv->height, &top, &bottom);
    if (rows == 1) {
        depthwise_inputs(patch, top, bottom, kernel, stride, multiplier, 0, 1, pixels, sum);
    } else {
        /* Input rows that the first output row alone meets, those that both do, and the second's last ones. */
        fvlm_conv_taps(patch->row + 1, kernel, stride, conv->height, &last_top, &last_bottom);
        size_t both = last_top + stride;
        depthwise_inputs(patch, top, both, kernel, stride, multiplier, 0, 1, pixels, sum);
        depthwise_inputs(patch, both, bottom, kernel, stride, multiplier, 0, ROWS, pixels, sum);
        depthwise_inputs(patch, bottom, last_bottom + stride, kernel, stride, multiplier, ROWS - 1, ROWS, pixels, sum);
    }
    FVLM_UNROLL
    for (size_t r = 0; r < rows; r++)
        FVLM_UNROLL
    for (size_t p = 0; p < pixels; p++) {
        vf v = conv->activation == FVLM_ACTIVATION_NONE ? sum[r][p] : vf_activate(conv->activation, sum[r][p]);
        float *out = y + r * line_stride + p * y_stride + patch->c;
        if (patch->stream)
            vf_stream(out, v);
        else if (n == VF_LANES)
            vf_store(out, v);
        else
            vf_store_n(out, v, n);
    }
}

FVLM_INLINE void depthwise_lines(struct patch *patch, const fvlm_conv_area *area, size_t kernel, size_t stride,
                                 size_t multiplier, size_t rows)
{
    float *y = area->y + (patch->row - area->row) * area->line_stride;
    size_t end = area->column + area->columns;
    for (size_t pixels; patch->column < end; patch->column += pixels) {
        size_t left = end - patch->column;
        /* What is left may go back over some places that are done: that is quicker than a few at a time. */
        if (left < PIXELS && area->columns >= PIXELS)
            patch->column = end - PIXELS;
        float *out = y + (patch->column - area->column) * area->y_stride;
        pixels = area->columns >= PIXELS ? PIXELS : left >= FEW_PIXELS ? FEW_PIXELS : 1;
        if (pixels == PIXELS)
            depthwise_patch(patch, kernel, stride, multiplier, rows, PIXELS, out, area->y_stride, area->line_stride);
        else if (pixels == FEW_PIXELS)
            depthwise_patch(patch, kernel, stride, multiplier, rows, FEW_PIXELS, out, area->y_stride,
                            area->line_stride);
        else
            depthwise_patch(patch, kernel, stride, multiplier, rows, 1, out, area->y_stride, area->line_stride);
    }
}

FVLM_INLINE void depthwise_channels(const fvlm_depthwise *conv, const float *x, const fvlm_conv_area *area,
                                    size_t kernel, size_t stride, size_t multiplier, size_t c, size_t n)
{
    uintptr_t y = (uintptr_t)area->y | area->y_stride * sizeof(float) | area->line_stride * sizeof(float);
    bool stream = area->stream && n == VF_LANES && y % (VF_LANES * sizeof(float)) == 0;
    struct patch patch = {.conv = conv, .x = x, .row = area->row, .c = c, .n = n, .stream = stream};
    size_t end = area->row + area->rows;
    for (; patch.row + ROWS <= end; patch.row += ROWS) {
        patch.column = area->column;
        depthwise_lines(&patch, area, kernel, stride, multiplier, ROWS);
    }
    for (; patch.row < end; patch.row++) {
        patch.column = area->column;
        depthwise_lines(&patch, area, kernel, stride, multiplier, 1);
    }
}

/* Fetch what an area reads of input channels from `c` on: as channels are the outermost loop, the processor does not
 * see that each place's next cache lines will be wanted soon. The first line is wanted at once. */
FVLM_INLINE void prefetch(const fvlm_depthwise *conv, const float *x, const fvlm_conv_area *area, size_t kernel,
                          size_t stride, size_t inputs, size_t c)
{
    size_t pad = kernel / 2, top = area->row * stride, left = area->column * stride;
    size_t bottom = top + (area->rows - 1) * stride + pad, right = left + (area->columns - 1) * stride + pad;
    for (size_t row = top < pad ? 0 : top - pad; row <= bottom && row < conv->height; row++)
        for (size_t column = left < pad ? 0 : left - pad; column <= right && column < conv->width; column++)
            for (size_t i = c + CACHE_LINE; i < c + PREFETCHED && i < inputs; i += CACHE_LINE)
                __builtin_prefetch(x + (row * conv->width + column) * inputs + i, 0, 2);
}

FVLM_INLINE void depthwise_shape(const fvlm_depthwise *conv, const float *x, const fvlm_conv_area *area, size_t kernel,
                                 size_t stride, size_t multiplier)
{
    size_t channels = conv->channels, c = 0;
    for (; c + VF_LANES <= channels; c += VF_LANES) {
        if (c / multiplier % PREFETCHED == 0)
            prefetch(conv, x, area, kernel, stride, channels / multiplier, c / multiplier);
        depthwise_channels(conv, x, area, kernel, stride, multiplier, c, VF_LANES);
    }
    if (c < channels)
        depthwise_channels(conv, x, area, kernel, stride, multiplier, c, channels - c);
    if (area->stream)
        vf_streamed();
}

static void depthwise(const fvlm_depthwise *conv, const float *x, const fvlm_conv_area *area)
{
    size_t kernel = conv->kernel, stride = conv->stride, multiplier = conv->multiplier;
    if (kernel == 7 && stride == 1 && multiplier == 1)
        depthwise_shape(conv, x, area, 7, 1, 1);
    else if (kernel == 7 && stride == 2 && multiplier == 2)
        depthwise_shape(conv, x, area, 7, 2, 2);
    else if (kernel == 3 && stride == 1 && multiplier == 1)
        depthwise_shape(conv, x, area, 3, 1, 1);
    else if (kernel == 3 && stride == 1 && multiplier == 2)
        depthwise_shape(conv, x, area, 3, 1, 2);
    else if (kernel == 3 && stride == 2 && multiplier == 1)
        depthwise_shape(conv, x, area, 3, 2, 1);
    else
        fvlm_conv_kernels_reference.depthwise(conv, x, area); /* towers of other widths */
}

#define STEM_PIXELS 8
#define STEM_INPUTS ((2 * STEM_PIXELS + 1) * 3) /* of a line, for so many outputs side by side */
#define STEM_LINE ((STEM_INPUTS + VF_LANES - 1) / VF_LANES * VF_LANES)

/* line[(2 * pixels + 1) * 3] = the inputs in row `row` that outputs from `column` on meet, zero beyond the edges. */
FVLM_INLINE void stem_line(const fvlm_stem *conv, const uint8_t *x, size_t row, size_t column, size_t pixels,
                           float *line)
{
    size_t before = column == 0 ? 3 : 0, count = (2 * pixels + 1) * 3 - before, left = 2 * column - (before == 0);
    size_t inside = (conv->width - left) * 3;
    memset(line, 0, STEM_LINE * sizeof *line);
    if (row >= conv->height) /* also where it wraps around below 0 */
        return;
    const uint8_t *in = x + (row * conv->width + left) * 3;
    count = count < inside ? count : inside;
    for (size_t i = 0; i < count; i++)
        line[before + i] = (float)in[i] * (1.0f / 255.0f);
}

FVLM_INLINE void stem_pixels(const fvlm_stem *conv, const uint8_t *x, size_t row, size_t column, size_t pixels,
                             float *y)
{
    size_t channels = conv->channels;
    float lines[3][STEM_LINE];
    for (size_t i = 0; i < 3; i++)
        stem_line(conv, x, 2 * row + i - 1, column, pixels, lines[i]);
    for (size_t c = 0; c < channels; c += VF_LANES) {
        size_t n = channels - c < VF_LANES ? channels - c : VF_LANES;
        vf sum[STEM_PIXELS], bias = vf_load_n(conv->bias + c, n);
        FVLM_UNROLL
        for (size_t p = 0; p < pixels; p++)
            sum[p] = bias;
        for (size_t i = 0; i < 3; i++)
            for (size_t j = 0; j < 9; j++) {
                vf w = vf_load_n(conv->weight + (i * 9 + j) * channels + c, n);
                FVLM_UNROLL
                for (size_t p = 0; p < pixels; p++)
                    sum[p] = vf_fma(vf_set(lines[i][p * 6 + j]), w, sum[p]);
            }
        FVLM_UNROLL
        for (size_t p = 0; p < pixels; p++)
            vf_store_n(y + p * channels + c, vf_activate(conv->activation, sum[p]), n);
    }
}

static void stem_row(const fvlm_stem *conv, const uint8_t *x, size_t row, size_t column, size_t columns, float *y)
{
    size_t end = column + columns;
    for (; column + STEM_PIXELS <= end; column += STEM_PIXELS, y += STEM_PIXELS * conv->channels)
        stem_pixels(conv, x, row, column, STEM_PIXELS, y);
    for (; column < end; column++, y += conv->channels)
        stem_pixels(conv, x, row, column, 1, y);
}

/* One row of taps over a row of dy, for channels [c, c + n): the sums of the places that meet all taps stay in
 * registers. x and dy point to the rows, sums[kernel, FVLM_CONV_CHANNELS] to channel c. */
FVLM_INLINE void weights_taps(const fvlm_depthwise *conv, size_t kernel, const float *x, const float *dy, size_t c,
                              size_t n, float *sums)
{
    size_t stride = conv->stride, pad = kernel / 2, inputs = conv->channels / conv->multiplier;
    size_t width = (conv->width + stride - 1) / stride, left, right;
    vf all[7];
    FVLM_UNROLL
    for (size_t j = 0; j < kernel; j++)
        all[j] = vf_zero();
    for (size_t column = 0; column < width; column++) {
        vf gradient = load_input(dy + column * conv->channels, c, 1, n);
        fvlm_conv_taps(column, kernel, stride, conv->width, &left, &right);
        if (left == 0 && right == kernel) {
            const float *in = x + (column * stride - pad) * inputs;
            FVLM_UNROLL
            for (size_t j = 0; j < kernel; j++)
                all[j] = vf_fma(gradient, load_input(in + j * inputs, c, conv->multiplier, n), all[j]);
            continue;
        }
        for (size_t j = left; j < right; j++) {
            float *sum = sums + j * FVLM_CONV_CHANNELS;
            vf in = load_input(x + (column * stride + j - pad) * inputs, c, conv->multiplier, n);
            vf_store(sum, vf_fma(gradient, in, vf_load(sum)));
        }
    }
    FVLM_UNROLL
    for (size_t j = 0; j < kernel; j++)
        vf_store(sums + j * FVLM_CONV_CHANNELS, vf_add(all[j], vf_load(sums + j * FVLM_CONV_CHANNELS)));
}

static void depthwise_weights(const fvlm_depthwise *conv, const float *x, const float *dy, size_t row, size_t first,
                              size_t count, float *sums)
{
    size_t kernel = conv->kernel, stride = conv->stride, inputs = conv->channels / conv->multiplier, top, bottom;
    size_t width = (conv->width + stride - 1) / stride;
    fvlm_conv_taps(row, kernel, stride, conv->height, &top, &bottom);
    for (size_t i = top; i < bottom; i++) {
        const float *in = x + (row * stride + i - kernel / 2) * conv->width * inputs;
        for (size_t done = 0; done < count; done += VF_LANES) {
            size_t n = count - done < VF_LANES ? count - done : VF_LANES;
            float *to = sums + i * kernel * FVLM_CONV_CHANNELS + done;
            if (kernel == 3)
                weights_taps(conv, 3, in, dy + row * width * conv->channels, first + done, n, to);
            else
                weights_taps(conv, 7, in, dy + row * width * conv->channels, first + done, n, to);
        }
    }
}

/* The gradients of some input places, `stride` apart from `column` on, which the same taps [left, right) read: channels
 * [c, c + n) of the output. dx points to the first place. */
FVLM_INLINE void inputs_places(const fvlm_depthwise *conv, const float *dy, size_t row, size_t column, size_t left,
                               size_t right, size_t c, size_t n, size_t places, float *dx)
{
    size_t kernel = conv->kernel, stride = conv->stride, pad = kernel / 2, channels = conv->channels;
    size_t height = (conv->height + stride - 1) / stride, width = (conv->width + stride - 1) / stride;
    size_t inputs = channels / conv->multiplier, top, bottom;
    vf sum[PLACES];
    FVLM_UNROLL
    for (size_t p = 0; p < places; p++)
        sum[p] = vf_zero();
    fvlm_conv_readers(row, kernel, stride, height, &top, &bottom);
    for (size_t i = top; i < bottom; i += stride)
        for (size_t j = left; j < right; j += stride) {
            const float *in = dy + ((row + pad - i) / stride * width + (column + pad - j) / stride) * channels;
            vf w = load_input(conv->weight + (i * kernel + j) * channels, c, 1, n);
            FVLM_UNROLL
            for (size_t p = 0; p < places; p++)
                sum[p] = vf_fma(load_input(in + p * channels, c, 1, n), w, sum[p]);
        }
    FVLM_UNROLL
    for (size_t p = 0; p < places; p++) {
        float *out = dx + p * stride * inputs + c / conv->multiplier;
        if (conv->multiplier == 2)
            vf_store_n(out, vf_add_pairs(sum[p]), n / 2);
        else
            vf_store_n(out, sum[p], n);
    }
}

FVLM_INLINE void inputs_channels(const fvlm_depthwise *conv, const float *dy, size_t row, size_t column, size_t left,
                                 size_t right, size_t places, float *dx)
{
    size_t c = 0;
    for (; c + VF_LANES <= conv->channels; c += VF_LANES)
        inputs_places(conv, dy, row, column, left, right, c, VF_LANES, places, dx);
    if (c < conv->channels)
        inputs_places(conv, dy, row, column, left, right, c, conv->channels - c, places, dx);
}

/* Whether the taps [left, right) read the last of so many places as well, and no others do. */
static bool inputs_alike(const fvlm_depthwise *conv, size_t column, size_t left, size_t right, size_t places)
{
    size_t last = column + (places - 1) * conv->stride, last_left, last_right;
    if (last >= conv->width)
        return false;
    fvlm_conv_readers(last, conv->kernel, conv->stride, (conv->width + conv->stride - 1) / conv->stride, &last_left,
                      &last_right);
    return last_left == left && last_right == right;
}

static void depthwise_inputs_row(const fvlm_depthwise *conv, const float *dy, size_t row, float *dx)
{
    size_t stride = conv->stride, width = (conv->width + stride - 1) / stride, left, right;
    for (size_t first = 0; first < stride; first++)
        for (size_t column = first, places; column < conv->width; column += places * stride) {
            float *out = dx + column * (conv->channels / conv->multiplier);
            fvlm_conv_readers(column, conv->kernel, stride, width, &left, &right);
            if (inputs_alike(conv, column, left, right, PLACES))
                inputs_channels(conv, dy, row, column, left, right, places = PLACES, out);
            else if (inputs_alike(conv, column, left, right, PLACES / 2))
                inputs_channels(conv, dy, row, column, left, right, places = PLACES / 2, out);
            else
                inputs_channels(conv, dy, row, column, left, right, places = 1, out);
        }
}

/* The sums of a row's places stay in registers, nine taps of an input line at a time. */
FVLM_INLINE void stem_weights_pixels(const fvlm_stem *conv, const uint8_t *x, const float *dy, size_t row,
                                     size_t column, size_t pixels, size_t first, size_t count, float *sums)
{
    float line[STEM_LINE];
    for (size_t i = 0; i < 3; i++) {
        stem_line(conv, x, 2 * row + i - 1, column, pixels, line);
        for (size_t c = 0; c < count; c += VF_LANES) {
            size_t n = count - c < VF_LANES ? count - c : VF_LANES;
            vf sum[9];
            FVLM_UNROLL
            for (size_t j = 0; j < 9; j++) /* line[j]: colour j % 3 of the place j / 3 */
                sum[j] = vf_load(sums + (j % 3 * 9 + i * 3 + j / 3) * FVLM_CONV_CHANNELS + c);
            for (size_t p = 0; p < pixels; p++) {
                vf gradient = load_input(dy + p * conv->channels + first, c, 1, n);
                FVLM_UNROLL
                for (size_t j = 0; j < 9; j++)
                    sum[j] = vf_fma(gradient, vf_set(line[p * 6 + j]), sum[j]);
            }
            FVLM_UNROLL
            for (size_t j = 0; j < 9; j++)
                vf_store(sums + (j % 3 * 9 + i * 3 + j / 3) * FVLM_CONV_CHANNELS + c, sum[j]);
        }
    }
}

static void stem_weights(const fvlm_stem *conv, const uint8_t *x, const float *dy, size_t row, size_t first,
                         size_t count, float *sums)
{
    size_t width = (conv->width + 1) / 2;
    dy += row * width * conv->channels;
    for (size_t column = 0, pixels; column < width; column += pixels) {
        pixels = width - column < STEM_PIXELS ? width - column : STEM_PIXELS;
        stem_weights_pixels(conv, x, dy + column * conv->channels, row, column, pixels, first, count, sums);
    }
}

const fvlm_conv_kernels FVLM_FOR_ISA(fvlm_conv_kernels) = {depthwise, stem_row, depthwise_weights, depthwise_inputs_row,
                                                           stem_weights};
