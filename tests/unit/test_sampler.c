/* The sampler: each step against values worked out by hand, their order, draws, and logits that are no numbers. The
 * reference's distributions are test_text_golden's matter. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "text/sampler.h"

#define ARRAY_COUNT(array) (sizeof(array) / sizeof *(array))
#define VOCABULARY 5

static fvlm_sampler *make(fvlm_sampling sampling, size_t vocabulary)
{
    fvlm_sampler *sampler;
    fvlm_error error = {0};
    if (fvlm_sampler_create(&sampling, vocabulary, &sampler, &error))
        fail_msg("%s", error.message);
    return sampler;
}

/* logits and expected are [VOCABULARY]; history [count]. */
static void check(fvlm_sampling sampling, const float *logits, const int32_t *history, size_t count,
                  const double *expected)
{
    fvlm_sampler *sampler = make(sampling, VOCABULARY);
    const float *made = fvlm_sampler_probabilities(sampler, logits, history, count);
    for (size_t i = 0; i < VOCABULARY; i++)
        if (!(fabs(made[i] - expected[i]) < 1e-6))
            fail_msg("token %zu: %.8f instead of %.8f", i, (double)made[i], expected[i]);
    fvlm_sampler_destroy(&sampler);
    assert_null(sampler);
}

#define LN2 0.69314718f
/* exp of these is 1, 2, 4, 8, 1: shares 1/16, 2/16, 4/16, 8/16, 1/16 */
static const float logits[VOCABULARY] = {0, LN2, 2 * LN2, 3 * LN2, 0};

static void test_softmax_and_temperature(void **state)
{
    (void)state;
    check((fvlm_sampling){.temperature = 1}, logits, NULL, 0, (double[]){1. / 16, 2. / 16, 4. / 16, 8. / 16, 1. / 16});
    check((fvlm_sampling){.temperature = 0.5f}, logits, NULL, 0,
          (double[]){1. / 86, 4. / 86, 16. / 86, 64. / 86, 1. / 86});
    check((fvlm_sampling){.temperature = 0}, logits, NULL, 0, (double[]){0, 0, 0, 1, 0});
}

static void test_top_k_keeps_ties(void **state)
{
    (void)state;
    check((fvlm_sampling){.temperature = 1, .top_k = 2}, logits, NULL, 0, (double[]){0, 0, 4. / 12, 8. / 12, 0});
    check((fvlm_sampling){.temperature = 1, .top_k = 4}, logits, NULL, 0, /* the fourth has an equal */
          (double[]){1. / 16, 2. / 16, 4. / 16, 8. / 16, 1. / 16});
    check((fvlm_sampling){.temperature = 1, .top_k = 99}, logits, NULL, 0,
          (double[]){1. / 16, 2. / 16, 4. / 16, 8. / 16, 1. / 16});
}

static void test_top_p_removes_from_below(void **state)
{
    (void)state;
    /* Removed while the sum from the lowest is at most 1 - p: 1/16, 2/16, 4/16, 8/16, 16/16. */
    check((fvlm_sampling){.temperature = 1, .top_p = 0.70f}, logits, NULL, 0, (double[]){0, 0, 4. / 12, 8. / 12, 0});
    check((fvlm_sampling){.temperature = 1, .top_p = 0.76f}, logits, NULL, 0,
          (double[]){0, 2. / 14, 4. / 14, 8. / 14, 0});
    check((fvlm_sampling){.temperature = 1, .top_p = 1e-9f}, logits, NULL, 0, (double[]){0, 0, 0, 1, 0});
    /* Of two equal ones the lower id goes first. */
    check((fvlm_sampling){.temperature = 1, .top_p = 0.90f}, logits, NULL, 0,
          (double[]){0, 2. / 15, 4. / 15, 8. / 15, 1. / 15});
}

static void test_min_p(void **state)
{
    (void)state;
    check((fvlm_sampling){.temperature = 1, .min_p = 0.2f}, logits, NULL, 0,
          (double[]){0, 2. / 14, 4. / 14, 8. / 14, 0});
    check((fvlm_sampling){.temperature = 1, .min_p = 1}, logits, NULL, 0, (double[]){0, 0, 0, 1, 0});
}

