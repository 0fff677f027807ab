/* Qwen2, forward and backward, side by side.
 *
 *     n = rms_norm(x); q, k, v = n Wq^T, n Wk^T, n Wv^T; rotary positions; m = x + attention(q, k, v) Wo^T
 *     n = rms_norm(m); y = m + (silu(n Wg^T) * n Wu^T) Wd^T
 *
 * Buffers: each layer's input, what one layer keeps (for every layer, or once where layers are computed again), and
 * scratch of the backward pass. The loss takes a chunk of supervised rows at a time, so logits never exist as a whole.
 */
#include "train/language.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/gemm.h"
#include "kernels/loss.h"
#include "kernels/norm.h"
#include "train/random.h"
#include "train/shards.h"

#define CHUNK_FLOATS ((size_t)1 << 25) /* of logits at a time: 128 MB */

enum { Q, K, V, O, GATE, UP, DOWN, LINEAR_COUNT };
static const char *const linear_names[LINEAR_COUNT] = {
    [Q] = "self_attn.q_proj", [K] = "self_attn.k_proj", [V] = "self_attn.v_proj", [O] = "self_attn.o_proj",
    [GATE] = "mlp.gate_proj", [UP] = "mlp.up_proj",     [DOWN] = "mlp.down_proj"};

struct layer {
    fvlm_parameter *attention_norm, *ffn_norm;
    fvlm_linear_layer linear[LINEAR_COUNT];
};

struct fvlm_language {
    fvlm_decoder_config config;
    fvlm_parameter *embedding, *head, *norm; /* head is embedding where they are tied */
    struct layer *layers;
    size_t rank; /* LoRA's; 0: none */
    float *rope; /* [positions, head_dim] */
    fvlm_parameters *parameters;
    size_t embedding_group, head_group, first_group; /* head's may be embedding's; the last: of layer 0 */
};

/* What a layer keeps for its backward pass, [rows, ...] each. */
struct kept {
    float *normed, *q, *k, *v, *attended, *middle, *normed_middle, *gate, *up, *product;
    float *low[LINEAR_COUNT];
};

struct buffers {
    float **inputs;     /* [layers + 1] of [rows, hidden]: layer i reads inputs[i]; the last is the network's output */
    struct kept *kept;  /* [layers], or one */
    float *dx;          /* [rows, hidden]: the gradient on its way back */
    float *wide[2];     /* [rows, ffn] */
    float *narrow, *dq; /* [rows, hidden], [rows, q width] */
    float *dk, *dv;     /* [rows, kv width] */
    float *dlow;        /* [rows, rank] */
    float *statistics;  /* [rows, 2] */
    float *attention;
    float *chunk, *chunk_x, *losses; /* [chunk rows, vocabulary], [rows, hidden], [rows] */
    int32_t *positions, *labels;     /* [rows] */
};

static size_t query_width(const fvlm_decoder_config *config)
{
    return config->heads * config->head_dim;
}

static size_t kv_width(const fvlm_decoder_config *config)
{
    return config->kv_heads * config->head_dim;
}

/* Creation. */

static fvlm_linear_layer create_linear(fvlm_parameters *set, fvlm_loader *loader, const fvlm_decoder_config *config,
                                       const fvlm_lora *lora, size_t index, int which)
{
    const size_t rows[LINEAR_COUNT] = {query_width(config), kv_width(config), kv_width(config), config->hidden,
                                       config->ffn,         config->ffn,      config->hidden};
    size_t cols = which == O ? query_width(config) : which == DOWN ? config->ffn : config->hidden;
    char name[FVLM_MAX_NAME];
    snprintf(name, sizeof name, "model.layers.%zu.%s", index, linear_names[which]);
    fvlm_linear_layer layer = {
        .weight = fvlm_parameter_matrix(set, loader, FVLM_PART_LANGUAGE, rows[which], cols, "%s", name)};
    if (which <= V)
        layer.bias = fvlm_parameter_vector(set, loader, FVLM_PART_LANGUAGE, rows[which], "%s.bias", name);
    if (lora->rank == 0)
        return layer;
    layer.a = fvlm_parameter_create(set, loader, FVLM_PART_ADAPTER, lora->rank, cols, "%s.lora_A.weight", name);
    layer.b = fvlm_parameter_create(set, loader, FVLM_PART_ADAPTER, rows[which], lora->rank, "%s.lora_B.weight", name);
    layer.scale = lora->alpha / (float)lora->rank;
    /* Uniform within 1 / sqrt(inputs), as PEFT starts A (Kaiming with a = sqrt 5). */
    for (size_t i = 0; !loader->status && !set->measuring && i < layer.a->count; i++)
        layer.a->value[i] =
            (2 * fvlm_random_unit(lora->seed, index * LINEAR_COUNT + (size_t)which, i) - 1) / sqrtf((float)cols);
    if (!loader->status && !set->measuring)
        fvlm_parameter_keep(layer.a);
    return layer;
}

