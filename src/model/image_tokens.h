/* From a picture to the embeddings that stand for it in the prompt: preprocessing, tower, projector, and the merging
 * of tiles in anyres mode (LLaVA's prepare_inputs_labels_for_multimodal). */
#ifndef FVLM_MODEL_IMAGE_TOKENS_H
#define FVLM_MODEL_IMAGE_TOKENS_H

#include "image/preprocess.h"
#include "model/config.h"

/* Which token of which tile stands at each place: index[i] = tile * tokens_per_tile + token, or FVLM_NEWLINE.
 * *index is [*count], free with free(). `side` is tokens along an edge of a tile. */
#define FVLM_NEWLINE SIZE_MAX
fvlm_status fvlm_image_token_index(const fvlm_config *config, const fvlm_tiles *tiles, size_t side, size_t **index,
                                   size_t *count, fvlm_error *error);

#endif
