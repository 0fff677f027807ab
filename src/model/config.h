/* What a checkpoint's config files say: the shapes of tower, projector and decoder, and how pictures become tokens.
 *
 * One structure for every layout: LLaVA's config.json, transformers' fast_vlm (nested, with preprocessor_config.json)
 * and Apple's exports (LLaVA's plus `quantization`).
 */
#ifndef FVLM_MODEL_CONFIG_H
#define FVLM_MODEL_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bundle.h"
#include "image/preprocess.h"

#define FVLM_STAGES 5
#define FVLM_MAX_PINPOINTS 64
#define FVLM_MAX_END_TOKENS 8
#define FVLM_VISION_HEAD_DIM 32 /* channels of an attention head in FastViTHD */
#define FVLM_VISION_STRIDE 64   /* pixels a token covers in each direction */

typedef struct fvlm_vision_config {
    size_t layers[FVLM_STAGES];
    size_t widths[FVLM_STAGES];
    size_t mlp_ratio[FVLM_STAGES];
    bool attention[FVLM_STAGES]; /* otherwise rep-mixer */
    size_t resolution;           /* side of the input, pixels */
} fvlm_vision_config;

/* The published tower (arXiv 2412.13303, section 3): what a config that says nothing about it means. */
extern const fvlm_vision_config fvlm_fastvithd;

typedef enum fvlm_projector_type { FVLM_PROJECTOR_IDENTITY, FVLM_PROJECTOR_MLP } fvlm_projector_type;

typedef struct fvlm_decoder_config {
    size_t hidden, ffn, layers, heads, kv_heads, head_dim, vocabulary;
    float norm_eps;
    double rope_base;
    size_t positions; /* the most that the checkpoint was made for */
} fvlm_decoder_config;

typedef enum fvlm_merge {
    FVLM_MERGE_FLAT,         /* the tiles' tokens one tile after the other */
    FVLM_MERGE_SPATIAL,      /* the grid of tiles as one picture */
    FVLM_MERGE_SPATIAL_UNPAD /* the same without the padding, image_newline after each row */
} fvlm_merge;

typedef struct fvlm_config {
    fvlm_vision_config vision;
    fvlm_projector_type projector;
    size_t projector_layers; /* linear layers, GELU between them; 0 for identity */
    fvlm_decoder_config decoder;

    fvlm_image_mode image_mode;
    fvlm_merge merge;
    size_t pinpoints[FVLM_MAX_PINPOINTS][2]; /* [pinpoint_count] of width, height, pixels */
    size_t pinpoint_count;

    int32_t end_tokens[FVLM_MAX_END_TOKENS]; /* [end_token_count] ids that end an answer */
    size_t end_token_count;
    char end_text[32]; /* tokenizer_config.json's eos_token, "" where there is none: ends an answer too */

    bool fast_vlm;                          /* transformers' layout */
    size_t quantized_bits, quantized_group; /* MLX: of the matrices that have scales; 0: none */
} fvlm_config;

/* Read the config files of a checkpoint. Every number is checked against what the code can do. */
fvlm_status fvlm_config_read(const fvlm_bundle *files, fvlm_config *config, fvlm_error *error);

#endif
