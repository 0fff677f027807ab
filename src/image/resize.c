/* Pillow's antialiased bicubic resize of 8-bit RGB, to the bit.
 *
 *     canvas [canvas_height, canvas_width, 3] -> columns resized -> u8 [rows, width, 3] -> rows resized -> out
 *
 * As in Pillow (src/libImaging/Resample.c) each output pixel is a sum over the support of a cubic kernel (a = -0.5)
 * that is widened by the scale when shrinking. The weights are computed in double, normalised, rounded to 22 bits of
 * fraction; the sums are integers; the first pass is rounded to bytes before the second. Only the picture's own rows
 * and columns are visited: the rest of the canvas is black and adds nothing to a sum. Both passes share out rows over
 * the pool.
 */
#include "image/resize.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"

#define FRACTION_BITS 22 /* 32 less 8 of the pixel less 2 for overshoot */
#define CUBIC_SUPPORT 2.0

/* The weights of one axis: pixel `first + i` of the picture weighs taps[i], i in [0, count), in output pixel x. */
typedef struct tap_span {
    size_t first, count;
    const int32_t *taps;
} tap_span;

typedef struct axis_plan {
    size_t length;   /* output pixels wanted */
    tap_span *spans; /* [length] */
    int32_t *taps;   /* [length, taps_each] */
} axis_plan;

static double cubic(double x)
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0)
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0)
        return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

/* Weights for output pixels [begin, begin + axis->length) of `full`, over a canvas of `canvas` pixels of which
 * [offset, offset + size) are the picture. */
static fvlm_status plan_axis(axis_plan *axis, size_t canvas, size_t offset, size_t size, size_t full, size_t begin,
                             fvlm_error *error)
{
    double scale = (double)canvas / (double)full;
    double stretch = scale < 1.0 ? 1.0 : scale;
    double support = CUBIC_SUPPORT * stretch, inverse = 1.0 / stretch;
    size_t taps_each = (size_t)ceil(support) * 2 + 1, total;
    if (!fvlm_size_multiply(axis->length, taps_each, &total))
        return fvlm_fail_memory(error);
    axis->spans = fvlm_calloc(axis->length, sizeof *axis->spans);
    axis->taps = fvlm_calloc(total, sizeof *axis->taps);
    double *weights = fvlm_calloc(taps_each, sizeof *weights);
    if (!axis->spans || !axis->taps || !weights) {
        free(weights);
        return fvlm_fail_memory(error);
    }
    for (size_t x = 0; x < axis->length; x++) {
        double centre = ((double)(begin + x) + 0.5) * scale, sum = 0.0;
        double low = centre - support + 0.5, high = centre + support + 0.5;
        size_t first = low < 0 ? 0 : (size_t)low;
        size_t last = high > (double)canvas ? canvas : (size_t)high;
        size_t count = last - first;
        for (size_t i = 0; i < count; i++) {
            weights[i] = cubic(((double)(i + first) - centre + 0.5) * inverse);
            sum += weights[i];
        }
        int32_t *taps = axis->taps + x * taps_each;
        for (size_t i = 0; i < count; i++) {
            double weight = sum != 0.0 ? weights[i] / sum : weights[i];
            taps[i] = (int32_t)((weight < 0 ? -0.5 : 0.5) + weight * (1 << FRACTION_BITS));
        }
        /* Leave out what lies beside the picture, and what weighs nothing: at its own size a pixel is one pixel. */
        size_t skip = first < offset ? offset - first : 0;
        size_t end = last < offset + size ? last : offset + size;
        while (end > first + skip && taps[end - first - 1] == 0)
            end--;
        while (end > first + skip && taps[skip] == 0)
            skip++;
        if (end > first + skip)
            axis->spans[x] = (tap_span){first + skip - offset, end - first - skip, taps + skip};
    }
    free(weights);
    return FVLM_OK;
}

static void free_axis(axis_plan *axis)
{
    free(axis->spans);
    free(axis->taps);
}

