/* A 7x7 depthwise convolution of bf16: a unit is a place and the one below it, so that a dot product takes two taps.
 *
 * For VF_LANES channels at a time an area's input becomes units in level 1 cache, 0 beyond the picture; then 2 x PIXELS
 * outputs stay in registers. Both of their lines read the same four lines of units, the second with its weights one
 * place lower.
 */
#include "kernels/vector/dot.h"
#include "kernels/vector/packed_parts.h"

enum { PAD = 3, KERNEL = 2 * PAD + 1, UNITS = FVLM_PACKED_CONV_UNITS };
#if VF_REGISTERS == 32
enum { PIXELS = 8 };
#else
enum { PIXELS = 4 };
#endif
/* Lines and places of units for an area. */
enum { CACHE_LINE = 16, FETCHED = 64 }; /* channels */
enum { LINES = FVLM_AREA_ROWS / 2 + PAD, PLACES = FVLM_AREA_COLUMNS + 2 * PAD };

/* A line of input places: of zeros where it lies beyond the picture. */
struct line {
    const float *x;
    size_t step;
};

FVLM_INLINE struct line line_of(const fvlm_depthwise *conv, const float *x, size_t row, size_t c)
{
    static const float zeros[VF_LANES];
    if (row >= conv->height) /* also where it wraps around below 0 */
        return (struct line){zeros, 0};
    return (struct line){x + row * conv->width * conv->channels + c, conv->channels};
}

FVLM_INLINE vf load_place(struct line line, size_t column, size_t n)
{
    const float *x = line.x + column * line.step;
    return n == VF_LANES ? vf_load(x) : vf_load_n(x, n);
}

/* Units of the places from PAD before the area on. When c is the first channel of some cache lines, the others are
 * fetched ahead: as channels are the outermost loop, the processor does not see that they will be wanted soon. */
FVLM_INLINE void pair_inputs(const fvlm_depthwise *conv, const float *x, const fvlm_conv_area *area, size_t c, size_t n,
                             int32_t units[LINES][PLACES][VF_LANES])
{
    bool ahead = c % FETCHED == 0;
    for (size_t i = 0; i < (area->rows + 1) / 2 + PAD; i++) {
        struct line first = line_of(conv, x, area->row + 2 * i - PAD, c);
        struct line second = line_of(conv, x, area->row + 2 * i + 1 - PAD, c);
        for (size_t j = 0; j < PLACES; j++) {
            size_t column = area->column + j - PAD;
            if (column >= conv->width) { /* also where it wraps around below 0 */
                vd_store(units[i][j], vd_zero());
                continue;
            }
            vd_store(units[i][j], vd_pair_bf16(load_place(first, column, n), load_place(second, column, n)));
            for (size_t k = CACHE_LINE; ahead && k < FETCHED && c + k < conv->channels; k += CACHE_LINE) {
                __builtin_prefetch(first.x + column * first.step + k, 0, 2);
                __builtin_prefetch(second.x + column * second.step + k, 0, 2);
            }
        }
    }
}

FVLM_INLINE void convolve_patch(const int32_t units[LINES][PLACES][VF_LANES], size_t line, size_t place,
                                const uint32_t *weights, size_t stride, vf bias, vf sums[2][PIXELS])
{
    FVLM_UNROLL
    for (int p = 0; p < PIXELS; p++)
        sums[0][p] = sums[1][p] = bias;
    for (size_t i = 0; i < UNITS; i++) {
        vd w[2][KERNEL];
        FVLM_UNROLL
        for (size_t j = 0; j < KERNEL; j++) {
            w[0][j] = vd_load(weights + (i * KERNEL + j) * stride);
            w[1][j] = vd_load(weights + ((UNITS + i) * KERNEL + j) * stride);
        }
        FVLM_UNROLL
        for (int j = 0; j < PIXELS + KERNEL - 1; j++) {
            vd unit = vd_load(units[line + i][place + (size_t)j]);
            FVLM_UNROLL
            for (int p = 0; p < PIXELS; p++)
                if (j >= p && j - p < KERNEL) {
                    sums[0][p] = vd_dot_bf16(sums[0][p], unit, w[0][j - p]);
                    sums[1][p] = vd_dot_bf16(sums[1][p], unit, w[1][j - p]);
                }
        }
    }
}

FVLM_INLINE void convolve_channels(const fvlm_depthwise *conv, const uint32_t *weights, const float *x,
                                   const fvlm_conv_area *area, size_t c, size_t n)
{
    int32_t units[LINES][PLACES][VF_LANES];
    size_t stride = fvlm_packed_conv_stride(conv->channels);
    pair_inputs(conv, x, area, c, n, units);
    for (size_t row = 0; row < area->rows; row += 2)
        for (size_t column = 0; column < area->columns; column += PIXELS) {
            vf sums[2][PIXELS];
            convolve_patch((const int32_t(*)[PLACES][VF_LANES])units, row / 2, column, weights + c, stride,
                           conv->bias ? vf_load_n(conv->bias + c, n) : vf_zero(), sums);
            FVLM_UNROLL
            for (size_t r = 0; r < 2; r++)
                FVLM_UNROLL
            for (size_t p = 0; p < PIXELS; p++)
                if (row + r < area->rows && column + p < area->columns)
                    vf_store_n(area->y + (row + r) * area->line_stride + (column + p) * area->y_stride + c, sums[r][p],
                               n);
        }
}

void FVLM_FOR_ISA(fvlm_packed_convolve)(const fvlm_depthwise *conv, const uint32_t *weights, const float *x,
                                        const fvlm_conv_area *area)
{
    size_t c = 0;
    for (; c + VF_LANES <= conv->channels; c += VF_LANES)
        convolve_channels(conv, weights, x, area, c, VF_LANES);
    if (c < conv->channels)
        convolve_channels(conv, weights, x, area, c, conv->channels - c);
}
