/* Backward passes of the convolutions.
 *
 * The gradient of x is a convolution itself, or takes a row of x a task and gathers from the rows of dy that saw it;
 * the gradient of the weights takes a run of channels a task over the whole picture, with that run's sums on the stack.
 * Neither depends on threads.
 */
#include <string.h>

#include "kernels/conv_body.h"

#define MOST_TAPS 49

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

struct backward {
    const fvlm_depthwise *conv;
    const float *x, *dy;
    float *dx, *dweight;
};

static size_t output_size(size_t size, size_t stride)
{
    return (size + stride - 1) / stride;
}

static void run_dx_row(void *argument, size_t row, int thread)
{
    (void)thread;
    const struct backward *job = argument;
    const fvlm_depthwise *conv = job->conv;
    fvlm_conv_kernels_select()->depthwise_inputs_row(conv, job->dy, row,
                                                     job->dx + row * conv->width * (conv->channels / conv->multiplier));
}

/* Where input and output have one size, dx is dy's convolution with the kernel turned round. */
static void run_turned(fvlm_pool *pool, const fvlm_depthwise *conv, const float *dy, float *dx)
{
    size_t taps = conv->kernel * conv->kernel, channels = conv->channels;
    float *turned = fvlm_pool_scratch(pool, 0);
    for (size_t tap = 0; tap < taps; tap++)
        memcpy(turned + tap * channels, conv->weight + (taps - 1 - tap) * channels, channels * sizeof *turned);
    fvlm_depthwise backward = *conv;
    backward.weight = turned;
    backward.bias = NULL;
    backward.activation = FVLM_ACTIVATION_NONE;
    fvlm_depthwise_forward(pool, &backward, dy, dx);
}

void fvlm_depthwise_backward_x(fvlm_pool *pool, const fvlm_depthwise *conv, const float *dy, float *dx)
{
    size_t weights = conv->kernel * conv->kernel * conv->channels;
    if (conv->stride == 1 && conv->multiplier == 1 && weights <= FVLM_SCRATCH_BYTES / sizeof *dx) {
        run_turned(pool, conv, dy, dx);
        return;
    }
    struct backward job = {.conv = conv, .dy = dy, .dx = dx};
    fvlm_pool_run(pool, conv->height, run_dx_row, &job);
}

static void run_weights(void *argument, size_t index, int thread)
{
    (void)thread;
    const struct backward *job = argument;
    const fvlm_depthwise *conv = job->conv;
    size_t taps = conv->kernel * conv->kernel, height = output_size(conv->height, conv->stride);
    size_t first = index * FVLM_CONV_CHANNELS, count = least(FVLM_CONV_CHANNELS, conv->channels - first);
    float sums[MOST_TAPS * FVLM_CONV_CHANNELS] = {0};
    for (size_t row = 0; row < height; row++) {
        float row_sums[MOST_TAPS * FVLM_CONV_CHANNELS] = {0}; /* a picture's places are too many for one chain */
        fvlm_conv_kernels_select()->depthwise_weights(conv, job->x, job->dy, row, first, count, row_sums);
        for (size_t i = 0; i < taps * FVLM_CONV_CHANNELS; i++)
            sums[i] += row_sums[i];
    }
    for (size_t tap = 0; tap < taps; tap++)
        for (size_t c = 0; c < count; c++)
            job->dweight[(first + c) * taps + tap] += sums[tap * FVLM_CONV_CHANNELS + c];
}

void fvlm_depthwise_backward_w(fvlm_pool *pool, const fvlm_depthwise *conv, const float *x, const float *dy,
                               float *dweight)
{
    struct backward job = {.conv = conv, .x = x, .dy = dy, .dweight = dweight};
    fvlm_pool_run(pool, (conv->channels + FVLM_CONV_CHANNELS - 1) / FVLM_CONV_CHANNELS, run_weights, &job);
}

struct stem_backward {
    const fvlm_stem *conv;
    const uint8_t *x;
    const float *dy;
    float *dweight;
};

static void run_stem_weights(void *argument, size_t index, int thread)
{
    (void)thread;
    const struct stem_backward *job = argument;
    const fvlm_stem *conv = job->conv;
    size_t width = output_size(conv->width, 2), first = index * FVLM_CONV_CHANNELS, top, bottom, left, right;
    size_t count = least(FVLM_CONV_CHANNELS, conv->channels - first);
    float sums[27 * FVLM_CONV_CHANNELS] = {0};
    for (size_t row = 0; row < output_size(conv->height, 2); row++) {
        fvlm_conv_taps(row, 3, 2, conv->height, &top, &bottom);
        float row_sums[27 * FVLM_CONV_CHANNELS] = {0};
        for (size_t column = 0; column < width; column++) {
            const float *dy = job->dy + (row * width + column) * conv->channels + first;
            fvlm_conv_taps(column, 3, 2, conv->width, &left, &right);
            for (size_t i = top; i < bottom; i++)
                for (size_t j = left; j < right; j++)
                    for (size_t colour = 0; colour < 3; colour++) {
                        size_t at = ((2 * row + i - 1) * conv->width + 2 * column + j - 1) * 3 + colour;
                        float in = (float)job->x[at] / 255.0f,
                              *sum = row_sums + (colour * 9 + i * 3 + j) * FVLM_CONV_CHANNELS;
                        for (size_t c = 0; c < count; c++)
                            sum[c] += in * dy[c];
                    }
        }
        for (size_t i = 0; i < 27 * FVLM_CONV_CHANNELS; i++)
            sums[i] += row_sums[i];
    }
    for (size_t tap = 0; tap < 27; tap++)
        for (size_t c = 0; c < count; c++)
            job->dweight[(first + c) * 27 + tap] += sums[tap * FVLM_CONV_CHANNELS + c];
}

void fvlm_stem_backward_w(fvlm_pool *pool, const fvlm_stem *conv, const uint8_t *x, const float *dy, float *dweight)
{
    struct stem_backward job = {conv, x, dy, dweight};
    fvlm_pool_run(pool, (conv->channels + FVLM_CONV_CHANNELS - 1) / FVLM_CONV_CHANNELS, run_stem_weights, &job);
}
