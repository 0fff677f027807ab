/* Qwen2's weights, forward pass and KV cache. */
#include "model/decoder.h"

#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/gemm.h"
#include "kernels/norm.h"

struct layer {
    const float *attention_norm, *ffn_norm; /* [hidden] */
    fvlm_matrix q, k, v, o;                 /* [heads * head_dim, hidden], [kv_heads * head_dim, hidden] twice, back */
    const float *q_bias, *k_bias, *v_bias;
    fvlm_matrix gate, up, down; /* [ffn, hidden] twice, [hidden, ffn] */
};

struct fvlm_decoder {
    fvlm_decoder_config config;
    fvlm_matrix embedding, head; /* [vocabulary, hidden]; the same one where embeddings are tied */
    const float *norm;           /* [hidden] */
    struct layer *layers;
    float *rope; /* [context, head_dim] of cosines and sines */
};

static size_t query_width(const fvlm_decoder_config *config)
{
    return config->heads * config->head_dim;
}

static size_t kv_width(const fvlm_decoder_config *config)
{
    return config->kv_heads * config->head_dim;
}

static void load_layer(fvlm_loader *loader, const fvlm_decoder_config *config, size_t index, struct layer *layer)
{
    size_t hidden = config->hidden, q = query_width(config), kv = kv_width(config);
#define NAME(part) "model.layers.%zu." part, index
    layer->attention_norm = fvlm_load_vector(loader, hidden, NAME("input_layernorm.weight"));
    layer->ffn_norm = fvlm_load_vector(loader, hidden, NAME("post_attention_layernorm.weight"));
    layer->q = fvlm_load_matrix(loader, q, hidden, NAME("self_attn.q_proj"));
    layer->k = fvlm_load_matrix(loader, kv, hidden, NAME("self_attn.k_proj"));
    layer->v = fvlm_load_matrix(loader, kv, hidden, NAME("self_attn.v_proj"));
    layer->o = fvlm_load_matrix(loader, hidden, q, NAME("self_attn.o_proj"));
    layer->q_bias = fvlm_load_vector(loader, q, NAME("self_attn.q_proj.bias"));
    layer->k_bias = fvlm_load_vector(loader, kv, NAME("self_attn.k_proj.bias"));
    layer->v_bias = fvlm_load_vector(loader, kv, NAME("self_attn.v_proj.bias"));
    layer->gate = fvlm_load_matrix(loader, config->ffn, hidden, NAME("mlp.gate_proj"));
    layer->up = fvlm_load_matrix(loader, config->ffn, hidden, NAME("mlp.up_proj"));
    layer->down = fvlm_load_matrix(loader, hidden, config->ffn, NAME("mlp.down_proj"));
#undef NAME
}

/* Let a layer round its inputs to `type`, or to bf16 where its weights have more bits than 8-bit inputs are worth. */
static void set_inputs(fvlm_matrix *matrix, fvlm_dtype type)
{
    bool wide = fvlm_dtype_bytes(matrix->type) > 1;
    matrix->inputs = type == FVLM_I8 && wide ? FVLM_BF16 : type;
}

static void set_all_inputs(fvlm_decoder *decoder, fvlm_dtype type)
{
    set_inputs(&decoder->head, type);
    for (size_t i = 0; i < decoder->config.layers; i++) {
        struct layer *layer = &decoder->layers[i];
        fvlm_matrix *const matrices[] = {&layer->q,    &layer->k,  &layer->v,   &layer->o,
                                         &layer->gate, &layer->up, &layer->down};
        for (size_t j = 0; j < sizeof matrices / sizeof matrices[0]; j++)
            set_inputs(matrices[j], type);
    }
}

