/* The projector: from vision features to the language model's embeddings, an MLP with GELU between its layers. */
#ifndef FVLM_MODEL_PROJECTOR_H
#define FVLM_MODEL_PROJECTOR_H

#include "base/pool.h"
#include "model/config.h"
#include "model/weights.h"

typedef struct fvlm_projector fvlm_projector; /* lives in the loader's arena, immutable after load */

/* features: width of a vision feature; hidden: width of an embedding. NULL and loader->status on failure. */
fvlm_projector *fvlm_projector_load(fvlm_loader *loader, const fvlm_config *config, size_t features, size_t hidden);

/* Floats of workspace for `tokens` tokens. */
size_t fvlm_projector_workspace(const fvlm_projector *projector, size_t tokens);

/* embeddings[tokens, hidden] from features[tokens, width]. No overlap. */
void fvlm_projector_forward(const fvlm_projector *projector, fvlm_pool *pool, const float *features, size_t tokens,
                            float *workspace, float *embeddings);

#endif
