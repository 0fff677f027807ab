/* The training loop: batches from the background, a pass for each, one optimiser step for all of them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/system.h"
#include "train/blockwise.h"
#include "train/trainer_state.h"

#define MAX_BATCH 65536

void fvlm_train_defaults(fvlm_train_options *options)
{
    *options = (fvlm_train_options){.tune_projector = true,
                                    .tune_llm = true,
                                    .lora_alpha = 256,
                                    .batch_size = 1,
                                    .accumulation = 1,
                                    .epochs = 1,
                                    .rate = 2e-5,
                                    .beta1 = 0.9,
                                    .beta2 = 0.999,
                                    .eps = 1e-8,
                                    .max_gradient_norm = 1,
                                    .warmup_ratio = 0.03,
                                    .seed = 42,
                                    .shuffle = true,
                                    .zero = 1};
}

/* Opening. */

static fvlm_status check_options(const fvlm_train_options *o, fvlm_error *error)
{
    if (o->data_count == 0)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "no data given");
    if (o->objective == FVLM_LEARN_LABELS && (o->tune_projector || o->tune_llm))
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT,
                         "labels teach the vision tower alone; the other parts learn from answers");
    if (o->objective != FVLM_LEARN_ANSWERS && !o->tune_vision)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "labels teach the vision tower, which is not among the parts");
    if (o->objective != FVLM_LEARN_ANSWERS && o->ranks && fvlm_ranks_count(o->ranks) > 1)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "labels are learned in one process, without mpirun");
    if (!o->tune_vision && !o->tune_projector && !o->tune_llm)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "nothing is to be trained: name a part");
    if (o->batch_size < 1 || o->batch_size > MAX_BATCH || o->accumulation < 1 || o->accumulation > MAX_BATCH)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "batch size %d and accumulation %d have to be 1 to %d",
                         o->batch_size, o->accumulation, MAX_BATCH);
    if (o->max_steps <= 0 && !(o->epochs > 0 && o->epochs < 1e9))
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "%g epochs are none", o->epochs);
    if (!(o->rate >= 0) || !(o->projector_rate >= 0) || !(o->vision_rate >= 0) || !(o->weight_decay >= 0) ||
        !(o->max_gradient_norm >= 0) || !isfinite(o->rate + o->projector_rate + o->vision_rate + o->weight_decay))
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT,
                         "learning rates, weight decay and the largest gradient norm cannot be negative");
    if (!(o->beta1 >= 0 && o->beta1 < 1) || !(o->beta2 >= 0 && o->beta2 < 1) || !(o->eps > 0))
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "AdamW wants 0 <= beta < 1 and a positive epsilon");
    if (!(o->average >= 0 && o->average < 1))
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "a moving average wants a decay of at least 0 and below 1, not %g",
                         o->average);
    if (!(o->warmup_ratio >= 0 && o->warmup_ratio <= 1))
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "the warm-up ratio %g is not between 0 and 1", o->warmup_ratio);
    if (o->zero < 1 || o->zero > 3)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "ZeRO has the stages 1, 2 and 3, not %d", o->zero);
    if (o->lora_rank > 0 && !o->tune_llm)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "LoRA trains the language model, which is not among the parts");
    if (o->objective != FVLM_LEARN_ANSWERS && o->packing > 0)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "packs are of texts alone, without labels");
    if (o->packing < 0 || (o->packing > 0 && (o->group_by_length || o->group_by_modality)))
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "packs have a positive number of tokens, and are not grouped");
    if (o->patience < 0 || !(o->threshold >= 0) || (o->patience > 0 && o->eval_count == 0))
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT,
                         "stopping early wants data to evaluate on, and a patience and threshold of at least 0");
    if (!isfinite(o->lora_alpha))
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "LoRA's alpha is not a number");
    if (o->lora_rank < 0 || o->lora_rank > 4096)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "a LoRA rank of %d is not between 0 and 4096", o->lora_rank);
    return FVLM_OK;
}

int fvlm_trainer_ranks(const fvlm_trainer *trainer)
{
    return trainer->options.ranks ? fvlm_ranks_count(trainer->options.ranks) : 1;
}

