/* A background job is a joinable thread. */
#include "base/background.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/memory.h"

struct fvlm_background {
    pthread_t thread;
    void (*run)(void *argument);
    void *argument;
};

static void *background_main(void *argument)
{
    const fvlm_background *background = argument;
    background->run(background->argument);
    return NULL;
}

fvlm_status fvlm_background_start(void (*run)(void *argument), void *argument, fvlm_background **background,
                                  fvlm_error *error)
{
    fvlm_background *made = *background = fvlm_calloc(1, sizeof *made);
    if (!made)
        return fvlm_fail_memory(error);
    made->run = run;
    made->argument = argument;
    if (pthread_create(&made->thread, NULL, background_main, made) == 0)
        return FVLM_OK;
    free(made);
    *background = NULL;
    return fvlm_fail(error, FVLM_ERROR_MEMORY, "cannot start a thread");
}

void fvlm_background_wait(fvlm_background **background)
{
    if (!*background)
        return;
    pthread_join((*background)->thread, NULL);
    free(*background);
    *background = NULL;
}
