/* Qwen2 for training: the decoder's forward pass over whole texts, keeping what the backward pass needs, the loss, and
 * the way back. Rows of all texts of a batch lie one after the other, without padding; only attention tells them apart.
 */
#ifndef FVLM_TRAIN_LANGUAGE_H
#define FVLM_TRAIN_LANGUAGE_H

#include "model/config.h"
#include "train/layers.h"

/* LoRA on the linear layers of every decoder layer; rank 0: none. */
typedef struct fvlm_lora {
    size_t rank;
    float alpha;
    uint64_t seed; /* of A's first values; B starts at 0 */
} fvlm_lora;

typedef struct fvlm_language fvlm_language;

/* Lives in the set's arena. `positions`: the longest text. NULL and loader->status on failure. */
fvlm_language *fvlm_language_create(fvlm_parameters *set, fvlm_loader *loader, const fvlm_decoder_config *config,
                                    size_t positions, const fvlm_lora *lora);

/* Texts of a batch. */
typedef struct fvlm_texts {
    size_t count, rows;    /* texts, and rows of all of them */
    const size_t *starts;  /* [count + 1]: text i has the rows starts[i] .. starts[i + 1] */
    const int32_t *tokens; /* [rows]; negative: the embedding comes from elsewhere */
    const int32_t *labels; /* [rows]: the token that row's output should be; negative: not supervised */
} fvlm_texts;

/* One pass over a batch in one workspace. */
typedef struct fvlm_language_pass {
    fvlm_language *language;
    fvlm_pool *pool;
    const fvlm_texts *texts;
    bool recompute; /* gradient checkpointing: keep only every layer's input */
    float *memory;  /* fvlm_language_floats */
    float *x;       /* [rows, hidden]: the caller writes the rows of negative tokens before the forward pass, and finds
                       the gradient of all of them there after the backward pass */
    double loss;    /* sum over the supervised rows */
    size_t targets; /* how many those are */
} fvlm_language_pass;

/* Floats of workspace; 0 when that overflows. */
size_t fvlm_language_floats(const fvlm_language *language, const fvlm_texts *texts, bool recompute, int threads);
/* Sets pass->x from pass->memory, and writes the embeddings of the tokens. */
void fvlm_language_begin(fvlm_language_pass *pass);
/* The loss, and with `backward` the gradients of its sum in what is trained, and in pass->x. `input_gradient` false:
 * nothing before the decoder is trained, so pass->x need not be right. */
void fvlm_language_run(fvlm_language_pass *pass, bool backward, bool input_gradient);
/* What stands for begin and run on a rank that has no text while others have some. */
void fvlm_language_pass_by(const fvlm_language *language, bool backward);

#endif
