/* Decoding: every format and odd variant against what Pillow makes of it, and how damage, lies and limits end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "image_cases.h"

static void check_exact(const char *arguments)
{
    char name[128];
    size_t width, height;
    unsigned long long hash;
    assert_int_equal(sscanf(arguments, "%127s %zu %zu %llx", name, &width, &height, &hash), 4);
    fvlm_image *image = open_case(name);
    if (!image)
        return;
    bool same = fvlm_image_width(image) == width && fvlm_image_height(image) == height &&
                hash_bytes(fvlm_image_rgb(image), width * height * 3) == hash;
    if (!same)
        fail_msg("%s: not as Pillow decodes it", name);
    fvlm_image_free(&image);
    assert_null(image);
}

static void check_close(const char *arguments)
{
    char name[128], path[512], *expected;
    size_t width, height, size;
    int tolerance;
    assert_int_equal(sscanf(arguments, "%127s %zu %zu %d", name, &width, &height, &tolerance), 4);
    fvlm_image *image = open_case(name);
    if (!image)
        return;
    snprintf(path, sizeof path, CASE_FOLDER "%s.rgb", name);
    assert_int_equal(fvlm_file_read(path, 1 << 20, &expected, &size, NULL), FVLM_OK);
    assert_int_equal(fvlm_image_width(image), width);
    assert_int_equal(fvlm_image_height(image), height);
    assert_int_equal(size, width * height * 3);
    size_t equal = 0;
    for (size_t i = 0; i < size; i++) {
        int difference = fvlm_image_rgb(image)[i] - (uint8_t)expected[i];
        equal += difference == 0;
        if (abs(difference) > tolerance)
            fail_msg("%s: byte %zu is off by %d", name, i, difference);
    }
    if (equal < size * 9 / 10)
        fail_msg("%s: only %zu of %zu bytes are equal", name, equal, size);
    free(expected);
    fvlm_image_free(&image);
}

static void check_error(const char *arguments)
{
    static const struct {
        const char *name;
        fvlm_status status;
    } statuses[] = {
        {"format", FVLM_ERROR_FORMAT}, {"limit", FVLM_ERROR_LIMIT}, {"unsupported", FVLM_ERROR_UNSUPPORTED}};
    char name[128], status[32], word[64], path[512];
    assert_int_equal(sscanf(arguments, "%127s %31s %63s", name, status, word), 3);
    fvlm_status expected = FVLM_OK;
    for (size_t i = 0; i < sizeof statuses / sizeof statuses[0]; i++)
        if (strcmp(status, statuses[i].name) == 0)
            expected = statuses[i].status;
    assert_int_not_equal(expected, FVLM_OK);
    fvlm_error error;
    fvlm_image *image;
    snprintf(path, sizeof path, CASE_FOLDER "%s", name);
    fvlm_status found = fvlm_image_open(path, &image, &error);
    assert_null(image);
    if (found == FVLM_ERROR_UNSUPPORTED && strstr(error.message, "made without")) {
        printf("%s\n", error.message);
        return;
    }
    if (found != expected || error.code != expected || !strstr(error.message, word) || !strstr(error.message, name))
        fail_msg("%s: status %d, message \"%s\"", name, found, error.message);
}

static void test_exact_cases(void **state)
{
    (void)state;
    assert_true(for_each_case("exact", check_exact) >= 110);
}

static void test_close_cases(void **state)
{
    (void)state;
    assert_true(for_each_case("close", check_close) >= 9);
}

static void test_error_cases(void **state)
{
    (void)state;
    assert_true(for_each_case("error", check_error) >= 20);
}

/* A file cut anywhere is refused, or, when only its tail is missing, still a picture of the same size. */
static void check_cuts(const char *arguments)
{
    char name[128], path[512], *data;
    size_t width, height, size, step;
    assert_int_equal(sscanf(arguments, "%127s %zu %zu", name, &width, &height), 3);
    snprintf(path, sizeof path, CASE_FOLDER "%s", name);
    assert_int_equal(fvlm_file_read(path, 1 << 20, &data, &size, NULL), FVLM_OK);
    step = size / 40 + 1;
    for (size_t cut = 0; cut < size; cut += step) {
        uint8_t *part = malloc(cut + 1); /* of just this size, so that a sanitizer sees every read beyond */
        memcpy(part, data, cut);
        fvlm_image *image;
        fvlm_error error = {0};
        if (fvlm_image_decode(part, cut, name, &image, &error) == FVLM_OK) {
            assert_true(cut > size / 3);
            assert_int_equal(fvlm_image_width(image), width);
            fvlm_image_free(&image);
        } else {
            assert_null(image);
            assert_true(strlen(error.message) > 0);
        }
        free(part);
    }
    free(data);
}

