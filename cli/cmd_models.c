/* fastvlm models: the built-in model, the published ones, and which of them are on this machine. */
#include <stdlib.h>

#include "builtin_model.h"
#include "command.h"
#include "options.h"
#include "output.h"
#include "zoo.h"

static int as_json;

static const struct poptOption table[] = {
    {"json", '\0', POPT_ARG_NONE, &as_json, 0, "Print one JSON object", NULL}, CLI_HELP_OPTION, POPT_TABLEEND};

static const cli_usage usage = {.command = "models",
                                .arguments = "[--json]",
                                .about = "list the built-in model and the published ones, and which of them are here",
                                .example = "  fastvlm models\n  fastvlm pull llava-fastvithd_0.5b_stage3"};

static void list_builtin(json_t *list)
{
    if (list)
        json_array_append_new(list, json_pack("{ss ss ss sb sb}", "name", CLI_BUILTIN_NAME, "layout", "GGUF", "about",
                                              CLI_BUILTIN_ABOUT, "downloaded", 0, "built_in", 1));
    else
        cli_print("%-38s %-13s %-10s %s\n", CLI_BUILTIN_NAME, "GGUF", "built in", CLI_BUILTIN_ABOUT);
}

static fvlm_status list_model(const cli_zoo_model *model, json_t *list, fvlm_error *error)
{
    char *folder;
    fvlm_status status = cli_zoo_folder(model->name, &folder, error);
    if (status)
        return status;
    bool here = cli_zoo_downloaded(folder);
    if (list)
        json_array_append_new(list,
                              json_pack("{ss ss ss so sb so sb}", "name", model->name, "layout", model->layout, "about",
                                        model->about, "url", json_sprintf("%s/%s.zip", CLI_ZOO_URL, model->name),
                                        "downloaded", here, "folder", cli_json_text(folder), "built_in", 0));
    else
        cli_print("%-38s %-13s %-10s %s\n", model->name, model->layout, here ? "downloaded" : "-", model->about);
    free(folder);
    return FVLM_OK;
}

int cmd_models(int argc, const char **argv)
{
    int code;
    if (!cli_parse(&usage, table, argc, argv, NULL, &code))
        return code;
    fvlm_error error;
    char *home;
    if (cli_zoo_home(&home, &error))
        return cli_fail(&error);
    size_t count;
    const cli_zoo_model *models = cli_zoo_models(&count);
    json_t *list = as_json ? json_array() : NULL;
    fvlm_status status = FVLM_OK;
    if (!as_json)
        cli_print("%-38s %-13s %-10s %s\n", "NAME", "LAYOUT", "HERE", "ABOUT");
    list_builtin(list);
    for (size_t i = 0; status == FVLM_OK && i < count; i++)
        status = list_model(&models[i], list, &error);
    if (status) {
        json_decref(list);
        code = cli_fail(&error);
    } else if (as_json) {
        code = cli_print_json(json_pack("{so so}", "home", cli_json_text(home), "models", list));
    } else {
        cli_print("\nDownloaded models are in %s ($FVLM_HOME moves it).\n", home);
        code = CLI_DONE;
    }
    free(home);
    return code;
}
