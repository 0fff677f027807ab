/* The trainer as the files of this room see it. */
#ifndef FVLM_TRAIN_TRAINER_STATE_H
#define FVLM_TRAIN_TRAINER_STATE_H

#include "base/background.h"
#include "fastvlm/train.h"
#include "train/network.h"
#include "train/optimizer.h"
#include "train/sample_files.h"
#include "train/shards.h"

/* Samples of one forward pass, made in the background while another pass computes. */
typedef struct fvlm_prepared {
    uint64_t number;      /* of the batch in the whole run */
    fvlm_sample *samples; /* [batch_size x largest unit], of which `count` are made */
    size_t *places;       /* [...]: their places in the data set */
    size_t count;
    char **bad; /* [...]: messages about those that are not, of which `bad_count` */
    size_t bad_count;
    fvlm_status status; /* of what is not a sample's fault */
    fvlm_error error;
} fvlm_prepared;

struct fvlm_trainer {
    fvlm_engine *engine;
    fvlm_train_options options;
    fvlm_network *network;
    fvlm_dataset *dataset, *eval_dataset; /* eval_dataset NULL: no evaluation */
    fvlm_label_set labels;                /* where a classifier of them is trained */
    fvlm_adamw adamw;
    uint64_t step, steps, steps_per_epoch, warmup;
    int skipped;
    double best; /* loss of an evaluation; INFINITY before the first */
    int waited;  /* evaluations since then */

    fvlm_pool *pool; /* of one thread: the background job's */
    fvlm_background *background;
    fvlm_prepared prepared[2]; /* batch n is in prepared[n % 2] */
    bool started;              /* the next batch is on its way, or there */
    size_t *order;             /* [epoch_count] of `order_epoch`; the background job's */
    uint64_t order_epoch;
    bool ordered;
};

/* Ranks of the run, and which this is. */
int fvlm_trainer_ranks(const fvlm_trainer *trainer);
int fvlm_trainer_rank(const fvlm_trainer *trainer);
/* The status that all ranks go on with; errors are the lowest one's. */
fvlm_status fvlm_trainer_agree(const fvlm_trainer *trainer, fvlm_status status, fvlm_error *error);
/* Samples of a step, of all ranks together. */
uint64_t fvlm_trainer_step_samples(const fvlm_trainer *trainer);

/* What the options say about the network. */
fvlm_network_options fvlm_trainer_network_options(const fvlm_train_options *options);

/* Checkpoint folders (checkpoint_folder.c). */

/* Write the model, and with `state` the optimiser's state, into `folder`, which is made. */
fvlm_status fvlm_trainer_write(fvlm_trainer *trainer, const char *folder, bool state, fvlm_error *error);
/* Read the state back. */
fvlm_status fvlm_trainer_read(fvlm_trainer *trainer, const char *folder, fvlm_error *error);

#endif
