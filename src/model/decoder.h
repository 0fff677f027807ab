/* Qwen2: the language model, and the KV cache it reads and writes.
 *
 * tokens -> embeddings x [rows, hidden] -> per layer: rms norm, q/k/v, rotary positions, attention over the cache,
 * output projection, rms norm, SwiGLU FFN, both with residual -> final norm -> logits (arXiv 2407.10671).
 */
#ifndef FVLM_MODEL_DECODER_H
#define FVLM_MODEL_DECODER_H

#include "base/pool.h"
#include "model/config.h"
#include "model/weights.h"

typedef struct fvlm_decoder fvlm_decoder; /* lives in the loader's arena, immutable after load */

/* `context`: positions that rotary angles are tabulated for. `inputs`: what linear layers may round their inputs to, as
 * fvlm_matrix.inputs. NULL and loader->status on failure. */
fvlm_decoder *fvlm_decoder_load(fvlm_loader *loader, const fvlm_decoder_config *config, size_t context,
                                fvlm_dtype inputs);

/* The widest number type of a layer's weights: F32, or less. */
fvlm_dtype fvlm_decoder_weights(const fvlm_decoder *decoder);

/* Keys and values of every layer: slot s of a layer is one position's. */
typedef struct fvlm_kv_cache {
    fvlm_dtype type;     /* F32, BF16 or I8, as fvlm_attention has it */
    size_t slots, width; /* width: elements of a slot, those of kv_heads heads */
    void *keys;          /* [layers, slots, width]; fresh zero pages until they are used */
    void *values;        /* the same */
} fvlm_kv_cache;

fvlm_status fvlm_kv_cache_create(const fvlm_decoder *decoder, size_t slots, fvlm_dtype type, fvlm_kv_cache *cache,
                                 fvlm_error *error);
void fvlm_kv_cache_destroy(fvlm_kv_cache *cache);

/* Rows that a forward pass computes together. */
typedef struct fvlm_rows {
    size_t count;
    const int32_t *positions; /* [count] */
    size_t first_slot;        /* row i writes slot first_slot + i */
    size_t unread;            /* so many rows from the first on are wanted for their keys and values only; no tail */
    /* What row i attends to. tail NULL (one text): slots [0, first_slot + i]. Beams: slots [0, prefix), then the
     * slots tail[i * tail_stride + t], t < tail_count, its own among them. */
    size_t prefix;
    const int32_t *tail;
    size_t tail_count, tail_stride;
} fvlm_rows;

/* The most rows of one call. */
#define FVLM_DECODER_ROWS 512

/* Floats of workspace for calls of at most `rows` rows over a cache of `slots`. */
size_t fvlm_decoder_workspace(const fvlm_decoder *decoder, size_t rows, size_t slots, int threads);

/* x[hidden] = embedding of `token`, which must be in [0, vocabulary). */
void fvlm_decoder_embed(const fvlm_decoder *decoder, int32_t token, float *x);

/* Run all layers over x[rows->count, hidden], in place; keys and values go to the cache. The unread rows of x are not
 * those of the last layer then. */
void fvlm_decoder_forward(const fvlm_decoder *decoder, fvlm_pool *pool, fvlm_kv_cache *cache, const fvlm_rows *rows,
                          float *x, float *workspace);

/* The inputs of a layer's linear layers. */
typedef enum fvlm_linear_input {
    FVLM_INPUT_ATTENTION, /* of q_proj, k_proj and v_proj */
    FVLM_INPUT_OUTPUT,    /* of o_proj */
    FVLM_INPUT_FFN,       /* of gate_proj and up_proj */
    FVLM_INPUT_DOWN       /* of down_proj */
} fvlm_linear_input;
#define FVLM_LINEAR_INPUTS 4
/* Sees x[rows, cols] before the linear layers that read it. */
typedef void (*fvlm_linear_fn)(void *user, fvlm_linear_input input, const float *x, size_t rows, size_t cols);

/* One layer of fvlm_decoder_forward, for all rows. on_linear may be NULL. */
void fvlm_decoder_layer(const fvlm_decoder *decoder, fvlm_pool *pool, fvlm_kv_cache *cache, size_t index,
                        const fvlm_rows *rows, float *x, float *workspace, fvlm_linear_fn on_linear, void *user);

/* logits[rows, vocabulary] of x[rows, hidden] after the layers. */
void fvlm_decoder_logits(const fvlm_decoder *decoder, fvlm_pool *pool, const float *x, size_t rows, float *logits,
                         float *workspace);

#endif
