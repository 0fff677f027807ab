/* fastvlm train: fine-tune a model on conversations about pictures.
 *
 * The flags of the published train_qwen.py work where they mean something here; `_` in an option's name is `-`. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "answer.h"
#include "base/cpu.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/system.h"
#include "command.h"
#include "event_file.h"
#include "fastvlm/train.h"
#include "options.h"
#include "output.h"
#include "published_flags.h"
#include "train_plan.h"

static char **data, **folders, *weights, *output, *tune, *batch_norm, *schedule, *dump_path, *labels_path, *resume_from;
static char *adapter_only, *unfreeze_tower, *freeze_backbone, *checkpointing, *group_modality, *group_length;
static char *lora, *bf16, *plan_ranks, *optimiser;
static char **eval_data, *report_to;
static double average, threshold;
static int eval_steps = 500, patience, packing;
static int lora_rank = 128;
static double lora_alpha = 256, rate = 2e-5, projector_rate, vision_rate, epochs = 1, weight_decay, beta1 = 0.9,
              beta2 = 0.999, eps = 1e-8;
static double max_norm = 1, warmup_ratio = 0.03;
static int batch_size = 1, accumulation = 1, save_steps = 500, keep, bad_samples, zero, plan;
static int decay_all, no_shuffle, resume, quiet, as_json;
static long long max_steps, warmup_steps, seed = 42;

static char *objective, *projector_and_tower, *freeze_projector, *deepspeed, *save_strategy, *eval_strategy;

#define PLANNED_TOKENS 1024 /* of a sample: a picture's 256 and some text */
#define HIDDEN POPT_ARGFLAG_DOC_HIDDEN
#define DEFAULT POPT_ARGFLAG_SHOW_DEFAULT

