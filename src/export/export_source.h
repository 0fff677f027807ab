/* The model that is exported: its config, its tensors under the names and in the shapes of LLaVA checkpoints. */
#ifndef FVLM_EXPORT_EXPORT_SOURCE_H
#define FVLM_EXPORT_EXPORT_SOURCE_H

#include <jansson.h>

#include "base/pool.h"
#include "model/source.h"
#include "model/weights.h"

/* Prefix of the tower's names. */
#define FVLM_TOWER_PREFIX "model.vision_tower.vision_tower.model."

typedef struct fvlm_export_source {
    fvlm_source *model;
    const fvlm_config *config; /* the model's */
    fvlm_tensor_table *table;  /* the model's */
    json_t *json;              /* config.json */
    bool own_head;             /* output embeddings of their own: lm_head.weight */
    int32_t image_token;       /* id of `<image>`: the tokenizer's, or the first that is free */
    bool image_token_free;     /* the tokenizer does not have it yet */
    fvlm_pool *pool;
} fvlm_export_source;

/* Read everything, and check that every weight is there and of the shape that the config asks for. `source` is to be
 * closed after an error too. */
fvlm_status fvlm_export_source_open(const char *path, int threads, fvlm_export_source *source, fvlm_error *error);
void fvlm_export_source_close(fvlm_export_source *source);

/* The part of `name` behind `prefix`, or NULL. */
const char *fvlm_export_after(const char *name, const char *prefix);
bool fvlm_export_ends_in(const char *name, const char *suffix);

#endif
