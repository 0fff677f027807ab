/* fastvlm quantize: a GGUF file with rounded weights, and what the rounding cost. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calibration_folder.h"
#include "command.h"
#include "fastvlm/convert.h"
#include "options.h"
#include "output.h"
#include "zoo.h"

static char *output, *type = "q4_k", *keep, *method, *calibration_folder;
static int split, as_json, quiet, sample_limit, max_tokens = 32;

static const struct poptOption table[] = {
    {"model", 'm', POPT_ARG_STRING, &cli_model.model, 0, CLI_MODEL_HELP, "MODEL"},
    {"model-path", '\0', POPT_ARG_STRING | POPT_ARGFLAG_DOC_HIDDEN, &cli_model.model, 0, NULL, NULL},
    {"output", 'o', POPT_ARG_STRING, &output, 0, "GGUF file to write", "FILE"},
    {"type", '\0', POPT_ARG_STRING, &type, 0, "Number type of the weights: q8_0, q4_0, q4_k (the default)", "TYPE"},
    {"keep", '\0', POPT_ARG_STRING, &keep, 0, "Other types for vision, projector, embed, head or llm",
     "PART=TYPE[,...]"},
    {"method", '\0', POPT_ARG_STRING, &method, 0,
     "gptq (the default with --calibration): errors are made up for by later columns; rtn: each weight to its nearest",
     "METHOD"},
    {"calibration", '\0', POPT_ARG_STRING, &calibration_folder, 0,
     "Folder with pictures and prompts.txt, or with a data set in LLaVA's format", "FOLDER"},
    {"samples", '\0', POPT_ARG_INT, &sample_limit, 0, "Use the first N samples of the folder (default: all)", "N"},
    {"max-tokens", '\0', POPT_ARG_INT, &max_tokens, 0, "Length of the answers that are compared (default 32)", "N"},
    {"split", '\0', POPT_ARG_NONE, &split, 0, "As convert: the pair that llama.cpp reads", NULL},
    {"threads", 't', POPT_ARG_INT, &cli_model.threads, 0, "Threads to use (default: one for each processor)", "N"},
    {"quiet", 'q', POPT_ARG_NONE, &quiet, 0, "No progress", NULL},
    {"json", '\0', POPT_ARG_NONE, &as_json, 0, "Print one JSON object", NULL},
    CLI_PROMPT_GROUP,
    CLI_HELP_OPTION,
    POPT_TABLEEND};

static const cli_usage usage = {
    .command = "quantize",
    .arguments = "--output FILE --calibration FOLDER [OPTION...]",
    .about =
        "round a model's weights to 4 or 8 bits; errors, perplexity and answers are compared with the model before",
    .example = "  fastvlm quantize --model ./checkpoint --output small.gguf --calibration ./pictures\n"
               "  fastvlm quantize --model ./checkpoint --output small.gguf --type q4_0 --method rtn"};

struct stage {
    cli_progress progress;
    const char *name;
};

static bool draw(void *user, const char *name, uint64_t done, uint64_t total)
{
    struct stage *stage = user;
    if (!stage->name || strcmp(stage->name, name) != 0) {
        if (stage->name)
            cli_progress_finish(&stage->progress, stage->progress.total);
        stage->name = name;
        const char *unit = strcmp(name, "writing") == 0 ? NULL : strcmp(name, "layers") == 0 ? "layers" : "samples";
        cli_progress_start(&stage->progress, name, unit, 0, total, quiet);
    }
    cli_progress_update(&stage->progress, done);
    return !cli_interrupted();
}

/* JSON has no NaN: what was not measured is null. */
static json_t *number_json(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static int print_report_json(const fvlm_quantize_report *report)
{
    json_t *layers = json_array();
    for (size_t i = 0; i < report->layer_count; i++) {
        const fvlm_layer_error *error = &report->layers[i];
        json_array_append_new(layers, json_pack("{so so so so}", "rtn", number_json(error->nearest[0]), "rtn_held_out",
                                                number_json(error->nearest[1]), "error", number_json(error->chosen[0]),
                                                "error_held_out", number_json(error->chosen[1])));
    }
    return cli_print_json(json_pack(
        "{so sI sI sI sI so sI sI sI so so so}", "output", cli_json_text(output), "tensors",
        (json_int_t)report->convert.tensors, "replaced", (json_int_t)report->convert.replaced, "bytes_before",
        (json_int_t)report->convert.bytes_before, "bytes_after", (json_int_t)report->convert.bytes_after, "layers",
        layers, "resumed_layers", (json_int_t)report->resumed, "answers", (json_int_t)report->answers, "same_answers",
        (json_int_t)report->same_answers, "same_tokens", number_json(report->same_tokens), "perplexity_before",
        number_json(report->perplexity_before), "perplexity_after", number_json(report->perplexity_after)));
}

static void print_error(double value)
{
    if (isfinite(value))
        cli_print(" %9.5f", value);
    else
        cli_print(" %9s", "-");
}

static int print_report(const fvlm_quantize_report *report)
{
    char before[32], after[32];
    if (report->layer_count)
        cli_print("relative error of linear outputs   calibration         other pictures\n"
                  "layer                                rtn     chosen        rtn     chosen\n");
    for (size_t i = 0; i < report->layer_count; i++) {
        const fvlm_layer_error *error = &report->layers[i];
        cli_print("%-30zu", i);
        print_error(error->nearest[0]);
        print_error(error->chosen[0]);
        cli_print("  ");
        print_error(error->nearest[1]);
        print_error(error->chosen[1]);
        cli_print("\n");
    }
    cli_format_bytes(report->convert.bytes_before, before, sizeof before);
    cli_format_bytes(report->convert.bytes_after, after, sizeof after);
    cli_print("weights: %s, before %s\n", after, before);
    if (report->answers)
        cli_print("perplexity: %.4f, before %.4f\nanswers: %zu of %zu are the same, %.1f%% of their tokens\n",
                  report->perplexity_after, report->perplexity_before, report->same_answers, report->answers,
                  100 * report->same_tokens);
    return CLI_DONE;
}

static fvlm_status quantize(fvlm_quantize_method how, const cli_calibration *calibration, fvlm_quantize_report *report,
                            fvlm_error *error)
{
    struct stage stage = {.name = NULL};
    char *model;
    fvlm_status status = cli_model_path(cli_model.model, &model, error);
    if (status)
        return status;
    fvlm_quantize_options options = {.convert = {.model = model,
                                                 .output = output,
                                                 .target = split ? FVLM_CONVERT_GGUF_SPLIT : FVLM_CONVERT_GGUF,
                                                 .type = type,
                                                 .keep = keep,
                                                 .threads = cli_model.threads},
                                     .method = how,
                                     .samples = calibration->samples,
                                     .sample_count = calibration->count,
                                     .max_tokens = max_tokens,
                                     .on_stage = draw,
                                     .user = &stage};
    status = fvlm_quantize(&options, report, error);
    if (stage.name)
        cli_progress_finish(&stage.progress, stage.progress.total);
    free(model);
    return status;
}

int cmd_quantize(int argc, const char **argv)
{
    int code;
    if (!cli_parse(&usage, table, argc, argv, NULL, &code))
        return code;
    if (!output)
        return cli_usage_error(&usage, "--output is missing");
    if (method && strcmp(method, "gptq") != 0 && strcmp(method, "rtn") != 0)
        return cli_usage_error(&usage, "--method %s: the methods are gptq and rtn", method);
    bool gptq = method ? strcmp(method, "gptq") == 0 : calibration_folder != NULL;
    if (gptq && !calibration_folder)
        return cli_usage_error(&usage, "--method gptq needs --calibration FOLDER");
    if (sample_limit < 0 || max_tokens < 1)
        return cli_usage_error(&usage, "--samples and --max-tokens have to be 1 or more");

    fvlm_error error;
    fvlm_quantize_report report = {0};
    cli_calibration calibration = {0};
    fvlm_status status = FVLM_OK;
    if (calibration_folder)
        status = cli_calibration_read(calibration_folder, (size_t)sample_limit, &calibration, &error);
    bool interrupted = false;
    if (status == FVLM_OK) {
        cli_interrupt_catch();
        status = quantize(gptq ? FVLM_QUANTIZE_GPTQ : FVLM_QUANTIZE_NEAREST, &calibration, &report, &error);
        interrupted = cli_interrupted();
        cli_interrupt_release();
    }
    if (status)
        code = cli_fail(&error);
    else
        code = as_json ? print_report_json(&report) : print_report(&report);
    if (status == FVLM_OK && report.convert.replaced && !quiet)
        cli_error("%zu tensors have rows that are not whole blocks of %s: they are f16, or q4_0 in place of q4_k",
                  report.convert.replaced, type);
    fvlm_quantize_report_clear(&report);
    cli_calibration_clear(&calibration);
    if (status && interrupted)
        cli_interrupt_exit();
    return code;
}
