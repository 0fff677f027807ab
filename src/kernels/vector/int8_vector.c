/* Linear layers over 8-bit inputs in the vector vocabulary and its dot products.
 *
 * Many rows: a tile of DOT_ROWS rows by one panel of W sums the integers of a group of columns in registers; at its end
 * they are scaled and added to what the tile's earlier groups gave, in level 1 cache.
 * Few rows: a row of W is q times scale plus bias, group by group. Its scales, times those of x, go to a small buffer
 * first; biases meet the sums of x. Then q is multiplied as it comes from memory: of 4-bit types a vector of bytes
 * holds two of q, and x lies in the order in which they come out (arrange).
 */
#include <string.h>

#include "base/memory.h"
#include "kernels/int8.h"
#include "kernels/vector/dot.h"
#include "kernels/vector/finish.h"
#include "kernels/vector/interleave.h"
#include "kernels/vector/tiles.h"

enum {
    GROUP = FVLM_INT8_COLS,
    PANEL = INTERLEAVED,
    VECTORS = PANEL / VF_LANES,
    UNITS = GROUP / 4,
    VD_BYTES = 4 * VF_LANES
};

/* One line a name, to be read as a table. */
/* clang-format off */
/* 16 bytes: q of 4 bits in them, looked up in a table of 16. */
#if defined(__ARM_NEON)
typedef uint8x16_t vb;
FVLM_INLINE vb vb_load(const void *p) { return vld1q_u8(p); }
FVLM_INLINE void vb_store(void *p, vb a) { vst1q_u8(p, a); }
FVLM_INLINE vb vb_low(vb a) { return vandq_u8(a, vdupq_n_u8(15)); }
FVLM_INLINE vb vb_high(vb a) { return vshrq_n_u8(a, 4); }
FVLM_INLINE vb vb_lookup(vb table, vb index) { return vqtbl1q_u8(table, index); }
FVLM_INLINE vb vb_zip_first(vb a, vb b) { return vzip1q_u8(a, b); }
FVLM_INLINE vb vb_zip_last(vb a, vb b) { return vzip2q_u8(a, b); }
#else
typedef __m128i vb;
FVLM_INLINE vb vb_load(const void *p) { return _mm_loadu_si128((const __m128i *)p); }
FVLM_INLINE void vb_store(void *p, vb a) { _mm_storeu_si128((__m128i *)p, a); }
FVLM_INLINE vb vb_low(vb a) { return _mm_and_si128(a, _mm_set1_epi8(15)); }
FVLM_INLINE vb vb_high(vb a) { return _mm_and_si128(_mm_srli_epi16(a, 4), _mm_set1_epi8(15)); }
FVLM_INLINE vb vb_lookup(vb table, vb index) { return _mm_shuffle_epi8(table, index); }
/* The first 8 bytes of both in turns, and the last. */
FVLM_INLINE vb vb_zip_first(vb a, vb b) { return _mm_unpacklo_epi8(a, b); }
FVLM_INLINE vb vb_zip_last(vb a, vb b) { return _mm_unpackhi_epi8(a, b); }
#endif
/* clang-format on */

/* Rounding. */

/* x[cols], at most a group: the largest of |x|, and x in `values` with 0 behind it. */
FVLM_INLINE float read_group(const float *x, size_t cols, float *values)
{
    vf largest = vf_zero();
    for (size_t k = 0; k < GROUP; k += VF_LANES) {
        vf v = k + VF_LANES <= cols ? vf_load(x + k) : k < cols ? vf_load_n(x + k, cols - k) : vf_zero();
        vf_store(values + k, v);
        largest = vf_max(vf_abs(v), largest);
    }
    return vf_largest(largest);
}

/* A group of x as integers to[GROUP]; gives their scale. */
FVLM_INLINE float round_group(const float *x, size_t cols, int8_t *to)
{
    float values[GROUP], largest = read_group(x, cols, values);
    vf per = vf_set(largest > 0 ? 127 / largest : 0);
    for (size_t k = 0; k < GROUP; k += VF_LANES)
        vf_store_i8(to + k, vf_mul(vf_load(values + k), per));
    return largest / 127;
}

static int32_t sum_of(const int8_t *x, size_t count)
{
    int32_t sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += x[i];
    return sum;
}

