/* The numbers that training reads and changes.
 *
 * A frozen parameter is a view of the mapped checkpoint in whatever type it was stored; a trained one is a float32 copy
 * with its gradient and AdamW's two moments beside it. All of them live in the set's arena.
 */
#ifndef FVLM_TRAIN_PARAMETERS_H
#define FVLM_TRAIN_PARAMETERS_H

#include "model/weights.h"

/* Which part of the model a parameter belongs to; a set of parts is their sum. */
typedef enum fvlm_part {
    FVLM_PART_VISION = 1,
    FVLM_PART_PROJECTOR = 2,
    FVLM_PART_LANGUAGE = 4,
    FVLM_PART_ADAPTER = 8 /* LoRA's matrices */
} fvlm_part;

typedef struct fvlm_parameter {
    const char *name; /* as LLaVA checkpoints spell it */
    fvlm_part part;
    int rank;
    size_t shape[FVLM_MAX_RANK];
    size_t count;
    fvlm_dtype stored_type; /* in the checkpoint, and when saved */
    fvlm_matrix matrix;     /* what linear layers read: [shape[0], count / shape[0]]. Vectors: data NULL */
    float *value;           /* [count]; NULL: a frozen matrix */
    float *gradient;        /* [count], added up over a step; NULL: frozen */
    float *first, *second;  /* [count]: AdamW's moments; NULL: frozen */
} fvlm_parameter;

typedef struct fvlm_parameters {
    fvlm_arena *arena;
    fvlm_parameter **items; /* [count] */
    size_t count, capacity;
    unsigned trained;  /* parts */
    fvlm_dtype inputs; /* of all matrices: F32, or BF16 for products of rounded numbers */
} fvlm_parameters;

/* Add the tensor `name` as a vector of `count` values, or "name.weight" as a matrix [rows, cols]. NULL and
 * loader->status on failure. A second call for the same name gives the same parameter. */
fvlm_parameter *fvlm_parameter_vector(fvlm_parameters *set, fvlm_loader *loader, fvlm_part part, size_t count,
                                      const char *name, ...) FVLM_PRINTF(5, 6);
fvlm_parameter *fvlm_parameter_matrix(fvlm_parameters *set, fvlm_loader *loader, fvlm_part part, size_t rows,
                                      size_t cols, const char *name, ...) FVLM_PRINTF(6, 7);
/* A new trained matrix [rows, cols] of zeros that no checkpoint holds (LoRA's). */
fvlm_parameter *fvlm_parameter_create(fvlm_parameters *set, fvlm_loader *loader, fvlm_part part, size_t rows,
                                      size_t cols, const char *name, ...) FVLM_PRINTF(6, 7);

/* The parameter of this name, or NULL. */
fvlm_parameter *fvlm_parameters_find(const fvlm_parameters *set, const char *name);
/* Set all gradients to 0. */
void fvlm_parameters_clear_gradients(fvlm_parameters *set, fvlm_pool *pool);
/* The tensor of a parameter's value or gradient, for saving. */
fvlm_tensor fvlm_parameter_tensor(const fvlm_parameter *parameter, const float *data);

#endif
