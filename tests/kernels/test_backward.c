/* Every backward pass against finite differences of its forward pass, at odd shapes and at every instruction set level,
 * and the same to the bit on one and on three threads. */
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/attention.h"
#include "kernels/conv.h"
#include "kernels/gemm.h"
#include "kernels/loss.h"
#include "kernels/norm.h"
#include "kernels/rounded.h"
#include "kernels/row_sums.h"
#include "matrices.h"

#define STEP 1e-2
#define BAR 2e-3 /* of the gradient's norm: the second order of the step, and float32 */

/* The loss of a case: sum of outputs times fixed random weights, computed in double. */
typedef double (*loss_fn)(void *context);

static double weighted(const float *y, const float *weights, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += (double)y[i] * weights[i];
    return sum;
}

/* Move x[count] along random directions, all elements at once and one alone, and compare the loss's slope with the
 * gradient's. */
static void check_slope(const char *what, loss_fn loss, void *context, float *x, const float *gradient, size_t count)
{
    float *kept = harness_output(count), *direction = harness_output(count);
    memcpy(kept, x, count * sizeof *x);
    double norm = sqrt(weighted(gradient, gradient, count));
    for (int round = 0; round < 4; round++) {
        size_t alone = round < 2 ? count : harness_between(0, count - 1);
        double length = 0;
        for (size_t i = 0; i < count; i++) {
            direction[i] = alone == count ? harness_normal() : i == alone;
            length += (double)direction[i] * direction[i];
        }
        double sides[2];
        for (int side = 0; side < 2; side++) {
            for (size_t i = 0; i < count; i++)
                x[i] = kept[i] + (float)(side ? STEP : -STEP) * direction[i];
            sides[side] = loss(context);
        }
        memcpy(x, kept, count * sizeof *x);
        double slope = (sides[1] - sides[0]) / (2 * STEP), expected = weighted(gradient, direction, count);
        double bar = BAR * norm * sqrt(length / (double)count) + 1e-5;
        if (!(fabs(slope - expected) <= bar))
            harness_fail("%s%s: slope %g, gradient says %g (norm %g)", what, alone == count ? "" : ", one alone", slope,
                         expected, norm);
    }
}

static float *zeros(size_t count)
{
    return memset(harness_output(count), 0, count * sizeof(float));
}

static void equal(const char *what, const float *a, const float *b, size_t count)
{
    harness_equal(what, a, b, count * sizeof *a);
}

/* Linear layers, of every stored type. */

struct linear_case {
    fvlm_matrix w;
    float *x, *y, *weights;
    size_t m, x_stride;
};

static double linear_loss(void *context)
{
    struct linear_case *c = context;
    fvlm_linear(harness_pool(1), &c->w, c->x, c->m, c->x_stride, c->y, c->w.rows, NULL);
    return weighted(c->y, c->weights, c->m * c->w.rows);
}

