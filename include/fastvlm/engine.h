/* An engine is a loaded model: weights, tokenizer, thread pool. It serves many sessions. */
#ifndef FASTVLM_ENGINE_H
#define FASTVLM_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fastvlm/status.h"
#include "fastvlm/text.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fvlm_engine fvlm_engine;

typedef enum fvlm_precision { /* of the tower, and of inputs of the decoder's layers */
                              FVLM_PRECISION_FP32 = 0,
                              FVLM_PRECISION_BF16,
                              FVLM_PRECISION_INT8,
                              FVLM_PRECISION_AUTO /* the fastest here that keeps the features (docs/performance.md) */
} fvlm_precision;

/* How a session's KV cache keeps keys and values. int8: integers with a scale for each head of a position. */
typedef enum fvlm_kv_type {
    FVLM_KV_AUTO = 0, /* bf16 where inputs of layers are rounded (precision) and weights are no float32; else fp32 */
    FVLM_KV_FP32,
    FVLM_KV_BF16,
    FVLM_KV_INT8
} fvlm_kv_type;

typedef struct fvlm_engine_options {
    const char *model;        /* folder or GGUF file of a model, in any layout of docs/formats.md */
    int threads;              /* 0: one for each processor the system lets us use */
    fvlm_precision precision; /* what is not available is an error, not a silent change */
    int resolution;           /* side of the vision input in pixels, a multiple of 64; 0: the checkpoint's own */
    int context;              /* positions of a session's KV cache; 0: the checkpoint's own limit, at most 8192 */
    fvlm_kv_type kv_type;     /* number type of that cache */
} fvlm_engine_options;

/* Load a model. The caller owns *engine; close it after its sessions. */
FVLM_API fvlm_status fvlm_engine_open(const fvlm_engine_options *options, fvlm_engine **engine, fvlm_error *error);
FVLM_API void fvlm_engine_close(fvlm_engine **engine);

/* Take a model from memory, such as a program's own resources: wherever a model's path is asked for, `name` then means
 * the GGUF file data [bytes], which is used where it lies. name and data stay the caller's; they have to stay as they
 * are until data NULL takes the name back, when nothing that was opened by it is open any more. data is aligned to 8
 * bytes. At most 16 names; not while other threads use the library. A name like "app:model" is no file's. */
FVLM_API fvlm_status fvlm_model_in_memory(const char *name, const void *data, size_t bytes, fvlm_error *error);

typedef struct fvlm_engine_info {
    const char *layout;    /* "llava", "llava-bin", "fast_vlm", "mlx", "mlx-vlm", "gguf"; static */
    const char *precision; /* what the tower computes in; static */
    const char *kv_type;   /* what the KV cache holds: "fp32", "bf16" or "int8"; static */
    const char *isa;       /* instruction set of the kernels in use; static */
    int threads;
    int resolution;      /* side of the vision input, pixels */
    int tokens_per_tile; /* image tokens that one tile gives */
    int context;         /* positions */
    int hidden, layers, heads, kv_heads, vocabulary;
    uint64_t vision_parameters, language_parameters; /* counts of weights; the projector counts as vision */
    uint64_t weight_bytes;                           /* size of the weights as stored */
} fvlm_engine_info;

FVLM_API void fvlm_engine_describe(const fvlm_engine *engine, fvlm_engine_info *info);

/* The model's tokenizer; owned by the engine. */
FVLM_API const fvlm_tokenizer *fvlm_engine_tokenizer(const fvlm_engine *engine);

/* Hide instruction sets from every kernel (tests, comparisons): "none" (plain C), "avx2", "avx512",
 * "avx512-vnni", "avx512-bf16", "amx", "neon", "dotprod", "i8mm", "bf16" (arm64), "simd128" or "all". Call before
 * the first engine is opened; the variable FVLM_CPU_MASK does the same. */
FVLM_API fvlm_status fvlm_cpu_mask(const char *level, fvlm_error *error);

/* "0.1.0" */
FVLM_API const char *fvlm_version(void);

#ifdef __cplusplus
}
#endif
#endif
