/* A folder of pictures and prompts to quantise by. */
#ifndef FVLM_CLI_CALIBRATION_FOLDER_H
#define FVLM_CLI_CALIBRATION_FOLDER_H

#include <stddef.h>

#include "base/error.h"
#include "fastvlm/convert.h"

typedef struct cli_calibration {
    fvlm_calibration_sample *samples; /* [count] */
    size_t count;
    char **texts; /* [text_count]: what the samples point to */
    size_t text_count, text_capacity;
} cli_calibration;

/* The folder holds a data set in LLaVA's format (the first *.json or *.jsonl) with the pictures that it names; or
 * pictures, and prompts.txt with a prompt a line: the n-th picture is asked the n-th prompt, and the shorter list
 * starts anew. At most `limit` samples, if that is not 0. Prompts are made by the options' group "prompt". */
fvlm_status cli_calibration_read(const char *folder, size_t limit, cli_calibration *calibration, fvlm_error *error);
void cli_calibration_clear(cli_calibration *calibration);

#endif
