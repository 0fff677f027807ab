/* The shared option groups, and reading a command's options with popt. */
#include "options.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "command.h"
#include "fastvlm/text.h"
#include "output.h"

cli_model_options cli_model;
/* The published tool's defaults: no top-p, 256 new tokens; the temperature's is the command's business. */
cli_generation_options cli_generation = {
    .temperature = NAN, .top_p = 1, .repetition_penalty = 1, .length_penalty = 1, .beams = 1, .max_tokens = 256};
cli_prompt_options cli_prompt;

#define HIDDEN POPT_ARGFLAG_DOC_HIDDEN
#define DEFAULT POPT_ARGFLAG_SHOW_DEFAULT

/* Where the published Python tool has another name for an option, that name works too, but is not shown. */
struct poptOption cli_model_table[] = {
    {"model", 'm', POPT_ARG_STRING, &cli_model.model, 0, CLI_MODEL_HELP, "MODEL"},
    {"model-path", '\0', POPT_ARG_STRING | HIDDEN, &cli_model.model, 0, NULL, NULL},
    {"threads", 't', POPT_ARG_INT, &cli_model.threads, 0, "Threads to use (default: one for each processor)", "N"},
    {"precision", '\0', POPT_ARG_STRING, &cli_model.precision, 0,
     "Arithmetic of the vision tower: fp32, bf16, int8, or auto, the fastest (default: fp32, as trained)", "NAME"},
    {"resolution", '\0', POPT_ARG_INT, &cli_model.resolution, 0,
     "Side of the vision input in pixels, a multiple of 64 (default: the checkpoint's)", "N"},
    {"ctx", '\0', POPT_ARG_INT, &cli_model.context, 0,
     "Positions of the context (default: the checkpoint's, at most 8192)", "N"},
    {"kv-type", '\0', POPT_ARG_STRING, &cli_model.kv_type, 0,
     "Numbers of the KV cache: fp32, bf16, int8, or auto (default): bf16 where weights are no fp32 and --precision "
     "rounds, else fp32",
     "NAME"},
    {"cpu-mask", '\0', POPT_ARG_STRING, &cli_model.cpu_mask, 0,
     "Highest instruction set to use: none, avx2, avx512, avx512-vnni, avx512-bf16, amx, neon, dotprod, i8mm, bf16 or "
     "all",
     "LEVEL"},
    POPT_TABLEEND};

struct poptOption cli_generation_table[] = {
    {"temperature", '\0', POPT_ARG_DOUBLE, &cli_generation.temperature, 0,
     "Randomness; 0 is greedy (default: 0.2; 0 for eval and with --beams)", "X"},
    {"top-p", '\0', POPT_ARG_DOUBLE | DEFAULT, &cli_generation.top_p, 0, "Sample from the top tokens that sum to X",
     "X"},
    {"top_p", '\0', POPT_ARG_DOUBLE | HIDDEN, &cli_generation.top_p, 0, NULL, NULL},
    {"top-k", '\0', POPT_ARG_INT | DEFAULT, &cli_generation.top_k, 0, "Sample from the N top tokens; 0 is off", "N"},
    {"top_k", '\0', POPT_ARG_INT | HIDDEN, &cli_generation.top_k, 0, NULL, NULL},
    {"min-p", '\0', POPT_ARG_DOUBLE | DEFAULT, &cli_generation.min_p, 0,
     "Leave out tokens less likely than X times the top one", "X"},
    {"min_p", '\0', POPT_ARG_DOUBLE | HIDDEN, &cli_generation.min_p, 0, NULL, NULL},
    {"repetition-penalty", '\0', POPT_ARG_DOUBLE | DEFAULT, &cli_generation.repetition_penalty, 0,
     "Above 1: avoid what was said already", "X"},
    {"repetition_penalty", '\0', POPT_ARG_DOUBLE | HIDDEN, &cli_generation.repetition_penalty, 0, NULL, NULL},
    {"beams", '\0', POPT_ARG_INT | DEFAULT, &cli_generation.beams, 0, "Beam search over N beams (not sampled)", "N"},
    {"num-beams", '\0', POPT_ARG_INT | HIDDEN, &cli_generation.beams, 0, NULL, NULL},
    {"num_beams", '\0', POPT_ARG_INT | HIDDEN, &cli_generation.beams, 0, NULL, NULL},
    {"length-penalty", '\0', POPT_ARG_DOUBLE | DEFAULT, &cli_generation.length_penalty, 0,
     "Exponent of the length in beam scores", "X"},
    {"length_penalty", '\0', POPT_ARG_DOUBLE | HIDDEN, &cli_generation.length_penalty, 0, NULL, NULL},
    {"max-tokens", 'n', POPT_ARG_INT | DEFAULT, &cli_generation.max_tokens, 0, "Longest answer", "N"},
    {"max-new-tokens", '\0', POPT_ARG_INT | HIDDEN, &cli_generation.max_tokens, 0, NULL, NULL},
    {"max_new_tokens", '\0', POPT_ARG_INT | HIDDEN, &cli_generation.max_tokens, 0, NULL, NULL},
    {"seed", '\0', POPT_ARG_LONGLONG | DEFAULT, &cli_generation.seed, 0, "The same seed gives the same answer", "N"},
    {"stop", '\0', POPT_ARG_ARGV, &cli_generation.stop, 0, "End the answer before this text; may be repeated", "TEXT"},
    POPT_TABLEEND};

