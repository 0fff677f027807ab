/* Write a checkpoint with made-up weights: make_demo_model FOLDER [demo|nano|0.15b|0.5b|1.5b|7b].
 *
 * `nano` is what the built-in model begins as: its tokenizer is in FOLDER before (nano/train_vocabulary.c), and its
 * decoder starts small, as is usual for training from scratch.
 *
 * The folder has the layout of the published LLaVA checkpoints: config.json, a tokenizer, model.safetensors in bf16.
 * `demo` (the default) is small: the tower's stages, blocks and names are the real ones with small
 * widths (mm_vision_arch), so that every kernel of the real model runs. The others, for measurements, have the
 * published models' shapes, and 0.15b half the tower's widths; 7b needs 16 GB of memory. The tokenizer knows the 256
 * bytes and a list of words; only words have large output weights, so an answer is a row of words. It means nothing:
 * the weights are random numbers.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/system.h"
#include "base/text_buffer.h"
#include "formats/tensor_table.h"

#define PLAIN_SPREAD 1.7f /* of a layer's weights, times sqrt(inputs): variance is kept */

enum { STAGES = 5, RATIO = 4, BYTES = 256, MAX_TENSORS = 1024 };

typedef struct sizes {
    const char *name;
    size_t layers[STAGES], widths[STAGES]; /* of the tower; conv_exp doubles the last stage's width */
    size_t hidden, ffn, decoder_layers, heads, kv_heads, vocabulary;
    bool tied;
    int resolution, context;
    float rope_theta;
    float embedding;           /* largest weight of an embedding */
    float branches, projector; /* of what branches add, and of the projector's first layer: times sqrt(inputs) */
} sizes;

static const char *const words[] = {
    "a",      "and",   "at",     "beach",   "bird",  "blue",  "boat", "bright", "by",    "calm",  "cloud",  "coast",
    "dark",   "day",   "deep",   "evening", "far",   "fish",  "for",  "from",   "gold",  "green", "hill",   "horizon",
    "in",     "is",    "island", "it",      "light", "long",  "near", "night",  "of",    "on",    "orange", "over",
    "person", "quiet", "red",    "rock",    "sail",  "sand",  "sea",  "shines", "shore", "sky",   "slowly", "small",
    "summer", "sun",   "the",    "tree",    "under", "water", "wave", "west",   "white", "wind",  "with",   "yellow"};
enum { WORDS = sizeof words / sizeof *words, SPECIALS = 3, TOKENS = BYTES + WORDS + SPECIALS, NANO_TOKENS = 640 };
static const char *const specials[SPECIALS] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
#define TOWER "model.vision_tower.vision_tower.model."

#define FASTVITHD                                                                                                      \
    {2, 12, 24, 4, 2},                                                                                                 \
    {                                                                                                                  \
        96, 192, 384, 768, 1536                                                                                        \
    }
#define MADE_UP 1e6f, 0.3f, PLAIN_SPREAD, PLAIN_SPREAD
static const sizes models[] = {
    {"demo", {1, 2, 2, 1, 1}, {16, 32, 64, 128, 256}, 128, 384, 2, 2, 1, TOKENS, true, 256, 2048, MADE_UP},
    {"nano",
     {1, 2, 4, 2, 1},
     {24, 48, 96, 192, 384},
     192,
     512,
     4,
     6,
     2,
     NANO_TOKENS,
     true,
     256,
     2048,
     1e4f,
     0.06f,
     0.6f,
     8.5f},
    {"0.15b", {2, 12, 24, 4, 2}, {48, 96, 192, 384, 768}, 768, 3072, 12, 12, 4, 32000, true, 1024, 32768, MADE_UP},
    {"0.5b", FASTVITHD, 896, 4864, 24, 14, 2, 151936, true, 1024, 32768, MADE_UP},
    {"1.5b", FASTVITHD, 1536, 8960, 28, 12, 2, 151936, true, 1024, 32768, MADE_UP},
    {"7b", FASTVITHD, 3584, 18944, 28, 28, 4, 152064, false, 1024, 32768, MADE_UP},
};

