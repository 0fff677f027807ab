/* Packed linear layers and feed-forward blocks: each instruction set against a product in double
 * precision of what the inputs were rounded to, or, for int8, within the noise that its rounding must make. */
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/cpu.h"
#include "base/memory.h"
#include "kernels/packed_block.h"

static const fvlm_packed_type types[] = {FVLM_PACKED_FP32, FVLM_PACKED_FP32_BF16, FVLM_PACKED_BF16, FVLM_PACKED_INT8};
enum { TYPES = sizeof types / sizeof types[0] };

static const char *type_name(fvlm_packed_type type)
{
    static const char *const names[] = {[FVLM_PACKED_FP32] = "fp32",
                                        [FVLM_PACKED_FP32_BF16] = "fp32 by bf16",
                                        [FVLM_PACKED_BF16] = "bf16",
                                        [FVLM_PACKED_INT8] = "int8"};
    return names[type];
}

/* Aligned memory for a packed matrix of either type. */
static void *packed_memory(size_t rows, size_t cols)
{
    void *memory = harness_bytes(fvlm_packed_bytes(FVLM_PACKED_FP32, rows, cols) +
                                 fvlm_packed_bytes(FVLM_PACKED_INT8, rows, cols) + FVLM_ALIGN);
    return (void *)(((uintptr_t)memory + FVLM_ALIGN - 1) / FVLM_ALIGN * FVLM_ALIGN);
}

static fvlm_packed pack(fvlm_packed_type type, size_t rows, size_t cols, const float *weights, int threads,
                        void *memory)
{
    fvlm_matrix matrix = {.type = FVLM_F32, .rows = rows, .cols = cols, .data = weights};
    fvlm_packed packed;
    fvlm_packed_fill(harness_pool(threads), type, &matrix, memory, &packed);
    return packed;
}

static double activate(fvlm_activation activation, double x)
{
    switch (activation) {
    case FVLM_ACTIVATION_GELU:
        return x / 2 * (1 + erf(x * sqrt(0.5)));
    case FVLM_ACTIVATION_RELU:
        return x > 0 ? x : 0;
    case FVLM_ACTIVATION_SILU:
        return x / (1 + exp(-x));
    case FVLM_ACTIVATION_SIGMOID:
        return 1 / (1 + exp(-x));
    case FVLM_ACTIVATION_NONE:
        break;
    }
    return x;
}

static float as_bf16(float x)
{
    return fvlm_float_from_bf16(fvlm_bf16_from_float(x));
}

/* y[m, n] = epilogue(x W^T) with x and W rounded as `type` rounds them; int8: not at all. */
static void expected_linear(fvlm_packed_type type, const float *w, size_t n, size_t k, const float *x, size_t m,
                            size_t x_stride, const fvlm_epilogue *epilogue, float *y)
{
    bool round_x = type == FVLM_PACKED_BF16, round_w = round_x || type == FVLM_PACKED_FP32_BF16;
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = 0;
            for (size_t l = 0; l < k; l++) {
                float a = x[i * x_stride + l], b = w[j * k + l];
                sum += (double)(round_x ? as_bf16(a) : a) * (round_w ? as_bf16(b) : b);
            }
            if (epilogue->bias)
                sum += epilogue->bias[j];
            sum = activate(epilogue->activation, sum);
            if (epilogue->scale)
                sum *= epilogue->scale[j];
            if (epilogue->residual)
                sum += epilogue->residual[i * epilogue->residual_stride + j];
            y[i * n + j] = (float)sum;
        }
}

static void copy_rows(const float *from, size_t from_stride, size_t rows, size_t width, float *to, size_t to_stride)
{
    for (size_t i = 0; i < rows; i++)
        memcpy(to + i * to_stride, from + i * from_stride, width * sizeof *to);
}

/* m rows by an n x k matrix with a random epilogue, at every level and on 1 and 3 threads. `x` and `weights` are such
 * that the outputs differ from the expected ones by at most the tolerance. */
