/* Pillow's antialiased bicubic resize, to the bit. */
#ifndef FVLM_IMAGE_RESIZE_H
#define FVLM_IMAGE_RESIZE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/pool.h"

/* A picture lying on a black canvas, which is never built: the square of a picture of 1 x 60000 would be 10 GB. */
typedef struct fvlm_canvas {
    const uint8_t *rgb; /* [height, width, 3] */
    size_t width, height;
    size_t left, top; /* where the picture lies; it lies inside */
    size_t canvas_width, canvas_height;
} fvlm_canvas;

/* The part of the resized canvas that is wanted. */
typedef struct fvlm_resize_window {
    size_t full_width, full_height; /* what the whole canvas is resized to */
    size_t left, top, width, height;
} fvlm_resize_window;

/* out [window->height, stride], its first window->width * 3 bytes of each row are written. */
fvlm_status fvlm_resize(fvlm_pool *pool, const fvlm_canvas *canvas, const fvlm_resize_window *window, uint8_t *out,
                        size_t stride, fvlm_error *error);

#endif
