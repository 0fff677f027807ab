/* Pictures: decode any supported file into RGB.
 *
 * JPEG, PNG, WebP and BMP always; GIF, TIFF, AVIF and HEIC where the build has them. EXIF orientation is applied,
 * alpha dropped, CMYK converted, 16-bit grey scaled to 8, and of an animation the first frame is taken.
 * An fvlm_image is immutable and may be shared between threads.
 */
#ifndef FASTVLM_IMAGE_H
#define FASTVLM_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "fastvlm/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fvlm_image fvlm_image;

/* Limits: the header is checked before any pixel is decoded. */
#define FVLM_IMAGE_MAX_SIDE 65536u         /* pixels */
#define FVLM_IMAGE_MAX_PIXELS (128u << 20) /* width x height */
#define FVLM_IMAGE_MAX_BYTES (256u << 20)  /* encoded file */

/* Read the file at `path` ("-": standard input). The caller owns *image: fvlm_image_free. */
FVLM_API fvlm_status fvlm_image_open(const char *path, fvlm_image **image, fvlm_error *error);

/* Decode `bytes` of an encoded picture. `name` is used in error messages only (NULL: "image"). */
FVLM_API fvlm_status fvlm_image_decode(const void *data, size_t bytes, const char *name, fvlm_image **image,
                                       fvlm_error *error);

/* Copy raw pixels, rgb [height, width, 3] tightly packed. */
FVLM_API fvlm_status fvlm_image_from_rgb(const uint8_t *rgb, size_t width, size_t height, fvlm_image **image,
                                         fvlm_error *error);

FVLM_API size_t fvlm_image_width(const fvlm_image *image);
FVLM_API size_t fvlm_image_height(const fvlm_image *image);
/* [height, width, 3], valid as long as the image. */
FVLM_API const uint8_t *fvlm_image_rgb(const fvlm_image *image);

/* Free *image and null it. */
FVLM_API void fvlm_image_free(fvlm_image **image);

#ifdef __cplusplus
}
#endif
#endif
