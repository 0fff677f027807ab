/* A batch's way through the model: tiles -> features -> projected -> rows of the texts -> loss, and back. */
#include "train/network.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "kernels/activation.h"
#include "kernels/gemm.h"
#include "model/image_tokens.h"
#include "train/random.h"
#include "train/shards.h"
#include "train/tower.h"

#define MAX_PROJECTOR_LAYERS 8
/* What the finder of marks reads: the tower's middle stage, the next one, and the features. From one to the next the
 * places are half as many in each direction, and each has four times as many cells. */
enum { VIEWS = 3 };

struct fvlm_network {
    fvlm_engine *engine;
    fvlm_network_options options;
    fvlm_parameters parameters;
    fvlm_shards *shards; /* NULL: one process */
    fvlm_tower *tower;   /* NULL: frozen, features come from the engine's */
    fvlm_linear_layer projector[MAX_PROJECTOR_LAYERS];
    size_t projector_layers, projector_group;
    fvlm_language *language;
    fvlm_linear_layer classifier; /* of labels: [outputs, tokens of a tile x width]; without weight: there are none */
    fvlm_linear_layer finder;     /* of marks, in a cell as the middle stage sees it: [outputs, its width]; likewise */
    fvlm_linear_layer spread[VIEWS]; /* from a place of a view onto its cells: [cells x the finder's inputs, width] */
    fvlm_parameter *newline;         /* model.image_newline, or NULL */
    float *memory;                   /* [floats]: the workspace, as large as any batch so far needed */
    size_t floats;
};

/* Channels of a feature: what the tower's expansion makes of its last stage. */
static size_t feature_width(const fvlm_network *network)
{
    return 2 * network->engine->config.vision.widths[FVLM_STAGES - 1];
}

static void create_projector(fvlm_network *network, fvlm_loader *loader)
{
    const fvlm_config *config = &network->engine->config;
    size_t width = feature_width(network), hidden = config->decoder.hidden;
    network->projector_group = fvlm_parameters_group(&network->parameters, loader, false);
    network->projector_layers = config->projector_layers;
    if (config->projector_layers > MAX_PROJECTOR_LAYERS) {
        loader->status = fvlm_fail(loader->error, FVLM_ERROR_UNSUPPORTED, "a projector of %zu layers is too deep",
                                   config->projector_layers);
        return;
    }
    bool numbered = fvlm_loader_has(loader, "model.mm_projector.0.weight");
    for (size_t i = 0; i < network->projector_layers; i++) {
        char name[64];
        snprintf(name, sizeof name, numbered ? "model.mm_projector.%zu" : "model.mm_projector", 2 * i);
        network->projector[i].weight = fvlm_parameter_matrix(&network->parameters, loader, FVLM_PART_PROJECTOR, hidden,
                                                             i == 0 ? width : hidden, "%s", name);
        network->projector[i].bias =
            fvlm_parameter_vector(&network->parameters, loader, FVLM_PART_PROJECTOR, hidden, "%s.bias", name);
    }
    if (fvlm_loader_has(loader, "model.image_newline") && config->image_mode == FVLM_IMAGE_ANYRES &&
        config->merge == FVLM_MERGE_SPATIAL_UNPAD)
        network->newline =
            fvlm_parameter_vector(&network->parameters, loader, FVLM_PART_PROJECTOR, hidden, "model.image_newline");
}

static fvlm_linear_layer create_classifier(fvlm_network *network, fvlm_loader *loader, size_t outputs, size_t inputs,
                                           const char *name)
{
    fvlm_parameters *parameters = &network->parameters;
    fvlm_linear_layer layer = {0};
    if (outputs == 0)
        return layer;
    layer.weight = fvlm_parameter_create(parameters, loader, FVLM_PART_CLASSIFIER, outputs, inputs, "%s.weight", name);
    layer.bias = fvlm_parameter_create(parameters, loader, FVLM_PART_CLASSIFIER, outputs, 1, "%s.bias", name);
    return layer;
}

