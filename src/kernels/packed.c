/* Packed linear layers: choice of the instruction set, packing, and how the work falls on threads.
 *
 * Linear: all threads prepare the activations (rounded to bf16 or integers) into one scratch, then take tasks of some
 * rows by some panels; float32 is used where it lies. Feed-forward block: a task is an area of the picture; it
 * convolves it into its scratch and takes it through both layers, a slice of the middle at a time, so that all of it
 * stays in the level 2 cache.
 */
#include "kernels/packed.h"

#include <string.h>

#include "base/checked.h"
#include "base/cpu.h"
#include "base/memory.h"
#include "kernels/conv_body.h"
#include "kernels/packed_block.h"

/* Rows of a task, about: 9 tiles of AVX-512. Weights, which come from the level 3 cache, are used for so many rows,
 * while the activations of a slice for them, 400 KB as float32, fit the level 2 cache. */
#define SLAB_ROWS (FVLM_AREA_ROWS * FVLM_AREA_COLUMNS)
/* Bytes of weights in a task of a linear layer: some microseconds of reading for a single row, and within a level 2
 * cache for many. */
#define TASK_BYTES ((size_t)256 << 10)
/* So that a panel's rows fit the scratch memory while they are packed. */
#define MOST_COLS 30000

const fvlm_packed_kernels *fvlm_packed_kernels_select(void)
{
    unsigned flags = fvlm_cpu_flags();
    (void)flags;
#if defined(FVLM_AMX)
    if (flags & FVLM_CPU_AMX)
        return &fvlm_packed_kernels_amx;
#endif
#if defined(__x86_64__)
    if (flags & FVLM_CPU_AVX512_BF16 && flags & FVLM_CPU_AVX512_VNNI)
        return &fvlm_packed_kernels_avx512bf16;
    if (flags & FVLM_CPU_AVX512_VNNI)
        return &fvlm_packed_kernels_avx512vnni;
    if (flags & FVLM_CPU_AVX512)
        return &fvlm_packed_kernels_avx512;
    if (flags & FVLM_CPU_AVX2)
        return &fvlm_packed_kernels_avx2;
#elif defined(__aarch64__)
    if (flags & FVLM_CPU_ARM_BF16)
        return &fvlm_packed_kernels_neonbf16;
    if (flags & FVLM_CPU_NEON)
        return &fvlm_packed_kernels_neon;
#endif
    return &fvlm_packed_kernels_reference;
}

int fvlm_packed_int8_levels(void)
{
    return fvlm_packed_kernels_select()->levels;
}

