/* Convolutions: the C reference, the choice of a body, and the threads, which take an area or a row of
 * the output at a time. */
#include "kernels/conv_body.h"

#include <string.h>

#include "base/cpu.h"
#include "kernels/activation_scalar.h"

/* One place of the output. */
static void depthwise_place(const fvlm_depthwise *conv, const float *x, size_t row, size_t column, float *out)
{
    size_t kernel = conv->kernel, channels = conv->channels, pad = kernel / 2, inputs = channels / conv->multiplier;
    size_t top, bottom, left, right;
    fvlm_conv_taps(row, kernel, conv->stride, conv->height, &top, &bottom);
    fvlm_conv_taps(column, kernel, conv->stride, conv->width, &left, &right);
    for (size_t c = 0; c < channels; c++)
        out[c] = conv->bias ? conv->bias[c] : 0;
    for (size_t i = top; i < bottom; i++)
        for (size_t j = left; j < right; j++) {
            const float *in =
                x + ((row * conv->stride + i - pad) * conv->width + column * conv->stride + j - pad) * inputs;
            const float *weight = conv->weight + (i * kernel + j) * channels;
            for (size_t c = 0; c < channels; c++)
                out[c] += in[c / conv->multiplier] * weight[c];
        }
    for (size_t c = 0; c < channels; c++)
        out[c] = fvlm_activate_one(conv->activation, out[c]);
}

static void depthwise(const fvlm_depthwise *conv, const float *x, const fvlm_conv_area *area)
{
    for (size_t i = 0; i < area->rows; i++)
        for (size_t j = 0; j < area->columns; j++)
            depthwise_place(conv, x, area->row + i, area->column + j,
                            area->y + i * area->line_stride + j * area->y_stride);
}

static void stem_row(const fvlm_stem *conv, const uint8_t *x, size_t row, size_t first, size_t columns, float *y)
{
    size_t channels = conv->channels, top, bottom, left, right;
    fvlm_conv_taps(row, 3, 2, conv->height, &top, &bottom);
    for (size_t column = first; column < first + columns; column++) {
        float *out = y + (column - first) * channels;
        fvlm_conv_taps(column, 3, 2, conv->width, &left, &right);
        for (size_t c = 0; c < channels; c++)
            out[c] = conv->bias[c];
        for (size_t i = top; i < bottom; i++)
            for (size_t j = left; j < right; j++)
                for (size_t colour = 0; colour < 3; colour++) {
                    float in = (float)x[((2 * row + i - 1) * conv->width + 2 * column + j - 1) * 3 + colour] / 255.0f;
                    const float *weight = conv->weight + ((i * 3 + j) * 3 + colour) * channels;
                    for (size_t c = 0; c < channels; c++)
                        out[c] += in * weight[c];
                }
        for (size_t c = 0; c < channels; c++)
            out[c] = fvlm_activate_one(conv->activation, out[c]);
    }
}

static void depthwise_weights(const fvlm_depthwise *conv, const float *x, const float *dy, size_t row, size_t first,
                              size_t count, float *sums)
{
    size_t kernel = conv->kernel, stride = conv->stride, pad = kernel / 2, inputs = conv->channels / conv->multiplier;
    size_t width = (conv->width + stride - 1) / stride, top, bottom, left, right;
    fvlm_conv_taps(row, kernel, stride, conv->height, &top, &bottom);
    for (size_t column = 0; column < width; column++) {
        const float *gradient = dy + (row * width + column) * conv->channels + first;
        fvlm_conv_taps(column, kernel, stride, conv->width, &left, &right);
        for (size_t i = top; i < bottom; i++)
            for (size_t j = left; j < right; j++) {
                const float *in = x + ((row * stride + i - pad) * conv->width + column * stride + j - pad) * inputs;
                float *sum = sums + (i * kernel + j) * FVLM_CONV_CHANNELS;
                for (size_t c = 0; c < count; c++)
                    sum[c] += in[(first + c) / conv->multiplier] * gradient[c];
            }
    }
}

static void depthwise_inputs_row(const fvlm_depthwise *conv, const float *dy, size_t row, float *dx)
{
    size_t kernel = conv->kernel, stride = conv->stride, pad = kernel / 2, channels = conv->channels;
    size_t height = (conv->height + stride - 1) / stride, width = (conv->width + stride - 1) / stride;
    size_t inputs = channels / conv->multiplier, top, bottom, left, right;
    fvlm_conv_readers(row, kernel, stride, height, &top, &bottom);
    memset(dx, 0, conv->width * inputs * sizeof *dx);
    for (size_t column = 0; column < conv->width; column++, dx += inputs) {
        fvlm_conv_readers(column, kernel, stride, width, &left, &right);
        for (size_t i = top; i < bottom; i += stride)
            for (size_t j = left; j < right; j += stride) {
                const float *weight = conv->weight + (i * kernel + j) * channels;
                const float *gradient =
                    dy + ((row + pad - i) / stride * width + (column + pad - j) / stride) * channels;
                for (size_t c = 0; c < channels; c++)
                    dx[c / conv->multiplier] += gradient[c] * weight[c];
            }
    }
}