static void check_case(fvlm_packed_type type, size_t m, size_t n, size_t k, const float *x, size_t x_stride,
                       const float *weights, harness_tolerance tolerance)
{
    size_t y_stride = n + harness_between(0, 5);
    float *start = harness_floats((m - 1) * y_stride + n, 1);
    float *y = harness_output((m - 1) * y_stride + n), *again = harness_output((m - 1) * y_stride + n);
    float *expected = harness_output(m * n);
    void *memory = packed_memory(n, k);
    uint32_t choice = harness_random();
    fvlm_epilogue epilogue = {.bias = choice & 1 ? harness_floats(n, 1) : NULL,
                              .activation = (fvlm_activation)(choice >> 4 & 7) % (FVLM_ACTIVATION_SIGMOID + 1),
                              .scale = choice & 2 ? harness_floats(n, 0.5f) : NULL,
                              .residual = choice & 4 ? start : NULL,
                              .residual_stride = y_stride};
    /* The near GELU, through a scale that is seldom above 2. */
    bool near = epilogue.activation == FVLM_ACTIVATION_GELU && (type == FVLM_PACKED_BF16 || type == FVLM_PACKED_INT8);
    tolerance.absolute += near ? 1e-3 : 0;
    expected_linear(type, weights, n, k, x, m, x_stride, &epilogue, expected);
    HARNESS_LEVELS(level)
    {
        for (int threads = 1; threads <= 3; threads += 2) {
            fvlm_packed packed = pack(type, n, k, weights, threads, memory);
            float *out = threads == 1 ? y : again;
            copy_rows(start, y_stride, m, n, out, y_stride);
            if (epilogue.residual)
                epilogue.residual = out;
            fvlm_packed_linear(harness_pool(threads), &packed, x, m, x_stride, out, y_stride, &epilogue);
        }
        char what[128];
        snprintf(what, sizeof what, "%s %zu x %zu x %zu", type_name(type), m, n, k);
        harness_near_rows(what, expected, n, y, y_stride, m, n, tolerance);
        harness_near_rows("3 threads", y, y_stride, again, y_stride, m, n, (harness_tolerance){0, 0});
    }
}

/* Normal numbers, whose products sum to about 1, seldom to 4. In float32 a sum rounds to nearest; arm64's instructions
 * for bf16 round the sum of two products, and then that with all before, to odd: up to 2^-23 of it, 0.7e-7 in the mean.
 * Over k / 2 such steps that grows to 0.5e-7 sqrt(k) of the sum, of which the tolerance is 5 times for a sum of 4.
 * int8's noise: each product is off by half a step of each factor at most, of which the 7-bit steps of AVX2 are the
 * largest; 6 deviations of a sum of k such errors. */
static void check_random(size_t m, size_t n, size_t k)
{
    fvlm_packed_type type = types[harness_random() % TYPES];
    size_t x_stride = k + harness_between(0, 5);
    float size = 1 / sqrtf((float)k);
    float *x = harness_floats((m - 1) * x_stride + k, size), *weights = harness_floats(n * k, 1);
    double step = 9.0 / 127 / sqrt(12), noise = 6 * (step * (type == FVLM_PACKED_INT8));
    check_case(type, m, n, k, x, x_stride, weights, (harness_tolerance){2e-6 + 1e-6 * sqrt((double)k) + noise, 1e-5});
}

static void check_linear(void)
{
    check_random(harness_between(1, 70), harness_between(1, 150), harness_between(1, 300));
}

/* Several slices. */
static void check_deep(void)
{
    check_random(harness_between(1, 40), harness_between(1, 70), harness_between(700, 3000));
}

