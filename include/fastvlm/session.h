/* A session is one conversation: its KV cache, what is in it, and the workspace to go on.
 * It belongs to one thread at a time. */
#ifndef FASTVLM_SESSION_H
#define FASTVLM_SESSION_H

#include "fastvlm/engine.h"
#include "fastvlm/image.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fvlm_session fvlm_session;

FVLM_API fvlm_status fvlm_session_open(fvlm_engine *engine, fvlm_session **session, fvlm_error *error);
FVLM_API void fvlm_session_close(fvlm_session **session);

typedef struct fvlm_prefill_stats {
    int prompt_tokens; /* positions of the whole prompt, image tokens included */
    int image_tokens;
    int reused_tokens; /* positions that were already in the KV cache */
    double encode_ms;  /* preprocessing, vision tower and projector */
    double prefill_ms; /* language model over the new positions */
} fvlm_prefill_stats;

/* Make the context hold `prompt`, in which the i-th `<image>` stands for images[i]. What the KV cache already holds of
 * it (the longest common prefix, same pictures) is kept, so a conversation's next turn costs only what is new.
 * The number of `<image>` and `image_count` must agree. `stats` may be NULL. */
FVLM_API fvlm_status fvlm_session_prefill(fvlm_session *session, const char *prompt, const fvlm_image *const *images,
                                          size_t image_count, fvlm_prefill_stats *stats, fvlm_error *error);

typedef struct fvlm_sampling {
    float temperature;        /* 0: greedy */
    float top_p;              /* 1 (or 0): off */
    int top_k;                /* 0: off */
    float min_p;              /* 0: off */
    float repetition_penalty; /* 1 (or 0): off; over prompt and answer, as transformers does */
    uint64_t seed;
} fvlm_sampling;

typedef struct fvlm_generation {
    fvlm_sampling sampling;
    int max_tokens;          /* 0: 256 */
    int beams;               /* 0 or 1: none. Beam search is greedy in the sense of transformers' num_beams */
    float length_penalty;    /* of beam scores; 1 is transformers' default */
    const char *const *stop; /* [stop_count] texts that end the answer and are not part of it */
    size_t stop_count;
    bool ignore_end; /* go on past the end-of-sequence token (measurements) */
} fvlm_generation;

typedef enum fvlm_finish { FVLM_FINISH_STOP, FVLM_FINISH_LENGTH, FVLM_FINISH_CALLBACK } fvlm_finish;

typedef struct fvlm_answer {
    char *text;      /* UTF-8 without special tokens */
    int32_t *tokens; /* [token_count], the end-of-sequence token not included */
    size_t token_count;
    fvlm_finish finish;
    double score;     /* beams: sum of log-probabilities over length^length_penalty; else 0 */
    double first_ms;  /* from the call to the first token's choice */
    double decode_ms; /* from the first token's choice to the last's */
} fvlm_answer;

/* A piece of the answer as it grows: whole UTF-8 characters only. Return false to stop. Not called with beams. */
typedef bool (*fvlm_text_fn)(void *user, const char *text, size_t bytes);

/* Answer the prompt in the context. answers is [max(beams, 1)], best first, filled on success and cleared by the
 * caller with fvlm_answer_clear; `on_text` may be NULL. The answer's tokens stay in the KV cache; with beams only the
 * prompt does. */
FVLM_API fvlm_status fvlm_session_generate(fvlm_session *session, const fvlm_generation *generation,
                                           fvlm_text_fn on_text, void *user, fvlm_answer *answers, fvlm_error *error);
FVLM_API void fvlm_answer_clear(fvlm_answer *answer);

/* Next-token logits after what the context holds, [vocabulary]; valid until the next call on the session. NULL before
 * the first prefill. */
FVLM_API const float *fvlm_session_logits(const fvlm_session *session);

/* Run the prompt from scratch and write every stage's tensor to the safetensors file `path`:
 * pixels [S,S,3] u8 ([tiles,S,S,3] in anyres mode), vision.stem and vision.network.N [tiles,C,H,W], features
 * [tiles,T,C], projected [tiles,T,hidden], logits [positions,vocabulary], all float32 but pixels. With more than one
 * picture the second's names end in ".1", and so on. */
FVLM_API fvlm_status fvlm_session_trace(fvlm_session *session, const char *prompt, const fvlm_image *const *images,
                                        size_t image_count, const char *path, fvlm_error *error);

#ifdef __cplusplus
}
#endif
#endif