struct poptOption cli_prompt_table[] = {
    {"system", '\0', POPT_ARG_STRING, &cli_prompt.system, 0, "System text instead of the template's", "TEXT"},
    {"template", '\0', POPT_ARG_STRING, &cli_prompt.template_name, 0,
     "Chat template: a name (`fastvlm template --list`) or a file (default: qwen_2)", "NAME|FILE"},
    {"conv-mode", '\0', POPT_ARG_STRING | HIDDEN, &cli_prompt.template_name, 0, NULL, NULL},
    POPT_TABLEEND};

static void print_help(const cli_usage *usage, poptContext context)
{
    cli_print("fastvlm %s: %s\n\n", usage->command, usage->about);
    poptSetOtherOptionHelp(context, usage->arguments);
    poptPrintHelp(context, stdout, 0);
    cli_print("\nExample:\n%s\n", usage->example);
}

static char **kept_arguments; /* what is not an option; popt's own list goes with its context */

static bool keep_arguments(const char **rest)
{
    size_t count = cli_count((char *const *)rest);
    kept_arguments = fvlm_calloc(count + 1, sizeof *kept_arguments);
    for (size_t i = 0; kept_arguments && i < count; i++)
        if (!(kept_arguments[i] = fvlm_strdup(rest[i])))
            return false;
    return kept_arguments != NULL;
}

/* For a value that popt found fault with, the option it was given to; empty when `bad` is an option itself. */
static const char *option_before(int argc, const char **argv, const char *bad)
{
    for (int i = 2; i < argc && *bad != '-'; i++)
        if (strcmp(argv[i], bad) == 0 && argv[i - 1][0] == '-')
            return argv[i - 1];
    return "";
}

bool cli_parse(const cli_usage *usage, const struct poptOption *table, int argc, const char **argv,
               const char *const **arguments, int *code)
{
    /* popt prints argv[0] in its usage line. */
    char name[64];
    snprintf(name, sizeof name, "fastvlm %s", usage->command);
    const char *given = argv[0];
    argv[0] = name;
    poptContext context = poptGetContext(name, argc, argv, table, 0);
    int option = poptGetNextOpt(context);
    const char **rest = option == -1 ? poptGetArgs(context) : NULL;
    bool go_on = false;
    *code = CLI_USAGE;
    if (option == CLI_HELP) {
        print_help(usage, context);
        *code = CLI_DONE;
    } else if (option != -1) {
        const char *bad = poptBadOption(context, POPT_BADOPTION_NOALIAS);
        cli_usage_error(usage, "%s%s%s: %s", option_before(argc, argv, bad), *bad == '-' ? "" : " ", bad,
                        poptStrerror(option));
    } else if (rest && !arguments) {
        cli_usage_error(usage, "'%s' is not an option", rest[0]);
    } else if (arguments && !keep_arguments(rest)) {
        cli_error("out of memory");
        *code = CLI_FAILED;
    } else {
        go_on = true;
    }
    if (go_on && arguments)
        *arguments = (const char *const *)kept_arguments;
    poptFreeContext(context);
    argv[0] = given;
    return go_on;
}

int cli_usage_error(const cli_usage *usage, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    cli_error("%s: %s; see `fastvlm %s --help`", usage->command, text, usage->command);
    return CLI_USAGE;
}

size_t cli_count(char *const *list)
{
    size_t count = 0;
    while (list && list[count])
        count++;
    return count;
}

/* False for NaN as well. */
static bool within(double value, double low, double high)
{
    return value >= low && value <= high;
}