static void prepare(const float *x, size_t x_stride, size_t first, size_t count, const fvlm_int8_rows *to)
{
    for (size_t row = first; row < first + count; row++, x += x_stride)
        for (size_t k = 0, at = row; k < to->cols; k += GROUP, at += to->rows) {
            int8_t *integers = to->data + row * to->stride + k;
            to->scale[at] = round_group(x + k, to->cols - k < GROUP ? to->cols - k : GROUP, integers);
            to->sum[at] = sum_of(integers, GROUP);
        }
}

/* Panels. */

FVLM_INLINE vf scale_at(fvlm_dtype type, const void *scales, size_t index)
{
    uint16_t half;
    float single;
    if (type == FVLM_F32) {
        memcpy(&single, (const char *)scales + index * sizeof single, sizeof single);
        return vf_set(single);
    }
    memcpy(&half, (const char *)scales + index * sizeof half, sizeof half);
    return type == FVLM_BF16 ? vf_set(fvlm_float_from_bf16(half)) : vf_set_f16(half);
}

FVLM_INLINE vf half_at(const uint8_t *p)
{
    uint16_t half;
    memcpy(&half, p, sizeof half);
    return vf_set_f16(half);
}

/* The 8 scales of a block of Q4_K and its 8 least values. */
FVLM_INLINE void q4_k_scales(const uint8_t *packed, uint8_t both[16])
{
    uint32_t a, b, c;
    memcpy(&a, packed, 4);
    memcpy(&b, packed + 4, 4);
    memcpy(&c, packed + 8, 4);
    const uint32_t words[4] = {a & 0x3f3f3f3f, (c & 0x0f0f0f0f) | (a >> 2 & 0x30303030), b & 0x3f3f3f3f,
                               (c >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030)};
    memcpy(both, words, sizeof words);
}

/* values[GROUP] = W[row, col .. col + cols], 0 behind that; `cols` at most a group. */
FVLM_INLINE void read_weights(fvlm_dtype type, const fvlm_matrix *w, size_t row, size_t col, size_t cols, float *values)
{
    const uint8_t *data = w->data;
    size_t first = row * w->cols + col;
    memset(values, 0, GROUP * sizeof *values);
    switch (type) {
    case FVLM_MLX8:
        for (size_t k = 0; k < cols; k += VF_LANES) {
            size_t at = first + k, group = at / w->group;
            vf_store(values + k, vf_fma(vf_load_u8(data + at), scale_at(w->scale_type, w->scales, group),
                                        scale_at(w->scale_type, w->biases, group)));
        }
        return;
    case FVLM_Q8_0:
        for (size_t k = 0; k < cols; k += VF_LANES) {
            const uint8_t *block = data + (first + k) / 32 * 34;
            vf_store(values + k, vf_mul(vf_load_i8((const int8_t *)block + 2 + k % 32), half_at(block)));
        }
        return;
    default:
        fvlm_matrix_values(w, row, col, cols, values);
    }
}

/* Integers of W[row, col .. col + cols], and what one of them is worth. */
FVLM_INLINE float round_weights(fvlm_dtype type, const fvlm_matrix *w, size_t row, size_t col, size_t cols, uint8_t *to)
{
    float values[GROUP];
    read_weights(type, w, row, col, cols, values);
    float largest = read_group(values, GROUP, values);
    vf per = vf_set(largest > 0 ? DOT_WEIGHTS / largest : 0), zero = vf_set(DOT_ZERO);
    for (size_t i = 0; i < GROUP; i += VF_LANES)
        vf_store_u8(to + i, vf_fma(vf_load(values + i), per, zero));
    return largest / DOT_WEIGHTS;
}

/* Of a type with 4 bits, by tables: 32 elements have one of 16 values each. */
enum { PART = 32, PARTS = GROUP / PART };

/* Elements are scale * q + bias in each of the parts of columns col .. col + cols. */
FVLM_INLINE void read_parts(fvlm_dtype type, const fvlm_matrix *w, size_t row, size_t col, size_t cols,
                            float scale[PARTS], float bias[PARTS])
{
    size_t first = row * w->cols + col;
    for (size_t p = 0; p < cols / PART; p++) {
        size_t at = first + p * PART;
        if (type == FVLM_MLX4) {
            scale[p] = scale_at(w->scale_type, w->scales, at / w->group)[0];
            bias[p] = scale_at(w->scale_type, w->biases, at / w->group)[0];
        } else if (type == FVLM_Q4_0) {
            scale[p] = half_at((const uint8_t *)w->data + at / 32 * 18)[0];
            bias[p] = -8 * scale[p];
        } else {
            const uint8_t *block = (const uint8_t *)w->data + at / 256 * 144;
            uint8_t both[16];
            q4_k_scales(block + 4, both);
            scale[p] = half_at(block)[0] * both[at % 256 / 32];
            bias[p] = -half_at(block + 2)[0] * both[8 + at % 256 / 32];
        }
    }
}

