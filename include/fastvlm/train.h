/* Training: fine-tune a loaded model on conversations about pictures. */
#ifndef FASTVLM_TRAIN_H
#define FASTVLM_TRAIN_H

#include <stdint.h>

#include "fastvlm/engine.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The processes of a distributed run, as MPI numbers them. */
typedef struct fvlm_ranks fvlm_ranks;

/* Join the processes that mpirun or srun started; one where this process was started alone, or the build has no MPI. A
 * process can do this once in its life. The caller owns *ranks. */
FVLM_API fvlm_status fvlm_ranks_open(fvlm_ranks **ranks, fvlm_error *error);
FVLM_API void fvlm_ranks_close(fvlm_ranks **ranks);
FVLM_API int fvlm_ranks_count(const fvlm_ranks *ranks);
FVLM_API int fvlm_ranks_index(const fvlm_ranks *ranks); /* from 0 */
FVLM_API int fvlm_ranks_local(const fvlm_ranks *ranks); /* how many of them share this machine */
/* Called by all ranks: the status of the lowest rank that failed, with its error; FVLM_OK where none did. */
FVLM_API fvlm_status fvlm_ranks_agree(fvlm_ranks *ranks, fvlm_status status, fvlm_error *error);

typedef enum fvlm_schedule { FVLM_SCHEDULE_COSINE, FVLM_SCHEDULE_LINEAR, FVLM_SCHEDULE_CONSTANT } fvlm_schedule;

/* What is learned of the samples: their answers, or their "labels" and "marks", which teach the tower by classifiers
 * that are not kept, or both at once. */
typedef enum fvlm_objective { FVLM_LEARN_ANSWERS, FVLM_LEARN_LABELS, FVLM_LEARN_BOTH } fvlm_objective;

typedef struct fvlm_train_options {
    const char *const *data; /* [data_count] files in LLaVA's format, JSON or JSON lines */
    const double *weights;   /* [data_count]: how often an epoch takes each sample of a file; NULL: once */
    size_t data_count;
    const char *const *eval_data; /* [eval_count] files to evaluate on; 0: none */
    size_t eval_count;
    int patience;     /* above 0: this many evaluations in a row without a better loss end the run */
    double threshold; /* by which a loss has to be better */
    int packing;      /* above 0: samples are put together into units of at most so many tokens, which then count as one
                         for batch_size; attention and positions stay each sample's own */
    const char *const *folders; /* [folder_count]: where pictures are */
    size_t folder_count;
    const char *output;                         /* folder for checkpoints and the result, not the model's */
    const char *template_name, *system;         /* as for fvlm_template_render */
    bool tune_vision, tune_projector, tune_llm; /* what is trained */
    fvlm_objective objective;
    int lora_rank; /* above 0: tune_llm trains adapters of this rank instead of the language model's own weights */
    double lora_alpha;
    bool batch_statistics;       /* of the tower's batch norm; otherwise running ones */
    bool gradient_checkpointing; /* compute activations again instead of keeping them */
    int batch_size;              /* samples computed together */
    int accumulation;            /* such batches in a step */
    double epochs;
    long long max_steps;                /* above 0: instead of epochs */
    double rate;                        /* learning rate */
    double projector_rate, vision_rate; /* 0: as `rate` */
    double weight_decay;
    bool decay_all; /* norms, biases and scales too */
    double beta1, beta2, eps;
    double max_gradient_norm; /* 0: no clipping */
    bool eight_bits;          /* the optimiser's moments in 8 bits, by blocks of 256 */
    double average; /* above 0: the decay of a moving average of the weights, which is what is saved as a model */
    fvlm_schedule schedule;
    double warmup_ratio;    /* of all steps */
    long long warmup_steps; /* above 0: instead of the ratio */
    unsigned long long seed;
    bool shuffle, group_by_length, group_by_modality;
    int max_bad_samples;  /* that are skipped before the run fails */
    int keep_checkpoints; /* 0: all */
    fvlm_ranks *ranks;    /* share the run, each with batch_size samples of a batch; NULL: this process alone */
    int zero; /* with several ranks, what is kept in shares: 1 the optimiser's state, 2 gradients, 3 values too */
    bool (*stop)(void *user); /* asked once a step, of every rank: true ends the run after it; NULL: never */
    void (*notice)(void *user, const char *text); /* a sample was skipped; NULL: nobody listens */
    void *user;
} fvlm_train_options;

/* What LLaVA's scripts use where they have a value: rate 2e-5, cosine, warm-up 0.03, one epoch, clipping at 1. */
FVLM_API void fvlm_train_defaults(fvlm_train_options *options);

typedef struct fvlm_trainer fvlm_trainer; /* belongs to one thread at a time */

