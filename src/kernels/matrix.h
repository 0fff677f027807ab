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
    FVLM_MLX4, /* matrices only, as all that follow: 4-bit affine groups, see fvlm_matrix */
    FVLM_MLX8, /* 8-bit affine groups */
    FVLM_Q8_0, /* GGUF's blocks */
    FVLM_Q4_0,
    FVLM_Q4_K
} fvlm_dtype;

/* Bytes of one element; 0 for the grouped types. */
size_t fvlm_dtype_bytes(fvlm_dtype type);
/* Elements and bytes of a block of GGUF's; *bytes 0 for other types. */
size_t fvlm_dtype_block(fvlm_dtype type, size_t *bytes);
/* "F32", "BF16", "Q4_K", ...: safetensors' and GGUF's spelling; static. */
const char *fvlm_dtype_name(fvlm_dtype type);

/* A weight matrix W [rows, cols], row major: a linear layer gives y[m, rows] = x[m, cols] W^T.
 * F32, F16, BF16: `data` is [rows, cols] with rows one after the other.
 * MLX4, MLX8: `data` is u32 [rows, cols * bits / 32], lowest bits first; element (r, c) is
 *   scales[r, c / group] * q + biases[r, c / group], with scales and biases [rows, cols / group] of `scale_type`.
 *   As in MLX the arithmetic is that of scale_type: for F16 the product is rounded to fp16, then the sum is (an fp32
 *   product and sum moves logits by 5e-3). Same for BF16.
 * Q8_0, Q4_0, Q4_K: `data` is [rows, blocks of cols], little endian, and the arithmetic is float32's:
 *   Q8_0, 32 elements in 34 bytes: fp16 d, 32 int8 q; d q.
 *   Q4_0, 32 elements in 18 bytes: fp16 d, 16 bytes; element i is a low half, element i + 16 a high one; d (q - 8).
 *   Q4_K, 256 elements in 144 bytes: fp16 d and dmin, 12 bytes with a scale and a least value of 6 bits for each 32
 *     elements (fvlm_q4_k_scales), 128 bytes of q: 32 of them hold 32 elements in their low halves and the next 32 in
 *     their high ones; (d scale) q - (dmin least).
 * Pointers may be aligned to their element only; those of grouped types not even that. */
typedef struct fvlm_matrix {
    fvlm_dtype type;
    size_t rows, cols;
    const void *data;
    const void *scales, *biases;
    fvlm_dtype scale_type; /* F16, BF16 or F32 */
    size_t group;
    fvlm_dtype inputs; /* F32, BF16 or I8: what a linear layer may round its inputs to, see gemm.h */
} fvlm_matrix;

/* Bytes of `data` that a row takes. */
size_t fvlm_matrix_row_bytes(const fvlm_matrix *matrix);
/* Bytes that the matrix's data, scales and biases take. */
size_t fvlm_matrix_bytes(const fvlm_matrix *matrix);

/* y[cols] = row `row` as float32 (embedding lookup). */
void fvlm_matrix_row(const fvlm_matrix *matrix, size_t row, float *y);

/* y[count] = elements col .. col + count of a row; of a grouped matrix multiples of 32. */
void fvlm_matrix_values(const fvlm_matrix *matrix, size_t row, size_t col, size_t count, float *y);

/* y[count] = x[count] of `type` (F32, F16, BF16, F64) as float32. */
void fvlm_to_float(fvlm_dtype type, const void *x, size_t count, float *y);

/* Round to nearest even. */
uint16_t fvlm_bf16_from_float(float x);
float fvlm_float_from_bf16(uint16_t x);
uint16_t fvlm_f16_from_float(float x);
float fvlm_float_from_f16(uint16_t x);

/* An element of a grouped matrix: scale * q + bias in the arithmetic of `scale_type`, q at most 255. */
float fvlm_grouped_value(fvlm_dtype scale_type, unsigned q, float scale, float bias);

/* The scales and least values of the 8 parts of a Q4_K block, 0 to 63, from its 12 bytes. */
void fvlm_q4_k_scales(const uint8_t packed[12], uint8_t scales[8], uint8_t least[8]);

#endif
