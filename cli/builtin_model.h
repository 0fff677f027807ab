/* The model that is built in: the bytes of models/nano/nano.gguf. */
#ifndef FVLM_CLI_BUILTIN_MODEL_H
#define FVLM_CLI_BUILTIN_MODEL_H

#include "base/error.h"

#define CLI_BUILTIN_NAME "nano" /* what users call it */
#define CLI_BUILTIN_ABOUT "the built-in model, made here: drawn shapes, words, charts, clocks, signs, faces, screens"
#define CLI_BUILTIN_PATH "builtin:nano" /* what it is as a model's path, whatever files there are */

/* Let CLI_BUILTIN_PATH mean it. */
fvlm_status cli_builtin_model(fvlm_error *error);

#endif
