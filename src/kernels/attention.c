/* Attention by matrix products (many queries) or by dot products (few), and rotary positions.
 *
 * Many queries: a task takes a head and a run of queries. It unpacks the head's keys and values into panels, then for
 * each block of QUERY_BLOCK queries: scores [block, keys] = q K^T, softmax row by row, out [block, head_dim] = p V.
 * Few queries (decoding, beams): a task takes a query and heads that share keys and values, which it reads once for all
 * of them; scores are dot products, or a matrix product where enough heads share.
 * Keys and values of fewer bits than a float are widened first: a head's all, or KEY_BLOCK rows at a time into cache.
 * Every sum runs in the order of the keys, whatever the thread count.
 */
#include "kernels/attention.h"

#include <math.h>
#include <string.h>

#include "kernels/gemm_block.h"
#include "kernels/rows.h"

#define QUERY_BLOCK 56  /* rows of scores at a time: four tiles of the widest GEMM body */
#define FEW_QUERIES 8   /* up to which unpacking keys would cost more than it saves */
#define FEW_HEADS 8     /* of a task, at most */
#define QUERY_RUN 2048  /* queries of a task: panels are unpacked once for them */
#define KEY_BLOCK 32    /* few queries: rows of keys or values that meet all heads of a task before the next ones */
#define PRODUCT_HEADS 3 /* that share keys, from which on unpacking these pays for few queries too */

/* Floats that one task may need: panels of keys and values, and a block of scores or a head's keys or values. Few
 * queries: scores, a block of keys or values, and its panels. */
static size_t task_floats(size_t queries, size_t keys, size_t head_dim)
{
    const fvlm_gemm_kernels *kernels = fvlm_gemm_kernels_select();
    if (queries <= FEW_QUERIES)
        return FEW_HEADS * keys + KEY_BLOCK * head_dim + fvlm_gemm_panels_size(kernels, head_dim, KEY_BLOCK);
    return fvlm_gemm_panels_size(kernels, head_dim, keys) + fvlm_gemm_panels_size(kernels, keys, head_dim) +
           (head_dim > QUERY_BLOCK ? head_dim : QUERY_BLOCK) * keys;
}

size_t fvlm_attention_head_stride(fvlm_dtype type, size_t head_dim)
{
    return type == FVLM_I8 ? head_dim + sizeof(float) : head_dim;
}

void fvlm_attention_narrow(fvlm_dtype type, const float *x, size_t rows, size_t heads, size_t head_dim, void *y,
                           size_t y_stride)
{
    size_t bytes = fvlm_dtype_bytes(type), head_bytes = fvlm_attention_head_stride(type, head_dim) * bytes;
    for (size_t i = 0; i < rows; i++)
        for (size_t head = 0; head < heads; head++, x += head_dim)
            fvlm_row_kernels_select()->narrow(type, x, head_dim,
                                              (uint8_t *)y + i * y_stride * bytes + head * head_bytes);
}

size_t fvlm_attention_workspace(size_t queries, size_t keys, size_t head_dim, int threads)
{
    /* Calls with fewer queries may need more than half as much: beams add their tail to the keys. */
    size_t many = task_floats(queries, keys, head_dim), few = task_floats(1, 2 * keys, head_dim);
    return (size_t)threads * (many > few ? many : few);
}

struct attention_job {
    const fvlm_attention *attention;
    const fvlm_gemm_kernels *gemm;
    const fvlm_row_kernels *rows;
    float *workspace; /* [threads, floats] */
    size_t floats;
    size_t runs;         /* many queries: of a head */
    size_t heads, parts; /* few: of a task, and tasks over the same keys */
};

/* Rows of a head's keys or values as floats. */
struct float_rows {
    const float *at;
    size_t stride;
};

/* The rows first .. first + count of head `shared` of k or v: where they lie, or widened to space[count, head_dim]. */
static struct float_rows float_rows(const struct attention_job *job, const void *k_or_v, size_t stride, size_t shared,
                                    size_t first, size_t count, float *space)
{
    const fvlm_attention *a = job->attention;
    size_t offset = first * stride + shared * fvlm_attention_head_stride(a->type, a->head_dim);
    if (a->type == FVLM_F32)
        return (struct float_rows){(const float *)k_or_v + offset, stride};
    job->rows->widen(a->type, (const uint8_t *)k_or_v + offset * fvlm_dtype_bytes(a->type), stride, count, a->head_dim,
                     space);
    return (struct float_rows){space, a->head_dim};
}

/* The same for rows of a tail, which need not be neighbours. */
static struct float_rows tail_rows(const struct attention_job *job, const void *k_or_v, size_t stride, size_t shared,
                                   const int32_t *tail, size_t count, float *space)
{
    size_t dim = job->attention->head_dim;
    for (size_t i = 0; i < count; i++) {
        float *to = space + i * dim;
        struct float_rows row = float_rows(job, k_or_v, stride, shared, (size_t)tail[i], 1, to);
        if (row.at != to)
            memcpy(to, row.at, dim * sizeof *to);
    }
    return (struct float_rows){space, dim};
}

