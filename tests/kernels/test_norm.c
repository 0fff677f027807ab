/* Norms and what else runs along a row: each instruction set against double precision, in place or not, on one and
 * several threads, whose results must be equal. */
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/cpu.h"
#include "kernels/norm.h"
#include "kernels/rows.h"

/* One row of numbers about `mean` and its statistics. */
struct statistics {
    double mean, variance, square; /* square: the mean of x^2 */
};

static struct statistics row_statistics(const float *x, size_t c)
{
    struct statistics s = {0};
    for (size_t i = 0; i < c; i++) {
        s.mean += (double)x[i] / (double)c;
        s.square += (double)x[i] * x[i] / (double)c;
    }
    for (size_t i = 0; i < c; i++)
        s.variance += (x[i] - s.mean) * (x[i] - s.mean) / (double)c;
    return s;
}

enum norm { LAYER_NORM, RMS_NORM, SCALE_GELU, NORMS };

static const char *const norm_names[] = {"layer norm", "rms norm", "scale gelu"};

struct rows {
    enum norm norm;
    size_t m, c;
    const float *weight, *bias;
    float eps;
};

static void forward(int threads, const struct rows *rows, const float *x, float *y)
{
    if (rows->norm == LAYER_NORM)
        fvlm_layer_norm(harness_pool(threads), x, rows->m, rows->c, rows->weight, rows->bias, rows->eps, y);
    else if (rows->norm == RMS_NORM)
        fvlm_rms_norm(harness_pool(threads), x, rows->m, rows->c, rows->weight, rows->eps, y);
    else
        fvlm_scale_gelu(harness_pool(threads), x, rows->m, rows->c, rows->weight, y);
}

static double expected_one(const struct rows *rows, const struct statistics *s, float x, size_t i)
{
    double value = (double)x * rows->weight[i];
    if (rows->norm == LAYER_NORM)
        return (x - s->mean) / sqrt(s->variance + rows->eps) * rows->weight[i] + rows->bias[i];
    if (rows->norm == RMS_NORM)
        return value / sqrt(s->square + rows->eps);
    return value / 2 * (1 + erf(value * sqrt(0.5)));
}

static void check_rows(enum norm norm, size_t m, size_t c)
{
    /* The smallest eps of the models is 1e-6; rows that are nearly constant make it count. */
    struct rows rows = {norm, m, c, harness_floats(c, 1), harness_floats(c, 1), harness_random() & 1 ? 1e-5f : 1e-6f};
    float *x = harness_floats(m * c, harness_random() & 1 ? 1 : 1e-3f);
    float *y = harness_output(m * c), *again = harness_output(m * c), *expected = harness_output(m * c);
    if (harness_random() % 4 == 0)
        x[harness_random() % (m * c)] = NAN; /* spoils its row (GELU: itself) and no other */
    for (size_t row = 0; row < m; row++) {
        struct statistics s = row_statistics(x + row * c, c);
        for (size_t i = 0; i < c; i++)
            expected[row * c + i] = (float)expected_one(&rows, &s, x[row * c + i], i);
    }
    char what[64];
    snprintf(what, sizeof what, "%s %zu x %zu", norm_names[norm], m, c);
    HARNESS_LEVELS(level)
    {
        for (size_t i = 0; i < m * c; i++)
            y[i] = INFINITY;
        forward(1, &rows, x, y);
        memcpy(again, x, m * c * sizeof *again);
        forward(3, &rows, again, again);
        harness_near(what, expected, y, m * c, (harness_tolerance){4e-6, 2e-5});
        harness_near("in place, 3 threads", y, again, m * c, (harness_tolerance){0, 0});
    }
}

static void check_norms(void)
{
    for (int norm = 0; norm < NORMS; norm++)
        check_rows((enum norm)norm, harness_between(1, 200), harness_between(1, 130));
}

/* Rows as wide as the models' are. */
static void check_wide(void)
{
    for (int norm = 0; norm < NORMS; norm++)
        check_rows((enum norm)norm, harness_between(1, 5), harness_between(800, 4000));
}

/* Rows that lie far from 0, where the variance must not be taken as a difference of squares. */
static void check_far(void)
{
    size_t c = harness_between(2, 1000);
    struct rows rows = {LAYER_NORM, 1, c, harness_floats(c, 1), harness_floats(c, 1), 1e-5f};
    float *x = harness_floats(c, 1), *y = harness_output(c), *expected = harness_output(c);
    for (size_t i = 0; i < c; i++)
        x[i] += 1000;
    struct statistics s = row_statistics(x, c);
    for (size_t i = 0; i < c; i++)
        expected[i] = (float)expected_one(&rows, &s, x[i], i);
    HARNESS_LEVELS(level)
    {
        forward(1, &rows, x, y);
        /* A mean of 1000 is known to half a unit in the last place, 3e-5, times what the sum adds to that. */
        harness_near("far from 0", expected, y, c, (harness_tolerance){2e-3, 1e-3});
    }
}