static void test_repetition_penalty(void **state)
{
    (void)state;
    static const float signs[VOCABULARY] = {-LN2, LN2, 0, 2 * LN2, -2 * LN2};
    static const int32_t history[] = {3, -200, 0, 3, 99, 3, 4}; /* each once; -200 is an image, 99 beyond */
    /* 1/4, 2, 1, 2, 1/16 of a sum of 85/16 */
    check((fvlm_sampling){.temperature = 1, .repetition_penalty = 2}, signs, history, ARRAY_COUNT(history),
          (double[]){4. / 85, 32. / 85, 16. / 85, 32. / 85, 1. / 85});
    fvlm_sampler *sampler = make((fvlm_sampling){.repetition_penalty = 4}, VOCABULARY);
    assert_int_equal(fvlm_sampler_next(sampler, signs, history, 1), 1); /* greedy too */
    assert_int_equal(fvlm_sampler_next(sampler, signs, NULL, 0), 3);    /* and only for this call */
    fvlm_sampler_destroy(&sampler);
}

/* Each step sees what the one before left: top-p the shares among the top-k, min-p what top-p left. */
static void test_order_of_the_steps(void **state)
{
    (void)state;
    /* Among the top two, 1/3 and 2/3: top-p 0.6 removes the first, which it would have kept among all five. */
    check((fvlm_sampling){.temperature = 1, .top_k = 2, .top_p = 0.6f}, logits, NULL, 0, (double[]){0, 0, 0, 1, 0});
    check((fvlm_sampling){.temperature = 1, .top_p = 0.6f}, logits, NULL, 0, (double[]){0, 0, 4. / 12, 8. / 12, 0});
    /* At temperature 0.5 the shares are 1, 4, 16, 64, 1 of 86: 16/64 is at least min-p. */
    check((fvlm_sampling){.temperature = 0.5f, .top_p = 0.95f, .min_p = 0.25f}, logits, NULL, 0,
          (double[]){0, 0, 16. / 80, 64. / 80, 0});
}

/* Selection without sorting against sorting, on a vocabulary of some size with ties. */
struct ranked {
    float logit;
    size_t id;
};

static int ascending(const void *a, const void *b)
{
    const struct ranked *left = a, *right = b;
    if (left->logit != right->logit)
        return left->logit < right->logit ? -1 : 1;
    return (left->id > right->id) - (left->id < right->id);
}

static void test_top_p_is_as_defined(void **state)
{
    (void)state;
    enum { MANY = 3001 };
    static float many[MANY];
    static struct ranked sorted[MANY];
    for (int round = 0; round < 40; round++) {
        float p = (float)(round + 1) / 41, spread = round % 3 ? 12.0f : 0.5f;
        for (size_t i = 0; i < MANY; i++) {
            float uniform = (float)fvlm_sampler_uniform((uint64_t)round, i);
            many[i] = round % 4 == 3 ? floorf(uniform * 6) : uniform * spread;
            sorted[i] = (struct ranked){many[i], i};
        }
        qsort(sorted, MANY, sizeof *sorted, ascending);
        double total = 0, below = 0;
        for (size_t i = 0; i < MANY; i++)
            total += exp((double)(many[i] - sorted[MANY - 1].logit));
        fvlm_sampler *sampler = make((fvlm_sampling){.temperature = 1, .top_p = p}, MANY);
        const float *made = fvlm_sampler_probabilities(sampler, many, NULL, 0);
        double kept = 0;
        for (size_t i = 0; i < MANY; i++) {
            below += exp((double)(sorted[i].logit - sorted[MANY - 1].logit));
            double distance = below / total - (1 - (double)p);
            if (fabs(distance) > 1e-6) /* nearer than that rounding decides */
                assert_int_equal(made[sorted[i].id] > 0, distance > 0 || i == MANY - 1);
            kept += made[i];
        }
        assert_true(fabs(kept - 1) < 1e-5);
        fvlm_sampler_destroy(&sampler);
    }
}

static void test_draws_follow_the_distribution_and_the_seed(void **state)
{
    (void)state;
    enum { DRAWS = 20000 };
    fvlm_sampler *one = make((fvlm_sampling){.temperature = 1, .seed = 7}, VOCABULARY);
    fvlm_sampler *same = make((fvlm_sampling){.temperature = 1, .seed = 7}, VOCABULARY);
    fvlm_sampler *other = make((fvlm_sampling){.temperature = 1, .seed = 8}, VOCABULARY);
    int counts[VOCABULARY] = {0}, differences = 0;
    for (int i = 0; i < DRAWS; i++) {
        int32_t token = fvlm_sampler_next(one, logits, NULL, 0);
        assert_in_range(token, 0, VOCABULARY - 1);
        counts[token]++;
        assert_int_equal(token, fvlm_sampler_next(same, logits, NULL, 0));
        differences += token != fvlm_sampler_next(other, logits, NULL, 0);
    }
    static const double shares[VOCABULARY] = {1. / 16, 2. / 16, 4. / 16, 8. / 16, 1. / 16};
    for (size_t i = 0; i < VOCABULARY; i++) /* five standard deviations */
        assert_true(fabs(counts[i] - DRAWS * shares[i]) < 5 * sqrt(DRAWS * shares[i] * (1 - shares[i])));
    assert_true(differences > DRAWS / 2);
    fvlm_sampler_destroy(&one);
    fvlm_sampler_destroy(&same);
    fvlm_sampler_destroy(&other);
}

