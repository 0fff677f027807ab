/* Block types: rounding against the formats' own arithmetic, grids, and GPTQ with its factor of an inverse. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cpu.h"
#include "base/memory.h"
#include "export/gptq.h"
#include "export/inverse_factor.h"
#include "kernels/quantize.h"

static uint32_t seed = 1;

/* Uniform in -1 to 1. */
static float random_float(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8) / (1 << 23) - 1;
}

static double squared_error(fvlm_dtype type, const float *x, size_t count, const uint8_t *blocks)
{
    float *y = malloc(count * sizeof *y);
    double error = 0;
    fvlm_matrix_row(&(fvlm_matrix){.type = type, .rows = 1, .cols = count, .data = blocks}, 0, y);
    for (size_t i = 0; i < count; i++)
        error += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
    free(y);
    return error;
}

static void test_values_on_the_grid_stay(void **state)
{
    (void)state;
    float x[256];
    uint8_t y[272];
    for (int i = 0; i < 256; i++)
        x[i] = (float)(i % 16 - 8) / 4;
    for (int t = FVLM_Q8_0; t <= FVLM_Q4_K; t++) {
        fvlm_from_float((fvlm_dtype)t, x, 256, y);
        /* Q8_0 has no step that all of them are multiples of; Q4_K's least value is a multiple of 1/63. */
        assert_true(squared_error((fvlm_dtype)t, x, 256, y) < (t == FVLM_Q4_0 ? 1e-12 : 2e-2));
    }
    float zeros[256] = {0};
    for (int t = FVLM_Q8_0; t <= FVLM_Q4_K; t++) {
        fvlm_from_float((fvlm_dtype)t, zeros, 256, y);
        assert_true(squared_error((fvlm_dtype)t, zeros, 256, y) == 0);
    }
}

/* Where no value reaches zero, the levels still lie between the least and the largest value only. */
static void test_values_far_below_zero(void **state)
{
    (void)state;
    float x[256];
    uint8_t y[144];
    for (int i = 0; i < 256; i++)
        x[i] = random_float() / 2 - 10;
    fvlm_from_float(FVLM_Q4_K, x, 256, y);
    assert_true(squared_error(FVLM_Q4_K, x, 256, y) < 256 * (1.0 / 15) * (1.0 / 15) / 10);
}

/* A damaged checkpoint's: nothing is computed that C leaves open, which the sanitizers see. */
static void test_values_that_are_no_numbers(void **state)
{
    (void)state;
    float x[256];
    uint8_t y[272];
    for (int i = 0; i < 256; i++)
        x[i] = i % 5 == 0 ? NAN : i % 7 == 0 ? INFINITY : i % 11 == 0 ? -3e38f : 1e-42f * (float)i;
    for (int t = FVLM_Q8_0; t <= FVLM_Q4_K; t++)
        fvlm_from_float((fvlm_dtype)t, x, 256, y);
    for (int i = 0; i < 256; i++)
        x[i] = NAN;
    for (int t = FVLM_Q8_0; t <= FVLM_Q4_K; t++)
        fvlm_from_float((fvlm_dtype)t, x, 256, y);
}

static void test_q8_0_is_within_half_a_step(void **state)
{
    (void)state;
    float x[32], y[32];
    uint8_t block[34];
    for (int round = 0; round < 200; round++) {
        float most = 0;
        for (int i = 0; i < 32; i++) {
            x[i] = random_float() * 3;
            most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
        }
        fvlm_from_float(FVLM_Q8_0, x, 32, block);
        fvlm_matrix_row(&(fvlm_matrix){.type = FVLM_Q8_0, .rows = 1, .cols = 32, .data = block}, 0, y);
        for (int i = 0; i < 32; i++)
            assert_true(fabsf(x[i] - y[i]) <= most / 127 * 0.5f + most * 5e-4f); /* the step is fp16 */
    }
}