/* The tensors to write. Data is bf16. */
typedef struct model {
    const sizes *shape;
    fvlm_arena *arena;
    fvlm_tensor tensors[MAX_TENSORS];
    size_t count;
    uint64_t state; /* of the random numbers */
    bool failed;
} model;

/* Uniform in [-1, 1): the splitmix64 generator. */
static float uniform(model *m)
{
    uint64_t z = m->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (float)((double)(z >> 11) / 4503599627370496.0 - 1);
}

/* Add a tensor of shape [rank] with values centre + spread * uniform; its data, or NULL. */
static uint16_t *add(model *m, const char *name, const size_t *shape, int rank, float centre, float spread)
{
    size_t count = 1;
    for (int i = 0; i < rank; i++)
        count *= shape[i];
    uint16_t *data = m->count < MAX_TENSORS ? fvlm_arena_alloc(m->arena, count, sizeof *data) : NULL;
    char *kept = fvlm_arena_strdup(m->arena, name);
    if (!data || !kept) {
        m->failed = true;
        return NULL;
    }
    fvlm_tensor *tensor = &m->tensors[m->count++];
    *tensor = (fvlm_tensor){.name = kept, .type = FVLM_BF16, .rank = rank, .bytes = count * 2, .data = data};
    memcpy(tensor->shape, shape, (size_t)rank * sizeof *shape);
    for (size_t i = 0; i < count; i++)
        data[i] = fvlm_bf16_from_float(centre + spread * uniform(m));
    return data;
}

/* A name made of two parts, valid until the next call with the same buffer. */
typedef char name_buffer[160];

static const char *join(model *m, name_buffer name, const char *prefix, const char *rest)
{
    m->failed |= snprintf(name, sizeof(name_buffer), "%s%s", prefix, rest) >= (int)sizeof(name_buffer);
    return name;
}

static void add_vector(model *m, const char *name, size_t length, float centre, float spread)
{
    add(m, name, &length, 1, centre, spread);
}

static void add_linear(model *m, const char *prefix, size_t out, size_t in, float spread, bool bias)
{
    name_buffer name;
    add(m, join(m, name, prefix, ".weight"), (size_t[]){out, in}, 2, 0, spread / sqrtf((float)in));
    if (bias)
        add_vector(m, join(m, name, prefix, ".bias"), out, 0, 0.05f);
}

/* A convolution [out, in, kernel, kernel]; `skip`: one tap in the middle is the identity, as in merged branches. */
static void add_conv(model *m, const char *prefix, size_t out, size_t in, size_t kernel, bool bias, bool skip)
{
    name_buffer name;
    float spread = 2.4f / sqrtf((float)(in * kernel * kernel)) * (skip ? 0.2f : 1);
    uint16_t *data = add(m, join(m, name, prefix, ".weight"), (size_t[]){out, in, kernel, kernel}, 4, 0, spread);
    for (size_t i = 0; data && skip && i < out; i++)
        data[i * in * kernel * kernel + kernel * kernel / 2] = fvlm_bf16_from_float(1);
    if (bias)
        add_vector(m, join(m, name, prefix, ".bias"), out, 0, 0.05f);
}

