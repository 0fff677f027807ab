/* Losses of single answers, by the forward pass of training with nothing trained. */
#include <stdlib.h>

#include "train/network.h"

struct fvlm_scorer {
    fvlm_engine *engine;
    fvlm_network *network;
};

fvlm_status fvlm_scorer_open(fvlm_engine *engine, fvlm_scorer **out, fvlm_error *error)
{
    fvlm_scorer *scorer = *out = fvlm_calloc(1, sizeof *scorer);
    if (!scorer)
        return fvlm_fail_memory(error);
    fvlm_network_options options = {.recompute = true}; /* one layer's activations are enough */
    scorer->engine = engine;
    fvlm_status status = fvlm_network_create(engine, &options, &scorer->network, error);
    if (status)
        fvlm_scorer_close(out);
    return status;
}

void fvlm_scorer_close(fvlm_scorer **scorer)
{
    if (!*scorer)
        return;
    fvlm_network_destroy(&(*scorer)->network);
    free(*scorer);
    *scorer = NULL;
}

fvlm_status fvlm_scorer_score(fvlm_scorer *scorer, fvlm_conversation *conversation, size_t turn, const char *folder,
                              const char *template_name, const char *system, double *loss, size_t *tokens,
                              fvlm_error *error)
{
    fvlm_sample_options options = {.template_name = template_name,
                                   .system = system,
                                   .folders = &folder,
                                   .folder_count = folder ? 1 : 0,
                                   .longest = scorer->engine->context,
                                   .last = true};
    fvlm_conversation until = *conversation; /* the same one, up to this answer */
    until.turn_count = turn + 1;
    fvlm_sample sample;
    fvlm_network_result result;
    fvlm_status status = fvlm_sample_make(scorer->engine, scorer->engine->pool, &until, &options, &sample, error);
    if (status)
        return status;
    status = fvlm_network_run(scorer->network, &sample, 1, false, &result, error);
    fvlm_sample_clear(&sample);
    *loss = result.loss;
    *tokens = result.targets;
    return status;
}
