/* Projector: linear layers numbered 0, 2, 4, ... in checkpoints, since the GELUs between them count. */
#include "model/projector.h"

#include <stdio.h>
#include <string.h>

#include "kernels/gemm.h"

struct fvlm_projector {
    size_t layers, width, hidden;
    fvlm_matrix *weights; /* [layers] */
    const float **biases; /* [layers] */
};

fvlm_projector *fvlm_projector_load(fvlm_loader *loader, const fvlm_config *config, size_t features, size_t hidden)
{
    if (loader->status)
        return NULL;
    size_t layers = config->projector_layers;
    fvlm_projector *projector = fvlm_arena_alloc(loader->arena, 1, sizeof *projector);
    fvlm_matrix *weights = fvlm_arena_alloc(loader->arena, layers, sizeof *weights);
    const float **biases = fvlm_arena_alloc(loader->arena, layers, sizeof *biases);
    if (!projector || !weights || !biases) {
        loader->status = fvlm_fail_memory(loader->error);
        return NULL;
    }
    if (layers == 0 && features != hidden) {
        loader->status =
            fvlm_fail(loader->error, FVLM_ERROR_FORMAT,
                      "an identity projector cannot make embeddings of %zu from features of %zu", hidden, features);
        return NULL;
    }
    /* A "linear" projector is a plain layer: its names have no number. */
    bool numbered = fvlm_loader_has(loader, "model.mm_projector.0.weight");
    for (size_t i = 0; i < layers; i++) {
        char name[64];
        snprintf(name, sizeof name, numbered ? "model.mm_projector.%zu" : "model.mm_projector", 2 * i);
        weights[i] = fvlm_load_matrix(loader, hidden, i == 0 ? features : hidden, "%s", name);
        biases[i] = fvlm_load_vector(loader, hidden, "%s.bias", name);
    }
    *projector = (fvlm_projector){layers, features, hidden, weights, biases};
    return loader->status ? NULL : projector;
}

size_t fvlm_projector_workspace(const fvlm_projector *projector, size_t tokens)
{
    return projector->layers > 1 ? 2 * tokens * projector->hidden : 0;
}

void fvlm_projector_forward(const fvlm_projector *projector, fvlm_pool *pool, const float *features, size_t tokens,
                            float *workspace, float *embeddings)
{
    size_t hidden = projector->hidden, width = projector->width;
    if (projector->layers == 0)
        memcpy(embeddings, features, tokens * width * sizeof *embeddings);
    const float *x = features;
    for (size_t i = 0; i < projector->layers; i++) {
        bool last = i + 1 == projector->layers;
        float *y = last ? embeddings : workspace + i % 2 * tokens * hidden;
        fvlm_epilogue epilogue = {.bias = projector->biases[i],
                                  .activation = last ? FVLM_ACTIVATION_NONE : FVLM_ACTIVATION_GELU};
        fvlm_linear(pool, &projector->weights[i], x, tokens, width, y, hidden, &epilogue);
        x = y;
        width = hidden;
    }
}
