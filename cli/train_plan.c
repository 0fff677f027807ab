/* The plan of a run as a table, or as JSON. */
#include "train_plan.h"

#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "options.h"
#include "output.h"
#include "zoo.h"

#define MAX_COUNTS 32

static const char *const sizes[] = {"0.5b", "1.5b", "7b"};

/* "1,2,4" into counts; 0 where it is no such list. */
static int read_counts(const char *list, int counts[MAX_COUNTS])
{
    int found = 0;
    for (const char *at = list; found < MAX_COUNTS; at++) {
        char *end;
        long count = strtol(at, &end, 10);
        if (end == at || count < 1 || count > 65536)
            return 0;
        counts[found++] = (int)count;
        at = end;
        if (*at != ',')
            return *at ? 0 : found;
    }
    return 0;
}

static uint64_t total(const fvlm_train_plan *plan)
{
    const fvlm_train_memory *memory = &plan->memory;
    return memory->values + memory->gradients + memory->states + memory->slots + plan->activations + plan->tower;
}

static json_t *row_json(const char *model, int ranks, int zero, const fvlm_train_plan *plan)
{
    const fvlm_train_memory *memory = &plan->memory;
    return json_pack("{ss si si sI sI sI sI sI sI sI sI sI sI sI}", "model", model, "ranks", ranks, "zero", zero,
                     "parameters", (json_int_t)plan->parameters, "trained", (json_int_t)plan->trained, "weights",
                     (json_int_t)memory->values, "gradients", (json_int_t)memory->gradients, "states",
                     (json_int_t)memory->states, "slots", (json_int_t)memory->slots, "activations",
                     (json_int_t)plan->activations, "tower", (json_int_t)plan->tower, "total", (json_int_t)total(plan),
                     "mapped", (json_int_t)plan->mapped, "sent", (json_int_t)memory->sent);
}

static double gigabytes(uint64_t bytes)
{
    return (double)bytes * 1e-9;
}

static void print_row(const char *model, int ranks, int zero, const fvlm_train_plan *plan)
{
    const fvlm_train_memory *memory = &plan->memory;
    cli_print("%-8s %5d %4d %9.2f %9.2f %9.2f %9.2f %11.2f %7.2f %9.2f %10.2f\n", model, ranks, zero,
              gigabytes(memory->values), gigabytes(memory->gradients), gigabytes(memory->states),
              gigabytes(memory->slots), gigabytes(plan->activations), gigabytes(plan->tower), gigabytes(total(plan)),
              gigabytes(memory->sent));
}

static int print_plan(const char *model, const char *path, const fvlm_train_options *options, const int *counts,
                      int found, int zero, int tokens, int threads, bool as_json)
{
    json_t *rows = json_array();
    if (!as_json)
        cli_print(
            "GB a rank, %d a batch of %d tokens, %d batches a step\n%-8s %5s %4s %9s %9s %9s %9s %11s %7s %9s %10s\n",
            options->batch_size, tokens, options->accumulation, "model", "ranks", "ZeRO", "weights", "gradients",
            "states", "slots", "activations", "tower", "total", "sent/step");
    for (size_t i = 0; i < (model ? 1 : sizeof sizes / sizeof *sizes); i++) {
        const char *name = model ? model : sizes[i];
        for (int n = 0; n < found; n++) {
            for (int stage = zero ? zero : 1; stage <= (zero ? zero : 3); stage++) {
                fvlm_train_options planned = *options;
                fvlm_train_plan plan;
                fvlm_error error;
                planned.zero = stage;
                if (counts[n] == 1 && stage > 1)
                    continue; /* one process keeps everything */
                if (fvlm_train_plan_make(path ? path : name, &planned, counts[n], tokens, threads, &plan, &error)) {
                    json_decref(rows);
                    return cli_fail(&error);
                }
                if (as_json)
                    json_array_append_new(rows, row_json(name, counts[n], stage, &plan));
                else
                    print_row(model ? "this" : name, counts[n], stage, &plan);
            }
        }
    }
    if (as_json)
        return cli_print_json(json_pack("{so}", "plan", rows));
    json_decref(rows);
    return CLI_DONE;
}

int cli_train_plan(const char *model, const fvlm_train_options *options, const char *list, int zero, int tokens,
                   int threads, bool as_json)
{
    int counts[MAX_COUNTS], found = read_counts(list ? list : "1,2,4,8,16,32", counts);
    if (found == 0) {
        cli_error("--plan-ranks '%s' is not a list of numbers of ranks, as 1,2,4", list);
        return CLI_USAGE;
    }
    bool here = model != NULL; /* not one of the published sizes, of which nothing has to be */
    for (size_t i = 0; here && i < sizeof sizes / sizeof *sizes; i++)
        here = strcmp(model, sizes[i]) != 0;
    fvlm_error error;
    char *path = NULL;
    if (here && cli_model_path(model, &path, &error))
        return cli_fail(&error);
    int code = print_plan(model, path, options, counts, found, zero, tokens, threads, as_json);
    free(path);
    return code;
}