/* Several slabs, and with 3000 columns several fillings of the scratch. */
static void check_tall(void)
{
    bool wide = harness_random() & 1;
    check_random(wide ? harness_between(600, 1500) : harness_between(200, 3000), harness_between(1, wide ? 4 : 40),
                 wide ? harness_between(2900, 3100) : harness_between(1, 100));
}

/* x of two values and integer weights are exact in int8, so only float32 sums round. */
static void check_exact(void)
{
    size_t m = harness_between(1, 40), n = harness_between(1, 70), k = harness_between(1, 1600);
    float *x = harness_output(m * k), *weights = harness_output(n * k);
    for (size_t i = 0; i < m * k; i++)
        x[i] = harness_random() & 1 ? 0.75f : -0.25f;
    for (size_t i = 0; i < n * k; i++)
        weights[i] = i % k == 0 ? 1.27f : (float)((int)harness_between(0, 254) - 127) * 0.01f;
    check_case(FVLM_PACKED_INT8, m, n, k, x, k, weights, (harness_tolerance){2e-5 * sqrt((double)k), 2e-5});
}

/* A NaN or infinity reaches exactly the outputs that it should (not int8). */
static void check_special(void)
{
    fvlm_packed_type type = types[harness_random() % 3];
    size_t m = harness_between(1, 30), n = harness_between(1, 70), k = harness_between(1, 90);
    float *x = harness_floats(m * k, 1), *weights = harness_floats(n * k, 1), *y = harness_output(m * n);
    float *expected = harness_output(m * n);
    void *memory = packed_memory(n, k);
    const float special[] = {NAN, INFINITY, -INFINITY};
    x[harness_random() % (m * k)] = special[harness_random() % 3];
    weights[harness_random() % (n * k)] = special[harness_random() % 3];
    expected_linear(type, weights, n, k, x, m, k, &(fvlm_epilogue){0}, expected);
    HARNESS_LEVELS(level)
    {
        fvlm_packed packed = pack(type, n, k, weights, 1, memory);
        fvlm_packed_linear(harness_pool(1), &packed, x, m, k, y, n, NULL);
        harness_near("special values", expected, y, m * n, (harness_tolerance){1e-4, 1e-4});
    }
}

/* Rows of one value, among them 0 and a NaN, divide by nothing and leave their neighbours alone (int8). */
static void check_degenerate(void)
{
    enum { ROWS = 5 };
    size_t n = harness_between(1, 70), k = harness_between(1, 90);
    const float values[ROWS] = {0, 1.5f, NAN, -2, 1e-40f};
    float *x = harness_output(ROWS * k), *weights = harness_output(n * k), *y = harness_output(ROWS * n);
    float *expected = harness_output(ROWS * n);
    void *memory = packed_memory(n, k);
    for (size_t i = 0; i < ROWS * k; i++)
        x[i] = values[i / k];
    for (size_t i = 0; i < n * k; i++)
        weights[i] = i / k % 2 ? 0 : 0.5f; /* every other channel is 0 */
    expected_linear(FVLM_PACKED_FP32, weights, n, k, x, ROWS, k, &(fvlm_epilogue){0}, expected);
    HARNESS_LEVELS(level)
    {
        fvlm_packed packed = pack(FVLM_PACKED_INT8, n, k, weights, 1, memory);
        fvlm_packed_linear(harness_pool(1), &packed, x, ROWS, k, y, n, NULL);
        for (size_t row = 0; row < ROWS; row++)
            if (!isnan(values[row]))
                harness_near("rows of one value", expected + row * n, y + row * n, n, (harness_tolerance){1e-5, 1e-5});
    }
}

