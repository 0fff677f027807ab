/* The frame of the kernel tests, in the spirit of dav1d's checkasm.
 *
 * A test program lists its tests and calls harness_main. Each test draws seeded random cases and runs the same call at
 * every instruction set level of this machine, "none" (plain C) first, comparing the others with it:
 *
 *     static void check_relu(void)
 *     {
 *         size_t count = harness_between(1, 300);
 *         float *x = harness_floats(count, 4), *y = harness_output(count), *expected = harness_output(count);
 *         HARNESS_LEVELS(level)
 *         {
 *             fvlm_activate(FVLM_ACTIVATION_RELU, x, count, harness_is_reference() ? expected : y);
 *             if (!harness_is_reference())
 *                 harness_near("relu", expected, y, count, (harness_tolerance){.relative = 1e-6});
 *         }
 *     }
 *     static const harness_test tests[] = {{"relu", 20, check_relu, bench_relu}};
 *     int main(int argc, char **argv) { return harness_main(argc, argv, tests, 1); }
 *
 * Buffers lie against a page without access, at their end or (every other one) at their beginning; the other side is
 * filled with a pattern that is checked. They are freed after each round of a test.
 *
 * Options of a test program: `--bench` times instead of checking, `--seed N`, `--level NAME` (that one and the
 * reference only), and names of tests to run. Exit code 0 when all is right, 1 otherwise.
 */
#ifndef FVLM_TESTS_KERNELS_HARNESS_H
#define FVLM_TESTS_KERNELS_HARNESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/pool.h"

typedef struct harness_test {
    const char *name;
    int rounds;          /* how often `check` is called, each time with other random numbers */
    void (*check)(void); /* one round */
    void (*bench)(void); /* calls harness_bench within HARNESS_LEVELS; NULL: nothing to time */
} harness_test;

int harness_main(int argc, char **argv, const harness_test *tests, size_t count);

/* Levels: the body runs once for each, set as by fvlm_cpu_set_level; `level` is its name. */
const char *harness_first_level(void);
const char *harness_next_level(void);
bool harness_is_reference(void); /* the present level is "none" */
#define HARNESS_LEVELS(level)                                                                                          \
    for (const char *level = harness_first_level(); level != NULL; level = harness_next_level())

/* Random numbers, the same for the same seed, test and round. */
uint32_t harness_random(void);
size_t harness_between(size_t low, size_t high); /* both included */
float harness_normal(void);                      /* about normal with deviation 1 */

/* Guarded memory. Inputs are for reading, but nothing keeps a test from writing them. */
void *harness_bytes(size_t bytes);                /* filled with random bytes */
float *harness_floats(size_t count, float scale); /* normal times scale */
float *harness_output(size_t count);              /* NaN, so that what a kernel leaves out shows */

/* A pool of 1 or more threads, kept until the program ends. */
fvlm_pool *harness_pool(int threads);

/* |got - expected| <= absolute + relative |expected| for each element. NaN must meet NaN and infinities must be equal.
 */
typedef struct harness_tolerance {
    double absolute, relative;
} harness_tolerance;
/* Reports the worst element and counts a failure. Rows of `width` floats, `stride` apart, for the second form. */
bool harness_near(const char *what, const float *expected, const float *got, size_t count, harness_tolerance tolerance);
bool harness_near_rows(const char *what, const float *expected, size_t expected_stride, const float *got,
                       size_t got_stride, size_t rows, size_t width, harness_tolerance tolerance);
bool harness_equal(const char *what, const void *expected, const void *got, size_t bytes);
void harness_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Time call(argument) at the present level: the best of many, printed with what `flops` and `bytes` give (0: left out).
 */
void harness_bench(const char *what, double flops, double bytes, void (*call)(void *argument), void *argument);

#endif
