/* Linear layers of every weight type: each instruction set against a product in double precision, over random shapes,
 * strides and epilogues, on one and several threads, whose results must be equal to the bit. */
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/cpu.h"
#include "kernels/activation_scalar.h"
#include "kernels/gemm.h"
#include "kernels/gemm_block.h"
#include "matrices.h"

static const fvlm_dtype types[] = {FVLM_F32,  FVLM_F16,  FVLM_BF16, FVLM_MLX4,
                                   FVLM_MLX8, FVLM_Q8_0, FVLM_Q4_0, FVLM_Q4_K};

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

/* What the header says, in double precision. y [m, rows of W], without gaps. */
static void expected_linear(const fvlm_matrix *w, const float *x, size_t m, size_t x_stride,
                            const fvlm_epilogue *epilogue, float *y)
{
    float *row = harness_output(w->cols);
    for (size_t n = 0; n < w->rows; n++) {
        fvlm_matrix_row(w, n, row);
        for (size_t i = 0; i < m; i++) {
            double sum = 0;
            for (size_t k = 0; k < w->cols; k++)
                sum += (double)x[i * x_stride + k] * row[k];
            if (epilogue->bias)
                sum += epilogue->bias[n];
            sum = activate(epilogue->activation, sum);
            if (epilogue->scale)
                sum *= epilogue->scale[n];
            if (epilogue->residual)
                sum += epilogue->residual[i * epilogue->residual_stride + n];
            y[i * w->rows + n] = (float)sum;
        }
    }
}

static void copy_rows(const float *from, size_t from_stride, size_t rows, size_t width, float *to, size_t to_stride)
{
    for (size_t i = 0; i < rows; i++)
        memcpy(to + i * to_stride, from + i * from_stride, width * sizeof *to);
}

/* m rows by a random matrix n x k with a random epilogue, at every level. */
static void check_case(fvlm_dtype type, size_t m, size_t n, size_t k)
{
    size_t x_stride = k + harness_between(0, 5), y_stride = n + harness_between(0, 5);
    fvlm_matrix w = random_matrix(type, n, k);
    /* Outputs about 1 in size, where activations bend. */
    float *x = harness_floats((m - 1) * x_stride + k, 1 / sqrtf((float)k));
    float *start = harness_floats((m - 1) * y_stride + n, 1);
    float *y = harness_output((m - 1) * y_stride + n), *again = harness_output((m - 1) * y_stride + n);
    float *expected = harness_output(m * n);
    uint32_t choice = harness_random();
    bool in_place = choice >> 8 & 1;
    fvlm_epilogue epilogue = {.bias = choice & 1 ? harness_floats(n, 1) : NULL,
                              .activation = (fvlm_activation)(choice >> 4 & 7) % (FVLM_ACTIVATION_SIGMOID + 1),
                              .scale = choice & 2 ? harness_floats(n, 1) : NULL,
                              .residual = choice & 4 ? start : NULL,
                              .residual_stride = y_stride};
    expected_linear(&w, x, m, x_stride, &epilogue, expected);
    const fvlm_epilogue *given = choice & 0xff ? &epilogue : NULL;
    /* A sum of k products of size 1 / sqrt k is off by some units in the last place of its largest partial sum. */
    harness_tolerance tolerance = {2e-6 + 3e-7 * sqrt((double)k), 1e-5};
    HARNESS_LEVELS(level)
    {
        for (int threads = 1; threads <= 3; threads += 2) {
            float *out = threads == 1 ? y : again;
            copy_rows(start, y_stride, m, n, out, y_stride);
            if (in_place && epilogue.residual)
                epilogue.residual = out;
            fvlm_linear(harness_pool(threads), &w, x, m, x_stride, out, y_stride, given);
        }
        epilogue.residual = epilogue.residual ? start : NULL;
        char what[128];
        snprintf(what, sizeof what, "%s %zu x %zu x %zu", fvlm_dtype_name(type), m, n, k);
        harness_near_rows(what, expected, n, y, y_stride, m, n, tolerance);
        harness_near_rows("3 threads", y, y_stride, again, y_stride, m, n, (harness_tolerance){0, 0});
    }
}