static const struct poptOption table[] = {
    {"data", 'd', POPT_ARG_ARGV, &data, 0, "Samples in LLaVA's format, JSON or JSON lines; may be repeated", "FILE"},
    {"data-path", '\0', POPT_ARG_ARGV | HIDDEN, &data, 0, NULL, NULL},
    {"data-weights", '\0', POPT_ARG_STRING, &weights, 0, "How often an epoch takes each file's samples, as 1,0.5,...",
     "LIST"},
    {"eval-data", '\0', POPT_ARG_ARGV, &eval_data, 0, "Samples to evaluate on during training; may be repeated",
     "FILE"},
    {"eval-steps", '\0', POPT_ARG_INT | DEFAULT, &eval_steps, 0, "Steps between evaluations", "N"},
    {"eval-strategy", '\0', POPT_ARG_STRING, &eval_strategy, 0,
     "When to evaluate: steps, epoch or no, which is at the end too (default: steps)", "NAME"},
    {"evaluation-strategy", '\0', POPT_ARG_STRING | HIDDEN, &eval_strategy, 0, NULL, NULL},
    {"early-stopping-patience", '\0', POPT_ARG_INT, &patience, 0,
     "End after so many evaluations in a row without a better loss (default: never)", "N"},
    {"early-stopping-threshold", '\0', POPT_ARG_DOUBLE, &threshold, 0, "By which it has to be better (default: 0)",
     "X"},
    {"packing", '\0', POPT_ARG_INT, &packing, 0,
     "Put samples together into units of so many tokens, which count as one for --batch-size", "N"},
    {"image-folder", '\0', POPT_ARG_ARGV, &folders, 0, "Where the pictures are; may be repeated", "DIR"},
    {"output", 'o', POPT_ARG_STRING, &output, 0, "Folder for checkpoints and the trained model", "DIR"},
    {"output-dir", '\0', POPT_ARG_STRING | HIDDEN, &output, 0, NULL, NULL},
    {"tune", '\0', POPT_ARG_STRING, &tune, 0, "Parts to train, of vision, projector and llm (default: projector,llm)",
     "LIST"},
    {"objective", '\0', POPT_ARG_STRING, &objective, 0,
     "What is learned: answers, or the samples' \"labels\" and \"marks\", which teach the vision tower alone, or both "
     "(default: answers)",
     "NAME"},
    {"tune-mm-mlp-adapter", '\0', POPT_ARG_STRING, &adapter_only, 0, "true: as --tune projector", "BOOL"},
    {"tune-mm-mlp-and-vision-tower", '\0', POPT_ARG_STRING | HIDDEN, &projector_and_tower, 0, NULL, NULL},
    {"freeze-mm-mlp-adapter", '\0', POPT_ARG_STRING | HIDDEN, &freeze_projector, 0, NULL, NULL},
    {"unfreeze-mm-vision-tower", '\0', POPT_ARG_STRING, &unfreeze_tower, 0, "true: the tower too", "BOOL"},
    {"freeze-backbone", '\0', POPT_ARG_STRING, &freeze_backbone, 0, "true: not the language model", "BOOL"},
    {"lora", '\0', POPT_ARG_STRING, &lora, 0, "true: train LoRA adapters of the language model, not its own weights",
     "BOOL"},
    {"lora-enable", '\0', POPT_ARG_STRING | HIDDEN, &lora, 0, NULL, NULL},
    {"lora-r", '\0', POPT_ARG_INT | DEFAULT, &lora_rank, 0, "Their rank", "N"},
    {"lora-alpha", '\0', POPT_ARG_DOUBLE | DEFAULT, &lora_alpha, 0, "They count alpha / rank times", "X"},
    {"batch-norm", '\0', POPT_ARG_STRING, &batch_norm, 0,
     "Statistics of a trained tower's batch norm: running or batch (default: running)", "NAME"},
    {"batch-size", 'b', POPT_ARG_INT | DEFAULT, &batch_size, 0, "Samples computed together", "N"},
    {"per-device-train-batch-size", '\0', POPT_ARG_INT | HIDDEN, &batch_size, 0, NULL, NULL},
    {"gradient-accumulation-steps", '\0', POPT_ARG_INT | DEFAULT, &accumulation, 0, "Such batches in a step", "N"},
    {"epochs", '\0', POPT_ARG_DOUBLE | DEFAULT, &epochs, 0, "Passes over the data", "X"},
    {"num-train-epochs", '\0', POPT_ARG_DOUBLE | HIDDEN, &epochs, 0, NULL, NULL},
    {"max-steps", '\0', POPT_ARG_LONGLONG, &max_steps, 0, "Steps to take, instead of epochs", "N"},
    {"lr", '\0', POPT_ARG_DOUBLE, &rate, 0, "Learning rate (default: 2e-5)", "X"},
    {"learning-rate", '\0', POPT_ARG_DOUBLE | HIDDEN, &rate, 0, NULL, NULL},
    {"mm-projector-lr", '\0', POPT_ARG_DOUBLE, &projector_rate, 0, "The projector's (default: as --lr)", "X"},
    {"mm-vision-tower-lr", '\0', POPT_ARG_DOUBLE, &vision_rate, 0, "The vision tower's (default: as --lr)", "X"},
    {"schedule", '\0', POPT_ARG_STRING, &schedule, 0,
     "The rate over time: cosine, linear or constant (default: cosine)", "NAME"},
    {"lr-scheduler-type", '\0', POPT_ARG_STRING | HIDDEN, &schedule, 0, NULL, NULL},
    {"warmup-ratio", '\0', POPT_ARG_DOUBLE, &warmup_ratio, 0, "Part of the steps in which it rises (default: 0.03)",
     "X"},
    {"warmup-steps", '\0', POPT_ARG_LONGLONG, &warmup_steps, 0, "The same as a number of steps", "N"},
    {"optim", '\0', POPT_ARG_STRING, &optimiser, 0,
     "adamw, or adamw_8bit: moments in 8 bits, by blocks (default: adamw)", "NAME"},
    {"ema-decay", '\0', POPT_ARG_DOUBLE, &average, 0,
     "Save a moving average of the weights with this decay, as 0.999 (default: the weights)", "X"},
    {"weight-decay", '\0', POPT_ARG_DOUBLE | DEFAULT, &weight_decay, 0, "AdamW's, of matrices and convolutions", "X"},
    {"decay-all", '\0', POPT_ARG_NONE, &decay_all, 0, "Decay norms, biases and scales too", NULL},
    {"adam-beta1", '\0', POPT_ARG_DOUBLE | DEFAULT, &beta1, 0, "AdamW's first moment", "X"},
    {"adam-beta2", '\0', POPT_ARG_DOUBLE | DEFAULT, &beta2, 0, "AdamW's second moment", "X"},
    {"adam-epsilon", '\0', POPT_ARG_DOUBLE, &eps, 0, "AdamW's epsilon (default: 1e-8)", "X"},
    {"max-grad-norm", '\0', POPT_ARG_DOUBLE | DEFAULT, &max_norm, 0, "Clip gradients to this norm; 0: not", "X"},
    {"gradient-checkpointing", '\0', POPT_ARG_STRING, &checkpointing, 0,
     "true: compute activations again instead of keeping them (default: false)", "BOOL"},
    {"bf16", '\0', POPT_ARG_STRING | HIDDEN, &bf16, 0, NULL, NULL},
    {"zero", '\0', POPT_ARG_INT, &zero, 0,
     "With mpirun, what ranks keep in shares: 1 the optimiser's state (default), 2 gradients too, 3 weights too",
     "STAGE"},
    {"deepspeed", '\0', POPT_ARG_STRING | HIDDEN, &deepspeed, 0, NULL, NULL},
    {"plan", '\0', POPT_ARG_NONE, &plan, 0,
     "Print memory and traffic of such a run, of the published sizes or of --model, and stop; no data is needed", NULL},
    {"plan-ranks", '\0', POPT_ARG_STRING, &plan_ranks, 0, "For so many ranks (default: 1,2,4,8,16,32)", "LIST"},
    {"seed", '\0', POPT_ARG_LONGLONG | DEFAULT, &seed, 0, "Of the order of samples", "N"},
    {"no-shuffle", '\0', POPT_ARG_NONE, &no_shuffle, 0, "Take samples in the order of the files", NULL},
    {"group-by-length", '\0', POPT_ARG_STRING, &group_length, 0, "true: batches of samples of about the same length",
     "BOOL"},
    {"group-by-modality-length", '\0', POPT_ARG_STRING, &group_modality, 0,
     "true: the same, and all with pictures or all without", "BOOL"},
    {"max-bad-samples", '\0', POPT_ARG_INT | DEFAULT, &bad_samples, 0, "Broken samples to skip before giving up", "N"},
    {"save-steps", '\0', POPT_ARG_INT | DEFAULT, &save_steps, 0, "Steps between checkpoints; 0: none", "N"},
    {"save-strategy", '\0', POPT_ARG_STRING, &save_strategy, 0,
     "When checkpoints are written: steps, epoch or no (default: steps)", "NAME"},
    {"save-total-limit", '\0', POPT_ARG_INT | DEFAULT, &keep, 0, "Checkpoints to keep; 0: all", "N"},
    {"report-to", '\0', POPT_ARG_STRING, &report_to, 0,
     "tensorboard: event files in OUTPUT/runs; none (default: tensorboard)", "NAME"},
    {"resume", '\0', POPT_ARG_NONE, &resume, 0, "Go on from the newest checkpoint in --output, if there is one", NULL},
    {"resume-from", '\0', POPT_ARG_STRING, &resume_from, 0, "Go on from this checkpoint", "DIR"},
    {"dump-grads", '\0', POPT_ARG_STRING, &dump_path, 0, "Write the gradients of the first batch's mean loss and stop",
     "FILE"},
    {"dump-labels", '\0', POPT_ARG_STRING, &labels_path, 0,
     "Write the first batch's tokens and labels, a JSON object for each sample, and stop", "FILE"},
    {"json", '\0', POPT_ARG_NONE, &as_json, 0, "Print one JSON object at the end", NULL},
    {"quiet", 'q', POPT_ARG_NONE, &quiet, 0, "No progress", NULL},
    {"model-name-or-path", '\0', POPT_ARG_STRING | HIDDEN, &cli_model.model, 0, NULL, NULL},
    {"model-max-length", '\0', POPT_ARG_INT | HIDDEN, &cli_model.context, 0, NULL, NULL},
    {"version", '\0', POPT_ARG_STRING | HIDDEN, &cli_prompt.template_name, 0, NULL, NULL},
    {NULL, '\0', POPT_ARG_INCLUDE_TABLE, cli_published_table, 0, NULL, NULL},
    CLI_MODEL_GROUP,
    CLI_PROMPT_GROUP,
    CLI_HELP_OPTION,
    POPT_TABLEEND};