/* Put the texts that end an answer under the template behind those of --stop. */
static fvlm_status add_template_stops(fvlm_error *error)
{
    char **of_template;
    size_t given = cli_count(cli_generation.stop), more;
    fvlm_status status = fvlm_template_stops(cli_prompt.template_name, &of_template, &more, error);
    if (status)
        return status;
    char **joined = more ? realloc(cli_generation.stop, (given + more + 1) * sizeof *joined) : NULL;
    if (!joined) {
        fvlm_free(of_template);
        return more ? fvlm_fail_memory(error) : FVLM_OK;
    }
    memcpy(joined + given, of_template, more * sizeof *joined);
    joined[given + more] = NULL;
    cli_generation.stop = joined;
    return FVLM_OK;
}

fvlm_status cli_generation_get(double default_temperature, fvlm_generation *generation, fvlm_error *error)
{
    const cli_generation_options *given = &cli_generation;
    double temperature = given->temperature;
    if (isnan(temperature))
        temperature = given->beams > 1 ? 0 : default_temperature;
    const struct {
        const char *name;
        double value, low, high;
    } rules[] = {
        {"--temperature", temperature, 0, 100},
        {"--top-p", given->top_p, 0, 1},
        {"--top-k", given->top_k, 0, 1e6},
        {"--min-p", given->min_p, 0, 1},
        {"--repetition-penalty", given->repetition_penalty, 0.01, 100},
        {"--beams", given->beams, 1, 64},
        {"--length-penalty", given->length_penalty, -10, 10},
        {"--max-tokens", given->max_tokens, 1, 1e6},
        {"--seed", (double)given->seed, 0, 1e19},
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (!within(rules[i].value, rules[i].low, rules[i].high))
            return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "%s is %g; it has to be from %g to %g", rules[i].name,
                             rules[i].value, rules[i].low, rules[i].high);
    for (size_t i = 0; i < cli_count(given->stop); i++)
        if (given->stop[i][0] == '\0')
            return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "--stop needs a text that is not empty");
    fvlm_status status = add_template_stops(error);
    if (status)
        return status;
    *generation = (fvlm_generation){
        .sampling = {.temperature = (float)temperature,
                     .top_p = (float)given->top_p,
                     .top_k = given->top_k,
                     .min_p = (float)given->min_p,
                     .repetition_penalty = (float)given->repetition_penalty,
                     .seed = (uint64_t)given->seed},
        .max_tokens = given->max_tokens,
        .beams = given->beams,
        .length_penalty = (float)given->length_penalty,
        .stop = (const char *const *)given->stop,
        .stop_count = cli_count(given->stop),
    };
    return FVLM_OK;
}

/* Where `given` is in the four names of number types, or `unless_given`; 4: nowhere. */
static size_t number_type(const char *given, size_t unless_given)
{
    static const char *const names[] = {"fp32", "bf16", "int8", "auto"};
    size_t i = given ? 0 : unless_given;
    while (given && i < 4 && strcmp(given, names[i]) != 0)
        i++;
    return i;
}

fvlm_status cli_engine_options_get(fvlm_engine_options *options, fvlm_error *error)
{
    static const fvlm_precision precisions[] = {FVLM_PRECISION_FP32, FVLM_PRECISION_BF16, FVLM_PRECISION_INT8,
                                                FVLM_PRECISION_AUTO};
    static const fvlm_kv_type kv_types[] = {FVLM_KV_FP32, FVLM_KV_BF16, FVLM_KV_INT8, FVLM_KV_AUTO};
    const cli_model_options *given = &cli_model;
    size_t precision = number_type(given->precision, 0), kv_type = number_type(given->kv_type, 3);
    if (precision == 4 || kv_type == 4)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "--%s '%s' is none of auto, fp32, bf16, int8",
                         precision == 4 ? "precision" : "kv-type", precision == 4 ? given->precision : given->kv_type);
    if (given->threads < 0 || given->threads > 1024)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "--threads is %d; it has to be from 1 to 1024", given->threads);
    if (given->resolution < 0 || given->resolution % 64 != 0)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "--resolution is %d; it has to be a multiple of 64",
                         given->resolution);
    if (given->context < 0)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "--ctx is %d; it has to be positive", given->context);
    *options = (fvlm_engine_options){.threads = given->threads,
                                     .precision = precisions[precision],
                                     .kv_type = kv_types[kv_type],
                                     .resolution = given->resolution,
                                     .context = given->context};
    return given->cpu_mask ? fvlm_cpu_mask(given->cpu_mask, error) : FVLM_OK;
}