int fvlm_trainer_rank(const fvlm_trainer *trainer)
{
    return trainer->options.ranks ? fvlm_ranks_index(trainer->options.ranks) : 0;
}

uint64_t fvlm_trainer_step_samples(const fvlm_trainer *trainer)
{
    return (uint64_t)trainer->options.batch_size * (uint64_t)trainer->options.accumulation *
           (uint64_t)fvlm_trainer_ranks(trainer);
}

fvlm_status fvlm_trainer_agree(const fvlm_trainer *trainer, fvlm_status status, fvlm_error *error)
{
    return trainer->options.ranks ? fvlm_ranks_agree(trainer->options.ranks, status, error) : status;
}

static void plan_steps(fvlm_trainer *trainer)
{
    const fvlm_train_options *o = &trainer->options;
    uint64_t a_step = fvlm_trainer_step_samples(trainer);
    trainer->steps_per_epoch = (fvlm_dataset_epoch_count(trainer->dataset) + a_step - 1) / a_step;
    trainer->steps =
        o->max_steps > 0 ? (uint64_t)o->max_steps : (uint64_t)ceil(o->epochs * (double)trainer->steps_per_epoch);
    trainer->warmup =
        o->warmup_steps > 0 ? (uint64_t)o->warmup_steps : (uint64_t)ceil(o->warmup_ratio * (double)trainer->steps);
}

static fvlm_status allocate(fvlm_trainer *trainer, fvlm_error *error)
{
    size_t batch = (size_t)trainer->options.batch_size * fvlm_dataset_largest_unit(trainer->dataset);
    trainer->order = fvlm_calloc(fvlm_dataset_epoch_count(trainer->dataset), sizeof *trainer->order);
    bool fine = trainer->order;
    for (int i = 0; i < 2; i++) {
        fvlm_prepared *prepared = &trainer->prepared[i];
        prepared->samples = fvlm_calloc(batch, sizeof *prepared->samples);
        prepared->places = fvlm_calloc(batch, sizeof *prepared->places);
        prepared->bad = fvlm_calloc(batch, sizeof *prepared->bad);
        fine = fine && prepared->samples && prepared->places && prepared->bad;
    }
    return fine ? FVLM_OK : fvlm_fail_memory(error);
}

static fvlm_status make_sample(fvlm_trainer *trainer, const fvlm_dataset *dataset, size_t place, bool measuring,
                               fvlm_sample *sample, fvlm_error *error);

/* Put samples together by their lengths. A broken one, which is named when its turn comes, has none. */
static fvlm_status pack(fvlm_trainer *trainer, fvlm_error *error)
{
    const fvlm_train_options *o = &trainer->options;
    size_t count = fvlm_dataset_count(trainer->dataset), *lengths = fvlm_calloc(count, sizeof *lengths);
    if (!lengths)
        return fvlm_fail_memory(error);
    fvlm_status status = FVLM_OK;
    for (size_t i = 0; i < count && status != FVLM_ERROR_MEMORY; i++) {
        fvlm_sample sample;
        status = make_sample(trainer, trainer->dataset, i, true, &sample, error);
        if (!status) {
            lengths[i] = sample.count;
            fvlm_sample_clear(&sample);
        }
    }
    if (status != FVLM_ERROR_MEMORY)
        status = fvlm_dataset_pack(trainer->dataset, lengths, (size_t)o->packing, o->shuffle, o->seed, error);
    free(lengths);
    return status;
}

fvlm_network_options fvlm_trainer_network_options(const fvlm_train_options *options)
{
    bool lora = options->lora_rank > 0;
    return (fvlm_network_options){
        .trained = (options->tune_vision ? FVLM_PART_VISION : 0u) |
                   (options->tune_projector ? FVLM_PART_PROJECTOR : 0u) |
                   (!options->tune_llm ? 0u
                    : lora             ? FVLM_PART_ADAPTER
                                       : FVLM_PART_LANGUAGE),
        .lora = {.rank = (size_t)options->lora_rank, .alpha = (float)options->lora_alpha, .seed = options->seed},
        .batch_statistics = options->batch_statistics,
        .ranks = options->ranks,
        .stage = options->zero,
        .recompute = options->gradient_checkpointing,
        .eight_bits = options->eight_bits,
        .averaged = options->average > 0};
}