static fvlm_dtype random_type(void)
{
    return types[harness_random() % (sizeof types / sizeof types[0])];
}

static void check_gemm(void)
{
    fvlm_dtype type = random_type();
    check_case(type, harness_between(9, 70), harness_between(1, 150), random_cols(type, 300));
}

/* Several blocks of k, and of columns. */
static void check_deep(void)
{
    fvlm_dtype type = random_type();
    check_case(type, harness_between(9, 40), harness_between(1, 300), random_cols(type, 3000));
}

/* Several tasks of rows. */
static void check_tall(void)
{
    fvlm_dtype type = random_type();
    check_case(type, harness_between(2000, 4500), harness_between(1, 40), random_cols(type, 130));
}

static void check_gemv(void)
{
    fvlm_dtype type = random_type();
    check_case(type, harness_between(1, 8), harness_between(1, 300), random_cols(type, 1200));
}

/* A NaN or infinity in x or W reaches exactly the outputs that it should, in padding and tails too. */
static void check_special(void)
{
    size_t m = harness_between(1, 30), n = harness_between(1, 70), k = harness_between(1, 90);
    float *x = harness_floats(m * k, 1), *weights = harness_floats(n * k, 1), *y = harness_output(m * n);
    float *expected = harness_output(m * n);
    const float special[] = {NAN, INFINITY, -INFINITY};
    x[harness_random() % (m * k)] = special[harness_random() % 3];
    weights[harness_random() % (n * k)] = special[harness_random() % 3];
    fvlm_matrix w = {.type = FVLM_F32, .rows = n, .cols = k, .data = weights};
    expected_linear(&w, x, m, k, &(fvlm_epilogue){0}, expected);
    HARNESS_LEVELS(level)
    {
        fvlm_linear(harness_pool(1), &w, x, m, k, y, n, NULL);
        harness_near("special values", expected, y, m * n, (harness_tolerance){1e-5, 1e-5});
    }
}

/* The vector activations against double precision over their whole range, by a layer of one weight that is 1. */
static void check_activations(void)
{
    enum { COUNT = 4096 };
    float one = 1, *x = harness_output(COUNT), *y = harness_output(COUNT), *expected = harness_output(COUNT);
    fvlm_matrix w = {.type = FVLM_F32, .rows = 1, .cols = 1, .data = &one};
    float range = (float)(1 << harness_between(0, 8));
    for (size_t i = 0; i < COUNT; i++)
        x[i] = ((float)i / (COUNT / 2) - 1) * range;
    for (int activation = FVLM_ACTIVATION_NONE; activation <= FVLM_ACTIVATION_SIGMOID; activation++) {
        fvlm_epilogue epilogue = {.activation = (fvlm_activation)activation};
        for (size_t i = 0; i < COUNT; i++)
            expected[i] = (float)activate(epilogue.activation, x[i]);
        HARNESS_LEVELS(level)
        {
            fvlm_linear(harness_pool(1), &w, x, COUNT, 1, y, 1, &epilogue);
            /* GELU's 1 + erf has an error of 1e-7, which x of about -5 multiplies; more without fused multiply-adds. */
            harness_near("activation", expected, y, COUNT, (harness_tolerance){8e-7, 4e-7});
        }
    }
}

