/* Backward pass of attention, without the full matrix: the probabilities of a block of queries are computed again.
 *
 * A task takes one head. With P = softmax(scale Q K^T) and D = rowsum(dO * O), block by block:
 *     dV += P^T dO,  dP = dO V^T,  dS = P * (dP - D) * scale,  dQ = dS K,  dK += dS^T Q   (arXiv 2205.14135, appendix
 * B) Heads that share keys and values each have their own dK and dV, which are added up in the order of the heads.
 */
#include <string.h>

#include "kernels/attention.h"
#include "kernels/gemm_block.h"
#include "kernels/rows.h"

#define QUERY_BLOCK 56

/* Floats of a head's own workspace: panels of K and V for each of three products, P and dP, both turned on their side,
 * panels of a block of Q or dO, and dK and dV. */
static size_t head_floats(const fvlm_gemm_kernels *kernels, size_t keys, size_t dim)
{
    return 2 * fvlm_gemm_panels_size(kernels, dim, keys) + fvlm_gemm_panels_size(kernels, keys, dim) +
           3 * QUERY_BLOCK * keys + fvlm_gemm_panels_size(kernels, QUERY_BLOCK, dim);
}

size_t fvlm_attention_backward_workspace(size_t keys, size_t heads, size_t head_dim, int threads)
{
    return (size_t)threads * head_floats(fvlm_gemm_kernels_select(), keys, head_dim) + 2 * heads * keys * head_dim;
}

struct backward {
    const fvlm_attention *attention;
    const fvlm_attention_gradients *gradients;
    const fvlm_gemm_kernels *gemm;
    const fvlm_row_kernels *rows;
    float *workspace, *own; /* [threads, floats], [heads, 2, keys, head_dim] */
    size_t floats;
};

/* y[m, n] (+)= x[m, k] B, a run of panels at a time where they are `stored` deep and only the first k count. */
static void product(const struct backward *job, size_t m, size_t n, size_t k, const float *panels, size_t stored,
                    const float *x, size_t x_stride, float *y, size_t y_stride, bool add)
{
    size_t step = stored == k ? n : job->gemm->panel;
    for (size_t column = 0; column < n; column += step) {
        fvlm_gemm_block block = {.m = m,
                                 .n = n - column < step ? n - column : step,
                                 .k = k,
                                 .panels = panels + column * stored,
                                 .x = x,
                                 .x_stride = x_stride,
                                 .sum = add ? y + column : NULL,
                                 .sum_stride = y_stride,
                                 .y = y + column,
                                 .y_stride = y_stride};
        job->gemm->block(&block);
    }
}

/* to[columns, rows] = from[rows, columns], whose rows are `stride` apart, on its side. */
static void turn(const float *from, size_t stride, size_t rows, size_t columns, float *to)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++)
            to[j * rows + i] = from[i * stride + j];
}