fvlm_status fvlm_trainer_open(fvlm_engine *engine, const fvlm_train_options *options, fvlm_trainer **out,
                              fvlm_error *error)
{
    *out = NULL;
    fvlm_status status = check_options(options, error);
    if (!status && options->output && fvlm_path_same(engine->source->path, options->output))
        status =
            fvlm_fail(error, FVLM_ERROR_ARGUMENT, "%s is the model itself: train into another folder", options->output);
    if (status)
        return status;
    fvlm_trainer *trainer = *out = fvlm_calloc(1, sizeof *trainer);
    if (!trainer)
        return fvlm_fail_memory(error);
    trainer->engine = engine;
    trainer->best = INFINITY;
    trainer->options = *options;
    fvlm_network_options network = fvlm_trainer_network_options(options);
    double projector = options->projector_rate > 0 ? options->projector_rate : options->rate;
    double vision = options->vision_rate > 0 ? options->vision_rate : options->rate;
    trainer->adamw = (fvlm_adamw){.beta1 = options->beta1,
                                  .beta2 = options->beta2,
                                  .eps = options->eps,
                                  .decay = options->weight_decay,
                                  .decay_all = options->decay_all,
                                  .average = options->average,
                                  .rates = {vision, projector, options->rate, options->rate}};
    status = fvlm_dataset_open(options->data, options->weights, options->data_count, &trainer->dataset, error);
    if (!status && options->eval_count > 0)
        status = fvlm_dataset_open(options->eval_data, NULL, options->eval_count, &trainer->eval_dataset, error);
    if (!status)
        status = fvlm_pool_create(1, &trainer->pool, error);
    if (!status && options->packing > 0)
        status = pack(trainer, error);
    if (!status && options->objective != FVLM_LEARN_ANSWERS) {
        status = fvlm_label_set_read(trainer->dataset, &trainer->labels, error);
        network.labels = &trainer->labels;
        network.wordless = options->objective == FVLM_LEARN_LABELS;
    }
    if (!status)
        status = allocate(trainer, error);
    if (!status)
        status = fvlm_network_create(engine, &network, &trainer->network, error);
    if (status) {
        fvlm_trainer_close(out);
        return status;
    }
    fvlm_block_prepare();
    plan_steps(trainer);
    return FVLM_OK;
}

static void clear_prepared(fvlm_prepared *prepared)
{
    for (size_t i = 0; i < prepared->count; i++)
        fvlm_sample_clear(&prepared->samples[i]);
    for (size_t i = 0; i < prepared->bad_count; i++)
        free(prepared->bad[i]);
    prepared->count = prepared->bad_count = 0;
}

void fvlm_trainer_close(fvlm_trainer **trainer)
{
    fvlm_trainer *old = *trainer;
    if (!old)
        return;
    fvlm_background_wait(&old->background);
    for (int i = 0; i < 2; i++) {
        clear_prepared(&old->prepared[i]);
        free(old->prepared[i].samples);
        free(old->prepared[i].places);
        free((void *)old->prepared[i].bad);
    }
    free(old->order);
    fvlm_pool_destroy(&old->pool);
    fvlm_network_destroy(&old->network);
    fvlm_dataset_close(&old->dataset);
    fvlm_dataset_close(&old->eval_dataset);
    fvlm_label_set_clear(&old->labels);
    free(old);
    *trainer = NULL;
}

/* Batches. */

static fvlm_status make_sample(fvlm_trainer *trainer, const fvlm_dataset *dataset, size_t place, bool measuring,
                               fvlm_sample *sample, fvlm_error *error)
{
    const fvlm_train_options *o = &trainer->options;
    fvlm_sample_options options = {.template_name = o->template_name,
                                   .system = o->system,
                                   .folders = o->folders,
                                   .folder_count = o->folder_count,
                                   .longest = trainer->engine->context,
                                   .measuring = measuring,
                                   .labels = o->objective != FVLM_LEARN_ANSWERS ? &trainer->labels : NULL,
                                   .wordless = o->objective == FVLM_LEARN_LABELS};
    fvlm_conversation conversation;
    fvlm_status status = fvlm_dataset_read(dataset, place, &conversation, error);
    if (status)
        return status;
    fvlm_error inner;
    status = fvlm_sample_make(trainer->engine, trainer->pool, &conversation, &options, sample, &inner);
    fvlm_conversation_clear(&conversation);
    if (status) {
        char name[FVLM_DATASET_NAME];
        fvlm_dataset_name(dataset, place, name, sizeof name);
        fvlm_fail(error, status, "%s: %s", name, inner.message);
    }
    return status;
}

