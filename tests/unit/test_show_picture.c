/* Pictures in the terminal: what is written is read back as the protocol says, and has to be the picture. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <nettle/base64.h>

#include "fastvlm/image.h"
#include "show_picture.h"

enum { WIDTH = 96, HEIGHT = 48 };

/* Four areas of one colour, and grey in the middle that rises from left to right. */
static fvlm_image *make_image(void)
{
    static const uint8_t areas[4][3] = {{255, 0, 0}, {0, 200, 30}, {10, 20, 250}, {255, 255, 255}};
    static uint8_t rgb[HEIGHT][WIDTH][3];
    for (size_t y = 0; y < HEIGHT; y++)
        for (size_t x = 0; x < WIDTH; x++) {
            memcpy(rgb[y][x], areas[2 * (y >= HEIGHT / 2) + (x >= WIDTH / 2)], 3);
            if (y >= 16 && y < 32)
                memset(rgb[y][x], (int)(x * 255 / (WIDTH - 1)), 3);
        }
    fvlm_image *image;
    assert_int_equal(fvlm_image_from_rgb(&rgb[0][0][0], WIDTH, HEIGHT, &image, NULL), FVLM_OK);
    return image;
}

static char *write_picture(const fvlm_image *image, cli_display display, size_t columns, size_t rows)
{
    fvlm_text_buffer text = {0};
    assert_int_equal(cli_picture_text(image, display, columns, rows, &text, NULL), FVLM_OK);
    char *written = fvlm_text_take(&text);
    assert_non_null(written);
    return written;
}

static const uint8_t *pixel(const fvlm_image *image, size_t x, size_t y)
{
    return fvlm_image_rgb(image) + (y * fvlm_image_width(image) + x) * 3;
}

/* Step over `expected`, which has to stand at *at. */
static void take(const char **at, const char *expected)
{
    if (strncmp(*at, expected, strlen(expected)) != 0)
        fail_msg("'%s' is not at '%.40s'", expected, *at);
    *at += strlen(expected);
}

static long take_number(const char **at)
{
    char *end;
    long number = strtol(*at, &end, 10);
    assert_ptr_not_equal(end, *at);
    *at = end;
    return number;
}

static void test_blocks(void **state)
{
    (void)state;
    fvlm_image *image = make_image();
    char *text = write_picture(image, CLI_DISPLAY_BLOCKS, WIDTH, 1000);
    const char *at = text;
    for (size_t y = 0; y < HEIGHT; y += 2, take(&at, "\033[0m\n"))
        for (size_t x = 0; x < WIDTH; x++, take(&at, "\xe2\x96\x80"))
            for (size_t lower = 0; lower < 2; lower++) {
                take(&at, lower ? "\033[48;2;" : "\033[38;2;");
                for (size_t c = 0; c < 3; c++, take(&at, c < 3 ? ";" : "m"))
                    assert_int_equal(take_number(&at), pixel(image, x, y + lower)[c]);
            }
    assert_string_equal(at, "");
    free(text);

    /* One row of four cells: each pixel is the mean of a quarter of the width and half of the height. */
    text = write_picture(image, CLI_DISPLAY_BLOCKS, 1000, 1);
    at = text;
    take(&at, "\033[38;2;");
    assert_int_equal(take_number(&at), 180); /* two thirds of it are red, 255, one is grey from 0 to 61 */
    free(text);
    fvlm_image_free(&image);
}

/* The file that the base64 at *at holds, up to `end`, appended to file [*size]. */
static void decode(const char **at, const char *end, uint8_t *file, size_t *size, struct base64_decode_ctx *decoder)
{
    size_t length = strcspn(*at, end), got;
    assert_true(length <= 4096 || *end == '\a');
    assert_int_equal(base64_decode_update(decoder, &got, file + *size, length, *at), 1);
    *size += got;
    *at += length;
}

static void assert_same_picture(const uint8_t *file, size_t size, const fvlm_image *image)
{
    fvlm_image *decoded;
    assert_int_equal(fvlm_image_decode(file, size, NULL, &decoded, NULL), FVLM_OK);
    assert_int_equal(fvlm_image_width(decoded), fvlm_image_width(image));
    assert_int_equal(fvlm_image_height(decoded), fvlm_image_height(image));
    assert_memory_equal(fvlm_image_rgb(decoded), fvlm_image_rgb(image),
                        fvlm_image_width(image) * fvlm_image_height(image) * 3);
    fvlm_image_free(&decoded);
}

