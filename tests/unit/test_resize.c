/* The resize: Pillow's results by hash, and what must hold for any picture. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "image/resize.h"
#include "image_cases.h"

/* [height, width, 3], the same bytes as noise() of tools/make_image_cases.py. */
static uint8_t *make_noise(uint32_t seed, size_t width, size_t height)
{
    uint8_t *rgb = malloc(width * height * 3);
    for (size_t i = 0; i < width * height * 3; i++) {
        seed = seed * 1664525u + 1013904223u;
        rgb[i] = (uint8_t)(seed >> 24);
    }
    return rgb;
}

static uint8_t *resize(int threads, const fvlm_canvas *canvas, const fvlm_resize_window *window)
{
    fvlm_pool *pool;
    uint8_t *out = malloc(window->width * window->height * 3);
    assert_int_equal(fvlm_pool_create(threads, &pool, NULL), FVLM_OK);
    assert_int_equal(fvlm_resize(pool, canvas, window, out, window->width * 3, NULL), FVLM_OK);
    fvlm_pool_destroy(&pool);
    return out;
}

static void check_resize(const char *arguments)
{
    uint32_t seed;
    size_t width, height, new_width, new_height;
    unsigned long long hash;
    assert_int_equal(
        sscanf(arguments, "%u %zu %zu %zu %zu %llx", &seed, &width, &height, &new_width, &new_height, &hash), 6);
    uint8_t *rgb = make_noise(seed, width, height);
    const fvlm_canvas canvas = {rgb, width, height, 0, 0, width, height};
    const fvlm_resize_window window = {new_width, new_height, 0, 0, new_width, new_height};
    for (int threads = 1; threads <= 3; threads += 2) {
        uint8_t *out = resize(threads, &canvas, &window);
        if (hash_bytes(out, new_width * new_height * 3) != hash)
            fail_msg("%zu x %zu to %zu x %zu: not what Pillow gives", width, height, new_width, new_height);
        free(out);
    }
    free(rgb);
}

static void test_pillow_cases(void **state)
{
    (void)state;
    assert_true(for_each_case("resize", check_resize) >= 12);
}

/* The canvas that is never built gives what a built one gives. */
static void test_canvas_is_a_square(void **state)
{
    (void)state;
    enum { WIDTH = 23, HEIGHT = 70, LEFT = 23, SIDE = 70, SIZE = 31 };
    uint8_t *rgb = make_noise(7, WIDTH, HEIGHT), *square = calloc(SIDE * SIDE, 3);
    for (size_t y = 0; y < HEIGHT; y++)
        memcpy(square + (y * SIDE + LEFT) * 3, rgb + y * WIDTH * 3, WIDTH * 3);
    const fvlm_canvas virtual = {rgb, WIDTH, HEIGHT, LEFT, 0, SIDE, SIDE},
                      built = {square, SIDE, SIDE, 0, 0, SIDE, SIDE};
    const fvlm_resize_window window = {SIZE, SIZE, 0, 0, SIZE, SIZE};
    uint8_t *found = resize(2, &virtual, &window), *expected = resize(2, &built, &window);
    assert_memory_equal(found, expected, SIZE * SIZE * 3);
    free(found);
    free(expected);
    free(square);
    free(rgb);
}

/* A window gives that part of the whole, in both orders of the passes. */
static void test_window_is_a_part(void **state)
{
    (void)state;
    const size_t sizes[2][2] = {{90, 40}, {40, 190}};
    for (size_t i = 0; i < 2; i++) {
        size_t width = sizes[i][0], height = sizes[i][1];
        uint8_t *rgb = make_noise(11, width, height);
        const fvlm_canvas canvas = {rgb, width, height, 0, 0, width, height};
        const fvlm_resize_window whole = {37, 29, 0, 0, 37, 29}, part = {37, 29, 9, 11, 20, 13};
        uint8_t *all = resize(1, &canvas, &whole), *some = resize(1, &canvas, &part);
        for (size_t y = 0; y < part.height; y++)
            assert_memory_equal(some + y * part.width * 3, all + ((part.top + y) * whole.width + part.left) * 3,
                                part.width * 3);
        free(all);
        free(some);
        free(rgb);
    }
}

static void test_plain_colour_stays(void **state)
{
    (void)state;
    uint8_t rgb[40 * 30 * 3];
    for (size_t i = 0; i < sizeof rgb; i++)
        rgb[i] = (uint8_t)(i % 3 == 0 ? 255 : i % 3 == 1 ? 1 : 77);
    const fvlm_canvas canvas = {rgb, 40, 30, 0, 0, 40, 30};
    const size_t sizes[3][2] = {{40, 30}, {7, 5}, {101, 99}};
    for (size_t i = 0; i < 3; i++) {
        const fvlm_resize_window window = {sizes[i][0], sizes[i][1], 0, 0, sizes[i][0], sizes[i][1]};
        uint8_t *out = resize(1, &canvas, &window);
        for (size_t p = 0; p < sizes[i][0] * sizes[i][1]; p++)
            assert_memory_equal(out + 3 * p, rgb, 3);
        free(out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pillow_cases),
        cmocka_unit_test(test_canvas_is_a_square),
        cmocka_unit_test(test_window_is_a_part),
        cmocka_unit_test(test_plain_colour_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