/* Softmax and both products in double precision, of q, k and v as `type` rounds them. */
static void expected_attention(fvlm_packed_type type, size_t tokens, size_t heads, const float *qkv, float *out)
{
    size_t width = heads * FVLM_PACKED_HEAD, count = tokens * 3 * width;
    float *x = harness_output(count);
    double *p = harness_bytes(tokens * sizeof *p);
    for (size_t i = 0; i < count; i++)
        x[i] = type == FVLM_PACKED_BF16 ? as_bf16(qkv[i]) : qkv[i];
    for (size_t i = 0; i < tokens; i++)
        for (size_t head = 0; head < heads; head++) {
            const float *q = x + i * 3 * width + head * FVLM_PACKED_HEAD, *k = x + width + head * FVLM_PACKED_HEAD;
            double largest = -INFINITY, sum = 0;
            for (size_t j = 0; j < tokens; j++) {
                p[j] = 0;
                for (size_t c = 0; c < FVLM_PACKED_HEAD; c++)
                    p[j] += (double)q[c] * k[j * 3 * width + c] / sqrt(FVLM_PACKED_HEAD);
                largest = p[j] > largest ? p[j] : largest;
            }
            for (size_t j = 0; j < tokens; j++)
                sum += p[j] = exp(p[j] - largest);
            for (size_t c = 0; c < FVLM_PACKED_HEAD; c++) {
                double value = 0;
                for (size_t j = 0; j < tokens; j++)
                    value += p[j] * k[j * 3 * width + width + c];
                out[i * width + head * FVLM_PACKED_HEAD + c] = (float)(value / sum);
            }
        }
}

/* Fewer tokens than a panel, several chunks of keys, and several runs of queries. */
static void check_attention(void)
{
    static const size_t most[] = {40, 700, 1100};
    size_t tokens = harness_between(1, most[harness_random() % 3]), heads = tokens > 700 ? 1 : harness_between(1, 3);
    size_t count = tokens * heads * FVLM_PACKED_HEAD;
    fvlm_packed_type type = harness_random() & 1 ? FVLM_PACKED_BF16 : FVLM_PACKED_FP32;
    float *qkv = harness_floats(3 * count, 2), *expected = harness_output(count);
    float *out = harness_output(count), *again = harness_output(count);
    /* The largest score comes late, and takes nearly all: what went before must be brought down. */
    if (harness_random() & 1)
        for (size_t i = 0; i < heads * FVLM_PACKED_HEAD; i++)
            qkv[((tokens - 1) * 3 + 1) * heads * FVLM_PACKED_HEAD + i] *= 20;
    expected_attention(type, tokens, heads, qkv, expected);
    HARNESS_LEVELS(level)
    {
        for (int threads = 1; threads <= 3; threads += 2)
            fvlm_packed_attention(harness_pool(threads), type, tokens, heads, qkv, threads == 1 ? out : again);
        char what[64];
        snprintf(what, sizeof what, "%s attention, %zu tokens", type_name(type), tokens);
        /* bf16: each weight is off by 2^-9 of it at most, and the values reach some 8. */
        harness_near(what, expected, out, count, (harness_tolerance){type == FVLM_PACKED_BF16 ? 0.02 : 2e-5, 1e-5});
        harness_near("3 threads", out, again, count, (harness_tolerance){0, 0});
    }
}

struct ffn_case {
    fvlm_depthwise conv;
    size_t wide;
    float *x, *w1, *w2, *bias1, *bias2, *scale;
    uint32_t *units; /* NULL: the convolution is in float32 */
    void *memory1, *memory2;
};

static struct ffn_case random_ffn(size_t height, size_t width, size_t channels, size_t wide)
{
    struct ffn_case c = {.wide = wide};
    float *taps = harness_floats(49 * channels, 1.0f / 7);
    c.conv = (fvlm_depthwise){.height = height,
                              .width = width,
                              .channels = channels,
                              .multiplier = 1,
                              .kernel = 7,
                              .stride = 1,
                              .weight = taps,
                              .bias = harness_floats(channels, 1)};
    if (harness_random() & 1) {
        c.units = harness_bytes(fvlm_packed_convolution_units(channels) * sizeof *c.units);
        fvlm_packed_convolution(&c.conv, c.units);
    }
    c.x = harness_floats(height * width * channels, 1);
    c.w1 = harness_floats(wide * channels, 1 / sqrtf((float)channels));
    c.w2 = harness_floats(channels * wide, 1 / sqrtf((float)wide));
    c.bias1 = harness_floats(wide, 0.5f);
    c.bias2 = harness_floats(channels, 0.5f);
    c.scale = harness_floats(channels, 1);
    c.memory1 = packed_memory(wide, channels);
    c.memory2 = packed_memory(channels, wide);
    return c;
}

