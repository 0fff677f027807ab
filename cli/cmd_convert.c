/* fastvlm convert: a model in another layout or number type. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "command.h"
#include "fastvlm/convert.h"
#include "options.h"
#include "output.h"
#include "zoo.h"

static char *output, *to, *type, *keep;
static int split, as_json, quiet;

static const struct poptOption table[] = {
    {"model", 'm', POPT_ARG_STRING, &cli_model.model, 0, CLI_MODEL_HELP, "MODEL"},
    {"model-path", '\0', POPT_ARG_STRING | POPT_ARGFLAG_DOC_HIDDEN, &cli_model.model, 0, NULL, NULL},
    {"output", 'o', POPT_ARG_STRING, &output, 0, "File or folder to write", "PATH"},
    {"to", '\0', POPT_ARG_STRING, &to, 0, "Layout: gguf (the default), llava or fast_vlm", "LAYOUT"},
    {"split", '\0', POPT_ARG_NONE, &split, 0,
     "GGUF as llama.cpp reads it: the language model, and the rest in mmproj-FILE beside it", NULL},
    {"type", '\0', POPT_ARG_STRING, &type, 0,
     "Number type of the weights: f32, f16, bf16, q8_0, q4_0, q4_k (default: as stored)", "TYPE"},
    {"keep", '\0', POPT_ARG_STRING, &keep, 0, "Other types for vision, projector, embed, head or llm",
     "PART=TYPE[,...]"},
    {"threads", 't', POPT_ARG_INT, &cli_model.threads, 0, "Threads to use (default: one for each processor)", "N"},
    {"quiet", 'q', POPT_ARG_NONE, &quiet, 0, "No progress", NULL},
    {"json", '\0', POPT_ARG_NONE, &as_json, 0, "Print one JSON object", NULL},
    CLI_HELP_OPTION,
    POPT_TABLEEND};

static const cli_usage usage = {
    .command = "convert",
    .arguments = "--output PATH [OPTION...]",
    .about = "write a model as one GGUF file, as the pair of them that llama.cpp reads, or as a folder",
    .example = "  fastvlm convert --model ./checkpoint --output fastvlm.gguf\n"
               "  fastvlm convert --model ./checkpoint --output small.gguf --type q4_k --keep embed=q8_0\n"
               "  fastvlm convert --model ./checkpoint --output llm.gguf --split --type f16\n"
               "  fastvlm convert --model fastvlm.gguf --output ./back --to llava"};

static bool draw(void *user, uint64_t done, uint64_t total)
{
    cli_progress *progress = user;
    if (progress->total == 0)
        cli_progress_start(progress, "converting", NULL, 0, total, quiet);
    cli_progress_update(progress, done);
    return !cli_interrupted();
}

static fvlm_status convert(fvlm_convert_target target, fvlm_convert_report *report, fvlm_error *error)
{
    cli_progress progress = {0};
    char *model;
    fvlm_status status = cli_model_path(cli_model.model, &model, error);
    if (status)
        return status;
    fvlm_convert_options options = {.model = model,
                                    .output = output,
                                    .target = target,
                                    .type = type,
                                    .keep = keep,
                                    .threads = cli_model.threads,
                                    .on_progress = draw,
                                    .user = &progress};
    status = fvlm_convert(&options, report, error);
    if (progress.total)
        cli_progress_finish(&progress, status ? progress.first : report->bytes_after);
    free(model);
    return status;
}

int cmd_convert(int argc, const char **argv)
{
    int code;
    if (!cli_parse(&usage, table, argc, argv, NULL, &code))
        return code;
    if (!output)
        return cli_usage_error(&usage, "--output is missing");
    fvlm_convert_target target = split ? FVLM_CONVERT_GGUF_SPLIT : FVLM_CONVERT_GGUF;
    if (to && strcmp(to, "llava") == 0)
        target = FVLM_CONVERT_LLAVA;
    else if (to && strcmp(to, "fast_vlm") == 0)
        target = FVLM_CONVERT_FAST_VLM;
    else if (to && strcmp(to, "gguf") != 0)
        return cli_usage_error(&usage, "--to %s: the layouts are gguf, llava and fast_vlm", to);
    if (split && target != FVLM_CONVERT_GGUF_SPLIT)
        return cli_usage_error(&usage, "--split is for GGUF");

    fvlm_error error;
    fvlm_convert_report report;
    cli_interrupt_catch();
    fvlm_status status = convert(target, &report, &error);
    bool interrupted = cli_interrupted();
    cli_interrupt_release();
    if (status) {
        code = cli_fail(&error);
        if (interrupted)
            cli_interrupt_exit();
        return code;
    }
    if (report.replaced && !quiet)
        cli_error("%zu tensors have rows that are not whole blocks of %s: they are f16, or q4_0 in place of q4_k",
                  report.replaced, type ? type : "the type that was asked for");
    if (as_json)
        return cli_print_json(json_pack("{so sI sI sI sI}", "output", cli_json_text(output), "tensors",
                                        (json_int_t)report.tensors, "replaced", (json_int_t)report.replaced,
                                        "bytes_before", (json_int_t)report.bytes_before, "bytes_after",
                                        (json_int_t)report.bytes_after));
    char before[32], after[32];
    cli_format_bytes(report.bytes_before, before, sizeof before);
    cli_format_bytes(report.bytes_after, after, sizeof after);
    cli_print("%s: %zu tensors, %s of weights (before: %s)\n", output, report.tensors, after, before);
    return CLI_DONE;
}
