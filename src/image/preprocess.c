/* From a picture to tiles of S x S bytes, as the published preprocessing makes them.
 *
 *     pad     the picture centred on a black square of its longer edge, resized to S x S
 *     crop    the shorter edge resized to S, the middle S x S cut out
 *     anyres  tile 0: the picture squeezed to S x S; then the picture fitted into the best of the configured
 *             resolutions, centred on black, cut into tiles row by row
 *
 * The published values are these bytes / 255: mean 0 and deviation 1 make its normalisation the identity. Its
 * roundings (truncated here, ceiling there) are kept, since they move pixels. One of its traits is not: a picture
 * of height 1 or 3 in crop mode is mistaken there for channels-first data and scrambled.
 */
#include "image/preprocess.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "image/resize.h"

#define MAX_TILE_SIDE 8192u
#define MAX_TILES 1024u

static fvlm_canvas bare_canvas(const fvlm_image *image)
{
    size_t width = fvlm_image_width(image), height = fvlm_image_height(image);
    return (fvlm_canvas){fvlm_image_rgb(image), width, height, 0, 0, width, height};
}

/* [count, size, size, 3] of black. */
static fvlm_status create_tiles(fvlm_tiles *tiles, size_t size, size_t count, fvlm_error *error)
{
    if (count > MAX_TILES)
        return fvlm_fail(error, FVLM_ERROR_LIMIT, "image_grid_pinpoints ask for %zu tiles, the limit is %u", count,
                         MAX_TILES);
    tiles->pixels = fvlm_calloc(count, size * size * 3);
    if (!tiles->pixels)
        return fvlm_fail_memory(error);
    tiles->count = count;
    tiles->size = size;
    return FVLM_OK;
}

/* The picture on its square. */
static fvlm_canvas pad_canvas(fvlm_canvas canvas)
{
    size_t side = canvas.width > canvas.height ? canvas.width : canvas.height;
    canvas.left = (side - canvas.width) / 2;
    canvas.top = (side - canvas.height) / 2;
    canvas.canvas_width = canvas.canvas_height = side;
    return canvas;
}

static fvlm_status pad(fvlm_pool *pool, const fvlm_image *image, size_t size, fvlm_tiles *tiles, fvlm_error *error)
{
    fvlm_canvas canvas = pad_canvas(bare_canvas(image));
    fvlm_resize_window window = {size, size, 0, 0, size, size};
    fvlm_status status = create_tiles(tiles, size, 1, error);
    return status != FVLM_OK ? status : fvlm_resize(pool, &canvas, &window, tiles->pixels, size * 3, error);
}

/* The middle of the resized picture. */
static fvlm_resize_window crop_window(size_t width, size_t height, size_t size)
{
    bool tall = width <= height;
    size_t shorter = tall ? width : height, longer = tall ? height : width;
    size_t stretched = (size_t)((double)(size * longer) / (double)shorter);
    fvlm_resize_window window = {size, size, 0, 0, size, size};
    if (tall) {
        window.full_height = stretched;
        window.top = (stretched - size) / 2;
    } else {
        window.full_width = stretched;
        window.left = (stretched - size) / 2;
    }
    return window;
}

static fvlm_status crop(fvlm_pool *pool, const fvlm_image *image, size_t size, fvlm_tiles *tiles, fvlm_error *error)
{
    fvlm_canvas canvas = bare_canvas(image);
    fvlm_resize_window window = crop_window(canvas.width, canvas.height, size);
    fvlm_status status = create_tiles(tiles, size, 1, error);
    return status != FVLM_OK ? status : fvlm_resize(pool, &canvas, &window, tiles->pixels, size * 3, error);
}

fvlm_framing fvlm_preprocess_framing(fvlm_image_mode mode, size_t width, size_t height, size_t size)
{
    if (mode == FVLM_IMAGE_CROP) {
        fvlm_resize_window window = crop_window(width, height, size);
        double side = (double)size;
        return (fvlm_framing){{(double)window.full_width / side, (double)window.full_height / side},
                              {-(double)window.left / side, -(double)window.top / side}};
    }
    fvlm_canvas canvas = pad_canvas((fvlm_canvas){.width = width, .height = height});
    double side = (double)canvas.canvas_width;
    return (fvlm_framing){{(double)width / side, (double)height / side},
                          {(double)canvas.left / side, (double)canvas.top / side}};
}

