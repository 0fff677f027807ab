/* Converting models between layouts and number types, and looking into model files. */
#ifndef FASTVLM_CONVERT_H
#define FASTVLM_CONVERT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fastvlm/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Told how many of `total` bytes are written. Return false to stop: the call fails, and nothing is left behind. */
typedef bool (*fvlm_progress_fn)(void *user, uint64_t done, uint64_t total);

typedef enum fvlm_convert_target {
    FVLM_CONVERT_GGUF,       /* one file, which an engine opens */
    FVLM_CONVERT_GGUF_SPLIT, /* OUTPUT with the language model, as llama.cpp loads it, and mmproj-OUTPUT beside it */
    FVLM_CONVERT_LLAVA,      /* a folder in LLaVA's layout */
    FVLM_CONVERT_FAST_VLM    /* a folder in transformers' fast_vlm layout */
} fvlm_convert_target;

typedef struct fvlm_convert_options {
    const char *model;  /* folder or GGUF file, in any layout of docs/formats.md */
    const char *output; /* file, or folder */
    fvlm_convert_target target;
    const char *type; /* of weights: "f32", "f16", "bf16", "q8_0", "q4_0", "q4_k"; NULL: as stored */
    const char *keep; /* exceptions, for GGUF: "vision=bf16,embed=q8_0"; parts: vision, projector, embed, head, llm,
                         which the model has to have. May be NULL */
    int threads;      /* 0: one for each processor the system lets us use */
    fvlm_progress_fn on_progress; /* may be NULL */
    void *user;
} fvlm_convert_options;

typedef struct fvlm_convert_report {
    uint64_t bytes_before, bytes_after; /* of the weights */
    size_t tensors;
    size_t replaced; /* tensors whose rows do not fit the type's blocks, and got Q4_0 (for Q4_K) or F16 */
} fvlm_convert_report;

/* Vectors (norms, biases) are not rounded: they are F32 unless `type` is NULL. Memory: some 32 MB above the largest
 * mapped tensor. An earlier output stays as it is until the new one is whole. `report` may be NULL. */
FVLM_API fvlm_status fvlm_convert(const fvlm_convert_options *options, fvlm_convert_report *report, fvlm_error *error);

/* A question with its pictures, to quantise by. */
typedef struct fvlm_calibration_sample {
    const char *prompt;        /* whole, as fvlm_session_prefill takes it */
    const char *const *images; /* [image_count] picture files */
    size_t image_count;
    const char *answer; /* what perplexity is measured on; NULL: the model's own answer */
} fvlm_calibration_sample;

typedef enum fvlm_quantize_method {
    FVLM_QUANTIZE_GPTQ,   /* errors of a column are made up for by the columns behind it (arXiv 2210.17323) */
    FVLM_QUANTIZE_NEAREST /* every weight on its own */
} fvlm_quantize_method;

/* Told how far a stage is ("calibrating", "layers", "writing", "answering"). Return false to stop. */
typedef bool (*fvlm_quantize_fn)(void *user, const char *stage, uint64_t done, uint64_t total);

/* Relative errors of a layer's linear outputs, root mean square over its matrices; [0] on the samples that were used to
 * quantise, [1] on the others, NaN where there are none. */
typedef struct fvlm_layer_error {
    double nearest[2]; /* if every weight were rounded on its own */
    double chosen[2];  /* as written */
} fvlm_layer_error;

typedef struct fvlm_quantize_report {
    fvlm_convert_report convert;
    fvlm_layer_error *layers; /* [layer_count] */
    size_t layer_count, resumed;
    /* On the samples that were not used to quantise, or all where every one was: */
    size_t answers, same_answers;               /* greedy answers, and how many are the same before and after */
    double same_tokens;                         /* part of the answers' tokens before the first that differs */
    double perplexity_before, perplexity_after; /* of the answers' tokens */
} fvlm_quantize_report;

typedef struct fvlm_quantize_options {
    fvlm_convert_options convert; /* to GGUF, with a block type; on_progress and user are not used */
    fvlm_quantize_method method;
    const fvlm_calibration_sample
        *samples; /* [sample_count]; every fourth is kept out, to see errors on new pictures */
    size_t sample_count;
    int max_tokens;            /* of the answers that are compared; 0: 32 */
    fvlm_quantize_fn on_stage; /* may be NULL */
    void *user;
} fvlm_quantize_options;

/* Convert with the matrices of the decoder's layers rounded by `method`. Layers that are done are kept in the folder
 * OUTPUT.work until the file is whole: a call that is stopped goes on there, as long as model, samples and types are
 * the same. Does not depend on the number of threads. Clear *report. */
FVLM_API fvlm_status fvlm_quantize(const fvlm_quantize_options *options, fvlm_quantize_report *report,
                                   fvlm_error *error);
FVLM_API void fvlm_quantize_report_clear(fvlm_quantize_report *report);

/* What is in a model file, whatever its format, without judging whether it makes a model. */
typedef struct fvlm_file_tensor {
    const char *name, *type; /* "F16", "Q4_K", ... */
    int rank;
    size_t shape[8];
    uint64_t bytes;
} fvlm_file_tensor;

typedef struct fvlm_file_value {
    const char *key, *type; /* "u32", "string", "array of string", ...; "json" where the format is JSON */
    const char *json;       /* the value as JSON; of long arrays and strings the beginning, and how much there is */
} fvlm_file_value;

typedef struct fvlm_inspection {
    const char *format;              /* "gguf", "safetensors", "pickle", "mlpackage", "checkpoint"; static */
    const fvlm_file_tensor *tensors; /* [tensor_count] in the file's order */
    size_t tensor_count;
    const fvlm_file_value *values; /* [value_count]: the metadata; a folder's is its config.json */
    size_t value_count;
    uint64_t bytes, elements; /* of all tensors together */
    struct fvlm_arena *arena; /* holds all of it */
} fvlm_inspection;

/* Look into a GGUF, safetensors or torch pickle file, an .mlpackage, or the folder of a checkpoint. The caller owns
 * *inspection. */
FVLM_API fvlm_status fvlm_inspect(const char *path, fvlm_inspection **inspection, fvlm_error *error);
FVLM_API void fvlm_inspection_free(fvlm_inspection **inspection);

#ifdef __cplusplus
}
#endif
#endif