fvlm_decoder *fvlm_decoder_load(fvlm_loader *loader, const fvlm_decoder_config *config, size_t context,
                                fvlm_dtype inputs)
{
    if (loader->status)
        return NULL;
    fvlm_decoder *decoder = fvlm_arena_alloc(loader->arena, 1, sizeof *decoder);
    struct layer *layers = fvlm_arena_alloc(loader->arena, config->layers, sizeof *layers);
    float *rope = fvlm_arena_alloc(loader->arena, context * config->head_dim, sizeof *rope);
    if (!decoder || !layers || !rope) {
        loader->status = fvlm_fail_memory(loader->error);
        return NULL;
    }
    *decoder = (fvlm_decoder){.config = *config, .layers = layers, .rope = rope};
    decoder->embedding = fvlm_load_matrix(loader, config->vocabulary, config->hidden, "model.embed_tokens");
    /* config.json's tie_word_embeddings is sometimes wrong: the weights tell. */
    decoder->head = fvlm_loader_has(loader, "lm_head.weight")
                        ? fvlm_load_matrix(loader, config->vocabulary, config->hidden, "lm_head")
                        : decoder->embedding;
    decoder->norm = fvlm_load_vector(loader, config->hidden, "model.norm.weight");
    for (size_t i = 0; i < config->layers && !loader->status; i++)
        load_layer(loader, config, i, &layers[i]);
    set_all_inputs(decoder, inputs);
    fvlm_rope_table(context, config->head_dim, config->rope_base, rope);
    return loader->status ? NULL : decoder;
}

fvlm_dtype fvlm_decoder_weights(const fvlm_decoder *decoder)
{
    for (size_t i = 0; i < decoder->config.layers; i++)
        if (decoder->layers[i].k.type == FVLM_F32 || decoder->layers[i].v.type == FVLM_F32)
            return FVLM_F32;
    return decoder->layers[0].k.type;
}

fvlm_status fvlm_kv_cache_create(const fvlm_decoder *decoder, size_t slots, fvlm_dtype type, fvlm_kv_cache *cache,
                                 fvlm_error *error)
{
    const fvlm_decoder_config *config = &decoder->config;
    size_t width = config->kv_heads * fvlm_attention_head_stride(type, config->head_dim), bytes;
    *cache = (fvlm_kv_cache){.type = type, .slots = slots, .width = width};
    if (!fvlm_size_multiply(slots, width, &bytes) || !fvlm_size_multiply(bytes, config->layers, &bytes) ||
        !fvlm_size_multiply(bytes, fvlm_dtype_bytes(type), &bytes))
        return fvlm_fail_memory(error);
    cache->keys = fvlm_aligned_alloc(bytes);
    cache->values = fvlm_aligned_alloc(bytes);
    if (!cache->keys || !cache->values) {
        fvlm_kv_cache_destroy(cache);
        return fvlm_fail(error, FVLM_ERROR_MEMORY,
                         "no memory for a KV cache of %zu positions: use a smaller context (--ctx)", slots);
    }
    return FVLM_OK;
}

void fvlm_kv_cache_destroy(fvlm_kv_cache *cache)
{
    fvlm_aligned_free(cache->keys);
    fvlm_aligned_free(cache->values);
    *cache = (fvlm_kv_cache){0};
}

/* Bytes before slot `slot` of layer `layer`. */
static size_t cache_offset(const fvlm_kv_cache *cache, size_t layer, size_t slot)
{
    return (layer * cache->slots + slot) * cache->width * fvlm_dtype_bytes(cache->type);
}

/* Floats of a row's gate and up, or of its keys and values on their way to the cache: never both at once. */
static size_t pair_width(const fvlm_decoder_config *config)
{
    return 2 * (config->ffn > kv_width(config) ? config->ffn : kv_width(config));
}

/* Workspace: normed [rows, hidden], q and attended [rows, heads * head_dim], a pair, attention. */
size_t fvlm_decoder_workspace(const fvlm_decoder *decoder, size_t rows, size_t slots, int threads)
{
    const fvlm_decoder_config *config = &decoder->config;
    return rows * (config->hidden + 2 * query_width(config) + pair_width(config)) +
           fvlm_attention_workspace(rows, slots, config->head_dim, threads);
}