bool fvlm_packed_multiplies_bf16(void)
{
    return fvlm_packed_kernels_select()->bf16;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t divide_up(size_t a, size_t b)
{
    return a / b + (a % b != 0);
}

static size_t round_up(size_t x, size_t step)
{
    return divide_up(x, step) * step;
}

static size_t slices_of(size_t cols)
{
    return divide_up(cols, FVLM_PACKED_SLICE);
}

/* Packing. */

/* Where the parts of a packed matrix lie. */
struct parts {
    size_t padded; /* rows up to whole panels */
    size_t panel;  /* bytes of a panel */
    size_t scales, sums, total;
};

/* False on overflow, and where a panel's rows would not fit the scratch in which they are rounded. */
static bool find_parts(fvlm_packed_type type, size_t rows, size_t cols, struct parts *parts)
{
    size_t data, floats;
    *parts = (struct parts){0};
    if (rows > SIZE_MAX / 2 || cols > MOST_COLS)
        return false;
    parts->padded = round_up(rows, FVLM_PACKED_PANEL);
    if (!fvlm_size_multiply(divide_up(cols, fvlm_packed_unit(type)), FVLM_PACKED_PANEL * 4, &parts->panel) ||
        !fvlm_size_multiply(parts->padded / FVLM_PACKED_PANEL, parts->panel, &data))
        return false;
    parts->scales = parts->sums = parts->total = data;
    if (type != FVLM_PACKED_INT8)
        return true;
    /* A multiple of FVLM_ALIGN each, as padded is one of 32. */
    return fvlm_size_multiply(parts->padded, sizeof(float), &floats) && fvlm_size_add(data, floats, &parts->sums) &&
           fvlm_size_multiply(floats, slices_of(cols), &floats) && fvlm_size_add(parts->sums, floats, &parts->total);
}

size_t fvlm_packed_bytes(fvlm_packed_type type, size_t rows, size_t cols)
{
    struct parts parts;
    return find_parts(type, rows, cols, &parts) ? parts.total : 0;
}

struct pack {
    const fvlm_packed_kernels *kernels;
    fvlm_pool *pool;
    const fvlm_matrix *matrix;
    fvlm_packed_type type;
    char *memory;
    struct parts parts;
};

static void pack_task(void *argument, size_t index, int thread)
{
    const struct pack *pack = argument;
    const fvlm_matrix *matrix = pack->matrix;
    size_t first = index * FVLM_PACKED_PANEL, count = least(FVLM_PACKED_PANEL, matrix->rows - first);
    size_t cols = matrix->cols, units = divide_up(cols, fvlm_packed_unit(pack->type));
    size_t stride = fvlm_packed_stride(FVLM_PACKED_UNIT, units);
    uint8_t *unpacked = fvlm_pool_scratch(pack->pool, thread);
    float *row = (float *)(void *)(unpacked + FVLM_PACKED_PANEL * stride);
    float *scales = (float *)(void *)(pack->memory + pack->parts.scales) + first;
    float *sums = (float *)(void *)(pack->memory + pack->parts.sums) + first;
    for (size_t i = 0; i < count; i++) {
        fvlm_matrix_row(matrix, first + i, row);
        pack->kernels->round(pack->type, row, cols, unpacked + i * stride, scales + i, sums + i, pack->parts.padded);
    }
    memset(unpacked + count * stride, 0, (FVLM_PACKED_PANEL - count) * stride);
    pack->kernels->interleave(unpacked, stride, units, pack->memory + index * pack->parts.panel);
}

void fvlm_packed_fill(fvlm_pool *pool, fvlm_packed_type type, const fvlm_matrix *matrix, void *memory,
                      fvlm_packed *packed)
{
    struct pack pack = {fvlm_packed_kernels_select(), pool, matrix, type, memory, {0}};
    find_parts(type, matrix->rows, matrix->cols, &pack.parts);
    *packed = (fvlm_packed){type, matrix->rows, matrix->cols, memory, NULL, NULL};
    memset(pack.memory + pack.parts.scales, 0, pack.parts.total - pack.parts.scales);
    if (type == FVLM_PACKED_INT8) {
        packed->scales = (const float *)(void *)(pack.memory + pack.parts.scales);
        packed->sums = (const float *)(void *)(pack.memory + pack.parts.sums);
    }
    fvlm_pool_run(pool, pack.parts.padded / FVLM_PACKED_PANEL, pack_task, &pack);
}

size_t fvlm_packed_convolution_units(size_t channels)
{
    return 2 * FVLM_PACKED_CONV_UNITS * 7 * fvlm_packed_conv_stride(channels);
}

/* Unit u of column j holds taps (2 u, 2 u + 1) for an even line, and for an odd one (2 u - 1, 2 u). */
void fvlm_packed_convolution(const fvlm_depthwise *conv, uint32_t *units)
{
    size_t stride = fvlm_packed_conv_stride(conv->channels);
    memset(units, 0, fvlm_packed_convolution_units(conv->channels) * sizeof *units);
    for (size_t odd = 0; odd < 2; odd++)
        for (size_t row = 0; row < 7; row++)
            for (size_t j = 0; j < 7; j++) {
                const float *weight = conv->weight + (row * 7 + j) * conv->channels;
                uint32_t *to = units + ((odd * FVLM_PACKED_CONV_UNITS + (row + odd) / 2) * 7 + j) * stride;
                for (size_t c = 0; c < conv->channels; c++)
                    to[c] |= (uint32_t)fvlm_bf16_from_float(weight[c]) << ((row + odd) % 2 * 16);
            }
}

/* Prepared activations in scratch memory. */

static size_t rows_bytes(fvlm_packed_type type, size_t rows, size_t cols)
{
    size_t bytes = rows * fvlm_packed_stride(fvlm_packed_input_bytes(type), cols);
    return type == FVLM_PACKED_INT8 ? round_up(bytes + 2 * slices_of(cols) * rows * sizeof(float), FVLM_ALIGN) : bytes;
}

static fvlm_packed_rows place_rows(fvlm_packed_type type, size_t rows, size_t cols, void *memory)
{
    fvlm_packed_rows placed = {
        .data = memory, .stride = fvlm_packed_stride(fvlm_packed_input_bytes(type), cols), .rows = rows};
    if (type == FVLM_PACKED_INT8) {
        placed.scale = (float *)(void *)(placed.data + rows * placed.stride);
        placed.low = placed.scale + slices_of(cols) * rows;
    }
    return placed;
}

/* Linear layers. */

struct linear {
    const fvlm_packed_kernels *kernels;
    const fvlm_packed *w;
    const float *x; /* [rows.rows, w->cols] */
    size_t x_stride;
    fvlm_packed_rows rows;
    float *y; /* [rows.rows, w->rows] */
    size_t y_stride;
    fvlm_epilogue epilogue;
    size_t slab, slabs; /* rows of a task, and how many tasks they make */
    size_t channels;    /* of a task */
};

static void prepare_task(void *argument, size_t index, int thread)
{
    const struct linear *linear = argument;
    size_t first = index * linear->slab;
    (void)thread;
    linear->kernels->prepare(linear->w->type, linear->x + first * linear->x_stride, linear->x_stride, linear->w->cols,
                             first, least(linear->slab, linear->rows.rows - first), &linear->rows);
}

static void linear_task(void *argument, size_t index, int thread)
{
    const struct linear *linear = argument;
    size_t first = index % linear->slabs * linear->slab, channel = index / linear->slabs * linear->channels;
    fvlm_epilogue epilogue = linear->epilogue;
    (void)thread;
    if (epilogue.residual)
        epilogue.residual += first * epilogue.residual_stride;
    linear->kernels->block(&(fvlm_packed_block){
        .w = linear->w,
        .first = channel,
        .count = least(linear->channels, linear->w->rows - channel),
        .slices = slices_of(linear->w->cols),
        .x = &linear->rows,
        .first_row = first,
        .rows = least(linear->slab, linear->rows.rows - first),
        .y = linear->y + first * linear->y_stride,
        .y_stride = linear->y_stride,
        .epilogue = &epilogue,
    });
}

void fvlm_packed_linear(fvlm_pool *pool, const fvlm_packed *w, const float *x, size_t m, size_t x_stride, float *y,
                        size_t y_stride, const fvlm_epilogue *epilogue)
{
    struct linear linear = {
        .kernels = fvlm_packed_kernels_select(), .w = w, .x = x, .x_stride = x_stride, .y = y, .y_stride = y_stride};
    if (m == 0 || w->rows == 0)
        return;
    if (epilogue)
        linear.epilogue = *epilogue;
    size_t panel_bytes = divide_up(w->cols, fvlm_packed_unit(w->type)) * FVLM_PACKED_PANEL * FVLM_PACKED_UNIT;
    linear.channels = (TASK_BYTES / (panel_bytes + 1) + 1) * FVLM_PACKED_PANEL;
    bool in_place = fvlm_packed_is_fp32(w->type);
    size_t most = in_place ? m : FVLM_SCRATCH_BYTES / (rows_bytes(w->type, 1, w->cols) + FVLM_ALIGN);
    for (size_t start = 0; start < m; start += linear.rows.rows) {
        linear.rows = place_rows(w->type, least(most, m - start), w->cols, fvlm_pool_scratch(pool, 0));
        linear.slabs = divide_up(linear.rows.rows, SLAB_ROWS);
        linear.slab = divide_up(linear.rows.rows, linear.slabs);
        linear.slabs = divide_up(linear.rows.rows, linear.slab);
        if (in_place) {
            linear.rows.data = (uint8_t *)(uintptr_t)x; /* only read */
            linear.rows.stride = x_stride * sizeof *x;
        } else {
            fvlm_pool_run(pool, linear.slabs, prepare_task, &linear);
        }
        fvlm_pool_run(pool, linear.slabs * divide_up(w->rows, linear.channels), linear_task, &linear);
        linear.x += linear.rows.rows * x_stride;
        linear.y += linear.rows.rows * y_stride;
        if (linear.epilogue.residual)
            linear.epilogue.residual += linear.rows.rows * linear.epilogue.residual_stride;
    }
}

/* Feed-forward blocks and the stem. */

/* What a task needs of its thread's scratch, for `count` places. */
struct slab {
    fvlm_packed_rows in, middle; /* what goes into a block's fc1, or the stem's layer, and into fc2 */
    float *mixed;                /* the convolution's output; in float32 that is `in` */
    size_t mixed_stride;         /* floats */
    float *hidden;               /* int8: a slice of the middle before it is rounded, where `mixed` was */
    float *part;                 /* stem: the first convolution's output */
    size_t bytes;
};

/* For a layer and what follows it. */
static struct slab place_slab(const fvlm_packed *layer, size_t count, char *scratch)
{
    fvlm_packed_type type = layer->type;
    size_t channels = layer->cols;
    struct slab slab = {.in = place_rows(type, count, channels, scratch)};
    slab.bytes = rows_bytes(type, count, channels);
    slab.middle = place_rows(type, count, FVLM_PACKED_SLICE, scratch + slab.bytes);
    slab.bytes += rows_bytes(type, count, FVLM_PACKED_SLICE);
    if (fvlm_packed_is_fp32(type)) {
        slab.mixed = (float *)(void *)slab.in.data;
        slab.mixed_stride = slab.in.stride / sizeof(float);
        return slab;
    }
    slab.mixed = (float *)(void *)(scratch + slab.bytes);
    slab.mixed_stride = fvlm_packed_stride(sizeof(float), channels) / sizeof(float);
    slab.hidden = slab.mixed;
    size_t hidden_stride = type == FVLM_PACKED_INT8 ? FVLM_PACKED_SLICE + FVLM_PACKED_MAXIMA : 0;
    slab.bytes += count * (slab.mixed_stride > hidden_stride ? slab.mixed_stride : hidden_stride) * sizeof(float);
    return slab;
}

struct ffn {
    const fvlm_packed_kernels *kernels;
    const fvlm_conv_kernels *conv;
    fvlm_pool *pool;
    const fvlm_packed_ffn *ffn;
    const float *x;               /* [h, w, c] */
    float *y;                     /* [h, w, c] */
    size_t rows, columns, across; /* of a task's area; areas side by side */
};

static void ffn_task(void *argument, size_t index, int thread)
{
    const struct ffn *job = argument;
    const fvlm_packed_ffn *ffn = job->ffn;
    const fvlm_depthwise *conv = &ffn->conv;
    const fvlm_packed *fc1 = &ffn->fc1, *fc2 = &ffn->fc2;
    size_t row = index / job->across * job->rows, column = index % job->across * job->columns;
    size_t rows = least(job->rows, conv->height - row), columns = least(job->columns, conv->width - column);
    size_t count = rows * columns, channels = conv->channels;
    size_t first_place = (row * conv->width + column) * channels;
    struct slab slab = place_slab(&ffn->fc1, count, fvlm_pool_scratch(job->pool, thread));

    fvlm_conv_area area = {.row = row,
                           .rows = rows,
                           .column = column,
                           .columns = columns,
                           .y = slab.mixed,
                           .y_stride = slab.mixed_stride,
                           .line_stride = columns * slab.mixed_stride};
    if (ffn->conv_units)
        job->kernels->convolve(conv, ffn->conv_units, job->x, &area);
    else
        job->conv->depthwise(conv, job->x, &area);
    if (!fvlm_packed_is_fp32(fc1->type))
        job->kernels->prepare(fc1->type, slab.mixed, slab.mixed_stride, channels, 0, count, &slab.in);
    size_t lines = divide_up(job->kernels->places, columns);
    for (size_t slice = 0; slice < slices_of(fc1->rows); slice++)
        for (size_t line = 0; line < rows; line += lines) {
            size_t first = slice * FVLM_PACKED_SLICE, places = least(lines, rows - line) * columns;
            size_t start = first_place + line * conv->width * channels;
            fvlm_epilogue before = {.bias = ffn->bias1};
            job->kernels->hidden(&(fvlm_packed_block){.w = fc1,
                                                      .first = first,
                                                      .count = least(FVLM_PACKED_SLICE, fc1->rows - first),
                                                      .slices = slices_of(channels),
                                                      .x = &slab.in,
                                                      .first_row = line * columns,
                                                      .rows = places,
                                                      .y = slab.hidden,
                                                      .y_stride = FVLM_PACKED_SLICE + FVLM_PACKED_MAXIMA,
                                                      .epilogue = &before},
                                 &slab.middle);
            /* Without an activation the epilogue may add what each slice of the middle gives. */
            fvlm_epilogue add = {.bias = slice == 0 ? ffn->bias2 : NULL,
                                 .scale = ffn->scale,
                                 .residual = (slice == 0 ? job->x : job->y) + start,
                                 .residual_stride = channels};
            job->kernels->block(&(fvlm_packed_block){.w = fc2,
                                                     .count = fc2->rows,
                                                     .slice = slice,
                                                     .slices = 1,
                                                     .x = &slab.middle,
                                                     .rows = places,
                                                     .y = job->y + start,
                                                     .y_stride = channels,
                                                     .line = columns,
                                                     .line_stride = conv->width * channels,
                                                     .epilogue = &add});
        }
}

void fvlm_packed_ffn_forward(fvlm_pool *pool, const fvlm_packed_ffn *ffn, const float *x, float *y)
{
    const fvlm_depthwise *conv = &ffn->conv;
    if (conv->height == 0 || conv->width == 0 || conv->channels == 0)
        return;
    struct ffn job = {.kernels = fvlm_packed_kernels_select(),
                      .conv = fvlm_conv_kernels_select(),
                      .pool = pool,
                      .ffn = ffn,
                      .x = x,
                      .y = y,
                      .rows = FVLM_AREA_ROWS,
                      .columns = FVLM_AREA_COLUMNS,
                      .across = divide_up(conv->width, FVLM_AREA_COLUMNS)};
    /* Lower areas where the scratch memory or the number of threads wants it. Units of bf16 are of pairs of lines:
     * which ones are a pair, and so how sums round, may not depend on the threads. */
    size_t fewest = ffn->conv_units ? 2 : 1;
    while (job.rows > 1 &&
           (place_slab(&ffn->fc1, job.rows * job.columns, NULL).bytes > FVLM_SCRATCH_BYTES ||
            (job.rows > fewest && divide_up(conv->height, job.rows) * job.across < (size_t)fvlm_pool_threads(pool))))
        job.rows /= 2;
    fvlm_pool_run_stretches(pool, divide_up(conv->height, job.rows) * job.across, job.across, ffn_task, &job);
}

/* The stem. */

struct stem {
    const fvlm_packed_kernels *kernels;
    const fvlm_conv_kernels *conv;
    fvlm_pool *pool;
    const fvlm_packed_stem *stem;
    const uint8_t *x;
    float *y;
    size_t height, width;         /* of y */
    size_t rows, columns, across; /* of a task's area; areas side by side */
};

/* The part of the first convolution's output that an area of y needs, as a picture of its own: from an even place on,
 * so that the second convolution's strides fall as in the whole picture. */
struct span {
    size_t start, length; /* in the first convolution's output */
    size_t skip;          /* of y's places that the part would give, this many come before the area */
};

static struct span span_of(size_t first, size_t count, size_t whole)
{
    size_t skip = first > 0, start = 2 * (first - skip);
    return (struct span){start, least(2 * (first + count), whole) - start, skip};
}

/* Bytes of the part's largest size. */
static size_t part_bytes(size_t rows, size_t columns, size_t channels)
{
    return round_up((2 * rows + 2) * (2 * columns + 2) * channels * sizeof(float), FVLM_ALIGN);
}

static struct slab place_stem(const fvlm_packed_stem *stem, size_t rows, size_t columns, char *scratch)
{
    struct slab slab = place_slab(&stem->linear, rows * columns, scratch);
    slab.part = (float *)(void *)(scratch + slab.bytes);
    slab.bytes += part_bytes(rows, columns, stem->conv.channels);
    return slab;
}

static void stem_task(void *argument, size_t index, int thread)
{
    const struct stem *job = argument;
    const fvlm_packed_stem *stem = job->stem;
    size_t row = index / job->across * job->rows, column = index % job->across * job->columns;
    size_t rows = least(job->rows, job->height - row), columns = least(job->columns, job->width - column);
    size_t channels = stem->conv.channels, outputs = stem->linear.rows;
    struct slab slab = place_stem(stem, rows, columns, fvlm_pool_scratch(job->pool, thread));
    struct span down = span_of(row, rows, stem->depthwise.height);
    struct span across = span_of(column, columns, stem->depthwise.width);

    /* The first line and place, where they are skipped, meet nothing. */
    for (size_t i = down.skip; i < down.length; i++)
        job->conv->stem_row(&stem->conv, job->x, down.start + i, across.start + across.skip,
                            across.length - across.skip, slab.part + (i * across.length + across.skip) * channels);
    fvlm_depthwise depthwise = stem->depthwise;
    depthwise.height = down.length;
    depthwise.width = across.length;
    job->conv->depthwise(&depthwise, slab.part,
                         &(fvlm_conv_area){.row = down.skip,
                                           .rows = rows,
                                           .column = across.skip,
                                           .columns = columns,
                                           .y = slab.mixed,
                                           .y_stride = slab.mixed_stride,
                                           .line_stride = columns * slab.mixed_stride});
    if (!fvlm_packed_is_fp32(stem->linear.type))
        job->kernels->prepare(stem->linear.type, slab.mixed, slab.mixed_stride, channels, 0, rows * columns, &slab.in);
    fvlm_epilogue epilogue = {.bias = stem->bias, .activation = FVLM_ACTIVATION_GELU};
    job->kernels->block(&(fvlm_packed_block){.w = &stem->linear,
                                             .count = outputs,
                                             .slices = slices_of(channels),
                                             .x = &slab.in,
                                             .rows = rows * columns,
                                             .y = job->y + (row * job->width + column) * outputs,
                                             .y_stride = outputs,
                                             .line = columns,
                                             .line_stride = job->width * outputs,
                                             .epilogue = &epilogue});
}

void fvlm_packed_stem_forward(fvlm_pool *pool, const fvlm_packed_stem *stem, const uint8_t *x, float *y)
{
    struct stem job = {.kernels = fvlm_packed_kernels_select(),
                       .conv = fvlm_conv_kernels_select(),
                       .pool = pool,
                       .stem = stem,
                       .x = x,
                       .y = y,
                       .height = divide_up(stem->depthwise.height, 2),
                       .width = divide_up(stem->depthwise.width, 2),
                       .rows = FVLM_AREA_ROWS,
                       .columns = FVLM_AREA_COLUMNS};
    while (place_stem(stem, job.rows, job.columns, NULL).bytes > FVLM_SCRATCH_BYTES && job.rows * job.columns > 1)
        *(job.rows > 1 ? &job.rows : &job.columns) /= 2;
    job.across = divide_up(job.width, job.columns);
    fvlm_pool_run(pool, divide_up(job.height, job.rows) * job.across, stem_task, &job);
}