fvlm_language *fvlm_language_create(fvlm_parameters *set, fvlm_loader *loader, const fvlm_decoder_config *config,
                                    size_t positions, const fvlm_lora *lora)
{
    if (loader->status)
        return NULL;
    fvlm_language *made = fvlm_arena_alloc(set->arena, 1, sizeof *made);
    struct layer *layers = fvlm_arena_alloc(set->arena, config->layers, sizeof *layers);
    float *rope = fvlm_arena_alloc(set->arena, positions * config->head_dim, sizeof *rope);
    if (!made || !layers || !rope) {
        loader->status = fvlm_fail_memory(loader->error);
        return NULL;
    }
    *made = (fvlm_language){.config = *config, .layers = layers, .rope = rope, .rank = lora->rank, .parameters = set};
    size_t hidden = config->hidden;
    made->embedding_group = made->head_group = fvlm_parameters_group(set, loader, true);
    made->embedding =
        fvlm_parameter_matrix(set, loader, FVLM_PART_LANGUAGE, config->vocabulary, hidden, "model.embed_tokens");
    if (fvlm_loader_has(loader, "lm_head.weight"))
        made->head_group = fvlm_parameters_group(set, loader, true);
    made->head = fvlm_loader_has(loader, "lm_head.weight")
                     ? fvlm_parameter_matrix(set, loader, FVLM_PART_LANGUAGE, config->vocabulary, hidden, "lm_head")
                     : made->embedding;
    made->norm = fvlm_parameter_vector(set, loader, FVLM_PART_LANGUAGE, hidden, "model.norm.weight");
    for (size_t i = 0; i < config->layers && !loader->status; i++) {
        size_t group = fvlm_parameters_group(set, loader, false);
        made->first_group = i == 0 ? group : made->first_group;
        layers[i].attention_norm = fvlm_parameter_vector(set, loader, FVLM_PART_LANGUAGE, hidden,
                                                         "model.layers.%zu.input_layernorm.weight", i);
        layers[i].ffn_norm = fvlm_parameter_vector(set, loader, FVLM_PART_LANGUAGE, hidden,
                                                   "model.layers.%zu.post_attention_layernorm.weight", i);
        for (int which = 0; which < LINEAR_COUNT; which++)
            layers[i].linear[which] = create_linear(set, loader, config, lora, i, which);
    }
    fvlm_rope_table(positions, config->head_dim, config->rope_base, rope);
    return loader->status ? NULL : made;
}

/* Buffers. */

static size_t chunk_rows(const fvlm_language *language)
{
    size_t rows = CHUNK_FLOATS / language->config.vocabulary;
    return rows < 16 ? 16 : rows;
}

static void cut_kept(const fvlm_language *language, size_t rows, fvlm_cutter *cutter, struct kept *kept)
{
    const fvlm_decoder_config *config = &language->config;
    kept->normed = fvlm_cut(cutter, rows, config->hidden);
    kept->q = fvlm_cut(cutter, rows, query_width(config));
    kept->k = fvlm_cut(cutter, rows, kv_width(config));
    kept->v = fvlm_cut(cutter, rows, kv_width(config));
    kept->attended = fvlm_cut(cutter, rows, query_width(config));
    kept->middle = fvlm_cut(cutter, rows, config->hidden);
    kept->normed_middle = fvlm_cut(cutter, rows, config->hidden);
    kept->gate = fvlm_cut(cutter, rows, config->ffn);
    kept->up = fvlm_cut(cutter, rows, config->ffn);
    kept->product = fvlm_cut(cutter, rows, config->ffn);
    for (int i = 0; i < LINEAR_COUNT; i++)
        kept->low[i] = fvlm_cut(cutter, rows, language->rank);
}

