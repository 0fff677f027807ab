/* The limits of dot products of bf16 and of 8-bit integers, over the vector vocabulary; with AMX, of its tiles. */
#include "kernels/roofline_body.h"
#include "kernels/vector/dot.h"
#include "kernels/vector/tiles.h"

#if defined(__AMX_TILE__)

/* Six tiles of sums and one of each factor: a product takes 16 cycles and its sums are there after 52 (Intel's
 * optimization manual), so that four would do. */
enum { SUMS = 6, TILE_BYTES = TILES_SQUARE * TILES_SQUARE * TILES_UNIT };
#define ROOF_X 6
#define ROOF_W 7
#define ROOF_ALL(each) each(0) each(1) each(2) each(3) each(4) each(5)

/* `numbers` are both factors. */
FVLM_INLINE void multiply_tiles(enum tiles_product product, const uint8_t numbers[TILE_BYTES], size_t rounds,
                                int32_t sums[SUMS][TILES_SQUARE * TILES_SQUARE])
{
    const size_t stride = TILES_SQUARE * TILES_UNIT;
    tiles_begin(TILES_SQUARE, TILES_SQUARE);
#define ROOF_ZERO(tile) _tile_zero(tile);
    ROOF_ALL(ROOF_ZERO)
    _tile_loadd(ROOF_X, numbers, stride);
    _tile_loadd(ROOF_W, numbers, stride);
    for (size_t round = 0; round < rounds; round++) {
#define ROOF_ADD(tile) TILES_ADD(product, tile, ROOF_X, ROOF_W);
        ROOF_ALL(ROOF_ADD)
    }
#define ROOF_STORE(tile) _tile_stored(tile, sums[tile], stride);
    ROOF_ALL(ROOF_STORE)
    tiles_end();
}

/* Operations of `rounds`. */
static double tile_operations(size_t rounds, size_t inputs)
{
    return (double)rounds * SUMS * TILES_SQUARE * TILES_SQUARE * (double)(TILES_SQUARE * inputs * 2);
}

/* The numbers vary: on zeros the processor stays cooler and runs faster than on what any model holds. */
static double bf16(size_t rounds, float seeds[2])
{
    uint16_t numbers[TILE_BYTES / 2];
    int32_t sums[SUMS][TILES_SQUARE * TILES_SQUARE] = {{0}};
    float values[VF_LANES], total = 0;
    for (size_t i = 0; i < TILE_BYTES / 2; i += VF_LANES) {
        for (size_t j = 0; j < VF_LANES; j++)
            values[j] = seeds[j % 2] * (float)((i + j) * 37 % 101) - 5e-2f;
        vf_store_bf16(numbers + i, vf_load(values));
    }
    multiply_tiles(TILES_BF16, (const uint8_t *)numbers, rounds, sums);
    for (size_t i = 0; i < SUMS; i++) {
        float first;
        memcpy(&first, sums[i], sizeof first);
        total += first;
    }
    seeds[0] = total;
    return tile_operations(rounds, 2);
}

static double int8(size_t rounds, float seeds[2])
{
    uint8_t numbers[TILE_BYTES];
    int32_t sums[SUMS][TILES_SQUARE * TILES_SQUARE] = {{0}};
    float total = 0;
    for (size_t i = 0; i < TILE_BYTES; i++)
        numbers[i] = (uint8_t)(i * 37 + (size_t)(1e5f * seeds[1]));
    multiply_tiles(TILES_U8_S8, numbers, rounds, sums);
    for (size_t i = 0; i < SUMS; i++)
        total += (float)sums[i][0];
    seeds[0] = total;
    return tile_operations(rounds, 4);
}

#else

enum { SUMS = VF_REGISTERS * 3 / 4 };

/* The compiler may not know what is in `a`: else it would take steps that a dot product is made of out of the loop. */
#if defined(__x86_64__)
#define UNKNOWN(a) __asm__("" : "+v"(a))
#else
#define UNKNOWN(a) __asm__("" : "+w"(a))
#endif

static double bf16(size_t rounds, float seeds[2])
{
    vf sum[SUMS], total = vf_zero();
    uint16_t numbers[2 * 2 * VF_LANES];
    for (int i = 0; i < 4 * VF_LANES; i += VF_LANES)
        vf_store_bf16(numbers + i, vf_set(seeds[i / VF_LANES % 2]));
    vd a = vd_load(numbers), b = vd_load(numbers + 2 * VF_LANES);
    FVLM_UNROLL
    for (int i = 0; i < SUMS; i++)
        sum[i] = vf_set((float)i);
    for (size_t round = 0; round < rounds; round++)
        FVLM_UNROLL
    for (int i = 0; i < SUMS; i++)
        sum[i] = vd_dot_bf16(sum[i], a, b);
    FVLM_UNROLL
    for (int i = 0; i < SUMS; i++)
        total = vf_add(total, sum[i]);
    seeds[0] = vf_sum(total);
    return (double)rounds * SUMS * VF_LANES * 2 * 2;
}

static double int8(size_t rounds, float seeds[2])
{
    vd sum[SUMS];
    vf total = vf_zero();
    uint8_t numbers[4 * VF_LANES];
    for (int i = 0; i < 4 * VF_LANES; i += VF_LANES)
        vf_store_u8(numbers + i, vf_set(1000 * seeds[0]));
    vd a = vd_load(numbers), b = a;
    FVLM_UNROLL
    for (int i = 0; i < SUMS; i++)
        sum[i] = vd_zero();
    for (size_t round = 0; round < rounds; round++)
        FVLM_UNROLL
    for (int i = 0; i < SUMS; i++) {
        UNKNOWN(a);
        sum[i] = vd_dot_u8s8(sum[i], a, b);
    }
    FVLM_UNROLL
    for (int i = 0; i < SUMS; i++)
        total = vf_add(total, vd_float(sum[i]));
    seeds[0] = vf_sum(total);
    return (double)rounds * SUMS * VF_LANES * 4 * 2;
}

#endif

const fvlm_roofline_dot_kernels FVLM_FOR_ISA(fvlm_roofline_dot_kernels) = {bf16, int8};