static size_t view_width(const fvlm_network *network, size_t view)
{
    const size_t *widths = network->engine->config.vision.widths;
    return view + 1 < VIEWS ? widths[FVLM_STAGES / 2 + view] : feature_width(network);
}

/* Cells of a view's place. */
static size_t view_cells(size_t view)
{
    return (size_t)1 << 2 * view;
}

/* Places of a view on a picture. */
static size_t view_places(const fvlm_network *network, size_t view)
{
    return fvlm_engine_tile_tokens(network->engine) << 2 * (VIEWS - 1 - view);
}

/* A finder of zeros has to be given something to tell apart. */
static void start_spread(fvlm_parameter *weight)
{
    float most = sqrtf(3.0f / (float)weight->matrix.cols);
    for (size_t i = 0; weight->value && i < weight->count; i++)
        weight->value[i] = most * (2 * fvlm_random_unit(0, 0, i) - 1);
    fvlm_parameter_keep(weight);
}

static void create_classifiers(fvlm_network *network, fvlm_loader *loader)
{
    const fvlm_label_set *set = network->options.labels;
    size_t tokens = fvlm_engine_tile_tokens(network->engine), width = feature_width(network);
    size_t outputs = fvlm_class_outputs(&set->marks);
    fvlm_parameters_group(&network->parameters, loader, false);
    network->classifier =
        create_classifier(network, loader, fvlm_class_outputs(&set->labels), tokens * width, "classifier");
    if (outputs == 0 || loader->status)
        return;
    size_t inputs = view_width(network, 0);
    network->finder = create_classifier(network, loader, outputs, inputs, "finder");
    for (size_t i = 1; i < VIEWS; i++) {
        char name[16];
        snprintf(name, sizeof name, "spread.%zu", i);
        network->spread[i] = create_classifier(network, loader, view_cells(i) * inputs, view_width(network, i), name);
        if (!loader->status)
            start_spread(network->spread[i].weight);
    }
}

/* Everything that lives in the set; loader->status on failure. */
static void create_parts(fvlm_network *network, fvlm_loader *loader)
{
    const fvlm_engine *engine = network->engine;
    network->parameters.trained = network->options.trained;
    network->parameters.eight_bits = network->options.eight_bits;
    network->parameters.averaged = network->options.averaged;
    network->parameters.inputs = engine->precision == FVLM_PRECISION_FP32 ? FVLM_F32 : FVLM_BF16;
    network->parameters.arena = loader->arena = fvlm_arena_create();
    if (!loader->arena)
        loader->status = fvlm_fail_memory(loader->error);
    if (!loader->status && network->options.trained & FVLM_PART_VISION)
        network->tower = fvlm_tower_create(&network->parameters, loader, &engine->config.vision);
    if (!loader->status && network->options.labels)
        create_classifiers(network, loader);
    if (network->options.wordless)
        return;
    if (!loader->status)
        create_projector(network, loader);
    if (!loader->status)
        network->language = fvlm_language_create(&network->parameters, loader, &engine->config.decoder, engine->context,
                                                 &network->options.lora);
}

/* Count what is trained, and allocate the slots for it. */
static void create_shards(fvlm_network *network, fvlm_loader *loader)
{
    fvlm_shards counting = {.ranks = network->options.ranks, .stage = network->options.stage};
    network->parameters = (fvlm_parameters){.measuring = true, .shards = &counting};
    create_parts(network, loader);
    network->tower = NULL;
    if (!loader->status)
        loader->status =
            fvlm_shards_create(counting.ranks, counting.stage, &network->parameters, &network->shards, loader->error);
    fvlm_parameters_clear(&network->parameters);
    network->parameters = (fvlm_parameters){.shards = network->shards};
}