static const cli_usage usage = {
    .command = "train",
    .arguments = "--data FILE --output DIR [OPTION...]",
    .about = "fine-tune a model on conversations about pictures",
    .example = "  fastvlm train --model ./llava-fastvithd_0.5b_stage3 --data train.json --image-folder pictures \\\n"
               "      --tune projector,llm --batch-size 1 --gradient-accumulation-steps 16 --output tuned"};

/* Options. */

/* `--learning_rate` as `--learning-rate`: the published script's spelling. In place; the process owns argv. */
static void take_underscores(int argc, const char **argv)
{
    for (int i = 1; i < argc; i++) {
        char *name = (char *)(uintptr_t)argv[i];
        for (char *c = name; strncmp(name, "--", 2) == 0 && *c && *c != '='; c++)
            if (*c == '_')
                *c = '-';
    }
}

/* False with the error printed when it is neither true nor false. */
static bool read_bool(const char *option, const char *text, bool *value)
{
    static const char *const words[] = {"false", "true", "0", "1"};
    for (int i = 0; text && i < 4; i++)
        if (strcasecmp(text, words[i]) == 0) {
            *value = i % 2;
            return true;
        }
    if (text)
        cli_usage_error(&usage, "--%s is '%s'; it has to be true or false", option, text);
    return !text;
}

