/* Attention and rotary positions: each instruction set against double precision, over shapes on both sides of the rule
 * for few queries, with several query heads a key head, strides, causal masks and beams' tails, on one and several
 * threads, whose results must be equal. Keys and values of each number type; storing and widening them. */
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/cpu.h"
#include "kernels/attention.h"
#include "kernels/rows.h"

/* The rows of k and v that query i sees: `keys` first ones, then the tail's. */
static size_t seen_rows(const fvlm_attention *a, size_t query, size_t *rows)
{
    size_t count = a->causal ? a->keys - a->queries + query + 1 : a->keys;
    for (size_t i = 0; i < count; i++)
        rows[i] = i;
    for (size_t t = 0; a->tail && t < a->tail_count; t++)
        rows[count++] = (size_t)a->tail[query * a->tail_stride + t];
    return count;
}

/* out [queries, heads, head_dim], without gaps, from an attention whose k and v are F32. */
static void expected_attention(const fvlm_attention *a, float *out)
{
    size_t *rows = harness_bytes((a->keys + a->tail_count) * sizeof *rows);
    double *p = harness_bytes((a->keys + a->tail_count) * sizeof *p);
    for (size_t query = 0; query < a->queries; query++)
        for (size_t head = 0; head < a->heads; head++) {
            size_t shared = head / (a->heads / a->kv_heads), count = seen_rows(a, query, rows);
            const float *q = a->q + query * a->q_stride + head * a->head_dim;
            double largest = -INFINITY, sum = 0;
            for (size_t i = 0; i < count; i++) {
                const float *k = (const float *)a->k + rows[i] * a->k_stride + shared * a->head_dim;
                p[i] = 0;
                for (size_t d = 0; d < a->head_dim; d++)
                    p[i] += (double)q[d] * k[d] * a->scale;
                largest = p[i] > largest ? p[i] : largest;
            }
            for (size_t i = 0; i < count; i++)
                sum += p[i] = exp(p[i] - largest);
            for (size_t d = 0; d < a->head_dim; d++) {
                double value = 0;
                for (size_t i = 0; i < count; i++)
                    value += p[i] * ((const float *)a->v)[rows[i] * a->v_stride + shared * a->head_dim + d];
                *out++ = (float)(value / sum);
            }
        }
}

static const fvlm_dtype kv_types[] = {FVLM_F32, FVLM_BF16, FVLM_I8};

/* What stands for x[rows, kv_heads, head_dim] in the attention's type; *x becomes what that means. */
static void *narrow(const fvlm_attention *a, float **x, size_t rows, size_t *stride)
{
    size_t head = fvlm_attention_head_stride(a->type, a->head_dim), width = a->kv_heads * head;
    size_t bytes = fvlm_dtype_bytes(a->type), head_bytes = head * bytes;
    *stride = width + harness_between(0, 5);
    uint8_t *y = harness_bytes(((rows - 1) * *stride + width) * bytes);
    float *meant = harness_output(rows * a->kv_heads * a->head_dim), *to = meant;
    for (size_t i = 0; i < rows * a->kv_heads; i++, to += a->head_dim) {
        uint8_t *row = y + i / a->kv_heads * *stride * bytes + i % a->kv_heads * head_bytes;
        fvlm_row_kernels_reference.narrow(a->type, *x + i * a->head_dim, a->head_dim, row);
        fvlm_row_kernels_reference.widen(a->type, row, 0, 1, a->head_dim, to);
    }
    *x = meant;
    return y;
}

/* Buffers and strides for an attention whose other members are set; `rows` of k and v, at least keys. */
static void check_case(fvlm_attention *a, size_t rows)
{
    size_t width = a->heads * a->head_dim, kv_width = a->kv_heads * a->head_dim;
    a->q_stride = width + harness_between(0, 5);
    bool narrowed = a->type != FVLM_F32;
    a->k_stride = kv_width + (narrowed ? 0 : harness_between(0, 5));
    a->v_stride = kv_width + (narrowed ? 0 : harness_between(0, 5));
    a->out_stride = width + harness_between(0, 5);
    a->scale = 1 / sqrtf((float)a->head_dim);
    a->q = harness_floats((a->queries - 1) * a->q_stride + width, 2);
    float *k = harness_floats((rows - 1) * a->k_stride + kv_width, 1);
    float *v = harness_floats((rows - 1) * a->v_stride + kv_width, 1);
    /* What a causal query does not see has no part in it, whatever it is; integers cannot say it. */
    if (a->causal && a->queries > 1 && a->type != FVLM_I8)
        k[(rows - 1) * a->k_stride] = NAN;
    fvlm_attention meant = *a;
    if (narrowed) {
        a->k = narrow(a, &k, rows, &a->k_stride);
        a->v = narrow(a, &v, rows, &a->v_stride);
    } else {
        a->k = k;
        a->v = v;
    }
    meant.k = k;
    meant.v = v;
    size_t out_count = (a->queries - 1) * a->out_stride + width;
    float *out = harness_output(out_count), *again = harness_output(out_count);
    float *expected = harness_output(a->queries * width);
    expected_attention(&meant, expected);
    char what[128];
    snprintf(what, sizeof what, "%s, %zu queries, %zu keys, %zu tail, %zu of %zu heads of %zu%s",
             fvlm_dtype_name(a->type), a->queries, a->keys, a->tail_count, a->kv_heads, a->heads, a->head_dim,
             a->causal ? ", causal" : "");
    HARNESS_LEVELS(level)
    {
        for (size_t i = 0; i < out_count; i++)
            out[i] = again[i] = INFINITY;
        for (int threads = 1; threads <= 3; threads += 2) {
            size_t floats = fvlm_attention_workspace(a->queries, a->keys, a->head_dim, threads);
            a->out = threads == 1 ? out : again;
            fvlm_attention_forward(harness_pool(threads), a, harness_output(floats));
        }
        harness_near_rows(what, expected, width, out, a->out_stride, a->queries, width,
                          (harness_tolerance){1e-5, 1e-5});
        harness_near("3 threads", out, again, out_count, (harness_tolerance){0, 0});
    }
}