void fvlm_decoder_embed(const fvlm_decoder *decoder, int32_t token, float *x)
{
    fvlm_matrix_row(&decoder->embedding, (size_t)token, x);
}

static void linear(fvlm_pool *pool, const fvlm_matrix *weight, const float *x, size_t rows, float *y, const float *bias,
                   const float *residual)
{
    fvlm_epilogue epilogue = {.bias = bias, .residual = residual, .residual_stride = weight->rows};
    fvlm_linear(pool, weight, x, rows, weight->cols, y, weight->rows, &epilogue);
}

/* Who looks at the inputs of linear layers; see NULL for nobody. */
struct observer {
    fvlm_linear_fn see;
    void *user;
};

static void show(struct observer observer, fvlm_linear_input input, const float *x, size_t rows, size_t cols)
{
    if (observer.see)
        observer.see(observer.user, input, x, rows, cols);
}

/* The rows' keys and values to the cache; x += o(attention(q, cache)) but for the first `unread` rows. */
static void run_attention(const fvlm_decoder *decoder, fvlm_pool *pool, fvlm_kv_cache *cache, size_t index,
                          const fvlm_rows *rows, size_t unread, float *x, float *workspace, struct observer observer)
{
    const fvlm_decoder_config *config = &decoder->config;
    const struct layer *layer = &decoder->layers[index];
    size_t count = rows->count, queries = count - unread, width = query_width(config), shared = kv_width(config);
    float *normed = workspace, *q = normed + count * config->hidden, *attended = q + count * width;
    uint8_t *keys = cache->keys, *values = cache->values;
    void *key_slots = keys + cache_offset(cache, index, rows->first_slot);
    void *value_slots = values + cache_offset(cache, index, rows->first_slot);
    /* Floats are computed where they stay. */
    bool narrow = cache->type != FVLM_F32;
    float *new_keys = narrow ? attended + count * width : key_slots;
    float *new_values = narrow ? new_keys + count * shared : value_slots;

    fvlm_rms_norm(pool, x, count, config->hidden, layer->attention_norm, config->norm_eps, normed);
    show(observer, FVLM_INPUT_ATTENTION, normed, count, config->hidden);
    const fvlm_epilogue biases[] = {{.bias = layer->k_bias}, {.bias = layer->v_bias}, {.bias = layer->q_bias}};
    const fvlm_linear_part parts[] = {{&layer->k, new_keys, shared, &biases[0]},
                                      {&layer->v, new_values, shared, &biases[1]},
                                      {&layer->q, q, width, &biases[2]}};
    fvlm_linear_parts(pool, parts, unread > 0 ? 2 : 3, normed, count, config->hidden);
    if (unread > 0)
        fvlm_linear_parts(pool, &parts[2], 1, normed + unread * config->hidden, queries, config->hidden);
    fvlm_rope(q, queries, width, config->heads, config->head_dim, rows->positions + unread, decoder->rope);
    fvlm_rope(new_keys, count, shared, config->kv_heads, config->head_dim, rows->positions, decoder->rope);
    if (narrow) {
        fvlm_attention_narrow(cache->type, new_keys, count, config->kv_heads, config->head_dim, key_slots,
                              cache->width);
        fvlm_attention_narrow(cache->type, new_values, count, config->kv_heads, config->head_dim, value_slots,
                              cache->width);
    }

    fvlm_attention attention = {.queries = queries,
                                .keys = rows->tail ? rows->prefix : rows->first_slot + count,
                                .heads = config->heads,
                                .kv_heads = config->kv_heads,
                                .head_dim = config->head_dim,
                                .scale = 1.0f / sqrtf((float)config->head_dim),
                                .causal = !rows->tail,
                                .q = q,
                                .type = cache->type,
                                .k = keys + cache_offset(cache, index, 0),
                                .v = values + cache_offset(cache, index, 0),
                                .q_stride = width,
                                .k_stride = cache->width,
                                .v_stride = cache->width,
                                .out = attended,
                                .out_stride = width,
                                .tail = rows->tail,
                                .tail_count = rows->tail_count,
                                .tail_stride = rows->tail_stride};
    fvlm_attention_forward(pool, &attention, attended + count * (width + pair_width(config)));
    show(observer, FVLM_INPUT_OUTPUT, attended, queries, width);
    x += unread * config->hidden;
    linear(pool, &layer->o, attended, queries, x, NULL, x);
}