/* The engine must outlive the trainer. The strings of `options` are used until the trainer is closed. */
FVLM_API fvlm_status fvlm_trainer_open(fvlm_engine *engine, const fvlm_train_options *options, fvlm_trainer **trainer,
                                       fvlm_error *error);
FVLM_API void fvlm_trainer_close(fvlm_trainer **trainer);

typedef struct fvlm_train_progress {
    long long step, steps; /* done so far, and of the whole run */
    double epoch;
    double loss;          /* mean over the step's supervised tokens, before the step */
    double gradient_norm; /* before clipping */
    double rate;          /* learning rate that the step used */
    size_t tokens;        /* of the step, pictures' included */
    int skipped;          /* bad samples so far */
    bool stopped;         /* some rank wants to stop */
    double eval_loss;     /* of an evaluation after this step, over its supervised tokens; otherwise not a number */
    bool early;           /* evaluations say that the run should end */
} fvlm_train_progress;

/* With several ranks all functions of a trainer are called by all of them, and fail on all where one fails. */

/* One step. A loss that is not finite is an error that names the batch. Not to be called when step == steps. */
FVLM_API fvlm_status fvlm_trainer_step(fvlm_trainer *trainer, fvlm_train_progress *progress, fvlm_error *error);
/* The mean loss over options.eval_data, in progress->eval_loss, of the averaged weights where there are some. A broken
 * sample is an error. */
FVLM_API fvlm_status fvlm_trainer_evaluate(fvlm_trainer *trainer, fvlm_train_progress *progress, fvlm_error *error);
/* Where the run stands, before the first step too. */
FVLM_API void fvlm_trainer_progress(const fvlm_trainer *trainer, fvlm_train_progress *progress);

/* What a process keeps for training, bytes. */
typedef struct fvlm_train_memory {
    uint64_t values, gradients, states; /* of what is trained: float32 values, gradients, the optimiser's state */
    uint64_t slots;                     /* for what of it is not kept whole, while it is used */
    uint64_t sent;                      /* bytes sent to other ranks so far */
} fvlm_train_memory;
FVLM_API void fvlm_trainer_memory(const fvlm_trainer *trainer, fvlm_train_memory *memory);

/* What a run would need. */
typedef struct fvlm_train_plan {
    uint64_t parameters, trained; /* numbers in the model */
    fvlm_train_memory memory;     /* of a rank; `sent` in one step */
    uint64_t activations;         /* bytes of a rank's workspace for one batch */
    uint64_t tower;               /* bytes of the tower's weights, packed for inference, which every rank keeps */
    uint64_t mapped;              /* bytes of the model's file, once on a machine */
} fvlm_train_plan;

/* Plan `options` (what is trained, batch size, accumulation, ZeRO; no data, no output) for `ranks` ranks and samples of
 * one picture and `tokens` tokens, the picture's included. `model`: a model as for fvlm_engine_open, or "0.5b", "1.5b"
 * or "7b", the published ones, of which nothing has to be there. threads 0: one for each processor. */
FVLM_API fvlm_status fvlm_train_plan_make(const char *model, const fvlm_train_options *options, int ranks, int tokens,
                                          int threads, fvlm_train_plan *plan, fvlm_error *error);

/* Write the gradients of the first batch's mean loss under the parameters' names, and change nothing. */
FVLM_API fvlm_status fvlm_trainer_dump_gradients(fvlm_trainer *trainer, const char *path, double *loss,
                                                 fvlm_error *error);

/* Write what the first batch's samples are made into, a JSON object a line: "input_ids", with -200 for a whole picture,
 * and "labels", which are the tokens that are supervised and -100. */
FVLM_API fvlm_status fvlm_trainer_dump_labels(fvlm_trainer *trainer, const char *path, fvlm_error *error);

/* Write output/checkpoint-STEP: the model in the layout it came in, and the optimiser's state. Put in place as a whole;
 * older ones are removed as keep_checkpoints says. */
FVLM_API fvlm_status fvlm_trainer_save(fvlm_trainer *trainer, fvlm_error *error);
/* Continue from a checkpoint of the same run; with `checkpoint` NULL from the newest in `output`, or from the start
 * where there is none. What follows is the same to the bit as without the interruption. */
FVLM_API fvlm_status fvlm_trainer_resume(fvlm_trainer *trainer, const char *checkpoint, fvlm_error *error);
/* Write the trained model into `output` itself. */
FVLM_API fvlm_status fvlm_trainer_finish(fvlm_trainer *trainer, fvlm_error *error);

/* Merge a LoRA adapter, with what else was trained beside it, into the model it was trained on: `output` gets a whole
 * model in the layout of `model`. threads 0: one for each processor. */
FVLM_API fvlm_status fvlm_adapter_merge(const char *model, const char *adapter, const char *output, int threads,
                                        fvlm_error *error);

#ifdef __cplusplus
}
#endif
#endif