static size_t longest(const fvlm_texts *texts)
{
    size_t most = 0;
    for (size_t i = 0; i < texts->count; i++)
        most = texts->starts[i + 1] - texts->starts[i] > most ? texts->starts[i + 1] - texts->starts[i] : most;
    return most;
}

static struct buffers cut(const fvlm_language *language, const fvlm_texts *texts, bool recompute, int threads,
                          fvlm_cutter *cutter)
{
    const fvlm_decoder_config *config = &language->config;
    size_t rows = texts->rows, layers = config->layers, most = longest(texts);
    size_t kept_count = recompute ? 1 : layers, chunk = chunk_rows(language);
    struct buffers b = {0};
    b.inputs = fvlm_cut_items(cutter, layers + 1, sizeof *b.inputs);
    b.kept = fvlm_cut_items(cutter, kept_count, sizeof *b.kept);
    for (size_t i = 0; i <= layers; i++) {
        float *input = fvlm_cut(cutter, rows, config->hidden);
        if (b.inputs)
            b.inputs[i] = input;
    }
    for (size_t i = 0; i < kept_count; i++) {
        struct kept kept;
        cut_kept(language, rows, cutter, &kept);
        if (b.kept)
            b.kept[i] = kept;
    }
    b.dx = fvlm_cut(cutter, rows, config->hidden);
    b.wide[0] = fvlm_cut(cutter, rows, config->ffn);
    b.wide[1] = fvlm_cut(cutter, rows, config->ffn);
    b.narrow = fvlm_cut(cutter, rows, config->hidden > query_width(config) ? config->hidden : query_width(config));
    b.dq = fvlm_cut(cutter, rows, query_width(config));
    b.dk = fvlm_cut(cutter, rows, kv_width(config));
    b.dv = fvlm_cut(cutter, rows, kv_width(config));
    b.dlow = fvlm_cut(cutter, rows, language->rank);
    b.statistics = fvlm_cut(cutter, rows, 2);
    size_t forward = fvlm_attention_workspace(most, most, config->head_dim, threads);
    size_t backward = fvlm_attention_backward_workspace(most, config->heads, config->head_dim, threads);
    b.attention = fvlm_cut(cutter, 1, forward > backward ? forward : backward);
    b.chunk = fvlm_cut(cutter, rows < chunk ? rows : chunk, config->vocabulary);
    b.chunk_x = fvlm_cut(cutter, 2 * rows, config->hidden);
    b.losses = fvlm_cut(cutter, rows, 1);
    b.positions = fvlm_cut_items(cutter, rows, sizeof *b.positions);
    b.labels = fvlm_cut_items(cutter, rows, sizeof *b.labels);
    return b;
}

size_t fvlm_language_floats(const fvlm_language *language, const fvlm_texts *texts, bool recompute, int threads)
{
    fvlm_cutter cutter = {0};
    cut(language, texts, recompute, threads, &cutter);
    return cutter.overflow ? 0 : cutter.used;
}

/* One layer. */

static fvlm_attention attention_of(const fvlm_language *language, const struct kept *kept, size_t start, size_t rows)
{
    const fvlm_decoder_config *config = &language->config;
    size_t q = query_width(config), kv = kv_width(config);
    return (fvlm_attention){.queries = rows,
                            .keys = rows,
                            .heads = config->heads,
                            .kv_heads = config->kv_heads,
                            .head_dim = config->head_dim,
                            .scale = 1.0f / sqrtf((float)config->head_dim),
                            .causal = true,
                            .q = kept->q + start * q,
                            .k = kept->k + start * kv,
                            .v = kept->v + start * kv,
                            .q_stride = q,
                            .k_stride = kv,
                            .v_stride = kv,
                            .out = kept->attended + start * q,
                            .out_stride = q};
}

