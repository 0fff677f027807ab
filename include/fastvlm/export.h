/* Exports: a model in the layouts that other people's tools load.
 *
 * The model may be in any layout that an engine opens. An export is made beside its final place, flushed and renamed:
 * a reader, a crash or a full disk never leaves half of one, and an earlier export stays until the new one is whole.
 */
#ifndef FASTVLM_EXPORT_H
#define FASTVLM_EXPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fastvlm/convert.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fvlm_export_type { /* number type of the weights that are written */
                                FVLM_EXPORT_DEFAULT = 0,
                                FVLM_EXPORT_FP32,
                                FVLM_EXPORT_FP16,
                                FVLM_EXPORT_BF16
} fvlm_export_type;

typedef struct fvlm_export_options {
    const char *model;     /* folder or GGUF file, in any layout of docs/formats.md */
    const char *output;    /* folder to make; an earlier export there is replaced, any other folder is an error */
    fvlm_export_type type; /* see each export for its default */
    int threads;           /* 0: one for each processor the system lets us use */
    fvlm_progress_fn on_progress; /* may be NULL */
    void *user;
} fvlm_export_options;

/* transformers' fast_vlm: config, processor, tokenizer, generation config and model.safetensors. The default type is
 * that of each weight as stored. The checkpoint needs a projector of two layers and attention in the last two stages
 * alone, and must not cut pictures into tiles: the layout has no place for anything else. */
FVLM_API fvlm_status fvlm_export_hf(const fvlm_export_options *options, fvlm_error *error);

/* LLaVA's layout, with the weights in one model.safetensors. The default type is that of each weight as stored, and
 * fp16 for quantised ones. A checkpoint that was converted from this layout comes back bit by bit. */
FVLM_API fvlm_status fvlm_export_llava(const fvlm_export_options *options, fvlm_error *error);

typedef enum fvlm_mlx_layout {
    FVLM_MLX_APPLE, /* the folder of Apple's exports: the tower in fastvithd.mlpackage */
    FVLM_MLX_VLM    /* mlx-vlm's own: the tower among the weights */
} fvlm_mlx_layout;

typedef struct fvlm_mlx_options {
    fvlm_mlx_layout layout;
    int bits;  /* 4 or 8: the matrices of language model and projector in affine groups; 0: none are quantised */
    int group; /* 32, 64, 128; 0: 64 */
} fvlm_mlx_options;

/* MLX: config, processor, tokenizer, model.safetensors, and the tower as the layout has it. The default type is fp16,
 * the only one where matrices are quantised. mlx-vlm's layout is not for models that cut pictures into tiles. */
FVLM_API fvlm_status fvlm_export_mlx(const fvlm_export_options *options, const fvlm_mlx_options *mlx,
                                     fvlm_error *error);

typedef struct fvlm_coreml_options {
    const int *sizes; /* [size_count] sides of the input in pixels, multiples of 64, the first is the default one; none:
                         the checkpoint's own */
    size_t size_count;
    bool int8; /* weights of 8 bits with a scale for each output channel, unpacked when the package is loaded */
} fvlm_coreml_options;

/* Core ML: `output` is a .mlpackage with the vision tower, for iOS 16 and macOS 13 on: images [1, 3, side, side] of
 * values from 0 to 1 become image_features [1, tokens, channels]. The type is that of weights and arithmetic: fp16, the
 * default, or fp32. */
FVLM_API fvlm_status fvlm_export_coreml(const fvlm_export_options *options, const fvlm_coreml_options *coreml,
                                        fvlm_error *error);

#ifdef __cplusplus
}
#endif
#endif
