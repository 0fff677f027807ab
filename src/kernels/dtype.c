/* Sizes and names of the number types. */
#include "kernels/matrix.h"

static const struct {
    const char *name; /* safetensors' spelling; MLX's grouped types have none there */
    size_t bytes;     /* of an element, or of a block */
    size_t block;     /* elements; 0 where types do not come in blocks */
} types[] = {
    [FVLM_F32] = {"F32", 4},        [FVLM_F16] = {"F16", 2},        [FVLM_BF16] = {"BF16", 2},
    [FVLM_U8] = {"U8", 1},          [FVLM_I8] = {"I8", 1},          [FVLM_U32] = {"U32", 4},
    [FVLM_I32] = {"I32", 4},        [FVLM_I64] = {"I64", 8},        [FVLM_F64] = {"F64", 8},
    [FVLM_BOOL] = {"BOOL", 1},      [FVLM_I16] = {"I16", 2},        [FVLM_U16] = {"U16", 2},
    [FVLM_U64] = {"U64", 8},        [FVLM_MLX4] = {"MLX4", 0},      [FVLM_MLX8] = {"MLX8", 0},
    [FVLM_Q8_0] = {"Q8_0", 34, 32}, [FVLM_Q4_0] = {"Q4_0", 18, 32}, [FVLM_Q4_K] = {"Q4_K", 144, 256},
};

size_t fvlm_dtype_bytes(fvlm_dtype type)
{
    return types[type].block ? 0 : types[type].bytes;
}

size_t fvlm_dtype_block(fvlm_dtype type, size_t *bytes)
{
    *bytes = types[type].block ? types[type].bytes : 0;
    return types[type].block;
}

const char *fvlm_dtype_name(fvlm_dtype type)
{
    return types[type].name;
}