static bool read_parts(fvlm_train_options *train)
{
    bool only_projector = false, vision = false, backbone = false, both = false, no_projector = false;
    if (!read_bool("tune-mm-mlp-adapter", adapter_only, &only_projector) ||
        !read_bool("unfreeze-mm-vision-tower", unfreeze_tower, &vision) ||
        !read_bool("tune-mm-mlp-and-vision-tower", projector_and_tower, &both) ||
        !read_bool("freeze-mm-mlp-adapter", freeze_projector, &no_projector) ||
        !read_bool("freeze-backbone", freeze_backbone, &backbone))
        return false;
    bool adapters = false;
    if (!read_bool("lora", lora, &adapters))
        return false;
    train->lora_rank = adapters ? lora_rank : 0;
    train->lora_alpha = lora_alpha;
    if (adapters && lora_rank < 1) {
        cli_usage_error(&usage, "--lora-r is %d; it has to be at least 1", lora_rank);
        return false;
    }
    bool wordless = train->objective == FVLM_LEARN_LABELS;
    train->tune_vision = vision || both || train->objective != FVLM_LEARN_ANSWERS;
    train->tune_projector = !wordless && !no_projector;
    train->tune_llm = !wordless && !only_projector && !both && !backbone;
    if (!tune)
        return true;
    if (adapter_only || unfreeze_tower || freeze_backbone || projector_and_tower || freeze_projector) {
        cli_usage_error(&usage, "--tune says it all: leave the published script's flags for it out");
        return false;
    }
    train->tune_vision = train->tune_projector = train->tune_llm = false;
    for (const char *part = tune, *end; part; part = *end ? end + 1 : NULL) {
        end = part + strcspn(part, ",");
        size_t length = (size_t)(end - part);
        if (length == 6 && strncmp(part, "vision", length) == 0)
            train->tune_vision = true;
        else if (length == 9 && strncmp(part, "projector", length) == 0)
            train->tune_projector = true;
        else if (length == 3 && strncmp(part, "llm", length) == 0)
            train->tune_llm = true;
        else {
            cli_usage_error(&usage, "--tune: '%.*s' is none of vision, projector, llm", (int)length, part);
            return false;
        }
    }
    return true;
}

/* --data-weights as numbers, for free(); NULL without. */
static bool read_weights(size_t count, double **values)
{
    if (!weights)
        return true;
    double *list = *values = fvlm_calloc(count, sizeof *list);
    const char *at = weights;
    for (size_t i = 0; list && i < count; i++) {
        char *end;
        list[i] = strtod(at, &end);
        if (end == at || *end != (i + 1 < count ? ',' : '\0')) {
            cli_usage_error(&usage, "--data-weights '%s' is not a list of %zu numbers, one for each --data", weights,
                            count);
            return false;
        }
        at = end + 1;
    }
    return list != NULL;
}

/* A strategy of transformers' trainer, as the steps between two: 0 never, -1 an epoch. */
static bool read_strategy(const char *option, const char *name, int *steps)
{
    static const char *const names[] = {"no", "epoch", "steps"};
    for (int i = 0; i < 3; i++)
        if (strcmp(name ? name : "steps", names[i]) == 0) {
            *steps = i < 2 ? -i : *steps;
            return true;
        }
    cli_usage_error(&usage, "--%s '%s' is none of steps, epoch, no", option, name);
    return false;
}

