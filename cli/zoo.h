/* The published models: their names, where they are on the network, and where they are on this machine. */
#ifndef FVLM_CLI_ZOO_H
#define FVLM_CLI_ZOO_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

typedef struct cli_zoo_model {
    const char *name;
    const char *layout; /* "LLaVA", "Apple export (MLX fp16)" */
    const char *about;
} cli_zoo_model;

#define CLI_ZOO_URL "https://ml-site.cdn-apple.com/datasets/fastvlm"

/* [*count], static. */
const cli_zoo_model *cli_zoo_models(size_t *count);
/* NULL where no published model has that name. */
const cli_zoo_model *cli_zoo_find(const char *name);

/* The folder that holds downloaded models: $FVLM_HOME/models, or fastvlm/models in $XDG_DATA_HOME or ~/.local/share.
 * Free with free(). */
fvlm_status cli_zoo_home(char **folder, fvlm_error *error);
/* Where the model `name` is or will be. Free with free(). */
fvlm_status cli_zoo_folder(const char *name, char **folder, fvlm_error *error);
bool cli_zoo_downloaded(const char *folder);

/* The path that --model means: a folder or a file as it is, a published name's downloaded folder, and for NULL or
 * "nano" the model that is built in. Free with free(). */
fvlm_status cli_model_path(const char *given, char **path, fvlm_error *error);

#endif