static void check_linear(void)
{
    static const fvlm_dtype types[] = {FVLM_F32, FVLM_F32, FVLM_BF16, FVLM_F16, FVLM_MLX4, FVLM_MLX8};
    fvlm_dtype type = types[harness_random() % 6];
    bool grouped = type == FVLM_MLX4 || type == FVLM_MLX8;
    size_t m = harness_between(1, 300), rows = harness_between(1, 300);
    size_t cols = grouped ? 64 * harness_between(1, 5) : harness_between(1, 600);
    struct linear_case c = {.w = {.type = type, .rows = rows, .cols = cols}, .m = m, .x_stride = cols + 3};
    if (type == FVLM_F32) {
        c.w.data = harness_floats(rows * cols, 1);
    } else if (!grouped) {
        uint16_t *half = harness_bytes(rows * cols * sizeof *half);
        for (size_t i = 0; i < rows * cols; i++)
            half[i] =
                type == FVLM_BF16 ? fvlm_bf16_from_float(harness_normal()) : fvlm_f16_from_float(harness_normal());
        c.w.data = half;
    } else {
        c.w.group = 64;
        c.w.scale_type = FVLM_F32;
        c.w.data = harness_bytes(rows * cols / (type == FVLM_MLX4 ? 2 : 1));
        c.w.scales = harness_floats(rows * cols / 64, 0.1f);
        c.w.biases = harness_floats(rows * cols / 64, 1);
    }
    c.x = harness_floats(m * c.x_stride, 1);
    c.y = harness_output(m * rows);
    c.weights = harness_floats(m * rows, 1);
    HARNESS_LEVELS(level)
    {
        float *dx = zeros(m * c.x_stride), *again = zeros(m * c.x_stride);
        for (size_t i = 0; i < m * c.x_stride; i++)
            again[i] = dx[i] = i % 7 ? 0 : 0.5f;
        fvlm_linear_backward_x(harness_pool(1), &c.w, c.weights, m, rows, dx, c.x_stride, true);
        fvlm_linear_backward_x(harness_pool(3), &c.w, c.weights, m, rows, again, c.x_stride, true);
        equal("dx on three threads", dx, again, m * c.x_stride);
        for (size_t i = 0; i < m * c.x_stride; i++)
            dx[i] -= i % 7 ? 0 : 0.5f;
        memset(again, 0, m * c.x_stride * sizeof *again); /* the gaps between rows */
        fvlm_linear_backward_x(harness_pool(3), &c.w, c.weights, m, rows, again, c.x_stride, false);
        check_slope("linear x", linear_loss, &c, c.x, again, m * c.x_stride - 3);
        check_slope("linear x, added", linear_loss, &c, c.x, dx, m * c.x_stride - 3);
        if (type == FVLM_F32) {
            float *dw = zeros(rows * cols), *dw_again = zeros(rows * cols);
            fvlm_linear_backward_w(harness_pool(1), FVLM_F32, c.weights, m, rows, rows, c.x, cols, c.x_stride, dw);
            fvlm_linear_backward_w(harness_pool(3), FVLM_F32, c.weights, m, rows, rows, c.x, cols, c.x_stride,
                                   dw_again);
            equal("dw on three threads", dw, dw_again, rows * cols);
            check_slope("linear w", linear_loss, &c, (float *)(uintptr_t)c.w.data, dw, rows * cols);
        }
    }
}

/* The same products of numbers rounded to bf16, which slopes are too coarse for, against sums in double precision. */
static void check_rounded(void)
{
    static const fvlm_dtype types[] = {FVLM_F32, FVLM_BF16, FVLM_F16, FVLM_MLX4, FVLM_Q8_0, FVLM_Q4_K};
    fvlm_dtype type = types[harness_random() % 6];
    bool deep = harness_random() % 5 == 0; /* more than one part of the depth */
    size_t m = harness_between(1, deep ? 20 : 150), rows = harness_between(1, deep ? 6000 : 150);
    size_t cols = random_cols(type, deep ? 60 : 300);
    fvlm_matrix w = random_matrix(type, rows, cols);
    w.inputs = FVLM_BF16;
    size_t dy_stride = rows + harness_between(0, 5), x_stride = cols + harness_between(0, 5);
    float *dy = harness_floats((m - 1) * dy_stride + rows, 1), *x = harness_floats((m - 1) * x_stride + cols, 1);
    float *dx_start = harness_floats(m * cols, 1), *dw_start = harness_floats(rows * cols, 1);
    float *dx_expected = harness_output(m * cols), *dw_expected = harness_output(rows * cols);
    float *row = harness_output(cols);
    double *sums = harness_bytes(m * cols * sizeof *sums);
    for (size_t i = 0; i < m * cols; i++)
        sums[i] = dx_start[i];
    for (size_t r = 0; r < rows; r++) {
        fvlm_matrix_row(&w, r, row);
        for (size_t c = 0; c < cols; c++) {
            double sum = dw_start[r * cols + c], weight = fvlm_float_from_bf16(fvlm_bf16_from_float(row[c]));
            for (size_t i = 0; i < m; i++) {
                double d = fvlm_float_from_bf16(fvlm_bf16_from_float(dy[i * dy_stride + r]));
                sums[i * cols + c] += d * weight;
                sum += d * fvlm_float_from_bf16(fvlm_bf16_from_float(x[i * x_stride + c]));
            }
            dw_expected[r * cols + c] = (float)sum;
        }
    }
    for (size_t i = 0; i < m * cols; i++)
        dx_expected[i] = (float)sums[i];
    HARNESS_LEVELS(level)
    {
        if (!fvlm_rounded_fits_backward(FVLM_BF16)) /* WebAssembly: vectors, but none for bf16 */
            continue;
        float *dx = harness_output(m * cols), *dw = harness_output(rows * cols);
        for (int threads = 3; threads >= 1; threads -= 2) {
            float *dx_again = threads == 1 ? harness_output(m * cols) : dx;
            float *dw_again = threads == 1 ? harness_output(rows * cols) : dw;
            memcpy(dx_again, dx_start, m * cols * sizeof *dx);
            memcpy(dw_again, dw_start, rows * cols * sizeof *dw);
            fvlm_linear_backward_x(harness_pool(threads), &w, dy, m, dy_stride, dx_again, cols, true);
            fvlm_linear_backward_w(harness_pool(threads), FVLM_BF16, dy, m, rows, dy_stride, x, cols, x_stride,
                                   dw_again);
            equal("rounded dx on one thread", dx, dx_again, m * cols);
            equal("rounded dw on one thread", dw, dw_again, rows * cols);
        }
        harness_near("rounded dx", dx_expected, dx, m * cols, (harness_tolerance){2e-6 * sqrt((double)rows), 1e-5});
        harness_near("rounded dw", dw_expected, dw, rows * cols, (harness_tolerance){2e-6 * sqrt((double)m), 1e-5});
    }
}

