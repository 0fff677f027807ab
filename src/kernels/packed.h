/* Linear layers and the tower's feed-forward blocks with packed weights, in float32, bf16 or 8-bit integers.
 *
 * Unlike a mapped fvlm_matrix these weights are packed once, at load, in the order in which the kernels read them.
 * fp32: nothing is rounded; weights that were stored as bf16 stay so in memory. bf16: activations are rounded to bf16,
 * products summed in float32. int8: each output channel has a scale for its weights; activations become unsigned
 * integers at run time, with a scale and a least value for each row and slice of FVLM_PACKED_SLICE inputs. Sums of
 * integers are exact, and what is summed in float32 goes in the order of the inputs: results do not depend on the
 * number of threads.
 */
#ifndef FVLM_KERNELS_PACKED_H
#define FVLM_KERNELS_PACKED_H

#include <stdbool.h>

#include "base/pool.h"
#include "kernels/conv.h"
#include "kernels/gemm.h"

typedef enum fvlm_packed_type {
    FVLM_PACKED_FP32,
    FVLM_PACKED_FP32_BF16, /* float32 arithmetic with weights packed as for bf16 */
    FVLM_PACKED_BF16,
    FVLM_PACKED_INT8
} fvlm_packed_type;

/* Outputs side by side in a panel. */
#define FVLM_PACKED_PANEL 32
/* Inputs that share a scale (int8), and the part of an FFN's middle that exists at a time. A multiple of 4. */
#define FVLM_PACKED_SLICE 768

/* W [rows, cols]. */
typedef struct fvlm_packed {
    fvlm_packed_type type;
    size_t rows, cols;
    /* [panels of rows, units, FVLM_PACKED_PANEL units of 4 bytes]: a unit is 1 (float32), 2 (bf16) or 4 (int8)
     * neighbours along cols, 0 behind the matrix */
    const void *data;
    const float *scales; /* int8: W = scales[row] * integer; [panels * FVLM_PACKED_PANEL] */
    const float *sums;   /* int8: sum of W over each slice of cols; [slices, panels * FVLM_PACKED_PANEL] */
} fvlm_packed;

/* Bytes that a packed matrix takes; 0 when it is too large to pack (over 30000 cols). */
size_t fvlm_packed_bytes(fvlm_packed_type type, size_t rows, size_t cols);
/* Pack `matrix` into `memory`, fvlm_packed_bytes of it aligned to FVLM_ALIGN, which *packed then points into. Matrices
 * are packed on all threads. */
void fvlm_packed_fill(fvlm_pool *pool, fvlm_packed_type type, const fvlm_matrix *matrix, void *memory,
                      fvlm_packed *packed);

/* The largest integer that int8's activations become here: 255, or 127 where instructions hold no more. */
int fvlm_packed_int8_levels(void);

/* y[m, w->rows] = epilogue(x[m, w->cols] W^T), as fvlm_linear. In bf16 and int8 GELU is within 5e-4 of the exact one.
 */
void fvlm_packed_linear(fvlm_pool *pool, const fvlm_packed *w, const float *x, size_t m, size_t x_stride, float *y,
                        size_t y_stride, const fvlm_epilogue *epilogue);

/* Attention among `tokens` tokens with heads of FVLM_PACKED_HEAD channels: out[tokens, heads, FVLM_PACKED_HEAD] from
 * the queries, keys and values of each, qkv[tokens, 3, heads, FVLM_PACKED_HEAD]. `type` is FVLM_PACKED_FP32, or
 * FVLM_PACKED_BF16, which rounds what goes into both products; that is faster where there are instructions for it. */
#define FVLM_PACKED_HEAD FVLM_PACKED_PANEL
void fvlm_packed_attention(fvlm_pool *pool, fvlm_packed_type type, size_t tokens, size_t heads, const float *qkv,
                           float *out);
bool fvlm_packed_multiplies_bf16(void);

/* A 7x7 depthwise convolution of stride 1 without activation for bf16, two taps of a column in a unit of 4 bytes:
 * units[fvlm_packed_convolution_units]. */
size_t fvlm_packed_convolution_units(size_t channels);
void fvlm_packed_convolution(const fvlm_depthwise *conv, uint32_t *units);

/* The tower's feed-forward block over a picture x[h, w, c]: y = x + scale * (fc2(gelu(fc1(conv(x)) + bias1)) + bias2),
 * with a depthwise convolution of stride 1 without activation, fc1 [wide, c] and fc2 [c, wide] of one type. */
typedef struct fvlm_packed_ffn {
    fvlm_depthwise conv;
    const uint32_t *conv_units; /* fvlm_packed_convolution; NULL: the convolution is in float32 */
    fvlm_packed fc1, fc2;
    const float *bias1, *bias2; /* [wide], [c] */
    const float *scale;         /* [c] */
} fvlm_packed_ffn;
/* x and y must not overlap. */
void fvlm_packed_ffn_forward(fvlm_pool *pool, const fvlm_packed_ffn *ffn, const float *x, float *y);

/* The tower's stem over a picture of bytes x[h, w, 3]: y = gelu(linear(depthwise(conv(x))) + bias), with the depthwise
 * convolution of stride 2 over conv's output, whose size it has, and both with activations of their own. */
typedef struct fvlm_packed_stem {
    fvlm_stem conv;
    fvlm_depthwise depthwise;
    fvlm_packed linear;
    const float *bias; /* [linear.rows] */
} fvlm_packed_stem;
/* y[places of the depthwise convolution's output, linear.rows] */
void fvlm_packed_stem_forward(fvlm_pool *pool, const fvlm_packed_stem *stem, const uint8_t *x, float *y);

#endif
