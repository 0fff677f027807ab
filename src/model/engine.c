/* Opening and closing an engine: config, weights, tokenizer, pool, workspace. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cpu.h"
#include "model/internal.h"
#include "text/tokenizer.h"

#define DEFAULT_CONTEXT 8192 /* positions: the published models' tokenizer_model_max_length */

const char *fvlm_version(void)
{
    return FVLM_VERSION;
}

static fvlm_status apply_options(const fvlm_engine_options *options, fvlm_engine *engine, fvlm_error *error)
{
    fvlm_config *config = &engine->config;
    engine->precision = options->precision == FVLM_PRECISION_AUTO ? fvlm_vision_fastest() : options->precision;
    if (options->resolution < 0 || options->resolution % FVLM_VISION_STRIDE != 0 || options->resolution > 4096)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "resolution %d is not a multiple of %d up to 4096",
                         options->resolution, FVLM_VISION_STRIDE);
    if (options->resolution > 0 && config->image_mode == FVLM_IMAGE_ANYRES &&
        (size_t)options->resolution != config->vision.resolution)
        return fvlm_fail(error, FVLM_ERROR_UNSUPPORTED,
                         "this checkpoint cuts pictures into tiles of %zu: its resolution cannot be changed",
                         config->vision.resolution);
    if (options->resolution > 0)
        config->vision.resolution = (size_t)options->resolution;
    if (options->context < 0 || (size_t)options->context > config->decoder.positions)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "context %d: this model has 1 to %zu positions", options->context,
                         config->decoder.positions);
    engine->context = options->context > 0                          ? (size_t)options->context
                      : config->decoder.positions < DEFAULT_CONTEXT ? config->decoder.positions
                                                                    : DEFAULT_CONTEXT;
    return FVLM_OK;
}

static fvlm_status load_model(fvlm_engine *engine, fvlm_error *error)
{
    const fvlm_config *config = &engine->config;
    engine->arena = fvlm_arena_create();
    if (!engine->arena)
        return fvlm_fail_memory(error);
    fvlm_loader loader = {.table = engine->source->table,
                          .arena = engine->arena,
                          .pool = engine->pool,
                          .quantized_bits = config->quantized_bits,
                          .quantized_group = config->quantized_group,
                          .error = error};
    engine->vision = fvlm_vision_load(&loader, &config->vision, engine->precision);
    if (engine->vision)
        engine->projector =
            fvlm_projector_load(&loader, config, fvlm_vision_width(engine->vision), config->decoder.hidden);
    engine->vision_parameters = loader.parameters;
    static const fvlm_dtype inputs[] = {
        [FVLM_PRECISION_FP32] = FVLM_F32, [FVLM_PRECISION_BF16] = FVLM_BF16, [FVLM_PRECISION_INT8] = FVLM_I8};
    engine->decoder = fvlm_decoder_load(&loader, &config->decoder, engine->context, inputs[engine->precision]);
    if (config->image_mode == FVLM_IMAGE_ANYRES && config->merge == FVLM_MERGE_SPATIAL_UNPAD)
        engine->newline = fvlm_load_vector(&loader, config->decoder.hidden, "model.image_newline");
    engine->language_parameters = loader.parameters - engine->vision_parameters;
    engine->weight_bytes = loader.bytes;
    return loader.status;
}

static const fvlm_dtype kv_types[] = {[FVLM_KV_FP32] = FVLM_F32, [FVLM_KV_BF16] = FVLM_BF16, [FVLM_KV_INT8] = FVLM_I8};

/* Where inputs of layers are rounded and weights have been, keys and values may be as well. */
static fvlm_dtype choose_kv_type(const fvlm_engine *engine, fvlm_kv_type asked)
{
    if (asked != FVLM_KV_AUTO)
        return kv_types[asked];
    bool rounded = engine->precision != FVLM_PRECISION_FP32 && fvlm_decoder_weights(engine->decoder) != FVLM_F32;
    return rounded ? FVLM_BF16 : FVLM_F32;
}

static fvlm_status add_end_token(fvlm_engine *engine, fvlm_error *error)
{
    fvlm_config *config = &engine->config;
    int32_t id = config->end_text[0] ? fvlm_tokenizer_special(engine->tokenizer, config->end_text) : -1;
    if (id >= 0 && !fvlm_engine_is_end(engine, id) && config->end_token_count < FVLM_MAX_END_TOKENS)
        config->end_tokens[config->end_token_count++] = id;
    if (config->end_token_count == 0)
        return fvlm_fail(error, FVLM_ERROR_FORMAT,
                         "no end-of-sequence token: neither config.json nor generation_config.json has eos_token_id, "
                         "nor tokenizer_config.json eos_token");
    return FVLM_OK;
}