fvlm_status fvlm_network_create(fvlm_engine *engine, const fvlm_network_options *options, fvlm_network **out,
                                fvlm_error *error)
{
    fvlm_network *network = *out = fvlm_calloc(1, sizeof *network);
    if (!network)
        return fvlm_fail_memory(error);
    network->engine = engine;
    network->options = *options;
    fvlm_loader loader = {.table = engine->source->table,
                          .pool = engine->pool,
                          .quantized_bits = engine->config.quantized_bits,
                          .quantized_group = engine->config.quantized_group,
                          .error = error};
    if (options->ranks && fvlm_ranks_count(options->ranks) > 1)
        create_shards(network, &loader);
    if (!loader.status)
        create_parts(network, &loader);
    if (loader.status)
        fvlm_network_destroy(out);
    return loader.status;
}

void fvlm_network_destroy(fvlm_network **network)
{
    fvlm_network *old = *network;
    if (!old)
        return;
    fvlm_parameters_clear(&old->parameters);
    fvlm_shards_destroy(&old->shards);
    fvlm_aligned_free(old->memory);
    free(old);
    *network = NULL;
}

fvlm_parameters *fvlm_network_parameters(fvlm_network *network)
{
    return &network->parameters;
}

/* A batch. */

/* What the classifiers lose on a picture. */
struct picture_loss {
    double loss;
    size_t known;
};

struct batch {
    fvlm_network *network;
    const fvlm_sample *samples;
    size_t count, tiles, image_rows; /* image_rows: tiles times tokens of a tile */
    fvlm_texts texts;
    size_t *starts; /* [count + 1] */
    int32_t *tokens, *labels;
    size_t *sources; /* [rows]: of a picture's row, the row of `projected`, or FVLM_NEWLINE */
    /* Buffers of the workspace. */
    uint8_t *pixels; /* [tiles, resolution, resolution, 3] */
    float *tower, *language;
    float *features;                       /* [image_rows, width]; NULL where the tower has its own */
    float *inner[MAX_PROJECTOR_LAYERS][2]; /* [image_rows, hidden]: before and after the GELUs */
    float *projected, *gradient[2];        /* [image_rows, hidden] */
    float *dfeatures;                      /* [image_rows, width] */
    float *dviews[VIEWS];                  /* of the stages among the views: [places, width] */
    float *spread[VIEWS][2];      /* [cells, the finder's inputs] of a view that has many in a place; gradient */
    float *logits, *found[VIEWS]; /* [tiles, outputs]: the classifier's; [cells, outputs]: the finder's */
    struct picture_loss *losses;  /* [tiles] */
};

static size_t tile_bytes(const fvlm_network *network)
{
    return network->engine->config.vision.resolution * network->engine->config.vision.resolution * 3;
}

/* Black pictures stand for those of samples without one, where batch norm sees them, as in the published code. */
static size_t black_tiles(const struct batch *batch, const fvlm_sample *sample)
{
    return batch->network->tower && batch->network->options.batch_statistics && sample->picture_count == 0;
}

static void count_batch(struct batch *batch)
{
    for (size_t i = 0; i < batch->count; i++) {
        const fvlm_sample *sample = &batch->samples[i];
        batch->texts.rows += sample->count;
        for (size_t j = 0; j < sample->picture_count; j++)
            batch->tiles += sample->pictures[j].tiles.count;
        batch->tiles += black_tiles(batch, sample);
    }
    batch->texts.count = batch->count;
    batch->image_rows = batch->tiles * fvlm_engine_tile_tokens(batch->network->engine);
}

/* Rows of all samples one after the other, the tiles likewise. */
static void fill_batch(struct batch *batch)
{
    size_t row = 0, tile = 0, tokens = fvlm_engine_tile_tokens(batch->network->engine);
    for (size_t i = 0; i < batch->count; i++) {
        const fvlm_sample *sample = &batch->samples[i];
        size_t picture = 0, offset = 0;
        batch->starts[i] = row;
        for (size_t r = 0; r < sample->count; r++, row++) {
            batch->tokens[row] = sample->tokens[r];
            batch->labels[row] = sample->labels[r];
            if (sample->tokens[r] >= 0)
                continue;
            const fvlm_picture *shown = &sample->pictures[picture];
            size_t from = shown->index[offset++];
            batch->sources[row] = from == FVLM_NEWLINE ? FVLM_NEWLINE : tile * tokens + from;
            if (offset == shown->count) {
                memcpy(batch->pixels + tile * tile_bytes(batch->network), shown->tiles.pixels,
                       shown->tiles.count * tile_bytes(batch->network));
                tile += shown->tiles.count;
                picture++;
                offset = 0;
            }
        }
        for (size_t black = black_tiles(batch, sample); black > 0; black--)
            memset(batch->pixels + tile++ * tile_bytes(batch->network), 0, tile_bytes(batch->network));
    }
    batch->starts[batch->count] = row;
}

