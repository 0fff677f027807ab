/* Pictures in the terminal.
 *
 * Whichever way, a picture takes the same cells: as many as fit, one twice as high as it is wide. The protocols of
 * kitty and iTerm2 carry a PNG file in base64 and scale it themselves; for sixels and blocks it is made as small as
 * needed.
 */
#include "show_picture.h"

#include <nettle/base64.h>
#include <png.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/system.h"
#include "base/terminal.h"
#include "output.h"

#define MOST_COLUMNS 80
#define MOST_ROWS 24
#define MOST_SIDE 1024   /* pixels of a PNG file that is sent */
#define CELL_WIDTH 8     /* pixels of a cell, for sixels */
#define KITTY_PIECE 4096 /* bytes of base64 that a terminal takes at once */
#define ANSWER_MS 500    /* that a terminal may take to answer */
#define ESC "\033"
/* What are you? The answer lists 4 where it draws sixels. */
#define ASK_ATTRIBUTES ESC "[c"
/* Would you take a picture of one pixel? Then the answer is OK. */
#define ASK_KITTY ESC "_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA" ESC "\\"

char *cli_show;

/* A picture in RGB, [height, width, 3]. */
struct pixels {
    uint8_t *rgb;
    size_t width, height;
};

/* The picture made `width` x `height`, each pixel the mean of those that fall into it. */
static fvlm_status scale(const fvlm_image *image, size_t width, size_t height, struct pixels *scaled, fvlm_error *error)
{
    const uint8_t *rgb = fvlm_image_rgb(image);
    size_t from_width = fvlm_image_width(image), from_height = fvlm_image_height(image);
    *scaled = (struct pixels){fvlm_calloc(width * height, 3), width, height};
    if (!scaled->rgb)
        return fvlm_fail_memory(error);
    for (size_t y = 0; y < height; y++) {
        size_t top = y * from_height / height, bottom = (y + 1) * from_height / height;
        for (size_t x = 0; x < width; x++) {
            size_t left = x * from_width / width, right = (x + 1) * from_width / width;
            uint64_t sums[3] = {0}, count = 0;
            for (size_t v = top; v < bottom || v == top; v++)
                for (size_t u = left; u < right || u == left; u++, count++)
                    for (size_t c = 0; c < 3; c++)
                        sums[c] += rgb[(v * from_width + u) * 3 + c];
            for (size_t c = 0; c < 3; c++)
                scaled->rgb[(y * width + x) * 3 + c] = (uint8_t)((sums[c] + count / 2) / count);
        }
    }
    return FVLM_OK;
}

/* The largest size of the picture's shape within most_width x most_height, where a unit of height is `stretch` of
 * width. */
static void fit(const fvlm_image *image, size_t most_width, size_t most_height, size_t stretch, size_t *width,
                size_t *height)
{
    size_t w = fvlm_image_width(image), h = fvlm_image_height(image);
    *width = most_width;
    *height = (most_width * h + w * stretch / 2) / (w * stretch);
    if (*height > most_height) {
        *height = most_height;
        *width = (most_height * stretch * w + h / 2) / h;
    }
    *width += *width == 0;
    *height += *height == 0;
}

static void write_blocks(const struct pixels *pixels, fvlm_text_buffer *text)
{
    for (size_t y = 0; y + 1 < pixels->height; y += 2) {
        const uint8_t *upper = pixels->rgb + y * pixels->width * 3, *lower = upper + pixels->width * 3;
        for (size_t x = 0; x < pixels->width; x++, upper += 3, lower += 3)
            fvlm_text_format(text, ESC "[38;2;%d;%d;%dm" ESC "[48;2;%d;%d;%dm\u2580", upper[0], upper[1], upper[2],
                             lower[0], lower[1], lower[2]);
        fvlm_text_append_string(text, ESC "[0m\n");
    }
}

/* Sixels: a character is six pixels above each other, those that have the colour chosen before. The palette has 6 steps
 * of red and blue and 7 of green; what lies between two steps becomes a pattern of both. */
enum { REDS = 6, GREENS = 7, BLUES = 6, COLOURS = REDS * GREENS * BLUES };

static int step_of(int value, int steps, size_t x, size_t y)
{
    static const int pattern[4][4] = {{0, 8, 2, 10}, {12, 4, 14, 6}, {3, 11, 1, 9}, {15, 7, 13, 5}};
    return (value * (steps - 1) * 32 + (2 * pattern[y % 4][x % 4] + 1) * 255) / (32 * 255);
}

static int colour_of(const struct pixels *pixels, size_t x, size_t y)
{
    const uint8_t *rgb = pixels->rgb + (y * pixels->width + x) * 3;
    int red = step_of(rgb[0], REDS, x, y), green = step_of(rgb[1], GREENS, x, y), blue = step_of(rgb[2], BLUES, x, y);
    return (red * GREENS + green) * BLUES + blue;
}

