/* fastvlm train --plan. */
#ifndef FVLM_CLI_TRAIN_PLAN_H
#define FVLM_CLI_TRAIN_PLAN_H

#include <stdbool.h>

#include "fastvlm/train.h"

/* Print what `options` would need of memory and traffic, for `model` or with NULL for each published size, with the
 * numbers of ranks in `list` ("1,2,4"; NULL: some) and every stage of ZeRO, or with `zero` above 0 that one. The exit
 * code. */
int cli_train_plan(const char *model, const fvlm_train_options *options, const char *list, int zero, int tokens,
                   int threads, bool as_json);

#endif
