/* One job on a thread of its own, beside whoever started it. */
#ifndef FVLM_BASE_BACKGROUND_H
#define FVLM_BASE_BACKGROUND_H

#include "base/error.h"

typedef struct fvlm_background fvlm_background;

/* Start run(argument). Whoever started it waits for it before touching what it works on. */
fvlm_status fvlm_background_start(void (*run)(void *argument), void *argument, fvlm_background **background,
                                  fvlm_error *error);
/* Return when the job is done, free and null it. NULL is fine. */
void fvlm_background_wait(fvlm_background **background);

#endif
