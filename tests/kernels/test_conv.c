/* Depthwise convolutions and the stem: each instruction set against sums in double precision over the weights as
 * checkpoints store them, so that packing is tested too, on one and several threads, whose results must be equal. */
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/cpu.h"
#include "kernels/activation_scalar.h"
#include "kernels/conv_body.h"

static fvlm_activation random_activation(void)
{
    return (fvlm_activation)harness_between(FVLM_ACTIVATION_NONE, FVLM_ACTIVATION_SIGMOID);
}

/* Sum of one output: inputs x[h, w, inputs] from channel `input` on, weights [group, kernel, kernel]. */
static double window_sum(const float *x, size_t height, size_t width, size_t inputs, size_t input, size_t group,
                         const float *weight, size_t kernel, size_t stride, size_t row, size_t column)
{
    double sum = 0;
    for (size_t g = 0; g < group; g++)
        for (size_t i = 0; i < kernel; i++)
            for (size_t j = 0; j < kernel; j++) {
                size_t y = row * stride + i - kernel / 2, at = column * stride + j - kernel / 2;
                if (y < height && at < width) /* also where they wrap around below 0 */
                    sum += (double)x[(y * width + at) * inputs + input + g] * weight[(g * kernel + i) * kernel + j];
            }
    return sum;
}

/* weight [channels, 1, kernel, kernel], scale [channels] or NULL: fvlm_depthwise_pack's. */
static void expected_depthwise(const fvlm_depthwise *conv, const float *weight, const float *scale, const float *x,
                               float *y)
{
    size_t rows = (conv->height + conv->stride - 1) / conv->stride;
    size_t columns = (conv->width + conv->stride - 1) / conv->stride, taps = conv->kernel * conv->kernel;
    for (size_t row = 0; row < rows; row++)
        for (size_t column = 0; column < columns; column++)
            for (size_t c = 0; c < conv->channels; c++) {
                double sum =
                    window_sum(x, conv->height, conv->width, conv->channels / conv->multiplier, c / conv->multiplier, 1,
                               weight + c * taps, conv->kernel, conv->stride, row, column);
                sum = sum * (scale ? scale[c] : 1) + (conv->bias ? conv->bias[c] : 0);
                *y++ = fvlm_activate_one(conv->activation, (float)sum);
            }
}

static void check_depthwise_case(size_t kernel, size_t stride, size_t multiplier)
{
    fvlm_depthwise conv = {.height = harness_between(1, 24),
                           .width = harness_between(1, 45),
                           .channels = multiplier * harness_between(1, 80 / multiplier),
                           .multiplier = multiplier,
                           .kernel = kernel,
                           .stride = stride,
                           .activation = random_activation()};
    size_t inputs = conv.channels / multiplier, taps = kernel * kernel;
    size_t count = (conv.height + stride - 1) / stride * ((conv.width + stride - 1) / stride) * conv.channels;
    float *x = harness_floats(conv.height * conv.width * inputs, 1);
    float *weight = harness_floats(conv.channels * taps, 1.0f / (float)kernel);
    float *packed = harness_output(conv.channels * taps);
    float *scale = harness_random() & 1 ? harness_floats(conv.channels, 1) : NULL;
    float *y = harness_output(count), *again = harness_output(count), *expected = harness_output(count);
    fvlm_depthwise_pack(weight, conv.channels, kernel, scale, packed);
    conv.weight = packed;
    conv.bias = harness_random() & 1 ? harness_floats(conv.channels, 1) : NULL;
    if (harness_random() % 4 == 0)
        x[harness_random() % (conv.height * conv.width * inputs)] = NAN;
    expected_depthwise(&conv, weight, scale, x, expected);
    char what[128];
    snprintf(what, sizeof what, "kernel %zu stride %zu multiplier %zu: %zu x %zu x %zu", kernel, stride, multiplier,
             conv.height, conv.width, conv.channels);
    HARNESS_LEVELS(level)
    {
        for (size_t i = 0; i < count; i++)
            y[i] = again[i] = INFINITY;
        fvlm_depthwise_forward(harness_pool(1), &conv, 1, x, y);
        fvlm_depthwise_forward(harness_pool(3), &conv, 1, x, again);
        harness_near(what, expected, y, count, (harness_tolerance){1e-5, 1e-5});
        harness_near("3 threads", y, again, count, (harness_tolerance){0, 0});
    }
}

