/* What a conversion writes: every tensor of a model, where its values are, and the type each gets. */
#ifndef FVLM_EXPORT_CONVERT_PLAN_H
#define FVLM_EXPORT_CONVERT_PLAN_H

#include "base/pool.h"
#include "fastvlm/convert.h"
#include "model/source.h"
#include "model/weights.h"

typedef enum fvlm_part {
    FVLM_PART_VISION,
    FVLM_PART_PROJECTOR,
    FVLM_PART_EMBED,
    FVLM_PART_HEAD,
    FVLM_PART_LLM
} fvlm_part;
#define FVLM_PARTS 5

typedef struct fvlm_planned {
    const char *name; /* LLaVA's; the table's */
    fvlm_part part;
    fvlm_matrix source; /* the values; a vector is one row */
    int rank;
    size_t shape[FVLM_MAX_RANK];
    fvlm_dtype type; /* to be written */
    size_t bytes;
} fvlm_planned;

typedef struct fvlm_plan {
    fvlm_planned *tensors; /* [count] */
    size_t count, replaced;
    uint64_t bytes_before, bytes_after;
    fvlm_arena *arena;
} fvlm_plan;

/* `type` and `keep` as fvlm_convert_options has them. The plan looks into `source`, which must outlive it; clear it
 * after an error too. */
fvlm_status fvlm_plan_make(const fvlm_source *source, const char *type, const char *keep, fvlm_plan *plan,
                           fvlm_error *error);
void fvlm_plan_clear(fvlm_plan *plan);

/* Takes the next bytes of a tensor. */
typedef fvlm_status (*fvlm_sink_fn)(void *user, const void *data, size_t bytes, fvlm_error *error);
/* Give the sink the tensor's values in its new type, a few megabytes at a time. */
fvlm_status fvlm_planned_write(const fvlm_planned *tensor, const fvlm_source *source, fvlm_pool *pool,
                               fvlm_sink_fn sink, void *user, fvlm_error *error);

#endif