/* Workspace. */

static void cut_logits(struct batch *batch, fvlm_cutter *cutter)
{
    const fvlm_network *network = batch->network;
    const fvlm_label_set *set = network->options.labels;
    size_t outputs = fvlm_class_outputs(&set->marks), cells = batch->tiles * view_places(network, 0);
    batch->losses = fvlm_cut_items(cutter, batch->tiles, sizeof *batch->losses);
    batch->logits = fvlm_cut(cutter, batch->tiles, fvlm_class_outputs(&set->labels));
    for (size_t i = 0; i < VIEWS && outputs > 0; i++) {
        batch->found[i] = fvlm_cut(cutter, cells, outputs);
        for (int j = 0; j < 2 && i > 0; j++)
            batch->spread[i][j] = fvlm_cut(cutter, cells, view_width(network, 0));
        if (i + 1 < VIEWS)
            batch->dviews[i] = fvlm_cut(cutter, batch->tiles * view_places(network, i), view_width(network, i));
    }
}

static void cut(struct batch *batch, fvlm_cutter *cutter)
{
    const fvlm_network *network = batch->network;
    int threads = fvlm_pool_threads(network->engine->pool);
    size_t hidden = network->engine->config.decoder.hidden, width = feature_width(network);
    bool recompute = network->options.recompute;
    batch->pixels = fvlm_cut_items(cutter, batch->tiles, tile_bytes(network));
    if (network->tower) {
        size_t floats = batch->tiles ? fvlm_tower_floats(network->tower, batch->tiles, recompute, threads) : 0;
        batch->tower = fvlm_cut(cutter, 1, floats);
        cutter->overflow |= batch->tiles && floats == 0;
    } else {
        batch->features = fvlm_cut(cutter, batch->image_rows, width);
    }
    if (network->tower)
        batch->dfeatures = fvlm_cut(cutter, batch->image_rows, width);
    if (network->options.labels)
        cut_logits(batch, cutter);
    if (network->options.wordless)
        return;
    for (size_t i = 0; i + 1 < network->projector_layers; i++)
        for (int j = 0; j < 2; j++)
            batch->inner[i][j] = fvlm_cut(cutter, batch->image_rows, hidden);
    batch->projected = fvlm_cut(cutter, batch->image_rows, hidden);
    for (int i = 0; i < 2; i++)
        batch->gradient[i] = fvlm_cut(cutter, batch->image_rows, hidden);
    size_t floats = fvlm_language_floats(network->language, &batch->texts, recompute, threads);
    batch->language = fvlm_cut(cutter, 1, floats);
    cutter->overflow |= floats == 0;
}

/* A workspace that is large enough, which stays for later batches. */
static fvlm_status provide_memory(struct batch *batch, fvlm_error *error)
{
    fvlm_network *network = batch->network;
    fvlm_cutter cutter = {0};
    cut(batch, &cutter);
    if (cutter.overflow)
        return fvlm_fail_memory(error);
    if (cutter.used > network->floats) {
        fvlm_aligned_free(network->memory);
        network->floats = 0;
        network->memory = fvlm_aligned_alloc(cutter.used * sizeof(float));
        if (!network->memory)
            return fvlm_fail(error, FVLM_ERROR_MEMORY,
                             "no memory for a batch of %zu samples with %zu tokens and %zu tiles (%.1f GB): use a "
                             "smaller --batch-size or --gradient-checkpointing",
                             batch->count, batch->texts.rows, batch->tiles, (double)cutter.used * 4e-9);
        network->floats = cutter.used;
    }
    cutter = (fvlm_cutter){.memory = network->memory};
    cut(batch, &cutter);
    return FVLM_OK;
}

