/* Options: one popt table a command, with the shared groups of this file included. A process runs one command, so the
 * values are process-wide. */
#ifndef FVLM_CLI_OPTIONS_H
#define FVLM_CLI_OPTIONS_H

#include <popt.h>
#include <stdbool.h>

#include "base/error.h"
#include "fastvlm/session.h"

/* What a command tells about itself. */
typedef struct cli_usage {
    const char *command;   /* "predict" */
    const char *arguments; /* after the name in the usage line: "--image FILE --prompt TEXT [OPTION...]" */
    const char *about;     /* one or two sentences */
    const char *example;   /* shell lines */
} cli_usage;

/* Values of the group "model": which model and how to compute. */
typedef struct cli_model_options {
    char *model;
    int threads, resolution, context;
    char *precision, *kv_type, *cpu_mask;
} cli_model_options;

/* Values of the group "generation". */
typedef struct cli_generation_options {
    double temperature; /* NaN: not given */
    double top_p, min_p, repetition_penalty, length_penalty;
    int top_k, beams, max_tokens;
    long long seed;
    char **stop; /* NULL-terminated, or NULL */
} cli_generation_options;

/* Values of the group "prompt". */
typedef struct cli_prompt_options {
    char *template_name, *system;
} cli_prompt_options;

/* What --model does, where a table does not include the whole group. */
#define CLI_MODEL_HELP                                                                                                 \
    "Folder of a checkpoint, a GGUF file, or a name that `fastvlm models` lists (default: nano, the built-in model)"

extern cli_model_options cli_model;
extern cli_generation_options cli_generation;
extern cli_prompt_options cli_prompt;
extern struct poptOption cli_model_table[], cli_generation_table[], cli_prompt_table[];

#define CLI_MODEL_GROUP                                                                                                \
    {                                                                                                                  \
        NULL, '\0', POPT_ARG_INCLUDE_TABLE, cli_model_table, 0, "Model and computation:", NULL                         \
    }
#define CLI_GENERATION_GROUP                                                                                           \
    {                                                                                                                  \
        NULL, '\0', POPT_ARG_INCLUDE_TABLE, cli_generation_table, 0, "Generation:", NULL                               \
    }
#define CLI_PROMPT_GROUP                                                                                               \
    {                                                                                                                  \
        NULL, '\0', POPT_ARG_INCLUDE_TABLE, cli_prompt_table, 0, "Prompt:", NULL                                       \
    }
#define CLI_HELP_OPTION                                                                                                \
    {                                                                                                                  \
        "help", 'h', POPT_ARG_NONE, NULL, CLI_HELP, "Show this help", NULL                                             \
    }
enum { CLI_HELP = 1000 };

/* Set the options of `table` from argv. True: go on; *arguments (may be NULL: then there must be none) is the
 * NULL-terminated list of what is not an option, never freed. False: *code is the exit code, help or the error are
 * printed. */
bool cli_parse(const cli_usage *usage, const struct poptOption *table, int argc, const char **argv,
               const char *const **arguments, int *code);

/* Print "command: ..." with where to find help; CLI_USAGE. */
int cli_usage_error(const cli_usage *usage, const char *format, ...) FVLM_PRINTF(2, 3);

/* How many texts a NULL-terminated list (or NULL) holds. */
size_t cli_count(char *const *list);

/* Check the group's values and give them as the library wants them. The temperature that counts when none is given is
 * `default_temperature`; the published tool's is CLI_TEMPERATURE. */
fvlm_status cli_generation_get(double default_temperature, fvlm_generation *generation, fvlm_error *error);
#define CLI_TEMPERATURE 0.2
/* Everything but the model's folder. */
fvlm_status cli_engine_options_get(fvlm_engine_options *options, fvlm_error *error);

#endif