static void test_a_draw_depends_on_seed_and_number_alone(void **state)
{
    (void)state;
    assert_true(fvlm_sampler_uniform(0, 0) != fvlm_sampler_uniform(0, 1));
    assert_true(fvlm_sampler_uniform(0, 1) != fvlm_sampler_uniform(1, 0));
    /* Fixed for ever: a seed in somebody's notes must keep its meaning. */
    assert_true(fabs(fvlm_sampler_uniform(42, 0) - 0.5961188718302076) < 1e-15);
    assert_true(fabs(fvlm_sampler_uniform(42, 1000000) - 0.9794742010717128) < 1e-15);
    for (uint64_t n = 0; n < 1000; n++)
        assert_true(fvlm_sampler_uniform(n, n) >= 0 && fvlm_sampler_uniform(n, n) < 1);
}

static void test_logits_that_are_no_numbers(void **state)
{
    (void)state;
    static const float cases[][VOCABULARY] = {
        {NAN, NAN, NAN, NAN, NAN},
        {-INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY},
        {INFINITY, 1, NAN, INFINITY, -INFINITY},
        {NAN, 1, 2, -INFINITY, NAN},
        {3e38f, -3e38f, 3e38f, 0, 1},
    };
    static const fvlm_sampling settings[] = {
        {.temperature = 0},
        {.temperature = 1},
        {.temperature = 1e-30f, .repetition_penalty = 1e30f},
        {.temperature = 0.7f, .top_k = 2, .top_p = 0.5f, .min_p = 0.1f, .repetition_penalty = 1.5f},
        {.temperature = 1, .top_p = 1e-38f},
    };
    static const int32_t history[] = {0, 1, INT32_MIN, INT32_MAX};
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++)
        for (size_t k = 0; k < ARRAY_COUNT(settings); k++) {
            fvlm_sampler *sampler = make(settings[k], VOCABULARY);
            double total = 0;
            const float *made = fvlm_sampler_probabilities(sampler, cases[i], history, ARRAY_COUNT(history));
            for (size_t token = 0; token < VOCABULARY; token++)
                total += made[token];
            assert_true(fabs(total - 1) < 1e-6);
            assert_in_range(fvlm_sampler_next(sampler, cases[i], history, ARRAY_COUNT(history)), 0, VOCABULARY - 1);
            fvlm_sampler_destroy(&sampler);
        }
    /* A number wins over what is none. */
    check((fvlm_sampling){.temperature = 1, .top_k = 1}, cases[3], NULL, 0, (double[]){0, 0, 1, 0, 0});
}

static void test_settings_out_of_range_are_refused(void **state)
{
    (void)state;
    static const struct {
        fvlm_sampling sampling;
        size_t vocabulary;
        const char *words;
    } cases[] = {
        {{.temperature = -1}, 5, "temperature"},
        {{.temperature = NAN}, 5, "temperature"},
        {{.top_p = 1.5f}, 5, "top-p"},
        {{.top_p = NAN}, 5, "top-p"},
        {{.top_k = -1}, 5, "top-k"},
        {{.min_p = -0.1f}, 5, "min-p"},
        {{.repetition_penalty = -1}, 5, "repetition penalty"},
        {{.repetition_penalty = INFINITY}, 5, "repetition penalty"},
        {{.temperature = 1}, 0, "vocabulary"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        fvlm_sampler *sampler;
        fvlm_error error = {0};
        assert_int_equal(fvlm_sampler_create(&cases[i].sampling, cases[i].vocabulary, &sampler, &error),
                         FVLM_ERROR_ARGUMENT);
        assert_null(sampler);
        if (!strstr(error.message, cases[i].words))
            fail_msg("\"%s\" says nothing of \"%s\"", error.message, cases[i].words);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_softmax_and_temperature),
        cmocka_unit_test(test_top_k_keeps_ties),
        cmocka_unit_test(test_top_p_removes_from_below),
        cmocka_unit_test(test_min_p),
        cmocka_unit_test(test_repetition_penalty),
        cmocka_unit_test(test_order_of_the_steps),
        cmocka_unit_test(test_top_p_is_as_defined),
        cmocka_unit_test(test_draws_follow_the_distribution_and_the_seed),
        cmocka_unit_test(test_a_draw_depends_on_seed_and_number_alone),
        cmocka_unit_test(test_logits_that_are_no_numbers),
        cmocka_unit_test(test_settings_out_of_range_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
