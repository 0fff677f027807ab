/* The engine and the session as the files of this room see them. */
#ifndef FVLM_MODEL_INTERNAL_H
#define FVLM_MODEL_INTERNAL_H

#include "base/memory.h"
#include "base/pool.h"
#include "fastvlm/session.h"
#include "model/config.h"
#include "model/decoder.h"
#include "model/projector.h"
#include "model/source.h"
#include "model/vision.h"

struct fvlm_engine {
    fvlm_config config;
    fvlm_source *source; /* the mapped weights */
    fvlm_arena *arena;   /* what was converted or reordered */
    fvlm_tokenizer *tokenizer;
    fvlm_vision *vision;
    fvlm_projector *projector;
    fvlm_decoder *decoder;
    const float *newline;     /* [hidden], or NULL: model.image_newline */
    fvlm_precision precision; /* of the tower; not AUTO */
    uint64_t vision_parameters, language_parameters, weight_bytes;
    size_t context;     /* positions of a session */
    fvlm_dtype kv_type; /* of its KV cache */

    fvlm_pool *pool;
    float *workspace; /* of the tower, the projector or the decoder, whichever runs: used while holding the pool */
};

/* Tokens along an edge of a tile, and of a whole tile. */
static inline size_t fvlm_engine_side(const fvlm_engine *engine)
{
    return engine->config.vision.resolution / FVLM_VISION_STRIDE;
}
static inline size_t fvlm_engine_tile_tokens(const fvlm_engine *engine)
{
    return fvlm_engine_side(engine) * fvlm_engine_side(engine);
}

bool fvlm_engine_is_end(const fvlm_engine *engine, int32_t token);

/* A picture on its way into the prompt. */
typedef struct fvlm_picture {
    fvlm_tiles tiles;
    size_t *index; /* [count] as fvlm_image_token_index gives it */
    size_t count;
    uint64_t key;      /* of everything that its embeddings depend on, within one engine */
    float *embeddings; /* [count, hidden]; NULL until encoded */
} fvlm_picture;

/* Preprocess; release with fvlm_picture_clear. */
fvlm_status fvlm_picture_prepare(fvlm_engine *engine, const fvlm_image *image, fvlm_picture *picture,
                                 fvlm_error *error);
void fvlm_picture_clear(fvlm_picture *picture);

/* What a trace wants to see, one tile at a time: "vision.STAGE" with x [height, width, channels], "features" and
 * "projected" with x [1, tokens, channels]. */
typedef void (*fvlm_observe_fn)(void *user, const char *name, size_t tile, const float *x, size_t height, size_t width,
                                size_t channels);
/* Fill picture->embeddings. The caller holds the pool. observe may be NULL. */
fvlm_status fvlm_picture_encode(fvlm_engine *engine, fvlm_picture *picture, fvlm_observe_fn observe, void *user,
                                fvlm_error *error);

/* What one position of the context is. */
typedef struct fvlm_position {
    int32_t token;    /* -1: a picture's */
    uint32_t offset;  /* in the picture's index */
    uint64_t picture; /* fvlm_picture.key; 0 for text */
} fvlm_position;

struct fvlm_session {
    fvlm_engine *engine;
    fvlm_kv_cache cache;
    fvlm_position *held; /* [context]: what the first `used` slots of the cache hold */
    int32_t *history;    /* [context]: the tokens of `held`, for the sampler */
    size_t used;
    float *logits; /* [vocabulary], after position used - 1; valid when used > 0 */
};

/* A prompt laid out in positions, with the pictures that it needs. */
typedef struct fvlm_prompt {
    fvlm_position *positions; /* [count] */
    size_t count, image_tokens;
    fvlm_picture *pictures; /* [picture_count] */
    size_t picture_count;
} fvlm_prompt;

fvlm_status fvlm_prompt_prepare(fvlm_engine *engine, const char *text, const fvlm_image *const *images,
                                size_t image_count, fvlm_prompt *prompt, fvlm_error *error);
void fvlm_prompt_clear(fvlm_prompt *prompt);
/* Encode the pictures that positions from `from` on need. The caller holds the pool. */
fvlm_status fvlm_prompt_encode(fvlm_engine *engine, const fvlm_prompt *prompt, size_t from, fvlm_error *error);
/* x[hidden] = the embedding of a position, whose picture is encoded. */
void fvlm_prompt_embed(const fvlm_engine *engine, const fvlm_prompt *prompt, size_t index, float *x);

/* Sees x[rows, hidden] of the positions [first, first + rows), after the layers and before the final norm. */
typedef void (*fvlm_rows_fn)(void *user, size_t first, size_t rows, const float *x);
/* Run the positions [from, prompt->count) through the decoder, into the cache, and leave the last one's logits. The
 * pictures in them must be encoded. The caller holds the pool. on_rows may be NULL. */
void fvlm_session_run(fvlm_session *session, const fvlm_prompt *prompt, size_t from, fvlm_rows_fn on_rows, void *user);

/* Bounds the arrays that one step of beam search needs. */
#define FVLM_MAX_BEAMS 64

/* Take note that slot `slot` of the cache now holds `position`. */
static inline void fvlm_session_hold(fvlm_session *session, size_t slot, fvlm_position position)
{
    session->held[slot] = position;
    session->history[slot] = position.token;
}

/* Beam search, from generate.c's checked arguments. */
fvlm_status fvlm_session_beams(fvlm_session *session, const fvlm_generation *generation, fvlm_answer *answers,
                               fvlm_error *error);

/* Fill answer->text from answer->tokens. */
fvlm_status fvlm_answer_decode(const fvlm_session *session, fvlm_answer *answer, fvlm_error *error);

#endif