static void test_truncation(void **state)
{
    (void)state;
    for_each_case("exact", check_cuts);
    for_each_case("close", check_cuts);
}

/* Flip bits anywhere: never a crash, a leak or a picture beyond the limits. */
static void check_flips(const char *arguments)
{
    char name[128], path[512], *data;
    size_t size;
    assert_int_equal(sscanf(arguments, "%127s", name), 1);
    snprintf(path, sizeof path, CASE_FOLDER "%s", name);
    assert_int_equal(fvlm_file_read(path, 1 << 20, &data, &size, NULL), FVLM_OK);
    uint32_t random = (uint32_t)size;
    for (int round = 0; round < 40; round++) {
        /* Half of the flips in the header, where they tell lies about sizes. */
        random = random * 1664525 + 1013904223;
        size_t range = round % 2 && size > 64 ? 64 : size, place = (random >> 8) % range;
        data[place] ^= (char)(1 << (random & 7));
        fvlm_image *image;
        if (fvlm_image_decode(data, size, name, &image, NULL) == FVLM_OK)
            assert_true(fvlm_image_width(image) * fvlm_image_height(image) <= FVLM_IMAGE_MAX_PIXELS);
        fvlm_image_free(&image);
        data[place] ^= (char)(1 << (random & 7));
    }
    free(data);
}

static void test_flipped_bits(void **state)
{
    (void)state;
    for_each_case("exact", check_flips);
    for_each_case("close", check_flips);
}

/* A BMP of 24 bits with rows from the top: the smallest file that can be large. */
static uint8_t *make_bmp(uint32_t width, uint32_t height, size_t *size)
{
    size_t stride = ((size_t)width * 3 + 3) / 4 * 4;
    *size = 54 + stride * height;
    uint8_t *data = calloc(*size, 1);
    uint32_t negative = 0 - height;
    memcpy(data, "BM", 2);
    data[10] = 54;
    data[14] = 40;
    for (int i = 0; i < 4; i++) {
        data[18 + i] = (uint8_t)(width >> 8 * i);
        data[22 + i] = (uint8_t)(negative >> 8 * i);
    }
    data[26] = 1;
    data[28] = 24;
    for (size_t y = 0; y < height; y++)
        data[54 + y * stride + 2] = (uint8_t)(y % 251); /* red */
    return data;
}

static void test_long_picture(void **state)
{
    (void)state;
    size_t size;
    fvlm_image *image;
    uint8_t *data = make_bmp(1, 60000, &size);
    assert_int_equal(fvlm_image_decode(data, size, "long", &image, NULL), FVLM_OK);
    assert_int_equal(fvlm_image_height(image), 60000);
    for (size_t y = 0; y < 60000; y++)
        assert_int_equal(fvlm_image_rgb(image)[3 * y], y % 251);
    fvlm_image_free(&image);
    free(data);
}

static void test_arguments(void **state)
{
    (void)state;
    fvlm_error error;
    fvlm_image *image;
    const uint8_t pixels[6] = {1, 2, 3, 4, 5, 6};
    assert_int_equal(fvlm_image_from_rgb(pixels, 2, 1, &image, &error), FVLM_OK);
    assert_int_equal(fvlm_image_width(image), 2);
    assert_memory_equal(fvlm_image_rgb(image), pixels, 6);
    fvlm_image_free(&image);
    fvlm_image_free(&image); /* NULL is fine */
    assert_int_equal(fvlm_image_from_rgb(pixels, 0, 1, &image, &error), FVLM_ERROR_FORMAT);
    assert_int_equal(fvlm_image_from_rgb(pixels, 1, FVLM_IMAGE_MAX_SIDE + 1, &image, &error), FVLM_ERROR_LIMIT);
    assert_int_equal(fvlm_image_open(CASE_FOLDER "no such.png", &image, &error), FVLM_ERROR_IO);
    assert_non_null(strstr(error.message, "no such.png"));
    assert_int_equal(fvlm_image_decode(pixels, 6, NULL, &image, &error), FVLM_ERROR_UNSUPPORTED);
    assert_null(image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact_cases), cmocka_unit_test(test_close_cases),  cmocka_unit_test(test_error_cases),
        cmocka_unit_test(test_truncation),  cmocka_unit_test(test_flipped_bits), cmocka_unit_test(test_long_picture),
        cmocka_unit_test(test_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