/* Projector. */

static void projector_forward(struct batch *batch, const float *features)
{
    const fvlm_network *network = batch->network;
    fvlm_pool *pool = network->engine->pool;
    size_t rows = batch->image_rows, hidden = network->engine->config.decoder.hidden;
    const float *x = features;
    if (network->projector_layers == 0)
        memcpy(batch->projected, features, rows * hidden * sizeof *features);
    for (size_t i = 0; i < network->projector_layers; i++) {
        bool last = i + 1 == network->projector_layers;
        float *y = last ? batch->projected : batch->inner[i][0];
        fvlm_linear_layer_forward(pool, &network->projector[i], x, rows, y, NULL);
        if (!last)
            fvlm_activate_forward(pool, FVLM_ACTIVATION_GELU, y, rows * hidden, batch->inner[i][1]);
        x = batch->inner[i][1];
    }
}

/* From the gradient of `projected` in batch->gradient[0] to that of the features, where somebody wants it; what the
 * classifiers have written there stays in it. */
static void projector_backward(struct batch *batch, const float *features)
{
    const fvlm_network *network = batch->network;
    fvlm_pool *pool = network->engine->pool;
    size_t rows = batch->image_rows, hidden = network->engine->config.decoder.hidden;
    float *dy = batch->gradient[0], *dx = batch->gradient[1];
    for (size_t i = network->projector_layers; i-- > 0;) {
        const float *x = i == 0 ? features : batch->inner[i - 1][1];
        fvlm_linear_layer_backward(pool, &network->projector[i], x, rows, dy, NULL, NULL,
                                   i == 0 ? batch->dfeatures : dx, i == 0 && network->options.labels);
        if (i == 0)
            return;
        fvlm_activate_backward(pool, FVLM_ACTIVATION_GELU, batch->inner[i - 1][0], dx, rows * hidden, dx);
        float *done = dy;
        dy = dx;
        dx = done;
    }
    if (batch->dfeatures && network->options.labels)
        fvlm_add_floats(pool, dy, rows * hidden, batch->dfeatures);
    else if (batch->dfeatures)
        memcpy(batch->dfeatures, dy, rows * hidden * sizeof *dy);
}

/* The run. */

static const float *run_tower(struct batch *batch, const fvlm_tower_pass *pass, bool update)
{
    fvlm_network *network = batch->network;
    fvlm_engine *engine = network->engine;
    if (network->tower)
        return fvlm_tower_forward(pass, update);
    size_t floats = fvlm_engine_tile_tokens(engine) * feature_width(network);
    for (size_t tile = 0; tile < batch->tiles; tile++)
        fvlm_vision_forward(engine->vision, engine->pool, batch->pixels + tile * tile_bytes(network),
                            engine->config.vision.resolution, engine->workspace, batch->features + tile * floats, NULL,
                            NULL);
    return batch->features;
}

/* Rows of pictures from `projected` into x, or back: their gradients from x. */
static void splice(struct batch *batch, float *x)
{
    size_t hidden = batch->network->engine->config.decoder.hidden;
    for (size_t row = 0; row < batch->texts.rows; row++) {
        if (batch->tokens[row] >= 0)
            continue;
        size_t from = batch->sources[row];
        const float *value = from == FVLM_NEWLINE ? batch->network->newline->value : batch->projected + from * hidden;
        memcpy(x + row * hidden, value, hidden * sizeof *x);
    }
}