static void check_column_sums(void)
{
    bool wide = harness_between(1, 10) == 1; /* more columns than are summed at a time */
    size_t m = wide ? 2 : harness_between(1, 200), c = wide ? FVLM_MOST_ROW_SUMS + 3 : harness_between(1, 90);
    float *a = harness_floats(m * (c + 1), 1), *b = harness_floats(m * c, 1), *sums = harness_floats(c, 1);
    double *expected = harness_bytes(c * sizeof *expected);
    for (size_t k = 0; k < c; k++) {
        expected[k] = sums[k];
        for (size_t i = 0; i < m; i++)
            expected[k] += (double)a[i * (c + 1) + k] * b[i * c + k];
    }
    fvlm_column_sums(harness_pool(3), a, c + 1, b, c, m, c, sums);
    for (size_t k = 0; k < c; k++)
        if (!(fabs(sums[k] - expected[k]) <= 1e-4))
            harness_fail("column %zu: %g, expected %g", k, (double)sums[k], expected[k]);
}

/* Activations. */

struct element_case {
    fvlm_activation activation;
    float *x, *up, *y, *weights;
    size_t count;
};

static double activate_loss(void *context)
{
    struct element_case *c = context;
    fvlm_activate_forward(harness_pool(1), c->activation, c->x, c->count, c->y);
    return weighted(c->y, c->weights, c->count);
}

static double swiglu_loss(void *context)
{
    struct element_case *c = context;
    fvlm_swiglu_forward(harness_pool(1), c->x, c->up, c->count, c->y);
    return weighted(c->y, c->weights, c->count);
}

static void check_activations(void)
{
    size_t count = harness_between(1, 400);
    struct element_case c = {.x = harness_floats(count, 2),
                             .up = harness_floats(count, 1),
                             .y = harness_output(count),
                             .weights = harness_floats(count, 1),
                             .count = count};
    HARNESS_LEVELS(level)
    {
        for (int activation = FVLM_ACTIVATION_NONE; activation <= FVLM_ACTIVATION_SIGMOID; activation++) {
            c.activation = (fvlm_activation)activation;
            /* A step must not cross ReLU's corner. */
            for (size_t i = 0; i < count && activation == FVLM_ACTIVATION_RELU; i++)
                c.x[i] += fabsf(c.x[i]) < 0.1f ? 0.2f : 0;
            float *dx = harness_output(count);
            fvlm_activate_backward(harness_pool(3), c.activation, c.x, c.weights, count, dx);
            check_slope("activation", activate_loss, &c, c.x, dx, count);
        }
        float *dgate = harness_output(count), *dup = harness_output(count);
        fvlm_swiglu_backward(harness_pool(3), c.x, c.up, c.weights, count, dgate, dup);
        check_slope("swiglu gate", swiglu_loss, &c, c.x, dgate, count);
        check_slope("swiglu up", swiglu_loss, &c, c.up, dup, count);
    }
}