/* What a query sees: the first `keys` rows, then the tail's. */
struct seen {
    size_t keys, all;
    const int32_t *tail;
};

/* The rows from the i-th that a query sees on, as many as one call takes. */
static struct float_rows next_rows(const struct attention_job *job, const void *k_or_v, size_t stride, size_t shared,
                                   const struct seen *seen, size_t i, size_t *count, float *space)
{
    size_t rest = (i < seen->keys ? seen->keys : seen->all) - i;
    *count = rest < KEY_BLOCK ? rest : KEY_BLOCK;
    return i < seen->keys ? float_rows(job, k_or_v, stride, shared, i, *count, space)
                          : tail_rows(job, k_or_v, stride, shared, seen->tail + i - seen->keys, *count, space);
}

/* One query and some heads of a group: scores, softmax, values, by blocks of rows that wait in level 1 cache for the
 * heads. What a head gets does not depend on how many others the task has. */
static void run_few(void *argument, size_t index, int thread)
{
    const struct attention_job *job = argument;
    const fvlm_attention *a = job->attention;
    size_t group = a->heads / a->kv_heads, tasks = a->kv_heads * job->parts, dim = a->head_dim;
    size_t query = index / tasks, shared = index % tasks / job->parts, first = index % job->parts * job->heads;
    size_t heads = group - first < job->heads ? group - first : job->heads, head = shared * group + first;
    size_t keys = a->causal ? a->keys - a->queries + query + 1 : a->keys, count;
    const struct seen seen = {keys, keys + (a->tail ? a->tail_count : 0),
                              a->tail ? a->tail + query * a->tail_stride : NULL};
    const float *q = a->q + query * a->q_stride + head * dim;
    float *space = job->workspace + (size_t)thread * job->floats, *panels = space + KEY_BLOCK * dim;
    float *scores = panels + fvlm_gemm_panels_size(job->gemm, dim, KEY_BLOCK);
    float *out = a->out + query * a->out_stride + head * dim, sums[FEW_HEADS];
    for (size_t i = 0; i < seen.all; i += count) {
        struct float_rows k = next_rows(job, a->k, a->k_stride, shared, &seen, i, &count, space);
        if (group < PRODUCT_HEADS) {
            job->rows->dots(q, dim, heads, dim, k.at, k.stride, count, scores + i, seen.all);
            continue;
        }
        fvlm_gemm_panels_from_rows(job->gemm, k.at, k.stride, count, dim, panels);
        fvlm_gemm_block product = {.m = heads,
                                   .n = count,
                                   .k = dim,
                                   .panels = panels,
                                   .x = q,
                                   .x_stride = dim,
                                   .y = scores + i,
                                   .y_stride = seen.all};
        job->gemm->block(&product);
    }
    for (size_t h = 0; h < heads; h++)
        sums[h] = job->rows->exponentials(scores + h * seen.all, seen.all, a->scale);
    memset(out, 0, heads * dim * sizeof *out);
    for (size_t i = 0; i < seen.all; i += count) {
        struct float_rows v = next_rows(job, a->v, a->v_stride, shared, &seen, i, &count, space);
        job->rows->add_scaled(scores + i, seen.all, heads, v.at, v.stride, count, dim, out, dim);
    }
    for (size_t h = 0; h < heads; h++)
        job->rows->scale(out + h * dim, dim, 1.0f / sums[h]);
}

/* One head and a run of queries. */
static void run_many(void *argument, size_t index, int thread)
{
    const struct attention_job *job = argument;
    const fvlm_attention *a = job->attention;
    size_t head = index / job->runs, dim = a->head_dim;
    size_t first = index % job->runs * QUERY_RUN, rest = a->queries - first;
    size_t last = first + (rest < QUERY_RUN ? rest : QUERY_RUN);
    size_t keys = a->causal ? a->keys - a->queries + last : a->keys;
    float *key_panels = job->workspace + (size_t)thread * job->floats;
    float *value_panels = key_panels + fvlm_gemm_panels_size(job->gemm, dim, keys);
    float *scores = value_panels + fvlm_gemm_panels_size(job->gemm, keys, dim);
    size_t shared = head / (a->heads / a->kv_heads);
    struct float_rows rows = float_rows(job, a->k, a->k_stride, shared, 0, keys, scores);
    fvlm_gemm_panels_from_rows(job->gemm, rows.at, rows.stride, keys, dim, key_panels);
    rows = float_rows(job, a->v, a->v_stride, shared, 0, keys, scores);
    fvlm_gemm_panels_from_columns(job->gemm, rows.at, rows.stride, keys, dim, value_panels);

    for (size_t query = first; query < last; query += QUERY_BLOCK) {
        size_t count = last - query < QUERY_BLOCK ? last - query : QUERY_BLOCK;
        size_t seen = a->causal ? a->keys - a->queries + query + count : keys; /* by the block's last query */
        fvlm_gemm_block product = {.m = count,
                                   .n = seen,
                                   .k = dim,
                                   .panels = key_panels,
                                   .x = a->q + query * a->q_stride + head * dim,
                                   .x_stride = a->q_stride,
                                   .y = scores,
                                   .y_stride = keys};
        job->gemm->block(&product);
        float sums[QUERY_BLOCK];
        for (size_t i = 0; i < count; i++) {
            size_t own = a->causal ? seen - count + i + 1 : seen;
            float *row = scores + i * keys;
            sums[i] = job->rows->exponentials(row, own, a->scale);
            memset(row + own, 0, (seen - own) * sizeof *row);
        }
        float *out = a->out + query * a->out_stride + head * dim;
        /* A panel of values at a time: they are `keys` long, of which this block sees the first. */
        for (size_t column = 0; column < dim; column += job->gemm->panel) {
            size_t columns = dim - column < job->gemm->panel ? dim - column : job->gemm->panel;
            product = (fvlm_gemm_block){.m = count,
                                        .n = columns,
                                        .k = seen,
                                        .panels = value_panels + column * keys,
                                        .x = scores,
                                        .x_stride = keys,
                                        .y = out + column,
                                        .y_stride = a->out_stride};
            job->gemm->block(&product);
        }
        for (size_t i = 0; i < count; i++)
            job->rows->scale(out + i * a->out_stride, dim, 1.0f / sums[i]);
    }
}