static void splice_backward(struct batch *batch, const float *dx)
{
    size_t hidden = batch->network->engine->config.decoder.hidden;
    float *newline = batch->network->newline ? batch->network->newline->gradient : NULL;
    memset(batch->gradient[0], 0, batch->image_rows * hidden * sizeof *dx);
    for (size_t row = 0; row < batch->texts.rows; row++) {
        if (batch->tokens[row] >= 0)
            continue;
        size_t from = batch->sources[row];
        float *to = from == FVLM_NEWLINE ? newline : batch->gradient[0] + from * hidden;
        for (size_t k = 0; to && k < hidden; k++)
            to[k] += dx[row * hidden + k];
    }
}

/* All that is known of one picture. */
static void picture_loss_task(void *argument, size_t tile, int thread)
{
    (void)thread;
    const struct batch *batch = argument;
    struct picture_loss *loss = &batch->losses[tile];
    const fvlm_network *network = batch->network;
    const fvlm_label_set *set = network->options.labels;
    const fvlm_classes *classes = &batch->samples[tile].classes;
    size_t grid = FVLM_CELLS_PER_TOKEN * fvlm_engine_side(network->engine), known;
    size_t outputs = fvlm_class_outputs(&set->marks);
    loss->loss = fvlm_labels_loss(&set->labels, batch->logits + tile * fvlm_class_outputs(&set->labels),
                                  classes->labels, &loss->known);
    for (size_t i = 0; i < VIEWS && outputs > 0; i++) {
        loss->loss += fvlm_marks_loss(&set->marks, grid, grid >> i, batch->found[i] + tile * grid * grid * outputs,
                                      classes->cells, &known);
        loss->known += known;
    }
}

/* The classifier of the features, and the finder on all views. `backward` writes the gradients of these. */
static void run_classifiers(struct batch *batch, const fvlm_tower_pass *tower, const float *features, bool backward,
                            fvlm_network_result *result)
{
    const fvlm_network *network = batch->network;
    fvlm_pool *pool = network->engine->pool;
    size_t cells = batch->tiles * view_places(network, 0);
    const float *views[VIEWS];
    for (size_t i = 0; i < VIEWS; i++)
        views[i] = i + 1 < VIEWS ? fvlm_tower_stage(tower, FVLM_STAGES / 2 + i) : features;
    if (network->classifier.weight)
        fvlm_linear_layer_forward(pool, &network->classifier, features, batch->tiles, batch->logits, NULL);
    for (size_t i = 0; i < VIEWS && network->finder.weight; i++) {
        if (i > 0)
            fvlm_linear_layer_forward(pool, &network->spread[i], views[i], batch->tiles * view_places(network, i),
                                      batch->spread[i][0], NULL);
        fvlm_linear_layer_forward(pool, &network->finder, i > 0 ? batch->spread[i][0] : views[0], cells,
                                  batch->found[i], NULL);
    }
    fvlm_pool_run(pool, batch->tiles, picture_loss_task, batch);
    for (size_t tile = 0; tile < batch->tiles; tile++) {
        result->loss += batch->losses[tile].loss;
        result->targets += batch->losses[tile].known;
    }
    if (!backward)
        return;
    memset(batch->dfeatures, 0, batch->image_rows * feature_width(network) * sizeof *batch->dfeatures);
    if (network->classifier.weight)
        fvlm_linear_layer_backward(pool, &network->classifier, features, batch->tiles, batch->logits, NULL, NULL,
                                   batch->dfeatures, true);
    for (size_t i = 0; i < VIEWS && network->finder.weight; i++) {
        float *dview = i + 1 < VIEWS ? batch->dviews[i] : batch->dfeatures;
        const float *x = i > 0 ? batch->spread[i][0] : views[0];
        fvlm_linear_layer_backward(pool, &network->finder, x, cells, batch->found[i], NULL, NULL,
                                   i > 0 ? batch->spread[i][1] : dview, false);
        if (i > 0)
            fvlm_linear_layer_backward(pool, &network->spread[i], views[i], batch->tiles * view_places(network, i),
                                       batch->spread[i][1], NULL, NULL, dview, dview == batch->dfeatures);
    }
}