static bool read_schedule(fvlm_schedule *value)
{
    static const struct {
        const char *name;
        fvlm_schedule value;
    } names[] = {{"cosine", FVLM_SCHEDULE_COSINE},
                 {"linear", FVLM_SCHEDULE_LINEAR},
                 {"constant", FVLM_SCHEDULE_CONSTANT},
                 {"constant_with_warmup", FVLM_SCHEDULE_CONSTANT}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(schedule ? schedule : "cosine", names[i].name) == 0) {
            *value = names[i].value;
            return true;
        }
    cli_usage_error(&usage, "--schedule '%s' is none of cosine, linear, constant", schedule);
    return false;
}

/* The published scripts' names for it too. */
static bool read_optimiser(bool *eight_bits)
{
    static const char *const names[] = {"adamw",      "adamw_torch",   "adamw_hf", "adamw_torch_fused",
                                        "adamw_8bit", "adamw_bnb_8bit"};
    for (int i = 0; i < 6; i++)
        if (strcmp(optimiser ? optimiser : "adamw", names[i]) == 0) {
            *eight_bits = i >= 4;
            return true;
        }
    cli_usage_error(&usage, "--optim '%s' is neither adamw nor adamw_8bit", optimiser);
    return false;
}

/* From any rank: nobody else knows. */
static void print_notice(void *user, const char *text)
{
    (void)user;
    fprintf(stderr, "fastvlm: skipped: %s\n", text);
}

static bool wants_to_stop(void *user)
{
    (void)user;
    return cli_interrupted();
}

static bool read_options(fvlm_ranks *ranks, fvlm_train_options *train, double **list)
{
    fvlm_train_defaults(train);
    if (!cli_published_check(&usage) || (deepspeed && !cli_deepspeed_stage(&usage, deepspeed, &zero)))
        return false;
    train->ranks = ranks;
    train->zero = zero ? zero : 1;
    train->stop = wants_to_stop;
    train->data = (const char *const *)data;
    train->data_count = cli_count(data);
    train->folders = (const char *const *)folders;
    train->folder_count = cli_count(folders);
    train->output = output;
    train->template_name = cli_prompt.template_name;
    train->system = cli_prompt.system;
    train->batch_size = batch_size;
    train->accumulation = accumulation;
    train->epochs = epochs;
    train->max_steps = max_steps;
    train->rate = rate;
    train->projector_rate = projector_rate;
    train->vision_rate = vision_rate;
    train->weight_decay = weight_decay;
    train->decay_all = decay_all;
    train->average = average;
    train->eval_data = (const char *const *)eval_data;
    train->eval_count = cli_count(eval_data);
    train->patience = patience;
    train->threshold = threshold;
    train->packing = packing;
    train->beta1 = beta1;
    train->beta2 = beta2;
    train->eps = eps;
    train->max_gradient_norm = max_norm;
    train->warmup_ratio = warmup_ratio;
    train->warmup_steps = warmup_steps;
    train->seed = (unsigned long long)seed;
    train->shuffle = !no_shuffle;
    train->max_bad_samples = bad_samples;
    train->keep_checkpoints = keep;
    train->notice = print_notice;
    if (batch_norm && strcmp(batch_norm, "running") != 0 && strcmp(batch_norm, "batch") != 0) {
        cli_usage_error(&usage, "--batch-norm '%s' is neither running nor batch", batch_norm);
        return false;
    }
    static const char *const objectives[] = {"answers", "labels", "both"}; /* of fvlm_objective */
    int chosen = 0;
    while (objective && chosen < 3 && strcmp(objective, objectives[chosen]) != 0)
        chosen++;
    if (chosen == 3) {
        cli_usage_error(&usage, "--objective '%s' is none of answers, labels and both", objective);
        return false;
    }
    train->objective = (fvlm_objective)chosen;
    bool halves = false;
    if (!read_bool("bf16", bf16, &halves))
        return false;
    static char name[] = "bf16";
    if (halves && !cli_model.precision)
        cli_model.precision = name;
    train->batch_statistics = batch_norm && strcmp(batch_norm, "batch") == 0;
    bool fine = read_bool("gradient-checkpointing", checkpointing, &train->gradient_checkpointing) &&
                read_bool("group-by-length", group_length, &train->group_by_length) &&
                read_bool("group-by-modality-length", group_modality, &train->group_by_modality) && read_parts(train) &&
                read_schedule(&train->schedule) && read_optimiser(&train->eight_bits) &&
                read_strategy("save-strategy", save_strategy, &save_steps) &&
                read_strategy("eval-strategy", eval_strategy, &eval_steps) && read_weights(train->data_count, list);
    train->weights = *list;
    return fine;
}

