/* Linear layers with rounded inputs: each weight type and instruction set against a product in double precision. Where
 * x is made of integers times a scale its rounding is exact, and so is W's in products with few rows; elsewhere results
 * have to be within the noise that rounding must make. */
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/cpu.h"
#include "kernels/gemm.h"
#include "kernels/int8.h"
#include "kernels/rounded.h"
#include "matrices.h"

static const fvlm_dtype types[] = {FVLM_MLX4, FVLM_MLX8, FVLM_Q8_0, FVLM_Q4_0,
                                   FVLM_Q4_K, FVLM_F32,  FVLM_F16,  FVLM_BF16};
enum { GROUPED = 5, TYPES = sizeof types / sizeof types[0], GROUP = FVLM_INT8_COLS };

/* x [m, k] of integers up to 127 times a power of 2 for each group, in which one is 127. */
static float *integers(size_t m, size_t k, size_t stride)
{
    float *x = harness_output((m - 1) * stride + k);
    for (size_t row = 0; row < m; row++)
        for (size_t start = 0; start < k; start += GROUP) {
            size_t count = k - start < GROUP ? k - start : GROUP, full = harness_random() % count;
            float scale = ldexpf(1, (int)harness_between(0, 6) - 10) / sqrtf((float)k);
            scale = ldexpf(1, ilogbf(scale));
            for (size_t i = 0; i < count; i++)
                x[row * stride + start + i] = scale * (i == full ? 127 : (float)((int)harness_between(0, 254) - 127));
        }
    return x;
}

/* Layers of `count` matrices over the same x, at every level and on 1 and 3 threads. */
static void check_parts(const fvlm_matrix *w, size_t count, const float *x, size_t m, size_t x_stride,
                        harness_tolerance tolerance)
{
    enum { MOST = 3 };
    fvlm_linear_part parts[MOST];
    fvlm_epilogue epilogues[MOST];
    float *expected[MOST], *start[MOST], *y[MOST], *again[MOST];
    for (size_t p = 0; p < count; p++) {
        size_t n = w[p].rows, stride = n + harness_between(0, 5), floats = (m - 1) * stride + n;
        uint32_t choice = harness_random();
        start[p] = harness_floats(floats, 1);
        y[p] = harness_output(floats);
        again[p] = harness_output(floats);
        expected[p] = harness_output(m * n);
        epilogues[p] = (fvlm_epilogue){.bias = choice & 1 ? harness_floats(n, 1) : NULL,
                                       .activation = choice & 8 ? FVLM_ACTIVATION_SILU : FVLM_ACTIVATION_NONE,
                                       .scale = choice & 2 ? harness_floats(n, 0.5f) : NULL,
                                       .residual = choice & 4 ? y[p] : NULL,
                                       .residual_stride = stride};
        parts[p] = (fvlm_linear_part){&w[p], y[p], stride, choice & 0xf0 ? &epilogues[p] : NULL};
        if (!parts[p].epilogue)
            epilogues[p] = (fvlm_epilogue){0};
        float *row = harness_output(w[p].cols);
        for (size_t j = 0; j < n; j++) {
            fvlm_matrix_row(&w[p], j, row);
            for (size_t i = 0; i < m; i++) {
                double sum = epilogues[p].bias ? epilogues[p].bias[j] : 0;
                for (size_t k = 0; k < w[p].cols; k++)
                    sum += (double)x[i * x_stride + k] * row[k];
                if (epilogues[p].activation == FVLM_ACTIVATION_SILU)
                    sum /= 1 + exp(-sum);
                sum *= epilogues[p].scale ? epilogues[p].scale[j] : 1;
                expected[p][i * n + j] = (float)(sum + (epilogues[p].residual ? start[p][i * stride + j] : 0));
            }
        }
    }
    HARNESS_LEVELS(level)
    {
        for (int threads = 1; threads <= 3; threads += 2) {
            for (size_t p = 0; p < count; p++) {
                parts[p].y = threads == 1 ? y[p] : again[p];
                epilogues[p].residual = epilogues[p].residual ? parts[p].y : NULL;
                for (size_t i = 0; i < m; i++)
                    memcpy(parts[p].y + i * parts[p].y_stride, start[p] + i * parts[p].y_stride,
                           w[p].rows * sizeof(float));
            }
            fvlm_linear_parts(harness_pool(threads), parts, count, x, m, x_stride);
        }
        for (size_t p = 0; p < count; p++) {
            char what[128];
            size_t n = w[p].rows, stride = parts[p].y_stride;
            snprintf(what, sizeof what, "%s %zu x %zu x %zu", fvlm_dtype_name(w[p].type), m, n, w[p].cols);
            harness_near_rows(what, expected[p], n, y[p], stride, m, n, tolerance);
            harness_near_rows("3 threads", y[p], stride, again[p], stride, m, n, (harness_tolerance){0, 0});
        }
    }
}