/* The products that attention uses: B by rows and by columns, strided, added to what is there or not. */
static void check_block(void)
{
    size_t m = harness_between(1, 40), n = harness_between(1, 80), k = harness_between(1, 100);
    size_t a_stride = k + harness_between(0, 9), row_stride = k + harness_between(0, 9);
    size_t column_stride = n + harness_between(0, 9), c_stride = n + harness_between(0, 9);
    float *a = harness_floats((m - 1) * a_stride + k, 1), *start = harness_floats((m - 1) * c_stride + n, 1);
    float *by_rows = harness_floats((n - 1) * row_stride + k, 1);
    float *by_columns = harness_floats((k - 1) * column_stride + n, 1);
    float *c = harness_output((m - 1) * c_stride + n), *expected = harness_output(m * n);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < k; j++)
            by_columns[j * column_stride + i] = by_rows[i * row_stride + j];
    bool add = harness_random() & 1;
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = add ? start[i * c_stride + j] : 0;
            for (size_t l = 0; l < k; l++)
                sum += (double)a[i * a_stride + l] * by_rows[j * row_stride + l];
            expected[i * n + j] = (float)sum;
        }
    HARNESS_LEVELS(level)
    {
        const fvlm_gemm_kernels *kernels = fvlm_gemm_kernels_select();
        float *panels = harness_output(fvlm_gemm_panels_size(kernels, k, n));
        for (int columns = 0; columns < 2; columns++) {
            if (columns)
                fvlm_gemm_panels_from_columns(kernels, by_columns, column_stride, k, n, panels);
            else
                fvlm_gemm_panels_from_rows(kernels, by_rows, row_stride, n, k, panels);
            copy_rows(start, c_stride, m, n, c, c_stride);
            kernels->block(&(fvlm_gemm_block){.m = m,
                                              .n = n,
                                              .k = k,
                                              .panels = panels,
                                              .x = a,
                                              .x_stride = a_stride,
                                              .sum = add ? c : NULL,
                                              .sum_stride = c_stride,
                                              .y = c,
                                              .y_stride = c_stride});
            harness_near_rows(columns ? "A B" : "A B^T", expected, n, c, c_stride, m, n,
                              (harness_tolerance){2e-5, 1e-5});
        }
    }
}

/* Blocks written element by element, as GGUF's text says, against the values that they were made of. */
static void check_grouped_values(void)
{
    enum { COUNT = 512 };
    float y[COUNT], expected[COUNT];
    const float d = 0.125f, dmin = 0.5f;
    const uint16_t half = fvlm_f16_from_float(d), half_min = fvlm_f16_from_float(dmin);
    for (size_t t = 0; t < 3; t++) {
        fvlm_dtype type = (fvlm_dtype)(FVLM_Q8_0 + t);
        size_t bytes, block = fvlm_dtype_block(type, &bytes);
        uint8_t *data = harness_bytes(COUNT / block * bytes), scale[COUNT / 32], least[COUNT / 32];
        memset(data, 0, COUNT / block * bytes);
        for (size_t i = 0; i < COUNT; i++) {
            uint8_t *at = data + i / block * bytes;
            size_t in = i % block, part = in / 32;
            unsigned q = harness_random() % (type == FVLM_Q8_0 ? 256 : 16);
            memcpy(at, &half, sizeof half);
            if (type == FVLM_Q8_0) {
                at[2 + in] = (uint8_t)q;
                expected[i] = d * ((float)q - (q > 127 ? 256 : 0));
            } else if (type == FVLM_Q4_0) {
                at[2 + in % 16] |= (uint8_t)(in < 16 ? q : q * 16);
                expected[i] = d * ((float)q - 8);
            } else {
                memcpy(at + 2, &half_min, sizeof half_min);
                if (in % 32 == 0) {
                    unsigned s = scale[i / 32] = harness_random() % 64, m = least[i / 32] = harness_random() % 64;
                    if (part < 4) {
                        at[4 + part] |= (uint8_t)s;
                        at[8 + part] |= (uint8_t)m;
                    } else {
                        at[8 + part] |= (uint8_t)(s % 16 + m % 16 * 16);
                        at[part] |= (uint8_t)(s / 16 * 64);
                        at[4 + part] |= (uint8_t)(m / 16 * 64);
                    }
                }
                at[16 + in / 64 * 32 + in % 32] |= (uint8_t)(part % 2 ? q * 16 : q);
                expected[i] = d * scale[i / 32] * (float)q - dmin * least[i / 32];
            }
        }
        fvlm_matrix w = {.type = type, .rows = 1, .cols = COUNT, .data = data};
        fvlm_matrix_values(&w, 0, 0, COUNT, y);
        harness_near(fvlm_dtype_name(type), expected, y, COUNT, (harness_tolerance){1e-6, 1e-6});
    }
}