static void prepare_sample(fvlm_trainer *trainer, size_t place, fvlm_prepared *prepared)
{
    fvlm_error error;
    fvlm_status status =
        make_sample(trainer, trainer->dataset, place, false, &prepared->samples[prepared->count], &error);
    if (!status) {
        prepared->places[prepared->count++] = place;
    } else if (status == FVLM_ERROR_MEMORY) {
        prepared->status = status;
        prepared->error = error;
    } else if ((prepared->bad[prepared->bad_count] = fvlm_strdup(error.message))) {
        prepared->bad_count++;
    } else {
        prepared->status = fvlm_fail_memory(&prepared->error);
    }
}

/* The background job: fill the prepared batch that comes next. */
static void prepare(void *argument, fvlm_prepared *prepared)
{
    fvlm_trainer *trainer = argument;
    const fvlm_train_options *o = &trainer->options;
    size_t batch = (size_t)o->batch_size, accumulation = (size_t)o->accumulation;
    size_t count = fvlm_dataset_epoch_count(trainer->dataset);
    uint64_t step = prepared->number / accumulation, epoch = step / trainer->steps_per_epoch;
    prepared->status = FVLM_OK;
    if (!trainer->ordered || trainer->order_epoch != epoch) {
        fvlm_grouping grouping = o->group_by_modality ? FVLM_GROUP_MODALITY
                                 : o->group_by_length ? FVLM_GROUP_LENGTH
                                                      : FVLM_GROUP_NONE;
        prepared->status = fvlm_dataset_order(trainer->dataset, o->seed, epoch, o->shuffle, grouping, batch,
                                              trainer->order, &prepared->error);
        trainer->ordered = !prepared->status;
        trainer->order_epoch = epoch;
    }
    size_t ranks = (size_t)fvlm_trainer_ranks(trainer), rank = (size_t)fvlm_trainer_rank(trainer);
    size_t in_epoch = (size_t)(step % trainer->steps_per_epoch) * accumulation + prepared->number % accumulation;
    size_t first = (in_epoch * ranks + rank) * batch; /* a step's batches go round the ranks */
    for (size_t i = first; i < first + batch && i < count; i++) {
        const size_t *samples;
        size_t members = fvlm_dataset_unit(trainer->dataset, trainer->order[i], &samples);
        for (size_t k = 0; k < members && !prepared->status; k++)
            prepare_sample(trainer, samples[k], prepared);
    }
}

static void prepare_even(void *argument)
{
    prepare(argument, &((fvlm_trainer *)argument)->prepared[0]);
}

static void prepare_odd(void *argument)
{
    prepare(argument, &((fvlm_trainer *)argument)->prepared[1]);
}

static fvlm_status start(fvlm_trainer *trainer, uint64_t number, fvlm_error *error)
{
    fvlm_prepared *prepared = &trainer->prepared[number % 2];
    clear_prepared(prepared);
    prepared->number = number;
    trainer->started = true;
    return fvlm_background_start(number % 2 ? prepare_odd : prepare_even, trainer, &trainer->background, error);
}

/* Batch `number`, and set the background to work on the next one. */
static fvlm_status take(fvlm_trainer *trainer, uint64_t number, fvlm_prepared **out, fvlm_error *error)
{
    fvlm_prepared *prepared = *out = &trainer->prepared[number % 2];
    fvlm_status status = FVLM_OK;
    if (!trainer->started)
        status = start(trainer, number, error);
    fvlm_background_wait(&trainer->background);
    trainer->started = false;
    if (status)
        return status;
    if (prepared->status) {
        *error = prepared->error;
        return prepared->status;
    }
    const fvlm_train_options *o = &trainer->options;
    for (size_t i = 0; i < prepared->bad_count && o->notice; i++)
        if (trainer->skipped + (int)i < o->max_bad_samples)
            o->notice(o->user, prepared->bad[i]);
    if (number + 1 < trainer->steps * (uint64_t)o->accumulation)
        status = start(trainer, number + 1, error);
    return status;
}

