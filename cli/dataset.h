/* A data set of questions in LLaVA's format: a JSON list, or a JSON object a line, of samples
 * {"id": ..., "image": "a.jpg" or ["a.jpg", ...], "conversations": [{"from": "human", "value": ...},
 * {"from": "gpt", "value": ...}, ...]}. */
#ifndef FVLM_CLI_DATASET_H
#define FVLM_CLI_DATASET_H

#include <jansson.h>
#include <stddef.h>

#include "base/error.h"
#include "fastvlm/text.h"

/* One sample, ready to be asked. All strings belong to the JSON value or to the sample. */
typedef struct cli_sample {
    char *id;            /* for messages and results: "id", else the number in the file */
    const char **images; /* [image_count] names relative to the image folder */
    size_t image_count;
    fvlm_turn *turns; /* [turn_count]: user, assistant, user, assistant, ... with the reference answers */
    size_t turn_count;
    const char *kind; /* field "type", "kind" or "category"; NULL: there is none */
} cli_sample;

/* *samples is a JSON array; release with json_decref. */
fvlm_status cli_dataset_load(const char *path, json_t **samples, fvlm_error *error);

/* Read the `index`-th sample. As in training, the `<image>` of a sample's pictures stand at the start of the turn in
 * which they are, wherever the file has them. The caller clears *sample. */
fvlm_status cli_sample_read(const json_t *samples, size_t index, cli_sample *sample, fvlm_error *error);
void cli_sample_clear(cli_sample *sample);

#endif