/* Projector and language model; `backward` gives the gradient of the features too, where the tower is trained. */
static void run_texts(struct batch *batch, const float *features, bool backward, fvlm_network_result *result)
{
    fvlm_network *network = batch->network;
    const fvlm_network_options *options = &network->options;
    fvlm_parameters *parameters = &network->parameters;
    fvlm_group_use(parameters, network->projector_group, 1);
    if (batch->tiles > 0)
        projector_forward(batch, features);
    fvlm_language_pass language = {.language = network->language,
                                   .pool = network->engine->pool,
                                   .texts = &batch->texts,
                                   .recompute = options->recompute,
                                   .memory = batch->language};
    fvlm_language_begin(&language);
    splice(batch, language.x);
    bool before = batch->tiles > 0 && options->trained & (FVLM_PART_VISION | FVLM_PART_PROJECTOR);
    fvlm_language_run(&language, backward, before);
    if (backward)
        fvlm_group_reuse(parameters, network->projector_group);
    if (backward && before) {
        splice_backward(batch, language.x);
        projector_backward(batch, features);
    }
    if (backward)
        fvlm_group_sent(parameters, network->projector_group);
    result->loss += language.loss;
    result->targets += language.targets;
    result->rows = batch->texts.rows;
}

static void run_batch(struct batch *batch, bool backward, fvlm_network_result *result)
{
    fvlm_network *network = batch->network;
    const fvlm_network_options *options = &network->options;
    fvlm_tower_pass tower = {.tower = network->tower,
                             .pool = network->engine->pool,
                             .pictures = batch->tiles,
                             .pixels = batch->pixels,
                             .batch_statistics = options->batch_statistics && backward,
                             .recompute = options->recompute,
                             .memory = batch->tower};
    *result = (fvlm_network_result){.rows = batch->image_rows};
    const float *features = NULL;
    if (batch->tiles > 0)
        features = run_tower(batch, &tower, backward);
    else if (network->tower)
        fvlm_tower_pass_by(network->tower, false);
    if (options->labels)
        run_classifiers(batch, &tower, features, backward, result);
    if (!options->wordless)
        run_texts(batch, features, backward, result);
    if (backward && network->tower && batch->tiles > 0)
        fvlm_tower_backward(&tower, batch->dfeatures, (const float *const *)batch->dviews);
    else if (backward && network->tower)
        fvlm_tower_pass_by(network->tower, true);
}

/* The same on a rank that has no sample. */
static void pass_by(fvlm_network *network, bool backward)
{
    fvlm_parameters *parameters = &network->parameters;
    if (network->tower)
        fvlm_tower_pass_by(network->tower, false);
    fvlm_group_use(parameters, network->projector_group, 1);
    fvlm_language_pass_by(network->language, backward);
    if (!backward)
        return;
    fvlm_groups_pass(parameters, network->projector_group, 1, true);
    if (network->tower)
        fvlm_tower_pass_by(network->tower, true);
}

fvlm_status fvlm_network_run(fvlm_network *network, const fvlm_sample *samples, size_t count, bool backward,
                             fvlm_network_result *result, fvlm_error *error)
{
    struct batch batch = {.network = network, .samples = samples, .count = count};
    count_batch(&batch);
    batch.starts = fvlm_calloc(count + 1, sizeof *batch.starts);
    batch.tokens = fvlm_calloc(batch.texts.rows, sizeof *batch.tokens);
    batch.labels = fvlm_calloc(batch.texts.rows, sizeof *batch.labels);
    batch.sources = fvlm_calloc(batch.texts.rows, sizeof *batch.sources);
    fvlm_status status = FVLM_OK;
    if (!batch.starts || !batch.tokens || !batch.labels || !batch.sources)
        status = fvlm_fail_memory(error);
    batch.texts.starts = batch.starts;
    batch.texts.tokens = batch.tokens;
    batch.texts.labels = batch.labels;
    size_t row = 0;
    for (size_t i = 0; !status && i < count; i++) /* the longest text decides about attention's workspace */
        batch.starts[i + 1] = row += samples[i].count;
    if (!status && count > 0)
        status = provide_memory(&batch, error);
    if (network->shards) /* before any of them waits for the others' parameters */
        status = fvlm_ranks_agree(network->options.ranks, status, error);
    *result = (fvlm_network_result){0};
    if (!status && count == 0) {
        pass_by(network, backward);
    } else if (!status) {
        fvlm_pool_acquire(network->engine->pool);
        fill_batch(&batch);
        run_batch(&batch, backward, result);
        fvlm_pool_release(network->engine->pool);
    }
    free(batch.starts);
    free(batch.tokens);
    free(batch.labels);
    free(batch.sources);
    return status;
}

