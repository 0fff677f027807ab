/* Samples as rows of the decoder. */
#include "export/calibration.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "kernels/gemm.h"

#define TILE 512 /* rows of a gram that one product adds to */

fvlm_status fvlm_stage(const fvlm_quantize_options *options, const char *stage, uint64_t done, uint64_t total,
                       fvlm_error *error)
{
    if (options->on_stage && !options->on_stage(options->user, stage, done, total))
        return fvlm_fail(error, FVLM_ERROR_IO, "stopped; the same command goes on where it was");
    return FVLM_OK;
}

fvlm_status fvlm_calibration_prompt(fvlm_engine *engine, const fvlm_calibration_sample *sample, fvlm_prompt *prompt,
                                    fvlm_error *error)
{
    fvlm_image **images = fvlm_calloc(sample->image_count + 1, sizeof *images);
    fvlm_status status = images ? FVLM_OK : fvlm_fail_memory(error);
    *prompt = (fvlm_prompt){0};
    for (size_t i = 0; i < sample->image_count && !status; i++)
        status = fvlm_image_open(sample->images[i], &images[i], error);
    if (!status)
        status = fvlm_prompt_prepare(engine, sample->prompt, (const fvlm_image *const *)images, sample->image_count,
                                     prompt, error);
    for (size_t i = 0; images && i < sample->image_count; i++)
        fvlm_image_free(&images[i]);
    free(images);
    if (status)
        return status;
    fvlm_pool_acquire(engine->pool);
    status = fvlm_prompt_encode(engine, prompt, 0, error);
    fvlm_pool_release(engine->pool);
    if (status)
        fvlm_prompt_clear(prompt);
    return status;
}

static fvlm_status add_sample(fvlm_calibration *calibration, const fvlm_calibration_sample *sample, size_t index,
                              fvlm_error *error)
{
    fvlm_prompt prompt;
    size_t hidden = calibration->engine->config.decoder.hidden, rows, bytes;
    fvlm_status status = fvlm_calibration_prompt(calibration->engine, sample, &prompt, error);
    if (status)
        return status;
    float *x = NULL;
    if (fvlm_size_add(calibration->rows, prompt.count, &rows) && fvlm_size_multiply(rows, hidden, &bytes) &&
        fvlm_size_multiply(bytes, sizeof *x, &bytes))
        x = realloc(calibration->x, bytes);
    if (x) {
        calibration->x = x;
        for (size_t i = 0; i < prompt.count; i++)
            fvlm_prompt_embed(calibration->engine, &prompt, i, x + (calibration->rows + i) * hidden);
        calibration->rows = calibration->starts[index + 1] = rows;
    } else {
        status = fvlm_fail_memory(error);
    }
    fvlm_prompt_clear(&prompt);
    return status;
}

fvlm_status fvlm_calibration_open(const fvlm_quantize_options *options, fvlm_engine *engine,
                                  fvlm_calibration *calibration, fvlm_error *error)
{
    size_t longest = 1;
    *calibration = (fvlm_calibration){.engine = engine, .sample_count = options->sample_count};
    calibration->starts = fvlm_calloc(options->sample_count + 1, sizeof *calibration->starts);
    fvlm_status status = calibration->starts ? FVLM_OK : fvlm_fail_memory(error);
    for (size_t i = 0; i < options->sample_count && !status; i++) {
        status = fvlm_stage(options, "calibrating", i, options->sample_count, error);
        if (!status)
            status = add_sample(calibration, &options->samples[i], i, error);
        size_t count = calibration->starts[i + 1] - calibration->starts[i];
        longest = !status && count > longest ? count : longest;
    }
    return status ? status : fvlm_kv_cache_create(engine->decoder, longest, FVLM_F32, &calibration->cache, error);
}

void fvlm_calibration_clear(fvlm_calibration *calibration)
{
    free(calibration->x);
    free(calibration->starts);
    fvlm_kv_cache_destroy(&calibration->cache);
    *calibration = (fvlm_calibration){0};
}

struct observer {
    fvlm_pool *pool;
    const fvlm_grams *grams;
    int kind;         /* index of grams->gram */
    float *transpose; /* [most cols, FVLM_DECODER_ROWS] */
};

/* The lower half of gram += x^T x; what is above it is filled in at the end. */
static void add_gram(void *user, fvlm_linear_input input, const float *x, size_t rows, size_t cols)
{
    struct observer *observer = user;
    float *gram = observer->grams->gram[observer->kind][input], *turned = observer->transpose;
    if (!gram)
        return;
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            turned[c * rows + r] = x[r * cols + c];
    for (size_t i = 0; i < cols; i += TILE) {
        size_t count = cols - i < TILE ? cols - i : TILE;
        fvlm_matrix w = {.type = FVLM_F32, .rows = i + count, .cols = rows, .data = turned};
        fvlm_epilogue epilogue = {.residual = gram + i * cols, .residual_stride = cols};
        fvlm_linear(observer->pool, &w, turned + i * rows, count, rows, gram + i * cols, cols, &epilogue);
    }
}

static void mirror(float *gram, size_t cols)
{
    for (size_t i = 0; gram && i < cols; i++)
        for (size_t j = i + 1; j < cols; j++)
            gram[i * cols + j] = gram[j * cols + i];
}

static void run_sample(fvlm_calibration *calibration, size_t layer, size_t sample, struct observer *observer)
{
    const fvlm_engine *engine = calibration->engine;
    size_t start = calibration->starts[sample], count = calibration->starts[sample + 1] - start;
    int32_t positions[FVLM_DECODER_ROWS];
    for (size_t first = 0; first < count; first += FVLM_DECODER_ROWS) {
        size_t rest = count - first, some = rest < FVLM_DECODER_ROWS ? rest : FVLM_DECODER_ROWS;
        for (size_t i = 0; i < some; i++)
            positions[i] = (int32_t)(first + i);
        fvlm_rows rows = {.count = some, .positions = positions, .first_slot = first};
        float *x = calibration->x + (start + first) * engine->config.decoder.hidden;
        fvlm_decoder_layer(engine->decoder, engine->pool, &calibration->cache, layer, &rows, x, engine->workspace,
                           observer ? add_gram : NULL, observer);
    }
}

bool fvlm_calibration_layer(fvlm_calibration *calibration, size_t layer, const fvlm_grams *grams)
{
    struct observer observer = {.pool = calibration->engine->pool, .grams = grams};
    if (grams) {
        size_t most = 0;
        for (int input = 0; input < FVLM_LINEAR_INPUTS; input++)
            most = grams->cols[input] > most ? grams->cols[input] : most;
        observer.transpose = fvlm_aligned_alloc(most * FVLM_DECODER_ROWS * sizeof(float));
        if (!observer.transpose)
            return false;
    }
    fvlm_pool_acquire(observer.pool);
    for (size_t sample = 0; sample < calibration->sample_count; sample++) {
        observer.kind = fvlm_calibration_held_out(calibration, sample);
        run_sample(calibration, layer, sample, grams ? &observer : NULL);
    }
    fvlm_pool_release(observer.pool);
    for (int kind = 0; grams && kind < 2; kind++)
        for (int input = 0; input < FVLM_LINEAR_INPUTS; input++)
            mirror(grams->gram[kind][input], grams->cols[input]);
    fvlm_aligned_free(observer.transpose);
    return true;
}
