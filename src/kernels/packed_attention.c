/* Attention with packed keys and values: a task takes some queries of a head, and lets the head's keys and values pass
 * by in chunks that stay in the level 1 and 2 caches. */
#include <math.h>
#include <string.h>

#include "kernels/packed_block.h"

enum { CHANNELS = FVLM_PACKED_HEAD, PANEL = FVLM_PACKED_PANEL, KEYS = FVLM_PACKED_KEYS };
#define QUERIES ((size_t)1024) /* of a task: keys are packed once for them */

struct attention {
    const fvlm_packed_kernels *kernels;
    fvlm_pool *pool;
    fvlm_packed_type type;
    size_t tokens, heads, runs; /* tasks of a head */
    const float *qkv;           /* [tokens, 3, heads, CHANNELS] */
    float *out;                 /* [tokens, heads, CHANNELS] */
};

/* What a task has in its thread's scratch memory. */
struct head {
    uint8_t q[QUERIES * CHANNELS * sizeof(float)];
    uint8_t keys[KEYS * CHANNELS * sizeof(float)], values[KEYS * CHANNELS * sizeof(float)];
    uint8_t rows[PANEL * CHANNELS * sizeof(float)];
    float sums[QUERIES * CHANNELS], totals[QUERIES], largest[QUERIES];
};
_Static_assert(sizeof(struct head) <= FVLM_SCRATCH_BYTES, "a head's chunk fits the scratch memory");

/* to[count, CHANNELS] as `type` has them, from rows of qkv. */
static void round_rows(const struct attention *job, const float *x, size_t count, uint8_t *to)
{
    size_t stride = CHANNELS * fvlm_packed_input_bytes(job->type), x_stride = 3 * job->heads * CHANNELS;
    fvlm_packed_rows rows = {.data = to, .stride = stride, .rows = count};
    if (job->type == FVLM_PACKED_BF16)
        job->kernels->prepare(job->type, x, x_stride, CHANNELS, 0, count, &rows);
    else
        for (size_t i = 0; i < count; i++)
            memcpy(to + i * stride, x + i * x_stride, stride);
}

/* Keys [count, CHANNELS] as panels, with 0 for those that a panel lacks; values as one panel of channels, whose units
 * are single keys in float32 and pairs of them in bf16. */
static void pack_chunk(const struct attention *job, const float *k, const float *v, size_t count, struct head *head)
{
    size_t row_bytes = CHANNELS * fvlm_packed_input_bytes(job->type), x_stride = 3 * job->heads * CHANNELS;
    size_t panel_bytes = PANEL * row_bytes;
    for (size_t first = 0; first < count; first += PANEL) {
        size_t rows = count - first < PANEL ? count - first : PANEL;
        memset(head->rows, 0, panel_bytes);
        round_rows(job, k + first * x_stride, rows, head->rows);
        job->kernels->interleave(head->rows, row_bytes, row_bytes / FVLM_PACKED_UNIT, head->keys + first * row_bytes);
        memset(head->rows, 0, panel_bytes);
        round_rows(job, v + first * x_stride, rows, head->rows);
        if (job->type != FVLM_PACKED_BF16) {
            memcpy(head->values + first * row_bytes, head->rows, panel_bytes);
            continue;
        }
        const uint16_t *pairs = (const uint16_t *)(const void *)head->rows;
        uint32_t *units = (uint32_t *)(void *)(head->values + first * row_bytes);
        for (size_t i = 0; i < PANEL; i += 2)
            for (size_t c = 0; c < CHANNELS; c++)
                units[i / 2 * CHANNELS + c] = pairs[i * CHANNELS + c] | (uint32_t)pairs[(i + 1) * CHANNELS + c] << 16;
    }
}

static void attention_task(void *argument, size_t index, int thread)
{
    const struct attention *job = argument;
    struct head *head = fvlm_pool_scratch(job->pool, thread);
    size_t width = job->heads * CHANNELS, first = index % job->runs * QUERIES, channel = index / job->runs * CHANNELS;
    size_t queries = job->tokens - first < QUERIES ? job->tokens - first : QUERIES;
    fvlm_packed_chunk chunk = {.type = job->type,
                               .q = head->q,
                               .queries = queries,
                               .keys = head->keys,
                               .values = head->values,
                               .scale = 1 / sqrtf(CHANNELS),
                               .first = true,
                               .sums = head->sums,
                               .totals = head->totals,
                               .largest = head->largest};
    round_rows(job, job->qkv + first * 3 * width + channel, queries, head->q);
    for (size_t key = 0; key < job->tokens; key += KEYS) {
        const float *k = job->qkv + (3 * key + 1) * width + channel;
        chunk.count = job->tokens - key < KEYS ? job->tokens - key : KEYS;
        pack_chunk(job, k, k + width, chunk.count, head);
        job->kernels->attend(&chunk);
        chunk.first = false;
    }
    for (size_t i = 0; i < queries; i++)
        for (size_t c = 0; c < CHANNELS; c++)
            job->out[(first + i) * width + channel + c] = head->sums[i * CHANNELS + c] / head->totals[i];
}

void fvlm_packed_attention(fvlm_pool *pool, fvlm_packed_type type, size_t tokens, size_t heads, const float *qkv,
                           float *out)
{
    struct attention job = {.kernels = fvlm_packed_kernels_select(),
                            .pool = pool,
                            .type = type,
                            .tokens = tokens,
                            .heads = heads,
                            .runs = (tokens + QUERIES - 1) / QUERIES,
                            .qkv = qkv,
                            .out = out};
    fvlm_pool_run(pool, heads * job.runs, attention_task, &job);
}
