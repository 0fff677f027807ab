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

#ifdef __cplusplus
}
#endif
#endif
