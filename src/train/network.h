/* The whole model for training: tower (trained, or the engine's own where it is frozen), projector and language model,
 * over a batch of samples. */
#ifndef FVLM_TRAIN_NETWORK_H
#define FVLM_TRAIN_NETWORK_H

#include "train/language.h"
#include "train/ranks.h"
#include "train/sample.h"

typedef struct fvlm_network_options {
    unsigned trained; /* fvlm_part's; with LoRA, FVLM_PART_ADAPTER instead of FVLM_PART_LANGUAGE */
    fvlm_lora lora;
    const fvlm_label_set *labels; /* train classifiers of these over what the tower makes of a picture; or NULL */
    bool wordless;                /* train nothing else: there is neither projector nor language model */
    bool batch_statistics;        /* of the trained tower's batch norm; otherwise running ones */
    fvlm_ranks *ranks;            /* several of them share the run, in ZeRO's stage 1, 2 or 3; NULL: one process */
    int stage;
    bool eight_bits, averaged; /* of the optimiser's state: see fvlm_parameters */
    bool recompute;            /* gradient checkpointing: a second forward pass instead of memory */
} fvlm_network_options;

typedef struct fvlm_network fvlm_network;

/* Reads the engine's mapped weights, which must outlive the network. The caller owns *network. */
fvlm_status fvlm_network_create(fvlm_engine *engine, const fvlm_network_options *options, fvlm_network **network,
                                fvlm_error *error);
void fvlm_network_destroy(fvlm_network **network);

fvlm_parameters *fvlm_network_parameters(fvlm_network *network);

/* What a network needs, counted by what creates it. */
typedef struct fvlm_network_size {
    size_t parameters, trained;       /* of the model, the tower's included */
    size_t tower;                     /* of the tower */
    size_t values, gradients, states; /* bytes that a rank keeps of what is trained */
    size_t slots;                     /* floats for it while it is used */
    size_t workspace;                 /* floats, for one batch */
    uint64_t traffic;                 /* bytes that a rank sends in a step */
} fvlm_network_size;

/* The size of a network over `config` with options->ranks, which may be pretended, for batches of `samples` texts of
 * `rows` tokens with `tiles` tiles in all, `batches` of them a step. `table` has the names of the tensors, no data is
 * read. */
fvlm_status fvlm_network_measure(const fvlm_config *config, const fvlm_tensor_table *table,
                                 const fvlm_network_options *options, size_t samples, size_t rows, size_t tiles,
                                 size_t batches, fvlm_pool *pool, fvlm_network_size *size, fvlm_error *error);

typedef struct fvlm_network_result {
    double loss;    /* sum over the supervised tokens, and over what is known of the labels */
    size_t targets; /* how many those are */
    size_t rows;    /* all tokens, the pictures' too */
} fvlm_network_result;

/* Forward pass of `samples` [count]; with `backward`, the gradients of the summed loss are added to the parameters'.
 * Fails only for lack of memory. All
 * ranks call it, those without a sample with count 0. */
fvlm_status fvlm_network_run(fvlm_network *network, const fvlm_sample *samples, size_t count, bool backward,
                             fvlm_network_result *result, fvlm_error *error);

#endif