/* A fitted grid is never worse than the plain rule, and takes importance into account. */
static void test_fitted_grids(void **state)
{
    (void)state;
    float x[256], importance[256];
    uint8_t fitted[144], plain[144];
    int8_t q[256];
    fvlm_block_grid grid;
    for (int round = 0; round < 50; round++)
        for (int t = FVLM_Q8_0; t <= FVLM_Q4_0; t++) {
            double weighted[2] = {0};
            for (int i = 0; i < 32; i++) {
                x[i] = random_float() * random_float();
                importance[i] = i % 4 ? 1e-3f : 1;
            }
            fvlm_from_float((fvlm_dtype)t, x, 32, plain);
            for (int with = 0; with < 2; with++) {
                fvlm_block_fit((fvlm_dtype)t, x, with ? importance : NULL, fitted, &grid);
                for (int i = 0; i < 32; i++) {
                    q[i] = (int8_t)fvlm_block_round(&grid, 0, x[i]);
                    assert_true(q[i] >= grid.low && q[i] <= grid.high);
                    double error = (double)grid.steps[0] * q[i] - x[i];
                    weighted[with] += importance[i] * error * error;
                }
                fvlm_block_pack((fvlm_dtype)t, q, fitted);
                if (!with)
                    assert_true(squared_error((fvlm_dtype)t, x, 32, fitted) <=
                                squared_error((fvlm_dtype)t, x, 32, plain) * (1 + 1e-6));
            }
            assert_true(weighted[1] <= weighted[0] * (1 + 1e-6));
        }
    for (int i = 0; i < 256; i++)
        x[i] = random_float() + 0.5f;
    fvlm_block_fit(FVLM_Q4_K, x, NULL, fitted, &grid);
    for (size_t i = 0; i < 256; i++)
        q[i] = (int8_t)fvlm_block_round(&grid, i / 32, x[i]);
    fvlm_block_pack(FVLM_Q4_K, q, fitted);
    float y[256];
    fvlm_matrix_row(&(fvlm_matrix){.type = FVLM_Q4_K, .rows = 1, .cols = 256, .data = fitted}, 0, y);
    for (size_t i = 0; i < 256; i++) /* the packed block says what the grid says */
        assert_float_equal(y[i], grid.steps[i / 32] * (float)q[i] + grid.offsets[i / 32], 1e-6);
}

static void test_every_instruction_set_gives_the_same_bits(void **state)
{
    (void)state;
    float x[256], importance[256];
    uint8_t blocks[2][144], fitted[2][144];
    static const char *const levels[] = {"none", "all"};
    for (int round = 0; round < 200; round++) {
        for (int i = 0; i < 256; i++) {
            float scale = round % 4 == 1 ? expf(4 * random_float()) : 1, shift = round % 4 == 2 ? 2 : 0;
            x[i] = scale * (random_float() + random_float() * random_float() + shift);
            x[i] = round % 4 == 3 && i < round ? 0 : x[i];
            importance[i] = fabsf(random_float());
        }
        for (int level = 0; level < 2; level++) {
            fvlm_block_grid grid;
            memset(fitted[level], 0, sizeof fitted[level]);
            assert_int_equal(fvlm_cpu_set_level(levels[level], NULL), FVLM_OK);
            fvlm_from_float(FVLM_Q4_K, x, 256, blocks[level]);
            fvlm_block_fit(FVLM_Q4_K, x, importance, fitted[level], &grid);
        }
        assert_memory_equal(blocks[0], blocks[1], sizeof blocks[0]);
        assert_memory_equal(fitted[0], fitted[1], sizeof fitted[0]);
    }
}

/* Inputs whose columns go together: x[rows, n]. */
static float *correlated(size_t rows, size_t n)
{
    float *x = malloc(rows * n * sizeof *x);
    for (size_t r = 0; r < rows; r++) {
        float level = 0;
        for (size_t i = 0; i < n; i++) {
            level = 0.8f * level + random_float();
            x[r * n + i] = level * (i % 17 == 0 ? 5 : 1);
        }
    }
    return x;
}

static float *gram_of(const float *x, size_t rows, size_t n)
{
    float *gram = fvlm_aligned_alloc(n * n * sizeof *gram);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++) {
            double sum = 0;
            for (size_t r = 0; r < rows; r++)
                sum += (double)x[r * n + i] * x[r * n + j];
            gram[i * n + j] = gram[j * n + i] = (float)sum;
        }
    return gram;
}

static void test_inverse_factor(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 5, 128, 129, 300};
    fvlm_pool *pool;
    assert_int_equal(fvlm_pool_create(2, &pool, NULL), FVLM_OK);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        size_t n = sizes[s];
        float *x = correlated(2 * n + 3, n), *gram = gram_of(x, 2 * n + 3, n);
        float *h = fvlm_aligned_alloc(n * n * sizeof *h), *l = fvlm_aligned_alloc(n * n * sizeof *l);
        memcpy(h, gram, n * n * sizeof *h);
        assert_true(fvlm_inverse_factor(pool, h, n, 0.01, l));
        double mean = 0, worst = 0;
        for (size_t i = 0; i < n; i++)
            mean += gram[i * n + i] / (double)n;
        for (size_t i = 0; i < n; i++) { /* (gram + damping) L L^T = 1 */
            for (size_t j = i + 1; j < n; j++)
                assert_true(l[i * n + j] == 0);
            double *row = calloc(n, sizeof *row);
            for (size_t k = 0; k < n; k++)
                for (size_t m = 0; m < n; m++)
                    row[k] += (gram[i * n + m] + (i == m ? 0.01 * mean : 0)) * l[m * n + k];
            for (size_t j = 0; j < n; j++) {
                double sum = i == j ? -1 : 0;
                for (size_t k = 0; k <= j; k++)
                    sum += row[k] * l[j * n + k];
                worst = fabs(sum) > worst ? fabs(sum) : worst;
            }
            free(row);
        }
        assert_true(worst < 1e-4);
        free(x);
        fvlm_aligned_free(gram);
        fvlm_aligned_free(h);
        fvlm_aligned_free(l);
    }
    fvlm_pool_destroy(&pool);
}