/* The run. */

static json_t *progress_json(const fvlm_train_progress *progress, double seconds)
{
    json_t *object = json_pack("{sI sI sf sf sf sf sI sf si}", "step", (json_int_t)progress->step, "steps",
                               (json_int_t)progress->steps, "epoch", progress->epoch, "loss", progress->loss,
                               "grad_norm", progress->gradient_norm, "learning_rate", progress->rate, "tokens",
                               (json_int_t)progress->tokens, "seconds", seconds, "skipped", progress->skipped);
    if (isfinite(progress->eval_loss))
        json_object_set_new(object, "eval_loss", json_real(progress->eval_loss));
    return object;
}

/* Say what this rank keeps. */
static void print_memory(const fvlm_trainer *trainer, fvlm_ranks *ranks)
{
    fvlm_train_memory memory;
    fvlm_trainer_memory(trainer, &memory);
    if (!quiet)
        cli_error(
            "%d rank%s, each with %.1f MB of weights in training, %.1f MB of gradients, %.1f MB of the optimiser's "
            "state, %.1f MB for what is in use",
            fvlm_ranks_count(ranks), fvlm_ranks_count(ranks) > 1 ? "s" : "", (double)memory.values * 1e-6,
            (double)memory.gradients * 1e-6, (double)memory.states * 1e-6, (double)memory.slots * 1e-6);
}

/* What --json adds to the last step. */
static void add_memory(const fvlm_trainer *trainer, fvlm_ranks *ranks, json_t *object)
{
    fvlm_train_memory memory;
    fvlm_trainer_memory(trainer, &memory);
    json_object_set_new(object, "ranks", json_integer(fvlm_ranks_count(ranks)));
    json_object_set_new(object, "memory",
                        json_pack("{sI sI sI sI sI sI}", "weights", (json_int_t)memory.values, "gradients",
                                  (json_int_t)memory.gradients, "states", (json_int_t)memory.states, "slots",
                                  (json_int_t)memory.slots, "sent", (json_int_t)memory.sent, "peak",
                                  (json_int_t)fvlm_peak_memory()));
}

/* Where the first rank writes what happens; the other ranks' are NULL. */
struct records {
    FILE *log;
    cli_events *events; /* NULL: not asked for */
};

/* Append a line to output/log.jsonl. */
static fvlm_status write_log(FILE *log, json_t *object, fvlm_error *error)
{
    char *text = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(object);
    if (!text)
        return fvlm_fail_memory(error);
    bool fine = fputs(text, log) >= 0 && fputc('\n', log) != EOF && fflush(log) == 0;
    free(text);
    return fine ? FVLM_OK : fvlm_fail(error, FVLM_ERROR_IO, "cannot write %s/log.jsonl", output);
}

static fvlm_status record_step(const struct records *records, const fvlm_train_progress *p, double seconds,
                               fvlm_error *error)
{
    if (!records->log)
        return FVLM_OK;
    const cli_scalar scalars[] = {{"train/loss", p->loss},
                                  {"train/grad_norm", p->gradient_norm},
                                  {"train/learning_rate", p->rate},
                                  {"train/epoch", p->epoch},
                                  {"train/tokens_per_second", seconds > 0 ? (double)p->tokens / seconds : 0}};
    fvlm_status status = write_log(records->log, progress_json(p, seconds), error);
    if (status == FVLM_OK && records->events)
        status = cli_events_add(records->events, p->step, scalars, sizeof scalars / sizeof *scalars, error);
    return status;
}

static fvlm_status record_evaluation(const struct records *records, const fvlm_train_progress *p, double seconds,
                                     fvlm_error *error)
{
    if (!records->log)
        return FVLM_OK;
    const cli_scalar scalar = {"eval/loss", p->eval_loss};
    fvlm_status status = write_log(
        records->log,
        json_pack("{sI sf sf}", "step", (json_int_t)p->step, "eval_loss", p->eval_loss, "seconds", seconds), error);
    return status == FVLM_OK && records->events ? cli_events_add(records->events, p->step, &scalar, 1, error) : status;
}