static inline uint8_t round_to_byte(int32_t sum)
{
    int32_t value = sum >> FRACTION_BITS;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/* One pass: lines of `in` -> lines of `out`. The axis counts pixels of the picture, `in` begins at pixel `origin`. */
typedef struct pass {
    const axis_plan *axis;
    size_t origin;
    const uint8_t *in;
    uint8_t *out;
    size_t in_stride, out_stride; /* bytes from line to line */
    size_t values;                /* rows: bytes of a line */
} pass;

/* Line `index` of the input becomes line `index` of the output. */
static void resize_columns(void *argument, size_t index, int thread)
{
    (void)thread;
    const pass *self = argument;
    const uint8_t *in = self->in + index * self->in_stride;
    uint8_t *out = self->out + index * self->out_stride;
    for (size_t x = 0; x < self->axis->length; x++) {
        const tap_span *span = &self->axis->spans[x];
        const uint8_t *pixel = span->count ? in + (span->first - self->origin) * 3 : in;
        int32_t red = 1 << (FRACTION_BITS - 1), green = red, blue = red;
        for (size_t i = 0; i < span->count; i++, pixel += 3) {
            red += pixel[0] * span->taps[i];
            green += pixel[1] * span->taps[i];
            blue += pixel[2] * span->taps[i];
        }
        out[3 * x] = round_to_byte(red);
        out[3 * x + 1] = round_to_byte(green);
        out[3 * x + 2] = round_to_byte(blue);
    }
}

/* Output line `index` is a sum of input lines. */
static void resize_rows(void *argument, size_t index, int thread)
{
    (void)thread;
    enum { STRIP = 512 }; /* values summed at a time: they stay in the first-level cache */
    const pass *self = argument;
    const tap_span *span = &self->axis->spans[index];
    uint8_t *out = self->out + index * self->out_stride;
    int32_t sums[STRIP];
    for (size_t start = 0; start < self->values; start += STRIP) {
        size_t count = self->values - start < STRIP ? self->values - start : STRIP;
        for (size_t x = 0; x < count; x++)
            sums[x] = 1 << (FRACTION_BITS - 1);
        for (size_t i = 0; i < span->count; i++) {
            const uint8_t *in = self->in + (span->first - self->origin + i) * self->in_stride + start;
            int32_t tap = span->taps[i];
            for (size_t x = 0; x < count; x++)
                sums[x] += in[x] * tap;
        }
        for (size_t x = 0; x < count; x++)
            out[start + x] = round_to_byte(sums[x]);
    }
}

/* The picture's pixels that any output pixel looks at: [*first, *first + *count). */
static void used_range(const axis_plan *axis, size_t *first, size_t *count)
{
    size_t begin = SIZE_MAX, end = 0;
    for (size_t x = 0; x < axis->length; x++) {
        const tap_span *span = &axis->spans[x];
        if (span->count == 0)
            continue;
        begin = span->first < begin ? span->first : begin;
        end = span->first + span->count > end ? span->first + span->count : end;
    }
    *first = end ? begin : 0;
    *count = end ? end - begin : 0;
}

/* Pillow's rule for which pass comes first; the rounding in between makes it visible. */
static bool columns_come_first(const fvlm_canvas *canvas, const fvlm_resize_window *window)
{
    double less_height = (double)canvas->canvas_height - (double)window->full_height;
    double less_width = (double)canvas->canvas_width - (double)window->full_width;
    return !(less_height > 0 && less_height > less_width * 2);
}

fvlm_status fvlm_resize(fvlm_pool *pool, const fvlm_canvas *canvas, const fvlm_resize_window *window, uint8_t *out,
                        size_t stride, fvlm_error *error)
{
    axis_plan columns = {.length = window->width}, rows = {.length = window->height};
    uint8_t *middle = NULL;
    fvlm_status status =
        plan_axis(&columns, canvas->canvas_width, canvas->left, canvas->width, window->full_width, window->left, error);
    if (status == FVLM_OK)
        status = plan_axis(&rows, canvas->canvas_height, canvas->top, canvas->height, window->full_height, window->top,
                           error);
    if (status != FVLM_OK)
        goto done;

    size_t first_column, column_count, first_row, row_count;
    used_range(&columns, &first_column, &column_count);
    used_range(&rows, &first_row, &row_count);
    bool columns_first = columns_come_first(canvas, window);
    size_t lines = columns_first ? row_count : window->height;
    size_t middle_stride = (columns_first ? window->width : column_count) * 3, bytes;
    /* One byte more, since malloc(0) may give NULL. */
    if (!fvlm_size_multiply(lines, middle_stride, &bytes) || !(middle = malloc(bytes + 1))) {
        status = fvlm_fail_memory(error);
        goto done;
    }
    size_t picture_stride = canvas->width * 3;
    pass column_pass = {.axis = &columns, .out_stride = stride, .out = out};
    pass row_pass = {.axis = &rows, .out_stride = stride, .out = out};
    if (columns_first) {
        column_pass.in = canvas->rgb + first_row * picture_stride;
        column_pass.in_stride = picture_stride;
        column_pass.out = middle;
        column_pass.out_stride = middle_stride;
        row_pass.origin = first_row;
        row_pass.in = middle;
        row_pass.in_stride = middle_stride;
        row_pass.values = middle_stride;
        fvlm_pool_run(pool, lines, resize_columns, &column_pass);
        fvlm_pool_run(pool, window->height, resize_rows, &row_pass);
    } else {
        row_pass.in = canvas->rgb + first_column * 3;
        row_pass.in_stride = picture_stride;
        row_pass.out = middle;
        row_pass.out_stride = middle_stride;
        row_pass.values = middle_stride;
        column_pass.origin = first_column;
        column_pass.in = middle;
        column_pass.in_stride = middle_stride;
        fvlm_pool_run(pool, window->height, resize_rows, &row_pass);
        fvlm_pool_run(pool, lines, resize_columns, &column_pass);
    }
done:
    free(middle);
    free_axis(&columns);
    free_axis(&rows);
    return status;
}