/* The shapes that have a body of their own in each instruction set, and those that fall back to plain C. */
static void check_depthwise(void)
{
    for (size_t kernel = 3; kernel <= 7; kernel += 4)
        for (size_t stride = 1; stride <= 2; stride++)
            for (size_t multiplier = 1; multiplier <= 2; multiplier++)
                check_depthwise_case(kernel, stride, multiplier);
}

/* A part of the output with strides of its own: what lies around it stays. */
static void check_area_case(size_t kernel, size_t stride, size_t multiplier)
{
    fvlm_depthwise conv = {.height = harness_between(1, 30),
                           .width = harness_between(1, 50),
                           .channels = multiplier * harness_between(1, 40),
                           .multiplier = multiplier,
                           .kernel = kernel,
                           .stride = stride};
    size_t height = (conv.height + stride - 1) / stride, width = (conv.width + stride - 1) / stride;
    size_t channels = conv.channels;
    fvlm_conv_area area = {.row = harness_between(0, height - 1), .column = harness_between(0, width - 1)};
    area.rows = harness_between(1, height - area.row);
    area.columns = harness_between(1, width - area.column);
    area.y_stride = channels + harness_between(0, 20);
    area.line_stride = area.columns * area.y_stride + harness_between(0, 20);
    area.stream = harness_random() & 1;
    if (harness_random() & 1) { /* whole vectors to aligned places */
        conv.channels = channels = 16 * multiplier * harness_between(1, 3);
        area.y_stride = channels;
        area.line_stride = area.columns * channels;
    }
    size_t count = (area.rows - 1) * area.line_stride + (area.columns - 1) * area.y_stride + channels;
    float *x = harness_floats(conv.height * conv.width * channels / multiplier, 1);
    float *whole = harness_output(height * width * channels), *y = harness_output(count);
    float *expected = harness_output(count);
    conv.weight = harness_floats(kernel * kernel * channels, 1.0f / (float)kernel);
    fvlm_conv_kernels_reference.depthwise(
        &conv, x,
        &(fvlm_conv_area){
            .rows = height, .columns = width, .y = whole, .y_stride = channels, .line_stride = width * channels});
    for (size_t i = 0; i < area.rows; i++)
        for (size_t j = 0; j < area.columns; j++)
            memcpy(expected + i * area.line_stride + j * area.y_stride,
                   whole + ((area.row + i) * width + area.column + j) * channels, channels * sizeof *whole);
    HARNESS_LEVELS(level)
    {
        for (size_t i = 0; i < count; i++)
            y[i] = NAN;
        area.y = y;
        fvlm_conv_kernels_select()->depthwise(&conv, x, &area);
        harness_near("area", expected, y, count, (harness_tolerance){1e-5, 1e-5});
    }
}

static void check_area(void)
{
    for (size_t kernel = 3; kernel <= 7; kernel += 4)
        for (size_t stride = 1; stride <= 2; stride++)
            for (size_t multiplier = 1; multiplier <= 2; multiplier++)
                check_area_case(kernel, stride, multiplier);
}

static void check_stem(void)
{
    fvlm_stem conv = {.height = harness_between(1, 24),
                      .width = harness_between(1, 70),
                      .channels = harness_between(1, 100),
                      .activation = random_activation()};
    size_t pixels = conv.height * conv.width * 3;
    size_t rows = (conv.height + 1) / 2, columns = (conv.width + 1) / 2, count = rows * columns * conv.channels;
    uint8_t *x = harness_bytes(pixels);
    float *floats = harness_output(pixels), *weight = harness_floats(conv.channels * 27, 0.3f);
    float *packed = harness_output(conv.channels * 27), *bias = harness_floats(conv.channels, 1);
    float *y = harness_output(count), *again = harness_output(count), *expected = harness_output(count);
    fvlm_stem_pack(weight, conv.channels, packed);
    conv.weight = packed;
    conv.bias = bias;
    for (size_t i = 0; i < pixels; i++)
        floats[i] = (float)x[i] / 255.0f;
    float *out = expected;
    for (size_t row = 0; row < rows; row++)
        for (size_t column = 0; column < columns; column++)
            for (size_t c = 0; c < conv.channels; c++) {
                double sum =
                    window_sum(floats, conv.height, conv.width, 3, 0, 3, weight + c * 27, 3, 2, row, column) + bias[c];
                *out++ = fvlm_activate_one(conv.activation, (float)sum);
            }
    char what[64];
    snprintf(what, sizeof what, "%zu x %zu x %zu", conv.height, conv.width, conv.channels);
    HARNESS_LEVELS(level)
    {
        for (size_t i = 0; i < count; i++)
            y[i] = again[i] = NAN;
        fvlm_stem_forward(harness_pool(1), &conv, 1, x, y);
        fvlm_stem_forward(harness_pool(3), &conv, 1, x, again);
        harness_near(what, expected, y, count, (harness_tolerance){1e-5, 1e-5});
        harness_near("3 threads", y, again, count, (harness_tolerance){0, 0});
    }
}