/* Norms. */

struct norm_case {
    size_t m, c;
    float *x, *weight, *bias, *mean, *variance, *y, *weights;
    bool batch;
};

static double layer_norm_loss(void *context)
{
    struct norm_case *c = context;
    fvlm_layer_norm(harness_pool(1), c->x, c->m, c->c, c->weight, c->bias, 1e-5f, c->y);
    return weighted(c->y, c->weights, c->m * c->c);
}

static double rms_norm_loss(void *context)
{
    struct norm_case *c = context;
    fvlm_rms_norm(harness_pool(1), c->x, c->m, c->c, c->weight, 1e-6f, c->y);
    return weighted(c->y, c->weights, c->m * c->c);
}

static double batch_norm_loss(void *context)
{
    struct norm_case *c = context;
    if (c->batch)
        fvlm_batch_norm_statistics(harness_pool(1), c->x, c->m, c->c, c->mean, c->variance);
    fvlm_batch_norm(harness_pool(1), c->x, c->m, c->c, c->mean, c->variance, c->weight, c->bias, 1e-5f, c->y);
    return weighted(c->y, c->weights, c->m * c->c);
}

static double scale_gelu_loss(void *context)
{
    struct norm_case *c = context;
    fvlm_scale_gelu(harness_pool(1), c->x, c->m, c->c, c->weight, c->y);
    return weighted(c->y, c->weights, c->m * c->c);
}

static void check_norms(void)
{
    size_t m = harness_between(5, 60), width = harness_between(5, 90), count = m * width;
    struct norm_case c = {.m = m,
                          .c = width,
                          .x = harness_floats(count, 2),
                          .weight = harness_floats(width, 1),
                          .bias = harness_floats(width, 1),
                          .mean = harness_floats(width, 1),
                          .variance = harness_floats(width, 1),
                          .y = harness_output(count),
                          .weights = harness_floats(count, 1)};
    for (size_t i = 0; i < width; i++)
        c.variance[i] = 0.5f + fabsf(c.variance[i]);
    HARNESS_LEVELS(level)
    {
        float *statistics = harness_output(2 * m), *dx = zeros(count), *dweight = zeros(width), *dbias = zeros(width);
        fvlm_layer_norm_backward(harness_pool(3), c.x, m, width, c.weight, 1e-5f, c.weights, dx, dweight, dbias,
                                 statistics);
        check_slope("layer norm x", layer_norm_loss, &c, c.x, dx, count);
        check_slope("layer norm weight", layer_norm_loss, &c, c.weight, dweight, width);
        check_slope("layer norm bias", layer_norm_loss, &c, c.bias, dbias, width);

        dx = zeros(count);
        dweight = zeros(width);
        fvlm_rms_norm_backward(harness_pool(3), c.x, m, width, c.weight, 1e-6f, c.weights, dx, dweight, statistics);
        check_slope("rms norm x", rms_norm_loss, &c, c.x, dx, count);
        check_slope("rms norm weight", rms_norm_loss, &c, c.weight, dweight, width);

        for (int batch = 0; batch < 2; batch++) {
            c.batch = batch;
            batch_norm_loss(&c); /* the statistics */
            memcpy(dx, c.weights, count * sizeof *dx);
            dweight = zeros(width);
            dbias = zeros(width);
            fvlm_batch_norm_backward(harness_pool(3), c.x, m, width, c.mean, c.variance, c.weight, 1e-5f, c.batch, dx,
                                     dx, dweight, dbias);
            check_slope(batch ? "batch norm x" : "running norm x", batch_norm_loss, &c, c.x, dx, count);
            check_slope("batch norm weight", batch_norm_loss, &c, c.weight, dweight, width);
            check_slope("batch norm bias", batch_norm_loss, &c, c.bias, dbias, width);
            batch_norm_loss(&c);
        }

        dweight = zeros(width);
        memcpy(dx, c.weights, count * sizeof *dx);
        fvlm_scale_gelu_backward(harness_pool(3), c.x, m, width, c.weight, dx, dx, dweight);
        check_slope("scaled gelu x", scale_gelu_loss, &c, c.x, dx, count);
        check_slope("scaled gelu scale", scale_gelu_loss, &c, c.weight, dweight, width);
    }
}

