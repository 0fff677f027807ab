/* Random weight matrices of every type. */
#include "matrices.h"

#include <stdbool.h>
#include <string.h>

#include "harness.h"

static void *halves(fvlm_dtype type, size_t count, float scale)
{
    uint16_t *data = harness_bytes(count * sizeof *data);
    for (size_t i = 0; i < count; i++)
        data[i] = type == FVLM_BF16 ? fvlm_bf16_from_float(harness_normal() * scale)
                                    : fvlm_f16_from_float(harness_normal() * scale);
    return data;
}

/* Random blocks with scales that give elements about 1 in size. */
static void *blocks(fvlm_dtype type, size_t count)
{
    size_t bytes, block = fvlm_dtype_block(type, &bytes);
    uint8_t *data = harness_bytes(count / block * bytes);
    for (size_t at = 0; at < count / block * bytes; at += bytes) {
        float d = type == FVLM_Q8_0 ? 0.01f : type == FVLM_Q4_0 ? 0.15f : 0.004f;
        uint16_t half = fvlm_f16_from_float(harness_normal() * d),
                 least = fvlm_f16_from_float(harness_normal() * 0.03f);
        memcpy(data + at, &half, sizeof half);
        if (type == FVLM_Q4_K)
            memcpy(data + at + 2, &least, sizeof least);
    }
    return data;
}

fvlm_matrix random_matrix(fvlm_dtype type, size_t rows, size_t cols)
{
    fvlm_matrix w = {.type = type, .rows = rows, .cols = cols};
    if (type == FVLM_F32) {
        w.data = harness_floats(rows * cols, 1);
    } else if (type == FVLM_F16 || type == FVLM_BF16) {
        w.data = halves(type, rows * cols, 1);
    } else if (type != FVLM_MLX4 && type != FVLM_MLX8) {
        w.data = blocks(type, rows * cols);
    } else {
        const fvlm_dtype scale_types[] = {FVLM_F32, FVLM_F16, FVLM_BF16};
        w.scale_type = scale_types[harness_random() % 3];
        w.group = (size_t)32 << harness_random() % 3;
        size_t groups = rows * cols / w.group;
        float scale = type == FVLM_MLX4 ? 0.1f : 0.01f;
        w.data = harness_bytes(rows * cols / (type == FVLM_MLX4 ? 2 : 1));
        w.scales =
            w.scale_type == FVLM_F32 ? (void *)harness_floats(groups, scale) : halves(w.scale_type, groups, scale);
        w.biases = w.scale_type == FVLM_F32 ? (void *)harness_floats(groups, 1) : halves(w.scale_type, groups, 1);
    }
    return w;
}

size_t random_cols(fvlm_dtype type, size_t most)
{
    size_t step = fvlm_dtype_bytes(type) ? 1 : type == FVLM_Q4_K ? 256 : 128;
    return step * harness_between(1, most > step ? most / step : 1);
}
