/* The three image modes: tiles as the published preprocessing makes them, and extreme pictures. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "image/preprocess.h"
#include "image_cases.h"

static fvlm_pool *pool;

static fvlm_image_mode mode_of(const char *name)
{
    return strcmp(name, "pad") == 0 ? FVLM_IMAGE_PAD : strcmp(name, "crop") == 0 ? FVLM_IMAGE_CROP : FVLM_IMAGE_ANYRES;
}

static fvlm_status preprocess(const fvlm_image *image, fvlm_image_mode mode, size_t size, fvlm_tiles *tiles,
                              fvlm_error *error)
{
    /* PINPOINTS of tools/make_image_cases.py */
    const size_t pinpoints[3][2] = {{size, 2 * size}, {2 * size, size}, {2 * size, 2 * size}};
    const fvlm_preprocessing preprocessing = {.mode = mode, .size = size, .pinpoints = pinpoints, .pinpoint_count = 3};
    return fvlm_preprocess(pool, image, &preprocessing, tiles, error);
}

static void check_tiles(const char *arguments)
{
    char mode[16], name[128];
    size_t size, count, columns, rows;
    unsigned long long hash;
    assert_int_equal(
        sscanf(arguments, "%15s %127s %zu %zu %zu %zu %llx", mode, name, &size, &count, &columns, &rows, &hash), 7);
    fvlm_image *image = open_case(name);
    assert_non_null(image);
    fvlm_tiles tiles;
    assert_int_equal(preprocess(image, mode_of(mode), size, &tiles, NULL), FVLM_OK);
    assert_int_equal(tiles.count, count);
    assert_int_equal(tiles.size, size);
    assert_int_equal(tiles.columns, columns);
    assert_int_equal(tiles.rows, rows);
    assert_int_equal(tiles.width, fvlm_image_width(image));
    assert_int_equal(tiles.height, fvlm_image_height(image));
    if (hash_bytes(tiles.pixels, count * size * size * 3) != hash)
        fail_msg("%s: not the published tiles", arguments);
    fvlm_tiles_free(&tiles);
    assert_null(tiles.pixels);
    fvlm_image_free(&image);
}

static void test_published_tiles(void **state)
{
    (void)state;
    assert_true(for_each_case("tiles", check_tiles) >= 24);
}

/* One pixel by 60000, both ways: the padded square would be 10 GB, the enlarged picture of crop mode 12 GB. */
static void test_extreme_shapes(void **state)
{
    (void)state;
    enum { LONG = 60000, SIZE = 64 };
    uint8_t *white = malloc(LONG * 3);
    memset(white, 255, LONG * 3);
    const size_t shapes[3][2] = {{1, LONG}, {LONG, 1}, {1, 1}};
    for (size_t i = 0; i < 3; i++) {
        fvlm_image *image;
        fvlm_tiles tiles;
        assert_int_equal(fvlm_image_from_rgb(white, shapes[i][0], shapes[i][1], &image, NULL), FVLM_OK);
        assert_int_equal(preprocess(image, FVLM_IMAGE_CROP, SIZE, &tiles, NULL), FVLM_OK);
        for (size_t p = 0; p < SIZE * SIZE * 3; p++)
            assert_int_equal(tiles.pixels[p], 255);
        fvlm_tiles_free(&tiles);
        assert_int_equal(preprocess(image, FVLM_IMAGE_ANYRES, SIZE, &tiles, NULL), FVLM_OK);
        assert_true(tiles.count == 3 || tiles.count == 5);
        assert_int_equal(tiles.pixels[SIZE * SIZE * 3 / 2], 255);
        fvlm_tiles_free(&tiles);
        assert_int_equal(preprocess(image, FVLM_IMAGE_PAD, SIZE, &tiles, NULL), FVLM_OK);
        int expected = i == 2 ? 255 : 0; /* a line of a 937th of a pixel vanishes in the black */
        assert_int_equal(tiles.pixels[0], expected);
        fvlm_tiles_free(&tiles);
        fvlm_image_free(&image);
    }
    free(white);
}

static void test_arguments(void **state)
{
    (void)state;
    const uint8_t pixel[3] = {9, 9, 9};
    fvlm_error error;
    fvlm_image *image;
    fvlm_tiles tiles;
    assert_int_equal(fvlm_image_from_rgb(pixel, 1, 1, &image, NULL), FVLM_OK);
    assert_int_equal(preprocess(image, FVLM_IMAGE_PAD, 0, &tiles, &error), FVLM_ERROR_ARGUMENT);
    assert_int_equal(preprocess(image, FVLM_IMAGE_PAD, 100000, &tiles, &error), FVLM_ERROR_ARGUMENT);
    const size_t huge[1][2] = {{64 * 40, 64 * 40}}, none[1][2] = {{0, 64}};
    fvlm_preprocessing preprocessing = {FVLM_IMAGE_ANYRES, 64, huge, 1};
    assert_int_equal(fvlm_preprocess(pool, image, &preprocessing, &tiles, &error), FVLM_ERROR_LIMIT);
    preprocessing.pinpoints = none;
    assert_int_equal(fvlm_preprocess(pool, image, &preprocessing, &tiles, &error), FVLM_ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, "image_grid_pinpoints"));
    preprocessing.pinpoint_count = 0;
    assert_int_equal(fvlm_preprocess(pool, image, &preprocessing, &tiles, &error), FVLM_ERROR_ARGUMENT);
    assert_null(tiles.pixels);
    fvlm_image_free(&image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_tiles),
        cmocka_unit_test(test_extreme_shapes),
        cmocka_unit_test(test_arguments),
    };
    if (fvlm_pool_create(2, &pool, NULL))
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    fvlm_pool_destroy(&pool);
    return failed;
}