FVLM_INLINE void look_up(fvlm_dtype type, const fvlm_matrix *w, size_t at, vb table, uint8_t *to)
{
    const uint8_t *data = w->data;
    if (type == FVLM_Q4_K) {
        const uint8_t *bytes = data + at / 256 * 144 + 16 + at % 256 / 64 * 32;
        for (size_t i = 0; i < 32; i += 16) {
            vb q = vb_load(bytes + i);
            vb_store(to + i, vb_lookup(table, at % 64 < 32 ? vb_low(q) : vb_high(q)));
        }
        return;
    }
    vb q = vb_load(type == FVLM_MLX4 ? data + at / 2 : data + at / 32 * 18 + 2);
    vb low = vb_lookup(table, vb_low(q)), high = vb_lookup(table, vb_high(q));
    vb_store(to, type == FVLM_MLX4 ? vb_zip_first(low, high) : low);
    vb_store(to + 16, type == FVLM_MLX4 ? vb_zip_last(low, high) : high);
}

#if defined(__AVX512F__)
/* A whole group: a quarter of a register is the table of a part. */
FVLM_INLINE void look_up_group(fvlm_dtype type, const fvlm_matrix *w, size_t at, const float scale[PARTS],
                               const float bias[PARTS], float per, uint8_t *to)
{
    const __m512i low_parts = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i low_pairs = _mm512_setr_epi64(0, 1, 2, 3, 8, 9, 10, 11);
    const vf all = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const uint8_t *data = w->data;
    uint8_t integers[PARTS * 16];
    vf values[PARTS];
    FVLM_UNROLL
    for (size_t p = 0; p < PARTS; p++)
        values[p] = vf_fma(all, vf_set(scale[p] * per), vf_set(bias[p] * per + DOT_ZERO));
    vf_store4_u8(integers, values);
    vd tables = vd_load(integers), first = tables, last = tables, q;
    if (type == FVLM_Q4_0) {
        q = vd_load_16(data + at / 32 * 18 + 2, 18);
    } else if (type == FVLM_MLX4) {
        q = vd_load(data + at / 2);
    } else { /* 32 bytes have the low halves of a part and the high ones of the next */
        q = vd_load(data + at / 256 * 144 + 16 + at % 256 / 2);
        first = _mm512_shuffle_i64x2(tables, tables, 0xa0);
        last = _mm512_shuffle_i64x2(tables, tables, 0xf5);
    }
    vd low = _mm512_shuffle_epi8(first, vd_low(q)), high = _mm512_shuffle_epi8(last, vd_high(q));
    if (type == FVLM_MLX4) {
        vd both = _mm512_unpacklo_epi8(low, high);
        high = _mm512_unpackhi_epi8(low, high);
        low = both;
    }
    __m512i order = type == FVLM_Q4_K ? low_pairs : low_parts, behind = _mm512_set1_epi64(4);
    vd_store(to, _mm512_permutex2var_epi64(low, order, high));
    vd_store(to + VD_BYTES, _mm512_permutex2var_epi64(low, _mm512_add_epi64(order, behind), high));
}
#endif