/* Steps. */

static fvlm_status fail_not_finite(const fvlm_trainer *trainer, const fvlm_prepared *prepared, const char *what,
                                   fvlm_error *error)
{
    char names[400] = "";
    for (size_t i = 0, used = 0; i < prepared->count && used < sizeof names; i++) {
        char name[256];
        fvlm_dataset_name(trainer->dataset, prepared->places[i], name, sizeof name);
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", i ? "; " : "", name);
    }
    return fvlm_fail(error, FVLM_ERROR_FORMAT, "step %llu: the %s is not finite, in the batch %s",
                     (unsigned long long)trainer->step + 1, what, names);
}

/* Count the bad samples of all ranks' batches; one too many ends the run. */
static fvlm_status count_bad(fvlm_trainer *trainer, const fvlm_prepared *prepared, fvlm_error *error)
{
    const fvlm_train_options *o = &trainer->options;
    double bad = (double)prepared->bad_count;
    if (o->ranks)
        fvlm_ranks_sum(o->ranks, &bad, 1);
    int before = trainer->skipped;
    trainer->skipped += (int)bad;
    if (trainer->skipped <= o->max_bad_samples || prepared->bad_count == 0)
        return FVLM_OK;
    size_t last = (size_t)(o->max_bad_samples - before);
    return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s%s",
                     prepared->bad[last < prepared->bad_count ? last : prepared->bad_count - 1],
                     o->max_bad_samples == 0 ? " (--max-bad-samples skips such samples)" : "");
}

/* Add up the gradients of a step's batches. */
static fvlm_status run_batches(fvlm_trainer *trainer, fvlm_network_result *sum, fvlm_prepared **last, fvlm_error *error)
{
    *sum = (fvlm_network_result){0};
    fvlm_parameters_clear_gradients(fvlm_network_parameters(trainer->network), trainer->engine->pool);
    fvlm_shards *shards = fvlm_network_parameters(trainer->network)->shards;
    uint64_t accumulation = (uint64_t)trainer->options.accumulation;
    for (uint64_t i = 0; i < accumulation; i++) {
        fvlm_network_result result;
        fvlm_status status =
            fvlm_trainer_agree(trainer, take(trainer, trainer->step * accumulation + i, last, error), error);
        if (!status)
            status = fvlm_trainer_agree(trainer, count_bad(trainer, *last, error), error);
        if (status)
            return status;
        if (shards)
            shards->complete = i + 1 == accumulation;
        else if ((*last)->count == 0)
            continue;
        status = fvlm_network_run(trainer->network, (*last)->samples, (*last)->count, true, &result, error);
        if (!status && !isfinite(result.loss))
            status = fail_not_finite(trainer, *last, "loss", error);
        status = fvlm_trainer_agree(trainer, status, error);
        if (status)
            return status;
        sum->loss += result.loss;
        sum->targets += result.targets;
        sum->rows += result.rows;
    }
    return FVLM_OK;
}

void fvlm_trainer_progress(const fvlm_trainer *trainer, fvlm_train_progress *progress)
{
    *progress =
        (fvlm_train_progress){.step = (long long)trainer->step,
                              .steps = (long long)trainer->steps,
                              .epoch = (double)trainer->step / (double)trainer->steps_per_epoch,
                              .skipped = trainer->skipped,
                              .eval_loss = NAN,
                              .early = trainer->options.patience > 0 && trainer->waited >= trainer->options.patience};
}

