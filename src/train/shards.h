/* A distributed run's parameters: what is kept whole and what in shares, and the traffic around the use of a group.
 *
 *     stage 1   states in shares                       gradients reduced once a step, values gathered after it
 *     stage 2   gradients too                          reduced after each batch
 *     stage 3   values too                             gathered before each use
 *
 * A group's gradients go out as soon as its backward pass is done, while the pass before it computes; in stage 3 the
 * values of the next group come in while this one computes.
 */
#ifndef FVLM_TRAIN_SHARDS_H
#define FVLM_TRAIN_SHARDS_H

#include "train/parameters.h"
#include "train/ranks.h"

typedef struct fvlm_slot {
    float *values, *gradients; /* [floats]; NULL: kept whole */
    size_t floats;
    size_t held;      /* the group whose values are there, plus 1; 0: none */
    uint64_t fetched; /* the job that brings them */
    uint64_t sent;    /* the last job that reads the gradients */
} fvlm_slot;

typedef struct fvlm_shards {
    fvlm_ranks *ranks; /* several */
    int stage;
    fvlm_slot slots[FVLM_SLOTS];
    float *scratch; /* of the largest share: where reduced gradients arrive */
    bool complete;  /* the gradients of this pass complete a step's */
} fvlm_shards;

/* Memory for slots, as `measured`, a set that only counted, needs them. The caller owns *shards, after an error too. */
fvlm_status fvlm_shards_create(fvlm_ranks *ranks, int stage, const fvlm_parameters *measured, fvlm_shards **shards,
                               fvlm_error *error);
void fvlm_shards_destroy(fvlm_shards **shards);
/* Floats of slots and scratch that fvlm_shards_create allocates. */
size_t fvlm_shards_floats(const fvlm_parameters *measured, int stage);

/* Have the values of a group there; `ahead` (+1, -1, or 0: unknown) is where the next group will be, which may come in
 * already. All ranks use the same groups in the same order. Without shards nothing happens, here and below. */
void fvlm_group_use(fvlm_parameters *set, size_t group, int ahead);
/* Clear a group's gradients where they are in a slot. */
void fvlm_group_clear(fvlm_parameters *set, size_t group);
/* Both, on the way back. */
void fvlm_group_reuse(fvlm_parameters *set, size_t group);
/* After its backward pass: send the gradients on their way. */
void fvlm_group_sent(fvlm_parameters *set, size_t group);
/* What a rank does that has nothing to compute for the groups first .. first + count: forward, or back. */
void fvlm_groups_pass(fvlm_parameters *set, size_t first, size_t count, bool backward);

/* Wait for all gradients. */
void fvlm_shards_settle(fvlm_parameters *set);
/* After the shares of the values changed: bring them where they are kept whole. */
void fvlm_shards_renew(fvlm_parameters *set);
/* Make running statistics the mean of all ranks'. */
void fvlm_shards_average(fvlm_parameters *set);

#endif