static fvlm_attention random_attention(size_t queries, size_t more_keys, bool causal)
{
    size_t kv_heads = harness_between(1, 3);
    return (fvlm_attention){.queries = queries,
                            .keys = queries + more_keys,
                            .kv_heads = kv_heads,
                            .heads = kv_heads * harness_between(1, 3),
                            .head_dim = harness_between(1, 80),
                            .type = kv_types[harness_between(0, 2)],
                            .causal = causal};
}

static void check_many(void)
{
    fvlm_attention attention = random_attention(harness_between(9, 150), harness_between(0, 90), harness_random() & 1);
    check_case(&attention, attention.keys);
}

static void check_few(void)
{
    fvlm_attention attention = random_attention(harness_between(1, 8), harness_between(0, 300), harness_random() & 1);
    check_case(&attention, attention.keys);
}

/* More queries than a task takes. */
static void check_runs(void)
{
    fvlm_attention attention = {
        .queries = harness_between(2049, 2200), .kv_heads = 1, .heads = 1, .head_dim = 3, .causal = true};
    attention.keys = attention.queries + harness_between(0, 40);
    check_case(&attention, attention.keys);
}

/* Beams share the first keys and have rows of their own. */
static void check_tail(void)
{
    fvlm_attention attention = random_attention(harness_between(1, 12), harness_between(10, 60), false);
    size_t rows = attention.keys + harness_between(1, 100);
    attention.tail_count = harness_between(1, attention.keys);
    attention.tail_stride = attention.tail_count + harness_between(0, 4);
    int32_t *tail = harness_bytes(attention.queries * attention.tail_stride * sizeof *tail);
    for (size_t i = 0; i < attention.queries * attention.tail_stride; i++)
        tail[i] = (int32_t)harness_between(attention.keys, rows - 1);
    attention.tail = tail;
    check_case(&attention, rows);
}

/* Each level stores the same bytes, and widens them to the same floats; what lies between rows stays. */
static void check_narrow(void)
{
    fvlm_dtype type = kv_types[harness_between(1, 2)];
    size_t rows = harness_between(1, 20), heads = harness_between(1, 3), dim = harness_between(1, 80);
    size_t head = fvlm_attention_head_stride(type, dim), width = heads * head, stride = width + harness_between(0, 5);
    size_t bytes = ((rows - 1) * stride + width) * fvlm_dtype_bytes(type), count = rows * heads * dim;
    float *x = harness_floats(count, 3), *wide = harness_output(count), *expected_wide = harness_output(count);
    for (size_t d = 0; d < dim && (harness_random() & 1); d++)
        x[d] = 0;
    uint8_t *y = harness_bytes(bytes), *expected = harness_bytes(bytes);
    memcpy(expected, y, bytes);
    HARNESS_LEVELS(level)
    {
        bool reference = harness_is_reference();
        uint8_t *stored = reference ? expected : y;
        float *to = reference ? expected_wide : wide;
        fvlm_attention_narrow(type, x, rows, heads, dim, stored, stride);
        for (size_t h = 0; h < heads; h++)
            fvlm_row_kernels_select()->widen(type, stored + h * head * fvlm_dtype_bytes(type), stride, rows, dim,
                                             to + h * rows * dim);
        if (reference)
            continue;
        harness_equal("stored", expected, y, bytes);
        harness_equal("widened", expected_wide, wide, count * sizeof *wide);
    }
    double most = type == FVLM_BF16 ? 1.0 / 256 : 3 * 5.0 / 254; /* relative, or of the largest of some normal ones */
    for (size_t i = 0; i < rows; i++)
        for (size_t d = 0; d < dim; d++) {
            float was = x[i * heads * dim + d], is = expected_wide[i * dim + d];
            if (fabs(was - is) > most * (type == FVLM_BF16 ? fabs(was) : 1))
                harness_fail("%g became %g", was, is);
        }
}