static fvlm_matrix grouped_matrix(fvlm_dtype type, size_t rows, size_t cols)
{
    fvlm_matrix w = random_matrix(type, rows, cols);
    w.inputs = FVLM_I8;
    return w;
}

/* MLX's own arithmetic rounds values to the type of the scales, which these kernels do not: 1 / 2048 of a value for
 * fp16, 1 / 256 for bf16, as noise in k products of size 1 / sqrt k. */
static double type_noise(const fvlm_matrix *w)
{
    bool mlx = w->type == FVLM_MLX4 || w->type == FVLM_MLX8;
    return !mlx || w->scale_type == FVLM_F32 ? 0 : w->scale_type == FVLM_F16 ? 1e-2 : 8e-2;
}

/* Few rows, up to three layers of the same or of different types. */
static void check_few(void)
{
    fvlm_dtype type = types[harness_random() % GROUPED];
    size_t m = harness_between(1, FVLM_GEMV_ROWS), k = random_cols(type, harness_random() % 4 ? 700 : 5000);
    size_t count = harness_between(1, 3), stride = k + harness_between(0, 5);
    fvlm_matrix w[3];
    double noise = 0;
    for (size_t p = 0; p < count; p++) {
        fvlm_dtype own = p < 2 || k % 256 ? type : types[harness_random() % GROUPED];
        w[p] = grouped_matrix(own, harness_between(1, 150), k);
        noise = fmax(noise, type_noise(&w[p]));
    }
    check_parts(w, count, integers(m, k, stride), m, stride,
                (harness_tolerance){1e-5 + 1e-6 * sqrt((double)k) + noise, 2e-5});
}

/* Columns that are no multiple of what the widest vectors take. */
static void check_few_tails(void)
{
    fvlm_dtype type = types[harness_random() % (GROUPED - 1)];
    bool mlx = type == FVLM_MLX4 || type == FVLM_MLX8;
    size_t k = 32 * harness_between(1, 90);
    fvlm_matrix w = {.type = type, .rows = harness_between(1, 40), .cols = k};
    if (mlx)
        k = 128 * (k / 128 + 1);
    w = grouped_matrix(type, w.rows, k);
    if (mlx) { /* a shorter matrix of the same data */
        w.cols = k - w.group;
        if (w.cols == 0)
            w.cols = w.group;
    }
    check_parts(&w, 1, integers(1, w.cols, w.cols), 1, w.cols,
                (harness_tolerance){1e-5 + 1e-6 * sqrt((double)w.cols) + type_noise(&w), 2e-5});
}

/* Many rows: W becomes integers too, of 7 bits on AVX2; 6 deviations of their noise. A group's largest element is up
 * to 6 times the usual one. */
static void check_many(void)
{
    fvlm_dtype type = types[harness_random() % TYPES];
    size_t m = harness_between(9, 70), k = random_cols(type, harness_random() % 4 ? 500 : 3000);
    size_t count = harness_between(1, 3), stride = k + harness_between(0, 5);
    fvlm_matrix w[3];
    for (size_t p = 0; p < count; p++)
        w[p] = grouped_matrix(type, harness_between(1, 150), k);
    float *x = harness_floats((m - 1) * stride + k, 1 / sqrtf((float)k));
    double step = 6.0 / 63 / sqrt(12) + 4.0 / 127 / sqrt(12);
    check_parts(w, count, x, m, stride, (harness_tolerance){6 * step, 1e-4});
}

/* Weights -1, 0 and 1 times a number, and integer inputs: nothing rounds but float32 sums. */
static void check_many_exact(void)
{
    size_t m = harness_between(9, 60), n = harness_between(1, 100), k = harness_between(1, 1500);
    float *weights = harness_output(n * k);
    for (size_t i = 0; i < n * k; i++)
        weights[i] = 0.75f * (float)((int)harness_between(0, 2) - 1);
    fvlm_matrix w = {.type = FVLM_F32, .rows = n, .cols = k, .data = weights, .inputs = FVLM_I8};
    check_parts(&w, 1, integers(m, k, k), m, k, (harness_tolerance){1e-5 + 1e-6 * sqrt((double)k), 2e-5});
}