/* The characters of one colour in a band of six rows; colours [width, 6]. */
static void write_band(const uint8_t *colours, size_t width, int colour, fvlm_text_buffer *text)
{
    fvlm_text_format(text, "#%d", colour);
    for (size_t x = 0, run; x < width; x += run) {
        int bits = 0, next = 0;
        for (int i = 0; i < 6; i++)
            bits |= (colours[x * 6 + (size_t)i] == colour) << i;
        for (run = 1; x + run < width; run++, next = 0) {
            for (int i = 0; i < 6; i++)
                next |= (colours[(x + run) * 6 + (size_t)i] == colour) << i;
            if (next != bits)
                break;
        }
        if (run > 3)
            fvlm_text_format(text, "!%zu", run);
        for (size_t i = 0; i < (run > 3 ? 1 : run); i++)
            fvlm_text_format(text, "%c", 63 + bits);
    }
    fvlm_text_append_string(text, "$");
}

static fvlm_status write_sixels(const struct pixels *pixels, fvlm_text_buffer *text, fvlm_error *error)
{
    uint8_t *colours = fvlm_calloc(pixels->width, 6);
    if (!colours)
        return fvlm_fail_memory(error);
    fvlm_text_format(text, ESC "Pq\"1;1;%zu;%zu", pixels->width, pixels->height);
    for (int i = 0; i < COLOURS; i++)
        fvlm_text_format(text, "#%d;2;%d;%d;%d", i, i / (GREENS * BLUES) * 100 / (REDS - 1),
                         i / BLUES % GREENS * 100 / (GREENS - 1), i % BLUES * 100 / (BLUES - 1));
    for (size_t y = 0; y < pixels->height; y += 6) {
        bool used[COLOURS] = {0};
        for (size_t x = 0; x < pixels->width; x++)
            for (size_t i = 0; i < 6; i++) {
                int colour = y + i < pixels->height ? colour_of(pixels, x, y + i) : COLOURS;
                colours[x * 6 + i] = (uint8_t)colour;
                if (colour < COLOURS)
                    used[colour] = true;
            }
        for (int colour = 0; colour < COLOURS; colour++)
            if (used[colour])
                write_band(colours, pixels->width, colour, text);
        fvlm_text_append_string(text, "-");
    }
    fvlm_text_append_string(text, ESC "\\\n");
    free(colours);
    return FVLM_OK;
}

/* The picture as a PNG file, in base64. Free with free(). */
static fvlm_status encode(const struct pixels *pixels, char **base64, size_t *length, size_t *bytes, fvlm_error *error)
{
    png_image png = {.version = PNG_IMAGE_VERSION,
                     .width = (png_uint_32)pixels->width,
                     .height = (png_uint_32)pixels->height,
                     .format = PNG_FORMAT_RGB};
    png_alloc_size_t size = 0;
    *base64 = NULL;
    uint8_t *file = NULL;
    if (png_image_write_to_memory(&png, NULL, &size, 0, pixels->rgb, 0, NULL))
        file = malloc(size);
    if (file && png_image_write_to_memory(&png, file, &size, 0, pixels->rgb, 0, NULL))
        *base64 = malloc(BASE64_ENCODE_RAW_LENGTH(size) + 1);
    png_image_free(&png);
    if (*base64) {
        base64_encode_raw(*base64, size, file);
        *length = BASE64_ENCODE_RAW_LENGTH(size);
        *bytes = size;
    }
    free(file);
    return *base64 ? FVLM_OK : fvlm_fail_memory(error);
}

static void write_kitty(const char *base64, size_t length, size_t columns, size_t rows, fvlm_text_buffer *text)
{
    for (size_t at = 0; at < length; at += KITTY_PIECE) {
        size_t piece = length - at < KITTY_PIECE ? length - at : KITTY_PIECE;
        fvlm_text_append_string(text, ESC "_G");
        if (at == 0)
            fvlm_text_format(text, "a=T,f=100,q=2,c=%zu,r=%zu,", columns, rows);
        fvlm_text_format(text, "m=%d;", at + piece < length);
        fvlm_text_append(text, base64 + at, piece);
        fvlm_text_append_string(text, ESC "\\");
    }
    fvlm_text_append_string(text, "\n");
}

static void write_iterm2(const char *base64, size_t length, size_t bytes, size_t columns, size_t rows,
                         fvlm_text_buffer *text)
{
    fvlm_text_format(text, ESC "]1337;File=inline=1;size=%zu;width=%zu;height=%zu;preserveAspectRatio=1:", bytes,
                     columns, rows);
    fvlm_text_append(text, base64, length);
    fvlm_text_append_string(text, "\a\n");
}

