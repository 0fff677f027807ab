/* The numbers that training reads and changes.
 *
 * A frozen parameter is a view of the mapped checkpoint in whatever type it was stored; a trained one is a float32 copy
 * with its gradient and AdamW's two moments beside it. All of them live in the set's arena.
 *
 * In a distributed run each rank owns a share of every trained parameter and keeps the optimiser's state of that alone
 * (ZeRO, arXiv 1910.02054): stage 1. In stage 2 it keeps the share of the gradient too, in stage 3 that of the value.
 * What is not kept whole exists for a group of parameters, a layer's, while that is in use: see shards.h.
 */
#ifndef FVLM_TRAIN_PARAMETERS_H
#define FVLM_TRAIN_PARAMETERS_H

#include "model/weights.h"

/* Which part of the model a parameter belongs to; a set of parts is their sum. */
typedef enum fvlm_part {
    FVLM_PART_VISION = 1,
    FVLM_PART_PROJECTOR = 2,
    FVLM_PART_LANGUAGE = 4,
    FVLM_PART_ADAPTER = 8,    /* LoRA's matrices */
    FVLM_PART_CLASSIFIER = 16 /* of labels, which is not part of the model */
} fvlm_part;

typedef struct fvlm_parameter {
    const char *name; /* as LLaVA checkpoints spell it */
    fvlm_part part;
    int rank;
    size_t shape[FVLM_MAX_RANK];
    size_t count;
    fvlm_matrix matrix;    /* what linear layers read: [shape[0], count / shape[0]]. Vectors: data NULL */
    float *value;          /* [count]; NULL: a frozen matrix */
    float *gradient;       /* [count], added up over a step; NULL: frozen */
    bool trained;          /* has a gradient and moments */
    bool own;              /* has a value of its own, and is saved: what is trained, and running statistics */
    size_t start, share;   /* this process's part of [count]; all of it where there is one process */
    float *own_value;      /* [share]: at value + start, or alone in ZeRO's stage 3 */
    float *own_gradient;   /* [share]: at gradient + start, or alone from stage 2 on */
    float *first, *second; /* [share]: AdamW's moments; NULL: frozen, or in 8 bits */
    uint8_t *codes[2];     /* [share]: the moments in 8 bits, or NULL: blockwise.h */
    float *scales[2];      /* [share / FVLM_BLOCK, rounded up]: of their blocks */
    float *average;        /* [share]: exponential moving average of the value; NULL: none is kept */
} fvlm_parameter;

/* Parameters that are used together. Where their values or gradients are not kept whole, those are in a slot: a layer's
 * neighbours have the other one, what is `wide` (embeddings, the head) has its own. */
typedef struct fvlm_parameter_group {
    size_t first, count; /* of the set's items */
    size_t floats;       /* of what is trained among them */
    int slot;
} fvlm_parameter_group;
enum { FVLM_WIDE_SLOT = 2, FVLM_SLOTS = 3 };

struct fvlm_shards;

typedef struct fvlm_parameters {
    fvlm_arena *arena;
    fvlm_parameter **items; /* [count] */
    size_t count, capacity;
    unsigned trained;             /* parts */
    fvlm_dtype inputs;            /* of all matrices: F32, or BF16 for products of rounded numbers */
    fvlm_parameter_group *groups; /* [group_count] */
    size_t group_count, group_capacity;
    struct fvlm_shards *shards; /* NULL: one process */
    bool measuring;             /* only count: nothing is allocated or read, and values stay NULL */
    bool eight_bits;            /* moments of all but small parameters take 8 bits each */
    bool averaged;              /* keep a moving average */
    size_t value_bytes, gradient_bytes, state_bytes; /* what this process keeps of what is trained, without slots */
} fvlm_parameters;

/* What is added from here on is used together. The group's number, from 0. */
size_t fvlm_parameters_group(fvlm_parameters *set, fvlm_loader *loader, bool wide);

/* Add the tensor `name` as a vector of `count` values, or "name.weight" as a matrix [rows, cols]. NULL and
 * loader->status on failure. A second call for the same name gives the same parameter. */
fvlm_parameter *fvlm_parameter_vector(fvlm_parameters *set, fvlm_loader *loader, fvlm_part part, size_t count,
                                      const char *name, ...) FVLM_PRINTF(5, 6);
fvlm_parameter *fvlm_parameter_matrix(fvlm_parameters *set, fvlm_loader *loader, fvlm_part part, size_t rows,
                                      size_t cols, const char *name, ...) FVLM_PRINTF(6, 7);
/* Running statistics of what is trained: a value of its own, whole on every rank, without a gradient. */
fvlm_parameter *fvlm_parameter_statistics(fvlm_parameters *set, fvlm_loader *loader, fvlm_part part, size_t count,
                                          const char *name, ...) FVLM_PRINTF(5, 6);
/* A new trained matrix [rows, cols] of zeros that no checkpoint holds (LoRA's). */
fvlm_parameter *fvlm_parameter_create(fvlm_parameters *set, fvlm_loader *loader, fvlm_part part, size_t rows,
                                      size_t cols, const char *name, ...) FVLM_PRINTF(6, 7);
/* After `value` was written as a whole: take this process's share of it. */
void fvlm_parameter_keep(fvlm_parameter *parameter);

/* The parameter of this name, or NULL. */
fvlm_parameter *fvlm_parameters_find(const fvlm_parameters *set, const char *name);
/* Free what is not in the arena. */
void fvlm_parameters_clear(fvlm_parameters *set);
/* Set all gradients that are kept to 0. */
void fvlm_parameters_clear_gradients(fvlm_parameters *set, fvlm_pool *pool);
/* The tensor of a parameter's value or gradient, for saving. */
fvlm_tensor fvlm_parameter_tensor(const fvlm_parameter *parameter, const float *data);

#endif
