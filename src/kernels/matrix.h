/* Number types of stored tensors, and the weight matrix that kernels read.
 *
 * Weights stay where and as they are stored (usually a mapped file): a matrix is a view. Kernels unpack a panel of it
 * at a time into cache and use that panel for many rows of activations, so no second copy of a model exists.
 */
#ifndef FVLM_KERNELS_MATRIX_H
#define FVLM_KERNELS_MATRIX_H

#include <stddef.h>
#include <stdint.h>

typedef enum fvlm_dtype {
    FVLM_F32,
    FVLM_F16,
    FVLM_BF16,
    FVLM_U8,
    FVLM_I8,
    FVLM_U32,
    FVLM_I32,
    FVLM_I64,
    FVLM_F64,
    FVLM_BOOL,
    FVLM_I16,
    FVLM_U16,
    FVLM_U64,
    FVLM_MLX4, /* matrices only: 4-bit affine groups, see fvlm_matrix */
    FVLM_MLX8  /* matrices only: 8-bit affine groups */
} fvlm_dtype;

/* Bytes of one element; 0 for the grouped types. */
size_t fvlm_dtype_bytes(fvlm_dtype type);
/* "F32", "BF16", ...: safetensors' spelling; static. */
const char *fvlm_dtype_name(fvlm_dtype type);

/* A weight matrix W [rows, cols], row major: a linear layer gives y[m, rows] = x[m, cols] W^T.
 * F32, F16, BF16: `data` is [rows, cols] with rows one after the other.
 * MLX4, MLX8: `data` is u32 [rows, cols * bits / 32], lowest bits first; element (r, c) is
 *   scales[r, c / group] * q + biases[r, c / group], with scales and biases [rows, cols / group] of `scale_type`.
 *   As in MLX the arithmetic is that of scale_type: for F16 the product is rounded to fp16, then the sum is (an fp32
 *   product and sum moves logits by 5e-3). Same for BF16.
 * Pointers may be aligned to their element only; those of MLX4 and MLX8 not even that. */
typedef struct fvlm_matrix {
    fvlm_dtype type;
    size_t rows, cols;
    const void *data;
    const void *scales, *biases;
    fvlm_dtype scale_type; /* F16, BF16 or F32 */
    size_t group;
} fvlm_matrix;

/* Bytes that the matrix's data, scales and biases take. */
size_t fvlm_matrix_bytes(const fvlm_matrix *matrix);

/* y[cols] = row `row` as float32 (embedding lookup). */
void fvlm_matrix_row(const fvlm_matrix *matrix, size_t row, float *y);

/* y[count] = x[count] of `type` (F32, F16, BF16, F64) as float32. */
void fvlm_to_float(fvlm_dtype type, const void *x, size_t count, float *y);

/* Round to nearest even. */
uint16_t fvlm_bf16_from_float(float x);
float fvlm_float_from_bf16(uint16_t x);
uint16_t fvlm_f16_from_float(float x);
float fvlm_float_from_f16(uint16_t x);

/* An element of a grouped matrix: scale * q + bias in the arithmetic of `scale_type`, q at most 255. */
float fvlm_grouped_value(fvlm_dtype scale_type, unsigned q, float scale, float bias);

#endif
