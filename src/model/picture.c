/* A picture's way to embeddings: tiles, tower and projector tile by tile, then the tokens in their merged order. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "model/image_tokens.h"
#include "model/internal.h"

/* FNV-1a over 64-bit words (offset basis and prime of the 64-bit variant), good enough to tell the pictures of one
 * session apart. */
static uint64_t hash_bytes(uint64_t hash, const void *data, size_t bytes)
{
    const uint8_t *from = data;
    for (; bytes >= 8; bytes -= 8, from += 8) {
        uint64_t word;
        memcpy(&word, from, 8);
        hash = (hash ^ word) * 0x100000001b3u;
        hash ^= hash >> 29;
    }
    for (; bytes > 0; bytes--, from++)
        hash = (hash ^ *from) * 0x100000001b3u;
    return hash;
}

static uint64_t picture_key(const fvlm_tiles *tiles)
{
    size_t shape[] = {tiles->count, tiles->size, tiles->columns, tiles->rows, tiles->width, tiles->height};
    uint64_t hash = hash_bytes(0xcbf29ce484222325u, shape, sizeof shape);
    hash = hash_bytes(hash, tiles->pixels, tiles->count * tiles->size * tiles->size * 3);
    return hash ? hash : 1; /* 0 stands for text */
}

fvlm_status fvlm_picture_prepare(fvlm_engine *engine, const fvlm_image *image, fvlm_picture *picture, fvlm_error *error)
{
    const fvlm_config *config = &engine->config;
    fvlm_preprocessing preprocessing = {.mode = config->image_mode,
                                        .size = config->vision.resolution,
                                        .pinpoints = config->pinpoints,
                                        .pinpoint_count = config->pinpoint_count};
    *picture = (fvlm_picture){0};
    fvlm_pool_acquire(engine->pool);
    fvlm_status status = fvlm_preprocess(engine->pool, image, &preprocessing, &picture->tiles, error);
    fvlm_pool_release(engine->pool);
    if (!status)
        status = fvlm_image_token_index(config, &picture->tiles, fvlm_engine_side(engine), &picture->index,
                                        &picture->count, error);
    if (status)
        fvlm_picture_clear(picture);
    else
        picture->key = picture_key(&picture->tiles);
    return status;
}

void fvlm_picture_clear(fvlm_picture *picture)
{
    fvlm_tiles_free(&picture->tiles);
    free(picture->index);
    fvlm_aligned_free(picture->embeddings);
    *picture = (fvlm_picture){0};
}

/* Hands the tower's stages on with the tile they belong to. */
struct tile_observer {
    fvlm_observe_fn observe;
    void *user;
    size_t tile;
};

static void observe_stage(void *user, const char *name, const float *x, size_t height, size_t width, size_t channels)
{
    const struct tile_observer *observer = user;
    char label[48];
    snprintf(label, sizeof label, "vision.%s", name);
    observer->observe(observer->user, label, observer->tile, x, height, width, channels);
}

fvlm_status fvlm_picture_encode(fvlm_engine *engine, fvlm_picture *picture, fvlm_observe_fn observe, void *user,
                                fvlm_error *error)
{
    size_t tokens = fvlm_engine_tile_tokens(engine), width = fvlm_vision_width(engine->vision);
    size_t hidden = engine->config.decoder.hidden, resolution = engine->config.vision.resolution;
    size_t count = picture->tiles.count * tokens;
    float *features = fvlm_aligned_alloc(tokens * width * sizeof *features);
    float *projected = fvlm_aligned_alloc(count * hidden * sizeof *projected);
    picture->embeddings = fvlm_aligned_alloc(picture->count * hidden * sizeof *picture->embeddings);
    if (!features || !projected || !picture->embeddings) {
        fvlm_aligned_free(features);
        fvlm_aligned_free(projected);
        return fvlm_fail_memory(error);
    }
    for (size_t tile = 0; tile < picture->tiles.count; tile++) {
        struct tile_observer observer = {observe, user, tile};
        float *out = projected + tile * tokens * hidden;
        fvlm_vision_forward(engine->vision, engine->pool, picture->tiles.pixels + tile * resolution * resolution * 3,
                            resolution, engine->workspace, features, observe ? observe_stage : NULL, &observer);
        fvlm_projector_forward(engine->projector, engine->pool, features, tokens, engine->workspace, out);
        if (observe) {
            observe(user, "features", tile, features, 1, tokens, width);
            observe(user, "projected", tile, out, 1, tokens, hidden);
        }
    }
    for (size_t i = 0; i < picture->count; i++) {
        size_t from = picture->index[i];
        memcpy(picture->embeddings + i * hidden, from == FVLM_NEWLINE ? engine->newline : projected + from * hidden,
               hidden * sizeof *projected);
    }
    fvlm_aligned_free(features);
    fvlm_aligned_free(projected);
    return FVLM_OK;
}
