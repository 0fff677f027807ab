/* Activation functions, SwiGLU and softmax: each instruction set against double precision, in place or not, over the
 * range of floats and at what is special in it. */
#include "harness.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/cpu.h"
#include "kernels/activation.h"

static const char *const activation_names[] = {"none", "gelu", "relu", "silu", "sigmoid"};

static double activate(fvlm_activation activation, double x)
{
    switch (activation) {
    case FVLM_ACTIVATION_GELU:
        return x / 2 * (1 + erf(x * sqrt(0.5)));
    case FVLM_ACTIVATION_RELU:
        return x < 0 ? 0 : x;
    case FVLM_ACTIVATION_SILU:
        return x / (1 + exp(-x));
    case FVLM_ACTIVATION_SIGMOID:
        return 1 / (1 + exp(-x));
    case FVLM_ACTIVATION_NONE:
        break;
    }
    return x;
}

/* GELU's 1 + erf has an error of 1e-7, which x of about -5 multiplies. */
static const harness_tolerance tolerance = {8e-7, 4e-7};

static void check_activate(void)
{
    size_t count = harness_between(1, 300);
    float *x = harness_floats(count, (float)(1 << harness_between(0, 8)));
    float *y = harness_output(count), *in_place = harness_output(count), *expected = harness_output(count);
    const float special[] = {NAN, 0, -0.0f, FLT_MIN / 4, FLT_MAX / 4, -88, 88};
    x[harness_random() % count] = special[harness_random() % (sizeof special / sizeof special[0])];
    for (int activation = FVLM_ACTIVATION_NONE; activation <= FVLM_ACTIVATION_SIGMOID; activation++) {
        for (size_t i = 0; i < count; i++)
            expected[i] = (float)activate((fvlm_activation)activation, x[i]);
        HARNESS_LEVELS(level)
        {
            for (size_t i = 0; i < count; i++)
                y[i] = INFINITY;
            fvlm_activate((fvlm_activation)activation, x, count, y);
            memcpy(in_place, x, count * sizeof *x);
            fvlm_activate((fvlm_activation)activation, in_place, count, in_place);
            harness_near(activation_names[activation], expected, y, count, tolerance);
            harness_near("in place", y, in_place, count, (harness_tolerance){0, 0});
        }
    }
}

static void check_swiglu(void)
{
    size_t count = harness_between(1, 300);
    float *gate = harness_floats(count, 4), *up = harness_floats(count, 1);
    float *y = harness_output(count), *in_place = harness_output(count), *expected = harness_output(count);
    for (size_t i = 0; i < count; i++)
        expected[i] = (float)(activate(FVLM_ACTIVATION_SILU, gate[i]) * up[i]);
    HARNESS_LEVELS(level)
    {
        fvlm_swiglu(gate, up, count, y);
        harness_near("swiglu", expected, y, count, (harness_tolerance){1e-6, 1e-6});
        memcpy(in_place, gate, count * sizeof *gate);
        fvlm_swiglu(in_place, up, count, in_place);
        harness_near("in place of the gate", y, in_place, count, (harness_tolerance){0, 0});
        memcpy(in_place, up, count * sizeof *up);
        fvlm_swiglu(gate, in_place, count, in_place);
        harness_near("in place of up", y, in_place, count, (harness_tolerance){0, 0});
    }
}

static void check_softmax(void)
{
    size_t count = harness_between(1, harness_random() & 1 ? 20 : 400);
    float *x = harness_floats(count, (float)(1 << harness_between(0, 6)));
    float *y = harness_output(count), *expected = harness_output(count);
    if (count > 1 && harness_random() & 1)
        x[harness_random() % count] = -INFINITY;
    x[harness_random() % count] = 1000; /* exp(1000) is infinity: the largest must be found wherever it is */
    double largest = -INFINITY, sum = 0;
    for (size_t i = 0; i < count; i++)
        largest = x[i] > largest ? x[i] : largest;
    for (size_t i = 0; i < count; i++)
        sum += exp(x[i] - largest);
    for (size_t i = 0; i < count; i++)
        expected[i] = (float)(exp(x[i] - largest) / sum);
    HARNESS_LEVELS(level)
    {
        memcpy(y, x, count * sizeof *x);
        fvlm_softmax(y, count);
        harness_near("softmax", expected, y, count, (harness_tolerance){1e-9, 4e-6});
    }
}

struct bench {
    fvlm_activation activation;
    size_t count;
    float *x, *up, *y;
};

static void run_activate(void *argument)
{
    struct bench *bench = argument;
    fvlm_activate(bench->activation, bench->x, bench->count, bench->y);
}

static void run_swiglu(void *argument)
{
    struct bench *bench = argument;
    fvlm_swiglu(bench->x, bench->up, bench->count, bench->y);
}

static void run_softmax(void *argument)
{
    struct bench *bench = argument;
    memcpy(bench->y, bench->x, bench->count * sizeof *bench->x);
    fvlm_softmax(bench->y, bench->count);
}

/* The feed-forward width of the 0.5B language model; a row of logits. */
static struct bench bench_rows(size_t count)
{
    return (struct bench){
        .count = count, .x = harness_floats(count, 1), .up = harness_floats(count, 1), .y = harness_output(count)};
}

static void bench_activate(void)
{
    struct bench bench = bench_rows(4864);
    for (int activation = FVLM_ACTIVATION_GELU; activation <= FVLM_ACTIVATION_SIGMOID; activation++) {
        bench.activation = (fvlm_activation)activation;
        HARNESS_LEVELS(level)
        {
            harness_bench(activation_names[activation], 0, 8.0 * (double)bench.count, run_activate, &bench);
        }
    }
}

static void bench_swiglu(void)
{
    struct bench bench = bench_rows(4864);
    HARNESS_LEVELS(level)
    {
        harness_bench("swiglu 4864", 0, 12.0 * (double)bench.count, run_swiglu, &bench);
    }
}

static void bench_softmax(void)
{
    struct bench bench = bench_rows(151936);
    HARNESS_LEVELS(level)
    {
        harness_bench("softmax 151936", 0, 8.0 * (double)bench.count, run_softmax, &bench);
    }
}

static const harness_test tests[] = {
    {"activate", 60, check_activate, bench_activate},
    {"swiglu", 40, check_swiglu, bench_swiglu},
    {"softmax", 200, check_softmax, bench_softmax},
};

int main(int argc, char **argv)
{
    return harness_main(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