struct bench {
    fvlm_pool *pool;
    fvlm_depthwise depthwise;
    fvlm_stem stem;
    void *x;
    float *y;
};

static void run_depthwise(void *argument)
{
    struct bench *bench = argument;
    fvlm_depthwise_forward(bench->pool, &bench->depthwise, 1, bench->x, bench->y);
}

static void run_stem(void *argument)
{
    struct bench *bench = argument;
    fvlm_stem_forward(bench->pool, &bench->stem, 1, bench->x, bench->y);
}

static void bench_levels(const char *what, double flops, void (*run)(void *), struct bench *bench)
{
    for (int threads = 1; threads <= fvlm_cpu_count(); threads++) {
        bench->pool = harness_pool(threads);
        char name[128];
        snprintf(name, sizeof name, "%s, %d threads", what, threads);
        HARNESS_LEVELS(level)
        {
            harness_bench(name, flops, 0, run, bench);
        }
    }
}

/* The tower's layers at 1024 pixels: patch mixers and feed-forward blocks (7x7), RepMixers (3x3), and what lies
 * between stages. */
static void bench_depthwise(void)
{
    static const struct {
        size_t side, channels, kernel, stride, multiplier;
    } layers[] = {{512, 96, 3, 2, 1}, {256, 96, 3, 1, 1}, {256, 96, 7, 1, 1},  {256, 192, 7, 2, 2}, {128, 192, 7, 1, 1},
                  {64, 384, 7, 1, 1}, {32, 768, 7, 1, 1}, {16, 1536, 7, 1, 1}, {16, 3072, 3, 1, 2}};
    for (size_t i = 0; i < sizeof layers / sizeof layers[0]; i++) {
        size_t side = layers[i].side, out = side / layers[i].stride, channels = layers[i].channels;
        size_t kernel = layers[i].kernel;
        struct bench bench = {.x = harness_floats(side * side * channels / layers[i].multiplier, 1),
                              .y = harness_output(out * out * channels),
                              .depthwise = {.height = side,
                                            .width = side,
                                            .channels = channels,
                                            .multiplier = layers[i].multiplier,
                                            .kernel = kernel,
                                            .stride = layers[i].stride,
                                            .weight = harness_floats(kernel * kernel * channels, 1),
                                            .bias = harness_floats(channels, 1)}};
        char what[64];
        snprintf(what, sizeof what, "%zux%zu/%zu %zu x %zu x %zu", kernel, kernel, layers[i].stride, out, out,
                 channels);
        bench_levels(what, 2.0 * (double)(out * out * channels * kernel * kernel), run_depthwise, &bench);
    }
}

static void bench_stem(void)
{
    struct bench bench = {.x = harness_bytes(1024 * 1024 * 3),
                          .y = harness_output(512 * 512 * 96),
                          .stem = {.height = 1024,
                                   .width = 1024,
                                   .channels = 96,
                                   .weight = harness_floats(27 * 96, 1),
                                   .bias = harness_floats(96, 1),
                                   .activation = FVLM_ACTIVATION_GELU}};
    bench_levels("stem 512 x 512 x 96 gelu", 2.0 * 512 * 512 * 96 * 27, run_stem, &bench);
}

static const harness_test tests[] = {
    {"depthwise", 30, check_depthwise, bench_depthwise},
    {"area", 20, check_area, NULL},
    {"stem", 40, check_stem, bench_stem},
};

int main(int argc, char **argv)
{
    return harness_main(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