/* Convolutions. */

struct conv_case {
    fvlm_depthwise conv;
    fvlm_stem stem;
    uint8_t *bytes;
    float *stored, *packed, *x, *y, *weights;
    size_t pictures, outputs;
};

static double depthwise_loss(void *context)
{
    struct conv_case *c = context;
    fvlm_depthwise_pack(c->stored, c->conv.channels, c->conv.kernel, NULL, c->packed);
    fvlm_depthwise_forward(harness_pool(1), &c->conv, c->pictures, c->x, c->y);
    return weighted(c->y, c->weights, c->outputs);
}

static double stem_loss(void *context)
{
    struct conv_case *c = context;
    fvlm_stem_pack(c->stored, c->stem.channels, c->packed);
    fvlm_stem_forward(harness_pool(1), &c->stem, c->pictures, c->bytes, c->y);
    return weighted(c->y, c->weights, c->outputs);
}

static void check_depthwise(void)
{
    size_t kernel = harness_random() % 2 ? 3 : 7, stride = harness_between(1, 2), multiplier = harness_between(1, 2);
    size_t inputs = harness_between(1, 40), channels = inputs * multiplier;
    size_t height = harness_between(1, 12), width = harness_between(1, harness_random() % 2 ? 12 : 40);
    size_t pictures = harness_between(1, 3), floats = pictures * height * width * inputs;
    struct conv_case c = {.stored = harness_floats(channels * kernel * kernel, 1),
                          .packed = harness_output(channels * kernel * kernel),
                          .x = harness_floats(floats, 1),
                          .pictures = pictures};
    c.conv = (fvlm_depthwise){.height = height,
                              .width = width,
                              .channels = channels,
                              .multiplier = multiplier,
                              .kernel = kernel,
                              .stride = stride,
                              .weight = c.packed};
    c.outputs = pictures * ((height + stride - 1) / stride) * ((width + stride - 1) / stride) * channels;
    c.y = harness_output(c.outputs);
    c.weights = harness_floats(c.outputs, 1);
    depthwise_loss(&c); /* packs the weights */
    HARNESS_LEVELS(level)
    {
        float *dx = harness_output(floats), *dw = zeros(channels * kernel * kernel);
        fvlm_depthwise_backward_x(harness_pool(3), &c.conv, pictures, c.weights, dx);
        fvlm_depthwise_backward_w(harness_pool(3), &c.conv, pictures, c.x, c.weights, dw);
        check_slope("depthwise x", depthwise_loss, &c, c.x, dx, floats);
        check_slope("depthwise w", depthwise_loss, &c, c.stored, dw, channels * kernel * kernel);
        depthwise_loss(&c);
    }
}

static void check_stem(void)
{
    size_t height = harness_between(1, 15), width = harness_between(1, 25), channels = harness_between(1, 40);
    size_t pictures = harness_between(1, 3);
    struct conv_case c = {.bytes = harness_bytes(pictures * height * width * 3),
                          .stored = harness_floats(channels * 27, 1),
                          .packed = harness_output(channels * 27),
                          .pictures = pictures};
    c.stem = (fvlm_stem){.height = height,
                         .width = width,
                         .channels = channels,
                         .weight = c.packed,
                         .bias = harness_floats(channels, 1)};
    c.outputs = pictures * ((height + 1) / 2) * ((width + 1) / 2) * channels;
    c.y = harness_output(c.outputs);
    c.weights = harness_floats(c.outputs, 1);
    HARNESS_LEVELS(level)
    {
        float *dw = zeros(channels * 27);
        fvlm_stem_backward_w(harness_pool(3), &c.stem, pictures, c.bytes, c.weights, dw);
        check_slope("stem w", stem_loss, &c, c.stored, dw, channels * 27);
    }
}

/* Attention, and rotary positions in front of it. */

struct attention_case {
    fvlm_attention attention;
    float *q, *k, *v, *turned, *workspace, *weights, *table;
    int32_t *positions;
};