static void add_block(model *m, const char *prefix, size_t c, bool attention)
{
    name_buffer n;
    if (attention) {
        add(m, join(m, n, prefix, "layer_scale_1"), (size_t[]){c, 1, 1}, 3, 0.2f, 0.05f);
        add(m, join(m, n, prefix, "layer_scale_2"), (size_t[]){c, 1, 1}, 3, 0.2f, 0.05f);
        add_vector(m, join(m, n, prefix, "norm.weight"), c, 1, 0.1f);
        add_vector(m, join(m, n, prefix, "norm.bias"), c, 0, 0.1f);
        add_linear(m, join(m, n, prefix, "token_mixer.qkv"), 3 * c, c, PLAIN_SPREAD, false);
        add_linear(m, join(m, n, prefix, "token_mixer.proj"), c, c, PLAIN_SPREAD, true);
    } else {
        add(m, join(m, n, prefix, "layer_scale"), (size_t[]){c, 1, 1}, 3, 0.2f, 0.05f);
        add_conv(m, join(m, n, prefix, "token_mixer.reparam_conv"), c, 1, 3, true, true);
    }
    add_conv(m, join(m, n, prefix, "convffn.conv.conv"), c, 1, 7, false, false);
    add_vector(m, join(m, n, prefix, "convffn.conv.bn.weight"), c, 1, 0.1f);
    add_vector(m, join(m, n, prefix, "convffn.conv.bn.bias"), c, 0, 0.1f);
    add_vector(m, join(m, n, prefix, "convffn.conv.bn.running_mean"), c, 0, 0.1f);
    add_vector(m, join(m, n, prefix, "convffn.conv.bn.running_var"), c, 1, 0.2f);
    add_conv(m, join(m, n, prefix, "convffn.fc1"), RATIO * c, c, 1, true, false);
    add_conv(m, join(m, n, prefix, "convffn.fc2"), c, RATIO * c, 1, true, false);
}

static void add_tower(model *m)
{
    const size_t *widths = m->shape->widths, *layers = m->shape->layers, features = 2 * widths[STAGES - 1];
    char prefix[96];
    name_buffer n;
    add_conv(m, TOWER "patch_embed.0.reparam_conv", widths[0], 3, 3, true, false);
    add_conv(m, TOWER "patch_embed.1.reparam_conv", widths[0], 1, 3, true, false);
    add_conv(m, TOWER "patch_embed.2.reparam_conv", widths[0], widths[0], 1, true, false);
    size_t index = 0;
    for (size_t stage = 0; stage < STAGES; stage++) {
        bool attention = stage >= 3;
        snprintf(prefix, sizeof prefix, TOWER "network.%zu.", index);
        if (attention) {
            add_conv(m, join(m, n, prefix, "reparam_conv"), widths[stage], 1, 7, true, true);
            snprintf(prefix, sizeof prefix, TOWER "network.%zu.", ++index);
        }
        for (size_t block = 0; block < layers[stage]; block++) {
            snprintf(prefix, sizeof prefix, TOWER "network.%zu.%zu.", index, block);
            add_block(m, prefix, widths[stage], attention);
        }
        index++;
        if (stage + 1 < STAGES) {
            snprintf(prefix, sizeof prefix, TOWER "network.%zu.", index++);
            add_conv(m, join(m, n, prefix, "proj.0.lkb_reparam"), widths[stage + 1], 1, 7, true, false);
            add_conv(m, join(m, n, prefix, "proj.1.reparam_conv"), widths[stage + 1], widths[stage + 1], 1, true,
                     false);
        }
    }
    add_conv(m, TOWER "conv_exp.reparam_conv", features, 1, 3, true, false);
    add_conv(m, TOWER "conv_exp.se.reduce", features / 16, features, 1, true, false);
    add_conv(m, TOWER "conv_exp.se.expand", features, features / 16, 1, true, false);
    add_linear(m, "model.mm_projector.0", m->shape->hidden, features, m->shape->projector, true);
    add_linear(m, "model.mm_projector.2", m->shape->hidden, m->shape->hidden, m->shape->branches, true);
}

