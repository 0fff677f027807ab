/* The model that is exported: its config, its tensors under the names and in the shapes of LLaVA checkpoints. */
#ifndef FVLM_EXPORT_EXPORT_SOURCE_H
#define FVLM_EXPORT_EXPORT_SOURCE_H

#include <jansson.h>

#include "base/pool.h"
#include "export/export_folder.h"
#include "fastvlm/export.h"
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

/* The values of a tensor as rows; a vector has rows of one. A quantised matrix, named with its ".weight", is checked
 * and joined with its scales. `arena` may get what had to be converted. Rows of more than FVLM_EXPORT_MAX_ROW values,
 * of which two fit into a thread's scratch memory, are an error. */
#define FVLM_EXPORT_MAX_ROW (FVLM_SCRATCH_BYTES / sizeof(float) / 2)
fvlm_status fvlm_export_find_matrix(const fvlm_source *source, fvlm_arena *arena, const fvlm_tensor *tensor,
                                    fvlm_matrix *matrix, fvlm_error *error);

/* An export under way: what is exported, and the folder that it goes to. */
typedef struct fvlm_export_job {
    fvlm_export_source source;
    fvlm_export_folder folder;
} fvlm_export_job;

/* Open both; `mark` is fvlm_export_folder_open's. */
fvlm_status fvlm_export_job_open(const fvlm_export_options *options, const char *mark, fvlm_export_job *job,
                                 fvlm_error *error);
/* Put the folder in place if `status`, how the export went so far, is FVLM_OK; free everything either way. */
fvlm_status fvlm_export_job_end(fvlm_export_job *job, fvlm_status status, fvlm_error *error);

/* The part of `name` behind `prefix`, or NULL. */
const char *fvlm_export_after(const char *name, const char *prefix);
bool fvlm_export_ends_in(const char *name, const char *suffix);

#endif