static fvlm_packed_ffn pack_ffn(const struct ffn_case *c, fvlm_packed_type type, int threads)
{
    return (fvlm_packed_ffn){.conv = c->conv,
                             .conv_units = type == FVLM_PACKED_BF16 || type == FVLM_PACKED_INT8 ? c->units : NULL,
                             .fc1 = pack(type, c->wide, c->conv.channels, c->w1, threads, c->memory1),
                             .fc2 = pack(type, c->conv.channels, c->wide, c->w2, threads, c->memory2),
                             .bias1 = c->bias1,
                             .bias2 = c->bias2,
                             .scale = c->scale};
}

/* The 7x7 convolution of a picture, in double precision. */
static void expected_conv(const fvlm_depthwise *conv, const float *x, float *y)
{
    for (size_t row = 0; row < conv->height; row++)
        for (size_t column = 0; column < conv->width; column++)
            for (size_t c = 0; c < conv->channels; c++) {
                double sum = conv->bias[c];
                for (size_t i = 0; i < 49; i++) {
                    size_t r = row + i / 7 - 3, s = column + i % 7 - 3; /* large where below 0 */
                    if (r < conv->height && s < conv->width)
                        sum += (double)x[(r * conv->width + s) * conv->channels + c] *
                               conv->weight[i * conv->channels + c];
                }
                y[(row * conv->width + column) * conv->channels + c] = (float)sum;
            }
}

/* An area of a convolution of bf16 against all of it, of rounded numbers, in double precision. */
static void check_convolve(void)
{
    size_t height = harness_between(1, 30), width = harness_between(1, 40), channels = harness_between(1, 70);
    size_t count = height * width * channels;
    float *x = harness_floats(count, 1), *rounded = harness_output(count), *expected = harness_output(count);
    float *taps = harness_floats(49 * channels, 1.0f / 7);
    uint32_t *units = harness_bytes(fvlm_packed_convolution_units(channels) * sizeof *units);
    fvlm_depthwise conv = {.height = height,
                           .width = width,
                           .channels = channels,
                           .multiplier = 1,
                           .kernel = 7,
                           .stride = 1,
                           .weight = taps,
                           .bias = harness_floats(channels, 1)};
    for (size_t i = 0; i < 49 * channels; i++)
        taps[i] = as_bf16(taps[i]);
    for (size_t i = 0; i < count; i++) {
        /* Numbers halfway between two others may become either. */
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        x[i] = (bits & 0xffff) == 0x8000 ? as_bf16(x[i]) : x[i];
        rounded[i] = as_bf16(x[i]);
    }
    fvlm_packed_convolution(&conv, units);
    expected_conv(&conv, rounded, expected);
    fvlm_conv_area area = {.row = harness_between(0, height - 1), .column = harness_between(0, width - 1)};
    area.rows = harness_between(1, height - area.row < FVLM_AREA_ROWS ? height - area.row : FVLM_AREA_ROWS);
    area.columns =
        harness_between(1, width - area.column < FVLM_AREA_COLUMNS ? width - area.column : FVLM_AREA_COLUMNS);
    area.y_stride = channels + harness_between(0, 5);
    area.line_stride = area.columns * area.y_stride + harness_between(0, 5);
    size_t outputs = (area.rows - 1) * area.line_stride + (area.columns - 1) * area.y_stride + channels;
    HARNESS_LEVELS(level)
    {
        area.y = harness_output(outputs);
        fvlm_packed_kernels_select()->convolve(&conv, units, x, &area);
        for (size_t i = 0; i < area.rows; i++)
            harness_near_rows("bf16 convolution", expected + ((area.row + i) * width + area.column) * channels,
                              channels, area.y + i * area.line_stride, area.y_stride, area.columns, channels,
                              (harness_tolerance){1e-5, 1e-5});
    }
}

