/* FastViTHD for training, over several pictures at once so that batch norm can see all of them.
 *
 * The tower is a list of nodes: stem, downsamplings, position encodings, blocks, expansion. The forward pass keeps
 * every node's input; what a block keeps besides is kept for all of them, or computed again on the way back.
 */
#ifndef FVLM_TRAIN_TOWER_H
#define FVLM_TRAIN_TOWER_H

#include "model/config.h"
#include "train/layers.h"

typedef struct fvlm_tower fvlm_tower;

/* Lives in the set's arena. The tower's parameters must be trained ones. NULL and loader->status on failure. */
fvlm_tower *fvlm_tower_create(fvlm_parameters *set, fvlm_loader *loader, const fvlm_vision_config *config);

typedef struct fvlm_tower_pass {
    fvlm_tower *tower;
    fvlm_pool *pool;
    size_t pictures;
    const uint8_t *pixels; /* [pictures, resolution, resolution, 3] */
    bool batch_statistics; /* of batch norm; otherwise running ones */
    bool recompute;
    float *memory; /* fvlm_tower_floats */
} fvlm_tower_pass;

/* Floats of workspace; 0 when that overflows. */
size_t fvlm_tower_floats(const fvlm_tower *tower, size_t pictures, bool recompute, int threads);
/* features [pictures, tokens, width], in the workspace. With batch statistics, `update` moves the running ones towards
 * them as PyTorch does (momentum 0.1). */
const float *fvlm_tower_forward(const fvlm_tower_pass *pass, bool update);
/* After the forward pass: what comes out of a stage other than the last, [pictures, side, side, its width], a side
 * being resolution / (4 << stage). */
const float *fvlm_tower_stage(const fvlm_tower_pass *pass, size_t stage);
/* Add to the gradients of the tower's parameters, from that of the features and those of the middle stage's output and
 * the next one's, laid out alike; those in `dstages` [2] may be NULL. */
void fvlm_tower_backward(const fvlm_tower_pass *pass, const float *dfeatures, const float *const *dstages);
/* What stands for one of these passes on a rank that has no picture while others may have some. */
void fvlm_tower_pass_by(const fvlm_tower *tower, bool backward);
/* Channels of a feature. */
size_t fvlm_tower_width(const fvlm_tower *tower);

#endif