fvlm_status fvlm_trainer_step(fvlm_trainer *trainer, fvlm_train_progress *progress, fvlm_error *error)
{
    const fvlm_train_options *o = &trainer->options;
    fvlm_parameters *parameters = fvlm_network_parameters(trainer->network);
    fvlm_network_result own;
    fvlm_prepared *last;
    fvlm_status status = run_batches(trainer, &own, &last, error);
    if (status)
        return status;
    fvlm_shards_settle(parameters);
    enum { LOSS, TARGETS, ROWS, SQUARE, STOP, SUMS };
    double square = fvlm_gradient_square(parameters, trainer->engine->pool, &status, error);
    double sums[SUMS] = {own.loss, (double)own.targets, (double)own.rows, square, o->stop && o->stop(o->user)};
    status = fvlm_trainer_agree(trainer, status, error);
    if (status)
        return status;
    if (o->ranks)
        fvlm_ranks_sum(o->ranks, sums, SUMS);
    double mean = sums[TARGETS] > 0 ? 1 / sums[TARGETS] : 0, norm = mean * sqrt(sums[SQUARE]);
    if (!isfinite(norm))
        return fail_not_finite(trainer, last, "gradient", error);
    double factor = fvlm_schedule_factor(o->schedule, trainer->step, trainer->warmup, trainer->steps);
    /* As PyTorch clips: 1e-6 keeps a norm of 0 harmless. */
    double clip = o->max_gradient_norm > 0 ? o->max_gradient_norm / (norm + 1e-6) : 1;
    if (sums[TARGETS] > 0)
        fvlm_adamw_step(&trainer->adamw, parameters, trainer->engine->pool, trainer->step + 1,
                        mean * (clip < 1 ? clip : 1), factor);
    fvlm_shards_renew(parameters);
    if (o->batch_statistics)
        fvlm_shards_average(parameters);
    trainer->step++;
    fvlm_trainer_progress(trainer, progress);
    progress->loss = sums[LOSS] * mean;
    progress->gradient_norm = norm;
    progress->rate = o->rate * factor;
    progress->tokens = (size_t)sums[ROWS];
    progress->stopped = sums[STOP] > 0;
    return FVLM_OK;
}

/* Evaluation. */

/* Exchange the weights and their averages. */
static void swap_averages(fvlm_parameters *parameters)
{
    for (size_t i = 0; i < parameters->count; i++) {
        fvlm_parameter *parameter = parameters->items[i];
        for (size_t k = 0; parameter->average && k < parameter->share; k++) {
            float value = parameter->own_value[k];
            parameter->own_value[k] = parameter->average[k];
            parameter->average[k] = value;
        }
    }
    fvlm_shards_renew(parameters);
}

/* One batch of samples first .. first + batch of the evaluation's data; those beyond its end are none. */
static fvlm_status evaluate_batch(fvlm_trainer *trainer, size_t first, fvlm_network_result *result, fvlm_error *error)
{
    size_t count = 0, all = fvlm_dataset_count(trainer->eval_dataset), batch = (size_t)trainer->options.batch_size;
    fvlm_sample *samples = fvlm_calloc(batch, sizeof *samples);
    fvlm_status status = samples ? FVLM_OK : fvlm_fail_memory(error);
    for (; count < batch && first + count < all && !status; count += !status)
        status = make_sample(trainer, trainer->eval_dataset, first + count, false, &samples[count], error);
    status = fvlm_trainer_agree(trainer, status, error);
    *result = (fvlm_network_result){0};
    if (!status && (count > 0 || fvlm_network_parameters(trainer->network)->shards))
        status = fvlm_network_run(trainer->network, samples, count, false, result, error);
    for (size_t i = 0; samples && i < count; i++)
        fvlm_sample_clear(&samples[i]);
    free(samples);
    return status;
}

fvlm_status fvlm_trainer_evaluate(fvlm_trainer *trainer, fvlm_train_progress *progress, fvlm_error *error)
{
    const fvlm_train_options *o = &trainer->options;
    fvlm_parameters *parameters = fvlm_network_parameters(trainer->network);
    if (!trainer->eval_dataset)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "there is no data to evaluate on");
    fvlm_background_wait(&trainer->background); /* which uses the same pool; its batch stays */
    if (o->average > 0)
        swap_averages(parameters);
    size_t all = fvlm_dataset_count(trainer->eval_dataset), batch = (size_t)o->batch_size;
    size_t ranks = (size_t)fvlm_trainer_ranks(trainer), rank = (size_t)fvlm_trainer_rank(trainer);
    double sums[2] = {0}; /* loss, targets */
    fvlm_status status = FVLM_OK;
    for (size_t first = 0; first < all && !status; first += ranks * batch) {
        fvlm_network_result result;
        status = evaluate_batch(trainer, first + rank * batch, &result, error);
        sums[0] += result.loss;
        sums[1] += (double)result.targets;
    }
    if (o->average > 0)
        swap_averages(parameters);
    if (status)
        return status;
    if (o->ranks)
        fvlm_ranks_sum(o->ranks, sums, 2);
    double loss = sums[0] / (sums[1] > 0 ? sums[1] : 1);
    trainer->waited = loss < trainer->best - o->threshold ? 0 : trainer->waited + 1;
    trainer->best = loss < trainer->best ? loss : trainer->best;
    progress->early = o->patience > 0 && trainer->waited >= o->patience;
    progress->eval_loss = loss;
    return FVLM_OK;
}

