/* What image.c and the codecs share: encoded bytes in, a raster out.
 *
 * A codec reads its header, asks fvlm_raster_create for the pixels (which checks the limits), fills them and reports
 * the orientation it found. On failure it leaves the raster as it is: the caller frees it.
 */
#ifndef FVLM_IMAGE_CODEC_H
#define FVLM_IMAGE_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct fvlm_encoded {
    const uint8_t *data; /* [size] */
    size_t size;
    const char *name; /* for messages */
} fvlm_encoded;

typedef struct fvlm_raster {
    uint8_t *rgb; /* [height, width, 3], free() */
    size_t width, height;
    int orientation; /* how it must still be turned, as EXIF counts: 1 to 8; 0 or 1: not at all */
} fvlm_raster;

/* Check the size that a header declares against the limits of fastvlm/image.h. */
fvlm_status fvlm_raster_check(const fvlm_encoded *source, uint64_t width, uint64_t height, fvlm_error *error);
/* The same, then allocate zeroed (black) pixels. */
fvlm_status fvlm_raster_create(const fvlm_encoded *source, uint64_t width, uint64_t height, fvlm_raster *raster,
                               fvlm_error *error);

/* The orientation in an EXIF block, with or without its "Exif\0\0" prefix; 0 when there is none. */
int fvlm_exif_orientation(const uint8_t *exif, size_t size);
/* The tiff:Orientation property of an XMP packet; 0 when there is none. */
int fvlm_xmp_orientation(const uint8_t *xmp, size_t size);

/* The published code converts CMYK with these integers: channel x (1 - k), rounded. */
static inline uint8_t fvlm_cmyk_channel(uint8_t ink, uint8_t black)
{
    unsigned light = 255u - black, product = ink * light + 128u;
    return (uint8_t)(light - (((product >> 8) + product) >> 8));
}

fvlm_status fvlm_jpeg_decode(const fvlm_encoded *source, fvlm_raster *raster, fvlm_error *error);
fvlm_status fvlm_png_decode(const fvlm_encoded *source, fvlm_raster *raster, fvlm_error *error);
fvlm_status fvlm_webp_decode(const fvlm_encoded *source, fvlm_raster *raster, fvlm_error *error);
fvlm_status fvlm_gif_decode(const fvlm_encoded *source, fvlm_raster *raster, fvlm_error *error);
fvlm_status fvlm_bmp_decode(const fvlm_encoded *source, fvlm_raster *raster, fvlm_error *error);
fvlm_status fvlm_tiff_decode(const fvlm_encoded *source, fvlm_raster *raster, fvlm_error *error);
fvlm_status fvlm_avif_decode(const fvlm_encoded *source, fvlm_raster *raster, fvlm_error *error);
fvlm_status fvlm_heif_decode(const fvlm_encoded *source, fvlm_raster *raster, fvlm_error *error);

#endif
