/* Constants of a MIL program as they are stored, and the unpacking of compressed ones. */
#ifndef FVLM_FORMATS_MIL_CONSTANT_H
#define FVLM_FORMATS_MIL_CONSTANT_H

#include "formats/tensor_table.h"

/* Numbers of MIL's DataType that are read. */
enum {
    FVLM_MIL_BOOL = 1,
    FVLM_MIL_STRING = 2,
    FVLM_MIL_FLOAT16 = 10,
    FVLM_MIL_FLOAT32 = 11,
    FVLM_MIL_INT8 = 21,
    FVLM_MIL_INT16 = 22,
    FVLM_MIL_INT32 = 23,
    FVLM_MIL_INT4 = 25,
    FVLM_MIL_UINT8 = 31,
    FVLM_MIL_UINT16 = 32,
    FVLM_MIL_UINT32 = 33,
    FVLM_MIL_UINT4 = 35,
    FVLM_MIL_UINT2 = 36,
    FVLM_MIL_UINT1 = 37,
    FVLM_MIL_UINT6 = 38,
    FVLM_MIL_UINT3 = 39
};

typedef struct fvlm_mil_constant {
    int type; /* FVLM_MIL_* */
    int rank;
    size_t shape[FVLM_MAX_RANK];
    size_t count;        /* the product of shape */
    const uint8_t *data; /* row major; types of less than a byte packed, lowest bits first */
} fvlm_mil_constant;

/* Bits of one element; 0 for a type that is not read. */
int fvlm_mil_bits(int type);
/* Bytes of `count` elements; false for a type that is not read, and on overflow. */
bool fvlm_mil_bytes(int type, size_t count, size_t *bytes);
/* Element i, which must be in range. fvlm_mil_float is for the float types, fvlm_mil_integer for the others. */
int64_t fvlm_mil_integer(const fvlm_mil_constant *constant, size_t i);
float fvlm_mil_float(const fvlm_mil_constant *constant, size_t i);

/* Unpacking: each checks that the shapes fit together and writes values in the float type of `scale` or `table`.
 * Blocks: a scale (offset, table) of the data's rank holds for a block of shape / scale's shape elements along each
 * axis.
 */

/* value[i] = scale[block of i] * (data[i] - offset[block of i]). `offset` may be NULL or a single value. False where
 * shapes do not fit. */
bool fvlm_mil_check_affine(const fvlm_mil_constant *data, const fvlm_mil_constant *scale,
                           const fvlm_mil_constant *offset);
void fvlm_mil_unpack_affine(const fvlm_mil_constant *data, const fvlm_mil_constant *scale,
                            const fvlm_mil_constant *offset, void *values);

/* value[i] = lookup[block of i, indices[i]]; lookup is [blocks..., entries]. */
bool fvlm_mil_check_lookup(const fvlm_mil_constant *indices, const fvlm_mil_constant *lookup);
void fvlm_mil_unpack_lookup(const fvlm_mil_constant *indices, const fvlm_mil_constant *lookup, void *values);

#endif