struct bench {
    fvlm_pool *pool;
    fvlm_matrix w;
    float *x, *y;
    size_t m;
    fvlm_epilogue epilogue;
};

static void run_bench(void *argument)
{
    struct bench *bench = argument;
    fvlm_linear(bench->pool, &bench->w, bench->x, bench->m, bench->w.cols, bench->y, bench->w.rows, &bench->epilogue);
}

static void bench_shape(fvlm_dtype type, size_t m, size_t n, size_t k, fvlm_activation activation)
{
    struct bench bench = {.w = random_matrix(type, n, k), .m = m};
    bench.x = harness_floats(m * k, 1);
    bench.y = harness_output(m * n);
    bench.epilogue = (fvlm_epilogue){.bias = harness_floats(n, 1), .activation = activation};
    for (int threads = 1; threads <= fvlm_cpu_count(); threads++) {
        bench.pool = harness_pool(threads);
        char what[128];
        snprintf(what, sizeof what, "%s %zu x %zu x %zu%s, %d threads", fvlm_dtype_name(type), m, n, k,
                 activation == FVLM_ACTIVATION_GELU ? " gelu" : "", threads);
        HARNESS_LEVELS(level)
        {
            if (!harness_is_reference() || m * n * k < 100000000)
                harness_bench(what, 2.0 * (double)(m * n * k), m <= 8 ? (double)fvlm_matrix_bytes(&bench.w) : 0,
                              run_bench, &bench);
        }
    }
}

static void bench_vision(void)
{
    static const size_t stages[][2] = {{65536, 96}, {16384, 192}, {4096, 384}, {1024, 768}, {256, 1536}};
    for (size_t i = 0; i < sizeof stages / sizeof stages[0]; i++) {
        size_t m = stages[i][0], width = stages[i][1];
        bench_shape(FVLM_F32, m, 4 * width, width, FVLM_ACTIVATION_NONE);
        bench_shape(FVLM_F32, m, 4 * width, width, FVLM_ACTIVATION_GELU);
        bench_shape(FVLM_F32, m, width, 4 * width, FVLM_ACTIVATION_NONE);
    }
}

/* The 0.5B language model over a prompt with one picture. */
static void bench_prefill(void)
{
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        bench_shape(types[i], 286, 4864, 896, FVLM_ACTIVATION_NONE);
        bench_shape(types[i], 286, 896, 4864, FVLM_ACTIVATION_NONE);
        bench_shape(types[i], 286, 128, 896, FVLM_ACTIVATION_NONE);
    }
}

static void bench_gemv(void)
{
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        bench_shape(types[i], 1, 151936, 896, FVLM_ACTIVATION_NONE);
        bench_shape(types[i], 1, 4864, 896, FVLM_ACTIVATION_NONE);
        bench_shape(types[i], 4, 151936, 896, FVLM_ACTIVATION_NONE);
    }
}

static const harness_test tests[] = {
    {"vision", 60, check_gemm, bench_vision}, {"prefill", 20, check_deep, bench_prefill},
    {"gemv", 60, check_gemv, bench_gemv},     {"tall", 10, check_tall, NULL},
    {"special", 40, check_special, NULL},     {"activations", 9, check_activations, NULL},
    {"block", 60, check_block, NULL},         {"grouped values", 5, check_grouped_values, NULL},
};

int main(int argc, char **argv)
{
    return harness_main(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