FVLM_INLINE float round_nibbles(fvlm_dtype type, const fvlm_matrix *w, size_t row, size_t col, size_t cols, uint8_t *to)
{
    static const float all[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    float scale[PARTS], bias[PARTS], largest = 0;
    read_parts(type, w, row, col, cols, scale, bias);
    for (size_t p = 0; p < cols / PART; p++) {
        float last = bias[p] + 15 * scale[p];
        last = last < 0 ? -last : last;
        float edge = bias[p] < 0 ? -bias[p] : bias[p];
        edge = edge > last ? edge : last;
        largest = edge > largest ? edge : largest;
    }
    float per = largest > 0 ? DOT_WEIGHTS / largest : 0;
#if defined(__AVX512F__)
    if (cols == GROUP) {
        look_up_group(type, w, row * w->cols + col, scale, bias, per, to);
        return largest / DOT_WEIGHTS;
    }
#endif
    for (size_t p = 0; p < cols / PART; p++) {
        uint8_t table[16];
        vf step = vf_set(scale[p] * per), start = vf_set(bias[p] * per + DOT_ZERO);
        for (size_t i = 0; i < 16; i += VF_LANES)
            vf_store_u8(table + i, vf_fma(vf_load(all + i), step, start));
        look_up(type, w, row * w->cols + col + p * PART, vb_load(table), to + p * PART);
    }
    return largest / DOT_WEIGHTS;
}

/* Bytes of a group of W. */
FVLM_INLINE size_t group_bytes(fvlm_dtype type)
{
    size_t bytes = type == FVLM_MLX8 ? GROUP : type == FVLM_Q8_0 ? GROUP / 32 * 34 : GROUP / 2;
    return type == FVLM_Q4_0 || type == FVLM_Q4_K ? GROUP / 32 * 18 : bytes;
}

/* Fetch a group of W that will be unpacked soon: with rows in turns the processor does not see that it will be. */
FVLM_INLINE void fetch_group(fvlm_dtype type, const fvlm_matrix *w, size_t row, size_t col)
{
    size_t bytes = group_bytes(type);
    const uint8_t *data = (const uint8_t *)w->data + (row * w->cols + col) / GROUP * bytes;
    for (size_t i = 0; i < bytes + 63; i += 64)
        __builtin_prefetch(data + i);
}

FVLM_INLINE void unpack_type(fvlm_dtype type, const fvlm_matrix *w, size_t row, size_t rows, uint8_t *panel)
{
    bool nibbles = type == FVLM_MLX4 || type == FVLM_Q4_0 || type == FVLM_Q4_K;
    uint8_t integers[PANEL][GROUP];
    memset(integers, DOT_ZERO, sizeof integers);
    for (size_t k = 0; k < w->cols; k += GROUP, panel += FVLM_INT8_PART) {
        float *scales = (float *)(void *)(panel + PANEL * GROUP);
        size_t cols = w->cols - k < GROUP ? w->cols - k : GROUP;
        memset(scales, 0, PANEL * sizeof *scales);
        bool last = k + GROUP >= w->cols; /* of the panel */
        for (size_t i = 0; i < rows; i++) {
            if (type != FVLM_F32)
                fetch_group(type, w, last ? row + PANEL + i : row + i, last ? 0 : k + GROUP);
            scales[i] = nibbles ? round_nibbles(type, w, row + i, k, cols, integers[i])
                                : round_weights(type, w, row + i, k, cols, integers[i]);
        }
        interleave(integers[0], GROUP, UNITS, panel);
    }
}

static void unpack(const fvlm_matrix *w, size_t row, size_t rows, void *panel)
{
    switch (w->type) {
    case FVLM_MLX4:
        unpack_type(FVLM_MLX4, w, row, rows, panel);
        break;
    case FVLM_MLX8:
        unpack_type(FVLM_MLX8, w, row, rows, panel);
        break;
    case FVLM_Q8_0:
        unpack_type(FVLM_Q8_0, w, row, rows, panel);
        break;
    case FVLM_Q4_0:
        unpack_type(FVLM_Q4_0, w, row, rows, panel);
        break;
    case FVLM_Q4_K:
        unpack_type(FVLM_Q4_K, w, row, rows, panel);
        break;
    default:
        unpack_type(FVLM_F32, w, row, rows, panel);
    }
}

/* Many rows. */

#if defined(__AMX_TILE__)

enum { TILE_ROWS = TILES_ROWS };
FVLM_INLINE void begin(size_t rows)
{
    tiles_begin(rows, UNITS);
}
FVLM_INLINE void end(void)
{
    tiles_end();
}

/* As below. */
static void dot(size_t rows, const int8_t *x, size_t stride, const float *scale, const int32_t *offset,
                const uint8_t *part, bool first, float *tile)
{
    _Alignas(FVLM_ALIGN) int32_t sums[TILE_ROWS * PANEL];
    const float *scales = (const float *)(const void *)(part + PANEL * GROUP);
    vf weights[VECTORS];
    tiles_multiply(TILES_S8_U8, rows, (const uint8_t *)x, stride, part, UNITS, sums);
    FVLM_UNROLL
    for (int v = 0; v < VECTORS; v++)
        weights[v] = vf_load(scales + v * VF_LANES);
    for (size_t i = 0; i < rows; i++) {
        vd start = vd_set(-DOT_OFFSET * offset[i]);
        vf own = vf_set(scale[i]);
        FVLM_UNROLL
        for (int v = 0; v < VECTORS; v++) {
            size_t at = i * PANEL + (size_t)v * VF_LANES;
            vf value = vf_mul(vf_mul(vd_float(_mm512_add_epi32(vd_load(sums + at), start)), own), weights[v]);
            vf_store(tile + at, first ? value : vf_add(value, vf_load(tile + at)));
        }
    }
}

#else

enum { TILE_ROWS = DOT_ROWS };
FVLM_INLINE void begin(size_t rows)
{
    (void)rows;
}
FVLM_INLINE void end(void) {}

/* tile[rows, PANEL] = or += what one group of columns gives; x, scale and sum are those of the tile's first row. */
FVLM_INLINE void dot_group(size_t rows, const int8_t *x, size_t stride, const float *scale, const int32_t *offset,
                           const uint8_t *part, bool first, float *tile)
{
    vd sum[DOT_ROWS][VECTORS];
    FVLM_UNROLL
    for (size_t i = 0; i < rows; i++)
        FVLM_UNROLL
    for (int v = 0; v < VECTORS; v++)
        sum[i][v] = vd_set(-DOT_OFFSET * offset[i]);
    for (size_t k = 0; k < UNITS; k++) {
        vd weights[VECTORS];
        FVLM_UNROLL
        for (int v = 0; v < VECTORS; v++)
            weights[v] = vd_load(part + (k * PANEL + (size_t)v * VF_LANES) * 4);
        FVLM_UNROLL
        for (size_t i = 0; i < rows; i++) {
            vd unit = vd_spread(x + i * stride + k * 4);
            FVLM_UNROLL
            for (int v = 0; v < VECTORS; v++)
                sum[i][v] = vd_dot_panel(sum[i][v], weights[v], unit);
        }
    }
    const float *scales = (const float *)(const void *)(part + PANEL * GROUP);
    FVLM_UNROLL
    for (size_t i = 0; i < rows; i++) {
        vf own = vf_set(scale[i]);
        FVLM_UNROLL
        for (int v = 0; v < VECTORS; v++) {
            vf value = vf_mul(vf_mul(vd_float(sum[i][v]), own), vf_load(scales + v * VF_LANES));
            float *to = tile + i * PANEL + (size_t)v * VF_LANES;
            vf_store(to, first ? value : vf_add(value, vf_load(to)));
        }
    }
}

#define DOT_CASE(n)                                                                                                    \
    case n:                                                                                                            \
        dot_group(n, x, stride, scale, offset, part, first, tile);                                                     \
        break;

static void dot(size_t rows, const int8_t *x, size_t stride, const float *scale, const int32_t *offset,
                const uint8_t *part, bool first, float *tile)
{
    switch (rows) {
        DOT_CASE(1)
        DOT_CASE(2)
        DOT_CASE(3)
#if defined(__AVX512F__)
        DOT_CASE(4)
        DOT_CASE(5)
        DOT_CASE(6)
        DOT_CASE(7)
        DOT_CASE(8)
        DOT_CASE(9)
        DOT_CASE(10)
        DOT_CASE(11)
        DOT_CASE(12)
        DOT_CASE(13)
        DOT_CASE(14)
#endif
    }
}

#endif

static void block(const fvlm_int8_block *call)
{
    const fvlm_int8_rows *x = call->x;
    _Alignas(FVLM_ALIGN) float tile[TILE_ROWS * PANEL];
    begin(call->count);
    for (size_t done = 0, rows; done < call->count; done += rows) {
        size_t left = call->count - done, tiles = (left + TILE_ROWS - 1) / TILE_ROWS, row = call->first_row + done;
        rows = (left + tiles - 1) / tiles; /* evenly: a tile of few rows waits for its own sums */
        for (size_t group = 0; group < fvlm_int8_count(x->cols); group++)
            dot(rows, x->data + row * x->stride + group * GROUP, x->stride, x->scale + group * x->rows + row,
                x->sum + group * x->rows + row, (const uint8_t *)call->panel + group * FVLM_INT8_PART, group == 0,
                tile);
        finish(call->epilogue, tile, PANEL, done, rows, 0, call->columns, call->y + done * call->y_stride,
               call->y_stride);
    }
    end();
}

/* Few rows. */

/* Bytes that hold the low and high halves of neighbouring elements: element i of 2 n is in the low half of byte i where
 * i < n, else in the high one of byte i - n. */
FVLM_INLINE size_t nibble_run(fvlm_dtype type)
{
    return type == FVLM_MLX4 ? 1 : type == FVLM_Q4_0 ? 16 : 32;
}

/* Integers of a group as W's bytes meet them. */
FVLM_INLINE void arrange_group(fvlm_dtype type, const int8_t *integers, int8_t *out)
{
    size_t run = nibble_run(type);
    for (size_t start = 0; start < GROUP; start += 2 * VD_BYTES)
        for (size_t i = 0; i < VD_BYTES; i++) {
            size_t from = (start / 2 + i) / run * 2 * run + (start / 2 + i) % run;
            out[start + i] = integers[from];
            out[start + VD_BYTES + i] = integers[from + run];
        }
}

static void arrange(const fvlm_matrix *w, const float *x, const fvlm_int8_vector *to)
{
    size_t step = fvlm_int8_step(w);
    for (size_t k = 0; k < w->cols; k += GROUP) {
        size_t cols = w->cols - k < GROUP ? w->cols - k : GROUP;
        int8_t integers[GROUP], *out = to->data + k;
        float scale = round_group(x + k, cols, integers);
        for (size_t i = 0; i < cols; i += step) {
            to->scale[(k + i) / step] = scale;
            to->sum[(k + i) / step] = scale * (float)sum_of(integers + i, step);
        }
        switch (w->type) {
        case FVLM_MLX4:
            arrange_group(FVLM_MLX4, integers, out);
            break;
        case FVLM_Q4_0:
            arrange_group(FVLM_Q4_0, integers, out);
            for (size_t i = 0; i < UNITS / 2; i++) {
                const int8_t *low = out + i / VF_LANES * 2 * VD_BYTES + i % VF_LANES * 4;
                to->start[k / 8 + i] = -8 * (sum_of(low, 4) + sum_of(low + VD_BYTES, 4));
            }
            break;
        case FVLM_Q4_K:
            arrange_group(FVLM_Q4_K, integers, out);
            break;
        case FVLM_Q8_0:
            for (size_t i = 0; i < UNITS; i++)
                to->start[k / 4 + i] = (DOT_Q8_ZERO - 128) * sum_of(integers + i * 4, 4);
            /* fall through */
        default:
            memcpy(out, integers, GROUP);
        }
    }
}

/* Columns whose scales are in the buffer at a time; whole blocks of any type. */
enum { SEGMENT = 2048, SCALES = SEGMENT / 32 + VF_LANES };

FVLM_INLINE vf load_scales(fvlm_dtype type, const void *scales, size_t index, size_t n)
{
    if (type == FVLM_F16)
        return vf_load_f16_n((const uint16_t *)scales + index, n);
    if (type == FVLM_BF16)
        return vf_load_bf16_n((const uint16_t *)scales + index, n);
    return vf_load_n((const float *)scales + index, n);
}

/* scales[count] = those of groups first .. first + count of a row of W, times x's, and 0 up to a whole vector behind
 * them. Gives `bias` and what biases times x add to it. */
FVLM_INLINE vf weigh(fvlm_dtype type, const fvlm_matrix *w, size_t row, size_t first, size_t count,
                     const fvlm_int8_vector *x, float *scales, vf bias)
{
    const float *x_scale = x->scale + first, *x_sum = x->sum + first;
    size_t groups = w->cols / fvlm_int8_step(w), at = row * groups + first;
    if (type == FVLM_Q4_K) {
        size_t n = VF_LANES < 8 ? VF_LANES : 8;
        for (size_t i = 0; i < count; i += 8) {
            const uint8_t *block = (const uint8_t *)w->data + (at + i) / 8 * 144;
            uint8_t both[16];
            float wide[16 + VF_LANES];
            vf d = half_at(block), least = half_at(block + 2);
            q4_k_scales(block + 4, both);
            for (size_t j = 0; j < 16; j += VF_LANES)
                vf_store(wide + j, vf_load_u8(both + j));
            for (size_t j = 0; j < 8; j += n) {
                vf_store(scales + i + j, vf_mul(vf_mul(vf_load_n(wide + j, n), d), vf_load_n(x_scale + i + j, n)));
                bias = vf_fnma(vf_mul(vf_load_n(wide + 8 + j, n), least), vf_load_n(x_sum + i + j, n), bias);
            }
        }
        vf_store(scales + count, vf_zero());
        return bias;
    }
    for (size_t i = 0; i < count; i += VF_LANES) {
        size_t n = count - i < VF_LANES ? count - i : VF_LANES;
        vf scale = load_scales(w->scale_type, w->scales, at + i, n);
        vf own = load_scales(w->scale_type, w->biases, at + i, n);
        if (type == FVLM_MLX8)
            own = vf_fma(scale, vf_set(DOT_Q8_ZERO), own);
        vf_store(scales + i, vf_mul(scale, vf_load_n(x_scale + i, n)));
        bias = vf_fma(own, vf_load_n(x_sum + i, n), bias);
    }
    vf_store(scales + (count + VF_LANES - 1) / VF_LANES * VF_LANES, vf_zero());
    return bias;
}

/* A vector of W's bytes from byte `at` of its q on. */
FVLM_INLINE vd load_bytes(fvlm_dtype type, const uint8_t *q, size_t at)
{
    if (type == FVLM_Q4_K)
        return vd_load(q + at / 128 * 144 + 16 + at % 128);
    return vd_load(q + at);
}

/* sum + q[columns] times x[columns], for as many columns as load_bytes gives. `scales` are those of the segment. */
FVLM_INLINE vf dot_bytes(fvlm_dtype type, vd q, const int8_t *x, const float *scales, size_t column, size_t step,
                         vf_index index, vf sum)
{
    vd zero = vd_zero();
    if (type == FVLM_MLX8)
        return vf_fma(vd_float(vd_dot_q8(zero, q, vd_load(x))), vf_spread(scales + column / step, index), sum);
    vd low = vd_dot_u4(zero, vd_low(q), vd_load(x));
    if (type == FVLM_Q4_K) {
        const float *pair = scales + column / 64 * 2;
        sum = vf_fma(vd_float(low), vf_spread(pair, index), sum);
        vd high = vd_dot_u4(zero, vd_high(q), vd_load(x + VD_BYTES));
        return vf_fma(vd_float(high), vf_spread(pair + 1, index), sum);
    }
    vd all = vd_dot_u4(low, vd_high(q), vd_load(x + VD_BYTES));
    return vf_fma(vd_float(all), vf_spread(scales + column / step, index), sum);
}

/* Bytes: the next page of memory, which processors do not foresee. */
enum { AHEAD = 4096 };

/* Rows whose scales are made ready before their q are read, one row after the other: a row alone would wait for its
 * scales to come back from the buffer. */
enum { ROWS = 8 };

/* At most ROWS rows of MLX4, MLX8 or Q4_K. */
FVLM_INLINE void multiply_rows(fvlm_dtype type, const fvlm_matrix *w, size_t row, size_t rows,
                               const fvlm_int8_vector *x, float *y)
{
    bool bytes = type == FVLM_MLX8;
    size_t step = fvlm_int8_step(w), chunk = bytes ? VD_BYTES : 2 * VD_BYTES, row_bytes = fvlm_matrix_row_bytes(w);
    size_t whole = w->cols / chunk * chunk;
    vf_index index = vf_lanes(type == FVLM_Q4_K ? 8 : bytes ? step / 4 : step / 8, type == FVLM_Q4_K ? 2 : 1);
    float scales[ROWS][SCALES];
    vf sums[ROWS];
    for (size_t r = 0; r < rows; r++)
        sums[r] = vf_zero();
    for (size_t start = 0; start < w->cols; start += SEGMENT) {
        size_t end = w->cols - start < SEGMENT ? w->cols : start + SEGMENT;
        for (size_t r = 0; r < rows; r++)
            sums[r] = weigh(type, w, row + r, start / step, (end - start) / step, x, scales[r], sums[r]);
        for (size_t r = 0; r < rows; r++) {
            const uint8_t *q = (const uint8_t *)w->data + (row + r) * row_bytes;
            vf sum = sums[r];
            size_t k = start;
            for (; k < end && k < whole; k += chunk) {
                size_t at = bytes ? k : k / 2;
                __builtin_prefetch(q + at + AHEAD);
                sum = dot_bytes(type, load_bytes(type, q, at), x->data + k, scales[r], k - start, step, index, sum);
            }
            if (k < end) { /* what is left of a row, with nothing behind it */
                uint8_t tail[144 + VD_BYTES] = {0};
                size_t at = fvlm_matrix_row_bytes(&(fvlm_matrix){.type = type, .cols = k});
                memcpy(tail, q + at, row_bytes - at);
                sum = dot_bytes(type, load_bytes(type, tail, 0), x->data + k, scales[r], k - start, step, index, sum);
            }
            sums[r] = sum;
        }
    }
    for (size_t r = 0; r < rows; r++)
        y[r] = vf_sum(sums[r]);
}

/* sum + the products of the blocks at p with x's columns from k on, a vector of q's bytes. (A vector may be half a
 * block of Q8_0.) */
FVLM_INLINE vf dot_blocks(fvlm_dtype type, const uint8_t *p, const fvlm_int8_vector *x, size_t k, vf_index_f16 index,
                          vf sum)
{
    vf scale = vf_mul(vf_spread_f16(p, index), vf_set(x->scale[k / 32]));
    const int8_t *data = x->data + k;
    if (type == FVLM_Q8_0) {
        vd q = vd_flip(vd_load_32(p + 2 + k % 32, 34));
        return vf_fma(vd_float(vd_dot_q8(vd_load(x->start + k / 4), q, vd_load(data))), scale, sum);
    }
    vd q = vd_load_16(p + 2, 18), low = vd_dot_u4(vd_load(x->start + k / 8), vd_low(q), vd_load(data));
    return vf_fma(vd_float(vd_dot_u4(low, vd_high(q), vd_load(data + VD_BYTES))), scale, sum);
}

/* A row of Q8_0 or Q4_0: read from its first byte to its last, scales as they come. */
FVLM_INLINE float multiply_blocks(fvlm_dtype type, const uint8_t *row, size_t cols, const fvlm_int8_vector *x)
{
    size_t block = type == FVLM_Q8_0 ? 34 : 18, chunk = type == FVLM_Q8_0 ? VD_BYTES : 2 * VD_BYTES, k = 0;
    vf_index_f16 index = vf_lanes_f16(type == FVLM_Q8_0 ? 8 : 4, block);
    vf sum = vf_zero();
    for (; k + chunk <= cols; k += chunk) {
        __builtin_prefetch(row + k / 32 * block + AHEAD);
        sum = dot_blocks(type, row + k / 32 * block, x, k, index, sum);
    }
    if (k < cols) {
        uint8_t tail[4 * 18 + VD_BYTES] = {0}; /* at most three blocks of Q4_0, with nothing behind them */
        memcpy(tail, row + k / 32 * block, (cols - k) / 32 * block);
        sum = dot_blocks(type, tail, x, k, index, sum);
    }
    return vf_sum(sum);
}

FVLM_INLINE void multiply_type(fvlm_dtype type, const fvlm_matrix *w, size_t row, size_t rows,
                               const fvlm_int8_vector *x, float *y)
{
    if (type == FVLM_Q8_0 || type == FVLM_Q4_0) {
        size_t bytes = fvlm_matrix_row_bytes(w);
        for (size_t i = 0; i < rows; i++)
            y[i] = multiply_blocks(type, (const uint8_t *)w->data + (row + i) * bytes, w->cols, x);
        return;
    }
    for (size_t i = 0; i < rows; i += ROWS)
        multiply_rows(type, w, row + i, rows - i < ROWS ? rows - i : ROWS, x, y + i);
}

static void multiply(const fvlm_matrix *w, size_t row, size_t rows, const fvlm_int8_vector *x,
                     const fvlm_epilogue *epilogue, size_t x_row, float *y)
{
    float sums[FVLM_GEMV_TASK + VF_LANES];
    switch (w->type) {
    case FVLM_MLX4:
        multiply_type(FVLM_MLX4, w, row, rows, x, sums);
        break;
    case FVLM_MLX8:
        multiply_type(FVLM_MLX8, w, row, rows, x, sums);
        break;
    case FVLM_Q8_0:
        multiply_type(FVLM_Q8_0, w, row, rows, x, sums);
        break;
    case FVLM_Q4_0:
        multiply_type(FVLM_Q4_0, w, row, rows, x, sums);
        break;
    default:
        multiply_type(FVLM_Q4_K, w, row, rows, x, sums);
    }
    finish(epilogue, sums, 0, x_row, 1, row, rows, y, 0);
}

const fvlm_int8_kernels FVLM_FOR_ISA(fvlm_int8_kernels) = {prepare, unpack, block, arrange, multiply};