void fvlm_attention_forward(fvlm_pool *pool, const fvlm_attention *attention, float *workspace)
{
    bool few = attention->queries <= FEW_QUERIES || attention->tail;
    size_t tail = attention->tail ? attention->tail_count : 0;
    struct attention_job job = {.attention = attention,
                                .gemm = fvlm_gemm_kernels_select(),
                                .rows = fvlm_row_kernels_select(),
                                .workspace = workspace,
                                .runs = (attention->queries + QUERY_RUN - 1) / QUERY_RUN};
    job.floats = task_floats(few ? 1 : attention->queries, attention->keys + tail, attention->head_dim);
    if (!few) {
        fvlm_pool_run(pool, attention->heads * job.runs, run_many, &job);
        return;
    }
    /* As few tasks over the same keys as keep all threads busy. */
    size_t group = attention->heads / attention->kv_heads, threads = (size_t)fvlm_pool_threads(pool);
    size_t parts = (threads + attention->kv_heads - 1) / attention->kv_heads;
    job.heads = (group + parts - 1) / parts;
    job.heads = job.heads < FEW_HEADS ? job.heads : FEW_HEADS;
    job.parts = (group + job.heads - 1) / job.heads;
    fvlm_pool_run(pool, attention->queries * attention->kv_heads * job.parts, run_few, &job);
}

/* The angle of position p is that of p - p % FINE plus that of p % FINE, so that few cosines serve many positions. In
 * double precision this adds nothing that a float would show. */
void fvlm_rope_table(size_t positions, size_t head_dim, double base, float *table)
{
    enum { FINE = 64 };
    size_t half = head_dim / 2;
    for (size_t d = 0; d < half; d++) {
        double frequency = pow(base, -2.0 * (double)d / (double)head_dim), cosines[FINE], sines[FINE];
        for (size_t i = 0; i < FINE; i++) {
            cosines[i] = cos((double)i * frequency);
            sines[i] = sin((double)i * frequency);
        }
        for (size_t start = 0; start < positions; start += FINE) {
            double cosine = cos((double)start * frequency), sine = sin((double)start * frequency);
            for (size_t i = 0; i < FINE && start + i < positions; i++) {
                float *to = table + (start + i) * head_dim + d;
                to[0] = (float)(cosine * cosines[i] - sine * sines[i]);
                to[half] = (float)(sine * cosines[i] + cosine * sines[i]);
            }
        }
    }
}

/* By the angles times `sign`. */
static void turn(float *x, size_t rows, size_t stride, size_t heads, size_t head_dim, const int32_t *positions,
                 const float *table, float sign)
{
    size_t half = head_dim / 2;
    for (size_t i = 0; i < rows; i++) {
        const float *cosines = table + (size_t)positions[i] * head_dim, *sines = cosines + half;
        for (size_t head = 0; head < heads; head++) {
            float *low = x + i * stride + head * head_dim, *high = low + half;
            for (size_t d = 0; d < half; d++) {
                float a = low[d], b = high[d], sine = sign * sines[d];
                low[d] = a * cosines[d] - b * sine;
                high[d] = b * cosines[d] + a * sine;
            }
        }
    }
}

void fvlm_rope(float *x, size_t rows, size_t stride, size_t heads, size_t head_dim, const int32_t *positions,
               const float *table)
{
    turn(x, rows, stride, heads, head_dim, positions, table, 1);
}

void fvlm_rope_backward(float *x, size_t rows, size_t stride, size_t heads, size_t head_dim, const int32_t *positions,
                        const float *table)
{
    turn(x, rows, stride, heads, head_dim, positions, table, -1);
}
