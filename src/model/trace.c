/* A trace: one run from scratch with every stage's tensor kept and written to a safetensors file. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "model/internal.h"

#define MAX_TENSORS                                                                                                    \
    64 /* of one picture: pixels, stem, at most 2 + 3 * (stages - 1) parts of network, features, ...                   \
        */

struct tensors {
    fvlm_tensor *list; /* [capacity]; names and data are owned */
    size_t count, capacity;
    size_t picture, tiles; /* being encoded */
    bool failed;
};

static void clear(struct tensors *tensors)
{
    for (size_t i = 0; i < tensors->count; i++) {
        free((char *)tensors->list[i].name);
        fvlm_aligned_free((void *)tensors->list[i].data);
    }
    free(tensors->list);
}

/* Add a tensor with zeroed data; "name.N" from the second picture on. NULL when out of memory. */
static void *add(struct tensors *tensors, const char *name, size_t picture, fvlm_dtype type, int rank,
                 const size_t *shape)
{
    size_t bytes = fvlm_dtype_bytes(type), length = strlen(name) + 32;
    for (int i = 0; i < rank; i++)
        if (!fvlm_size_multiply(bytes, shape[i], &bytes))
            return NULL;
    char *label = malloc(length);
    void *data = fvlm_aligned_alloc(bytes);
    if (!label || !data || tensors->count == tensors->capacity) {
        free(label);
        fvlm_aligned_free(data);
        tensors->failed = true;
        return NULL;
    }
    if (picture == 0)
        snprintf(label, length, "%s", name);
    else
        snprintf(label, length, "%s.%zu", name, picture);
    fvlm_tensor *tensor = &tensors->list[tensors->count++];
    *tensor = (fvlm_tensor){.name = label, .type = type, .rank = rank, .bytes = bytes, .data = data};
    memcpy(tensor->shape, shape, (size_t)rank * sizeof *shape);
    return data;
}

/* The tensor of this stage and picture, which the first tile adds. */
static float *stage_data(struct tensors *tensors, const char *name, size_t tile, int rank, const size_t *shape)
{
    if (tile == 0)
        return add(tensors, name, tensors->picture, FVLM_F32, rank, shape);
    char label[64];
    snprintf(label, sizeof label, tensors->picture ? "%s.%zu" : "%s", name, tensors->picture);
    for (size_t i = tensors->count; i-- > 0;)
        if (strcmp(tensors->list[i].name, label) == 0)
            return (float *)tensors->list[i].data;
    return NULL;
}

/* Tokens as they are, [tiles, tokens, channels]; pictures channels first, [tiles, channels, height, width]. */
static void observe(void *user, const char *name, size_t tile, const float *x, size_t height, size_t width,
                    size_t channels)
{
    struct tensors *tensors = user;
    bool tokens = strncmp(name, "vision.", 7) != 0;
    size_t flat[] = {tensors->tiles, width, channels}, planes[] = {tensors->tiles, channels, height, width};
    float *data = stage_data(tensors, name, tile, tokens ? 3 : 4, tokens ? flat : planes);
    size_t pixels = height * width;
    if (!data)
        return;
    data += tile * pixels * channels;
    if (tokens) {
        memcpy(data, x, pixels * channels * sizeof *x);
        return;
    }
    for (size_t c = 0; c < channels; c++)
        for (size_t i = 0; i < pixels; i++)
            data[c * pixels + i] = x[i * channels + c];
}

struct logits {
    fvlm_engine *engine;
    float *data, *workspace; /* [positions, vocabulary] */
};

static void add_logits(void *user, size_t first, size_t rows, const float *x)
{
    struct logits *logits = user;
    const fvlm_decoder_config *config = &logits->engine->config.decoder;
    fvlm_decoder_logits(logits->engine->decoder, logits->engine->pool, x, rows,
                        logits->data + first * config->vocabulary, logits->workspace);
}

static fvlm_status trace_picture(fvlm_engine *engine, fvlm_picture *picture, size_t index, struct tensors *tensors,
                                 fvlm_error *error)
{
    const fvlm_tiles *tiles = &picture->tiles;
    size_t shape[] = {tiles->count, tiles->size, tiles->size, 3};
    bool one = tiles->count == 1;
    void *pixels = add(tensors, "pixels", index, FVLM_U8, one ? 3 : 4, one ? shape + 1 : shape);
    tensors->picture = index;
    tensors->tiles = tiles->count;
    if (!pixels)
        return fvlm_fail_memory(error);
    memcpy(pixels, tiles->pixels, tiles->count * tiles->size * tiles->size * 3);
    fvlm_status status = fvlm_picture_encode(engine, picture, observe, tensors, error);
    return !status && tensors->failed ? fvlm_fail_memory(error) : status;
}

static fvlm_status trace_prompt(fvlm_session *session, fvlm_prompt *prompt, const char *path, fvlm_error *error)
{
    fvlm_engine *engine = session->engine;
    struct tensors tensors = {.capacity = prompt->picture_count * MAX_TENSORS + 1};
    tensors.list = fvlm_calloc(tensors.capacity, sizeof *tensors.list);
    if (!tensors.list)
        return fvlm_fail_memory(error);
    fvlm_status status = FVLM_OK;
    for (size_t i = 0; i < prompt->picture_count && !status; i++)
        status = trace_picture(engine, &prompt->pictures[i], i, &tensors, error);
    if (!status) {
        size_t shape[] = {prompt->count, engine->config.decoder.vocabulary};
        struct logits logits = {.engine = engine, .data = add(&tensors, "logits", 0, FVLM_F32, 2, shape)};
        logits.workspace = fvlm_aligned_alloc(FVLM_DECODER_ROWS * engine->config.decoder.hidden * sizeof(float));
        if (logits.data && logits.workspace)
            fvlm_session_run(session, prompt, 0, add_logits, &logits);
        else
            status = fvlm_fail_memory(error);
        fvlm_aligned_free(logits.workspace);
    }
    if (!status)
        status = fvlm_safetensors_write(path, tensors.list, tensors.count, error);
    clear(&tensors);
    return status;
}

fvlm_status fvlm_session_trace(fvlm_session *session, const char *prompt_text, const fvlm_image *const *images,
                               size_t image_count, const char *path, fvlm_error *error)
{
    fvlm_prompt prompt;
    fvlm_status status = fvlm_prompt_prepare(session->engine, prompt_text, images, image_count, &prompt, error);
    if (status)
        return status;
    fvlm_pool_acquire(session->engine->pool);
    status = trace_prompt(session, &prompt, path, error);
    fvlm_pool_release(session->engine->pool);
    fvlm_prompt_clear(&prompt);
    return status;
}
