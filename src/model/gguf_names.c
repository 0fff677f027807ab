/* Tensor names of GGUF files, by tables that are read in both directions. */
#include "model/gguf_names.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* A name, or what one begins with where it ends in a dot. */
struct pair {
    const char *gguf, *llava;
};

static const struct pair whole[] = {
    {"token_embd.weight", "model.embed_tokens.weight"},
    {"output_norm.weight", "model.norm.weight"},
    {"output.weight", "lm_head.weight"},
    {"image_newline", "model.image_newline"},
    {"v.", "model.vision_tower.vision_tower.model."},
    {"mm.", "model.mm_projector."},
};

/* What follows the layer's number. */
#define GGUF_LAYER "blk."
#define LLAVA_LAYER "model.layers."
static const struct pair parts[] = {
    {"attn_norm.", "input_layernorm."}, {"ffn_norm.", "post_attention_layernorm."},
    {"attn_q.", "self_attn.q_proj."},   {"attn_k.", "self_attn.k_proj."},
    {"attn_v.", "self_attn.v_proj."},   {"attn_output.", "self_attn.o_proj."},
    {"ffn_gate.", "mlp.gate_proj."},    {"ffn_up.", "mlp.up_proj."},
    {"ffn_down.", "mlp.down_proj."},
};

static const char *side(const struct pair *pair, bool gguf)
{
    return gguf ? pair->gguf : pair->llava;
}

/* Look `from` up and write `before` and its other name into `to`. */
static bool translate(const struct pair *pairs, size_t count, bool from_gguf, const char *before, const char *from,
                      char *to, size_t to_size)
{
    for (size_t i = 0; i < count; i++) {
        const char *known = side(&pairs[i], from_gguf);
        size_t length = strlen(known);
        bool prefix = known[length - 1] == '.';
        if (prefix ? strncmp(from, known, length) == 0 : strcmp(from, known) == 0) {
            int written = snprintf(to, to_size, "%s%s%s", before, side(&pairs[i], !from_gguf), from + length);
            return written >= 0 && (size_t)written < to_size;
        }
    }
    return false;
}

static bool rename_tensor(const char *from, bool from_gguf, char *to, size_t to_size)
{
    const char *layer = from_gguf ? GGUF_LAYER : LLAVA_LAYER;
    size_t length = strlen(layer), digits = 0;
    if (strncmp(from, layer, length) != 0)
        return translate(whole, sizeof whole / sizeof *whole, from_gguf, "", from, to, to_size);
    from += length;
    while (isdigit((unsigned char)from[digits]))
        digits++;
    if (digits == 0 || digits > 9 || from[digits] != '.')
        return false;
    char before[32];
    snprintf(before, sizeof before, "%s%.*s.", from_gguf ? LLAVA_LAYER : GGUF_LAYER, (int)digits, from);
    return translate(parts, sizeof parts / sizeof *parts, from_gguf, before, from + digits + 1, to, to_size);
}

bool fvlm_rename_gguf(const char *from, char *to, size_t to_size)
{
    return rename_tensor(from, true, to, to_size);
}

bool fvlm_rename_to_gguf(const char *from, char *to, size_t to_size)
{
    return rename_tensor(from, false, to, to_size);
}