/* The resolution that keeps most of the picture's pixels, then wastes least of its own. */
static const size_t *best_resolution(const fvlm_preprocessing *preprocessing, double width, double height)
{
    const size_t *best = NULL;
    double best_effective = 0, least_wasted = INFINITY;
    for (size_t i = 0; i < preprocessing->pinpoint_count; i++) {
        const size_t *pinpoint = preprocessing->pinpoints[i];
        double scale = fmin((double)pinpoint[0] / width, (double)pinpoint[1] / height);
        double effective = fmin(floor(width * scale) * floor(height * scale), width * height);
        double wasted = (double)pinpoint[0] * (double)pinpoint[1] - effective;
        if (effective > best_effective || (effective == best_effective && wasted < least_wasted)) {
            best = pinpoint;
            best_effective = effective;
            least_wasted = wasted;
        }
    }
    return best;
}

/* The picture fitted into `width` x `height`, then cut into tiles->columns x tiles->rows tiles behind tile 0. */
static fvlm_status cut_tiles(fvlm_pool *pool, const fvlm_canvas *canvas, size_t width, size_t height, fvlm_tiles *tiles,
                             fvlm_error *error)
{
    double scale_width = (double)width / (double)canvas->width, scale_height = (double)height / (double)canvas->height;
    fvlm_resize_window window = {.full_width = width, .full_height = height};
    if (scale_width < scale_height) {
        size_t scaled = (size_t)ceil((double)canvas->height * scale_width);
        window.full_height = scaled < height ? scaled : height;
    } else {
        size_t scaled = (size_t)ceil((double)canvas->width * scale_height);
        window.full_width = scaled < width ? scaled : width;
    }
    window.width = window.full_width;
    window.height = window.full_height;

    size_t size = tiles->size, grid_width = tiles->columns * size, grid_height = tiles->rows * size;
    uint8_t *sheet = fvlm_calloc(grid_height, grid_width * 3); /* [rows * S, columns * S, 3] */
    if (!sheet)
        return fvlm_fail_memory(error);
    uint8_t *corner = sheet + (((height - window.height) / 2) * grid_width + (width - window.width) / 2) * 3;
    fvlm_status status = fvlm_resize(pool, canvas, &window, corner, grid_width * 3, error);
    if (status == FVLM_OK)
        for (size_t y = 0; y < grid_height; y++)
            for (size_t column = 0; column < tiles->columns; column++) {
                size_t tile = 1 + y / size * tiles->columns + column;
                memcpy(tiles->pixels + (tile * size + y % size) * size * 3,
                       sheet + (y * grid_width + column * size) * 3, size * 3);
            }
    free(sheet);
    return status;
}

static fvlm_status anyres(fvlm_pool *pool, const fvlm_image *image, const fvlm_preprocessing *preprocessing,
                          fvlm_tiles *tiles, fvlm_error *error)
{
    fvlm_canvas canvas = bare_canvas(image);
    size_t size = preprocessing->size;
    const size_t *best = best_resolution(preprocessing, (double)canvas.width, (double)canvas.height);
    if (!best || best[0] == 0 || best[1] == 0 || best[0] > MAX_TILES * size || best[1] > MAX_TILES * size)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT,
                         "image_grid_pinpoints has no usable resolution for a picture of %zu x %zu", canvas.width,
                         canvas.height);
    size_t columns = (best[0] + size - 1) / size, rows = (best[1] + size - 1) / size;
    fvlm_status status = create_tiles(tiles, size, 1 + columns * rows, error);
    if (status != FVLM_OK)
        return status;
    tiles->columns = columns;
    tiles->rows = rows;
    fvlm_resize_window window = {size, size, 0, 0, size, size};
    status = fvlm_resize(pool, &canvas, &window, tiles->pixels, size * 3, error);
    return status != FVLM_OK ? status : cut_tiles(pool, &canvas, best[0], best[1], tiles, error);
}

fvlm_status fvlm_preprocess(fvlm_pool *pool, const fvlm_image *image, const fvlm_preprocessing *preprocessing,
                            fvlm_tiles *tiles, fvlm_error *error)
{
    *tiles = (fvlm_tiles){.width = fvlm_image_width(image), .height = fvlm_image_height(image)};
    size_t size = preprocessing->size;
    if (size == 0 || size > MAX_TILE_SIDE)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "image size %zu is not in 1 to %u", size, MAX_TILE_SIDE);
    fvlm_status status = FVLM_OK;
    switch (preprocessing->mode) {
    case FVLM_IMAGE_PAD:
        status = pad(pool, image, size, tiles, error);
        break;
    case FVLM_IMAGE_ANYRES:
        status = anyres(pool, image, preprocessing, tiles, error);
        break;
    case FVLM_IMAGE_CROP:
        status = crop(pool, image, size, tiles, error);
        break;
    }
    if (status != FVLM_OK)
        fvlm_tiles_free(tiles);
    return status;
}

void fvlm_tiles_free(fvlm_tiles *tiles)
{
    free(tiles->pixels);
    *tiles = (fvlm_tiles){0};
}