static void layer_forward(const fvlm_language_pass *pass, const struct buffers *b, const struct layer *layer,
                          const struct kept *kept, const float *x, float *y)
{
    const fvlm_language *language = pass->language;
    const fvlm_decoder_config *config = &language->config;
    const fvlm_linear_layer *linear = layer->linear;
    size_t rows = pass->texts->rows, hidden = config->hidden;
    fvlm_pool *pool = pass->pool;
    fvlm_rms_norm(pool, x, rows, hidden, layer->attention_norm->value, config->norm_eps, kept->normed);
    fvlm_linear_layer_forward(pool, &linear[Q], kept->normed, rows, kept->q, kept->low[Q]);
    fvlm_linear_layer_forward(pool, &linear[K], kept->normed, rows, kept->k, kept->low[K]);
    fvlm_linear_layer_forward(pool, &linear[V], kept->normed, rows, kept->v, kept->low[V]);
    fvlm_rope(kept->q, rows, query_width(config), config->heads, config->head_dim, b->positions, language->rope);
    fvlm_rope(kept->k, rows, kv_width(config), config->kv_heads, config->head_dim, b->positions, language->rope);
    for (size_t i = 0; i < pass->texts->count; i++) {
        size_t start = pass->texts->starts[i];
        fvlm_attention attention = attention_of(language, kept, start, pass->texts->starts[i + 1] - start);
        fvlm_attention_forward(pool, &attention, b->attention);
    }
    fvlm_linear_layer_forward(pool, &linear[O], kept->attended, rows, kept->middle, kept->low[O]);
    fvlm_add_floats(pool, x, rows * hidden, kept->middle);

    fvlm_rms_norm(pool, kept->middle, rows, hidden, layer->ffn_norm->value, config->norm_eps, kept->normed_middle);
    fvlm_linear_layer_forward(pool, &linear[GATE], kept->normed_middle, rows, kept->gate, kept->low[GATE]);
    fvlm_linear_layer_forward(pool, &linear[UP], kept->normed_middle, rows, kept->up, kept->low[UP]);
    fvlm_swiglu_forward(pool, kept->gate, kept->up, rows * config->ffn, kept->product);
    fvlm_linear_layer_forward(pool, &linear[DOWN], kept->product, rows, y, kept->low[DOWN]);
    fvlm_add_floats(pool, kept->middle, rows * hidden, y);
}

/* b->dx holds the gradient of the layer's output, and then that of its input x. */
static void layer_backward(const fvlm_language_pass *pass, const struct buffers *b, const struct layer *layer,
                           const struct kept *kept, const float *x)
{
    const fvlm_language *language = pass->language;
    const fvlm_decoder_config *config = &language->config;
    const fvlm_linear_layer *linear = layer->linear;
    size_t rows = pass->texts->rows, hidden = config->hidden, q = query_width(config), kv = kv_width(config);
    fvlm_pool *pool = pass->pool;
    float *dproduct = b->wide[0], *dgate = b->wide[0], *dup = b->wide[1], *dnormed = b->narrow;
    fvlm_linear_layer_backward(pool, &linear[DOWN], kept->product, rows, b->dx, kept->low[DOWN], b->dlow, dproduct,
                               false);
    fvlm_swiglu_backward(pool, kept->gate, kept->up, dproduct, rows * config->ffn, dgate, dup);
    fvlm_linear_layer_backward(pool, &linear[GATE], kept->normed_middle, rows, dgate, kept->low[GATE], b->dlow, dnormed,
                               false);
    fvlm_linear_layer_backward(pool, &linear[UP], kept->normed_middle, rows, dup, kept->low[UP], b->dlow, dnormed,
                               true);
    fvlm_rms_norm_backward(pool, kept->middle, rows, hidden, layer->ffn_norm->value, config->norm_eps, dnormed, b->dx,
                           layer->ffn_norm->gradient, b->statistics);

    float *dattended = b->narrow;
    fvlm_linear_layer_backward(pool, &linear[O], kept->attended, rows, b->dx, kept->low[O], b->dlow, dattended, false);
    for (size_t i = 0; i < pass->texts->count; i++) {
        size_t start = pass->texts->starts[i];
        fvlm_attention attention = attention_of(language, kept, start, pass->texts->starts[i + 1] - start);
        fvlm_attention_gradients gradients = {.dout = dattended + start * q,
                                              .dq = b->dq + start * q,
                                              .dk = b->dk + start * kv,
                                              .dv = b->dv + start * kv,
                                              .dout_stride = q,
                                              .dq_stride = q,
                                              .dk_stride = kv,
                                              .dv_stride = kv};
        fvlm_attention_backward(pool, &attention, &gradients, b->attention);
    }
    fvlm_rope_backward(b->dq, rows, q, config->heads, config->head_dim, b->positions, language->rope);
    fvlm_rope_backward(b->dk, rows, kv, config->kv_heads, config->head_dim, b->positions, language->rope);
    fvlm_linear_layer_backward(pool, &linear[Q], kept->normed, rows, b->dq, kept->low[Q], b->dlow, dnormed, false);
    fvlm_linear_layer_backward(pool, &linear[K], kept->normed, rows, b->dk, kept->low[K], b->dlow, dnormed, true);
    fvlm_linear_layer_backward(pool, &linear[V], kept->normed, rows, b->dv, kept->low[V], b->dlow, dnormed, true);
    fvlm_rms_norm_backward(pool, x, rows, hidden, layer->attention_norm->value, config->norm_eps, dnormed, b->dx,
                           layer->attention_norm->gradient, b->statistics);
}