static void check_rope(void)
{
    size_t rows = harness_between(1, 20), heads = harness_between(1, 5), head_dim = 2 * harness_between(1, 70);
    size_t width = heads * head_dim, stride = width + harness_between(0, 5), positions = harness_between(1, 300);
    size_t count = (rows - 1) * stride + width;
    double base = harness_random() & 1 ? 1e6 : 1e4;
    float *x = harness_floats(count, 1), *y = harness_output(count), *expected = harness_output(count);
    float *table = harness_output(positions * head_dim);
    int32_t *place = harness_bytes(rows * sizeof *place);
    for (size_t i = 0; i < count; i++)
        expected[i] = x[i]; /* what lies between rows stays */
    for (size_t i = 0; i < rows; i++) {
        place[i] = (int32_t)harness_between(0, positions - 1);
        for (size_t pair = 0; pair < heads * (head_dim / 2); pair++) {
            size_t d = pair % (head_dim / 2), low = i * stride + pair / (head_dim / 2) * head_dim + d;
            size_t high = low + head_dim / 2;
            double angle = place[i] * pow(base, -2.0 * (double)d / (double)head_dim);
            expected[low] = (float)(x[low] * cos(angle) - x[high] * sin(angle));
            expected[high] = (float)(x[high] * cos(angle) + x[low] * sin(angle));
        }
    }
    fvlm_rope_table(positions, head_dim, base, table);
    HARNESS_LEVELS(level)
    {
        for (size_t i = 0; i < count; i++)
            y[i] = x[i];
        fvlm_rope(y, rows, stride, heads, head_dim, place, table);
        harness_near("rope", expected, y, count, (harness_tolerance){1e-6, 1e-6});
    }
}

struct bench {
    fvlm_pool *pool;
    fvlm_attention attention;
    float *workspace;
};

static void run_bench(void *argument)
{
    struct bench *bench = argument;
    fvlm_attention_forward(bench->pool, &bench->attention, bench->workspace);
}

static void bench_shape(const char *name, fvlm_attention attention)
{
    size_t width = attention.heads * attention.head_dim, kv_width = attention.kv_heads * attention.head_dim;
    attention.q_stride = attention.out_stride = width;
    attention.k_stride = attention.v_stride =
        attention.kv_heads * fvlm_attention_head_stride(attention.type, attention.head_dim);
    attention.scale = 1 / sqrtf((float)attention.head_dim);
    attention.q = harness_floats(attention.queries * width, 1);
    size_t bytes = attention.keys * attention.k_stride * fvlm_dtype_bytes(attention.type);
    float *x = harness_floats(attention.keys * kv_width, 1);
    void *kv = attention.type == FVLM_F32 ? x : harness_bytes(bytes);
    if (attention.type != FVLM_F32)
        fvlm_attention_narrow(attention.type, x, attention.keys, attention.kv_heads, attention.head_dim, kv,
                              attention.k_stride);
    attention.k = kv;
    attention.v = memcpy(harness_bytes(bytes), kv, bytes);
    attention.out = harness_output(attention.queries * width);
    double pairs = (double)attention.queries * (double)attention.keys / (attention.causal ? 2 : 1);
    for (int threads = 1; threads <= fvlm_cpu_count(); threads++) {
        struct bench bench = {.pool = harness_pool(threads), .attention = attention};
        char what[64];
        snprintf(what, sizeof what, "%s %zu x %zu, %s, %d threads", name, attention.queries, attention.keys,
                 fvlm_dtype_name(attention.type), threads);
        HARNESS_LEVELS(level)
        {
            size_t floats = fvlm_attention_workspace(attention.queries, attention.keys, attention.head_dim, threads);
            bench.workspace = harness_output(floats);
            harness_bench(what, 4 * pairs * (double)width, attention.queries == 1 ? 2 * (double)bytes : 0, run_bench,
                          &bench);
        }
    }
}

/* The tower's last two stages, and the 0.5B language model's prompt and token. */
static void bench_attention(void)
{
    bench_shape("tower", (fvlm_attention){.queries = 1024, .keys = 1024, .heads = 24, .kv_heads = 24, .head_dim = 32});
    bench_shape("tower", (fvlm_attention){.queries = 256, .keys = 256, .heads = 48, .kv_heads = 48, .head_dim = 32});
    fvlm_attention decoder = {.queries = 286, .keys = 286, .heads = 14, .kv_heads = 2, .head_dim = 64, .causal = true};
    bench_shape("prompt", decoder);
    decoder.queries = 1;
    static const size_t positions[] = {300, 4096, 8192};
    for (size_t i = 0; i < 3; i++)
        for (size_t type = 0; type < 3; type++) {
            decoder.keys = positions[i];
            decoder.type = kv_types[type];
            bench_shape("token", decoder);
        }
}

static const harness_test tests[] = {
    {"many", 120, check_many, bench_attention},
    {"few", 120, check_few, NULL},
    {"runs", 2, check_runs, NULL},
    {"tail", 120, check_tail, NULL},
    {"narrow", 60, check_narrow, NULL},
    {"rope", 40, check_rope, NULL},
};

int main(int argc, char **argv)
{
    return harness_main(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