static void test_inputs_that_say_nothing(void **state)
{
    (void)state;
    float h[16] = {0}, l[16];
    fvlm_pool *pool;
    assert_int_equal(fvlm_pool_create(1, &pool, NULL), FVLM_OK);
    assert_true(fvlm_inverse_factor(pool, h, 4, 0.01, l));
    for (int i = 0; i < 4; i++)
        assert_true(isfinite(l[i * 5]) && l[i * 5] > 0);
    float indefinite[4] = {1, 2, 2, 1}; /* needs more damping than is asked for */
    assert_true(fvlm_inverse_factor(pool, indefinite, 2, 0.01, l));
    assert_true(isfinite(l[0]) && isfinite(l[3]));
    fvlm_pool_destroy(&pool);
}

static void test_gptq(void **state)
{
    (void)state;
    enum { ROWS = 24, COLS = 768, INPUTS = 1000 };
    float *x = correlated(INPUTS, COLS), *gram = gram_of(x, INPUTS, COLS);
    float *other_x = correlated(INPUTS, COLS), *other = gram_of(other_x, INPUTS, COLS);
    float *h = fvlm_aligned_alloc(COLS * COLS * sizeof *h), *l = fvlm_aligned_alloc(COLS * COLS * sizeof *l);
    float *w = malloc(ROWS * COLS * sizeof *w), *values = fvlm_aligned_alloc(2 * ROWS * COLS * sizeof *values);
    uint8_t *nearest = malloc(2 * ROWS * COLS), *chosen = malloc(2 * ROWS * COLS), *again = malloc(2 * ROWS * COLS);
    for (size_t i = 0; i < ROWS * COLS; i++)
        w[i] = random_float() * random_float();
    const fvlm_matrix matrix = {.type = FVLM_F32, .rows = ROWS, .cols = COLS, .data = w};
    fvlm_pool *pool, *one;
    assert_int_equal(fvlm_pool_create(3, &pool, NULL), FVLM_OK);
    assert_int_equal(fvlm_pool_create(1, &one, NULL), FVLM_OK);
    memcpy(h, gram, COLS * COLS * sizeof *h);
    assert_true(fvlm_inverse_factor(pool, h, COLS, 0.01, l));

    /* The energy is that of the outputs themselves. */
    double expected = 0;
    for (size_t r = 0; r < INPUTS; r++)
        for (size_t o = 0; o < ROWS; o++) {
            double y = 0;
            for (size_t c = 0; c < COLS; c++)
                y += (double)x[r * COLS + c] * w[o * COLS + c];
            expected += y * y;
        }
    assert_float_equal(fvlm_output_energy(pool, &matrix, NULL, gram, values) / expected, 1, 1e-4);

    for (int t = FVLM_Q8_0; t <= FVLM_Q4_K; t++) {
        fvlm_matrix rounded = {.type = (fvlm_dtype)t, .rows = ROWS, .cols = COLS, .data = nearest};
        size_t bytes = fvlm_matrix_bytes(&rounded);
        fvlm_round_to_nearest(pool, &matrix, rounded.type, values, nearest);
        double before = fvlm_output_energy(pool, &matrix, &rounded, gram, values);
        double before_other = fvlm_output_energy(pool, &matrix, &rounded, other, values);
        assert_true(fvlm_gptq(pool, &matrix, l, rounded.type, values, chosen));
        rounded.data = chosen;
        assert_true(fvlm_output_energy(pool, &matrix, &rounded, gram, values) < 0.5 * before);
        assert_true(fvlm_output_energy(pool, &matrix, &rounded, other, values) < 0.6 * before_other);
        assert_true(fvlm_gptq(one, &matrix, l, rounded.type, values, again));
        assert_memory_equal(chosen, again, bytes);
    }
    fvlm_pool_destroy(&pool);
    fvlm_pool_destroy(&one);
    free(x);
    free(other_x);
    free(w);
    free(nearest);
    free(chosen);
    free(again);
    fvlm_aligned_free(gram);
    fvlm_aligned_free(other);
    fvlm_aligned_free(h);
    fvlm_aligned_free(l);
    fvlm_aligned_free(values);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values_on_the_grid_stay),
        cmocka_unit_test(test_values_far_below_zero),
        cmocka_unit_test(test_values_that_are_no_numbers),
        cmocka_unit_test(test_q8_0_is_within_half_a_step),
        cmocka_unit_test(test_fitted_grids),
        cmocka_unit_test(test_every_instruction_set_gives_the_same_bits),
        cmocka_unit_test(test_inverse_factor),
        cmocka_unit_test(test_inputs_that_say_nothing),
        cmocka_unit_test(test_gptq),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
