/* Number formats and single rows of weight matrices, as plain C: what the vector kernels must agree with. */
#include "kernels/matrix.h"

#include <string.h>

#include "kernels/gemm_block.h"

static uint32_t float_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_of_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

uint16_t fvlm_bf16_from_float(float x)
{
    uint32_t bits = float_bits(x);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40); /* NaN stays one, even when its low half held all of it */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float fvlm_float_from_bf16(uint16_t x)
{
    return float_of_bits((uint32_t)x << 16);
}

uint16_t fvlm_f16_from_float(float x)
{
    uint32_t bits = float_bits(x), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (size > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (size >= 0x477ff000) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00);
    if (size < 0x38800000) /* below 2^-14: adding 1/2 leaves the rounded subnormal in the low bits */
        return (uint16_t)(sign | (float_bits(float_of_bits(size) + 0.5f) - 0x3f000000));
    return (uint16_t)(sign | ((size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13));
}

float fvlm_float_from_f16(uint16_t x)
{
    /* The exponent's bias grows by 112; multiplying by a power of 2 makes subnormals normal on the way. */
    uint32_t size = (uint32_t)(x & 0x7fff) << 13;
    float value = float_of_bits(size) * 0x1p112f;
    uint32_t bits = size >= 0x0f800000 ? size | 0x7f800000 : float_bits(value);
    return float_of_bits(bits | (uint32_t)(x & 0x8000) << 16);
}

static float rounded_to(fvlm_dtype type, float x)
{
    if (type == FVLM_F16)
        return fvlm_float_from_f16(fvlm_f16_from_float(x));
    return type == FVLM_BF16 ? fvlm_float_from_bf16(fvlm_bf16_from_float(x)) : x;
}

/* Exact apart from the two roundings: a float holds the product, and enough of the sum for a second rounding to be
 * harmless (24 bits are at least twice 11 plus 2). */
float fvlm_grouped_value(fvlm_dtype scale_type, unsigned q, float scale, float bias)
{
    return rounded_to(scale_type, rounded_to(scale_type, scale * (float)q) + bias);
}

size_t fvlm_matrix_row_bytes(const fvlm_matrix *matrix)
{
    size_t bytes, block = fvlm_dtype_block(matrix->type, &bytes);
    if (block)
        return matrix->cols / block * bytes;
    if (matrix->type == FVLM_MLX4)
        return matrix->cols / 2;
    return matrix->cols * (matrix->type == FVLM_MLX8 ? 1 : fvlm_dtype_bytes(matrix->type));
}

size_t fvlm_matrix_bytes(const fvlm_matrix *matrix)
{
    size_t groups = matrix->group ? matrix->cols / matrix->group : 0;
    return matrix->rows * (fvlm_matrix_row_bytes(matrix) + 2 * groups * fvlm_dtype_bytes(matrix->scale_type));
}

void fvlm_to_float(fvlm_dtype type, const void *x, size_t count, float *y)
{
    if (type != FVLM_F64) {
        fvlm_gemm_kernels_select()->to_float(type, x, count, y);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        double value;
        memcpy(&value, (const char *)x + i * sizeof value, sizeof value);
        y[i] = (float)value;
    }
}

static float half_at(const uint8_t *p)
{
    return fvlm_float_from_f16((uint16_t)(p[0] | p[1] << 8));
}

/* The first four of each have 6 bits of a byte; the others 4 bits of one, and the 2 that those left free. */
void fvlm_q4_k_scales(const uint8_t packed[12], uint8_t scales[8], uint8_t least[8])
{
    for (int i = 0; i < 4; i++) {
        scales[i] = packed[i] & 63;
        least[i] = packed[i + 4] & 63;
        scales[i + 4] = (uint8_t)((packed[i + 8] & 15) | packed[i] >> 6 << 4);
        least[i + 4] = (uint8_t)(packed[i + 8] >> 4 | packed[i + 4] >> 6 << 4);
    }
}

/* Elements part * 32 .. part * 32 + 32 of a block. */
static void block_values(fvlm_dtype type, const uint8_t *block, size_t part, float *y)
{
    float d = half_at(block);
    uint8_t scales[8], least[8];
    switch (type) {
    case FVLM_Q8_0:
        for (int i = 0; i < 32; i++)
            y[i] = d * (float)(int8_t)block[2 + i];
        return;
    case FVLM_Q4_0:
        for (int i = 0; i < 32; i++)
            y[i] = d * (float)((block[2 + i % 16] >> (i / 16 * 4) & 15) - 8);
        return;
    default:
        fvlm_q4_k_scales(block + 4, scales, least);
        float scale = d * (float)scales[part], minimum = half_at(block + 2) * (float)least[part];
        for (size_t i = 0; i < 32; i++)
            y[i] = scale * (float)(block[16 + part / 2 * 32 + i] >> (part % 2 * 4) & 15) - minimum;
    }
}

void fvlm_matrix_values(const fvlm_matrix *matrix, size_t row, size_t col, size_t count, float *y)
{
    size_t element = fvlm_dtype_bytes(matrix->type);
    if (element) {
        fvlm_to_float(matrix->type, (const char *)matrix->data + (row * matrix->cols + col) * element, count, y);
        return;
    }
    size_t first = row * matrix->cols + col, bytes, block = fvlm_dtype_block(matrix->type, &bytes);
    const uint8_t *data = matrix->data;
    if (block) {
        for (size_t at = first; at < first + count; at += 32)
            block_values(matrix->type, data + at / block * bytes, at % block / 32, y + (at - first));
        return;
    }
    /* A row is a whole number of groups, and a group of 32 or more. */
    size_t scale_bytes = fvlm_dtype_bytes(matrix->scale_type);
    float scale = 0, bias = 0;
    for (size_t i = 0; i < count; i++) {
        size_t at = first + i, group = at / matrix->group;
        if (i == 0 || at % matrix->group == 0) {
            fvlm_to_float(matrix->scale_type, (const char *)matrix->scales + group * scale_bytes, 1, &scale);
            fvlm_to_float(matrix->scale_type, (const char *)matrix->biases + group * scale_bytes, 1, &bias);
        }
        unsigned q = matrix->type == FVLM_MLX8 ? data[at] : data[at / 2] >> (at % 2 * 4) & 15;
        y[i] = fvlm_grouped_value(matrix->scale_type, q, scale, bias);
    }
}

void fvlm_matrix_row(const fvlm_matrix *matrix, size_t row, float *y)
{
    fvlm_matrix_values(matrix, row, 0, matrix->cols, y);
}
