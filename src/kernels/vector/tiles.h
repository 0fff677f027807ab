/* Products in AMX's tiles.
 *
 * A tile is 16 rows of 64 bytes: of activations, or 16 units of as many outputs, which is half a panel as it lies in
 * memory, or sums. Four tiles hold sums, and what is left of a depth that is no multiple of 64 bytes has two of its
 * own, so that nothing needs to be filled up with 0.
 */
#ifndef FVLM_KERNELS_VECTOR_TILES_H
#define FVLM_KERNELS_VECTOR_TILES_H

#if defined(__AMX_TILE__)

#include <stdbool.h>

#include "kernels/vector/vector.h"

enum { TILES_SQUARE = 16, TILES_ROWS = 2 * TILES_SQUARE, TILES_PANEL = 2 * TILES_SQUARE, TILES_UNIT = 4 };

/* Types of activations and of weights. */
enum tiles_product { TILES_BF16, TILES_U8_S8, TILES_S8_U8 };

/* Numbers of tiles, as parts of instructions; 0 to 3 are sums: of the first rows, and of the last. */
#define TILES_X 4
#define TILES_W 5
#define TILES_X_LEFT 6
#define TILES_W_LEFT 7

/* Operands of LDTILECFG. */
struct tile_shapes {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* Before the first product of a thread: of up to `rows` rows, or that many where they are fewer than TILES_SQUARE, and
 * `units` deep, or a multiple of TILES_SQUARE. */
FVLM_INLINE void tiles_begin(size_t rows, size_t units)
{
    size_t left = units % TILES_SQUARE;
    struct tile_shapes shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        bool weights = i == TILES_W || i == TILES_W_LEFT;
        shapes.rows[i] = (uint8_t)(weights || rows > TILES_SQUARE ? TILES_SQUARE : rows);
        shapes.row_bytes[i] = TILES_SQUARE * TILES_UNIT;
    }
    if (left > 0) {
        shapes.row_bytes[TILES_X_LEFT] = (uint16_t)(left * TILES_UNIT);
        shapes.rows[TILES_W_LEFT] = (uint8_t)left;
    }
    /* The compiler sees neither that all of it is read, nor what later loads of tiles read. */
    __asm__ volatile("" ::"r"(&shapes) : "memory");
    _tile_loadconfig(&shapes);
}

/* After the last: what the tiles hold need not be kept when the system switches threads. */
FVLM_INLINE void tiles_end(void)
{
    _tile_release();
}

#define TILES_ADD(product, sums, x, w)                                                                                 \
    do {                                                                                                               \
        if (product == TILES_BF16)                                                                                     \
            _tile_dpbf16ps(sums, x, w);                                                                                \
        else if (product == TILES_U8_S8)                                                                               \
            _tile_dpbusd(sums, x, w);                                                                                  \
        else                                                                                                           \
            _tile_dpbsud(sums, x, w);                                                                                  \
    } while (0)
/* A step of the depth into the tiles x and w. */
#define TILES_STEP(product, two, upper, lower, stride, weights, x, w)                                                  \
    do {                                                                                                               \
        _tile_loadd(x, upper, stride);                                                                                 \
        _tile_loadd(w, weights, TILES_PANEL *TILES_UNIT);                                                              \
        TILES_ADD(product, 0, x, w);                                                                                   \
        _tile_loadd(w, (weights) + TILES_SQUARE * TILES_UNIT, TILES_PANEL * TILES_UNIT);                               \
        TILES_ADD(product, 1, x, w);                                                                                   \
        if (two) {                                                                                                     \
            _tile_loadd(x, lower, stride);                                                                             \
            TILES_ADD(product, 3, x, w);                                                                               \
            _tile_loadd(w, weights, TILES_PANEL *TILES_UNIT);                                                          \
            TILES_ADD(product, 2, x, w);                                                                               \
        }                                                                                                              \
    } while (0)

/* `two`: there are more than TILES_SQUARE rows. The last of them may be some of the first ones, too. */
FVLM_INLINE void tiles_multiply_rows(enum tiles_product product, bool two, size_t rows, const uint8_t *x, size_t stride,
                                     const uint8_t *w, size_t units, void *raw)
{
    const size_t step = TILES_UNIT, deep = TILES_PANEL * TILES_UNIT; /* bytes of a unit of x, and of W */
    size_t last = two ? rows - TILES_SQUARE : 0, k = 0;
    const uint8_t *lower = x + last * stride;
    uint8_t *upper_sums = raw, *lower_sums = upper_sums + last * deep;
    __asm__ volatile("" ::: "memory"); /* of which the compiler does not see that tiles are loaded */
    _tile_zero(0);
    _tile_zero(1);
    if (two) {
        _tile_zero(2);
        _tile_zero(3);
    }
    for (; k + TILES_SQUARE <= units; k += TILES_SQUARE)
        TILES_STEP(product, two, x + k * step, lower + k * step, stride, w + k * deep, TILES_X, TILES_W);
    if (k < units)
        TILES_STEP(product, two, x + k * step, lower + k * step, stride, w + k * deep, TILES_X_LEFT, TILES_W_LEFT);
    _tile_stored(0, upper_sums, deep);
    _tile_stored(1, upper_sums + TILES_SQUARE * step, deep);
    if (two) {
        _tile_stored(2, lower_sums, deep);
        _tile_stored(3, lower_sums + TILES_SQUARE * step, deep);
    }
}

/* raw[rows, TILES_PANEL], float32 or int32: at most TILES_ROWS rows of x, `stride` bytes apart, times a panel
 * w[units, TILES_PANEL] of units. */
FVLM_INLINE void tiles_multiply(enum tiles_product product, size_t rows, const uint8_t *x, size_t stride,
                                const uint8_t *w, size_t units, void *raw)
{
    if (rows > TILES_SQUARE)
        tiles_multiply_rows(product, true, rows, x, stride, w, units, raw);
    else
        tiles_multiply_rows(product, false, rows, x, stride, w, units, raw);
}

#endif
#endif