/* The block against its layers in double precision. */
static void check_ffn(void)
{
    struct ffn_case c =
        random_ffn(harness_between(1, 20), harness_between(1, 20), harness_between(1, 60), harness_between(1, 1000));
    if (harness_random() % 4 == 0)
        c = random_ffn(2, harness_between(129, 300), harness_between(1, 20), harness_between(1, 60));
    size_t channels = c.conv.channels, m = c.conv.height * c.conv.width, count = m * channels;
    float *mixed = harness_output(count), *middle = harness_output(m * c.wide), *expected = harness_output(count);
    float *y = harness_output(count), *again = harness_output(count);
    fvlm_epilogue first = {.bias = c.bias1, .activation = FVLM_ACTIVATION_GELU};
    fvlm_epilogue second = {.bias = c.bias2, .scale = c.scale, .residual = c.x, .residual_stride = channels};
    expected_conv(&c.conv, c.x, mixed);
    for (size_t t = 0; t < TYPES; t++) {
        /* In bf16 and int8 the error comes from rounding what goes into each layer, and is too large for more. */
        fvlm_packed_type exact = types[t] == FVLM_PACKED_FP32_BF16 ? types[t] : FVLM_PACKED_FP32;
        double bound = types[t] == FVLM_PACKED_INT8 ? 0.03 : types[t] == FVLM_PACKED_BF16 ? 0.006 : 2e-6;
        expected_linear(exact, c.w1, c.wide, channels, mixed, m, channels, &first, middle);
        expected_linear(exact, c.w2, channels, c.wide, middle, m, c.wide, &second, expected);
        HARNESS_LEVELS(level)
        {
            for (int threads = 1; threads <= 3; threads += 2) {
                fvlm_packed_ffn ffn = pack_ffn(&c, types[t], threads);
                fvlm_packed_ffn_forward(harness_pool(threads), &ffn, c.x, threads == 1 ? y : again);
            }
            harness_near("3 threads", y, again, count, (harness_tolerance){0, 0});
            double error = 0, size = 0;
            for (size_t i = 0; i < count; i++) {
                error += ((double)y[i] - expected[i]) * ((double)y[i] - expected[i]);
                size += ((double)expected[i] - c.x[i]) * ((double)expected[i] - c.x[i]);
            }
            double relative = sqrt(error / size);
            bound *= 1 + 2 / sqrt((double)channels); /* the errors of few channels do not average out */
            if (!(relative < bound))
                harness_fail("%s ffn %zu x %zu x %zu to %zu at %s: relative error %g", type_name(types[t]),
                             c.conv.height, c.conv.width, channels, c.wide, level, relative);
        }
    }
}