void fvlm_trainer_memory(const fvlm_trainer *trainer, fvlm_train_memory *memory)
{
    const fvlm_parameters *parameters = fvlm_network_parameters(trainer->network);
    const fvlm_shards *shards = parameters->shards;
    *memory = (fvlm_train_memory){.values = parameters->value_bytes,
                                  .gradients = parameters->gradient_bytes,
                                  .states = parameters->state_bytes,
                                  .slots = shards ? fvlm_shards_floats(parameters, shards->stage) * sizeof(float) : 0,
                                  .sent = shards ? fvlm_ranks_traffic(shards->ranks) : 0};
}

fvlm_status fvlm_trainer_dump_gradients(fvlm_trainer *trainer, const char *path, double *loss, fvlm_error *error)
{
    fvlm_parameters *parameters = fvlm_network_parameters(trainer->network);
    fvlm_network_result sum;
    fvlm_prepared *last;
    if (fvlm_trainer_ranks(trainer) > 1)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "gradients are written by one process alone, without mpirun");
    fvlm_status status = run_batches(trainer, &sum, &last, error);
    fvlm_tensor *tensors = status ? NULL : fvlm_calloc(parameters->count, sizeof *tensors);
    if (!status && !tensors)
        status = fvlm_fail_memory(error);
    size_t count = 0;
    float mean = sum.targets > 0 ? (float)(1 / (double)sum.targets) : 0;
    for (size_t i = 0; !status && i < parameters->count; i++) {
        fvlm_parameter *parameter = parameters->items[i];
        if (!parameter->gradient)
            continue;
        for (size_t k = 0; k < parameter->count; k++)
            parameter->gradient[k] *= mean;
        tensors[count++] = fvlm_parameter_tensor(parameter, parameter->gradient);
    }
    if (!status)
        status = fvlm_safetensors_write(path, tensors, count, error);
    free(tensors);
    *loss = sum.loss * (double)mean;
    return status;
}

/* A sample as LLaVA keeps it: one -200 for a whole picture, and labels beside the tokens they are, -100 elsewhere. */
static json_t *sample_json(const fvlm_sample *sample)
{
    json_t *tokens = json_array(), *labels = json_array();
    size_t picture = 0;
    for (size_t i = 0; i < sample->count; i++) {
        bool shown = sample->tokens[i] < 0;
        json_array_append_new(tokens, json_integer(shown ? -200 : sample->tokens[i]));
        json_array_append_new(labels, json_integer(!shown && i > 0 ? sample->labels[i - 1] : -100));
        if (shown)
            i += sample->pictures[picture++].count - 1;
    }
    return json_pack("{so so}", "input_ids", tokens, "labels", labels);
}

fvlm_status fvlm_trainer_dump_labels(fvlm_trainer *trainer, const char *path, fvlm_error *error)
{
    fvlm_prepared *prepared;
    fvlm_writer *writer = NULL;
    fvlm_status status = take(trainer, trainer->step * (uint64_t)trainer->options.accumulation, &prepared, error);
    if (!status)
        status = fvlm_writer_open(path, &writer, error);
    for (size_t i = 0; !status && i < prepared->count; i++) {
        json_t *object = sample_json(&prepared->samples[i]);
        char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
        json_decref(object);
        status = text ? fvlm_writer_write(writer, text, strlen(text), error) : fvlm_fail_memory(error);
        if (!status)
            status = fvlm_writer_write(writer, "\n", 1, error);
        free(text);
    }
    if (!status)
        status = fvlm_writer_commit(&writer, error);
    fvlm_writer_abort(&writer);
    return status;
}

