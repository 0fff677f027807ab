/* The table of published models, and finding a model's folder from what the user wrote. */
#include "zoo.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "builtin_model.h"

static const cli_zoo_model models[] = {
    {"llava-fastvithd_0.5b_stage2", "LLaVA", "0.5B, before instruction tuning's last stage"},
    {"llava-fastvithd_0.5b_stage3", "LLaVA", "0.5B, the fastest"},
    {"llava-fastvithd_1.5b_stage2", "LLaVA", "1.5B, before instruction tuning's last stage"},
    {"llava-fastvithd_1.5b_stage3", "LLaVA", "1.5B"},
    {"llava-fastvithd_7b_stage2", "LLaVA", "7B, before instruction tuning's last stage"},
    {"llava-fastvithd_7b_stage3", "LLaVA", "7B, the most capable"},
    {"llava-fastvithd_0.5b_stage3_llm.fp16", "Apple export", "0.5B, language model in fp16"},
    {"llava-fastvithd_1.5b_stage3_llm.int8", "Apple export", "1.5B, language model in 8 bits"},
    {"llava-fastvithd_7b_stage3_llm.int4", "Apple export", "7B, language model in 4 bits"},
};

const cli_zoo_model *cli_zoo_models(size_t *count)
{
    *count = sizeof models / sizeof *models;
    return models;
}

const cli_zoo_model *cli_zoo_find(const char *name)
{
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        if (strcmp(models[i].name, name) == 0)
            return &models[i];
    return NULL;
}

/* The value of an environment variable, NULL when it is empty. */
static const char *environment(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

fvlm_status cli_zoo_home(char **folder, fvlm_error *error)
{
    *folder = NULL;
    const char *home = environment("FVLM_HOME"), *base = home, *below = "models";
    if (!base) {
        below = "fastvlm/models";
        base = environment("XDG_DATA_HOME");
    }
    if (!base) {
        below = ".local/share/fastvlm/models";
        base = environment("HOME");
    }
    if (!base)
        return fvlm_fail(error, FVLM_ERROR_IO, "no place for models: set FVLM_HOME to a folder");
    *folder = fvlm_path_join(base, below);
    return *folder ? FVLM_OK : fvlm_fail_memory(error);
}

fvlm_status cli_zoo_folder(const char *name, char **folder, fvlm_error *error)
{
    char *home;
    *folder = NULL;
    fvlm_status status = cli_zoo_home(&home, error);
    if (status)
        return status;
    *folder = fvlm_path_join(home, name);
    free(home);
    return *folder ? FVLM_OK : fvlm_fail_memory(error);
}

bool cli_zoo_downloaded(const char *folder)
{
    char *config = fvlm_path_join(folder, "config.json");
    bool there = config && fvlm_file_exists(config);
    free(config);
    return there;
}

fvlm_status cli_model_path(const char *given, char **path, fvlm_error *error)
{
    *path = NULL;
    bool there = given && (fvlm_folder_exists(given) || fvlm_file_exists(given));
    if (!given || (!there && strcmp(given, CLI_BUILTIN_NAME) == 0)) {
        given = CLI_BUILTIN_PATH;
    } else if (!there && cli_zoo_find(given)) {
        fvlm_status status = cli_zoo_folder(given, path, error);
        if (status || cli_zoo_downloaded(*path))
            return status;
        free(*path);
        *path = NULL;
        return fvlm_fail(error, FVLM_ERROR_IO, "the model %s is not downloaded yet: run `fastvlm pull %s`", given,
                         given);
    } else if (!there) {
        return fvlm_fail(error, FVLM_ERROR_IO,
                         "'%s' is neither a folder nor a file nor the name of a model (`fastvlm models` lists them)",
                         given);
    }
    *path = fvlm_strdup(given);
    return *path ? FVLM_OK : fvlm_fail_memory(error);
}
