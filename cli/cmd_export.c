/* fastvlm export: a model in the layouts that other people's tools load. */
#include "fastvlm/export.h"

#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "options.h"
#include "output.h"
#include "zoo.h"

static char *output, *type_name;
static int quiet;

static const struct poptOption table[] = {
    {"model", 'm', POPT_ARG_STRING, &cli_model.model, 0,
     "Folder of a checkpoint, a GGUF file, or a name that `fastvlm models` lists", "MODEL"},
    {"model-path", '\0', POPT_ARG_STRING | POPT_ARGFLAG_DOC_HIDDEN, &cli_model.model, 0, NULL, NULL},
    {"output", 'o', POPT_ARG_STRING, &output, 0, "Folder to write; an earlier export there is replaced", "FOLDER"},
    {"out", '\0', POPT_ARG_STRING | POPT_ARGFLAG_DOC_HIDDEN, &output, 0, NULL, NULL},
    {"type", '\0', POPT_ARG_STRING, &type_name, 0, "Number type of the weights: f32, f16, bf16 (hf: as stored)",
     "TYPE"},
    {"threads", 't', POPT_ARG_INT, &cli_model.threads, 0, "Threads to use (default: one for each processor)", "N"},
    {"quiet", 'q', POPT_ARG_NONE, &quiet, 0, "No progress", NULL},
    CLI_HELP_OPTION,
    POPT_TABLEEND};

static const cli_usage usage = {.command = "export",
                                .arguments = "hf --model MODEL --output FOLDER [OPTION...]",
                                .about =
                                    "write a model in the layout of other tools:\n  hf      transformers' fast_vlm",
                                .example = "  fastvlm export hf --model ./checkpoint --output ./checkpoint-hf"};

static bool find_type(const char *name, fvlm_export_type *type)
{
    static const char *const names[] = {
        [FVLM_EXPORT_FP32] = "f32", [FVLM_EXPORT_FP16] = "f16", [FVLM_EXPORT_BF16] = "bf16"};
    *type = FVLM_EXPORT_DEFAULT;
    for (int i = FVLM_EXPORT_FP32; name && i <= FVLM_EXPORT_BF16; i++)
        if (strcmp(name, names[i]) == 0)
            *type = (fvlm_export_type)i;
    return !name || *type != FVLM_EXPORT_DEFAULT;
}

static bool draw(void *user, uint64_t done, uint64_t total)
{
    cli_progress *progress = user;
    if (progress->total == 0)
        cli_progress_start(progress, "exporting", NULL, 0, total, quiet);
    cli_progress_update(progress, done);
    return !cli_interrupted();
}

static fvlm_status export_model(fvlm_export_type type, fvlm_error *error)
{
    cli_progress progress = {0};
    char *model;
    fvlm_status status = cli_model_folder(cli_model.model, &model, error);
    if (status)
        return status;
    fvlm_export_options options = {.model = model,
                                   .output = output,
                                   .type = type,
                                   .threads = cli_model.threads,
                                   .on_progress = draw,
                                   .user = &progress};
    status = fvlm_export_hf(&options, error);
    if (progress.total)
        cli_progress_finish(&progress, status ? progress.first : progress.total);
    free(model);
    return status;
}

int cmd_export(int argc, const char **argv)
{
    int code;
    const char *const *arguments;
    fvlm_export_type type;
    if (!cli_parse(&usage, table, argc, argv, &arguments, &code))
        return code;
    if (!arguments || !arguments[0] || arguments[1] || strcmp(arguments[0], "hf") != 0)
        return cli_usage_error(&usage, "name one layout: hf");
    if (!output)
        return cli_usage_error(&usage, "--output is missing");
    if (!find_type(type_name, &type))
        return cli_usage_error(&usage, "--type %s is not f32, f16 or bf16", type_name);

    fvlm_error error;
    cli_interrupt_catch();
    fvlm_status status = export_model(type, &error);
    bool interrupted = cli_interrupted();
    cli_interrupt_release();
    if (!status)
        return CLI_DONE;
    code = cli_fail(&error);
    if (interrupted)
        cli_interrupt_exit();
    return code;
}