static void close_records(struct records *records)
{
    if (records->log)
        fclose(records->log);
    cli_events_close(&records->events);
}

static fvlm_status open_records(long long first, struct records *records, fvlm_error *error)
{
    *records = (struct records){0};
    char *path = fvlm_path_join(output, "log.jsonl"), *runs = fvlm_path_join(output, "runs");
    fvlm_status status = path && runs ? fvlm_folder_create(output, error) : fvlm_fail_memory(error);
    if (status == FVLM_OK && !(records->log = fopen(path, "a")))
        status = fvlm_fail(error, FVLM_ERROR_IO, "cannot write %s", path);
    if (status == FVLM_OK && (!report_to || strcmp(report_to, "none") != 0))
        status = cli_events_open(runs, first, &records->events, error);
    if (status)
        close_records(records);
    free(path);
    free(runs);
    return status;
}

static void draw(const fvlm_train_progress *p, double seconds, double remaining)
{
    if (quiet)
        return;
    cli_error("step %lld of %lld, epoch %.2f: loss %.4f, gradient norm %.3g, rate %.3g, %.0f tokens/s, %d:%02d left",
              p->step, p->steps, p->epoch, p->loss, p->gradient_norm, p->rate,
              seconds > 0 ? (double)p->tokens / seconds : 0, (int)(remaining / 60), (int)remaining % 60);
}

/* Whether something is due after this step that is done every `steps` steps, or with -1 whenever an epoch ends. */
static bool is_due(int steps, const fvlm_train_progress *progress, double epoch_before)
{
    if (steps < 0)
        return floor(progress->epoch) > floor(epoch_before);
    return steps > 0 && progress->step % steps == 0;
}

static fvlm_status evaluate(fvlm_trainer *trainer, fvlm_ranks *ranks, const struct records *records,
                            fvlm_train_progress *progress, fvlm_error *error)
{
    double start_ms = fvlm_clock_ms();
    fvlm_status status = fvlm_trainer_evaluate(trainer, progress, error);
    if (status)
        return status;
    status = record_evaluation(records, progress, (fvlm_clock_ms() - start_ms) / 1000, error);
    if (!quiet)
        cli_error("step %lld: evaluation's loss %.4f, perplexity %.3f%s", progress->step, progress->eval_loss,
                  exp(progress->eval_loss), progress->early ? "; no better for a while: this is the end" : "");
    return fvlm_ranks_agree(ranks, status, error);
}

/* All steps, or up to an interrupt, which leaves a checkpoint. */
static fvlm_status run(fvlm_trainer *trainer, fvlm_ranks *ranks, const struct records *records,
                       fvlm_train_progress *progress, fvlm_error *error)
{
    fvlm_trainer_progress(trainer, progress);
    long long first = progress->step;
    double start_ms = fvlm_clock_ms(), drawn_ms = 0;
    fvlm_status status = FVLM_OK;
    while (status == FVLM_OK && progress->step < progress->steps && !progress->stopped && !progress->early) {
        double step_ms = fvlm_clock_ms(), epoch = progress->epoch;
        status = fvlm_trainer_step(trainer, progress, error);
        if (status)
            break;
        double now = fvlm_clock_ms(), a_step = (now - start_ms) / 1000 / (double)(progress->step - first);
        status = record_step(records, progress, (now - step_ms) / 1000, error);
        status = fvlm_ranks_agree(ranks, status, error);
        if (now - drawn_ms >= 1000 || progress->step == progress->steps) {
            draw(progress, (now - step_ms) / 1000, a_step * (double)(progress->steps - progress->step));
            drawn_ms = now;
        }
        bool last = progress->step == progress->steps;
        if (status == FVLM_OK && eval_data && (last || is_due(eval_steps, progress, epoch)))
            status = evaluate(trainer, ranks, records, progress, error);
        bool due = is_due(save_steps, progress, epoch);
        if (status == FVLM_OK && (due || (progress->stopped && !last)))
            status = fvlm_trainer_save(trainer, error);
    }
    return status;
}

