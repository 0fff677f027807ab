/* Elements of packed constants, and the two ways in which Core ML compresses weights: integers with a scale and an
 * offset for each block, and indices into a table of values for each block (palettes).
 *
 * Data flow: data [shape] and parameters [blocks...] -> values [shape] in the parameters' float type.
 */
#include "formats/mil_constant.h"

#include <string.h>

#include "base/checked.h"

int fvlm_mil_bits(int type)
{
    switch (type) {
    case FVLM_MIL_UINT1:
        return 1;
    case FVLM_MIL_UINT2:
        return 2;
    case FVLM_MIL_UINT3:
        return 3;
    case FVLM_MIL_INT4:
    case FVLM_MIL_UINT4:
        return 4;
    case FVLM_MIL_UINT6:
        return 6;
    case FVLM_MIL_BOOL:
    case FVLM_MIL_INT8:
    case FVLM_MIL_UINT8:
        return 8;
    case FVLM_MIL_FLOAT16:
    case FVLM_MIL_INT16:
    case FVLM_MIL_UINT16:
        return 16;
    case FVLM_MIL_FLOAT32:
    case FVLM_MIL_INT32:
    case FVLM_MIL_UINT32:
        return 32;
    default:
        return 0;
    }
}

bool fvlm_mil_bytes(int type, size_t count, size_t *bytes)
{
    int bits = fvlm_mil_bits(type);
    if (bits == 0 || !fvlm_size_multiply(count, (size_t)bits, bytes) || !fvlm_size_add(*bytes, 7, bytes))
        return false;
    *bytes /= 8;
    return true;
}

static bool is_float(const fvlm_mil_constant *constant)
{
    return constant->type == FVLM_MIL_FLOAT16 || constant->type == FVLM_MIL_FLOAT32;
}

int64_t fvlm_mil_integer(const fvlm_mil_constant *constant, size_t i)
{
    int bits = fvlm_mil_bits(constant->type);
    uint64_t value = 0;
    if (bits >= 8) {
        for (int k = bits / 8 - 1; k >= 0; k--)
            value = value << 8 | constant->data[i * (size_t)(bits / 8) + (size_t)k];
    } else {
        size_t bit = i * (size_t)bits;
        int shift = (int)(bit % 8);
        value = constant->data[bit / 8] >> shift;
        if (shift + bits > 8)
            value |= (uint64_t)constant->data[bit / 8 + 1] << (8 - shift);
        value &= (1u << bits) - 1;
    }
    bool is_signed = constant->type == FVLM_MIL_INT4 || constant->type == FVLM_MIL_INT8 ||
                     constant->type == FVLM_MIL_INT16 || constant->type == FVLM_MIL_INT32;
    if (is_signed && value >> (bits - 1))
        return (int64_t)value - ((int64_t)1 << bits);
    return (int64_t)value;
}

float fvlm_mil_float(const fvlm_mil_constant *constant, size_t i)
{
    if (constant->type == FVLM_MIL_FLOAT16) {
        uint16_t half;
        memcpy(&half, constant->data + 2 * i, sizeof half);
        return fvlm_float_from_f16(half);
    }
    float value;
    memcpy(&value, constant->data + 4 * i, sizeof value);
    return value;
}

static void store(int type, void *values, size_t i, float value)
{
    if (type == FVLM_MIL_FLOAT16) {
        uint16_t half = fvlm_f16_from_float(value);
        memcpy((uint8_t *)values + 2 * i, &half, sizeof half);
    } else {
        memcpy((uint8_t *)values + 4 * i, &value, sizeof value);
    }
}

/* True where shape is cut into whole blocks by `blocks`, of which the first `rank` axes count. */
static bool blocks_fit(const fvlm_mil_constant *data, const fvlm_mil_constant *blocks)
{
    for (int i = 0; i < data->rank; i++)
        if (blocks->shape[i] == 0 || data->shape[i] % blocks->shape[i] != 0)
            return false;
    return true;
}

/* Walks the elements of `data` in order and knows the block of each. */
struct block_walk {
    int rank;
    size_t shape[FVLM_MAX_RANK], size[FVLM_MAX_RANK], blocks[FVLM_MAX_RANK], index[FVLM_MAX_RANK];
};

static void walk_start(struct block_walk *walk, const fvlm_mil_constant *data, const fvlm_mil_constant *blocks)
{
    *walk = (struct block_walk){.rank = data->rank};
    for (int i = 0; i < data->rank; i++) {
        walk->shape[i] = data->shape[i];
        walk->blocks[i] = blocks->shape[i];
        walk->size[i] = data->shape[i] / blocks->shape[i];
    }
}

/* The block of the present element; then on to the next. */
static size_t walk_next(struct block_walk *walk)
{
    size_t block = 0;
    for (int i = 0; i < walk->rank; i++)
        block = block * walk->blocks[i] + walk->index[i] / walk->size[i];
    for (int i = walk->rank - 1; i >= 0; i--) {
        if (++walk->index[i] < walk->shape[i])
            break;
        walk->index[i] = 0;
    }
    return block;
}

bool fvlm_mil_check_affine(const fvlm_mil_constant *data, const fvlm_mil_constant *scale,
                           const fvlm_mil_constant *offset)
{
    return !is_float(data) && is_float(scale) && scale->rank == data->rank && blocks_fit(data, scale) &&
           (!offset || offset->count == scale->count || offset->count == 1);
}

void fvlm_mil_unpack_affine(const fvlm_mil_constant *data, const fvlm_mil_constant *scale,
                            const fvlm_mil_constant *offset, void *values)
{
    struct block_walk walk;
    walk_start(&walk, data, scale);
    for (size_t i = 0; i < data->count; i++) {
        size_t block = walk_next(&walk);
        float base = 0;
        if (offset) {
            size_t place = offset->count == 1 ? 0 : block;
            base = is_float(offset) ? fvlm_mil_float(offset, place) : (float)fvlm_mil_integer(offset, place);
        }
        store(scale->type, values, i, fvlm_mil_float(scale, block) * ((float)fvlm_mil_integer(data, i) - base));
    }
}

bool fvlm_mil_check_lookup(const fvlm_mil_constant *indices, const fvlm_mil_constant *lookup)
{
    if (is_float(indices) || !is_float(lookup) || lookup->rank != indices->rank + 1 || !blocks_fit(indices, lookup))
        return false;
    size_t entries = lookup->shape[indices->rank];
    for (size_t i = 0; i < indices->count; i++) {
        int64_t index = fvlm_mil_integer(indices, i);
        if (index < 0 || (uint64_t)index >= entries)
            return false;
    }
    return true;
}

void fvlm_mil_unpack_lookup(const fvlm_mil_constant *indices, const fvlm_mil_constant *lookup, void *values)
{
    struct block_walk walk;
    walk_start(&walk, indices, lookup);
    size_t entries = lookup->shape[indices->rank];
    for (size_t i = 0; i < indices->count; i++) {
        size_t block = walk_next(&walk);
        size_t entry = block * entries + (size_t)fvlm_mil_integer(indices, i);
        store(lookup->type, values, i, fvlm_mil_float(lookup, entry));
    }
}
