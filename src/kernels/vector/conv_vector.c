/* Convolutions in the vector vocabulary, VF_LANES channels at a time.
 *
 * Depthwise: the sums of PIXELS neighbouring outputs stay in registers. For each row of the kernel its weights are
 * loaded once, then every input pixel once, which feeds all the outputs that it touches: for a 7x7 kernel with stride
 * 1 that is 7 + PIXELS + 6 loads for 7 PIXELS multiply-adds.
 * Stem: PIXELS outputs' windows of 27 values are gathered as floats, then multiplied like a small matrix.
 */
#include "kernels/conv_body.h"
#include "kernels/vector/vector_math.h"

/* As many sums as registers allow beside the 7 weights of a kernel's row; then fewer for what is left of a row. */
#if VF_REGISTERS == 32
#define PIXELS 16
#define FEW_PIXELS 4
#else
#define PIXELS 6
#define FEW_PIXELS 2
#endif

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

/* `pixels` outputs from `column` on, channels [c, c + n). Inputs beyond the left and right edge are passed over. */
FVLM_INLINE void depthwise_pixels(const fvlm_depthwise *conv, const float *x, size_t row, size_t column, size_t kernel,
                                  size_t stride, size_t multiplier, size_t pixels, size_t top, size_t bottom, size_t c,
                                  size_t n, float *y)
{
    size_t channels = conv->channels, inputs = channels / multiplier, pad = kernel / 2, first = column * stride - pad;
    vf sum[PIXELS], bias = conv->bias ? vf_load_n(conv->bias + c, n) : vf_zero();
    FVLM_UNROLL
    for (size_t p = 0; p < pixels; p++)
        sum[p] = bias;
    for (size_t i = top; i < bottom; i++) {
        const float *weight = conv->weight + i * kernel * channels + c;
        const float *in = x + (row * stride + i - pad) * conv->width * inputs;
        vf w[7];
        FVLM_UNROLL
        for (size_t j = 0; j < kernel; j++)
            w[j] = n == VF_LANES ? vf_load(weight + j * channels) : vf_load_n(weight + j * channels, n);
        FVLM_UNROLL
        for (size_t j = 0; j < (pixels - 1) * stride + kernel; j++) {
            if (first + j >= conv->width) /* also where first + j wraps around below 0 */
                continue;
            vf a = load_input(in + (first + j) * inputs, c, multiplier, n);
            FVLM_UNROLL
            for (size_t p = 0; p < pixels; p++)
                if (j >= p * stride && j - p * stride < kernel)
                    sum[p] = vf_fma(a, w[j - p * stride], sum[p]);
        }
    }
    FVLM_UNROLL
    for (size_t p = 0; p < pixels; p++) {
        vf v = conv->activation == FVLM_ACTIVATION_NONE ? sum[p] : vf_activate(conv->activation, sum[p]);
        vf_store_n(y + (column + p) * channels + c, v, n);
    }
}

FVLM_INLINE void depthwise_columns(const fvlm_depthwise *conv, const float *x, size_t row, size_t column, size_t kernel,
                                   size_t stride, size_t multiplier, size_t pixels, float *y)
{
    size_t channels = conv->channels, top, bottom, c = 0;
    fvlm_conv_taps(row, kernel, stride, conv->height, &top, &bottom);
    for (; c + VF_LANES <= channels; c += VF_LANES)
        depthwise_pixels(conv, x, row, column, kernel, stride, multiplier, pixels, top, bottom, c, VF_LANES, y);
    if (c < channels)
        depthwise_pixels(conv, x, row, column, kernel, stride, multiplier, pixels, top, bottom, c, channels - c, y);
}

FVLM_INLINE void depthwise_shape(const fvlm_depthwise *conv, const float *x, size_t row, size_t kernel, size_t stride,
                                 size_t multiplier, float *y)
{
    size_t width = (conv->width + stride - 1) / stride, column = 0;
    for (; column + PIXELS <= width; column += PIXELS)
        depthwise_columns(conv, x, row, column, kernel, stride, multiplier, PIXELS, y);
    for (; column + FEW_PIXELS <= width; column += FEW_PIXELS)
        depthwise_columns(conv, x, row, column, kernel, stride, multiplier, FEW_PIXELS, y);
    for (; column < width; column++)
        depthwise_columns(conv, x, row, column, kernel, stride, multiplier, 1, y);
}