static double attention_loss(void *context)
{
    struct attention_case *c = context;
    fvlm_attention *a = &c->attention;
    memcpy(c->turned, c->q, a->queries * a->q_stride * sizeof *c->q);
    fvlm_rope(c->turned, a->queries, a->q_stride, a->heads, a->head_dim, c->positions, c->table);
    fvlm_attention_forward(harness_pool(1), a, c->workspace);
    return weighted(a->out, c->weights, a->queries * a->out_stride);
}

static void check_attention(void)
{
    size_t kv_heads = harness_between(1, 3), heads = kv_heads * harness_between(1, 3), dim = 2 * harness_between(1, 20);
    size_t queries = harness_between(1, 150), keys = queries + harness_between(0, 20);
    size_t q_width = heads * dim, kv_width = kv_heads * dim;
    struct attention_case c = {.q = harness_floats(queries * q_width, 1),
                               .k = harness_floats(keys * kv_width, 1),
                               .v = harness_floats(keys * kv_width, 1),
                               .turned = harness_output(queries * q_width),
                               .weights = harness_floats(queries * q_width, 1),
                               .table = harness_output(200 * dim),
                               .positions = harness_bytes(queries * sizeof(int32_t))};
    for (size_t i = 0; i < queries; i++)
        c.positions[i] = (int32_t)harness_between(0, 199);
    fvlm_rope_table(200, dim, 1e4, c.table);
    c.attention = (fvlm_attention){.queries = queries,
                                   .keys = keys,
                                   .heads = heads,
                                   .kv_heads = kv_heads,
                                   .head_dim = dim,
                                   .scale = 1.0f / sqrtf((float)dim),
                                   .causal = harness_random() % 2,
                                   .q = c.turned,
                                   .k = c.k,
                                   .v = c.v,
                                   .q_stride = q_width,
                                   .k_stride = kv_width,
                                   .v_stride = kv_width,
                                   .out = harness_output(queries * q_width),
                                   .out_stride = q_width};
    HARNESS_LEVELS(level)
    {
        float *again = harness_output(queries * q_width);
        fvlm_attention_gradients g = {.dout = c.weights,
                                      .dq = harness_output(queries * q_width),
                                      .dk = harness_output(keys * kv_width),
                                      .dv = harness_output(keys * kv_width),
                                      .dout_stride = q_width,
                                      .dq_stride = q_width,
                                      .dk_stride = kv_width,
                                      .dv_stride = kv_width};
        c.workspace = harness_output(fvlm_attention_workspace(queries, keys, dim, 1)); /* panels differ by level */
        attention_loss(&c);
        float *workspace = harness_output(fvlm_attention_backward_workspace(keys, heads, dim, 3));
        fvlm_attention_backward(harness_pool(1), &c.attention, &g, workspace);
        memcpy(again, g.dq, queries * q_width * sizeof *again);
        fvlm_attention_backward(harness_pool(3), &c.attention, &g, workspace);
        equal("attention on three threads", again, g.dq, queries * q_width);
        fvlm_rope_backward(g.dq, queries, q_width, heads, dim, c.positions, c.table);
        check_slope("attention q", attention_loss, &c, c.q, g.dq, queries * q_width);
        check_slope("attention k", attention_loss, &c, c.k, g.dk, keys * kv_width);
        check_slope("attention v", attention_loss, &c, c.v, g.dv, keys * kv_width);
    }
}

/* The loss itself. */

struct loss_case {
    size_t rows, vocabulary;
    float *logits, *scratch, *losses;
    int32_t *labels;
};

static double cross_entropy_loss(void *context)
{
    struct loss_case *c = context;
    double sum = 0;
    memcpy(c->scratch, c->logits, c->rows * c->vocabulary * sizeof *c->logits);
    fvlm_cross_entropy(harness_pool(1), c->scratch, c->rows, c->vocabulary, c->labels, c->losses);
    for (size_t i = 0; i < c->rows; i++)
        sum += c->losses[i];
    return 0.25 * sum;
}