fvlm_status cli_picture_text(const fvlm_image *image, cli_display display, size_t columns, size_t rows,
                             fvlm_text_buffer *text, fvlm_error *error)
{
    if (display == CLI_DISPLAY_NONE)
        return FVLM_OK;
    size_t width, height, length = 0, bytes = 0;
    fit(image, columns, rows, 2, &columns, &rows);
    if (display == CLI_DISPLAY_BLOCKS || display == CLI_DISPLAY_SIXEL) {
        size_t cell = display == CLI_DISPLAY_SIXEL ? CELL_WIDTH : 1;
        width = columns * cell;
        height = rows * cell * 2;
    } else {
        size_t w = fvlm_image_width(image), h = fvlm_image_height(image);
        fit(image, w < MOST_SIDE ? w : MOST_SIDE, h < MOST_SIDE ? h : MOST_SIDE, 1, &width, &height);
    }
    struct pixels pixels;
    char *base64 = NULL;
    fvlm_status status = scale(image, width, height, &pixels, error);
    if (status == FVLM_OK && display == CLI_DISPLAY_BLOCKS) {
        write_blocks(&pixels, text);
    } else if (status == FVLM_OK && display == CLI_DISPLAY_SIXEL) {
        status = write_sixels(&pixels, text, error);
    } else if (status == FVLM_OK) {
        status = encode(&pixels, &base64, &length, &bytes, error);
        if (status == FVLM_OK && display == CLI_DISPLAY_KITTY)
            write_kitty(base64, length, columns, rows, text);
        else if (status == FVLM_OK)
            write_iterm2(base64, length, bytes, columns, rows, text);
    }
    free(base64);
    free(pixels.rgb);
    return status == FVLM_OK && text->failed ? fvlm_fail_memory(error) : status;
}

fvlm_status cli_show_picture(const fvlm_image *image, cli_display display, fvlm_error *error)
{
    int columns = MOST_COLUMNS, rows = MOST_ROWS;
    fvlm_text_buffer text = {0};
    if (fvlm_terminal_size(&columns, &rows))
        rows = rows > 4 ? rows - 2 : rows; /* the answer should be seen as well */
    columns = columns < MOST_COLUMNS ? columns : MOST_COLUMNS;
    rows = rows < MOST_ROWS ? rows : MOST_ROWS;
    fvlm_status status = cli_picture_text(image, display, (size_t)columns, (size_t)rows, &text, error);
    if (status == FVLM_OK && text.length > 0)
        cli_write(text.data, text.length);
    fvlm_text_clear(&text);
    return status;
}

cli_display cli_display_of_reply(const char *reply)
{
    if (strstr(reply, ESC "_Gi=31;OK"))
        return CLI_DISPLAY_KITTY;
    /* ESC [ ? class ; what it can ; ... c */
    const char *at = strstr(reply, ESC "[?");
    while (at && (at = strchr(at, ';')))
        if (strtol(++at, NULL, 10) == 4)
            return CLI_DISPLAY_SIXEL;
    return CLI_DISPLAY_BLOCKS;
}

static bool variable_is(const char *name, const char *value)
{
    const char *found = getenv(name);
    return found && strcmp(found, value) == 0;
}

/* What the environment says where it is sure, else what the terminal says. tmux passes neither on; it takes kitty's
 * question for a title. */
static cli_display detect(void)
{
    if (!fvlm_is_terminal(stdout) || variable_is("TERM", "dumb"))
        return CLI_DISPLAY_NONE;
    bool tmux = !variable_is("TMUX", "") && getenv("TMUX");
    if (!tmux && (variable_is("TERM", "xterm-kitty") || variable_is("TERM_PROGRAM", "ghostty")))
        return CLI_DISPLAY_KITTY;
    if (!tmux && (variable_is("TERM_PROGRAM", "iTerm.app") || variable_is("TERM_PROGRAM", "WezTerm")))
        return CLI_DISPLAY_ITERM2;
    char reply[256];
    const char *query = tmux ? ASK_ATTRIBUTES : ASK_KITTY ASK_ATTRIBUTES;
    return fvlm_terminal_ask(query, 'c', ANSWER_MS, reply, sizeof reply) ? cli_display_of_reply(reply)
                                                                         : CLI_DISPLAY_BLOCKS;
}

bool cli_show_get(const cli_usage *usage, cli_display *display)
{
    static const char *const names[] = {[CLI_DISPLAY_NONE] = "auto",
                                        [CLI_DISPLAY_BLOCKS] = "blocks",
                                        [CLI_DISPLAY_SIXEL] = "sixel",
                                        [CLI_DISPLAY_ITERM2] = "iterm2",
                                        [CLI_DISPLAY_KITTY] = "kitty"};
    *display = CLI_DISPLAY_NONE;
    if (!cli_show)
        return true;
    for (int i = 0; i < (int)(sizeof names / sizeof *names); i++)
        if (strcmp(cli_show, names[i]) == 0) {
            *display = i == 0 ? detect() : (cli_display)i;
            return true;
        }
    cli_usage_error(usage, "--show '%s' is none of auto, kitty, iterm2, sixel, blocks", cli_show);
    return false;
}