static void check_row_mean(void)
{
    size_t m = harness_between(1, 300), c = harness_between(1, 130);
    float *x = harness_floats(m * c, 1), *mean = harness_output(c), *expected = harness_output(c);
    for (size_t i = 0; i < c; i++) {
        double sum = 0;
        for (size_t row = 0; row < m; row++)
            sum += x[row * c + i];
        expected[i] = (float)(sum / (double)m);
    }
    HARNESS_LEVELS(level)
    {
        fvlm_row_mean(x, m, c, mean);
        harness_near("row mean", expected, mean, c, (harness_tolerance){1e-6, 1e-6});
    }
}

/* The table's own functions: what norms and attention are made of. */
static void check_table(void)
{
    size_t count = harness_between(1, 300);
    float *a = harness_floats(count, 1), *b = harness_floats(count, 1), factor = harness_normal();
    float *y = harness_output(count), *expected = harness_output(count);
    size_t rows = harness_between(1, 40), stride = count + harness_between(0, 5), m = harness_between(1, 7);
    float *x = harness_floats((m - 1) * stride + count, 1), *many = harness_floats((rows - 1) * stride + count, 1);
    float *factors = harness_floats(m * rows, 1), *start = harness_floats(m * count, 1);
    float *products = harness_output(m * rows), *exact = harness_output(m * rows);
    float *sums = harness_output(m * count), *summed = harness_output(m * count);
    for (size_t i = 0; i < m; i++) {
        for (size_t r = 0; r < rows; r++) {
            double sum = 0;
            for (size_t k = 0; k < count; k++)
                sum += (double)x[i * stride + k] * many[r * stride + k];
            exact[i * rows + r] = (float)sum;
        }
        for (size_t k = 0; k < count; k++) {
            double sum = start[i * count + k];
            for (size_t r = 0; r < rows; r++)
                sum += (double)factors[i * rows + r] * many[r * stride + k];
            summed[i * count + k] = (float)sum;
        }
    }
    HARNESS_LEVELS(level)
    {
        const fvlm_row_kernels *kernels = fvlm_row_kernels_select();
        kernels->dots(x, stride, m, count, many, stride, rows, products, rows);
        harness_near("dots", exact, products, m * rows, (harness_tolerance){2e-5, 1e-5});
        float alone;
        kernels->dots(x, stride, 1, count, many + (rows - 1) * stride, stride, 1, &alone, 1);
        harness_near("a dot alone", &products[rows - 1], &alone, 1, (harness_tolerance){0, 0});
        memcpy(sums, start, m * count * sizeof *sums);
        kernels->add_scaled(factors, rows, m, many, stride, rows, count, sums, count);
        harness_near("add scaled", summed, sums, m * count, (harness_tolerance){1e-5, 1e-5});
        for (size_t i = 0; i < count; i++) {
            y[i] = b[i];
            expected[i] = b[i] + a[i];
        }
        kernels->add(a, count, y);
        harness_near("add", expected, y, count, (harness_tolerance){0, 0});
        for (size_t i = 0; i < count; i++)
            expected[i] = (b[i] + a[i]) * factor;
        kernels->scale(y, count, factor);
        harness_near("scale", expected, y, count, (harness_tolerance){0, 0});
    }
}

struct bench {
    int threads;
    struct rows rows;
    float *x, *y;
};

static void run_bench(void *argument)
{
    struct bench *bench = argument;
    forward(bench->threads, &bench->rows, bench->x, bench->y);
}

static void bench_shape(enum norm norm, size_t m, size_t c)
{
    struct bench bench = {.rows = {norm, m, c, harness_floats(c, 1), harness_floats(c, 1), 1e-6f},
                          .x = harness_floats(m * c, 1),
                          .y = harness_output(m * c)};
    for (bench.threads = 1; bench.threads <= fvlm_cpu_count(); bench.threads++) {
        char what[64];
        snprintf(what, sizeof what, "%s %zu x %zu, %d threads", norm_names[norm], m, c, bench.threads);
        HARNESS_LEVELS(level)
        {
            harness_bench(what, 0, 8.0 * (double)(m * c), run_bench, &bench);
        }
    }
}

static void bench_norms(void)
{
    bench_shape(LAYER_NORM, 1024, 768);
    bench_shape(RMS_NORM, 286, 896);
    bench_shape(RMS_NORM, 1, 896);
    bench_shape(SCALE_GELU, 256, 3072);
}

static const harness_test tests[] = {
    {"norms", 40, check_norms, bench_norms}, {"wide", 20, check_wide, NULL},   {"far", 20, check_far, NULL},
    {"row_mean", 40, check_row_mean, NULL},  {"table", 60, check_table, NULL},
};

int main(int argc, char **argv)
{
    return harness_main(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