static fvlm_status train_model(fvlm_trainer *trainer, fvlm_ranks *ranks, fvlm_train_progress *progress,
                               fvlm_error *error)
{
    struct records records = {0};
    fvlm_trainer_progress(trainer, progress);
    fvlm_status status = fvlm_ranks_index(ranks) == 0 ? open_records(progress->step + 1, &records, error) : FVLM_OK;
    status = fvlm_ranks_agree(ranks, status, error);
    cli_interrupt_catch();
    cli_terminate_catch();
    cli_warning_catch();
    if (status == FVLM_OK)
        status = run(trainer, ranks, &records, progress, error);
    if (status == FVLM_OK && (progress->step == progress->steps || progress->early))
        status = fvlm_trainer_finish(trainer, error);
    close_records(&records);
    return status;
}

/* Everything between the options and the result. */
static fvlm_status run_command(fvlm_ranks *ranks, const fvlm_train_options *train, fvlm_train_progress *progress,
                               double *loss, json_t *memory, fvlm_error *error)
{
    fvlm_engine *engine = NULL;
    fvlm_trainer *trainer = NULL;
    if (cli_model.threads == 0 && fvlm_ranks_local(ranks) > 1) {
        int threads = fvlm_cpu_count() / fvlm_ranks_local(ranks);
        cli_model.threads = threads > 1 ? threads : 1;
    }
    fvlm_status status = cli_engine_open(&engine, error);
    if (status == FVLM_OK)
        status = fvlm_trainer_open(engine, train, &trainer, error);
    status = fvlm_ranks_agree(ranks, status, error);
    if (status == FVLM_OK && (resume_from || (resume && output)))
        status = fvlm_trainer_resume(trainer, resume_from, error);
    if (status == FVLM_OK && !labels_path && !dump_path)
        print_memory(trainer, ranks);
    if (status == FVLM_OK)
        status = labels_path ? fvlm_trainer_dump_labels(trainer, labels_path, error)
                 : dump_path ? fvlm_trainer_dump_gradients(trainer, dump_path, loss, error)
                             : train_model(trainer, ranks, progress, error);
    if (status == FVLM_OK)
        add_memory(trainer, ranks, memory);
    fvlm_trainer_close(&trainer);
    fvlm_engine_close(&engine);
    return status;
}

static int train_command(int argc, const char **argv, fvlm_ranks *ranks)
{
    int code;
    if (!cli_parse(&usage, table, argc, argv, NULL, &code))
        return code;
    if (!data && !plan)
        return cli_usage_error(&usage, "--data is missing");
    bool dump = dump_path || labels_path;
    if (!output && !dump && !plan)
        return cli_usage_error(&usage, "--output is missing");

    fvlm_error error;
    fvlm_train_options train;
    fvlm_train_progress progress = {0};
    if (report_to && strcmp(report_to, "none") != 0 && strcmp(report_to, "tensorboard") != 0)
        return cli_usage_error(&usage, "--report-to '%s' is neither tensorboard nor none", report_to);
    double *list = NULL, start_ms = fvlm_clock_ms(), loss = 0;
    if (!read_options(ranks, &train, &list)) {
        free(list);
        return CLI_USAGE;
    }
    if (plan) {
        free(list);
        return cli_train_plan(cli_model.model, &train, plan_ranks, zero,
                              cli_model.context > 0 ? cli_model.context : PLANNED_TOKENS, cli_model.threads, as_json);
    }
    json_t *result = json_object();
    fvlm_status status = run_command(ranks, &train, &progress, &loss, result, &error);
    free(list);
    if (status) {
        json_decref(result);
        return cli_fail(&error);
    }
    if (dump_path)
        json_object_set_new(result, "loss", json_real(loss));
    else
        json_object_update_new(result, progress_json(&progress, (fvlm_clock_ms() - start_ms) / 1000));
    code = CLI_DONE;
    if (as_json && !labels_path)
        code = cli_print_json(result);
    else
        json_decref(result);
    if (dump || progress.step == progress.steps || progress.early)
        return code;
    cli_error("stopped after step %lld of %lld; --resume goes on", progress.step, progress.steps);
    return CLI_FAILED;
}

int cmd_train(int argc, const char **argv)
{
    fvlm_error error;
    fvlm_ranks *ranks = NULL;
    take_underscores(argc, argv);
    cli_published_prepare();
    if (fvlm_ranks_open(&ranks, &error))
        return cli_fail(&error);
    if (fvlm_ranks_index(ranks) > 0)
        cli_silence();
    int code = train_command(argc, argv, ranks);
    fvlm_ranks_close(&ranks);
    return code;
}
