/* Data sets: files of conversations about pictures, for training, evaluation and calibration. */
#ifndef FASTVLM_DATASET_H
#define FASTVLM_DATASET_H

#include "fastvlm/engine.h"
#include "fastvlm/text.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fvlm_dataset fvlm_dataset;

/* Open files [count], each a JSON list or JSON lines. They stay mapped; only where a sample begins and ends is looked
 * for, so that a broken one harms no other. weights[i] says how often an epoch of training takes each sample of file i
 * (0.5: half of them, another half each time); NULL: once each. The caller owns *dataset. */
FVLM_API fvlm_status fvlm_dataset_open(const char *const *paths, const double *weights, size_t count,
                                       fvlm_dataset **dataset, fvlm_error *error);
FVLM_API void fvlm_dataset_close(fvlm_dataset **dataset);
/* Samples of all files. */
FVLM_API size_t fvlm_dataset_count(const fvlm_dataset *dataset);

/* A conversation in one of the forms that data sets have:
 *     {"image": "a.jpg" or ["a.jpg", ...], "conversations": [{"from": "human", "value": ...}, {"from": "gpt", ...}]}
 *     {"images": [...], "messages": [{"role": "system" | "user" | "assistant", "content": text or list of parts}]} */
typedef struct fvlm_conversation {
    char *id;            /* "id" (or "question_id"), a text or a number; NULL: none */
    const char *kind;    /* "type", "kind", "category" or "question_type"; NULL: none */
    const char **images; /* [image_count], as written */
    size_t image_count;
    fvlm_turn *turns; /* [turn_count]: user, assistant, ..., with `<image>` lines in front of the text they belong to */
    size_t turn_count;
    const char *system;   /* NULL: the template's */
    const char **answers; /* [answer_count]: "answers", other people's to the last question; 0: none */
    size_t answer_count;
    void *source; /* what the strings belong to */
} fvlm_conversation;

/* Read sample `index`, from 0. An error names file and number, which counts from 1. */
FVLM_API fvlm_status fvlm_dataset_read(const fvlm_dataset *dataset, size_t index, fvlm_conversation *conversation,
                                       fvlm_error *error);
FVLM_API void fvlm_conversation_clear(fvlm_conversation *conversation);

/* How probable the model finds answers. Belongs to one thread at a time; the engine must outlive it. */
typedef struct fvlm_scorer fvlm_scorer;
FVLM_API fvlm_status fvlm_scorer_open(fvlm_engine *engine, fvlm_scorer **scorer, fvlm_error *error);
FVLM_API void fvlm_scorer_close(fvlm_scorer **scorer);
/* *loss: the sum of -log p over the *tokens tokens of the answer that is turn `turn` (odd), and of what the template
 * ends it with, after all turns before it. `folder` is where the pictures are; NULL: here. */
FVLM_API fvlm_status fvlm_scorer_score(fvlm_scorer *scorer, fvlm_conversation *conversation, size_t turn,
                                       const char *folder, const char *template_name, const char *system, double *loss,
                                       size_t *tokens, fvlm_error *error);

#ifdef __cplusplus
}
#endif
#endif
