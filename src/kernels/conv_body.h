/* What an instruction set provides for convolutions; single-threaded. */
#ifndef FVLM_KERNELS_CONV_BODY_H
#define FVLM_KERNELS_CONV_BODY_H

#include <stdbool.h>

#include "kernels/conv.h"

/* A part of a convolution's output, and where it goes: places and lines are that many floats apart in y, which points
 * to the first place. */
typedef struct fvlm_conv_area {
    size_t row, rows, column, columns;
    float *y;
    size_t y_stride, line_stride;
    bool stream; /* y may be written past the caches */
} fvlm_conv_area;

/* Lines and places of the areas that a picture is cut into. Neighbours share the input around their edges, which small
 * areas read more than once; this much of it stays in a level 2 cache, and the places are a handful of GEMM tiles. */
#define FVLM_AREA_ROWS 8
#define FVLM_AREA_COLUMNS 16

typedef struct fvlm_conv_kernels {
    void (*depthwise)(const fvlm_depthwise *conv, const float *x, const fvlm_conv_area *area);
    /* y[columns, channels]: output row `row` from `column` on. */
    void (*stem_row)(const fvlm_stem *conv, const uint8_t *x, size_t row, size_t column, size_t columns, float *y);
    /* sums[kernel * kernel, FVLM_CONV_CHANNELS] += what output row `row` adds to the weights' gradients, of `count` of
     * those channels from `first` on. */
    void (*depthwise_weights)(const fvlm_depthwise *conv, const float *x, const float *dy, size_t row, size_t first,
                              size_t count, float *sums);
    /* dx[width, inputs] = the gradient of input row `row`, of which dy is that of the whole output. */
    void (*depthwise_inputs_row)(const fvlm_depthwise *conv, const float *dy, size_t row, float *dx);
    /* As depthwise_weights: sums[27, FVLM_CONV_CHANNELS], whose rows are in the order of stored weights. */
    void (*stem_weights)(const fvlm_stem *conv, const uint8_t *x, const float *dy, size_t row, size_t first,
                         size_t count, float *sums);
} fvlm_conv_kernels;

/* Channels of a task of the weights' gradients: two cache lines of each place. */
#define FVLM_CONV_CHANNELS 32

extern const fvlm_conv_kernels fvlm_conv_kernels_reference, fvlm_conv_kernels_avx2, fvlm_conv_kernels_avx512,
    fvlm_conv_kernels_neon, fvlm_conv_kernels_wasm; /* those of this build's architecture exist */

/* The best of the instruction sets that fvlm_cpu_flags allows. */
const fvlm_conv_kernels *fvlm_conv_kernels_select(void);

/* Which of the kernel's taps meet the input at output place `place` of a direction `length` long: [first, last). */
static inline void fvlm_conv_taps(size_t place, size_t kernel, size_t stride, size_t length, size_t *first,
                                  size_t *last)
{
    size_t start = place * stride, pad = kernel / 2; /* tap t reads input start + t - pad */
    *first = start < pad ? pad - start : 0;
    *last = start + kernel - pad > length ? length + pad - start : kernel;
}

/* The taps that read input place `place`, first, first + stride ... < last; tap t does so for output place
 * (place + kernel / 2 - t) / stride, of which there are `outputs`. */
static inline void fvlm_conv_readers(size_t place, size_t kernel, size_t stride, size_t outputs, size_t *first,
                                     size_t *last)
{
    size_t end = place + kernel / 2; /* of tap 0, if the stride meets it */
    *last = end + 1 < kernel ? end + 1 : kernel;
    *first = end % stride;
    while ((end - *first) / stride >= outputs)
        *first += stride;
}

#endif