/* A picture that no file holds in one piece. */
static fvlm_image *make_noise(size_t width, size_t height)
{
    uint8_t *rgb = malloc(width * height * 3);
    assert_non_null(rgb);
    uint32_t state = 1;
    for (size_t i = 0; i < width * height * 3; i++) {
        state = state * 1664525 + 1013904223;
        rgb[i] = (uint8_t)(state >> 24);
    }
    fvlm_image *image;
    assert_int_equal(fvlm_image_from_rgb(rgb, width, height, &image, NULL), FVLM_OK);
    free(rgb);
    return image;
}

static void test_kitty(void **state)
{
    (void)state;
    fvlm_image *image = make_noise(100, 70);
    char *text = write_picture(image, CLI_DISPLAY_KITTY, 40, 10);
    uint8_t *file = malloc(strlen(text));
    assert_non_null(file);
    size_t size = 0, pieces = 0;
    struct base64_decode_ctx decoder;
    base64_decode_init(&decoder);
    const char *at = text;
    for (long more = 1; more; pieces++) {
        take(&at, "\033_G");
        if (pieces == 0)
            take(&at, "a=T,f=100,q=2,c=29,r=10,"); /* 10 rows are as high as 20 columns are wide */
        take(&at, "m=");
        more = take_number(&at);
        take(&at, ";");
        decode(&at, "\033", file, &size, &decoder);
        take(&at, "\033\\");
    }
    assert_string_equal(at, "\n");
    assert_true(pieces > 3);
    assert_same_picture(file, size, image);
    free(file);
    free(text);
    fvlm_image_free(&image);
}

static void test_iterm2(void **state)
{
    (void)state;
    fvlm_image *image = make_noise(70, 100);
    char *text = write_picture(image, CLI_DISPLAY_ITERM2, 20, 40);
    uint8_t *file = malloc(strlen(text));
    assert_non_null(file);
    size_t size = 0;
    struct base64_decode_ctx decoder;
    base64_decode_init(&decoder);
    const char *at = text;
    take(&at, "\033]1337;File=inline=1;size=");
    long announced = take_number(&at);
    take(&at, ";width=20;height=14;preserveAspectRatio=1:");
    decode(&at, "\a", file, &size, &decoder);
    assert_string_equal(at, "\a\n");
    assert_int_equal(announced, size);
    assert_same_picture(file, size, image);
    free(file);
    free(text);
    fvlm_image_free(&image);
}

/* A large picture is sent smaller, in its shape. */
static void test_large_pictures_are_sent_smaller(void **state)
{
    (void)state;
    fvlm_image *image = make_noise(2048, 512), *decoded;
    char *text = write_picture(image, CLI_DISPLAY_ITERM2, 80, 24);
    const char *at = strchr(text, ':') + 1;
    uint8_t *file = malloc(strlen(text));
    assert_non_null(file);
    size_t size = 0;
    struct base64_decode_ctx decoder;
    base64_decode_init(&decoder);
    decode(&at, "\a", file, &size, &decoder);
    assert_int_equal(fvlm_image_decode(file, size, NULL, &decoded, NULL), FVLM_OK);
    assert_int_equal(fvlm_image_width(decoded), 1024);
    assert_int_equal(fvlm_image_height(decoded), 256);
    fvlm_image_free(&decoded);
    free(file);
    free(text);
    fvlm_image_free(&image);
}

