/* Backward passes of the convolutions, over all pictures of a batch.
 *
 * The gradient of x is a convolution itself, or takes a row of x a task and gathers from the rows of dy that saw it;
 * the gradient of the weights takes a run of channels over a part of the pictures a task, with that run's sums on the
 * stack, and adds up the parts afterwards. Neither depends on threads.
 */
#include <string.h>

#include "kernels/conv_body.h"

#define MOST_TAPS 49
#define MOST_PARTS 8

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

struct backward {
    const fvlm_depthwise *conv; /* or */
    const fvlm_stem *stem;
    size_t pictures;
    const float *x, *dy;
    const uint8_t *pixels; /* the stem's x */
    float *dx;
    size_t channels, taps, first, parts; /* runs of channels from `first` on, the pictures cut into so many parts */
    float *sums;                         /* [runs, parts, taps, FVLM_CONV_CHANNELS] */
};

static size_t output_size(size_t size, size_t stride)
{
    return (size + stride - 1) / stride;
}

/* Floats of a picture. */
static size_t input_floats(const fvlm_depthwise *conv)
{
    return conv->height * conv->width * (conv->channels / conv->multiplier);
}

static size_t output_floats(const fvlm_depthwise *conv)
{
    return output_size(conv->height, conv->stride) * output_size(conv->width, conv->stride) * conv->channels;
}

static void run_dx_row(void *argument, size_t index, int thread)
{
    (void)thread;
    const struct backward *job = argument;
    const fvlm_depthwise *conv = job->conv;
    size_t picture = index / conv->height, row = index % conv->height;
    fvlm_conv_kernels_select()->depthwise_inputs_row(conv, job->dy + picture * output_floats(conv), row,
                                                     job->dx +
                                                         index * conv->width * (conv->channels / conv->multiplier));
}

/* Where input and output have one size, dx is dy's convolution with the kernel turned round. */
static void run_turned(fvlm_pool *pool, const fvlm_depthwise *conv, size_t pictures, const float *dy, float *dx)
{
    size_t taps = conv->kernel * conv->kernel, channels = conv->channels;
    float *turned = fvlm_pool_scratch(pool, 0);
    for (size_t tap = 0; tap < taps; tap++)
        memcpy(turned + tap * channels, conv->weight + (taps - 1 - tap) * channels, channels * sizeof *turned);
    fvlm_depthwise backward = *conv;
    backward.weight = turned;
    backward.bias = NULL;
    backward.activation = FVLM_ACTIVATION_NONE;
    fvlm_depthwise_forward(pool, &backward, pictures, dy, dx);
}

void fvlm_depthwise_backward_x(fvlm_pool *pool, const fvlm_depthwise *conv, size_t pictures, const float *dy, float *dx)
{
    size_t weights = conv->kernel * conv->kernel * conv->channels;
    if (conv->stride == 1 && conv->multiplier == 1 && weights <= FVLM_SCRATCH_BYTES / sizeof *dx) {
        run_turned(pool, conv, pictures, dy, dx);
        return;
    }
    struct backward job = {.conv = conv, .dy = dy, .dx = dx};
    fvlm_pool_run_stretches(pool, pictures * conv->height, conv->height, run_dx_row, &job);
}

static size_t runs(size_t channels)
{
    return (channels + FVLM_CONV_CHANNELS - 1) / FVLM_CONV_CHANNELS;
}

/* A run of channels over a part of the pictures. */
static void run_weights(void *argument, size_t index, int thread)
{
    (void)thread;
    const struct backward *job = argument;
    const fvlm_depthwise *conv = job->conv;
    const fvlm_stem *stem = job->stem;
    size_t height = conv ? output_size(conv->height, conv->stride) : output_size(stem->height, 2);
    size_t first = (job->first + index / job->parts) * FVLM_CONV_CHANNELS, part = index % job->parts;
    size_t count = least(FVLM_CONV_CHANNELS, job->channels - first), floats = job->taps * FVLM_CONV_CHANNELS;
    float *sums = job->sums + index * floats;
    memset(sums, 0, floats * sizeof *sums);
    for (size_t i = part * job->pictures / job->parts; i < (part + 1) * job->pictures / job->parts; i++)
        for (size_t row = 0; row < height; row++) {
            float row_sums[MOST_TAPS * FVLM_CONV_CHANNELS] = {0}; /* a picture's places are too many for one chain */
            if (conv)
                fvlm_conv_kernels_select()->depthwise_weights(conv, job->x + i * input_floats(conv),
                                                              job->dy + i * output_floats(conv), row, first, count,
                                                              row_sums);
            else
                fvlm_conv_kernels_select()->stem_weights(
                    stem, job->pixels + i * stem->height * stem->width * 3,
                    job->dy + i * height * output_size(stem->width, 2) * job->channels, row, first, count, row_sums);
            for (size_t k = 0; k < floats; k++)
                sums[k] += row_sums[k];
        }
}

static void add_weights(fvlm_pool *pool, struct backward *job, float *dweight)
{
    size_t floats = job->taps * FVLM_CONV_CHANNELS, most = FVLM_SCRATCH_BYTES / sizeof *job->sums / floats;
    job->sums = fvlm_pool_scratch(pool, 0);
    for (size_t all = runs(job->channels), count; job->first < all; job->first += count) {
        count = least(most, all - job->first);
        job->parts = least(least(job->pictures, MOST_PARTS), most / count);
        fvlm_pool_run(pool, count * job->parts, run_weights, job);
        size_t end = least((job->first + count) * FVLM_CONV_CHANNELS, job->channels);
        for (size_t c = job->first * FVLM_CONV_CHANNELS; c < end; c++) {
            const float *sums = job->sums + (c / FVLM_CONV_CHANNELS - job->first) * job->parts * floats;
            for (size_t i = 0; i < job->parts * job->taps; i++)
                dweight[c * job->taps + i % job->taps] += sums[i * FVLM_CONV_CHANNELS + c % FVLM_CONV_CHANNELS];
        }
    }
}

void fvlm_depthwise_backward_w(fvlm_pool *pool, const fvlm_depthwise *conv, size_t pictures, const float *x,
                               const float *dy, float *dweight)
{
    struct backward job = {.conv = conv,
                           .pictures = pictures,
                           .x = x,
                           .dy = dy,
                           .channels = conv->channels,
                           .taps = conv->kernel * conv->kernel};
    add_weights(pool, &job, dweight);
}

void fvlm_stem_backward_w(fvlm_pool *pool, const fvlm_stem *conv, size_t pictures, const uint8_t *x, const float *dy,
                          float *dweight)
{
    struct backward job = {
        .stem = conv, .pictures = pictures, .pixels = x, .dy = dy, .channels = conv->channels, .taps = 27};
    add_weights(pool, &job, dweight);
}