static void check_cross_entropy(void)
{
    size_t rows = harness_between(1, 20), vocabulary = harness_between(2, 700), count = rows * vocabulary;
    struct loss_case c = {rows,
                          vocabulary,
                          harness_floats(count, 3),
                          harness_output(count),
                          harness_output(rows),
                          harness_bytes(rows * sizeof(int32_t))};
    for (size_t i = 0; i < rows; i++)
        c.labels[i] = (int32_t)harness_between(0, vocabulary - 1);
    HARNESS_LEVELS(level)
    {
        float *gradient = harness_output(count), *losses = harness_output(rows);
        double expected = 0;
        for (size_t i = 0; i < rows; i++) {
            double sum = 0;
            for (size_t j = 0; j < vocabulary; j++)
                sum += exp(c.logits[i * vocabulary + j]);
            expected += log(sum) - c.logits[i * vocabulary + (size_t)c.labels[i]];
        }
        memcpy(gradient, c.logits, count * sizeof *gradient);
        fvlm_cross_entropy_backward(harness_pool(3), gradient, rows, vocabulary, c.labels, 0.25f, losses);
        if (!(fabs(cross_entropy_loss(&c) - 0.25 * expected) <= 1e-5 * expected))
            harness_fail("loss %g, expected %g", cross_entropy_loss(&c), 0.25 * expected);
        equal("losses of both forms", losses, c.losses, rows);
        check_slope("cross-entropy", cross_entropy_loss, &c, c.logits, gradient, count);
    }
}

/* A feed-forward layer of the 0.5B model for a picture and its text. */
struct rounded_bench {
    fvlm_matrix w;
    float *dy, *x, *dx, *dw;
    size_t m;
};

static void run_dx(void *argument)
{
    struct rounded_bench *b = argument;
    fvlm_linear_backward_x(harness_pool(1), &b->w, b->dy, b->m, b->w.rows, b->dx, b->w.cols, false);
}

static void run_dw(void *argument)
{
    struct rounded_bench *b = argument;
    fvlm_linear_backward_w(harness_pool(1), FVLM_BF16, b->dy, b->m, b->w.rows, b->w.rows, b->x, b->w.cols, b->w.cols,
                           b->dw);
}

static void run_forward(void *argument)
{
    struct rounded_bench *b = argument;
    fvlm_linear(harness_pool(1), &b->w, b->x, b->m, b->w.cols, b->dy, b->w.rows, NULL);
}

static void bench_rounded(void)
{
    static const struct {
        fvlm_dtype type;
        size_t rows, cols;
    } cases[] = {{FVLM_BF16, 4864, 896}, {FVLM_F32, 4864, 128}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rounded_bench b = {.w = random_matrix(cases[i].type, cases[i].rows, cases[i].cols), .m = 333};
        size_t rows = cases[i].rows, cols = cases[i].cols;
        b.w.inputs = FVLM_BF16;
        b.dy = harness_floats(b.m * rows, 1);
        b.x = harness_floats(b.m * cols, 1);
        b.dx = harness_output(b.m * cols);
        b.dw = zeros(rows * cols);
        HARNESS_LEVELS(level)
        {
            char what[3][100];
            double flops = 2.0 * (double)(b.m * rows * cols);
            const char *const names[] = {"y", "dx", "dw"};
            for (int k = 0; k < 3; k++)
                snprintf(what[k], sizeof what[k], "%s %s %zu x %zu", names[k], fvlm_dtype_name(b.w.type), rows, cols);
            harness_bench(what[0], flops, 0, run_forward, &b);
            harness_bench(what[1], flops, 0, run_dx, &b);
            harness_bench(what[2], flops, 0, run_dw, &b);
        }
    }
}

static const harness_test tests[] = {
    {"linear", 25, check_linear, NULL},
    {"rounded", 40, check_rounded, bench_rounded},
    {"column sums", 10, check_column_sums, NULL},
    {"activations", 5, check_activations, NULL},
    {"norms", 10, check_norms, NULL},
    {"depthwise", 30, check_depthwise, NULL},
    {"stem", 10, check_stem, NULL},
    {"attention", 20, check_attention, NULL},
    {"cross-entropy", 10, check_cross_entropy, NULL},
};

int main(int argc, char **argv)
{
    return harness_main(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