static void run_head(void *argument, size_t head, int thread)
{
    const struct backward *job = argument;
    const fvlm_attention *a = job->attention;
    const fvlm_attention_gradients *g = job->gradients;
    size_t dim = a->head_dim, keys = a->keys, shared = head / (a->heads / a->kv_heads) * dim;
    const float *k = (const float *)a->k + shared, *v = (const float *)a->v + shared;
    float *key_rows = job->workspace + (size_t)thread * job->floats; /* for Q K^T */
    float *value_rows = key_rows + fvlm_gemm_panels_size(job->gemm, dim, keys);
    float *key_columns = value_rows + fvlm_gemm_panels_size(job->gemm, dim, keys);
    float *p = key_columns + fvlm_gemm_panels_size(job->gemm, keys, dim); /* [QUERY_BLOCK, keys], then dS */
    float *dp = p + QUERY_BLOCK * keys, *turned = dp + QUERY_BLOCK * keys, *panels = turned + QUERY_BLOCK * keys;
    float *dk = job->own + 2 * head * keys * dim, *dv = dk + keys * dim;
    fvlm_gemm_panels_from_rows(job->gemm, k, a->k_stride, keys, dim, key_rows);
    fvlm_gemm_panels_from_rows(job->gemm, v, a->v_stride, keys, dim, value_rows);
    fvlm_gemm_panels_from_columns(job->gemm, k, a->k_stride, keys, dim, key_columns);
    memset(dk, 0, 2 * keys * dim * sizeof *dk);

    for (size_t query = 0; query < a->queries; query += QUERY_BLOCK) {
        size_t count = a->queries - query < QUERY_BLOCK ? a->queries - query : QUERY_BLOCK;
        size_t seen = a->causal ? keys - a->queries + query + count : keys; /* by the block's last query */
        const float *q = a->q + query * a->q_stride + head * dim;
        const float *dout = g->dout + query * g->dout_stride + head * dim;
        product(job, count, seen, dim, key_rows, dim, q, a->q_stride, p, keys, false);
        for (size_t i = 0; i < count; i++) {
            size_t own = a->causal ? seen - count + i + 1 : seen;
            float *row = p + i * keys;
            job->rows->scale(row, own, 1.0f / job->rows->exponentials(row, own, a->scale));
            memset(row + own, 0, (seen - own) * sizeof *row);
        }
        turn(p, keys, count, seen, turned);
        fvlm_gemm_panels_from_columns(job->gemm, dout, g->dout_stride, count, dim, panels);
        product(job, seen, dim, count, panels, count, turned, count, dv, dim, true);

        product(job, count, seen, dim, value_rows, dim, dout, g->dout_stride, dp, keys, false);
        for (size_t i = 0; i < count; i++) {
            float *row = p + i * keys, *drow = dp + i * keys;
            double sum = 0, products = 0;
            for (size_t j = 0; j < seen; j++) {
                sum += row[j];
                products += (double)row[j] * (double)drow[j];
            }
            float d = (float)(products / sum);
            for (size_t j = 0; j < seen; j++)
                row[j] *= (drow[j] - d) * a->scale;
        }
        product(job, count, dim, seen, key_columns, keys, p, keys, g->dq + query * g->dq_stride + head * dim,
                g->dq_stride, false);
        turn(p, keys, count, seen, turned);
        fvlm_gemm_panels_from_columns(job->gemm, q, a->q_stride, count, dim, panels);
        product(job, seen, dim, count, panels, count, turned, count, dk, dim, true);
    }
}

/* Add up the heads of a group for one key. */
static void run_key(void *argument, size_t key, int thread)
{
    (void)thread;
    const struct backward *job = argument;
    const fvlm_attention *a = job->attention;
    size_t dim = a->head_dim, keys = a->keys, group = a->heads / a->kv_heads;
    for (size_t shared = 0; shared < a->kv_heads; shared++) {
        float *dk = job->gradients->dk + key * job->gradients->dk_stride + shared * dim;
        float *dv = job->gradients->dv + key * job->gradients->dv_stride + shared * dim;
        for (size_t i = 0; i < group; i++) {
            const float *own = job->own + (2 * (shared * group + i) * keys + key) * dim;
            for (size_t d = 0; d < dim; d++) {
                dk[d] = (i ? dk[d] : 0) + own[d];
                dv[d] = (i ? dv[d] : 0) + own[keys * dim + d];
            }
        }
    }
}

void fvlm_attention_backward(fvlm_pool *pool, const fvlm_attention *attention,
                             const fvlm_attention_gradients *gradients, float *workspace)
{
    struct backward job = {.attention = attention,
                           .gradients = gradients,
                           .gemm = fvlm_gemm_kernels_select(),
                           .rows = fvlm_row_kernels_select(),
                           .workspace = workspace};
    job.floats = head_floats(job.gemm, attention->keys, attention->head_dim);
    job.own = workspace + (size_t)fvlm_pool_threads(pool) * job.floats;
    fvlm_pool_run(pool, attention->heads, run_head, &job);
    fvlm_pool_run(pool, attention->keys, run_key, &job);
}