/* The loss. */

/* Sum of the losses of the supervised rows of x [rows, hidden], whose gradient goes to b->dx. */
static void run_loss(fvlm_language_pass *pass, const struct buffers *b, const float *x, bool backward)
{
    const fvlm_language *language = pass->language;
    const fvlm_decoder_config *config = &language->config;
    size_t rows = pass->texts->rows, hidden = config->hidden, vocabulary = config->vocabulary, targets = 0;
    const fvlm_matrix *head = &language->head->matrix;
    float *gathered = b->chunk_x, *dgathered = gathered + rows * hidden; /* [targets, hidden] each */
    for (size_t i = 0; i < rows; i++) {
        if (pass->texts->labels[i] < 0)
            continue;
        memcpy(gathered + targets * hidden, x + i * hidden, hidden * sizeof *x);
        b->labels[targets++] = pass->texts->labels[i];
    }
    float *normed = b->narrow;
    fvlm_rms_norm(pass->pool, gathered, targets, hidden, language->norm->value, config->norm_eps, normed);
    pass->loss = 0;
    pass->targets = targets;
    for (size_t first = 0, count; first < targets; first += count) {
        count = targets - first < chunk_rows(language) ? targets - first : chunk_rows(language);
        const float *chunk_x = normed + first * hidden;
        fvlm_linear(pass->pool, head, chunk_x, count, hidden, b->chunk, vocabulary, NULL);
        if (!backward) {
            fvlm_cross_entropy(pass->pool, b->chunk, count, vocabulary, b->labels + first, b->losses + first);
            continue;
        }
        fvlm_cross_entropy_backward(pass->pool, b->chunk, count, vocabulary, b->labels + first, 1, b->losses + first);
        fvlm_linear_backward_x(pass->pool, head, b->chunk, count, vocabulary, dgathered + first * hidden, hidden,
                               false);
        if (language->head->gradient)
            fvlm_linear_backward_w(pass->pool, head->inputs, b->chunk, count, vocabulary, vocabulary, chunk_x, hidden,
                                   hidden, language->head->gradient);
    }
    for (size_t i = 0; i < targets; i++)
        pass->loss += b->losses[i];
    if (!backward)
        return;
    memset(normed, 0, targets * hidden * sizeof *normed); /* now the gradient before the norm */
    fvlm_rms_norm_backward(pass->pool, gathered, targets, hidden, language->norm->value, config->norm_eps, dgathered,
                           normed, language->norm->gradient, b->statistics);
    memset(b->dx, 0, rows * hidden * sizeof *b->dx);
    for (size_t i = 0, target = 0; i < rows; i++)
        if (pass->texts->labels[i] >= 0)
            memcpy(b->dx + i * hidden, normed + target++ * hidden, hidden * sizeof *normed);
}

