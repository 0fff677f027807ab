/* What an instruction set provides for packed linear layers; single-threaded. */
#ifndef FVLM_KERNELS_PACKED_BLOCK_H
#define FVLM_KERNELS_PACKED_BLOCK_H

#include <stdbool.h>

#include "kernels/conv_body.h"
#include "kernels/packed.h"

/* Bytes of a unit of weights. */
#define FVLM_PACKED_UNIT 4

/* Activations [rows, cols] as the tiles read them: float32, bf16, or integers, of which x = low + scale * integer. */
typedef struct fvlm_packed_rows {
    uint8_t *data; /* [rows, stride] */
    size_t stride; /* bytes; from fvlm_packed_stride, but for float32 that stays where it is */
    float *scale;  /* int8: [slices, rows] */
    float *low;
    size_t rows;
} fvlm_packed_rows;

/* x's rows first_row .. first_row + rows times W's rows first .. first + count, over W's slices slice .. slice +
 * slices, which are x's from its first one on. */
typedef struct fvlm_packed_block {
    const fvlm_packed *w;
    size_t first, count; /* first is a multiple of FVLM_PACKED_PANEL, and so is count, unless it reaches the end */
    size_t slice, slices;
    const fvlm_packed_rows *x;
    size_t first_row, rows;
    float *y; /* [rows, w->rows], of which the columns first .. first + count are written */
    size_t y_stride;
    size_t line, line_stride;      /* rows of y and of the residual come in lines of `line`, line_stride floats apart */
    const fvlm_epilogue *epilogue; /* as for y: its residual starts at first_row, the rest at channel 0; not NULL */
} fvlm_packed_block;

/* Units of a column of a 7x7 convolution's weights, for an even line of an area; as many again are for an odd one. */
#define FVLM_PACKED_CONV_UNITS 4

/* Units between those of one tap and of the next. */
static inline size_t fvlm_packed_conv_stride(size_t channels)
{
    return (channels + 15) / 16 * 16;
}

/* Behind a slice of an FFN's middle in float32: room for a vector of maxima. */
#define FVLM_PACKED_MAXIMA 16

/* Keys of an attention's chunk. A multiple of FVLM_PACKED_PANEL. */
#define FVLM_PACKED_KEYS 256

/* Some queries of one head against a chunk of its keys and values. With e_j = e^(scale (q k_j - largest)) over all
 * chunks so far, `sums` is that of e_j v_j, `totals` that of e_j, and `largest` the largest q k_j. */
typedef struct fvlm_packed_chunk {
    fvlm_packed_type type; /* FVLM_PACKED_FP32 or FVLM_PACKED_BF16 */
    const uint8_t *q;      /* [queries, FVLM_PACKED_PANEL channels], without gaps */
    size_t queries;
    const uint8_t *keys;   /* panels [FVLM_PACKED_PANEL keys] of units of channels */
    const uint8_t *values; /* a panel [FVLM_PACKED_PANEL channels] of units of keys, up to whole panels of keys */
    size_t count;          /* keys, at most FVLM_PACKED_KEYS */
    float scale;           /* above 0 */
    bool first;            /* there are no sums yet */
    float *sums;           /* [queries, FVLM_PACKED_PANEL] */
    float *totals, *largest;
} fvlm_packed_chunk;

typedef struct fvlm_packed_kernels {
    bool bf16;  /* fvlm_packed_multiplies_bf16 */
    int levels; /* fvlm_packed_int8_levels */
    /* Places of an FFN's area that go through a slice of the middle at a time, about: few where the middle is to stay
     * near, many where products are so fast that weights are to be read seldom. */
    size_t places;
    /* A row of weights as units; `to` has fvlm_packed_stride bytes. sums[s * sums_stride] is that of slice s. */
    void (*round)(fvlm_packed_type type, const float *w, size_t cols, uint8_t *to, float *scale, float *sums,
                  size_t sums_stride);
    /* panel[units, FVLM_PACKED_PANEL] from rows [FVLM_PACKED_PANEL, units], which lie `stride` bytes apart and may be
     * read up to it. */
    void (*interleave)(const uint8_t *rows, size_t stride, size_t units, void *panel);
    /* Rows first .. first + count of `to` from x[count, cols]. */
    void (*prepare)(fvlm_packed_type type, const float *x, size_t x_stride, size_t cols, size_t first, size_t count,
                    const fvlm_packed_rows *to);
    void (*block)(const fvlm_packed_block *call);
    /* gelu(block): rows 0 .. call->rows of `to` receive the block's columns, at most FVLM_PACKED_SLICE, as its first
     * slice. int8: call->y is scratch [rows, FVLM_PACKED_SLICE + FVLM_PACKED_MAXIMA] floats for them. */
    void (*hidden)(const fvlm_packed_block *call, const fvlm_packed_rows *to);
    void (*attend)(const fvlm_packed_chunk *call);
    /* conv, as fvlm_packed_convolution takes it, over an area of at most FVLM_AREA_ROWS x FVLM_AREA_COLUMNS places. */
    void (*convolve)(const fvlm_depthwise *conv, const uint32_t *weights, const float *x, const fvlm_conv_area *area);
} fvlm_packed_kernels;

extern const fvlm_packed_kernels fvlm_packed_kernels_reference, fvlm_packed_kernels_avx2, fvlm_packed_kernels_avx512,
    fvlm_packed_kernels_avx512vnni, fvlm_packed_kernels_avx512bf16, fvlm_packed_kernels_amx, fvlm_packed_kernels_neon,
    fvlm_packed_kernels_neonbf16; /* those of this build's architecture exist */

/* The best of the instruction sets that fvlm_cpu_flags allows. */
const fvlm_packed_kernels *fvlm_packed_kernels_select(void);

static inline bool fvlm_packed_is_fp32(fvlm_packed_type type)
{
    return type == FVLM_PACKED_FP32 || type == FVLM_PACKED_FP32_BF16;
}

/* Inputs in a unit of weights. */
static inline size_t fvlm_packed_unit(fvlm_packed_type type)
{
    return type == FVLM_PACKED_FP32 ? 1 : type == FVLM_PACKED_INT8 ? 4 : 2;
}

/* Bytes of an activation. */
static inline size_t fvlm_packed_input_bytes(fvlm_packed_type type)
{
    return fvlm_packed_is_fp32(type) ? 4 : type == FVLM_PACKED_BF16 ? 2 : 1;
}

/* Bytes between rows of `cols` inputs of `input_bytes`: an odd number of cache lines, so that the rows of a tile fall
 * into different sets of the cache. */
static inline size_t fvlm_packed_stride(size_t input_bytes, size_t cols)
{
    return ((cols * input_bytes + 63) / 64 | 1) * 64;
}

/* GELU of an FFN's middle is not below this: where its integers begin. */
#define FVLM_GELU_LEAST (-0.171f)

#endif