/* The stem against the same layers one after the other. */
static void check_stem(void)
{
    size_t height = harness_between(1, 70), width = harness_between(1, 150), channels = harness_between(1, 70);
    size_t outputs = harness_between(1, 70), high = (height + 1) / 2, wide = (width + 1) / 2;
    size_t places = (high + 1) / 2 * ((wide + 1) / 2);
    const uint8_t *x = harness_bytes(height * width * 3);
    float *weights = harness_floats(outputs * channels, 1 / sqrtf((float)channels));
    float *first = harness_output(high * wide * channels), *second = harness_output(places * channels);
    float *y = harness_output(places * outputs), *expected = harness_output(places * outputs);
    void *memory = packed_memory(outputs, channels);
    fvlm_packed_stem stem = {.conv = {.height = height,
                                      .width = width,
                                      .channels = channels,
                                      .weight = harness_floats(27 * channels, 0.3f),
                                      .bias = harness_floats(channels, 1),
                                      .activation = FVLM_ACTIVATION_GELU},
                             .depthwise = {.height = high,
                                           .width = wide,
                                           .channels = channels,
                                           .multiplier = 1,
                                           .kernel = 3,
                                           .stride = 2,
                                           .weight = harness_floats(9 * channels, 0.3f),
                                           .bias = harness_floats(channels, 1),
                                           .activation = FVLM_ACTIVATION_GELU},
                             .bias = harness_floats(outputs, 1)};
    fvlm_epilogue epilogue = {.bias = stem.bias, .activation = FVLM_ACTIVATION_GELU};
    HARNESS_LEVELS(level)
    {
        for (size_t t = 0; t < TYPES; t++) {
            stem.linear = pack(types[t], outputs, channels, weights, 1, memory);
            fvlm_stem_forward(harness_pool(1), &stem.conv, 1, x, first);
            fvlm_depthwise_forward(harness_pool(1), &stem.depthwise, 1, first, second);
            fvlm_packed_linear(harness_pool(1), &stem.linear, second, places, channels, expected, outputs, &epilogue);
            for (size_t i = 0; i < places * outputs; i++)
                y[i] = NAN;
            fvlm_packed_stem_forward(harness_pool(t % 2 ? 3 : 1), &stem, x, y);
            /* A compiler may round sums at the edges of areas in another order. */
            harness_near(type_name(types[t]), expected, y, places * outputs, (harness_tolerance){2e-3, 0});
        }
    }
}

struct bench {
    fvlm_pool *pool;
    fvlm_packed packed;
    fvlm_packed_ffn ffn;
    fvlm_matrix matrix;
    fvlm_packed_type type;
    void *memory;
    float *x, *y;
    size_t m;
};

static void run_linear(void *argument)
{
    struct bench *bench = argument;
    fvlm_packed_linear(bench->pool, &bench->packed, bench->x, bench->m, bench->packed.cols, bench->y,
                       bench->packed.rows, NULL);
}

static void bench_shape(fvlm_packed_type type, size_t m, size_t n, size_t k)
{
    float *weights = harness_floats(n * k, 1);
    void *memory = packed_memory(n, k);
    struct bench bench = {.m = m, .x = harness_floats(m * k, 1), .y = harness_output(m * n)};
    for (int threads = 1; threads <= fvlm_cpu_count(); threads++) {
        bench.pool = harness_pool(threads);
        char what[128];
        snprintf(what, sizeof what, "%s %zu x %zu x %zu, %d threads", type_name(type), m, n, k, threads);
        HARNESS_LEVELS(level)
        {
            if (harness_is_reference())
                continue;
            bench.packed = pack(type, n, k, weights, threads, memory);
            harness_bench(what, 2.0 * (double)(m * n * k), m <= 8 ? (double)fvlm_packed_bytes(type, n, k) : 0,
                          run_linear, &bench);
        }
    }
}

static void bench_linear(void)
{
    for (size_t t = 0; t < TYPES; t++) {
        bench_shape(types[t], 65536, 96, 96);
        bench_shape(types[t], 1024, 2304, 768);
        bench_shape(types[t], 256, 1536, 1536);
    }
}

static void bench_language(void)
{
    for (size_t t = 0; t < TYPES; t++) {
        bench_shape(types[t], 286, 4864, 896);
        bench_shape(types[t], 286, 896, 4864);
        bench_shape(types[t], 1, 4864, 896);
        bench_shape(types[t], 1, 151936, 896);
    }
}

static void run_ffn(void *argument)
{
    struct bench *bench = argument;
    fvlm_packed_ffn_forward(bench->pool, &bench->ffn, bench->x, bench->y);
}