/* Draw sixels as a terminal does, on rgb [height, width, 3]; each pixel is drawn once. */
static void draw_sixels(const char *at, uint8_t *rgb, uint8_t *drawn, size_t width, size_t height)
{
    uint8_t palette[256][3] = {{0}};
    size_t x = 0, band = 0, colour = 0;
    char head[64];
    snprintf(head, sizeof head, "\033Pq\"1;1;%zu;%zu", width, height);
    take(&at, head);
    while (*at != '\033') {
        char c = *at++;
        size_t repeat = 1;
        if (c == '#') {
            colour = (size_t)take_number(&at);
            assert_true(colour < 256);
            if (*at == ';') {
                take(&at, ";2");
                for (int i = 0; i < 3; i++) {
                    take(&at, ";");
                    palette[colour][i] = (uint8_t)(take_number(&at) * 255 / 100);
                }
            }
            continue;
        }
        if (c == '!') {
            repeat = (size_t)take_number(&at);
            c = *at++;
        }
        if (c == '$' || c == '-') {
            x = 0;
            band += c == '-';
            continue;
        }
        assert_in_range(c, '?', '~');
        for (; repeat > 0; repeat--, x++)
            for (size_t i = 0; i < 6; i++)
                if ((c - '?') >> i & 1) {
                    size_t place = (band * 6 + i) * width + x;
                    assert_true(x < width && band * 6 + i < height);
                    assert_int_equal(drawn[place]++, 0);
                    memcpy(rgb + place * 3, palette[colour], 3);
                }
    }
    assert_string_equal(at, "\033\\\n");
}

static void test_sixels(void **state)
{
    (void)state;
    enum { COLUMNS = 12, ROWS = 3, W = COLUMNS * 8, H = ROWS * 16, AREA = 8 };
    fvlm_image *image = make_image();
    char *text = write_picture(image, CLI_DISPLAY_SIXEL, COLUMNS, 100);
    static uint8_t rgb[H][W][3], drawn[H][W];
    draw_sixels(text, &rgb[0][0][0], &drawn[0][0], W, H);
    for (size_t y = 0; y < H; y++)
        for (size_t x = 0; x < W; x++)
            assert_int_equal(drawn[y][x], 1);
    for (size_t y = 0; y < H; y += AREA)
        for (size_t x = 0; x < W; x += AREA)
            for (size_t c = 0; c < 3; c++) {
                int expected = 0, got = 0;
                for (size_t i = 0; i < AREA * AREA; i++) {
                    got += rgb[y + i / AREA][x + i % AREA][c];
                    expected += pixel(image, x + i % AREA, y + i / AREA)[c];
                }
                assert_in_range(got - expected + 4 * AREA * AREA, 0, 8 * AREA * AREA); /* 4 of 255 */
            }
    free(text);
    fvlm_image_free(&image);
}

/* Shapes that leave next to nothing in one direction. */
static void test_extreme_shapes(void **state)
{
    (void)state;
    static const size_t shapes[][2] = {{1, 1}, {1, 3000}, {3000, 1}, {7, 5}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        fvlm_image *image = make_noise(shapes[i][0], shapes[i][1]);
        for (cli_display display = CLI_DISPLAY_BLOCKS; display <= CLI_DISPLAY_KITTY; display++) {
            char *text = write_picture(image, display, 80, 24);
            assert_true(strlen(text) > 10 && text[strlen(text) - 1] == '\n');
            free(text);
        }
        fvlm_text_buffer nothing = {0};
        assert_int_equal(cli_picture_text(image, CLI_DISPLAY_NONE, 80, 24, &nothing, NULL), FVLM_OK);
        assert_int_equal(nothing.length, 0);
        fvlm_image_free(&image);
    }
}

static void test_replies(void **state)
{
    (void)state;
    assert_int_equal(cli_display_of_reply("\033_Gi=31;OK\033\\\033[?62;c"), CLI_DISPLAY_KITTY);
    assert_int_equal(cli_display_of_reply("\033_Gi=31;ENOTSUP:no\033\\\033[?62;4;22c"), CLI_DISPLAY_SIXEL);
    assert_int_equal(cli_display_of_reply("\033[?63;1;2;4;6c"), CLI_DISPLAY_SIXEL);
    assert_int_equal(cli_display_of_reply("\033[?1;2c"), CLI_DISPLAY_BLOCKS);
    assert_int_equal(cli_display_of_reply("\033[?64;44;14c"), CLI_DISPLAY_BLOCKS);
    assert_int_equal(cli_display_of_reply("4;4"), CLI_DISPLAY_BLOCKS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks),  cmocka_unit_test(test_kitty),
        cmocka_unit_test(test_iterm2),  cmocka_unit_test(test_large_pictures_are_sent_smaller),
        cmocka_unit_test(test_sixels),  cmocka_unit_test(test_extreme_shapes),
        cmocka_unit_test(test_replies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