struct swiglu_job {
    float *gate, *up; /* [rows, ffn]; the product goes to gate */
    size_t ffn;
};

static void swiglu_row(void *argument, size_t row, int thread)
{
    (void)thread;
    const struct swiglu_job *job = argument;
    float *gate = job->gate + row * job->ffn;
    fvlm_swiglu(gate, job->up + row * job->ffn, job->ffn, gate);
}

/* x += down(silu(gate(n)) * up(n)), n = rms_norm(x) */
static void run_ffn(const fvlm_decoder *decoder, fvlm_pool *pool, const struct layer *layer, size_t count, float *x,
                    float *workspace, struct observer observer)
{
    const fvlm_decoder_config *config = &decoder->config;
    float *normed = workspace, *gate = normed + count * config->hidden, *up = gate + count * config->ffn;
    fvlm_rms_norm(pool, x, count, config->hidden, layer->ffn_norm, config->norm_eps, normed);
    show(observer, FVLM_INPUT_FFN, normed, count, config->hidden);
    fvlm_linear_parts(
        pool, (const fvlm_linear_part[]){{&layer->gate, gate, config->ffn, NULL}, {&layer->up, up, config->ffn, NULL}},
        2, normed, count, config->hidden);
    struct swiglu_job job = {gate, up, config->ffn};
    fvlm_pool_run(pool, count, swiglu_row, &job);
    show(observer, FVLM_INPUT_DOWN, gate, count, config->ffn);
    linear(pool, &layer->down, gate, count, x, NULL, x);
}

static void run_layer(const fvlm_decoder *decoder, fvlm_pool *pool, fvlm_kv_cache *cache, size_t index,
                      const fvlm_rows *rows, size_t unread, float *x, float *workspace, struct observer observer)
{
    run_attention(decoder, pool, cache, index, rows, unread, x, workspace, observer);
    run_ffn(decoder, pool, &decoder->layers[index], rows->count - unread, x + unread * decoder->config.hidden,
            workspace, observer);
}

void fvlm_decoder_layer(const fvlm_decoder *decoder, fvlm_pool *pool, fvlm_kv_cache *cache, size_t index,
                        const fvlm_rows *rows, float *x, float *workspace, fvlm_linear_fn on_linear, void *user)
{
    run_layer(decoder, pool, cache, index, rows, 0, x, workspace, (struct observer){on_linear, user});
}

void fvlm_decoder_forward(const fvlm_decoder *decoder, fvlm_pool *pool, fvlm_kv_cache *cache, const fvlm_rows *rows,
                          float *x, float *workspace)
{
    size_t layers = decoder->config.layers;
    for (size_t i = 0; i < layers; i++)
        run_layer(decoder, pool, cache, i, rows, i + 1 < layers ? 0 : rows->unread, x, workspace,
                  (struct observer){NULL, NULL});
}

void fvlm_decoder_logits(const fvlm_decoder *decoder, fvlm_pool *pool, const float *x, size_t rows, float *logits,
                         float *workspace)
{
    const fvlm_decoder_config *config = &decoder->config;
    fvlm_rms_norm(pool, x, rows, config->hidden, decoder->norm, config->norm_eps, workspace);
    linear(pool, &decoder->head, workspace, rows, logits, NULL, NULL);
}