static void add_decoder(model *m)
{
    const sizes *s = m->shape;
    size_t hidden = s->hidden, keys = hidden / s->heads * s->kv_heads, weights = s->vocabulary * hidden;
    char prefix[64];
    name_buffer n;
    uint16_t *output = add(m, "model.embed_tokens.weight", (size_t[]){s->vocabulary, hidden}, 2, 0, s->embedding);
    if (!s->tied)
        output = add(m, "lm_head.weight", (size_t[]){s->vocabulary, hidden}, 2, 0, s->embedding);
    /* What is not a word gets small weights and so is hardly ever said. */
    for (size_t i = 0; output && s->vocabulary != NANO_TOKENS && i < weights; i++)
        if (i / hidden < BYTES || i / hidden >= BYTES + WORDS)
            output[i] = fvlm_bf16_from_float(0.2f * fvlm_float_from_bf16(output[i]));
    for (size_t layer = 0; layer < s->decoder_layers; layer++) {
        snprintf(prefix, sizeof prefix, "model.layers.%zu.", layer);
        add_vector(m, join(m, n, prefix, "input_layernorm.weight"), hidden, 1, 0.1f);
        add_vector(m, join(m, n, prefix, "post_attention_layernorm.weight"), hidden, 1, 0.1f);
        add_linear(m, join(m, n, prefix, "self_attn.q_proj"), hidden, hidden, PLAIN_SPREAD, true);
        add_linear(m, join(m, n, prefix, "self_attn.k_proj"), keys, hidden, PLAIN_SPREAD, true);
        add_linear(m, join(m, n, prefix, "self_attn.v_proj"), keys, hidden, PLAIN_SPREAD, true);
        add_linear(m, join(m, n, prefix, "self_attn.o_proj"), hidden, hidden, s->branches, false);
        add_linear(m, join(m, n, prefix, "mlp.gate_proj"), s->ffn, hidden, PLAIN_SPREAD, false);
        add_linear(m, join(m, n, prefix, "mlp.up_proj"), s->ffn, hidden, PLAIN_SPREAD, false);
        add_linear(m, join(m, n, prefix, "mlp.down_proj"), hidden, s->ffn, s->branches, false);
    }
    add_vector(m, "model.norm.weight", hidden, 1, 0.1f);
}

static fvlm_status write_text(const char *folder, const char *name, fvlm_text_buffer *text, fvlm_error *error)
{
    fvlm_status status =
        text->failed ? fvlm_fail_memory(error) : fvlm_file_write(folder, name, text->data, text->length, error);
    fvlm_text_clear(text);
    return status;
}

/* The character by which byte-level BPE writes a byte: itself where it is printable, else one from U+0100 on. */
static void append_byte_character(fvlm_text_buffer *text, unsigned byte, unsigned *next)
{
    bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    unsigned point = printable ? byte : 256 + (*next)++;
    char bytes[3] = {(char)point};
    if (point < 128 && (point == '"' || point == '\\'))
        fvlm_text_append_string(text, "\\");
    if (point >= 128) {
        bytes[0] = (char)(0xc0 | point >> 6);
        bytes[1] = (char)(0x80 | (point & 0x3f));
    }
    fvlm_text_append_string(text, bytes);
}

static fvlm_status write_tokenizer(const char *folder, fvlm_error *error)
{
    fvlm_text_buffer text = {0};
    unsigned next = 0;
    fvlm_text_append_string(&text, "{");
    for (unsigned byte = 0; byte < BYTES; byte++) {
        fvlm_text_append_string(&text, "\"");
        append_byte_character(&text, byte, &next);
        fvlm_text_format(&text, "\": %u,\n", byte);
    }
    for (unsigned i = 0; i < WORDS; i++) /* U+0120 stands for a blank */
        fvlm_text_format(&text, "\"\xc4\xa0%s\": %u%s\n", words[i], BYTES + i, i + 1 < WORDS ? "," : "}");
    fvlm_status status = write_text(folder, "vocab.json", &text, error);
    if (status == FVLM_OK) {
        fvlm_text_append_string(&text, "#version: 0.2\n");
        status = write_text(folder, "merges.txt", &text, error);
    }
    if (status == FVLM_OK) {
        for (unsigned i = 0; i < SPECIALS; i++)
            fvlm_text_format(&text, "%s\"%s\": %u", i ? ", " : "{", specials[i], BYTES + WORDS + i);
        fvlm_text_append_string(&text, "}\n");
        status = write_text(folder, "added_tokens.json", &text, error);
    }
    return status;
}

