/* From a picture to what the vision tower gets: tiles of S x S bytes. */
#ifndef FVLM_IMAGE_PREPROCESS_H
#define FVLM_IMAGE_PREPROCESS_H

#include "base/error.h"
#include "base/pool.h"
#include "fastvlm/image.h"

typedef enum fvlm_image_mode {
    FVLM_IMAGE_PAD,    /* paste on a black square, resize */
    FVLM_IMAGE_ANYRES, /* the whole picture squeezed to S x S, then the tiles of the best-fitting grid resolution */
    FVLM_IMAGE_CROP    /* shortest edge to S, centre crop */
} fvlm_image_mode;

typedef struct fvlm_preprocessing {
    fvlm_image_mode mode;
    size_t size;                  /* S, side of a tile in pixels */
    const size_t (*pinpoints)[2]; /* anyres: [pinpoint_count] of width, height, as in image_grid_pinpoints */
    size_t pinpoint_count;
} fvlm_preprocessing;

/* What the tower gets. */
typedef struct fvlm_tiles {
    uint8_t *pixels; /* [count, size, size, 3], free with fvlm_tiles_free */
    size_t count, size;
    size_t columns, rows; /* anyres: the grid of tiles behind the first one; otherwise 0 */
    size_t width, height; /* of the picture, needed to take the padding out of anyres features */
} fvlm_tiles;

/* Bit for bit what Pillow's bicubic resize and the published preprocessing give. */
fvlm_status fvlm_preprocess(fvlm_pool *pool, const fvlm_image *image, const fvlm_preprocessing *preprocessing,
                            fvlm_tiles *tiles, fvlm_error *error);
void fvlm_tiles_free(fvlm_tiles *tiles);

/* Where a picture is in the one tile that pad and crop make of it: what is at `part` of its width or height is at
 * scale * part + offset of the tile's. Index 0 is across, 1 down. */
typedef struct fvlm_framing {
    double scale[2], offset[2];
} fvlm_framing;
/* For a picture of width x height pixels and tiles of size x size. `mode` is not anyres. */
fvlm_framing fvlm_preprocess_framing(fvlm_image_mode mode, size_t width, size_t height, size_t size);

#endif