/* Checkpoints by number. */

static char *checkpoint_path(const fvlm_trainer *trainer, long long step, const char *suffix)
{
    char name[64];
    snprintf(name, sizeof name, "checkpoint-%lld%s", step, suffix);
    return fvlm_path_join(trainer->options.output, name);
}

struct numbers {
    long long newest; /* -1: none */
    long long *all;
    size_t count, capacity;
    bool failed;
};

static void collect_number(void *user, long long number)
{
    struct numbers *numbers = user;
    if (number > numbers->newest)
        numbers->newest = number;
    if (numbers->count == numbers->capacity) {
        size_t capacity = numbers->capacity ? 2 * numbers->capacity : 64;
        long long *all = realloc(numbers->all, capacity * sizeof *all);
        if (!all) {
            numbers->failed = true;
            return;
        }
        numbers->all = all;
        numbers->capacity = capacity;
    }
    numbers->all[numbers->count++] = number;
}

static int compare_numbers(const void *a, const void *b)
{
    long long x = *(const long long *)a, y = *(const long long *)b;
    return x < y ? -1 : x > y;
}

static fvlm_status remove_old(fvlm_trainer *trainer, fvlm_error *error)
{
    struct numbers numbers = {.newest = -1};
    if (trainer->options.keep_checkpoints <= 0)
        return FVLM_OK;
    fvlm_status status = fvlm_folder_numbers(trainer->options.output, "checkpoint-", collect_number, &numbers, error);
    if (!status && numbers.failed)
        status = fvlm_fail_memory(error);
    if (!status && numbers.count > 0)
        qsort(numbers.all, numbers.count, sizeof *numbers.all, compare_numbers);
    size_t keep = (size_t)trainer->options.keep_checkpoints;
    for (size_t i = 0; i + keep < numbers.count && !status; i++) {
        char *path = checkpoint_path(trainer, numbers.all[i], "");
        status = path ? fvlm_folder_remove(path, error) : fvlm_fail_memory(error);
        free(path);
    }
    free(numbers.all);
    return status;
}

/* Written aside and renamed, so that a folder of this name is always whole. */
fvlm_status fvlm_trainer_save(fvlm_trainer *trainer, fvlm_error *error)
{
    char *path = checkpoint_path(trainer, (long long)trainer->step, "");
    char *aside = checkpoint_path(trainer, (long long)trainer->step, ".part");
    bool first = fvlm_trainer_rank(trainer) == 0;
    fvlm_status status = !path || !aside ? fvlm_fail_memory(error) : first ? fvlm_folder_remove(aside, error) : FVLM_OK;
    status = fvlm_trainer_agree(trainer, status, error);
    if (!status)
        status = fvlm_trainer_write(trainer, aside, true, error);
    if (!status && first)
        status = fvlm_folder_replace(aside, path, error);
    fvlm_error ignored;
    if (status && aside && first)
        fvlm_folder_remove(aside, &ignored);
    if (!status && first)
        status = remove_old(trainer, error);
    status = fvlm_trainer_agree(trainer, status, error);
    free(path);
    free(aside);
    return status;
}

fvlm_status fvlm_trainer_resume(fvlm_trainer *trainer, const char *checkpoint, fvlm_error *error)
{
    if (checkpoint)
        return fvlm_trainer_read(trainer, checkpoint, error);
    struct numbers numbers = {.newest = -1};
    if (!fvlm_folder_exists(trainer->options.output))
        return FVLM_OK;
    fvlm_status status = fvlm_folder_numbers(trainer->options.output, "checkpoint-", collect_number, &numbers, error);
    free(numbers.all);
    if (status || numbers.newest < 0)
        return status;
    char *path = checkpoint_path(trainer, numbers.newest, "");
    status = path ? fvlm_trainer_read(trainer, path, error) : fvlm_fail_memory(error);
    free(path);
    return status;
}

fvlm_status fvlm_trainer_finish(fvlm_trainer *trainer, fvlm_error *error)
{
    return fvlm_trainer_write(trainer, trainer->options.output, false, error);
}