/* Inputs that bf16 holds, by weights that it holds or rounds. */
static void check_bf16(void)
{
    fvlm_dtype type = harness_random() & 1 ? FVLM_BF16 : types[harness_random() % TYPES];
    size_t m = harness_between(1, 70), k = random_cols(type, harness_random() % 4 ? 600 : 3000);
    size_t count = harness_between(1, 3), stride = k + harness_between(0, 5);
    if (type == FVLM_BF16 && harness_random() & 1)
        k = stride = 256 * harness_between(1, 4); /* panels straight from W */
    fvlm_matrix w[3];
    for (size_t p = 0; p < count; p++) {
        w[p] = random_matrix(type, harness_between(1, 150), k);
        w[p].inputs = FVLM_BF16;
    }
    float *x = harness_floats((m - 1) * stride + k, 1 / sqrtf((float)k));
    for (size_t i = 0; i < (m - 1) * stride + k; i++)
        x[i] = fvlm_float_from_bf16(fvlm_bf16_from_float(x[i]));
    double noise = type == FVLM_BF16 ? 0 : 6 * 6.0 / 256 / sqrt(12); /* elements may be 6 in size */
    check_parts(w, count, x, m, stride, (harness_tolerance){1e-5 + 1e-6 * sqrt((double)k) + noise, 2e-5});
}

/* So many columns that x takes several fillings of the scratch. */
static void check_wide(void)
{
    size_t m = harness_between(200, 300), k = 18944;
    fvlm_matrix w = grouped_matrix(FVLM_Q4_0, harness_between(1, 4), k);
    check_parts(&w, 1, harness_floats(m * k, 1 / sqrtf((float)k)), m, k,
                (harness_tolerance){6 * (4.0 / 63 + 4.0 / 127) / sqrt(12), 1e-4});
}

/* Rows of zeros give zeros. */
static void check_zero(void)
{
    fvlm_dtype type = types[harness_random() % GROUPED];
    size_t m = harness_between(1, 20), k = random_cols(type, 500), n = 40;
    fvlm_matrix w = grouped_matrix(type, n, k);
    float *x = harness_output(m * k), *y = harness_output(m * n), *expected = harness_output(m * n);
    memset(x, 0, m * k * sizeof *x);
    memset(expected, 0, m * n * sizeof *expected);
    HARNESS_LEVELS(level)
    {
        fvlm_linear(harness_pool(1), &w, x, m, k, y, n, NULL);
        harness_near("zeros", expected, y, m * n, (harness_tolerance){0, 0});
    }
}

struct bench {
    fvlm_pool *pool;
    fvlm_matrix w;
    float *x, *y;
    size_t m;
};

static void run_bench(void *argument)
{
    struct bench *bench = argument;
    fvlm_linear(bench->pool, &bench->w, bench->x, bench->m, bench->w.cols, bench->y, bench->w.rows, NULL);
}

static fvlm_dtype inputs = FVLM_I8;

static void bench_shape(fvlm_dtype type, size_t m, size_t n, size_t k)
{
    struct bench bench = {.w = random_matrix(type, n, k), .m = m};
    bench.w.inputs = inputs;
    bench.x = harness_floats(m * k, 1);
    bench.y = harness_output(m * n);
    for (int threads = 1; threads <= fvlm_cpu_count(); threads++) {
        bench.pool = harness_pool(threads);
        char what[128];
        snprintf(what, sizeof what, "%s %zu x %zu x %zu, %d threads", fvlm_dtype_name(type), m, n, k, threads);
        HARNESS_LEVELS(level)
        {
            if (!harness_is_reference())
                harness_bench(what, 2.0 * (double)(m * n * k), m <= 8 ? (double)fvlm_matrix_bytes(&bench.w) : 0,
                              run_bench, &bench);
        }
    }
}

/* The 0.5B language model over a prompt with one picture. */
static void bench_many(void)
{
    for (size_t i = 0; i < TYPES; i++) {
        bench_shape(types[i], 286, 4864, types[i] == FVLM_Q4_K ? 1024 : 896);
        bench_shape(types[i], 286, 896, 4864);
    }
}

static void bench_few(void)
{
    for (size_t i = 0; i < GROUPED; i++) {
        bench_shape(types[i], 1, 151936, types[i] == FVLM_Q4_K ? 1024 : 896);
        bench_shape(types[i], 1, 4864, types[i] == FVLM_Q4_K ? 1024 : 896);
        bench_shape(types[i], 1, 896, 4864);
    }
}

static void bench_bf16(void)
{
    inputs = FVLM_BF16;
    bench_shape(FVLM_BF16, 286, 4864, 896);
    bench_shape(FVLM_BF16, 286, 896, 4864);
    bench_shape(FVLM_MLX4, 286, 4864, 896);
    inputs = FVLM_I8;
}

static const harness_test tests[] = {
    {"few", 80, check_few, bench_few},    {"few tails", 60, check_few_tails, NULL},
    {"many", 60, check_many, bench_many}, {"many exact", 30, check_many_exact, NULL},
    {"wide", 2, check_wide, NULL},        {"bf16", 60, check_bf16, bench_bf16},
    {"zero", 20, check_zero, NULL},
};

int main(int argc, char **argv)
{
    return harness_main(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
