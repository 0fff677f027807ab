/* The order of an image's tokens, for each way of merging tiles. */
#include "model/image_tokens.h"

#include <stdlib.h>

#include "base/checked.h"

/* Rows and columns of the grid of tiles that show the picture and not its padding: the mirror of how preprocessing
 * fitted it into the grid (unpad_image). Cuts along one direction only. */
struct window {
    size_t top, bottom, left, right; /* tokens; bottom and right exclusive */
};

static struct window unpadded(const fvlm_tiles *tiles, size_t height, size_t width)
{
    struct window window = {0, height, 0, width};
    double picture = (double)tiles->width / (double)tiles->height;
    if (picture > (double)width / (double)height) {
        size_t kept = (size_t)((double)tiles->height * ((double)width / (double)tiles->width));
        window.top = (height - kept) / 2;
        window.bottom = height - window.top;
    } else {
        size_t kept = (size_t)((double)tiles->width * ((double)height / (double)tiles->height));
        window.left = (width - kept) / 2;
        window.right = width - window.left;
    }
    return window;
}

fvlm_status fvlm_image_token_index(const fvlm_config *config, const fvlm_tiles *tiles, size_t side, size_t **index,
                                   size_t *count, fvlm_error *error)
{
    size_t per_tile = side * side, most;
    *index = NULL;
    *count = 0;
    if (!fvlm_size_multiply(tiles->count, per_tile, &most) || !fvlm_size_add(most, tiles->rows * side + 1, &most))
        return fvlm_fail_memory(error);
    size_t *out = malloc(most * sizeof *out), used = 0;
    if (!out)
        return fvlm_fail_memory(error);

    bool flat = config->merge == FVLM_MERGE_FLAT || config->image_mode != FVLM_IMAGE_ANYRES;
    bool unpad = !flat && config->merge == FVLM_MERGE_SPATIAL_UNPAD;
    /* The whole picture comes first; alone, it is all there is. */
    for (size_t i = 0; i < (flat ? tiles->count : 1) * per_tile; i++)
        out[used++] = i;
    if (!flat && tiles->count > 1) {
        size_t height = tiles->rows * side, width = tiles->columns * side;
        struct window window = unpad ? unpadded(tiles, height, width) : (struct window){0, height, 0, width};
        for (size_t y = window.top; y < window.bottom; y++) {
            for (size_t x = window.left; x < window.right; x++) {
                size_t tile = 1 + y / side * tiles->columns + x / side;
                out[used++] = tile * per_tile + y % side * side + x % side;
            }
            if (unpad)
                out[used++] = FVLM_NEWLINE;
        }
    } else if (unpad) {
        out[used++] = FVLM_NEWLINE;
    }
    *index = out;
    *count = used;
    return FVLM_OK;
}
