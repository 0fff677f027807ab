/* Blocks of 8-bit numbers: what comes back, signs, zeros, blocks of nothing. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "train/blockwise.h"
#include "train/random.h"

static void fill(bool is_signed, uint64_t stream, float scale, float x[FVLM_BLOCK])
{
    for (size_t i = 0; i < FVLM_BLOCK; i++) {
        float unit = fvlm_random_unit(1, stream, i);
        x[i] = scale * powf(10, -6 * unit) * (is_signed && i % 3 == 0 ? -1 : 1);
    }
}

/* Steps of a code are 0.9 / 2^rest of its power of ten; twice the half of that is allowed, since the table that finds
 * codes knows 8 digits only. */
static void test_numbers_come_back(void **state)
{
    (void)state;
    for (uint64_t stream = 0; stream < 64; stream++) {
        bool is_signed = stream % 2;
        float x[FVLM_BLOCK], y[FVLM_BLOCK], scale = powf(10, (float)(stream % 20) - 12);
        uint8_t codes[FVLM_BLOCK];
        fill(is_signed, stream, scale, x);
        float most = fvlm_block_encode(is_signed, x, FVLM_BLOCK, codes);
        fvlm_block_decode(is_signed, codes, most, FVLM_BLOCK, y);
        for (size_t i = 0; i < FVLM_BLOCK; i++) {
            double part = fabs((double)x[i]) / (double)most, power = 1;
            int rest = is_signed ? 6 : 7;
            while (part <= power / 10 && rest > 0) {
                power /= 10;
                rest--;
            }
            assert_true(fabs((double)(x[i] - y[i])) <= 1.01 * (double)most * power * 0.9 / (1 << rest));
            assert_true(x[i] * y[i] >= 0);
            assert_true(is_signed || y[i] > 0);
        }
    }
}

static void test_codes_are_fixed_points(void **state)
{
    (void)state;
    for (int is_signed = 0; is_signed < 2; is_signed++) {
        uint8_t codes[FVLM_BLOCK], again[FVLM_BLOCK];
        float x[FVLM_BLOCK], y[FVLM_BLOCK];
        for (int i = 0; i < FVLM_BLOCK; i++)
            codes[i] = (uint8_t)i;
        fvlm_block_decode(is_signed, codes, 1, FVLM_BLOCK, x);
        float most = fvlm_block_encode(is_signed, x, FVLM_BLOCK, again);
        assert_true(most == 1);
        fvlm_block_decode(is_signed, again, most, FVLM_BLOCK, y);
        for (int i = 0; i < FVLM_BLOCK; i++)
            assert_true(x[i] == y[i]);
    }
}

static void test_blocks_of_nothing(void **state)
{
    (void)state;
    float x[5] = {0}, y[5];
    uint8_t codes[5];
    float scale = fvlm_block_encode(false, x, 5, codes);
    fvlm_block_decode(false, codes, scale, 5, y);
    assert_memory_equal(x, y, sizeof x);
    x[2] = 1e-42f; /* whose reciprocal is not finite */
    scale = fvlm_block_encode(true, x, 5, codes);
    fvlm_block_decode(true, codes, scale, 5, y);
    for (int i = 0; i < 5; i++)
        assert_true(y[i] == 0);
}

int main(void)
{
    fvlm_block_prepare();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers_come_back),
        cmocka_unit_test(test_codes_are_fixed_points),
        cmocka_unit_test(test_blocks_of_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