/* The pass. */

static struct buffers buffers_of(const fvlm_language_pass *pass)
{
    fvlm_cutter cutter = {.memory = pass->memory};
    return cut(pass->language, pass->texts, pass->recompute, fvlm_pool_threads(pass->pool), &cutter);
}

void fvlm_language_begin(fvlm_language_pass *pass)
{
    struct buffers b = buffers_of(pass);
    const fvlm_texts *texts = pass->texts;
    pass->x = b.inputs[0];
    for (size_t text = 0; text < texts->count; text++)
        for (size_t i = texts->starts[text]; i < texts->starts[text + 1]; i++)
            b.positions[i] = (int32_t)(i - texts->starts[text]);
    size_t hidden = pass->language->config.hidden;
    fvlm_group_use(pass->language->parameters, pass->language->embedding_group, 0);
    for (size_t i = 0; i < texts->rows; i++)
        if (texts->tokens[i] >= 0)
            fvlm_matrix_row(&pass->language->embedding->matrix, (size_t)texts->tokens[i], pass->x + i * hidden);
}

void fvlm_language_run(fvlm_language_pass *pass, bool backward, bool input_gradient)
{
    fvlm_language *language = pass->language;
    struct buffers b = buffers_of(pass);
    size_t layers = language->config.layers, hidden = language->config.hidden, rows = pass->texts->rows;
    fvlm_parameters *parameters = language->parameters;
    for (size_t i = 0; i < layers; i++) {
        fvlm_group_use(parameters, language->first_group + i, 1);
        layer_forward(pass, &b, &language->layers[i], &b.kept[pass->recompute ? 0 : i], b.inputs[i], b.inputs[i + 1]);
    }
    fvlm_group_use(parameters, language->head_group, 0);
    fvlm_group_clear(parameters, language->head_group);
    run_loss(pass, &b, b.inputs[layers], backward);
    bool trained = language->embedding->gradient || language->rank > 0;
    if (!backward || !(trained || input_gradient))
        return;
    bool tied = language->head_group == language->embedding_group;
    if (!tied)
        fvlm_group_sent(parameters, language->head_group);
    for (size_t i = layers; i-- > 0;) {
        fvlm_group_reuse(parameters, language->first_group + i);
        const struct kept *kept = &b.kept[pass->recompute ? 0 : i];
        if (pass->recompute && i + 1 < layers) /* the last layer's is still there */
            layer_forward(pass, &b, &language->layers[i], kept, b.inputs[i], b.inputs[i + 1]);
        layer_backward(pass, &b, &language->layers[i], kept, b.inputs[i]);
        fvlm_group_sent(parameters, language->first_group + i);
    }
    if (!tied)
        fvlm_group_clear(parameters, language->embedding_group);
    memcpy(pass->x, b.dx, rows * hidden * sizeof *b.dx);
    float *embedding = language->embedding->gradient;
    for (size_t i = 0; embedding && i < rows; i++) {
        if (pass->texts->tokens[i] < 0)
            continue;
        float *to = embedding + (size_t)pass->texts->tokens[i] * hidden;
        for (size_t k = 0; k < hidden; k++)
            to[k] += b.dx[i * hidden + k];
    }
    fvlm_group_sent(parameters, language->embedding_group);
}

void fvlm_language_pass_by(const fvlm_language *language, bool backward)
{
    fvlm_parameters *parameters = language->parameters;
    size_t layers = language->config.layers;
    fvlm_group_use(parameters, language->embedding_group, 0);
    fvlm_groups_pass(parameters, language->first_group, layers, false);
    fvlm_group_use(parameters, language->head_group, 0);
    fvlm_group_clear(parameters, language->head_group);
    if (!backward)
        return;
    if (language->head_group != language->embedding_group)
        fvlm_group_sent(parameters, language->head_group);
    fvlm_groups_pass(parameters, language->first_group, layers, true);
    if (language->head_group != language->embedding_group)
        fvlm_group_clear(parameters, language->embedding_group);
    fvlm_group_sent(parameters, language->embedding_group);
}