/* One workspace for whatever runs: tower, projector or decoder. */
static fvlm_status allocate_workspace(fvlm_engine *engine, fvlm_error *error)
{
    int threads = fvlm_pool_threads(engine->pool);
    size_t tower = fvlm_vision_workspace(engine->vision, engine->config.vision.resolution);
    size_t projector = fvlm_projector_workspace(engine->projector, fvlm_engine_tile_tokens(engine));
    size_t decoder = FVLM_DECODER_ROWS * engine->config.decoder.hidden + /* the rows themselves */
                     fvlm_decoder_workspace(engine->decoder, FVLM_DECODER_ROWS, engine->context, threads);
    size_t most = tower > projector ? tower : projector;
    most = most > decoder ? most : decoder;
    engine->workspace = most > SIZE_MAX / sizeof(float) ? NULL : fvlm_aligned_alloc(most * sizeof(float));
    if (engine->workspace)
        fvlm_prefer_large_pages(engine->workspace, tower * sizeof(float));
    return engine->workspace ? FVLM_OK : fvlm_fail_memory(error);
}

/* The two halves of opening a model, side by side: reading the tokenizer keeps one processor busy. */
struct opening {
    fvlm_engine *engine;
    fvlm_status status[2];
    fvlm_error error[2];
};

static void open_half(void *argument, size_t index, int thread)
{
    struct opening *opening = argument;
    fvlm_engine *engine = opening->engine;
    fvlm_error *error = &opening->error[index];
    (void)thread;
    opening->status[index] =
        index == 0 ? load_model(engine, error) : fvlm_tokenizer_read(&engine->source->files, &engine->tokenizer, error);
}

static fvlm_status open_halves(fvlm_engine *engine, fvlm_error *error)
{
    struct opening opening = {.engine = engine};
    fvlm_pool *pair;
    fvlm_status status = fvlm_pool_create(fvlm_pool_threads(engine->pool) > 1 ? 2 : 1, &pair, error);
    if (status)
        return status;
    fvlm_pool_run(pair, 2, open_half, &opening);
    fvlm_pool_destroy(&pair);
    for (int i = 0; i < 2 && !status; i++) {
        status = opening.status[i];
        if (status && error)
            *error = opening.error[i];
    }
    return status;
}

fvlm_status fvlm_engine_open(const fvlm_engine_options *options, fvlm_engine **out, fvlm_error *error)
{
    *out = NULL;
    if (!options->model || !options->model[0])
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "no model given");
    fvlm_engine *engine = fvlm_calloc(1, sizeof *engine);
    if (!engine)
        return fvlm_fail_memory(error);
    fvlm_status status = fvlm_source_open(options->model, &engine->source, error);
    if (!status) {
        engine->config = engine->source->config;
        status = apply_options(options, engine, error);
    }
    if (!status)
        status = fvlm_pool_create(options->threads > 0 ? options->threads : fvlm_cpu_count(), &engine->pool, error);
    if (!status)
        status = open_halves(engine, error);
    if (!status) {
        engine->kv_type = choose_kv_type(engine, options->kv_type);
        status = add_end_token(engine, error);
    }
    if (!status)
        status = allocate_workspace(engine, error);
    if (status)
        fvlm_engine_close(&engine);
    *out = engine;
    return status;
}

void fvlm_engine_close(fvlm_engine **engine)
{
    fvlm_engine *old = *engine;
    if (!old)
        return;
    fvlm_pool_destroy(&old->pool);
    fvlm_aligned_free(old->workspace);
    fvlm_tokenizer_close(&old->tokenizer);
    fvlm_source_close(&old->source);
    fvlm_arena_destroy(&old->arena);
    free(old);
    *engine = NULL;
}

bool fvlm_engine_is_end(const fvlm_engine *engine, int32_t token)
{
    for (size_t i = 0; i < engine->config.end_token_count; i++)
        if (engine->config.end_tokens[i] == token)
            return true;
    return false;
}

const fvlm_tokenizer *fvlm_engine_tokenizer(const fvlm_engine *engine)
{
    return engine->tokenizer;
}

void fvlm_engine_describe(const fvlm_engine *engine, fvlm_engine_info *info)
{
    static const char *const precisions[] = {
        [FVLM_PRECISION_FP32] = "fp32", [FVLM_PRECISION_BF16] = "bf16", [FVLM_PRECISION_INT8] = "int8"};
    const fvlm_config *config = &engine->config;
    const char *kv_type = engine->kv_type == FVLM_F32 ? "fp32" : engine->kv_type == FVLM_BF16 ? "bf16" : "int8";
    *info = (fvlm_engine_info){.layout = engine->source->layout,
                               .precision = precisions[engine->precision],
                               .kv_type = kv_type,
                               .isa = fvlm_cpu_level_name(fvlm_cpu_flags()),
                               .threads = fvlm_pool_threads(engine->pool),
                               .resolution = (int)config->vision.resolution,
                               .tokens_per_tile = (int)fvlm_engine_tile_tokens(engine),
                               .context = (int)engine->context,
                               .hidden = (int)config->decoder.hidden,
                               .layers = (int)config->decoder.layers,
                               .heads = (int)config->decoder.heads,
                               .kv_heads = (int)config->decoder.kv_heads,
                               .vocabulary = (int)config->decoder.vocabulary,
                               .vision_parameters = engine->vision_parameters,
                               .language_parameters = engine->language_parameters,
                               .weight_bytes = engine->weight_bytes};
}