static void stem_weights(const fvlm_stem *conv, const uint8_t *x, const float *dy, size_t row, size_t first,
                         size_t count, float *sums)
{
    size_t width = (conv->width + 1) / 2, top, bottom, left, right;
    fvlm_conv_taps(row, 3, 2, conv->height, &top, &bottom);
    for (size_t column = 0; column < width; column++) {
        const float *gradient = dy + (row * width + column) * conv->channels + first;
        fvlm_conv_taps(column, 3, 2, conv->width, &left, &right);
        for (size_t i = top; i < bottom; i++)
            for (size_t j = left; j < right; j++)
                for (size_t colour = 0; colour < 3; colour++) {
                    float in = (float)x[((2 * row + i - 1) * conv->width + 2 * column + j - 1) * 3 + colour] / 255.0f;
                    float *sum = sums + (colour * 9 + i * 3 + j) * FVLM_CONV_CHANNELS;
                    for (size_t c = 0; c < count; c++)
                        sum[c] += in * gradient[c];
                }
    }
}

const fvlm_conv_kernels fvlm_conv_kernels_reference = {depthwise, stem_row, depthwise_weights, depthwise_inputs_row,
                                                       stem_weights};

const fvlm_conv_kernels *fvlm_conv_kernels_select(void)
{
    unsigned flags = fvlm_cpu_flags();
    (void)flags;
#if defined(__x86_64__)
    if (flags & FVLM_CPU_AVX512)
        return &fvlm_conv_kernels_avx512;
    if (flags & FVLM_CPU_AVX2)
        return &fvlm_conv_kernels_avx2;
#elif defined(__aarch64__)
    if (flags & FVLM_CPU_NEON)
        return &fvlm_conv_kernels_neon;
#elif defined(__wasm_simd128__)
    if (flags & FVLM_CPU_WASM_SIMD)
        return &fvlm_conv_kernels_wasm;
#endif
    return &fvlm_conv_kernels_reference;
}

void fvlm_depthwise_pack(const float *weight, size_t channels, size_t kernel, const float *scale, float *packed)
{
    size_t taps = kernel * kernel;
    for (size_t c = 0; c < channels; c++)
        for (size_t tap = 0; tap < taps; tap++)
            packed[tap * channels + c] = weight[c * taps + tap] * (scale ? scale[c] : 1);
}

void fvlm_stem_pack(const float *weight, size_t channels, float *packed)
{
    for (size_t c = 0; c < channels; c++)
        for (size_t colour = 0; colour < 3; colour++)
            for (size_t tap = 0; tap < 9; tap++)
                packed[(tap * 3 + colour) * channels + c] = weight[(c * 3 + colour) * 9 + tap];
}

/* Floats of an output that is written past the caches, as they would not hold it until it is read: lines that are
 * written whole are then not read before. */
#define STREAMED ((size_t)1 << 20)

struct depthwise_job {
    const fvlm_conv_kernels *kernels;
    const fvlm_depthwise *conv;
    const float *x;
    float *y;
    size_t across, down; /* areas of a picture */
};

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static void depthwise_task(void *argument, size_t index, int thread)
{
    (void)thread;
    const struct depthwise_job *job = argument;
    const fvlm_depthwise *conv = job->conv;
    size_t height = (conv->height + conv->stride - 1) / conv->stride,
           width = (conv->width + conv->stride - 1) / conv->stride;
    size_t picture = index / (job->across * job->down), down = index / job->across % job->down;
    size_t row = down * FVLM_AREA_ROWS, column = index % job->across * FVLM_AREA_COLUMNS;
    const float *x = job->x + picture * conv->height * conv->width * (conv->channels / conv->multiplier);
    float *y = job->y + picture * height * width * conv->channels;
    job->kernels->depthwise(conv, x,
                            &(fvlm_conv_area){.row = row,
                                              .rows = least(FVLM_AREA_ROWS, height - row),
                                              .column = column,
                                              .columns = least(FVLM_AREA_COLUMNS, width - column),
                                              .y = y + (row * width + column) * conv->channels,
                                              .y_stride = conv->channels,
                                              .line_stride = width * conv->channels,
                                              .stream = height * width * conv->channels >= STREAMED});
}

void fvlm_depthwise_forward(fvlm_pool *pool, const fvlm_depthwise *conv, size_t pictures, const float *x, float *y)
{
    size_t height = (conv->height + conv->stride - 1) / conv->stride,
           width = (conv->width + conv->stride - 1) / conv->stride;
    struct depthwise_job job = {.kernels = fvlm_conv_kernels_select(),
                                .conv = conv,
                                .x = x,
                                .y = y,
                                .across = (width + FVLM_AREA_COLUMNS - 1) / FVLM_AREA_COLUMNS,
                                .down = (height + FVLM_AREA_ROWS - 1) / FVLM_AREA_ROWS};
    fvlm_pool_run_stretches(pool, pictures * job.down * job.across, job.across, depthwise_task, &job);
}

struct stem_job {
    const fvlm_conv_kernels *kernels;
    const fvlm_stem *conv;
    const uint8_t *x;
    float *y;
};

static void run_stem_row(void *argument, size_t index, int thread)
{
    (void)thread;
    const struct stem_job *job = argument;
    const fvlm_stem *conv = job->conv;
    size_t rows = (conv->height + 1) / 2, columns = (conv->width + 1) / 2;
    job->kernels->stem_row(conv, job->x + index / rows * conv->height * conv->width * 3, index % rows, 0, columns,
                           job->y + index * columns * conv->channels);
}

void fvlm_stem_forward(fvlm_pool *pool, const fvlm_stem *conv, size_t pictures, const uint8_t *x, float *y)
{
    struct stem_job job = {fvlm_conv_kernels_select(), conv, x, y};
    size_t rows = (conv->height + 1) / 2;
    fvlm_pool_run_stretches(pool, pictures * rows, pictures > 1 ? rows : 1, run_stem_row, &job);
}