static fvlm_status write_config(const char *folder, const sizes *s, fvlm_error *error)
{
    fvlm_text_buffer text = {0};
    fvlm_text_format(&text,
                     "{\n  \"architectures\": [\"LlavaQwen2ForCausalLM\"],\n  \"model_type\": \"llava_qwen2\",\n"
                     "  \"vocab_size\": %zu,\n  \"hidden_size\": %zu,\n  \"intermediate_size\": %zu,\n"
                     "  \"num_hidden_layers\": %zu,\n  \"num_attention_heads\": %zu,\n"
                     "  \"num_key_value_heads\": %zu,\n  \"tie_word_embeddings\": %s,\n",
                     s->vocabulary, s->hidden, s->ffn, s->decoder_layers, s->heads, s->kv_heads,
                     s->tied ? "true" : "false");
    fvlm_text_format(&text,
                     "  \"max_position_embeddings\": %d,\n  \"rope_theta\": %.1f,\n  \"rms_norm_eps\": 1e-06,\n"
                     "  \"hidden_act\": \"silu\",\n  \"eos_token_id\": %d,\n"
                     "  \"mm_vision_tower\": \"mobileclip_l_%d\",\n  \"mm_hidden_size\": %zu,\n"
                     "  \"mm_projector_type\": \"mlp2x_gelu\",\n  \"mm_patch_merge_type\": \"flat\",\n"
                     "  \"image_aspect_ratio\": \"pad\",\n  \"torch_dtype\": \"bfloat16\",\n",
                     s->context, (double)s->rope_theta, s->vocabulary == NANO_TOKENS ? NANO_TOKENS - 1 : TOKENS - 1,
                     s->resolution, 2 * s->widths[STAGES - 1]);
    fvlm_text_append_string(&text, "  \"mm_vision_arch\": {\n    \"layers\": [");
    for (size_t i = 0; i < STAGES; i++)
        fvlm_text_format(&text, "%s%zu", i ? ", " : "", s->layers[i]);
    fvlm_text_append_string(&text, "],\n    \"embed_dims\": [");
    for (size_t i = 0; i < STAGES; i++)
        fvlm_text_format(&text, "%s%zu", i ? ", " : "", s->widths[i]);
    fvlm_text_format(&text,
                     "],\n    \"mlp_ratio\": %d,\n    \"token_mixers\": "
                     "[\"repmixer\", \"repmixer\", \"repmixer\", \"attention\", \"attention\"]\n  }\n}\n",
                     RATIO);
    return write_text(folder, "config.json", &text, error);
}

static fvlm_status write_weights(const char *folder, const sizes *s, fvlm_error *error)
{
    fvlm_status status = FVLM_OK;
    char *path = fvlm_path_join(folder, "model.safetensors");
    model *m = fvlm_calloc(1, sizeof *m);
    if (m)
        *m = (model){.shape = s, .arena = fvlm_arena_create(), .state = 2024};
    if (!m || !m->arena || !path) {
        status = fvlm_fail_memory(error);
    } else {
        add_tower(m);
        add_decoder(m);
        status = m->failed ? fvlm_fail_memory(error) : fvlm_safetensors_write(path, m->tensors, m->count, error);
    }
    if (m && m->arena)
        fvlm_arena_destroy(&m->arena);
    free(m);
    free(path);
    return status;
}

int main(int argc, char **argv)
{
    const char *name = argc > 2 ? argv[2] : models[0].name;
    size_t i = 0, count = sizeof models / sizeof *models;
    while (i < count && strcmp(models[i].name, name) != 0)
        i++;
    if (argc < 2 || argc > 3 || i == count) {
        fprintf(stderr, "usage: %s FOLDER [demo|nano|0.15b|0.5b|1.5b|7b]\n", argv[0]);
        return 2;
    }
    fvlm_error error;
    fvlm_status status = fvlm_folder_create(argv[1], &error);
    if (status == FVLM_OK)
        status = write_config(argv[1], &models[i], &error);
    if (status == FVLM_OK && models[i].vocabulary != NANO_TOKENS)
        status = write_tokenizer(argv[1], &error);
    if (status == FVLM_OK)
        status = write_weights(argv[1], &models[i], &error);
    if (status)
        fprintf(stderr, "make_demo_model: %s\n", error.message);
    return status != FVLM_OK;
}