static void depthwise_row(const fvlm_depthwise *conv, const float *x, size_t row, float *y)
{
    size_t kernel = conv->kernel, stride = conv->stride, multiplier = conv->multiplier;
    if (kernel == 7 && stride == 1 && multiplier == 1)
        depthwise_shape(conv, x, row, 7, 1, 1, y);
    else if (kernel == 7 && stride == 2 && multiplier == 2)
        depthwise_shape(conv, x, row, 7, 2, 2, y);
    else if (kernel == 3 && stride == 1 && multiplier == 1)
        depthwise_shape(conv, x, row, 3, 1, 1, y);
    else if (kernel == 3 && stride == 1 && multiplier == 2)
        depthwise_shape(conv, x, row, 3, 1, 2, y);
    else if (kernel == 3 && stride == 2 && multiplier == 1)
        depthwise_shape(conv, x, row, 3, 2, 1, y);
    else
        fvlm_conv_kernels_reference.depthwise_row(conv, x, row, y); /* towers of other widths */
}

#define STEM_VALUES 27
#define STEM_PIXELS 8

/* window[27] = the inputs of output `column`, zero beyond the edges, in the order of the packed weights. */
static void gather_window(const fvlm_stem *conv, const uint8_t *x, size_t row, size_t column, float *window)
{
    size_t top, bottom, left, right;
    fvlm_conv_taps(row, 3, 2, conv->height, &top, &bottom);
    fvlm_conv_taps(column, 3, 2, conv->width, &left, &right);
    memset(window, 0, STEM_VALUES * sizeof *window);
    for (size_t i = top; i < bottom; i++) {
        const uint8_t *in = x + ((2 * row + i - 1) * conv->width + 2 * column + left - 1) * 3;
        float *out = window + (i * 3 + left) * 3;
        for (size_t j = 0; j < (right - left) * 3; j++)
            out[j] = (float)in[j] * (1.0f / 255.0f);
    }
}

FVLM_INLINE void stem_pixels(const fvlm_stem *conv, const float *windows, size_t pixels, float *y)
{
    size_t channels = conv->channels;
    for (size_t c = 0; c < channels; c += VF_LANES) {
        size_t n = channels - c < VF_LANES ? channels - c : VF_LANES;
        vf sum[STEM_PIXELS], bias = vf_load_n(conv->bias + c, n);
        FVLM_UNROLL
        for (size_t p = 0; p < pixels; p++)
            sum[p] = bias;
        for (size_t i = 0; i < STEM_VALUES; i++) {
            vf w = vf_load_n(conv->weight + i * channels + c, n);
            FVLM_UNROLL
            for (size_t p = 0; p < pixels; p++)
                sum[p] = vf_fma(vf_set(windows[p * STEM_VALUES + i]), w, sum[p]);
        }
        FVLM_UNROLL
        for (size_t p = 0; p < pixels; p++)
            vf_store_n(y + p * channels + c, vf_activate(conv->activation, sum[p]), n);
    }
}

static void stem_row(const fvlm_stem *conv, const uint8_t *x, size_t row, float *y)
{
    float windows[STEM_PIXELS * STEM_VALUES];
    size_t width = (conv->width + 1) / 2, column = 0;
    for (; column + STEM_PIXELS <= width; column += STEM_PIXELS) {
        for (size_t p = 0; p < STEM_PIXELS; p++)
            gather_window(conv, x, row, column + p, windows + p * STEM_VALUES);
        stem_pixels(conv, windows, STEM_PIXELS, y + column * conv->channels);
    }
    for (; column < width; column++) {
        gather_window(conv, x, row, column, windows);
        stem_pixels(conv, windows, 1, y + column * conv->channels);
    }
}

const fvlm_conv_kernels FVLM_FOR_ISA(fvlm_conv_kernels) = {depthwise_row, stem_row};
