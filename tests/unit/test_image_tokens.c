/* The order of an image's tokens in each merge type, against cases worked out by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "model/image_tokens.h"

#define N FVLM_NEWLINE

static void expect(fvlm_image_mode mode, fvlm_merge merge, const fvlm_tiles *tiles, const size_t *expected,
                   size_t expected_count)
{
    fvlm_config config = {.image_mode = mode, .merge = merge};
    size_t *index, count;
    assert_int_equal(fvlm_image_token_index(&config, tiles, 2, &index, &count, NULL), FVLM_OK);
    assert_int_equal(count, expected_count);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(index[i], expected[i]);
    free(index);
}

static void test_one_tile(void **state)
{
    (void)state;
    fvlm_tiles tiles = {.count = 1, .width = 30, .height = 20};
    const size_t plain[] = {0, 1, 2, 3}, unpad[] = {0, 1, 2, 3, N};
    expect(FVLM_IMAGE_PAD, FVLM_MERGE_SPATIAL_UNPAD, &tiles, plain, 4);
    expect(FVLM_IMAGE_CROP, FVLM_MERGE_FLAT, &tiles, plain, 4);
    expect(FVLM_IMAGE_ANYRES, FVLM_MERGE_SPATIAL_UNPAD, &tiles, unpad, 5);
}

static void test_two_tiles_side_by_side(void **state)
{
    (void)state;
    fvlm_tiles tiles = {.count = 3, .columns = 2, .rows = 1, .width = 40, .height = 20};
    const size_t flat[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    const size_t spatial[] = {0, 1, 2, 3, 4, 5, 8, 9, 6, 7, 10, 11};
    const size_t unpad[] = {0, 1, 2, 3, 4, 5, 8, 9, N, 6, 7, 10, 11, N};
    expect(FVLM_IMAGE_ANYRES, FVLM_MERGE_FLAT, &tiles, flat, 12);
    expect(FVLM_IMAGE_ANYRES, FVLM_MERGE_SPATIAL, &tiles, spatial, 12);
    expect(FVLM_IMAGE_ANYRES, FVLM_MERGE_SPATIAL_UNPAD, &tiles, unpad, 14);
}

static void test_padding_is_taken_out(void **state)
{
    (void)state;
    /* A 4 x 4 grid of tokens: a picture four times as wide as high keeps one row of four, but an odd rest is cut
     * evenly at both ends, (4 - 1) / 2 = 1 each, so two rows stay. */
    fvlm_tiles wide = {.count = 5, .columns = 2, .rows = 2, .width = 400, .height = 100};
    const size_t kept_rows[] = {0, 1, 2, 3, 6, 7, 10, 11, N, 12, 13, 16, 17, N};
    expect(FVLM_IMAGE_ANYRES, FVLM_MERGE_SPATIAL_UNPAD, &wide, kept_rows, 14);
    fvlm_tiles high = {.count = 5, .columns = 2, .rows = 2, .width = 50, .height = 100};
    const size_t kept_columns[] = {0, 1, 2, 3, 5, 8, N, 7, 10, N, 13, 16, N, 15, 18, N};
    expect(FVLM_IMAGE_ANYRES, FVLM_MERGE_SPATIAL_UNPAD, &high, kept_columns, 16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_tile),
        cmocka_unit_test(test_two_tiles_side_by_side),
        cmocka_unit_test(test_padding_is_taken_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