static void bench_ffn(void)
{
    static const size_t stages[][2] = {{256, 96}, {128, 192}, {64, 384}, {32, 768}, {16, 1536}};
    for (size_t i = 0; i < sizeof stages / sizeof stages[0]; i++) {
        size_t side = stages[i][0], channels = stages[i][1];
        struct ffn_case c = random_ffn(side, side, channels, 4 * channels);
        struct bench bench = {.x = c.x, .y = harness_output(side * side * channels)};
        for (size_t t = 0; t < TYPES; t++)
            for (int threads = 1; threads <= fvlm_cpu_count(); threads++) {
                bench.pool = harness_pool(threads);
                char what[128];
                snprintf(what, sizeof what, "%s ffn %zu x %zu x %zu, %d threads", type_name(types[t]), side, side,
                         channels, threads);
                HARNESS_LEVELS(level)
                {
                    if (harness_is_reference())
                        continue;
                    bench.ffn = pack_ffn(&c, types[t], threads);
                    harness_bench(what, (double)(side * side * channels) * (98 + 16 * (double)channels), 0, run_ffn,
                                  &bench);
                }
            }
    }
}

static void run_attention(void *argument)
{
    struct bench *bench = argument;
    fvlm_packed_attention(bench->pool, bench->type, bench->m, 24, bench->x, bench->y);
}

static void bench_attention(void)
{
    static const fvlm_packed_type attention_types[] = {FVLM_PACKED_FP32, FVLM_PACKED_BF16};
    static const size_t tokens[] = {256, 1024, 4096};
    for (size_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++) {
        size_t count = tokens[i] * 24 * FVLM_PACKED_HEAD;
        struct bench bench = {.m = tokens[i], .x = harness_floats(3 * count, 1), .y = harness_output(count)};
        for (size_t t = 0; t < 2; t++)
            for (int threads = 1; threads <= fvlm_cpu_count(); threads++) {
                bench.type = attention_types[t];
                bench.pool = harness_pool(threads);
                char what[128];
                snprintf(what, sizeof what, "%s attention, %zu tokens, %d threads", type_name(bench.type), tokens[i],
                         threads);
                HARNESS_LEVELS(level)
                {
                    if (!harness_is_reference())
                        harness_bench(what, 4.0 * (double)(tokens[i] * count), 0, run_attention, &bench);
                }
            }
    }
}

static void run_pack(void *argument)
{
    struct bench *bench = argument;
    fvlm_packed_fill(bench->pool, bench->type, &bench->matrix, bench->memory, &bench->packed);
}

static void bench_pack(void)
{
    size_t rows = 3072, cols = 768;
    struct bench bench = {.matrix = {.type = FVLM_BF16, .rows = rows, .cols = cols}, .pool = harness_pool(2)};
    bench.matrix.data = harness_bytes(rows * cols * 2);
    for (size_t t = 0; t < TYPES; t++) {
        size_t bytes = fvlm_packed_bytes(types[t], rows, cols);
        bench.type = types[t];
        bench.memory = harness_bytes(bytes);
        char what[32];
        snprintf(what, sizeof what, "pack %s, 2 threads", type_name(types[t]));
        HARNESS_LEVELS(level)
        harness_bench(what, 0, (double)(rows * cols * 2 + bytes), run_pack, &bench);
    }
}

static const harness_test tests[] = {
    {"linear", 60, check_linear, bench_linear},
    {"deep", 20, check_deep, bench_language},
    {"tall", 8, check_tall, NULL},
    {"exact", 20, check_exact, bench_pack},
    {"special", 40, check_special, NULL},
    {"degenerate", 10, check_degenerate, NULL},
    {"attention", 20, check_attention, bench_attention},
    {"convolve", 30, check_convolve, NULL},
    {"ffn", 8, check_ffn, bench_ffn},
    {"stem", 12, check_stem, NULL},
};

int main(int argc, char **argv)
{
    return harness_main(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
