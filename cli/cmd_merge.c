/* fastvlm merge: an adapter into the model it was trained on. */
#include <stdlib.h>

#include "base/system.h"
#include "command.h"
#include "fastvlm/train.h"
#include "options.h"
#include "output.h"
#include "zoo.h"

static char *adapter, *output;

static const struct poptOption table[] = {
    {"adapter", 'a', POPT_ARG_STRING, &adapter, 0, "Folder that `fastvlm train --lora true` or PEFT wrote", "DIR"},
    {"output", 'o', POPT_ARG_STRING, &output, 0, "Folder for the merged model", "DIR"},
    {"model-base", '\0', POPT_ARG_STRING | POPT_ARGFLAG_DOC_HIDDEN, &cli_model.model, 0, NULL, NULL},
    CLI_MODEL_GROUP,
    CLI_HELP_OPTION,
    POPT_TABLEEND};

static const cli_usage usage = {.command = "merge",
                                .arguments = "--adapter DIR --output DIR",
                                .about = "merge a LoRA adapter into the model it was trained on",
                                .example = "  fastvlm merge --model ./llava-fastvithd_0.5b_stage3 --adapter tuned "
                                           "--output merged"};

int cmd_merge(int argc, const char **argv)
{
    int code;
    if (!cli_parse(&usage, table, argc, argv, NULL, &code))
        return code;
    if (!adapter || !output)
        return cli_usage_error(&usage, "--%s is missing", adapter ? "output" : "adapter");
    fvlm_error error;
    fvlm_engine_options options;
    char *model = NULL;
    fvlm_status status = cli_engine_options_get(&options, &error);
    if (status == FVLM_OK)
        status = cli_model_path(cli_model.model, &model, &error);
    if (status == FVLM_OK && (fvlm_path_same(model, output) || fvlm_path_same(adapter, output)))
        status = fvlm_fail(&error, FVLM_ERROR_ARGUMENT, "--output %s is what is read: name another folder", output);
    if (status == FVLM_OK)
        status = fvlm_adapter_merge(model, adapter, output, options.threads, &error);
    free(model);
    return status ? cli_fail(&error) : CLI_DONE;
}
