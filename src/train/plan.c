/* What a run would need, for a model that is there or one of the published shapes: counted by the functions that
 * allocate and send, over a network without data and ranks that are not there. */
#include <string.h>

#include "base/cpu.h"
#include "model/source.h"
#include "train/network.h"
#include "train/trainer_state.h"

/* Qwen2's published shapes: config.json of apple/FastVLM-0.5B, -1.5B and -7B. */
static const struct {
    const char *name;
    fvlm_decoder_config decoder;
    bool head; /* not tied to the embeddings */
} published[] = {
    {"0.5b",
     {.hidden = 896, .ffn = 4864, .layers = 24, .heads = 14, .kv_heads = 2, .head_dim = 64, .vocabulary = 151936},
     false},
    {"1.5b",
     {.hidden = 1536, .ffn = 8960, .layers = 28, .heads = 12, .kv_heads = 2, .head_dim = 128, .vocabulary = 151936},
     false},
    {"7b",
     {.hidden = 3584, .ffn = 18944, .layers = 28, .heads = 28, .kv_heads = 4, .head_dim = 128, .vocabulary = 152064},
     true},
};
enum { PUBLISHED = sizeof published / sizeof *published };

static fvlm_status add_name(fvlm_tensor_table *table, const char *name, fvlm_error *error)
{
    static const float nothing = 0;
    fvlm_tensor tensor = {
        .name = name, .type = FVLM_F32, .rank = 1, .shape = {1}, .bytes = sizeof nothing, .data = &nothing};
    return fvlm_tensor_table_add(table, &tensor, name, error);
}

/* The published model's config, and the names that decide what there is. */
static fvlm_status take_published(int which, fvlm_config *config, fvlm_tensor_table **table, fvlm_error *error)
{
    *config = (fvlm_config){.vision = fvlm_fastvithd,
                            .projector = FVLM_PROJECTOR_MLP,
                            .projector_layers = 2,
                            .decoder = published[which].decoder};
    config->decoder.norm_eps = 1e-6f;
    config->decoder.rope_base = 1e6;
    fvlm_status status = fvlm_tensor_table_create(table, error);
    if (!status)
        status = add_name(*table, "model.mm_projector.0.weight", error);
    return !status && published[which].head ? add_name(*table, "lm_head.weight", error) : status;
}

static uint64_t bytes_of(size_t floats)
{
    return (uint64_t)floats * sizeof(float);
}

fvlm_status fvlm_train_plan_make(const char *model, const fvlm_train_options *options, int ranks, int tokens,
                                 int threads, fvlm_train_plan *plan, fvlm_error *error)
{
    if (ranks < 1 || ranks > 65536 || tokens < 1 || tokens > 1 << 20)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "%d ranks and samples of %d tokens cannot be planned", ranks,
                         tokens);
    int which = 0;
    while (which < PUBLISHED && strcmp(published[which].name, model) != 0)
        which++;
    fvlm_config config;
    fvlm_source *source = NULL;
    fvlm_tensor_table *table = NULL;
    fvlm_status status =
        which < PUBLISHED ? take_published(which, &config, &table, error) : fvlm_source_open(model, &source, error);
    if (!status && source)
        config = source->config;
    fvlm_network_options network = fvlm_trainer_network_options(options);
    network.ranks = NULL;
    fvlm_pool *pool = NULL;
    if (!status)
        status = fvlm_pool_create(threads > 0 ? threads : fvlm_cpu_count(), &pool, error);
    if (!status)
        status = fvlm_ranks_pretend(ranks, &network.ranks, error);
    fvlm_network_size size;
    size_t samples = (size_t)options->batch_size;
    if (!status)
        status = fvlm_network_measure(&config, source ? source->table : table, &network, samples, (size_t)tokens,
                                      samples, (size_t)options->accumulation, pool, &size, error);
    if (!status) {
        *plan = (fvlm_train_plan){.parameters = size.parameters,
                                  .trained = size.trained,
                                  .memory = {.values = size.values,
                                             .gradients = size.gradients,
                                             .states = size.states,
                                             .slots = bytes_of(size.slots),
                                             .sent = size.traffic},
                                  .activations = bytes_of(size.workspace),
                                  .tower = bytes_of(size.tower),
                                  .mapped = (uint64_t)size.parameters * 2}; /* as published: 16 bits */
        for (size_t i = 0; source && i < fvlm_tensor_table_count(source->table); i++)
            plan->mapped = (i ? plan->mapped : 0) + fvlm_tensor_table_at(source->table, i)->bytes;
    }
    fvlm_ranks_close(&network.ranks);
    fvlm_pool_destroy(&pool);
    fvlm_tensor_table_destroy(&table);
    fvlm_source_close(&source);
    return status;
}
