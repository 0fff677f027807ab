/* TensorBoard's event files: numbers over the steps of a run. */
#ifndef FVLM_CLI_EVENT_FILE_H
#define FVLM_CLI_EVENT_FILE_H

#include <stddef.h>

#include "base/error.h"

typedef struct cli_events cli_events;

typedef struct cli_scalar {
    const char *tag; /* "train/loss" */
    double value;
} cli_scalar;

/* Start a file in `folder`, which is made. Of earlier files of the folder, what is from `first` on counts no longer: a
 * run that goes on from an older checkpoint. The caller closes *events. */
fvlm_status cli_events_open(const char *folder, long long first, cli_events **events, fvlm_error *error);
/* One event with the values of a step; it is in the file when the call returns. */
fvlm_status cli_events_add(cli_events *events, long long step, const cli_scalar *scalars, size_t count,
                           fvlm_error *error);
/* NULL is fine. */
void cli_events_close(cli_events **events);

#endif
