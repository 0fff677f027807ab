/* Scaled dot-product attention, for the vision tower and the decoder, and rotary positions.
 * The full score matrix is never stored: a block of queries at a time. */
#ifndef FVLM_KERNELS_ATTENTION_H
#define FVLM_KERNELS_ATTENTION_H

#include <stdbool.h>
#include <stdint.h>

#include "base/pool.h"
#include "kernels/matrix.h"

/* out[i, h] = sum_j softmax_j(scale q[i, h] . k[j, g]) v[j, g], where g = h / (heads / kv_heads).
 * Element (i, h, d) of q is at q[i * q_stride + h * head_dim + d]; k, v and out are laid out alike, where `type` is
 * F32. k and v may be BF16, or I8: a head's row is then head_dim integers and, unaligned, the float that one of them
 * counts. causal: query i sees the keys j < keys - queries + i + 1; otherwise all `keys`. tail (beams; NULL: none):
 * query i sees in addition the rows tail[i * tail_stride + t], t < tail_count, of k and v, after the `keys` first ones,
 * and causal must be false. */
typedef struct fvlm_attention {
    size_t queries, keys;
    size_t heads, kv_heads, head_dim;
    float scale;
    bool causal;
    const float *q;
    fvlm_dtype type; /* of k and v */
    const void *k, *v;
    size_t q_stride, k_stride, v_stride; /* elements between rows: floats, numbers of bf16, bytes */
    float *out;
    size_t out_stride;
    const int32_t *tail;
    size_t tail_count, tail_stride;
} fvlm_attention;

/* Elements from a head's row of keys or values to the next head's. */
size_t fvlm_attention_head_stride(fvlm_dtype type, size_t head_dim);
/* The rows of keys or values that stand for x[rows, heads, head_dim], which has no gaps; type BF16 or I8. */
void fvlm_attention_narrow(fvlm_dtype type, const float *x, size_t rows, size_t heads, size_t head_dim, void *y,
                           size_t y_stride);

/* Workspace that a call needs, in floats, for any attention up to these sizes (0 for short ones is possible). */
size_t fvlm_attention_workspace(size_t queries, size_t keys, size_t head_dim, int threads);
/* `workspace` is as large as fvlm_attention_workspace says. */
void fvlm_attention_forward(fvlm_pool *pool, const fvlm_attention *attention, float *workspace);

/* Backward: from `dout`, laid out like `out`, to the gradients of q, k and v, laid out like those, all written. The
 * attention's `out` must hold its result; it has no tail, and its k and v are F32. */
typedef struct fvlm_attention_gradients {
    const float *dout;
    float *dq, *dk, *dv;
    size_t dout_stride, dq_stride, dk_stride, dv_stride; /* floats between rows */
} fvlm_attention_gradients;

/* Floats of workspace for any attention up to these sizes. */
size_t fvlm_attention_backward_workspace(size_t keys, size_t heads, size_t head_dim, int threads);
void fvlm_attention_backward(fvlm_pool *pool, const fvlm_attention *attention,
                             const fvlm_attention_gradients *gradients, float *workspace);

/* Rotary positions, half-split as Qwen2: for each row i and head, pairs (d, d + head_dim / 2) of x turn by the angle
 * positions[i] * base^(-2 d / head_dim). x[rows, stride] in place, heads at the start of a row. The angles come from
 * `table`, [positions, head_dim] of cos then sin (fvlm_rope_table). */
void fvlm_rope_table(size_t positions, size_t head_dim, double base, float *table);
void fvlm_rope(float *x, size_t rows, size_t stride, size_t heads, size_t head_dim, const int32_t *positions,
               const float *table);
/* The gradient of x from that of what fvlm_rope made of it, in place: the turn backwards. */
void fvlm_rope_backward(float *x, size_t rows, size_t stride, size_t heads, size_t head_dim, const int32_t *positions,
                        const float *table);

#endif
