/* The body of every picture's fuzz target: one codec on the input, its error or its pixels. */
#ifndef FVLM_FUZZ_IMAGE_H
#define FVLM_FUZZ_IMAGE_H

#include <stdlib.h>
#include <string.h>

#include "image/image_codec.h"

static inline int fuzz_codec(fvlm_status (*decode)(const fvlm_encoded *, fvlm_raster *, fvlm_error *),
                             const uint8_t *data, size_t size)
{
    const fvlm_encoded source = {data, size, "input"};
    fvlm_raster raster = {0};
    fvlm_error error = {0};
    fvlm_status status = decode(&source, &raster, &error);
    if (status == FVLM_OK) {
        /* Look at the last pixel: a raster smaller than it says does not go unseen. */
        volatile uint8_t last = raster.rgb[raster.width * raster.height * 3 - 1];
        (void)last;
    } else if (error.code != status || strlen(error.message) == 0) {
        abort(); /* an error must be said */
    }
    free(raster.rgb);
    return 0;
}

#endif