/* Measuring. */

static size_t count_elements(const fvlm_parameters *set, bool trained)
{
    size_t count = 0;
    for (size_t i = 0; i < set->count; i++)
        count += set->items[i]->trained || !trained ? set->items[i]->count : 0;
    return count;
}

/* Parameters of the tower, which a network that does not train it leaves to the engine. */
static size_t count_tower(const fvlm_vision_config *config, fvlm_loader *loader)
{
    fvlm_parameters set = {.measuring = true, .arena = fvlm_arena_create()};
    if (!set.arena)
        loader->status = fvlm_fail_memory(loader->error);
    fvlm_tower_create(&set, loader, config);
    size_t count = count_elements(&set, false);
    fvlm_parameters_clear(&set);
    return count;
}

fvlm_status fvlm_network_measure(const fvlm_config *config, const fvlm_tensor_table *table,
                                 const fvlm_network_options *options, size_t samples, size_t rows, size_t tiles,
                                 size_t batches, fvlm_pool *pool, fvlm_network_size *size, fvlm_error *error)
{
    fvlm_engine engine = {.config = *config, .pool = pool, .context = rows};
    fvlm_shards shards = {.ranks = options->ranks, .stage = options->stage};
    bool shared = options->ranks && fvlm_ranks_count(options->ranks) > 1;
    fvlm_network network = {.engine = &engine, .options = *options};
    fvlm_parameters *parameters = &network.parameters;
    *parameters = (fvlm_parameters){.measuring = true, .shards = shared ? &shards : NULL};
    fvlm_loader loader = {.table = table, .pool = pool, .error = error};
    create_parts(&network, &loader);
    size_t *starts = fvlm_calloc(samples + 1, sizeof *starts);
    if (!loader.status && !starts)
        loader.status = fvlm_fail_memory(error);
    *size = (fvlm_network_size){.tower = count_tower(&config->vision, &loader)};
    if (!loader.status) {
        struct batch batch = {.network = &network, .count = samples, .tiles = tiles};
        for (size_t i = 0; i <= samples; i++)
            starts[i] = i * rows;
        batch.texts = (fvlm_texts){.count = samples, .rows = samples * rows, .starts = starts};
        batch.image_rows = tiles * fvlm_engine_tile_tokens(&engine);
        fvlm_cutter cutter = {0};
        cut(&batch, &cutter);
        if (cutter.overflow)
            loader.status = fvlm_fail_memory(error);
        size->workspace = cutter.used;
        size->parameters = count_elements(parameters, false) + (network.tower ? 0 : size->tower);
        size->trained = count_elements(parameters, true);
        size->values = parameters->value_bytes;
        size->gradients = parameters->gradient_bytes;
        size->states = parameters->state_bytes;
        size->slots = shared ? fvlm_shards_floats(parameters, shards.stage) : 0;
        uint64_t before = shared ? fvlm_ranks_traffic(options->ranks) : 0;
        for (size_t i = 0; i < batches && shared; i++) {
            shards.complete = i + 1 == batches;
            pass_by(&network, true);
        }
        fvlm_shards_renew(parameters);
        size->traffic = shared ? fvlm_ranks_traffic(options->ranks) - before : 0;
    }
    free(starts);
    fvlm_parameters_clear(parameters);
    return loader.status;
}
