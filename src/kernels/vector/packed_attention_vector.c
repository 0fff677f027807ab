/* A chunk of attention: scores of a tile of queries in level 1 cache, their exponentials as the next product's rows,
 * and that product added to what earlier chunks gave. */
#include <math.h>

#include "kernels/vector/packed_parts.h"
#include "kernels/vector/packed_tile.h"
#include "kernels/vector/vector_math.h"

enum { CHANNELS = FVLM_PACKED_PANEL, KEYS = FVLM_PACKED_KEYS, BLOCKS = KEYS / WIDTH };

struct scores {
    float products[BLOCKS][ROWS * WIDTH]; /* q k, WIDTH keys at a time */
    float weights[ROWS * KEYS];           /* their exponentials, as float32 or bf16 [rows, KEYS] */
    float factors[ROWS];                  /* what the sums so far are to be multiplied by */
};

/* The scores of `rows` queries; -infinity up to a whole panel of keys. Returns the blocks that are filled. */
FVLM_INLINE size_t multiply_keys(fvlm_packed_type type, const fvlm_packed_chunk *call, const uint8_t *q, size_t rows,
                                 struct scores *scores)
{
    size_t padded = (call->count + PANEL - 1) / PANEL * PANEL;
    size_t panel_bytes = CHANNELS / fvlm_packed_unit(type) * PANEL * UNIT_BYTES;
    for (size_t key = 0; key < padded; key += WIDTH)
        dot(type, rows, q, CHANNELS * fvlm_packed_input_bytes(type),
            call->keys + key / PANEL * panel_bytes + key % PANEL * UNIT_BYTES, CHANNELS, scores->products[key / WIDTH]);
    for (size_t key = call->count; key < padded; key++)
        for (size_t i = 0; i < rows; i++)
            scores->products[key / WIDTH][i * WIDTH + key % WIDTH] = -INFINITY;
    return padded / WIDTH;
}

/* Row i's weights e^(scale (score - largest)); gives their sum. */
FVLM_INLINE float exponentials(fvlm_packed_type type, float scale, float largest, size_t i, size_t blocks,
                               struct scores *scores)
{
    /* e^x is 2^(x / ln 2). */
    float per_one = type == FVLM_PACKED_BF16 ? scale * 1.44269504f : scale;
    vf per = vf_set(per_one), offset = vf_set(-per_one * largest), total = vf_zero();
    for (size_t b = 0; b < blocks; b++)
        for (size_t v = 0; v < WIDTH; v += VF_LANES) {
            size_t at = i * KEYS + b * WIDTH + v;
            vf x = vf_fma(vf_load(scores->products[b] + i * WIDTH + v), per, offset);
            vf weight = type == FVLM_PACKED_BF16 ? vf_exp2_near(x) : vf_exp(x);
            total = vf_add(total, weight);
            if (type == FVLM_PACKED_BF16)
                vf_store_bf16((uint16_t *)scores->weights + at, weight);
            else
                vf_store(scores->weights + at, weight);
        }
    return vf_sum(total);
}

#if defined(__AVX512BF16__)
/* The same in bf16, two vectors at a time; the sum is that of the rounded weights. */
FVLM_INLINE float exponentials_bf16(float scale, float largest, size_t i, size_t blocks, struct scores *scores)
{
    float per_one = scale * 1.44269504f * 128;
    vf per = vf_set(per_one), offset = vf_set(127 * 128 - per_one * largest), total = vf_zero();
    vd ones = vd_set(0x3f803f80);
    for (size_t b = 0; b < blocks; b++) {
        const float *products = scores->products[b] + i * WIDTH;
        vd weights =
            vd_exp2_bf16(vf_fma(vf_load(products), per, offset), vf_fma(vf_load(products + VF_LANES), per, offset));
        total = vd_dot_bf16(total, weights, ones);
        vd_store((uint16_t *)scores->weights + i * KEYS + b * WIDTH, weights);
    }
    return vf_sum(total);
}
#endif

/* From scores to weights, row i of the tile, which is query `query`. */
FVLM_INLINE void weigh(fvlm_packed_type type, const fvlm_packed_chunk *call, size_t i, size_t query, size_t blocks,
                       struct scores *scores)
{
    vf top = vf_set(-INFINITY);
    for (size_t b = 0; b < blocks; b++)
        for (size_t v = 0; v < WIDTH; v += VF_LANES)
            top = vf_max(vf_load(scores->products[b] + i * WIDTH + v), top);
    float largest = vf_largest(top), factor = 0, total;
    if (!call->first) {
        float before = call->largest[query];
        largest = before > largest ? before : largest;
        factor = before == largest ? 1 : expf(call->scale * (before - largest));
    }
#if defined(__AVX512BF16__)
    if (type == FVLM_PACKED_BF16)
        total = exponentials_bf16(call->scale, largest, i, blocks, scores);
    else
#endif
        total = exponentials(type, call->scale, largest, i, blocks, scores);
    call->largest[query] = largest;
    call->totals[query] = total + (call->first ? 0 : call->totals[query] * factor);
    scores->factors[i] = factor;
}

FVLM_INLINE void add_values(fvlm_packed_type type, const fvlm_packed_chunk *call, size_t query, size_t rows,
                            size_t keys, const struct scores *scores)
{
    float products[ROWS * WIDTH];
    for (size_t channel = 0; channel < CHANNELS; channel += WIDTH) {
        dot(type, rows, (const uint8_t *)scores->weights, KEYS * fvlm_packed_input_bytes(type),
            call->values + channel * UNIT_BYTES, keys, products);
        for (size_t i = 0; i < rows; i++)
            for (size_t v = 0; v < WIDTH; v += VF_LANES) {
                float *sum = call->sums + (query + i) * CHANNELS + channel + v;
                vf product = vf_load(products + i * WIDTH + v);
                vf_store(sum, call->first ? product : vf_fma(vf_load(sum), vf_set(scores->factors[i]), product));
            }
    }
}

FVLM_INLINE void attend_of(fvlm_packed_type type, const fvlm_packed_chunk *call)
{
    struct scores scores;
    dot_begin(type, call->queries, CHANNELS);
    for (size_t query = 0, rows; query < call->queries; query += rows) {
        rows = next_rows(call->queries - query);
        const uint8_t *q = call->q + query * CHANNELS * fvlm_packed_input_bytes(type);
        size_t blocks = multiply_keys(type, call, q, rows, &scores);
        for (size_t i = 0; i < rows; i++)
            weigh(type, call, i, query + i, blocks, &scores);
        add_values(type, call, query, rows, blocks * WIDTH, &scores);
    }
    dot_end();
}

void FVLM_FOR_ISA(fvlm_packed_attend)(const fvlm_packed_chunk *call)
{
    if (call->type == FVLM_PACKED_BF16)
        attend_of(FVLM_PACKED_BF16, call);
    else
#if defined(DOT_TILES)
        fvlm_packed_kernels_avx512bf16.attend(call);
#else
        attend_of(FVLM_PACKED_FP32, call);
#endif
}
